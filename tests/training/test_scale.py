"""Several processes: the configs for accelerate, the SLURM script, shards that change no figure."""

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from helpers import warm
from helpers.corpus import ROOT, SAMPLES
from helpers.runs import finish, start_two
from safetensors.torch import load_file

from seq2seq_dialog.run_folder import read_json, read_jsonl

CONFIGS = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
KNOWN = {action.dest for action in launch_command_parser()._actions}
ON_CPU = ROOT / "tests" / "helpers" / "sharded_on_cpu.py"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_knows_every_key_of_its_configs(path):
    text = path.read_text(encoding="utf-8")
    config = load_config_from_file(str(path))  # refuses unknown keys of the first level
    for group in ("fsdp_config", "deepspeed_config"):
        known = {name.removeprefix("fsdp_") for name in KNOWN} | KNOWN
        assert set(getattr(config, group)) <= known, group
    head = text[: text.index("\ndistributed_type")]
    assert all(line.startswith("#") for line in head.splitlines())
    launch = f"accelerate launch --config_file configs/accelerate/{path.name} "
    assert launch in head and "run_seq2seq_dialog.py configs/" in head
    assert config.mixed_precision is None  # the run's own setting, which DeepSpeed has to match


def test_there_is_a_config_for_each_way():
    kinds = {path.stem: yaml.safe_load(path.read_text())["distributed_type"] for path in CONFIGS}
    assert kinds == {
        "gpu": "NO",
        "cpu": "MULTI_GPU",
        "gpus": "MULTI_GPU",
        "machines": "MULTI_GPU",
        "fsdp": "FSDP",
        "deepspeed": "DEEPSPEED",
    }


# SLURM


@pytest.fixture
def cluster(tmp_path):
    """A folder with what the SLURM script needs, two machines being this one; returns its start."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text("")
    commands = {
        "scontrol": '#!/bin/bash\necho "$@" >> scontrol.log\n[ "$1" != show ] || echo 127.0.0.1\n',
        # srun on two machines, the first failure being the end of all.
        "srun": """#!/bin/bash
            [ "$1" = --kill-on-bad-exit=1 ] && shift
            for i in 0 1; do SLURM_NODEID=$i "$@" & done
            wait -n && wait -n || { status=$?; kill $(jobs -p) 2> /dev/null; exit $status; }
        """,
        "accelerate": f"#!/bin/bash\nexec {sys.executable} -m accelerate.commands.launch "
        '"${@:2}"\n',
    }
    (tmp_path / "bin").mkdir()
    for name, text in commands.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    with socket.socket() as free:
        while True:
            port = random.randrange(20000, 40000)
            with contextlib.suppress(OSError):
                free.bind(("", port))
                break
    env = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "SLURM_JOB_ID": str(port - 20000),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "ACCELERATE_CONFIG": str(ROOT / "configs" / "accelerate" / "machines.yaml"),
        "OMP_NUM_THREADS": "1",
    }

    def start(script, *args):
        (tmp_path / "run_seq2seq_dialog.py").write_text(script)
        command = ["bash", str(ROOT / "configs" / "accelerate" / "slurm.sh"), *args]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=tmp_path, env=os.environ | env, **pipes)

    return start


@pytest.mark.slow
def test_slurm_starts_a_process_for_each_gpu_of_each_machine(cluster, tmp_path):
    script = """
