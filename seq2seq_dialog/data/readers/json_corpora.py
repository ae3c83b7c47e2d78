"""Corpora published as one JSON document: of tasks, as MultiWOZ, and of chat about topics."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import NamedTuple

from ...dataset_script.sources import Note
from ...errors import UsageError
from ..files import File
from ..transcripts import ASSISTANT, USER, Message, Reader, Transcript

SPEAKERS = {"system": ASSISTANT, "assistant": ASSISTANT, "user": USER}


class Form(NamedTuple):
    """Where a corpus has what."""

    mark: str  # a field of each dialogue, by which the corpus is told from others
    turns: str  # the field with the list of its turns
    speaker: str | None  # the field of a turn; None: user and assistant take turns
    text: str


FORMS = (
    # MultiWOZ up to 2.1, and 2.4.
    Form("goal", "log", None, "text"),
    # MultiWOZ 2.2, Schema-Guided Dialogue.
    Form("dialogue_id", "turns", "speaker", "utterance"),
    # Taskmaster.
    Form("conversation_id", "utterances", "speaker", "text"),
    # Topical-Chat.
    Form("conversation_rating", "content", "agent", "message"),
    # Wizard of Wikipedia.
    Form("chosen_topic", "dialog", "speaker", "text"),
)
IDS = ("dialogue_id", "conversation_id")


def _recognises(file: File) -> bool:
    """By the fields of the first dialogue and of its first turn."""
    return _form(file) is not None


def _read(file: File, note: Note) -> Iterator[Transcript]:
    """Read dialogues, each turn of which has to have what its form says."""
    form = _form(file)
    for number, (key, dialogue) in enumerate(_dialogues(file.document), 1):
        turns = _turns(form, dialogue)
        if turns is None:
            raise UsageError(
                f"{file}, dialogue {key} is {dialogue!r:.80}, but it has to have a list called "
                f"{form.turns}. Fetch the corpus again, or take that dialogue out."
            )
        messages = []
        for turn_number, (turn, speaker) in enumerate(
            zip(turns, cycle((USER, ASSISTANT)), strict=False), 1
        ):
            message = _message(form, turn, speaker)
            if message is None:
                needed = " and ".join(filter(None, (form.speaker, form.text)))
                raise UsageError(
                    f"{file}, dialogue {key}, turn {turn_number} is {turn!r:.80}, but it has to "
                    f"have {needed}. Fetch the corpus again, or take that dialogue out."
                )
            if message.text:
                messages.append(message)
            else:
                note("empty_utterance", number)
        yield Transcript(key, messages)


def _form(file: File) -> Form | None:
    _, first = next(_dialogues(file.document), (None, None))
    for form in FORMS:
        turns = _turns(form, first)
        if turns and form.mark in first and _message(form, turns[0], USER):
            return form
    return None


def _dialogues(document) -> Iterator[tuple[str, object]]:
    """Yield the dialogues, which the document lists, names or, if it is one itself, is."""
    if isinstance(document, dict):
        is_one = any(form.mark in document for form in FORMS)
        yield from {"1": document}.items() if is_one else document.items()
    elif isinstance(document, list):
        for number, dialogue in enumerate(document, 1):
            names = dialogue if isinstance(dialogue, dict) else {}
            yield str(next((names[name] for name in IDS if name in names), number)), dialogue


def _turns(form: Form, dialogue) -> list | None:
    turns = dialogue.get(form.turns) if isinstance(dialogue, dict) else None
    return turns if isinstance(turns, list) else None


def _message(form: Form, turn, speaker: str) -> Message | None:
    """Read a turn; None if something is missing."""
    if not isinstance(turn, dict) or not isinstance(turn.get(form.text), str):
        return None
    if form.speaker:
        if not isinstance(turn.get(form.speaker), str):
            return None
        speaker = SPEAKERS.get(turn[form.speaker].lower(), turn[form.speaker])
    return Message(speaker, turn[form.text].strip())


READER = Reader("JSON corpus (MultiWOZ, Taskmaster, Topical-Chat or the like)", _recognises, _read)
