"""A run's figures laid out as tables, and as text, and the templates of page and cards filled."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from huggingface_hub import constants
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..evaluation.catalogue import HIGHER, LOWER, METRICS, TO_ONE, keys_with

ARROWS = {HIGHER: "↑", LOWER: "↓", TO_ONE: "→ 1", "": ""}
TITLES = {  # of the tables of each protocol
    "default": "Likeness to the reference",
    "plato": "By the protocol of PLATO",
    "multiref": "With several references: the likest counts, or the mean",
    "multiref-4": "The same without the second reference, which stands as a system",
}
SHARED_CONTEXTS = {"1": "last turn of context", "3": "last three turns", "all": "whole context"}
LEAST_UNKNOWN = 0.001  # the share of unknown tokens from which it is told
PAIR_GROUPS = {
    "by_turn": ("turns", "turns of context"),
    "by_length": ("words", "words of reference"),
}


def table(
    title: str,
    head: str,
    rows: Sequence[Mapping],
    keys: Sequence[str] = (),
    notes: Iterable[str] = (),
) -> dict | None:
    """Lay out figures: rows of one name in one line, their subsets side by side.

    A row has `name`, which is a `head`, and `metrics`, perhaps `subset` and `intervals`. By default
    `keys` are all figures, in the catalogue's order, unknown ones last; without any, there is no
    table. Of what is returned, `columns` are of `column`, and `rows` are each a name and for each
    column and subset a figure and its interval as text.
    """
    metrics = [row["metrics"] for row in rows]
    numbers = {key: None for row in metrics for key in row if isinstance(row[key], int | float)}
    keys = [key for key in keys or {"pairs": None, **METRICS, **numbers} if key in numbers]
    if not keys:
        return None
    subsets = list(dict.fromkeys(row.get("subset", "") for row in rows))
    places = {(row["name"], row.get("subset", "")): row for row in rows}

    def cell(key: str, row: Mapping) -> tuple[str, str]:
        interval = map(number, row.get("intervals", {}).get(key, ()))
        return number(row.get("metrics", {}).get(key)), "–".join(interval)

    return {
        "title": title,
        "head": head,
        "columns": [column(key) for key in keys],
        "subsets": subsets,
        "rows": [
            (name, [[cell(key, places.get((name, sub), {})) for sub in subsets] for key in keys])
            for name in dict.fromkeys(row["name"] for row in rows)
        ],
        "notes": list(notes),
    }


def figures_of_splits(metrics: Mapping) -> list[str]:
    """Name what metrics.json may have of a split: all metrics, and the loss of several sources."""
    return [*METRICS, *(f"loss_{name}" for name in metrics.get("data", {}).get("sources", ()))]


def column(key: str) -> tuple[str, str, str, str]:
    """Return what heads figures: label, unit, arrow to what is better, meaning in plain words."""
    if key.startswith("loss_"):
        return f"loss of {key.removeprefix('loss_')}", METRICS["loss"].unit, ARROWS[LOWER], ""
    if key not in METRICS:
        return key.replace("_", " "), "", "", ""
    metric = METRICS[key]
    return metric.label, metric.unit, ARROWS[metric.direction], metric.plain


def score_tables(results: Sequence[Mapping]) -> list[dict]:
    """Set the systems under one another by each protocol; the default's figures fill two tables."""
    tables = []
    for protocol in dict.fromkeys(row["protocol"] for row in results):
        rows = [row | {"name": row["system"]} for row in results if row["protocol"] == protocol]
        title, default = TITLES.get(protocol, protocol), protocol == "default"
        main = keys_with("main") if default else ()
        tables.append(table(title, "system", rows, main, _notes(rows)))
        tables.append(table("All figures", "system", rows) if default else None)
    return [each for each in tables if each]


