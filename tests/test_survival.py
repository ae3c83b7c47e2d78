"""Runs that are damaged, moved, started twice or out of room, and the same command again."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from datasets import Dataset
from helpers.runs import command, equal, start, weights

from seq2seq_dialog.data.rows import fingerprint
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.run_folder import locked, read_json, write_json
from seq2seq_dialog.training.checkpoints import MANIFEST, checkpoints


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """A finished run, and its data in a project folder beside it."""
    project = tmp_path_factory.mktemp("project")
    shutil.copy(config.parent / "dialogues.txt", project / "dialogues.txt")
    text = config.read_text().replace(str(config.parent) + "/", "")
    (project / "config.yaml").write_text(text)
    done = start(*command("config.yaml", "run"), cwd=str(project)).result()
    assert done.returncode == 0, done.stderr
    return project


@pytest.fixture
def project(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "project")
    return tmp_path / "project"


def again(project, *flags, status=0, config="config.yaml", **env):
    done = start(*command(config, "run", *flags), cwd=str(project), **env).result()
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return " ".join((done.stdout + done.stderr).split())


RESULTS = ["metrics.json", "evaluation.json", "predictions.jsonl", "selfchat.jsonl"]
OTHERS = ["config.json", "trainer_state.json", *RESULTS[1:], MANIFEST]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "metrics.json"]
    + [pytest.param(name, marks=pytest.mark.faults) for name in OTHERS],
)
def test_a_damaged_file_of_a_finished_run_is_made_again(finished, project, name):
    (project / "run" / name).write_bytes(b"")
    told = again(project)
    assert f"run: {name}" in told or name == MANIFEST
    assert equal(weights(finished / "run"), weights(project / "run"))
    for text in ("predictions.jsonl", "evaluation.json", "config.json"):
        assert (project / "run" / text).read_text() == (finished / "run" / text).read_text()
    assert "holds this run, complete" in again(project)


@pytest.mark.slow
def test_a_run_without_its_report_is_completed(finished, project):
    """As if it had been killed between metrics.json and the page."""
    manifest = read_json(project / "run" / MANIFEST)
    (project / "run" / "report.html").unlink()
    (project / "run" / "report.html.part").write_text("<html>")
    sealed = {name: each for name, each in manifest.items() if name not in RESULTS}
    write_json(project / "run" / MANIFEST, sealed)
    told = again(project)
    assert "metrics.json was not written to its end" in told and "Going on from run" in told
    assert (project / "run" / "report.html").stat().st_size > 1000
    assert not (project / "run" / "report.html.part").exists()


@pytest.mark.slow
def test_a_dry_run_and_a_new_report_leave_a_finished_run_as_it_is(project):
    """Without checkpoints it would be trained anew."""
    for folder in checkpoints(project / "run"):
        shutil.rmtree(folder)
    before = (project / "run" / "model.safetensors").stat().st_mtime_ns
    again(project, "--dry_run", "true")
    (project / "run" / "report.html").write_text("of another day")
    assert "holds this run, complete" in again(project)
    assert (project / "run" / "model.safetensors").stat().st_mtime_ns == before
    text = project / "dialogues.txt"
    text.write_text(text.read_text() + text.read_text().splitlines()[0] + "\n")
    assert "dialogues.txt is newer than this run" in again(project)


@pytest.mark.slow
def test_an_evaluation_that_was_stopped_begins_again(project):
    flags = ["--do_train", "false", "--model_name_or_path", "run", "--new_model", "null"]
    flags += ["--output_dir", "evaluated"]
    again(project, *flags)
    for name in (*RESULTS, "report.html"):  # as a stop while it replies leaves the folder
        (project / "evaluated" / name).unlink()
    manifest = read_json(project / "evaluated" / MANIFEST)
    sealed = {name: each for name, each in manifest.items() if name not in RESULTS}
    write_json(project / "evaluated" / MANIFEST, sealed)
    again(project, *flags)
    same = [(project / name / "predictions.jsonl").read_text() for name in ("run", "evaluated")]
    assert same[0] == same[1]


@pytest.mark.slow
def test_a_dry_run_that_ended_early_does_not_stop_the_run(project):
    shutil.rmtree(project / "run")
    flags = ["--dry_run", "true", "--tokens_per_batch", "auto"]
    assert "auto, which needs a GPU" in again(project, *flags, status=2, CUDA_VISIBLE_DEVICES="")
    assert (project / "run" / "tokenizer~").exists()
    again(project, "--max_steps", "1", "--do_predict", "false")
    assert (project / "run" / "metrics.json").exists()


@pytest.mark.slow
def test_damaged_settings_and_environment_are_said_in_one_sentence(project):
    (project / "run" / "metrics.json").unlink()
    (project / "run" / "environment.json").write_text("")
    assert "Cannot read 'run/environment.json'" in again(project, status=2)
    (project / "run" / "environment.json").unlink()
    assert "environment.json is missing" in again(project, status=2)
    (project / "run" / "environment.json").write_text('{"processes": 1}')
    (project / "run" / "config.yaml").write_text("seed: [")
    assert "run/config.yaml is not valid YAML" in again(project, status=2)


@pytest.mark.slow
def test_moved_touched_and_copied_data_go_on_and_changed_data_do_not(finished, project):
    unfinished = project / "run"
    for path in unfinished.iterdir():
        if path.is_file() and path.name not in ("config.yaml", "environment.json"):
            path.unlink()  # as if it had been killed at its last checkpoint
    (project / "corpus").mkdir()
    (project / "dialogues.txt").rename(project / "corpus" / "mine.txt")
    os.utime(project / "corpus" / "mine.txt", (1, 1))
    told = again(project, "--data", str(project / "corpus" / "mine.txt"))
    assert "Going on from run/checkpoint-" in told
    assert equal(weights(finished / "run"), weights(unfinished))

    (unfinished / MANIFEST).unlink()
    (unfinished / "metrics.json").unlink()
    environment = read_json(unfinished / "environment.json")
    for name in ("training", "validation"):
        other = environment | {f"{name}_data": "of other dialogues"}
        write_json(unfinished / "environment.json", other)
        told = again(project, "--data", "corpus/mine.txt", status=2)
        assert f"other settings (the text of the {name} data" in told


@pytest.mark.slow
def test_another_number_of_processes_is_refused_and_nothing_removed(run, project):
    folder = project / "run"
    (folder / MANIFEST).unlink()
    (folder / "metrics.json").unlink()
    before = [path.name for path in checkpoints(folder)]
    assert before
    flags = (str(project / "config.yaml"), folder, "--data", str(project / "dialogues.txt"))
    error = run(*flags, processes=2, status=2).stderr
    assert "unfinished run of 1 processes, and these are 2" in " ".join(error.split())
    assert "--num_processes 1" in error
    assert [path.name for path in checkpoints(folder)] == before


def test_a_run_folder_is_for_one_process_until_it_dies(tmp_path):
    code = (
        "from pathlib import Path; from seq2seq_dialog.run_folder import locked; import time\n"
        f"with locked(Path({str(tmp_path)!r})): print('in', flush=True); time.sleep(60)"
    )
    holder = start("-c", code)
    while not (tmp_path / ".lock-owner").exists():
        assert holder.poll() is None
    with (
        pytest.raises(UsageError, match=r"is in use by process \d+ on .*choose another"),
        locked(tmp_path),
    ):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock-owner").read_text()
    assert not tmp_path.exists()  # nothing was written


def test_a_file_is_no_run_folder(tmp_path):
    path = tmp_path / "talk.txt"
    path.write_text("Hi!")
    with pytest.raises(UsageError, match=r"output_dir is .*talk.txt', a file"), locked(path):
        pass
    assert path.read_text() == "Hi!"


@pytest.mark.slow
def test_a_second_run_in_a_folder_is_refused(config, tmp_path):
    folder = tmp_path / "run"
    first = start(*command(config, folder, "--max_steps", "500"))
    while not (folder / "environment.json").exists():
        assert first.poll() is None
    second = start(*command(config, folder, "--max_steps", "500")).result()
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.returncode == 2
    assert "is in use by process" in second.stderr and "Traceback" not in second.stderr


def test_the_fingerprint_goes_by_content_alone():
    content = {"context": [["Hi"], ["Hi", "Oh", ""], [""]], "response": ["Oh", "é", ""]}
    rows = Dataset.from_dict(content | {"turn": [1, 2, 1]})
    same = Dataset.from_dict(content | {"turn": [3, 3, 3]})
    assert fingerprint(rows) == fingerprint(same)
    shuffled = Dataset.from_dict({k: v[::-1] for k, v in content.items()}).select([2, 1, 0])
    assert fingerprint(rows) == fingerprint(shuffled)
    others = [
        {"context": [["Hi"], ["Hi", "Oh"], [""]]},
        {"context": [["Hi"], ["HiOh", "", ""], [""]]},
        {"context": [["Hi", "Hi"], ["Oh", ""], [""]]},
        {"response": ["Oé", "h", ""]},
        {"response": ["Oh", "e", ""]},
        {"source": ["a", "a", "a"]},
        {"source": ["a", "a", "b"]},
    ]
    prints = [fingerprint(Dataset.from_dict(content | other)) for other in others]
    assert len({fingerprint(rows), *prints}) == len(others) + 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.system(f"mount -t tmpfs -o size=2m none {folder} 2>/dev/null"):
        pytest.skip("no right to mount a file system")
    yield folder
    os.system(f"umount {folder}")


@pytest.mark.slow
def test_a_full_disk_is_one_message_and_the_same_command_goes_on(config, small_disk, tmp_path):
    flags = ["--data_cache", str(tmp_path / "cache"), "--save_total_limit", "99"]
    flags += ["--save_steps", "5", "--load_best_model_at_end", "false"]
    line = command(config, small_disk / "run", *flags)
    done = start(*line).result()
    assert done.returncode == 2, done.stderr
    assert "error: No space left on device" in done.stderr and "output_dir" in done.stderr
    assert "Traceback" not in done.stderr
    assert os.system(f"mount -o remount,size=64m {small_disk}") == 0
    done = start(*line).result()
    assert done.returncode == 0 and "Going on from" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--output_dir", "{file}/run"], "{file}"),
        (["--output_dir", "{file}"], "{file}"),
        (["--output_dir", "x" * 300], "File name too long"),
        (["--output_dir", "/proc/run"], "/proc"),
        (["--data_cache", "{file}"], "{file}"),
        (["--data_cache", "/proc/cache"], "/proc/cache"),
    ],
)
def test_places_that_cannot_be_written_are_refused_before_the_data_work(
    config, tmp_path, flags, named
):
    file = tmp_path / "file"
    file.touch()
    flags, named = [flag.format(file=file) for flag in flags], named.format(file=file)
    done = start(*command(config, tmp_path / "run", *flags)).result()
    assert done.returncode == 2, done.stderr
    assert named in done.stderr and "Traceback" not in done.stderr
    assert "Pairs of context" not in done.stdout and done.stderr.count("error:") == 1


KINDS = {
    "T5": [],
    "RNN": ["--new_model", "{model_type: rnn_seq2seq, embedding_size: 16, hidden_size: 32}"],
    "adversarial": [
        *("--adversarial", "true", "--discriminator", "{embedding_size: 8, hidden_size: 8}"),
        *("--discriminator_warmup_steps", "3", "--max_steps", "20", "--collapse_threshold", "0"),
        *("--load_best_model_at_end", "false"),
    ],
    "streaming": ["--streaming", "true", "--max_steps", "30"],
}


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment_again_and_again_it_ends_with_the_same_weights(
    finished, config, tmp_path, kind
):
    flags = [*KINDS[kind], "--save_steps", "4", "--eval_steps", "4"]
    if kind == "adversarial":  # goes on from a finished run
        flags += ["--model_name_or_path", str(finished / "run")]
    began = time.monotonic()
    done = start(*command(config, tmp_path / "whole", *flags)).result()
    assert done.returncode == 0, done.stderr
    duration, moments = time.monotonic() - began, random.Random(kind)
    for _ in range(5):
        process = start(*command(config, tmp_path / "killed", *flags))
        time.sleep(moments.uniform(0.1, 1) * duration)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = start(*command(config, tmp_path / "killed", *flags)).result()
    assert done.returncode == 0, done.stderr
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


@pytest.mark.faults
def test_a_home_that_cannot_be_written_is_no_obstacle_with_a_data_cache(config, tmp_path):
    """In processes of their own, since libraries read these variables when they are imported."""
    env = os.environ | {"HOME": "/proc/nobody", "HF_HOME": "/proc/nobody/hf"}
    line = [sys.executable, *command(config, tmp_path / "run", "--max_steps", "3")]
    done = subprocess.run(line, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "error: Cannot write to '/proc/nobody" in done.stderr
    line += ["--data_cache", str(tmp_path / "cache")]
    done = subprocess.run(line, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
