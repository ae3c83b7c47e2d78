"""Similarity of texts by the vectors that ship with the package, against its formula."""

import json
import re
import shutil

import numpy as np
import pytest
from helpers.corpus import sample_dialogues
from safetensors.torch import load_file
from seq2seq_dialog.dataset_script.detokenize import detokenize
from tokenizers import Tokenizer

from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.evaluation import embeddings
from seq2seq_dialog.evaluation.embeddings import LANGUAGE, SMOOTHING, knows, similarities
from seq2seq_dialog.evaluation.protocols import score
from seq2seq_dialog.shipped import STARTER

TEXTS = "I have two dogs at home.", "We have a cat.", "The train leaves at nine."


def mean_vector(text):
    """Arora et al. (2017), algorithm 1: the mean of a / (a + p(w)) v(w), token by token.

    Less its part along what p expects of it.
    """
    tokenizer = Tokenizer.from_file(str(STARTER / "tokenizer.json"))
    pieces = json.loads((STARTER / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    vectors = load_file(STARTER / "model.safetensors")["shared.weight"].double().numpy()
    probability = [np.exp(p) for _, p in pieces]
    weighted = [SMOOTHING / (SMOOTHING + p) * v for p, v in zip(probability, vectors, strict=False)]
    common = sum(p * v for p, v in zip(probability, weighted, strict=True))
    ids = [i for i in tokenizer.encode(text).ids if pieces[i][0] != "</s>"]
    mean = sum(weighted[i] for i in ids) / len(ids)
    return mean - mean @ common / (common @ common) * common


def test_similarity_is_the_cosine_of_weighted_mean_vectors():
    a, *others = map(mean_vector, TEXTS)
    expected = [a @ b / np.sqrt(a @ a * (b @ b)) for b in others]
    found = similarities([TEXTS[0]] * 2, TEXTS[1:])
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("reply", "reference", "expected"),
    [
        ("A cup of tea.", "A cup of tea.", 1),
        ("", "Tea.", 0),
        ("", "", 0),
        ("😂", "👍", 0),
        ("😂 👍", "😂 👍", 0),
        ("fine 😂", "fine 👍", 1),
        ("A good day", "The day was good", 0.778663597255359),
    ],
)
def test_equal_and_empty_texts(reply, reference, expected):
    assert similarities([reply], [reference]) == pytest.approx([expected])


def test_unrelated_replies_are_not_alike():
    replies = [reply for dialogue in sample_dialogues(400) for reply in dialogue[1:]]
    others = replies[7:] + replies[:7]
    assert abs(similarities(replies, others).mean()) < 0.05


def test_a_second_person_is_nearer_than_one_of_another_dialogue(shared_data):
    lines = (shared_data / "multiref" / "multireftest.json").read_text(encoding="utf-8").split("\n")
    turns = [json.loads(line)["dialogue"] for line in lines[:300]]
    replies = [turn["text"] for dialogue in turns for turn in dialogue[1:]]
    second = [turn["responses"][-1] for dialogue in turns for turn in dialogue[:-1]]
    replies, second = (list(map(detokenize, texts)) for texts in (replies, second))
    others = second[50:] + second[:50]
    nearer = similarities(replies, second) > similarities(replies, others)
    assert nearer.mean() > 0.62  # 0.58 with what all sentences have in common


@pytest.mark.parametrize(("language", "known"), [("en", 1), ("en-GB", 1), ("EN_us", 1), ("de", 0)])
def test_only_english_has_the_figure(language, known):
    assert knows(language) == bool(known) and LANGUAGE == "en"
    figures, signature = score("default", ["Ja"], ["Nein"], language=language)
    assert ("similarity" in figures) == bool(known)
    assert signature.count("similarity|vectors:starter-") == known


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize(
    "damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"{")]
)
@pytest.mark.parametrize("use", [lambda: similarities(["a"], ["b"]), embeddings.signature])
def test_an_incomplete_starter_is_named(tmp_path, monkeypatch, name, damage, use):
    starter = shutil.copytree(STARTER, tmp_path / "starter")
    damage(starter / name)
    monkeypatch.setattr(embeddings, "STARTER", starter)
    embeddings.load_vectors.cache_clear()
    embeddings.signature.cache_clear()
    with pytest.raises(UsageError, match=f"{re.escape(str(starter))} is incomplete or damaged"):
        use()
