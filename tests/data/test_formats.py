"""Any source to rows: recognised by content, tables by their columns, turns, whose replies."""

import gzip
import io
import json
import lzma
import re
import tarfile
import zipfile
from datetime import datetime, time

import numpy as np
import pandas as pd
import pytest
from data.test_chat_exports import SAMPLES as CHATS
from datasets import Dataset, DatasetDict, disable_progress_bars
from helpers.corpus import ROOT
from helpers.corpus_formats import SAMPLES as CORPORA
from rich.console import Console

from seq2seq_dialog.data import files, formats
from seq2seq_dialog.data.corpus import Corpus, audit_corpus
from seq2seq_dialog.data.formats import (
    READERS,
    find_files,
    load_content,
    read_talks_of,
    recognise,
)
from seq2seq_dialog.data.readers import json_export
from seq2seq_dialog.data.readers.table_forms import choose_form
from seq2seq_dialog.data.readers.times import parse_time
from seq2seq_dialog.data.rows import load_rows, open_rows, utterances
from seq2seq_dialog.data.turns import Talk
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.serve.contexts import read_contexts
from seq2seq_dialog.settings import DataArguments

disable_progress_bars()
TURNS = ["Is the shop open?", "Until six.", "And on Sunday?", "No, closed."]
PAIRS = [(TURNS[:turn], TURNS[turn]) for turn in (1, 2, 3)]
AGENT = [(TURNS[:1], TURNS[1]), (TURNS[:3], TURNS[3])]  # what the one who is asked says
ROLES = ["user", "assistant", "user", "assistant"]


def messages(speaker="role", text="content", names=ROLES):
    return [{speaker: name, text: turn} for name, turn in zip(names, TURNS, strict=True)]


def table(names, rows, delimiter=","):
    quoted = [
        [f'"{cell}"' if delimiter in str(cell) else str(cell) for cell in row] for row in rows
    ]
    return "\n".join(delimiter.join(row) for row in [names, *quoted]) + "\n"


def in_one_split(rows):
    """The pairs of all splits: a single dialogue lies in one of them."""
    return [(row["context"], row["response"]) for part in rows.values() for row in part]


def written(tmp_path, name, text):
    """Write a source into a folder of its own."""
    path = tmp_path / "data" / name
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    return path


def load(path, **options):
    """The pairs of a source of which the dialogues may fall into any split."""
    path.parent.mkdir(exist_ok=True)
    train = path.with_name("train") / path.name
    train.parent.mkdir(exist_ok=True)
    path.rename(train)
    other = path.with_name("test")
    other.mkdir(exist_ok=True)
    (other / path.name).write_bytes(train.read_bytes())
    rows, problems = load_rows(DataArguments(data=str(path.parent), detokenize=False, **options))
    assert in_one_split({"": rows["train"]}) == in_one_split({"": rows["test"]})
    return in_one_split({"": rows["train"]}), next(iter(problems.values()))


