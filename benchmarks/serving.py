"""The server: replies a second, and the time to the first token, against single calls.

The server is a process of its own, as it is used; the clients are threads of the contestant.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from seq2seq_dialog import generate_response, load
from seq2seq_dialog.serve.server import model_name
from seq2seq_dialog.shipped import ROOT

from . import answering

GREEDY = {"do_sample": False, "num_beams": 1}


@contextmanager
def served(model: Path) -> Iterator[httpx.Client]:
    """Serve a model or an export in a process of its own; gives a client of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "seq2seq_dialog", "serve", str(model), "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        process.stdout.readline()  # it says when it listens
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as client:
            yield client
    finally:
        process.terminate()
        process.wait()


def request(model: Path, context: list[str], stream: bool = False) -> dict:
    """Write a request for a greedy reply."""
    messages = [{"role": "user", "content": turn} for turn in context]
    name = model_name(str(model))
    return {"model": name, "messages": messages, "temperature": 0, "stream": stream}


def model_of(engine: str, folder: Path, run: Path) -> Path:
    """Return the folder of a model for `PyTorch` or `int8`."""
    return Path(answering.export(run, folder).name_or_path) if engine == "int8" else run


def replies(turns, folder: Path, run: Path, engine: str, clients: int, count: int):
    """Reply to `count` contexts for so many clients at once."""
    model = model_of(engine, folder, run)
    contexts = answering.contexts(folder, count)["context"]
    with served(model) as client, ThreadPoolExecutor(clients) as pool:

        def ask(context):
            client.post("/v1/chat/completions", json=request(model, context)).raise_for_status()

        list(pool.map(ask, contexts[:clients]))
        for _ in turns:
            start = time.perf_counter()
            list(pool.map(ask, contexts))
            turns.done({"work": len(contexts), "seconds": time.perf_counter() - start})


def first_token(turns, folder: Path, run: Path, engine: str, count: int):
    """Stream replies to one client; the seconds are those to the first text, the median."""
    model = model_of(engine, folder, run)
    contexts = answering.contexts(folder, count)["context"]

    def wait(client, context) -> float:
        start, first = time.perf_counter(), None
        body = request(model, context, stream=True)
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            for line in answer.iter_lines():
                if first is None and '"content"' in line and '"content": ""' not in line:
                    first = time.perf_counter() - start
        return first or time.perf_counter() - start

    with served(model) as client:
        wait(client, contexts[0])
        for _ in turns:
            seconds = statistics.median(wait(client, context) for context in contexts)
            turns.done({"work": 1, "seconds": seconds})


def whole_reply(turns, folder: Path, run: Path, engine: str, count: int):
    """Reply by `generate_response`; the seconds are those to a reply, the median."""
    model, tokenizer, _ = load(model_of(engine, folder, run), "cpu", exported=engine == "int8")
    contexts = answering.contexts(folder, count)["context"]

    def wait(context) -> float:
        start = time.perf_counter()
        generate_response(context, model, tokenizer, **GREEDY)
        return time.perf_counter() - start

    wait(contexts[0])
    for _ in turns:
        turns.done({"work": 1, "seconds": statistics.median(map(wait, contexts))})
