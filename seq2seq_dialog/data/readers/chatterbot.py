"""ChatterBot's training files: YAML with categories and conversations, each a list of turns."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from ...dataset_script.sources import Note
from ...errors import UsageError
from ..files import File
from ..transcripts import Message, Reader, Transcript

CONVERSATIONS = re.compile(r"^conversations:\s*\n(?:.*\n)*?[ \t]*-\s+- \S", re.MULTILINE)


def _recognises(file: File) -> bool:
    """By a list of lists called conversations."""
    return bool(CONVERSATIONS.search(file.head.replace("\r\n", "\n")))


def _read(file: File, note: Note) -> Iterator[Transcript]:
    """Read pairs of question and answer, and longer conversations, whose turns alternate."""
    text = "\n".join(line for _, line in file.lines(note))
    try:
        # The base loader leaves every scalar a string: `Yes` is no truth value here.
        conversations = yaml.load(text, yaml.BaseLoader)["conversations"]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise UsageError(
            f"{file}{where}: {problem}, but ChatterBot's files have to be YAML. Put that turn in "
            "quotation marks, or mend its indentation."
        ) from error
    for number, turns in enumerate(conversations, 1):
        # The published files hold single strings, too: a hyphen is missing there.
        turns = turns if isinstance(turns, list) else [turns]
        texts = [_as_text(turn).strip() for turn in turns]
        if not all(texts):
            note("empty_utterance", number)
        yield Transcript(str(number), [Message(None, text) for text in texts if text])


def _as_text(turn: str | dict | list) -> str:
    """A turn as it was meant: `Note: this` without quotation marks is a mapping to YAML."""
    if isinstance(turn, dict):
        return ", ".join(f"{key}: {_as_text(value)}" for key, value in turn.items())
    return turn if isinstance(turn, str) else " ".join(map(_as_text, turn))


READER = Reader("ChatterBot", _recognises, _read)
