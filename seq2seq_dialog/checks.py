"""Which settings do not go together, and which values nothing can be done with."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from importlib.util import find_spec

import torch
from torch.utils.checkpoint import checkpoint
from transformers import Trainer, get_scheduler
from transformers.integrations import INTEGRATION_TO_CALLBACK

from .errors import UsageError, nearest
from .evaluation.catalogue import OF_LIKELIHOOD, OF_PREFERENCES, keys_with
from .method_settings import AdversarialArguments
from .portable.options import check_candidates, check_weights
from .settings import Settings
from .shipped import COMMAND
from .training_settings import DialogueTrainingArguments

# Optimizers that are made only with the model: of them, the package alone can be looked for.
MADE_WITH_THE_MODEL = ("galore", "apollo", "lomo", "adalomo")


def check(settings: Settings) -> None:
    """Refuse settings that do not go together, and values that cannot be used."""
    training = settings.training
    _check_training(training)
    _check_seeds(training)
    _check_saving(training)
    _check_origin(settings)
    _check_decoding(settings)
    _check_unused(settings)
    _check_adversarial(settings)
    _check_objectives(settings)
    _check_preferences(settings)
    _check_lora(settings)
    _check_streaming(settings)
    _check_metrics(settings)
    if settings.trains(settings.adversarial):
        check_adversarial_training(training, settings.adversarial)
    _check_trackers(training)
    _check_optimizer(training)
    _check_schedule(training)
    _check_checkpointing(training)
    _check_compiler(training)


def _check_training(training: DialogueTrainingArguments) -> None:
    if training.output_dir is not None and not training.output_dir.strip():
        raise UsageError("output_dir is empty; it must name the run folder.")
    if training.max_steps == 0:
        raise UsageError("max_steps is 0; it must be at least 1, or -1 to go by epochs.")
    if training.warmup_steps > 1 and training.warmup_steps != int(training.warmup_steps):
        raise UsageError(
            f"warmup_steps is {training.warmup_steps}; above 1 it must be a whole number of steps."
        )
    if training.fsdp_config and not training.fsdp:
        raise UsageError("fsdp_config has no effect by itself: set fsdp as well, or take it out.")


def check_gpus(training: DialogueTrainingArguments) -> None:
    """Refuse several GPUs for one process; of a run that is complete it is not asked."""
    if training.n_gpu > 1:
        raise UsageError(
            f"There are {training.n_gpu} GPUs, but one process. Start with `accelerate launch` to "
            "use them all, or set CUDA_VISIBLE_DEVICES=0 to use one."
        )


def _check_saving(training: DialogueTrainingArguments) -> None:
    """Refuse checkpoints of which it is not known how good they are, or that are never written."""
    evaluated, saved = training.eval_strategy.value, training.save_strategy.value
    if saved == "best" and evaluated == "no":
        raise UsageError(
            "save_strategy is best, but eval_strategy is no, and so nothing would ever be saved: "
            "set save_strategy to epoch or steps."
        )
    for name, strategy in (("save_steps", saved), ("eval_steps", evaluated)):
        default = type(training).__dataclass_fields__[name].default
        if strategy == "epoch" and training.given[name] != default:
            way_out = name.replace("steps", "strategy")
            raise UsageError(
                f"{name} has no effect while {way_out} is epoch: set that to steps, or take {name} "
                "out."
            )
    apart = evaluated == saved == "steps" and training.eval_steps != training.save_steps
    if apart and training.load_best_model_at_end:
        raise UsageError(
            f"eval_steps is {training.eval_steps:g} and save_steps {training.save_steps:g}, but "
            "the best of the evaluated models is kept at the end, and has to be saved: make them "
            "equal, or set load_best_model_at_end to false."
        )


def _check_seeds(training: DialogueTrainingArguments) -> None:
    if training.seeds is None:
        return
    if training.given["push_to_hub"]:
        raise UsageError(
            "push_to_hub publishes one run, and seeds make several: take it out, and publish the "
            f"one that you choose by {COMMAND} publish."
        )
    if training.world_size > 1:
        raise UsageError(
            f"seeds makes its runs in one process, and these are {training.world_size}. Start each "
            "run by itself, accelerate launch ... --seed 1 --output_dir OUTPUT_DIR/seed-1; the "
            "command with --seeds, without accelerate, then puts their figures together."
        )


def _check_origin(settings: Settings) -> None:
    data, model, do_train = settings.data, settings.model, settings.training.do_train
    if data.data is not None and data.dataset_name is not None:
        raise UsageError(
            f"data is {data.data!r} and dataset_name {data.dataset_name!r}, but dialogues come "
            "from one of them. Take the other out, of the config too."
        )
    if data.multireference is not None:
        conflict = ("exchange_sides", data.exchange_sides, "its references are of responses")
        _refuse_beside("multireference", conflict)
    if model.new_model is not None:
        model.new_model_sizes()
    both = model.model_name_or_path is not None and model.new_model is not None
    neither = model.model_name_or_path is None and model.new_model is None
    if neither or (both and do_train):
        raise UsageError(
            "Set one of model_name_or_path (a checkpoint to fine-tune, for example "
            "google-t5/t5-small) and new_model (a mapping with model_type and sizes), or begin "
            "with a config such as configs/demo.yaml."
        )
    if not do_train and model.model_name_or_path is None:
        raise UsageError("do_train is false: give the trained model as model_name_or_path.")


def _check_decoding(settings: Settings) -> None:
    decoding = settings.decoding
    weights = decoding.rerank_weights()
    try:
        check_weights(weights)
        check_candidates(
            decoding.candidates,
            weights,
            decoding.do_sample,
            decoding.num_beams,
            decoding.reverse_model,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    if decoding.candidates == 1 and decoding.rerank is not None:
        raise UsageError("rerank has no effect on one candidate: set candidates as well, to 10.")


def _check_adversarial(settings: Settings) -> None:
    adversarial, training = settings.adversarial, settings.training
    if not adversarial.is_on:
        return
    if settings.model.model_name_or_path is None:
        raise UsageError(
            "adversarial training improves a generator that was trained by maximum likelihood: "
            "make one first (configs/rnn_attention.yaml) and give its folder as model_name_or_path."
        )
    auto = training.tokens_per_batch == "auto"
    _refuse_beside(
        "adversarial",
        ("tokens_per_batch auto", auto, "it does not know what a discriminator needs"),
    )
    if 0 < training.max_steps <= adversarial.first_step:
        raise UsageError(
            f"max_steps is {training.max_steps}, all in the discriminator's warm-up, in which the "
            "generator does not learn; raise it or lower discriminator_warmup_steps, now "
            f"{adversarial.discriminator_warmup_steps}."
        )


def check_adversarial_training(
    args: DialogueTrainingArguments, adversarial: AdversarialArguments
) -> None:
    """Refuse what adversarial training cannot work with, or what would let a collapse go unseen.

    Its trainer asks again: without validation pairs nothing is evaluated after all.
    """
    if args.fp16 or args.mixed_precision == "fp16":
        raise UsageError("fp16 does not work in adversarial training; use bf16 or fp32.")
    if args.label_smoothing_factor > 0:
        raise UsageError(
            f"label_smoothing_factor is {args.label_smoothing_factor}; the policy gradient has "
            "none: set it to 0."
        )
    if args.load_best_model_at_end and args.metric_for_best_model in OF_LIKELIHOOD:
        raise UsageError(
            "The best model by likelihood is the one before adversarial training: set "
            "load_best_model_at_end to false, or metric_for_best_model to another figure."
        )
    unequal = args.eval_strategy == "no" or args.save_strategy != args.eval_strategy
    if adversarial.collapse_threshold > 0 and (
        unequal or (args.eval_strategy == "steps" and args.save_steps % args.eval_steps)
    ):
        raise UsageError(
            "A collapse is seen by evaluations, and undone by checkpoints that one has passed: set "
            "eval_strategy and save_strategy alike, to steps (save_steps a multiple of eval_steps) "
            "or epoch, and give validation pairs; or set collapse_threshold to 0."
        )


def _check_unused(settings: Settings) -> None:
    """Refuse settings of a method that is not chosen."""
    for group, method, way_out in (
        (settings.adversarial, "adversarial", "set adversarial as well, to true"),
        (settings.preferences, "dpo", "set dpo as well, to true"),
        (settings.lora, "LoRA", "set lora_r as well, to 16"),
    ):
        if not group.is_on and (changed := _changed(group)):
            raise UsageError(f"{changed[0]} has no effect without {method}: {way_out}.")
    adversarial, decoding = settings.adversarial, settings.decoding
    warmup, criteria = adversarial.discriminator_warmup_steps, decoding.rerank_weights().keys()
    # What each setting needs: whether it is there, and what it is.
    needs = {
        "rollouts": (adversarial.reward == "rollouts", "reward rollouts"),
        "discriminator_pool": (warmup == "auto", "discriminator_warmup_steps auto"),
        "temperature": (decoding.do_sample, "do_sample"),
        "top_p": (decoding.do_sample, "do_sample"),
        "top_k": (decoding.do_sample, "do_sample"),
        "length_penalty": (decoding.num_beams > 1, "num_beams above 1"),
        "guidance_tokens": (decoding.guidance_weight, "guidance_weight"),
        "reverse_model": ({"reverse", "reverse_sum"} & criteria, "rerank by reverse"),
    }
    for name in [*_changed(adversarial), *_changed(decoding)]:
        is_there, what = needs.get(name, (True, ""))
        if not is_there:
            raise UsageError(f"{name} has no effect without {what}: set that, or take it out.")


def _changed(group) -> list[str]:
    """Name the settings of a group that are not the default."""
    return [name for name, value in vars(group).items() if value != getattr(type(group), name)]


def _refuse_beside(method: str, *conflicts: tuple[str, object, str]) -> None:
    """Refuse what does not go with a method: its name, whether it is set, and the reason."""
    for name, is_set, reason in conflicts:
        if is_set:
            raise UsageError(f"{name} does not work with {method}: {reason}. Take one out.")


def _check_objectives(settings: Settings) -> None:
    weights, training = settings.objectives.objective_weights(), settings.training
    if not weights:
        return
    of_all_replies = {"vocabulary", "stock_phrases"} & weights.keys()
    _refuse_beside(
        "objectives",
        ("adversarial", settings.adversarial.is_on, "each is a training of its own"),
        ("dpo", settings.preferences.is_on, "each is a training of its own"),
        ("tokens_per_batch auto", training.tokens_per_batch == "auto", "it tries plain batches"),
        ("streaming", settings.data.streaming and of_all_replies, "replies are counted first"),
    )


def _check_preferences(settings: Settings) -> None:
    preferences, training = settings.preferences, settings.training
    metric = training.metric_for_best_model
    if not preferences.is_on:
        if metric in OF_PREFERENCES:
            raise UsageError(f"metric_for_best_model is {metric}: set dpo as well, to true.")
        return
    if settings.model.model_name_or_path is None:
        raise UsageError(
            "dpo improves a model that was trained by likelihood: make one first "
            "(configs/t5_small.yaml) and give its folder as model_name_or_path."
        )
    _refuse_beside(
        "dpo",
        ("adversarial", settings.adversarial.is_on, "each is a training of its own"),
        ("streaming", settings.data.streaming, "likelihoods are measured before training begins"),
        ("tokens_per_batch auto", training.tokens_per_batch == "auto", "it tries single replies"),
        ("label_smoothing_factor", training.label_smoothing_factor > 0, "no token is a target"),
        ("exchange_sides", settings.data.exchange_sides, "the rejected replies have one side"),
    )
    if training.load_best_model_at_end and metric in OF_LIKELIHOOD:
        raise UsageError(
            f"metric_for_best_model is {metric}, by which the best model is the one before dpo: "
            "set it to preference_loss, or load_best_model_at_end to false."
        )


def _check_lora(settings: Settings) -> None:
    lora, training = settings.lora, settings.training
    if not lora.is_on:
        return
    if not find_spec("peft"):
        raise UsageError(f"lora_r is {lora.lora_r}, which needs peft: pip install peft.")
    if settings.model.model_name_or_path is None:
        raise UsageError(
            f"lora_r is {lora.lora_r}, but a new model has no weights yet that could stay as they "
            "are: take lora_r out, or give a checkpoint as model_name_or_path."
        )
    sharded = bool(training.fsdp or training.deepspeed)
    _refuse_beside(
        "LoRA",
        ("adversarial", settings.adversarial.is_on, "it needs the generator as it was"),
        (
            training.scaled_optim,
            training.scaled_optim,
            "its rates follow the initial weights of whole tensors",
        ),
        ("fsdp or deepspeed", sharded, "shards of adapters are not tried"),
        (
            "push_to_hub with lora_merge false",
            training.given["push_to_hub"] and not lora.lora_merge,
            "a whole model is published",
        ),
    )


def _check_streaming(settings: Settings) -> None:
    if not settings.data.streaming:
        return
    training = settings.training
    if training.max_steps <= 0:
        raise UsageError("A stream has no end: with streaming, set max_steps.")
    if training.do_train and "epoch" in (training.save_strategy, training.eval_strategy):
        raise UsageError(
            "A stream has no epochs, after which checkpoints would be saved: with streaming, set "
            "eval_strategy and save_strategy to steps, and eval_steps and save_steps to 1000, say."
        )
    if training.dataloader_num_workers > 1:
        raise UsageError(
            f"dataloader_num_workers is {training.dataloader_num_workers}, but each process reads "
            "its part of a stream in order: with streaming, set 0 or 1."
        )
    auto = training.tokens_per_batch == "auto"
    whole = "train would have to be read whole before it begins"
    _refuse_beside(
        "streaming",
        ("exchange_sides", settings.data.exchange_sides, "a stream has the pairs as they are"),
        ("drop_overlap", settings.data.drop_overlap, whole),
        ("adversarial", settings.adversarial.is_on, "it draws from all training pairs"),
        ("tokens_per_batch auto", auto, "it tries the longest pairs"),
    )


def _check_metrics(settings: Settings) -> None:
    training = settings.training
    metric = training.metric_for_best_model
    known = keys_with("chooses_best")
    if metric not in known:
        hint = nearest(metric, known)
        raise UsageError(f"metric_for_best_model is {metric!r}, which is not computed.{hint}")
    known_without_replies = OF_LIKELIHOOD + OF_PREFERENCES
    if metric not in known_without_replies and not training.predict_with_generate:
        raise UsageError(f"metric_for_best_model is {metric}: set predict_with_generate as well.")


# What a person gives to a library is tried out on it, in small: it alone knows what it takes.


@contextmanager
def _trying(setting: str, value) -> Iterator[None]:
    """Turn what a library says of a setting's value into one message."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UsageError(f"{setting} is {value!r}, which does not work: {reason}.") from error


