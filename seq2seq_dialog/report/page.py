"""A run as one page to read, report.html and report.md, made from what the run folder holds.

The HTML needs neither network nor script: tables and pictures (SVG) stand in the file, in light and
dark. What is shown is decided here, how it looks in the two templates.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from sacrebleu.metrics import CHRF

from ..errors import UsageError
from ..run_folder import read_json, read_jsonl
from .public_settings import data_name

SEED = 42  # of the draw of samples
BEST, WORST, DRAWN = 6, 6, 8  # samples
POINTS = 500  # of a curve, about the most that are drawn
HIGHER, LOWER, ONE = "↑", "↓", "→ 1"
# What a figure is called, its unit, and what is better. The order is that of columns.
METRICS = {
    "pairs": ("pairs", "", ""),
    "perplexity": ("perplexity", "per token", LOWER),
    "unigram_perplexity": ("unigram model", "perplexity", ""),
    "bleu": ("sacreBLEU", "", HIGHER),
    **{f"bleu_{n}": (f"BLEU-{n}", "", HIGHER) for n in range(1, 5)},
    **{f"bleu_{n}_mean": (f"BLEU-{n}", "mean", HIGHER) for n in range(1, 5)},
    **{f"plato_bleu_{n}": (f"PLATO BLEU-{n}", "", HIGHER) for n in (1, 2)},
    "chrf": ("chrF", "", HIGHER),
    **{f"rouge_{n}": (f"ROUGE-{n.upper()}", "", HIGHER) for n in "12l"},
    "rouge_l_mean": ("ROUGE-L", "mean", HIGHER),
    "rouge_l_pooled": ("ROUGE-L", "pooled", HIGHER),
    **{f"distinct_{n}": (f"Distinct-{n}", "%", HIGHER) for n in range(1, 4)},
    "entropy_4": ("entropy-4", "nats", HIGHER),
    "self_bleu": ("self-BLEU", "", LOWER),
    "copied": ("copied", "% of replies", LOWER),
    "generic": ("generic", "% of replies", LOWER),
    "repetition": ("repetition", "% of 3-grams", LOWER),
    "length_ratio": ("length", "reply / reference", ONE),
    "reply_words": ("reply", "words", ""),
    "reference_words": ("reference", "words", ""),
    "epoch": ("epoch", "", ""),
    "eval_loss": ("loss", "nats per token", LOWER),
    "eval_perplexity": ("perplexity", "per token", LOWER),
    "eval_discriminator_accuracy": ("discriminator accuracy", "%", ""),
    "eval_adversarial_success": ("adversarial success", "%", HIGHER),
    "eval_reward": ("reward", "0 to 1", HIGHER),
    "eval_sampled_distinct_2": ("Distinct-2 of samples", "%", HIGHER),
}
MAIN = ("perplexity", "bleu", "bleu_2", "chrf", "rouge_l", "distinct_2")  # the first table
CHECKS = ("epoch", *(key for key in METRICS if key.startswith("eval_")))  # while training
PROTOCOLS = {
    "default": "Likeness to the reference",
    "plato": "By the protocol of PLATO",
    "multiref": "With several references: the likest counts, or the mean",
    "multiref-4": "The same without the second reference, which stands as a system",
}
CONTEXTS = {"1": "last turn of context", "3": "last three turns", "all": "whole context"}
GROUPS = {"by_turn": ("turns", "turns of context"), "by_length": ("words", "words of reference")}


def table(title: str, head: str, rows: list[dict], keys=(), notes=()) -> dict | None:
    """Lay out figures: rows of one name in one line, their subsets side by side.

    Args:
        head: what the rows' names are.
        rows: each has `name` and `metrics`, and `subset` and `intervals` where there are.
        keys: the figures to show; by default all, unknown ones last.
        notes: in small print.

    Returns:
        The arguments; `columns`, each (label, unit, better); `subsets`; `rows`, each a name and for
        each column and subset a figure and its interval as text. None where there is no figure.
    """
    metrics = [row["metrics"] for row in rows]
    found = {key: None for own in metrics for key in own if isinstance(own[key], int | float)}
    keys = [key for key in keys or METRICS | found if key in found]
    subsets = list(dict.fromkeys(row.get("subset", "") for row in rows))
    places = {(row["name"], row.get("subset", "")): row for row in rows}

    def cell(key: str, row: dict) -> tuple[str, str]:
        interval = map(figure, row.get("intervals", {}).get(key, ()))
        return figure(row.get("metrics", {}).get(key)), "–".join(interval)

    lines = [
        (name, [[cell(key, places.get((name, subset), {})) for subset in subsets] for key in keys])
        for name in dict.fromkeys(row["name"] for row in rows)
    ]
    columns = [METRICS.get(key, (key.replace("_", " "), "", "")) for key in keys]
    layout = {"title": title, "head": head, "columns": columns, "subsets": subsets}
    return layout | {"rows": lines, "notes": list(notes)} if keys else None


def figure(value: float | None) -> str:
    """Write a number for people: two decimals, none from 1,000 on; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{0 if value >= 1000 else 2}f}"


