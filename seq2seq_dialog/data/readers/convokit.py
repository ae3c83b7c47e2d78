"""Corpora in the form of ConvoKit: utterances.jsonl, an utterance and what it replies to a line."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from ...dataset_script.sources import Note
from ...errors import UsageError
from ..files import File, parse_json
from ..transcripts import Message, Reader, Transcript

FIELDS = ("id", "conversation_id", "speaker", "reply_to", "text")
# As other versions of ConvoKit call them.
OTHER_NAMES = {"root": "conversation_id", "user": "speaker", "reply-to": "reply_to"}
DELETED = {"[deleted]", "[removed]"}  # of Reddit
EPOCH = datetime(1970, 1, 1)


class Utterance(NamedTuple):
    """A line of the file."""

    id: str
    line: int
    reply_to: str | None
    message: Message


def _recognises(file: File) -> bool:
    """By the fields of the first line."""
    try:
        first = json.loads(file.head.split("\n", 1)[0])
    except ValueError:
        return False
    return isinstance(first, dict) and _renamed(first).keys() >= set(FIELDS)


def _read(file: File, note: Note) -> Iterator[Transcript]:
    """Read conversations; of several replies to an utterance, the first goes on with the dialogue.

    Each other one begins a dialogue of its own with the utterance that it answers.
    """
    conversations: dict[str, list[Utterance]] = {}
    for number, line in file.lines(note):
        if line.strip():
            conversation, utterance = _read_utterance(file, number, line)
            conversations.setdefault(conversation, []).append(utterance)
    for conversation in conversations.values():
        for branch in branches(conversation):
            messages = []
            for utterance in branch:
                text = utterance.message.text
                if not text or text in DELETED:
                    note("deleted_message" if text else "empty_utterance", utterance.line)
                else:
                    messages.append(utterance.message)
            yield Transcript(branch[-1].id, messages)


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
    message = Message(str(fields["speaker"]), text, _time(fields.get("timestamp")))
    reply_to = None if fields["reply_to"] is None else str(fields["reply_to"])
    return str(fields["conversation_id"]), Utterance(str(fields["id"]), number, reply_to, message)


def _renamed(fields: dict) -> dict:
    return {OTHER_NAMES.get(name, name): value for name, value in fields.items()}


def _time(timestamp) -> datetime | None:
    """Seconds since 1970, as a number or as text."""
    try:
        return EPOCH + timedelta(seconds=float(timestamp))
    except (TypeError, ValueError, OverflowError):
        return None


def branches(conversation: list[Utterance]) -> Iterator[list[Utterance]]:
    """Cut the tree of replies into dialogues, in which each utterance but the first is new."""
    by_id = {utterance.id: utterance for utterance in conversation}
    replies: dict[str | None, list[Utterance]] = {}
    for utterance in conversation:
        is_root = utterance.reply_to not in by_id or utterance.reply_to == utterance.id
        replies.setdefault(None if is_root else utterance.reply_to, []).append(utterance)
    begun = deque([root] for root in replies.pop(None, ()))
    while begun or replies:
        if not begun:  # those that are left reply to each other in a circle
            root = by_id[next(iter(replies))]
            replies[root.reply_to].remove(root)
            begun.append([root])
        branch = begun.popleft()
        while answers := replies.pop(branch[-1].id, []):
            parent = branch[-1]
            first, *others = answers
            begun += [[parent, other] for other in others]
            branch.append(first)
        yield branch


READER = Reader("ConvoKit", _recognises, _read)
