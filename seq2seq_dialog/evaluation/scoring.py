"""The evaluation of a run: the model and what it has to beat, on all pairs and on clean ones.

A score alone says little: on DailyDialog a copy of the nearest training reply beats every model in
sacreBLEU, because many test pairs appear in the training set. So the replies of a model are put
beside those of baselines, each on the whole split and on its clean pairs (`data.overlap`), by each
protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from datasets import Dataset

from .baselines import most_frequent_reply, nearest_replies, random_replies
from .bootstrap import intervals
from .catalogue import METRICS
from .diversity import by_size, diversity
from .metrics import PairStatistics, figures, pair_statistics
from .protocols import default_signature, score, second_human
from .text import normalised, words

MODEL, NEAREST = "model", "nearest training context"
RANDOM, FREQUENT = "random training reply", "most frequent reply"
HUMAN = "second human reference"
VERDICT = ("bleu", "rouge_l")  # what the verdict goes by: metrics with an interval


def describe_decoding(decoding: Mapping) -> str:
    """Name decoding settings in a line: `greedy, max_new_tokens=40`."""
    kind = "sampling" if decoding["do_sample"] else "beam search"
    if kind == "beam search" and decoding["num_beams"] == 1:
        kind = "greedy"
    neutral = {"top_k": 0, "no_repeat_ngram_size": 0, "max_new_tokens": None}
    ones = ("num_beams", "temperature", "top_p", "repetition_penalty", "length_penalty")
    neutral |= dict.fromkeys(ones, 1)
    settings = [
        f"{name}={value}"
        for name, value in decoding.items()
        if name in neutral and value not in (None, neutral[name])
    ]
    return ", ".join([kind, *settings])


def evaluate(
    predictions: Sequence[dict],
    train: Dataset,
    rows: Dataset,
    clean: np.ndarray | None,
    split: str,
    decoding: dict,
    spaced: bool = False,
    multireference: Sequence[Sequence[str]] | None = None,
    seed: int = 42,
) -> dict:
    """Score the replies of a model and of the baselines.

    Args:
        predictions: of each pair `turn`, `dialogue_id`, `reference`, `reply`, `nll`, `tokens`.
        train: training rows, with `context` and `response`.
        rows: the evaluated rows, in the order of `predictions`.
        clean: (pairs,), True where nothing of the pair appears in the training set; None if that is
            not known.
        split: the name of what is evaluated.
        decoding: the settings that the replies were decoded with.
        spaced: the text is in DailyDialog's own spaced tokens.
        multireference: references of each pair, for the protocol `multiref`. The second human
            reference then stands beside the systems; all are scored against the other four.
        seed: of the random baseline and of the bootstrap.

    Returns:
        `split`, `decoding`; `results`, a dict per system, protocol and subset, with `metrics`,
        `signature`, `pairs` and, for the model, 95 % `intervals`; `quality`, what `diversity` says,
        by system; `verdict`, sentences.
    """
    references = [row["reference"] for row in predictions]
    replies = {
        MODEL: [row["reply"] for row in predictions],
        NEAREST: nearest_replies(train, rows),
        RANDOM: random_replies(train, len(predictions), seed),
        FREQUENT: [most_frequent_reply(train)] * len(predictions),
    }
    subsets = {"full": np.arange(len(predictions))}
    if clean is not None and np.any(clean):
        subsets["clean"] = np.flatnonzero(clean)
    nll, tokens, turns, dialogues = (
        [row[key] for row in predictions] for key in ("nll", "tokens", "turn", "dialogue_id")
    )
    statistics = {
        system: pair_statistics(texts, references, *((nll, tokens) if system == MODEL else ()))
        for system, texts in replies.items()
    }
    results = []
    for subset, chosen in subsets.items():
        for system, protocol, texts, targets in _scored(replies, references, multireference):
            pairs = [texts[i] for i in chosen], [targets[i] for i in chosen]
            result = {
                "system": system,
                "protocol": protocol,
                "subset": subset,
                "split": split,
                "decoding": describe_decoding(decoding) if system == MODEL else "",
                "pairs": len(chosen),
            }
            if protocol == "default":
                of_subset = {key: metric.of(chosen) for key, metric in statistics[system].items()}
                result["metrics"] = figures(of_subset, *pairs)
                result["signature"] = default_signature()
                if system == MODEL:
                    drawn_from = [dialogues[i] for i in chosen]
                    result["intervals"] = intervals(of_subset, drawn_from, seed=seed)
            else:
                scores = score(protocol.split("-")[0], *pairs, spaced)
                result["metrics"], result["signature"] = scores
            results.append(result)
    return {
        "split": split,
        "decoding": decoding,
        "results": results,
        "quality": _diversity(
            replies, references, train["response"], subsets, turns, statistics[MODEL]
        ),
        "verdict": verdict(results),
    }


def _scored(replies: dict, references, multireference) -> Iterator[tuple]:
    """Yield system, protocol, its replies and what they are compared with."""
    for protocol in ("default", "plato"):
        for system, texts in replies.items():
            yield system, protocol, texts, references
    if multireference is not None:
        human, other_references = second_human(multireference)
        for system, texts in replies.items():
            yield system, "multiref", texts, multireference
        for system, texts in {HUMAN: human, **replies}.items():
            yield system, "multiref-4", texts, other_references


def _diversity(
    replies: dict[str, Sequence[str]],
    references: Sequence[str],
    training_replies: Iterable[str],
    subsets: dict[str, np.ndarray],
    turns: Sequence[int],
    statistics: dict[str, PairStatistics],
) -> dict:
    """Measure diversity by system and subset; of the model also by turn and by length."""
    known = {normalised(reply) for reply in training_replies}
    measured = {
        system: {
            subset: diversity([texts[i] for i in chosen], [references[i] for i in chosen], known)
            for subset, chosen in subsets.items()
        }
        for system, texts in replies.items()
    }
    lengths = [len(words(text)) for text in references]
    for key, kind, sizes in (("by_turn", "turns", turns), ("by_length", "words", lengths)):
        measured[MODEL][key] = by_size(kind, sizes, replies[MODEL], references, known, statistics)
    return measured


def verdict(results: Sequence[dict]) -> list[str]:
    """Say in a sentence per baseline whether the model beats it, on clean pairs if there are any.

    It does in a metric if its whole 95 % interval lies above the baseline's figure.
    """
    rows = [row for row in results if row["protocol"] == "default"]
    subset = "clean" if any(row["subset"] == "clean" for row in rows) else "full"
    rows = {row["system"]: row for row in rows if row["subset"] == subset}
    model, where = rows[MODEL], "clean pairs" if subset == "clean" else "all pairs"
    sentences = []
    for system, row in rows.items():
        if system == MODEL:
            continue
        comparisons = []
        for name in VERDICT:
            (low, high), other = model["intervals"][name], row["metrics"][name]
            how = "above" if low > other else "below" if high < other else "level with"
            values = f"({model['metrics'][name]:.2f} and {other:.2f})"
            comparisons.append(f"{how} in {METRICS[name].label} {values}")
        beats = all(comparison.startswith("above") for comparison in comparisons)
        sentences.append(
            f"On {where} the model {'beats' if beats else 'does not beat'} the {system}: "
            f"{', '.join(comparisons)}."
        )
    return sentences
