"""EmpatheticDialogues: one utterance a row, commas written as `_comma_`, nothing in quotes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from ...dataset_script.sources import Note
from ...errors import UsageError
from ..files import File
from ..transcripts import Message, Reader, Transcript

HEADER = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance"
FIELDS = len(HEADER.split(","))  # ratings and tags follow


class Row(NamedTuple):
    """A line of the file."""

    line: int
    conversation: str
    message: Message


def _recognises(file: File) -> bool:
    """By the names of the columns."""
    return file.head.startswith(HEADER)


def _read(file: File, note: Note) -> Iterator[Transcript]:
    """Read dialogues; the situation that opens each is known to one speaker alone: left out."""
    for conversation, rows in groupby(_rows(file, note), lambda row: row.conversation):
        messages = []
        for row in rows:
            if row.message.text:
                messages.append(row.message)
            else:
                note("empty_utterance", row.line)
        yield Transcript(conversation, messages)


def _rows(file: File, note: Note) -> Iterator[Row]:
    lines = file.lines(note)
    next(lines)
    for number, line in lines:
        if not line.strip():
            continue
        fields = line.split(",")
        if len(fields) < FIELDS:
            raise UsageError(
                f"{file}, line {number} has {len(fields)} fields, but at least {FIELDS} are "
                f"needed: {HEADER}. Fetch the corpus again, or take that dialogue out."
            )
        text = fields[5].replace("_comma_", ",").strip()
        yield Row(number, fields[0], Message(fields[4], text))


READER = Reader("EmpatheticDialogues", _recognises, _read)
