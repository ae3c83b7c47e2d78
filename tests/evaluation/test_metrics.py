"""Metrics against figures worked out by hand and against second implementations."""

import json
import math
import random
import subprocess
import sys

import nltk
import pytest
import sacrebleu
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score.rouge_scorer import RougeScorer

from seq2seq_dialog.evaluation import scoring
from seq2seq_dialog.evaluation.catalogue import METRICS, OF_LIKELIHOOD, OF_PREFERENCES, keys_with
from seq2seq_dialog.evaluation.metrics import (
    ReplyMetric,
    chrf_statistics,
    distinct,
    entropy,
    perplexity,
    self_bleu,
    unigram_perplexity,
)

PREDICTIONS = ["the cat sat on the mat", "", "hello there", "a b c d e f"]
REFERENCES = ["the cat sat on the mat", "nothing", "hello there friend of mine", "a b x d e f"]


def compute(predictions, references):
    return ReplyMetric(keep_in_memory=True).compute(predictions=predictions, references=references)


def test_identical_replies_score_100():
    result = compute(["the cat sat on the mat"], ["the cat sat on the mat"])
    for name in ("bleu", "bleu_1", "bleu_2", "bleu_3", "chrf"):
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
    of_replies = set(keys_with("chooses_best")) - {*OF_LIKELIHOOD, *OF_PREFERENCES}
    assert of_replies <= set(compute(["a b"], ["a b"]))


def test_the_catalogue_knows_every_figure_and_its_scale():
    for predictions in (PREDICTIONS, REFERENCES, ["", "", "", ""]):
        result = compute(predictions, REFERENCES)
        del result["bleu_signature"]
        for key, value in result.items():
            low, high = METRICS[key].scale
            assert low <= value <= high + 1e-9, key


@pytest.mark.parametrize("seed", range(20))
def test_chrf_is_exactly_sacrebleus(seed):
    draw = random.Random(seed)

    def text():
        return "".join(draw.choices("ab c\u00e9\u4f60 .\t", k=draw.randint(0, 20)))

    count = draw.randint(1, 6)
    replies, references = ([text() for _ in range(count)] for _ in range(2))
    expected = sacrebleu.metrics.CHRF().corpus_score(replies, [references]).score
    assert chrf_statistics(replies, references)["chrf"].figure() == expected


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


@pytest.mark.parametrize(
    ("replies", "n", "expected"),
    [
        (["a b", "A c"], 1, 0.5 * math.log(2) + 0.5 * math.log(4)),  # a twice, b, c
        (["a b", "a b", "b c"], 2, math.log(3) - 2 / 3 * math.log(2)),
        (["a b c d", "e f g h"], 4, math.log(2)),
        (["a a a a"], 1, 0),
        (["a", "b"], 2, 0),  # no bigram crosses replies
        ([], 1, 0),
    ],
)
def test_entropy_by_hand(replies, n, expected):
    assert entropy(replies, n) == pytest.approx(expected)


def test_perplexity_of_a_uniform_guess_is_the_number_of_choices():
    assert perplexity(nll=10 * math.log(7), tokens=10) == pytest.approx(7)
    assert perplexity(nll=1e6, tokens=10) == 1e9


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
    assert result["bleu"] == sacrebleu.metrics.BLEU().corpus_score(PREDICTIONS, [REFERENCES]).score
    for n in (1, 2, 3):
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


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        (["the cat sat on the mat"] * 3, 100),
        (["Yes .", "yes ."], 100),  # equal but for case, and shorter than four words
        (["a b c d e", "f g h i j", "k"], 0),
        (["a b c d e"], 0),  # no other reply
        (["", ""], 0),
        ([], 0),
        # The reply of two words is in the longer one; the longer one has 2/4 and 1/3, then 0.1 of
        # 2 and of 1, and no brevity penalty. The shorter one's is exp(1 - 4/2).
        (
            ["a b", "a b x y"],
            50 * (math.exp(-1) + (2 / 4 * 1 / 3 * 0.1 / 2 * 0.1 / 1) ** (1 / 4)),
        ),
        # One reply of three holds `a` twice: it has one match among the others, they have theirs.
        (["a a", "a", "a"], 100 / 3 * (math.sqrt(1 / 2 * 0.1) + 1 + 1)),
    ],
)
def test_self_bleu_by_hand(replies, expected):
    assert self_bleu(replies) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(20))
