"""Pictures of a run, drawn by matplotlib: curves.png, and SVG that stands in the page.

They are drawn in the colours of `PALETTE`. In the page each colour is a variable of its style
sheet, which has other values in the dark.
"""

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from ..evaluation.catalogue import METRICS, keys_with
from ..evaluation.scoring import MODEL
from .tables import PAIR_GROUPS, column, groups, number

PALETTE = {
    "ink": "#1b1d20",
    "soft": "#5a6067",
    "line": "#dfe2e5",
    "one": "#1c5c9f",
    "two": "#b04a06",
    "three": "#0e7263",
    "four": "#7a41a6",
}
INK, SOFT, LINE, MINE, *OTHERS = PALETTE.values()
SERIES = ((MINE, "", "-"), (OTHERS[0], "o", "-"), (OTHERS[1], "s", "--"), (OTHERS[2], "^", ":"))
POINTS = 500  # of a curve, about the most that are drawn
WIDTH = 3.5  # inches of a small picture
TEXT = {"fontsize": 10, "parse_math": False}  # of a small picture; a "$" is a letter like any other
BY_GROUP = ("perplexity", "bleu_2", "rouge_l", "distinct_2", "length_ratio", "generic")
LOSSES = "Loss, nats per target token"
SAMPLED = "Sampled replies to held-out contexts, %"
PREFERENCES = "Held-out pairs of a chosen and a rejected reply, %"
# The loss of human, or chosen, replies where the training's own loss is another.
LIKELIHOOD = ("human_loss", "chosen_loss", "loss")


def curve_panels(log_history: Sequence[Mapping]) -> dict[str, dict[str, list[tuple]]]:
    """Collect the losses; of adversarial training, how sampled replies fare; of dpo, preferences.

    Where the training loss is more than a likelihood, the loss of human replies takes its place. A
    panel of samples shows a collapse. A line's points are (step, value).
    """

    def points(key: str, scale: int = 1) -> list[tuple[int, float]]:
        finite = [
            (log["step"], scale * log[key])
            for log in log_history
            if key in log and math.isfinite(log[key])
        ]
        return finite[:: math.ceil(len(finite) / POINTS) or 1]

    panels = {
        LOSSES: {
            "training": next((line for key in LIKELIHOOD if (line := points(key))), []),
            "validation": points("eval_loss"),
        },
        SAMPLED: {
            "discriminator accuracy": points("eval_discriminator_accuracy"),
            "adversarial success": points("eval_adversarial_success"),
            "mean reward × 100": points("eval_reward", 100) or points("reward", 100),
            "Distinct-2": points("eval_sampled_distinct_2"),
        },
        PREFERENCES: {
            "the chosen one gained": points("eval_preference_accuracy"),
            "the chosen one is likelier": points("eval_chosen_likelier"),
        },
    }
    for title, lines in panels.items():
        panels[title] = {name: line for name, line in lines.items() if line}
    return {title: lines for title, lines in panels.items() if lines}


def draw_curves(panels: Mapping[str, Mapping], best_step: int | None = None) -> Figure:
    """Draw some `curve_panels` over optimizer steps, one below the other; mark the best step."""
    figure = Figure(figsize=(5.4, 3.1 * len(panels)), layout="constrained")
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, lines) in zip(rows, panels.items(), strict=True):
        pad = 10 + 16 * math.ceil(len(lines) / 2)  # room for the legend
        axes.set_title(title, loc="left", color=INK, fontsize=11, weight="bold", pad=pad)
        for (name, points), (color, marker, dash) in zip(lines.items(), SERIES, strict=False):
            steps, values = zip(*points, strict=True)
            style = {"color": color, "ls": dash, "marker": marker if len(points) <= 40 else ""}
            label = f"{name} {number(values[-1])}"
            axes.plot(steps, values, lw=1.8, ms=5, clip_on=False, label=label, **style)
        if best_step:
            axes.axvline(best_step, color=SOFT, lw=1, ls=":", zorder=0)
            place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
            place |= {"xytext": (-4, -10), "ha": "right", "fontsize": 9.5, "color": SOFT}
            axes.annotate("model kept", (best_step, 1), **place)
        if title == SAMPLED:
            axes.set_ylim(0, 100)
        axes.set_xlim(left=0)
        axes.grid(color=LINE)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelsize=9.5, labelcolor=SOFT)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        place = {"loc": "lower left", "bbox_to_anchor": (-0.01, 0.99), "frameon": False}
        text = {"fontsize": 9.5, "labelcolor": INK}
        axes.legend(ncols=2, columnspacing=1.5, handlelength=1.5, **place, **text)
    rows[-1].set_xlabel("optimizer step", loc="right", color=SOFT, fontsize=9.5)
    return figure


