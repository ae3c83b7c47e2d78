"""The settings of training: those of `Seq2SeqTrainer`, with defaults for dialogue."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from transformers import Seq2SeqTrainingArguments
from transformers.training_args import OptimizerNames

from .errors import UsageError, nearest
from .evaluation.catalogue import HIGHER, METRICS
from .inherited_settings import read_inherited
from .portable.options import Bounds
from .setting_fields import Mark, check_bounds, number_or_auto, setting

# Optimizers with a rate for each tensor (`training.optimizers`), their usual learning rates, and
# the families they are made for.
SCALED, MUON = "adamw_scaled", "muon_scaled"
SCALED_RATES = {SCALED: 3e-2, MUON: 2e-2}
T5_LIKE = ("t5", "mt5", "umt5", "longt5")


@dataclass
class DialogueTrainingArguments(Seq2SeqTrainingArguments):
    """Seq2SeqTrainingArguments with batches by token budget and defaults for dialogue.

    `given` has the settings as they were given, before the machine decided any of them.
    """

    _argument_group_name = "training"

    tokens_per_batch: Annotated[str, Bounds(1)] = setting(  # an int, unless it is auto
        4096,
        "Source plus target tokens, padding included, of a batch on one device; auto finds the "
        "most that a GPU has memory for.",
    )
    eval_tokens_per_batch: Annotated[int, Bounds(1), Mark.FREE] = setting(
        16384, "The same for evaluation and generation."
    )
    early_stopping_patience: Annotated[int | None, Bounds(1)] = setting(
        None, "Stop after so many evaluations without a better metric_for_best_model."
    )
    dry_run: Annotated[bool, Mark.ONCE] = setting(
        False,
        "Only look: describe the data, show what the model sees and has to say, measure a few "
        "steps, write data.html into output_dir, and stop.",
    )
    do_train: bool = setting(True, "Train.")
    do_eval: Annotated[bool, Mark.FREE] = setting(True, "Evaluate on validation.")
    do_predict: Annotated[bool, Mark.FREE] = setting(True, "Evaluate and reply on test.")
    num_train_epochs: Annotated[float, Bounds(above=0)] = setting(
        3.0, "Passes over the training pairs."
    )
    max_steps: Annotated[int, Bounds(-1)] = setting(
        -1, "Optimizer steps, instead of epochs; -1 goes by epochs."
    )
    optim: str | None = setting(
        None,
        "Optimizer; by default adamw_torch_fused, for a new T5 adamw_scaled: a rate for each "
        "tensor. muon_scaled moves its matrices by Muon.",
    )
    learning_rate: Annotated[float | None, Bounds(0)] = setting(
        None,
        "Peak learning rate; by default 5e-4, adamw_scaled 0.03, muon_scaled 0.02, dpo a tenth.",
    )
    warmup_steps: Annotated[float, Bounds(0)] = setting(
        0.05, "Warm-up: below 1 a share of all steps, else steps."
    )
    weight_decay: Annotated[float, Bounds(0)] = setting(
        0.0, "Weight decay; muon_scaled has it for matrices of layers alone."
    )
    gradient_accumulation_steps: Annotated[int, Bounds(1)] = setting(
        1,
        "Batches per optimizer step; several, each of like lengths, teach more than one as large.",
    )
    max_grad_norm: Annotated[float, Bounds(0)] = setting(
        1.0, "Clip the gradient to this norm; 0 does not."
    )
    label_smoothing_factor: Annotated[float, Bounds(0, below=1)] = setting(
        0.0, "Label smoothing of the training loss."
    )
    seed: Annotated[int, Bounds(0, 2**32 - 1)] = setting(
        42, "Seed of weights, order, dropout and sampling."
    )
    seeds: Annotated[list[str] | None, Mark.ONCE] = setting(  # noqa: RUF009 (None is its default)
        None,
        "Make the run once for each of these seeds, 1,2,3, in seed-1, seed-2, ... of output_dir, "
        "and write the mean and the spread of the figures to seeds.json.",
    )
    bf16: bool | None = setting(
        None, "bfloat16 mixed precision; by default on a GPU that has it and on a CPU with AMX."
    )
    dataloader_num_workers: Annotated[int, Bounds(0), Mark.FREE] = setting(
        0, "Processes that make batches."
    )
    logging_steps: Annotated[float, Bounds(above=0), Mark.FREE] = setting(
        50, "Log every so many steps."
    )
    logging_nan_inf_filter: bool = setting(
        False, "Leave nan out of the logged loss; makes the GPU wait twice a batch."
    )
    eval_strategy: Literal["no", "steps", "epoch"] = setting(
        "epoch", "Evaluate: no, steps or epoch."
    )
    eval_steps: Annotated[float | None, Bounds(above=0)] = setting(
        None, "Steps between evaluations with eval_strategy steps."
    )
    predict_with_generate: bool = setting(
        False, "Also reply (BLEU and others) in each evaluation while training."
    )
    save_strategy: Literal["no", "steps", "epoch", "best"] = setting(
        "epoch", "Save: no, steps, epoch or best."
    )
    save_steps: Annotated[float, Bounds(above=0)] = setting(
        500, "Steps between checkpoints with save_strategy steps."
    )
    save_total_limit: Annotated[int | None, Bounds(0), Mark.FREE] = setting(
        2, "Checkpoints to keep, the last ones; the best is always among them. 0 keeps all."
    )
    load_best_model_at_end: bool = setting(
        True, "End with the best checkpoint instead of the last."
    )
    metric_for_best_model: str = setting(
        "loss", "What best means: loss, bits_per_byte, or bleu with predict_with_generate."
    )
    restore_callback_states_from_checkpoint: bool = setting(
        True, "A resumed run counts its patience on."
    )

    def __post_init__(self):
        self.tokens_per_batch = number_or_auto("tokens_per_batch", self.tokens_per_batch)
        check_bounds(self)
        self.seeds = _read_seeds(self.seeds)
        self.given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        read_inherited(self)
        self.metric_for_best_model = self.metric_for_best_model.removeprefix("eval_")
        metric = METRICS.get(self.metric_for_best_model)
        if self.greater_is_better is None and metric is not None:
            self.greater_is_better = metric.direction == HIGHER
        self._choose_optimizer(self.optim or "adamw_torch_fused")
        if self.eval_strategy == "no":  # nothing to choose a best checkpoint by
            self.load_best_model_at_end, self.early_stopping_patience = False, None
        if not torch.accelerator.is_available():
            self.use_cpu = True  # said aloud, or several processes would not find each other
        if self.bf16 is None:
            launcher = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
            free = not self.fp16 and launcher in ("no", "bf16")
            self.bf16 = free and bf16_pays(self.use_cpu)
        super().__post_init__()
        self.do_eval = self.given["do_eval"]  # the base class sets it by eval_strategy

    def _choose_optimizer(self, name: str) -> None:
        """Take an optimizer, and its usual learning rate where none was given."""
        self.scaled_optim = name if name in SCALED_RATES else None  # unknown to the base class
        known = [*SCALED_RATES, *(optimizer.value for optimizer in OptimizerNames)]
        if name not in known:
            raise UsageError(
                f"optim is {name!r}; it must be one of {', '.join(known)}.{nearest(name, known)}"
            )
        self.optim = "adamw_torch_fused" if self.scaled_optim else name
        if self.given["learning_rate"] is None:
            self.learning_rate = SCALED_RATES.get(name, 5e-4)


def cpu_capabilities() -> dict[str, bool]:
    """Tell which instructions the CPU has; empty under a torch that does not say."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def bf16_pays(on_cpu: bool) -> bool:
    """Tell whether bf16 is measured to be faster there: on GPUs that have it, and CPUs with AMX."""
    if on_cpu:
        return cpu_capabilities().get("amx_bf16", False)
    gpu = torch.cuda.is_available()
    return gpu and torch.cuda.is_bf16_supported(including_emulation=False)


def _read_seeds(words: list[str] | None) -> list[int] | None:
    """Make numbers of seeds, written as `1,2,3`, `1 2 3` or a list."""
    if words is None:
        return None
    texts = [text for word in words for text in word.replace(",", " ").split()]
    seeds = [int(text) for text in texts if text.isdecimal() and int(text) < 2**32]
    if not len(set(seeds)) == len(texts) >= 2:
        raise UsageError(
            f"seeds is {' '.join(words)!r}; it must be two or more whole numbers from 0 to "
            f"{2**32 - 1}, each once: 1,2,3."
        )
    return seeds