import os, sys
from pathlib import Path
lines = [os.environ[name] for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")]
Path("rank " + os.environ["RANK"]).write_text("\\n".join([*lines, *sys.argv[1:]]))
"""
    job = cluster(script, "configs/t5_small.yaml", "--data", "two words.txt")
    _, err = job.communicate()
    assert job.returncode == 0, err
    lines = {path.name: path.read_text().splitlines() for path in tmp_path.glob("rank *")}
    assert lines.keys() == {"rank 0", "rank 1"} and lines["rank 0"] == lines["rank 1"]
    processes, address, _port, *arguments = lines["rank 0"]
    assert (processes, address) == ("2", "127.0.0.1")
    assert arguments == ["configs/t5_small.yaml", "--data", "two words.txt"]


@pytest.mark.slow
def test_slurm_job_fails_when_a_process_does(cluster):
    job = cluster(
        'import os, sys, time\nif os.environ["RANK"] == "1": sys.exit(3)\ntime.sleep(600)'
    )
    _, err = job.communicate()
    assert job.returncode not in (0, None)
    assert "exitcode  : 3" in err


def test_slurm_job_is_queued_again_when_its_time_is_up(cluster, tmp_path):
    srun = "#!/bin/bash\necho $$\nexec sleep 600\n"
    (tmp_path / "bin" / "srun").write_text(srun)
    job = cluster("")
    srun = int(job.stdout.readline())
    job.send_signal(signal.SIGUSR1)
    assert "queued again" in job.stdout.readline()
    assert job.wait() != 0
    os.kill(srun, signal.SIGTERM)  # SLURM ends the steps of a job
    verb, number = (tmp_path / "scontrol.log").read_text().split()[-2:]
    assert verb == "requeue" and number.isdigit()


@pytest.mark.slow
def test_two_processes_in_step(tokenizer_folder, tmp_path):
    script = ROOT / "tests" / "helpers" / "two_processes.py"
    processes = start_two(script, tmp_path, tokenizer_folder, PYTHONPATH=str(ROOT / "tests"))
    finish(processes)
    assert [process.result().stdout.count("check_") for process in processes] == [5, 5]


# Shards

CONFIG = """\
data: {data}
vocab_size: 300
max_source_length: 48
max_target_length: 16
new_model:
  {{model_type: t5, d_model: 32, d_kv: 8, d_ff: 64, num_layers: 2, num_heads: 4, dropout_rate: 0.1}}
tokens_per_batch: 1024
bf16: false                     # exact also on a CPU with AMX
learning_rate: 5.0e-3
max_steps: 6
gradient_accumulation_steps: 2
logging_steps: 1
eval_strategy: steps
eval_steps: 2
save_strategy: steps
save_steps: 2
save_total_limit: 5
metric_for_best_model: loss
greater_is_better: true         # so that the best is not the last
predict_with_generate: true
num_beams: 2
max_new_tokens: 8
"""

SHOW = """\
import json, os
if os.environ["RANK"] == "0":
    print("RESULT" + json.dumps(dict(os.environ)))
"""


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """Run the run script in two processes: `launch(kind, output_dir, *flags)`.

    `accelerate launch` says what the processes of a config find in their environment. They begin
    from there, but with the libraries imported; DeepSpeed's are started by the launcher itself.
    """
    home = tmp_path_factory.mktemp("home")
    lines = SAMPLES.read_text(encoding="utf-8").split("\n")[:50]
    (home / "dialogues.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (home / "config.yaml").write_text(CONFIG.format(data=home / "dialogues.txt"))
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def accelerate(kind, *command):
        config = ROOT / "configs" / "accelerate" / f"{kind}.yaml"
        launcher = ["-m", "accelerate.commands.launch", "--config_file", config]
        return finish([warm.start(*launcher, "--num_processes", "2", *command, env=env)])

    @functools.cache
    def environment(kind):
        (home / "show.py").write_text(SHOW)
        shown = json.loads(accelerate(kind, home / "show.py").stdout.split("RESULT")[1])
        return {k: v for k, v in shown.items() if k.startswith(("ACCELERATE_", "FSDP_"))}

    def launch(kind, output_dir):
        command = [ON_CPU, home / "config.yaml", "--output_dir", output_dir]
        if kind == "deepspeed":
            done = accelerate(kind, *command, "--ddp_backend", "gloo")
        else:
            done = finish(start_two(*command, **environment(kind)))
        return done.stdout + done.stderr

    return launch


@pytest.fixture(scope="module")
def plain(launch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "run"
    launch("cpu", folder)
    return folder


@pytest.fixture(scope="module", params=["fsdp", "deepspeed"])
def kind(request):
    if request.param == "deepspeed" and not find_spec("deepspeed"):
        pytest.skip("deepspeed is not installed")
    return request.param


@pytest.fixture(scope="module")
def sharded(launch, kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp(kind) / "run"
    launch(kind, folder)
    return folder


def interrupted(folder, copy, *checkpoints):
    """What a run that was killed leaves: these checkpoints, and no model at its root."""
    keep = {*checkpoints, "config.yaml", "environment.json", "tokenizer"}
    copy.mkdir()
    for path in folder.iterdir():
        if path.name in keep:
            (shutil.copytree if path.is_dir() else shutil.copy)(path, copy / path.name)
    return copy


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, other, atol=0.0):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    return all(one[name].allclose(other[name], rtol=0, atol=atol) for name in one)


@pytest.mark.slow
def test_shards_change_no_figure(plain, sharded):
    history = [read_json(f / "trainer_state.json") for f in (plain, sharded)]
    losses = [[x["loss"] for x in h["log_history"] if "loss" in x] for h in history]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5) and len(losses[0]) == 6
    norms = [[x["grad_norm"] for x in h["log_history"] if "loss" in x] for h in history]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    assert history[0]["best_global_step"] == history[1]["best_global_step"] == 2
    one, other = (read_json(f / "metrics.json") for f in (plain, sharded))
    for split in ("validation", "test"):
        for name in ("loss", "perplexity", "bleu", "chrf", "target_tokens"):
            if name in one[split]:
                assert other[split][name] == pytest.approx(one[split][name], rel=1e-5), name
    replies = [[r["reply"] for r in read_jsonl(f / "predictions.jsonl")] for f in (plain, sharded)]
    assert replies[0] == replies[1]
    assert same(plain, sharded, atol=1e-5)  # the best model, whole, at the root
    config = [read_json(f / "config.json") for f in (plain, sharded)]
    assert config[0] == config[1]


@pytest.mark.slow
def test_a_sharded_run_goes_on_where_it_was(launch, kind, sharded, tmp_path):
    copy = interrupted(sharded, tmp_path / "run", "checkpoint-2", "checkpoint-4")
    assert "Going on from" in launch(kind, copy)
    assert same(sharded, copy)
    one, other = (read_json(f / "trainer_state.json") for f in (sharded, copy))
    losses = [[x["loss"] for x in h["log_history"] if "loss" in x] for h in (one, other)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_a_sharded_run_that_had_ended_is_not_trained_on(launch, kind, sharded, tmp_path):
    checkpoints = [f"checkpoint-{step}" for step in (2, 4, 6)]
    copy = interrupted(sharded, tmp_path / "run", *checkpoints)
    launch(kind, copy)
    assert same(sharded, copy)
    assert read_json(copy / "metrics.json")["train"] == {"steps": 6, "best_step": 2}
    for name in ("metrics.json", "report.html"):  # killed while evaluating: the model is there
        (copy / name).unlink()
    launch(kind, copy)
    assert same(sharded, copy)
    one, other = (read_json(f / "metrics.json")["test"] for f in (sharded, copy))
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-6)
