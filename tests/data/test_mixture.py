"""Several sources: read with gzip, labelled, weighed, drawn by epoch; what is wrong is refused."""

import copy
import gzip
import json
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from helpers.corpus import SAMPLES
from helpers.trainers import make_trainer
from rich.console import Console

from seq2seq_dialog.data import streaming
from seq2seq_dialog.data.batching import TokenBudgetSampler
from seq2seq_dialog.data.corpus import report_sources
from seq2seq_dialog.data.features import encode_rows
from seq2seq_dialog.data.mixture import Draw, WeightedSource, draw_stream, parse_sources
from seq2seq_dialog.data.rows import load_rows
from seq2seq_dialog.data.streaming import Stream
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.settings import DataArguments
from seq2seq_dialog.train_arguments import parse
from seq2seq_dialog.training.trainer import DialogueTrainer, lengths_of

LINES = SAMPLES.read_text(encoding="utf-8").splitlines(keepends=True)


@pytest.fixture
def files(tmp_path):
    """A plain file of 40 dialogues and a packed one of 30, which share 10."""
    (tmp_path / "one.txt").write_text("".join(LINES[:40]), encoding="utf-8")
    with gzip.open(tmp_path / "two.txt.gz", "wt", encoding="utf-8") as file:
        file.writelines(LINES[30:60])
    return tmp_path


def arguments(files, **settings):
    data = [{"path": f"{files}/one.txt", "weight": 2}, {"path": f"{files}/two.txt.gz"}]
    lengths = {"max_source_length": 64, "max_target_length": 24}
    return DataArguments(data=data, data_cache=str(files / "cache"), **lengths, **settings)


def test_rows_of_all_sources_say_where_they_come_from(files):
    rows, problems = load_rows(arguments(files))
    alone, _ = load_rows(DataArguments(data=f"{files}/two.txt.gz", data_cache=str(files / "c")))
    two = rows["train"].filter(lambda row: row["source"] == "two")
    expected = [
        row | {"dialogue_id": f"two:{row['dialogue_id']}", "source": "two"}
        for row in alone["train"]
    ]
    assert two.to_list() == expected
    assert set(rows["train"]["source"]) == {"one", "two"}
    assert problems["one: one.txt"]["dialogues"] == 40
    assert problems["two: two.txt.gz"]["dialogues"] == 30


@pytest.mark.parametrize("streaming", [False, True])
def test_dialogues_of_two_files_of_one_name_have_ids_of_their_own(tmp_path, streaming):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "talk.txt").write_text(LINES[0], encoding="utf-8")
    data = [{"path": f"{tmp_path}/{name}/talk.txt", "name": name} for name in ("a", "b")]
    args = DataArguments(data=data, data_cache=str(tmp_path / "cache"), streaming=streaming)
    (rows,) = (Stream(args).rows if streaming else load_rows(args)[0]).values()
    assert set(rows["dialogue_id"]) == {"a:talk:1", "b:talk:1"}


def test_equal_dialogues_of_two_sources_fall_into_one_split(files):
    rows, _ = load_rows(arguments(files))
    splits = {}
    for name, split in rows.items():
        for row in split:
            splits.setdefault((*row["context"], row["response"]), set()).add(name)
    assert all(len(names) == 1 for names in splits.values())


def test_limits_are_shared_by_weight(files):
    rows, _ = load_rows(arguments(files, max_train_samples=50))
    whole, _ = load_rows(arguments(files))
    pairs, taken = Counter(whole["train"]["source"]), Counter(rows["train"]["source"])
    expected = 50 * 2 * pairs["one"] / (2 * pairs["one"] + pairs["two"])
    assert taken["one"] == pytest.approx(expected, abs=1)
    assert 50 <= len(rows["train"]) <= 51


@pytest.fixture
def mixed(files, tokenizer):
    args = arguments(files)
    rows, _ = load_rows(args)
    return encode_rows(rows["train"], tokenizer, args)


def test_an_epoch_has_each_dialogue_weight_times(mixed):
    examples = Draw(mixed, {"one": 2.0, "two": 1.0}, seed=1)(0)
    counts = Counter(examples.tolist())
    for number, source in enumerate(mixed["source"]):
        assert counts[number] == (2 if source == "one" else 1)


