"""Where dialogue text lies, a file, a folder, a zip, and its lines. Standard library alone."""

import bz2
import codecs
import errno
import gzip
import io
import lzma
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from itertools import count
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple

SPLITS = ("train", "validation", "test")
# Other names of splits, of files (dialogues_dev.txt), folders and zips.
SPLIT_NAMES = {"valid": "validation", "val": "validation", "dev": "validation"}
# Label name -> (class names, the number that the first of them has in the label files).
LABELS = {
    "emotion": (
        ["no emotion", "anger", "disgust", "fear", "happiness", "sadness", "surprise"],
        0,
    ),
    "act": (["inform", "question", "directive", "commissive"], 1),
    "topic": (
        [
            *("Ordinary Life", "School Life", "Culture & Education", "Attitude & Emotion"),
            *("Relationship", "Tourism", "Health", "Work", "Politics", "Finance"),
        ],
        1,
    ),
}
ZIP = b"PK\x03\x04"
# By their first bytes.
COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
UNPACKING_ERRORS = (  # what damage raises, in the lists of zips, too
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, UnicodeDecodeError),
    *(EOFError, RuntimeError, KeyError, OverflowError),
)
UNPACKED = 256 << 20  # bytes that an archive may unpack to, or `RATIO` times its own size
RATIO = 100
MAX_LINE = 1 << 20  # characters; keeps memory flat on a file without line ends
BOMS = {  # UTF-32 first: its mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
BOM = "\ufeff"
NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of other bytes
_LATIN = rb"[\xc0-\xd6\xd8-\xf6\xf8-\xff]{2}"  # letters of cp1252, never a character of UTF-8
LATIN_PAIR = re.compile(rb"[A-Za-z]%b[A-Za-z]?|%b[A-Za-z]" % (_LATIN, _LATIN))
Note = Callable[[str, int], None]  # called with a kind of problem and the number of the line
WAY_OUT = (
    "Give data_dir= a text file (a dialogue a line, ' __eou__' after each utterance), a folder "
    "with dialogues_text.txt or with train/, validation/ and test/, or DailyDialog's zip."
)


class TextFile(NamedTuple):
    """A text file and its label files.

    A place is a path, and after it the members to open if it is a zip (or a zip within one).
    """

    name: str  # as `problems()` calls it, such as "train/dialogues_train.txt"
    stem: str  # what its dialogue ids begin with
    text: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]
    split: str | None  # None: every dialogue goes where its hash says


