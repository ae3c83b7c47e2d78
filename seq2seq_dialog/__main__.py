"""python -m seq2seq_dialog VERB, installed seq2seq-dialog VERB: train models and use them."""

import argparse
import os
import re
import sys
from importlib import import_module
from typing import NoReturn

from . import __version__
from .command_line import check_command_line
from .errors import UsageError, nearest, run
from .shipped import COMMAND
from .verbs import BY_SETTINGS, DECODING, DECODING_WAYS, VERBS


def main() -> None:
    """Carry out one verb."""
    if sys.argv[1:2] and sys.argv[1] in BY_SETTINGS:
        run(lambda: run_by_settings(sys.argv[2:], verb=sys.argv[1]))
        return
    run(lambda: carry_out(sys.argv[1:]))


def carry_out(argv: list[str]) -> None:
    """Carry out a verb that has flags of its own."""
    options = {name: clean(value) for name, value in vars(parse(argv)).items()}
    verb, folder = VERBS[options.pop("verb")], options.pop("folder")
    module, function = verb.function.rsplit(".", 1)
    getattr(import_module(f".{module}", __package__), function)(folder, **options)


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse a verb with its flags; refuse those that it does not have, with a way out."""
    options, unknown = build_parser().parse_known_args(argv)
    if not unknown:
        return options
    word = next((word for word in unknown if word.startswith("-")), unknown[0])
    flag, verb = word.partition("=")[0], options.verb
    name = flag.lstrip("-").replace("-", "_")
    if name in DECODING and verb in DECODING_WAYS:
        way_out = f" {DECODING_WAYS[verb].format(name=name)}"
    else:
        flags = [flag for names, _ in VERBS[verb].arguments for flag in names]
        known = [flag for flag in flags if flag.startswith("-")]
        spelled = "--" + name if flag.startswith("--") else flag
        way_out = nearest(spelled, known) or nearest(spelled.replace("_", "-"), known)
    what = f"unknown flag {flag!r}" if word.startswith("-") else f"one word too many, {word!r}"
    raise UsageError(f"{what}.{way_out} {COMMAND} {verb} --help lists what it takes.")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one message."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print with its usage."""
        hint = ""
        if chosen := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            hint = nearest(chosen[1], re.findall(r"[\w-]+", chosen[2]))
        raise UsageError(f"{message}.{hint} {self.prog} --help lists what it takes.")


def run_by_settings(argv: list[str], verb: str = "train") -> None:
    """Train or search by `CONFIG [--flag value ...]`; refuse typos before torch is imported."""
    check_command_line(argv)
    import_module(f".{verb}", __package__).main(argv)


def clean(value):
    """Put the home folder in for `~`, and a mark for bytes that are no letters."""
    if isinstance(value, list):
        return [clean(each) for each in value]
    if not isinstance(value, str):
        return value
    return os.fsencode(os.path.expanduser(value)).decode(errors="replace")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all verbs."""
    parser = Parser(
        prog=COMMAND,
        description="Train dialogue response generators, use and publish them.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"seq2seq-dialog {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, help in BY_SETTINGS.items():
        verbs.add_parser(name, help=help, add_help=False)
    for name, verb in VERBS.items():
        verb_parser = verbs.add_parser(name, help=verb.help, description=verb.description)
        for names, options in verb.arguments:
            verb_parser.add_argument(*names, **options)
    return parser


if __name__ == "__main__":
    main()
