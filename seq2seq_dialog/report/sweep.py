"""Quality against diversity over temperatures, for several models in one picture.

One temperature does not tell two generators apart: the sharper one has the higher BLEU and the
lower diversity. "Language GANs Falling Short" (Caccia et al., 2020) compares whole curves instead,
a point per temperature. Here each model answers the same test contexts, once greedily and once by
pure sampling at each temperature, and every point has its quality (BLEU-2) and its diversity
(Distinct-2, self-BLEU). Both move with the number of replies: compare points of one sweep.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Column, Table
from transformers import GenerationConfig
from transformers.utils.logging import disable_progress_bar

from ..data.batching import evaluation_batches
from ..decoding.generation_config import bare_decoding
from ..errors import UsageError
from ..evaluation.catalogue import METRICS
from ..evaluation.metrics import ReplyMetric, distinct, mean_words, self_bleu
from ..evaluation.protocols import score
from ..evaluation.text import segmented
from ..models.loading import hash_weights
from ..portable.context import encode_context
from ..run_folder import (
    check_writable,
    read_config,
    read_json,
    read_language,
    read_pairs,
    write_json,
)
from ..serve.inference import TOKENS_PER_BATCH, load, reply_to_batch
from .console import plain_console

TEMPERATURES = (0.4, 0.6, 0.8, 1.0, 1.2)
GREEDY = 0.0  # what the temperature of the greedy point is written as
# What a point's figures depend on.
KEY = ("fingerprint", "temperature", "samples", "seed", "spaced")
FIGURES = ("bleu_2", "plato_bleu_2", "distinct_2", "self_bleu", "reply_words")  # of a point
MARKERS = "osD^vP*Xp"


def reply_to_all(
    inputs: Sequence[Sequence[int]],
    model,
    tokenizer,
    settings: GenerationConfig,
    seed: int,
    advance: Callable[[float], None] = lambda share: None,
) -> list[str]:
    """Reply once to each context, given as ids, in batches of like lengths.

    The settings replace those of the model for good. Each batch has a seed of its own; the random
    state of the caller is left alone. `advance` takes the share of the contexts in each batch.
    """
    model.generation_config = settings
    devices = [model.device] if model.device.type == "cuda" else []
    lengths = [(len(ids), settings.max_new_tokens) for ids in inputs]
    replies = [""] * len(inputs)
    for batch in evaluation_batches(lengths, TOKENS_PER_BATCH):
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed + batch[0])
            batch_replies = reply_to_batch([inputs[i] for i in batch], model, tokenizer)
        for i, reply in zip(batch, batch_replies, strict=True):
            replies[i] = reply
        advance(len(batch) / len(inputs))
    return replies


def fingerprint(model, inputs: Sequence[Sequence[int]], references: Sequence[str]) -> str:
    """Hash what a point depends on besides `KEY`: weights, encoded contexts, references, length."""
    longest = bare_decoding(model.generation_config, GREEDY).max_new_tokens
    digest = hashlib.blake2b(json.dumps([inputs, references, longest]).encode(), digest_size=8)
    hash_weights(model, digest)
    return digest.hexdigest()


def sweep(
    folders: Sequence[str],
    temperatures: Sequence[float] = TEMPERATURES,
    samples: int = 1000,
    output: str | Path = "sweep.png",
    seed: int = 42,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> list[dict]:
    """Measure models over temperatures; draw them to `output`, print and return their points.

    Test pairs, their language and whether their tokens stand apart are those of the first folder's
    run; a greedy point is always added. Each point is written beside the picture, to a .json of its
    name, as soon as it is measured: an interrupted sweep goes on by the same command. Points of
    other settings or weights stay under `earlier`.
    """
    disable_progress_bar()
    folders = [str(folder).rstrip("/") for folder in folders]
    output = Path(output)
    _check(folders, temperatures, samples, output)
    pairs = read_pairs(folders[0], samples)
    language = read_language(folders[0])
    spaced = not read_config(folders[0]).get("detokenize", True)
    references = segmented([pair["reference"] for pair in pairs], language)
    path = output.with_suffix(".json")
    known = {_key(point): point for point in _read_points(path)}
    for folder in folders[1:]:
        # A misspelt name is refused now, not in an hour.
        load(folder, device, trust_remote_code)
    people = {
        "distinct_2": distinct(references, 2),
        "self_bleu": self_bleu(references),
        "reply_words": mean_words(references),
    }
    points = []
    temperatures = [GREEDY, *sorted(set(temperatures))]
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(folders) * len(temperatures))
        for folder in folders:
            loaded = load(folder, device, trust_remote_code)
            measured = _measure(
                folder, loaded, pairs, language, spaced, temperatures, seed, known, progress, task
            )
            for point in measured:
                points.append(point)
                keys = [_key(point) for point in points]
                earlier = [point for key, point in known.items() if key not in keys]
                write_json(path, {"references": people, "points": points, "earlier": earlier})
            del loaded  # before the next one comes
    plot_sweep(points, people, output)
    print_sweep(points, people)
    print(f"Drawn to {output}, written to {path}.")
    return points


def _measure(
    folder: str,
    loaded,
    pairs: list[dict],
    language: str,
    spaced: bool,
    temperatures: Sequence[float],
    seed: int,
    known: dict,
    progress: Progress,
    task,
) -> Iterator[dict]:
    """Yield a model's point at each temperature, from those `known` where it is there."""
    model, tokenizer, _ = loaded
    inputs = [encode_context(pair["context"], tokenizer) for pair in pairs]
    references = [pair["reference"] for pair in pairs]
    saved = model.generation_config
    model_hash = fingerprint(model, inputs, segmented(references, language))
    for temperature in temperatures:
        key = (model_hash, temperature, len(pairs), seed, spaced)
        progress.update(task, description=f"{escape(folder)}, {_name(temperature)}")
        if key in known:
            progress.advance(task)
            yield known[key] | {"model": folder}  # by which it may have another name now
            continue
        settings = bare_decoding(saved, temperature)
        replies = reply_to_all(
            inputs, model, tokenizer, settings, seed, lambda share: progress.advance(task, share)
        )
        metric = ReplyMetric(keep_in_memory=True)
        scores = metric.compute(predictions=replies, references=references, language=language)
        of_plato, signature = score("plato", replies, references, spaced, language)
        scores |= of_plato | {"self_bleu": self_bleu(segmented(replies, language))}
        figures = {name: scores[name] for name in FIGURES} | {"signature": signature}
        yield {"model": folder, **dict(zip(KEY, key, strict=True)), **figures}


