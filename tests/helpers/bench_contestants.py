"""Contestants for test_bench.py; processes of their own import this file, which is quick."""

import time

from benchmarks.harness import Skip


def counting(turns, megabytes=0, broken=False):
    """Speeds of 2, 4, 6, ...; breaks in the second round where it is to."""
    held = b"1" * (megabytes * 2**20)
    for number in turns:
        if broken and number == 1:
            raise ValueError("not today")
        turns.done({"work": number + 1, "seconds": 0.5, "held": len(held)})


def late(turns):
    """Is never ready."""
    time.sleep(600)


def bare(turns):
    """Cannot take part."""
    raise Skip("a wheel is missing")
