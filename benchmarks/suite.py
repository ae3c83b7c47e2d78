"""The benchmarks, all or by part: `python -m benchmarks [PART ...]`.

    python -m benchmarks --chart  # all parts, an hour on 2 CPU cores
    python -m benchmarks training --data dialogues_text.txt  # one part, with dialogues of your own
    python -m benchmarks --quick  # a first look, without meaning for speed
    python -m benchmarks gpu  # on one GPU

Each part is a JSON file in the output folder, the last line printed is all of them. See `harness`
for how it is measured and `peers` for what against.
"""

from __future__ import annotations

import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import datasets
import torch
import transformers
from rich.console import Console

from seq2seq_dialog.errors import UsageError, nearest
from seq2seq_dialog.run_folder import check_writable, environment, read_json, write_json
from seq2seq_dialog.shipped import STARTER

from . import (
    answering,
    gpu,
    harness,
    material,
    pictures,
    preparation,
    processes,
    serving,
    training,
)
from .harness import check, compare

CHART = Path(__file__).parent / "ours_vs_peers.png"
# Both tuned on 6,000 pairs of DailyDialog: the stock recipe's learning rate (2e-3 to 1.2e-2), while
# its batch size stays; ours (3e-3 to 1.2e-2), tokens a batch, epochs and AdamW's beta2. The
# examples' own rate, 5e-5, is for checkpoints and learns next to nothing from random weights.
STOCK_RECIPE = {"per_device_train_batch_size": 8, "learning_rate": 4e-3}
OUR_ADAM = {"learning_rate": 4e-3, "adam_beta2": 0.98, "warmup_steps": 0.05}
TUNED = {  # on 600,000 tokens of DailyDialog each: benchmarks/RESULTS.md
    "T5": {"optim": "muon_scaled", "learning_rate": 2e-2, "weight_decay": 0.1},
    "GRU with attention": {"learning_rate": 4e-3},
}
OUR_RECIPE = OUR_ADAM | {"tokens_per_batch": 768, "num_train_epochs": 1.1}


class Suite:
    """What the parts share: the prepared data, and how thoroughly to measure.

    Args:
        folder: for what is made on the way.
        output: for pictures.
        data: dialogues; see `material.prepare`.
        rounds: how often each contestant measures.
        model: a trained model to answer, or None for random weights.
        quick: tiny sizes, to see that it works.
        full: with what takes long.
    """

    def __init__(
        self, folder: Path, output: Path, data, rounds: int, model, quick: bool, full: bool, console
    ):
        self.folder, self.output, self.rounds, self.model = folder, output, rounds, model
        self.quick, self.full, self.console = quick, full, console
        console.print("Preparing the data")
        self.about = material.prepare(folder, data, model, samples=200 if quick else None)

    def size(self, usual: dict) -> dict:
        """Return the size of a model."""
        return material.TINY if self.quick else usual

    def measure(self, contestants: dict, **options) -> dict:
        """Let contestants measure in turn."""
        return harness.in_turn(contestants, self.rounds, self.console, **options)


def part(title: str, unit: str, contestants: dict, ratios: Sequence = (), checks: Sequence = ()):
    """Put together what a part found."""
    found = {"title": title, "unit": unit, "contestants": contestants}
    return found | {"ratios": list(ratios), "checks": list(checks)}


def measure_training(suite: Suite) -> dict:
    """Training against the three recipes."""
    common = {"folder": suite.folder, "size": suite.size(material.T5_SMALL)}
    few, many = (2, 2) if suite.quick else (6, 10)
    cpu = common | {"use_cpu": True}
    tuned = {"batch_size": 32, "group_by_length": True}
    results = suite.measure(
        {
            "ours": (training.ours, cpu | {"tokens_per_batch": 4096, "steps": few}),
            "ours, 2,048": (training.ours, cpu | {"tokens_per_batch": 2048, "steps": many}),
            "stock": (training.stock, cpu | {"steps": many}),
            "tuned stock": (training.stock, cpu | tuned | {"steps": few}),
            "seed": (training.seed, common | {"steps": few}),
        }
    )
    targets = {"seed": 12, "stock": 2.2, "tuned stock": 1.4}
    ratios = [compare(results, "ours", peer, goal) for peer, goal in targets.items()]
    ratios += [compare(results, "ours, 2,048", peer) for peer in targets]
    return part("real tokens of T5-small's training steps", "tokens/s", results, ratios)


