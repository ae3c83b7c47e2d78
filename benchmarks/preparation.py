"""Preparation: from rows to features, pairs a second on one core; memory and time as data grow."""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
from pathlib import Path

import datasets
from seq2seq_dialog.dataset_script.dialogues import END, read
from seq2seq_dialog.dataset_script.sources import find_sources

from seq2seq_dialog.data.features import encode_rows
from seq2seq_dialog.data.rows import load_rows
from seq2seq_dialog.settings import DataArguments

from . import material, peers

COLUMNS = ["context", "response"]


def one_core() -> None:
    """Keep tokenizers, which are written in Rust and share out a batch, to one thread."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    datasets.disable_caching()  # each round does the work anew


def rows(folder: Path, count: int):
    """The first `count` training rows."""
    train = material.features(folder, "train")
    computed = set(train.column_names) - {"dialogue_id", "turn", *COLUMNS}
    return train.remove_columns(sorted(computed)).select(range(min(count, len(train))))


def ours(turns, folder: Path, count: int):
    """Encode rows as a run does."""
    one_core()
    some, tokenizer = rows(folder, count), material.tokenizer(folder)
    for _ in turns:
        start = time.perf_counter()
        encode_rows(some, tokenizer, DataArguments())
        turns.done({"work": len(some), "seconds": time.perf_counter() - start})


def mapped(turns, folder: Path, count: int):
    """Encode rows as Hugging Face's examples do, each whole context by itself."""
    one_core()
    some, options = rows(folder, count), {"tokenizer": material.tokenizer(folder)}
    columns = some.column_names
    for _ in turns:
        start = time.perf_counter()
        some.map(peers.preprocess, batched=True, fn_kwargs=options, remove_columns=columns)
        turns.done({"work": len(some), "seconds": time.perf_counter() - start})


def one_by_one(turns, folder: Path, count: int):
    """Encode rows as the seed's dataset does when they are fetched."""
    one_core()
    some = rows(folder, count).select_columns(COLUMNS).to_list()
    dataset = peers.SeedDataset(some, material.tokenizer(folder))
    for _ in turns:
        start = time.perf_counter()
        for index in range(len(dataset)):
            dataset[index]
        turns.done({"work": len(dataset), "seconds": time.perf_counter() - start})


# Growth


def write_corpus(data: str, count: int, path: Path) -> None:
    """Write `count` dialogues: the corpus again and again, a word of each utterance changed.

    Args:
        data: dialogues as `--data` of a run takes them.
    """
    found = [dialogue.utterances for source in find_sources(data) for dialogue in read(source)]
    words = sorted({word for turns in found for turn in turns for word in turn.split()})
    draw = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            for turn in found[number % len(found)]:
                changed = turn.split(" ")
                changed[draw.randrange(len(changed))] = draw.choice(words)
                file.write(" ".join(changed) + f" {END} ")
            file.write("\n")


class OwnMemory(threading.Thread):
    """Watches what this process itself has allocated, without the pages of mapped files.

    Features are read and written through mapped files, whose pages count as resident as long as
    nobody else needs the memory, and are no one's loss when it is taken back.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.peak_mib, self.done = 0.0, threading.Event()

    def run(self):
        """Look twenty times a second."""
        while not self.done.wait(0.05):
            status = Path("/proc/self/status").read_text()
            line = next(line for line in status.split("\n") if line.startswith("RssAnon"))
            self.peak_mib = max(self.peak_mib, int(line.split()[1]) / 1024)


def growth(turns, folder: Path, text: Path, count: int):
    """Prepare a text file of `count` dialogues, from reading it to features on disk."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = material.tokenizer(folder)
    for _ in turns:
        memory = OwnMemory()
        memory.start()
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            start = time.perf_counter()
            args = DataArguments(data=str(text), data_cache=cache)
            pairs = sum(
                len(encode_rows(split, tokenizer, args)) for split in load_rows(args)[0].values()
            )
            seconds = time.perf_counter() - start
        memory.done.set()
        memory.join()
        measured = {"work": count, "seconds": seconds, "pairs": pairs}
        turns.done(measured | {"own_peak_mib": memory.peak_mib})
