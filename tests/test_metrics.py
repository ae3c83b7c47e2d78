"""Metrics against figures worked out by hand and against second implementations."""

import json
import math
import subprocess
import sys

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from seq2seq_dialog.arguments import REPLY_METRICS
from seq2seq_dialog.metrics import ReplyMetric, distinct, perplexity, unigram_perplexity

PREDICTIONS = ["the cat sat on the mat", "", "hello there", "a b c d e f"]
REFERENCES = ["the cat sat on the mat", "nothing", "hello there friend of mine", "a b x d e f"]


def compute(predictions, references):
    return ReplyMetric(keep_in_memory=True).compute(predictions=predictions, references=references)


def test_identical_replies_score_100():
    result = compute(["the cat sat on the mat"], ["the cat sat on the mat"])
    for name in ("bleu", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "chrf"):
        assert result[name] == pytest.approx(100)
    for name in ("rouge_1", "rouge_2", "rouge_l"):
        assert result[name] == pytest.approx(100)
    assert result["reply_words"] == result["reference_words"] == 6


def test_empty_replies_score_0():
    result = compute(["", ""], ["hello there", "you"])
    assert {result[n] for n in ("bleu", "bleu_1", "chrf", "rouge_1", "distinct_1")} == {0}
    assert (result["reply_words"], result["reference_words"]) == (0, 1.5)


def test_bleu_by_hand():
    # Clipped matches over totals: unigrams 3/4, bigrams 2/3; brevity exp(1 - 5/4).
    result = compute(["a b c x"], ["a b c d e"])
    brevity = math.exp(1 - 5 / 4)
    assert result["bleu_1"] == pytest.approx(100 * brevity * 3 / 4)
    assert result["bleu_2"] == pytest.approx(100 * brevity * math.sqrt(3 / 4 * 2 / 3))


def test_rouge_by_hand():
    # One shared word of one and of two: precision 1, recall 1/2, F1 2/3; no bigram.
    result = compute(["hello"], ["hello you"])
    assert result["rouge_1"] == result["rouge_l"] == pytest.approx(200 / 3)
    assert result["rouge_2"] == 0


def test_words_of_other_scripts_count():
    result = compute(["добрый день, Анна"], ["Добрый день Анна"])
    assert result["rouge_1"] == result["rouge_l"] == pytest.approx(100)


def test_what_best_may_mean_is_computed():
    assert set(REPLY_METRICS) <= set(compute(["a b"], ["a b"]))


@pytest.mark.parametrize(
    ("replies", "n", "expected"),
    [
        (["a a a a"], 1, 25),
        (["A a", "b"], 1, 200 / 3),
        (["a b", "a b"], 2, 50),
        (["a", "b"], 2, 0),  # no bigram crosses replies
        ([""], 1, 0),
        ([], 1, 0),
    ],
)
def test_distinct_by_hand(replies, n, expected):
    assert distinct(replies, n) == pytest.approx(expected)


def test_perplexity_of_a_uniform_guess_is_the_number_of_choices():
    assert perplexity(nll=10 * math.log(7), tokens=10) == pytest.approx(7)
    assert perplexity(nll=1e6, tokens=10) == math.inf


def test_unigram_perplexity_by_hand():
    # Tokens 0 0 1 of a vocabulary of 3: smoothed 3/6, 2/6, 1/6.
    expected = math.exp(-(math.log(3 / 6) + math.log(1 / 6)) / 2)
    assert unigram_perplexity([[0, 0], [1]], [[0, 2]], 3) == pytest.approx(expected)


def test_second_implementations_agree(tmp_path):
    result = compute(PREDICTIONS, REFERENCES)
    for name, lines in (("hyp", PREDICTIONS), ("ref", REFERENCES)):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "sacrebleu",
        str(tmp_path / "ref"),
        "-i",
        str(tmp_path / "hyp"),
    ]
    command += ["-m", "bleu", "chrf", "-b", "-w", "6"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    bleu, chrf = json.loads(printed)
    assert result["bleu"] == pytest.approx(bleu, abs=1e-6)
    assert result["chrf"] == pytest.approx(chrf, abs=1e-6)
    for n in (1, 2, 3, 4):
        order = sacrebleu.metrics.BLEU(max_ngram_order=n).corpus_score(PREDICTIONS, [REFERENCES])
        assert result[f"bleu_{n}"] == pytest.approx(order.score)
    scores = [
        RougeScorer(["rougeL"]).score(r, p)["rougeL"]
        for r, p in zip(REFERENCES, PREDICTIONS, strict=True)
    ]
    assert result["rouge_l"] == pytest.approx(100 * sum(s.fmeasure for s in scores) / len(scores))


def test_the_signature_names_what_moves_the_score():
    signature = compute(["a"], ["a"])["bleu_signature"]
    assert "tok:13a" in signature and f"version:{sacrebleu.__version__}" in signature
