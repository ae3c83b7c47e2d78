"""Write the pages of the reference that follow from the code: settings, verbs, metrics.

    python docs/reference/generate.py

A test compares the pages with what this script makes of the code.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from seq2seq_dialog.__main__ import build_parser
from seq2seq_dialog.command_line import recipes
from seq2seq_dialog.evaluation.catalogue import METRICS
from seq2seq_dialog.inherited_settings import INHERITED, REPLACED
from seq2seq_dialog.portable.options import Bounds
from seq2seq_dialog.setting_fields import bounds
from seq2seq_dialog.settings import GROUPS
from seq2seq_dialog.training_settings import DialogueTrainingArguments
from seq2seq_dialog.verbs import BY_SETTINGS

WRITTEN = "<!-- Written by docs/reference/generate.py from the code: change it there. -->\n"
SETTINGS = """# Settings

Every setting is a line of a config file and a flag of the command line; flags win. `--data null`
takes out what the config sets, `--new_model.d_model 64` sets a part of a mapping.
[Tutorial](../tutorial.md) and [how-tos](../README.md#how-tos) say which of them matter when.
`python run_seq2seq_dialog.py --help_all` lists the remaining settings of transformers'
`Seq2SeqTrainingArguments`, which work as documented there. The defaults here are those of the code;
each recipe in `configs/` sets its own.
"""
VERBS = """# Verbs

`python -m seq2seq_dialog VERB` in a checkout, `seq2seq-dialog VERB` where the package is installed.

## train

Train a model: `train CONFIG`, and flags. Its flags are the [settings](settings.md). CONFIG is a
file, or the name of a recipe: {recipes}.

## search

Search for better settings: `search CONFIG`, and flags, the same as of `train`. The setting `space`
says what to vary, `trials` how many runs to make; the best is that of `metric_for_best_model` on
validation. It needs optuna, the extra `search`.
"""
METRICS_HEAD = """# Metrics

Every figure that a run reports. [What a score is worth](../concepts/scores.md) has more of them.
The key is the name in `metrics.json` and `evaluation.json`. A figure with an interval also has
paired tests in `compare`. One that chooses the best may be `metric_for_best_model`.
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
        hints = get_type_hints(group, include_extras=True)
        fields = {field.name: field for field in dataclasses.fields(group)}
        shown = {name: fields[name].metadata.get("help") for name in own_settings(group)}
        if group is DialogueTrainingArguments:
            shown |= INHERITED
        rows = [
            [
                f"`{name}`",
                code(default(fields[name])),
                values(hints[name], bounds(group).get(name)),
                text,
            ]
            for name, text in shown.items()
        ]
        name = group._argument_group_name
        page += f"\n## {name[0].upper()}{name[1:]}\n\n{first_sentence(group)}\n\n"
        page += table(["setting", "default", "values", "what it is"], rows)
    page += "\n## Without effect here\n\nThese settings of transformers are refused.\n\n"
    rows = [[f"`{name}`", instead] for name, instead in sorted(REPLACED.items())]
    return WRITTEN + page + table(["setting", "instead"], rows)


def own_settings(group: type) -> list[str]:
    """List the settings that a group defines itself."""
    fields = group.__dataclass_fields__
    return [name for name in group.__annotations__ if name in fields and fields[name].init]


def default(field: dataclasses.Field) -> object:
    """Return the default of a setting; one that is made at run time counts as none."""
    value = getattr(field.default, "value", field.default)
    return None if value is dataclasses.MISSING else value


def values(hint: object, limits: Bounds | None) -> str:
    """Say which values a setting takes, where its type has bounds or choices."""
    if get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(hint))
    return "" if limits is None else str(limits)


def first_sentence(group: type) -> str:
    """Return the first line of a docstring."""
    return group.__doc__.strip().split("\n\n")[0]


def verbs_page() -> str:
    """Write every verb with its arguments and options."""
    page = VERBS.format(recipes=", ".join(f"`{name}`" for name in recipes()))
    parser = build_parser()
    verbs = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for name, verb in verbs.choices.items():
        if name in BY_SETTINGS:
            continue
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


def metrics_page() -> str:
    """Write what the catalogue says of each figure."""
    rows = []
    for key, metric in METRICS.items():
        marks = ["yes" if mark else "" for mark in (metric.interval, metric.chooses_best)]
        rows.append([f"`{key}`", metric.label, metric.plain, metric.unit, metric.direction, *marks])
    headings = ["key", "figure", "what it says", "unit", "better", "interval", "chooses the best"]
    return f"{WRITTEN}{METRICS_HEAD}\n{table(headings, rows)}"


PAGES = {"settings.md": settings_page, "verbs.md": verbs_page, "metrics.md": metrics_page}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
