"""Dialogues of each split to rows: prepared on disk, or as a stream."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from datasets import DatasetDict, Features, Value

from ..dataset_script import dialogues
from ..dataset_script.dialogues import SPLITS, Dialogue, Note
from ..settings import DataArguments
from .prepared import prepare_rows

FEATURES: Features = dialogues.FEATURES
# The cache is renewed when the code changes.
CODE = hashlib.sha256(
    dialogues.CODE
    + b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py")))
).digest()

ReadSplit = Callable[[Note], Iterator[Dialogue]]


def prepare(
    readers: dict[str, ReadSplit], key: str, args: DataArguments
) -> tuple[DatasetDict, dict[str, dict]]:
    """Check all dialogues, then write the rows of each split that has some.

    With train alone, each dialogue goes where its hash says.

    Args:
        readers: by split, in its order.
        key: changes with what they read.

    Returns:
        The rows, and by split of the source what `scan` returns.
    """
    features = FEATURES
    if "rejected" in args.column_names():
        readers = {split: partial(_read_preferences, read) for split, read in readers.items()}
        features = Features(FEATURES | {"rejected": Value("string")})
    pairs: Counter = Counter()
    problems = {
        split: dialogues.scan(read, split if is_official(readers) else None, pairs)
        for split, read in readers.items()
    }
    rows = {}
    for split, read_rows in stream(readers, args).items():
        if pairs[split]:
            content = f"{key} {split} {is_official(readers)} {args.detokenize}"
            fingerprint = hashlib.sha256(CODE + content.encode()).hexdigest()[:32]
            rows[split] = prepare_rows(read_rows, features, args, split, fingerprint)
    return DatasetDict(rows), problems


def stream(
    readers: dict[str, ReadSplit], args: DataArguments
) -> dict[str, Callable[[], Iterator[dict]]]:
    """For each split a function that reads its rows from the first one on."""
    splits = readers if is_official(readers) else SPLITS
    return {split: partial(_rows, readers, split, args.detokenize) for split in splits}


def _read_preferences(read: ReadSplit, note: Note) -> Iterator[Dialogue]:
    """Read dialogues, of whose pairs those are left that have a rejected reply.

    The others are noted with the number of their dialogue: not every form has lines.
    """
    for number, dialogue in enumerate(read(note), 1):
        pairs = [pair for pair in dialogue.pairs if "rejected" in pair.labels]
        for _ in range(len(dialogue.pairs) - len(pairs)):
            note("no_rejected", number)
        yield dialogue._replace(pairs=pairs)


def is_official(readers: dict) -> bool:
    """Whether the splits are kept, and not made by the hash of each dialogue."""
    return set(readers) != {"train"}


def _rows(readers: dict[str, ReadSplit], split: str, detokenize: bool) -> Iterator[dict]:
    read = readers[split if is_official(readers) else "train"]
    said = read(lambda kind, number: None)
    for row in dialogues.make_rows(said, split, is_official(readers), detokenize):
        if detokenize and "rejected" in row:
            row["rejected"] = dialogues.detokenize(row["rejected"])
        yield row
