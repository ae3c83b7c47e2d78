"""How texts are compared: what they say, however written, and their words."""

from __future__ import annotations

import re

_NOT_ALNUM = re.compile(r"[\W_]+")  # exactly the characters for which str.isalnum() is false


def normalised(text: str) -> str:
    """Casefold a text and leave only letters and digits (`str.isalnum`): what it says, however."""
    return _NOT_ALNUM.sub("", text.casefold())


class _Words:
    """rouge-score's words, lower-cased letters and digits, of any script instead of a-z alone."""

    def tokenize(self, text: str) -> list[str]:
        """Split a text; RougeScorer calls it."""
        return re.findall(r"[^\W_]+", text.lower())
