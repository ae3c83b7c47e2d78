"""Answering: one reply, a conversation, the terminal chat."""

import copy
import io
import os
import subprocess
import sys

import pytest
import torch
from helpers.corpus import ROOT
from helpers.runs import finish, start

from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.models import artifact
from seq2seq_dialog.portable.context import encode_context
from seq2seq_dialog.serve import chat
from seq2seq_dialog.serve.inference import Conversation, generate_response, load


@pytest.fixture
def saved(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    artifact.finish(tmp_path / "model")
    return str(tmp_path / "model")


def test_generate_response_takes_text_or_turns_and_a_device(model, tokenizer):
    model.eval()
    device = torch.device("cpu")
    reply = generate_response("How are you?", model, tokenizer, device)
    assert isinstance(reply, str)
    turns = ["Hi!", "How are you?"]
    assert generate_response(turns, model, tokenizer) == generate_response(
        "Hi! __eou__ How are you?", model, tokenizer
    )


def test_generate_response_is_what_generate_decodes(model, tokenizer):
    model.eval()
    ids = torch.tensor([encode_context("How are you?", tokenizer)])
    for options in ({}, {"num_beams": 3, "max_new_tokens": 5}):
        output = model.generate(input_ids=ids, **options)[0]
        expected = tokenizer.decode(output, skip_special_tokens=True).strip()
        assert generate_response("How are you?", model, tokenizer, **options) == expected


def test_a_long_context_is_cut(model, tokenizer):
    turns = ["This is a long turn that says a great many words."] * 30
    assert len(encode_context(turns, tokenizer)) <= tokenizer.model_max_length == 64
    generate_response(turns, model.eval(), tokenizer)


def test_a_conversation_remembers_undoes_and_resets(model, tokenizer, monkeypatch):
    heard = []

    def answer(context, *args, **kwargs):
        heard.append(list(context))
        return f"reply {len(heard)}"

    monkeypatch.setattr("seq2seq_dialog.serve.inference.generate_response", answer)
    talk = Conversation(model, tokenizer)
    talk.say("one")
    talk.say("two __eou__ three")
    assert heard[-1] == ["one", "reply 1", "two __eou__ three"]
    assert talk.turns == [*heard[-1], "reply 2"]
    assert talk.undo() and talk.turns == ["one", "reply 1"]
    assert talk.undo() and not talk.undo()
    talk.say("four")
    talk.reset()
    assert talk.turns == [] and not talk.undo()
    with pytest.raises(ValueError, match="holds text"):
        talk.say("  ")
    assert talk.turns == []


def test_load_gives_a_model_in_evaluation_mode(saved):
    model, tokenizer, device = load(saved, "cpu")
    assert not model.training and device.type == "cpu" and tokenizer.truncation_side == "left"


def test_attention_is_not_planned_for_each_shape(saved):
    torch.backends.cuda.enable_cudnn_sdp(True)
    load(saved, "cpu")
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_a_cpu_computes_in_fp32_whatever_the_weights_are_saved_in(model, tokenizer, tmp_path):
    copy.deepcopy(model).bfloat16().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, _, _ = load(tmp_path, "cpu")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.shared.weight, model.shared.weight.bfloat16().float())


def test_a_context_is_cut_to_the_positions_where_the_tokenizer_does_not_know_them(bart):
    assert load(bart, "cpu")[1].model_max_length == 256


def test_load_says_clearly_what_cannot_be_loaded():
    with pytest.raises(UsageError, match=r"Cannot load a model from 'no/such-model'. Give a run"):
        load("no/such-model", "cpu")


def test_a_torch_built_for_gpus_answers_on_the_cpu_where_there_is_none(saved, monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: cuda)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert load(saved)[2] == torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_load_refuses_a_device_that_is_not_there(saved, device):
    with pytest.raises(UsageError, match=f"The device '{device}' cannot be used"):
        load(saved, device)


@pytest.fixture
def conversation(model, tokenizer):
    return Conversation(model.eval(), tokenizer)


def test_chat_commands(conversation):
    conversation.say("Hello")
    assert chat.command("/undo", conversation) == "Forgotten."
    assert chat.command("/undo", conversation) == "There is nothing to undo."
    assert "forgotten" in chat.command("/reset", conversation)
    assert "/undo" in chat.command("/help", conversation)
    assert "There is no command /jump" in chat.command("/jump", conversation)
    assert chat.command("/quit", conversation) is None


