"""Tokens to text, piece by piece: only what no later token can change is given out."""

from collections.abc import Sequence

UNFINISHED = "\ufffd"  # what a character is decoded to as long as some of its bytes are missing


class TextStream:
    """The text of a reply in the making.

    Args:
        stop: texts that end the reply; it is cut before the first.
    """

    def __init__(self, tokenizer, stop: Sequence[str] = ()):
        self.tokenizer, self.stop = tokenizer, stop
        self.token_ids: list[int] = []
        self.text = ""  # that has been given out
        self.stopped = False

    def add(self, token_id: int) -> str:
        """Take the next token; return the text that is certain since."""
        self.token_ids.append(token_id)
        return self._advance(self._decode())

    def end(self) -> str:
        """Return the rest of the text, after the last token."""
        return "" if self.stopped else self._advance(self._decode(), is_last=True)

    def _decode(self) -> str:
        return self.tokenizer.decode(self.token_ids, skip_special_tokens=True).strip()

    def _advance(self, text: str, is_last: bool = False) -> str:
        cut = cut_at_stop(text, self.stop)
        if cut is not None:
            text, self.stopped = cut, True
        elif not is_last:
            text = self._certain(text)
        if len(text) <= len(self.text):
            return ""
        piece, self.text = text[len(self.text) :], text
        return piece

    def _certain(self, text: str) -> str:
        """Cut what later tokens may change: half a character, half a text of `stop`, blanks."""
        text = text.rstrip(UNFINISHED)
        if getattr(self.tokenizer, "clean_up_tokenization_spaces", False):
            text = text.rpartition(" ")[0]  # "I 'm" becomes "I'm"
        held = [n for stop in self.stop for n in range(1, len(stop)) if text.endswith(stop[:n])]
        return text[: len(text) - max(held, default=0)].rstrip()


def cut_at_stop(text: str, stop: Sequence[str]) -> str | None:
    """Cut a text before the first of some texts; None where it has none of them."""
    places = [text.find(each) for each in stop if each in text]
    return text[: min(places)].rstrip() if places else None
