"""YAML as settings are written in it: numbers, texts, true and false, lists, mappings.

PyYAML takes the last of two equal keys, and makes dates, sets and structures that hold themselves.
Here all of these are errors, and a date is the text that was written.
"""

import json
from pathlib import Path

import yaml

from .errors import UsageError

KINDS = ("null", "bool", "int", "float", "str", "seq", "map", "merge")
PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in KINDS}


class _Loader(yaml.SafeLoader):
    """A loader of plain values, each key of a mapping once."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (as the base class has it)
        first: [(tag, pattern) for tag, pattern in resolvers if tag in PLAIN]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent, index):
        is_alias = self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark
        node = super().compose_node(parent, index)
        if is_alias and not isinstance(node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(
                problem="an alias stands for a list or a mapping: write that out", problem_mark=mark
            )
        if node.tag not in PLAIN:
            raise yaml.MarkedYAMLError(problem=f"unknown tag {node.tag!r}", problem_mark=mark)
        return node

    def construct_mapping(self, node, deep=False):
        written = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in written:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} is there twice: keep one", problem_mark=key.start_mark
                )
            written.add(key.value)
        return super().construct_mapping(node, deep)


def load(text: str):
    """Return what a YAML text holds.

    Raises:
        yaml.YAMLError: it is not YAML, or holds what is no setting.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    except (ValueError, TypeError) as error:  # a tag that does not fit, as in `!!int abc`
        raise yaml.YAMLError(str(error)) from error


def read_yaml(path: str | Path) -> dict:
    """Read a config file."""
    try:
        settings = load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read the config {str(path)!r}: {error}.") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{path} must hold settings as `name: value` lines.")
    return settings


def load_mapping(name: str, text: str, example: str) -> dict:
    """Return the mapping that is the value of a setting, `name`."""
    try:
        mapping, reason = load(text), ""
    except yaml.YAMLError as error:
        mapping, reason = None, f" The reason given: {' '.join(str(error).split())}."
    if not isinstance(mapping, dict) or not all(isinstance(key, str) for key in mapping):
        raise UsageError(
            f"{name} is {text!r}; it must be a mapping, for example {example}.{reason}"
        )
    to_json(name, mapping)
    return mapping


def to_json(name: str, value: dict | list) -> str:
    """Spell the value of a setting as JSON, which is YAML, too."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise UsageError(f"{name} is {value!r}; the numbers in it must be finite.") from error
