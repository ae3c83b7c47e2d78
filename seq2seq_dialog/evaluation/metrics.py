"""The metrics of replies, as one in-package `evaluate.Metric` that needs no network.

sacreBLEU (Post, 2018) with its signature, corpus BLEU-1 to 4, chrF (Popović, 2015), ROUGE-1/2/L
(Lin, 2004), similarity of word vectors, Distinct-1/2 (Li et al., 2016) and mean lengths.
Words stand apart by white space; for languages written without it, `text.segmented` sets them
apart. Beside it, as functions: entropy, self-BLEU and perplexity.

What compares replies with references is a sum over pairs: `pair_statistics` reads the texts once,
and `figures` of all pairs or of some, and bootstrap resamples, are made of the same statistics.
`catalogue.py` has the label, unit and direction of each figure.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import datasets
import evaluate
import numpy as np
from sacrebleu.metrics import BLEU

from . import embeddings
from .text import BY_SPACES, ngrams, segmented, tokenizer_of, words

CHRF_ORDER, CHRF_BETA = 6, 2  # as sacreBLEU's chrF2: characters, recall counts for more


class PairStatistics(NamedTuple):
    """A metric as sums over pairs: what they are of each pair, and what the metric makes of them.

    `columns` is (pairs, statistics), `score` takes their sums.
    """

    columns: np.ndarray
    score: Callable[[Sequence[float]], float]

    def of(self, rows) -> PairStatistics:
        """Return the statistics of some pairs: indices or a mask."""
        return self._replace(columns=self.columns[rows])

    def sums(self) -> list[float]:
        """Return the sum of each statistic over all pairs."""
        return [math.fsum(column) for column in self.columns.T]

    def figure(self) -> float:
        """Return the metric of all pairs."""
        return self.score(self.sums())


def mean_over_pairs(values: Sequence[float], scale: float = 100) -> PairStatistics:
    """Make a metric that is the mean of a value of each pair, times `scale`; 0 for no pairs."""
    columns = np.column_stack((values, np.ones(len(values))))
    return PairStatistics(columns, lambda sums: scale * sums[0] / max(1, sums[1]))


def bleu_statistics(
    replies: Sequence[str], references: Sequence[str], tokenize: str = BY_SPACES
) -> dict[str, PairStatistics]:
    """Count what corpus BLEU is made of: `bleu` (sacreBLEU), and geometric means up to order 3.

    Of each pair: two lengths, then the clipped matches and the totals of n-grams of each order.
    """
    # Its counts alone are taken; the scores are those of the corpus.
    counter = BLEU(effective_order=True, tokenize=tokenize)
    rows = []
    for reply, reference in zip(replies, references, strict=True):
        score = counter.sentence_score(reply, [reference])
        rows.append([score.sys_len, score.ref_len, *score.counts, *score.totals])
    counts = np.array(rows, float).reshape(-1, 10)
    statistics = {"bleu": PairStatistics(counts, _corpus_bleu)}
    for order in range(1, 4):
        kept = [0, 1, *range(2, 2 + order), *range(6, 6 + order)]
        statistics[f"bleu_{order}"] = PairStatistics(counts[:, kept], _corpus_bleu)
    return statistics


def _corpus_bleu(sums: Sequence[float]) -> float:
    """Compute sacreBLEU from two lengths, matches and totals of as many orders as there are."""
    order = len(sums) // 2 - 1
    return BLEU.compute_bleu(
        list(sums[2 : 2 + order]),
        list(sums[2 + order :]),
        int(sums[0]),
        int(sums[1]),
        smooth_method="exp",
        max_ngram_order=order,
    ).score


def chrf_statistics(replies: Sequence[str], references: Sequence[str]) -> dict[str, PairStatistics]:
    """Count what corpus chrF (Popović, 2015) is made of, as sacreBLEU does.

    Of each pair and order: n-grams of characters of the reply (none where the reference has none),
    of the reference, and those that they share. White space does not count.
    """
    rows = []
    for pair in zip(replies, references, strict=True):
        reply, reference = ("".join(text.split()) for text in pair)
        row = []
        for n in range(1, CHRF_ORDER + 1):
            counts, wanted = Counter(ngrams(reply, n)), Counter(ngrams(reference, n))
            matches = sum(min(counts[ngram], wanted[ngram]) for ngram in counts.keys() & wanted)
            row += [counts.total() if wanted else 0, wanted.total(), matches]
        rows.append(row)
    columns = np.array(rows, float).reshape(-1, 3 * CHRF_ORDER)
    return {"chrf": PairStatistics(columns, _corpus_chrf)}


def _corpus_chrf(sums: Sequence[float]) -> float:
    """F of the mean precision and the mean recall over the orders that both sides have."""
    precision = recall = orders = 0
    for counts, wanted, matches in zip(sums[::3], sums[1::3], sums[2::3], strict=True):
        if counts and wanted:
            precision, recall = precision + matches / counts, recall + matches / wanted
            orders += 1
    orders = max(1, orders)
    return 100 * f_measure(precision / orders, recall / orders, CHRF_BETA)


def f_measure(precision: float, recall: float, beta: float) -> float:
    """Return their weighted harmonic mean: recall counts `beta` times as much as precision."""
    weight = beta**2
    divisor = recall + weight * precision
    return (1 + weight) * precision * recall / divisor if divisor else 0.0


def rouge_statistics(
    replies: Sequence[str], references: Sequence[str]
) -> dict[str, PairStatistics]:
    """Compute the F1 of each pair, of lower-cased letters and digits of any script."""
    from nltk.tokenize import RegexpTokenizer  # imports SciPy, as rouge_score does: slow
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=RegexpTokenizer(r"[^\W_]+"))
    pairs = zip(replies, references, strict=True)
    scores = [scorer.score(reference.lower(), reply.lower()) for reply, reference in pairs]
    return {
        name: mean_over_pairs([score[kind].fmeasure for score in scores])
        for name, kind in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL"))
    }


def length_statistics(
    replies: Sequence[str], references: Sequence[str]
) -> dict[str, PairStatistics]:
    """Count the words of each pair, `reply_words` and `reference_words`."""
    sides = {"reply_words": replies, "reference_words": references}
    return {
        name: mean_over_pairs([len(words(text)) for text in texts], scale=1)
        for name, texts in sides.items()
    }


def similarity_statistics(
    replies: Sequence[str], references: Sequence[str]
) -> dict[str, PairStatistics]:
    """Compute the cosine of the vectors of each pair, `similarity`, of English texts."""
    return {"similarity": mean_over_pairs(embeddings.similarities(replies, references))}


# Each compares replies with references, and returns statistics by the metric's key.
PAIR_METRICS = (chrf_statistics, rouge_statistics, length_statistics)


def pair_statistics(
    replies: Sequence[str], references: Sequence[str], language: str = "en"
) -> dict[str, PairStatistics]:
    """Read pairs of texts once for all figures of replies, by their keys in the catalogue."""
    replies, references = (segmented(texts, language) for texts in (replies, references))
    is_plain = tokenizer_of(language) == BY_SPACES
    statistics = bleu_statistics(replies, references, BY_SPACES if is_plain else "none")
    for metric in PAIR_METRICS:
        statistics |= metric(replies, references)
    if embeddings.knows(language):
        statistics |= similarity_statistics(replies, references)
    return statistics


def likelihood_statistics(examples: Sequence[Mapping]) -> dict[str, PairStatistics]:
    """Collect how likely references are, for `perplexity`, `bits_per_byte` and `context_gain`.

    Perplexities of models with different tokenizers do not compare, bits per byte do. The context
    gain says how many nats a token costs more after the context of another example: 0 where a model
    does not read its contexts.

    Args:
        examples: of each reference `nll` (nats, summed), `tokens`, `bytes` (of its text in UTF-8)
            and `exchanged_nll`, which is `nll` after the context of another example, or None.
    """
    keys = ("nll", "tokens", "bytes", "exchanged_nll")
    nll, tokens, size, exchanged = (
        np.array([[example[key] for key in keys] for example in examples], float).reshape(-1, 4).T
    )  # (examples,) each
    gain = np.where(np.isnan(exchanged), 0, [exchanged - nll, tokens])  # (2, examples)
    return {
        "perplexity": PairStatistics(
            np.stack([nll, tokens], 1), lambda sums: perplexity(sums[0], sums[1])
        ),
        "bits_per_byte": PairStatistics(
            np.stack([nll / math.log(2), size], 1), lambda sums: sums[0] / max(1, sums[1])
        ),
        "context_gain": PairStatistics(gain.T, lambda sums: sums[0] / max(1, sums[1])),
    }


def figures(
    statistics: Mapping[str, PairStatistics], replies: Sequence[str] | None
) -> dict[str, float]:
    """Compute each metric of all pairs and, of `replies` if there are any, Distinct."""
    metrics = {key: metric.figure() for key, metric in statistics.items()}
    if replies is not None:
        metrics |= {f"distinct_{n}": distinct(replies, n) for n in (1, 2)}
    return metrics


def bleu_signature(language: str = "en") -> str:
    """Name what moves the figures of sacreBLEU, in its own form."""
    tokenizer = tokenizer_of(language)
    return str(BLEU(references=[["one reference"]], tokenize=tokenizer).get_signature())


def distinct(replies: Iterable[str], n: int) -> float:
    """Distinct-n (Li et al., 2016, section 5.1): different n-grams over all n-grams, times 100.

    n-grams are of lower-cased white-space words and never cross replies; 0 where there is none.
    """
    counts = Counter(ngram for reply in replies for ngram in ngrams(words(reply), n))
    return 100 * len(counts) / max(1, counts.total())


def entropy(replies: Iterable[str], n: int) -> float:
    """Ent-n (Zhang et al., 2018, on adversarial information maximization), in nats.

    The entropy of the distribution of n-grams. Unlike Distinct-n it falls where a few n-grams make
    up most of what is said. n-grams are those of `distinct`. The least value is 0, with at most one
    n-gram; the greatest is the logarithm of their number, so it grows with the number of replies.
    """
    counts = Counter(ngram for reply in replies for ngram in ngrams(words(reply), n))
    total = counts.total()
    return math.fsum(count / total * math.log(total / count) for count in counts.values())


def self_bleu(replies: Iterable[str], max_order: int = 4) -> float:
    """Self-BLEU (Zhu et al., 2018): the mean sentence BLEU of each reply, all others as references.

    0 to 100; the lower, the more diverse. n-grams are of lower-cased white-space words. As in the
    authors' code, an order above the first without a match has 0.1 matches (method 1 of Chen and
    Cherry, 2014), and a reply that shares no word with any other has 0; so have an empty reply and
    a lone one. Unlike there, a reply of fewer than `max_order` words is scored by the orders that
    it has: two equal replies score 100, however short.
    """
    texts = [words(reply) for reply in replies]
    if len(texts) < 2:
        return 0.0
    precisions = [[] for _ in texts]  # of each reply, for the orders that it has
    for n in range(1, max_order + 1):
        counts = [Counter(ngrams(text, n)) for text in texts]
        # The greatest and the second greatest count of each n-gram in a reply. The greatest among
        # all other replies is the second where this reply has the first, else the first.
        best = {}
        for reply_counts in counts:
            for ngram, count in reply_counts.items():
                first, second = best.get(ngram, (0, 0))
                if count > second:
                    best[ngram] = (max(first, count), min(first, count))
        for reply_counts, orders in zip(counts, precisions, strict=True):
            matches = 0
            for ngram, count in reply_counts.items():
                first, second = best[ngram]
                matches += min(count, second if count == first else first)
            if reply_counts:
                orders.append((matches or (0.1 if n > 1 else 0)) / reply_counts.total())
    lengths = sorted(len(text) for text in texts)
    scores = []
    for text, orders in zip(texts, precisions, strict=True):
        if not orders or orders[0] == 0:
            continue  # scores 0
        length = len(text)
        place = bisect_left(lengths, length)
        others = lengths[max(0, place - 1) : place] + lengths[place + 1 : place + 2]
        closest = min((abs(other - length), other) for other in others)[1]
        brevity = min(1.0, math.exp(1 - closest / length))
        scores.append(brevity * math.exp(math.fsum(map(math.log, orders)) / len(orders)))
    return 100 * math.fsum(scores) / len(texts)


def mean_words(texts: Sequence[str]) -> float:
    """Return the mean number of words of a text; 0 for no texts."""
    return sum(len(words(text)) for text in texts) / max(1, len(texts))


def perplexity(nll: float, tokens: int) -> float:
    """Return exp(nll / tokens), at most 1e9: `nll` in nats, over `tokens` that are no padding."""
    return min(1e9, math.exp(min(nll / max(1, tokens), 700)))  # so that JSON can hold it


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

    Predictions and references are strings, one reference each; `language="zh"` says what they are
    written in. The result has `bleu` (sacreBLEU), `bleu_signature`, `bleu_1` to `bleu_3` (geometric
    means up to that order), `chrf`, `rouge_1`, `rouge_2`, `rouge_l` (F1), `similarity` (of English
    texts), `distinct_1`, `distinct_2`, `reply_words`, `reference_words` (means).
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

    def _compute(self, predictions: list[str], references: list[str], language: str = "en") -> dict:
        statistics = pair_statistics(predictions, references, language)
        scores = figures(statistics, segmented(predictions, language))
        return scores | {"bleu_signature": bleu_signature(language)}
