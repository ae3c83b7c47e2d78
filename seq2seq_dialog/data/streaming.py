"""Training rows that are read while the model trains, and never all kept on disk (`streaming`).

The rows come in the order of the source, pass after pass; dialogues of several sources are drawn by
weight (`mixture.draw_stream`). Of n processes, each takes every n-th dialogue, fills a buffer and
cuts it to batches by token budget. The batches of a buffer come in random order, so that the rows
are shuffled as far as the buffer reaches.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import torch
from datasets import DatasetDict, Features, Value

from ..errors import UsageError
from ..settings import DataArguments
from .batching import DialogueCollator, TokenBudgetSampler
from .features import encode
from .mixture import first_rows, parse_sources
from .prepared import prepare_rows
from .rows import check_training_pairs, open_rows
from .splits import FEATURES

KEPT_PAIRS = 50_000  # of train: tokenizer, baselines and unigram model are made from them
BUFFER_PAIRS = 20_000  # shuffled together


class Stream:
    """Dialogues of which the training rows are read and never kept.

    `rows` has the first `KEPT_PAIRS` rows of train, at most one pass, and all of the other splits;
    `problems` is what `load_rows` returns.
    """

    def __init__(self, args: DataArguments):
        readers, self.problems, key = open_rows(args)
        self._read_train, self._max_train = readers.get("train", tuple), args.max_train_samples
        sources = parse_sources(args.data) if args.dataset_name is None else None
        features = FEATURES if sources is None else FEATURES | {"source": Value("string")}
        rows = {}
        for name, read in readers.items():
            if next(read(), None) is None:  # `datasets` refuses to write a split without rows
                continue
            limit = args.max_eval_samples if sources is None else None  # of each source, below
            if name == "train":
                limit = min(KEPT_PAIRS, args.max_train_samples or KEPT_PAIRS)
                read = read if sources is None else partial(read, once=True)
            content = f"{key} {name} {limit} {args.detokenize}"
            fingerprint = hashlib.sha256(content.encode()).hexdigest()[:32]
            rows[name] = prepare_rows(
                partial(_first, read, limit), Features(features), args, name, fingerprint
            )
            if sources is not None and name != "train" and args.max_eval_samples is not None:
                rows[name] = first_rows(rows[name], args.max_eval_samples, sources)
        check_training_pairs(rows, args)
        self.rows = DatasetDict({name: split for name, split in rows.items() if len(split)})

    def train(self) -> Iterator[dict]:
        """Read the training rows once."""
        return _first(self._read_train, self._max_train)


def _first(read: Callable[[], Iterator[dict]], count: int | None) -> Iterator[dict]:
    """Read at most `count` rows. A generator, as `datasets` wants one."""
    yield from islice(read(), count)


class StreamedBatches(torch.utils.data.IterableDataset):
    """Batches by token budget, without end, for a DataLoader with `batch_size=None`.

    `rows` is called for the rows at the beginning of each pass. Each batch is what
    `DialogueCollator` returns, with `position` (2,), the number of the buffer and of the batch in
    it, and `mean_targets` (), the mean number of target tokens of the batches of this buffer.
    """

    def __init__(self, rows: Callable[[], Iterator[dict]], tokenizer, args: DataArguments):
        self.rows, self.tokenizer = rows, tokenizer
        self.limits = (args.max_source_length, args.max_target_length)
        self.collate = DialogueCollator(tokenizer.pad_token_id)

    def begin(
        self, budget: int, seed: int, rank: int, world_size: int, after: tuple[int, int] | None
    ) -> None:
        """Choose what comes next: what follows `after`, the `position` of the last batch used.

        `budget` is the greatest padded size of a batch in tokens.
        """
        self.budget, self.seed = budget, seed
        self.rank, self.world_size, self.after = rank, world_size, after

    def _endless(self) -> Iterator[dict]:
        """The rows of every `world_size`-th dialogue, pass after pass."""
        while True:
            dialogues, has_rows = 0, False
            for row in self.rows():
                dialogues += row["turn"] == 1
                if (dialogues - 1) % self.world_size == self.rank:
                    has_rows = True
                    yield row
            if not has_rows:
                raise UsageError(
                    f"{dialogues} training dialogues are too few for {self.world_size} "
                    "processes. Start fewer."
                )

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        number, skipped = 0, 0  # buffers; batches of the first one that is read
        if self.after is not None:
            number, skipped = self.after[0], self.after[1] + 1
        rows = islice(self._endless(), number * BUFFER_PAIRS, None)
        while True:
            buffer = list(islice(rows, BUFFER_PAIRS))
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
