"""Batches by token budget: examples of similar lengths together, with hardly any padding.

A batch costs its padded size, examples * (longest source + longest target) tokens. Lengths are
rounded up to a grid; the examples are sorted by rounded lengths, and this order is cut to batches.
Each epoch shuffles the examples of equal rounded lengths, and then the batches. The cuts depend on
the rounded lengths alone. So every epoch has equally many batches, and a run that resumes makes any
batch from (seed, epoch) without those before it. A finer grid pads less; the grid is the one that
pads least among those with which an example still meets others from epoch to epoch.

A step on one batch sees one length, and teaches less than a step on examples drawn at random.
A step on several smaller batches (`gradient_accumulation_steps`, processes) teaches nearly as much.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch.utils.data import Sampler

IGNORE = -100  # labels that are padding, not counted by any loss
GRIDS = ((8, 4), (6, 3), (4, 2))  # tokens of source and target; the first serves if no other does


def _order(
    lengths: np.ndarray, grid: tuple[int, int], rng: np.random.Generator | None = None
) -> np.ndarray:
    """Order examples by lengths rounded up to a grid, equal ones by `rng` or else by index.

    The targets rise with one source length and fall with the next, so that neighbours are similar.
    """
    source, target = -(-lengths[:, 0] // grid[0]), -(-lengths[:, 1] // grid[1])  # (examples,)
    serpentine = np.where(source % 2 == 0, target, -target)
    ties = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    return np.lexsort((ties, serpentine, source))


def _cut(lengths: np.ndarray, budget: int) -> list[int]:
    """Cut ordered examples greedily, run by run of equal lengths; return where batches end."""
    runs = np.flatnonzero((lengths[1:] != lengths[:-1]).any(axis=1)) + 1
    ends, start, widest = [], 0, (0, 0)
    for first, last in pairwise([0, *runs.tolist(), len(lengths)]):
        size = tuple(lengths[first].tolist())
        wider = tuple(map(max, widest, size))
        while (end := max(start + budget // sum(wider), start + 1, first)) < last:
            ends.append(end)
            start, wider = end, size
        widest = wider
    return [*ends, len(lengths)]


def _median_run(lengths: np.ndarray) -> float:
    """The median, over ordered examples, of how many have the lengths of an example."""
    changes = np.flatnonzero((lengths[1:] != lengths[:-1]).any(axis=1)) + 1
    counts = np.diff([0, *changes, len(lengths)])
    return float(np.median(np.repeat(counts, counts)))


def _padded(lengths: np.ndarray, ends: list[int]) -> int:
    """Count the tokens of all batches with their padding, given where batches end."""
    starts = [0, *ends[:-1]]
    widest = np.maximum.reduceat(lengths, starts)  # (batches, 2)
    return int(np.diff([0, *ends]) @ widest.sum(axis=1, dtype=np.int64))


def _spans(ends: list[int], is_enough: Callable[[int], bool]) -> list[tuple[int, int]]:
    """Return where batches begin and end, the largest halved until their number `is_enough`."""
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    while not is_enough(len(spans)):
        largest = max(range(len(spans)), key=lambda i: spans[i][1] - spans[i][0])
        start, end = spans.pop(largest)
        if end - start < 2:
            raise ValueError(
                f"An epoch of {ends[-1]} batches of one example each is not enough for all "
                "processes, or for as many batches as the first epoch had. Raise tokens_per_batch."
            )
        middle = (start + end + 1) // 2
        spans[largest:largest] = [(start, middle), (middle, end)]
    return spans


class TokenBudgetSampler(Sampler[list[int]]):
    """Batches for one process of training, for a DataLoader's `batch_sampler`.

    Every example comes once an epoch, on one process. All processes get equally many batches: the
    largest batches are halved until their number can be divided by that of the processes.

    Args:
        lengths: (source, target) tokens of each example, shape (examples, 2).
        budget: greatest padded size of a batch in tokens; a longer example is a batch of its own.
        draw: returns the examples of an epoch, (examples,), where these are not all of them once
            (`mixture.Draw`). Every epoch has as many batches as the first. If an epoch would have
            more, some are left out at random; if it would have fewer, the largest are halved.

    Attributes:
        mean_targets: the mean number of target tokens of a batch; with `draw`, of the first epoch.
        mean_examples: the same of examples.
    """

    def __init__(
        self,
        lengths: Sequence[Sequence[int]],
        budget: int,
        seed: int = 42,
        rank: int = 0,
        world_size: int = 1,
        draw: Callable[[int], np.ndarray] | None = None,
    ):
        self.lengths = np.asarray(lengths, dtype=np.int32).reshape(-1, 2)
        self.budget, self.draw = budget, draw
        exact = self.lengths if draw is None else self.lengths[draw(0)]
        if len(exact) < world_size or len(exact) == 0:
            raise ValueError(
                f"{len(exact)} training examples are too few for {world_size} processes."
            )
        self.seed, self.rank, self.world_size, self.epoch = seed, rank, world_size, 0
        # Without `draw` the ordered rounded lengths are the same in each epoch, so are the cuts. A
        # finer grid serves if at least half of the examples share their lengths with as many others
        # as a batch holds: then they meet others from epoch to epoch.
        cuts = {}
        for grid in GRIDS:
            ordered = exact[_order(exact, grid)]
            rounded = -(-ordered // grid) * grid
            ends = _cut(rounded, budget)
            if not cuts or _median_run(rounded) >= len(exact) / len(ends):
                cuts.setdefault(_padded(ordered, ends), (grid, ends))
        self.grid, ends = cuts[min(cuts)]
        self.spans = _spans(ends, lambda count: count % world_size == 0)
        self.mean_targets = float(exact[:, 1].sum() / len(self.spans))
        self.mean_examples = len(exact) / len(self.spans)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.spans) // self.world_size

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.draw is None:
            examples, spans = _order(self.lengths, self.grid, rng), self.spans
        else:
            examples = self.draw(self.epoch)
            examples = examples[_order(self.lengths[examples], self.grid, rng)]
            rounded = -(-self.lengths[examples] // self.grid) * self.grid
            ends = _cut(rounded, self.budget)
            spans = _spans(ends, lambda count: count >= len(self.spans))
        chosen = rng.permutation(len(spans))[: len(self.spans)]
        for i in chosen[self.rank :: self.world_size]:
            start, end = spans[i]
            yield examples[start:end].tolist()


def evaluation_batches(lengths: Sequence[Sequence[int]], budget: int) -> list[list[int]]:
    """Cut examples in order of length to batches, the longest first: a lack of memory shows early.

    The sources of a batch are similar; its examples are in order of their targets. `lengths` and
    `budget` are those of `TokenBudgetSampler`.
    """
    exact = np.asarray(lengths, dtype=np.int32).reshape(-1, 2)
    order = _order(exact, (1, 1))
    ends = _cut(exact[order], budget)
    batches = [order[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return [batch[exact[batch, 1].argsort(kind="stable")].tolist() for batch in batches[::-1]]


class DialogueCollator:
    """Pads examples to tensors as wide as their longest.

    Args:
        pad_token_id: fills `input_ids`.

    Returns (of a call):
        `input_ids` and `attention_mask` (batch, source_len), `labels` (batch, target_len); labels
        are -100 where there is padding.
    """

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, examples: Sequence[dict]) -> dict[str, torch.Tensor]:
        sources = [example["input_ids"] for example in examples]
        targets = [example["labels"] for example in examples]
        return {
            "input_ids": _pad(sources, self.pad_token_id),  # (batch, source_len)
            "attention_mask": _pad([np.ones(len(i)) for i in sources], 0),  # (batch, source_len)
            "labels": _pad(targets, IGNORE),  # (batch, target_len)
        }


def _pad(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    """Fill rows up to the longest. In NumPy: a batch has too few numbers for torch to pay."""
    table = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for filled, row in zip(table, rows, strict=True):
        filled[: len(row)] = row
    return torch.from_numpy(table)
