"""The files of a source: in a folder or a zip, compressed or not, opened by their content."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import BinaryIO

from ..dataset_script.sources import open_member, read_lines, unpacking

HEAD = 1 << 16  # bytes by which a format is recognised


@dataclass(frozen=True)
class File:
    """A file of a source, one at a time in memory."""

    name: str  # within the source, with /: general/2024-01-02.json
    place: tuple[str, ...]  # a path, then members of zips
    siblings: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False)  # name to place

    def __str__(self) -> str:
        return " > ".join(self.place)

    @cached_property
    def head(self) -> str:
        """The first characters, for recognition; what is no text is replaced."""
        with ExitStack() as stack, unpacking(self.place):
            start = open_member(self.place, stack).read(HEAD)
        if start.startswith((b"\xff\xfe", b"\xfe\xff")):
            return start.decode("utf-16", "replace").replace("\x00", "")
        return start.decode("utf-8", "replace").removeprefix("\ufeff")

    def open(self, stack: ExitStack) -> BinaryIO:
        """Open its bytes, unpacked."""
        return open_member(self.place, stack)

    def lines(self, note=lambda kind, line: None) -> Iterator[tuple[int, str]]:
        """Yield its lines, numbered from 1 on, without their ends."""
        return read_lines(self.place, note)

    @cached_property
    def document(self):
        """Its content where it is one JSON document, else None."""
        if not self.head.lstrip().startswith(("{", "[")):
            return None
        with ExitStack() as stack, unpacking(self.place):
            content = open_member(self.place, stack).read()
        try:
            return json.loads(content)
        except ValueError:
            return None

    def beside(self, name: str) -> File | None:
        """Find a file of that name in its folder or the nearest one above, within the source."""
        for folder in PurePosixPath(self.name).parents:
            place = str(folder / name)
            if place in self.siblings:
                return File(place, self.siblings[place], self.siblings)
        return None
