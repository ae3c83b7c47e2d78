"""The source that the settings name, to (context, response) rows: prepared, or as a stream."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets import Dataset, DatasetDict, concatenate_datasets

from ..command_line import expand_path
from ..dataset_script.dialogues import Dialogues
from ..dataset_script.sources import SPLITS
from ..errors import UsageError
from ..settings import DataArguments
from ..shipped import command
from . import formats
from .files import messages_of_a_setting
from .hub_datasets import load_hub_rows, open_hub_rows
from .mixture import WeightedSource, draw_stream, first_rows, label_row, parse_sources
from .prepared import cache_folder, check_whole, reading_prepared
from .turns import EVERYBODY, turns_since


def load_rows(args: DataArguments) -> tuple[DatasetDict, dict]:
    """Read the dialogues of `data` or of `dataset_name` to rows, kept on disk.

    Returns:
        The splits that have rows, train first, and what is odd in the text, by file
        (`Dialogues.problems`) or, on the Hub, by split. Rows of several sources have a column
        `source`.
    """
    sources = parse_sources(args.data) if args.dataset_name is None else None
    if args.dataset_name is not None:
        rows, problems = load_hub_rows(args)
    elif sources is not None:
        rows, problems = _load_sources(args, sources)
    else:
        rows, problems = _load_source(args)
    check_training_pairs(rows, args)
    for name in rows:
        limit = args.max_train_samples if name == "train" else args.max_eval_samples
        if limit is not None:
            rows[name] = first_rows(rows[name], limit, sources)
    return DatasetDict({name: split for name, split in rows.items() if len(split)}), problems


def _load_source(args: DataArguments) -> tuple[DatasetDict, dict]:
    source = _recognise(args)
    if source is not None:
        return formats.load_source(source, args)
    with _text_source(args) as builder:
        builder.download_and_prepare()
        rows = builder.as_dataset()
        for split in rows.values():
            check_whole(split, Path(builder.cache_dir))
        return rows, builder.problems()


def _load_sources(args: DataArguments, sources: list[WeightedSource]) -> tuple[dict, dict]:
    """Read the rows of all sources, one source after another; tell problems by source and file."""
    parts: dict[str, list[Dataset]] = {}
    problems = {}
    for source in sources:
        args_of_source = replace(args, data=source.path)
        rows, problems_by_file = _load_source(args_of_source)
        require_rejected(rows, args_of_source)
        problems |= {f"{source.name}: {file}": each for file, each in problems_by_file.items()}
        for split, part in rows.items():
            ids = [f"{source.name}:{name}" for name in part["dialogue_id"][:]]  # see `label_row`
            part = part.remove_columns("dialogue_id").add_column("dialogue_id", ids)
            part = part.add_column("source", [source.name] * len(part))
            parts.setdefault(split, []).append(part)
    splits = [split for split in SPLITS if split in parts]
    return {split: concatenate_datasets(parts[split]) for split in splits}, problems


def open_rows(args: DataArguments) -> tuple[dict[str, Callable[[], Iterator[dict]]], dict, str]:
    """Open the same source to read its rows as a stream.

    Returns:
        For each split a function that reads its rows from the first one on; what is odd in the
        text; and a key that changes with the source.
    """
    if args.dataset_name is not None:
        rows, key = open_hub_rows(args)
        return rows, {}, key
    sources = parse_sources(args.data)
    if sources is not None:
        return _open_sources(args, sources)
    source = _recognise(args)
    if source is not None:
        return formats.open_source(source, args)
    with _text_source(args) as builder:
        rows = {name: split.__iter__ for name, split in builder.as_streaming_dataset().items()}
        return rows, builder.problems(), builder.config_id


def _open_sources(args: DataArguments, sources: list[WeightedSource]) -> tuple[dict, dict, str]:
    """Open all sources: train is drawn from them by weight, other splits one after another."""
    parts: dict[str, dict[WeightedSource, Callable]] = {}
    problems, keys = {}, []
    for source in sources:
        readers, problems_by_file, key = open_rows(replace(args, data=source.path))
        problems |= {f"{source.name}: {file}": each for file, each in problems_by_file.items()}
        keys.append(f"{source.name} {source.weight} {key}")
        for split, read in readers.items():
            parts.setdefault(split, {})[source] = read
    drawn = {
        split: partial(draw_stream if split == "train" else _read_in_turn, parts[split])
        for split in SPLITS
        if split in parts
    }
    return drawn, problems, " ".join(keys)


def _read_in_turn(readers: dict[WeightedSource, Callable[[], Iterator[dict]]]) -> Iterator[dict]:
    for source, read in readers.items():
        for row in read():
            yield label_row(row, source)


def _recognise(args: DataArguments) -> formats.SourceFiles | None:
    """Recognise `data`; of dialogue text, None, and no setting that it cannot follow."""
    path = None if args.data is None else expand_path(args.data)
    with messages_of_a_setting():
        source = None if path is None else formats.recognise(path, args)
    if source is None and args.anonymize:
        raise UsageError(
            f"anonymize is true, but {path or 'DailyDialog'!r} is dialogue text, which is read as "
            f"it stands. Anonymize it first: {command('convert')} talk.txt new.txt --anonymize"
        )
    if source is None and args.respond_as not in (None, EVERYBODY):
        raise UsageError(
            f"respond_as is {args.respond_as!r}, but {path or 'DailyDialog'!r} is dialogue text, "
            "which does not say who speaks. Give the chat or table that it was made of, or "
            f"{EVERYBODY}."
        )
    return source


@contextmanager
def _text_source(args: DataArguments) -> Iterator[Dialogues]:
    """Yield the builder that reads `data` as dialogue text; word its errors for the setting."""
    path = None if args.data is None else expand_path(args.data)
    with messages_of_a_setting(), reading_prepared(cache_folder(args, "dialogues")):
        yield Dialogues(data_dir=path, detokenize=args.detokenize, cache_dir=args.data_cache)


def check_training_pairs(rows: dict, args: DataArguments) -> None:
    """Refuse a source without training rows."""
    require_rejected(rows, args)
    if not len(rows.get("train", ())):
        raise UsageError(
            f"{args.dataset_name or args.data}: no training pair; at least one dialogue of two "
            "turns is needed."
        )


def require_rejected(rows: dict, args: DataArguments) -> None:
    """Refuse a source without the rejected replies that it is to have."""
    if "rejected" not in args.column_names():
        return
    if not len(rows.get("train", ())) or "rejected" not in rows["train"].column_names:
        raise UsageError(
            f"{args.dataset_name or args.data}: no training pair has a rejected reply. Preference "
            "training needs rows with the columns context, chosen and rejected; of ordinary "
            "dialogues, say which replies are rejected: negatives [other_contexts]."
        )


def fingerprint(rows: Dataset) -> str:
    """Hash what rows say, and of which source they are: not where it was read from, or when."""
    digests = {}
    for batch in rows.with_format("arrow").iter(10_000):
        for name in ("context", "response", "rejected", "source"):
            if name not in rows.column_names:
                continue
            # Lengths and texts apart: so the hash does not depend on how Arrow cuts the rows.
            turns, lengths, text = digests.setdefault(name, [xxhash.xxh3_128() for _ in range(3)])
            for array in batch[name].chunks:
                if pa.types.is_list(array.type):
                    turns.update(pc.list_value_length(array).to_numpy())
                    array = pc.list_flatten(array)
                _, ends, characters = array.buffers()
                ends = np.frombuffer(ends, np.int32)[array.offset :][: len(array) + 1]
                lengths.update(np.diff(ends))
                text.update(memoryview(characters or b"")[ends[0] : ends[-1]])
    whole = xxhash.xxh3_128()
    for parts in digests.values():
        for digest in parts:
            whole.update(digest.digest())
    return whole.hexdigest()


def utterances(rows: Dataset) -> Iterator[str]:
    """Yield every utterance of the dialogues behind `rows` once."""
    reply, said = "", 0
    for row in rows.select_columns(["turn", "context", "response"]):
        context = row["context"]
        yield from turns_since(reply, context, said) if row["turn"] > 1 else context
        yield row["response"]
        reply, said = row["response"], len(context)
