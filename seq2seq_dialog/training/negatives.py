"""Rejected replies made of ordinary dialogues: each pair gets one, of a kind drawn by the seed."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from ..dataset_script.dialogues import normalised
from ..errors import UsageError
from .sampling import decoding_bare

MOST_PHRASES = 100  # of the replies that come most often
DRAWS = 50  # tries to find a reply that says something else


def draw_negatives(
    trainer, features: Dataset, train_replies: Sequence[str]
) -> tuple[list[str], list[bool]]:
    """Draw a rejected reply for each pair, of the kinds in `negatives`, each for as many pairs.

    A sample may, by chance, be the chosen reply; such a pair teaches nothing. Returns the replies,
    and of each whether it is a sample that the length limit cut.

    Args:
        trainer: a `PreferenceTrainer`; its model is that which samples.
        features: rows of context, response and dialogue_id, encoded.
        train_replies: of which the stock phrases are.
    """
    kinds, seed = trainer.preferences.negatives, trainer.args.seed
    rng = np.random.default_rng((seed, len(features)))
    kind_of = rng.permutation(np.arange(len(features)) % len(kinds))  # (pairs,)
    replies, dialogue_ids = list(features["response"]), list(features["dialogue_id"])
    phrases = frequent_replies(train_replies) if "stock_phrases" in kinds else {}
    texts, cut = [""] * len(features), [False] * len(features)
    for place in range(len(features)):
        kind = kinds[kind_of[place]]
        if kind == "other_contexts":
            texts[place] = other_reply(place, replies, dialogue_ids, rng)
        elif kind == "stock_phrases":
            texts[place] = other_phrase(replies[place], phrases, rng)
    places = np.flatnonzero(kind_of == kinds.index("samples")) if "samples" in kinds else ()
    if len(places):
        with decoding_bare(trainer.model, temperature=1.0):
            examples = trainer.measure(features.select(places), with_replies=True)
        for place, example in zip(places, examples, strict=True):
            texts[place], cut[place] = example["reply"], example["reply_cut"]
    return texts, cut


def other_reply(
    place: int, replies: Sequence[str], dialogue_ids: Sequence[str], rng: np.random.Generator
) -> str:
    """Draw a reply of another dialogue that says something else than the one at `place`."""
    for _ in range(DRAWS):
        other = int(rng.integers(len(replies)))
        is_elsewhere = dialogue_ids[other] != dialogue_ids[place]
        if is_elsewhere and normalised(replies[other]) != normalised(replies[place]):
            return replies[other]
    raise UsageError(
        f"negatives has other_contexts, but of {len(set(dialogue_ids)):,} dialogues hardly any "
        "has another reply to take: give more dialogues."
    )


def frequent_replies(replies: Sequence[str]) -> dict[str, int]:
    """Find the replies said most often, each at least twice, and how often.

    Replies that are the same `normalised` count together, as the first of them is written.
    """
    counts, written = Counter(), {}
    for reply in replies:
        key = normalised(reply)
        counts[key] += 1
        written.setdefault(key, reply)
    common = counts.most_common(MOST_PHRASES)
    return {written[key]: count for key, count in common if count > 1 and key}


def other_phrase(reply: str, phrases: dict[str, int], rng: np.random.Generator) -> str:
    """Draw a stock phrase, by how often it is said, that says something else than `reply`."""
    others = [phrase for phrase in phrases if normalised(phrase) != normalised(reply)]
    if not others:
        raise UsageError(
            "stock phrases are replies that are said at least twice, of which the training data "
            f"has {len(phrases)}: two are needed. Take stock_phrases out."
        )
    weights = np.array([phrases[phrase] for phrase in others], float)
    return str(rng.choice(others, p=weights / weights.sum()))
