"""Contexts to be answered, in every form in which `data` takes dialogues.

A row of a table with a column of contexts is answered, with what else it holds. Of a dialogue, of
whatever form, the end is answered; a last turn that the assistant itself has said is its reference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..data.files import File
from ..data.formats import (
    Recognised,
    check_has_others,
    find_files,
    names_of_models,
    read_talks_of,
    reader_of,
)
from ..data.readers.table_files import open_table
from ..data.readers.table_forms import choose_contexts, context_of
from ..data.turns import Talk, background_turns
from ..errors import UsageError
from ..settings import DataArguments

JSON_LINE = re.compile(r"\s*(\{|\[\s*(\{|$))")  # begins an object, or an array of objects
AS_IS = DataArguments(detokenize=False)


class Entry(NamedTuple):
    """A context as it stands in a file."""

    place: str  # for messages
    record: dict  # what is written, with a reply
    context: object  # what `as_turns` takes
    form: str  # as what the file is read


def read_contexts(path: Path) -> Iterator[Entry]:
    """Yield what is to be answered in a file, a folder or a zip.

    Objects with a `context`, a line each, and plain text with a context a line are read as they
    are; all else as `data` recognises it, files of no known form left out where there are several.

    Raises:
        UsageError: something cannot be read.
    """
    try:
        files = find_files(str(path))
        of_models = names_of_models(files)
        others = [file for file in files if file.name not in of_models]
        if not others:
            check_has_others(str(path), of_models, files)
        for file in others:
            yield from _read_file(file, is_alone=len(others) == 1)
    except UsageError:
        raise
    except ValueError as error:  # of files that are no text, or damaged
        raise UsageError(str(error)) from error


def _read_file(file: File, is_alone: bool) -> Iterator[Entry]:
    first = next((line for line in file.head.splitlines() if line.strip()), "")
    if is_alone and _has_context(first):
        yield from _read_objects(file)
    elif (table := open_table(file, choose_contexts)) is not None:
        rows, column_of = table
        for number, row in rows:
            yield Entry(f"{file}, row {number}", row, context_of(row, column_of), "table")
    elif (reader := reader_of(file)) is not None:
        for talk in read_talks_of([Recognised(file, reader)], AS_IS, lambda kind, number: None):
            if talk.turns:
                yield _end_of(talk, f"{file}, dialogue {talk.dialogue_id}", reader.name)
    elif is_alone and JSON_LINE.match(first):
        yield from _read_objects(file)
    elif is_alone:
        for number, line in file.lines():
            if line.strip():
                text = line.strip()
                yield Entry(f"{file}, line {number}", {"context": text}, text, "lines of text")


def _has_context(line: str) -> bool:
    """Tell whether a line is an object with a `context`."""
    try:
        record = json.loads(line) if JSON_LINE.match(line) else None
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and "context" in record


def _read_objects(file: File) -> Iterator[Entry]:
    for number, line in file.lines():
        if not line.strip():
            continue
        place = f"{file}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"{place} is not JSON ({error}), but each line has to be an object of its own. "
                "Mend it; jq -c . writes objects so."
            ) from error
        if not isinstance(record, dict) or "context" not in record:
            raise UsageError(
                f"{place} has no 'context', but each line has to be an object that has one: a "
                "string, a list of turns or a list of messages. Mend it, or leave it out."
            )
        yield Entry(place, record, record["context"], "JSON Lines")


def _end_of(talk: Talk, place: str, form: str) -> Entry:
    """What is to be said at the end of a dialogue, or in place of what the assistant has said."""
    said, before = [turn.text for turn in talk.turns], talk.transcript
    record = {"conversation_id": talk.dialogue_id, "context": said}
    if len(said) > 1 and talk.learnt is not None and talk.is_learnt(talk.turns[-1].speaker):
        record |= {"context": said[:-1], "reference": said[-1]}
    background = background_turns(before.instruction, before.persona, before.knowledge)
    return Entry(place, record, [*background, *record["context"]], form)
