"""Where dialogue text lies: a file, a folder, a zip. Imports the standard library alone."""

import gzip
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple

SPLITS = ("train", "validation", "test")
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
UNPACKING_ERRORS = (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError)
WAY_OUT = (
    "Give data_dir= a text file (a dialogue a line, ' __eou__' after each utterance), a folder "
    "with dialogues_text.txt or with train/, validation/ and test/, or DailyDialog's zip."
)


class Source(NamedTuple):
    """A text file and its label files.

    A place is a path, and after it the members to open if it is a zip (or a zip within one).
    """

    name: str  # as `problems()` calls it, such as "train/dialogues_train.txt"
    stem: str  # what its dialogue ids begin with
    text: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]
    split: str | None  # None: every dialogue goes where its hash says


def find_sources(path: str) -> list[Source]:
    """Lists the text files in a folder or a zip; a text file stands for itself.

    Official splits win over a whole text, and unpacked files over zips that lie beside them.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path!r} does not exist. {WAY_OUT}")
    if not os.path.isdir(path) and not zipfile.is_zipfile(path):
        folder, name = os.path.split(path)
        return [_source(name, _folder(folder or ".") | {name: (path,)}, None)]
    members = _members(path)
    texts = {split: _named(f"dialogues_{split}.txt", members, path) for split in SPLITS}
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


def _folder(path: str, prefix: str = "") -> dict[str, tuple[str, ...]]:
    return {prefix + name: (os.path.join(path, name),) for name in os.listdir(path)}


def _members(path: str) -> dict[str, tuple[str, ...]]:
    """Name -> place of each file in a zip or in a folder and its folders of splits."""
    if os.path.isdir(path):
        members = _folder(path)
        for split in SPLITS:
            if os.path.isdir(os.path.join(path, split)):
                members |= _folder(os.path.join(path, split), f"{split}/")
    else:
        members = {name: (path, name) for name in _zip_names((path,))}
    for name, place in list(members.items()):
        if PurePosixPath(name).name in {f"{split}.zip" for split in SPLITS}:
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


def _source(name: str, members: dict[str, tuple[str, ...]], split: str | None) -> Source:
    """A text with the label files beside it, such as dialogues_act.txt, dialogues_act_train.txt."""
    path = PurePosixPath(name)
    labels = {}
    for label in LABELS:
        file_name = re.sub("^dialogues_", f"dialogues_{label}_", path.name)
        label_file = str(path.with_name(file_name.replace("_text.txt", ".txt")))
        if label_file != name and label_file in members:
            labels[label] = members[label_file]
    stem = path.name.removesuffix(".gz").removesuffix(".txt")
    return Source(name, stem, members[name], labels, split)


def open_member(place: tuple[str, ...], stack: ExitStack) -> BinaryIO:
    """Open the file at a place: a path, then members of zips; a gzip file is unpacked."""
    open_file = gzip.open if place[0].endswith(".gz") else open
    stream = stack.enter_context(open_file(place[0], "rb"))
    for member in place[1:]:
        archive = stack.enter_context(zipfile.ZipFile(stream))
        stream = stack.enter_context(archive.open(member))
    return stream


@contextmanager
def unpacking(place: tuple[str, ...]) -> Iterator[None]:
    """Word what a damaged archive raises."""
    try:
        yield
    except UNPACKING_ERRORS as error:
        raise ValueError(
            f"{' > '.join(place)} cannot be unpacked ({error}), but an archive has to be whole and "
            "without password. Fetch it again, or unpack it and give the folder as data_dir=."
        ) from error
