"""What `reply` answers of each form: rows of tables, ends of dialogues, lines of text."""

import json
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.test_chat_exports import SAMPLES as CHATS

from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.serve.contexts import read_contexts
from seq2seq_dialog.serve.reply import check_entries

ROLES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi!"}]
ANSWER = {"role": "assistant", "content": "Hello."}
ASKED = {"conversation_id": "talk:1", "context": ["Hi!"]}
FORMS = {  # text, contexts, and what is written besides a reply
    "a column of contexts": (
        'id,context\n1,Hi!\n2,"Tea, or\nnot? __eou__ Yes."\n',
        [["Hi!"], ["Tea, or not?", "Yes."]],
        [{"id": "1", "context": "Hi!"}, {"id": "2", "context": "Tea, or\nnot? __eou__ Yes."}],
    ),
    "a column alone": ("question\nHi!\nTea?\n", [["Hi!"], ["Tea?"]], None),
    "pairs": (
        "prompt\tanswer\nHi!\tHello.\n",
        [["Hi!"]],
        [{"prompt": "Hi!", "answer": "Hello."}],
    ),
    "an array": (json.dumps([{"context": ["Hi!", "Tea?"], "n": 1}]), [["Hi!", "Tea?"]], None),
    "what stands before": (
        json.dumps([{"prompt": "Hi!", "persona": "I bake.", "system": "Be kind."}]),
        [["instruction: Be kind.", "persona: I bake.", "Hi!"]],
        None,
    ),
    "messages": (
        json.dumps({"messages": ROLES}) + "\n" + json.dumps({"messages": [*ROLES, ANSWER]}),
        [["instruction: Be kind.", "Hi!"]] * 2,
        [ASKED, {**ASKED, "conversation_id": "talk:2", "reference": "Hello."}],
    ),
    "an utterance a row": (
        "conversation_id,speaker,text\na,ann,Hi!\na,bo,Tea?\nb,ann,Bye.\n",
        [["Hi!", "Tea?"], ["Bye."]],
        [
            {"conversation_id": "talk:a", "context": ["Hi!", "Tea?"]},
            {"conversation_id": "talk:b", "context": ["Bye."]},
        ],
    ),
    "dialogue text": ("Hi! __eou__ Tea? __eou__\nNo. __eou__\n", [["Hi!", "Tea?"], ["No."]], None),
    "text": (
        "Hello there, human\nYes, question\n",
        [["Hello there, human"], ["Yes, question"]],
        None,
    ),
    "lines of names": (
        "Ann: Hi!\nBo: Tea?\nAnn: Yes.\nBo: Now?\n",
        [["Hi!", "Tea?", "Yes.", "Now?"]],
        None,
    ),
}


def turns_of(context):
    parts = context.split("__eou__") if isinstance(context, str) else context
    return [part.strip() for part in parts if part.strip()]


@pytest.mark.parametrize("name", FORMS)
def test_what_is_answered_in_each_form(name, tmp_path):
    text, contexts, records = FORMS[name]
    (tmp_path / "talk").write_text(text, encoding="utf-8")
    entries = list(read_contexts(tmp_path / "talk"))
    assert [turns_of(entry.context) for entry in entries] == contexts
    if records is not None:
        assert [entry.record for entry in entries] == records


def test_a_column_of_parquet_is_answered(tmp_path):
    pq.write_table(pa.table({"prompt": ["Hi!"], "at": [datetime(2024, 1, 1)]}), tmp_path / "talk")
    (entry,) = read_contexts(tmp_path / "talk")
    assert entry.context == ["Hi!"] and check_entries(tmp_path / "talk", False)[0] == 1


def test_the_ends_of_chats_in_a_folder_are_answered(tmp_path):
    for name, text in CHATS["Slack"][1].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    entries = list(read_contexts(tmp_path))
    assert entries and all(entry.record["context"] == entry.context for entry in entries)
    assert entries[0].context[0].startswith("Hi @Ben B.")  # users.json is no chat, but is read


def test_a_table_is_written_as_one_where_it_can_be(tmp_path, capsys):
    path = tmp_path / "talk.csv"
    path.write_text("response,context\nHello.,Hi!\n")
    assert check_entries(path, True)[2] == ["reference", "context", "response"]
    assert capsys.readouterr().err == "Contexts read: 1 as table\n"
    path.write_text(json.dumps([{"context": ["Hi!"]}]))
    with pytest.raises(UsageError, match=r"row 1 has lists, .* end in .jsonl"):
        check_entries(path, True)
