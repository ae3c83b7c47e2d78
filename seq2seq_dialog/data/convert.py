"""The verb `convert`: dialogues of any form to dialogue text or to JSON Lines."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from rich.console import Console

from ..command_line import expand_path
from ..dataset_script.dialogues import END, MOST_TURNS, Dialogue, Note, Pair, scan
from ..dataset_script.sources import MAX_LINE
from ..errors import UsageError
from ..portable.context import BACKGROUND, count_background
from ..run_folder import check_writable
from ..settings import DataArguments
from .corpus import print_reading
from .files import messages_of_a_setting
from .formats import readers
from .turns import Talk, as_dialogue, as_talk

FORMS = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")


def convert(data: str, output: str, **options) -> None:
    """Write the dialogues of a source to `output`; its name ends in one of `FORMS`.

    Dialogue text holds what is said alone. JSON Lines hold who says it, too, and what stands before
    a dialogue; of a table of pairs, the pairs. What is too long to be read back is cut. A source
    with splits becomes a file each: talk.jsonl is talk_train.jsonl, ...
    """
    stem, form = _split_name(output)
    args = DataArguments(data=data, detokenize=False, **options)
    with messages_of_a_setting():
        by_split = readers(expand_path(data), args)
        names = {split: f"{stem}_{split}{form}" for split in by_split}
        paths = {split: Path(names[split] if len(by_split) > 1 else output) for split in by_split}
        for path in paths.values():  # before any is written
            check_writable(path)
            if path.exists():
                raise UsageError(f"{str(path)!r} is there already: choose another name.")
        problems = {
            split: _write(read, paths[split], form, split) | {"read_as": description}
            for split, (read, description) in by_split.items()
        }
    print_reading(problems, Console(markup=False, emoji=False, highlight=False))
    print(f"Written: {', '.join(map(str, paths.values()))}")


def _split_name(output: str) -> tuple[str, str]:
    for form in FORMS:
        if output.endswith(form) and len(Path(output).name) > len(form):
            return output.removesuffix(form), form
    raise UsageError(
        f"The file to write is {output!r}, but its name has to end in {', '.join(FORMS)}: dialogue "
        "text or JSON Lines. Name it, for example, talk.jsonl."
    )


def _write(read, path: Path, form: str, split: str) -> dict:
    """Write the dialogues of a split; the file is there once all of them are."""
    new = path.with_name(f"{path.name}~")
    opened = partial(gzip.open, mode="wt") if form.endswith(".gz") else partial(open, mode="w")
    lines_of = _text_lines if form.startswith(".txt") else _json_lines
    try:
        with opened(new, encoding="utf-8", newline="\n") as file:

            def written(note: Note) -> Iterator[Dialogue]:
                for talk in read(note):
                    file.writelines(f"{line}\n" for line in lines_of(talk))
                    yield as_dialogue(talk)

            counts = scan(written, split, Counter())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)  # where the source is refused
    return counts


def _text_lines(talk: Talk | Dialogue) -> Iterable[str]:
    return _lines(talk if isinstance(talk, Talk) else as_talk(talk), _as_text)


def _json_lines(talk: Talk | Dialogue) -> Iterable[str]:
    if isinstance(talk, Talk):
        return _lines(talk, _as_json)
    return [_pair_as_json(talk.dialogue_id, pair) for pair in talk.pairs]


def _lines(talk: Talk, write: Callable[[Talk], str]) -> list[str]:
    """Write a dialogue as a line, or as several where one could not be read back."""
    count = len(talk.turns)
    parts = -(-count // MOST_TURNS)
    while True:
        size = -(-count // parts) if parts else 1
        pieces = [
            talk._replace(turns=talk.turns[begin : begin + size]) for begin in range(0, count, size)
        ]
        if len(pieces) > 1:
            pieces = [
                piece._replace(dialogue_id=f"{talk.dialogue_id}:{number}")
                for number, piece in enumerate(pieces, 1)
            ]
        lines = [write(piece) for piece in pieces]
        if size < 4 or all(len(line) < MAX_LINE for line in lines):
            return lines
        parts *= 2


def _as_text(talk: Talk) -> str:
    return " ".join(f"{' '.join(turn.text.split())} {END}" for turn in talk.turns)


def _as_json(talk: Talk) -> str:
    row: dict = {"conversation_id": talk.dialogue_id}
    if all(turn.speaker is None for turn in talk.turns):
        row["dialog"] = [turn.text for turn in talk.turns]
    else:
        row["messages"] = [
            {"role": talk.role(turn.speaker), "content": turn.text} for turn in talk.turns
        ]
    before = talk.transcript
    texts = {
        "system": before.instruction,
        "persona": before.persona,
        "knowledge": before.knowledge,
    }
    row |= {name: text for name, text in texts.items() if text}
    return json.dumps(row, ensure_ascii=False)


def _pair_as_json(name: str, pair: Pair) -> str:
    count = count_background(pair.context)
    row = {"conversation_id": name, "context": pair.context[count:], "response": pair.response}
    for turn in pair.context[:count]:
        role = next(role for role, begins in BACKGROUND.items() if turn.startswith(begins))
        row[role] = turn.removeprefix(BACKGROUND[role])
    return json.dumps(row | pair.labels, ensure_ascii=False)