def _check_trackers(training: DialogueTrainingArguments) -> None:
    for name in training.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            known = sorted([*INTEGRATION_TO_CALLBACK, "all", "none"])
            hint = nearest(name, known)
            raise UsageError(f"report_to is {name!r}; it must be one of {', '.join(known)}.{hint}")
        # Their callback, half made, would fail once more as it is deleted.
        if name in ("mlflow", "dagshub") and not find_spec("mlflow"):
            raise UsageError(f"report_to is {name!r}, which needs mlflow: pip install mlflow.")
        with _trying("report_to", name):  # says which package is missing
            INTEGRATION_TO_CALLBACK[name]()


def _check_optimizer(training: DialogueTrainingArguments) -> None:
    name = training.scaled_optim or str(training.optim.value)
    args = training.optim_args
    if args is not None and not all(part.count("=") == 1 for part in args.split(",")):
        raise UsageError(f"optim_args is {args!r}; it must be name=value, name=value, ...")
    with _trying("optim", name) if args is None else _trying("optim_args", args):
        try:
            optimizer, options = Trainer.get_optimizer_cls_and_kwargs(training)
        except (ValueError, TypeError):
            if name.startswith(MADE_WITH_THE_MODEL):
                return
            raise
        if isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer):
            optimizer([torch.nn.Parameter(torch.zeros(1))], **options)


