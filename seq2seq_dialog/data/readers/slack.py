"""A day of a channel in an export of Slack: the folder has one for each day, `users.json` names.

What is said in a thread stands apart, after the message that it answers: as far as that day goes.
"""

from __future__ import annotations

import html
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache

from ...dataset_script.sources import Note
from ...errors import UsageError
from ..files import File
from ..transcripts import Message, Reader, Transcript
from .json_export import distinct_names, read_document

DAY = re.compile(r'\s*\[\s*\{(?=.*"type":\s*"message").*"ts":\s*"\d+\.\d+"', re.S)
PEOPLE = "users.json"
CHANNEL = "channel"  # the messages that are in no thread, or begin one
SAID = (None, "file_share", "thread_broadcast")  # the subtypes of messages that a person types
MARKUP = re.compile(r"<([@#!]?)([^<>|]*)(?:\|([^<>]*))?>")  # <@U123>, <https://x.org|the page>


def _recognises(file: File) -> bool:
    return bool(DAY.match(file.head))


def _read(file: File, note: Note) -> Iterator[Transcript]:
    content = read_document(file)
    if not isinstance(content, list):
        raise UsageError(f"{file} is no list, but a day of a channel is one. Export it again.")
    names = _names(file)
    threads: defaultdict[str, list[Message]] = defaultdict(list)
    for number, message in enumerate(content, 1):
        try:
            kind, text = _classify(message, names)
            if not kind:
                when = datetime.fromtimestamp(float(message["ts"]), UTC)
                said = Message(_speaker(message, names), text, when.replace(tzinfo=None))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            kind = "unreadable"
        if kind:
            note(kind, number)
            continue
        thread = message.get("thread_ts")
        if thread in (None, message["ts"]):
            threads[CHANNEL].append(said)
        if thread:
            threads[str(thread)].append(said)
    for thread, messages in threads.items():
        messages.sort(key=lambda message: message.time)
        yield Transcript(thread, messages, is_whole=thread != CHANNEL)


def _names(file: File) -> dict[str, str]:
    """Return the names that people have chosen, by their ids."""
    users = file.beside(PEOPLE)
    if users is None:
        return {}
    return _names_in(users.name, users.place, os.stat(users.place[0]).st_mtime_ns)


@lru_cache(1)  # the same for all days
def _names_in(name: str, place: tuple[str, ...], changed: int) -> dict[str, str]:
    users = File(name, place)
    people = read_document(users)
    if not isinstance(people, list):
        raise UsageError(
            f"{users} is no list, but it has to name the people of the export. Export it again."
        )
    names = {}
    for person in people:
        if isinstance(person, dict) and isinstance(person.get("id"), str):
            name = _chosen_name(person.get("profile")) or person.get("name") or person["id"]
            names[person["id"]] = str(name)
    return distinct_names(names)


def _chosen_name(profile) -> str | None:
    if not isinstance(profile, dict):
        return None
    return profile.get("display_name") or profile.get("real_name")


def _speaker(message: dict, names: dict[str, str]) -> str:
    """Return the name of who speaks; users.json lacks people of other workspaces."""
    user = message["user"]
    return str(names.get(user) or _chosen_name(message.get("user_profile")) or user)


def _classify(message: dict, names: dict[str, str]) -> tuple[str | None, str]:
    """Return the kind of what nobody typed, or None, and the text as it was typed."""
    subtype = message.get("subtype")
    if subtype == "tombstone":
        return "deleted_message", ""
    if message.get("bot_id"):
        return "bot_message", ""
    if subtype not in SAID or not message.get("user"):
        return "system_line", ""
    # All other & < > are written as &amp; &lt; &gt;.
    text = MARKUP.sub(lambda match: _plain(match, names), message.get("text") or "")
    text = html.unescape(text).strip()
    if not text or (subtype == "file_share" and " uploaded a file: " in text):  # until 2018
        has_media = message.get("files") or message.get("attachments") or subtype == "file_share"
        return "media" if has_media else "empty_utterance", ""
    return None, text


def _plain(match: re.Match, names: dict[str, str]) -> str:
    """Write a mention or a link as one reads it."""
    sign, target, label = match.groups()
    if sign == "@":
        return f"@{names.get(target, label or target)}"
    if sign == "!":  # <!here>, <!subteam^S1|@team>, <!date^1^{date}|today>
        return label or "@" + target.split("^")[0]
    return sign + (label or target)


READER = Reader("Slack export", _recognises, _read, beside=PEOPLE)
