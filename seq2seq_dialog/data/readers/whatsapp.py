"""A chat that WhatsApp has exported as text, in the forms of Android and of iOS.

    31/12/2023, 21:05 - Ann: text          [31.12.23, 21:05:33] Ann: text

Day, month, year and the half of the day stand as the telephone is set, in many languages. Of what
WhatsApp itself says, English, German, Spanish, French, Italian and Portuguese are known. A
picture's caption is read; the picture is left out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import date, datetime, time
from itertools import pairwise
from typing import NamedTuple

from ...dataset_script.sources import Note
from ...errors import UsageError
from ..files import File
from ..transcripts import Message, Reader, Transcript

MARKS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # of direction
NO_MARKS = str.maketrans("", "", MARKS)
ITS_OWN = "\u200e"  # begins what WhatsApp itself says, on iOS always
# The halves of the day, without dots and spaces. Portuguese "em" before a time is no half, so the
# Swedish one is not among them.
BEFORE_NOON = (
    *("am", "πμ", "проб", "дп", "pg", "sa", "öö", "ص", "قظ"),
    *("上午", "凌晨", "清晨", "早上", "午夜", "午前", "오전"),
)
AFTER_NOON = (
    *("pm", "μμ", "слоб", "пп", "ptg", "ch", "ös", "م", "بظ"),
    *("下午", "中午", "晚上", "午後", "오후"),
)
_HALF = "|".join(r"\.?\s?".join(half) + r"\.?" for half in BEFORE_NOON + AFTER_NOON)
_MARK = f"[{MARKS}]?"
_DATE = (
    rf"(?P<date>\d{{1,4}}{_MARK}(?P<separator>[./-])[\s{MARKS}]?"
    rf"\d{{1,2}}{_MARK}(?P=separator)[\s{MARKS}]?\d{{1,4}}"
    r"|\d{4}[年년]\s?\d{1,2}[月월]\s?\d{1,2}[日일])(?:\.|\sг\.)?"
)
_BETWEEN = (
    rf"(?:[,،]?{_MARK}\s|(?<=日))"
    r"(?:(?:à|às|a las?|a la\(s\)|um|klo|kl\.)\s)?"  # 31/12/2023 à 21:05, 31/12/23 a las 21:05
    r"(?P<words>(?:[^\W\d_]{1,20}\.?\s?){0,2}?)"  # the same in other languages
    rf"(?:(?<![^\W\d_])(?P<before>{_HALF})\s?)?"
)
_TIME = (
    r"(?P<hour>\d{1,2})[:.](?P<minute>\d\d)(?:[:.](?P<second>\d\d))?"
    rf"(?:\sч\.)?(?:\s?{_MARK}(?P<after>{_HALF}))?{_MARK}"
)
HEADER = re.compile(
    rf"(?P<bracket>\[)?{_MARK}{_DATE}{_BETWEEN}{_TIME}(?(bracket)\]\s?|\s[-–]\s)(?P<said>.*)", re.I
)
NAME = re.compile(r"(?P<name>.+?):(?:\s|$)")
QUOTES = re.compile('["“”„«»]')
OTHER_LOGS = ("<", "*", "-!-")  # follow the time in logs of IRC
# Where year, month and day stand. Of several that fit a chat as well, the first one is taken.
ORDERS = {
    "day/month/year": (2, 1, 0),
    "month/day/year": (2, 0, 1),
    "year/month/day": (0, 1, 2),
}
_WHAT = (
    "image|imagen|imagem|immagine|bild|v[ií]d[eé]o|[aá]udio|gif|sticker|figurinha|document[oe]?|"
    "dokument|contact card|kontaktkarte|tarjeta de contacto|fiche contact|scheda contatto|"
    "contacto|cartão d[eo] contato|video note|videonotiz|ficheiro de áudio"
)
_LEFT_OUT = (
    "omitted|weggelassen|ausgelassen|ausgeschlossen|omitid[oa]|omise?|absente?|manquante?|retiré|"
    "omess[oa]|esclus[oa]|non inclus[oa]|ocultad[oa]|ocult[oa]|não revelad[oa]"
)
_ATTACHED = (
    "file attached|Datei angehängt|archivo adjunto|fichier joint|file allegato|arquivo anexado|"
    "ficheiro anexado"
)
MEDIA = re.compile(
    # Android: words in angle brackets in any language, so no single word of ASCII such as <br>.
    r"\A<[^<>\n]*[^\x21-\x7e\n][^<>\n]*>$"
    rf"|\A{ITS_OWN}?[^\n]+\.\w{{2,5}} \((?:{_ATTACHED})\)$"
    rf"|\A{ITS_OWN}?[A-Z]{{3}}-\d{{8}}-WA\d{{4}}\.\w{{2,5}} \([^()\n]+\)$"  # in any language
    # iOS, whose documents have a name and a number of pages before that.
    rf"|{ITS_OWN}?<[^<>\n:]+:[^<>\n/]+\.\w{{2,5}}>\Z"
    rf"|\A(?:.*[•{ITS_OWN}].*?)?(?:{_WHAT}) (?:{_LEFT_OUT})\Z"
    r"|\A[^\n:]+: https://maps\.google\.com/\?q=\S+\Z"
    r"|\A(?-i:null|live location shared)\Z",  # null is a picture to be seen once
    re.I | re.M,
)
_EDITED = (
    "this message was edited|diese nachricht wurde bearbeitet|se editó este mensaje|"
    "ce message a été modifié|(?:questo )?messaggio (?:è stato )?modificato|"
    "(?:esta |essa )?mensagem (?:foi )?editada"
)
EDITED = re.compile(rf"\s*(?:{ITS_OWN}<[^<>\n:]+>|<(?:{_EDITED})\.?>)\s*\Z", re.I)
DELETED = re.compile(
    r"(?:(?:this message was|you) deleted(?: this message)?(?: by admin .+)?|"
    r"diese nachricht wurde (?:von .+ )?gelöscht|du hast diese nachricht gelöscht|"
    r"se eliminó este mensaje|eliminaste este mensaje|este mensaje fue eliminado|"
    r"ce message a été supprimé|vous avez supprimé ce message|"
    r"questo messaggio è stato eliminato|hai eliminato questo messaggio|"
    r"(?:esta |essa )?mensagem(?: foi)? apagada|(?:você )?apag(?:ou|aste) esta mensagem)\.?",
    re.I,
)


class _Entry(NamedTuple):
    """What stands after one date and time."""

    line: int
    date: tuple[int, int, int]  # as it is written
    time: time
    words: str  # before the time, where no half of the day is known
    said: list[str]  # its lines, the first with the name


def _recognises(file: File) -> bool:
    lines = [line.lstrip(MARKS) for line in file.head.split("\n") if line.strip()]
    headers = list(map(HEADER.match, lines))
    if not headers or not headers[0]:
        return False
    said = [header["said"] for header in headers if header]
    return any(map(NAME.match, said)) and not any(text.startswith(OTHER_LOGS) for text in said)


def _read(file: File, note: Note) -> Iterator[Transcript]:
    entries = _entries(file, note)
    if not entries:
        raise UsageError(
            f"{file} has no message from line 1 on, but each has to begin like '31/12/2023, 21:05 "
            "- Ann: ' or '[31.12.23, 21:05:33] Ann: '. Export the chat again, or leave it out."
        )
    _check_halves(entries, file)
    long_names = _names_with_colons(entries)
    messages = []
    for entry, when in zip(entries, _times(entries, file), strict=True):
        text = "\n".join(entry.said)
        name = _name(text, long_names)
        if name is None:
            note("system_line", entry.line)
            continue
        kind, said = _classify(text[len(name) + 1 :])
        if kind:
            note(kind, entry.line)
        else:
            messages.append(Message(name.translate(NO_MARKS).lstrip("~").strip(), said, when))
    yield Transcript("1", messages)


def _entries(file: File, note: Note) -> list[_Entry]:
    """Cut the lines before each that begins as the first one does: others are parts of a text."""
    entries: list[_Entry] = []
    form = None
    for number, line in file.lines(note):
        header = HEADER.match(line.lstrip(MARKS))
        clock = header and _clock(header)
        if clock and form in (None, (header["bracket"], header["separator"])):
            form = header["bracket"], header["separator"]
            numbers = tuple(map(int, re.findall(r"\d+", header["date"])))
            words = "" if _half(header) else header["words"].strip().lower()
            entries.append(_Entry(number, numbers, clock, words, [header["said"]]))
        elif entries:
            entries[-1].said.append(line)
        elif line.strip():
            note("unreadable", number)
    return entries


def _half(header: re.Match) -> str:
    """The half of the day as the tables above write it; empty where there is none."""
    return re.sub(r"[\s.]", "", header["before"] or header["after"] or "").casefold()


def _clock(header: re.Match) -> time | None:
    hour = int(header["hour"])
    half = _half(header)
    if half and hour <= 12:
        hour = hour % 12 + (12 if half in AFTER_NOON else 0)
    try:
        return time(hour, int(header["minute"]), int(header["second"] or 0))
    except ValueError:
        return None


def _check_halves(entries: list[_Entry], file: File) -> None:
    """Refuse words that differ before the times of a 12-hour clock: halves that are not known."""
    with_words = [entry for entry in entries if entry.words]
    differ = len({entry.words for entry in entries}) > 1
    if differ and all(0 < entry.time.hour <= 12 for entry in with_words):
        raise UsageError(
            f"{file}, line {with_words[0].line}: {with_words[0].words!r} stands before the time, "
            "but is not known as a half of the day, which hours up to 12 need. Set the phone to a "
            "24-hour clock, and export the chat again."
        )


def _date(numbers: tuple[int, int, int], order: tuple[int, int, int]) -> date | None:
    year, month, day = (numbers[place] for place in order)
    try:
        return date(year + 2000 if year < 100 else year, month, day)
    except ValueError:
        return None


def _times(entries: list[_Entry], file: File) -> list[datetime]:
    """Find the one order of day, month and year by which time goes on, and in the least time."""
    first_lines: dict[tuple[int, int, int], int] = {}
    for entry in entries:
        first_lines.setdefault(entry.date, entry.line)
    possible = ORDERS
    for numbers, line in first_lines.items():
        before = possible
        possible = {name: order for name, order in before.items() if _date(numbers, order)}
        if not possible:
            raise UsageError(
                f"{file}, line {line}: the date {'/'.join(map(str, numbers))} is not "
                f"{' or '.join(before)}, but all dates of an export have the same order. Export "
                "the chat again, or make a file of each part that has an order of its own."
            )
    choices = []
    for order in possible.values():
        dates = {numbers: _date(numbers, order) for numbers in first_lines}
        choices.append([datetime.combine(dates[entry.date], entry.time) for entry in entries])
    return min(
        choices,
        key=lambda times: (sum(b < a for a, b in pairwise(times)), max(times) - min(times)),
    )


def _names_with_colons(entries: list[_Entry]) -> list[str]:
    """Find names such as 'Team: Ann': 'Team: ' always has a second colon behind a few words."""
    second_parts: defaultdict[str, Counter] = defaultdict(Counter)
    for entry in entries:
        first, *others = entry.said[0].split(": ", 2)
        second_parts[first][others[0] if len(others) > 1 else None] += 1
    return [
        f"{first}: {second}"
        for first, parts in second_parts.items()
        if None not in parts and min(parts.values()) > 2
        for second in parts
    ]


def _name(text: str, long_names: list[str]) -> str | None:
    for name in long_names:
        if text.startswith(f"{name}: "):
            return name
    match = NAME.match(text)
    # Nobody says: Ann changed the subject to "Dogs: news".
    return match["name"] if match and len(QUOTES.findall(match["name"])) % 2 == 0 else None


def _classify(text: str) -> tuple[str | None, str]:
    """Return the kind of what nobody said, or None, and the text as it was typed."""
    text = EDITED.sub("", text.strip())
    typed, pictures = MEDIA.subn("", text)
    typed = typed.translate(NO_MARKS).strip()
    if not typed:
        return "media" if pictures else "empty_utterance", ""
    if DELETED.fullmatch(typed):
        return "deleted_message", ""
    if text.startswith(ITS_OWN) and not pictures:
        return "system_line", ""
    return None, typed


READER = Reader("WhatsApp chat", _recognises, _read)
