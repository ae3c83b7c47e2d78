"""Checkpoints with a manifest: what counts, what is passed over, what is removed."""

import copy
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.trainers import make_trainer
from transformers import set_seed
from transformers.trainer_callback import TrainerState

from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.run_folder import read_json
from seq2seq_dialog.train import save_decoding
from seq2seq_dialog.train_arguments import parse
from seq2seq_dialog.training.checkpoints import (
    MANIFEST,
    RESULTS,
    best_checkpoint,
    flaw,
    flaws,
    last_checkpoint,
    remove_old,
    seal,
    seal_run,
)
from seq2seq_dialog.training.resume import find_checkpoint


def make(run_dir, *steps, sealed=True):
    """Make small checkpoints; return the folder of the last."""
    for step in steps:
        folder = run_dir / f"checkpoint-{step}"
        (folder / "shards").mkdir(parents=True)
        for name in ("model.safetensors", "rng_state.pth", "shards/0.distcp"):
            (folder / name).write_bytes(f"{name} of {step}".encode() * 10)
        if sealed:
            seal(folder)
    return folder


def names(run_dir):
    return sorted(path.name for path in run_dir.glob("checkpoint-*"))


DAMAGES = {
    "removed": (lambda path: path.unlink(), "is missing"),
    "emptied": (lambda path: path.write_bytes(b""), "has 0 bytes instead of"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:20]), "has 20 bytes instead of"),
    "flipped": (
        lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
        "was changed",
    ),
}