SPEAKERS = ["ann", "bo", "ann", "bo"]
SUPPORT = ["customer", "agent"] * 2
UTTERANCES = [("c1", name, turn) for name, turn in zip(SPEAKERS, TURNS, strict=True)]
FRAME = pd.DataFrame(UTTERANCES, columns=["conversation_id", "who", "text"])
ORIENTS = ("split", "table", "index", "columns", "records")
TEAMS = [
    {
        "id": str(place),
        "replyToId": None,
        "messageType": "message",
        "createdDateTime": f"2024-03-01T10:0{place}:00.000Z",
        "from": {"application": None, "user": {"id": "7", "displayName": name}},
        "body": {"contentType": "html", "content": f"<p>{turn}<![x[y]]><br></p>"},
    }
    for place, (_, name, turn) in enumerate(UTTERANCES)
]
TABLES = {
    "csv.csv": (table(["conversation_id", "Speaker", "text"], UTTERANCES), PAIRS),
    "ids-alone.csv": (
        table(["Dialogue ID", "utterance"], [("7", turn) for turn in TURNS]),
        PAIRS,
    ),
    "semicolons.csv": (
        table(
            ["ticket", "sender", "body"],
            [
                ("c1", name, turn)
                for name, turn in zip(["customer", "agent"] * 2, TURNS, strict=True)
            ],
            ";",
        ),
        AGENT,
    ),
    "newest-first.tsv": (
        table(
            ["author", "created_at", "message"],
            [
                (name, f"2024-03-01T10:0{minute}:00Z", turn)
                for minute, (_, name, turn) in enumerate(UTTERANCES)
            ][::-1],
            "\t",
        ),
        PAIRS,
    ),
    "date-and-time.csv": (
        table(
            ["date", "time", "sender", "message"],
            [
                ("31.01.2024", "23:58", "ann", TURNS[0]),
                ("01.02.2024", "0:01", "bo", TURNS[1]),
                ("01.02.2024", "10:00", "ann", TURNS[2]),
                ("01.02.2024", "10:01", "bo", TURNS[3]),
            ],
        ),
        [(TURNS[:1], TURNS[1]), (TURNS[2:3], TURNS[3])],
    ),
    "clock-over-midnight.csv": (
        table(
            ["time", "sender", "message"],
            [
                (clock, name, turn)
                for clock, (_, name, turn) in zip(
                    ["23:58", "23:59", "0:01", "0:02"], UTTERANCES, strict=True
                )
            ],
        ),
        PAIRS,
    ),
    "pairs.csv": (
        table(["question", "answer"], [TURNS[:2], TURNS[2:]]),
        [
            (TURNS[:1], TURNS[1]),
            (TURNS[2:3], TURNS[3]),
        ],
    ),
    "pairs-without-names.txt": (
        f"{TURNS[0]}\t{TURNS[1]}\n{TURNS[2]}\t{TURNS[3]}\n",
        [
            (TURNS[:1], TURNS[1]),
            (TURNS[2:3], TURNS[3]),
        ],
    ),
    "pairs-that-come-again.tsv": (
        "hi\thello\nhow are you\tfine\nhi\they\nbye\tsee you\n",
        [
            (["hi"], "hello"),
            (["how are you"], "fine"),
            (["hi"], "hey"),
            (["bye"], "see you"),
        ],
    ),
    "turns-without-names.tsv": (
        "".join(f"{name}\t{text}\n" for _, name, text in UTTERANCES),
        PAIRS,
    ),
    "list-column.csv": (
        'id,dialog\n1,"' + json.dumps(TURNS).replace('"', '""') + '"\n',
        PAIRS,
    ),
    "messages.jsonl": (
        json.dumps({"messages": [{"role": "system", "content": "Be kind."}, *messages()]}),
        [(["instruction: Be kind.", *context], response) for context, response in AGENT],
    ),
    "parts.jsonl": (
        json.dumps(
            {
                "messages": [
                    {"role": each["role"], "content": [{"type": "text", "text": each["content"]}]}
                    for each in messages()
                ]
            }
        ),
        AGENT,
    ),
    "sharegpt.json": (
        json.dumps([{"id": "x", "conversations": messages("from", "value", ["human", "gpt"] * 2)}]),
        AGENT,
    ),
    "alpaca.json": (
        json.dumps([{"instruction": "Answer.", "input": TURNS[0], "output": TURNS[1]}]),
        [([f"Answer. {TURNS[0]}"], TURNS[1])],
    ),
    "dolly.jsonl": (
        "\n".join(
            json.dumps({"instruction": question, "context": context, "response": answer})
            for question, context, answer in [
                (TURNS[0], "It opens at nine.", TURNS[1]),
                (TURNS[2], "", TURNS[3]),
            ]
        ),
        [(["knowledge: It opens at nine.", TURNS[0]], TURNS[1]), (TURNS[2:3], TURNS[3])],
    ),
    "passages.csv": (
        table(["context", "question", "answer"], [("It opens at nine.", *TURNS[:2])]),
        [(["knowledge: It opens at nine.", TURNS[0]], TURNS[1])],
    ),
    "turns-before-a-question.jsonl": (
        json.dumps({"context": TURNS[:2], "question": TURNS[2], "answer": TURNS[3]}),
        PAIRS[2:],
    ),
    "history-of-alpaca.json": (
        json.dumps(
            [
                {"instruction": TURNS[2], "input": "Or Monday?", "output": TURNS[3]}
                | {"history": [TURNS[:2]], "system": "Be kind."},
                {"instruction": TURNS[0], "input": "", "output": TURNS[1], "history": []},
            ]
        ),
        [
            (["instruction: Be kind.", *TURNS[:2], f"{TURNS[2]} Or Monday?"], TURNS[3]),
            (TURNS[:1], TURNS[1]),
        ],
    ),
    "history-of-chatglm.jsonl": (
        json.dumps({"prompt": TURNS[2], "response": TURNS[3], "history": [TURNS[:2]]}),
        PAIRS[2:],
    ),
    "history-alone.jsonl": (
        json.dumps({"history": TURNS[:3], "source": "shop", "response": TURNS[3]}),
        PAIRS[2:],
    ),
    "preferences.jsonl": (
        json.dumps({"prompt": TURNS[0], "chosen": TURNS[1], "rejected": "Why?"}),
        [(TURNS[:1], TURNS[1])],
    ),
    "odd-parts.jsonl": (
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": [["x"], {"text": 5}, TURNS[0]]},
                    {"role": "assistant", "content": TURNS[1]},
                ]
            }
        ),
        PAIRS[:1],
    ),
    "numbers.jsonl": (json.dumps({"context": 5, "response": 7}), [(["5"], "7")]),
    "reply-message.jsonl": (
        json.dumps({"context": TURNS[0], "response": {"role": "bot", "content": TURNS[1]}}),
        PAIRS[:1],
    ),
    "persona.jsonl": (
        json.dumps({"personality": ["I sell.", "I am old."], "facts": "Closed.", "dialog": TURNS}),
        [(["persona: I sell. I am old.", "knowledge: Closed.", *c], r) for c, r in PAIRS],
    ),
    "persona-of-pairs.jsonl": (
        "\n".join(
            json.dumps({"persona": "I sell.", "context": c[-2:], "response": r}) for c, r in PAIRS
        ),
        [(["persona: I sell.", *c[-2:]], r) for c, r in PAIRS],
    ),
    "exchanges.jsonl": (  # as ParlAI writes conversations
        json.dumps(
            {
                "dialog": [
                    [{"id": "a", "text": TURNS[0]}, {"id": "b", "text": TURNS[1]}],
                    [{"id": "a", "text": TURNS[2]}, {"id": "b", "text": TURNS[3]}],
                ],
                "context": [],
            }
        ),
        PAIRS,
    ),
    "support.json": (
        json.dumps([{"conversation_id": 1, "utterances": messages("speaker", "text", SUPPORT)}]),
        AGENT,
    ),
    "support-by-name.json": (
        json.dumps([{"conversation_id": 1, "utterances": messages("speaker", "text", SPEAKERS)}]),
        PAIRS,
    ),
    "letters.json": (json.dumps({"dialog": [["A", TURNS[0]], ["B", TURNS[1]]]}), PAIRS[:1]),
    "names-in-cells.jsonl": (
        "\n".join(
            json.dumps({"dialog": [[name, turn] for _, name, turn in part]})
            for part in (UTTERANCES[:2], UTTERANCES[2:])
        ),
        [PAIRS[0], (TURNS[2:3], TURNS[3])],
    ),
    "roles-in-cells.json": (
        json.dumps([{"id": 7, "turns": list(zip(ROLES, TURNS, strict=True))}]),
        AGENT,
    ),
    "questions-of-a-conversation.csv": (
        table(["conversation_id", "question", "answer"], [("c", *TURNS[:2]), ("c", *TURNS[2:])]),
        [(TURNS[:1], TURNS[1]), (TURNS[2:3], TURNS[3])],
    ),
    "lists.json": (json.dumps([TURNS]), PAIRS),
    "one-dialogue.json": (json.dumps(TURNS), PAIRS),
    "lists.jsonl": (json.dumps(TURNS), PAIRS),
    "speakers-in-lists.json": (json.dumps([row[1:] for row in UTTERANCES]), PAIRS),
    "speakers-in-lists.jsonl": ("\n".join(json.dumps(row[1:]) for row in UTTERANCES), PAIRS),
    "numbers-in-lists.json": (json.dumps(list(zip([1, 2, 1, 2], TURNS, strict=True))), PAIRS),
    "roles-in-lists.json": (json.dumps(list(zip(ROLES[:2], TURNS[:2], strict=True))), PAIRS[:1]),
    "two-turns-each.json": (
        json.dumps([["Is it open?", "Yes."], ["Hi", "Hello"], ["Tea?", "Please."], ["Hi", "Hey"]]),
        [(["Is it open?"], "Yes."), (["Hi"], "Hello"), (["Tea?"], "Please."), (["Hi"], "Hey")],
    ),
    **{f"pandas-{orient}.json": (FRAME.to_json(orient=orient), PAIRS) for orient in ORIENTS},
    "pandas-list.json": (json.dumps(FRAME.to_dict(orient="list")), PAIRS),
    "pandas-tight.json": (json.dumps(FRAME.to_dict(orient="tight")), PAIRS),
    "pandas-one-column.json": (pd.DataFrame({"dialog": [TURNS]}).to_json(), PAIRS),
    "pandas-pairs.json": (
        pd.DataFrame({"question": TURNS[::2], "answer": TURNS[1::2]}).to_json(orient="split"),
        [(TURNS[:1], TURNS[1]), (TURNS[2:3], TURNS[3])],
    ),
    "turns-with-labels.json": (json.dumps({"dialog": TURNS, "act": [2, 1, 2, 1]}), PAIRS),
    "by-name.json": (json.dumps({"talk-1": TURNS}), PAIRS),
    "around.json": (json.dumps({"version": 1, "data": [{"dialogue": TURNS}]}), PAIRS),
    "object.json": (json.dumps({"messages": messages("sender", "text", SPEAKERS)}), PAIRS),
    "google-chat.json": (
        json.dumps(
            {
                "messages": [
                    {
                        "creator": {"name": name, "email": f"{name}@example.org"},
                        "created_date": f"Friday, March 1, 2024 at 10:0{minute}:00\u202fAM UTC",
                        "text": text,
                    }
                    for minute, (_, name, text) in enumerate(UTTERANCES)
                ][::-1]
            }
        ),
        PAIRS,
    ),
    "claude.json": (
        json.dumps(
            [
                {
                    "uuid": "x",
                    "name": "Shops",
                    "chat_messages": [
                        each | {"content": [{"type": "text", "text": each["text"]}]}
                        for each in messages("sender", "text", ["human", "assistant"] * 2)
                    ],
                }
            ]
        ),
        AGENT,
    ),
    "claude-parts.json": (  # where the text beside the parts is empty
        json.dumps(
            [
                {
                    "uuid": "x",
                    "chat_messages": [
                        {
                            "text": "",
                            "sender": name,
                            "content": [
                                {"type": "thinking", "thinking": "A shop."},
                                {"type": "tool_use", "name": "search", "input": {}},
                                {"type": "text", "text": turn},
                            ],
                        }
                        for name, turn in zip(["human", "assistant"] * 2, TURNS, strict=True)
                    ],
                }
            ]
        ),
        AGENT,
    ),
    "gemini.jsonl": (
        json.dumps(
            {
                "systemInstruction": {"role": "system", "parts": [{"text": "Be kind."}]},
                "contents": [
                    {"role": role, "parts": [{"text": turn}]}
                    for role, turn in zip(["user", "model"] * 2, TURNS, strict=True)
                ],
            }
        ),
        [(["instruction: Be kind.", *context], response) for context, response in AGENT],
    ),
    "langchain.json": (
        json.dumps(
            {
                "messages": [
                    {"type": name, "data": {"content": turn, "additional_kwargs": {}}}
                    for name, turn in zip(["human", "ai"] * 2, TURNS, strict=True)
                ]
            }
        ),
        AGENT,
    ),
    "preferences-of-openai.jsonl": (
        json.dumps(
            {
                "input": {"messages": messages()[:3], "tools": []},
                "preferred_output": messages()[3:],
                "non_preferred_output": [{"role": "assistant", "content": "Why?"}],
            }
        ),
        PAIRS[2:],
    ),
    "matrix.json": (
        json.dumps(
            {
                "room_name": "Shop",
                "messages": [
                    {"type": "m.room.member", "sender": "@ann:x", "content": {"body": "joined"}},
                    {
                        "type": "m.room.message",
                        "sender": "@bo:x",
                        "content": {"msgtype": "m.image", "body": "a.png"},
                        "origin_server_ts": 1709280000000,
                    },
                    *(
                        {
                            "type": "m.room.message",
                            "sender": f"@{name}:x",
                            "content": {"msgtype": "m.text", "body": turn},
                            "origin_server_ts": 1709280000000 + place,
                        }
                        for place, (_, name, turn) in enumerate(UTTERANCES)
                    ),
                ],
            }
        ),
        PAIRS,
    ),
    "teams.json": (
        json.dumps(
            {
                "@odata.count": 5,
                "value": [
                    *TEAMS[::-1],
                    {
                        "id": "9",
                        "messageType": "systemEventMessage",
                        "from": None,
                        "body": {"contentType": "html", "content": "<systemEventMessage/>"},
                    },
                ],
            }
        ),
        PAIRS,
    ),
    "skype.json": (
        json.dumps(
            {
                "userId": "8:ann",
                "conversations": [
                    {
                        "id": "8:bo",
                        "MessageList": [
                            {
                                "messagetype": kind,
                                "originalarrivaltime": f"2024-03-01T10:0{place}:00.000Z",
                                "from": f"8:{name}",
                                "content": text,
                            }
                            for place, (kind, name, text) in enumerate(
                                [
                                    ("RichText", "ann", f"<b>{TURNS[0]}</b>"),
                                    ("Event/Call", "bo", "<partlist/>"),
                                    ("RichText/UriObject", "bo", "<a>To view this file</a>"),
                                    ("RichText", "bo", TURNS[1]),
                                    (
                                        *("RichText", "ann"),
                                        f"<quote>{TURNS[1]}</quote>A &lt; B? {TURNS[2]}",
                                    ),
                                    ("Text", "bo", TURNS[3]),
                                ]
                            )
                        ][::-1],
                    }
                ],
            }
        ),
        [
            PAIRS[0],
            (TURNS[:2], f"A < B? {TURNS[2]}"),
            ([*TURNS[:2], f"A < B? {TURNS[2]}"], TURNS[3]),
        ],
    ),
    "intercom.csv": (
        table(
            ["Conversation ID", "Author type", "Author name", "Author ID", "Message body"],
            [
                (1, role, "Ann", place, f"<p>{turn}</p>")
                for place, (role, turn) in enumerate(zip(["user", "admin"] * 2, TURNS, strict=True))
            ],
            ";",
        ),
        AGENT,
    ),
    "html-in-one-text.json": (
        json.dumps({"dialog": ["<p>What is this?</p>", "A paragraph."]}),
        [(["<p>What is this?</p>"], "A paragraph.")],
    ),
    "excel.csv": (
        "sep=;\r\n" + table(["speaker", "text"], [row[1:] for row in UTTERANCES], ";"),
        PAIRS,
    ),
    "long-lines.jsonl": (
        "\n".join(json.dumps({"note": "x" * 70_000, "dialog": turns}) for turns in [TURNS] * 2),
        PAIRS * 2,
    ),
    "rows.jsonl": (
        "\n".join(json.dumps({"context": c, "response": r}) for c, r in PAIRS),
        PAIRS,
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_known_by_its_columns(name, tmp_path):
    text, expected = TABLES[name]
    path = written(tmp_path, name, text)
    assert load(path)[0] == expected


@pytest.mark.parametrize(
    ("cells", "expected", "unreadable"),
    [
        ([TURNS[:2], TURNS[2:]], [], 2),  # no telling who speaks
        ([["ann", "bo", "cy"], *TURNS], PAIRS, 1),
        (list(zip([17, 4, 17, 4], TURNS, strict=True)), PAIRS, 0),
        ([{"role": "a", "content": {"pieces": ["x"]}}, *TURNS], PAIRS, 0),
    ],
)
def test_lists_are_never_written_out_as_what_somebody_says(cells, expected, unreadable):
    notes, cells = [], json.loads(json.dumps(cells))
    form = choose_form([{"dialog": cells}], {})
    (transcript,) = form([(1, {"dialog": cells})], lambda kind, number: notes.append(kind))
    talk = Talk("", transcript.messages, transcript, None)
    assert [(context, reply) for context, reply, _ in talk.pairs()] == expected
    assert notes.count("unreadable") == unreadable


@pytest.mark.parametrize("name", ["t.json", "t.jsonl"])
def test_two_texts_of_which_the_first_may_be_a_name_are_told(name, tmp_path):
    lists = [["Ann", "Hello."], ["Bob", "Hi."]]
    text = "\n".join(map(json.dumps, lists)) if name == "t.jsonl" else json.dumps(lists)
    pairs, problems = load(written(tmp_path, name, text))
    assert pairs == [(["Ann"], "Hello."), (["Bob"], "Hi.")]
    assert problems["two_texts"]["count"] == 2


def test_every_question_of_a_conversation_is_among_what_is_said():
    rows = [{"dialogue_id": 1, "question": q, "answer": a} for q, a in (TURNS[:2], TURNS[2:])]
    (dialogue,) = choose_form(rows, {})(enumerate(rows), lambda kind, number: None)
    assert dialogue.utterances == TURNS


def test_a_chat_of_messenger_is_turned_round_repaired_and_cut(tmp_path):
    hour = 3_600_000
    said = [("Zo\u00e9", "Caf\u00e9?", 0), ("Bo", "Yes \U0001f44d", 1), ("Zo\u00e9", "Now?", 9)]
    said += [("Zo\u00e9", "He sent a photo.", 9.05), ("Bo", "No \u2026 ok", 9.1)]
    entries = [
        {
            "sender_name": name.encode().decode("latin-1"),
            "timestamp_ms": 1_709_280_000_000 + int(hours * hour),
            "content": text.encode().decode("latin-1"),
        }
        for name, text, hours in said
    ]
    photo = {"sender_name": "Bo", "timestamp_ms": 1_709_280_000_001, "photos": [{"uri": "a.jpg"}]}
    by_program = ["Liked a message", "Bo sent an attachment.", "Bo missed a video call."]
    by_program += [
        "Reacted \u2764 to your message ".encode().decode("latin-1"),
        "Bo left the group.",
    ]
    others = [photo | {"content": text} for text in by_program]
    others += [photo, {"sender_name": "Bo", "content": "Gone", "is_unsent": True}]
    chat = {"participants": [{"name": "Bo"}], "messages": [*entries[:0:-1], *others, entries[0]]}
    path = written(tmp_path, "message_1.json", json.dumps(chat))
    pairs, problems = load(path, respond_as="bo")
    assert pairs == [
        (["Caf\u00e9?"], "Yes \U0001f44d"),
        (["Now? He sent a photo."], "No \u2026 ok"),
    ]
    counts = {kind: problems[kind]["count"] for kind in ("media", "system_line", "deleted_message")}
    assert counts == {"media": 2, "system_line": 4, "deleted_message": 1}


def test_a_dialogue_with_an_assistant_is_whole_however_long_its_pauses_are(tmp_path):
    path = tmp_path / "data" / "t.jsonl"
    path.parent.mkdir()
    said = [each | {"time": f"2024-03-0{day}"} for day, each in enumerate(messages(), 1)]
    path.write_text(json.dumps({"messages": said}))
    assert load(path)[0] == AGENT


@pytest.mark.parametrize(
    "packed", ["plain", "gz", "xz", "zip", "parquet", "arrow", "utf-16", "bom"]
)
def test_a_table_may_be_compressed_or_encoded(packed, tmp_path):
    text = TABLES["csv.csv"][0]
    content = text.encode()
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("export/talk.csv", content)
    rows = Dataset.from_dict({"dialog": [TURNS]})
    rows.to_parquet(tmp_path / "rows.parquet")
    rows.save_to_disk(tmp_path / "saved")
    data = {
        "plain": content,
        "gz": gzip.compress(content),
        "xz": lzma.compress(content),
        "zip": zipped.getvalue(),
        "parquet": (tmp_path / "rows.parquet").read_bytes(),
        "arrow": (tmp_path / "saved" / "data-00000-of-00001.arrow").read_bytes(),
        "utf-16": text.encode("utf-16"),
        "bom": text.encode("utf-8-sig"),
    }[packed]
    source = tmp_path / "talk"
    source.write_bytes(data)
    assert in_one_split(_whole(source)[0]) == PAIRS


def test_what_datasets_saved_to_disk_is_read_by_its_splits(tmp_path):
    rows = Dataset.from_dict({"messages": [messages()] * 3})
    folder = tmp_path / "saved"
    DatasetDict(train=rows, test=rows).save_to_disk(folder, num_shards={"train": 2, "test": 1})
    read, *_ = open_rows(DataArguments(data=str(folder), detokenize=False))
    pairs = {s: [(r["context"], r["response"]) for r in read[s]()] for s in ("train", "test")}
    assert pairs == {"train": AGENT * 3, "test": AGENT * 3}
    shard = folder / "test" / "data-00000-of-00001.arrow"
    shard.write_bytes(shard.read_bytes()[:90])
    with pytest.raises(UsageError, match=r"test/data-\S+ cannot be read as Arrow.*Restore"):
        load_rows(DataArguments(data=str(folder)))


INSTRUCTED = [
    (["instruction: Be kind.", *context], response)
    for context, response in [*AGENT, ([*TURNS, "Thank you."], "Bye.")]
]
TOOL_ROWS = [("c1", "System", "Be kind."), ("c1", "user", TURNS[0]), ("c1", "tool", "{}")]
TOOL_ROWS += [("c1", role, turn) for role, turn in zip(ROLES[1:], TURNS[1:], strict=True)]
TOOL_ROWS += [("c1", "user", "Thank you."), ("c1", "assistant", "Bye.")]
WITH_ROLES = {
    "rows.csv": (table(["conversation_id", "role", "content"], TOOL_ROWS), INSTRUCTED),
    "named.txt": ("".join(f"{role.title()}: {text}\n" for _, role, text in TOOL_ROWS), INSTRUCTED),
    "bold.md": ("".join(f"**{r.title()}:** {text}\n\n" for _, r, text in TOOL_ROWS), INSTRUCTED),
    "characters.jsonl": (  # a prompt stands before people, too
        json.dumps(
            {
                "messages": [
                    {"role": "system", "content": "Be kind."},
                    *messages(names=SPEAKERS),
                ]
            }
        ),
        [(["instruction: Be kind.", *context], response) for context, response in PAIRS],
    ),
    "system-answers.jsonl": (
        json.dumps({"messages": messages(names=["USER", "SYSTEM"] * 2)}),
        AGENT,
    ),
    "group.txt": (  # people of a chat who have such names
        "".join(
            f"31/12/2023, 21:0{minute} - {name}: {text}\n"
            for minute, (name, text) in enumerate(
                zip(["System", "Guest", "Tool", "Ann"], TURNS, strict=True)
            )
        ),
        PAIRS,
    ),
}


@pytest.mark.parametrize("name", WITH_ROLES)
def test_what_system_and_tools_say_is_no_turn_in_any_form(name, tmp_path):
    text, expected = WITH_ROLES[name]
    path = written(tmp_path, name, text)
    pairs, problems = load(path)
    assert pairs == expected
    counts = [problems.get(f"{kind}_message", {}).get("count") for kind in ("system", "tool")]
    if expected is INSTRUCTED:
        assert counts == [1, 1]


@pytest.mark.parametrize(
    ("user", "assistant"),
    [
        *(("End-User", "Admin"), ("enduser", "staff"), ("requester", "Team")),
        *(("Lead", "teammate"), ("contact", "agent"), ("GUEST", "support")),
    ],
)
def test_support_tools_have_roles_of_their_own(user, assistant, tmp_path):
    path = written(
        tmp_path, "tickets.jsonl", json.dumps({"messages": messages(names=[user, assistant] * 2)})
    )
    assert load(path)[0] == AGENT


def _whole(source):
    """The rows of a source with one dialogue, wherever its hash puts it."""
    args = DataArguments(data=str(source), detokenize=False)
    readers, problems, _ = open_rows(args)
    return {split: list(read()) for split, read in readers.items()}, problems


@pytest.mark.parametrize(
    "times",
    [
        ["2024-03-01 10:05"] * 2 + ["2024-03-01 10:04"] * 2,  # no seconds
        ["2024-03-01 10:06", "n/a", "2024-03-01 10:05", "2024-03-01 10:04"],
    ],
)
def test_the_newest_first_is_turned_round_whatever_its_times(times, tmp_path):
    rows = list(zip(["ben", "ann"] * 2, times, TURNS[::-1], strict=True))
    path = written(tmp_path, "log.tsv", table(["author", "created_at", "message"], rows, "\t"))
    assert load(path)[0] == PAIRS


def test_half_of_a_character_is_replaced_and_counted(tmp_path):
    turns = [*TURNS[:3], "No \ud83d closed."]
    said = [{"role": role, "content": text} for role, text in zip(ROLES, turns, strict=True)]
    path = written(tmp_path, "cut.jsonl", json.dumps({"messages": said}) + "\n")
    rows, problems = load(path)
    assert rows[-1] == (TURNS[:3], "No \ufffd closed.")
    assert problems["replacement_character"] == {"count": 1, "first_lines": [1]}
    rows, _ = load_content([turns, TURNS], DataArguments(data_cache=str(tmp_path / "cache")))
    assert "No \ufffd closed." in {reply for _, reply in in_one_split(rows)}


def test_columns_are_named_where_they_are_unusual(tmp_path):
    path = tmp_path / "data" / "t.csv"
    path.parent.mkdir()
    rows = [("c1", name, turn) for _, name, turn in UTTERANCES]
    path.write_text(table(["group", "wer", "was"], rows), encoding="utf-8")
    logo = path.with_name("logo.png")
    logo.write_bytes(PICTURES["c.png"])
    for source in (path, path.parent):
        with pytest.raises(
            UsageError,
            match=r"' has the columns 'group', 'wer', 'was', but needs.*--columns '\{text",
        ):
            load_rows(DataArguments(data=str(source)))
    logo.unlink()
    columns = '{"text": "was", "speaker": "wer", "conversation": "group"}'
    assert load(path, columns=columns)[0] == PAIRS
    with pytest.raises(UsageError, match=r"columns has 'texts': 'was'.*Did you mean 'text'"):
        load_rows(DataArguments(data=str(tmp_path / "data"), columns="{texts: was}"))


def test_a_column_of_whole_dialogues_may_be_named(tmp_path):
    said = [{"author_id": n, "body": turn} for n, turn in zip([5, 9] * 2, TURNS, strict=True)]
    path = written(tmp_path, "tickets.json", json.dumps({"tickets": [{"id": 1, "comments": said}]}))
    assert load(path, columns="{dialogue: comments}")[0] == PAIRS


def test_unusual_columns_of_parquet_are_told(tmp_path):
    Dataset.from_dict({"was": TURNS}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"has the columns 'was', but needs.*--columns"):
        recognise(str(tmp_path / "a.parquet"), DataArguments())


def test_of_several_columns_of_context_one_may_be_named(tmp_path):
    path = written(
        tmp_path, "t.jsonl", json.dumps({"context": TURNS[0], "question": "x", "answer": TURNS[1]})
    )
    assert load(path, columns="{context: context}")[0] == PAIRS[:1]


@pytest.mark.parametrize("form", ["list", "numpy", "messages", "numpy of messages"])
def test_lists_as_pandas_writes_them_into_cells_are_read(form, tmp_path):
    turns = ["It's open?", 'Say "six".', "[laughs] } {", 'It\'s "late"\\']
    cell = {"list": turns, "numpy": np.array(turns, dtype=object)}
    cell["messages"] = [{"content": turn} for turn in turns]
    cell["numpy of messages"] = np.array(cell["messages"], dtype=object)
    path = tmp_path / "data" / "t.csv"
    path.parent.mkdir()
    frame = pd.DataFrame({"id": [1, 2, 3], "dialog": [cell[form], "lost", ""]})
    frame.to_csv(path, index=False)
    pairs, problems = load(path)
    assert pairs[-1] == (turns[:3], turns[3])
    assert problems["unreadable"]["count"] == 1
    assert problems["under_two_utterances"]["count"] == 1  # where the cell is empty


@pytest.mark.parametrize(
    ("respond_as", "expected"),
    [
        (None, AGENT),
        ("assistant", AGENT),
        ("everybody", PAIRS),
        ("user", [(TURNS[:2], TURNS[2])]),
        ("USER", [(TURNS[:2], TURNS[2])]),
    ],
)
def test_whose_replies_are_learnt_is_a_choice(respond_as, expected, tmp_path):
    path = written(tmp_path, "t.jsonl", json.dumps({"messages": messages()}))
    assert load(path, respond_as=respond_as)[0] == expected


def test_who_never_speaks_cannot_be_learnt_from(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"messages": messages()}), encoding="utf-8")
    with pytest.raises(UsageError, match=r"respond_as is 'asistant'.*user \(2\), assistant \(2\)"):
        load_rows(DataArguments(data=str(path), respond_as="asistant"))


