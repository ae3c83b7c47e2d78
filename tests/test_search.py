"""The search over settings: its space, what it asks for, its trials killed and gone on with."""

import signal
import time

import pytest
import torch
from helpers.runs import equal, finish, start, weights

from seq2seq_dialog import search, train
from seq2seq_dialog.errors import Stopped, UsageError
from seq2seq_dialog.run_folder import read_json, write_json
from seq2seq_dialog.search import ask, ends, read_space
from seq2seq_dialog.strict_yaml import read_yaml
from seq2seq_dialog.train_arguments import parse
from seq2seq_dialog.training.checkpoints import last_checkpoint
from seq2seq_dialog.training.memory import DoesNotFit
from seq2seq_dialog.training.stopping import Diverged

SPACE = "{learning_rate: [5.0e-3, 1.0e+30], label_smoothing_factor: {low: 0.0, high: 0.2}}"
FEW = "{learning_rate: {low: 1e-4, high: 1e-2, log: true}, gradient_accumulation_steps: [1, 2]}"


@pytest.mark.slow
def test_a_killed_search_goes_on_and_its_best_settings_train(config, tmp_path):
    folder = tmp_path / "search"
    line = ["-m", "seq2seq_dialog", "search", str(config), "--output_dir", str(folder)]
    line += ["--space", SPACE, "--trials", "3", "--seed", "2"]
    killed = start(*line)
    deadline = time.monotonic() + 120
    while last_checkpoint(folder / "trial-0") is None and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = finish([start(*line)]).stdout
    assert done.splitlines()[0] == "Searching for the best loss on validation in 3 trials, over:"
    assert "  learning_rate: one of 0.005, 1e+30" in done and "Going on from" in done
    trials = read_json(folder / "search.json")["trials"]
    diverged = [trial for trial in trials if trial["value"] is None]
    assert [trial["settings"]["learning_rate"] for trial in diverged] == [1e30]
    assert f"The training of {diverged[0]['folder']} has diverged; the search goes on" in done
    best = min((t for t in trials if t not in diverged), key=lambda trial: trial["value"])
    metrics = read_json(folder / best["folder"] / "metrics.json")
    assert metrics["validation"]["loss"] == best["value"] and "test" not in metrics

    before = {trial["folder"]: last_checkpoint(folder / trial["folder"]) for trial in trials}
    again = finish([start(*line)]).stdout
    assert "has diverged; the search goes on" not in again and "Going on from" not in again
    assert read_json(folder / "search.json")["trials"] == trials
    assert before == {name: last_checkpoint(folder / name) for name in before}

    settings = read_yaml(folder / "best.yaml")
    assert settings["output_dir"] == str(folder / "best") and "space" not in settings
    assert f"train {folder}/best.yaml" in done
    finish([start("-m", "seq2seq_dialog", "train", str(folder / "best.yaml"))])
    assert equal(weights(folder / "best"), weights(folder / best["folder"]))
    assert "test" in read_json(folder / "best" / "metrics.json")


@pytest.fixture
def make(monkeypatch, tmp_path):
    """`make(trials=..., space=...)` searches with a made-up loss instead of training."""
    made, revision = [], ["dialogues"]

    def run_unless_complete(argv):
        settings = parse(argv)
        rate, folder = settings.training.learning_rate, settings.training.output_dir
        made.append(folder.rsplit("/", 1)[1])
        figures = {"loss": (rate - 0.003) ** 2 * 1e6, "rouge_l": rate}
        (tmp_path / "out" / made[-1]).mkdir(exist_ok=True)
        data = {"training_data": f"{revision[0]}, overlap dropped: {settings.data.drop_overlap}"}
        write_json(tmp_path / "out" / made[-1] / "environment.json", data)
        write_json(tmp_path / "out" / made[-1] / "metrics.json", {"validation": figures})

    def run(*flags, trials=8, space=FEW):
        made.clear()
        line = ["--model_name_or_path", "m", "--output_dir", str(tmp_path / "out")]
        search.main([*line, "--trials", str(trials), "--space", space, *flags])
        return list(made), read_json(tmp_path / "out" / "search.json")["trials"]

    monkeypatch.setattr(search, "run_unless_complete", run_unless_complete)
    run.revision = revision
    return run


def test_more_trials_go_on_as_if_they_had_been_asked_for_at_first(make, tmp_path, capsys):
    _, few = make(trials=3)
    _, all_trials = make(trials=8)
    assert all_trials[:3] == few
    settings = parse(["--model_name_or_path", "m"])
    for i, trial in enumerate(all_trials):
        assert ask(settings, read_space(FEW), all_trials[:i]) == trial["settings"]
    losses = [trial["value"] for trial in all_trials]
    printed = capsys.readouterr().out
    rows = [
        line.split("│") for line in printed.rpartition("Trial 7")[2].splitlines() if "│" in line
    ]
    assert [int(row[1]) for row in rows] == sorted(range(8), key=losses.__getitem__)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, DoesNotFit])
def test_a_trial_without_memory_enough_is_passed_over_and_teaches_the_next(
    make, monkeypatch, error
):
    def too_large(argv):
        if parse(argv).training.gradient_accumulation_steps == 1:
            raise error
        return whole(argv)

    whole = search.run_unless_complete
    monkeypatch.setattr(search, "run_unless_complete", too_large)
    _, trials = make(trials=12)
    failed = [trial["value"] is None for trial in trials]
    assert failed == [trial["settings"]["gradient_accumulation_steps"] == 1 for trial in trials]
    assert sum(failed[:5]) > 0 and not any(failed[-4:])  # what fails is asked for less


