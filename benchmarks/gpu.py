"""Training on one GPU in bf16: real tokens a second, and the share of what the GPU can do."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from . import material

ENOUGH = 20_000  # pairs, for like lengths to meet as they do in a corpus worth a GPU
# Of DailyDialog in T5's tokens: median, and the logarithm's standard deviation.
SOURCE, TARGET = (66, 0.81), (16, 0.63)


def draw_features(folder: Path, place: Path, count: int) -> None:
    """Write training features of random tokens in DailyDialog's lengths to `place`.

    Args:
        folder: with the tokenizer, which is copied.
        count: pairs.
    """
    shutil.copytree(folder / "tokenizer", place / "tokenizer")
    rng = np.random.default_rng(0)

    def lengths(median: float, deviation: float, longest: int) -> np.ndarray:
        drawn = np.exp(rng.normal(np.log(median), deviation, count))
        return drawn.astype(int).clip(2, longest)  # (count,)

    vocabulary = len(material.tokenizer(folder))
    columns = {}
    for ids, size, drawn in (
        ("input_ids", "source_length", lengths(*SOURCE, 512)),
        ("labels", "target_length", lengths(*TARGET, 128)),
    ):
        tokens = rng.integers(3, vocabulary, drawn.sum())
        columns[ids] = np.split(tokens, drawn.cumsum()[:-1])
        columns[size] = drawn
    Dataset.from_dict(columns).save_to_disk(place / "train")


def matrix_peak(turns, width: int) -> None:
    """Multiply large bf16 matrices, to see what the device can do at most.

    Args:
        width: of the square matrices; 8,192 keeps any GPU busy.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    a, b = (torch.randn(width, width, device=device, dtype=torch.bfloat16) for _ in range(2))

    def multiply(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    multiply(3)
    times = max(1, int(1 / multiply(10) * 10))  # a second
    for _ in turns:
        seconds = multiply(times)
        turns.done({"work": 2.0 * width**3 * times, "seconds": seconds})
