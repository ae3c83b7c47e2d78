"""Going on with an interrupted run: whether it may, from which checkpoint, and what is loaded."""

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import load_checkpoint_in_model
from transformers import get_scheduler
from transformers.trainer_callback import TrainerState

from ..data.mixture import parse_sources
from ..errors import UsageError
from ..run_folder import OF_DRY_RUNS, PART, read_mapping
from ..setting_fields import Mark
from ..settings import DecodingArguments, Settings, marked
from ..strict_yaml import read_yaml
from ..training_settings import DialogueTrainingArguments
from .checkpoints import MANIFEST, RESULTS, best_checkpoint, checkpoints, flaw, last_checkpoint
from .lora import has_adapter, holds_adapter
from .sharding import check_checkpoint, prepare_for_evaluation, sharding_of

logger = logging.getLogger(__name__)
FREE = marked(Mark.FREE)
PATHS = marked(Mark.PATH)
# Settings of the schedule, which may change in steps to come (`schedule_agrees`).
SCHEDULE = {"lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "max_steps"}
SCHEDULE |= {"num_train_epochs"}
CONSTANT = ("constant", "constant_with_warmup")


def check_run_folder(run_dir: Path, config: dict) -> bool:
    """Refuse a folder with another run or other files; return whether it has this run, complete.

    What is damaged is named, and the run is not complete; nor is one that is to be trained longer.
    One without a manifest is taken as it is.
    """
    if (run_dir / "metrics.json").exists():
        free = FREE - {"do_eval", "do_predict"}
        changes = _changes(run_dir, config, free, _place)
        if changes and not _changes(run_dir, config, free | SCHEDULE, _place):
            _check_extension(run_dir, config, changes)
            return False
        if changes:
            raise UsageError(
                f"{run_dir} holds a complete run with other settings ({', '.join(changes)}). "
                "Choose another --output_dir; to evaluate that model differently, add --do_train "
                f"false --model_name_or_path {run_dir}."
            )
        sealed = (run_dir / MANIFEST).exists()
        wrong = flaw(run_dir, needed=["metrics.json"]) if sealed else None
        if wrong is not None:
            logger.warning("%s: %s. It is made again.", run_dir, wrong)
        return wrong is None
    names = {path.name.removesuffix(PART) for path in run_dir.glob("[!.]*")}
    if names - {*OF_DRY_RUNS} and not names & {"config.yaml", "tokenizer"}:
        raise UsageError(f"{run_dir} holds other files; choose a new --output_dir.")
    return False


def is_extended(state: TrainerState, max_steps: int, num_train_epochs: float) -> bool:
    """Tell whether a training that took all its steps is to take more, or whole epochs more."""
    if state.global_step < state.max_steps:  # on the way, or ended before
        return False
    if max_steps > 0:
        return max_steps > state.global_step
    return math.ceil(num_train_epochs) > state.num_train_epochs


def _check_extension(run_dir: Path, config: dict, changes: list[str]) -> None:
    """Refuse to train a complete run longer where its checkpoint or its schedule does not allow."""
    checkpoint = last_checkpoint(run_dir)
    if checkpoint is None or not (run_dir / "trainer_state.json").is_file():
        reason = "none of its checkpoints is left"
    else:
        state, before = _state(run_dir), read_yaml(run_dir / "config.yaml")
        step = state.global_step
        if not is_extended(state, config["max_steps"], config["num_train_epochs"]):
            ended = f"ended early, at step {step:,}" if step < state.max_steps else "had them all"
            reason = f"its training {ended}"
        elif not schedule_agrees(before, config, _state(checkpoint).global_step):
            reason = (
                "its learning rate went by the number of steps, and another number would have "
                "given other rates; only under a constant one (lr_scheduler_type constant, or "
                "constant_with_warmup with a number of steps as warm-up) could it go on"
            )
        else:
            return
    raise UsageError(
        f"{run_dir} holds a complete run, which cannot be trained longer ({', '.join(changes)}): "
        f"{reason}. Train a new run from it: --model_name_or_path {run_dir} --output_dir OTHER."
    )


def _state(folder: Path) -> TrainerState:
    return TrainerState.load_from_json(str(folder / "trainer_state.json"))


def find_checkpoint(settings: Settings, environment: dict) -> tuple[Settings, Path | None]:
    """Find where the run in `output_dir` goes on, if anywhere; refuse changes that may not be.

    The settings get the batch size that `tokens_per_batch` auto has found before.
    """
    training, run_dir = settings.training, settings.run_dir
    checkpoint = run_dir if _has_final_model(training) else last_checkpoint(run_dir)
    if checkpoint is None:
        if training.do_train:
            _check_nothing_is_lost(training)
        if checkpoints(run_dir):
            logger.warning("No checkpoint in %s is whole: training starts anew.", run_dir)
        return settings, None
    before = read_mapping(run_dir / "environment.json")
    if not before:
        raise UsageError(
            f"{run_dir / 'environment.json'} is missing, which tells what the run was made with. "
            "Copy the run again, or choose another --output_dir."
        )
    check_changes(settings, checkpoint, before, environment)
    if training.tokens_per_batch == "auto":
        settings = settings.with_training(tokens_per_batch=before["tokens_per_batch"])
    return settings, checkpoint


def _has_final_model(training: DialogueTrainingArguments) -> bool:
    """Tell whether training is over, and its model whole at the root of the run folder."""
    run_dir = Path(training.output_dir)
    if not (run_dir / MANIFEST).exists():
        return False
    if wrong := flaw(run_dir, ignored=RESULTS):
        if last_checkpoint(run_dir) is not None:
            logger.warning("%s: %s. The model is saved again from a checkpoint.", run_dir, wrong)
        return False
    if not (run_dir / "trainer_state.json").is_file():  # it was only evaluated: nothing goes on
        return False
    return not is_extended(_state(run_dir), training.max_steps, training.num_train_epochs)


def _check_nothing_is_lost(training: DialogueTrainingArguments) -> None:
    """Refuse to train anew over a trained model that is damaged, or is to be trained longer."""
    run_dir = Path(training.output_dir)
    if not (run_dir / MANIFEST).exists() or not (run_dir / "trainer_state.json").exists():
        return
    wrong = flaw(run_dir, ignored=RESULTS)
    reason = f"of which {wrong}" if wrong else "which is to take more steps"
    raise UsageError(
        f"{run_dir} holds a trained model, {reason}, and no whole checkpoint to go on from: it "
        "would be trained anew, and its model replaced. Put back what was there, or choose another "
        "--output_dir."
    )


def check_changes(settings: Settings, checkpoint: Path, before: dict, environment: dict) -> None:
    """Refuse to go on from a checkpoint under settings that would make it another run."""
    run_dir = settings.run_dir
    free, config = _free(settings), settings.as_config()
    step = _state(checkpoint).global_step
    if schedule_agrees(read_yaml(run_dir / "config.yaml"), config, step):
        free = free | SCHEDULE
    changes = _changes(run_dir, config, free, _place_or_content)
    if before.get("training_data") != environment["training_data"]:
        changes.append("the text of the training data")
    validation = environment["validation_data"]
    if settings.training.do_train and before.get("validation_data", validation) != validation:
        changes.append("the text of the validation data, by which the best model is chosen")
    if changes:
        raise UsageError(
            f"{run_dir} holds an unfinished run with other settings ({', '.join(changes)}). Finish "
            "it with those, or choose another --output_dir. The schedule may change only in steps "
            "to come: a constant rate can be ended, a share of warm-up cannot be moved."
        )
    processes = before.get("processes"), environment["processes"]
    if processes[0] != processes[1]:
        raise UsageError(
            f"{run_dir} holds an unfinished run of {processes[0]} processes, and these are "
            f"{processes[1]}: another number would draw other batches. Go on with as many "
            f"(accelerate launch --num_processes {processes[0]}), or choose another --output_dir."
        )


def _free(settings: Settings) -> set[str]:
    """Name the settings that may change before the run goes on."""
    if settings.trains(settings.adversarial) or settings.trains(settings.preferences):
        # Decoded replies teach; evaluations end the one, and make the references of the other.
        return FREE - {"eval_tokens_per_batch"}
    replies_teach = "sequence_repetition" in settings.objectives.objective_weights()
    if replies_teach or settings.training.predict_with_generate:  # which chooses the best model
        return FREE
    return FREE | set(DecodingArguments.__dataclass_fields__)


def _changes(run_dir: Path, config: dict, free: set[str], meaning: Callable) -> list[str]:
    """List the settings in which the run in `run_dir` differs from `config`, by their meaning."""
    before = read_yaml(run_dir / "config.yaml")
    names = sorted((before.keys() | config.keys()) - free - {"output_dir"})
    return [
        f"{name}: {before.get(name)} -> {config.get(name)}"
        for name in names
        if meaning(name, before.get(name)) != meaning(name, config.get(name))
    ]


def _place(name: str, value):
    """Take a setting as it is; of a file or folder that is there, the place, however written."""
    if isinstance(value, str) and name in PATHS:
        path = os.path.expandvars(os.path.expanduser(value))
        return os.path.realpath(path) if os.path.exists(path) else value
    if isinstance(value, list) and name == "data":
        return [source | {"path": _place(name, source["path"])} for source in value]
    return value


def _place_or_content(name: str, value):
    """Take of `data` names and weights of its sources, not paths: rows are compared besides."""
    if name == "data":
        return [(source.name, source.weight) for source in parse_sources(value) or ()]
    return _place(name, value)


def schedule_agrees(before: dict, now: dict, step: int) -> bool:
    """Tell whether two schedules have the same rates up to a step, that of a checkpoint.

    So a constant rate may be ended at any time: a run under `warmup_stable_decay` goes on from a
    checkpoint of its stable phase with more steps or with fewer. A schedule that goes by epochs
    agrees where its rate does not depend on their number; one that cannot be made, or whose rates
    follow the loss, with none.
    """
    try:
        if 0 < now["max_steps"] <= step:
            return False
        return _rates(before, step) == _rates(now, step)
    except (TypeError, ValueError, KeyError, AttributeError):
        return False


def _rates(settings: dict, step: int) -> list[float]:
    """The factors of the learning rate from step 0 up to `step`, included."""
    kind, steps, warmup = (settings[k] for k in ("lr_scheduler_type", "max_steps", "warmup_steps"))
    if steps <= 0:
        if kind not in CONSTANT or (0 < warmup < 1 and kind != "constant"):
            raise ValueError("how many steps the epochs have is not known")
        steps = step + 1
    schedule = get_scheduler(
        kind,
        torch.optim.SGD([torch.zeros(1)], lr=1.0),
        num_warmup_steps=int(warmup) if warmup >= 1 else math.ceil(steps * warmup),
        num_training_steps=steps,
        scheduler_specific_kwargs=settings.get("lr_scheduler_kwargs"),
    )
    return [schedule.lr_lambdas[0](i) for i in range(step + 1)]


def load_ended_training(trainer, folder: Path) -> bool:
    """Load the result of a training that had ended at `folder`; tell whether it had.

    It ends after all steps, or with no patience left. Trainer would take a further step from there.
    """
    args = trainer.args
    state = _state(folder)
    if folder != Path(args.output_dir):
        check_checkpoint(folder, sharding_of(trainer))
        ended = state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]
        if not ended or is_extended(state, args.max_steps, args.num_train_epochs):
            return False
        if args.load_best_model_at_end:
            folder = best_checkpoint(args.output_dir, state.best_global_step) or folder
    trainer.state = state
    at_root = folder == Path(args.output_dir)
    if trainer.is_fsdp_enabled and not at_root:
        prepare_for_evaluation(trainer)
        trainer._load_from_checkpoint(str(folder))
    elif has_adapter(trainer.model) and holds_adapter(folder):
        trainer._load_from_checkpoint(str(folder))
    else:
        trainer.merge_adapter()  # it has learnt nothing; the merged weights replace all
        load_checkpoint_in_model(trainer.model, str(folder))
    return True