def test_every_utterance_is_read_once_where_some_replies_are_not_learnt(tmp_path):
    path = tmp_path / "t.jsonl"
    said = [[*TURNS, f"Thank you {number}."] for number in range(40)]
    lines = (
        json.dumps(
            {"messages": [{"role": r, "content": t} for r, t in zip(ROLES, each, strict=False)]}
        )
        for each in said
    )
    path.write_text("\n".join(lines), encoding="utf-8")
    rows, _ = load_rows(DataArguments(data=str(path), detokenize=False))
    (part,) = rows.values()
    assert list(utterances(part)) == TURNS * 40


def test_who_says_again_what_was_replied_is_read_as_well():
    texts = ["Ready?", "Yes.", "Yes.", "Go."]
    context = [texts[:1], texts[:3]]
    rows = Dataset.from_dict({"turn": [1, 2], "context": context, "response": ["Yes.", "Go."]})
    assert list(utterances(rows)) == texts


def test_turns_are_merged_and_long_pauses_cut(tmp_path):
    path = tmp_path / "data" / "t.csv"
    path.parent.mkdir()
    rows = [
        ("ann", "2024-01-01 10:00", "Hi."),
        ("ann", "2024-01-01 10:01", "Are you in?"),
        ("bo", "2024-01-01 10:02", "Yes."),
        ("ann", "2024-01-02 09:00", "And now?"),
        ("bo", "2024-01-02 09:01", "No."),
    ]
    path.write_text(table(["from", "date", "text"], rows), encoding="utf-8")
    first, second = (["Hi. Are you in?"], "Yes."), (["And now?"], "No.")
    assert load(path)[0] == [first, second]
    path = tmp_path / "data" / "train" / "t.csv"
    args = DataArguments(data=str(tmp_path / "data"), detokenize=False, max_gap=48)
    rows, _ = load_rows(args)
    assert in_one_split({"": rows["train"]})[-1] == (["Hi. Are you in?", "Yes.", "And now?"], "No.")


