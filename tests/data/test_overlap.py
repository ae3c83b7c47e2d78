"""What stands in more than one split: every count against dialogues made for it."""

import io
import random
import re
import sys
import unicodedata

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from helpers.corpus import rows_of
from rich.console import Console
from seq2seq_dialog.dataset_script.dialogues import split_of

from seq2seq_dialog.data import overlap
from seq2seq_dialog.data.corpus import Corpus, audit_corpus
from seq2seq_dialog.data.overlap import audit, warning, without_overlap
from seq2seq_dialog.data.rows import load_rows
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.settings import DataArguments

CONTEXTS = {"one_turn": 1, "three_turns": 3, "full_context": 99}
# Utterances of four and more words, all different.
LONG = [f"this is utterance number {n} ." for n in range(40)]


def splits_of(**dialogues: list[list[str]]) -> DatasetDict:
    return DatasetDict({name: rows_of(turns) for name, turns in dialogues.items()})


def plain(turns) -> tuple[str, ...]:
    return tuple("".join(c for c in turn.casefold() if c.isalnum()) for turn in turns)


def pairs(turns, context: int):
    turns = plain(turns)
    return [(turns[max(0, t - context) : t], turns[t]) for t in range(1, len(turns))]


def said(turns) -> set[str]:
    return {p for t, p in zip(turns, plain(turns), strict=True) if p and len(t.split()) >= 4}


def by_hand(splits: dict[str, list[list[str]]]) -> dict:
    """The counts of `audit`, by its definitions word for word and one dialogue at a time."""
    train, counts, clean = splits["train"], {}, {}
    ways = {"exact": tuple, "normalised": plain}

    def overlap(dialogue, other):
        return said(dialogue) and 2 * len(said(dialogue) & said(other)) >= len(said(dialogue))

    for name, dialogues in splits.items():
        keys = {kind: [way(turns) for turns in dialogues] for kind, way in ways.items()}
        counts[name] = {
            "dialogues": len(dialogues),
            "pairs": sum(len(turns) - 1 for turns in dialogues),
            "copies": {kind: len(keys[kind]) - len(set(keys[kind])) for kind in ways},
        }
        if name == "train":
            continue
        counts[name]["dialogues_in"] = {
            other: {
                kind: sum(key in [way(turns) for turns in splits[other]] for key in keys[kind])
                for kind, way in ways.items()
            }
            for other in splits
            if other != name
        }
        counts[name]["pairs_in_train"] = {}
        for context, turns in CONTEXTS.items():
            known = {pair for dialogue in train for pair in pairs(dialogue, turns)}
            seen = [[pair in known for pair in pairs(d, turns)] for d in dialogues]
            counts[name]["pairs_in_train"][context] = sum(map(sum, seen))
            if turns == 1:
                one_turn = seen
        related = [any(overlap(d, other) for other in train) for d in dialogues]
        copied = [plain(d) in {plain(other) for other in train} for d in dialogues]
        clean[name] = [
            not (bad or copy or pair)
            for bad, copy, row in zip(related, copied, one_turn, strict=True)
            for pair in row
        ]
        counts[name] |= {"overlapping": sum(related), "clean_pairs": sum(clean[name])}
    held_out = [d for name, dialogues in splits.items() if name != "train" for d in dialogues]
    keys = [plain(turns) for turns in train]
    stay = [
        key not in keys[:i] and key not in [plain(d) for d in held_out]
        for i, key in enumerate(keys)
    ]
    keep = [
        first and not any(overlap(d, turns) for d in held_out)
        for first, turns in zip(stay, train, strict=True)
    ]
    sizes = np.array([len(turns) - 1 for turns in train], int)
    return {
        "splits": counts,
        "train_without_copies": {"dialogues": sum(stay), "pairs": int(sizes[stay].sum())},
        "train_without_overlap": {"dialogues": sum(keep), "pairs": int(sizes[keep].sum())},
        "clean": clean,
        "keep": np.repeat(keep, sizes).tolist(),
    }


