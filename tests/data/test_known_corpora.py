"""DailyDialog and the sample dialogues are recognised by their text, and nothing else is."""

import gzip
import random
from itertools import islice

import numpy as np
import pytest
from datasets import Dataset
from helpers.corpus import EVERYDAY, SAMPLES

from seq2seq_dialog.data import known_corpora
from seq2seq_dialog.data.known_corpora import recognise, response_hashes
from seq2seq_dialog.data.rows import load_rows
from seq2seq_dialog.settings import DataArguments


def made_up(count):
    replies = [
        f"This reply was made up, and its number among them all is {i}." for i in range(count)
    ]
    return Dataset.from_dict({"response": replies})


def dialogues_of(path):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        yield from ([u.strip() for u in line.split("__eou__") if u.strip()] for line in lines)


@pytest.mark.parametrize("detokenize", [True, False], ids=["natural", "spaced"])
@pytest.mark.parametrize("path", [SAMPLES, EVERYDAY], ids=["samples", "everyday"])
def test_sample_dialogues_are_recognised_whole_and_in_part(path, detokenize, tmp_path):
    if path == EVERYDAY:  # of which the beginning tells as much
        for file in path.iterdir():
            with file.open(encoding="utf-8") as lines:
                (tmp_path / file.name).write_text("".join(islice(lines, 2000)), encoding="utf-8")
        path = tmp_path
    rows, _ = load_rows(DataArguments(data=str(path), detokenize=detokenize))
    assert recognise(rows.values()) == recognise([rows["test"]]) == known_corpora.SAMPLES
    assert recognise([rows["train"].select(range(100))]) == known_corpora.SAMPLES
    mixed = [*rows["train"]["response"], *made_up(50)["response"]]
    assert recognise([Dataset.from_dict({"response": mixed})]) is None
    assert recognise([rows["train"], made_up(50)]) is None


def test_the_hashes_are_those_of_the_sample_dialogues():
    paths = [SAMPLES, *EVERYDAY.iterdir()]
    dialogues = (turns for path in paths for turns in dialogues_of(path))
    replies = [text for turns in dialogues for text in turns[1:]]
    with np.load(known_corpora.HASHES) as known:
        assert known["samples"].tolist() == sorted(set(response_hashes(replies)))


def test_as_many_pairs_as_dailydialog_has_are_not_dailydialog():
    assert recognise([made_up(76_052)]) is None
    assert recognise([Dataset.from_dict({"response": []})]) is None


@pytest.mark.parametrize(
    ("source", "detokenize", "pairs"),
    [("dailydialog", True, 89_861), ("dailydialog/dialogues_text.txt", False, 89_862)],
)
def test_dailydialog_is_recognised_whole_and_in_part(shared_data, source, detokenize, pairs):
    rows, _ = load_rows(DataArguments(data=str(shared_data / source), detokenize=detokenize))
    assert sum(map(len, rows.values())) == pairs
    for split in rows.values():
        assert recognise([split]) == known_corpora.DAILYDIALOG
    assert recognise([rows["train"].select(range(300))]) == known_corpora.DAILYDIALOG


def test_two_thousand_dialogues_of_dailydialog_are_recognised_among_many_others(shared_data):
    dialogues = list(dialogues_of(shared_data / "dailydialog" / "dialogues_text.txt"))
    part = [text for turns in random.Random(1).sample(dialogues, 2000) for text in turns[1:]]
    assert recognise([Dataset.from_dict({"response": part})]) == known_corpora.DAILYDIALOG
    others = made_up(300_000)["response"]
    replies = [*others[:150_000], *part, *others[150_000:]]
    assert recognise([Dataset.from_dict({"response": replies})]) == known_corpora.DAILYDIALOG


def test_the_hashes_are_those_of_dailydialog(shared_data):
    dialogues = dialogues_of(shared_data / "dailydialog" / "dialogues_text.txt")
    replies = [text for turns in dialogues for text in turns[1:]]
    expected = set(response_hashes(replies, known_corpora.LONG))
    with np.load(known_corpora.HASHES) as known:
        # A few of the expected ones are missing: those that other corpora have, too.
        assert len(expected) - 5 < len(expected & set(known["dailydialog"].tolist()))
        assert len(known["dailydialog"]) <= len(expected)


@pytest.mark.parametrize("name", ["byu_chitchat", "casino", "multiwoz_val_test", "star"])
def test_another_corpus_is_not_recognised(shared_data, name):
    path = shared_data.parent / "corpora" / f"{name}.txt.gz"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    replies = [text for turns in dialogues_of(path) for text in turns]
    assert recognise([Dataset.from_dict({"response": replies})]) is None