def test_anonymize_replaces_names_addresses_and_numbers(tmp_path):
    path = tmp_path / "data" / "t.csv"
    path.parent.mkdir()
    rows = [
        ("Ann Mill", "Hi Bo it is Ann; write to ann@example.org or +49 (30) 123456-78"),
        ("bo", "On 12.05.2024 for 1 000 000 Annas? @Ann"),
    ]
    path.write_text(table(["from", "text"], rows, "\t"), encoding="utf-8")
    assert load(path, anonymize=True)[0] == [
        (
            ["Hi [name] it is [name]; write to [email] or [phone]"],
            "On 12.05.2024 for 1 000 000 Annas? [name]",
        )
    ]


def test_a_date_of_its_own_column_may_have_any_type(tmp_path):
    day, clock = datetime(2024, 1, 31), [time(23, 58), time(0, 1)]
    frame = {"date": [day, day.replace(month=2, day=1)], "time": clock, "who": ["ann", "bo"]}
    frame = pd.DataFrame(frame | {"text": TURNS[:2]})
    for content in (frame, frame[::-1], frame.astype(str)):
        rows, _ = load_content(content, DataArguments(data_cache=str(tmp_path)))
        assert in_one_split(rows) == PAIRS[:1]


REPLIES = {  # two threads; the second reply to a begins a dialogue of its own
    "reddit.csv": table(
        ["author", "body", "created_utc", "id", "parent_id"],
        [
            ("ann", TURNS[0], 10, "a", "t3_x"),
            ("cat", "Hi.", 11, "k", "t3_y"),
            ("bo", TURNS[1], 12, "b", "t1_a"),
            ("dan", "[removed]", 13, "l", "t1_k"),
            ("fay", "Who?", 14, "m", "t1_l"),
            ("ann", TURNS[2], 14, "c", "t1_b"),
            ("eve", "At nine.", 30_000, "d", "t1_a"),
        ],
    ),
    "tweets.csv": table(
        ["tweet_id", "author_id", "created_at", "text", "in_response_to_tweet_id"],
        [
            (7, "eve", "Tue Oct 31 22:30:00 +0000 2017", "At nine.", "1.0"),
            (4, "dan", "Tue Oct 31 22:20:00 +0000 2017", "[deleted]", "3.0"),
            (3, "cat", "Tue Oct 31 22:11:00 +0000 2017", "Hi.", ""),
            (5, "ann", "Tue Oct 31 22:15:00 +0000 2017", TURNS[2], "2.0"),
            (2, "bo", "Tue Oct 31 22:12:00 +0000 2017", TURNS[1], "1.0"),
            (1, "ann", "Tue Oct 31 22:10:00 +0000 2017", TURNS[0], ""),
        ],
    ),
}
REPLIES["no-names.csv"] = re.sub("^[^,]*,", "", REPLIES["reddit.csv"], flags=re.MULTILINE)


