"""The metrics of replies, as one in-package `evaluate.Metric` that needs no network.

sacreBLEU (Post, 2018) with its signature, corpus BLEU-1 to 4, chrF (Popović, 2015), ROUGE-1/2/L
(Lin, 2004), Distinct-1/2 (Li et al., 2016) and mean lengths. All but the lengths (words) and
perplexity are on a scale of 0 to 100. Words stand apart by white space: for languages written
without it, only chrF and perplexity say something.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import datasets
import evaluate
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF


def distinct(replies: Iterable[str], n: int) -> float:
    """Distinct-n (Li et al., 2016, section 5.1): different n-grams over all n-grams, times 100.

    n-grams are of lower-cased white-space words and never cross replies; 0 where there is none.
    """
    counts = Counter()
    for reply in replies:
        words = reply.lower().split()
        counts.update(zip(*(words[i:] for i in range(n)), strict=False))
    return 100 * len(counts) / max(1, counts.total())


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


class _Words:
    """rouge-score's words, lower-cased letters and digits, of any script instead of a-z alone."""

    def tokenize(self, text: str) -> list[str]:
        """Split a text; RougeScorer calls it."""
        return re.findall(r"[^\W_]+", text.lower())


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
        bleu = BLEU()
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
