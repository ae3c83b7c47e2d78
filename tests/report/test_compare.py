"""Paired tests between runs: equal, better and incomparable ones; sacreBLEU's test beside ours."""

import json
import math
import random

import numpy as np
import pytest
from helpers.corpus import sample_dialogues
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.evaluation.bootstrap import bootstrap
from seq2seq_dialog.evaluation.catalogue import keys_with, leading_first
from seq2seq_dialog.evaluation.metrics import PairStatistics, ReplyMetric, pair_statistics
from seq2seq_dialog.report.compare import compare, paired_bootstrap, sentence
from seq2seq_dialog.run_folder import read_json, write_jsonl


def rows_of_run(seed: int = 0, kept: float = 0.3) -> list[dict]:
    """Predictions whose replies keep a share of the reference's words."""
    draw = random.Random(seed)
    rows = []
    for d, turns in enumerate(sample_dialogues(60)):
        for t in range(1, len(turns)):
            words = [word if draw.random() < kept else "well" for word in turns[t].split()]
            rows.append(
                {
                    "dialogue_id": f"test:{d}",
                    "turn": t,
                    "context": turns[:t],
                    "reference": turns[t],
                    "reply": " ".join(words),
                    "nll": (nll := (1 + len(words)) * (4 - 2 * kept) * draw.uniform(0.9, 1.1)),
                    "exchanged_nll": nll + kept * len(words) * draw.uniform(0.9, 1.1),
                    "tokens": 1 + len(words),
                    "bytes": len(turns[t].encode()),
                    "clean": d % 2 == 0,
                }
            )
    return rows


@pytest.fixture
def run(tmp_path):
    """`run(name, rows)` writes a run's predictions and returns its folder."""

    def write(name, rows):
        (tmp_path / name).mkdir(exist_ok=True)
        write_jsonl(tmp_path / name / "predictions.jsonl", rows)
        return str(tmp_path / name)

    return write


def test_equal_runs_do_not_differ(run, capsys):
    a, b = run("a", rows_of_run()), run("b", rows_of_run())
    result = compare(a, b, samples=100)
    assert list(result["metrics"])[:2] == ["similarity", "rouge_l"]  # agree best with people
    assert list(result["metrics"]) == leading_first(keys_with("interval"))
    for test in result["metrics"].values():
        assert (test["difference"], test["p"]) == (0, 1)
        assert test["interval"] == [0, 0]
    assert all("no difference beyond chance (p = 1.0000)" in line for line in result["verdict"])
    printed = capsys.readouterr().out
    assert a in printed and all(line in printed for line in result["verdict"])


def test_a_better_run_is_better_beyond_chance(run, capsys):
    bad, good = run("bad", rows_of_run()), run("good", rows_of_run(1, kept=0.7))
    result = compare(bad, good, samples=200)
    rows = rows_of_run(1, kept=0.7)
    scores = ReplyMetric(keep_in_memory=True).compute(
        predictions=[row["reply"] for row in rows], references=[row["reference"] for row in rows]
    )
    for name, test in result["metrics"].items():
        if name in scores:
            assert test["b"] == scores[name]
        assert test["p"] == 1 / 201
        assert test["difference"] == test["b"] - test["a"]
        assert (test["difference"] < 0) == (name in ("perplexity", "bits_per_byte"))
        low, high = test["interval"]
        assert low < test["difference"] < high and low * high > 0
    assert all(": B is better by " in line for line in result["verdict"])
    other = compare(good, bad, samples=200)
    for name, test in other["metrics"].items():
        low, high = result["metrics"][name]["interval"]
        assert test["interval"] == pytest.approx([-high, -low])
    assert all(": A is better by " in line for line in other["verdict"])
    assert "sacreBLEU: A is better by" in capsys.readouterr().out


def test_runs_alike_but_for_chance_do_not_differ(run):
    # Other seeds, too, but for one in twenty a metric.
    result = compare(run("a", rows_of_run(0)), run("b", rows_of_run(1)), samples=200)
    for test in result["metrics"].values():
        assert test["difference"] != 0 and test["p"] > 0.05
        assert test["interval"][0] < 0 < test["interval"][1]


def means(values) -> PairStatistics:
    columns = np.stack([values, np.ones(len(values))], axis=1)
    return PairStatistics(columns, lambda sums: sums[0] / sums[1])


@pytest.mark.parametrize("samples", [100, 119, 199, 200, 999, 1000])
def test_p_and_interval_say_the_same(samples):
    draw = np.random.default_rng(samples)
    verdicts = set()
    for _ in range(60):
        a, b = draw.normal(size=30), draw.normal(0.45, 1, size=30)
        test = paired_bootstrap(means(a), means(b), samples, 1, range(30))
        beyond = test["interval"][0] > 0 or test["interval"][1] < 0
        assert beyond == (test["p"] < 0.05)
        verdicts.add(beyond)
    assert verdicts == {True, False}


