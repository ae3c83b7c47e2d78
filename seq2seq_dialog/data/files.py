"""The files of a source: in a folder or a zip, compressed or not, opened by their content."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import BinaryIO

import numpy as np

from ..command_line import DATA_WAY_OUT
from ..dataset_script.sources import WAY_OUT, open_member, read_lines, unpacking
from ..errors import UsageError

HEAD = 1 << 16  # bytes by which a format is recognised
_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class File:
    """A file of a source. What is read of it is kept with it: see `unread`."""

    name: str  # within the source, with /: general/2024-01-02.json
    place: tuple[str, ...]  # a path, then members of zips
    siblings: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False)  # name to place

    def __str__(self) -> str:
        return " > ".join(self.place)

    @cached_property
    def start(self) -> bytes:
        """The first bytes, unpacked, for recognition."""
        with ExitStack() as stack, unpacking(self.place):
            return open_member(self.place, stack).read(HEAD)

    @cached_property
    def head(self) -> str:
        """The first characters, for recognition; what is no text is replaced.

        A character that is cut where `start` ends is left out: it is text.
        """
        is_wide = self.start.startswith((b"\xff\xfe", b"\xfe\xff"))
        decoder = codecs.getincrementaldecoder("utf-16" if is_wide else "utf-8")("replace")
        text = decoder.decode(self.start, final=len(self.start) < HEAD)
        return text.replace("\x00", "") if is_wide else text.removeprefix("\ufeff")

    def unread(self) -> File:
        """The same file without what is kept of it, so that one at a time is in memory."""
        return replace(self)

    def open(self, stack: ExitStack) -> BinaryIO:
        """Open its bytes, unpacked."""
        return open_member(self.place, stack)

    def lines(self, note=lambda kind, line: None) -> Iterator[tuple[int, str]]:
        """Yield its lines, numbered from 1 on, without their ends."""
        return read_lines(self.place, note)

    @cached_property
    def document(self):
        """Its content where it is one JSON document, else None."""
        if not self.head.lstrip().startswith(("{", "[")) or self._has_json_lines():
            return None
        with ExitStack() as stack, unpacking(self.place):
            content = open_member(self.place, stack).read()
        try:
            return parse_json(content)
        except ValueError:
            return None

    def _has_json_lines(self) -> bool:
        """Whether its first line is JSON by itself, and more follows: such files may be large."""
        first, _, others = self.head.lstrip().partition("\n")
        try:
            json.loads(first)
        except ValueError:
            return False
        return bool(others.strip())

    def beside(self, name: str) -> File | None:
        """Find a file of that name in its folder or the nearest one above, within the source."""
        for folder in PurePosixPath(self.name).parents:
            place = str(folder / name)
            if place in self.siblings:
                return File(place, self.siblings[place], self.siblings)
        return None


@contextmanager
def messages_of_a_setting(name: str = "--data") -> Iterator[None]:
    """Word the errors of the dataset script as those of the setting that names a source."""
    try:
        yield
    except UsageError:
        raise
    except (ValueError, OSError) as error:
        reason = str(error).replace(WAY_OUT, DATA_WAY_OUT)
        raise UsageError(reason.replace("data_dir=", name)) from error


def parse_json(content: str | bytes):
    """Read JSON, with U+FFFD for half of a character: an escaped surrogate without its other half.

    Such halves are left by programs that cut texts anywhere; they cannot be written as UTF-8.
    """
    value = json.loads(content)
    marks = (b"\\u", b"\xed") if isinstance(content, bytes) else ("\\u",)  # or as three bytes
    return whole_characters(value) if any(mark in content for mark in marks) else value


def whole_characters(value):
    """Put U+FFFD for each half of a character in a JSON value; arrays of NumPy become lists."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str):
        return value if value.isascii() else _HALF.sub("\ufffd", value)
    if isinstance(value, list | tuple):
        return list(map(whole_characters, value))
    if isinstance(value, dict):
        return {whole_characters(key): whole_characters(each) for key, each in value.items()}
    return value
