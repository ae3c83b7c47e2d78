"""The model beside its baselines, on all pairs and clean ones."""

import numpy as np
import pytest
from helpers.corpus import rows_of, sample_dialogues

from seq2seq_dialog.evaluation.metrics import ReplyMetric
from seq2seq_dialog.evaluation.scoring import (
    FREQUENT,
    HUMAN,
    MODEL,
    NEAREST,
    RANDOM,
    describe_decoding,
    evaluate,
)
from seq2seq_dialog.settings import DecodingArguments

DECODING = {"num_beams": 1, "do_sample": False, "max_new_tokens": 40, "temperature": 1.0}


@pytest.fixture(scope="module")
def pairs():
    """Training rows, evaluated rows, which are clean, and predictions that copy the reference."""
    dialogues = sample_dialogues(60)
    train, rows = rows_of(dialogues[:50]), rows_of(dialogues[45:])
    clean = np.array([int(row["dialogue_id"]) >= 5 for row in rows])
    predictions = [
        {
            **row,
            "reference": row["response"],
            "reply": row["response"],
            "nll": 6.0,
            "exchanged_nll": 9.0,
            "tokens": 3,
            "bytes": 12,
        }
        for row in rows
    ]
    return train, rows, clean, predictions


def test_systems_protocols_and_subsets(pairs):
    train, rows, clean, predictions = pairs
    found = evaluate(predictions, train, rows, clean, "test", DECODING)
    cells = {(r["system"], r["protocol"], r["subset"]): r for r in found["results"]}
    systems = (MODEL, NEAREST, RANDOM, FREQUENT)
    assert cells.keys() == {
        (s, p, subset)
        for s in systems
        for p in ("default", "plato")
        for subset in ("full", "clean")
    }
    full, part = cells[MODEL, "default", "full"], cells[MODEL, "default", "clean"]
    assert full["pairs"] == len(rows) and part["pairs"] == clean.sum() < len(rows)
    assert full["metrics"]["bleu"] == pytest.approx(100)
    assert full["metrics"]["perplexity"] == pytest.approx(np.exp(2))
    assert full["metrics"]["bits_per_byte"] == pytest.approx(0.5 / np.log(2))
    assert full["metrics"]["context_gain"] == 1
    assert full["decoding"] == "greedy, max_new_tokens=40" and "nrefs:1" in full["signature"]
    assert set(full["intervals"]) >= {"bleu", "rouge_l", "chrf", "perplexity"}
    # Half of the evaluated dialogues stand in train: there the nearest context has the reply.
    nearest = [cells[NEAREST, "default", subset]["metrics"]["bleu"] for subset in ("full", "clean")]
    assert nearest[0] > 30 > 10 > nearest[1]
    assert found["diversity"][MODEL]["full"]["length_ratio"] == 1
    assert sum(group["pairs"] for group in found["diversity"][MODEL]["by_turn"]) == len(rows)
    *sentences, last = found["verdict"]
    assert all("the model beats the" in sentence for sentence in sentences) and len(sentences) == 3
    assert last == "There are 10 dialogues: with fewer than 50, the intervals are rough."


def test_of_one_dialogue_nothing_is_told(pairs):
    train, rows, _, predictions = pairs
    one = np.array([row["dialogue_id"] == "7" for row in rows])
    found = evaluate(predictions, train, rows, one, "test", DECODING)
    assert found["verdict"] == [
        "There are too few dialogues to tell whether the model beats the baselines: the "
        f"{one.sum()} clean pairs are of one dialogue."
    ]


def test_groups_go_by_the_turns_of_the_context_whatever_the_number_of_the_pair(pairs):
    train, rows, _, predictions = pairs
    other = [
        row | {"turn": 1, "context": ["persona: I sing.", *row["context"]]} for row in predictions
    ]
    groups = [
        evaluate(each, train, rows, None, "test", DECODING)["diversity"][MODEL]["by_turn"]
        for each in (predictions, other)
    ]
    assert groups[0] == groups[1] and len(groups[0]) > 2


def test_a_subset_is_scored_like_a_test_set_of_its_own(pairs):
    train, rows, clean, predictions = pairs
    predictions = [row | {"reply": f"{row['reply']} indeed"} for row in predictions]
    found = evaluate(predictions, train, rows, clean, "test", DECODING)
    part = next(r for r in found["results"] if (r["system"], r["subset"]) == (MODEL, "clean"))
    kept = [row for row, flag in zip(predictions, clean, strict=True) if flag]
    alone = ReplyMetric(keep_in_memory=True).compute(
        predictions=[row["reply"] for row in kept], references=[row["reference"] for row in kept]
    )
    del alone["bleu_signature"]
    assert alone.items() <= part["metrics"].items()


def test_a_model_that_says_the_same_is_said_not_to_beat_the_baselines(pairs):
    train, rows, _, predictions = pairs
    predictions = [row | {"reply": "I don't know."} for row in predictions]
    found = evaluate(predictions, train, rows, np.zeros(len(rows), bool), "test", DECODING)
    assert {row["subset"] for row in found["results"]} == {"full"}  # nothing is clean
    assert found["verdict"][0].startswith(
        "On all pairs the model does not beat the nearest training context: below in similarity"
    )


def test_several_references(pairs):
    train, rows, clean, predictions = pairs
    answers = [[row["reference"].lower(), "so it is", "i see", "well", ""] for row in predictions]
    found = evaluate(predictions, train, rows, clean, "test", DECODING, multireference=answers)
    systems = {r["system"] for r in found["results"] if r["protocol"] == "multiref-4"}
    assert systems == {MODEL, NEAREST, RANDOM, FREQUENT, HUMAN}
    assert {r["system"] for r in found["results"] if r["protocol"] == "multiref"} == systems - {
        HUMAN
    }


def test_no_decoding_setting_is_left_out_of_its_name():
    other = {"do_sample": True} | dict.fromkeys(vars(DecodingArguments()).keys() - {"do_sample"}, 7)
    assert describe_decoding(other).count("=7") == len(other) - 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "greedy, max_new_tokens=40"),
        ({"num_beams": 4}, "beam search, num_beams=4, max_new_tokens=40"),
        ({"do_sample": True, "temperature": 0.7}, "sampling, max_new_tokens=40, temperature=0.7"),
    ],
)
def test_decoding_is_named(changes, words):
    assert set(describe_decoding(DECODING | changes).split(", ")) == set(words.split(", "))
