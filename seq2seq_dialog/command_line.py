"""The command line of a training as it is written: the config, the flags, and typos in them.

Nothing heavy is imported here: a typo is told at once, not after torch and transformers.
"""

import ast
import os
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from .errors import UsageError, nearest
from .shipped import CONFIGS, ROOT
from .strict_yaml import read_yaml

HELP = {"--help", "-h", "--help_all"}
ORDER = "CONFIG comes first, then flags with their values: demo --num_beams 4."
DATA_WAY_OUT = (
    "Give a file, folder or zip of dialogues: text (a dialogue a line, ' __eou__' after each "
    "utterance), a table, a corpus, or the export of a chat."
)


class Flag(NamedTuple):
    """A flag with its values, as it was written."""

    words: list[str]

    @property
    def name(self) -> str:
        """The setting, or `setting.part` of a mapping."""
        return self.words[0].partition("=")[0].removeprefix("--").replace("-", "_")

    @property
    def value(self) -> str | None:
        """Its value where it has just one."""
        _, equals, value = self.words[0].partition("=")
        values = [value] * bool(equals) + self.words[1:]
        return values[0] if len(values) == 1 else None


class CommandLine(NamedTuple):
    """What `CONFIG [--flag value ...]` holds; each name in it is a setting."""

    path: Path | None
    config: dict
    flags: list[Flag]


def read_command_line(argv: list[str]) -> CommandLine:
    """Read the config and the flags; refuse names that are no settings."""
    path = find_config(argv[0]) if argv and not argv[0].startswith("-") else None
    config = read_yaml(path) if path else {}
    known = setting_names()
    for name in config:
        if name not in known:
            raise UsageError(f"{path}: unknown setting {name!r}.{nearest(str(name), known)}")
    data, of_recipe = config.get("data"), path is not None and path.resolve().parent == CONFIGS
    if of_recipe and isinstance(data, str) and not Path(data).exists():
        config["data"] = str(ROOT / data)  # so that it works from any folder
    flags = _flags(argv[1:] if path else argv)
    for flag in flags:
        name = flag.name.partition(".")[0]
        if name not in known and name.removeprefix("no_") not in known:
            hint = nearest(f"--{name}", HELP | {f"--{k}" for k in known})
            raise UsageError(f"unknown flag {flag.words[0]!r}.{hint}")
    return CommandLine(path, config, flags)


def _flags(words: list[str]) -> list[Flag]:
    """Put each flag together with the words after it."""
    flags: list[Flag] = []
    for word in words:
        if word.startswith("--"):
            flags.append(Flag([word]))
        elif flags:
            flags[-1].words.append(word)
        else:
            raise UsageError(f"do not know what to do with {word!r}. {ORDER}")
    return flags


@cache
def setting_names() -> set[str]:
    """Name all settings, as the source of their classes does: importing those takes seconds."""
    transformers = Path(find_spec("transformers").origin).parent
    ours = ("settings", "method_settings", "training_settings")
    files = [Path(__file__).with_name(f"{name}.py") for name in ours]
    files += [transformers / f"{name}.py" for name in ("training_args", "training_args_seq2seq")]
    return {
        field.target.id
        for file in files
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Arguments")
        for field in node.body
        if isinstance(field, ast.AnnAssign) and not field.target.id.startswith("_")
    }


def recipes() -> dict[str, Path]:
    """Return the shipped configs by name."""
    return {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}


def find_config(name: str) -> Path:
    """Find a config: a file by its path, a recipe by its name (`t5_small`)."""
    known, path = recipes(), Path(name).expanduser()
    if name in known:
        return known[name]
    is_pipe = "/" in name and not path.is_file()
    if path.exists() and (is_pipe or path.suffix in (".yaml", ".yml")):
        return path
    others = [str(each) for each in path.parent.glob("*.y*ml")]
    raise UsageError(
        f"There is no config {name!r}.{nearest(str(path), others) or nearest(path.stem, known)} A "
        f"config is a recipe by its name ({', '.join(known)}), or a file of your own by its path, "
        "ending in .yaml; dialogues are given by --data."
    )


def check_command_line(argv: list[str]) -> None:
    """Refuse names that are no settings, and dialogues that are not there.

    A finished run, which is published or shown again, needs its dialogues no more.
    """
    if not HELP.isdisjoint(argv):
        return
    _, config, flags = read_command_line(argv)
    given = {flag.name: flag.value for flag in flags}
    output_dir = given.get("output_dir", config.get("output_dir"))
    if isinstance(output_dir, str) and Path(output_dir, "metrics.json").expanduser().is_file():
        return
    data = given.get("data", None if "dataset_name" in given else config.get("data"))
    sources = data if isinstance(data, list) else [{"path": data}]
    for path in (source.get("path") for source in sources if isinstance(source, dict)):
        if isinstance(path, str) and path not in ("", "null") and not path.startswith("["):
            path = expand_path(path)
            if not os.path.exists(path):
                raise UsageError(f"{path!r} does not exist. {DATA_WAY_OUT}")


def expand_path(path: str) -> str:
    """Put in the values of `~` and of environment variables."""
    path = os.path.expandvars(os.path.expanduser(path))
    missing = re.search(r"\$\{?(\w+)", path)
    if missing and not os.path.exists(path):
        raise UsageError(
            f"data has {path!r}, but {missing[1]} is not set. Set it to the folder that is meant: "
            f"export {missing[1]}=folder"
        )
    return path
