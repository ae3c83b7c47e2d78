"""How far to trust a figure: intervals by the bootstrap (Koehn, 2004).

A metric is kept as the sums over pairs that it is made of (`metrics.pair_statistics`): a resample
is then new sums, and the texts are read once.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from .catalogue import keys_with
from .metrics import PairStatistics

BLOCK = 100  # resamples in memory at a time
FEW = 50  # dialogues; with fewer, intervals and p are rough


def with_intervals(statistics: Mapping[str, PairStatistics]) -> dict[str, PairStatistics]:
    """Choose the metrics that the catalogue gives an interval, in its order."""
    return {key: statistics[key] for key in keys_with("interval") if key in statistics}


def bootstrap(
    statistics: Mapping[str, PairStatistics],
    samples: int,
    seed: int,
    dialogues: Sequence[Hashable] | None = None,
) -> dict[str, np.ndarray]:
    """Compute metrics on resamples: as many pairs as there are, drawn with replacement.

    With `dialogues`, which tells the dialogue of each pair, whole dialogues are drawn. The draws
    depend on `seed` and on how many there are to draw from: two systems with the same contexts are
    resampled alike. They are those of sacreBLEU with `SACREBLEU_SEED=seed`.

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
    draw = np.random.default_rng(seed)
    for start in range(0, samples, BLOCK):
        drawn = draw.integers(size, size=(min(BLOCK, samples - start), size))
        # How often each unit is drawn: (resamples of a block, size)
        counts = np.stack([np.bincount(row, minlength=size) for row in drawn]).astype(float)
        for name, metric in statistics.items():
            values[name] += map(metric.score, (counts @ columns[name]).tolist())
    return {name: np.array(scores) for name, scores in values.items()}


def intervals(
    statistics: Mapping[str, PairStatistics],
    dialogues: Sequence[Hashable] | None = None,
    samples: int = 1000,
    seed: int = 42,
) -> dict[str, list[float]]:
    """Give metrics their 95 % intervals, `[low, high]`: percentiles of bootstrap resamples.

    As in sacreBLEU, one fortieth of the resamples is left out on each side. Koehn (2004) draws
    sentences; the pairs of a dialogue are alike, which makes those intervals too narrow.

    Distinct-n, entropy and self-BLEU have no interval: a resample draws some pairs twice, so it is
    always less diverse than the replies are.

    Fewer than two dialogues (or pairs, without `dialogues`) have none: all resamples would be
    equal.
    """
    statistics = with_intervals(statistics)
    if statistics and dialogues is None:
        dialogues = range(len(next(iter(statistics.values())).columns))
    if not statistics or len(set(dialogues)) < 2:
        return {}
    result = {}
    for name, values in bootstrap(statistics, samples, seed, dialogues).items():
        values, cut = np.sort(values), samples // 40
        result[name] = [float(values[cut]), float(values[-1 - cut])]
    return result


def doubt_of_few(dialogues: int, rough: str) -> list[str]:
    """Say in a sentence what is rough, such as `p is`, if fewer than `FEW` dialogues are drawn."""
    if dialogues >= FEW:
        return []
    return [f"There are {dialogues} dialogues: with fewer than {FEW}, {rough} rough."]
