"""How texts are compared: what they say, however written; their words and n-grams."""

import re
from collections.abc import Iterator, Sequence

_NOT_ALNUM = re.compile(r"[\W_]+")  # exactly the characters for which str.isalnum() is false


def normalised(text: str) -> str:
    """Casefold a text and leave only letters and digits (`str.isalnum`)."""
    return _NOT_ALNUM.sub("", text.casefold())


def words(text: str) -> list[str]:
    """Split a text into lower-cased words, which stand apart by white space."""
    return text.lower().split()


def ngrams(units: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """Return the n-grams of a list of words, or of a text's characters, in their order."""
    return zip(*(units[i:] for i in range(n)), strict=False)
