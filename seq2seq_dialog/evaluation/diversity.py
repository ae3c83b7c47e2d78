"""How diverse replies are, and what they are like as answers.

Beside likeness to a reference: does a system repeat itself, its training data, or one reply to
everyone; is it as talkative as people; does it hold up in later turns and for longer answers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..dataset_script.dialogues import normalised
from .metrics import PairStatistics, distinct, entropy, mean_words, self_bleu
from .text import ngrams, words

# What pairs are grouped by, turns of context or words of reference: the greatest size of a group.
LIMITS = {
    "turns": {"1": 1, "2": 2, "3-4": 4, "5-8": 8, "9-": math.inf},
    "words": {"1-5": 5, "6-10": 10, "11-20": 20, "21-": math.inf},
}
COMPARED = ("bleu_2", "rouge_l", "perplexity")  # what groups are measured in besides


def repetition(replies: Iterable[str]) -> float:
    """Seq-rep-3 (Welleck et al., 2020): 3-grams that a reply has had before.

    Percent of all 3-grams of a reply, mean over the replies that have any; 0 where none has.
    3-grams are of lower-cased white-space words.
    """
    shares = []
    for reply in replies:
        counts = Counter(ngrams(words(reply), 3))
        if counts:
            shares.append(1 - len(counts) / counts.total())
    return 100 * math.fsum(shares) / max(1, len(shares))


def stock_phrases(normal: Sequence[str]) -> set[str]:
    """Find what is said at least twice, and in at least one of a hundred `normalised` replies."""
    counts = Counter(normal)
    return {text for text, count in counts.items() if count > 1 and 100 * count >= len(normal)}


def diversity(
    replies: Sequence[str],
    references: Sequence[str],
    known: set[str],
    stock: set[str] | None = None,
) -> dict[str, float]:
    """Measure how diverse replies are, and what they are like as answers.

    Two replies say the same if they are the same `normalised`.
    `distinct_*`, `entropy_4` and `self_bleu` move with the number of replies: compare systems on
    the same contexts, and all of them with the references as replies, which people gave.

    Args:
        known: all responses of the training data, `normalised`.
        stock: what counts as generic, by default the `stock_phrases` of these replies.

    Returns:
        Figures by key of the catalogue; all are 0 for no replies. A reply without letters and
        digits is not `copied`.
    """
    normal = [normalised(reply) for reply in replies]
    stock = stock_phrases(normal) if stock is None else stock
    count = max(1, len(replies))
    lengths = [sum(len(words(text)) for text in texts) for texts in (replies, references)]
    copied = sum(any(map(str.isalnum, text)) and text in known for text in normal)
    return {
        **{f"distinct_{n}": distinct(replies, n) for n in (1, 2, 3)},
        "entropy_4": entropy(replies, 4),
        "self_bleu": self_bleu(replies),
        "copied": 100 * copied / count,
        "generic": 100 * sum(text in stock for text in normal) / count,
        "repetition": repetition(replies),
        "length_ratio": lengths[0] / lengths[1] if lengths[1] else 0.0,
        "reply_words": mean_words(replies),
    }


def self_chat(contexts: Sequence[Sequence[str]], replies: Sequence[str]) -> dict[str, float]:
    """Measure how much a speaker repeats, within its dialogues and across them.

    `distinct_*` move with the number of replies: compare speakers with as many.

    Args:
        contexts: of each reply, the turns of its dialogue before it.

    Returns:
        Figures by key of the catalogue; all are 0 for no replies.
    """
    normal = [normalised(reply) for reply in replies]
    stock, count = stock_phrases(normal), max(1, len(replies))
    again = sum(
        text in map(normalised, context) for text, context in zip(normal, contexts, strict=True)
    )
    return {
        "repeated_replies": 100 * again / count,
        "repeated_ngrams": repetition_of_context(contexts, replies),
        "distinct_replies": 100 * len(set(normal)) / count,
        "distinct_2": distinct(replies, 2),
        "generic": 100 * sum(text in stock for text in normal) / count,
        "reply_words": mean_words(replies),
    }


def repetition_of_context(contexts: Sequence[Sequence[str]], replies: Sequence[str]) -> float:
    """3-grams of a reply that a turn before it has: percent, mean over replies that have any."""
    shares = []
    for context, reply in zip(contexts, replies, strict=True):
        known = {ngram for turn in context for ngram in ngrams(words(turn), 3)}
        of_reply = list(ngrams(words(reply), 3))
        if of_reply:
            shares.append(sum(ngram in known for ngram in of_reply) / len(of_reply))
    return 100 * math.fsum(shares) / max(1, len(shares))


def by_size(
    kind: str,
    sizes: Sequence[int],
    replies: Sequence[str],
    references: Sequence[str],
    known: set[str],
    statistics: Mapping[str, PairStatistics],
) -> list[dict]:
    """Measure groups of pairs: each holds the sizes above the limit before and up to its own.

    Groups differ in their number of pairs, which moves `distinct_*`, `entropy_4` and `self_bleu`:
    compare systems within a group rather than groups.

    Args:
        kind: `turns` or `words`, of `LIMITS`.
        sizes: of each pair, turns of its context or white-space words of its reference.

    Returns:
        For each group that has a pair its name, under `kind`, `pairs`, `diversity` (with the stock
        phrases of all groups together) and `COMPARED`.
    """
    stock = stock_phrases([normalised(reply) for reply in replies])
    place = np.searchsorted(list(LIMITS[kind].values()), list(sizes))  # (pairs,)
    groups = []
    for i, group in enumerate(LIMITS[kind]):
        rows = np.flatnonzero(place == i)
        if len(rows):
            texts = ([column[row] for row in rows] for column in (replies, references))
            compared = {k: statistics[k].of(rows).figure() for k in COMPARED if k in statistics}
            figures = diversity(*texts, known, stock) | compared
            groups.append({kind: group, "pairs": len(rows), **figures})
    return groups