@pytest.mark.parametrize("name", REPLIES)
def test_rows_that_name_what_they_reply_to_become_branches(name, tmp_path):
    path = written(tmp_path, name, REPLIES[name])
    pairs, problems = load(path)
    assert pairs == [*PAIRS[:2], (TURNS[:1], "At nine.")]
    assert problems["deleted_message"]["count"] == 1


def test_each_branch_has_an_id_of_its_own_where_conversations_count_anew():
    rows = [
        {"thread": thread, "id": number, "parent_id": parent, "text": TURNS[number]}
        for thread in "ab"
        for number, parent in enumerate([None, 0, 1])
    ]
    form = choose_form(rows, {})
    branches = form(enumerate(rows, 1), lambda kind, number: None)
    assert [branch.id for branch in branches] == ["a:2", "b:2"]


def test_rows_whose_id_another_row_has_are_kept():
    rows = [(1, None, TURNS[0]), (2, 1, TURNS[1]), (2, 1, TURNS[2])]
    rows = [dict(zip(("id", "parent_id", "text"), row, strict=True)) for row in rows]
    branches = choose_form(rows, {})(enumerate(rows, 1), lambda kind, number: None)
    said = [[message.text for message in branch.messages] for branch in branches]
    assert said == [TURNS[:2], [TURNS[0], TURNS[2]]]