def as_lists(audit_result: dict) -> dict:
    clean = {name: mask.tolist() for name, mask in audit_result["clean"].items()}
    return audit_result | {"clean": clean, "keep": audit_result["keep"].tolist()}


def random_splits(seed: int) -> dict[str, list[list[str]]]:
    """Dialogues of few utterances, so that everything there is to count happens."""
    rng = random.Random(seed)
    texts = [*LONG, *(text.upper() for text in LONG), *["Yes.", "yes", "No.", "! ! ! !"] * 5]

    def dialogues(count):
        return [rng.choices(texts, k=rng.randint(2, 6)) for _ in range(count)]

    splits = {"train": dialogues(30), "validation": dialogues(15), "test": dialogues(15)}
    for name, other in (("train", "test"), ("test", "validation"), ("train", "train")):
        splits[name] += rng.sample(splits[other], 2)
    return splits


@pytest.mark.parametrize("seed", range(4))
def test_all_counts_are_those_of_a_count_by_hand(seed):
    splits = random_splits(seed)
    expected = by_hand(splits)
    assert as_lists(audit(splits_of(**splits))) == expected
    counts = expected["splits"]["test"]  # the splits are not such that everything is nought
    assert 0 < counts["overlapping"] < counts["dialogues"] and counts["clean_pairs"] > 0
    assert expected["train_without_overlap"]["pairs"] > 0


