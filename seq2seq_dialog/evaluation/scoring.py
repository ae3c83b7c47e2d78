"""The evaluation of a run: the model and what it has to beat, on all pairs and on clean ones.

A score alone says little. On DailyDialog a copy of the nearest training reply has a sacreBLEU of 34
on the test split, since much of it stands in train. So the replies of a model are put beside those
of baselines, each on the whole split and on its clean pairs (`overlap`), by each protocol.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from datasets import Dataset

from .baselines import most_frequent_reply, nearest_replies, random_replies
from .bootstrap import intervals
from .diversity import by_length, by_turn, quality
from .metrics import perplexity
from .protocols import score, second_human

MODEL, NEAREST = "model", "nearest training context"
RANDOM, FREQUENT = "random training reply", "most frequent reply"
HUMAN = "second human reference"
COMPARED = {"bleu": "sacreBLEU", "rouge_l": "ROUGE-L"}  # what the verdict goes by


def describe(decoding: dict) -> str:
    """Name decoding settings in a line: `greedy, max_new_tokens=40`."""
    kind = "sampling" if decoding["do_sample"] else "beam search"
    if kind == "beam search" and decoding["num_beams"] == 1:
        kind = "greedy"
    neutral = {"num_beams": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    neutral |= {"no_repeat_ngram_size": 0, "repetition_penalty": 1.0, "length_penalty": 1.0}
    names = [name for name in decoding if name in neutral or name == "max_new_tokens"]
    told = [f"{n}={decoding[n]}" for n in names if decoding[n] not in (None, neutral.get(n))]
    return ", ".join([kind, *told])


def evaluate(
    predictions: Sequence[dict],
    train: Dataset,
    rows: Dataset,
    clean: np.ndarray | None,
    split: str,
    decoding: dict,
    spaced: bool = False,
    several: Sequence[Sequence[str]] | None = None,
    seed: int = 42,
) -> dict:
    """Score the replies of a model and of the baselines.

    Args:
        predictions: of each pair `turn`, `dialogue_id`, `reference`, `reply`, `nll`, `tokens`.
        train: training rows, with `context` and `response`.
        rows: the evaluated rows, in the order of `predictions`.
        clean: (pairs,), True where nothing of the pair stands in train; None if that is not known.
        split: the name of what is evaluated.
        decoding: the settings that the replies were decoded with.
        spaced: the text is in DailyDialog's own spaced tokens.
        several: references of each pair, for the protocol `multiref`; the second human reference,
            scored against the other four, then stands beside the systems, scored against the same.
        seed: of the random baseline and of the bootstrap.

    Returns:
        `split`, `decoding`; `results`, a dict per system, protocol and subset, with `metrics`,
        `signature`, `pairs` and, for the model, 95 % `intervals`; `quality` by system; `verdict`,
        sentences.
    """
    references = [row["reference"] for row in predictions]
    replies = {
        MODEL: [row["reply"] for row in predictions],
        NEAREST: nearest_replies(train, rows),
        RANDOM: random_replies(train, len(predictions), seed),
        FREQUENT: [most_frequent_reply(train)] * len(predictions),
    }
    subsets = {"full": np.ones(len(predictions), bool)}
    if clean is not None:
        subsets["clean"] = np.asarray(clean)
    results = []
    for subset, mask in subsets.items():
        chosen = np.flatnonzero(mask).tolist()
        if not chosen:
            continue
        for system, protocol, texts, targets in _scored(replies, references, several):
            own = [texts[i] for i in chosen], [targets[i] for i in chosen]
            metrics, signature = score(protocol.split("-")[0], *own, spaced)
            result = {"system": system, "protocol": protocol, "subset": subset, "split": split}
            result["decoding"] = describe(decoding) if system == MODEL else ""
            result |= {"signature": signature, "pairs": len(chosen), "metrics": metrics}
            if system == MODEL and protocol == "default":
                picked = [predictions[i] for i in chosen]
                nll, tokens, dialogues = (
                    [row[key] for row in picked] for key in ("nll", "tokens", "dialogue_id")
                )
                metrics["perplexity"] = perplexity(float(np.sum(nll)), int(np.sum(tokens)))
                result["intervals"] = intervals(*own, nll, tokens, dialogues, seed=seed)
            results.append(result)
    training_replies = train["response"]
    about = {}
    for system, texts in replies.items():
        about[system] = {
            subset: quality(
                [texts[i] for i in np.flatnonzero(mask)],
                [references[i] for i in np.flatnonzero(mask)],
                training_replies,
            )
            for subset, mask in subsets.items()
            if mask.any()
        }
    columns = {key: [row[key] for row in predictions] for key in ("nll", "tokens", "turn")}
    texts = (replies[MODEL], references, training_replies, columns["nll"], columns["tokens"])
    about[MODEL]["by_turn"] = by_turn(columns["turn"], *texts)
    about[MODEL]["by_length"] = by_length(*texts)
    found = {"split": split, "decoding": decoding, "results": results, "quality": about}
    return found | {"verdict": verdict(results)}


def _scored(replies: dict, references, several) -> Iterator[tuple]:
    """Yield system, protocol, its replies and what they are compared with."""
    for protocol in ("default", "plato"):
        for system, texts in replies.items():
            yield system, protocol, texts, references
    if several is not None:
        human, four = second_human(several)
        for system, texts in replies.items():
            yield system, "multiref", texts, several
        for system, texts in {HUMAN: human, **replies}.items():
            yield system, "multiref-4", texts, four


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
        words = []
        for name, label in COMPARED.items():
            (low, high), other = model["intervals"][name], row["metrics"][name]
            how = "above" if low > other else "below" if high < other else "level with"
            words.append(f"{how} in {label} ({model['metrics'][name]:.2f} and {other:.2f})")
        beats = all(word.startswith("above") for word in words)
        sentences.append(
            f"On {where} the model {'beats' if beats else 'does not beat'} the {system}: "
            f"{', '.join(words)}."
        )
    return sentences
