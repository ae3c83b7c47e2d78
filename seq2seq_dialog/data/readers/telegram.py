"""Chats that Telegram Desktop has exported as JSON: one chat, or all of an account."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

from ...dataset_script.sources import Note
from ...errors import UsageError
from ..files import File
from ..transcripts import Message, Reader, Transcript
from .json_export import distinct_names, read_document
from .times import parse_iso_time

# An export begins so, one that is damaged further on, too.
_NAME = r'"(?:\\.|[^"\\])*"'
ONE_CHAT = re.compile(
    rf'\s*\{{\s*(?:"name":\s*(?:null|{_NAME}),\s*)?"type":\s*"(?:\w+_(?:chat|group|supergroup|'
    r'channel|messages|codes)|replies|)",\s*"id":\s*\d+,\s*"messages":\s*\['
)
ACCOUNT = re.compile(
    rf'\s*\{{\s*"about":\s*{_NAME},\s*"(?:personal_information|profile_pictures|stories|'
    r'contacts|frequent_contacts|sessions|web_sessions|other_data|chats|left_chats)":'
)
MEDIA = {
    *("photo", "file", "media_type", "poll", "contact_information", "location_information"),
    *("place_name", "game_title", "invoice_information", "giveaway_information", "paid_media"),
}


def _recognises(file: File) -> bool:
    return bool(ONE_CHAT.match(file.head) or ACCOUNT.match(file.head))


def _chats(content) -> list:
    """Return the chat, or those of an account and the groups that it has left."""
    if not isinstance(content, dict):
        return []
    if "messages" in content:
        return [content]
    lists = (content.get(key) for key in ("chats", "left_chats"))
    lists = [part["list"] for part in lists if isinstance(part, dict) and "list" in part]
    return [chat for part in lists if isinstance(part, list) for chat in part]


def _read(file: File, note: Note) -> Iterator[Transcript]:
    numbers = count(1)  # of messages in the whole file
    chats = _chats(read_document(file))
    if not chats:
        raise UsageError(
            f"{file} has no chats, but an export has the messages of one, or a list of chats. "
            "Choose chats, and JSON as the format, when you export."
        )
    for place, chat in enumerate(chats, 1):
        if not isinstance(chat, dict) or not isinstance(chat.get("messages"), list):
            raise UsageError(
                f"{file}: chat {place} has no list of messages, but each has to. Export it again."
            )
        raw = [message for message in chat["messages"] if isinstance(message, dict)]
        names = distinct_names({_person(message): _given_name(message) for message in raw})
        messages = []
        for message, number in zip(chat["messages"], numbers, strict=False):
            kind, text = _classify(message)
            if kind:
                note(kind, number)
            if text:
                when = parse_iso_time(message.get("date"))
                messages.append(Message(names[_person(message)], text, when))
        yield Transcript(str(chat.get("id", place)), messages)


def _person(message: dict) -> str:
    return str(message.get("from_id") or message.get("from"))


def _given_name(message: dict) -> str:
    """Return a name; people who have deleted their accounts have none."""
    return str(message.get("from") or message.get("from_id") or "Deleted Account")


def _classify(message) -> tuple[str | None, str]:
    """Return what a message is to be counted as, if anything, and its text if it has one."""
    if not isinstance(message, dict):
        return "unreadable", ""
    if message.get("type") != "message":
        return "system_line", ""
    text = message.get("text", "")
    parts = text if isinstance(text, list) else [text]
    try:  # links, mentions and whatever is set in bold are {"type": ..., "text": ...}
        text = "".join(part if isinstance(part, str) else part["text"] for part in parts).strip()
    except (KeyError, TypeError):
        return "unreadable", ""
    if not text:
        return "media" if MEDIA & message.keys() else "empty_utterance", ""
    return "forwarded_message" if "forwarded_from" in message else None, text


READER = Reader("Telegram chats", _recognises, _read)
