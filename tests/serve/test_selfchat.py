"""Self-chat: who speaks when, from which openings, and what is left."""

import json

import pytest
import torch

from seq2seq_dialog.data.formats import readers
from seq2seq_dialog.data.turns import as_dialogue
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.serve import selfchat
from seq2seq_dialog.serve.inference import generate_response
from seq2seq_dialog.serve.selfchat import (
    SAMPLING,
    Participant,
    as_rows,
    decoding,
    read_openings,
    replies_of,
    talk,
)
from seq2seq_dialog.settings import DataArguments

OPENINGS = ["Is the room still free?", "Hello, who is it?", "Where is the bread?"]


@pytest.fixture
def speakers(make_rnn, tokenizer):
    """Two models whose replies differ."""
    models = make_rnn(), make_rnn(attention="multiplicative")
    names = zip("xy", models, strict=True)
    return [Participant(name, model, tokenizer, {}) for name, model in names]


def test_each_turn_is_the_reply_of_whose_turn_it_is(speakers):
    done = []
    dialogues = talk(speakers, OPENINGS, 4, progress=done.append)
    assert sum(done) == 9 and [turns[0] for turns in dialogues] == OPENINGS
    for number, turns in enumerate(dialogues):
        for turn in range(1, 4):
            _, model, tokenizer, _ = speakers[(number + turn) % 2]
            assert turns[turn] == generate_response(turns[:turn], model, tokenizer)
    rows = as_rows(dialogues, ["x", "y"])
    roles = [[message["role"] for message in row["messages"]] for row in rows]
    assert roles == [list("ABAB"), list("BABA"), list("ABAB")]
    assert {row["models"]["B"] for row in rows} == {"y"}
    assert list(replies_of(rows[:1], "A")) == [(dialogues[0][:2], dialogues[0][2])]
    assert len(list(replies_of(rows, "AB"))) == 9


def test_the_seed_makes_the_dialogues_and_chance_elsewhere_stays(speakers):
    alone = [speakers[0]._replace(options=SAMPLING)]
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = talk(alone, OPENINGS, 3, seed=1)
    assert torch.rand(1) == expected
    assert first == talk(alone, OPENINGS, 3, seed=1) != talk(alone, OPENINGS, 3, seed=2)
    (row, *_) = as_rows(first, ["x"])
    assert row["models"] == {"A": "x", "B": "x"}


def test_an_empty_reply_ends_a_dialogue(speakers, monkeypatch):
    def answer(contexts, *_, **__):
        return ["" if len(turns) == 2 and turns[0] == OPENINGS[0] else "yes" for turns in contexts]

    monkeypatch.setattr("seq2seq_dialog.serve.selfchat.generate_responses", answer)
    assert [len(turns) for turns in talk(speakers, OPENINGS, 5)] == [2, 5, 5]


def test_a_few_dialogues_begin_as_test_dialogues_do(make_rnn, tokenizer, monkeypatch):
    contexts = [[f"opening {i // 2}", "later"][: 1 + i % 2] for i in range(20)]
    predictions = [{"context": ["persona: I bake.", *turns]} for turns in contexts]
    rows = selfchat.sample_talks("run", make_rnn(), tokenizer, predictions, turns=2)
    said = [[message["content"] for message in row["messages"]] for row in rows]
    assert [turns[0] for turns in said] == ["opening 0", "opening 3", "opening 6"]
    assert rows[0]["models"]["A"] == "run" and all(len(turns) == 2 for turns in said)
    assert selfchat.sample_talks("run", make_rnn(), tokenizer, [{"context": ["a", "b"]}]) == []
    monkeypatch.setattr(selfchat, "MOST_PARAMETERS", 1000)
    assert selfchat.sample_talks("run", make_rnn(), tokenizer, predictions) == []


@pytest.mark.parametrize(
    ("saved", "given", "expected"),
    [
        (False, {}, SAMPLING),
        (False, {"do_sample": True, "top_p": 0.5}, SAMPLING | {"top_p": 0.5}),
        (False, {"do_sample": False, "num_beams": 2}, {"do_sample": False, "num_beams": 2}),
        (True, {"top_k": 7}, {"top_k": 7}),
    ],
)
def test_replies_are_sampled_unless_it_is_said(make_rnn, saved, given, expected):
    model = make_rnn()
    model.generation_config.do_sample = saved
    assert decoding(model, given) == expected


def test_data_reads_the_dialogues_as_they_are(tmp_path):
    rows = as_rows([["Hi!", "Hello.", "Bye."], ["Good day.", "Yes?"]], ["x", "y"])
    path = tmp_path / "selfchat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    ((read, name),) = readers(str(path), DataArguments(data=str(path))).values()
    dialogues = [as_dialogue(talk) for talk in read(lambda kind, line: None)]
    assert name == "1 file as table"
    assert [dialogue.utterances for dialogue in dialogues] == [
        ["Hi!", "Hello.", "Bye."],
        ["Good day.", "Yes?"],
    ]
    assert [len(dialogue.pairs) for dialogue in dialogues] == [2, 1]  # everybody's replies
    assert read_openings(str(path)) == ["Hi!", "Good day."]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "Is it far?\n\n  Hello, you. \nIs it far?\n"),
        ("a.txt", "Is it far? __eou__ No. __eou__\nHello, you. __eou__\n"),
        ("a.jsonl", '{"context": ["Is it far?", "No."], "reference": "x", "reply": "y"}\n'
         '{"context": ["Hello, you."], "reference": "x", "reply": "y"}\n'),
        ("a.jsonl", '{"context": ["persona: Bees.", "Is it far?"], "response": "x"}\n'
         '{"context": ["persona: Bees.", "Hello, you.", "Hi."], "response": "x"}\n'),
        ("a.csv", "dialogue_id,speaker,text\n1,ann,Is it far?\n1,bo,No.\n2,bo,\"Hello, you.\"\n"),
    ],
    ids=["lines", "dialogue text", "predictions", "personas", "table"],
)  # fmt: skip
def test_openings_are_first_turns(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_openings(str(tmp_path / name)) == ["Is it far?", "Hello, you."]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no .*openings, or dialogues"),
        (b" \n", "holds no opening"),
        (b"a,b\n1,2\n", "has the columns 'a', 'b', but needs"),
        (b"Hall\xc3 \xff\xfe\n", "is no UTF-8|not UTF-8|cannot"),
    ],
    ids=["missing", "empty", "columns", "bytes"],
)
def test_openings_that_cannot_be_read(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_openings(str(tmp_path / "a.txt"))
