"""`convert`: dialogue text and JSON Lines, there and back without loss."""

import gzip
import json

import pytest
from helpers.corpus import sample_dialogues
from hypothesis import given
from hypothesis import strategies as st

from seq2seq_dialog.data.convert import convert
from seq2seq_dialog.data.formats import readers
from seq2seq_dialog.data.turns import as_dialogue
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.settings import DataArguments

WORD = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8
).filter(lambda word: "__eou__" not in word and not word.startswith("\ufeff"))
UTTERANCE = st.lists(WORD, min_size=1, max_size=4).map(" ".join)
DIALOGUES = st.lists(st.lists(UTTERANCE, min_size=2, max_size=5), min_size=1, max_size=4)


def lines(path):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        return file.read().splitlines()


@given(dialogues=DIALOGUES)
def test_text_comes_back_equal(dialogues, tmp_path_factory):
    folder = tmp_path_factory.mktemp("convert")
    text = "".join(" ".join(f"{turn} __eou__" for turn in turns) + "\n" for turns in dialogues)
    (folder / "a.txt").write_text(text, encoding="utf-8", newline="\n")
    convert(str(folder / "a.txt"), str(folder / "b.jsonl"))
    assert [json.loads(line)["dialog"] for line in lines(folder / "b.jsonl")] == dialogues
    convert(str(folder / "b.jsonl"), str(folder / "c.txt"))
    assert (folder / "c.txt").read_text(encoding="utf-8") == text


@given(dialogues=DIALOGUES)
def test_who_speaks_and_what_stands_before_come_back_equal(dialogues, tmp_path_factory):
    folder = tmp_path_factory.mktemp("convert")
    rows = [
        {
            "conversation_id": f"a:{number}",
            "messages": [
                {"role": ["ann", "bo"][place % 2], "content": text}
                for place, text in enumerate(turns)
            ],
            "system": "Be kind.",
            "persona": "I bake.",
        }
        for number, turns in enumerate(dialogues)
    ]
    text = "\n".join(json.dumps(row) for row in rows)
    (folder / "in.jsonl").write_text(text, encoding="utf-8")
    convert(str(folder / "in.jsonl"), str(folder / "a.jsonl.gz"))
    written = [json.loads(line) for line in lines(folder / "a.jsonl.gz")]
    for row, given_row in zip(written, rows, strict=True):
        assert row.pop("conversation_id") == f"in:{given_row.pop('conversation_id')}"
        assert row == given_row


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Is it open?", "context": "It opens at nine.", "response": "No."},
        {"context": ["Hi.", "Ho."], "response": "Bye.", "system": "Be kind.", "persona": "I bake."},
        {"prompt": "Hi.", "chosen": "Ho.", "rejected": "No.", "knowledge": "It rains."},
    ],
)
def test_what_stands_before_a_pair_comes_back_equal(row, tmp_path):
    others = [{**row, "conversation_id": "a"}, {**row, "conversation_id": "a", "knowledge": "x"}]
    columns = "{rejected: rejected}" if "rejected" in row else None
    for name, rows in (("one", [row]), ("two", others)):
        source, path = tmp_path / f"{name}.jsonl", tmp_path / f"{name}_again.jsonl"
        source.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        convert(str(source), str(path), columns=columns)
        before, after = (pairs_of(each, columns) for each in (source, path))
        assert before == after and len(after) == len(rows)


def pairs_of(path, columns=None) -> list:
    args = DataArguments(data=str(path), columns=columns)
    (read, _), *_ = readers(str(path), args).values()
    return [pair for talk in read(lambda kind, number: None) for pair in as_dialogue(talk).pairs]


