"""A search over settings: each trial is an ordinary run, and optuna's TPE says what the next takes.

What a trial takes follows from the settings and the trials before it. A search that was stopped
therefore asks for the same trials again, and finds them in their folders, complete or on the way.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.table import Column, Table

from . import run_folder
from .command_line import setting_names
from .errors import UsageError, nearest
from .evaluation.catalogue import METRICS
from .report.console import plain_console
from .report.seeds import check_same_data
from .run_folder import read_json, read_mapping, write_json, write_yaml
from .setting_fields import Mark, bounds
from .settings import GROUPS, DataArguments, Settings, marked
from .shipped import command
from .strict_yaml import load_mapping
from .train import run_unless_complete
from .train_arguments import parse
from .training.memory import DoesNotFit
from .training.resume import FREE
from .training.stopping import Diverged

EXAMPLE = "{learning_rate: {low: 1e-4, high: 1e-2, log: true}, gradient_accumulation_steps: [1, 2]}"
SUMMARY, BEST = "search.json", "best.yaml"
STARTUP_TRIALS = 5  # at random, before those that follow from others
# Settings that may not vary: they change what is measured and not what is learnt, or are about the
# hardware, on which the libraries settle once a process.
FIXED = FREE | marked(Mark.PATH) | marked(Mark.ONCE)
FIXED |= DataArguments.__dataclass_fields__.keys() - {"max_source_length", "drop_overlap"}
FIXED |= {"output_dir", "seed", "data_seed", "do_train", "new_model", "vocab_size"}
FIXED |= {"metric_for_best_model", "greater_is_better", "predict_with_generate"}
FIXED |= {"new_model.vocab_size"}
FIXED |= {"dpo_beta", "dpo_length_normalised", "negatives"}  # preference_loss is of these
FIXED |= {"bf16", "fp16", "use_cpu", "fsdp", "fsdp_config", "deepspeed", "torch_compile"}


def main(argv: list[str]) -> None:
    """Search by `CONFIG [--flag value ...]`; write the best settings as a config."""
    settings = parse(argv, "search")
    check(settings)
    space = read_space(settings.search.space)
    for name, distribution in space.items():
        for value in ends(distribution):
            parse([*argv, *as_flags({name: value})])
    folder = settings.run_dir
    with run_folder.locked(folder):
        run_folder.check_folder_of_runs(folder, "trial-*", "best*", f"{SUMMARY}*")
        announce(settings, space)
        trials = make_trials(argv, settings, space)
        report(argv, settings, trials)


def check(settings: Settings) -> None:
    """Refuse what a search cannot do with its settings."""
    training = settings.training
    if not find_spec("optuna"):
        raise UsageError("search needs a package that is missing: pip install optuna.")
    for name, is_set, reason in (
        ("push_to_hub", training.given["push_to_hub"], f"publish the run that {BEST} makes"),
        ("seeds", training.seeds, f"try {BEST} under several seeds afterwards"),
        ("dry_run", training.dry_run, "take a look by the verb train"),
        ("do_train false", not training.do_train, "a trial has to train"),
        ("do_eval false", not training.do_eval, "the validation pairs tell which trial is best"),
        ("more than one process", training.world_size > 1, "start it without accelerate"),
    ):
        if is_set:
            raise UsageError(f"{name} does not go with search: {reason}.")


def read_space(text: str | None) -> dict[str, Any]:
    """Make optuna's distributions of the setting `space`, by the names of the settings."""
    space = load_mapping("space", text, EXAMPLE) if text else {}
    if not space:
        raise UsageError(f"space is empty; it must be a mapping, for example {EXAMPLE}.")
    known = setting_names()
    for name in space:
        setting = name.partition(".")[0]
        if setting not in known:
            raise UsageError(f"space has {name!r}, which is no setting.{nearest(setting, known)}")
        if name in FIXED or (setting in FIXED and setting != "new_model"):
            raise UsageError(
                f"space has {name!r}, which must be the same in all trials, or their figures would "
                "not compare. Take it out."
            )
    return {name: _distribution(name, values) for name, values in space.items()}


def _distribution(name: str, values):
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, list):
        if not values or any(isinstance(value, list | dict) for value in values):
            raise UsageError(f"space has {values} for {name}; list the values to try: [1, 2, 4].")
        return CategoricalDistribution(values)
    needed, known = {"low", "high"}, {"low", "high", "log"}
    if not isinstance(values, dict) or not needed <= values.keys() <= known:
        raise UsageError(
            f"space has {values!r} for {name}; it must be a list of values, or a range, {{low: "
            "..., high: ...}, with log: true where it is of magnitudes."
        )
    low, high, log = _number(name, values["low"]), _number(name, values["high"]), values.get("log")
    if not low < high:
        raise UsageError(f"space has low {low} and high {high} for {name}; low must be below high.")
    if log not in (None, True, False) or (log and low <= 0):
        raise UsageError(
            f"space has log {log!r} and low {low} for {name}; log is true or false, and with log "
            "low must be above 0."
        )
    limits = {name: limit for group in GROUPS for name, limit in bounds(group).items()}
    whole = name not in limits or limits[name].whole
    if whole and isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=bool(log))
    return FloatDistribution(low, high, log=bool(log))


