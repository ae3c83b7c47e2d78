"""The command as a person runs it, on a small config."""

import sys

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
eval_steps: 20
save_strategy: steps
save_steps: 20
max_new_tokens: 8
"""


# Without a GPU the two processes share the CPU, over gloo.
TWO_PROCESSES = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
    *("--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"),
    *("--dynamo_backend", "no", "--main_process_port", "0"),
]


def command(config, output_dir, *flags, launcher=()):
    script = [str(ROOT / "run_seq2seq_dialog.py"), str(config), "--output_dir", str(output_dir)]
    return [*(launcher or [sys.executable]), *script, *flags]


def weights(folder):
    return load_file(folder / "model.safetensors")


def equal(one, two):
    return one.keys() == two.keys() and all(one[name].equal(two[name]) for name in one)
