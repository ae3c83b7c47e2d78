"""The source that the settings name, to (context, response) rows: prepared, or as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from datasets import Dataset, DatasetDict

from ..dataset_script.dialogues import Dialogues
from ..errors import UsageError
from ..settings import DataArguments
from .hub_rows import load_hub_rows, open_hub_rows


def load_rows(args: DataArguments) -> tuple[DatasetDict, dict]:
    """Read the dialogues of `data` or of `dataset_name` to rows, kept on disk.

    Returns:
        The splits that have rows, train first, and what is odd in the text by file
        (`Dialogues.problems`) or, on the Hub, by split.

    Raises:
        UsageError: the source is missing, is no dialogue text, or has no training pairs.
    """
    if args.dataset_name is not None:
        rows, problems = load_hub_rows(*_hub_source(args))
    else:
        with _text_source(args) as builder:
            builder.download_and_prepare()
            rows, problems = builder.as_dataset(), builder.problems()
    check_training_pairs(rows, args)
    limits = {"train": args.max_train_samples}
    for name in rows:
        limit = limits.get(name, args.max_eval_samples)
        if limit is not None:
            rows[name] = rows[name].select(range(min(limit, len(rows[name]))))
    return DatasetDict({name: split for name, split in rows.items() if len(split)}), problems


def open_rows(args: DataArguments) -> tuple[dict[str, Callable[[], Iterator[dict]]], dict, str]:
    """Open the same source to read its rows as a stream.

    Returns:
        For each split a function that reads its rows, each time from the first one on; what is odd
        in the text, as `load_rows` returns it; and a key that changes with the source.

    Raises:
        UsageError: as `load_rows`; also while rows are read.
    """
    if args.dataset_name is not None:
        rows, key = open_hub_rows(*_hub_source(args))
        return rows, {}, key
    with _text_source(args) as builder:
        rows = {name: split.__iter__ for name, split in builder.as_streaming_dataset().items()}
        return rows, builder.problems(), builder.config_id


def _hub_source(args: DataArguments) -> tuple[str, str, bool, str | None]:
    return args.dataset_name, args.dataset_revision or "main", args.detokenize, args.data_cache


@contextmanager
def _text_source(args: DataArguments) -> Iterator[Dialogues]:
    """Give the builder of `data`, and word its errors as those of a setting."""
    try:
        yield Dialogues(data_dir=args.data, detokenize=args.detokenize, cache_dir=args.data_cache)
    except (ValueError, OSError) as error:
        raise UsageError(str(error).replace("data_dir=", "--data")) from error


def check_training_pairs(rows: dict, args: DataArguments) -> None:
    """Refuse a source without training rows."""
    if not len(rows.get("train", ())):
        raise UsageError(
            f"{args.dataset_name or args.data}: no training pair; at least one dialogue of two "
            "turns is needed."
        )


def utterances(rows: Dataset) -> Iterator[str]:
    """Yield every utterance of the dialogues behind `rows` once."""
    for row in rows.select_columns(["turn", "context", "response"]):
        if row["turn"] == 1:
            yield from row["context"]
        yield row["response"]
