"""python -m seq2seq_dialog VERB, installed seq2seq-dialog VERB: train models and use them."""

import argparse
import os
import sys
from importlib import import_module

from . import __version__
from .command_line import check_command_line
from .errors import run
from .shipped import COMMAND
from .verbs import BY_SETTINGS, VERBS


def main() -> None:
    """Carry out one verb."""
    if sys.argv[1:2] and sys.argv[1] in BY_SETTINGS:
        run(lambda: run_by_settings(sys.argv[2:], verb=sys.argv[1]))
        return
    options = {name: clean(value) for name, value in vars(build_parser().parse_args()).items()}
    verb, folder = VERBS[options.pop("verb")], options.pop("folder")
    module, function = verb.function.rsplit(".", 1)
    run(lambda: getattr(import_module(f".{module}", __package__), function)(folder, **options))


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
    parser = argparse.ArgumentParser(
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
