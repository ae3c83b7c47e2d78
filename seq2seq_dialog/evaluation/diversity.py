"""How diverse replies are, what they are like as answers, and how far to trust a figure.

Beside likeness to a reference: does a system repeat itself, its training data, or one reply to
everyone; is it as talkative as people; does it hold up in later turns and for longer answers. And
of the metrics that compare with references, intervals by the bootstrap (Koehn, 2004), for which
each metric is kept as the sums over pairs that it is made of: a resample is then new sums, and the
texts are read once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from .bootstrap import pair_statistics
from .metrics import distinct, entropy, self_bleu
from .text import normalised

TURNS = {"1": 1, "2": 2, "3-4": 4, "5-8": 8, "9-": math.inf}  # group: its greatest number
WORDS = {"1-5": 5, "6-10": 10, "11-20": 20, "21-": math.inf}


def repetition(replies: Iterable[str], n: int = 3) -> float:
    """Seq-rep-n (Welleck et al., 2020): n-grams that a reply has had before.

    Percent of all n-grams of a reply, mean over the replies that have any; 0 where none has.
    n-grams are of lower-cased white-space words.
    """
    shares = []
    for reply in replies:
        words = reply.lower().split()
        ngrams = list(zip(*(words[i:] for i in range(n)), strict=False))
        if ngrams:
            shares.append(1 - len(set(ngrams)) / len(ngrams))
    return 100 * math.fsum(shares) / max(1, len(shares))


def _plain(texts: Iterable[str]) -> list[str]:
    return list(map(normalised, texts))


def _stock(plain: Sequence[str]) -> set[str]:
    """What is said at least twice, and in at least one of a hundred replies."""
    counts = Counter(plain)
    return {text for text, count in counts.items() if count > 1 and 100 * count >= len(plain)}


def quality(
    replies: Sequence[str], references: Sequence[str], training_replies: Iterable[str]
) -> dict:
    """Measure the diversity of replies, and what they are like as answers.

    Two replies say the same if they have the same letters and digits in the same order, casefolded.
    `distinct_*`, `entropy_4` and `self_bleu` move with the number of replies: compare systems on
    the same contexts, and all of them with the references as replies, which people gave.

    Args:
        replies, references: strings, one reference each.
        training_replies: all responses of the training data.

    Returns:
        `distinct_1` to `distinct_3` (percent; Li et al., 2016), `entropy_4` (nats; Zhang et al.,
        2018), `self_bleu` (0 to 100; Zhu et al., 2018): of `metrics`.
        `copied`: percent of replies that say the same as a training reply. One without letters
        and digits is not copied.
        `generic`: percent of replies that are stock phrases of the system, what it says to
        everything: at least 1 % of all replies, and at least two, say the same. Those without
        letters and digits all say the same.
        `repetition`: percent of the 3-grams of a reply that it has had before; see there.
        `length_ratio`: words of all replies over words of all references, white-space words; 0
        without any reference word. `reply_words`: mean words of a reply.
        All are 0 for no replies.
    """
    plain = _plain(replies)
    return _figures(replies, references, plain, set(_plain(training_replies)), _stock(plain))


def _figures(replies, references, plain: list[str], known: set[str], stock: set[str]) -> dict:
    """Compute `quality`, given the replies' letters and digits, and what is copied and generic."""
    count = max(1, len(plain))
    words, human = (sum(len(text.split()) for text in texts) for texts in (replies, references))
    return {
        **{f"distinct_{n}": distinct(replies, n) for n in (1, 2, 3)},
        "entropy_4": entropy(replies, 4),
        "self_bleu": self_bleu(replies),
        "copied": 100 * sum(text != "" and text in known for text in plain) / count,
        "generic": 100 * sum(text in stock for text in plain) / count,
        "repetition": repetition(replies),
        "length_ratio": words / human if human else 0.0,
        "reply_words": words / count,
    }


def by_turn(
    turns: Sequence[int],
    replies: Sequence[str],
    references: Sequence[str],
    training_replies: Iterable[str],
    nll: Sequence[float] | None = None,
    tokens: Sequence[int] | None = None,
) -> list[dict]:
    """Measure replies after 1, 2, 3-4, 5-8 and 9 or more turns.

    Args:
        turns: number of turns in each context.
        replies, references, training_replies: as for `quality`.
        nll, tokens: of each reference, in nats and in number; without them, no perplexity.

    Returns:
        For each group that has a pair: `turns`, its name; `pairs`; what `quality` returns, with
        the stock phrases of all groups together; `bleu_2` and `rouge_l`, as `ReplyMetric` has them;
        `perplexity`. Groups differ in size, which moves `distinct_*`, `entropy_4` and `self_bleu`:
        compare systems within a group rather than groups.
    """
    return _by("turns", TURNS, turns, replies, references, training_replies, nll, tokens)


def by_length(
    replies: Sequence[str],
    references: Sequence[str],
    training_replies: Iterable[str],
    nll: Sequence[float] | None = None,
    tokens: Sequence[int] | None = None,
) -> list[dict]:
    """Measure replies where people answered in 1-5, 6-10, 11-20 and 21 or more words.

    Arguments and results are those of `by_turn`, the group's name is `words`: white-space words of
    the reference, none at all being counted to the first.
    """
    words = [len(text.split()) for text in references]
    return _by("words", WORDS, words, replies, references, training_replies, nll, tokens)


def _by(
    name: str, limits: dict, sizes, replies, references, training_replies, nll, tokens
) -> list[dict]:
    """Measure the groups of pairs whose size is up to each limit and above the one before."""
    plain, known = _plain(replies), set(_plain(training_replies))
    stock = _stock(plain)
    metrics = pair_statistics(replies, references, nll, tokens, ("bleu_2", "rouge_l", "perplexity"))
    place = np.searchsorted(list(limits.values()), list(sizes))  # (pairs,)
    groups = []
    for i, group in enumerate(limits):
        rows = np.flatnonzero(place == i)
        if len(rows):
            own = ([texts[row] for row in rows] for texts in (replies, references, plain))
            figures = _figures(*own, known, stock)
            figures |= {metric: statistics.figure(rows) for metric, statistics in metrics.items()}
            groups.append({name: group, "pairs": len(rows), **figures})
    return groups
