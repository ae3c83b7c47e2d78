"""Streaming: the rows of the prepared data, shared out, shuffled, and gone on with exactly."""

import json
import signal
import time

import pytest
from datasets import Dataset
from helpers.corpus import SAMPLES
from helpers.runs import command, equal, finish, start, start_two, weights

from seq2seq_dialog.data import streaming
from seq2seq_dialog.data.features import encode
from seq2seq_dialog.data.rows import load_rows
from seq2seq_dialog.data.streaming import Stream, StreamedBatches
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.run_folder import read_json
from seq2seq_dialog.settings import DataArguments
from seq2seq_dialog.train_arguments import parse
from seq2seq_dialog.training.checkpoints import last_checkpoint

STREAM = ("--streaming", "true", "--max_steps", "30", "--eval_steps", "10", "--save_steps", "10")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "dialogues.txt"
    path.write_text("".join(SAMPLES.open(encoding="utf-8").readlines()[:120]), encoding="utf-8")
    return path


def data(tmp_path, **settings):
    return DataArguments(data_cache=str(tmp_path / "cache"), streaming=True, **settings)


def batches(args, tokenizer, rank=0, world_size=1, after=None, budget=512, seed=1):
    stream = StreamedBatches(Stream(args).train, tokenizer, args)
    stream.begin(budget, seed, rank, world_size, after)
    return iter(stream)


def pairs(batch):
    """Source and target of each example, without padding."""
    rows = zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
    return [(tuple(s[m > 0].tolist()), tuple(t[t != -100].tolist())) for s, m, t in rows]


def one_pass(stream, count):
    examples = []
    while len(examples) < count:
        examples += pairs(next(stream))
    assert len(examples) == count
    return examples


def test_the_stream_has_the_rows_of_the_prepared_data(text, tmp_path):
    args = data(tmp_path, data=str(text))
    stream, (rows, problems) = Stream(args), load_rows(args)
    assert list(stream.train()) == list(stream.train()) == rows["train"].to_list()
    assert stream.rows.keys() == rows.keys() and stream.problems == problems
    for name, split in rows.items():
        assert stream.rows[name].to_list() == split.to_list()


def test_a_data_set_on_the_hub_is_streamed(text, tmp_path):
    rows = load_rows(data(tmp_path, data=str(text)))[0]
    folder = tmp_path / "hub"
    for name, split in rows.items():
        split.to_parquet(folder / f"{name}.parquet")
    args = data(tmp_path, dataset_name=str(folder))
    stream, prepared = Stream(args), load_rows(args)[0]
    assert list(stream.train()) == prepared["train"].to_list()
    assert {k: v.to_list() for k, v in stream.rows.items()} == {
        k: v.to_list() for k, v in prepared.items()
    }


def test_whole_dialogues_on_the_hub_are_split_by_their_hash(text, tmp_path):
    turns = [line.split("__eou__")[:-1] for line in text.read_text("utf-8").splitlines()]
    Dataset.from_dict({"utterances": turns}).to_parquet(tmp_path / "hub" / "train.parquet")
    args = data(tmp_path, dataset_name=str(tmp_path / "hub"))
    stream, prepared = Stream(args), load_rows(args)[0]
    assert list(stream.train()) == prepared["train"].to_list()
    assert stream.rows["test"].to_list() == prepared["test"].to_list()


def test_only_as_much_is_kept_as_is_needed(text, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "KEPT_PAIRS", 20)
    stream = Stream(data(tmp_path, data=str(text), max_eval_samples=5, max_train_samples=50))
    assert [len(stream.rows[name]) for name in ("train", "validation", "test")] == [20, 5, 5]
    assert len(list(stream.train())) == 50


def test_a_split_into_which_no_dialogue_falls_is_left_out(tmp_path):
    path = tmp_path / "talk.csv"
    path.write_text("speaker,text\nann,Is it far?\nbo,Two miles.\n", encoding="utf-8")
    rows = Stream(data(tmp_path, data=str(path))).rows
    assert {name: len(split) for name, split in rows.items()} == {"train": 1}


