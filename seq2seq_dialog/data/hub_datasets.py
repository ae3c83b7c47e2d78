"""A data set on the Hub, or a folder of its files, to (context, response) rows.

Such a data set holds rows already, as `publish-data` makes them, or another table of dialogues that
`readers/table_forms.py` knows. Code that comes with it is not run.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from datasets import Dataset, DatasetDict
from datasets import load_dataset as load_from_hub
from datasets import load_dataset_builder as load_builder_from_hub
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from ..dataset_script.dialogues import SPLITS, Dialogue, Note
from ..dataset_script.sources import SPLIT_NAMES
from ..errors import UsageError
from ..hub_errors import check_name, translated_errors
from ..settings import DataArguments
from .readers.table_forms import FORMS, SAMPLE, choose_form, find_columns
from .splits import CODE, prepare, stream
from .transcripts import CHAT_PAUSE
from .turns import as_dialogue, check_speakers, read_talks

ROWS_READ = 1000  # rows or dialogues at a time
Splits = dict[str, Dataset]  # of a stream, IterableDataset


def load_hub_rows(args: DataArguments) -> tuple[DatasetDict, dict]:
    """Read `dataset_name` to rows with the columns and types of the dataset script's.

    A data set with train alone is split like a single text file, by the hash of each dialogue. Rows
    belong to one dialogue when they have the same `dialogue_id` or, without that column, when the
    context of each ends in what was said up to the one before; `turn` counts them.

    Returns:
        The splits, and for each split of the source what `scan` returns; its `first_lines` are the
        numbers of rows, from 1 on.
    """
    name = args.dataset_name
    source = _source(_fetch(name, args.dataset_revision or "main", args.data_cache), name)
    readers = {split: partial(_read, name, rows, split, args) for split, rows in source.items()}
    fingerprints = " ".join(rows._fingerprint for rows in source.values())
    return prepare(readers, f"{fingerprints} {args.reading_key()}", args)


def open_hub_rows(args: DataArguments) -> tuple[dict[str, Callable[[], Iterator[dict]]], str]:
    """Open `dataset_name` as a stream: a reader of each split, and a key that changes with them."""
    name, revision = args.dataset_name, args.dataset_revision or "main"
    with _reading(name, revision):
        commit = None if os.path.isdir(name) else _commit(name, revision)
        builder = load_builder_from_hub(name, revision=commit, cache_dir=args.data_cache)
        splits = {
            split: rows if rows.features is not None else rows._resolve_features()
            for split, rows in builder.as_streaming_dataset().items()
        }

    def read(split: str, note: Note) -> Iterator[Dialogue]:
        with _reading(name, revision):
            yield from _read(name, source[split], split, args, note)

    source = _source(splits, name)
    key = f"{CODE.hex()} {builder.hash} {builder.config_id} {commit} {args.reading_key()}"
    return stream({split: partial(read, split) for split in source}, args), key


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
    check_name(name)
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
    renamed = {name: splits[other] for other, name in SPLIT_NAMES.items() if other in splits}
    splits = renamed | splits
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


def _read(
    name: str, rows: Dataset, split: str, args: DataArguments, note: Note
) -> Iterator[Dialogue]:
    """Read the rows of a split; refuse those of one dialogue that do not follow one another."""
    columns = args.column_names()
    form = choose_form([row for _, row in islice(_numbered(rows), SAMPLE)], columns)
    if form is None:
        listed = ", ".join(f"{column} ({feature})" for column, feature in rows.features.items())
        raise UsageError(
            f"dataset_name {name!r} has the columns {listed}, but needs {FORMS}. Say which is "
            "which by columns: {text: body, speaker: author}, or rename or convert them."
        )
    is_named = "conversation" in find_columns(rows.features, columns)
    dialogue_ids, speakers = set(), Counter()
    transcripts = form(_numbered(rows), note)
    for dialogue in map(as_dialogue, read_talks(transcripts, CHAT_PAUSE, args, note, speakers)):
        if dialogue.dialogue_id in dialogue_ids:
            raise UsageError(
                f"dataset_name {name!r}: the {split} rows of dialogue_id {dialogue.dialogue_id!r} "
                "do not follow one another, so that their dialogue cannot be kept in one split. "
                "Sort them by dialogue, or leave that column out."
            )
        dialogue_ids.add(dialogue.dialogue_id)
        if not is_named:
            dialogue = dialogue._replace(dialogue_id=f"{split}:{dialogue.dialogue_id}")
        yield dialogue
    check_speakers(speakers, args)


def _numbered(rows: Dataset) -> Iterator[tuple[int, dict]]:
    """Yield the rows with their numbers, from 1 on."""
    tables = rows.with_format("arrow").iter(ROWS_READ)
    yield from enumerate((row for table in tables for row in table.to_pylist()), 1)
