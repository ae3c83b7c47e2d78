"""The command, as a person runs it: from a text file to a finished run folder."""

import re
import shutil
import signal
import time
from types import SimpleNamespace

import pytest
from helpers import warm
from helpers.corpus import ROOT, SAMPLES
from helpers.runs import command, equal, start, weights
from transformers import TrainerState

from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.run_folder import (
    check_folder_of_runs,
    read_json,
    read_jsonl,
    write_json,
    write_yaml,
)
from seq2seq_dialog.strict_yaml import read_yaml
from seq2seq_dialog.train import learns_from_train
from seq2seq_dialog.training.checkpoints import last_checkpoint, seal
from seq2seq_dialog.training.resume import check_run_folder


@pytest.fixture(scope="module")
def finished(run, config, tmp_path_factory):
    """A run from the command line: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    return folder, run(config, folder).stdout


def test_the_run_folder_is_complete(finished):
    folder, _ = finished
    files = {path.name for path in folder.iterdir()}
    assert files >= {
        "config.json", "config.5.0.0.json", "config.yaml", "context.py", "curves.png",
        "environment.json", "generation_config.json", "metrics.json", "model.safetensors",
        "pipeline.py", "predictions.jsonl", "tokenizer.json", "trainer_state.json",
        "evaluation.json", "report.html", "selfchat.jsonl",
    }  # fmt: skip
    assert not [name for name in files if name.endswith(".part")]
    for name in ("config.json", "config.5.0.0.json"):  # Trainer switches it off to train
        assert "use_cache" not in read_json(folder / name)
    environment = read_json(folder / "environment.json")
    assert environment["versions"]["torch"] and environment["processes"] == 1
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", environment["git_revision"] or "0" * 40)
    saved = read_yaml(folder / "config.yaml")
    assert saved["seed"] == 42 and saved["new_model"]["d_model"] == 32
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_metrics_and_predictions_are_kept(finished):
    folder, _ = finished
    metrics = read_json(folder / "metrics.json")
    predictions = read_jsonl(folder / "predictions.jsonl")
    assert metrics["data"]["pairs"]["test"] == len(predictions)
    (problems,) = metrics["data"]["problems"].values()
    assert problems["bom"]["count"] == 1 and problems["blank_line"]["first_lines"] == [61]
    assert set(predictions[0]) == {
        "dialogue_id", "turn", "context", "reference", "reply", "nll",
        "exchanged_nll", "tokens", "bytes", "clean",
    }  # fmt: skip
    tokens = sum(prediction["tokens"] for prediction in predictions)
    assert tokens == metrics["test"]["target_tokens"]
    assert set(metrics["test"]) >= {"perplexity", "unigram_perplexity", "bleu", "bleu_signature"}
    assert metrics["validation"]["loss"] > 0
    assert "steps_per_second" not in (metrics["test"].keys() | metrics["validation"].keys())


def test_the_evaluation_has_both_columns_and_the_baselines(finished):
    folder, out = finished
    found = read_json(folder / "evaluation.json")
    rows = {(r["system"], r["protocol"], r["subset"]): r for r in found["results"]}
    assert len(rows) == 4 * 2 * 2
    test = read_json(folder / "metrics.json")["test"]
    full = rows["model", "default", "full"]
    assert full["metrics"]["bleu"] == test["bleu"]
    assert full["metrics"]["perplexity"] == pytest.approx(test["perplexity"])
    predictions = read_jsonl(folder / "predictions.jsonl")
    clean = sum(row["clean"] for row in predictions)
    assert rows["model", "default", "clean"]["pairs"] == clean == found["overlap"]["clean_pairs"]
    assert "nearest training" in out
    assert found["verdict"][0] in (folder / "report.html").read_text(encoding="utf-8")


def test_the_model_has_talked_with_itself_for_the_report(finished):
    folder, _ = finished
    talks = read_jsonl(folder / "selfchat.jsonl")
    said = [[message["content"] for message in row["messages"]] for row in talks]
    predictions = read_jsonl(folder / "predictions.jsonl")
    first = {row["context"][0] for row in predictions if row["turn"] == 1}
    assert len({turns[0] for turns in said} & first) == len(said) == 3
    assert all(1 <= len(turns) <= 6 for turns in said) and any(len(turns) > 1 for turns in said)
    assert (folder / "report.html").read_text(encoding="utf-8").count('class="dialogue"') == 3


def test_overlap_is_told_and_dropped(run, config, tmp_path):
    lines = config.with_name("dialogues.txt").read_text(encoding="utf-8-sig").splitlines()[:60]
    for name, part in (("train", lines), ("validation", lines[:10]), ("test", lines[5:15])):
        (tmp_path / "data" / name).mkdir(parents=True)
        path = tmp_path / "data" / name / f"dialogues_{name}.txt"
        path.write_text("\n".join(part) + "\n", encoding="utf-8")
    flags = ["--data", str(tmp_path / "data"), "--max_steps", "2", "--eval_strategy", "no"]
    flags += ["--do_predict", "false"]
    out = run(config, tmp_path / "all", *flags).stdout
    assert "100.0 % of the test pairs" in out
    out = run(config, tmp_path / "dropped", *flags, "--drop_overlap", "true").stdout
    pairs = [read_json(tmp_path / d / "metrics.json")["data"]["pairs"] for d in ("all", "dropped")]
    assert pairs[1]["train"] < pairs[0]["train"] and pairs[1]["test"] == pairs[0]["test"]


def test_it_prints_samples_figures_and_what_to_do_next(finished):
    folder, printed = finished
    for text in ("Samples from the test set", "unigram model", "sacreBLEU", "ROUGE-L"):
        assert text in printed
    python = re.findall(rf"  (\S+) -m seq2seq_dialog chat {folder}", printed)
    assert python and (python[0] == "python" or (ROOT / python[0]).exists())
    assert 'pipeline("text2text-generation"' in printed


def test_the_printed_pipeline_call_works(finished):
    _folder, printed = finished
    (call,) = re.findall(r" -c '(.*)'", printed)
    done = warm.run("-c", call, modules=warm.TRANSFORMERS)
    assert done.returncode == 0, done.stderr
    assert "generated_text" in done.stdout


def test_the_same_command_again_shows_the_run_and_trains_nothing(finished, run, config):
    folder, _printed = finished
    before = (folder / "model.safetensors").stat().st_mtime_ns
    again = run(config, folder, "--logging_steps", "7").stdout
    assert "holds this run, complete" in again and "sacreBLEU" in again
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_complete_run_is_not_overwritten_by_another(finished, run, config):
    folder, _ = finished
    error = run(config, folder, "--learning_rate", "0.1", status=2).stderr
    assert "complete run with other settings (learning_rate: 0.005 -> 0.1)" in error
    assert "Traceback" not in error


def test_a_run_of_an_older_version_is_taken_as_it_is_or_refused(tmp_path):
    write_json(tmp_path / "metrics.json", {})
    write_yaml(tmp_path / "config.yaml", {"seed": 42, "report_to": "none"})
    assert check_run_folder(tmp_path, {"seed": 42})
    write_yaml(tmp_path / "config.yaml", {"seed": 42, "dropped_setting": 1})
    with pytest.raises(UsageError, match=r"other settings \(dropped_setting: 1 -> None\)"):
        check_run_folder(tmp_path, {"seed": 42})


@pytest.mark.parametrize("name", ["config.yaml.part", "data.html.part", "tokenizer~"])
def test_what_a_kill_leaves_before_there_is_a_run_is_no_obstacle(tmp_path, name):
    (tmp_path / name).touch()
    assert not check_run_folder(tmp_path, {"seed": 42})
    check_folder_of_runs(tmp_path, "config.yaml")


def test_a_foreign_folder_is_not_written_into(run, config, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    error = run(config, tmp_path, status=2).stderr
    assert "holds other files; choose a new --output_dir" in error
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_trained_model_is_evaluated_anew_with_other_decoding(finished, run, config, tmp_path):
    folder, _ = finished
    flags = ["--do_train", "false", "--model_name_or_path", str(folder), "--num_beams", "3"]
    run(config, tmp_path / "beams", *flags)
    first, second = (read_json(f / "metrics.json") for f in (folder, tmp_path / "beams"))
    for name in ("loss", "perplexity", "target_tokens"):
        assert second["test"][name] == pytest.approx(first["test"][name], rel=1e-6)
    assert equal(weights(folder), weights(tmp_path / "beams"))
    assert read_json(tmp_path / "beams" / "environment.json")["learnt_from_train"]


@pytest.mark.parametrize(
    ("do_train", "before", "learns"),
    [
        (True, None, True),
        (False, None, False),
        (False, {"training_data": "abc"}, True),
        (False, {"training_data": "other"}, False),
        (False, {"training_data": "abc", "learnt_from_train": False}, False),
    ],
)
def test_what_a_model_has_learnt_from_is_known(tmp_path, do_train, before, learns):
    if before:
        write_json(tmp_path / "environment.json", before)
    settings = SimpleNamespace(
        training=SimpleNamespace(do_train=do_train),
        model=SimpleNamespace(model_name_or_path=str(tmp_path)),
    )
    assert learns_from_train(settings, "abc") is learns


@pytest.mark.slow
def test_killed_and_started_again_ends_with_the_same_weights(finished, run, config, tmp_path):
    folder, _ = finished
    killed = tmp_path / "killed"
    process = start(*command(config, killed))
    deadline = time.monotonic() + 120
    while last_checkpoint(killed) is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert last_checkpoint(killed) is not None
    assert not (killed / "metrics.json").exists(), "it was too quick to be killed"
    assert "Going on from" in run(config, killed).stdout
    assert equal(weights(folder), weights(killed))
    one, other = (read_json(f / "metrics.json") for f in (folder, killed))
    for split in ("validation", "test"):
        for figures in (one[split], other[split]):
            del figures["runtime"], figures["samples_per_second"]
        assert one[split] == other[split]


@pytest.mark.slow
def test_an_unfinished_run_is_not_continued_under_other_settings(run, config, tmp_path):
    folder, flags = tmp_path / "unfinished", ["--do_predict", "false", "--max_steps", "10"]
    run(config, folder, *flags)
    (folder / "metrics.json").unlink()  # as if it had been killed after training
    error = run(config, folder, *flags, "--seed", "7", status=2).stderr
    assert "unfinished run with other settings (seed: 42 -> 7)" in error
    run(config, folder, *flags, "--num_beams", "2")  # decoding may change


def test_a_dry_run_only_looks(run, config, tmp_path):
    flags = ["--do_predict", "false"]
    done = run(config, tmp_path / "run", *flags, "--dry_run", "true")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["data.html"]
    page = (tmp_path / "run" / "data.html").read_text(encoding="utf-8")
    steps = re.search(r"([\d,]+) steps at [\d,]+ tokens a second", done.stdout)[1]
    languages = re.search(r"Languages, guessed from \d+ dialogues: en 100\.0 %", done.stdout)[0]
    for said in ("Tokens of reply: median", "d_model: 32", "</s>", f"{steps} steps", languages):
        assert said.replace("<", "&lt;").replace(">", "&gt;") in page
    for said in ("Example 3, the model has to say", "Letters of the replies: Latin 100.0 %"):
        assert said in done.stdout
    run(config, tmp_path / "run", *flags)  # the folder is free, and the steps are as told
    done = run(config, tmp_path / "run", *flags, "--dry_run", "true", "--language", "de")
    page = (tmp_path / "run" / "data.html").read_text(encoding="utf-8")
    doubt = "most dialogues seem to be in the language en, but language is de"
    assert doubt in page and doubt in " ".join(done.stdout.split())
    assert (tmp_path / "run" / "tokenizer").is_dir()
    assert read_json(tmp_path / "run" / "metrics.json")["train"]["steps"] == int(steps)
    assert "dry_run" not in read_yaml(tmp_path / "run" / "config.yaml")


@pytest.mark.slow
def test_two_processes_give_the_metrics_of_one(finished, run, config, tmp_path):
    folder, _ = finished
    flags = ["--do_train", "false", "--model_name_or_path", str(folder)]
    flags += ["--eval_tokens_per_batch", "512", "--do_sample", "true"]
    run(config, tmp_path / "two", *flags, processes=2)
    run(config, tmp_path / "one", *flags)
    one, two = (read_json(tmp_path / n / "metrics.json") for n in ("one", "two"))
    assert read_json(tmp_path / "two" / "environment.json")["processes"] == 2
    for split in ("validation", "test"):
        for figures in (one[split], two[split]):
            del figures["runtime"], figures["samples_per_second"]
        assert one[split] == two[split]
    lines = [(tmp_path / n / "predictions.jsonl").read_text() for n in ("one", "two")]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_two_processes_train_like_one_that_accumulates(run, config, tmp_path):
    text = config.read_text().replace("d_ff: 64", "d_ff: 64, dropout_rate: 0.0")
    plain = tmp_path / "config.yaml"
    plain.write_text(text)
    flags = ["--max_steps", "12", "--eval_strategy", "no", "--save_strategy", "no"]
    flags += ["--optim", "sgd", "--learning_rate", "0.5", "--do_predict", "false"]
    flags += ["--tokens_per_batch", "1152"]  # an even number of batches: none has to be halved
    run(plain, tmp_path / "two", *flags, processes=2)
    run(plain, tmp_path / "one", *flags, "--gradient_accumulation_steps", "2")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, tensor in one.items():
        assert tensor.allclose(two[name], atol=1e-5), name


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"Hello there.\nHow are you?\n",
            "none of the forms that are read: dialogue text (__eou__ after each",
        ),
        (b"", "empty"),
        (
            b"Hi __eou__ Hello __eou__\nHi \xff __eou__ Oh __eou__\n",
            "line 2: byte 0xff is not UTF-8",
        ),
        (None, "does not exist. Give a file, folder or zip"),
    ],
)
def test_bad_data_ends_with_status_2_and_one_line(run, config, tmp_path, data, message):
    path = tmp_path / "dialogues.txt"
    if data is not None:
        path.write_bytes(data)
    error = run(config, tmp_path / "run", "--data", str(path), status=2).stderr
    assert message in error and "dialogues.txt" in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


RNN = '{"model_type": "rnn_seq2seq", "embedding_size": 16, "hidden_size": 32}'
ADVERSARIAL = [
    *("--adversarial", "true"),
    *("--discriminator", '{"embedding_size": 8, "hidden_size": 8}'),
    *("--discriminator_warmup_steps", "3", "--max_steps", "12", "--eval_steps", "4"),
    *("--save_steps", "4", "--load_best_model_at_end", "false"),
]


def test_a_recurrent_model_and_then_adversarial_training(run, config, tmp_path):
    generator, folder = tmp_path / "rnn", tmp_path / "adversarial"
    flags = ["--new_model", RNN, "--max_steps", "10", "--do_predict", "false"]
    out = run(config, generator, *flags).stdout
    assert "RnnSeq2SeqForConditionalGeneration" in out
    assert (generator / "modeling_rnn.py").exists()
    rest = config.with_name("adversarial.yaml")
    rest.write_text("".join(x for x in config.open() if not x.startswith(("new_model", "vocab"))))
    flags = [*ADVERSARIAL, "--model_name_or_path", str(generator)]
    out = run(rest, folder, *flags)
    assert "adversarial success" in out.stdout + out.stderr
    history = read_json(folder / "trainer_state.json")["log_history"]
    evaluations = [log for log in history if "eval_adversarial_success" in log]
    assert [log["step"] for log in evaluations] == [0, 4, 8, 12]
    assert {"reward", "discriminator_accuracy", "human_loss"} <= history[2].keys()
    metrics = read_json(folder / "metrics.json")
    assert metrics["train"]["collapse"] is None and metrics["test"]["perplexity"] > 1
    assert not equal(weights(generator), weights(folder))
    saved = read_yaml(folder / "config.yaml")
    assert saved["discriminator"] == {"embedding_size": 8, "hidden_size": 8}
    assert "reward" not in read_yaml(generator / "config.yaml")
    assert "complete" in run(rest, folder, *flags).stdout
    assert (folder / "curves.png").stat().st_size > (generator / "curves.png").stat().st_size


def test_training_without_validation_keeps_the_last_model(run, config, tmp_path):
    (tmp_path / "data" / "train").mkdir(parents=True)
    lines = SAMPLES.read_text(encoding="utf-8").split("\n")[:30]
    (tmp_path / "data" / "train" / "dialogues_train.txt").write_text("\n".join(lines) + "\n")
    flags = ["--data", str(tmp_path / "data"), "--max_steps", "3", "--report_to", "tensorboard"]
    stale = tmp_path / "run" / "tokenizer" / "spiece.model"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"left by a run that never came to a checkpoint")
    printed = run(config, tmp_path / "run", *flags).stdout
    assert "No validation pairs" in printed
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))  # TensorBoard's
    more = ["--multireference", "references.json"]
    refused = run(config, tmp_path / "other", *flags, *more, status=2).stderr
    assert "multireference needs a test split" in refused


LONGER = {"lr_scheduler_type": "constant", "warmup_steps": 0.05, "num_train_epochs": 2.0}
LONGER |= {"max_steps": -1, "seed": 42}
STEPS = {"max_steps": 8}
WARM = {"lr_scheduler_type": "constant_with_warmup"}
LINEAR = {"lr_scheduler_type": "linear"}


@pytest.mark.parametrize(
    ("before", "now", "steps", "refused"),
    [
        ({}, {"num_train_epochs": 3.0}, 8, None),
        (STEPS, {"max_steps": 12}, 8, None),
        ({}, {"max_steps": 12}, 8, None),
        (WARM | {"warmup_steps": 3}, {"max_steps": 12}, 8, None),
        (STEPS | LINEAR, {"max_steps": 12}, 8, "its learning rate went by"),
        (LINEAR, {"num_train_epochs": 3.0}, 8, "its learning rate went by"),
        (WARM, {"num_train_epochs": 3.0}, 8, "its learning rate went by"),
        ({}, {"num_train_epochs": 1.0}, 8, "its training had them all"),
        (STEPS, {"max_steps": 6}, 8, "its training had them all"),
        ({}, {"num_train_epochs": 3.0}, 5, "its training ended early, at step 5"),
        ({}, {"num_train_epochs": 3.0}, None, "none of its checkpoints is left"),
        (STEPS, {"max_steps": 12, "seed": 1}, 8, "with other settings"),
    ],
)  # fmt: skip
def test_a_complete_run_is_trained_longer_where_its_rate_is_constant(
    tmp_path, before, now, steps, refused
):
    before = LONGER | before
    write_yaml(tmp_path / "config.yaml", before)
    write_json(tmp_path / "metrics.json", {})
    if steps is not None:
        state = TrainerState(global_step=steps, max_steps=8, num_train_epochs=2)
        (tmp_path / "checkpoint-8").mkdir()
        for folder in (tmp_path, tmp_path / "checkpoint-8"):
            state.save_to_json(str(folder / "trainer_state.json"))
        (tmp_path / "checkpoint-8" / "rng_state.pth").touch()
        seal(tmp_path / "checkpoint-8")
    assert check_run_folder(tmp_path, before)
    if refused is None:
        assert not check_run_folder(tmp_path, before | now)
        return
    with pytest.raises(UsageError, match=f"{refused}.*--model_name_or_path"):
        check_run_folder(tmp_path, before | now)


def test_a_run_that_is_trained_longer_equals_one_that_was_long_from_the_start(
    run, config, tmp_path
):
    flags = ["--lr_scheduler_type", "constant", "--eval_strategy", "no", "--max_eval_samples", "4"]
    flags += ["--max_train_samples", "60", "--save_steps", "2", "--do_predict", "false"]
    run(config, tmp_path / "long", *flags, "--max_steps", "6")
    run(config, tmp_path / "run", *flags, "--max_steps", "3")
    assert "checkpoint-3" in run(config, tmp_path / "run", *flags, "--max_steps", "6").stdout
    assert read_json(tmp_path / "run" / "metrics.json")["train"]["steps"] == 6
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "long"))
    assert check_run_folder(tmp_path / "run", read_yaml(tmp_path / "run" / "config.yaml"))


def test_several_sources_and_a_schedule_that_is_ended_later(run, config, tmp_path):
    folder = tmp_path / "run"
    data = f"[{{path: {config.with_name('dialogues.txt')}, weight: 0.5}}, {{path: {SAMPLES}}}]"
    flags = ["--data", data, "--lr_scheduler_type", "warmup_stable_decay", "--warmup_steps", "1"]
    flags += ["--lr_scheduler_kwargs", "{num_decay_steps: 2}", "--max_train_samples", "200"]
    flags += ["--max_eval_samples", "20", "--save_steps", "2", "--save_total_limit", "9"]
    flags += ["--eval_strategy", "no", "--logging_steps", "1"]
    out = run(config, folder, *flags, "--max_steps", "8").stdout
    assert "dialogues: weight 0.5" in out and "loss of dialogues_text" in out
    assert "loss of dialogues_text" in (folder / "report.html").read_text(encoding="utf-8")
    metrics = read_json(folder / "metrics.json")
    sources = metrics["data"]["sources"]
    assert list(sources) == ["dialogues", "dialogues_text"] and sources["dialogues"]["pairs"] > 3
    assert sum(source["share"] for source in sources.values()) == pytest.approx(1)
    assert (
        metrics["test"]["loss_dialogues"] > 0 and metrics["validation"]["loss_dialogues_text"] > 0
    )

    for name in ("metrics.json", "trainer_state.json"):  # as if stopped behind step 4
        (folder / name).unlink()
    for step in (6, 8):
        shutil.rmtree(folder / f"checkpoint-{step}")
    error = run(config, folder, *flags, "--max_steps", "5", status=2).stderr
    assert "max_steps: 8 -> 5" in error and "may change only in steps to come" in error
    assert "Going on" in run(config, folder, *flags, "--max_steps", "10").stdout
    state = read_json(folder / "trainer_state.json")
    rates = [log["learning_rate"] for log in state["log_history"] if "learning_rate" in log]
    assert state["global_step"] == 10 and min(rates[1:8]) == max(rates) == rates[1] > rates[9]