def test_a_fraction_draws_other_whole_dialogues_each_epoch(mixed):
    draw = Draw(mixed, {"one": 1.5, "two": 0.25}, seed=1)
    ids = np.array(mixed["dialogue_id"][:])
    sizes, epochs = Counter(ids.tolist()), []
    for epoch in range(3):
        counts = Counter(ids[draw(epoch)].tolist())
        times = {name: count / sizes[name] for name, count in counts.items()}
        assert all(value in (1, 2) for name, value in times.items())  # whole dialogues
        ones = [times[name] for name in times if name.startswith("one")]
        twos = [times[name] for name in times if name.startswith("two")]
        dialogues = {source: sum(n.startswith(source) for n in sizes) for source in ("one", "two")}
        assert sum(ones) == pytest.approx(1.5 * dialogues["one"], abs=1)
        assert len(twos) == pytest.approx(0.25 * dialogues["two"], abs=1)
        epochs.append(times)
        assert (draw(epoch) == Draw(mixed, {"one": 1.5, "two": 0.25}, seed=1)(epoch)).all()
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_source_of_few_dialogues_comes_in_some_epochs(mixed):
    draw = Draw(mixed, {"one": 1.0, "two": 0.01}, seed=1)
    all_of_one = len(Draw(mixed, {"one": 1.0}, seed=1)(0))
    with_two = sum(len(draw(epoch)) > all_of_one for epoch in range(50))
    assert 0 < with_two < 25


@pytest.mark.parametrize("world_size", [1, 2])
def test_epochs_have_equally_many_batches_of_what_was_drawn(mixed, world_size):
    lengths = lengths_of(mixed)
    draw = Draw(mixed, {"one": 1.5, "two": 0.5}, seed=3)
    ranks = [TokenBudgetSampler(lengths, 300, 3, r, world_size, draw) for r in range(world_size)]
    for epoch in range(6):
        batches = []
        for sampler in ranks:
            sampler.set_epoch(epoch)
            batches.append(list(sampler))
            assert len(batches[-1]) == len(ranks[0])
        drawn = Counter(draw(epoch).tolist())
        given = Counter(i for own in batches for batch in own for i in batch)
        assert not given - drawn
        missing = sum((drawn - given).values())
        assert missing <= 0.1 * len(draw(epoch))
        assert epoch > 0 or missing == 0
        for own in batches:
            for batch in own:
                assert len(batch) == 1 or len(batch) * lengths[batch].max(0).sum() <= 300


def test_shares_are_of_the_tokens_of_an_epoch(mixed, files):
    found = report_sources(mixed, arguments(files), Console(quiet=True))["sources"]
    assert found["one"]["pairs"] + found["two"]["pairs"] == len(mixed)
    tokens = {name: entry["weight"] * entry["tokens"] for name, entry in found.items()}
    assert found["one"]["share"] == pytest.approx(tokens["one"] / sum(tokens.values()))
    assert found["one"]["weight"] == 2 and found["two"]["dialogues"] > 0


def test_training_resumes_to_the_bit_and_tells_the_loss_of_each_source(
    model, tokenizer, mixed, tmp_path
):
    start = copy.deepcopy(model)
    settings = {"max_steps": 8, "save_steps": 3, "save_strategy": "steps", "save_total_limit": 9}
    settings |= {"tokens_per_batch": 8000}
    plain = make_trainer(model, tokenizer, mixed, tmp_path, **settings)
    weights = {"one": 1.5, "two": 0.5}
    trainers = [
        DialogueTrainer(m, plain.args, tokenizer, weights, train_dataset=mixed, eval_dataset=mixed)
        for m in (model, start)
    ]
    steps_per_epoch = len(trainers[0].get_train_dataloader())
    assert steps_per_epoch < 6  # the checkpoint is in a later epoch
    trainers[0].train()
    trainers[1].train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    for (name, one), other in zip(model.named_parameters(), start.parameters(), strict=True):
        assert one.equal(other), name
    metrics = trainers[0].evaluate()
    targets = np.array(mixed["target_length"][:])
    ones = np.array(mixed["source"][:]) == "one"
    mean = sum(
        metrics[f"eval_loss_{name}"] * targets[own].sum()
        for name, own in (("one", ones), ("two", ~ones))
    )
    assert metrics["eval_loss"] == pytest.approx(mean / targets.sum(), rel=1e-6)


def test_the_setting_is_a_list_in_yaml_and_json_on_the_command_line(tmp_path):
    entries = [{"path": "a.txt", "weight": 0.5}, {"path": "b/a.txt.gz", "name": "b"}]
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps({"data": entries, "new_model": {"model_type": "t5"}}))
    base = ["--output_dir", str(tmp_path)]
    from_file = parse([str(config), *base])
    flags = ["--data", json.dumps(entries), "--new_model", "{model_type: t5}"]
    for settings in (from_file, parse([*flags, *base])):
        assert settings.as_config()["data"] == entries
        found = parse_sources(settings.data.data)
        assert found == [("a", "a.txt", 0.5), ("b", "b/a.txt.gz", 1.0)]