def test_a_stop_early_in_a_search_that_goes_on_forgets_no_failed_trial(make, monkeypatch):
    def failing(argv):
        if argv[-1].endswith("trial-2"):
            raise Diverged
        return whole(argv)

    def stopped(argv):
        raise Stopped

    whole = search.run_unless_complete
    monkeypatch.setattr(search, "run_unless_complete", failing)
    _, trials = make(trials=4)
    whole_or_stopped = iter([whole, stopped])
    monkeypatch.setattr(search, "run_unless_complete", lambda argv: next(whole_or_stopped)(argv))
    with pytest.raises(Stopped):
        make(trials=4)
    monkeypatch.setattr(search, "run_unless_complete", whole)
    assert make(trials=4) == (["trial-0", "trial-1", "trial-3"], trials)


def test_trials_may_drop_overlap_but_not_learn_other_dialogues(make, monkeypatch):
    assert len(make(space="{drop_overlap: [true, false]}", trials=6)[0]) == 2

    made = []

    def change(argv):
        made.append(whole(argv))
        make.revision[0] = "other dialogues"

    whole = search.run_unless_complete
    monkeypatch.setattr(search, "run_unless_complete", change)
    with pytest.raises(UsageError, match=r"trial-\d has learnt other dialogues than .*trial-0"):
        make(trials=5)
    assert len(made) == 2  # no further one is trained for nothing


def test_equal_trials_are_made_once_and_the_highest_can_be_best(make, tmp_path):
    flags = ["--predict_with_generate", "true", "--metric_for_best_model", "rouge_l"]
    made, trials = make(*flags, space="{learning_rate: [0.1, 0.2]}", trials=6)
    assert sorted(made) == sorted({trial["folder"] for trial in trials}) and len(made) == 2
    assert [trial["value"] for trial in trials] == [t["settings"]["learning_rate"] for t in trials]
    assert read_yaml(tmp_path / "out" / "best.yaml")["learning_rate"] == 0.2


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ("learning_rate: {low: 1e-4, high: 1e-2, log: true}", "Float", [1e-4, 1e-2]),
        ("gradient_accumulation_steps: {low: 1, high: 8}", "Int", [1, 8]),
        ("label_smoothing_factor: {low: 0, high: 0.5}", "Float", [0.0, 0.5]),
        ("weight_decay: {low: 0, high: 1}", "Float", [0.0, 1.0]),
        ("lr_scheduler_type: [linear, cosine]", "Categorical", ["linear", "cosine"]),
        ("new_model.num_layers: {low: 1, high: 4}", "Int", [1, 4]),
    ],
)
def test_a_space_is_read(values, kind, expected):
    (distribution,) = read_space(f"{{{values}}}").values()
    assert type(distribution).__name__ == f"{kind}Distribution"
    assert ends(distribution) == expected


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("{}", "space is empty; it must be a mapping, for example"),
        ("[1]", "space is '\\[1\\]'; it must be a mapping, for example"),
        ("{learnin_rate: [1]}", "which is no setting. Did you mean 'learning_rate'"),
        ("{data: [a, b]}", "space has 'data', which must be the same in all trials"),
        ("{output_dir: [a]}", "'output_dir', which must be the same"),
        ("{dpo_beta: [0.1, 1]}", "'dpo_beta', which must be the same"),
        ("{columns.text: [a]}", "'columns.text', which must be the same"),
        ("{new_model.vocab_size: [64]}", "'new_model.vocab_size', which must be the same"),
        ("{learning_rate: []}", r"space has \[\] for learning_rate; list the values to try"),
        ("{learning_rate: [[1]]}", "list the values to try"),
        ("{learning_rate: 1}", "space has 1 for learning_rate; it must be a list of values, or a"),
        ("{learning_rate: {low: 1}}", "it must be a list of values, or a range"),
        ("{learning_rate: {low: 2, high: 1}}", "low 2 and high 1 for learning_rate; low must be"),
        ("{learning_rate: {low: .nan, high: 1}}", "the numbers in it must be finite"),
        ("{learning_rate: {low: a, high: 1}}", "'a' for learning_rate; low and high are numbers"),
        ("{learning_rate: {low: 0, high: 1, log: true}}", "with log low must be above 0"),
        ("{learning_rate: {low: -1, high: 1}}", "learning_rate is -1.0; it must be at least 0"),
        ("{gradient_accumulation_steps: [1, 1.5]}", "is '1.5'; it must be a whole number"),
    ],
)  # fmt: skip
def test_a_space_that_cannot_be_searched_is_refused(make, tmp_path, space, message):
    with pytest.raises(UsageError, match=message):
        make(space=space)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--space null", "space is empty; it must be a mapping"),
        ("--trials 0", "trials is 0; it must be at least 1"),
        ("--seeds 1,2", "seeds does not go with search: try best.yaml under several seeds"),
        ("--push_to_hub true", "push_to_hub does not go with search: publish the run that best"),
        ("--dry_run true", "dry_run does not go with search: take a look by the verb train"),
        ("--do_train false", "do_train false does not go with search: a trial has to train"),
        ("--do_eval false", "do_eval false does not go with search: the validation pairs tell"),
    ],
)
def test_settings_that_do_not_go_with_a_search_are_refused(make, flags, message):
    with pytest.raises(UsageError, match=message):
        make(*flags.split())


def test_a_space_is_not_for_training():
    with pytest.raises(UsageError, match=r"space is for the verb search: .* or --space null"):
        train.main(["--model_name_or_path", "m", "--space", FEW])


def test_the_random_state_of_the_caller_does_not_matter():
    settings, space = parse(["--model_name_or_path", "m"]), read_space(FEW)
    asked = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        asked.append(ask(settings, space, []))
    assert (
        asked[0] == asked[1] != ask(parse(["--model_name_or_path", "m", "--seed", "7"]), space, [])
    )
