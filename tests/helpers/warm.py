"""Processes of their own that need not import torch anew: `run` and `start` as in `subprocess`.

To import the libraries takes a process several seconds, most of what a short test costs. Here a
server for each interpreter has done so once, and forks; those that have imported more are forked
from it. What is started shares with others the modules and the seed of `hash()`; all else is its
own, as for a process from the command line.
"""

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers.corpus import ROOT

SERVER = Path(__file__).with_name("warm_server.py")

# Slow to import, and the same whatever the environment says (huggingface_hub is not).
LIBRARIES = (
    "torch", "torch.distributed.tensor", "torch._dynamo", "scipy.stats", "pandas",
    "pyarrow.dataset", "matplotlib.pyplot", "sklearn.feature_extraction.text",
    "rouge_score.rouge_scorer",
)  # fmt: skip
# More than these, for processes that keep the caches and the offline Hub of the tests.
TRANSFORMERS = ("transformers.pipelines", "transformers.models.t5.modeling_t5")
PROJECT = ("seq2seq_dialog.train", "seq2seq_dialog.serve.chat", *TRANSFORMERS)

# As the tests begin, before any of them changes something.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
    "OMP_NUM_THREADS": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # CUDA does not survive a fork
}


@functools.cache
def server(python: str, modules: tuple[str, ...]) -> socket.socket:
    """Start a server, which ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command, env = [SERVER, *modules], ENVIRONMENT
    if modules == LIBRARIES:
        process = subprocess.Popen([python, *command], stdin=theirs, env=env)
    else:
        env = env | ({"PYTHONPATH": str(ROOT)} if modules == PROJECT else {})
        files = [theirs.fileno(), 1, 2]
        process = Process(fork(server(python, LIBRARIES), command, ".", env, files))
    theirs.close()

    def stop():
        ours.close()
        process.wait()

    atexit.register(stop)
    return ours


class Process:
    """What `start` returns: the part of `subprocess.Popen` that the tests use."""

    def __init__(self, report: int, out=None, err=None):
        self.out, self.err, self.returncode = out, err, None
        self.report = os.fdopen(report)
        self.pid = int(self.report.readline())

    def poll(self) -> int | None:
        """Return the exit status, or None as long as there is none."""
        if self.returncode is None and select.select([self.report], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        """Wait for the end; return the exit status, -9 after signal 9."""
        if self.returncode is None:
            self.returncode = int(self.report.readline())
            self.report.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the end is known."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def result(self) -> subprocess.CompletedProcess:
        """Wait for the end; return status and output."""
        status = self.wait()
        texts = []
        for file in (self.out, self.err):
            file.seek(0)
            texts.append(file.read())
        return subprocess.CompletedProcess(self.pid, status, *texts)


def start(*arguments, python=sys.executable, modules=LIBRARIES, cwd=".", env=None, input=""):
    """Start `python ARGUMENTS`, in a process forked from one that has imported `modules`.

    Bytes that are no UTF-8 are surrogates in `input` and in what comes out, as in file names.
    """
    options = {"encoding": "utf-8", "errors": "surrogateescape"}
    streams = [tempfile.TemporaryFile("w+", **options) for _ in range(3)]  # noqa: SIM115
    streams[0].write(input)
    streams[0].seek(0)
    files = [stream.fileno() for stream in streams]
    env = os.environ if env is None else env
    report = fork(server(str(python), modules), arguments, cwd, env, files)
    return Process(report, *streams[1:])


def fork(connection: socket.socket, arguments, cwd, env, files: list[int]) -> int:
    """Let a server fork, with files for the three streams; return where the fork is reported on."""
    words, report = list(map(str, arguments)), os.pipe()
    request = {"arguments": words, "cwd": os.path.abspath(cwd), "env": dict(env)}
    socket.send_fds(connection, [json.dumps(request).encode()], [*files, report[1]])
    os.close(report[1])
    return report[0]


def run(*arguments, **options) -> subprocess.CompletedProcess:
    """Run `python ARGUMENTS` to its end; see `start`."""
    return start(*arguments, **options).result()
