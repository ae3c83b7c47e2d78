"""What the options of decoding may be: those of `generate()`, and extra ones beside them.

transformers takes some wrong options for something else (`top_p` 2, an infinite temperature), and
fails within its own code on others (no beams). So they are checked here, before it gets them, for
all who decode replies by a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

LARGEST_INT = 2**31 - 1  # of counts and sizes; beyond it, libraries overflow

# What `rerank` gives weights to. Greater is better: penalties are negative.
CRITERIA = {
    "likelihood": "log p(reply | context), per token",
    "likelihood_sum": "log p(reply | context)",
    "context_free": "-log p(reply | no context), per token: against what fits every context",
    "context_free_sum": "-log p(reply | no context)",
    "other_contexts": "-mean of log p(reply | another context), per token: likewise",
    "other_contexts_sum": "-mean of log p(reply | another context)",
    "reverse": "log p(last turn | reply) by reverse_model, per token",
    "reverse_sum": "log p(last turn | reply) by reverse_model",
    "mbr": "mean chrF, 0 to 1, against the other candidates: minimum Bayes risk",
    "stock": "-1 for a stock phrase of the model, else 0",
    "echo": "-share of the reply's words that the context has",
    "length": "words of the reply",
}
DEFAULT_WEIGHTS = {"likelihood": 1.0}
# What option has the texts that a criterion needs.
NEEDED_TEXTS = {"stock": "stock_phrases", "other_contexts": "other_contexts"}
# Extra options beside those of `generate()`, and what each is where nothing sets it.
EXTRA_OPTIONS = {
    "candidates": 1,
    "rerank": None,
    "reverse_model": None,
    "stock_phrases": (),
    "other_contexts": (),
    "guidance_weight": 0.0,
    "guidance_tokens": 0,
}


@dataclass(frozen=True)
class Bounds:
    """The numbers that a setting may be; nan and infinity never are among them."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    whole: bool = False

    def __str__(self):
        if -math.inf < self.least and self.most < math.inf:
            return f"from {self.least} to {self.most}"
        limits = {
            "at least": self.least,
            "above": self.above,
            "at most": self.most,
            "below": self.below,
        }
        return " and ".join(f"{words} {n}" for words, n in limits.items() if math.isfinite(n))

    def broken_by(self, value) -> str:
        """Return the rule that a value breaks; nothing where it breaks none."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return "a whole number" if self.whole else "a number"
        if not self.least <= value <= self.most or not self.above < value < self.below:
            finite = -math.inf < value < math.inf
            return str(self) if finite else " and ".join(filter(None, [str(self), "finite"]))
        if self.whole and not isinstance(value, int):
            return "a whole number"
        if self.whole and self.most == math.inf and value > LARGEST_INT:
            return f"at most {LARGEST_INT}"
        return ""


# In the words of `seq2seq_dialog.settings.DecodingArguments`, and the other names of `generate()`.
OPTION_BOUNDS = {
    "max_new_tokens": Bounds(1, whole=True),
    "num_beams": Bounds(1, whole=True),
    "temperature": Bounds(1e-3),
    "top_p": Bounds(1e-3, 1),
    "top_k": Bounds(0, whole=True),
    "no_repeat_ngram_size": Bounds(0, whole=True),
    "repetition_penalty": Bounds(1e-3),
    "length_penalty": Bounds(),
    "max_length": Bounds(1, whole=True),
    "min_length": Bounds(0, whole=True),
    "min_new_tokens": Bounds(0, whole=True),
    "num_return_sequences": Bounds(1, whole=True),
    "min_p": Bounds(0, 1),
    "typical_p": Bounds(1e-3, 1),
    "epsilon_cutoff": Bounds(0, below=1),
    "eta_cutoff": Bounds(0, below=1),
    "candidates": Bounds(1, whole=True),
    "guidance_weight": Bounds(0),
    "guidance_tokens": Bounds(0, whole=True),
}


def positions(config) -> tuple[float, float]:
    """Return the positions of encoder and decoder; infinity where their number has no limit."""
    numbers = []
    for part in ("encoder", "decoder"):
        of_part = getattr(config, part, config)  # a config of its own in T5Gemma and in pairs
        of_part = getattr(of_part, "text_config", of_part)
        names = (f"max_{part}_position_embeddings", "max_position_embeddings")  # LED has the first
        limits = [getattr(of_part, name, None) for name in names]
        numbers.append(next((limit for limit in limits if limit is not None), math.inf))
    return tuple(numbers)


def checked_options(options: Mapping, config=None) -> dict:
    """Return options of `generate()` as it wants them; refuse those that cannot be.

    Args:
        options: None is the model's own setting.
        config: of the model, which may limit how long a reply can be.

    Raises:
        ValueError: an option, its value, and what it may be.
    """
    options = dict(options)
    for name, bounds in OPTION_BOUNDS.items():
        value = options.get(name)
        if value is None:
            continue
        if rule := bounds.broken_by(value):
            raise ValueError(f"{name} is {value!r}; it must be {rule}.")
        options[name] = value if bounds.whole else float(value)  # 1 is no temperature for it
    for name in ("do_sample", "return_dict_in_generate"):
        if not isinstance(options.get(name), (bool, type(None))):
            raise ValueError(f"{name} is {options[name]!r}; it must be True or False.")
    limit = positions(config)[1]  # the start token takes one
    for name, most in (("max_new_tokens", limit - 1), ("max_length", limit)):
        if (options.get(name) or 0) > most:
            raise ValueError(
                f"{name} is {options[name]}; it must be at most {most}: the model has {limit} "
                "positions."
            )
    if options.get("rerank") is not None:
        check_weights(options["rerank"])
    if options.get("return_dict_in_generate"):
        raise ValueError(
            "return_dict_in_generate is True, but a reply is text here: for scores and the like, "
            "call model.generate()."
        )
    return options


def check_weights(weights) -> None:
    """Refuse what cannot be the value of `rerank`."""
    example = "{likelihood: 1, context_free: 0.5}"
    if not isinstance(weights, Mapping):
        raise ValueError(f"rerank is {weights!r}; it must be weights, for example {example}.")
    for name, weight in weights.items():
        if name not in CRITERIA:
            raise ValueError(f"rerank has {name!r}; it can weigh {', '.join(CRITERIA)}.")
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight):
            raise ValueError(f"rerank has {name}: {weight!r}; a weight must be a finite number.")


def can_give(candidates: int, do_sample: bool, num_beams: int) -> bool:
    """Tell whether sampling or so many beams give so many candidates."""
    return candidates == 1 or do_sample or num_beams >= candidates


def check_candidates(
    candidates: int, weights: Mapping, do_sample: bool, num_beams: int, reverse_model
) -> None:
    """Refuse settings that do not give so many candidates, or leave out what scores them."""
    if not can_give(candidates, do_sample, num_beams):
        way = "Greedy decoding gives one reply" if num_beams == 1 else f"{num_beams} beams give few"
        raise ValueError(
            f"candidates is {candidates}. {way}: set do_sample, or at least as many num_beams."
        )
    if not reverse_model and (weights.get("reverse") or weights.get("reverse_sum")):
        raise ValueError(
            "rerank weighs reverse, which needs reverse_model: a model that was trained with "
            "exchange_sides."
        )


def _given_or_saved(model, options: Mapping, name: str, default):
    """Return the option of a call, else what the model has saved, else the default."""
    saved = getattr(model.generation_config, name, None)
    value = saved if options.get(name) is None else options[name]
    return default if value is None else value


def candidate_options(model, options: Mapping, candidates: int) -> dict:
    """Return the options that so many candidates are decoded by: beams are not sampled from.

    Beams that sample are alike, and give no more candidates than there are beams.
    """
    if candidates > 1 and _given_or_saved(model, options, "do_sample", False):
        return {**options, "num_beams": 1}
    return dict(options)


def extra_options(model, options: Mapping) -> dict:
    """Return the extra options for a call, by default the model's saved ones.

    Saved candidates do not hold for a call that asks for greedy search, or for fewer beams.

    Args:
        options: of the call, the extra ones and those of `generate()`.

    Raises:
        ValueError: they do not go together.
    """
    given_or_saved = partial(_given_or_saved, model, options)
    extra = {name: given_or_saved(name, default) for name, default in EXTRA_OPTIONS.items()}
    weights = {name: weight for name, weight in (extra["rerank"] or {}).items() if weight}
    extra["rerank"] = weights or DEFAULT_WEIGHTS
    mode = given_or_saved("do_sample", False), given_or_saved("num_beams", 1)
    if options.get("candidates") is None and not can_give(extra["candidates"], *mode):
        extra["candidates"] = 1
    check_candidates(extra["candidates"], extra["rerank"], *mode, extra["reverse_model"])
    _check_texts(options.get("rerank") or {}, extra)
    replies = given_or_saved("num_return_sequences", 1)
    if 1 < extra["candidates"] < replies:
        raise ValueError(
            f"num_return_sequences is {replies}, but candidates are {extra['candidates']}: raise "
            "these, or lower it."
        )
    return extra


def _check_texts(weights: Mapping, extra: Mapping) -> None:
    """Refuse criteria whose texts are neither given nor saved."""
    criteria = {name.removesuffix("_sum") for name, weight in weights.items() if weight}
    for name, texts in NEEDED_TEXTS.items():
        if name in criteria and not extra[texts]:
            raise ValueError(
                f"rerank weighs {name}, but this model has no {texts} saved: give them, a list of "
                "texts."
            )
