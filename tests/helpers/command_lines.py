"""Command lines as documentation prints them, checked by the programs' own parsers."""

import argparse
import dataclasses
import re
import shlex
from importlib.metadata import entry_points

from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from helpers.corpus import ROOT

from benchmarks import agreement, replies, starter
from benchmarks.suite import PARTS
from seq2seq_dialog import __version__
from seq2seq_dialog.__main__ import build_parser
from seq2seq_dialog.settings import GROUPS
from seq2seq_dialog.train_arguments import parse
from seq2seq_dialog.verbs import BY_SETTINGS, VERBS

PYTHON = ("python", ".venv/bin/python")
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


def commands(script: str) -> list[str]:
    """List the command lines of a shell block, continued lines joined, comments left out."""
    lines = script.replace("\\\n", " ").split("\n")
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def check(line: str) -> None:
    """Parse a command line, with the folder of the repository as the current one.

    Raises:
        AssertionError, UsageError, SystemExit: it cannot work, or its program is not known here.
    """
    words = shlex.split(line, comments=True)
    while words and ASSIGNMENT.fullmatch(words[0]):
        del words[0]
    program, *args = words
    program = "python" if program in PYTHON else program.removeprefix(".venv/bin/")
    assert program in PROGRAMS, f"no parser for {program!r}: {line}"
    PROGRAMS[program](args)


def is_mention(line: str) -> bool:
    """Tell whether a line only names a verb, as in `python -m seq2seq_dialog chat`."""
    if line in ("accelerate launch", "python -m seq2seq_dialog"):
        return True
    if re.fullmatch(r"python -m benchmarks\.\w+", line):
        return True
    verb = line.removeprefix("python -m seq2seq_dialog ").removeprefix("seq2seq-dialog ")
    return verb in {*BY_SETTINGS, *VERBS}


def python(args: list[str]) -> None:
    """Check `python script ...` and `python -m module ...`."""
    if args[0] == "-m":
        _, module, *rest = args
        modules = {
            "seq2seq_dialog": verb,
            "benchmarks": benchmarks,
            "benchmarks.agreement": agreement.build_parser().parse_args,
            "benchmarks.replies": replies.build_parser().parse_args,
            "benchmarks.starter": starter.build_parser().parse_args,
            "pip": pip,
            "pytest": pytest,
            "venv": venv,
        }
        assert module in modules, f"no parser for python -m {module}"
        modules[module](rest)
    elif args[0] == "run_seq2seq_dialog.py":
        settings(args[1:])
    else:
        assert args[0].endswith(".py") and len(args) == 1 and (ROOT / args[0]).is_file(), args


def settings(args: list[str]) -> None:
    """Check the command line of a run."""
    if not {"--help", "--help_all"} & set(args):
        parse(args)


def verb(args: list[str]) -> None:
    """Check a verb of the package; help is one, too."""
    if args and args[0] in BY_SETTINGS:
        settings(args[1:])
    elif args != ["--help"]:
        build_parser().parse_args(args)


def accelerate(args: list[str]) -> None:
    """Check `accelerate launch`: its own flags, its config, and the line behind it."""
    assert args[0] == "launch", args
    options = launch_command_parser().parse_args(args[1:])
    if options.config_file:
        load_config_from_file(str(ROOT / options.config_file))
    script = options.training_script
    python([*(["-m"] if options.module else []), script, *options.training_script_args])


def sbatch(args: list[str]) -> None:
    """Check the submission of a run to SLURM."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--export")
    options, rest = parser.parse_known_args(args)
    if options.export:
        _, config = options.export.split("ACCELERATE_CONFIG=")
        assert (ROOT / config).is_file()
    script, *run = rest
    assert (ROOT / script).is_file()
    settings(run)


def make(args: list[str]) -> None:
    """Check the targets of make."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.M))
    assert args and set(args) <= targets, args


def pip(args: list[str]) -> None:
    """Check what pip installs: packages of pyproject.toml, its extras, or a built wheel."""
    assert args[0] == "install", args
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    extras = re.search(r"optional-dependencies\]\n(.*?)\n\n", project, flags=re.S)[1]
    extras = set(re.findall(r"^(\w+) = ", extras, flags=re.M))
    known = {*re.findall(r'"([\w-]+)(?:[<>=]\S*)?"', project), "deepspeed"}
    for name in args[1:]:
        what, _, extra = name.rstrip("]").partition("[")
        assert what in known | {".", f"dist/seq2seq_dialog-{__version__}-py3-none-any.whl"}, name
        assert set(filter(None, extra.split(","))) <= extras, name


def pytest(args: list[str]) -> None:
    """Check that the tests named are there."""
    files = [arg for arg in args if arg.startswith("tests")]
    assert files and all((ROOT / name).exists() for name in files), args


def benchmarks(args: list[str]) -> None:
    """Check the parts of the benchmarks."""
    assert set(args) <= {*PARTS, "--quick", "--full"}, args


def venv(args: list[str]) -> None:
    """Check the making of an environment: one folder."""
    assert len(args) == 1, args


def hf(args: list[str]) -> None:
    """Check the commands of huggingface_hub that are used here."""
    known = (["auth", "login"], ["jobs", "run"], ["jobs", "hardware"])
    assert args[:2] in known and "hf" in entry_points(group="console_scripts").names


def export(args: list[str]) -> None:
    """Check that variables are set."""
    assert args and all(ASSIGNMENT.fullmatch(arg) for arg in args), args


def tensorboard(args: list[str]) -> None:
    """Check the start of TensorBoard."""
    assert args[0] == "--logdir" and len(args) == 2, args


PROGRAMS = {
    "python": python,
    "seq2seq-dialog": verb,
    "accelerate": accelerate,
    "sbatch": sbatch,
    "make": make,
    "pip": pip,
    "pytest": pytest,
    "hf": hf,
    "tensorboard": tensorboard,
    "export": export,
}


def known_flags() -> set[str]:
    """List every flag of the settings, the verbs, accelerate and the benchmarks."""
    flags = {f"--{field.name}" for group in GROUPS for field in dataclasses.fields(group)}
    flags |= {name for verb in VERBS.values() for names, _ in verb.arguments for name in names}
    flags.add("--no-do_sample")  # which argparse makes of --do_sample
    for action in launch_command_parser()._actions:
        flags |= set(action.option_strings)
    return flags | {"--help", "--help_all", "--version", "--quick", "--full"}
