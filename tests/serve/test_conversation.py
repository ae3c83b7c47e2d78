"""A reply on the page: it grows, can be stopped, and what the model reads is told."""

from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from seq2seq_dialog.portable.context import encode_context
from seq2seq_dialog.serve.arena import moved
from seq2seq_dialog.serve.inference import generate_response
from seq2seq_dialog.serve.safety import FALLBACK, Safety
from seq2seq_dialog.serve.space import app, conversation
from seq2seq_dialog.serve.space.conversation import (
    Speaker,
    as_messages,
    connect,
    escaped,
    folded,
    message,
    reading,
    stream,
    text,
)
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


def test_a_model_answers_by_its_own_settings_until_a_control_is_moved(speaker):
    config = speaker.model.generation_config
    config.num_beams = 3
    with gr.Blocks():
        controls, _ = app.decoding_controls(config, {})
    options, values = moved(controls), [control.value for control in controls]
    assert options(*values) == {}
    config.num_beams = 1  # of another model than the controls began with
    monologue = list(stream(speaker, MESSAGES, options(*values)))
    assert monologue[-1] == generate_response(MESSAGES, speaker.model, speaker.tokenizer)
    config.num_beams = 3
    assert len(list(stream(speaker, MESSAGES, options(*values)))) == 1
    values[4] = 1
    assert options(*values) == {"num_beams": 1}
    values[0] = True
    expected = {"do_sample": True, "num_beams": 1, "temperature": 1, "top_p": 1, "top_k": 50}
    assert options(*values) == expected


def handlers(answer) -> tuple[dict, list]:
    """What the page does by the name of its event, and the events that cancel others."""
    with gr.Blocks() as demo:
        chatbot, box = app.make_chatbot((), "Dialogue"), app.make_message()
        connect([chatbot], box, [], answer)
    functions = {target[1]: f.fn for f in demo.fns.values() for target in f.targets if f.fn}
    cancelling = [target[1] for f in demo.fns.values() for target in f.targets if f.cancels]
    chatbot_of = {"target": chatbot, "index": 0}
    return functions | {"data": chatbot_of}, cancelling


@pytest.mark.parametrize("what", ["submit", "retry", "edit"])
def test_settings_that_do_not_work_leave_the_dialogue_as_it_was(what, monkeypatch):
    def answer(histories, values):
        yield [[*histories[0], message("assistant", "Well")]]
        raise ValueError("It does not work.")

    warned = []
    monkeypatch.setattr(gr, "Warning", warned.append)
    functions, _ = handlers(answer)
    shown = [message("user", "Hi!"), message("assistant", "Yes?")]
    event = SimpleNamespace(**functions["data"], value="Where <\u2060b?", previous_value="Hi!")
    arguments = ("Where <b?",) if what == "submit" else (event,)
    edited = [message("user", "Where <b?"), *shown[1:]]  # as Gradio passes it
    *_, (box, history) = functions[what](*arguments, edited if what == "edit" else shown)
    assert history == shown and warned == ["It does not work."]
    assert box["value"] == ("Hi!" if what == "retry" else "Where <b?")


def test_clearing_the_dialogue_stops_a_reply():
    assert sorted(handlers(None)[1]) == ["clear", "stop"]


@pytest.mark.parametrize(
    ("words", "written"),
    [
        ("What does <b>bold</b> do?", "What does <\u2060b>bold<\u2060/b> do?"),
        ("&lt; &#60 &notit; <!-- ?", "&\u2060lt; &\u2060#60 &\u2060notit; <\u2060!-- ?"),
        ("R&D, Tom & Ann <3, 1 < 2", "R&D, Tom & Ann <3, 1 < 2"),
    ],
)
def test_tags_and_entities_are_shown_as_typed(words, written):
    assert escaped(words) == written == folded("Letters", words)["content"]
    assert text(written) == words == as_messages([message("user", words)])[0]["content"]


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
    assert "</s>" in told and "Cut" not in told
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