def learnt_of_agents(dialogues: list[list[str]]) -> Dataset:
    """Rows of dialogues in which each second turn is learnt: what the agent says."""
    return Dataset.from_list(
        [
            {"turn": turn, "context": turns[: 2 * turn - 1], "response": turns[2 * turn - 1]}
            for turns in dialogues
            for turn in range(1, len(turns) // 2 + 1)
        ]
    )


@pytest.mark.parametrize(
    ("turns", "in_train"),
    [
        # what the user has said before the last reply: nothing of it, the last turn, all of it
        (["Where is my bag?", "Which number?", "I lost it.", "It is on its way."], [0, 0, 0]),
        (["Where is my bag?", "Which number?", "12", "It is on its way."], [1, 0, 0]),
        (["My parcel, late?", "Which number?", "12", "It is on its way."], [1, 0, 0]),
        (["My parcel is late.", "Which number?", "13", "It is on its way."], [1, 1, 1]),
        (["My parcel is late.", "Which number?", "Which number?", "Yes."], [1, 1, 1]),
        (["My parcel is late.", "Which number?", "12", "It is on its way."], [2, 2, 2]),
    ],
)
def test_pairs_are_told_where_only_one_side_is_learnt(turns, in_train):
    train = ["My parcel is late.", "Which number?", "12", "It is on its way."]
    rows = DatasetDict(train=learnt_of_agents([train]), test=learnt_of_agents([turns]))
    counts = audit(rows)["splits"]["test"]
    assert list(counts["pairs_in_train"].values()) == in_train
    assert counts["dialogues_in"]["train"]["normalised"] == (turns == train)


def test_what_a_context_holds_is_told_where_its_beginning_is_cut():
    train = [f"Turn {number}." for number in range(8)]
    windows = {"turn": [], "context": [], "response": []}
    for turn, place in enumerate((1, 3, 5, 7), 1):
        windows["turn"].append(turn)
        windows["context"].append(train[max(0, place - 4) : place])
        windows["response"].append(train[place])
    rows = DatasetDict(train=rows_of([train]), test=Dataset.from_dict(windows))
    audit_result = audit(rows)
    assert list(audit_result["splits"]["test"]["pairs_in_train"].values()) == [4, 4, 4]
    assert audit_result["splits"]["test"]["dialogues_in"]["train"]["exact"] == 1


def test_the_official_dailydialog_is_as_it_was_counted(shared_data):
    rows, _ = load_rows(DataArguments(data=str(shared_data / "dailydialog"), detokenize=False))
    audit_result = audit(rows)
    counts = audit_result["splits"]
    train, validation, test = (counts[name] for name in ("train", "validation", "test"))
    sizes = [[split["dialogues"], split["pairs"]] for split in (train, validation, test)]
    assert sizes == [[11118, 76052], [1000, 7069], [1000, 6740]]
    assert train["copies"] == {"exact": 569, "normalised": 879}
    assert validation["copies"] == {"exact": 5, "normalised": 7}
    assert test["copies"] == {"exact": 4, "normalised": 4}
    assert validation["dialogues_in"]["train"]["normalised"] == 122
    assert test["dialogues_in"]["train"]["normalised"] == 149
    assert validation["dialogues_in"]["test"]["normalised"] == 11
    assert test["dialogues_in"]["validation"]["normalised"] == 11
    assert list(test["pairs_in_train"].values()) == [1622, 1409, 1246]
    shares = [round(100 * n / 6740, 1) for n in test["pairs_in_train"].values()]
    assert shares == [24.1, 20.9, 18.5]
    shares = [round(100 * n / 7069, 1) for n in validation["pairs_in_train"].values()]
    assert shares == [20.6, 18.1, 16.5]
    assert (validation["overlapping"], test["overlapping"]) == (215, 275)
    assert audit_result["train_without_copies"] == {"dialogues": 9973, "pairs": 68271}
    assert warning(audit_result).startswith("Warning: 24.1 % of the test pairs (1,622 of 6,740")

    again = audit(without_overlap(rows, audit_result))["splits"]
    assert again["train"]["copies"] == {"exact": 0, "normalised": 0}
    for name in ("validation", "test"):
        assert again[name]["dialogues_in"]["train"] == {"exact": 0, "normalised": 0}
        assert again[name]["overlapping"] == 0


def test_copies_are_found_whatever_their_case_and_punctuation():
    train = [["Hello , Ann !", "Hi ."], ["hello, ann", "HI"], ["Hello , Ann !", "Hi ."], ["A", "B"]]
    test = [["HELLO ANN", "hi"], ["Hello , Ann !", "Hi ."], ["Hello , Ann !", "Hi .", "Bye ."]]
    counts = audit(splits_of(train=train, test=test))["splits"]
    assert counts["train"]["copies"] == {"exact": 1, "normalised": 2}
    assert counts["test"]["copies"] == {"exact": 0, "normalised": 1}
    assert counts["test"]["dialogues_in"] == {"train": {"exact": 1, "normalised": 2}}


def test_the_same_words_cut_otherwise_are_another_dialogue():
    audit_result = audit(splits_of(train=[["ab", "c"], ["a b c", "d", "e"]], test=[["a", "bc"]]))
    assert audit_result["splits"]["test"]["dialogues_in"] == {
        "train": {"exact": 0, "normalised": 0}
    }
    assert audit_result["splits"]["train"]["copies"] == {"exact": 0, "normalised": 0}


def test_normalised_text_is_what_isalnum_holds_for_and_combining_marks():
    every = [chr(code) for code in range(sys.maxunicode + 1)]
    unassigned = [c for c in every if unicodedata.category(c) in ("Cn", "Co")]
    assert overlap.normalised("".join(["a", *unassigned])) == "a"
    for characters in (c.casefold() for c in sorted({*every} - {*unassigned})):
        left = overlap.normalised(f"a{characters}")
        composed = unicodedata.normalize("NFC", characters)
        if not any(unicodedata.category(c)[0] == "M" for c in composed):
            assert left == "a" + "".join(filter(str.isalnum, composed)), hex(ord(characters[0]))


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("का", "को", False),
        ("नमस्ते!", "नमस्ते", True),
        ("Café", "CAFE\u0301 .", True),
        ("Cafe", "Café", False),
        ("👍", "👎", False),
        ("👍 👍", "👍👍", True),
        ("Great ❤\ufe0f", "great!", True),
        ("?", "!", True),
        ("👍!", "👍", True),
        (". . .", "...", True),
        ("مَلِك", "مِلك", False),
        ("I don ' t .", "i DONT", True),
    ],
)
def test_texts_are_the_same_by_what_they_say(one, other, equal):
    assert (overlap.normalised(one) == overlap.normalised(other)) == equal
    assert (split_of(["x", one]) == split_of(["x", other])) >= equal


