"""Logs of IRC, by irssi, WeeChat, HexChat and XChat, ZNC, energymech, eggdrop and mIRC.

What people say is read. What happens in the channel, notices and actions (`* ann waves`) are left
out, as an action does not speak.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta

from ...dataset_script.sources import Note
from ...errors import UsageError
from ..files import File
from ..transcripts import Message, Reader, Transcript

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DATE = r"(?:(?P<day>\d{4}-\d\d-\d\d)|(?P<month>[^\W\d_]{3,5})\.? (?P<of_month>\d{1,2}))"
_TIME = r"(?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d))?"
STAMP = re.compile(rf"\[?(?:{_DATE}[T ])?{_TIME}(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?\]?(?P<rest>\s.*)")
RANK = "[ ~&@%+!]*"
SAID = re.compile(rf"\s+<{RANK}(?P<name>[^\s<>]+)>(?:\s(?P<text>.*))?$")
# WeeChat parts time, name and text by tabs; its signs for what happens are no names.
TABBED = re.compile(rf"\t{RANK}(?P<name>[^\s*<>=-][^\s]*)\t(?P<text>.*)$")
HAPPENED = re.compile(
    r"\s+(?:\*\*\*|-!-|-->|<--|=!=)\s|"
    r"\s+\S+ \(\S+@\S+\) (?:joined|left) |\s+#\S+: mode change "
)
MAY_HAVE_HAPPENED = re.compile(r"\s+(?:\*|--|---|-\S+-|Action:|Nick change:)(?:\s|$)|\t\s*\t")
# --- Log opened Sun Dec 31 21:05:33 2023; --- Day changed Mon Jan 01 2024; Session Start: ...
MARK = re.compile(
    r"(?:--- (?:Log|Day)|\*\*\*\* (?:BEGIN|ENDING) LOGGING|Session (?:Start|Close|Ident|Time))\b.*"
)
LONG_DATE = re.compile(r"\b(\w{3}) +(\d{1,2}) (?:[\d:]+ )?(\d{4})\b")
FILE_DATE = re.compile(r"(?<!\d)(\d{4})-?(\d\d)-?(\d\d)(?!\d)")
UNKNOWN_DAY = date(1972, 1, 1)  # of a log that names none; a leap year, as February 29 may come
COLOURS = re.compile(
    r"\x03(?:\d{1,2}(?:,\d{1,2})?)?|\x04[0-9a-fA-F]{6}|[\x02\x0f\x11\x16\x1d-\x1f]"
)


def _recognises(file: File) -> bool:
    lines = [COLOURS.sub("", line) for line in file.head.split("\n") if line.strip()][:50]
    rests = list(map(_rest, lines))
    sure = sum(bool(_said(rest) or HAPPENED.match(rest)) for rest in rests)
    sure += sum(bool(MARK.match(line)) for line in lines)
    others = sum(bool(MAY_HAVE_HAPPENED.match(rest)) for rest in rests)
    return sure > 0 and sure + others >= 0.8 * len(lines)


def _rest(line: str) -> str:
    stamp = STAMP.match(line)
    return stamp["rest"].rstrip("\r") if stamp else ""


def _said(rest: str) -> re.Match | None:
    return SAID.match(rest) or TABBED.match(rest)


def _read(file: File, note: Note) -> Iterator[Transcript]:
    clock = _Clock(file.name)
    messages: list[Message] = []
    unreadable, lines = [], 0
    for number, line in file.lines(note):
        line = COLOURS.sub("", line)
        if not line.strip():
            continue
        lines += 1
        stamp = STAMP.match(line)
        if MARK.match(line) or (stamp and stamp["rest"].startswith(" --- ")):
            clock.set_day(line)
            note("system_line", number)
            continue
        when = clock.read(stamp) if stamp else None
        if when is None:
            note("unreadable", number)
            unreadable.append(number)
            continue
        said = _said(stamp["rest"])
        text = (said["text"] or "").strip() if said else ""
        if text:
            messages.append(Message(said["name"], text, when))
        else:
            note("empty_utterance" if said else "system_line", number)
    if 2 * len(unreadable) > lines:
        raise UsageError(
            f"{file}, line {unreadable[0]} and {len(unreadable) - 1} others of {lines} have no "
            "time, but a line of a log is like '21:05 <ann> text'. Restore the file, or leave it "
            "out."
        )
    yield Transcript("1", messages)


class _Clock:
    """Knows on which day a time of day is."""

    def __init__(self, file_name: str):
        self.day = UNKNOWN_DAY
        self.last: datetime | None = None
        for parts in FILE_DATE.findall(file_name):
            self._set(*map(int, parts))

    def set_day(self, line: str) -> None:
        """Take the day from a line that names one in English; the log goes on with any other."""
        match = LONG_DATE.search(line)
        if match and match[1].lower() in MONTHS:
            self._set(int(match[3]), MONTHS.index(match[1].lower()) + 1, int(match[2]))

    def read(self, stamp: re.Match) -> datetime | None:
        """Return the time of a line, None where it is none; times that go back are of a new day."""
        dated = bool(stamp["day"])
        try:
            clock = time(*(int(stamp[part] or 0) for part in ("hour", "minute", "second")))
            if stamp["day"]:
                self.day = date.fromisoformat(stamp["day"])
            elif stamp["month"] and stamp["month"].lower() in MONTHS:
                month = MONTHS.index(stamp["month"].lower()) + 1
                new_year = month < self.day.month - 6
                self.day = date(self.day.year + new_year, month, int(stamp["of_month"]))
                dated = True
        except ValueError:
            return None
        when = datetime.combine(self.day, clock)
        if not dated and self.last and when < self.last - timedelta(hours=12):
            self.day += timedelta(days=1)
            when += timedelta(days=1)
        self.last = when
        return when

    def _set(self, year: int, month: int, day: int) -> None:
        try:
            self.day = date(year, month, day)
        except ValueError:
            return
        self.last = None


READER = Reader("IRC log", _recognises, _read)