def test_self_bleu_is_nltk_with_all_others_as_references(seed):
    draw = random.Random(seed)
    words, order = "abcdeFGh"[: draw.randint(1, 8)], draw.randint(1, 5)
    texts = [draw.choices(words, k=draw.randint(0, 9)) for _ in range(draw.randint(2, 12))]
    expected = 0
    for i, text in enumerate(texts):
        own = min(order, len(text)) or 1
        others = [[word.lower() for word in other] for other in texts[:i] + texts[i + 1 :]]
        expected += sentence_bleu(
            others, [w.lower() for w in text], (1 / own,) * own, SmoothingFunction().method1
        )
    assert self_bleu([" ".join(text) for text in texts], order) == pytest.approx(
        100 * expected / len(texts)
    )


def test_distinct_is_platos_corpus_level_distinct():
    for n in (1, 2):
        ngrams = [g for p in PREDICTIONS for g in nltk.ngrams(p.split(" "), n) if "" not in g]
        assert distinct(PREDICTIONS, n) == pytest.approx(100 * len(set(ngrams)) / len(ngrams))


CHINESE = ["你好，很高兴认识你。", "我叫小明 abc 1-2"]


@pytest.mark.parametrize("language", ["zh", "zh-TW", "ja", "ko", "th"])
def test_perfect_replies_score_100_in_languages_without_spaces(language):
    figures = ReplyMetric(keep_in_memory=True).compute(
        predictions=CHINESE, references=CHINESE, language=language
    )
    for name in ("bleu", "bleu_3", "chrf", "rouge_l"):
        assert figures[name] == pytest.approx(100)
    assert "tok:13a" not in figures["bleu_signature"]


def test_chinese_is_scored_as_sacrebleu_does():
    other = ["你好，很高兴认识他。", "我叫小红 abc 1-2"]
    figures = ReplyMetric(keep_in_memory=True).compute(
        predictions=other, references=CHINESE, language="zh"
    )
    expected = sacrebleu.corpus_bleu(other, [CHINESE], tokenize="zh").score
    assert 0 < expected < 100 and figures["bleu"] == pytest.approx(expected)
    assert "tok:zh" in figures["bleu_signature"]


@pytest.mark.parametrize("names", [("similarity", "rouge_l"), ("rouge_l",)], ids=["en", "de"])
def test_the_verdict_goes_by_what_agrees_with_people(names):
    values = dict.fromkeys((*names, "bleu"), 50.0)
    intervals = dict.fromkeys(values, (40.0, 60.0))
    rows = [
        {"protocol": "default", "subset": "full", "system": system, "metrics": metrics,
         "intervals": intervals, "dialogues": 50}
        for system, metrics in (("model", values), ("other", dict.fromkeys(values, 20.0)))
    ]  # fmt: skip
    (sentence,) = scoring.verdict(rows)
    above = ", ".join(f"above in {METRICS[name].label} (50.00 and 20.00)" for name in names)
    assert sentence == f"On all pairs the model beats the other: {above}."


def test_the_verdict_goes_by_chrf_where_words_are_not_known():
    rows = [
        {"protocol": "default", "subset": "full", "system": system, "metrics": {"chrf": value},
         "intervals": {"chrf": (40.0, 60.0)}, "dialogues": 50}
        for system, value in (("model", 50.0), ("other", 20.0))
    ]  # fmt: skip
    first, last = scoring.verdict(rows, "th")
    assert first == "On all pairs the model beats the other: above in chrF (50.00 and 20.00)."
    assert last.startswith("The verdict goes by chrF: no tokenizer for words of the language th")