def _check_schedule(training: DialogueTrainingArguments) -> None:
    kind, options = training.lr_scheduler_type, training.lr_scheduler_kwargs
    if options and kind in ("constant", "constant_with_warmup"):
        raise UsageError(
            f"lr_scheduler_kwargs is {options}, but lr_scheduler_type {kind.value} takes none."
        )
    steps = training.max_steps if training.max_steps > 0 else 10**6
    # Without any options, a schedule may lack some.
    with _trying("lr_scheduler_kwargs" if options else "lr_scheduler_type", options or kind.value):
        schedule = get_scheduler(
            kind,
            torch.optim.SGD([torch.zeros(1)], lr=training.learning_rate),
            num_warmup_steps=training.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=copy(options),
        )
        for rate in getattr(schedule, "lr_lambdas", ()):
            factors = [rate(steps * tenth // 10) for tenth in range(11)]
            if not all(0 <= factor < math.inf for factor in factors):
                raise ValueError("the learning rate would be negative or no number")


def _check_checkpointing(training: DialogueTrainingArguments) -> None:
    given = training.activation_checkpointing_kwargs
    older = training.given["activation_checkpointing_kwargs"] is None
    name = "gradient_checkpointing_kwargs" if given and older else "activation_checkpointing_kwargs"
    of_transformers = ("every_n_layers", "offload")
    options = {k: v for k, v in (given or {}).items() if k not in of_transformers}

    def layer(states):
        return states

    with _trying(name, given):
        checkpoint(layer, torch.zeros(1), **{"use_reentrant": False} | options)


def _check_compiler(training: DialogueTrainingArguments) -> None:
    if not training.torch_compile:
        return
    modes = torch._inductor.list_mode_options()
    for name, known in (
        ("torch_compile_backend", torch.compiler.list_backends(exclude_tags=())),
        ("torch_compile_mode", list(modes)),
    ):
        value = getattr(training, name)
        if value is not None and value not in known:
            raise UsageError(f"{name} is {value!r}; it must be one of {', '.join(known)}.")
