"""Diversity of replies against figures by hand and second implementations."""

import math
import random
from collections import Counter
from statistics import mean

import nltk
import numpy as np
import pytest
from seq2seq_dialog.dataset_script.dialogues import normalised

from seq2seq_dialog.evaluation.diversity import by_size, diversity, repetition, self_chat
from seq2seq_dialog.evaluation.metrics import ReplyMetric, pair_statistics

NOTHING = dict.fromkeys(diversity([], [], set()), 0)


def known(replies):
    return set(map(normalised, replies))


@pytest.mark.parametrize(
    ("replies", "references", "training", "expected"),
    [
        ([], [], [], NOTHING),
        ([""], ["hello there"], ["", "hello"], NOTHING),  # an empty reply copies none
        ([""], [""], [], NOTHING),
        # One token, which the training data says in another case and with a full stop.
        (
            ["Yes"],
            ["yes I do"],
            ["YES."],
            NOTHING | {"distinct_1": 100, "copied": 100, "length_ratio": 1 / 3, "reply_words": 1},
        ),
        # Two alike: half of the words, of the bigrams, of the trigrams and of the 4-grams.
        (
            ["a b c d", "A b c d"],
            ["a b", "c d"],
            ["a b c"],
            {"distinct_1": 50, "distinct_2": 50, "distinct_3": 50, "entropy_4": 0}
            | {"self_bleu": 100, "copied": 0, "generic": 100, "repetition": 0}
            | {"length_ratio": 2, "reply_words": 4},
        ),
        # Of `a b a b a b` four trigrams are two; `c d e` has one, `f` none.
        (
            ["a b a b a b", "c d e", "f"],
            ["x", "x", "x"],
            ["F!", "c, d, e"],
            {"distinct_1": 60, "distinct_2": 400 / 7, "distinct_3": 60}
            | {"entropy_4": math.log(3) - 2 / 3 * math.log(2), "self_bleu": 0}
            | {"copied": 200 / 3, "generic": 0, "repetition": 25}
            | {"length_ratio": 10 / 3, "reply_words": 10 / 3},
        ),
    ],
)
def test_diversity_by_hand(replies, references, training, expected):
    assert diversity(replies, references, known(training)) == pytest.approx(expected)


def test_what_is_said_twice_and_by_one_in_a_hundred_is_generic():
    different = [f"reply {i}" for i in range(200)]
    # 2 of 200 are one in a hundred, so are three letter-less ones; 2 of 201 are not.
    two = [*different[:198], "I see.", "i see"]
    assert diversity(two, two, set())["generic"] == pytest.approx(1)
    three = [*different[:195], "I see.", "i see", "", "...", "?!"]
    assert diversity(three, three, set())["generic"] == pytest.approx(2.5)
    few = [*different[:199], "I see.", "i see"]
    assert diversity(few, few, set())["generic"] == 0
    fifty = different[:50]
    assert diversity(fifty, fifty, set())["generic"] == 0  # 1 of 50, but said once


def test_what_is_the_same_is_told_by_letters_and_digits_alone():
    texts = ["Straße 7, A_b!", "¿Qué—tal?", "ABC x", "١٢٣ 你好", "", "…"]
    plain = ["".join(c for c in text.casefold() if c.isalnum()) for text in texts]
    for text, training in zip(texts, plain, strict=True):
        assert diversity([text], ["x"], known([training]))["copied"] == (100 if training else 0)
    assert diversity(["Strasse 7 ab"], ["x"], known(texts))["copied"] == 100


@pytest.mark.parametrize("seed", range(5))
def test_diversity_agrees_with_a_second_implementation(seed):
    draw = random.Random(seed)
    replies = [" ".join(draw.choices("abcD", k=draw.randint(0, 12))) for _ in range(40)]
    result = diversity(replies, replies, known(replies[:3]))
    words = [reply.lower().split() for reply in replies]
    for n in (1, 2, 3):
        ngrams = [g for text in words for g in nltk.ngrams(text, n)]
        assert result[f"distinct_{n}"] == pytest.approx(100 * len(set(ngrams)) / len(ngrams))
    counts = np.array([*Counter(g for text in words for g in nltk.ngrams(text, 4)).values()])
    shares = counts / counts.sum()
    assert result["entropy_4"] == pytest.approx(-(shares * np.log(shares)).sum())
    repeated = []
    for text in words:
        seen, again = set(), []
        for ngram in nltk.trigrams(text):
            again.append(ngram in seen)
            seen.add(ngram)
        repeated += [mean(again)] if again else []
    assert result["repetition"] == pytest.approx(100 * mean(repeated))


