"""The Cornell Movie-Dialogs Corpus: lines of films, and which of them make a conversation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack

from ...dataset_script.sources import Note, unpacking
from ...errors import UsageError
from ..files import File
from ..transcripts import Message, Reader, Transcript

SEPARATOR = "+++$+++"
CONVERSATIONS, LINES = "movie_conversations.txt", "movie_lines.txt"
CONVERSATION = re.compile(r"\[\s*'L\d+'.*\]")
TAGS = re.compile(r"</?[biu]>", re.IGNORECASE)


def _recognises(file: File) -> bool:
    """Every file of the corpus has its separator."""
    return f" {SEPARATOR} " in file.head.split("\n", 1)[0]


def _read(file: File, note: Note) -> Iterator[Transcript]:
    """Read the conversations; the files beside them (lines, characters, titles) hold none."""
    first = next(_records(file))[1]
    if not CONVERSATION.fullmatch(first[-1]):
        if file.beside(CONVERSATIONS) is None:
            raise UsageError(
                f"{file} is a part of the Cornell Movie-Dialogs Corpus, which says in "
                f"{CONVERSATIONS} which lines belong together. Put that file beside it."
            )
        return
    lines = _read_lines(file)
    for number, fields in _records(file):
        ids = re.findall(r"L\d+", fields[-1])
        unknown = [line_id for line_id in ids if line_id not in lines]
        if unknown or not ids:
            problem = f"{unknown[0]} is not in {LINES}" if unknown else f"{fields[-1]!r} has no ids"
            raise UsageError(
                f"{file}, line {number}: {problem}, but a conversation has to be a list of lines, "
                "['L1', 'L2']. Fetch the corpus again, or take that line out."
            )
        messages = [lines[line_id] for line_id in ids]
        for message in messages:
            if not message.text:
                note("empty_utterance", number)
        yield Transcript(ids[0], [message for message in messages if message.text])


def _read_lines(file: File) -> dict[str, Message]:
    """Read the lines that the conversations consist of, by their ids."""
    beside = file.beside(LINES)
    if beside is None:
        raise UsageError(
            f"{file} holds the ids of lines, and what they say is in {LINES}. Put that file "
            "beside it, or give the folder that has both."
        )
    lines = {}
    for number, fields in _records(beside):
        if len(fields) != 5:
            raise UsageError(
                f"{beside}, line {number} has {len(fields)} fields between {SEPARATOR}, but a line "
                "has 5: id, character, film, name, text. Fetch the corpus again."
            )
        line_id, _, _, name, text = fields
        lines[line_id] = Message(name, TAGS.sub("", text))
    return lines


def _records(file: File) -> Iterator[tuple[int, list[str]]]:
    """Yield the fields of each line with its number; older copies are in cp1252."""
    with ExitStack() as stack, unpacking(file.place):
        for number, raw in enumerate(file.open(stack), 1):
            try:
                line = raw.decode("utf-8-sig")
            except UnicodeDecodeError:
                line = raw.decode("cp1252", "replace")
            if line.strip():
                yield number, [field.strip() for field in line.split(SEPARATOR)]


READER = Reader("Cornell Movie-Dialogs Corpus", _recognises, _read)