def test_chat_changes_decoding_settings(conversation):
    assert chat.command("/set num_beams=3", conversation) == "num_beams=3"
    assert conversation.generate_kwargs == {"num_beams": 3}
    assert "num_beams=3" in chat.command("/set", conversation)
    assert "max_new_tokens=12" in chat.command("/set", conversation)
    assert "no decoding setting 'beams'" in chat.command("/set beams=3", conversation)
    for wrong in ("num_beams=many", "top_p={", "num_beams="):
        assert "takes a number" in chat.command(f"/set {wrong}", conversation)
    assert "no decoding setting" in chat.command("/set return_dict_in_generate=1", conversation)
    assert "does not work" in chat.command("/set num_beams=-1", conversation)
    assert conversation.generate_kwargs == {"num_beams": 3}
    assert "after /set do_sample=true" in chat.command("/set temperature=0.5", conversation)


def test_chat_by_hand_shows_who_speaks(saved, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", Terminal("Hello\n\n/set\n"))
    chat.chat([saved], device="cpu")
    out = capsys.readouterr().out
    assert "you: bot:" in out and "num_beams=1" in out and out.count("bot:") == 1


@pytest.mark.parametrize("word", ["exit", "quit", ":q", "/quit"])
def test_a_word_alone_on_a_line_ends_the_chat_in_a_terminal(saved, monkeypatch, capsys, word):
    stdin = io.StringIO(f"I want to quit\n {word} \nunheard\n")
    monkeypatch.setattr(stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", stdin)
    chat.chat([saved], device="cpu")
    out = capsys.readouterr().out
    assert out.count("bot:") == 1 and "exit, quit or :q alone on a line leaves" in out


def test_chat_in_a_pipe_prints_a_reply_a_line(saved):
    model, tokenizer, _ = load(saved, "cpu")
    turns = ["__eou__"]
    for said in ("quit", "/nonsense", None):
        turns += [generate_response(turns, model, tokenizer), said]
    expected = [turns[1], "", turns[3], "", turns[5]]
    said = "__eou__\n\nquit\n/set\n/nonsense\n/quit\nunheard\n"
    command = ["-m", "seq2seq_dialog", "chat", saved, "--device", "cpu"]
    done = finish([start(*command, input=said)])
    assert done.stdout.removesuffix("\n").split("\n") == expected
    assert "num_beams=1" in done.stderr


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_any_bytes_get_an_answer_or_a_message(saved, encoding):
    lines = [
        b"\xff\xfe\x00\x01", b"\xed\xa0\x80", b"\x1b[2J", b"\x00", "🙂 \u2028".encode(), b"__eou__",
        b"</s><pad>", b"/\xff", b"/set", b"/set =", b"/set num_beams=", b"/set num_beams=-1",
        b"/set num_beams=9" + b"9" * 5000, b"/set top_p=2024-99-99", b"/set top_k=" + b"[" * 3000,
        b"/set temperature=nan", b"/set do_sample=!!python/object:x", b"Are you there?",
    ]  # fmt: skip
    said = os.fsdecode(b"\n".join([*lines, b""]))
    command = ["-m", "seq2seq_dialog", "chat", saved]
    done = finish([start(*command, input=said, PYTHONIOENCODING=encoding)])
    assert "Traceback" not in done.stderr and done.stderr.count("does not work") >= 5
    assert done.stdout.count("\n") == len(lines)


def test_the_chat_ends_when_nobody_reads_it(saved):
    chat = f"{sys.executable} -m seq2seq_dialog chat {saved}"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    line = f"yes 'How are you?' | {chat} | head -n 1"
    done = subprocess.run(line, shell=True, env=env, capture_output=True, timeout=120)
    assert done.stdout.count(b"\n") == 1 and b"Broken" not in done.stderr


def test_a_missing_folder_ends_with_status_2_and_one_line(tmp_path):
    command = ["-m", "seq2seq_dialog", "chat", tmp_path / "none"]
    done = finish([start(*command)], status=2)
    assert done.stderr.startswith("error: There is no folder") and "Traceback" not in done.stderr
