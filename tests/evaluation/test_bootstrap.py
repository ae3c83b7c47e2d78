"""Intervals against sacreBLEU's own and against formulas."""

import math
import random
from statistics import mean, stdev

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from seq2seq_dialog.evaluation.bootstrap import bootstrap, intervals
from seq2seq_dialog.evaluation.catalogue import keys_with
from seq2seq_dialog.evaluation.diversity import diversity
from seq2seq_dialog.evaluation.metrics import (
    ReplyMetric,
    likelihood_statistics,
    pair_statistics,
    perplexity,
)


def reply_metric(replies, references):
    return ReplyMetric(keep_in_memory=True).compute(predictions=replies, references=references)


def test_figures_are_exactly_those_of_the_reply_metric(pairs, statistics_of):
    replies, references, nll, tokens, _ = pairs
    metrics = statistics_of(replies, references, nll, tokens)
    assert set(keys_with("interval")) <= set(metrics)
    for rows in (slice(None), slice(0, 1), slice(5, 6), slice(0, 0), slice(20, 90)):
        expected = {"similarity": 0, "bleu": 0, "bleu_2": 0, "chrf": 0, "rouge_l": 0}
        if len(replies[rows]):
            expected = reply_metric(replies[rows], references[rows])
            for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
                score = metric.corpus_score(replies[rows], [references[rows]]).score
                assert expected[name] == score
        total, size = math.fsum(nll[rows]), sum(len(text.encode()) for text in references[rows])
        expected["perplexity"] = perplexity(total, sum(tokens[rows]))
        expected["bits_per_byte"] = pytest.approx(total / math.log(2) / max(1, size))
        expected["context_gain"] = pytest.approx(total / 2 / max(1, sum(tokens[rows])))
        for name in keys_with("interval"):
            assert metrics[name].of(rows).figure() == expected[name], name


def test_resamples_are_those_of_sacrebleu(pairs, monkeypatch):
    replies, references, *_ = pairs
    monkeypatch.setenv("SACREBLEU_SEED", "11")
    statistics = pair_statistics(replies, references)
    drawn = bootstrap(statistics, 250, 11)
    metrics = {"bleu": BLEU(), "bleu_2": BLEU(max_ngram_order=2), "chrf": CHRF()}
    bounds = intervals(statistics, samples=250, seed=11)
    chosen = np.random.default_rng(11).choice(300, size=(250, 300))
    for name, metric in metrics.items():
        for i in (0, 99, 100, 249):
            texts = [[column[j] for j in chosen[i]] for column in (replies, references)]
            assert drawn[name][i] == pytest.approx(metric.corpus_score(texts[0], [texts[1]]).score)
        score = metric.corpus_score(replies, [references], n_bootstrap=250)
        low, high = bounds[name]
        assert (high - low) / 2 == pytest.approx(score._ci, rel=1e-6)
        assert low < score.score < high


def test_other_metrics_are_resampled_as_numpy_does_it(pairs, statistics_of):
    replies, references, nll, tokens, _ = pairs
    drawn = bootstrap(statistics_of(replies, references, nll, tokens), 130, 5)
    indices = np.random.default_rng(5).choice(300, size=(130, 300))
    scorer = RougeScorer(["rougeL"])
    scores = [scorer.score(r, p)["rougeL"] for r, p in zip(references, replies, strict=True)]
    rouge = np.array([100 * score.fmeasure for score in scores])
    assert drawn["rouge_l"] == pytest.approx(rouge[indices].mean(1))
    ratio = np.array(nll)[indices].sum(1) / np.array(tokens)[indices].sum(1)
    assert drawn["perplexity"] == pytest.approx(np.exp(ratio))


def test_intervals_of_a_mean_are_those_of_the_normal_distribution(pairs, statistics_of):
    replies, references, nll, _, _ = pairs
    nll = [value / 10 for value in nll]
    ones = [1] * 300  # the logarithm of perplexity is a mean then
    low, high = intervals(statistics_of(replies, references, nll, ones))["perplexity"]
    error = stdev(nll) / math.sqrt(300)
    assert math.log(low) == pytest.approx(mean(nll) - 1.96 * error, abs=0.15 * error)
    assert math.log(high) == pytest.approx(mean(nll) + 1.96 * error, abs=0.15 * error)


