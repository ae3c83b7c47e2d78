"""The Dialog State Tracking Challenges 2 and 3: a folder a call, with log.json and label.json."""

from __future__ import annotations

from collections.abc import Iterator

from ...dataset_script.sources import Note
from ...errors import UsageError
from ..files import File
from ..transcripts import ASSISTANT, USER, Message, Reader, Transcript

LOG, LABELS = "log.json", "label.json"  # what the system says, and what was heard of the user
WHAT_IS_SAID = {LOG: ("output", "transcript"), LABELS: ("transcription",)}


def _recognises(file: File) -> bool:
    """By the session and what is said in its first turn."""
    return any(_texts(file, path) is not None for path in WHAT_IS_SAID.values())


def _read(file: File, note: Note) -> Iterator[Transcript]:
    """Read a call, from its log; the labels by themselves hold no dialogue."""
    said = _texts(file, WHAT_IS_SAID[LOG])
    if said is None:
        return
    beside = file.beside(LABELS)
    heard = _texts(beside, WHAT_IS_SAID[LABELS]) if beside else None
    if heard is None or len(heard) != len(said):
        problem = "there is none" if beside is None else "it has not as many turns"
        raise UsageError(
            f"{file} is the log of a call, and what the user says has to be in {LABELS} beside "
            f"it, but {problem}. Put it there, or take the log out."
        )
    messages = []
    for number, texts in enumerate(zip(said, heard, strict=True), 1):
        for speaker, text in zip((ASSISTANT, USER), texts, strict=True):
            if text.strip():
                messages.append(Message(speaker, text.strip()))
            else:
                note("empty_utterance", number)
    yield Transcript(file.document["session-id"], messages)


def _texts(file: File, path: tuple[str, ...]) -> list[str] | None:
    """What is said at a path of fields in each turn; None if it is not there."""
    try:
        texts = file.document["turns"]
        for name in path:
            texts = [turn[name] for turn in texts]
        is_session = isinstance(file.document["session-id"], str)
    except (TypeError, KeyError):
        return None
    return texts if is_session and all(isinstance(text, str) for text in texts) else None


READER = Reader("Dialog State Tracking Challenge", _recognises, _read)