@pytest.mark.parametrize(
    ("dialogue", "expected"),
    [
        (["x", "D", "E"], (1, 0, 0)),
        (["x", "B", "C", "D", "E"], (3, 1, 0)),
        (["D", "E"], (1, 0, 0)),  # of a context of one turn alone, train has none
        (["B", "C", "D", "E"], (3, 1, 0)),  # train has the three turns, with others before them
        (["a.", "b?"], (1, 1, 1)),
        (["A", "B", "C", "D", "E"], (4, 4, 4)),
        (["B", "A"], (0, 0, 0)),
        (["A", "C"], (0, 0, 0)),
    ],
)
def test_pairs_stand_in_train_with_so_much_of_their_context(dialogue, expected):
    audit_result = audit(splits_of(train=[["A", "B", "C", "D", "E"], ["v", "w"]], test=[dialogue]))
    assert tuple(audit_result["splits"]["test"]["pairs_in_train"].values()) == expected


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ([LONG[:2]], LONG[:4], 1),  # exactly half
        ([LONG[:2]], LONG[:5], 0),
        ([[LONG[0], "a"], [LONG[1], "b"]], LONG[:4], 0),  # half, but not in one dialogue
        ([[text.upper() for text in LONG[:2]]], LONG[:4], 1),
        ([LONG[:9]], [LONG[3], LONG[0]], 1),
        ([[LONG[0], "x"]], [LONG[0], "No.", "Oh, I see.", "! ! ! !"], 1),  # the others do not count
        ([["No.", "Oh, I see.", "! ! ! !"]], [LONG[0], "Oh, I see.", "No.", "? ? ? ?"], 0),
        ([["Oh , I see .", "x"]], ["Oh , I see .", "y"], 1),  # five words as the text stands
        ([["Oh, I see.", "x"]], ["Oh, I see.", "y"], 0),
        ([[LONG[0], "x"]], [LONG[0], LONG[0], LONG[1], LONG[2]], 0),  # each counts once
        ([["instruction: " + LONG[0], "x", "y"]], ["instruction: " + LONG[0], LONG[1], "z"], 0),
    ],
)
def test_overlap_is_half_of_what_is_long_in_one_training_dialogue(train, test, expected):
    audit_result = audit(splits_of(train=train, test=[["p", "q"], test]))
    assert audit_result["splits"]["test"]["overlapping"] == expected
    assert audit_result["clean"]["test"][0]


def test_clean_rows_are_told_one_by_one():
    train = [["Yes.", "No."], LONG[:4]]
    test = [
        ["Hi.", "Yes.", "No.", "Bye."],  # its second pair stands in train
        ["yes", "no"],  # a copy, too short to overlap
        [LONG[5], "Really?", LONG[0]],  # half of it
        [LONG[5], LONG[6], "Oh."],
    ]
    audit_result = audit(splits_of(train=train, validation=[["a", "b"]], test=test))
    row = [True, False, True, False, False, False, True, True]
    assert (
        audit_result["clean"]["test"].tolist() == row
        and audit_result["clean"]["test"].dtype == bool
    )
    assert audit_result["clean"]["validation"].tolist() == [True]
    assert audit_result["splits"]["test"]["clean_pairs"] == sum(row)


