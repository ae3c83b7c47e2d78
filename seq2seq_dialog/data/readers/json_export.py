"""What the readers of exports in JSON share."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack

from ...dataset_script.sources import unpacking
from ...errors import UsageError
from ..files import File, parse_json


def read_document(file: File):
    """Read `file.document`, and refuse a file that is not one whole JSON document."""
    if file.document is not None:
        return file.document
    with ExitStack() as stack, unpacking(file.place):
        content = file.open(stack).read()
    try:
        return parse_json(content)
    except ValueError as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UsageError(
            f"{file}{line} is not JSON ({error}), but an export is one whole JSON document. Copy "
            "it again or export it again."
        ) from error


def distinct_names(names: Mapping[str, str]) -> dict[str, str]:
    """Put the id behind a name that several people have."""
    ids = defaultdict(list)
    for person, name in names.items():
        ids[name].append(person)
    return {
        person: name if len(ids[name]) == 1 else f"{name} ({person})"
        for person, name in names.items()
    }