def find_sources(path: str) -> list[TextFile]:
    """Lists the text files in a folder or a zip; a text file stands for itself.

    Official splits win over a whole text, and unpacked files over zips that lie beside them.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path!r} does not exist. {WAY_OUT}")
    if not os.path.isdir(path) and not is_zip(path):
        folder, name = os.path.split(path)
        return [_source(name, _folder(folder or ".") | {name: (path,)}, None)]
    members = members_of(path)
    texts = {split: _named(f"dialogues_{split}.txt", members, path) for split in SPLITS}
    for name, split in SPLIT_NAMES.items():
        texts[split] = texts[split] or _named(f"dialogues_{name}.txt", members, path)
    if any(texts.values()):
        folders = {part for name in members for part in PurePosixPath(name).parts[:-1]}
        for split, text in texts.items():
            if not text and folders & {split, f"{split}.zip"}:
                raise ValueError(
                    f"{path!r} has a part {split!r} without dialogues_{split}.txt, but each part "
                    "needs its text. Restore that file, or remove the part."
                )
        return [_source(text, members, split) for split, text in texts.items() if text]
    text = _named("dialogues_text.txt", members, path)
    if not text:
        names = sorted(name for name in members if name.endswith(".txt"))
        if len(names) != 1:
            raise FileNotFoundError(
                f"{path!r} has no dialogues_text.txt, no dialogues_train.txt, and not just one "
                f"text file (there are: {', '.join(names[:5]) or 'none'}). {WAY_OUT}"
            )
        text = names[0]
    return [_source(text, members, None)]


def passed_over(path: str, sources: list[TextFile]) -> list[str]:
    """Names the files of a folder that look like dialogues and are not read."""
    if not os.path.isdir(path):
        return []
    known = {"dialogues_text.txt", *(f"dialogues_{label}.txt" for label in LABELS)}
    read = {place[0] for s in sources for place in (s.text, *s.labels.values())}
    return sorted(
        name
        for name, place in _folder(path).items()
        if name not in known and not name.lower().startswith("readme") and place[0] not in read
        if re.search(r"\.(txt|csv|tsv|jsonl?|zip|gz|bz2|xz)$", name.lower())
    )


def _folder(path: str, prefix: str = "") -> dict[str, tuple[str, ...]]:
    places = ((prefix + name, os.path.join(path, name)) for name in os.listdir(path))
    return {name: (place,) for name, place in places if not os.path.isdir(place)}


def members_of(path: str) -> dict[str, tuple[str, ...]]:
    """Name -> place of each file in a zip or in a folder and its folders of splits."""
    if os.path.isdir(path):
        members = _folder(path)
        for split in (*SPLITS, *SPLIT_NAMES):
            if os.path.isdir(os.path.join(path, split)):
                members |= _folder(os.path.join(path, split), f"{split}/")
    else:
        members = {name: (path, name) for name in _zip_names((path,))}
    for name, place in list(members.items()):
        if PurePosixPath(name).name in {f"{split}.zip" for split in (*SPLITS, *SPLIT_NAMES)}:
            members |= {f"{name}/{inner}": (*place, inner) for inner in _zip_names(place)}
    return members


def _zip_names(place: tuple[str, ...]) -> list[str]:
    with ExitStack() as stack, unpacking(place):
        names = stack.enter_context(zipfile.ZipFile(open_member(place, stack))).namelist()
    junk = ("__MACOSX", ".")  # what macOS adds to the zips that it makes
    return [n for n in names if not any(p.startswith(junk) for p in PurePosixPath(n).parts)]


def _named(name: str, members: dict[str, tuple[str, ...]], path: str) -> str | None:
    """The member with that file name, the one in the fewest zips if there are several."""
    matches = [member for member in members if PurePosixPath(member).name == name]
    depth = min((len(members[member]) for member in matches), default=0)
    matches = [member for member in matches if len(members[member]) == depth]
    if len(matches) > 1:
        raise ValueError(
            f"{path!r} has {len(matches)} files {name} ({', '.join(matches)}), but only one can be "
            "meant. Give the folder or the file that you mean as data_dir=."
        )
    return matches[0] if matches else None


def _source(name: str, members: dict[str, tuple[str, ...]], split: str | None) -> TextFile:
    """A text with the label files beside it, such as dialogues_act.txt, dialogues_act_train.txt."""
    path = PurePosixPath(name)
    labels = {}
    for label in LABELS:
        file_name = re.sub("^dialogues_", f"dialogues_{label}_", path.name)
        label_file = str(path.with_name(file_name.replace("_text.txt", ".txt")))
        if label_file != name and label_file in members:
            labels[label] = members[label_file]
    stem = re.sub(r"\.(gz|bz2|xz)$", "", path.name).removesuffix(".txt")
    return TextFile(name, stem, members[name], labels, split)


def is_zip(path: str) -> bool:
    """Whether a file is a zip; one that only begins like a zip cannot be unpacked."""
    _check_regular(path)
    with open(path, "rb") as file:
        begins = file.read(len(ZIP)) == ZIP
    if begins and not zipfile.is_zipfile(path):
        with unpacking((path,)):
            raise zipfile.BadZipFile("its end is missing")
    return zipfile.is_zipfile(path)


def _check_regular(path: str) -> None:
    """Refuse a pipe or a device, which can be read once only, or has no end."""
    if not os.path.isfile(path):
        raise ValueError(
            f"{path!r} is not a regular file, but dialogues are read several times. Write them to "
            "a file first."
        )


def open_member(place: tuple[str, ...], stack: ExitStack) -> BinaryIO:
    """Open the file at a place: a path, then members of zips; a compressed file is unpacked."""
    _check_regular(place[0])
    if len(place) == 1:
        stream = stack.enter_context(io.BufferedReader(io.FileIO(place[0])))
    for depth, member in enumerate(place[1:]):
        archive = stack.enter_context(zipfile.ZipFile(stream)) if depth else _open_zip(place[0])
        _check_size(archive.getinfo(member).file_size, place)
        stream = stack.enter_context(archive.open(member))
    head = stream.peek(8)
    for first_bytes, open_packed in COMPRESSED.items():
        if head.startswith(first_bytes):
            return stack.enter_context(open_packed(stream))
    return stream


def _open_zip(path: str) -> zipfile.ZipFile:
    """Open a zip, of which the list is read once, however many members are opened."""
    state = os.stat(path)
    return _opened_zip(path, state.st_ino, state.st_mtime_ns, state.st_size, os.getpid())


@lru_cache(1)
def _opened_zip(path: str, *state: int) -> zipfile.ZipFile:
    """Open a zip in some state, by a process: those that it forks must not share its place."""
    return zipfile.ZipFile(path)


def _check_size(size: int, place: tuple[str, ...]) -> None:
    """Refuse what unpacks to far more than text does."""
    if size > UNPACKED and size > RATIO * os.path.getsize(place[0]):
        raise ValueError(
            f"{' > '.join(place)} unpacks to over {RATIO} times its size, as text does not. Unpack "
            "it yourself, and give the text."
        )


@contextmanager
def unpacking(place: tuple[str, ...]) -> Iterator[None]:
    """Word what a damaged archive raises."""
    try:
        yield
    except (*UNPACKING_ERRORS, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # the disk's, not that of an archive: a wrong place in it, wrong data
        raise ValueError(
            f"{' > '.join(place)} cannot be unpacked ({error}), but an archive has to be whole and "
            "without password. Fetch it again, or unpack it and give the folder as data_dir=."
        ) from error


def read_lines(place: tuple[str, ...], note: Note) -> Iterator[tuple[int, str]]:
    """Yields numbered lines without their ends, cut at LF, or at CR where there is no LF.

    The text is UTF-8, or UTF-16 or UTF-32 with its byte order mark. `str.splitlines` would cut at
    form feeds, too.
    """
    with ExitStack() as stack, unpacking(place):
        stream = open_member(place, stack)
        head = stream.peek(1 << 13)
        encoding = next((name for bom, name in BOMS.items() if head.startswith(bom)), "utf-8")
        only_cr = encoding == "utf-8" and b"\r" in head and b"\n" not in head
        errors = "surrogateescape" if encoding == "utf-8" else "strict"  # see `_check_line`
        text = io.TextIOWrapper(stream, encoding, errors, newline=None if only_cr else "\n")
        size, is_utf8 = 0, False
        for number in count(1):
            try:
                line = text.readline(MAX_LINE + 1)
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{' > '.join(place)}, line {number} is not {encoding}, as its byte order mark "
                    "says. Restore the file, or convert it to UTF-8."
                ) from error
            if not line:
                return
            size += len(line)
            _check_size(size, place)
            if number == 1 and encoding != "utf-8":
                note("utf_16", number)
            _check_line(line, f"{' > '.join(place)}, line {number}", is_utf8)
            is_utf8 = is_utf8 or not line.isascii()
            if BOM in line:
                note("bom", number)
                line = line.replace(BOM, "")
            line = line.removesuffix("\n")
            if only_cr or line.endswith("\r"):
                note("cr" if only_cr else "crlf", number)
                line = line.removesuffix("\r")
            yield number, line


def _check_line(line: str, where: str, is_utf8: bool) -> None:
    """Refuse a line that is too long, or not the text that somebody wrote.

    Args:
        is_utf8: other lines of the file are UTF-8, as more than ASCII shows.
    """
    if len(line) > MAX_LINE:
        raise ValueError(
            f"{where} is longer than {MAX_LINE} characters, but a line holds one dialogue. End "
            "each dialogue with a line feed."
        )
    escaped = NOT_UTF8.search(line)
    nulls = 10 * line.count("\0") > len(line)
    if not escaped and not nulls:
        return
    raw = line.encode("utf-8", "surrogateescape")
    encoding = _likely_encoding(raw)
    if encoding is None and nulls:
        raise ValueError(
            f"{where} is full of NUL bytes: the file is damaged, or was converted from a wrong "
            "encoding. Restore it."
        )
    what = f"byte 0x{ord(escaped[0]) - 0xDC00:02x} is not UTF-8" if escaped else "this is not UTF-8"
    remedy = "Find out in which encoding it was written, and convert it from that one"
    if encoding:
        remedy = f"It looks like {encoding}: convert it"
    if is_utf8:
        looks = f" It looks like {encoding}." if encoding else ""
        raise ValueError(
            f"{where}: {what}, but the lines before it are.{looks} Mend that line alone: to "
            "convert the whole file would spoil the others."
        )
    raise ValueError(
        f"{where}: {what}, but the text has to be. {remedy}: "
        f"iconv -f {encoding or 'ENCODING'} -t utf-8 old > new."
    )


def _likely_encoding(raw: bytes) -> str | None:
    """Names the encoding of text that is not UTF-8, where that is as good as certain."""
    mark = "__eou__".encode("utf-16le")[:-1]  # of big endian text, too, one byte later
    if mark in raw:
        return "utf-16be" if raw.index(mark) % 2 else "utf-16le"
    if b"\0" in raw:
        return None
    try:
        raw.decode("cp1252")
    except UnicodeDecodeError:
        return None
    # In Western languages such bytes stand alone, as accents and quotation marks do, or are two
    # letters within a word: Grüße, créée. In Cyrillic, Greek or East Asian text they are words.
    runs = re.findall(rb"[A-Za-z]?[\x80-\xff]{2,}[A-Za-z]?", raw)
    high = len(re.findall(rb"[\x80-\xff]", raw))
    are_few = 3 * high <= len(re.findall(rb"[A-Za-z]", raw))
    return "cp1252" if not runs or (are_few and all(map(LATIN_PAIR.fullmatch, runs))) else None
