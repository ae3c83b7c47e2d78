"""A chat that KakaoTalk has exported as text, on a computer or on a telephone.

--------------- 2023년 12월 31일 일요일 ---------------      2023년 12월 31일 오후 9:05
[Ann] [오후 9:05] text                                      2023년 12월 31일 오후 9:05, Ann : text
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from ...dataset_script.sources import Note
from ..files import File
from ..transcripts import Message, Reader, Transcript
from .message_texts import add_line, written_by_people
from .times import on_clock, parse_time

_CLOCK = r"(?P<before>오전|오후)? ?(?P<hour>\d{1,2}):(?P<minute>\d\d)(?: ?(?P<after>[AaPp][Mm]))?"
_DAY = (
    r"(?P<year>\d{4})(?:년|\.) ?(?P<month>\d{1,2})(?:월|\.) ?(?P<day>\d{1,2})(?:일|\.)"
    r"|(?P<english>[A-Z][a-z]{2,8} \d{1,2}, \d{4})"
)
DAY = re.compile(rf"-{{5,}} (?:[A-Z][a-z]+day, )?(?:{_DAY})(?: \w+)? -{{5,}}")
ON_COMPUTER = re.compile(rf"\[(?P<name>[^\]\n]+)\] \[{_CLOCK}\] (?P<text>.*)")
ON_TELEPHONE = re.compile(rf"(?:{_DAY}),? (?:at )?{_CLOCK}(?:, (?P<said>.*))?")
NAMED = re.compile(r"(?P<name>[^:\n]{1,60}?) : (?P<text>.*)")
MEDIA = re.compile(
    r"(?:사진|동영상|이모티콘|음성메시지|photos?|videos?|emoticons?|voice ?message)(?: \d+(?:장)?)?"
    r"|(?:파일|file): .*|[\w-]+\.(?:jpe?g|png|gif|mp4|pdf)",
    re.I,
)
NOTICE = re.compile(
    r".+(들어왔습니다|나갔습니다|초대했습니다|초대하였습니다|내보냈습니다)\."
    r"|.+ (joined|left|(was|has been) removed from) (this|the) (chatroom|group)\."
    r"|.+ invited .+"
)
DELETED = re.compile(r"삭제된 메시지입니다\.?|This message was deleted\.?", re.I)
LINES = 40  # by which the form is recognised


def _recognises(file: File) -> bool:
    lines = file.head.split("\n")[:LINES]
    is_on_computer = any(map(DAY.match, lines)) and any(map(ON_COMPUTER.match, lines))
    said = (match["said"] for match in map(ON_TELEPHONE.match, lines) if match)
    return is_on_computer or any(NAMED.match(text) for text in said if text)


def _read(file: File, note: Note) -> Iterator[Transcript]:
    day, said = None, []
    for number, line in file.lines(note):
        line = line.lstrip("\ufeff")
        if match := DAY.match(line):
            day = _day(match)
        elif match := ON_COMPUTER.match(line):
            said.append((number, Message(match["name"], match["text"], on_clock(day, match))))
        elif match := ON_TELEPHONE.match(line):
            named = NAMED.match(match["said"] or "")
            if named:
                when = on_clock(_day(match), match)
                said.append((number, Message(named["name"], named["text"], when)))
            elif match["said"]:  # who has come or gone
                note("system_line", number)
        elif NOTICE.fullmatch(line.strip()):
            note("system_line", number)
        else:
            add_line(said, line, number, note)
    yield Transcript("1", written_by_people(said, _kind_of, note))


def _kind_of(text: str) -> str | None:
    if MEDIA.fullmatch(text):
        return "media"
    return "deleted_message" if DELETED.fullmatch(text) else None


def _day(match: re.Match) -> datetime | None:
    if match["english"]:
        return parse_time(match["english"])
    try:
        return datetime(*(int(match[part]) for part in ("year", "month", "day")))
    except ValueError:
        return None


READER = Reader("KakaoTalk chat", _recognises, _read)