def test_train_without_overlap_is_what_keep_says():
    train = [
        ["Hi.", "Ho.", "Hu."],  # stays
        ["hi", "ho", "hu"],  # a copy of it
        ["One.", "Two."],  # stands in validation
        [LONG[0], "Oh."],  # holds half of a test dialogue
        [LONG[2], "Oh.", "Well."],  # stays: it holds a third of one
    ]
    test = [[LONG[0], LONG[1]], LONG[2:5]]
    rows = splits_of(train=train, validation=[["one", "two"]], test=test)
    audit_result = audit(rows)
    assert audit_result["keep"].tolist() == [True, True, False, False, False, False, True, True]
    assert audit_result["train_without_copies"] == {"dialogues": 3, "pairs": 5}
    assert audit_result["train_without_overlap"] == {"dialogues": 2, "pairs": 4}
    left = without_overlap(rows, audit_result)
    assert list(left) == list(rows) and left["test"] is rows["test"]
    assert left["train"][:] == rows["train"].select([0, 1, 6, 7])[:]
    assert left["train"]._fingerprint == without_overlap(rows, audit_result)["train"]._fingerprint
    assert audit(left)["keep"].all()  # rows that were taken out are read as well


def test_train_that_is_all_overlap_is_refused():
    rows = splits_of(train=[["a", "b"]], test=[["A", "B"]])
    with pytest.raises(UsageError, match="no training pair is left"):
        without_overlap(rows, audit(rows))


@pytest.mark.parametrize(
    "names", [("test", "train", "validation"), ("validation", "test", "train")]
)
def test_the_order_of_the_splits_does_not_matter(names):
    splits = random_splits(0)
    audit_result = audit(splits_of(**{name: splits[name] for name in names}))
    assert as_lists(audit_result) == as_lists(audit(splits_of(**splits)))
    assert list(audit_result["splits"]) == ["train", "validation", "test"]


@pytest.mark.parametrize("missing", ["validation", "test"])
def test_a_split_may_be_missing(missing):
    splits = {name: turns for name, turns in random_splits(0).items() if name != missing}
    audit_result = audit(splits_of(**splits))
    assert as_lists(audit_result) == by_hand(splits)


def test_train_alone_has_copies_to_count():
    audit_result = audit(splits_of(train=[["a", "b"], ["A", "B"], ["c", "d"]]))
    assert audit_result["splits"]["train"]["copies"] == {"exact": 0, "normalised": 1}
    assert audit_result["keep"].tolist() == [True, False, True] and audit_result["clean"] == {}
    assert warning(audit_result) is None


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_a_split_may_be_empty(name):
    splits = random_splits(0) | {name: []}
    rows = splits_of(**splits)
    assert as_lists(audit(rows)) == by_hand(splits)
    rows[name] = splits_of(train=[["a", "b"]])["train"].select([])
    assert as_lists(audit(rows)) == by_hand(splits)


def test_a_dialogue_that_is_cut_short_is_what_its_rows_hold():
    splits = random_splits(1)
    rows = splits_of(**splits)
    sizes = np.cumsum([len(turns) - 1 for turns in splits["train"]])
    cut = next(i for i in range(5, 30) if sizes[i] - sizes[i - 1] > 2)  # in its middle
    rows["train"] = rows["train"].select(range(sizes[cut] - 2))
    splits["train"] = [*splits["train"][:cut], splits["train"][cut][:-2]]
    assert as_lists(audit(rows)) == by_hand(splits)


def test_rows_out_of_order_are_refused():
    rows = splits_of(train=[["a", "b", "c"], ["d", "e", "f"]])
    for order, row in ([1, 0], 0), ([0, 2, 3, 1], 3):
        with pytest.raises(UsageError, match=f"row {row} has turn 2, but the rows of a dialogue"):
            audit(DatasetDict(train=rows["train"].select(order)))


def test_reading_piece_by_piece_changes_nothing(monkeypatch):
    splits = random_splits(2)
    monkeypatch.setattr(overlap, "ROWS_READ", 2)
    assert as_lists(audit(splits_of(**splits))) == by_hand(splits)