@pytest.mark.parametrize("world_size", [1, 3])
def test_each_pair_comes_once_a_pass_on_one_process(
    text, tmp_path, tokenizer, monkeypatch, world_size
):
    args = data(tmp_path, data=str(text), max_source_length=48, max_target_length=16)
    rows = list(Stream(args).train())
    dialogues = list(dict.fromkeys(row["dialogue_id"] for row in rows))
    for rank in range(world_size):
        own = [r for r in rows if dialogues.index(r["dialogue_id"]) % world_size == rank]
        monkeypatch.setattr(streaming, "BUFFER_PAIRS", len(own) // 2)
        count = len(own) // 2 * 2
        examples = one_pass(batches(args, tokenizer, rank, world_size), count)
        columns = {name: [row[name] for row in own[:count]] for name in ("context", "response")}
        columns = encode(columns, tokenizer, 48, 16)
        expected = zip(map(tuple, columns["input_ids"]), map(tuple, columns["labels"]), strict=True)
        assert sorted(examples) == sorted(expected)


def test_batches_keep_the_budget_and_are_shuffled(text, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(streaming, "BUFFER_PAIRS", 300)
    args = data(tmp_path, data=str(text), max_source_length=48, max_target_length=16)
    stream = batches(args, tokenizer)
    first = [next(stream) for _ in range(12)]
    for batch in first:
        assert batch["input_ids"].numel() + batch["labels"].numel() <= 512
    widths = [batch["input_ids"].shape[1] for batch in first]
    assert widths != sorted(widths) and len(set(widths)) > 3
    other = batches(args, tokenizer, seed=2)
    assert [pairs(b) for b in first] != [pairs(next(other)) for _ in first]


@pytest.mark.parametrize("several", [False, True])
def test_it_goes_on_behind_any_batch(text, tmp_path, tokenizer, monkeypatch, several):
    monkeypatch.setattr(streaming, "BUFFER_PAIRS", 100)  # several buffers, over the end of a pass
    monkeypatch.setattr(streaming, "KEPT_PAIRS", 100)
    sources = [{"path": str(text), "weight": 2}, {"path": str(text), "name": "again"}]
    source = sources if several else str(text)
    args = data(tmp_path, data=source, max_source_length=48, max_target_length=16)
    stream = batches(args, tokenizer)
    whole = [next(stream) for _ in range(80)]
    assert whole[-1]["position"][0] > 4
    for number in (0, 7, 40, 63):
        rest = batches(args, tokenizer, after=tuple(whole[number]["position"].tolist()))
        for batch in whole[number + 1 :][:15]:
            assert all(batch[name].equal(same) for name, same in next(rest).items())


def test_batches_know_the_targets_of_an_average_one(text, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(streaming, "BUFFER_PAIRS", 100)
    args = data(tmp_path, data=str(text), max_source_length=48, max_target_length=16)
    stream = batches(args, tokenizer)
    for number in range(3):
        buffer = [next(stream)]
        while (following := next(stream))["position"][0] == number:
            buffer.append(following)
        targets = sum(int(batch["labels"].ne(-100).sum()) for batch in buffer)
        assert len(buffer) > 3
        means = [float(batch["mean_targets"]) for batch in buffer]
        assert means == pytest.approx([targets / len(buffer)] * len(buffer))
        stream = batches(args, tokenizer, after=tuple(buffer[-1]["position"].tolist()))


def test_fewer_dialogues_than_processes(text, tmp_path, tokenizer):
    args = data(tmp_path, data=str(text), max_train_samples=3)
    with pytest.raises(UsageError, match="too few for 9 processes"):
        next(batches(args, tokenizer, rank=8, world_size=9))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_steps", "-1"], "set max_steps"),
        (["--drop_overlap", "true"], "drop_overlap does not work with streaming"),
        (["--dataloader_num_workers", "2"], "set 0 or 1"),
        (["--tokens_per_batch", "auto"], "tokens_per_batch auto does not work with streaming"),
    ],
)
def test_what_does_not_go_with_a_stream(config, flags, message):
    with pytest.raises(UsageError, match=message):
        parse([str(config), "--output_dir", "x", *STREAM, *flags])


@pytest.mark.faults
def test_a_streamed_run_is_killed_and_goes_on_with_the_same_weights(
    run,
    config,
    tmp_path,
):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    told = " ".join(run(config, whole, *STREAM).stdout.split())
    assert "Training pairs are streamed" in told and "test: all pairs" in told
    evaluation = read_json(whole / "evaluation.json")
    assert {row["subset"] for row in evaluation["results"]} == {"full"}
    assert "overlap" not in evaluation and evaluation["first_training_pairs"] > 0
    assert (whole / "report.html").exists()

    child = start(*command(config, killed, *STREAM))
    while last_checkpoint(killed) is None:
        assert child.poll() is None
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    # reading ahead in a process of its own changes nothing
    told = run(config, killed, *STREAM, "--dataloader_num_workers", "1").stdout
    assert "Going on from" in told
    assert equal(weights(whole), weights(killed))
    logs = [read_json(folder / "trainer_state.json")["log_history"] for folder in (whole, killed)]
    epochs = [[log["epoch"] for log in each] for each in logs]
    assert epochs[0] == epochs[1] and epochs[0][-1] == 1


# The command, with buffers of few pairs.
SMALL_BUFFERS = """
import sys
from seq2seq_dialog.data import streaming
from seq2seq_dialog.train import main
streaming.BUFFER_PAIRS = 150
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_two_processes_stream(config, tmp_path):
    folder = tmp_path / "two"
    flags = [*STREAM, "--max_eval_samples", "20"]
    finish(start_two("-c", SMALL_BUFFERS, config, "--output_dir", folder, *flags))
    places = [(folder / "checkpoint-30" / f"stream_{rank}.json").read_text() for rank in (0, 1)]
    assert all(min(json.loads(place)) > 0 for place in places)  # behind the first buffer
    assert read_json(folder / "metrics.json")["train"]["steps"] == 30
