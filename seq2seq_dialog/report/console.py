"""A run's figures and samples as tables in the terminal."""

import json
import logging
import shlex
from pathlib import Path

import datasets
import transformers
from rich.console import Console
from rich.table import Table

from ..evaluation.catalogue import METRICS, keys_with
from ..run_folder import evenly_spaced, read_json, read_mapping, read_predictions
from ..shipped import command, interpreter
from ..training.lora import holds_adapter
from .tables import column, figures_of_splits


def set_up_console(main_process: bool) -> Console:
    """Let warnings through, from one process only; console and progress bars speak for the rest."""
    level = logging.WARNING if main_process else logging.ERROR
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=level)
    datasets.utils.logging.set_verbosity(level)
    transformers.utils.logging.set_verbosity(level)
    transformers.utils.logging.disable_progress_bar()
    if not main_process:
        datasets.disable_progress_bars()
    return plain_console(quiet=not main_process)


def plain_console(**options) -> Console:
    """Make a console that prints texts as they stand: paths and replies hold brackets, too."""
    return Console(markup=False, emoji=False, highlight=False, **options)


def print_metrics(metrics: dict, console: Console) -> None:
    """Print the figures of the evaluated splits, from metrics.json, as a table."""
    splits = [name for name in ("validation", "test") if name in metrics]
    if not splits:
        console.print("Nothing is evaluated: there are no pairs for it, or no setting asks for it.")
        return
    table = Table("metric", *splits, title="Evaluation", title_justify="left")
    for key in figures_of_splits(metrics):
        values = [metrics[split].get(key) for split in splits]
        if any(value is not None for value in values):
            label, unit, *_ = column(key)
            figures = ("" if value is None else f"{value:,.2f}" for value in values)
            table.add_row(f"{label} ({unit})" if unit else label, *figures)
    console.print(table)


def print_evaluation(evaluation: dict, console: Console) -> None:
    """Print model and baselines side by side, all pairs and clean ones, and the verdict."""
    rows = [row for row in evaluation["results"] if row["protocol"] == "default"]
    # What all have: a baseline has no perplexity.
    shown = [key for key in keys_with("main") if all(key in row["metrics"] for row in rows)]
    pairs = {row["subset"]: row["pairs"] for row in rows}
    title = f"{evaluation['split']}: all pairs"
    if "clean" in pairs:
        title += " / clean pairs, of which nothing appears in train"
    labels = [METRICS[key].label for key in shown]
    table = Table("system", *labels, title=title, title_justify="left")
    table.add_row("pairs", " / ".join(f"{count:,}" for count in pairs.values()))
    for system in dict.fromkeys(row["system"] for row in rows):
        of_system = [row["metrics"] for row in rows if row["system"] == system]
        cells = (" / ".join(f"{metrics[key]:.2f}" for metrics in of_system) for key in shown)
        table.add_row(system, *cells)
    console.print(table)
    for sentence in evaluation["verdict"]:
        console.print(sentence, soft_wrap=True)


def print_samples(predictions: list[dict], split: str, console: Console) -> None:
    """Print eight evenly spaced predictions as a table of context, reference and reply."""
    table = Table(title=f"Samples from the {split} set", title_justify="left", show_lines=True)
    for head, ratio in (("context", 5), ("reference", 3), ("reply", 3)):
        table.add_column(head, ratio=ratio)
    for row in evenly_spaced(predictions, 8):
        context = "\n".join(f"- {turn}" for turn in row["context"][-3:])
        table.add_row(context, row["reference"], row["reply"])
    console.print(table)


def print_run(run_dir: Path, console: Console) -> None:
    """Print samples, figures and verdict of a finished run, and what to do next."""
    evaluation = read_mapping(run_dir / "evaluation.json")
    if (run_dir / "predictions.jsonl").exists():
        print_samples(read_predictions(run_dir), evaluation.get("split", "test"), console)
    print_metrics(read_json(run_dir / "metrics.json"), console)
    if evaluation:
        print_evaluation(evaluation, console)
    folder, page = shlex.quote(str(run_dir)), shlex.quote(f"{run_dir}/report.html")
    pipeline = (
        f'from transformers import pipeline; print(pipeline("text2text-generation", '
        f'model={json.dumps(str(run_dir))}, trust_remote_code=True)("How are you?"))'
    )
    steps = [f"{command('chat')} {folder}", f"open {page}"]
    if not holds_adapter(run_dir):  # transformers has a pipeline for whole models alone
        steps.insert(1, f"{interpreter()} -c {shlex.quote(pipeline)}")
    console.print(
        f"\nThe model, its settings, metrics, curves and replies are in {run_dir}. Next:",
        *steps,
        sep="\n  ",
        soft_wrap=True,
    )