def test_an_utterance_that_everybody_says_is_followed_to_some_only(monkeypatch):
    greeting = "how can I help you ?"
    train = [[greeting, f"answer {n}"] for n in range(8)]
    train.append([greeting, LONG[0], LONG[1]])
    test = [[greeting, "Oh."], [greeting, LONG[0], LONG[1], LONG[2]]]
    rows = splits_of(train=train, test=test)
    everyone = audit(rows)
    assert everyone["splits"]["test"]["overlapping"] == 2
    assert everyone["train_without_overlap"]["dialogues"] == 0
    monkeypatch.setattr(overlap, "MOST", 3)
    audit_result = audit(rows)  # the last one is found by what is rare, and is compared as a whole
    assert audit_result["splits"]["test"]["overlapping"] == 2
    assert np.flatnonzero(~audit_result["keep"]).tolist() == [0, 1, 2, 8, 9]


def test_the_warning_is_given_above_one_percent():
    train = [["Yes.", "No."]]
    for others, expected in (98, True), (99, False):
        test = [["yes", "no"], *([f"{n}", "x"] for n in range(others))]
        said = warning(audit(splits_of(train=train, test=test)))
        assert bool(said) == expected
    said = warning(audit(splits_of(train=train, validation=[["yes", "no"]])))
    assert "100.0 % of the validation pairs (1 of 1, with" in said
    said = warning(audit(splits_of(train=train, test=[["yes", "no", "why"], ["a", "b"]])))
    assert "33.3 % of the test pairs (1 of 3, with" in said and "the 2 clean pairs" in said


DROP = {"drop_overlap": True}
TALKS = [[f"what is the number {n} ?", f"it is {n} of course ."] for n in range(60)]


@pytest.mark.parametrize(
    ("splits", "options", "warnings"),
    [
        ({"train": TALKS[:9], "test": TALKS[9:]}, {}, []),
        ({"train": TALKS[:2]}, {}, ["no test split: no reply is scored.*train has 2. Give more"]),
        ({"train": TALKS[:2], "validation": TALKS[2:]}, {}, ["test split: validation stands in"]),
        ({"train": TALKS[:2], "test": TALKS[2:9]}, {}, ["test has only 7 pairs"]),
        ({"train": TALKS[:2], "test": TALKS[2:9]}, {"max_eval_samples": 7}, []),
        ({"train": TALKS, "test": TALKS[:50]}, {}, ["100.0 % of the test", "none of the 50 eval"]),
        ({"train": TALKS, "validation": TALKS[:2]}, {}, ["of the val", "no test", "none of the 2"]),
        ({"train": TALKS[:51], "test": TALKS[:50]}, DROP, ["100.0 %", "leaves 1 of 51 training"]),
        ({"train": TALKS[:1] + TALKS[50:], "test": TALKS[:50]}, DROP, ["2.0 %"]),
    ],
)
def test_too_little_of_something_is_warned_of(splits, options, warnings):
    console = Console(file=io.StringIO(), width=999)
    audit_corpus(Corpus(splits_of(**splits), {}), DataArguments(**options), console)
    lines = [line for line in console.file.getvalue().split("\n") if "Warning" in line]
    assert len(lines) == len(warnings), lines
    for line, expected in zip(lines, warnings, strict=True):
        assert re.search(expected, line), line


def test_rows_may_begin_in_the_middle_of_a_dialogue():
    def split(*rows):
        names = ("dialogue_id", "turn", "context", "response")
        return Dataset.from_list([dict(zip(names, row, strict=True)) for row in rows])

    train = split(
        ("a", 1, ["one", "two", "three"], "four"), ("a", 2, ["one", "two", "three", "four"], "five")
    )
    test = split(
        ("x", 1, ["three"], "four"),
        ("y", 1, ["zero", "two", "three"], "four"),
        ("z", 1, ["one", "two", "three"], "four"),
        ("w", 1, ["three", "two", "one"], "four"),
        ("v", 1, ["one", "four"], "five"),
    )
    counts = audit(DatasetDict(train=train, test=test))["splits"]["test"]
    assert counts["pairs_in_train"] == {"one_turn": 4, "three_turns": 1, "full_context": 1}
    assert counts["dialogues"] == counts["pairs"] == 5