def test_rows_that_reply_to_each_other_in_a_circle_are_kept(tmp_path):
    path = tmp_path / "data" / "t.csv"
    path.parent.mkdir()
    rows = [(1, 3, "ann", TURNS[0]), (2, 1, "bo", TURNS[1]), (3, 2, "cat", TURNS[2])]
    path.write_text(table(["id", "parent_id", "author", "text"], rows))
    (_, (context, reply)), _ = load(path)
    assert sorted([*context, reply]) == sorted(TURNS[:3])


def test_a_chat_with_few_replies_to_other_messages_is_read_in_order(tmp_path):
    path = tmp_path / "data" / "chat.csv"
    path.parent.mkdir()
    rows = [(number, name, text, 0) for number, (_, name, text) in enumerate(UTTERANCES * 2, 1)]
    rows[3] = (*rows[3][:3], 1)
    path.write_text(table(["id", "sender", "text", "reply_to"], rows))
    assert load(path)[0][:3] == PAIRS


def test_a_row_without_its_conversation_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    rows = [*UTTERANCES, ("", "ann", "Who am I?")]
    path.write_text(table(["conversation_id", "speaker", "text"], [*rows, ("", "", "")]))
    with pytest.raises(UsageError, match=r"Row 6 has nothing in the column 'conversation_id'"):
        load_rows(DataArguments(data=str(path)))


def test_what_has_no_known_form_is_refused_with_those_that_are_read(tmp_path):
    (tmp_path / "a.md").write_text("# Notes\n\nWe met on Monday, as agreed.\n", encoding="utf-8")
    message = r"a.md' has none of the forms.*CSV.*WhatsApp chat.*Convert it"
    with pytest.raises(UsageError, match=message):
        load_rows(DataArguments(data=str(tmp_path / "a.md")))


PACKED = io.BytesIO()
with tarfile.open(fileobj=PACKED, mode="w:gz") as archive:
    archive.addfile(tarfile.TarInfo("grüße/dialogues_text.txt"), io.BytesIO())