def save_curves(log_history: Sequence[Mapping], path: Path) -> None:
    """Draw the curves of a run to a PNG; nothing where there are none."""
    panels = curve_panels(log_history)
    if panels:
        draw_curves(panels).savefig(path, dpi=200)


def draw_ranking(key: str, rows: Sequence[Mapping]) -> Figure:
    """Draw a metric of several systems as bars, all pairs above clean ones, with intervals."""
    systems = list(dict.fromkeys(row["system"] for row in rows))
    figure = Figure(figsize=(WIDTH, 0.66 * len(systems)))
    axes = figure.add_axes((0, 0, 1, 1))
    ends = [row.get("intervals", {}).get(key, (0, 0))[1] for row in rows]
    greatest = max(*ends, *(row["metrics"][key] for row in rows)) or 1
    axes.set(xlim=(0, 1.25 * greatest), ylim=(len(systems), 0))
    axes.axis("off")
    for top, system in enumerate(systems):
        mine = system == MODEL
        text = TEXT | {"color": INK, "weight": "bold" if mine else "normal"}
        axes.text(0, top + 0.24, system, va="baseline", **text)
        of_system = [row for row in rows if row["system"] == system]
        for line, row in enumerate(of_system):
            value, (low, high) = row["metrics"][key], row.get("intervals", {}).get(key, (0, 0))
            y, color = top + 0.42 + 0.22 * line, MINE if mine else SOFT
            fill = color if row["subset"] == "full" else "none"
            axes.barh(y, value, 0.17, color=fill, edgecolor=color, alpha=1 if mine else 0.6)
            if high:
                axes.plot((low, high), (y, y), color=INK, lw=1.2, solid_capstyle="butt")
            if line == 0:
                end = max(value, high) + 0.02 * greatest
                axes.text(end, y, short(value), va="center_baseline", **text)
    return figure


def draw_groups(key: str, groups: Sequence[Mapping]) -> Figure:
    """Draw a metric of groups of pairs as columns; below each its name and number of pairs."""
    figure = Figure(figsize=(WIDTH, 1.75))
    axes = figure.add_axes((0, 0.24, 1, 0.66))
    values = [group[key] for group in groups]
    axes.bar(range(len(groups)), values, 0.62, color=MINE)
    axes.set(xlim=(-0.5, 4.5), ylim=(0, max(values) or 1))
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.set(xticks=[], yticks=[])
    text = TEXT | {"textcoords": "offset points", "ha": "center"}
    for x, (group, value) in enumerate(zip(groups, values, strict=True)):
        axes.annotate(short(value), (x, value), (0, 4), color=INK, weight="bold", **text)
        axes.annotate(group["group"], (x, 0), (0, -13), color=INK, **text)
        axes.annotate(number(group["pairs"]), (x, 0), (0, -26), color=SOFT, **text)
    return figure


