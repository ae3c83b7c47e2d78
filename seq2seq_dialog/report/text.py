"""How numbers and texts are written for people."""

from __future__ import annotations

import math
import re

from markupsafe import Markup


def number(value: float | None) -> str:
    """Write a number: two decimals, none from 1,000 on; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{0 if value >= 1000 else 2}f}"


def markdown(text) -> Markup:
    """Escape text for Markdown: one line without markup, fit for the cell of a table."""
    if isinstance(text, Markup):
        return text
    text = " ".join(str(text).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # A backslash by its number: before a bracket, two of them would begin mathematics.
    return Markup(re.sub(r"([`*_\[\]|~$#])", r"\\\1", text.replace("\\", "&#92;")))