PICTURES = {  # what stands beside dialogues, by its first bytes
    "a.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00",
    "b.jpg": b"\xff\xd8\xff\xe1\x5c\xfeExif\x00\x00II*\x00",
    "c.png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x02\x00",
    "d.webp": b"RIFF\xa4\x1c\x00\x00WEBPVP8X\n\x00\x00\x00",
    "e.mp4": b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00isommp42",
    "f.opus": b"OggS\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00OpusHead\x01",
    "g.mp3": b"\xff\xfb\x90\x64\x00\x0f\xf0\x00",
    "h.pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\nendobj\n",
    "i.vcf": b"BEGIN:VCARD\nVERSION:3.0\nFN:Ann\nTEL;CELL:+49 151 000000\nEND:VCARD\n",
    "j.tgs": gzip.compress(b'{"v":"5.5.2","fr":60,"layers":[{"nm":"a","ks":{}}],"assets":[]}'),
    "k.docx": b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00[Content_Types].xml",
    "l.txt": "ъЪъЪ, что это?".encode("cp1251"),
    "m.txt": "中文字幕".encode("gbk"),
}
BESIDE = {  # the dialogues of an export, and the folder of its pictures
    "WhatsApp": ("_chat.txt", CHATS["iOS"][1]["_chat.txt"], ""),
    "Telegram": ("result.json", CHATS["one Telegram chat"][1]["result.json"], "photos/"),
    "Messenger": ("in/message_1.json", TABLES["object.json"][0], "in/photos/"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", BESIDE)
def test_pictures_and_papers_beside_dialogues_are_passed_over(name, zipped, tmp_path):
    chat, text, folder = BESIDE[name]
    contents = {chat: text.encode()} | {folder + key: data for key, data in PICTURES.items()}
    if zipped:
        with zipfile.ZipFile(tmp_path / "export", "w") as archive:
            for place, content in contents.items():
                archive.writestr(place, content)
    else:
        for place, content in contents.items():
            path = tmp_path / "export" / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    source = recognise(str(tmp_path / "export"), DataArguments())
    assert [file.name for file, _ in source.files["train"]] == [chat]
    assert sorted(source.passed_over) == [folder + key for key in PICTURES]


def test_a_folder_of_zips_has_a_chat_each(tmp_path):
    chats = tmp_path / "chats"
    chats.mkdir()
    for name in ("Ann.zip", "Bo.zip"):
        with zipfile.ZipFile(chats / name, "w") as archive:
            archive.writestr("_chat.txt", CHATS["iOS"][1]["_chat.txt"])
            archive.writestr("a.jpg", PICTURES["a.jpg"])
    source = recognise(str(chats), DataArguments())
    assert [file.name for file, _ in source.files["train"]] == ["Ann/_chat.txt", "Bo/_chat.txt"]
    assert source.passed_over == ["Ann/a.jpg", "Bo/a.jpg"]
    talks = read_talks_of(source.files["train"], DataArguments(), lambda kind, number: None)
    assert {talk.dialogue_id.split(":")[0] for talk in talks} == {"Ann/_chat", "Bo/_chat"}
    (chats / "desktop.ini").write_text("[.ShellClassInfo]\r\n")
    with zipfile.ZipFile(tmp_path / "both.zip", "w") as archive:
        archive.write(chats / "Ann.zip", "Ann.zip")
    for path in (chats, tmp_path / "both.zip"):
        with pytest.raises(UsageError, match=r"Ann.zip is a zip beside other files.*Unpack it"):
            recognise(str(path), DataArguments())
    (chats / "desktop.ini").unlink()
    (chats / "talk.csv").write_text(TABLES["csv.csv"][0])  # beside it, zips may be anything
    source = recognise(str(chats), DataArguments())
    assert (len(source.files["train"]), source.passed_over) == (1, ["Ann.zip", "Bo.zip"])


def test_official_splits_may_be_zips_beside_a_paper(tmp_path):
    for split in ("train", "test"):
        with zipfile.ZipFile(tmp_path / f"{split}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{split}/dialogues_{split}.txt", "Hi . __eou__ Ho . __eou__\n")
    (tmp_path / "readme.txt").write_text("What these are.\n")
    assert recognise(str(tmp_path), DataArguments()) is None


def test_the_list_of_a_zip_is_read_once(tmp_path, monkeypatch):
    days = {f"talk/2024-01-{day:02}.json": "[]" for day in range(10, 20)}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in days:
            archive.writestr(name, CHATS["Slack"][1]["talk/2023-12-31.json"])
        archive.writestr("users.json", CHATS["Slack"][1]["users.json"])
    lists, parsed = [], []
    read_list, parse = zipfile.ZipFile._RealGetContents, json_export.parse_json
    monkeypatch.setattr(
        zipfile.ZipFile, "_RealGetContents", lambda self: lists.append(0) or read_list(self)
    )
    source = recognise(str(tmp_path / "a.zip"), DataArguments())
    monkeypatch.setattr(files, "parse_json", lambda text: parsed.append(text) or parse(text))
    talks = list(read_talks_of(source.files["train"], DataArguments(), lambda kind, number: None))
    assert len(talks) > 10 and len(lists) == 2  # once to name its members, once to open them
    assert len(parsed) == 11  # the days, and who speaks


def test_json_lines_are_not_read_whole_to_be_recognised(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text(TABLES["rows.jsonl"][0])
    monkeypatch.setattr(files, "parse_json", None)
    assert files.File("a.jsonl", (str(path),)).document is None
    path.write_text('[\n["a", "b"]\n]')
    monkeypatch.undo()
    assert files.File("a.jsonl", (str(path),)).document == [["a", "b"]]


def test_files_that_are_recognised_are_not_kept_in_memory(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(TABLES["csv.csv"][0])
    (tmp_path / "a.jpg").write_bytes(PICTURES["a.jpg"])
    listed = find_files(str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "find_files", lambda path: listed)
        recognise(str(tmp_path), DataArguments())
    assert all(set(vars(file)) == {"name", "place", "siblings"} for file in listed)


CHAT = "31/12/23, 9:05 xyz - Ann: hi\n31/12/23, 9:06 xyz - Ben: Grüße\n"
TELEGRAM_PAGE = """<!DOCTYPE html>
<html>
 <head>
  <meta charset="utf-8"/>
<title>Exported Data</title>
  <link href="css/style.css" rel="stylesheet"/>
 </head>
 <body onload="CheckLocation();">
  <div class="page_wrap">
   <div class="page_header"></div>
"""
DISCORD_TEXT = """\
==============================================================
Guild: A server
Channel: Text / general
==============================================================

[31-Dec-23 09:05 PM] ann
Hi all

[31-Dec-23 09:06 PM] ben
Hi ann
"""
MENDED_ELSEWHERE = {  # file, its content, what the message says
    "half of the day": ("chat.txt", CHAT, r"line 1: '31/12/23, 9:05 xyz - Ann: hi'.*24-hour"),
    "title": ("chat.txt", f"Our chat\n{CHAT}", "line 2: '31.*from line 1 on.*without med"),
    "long": ("chat.txt", CHAT * 3000, "line 1: .*looks like a message of a chat"),  # ü at 64 KiB
    "halves": ("k.txt", "2023年12月31日 夜 9:05, Ann : hi\n", "line 1: .*columns time, sp"),
    "month": ("m.txt", "Dec 31, 2023, 9:05 PM - Ann: hi\n", "line 1: .*looks like a message"),
    "marks": ("m.txt", "\u200f31\u200f/12\u200f/2023، 9:05 xyz - Ann: hi\n", "line 1: .*24-hour"),
    "Telegram": ("messages.html", TELEGRAM_PAGE, "messages.html is a page of Tel.*-readable JSON"),
    "Discord": ("talk.txt", DISCORD_TEXT, "talk.txt is the plain text of Disc.*again as JSON"),
    "tar": ("talk.tar.gz", PACKED.getvalue(), r"talk.tar.gz is a tar archive.*tar -xf"),
    "tar of dialogues": (
        *("talk.tar", gzip.decompress(PACKED.getvalue()) + b"Hi. __eou__ Ho. __eou__\n"),
        "talk.tar is a tar archive",
    ),
    "Zstandard": ("a.jsonl.zst", b"(\xb5/\xfd\x04\x58\x21", "zst is packed by Zstandard.*zstd -d"),
    "Discord, CRLF": ("talk.txt", DISCORD_TEXT.replace("\n", "\r\n"), "again as JSON"),
}


@pytest.mark.parametrize("in_folder", [False, True])
@pytest.mark.parametrize("case", MENDED_ELSEWHERE)
def test_what_is_mended_elsewhere_is_refused_with_its_way_out(case, in_folder, tmp_path):
    name, content, message = MENDED_ELSEWHERE[case]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=message):
        recognise(str(tmp_path if in_folder else tmp_path / name), DataArguments())


@pytest.mark.parametrize("in_folder", [False, True])
def test_a_workbook_is_refused_with_its_way_out(in_folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "talk.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("[Content_Types].xml", "xl/workbook.xml", "xl/worksheets/sheet1.xml"):
            archive.writestr(name, "<?xml version='1.0'?><x>Ann: hi</x>")
    with pytest.raises(UsageError, match=r"talk.xlsx is an Excel workbook.*CSV UTF-8"):
        recognise(str(tmp_path if in_folder else tmp_path / "talk.xlsx"), DataArguments())


@pytest.mark.parametrize(
    "text",
    [
        "when,wer,was\n2023-12-31 21:05,ann,well: hi\n",
        "2023-12-31 21:05:33,ann,well: hi\n2023-12-31 21:06:33,bo,so: ho\n",
        "On 31/12/2023 at 9:05 we met.\n\nAnn: late, as ever.\n",
        "At 21:05 Ann said: hi.\n\n31/12/2023 - a day: like any.\n",
        f"when,wer,was\n{'ü' * 40_000},a,b\n",  # one stands where 64 KiB end
    ],
)
def test_what_is_no_chat_gets_no_advice_on_chats(text, tmp_path):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"has the columns|has none of the forms"):
        recognise(str(tmp_path / "a.txt"), DataArguments())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anonymize": True}, r"anonymize is true, but .*a.txt' is dialogue text.*--anonymize"),
        ({"respond_as": "ann"}, r"respond_as is 'ann', but .*does not say who speaks.*everybody"),
    ],
)
def test_what_dialogue_text_cannot_follow_is_refused(options, message, tmp_path):
    (tmp_path / "a.txt").write_text("Hi. __eou__ Hello. __eou__\n" * 20, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        load_rows(DataArguments(data=str(tmp_path / "a.txt"), **options))


def test_contacts_in_pairs_are_replaced(tmp_path):
    path = written(
        tmp_path, "t.jsonl", json.dumps({"question": "Where?", "answer": "At ann@example.org"})
    )
    assert load(path, anonymize=True)[0] == [(["Where?"], "At [email]")]


def test_a_film_is_cut_where_nobody_speaks_for_long(tmp_path):
    path = tmp_path / "data" / "film.srt"
    path.parent.mkdir()
    times = [("00:01", "00:02"), ("00:03", "00:04"), ("00:40", "00:41"), ("00:42", "00:43")]
    path.write_text(
        "\n".join(
            f"{number}\n00:{begin},000 --> 00:{end},000\n{text}\n"
            for number, ((begin, end), text) in enumerate(zip(times, TURNS, strict=True), 1)
        )
    )
    assert load(path)[0] == [(TURNS[:1], TURNS[1]), (TURNS[2:3], TURNS[3])]


DAMAGED = {
    "empty.json": ("[]\n", r"empty.json is an empty list.*Give a file"),
    "nothing.json": ("{}", r"nothing.json is an empty object.*Give a file"),
    "header.csv": ("speaker,text\n", r"header.csv has names of columns, but no row below them"),
    "a.jsonl": ('{"dialog": ["a", "b"]}\n{"dialog": ["a",\n', r"line 2 is not JSON.*Restore"),
    "b.jsonl": ('{"dialog": ["a", "b"]}\n17\n', r"line 2 is '17'.*an object or a list"),
    "c.csv": ("speaker,text\nann,hi\nbo,a,b\n", r"line 3 has 3 cells.*names 2.*quotation marks"),
    "open.csv": (
        'speaker,text\nann,hi\nbo,"a\nann,so\n',
        r"line 3 has a quotation mark that opens a cell, and none closes it.*Mend",
    ),
    "names.csv": (
        'speaker,text,"time\n' + "ann,How is the garden this year?,10:00\n" * 4000,
        r"line 1 has a quotation mark that opens a cell, and none closes it.*Mend",
    ),
    "excel.csv": ("sep=|\nspeaker|text\nann|hi\nbo|a|b\n", r"line 4 has 3 cells"),
    "splits.json": (
        json.dumps({"train": [{"dialog": TURNS}], "dev": [{"dialog": TURNS}], "version": 1}),
        r"holds the splits train, dev in one object.*such as train.json, dev.json",
    ),
    "values.json": (
        json.dumps(UTTERANCES),
        r"lists of 3 cells, cell 2 seems to say who speaks, such as 'ann'.*an object with",
    ),
    "package.json": (
        json.dumps({"id": "7", "type": "DM", "recipients": ["12", "34"]}),
        r"has the columns 'id', 'type', 'recipients', but needs",
    ),
    "clocks.tsv": (
        "10:00\tIs the shop open?\n10:01\tUntil six.\n",
        r"first has times or numbers, such as '10:00'.*line of names above.*called speaker",
    ),
    "dates.tsv": (
        "1.3.2024\tHi.\n2.3.2024\tHello.\n",
        r"first has times or numbers, such as '1.3.2024'",
    ),
    "d.parquet": ("PAR1" + "x" * 40, r"none of the forms|cannot be read as Parquet"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_told_with_its_place(name, tmp_path):
    text, message = DAMAGED[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        load_rows(DataArguments(data=str(tmp_path / name)))


def test_a_folder_is_read_whole_and_tells_how(tmp_path):
    for name in ("one.csv", "in/two.csv"):
        path = tmp_path / "export" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(TABLES["csv.csv"][0], encoding="utf-8")
    (tmp_path / "export" / "photo.jpg").write_bytes(b"\xff\xd8\0\0")
    source = recognise(str(tmp_path / "export"), DataArguments())
    assert [file.name for file, _ in source.files["train"]] == ["one.csv", "in/two.csv"]
    assert source.passed_over == ["photo.jpg"]
    for name, text in CHATS["Slack"][1].items():
        (tmp_path / "export" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "export" / name).write_text(text, encoding="utf-8")
    assert recognise(str(tmp_path / "export"), DataArguments()).passed_over == ["photo.jpg"]
    for name in CHATS["Slack"][1]:
        (tmp_path / "export" / name).unlink()
    rows, _ = _whole(tmp_path / "export")
    assert len(in_one_split(rows)) == 6
    (tmp_path / "export" / "train.csv").write_text(TABLES["csv.csv"][0], encoding="utf-8")
    console = Console(file=io.StringIO(), width=200)
    audit_corpus(
        Corpus(*load_rows(DataArguments(data=str(tmp_path / "export")))), DataArguments(), console
    )
    said = console.file.getvalue()
    assert (
        "Read as: 3 files as table: 3 dialogues, 12 utterances, 9 pairs. Not read: photo.jpg"
        in said
    )


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json", "config.yaml"])
def test_the_folder_of_a_run_or_of_a_model_is_no_data(name, tmp_path):
    run = tmp_path / "chats" / "run"
    run.mkdir(parents=True)
    for file in (name, "environment.json", "model.safetensors"):
        (run / file).write_text("data: talk.csv\n" if file == "config.yaml" else "{}")
    (run / "predictions.jsonl").write_text(TABLES["rows.jsonl"][0])
    learnt = ": of this run, that is talk.csv" if name == "config.yaml" else ""
    for read in (
        lambda: load_rows(DataArguments(data=str(run))),
        lambda: list(read_contexts(run)),
        lambda: formats.readers(str(run), DataArguments()),
    ):
        with pytest.raises(UsageError, match=f"holds a model or what a run.*themselves{learnt}"):
            read()
    (tmp_path / "chats" / "talk.csv").write_text(TABLES["csv.csv"][0])
    source = recognise(str(tmp_path / "chats"), DataArguments())
    assert [file.name for file, _ in source.files["train"]] == ["talk.csv"]
    assert f"run/{name}" in source.passed_over
    alone = formats.readers(str(run / "predictions.jsonl"), DataArguments())
    assert list(alone) == ["train"]


def test_the_splits_of_a_folder_are_kept(tmp_path):
    for name in ("train.csv", "dev.csv", "talk_test.csv"):
        (tmp_path / name).write_text(TABLES["csv.csv"][0], encoding="utf-8")
    rows, _ = load_rows(DataArguments(data=str(tmp_path)))
    assert {split: len(part) for split, part in rows.items()} == {
        "train": 3,
        "validation": 3,
        "test": 3,
    }


def test_official_splits_are_kept_beside_a_file_of_all_dialogues(tmp_path):
    for name in ("train", "valid_random_split", "test_topic_split", "data"):
        (tmp_path / f"{name}.json").write_text(json.dumps([{"dialog": TURNS}]))
    topics = {"train": ["Bees"], "valid": ["Tea"], "test": ["Rome", "Bonn"]}
    (tmp_path / "topic_splits.json").write_text(json.dumps(topics))
    source = recognise(str(tmp_path), DataArguments())
    names = {split: [file.name for file, _ in each] for split, each in source.files.items()}
    assert names == {
        "train": ["train.json"],
        "validation": ["valid_random_split.json"],
        "test": ["test_topic_split.json"],
    }
    assert source.passed_over == ["data.json", "topic_splits.json"]


@pytest.mark.parametrize("sample", CORPORA.values(), ids=CORPORA)
def test_a_corpus_is_recognised_among_all_forms(sample, tmp_path):
    for name, content in sample.files.items():
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    source = recognise(str(tmp_path / "corpus"), DataArguments())
    assert {each.reader for files in source.files.values() for each in files} == {
        sample.reader.READER
    }


def test_the_guide_names_every_form():
    guide = (ROOT / "docs" / "how-to" / "own_data.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| (.+?) \|", guide, re.MULTILINE)[1:]
    assert named == ["table", *(reader.name for reader in READERS)]


@pytest.mark.parametrize(
    "content",
    [
        [TURNS] * 20,
        [messages("speaker", "text", SPEAKERS)] * 20,
        pd.DataFrame({"dialog": [TURNS] * 20}),
        pd.DataFrame({"dialog": [np.array(TURNS, object)] * 20}),  # as of Parquet
        pd.DataFrame(UTTERANCES * 20, columns=["conversation_id", "who", "text"]).assign(
            conversation_id=[number // 4 for number in range(80)]
        ),
    ],
)
def test_dialogues_may_lie_in_memory(content, tmp_path):
    rows, problems = load_content(content, DataArguments(data_cache=str(tmp_path)))
    assert in_one_split(rows) == PAIRS * 20
    assert problems["train"]["dialogues"] == 20


def test_speakers_and_texts_in_memory_are_one_dialogue(tmp_path):
    pairs = [row[1:] for row in UTTERANCES]
    rows, _ = load_content(pairs, DataArguments(data_cache=str(tmp_path)))
    assert in_one_split(rows) == PAIRS


def test_what_is_missing_in_a_frame_is_nothing_said(tmp_path):
    frame = pd.DataFrame({"speaker": SPEAKERS * 9, "text": [*TURNS[:3], None] * 9})
    rows, _ = load_content(frame, DataArguments(data_cache=str(tmp_path)))
    assert "nan" not in {response for _, response in in_one_split(rows)}


def test_one_who_is_anonymous_is_still_learnt_from(tmp_path):
    path = written(tmp_path, "t.csv", TABLES["csv.csv"][0])
    assert load(path, anonymize=True, respond_as="bo")[0] == AGENT


def test_what_is_no_dialogue_in_memory_is_refused():
    with pytest.raises(UsageError, match=r"dialogues are \['Hi\.'\], but have to be whole"):
        load_content(["Hi."], DataArguments())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024-03-01T10:00:00Z", datetime(2024, 3, 1, 10)),
        ("2024-03-01 12:00+02:00", datetime(2024, 3, 1, 10)),
        (1709287200, datetime(2024, 3, 1, 10)),
        ("1709287200000", datetime(2024, 3, 1, 10)),
        ("Mar 1, 2024 10:00 AM", datetime(2024, 3, 1, 10)),
        ("Friday, March 1, 2024 at 10:00:00\u202fAM UTC", datetime(2024, 3, 1, 10)),
        ("01.03.2024 10:00", datetime(2024, 3, 1, 10)),
        ("03/01/2024 10:00", datetime(2024, 3, 1, 10)),
        ("29 Feb 2024", datetime(2024, 2, 29)),
        ("10:00", None),
        ("Friday 10:00", None),
        ("Mar 1, 10:00", None),
        ("soon", None),
        (None, None),
        ("", None),
    ],
)
def test_times_as_exports_write_them(value, expected):
    assert parse_time(value) == expected