@pytest.mark.parametrize("ending", [".txt", ".jsonl"])
@pytest.mark.parametrize("turns", [["Hi.", "Ho."] * 1100, ["a" * 60_000] * 20])
def test_what_is_too_long_to_be_read_back_is_cut(turns, ending, tmp_path):
    rows = [{"speaker": "ab"[i % 2], "text": text} for i, text in enumerate(turns)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    path = tmp_path / f"b{ending}"
    convert(str(tmp_path / "a.jsonl"), str(path))
    (read, _), *_ = readers(str(path), DataArguments(data=str(path))).values()
    talks = list(read(lambda kind, number: None))
    assert [turn.text for talk in talks for turn in talk.turns] == turns
    assert 2 <= len(talks) < 5 and all(len(talk.turns) <= 1000 for talk in talks)


def test_splits_become_a_file_each(tmp_path, capsys):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        text = "".join(
            " ".join(f"{turn} __eou__" for turn in turns) + "\n" for turns in sample_dialogues(4)
        )
        (tmp_path / split / f"dialogues_{split}.txt").write_text(text, encoding="utf-8")
    convert(str(tmp_path), str(tmp_path / "out" / "talk.jsonl"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "talk_test.jsonl",
        "talk_train.jsonl",
    ]
    assert len(lines(tmp_path / "out" / "talk_test.jsonl")) == 4
    assert "Read as: train: dialogue text" in capsys.readouterr().out


@pytest.mark.parametrize("output", ["talk", "talk.csv", ".txt", "talk.json"])
def test_another_ending_is_refused(output):
    with pytest.raises(UsageError, match=r"has to end in \.txt, \.jsonl"):
        convert("none", output)


def test_names_and_numbers_are_replaced_on_request(tmp_path):
    rows = [
        {"speaker": "Ann", "text": "I am Ann, ann@example.org."},
        {"speaker": "Bo", "text": "Hi"},
    ]
    source = tmp_path / "a.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    convert(str(source), str(tmp_path / "b.txt"), anonymize=True)
    assert lines(tmp_path / "b.txt") == ["I am [name], [email]. __eou__ Hi __eou__"]


def test_contacts_in_dialogue_text_are_replaced_on_request(tmp_path):
    (tmp_path / "a.txt").write_text("Mail ann@example.org . __eou__ I will . __eou__\n")
    convert(str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), anonymize=True)
    assert lines(tmp_path / "b.txt") == ["Mail [email] . __eou__ I will . __eou__"]


def test_speakers_and_what_stands_before_are_anonymous_too(tmp_path):
    said = [{"role": "Ann", "content": "I am Ann."}, {"role": "Bo", "content": "Hi, Ann"}]
    row = {"conversation_id": "Ann", "messages": said, "system": "Write to ann@example.org, Bo."}
    (tmp_path / "Ann.jsonl").write_text(json.dumps(row), encoding="utf-8")
    convert(str(tmp_path / "Ann.jsonl"), str(tmp_path / "b.jsonl"), anonymize=True)
    (written,) = map(json.loads, lines(tmp_path / "b.jsonl"))
    assert written["conversation_id"] == "1:1"
    assert [message["role"] for message in written["messages"]] == ["person 1", "person 2"]
    assert written["messages"][1]["content"] == "Hi, [name]"
    assert written["system"] == "Write to [email], [name]."


@pytest.mark.parametrize("name", ["a.txt", "b.txt", "c.csv"])
def test_what_is_refused_leaves_no_file(name, tmp_path):
    late = "speaker,text\n" + 60 * "a,b\n" + "a,b,c\n"  # behind what a form is recognised by
    texts = {"a.txt": "\n", "b.txt": "Caf\ufffd\nno marks\n", "c.csv": late}
    (tmp_path / name).write_text(texts[name], encoding="utf-8")
    with pytest.raises(UsageError, match=r"is empty|has no '__eou__'|line 62 has 3 cells"):
        convert(str(tmp_path / name), str(tmp_path / "out.jsonl"))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_who_speaks_is_kept_where_some_are_not_known(tmp_path):
    messages = [{"role": name, "content": "Hi."} for name in ("Ann", None, "Bo")]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": messages}), encoding="utf-8")
    convert(str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"))
    (written,) = map(json.loads, lines(tmp_path / "b.jsonl"))
    assert written["messages"] == messages


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "a.txt").write_text("Hi . __eou__ Hello . __eou__\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"a.txt' is there already"):
        convert(str(tmp_path / "a.txt"), str(tmp_path / "a.txt"))


def test_no_split_is_written_where_another_cannot_be(tmp_path):
    (tmp_path / "in").mkdir()
    for split in ("train", "test"):
        path = tmp_path / "in" / f"{split}.csv"
        path.write_text("speaker,text\nann,Is it far?\nbo,Two miles.\n", encoding="utf-8")
    (tmp_path / "talk_test.jsonl").touch()
    with pytest.raises(UsageError, match=r"talk_test.jsonl' is there already"):
        convert(str(tmp_path / "in"), str(tmp_path / "talk.jsonl"))
    assert not (tmp_path / "talk_train.jsonl").exists()
