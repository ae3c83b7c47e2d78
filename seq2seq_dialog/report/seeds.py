"""The figures of one run under several seeds: their mean and spread, and two such sets compared."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from rich.table import Column, Table

from ..errors import UsageError
from ..evaluation.catalogue import HIGHER, LOWER, METRICS, keys_with, leading_first
from ..run_folder import read_json, read_mapping, write_json
from .console import plain_console

SUMMARY = "seeds.json"


def folder_name(seed: int | str) -> str:
    """Name the folder of the run with a seed."""
    return f"seed-{seed}"


def summarise(folder: Path, seeds: Sequence[int]) -> dict:
    """Put the main figures of the runs in a folder together; print them, write them to SUMMARY.

    `results` has for each split and subset of pairs, `full` or `clean`, the `metrics` by name:
    `mean`, `std`, the standard deviation with n - 1, and `values`, in the order of `seeds`.
    """
    check_same_data([folder / folder_name(seed) for seed in seeds])
    runs = [_figures(folder / folder_name(seed)) for seed in seeds]
    results = []
    for split, subset in runs[0]:
        of_runs = [run.get((split, subset), {}) for run in runs]
        values = {
            name: [metrics[name] for metrics in of_runs]
            for name in keys_with("main")
            if all(name in metrics for metrics in of_runs)
        }
        metrics = {
            name: {"mean": fmean(each), "std": stdev(each), "values": each}
            for name, each in values.items()
        }
        results.append({"split": split, "subset": subset, "metrics": metrics})
    summary = {"seeds": list(seeds), "results": results}
    write_json(folder / SUMMARY, summary)
    print_summary(summary)
    print(f"Written to {folder / SUMMARY}.")
    return summary


def check_same_data(run_dirs: Sequence[Path]) -> None:
    """Refuse to compare runs between which the dialogues were changed, as far as they tell."""
    first, *others = run_dirs
    keys = ("training_data", "validation_data")
    data = [[read_mapping(each / "environment.json").get(key) for key in keys] for each in run_dirs]
    for run_dir, of_run in zip(others, data[1:], strict=True):
        if any(a != b for a, b in zip(of_run, data[0], strict=True) if None not in (a, b)):
            raise UsageError(
                f"{run_dir} has learnt other dialogues than {first}: they were changed in between, "
                "so that figures do not compare. Choose another --output_dir for all."
            )


def _figures(run_dir: Path) -> dict[tuple[str, str], dict]:
    """Read the metrics of a finished run by split and subset."""
    metrics = read_json(run_dir / "metrics.json")
    figures = {
        (split, "full"): metrics[split] for split in ("validation", "test") if split in metrics
    }
    evaluation = read_mapping(run_dir / "evaluation.json")
    for row in evaluation.get("results", ()):
        if (row["system"], row["protocol"]) == ("model", "default"):
            figures.setdefault((evaluation["split"], row["subset"]), row["metrics"])
    return figures


def print_summary(summary: dict) -> None:
    """Print what `summarise` returns, a table for each split and subset."""
    seeds = summary["seeds"]
    heads = ("mean", "std", *(f"seed {seed}" for seed in seeds))
    for result in summary["results"]:
        pairs = "clean pairs" if result["subset"] == "clean" else "all pairs"
        print(
            f"{result['split']}, {pairs}: mean and standard deviation (n - 1) over "
            f"{len(seeds)} seeds"
        )
        table = Table("metric", *(Column(head, justify="right") for head in heads))
        for name, spread in result["metrics"].items():
            figures = (spread["mean"], spread["std"], *spread["values"])
            table.add_row(METRICS[name].label, *(f"{figure:,.3f}" for figure in figures))
        plain_console().print(table)


def read_summary(folder: str | Path) -> dict | None:
    """Read what `summarise` has written to a folder; None where it holds no such runs."""
    path = Path(folder) / SUMMARY
    if not path.is_file():
        return None
    summary = read_mapping(path)
    if not summary.keys() >= {"seeds", "results"}:
        raise UsageError(f"{str(path)!r} is not what a run with seeds writes there.")
    return summary


def compare_summaries(a: dict, b: dict, subset: str, left_out: Sequence[str]) -> dict:
    """Compare two sets of runs on the pairs that were evaluated last, the test pairs.

    Where two or more seeds are in both sets, the runs of each are a pair, and `std` is that of
    their differences. Otherwise it is that of the difference between two single runs.
    """
    common = [seed for seed in a["seeds"] if seed in b["seeds"]]
    common = common if len(common) > 1 else []
    of_a, of_b = (_metrics(summary, subset) for summary in (a, b))
    metrics = {}
    for name in leading_first(of_a):
        if name not in of_b or name in left_out or METRICS[name].direction not in (HIGHER, LOWER):
            continue
        one, other = (
            dict(zip(summary["seeds"], metrics[name]["values"], strict=True))
            for summary, metrics in ((a, of_a), (b, of_b))
        )
        differences = [other[seed] - one[seed] for seed in common]
        if common:
            mean_a, mean_b = (fmean(values[seed] for seed in common) for values in (one, other))
            spread = stdev(differences)
        else:
            mean_a, mean_b = fmean(one.values()), fmean(other.values())
            spread = math.hypot(stdev(one.values()), stdev(other.values()))
        metrics[name] = {"a": mean_a, "b": mean_b, "difference": mean_b - mean_a}
        metrics[name] |= {"std": spread, "differences": differences}
    verdict = [_sentence(name, test) for name, test in metrics.items()]
    return {"seeds": common, "metrics": metrics, "verdict": verdict}


def _metrics(summary: dict, subset: str) -> dict:
    """Return the metrics of the last split that has the subset."""
    results = [result for result in summary["results"] if result["subset"] == subset]
    if not results:
        raise UsageError(f"{SUMMARY} has no {subset} pairs. Compare with --subset full.")
    return results[-1]["metrics"]


def _sentence(name: str, test: dict) -> str:
    """Say in a sentence how two sets of runs differ in a metric."""
    metric, difference, count = METRICS[name], test["difference"], len(test["differences"])
    if difference == 0:
        return f"{metric.label}: no difference on average."
    better = "B" if (difference > 0) != (metric.direction == LOWER) else "A"
    wins = sum(each * difference > 0 for each in test["differences"])
    by = f"by {abs(difference):.3f} on average (standard deviation {test['std']:.3f})"
    if not count:
        return f"{metric.label}: {better} is better {by[:-1]} between runs, not paired)."
    if wins == count:
        return f"{metric.label}: {better} is better under each of {count} seeds, {by}."
    return f"{metric.label}: {better} is better {by}, but only under {wins} of {count} seeds."


def print_compared(result: dict) -> None:
    """Print a comparison of two sets of runs as a table with a sentence a metric below."""
    for name in "AB":
        print(f"{name}: {result[name.lower()]}")
    columns = ("A", "B", "B - A", "std")
    table = Table("metric", *(Column(name, justify="right") for name in columns))
    for name, test in result["metrics"].items():
        figures = f"{test['a']:.3f}", f"{test['b']:.3f}", f"{test['difference']:+.3f}"
        table.add_row(METRICS[name].label, *figures, f"{test['std']:.3f}")
    plain_console().print(table)
    seeds = ", ".join(map(str, result["seeds"]))
    print(
        f"Means over the seeds {seeds}, run by run; std is the standard deviation of B - A."
        if seeds
        else "Means over the seeds of each; std is that of the difference between two single runs."
    )
    print(*result["verdict"], sep="\n")
