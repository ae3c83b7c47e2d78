"""One run under several seeds: stopped, gone on with, put together, and compared with another."""

import signal
import time
from pathlib import Path
from statistics import stdev

import pytest
from helpers.runs import command, equal, finish, start, weights

from seq2seq_dialog import train
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.report.compare import compare
from seq2seq_dialog.report.seeds import summarise
from seq2seq_dialog.run_folder import read_json, write_json, write_jsonl
from seq2seq_dialog.train_arguments import parse
from seq2seq_dialog.training.checkpoints import last_checkpoint
from seq2seq_dialog.training.stopping import Diverged
from seq2seq_dialog.training_settings import DialogueTrainingArguments


@pytest.mark.slow
def test_stopped_and_started_again_each_seed_gives_its_run(run, config, tmp_path):
    folder, flags = tmp_path / "all", ["--seeds", "3,7"]
    process = start(*command(config, folder, *flags))
    deadline = time.monotonic() + 120
    while last_checkpoint(folder / "seed-7") is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    stopped = finish([process], status=128 + signal.SIGTERM)
    assert "the same command goes on from there" in stopped.stderr
    assert not (folder / "seeds.json").exists()
    done = run(config, folder, *flags).stdout
    assert f"{folder}/seed-3 holds this run, complete" in done and "Going on from" in done
    run(config, tmp_path / "one", "--seed", "7")
    assert equal(weights(folder / "seed-7"), weights(tmp_path / "one"))
    assert not equal(weights(folder / "seed-3"), weights(tmp_path / "one"))

    summary = read_json(folder / "seeds.json")
    assert summary["seeds"] == [3, 7]
    shown = [(result["split"], result["subset"]) for result in summary["results"]]
    assert shown == [("validation", "full"), ("test", "full"), ("test", "clean")]
    one = read_json(tmp_path / "one" / "metrics.json")["test"]
    for name, spread in summary["results"][1]["metrics"].items():
        assert spread["values"][1] == one[name]
        assert spread["std"] == pytest.approx(stdev(spread["values"]))
    assert "test, clean pairs: mean and standard deviation (n - 1) over 2 seeds" in done
    refused = run(config, folder, "--seeds", "3,7", "--learning_rate", "1", status=2).stderr
    assert (
        "seed-3 holds a complete run with other settings (learning_rate: 0.005 -> 1.0)" in refused
    )


def runs(folder, values: dict[int, tuple[float, float]], text: str = "Hi", **pair):
    """Write a folder of finished runs that have a BLEU and a perplexity by seed."""
    for seed, (bleu, perplexity) in values.items():
        run_dir = folder / f"seed-{seed}"
        run_dir.mkdir(parents=True)
        figures = {"bleu": bleu, "perplexity": perplexity, "loss": 1.0}
        write_json(run_dir / "metrics.json", {"test": figures, "validation": {"perplexity": 9.0}})
        row = {"system": "model", "protocol": "default", "subset": "clean"}
        rows = [row | {"metrics": {"bleu": bleu / 2}}, row | {"system": "empty", "metrics": {}}]
        write_json(run_dir / "evaluation.json", {"split": "test", "results": rows})
        row = {"dialogue_id": "test:1", "context": ["Hello."], "reference": text, "reply": "Oh."}
        row |= {"nll": 1.0, "tokens": 2, "bytes": 3, "clean": True} | pair
        write_jsonl(run_dir / "predictions.jsonl", [row])
    summarise(folder, list(values))
    return str(folder)


def test_mean_and_spread_are_those_computed_by_hand(tmp_path, capsys):
    runs(tmp_path / "a", {1: (1.0, 20.0), 2: (2.0, 20.0), 5: (6.0, 20.0)})
    summary = read_json(tmp_path / "a" / "seeds.json")
    metrics = [result["metrics"] for result in summary["results"]]
    bleu = {"mean": 3.0, "std": pytest.approx(7**0.5), "values": [1.0, 2.0, 6.0]}
    assert metrics[0] == {"perplexity": {"mean": 9.0, "std": 0.0, "values": [9.0] * 3}}
    assert metrics[1]["bleu"] == bleu and list(metrics[1]) == ["perplexity", "bleu"]
    assert metrics[2]["bleu"]["values"] == [0.5, 1.0, 3.0]
    printed = capsys.readouterr().out
    assert "sacreBLEU" in printed and "2.646" in printed and "seed 5" in printed


def test_seeds_that_learnt_other_dialogues_have_no_mean(tmp_path):
    folder = tmp_path / "a"
    runs(folder, {1: (1.0, 20.0), 2: (2.0, 20.0)})
    write_json(folder / "seed-1" / "environment.json", {"training_data": "before"})
    summarise(folder, [1, 2])  # the second does not tell
    write_json(folder / "seed-2" / "environment.json", {"training_data": "after"})
    with pytest.raises(UsageError, match=r"seed-2 has learnt other dialogues than .*seed-1"):
        summarise(folder, [1, 2])


