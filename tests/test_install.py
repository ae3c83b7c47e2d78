"""The package as `pip install` leaves it: one folder, one command, a training from nowhere."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from helpers import warm
from helpers.corpus import ROOT
from helpers.runs import finish

PARTS = ("seq2seq_dialog", "configs", "dataset_script", "samples")
SMALL = [
    *("--max_steps", "2", "--max_train_samples", "60", "--max_eval_samples", "10"),
    *("--vocab_size", "300", "--eval_strategy", "no", "--max_new_tokens", "4"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: a checkout may hold what an earlier build has left."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in PARTS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    pip = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(target)]
    done = subprocess.run([*pip, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = target.glob("seq2seq_dialog-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel, which sees the dependencies of the running one.

    `installed(*arguments)` runs its command from an empty folder, `installed.warm(*arguments)` its
    Python in a process that need not import torch anew.
    """
    home, folder = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("empty")
    venv.create(home, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install"]
    done = subprocess.run(
        [*pip, "--quiet", "--no-deps", "--no-index", str(wheel)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"OMP_NUM_THREADS": "1", "HF_HOME": str(folder.parent / "home"), "COLUMNS": "120"}

    command = home / "bin" / "seq2seq-dialog"

    def run(*args):
        done = subprocess.run(
            [str(command), *args], cwd=folder, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr[-4000:]
        return done.stdout + done.stderr

    def run_warm(*args, status=0):
        python = home / "bin" / "python"
        options = {"python": python, "modules": warm.TRANSFORMERS, "cwd": folder, "env": env}
        done = finish([warm.start(*args, **options)], status)
        return done.stdout + done.stderr

    run.warm, run.command, run.packages, run.folder = run_warm, command, packages, folder
    return run


def test_the_wheel_holds_every_file_of_the_package(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for part in PARTS:
        for path in (ROOT / part).rglob("*"):
            if path.is_file() and path.suffix not in (".pyc", ".md"):
                name = path.relative_to(ROOT).as_posix()
                assert (name if part == PARTS[0] else f"{PARTS[0]}/{name}") in names, name


def test_nothing_else_is_at_the_top_of_site_packages(installed):
    names = {path.name for path in installed.packages.iterdir()}
    names = {name for name in names if not name.endswith((".dist-info", ".pth"))}
    assert names == {"seq2seq_dialog"}


def test_the_command_tells_its_verbs_and_version(installed):
    text = installed("--help")
    assert text.startswith("usage: seq2seq-dialog [") and "train" in text and "publish-data" in text
    assert installed("--version") == "seq2seq-dialog 0.1.0\n"
    text = installed.warm(installed.command, "train", "--help")
    assert "usage: seq2seq-dialog train CONFIG" in text
    assert "t5_small" in text and str(installed.packages / "seq2seq_dialog" / "configs") in text
    text = installed.warm(installed.command, "train", "demmo", status=2)
    assert "Did you mean 'demo'?" in text


def test_a_recipe_is_trained_by_its_name_from_an_empty_folder(installed):
    text = installed("train", "demo", *SMALL)
    run_dir = installed.folder / "runs" / "demo"
    assert {"model.safetensors", "report.html"} <= {path.name for path in run_dir.iterdir()}
    assert "\n  seq2seq-dialog chat runs/demo\n" in text
    text = installed.warm(installed.command, "train", "demo", *SMALL)
    assert "holds this run, complete" in text
    assert "report.html" in installed.warm(installed.command, "report", "runs/demo")
    assert [path.name for path in installed.folder.iterdir()] == ["runs"]


@pytest.mark.slow
def test_accelerate_starts_an_installed_package(installed):
    launch = ["-m", "accelerate.commands.launch", "--config_file"]
    config = installed.packages / "seq2seq_dialog" / "configs" / "accelerate" / "cpu.yaml"
    flags = [*SMALL, "--output_dir", str(Path("runs") / "two"), "--do_predict", "false"]
    installed.warm(*launch, config, "-m", "seq2seq_dialog", "train", "demo", *flags)
    environment = (installed.folder / "runs" / "two" / "environment.json").read_text()
    assert '"processes": 2' in environment