def markdown(text) -> Markup:
    """Escape text for Markdown: one line without markup, fit for the cell of a table."""
    if isinstance(text, Markup):
        return text
    text = " ".join(str(text).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # A backslash by its number: before a bracket, two of them would begin mathematics.
    return Markup(re.sub(r"([`*_\[\]|~$#])", r"\\\1", text.replace("\\", "&#92;")))


def score_tables(results: list[dict]) -> list[dict]:
    """Set the systems under one another by each protocol; the default's figures fill two tables.

    The notes say what moves the figures: pairs, decoding, and signatures with whose they are.
    """
    tables = []
    for protocol in dict.fromkeys(row["protocol"] for row in results):
        rows = [row | {"name": row["system"]} for row in results if row["protocol"] == protocol]
        signatures = {}
        for row in rows:
            texts = [f"{key} {x}" for key, x in row["metrics"].items() if isinstance(x, str)]
            signature = ", ".join(filter(None, [row.get("signature"), *texts]))
            signatures.setdefault(signature, {})[row["name"]] = None
        pairs = {row["subset"]: f"{row['subset']} {row['pairs']:,}" for row in rows}
        notes = {f"Pairs: {', '.join(pairs.values())}": None}
        notes |= {f"Decoding: {row['decoding']}": None for row in rows if row.get("decoding")}
        for signature, names in signatures.items():
            whose = f" of {', '.join(names)}" if len(signatures) > 1 else ""
            notes |= {f"Signature{whose}: {signature}": None} if signature else {}
        title, default = PROTOCOLS.get(protocol, protocol), protocol == "default"
        tables.append(table(title, "system", rows, MAIN if default else (), notes))
        tables.append(table("All figures", "system", rows) if default else None)
    return [each for each in tables if each]


def quality_tables(quality: dict) -> dict:
    """Lay out diversity and manners: of all replies (`whole`), of `parts`, and the `model`'s."""
    tables, model = [], {}
    for title, subset in (("All replies", "full"), ("Replies to clean pairs", "clean")):
        rows = [{"name": s, "metrics": own[subset]} for s, own in quality.items() if subset in own]
        tables.append(table(title, "system", rows))
    for kind, (key, title) in GROUPS.items():
        groups = [
            (system, {"group": re.sub("-$", "+", row[key])} | row)
            for system, own in quality.items()
            for row in own.get(kind, ())
        ]
        model |= {title: [row for system, row in groups if system == "model"]}
        rows = [{"name": f"{system}, {row['group']}", "metrics": row} for system, row in groups]
        tables.append(table(f"All figures by {title}", f"system, {title}", rows))
    return {"whole": tables[0], "parts": list(filter(None, tables[1:])), "model": model}


def overlap(counts: dict) -> dict | None:
    """Word how much of the split stands in train; None where nobody has looked."""
    pairs, seen = counts.get("pairs"), counts.get("pairs_in_train")
    if not pairs or not seen:
        return None
    shares = [
        f"{seen[key]:,} ({100 * seen[key] / pairs:.1f} %) after the same {what}"
        for key, what in CONTEXTS.items()
        if seen.get(key)
    ]
    return {"pairs": pairs, "shares": shares, "clean": counts.get("clean_pairs")}


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Choose round numbers, evenly spaced, the first at most `low`, the last at least `high`."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(m * power for m in (1, 2, 5, 10) if span <= m * power * most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def curves(log_history: list[dict], best: int | None) -> list[dict]:
    """Collect the losses and, of adversarial training, how sampled replies fare.

    Args:
        log_history: of trainer_state.json.
        best: the step of the checkpoint that was kept.
    """

    def points(key: str, scale: int = 1) -> list[tuple[int, float]]:
        found = [(log["step"], scale * log[key]) for log in log_history if key in log]
        found = [point for point in found if math.isfinite(point[1])]
        return found[:: math.ceil(len(found) / POINTS) or 1]

    adversarial = any("eval_adversarial_success" in log for log in log_history)
    panels = {
        "Loss, nats per target token": {
            "training": points("human_loss" if adversarial else "loss"),
            "validation": points("eval_loss"),
        },
        "Sampled replies to held-out contexts, %": {
            "discriminator accuracy": points("eval_discriminator_accuracy"),
            "adversarial success": points("eval_adversarial_success"),
            "mean reward × 100": points("eval_reward", 100) or points("reward", 100),
            "Distinct-2": points("eval_sampled_distinct_2"),
        },
    }
    pictures = []
    for title, lines in panels.items():
        lines = {name: found for name, found in lines.items() if found}
        if lines:
            every = [point for found in lines.values() for point in found]
            steps, values = zip(*every, strict=True)
            end, rows = max(*steps, 1), ticks(min(values), max(values))
            columns = [step for step in ticks(0, end) if step <= end]
            picture = {"title": title, "lines": lines, "rows": rows, "columns": columns}
            pictures.append(picture | {"end": end, "best": best})
    return pictures


def choose_samples(predictions: list[dict], seed: int = SEED) -> list[tuple[str, list[dict]]]:
    """Choose pairs by rule: the likest to their references, the least like, and drawn ones.

    Likeness is chrF of the sentence (Popović, 2015); of equals, the lot decides. The rest is cut
    into even stretches, and from each one pair is drawn.

    Returns:
        Each rule that finds any, and the predictions with their `chrf`.
    """
    chrf, draw = CHRF(), random.Random(seed)
    scores = [chrf.sentence_score(row["reply"], [row["reference"]]).score for row in predictions]
    lot = draw.sample(range(len(scores)), len(scores))
    ranked = sorted(lot, key=scores.__getitem__, reverse=True)
    best, rest = ranked[:BEST], ranked[BEST:]
    worst, rest = rest[-WORST:][::-1], sorted(rest[:-WORST])
    count = min(DRAWN, len(rest))
    parts = [rest[i * len(rest) // count : (i + 1) * len(rest) // count] for i in range(count)]
    drawn = [draw.choice(part) for part in parts]
    rules = {
        "Most like the reference: the highest chrF": best,
        "Least like it: the lowest chrF": worst,
        f"Drawn by lot: one of each of {count} even stretches of the rest, seed {seed}": drawn,
    }
    return [
        (rule, [predictions[i] | {"chrf": scores[i]} for i in chosen])
        for rule, chosen in rules.items()
        if chosen
    ]


def describe(config: dict) -> str:
    """Name a run by its model, training and data: `T5 trained on dailydialog`."""
    new, model = config.get("new_model"), config.get("model_name_or_path") or "A model"
    how = "trained adversarially" if config.get("adversarial") else "fine-tuned"
    if isinstance(new, dict):
        model, how = str(new.get("model_type", model)).upper(), "trained"
        if model == "RNN_SEQ2SEQ":
            sizes = {"cell": "gru", "attention": "multiplicative"} | new
            kind = f"with {sizes['attention']}".replace("with none", "without")
            model = f"{sizes['cell'].upper()} {kind} attention,"
    model = Path(model).name if Path(model).is_absolute() else model
    how = how if config.get("do_train", True) else "evaluated"
    data = config.get("data") or config.get("dataset_name") or "DailyDialog"
    return f"{model} {how} on {data_name(data)}"


def read(folder: Path) -> dict:
    """Collect what both templates show.

    Raises:
        UsageError: the folder is no finished run, or a file of it cannot be read.
    """
    if not (folder / "metrics.json").is_file():
        raise UsageError(
            f"{str(folder)!r} has no metrics.json: it is no finished run. Give the output_dir of "
            "run_seq2seq_dialog.py; the same command finishes a run that was stopped."
        )
    metrics, evaluation, state, environment = (
        _load(folder / f"{name}.json", read_json)
        for name in ("metrics", "evaluation", "trainer_state", "environment")
    )
    config = _load(folder / "config.yaml", lambda path: yaml.safe_load(path.read_text("utf-8")))
    log, train = state.get("log_history", []), metrics.get("train", {})
    checks = [{"name": f"{row['step']:,}", "metrics": row} for row in log if "eval_loss" in row]
    splits = [{"name": s, "metrics": metrics[s]} for s in ("validation", "test") if s in metrics]
    best = train.get("best_step") if config.get("load_best_model_at_end") else None
    pairs = metrics.get("data", {}).get("pairs", {})
    facts = {
        "Parameters": metrics.get("parameters"),
        **{f"{split.capitalize()} pairs": count for split, count in pairs.items()},
        "Optimizer steps": train.get("steps"),
        "Device": environment.get("device"),
        "Date": environment.get("date"),
    }
    documents = {"config.yaml": config, "environment.json": environment}
    layout = {"sort_keys": False, "allow_unicode": True, "width": 100}
    return {
        "heads": METRICS,
        "name": folder.resolve().name,
        "title": describe(config),
        "facts": {k: f"{x:,}" if isinstance(x, int) else x for k, x in facts.items() if x},
        "evaluation": evaluation,
        "scores": score_tables(evaluation.get("results", [])),
        "overlap": overlap(evaluation.get("overlap", {})),
        "curves": curves(log, best),
        "collapse": train.get("collapse"),
        "checks": table("Evaluations while training", "step", checks, CHECKS),
        "splits": table("Validation and test", "split", splits, METRICS),
        "quality": quality_tables(evaluation.get("quality", {})),
        "samples": choose_samples(list(_load(folder / "predictions.jsonl", read_jsonl))),
        "documents": {k: yaml.safe_dump(x, **layout) for k, x in documents.items() if x},
        "picture": (folder / "curves.png").is_file(),
    }


def _load(path: Path, reader: Callable):
    """Read a file with `reader`; an empty mapping where there is none."""
    try:
        return reader(path) if path.is_file() else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"Cannot read {str(path)!r}: {' '.join(str(error).split())}.") from error


def write(folder: str | Path) -> list[Path]:
    """Write report.html and report.md into a finished run folder; return their paths.

    Raises:
        UsageError: as `read`.
    """
    folder, loader = Path(folder), FileSystemLoader(Path(__file__).parent)
    options = {"loader": loader, "autoescape": True, "undefined": StrictUndefined}
    options |= {"trim_blocks": True, "lstrip_blocks": True}
    found, paths = read(folder), []
    for suffix, finalize in (("html", None), ("md", markdown)):
        environment = Environment(finalize=finalize, **options)
        environment.filters |= {"figure": figure}
        template = environment.get_template(f"page.{suffix}.jinja")
        paths.append(folder / f"report.{suffix}")
        part = paths[-1].with_suffix(".part")
        part.write_text(template.render(found).strip() + "\n", encoding="utf-8")
        part.replace(paths[-1])
    return paths


def report(folder: str) -> None:
    """Write the report of a run and print where it is."""
    print(*write(folder), sep="\n")
