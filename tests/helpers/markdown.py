"""Markdown pages taken apart: code blocks, spans, links, headings and sentences."""

import re
from pathlib import Path
from typing import NamedTuple

from helpers.corpus import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*PAGES, ROOT / "dataset_script" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A fenced code block."""

    page: str
    line: int
    language: str
    code: str


def blocks(path: Path) -> list[Block]:
    """List the fenced code blocks of a page."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT).as_posix()
    return [
        Block(name, text.count("\n", 0, match.start()) + 1, match[2], match[3])
        for match in FENCED.finditer(text)
    ]


def prose(path: Path) -> str:
    """Return a page without its metadata, code blocks and comments."""
    text = re.sub(r"\A---\n.*?^---\n", "", path.read_text("utf-8"), flags=re.S | re.M)
    return re.sub(r"<!--.*?-->", "", FENCED.sub("", text), flags=re.S)


def spans(path: Path) -> list[str]:
    """List the code spans of a page."""
    return SPAN.findall(prose(path))


def links(path: Path) -> list[str]:
    """List the targets of links and images."""
    return LINK.findall(SPAN.sub("", prose(path)))


def anchors(path: Path) -> set[str]:
    """List the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", path.read_text("utf-8")), flags=re.M)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def sentences(path: Path) -> list[str]:
    """List the sentences of a page's prose, those of list items and table cells apart."""
    text = re.sub(r"^(?:#+ .*|\s*[-|:\s]+\|\s*)$", "", prose(path), flags=re.M)
    text = LINK.sub(lambda match: match[0][: match[0].index("]")], text)
    parts = re.split(r"\n\s*\n|\n\s*(?:[-*]|\d+\.) |(?<!\\)\||(?<=[.!?])[)\"]?\s+", text)
    return [" ".join(part.split()) for part in parts if part.strip()]
