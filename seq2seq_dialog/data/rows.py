"""Dialogues to (context, response) rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from datasets import Dataset, DatasetDict

from ..dataset_script.dialogues import Dialogues
from ..errors import UsageError
from ..settings import DataArguments
from .hub_rows import load_hub_rows


def check_training_pairs(rows: dict, args: DataArguments) -> None:
    """Refuse a source without training rows."""
    if not len(rows.get("train", ())):
        raise UsageError(
            f"{args.dataset_name or args.data}: no training pair; at least one dialogue of two "
            "turns is needed."
        )


@contextmanager
def text_source(args: DataArguments) -> Iterator[Dialogues]:
    """Give the builder of `data`, and word its errors as those of a setting."""
    try:
        yield Dialogues(data_dir=args.data, detokenize=args.detokenize, cache_dir=args.data_cache)
    except (ValueError, OSError) as error:
        raise UsageError(str(error).replace("data_dir=", "--data")) from error


def load_rows(args: DataArguments) -> tuple[DatasetDict, dict]:
    """Read dialogues, of `data` or of `dataset_name`, to (context, response) rows.

    Returns:
        The splits that the source has, train first, and what was wrong with the text, by file and
        kind with the first line numbers (`Dialogues.problems`); on the Hub, by split.

    Raises:
        UsageError: the source is missing, is no dialogue text, or has no training pairs.
    """
    if args.dataset_name is not None:
        name, revision = args.dataset_name, args.dataset_revision or "main"
        rows, problems = load_hub_rows(name, revision, args.detokenize, args.data_cache)
    else:
        with text_source(args) as builder:
            builder.download_and_prepare()
            rows, problems = builder.as_dataset(), builder.problems()
    check_training_pairs(rows, args)
    limits = {"train": args.max_train_samples}
    for name in rows:
        limit = limits.get(name, args.max_eval_samples)
        if limit is not None:
            rows[name] = rows[name].select(range(min(limit, len(rows[name]))))
    return DatasetDict({name: split for name, split in rows.items() if len(split)}), problems


def utterances(rows: Dataset):
    """Yield every utterance of the dialogues behind `rows` once."""
    columns = rows.select_columns(["turn", "context", "response"])
    for row in columns:
        if row["turn"] == 1:
            yield from row["context"]
        yield row["response"]
