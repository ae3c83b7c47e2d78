"""The metrics of replies, as one in-package `evaluate.Metric` that needs no network.

sacreBLEU (Post, 2018) with its signature, corpus BLEU-1 to 4, chrF (Popović, 2015), ROUGE-1/2/L
(Lin, 2004), Distinct-1/2 (Li et al., 2016) and mean lengths. All but the lengths (words) and
perplexity are on a scale of 0 to 100. Words stand apart by white space: for languages written
without it, only chrF and perplexity say something. Beside it, as functions: self-BLEU, and BLEU as
the PLATO paper has it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence

import datasets
import evaluate
import nltk
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from .text import _Words


def distinct(replies: Iterable[str], n: int) -> float:
    """Distinct-n (Li et al., 2016, section 5.1): different n-grams over all n-grams, times 100.

    n-grams are of lower-cased white-space words and never cross replies; 0 where there is none.
    """
    counts = Counter()
    for reply in replies:
        words = reply.lower().split()
        counts.update(zip(*(words[i:] for i in range(n)), strict=False))
    return 100 * len(counts) / max(1, counts.total())


def entropy(replies: Iterable[str], n: int) -> float:
    """Ent-n (Zhang et al., 2018, on adversarial information maximization), in nats.

    The entropy of the distribution of n-grams: unlike Distinct-n, it hears that a few of them make
    up most of what is said. n-grams are those of `distinct`; 0 where there is none or but one, the
    logarithm of their number where all differ: it grows with the number of replies.
    """
    counts = Counter()
    for reply in replies:
        words = reply.lower().split()
        counts.update(zip(*(words[i:] for i in range(n)), strict=False))
    total = counts.total()
    return math.fsum(count / total * math.log(total / count) for count in counts.values())


def self_bleu(replies: Iterable[str], max_order: int = 4) -> float:
    """Self-BLEU (Zhu et al., 2018): the mean sentence BLEU of each reply, all others as references.

    0 to 100; the lower, the more diverse. n-grams are of lower-cased white-space words. As in the
    authors' code, an order above the first without a match has 0.1 matches (method 1 of Chen and
    Cherry, 2014), and a reply that shares no word with any other has 0; so have an empty reply and
    a lone one. Unlike there, a reply of fewer than `max_order` words is scored by the orders that
    it has: two equal replies score 100, however short.

    Args:
        replies: one per context.
        max_order: the longest n-grams counted.
    """
    texts = [reply.lower().split() for reply in replies]
    if len(texts) < 2:
        return 0.0
    precisions = [[] for _ in texts]  # of each reply, for the orders that it has
    for n in range(1, max_order + 1):
        counts = [Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in texts]
        # The greatest and the second greatest count of each n-gram, equal where two replies share
        # it: what the others hold of it is known without going through them.
        best = {}
        for own in counts:
            for ngram, count in own.items():
                first, second = best.get(ngram, (0, 0))
                if count > second:
                    best[ngram] = (max(first, count), min(first, count))
        for own, orders in zip(counts, precisions, strict=True):
            matches = 0
            for ngram, count in own.items():
                first, second = best[ngram]
                matches += min(count, second if count == first else first)
            if own:
                orders.append((matches or (0.1 if n > 1 else 0)) / own.total())
    lengths = sorted(len(words) for words in texts)
    scores = []
    for words, orders in zip(texts, precisions, strict=True):
        if not orders or orders[0] == 0:
            continue  # scores 0
        length = len(words)
        place = bisect_left(lengths, length)
        others = lengths[max(0, place - 1) : place] + lengths[place + 1 : place + 2]
        closest = min((abs(other - length), other) for other in others)[1]
        brevity = min(1.0, math.exp(1 - closest / length))
        scores.append(brevity * math.exp(math.fsum(map(math.log, orders)) / len(orders)))
    return 100 * math.fsum(scores) / len(texts)


def plato_bleu(replies: Sequence[str], references: Sequence[str]) -> dict:
    """BLEU-1 and BLEU-2 by the protocol of PLATO (Bao et al., 2020) and those who compare with it.

    The mean over pairs of nltk's sentence BLEU with smoothing `method7`, lower-cased white-space
    words, times 100; a pair at which nltk fails counts 0. Smoothing lifts replies equal to their
    references above 100. The figure belongs to nltk's version: `method7` changed in 3.5 and again
    in 3.6, and where few n-grams match, BLEU-2 of 3.5 is more than twice that of today. The paper's
    table is from before 3.6. PLATO sets punctuation apart, as DailyDialog's files do; text that
    joins it to words has less to match. PLATO's corpus-level ("inter") Distinct is `distinct`.

    Args:
        replies, references: strings, one reference each.

    Returns:
        `plato_bleu_1`, `plato_bleu_2` and `nltk_version`.
    """
    pairs = [
        (reply.lower().split(), reference.lower().split())
        for reply, reference in zip(replies, references, strict=True)
    ]
    smoothing = SmoothingFunction().method7
    result = {}
    for n, weights in ((1, (1, 0, 0, 0)), (2, (0.5, 0.5, 0, 0))):
        total = 0.0
        for reply, reference in pairs:
            try:
                total += sentence_bleu([reference], reply, weights, smoothing)
            except (ArithmeticError, ValueError):  # of one word, up to nltk 3.5
                continue
        result[f"plato_bleu_{n}"] = 100 * total / max(1, len(pairs))
    return result | {"nltk_version": nltk.__version__}


def perplexity(nll: float, tokens: int) -> float:
    """Return exp(nll / tokens): `nll` in nats, summed over `tokens` that are no padding."""
    mean = nll / max(1, tokens)
    return math.exp(mean) if mean < 700 else math.inf


def unigram_perplexity(
    train: Iterable[Sequence[int]], test: Iterable[Sequence[int]], vocab_size: int
) -> float:
    """Perplexity per token of `test` under the token frequencies of `train`.

    What a model reaches that has learned how often each token comes and nothing else. Counts are
    smoothed by adding one (Laplace) over `vocab_size` tokens.
    """
    counts = Counter(token for ids in train for token in ids)
    total = math.log(counts.total() + vocab_size)
    nll, tokens = 0.0, 0
    for ids in test:
        nll += sum(total - math.log(counts[token] + 1) for token in ids)
        tokens += len(ids)
    return perplexity(nll, tokens)


class ReplyMetric(evaluate.Metric):
    """Compares replies with references: `ReplyMetric().compute(predictions=..., references=...)`.

    Predictions and references are strings, one reference each. The result has `bleu` (sacreBLEU),
    `bleu_signature`, `bleu_1` to `bleu_4` (geometric means up to that order), `chrf`, `rouge_1`,
    `rouge_2`, `rouge_l` (F1), `distinct_1`, `distinct_2`, `reply_words`, `reference_words` (means).
    """

    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict:
        bleu = BLEU(force=True)  # spaced tokens are welcome
        score = bleu.corpus_score(predictions, [references])
        result = {"bleu": score.score, "bleu_signature": str(bleu.get_signature())}
        # The orders share their statistics: clipped matches and totals of n-grams of the corpus.
        for n in range(1, 5):
            order = BLEU.compute_bleu(
                score.counts[:n],
                score.totals[:n],
                score.sys_len,
                score.ref_len,
                smooth_method="exp",
                max_ngram_order=n,
            )
            result[f"bleu_{n}"] = order.score
        result["chrf"] = CHRF().corpus_score(predictions, [references]).score
        scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_Words())
        rouge = [scorer.score(r, p) for r, p in zip(references, predictions, strict=True)]
        for name, kind in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
            result[name] = 100 * math.fsum(s[kind].fmeasure for s in rouge) / max(1, len(rouge))
        result["distinct_1"] = distinct(predictions, 1)
        result["distinct_2"] = distinct(predictions, 2)
        for name, texts in (("reply_words", predictions), ("reference_words", references)):
            result[name] = sum(len(text.split()) for text in texts) / max(1, len(texts))
        return result
