"""Readers of published dialogue corpora: small files in their forms, with their mess."""

from collections import Counter
from datetime import datetime

import pytest
from helpers.corpus_formats import OTHERS, SAMPLES

from seq2seq_dialog.data.files import File
from seq2seq_dialog.data.readers import (
    chatterbot,
    convokit,
    cornell,
    dstc,
    empathetic,
    json_corpora,
    named_turns,
    parlai,
    subtitles,
)
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.report.data_card import PROBLEMS

READERS = {
    module.READER.name: module.READER
    for module in (
        *(chatterbot, convokit, cornell, dstc, empathetic, json_corpora, named_turns, parlai),
        subtitles,
    )
}


def place(folder, files: dict[str, str | bytes]) -> File:
    """Write files and return the first, which knows of the others."""
    places = {}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        places[name] = (str(path),)
    first = next(iter(places))
    return File(first, places[first], places)


def read(reader, file: File) -> tuple[list, Counter]:
    notes: Counter = Counter()
    transcripts = list(reader.read(file, lambda kind, number: notes.update([kind])))
    return transcripts, notes


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_what_is_read(sample, tmp_path):
    file = place(tmp_path, sample.files)
    transcripts, notes = read(sample.reader.READER, file)
    said = [[f"{m.speaker}: {m.text}" for m in transcript.messages] for transcript in transcripts]
    assert said == sample.transcripts
    assert notes == sample.notes
    assert {transcript.learnt for transcript in transcripts} <= {sample.learnt}
    assert len({transcript.id for transcript in transcripts}) == len(transcripts)
    assert set(notes) - {"media", "deleted_message", "system_line"} <= set(PROBLEMS)


@pytest.mark.parametrize("name", READERS)
def test_a_reader_recognises_its_own_files_alone(name, tmp_path):
    contents = {
        (sample.reader.READER.name, f"{which}/{path}"): content
        for which, sample in SAMPLES.items()
        for path, content in sample.files.items()
    }
    contents |= {("", which): content for which, content in OTHERS.items()}
    recognised = {
        path
        for (_, path), content in contents.items()
        if READERS[name].recognises(place(tmp_path, {path: content}))
    }
    assert recognised == {path for owner, path in contents if owner == name}


def test_a_thread_is_whole_however_long_its_pauses_are(tmp_path):
    transcripts, _ = read(convokit.READER, place(tmp_path, SAMPLES["convokit"].files))
    assert all(transcript.is_whole for transcript in transcripts)


def test_personas_and_what_is_known_of_the_partner(tmp_path):
    (first, second), _ = read(parlai.READER, place(tmp_path, SAMPLES["persona chat"].files))
    assert first.persona == "i keep bees . my hat is red ."
    assert first.knowledge == "partner's persona: i sell tea ."
    assert (second.persona, second.knowledge) == ("i dive .", "")
    (first, _), _ = read(parlai.READER, place(tmp_path, SAMPLES["parlai"].files))
    assert first.persona == "i keep bees."


@pytest.mark.parametrize(
    ("sample", "times"),
    [
        ("convokit", [datetime(1970, 1, 1, 0, 1), datetime(1970, 1, 1, 0, 2, 0, 500000)]),
        ("subrip", [datetime(1, 1, 1, 0, 0, 1, 500000), datetime(1, 1, 1, 0, 0, 5)]),
        ("webvtt", [datetime(1, 1, 1, 0, 0, 1), datetime(1, 1, 1, 0, 0, 2)]),
        (
            "chats with times",
            [
                *(datetime(2024, 1, 2, 10, 32, 11), datetime(2024, 1, 2, 10, 32, 15)),
                *(datetime(2024, 1, 2, 23, 5), datetime(2024, 1, 2, 23, 6)),
                datetime(2024, 1, 2, 23, 7, 0, 500000),
            ],
        ),
    ],
)
def test_times(sample, times, tmp_path):
    sample = SAMPLES[sample]
    (first, *_), _ = read(sample.reader.READER, place(tmp_path, sample.files))
    assert [message.time for message in first.messages][: len(times)] == times


