"""The source that `data` names, whatever its form: found, recognised by content, read to rows."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import NamedTuple

from datasets import DatasetDict

from ..command_line import DATA_WAY_OUT
from ..dataset_script import dialogues as text_form
from ..dataset_script.dialogues import END, SPLITS, Dialogue, Note
from ..dataset_script.sources import SPLIT_NAMES, ZIP, TextFile, find_sources, is_zip, members_of
from ..errors import UsageError
from ..settings import DataArguments
from .anonymizing import anonymous_dialogue
from .files import File, messages_of_a_setting, whole_characters
from .readers import (
    chatgpt,
    chatterbot,
    convokit,
    cornell,
    discord,
    dstc,
    empathetic,
    irc,
    json_corpora,
    kakaotalk,
    line_chat,
    named_turns,
    parlai,
    slack,
    subtitles,
    table_files,
    table_forms,
    telegram,
    whatsapp,
)
from .splits import CODE, prepare, stream
from .transcripts import CHAT_PAUSE, Reader
from .turns import Talk, as_dialogue, as_talk, check_speakers, read_talks

# Each says no to the others' files. That of tables comes after them, and takes what is left.
READERS = tuple(
    module.READER
    for module in (
        *(whatsapp, telegram, line_chat, kakaotalk, discord, slack, irc, chatgpt),
        *(cornell, convokit, parlai, empathetic, json_corpora, dstc, chatterbot, subtitles),
        named_turns,
    )
)
FORMS = ", ".join(
    [
        "dialogue text (__eou__ after each utterance)",
        "tables (CSV, TSV, JSON, JSON Lines, Parquet, save_to_disk())",
        *(reader.name for reader in READERS),
    ]
)
# What people bring and nothing reads: how it begins, what it is, and the way out.
PACKED = {
    r"[^\0]+\0.{,400}ustar": (
        "is a tar archive, but of archives zip alone is read. Unpack it (tar -xf), and give the "
        "folder."
    ),
    r"\(\ufffd/\ufffd": (
        "is packed by Zstandard, but gz, bz2, xz and zip are read. Unpack it (zstd -d), and give "
        "what was in it."
    ),
}
WAYS_OUT = {
    r"\s*<!DOCTYPE html>.{,999}<title>Exported Data</title>.{,9999}class=\"page_wrap": (
        "is a page of Telegram Desktop, but of Telegram JSON is read. Export the chat again, with "
        "'Machine-readable JSON' as its format."
    ),
    r"PK\x03\x04.*xl/(?:workbook\.xml|worksheets/)": (
        "is an Excel workbook, but tables are read as text. Save its sheet as CSV UTF-8."
    ),
    r"=+\s+Guild: .*?\sChannel: .*?\s=+\s": (
        "is the plain text of DiscordChatExporter, but of Discord JSON and CSV are read. Export "
        "the channel again as JSON."
    ),
}
# A date, a time, a name and a colon, without what ends a cell of a table.
CHAT_LINE = re.compile(
    r"[\W_]{,3}(?:[^\W\d_]{3,9}\.? )?\d{1,4}\D{1,12}(?:\d{1,2}\D{1,4})?\d{1,4}\D{1,15}"
    r"\d{1,2}[:.]\d\d(?:[:.]\d\d)?,?[^:,;\t|\"]{2,60}:\s"
)
CHAT_LINES = 10  # among which one is looked for


class Recognised(NamedTuple):
    """A file and how it is read."""

    file: File
    reader: Reader


class SourceFiles(NamedTuple):
    """The files of a source that are read, by split, and those that are not."""

    files: dict[str, list[Recognised]]  # train alone: each dialogue goes where its hash says
    passed_over: list[str]


def recognise(path: str, args: DataArguments) -> SourceFiles | None:
    """Recognise a source; None where it is dialogue text, which the dataset script reads.

    Raises:
        UsageError: no file of it has a known form.
    """
    if not os.path.exists(path):
        return None
    files = find_files(path)
    if _name_dialogue_text(file.name for file in files):
        return None
    of_models = names_of_models(files)
    recognised, others = [], []
    for file in files:
        reader = None if file.name in of_models else reader_of(file, args.column_names())
        if reader is None:
            others.append(file)
        else:
            recognised.append(Recognised(file, reader))
    if recognised:
        by_split, passed_over = _by_split(recognised)
        beside = {reader.beside for _, reader in recognised}
        names = (file.name for file in (*passed_over, *others))
        return SourceFiles(by_split, [n for n in names if PurePosixPath(n).name not in beside])
    check_has_others(path, of_models, files)
    _check_not_empty(others)
    if os.path.isdir(path) and _name_dialogue_text(members_of(path)):  # in a zip for each split
        return None
    _check_way_out(path, others)
    kinds = {_kind(file.unread().head) for file in others}
    if kinds & {"dialogue text", "odd"}:
        return None
    columns = [name for file in others for name in table_files.columns_of(file.unread())]
    if columns:
        listed = ", ".join(map(repr, dict.fromkeys(columns)))
        raise UsageError(
            f"{path!r} has the columns {listed}, but needs {table_forms.FORMS}. Say which is "
            "which, for example --columns '{text: body, speaker: author}'."
        )
    if "text" not in kinds:
        return None
    raise UsageError(
        f"{path!r} has none of the forms that are read: {FORMS}. Convert it to one of these."
    )


def names_of_models(files: list[File]) -> set[str]:
    """The files in the folders of runs and of models, by name: these are no dialogues to read."""
    names: dict[PurePosixPath, set[str]] = {}
    for file in files:
        place = PurePosixPath(file.name)
        names.setdefault(place.parent, set()).add(place.name)
    folders = [folder for folder, inside in names.items() if _is_of_model(inside)]
    return {
        file.name
        for file in (files if folders else ())
        if any(PurePosixPath(file.name).is_relative_to(folder) for folder in folders)
    }


def check_has_others(path: str, of_models: set[str], files: list[File]) -> None:
    """Refuse a source of which nothing is read, since a run wrote it or a model stands there."""
    if not of_models:
        return
    config = next((file for file in files if file.name == "config.yaml"), None)
    data = re.search(r"(?m)^data: (?!null)(.+)", "" if config is None else config.unread().head)
    learnt = f": of this run, that is {data[1]}" if data else ""
    raise UsageError(
        f"{path!r} holds a model or what a run wrote, and no dialogues to read. Give the dialogues "
        f"themselves{learnt}. A file of a run, such as its selfchat.jsonl, is read by its own path."
    )


def _is_of_model(names: set[str]) -> bool:
    """Whether a folder with these files is that of a run, of a checkpoint or of a model."""
    has_weights = any(name.endswith((".safetensors", ".bin", ".ckpt")) for name in names)
    return {"config.yaml", "environment.json"} <= names or (
        has_weights and not names.isdisjoint({"config.json", "adapter_config.json"})
    )


def _name_dialogue_text(names: Iterable[str]) -> bool:
    """Whether there are files that are called as DailyDialog's are."""
    known = {f"dialogues_{name}.txt" for name in ("text", *SPLITS, *SPLIT_NAMES)}
    return any(PurePosixPath(name).name in known for name in names)


