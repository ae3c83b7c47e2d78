"""Whether two runs differ beyond chance: a paired bootstrap test on the same test pairs.

Both systems are measured on the same resamples (Koehn, 2004). p of a difference is the share of
resamples whose difference is at least as far from the measured one as that is from zero (Noreen,
1989; Berg-Kirkpatrick et al., 2012; here on both sides). The interval leaves out zero exactly where
p is below 0.05. Whole dialogues are drawn, because their pairs are alike: drawing pairs would find
differences where there are none. Of several metrics, one may still differ by chance. What agrees
best with people comes first (docs/concepts/agreement.md).
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Column, Table

from ..errors import UsageError
from ..evaluation.bootstrap import bootstrap, doubt_of_few, with_intervals
from ..evaluation.catalogue import LOWER, METRICS, leading_first
from ..evaluation.metrics import PairStatistics, likelihood_statistics, pair_statistics
from ..run_folder import check_result, read_language, read_predictions, write_json
from . import seeds
from .console import plain_console

LEVEL = 0.05  # of p: below it, a difference is beyond chance
LEAST_SAMPLES = 100
PER_TOKEN = ("perplexity", "context_gain")
LIKELIHOOD = (*PER_TOKEN, "bits_per_byte")


def _check_pairs(a: list[dict], b: list[dict]) -> None:
    """Refuse runs that do not answer the same; say where they first differ."""
    way_out = (
        "Only answers to the same can be compared: evaluate both runs with the same data, "
        "detokenize and max_eval_samples."
    )
    if len(a) != len(b):
        raise UsageError(f"RUN_A has {len(a):,} pairs and RUN_B {len(b):,}. {way_out}")
    for line, (one, other) in enumerate(zip(a, b, strict=True), 1):
        for name in ("context", "reference"):
            if one[name] != other[name]:
                x, y = _first_difference(one[name], other[name])
                raise UsageError(
                    f"In line {line} of predictions.jsonl the {name} of RUN_A has {x} where that "
                    f"of RUN_B has {y}. {way_out}"
                )


def _first_difference(a: str | list[str], b: str | list[str]) -> tuple[str, str]:
    """Quote two texts, or the first turns that differ, shortly."""
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return f"{len(a)} turns", f"{len(b)}"
        a, b = next((x, y) for x, y in zip(a, b, strict=True) if x != y)
    return tuple(repr(text if len(text) <= 80 else text[:80] + "…") for text in (a, b))


def paired_bootstrap(
    a: PairStatistics, b: PairStatistics, samples: int, seed: int, dialogues: Sequence
) -> dict:
    """Test on both sides whether a metric of two systems, on the same pairs, differs beyond chance.

    `dialogues` names of each pair the dialogue that it is from. Returns `a` and `b`, the metric;
    `difference`, b - a; `interval`, its 95 % one; `p`.
    """
    figure_a, figure_b = a.figure(), b.figure()
    difference = figure_b - figure_a
    resampled_a, resampled_b = (
        bootstrap({"metric": metric}, samples, seed, dialogues)["metric"] for metric in (a, b)
    )
    distances = np.sort(np.abs(resampled_b - resampled_a - difference))[::-1]
    # p is below 1/20 if at most so many resamples are as far away as the difference is from 0.
    most = -(-(samples + 1) // 20) - 2
    margin = float(distances[most])
    return {
        "a": figure_a,
        "b": figure_b,
        "difference": difference,
        "interval": [difference - margin, difference + margin],
        "p": (1 + int((distances >= abs(difference)).sum())) / (samples + 1),
    }


def compare(
    folder: str,
    other: str,
    samples: int = 1000,
    seed: int = 42,
    subset: str = "full",
    output: str | Path | None = None,
) -> dict:
    """Compare the replies of two runs to the same contexts; print a table and what it says.

    Of two folders of runs under several seeds, the means are compared, and how they spread over the
    seeds (`seeds.compare_summaries`); nothing is resampled.

    With the subset `clean`, only those pairs count that the rows of both runs call `clean`. The
    figures are returned and, as JSON, written to `output`: `metrics` has what `paired_bootstrap`
    returns by name, `verdict` a sentence each.
    """
    output = None if output is None else Path(output)
    _check(samples, seed, output)
    if subset not in ("full", "clean"):
        raise UsageError(f"subset is {subset!r}; it must be one of full, clean.")
    summaries = [seeds.read_summary(folder), seeds.read_summary(other)]
    folders = _first_runs((folder, other), summaries)
    runs = [read_predictions(each) for each in folders]
    _check_pairs(*runs)
    result = {"a": str(folder), "b": str(other), "subset": subset}
    if all(summaries):
        if subset == "clean":
            _check_same_clean(runs, folders)
        left_out, missing = _incomparable(runs)
        result |= seeds.compare_summaries(*summaries, subset, left_out)
        result["verdict"] += [missing] if missing else []
        seeds.print_compared(result)
    else:
        runs = _clean(runs) if subset == "clean" else runs
        result |= _test(runs, samples, seed, read_language(folder))
        print_comparison(result)
    if output:
        write_json(output, result)
        print(f"Written to {output}.")
    return result


def _first_runs(folders: Sequence[str], summaries: Sequence[dict | None]) -> list[Path]:
    """Return each run, or the first of those under several seeds; refuse one of each kind."""
    if all(summaries):
        names = (seeds.folder_name(summary["seeds"][0]) for summary in summaries)
        return [Path(folder) / name for folder, name in zip(folders, names, strict=True)]
    for folder, summary in zip(folders, summaries, strict=True):
        if summary is not None:
            run = Path(folder) / seeds.folder_name(summary["seeds"][0])
            raise UsageError(
                f"{str(folder)!r} holds runs under several seeds, and the other folder is one run. "
                f"Compare one of them with it, {str(run)!r}."
            )
    return [Path(folder) for folder in folders]


def _check(samples: int, seed: int, output: Path | None) -> None:
    """Refuse settings that cannot be used, before anything is read."""
    if samples < LEAST_SAMPLES:
        raise UsageError(f"samples is {samples}; it must be at least {LEAST_SAMPLES}.")
    if seed < 0:
        raise UsageError(f"seed is {seed}; it must be at least 0.")
    if output is None:
        return
    check_result(output, "comparison", {"a", "b", "metrics", "verdict"})


def _test(runs: list[list[dict]], samples: int, seed: int, language: str) -> dict:
    """Test each metric of two runs that answer the same pairs, and say what it means."""
    dialogues = [row["dialogue_id"] for row in runs[0]]
    count = len(set(dialogues))
    if count < 2:
        raise UsageError(f"There is {count} dialogue to resample; 2 are the least. Evaluate more.")
    scored, note = _cut_alike(runs)
    left_out, missing = _incomparable(scored)
    a, b = (
        pair_statistics(
            [row["reply"] for row in rows], [row["reference"] for row in rows], language
        )
        | ({} if "bits_per_byte" in left_out else likelihood_statistics(scored_rows))
        for rows, scored_rows in zip(runs, scored, strict=True)
    )
    of_scored = [row["dialogue_id"] for row in scored[0]]
    metrics = {
        name: paired_bootstrap(
            a[name], b[name], samples, seed, of_scored if name in LIKELIHOOD else dialogues
        )
        for name in leading_first(with_intervals(a))
        if name not in left_out
    }
    verdict = [sentence(name, test) for name, test in metrics.items()]
    verdict += filter(None, [note, missing])
    verdict += doubt_of_few(count, "p is")
    return {
        "pairs": len(dialogues),
        "dialogues": count,
        "samples": samples,
        "seed": seed,
        "metrics": metrics,
        "verdict": verdict,
    }


def _clean(runs: list[list[dict]]) -> list[list[dict]]:
    """Keep the pairs that both runs call clean."""
    for name, rows in zip(("RUN_A", "RUN_B"), runs, strict=True):
        if not all(isinstance(row.get("clean"), bool) for row in rows):
            raise UsageError(
                f"The predictions of {name} do not say which pairs are clean. Evaluate the run "
                "anew, or compare with --subset full."
            )
    both = [one["clean"] and other["clean"] for one, other in zip(*runs, strict=True)]
    if not any(both):
        raise UsageError("No pair is clean in both runs. Compare with --subset full.")
    return [[row for row, kept in zip(rows, both, strict=True) if kept] for rows in runs]


def _check_same_clean(runs: list[list[dict]], folders: Sequence[Path]) -> None:
    """Refuse sets of runs whose means are of different clean pairs."""
    a, b = ([row.get("clean") for row in rows] for rows in runs)
    if a != b:
        raise UsageError(
            f"RUN_A and RUN_B call other pairs clean ({a.count(True):,} and {b.count(True):,}), "
            "and the means over seeds are of those of each. Single runs are compared on the pairs "
            f"that both call clean: compare {str(folders[0])!r} with {str(folders[1])!r}, or with "
            "--subset full."
        )


def _cut_alike(runs: list[list[dict]]) -> tuple[list[list[dict]], str]:
    """Keep the pairs whose references both runs cut alike, and say so; all, if too few are."""
    pairs = [pair for pair in zip(*runs, strict=True) if len({r.get("bytes") for r in pair}) == 1]
    are_known = all(row.get("bytes") is not None for rows in runs for row in rows)
    dialogues = {row["dialogue_id"] for row, _ in pairs}
    if not are_known or len(pairs) == len(runs[0]) or len(dialogues) < 2:
        return runs, ""
    note = f"Likelihood is of the {len(pairs):,} pairs whose references A and B cut alike."
    return [list(rows) for rows in zip(*pairs, strict=True)], note


def _incomparable(runs: list[list[dict]]) -> tuple[tuple[str, ...], str]:
    """Return which figures of likelihood cannot be compared, and a sentence that says why."""
    for name, rows in zip("AB", runs, strict=True):
        figures = [row.get(key) for row in rows for key in ("nll", "tokens", "bytes")]
        exchanged = (row.get("exchanged_nll") for row in rows)
        figures += [nll for nll in exchanged if nll is not None]
        if not all(isinstance(figure, int | float) and math.isfinite(figure) for figure in figures):
            reason = f"{name} has pairs for which it is not known"
            return LIKELIHOOD, f"Likelihood is left out: {reason}."
    a, b = ([row["bytes"] for row in rows] for rows in runs)
    if a != b:
        return LIKELIHOOD, "Likelihood is left out: A and B cut references at different lengths."
    a, b = ([row["tokens"] for row in rows] for rows in runs)
    if a != b:
        reason = "A and B split the references into different tokens"
        return PER_TOKEN, f"Perplexity and context gain are left out: {reason}."
    return (), ""


def sentence(name: str, test: dict) -> str:
    """Say in a sentence whether a metric differs beyond chance, by its `paired_bootstrap`."""
    metric, difference = METRICS[name], test["difference"]
    if test["p"] >= LEVEL:
        return f"{metric.label}: no difference beyond chance (p = {test['p']:.4f})."
    better = "B" if (difference > 0) != (metric.direction == LOWER) else "A"
    low, high = sorted(abs(bound) for bound in test["interval"])
    return (
        f"{metric.label}: {better} is better by {abs(difference):.3f} ({low:.3f} to {high:.3f}), "
        f"beyond chance (p = {test['p']:.4f})."
    )


def print_comparison(result: dict) -> None:
    """Print what `compare` returns as a table with a sentence a metric below."""
    for name in "AB":
        print(f"{name}: {result[name.lower()]}")
    columns = ("A", "B", "B - A", "95 % interval", "p")
    table = Table("metric", *(Column(name, justify="right") for name in columns))
    for name, test in result["metrics"].items():
        figures = (f"{test[key]:.3f}" for key in ("a", "b"))
        interval = " to ".join(f"{bound:+.3f}" for bound in test["interval"])
        difference = f"{test['difference']:+.3f}"
        table.add_row(METRICS[name].label, *figures, difference, interval, f"{test['p']:.4f}")
    plain_console().print(table)
    clean = "clean " if result["subset"] == "clean" else ""
    print(
        f"{result['pairs']:,} {clean}pairs of {result['dialogues']:,} dialogues, which were "
        f"resampled {result['samples']:,} times (seed {result['seed']}); chance is p of "
        f"{LEVEL} or more."
    )
    print(*result["verdict"], sep="\n")
