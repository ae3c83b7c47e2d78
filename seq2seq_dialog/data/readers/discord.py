"""A channel that DiscordChatExporter has exported, as JSON or as CSV."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

from ...dataset_script.sources import Note
from ...errors import UsageError
from ..files import File
from ..transcripts import Message, Reader, Transcript
from .json_export import read_document
from .times import in_order, parse_iso_time

JSON = re.compile(r'\s*\{\s*"guild":\s*\{.*?\},\s*"channel":\s*\{', re.S)
CSV = re.compile(r'"?AuthorID"?,"?Author"?,"?Date"?,"?Content"?,')
SAID = ("Default", "Reply")  # the types of messages that a person types
MEDIA = ("attachments", "embeds", "stickers", "forwardedMessage")
# CSV has no types of messages: this is what the exporter writes for the others.
SYSTEM = re.compile(
    r"(Joined the server|Pinned a message|Started a thread|Left the group|"
    r"Changed the channel icon|Changed the channel name: .*|Started a call that lasted .* minutes|"
    r"Added .* to the group|Removed .* from the group)\."
)


def _recognises(file: File) -> bool:
    return bool(JSON.match(file.head) or CSV.match(file.head))


def _read(file: File, note: Note) -> Iterator[Transcript]:
    yield from (_read_csv if CSV.match(file.head) else _read_json)(file, note)


def _read_json(file: File, note: Note) -> Iterator[Transcript]:
    content = read_document(file)
    if not isinstance(content, dict) or not isinstance(content.get("messages"), list):
        raise UsageError(
            f"{file} has no list of messages, but an exported channel has one. Export it again."
        )
    messages = []
    for number, message in enumerate(content["messages"], 1):
        try:
            author, text = message["author"], message["content"].strip()
            name = _full_name(author)
        except (AttributeError, KeyError, TypeError):
            note("unreadable", number)
            continue
        if message.get("type", "Default") not in SAID:
            note("system_line", number)
        elif author.get("isBot"):
            note("bot_message", number)
        elif not text:
            note("media" if any(map(message.get, MEDIA)) else "empty_utterance", number)
        else:
            messages.append(Message(name, text, parse_iso_time(message.get("timestamp"))))
    channel = content.get("channel")
    name = str(channel.get("id", 1) if isinstance(channel, dict) else 1)
    yield Transcript(name, in_order(messages))


def _full_name(author: dict) -> str:
    """Return the name of an account, as it stands in CSV: ann, or Ann#1234 before 2023."""
    number = author.get("discriminator") or "0000"
    return "#".join([author["name"], number] if number.strip("0") else [author["name"]])


def _read_csv(file: File, note: Note) -> Iterator[Transcript]:
    rows = csv.DictReader((line + "\n" for _, line in file.lines(note)), strict=True)
    messages = []
    try:
        for number, row in enumerate(rows, 1):
            if row["Content"] is None or None in row:
                note("unreadable", number)
                continue
            text = row["Content"].strip()
            if not text:
                note("media" if row.get("Attachments") else "empty_utterance", number)
            elif SYSTEM.fullmatch(text):
                note("system_line", number)
            else:
                messages.append(Message(row["Author"], text, parse_iso_time(row["Date"])))
    except csv.Error as error:
        raise UsageError(
            f"{file}, line {rows.line_num} is not CSV ({error}), but an exported channel is. "
            "Export it again, as JSON if you can."
        ) from error
    yield Transcript("1", in_order(messages))


READER = Reader("Discord channel", _recognises, _read)