def reader_of(file: File, columns: dict[str, str] | None = None) -> Reader | None:
    """Find who reads a file that holds dialogues; nobody does where it is dialogue text.

    Args:
        columns: names of columns that cannot be guessed, by what they are for.
    """
    looked_at = file.unread()
    readers = (*READERS, table_files.reader(columns or {}))
    return next((reader for reader in readers if reader.recognises(looked_at)), None)


def _check_way_out(path: str, files: list[File]) -> None:
    """Refuse with the way out what has one: a known form, or a chat in a form that is not read."""
    whole = [] if os.path.isdir(path) else [File(os.path.basename(path), (path,))]
    has_text = any(END in file.unread().head for file in files)
    for file in (*whole, *files):
        head = file.unread().head
        for beginning, way_out in (PACKED if has_text else PACKED | WAYS_OUT).items():
            if re.match(beginning, head, re.DOTALL):
                raise UsageError(f"{file} {way_out}")
        is_text = not has_text and "\0" not in head
        for number, line in enumerate(head.split("\n")[:CHAT_LINES] if is_text else [], 1):
            if CHAT_LINE.match(line):
                raise UsageError(
                    f"{file}, line {number}: {line.strip()[:60]!r} looks like a message of a chat, "
                    "but messages have to begin like '31/12/2023, 21:05 - Ann: ' or '[31.12.23, "
                    "21:05:33] Ann: ', from line 1 on. Set the phone to a 24-hour clock and export "
                    "the chat again without media, or make it a table with the columns time, "
                    "speaker and text."
                )
    for file in [] if has_text else files:
        if file.name.lower().endswith(".zip") and file.unread().start.startswith(ZIP):
            raise UsageError(
                f"{file} is a zip beside other files or within a zip, but zips are opened in a "
                "folder of nothing else. Unpack it, or put the zips into a folder of their own, "
                "and give that folder."
            )


