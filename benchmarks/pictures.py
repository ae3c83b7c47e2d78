"""Pictures of what was found."""

from __future__ import annotations

from pathlib import Path

from matplotlib import pyplot

from seq2seq_dialog.errors import UsageError

OURS, THEIRS, TARGET = "#1b6ca8", "#b0522d", "#d1495b"
OTHERS = "#8a8a8a"
SHADES = ("#1b6ca8", "#7fb2d9", "#d98e4a")
# What the chart shows: part, ours, peer, label.
BARS = (
    ("training", "ours", "seed", "training, against the seed recipe"),
    ("training", "ours", "stock", "training, against stock"),
    ("training", "ours", "tuned stock", "training, against tuned stock"),
    ("to_loss", "ours", "stock", "time to stock's loss"),
    ("generation", "ours", "stock", "greedy replies, against predict()"),
    ("latency", "export", "pipeline", "one reply, int8, against pipeline()"),
    (
        "latency",
        "export, 4 beams",
        "generate, 4 beams",
        "batch of 16, 4 beams, int8, against generate()",
    ),
    ("preparation", "ours", "examples' map", "preparing, against the examples' map()"),
    ("preparation", "ours", "seed's dataset", "preparing, against the seed's dataset"),
    ("gpu", "ours", "stock", "training on a GPU, against stock"),
)


def draw_chart(parts: dict[str, dict], path: Path) -> None:
    """Draw how many times as fast as the peers we are, and the targets.

    Args:
        parts: what was found, by part; bars of the others are left out.
        path: of the picture.
    """
    bars = []
    for name, ours, peer, label in BARS:
        for row in parts.get(name, {"ratios": ()})["ratios"]:
            if (row["ours"], row["peer"]) == (ours, peer) and "ratio" in row:
                bars.append((label, row["ratio"], row["target"]))
    if not bars:
        raise UsageError("There is nothing to draw yet: no part has found a ratio.")
    figure, axes = pyplot.subplots(figsize=(7, 0.9 + 0.42 * len(bars)), layout="constrained")
    for place, (_, ratio, target) in enumerate(reversed(bars)):
        median = ratio["median"]
        axes.barh(place, median - 1, left=1, height=0.6, color=OURS)
        axes.hlines(place, ratio["least"], ratio["greatest"], color="#0d2f4a", linewidth=1.5)
        axes.text(
            max(median, ratio["greatest"], target) * 1.04, place, f"{median:.1f} ×", va="center"
        )
        axes.vlines(target, place - 0.38, place + 0.38, color=TARGET, linewidth=2.5)
    axes.vlines([], 0, 0, color=TARGET, linewidth=2.5, label="target")
    axes.set_xscale("log", base=2)
    ticks = [1, 2, 4, 8, 16]
    axes.set_xticks(ticks, [f"{tick} ×" for tick in ticks])
    axes.set_xlim(min(0.9, *(bar[1]["median"] for bar in bars)), 32)
    axes.set_yticks(range(len(bars)), [bar[0] for bar in reversed(bars)])
    axes.axvline(1, color="#555555", linewidth=1)
    axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(
        "times as fast as the peer: median of the rounds, and least to greatest", fontsize="medium"
    )
    axes.legend(loc="center right", frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def draw_curves(curves: dict[str, list[list]], over: str, path: Path) -> None:
    """Draw validation losses, a line for each round of a contestant.

    Args:
        curves: two or three contestants by name, and of each round the points (x, loss).
        over: what x is.
    """
    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    colours = (OURS, THEIRS, OTHERS)
    for (name, rounds), colour in zip(curves.items(), colours, strict=False):
        for curve in rounds:
            label = name if curve is rounds[0] else None
            axes.plot(*zip(*curve, strict=True), color=colour, label=label, linewidth=1)
    lowest = min(loss for rounds in curves.values() for curve in rounds for _, loss in curve)
    axes.set_ylim(lowest - 0.05, lowest + 1.2)  # they all begin in the same way
    axes.set_xlabel(over)
    axes.set_ylabel("validation loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def draw_agreement(figures: list[dict], path: Path) -> None:
    """Draw how each figure correlates with people's ratings, with intervals, the best first.

    Args:
        figures: of each `figure`, `references` (which, of three kinds), and `spearman`: what was
            measured, low, high.
    """
    kinds = dict(zip(("one reference", "four references", "no reference"), SHADES, strict=True))
    figure, axes = pyplot.subplots(figsize=(8, 0.9 + 0.25 * len(figures)), layout="constrained")
    for place, row in enumerate(reversed(figures)):
        value, low, high = row["spearman"]
        axes.barh(place, value, height=0.66, color=kinds[row["references"]])
        axes.hlines(place, low, high, color="#222222", linewidth=1.2)
    for kind, colour in kinds.items():
        axes.barh(0, 0, color=colour, label=kind)
    axes.set_yticks(range(len(figures)), [row["figure"] for row in reversed(figures)])
    axes.set_ylim(-0.6, len(figures) - 0.4)
    axes.axvline(0, color="#555555", linewidth=1)
    axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(
        "rank correlation with people's ratings (Spearman), and 95 % interval", fontsize="medium"
    )
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def draw_ways(figures: dict[str, dict], path: Path) -> None:
    """Draw the variety of each way's replies against their likeness to people's.

    Args:
        figures: of each way `distinct_2`, `bleu_2` and `generic`, all in percent.
    """
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    keys = ("distinct_2", "bleu_2", "generic")
    x, y, stock = zip(*([row[key] for key in keys] for row in figures.values()), strict=True)
    points = axes.scatter(x, y, c=stock, s=60, cmap="viridis_r", edgecolors="#333333", zorder=2)
    for name, *place in zip(figures, x, y, strict=True):
        axes.annotate(name, place, (6, 4), textcoords="offset points", fontsize="small")
    axes.set_xlim(0, 1.25 * max(x))  # room for the names
    axes.set_xlabel("Distinct-2: the variety of the replies, in percent")
    axes.set_ylabel("BLEU-2 against the references")
    axes.spines[["top", "right"]].set_visible(False)
    figure.colorbar(points, label="stock phrases, in percent")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
