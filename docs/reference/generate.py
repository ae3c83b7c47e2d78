"""Write the two pages of the reference that follow from the code: settings.md and verbs.md.

    python docs/reference/generate.py

A test compares the pages with what this script makes of the code.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from seq2seq_dialog.__main__ import build_parser
from seq2seq_dialog.settings import COMMON, GROUPS, REPLACED

WRITTEN = "<!-- Written by docs/reference/generate.py from the code: change it there. -->\n"
SETTINGS = """# Settings

Every setting is a line of a config file and a flag of the command line; flags win.
[Tutorial](../tutorial.md) and [how-tos](../README.md#how-tos) say which of them matter when.
`python run_seq2seq_dialog.py --help_all` lists the remaining settings of transformers'
`Seq2SeqTrainingArguments`, which work as documented there. The defaults here are those of the code;
each recipe in `configs/` sets its own.
"""
VERBS = """# Verbs

Everything but training: `python -m seq2seq_dialog VERB` in a checkout, `seq2seq-dialog VERB` where
the package is installed. Training has [settings](settings.md) instead.
"""


def cell(text: object) -> str:
    """Make a text fit for a cell of a table, with code for what may be read as Markdown."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("__eou__", "`__eou__`")


def table(headings: list[str], rows: list[list[str]]) -> str:
    """Write a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(map(cell, line))} |\n" for line in lines)


def code(value: object) -> str:
    """Write a value as a config or a command line has it."""
    if value is None or value == "":
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def settings_page() -> str:
    """Write all settings that --help shows, by group, and those that have no effect here."""
    page = SETTINGS
    for group in GROUPS:
        rows = []
        for field in dataclasses.fields(group):
            own = field.name in group.__annotations__ and field.init
            if own or field.name in COMMON:
                text = COMMON.get(field.name, field.metadata.get("help", ""))
                rows.append([f"`{field.name}`", code(default(field)), text])
        page += f"\n## {group._argument_group_name.capitalize()}\n\n{first_sentence(group)}\n\n"
        page += table(["setting", "default", "what it is"], rows)
    page += "\n## Without effect here\n\nThese settings of transformers are refused.\n\n"
    rows = [[f"`{name}`", instead] for name, instead in sorted(REPLACED.items())]
    return WRITTEN + page + table(["setting", "instead"], rows)


def default(field: dataclasses.Field) -> object:
    """Return the default of a setting; one that is made at run time counts as none."""
    value = getattr(field.default, "value", field.default)
    return None if value is dataclasses.MISSING else value


def first_sentence(group: type) -> str:
    """Return the first line of a docstring."""
    return group.__doc__.strip().split("\n\n")[0]


def verbs_page() -> str:
    """Write every verb with its arguments and options."""
    page = VERBS
    parser = build_parser()
    verbs = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for name, verb in verbs.choices.items():
        rows = []
        for action in verb._actions:
            if "--help" in action.option_strings or action.help == argparse.SUPPRESS:
                continue
            metavar = action.metavar or action.dest.upper()
            spelled = action.option_strings[0] if action.option_strings else metavar
            takes = action.choices or ([metavar] if action.nargs != 0 else [])
            if action.option_strings and takes:
                spelled += f" {','.join(map(str, takes))}"
            rows.append([f"`{spelled}`", (action.help or "") % vars(action)])
        page += f"\n## {name}\n\n{verb.description}\n"
        page += f"\n{table(['argument', 'what it is'], rows)}" if rows else ""
    return WRITTEN + page


PAGES = {"settings.md": settings_page, "verbs.md": verbs_page}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