def _check_not_empty(files: list[File]) -> None:
    """Refuse JSON and tables that hold nothing, as a form that is known."""
    for file in map(File.unread, files):
        kind = {"[]": "an empty list", "{}": "an empty object"}.get("".join(file.head.split()))
        if kind is not None:
            raise UsageError(f"{file} is {kind}, but dialogues are needed. {DATA_WAY_OUT}")
        if table_files.has_names_alone(file):
            raise UsageError(
                f"{file} has names of columns, but no row below them. Export the table again."
            )


def _kind(head: str) -> str:
    """The kind of a file by its first characters; what is odd, the dataset script words."""
    if END in head:
        return "dialogue text"
    if "\0" in head:
        return "no text"
    return "odd" if not head.strip() or "\ufffd" in head else "text"  # empty, or not UTF-8


def find_files(path: str) -> list[File]:
    """List the files of a folder with its folders, or of a zip; a file stands for itself.

    A folder of nothing but zips, such as a chat each, has what these hold.
    """
    if os.path.isdir(path):
        places = {}
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
            for name in sorted(names):
                if not name.startswith(".") and os.path.isfile(os.path.join(folder, name)):
                    place = os.path.join(folder, name)
                    places[os.path.relpath(place, path).replace(os.sep, "/")] = (place,)
        if all(name.lower().endswith(".zip") and is_zip(p[0]) for name, p in places.items()):
            places = {
                f"{name[: -len('.zip')]}/{inner}": place
                for name, (packed,) in places.items()
                for inner, place in members_of(packed).items()
                if not inner.endswith("/")
            }
    elif is_zip(path):
        places = {name: p for name, p in members_of(path).items() if not name.endswith("/")}
    else:
        places = {os.path.basename(path): (path,)}
    return [File(name, place, places) for name, place in places.items()]


def _by_split(recognised: list[Recognised]) -> tuple[dict[str, list[Recognised]], list[File]]:
    """Sort files by the splits that their names or folders say; without them, all are train.

    What names no split is passed over where train and another split are named: it may hold both.
    """
    by_split: dict[str | None, list[Recognised]] = {}
    for each in recognised:
        by_split.setdefault(_split_of(each.file.name), []).append(each)
    unnamed = by_split.pop(None, [])
    if "train" not in by_split or (unnamed and len(by_split) == 1):
        return {"train": recognised}, []
    splits = {split: by_split[split] for split in SPLITS if split in by_split}
    return splits, [file for file, _ in unnamed]


def _split_of(name: str) -> str | None:
    """The split that the name of a file says: train.csv, dialogues_dev.json, test/part1.json."""
    path = PurePosixPath(name)
    for part in (*path.parts[:-1], *path.name.split(".")[0].replace("-", "_").split("_")):
        split = SPLIT_NAMES.get(part.lower(), part.lower())
        if split in SPLITS:
            return split
    return None


def load_source(source: SourceFiles, args: DataArguments) -> tuple[DatasetDict, dict]:
    """Read a recognised source to rows on disk; see `load_rows`."""
    rows, problems = prepare(_split_readers(source, args), _key(source, args), args)
    for split, counts in problems.items():
        counts["read_as"] = describe(source.files[split])
    next(iter(problems.values()))["passed_over"] = source.passed_over
    return rows, problems