def test_variables_in_paths_are_filled_in(files, monkeypatch):
    monkeypatch.setenv("CORPORA", str(files))
    args = DataArguments(data="$CORPORA/one.txt", data_cache=str(files / "cache"))
    assert len(load_rows(args)[0]["train"]) > 0
    monkeypatch.delenv("CORPORA")
    with pytest.raises(UsageError, match=r"CORPORA is not set.*export CORPORA=folder"):
        load_rows(args)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("[", r"data is '\['; it must be a path, or a list of sources"),
        ([], "data lists no source"),
        (["a.txt"], r"it must be a path, or a list"),
        ([{"weight": 1}], "it must be a path, or a list"),
        ([{"path": "a.txt", "wieght": 1}], r"a.txt has 'wieght'.*Did you mean 'weight'"),
        ([{"path": "a.txt", "weight": 0}], "a.txt has weight 0; it must be a number above 0"),
        ([{"path": "a.txt", "weight": "x"}], "a.txt has weight 'x'"),
        ([{"path": "a.txt"}, {"path": "b/a.txt.gz"}], r"two sources are called 'a'.*name: \.\.\."),
        ([{"path": "none.txt"}], "'none.txt' does not exist. Give a file, folder or zip"),
    ],
)
def test_wrong_sources_are_refused_with_a_way_out(data, message):
    with pytest.raises(UsageError, match=message):
        load_rows(DataArguments(data=data))


def test_a_broken_gzip_file_is_told(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(b"\x1f\x8bno gzip")
    with pytest.raises(UsageError, match=r"a\.txt\.gz cannot be unpacked .* Fetch it again"):
        load_rows(DataArguments(data=str(tmp_path / "a.txt.gz")))


def test_a_stream_draws_dialogues_by_share(files, monkeypatch):
    monkeypatch.setattr(streaming, "KEPT_PAIRS", 300)
    args = arguments(files, streaming=True)
    prepared, problems = load_rows(args)
    stream = Stream(args)
    assert stream.problems == problems
    for name in ("validation", "test"):
        assert stream.rows[name].to_list() == prepared[name].to_list()
    drawn = list(islice(stream.train(), 1500))
    assert drawn == list(islice(stream.train(), 1500))
    assert drawn[:300] == stream.rows["train"].to_list()
    shares = Counter(row["source"] for row in drawn if row["turn"] == 1)
    assert 0.60 < shares["one"] / shares.total() < 0.73  # weights 2 and 1, whatever their sizes
    for name in ("one", "two"):  # whole dialogues in the order of the source, pass after pass
        rows = [row for row in prepared["train"].to_list() if row["source"] == name]
        of_source = [row for row in drawn if row["source"] == name]
        passes = -(-len(of_source) // len(rows))
        assert passes > 1 and of_source == (rows * passes)[: len(of_source)]


def test_of_small_sources_a_stream_keeps_one_pass(files):
    args = arguments(files, streaming=True)
    kept, whole = (rows["train"].to_list() for rows in (Stream(args).rows, load_rows(args)[0]))
    assert all(row in kept for row in whole) and len(kept) < 3 * len(whole)


def test_a_stream_takes_evaluated_pairs_of_all_sources(files, monkeypatch):
    monkeypatch.setattr(streaming, "KEPT_PAIRS", 100)
    args = arguments(files, streaming=True, max_eval_samples=6)
    prepared, _ = load_rows(args)
    rows = Stream(args).rows["test"]
    assert rows.to_list() == prepared["test"].to_list()
    assert set(rows["source"]) == {"one", "two"}


def test_the_shares_of_a_stream_are_those_drawn(files, tokenizer, capsys, monkeypatch):
    monkeypatch.setattr(streaming, "KEPT_PAIRS", 300)
    args = arguments(files, streaming=True)
    features = encode_rows(Stream(args).rows["train"], tokenizer, args)
    counts = report_sources(features, args, Console())["sources"]
    tokens = counts["one"]["tokens"], counts["two"]["tokens"]
    assert counts["one"]["share"] == pytest.approx(tokens[0] / sum(tokens))
    told = " ".join(capsys.readouterr().out.split())
    assert "% of the tokens of the first 300 training pairs" in told


def test_a_streamed_source_without_pairs_is_refused():
    with pytest.raises(UsageError, match=r"two\.csv has no training pair. Leave it out"):
        next(draw_stream({WeightedSource("two", "two.csv", 1.0): lambda: iter(())}))
