"""Several sources of dialogues, each with a weight: the setting `data`, and what an epoch draws.

An epoch holds each training dialogue of a source `weight` times. Of a weight with a fraction, that
share of the dialogues comes once more, others in each epoch. The draw depends on the seed and the
epoch alone, so a run goes on from any checkpoint as if it had not stopped.

A stream does not know how many dialogues its sources have, and has no epochs: there a weight is a
share. Of the dialogues drawn, a source gives its weight over the sum of all weights.
"""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from datasets import Dataset

from .. import strict_yaml
from ..errors import UsageError, nearest

EXAMPLE = "data: [{path: mine.txt, weight: 2.0}, {path: others.txt.gz}]"


class WeightedSource(NamedTuple):
    """One of several sources."""

    name: str  # by default the name of the file or folder, without .txt and .gz
    path: str  # as given
    weight: float  # how many times an epoch holds each dialogue


def parse_sources(data: str | list | None) -> list[WeightedSource] | None:
    """Read the setting `data` where it lists sources; None where it is a single path."""
    if data is None or (isinstance(data, str) and not data.lstrip().startswith("[")):
        return None
    try:
        entries = strict_yaml.load(data) if isinstance(data, str) else data
    except yaml.YAMLError:
        entries = None
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("path"), str) for entry in entries
    ):
        raise UsageError(
            f"data is {data!r}; it must be a path, or a list of sources that each have a path, for "
            f"example {EXAMPLE}"
        )
    sources: list[WeightedSource] = []
    known = ("path", "weight", "name")
    for entry in entries:
        for key in entry:
            if key not in known:
                raise UsageError(
                    f"data: {entry['path']} has {key!r}; a source has path, weight and name."
                    f"{nearest(str(key), known)}"
                )
        weight = entry.get("weight", 1.0)
        if not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise UsageError(
                f"data: {entry['path']} has weight {weight!r}; it must be a number above 0. Leave "
                "the source out where it is not wanted."
            )
        name = str(entry.get("name") or re.sub(r"(\.txt)?(\.gz)?$", "", Path(entry["path"]).name))
        if name in (source.name for source in sources):
            raise UsageError(
                f"data: two sources are called {name!r}, but each needs its own name. Give one as "
                f"{{path: {entry['path']}, name: ...}}."
            )
        sources.append(WeightedSource(name, entry["path"], float(weight)))
    if not sources:
        raise UsageError(f"data lists no source. Give at least one, for example {EXAMPLE}")
    return sources


def first_rows(rows: Dataset, limit: int, sources: list[WeightedSource] | None) -> Dataset:
    """Take `limit` rows, rounded up: of several sources by their rows times their weights."""
    if sources is None:
        return rows.select(range(min(limit, len(rows))))
    names = np.asarray(rows["source"][:])
    places = [np.flatnonzero(names == source.name) for source in sources]
    sizes = [source.weight * len(each) for source, each in zip(sources, places, strict=True)]
    counts = [math.ceil(limit * size / sum(sizes)) for size in sizes]
    return rows.select(
        np.concatenate([each[:count] for each, count in zip(places, counts, strict=True)])
    )


def draw_stream(
    readers: dict[WeightedSource, Callable[[], Iterator[dict]]], once: bool = False
) -> Iterator[dict]:
    """Draw rows from several sources, dialogue by dialogue, always in the same order.

    `readers` has for each source a function that reads its rows from the first one on. A source
    that ends begins anew, without end or, with `once`, until each has ended.
    """
    sources = list(readers)
    weights = np.array([source.weight for source in sources])
    dialogues = [_dialogues(source, read) for source, read in readers.items()]
    ended = set()
    rng = np.random.default_rng(0)
    while True:
        for number in rng.choice(len(sources), size=1000, p=weights / weights.sum()):
            dialogue = next(dialogues[number], None)
            if dialogue is None:
                ended.add(number)
                if once and len(ended) == len(sources):
                    return
                dialogues[number] = _dialogues(sources[number], readers[sources[number]])
                dialogue = next(dialogues[number])
            for row in dialogue:
                yield label_row(row, sources[number])


def label_row(row: dict, source: WeightedSource) -> dict:
    """Say in a row which source it is of, also in the id: those of two sources may be equal."""
    return row | {"dialogue_id": f"{source.name}:{row['dialogue_id']}", "source": source.name}


def _dialogues(source: WeightedSource, read: Callable[[], Iterator[dict]]) -> Iterator[list[dict]]:
    """Read the rows of each dialogue of a source."""
    dialogue: list[dict] = []
    for row in read():
        if row["turn"] == 1 and dialogue:
            yield dialogue
            dialogue = []
        dialogue.append(row)
    if not dialogue:
        raise UsageError(f"data: {source.path} has no training pair. Leave it out.")
    yield dialogue


class Draw:
    """Chooses the examples of an epoch.

    `features`, of training and dialogue by dialogue, have the columns `source` and `turn`.
    """

    def __init__(self, features: Dataset, weights: dict[str, float], seed: int):
        turns = np.asarray(features.with_format("numpy")["turn"][:])  # (examples,)
        self.starts = np.flatnonzero(turns == 1)  # (dialogues,)
        self.sizes = np.diff(self.starts, append=len(turns))  # (dialogues,)
        names = np.asarray(features["source"][:])[self.starts]  # (dialogues,)
        self.dialogues = [(np.flatnonzero(names == name), w) for name, w in weights.items()]
        self.seed = seed

    def __call__(self, epoch: int) -> np.ndarray:
        """Return the examples of an epoch, (examples,): indices of features, some repeated."""
        drawn = []
        for number, (dialogues, weight) in enumerate(self.dialogues):
            rng = np.random.default_rng((self.seed, epoch, number))
            fraction, whole = math.modf(weight)
            # Rounded up or down by chance, so that a small source comes in some epochs.
            count = int(fraction * len(dialogues) + rng.random())
            drawn += [dialogues] * int(whole) + [rng.permutation(dialogues)[:count]]
        drawn = np.sort(np.concatenate(drawn))
        sizes = self.sizes[drawn]
        before = np.cumsum(sizes) - sizes
        return np.repeat(self.starts[drawn] - before, sizes) + np.arange(sizes.sum())
