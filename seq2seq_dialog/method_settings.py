"""Settings of the ways to train that are not likelihood on all weights alone."""

import os
from dataclasses import dataclass
from typing import Annotated, Literal

from . import strict_yaml
from .errors import UsageError, nearest
from .portable.options import Bounds
from .setting_fields import Group, Mark, number_or_auto, setting

OBJECTIVES = (
    "repetition",
    "context_copy",
    "vocabulary",
    "sequence_repetition",
    "stock_phrases",
)
NEGATIVES = ("other_contexts", "stock_phrases", "samples")


@dataclass
class ObjectiveArguments(Group):
    """What a training makes unlikely, beside the likelihood of the replies (Li et al., 2020)."""

    _argument_group_name = "objectives"

    @property
    def is_on(self) -> bool:
        """Whether the method is used."""
        return bool(self.objective_weights())

    objectives: str | None = setting(
        None,
        "Weights of unlikelihood training, a mapping such as {repetition: 0.5, stock_phrases: "
        "0.2}. Against repetition of the reply's own tokens; context_copy, tokens of the context; "
        "stock_phrases, what the training replies say most often. Also vocabulary, tokens that the "
        "model uses more than people (weights above 10). And sequence_repetition, n-grams in "
        "replies that are decoded at each step.",
    )

    def __post_init__(self):
        super().__post_init__()
        self.objective_weights()

    def objective_weights(self) -> dict[str, float]:
        """Return what `objectives` says: the weights above 0, by the names of the objectives."""
        if self.objectives is None:
            return {}
        example = "{repetition: 0.5, stock_phrases: 0.2}"
        weights = strict_yaml.load_mapping("objectives", self.objectives, example)
        for name, weight in weights.items():
            if name not in OBJECTIVES:
                raise UsageError(
                    f"objectives has {name!r}; it gives weights to {', '.join(OBJECTIVES)}, for "
                    f"example {example}.{nearest(name, OBJECTIVES)}"
                )
            if rule := Bounds(0).broken_by(weight):
                raise UsageError(f"objectives gives {name} {weight!r}; it must be {rule}.")
        return {name: float(weight) for name, weight in weights.items() if weight > 0}


@dataclass
class PreferenceArguments(Group):
    """Direct preference optimisation (Rafailov et al., 2023) of a trained model."""

    _argument_group_name = "preferences"

    @property
    def is_on(self) -> bool:
        """Whether the method is used."""
        return self.dpo

    dpo: bool = setting(
        False,
        "Train model_name_or_path, a finished run, to prefer the chosen reply of each pair to the "
        "rejected one (direct preference optimisation).",
    )
    negatives: list[str] | None = setting(  # noqa: RUF009 (None is its default)
        None,
        "The rejected replies where the data is ordinary dialogues: other_contexts (replies of "
        "other dialogues), stock_phrases (what the training replies say most often), samples (of "
        "the model as it begins); of several, each for as many pairs. By default the data has "
        "them: rows of context, chosen and rejected.",
    )
    dpo_beta: Annotated[float, Bounds(above=0)] = setting(
        0.1, "How much the model is held to what it was: lower lets it move further."
    )
    dpo_length_normalised: bool = setting(
        False, "Take log-likelihoods per token, not of whole replies; with a dpo_beta of 1 to 10."
    )
    dpo_likelihood_weight: Annotated[float, Bounds(0)] = setting(
        0.0, "Weight of the chosen reply's own loss, nats per token, which keeps it likely."
    )

    def __post_init__(self):
        super().__post_init__()
        if self.negatives is None:
            return
        kinds = [kind for word in self.negatives for kind in word.replace(",", " ").split()]
        for kind in kinds:
            if kind not in NEGATIVES:
                raise UsageError(
                    f"negatives has {kind!r}; it must be one or several of "
                    f"{', '.join(NEGATIVES)}.{nearest(kind, NEGATIVES)}"
                )
        self.negatives = list(dict.fromkeys(kinds)) or None


