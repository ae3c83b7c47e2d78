"""What the dataclasses of settings are made of: fields with help, bounds and marks."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from enum import Enum
from functools import cache
from typing import get_args, get_type_hints

from .errors import UsageError
from .inherited_settings import INHERITED_BOUNDS
from .portable.options import Bounds


class Mark(Enum):
    """What else is true of a setting."""

    FREE = "does not touch the weights, and so may change before an interrupted run goes on"
    PRIVATE = "is about a machine or an account, and so is not published"
    ONCE = "is about this call alone, and so is not written down"
    PATH = "can name a file or a folder, of which only the last part is published"


def setting(default, help: str):
    """Return a field of a settings class; --help says `help` of it."""
    return field(default=default, metadata={"help": help})


def number_or_auto(name: str, value: str | int) -> int | str:
    """Read the number of a setting that may be auto as well."""
    try:
        return value if value == "auto" else int(value)
    except ValueError:
        raise UsageError(f"{name} is {value!r}; it must be a number or auto.") from None


class Group:
    """Settings whose numbers lie within their bounds."""

    def __post_init__(self):
        check_bounds(self)


@cache
def bounds(group: type) -> dict[str, Bounds]:
    """Return the bounds of the numbers in a group of settings, inherited ones included."""
    bounds = {}
    for name, hint in get_type_hints(group, include_extras=True).items():
        extras = getattr(hint, "__metadata__", ())
        of_field = next((extra for extra in extras if isinstance(extra, Bounds)), None)
        limits = of_field or INHERITED_BOUNDS.get(name)
        if limits is not None:
            value_type = hint.__origin__ if extras else hint
            whole = float not in (value_type, *get_args(value_type))
            bounds[name] = dataclasses.replace(limits, whole=whole)
    return bounds


def check_bounds(group) -> None:
    """Refuse the first number out of its bounds in a group of settings."""
    for name, limits in bounds(type(group)).items():
        value = getattr(group, name)
        if value in (None, "auto"):
            continue
        if rule := limits.broken_by(value):
            raise UsageError(f"{name} is {value}; it must be {rule}.")
