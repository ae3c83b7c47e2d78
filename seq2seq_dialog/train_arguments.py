"""The command line of a training: a config file as defaults, flags on top."""

import argparse
import dataclasses
import os
import re
import sys
from pathlib import Path

import yaml
from transformers import HfArgumentParser, Seq2SeqTrainingArguments
from transformers.hf_argparser import string_to_bool

from . import strict_yaml
from .checks import check
from .command_line import HELP, ORDER, CommandLine, Flag, read_command_line, recipes
from .errors import UsageError, nearest
from .inherited_settings import INHERITED, MAPPINGS
from .setting_fields import Mark
from .settings import GROUPS, OUR_MAPPINGS, Settings, marked
from .shipped import COMMAND, CONFIGS
from .strict_yaml import to_json
from .training_settings import DialogueTrainingArguments

DESCRIPTIONS = {
    "train": "Train a dialogue response generator, evaluate it and keep it in output_dir.",
    "search": "Search over settings: --space says which and what to try of them, --trials how "
    "often. Each trial is a run in output_dir, which gets the best settings as best.yaml, too.",
}
# What a flag takes, by the type of its setting.
KINDS = {int: "a whole number", float: "a number", string_to_bool: "true or false"}
# Settings whose value is a structure, which a flag spells as JSON.
STRUCTURES = dict.fromkeys((*OUR_MAPPINGS, "space", *MAPPINGS), dict) | {"data": list}
STRUCTURE_NAMES = {dict: "a mapping", list: "a path or a list of sources", None: "a single value"}

