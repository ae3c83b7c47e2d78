"""A metric is added in two places: the catalogue, and where it is computed. The rest follows."""

import numpy as np
import pytest
import yaml
from helpers.corpus import ROOT, rows_of, sample_dialogues
from rich.console import Console

from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.evaluation import metrics
from seq2seq_dialog.evaluation.catalogue import HIGHER, METRICS, Metric
from seq2seq_dialog.evaluation.metrics import PairStatistics, ReplyMetric
from seq2seq_dialog.evaluation.scoring import evaluate
from seq2seq_dialog.evaluation.text import words
from seq2seq_dialog.report import console, page
from seq2seq_dialog.report.compare import compare
from seq2seq_dialog.report.model_card import model_card
from seq2seq_dialog.run_folder import read_json, write_json, write_jsonl
from seq2seq_dialog.train_arguments import parse

DECODING = {"num_beams": 1, "do_sample": False, "max_new_tokens": 40}
FLAGS = [str(ROOT / "configs" / "demo.yaml"), "--metric_for_best_model", "shared_words"]


def shared_words(replies, references):
    """How many different words a reply shares with its reference, the mean over pairs."""
    pairs = zip(replies, references, strict=True)
    rows = [(len(set(words(reply)) & set(words(reference))), 1) for reply, reference in pairs]
    columns = np.array(rows, float).reshape(-1, 2)
    return {"shared_words": PairStatistics(columns, lambda sums: sums[0] / max(1, sums[1]))}


@pytest.fixture
def added(monkeypatch):
    """A metric more."""
    metric = Metric(
        "Shared-W", "per pair", HIGHER, main=True, interval=True, chooses_best=True, hub_type="sw"
    )
    monkeypatch.setitem(METRICS, "shared_words", metric)
    monkeypatch.setattr(metrics, "PAIR_METRICS", (*metrics.PAIR_METRICS, shared_words))


@pytest.fixture
def evaluated(run_folder):
    """A finished run with an evaluation of its replies, which are every other word."""
    dialogues = sample_dialogues(30)
    train, rows = rows_of(dialogues[:20]), rows_of(dialogues[20:])
    predictions = [
        {
            **{key: row[key] for key in ("dialogue_id", "turn", "context")},
            "reference": row["response"],
            "reply": " ".join(row["response"].split()[::2]),
            "nll": 6.0,
            "exchanged_nll": 7.0,
            "bytes": 9,
            "tokens": 3,
            "clean": True,
        }
        for row in rows
    ]
    evaluation = evaluate(predictions, train, rows, None, "test", DECODING)
    scores = ReplyMetric(keep_in_memory=True).compute(
        predictions=[row["reply"] for row in predictions], references=rows["response"][:]
    )
    write_json(run_folder / "evaluation.json", evaluation)
    write_jsonl(run_folder / "predictions.jsonl", predictions)
    write_json(run_folder / "metrics.json", {"test": scores})
    return run_folder


def test_a_metric_that_is_added_is_shown_everywhere(added, evaluated, capsys):
    evaluation, scores = (read_json(evaluated / f"{n}.json") for n in ("evaluation", "metrics"))
    row = next(row for row in evaluation["results"] if row["system"] == "model")
    value = row["metrics"]["shared_words"]
    assert value == scores["test"]["shared_words"] > 1
    low, high = row["intervals"]["shared_words"]
    assert low < value < high

    output = Console(width=200, record=True)
    console.print_metrics(scores, output)
    console.print_evaluation(evaluation, output)
    printed = " ".join(output.export_text().split())
    assert f"Shared-W (per pair) │ {value:.2f}" in printed and printed.count("Shared-W") == 2

    html = page.write(evaluated).read_text(encoding="utf-8")
    assert 'aria-label="Shared-W: model, full:' in html
    assert f"{value:.2f} <span" in html and "Shared-W, 0 to 100" not in html

    card = model_card(evaluated, "user/tiny", license="mit")
    assert f"| Shared-W, per pair ↑ | {value:.2f}" in card
    metadata = yaml.safe_load(card.split("\n---\n")[0])
    assert "sw" in metadata["metrics"]
    (result,) = (
        r for r in metadata["model-index"][0]["results"][0]["metrics"] if r["type"] == "sw"
    )
    assert result["value"] == round(value, 2)

    result = compare(str(evaluated), str(evaluated), samples=100)
    assert result["metrics"]["shared_words"]["a"] == value
    assert "Shared-W: no difference beyond chance" in capsys.readouterr().out


def test_a_metric_that_is_added_may_choose_the_best_checkpoint(added):
    settings = parse([*FLAGS, "--predict_with_generate", "true"])
    assert settings.training.greater_is_better


def test_a_metric_that_is_not_in_the_catalogue_may_not():
    with pytest.raises(UsageError, match="'shared_words', which is not computed"):
        parse([*FLAGS, "--predict_with_generate", "true"])
