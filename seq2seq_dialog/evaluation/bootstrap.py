"""How diverse replies are, what they are like as answers, and how far to trust a figure.

Beside likeness to a reference: does a system repeat itself, its training data, or one reply to
everyone; is it as talkative as people; does it hold up in later turns and for longer answers. And
of the metrics that compare with references, intervals by the bootstrap (Koehn, 2004), for which
each metric is kept as the sums over pairs that it is made of: a resample is then new sums, and the
texts are read once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from .metrics import perplexity
from .text import _Words

METRICS = ("bleu", "bleu_2", "rouge_l", "chrf", "perplexity")  # those that have an interval
BLOCK = 100  # resamples in memory at a time


class PairStatistics(NamedTuple):
    """A metric as sums over pairs: what they are of each pair, and what the metric makes of them.

    `columns` is (pairs, statistics), `score` takes their sums.
    """

    columns: np.ndarray
    score: Callable[[Sequence[float]], float]

    def figure(self, rows=slice(None)) -> float:
        """Return the metric of all pairs, or of some: indices or a mask."""
        return self.score([math.fsum(column) for column in self.columns[rows].T])


def pair_statistics(
    replies: Sequence[str],
    references: Sequence[str],
    nll: Sequence[float] | None = None,
    tokens: Sequence[int] | None = None,
    metrics: Sequence[str] = METRICS,
) -> dict[str, PairStatistics]:
    """Read pairs once for all their figures: `.figure()` of all is exactly that of `ReplyMetric`.

    Lengths, clipped matches and totals of n-grams make BLEU and chrF, the F1 of each pair ROUGE-L,
    the likelihood and the tokens of each reference perplexity.

    Args:
        replies, references: strings, one reference each.
        nll, tokens: of each reference, in nats and in number; without them, no perplexity.
        metrics: of `METRICS`.

    Returns:
        The statistics of each metric, by its name.

    Raises:
        ValueError: no such metric, or one argument is longer than another.
    """
    for name in metrics:
        if name not in METRICS:
            raise ValueError(
                f"{name!r} is not made of sums over pairs; choose of {', '.join(METRICS)}."
            )
    pairs = list(zip(replies, references, strict=True))
    replies, references = ([pair[side] for pair in pairs] for side in (0, 1))
    found = {}
    if "bleu" in metrics or "bleu_2" in metrics:
        counts = BLEU(force=True)._extract_corpus_statistics(replies, [references])
        counts = np.array(counts, float).reshape(-1, 10)
        for name, order in (("bleu", 4), ("bleu_2", 2)):
            # Two lengths, the matches of each order, the totals of each order.
            kept = [0, 1, *range(2, 2 + order), *range(6, 6 + order)]
            found[name] = _sacrebleu(BLEU(max_ngram_order=order), counts[:, kept])
    if "chrf" in metrics:
        counts = CHRF()._extract_corpus_statistics(replies, [references])
        found["chrf"] = _sacrebleu(CHRF(), np.array(counts, float).reshape(-1, 18))
    if "rouge_l" in metrics:
        scorer = RougeScorer(["rougeL"], tokenizer=_Words())
        scores = [(scorer.score(r, p)["rougeL"].fmeasure, 1) for p, r in pairs]
        columns = np.array(scores, float).reshape(-1, 2)
        found["rouge_l"] = PairStatistics(columns, lambda sums: 100 * sums[0] / max(1, sums[1]))
    if nll is not None and tokens is not None:
        columns = [(n, t) for _, n, t in zip(pairs, nll, tokens, strict=True)]
        columns = np.array(columns, float).reshape(-1, 2)
        found["perplexity"] = PairStatistics(columns, lambda sums: perplexity(*sums))
    return {name: found[name] for name in metrics if name in found}


def _sacrebleu(metric: BLEU | CHRF, columns: np.ndarray) -> PairStatistics:
    return PairStatistics(columns, lambda sums: metric._compute_score_from_stats(sums).score)


def bootstrap(
    statistics: dict[str, PairStatistics],
    samples: int,
    seed: int,
    dialogues: Sequence[Hashable] | None = None,
) -> dict[str, np.ndarray]:
    """Compute metrics on resamples: as many pairs as there are, drawn with replacement.

    The draws depend on `seed` and on how many there are to draw from: two systems with the same
    contexts are resampled alike. They are those of sacreBLEU with `SACREBLEU_SEED=seed`.

    Args:
        statistics: what `pair_statistics` returns.
        samples: number of resamples.
        dialogues: of each pair, the dialogue that it is from: whole dialogues are drawn.

    Returns:
        Name of each metric to its values, (samples,).
    """
    size = len(next(iter(statistics.values())).columns) if statistics else 0
    unit = np.arange(size)
    if dialogues is not None:
        places = {}
        unit = np.array([places.setdefault(dialogue, len(places)) for dialogue in dialogues], int)
        size = len(places)
    columns = {}
    for name, metric in statistics.items():
        columns[name] = np.zeros((size, metric.columns.shape[1]))
        np.add.at(columns[name], unit, metric.columns)
    values = {name: [] for name in statistics}
    for counts in _resamples(size, samples, seed):
        for name, metric in statistics.items():
            values[name] += map(metric.score, (counts @ columns[name]).tolist())
    return {name: np.array(scores) for name, scores in values.items()}


def _resamples(size: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each of `size` things is drawn: (resamples of a block, size)."""
    draw = np.random.default_rng(seed)
    for start in range(0, samples, BLOCK):
        drawn = draw.integers(size, size=(min(BLOCK, samples - start), size))
        yield np.stack([np.bincount(row, minlength=size) for row in drawn]).astype(float)


def intervals(
    replies: Sequence[str],
    references: Sequence[str],
    nll: Sequence[float] | None = None,
    tokens: Sequence[int] | None = None,
    dialogues: Sequence[Hashable] | None = None,
    metrics: Sequence[str] = METRICS,
    samples: int = 1000,
    seed: int = 42,
) -> dict[str, list[float]]:
    """Give metrics their 95 % intervals: percentiles of bootstrap resamples (Koehn, 2004).

    As in sacreBLEU, one fortieth of the resamples is left out on each side. Koehn draws sentences;
    the pairs of a dialogue are alike, which makes that too sure of itself. On DailyDialog, drawing
    whole dialogues widens the intervals of models in BLEU and ROUGE-L by a tenth, in BLEU-2, chrF
    and perplexity by a third to six tenths.

    Distinct-n, entropy and self-BLEU have none: a pair that is drawn twice repeats itself, which
    makes every resample less diverse than the replies are.

    Args:
        replies, references, nll, tokens, metrics: as for `pair_statistics`.
        dialogues: of each pair, the dialogue that it is from, to draw whole dialogues; by default
            pairs are drawn.
        samples: number of resamples.
        seed: of the draws.

    Returns:
        Name of each metric to `[low, high]`; nothing for no pairs, and no perplexity without `nll`.
    """
    statistics = pair_statistics(replies, references, nll, tokens, metrics)
    if not len(replies):
        return {}
    result = {}
    for name, values in bootstrap(statistics, samples, seed, dialogues).items():
        values, left_out = np.sort(values), samples // 40
        result[name] = [float(values[left_out]), float(values[-1 - left_out])]
    return result
