"""Which values a setting may have, and which settings do not go together."""

import math
from importlib.util import find_spec
from typing import get_type_hints

from .errors import UsageError, nearest
from .evaluation.catalogue import OF_LIKELIHOOD, keys_with
from .settings import Settings, bounds_of


def check(settings: Settings) -> None:
    """Refuse values out of bounds, and settings that do not go together."""
    for group in vars(settings).values():
        _check_bounds(group)
    _check_origin(settings)
    _check_adversarial(settings)
    _check_streaming(settings)
    _check_metrics(settings)


def _check_bounds(group) -> None:
    for name, hint in get_type_hints(type(group), include_extras=True).items():
        value, bounds = getattr(group, name, None), bounds_of(hint)
        if bounds is None or value in (None, "auto") or bounds.least <= value <= bounds.most:
            continue
        words = f"at least {bounds.least}"
        if bounds.most != math.inf:
            words = f"from {bounds.least} to {bounds.most}"
        raise UsageError(f"{name} is {value}; it must be {words}.")


def _check_origin(settings: Settings) -> None:
    data, model, do_train = settings.data, settings.model, settings.training.do_train
    if data.data is not None and data.dataset_name is not None:
        raise UsageError(
            f"data is {data.data!r} and dataset_name {data.dataset_name!r}, but dialogues come "
            "from one of them. Take the other out, of the config too."
        )
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


def _check_adversarial(settings: Settings) -> None:
    adversarial, training = settings.adversarial, settings.training
    if not adversarial.adversarial:
        return
    if settings.model.model_name_or_path is None:
        raise UsageError(
            "adversarial training improves a generator that was trained by maximum likelihood: "
            "make one first (configs/rnn_attention.yaml) and give its folder as model_name_or_path."
        )
    if training.tokens_per_batch == "auto":
        raise UsageError(
            "tokens_per_batch is auto, which does not know what a discriminator needs: with "
            "adversarial training, set a number."
        )
    if 0 < training.max_steps <= adversarial.discriminator_warmup_steps:
        raise UsageError(
            f"max_steps is {training.max_steps}, all in the discriminator's warm-up, in which the "
            "generator does not learn; raise it or lower discriminator_warmup_steps, now "
            f"{adversarial.discriminator_warmup_steps}."
        )


def _check_streaming(settings: Settings) -> None:
    if not settings.data.streaming:
        return
    training = settings.training
    if training.do_train and training.max_steps <= 0:
        raise UsageError("A stream has no end: with streaming, set max_steps.")
    if training.dataloader_num_workers > 1:
        raise UsageError(
            f"dataloader_num_workers is {training.dataloader_num_workers}, but each process reads "
            "its part of a stream in order: with streaming, set 0 or 1."
        )
    auto = training.tokens_per_batch == "auto"
    whole = "train would have to be read whole before it begins"
    for name, is_set, reason in (
        ("drop_overlap", settings.data.drop_overlap, whole),
        ("adversarial", settings.adversarial.adversarial, "it draws from all training pairs"),
        ("tokens_per_batch auto", auto, "it tries the longest pairs"),
    ):
        if is_set:
            raise UsageError(f"{name} does not work with streaming: {reason}. Take one out.")


def _check_metrics(settings: Settings) -> None:
    training = settings.training
    metric = training.metric_for_best_model.removeprefix("eval_")
    known = keys_with("chooses_best")
    if metric not in known:
        hint = nearest(metric, known)
        raise UsageError(f"metric_for_best_model is {metric!r}, which is not computed.{hint}")
    if metric not in OF_LIKELIHOOD and not training.predict_with_generate:
        raise UsageError(f"metric_for_best_model is {metric}: set predict_with_generate as well.")
    for name in training.report_to:
        if name in ("tensorboard", "trackio", "wandb", "mlflow") and not find_spec(name):
            raise UsageError(f"report_to is {name}, which is missing: pip install {name}.")
