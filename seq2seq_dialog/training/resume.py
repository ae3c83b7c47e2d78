"""Going on with an interrupted run: whether it may, from which checkpoint, and what is loaded."""

import math
from pathlib import Path

import torch
from accelerate import load_checkpoint_in_model
from rich.console import Console
from transformers import get_scheduler
from transformers.trainer_callback import TrainerState

from ..errors import UsageError
from ..run_folder import read_json, read_yaml
from ..settings import DecodingArguments, Mark, Settings, marked
from .sharding import check_checkpoint, prepare_for_evaluation, sharding_of


def last_checkpoint(output_dir: str | Path, world_size: int) -> str | None:
    """Find where a run can go on: its last checkpoint that was written whole, if any.

    A run may be killed while it writes one; Trainer writes the state of the training last, but for
    the random states of other processes. Where training is over and the model stands at the root
    of `output_dir`, that is the place.
    """
    output_dir, whole = Path(output_dir), {}  # step: folder
    ranks = [""] if world_size == 1 else [f"_{rank}" for rank in range(world_size)]
    for folder in (output_dir, *output_dir.glob("checkpoint-*")):
        try:
            step = read_json(folder / "trainer_state.json")["global_step"]
        except (OSError, ValueError):
            continue
        if folder == output_dir:
            return str(folder)
        if all((folder / f"rng_state{rank}.pth").exists() for rank in ranks):
            whole[step] = str(folder)
    return whole[max(whole)] if whole else None


def load_ended_training(trainer, folder: Path) -> bool:
    """Load the result of a training that had ended at `folder`; tell whether it had.

    It ends after all steps, or with no patience left. Trainer would take a further step from there.
    """
    args = trainer.args
    state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
    if folder != Path(args.output_dir):
        check_checkpoint(folder, sharding_of(trainer))
        if not state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
            return False
        if args.load_best_model_at_end and state.best_model_checkpoint:
            folder = Path(state.best_model_checkpoint)
    trainer.state = state
    if trainer.is_fsdp_enabled and folder != Path(args.output_dir):
        prepare_for_evaluation(trainer)
        trainer._load_from_checkpoint(str(folder))
    else:
        load_checkpoint_in_model(trainer.model, str(folder))
    return True


# Runs: may one go on in a run folder that holds files already?

# Settings that do not touch the weights, and so may change between a run and its continuation:
# those marked in settings.py, and these of transformers.
FREE = marked(Mark.FREE) | {
    "disable_tqdm",
    "hub_model_id",
    "hub_private_repo",
    "hub_revision",
    "log_level",
    "push_to_hub",
    "report_to",
    "run_name",
}
# Settings of the schedule, which may change in steps to come (`schedule_agrees`).
SCHEDULE = {"lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "max_steps"}


def is_complete(run_dir: Path, config: dict) -> bool:
    """Tell whether `run_dir` holds the very run that `config` describes, complete.

    Another run, or files that are no run, are refused: neither may be overwritten.
    """
    if (run_dir / "metrics.json").exists():
        changes = _changes(run_dir, config, FREE - {"do_eval", "do_predict"})
        if changes:
            raise UsageError(
                f"{run_dir} holds a complete run with other settings ({', '.join(changes)}). "
                "Choose another --output_dir; to evaluate that model differently, add --do_train "
                f"false --model_name_or_path {run_dir}."
            )
        return True
    is_run = any((run_dir / name).exists() for name in ("config.yaml", "tokenizer"))
    if run_dir.is_file() or (run_dir.is_dir() and any(run_dir.iterdir()) and not is_run):
        raise UsageError(f"{run_dir} holds other files; choose a new --output_dir.")
    return False


def find_checkpoint(
    settings: Settings, environment: dict, console: Console
) -> tuple[Settings, str | None]:
    """Find the checkpoint at which the run in `output_dir` goes on, if there is one.

    The settings get the batch size that `tokens_per_batch` auto has found before.
    """
    training, run_dir = settings.training, Path(settings.training.output_dir)
    checkpoint = last_checkpoint(run_dir, training.world_size)
    if checkpoint is None:
        if any(run_dir.glob("checkpoint-*")):
            console.print(f"No checkpoint in {run_dir} is whole: training starts anew.")
        return settings, None
    before = read_json(run_dir / "environment.json")
    free, config = _free(settings), settings.as_config()
    step = read_json(Path(checkpoint) / "trainer_state.json")["global_step"]
    if schedule_agrees(read_yaml(run_dir / "config.yaml"), config, step):
        free = free | SCHEDULE
    changes = _changes(run_dir, config, free)
    for key, what in (("processes", "processes"), ("training_data", "the training data")):
        if before.get(key) != environment[key]:
            changes.append(f"{what}: {before.get(key)} -> {environment[key]}")
    if changes:
        raise UsageError(
            f"{run_dir} holds an unfinished run with other settings ({', '.join(changes)}). Finish "
            "it with those, or choose another --output_dir. The schedule may change only in steps "
            "to come: a constant rate can be ended, a share of warm-up cannot be moved."
        )
    if training.tokens_per_batch == "auto":
        settings = settings.with_training(tokens_per_batch=before["tokens_per_batch"])
    return settings, checkpoint


def _free(settings: Settings) -> set[str]:
    """Name the settings that may change before the run goes on."""
    if settings.adversarial.adversarial:  # replies teach, and evaluations can end the training
        return FREE - {"eval_tokens_per_batch"}
    if settings.training.predict_with_generate:  # replies choose the best checkpoint
        return FREE
    return FREE | set(DecodingArguments.__dataclass_fields__)


def _changes(run_dir: Path, config: dict, free: set[str]) -> list[str]:
    """List the settings in which the run in `run_dir` differs from `config`."""
    before = read_yaml(run_dir / "config.yaml")
    names = sorted((before.keys() | config.keys()) - free - {"output_dir"})
    return [
        f"{name}: {before.get(name)} -> {config.get(name)}"
        for name in names
        if before.get(name) != config.get(name)
    ]


def schedule_agrees(before: dict, now: dict, step: int) -> bool:
    """Tell whether two schedules have the same rates up to a step, that of a checkpoint.

    So a constant rate may be ended at any time: a run under `warmup_stable_decay` goes on from a
    checkpoint of its stable phase with more steps or with fewer. A schedule that goes by epochs, or
    cannot be made, agrees with none.
    """
    try:
        return _rates(before, step) == _rates(now, step)
    except (TypeError, ValueError, KeyError):
        return False


def _rates(settings: dict, step: int) -> list[float]:
    """The factors of the learning rate from step 0 up to `step`, included."""
    steps, warmup = settings["max_steps"], settings["warmup_steps"]
    if steps <= step:
        raise ValueError("the schedule has no such step")
    schedule = get_scheduler(
        settings["lr_scheduler_type"],
        torch.optim.SGD([torch.zeros(1)], lr=1.0),
        num_warmup_steps=int(warmup) if warmup >= 1 else math.ceil(steps * warmup),
        num_training_steps=steps,
        scheduler_specific_kwargs=settings.get("lr_scheduler_kwargs"),
    )
    return [schedule.lr_lambdas[0](i) for i in range(step + 1)]