def load_content(content, args: DataArguments) -> tuple[DatasetDict, dict]:
    """Read dialogues in memory to rows on disk; see `load_rows`.

    Args:
        content: a pandas DataFrame, or a list of rows, dialogues or messages, as tables have them.
    """
    if hasattr(content, "to_dict"):  # what is missing there is nan
        content = content.astype(object).where(content.notna(), None).to_dict("records")
    entries = whole_characters(list(content))  # arrays, which pandas reads from Parquet, are lists
    make_row = table_files.row_maker(entries, "The dialogues")
    rows = [make_row(each) if isinstance(each, list) else each for each in entries]
    is_table = all(isinstance(row, dict) for row in rows)
    form = (
        table_forms.choose_form(rows[: table_forms.SAMPLE], args.column_names())
        if is_table
        else None
    )
    if form is None:
        raise UsageError(f"The dialogues are {content!r:.200}, but have to be {table_forms.FORMS}.")

    def read(note: Note) -> Iterator[Dialogue]:
        speakers: Counter = Counter()
        transcripts = form(enumerate(rows, 1), note)
        yield from map(as_dialogue, read_talks(transcripts, CHAT_PAUSE, args, note, speakers))
        check_speakers(speakers, args)

    digest = hashlib.sha256(repr(rows).encode()).hexdigest()
    return prepare({"train": read}, f"{digest} {args.reading_key()}", args)


def open_source(
    source: SourceFiles, args: DataArguments
) -> tuple[dict[str, Callable[[], Iterator[dict]]], dict, str]:
    """Open a recognised source as a stream; see `open_rows`."""
    return stream(_split_readers(source, args), args), {}, _key(source, args)


def _split_readers(source: SourceFiles, args: DataArguments) -> dict:
    return {split: partial(_read_files, files, args) for split, files in source.files.items()}


def _read_files(files: list[Recognised], args: DataArguments, note: Note) -> Iterator[Dialogue]:
    yield from map(as_dialogue, read_talks_of(files, args, note))


def read_talks_of(
    files: list[Recognised], args: DataArguments, note: Note
) -> Iterator[Talk | Dialogue]:
    """Read files one after another, see `read_talks`.

    Ids begin with the path of the file; with `anonymize` they are numbers, for names tell who
    speaks.
    """
    speakers: Counter = Counter()
    for place, (file, reader) in enumerate(files, 1):
        path = PurePosixPath(file.name).with_suffix("")  # each folder may have a _chat.txt
        with messages_of_a_setting():
            transcripts = reader.read(file.unread(), note)
            talks = read_talks(transcripts, reader.pause, args, note, speakers)
            for number, talk in enumerate(talks, 1):
                name = f"{place}:{number}" if args.anonymize else f"{path}:{talk.dialogue_id}"
                yield talk._replace(dialogue_id=name)
    check_speakers(speakers, args)


def readers(path: str, args: DataArguments) -> dict:
    """Give for each split of a source of any form how its dialogues are read, and as what.

    Raises:
        ValueError: it holds no dialogues.
    """
    source = recognise(path, args)
    if source is not None:
        return {
            split: (partial(read_talks_of, files, args), describe(files))
            for split, files in source.files.items()
        }
    texts = find_sources(path)
    for text in texts:
        text_form.scan_text(text, Counter())
    return {
        text.split or "all": (partial(_read_text, text, args), f"dialogue text, {text.name}")
        for text in texts
    }


def _read_text(text: TextFile, args: DataArguments, note: Note) -> Iterator[Talk]:
    for dialogue in text_form.read(text, note):
        yield as_talk(anonymous_dialogue(dialogue) if args.anonymize else dialogue)


def describe(files: list[Recognised]) -> str:
    """Tell how files are read: `3 files as WhatsApp chat`."""
    counts = Counter(reader.name for _, reader in files)
    return ", ".join(
        f"{count:,} {'file' if count == 1 else 'files'} as {name}" for name, count in counts.items()
    )


def _key(source: SourceFiles, args: DataArguments) -> str:
    """What changes with the files, with how they are read, and with the code."""
    states = []
    for files in source.files.values():
        for file, reader in files:
            for each in filter(None, (file, reader.beside and file.beside(reader.beside))):
                stat = os.stat(each.place[0])
                states.append(f"{reader.name} {each.place} {stat.st_size} {stat.st_mtime_ns}")
    return " ".join([*states, args.reading_key(), CODE.hex()])