def measure_to_loss(suite: Suite) -> dict:
    """The time to the validation loss that the stock recipe has after an epoch."""
    options = {"folder": suite.folder, "size": suite.size(material.SMALLER)}
    counts = (150, 30, 5) if suite.quick else (6000, 192, 12)
    options |= dict(zip(("pairs", "validation", "points"), counts, strict=True))
    recipes = {"ours": OUR_RECIPE, "stock": STOCK_RECIPE}
    if suite.full:  # what batches alone are worth
        recipes["stock, our AdamW"] = STOCK_RECIPE | OUR_ADAM
    results = suite.measure(
        {name: (training.learning, options | {"recipe": r}) for name, r in recipes.items()}
    )
    ratios, checks = [], []
    if all("rounds" in result for result in results.values()):
        curves = {name: [m["curve"] for m in r["rounds"]] for name, r in results.items()}
        pictures.draw_curves(curves, "seconds of training", suite.output / "to_loss.png")
        for name, rounds in curves.items():
            losses = [curve[-1][1] for curve in rounds]
            checks.append(check(f"loss in the end, {name}", statistics.median(losses)))
    for peer in list(recipes)[1:]:
        reached = training.to_loss_of(results["ours"], results[peer])
        target = 2 if peer == "stock" else None
        ratios.append(compare({"ours": reached, peer: results[peer]}, "ours", peer, target))
    title = "to the validation loss that stock has after an epoch, a smaller T5"
    return part(title, "runs an hour", results, ratios, checks)


def measure_order(suite: Suite) -> dict:
    """What examples of like lengths in a batch do to learning: about as many steps each."""
    options = {"folder": suite.folder, "size": suite.size(material.SMALLER)}
    counts = (150, 30, 5) if suite.quick else (20_000, 256, 20) if suite.full else (6000, 256, 15)
    options |= dict(zip(("pairs", "validation", "points"), counts, strict=True))
    recipe = OUR_ADAM | {"tokens_per_batch": 2048, "num_train_epochs": 1}
    changes = {
        "four batches a step": {"tokens_per_batch": 512, "gradient_accumulation_steps": 4},
        "in random order": {"random_order": True},
        "one batch a step": {},
    }
    results = suite.measure(
        {
            name: (training.learning, options | {"recipe": recipe | change})
            for name, change in changes.items()
        }
    )
    checks = []
    if all("rounds" in result for result in results.values()):
        curves = {name: [m["curve"] for m in r["rounds"]] for name, r in results.items()}
        shares = {
            name: [
                [(place / len(curve), loss) for place, (_, loss) in enumerate(curve, 1)]
                for curve in rounds
            ]
            for name, rounds in curves.items()
        }
        pictures.draw_curves(shares, "share of the epoch", suite.output / "order.png")
        for name, rounds in curves.items():
            losses = [curve[-1][1] for curve in rounds]
            checks.append(check(f"loss after an epoch, {name}", statistics.median(losses)))
    ratios = [
        compare(results, name, "in random order")
        for name in ("four batches a step", "one batch a step")
    ]
    return part("an epoch of a smaller T5", "epochs an hour", results, ratios, checks)


def measure_learning(suite: Suite) -> dict:
    """What a T5 and a GRU with attention of one size learn from the same tokens, both tuned."""
    counts = (150, 30, 5) if suite.quick else (76_000, 1000, 12) if suite.full else (6000, 256, 12)
    options = dict(zip(("pairs", "validation", "points"), counts, strict=True))
    recipe = {"tokens_per_batch": 1024, "gradient_accumulation_steps": 2, "warmup_steps": 0.05}
    results = suite.measure(
        {
            name: (
                training.learning,
                options | {"folder": suite.folder, "size": size, "recipe": recipe | TUNED[name]},
            )
            for name, size in material.COMPARED.items()
        }
    )
    checks = []
    if all("rounds" in result for result in results.values()):
        for name, result in results.items():
            for label, figure in (
                ("loss after an epoch", lambda measured: measured["curve"][-1][1]),
                ("context gain", lambda measured: measured["context_gain"]),
            ):
                figures = [figure(measured) for measured in result["rounds"]]
                checks.append(check(f"{label}, {name}", statistics.median(figures)))
    ratios = [compare(results, *material.COMPARED)]
    return part("an epoch of models of one size", "epochs an hour", results, ratios, checks)


def measure_step(suite: Suite) -> dict:
    """What the pieces of a training step are worth: ours, and ours with one of them changed."""
    options = {"folder": suite.folder, "size": suite.size(material.T5_SMALL), "use_cpu": True}
    options |= {"tokens_per_batch": 2048, "steps": 2 if suite.quick else 8}
    changes = {
        "eager attention": {"attention": "eager"},
        "AdamW, not fused": {"optim": "adamw_torch"},
        "memory given back": {"keep_memory": False},
        "compiled": {"torch_compile": True, "warmup": 4},
        "bf16": {"bf16": True},
    }
    results = suite.measure(
        {"ours": (training.ours, options)}
        | {name: (training.ours, options | change) for name, change in changes.items()}
    )
    ratios = [compare(results, name, "ours") for name in changes]
    return part("steps of T5-small with a piece changed", "tokens/s", results, ratios)


