"""Corpora in the form of ConvoKit: utterances.jsonl, an utterance and what it replies to a line."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ...dataset_script.sources import Note
from ...errors import UsageError
from ..files import File, parse_json
from ..transcripts import Message, Reader, Transcript
from .reply_tree import Utterance, read_tree
from .times import parse_time

FIELDS = ("id", "conversation_id", "speaker", "reply_to", "text")
# As other versions of ConvoKit call them.
OTHER_NAMES = {"root": "conversation_id", "user": "speaker", "reply-to": "reply_to"}


def _recognises(file: File) -> bool:
    """By the fields of the first line."""
    try:
        first = json.loads(file.head.split("\n", 1)[0])
    except ValueError:
        return False
    return isinstance(first, dict) and _renamed(first).keys() >= set(FIELDS)


def _read(file: File, note: Note) -> Iterator[Transcript]:
    """Read conversations, each a tree of replies."""
    conversations: dict[str, list[Utterance]] = {}
    for number, line in file.lines(note):
        if line.strip():
            conversation, utterance = _read_utterance(file, number, line)
            conversations.setdefault(conversation, []).append(utterance)
    for conversation in conversations.values():
        for said in read_tree(conversation, note):
            yield Transcript(said[-1].id, [each.message for each in said], is_whole=True)


def _read_utterance(file: File, number: int, line: str) -> tuple[str, Utterance]:
    """Read a line: the id of its conversation, and the utterance."""
    try:
        fields = _renamed(parse_json(line))
        missing = [name for name in FIELDS if name not in fields]
    except (ValueError, AttributeError):
        missing = ["a JSON object"]
    if missing:
        raise UsageError(
            f"{file}, line {number} lacks {', '.join(missing)}, but an utterance of ConvoKit is a "
            f"JSON object with {', '.join(FIELDS)}. Fetch the corpus again, or mend that line."
        )
    text = fields["text"].strip() if isinstance(fields["text"], str) else ""
    message = Message(str(fields["speaker"]), text, parse_time(fields.get("timestamp")))
    reply_to = None if fields["reply_to"] is None else str(fields["reply_to"])
    return str(fields["conversation_id"]), Utterance(str(fields["id"]), number, reply_to, message)


def _renamed(fields: dict) -> dict:
    return {OTHER_NAMES.get(name, name): value for name, value in fields.items()}


READER = Reader("ConvoKit", _recognises, _read)
