"""A training that ends before its time: at a signal, and where it has diverged."""

import copy
import json
import signal

import pytest
import torch
from helpers.runs import command, start, start_two
from helpers.trainers import make_trainer
from transformers import TrainerCallback, set_seed

from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.run_folder import read_json
from seq2seq_dialog.training import stopping
from seq2seq_dialog.training.checkpoints import checkpoints, last_checkpoint


class Raise(TrainerCallback):
    """Sends this process a signal while a step goes on."""

    def __init__(self, number, step):
        self.number, self.step = number, step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            signal.raise_signal(self.number)


def train(model, tokenizer, features, folder, *callbacks, resume=None, **settings):
    set_seed(42)
    defaults = {"max_steps": 9, "save_strategy": "no", "logging_steps": 3}
    trainer = make_trainer(
        copy.deepcopy(model), tokenizer, features, folder, **(defaults | settings)
    )
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=resume and str(resume))
    return trainer


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_signal_ends_the_training_after_the_step_with_a_checkpoint(
    model, tokenizer, features, tmp_path, number, capfd
):
    handlers = [signal.getsignal(each) for each in stopping.SIGNALS]
    whole = train(model, tokenizer, features, tmp_path / "whole")
    assert not whole.stop.stopped
    stopped = train(model, tokenizer, features, tmp_path / "run", Raise(number, step=4))
    assert "Stopping after this step, with a checkpoint" in capfd.readouterr().err
    assert stopped.stop.stopped and stopped.stop.received == number
    assert stopped.state.global_step == 5
    checkpoint = last_checkpoint(tmp_path / "run")
    assert checkpoint.name == "checkpoint-5"
    assert [signal.getsignal(each) for each in stopping.SIGNALS] == handlers
    resumed = train(model, tokenizer, features, tmp_path / "run", resume=checkpoint)
    assert resumed.state.global_step == 9
    for name, tensor in whole.model.state_dict().items():
        assert resumed.model.state_dict()[name].equal(tensor), name


def test_a_signal_within_an_epoch_or_at_its_end_leaves_the_rest_to_do(
    model, tokenizer, features, tmp_path
):
    settings = {"max_steps": -1, "num_train_epochs": 2, "load_best_model_at_end": True}
    settings |= {"eval_strategy": "epoch", "save_strategy": "epoch", "logging_strategy": "epoch"}
    features = features.select(range(len(features) // 3))
    whole = train(model, tokenizer, features, tmp_path / "whole", **settings)
    epoch = whole.state.max_steps // 2
    assert epoch > 1
    for step in (1, epoch):
        folder = tmp_path / f"run{step}"
        train(model, tokenizer, features, folder, Raise(signal.SIGINT, step - 1), **settings)
        checkpoint = last_checkpoint(folder)
        assert checkpoint.name == f"checkpoint-{step}"
        resumed = train(model, tokenizer, features, folder, resume=checkpoint, **settings)
        histories = (
            [(row["step"], row.get("eval_loss")) for row in each.state.log_history]
            for each in (whole, resumed)
        )
        assert len({*map(tuple, histories)}) == 1
        for name, tensor in whole.model.state_dict().items():
            assert resumed.model.state_dict()[name].equal(tensor), (step, name)


@pytest.mark.parametrize("kept_at_end", ["best", "last"])
def test_the_checkpoint_of_a_stop_stays_beside_a_better_one_under_a_limit_of_one(
    model, tokenizer, features, tmp_path, kept_at_end
):
    """The rate is so high that the first evaluation stays the best."""
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "learning_rate": 3.0}
    settings |= {"eval_steps": 2, "save_steps": 2, "save_total_limit": 1}
    settings |= {"load_best_model_at_end": kept_at_end == "best"}
    stopped = train(model, tokenizer, features, tmp_path, Raise(signal.SIGTERM, step=6), **settings)
    assert stopped.stop.stopped and stopped.state.global_step == 7
    assert last_checkpoint(tmp_path).name == "checkpoint-7"


def test_a_second_signal_kills_but_not_one_that_a_launcher_passes_on(monkeypatch):
    now, killed = [10.0], []
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(stopping.signal, "raise_signal", killed.append)
    with stopping.StopAtSignal() as stop:
        stop._receive(signal.SIGTERM, None)
        now[0] += 0.5
        stop._receive(signal.SIGTERM, None)
        assert not killed
        now[0] += 5
        stop._receive(signal.SIGTERM, None)
        assert killed == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.slow
def test_a_stopped_run_says_how_to_go_on(run, config, tmp_path):
    folder, flags = tmp_path / "run", ["--logging_steps", "1", "--do_predict", "false"]
    process = start(*command(config, folder, *flags))
    while not checkpoints(folder):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    done = process.result()
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    step = int(last_checkpoint(folder).name.removeprefix("checkpoint-"))
    assert f"Stopped. A checkpoint holds step {step}: the same command goes on" in done.stderr
    assert not (folder / "metrics.json").exists()
    assert f"checkpoint-{step}" in run(config, folder, *flags).stdout


@pytest.mark.slow
def test_processes_end_together_where_one_gets_the_signal(config, tmp_path):
    folder = tmp_path / "run"
    processes = start_two(*command(config, folder, "--max_steps", "4000", "--eval_strategy", "no"))
    while not checkpoints(folder):
        assert all(process.poll() is None for process in processes)
    processes[1].send_signal(signal.SIGINT)
    done = [process.result() for process in processes]
    assert {each.returncode for each in done} == {128 + signal.SIGINT, 128 + signal.SIGTERM}
    state = read_json(last_checkpoint(folder) / "trainer_state.json")
    assert state["global_step"] < 4000


class Break(TrainerCallback):
    """Lets a weight become infinite behind step 5."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 5:
            model.get_input_embeddings().weight.data[3, 2] = torch.inf


def test_a_loss_that_is_no_number_ends_the_run(model, tokenizer, features, tmp_path):
    with pytest.raises(UsageError, match=r"The loss is nan at step 6: .*learning_rate \(0.002\)"):
        train(model, tokenizer, features, tmp_path, Break(), learning_rate=2e-3, logging_steps=2)
    assert not checkpoints(tmp_path)


def test_the_last_good_checkpoint_is_kept_and_no_broken_one_written(
    model, tokenizer, features, tmp_path
):
    settings = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    broken = r"A weight or the loss is nan or infinite at step 5: .*checkpoint-4"
    with pytest.raises(UsageError, match=broken):
        train(model, tokenizer, features, tmp_path, Break(), logging_steps=9, **settings)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["checkpoint-4"]


def test_a_validation_loss_that_is_no_number_ends_the_run(
    model, tokenizer, features, tmp_path, monkeypatch
):
    trainer = make_trainer(model, tokenizer, features, tmp_path, fp16=False, max_grad_norm=0)
    with pytest.raises(UsageError, match=r"validation loss is inf at step 0.*max_grad_norm is 0"):
        trainer.log({"eval_loss": float("inf")})


def test_no_log_holds_a_gradient_norm_that_is_no_number(model, tokenizer, features, tmp_path):
    trainer = make_trainer(model, tokenizer, features, tmp_path)
    trainer._since_log[:] = 1
    trainer.log({"loss": 2.0, "grad_norm": float("nan")})
    assert json.loads(json.dumps(trainer.state.log_history, allow_nan=False))[0]["loss"] == 2
    assert "grad_norm" not in trainer.state.log_history[0]