LINES = "L4 +++$+++ u0 +++$+++ m0 +++$+++ TOM +++$+++ I drive.\n"
CONVERSATIONS = "u0 +++$+++ u2 +++$+++ m0 +++$+++ ['L4', 'L5']\n"
DAMAGED = {
    "lines alone": (cornell, {"movie_lines.txt": LINES}, r"Put that file beside it"),
    "conversations alone": (cornell, {"c.txt": CONVERSATIONS}, r"what they say is in movie_lines"),
    "a line is missing": (
        cornell,
        {"c.txt": CONVERSATIONS, "movie_lines.txt": LINES},
        r"line 1: L5 is not in movie_lines.txt.* Fetch the corpus again",
    ),
    "no lines": (
        cornell,
        {
            "c.txt": CONVERSATIONS.replace("'L5'", "'L4'") + "u0 +++$+++ x\n",
            "movie_lines.txt": LINES,
        },
        r"line 2: 'x' has no ids, but a conversation has to be",
    ),
    "a field is missing": (
        cornell,
        {"c.txt": CONVERSATIONS, "movie_lines.txt": LINES + "L5 +++$+++ u2\n"},
        r"movie_lines.txt, line 2 has 2 fields .* has 5",
    ),
    "cut utterance": (
        convokit,
        {"u.jsonl": SAMPLES["convokit"].files["utterances.jsonl"] + '{"id": "a8", "te'},
        r"line 9 lacks a JSON object, .* mend that line",
    ),
    "a list for an utterance": (
        convokit,
        {"u.jsonl": SAMPLES["convokit"].files["utterances.jsonl"] + '{"id": 1}\n'},
        r"line 9 lacks conversation_id, speaker, reply_to, text, but",
    ),
    "no number": (
        parlai,
        {"t.txt": "1 hi\thello\n" * 4 + "bye\tso long\n"},
        r"line 5 begins with 'bye",
    ),
    "no fields": (
        parlai,
        {"t.txt": "text:hi\tlabels:hello\nbye\n"},
        r"line 2 begins with 'bye', but each line has to have text: and labels:",
    ),
    "cut row": (
        empathetic,
        {"v.csv": f"{empathetic.HEADER}\nhit:0_conv:1,1,proud\n"},
        r"line 2 has 3 fields, but at least 6 are needed",
    ),
    "a turn without text": (
        json_corpora,
        {"d.json": '{"a": {"goal": {}, "log": [{"text": "Hi"}, {"txt": "Ho"}]}}'},
        r"dialogue a, turn 2 is \{'txt': 'Ho'\}, but it has to have text\. Fetch",
    ),
    "a dialogue without turns": (
        json_corpora,
        {"d.json": '{"a": {"goal": {}, "log": [{"text": "Hi"}]}, "b": {"goal": {}}}'},
        r"dialogue b is \{'goal': \{\}\}, but it has to have a list called log",
    ),
    "no labels": (
        dstc,
        {"log.json": SAMPLES["dstc"].files["call/log.json"]},
        r"label.json beside it, but there is none",
    ),
    "too few labels": (
        dstc,
        {
            "log.json": SAMPLES["dstc"].files["call/log.json"],
            "label.json": SAMPLES["dstc, its labels"].files["label.json"],
        },
        r"but it has not as many turns",
    ),
    "broken YAML": (
        chatterbot,
        {"tea.yml": "categories:\n- tea\nconversations:\n- - Tea?\n  - 'Yes\n- - No\n"},
        r"tea\.yml, line \d: .*, but ChatterBot's files have to be YAML",
    ),
    "a broken time": (
        subtitles,
        {"f.srt": "1\n00:00:01,000 --> 00:00:02,000\nHi\n\n2\n00:0x:01 --> 00:00:02,000\nHo\n"},
        r"line 6: '00:0x:01 --> 00:00:02,000' has to be two times",
    ),
}


@pytest.mark.parametrize(("reader", "files", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_named(reader, files, message, tmp_path):
    file = place(tmp_path, files)
    assert reader.READER.recognises(file)
    with pytest.raises(UsageError, match=message):
        read(reader.READER, file)
