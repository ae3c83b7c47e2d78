"""The command as a person runs it, on a small config."""

import os
import socket
from contextlib import closing

from helpers import warm
from helpers.corpus import ROOT
from safetensors.torch import load_file

CONFIG = """\
data: {data}
vocab_size: 300
max_source_length: 48
max_target_length: 16
new_model: {{model_type: t5, d_model: 32, d_kv: 8, d_ff: 64, num_layers: 1, num_heads: 4}}
tokens_per_batch: 1024
learning_rate: 5.0e-3
num_train_epochs: 2
logging_steps: 5
eval_strategy: steps
eval_steps: 10
save_strategy: steps
save_steps: 10
max_new_tokens: 8
"""

ENVIRONMENT = {"COLUMNS": "120", "OMP_NUM_THREADS": "1"}


def command(config, output_dir, *flags):
    """What a person writes behind `python`."""
    script = [str(ROOT / "run_seq2seq_dialog.py"), str(config), "--output_dir", str(output_dir)]
    return [*script, *flags]


def start(*arguments, input="", cwd=".", **env) -> warm.Process:
    """Start `python ARGUMENTS`, in a process that need not import the project anew."""
    env = os.environ | ENVIRONMENT | env
    return warm.start(*arguments, input=input, cwd=cwd, env=env, modules=warm.PROJECT)


def start_two(*arguments, **env) -> list[warm.Process]:
    """Start two processes that train together, as `accelerate launch` does.

    Without a GPU they share the CPU, over gloo.
    """
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    env |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [start(*arguments, **env, RANK=rank, LOCAL_RANK=rank) for rank in "01"]


def finish(processes, status=0):
    """Wait for processes; return the output of the first."""
    results = [process.result() for process in processes]
    for done in results:
        assert done.returncode == status, done.stdout + done.stderr[-4000:]
    return results[0]


def weights(folder):
    return load_file(folder / "model.safetensors")


def equal(one, two):
    return one.keys() == two.keys() and all(one[name].equal(two[name]) for name in one)
