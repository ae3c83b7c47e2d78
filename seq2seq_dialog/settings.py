"""Settings: dataclasses with help texts, YAML as defaults, the command line on top."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import torch
import yaml
from transformers import HfArgumentParser, Seq2SeqTrainingArguments

from .errors import UsageError, nearest


@dataclass
class DataArguments:
    """Where the dialogues come from and how they become examples.

    Raises:
        UsageError: there are two sources.
    """

    _argument_group_name = "data"

    data: str | None = field(
        default=None,
        metadata={
            "help": "Dialogues: a text file (a dialogue a line, __eou__ after each utterance), a "
            "folder with train/, validation/ and test/, or the DailyDialog zip. Nothing: download "
            "DailyDialog from its authors."
        },
    )
    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Or a data set on the Hub, user/name: rows of context and response as "
            "publish-data makes them, or whole dialogues as lists of utterances or of messages."
        },
    )
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of dataset_name; main by default."}
    )
    language: str = field(
        default="en", metadata={"help": "Language of the dialogues, for the model card: en, de."}
    )
    license: str | None = field(
        default=None,
        metadata={
            "help": "Licence of the dialogues, which the model inherits, as the Hub names it: "
            "cc-by-4.0, apache-2.0. That of DailyDialog is known."
        },
    )
    detokenize: bool = field(
        default=True,
        metadata={
            "help": 'Write natural text from spaced tokens: "don \' t you ?" to "don\'t you?".'
        },
    )
    drop_overlap: bool = field(
        default=False,
        metadata={
            "help": "Leave out of train what stands in validation or test, or overlaps with it."
        },
    )
    multireference: str | None = field(
        default=None,
        metadata={
            "help": "multireftest.json of Gupta et al. (2019): also score the replies to "
            "DailyDialog's official test split against five references."
        },
    )
    max_source_length: int = field(
        default=512,
        metadata={"help": "Greatest context in tokens; older turns are left out, whole."},
    )
    max_target_length: int = field(default=128, metadata={"help": "Greatest reply in tokens."})
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read training pairs while training goes on, instead of preparing all of them "
            "on disk first; needs max_steps. They are shuffled 20,000 at a time. "
            "dataloader_num_workers 1 tokenises ahead."
        },
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Use only the first N training pairs (trials)."}
    )
    max_eval_samples: int | None = field(
        default=None,
        metadata={"help": "Use only the first N validation and N test pairs (trials)."},
    )
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Processes that tokenise."}
    )
    data_cache: str | None = field(
        default=None, metadata={"help": "Folder for prepared data; the datasets cache by default."}
    )

    def __post_init__(self):
        if self.data is not None and self.dataset_name is not None:
            raise UsageError(
                f"data is {self.data!r} and dataset_name {self.dataset_name!r}, but dialogues come "
                "from one of them. Take the other out, of the config too."
            )


@dataclass
class ModelArguments:
    """A checkpoint to fine-tune, or a new model from sizes."""

    _argument_group_name = "model"

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "An AutoModelForSeq2SeqLM checkpoint (Hub name or folder) to fine-tune."},
    )
    new_model: str | None = field(
        default=None,
        metadata={
            "help": "Or a new model: its config, in YAML a mapping with model_type and sizes."
        },
    )
    tokenizer_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "A tokenizer (Hub name or folder). Default: the checkpoint's own; for a new "
            "model, a sentencepiece tokenizer trained on the training utterances."
        },
    )
    vocab_size: int = field(
        default=8000, metadata={"help": "Pieces of a tokenizer that is trained."}
    )
    model_revision: str = field(
        default="main", metadata={"help": "Branch, tag or commit of the checkpoint."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run model code that comes with the checkpoint."}
    )


@dataclass
class DecodingArguments:
    """How replies are decoded, in the evaluation here and by default wherever the model is used."""

    _argument_group_name = "decoding"

    max_new_tokens: int = field(default=128, metadata={"help": "Greatest reply in tokens."})
    num_beams: int = field(default=1, metadata={"help": "Beams; 1 is greedy (or sampling)."})
    do_sample: bool = field(default=False, metadata={"help": "Sample instead of the likeliest."})
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature."})
    top_p: float = field(
        default=1.0, metadata={"help": "Nucleus of the probability to sample from."}
    )
    top_k: int = field(
        default=0, metadata={"help": "Likeliest tokens to sample from; 0 means all."}
    )
    no_repeat_ngram_size: int = field(
        default=0, metadata={"help": "No n-gram of this size twice in a reply; 0 allows all."}
    )
    repetition_penalty: float = field(default=1.0, metadata={"help": "Above 1 repeats less."})
    length_penalty: float = field(
        default=1.0,
        metadata={"help": "Exponent of the length in beam scores; above 1 favours long."},
    )


@dataclass
class AdversarialArguments:
    """Training of a generator against a discriminator (Li et al., 2017), after pre-training."""

    _argument_group_name = "adversarial training"

    adversarial: bool = field(
        default=False,
        metadata={"help": "Train model_name_or_path, a finished run, against a discriminator."},
    )
    reward: str = field(
        default="prefixes",
        metadata={
            "help": "What a token is rewarded by: prefixes (the discriminator's view of the reply "
            "so far), rollouts (of ways to go on from it), sequence (of the whole reply)."
        },
    )
    rollouts: int = field(default=4, metadata={"help": "Ways to go on from each token."})
    teacher_forcing_weight: float = field(
        default=1.0,
        metadata={"help": "Weight of the likelihood of human replies; 0 leaves it out."},
    )
    discriminator: str | None = field(
        default=None,
        metadata={
            "help": "Sizes of the discriminator, a recurrent encoder-decoder: a mapping such as "
            "{embedding_size: 128, hidden_size: 256}."
        },
    )
    discriminator_learning_rate: float = field(
        default=1e-3, metadata={"help": "Its learning rate, constant."}
    )
    discriminator_steps: int = field(default=1, metadata={"help": "Its updates for each batch."})
    discriminator_warmup_steps: int = field(
        default=200,
        metadata={"help": "Steps in the beginning that train it alone; they count as steps."},
    )
    collapse_threshold: float = field(
        default=0.5,
        metadata={
            "help": "Stop when Distinct-2 of sampled replies falls below this share of what it was "
            "in the beginning, or likelihood (1 / perplexity) does; 0 never stops."
        },
    )


REWARDS = ("prefixes", "rollouts", "sequence")
# What ReplyMetric computes of replies, as names to choose the best checkpoint by.
REPLY_METRICS = ("bleu", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "chrf", "rouge_1", "rouge_2")
REPLY_METRICS += ("rouge_l", "distinct_1", "distinct_2")
# TrainingArguments that have no effect here, and what to do or to know instead.
REPLACED = {
    "per_device_train_batch_size": "set tokens_per_batch instead",
    "per_device_eval_batch_size": "set eval_tokens_per_batch instead",
    "auto_find_batch_size": "lower tokens_per_batch instead",
    "train_sampling_strategy": "batches always hold examples of like lengths",
    "sortish_sampler": "batches always hold examples of like lengths",
    "dataloader_drop_last": "every example is used",
    "generation_max_length": "set max_new_tokens instead",
    "generation_num_beams": "set num_beams instead",
    "generation_config": "set num_beams, temperature, ... instead",
    "resume_from_checkpoint": "a run goes on from the last checkpoint in output_dir by itself",
    "save_only_model": "a run could not go on from such checkpoints",
    "hub_strategy": "the finished run is published, in one commit",
    "hub_always_push": "the finished run is published, in one commit",
    "hub_token": "log in with `hf auth login` or set HF_TOKEN: others can read a command line",
    "fp16_full_eval": "evaluation has the precision of training",
    "bf16_full_eval": "evaluation has the precision of training",
    "prediction_loss_only": "evaluation replies only where predict_with_generate asks for it",
    "batch_eval_metrics": "metrics are computed once, over all replies",
}


@dataclass
class DialogueTrainingArguments(Seq2SeqTrainingArguments):
    """Seq2SeqTrainingArguments with batches by token budget and defaults for dialogue."""

    _argument_group_name = "training"

    tokens_per_batch: str = field(
        default=4096,
        metadata={
            "help": "Source plus target tokens, padding included, of a batch on one device; auto "
            "finds the most that a GPU has memory for."
        },
    )
    eval_tokens_per_batch: int = field(
        default=16384, metadata={"help": "The same for evaluation and generation."}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after so many evaluations without a better metric_for_best_model."},
    )
    do_train: bool = field(default=True, metadata={"help": "Train."})
    do_eval: bool = field(default=True, metadata={"help": "Evaluate on validation."})
    do_predict: bool = field(default=True, metadata={"help": "Evaluate and reply on test."})
    bf16: bool | None = field(
        default=None, metadata={"help": "bfloat16 mixed precision; by default where a GPU has it."}
    )
    predict_with_generate: bool = field(
        default=False,
        metadata={"help": "Also reply (BLEU and others) in each evaluation while training."},
    )
    learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate."})
    warmup_steps: float = field(
        default=0.05, metadata={"help": "Warm-up: below 1 a share of all steps, else steps."}
    )
    logging_steps: float = field(default=50, metadata={"help": "Log every so many steps."})
    eval_strategy: str = field(default="epoch", metadata={"help": "Evaluate: no, steps or epoch."})
    save_strategy: str = field(
        default="epoch", metadata={"help": "Save: no, steps, epoch or best."}
    )
    save_total_limit: int | None = field(
        default=1, metadata={"help": "Checkpoints to keep; the best is kept besides."}
    )
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "End with the best checkpoint instead of the last."}
    )
    metric_for_best_model: str = field(
        default="loss",
        metadata={"help": "What best means: loss, perplexity, or bleu with predict_with_generate."},
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Leave nan out of the logged loss; makes the GPU wait twice a batch."},
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "A resumed run counts its patience on."}
    )

    def __post_init__(self):
        if self.tokens_per_batch != "auto":
            try:
                self.tokens_per_batch = int(self.tokens_per_batch)
            except ValueError:
                raise UsageError(
                    f"tokens_per_batch is {self.tokens_per_batch!r}; it must be a number or auto."
                ) from None
        # As given: what follows, here and in the base class, depends on the machine.
        self.given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        for name, instead in REPLACED.items():
            if getattr(self, name) != defaults[name]:
                raise UsageError(f"{name} has no effect here: {instead}.")
        if self.greater_is_better is None and self.metric_for_best_model.endswith("perplexity"):
            self.greater_is_better = False
        if self.eval_strategy == "no":  # nothing to choose a best checkpoint by
            self.load_best_model_at_end, self.early_stopping_patience = False, None
        if not torch.accelerator.is_available():
            self.use_cpu = True  # said aloud, or several processes would not find each other
        if self.bf16 is None:
            launcher = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
            free = not self.fp16 and not self.use_cpu and launcher in ("no", "bf16")
            gpu = torch.cuda.is_available()
            self.bf16 = free and gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        super().__post_init__()
        self.do_eval = self.given["do_eval"]  # the base class sets it by eval_strategy


GROUPS = (DataArguments, ModelArguments, DecodingArguments, AdversarialArguments)
GROUPS += (DialogueTrainingArguments,)
# Of the many inherited training settings, those that --help shows; --help_all shows every one.
COMMON = {
    "output_dir": "The run folder.",
    "num_train_epochs": "Passes over the training pairs.",
    "max_steps": "Optimizer steps, instead of epochs; -1 goes by epochs.",
    "lr_scheduler_type": "linear, cosine, constant_with_warmup, ...",
    "weight_decay": "AdamW's weight decay.",
    "optim": "Optimizer: adamw_torch_fused, adafactor, ...",
    "gradient_accumulation_steps": "Batches per optimizer step; several, each of like lengths, "
    "teach more than one as large.",
    "activation_checkpointing": "Less memory for more time.",
    "max_grad_norm": "Clip the gradient to this norm; 0 does not.",
    "label_smoothing_factor": "Label smoothing of the training loss.",
    "torch_compile": "Compile the model with torch.compile.",
    "seed": "Seed of weights, order, dropout and sampling.",
    "use_cpu": "Train on the CPU even where a GPU is.",
    "dataloader_num_workers": "Processes that make batches.",
    "eval_steps": "Steps between evaluations with eval_strategy steps.",
    "save_steps": "Steps between checkpoints with save_strategy steps.",
    "greater_is_better": "Of metric_for_best_model; by default not for loss and perplexity.",
    "report_to": "tensorboard, trackio, ... or none.",
    "run_name": "Name of the run there.",
    "push_to_hub": "Publish the finished run on the Hub; later: python -m seq2seq_dialog publish.",
    "hub_model_id": "Its name there, user/name; by default that of output_dir.",
    "hub_private_repo": "Make a new repository private.",
    "hub_revision": "The branch it is published to.",
}


class _HelpFormatter(argparse.HelpFormatter):
    """One spelling of each flag, its default behind its help."""

    def _format_action_invocation(self, action):
        return action.option_strings[0] if action.option_strings else action.metavar

    def _get_help_string(self, action):
        hidden = action.default in (None, argparse.SUPPRESS) or not action.option_strings
        return action.help if hidden else f"{action.help} [%(default)s]"


class _Parser(HfArgumentParser):
    """HfArgumentParser whose errors are one line."""

    def error(self, message):
        """Raise what argparse would print with its usage."""
        raise UsageError(message)


def build_parser(show_all: bool = False) -> HfArgumentParser:
    """Build the parser of the run script; `show_all` makes --help list every training setting."""
    parser = _Parser(
        GROUPS,
        prog="run_seq2seq_dialog.py",
        usage="%(prog)s CONFIG.yaml [--flag value ...]",
        description="Train a dialogue response generator, evaluate it and keep it in output_dir.",
        epilog="The same line works behind `accelerate launch`. Stopped runs go on by the same "
        "command. --help_all lists every training setting.",
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    inherited = {f.name for f in dataclasses.fields(Seq2SeqTrainingArguments)}
    inherited -= set(DialogueTrainingArguments.__annotations__)
    for action in parser._actions:
        name = action.dest
        if action.option_strings[0] != f"--{name}" or (
            name in inherited and name not in COMMON and not show_all
        ):
            action.help = argparse.SUPPRESS
        else:
            action.help = COMMON.get(name, " ".join((action.help or "").split())).replace("%", "%%")
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG.yaml", help="Settings; flags override."
    )
    return parser


def read_yaml(path: str) -> dict:
    """Read a config file.

    Raises:
        UsageError: no such file, no YAML, or no mapping of settings.
    """
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read the config {path!r}: {error}.") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{path} must hold settings as `name: value` lines.")
    return settings


def _as_flags(settings: dict, known: set[str], path: str) -> list[str]:
    """Spell YAML settings as flags, so that one parser checks both."""
    flags = []
    for name, value in settings.items():
        if name not in known:
            raise UsageError(f"{path}: unknown setting {name!r}.{nearest(str(name), known)}")
        if value is None or value == []:
            continue
        if value is False and name.endswith("_strategy"):
            value = "no"  # YAML 1.1 reads a bare no as false
        if isinstance(value, dict):
            value = json.dumps(value)
        values = value if isinstance(value, list) else [value]
        flags += [f"--{name}", *(str(v).lower() if isinstance(v, bool) else str(v) for v in values)]
    return flags


def parse(argv: list[str]):
    """Parse a command line to one object of each class of `GROUPS`.

    Args:
        argv: `[CONFIG.yaml] [--flag value ...]`; flags override the file.

    Raises:
        UsageError: an unknown setting (the nearest valid name is said), a wrong value, a file
            that cannot be read.
        SystemExit: status 0 after --help.
    """
    if not {"--help", "-h", "--help_all"}.isdisjoint(argv):
        build_parser(show_all="--help_all" in argv).print_help()
        sys.exit(0)
    parser = build_parser()
    known = {f.name for group in GROUPS for f in dataclasses.fields(group) if f.init}
    flags, path = list(argv), None
    if argv and not argv[0].startswith("-"):
        path, flags = argv[0], argv[1:]
    from_file = _as_flags(read_yaml(path), known, path) if path else []
    for flag in flags:
        name = flag[2:].split("=")[0].replace("-", "_")
        if flag.startswith("--") and name not in known and name.removeprefix("no_") not in known:
            raise UsageError(
                f"unknown flag {flag!r}.{nearest('--' + name, {'--' + k for k in known})}"
            )
    try:
        *groups, rest, unknown = parser.parse_args_into_dataclasses(
            [*from_file, *flags], return_remaining_strings=True, look_for_args_file=False
        )
    except (ValueError, TypeError, ImportError) as error:
        where = f"{path}: " if path and not flags else ""
        raise UsageError(where + " ".join(str(error).split())) from error
    if unknown or rest.config:
        extra = " ".join(unknown or [rest.config])
        raise UsageError(f"do not know what to do with {extra!r}; a config file comes first.")
    _check(*groups)
    return tuple(groups)


def _check(
    data: DataArguments,
    model: ModelArguments,
    decoding: DecodingArguments,
    adversarial: AdversarialArguments,
    training: DialogueTrainingArguments,
) -> None:
    both = model.model_name_or_path is not None and model.new_model is not None
    neither = model.model_name_or_path is None and model.new_model is None
    if neither or (both and training.do_train):
        raise UsageError(
            "Set one of model_name_or_path (a checkpoint to fine-tune, for example "
            "google-t5/t5-small) and new_model (a mapping with model_type and sizes), or begin "
            "with a config such as configs/demo.yaml."
        )
    for group, name, least, most in (
        (data, "max_train_samples", 1, math.inf),
        (data, "max_eval_samples", 1, math.inf),
        (training, "gradient_accumulation_steps", 1, math.inf),
        (training, "tokens_per_batch", 1, math.inf),
        (training, "eval_tokens_per_batch", 1, math.inf),
        (data, "max_source_length", 8, math.inf),
        (data, "max_target_length", 2, math.inf),
        (model, "vocab_size", 64, math.inf),
        (decoding, "max_new_tokens", 1, math.inf),
        (decoding, "num_beams", 1, math.inf),
        (decoding, "temperature", 1e-3, math.inf),
        (decoding, "top_p", 1e-3, 1),
        (decoding, "top_k", 0, math.inf),
        (decoding, "no_repeat_ngram_size", 0, math.inf),
        (decoding, "repetition_penalty", 1e-3, math.inf),
        (adversarial, "rollouts", 1, math.inf),
        (adversarial, "teacher_forcing_weight", 0, math.inf),
        (adversarial, "discriminator_learning_rate", 0, math.inf),
        (adversarial, "discriminator_steps", 1, math.inf),
        (adversarial, "discriminator_warmup_steps", 0, math.inf),
        (adversarial, "collapse_threshold", 0, 1),
    ):
        value = getattr(group, name)
        if value not in (None, "auto") and not least <= value <= most:
            bounds = f"at least {least}" if most == math.inf else f"from {least} to {most}"
            raise UsageError(f"{name} is {value}; it must be {bounds}.")
    if adversarial.reward not in REWARDS:
        raise UsageError(
            f"reward is {adversarial.reward!r}; it must be one of {', '.join(REWARDS)}."
        )
    if adversarial.adversarial and model.model_name_or_path is None:
        raise UsageError(
            "adversarial training improves a generator that was trained by maximum likelihood: "
            "make one first (configs/rnn_attention.yaml) and give its folder as model_name_or_path."
        )
    if adversarial.adversarial and training.tokens_per_batch == "auto":
        raise UsageError(
            "tokens_per_batch is auto, which does not know what a discriminator needs: with "
            "adversarial training, set a number."
        )
    if adversarial.adversarial and 0 < training.max_steps <= adversarial.discriminator_warmup_steps:
        raise UsageError(
            f"max_steps is {training.max_steps}, all in the discriminator's warm-up, in which the "
            "generator does not learn; raise it or lower discriminator_warmup_steps, now "
            f"{adversarial.discriminator_warmup_steps}."
        )
    if data.streaming:
        _check_streaming(data, adversarial, training)
    metric = training.metric_for_best_model.removeprefix("eval_")
    if metric not in ("loss", "perplexity", *REPLY_METRICS):
        hint = nearest(metric, ("loss", "perplexity", *REPLY_METRICS))
        raise UsageError(f"metric_for_best_model is {metric!r}, which is not computed.{hint}")
    if metric in REPLY_METRICS and not training.predict_with_generate:
        raise UsageError(f"metric_for_best_model is {metric}: set predict_with_generate as well.")
    if not training.do_train and model.model_name_or_path is None:
        raise UsageError("do_train is false: give the trained model as model_name_or_path.")
    for name in training.report_to:
        if name in ("tensorboard", "trackio", "wandb", "mlflow") and not find_spec(name):
            raise UsageError(f"report_to is {name}, which is missing: pip install {name}.")


def _check_streaming(
    data: DataArguments, adversarial: AdversarialArguments, training: DialogueTrainingArguments
) -> None:
    if training.do_train and training.max_steps <= 0:
        raise UsageError("A stream has no end: with streaming, set max_steps.")
    if training.dataloader_num_workers > 1:
        raise UsageError(
            f"dataloader_num_workers is {training.dataloader_num_workers}, but each process reads "
            "its part of a stream in order: with streaming, set 0 or 1."
        )
    for name, value, reason in (
        ("drop_overlap", data.drop_overlap, "train would have to be read whole before it begins"),
        ("adversarial", adversarial.adversarial, "it draws from all training pairs"),
        (
            "tokens_per_batch auto",
            training.tokens_per_batch == "auto",
            "it tries the longest pairs",
        ),
    ):
        if value:
            raise UsageError(f"{name} does not work with streaming: {reason}. Take one out.")


def resolved(groups) -> dict:
    """Return the settings that a run was made with, as a config file that makes it again.

    Of the many inherited training settings, the common ones and those that differ from the default.
    """
    settings = {}
    for group in groups:
        if isinstance(group, AdversarialArguments) and not group.adversarial:
            continue
        values = group.given if group is groups[-1] else vars(group)
        for f in dataclasses.fields(group):
            value = values.get(f.name)
            told = f.name in COMMON or f.name in type(group).__annotations__
            if value not in (None, []) and (told or value != f.default):
                settings[f.name] = value
    for name in ("new_model", "discriminator"):
        if settings.get(name):
            settings[name] = yaml.safe_load(settings[name])
    return settings
