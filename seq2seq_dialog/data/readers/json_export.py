"""What the readers of exports in JSON share."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime, timezone

from ...dataset_script.sources import unpacking
from ...errors import UsageError
from ..files import File, parse_json


def document(file: File):
    """Return the content of a file, which has to be one whole JSON document."""
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


def time_of(value) -> datetime | None:
    """Read 2023-12-31T21:05:33.123+01:00 or seconds as UTC, and a time without zone as it is."""
    try:
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, timezone.utc).replace(tzinfo=None)
        # Python 3.10 knows neither Z nor seven digits of a second.
        when = datetime.fromisoformat(re.sub(r"\.\d+", "", value).replace("Z", "+00:00"))
    except (TypeError, ValueError, OverflowError, OSError):
        return None
    return when.astimezone(timezone.utc).replace(tzinfo=None) if when.tzinfo else when


def distinct_names(names: Mapping[str, str]) -> dict[str, str]:
    """Put the id behind a name that several people have."""
    ids = defaultdict(list)
    for person, name in names.items():
        ids[name].append(person)
    return {
        person: name if len(ids[name]) == 1 else f"{name} ({person})"
        for person, name in names.items()
    }