def test_repetition_by_hand():
    replies = ["no no no no no", "a b a b a b"]
    assert repetition(replies) == pytest.approx(100 * (2 / 3 + 2 / 4) / 2)
    assert repetition(["No no NO no"]) == 50
    assert repetition(["a b", ""]) == 0


def test_diversity_does_not_depend_on_order(pairs):
    replies, references, *_ = pairs
    order = random.Random(1).sample(range(300), 300)
    shuffled = ([texts[i] for i in order] for texts in (replies, references))
    before = diversity(replies, references, known(references[:100]))
    assert diversity(*shuffled, known(references[:100])) == pytest.approx(before)
    assert 0 < before["copied"] < 100 and 0 < before["generic"] < 100


def test_groups_are_the_pairs_of_each_size(pairs, statistics_of):
    replies, references, nll, tokens, _ = pairs
    turns = [1 + i % 12 for i in range(300)]
    statistics = statistics_of(replies, references, nll, tokens)
    groups = by_size("turns", turns, replies, references, known(references[:100]), statistics)
    assert [group["turns"] for group in groups] == ["1", "2", "3-4", "5-8", "9-"]
    assert [group["pairs"] for group in groups] == [25, 25, 50, 100, 100]
    rows = [i for i in range(300) if turns[i] in (3, 4)]
    texts = [[column[i] for i in rows] for column in (replies, references)]
    expected = diversity(*texts, known(references[:100]))
    scores = ReplyMetric(keep_in_memory=True).compute(predictions=texts[0], references=texts[1])
    expected |= {name: scores[name] for name in ("bleu_2", "rouge_l")}
    expected["perplexity"] = math.exp(sum(nll[i] for i in rows) / sum(tokens[i] for i in rows))
    # What the whole system says to everything, not what it says twice in these 50 pairs.
    del expected["generic"]
    result = groups[2]
    everything = diversity(replies, references, set())["generic"]
    assert sum(g["generic"] * g["pairs"] for g in groups) == pytest.approx(300 * everything)
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    assert result.keys() - expected.keys() == {"turns", "pairs", "generic"}


def test_empty_groups_are_left_out_and_bounds_belong_to_the_lower_one():
    references = [" ".join("w" * count) for count in (0, 1, 5, 6, 21, 100)]
    lengths, statistics = (0, 1, 5, 6, 21, 100), pair_statistics(references, references)
    groups = by_size("words", lengths, references, references, set(), statistics)
    assert [(g["words"], g["pairs"]) for g in groups] == [("1-5", 3), ("6-10", 1), ("21-", 2)]
    assert "perplexity" not in groups[0]
    assert groups[2]["rouge_l"] == pytest.approx(100)
    assert by_size("turns", [2], ["a"], ["b"], set(), {})[0]["turns"] == "2"
    assert by_size("turns", [], [], [], set(), {}) == []


@pytest.mark.parametrize(
    ("dialogues", "expected"),
    [
        ([], dict.fromkeys(self_chat([], []), 0)),
        # But for case and marks, what was said before; its words with their marks are others.
        (
            [["a b c d", "x y"], ["a b c d", "x y", "A, b c d!"]],
            {"repeated_replies": 50, "repeated_ngrams": 0, "distinct_replies": 100}
            | {"distinct_2": 100, "generic": 0, "reply_words": 3},
        ),
        (
            [["a b c d", "b c d e"], ["hi", "b c d e"]],
            {"repeated_replies": 0, "repeated_ngrams": 25, "distinct_replies": 50}
            | {"distinct_2": 50, "generic": 100, "reply_words": 4},
        ),
    ],
    ids=["nothing", "within", "across"],
)
def test_self_chat_by_hand(dialogues, expected):
    figures = self_chat([turns[:-1] for turns in dialogues], [turns[-1] for turns in dialogues])
    assert figures == pytest.approx(expected)