def test_p_is_that_of_the_paired_t_test():
    # For means, the bootstrap's p comes near the normal distribution's of the mean difference.
    draw = np.random.default_rng(4)
    for shift in (0.05, 0.1, 0.15):
        a = draw.normal(size=400)
        b = a + draw.normal(shift, 1, size=400)
        z = (b - a).mean() / ((b - a).std() / 20)
        test = paired_bootstrap(means(a), means(b), 4000, 1, range(400))
        assert test["p"] == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=0.03)
        reach = 1.96 * (b - a).std() / 20
        assert test["interval"] == pytest.approx(
            [test["difference"] - reach, test["difference"] + reach], abs=0.15 * reach
        )


def test_true_nulls_are_rejected_one_time_in_twenty():
    # Pairs of a dialogue share most of their difference: to draw pairs would find too much.
    draw, dialogues = np.random.default_rng(9), np.repeat(np.arange(40), 5)
    found = {"dialogues": 0, "pairs": 0}
    for seed in range(200):
        b = draw.normal(size=40)[dialogues] + draw.normal(0, 0.3, size=200)
        for way, units in (("dialogues", dialogues), ("pairs", range(200))):
            test = paired_bootstrap(means(np.zeros(200)), means(b), 200, seed, units)
            found[way] += test["p"] < 0.05
    assert 2 <= found["dialogues"] <= 20 < 60 < found["pairs"]


def test_figures_and_differences_are_those_of_sacrebleus_paired_test(monkeypatch):
    # Drawn by pairs, as sacreBLEU does; its interval of one system is that of the same resamples.
    monkeypatch.setenv("SACREBLEU_SEED", "3")
    a, b = rows_of_run(0)[:60], rows_of_run(2, kept=0.33)[:60]
    references = [row["reference"] for row in a]
    replies = [[row["reply"] for row in rows] for rows in (a, b)]
    named = list(zip("ab", replies, strict=True))
    test = PairedTest(
        named, {"BLEU": BLEU(), "chrF2": CHRF()}, [references], test_type="bs", n_samples=300
    )
    scores = test()[1]
    statistics = [pair_statistics(texts, references) for texts in replies]
    for name, theirs in (("bleu", "BLEU"), ("chrf", "chrF2")):
        for of_system, score in zip(statistics, scores[theirs], strict=True):
            assert of_system[name].figure() == score.score
            values = bootstrap({name: of_system[name]}, 300, 3)[name]
            assert values.mean() == pytest.approx(score.mean)
        # Its p counts one side, and the resamples are centred at their own mean.
        resampled = [bootstrap({name: each[name]}, 300, 3)[name] for each in statistics]
        distances = np.abs(resampled[1] - resampled[0])
        difference = abs(statistics[1][name].figure() - statistics[0][name].figure())
        further = int((distances - distances.mean() > difference).sum())
        assert (1 + further) / 301 == scores[theirs][1].p_value


def test_the_json_has_all(run, tmp_path):
    a, b = run("a", rows_of_run()), run("b", rows_of_run(1, kept=0.7))
    output = tmp_path / "new" / "compare.json"
    result = compare(a, b, samples=100, seed=7, output=output)
    assert read_json(output) == json.loads(json.dumps(result))
    assert result["dialogues"] == 60 and result["pairs"] == len(rows_of_run())
    compare(a, b, samples=100, output=output)  # an earlier comparison is replaced


def test_without_output_nothing_is_written(run, tmp_path):
    a = run("a", rows_of_run())
    compare(a, a, samples=100)
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "predictions.jsonl"]


def test_clean_pairs_alone(run, capsys):
    rows, other = rows_of_run(), rows_of_run(1, kept=0.7)
    for row in other:  # clean in one run of the two is not clean
        row["clean"] = row["clean"] and row["turn"] > 1
    a, b = run("a", rows), run("b", other)
    clean = [i for i, row in enumerate(other) if row["clean"]]
    result = compare(a, b, samples=100, subset="clean")
    assert result["pairs"] == len(clean) < len(rows)
    assert f"{len(clean)} clean pairs of 30 dialogues" in capsys.readouterr().out
    alone = [run(name, [r[i] for i in clean]) for name, r in (("c", rows), ("d", other))]
    assert compare(*alone, samples=100)["metrics"] == result["metrics"]


def test_of_other_tokens_the_bits_of_a_byte_are_compared_alone(run):
    rows, other = rows_of_run(), rows_of_run()
    other[3]["tokens"] += 1
    result = compare(run("a", rows), run("b", other), samples=100)
    assert result["metrics"]["bits_per_byte"]["p"] == 1
    assert not {"perplexity", "context_gain"} & result["metrics"].keys()
    assert result["verdict"][-1] == (
        "Perplexity and context gain are left out: A and B split the references into different "
        "tokens."
    )


