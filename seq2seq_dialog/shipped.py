"""What ships beside the code, where it lies, and how the command is called there.

A wheel holds `dataset_script/`, `configs/` and `samples/` inside the package; in a checkout they
stand beside it.
"""

import shlex
import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
IN_CHECKOUT = (_PACKAGE.parent / "run_seq2seq_dialog.py").is_file()
ROOT = _PACKAGE.parent if IN_CHECKOUT else _PACKAGE
CONFIGS = ROOT / "configs"
STARTER = ROOT / "samples" / "starter"
COMMAND = "python -m seq2seq_dialog" if IN_CHECKOUT else "seq2seq-dialog"


def find_model(name: str | Path) -> str:
    """Return the folder of the model that ships here for `starter`, any other name as it is."""
    return str(STARTER) if str(name) == STARTER.name and not Path(name).exists() else str(name)


def interpreter() -> str:
    """Name the running Python as a person in this folder would: `.venv/bin/python`, `python`."""
    here, python = Path.cwd(), Path(sys.executable)
    return shlex.quote(str(python.relative_to(here))) if python.is_relative_to(here) else "python"


def command(verb: str) -> str:
    """Spell the command line of a verb as a person in this folder would."""
    if IN_CHECKOUT:
        return f"{interpreter()} -m seq2seq_dialog {verb}"
    return f"{COMMAND} {verb}"