@dataclass
class AdversarialArguments(Group):
    """Training of a generator against a discriminator (Li et al., 2017), after pre-training."""

    _argument_group_name = "adversarial training"

    @property
    def is_on(self) -> bool:
        """Whether the method is used."""
        return self.adversarial

    adversarial: bool = setting(
        False, "Train model_name_or_path, a finished run, against a discriminator."
    )
    reward: Literal["prefixes", "rollouts", "sequence", "log_ratio"] = setting(
        "prefixes",
        "What a token is rewarded by: prefixes (the discriminator's view of the reply so far), "
        "rollouts (of ways to go on from it), sequence (of the whole reply). Or log_ratio: how "
        "much its logit rises from before the token to the end of the reply.",
    )
    rollouts: Annotated[int, Bounds(1)] = setting(4, "Ways to go on from each token.")
    teacher_forcing_weight: Annotated[float, Bounds(0)] = setting(
        1.0, "Weight of the likelihood of human replies; 0 leaves it out."
    )
    discriminator: str | None = setting(
        None,
        "A checkpoint with the generator's tokenizer, {model_name_or_path: starter, form: ratio}; "
        "form is ratio (its likelihood of a reply over the generator's) or classifier. Or sizes of "
        "a new recurrent one, {embedding_size: 128, hidden_size: 256}.",
    )
    discriminator_learning_rate: Annotated[float, Bounds(0)] = setting(
        1e-3, "Its learning rate, constant."
    )
    discriminator_steps: Annotated[int, Bounds(1)] = setting(1, "Its updates for each batch.")
    discriminator_warmup_steps: Annotated[str, Bounds(0)] = setting(  # an int, unless it is auto
        200,
        "Steps in the beginning that train it alone; they count as steps. With auto it is trained "
        "before the first step, on discriminator_pool, until its held-out accuracy stops rising.",
    )
    discriminator_pool: Annotated[int, Bounds(1)] = setting(
        10_000, "Training pairs for whose contexts replies are sampled once, for that."
    )
    least_accuracy: Annotated[float, Bounds(0, 100), Mark.FREE] = setting(
        65.0,
        "Warn if it recognises a smaller share of held-out replies, in percent, when the generator "
        "begins to learn from it: rewards are noise then.",
    )
    collapse_threshold: Annotated[float, Bounds(0, 1)] = setting(
        0.5,
        "Stop when Distinct-2 of sampled replies falls below this share of what it was in the "
        "beginning, or likelihood (1 / perplexity) does; 0 never stops.",
    )

    def __post_init__(self):
        steps = self.discriminator_warmup_steps
        self.discriminator_warmup_steps = number_or_auto("discriminator_warmup_steps", steps)
        super().__post_init__()

    def discriminator_mapping(self) -> dict:
        """Return what `discriminator` says: sizes, or a checkpoint and its form."""
        example = "{model_name_or_path: starter, form: ratio}"
        given = strict_yaml.load_mapping("discriminator", self.discriminator or "{}", example)
        if given.keys().isdisjoint({"model_name_or_path", "form"}):
            return {"embedding_size": 128, "hidden_size": 256} | given
        forms = ("ratio", "classifier")
        known = given.keys() == {"model_name_or_path", "form"} and given["form"] in forms
        if not known or not isinstance(given["model_name_or_path"], str):
            raise UsageError(
                f"discriminator is {given}; with a checkpoint it must have model_name_or_path and "
                f"form ({' or '.join(forms)}), and nothing else, for example {example}."
            )
        return given | {"model_name_or_path": os.path.expanduser(given["model_name_or_path"])}

    @property
    def first_step(self) -> int:
        """The step before which the generator does not learn."""
        steps = self.discriminator_warmup_steps
        return 0 if steps == "auto" else steps


@dataclass
class LoraArguments(Group):
    """Fine-tuning of small matrices beside the frozen weights (LoRA, Hu et al., 2022)."""

    _argument_group_name = "LoRA"

    @property
    def is_on(self) -> bool:
        """Whether the method is used."""
        return self.lora_r > 0

    lora_r: Annotated[int, Bounds(0)] = setting(
        0,
        "Rank of the matrices that are trained instead of the weights of model_name_or_path; 0 "
        "trains the weights. 16 is usual. Needs peft.",
    )
    lora_alpha: Annotated[float | None, Bounds(above=0)] = setting(
        None, "What they add is multiplied by lora_alpha / lora_r; by default 2 * lora_r."
    )
    lora_dropout: Annotated[float, Bounds(0, below=1)] = setting(
        0.0, "Dropout of what goes into them."
    )
    lora_target_modules: str = setting(
        "all-linear",
        "The layers that get them, by the ends of their names: q,v. all-linear means all but the "
        "output layer.",
    )
    lora_base_dtype: Literal["float32", "bfloat16"] = setting(
        "float32", "Precision of the frozen weights; bfloat16 takes half the memory."
    )
    lora_merge: bool = setting(
        True,
        "Merge the matrices into the weights at the end. Otherwise the run folder holds them "
        "alone, and needs model_name_or_path and peft wherever it is loaded.",
    )


@dataclass
class SearchArguments(Group):
    """What the verb search varies."""

    _argument_group_name = "search"

    space: Annotated[str | None, Mark.ONCE] = setting(
        None,
        "Settings and what to try of them, by the verb search: a mapping such as {learning_rate: "
        "{low: 1e-4, high: 1e-2, log: true}, gradient_accumulation_steps: [1, 2, 4]}.",
    )
    trials: Annotated[int, Bounds(1), Mark.ONCE] = setting(
        10, "Runs of a search; the first five are drawn at random, each other follows from those."
    )
