"""Every figure that is reported, described once: tables, pictures, card and settings read it here.

A new metric takes an entry here and a computation in `metrics.py`: a function in `PAIR_METRICS`
where replies are compared with references, one that `diversity.py` calls where they are looked at
by themselves.
"""

import math
from collections.abc import Iterable
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
    plain: str = ""  # what it says, for a reader who does not know the term
    hub_type: str | None = None  # its name in the Hub's list of metrics, if it is there

    @property
    def label_and_unit(self) -> str:
        """What heads the figure where there is no other place for its unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


PERCENT, FROM_1 = (0, 100), (1, math.inf)
FULL = {"main": True, "interval": True, "chooses_best": True}
BEST = {"chooses_best": True}
OF_BLEU = {1: BEST, 2: FULL, 3: BEST, 4: {}}  # BLEU-4 is of several references; of one it is `bleu`
WORD_RUNS = {1: "Words", 2: "Words and pairs of words", 3: "Runs of 1 to 3 words"}
WORD_RUNS[4] = "Runs of 1 to 4 words"
# In the order of columns and rows.
METRICS = {
    "loss": Metric(
        "loss", "nats per token", LOWER, **BEST,
        plain="How much each token of the human replies surprises the model.",
    ),
    "perplexity": Metric(
        "perplexity", "per token", LOWER, FROM_1, hub_type="perplexity", **FULL,
        plain="The surprise as a number of choices: as if so many tokens were equally likely.",
    ),
    "bits_per_byte": Metric(
        "bits per byte", "", LOWER, **FULL,
        plain="The surprise for each byte of text; it compares models with different tokenizers.",
    ),
    "context_gain": Metric(
        "context gain", "nats per token", HIGHER, (-math.inf, math.inf), **FULL,
        plain="How much the context helps to foresee the reply; at 0 the model does not read it.",
    ),
    "unigram_perplexity": Metric(
        "unigram model", "perplexity", "", FROM_1,
        plain="The perplexity of a model that knows nothing but how frequent each token is.",
    ),
    "similarity": Metric(
        "similarity", "", HIGHER, (-100, 100), **FULL,
        plain="How near replies are to their references in meaning, by word vectors of English.",
    ),
    "bleu": Metric(
        "sacreBLEU", "", HIGHER, PERCENT, hub_type="sacrebleu", **FULL,
        plain="Runs of 1 to 4 words that replies share with their references.",
    ),
    **{
        f"bleu_{n}": Metric(
            f"BLEU-{n}", "", HIGHER, PERCENT, hub_type="bleu", **OF_BLEU[n],
            plain=f"{WORD_RUNS[n]} that replies share with their references.",
        )
        for n in range(1, 5)
    },
    **{
        f"bleu_{n}_mean": Metric(
            f"BLEU-{n}", "mean", HIGHER, PERCENT,
            plain=f"{WORD_RUNS[n]} shared with a reference, the mean over several references.",
        )
        for n in range(1, 5)
    },
    # Smoothing lifts replies that equal their references above 100.
    **{
        f"plato_bleu_{n}": Metric(
            f"PLATO BLEU-{n}", "", HIGHER, hub_type="bleu",
            plain=f"{WORD_RUNS[n]} shared with the reference, as the authors of PLATO count them.",
        )
        for n in (1, 2)
    },
    "chrf": Metric(
        "chrF", "", HIGHER, PERCENT, hub_type="chrf", **FULL,
        plain="Runs of letters that replies share with their references, so parts of words count.",
    ),
    "rouge_1": Metric(
        "ROUGE-1", "", HIGHER, PERCENT, hub_type="rouge", **BEST,
        plain="Words that reply and reference share, of all words in both.",
    ),
    "rouge_2": Metric(
        "ROUGE-2", "", HIGHER, PERCENT, hub_type="rouge", **BEST,
        plain="Pairs of words that reply and reference share, of all pairs in both.",
    ),
    "rouge_l": Metric(
        "ROUGE-L", "", HIGHER, PERCENT, hub_type="rouge", **FULL,
        plain="Words that reply and reference share in the same order, of all words in both.",
    ),
    "rouge_l_mean": Metric(
        "ROUGE-L", "mean", HIGHER, PERCENT,
        plain="Words shared in the same order, the mean over several references.",
    ),
    "rouge_l_pooled": Metric(
        "ROUGE-L", "pooled", HIGHER, PERCENT,
        plain="Words shared in the same order, by the best of several references.",
    ),
    **{
        f"distinct_{n}": Metric(
            f"Distinct-{n}", "%", HIGHER, PERCENT, main=n == 2, chooses_best=n < 3,
            plain=f"{what} that are different, of all in the replies: how varied they are.",
        )
        for n, what in enumerate(("Words", "Pairs of words", "Runs of 3 words"), 1)
    },
    "entropy_4": Metric(
        "entropy-4", "nats", HIGHER,
        plain="How evenly runs of 4 words are spread; low where replies use the same ones.",
    ),
    "self_bleu": Metric(
        "self-BLEU", "", LOWER, PERCENT,
        plain="How much the replies are like one another.",
    ),
    "copied": Metric(
        "copied", "% of replies", LOWER, PERCENT,
        plain="Replies that say the same as a training reply, but for case, spaces and marks.",
    ),
    "generic": Metric(
        "generic", "% of replies", LOWER, PERCENT,
        plain="Stock phrases, each given as reply to at least 1 % of the contexts.",
    ),
    "repetition": Metric(
        "repetition", "% of 3-grams", LOWER, PERCENT,
        plain="Runs of 3 words that the reply has had before.",
    ),
    # Of self-chat.
    "repeated_replies": Metric(
        "repeated replies", "% of replies", LOWER, PERCENT,
        plain="Replies that say the same as an earlier turn of their dialogue.",
    ),
    "repeated_ngrams": Metric(
        "repeated 3-grams", "% of 3-grams", LOWER, PERCENT,
        plain="Runs of 3 words of a reply that an earlier turn of its dialogue has, too.",
    ),
    "distinct_replies": Metric(
        "distinct replies", "% of replies", HIGHER, PERCENT,
        plain="Different replies, of all in all dialogues.",
    ),
    "length_ratio": Metric(
        "length", "reply / reference", TO_ONE,
        plain="Words of all replies over words of all references.",
    ),
    "reply_words": Metric("words", "per reply", plain="The mean length of a reply."),
    "reference_words": Metric("words", "per reference", plain="The mean length of a reference."),
    # Of adversarial training, on held-out contexts.
    "discriminator_accuracy": Metric(
        "discriminator accuracy", "%", "", PERCENT, main=True,
        plain="How often the discriminator tells replies of people and of the model apart.",
    ),
    **{
        f"discriminator_accuracy_{n}": Metric(
            "discriminator accuracy", f"%, first {n} tokens", "", PERCENT,
            plain=f"The same of the first {n} tokens of each reply.",
        )
        for n in (3, 6, 10)
    },
    "discriminator_accuracy_context": Metric(
        "discriminator accuracy", "%, other contexts", "", PERCENT,
        plain="How often it tells replies of people from those to another context.",
    ),
    "adversarial_success": Metric(
        "adversarial success", "%", HIGHER, PERCENT, main=True,
        plain="How often the discriminator takes a reply of the model for a person's.",
    ),
    "reward": Metric(
        "reward", "0 to 1", HIGHER, (0, 1),
        plain="How human the discriminator finds the replies of the model.",
    ),
    "sampled_distinct_2": Metric(
        "Distinct-2 of samples", "%", HIGHER, PERCENT, main=True,
        plain="Pairs of words that are different, of all in replies that are sampled.",
    ),
    # Of preference training, on held-out pairs.
    "preference_loss": Metric(
        "preference loss", "nats per pair", LOWER, **BEST,
        plain="How much it surprises the model that the chosen reply is preferred; at first ln 2.",
    ),
    "preference_accuracy": Metric(
        "preference accuracy", "%", HIGHER, PERCENT, main=True, **BEST,
        plain="Pairs whose chosen reply gained on the rejected one since training began.",
    ),
    "preference_margin": Metric(
        "preference margin", "nats", HIGHER, (-math.inf, math.inf), **BEST,
        plain="How much the chosen replies gained on the rejected ones since training began.",
    ),
    "chosen_likelier": Metric(
        "chosen likelier", "%", HIGHER, PERCENT,
        plain="Pairs whose chosen reply is likelier per token than the rejected one.",
    ),
}  # fmt: skip
# What is known without replies.
OF_LIKELIHOOD = ("loss", "perplexity", "bits_per_byte", "context_gain")
OF_PREFERENCES = ("preference_loss", "preference_accuracy", "preference_margin")
# What agrees best with people's ratings, of that which needs one reference alone. It comes first in
# comparisons, and the verdict of a run goes by it: docs/concepts/agreement.md.
LEADING = ("similarity", "rouge_l")


def leading_first(keys: Iterable[str]) -> list[str]:
    """Put the `LEADING` metrics before the others, which keep their order."""
    return sorted(keys, key=lambda key: key not in LEADING)


def keys_with(trait: str) -> list[str]:
    """Return the keys of the metrics that have a trait: `main`, `interval` or `chooses_best`."""
    return [key for key, metric in METRICS.items() if getattr(metric, trait)]