def histogram(values: np.ndarray, title: str) -> Markup:
    """Draw how many examples have which length; the longest hundredth is in the last column."""
    middle, last, most = (int(np.percentile(values, share)) for share in (50, 99, 100))
    edges = np.linspace(0, max(1, last), min(24, max(1, last)) + 1)
    counts, _ = np.histogram(np.minimum(values, edges[-1]), edges)
    figure = Figure(figsize=(WIDTH, 1.75))
    axes = figure.add_axes((0, 0.16, 1, 0.74))
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=MINE, edgecolor="none")
    axes.set(xlim=(0, edges[-1]), xticks=[], yticks=[])
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    text = TEXT | {"textcoords": "offset points", "color": SOFT}
    axes.annotate("0", (0, 0), (0, -13), ha="left", **text)
    axes.annotate(number(last), (edges[-1], 0), (0, -13), ha="right", **text)
    axes.axvline(middle, color=SOFT, lw=1, ls=":")
    return to_svg(figure, f"{title}: median {middle:,}, 99 % up to {last:,}, greatest {most:,}.")


def short(value: float) -> str:
    """Write a number in three digits where that is possible."""
    return f"{value:,.{0 if value >= 99.5 else 1 if value >= 9.95 else 2}f}"


def to_svg(figure: Figure, description: str) -> Markup:
    """Write a picture as SVG for the page; the description is for those who do not see it."""
    buffer = io.StringIO()
    # No two pictures of a page have the same description, so no two have the same ids.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    width, height = figure.get_size_inches() * 72
    label = html.escape(description)
    tag = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}">'
    svg = re.sub(r"<svg[^>]*>", lambda match: tag, svg, count=1)
    svg = re.sub(r"\s+", " ", svg)
    svg = re.sub(r"<(metadata|style|clipPath).*?</\1>", "", svg)
    svg = re.sub(r' clip-path="[^"]*"|font-family: [^;"]*; ', "", svg)  # the page's own letters
    used = set(re.findall(r'"#(\w+)"', svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    for name, color in PALETTE.items():
        svg = svg.replace(color, f"var(--{name})")
    return Markup(svg)


def curve_pictures(log_history: Sequence[Mapping], best_step: int | None) -> list[Markup]:
    """Draw the curves of a run, a picture a panel."""
    pictures = []
    for title, lines in curve_panels(log_history).items():
        ends = (
            f"{name}: from {number(points[0][1])} at step {points[0][0]} "
            f"to {number(points[-1][1])} at step {points[-1][0]}."
            for name, points in lines.items()
        )
        description = f"{title}, over optimizer steps. {' '.join(ends)}"
        pictures.append(to_svg(draw_curves({title: lines}, best_step), description))
    return pictures


def rankings(results: Sequence[Mapping]) -> list[tuple]:
    """Draw the main metrics that several systems have: each its `tables.column` and picture."""
    pictures = []
    for key in keys_with("main"):
        rows = [row for row in results if row["protocol"] == "default"]
        rows = [row for row in rows if math.isfinite(row["metrics"].get(key, math.nan))]
        if len({row["system"] for row in rows}) > 1:
            figures = (f"{r['system']}, {r['subset']}: {number(r['metrics'][key])}" for r in rows)
            description = f"{METRICS[key].label}: {'; '.join(figures)}."
            pictures.append((column(key), to_svg(draw_ranking(key, rows), description)))
    return pictures


def group_pictures(diversity: Mapping) -> dict[str, list[tuple]]:
    """Draw the model's finite figures by turn and by length, as `rankings` returns pictures."""
    pictures = {}
    for kind, (_, title) in PAIR_GROUPS.items():
        rows = groups(diversity.get(MODEL, {}), kind)
        for key in BY_GROUP:
            values = [row.get(key, math.nan) for row in rows]
            if values and all(map(math.isfinite, values)):
                figures = (f"{row['group']}: {number(row[key])}" for row in rows)
                description = f"{METRICS[key].label} of the model by {title}: {', '.join(figures)}."
                picture = column(key), to_svg(draw_groups(key, rows), description)
                pictures.setdefault(title, []).append(picture)
    return pictures
