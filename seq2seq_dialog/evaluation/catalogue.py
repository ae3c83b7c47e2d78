"""Every figure that is reported, described once: tables, pictures, card and settings read it here.

A new metric takes an entry here and a computation in `metrics.py`: a function in `PAIR_METRICS`
where replies are compared with references, one that `diversity.py` calls where they are looked at
by themselves.
"""

import math
from dataclasses import dataclass

HIGHER, LOWER, TO_ONE = "higher", "lower", "to one"  # which values are better


@dataclass(frozen=True)
class Metric:
    """What is said of a figure wherever it is shown."""

    label: str
    unit: str = ""  # what it is counted in; none for a plain number
    direction: str = ""  # which values are better: HIGHER, LOWER, TO_ONE, or "" where none is
    scale: tuple[float, float] = (0, math.inf)
    main: bool = False  # it is shown where only a few figures are
    interval: bool = False  # it is a sum over pairs, so has bootstrap intervals and paired tests
    chooses_best: bool = False  # it may be `metric_for_best_model`
    hub_type: str | None = None  # its name in the Hub's list of metrics, if it is there


PERCENT, FROM_1 = (0, 100), (1, math.inf)
FULL = {"main": True, "interval": True, "chooses_best": True}
BEST = {"chooses_best": True}
# In the order of columns and rows.
METRICS = {
    "loss": Metric("loss", "nats per token", LOWER, **BEST),
    "perplexity": Metric("perplexity", "per token", LOWER, FROM_1, **FULL, hub_type="perplexity"),
    "bits_per_byte": Metric("bits per byte", "", LOWER, **FULL),
    "context_gain": Metric("context gain", "nats per token", HIGHER, (-math.inf, math.inf), **FULL),
    "unigram_perplexity": Metric("unigram model", "perplexity", "", FROM_1),
    "bleu": Metric("sacreBLEU", "", HIGHER, PERCENT, **FULL, hub_type="sacrebleu"),
    "bleu_1": Metric("BLEU-1", "", HIGHER, PERCENT, **BEST, hub_type="bleu"),
    "bleu_2": Metric("BLEU-2", "", HIGHER, PERCENT, **FULL, hub_type="bleu"),
    "bleu_3": Metric("BLEU-3", "", HIGHER, PERCENT, **BEST, hub_type="bleu"),
    "bleu_4": Metric("BLEU-4", "", HIGHER, PERCENT, **BEST, hub_type="bleu"),
    **{f"bleu_{n}_mean": Metric(f"BLEU-{n}", "mean", HIGHER, PERCENT) for n in range(1, 5)},
    # Smoothing lifts replies that equal their references above 100.
    **{f"plato_bleu_{n}": Metric(f"PLATO BLEU-{n}", "", HIGHER, hub_type="bleu") for n in (1, 2)},
    "chrf": Metric("chrF", "", HIGHER, PERCENT, **FULL, hub_type="chrf"),
    "rouge_1": Metric("ROUGE-1", "", HIGHER, PERCENT, **BEST, hub_type="rouge"),
    "rouge_2": Metric("ROUGE-2", "", HIGHER, PERCENT, **BEST, hub_type="rouge"),
    "rouge_l": Metric("ROUGE-L", "", HIGHER, PERCENT, **FULL, hub_type="rouge"),
    "rouge_l_mean": Metric("ROUGE-L", "mean", HIGHER, PERCENT),
    "rouge_l_pooled": Metric("ROUGE-L", "pooled", HIGHER, PERCENT),
    "distinct_1": Metric("Distinct-1", "%", HIGHER, PERCENT, **BEST),
    "distinct_2": Metric("Distinct-2", "%", HIGHER, PERCENT, **BEST, main=True),
    "distinct_3": Metric("Distinct-3", "%", HIGHER, PERCENT),
    "entropy_4": Metric("entropy-4", "nats", HIGHER),
    "self_bleu": Metric("self-BLEU", "", LOWER, PERCENT),
    "copied": Metric("copied", "% of replies", LOWER, PERCENT),
    "generic": Metric("generic", "% of replies", LOWER, PERCENT),
    "repetition": Metric("repetition", "% of 3-grams", LOWER, PERCENT),
    "length_ratio": Metric("length", "reply / reference", TO_ONE),
    "reply_words": Metric("words", "per reply"),
    "reference_words": Metric("words", "per reference"),
    # Of adversarial training, on held-out contexts.
    "discriminator_accuracy": Metric("discriminator accuracy", "%", "", PERCENT, main=True),
    "adversarial_success": Metric("adversarial success", "%", HIGHER, PERCENT, main=True),
    "reward": Metric("reward", "0 to 1", HIGHER, (0, 1)),
    "sampled_distinct_2": Metric("Distinct-2 of samples", "%", HIGHER, PERCENT, main=True),
}
# What is known without replies.
OF_LIKELIHOOD = ("loss", "perplexity", "bits_per_byte", "context_gain")


def keys_with(trait: str) -> list[str]:
    """Return the keys of the metrics that have a trait: `main`, `interval` or `chooses_best`."""
    return [key for key, metric in METRICS.items() if getattr(metric, trait)]