def test_no_further_seed_is_trained_where_the_dialogues_were_changed(tmp_path, monkeypatch):
    made = []

    def run_unless_complete(argv):
        made.append(argv[-1].removeprefix("--output_dir="))
        Path(made[-1]).mkdir()
        write_json(Path(made[-1]) / "environment.json", {"training_data": f"text {len(made)}"})

    monkeypatch.setattr(train, "run_unless_complete", run_unless_complete)
    line = ["--model_name_or_path", "m", "--seeds", "1,2,3", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(UsageError, match=r"seed-2 has learnt other dialogues than .*seed-1"):
        train.main(line)
    assert len(made) == 2


def test_a_seed_that_diverges_does_not_keep_the_others_from_running(tmp_path, monkeypatch, capsys):
    made = []

    def run_unless_complete(argv):
        made.append(argv[-1].rsplit("-", 1)[1])
        if made[-1] == "2":
            raise Diverged("The loss is nan.")

    monkeypatch.setattr(train, "run_unless_complete", run_unless_complete)
    line = ["--model_name_or_path", "m", "--seeds", "1,2,3", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(UsageError, match="Of 3 seeds these have diverged: 2"):
        train.main(line)
    assert made == ["1", "2", "3"] and not (tmp_path / "out" / "seeds.json").exists()
    assert "The loss is nan. The other seeds go on." in capsys.readouterr().out


A = {1: (1.0, 20.0), 2: (2.0, 22.0), 3: (6.0, 24.0)}


@pytest.mark.parametrize(
    ("other", "verdict"),
    [
        (
            {1: (2.0, 21.0), 2: (4.0, 21.0), 3: (9.0, 22.0)},
            [
                "perplexity: B is better by 0.667 on average (standard deviation 1.528), but only "
                "under 2 of 3 seeds.",
                "sacreBLEU: B is better under each of 3 seeds, by 2.000 on average (standard "
                "deviation 1.000).",
            ],
        ),
        (
            {1: (0.5, 20.0), 2: (1.0, 22.0), 9: (99.0, 1.0)},
            [
                "perplexity: no difference on average.",
                "sacreBLEU: A is better under each of 2 seeds, by 0.750 on average (standard "
                "deviation 0.354).",
            ],
        ),
        (
            {8: (2.0, 20.0), 9: (2.0, 22.0)},
            [
                "perplexity: B is better by 1.000 on average (standard deviation 2.449 between "
                "runs, not paired).",
                "sacreBLEU: A is better by 1.000 on average (standard deviation 2.646 between "
                "runs, not paired).",
            ],
        ),
    ],
    ids=["the same seeds", "two seeds in both", "other seeds"],
)
def test_two_sets_of_runs_are_compared_over_seeds(tmp_path, capsys, other, verdict):
    a, b = runs(tmp_path / "a", A), runs(tmp_path / "b", other)
    result = compare(a, b, output=tmp_path / "out.json")
    assert result["verdict"] == verdict
    assert read_json(tmp_path / "out.json") == result
    assert result["seeds"] == [seed for seed in A if seed in other]
    assert all(sentence in capsys.readouterr().out for sentence in verdict[:1])
    clean = compare(a, b, subset="clean")["metrics"]["bleu"]
    assert clean["difference"] == pytest.approx(result["metrics"]["bleu"]["difference"] / 2)


def test_sets_of_runs_that_cannot_be_compared_are_refused(tmp_path):
    a = runs(tmp_path / "a", A)
    with pytest.raises(UsageError, match="RUN_A has 'Hi' where that of RUN_B has 'No'"):
        compare(a, runs(tmp_path / "b", A, text="No"))
    with pytest.raises(UsageError, match=r"several seeds, .* one run\. .*, '.*/a/seed-1'"):
        compare(a, str(tmp_path / "b" / "seed-1"))
    result = compare(a, runs(tmp_path / "c", A, tokens=3))
    assert list(result["metrics"]) == ["bleu"]
    assert "Perplexity and context gain are left out" in result["verdict"][-1]
    d = runs(tmp_path / "d", A, clean=False)
    with pytest.raises(UsageError, match=r"clean \(1 and 0\).*/a/seed-1' with '.*/d/seed-1"):
        compare(a, d, subset="clean")
    assert compare(a, d)["seeds"] == list(A)
    write_json(tmp_path / "b" / "seeds.json", [])
    with pytest.raises(UsageError, match=r"seeds.json' is not what a run writes there"):
        compare(a, str(tmp_path / "b"))


@pytest.mark.parametrize("written", ["1,2,3", "1 2 3", "1, 2, 3", "[1, 2, 3]"])
def test_seeds_are_written_as_people_write_lists(tmp_path, written):
    flags = [] if written[0] == "[" else ["--seeds", *written.split()]
    (tmp_path / "c.yaml").write_text("seeds: [1, 2, 3]\n" if not flags else "seed: 1\n")
    settings = parse([str(tmp_path / "c.yaml"), "--model_name_or_path", "m", *flags])
    assert settings.training.seeds == [1, 2, 3]
    assert "seeds" not in settings.as_config()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--seeds 1", "seeds is '1'; it must be two or more whole numbers"),
        ("--seeds 1,1", "seeds is '1,1'; it must be two or more"),
        ("--seeds 1 x", "seeds is '1 x'; it must be two or more"),
        ("--seeds 1,-2", "seeds is '1,-2'; it must be two or more"),
        ("--seeds 1,4294967296", "from 0 to 4294967295, each once"),
        ("--seeds 1,2 --push_to_hub true", "push_to_hub publishes one run, and seeds make several"),
    ],
)
def test_seeds_that_cannot_be_used_are_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        parse(["--model_name_or_path", "m", *flags.split()])


def test_several_processes_are_told_the_way_for_seeds(monkeypatch):
    monkeypatch.setattr(DialogueTrainingArguments, "world_size", 2)
    with pytest.raises(UsageError, match=r"one process, and these are 2.*/seed-1; the command"):
        parse(["--model_name_or_path", "m", "--seeds", "1,2"])


def test_a_folder_of_something_else_is_refused(run, config, tmp_path):
    (tmp_path / "metrics.json").touch()
    error = run(config, tmp_path, "--seeds", "1,2", status=2).stderr
    assert "holds other files, such as metrics.json; choose a new --output_dir" in error