def measure_generation(suite: Suite) -> dict:
    """Greedy replies to many contexts."""
    options = {"folder": suite.folder, "name": suite.model, "size": suite.size(material.T5_SMALL)}
    options["count"] = 20 if suite.quick else 1000 if suite.full else 400
    results = suite.measure(
        {"ours": (answering.ours, options), "stock": (answering.stock, options)}
    )
    rounds = [result.get("rounds", []) for result in results.values()]
    replies = [[measured.pop("replies") for measured in some] for some in rounds]
    checks = []
    if all(replies):
        ours, stock = (some[0] for some in replies)
        same = sum(a == b for a, b in zip(ours, stock, strict=True))
        checks.append(check(f"equal replies of {len(ours):,}", same))
        checks.append(check("different replies", len(set(ours))))
        words = statistics.mean(len(reply.split()) for reply in ours)
        checks.append(check("words a reply", words))
    ratios = [compare(results, "ours", "stock", 3)]
    return part("greedy replies to test contexts", "replies/s", results, ratios, checks)


def measure_latency(suite: Suite) -> dict:
    """One reply at a time, and batches of 16 with 4 beams."""
    run = answering.save_run(suite.folder, suite.model, suite.size(material.T5_SMALL))
    common = {"folder": suite.folder, "run": run}
    if suite.model is None:  # random weights do not end by themselves: as long as half of replies
        common["options"] = {"min_new_tokens": 16, "max_new_tokens": 16}
    else:
        common["options"] = {"max_new_tokens": answering.MAX_NEW_TOKENS}
    common["options"] |= {"do_sample": False}
    single, batch = (2, 3) if suite.quick else (24, 64)
    results = {}
    for contestant, ways, count in (
        (answering.one_turn, ("pipeline", "generate_response", "export"), single),
        (answering.beams, ("generate", "export"), batch),
    ):
        suffix = ", 4 beams" if contestant is answering.beams else ""
        options = common | {"count": count}
        results |= suite.measure(
            {f"{way}{suffix}": (contestant, options | {"way": way}) for way in ways}
        )
    ratios = [
        compare(results, "export", "pipeline", 1.5),
        compare(results, "generate_response", "pipeline"),
        compare(results, "export, 4 beams", "generate, 4 beams", 2.5),
    ]
    checks = [
        check(f"milliseconds to a reply, {name}", 1000 / results[name]["speed"]["median"])
        for name in ("pipeline", "generate_response", "export")
        if "speed" in results[name]
    ]
    title = "one reply at a time, and batches of 16 with 4 beams"
    return part(title, "replies/s", results, ratios, checks)


def measure_batches(suite: Suite) -> dict:
    """Replies to many contexts at once against a loop of single calls, greedy and by beams."""
    common = {"folder": suite.folder, "run": suite.model or STARTER}
    common["count"] = 6 if suite.quick else 500
    contestants, checks = {}, []
    for way, options in {"greedy": {"num_beams": 1, "do_sample": False}, "its own": {}}.items():
        for name, batched in (("at once", True), ("one by one", False)):
            arguments = common | {"batched": batched, "options": options}
            contestants[f"{way}, {name}"] = (answering.many, arguments)
    results = suite.measure(contestants)
    replies = {
        name: [measured.pop("replies") for measured in result.get("rounds", [])]
        for name, result in results.items()
    }
    ratios = []
    for way in ("greedy", "its own"):
        names = f"{way}, at once", f"{way}, one by one"
        ratios.append(compare(results, *names, 5))
        if all(replies[name] for name in names):
            pairs = list(zip(*(replies[name][0] for name in names), strict=True))
            same = sum(ours == single for ours, single in pairs)
            checks.append(check(f"equal replies of {len(pairs):,}, {way}", same))
    title = "replies of a trained model, batches against single calls"
    return part(title, "replies/s", results, ratios, checks)


