"""Training rows read while the training goes on, never all of them on disk (`streaming`).

The rows come in the order of the source, pass after pass. Each process takes every so-manieth
dialogue of them, fills a buffer, and cuts that to batches by token budget; batches of a buffer
come in random order. So it is shuffled as far as the buffer reaches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import torch
from datasets import Dataset, DatasetDict, NamedSplit

from ..errors import UsageError
from ..settings import DataArguments
from .batching import DialogueCollator, TokenBudgetSampler
from .features import encode
from .hub_rows import FEATURES, open_hub_rows
from .rows import check_training_pairs, text_source

KEPT = 50_000  # training pairs that tokenizer, baselines and unigram model are made of
BUFFER = 20_000  # pairs that are shuffled


def open_rows(args: DataArguments) -> tuple[dict[str, Callable[[], Iterator[dict]]], dict, str]:
    """Open the source of `data` or `dataset_name`.

    Returns:
        What reads the rows of each split from the first one on; what is odd in the text, as
        `data.load_rows`; and a key that changes with the source.

    Raises:
        UsageError: as `data.load_rows`; also while rows are read.
    """
    if args.dataset_name is not None:
        name, revision = args.dataset_name, args.dataset_revision or "main"
        rows, key = open_hub_rows(name, revision, args.detokenize, args.data_cache)
        return rows, {}, key
    with text_source(args) as builder:
        rows = {name: split.__iter__ for name, split in builder.as_streaming_dataset().items()}
        return rows, builder.problems(), builder.config_id


class Stream:
    """Dialogues that are read and never kept.

    Args:
        args: with the source, and how many pairs are used of it.

    Attributes:
        rows: of train the first `KEPT` rows, of the others all.
        problems: as `data.load_rows` returns them.

    Raises:
        UsageError: as `data.load_rows`.
    """

    def __init__(self, args: DataArguments):
        found, self.problems, key = open_rows(args)
        self._train, self._most = found.get("train", tuple), args.max_train_samples
        limits = {name: args.max_eval_samples for name in found} | {"train": KEPT}
        if self._most is not None:
            limits["train"] = min(KEPT, self._most)
        rows = {}
        for name, split in found.items():
            content = f"{key} {name} {limits[name]} {args.detokenize}"
            rows[name] = Dataset.from_generator(
                partial(_first, split, limits[name]),
                features=FEATURES,
                cache_dir=args.data_cache,
                split=NamedSplit(name),
                fingerprint=hashlib.sha256(content.encode()).hexdigest()[:32],
            )
        check_training_pairs(rows, args)
        self.rows = DatasetDict({name: split for name, split in rows.items() if len(split)})

    def train(self) -> Iterator[dict]:
        """Read the training rows once."""
        return _first(self._train, self._most)


def _first(read: Callable[[], Iterator[dict]], count: int | None) -> Iterator[dict]:
    """Read rows, and no more than `count`. A generator, as `datasets` wants one."""
    yield from islice(read(), count)


class StreamedBatches(torch.utils.data.IterableDataset):
    """Batches by token budget, without end, for a DataLoader with `batch_size=None`.

    Args:
        rows: called at the beginning of each pass.
        tokenizer, args: see `data.encode_rows`.

    Yields:
        What `DialogueCollator` returns; `position`, (2,): the number of the buffer, and of the
        batch in it (`begin` goes on behind a position); `mean_targets`, (): target tokens of a
        batch of this buffer in the mean.
    """

    def __init__(self, rows: Callable[[], Iterator[dict]], tokenizer, args: DataArguments):
        self.rows, self.tokenizer = rows, tokenizer
        self.limits = (args.max_source_length, args.max_target_length)
        self.collate = DialogueCollator(tokenizer.pad_token_id)

    def begin(
        self, budget: int, seed: int, rank: int, world_size: int, after: tuple[int, int] | None
    ) -> None:
        """Choose what comes next.

        Args:
            budget: greatest padded size of a batch in tokens.
            seed: of the order.
            rank, world_size: this process among all.
            after: the position of the last batch that is not wanted again.
        """
        self.budget, self.seed = budget, seed
        self.rank, self.world_size, self.after = rank, world_size, after

    def _endless(self) -> Iterator[dict]:
        """The rows of every `world_size`-th dialogue, pass after pass."""
        while True:
            dialogue, read = -1, False
            for row in self.rows():
                dialogue += row["turn"] == 1
                if dialogue % self.world_size == self.rank:
                    read = True
                    yield row
            if not read:
                raise UsageError(
                    f"{dialogue + 1} training dialogues are too few for {self.world_size} "
                    "processes. Start fewer."
                )

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        number, skipped = (0, 0) if self.after is None else (self.after[0], self.after[1] + 1)
        rows = islice(self._endless(), number * BUFFER, None)
        while True:
            buffer = list(islice(rows, BUFFER))
            columns = {name: [row[name] for row in buffer] for name in ("context", "response")}
            columns = encode(columns, self.tokenizer, *self.limits)
            lengths = list(zip(columns["source_length"], columns["target_length"], strict=True))
            batches = TokenBudgetSampler(lengths, self.budget, self.seed)
            batches.set_epoch(number)
            mean_targets = torch.tensor(batches.mean_targets)
            for place, batch in enumerate(batches):
                if place >= skipped:
                    examples = [
                        {name: columns[name][i] for name in ("input_ids", "labels")} for i in batch
                    ]
                    yield self.collate(examples) | {
                        "position": torch.tensor([number, place]),
                        "mean_targets": mean_targets,
                    }
            number, skipped = number + 1, 0
