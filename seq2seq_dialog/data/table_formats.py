"""A data set on the Hub, or a folder of its files, to (context, response) rows.

Such a data set holds rows already, as `publish-data` makes them, or whole dialogues, which become
rows as the lines of a text do. Code that comes with it is not run.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

from datasets import Dataset, DatasetDict, Features, LargeList, List, NamedSplit, Value
from datasets import load_dataset as load_from_hub
from datasets import load_dataset_builder as load_builder_from_hub
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from ..dataset_script import dialogues
from ..dataset_script.dialogues import END, LABELS, SPLITS, Dialogue, Note, Pair
from ..dataset_script.sources import SPLIT_NAMES
from ..errors import UsageError
from ..hub_errors import translated_errors
from ..settings import DataArguments

FEATURES: Features = dialogues.Dialogues._info(None).features
DIALOGUES = ("dialog", "dialogue", "utterances", "turns", "messages")  # columns of whole ones
FORMS = (
    "either rows, `context` (a list of strings) and `response` (a string), or whole dialogues, a "
    f"column named {', '.join(DIALOGUES[:-1])} or {DIALOGUES[-1]} with lists of strings or of "
    "messages {role, content}"
)
ROWS_READ = 1000  # rows or dialogues at a time
CODE = dialogues.CODE + hashlib.sha256(Path(__file__).read_bytes()).digest()
Splits = dict[str, Dataset]  # of a stream, IterableDataset
Reader = Callable[[Dataset, str, Note], Iterator[Dialogue]]  # rows of a split, its name


def load_table_rows(args: DataArguments) -> tuple[DatasetDict, dict]:
    """Read `dataset_name` to rows with the columns and types of the dataset script's.

    A data set with train alone is split like a single text file, by the hash of each dialogue. Rows
    belong to one dialogue when they have the same `dialogue_id` or, without that column, when the
    context of each ends in what was said up to the one before; `turn` counts them.

    Returns:
        The splits, and for each split of the source what `scan` returns; its `first_lines` are the
        numbers of rows, from 1 on.
    """
    name, detokenize = args.dataset_name, args.detokenize
    source = _source(_fetch(name, args.dataset_revision or "main", args.data_cache), name)
    reader = _reader(source["train"].features, name)
    pairs: Counter = Counter()
    problems = {}
    for split, rows in source.items():
        read = partial(_read_unbroken, reader, name, rows, split)
        problems[split] = dialogues.scan(read, split if _is_official(source) else None, pairs)
    result = {}
    for split in source if _is_official(source) else SPLITS:
        if pairs[split]:
            fingerprint = source.get(split, source["train"])._fingerprint
            key = f"{fingerprint} {split} {_is_official(source)} {detokenize}"
            result[split] = Dataset.from_generator(
                partial(_rows, reader, source, split, detokenize),
                features=FEATURES,
                cache_dir=args.data_cache,
                split=NamedSplit(split),
                fingerprint=hashlib.sha256(CODE + key.encode()).hexdigest()[:32],
            )
    return DatasetDict(result), problems


def open_table_rows(args: DataArguments) -> tuple[dict[str, Callable[[], Iterator[dict]]], str]:
    """Open `dataset_name` as a stream: a reader of each split, and a key that changes with them."""
    name, revision = args.dataset_name, args.dataset_revision or "main"
    with _reading(name, revision):
        commit = None if os.path.isdir(name) else _commit(name, revision)
        builder = load_builder_from_hub(name, revision=commit, cache_dir=args.data_cache)
        splits = {
            split: rows if rows.features is not None else rows._resolve_features()
            for split, rows in builder.as_streaming_dataset().items()
        }
    source = _source(splits, name)
    reader = _reader(source["train"].features, name)

    def read(split: str) -> Iterator[dict]:
        with _reading(name, revision):
            yield from _rows(reader, source, split, args.detokenize)

    key = f"{CODE.hex()} {builder.hash} {builder.config_id} {commit}"
    splits = source if _is_official(source) else SPLITS
    return {split: partial(read, split) for split in splits}, key


def _is_official(source: Splits) -> bool:
    """Whether the splits are kept, and not made by the hash of each dialogue."""
    return set(source) != {"train"}


def _rows(reader: Reader, source: Splits, split: str, detokenize: bool) -> Iterator[dict]:
    is_official = _is_official(source)
    read_from = split if is_official else "train"
    read = reader(source[read_from], read_from, lambda kind, number: None)
    yield from dialogues.make_rows(read, split, is_official, detokenize)


def _fetch(name: str, revision: str, cache_dir: str | None) -> DatasetDict:
    """Load a data set as it is on the Hub or, without network, as it was fetched before."""
    with _reading(name, revision):
        if os.path.isdir(name):
            return load_from_hub(name, cache_dir=cache_dir)
        # Where `datasets` cannot have a revision, it takes any other that is cached.
        commit = _commit(name, revision)
        splits = load_from_hub(name, revision=revision, cache_dir=cache_dir)
    for rows in splits.values():
        if not all(commit in Path(file["filename"]).parts for file in rows.cache_files):
            raise UsageError(
                f"dataset_name {name!r} cannot be loaded: there is no connection to the Hub, and "
                f"what was fetched last is not its revision {revision!r}. Try again with one."
            )
    return splits


def _reading(name: str, revision: str):
    """Turn whatever keeps a data set from being read into one UsageError."""
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


def _source(splits: Splits, name: str) -> Splits:
    """Choose the splits that are read, under their usual names."""
    splits = {
        name: splits[other] for other, name in SPLIT_NAMES.items() if other in splits
    } | splits
    if "train" not in splits:
        raise UsageError(
            f"dataset_name {name!r} has the splits {', '.join(splits)}, but one must be called "
            "train. Rename the one to train on."
        )
    return {split: splits[split] for split in SPLITS if split in splits}


def _commit(name: str, revision: str) -> str:
    """The commit of a revision: now or, without network, when it was last fetched."""
    try:
        return HfApi().dataset_info(name, revision=revision).sha
    except (HTTPError, OfflineModeIsEnabled) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
            raise
        card = try_to_load_from_cache(name, "README.md", repo_type="dataset", revision=revision)
        if not isinstance(card, str):
            raise ConnectionError(str(error)) from error
        return Path(card).parent.name


def _reader(features: Features, name: str) -> Reader:
    """Choose how to read a data set by its columns."""

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
    columns = ", ".join(f"{column} ({feature})" for column, feature in features.items())
    raise UsageError(
        f"dataset_name {name!r} has the columns {columns}, but needs {FORMS}. Rename or convert "
        "them, or write the dialogues to a text file and give it as data."
    )


def _numbered(rows: Dataset, columns: list[str]) -> Iterator[tuple[int, dict]]:
    """Yield some columns of the rows with their numbers, from 1 on."""
    tables = rows.select_columns(columns).with_format("arrow").iter(ROWS_READ)
    yield from enumerate((row for table in tables for row in table.to_pylist()), 1)


@lru_cache(1 << 14)  # an utterance comes again in every context after it
def _clean(text: str | None) -> str:
    return dialogues.without_control_characters((text or "").replace(END, " ")).strip()


def _note_odd(texts: list[str | None], number: int, note: Note) -> None:
    """Note what is odd in the utterances of a row, each kind once; line ends are not."""
    text = " ".join(filter(None, texts))
    if dialogues.CONTROL.search(text.replace("\n", "").replace("\r", "")):
        note("control_character", number)
    if END in text:
        note("eou_inside", number)


def _read_dialogues(column: str, rows: Dataset, split: str, note: Note) -> Iterator[Dialogue]:
    """Read a column of whole dialogues: lists of utterances or of messages."""
    for number, row in _numbered(rows, [column]):
        turns = row[column] or []
        if turns and isinstance(turns[0], dict):
            spoken = [turn for turn in turns if turn["role"] not in ("system", "developer")]
            if len(spoken) < len(turns):
                note("system_message", number)
            turns = [turn["content"] for turn in spoken]
        _note_odd(turns, number, note)
        utterances = dialogues.without_empty(list(map(_clean, turns)), number, note)
        try:
            dialogue = dialogues.make_dialogue(f"{split}:{number}", utterances, {})
        except ValueError as error:
            raise UsageError(str(error)) from error
        yield dialogue


def _read_rows(rows: Dataset, split: str, note: Note) -> Iterator[Dialogue]:
    """Read rows of context and response, and put those of a dialogue together."""
    labels = [name for name in LABELS if rows.features.get(name) == FEATURES[name]]
    columns = ["context", "response", *labels]
    has_ids = "dialogue_id" in rows.features
    if has_ids:
        columns.append("dialogue_id")
    dialogue = None
    for number, row in _numbered(rows, columns):
        texts = row["context"] or []
        _note_odd([*texts, row["response"]], number, note)
        context = [text for text in map(_clean, texts) if text]
        response = _clean(row["response"])
        if len(context) < len(texts):
            note("empty_utterance", number)
        if not context or not response:
            note("empty_response" if context else "empty_context", number)
            continue
        dialogue_id = str(row["dialogue_id"]) if has_ids else f"{split}:{number}"
        if dialogue is None:
            continues = False
        elif has_ids:
            continues = dialogue.dialogue_id == dialogue_id
        else:
            continues = dialogue.utterances[-len(context) :] == context
        if not continues:
            if dialogue is not None:
                yield dialogue
            dialogue = Dialogue(dialogue_id, list(context), [])
        dialogue.utterances.append(response)
        dialogue.pairs.append(Pair(context, response, {label: row[label] for label in labels}))
    if dialogue is not None:
        yield dialogue


def _read_unbroken(
    reader: Reader, name: str, rows: Dataset, split: str, note: Note
) -> Iterator[Dialogue]:
    """Read, and refuse rows of one dialogue that do not follow one another."""
    dialogue_ids = set()
    for dialogue in reader(rows, split, note):
        if dialogue.dialogue_id in dialogue_ids:
            raise UsageError(
                f"dataset_name {name!r}: the {split} rows of dialogue_id {dialogue.dialogue_id!r} "
                "do not follow one another, so that their dialogue cannot be kept in one split. "
                "Sort them by dialogue, or leave that column out."
            )
        dialogue_ids.add(dialogue.dialogue_id)
        yield dialogue
