"""The verb `convert`: dialogues of any form to dialogue text or to JSON Lines."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from rich.console import Console

from ..command_line import expand_path
from ..dataset_script import dialogues as text_form
from ..dataset_script.dialogues import END, Dialogue, Note, scan
from ..dataset_script.sources import TextFile, find_sources
from ..errors import UsageError
from ..run_folder import check_writable
from ..settings import DataArguments
from .corpus import print_reading
from .formats import describe, read_talks_of, recognise
from .rows import messages_of_a_setting
from .turns import Talk, anonymous_dialogue, as_dialogue

FORMS = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")


def convert(data: str, output: str, **options) -> None:
    """Write the dialogues of a source to `output`; its name ends in one of `FORMS`.

    Dialogue text holds what is said alone. JSON Lines hold who says it, too, and what stands before
    a dialogue. A source with splits becomes a file each: talk.jsonl is talk_train.jsonl, ...
    """
    stem, form = _split_name(output)
    args = DataArguments(data=data, detokenize=False, **options)
    with messages_of_a_setting():
        by_split = readers(expand_path(data), args)
        problems, written = {}, []
        for split, (read, description) in by_split.items():
            path = Path(f"{stem}_{split}{form}" if len(by_split) > 1 else output)
            check_writable(path)
            if path.exists():
                raise UsageError(f"{str(path)!r} is there already: choose another name.")
            problems[split] = _write(read, path, form, split) | {"read_as": description}
            written.append(str(path))
    print_reading(problems, Console())
    print(f"Written: {', '.join(written)}")


def _split_name(output: str) -> tuple[str, str]:
    for form in FORMS:
        if output.endswith(form) and len(Path(output).name) > len(form):
            return output.removesuffix(form), form
    raise UsageError(
        f"The file to write is {output!r}, but its name has to end in {', '.join(FORMS)}: dialogue "
        "text or JSON Lines. Name it, for example, talk.jsonl."
    )


def readers(path: str, args: DataArguments) -> dict:
    """Give for each split how its dialogues are read, and as what."""
    source = recognise(path, args)
    if source is not None:
        return {
            split: (partial(read_talks_of, files, args), describe(files))
            for split, files in source.files.items()
        }
    return {
        text.split or "all": (partial(_read_text, text, args), f"dialogue text, {text.name}")
        for text in find_sources(path)
    }


def _read_text(text: TextFile, args: DataArguments, note: Note) -> Iterator[Dialogue]:
    dialogues = text_form.read(text, note)
    yield from map(anonymous_dialogue, dialogues) if args.anonymize else dialogues


def _write(read, path: Path, form: str, split: str) -> dict:
    """Write the dialogues of a split; the file is there once all of them are."""
    new = path.with_name(f"{path.name}~")
    opened = partial(gzip.open, mode="wt") if form.endswith(".gz") else partial(open, mode="w")
    write_line = _as_text if form.startswith(".txt") else _as_json
    with opened(new, encoding="utf-8", newline="\n") as file:

        def written(note: Note) -> Iterator[Dialogue]:
            for talk in read(note):
                if _size(talk):
                    file.write(f"{write_line(talk)}\n")
                yield as_dialogue(talk)

        counts = scan(written, split, Counter())
    os.replace(new, path)
    return counts


def _size(talk: Talk | Dialogue) -> int:
    return len(talk.utterances if isinstance(talk, Dialogue) else talk.turns)


def _as_text(talk: Talk | Dialogue) -> str:
    said: Iterable[str] = as_dialogue(talk).utterances
    return " ".join(f"{' '.join(text.split())} {END}" for text in said)


def _as_json(talk: Talk | Dialogue) -> str:
    row: dict = {"conversation_id": talk.dialogue_id}
    if isinstance(talk, Dialogue) or any(turn.speaker is None for turn in talk.turns):
        row["dialog"] = as_dialogue(talk).utterances
    else:
        row["messages"] = [
            {"role": talk.role(turn.speaker), "content": turn.text} for turn in talk.turns
        ]
    if isinstance(talk, Talk):
        before = talk.transcript
        texts = {
            "system": before.instruction,
            "persona": before.persona,
            "knowledge": before.knowledge,
        }
        row |= {name: text for name, text in texts.items() if text}
    return json.dumps(row, ensure_ascii=False)
