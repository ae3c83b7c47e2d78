"""Corpora whose licence is known, recognised by their text: DailyDialog and what ships in samples/.

`known_corpora.npz` holds hashes of their responses, never the text. Each has one in eight of them,
chosen by the hash itself; of DailyDialog only long ones, which no other corpus has. A hash is that
of the letters and digits (`normalised`), so it is the same for spaced tokens and for natural text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from datasets import Dataset
from xxhash import xxh3_64_intdigest

from ..dataset_script.dialogues import normalised

DAILYDIALOG = "DailyDialog"
SAMPLES = "the sample dialogues of seq2seq-dialog"
HASHES = Path(__file__).with_name("known_corpora.npz")
ONE_IN = 8
LONG = 60  # letters and digits that a response of DailyDialog has at least
FEW_LONG = 3  # responses of DailyDialog by which it is recognised, whatever else is there
FEW = 10  # sample responses by which they are recognised, if all others are samples, too
BLOCK, BLOCKS = 1000, 500  # rows read at a time, and how often at most: evenly spread over a split


def response_hashes(responses: Iterable[str], letters: int = 1) -> Iterator[int]:
    """Hash one in eight responses of so many letters and digits: if 8 divides the hash."""
    for response in responses:
        text = normalised(response)
        if len(text) >= letters and (digest := xxh3_64_intdigest(text.encode())) % ONE_IN == 0:
            yield digest


def recognise(parts: Iterable[Dataset]) -> str | None:
    """Name the known corpus that rows are taken from: `DAILYDIALOG`, `SAMPLES` or None.

    A part of DailyDialog among other dialogues is enough, because its licence binds what is made of
    any part. The sample dialogues are recognised only if there is nothing else.
    """
    with np.load(HASHES) as known:
        dailydialog, samples = set(known["dailydialog"].tolist()), set(known["samples"].tolist())
    of_dailydialog, of_samples, others = set(), set(), set()
    for rows in parts:
        responses = rows.select_columns("response").with_format("arrow")
        step = BLOCK * max(1, math.ceil(len(rows) / (BLOCK * BLOCKS)))
        for start in range(0, len(rows), step):
            block = responses[start : start + BLOCK]["response"].to_pylist()
            hashes = set(response_hashes(block))
            of_dailydialog |= hashes & dailydialog
            of_samples |= hashes & samples
            others |= hashes - samples
            if len(of_dailydialog) >= FEW_LONG:
                return DAILYDIALOG
    return SAMPLES if len(of_samples) >= FEW and not others else None
