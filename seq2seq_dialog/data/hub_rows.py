"""A data set on the Hub, or a folder of its files, to (context, response) rows.

It may hold rows already, as `publish-data` makes them, or whole dialogues, of which rows become as
the dataset script makes them of text. Nothing that comes with it is run.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from datasets import (
    Dataset,
    DatasetDict,
    Features,
    LargeList,
    List,
    NamedSplit,
    Value,
    load_dataset_builder,
)
from datasets import load_dataset as load_from_hub
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from ..dataset_script import dialogues
from ..dataset_script.dialogues import END, FIRST_LINES, LABELS, SPLITS, split_of
from ..errors import UsageError
from ..hub_errors import translated_errors

FEATURES: Features = dialogues.Dialogues._info(None).features
NAMES = {"dev": "validation", "valid": "validation", "val": "validation"}
DIALOGUES = ("dialog", "dialogue", "utterances", "turns", "messages")  # columns of whole ones
FORMS = (
    "either rows, `context` (a list of strings) and `response` (a string), or whole dialogues, a "
    f"column named {', '.join(DIALOGUES[:-1])} or {DIALOGUES[-1]} with lists of strings or of "
    "messages {role, content}"
)
READ = 1000  # rows or dialogues at a time
_BREAK = re.compile(f"[\t-\r\x1c-\x1f\x85]|{END}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_ODD = re.compile("[\x00-\t\v\f\x0e-\x1f\x7f-\x9f]")  # of these all but line ends
CODE = dialogues.CODE + hashlib.sha256(Path(__file__).read_bytes()).digest()
Note = Callable[[str, int], None]  # called with a kind of problem and the number of the row


class Pair(NamedTuple):
    """A context, the utterance that answers it, and its labels."""

    context: list[str]
    response: str
    labels: dict[str, int | None]


class Dialogue(NamedTuple):
    """Pairs that follow one another, and all that is said in them."""

    name: str
    utterances: list[str]
    pairs: list[Pair]


Reader = Callable[[Dataset, str, Note], Iterator[Dialogue]]


def load_hub_rows(
    name: str, revision: str = "main", detokenize: bool = True, cache_dir: str | None = None
) -> tuple[DatasetDict, dict]:
    """Read a data set on the Hub to rows with the columns and types of the dataset script's.

    A data set with train alone is split like a single text file, by the hash of each dialogue. Rows
    belong to one dialogue when they have the same `dialogue_id` or, without that column, when the
    context of each ends in what was said up to the one before; `turn` counts them.

    Args:
        name: `user/name`, or a folder with such files.
        revision: a branch, a tag or a commit.
        detokenize: write natural text from spaced tokens.
        cache_dir: where prepared data is kept.

    Returns:
        The splits, and for each split of the source what it holds and what is odd in it:
        `dialogues`, `utterances`, `pairs`, and for each kind of problem `count` and `first_lines`
        of rows, from 1 on.

    Raises:
        UsageError: it cannot be had, its columns are not understood, or it has no train split.
    """
    source = _source(fetch(name, revision, cache_dir), name)
    read = _reader(source["train"].features, name)
    hashed = set(source) == {"train"}
    pairs: Counter = Counter()
    problems = {
        split: _scan(read, rows, split, name, hashed, pairs) for split, rows in source.items()
    }
    made = {}
    for split in SPLITS if hashed else source:
        if pairs[split]:
            rows = source["train" if hashed else split]
            key = f"{rows._fingerprint} {split} {hashed} {detokenize}"
            made[split] = Dataset.from_generator(
                partial(_generate, read, rows, split, hashed, detokenize),
                features=FEATURES,
                cache_dir=cache_dir,
                split=NamedSplit(split),
                fingerprint=hashlib.sha256(CODE + key.encode()).hexdigest()[:32],
            )
    return DatasetDict(made), problems


def open_hub_rows(
    name: str, revision: str = "main", detokenize: bool = True, cache_dir: str | None = None
) -> tuple[dict[str, Callable[[], Iterator[dict]]], str]:
    """Open a data set on the Hub to be read as a stream; see `load_hub_rows`.

    Returns:
        What reads the rows of each split from the first one on, and a key that changes with them.

    Raises:
        UsageError: as `load_hub_rows`; also while rows are read.
    """
    with _reading(name, revision):
        commit = None if os.path.isdir(name) else _commit(name, revision)
        builder = load_dataset_builder(name, revision=commit, cache_dir=cache_dir)
        found = {
            split: rows if rows.features is not None else rows._resolve_features()
            for split, rows in builder.as_streaming_dataset().items()
        }
    source = _source(found, name)
    read = _reader(source["train"].features, name)
    hashed = set(source) == {"train"}
    about = (name, revision, detokenize, read, source)
    rows = {split: partial(_read_split, *about, split) for split in (SPLITS if hashed else source)}
    key = f"{CODE.hex()} {builder.hash} {builder.config_id} {commit}"
    return rows, key


def _read_split(
    name: str, revision: str, detokenize: bool, read: Reader, source: dict, split: str
) -> Iterator[dict]:
    hashed = set(source) == {"train"}
    rows = source["train" if hashed else split]
    with _reading(name, revision):
        yield from _generate(read, rows, split, hashed, detokenize)


def fetch(name: str, revision: str, cache_dir: str | None = None) -> DatasetDict:
    """Load a data set as it is on the Hub or, without network, as it was fetched from there before.

    Raises:
        UsageError: says why it cannot be had, and what to do.
    """
    with _reading(name, revision):
        if os.path.isdir(name):
            return load_from_hub(name, cache_dir=cache_dir)
        # Where `datasets` cannot have a revision, it takes any other that is cached.
        commit = _commit(name, revision)
        found = load_from_hub(name, revision=revision, cache_dir=cache_dir)
    for rows in found.values():
        if not all(commit in Path(file["filename"]).parts for file in rows.cache_files):
            raise UsageError(
                f"dataset_name {name!r} cannot be loaded: there is no connection to the Hub, and "
                f"what was fetched last is not its revision {revision!r}. Try again with one."
            )
    return found


def _reading(name: str, revision: str):
    """Say in one UsageError what keeps a data set from being read."""
    if os.path.isfile(name):
        raise UsageError(
            f"dataset_name {name!r} is a file, but has to be a data set on the Hub, user/name, or "
            "a folder of its files. Give dialogue text as data."
        )
    return translated_errors(
        name,
        failure=f"dataset_name {name!r} cannot be loaded",
        remedy="Give user/name, or a folder of Parquet or JSON files, or try again.",
        revision=revision,
    )


def _source(found: dict, name: str) -> dict:
    """Choose the splits that are read, under their usual names.

    Raises:
        UsageError: there is no train split.
    """
    found = {NAMES[split]: found[split] for split in NAMES if split in found} | found
    if "train" not in found:
        raise UsageError(
            f"dataset_name {name!r} has the splits {', '.join(found)}, but one must be called "
            "train. Rename the one to train on."
        )
    return {split: found[split] for split in SPLITS if split in found}


def _commit(name: str, revision: str) -> str:
    """The commit of a revision: now or, without network, when it was last fetched."""
    try:
        return HfApi().dataset_info(name, revision=revision).sha
    except (HTTPError, OfflineModeIsEnabled) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
            raise
        kept = try_to_load_from_cache(name, "README.md", repo_type="dataset", revision=revision)
        if not isinstance(kept, str):
            raise ConnectionError(str(error)) from error
        return Path(kept).parent.name


def _reader(features: Features, name: str) -> Reader:
    """Choose how to read a data set by its columns.

    Raises:
        UsageError: they are not understood.
    """

    def text(feature) -> bool:
        return isinstance(feature, Value) and feature.dtype in ("string", "large_string")

    def items(feature):
        return feature.feature if isinstance(feature, List | LargeList) else None

    if text(items(features.get("context"))) and text(features.get("response")):
        return _read_rows
    for column in DIALOGUES:
        item = items(features.get(column))
        if text(item):
            return partial(_read_dialogues, column)
        if isinstance(item, dict) and text(item.get("role")) and text(item.get("content")):
            return partial(_read_dialogues, column)
    there = ", ".join(f"{column} ({feature})" for column, feature in features.items())
    raise UsageError(
        f"dataset_name {name!r} has the columns {there}, but needs {FORMS}. Rename or convert "
        "them, or write the dialogues to a text file and give it as data."
    )


def _values(rows: Dataset, columns: list[str]) -> Iterator[tuple[int, dict]]:
    """Yield numbered rows, some columns of them, a few in memory at a time."""
    tables = rows.select_columns(columns).with_format("arrow").iter(READ)
    yield from enumerate((row for table in tables for row in table.to_pylist()), 1)


@lru_cache(1 << 14)  # an utterance comes again in every context after it
def _clean(text: str | None) -> str:
    """An utterance without what the dataset script, too, takes out of one."""
    return _CONTROL.sub("", _BREAK.sub(" ", text or "")).strip()


def _odd(texts: list[str | None]) -> Iterator[str]:
    """Yield what is odd in utterances of a row, each kind once."""
    whole = " ".join(filter(None, texts))
    if _ODD.search(whole):
        yield "control_character"
    if END in whole:
        yield "eou_inside"


def _read_dialogues(column: str, rows: Dataset, split: str, note: Note) -> Iterator[Dialogue]:
    for number, row in _values(rows, [column]):
        turns = row[column] or []
        if turns and isinstance(turns[0], dict):
            said = [turn for turn in turns if turn["role"] not in ("system", "developer")]
            if len(said) < len(turns):
                note("system_message", number)
            turns = [turn["content"] for turn in said]
        for kind in _odd(turns):
            note(kind, number)
        utterances = [text for text in map(_clean, turns) if text]
        if len(utterances) < len(turns):
            note("empty_utterance", number)
        if len(utterances) < 2:
            note("under_two_utterances", number)
        pairs = [
            Pair(utterances[:turn], utterances[turn], {}) for turn in range(1, len(utterances))
        ]
        yield Dialogue(f"{split}:{number}", utterances, pairs)


def _read_rows(rows: Dataset, split: str, note: Note) -> Iterator[Dialogue]:
    labels = [name for name in LABELS if rows.features.get(name) == FEATURES[name]]
    named = "dialogue_id" in rows.features
    dialogue = None
    for number, row in _values(rows, ["context", "response", *labels, *["dialogue_id"] * named]):
        texts = row["context"] or []
        for kind in _odd([*texts, row["response"]]):
            note(kind, number)
        context = [text for text in map(_clean, texts) if text]
        response = _clean(row["response"])
        if len(context) < len(texts):
            note("empty_utterance", number)
        if not context or not response:
            note("empty_response" if context else "empty_context", number)
            continue
        name = str(row["dialogue_id"]) if named else f"{split}:{number}"
        if named:
            goes_on = dialogue is not None and dialogue.name == name
        else:
            goes_on = dialogue is not None and dialogue.utterances[-len(context) :] == context
        if not goes_on:
            if dialogue is not None:
                yield dialogue
            dialogue = Dialogue(name, list(context), [])
        dialogue.utterances.append(response)
        dialogue.pairs.append(Pair(context, response, {label: row[label] for label in labels}))
    if dialogue is not None:
        yield dialogue


def _scan(read: Reader, rows: Dataset, split: str, name: str, hashed: bool, pairs: Counter) -> dict:
    """Count what a split holds and what is odd in it; add its pairs to `pairs`, by split.

    Raises:
        UsageError: rows of one dialogue do not follow one another.
    """
    total = {"dialogues": 0, "utterances": 0, "pairs": 0}
    kinds: dict[str, dict] = {}
    names = set()

    def note(kind: str, number: int) -> None:
        entry = kinds.setdefault(kind, {"count": 0, "first_lines": []})
        entry["count"] += 1
        if len(entry["first_lines"]) < FIRST_LINES:
            entry["first_lines"].append(number)

    for dialogue in read(rows, split, note):
        if dialogue.name in names:
            raise UsageError(
                f"dataset_name {name!r}: the {split} rows of dialogue_id {dialogue.name!r} do not "
                "follow one another, so that their dialogue cannot be kept in one split. Sort them "
                "by dialogue, or leave that column out."
            )
        names.add(dialogue.name)
        total["dialogues"] += 1
        total["utterances"] += len(dialogue.utterances)
        total["pairs"] += len(dialogue.pairs)
        pairs[split_of(dialogue.utterances) if hashed else split] += len(dialogue.pairs)
    return {**total, **kinds}


def _generate(
    read: Reader, rows: Dataset, split: str, hashed: bool, detokenize: bool
) -> Iterator[dict]:
    written = lru_cache(1 << 14)(dialogues.detokenize) if detokenize else str
    no_labels = dict.fromkeys(LABELS)
    for dialogue in read(rows, "train" if hashed else split, lambda kind, number: None):
        if hashed and split_of(dialogue.utterances) != split:
            continue
        for turn, (context, response, labels) in enumerate(dialogue.pairs, 1):
            yield {
                "dialogue_id": dialogue.name,
                "turn": turn,
                "context": [written(text) for text in context],
                "response": written(response),
                **no_labels,
                **labels,
            }
