"""A chat that LINE has exported as text: a line for each day, then time, name and text by tabs.

    [LINE] Chat history with Ben            2023/12/31(Sun)
    21:05<tab>Ann<tab>text                  21:06<tab>Ben<tab>[Sticker]

A text of several lines stands in quotation marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...dataset_script.sources import Note
from ..files import File
from ..transcripts import Message, Reader, Transcript
from .message_texts import add_line, written_by_people
from .times import is_day_first, on_clock, parse_time

BEGINS = "[LINE]"
DAY = re.compile(
    r"(?:\w{2,12}\.?, ?)?(?P<date>\d{1,4}[/.-]\d{1,2}[/.-]\d{1,4})\.?(?: ?[(（]\w{1,3}[)）]| \w+)?"
)
SAID = re.compile(
    r"(?P<before>[AP]M|上午|下午|午前|午後|오전|오후)? ?(?P<hour>\d{1,2}):(?P<minute>\d\d)"
    r"(?: ?(?P<after>[AP]M))?\t(?P<said>.*)",
    re.I,
)
# What stands for a file in any language, and a call.
MEDIA = re.compile(r"\[[^\[\]\n]{1,20}\]")
CALL = re.compile(r"☎ .*", re.S)


def _recognises(file: File) -> bool:
    lines = file.head.split("\n")
    first = next((line for line in lines if line.strip()), "")
    return first.startswith(BEGINS) and any(SAID.match(line) for line in lines)


def _read(file: File, note: Note) -> Iterator[Transcript]:
    days = (DAY.fullmatch(line.strip()) for _, line in file.lines())
    day_first = is_day_first(day["date"] for day in days if day)
    day, said = None, []
    for number, line in file.lines(note):
        if match := SAID.match(line):
            name, tab, text = match["said"].partition("\t")
            if tab:
                said.append((number, Message(name.strip(), text, on_clock(day, match))))
            else:  # who has joined, or taken back what was said
                note("system_line", number)
        elif match := DAY.fullmatch(line.strip()):
            day = parse_time(match["date"], day_first)
        else:
            add_line(said, line, number, note)
    whole = [(number, m._replace(text=_unquoted(m.text.strip()))) for number, m in said]
    yield Transcript("1", written_by_people(whole, _kind_of, note))


def _kind_of(text: str) -> str | None:
    if MEDIA.fullmatch(text):
        return "media"
    return "system_line" if CALL.fullmatch(text) else None


def _unquoted(text: str) -> str:
    """A text without the quotation marks that stand around several lines."""
    if "\n" in text and text.startswith('"') and text.endswith('"'):
        return text[1:-1].replace('""', '"')
    return text


READER = Reader("LINE chat", _recognises, _read)