def test_whole_dialogues_are_drawn(pairs, statistics_of):
    replies, references, nll, tokens, dialogues = pairs
    likelihood = [int(d) % 5 + 1.0 for d in dialogues]  # the pairs of a dialogue are alike
    ones = [1] * 300
    statistics = statistics_of(replies, references, likelihood, ones)
    chosen = {"perplexity": statistics["perplexity"]}
    by_pair = intervals(chosen, samples=400)["perplexity"]
    by_dialogue = intervals(chosen, dialogues, samples=400)["perplexity"]
    width, narrow = (np.ptp(np.log(i)) for i in (by_dialogue, by_pair))
    assert width / narrow == pytest.approx(math.sqrt(6), rel=0.2)
    # Dialogues of one pair each are pairs, wherever they stand.
    statistics = statistics_of(replies, references, nll, tokens)
    assert intervals(statistics, range(300), samples=50) == intervals(statistics, samples=50)
    drawn = bootstrap(statistics, 100, 3, dialogues)
    indices = np.random.default_rng(3).integers(50, size=(100, 50))
    sums = (np.reshape(column, (50, 6)).sum(1)[indices].sum(1) for column in (nll, tokens))
    assert drawn["perplexity"] == pytest.approx(np.exp(np.divide(*sums)))


def test_intervals_hardly_depend_on_order_and_seed(pairs, statistics_of):
    replies, references, nll, tokens, _ = pairs
    statistics = statistics_of(replies, references, nll, tokens)
    one = intervals(statistics)
    assert one == intervals(statistics)
    order = random.Random(1).sample(range(300), 300)
    shuffled = ([column[i] for i in order] for column in (replies, references, nll, tokens))
    for other in (intervals(statistics_of(*shuffled)), intervals(statistics, seed=1)):
        for name, (low, high) in one.items():
            assert other[name] != [low, high]
            assert other[name] == pytest.approx([low, high], abs=0.15 * (high - low))


@pytest.mark.parametrize(
    ("replies", "references", "figures"),
    [
        (["one"] * 2, ["one"] * 2, (100, 0, 0, 100, 100)),  # one token: no bigram
        (["", ""], ["a b", "c"], (0, 0, 0, 0, 0)),
        (["a b c d e f"] * 4, ["a b c d e f"] * 4, (100, 100, 100, 100, 100)),
    ],
)
def test_equal_pairs_have_intervals_without_width(replies, references, figures):
    result = intervals(pair_statistics(replies, references), samples=60)
    assert list(result) == ["similarity", "bleu", "bleu_2", "chrf", "rouge_l"]  # no perplexity
    for interval, figure in zip(result.values(), figures, strict=True):
        assert interval == pytest.approx([figure, figure])


def test_refusals():
    assert intervals({}) == intervals(pair_statistics([], [])) == {}
    assert intervals(pair_statistics(["a"], ["a"])) == {}  # all resamples would be equal
    assert intervals(pair_statistics(["a", "b"], ["a", "c"]), ["test:1"] * 2) == {}
    with pytest.raises(ValueError, match=r"zip\(\) argument"):
        pair_statistics(["a"], ["a", "b"])


def test_an_example_without_another_context_does_not_count_for_the_gain():
    examples = [
        {"nll": 4.0, "tokens": 2, "bytes": 8, "exchanged_nll": 5.0},
        {"nll": 9.0, "tokens": 3, "bytes": 9, "exchanged_nll": None},
    ]
    figures = {key: metric.figure() for key, metric in likelihood_statistics(examples).items()}
    assert figures == pytest.approx(
        {
            "perplexity": math.exp(13 / 5),
            "bits_per_byte": 13 / math.log(2) / 17,
            "context_gain": 0.5,
        }
    )


def test_distinct_would_be_too_low_in_resamples(pairs):
    # Why it has no interval: no resample comes near the figure.
    replies = [reply for reply in pairs[0] if reply]
    figure = diversity(replies, replies, set())["distinct_2"]
    draw = random.Random(2)
    drawn = [draw.choices(replies, k=len(replies)) for _ in range(20)]
    assert max(diversity(texts, texts, set())["distinct_2"] for texts in drawn) < figure