def _number(name: str, value) -> int | float:
    """Read an end of a range; YAML takes 1e-4 for a text."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return value if isinstance(value, int) else float(value)
    except (TypeError, ValueError):
        raise UsageError(f"space has {value!r} for {name}; low and high are numbers.") from None


def ends(distribution) -> list:
    """List the values that are tried on the parser: all choices, or both ends of a range."""
    choices = getattr(distribution, "choices", None)
    return list(choices) if choices else [distribution.low, distribution.high]


def as_flags(values: dict) -> list[str]:
    """Spell settings as flags, which also take out the space that they are from."""
    texts = {
        name: value if isinstance(value, str) else yaml.safe_dump(value).split("\n")[0]
        for name, value in values.items()
    }
    return ["--space=null", *(f"--{name}={text}" for name, text in texts.items())]


def announce(settings: Settings, space: dict) -> None:
    """Print what will be searched."""
    training, count = settings.training, settings.search.trials
    metric = training.metric_for_best_model
    print(f"Searching for the best {metric} on validation in {count} trials, over:")
    for name, distribution in space.items():
        values = ends(distribution)
        if hasattr(distribution, "choices"):
            print(f"  {name}: one of {', '.join(map(str, values))}")
        else:
            by = ", by magnitude" if distribution.log else ""
            print(f"  {name}: from {values[0]} to {values[1]}{by}")
    folder = training.output_dir
    print(f"Each trial is a run in {folder}/trial-0, ...; the same command goes on.", flush=True)


def make_trials(argv: list[str], settings: Settings, space: dict) -> list[dict]:
    """Make the trials: `settings`, `value` (None where it failed), `folder` of each.

    SUMMARY gets them one by one, and tells the next time which have failed.
    """
    folder, trials = settings.run_dir, []
    metric = settings.training.metric_for_best_model
    earlier = read_mapping(folder / SUMMARY).get("trials", [])
    for number in range(settings.search.trials):
        values = ask(settings, space, trials)
        trial = {"trial": number, "folder": f"trial-{number}", "settings": values, "value": None}
        same = next((each for each in trials if each["settings"] == values), None)
        failed = number < len(earlier) and earlier[number] == trial
        texts = ", ".join(f"{name} {_short(value)}" for name, value in values.items())
        print(f"Trial {number}: {texts}", flush=True)
        if same is not None:
            print(f"The same as {same['folder']}.")
            trial |= {"folder": same["folder"], "value": same["value"]}
        elif not failed:
            trial["value"] = run_trial(argv, values, folder / trial["folder"], metric)
        trials.append(trial)
        known = trials + earlier[len(trials) :]  # a stop forgets none that has failed
        write_json(folder / SUMMARY, {"metric": metric, "trials": known})
        check_data(folder, trials)
    return trials


def check_data(folder: Path, trials: list[dict]) -> None:
    """Refuse to go on with trials between which the dialogues were changed."""
    of_drop_overlap: dict = {}  # which changes the training data itself
    for trial in trials:
        if trial["value"] is not None:
            of_drop_overlap.setdefault(trial["settings"].get("drop_overlap"), []).append(trial)
    for group in of_drop_overlap.values():
        check_same_data([folder / trial["folder"] for trial in group])


def ask(settings: Settings, space: dict, trials: list[dict]) -> dict:
    """Return what the next trial takes, which follows from the seed and the trials before it."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(
        n_startup_trials=STARTUP_TRIALS, seed=(settings.training.seed + len(trials)) % 2**32
    )
    direction = "maximize" if settings.training.greater_is_better else "minimize"
    study = optuna.create_study(sampler=sampler, direction=direction)
    for trial in trials:
        # Pruned trials count among the bad ones; failed ones would not count at all.
        states = optuna.trial.TrialState
        state = states.PRUNED if trial["value"] is None else states.COMPLETE
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=trial["value"],
                params=trial["settings"],
                distributions=space,
            )
        )
    return study.ask(space).params


def run_trial(argv: list[str], values: dict, run_dir: Path, metric: str) -> float | None:
    """Make the run of a trial; return its figure on validation, None where it failed.

    The test pairs stay unseen: they are for the best settings alone.
    """
    try:
        run_unless_complete(
            [*argv, *as_flags(values), "--do_predict=false", f"--output_dir={run_dir}"]
        )
    except (Diverged, DoesNotFit, torch.OutOfMemoryError) as error:
        what = "has diverged" if isinstance(error, Diverged) else "needs more memory than there is"
        print(f"The training of {run_dir.name} {what}; the search goes on.", flush=True)
        return None
    figures = read_json(run_dir / "metrics.json").get("validation", {})
    if metric not in figures:
        raise UsageError(f"{run_dir} has no {metric} on validation, by which a search chooses.")
    return figures[metric]


def report(argv: list[str], settings: Settings, trials: list[dict]) -> None:
    """Print the trials, best first; write the settings of the best one and say how to train it."""
    folder = settings.run_dir
    sign = -1 if settings.training.greater_is_better else 1
    done = [trial for trial in trials if trial["value"] is not None]
    if not done:
        raise UsageError(
            f"All {len(trials)} trials have failed. Search lower learning rates and smaller "
            "batches, in another --output_dir."
        )
    ranked = sorted(done, key=lambda trial: sign * trial["value"])
    failed = [trial for trial in trials if trial["value"] is None]
    label = METRICS[settings.training.metric_for_best_model].label
    table = Table("trial", Column(label, justify="right"), *ranked[0]["settings"])
    for trial in [*ranked, *failed]:
        value = "failed" if trial["value"] is None else f"{trial['value']:.4f}"
        table.add_row(str(trial["trial"]), value, *map(_short, trial["settings"].values()))
    plain_console().print(table)
    best = [*argv, *as_flags(ranked[0]["settings"]), f"--output_dir={folder / 'best'}"]
    write_yaml(folder / BEST, parse(best).as_config())
    print(f"The best settings are in {folder / BEST}. To train and evaluate them:")
    print(f"  {command('train')} {folder / BEST}")


def _short(value) -> str:
    """Write a value of a setting for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
