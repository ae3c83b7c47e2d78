"""The evaluation of a run: the model and what it has to beat, on all pairs and on clean ones.

A score alone says little: on DailyDialog a copy of the nearest training reply beats every model in
sacreBLEU, because many test pairs appear in the training set. So the replies of a model are put
beside those of baselines, each on the whole split and on its clean pairs (`data.overlap`), by each
protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from datasets import Dataset

from ..dataset_script.dialogues import normalised
from ..portable.context import count_background
from .baselines import most_frequent_reply, nearest_replies, random_replies
from .bootstrap import doubt_of_few, intervals
from .catalogue import LEADING, METRICS
from .diversity import by_size, diversity
from .metrics import likelihood_statistics
from .protocols import Scored, default, multiref, plato, second_human
from .text import BY_CHARACTERS, segmented, tokenizer_of, words

MODEL, NEAREST = "model", "nearest training context"
RANDOM, FREQUENT = "random training reply", "most frequent reply"
HUMAN = "second human reference"
# The settings of decoding that a report names, and the value at which each changes nothing.
NEUTRAL = {
    "max_new_tokens": None,
    "num_beams": 1,
    "temperature": 1,
    "top_p": 1,
    "top_k": 0,
    "no_repeat_ngram_size": 0,
    "repetition_penalty": 1,
    "length_penalty": 1,
    "candidates": 1,
    "rerank": None,
    "reverse_model": None,
    "guidance_weight": 0,
    "guidance_tokens": 0,
}


def describe_decoding(decoding: Mapping) -> str:
    """Name decoding settings in a line: `greedy, max_new_tokens=40`."""
    kind = "greedy" if decoding["num_beams"] == 1 else "beam search"
    named = [
        f"{name}={value}"
        for name, value in decoding.items()
        if name in NEUTRAL and value not in (None, NEUTRAL[name])
    ]
    return ", ".join(["sampling" if decoding["do_sample"] else kind, *named])


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
    language: str = "en",
) -> dict:
    """Score the replies of a model and of the baselines.

    Args:
        predictions: of each of `rows` `dialogue_id`, `context`, `reference`, `reply`, and what
            `likelihood_statistics` takes.
        clean: (pairs,), which are, by `overlap.DEFINITIONS`; None if not known.
        spaced: the text is in DailyDialog's own spaced tokens.
        multireference: references of each pair, for the protocols `multiref` and `multiref-4`.
        language: what the dialogues are written in.

    Returns:
        `split`, `decoding`, `diversity`, `verdict` (sentences), and `results`, a dict per system,
        protocol and subset, with 95 % `intervals` for the model.
    """
    references, model_replies, contexts, dialogues = (
        [row[key] for row in predictions]
        for key in ("reference", "reply", "context", "dialogue_id")
    )
    turns = [len(context) - count_background(context) for context in contexts]
    replies = {
        MODEL: model_replies,
        NEAREST: nearest_replies(train, rows, language),
        RANDOM: random_replies(train, len(predictions), seed),
        FREQUENT: [most_frequent_reply(train)] * len(predictions),
    }
    subsets = {"full": np.arange(len(predictions))}
    if clean is not None and np.any(clean):
        subsets["clean"] = np.flatnonzero(clean)

    scored = _score(replies, references, multireference, spaced, language)
    scored[MODEL, "default"].statistics.update(likelihood_statistics(predictions))
    results = _results(scored, subsets, split, describe_decoding(decoding), dialogues, seed)
    replies = {system: segmented(texts, language) for system, texts in replies.items()}
    references = segmented(references, language)
    diversity = _diversity(replies, references, train["response"], subsets, turns, scored)
    shown = {"results": results, "diversity": diversity, "verdict": verdict(results, language)}
    return {"split": split, "decoding": decoding, **shown}


def _results(
    scored: dict[tuple[str, str], Scored],
    subsets: dict[str, np.ndarray],
    split: str,
    decoding: str,
    dialogues: Sequence[str],
    seed: int,
) -> list[dict]:
    """List the figures of each system, protocol and subset, with intervals for the model."""
    results = []
    for subset, chosen in subsets.items():
        for (system, protocol), of_all in scored.items():
            of_subset = of_all.of(chosen)
            result = {
                "system": system,
                "protocol": protocol,
                "subset": subset,
                "split": split,
                "decoding": decoding if system == MODEL else "",
                "pairs": len(chosen),
                "metrics": of_subset.figures(),
                "signature": of_subset.signature,
            }
            if (system, protocol) == (MODEL, "default"):
                drawn_from = [dialogues[i] for i in chosen]
                result["dialogues"] = len(set(drawn_from))
                result["intervals"] = intervals(of_subset.statistics, drawn_from, seed=seed)
            results.append(result)
    return results


def _score(
    replies: dict[str, Sequence[str]],
    references: Sequence[str],
    multireference: Sequence[Sequence[str]] | None,
    spaced: bool,
    language: str,
) -> dict[tuple[str, str], Scored]:
    """Score all pairs by system and protocol.

    With `multireference` the second human reference stands beside the systems, and all are scored
    against the other four as well.
    """
    scored = {}
    for system, texts in replies.items():
        scored[system, "default"] = default(texts, references, spaced, language)
    for system, texts in replies.items():
        scored[system, "plato"] = plato(texts, references, spaced, language)
    if multireference is not None:
        human, other_references = second_human(multireference)
        for system, texts in replies.items():
            scored[system, "multiref"] = multiref(texts, multireference)
        for system, texts in {HUMAN: human, **replies}.items():
            scored[system, "multiref-4"] = multiref(texts, other_references)
    return scored


def _diversity(
    replies: dict[str, Sequence[str]],
    references: Sequence[str],
    training_replies: Iterable[str],
    subsets: dict[str, np.ndarray],
    turns: Sequence[int],
    scored: dict[tuple[str, str], Scored],
) -> dict:
    """Measure diversity by system and subset; of the model by turns and length, too."""
    known = {normalised(reply) for reply in training_replies}
    measured = {
        system: {
            subset: diversity([texts[i] for i in chosen], [references[i] for i in chosen], known)
            for subset, chosen in subsets.items()
        }
        for system, texts in replies.items()
    }
    statistics = scored[MODEL, "default"].statistics
    lengths = [len(words(text)) for text in references]
    for key, kind, sizes in (("by_turn", "turns", turns), ("by_length", "words", lengths)):
        measured[MODEL][key] = by_size(kind, sizes, replies[MODEL], references, known, statistics)
    return measured


def verdict(results: Sequence[dict], language: str = "en") -> list[str]:
    """Say in a sentence per baseline whether the model beats it, on clean pairs if there are any.

    It does in a metric if its whole 95 % interval lies above the baseline's figure. The metrics are
    the `LEADING` ones that there are. Pairs of one dialogue have no interval, and tell nothing.
    """
    by_characters = tokenizer_of(language) == BY_CHARACTERS
    rows = [row for row in results if row["protocol"] == "default"]
    subset = "clean" if any(row["subset"] == "clean" for row in rows) else "full"
    rows = {row["system"]: row for row in rows if row["subset"] == subset}
    model, where = rows[MODEL], "clean pairs" if subset == "clean" else "all pairs"
    if not model["intervals"]:
        return [
            f"There are too few dialogues to tell whether the model beats the baselines: the "
            f"{model['pairs']:,} {where.removeprefix('all ')} are of one dialogue."
        ]
    sentences = []
    for system, row in rows.items():
        if system == MODEL:
            continue
        comparisons = []
        names = [name for name in LEADING if name in model["metrics"]]
        for name in ("chrf",) if by_characters else names:
            (low, high), other = model["intervals"][name], row["metrics"][name]
            how = "above" if low > other else "below" if high < other else "level"
            values = f"({model['metrics'][name]:.2f} and {other:.2f})"
            comparisons.append(f"{how} in {METRICS[name].label} {values}")
        beats = all(comparison.startswith("above") for comparison in comparisons)
        sentences.append(
            f"On {where} the model {'beats' if beats else 'does not beat'} the {system}: "
            f"{', '.join(comparisons)}."
        )
    if by_characters:
        sentences.append(
            f"The verdict goes by chrF: no tokenizer for words of the language {language} is at "
            "hand, so BLEU, ROUGE and the figures of words count characters."
        )
    return sentences + doubt_of_few(model["dialogues"], "the intervals are")
