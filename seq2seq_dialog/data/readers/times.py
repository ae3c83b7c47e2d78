"""Times of messages as people's tables write them, and the order that they give."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, time
from itertools import accumulate, pairwise
from typing import TypeVar

from dateutil import parser as dates

from ..transcripts import Message

Entry = TypeVar("Entry")
CLOCK = re.compile(r"\d{1,2}([:.]\d{2}){1,2}([.,]\d+)?(\s*[ap]\.?m\.?)?", re.IGNORECASE)
AFTER_NOON = ("pm", "下午", "午後", "오후")
# Two days of which no part is the same, and a year for 29 February: what a text leaves out is
# taken from them.
DEFAULTS = (datetime(2000, 1, 1), datetime(2004, 2, 2))


def is_day_first(times: Iterable) -> bool:
    """Whether some date begins with a number that no month has."""
    return any(re.match(r"(1[3-9]|2\d|3[01])[./-]\d", str(time)) for time in times)


def time_cell(row: dict, column_of: dict[str, str]):
    """The time as it stands in a row, with the date where that has a column of its own."""
    value, date = row.get(column_of.get("time")), row.get(column_of.get("date"))
    if date is None or not isinstance(value, str | time) or not CLOCK.fullmatch(_text(value)):
        return value
    return f"{re.sub('[ T]00:00(:00)?$', '', _text(date))} {_text(value)}"


def _text(value) -> str:
    return str(value).replace("\u202f", " ").strip()


def on_clock(day: datetime | None, match: re.Match) -> datetime | None:
    """The time that a line of a chat tells: groups hour and minute, a half of the day around."""
    hour, half = int(match["hour"]), (match["before"] or match["after"] or "").lower()
    if half and hour <= 12:
        hour = hour % 12 + 12 * (half in AFTER_NOON)
    try:
        return day and datetime.combine(day, time(hour, int(match["minute"])))
    except ValueError:
        return None


def parse_time(value, day_first: bool = False) -> datetime | None:
    """A time in UTC: of ISO 8601, a number of seconds or milliseconds, or as people write it.

    A text that lacks the day, the month or the year is no time: a clock begins anew each day.
    """
    if value is None:
        return None
    if isinstance(value, datetime):
        when = value
    else:
        try:
            number = float(value)
            when = datetime.fromtimestamp(number / 1000 if number > 1e11 else number, UTC)
        except (TypeError, ValueError, OverflowError, OSError):
            when = _parse_text(_text(value), day_first)
    return when.astimezone(UTC).replace(tzinfo=None) if when and when.tzinfo else when


def parse_iso_time(value) -> datetime | None:
    """Read 2023-12-31T21:05:33.123+01:00 or seconds as UTC, and a time without zone as it is."""
    try:
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC).replace(tzinfo=None)
        when = datetime.fromisoformat(value)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
    return when.astimezone(UTC).replace(tzinfo=None) if when.tzinfo else when


def _parse_text(text: str, day_first: bool) -> datetime | None:
    day_first = day_first or bool(re.match(r"\d{1,2}\.\s?\d{1,2}\.\s?\d{2}", text))
    try:
        when, other = (dates.parse(text, dayfirst=day_first, default=each) for each in DEFAULTS)
    except (ValueError, OverflowError):
        return None
    return when if when == other else None


def is_newest_first(conversations: Iterable[list[Message]]) -> bool:
    """Whether more messages are followed by an earlier one than by a later one."""
    steps = [  # from message to message: 1 to a later time, -1 to an earlier one
        (later > earlier) - (later < earlier)
        for messages in conversations
        for earlier, later in pairwise(m.time for m in messages if m.time is not None)
    ]
    return sum(steps) < 0


def in_order(messages: list[Message]) -> list[Message]:
    """Put the messages of one chat in order: an export may have the newest first."""
    return oldest_first(messages, is_newest_first([messages]), lambda message: message)


def oldest_first(
    entries: list[Entry], newest_first: bool, message_of: Callable[[Entry], Message]
) -> list[Entry]:
    """Sort by time; a message without one stays behind the message before it."""
    if newest_first:  # those of one minute stay in the order that this gives
        entries = entries[::-1]
    times = (message_of(entry).time for entry in entries)
    known = list(accumulate(times, lambda last, when: when or last))
    first = next(filter(None, known), None)
    if first is None:
        return entries
    order = sorted(range(len(entries)), key=lambda place: known[place] or first)
    return [entries[place] for place in order]