def measure_serving(suite: Suite) -> dict:
    """Many clients of the server against one, and its first token against a whole reply."""
    common = {"folder": suite.folder, "run": Path(suite.model or STARTER)}
    few, many = (2, 4) if suite.quick else (30, 200)
    results, ratios = {}, []
    for engine in ("PyTorch", "int8"):
        options = common | {"engine": engine}
        whats = ("20 clients", "one client", "first token", "whole reply")
        twenty, one, first, whole = (f"{engine}, {what}" for what in whats)
        results |= suite.measure(
            {
                twenty: (serving.replies, options | {"clients": 20, "count": many}),
                one: (serving.replies, options | {"clients": 1, "count": many}),
                first: (serving.first_token, options | {"count": few}),
                whole: (serving.whole_reply, options | {"count": few}),
            }
        )
        ratios += [compare(results, twenty, one, 3), compare(results, first, whole, 3)]
    title = "the server, greedy; first token and whole reply are one over seconds"
    return part(title, "replies/s", results, ratios)


def measure_preparation(suite: Suite) -> dict:
    """Tokenising, and how memory and time grow with the data."""
    options = {"folder": suite.folder, "count": 200 if suite.quick else 10_000}
    results = suite.measure(
        {
            "ours": (preparation.ours, options),
            "examples' map": (preparation.mapped, options),
            "seed's dataset": (preparation.one_by_one, options),
        }
    )
    ratios = [compare(results, "ours", peer, 4) for peer in ("examples' map", "seed's dataset")]
    return part("rows to features on one core", "pairs/s", results, ratios)


def measure_growth(suite: Suite) -> dict:
    """Memory and time a dialogue, from text to features, as the data grow."""
    sizes = (10_000, 1_000_000) if suite.full else (150, 400) if suite.quick else (1_000, 10_000)
    contestants = {}
    for count in sizes:
        text = suite.folder / f"{count}.txt"
        preparation.write_corpus(suite.about["data"], count, text)
        options = {"folder": suite.folder, "text": text, "count": count}
        contestants[f"{count:,} dialogues"] = (preparation.growth, options)
    rounds = 1 if suite.full else suite.rounds
    results = harness.in_turn(contestants, rounds, suite.console)
    few, many = contestants
    checks = []
    if "rounds" in results[many]:
        own = max(measured["own_peak_mib"] for measured in results[many]["rounds"])
        checks.append(check(f"{many}: peak MiB without mapped files", own, at_most=1536))
    ratio = compare(results, many, few)
    if "ratio" in ratio:
        times = 1 / ratio["ratio"]["median"]
        checks.append(check("time a dialogue, many against few", times, 0.8, 1.2))
    return part("text to features on disk", "dialogues/s", results, [ratio], checks)


def measure_processes(suite: Suite) -> dict:
    """Two processes of one core against one of two."""
    options = {"folder": suite.folder, "size": suite.size(material.T5_SMALL)}
    options |= {"steps": 2 if suite.quick else 5, "tokens_per_batch": 4096}
    results = suite.measure(
        {
            name: (processes.launched, options | {"processes": count})
            for name, count in (("two processes", 2), ("one process", 1))
        }
    )
    ratios = [compare(results, "two processes", "one process", 0.85)]
    return part("training on two cores", "tokens/s", results, ratios)


def measure_gpu(suite: Suite) -> dict:
    """Training on a GPU in bf16."""
    cuda = torch.cuda.is_available()
    size = suite.size(material.T5_BASE)
    folder = suite.folder
    if suite.about["pairs"]["train"] < gpu.ENOUGH:
        folder = suite.folder / "drawn"
        gpu.draw_features(suite.folder, folder, 500 if suite.quick else 60_000)
    common = {"folder": folder, "size": size, "use_cpu": not cuda}
    common |= {"warmup": 2 if suite.quick else 10}
    steps = {"steps": 3 if suite.quick else 20}
    # In batches twice as large a T5-base gains 15 % on an H100, and takes 57 GB of its memory.
    large = steps | {"tokens_per_batch": 2048 if suite.quick else 32_768}
    small = steps | {"tokens_per_batch": 1024 if suite.quick else 16_384}
    stock = common | steps | {"bf16": cuda}
    tuned = stock | {"batch_size": 32, "group_by_length": True, "plans": False}
    contestants = {
        "ours": (training.ours, common | large),
        "ours, 16,384": (training.ours, common | small),
        "stock": (training.stock, stock),
        "tuned stock": (training.stock, tuned),
        "matrix peak": (gpu.matrix_peak, {"width": 256 if suite.quick else 8192}),
    }
    if cuda:  # compiling takes minutes
        contestants["ours, compiled"] = training.ours, common | large | {"torch_compile": True}
    results = suite.measure(contestants, limit=600)
    peers = [name for name in contestants if name != "ours" and name != "matrix peak"]
    ratios = [compare(results, "ours", peer, 3 if peer == "stock" else None) for peer in peers]
    checks = []
    if "speed" in results["matrix peak"]:
        peak = results["matrix peak"]["speed"]["median"]
        checks.append(check("matrix peak, TFLOP/s", peak / 1e12))
        for name, result in results.items():
            if "speed" in result and name != "matrix peak":
                rates = [measured["flops"] / measured["seconds"] for measured in result["rounds"]]
                at_least = 0.4 if name == "ours" and cuda else None
                share = statistics.median(rates) / peak
                checks.append(check(f"share of the matrix peak, {name}", share, at_least))
    where = torch.cuda.get_device_name() if cuda else "the CPU: no CUDA device"
    title = f"training steps of T5-base in bf16, on {where}"
    return part(title, "tokens/s", results, ratios, checks)


