"""The data cache: rows that were prepared before, and what to do where their files are damaged."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, Features, NamedSplit
from datasets.config import HF_DATASETS_CACHE

from ..errors import UsageError
from ..settings import DataArguments


def cache_folder(args: DataArguments, name: str) -> Path:
    """Return a folder of the data cache."""
    return Path(args.data_cache or HF_DATASETS_CACHE) / name


def prepare_rows(
    read_rows: Callable[[], Iterator[dict]],
    features: Features,
    args: DataArguments,
    split: str,
    fingerprint: str,
) -> Dataset:
    """Write the rows of a split to the data cache; they come from there if it has them."""
    folder = cache_folder(args, "generator")
    with reading_prepared(folder):
        rows = Dataset.from_generator(
            read_rows,
            features=features,
            cache_dir=args.data_cache,
            split=NamedSplit(split),
            fingerprint=fingerprint,
        )
    check_whole(rows, folder)
    return rows


def map_rows(rows: Dataset, function: Callable[[dict], dict | pa.Table], **options) -> Dataset:
    """Map batches of `rows` to as many new rows; they come from the cache if it has them."""
    folder = Path(rows.cache_files[0]["filename"] if rows.cache_files else "").parent
    with reading_prepared(folder):
        mapped = rows.map(function, batched=True, **options)
    _check_count(mapped, len(rows), folder)
    return mapped


@contextmanager
def reading_prepared(folder: Path) -> Iterator[None]:
    """Say of files that `datasets` cannot read what to delete."""
    try:
        yield
    except (pa.ArrowInvalid, json.JSONDecodeError, OSError) as error:
        if isinstance(error, OSError) and (error.errno or type(error) is not OSError):
            raise  # not of pyarrow
        raise _damaged(folder, str(error)) from error


def check_whole(rows: Dataset, folder: Path) -> None:
    """Refuse a split of which fewer rows can be read than were prepared."""
    _check_count(rows, rows.info.splits[str(rows.split)].num_examples, folder)


def _check_count(rows: Dataset, count: int, folder: Path) -> None:
    if len(rows) != count:
        raise _damaged(folder, f"of {count:,} rows it has {len(rows):,}")


def _damaged(folder: Path, reason: str) -> UsageError:
    return UsageError(
        f"Prepared data in {str(folder)!r} is damaged: {reason}. Delete that folder: the same "
        "command prepares the data again."
    )
