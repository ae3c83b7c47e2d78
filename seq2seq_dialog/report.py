"""What a run leaves to read and to look at: settings, metrics, predictions, curves, tables."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import torch
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .arguments import UsageError

matplotlib.use("Agg")
from matplotlib import pyplot

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "evaluate", "sentencepiece")
PACKAGES += ("huggingface_hub", "sacrebleu", "rouge-score", "nltk", "tokenizers")


def environment(world_size: int, training_data: str) -> dict:
    """Describe what a run is made with: versions, device, git revision of the code, data.

    Args:
        world_size: number of processes.
        training_data: the fingerprint of the training rows.
    """
    gpu = torch.cuda.is_available()
    return {
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name()
        if gpu
        else f"CPU, {torch.get_num_threads()} threads",
        "processes": world_size,
        "training_data": training_data,
        "git_revision": _git_revision(),
        "date": datetime.date.today().isoformat(),
    }


def _git_revision() -> str | None:
    """The commit of this code, `+changes` where files differ from it; None outside a checkout.

    A repository around an installed package is another's: this file is not tracked there.
    """
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        run = {"capture_output": True, "text": True, "check": True, "timeout": 10}
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], **run)
        revision = subprocess.run([*git, "rev-parse", "HEAD"], **run).stdout.strip()
        status = [*git, "status", "--porcelain", "--untracked-files=no"]
        return revision + ("+changes" if subprocess.run(status, **run).stdout else "")
    except (OSError, subprocess.SubprocessError):
        return None


def predictions(rows, outputs: list[dict], clean: Iterable[bool] | None) -> list[dict]:
    """Put replies beside the rows they answer.

    Args:
        rows: the evaluated split.
        outputs: `predictions` of `DialogueTrainer.predict`.
        clean: of each row, whether nothing of it stands in train; None if that is not known.
    """
    columns = ("dialogue_id", "turn", "context", "response")
    lines = []
    for row, output in zip(rows.select_columns(columns), outputs, strict=True):
        row["reference"] = row.pop("response")
        lines.append(row | {key: output[key] for key in ("reply", "nll", "tokens")})
    if clean is not None:
        for line, flag in zip(lines, clean, strict=True):
            line["clean"] = bool(flag)
    return lines


def read_json(path: Path):
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_jsonl(path: Path) -> list[dict]:
    """Read an object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_json(path: Path, content) -> None:
    """Write JSON so that a reader never sees half of it."""
    _write(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Write an object a line."""
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_yaml(path: Path, settings: dict) -> None:
    """Write settings as a config file."""
    _write(path, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def check_writable(path: Path) -> None:
    """Refuse a path that cannot be written, before long work for it; make its folder.

    Raises:
        UsageError: names the folder and the reason.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"Cannot write to {str(path.parent)!r}: {error}.") from error


def plot_curves(log_history: list[dict], path: Path) -> None:
    """Draw the training and validation loss over steps to a PNG.

    Of adversarial training, whose training loss says nothing, the likelihood of human replies
    takes its place, and a second panel shows how sampled replies fare: a collapse is seen there.

    Args:
        log_history: `trainer.state.log_history`.
    """
    adversarial = any("eval_adversarial_success" in log for log in log_history)
    height, panels = (7, 2) if adversarial else (4, 1)
    figure, axes = pyplot.subplots(
        panels, 1, figsize=(7, height), layout="constrained", sharex=True, squeeze=False
    )
    axes = axes[:, 0]
    lines = [
        (0, "human_loss" if adversarial else "loss", "training", "tab:blue", 1.2, "", 1),
        (0, "eval_loss", "validation", "tab:orange", 2, "o", 1),
    ]
    if adversarial:
        lines += [
            (1, "eval_discriminator_accuracy", "discriminator accuracy", "tab:red", 2, "o", 1),
            (1, "eval_adversarial_success", "adversarial success", "tab:green", 2, "s", 1),
            (1, "eval_reward", "mean reward x 100", "tab:purple", 2, "^", 100),
            (1, "eval_sampled_distinct_2", "Distinct-2 of samples", "tab:gray", 2, "v", 1),
        ]
        axes[1].set(ylabel="%, on held-out contexts", ylim=(0, 100))
    for panel, key, label, color, width, marker, scale in lines:
        points = [(log["step"], scale * log[key]) for log in log_history if key in log]
        if points:
            x, y = zip(*points, strict=True)
            axes[panel].plot(x, y, color=color, lw=width, marker=marker, label=label)
    axes[0].set(ylabel="loss (nats per target token)")
    axes[-1].set(xlabel="optimizer step")
    for panel in axes:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        if panel.lines:
            panel.legend(frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


# Printed rows: what each figure is called, and in what it is counted.
HEADLINES = {
    "perplexity": "perplexity per token",
    "unigram_perplexity": "  of a unigram model of the training replies",
    "bleu": "sacreBLEU",
    **{f"bleu_{n}": f"BLEU-{n}" for n in range(1, 5)},
    "chrf": "chrF",
    **{f"rouge_{n}": f"ROUGE-{n.upper()}" for n in "12l"},
    **{f"distinct_{n}": f"Distinct-{n}" for n in range(1, 3)},
    "reply_words": "words per reply",
    "reference_words": "words per reference",
}


def print_metrics(metrics: dict, console: Console) -> None:
    """Print the headline figures of the evaluated splits as a table."""
    splits = [name for name in ("validation", "test") if name in metrics]
    table = Table("metric", *splits, title="Evaluation", title_justify="left")
    for name, label in HEADLINES.items():
        values = [metrics[split].get(name) for split in splits]
        if values != [None] * len(splits):
            table.add_row(label, *("" if value is None else f"{value:,.2f}" for value in values))
    console.print(table)


def print_evaluation(evaluation: dict, console: Console) -> None:
    """Print model and baselines side by side, all pairs and clean ones, and the verdict.

    Args:
        evaluation: what `evaluation.evaluate` returns.
    """
    rows = [row for row in evaluation["results"] if row["protocol"] == "default"]
    shown = {"bleu": "sacreBLEU", "bleu_2": "BLEU-2", "rouge_l": "ROUGE-L", "chrf": "chrF"}
    shown |= {"distinct_2": "Distinct-2"}
    pairs = {row["subset"]: row["pairs"] for row in rows}
    title = f"{evaluation['split']}: all pairs"
    if "clean" in pairs:
        title += " / clean pairs, of which nothing stands in train"
    table = Table("system", *shown.values(), title=title, title_justify="left")
    table.add_row("pairs", " / ".join(f"{count:,}" for count in pairs.values()))
    for system in dict.fromkeys(row["system"] for row in rows):
        own = [row["metrics"] for row in rows if row["system"] == system]
        cells = (" / ".join(f"{metrics[name]:.2f}" for metrics in own) for name in shown)
        table.add_row(system, *cells)
    console.print(table)
    for sentence in evaluation["verdict"]:
        console.print(sentence, highlight=False, soft_wrap=True)


def print_samples(predictions: list[dict], console: Console, count: int = 8) -> None:
    """Print evenly spaced predictions as a table of context, reference and reply."""
    table = Table(title="Samples from the test set", title_justify="left", show_lines=True)
    for column, ratio in (("context", 5), ("reference", 3), ("reply", 3)):
        table.add_column(column, ratio=ratio)
    step = max(1, len(predictions) // count)
    for row in predictions[::step][:count]:
        context = "\n".join(f"- {turn}" for turn in row["context"][-3:])
        table.add_row(escape(context), escape(row["reference"]), escape(row["reply"]))
    console.print(table)
