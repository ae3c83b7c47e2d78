"""Batches by token budget: examples of like lengths together, hardly any padding.

A batch costs its padded size, examples * (longest source + longest target) tokens. Batches are cut
from the examples in order of their lengths, rounded up to a grid; which examples of equal rounded
lengths meet, and the order of the batches, is drawn anew each epoch. The cuts depend on the
rounded lengths alone, so every epoch has equally many batches, and any batch of any epoch can be
made from (seed, epoch) without the ones before it: that is what resuming needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from torch.utils.data import Sampler

GRID = np.array([8, 4], np.int32)  # tokens; source and target lengths are rounded up to multiples


def _order(lengths: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """Order examples by rounded lengths, equal ones at random (or by index without `rng`).

    The target's order alternates from one source length to the next, so that neighbours across
    that border are alike, too.
    """
    source, target = lengths[:, 0], lengths[:, 1]  # (examples,), (examples,)
    serpentine = np.where((source // GRID[0]) % 2 == 0, target, -target)
    ties = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    return np.lexsort((ties, serpentine, source))


def _cut(lengths: np.ndarray, budget: int) -> list[int]:
    """Cut ordered examples greedily; return where each batch ends.

    It goes from each run of equal lengths to the next, for these are few.
    """
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


class TokenBudgetSampler(Sampler[list[int]]):
    """Batches for one process of training, to be a DataLoader's `batch_sampler`.

    Every example comes once an epoch, on one process. All processes get equally many batches:
    where the number does not divide, the largest batches are halved until it does.

    Args:
        lengths: (source, target) tokens of each example, shape (examples, 2).
        budget: greatest padded size of a batch in tokens; a longer example is a batch of its own.
        seed: of the draws.
        rank, world_size: this process among all.

    Raises:
        ValueError: fewer examples than processes, no example, or nothing left to halve.
    """

    def __init__(
        self,
        lengths: Sequence[Sequence[int]],
        budget: int,
        seed: int = 42,
        rank: int = 0,
        world_size: int = 1,
    ):
        exact = np.asarray(lengths, dtype=np.int32).reshape(-1, 2)
        if len(exact) < world_size or len(exact) == 0:
            raise ValueError(
                f"{len(exact)} training examples are too few for {world_size} processes."
            )
        self.lengths = -(-exact // GRID) * GRID
        self.seed, self.rank, self.world_size, self.epoch = seed, rank, world_size, 0
        # The ordered rounded lengths are the same in each epoch, so the cuts are, too.
        ends = _cut(self.lengths[_order(self.lengths, None)], budget)
        spans = list(zip([0, *ends[:-1]], ends, strict=True))
        while len(spans) % world_size:
            largest = max(range(len(spans)), key=lambda i: spans[i][1] - spans[i][0])
            start, end = spans.pop(largest)
            if end - start < 2:
                raise ValueError(
                    f"{len(spans) + 1} batches of one example each cannot be shared out to "
                    f"{world_size} processes. Raise tokens_per_batch, now {budget}."
                )
            middle = (start + end + 1) // 2
            spans[largest:largest] = [(start, middle), (middle, end)]
        self.spans = spans

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.spans) // self.world_size

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        examples = _order(self.lengths, rng)
        for i in rng.permutation(len(self.spans))[self.rank :: self.world_size]:
            start, end = self.spans[i]
            yield examples[start:end].tolist()


def evaluation_batches(lengths: Sequence[Sequence[int]], budget: int) -> list[list[int]]:
    """Cut examples in order of length to batches, the longest first: a lack of memory shows early.

    Within a batch, whose sources are alike, examples are in order of their targets.

    Args:
        lengths: (source, target) tokens of each example, shape (examples, 2).
        budget: greatest padded size of a batch in tokens.
    """
    exact = np.asarray(lengths, dtype=np.int32).reshape(-1, 2)
    order = _order(exact, None)
    ends = _cut(exact[order], budget)
    batches = [order[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return [batch[exact[batch, 1].argsort(kind="stable")].tolist() for batch in batches[::-1]]
