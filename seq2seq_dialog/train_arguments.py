"""The command line of a training: a config file as defaults, flags on top."""

import argparse
import dataclasses
import os
import re
import sys
from pathlib import Path

from transformers import HfArgumentParser, Seq2SeqTrainingArguments
from transformers.hf_argparser import string_to_bool

from .checks import check
from .errors import UsageError, nearest
from .inherited_settings import INHERITED, MAPPINGS
from .run_folder import read_yaml
from .settings import GROUPS, DialogueTrainingArguments, Mark, Settings, marked
from .shipped import COMMAND, CONFIGS, ROOT
from .strict_yaml import to_json

# What a flag takes, by the type of its setting.
KINDS = {int: "a whole number", float: "a number", string_to_bool: "true or false"}
# Settings whose value is a structure, which a flag spells as JSON.
STRUCTURES = {"columns": dict, "new_model": dict, "discriminator": dict, "data": list}
STRUCTURES |= dict.fromkeys(MAPPINGS, dict)
STRUCTURE_NAMES = {dict: "a mapping", list: "a path or a list of sources", None: "a single value"}

PATHS = marked(Mark.PATH) | {"data_cache"}  # in which ~ is the home folder
# Settings that name one source, of dialogues or of the model: a flag for one replaces the other.
REPLACED = {
    "data": ("dataset_name", "dataset_revision"),
    "dataset_name": ("data",),
    "new_model": ("model_name_or_path",),
    "model_name_or_path": ("new_model",),
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

    def _get_value(self, action, arg_string):
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            if action.type not in KINDS:
                raise
            kind = KINDS[action.type]
            raise UsageError(f"{action.dest} is {arg_string!r}; it must be {kind}.") from error

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            raise UsageError(
                f"{action.dest} is {value!r}; it must be one of {', '.join(choices)}."
                f"{nearest(value, choices)}"
            )


def recipes() -> dict[str, Path]:
    """Return the shipped configs by name."""
    return {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}


def build_train_parser(show_all: bool = False) -> HfArgumentParser:
    """Build the parser of a training; `show_all` makes --help list every training setting."""
    script = Path(sys.argv[0]).name
    parser = _Parser(
        GROUPS,
        prog=script if script == "run_seq2seq_dialog.py" else f"{COMMAND} train",
        usage="%(prog)s CONFIG [--flag value ...]",
        description="Train a dialogue response generator, evaluate it and keep it in output_dir. "
        f"CONFIG is a YAML file, or the name of a recipe in {CONFIGS}: {', '.join(recipes())}.",
        epilog="A run that was stopped goes on by the same command. On several GPUs: accelerate "
        "launch -m seq2seq_dialog.train CONFIG [--flag value ...]. --help_all lists every training "
        "setting.",
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    inherited = {f.name for f in dataclasses.fields(Seq2SeqTrainingArguments)}
    inherited -= set(DialogueTrainingArguments.__annotations__)
    for action in parser._actions:
        name = action.dest
        if action.option_strings[0] != f"--{name}" or (
            name in inherited and name not in INHERITED and not show_all
        ):
            action.help = argparse.SUPPRESS
        else:
            help = INHERITED.get(name, " ".join((action.help or "").split()))
            action.help = help.replace("%", "%%")
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="Settings; flags override.")
    return parser


def parse(argv: list[str]) -> Settings:
    """Parse and check `[CONFIG] [--flag value ...]`, in which flags override the file."""
    if not {"--help", "-h", "--help_all"}.isdisjoint(argv):
        build_train_parser(show_all="--help_all" in argv).print_help()
        sys.exit(0)
    parser = build_train_parser()
    known = {f.name for group in GROUPS for f in dataclasses.fields(group) if f.init}
    flags, path = list(argv), None
    if argv and not argv[0].startswith("-"):
        path, flags = find_config(argv[0]), argv[1:]
    names = {
        flag: flag[2:].split("=")[0].replace("-", "_") for flag in flags if flag.startswith("--")
    }
    replaced = {other for name in names.values() for other in REPLACED.get(name, ())}
    from_file = _as_flags(path, parser, replaced) if path else []
    for flag, name in names.items():
        if name not in known and name.removeprefix("no_") not in known:
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
    for group in groups:
        for name in PATHS & vars(group).keys():
            if isinstance(value := getattr(group, name), str):
                setattr(group, name, os.path.expanduser(value))
    settings = Settings(*groups)
    check(settings)
    # The finished run is published, not by Trainer, which would send checkpoints as well.
    return settings.with_optimizer().with_training(push_to_hub=False)


def find_config(name: str) -> Path:
    """Find a config: a file by its path, a recipe by its name (`t5_small`)."""
    if "/" in name or "\\" in name or name.endswith((".yaml", ".yml")):
        return Path(name).expanduser()
    known = recipes()
    if name not in known:
        raise UsageError(
            f"There is no recipe {name!r}.{nearest(name, known)} The recipes are "
            f"{', '.join(known)}; a file of your own is given by its path, ending in .yaml."
        )
    return known[name]


def _as_flags(path: Path, parser: HfArgumentParser, replaced: set[str]) -> list[str]:
    """Spell the settings of a config as flags, so that one parser checks both; leave some out."""
    config, flags = read_yaml(path), []
    # In reverse, for --no_detokenize and its like stand behind the flag itself.
    actions = {a.dest: a for a in reversed(parser._actions) if a.option_strings}
    data = config.get("data")
    if path.resolve().parent == CONFIGS and isinstance(data, str) and not Path(data).exists():
        config["data"] = str(ROOT / data)  # of a recipe, which works from any folder
    for name, value in config.items():
        if name not in actions:
            raise UsageError(f"{path}: unknown setting {name!r}.{nearest(str(name), actions)}")
        if value is None or value == [] or name in replaced:
            continue
        if actions[name].nargs in ("+", "*") and isinstance(value, list):
            flags += [f"--{name}", *(_spelled(path, actions[name], part) for part in value)]
        else:
            flags.append(f"--{name}={_spelled(path, actions[name], value)}")
    return flags


def _spelled(path: Path, action: argparse.Action, value) -> str:
    """Spell a value as a flag has it; refuse what would mean something else there."""
    name, problem = action.dest, ""
    structure = STRUCTURES.get(name)
    if isinstance(value, bool) and action.type is str and name != "fsdp":
        problem = "YAML reads a bare no, off, yes or on as true or false: put it in quotes"
    elif isinstance(value, dict | list) and type(value) is not structure:
        problem = f"it must be {STRUCTURE_NAMES[structure]}"
    elif isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
        problem = "it must be text, which has no such characters"
    if problem:
        written = str(value).lower() if isinstance(value, bool) else repr(value)
        raise UsageError(f"{path}: {name} is {written}; {problem}.")
    if value is False and name.endswith("_strategy"):
        return "no"  # YAML 1.1 reads a bare no as false
    if isinstance(value, bool):
        return str(value).lower()
    return to_json(name, value) if isinstance(value, dict | list) else str(value)
