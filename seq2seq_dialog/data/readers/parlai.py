"""Text of ParlAI: numbered lines, as Persona-Chat and bAbI have them, and lines of named fields.

Numbered lines restart at 1 with each dialogue; before a tab is what is said, after it the reply:

    1 your persona: i keep bees .
    2 hi , how are you ?	busy , it is harvest time .		i am fine .|busy , it is harvest time .

A line of named fields has `text:`, `labels:` (or `eval_labels:`) and, at the end of a dialogue,
`episode_done:True`, with tabs between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from ...dataset_script.sources import Note
from ...errors import UsageError
from ..files import File
from ..transcripts import ASSISTANT, USER, Message, Reader, Transcript

NUMBERED = re.compile(r"(\d+) (.*)")
FIELDS = re.compile(r"(?:\w+:[^\t\n]*\t)*?(?:text|labels|eval_labels):")
LABELS = re.compile(r"(?:^|\t)(?:eval_)?labels:")
SILENCE = {"__SILENCE__", "<SILENCE>"}
OWN, PARTNERS = "your persona:", "partner's persona:"
LINES = 50  # by which numbered lines are recognised


class Exchange(NamedTuple):
    """A line: what is said, and the reply that is to be learnt."""

    line: int
    begins: bool  # a dialogue
    text: str
    reply: str | None  # None: the line says something about the dialogue


def _recognises(file: File) -> bool:
    """By the form of the first line, or by the numbers and tabs of the first lines."""
    lines = [line for line in file.head.splitlines()[:LINES] if line.strip()]
    if lines and FIELDS.match(lines[0]) and LABELS.search(lines[0]):
        return True
    matches = list(filter(None, map(NUMBERED.fullmatch, lines)))
    if not matches or 4 * len(matches) < 3 * len(lines):
        return False
    numbers = [int(match[1]) for match in matches]
    counts_up = all(b in (a + 1, 1) for a, b in pairwise(numbers))
    return numbers[0] == 1 and counts_up and any("\t" in match[2] for match in matches)


def _read(file: File, note: Note) -> Iterator[Transcript]:
    """Read dialogues; the replies, and the persona of who gives them, are to be learnt."""
    read_line = _read_fields if FIELDS.match(file.head.lstrip()) else _read_numbered
    dialogue: list[Exchange] = []
    for exchange in read_line(file, note):
        if exchange.begins and dialogue:
            yield _transcript(dialogue, note)
            dialogue = []
        dialogue.append(exchange)
    if dialogue:
        yield _transcript(dialogue, note)


def _transcript(dialogue: list[Exchange], note: Note) -> Transcript:
    """Take personas out of what is said; the partner's is something that the learner knows."""
    messages, persona, knowledge = [], [], []
    for exchange in dialogue:
        said = []
        for part in exchange.text.split("\n"):
            if part.startswith(OWN):
                persona.append(part.removeprefix(OWN).strip())
            elif part.startswith(PARTNERS):
                knowledge.append(part)
            elif exchange.reply is None:
                note("system_line", exchange.line)
            else:
                said.append(part)
        if exchange.reply is not None:
            for speaker, text in ((USER, "\n".join(said)), (ASSISTANT, exchange.reply)):
                if text.strip() and text not in SILENCE:
                    messages.append(Message(speaker, text.strip()))
                else:
                    note("empty_utterance", exchange.line)
    return Transcript(
        str(dialogue[0].line),
        messages,
        learnt=ASSISTANT,
        persona=" ".join(persona),
        knowledge=" ".join(knowledge),
    )


def _read_numbered(file: File, note: Note) -> Iterator[Exchange]:
    """Read lines that begin with their number in the dialogue."""
    last = 0
    for number, line in file.lines(note):
        if not line.strip():
            continue
        match = NUMBERED.fullmatch(line)
        if match is None:
            raise UsageError(
                f"{file}, line {number} begins with {line[:20]!r}, but each line has to begin with "
                "its number in the dialogue and a space. Mend that line, or take it out."
            )
        text, *others = match[2].split("\t")
        yield Exchange(
            number, int(match[1]) <= last, _unescape(text), _label(others[0]) if others else None
        )
        last = int(match[1])


def _read_fields(file: File, note: Note) -> Iterator[Exchange]:
    """Read lines of named fields."""
    begins = True
    for number, line in file.lines(note):
        if not line.strip():
            continue
        if not FIELDS.match(line):
            raise UsageError(
                f"{file}, line {number} begins with {line[:20]!r}, but each line has to have "
                "text: and labels:, with a tab between them. Mend that line, or take it out."
            )
        fields = dict(field.partition(":")[::2] for field in line.split("\t"))
        label = fields.get("labels") or fields.get("eval_labels") or ""
        yield Exchange(number, begins, _unescape(fields.get("text", "")), _label(label))
        begins = fields.get("episode_done", "").strip().lower() == "true"


def _label(labels: str) -> str:
    """The first of several replies that are right."""
    return _unescape(labels.split("|")[0])


def _unescape(text: str) -> str:
    return text.replace("\\n", "\n").replace("__PIPE__", "|")


READER = Reader("ParlAI", _recognises, _read)
