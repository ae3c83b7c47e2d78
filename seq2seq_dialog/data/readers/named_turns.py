"""Plain transcripts of interviews, meetings and chats: `Name: text`, a turn a line."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...dataset_script.sources import Note
from ..files import File
from ..transcripts import Message, Reader, Transcript
from .times import parse_iso_time

_DATED = r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?Z?"
_TIME = rf"[\[(](?:{_DATED}|\d[\d:.,]*(?: ?[AaPp]\.?[Mm]\.?)?)[\])]"
# A program's log has no turns: `2024-01-02 10:32:11 root INFO: started`.
_NO_LEVEL = r"(?![^:：]*\b(?:TRACE|DEBUG|INFO|NOTICE|WARN(?:ING)?|ERROR|CRITICAL|FATAL)\b)"
_WORD = r"[\w.,'’()&#/-]+"
_NAME = rf"(?P<name>(?=[^\W\d_]){_WORD}(?: {_WORD}){{0,3}}?)"  # four words at most
NAME = re.compile(_NAME)
# `Ann: hi`, `Speaker 1 (00:12): hi`, `[00:12] Ann: hi`, `2024-01-02 10:32:11 Ann: hi`, `安：你好`.
NAMED = re.compile(
    rf"(?:(?:{_TIME}|{_DATED} ) *(?! ){_NO_LEVEL})?{_NAME}(?: *{_TIME})? ?"
    r"(?::(?=\s|$)|：)\s*(?P<text>.*)"
)
BOLD = re.compile(r"\*\*([^*]+?)(:\*\*|\*\*:)")  # a name in Markdown
DATED = re.compile(_DATED)
RULE = re.compile(r"[-=_*~—– ]{3,}")  # between conversations
MEASURED = re.compile(r".*[:：]\s*[+-]?\d[\d.,:]* ?\S{0,3}")  # `temperature: 20.5 °C`
BRACKETED = re.compile(r"\[[^\]]*\]|\([^)]*\)")
LINES = 400  # by which the form is recognised


def _recognises(file: File) -> bool:
    """Most lines begin with a name, and a few names come again and again, in turns."""
    blocks = _blocks(file)
    names = [[name for line in block if (name := _name(line))] for block in blocks]
    turns = [name for block in names for name in block]
    measured = sum(MEASURED.fullmatch(line) is not None for block in blocks for line in block)
    if 2 * (len(turns) - measured) <= sum(map(len, blocks)) or "__eou__" in file.head:
        return False
    if not take_turns(turns):
        return False
    # Records of `field: value` have names as well, more than two, and each once in a block.
    in_blocks = [block for block in names if block] if _has_blocks(blocks) else [turns]
    repeating = [block for block in in_blocks if 2 * len(set(block)) <= len(block)]
    return len(set(turns)) == 2 or 2 * len(repeating) > len(in_blocks)


def take_turns(names: list[str]) -> bool:
    """Whether those who speak come again, after others, at least each fourth time."""
    returns = sum(
        names[i] in names[: i - 1] and names[i] != names[i - 1] for i in range(2, len(names))
    )
    return 4 * returns >= len(names)


def are_names(cells: list[str]) -> bool:
    """Whether the first cells of lines or lists say who speaks: few names, again and again."""
    distinct = len(set(cells))
    few = 2 * distinct <= len(cells) and (distinct == 2 or 4 * distinct <= len(cells))
    return few and may_be_names(cells) and take_turns(cells)


def may_be_names(cells: list[str]) -> bool:
    """Whether most cells look like a name or a number of who speaks."""
    named = (cell.isdecimal() or NAME.fullmatch(cell) is not None for cell in cells)
    return 2 * sum(named) > len(cells)


def _read(file: File, note: Note) -> Iterator[Transcript]:
    """Read conversations, which a rule parts or, unless each turn has one, a blank line."""
    blank_line_parts = _has_blocks(_blocks(file))
    turns: list[tuple[int, Message]] = []
    for number, line in file.lines(note):
        line = _without_bold(line.strip())
        if RULE.fullmatch(line) or (not line and blank_line_parts):
            if turns:
                yield _transcript(turns, note)
            turns = []
        elif BRACKETED.fullmatch(line):
            note("sound_description", number)
        elif match := NAMED.fullmatch(line):
            time = DATED.search(line, 0, match.start("text"))
            message = Message(match["name"], match["text"], parse_iso_time(time and time[0]))
            turns.append((number, message))
        elif line and turns:  # the turn goes on
            begun, message = turns[-1]
            turns[-1] = begun, message._replace(text=f"{message.text}\n{line}".strip())
        elif line:
            note("system_line", number)
    if turns:
        yield _transcript(turns, note)


def _transcript(turns: list[tuple[int, Message]], note: Note) -> Transcript:
    """Make a transcript of turns and the numbers of their lines."""
    for number, message in turns:
        if not message.text:
            note("empty_utterance", number)
    return Transcript(str(turns[0][0]), [message for _, message in turns if message.text])


def _name(line: str) -> str | None:
    match = NAMED.fullmatch(_without_bold(line))
    return match["name"] if match else None


def _without_bold(line: str) -> str:
    """The line with its name as plain text."""
    bold = BOLD.match(line)
    return line if bold is None else f"{bold[1]}:{line[bold.end() :]}"


def _blocks(file: File) -> list[list[str]]:
    """The first lines, in blocks between which there are blank lines or rules."""
    blocks: list[list[str]] = [[]]
    for line in file.head.split("\n")[:LINES]:
        if not line.strip() or RULE.fullmatch(line.strip()):
            blocks.append([])
        else:
            blocks[-1].append(line.rstrip())
    return [block for block in blocks if block]


def _has_blocks(blocks: list[list[str]]) -> bool:
    """Whether the blocks are conversations, rather than single turns with blank lines between."""
    with_turns = [block for block in blocks if sum(_name(line) is not None for line in block) > 1]
    return 2 * len(with_turns) > len(blocks)


READER = Reader("transcript (Name: text)", _recognises, _read)
