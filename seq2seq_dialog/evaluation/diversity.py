"""How diverse replies are, and what they are like as answers.

Beside likeness to a reference: does a system repeat itself, its training data, or one reply to
everyone; is it as talkative as people; does it hold up in later turns and for longer answers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .metrics import PairStatistics, distinct, entropy, mean_words, self_bleu
from .text import ngrams, normalised, words

TURNS = {"1": 1, "2": 2, "3-4": 4, "5-8": 8, "9-": math.inf}  # group: its greatest number
WORDS = {"1-5": 5, "6-10": 10, "11-20": 20, "21-": math.inf}
COMPARED = ("bleu_2", "rouge_l", "perplexity")  # what groups are measured in besides


def repetition(replies: Iterable[str], n: int = 3) -> float:
    """Seq-rep-n (Welleck et al., 2020): n-grams that a reply has had before.

    Percent of all n-grams of a reply, mean over the replies that have any; 0 where none has.
    n-grams are of lower-cased white-space words.
    """
    shares = []
    for reply in replies:
        counts = Counter(ngrams(words(reply), n))
        if counts:
            shares.append(1 - len(counts) / counts.total())
    return 100 * math.fsum(shares) / max(1, len(shares))


def stock_phrases(normal: Sequence[str]) -> set[str]:
    """Find what is said at least twice, and in at least one of a hundred replies.

    Args:
        normal: replies, `normalised`.
    """
    counts = Counter(normal)
    return {text for text, count in counts.items() if count > 1 and 100 * count >= len(normal)}


def diversity(
    replies: Sequence[str], references: Sequence[str], training_replies: Iterable[str]
) -> dict[str, float]:
    """Measure how diverse replies are, and what they are like as answers.

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
    normal = [normalised(reply) for reply in replies]
    known = {normalised(reply) for reply in training_replies}
    return _diversity(replies, references, normal, known, stock_phrases(normal))


def _diversity(replies, references, normal: list[str], known: set[str], stock: set[str]) -> dict:
    """Compute `diversity`, given the normalised replies and what is copied and generic."""
    count = max(1, len(replies))
    lengths = [sum(len(words(text)) for text in texts) for texts in (replies, references)]
    return {
        **{f"distinct_{n}": distinct(replies, n) for n in (1, 2, 3)},
        "entropy_4": entropy(replies, 4),
        "self_bleu": self_bleu(replies),
        "copied": 100 * sum(text != "" and text in known for text in normal) / count,
        "generic": 100 * sum(text in stock for text in normal) / count,
        "repetition": repetition(replies),
        "length_ratio": lengths[0] / lengths[1] if lengths[1] else 0.0,
        "reply_words": mean_words(replies),
    }


def by_turn(
    turns: Sequence[int],
    replies: Sequence[str],
    references: Sequence[str],
    training_replies: Iterable[str],
    statistics: Mapping[str, PairStatistics],
) -> list[dict]:
    """Measure replies after 1, 2, 3-4, 5-8 and 9 or more turns.

    Args:
        turns: number of turns in each context.
        replies, references, training_replies: as for `diversity`.
        statistics: of the pairs, by `pair_statistics`.

    Returns:
        For each group that has a pair: `turns`, its name; `pairs`; what `diversity` returns, with
        the stock phrases of all groups together; `COMPARED`. Groups differ in size, which moves
        `distinct_*`, `entropy_4` and `self_bleu`: compare systems within a group rather than
        groups.
    """
    return _by("turns", TURNS, turns, replies, references, training_replies, statistics)


def by_length(
    replies: Sequence[str],
    references: Sequence[str],
    training_replies: Iterable[str],
    statistics: Mapping[str, PairStatistics],
) -> list[dict]:
    """Measure replies where people answered in 1-5, 6-10, 11-20 and 21 or more words.

    Arguments and results are those of `by_turn`, the group's name is `words`: white-space words of
    the reference, none at all being counted to the first.
    """
    lengths = [len(words(text)) for text in references]
    return _by("words", WORDS, lengths, replies, references, training_replies, statistics)


def _by(
    name: str, limits: dict, sizes, replies, references, training_replies, statistics
) -> list[dict]:
    """Measure the groups of pairs whose size is up to each limit and above the one before."""
    normal = [normalised(reply) for reply in replies]
    known = {normalised(reply) for reply in training_replies}
    stock = stock_phrases(normal)
    place = np.searchsorted(list(limits.values()), list(sizes))  # (pairs,)
    groups = []
    for i, group in enumerate(limits):
        rows = np.flatnonzero(place == i)
        if len(rows):
            texts = ([column[row] for row in rows] for column in (replies, references, normal))
            figures = _diversity(*texts, known, stock)
            for key in COMPARED:
                if key in statistics:
                    figures[key] = statistics[key].of(rows).figure()
            groups.append({name: group, "pairs": len(rows), **figures})
    return groups