def _check(folders: list[str], temperatures, samples: int, output: Path) -> None:
    """Refuse settings that cannot be used, before anything is loaded."""
    twice = sorted({folder for folder in folders if folders.count(folder) > 1})
    if twice:
        raise UsageError(f"{twice[0]!r} is given twice; name each folder once.")
    for temperature in temperatures:
        if not (math.isfinite(temperature) and temperature > 0):
            raise UsageError(
                f"A temperature is {temperature}; it must be a number above 0. The greedy point, "
                "the limit towards 0, is always drawn."
            )
    if samples < 2:
        raise UsageError(f"samples is {samples}; it must be at least 2: diversity is between them.")
    check_writable(output, [".png", ".pdf", ".svg"])
    if output.exists() and not output.with_suffix(".json").exists():
        raise UsageError(
            f"{str(output)!r} exists, without the points of a sweep beside it. Choose another "
            "output, or move it away."
        )


def _read_points(path: Path) -> list[dict]:
    """Read the points of an earlier sweep; refuse to overwrite a file that is something else."""
    if not path.exists():
        return []
    try:
        content = read_json(path)
        points = [*content["earlier"], *content["points"]]
        if all(point.keys() >= {*KEY, *FIGURES} for point in points):
            return points
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UsageError(
        f"{str(path)!r}, where the points would be written, is no file of an earlier sweep. Choose "
        "another output, or move it away."
    )


def _key(point: dict) -> tuple:
    return tuple(point[name] for name in KEY)


def _name(temperature: float) -> str:
    return "greedy" if temperature == GREEDY else str(float(temperature))


def _curves(points: list[dict]) -> dict[str, list[dict]]:
    """Group points by model, named by the end of its path, or all of it where two end alike."""
    folders = list(dict.fromkeys(point["model"] for point in points))
    ends = [Path(folder).name or folder for folder in folders]
    curves = {}
    for folder, end in zip(folders, ends, strict=True):
        name = end if ends.count(end) == 1 else folder
        curves[name] = [point for point in points if point["model"] == folder]
    return curves


def print_sweep(points: list[dict], people: dict) -> None:
    """Print all points and the references as a table, and each model's best BLEU-2."""
    columns = [Column(METRICS[key].label, justify="right") for key in FIGURES]
    model = Column("model", overflow="fold")
    table = Table(model, "temp.", *columns, title="Quality and diversity", title_justify="left")
    for label, curve in _curves(points).items():
        for i, point in enumerate(curve):
            values = (f"{point[name]:.2f}" for name in FIGURES)
            table.add_row("" if i else label, _name(point["temperature"]), *values)
        table.add_section()
    table.add_row("references", "", *(f"{people[n]:.2f}" if n in people else "" for n in FIGURES))
    plain_console().print(table)
    for label, curve in _curves(points).items():
        best = max(curve, key=lambda point: point["bleu_2"])
        at = "" if best["temperature"] == GREEDY else "temperature "
        print(
            f"{label}: best BLEU-2 {best['bleu_2']:.2f} ({at}{_name(best['temperature'])}), with "
            f"Distinct-2 {best['distinct_2']:.2f}."
        )


def plot_sweep(points: list[dict], people: dict, path: Path) -> None:
    """Draw BLEU-2 against Distinct-2 and against self-BLEU, a curve a model.

    Up is better and right is more diverse in both panels. The greedy point is hollow; the diversity
    of the references, `people`, is a vertical line.
    """
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    halo = withStroke(linewidth=2, foreground="white")
    for axes, name in zip(panels, ("distinct_2", "self_bleu"), strict=True):
        for i, (label, curve) in enumerate(_curves(points).items()):
            style = {"color": f"C{i % 10}", "marker": MARKERS[i % len(MARKERS)]}
            x, y = ([point[key] for point in curve] for key in (name, "bleu_2"))  # greedy first
            axes.plot(x[:1], y[:1], **style, ms=7, mfc="none")
            axes.plot(x[1:], y[1:], **style, ms=5, lw=1.2, label=label)
            text = {"textcoords": "offset points", "ha": "center", "fontsize": 8}
            text |= {"color": style["color"], "path_effects": [halo]}
            for point in curve[1:]:
                place = (point[name], point["bleu_2"])
                axes.annotate(_name(point["temperature"]), place, (0, 6), **text)
        axes.axvline(people[name], color="grey", lw=1, ls="--", label="references", zorder=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(0.08)
    panels[0].set(xlabel="Distinct-2 (right: more diverse)", ylabel="BLEU-2 (up: better)")
    panels[1].set(xlabel="self-BLEU, inverted (right: more diverse)")
    panels[1].invert_xaxis()
    handles, names = panels[0].get_legend_handles_labels()
    title = "numbers: sampling temperature; hollow: greedy"
    place = {"loc": "outside lower center", "ncols": 4}
    figure.legend(handles, names, title=title, frameon=False, **place)
    figure.savefig(path, dpi=150)
