"""The benchmarks: peers that train and answer, arithmetic, turns, and a first look end to end."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import bench_contestants
from helpers.corpus import SAMPLES
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import (
    answering,
    gpu,
    harness,
    material,
    peers,
    pictures,
    preparation,
    suite,
    training,
)
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.training.trainer import DialogueTrainer

QUIET = Console(quiet=True)
LENGTHS = np.random.default_rng(0).integers((5, 3), (200, 40), (3000, 2))


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# Peers


def test_the_seed_recipe_pads_both_sides_and_learns(model, tokenizer, rows):
    dataset = peers.SeedDataset(rows.select(range(8)), tokenizer, max_length=40)
    item = dataset[0]
    assert {name: len(tensor) for name, tensor in item.items()} == dict.fromkeys(item, 40)
    assert item["labels"].eq(-100).sum() == 40 - len(tokenizer(rows[0]["response"])["input_ids"])
    before, losses = weights(model), []
    for _ in range(6):
        epoch = peers.seed_steps(model, peers.seed_loader(dataset), learning_rate=1e-2)
        batches, found = zip(*epoch, strict=True)
        assert [len(batch["labels"]) for batch in batches] == [2] * 4
        losses.append(np.mean(found))
    assert losses[-1] < losses[0] - 1
    assert all(not tensor.equal(before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("group", [False, True])
def test_the_stock_recipes_learn(model, tokenizer, features, tmp_path, group):
    before = weights(model)
    args = peers.stock_arguments(
        str(tmp_path), 8, group, max_steps=30, learning_rate=1e-2, logging_steps=1, use_cpu=True
    )
    trainer = peers.stock_trainer(model, args, tokenizer, features)
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert np.mean(losses[-5:]) < losses[0] - 1
    assert all(not tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def test_the_stock_recipe_is_that_of_the_examples(tmp_path):
    args = peers.stock_arguments(str(tmp_path), use_cpu=True)
    assert (args.per_device_train_batch_size, args.per_device_eval_batch_size) == (8, 8)
    assert (args.learning_rate, args.lr_scheduler_type, args.warmup_steps) == (5e-5, "linear", 0)
    assert args.train_sampling_strategy == "random"
    tuned = peers.stock_arguments(str(tmp_path), 32, True, use_cpu=True)
    assert (tuned.train_batch_size, tuned.train_sampling_strategy) == (32, "group_by_length")


def test_peers_see_the_tokens_that_we_see(rows, features, tokenizer):
    theirs = peers.preprocess(rows[:], tokenizer)
    whole = [
        i for i in range(len(rows)) if not (features[i]["turns_cut"] or features[i]["target_cut"])
    ]
    assert len(whole) > 50
    for i in whole:
        assert theirs["input_ids"][i] == features[i]["input_ids"]
        assert theirs["labels"][i] == features[i]["labels"]


def test_stock_and_our_replies_are_equal_and_end_where_they_are_to(
    model, tokenizer, features, tmp_path
):
    torch.manual_seed(3)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(512, 32))  # untied: replies vary
    lengths = torch.tensor([3, 4, 7, 11])  # with the end token
    answering.end_naturally(model.eval(), lengths)
    examples = features.select(range(30))
    stock, seconds = peers.stock_replies(model, tokenizer, examples, str(tmp_path), use_cpu=True)
    args = material.our_arguments(tmp_path, use_cpu=True)
    predictions = DialogueTrainer(model, args, tokenizer).predict(examples).predictions
    assert [prediction["reply"] for prediction in predictions] == stock
    assert len(set(stock)) > 10 and seconds > 0
    for example in examples:
        ids = torch.tensor([example["input_ids"]])
        reply = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids))[0, 1:]
        assert len(reply) == lengths[ids.sum() % 4] and reply[-1] == tokenizer.eos_token_id


# Arithmetic


def result(*seconds):
    rounds = [{"work": 12.0, "seconds": value} for value in seconds]
    return {"rounds": rounds}


def test_ratios_are_of_the_same_round():
    results = {"ours": result(1, 2, 4), "peer": result(3, 4, 20), "gone": {"failed": "no memory"}}
    row = harness.compare(results, "ours", "peer", target=2.5)
    assert row["ratio"] == {"rounds": [3, 2, 5], "median": 3, "least": 2, "greatest": 5}
    assert row["reached"] and not harness.compare(results, "ours", "peer", 3.5)["reached"]
    assert harness.compare(results, "ours", "peer")["reached"] is None
    assert harness.compare(results, "ours", "gone", 2)["skipped"] == "gone: failed: no memory"
    assert harness.speeds(results["ours"]) == [12, 6, 3]
    assert harness.summary([12, 6, 3]) == {"median": 6, "least": 3, "greatest": 12}


def test_what_each_learns_is_told_with_whether_it_reads_its_contexts():
    gru = "GRU with attention"
    learnt = {"T5": ([(1, 5.0), (2, 3.2)], 0.5, 80), gru: ([(1, 5.0), (2, 3.6)], 0.25, 40)}

    def measure(contestants):
        assert {name: run for name, (run, _) in contestants.items()} == dict.fromkeys(
            learnt, training.learning
        )
        assert all(options["recipe"].items() >= suite.TUNED[name].items()
                   for name, (_, options) in contestants.items())  # fmt: skip
        names = ("curve", "context_gain", "seconds", "work")
        return {
            name: {"rounds": [dict(zip(names, (*figures, 3600), strict=True))]}
            for name, figures in learnt.items()
        }

    tools = SimpleNamespace(folder=None, quick=False, full=True, measure=measure)
    found = suite.measure_learning(tools)
    assert {check["what"]: check["value"] for check in found["checks"]} == {
        "loss after an epoch, T5": 3.2,
        "context gain, T5": 0.5,
        f"loss after an epoch, {gru}": 3.6,
        f"context gain, {gru}": 0.25,
    }
    assert found["ratios"][0]["ratio"]["median"] == 0.5


def test_bounds():
    assert harness.check("x", 3)["reached"] is None
    assert (
        harness.check("x", 3, at_most=3)["reached"]
        and not harness.check("x", 4, 0.8, 1.2)["reached"]
    )
    assert harness.check("x", 1.1, 0.8, 1.2)["reached"]


def test_padding_is_what_is_not_a_token():
    lengths = torch.tensor([4, 2]), torch.tensor([3, 1])
    counts = [(*lengths, 2 * (4 + 3)), (*lengths, 2 * (4 + 3))]
    measured = material.measurement(counts, 5.0, material.TINY)
    assert measured["work"] == 20 and measured["seconds"] == 5 and measured["steps"] == 2
    assert measured["padding"] == pytest.approx(8 / 28)


def test_floating_point_operations_are_those_that_torch_counts(model):
    model.set_attn_implementation("eager")
    source, target, vocabulary = 11, 7, 512
    with FlopCounterMode(display=False) as counter:
        ids = torch.full((1, source), 5)
        model(input_ids=ids, labels=torch.full((1, target), 5)).loss.backward()
    size = material.TINY
    counted = material.training_flops(size, torch.tensor([source]), torch.tensor([target]))
    counted -= 6 * target * size["d_model"] * (material.VOCABULARY - vocabulary)
    causal = size["num_layers"] * size["num_heads"] * size["d_kv"] * 6 * target**2  # torch: full
    assert counted + causal == pytest.approx(counter.get_total_flops(), rel=1e-9)


def test_a_few_batches_stand_for_an_epoch():
    order = np.random.default_rng(1).permutation(3000)
    order = order[np.argsort(LENGTHS[order, 0], kind="stable")]  # by length, as a grouped one
    batches = order.reshape(-1, 30).tolist()
    picked = material.spread(LENGTHS, batches, 5)
    assert len(picked) == 5 * material.ROUNDS

    def figures(some):
        real = sum(LENGTHS[batch].sum() for batch in some) / len(some)
        return real, sum(30 * LENGTHS[batch].max(0).sum() for batch in some) / len(some)

    for i in range(0, len(picked), 5):
        assert figures(picked[i : i + 5]) == pytest.approx(figures(batches), rel=0.03)


def test_the_time_to_a_loss():
    """1, 2, 3 seconds; the peer ends with 4.1 in the first round and with `last` in the second."""
    curve = [(1.0, 5.0), (2.0, 4.0), (3.0, 4.1)]
    ours = {"rounds": [{"work": 1, "seconds": 3.0, "curve": curve}] * 2, "speed": "of a whole run"}

    def peer(last):
        return {"rounds": [{"curve": [(9.0, 3.0), (10.0, loss)]} for loss in (4.1, last)]}

    found = training.to_loss_of(ours, peer(5.5))
    assert harness.speeds(found) == [1 / 2, 1]
    assert training.to_loss_of(ours, peer(3.9)) == {
        "failed": "it does not reach the loss of 3.900 in round 2"
    }
    assert training.to_loss_of(ours, {"failed": "x"}) is ours


def test_the_exact_loss_does_not_depend_on_batches(model, features):
    collate = answering.DialogueCollator(0)
    examples = [features[i] for i in range(12)]
    model.train()
    losses = [
        training.exact_loss(model, [collate(examples[i : i + n]) for i in range(0, 12, n)])
        for n in (1, 5, 12)
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5) and model.training


def test_the_corpus_repeats_with_changed_words(tmp_path):
    preparation.write_corpus(str(SAMPLES), 1400, tmp_path / "text")
    lines = (tmp_path / "text").read_text(encoding="utf-8").split("\n")
    originals = SAMPLES.read_text(encoding="utf-8").split("\n")
    assert len(lines) == 1401 and lines[-1] == ""
    assert len(set(lines)) > 1390 and len(set(lines) & set(originals)) < 10
    assert lines[1000].count("__eou__") == originals[0].count("__eou__")


def test_random_features_have_the_lengths_of_dailydialog(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    gpu.draw_features(tmp_path, tmp_path / "drawn", 5000)
    lengths = material.lengths(material.features(tmp_path / "drawn", "train"))
    assert np.percentile(lengths, 50, axis=0) == pytest.approx([66, 16], rel=0.1)
    assert np.percentile(lengths, 95, axis=0) == pytest.approx([252, 45], rel=0.1)


# Turns


def test_turns_are_taken_in_processes_of_their_own():
    contestants = {
        "small": (bench_contestants.counting, {}),
        "large": (bench_contestants.counting, {"megabytes": 400}),
        "broken": (bench_contestants.counting, {"broken": True}),
    }
    results = harness.in_turn(contestants, 2, QUIET)
    assert results["broken"] == {"failed": "ValueError: not today"}
    assert harness.speeds(results["small"]) == [2, 4]
    assert results["small"]["speed"] == {"median": 3, "least": 2, "greatest": 4}
    small, large = (results[name]["rounds"][0]["peak_mib"] for name in ("small", "large"))
    assert 380 < large - small < 500


def test_a_contestant_that_is_late_is_given_up():
    results = harness.in_turn({"late": (bench_contestants.late, {})}, 1, QUIET, limit=0.5)
    assert results == {"late": {"failed": "no answer within 0.5 seconds"}}


def test_a_contestant_may_say_what_it_lacks():
    results = harness.in_turn({"bare": (bench_contestants.bare, {})}, 1, QUIET)
    assert results == {"bare": {"skipped": "a wheel is missing"}}


# The suite


@pytest.mark.slow
def test_a_first_look_end_to_end(tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("DIALOG_DATA", raising=False)
    suite.bench(["preparation", "to_loss"], rounds=1, output=str(tmp_path / "out"), quick=True)
    printed = json.loads(capfd.readouterr().out.strip().split("\n")[-1])
    assert list(printed) == ["to_loss", "preparation"]
    for name, part in printed.items():
        assert json.loads((tmp_path / "out" / f"{name}.json").read_text()) == part
        assert part["about"]["data"] == str(SAMPLES) and part["about"]["quick"]
    ratios = printed["preparation"]["ratios"]
    assert [len(row["ratio"]["rounds"]) for row in ratios] == [1, 1]
    stock = printed["to_loss"]["contestants"]["stock"]["rounds"]
    assert all(measured["curve"][-1][1] < measured["curve"][0][1] for measured in stock)
    assert (tmp_path / "out" / "to_loss.png").exists()
    assert not list((tmp_path / "out").glob("work-*"))

    pictures.draw_chart(printed, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"parts": ["trainig"]}, r"no part 'trainig', but training, .* Did you mean 'training'"),
        ({"rounds": 0}, "rounds is 0; it must be from 1 to 20"),
        ({"quick": True, "chart": True}, "quick measures sizes that mean nothing"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, given, message):
    with pytest.raises(UsageError, match=message):
        suite.bench(output=str(tmp_path), **given)


def test_a_chart_of_nothing_is_refused(tmp_path):
    with pytest.raises(UsageError, match="nothing to draw"):
        pictures.draw_chart({}, tmp_path / "chart.png")


def test_bars_are_of_parts_that_there_are():
    assert {name for name, *_ in pictures.BARS} <= set(suite.PARTS)
