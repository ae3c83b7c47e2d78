"""Quality of replies against figures by hand; intervals against sacreBLEU's own and formulas."""

import math
import random
import statistics
from collections import Counter

import nltk
import numpy as np
import pytest
from helpers.corpus import sample_dialogues
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import _bootstrap_resample

from seq2seq_dialog.evaluation.bootstrap import METRICS, bootstrap, intervals, pair_statistics
from seq2seq_dialog.evaluation.diversity import by_length, by_turn, quality, repetition
from seq2seq_dialog.evaluation.metrics import ReplyMetric, perplexity


def reply_metric(replies, references):
    return ReplyMetric(keep_in_memory=True).compute(predictions=replies, references=references)


@pytest.fixture(scope="module")
def pairs():
    """300 references, replies that share some of their words, likelihoods, dialogues of six."""
    draw = random.Random(7)
    references = [turn for turns in sample_dialogues(80) for turn in turns][:300]
    replies = []
    for i, reference in enumerate(references):
        words = reference.split()[: draw.randint(0, 12)]
        replies.append(" ".join(words + draw.choice(references).split()[: draw.randint(0, 4)]))
        if i % 5 == 0:
            replies[-1] = draw.choice(["I see.", "Yes, please.", ""])
    tokens = [1 + len(reference.split()) for reference in references]
    nll = [count * draw.uniform(1, 5) for count in tokens]
    return replies, references, nll, tokens, [str(i // 6) for i in range(300)]


NOTHING = dict.fromkeys(quality([], [], []), 0)


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
def test_quality_by_hand(replies, references, training, expected):
    assert quality(replies, references, training) == pytest.approx(expected)


def test_what_is_said_twice_and_by_one_in_a_hundred_is_generic():
    different = [f"reply {i}" for i in range(200)]
    # 2 of 200 are one in a hundred, so are three letter-less ones; 2 of 201 are not.
    two = [*different[:198], "I see.", "i see"]
    assert quality(two, two, [])["generic"] == pytest.approx(1)
    three = [*different[:195], "I see.", "i see", "", "...", "?!"]
    assert quality(three, three, [])["generic"] == pytest.approx(2.5)
    few = [*different[:199], "I see.", "i see"]
    assert quality(few, few, [])["generic"] == 0
    assert quality(different[:50], different[:50], [])["generic"] == 0  # 1 of 50, but said once


def test_what_is_the_same_is_told_by_letters_and_digits_alone():
    texts = ["Straße 7, A_b!", "¿Qué—tal?", "ABC x", "١٢٣ 你好", "", "…"]
    plain = ["".join(c for c in text.casefold() if c.isalnum()) for text in texts]
    for text, training in zip(texts, plain, strict=True):
        assert quality([text], ["x"], [training])["copied"] == (100 if training else 0)
    assert quality(["Strasse 7 ab"], ["x"], texts)["copied"] == 100


@pytest.mark.parametrize("seed", range(5))
def test_quality_agrees_with_a_second_implementation(seed):
    draw = random.Random(seed)
    replies = [" ".join(draw.choices("abcD", k=draw.randint(0, 12))) for _ in range(40)]
    result = quality(replies, replies, replies[:3])
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
        repeated += [statistics.mean(again)] if again else []
    assert result["repetition"] == pytest.approx(100 * statistics.mean(repeated))


def test_repetition_by_hand():
    assert repetition(["no no no no", "so so"], 1) == pytest.approx(100 * (3 / 4 + 1 / 2) / 2)
    assert repetition(["No no NO no"], 3) == 50
    assert repetition(["a b", ""], 3) == 0


def test_quality_does_not_depend_on_order(pairs):
    replies, references, *_ = pairs
    order = random.Random(1).sample(range(300), 300)
    shuffled = ([texts[i] for i in order] for texts in (replies, references))
    before = quality(replies, references, references[:100])
    assert quality(*shuffled, references[:100]) == pytest.approx(before)
    assert 0 < before["copied"] < 100 and 0 < before["generic"] < 100


def test_groups_are_the_pairs_of_each_size(pairs):
    replies, references, nll, tokens, _ = pairs
    turns = [1 + i % 12 for i in range(300)]
    groups = by_turn(turns, replies, references, references[:100], nll, tokens)
    assert [group["turns"] for group in groups] == ["1", "2", "3-4", "5-8", "9-"]
    assert [group["pairs"] for group in groups] == [25, 25, 50, 100, 100]
    rows = [i for i in range(300) if turns[i] in (3, 4)]
    own, human = ([texts[i] for i in rows] for texts in (replies, references))
    expected = quality(own, human, references[:100])
    scores = reply_metric(own, human)
    expected |= {name: scores[name] for name in ("bleu_2", "rouge_l")}
    expected["perplexity"] = math.exp(sum(nll[i] for i in rows) / sum(tokens[i] for i in rows))
    # What the whole system says to everything, not what it says twice in these 50 pairs.
    del expected["generic"]
    result = groups[2]
    everything = quality(replies, references, [])["generic"]
    assert sum(g["generic"] * g["pairs"] for g in groups) == pytest.approx(300 * everything)
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    assert result.keys() - expected.keys() == {"turns", "pairs", "generic"}


def test_empty_groups_are_left_out_and_bounds_belong_to_the_lower_one():
    references = [" ".join("w" * count) for count in (0, 1, 5, 6, 21, 100)]
    groups = by_length(references, references, [])
    assert [(g["words"], g["pairs"]) for g in groups] == [("1-5", 3), ("6-10", 1), ("21-", 2)]
    assert "perplexity" not in groups[0]
    assert groups[2]["rouge_l"] == pytest.approx(100)
    assert by_turn([2], ["a"], ["b"], [])[0]["turns"] == "2"
    assert by_turn([], [], [], []) == []


def test_figures_are_exactly_those_of_the_reply_metric(pairs):
    replies, references, nll, tokens, _ = pairs
    for rows in (slice(None), slice(0, 1), slice(5, 6), slice(0, 0), slice(20, 90)):
        metrics = pair_statistics(replies, references, nll, tokens)
        assert list(metrics) == list(METRICS)
        if len(replies[rows]):
            expected = reply_metric(replies[rows], references[rows])
        else:
            expected = dict.fromkeys(METRICS, 0)
        expected["perplexity"] = perplexity(math.fsum(nll[rows]), sum(tokens[rows]))
        for name, metric in metrics.items():
            assert metric.figure(rows) == expected[name], name


def test_resamples_are_those_of_sacrebleu(pairs, monkeypatch):
    replies, references, *_ = pairs
    monkeypatch.setenv("SACREBLEU_SEED", "11")
    statistics = pair_statistics(replies, references)
    drawn = bootstrap(statistics, 250, 11)
    metrics = {"bleu": BLEU(), "bleu_2": BLEU(max_ngram_order=2), "chrf": CHRF()}
    for name, metric in metrics.items():
        found = metric._extract_corpus_statistics(replies, [references])
        _, scores = _bootstrap_resample(found, metric, 250)
        assert drawn[name].tolist() == pytest.approx([score.score for score in scores], rel=1e-6)
        score = metric.corpus_score(replies, [references], n_bootstrap=250)
        low, high = intervals(replies, references, samples=250, seed=11)[name]
        assert (high - low) / 2 == pytest.approx(score._ci, rel=1e-6)
        assert low < score.score < high


def test_other_metrics_are_resampled_as_numpy_does_it(pairs):
    replies, references, nll, tokens, _ = pairs
    drawn = bootstrap(pair_statistics(replies, references, nll, tokens), 130, 5)
    indices = np.random.default_rng(5).choice(300, size=(130, 300))
    scorer = RougeScorer(["rougeL"])
    scores = [scorer.score(r, p)["rougeL"] for r, p in zip(references, replies, strict=True)]
    rouge = np.array([100 * score.fmeasure for score in scores])
    assert drawn["rouge_l"] == pytest.approx(rouge[indices].mean(1))
    ratio = np.array(nll)[indices].sum(1) / np.array(tokens)[indices].sum(1)
    assert drawn["perplexity"] == pytest.approx(np.exp(ratio))


def test_intervals_of_a_mean_are_those_of_the_normal_distribution(pairs):
    replies, references, nll, _, _ = pairs
    ones = [1] * 300  # the logarithm of perplexity is a mean then
    low, high = intervals(replies, references, nll, ones, metrics=["perplexity"])["perplexity"]
    error = statistics.stdev(nll) / math.sqrt(300)
    assert math.log(low) == pytest.approx(statistics.mean(nll) - 1.96 * error, abs=0.15 * error)
    assert math.log(high) == pytest.approx(statistics.mean(nll) + 1.96 * error, abs=0.15 * error)


def test_whole_dialogues_are_drawn(pairs):
    replies, references, nll, tokens, dialogues = pairs
    likelihood = [int(d) % 5 + 1.0 for d in dialogues]  # the pairs of a dialogue are alike
    ones = [1] * 300
    chosen = {"metrics": ["perplexity"], "samples": 400}
    by_pair = intervals(replies, references, likelihood, ones, **chosen)["perplexity"]
    by_dialogue = intervals(replies, references, likelihood, ones, dialogues, **chosen)
    width, narrow = (np.ptp(np.log(i)) for i in (by_dialogue["perplexity"], by_pair))
    assert width / narrow == pytest.approx(math.sqrt(6), rel=0.2)
    # Dialogues of one pair each are pairs, wherever they stand.
    every = intervals(replies, references, nll, tokens, range(300), samples=50)
    assert every == intervals(replies, references, nll, tokens, samples=50)
    drawn = bootstrap(pair_statistics(replies, references, nll, tokens), 100, 3, dialogues)
    indices = np.random.default_rng(3).integers(50, size=(100, 50))
    sums = (np.reshape(column, (50, 6)).sum(1)[indices].sum(1) for column in (nll, tokens))
    assert drawn["perplexity"] == pytest.approx(np.exp(np.divide(*sums)))


def test_intervals_hardly_depend_on_order_and_seed(pairs):
    replies, references, nll, tokens, _ = pairs
    one = intervals(replies, references, nll, tokens)
    assert one == intervals(replies, references, nll, tokens)
    order = random.Random(1).sample(range(300), 300)
    shuffled = ([column[i] for i in order] for column in (replies, references, nll, tokens))
    for other in (intervals(*shuffled), intervals(replies, references, nll, tokens, seed=1)):
        for name, (low, high) in one.items():
            assert other[name] != [low, high]
            assert other[name] == pytest.approx([low, high], abs=0.15 * (high - low))


@pytest.mark.parametrize(
    ("replies", "references", "figures"),
    [
        (["one"], ["one"], (0, 0, 100, 100)),  # one token: no bigram
        (["", ""], ["a b", "c"], (0, 0, 0, 0)),
        (["a b c d e f"] * 4, ["a b c d e f"] * 4, (100, 100, 100, 100)),
    ],
)
def test_equal_pairs_have_intervals_without_width(replies, references, figures):
    result = intervals(replies, references, samples=60)
    assert list(result) == ["bleu", "bleu_2", "rouge_l", "chrf"]  # no perplexity
    for interval, figure in zip(result.values(), figures, strict=True):
        assert interval == pytest.approx([figure, figure])


def test_refusals():
    assert intervals([], []) == {}
    with pytest.raises(ValueError, match="'distinct_2' is not made of sums over pairs; choose"):
        intervals(["a"], ["a"], metrics=["distinct_2"])
    with pytest.raises(ValueError, match=r"zip\(\) argument"):
        intervals(["a"], ["a", "b"])
    with pytest.raises(ValueError, match=r"zip\(\) argument"):
        pair_statistics(["a", "b"], ["a", "b"], [1.0], [1])


def test_distinct_would_be_too_low_in_resamples(pairs):
    # Why it has no interval: no resample comes near the figure.
    replies = [reply for reply in pairs[0] if reply]
    figure = quality(replies, replies, [])["distinct_2"]
    draw = random.Random(2)
    drawn = [draw.choices(replies, k=len(replies)) for _ in range(20)]
    assert max(quality(texts, texts, [])["distinct_2"] for texts in drawn) < figure
