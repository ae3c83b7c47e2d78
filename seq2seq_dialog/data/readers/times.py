"""Times of messages as people's tables write them, and the order that they give."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timezone
from itertools import accumulate, pairwise

from dateutil import parser as dates

from ..transcripts import Message


def is_day_first(times: Iterable) -> bool:
    """Whether some date begins with a number that no month has."""
    return any(re.match(r"(1[3-9]|2\d|3[01])[./-]\d", str(time)) for time in times)


def parse_time(value, day_first: bool = False) -> datetime | None:
    """A time in UTC: of ISO 8601, a number of seconds or milliseconds, or as people write it."""
    if isinstance(value, datetime):
        time = value
    else:
        try:
            number = float(value)
            time = datetime.fromtimestamp(number / 1000 if number > 1e11 else number, timezone.utc)
        except (TypeError, ValueError, OverflowError, OSError):
            try:
                time = dates.parse(str(value).replace("\u202f", " "), dayfirst=day_first)
            except (ValueError, OverflowError):
                return None
    return time.astimezone(timezone.utc).replace(tzinfo=None) if time.tzinfo else time


def is_newest_first(conversations: Iterable[list[Message]]) -> bool:
    """Whether more messages are followed by an earlier one than by a later one."""
    steps = [  # from message to message: 1 to a later time, -1 to an earlier one
        (later > earlier) - (later < earlier)
        for messages in conversations
        for earlier, later in pairwise(m.time for m in messages if m.time is not None)
    ]
    return sum(steps) < 0


def oldest_first(messages: list[Message], newest_first: bool) -> list[Message]:
    """Sort by time; a message without one stays behind the message before it."""
    if newest_first:  # those of one minute stay in the order that this gives
        messages = messages[::-1]
    times = list(accumulate((m.time for m in messages), lambda last, time: time or last))
    first = next(filter(None, times), None)
    if first is None:
        return messages
    order = sorted(range(len(messages)), key=lambda place: times[place] or first)
    return [messages[place] for place in order]