def test_likelihood_is_of_the_references_that_both_cut_alike(run):
    rows, other = rows_of_run(), rows_of_run(1)
    other[3] |= {"bytes": 9, "tokens": 2}
    a, b = run("a", rows), run("b", other)
    result = compare(a, b, samples=100)
    assert f"Likelihood is of the {len(rows) - 1:,} pairs whose" in result["verdict"][-1]
    whole = [rows[:3] + rows[4:], other[:3] + other[4:]]
    alone = compare(run("c", whole[0]), run("d", whole[1]), samples=100)
    for name in ("bits_per_byte", "perplexity"):
        assert result["metrics"][name] == alone["metrics"][name]
    assert result["metrics"]["chrf"] != alone["metrics"]["chrf"]
    for row in other:
        row["bytes"] += 1
    result = compare(a, run("b", other), samples=100)
    assert not {"perplexity", "context_gain", "bits_per_byte"} & result["metrics"].keys()
    assert result["verdict"][-1] == (
        "Likelihood is left out: A and B cut references at different lengths."
    )


@pytest.mark.parametrize("key", ["nll", "bytes"])
def test_without_a_likelihood_its_figures_are_left_out(run, key):
    rows, other = rows_of_run(), rows_of_run()
    other[3][key] = None
    result = compare(run("a", rows), run("b", other), samples=100)
    assert not {"perplexity", "context_gain", "bits_per_byte"} & result["metrics"].keys()
    assert result["verdict"][-1] == (
        "Likelihood is left out: B has pairs for which it is not known."
    )


def test_a_few_dialogues_are_said_to_be_few(run):
    rows = [row for row in rows_of_run() if row["dialogue_id"] in ("test:0", "test:1")]
    result = compare(run("a", rows), run("b", rows), samples=100)
    assert result["verdict"][-1] == "There are 2 dialogues: with fewer than 50, p is rough."


def test_a_sentence_says_who_is_better():
    test = {"difference": -2.0, "interval": [-3.0, -1.0], "p": 0.01}
    assert sentence("perplexity", test) == (
        "perplexity: B is better by 2.000 (1.000 to 3.000), beyond chance (p = 0.0100)."
    )
    assert sentence("chrf", test).startswith("chrF: A is better by 2.000 (1.000 to 3.000)")
    assert sentence("bleu", test | {"p": 0.05}) == (
        "sacreBLEU: no difference beyond chance (p = 0.0500)."
    )


def test_runs_that_answer_something_else_are_refused(run):
    a = run("a", rows_of_run())
    rows = rows_of_run()
    with pytest.raises(UsageError, match=r"RUN_A has \d+ pairs and RUN_B 1\. Only answers to the"):
        compare(a, run("b", rows[:1]))
    rows[4]["reference"] += " again" * 20
    with pytest.raises(
        UsageError, match=r"In line 5 of .* the reference of RUN_A has '.*…'\. Only"
    ):
        compare(a, run("b", rows))
    rows[2]["context"] = [*rows[2]["context"][:-1], "Pardon?"]
    with pytest.raises(UsageError, match=r"In line 3 of .* the context of .* RUN_B has 'Pardon\?'"):
        compare(a, run("b", rows))
    rows[1]["context"] = ["One."]
    with pytest.raises(UsageError, match=r"line 2 .* RUN_A has 2 turns where that of RUN_B has 1"):
        compare(a, run("b", rows))


def test_folders_that_cannot_be_used_are_refused(run, tmp_path):
    a = run("a", rows_of_run())
    with pytest.raises(UsageError, match=r"There is no .*predictions.jsonl.*finished with do_pred"):
        compare(a, str(tmp_path / "nowhere"))
    for row in ({"context": ["Hi"], "reference": "Hi"}, 3, {**rows_of_run()[0], "reply": None}):
        with pytest.raises(UsageError, match="holds no predictions"):
            compare(a, run("b", [row]))
    (tmp_path / "b" / "predictions.jsonl").write_text("no JSON\n")
    with pytest.raises(UsageError, match="holds no predictions"):
        compare(a, str(tmp_path / "b"))
    one = run("one", rows_of_run()[:2])
    with pytest.raises(UsageError, match="There is 1 dialogue to resample; 2 are the least"):
        compare(one, one)


def test_clean_pairs_that_are_not_there_are_refused(run):
    a = run("a", rows_of_run())
    rows = rows_of_run()
    del rows[7]["clean"]
    with pytest.raises(UsageError, match="predictions of RUN_B do not say which pairs are clean"):
        compare(a, run("b", rows), subset="clean")
    with pytest.raises(UsageError, match="No pair is clean in both runs"):
        compare(
            a,
            run("b", [row | {"clean": not row["clean"]} for row in rows_of_run()]),
            subset="clean",
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 99}, "samples is 99; it must be at least 100"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"subset": "dirty"}, "subset is 'dirty'; it must be one of full, clean"),
        ({"output": "x.txt"}, r"output is 'x.txt'; it must end in \.json"),
        ({"output": "other.json"}, "'other.json' is no earlier comparison"),
        ({"output": "broken.json"}, "'broken.json' is no earlier comparison"),
        ({"output": "broken.json/x.json"}, "Cannot write to 'broken.json'"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(run, tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "broken.json").write_text("[")
    with pytest.raises(UsageError, match=message):
        compare("a", "b", **settings)
