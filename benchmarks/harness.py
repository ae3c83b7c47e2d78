"""How it is measured: contestants in turn, each in a process of its own; medians and ratios.

A contestant is a function of `Turns` and of options. It makes itself ready and then measures once
for each turn:

    def contestant(turns, ...):
        ...                                             # load, warm up
        for number in turns:                            # the round
            ...
            turns.done({"work": ..., "seconds": ...})   # what was done, in how long

work / seconds is the speed; anything else in a measurement is kept. What a contestant makes lives
in its process, so that its peak memory is its own; the processes wait while another measures. Each
round lets every contestant measure once, so that whatever else slows the machine meets all of them;
ratios are taken within a round.
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
import statistics
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import datasets
import transformers
from rich.console import Console
from rich.markup import escape
from rich.table import Table

# Imported once, by the process that all contestants are forked from.
PRELOAD = ["benchmarks.answering", "benchmarks.preparation"]


class Skip(Exception):
    """A contestant cannot take part; the message says what is missing."""


class Turns:
    """The contestant's end of the line: iterate for the rounds, and call `done` in each."""

    def __init__(self, connection):
        self.connection = connection

    def __iter__(self) -> Iterator[int]:
        self.connection.send({})  # ready
        while True:
            yield self.connection.recv()

    def done(self, measurement: dict) -> None:
        """Hand in the measurement of this round."""
        self.connection.send({"peak_mib": peak_memory()} | measurement)


def peak_memory() -> float:
    """Return the greatest resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage tells there includes the parent's, from before the fork
        line = next(line for line in status.read_text().split("\n") if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _run(connection, contestant: Callable, options: dict) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    warnings.simplefilter("ignore")
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        contestant(Turns(connection), **options)
    except Skip as reason:
        connection.send({"skipped": str(reason)})
    except EOFError:
        pass  # there are no more turns
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
        connection.send({"failed": " ".join(reason.split())[:500]})


class _Running:
    """A contestant in its process."""

    def __init__(self, context, contestant: Callable, options: dict):
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_run, args=(theirs, contestant, options))
        self.process.start()
        theirs.close()

    def answer(self, limit: float | None) -> dict:
        """Wait for what it says: that it is ready, a measurement, or why it has dropped out."""
        try:
            if self.connection.poll(limit):
                return self.connection.recv()
        except EOFError:
            self.process.join()
            return {"failed": f"its process ended with status {self.process.exitcode}"}
        self.process.kill()
        return {"failed": f"no answer within {limit} seconds"}

    def end(self) -> None:
        """Let it go; one that waits for its turn ends, any other is killed."""
        self.connection.close()
        self.process.join(10)
        self.process.kill()
        self.process.join()


def in_turn(
    contestants: dict[str, tuple[Callable, dict]],
    rounds: int,
    console: Console,
    limit: float | None = None,
) -> dict[str, dict]:
    """Let contestants measure in turn.

    Args:
        contestants: by name, a function of a module (see above) and its keyword arguments.
        rounds: how often each measures.
        console: gets a line for each measurement.
        limit: seconds after which a contestant that has not answered is given up.

    Returns:
        By name `{"rounds": [measurement, ...], "speed": summary}`, or `{"skipped": why}`, or
        `{"failed": why}`: one that fails does not keep the others from being measured.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    running, results = {}, {}

    def answer(name: str) -> dict | None:
        """Wait for a contestant; None where it has dropped out."""
        said = running[name].answer(limit)
        if {"skipped", "failed"}.isdisjoint(said):
            return said
        results[name] = said
        running.pop(name).end()
        console.print(f"  {escape(name)}: {escape(': '.join(*said.items()))}")
        return None

    try:
        for name, (contestant, options) in contestants.items():
            running[name] = _Running(context, contestant, options)
            if answer(name) is not None:
                results[name] = {"rounds": []}
        for number in range(rounds):
            for name in list(running):
                running[name].connection.send(number)
                measured = answer(name)
                if measured is not None:
                    results[name]["rounds"].append(measured)
                    seconds, speed = measured["seconds"], measured["work"] / measured["seconds"]
                    said = f"{speed:,.4g} a second, over {seconds:,.1f} s"
                    console.print(f"  round {number + 1}, {escape(name)}: {said}", highlight=False)
    finally:
        for each in running.values():
            each.end()
    for name, result in results.items():
        if "rounds" in result:
            results[name]["speed"] = summary(speeds(result))
    return results


