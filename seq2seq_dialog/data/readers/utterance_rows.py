"""Tables with an utterance a row: their conversations, their order, and what replies to what."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ...dataset_script.sources import Note
from ...errors import UsageError
from ..transcripts import Message, Transcript
from .message_texts import are_html, is_by_program, speaker_of, text_of, text_of_html
from .reply_tree import DELETED, Utterance, read_tree
from .times import is_day_first, is_newest_first, oldest_first, parse_time, time_cell

Rows = Iterable[tuple[int, dict[str, Any]]]  # numbered as in the file
BLANK = ("", "nan", "none", "null")  # what stands for no id
NO_PARENT = (None, "0", "-1")


def read_utterances(column_of: dict[str, str], rows: Rows, note: Note) -> Iterator[Transcript]:
    """Read an utterance a row: those of a conversation may lie apart, the latest come first.

    Where rows name what they reply to, they are a tree of replies.
    """
    conversations = _conversations(column_of, rows, note)
    times = (time_cell(row, column_of) for each in conversations.values() for _, row in each)
    day_first = is_day_first(times)
    texts = (text_of(row, column_of["text"]) for each in conversations.values() for _, row in each)
    read_text = text_of_html if are_html(texts) else lambda text: text
    said = {
        name: [_utterance(number, row, column_of, day_first, read_text) for number, row in each]
        for name, each in conversations.items()
    }
    newest_first = is_newest_first([u.message for u in each] for each in said.values())
    is_tree = _is_tree(column_of, said.values())
    for name, each in said.items():
        each = oldest_first(each, newest_first, lambda utterance: utterance.message)
        for dialogue in read_tree(each, note) if is_tree else [_without_deleted(each, note)]:
            label = ":".join(filter(None, [name, dialogue[-1].id if is_tree else ""])) or "1"
            messages = [utterance.message for utterance in dialogue]
            yield Transcript(label, messages, is_whole=is_tree or "conversation" in column_of)


def _without_deleted(utterances: list[Utterance], note: Note) -> list[Utterance]:
    """The utterances of a chat, in which others go on where one is deleted."""
    said = []
    for utterance in utterances:
        if utterance.message.text.strip() in DELETED:
            note("deleted_message", utterance.line)
        else:
            said.append(utterance)
    return said


def _conversations(column_of: dict[str, str], rows: Rows, note: Note) -> dict[str, list[tuple]]:
    """The rows by their conversation; without a column for that, all are one."""
    column = column_of.get("conversation")
    conversations: dict[str, list[tuple]] = {}
    for number, row in rows:
        name, text = row.get(column), row.get(column_of["text"])
        name = "" if name is None else str(name).strip()
        if is_by_program(row):
            note("system_line", number)
        elif name or (text is not None and str(text).strip()):
            conversations.setdefault(name, []).append((number, row))
        else:
            note("empty_utterance", number)
    if len(conversations) > 1 and "" in conversations:
        raise UsageError(
            f"Row {conversations[''][0][0]} has nothing in the column {column!r}, but others name "
            "their conversation there. Fill it in, take the row out, or rename the column."
        )
    return conversations


def _utterance(
    number: int,
    row: dict,
    column_of: dict[str, str],
    day_first: bool,
    read_text: Callable[[str], str],
) -> Utterance:
    text = read_text(text_of(row, column_of["text"]) or "")
    time = parse_time(time_cell(row, column_of), day_first)
    message = Message(speaker_of(row.get(column_of.get("speaker"))), text, time)
    name, parent = (_id(row.get(column_of.get(kind))) for kind in ("id", "parent"))
    return Utterance(str(number) if name is None else name, number, parent, message)


def _id(value) -> str | None:
    """An id without what Reddit puts before it, and pandas behind it; None where there is none."""
    text = re.sub(r"^t\d_|\.0$", "", "" if value is None else str(value).strip())
    return None if text.casefold() in BLANK else text


def _is_tree(column_of: dict[str, str], conversations: Iterable[list[Utterance]]) -> bool:
    """Whether rows name what they reply to; in a chat, where few do, they follow one another."""
    if not {"id", "parent"} <= set(column_of):
        return False
    utterances = [utterance for each in conversations for utterance in each]
    ids = {utterance.id for utterance in utterances}
    replies = [u for u in utterances if u.reply_to in ids or u.reply_to not in NO_PARENT]
    is_named = bool({"speaker", "conversation"} & set(column_of))
    return not is_named or 4 * len(replies) >= len(utterances)
