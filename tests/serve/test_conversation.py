"""A reply on the page: it grows, can be stopped, and what the model reads is told."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from seq2seq_dialog.portable.context import encode_context
from seq2seq_dialog.serve.inference import generate_response
from seq2seq_dialog.serve.safety import FALLBACK, Safety
from seq2seq_dialog.serve.space import conversation
from seq2seq_dialog.serve.space.conversation import Speaker, as_messages, reading, stream
from seq2seq_dialog.serve.web import functions_of

MESSAGES = [{"role": "user", "content": "Hello, is it far?"}]
GREEDY = {"do_sample": False, "num_beams": 1, "candidates": 1, "max_new_tokens": 24}


@pytest.fixture
def speaker(make_rnn, tokenizer):
    model = make_rnn()
    answer = partial(generate_response, model=model, tokenizer=tokenizer)
    encode = partial(encode_context, tokenizer=tokenizer)
    return Speaker("rnn", model, tokenizer, answer, encode)


def test_a_reply_grows_to_that_of_generate_response(speaker, monkeypatch):
    monkeypatch.setattr(conversation, "PAUSE", -1)
    grown = list(stream(speaker, MESSAGES, GREEDY))
    assert len(grown) > 2
    assert all(later.startswith(sooner) for sooner, later in pairwise(grown))
    assert grown[-1] == speaker.answer(MESSAGES, max_new_tokens=24)


@pytest.mark.parametrize("more", [{"num_beams": 3}, {"candidates": 3, "do_sample": True}], ids=str)
def test_beams_and_candidates_come_whole(speaker, more):
    assert len(list(stream(speaker, MESSAGES, GREEDY | more))) == 1


def test_nobody_waits_and_the_model_stops(speaker, monkeypatch):
    monkeypatch.setattr(conversation, "PAUSE", -1)
    calls = []
    speaker.model.register_forward_hook(lambda *_: calls.append(1))
    replies = stream(speaker, MESSAGES, GREEDY | {"max_new_tokens": 2000, "min_new_tokens": 2000})
    next(replies)
    replies.close()
    assert len(calls) < 2000


def test_what_does_not_work_is_told_where_the_reply_is_read(speaker):
    with pytest.raises(ValueError, match="temperature is 0"):
        list(stream(speaker, MESSAGES, GREEDY | {"do_sample": True, "temperature": 0}))


def test_what_is_folded_under_replies_is_not_said():
    under = {"role": "assistant", "content": "x", "metadata": {"title": "0.1 s"}}
    blind = {"role": "assistant", "content": "Yes.", "metadata": {"id": 1}}
    parts = {"role": "user", "content": [{"type": "text", "text": "Hi!"}]}
    assert [m["content"] for m in as_messages([parts, blind, under])] == ["Hi!", "Yes."]


def test_what_the_model_reads_and_what_was_cut(speaker):
    told = reading(speaker, MESSAGES)
    assert told.startswith(f"The model reads {len(speaker.encode(MESSAGES))} tokens, of 64 at most")
    assert "&lt;/s&gt;" in told and "Cut" not in told
    long = [{"role": "user", "content": "Is it far from here to the sea? " * 6}]
    assert (
        reading(speaker, [*MESSAGES, *long])
        .split("Cut, as it does not fit:\n")[1]
        .startswith("Hello, is it far?")
    )
    assert "The beginning of the last message does not fit" in reading(speaker, long * 2)


def test_under_a_filter_what_the_model_does_not_read_is_not_told(speaker, tmp_path):
    (tmp_path / "words.txt").write_text("badger")
    filtered = speaker._replace(readable=Safety(words=tmp_path / "words.txt").readable)
    refused = [
        {"role": "user", "content": "A badger! " * 30},
        {"role": "assistant", "content": FALLBACK},
    ]
    assert reading(filtered, [*refused, *MESSAGES]) == reading(speaker, MESSAGES)
    assert reading(filtered, refused[:1]) == "The filter has kept the last message from the model."


def test_one_picture_of_attention_is_kept(make_rnn, tokenizer):
    draw = functions_of(make_rnn(attention="additive"), tokenizer)[1]["Attention map"]
    first, second = (Path(draw(MESSAGES, reply, {})["path"]) for reply in ("Yes.", "Not at all."))
    assert list(second.parent.iterdir()) == [first] and second.read_bytes()[:4] == b"\x89PNG"