@pytest.mark.parametrize("name", ["model.safetensors", "rng_state.pth", "shards/0.distcp"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_any_damage_of_any_file_is_named_and_passed_over(tmp_path, name, kind, caplog):
    make(tmp_path, 9)
    newest = make(tmp_path, 10)
    assert last_checkpoint(tmp_path) == newest and flaw(newest) is None
    damage, words = DAMAGES[kind]
    damage(newest / name)
    assert next(flaws(newest))[0] == name
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-9"
    assert f"{newest} is passed over: {name} {words}" in caplog.text
    assert best_checkpoint(tmp_path, 10) is None and best_checkpoint(tmp_path, 9) is not None
    damage(tmp_path / "checkpoint-9" / name)
    assert last_checkpoint(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model.safetensors": 3}'])
def test_a_damaged_manifest_counts_for_nothing(tmp_path, text, caplog):
    (make(tmp_path, 5, 10) / MANIFEST).write_text(text)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-5"
    assert "checkpoint-10 is passed over: manifest.json is damaged" in caplog.text


def test_what_has_no_manifest_does_not_count(tmp_path, caplog):
    assert last_checkpoint(tmp_path / "nowhere") is None
    make(tmp_path, 5, 9)
    make(tmp_path, 20, sealed=False)
    (tmp_path / "checkpoint-old").mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-9"
    assert "checkpoint-20 is passed over: manifest.json is missing, so it was not" in caplog.text
    assert last_checkpoint(tmp_path, before=9) == tmp_path / "checkpoint-5"


@pytest.mark.parametrize(
    ("limit", "best", "passed", "kept"),
    [
        (None, None, 0, {9, 10, 11, 100}),
        (1, None, 0, {100}),
        (1, 9, 0, {9, 100}),  # the best is kept besides
        (2, None, 0, {11, 100}),
        (2, 10, 0, {10, 100}),
        (3, 100, 0, {10, 11, 100}),
        (1, None, 10, {10, 100}),  # so is the newest that an evaluation has passed
        (2, 9, 99, {9, 11, 100}),
        (3, 7, 0, {10, 11, 100}),  # a best one that is no longer there
    ],
)
def test_the_newest_and_the_best_are_kept_and_what_is_half_written_goes(
    tmp_path, limit, best, passed, kept
):
    make(tmp_path, 9, 10, 11, 100)
    make(tmp_path, 12, sealed=False)
    state = TrainerState(global_step=100, best_global_step=best)
    remove_old(tmp_path, limit, state, passed)
    assert names(tmp_path) == sorted(f"checkpoint-{step}" for step in kept)


def test_a_new_checkpoint_is_kept_where_damaged_ones_are_of_later_steps(tmp_path):
    """The training began anew, or from an earlier one, because they are damaged."""
    for step in (20, 30):
        (make(tmp_path, step) / "model.safetensors").write_bytes(b"")
    make(tmp_path, 10)
    remove_old(tmp_path, 1, TrainerState(global_step=10))
    assert names(tmp_path) == ["checkpoint-10"]


def test_the_manifest_of_a_run_leaves_out_settings_and_asks_for_what_is_needed(tmp_path):
    rewritten = ("config.yaml", "environment.json", "data.html", "report.html", "votes.jsonl")
    for name in ("model.safetensors", *rewritten, ".lock"):
        (tmp_path / name).write_text(name)
    seal_run(tmp_path)
    assert list(json.loads((tmp_path / MANIFEST).read_text())) == ["model.safetensors"]
    assert flaw(tmp_path) is None
    wrong = flaw(tmp_path, needed=["metrics.json"])
    assert wrong == "metrics.json was not written to its end"
    assert flaw(tmp_path, needed=["metrics.json"], ignored=["metrics.json"]) is None


def test_how_a_model_decodes_is_saved_and_its_weights_are_not_touched(saved, model, monkeypatch):
    for name in ("trainer_state.json", "predictions.jsonl"):
        (saved / name).write_text("{}")
    seal_run(saved)
    (saved / "predictions.jsonl").write_text("damaged")
    before, wrong, replace = (saved / "model.safetensors").stat().st_mtime_ns, [], Path.replace

    def replace_and_look(self, target):  # a stop may come after each file
        replace(self, target)
        wrong.append(flaw(saved, ignored=RESULTS))

    monkeypatch.setattr(Path, "replace", replace_and_look)
    model.generation_config.num_beams = 3
    args = SimpleNamespace(should_save=True)
    trainer = SimpleNamespace(model=model, args=args, merge_adapter=lambda: None)
    save_decoding(trainer, saved)
    assert len(wrong) == 5 and set(wrong) == {None}
    assert flaw(saved) is None and "predictions.jsonl" not in read_json(saved / MANIFEST)
    assert (saved / "model.safetensors").stat().st_mtime_ns == before
    assert read_json(saved / "generation_config.json")["num_beams"] == 3
    in_config = read_json(saved / "config.json")["task_specific_params"]["text2text-generation"]
    assert in_config["num_beams"] == 3


def test_a_trained_model_is_not_replaced_where_nothing_is_left_to_go_on_from(tmp_path):
    (tmp_path / "model.safetensors").write_text("weights")
    state = TrainerState(global_step=4, max_steps=4, num_train_epochs=1)
    state.save_to_json(str(tmp_path / "trainer_state.json"))
    seal_run(tmp_path)
    settings = parse(
        ["--data=samples", "--model_name_or_path=m", f"--output_dir={tmp_path}", "--max_steps=8"]
    )
    with pytest.raises(UsageError, match=r"trained model, which is to take more steps, and no who"):
        find_checkpoint(settings, {})
    (tmp_path / "model.safetensors").write_text("weight?")
    with pytest.raises(UsageError, match=r"of which model.safetensors was changed.*--output_dir"):
        find_checkpoint(settings, {})
    (tmp_path / MANIFEST).unlink()  # as a kill leaves it while the model is written
    assert find_checkpoint(settings, {}) == (settings, None)


def train(model, tokenizer, features, folder, resume=None, **settings):
    set_seed(42)
    defaults = {
        "max_steps": 12,
        "save_strategy": "steps",
        "save_steps": 4,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "save_total_limit": 2,
    }
    trainer = make_trainer(
        copy.deepcopy(model), tokenizer, features, folder, **(defaults | settings)
    )
    trainer.train(resume_from_checkpoint=resume and str(resume))
    return trainer


def test_a_checkpoint_is_sealed_before_an_older_one_goes(
    model, tokenizer, features, tmp_path, monkeypatch
):
    """A kill between the two must leave one that is whole."""
    seen = []

    def spy(run_dir, *args):
        seen.append([flaw(folder) for folder in sorted(run_dir.glob("checkpoint-*"))])
        remove_old(run_dir, *args)

    monkeypatch.setattr("seq2seq_dialog.training.trainer.remove_old", spy)
    train(model, tokenizer, features, tmp_path, save_total_limit=1, load_best_model_at_end=False)
    assert seen == [[None], [None, None], [None, None]]
    assert len(names(tmp_path)) == 1


def test_the_best_checkpoint_is_found_where_a_moved_run_has_it(
    model, tokenizer, features, tmp_path
):
    """The best model is that of the first evaluation: from then on the rate is far too high."""
    old, new = tmp_path / "old", tmp_path / "new"
    high = {"learning_rate": 3.0, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 9}
    whole = train(model, tokenizer, features, old, **high)
    best = whole.state.best_global_step
    assert best < 12
    shutil.copytree(old, new)
    shutil.rmtree(old)
    shutil.rmtree(new / "checkpoint-12", ignore_errors=True)
    checkpoint = last_checkpoint(new)
    resumed = train(model, tokenizer, features, new, resume=checkpoint, **high)
    assert resumed.state.best_global_step == best
    for name, tensor in whole.model.state_dict().items():
        assert resumed.model.state_dict()[name].equal(tensor), name


def test_a_damaged_best_checkpoint_is_told_and_the_last_model_kept(
    model, tokenizer, features, tmp_path, caplog, monkeypatch
):
    whole = train(model, tokenizer, features, tmp_path / "whole", load_best_model_at_end=False)
    original = type(whole).evaluate

    def best_is_first(self, *args, **kwargs):
        metrics = original(self, *args, **kwargs)
        metrics["eval_loss"] = 0.001 * self.state.global_step
        return metrics

    def damage(run_dir, limit, state, passed):
        (run_dir / f"checkpoint-{state.best_global_step}" / "model.safetensors").write_bytes(b"")

    monkeypatch.setattr(type(whole), "evaluate", best_is_first)
    monkeypatch.setattr("seq2seq_dialog.training.trainer.remove_old", damage)
    trainer = train(model, tokenizer, features, tmp_path / "run")
    assert "checkpoint-4, the best so far, is passed over: model.safetensors has 0" in caplog.text
    assert trainer.state.best_global_step == 12
    for name, tensor in whole.model.state_dict().items():
        assert trainer.model.state_dict()[name].equal(tensor), name


def test_train_loss_is_that_of_the_whole_run(model, tokenizer, features, tmp_path):
    whole = train(model, tokenizer, features, tmp_path / "a", logging_steps=4)
    checkpoint = tmp_path / "a" / "checkpoint-8"
    resumed = train(model, tokenizer, features, tmp_path / "b", resume=checkpoint, logging_steps=4)
    first, second = (t.state.log_history[-1]["train_loss"] for t in (whole, resumed))
    assert first == second
    logs = [log["loss"] for log in whole.state.log_history if "loss" in log]
    assert len(logs) == 3 and first == pytest.approx(sum(logs) / 3)
