"""What the readers of dialogues yield: who says what when, as it stands in a source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from ..dataset_script.sources import Note
from .files import File

ASSISTANT = "assistant"  # the speaker whose replies are learnt where a format has roles
USER = "user"  # the speaker whom it answers
CHAT_PAUSE = timedelta(hours=6)  # after which a chat is another one


class Message(NamedTuple):
    """What one person says at one time."""

    speaker: str | None  # a name, an id or a role; None where turns are known to alternate
    text: str  # may hold line ends
    time: datetime | None = None  # in one zone throughout a source, whichever it is


class Transcript(NamedTuple):
    """Messages in their order, oldest first, and what stands before them."""

    id: str  # of its own within the file
    messages: list[Message]
    learnt: str | None = None  # the speaker whose replies are to be learnt; None: everybody
    instruction: str = ""  # what a system message says
    persona: str = ""  # who `learnt` is
    knowledge: str = ""  # what `learnt` knows
    is_whole: bool = False  # one dialogue, however long its pauses are, unless `max_gap` is set


class Reader(NamedTuple):
    """Reads one format.

    A module of `readers/` that reads a format by itself has one, called READER; of tables, `reader`
    makes one. Each message stands for itself: turns of one speaker are not merged, long pauses not
    cut.
    """

    name: str  # "read as: {name}"
    # Whether a file has this format, by its content: True only where no other can be meant.
    recognises: Callable[[File], bool]
    # `note(kind, number)` counts what is left out and what is odd; number is a line or a message.
    read: Callable[[File, Note], Iterator[Transcript]]
    pause: timedelta = CHAT_PAUSE  # how much time ends a dialogue
    beside: str | None = None  # the name of a file that it reads together with others
