"""Subtitles, SubRip and WebVTT: what is said when, and seldom by whom."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from ...dataset_script.sources import Note
from ...errors import UsageError
from ..files import File
from ..transcripts import Message, Reader, Transcript
from .named_turns import BRACKETED, NAMED

_CLOCK = r"(?:(\d{1,3}):)?(\d?\d):(\d?\d)(?:[.,](\d{1,3}))?"
TIMES = re.compile(rf"{_CLOCK}\s*-->\s*{_CLOCK}(?:\s.*)?")
SUBRIP = re.compile(rf"\s*(?:\d+\s*\n\s*)?{_CLOCK}\s*-->")
WEBVTT = re.compile(r"WEBVTT(?:\s|$)")
COMMENT = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s|$)")  # of WebVTT
TAGS = re.compile(r"</?(?:[bisu]|font|c|lang|ruby|rt)\b[^>]*>|<[\d:.]+>|</v>|\{\\[^}]*\}", re.I)
WORD_TIME = re.compile(r"<\d\d:\d\d[\d:.]*>")  # in captions that roll
VOICE = re.compile(r"<v[^ >]* (?P<name>[^>]+)>\s*(?P<text>.*)")
SONG = re.compile(r".*[♪♫].*")
DASH = re.compile(r"[-–]\s*(?=[^\s-])")  # a change of speaker
_WORD = r"[A-Z][A-Z0-9.'#-]+"
LABEL = re.compile(rf"{_WORD}(?: (?:{_WORD}|#?\d+)){{,2}} ?: +(?=\S)")  # who is not in the picture
CREDITS = re.compile(r"opensubtitles|(?:subtitle|caption|sync)\w*\b.* by\b|www\.\w|https?://", re.I)
END = re.compile(r"[.?!…。？！][\"'”’»)\]]*$")
DAY = datetime(1, 1, 1)  # the times of the messages count from its midnight on
PAUSE = timedelta(seconds=2)  # after which no sentence goes on


class Cue(NamedTuple):
    """Lines that are shown together."""

    line: int
    start: timedelta
    end: timedelta
    text: list[str]


class Part(NamedTuple):
    """What one person says within a cue."""

    cue: Cue
    speaker: str | None
    is_new: bool  # another person than before speaks
    text: str


def _recognises(file: File) -> bool:
    """By WebVTT's first word, or by a line of times, which a number may precede."""
    head = file.head.replace("\r\n", "\n")
    return bool(WEBVTT.match(head) or SUBRIP.match(head))


def _read(file: File, note: Note) -> Iterator[Transcript]:
    """Read the whole as one dialogue; a sentence that is spread over cues is put together."""
    cues = list(_cues(file, note))
    if WORD_TIME.search(file.head) or _roll(cues):
        cues = list(_unrolled(cues))
    parts = [part for cue in cues for part in _parts(cue, note)]
    parts = list(_with_names(parts))
    # Without any full stops, in Chinese for one, there is no telling what goes on.
    has_ends = 4 * sum(END.search(part.text) is not None for part in parts) > len(parts)
    messages: list[Message] = []
    last = None
    for part in parts:
        if last and has_ends and _goes_on(last, part):
            messages[-1] = messages[-1]._replace(text=f"{messages[-1].text} {part.text}")
        else:
            messages.append(Message(part.speaker, part.text, DAY + part.cue.start))
        last = part
    yield Transcript("1", messages)


def _with_names(parts: list[Part]) -> Iterator[Part]:
    """Take names before the text for speakers in a meeting, where most parts have one.

    A film names only who is not in the picture: there it says that another person speaks.
    """
    named = [NAMED.fullmatch(part.text) for part in parts]
    is_meeting = 2 * len(list(filter(None, named))) > len(parts)
    speaker = None
    for part, match in zip(parts, named, strict=True):
        if is_meeting:
            speaker, text = (match["name"], match["text"]) if match else (speaker, part.text)
            if text:
                yield part._replace(speaker=speaker, text=text)
        elif label := LABEL.match(part.text):
            yield part._replace(is_new=True, text=part.text[label.end() :])
        else:
            yield part


def _goes_on(last: Part, part: Part) -> bool:
    """Whether a part goes on with the sentence before it."""
    if part.is_new or part.speaker != last.speaker or part.cue.start - last.cue.end > PAUSE:
        return False
    return not END.search(last.text) or part.text.startswith(("...", "…"))


def _cues(file: File, note: Note) -> Iterator[Cue]:
    """Yield the cues; neither blank lines between them nor numbers before them are relied on."""
    cue, last, skips = None, "", False
    for number, line in file.lines(note):
        line = line.strip()
        if "-->" in line:
            match = TIMES.fullmatch(line)
            if match is None:
                raise UsageError(
                    f"{file}, line {number}: {line!r:.80} has to be two times, such as "
                    "00:01:02,500 --> 00:01:04,000. Mend that line, or take its subtitle out."
                )
            if cue:
                yield _without_name(cue)
            cue = Cue(number, _offset(match.groups()[:4]), _offset(match.groups()[4:]), [])
        elif cue:
            skips = bool(line) and (skips or (not last and COMMENT.match(line) is not None))
            if not skips:
                cue.text.append(line)
        last = line
    if cue:
        yield cue


def _roll(cues: list[Cue]) -> bool:
    """Whether most cues show a line of the cue before again."""
    shown = [{line for line in _shown(cue) if line} for cue in cues]
    return 2 * sum(not a.isdisjoint(b) for a, b in pairwise(shown)) > len(cues) - 1


def _shown(cue: Cue) -> list[str]:
    return [TAGS.sub("", line).strip() for line in cue.text]


def _unrolled(cues: list[Cue]) -> Iterator[Cue]:
    """Cues without the lines that the cue before showed already."""
    shown: list[str] = []
    for cue in cues:
        text = _shown(cue)
        yield cue._replace(text=[line for line in text if line not in shown])
        shown = text


def _offset(clock: tuple[str | None, ...]) -> timedelta:
    hours, minutes, seconds, fraction = clock
    return timedelta(
        hours=int(hours or 0),
        minutes=int(minutes),
        seconds=int(seconds),
        milliseconds=int((fraction or "0").ljust(3, "0")),
    )


def _without_name(cue: Cue) -> Cue:
    """A cue without the line that numbers or names the next one."""
    *before, last = cue.text or [""]
    is_name = last.isdigit() or (last and before[-1:] == [""])
    return cue._replace(text=before) if is_name else cue


def _parts(cue: Cue, note: Note) -> Iterator[Part]:
    """Yield what each person says, without formatting, sounds, songs and credits."""
    shown = html.unescape(TAGS.sub("", "\n".join(cue.text)))
    spoken = BRACKETED.sub(" ", SONG.sub("", shown))
    if spoken != shown:
        note("sound_description", cue.line)
    parts: list[Part] = []
    for line in map(str.strip, spoken.split("\n")):
        voice, dash = VOICE.fullmatch(line), DASH.match(line)
        if voice:
            parts.append(Part(cue, voice["name"].strip(), False, voice["text"]))
        elif dash or not parts or LABEL.match(line):
            parts.append(Part(cue, None, bool(dash), line[dash.end() :] if dash else line))
        else:
            parts[-1] = parts[-1]._replace(text=f"{parts[-1].text} {line}")
    for part in parts:
        text = " ".join(part.text.split())
        if CREDITS.search(text):
            note("system_line", cue.line)
        elif text:
            yield part._replace(text=text)


READER = Reader("subtitles", _recognises, _read, pause=timedelta(seconds=20))