WITH_HOME = marked(Mark.PATH) | {"data_cache"}  # in which ~ is the home folder
# Settings that an empty text, as null, sets to nothing; a run folder without a name is an error.
OPTIONAL = {f.name for group in GROUPS for f in dataclasses.fields(group) if f.default is None}
OPTIONAL -= {"output_dir"}
# Settings that name one source, of dialogues or of the model: a flag for one replaces the other.
OTHER_SOURCES = {
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


def build_train_parser(show_all: bool = False, verb: str = "train") -> HfArgumentParser:
    """Build the parser of a training; `show_all` makes --help list every training setting."""
    script = Path(sys.argv[0]).name
    parser = _Parser(
        GROUPS,
        prog=script if script == "run_seq2seq_dialog.py" else f"{COMMAND} {verb}",
        usage="%(prog)s CONFIG [--flag value ...]",
        description=f"{DESCRIPTIONS[verb]} "
        f"CONFIG is a YAML file, or the name of a recipe in {CONFIGS}: {', '.join(recipes())}.",
        epilog="--data null takes out what CONFIG sets, --new_model.d_model 64 sets a part of a "
        "mapping. What was stopped goes on by the same command. On several GPUs: accelerate "
        "launch -m seq2seq_dialog train CONFIG [--flag value ...]. --help_all lists every training "
        "setting.",
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    inherited = {f.name for f in dataclasses.fields(Seq2SeqTrainingArguments)}
    inherited -= set(DialogueTrainingArguments.__annotations__)
    for action in list(parser._actions):
        name = action.dest
        if action.option_strings[0] != f"--{name}" or (
            name in inherited and name not in INHERITED and not show_all
        ):
            action.help = argparse.SUPPRESS
        else:
            help = INHERITED.get(name, " ".join((action.help or "").split()))
            action.help = help.replace("%", "%%")
        if action.type is string_to_bool:
            _let_flag_stand_alone(parser, action)
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="Settings; flags override.")
    return parser


def _let_flag_stand_alone(parser: HfArgumentParser, action: argparse.Action) -> None:
    """Let `--bf16` mean true and `--no_bf16` false; HfArgumentParser has that of some alone."""
    action.nargs, action.const = "?", True
    negatives = [f"--no_{action.dest}", f"--no-{action.dest.replace('_', '-')}"]
    if negatives[0] not in parser._option_string_actions:
        hidden = argparse.SUPPRESS
        options = {"dest": action.dest, "default": hidden, "help": hidden}
        parser.add_argument(*negatives, action="store_false", **options)


def parse(argv: list[str], verb: str = "train") -> Settings:
    """Parse and check `[CONFIG] [--flag value ...]`, in which flags override the file."""
    if not HELP.isdisjoint(argv):
        build_train_parser(show_all="--help_all" in argv, verb=verb).print_help()
        sys.exit(0)
    line = read_command_line(argv)
    parser = build_train_parser()
    config, flags = _apply_flags(line)
    try:
        *groups, rest, unknown = parser.parse_args_into_dataclasses(
            [*_as_flags(line.path, config, parser), *flags],
            return_remaining_strings=True,
            look_for_args_file=False,
        )
    except (ValueError, TypeError, ImportError) as error:
        where = f"{line.path}: " if line.path and not flags else ""
        raise UsageError(where + " ".join(str(error).split())) from error
    if unknown or rest.config:
        extra = " ".join(unknown or [rest.config])
        raise UsageError(f"do not know what to do with {extra!r}. {ORDER}")
    for group in groups:
        for name in WITH_HOME & vars(group).keys():
            if isinstance(value := getattr(group, name), str):
                setattr(group, name, os.path.expanduser(value))
    settings = Settings(*groups)
    check(settings)
    # The finished run is published, not by Trainer, which would send checkpoints as well.
    return settings.with_optimizer().with_training(push_to_hub=False)


def _apply_flags(line: CommandLine) -> tuple[dict, list[str]]:
    """Return the config without what flags take out or replace, and the flags that set something.

    `--data null` takes out what stands before, `--new_model.d_model 64` sets a part of a mapping.
    """
    config, flags, parts = dict(line.config), {}, {}
    for flag in line.flags:
        name, dot, part = flag.name.partition(".")
        if dot:
            parts.setdefault(name, {})[part] = flag
            continue
        flags.pop(name, None)  # of several, the last one counts
        if flag.value == "null" or (flag.value == "" and name in OPTIONAL):
            config.pop(name, None)
        else:
            flags[name] = flag
    for name in [*flags, *parts]:
        for other in OTHER_SOURCES.get(name, ()):
            config.pop(other, None)
    words = {name: flag.words for name, flag in flags.items()}
    for name, values in parts.items():
        before = flags[name].value if name in flags else config.get(name)
        words[name] = [f"--{name}={to_json(name, _with_parts(name, before, values))}"]
    return config, [word for each in words.values() for word in each]


def _with_parts(name: str, before: dict | str | None, parts: dict[str, Flag]) -> dict:
    """Return a mapping in which some parts are set by flags, and those that are null left out."""
    flag = next(iter(parts.values())).words[0]
    if STRUCTURES.get(name) is not dict:
        mappings = ", ".join(key for key, kind in STRUCTURES.items() if kind is dict)
        raise UsageError(
            f"unknown flag {flag!r}: {name} has no parts. Parts can be set of {mappings}."
        )
    mapping = _load(before) if isinstance(before, str) else before or {}
    if not isinstance(mapping, dict):
        raise UsageError(
            f"{name} is {before!r}, of which {flag} sets no part: write it out as a mapping."
        )
    for part, given in parts.items():
        if given.value is None:
            raise UsageError(f"{given.words[0]} takes one value.")
        mapping = mapping | {part: _load(given.value)}
    return {part: value for part, value in mapping.items() if value is not None}


def _load(text: str):
    """Read a value as a config has it; what is no YAML is text."""
    try:
        return strict_yaml.load(text)
    except yaml.YAMLError:
        return text


def _as_flags(path: Path | None, config: dict, parser: HfArgumentParser) -> list[str]:
    """Spell the settings of a config as flags, so that one parser checks both."""
    flags = []
    # In reverse, for --no_detokenize and its like stand behind the flag itself.
    actions = {a.dest: a for a in reversed(parser._actions) if a.option_strings}
    for name, value in config.items():
        if value is None or value == [] or (value == "" and name in OPTIONAL):
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
