"""Two processes of one core each against one process of two cores: real tokens a second.

    accelerate launch --multi_gpu --num_processes 2 -m benchmarks.processes OPTIONS

This module is both: what is launched (`main`), and the contestant that launches it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from seq2seq_dialog.training.memory import keep_freed_memory
from seq2seq_dialog.training.trainer import DialogueTrainer

from . import material
from .harness import Skip, peak_memory

ROOT = Path(__file__).parents[1]


def launched(turns, folder: Path, size: dict, steps: int, tokens_per_batch: int, processes: int):
    """Train in so many processes, launched anew in each turn, on two cores in all.

    Args:
        tokens_per_batch: of all processes together.

    Raises:
        Skip: there are no two cores.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise Skip("two cores are needed")
    options = {"folder": str(folder), "size": size, "steps": steps, "processes": processes}
    options |= {"tokens_per_batch": tokens_per_batch // processes, "cores": cores}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", "--main_process_port", "0", "-m"]
    command = command if processes > 1 else [sys.executable, "-m"]
    threads = {"OMP_NUM_THREADS": str(2 // processes), "PYTHONWARNINGS": "ignore"}
    for _ in turns:
        done = subprocess.run(
            [*command, "benchmarks.processes", json.dumps(options)],
            cwd=ROOT,
            env=os.environ | threads,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-400:])
        turns.done(json.loads(done.stdout.strip().split("\n")[-1]))


class Once:
    """One turn, whose measurement is that of all processes together."""

    def __iter__(self):
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        yield 0

    def done(self, measured: dict) -> None:
        """Add up the processes, and print the sum in the first."""
        summed = [measured["work"], measured["work"] / (1 - measured["padding"]), peak_memory()]
        summed = torch.tensor(summed, dtype=torch.float64)
        seconds = torch.tensor(measured["seconds"], dtype=torch.float64)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(summed)
            torch.distributed.all_reduce(seconds, op=torch.distributed.ReduceOp.MAX)
        if int(os.environ.get("RANK", 0)) == 0:
            real, padded, peak = summed.tolist()
            measured |= {"work": real, "seconds": float(seconds), "padding": 1 - real / padded}
            print(json.dumps(measured | {"peak_mib": peak}), flush=True)


def main() -> None:
    """Measure in this process, which may be one of several."""
    options = json.loads(sys.argv[1])
    cores = options["cores"]
    if options["processes"] > 1:
        cores = [cores[int(os.environ["LOCAL_RANK"])]]
    os.sched_setaffinity(0, cores)
    folder = Path(options["folder"])
    settings = {"tokens_per_batch": options["tokens_per_batch"], "use_cpu": True, "max_steps": 1000}
    keep_freed_memory()
    trainer = material.counted(DialogueTrainer)(
        material.model(folder, options["size"]),
        material.our_arguments(folder, **settings),
        material.tokenizer(folder),
        train_dataset=material.features(folder, "train"),
    )
    material.take_turns(Once(), trainer, options["size"], options["steps"], warmup=2)


if __name__ == "__main__":
    main()
