"""What the options of `generate()` may be, for all who decode replies by this model.

transformers takes some wrong options for something else (`top_p` 2, an infinite temperature), and
fails within its own code on others (no beams). So they are checked here, before it gets them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .reranking import check_weights

LARGEST_INT = 2**31 - 1  # of counts and sizes; beyond it, libraries overflow


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
DECODING = {
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
    for name, bounds in DECODING.items():
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