def _notes(rows: Sequence[Mapping]) -> list[str]:
    """Say what moves the figures: pairs, decoding, and signatures with whose they are."""
    signatures = {}
    for row in rows:
        texts = [f"{key} {x}" for key, x in row["metrics"].items() if isinstance(x, str)]
        signature = ", ".join(filter(None, [row.get("signature"), *texts]))
        signatures.setdefault(signature, {})[row["name"]] = None
    pairs = {row["subset"]: f"{row['subset']} {row['pairs']:,}" for row in rows}
    decodings = dict.fromkeys(row["decoding"] for row in rows if row.get("decoding"))
    notes = [f"Pairs: {', '.join(pairs.values())}"]
    notes += [f"Decoding: {decoding}" for decoding in decodings]
    for signature, systems in signatures.items():
        if signature:
            systems = f" of {', '.join(systems)}" if len(signatures) > 1 else ""
            notes.append(f"Signature{systems}: {signature}")
    return notes


def diversity_tables(diversity: Mapping) -> list[dict]:
    """Lay out how diverse replies are and what they are like: of all, of clean pairs, of groups."""
    tables = []
    for title, subset in (("All replies", "full"), ("Replies to clean pairs", "clean")):
        rows = [{"name": s, "metrics": of[subset]} for s, of in diversity.items() if subset in of]
        tables.append(table(title, "system", rows))
    for kind, (_, title) in PAIR_GROUPS.items():
        rows = [
            {"name": f"{system}, {group['group']}", "metrics": group}
            for system, figures in diversity.items()
            for group in groups(figures, kind)
        ]
        tables.append(table(f"All figures by {title}", f"system, {title}", rows))
    return [each for each in tables if each]


def groups(figures: Mapping, kind: str) -> list[dict]:
    """Return the groups of a system's pairs, `by_turn` or `by_length`, their names as `group`."""
    key, _ = PAIR_GROUPS[kind]
    return [{"group": re.sub("-$", "+", row[key]), **row} for row in figures.get(kind, ())]


def overlap(counts: dict) -> dict | None:
    """Word how much of the split appears in the training set; None where nobody has looked."""
    pairs, seen = counts.get("pairs"), counts.get("pairs_in_train")
    if not pairs or not seen:
        return None
    shares = [
        f"{seen[key]:,} ({100 * seen[key] / pairs:.1f} %) after the same {what}"
        for key, what in SHARED_CONTEXTS.items()
        if seen.get(key)
    ]
    return {"pairs": pairs, "shares": shares, "clean": counts.get("clean_pairs")}


def unknown_tokens(shares: Mapping[str, Mapping[str, float]]) -> str | None:
    """Word by split the share of tokens that the tokenizer does not know; None where it is small.

    `shares` are what `encode_corpus` counts.
    """
    splits = [
        f"{100 * share['contexts']:.1f} % of the tokens of contexts and "
        f"{100 * share['replies']:.1f} % of replies in {split}"
        for split, share in shares.items()
        if max(share.values()) >= LEAST_UNKNOWN
    ]
    return ", ".join(splits) or None


def number(value: float | None) -> str:
    """Write a number: two decimals, none from 1,000 on; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{0 if value >= 1000 else 2}f}"


def markdown(text) -> Markup:
    """Escape text for Markdown: one line without markup, fit for the cell of a table."""
    if isinstance(text, Markup):
        return text
    text = " ".join(str(text).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # A backslash by its number: before a bracket, two of them would begin mathematics.
    return Markup(re.sub(r"([`*_\[\]|~$#])", r"\\\1", text.replace("\\", "&#92;")))


def render(template: str, content: Mapping) -> str:
    """Fill a template of this folder; every text that is put in is escaped, for its format."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=markdown if template.endswith(".md.jinja") else None,
    )
    environment.globals["hub"] = constants.ENDPOINT
    environment.filters["figure"] = number
    environment.filters["literal"] = lambda text: Markup(json.dumps(text, ensure_ascii=False))
    return environment.get_template(template).render(content).strip()
