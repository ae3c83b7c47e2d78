"""Tokens to text: pieces that nothing after them changes."""

import pytest
from helpers.corpus import sample_dialogues

from seq2seq_dialog.serve.text_stream import TextStream, cut_at_stop


class Pieces:
    """A tokenizer whose tokens are the bytes of a text; as T5's, it decodes half a character."""

    def __init__(self, clean_up=False):
        self.clean_up_tokenization_spaces = clean_up

    def decode(self, ids, skip_special_tokens):
        text = bytes(ids).decode(errors="replace")
        return text.replace(" 'm", "'m") if self.clean_up_tokenization_spaces else text


def pieces(text, stop=(), clean_up=False):
    """Give a text byte by byte; return what is given out after each, and at the end."""
    stream, given = TextStream(Pieces(clean_up), stop), []
    for token_id in text.encode():
        given.append(stream.add(token_id))
        if stream.stopped:
            break
    return [*given, stream.end()]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("a b", (), ["a", "", " b", ""]),
        (" a ", (), ["", "a", "", ""]),
        ("ä.", (), ["", "ä", ".", ""]),
        ("a\ufffd", (), ["a", "", "", "", "\ufffd"]),
        ("one two", ("two",), ["o", "n", "e", "", "", "", "", ""]),
        ("at to", ("two",), ["a", "", "", "t", " to", ""]),
        ("aab", ("ab", "b"), ["", "a", "", ""]),
        ("ab", ("a",), ["", ""]),
    ],
)
def test_what_is_given_out_when(text, stop, expected):
    assert pieces(text, stop) == expected


def test_blanks_that_are_taken_out_later_are_waited_for():
    assert "".join(pieces("I 'm here", clean_up=True)) == "I'm here"
    assert pieces("I 'm", clean_up=True)[:3] == ["", "", "I"]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [("a b", (), None), ("a b", ("c",), None), ("a b c", ("c", "b"), "a"), ("b", ("b",), "")],
)
def test_the_cut_is_before_the_first(text, stop, expected):
    assert cut_at_stop(text, stop) == expected


def test_pieces_of_a_real_tokenizer_make_the_whole(tokenizer):
    for text in [*sample_dialogues(3)[0], "¿Qué? 你好 🙂!"]:
        ids = tokenizer(text)["input_ids"]
        stream = TextStream(tokenizer)
        given = [stream.add(token_id) for token_id in ids]
        assert "".join([*given, stream.end()]) == tokenizer.decode(ids, skip_special_tokens=True)