PARTS = {
    "training": measure_training,
    "step": measure_step,
    "to_loss": measure_to_loss,
    "order": measure_order,
    "learning": measure_learning,
    "generation": measure_generation,
    "latency": measure_latency,
    "batches": measure_batches,
    "serving": measure_serving,
    "preparation": measure_preparation,
    "growth": measure_growth,
    "processes": measure_processes,
    "gpu": measure_gpu,
}


def run_part(name: str, suite: Suite, about: dict) -> None:
    """Measure a part; write what was found, `about` beside it, and print it."""
    suite.console.rule(name)
    start = time.perf_counter()
    found = {"part": name} | PARTS[name](suite)
    found |= {"took_seconds": time.perf_counter() - start, "about": about}
    write_json(suite.output / f"{name}.json", found)
    harness.print_part(found, suite.console)


def _check(parts: Sequence[str], rounds: int, quick: bool, chart: bool) -> None:
    """Refuse what cannot be measured."""
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise UsageError(
            f"There is no part {unknown[0]!r}, but {', '.join(PARTS)}.{nearest(unknown[0], PARTS)}"
        )
    if not 1 <= rounds <= material.ROUNDS:
        raise UsageError(f"rounds is {rounds}; it must be from 1 to {material.ROUNDS}.")
    if quick and chart:
        raise UsageError("quick measures sizes that mean nothing: leave out --chart or --quick.")


def bench(
    parts: Sequence[str] = (),
    data: str | None = None,
    model: str | None = None,
    rounds: int = 3,
    output: str | None = None,
    quick: bool = False,
    full: bool = False,
    chart: bool = False,
) -> None:
    """Measure, print what was found, and write it to `output`, a JSON file for each part.

    Args:
        parts: of `PARTS`; all by default.
        data: dialogues as `--data` of a run; `$DIALOG_DATA/dailydialog` or the sample corpus.
        model: a trained T5 for generation and latency, random weights by default; for batches the
            starter by default.
        rounds: how often each contestant measures.
        output: a folder, runs/bench by default (runs/bench_quick for a first look); of parts that
            are measured again, what it holds gives way.
        quick: tiny sizes, to see that it works.
        full: growth to a million dialogues (once), replies to 1,000 contexts, order on more pairs,
            learning on a whole epoch, to_loss with our AdamW for stock, too: hours more, and 10 GB
            of disk.
        chart: draw all parts that `output` holds to benchmarks/ours_vs_peers.png.

    Raises:
        UsageError: no such part, a number of rounds that cannot be, unusable data or output.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # contestants end with it
    _check(parts, rounds, quick, chart)
    place = Path(output or ("runs/bench_quick" if quick else "runs/bench"))
    console = Console(soft_wrap=True)
    check_writable(place / "training.json")
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    names = [name for name in PARTS if name in parts or not parts]
    if "gpu" in names and not (torch.cuda.is_available() or quick):
        console.print("gpu is skipped: no CUDA device is there; --quick tries it on the CPU.")
        names.remove("gpu")
    if names:
        with tempfile.TemporaryDirectory(prefix="work-", dir=place) as folder:
            suite = Suite(Path(folder), place, data, rounds, model, quick, full, console)
            about = environment(1, suite.about["data"]) | suite.about
            about |= {"threads": torch.get_num_threads(), "rounds": rounds, "quick": quick}
            for name in names:
                run_part(name, suite, about)
    written = {name: place / f"{name}.json" for name in PARTS}
    found = {name: read_json(path) for name, path in written.items() if path.exists()}
    if chart:
        thorough = {name: one for name, one in found.items() if not one["about"]["quick"]}
        pictures.draw_chart(thorough, CHART)
        console.print(f"The chart is in {CHART}")
    if quick:
        console.print("These sizes are to see that it works; the figures mean nothing.")
    console.print(f"The figures are in {place}")
    print(json.dumps({name: found[name] for name in names}))