def summary(values: Sequence[float]) -> dict:
    """Median, least and greatest of some values."""
    return {"median": statistics.median(values), "least": min(values), "greatest": max(values)}


def speeds(result: dict) -> list[float]:
    """Work per second of each round."""
    return [measured["work"] / measured["seconds"] for measured in result["rounds"]]


def compare(results: dict[str, dict], ours: str, peer: str, target: float | None = None) -> dict:
    """Compare two contestants round by round.

    Args:
        results: of `in_turn`.
        ours, peer: names in it.
        target: the ratio to reach.

    Returns:
        `ratio` (ours' speed over the peer's: the rounds, their median, least and greatest) and
        whether the median has `reached` the target; `skipped` where one of them has no figures.
    """
    row = {"ours": ours, "peer": peer, "target": target}
    for name in (ours, peer):
        if "rounds" not in results[name]:
            return row | {"skipped": f"{name}: {': '.join(*results[name].items())}"}
    rounds = [a / b for a, b in zip(speeds(results[ours]), speeds(results[peer]), strict=True)]
    ratio = {"rounds": rounds} | summary(rounds)
    return row | {"ratio": ratio, "reached": None if target is None else ratio["median"] >= target}


def check(what: str, value: float, at_least: float | None = None, at_most: float | None = None):
    """Compare a figure with a bound; without one it is only told."""
    reached = None
    if at_least is not None or at_most is not None:
        low = -float("inf") if at_least is None else at_least
        reached = low <= value <= (float("inf") if at_most is None else at_most)
    bound = {"at_least": at_least, "at_most": at_most}
    return {"what": what, "value": value, "reached": reached} | bound


def print_part(part: dict, console: Console) -> None:
    """Print the speeds of a part and how they compare."""
    table = Table(title=f"{part['part']}: {part['title']}", title_justify="left")
    table.add_column("")
    for heading in (part["unit"], "least to greatest", "padding", "peak MiB"):
        table.add_column(heading, justify="right")
    for name, result in part["contestants"].items():
        if "rounds" not in result:
            table.add_row(escape(name), ": ".join(*result.items())[:60])
            continue
        speed, rounds = result["speed"], result["rounds"]
        padding = [measured["padding"] for measured in rounds if "padding" in measured]
        table.add_row(
            escape(name),
            f"{speed['median']:,.4g}",
            f"{speed['least']:,.4g} to {speed['greatest']:,.4g}",
            f"{statistics.mean(padding):.1%}" if padding else "",
            f"{max(measured['peak_mib'] for measured in rounds):,.0f}",
        )
    console.print(table)
    lines = []
    for row in part["ratios"]:
        line = f"{row['ours']} against {row['peer']}: "
        if "skipped" in row:
            lines.append(line + row["skipped"])
            continue
        ratio = row["ratio"]
        line += f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['greatest']:.2f})"
        lines.append(line + _verdict(row["reached"], row["target"], None))
    for row in part["checks"]:
        verdict = _verdict(row["reached"], row["at_least"], row["at_most"])
        lines.append(f"{row['what']}: {row['value']:,.4g}{verdict}")
    for line in lines:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def _verdict(reached: bool | None, at_least: float | None, at_most: float | None) -> str:
    if reached is None:
        return ""
    bounds = (("at least", at_least), ("at most", at_most))
    said = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
    return f"; to reach: {said}: {'reached' if reached else 'missed'}"
