"""The terminal with several models: streaming, votes, candidates, retry, save."""

import io
import json

import pytest
from transformers import set_seed

from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.serve import chat
from seq2seq_dialog.serve.inference import generate_response
from seq2seq_dialog.serve.votes import read_votes


@pytest.fixture
def models(model, make_rnn, tokenizer):
    return {"runs/a": (model.eval(), tokenizer), "runs/b": (make_rnn(), tokenizer)}


@pytest.fixture
def talk(models, tmp_path):
    return chat.TerminalChat(models, in_terminal=True, votes=tmp_path / "votes.jsonl")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_both_models_answer_the_same_and_the_better_reply_goes_on(talk, models, capsys):
    talk.say("Hello")
    replies = [generate_response(["Hello"], *two) for two in models.values()]
    expected = [f"{name}: {reply}" for name, reply in zip(models, replies, strict=True)]
    assert capsys.readouterr().out.split() == " ".join(expected).split()
    assert talk.turns == ["Hello", replies[0]]
    assert "goes on with the reply of runs/b" in chat.command("/vote 2", talk)
    assert talk.turns == ["Hello", replies[1]]
    assert "once" in chat.command("/vote bad", talk) and len(read_votes(talk.votes)) == 1
    talk.undo()
    talk.say("Hello")
    chat.command("/vote bad", talk)
    better, bad = read_votes(talk.votes)
    assert (better["context"], better["chosen"], better["rejected"]) == (["Hello"], *replies[::-1])
    assert (bad["vote"], bad["chosen"], bad["rejected"]) == ("both bad", None, replies)


@pytest.mark.parametrize(("choice", "pairs"), [(" tie", 3), ("\tbad", 3), (" 2", 2)])
def test_a_vote_on_three_replies_is_on_each_pair_that_it_tells_of(models, tmp_path, choice, pairs):
    three = {**models, "runs/c": models["runs/a"]}
    talk = chat.TerminalChat(three, in_terminal=False, votes=tmp_path / "votes.jsonl")
    talk.say("Hello")
    chat.command(f"/vote{choice}", talk)
    assert len(read_votes(talk.votes)) == pairs


def test_a_vote_says_what_it_takes(talk, models):
    assert "needs two replies" in chat.command("/vote 1", talk)
    talk.say("Hello")
    assert "1 to 2" in chat.command("/vote 3", talk)
    alone = chat.TerminalChat({"a": models["runs/a"]}, in_terminal=False)
    alone.say("Hello")
    assert "needs two replies" in chat.command("/vote 1", alone)


def test_a_retry_replies_anew(talk):
    assert "nothing to reply to" in chat.command("/retry", talk)
    talk.generate_kwargs = {"do_sample": True, "temperature": 2.0}
    set_seed(1)
    talk.say("Hello")
    first = list(talk.turns)
    assert chat.command("/retry", talk) == ""
    assert talk.turns[0] == "Hello" and talk.turns != first
    chat.command("/undo", talk)
    assert talk.turns == [] and "needs two replies" in chat.command("/vote 1", talk)


def test_candidates_have_scores(talk):
    assert "nothing to reply to" in chat.command("/candidates", talk)
    talk.say("Hello")
    listed = chat.command("/candidates", talk)
    assert "runs/a:\n-" in listed and "runs/b:\n-" in listed and "(likelihood -" in listed


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("talk.txt", "Hello, you __eou__ Hi! __eou__\n"),
        ("talk.jsonl", json.dumps({"dialog": ["Hello, you", "Hi!"]}) + "\n"),
    ],
)
def test_a_dialogue_is_saved_as_data_and_over_nothing(tmp_path, name, expected):
    turns = ["Hello, you", "Hi!"]
    assert chat.save(turns, str(tmp_path / name)).startswith("Saved: ")
    assert (tmp_path / name).read_text() == expected
    assert "is there already: choose another" in chat.save(turns, str(tmp_path / name))


@pytest.mark.parametrize(
    ("turns", "name", "reason"),
    [
        ([], "talk.txt", "say something first"),
        (["Hi!"], "talk.doc", "must end in .jsonl or .txt"),
        (["a __eou__ b"], "talk.txt", "save as .jsonl"),
    ],
)
def test_what_cannot_be_saved_is_told(tmp_path, turns, name, reason):
    assert reason in chat.save(turns, str(tmp_path / name))
    assert list(tmp_path.iterdir()) == []


def test_colours_are_for_terminals_alone(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert chat.painted("bot") == "bot"
    monkeypatch.setattr("sys.stdout", Terminal())
    assert chat.painted("bot") == "\x1b[36mbot\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert chat.painted("bot") == "bot"


def test_replies_come_word_by_word(models, monkeypatch):
    written = []
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setattr("sys.stdout.write", written.append)
    rnn = {"b": models["runs/b"]}
    chat.TerminalChat(rnn, in_terminal=True).say("Hello")
    streamed, pieces = "".join(written), len(written)
    written.clear()
    chat.TerminalChat(rnn, in_terminal=False).say("Hello")
    assert streamed.endswith("".join(written)) and pieces > len(written) + 2


def test_in_a_pipe_each_model_prints_a_line_for_each_line(models, monkeypatch, capsys):
    two = chat.TerminalChat(models, in_terminal=False)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n/reset\n/jump  \n/undo\nfail\n"))

    def answer(context, model, tokenizer, **options):
        if context[-1] == "fail" and model is models["runs/b"][0]:
            raise ValueError("it fails")
        return f"a\nreply to {context[-1]}"

    monkeypatch.setattr(chat, "generate_response", answer)
    chat.converse(two)
    out, err = capsys.readouterr()
    said = [f"{name}: a reply to /jump" for name in models]
    assert out.split("\n") == [""] * 4 + said + [""] * 2 + ["runs/a: a reply to fail", "", ""]
    assert err == "The dialogue is forgotten.\nForgotten.\nit fails\n"


def test_a_model_given_twice_is_refused():
    with pytest.raises(UsageError, match="'starter' is given twice: give different models"):
        chat.chat(["starter", "starter"])
