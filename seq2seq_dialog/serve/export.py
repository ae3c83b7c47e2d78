"""Export a trained model to CTranslate2, measured against the model it is made of."""

import math
import shlex
import shutil
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sacrebleu.metrics import BLEU
from transformers import AutoModelForSeq2SeqLM
from transformers.utils.logging import disable_progress_bar

from ..decoding.generation_config import changed_settings
from ..errors import UsageError
from ..evaluation.text import tokenizer_of
from ..portable.context import encode_context
from ..portable.options import EXTRA_OPTIONS, positions
from ..run_folder import check_writable, read_json, read_language, read_pairs, write_json
from ..shipped import command
from .exported_model import (
    ABOUT,
    EXPORT_FOLDER,
    FILES,
    ExportedModel,
    is_export,
    require_ctranslate2,
    run_fingerprint,
)
from .inference import load, reply_to_batch

BATCH, BEAMS = 16, 4
SMALLEST_EQUAL_SHARE = {"float32": 0.99, "int8": 0.5}  # of greedy replies
# The most by which sacreBLEU may fall: the greater of these, in points and as a share of it.
BLEU_FALL_POINTS, BLEU_FALL_SHARE = 1.0, 0.1
WAYS = {"greedy": "one by one, greedy", "beams": f"batches of {BATCH}, {BEAMS} beams"}


def export(
    folder: str, quantization: str = "float32", output: str | None = None, samples: int = 200
) -> None:
    """Write a trained model in CTranslate2's form, in which it answers faster on a CPU.

    Replies, speed and sacreBLEU of both are compared on `samples` evenly spaced test contexts,
    printed, and kept in export.json. An earlier export is replaced only by one that passes. What
    CTranslate2 cannot do of the model's saved decoding, guidance and candidates, is left out.
    """
    if quantization not in SMALLEST_EQUAL_SHARE:
        raise UsageError(
            f"quantization is {quantization!r}; it must be one of "
            f"{', '.join(SMALLEST_EQUAL_SHARE)}."
        )
    if samples < 2:
        raise UsageError(f"samples is {samples}; it must be at least 2.")
    require_ctranslate2()
    from .conversion import check_convertible

    target = Path(output or Path(folder) / EXPORT_FOLDER).absolute()
    if target.exists() and not is_export(target):
        raise UsageError(f"{str(target)!r} exists and is no export: choose another output.")
    disable_progress_bar()
    model, tokenizer, _ = load(folder, "cpu")
    check_convertible(model, tokenizer)
    left_out = sorted(changed_settings(model.generation_config) & EXTRA_OPTIONS.keys())
    pairs = read_pairs(folder, samples)
    check_writable(target)
    prefix = f".export-{target.name}-"
    for left in target.parent.glob(f"{prefix}*"):  # by an export that was killed
        shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(prefix=prefix, dir=target.parent) as scratch:
        unfinished = Path(scratch) / "unfinished"
        about = convert(folder, tokenizer, unfinished, quantization)
        exported = ExportedModel(unfinished)
        model.generation_config = exported.generation_config  # what both can do
        models = {"pytorch": model, "export": exported}
        figures = measure(models, tokenizer, pairs, read_language(folder))
        print_figures(figures, quantization)
        check_replies(figures, quantization)
        about |= {"ctranslate2": version("ctranslate2"), "threads": torch.get_num_threads()}
        write_json(unfinished / ABOUT, about | figures)
        if target.exists():
            target.rename(Path(scratch) / "replaced")
        unfinished.rename(target)
    if left_out:
        print(f"An export answers without {', '.join(left_out)}, which this model has saved.")
    print(f"Written to {output or Path(folder) / EXPORT_FOLDER}. On the CPU it answers in:")
    print(f"  {command('chat')} {shlex.quote(str(output or folder))}")


def convert(folder: str | Path, tokenizer, output: Path, quantization: str) -> dict:
    """Write the model in `folder` in CTranslate2's form to the folder `output`, which it makes.

    Returns what export.json says, not yet measured.
    """
    from .conversion import LOADERS, make_spec

    # Loaded anew, since the conversion overwrites the weights.
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    target_positions = positions(model.config)[1]
    about = {
        "format": "ctranslate2",
        "quantization": quantization,
        "weights": run_fingerprint(folder),
        "parameters": model.num_parameters(),
        "max_batch_size": LOADERS[model.config.model_type].max_batch_size,
        "positions": None if target_positions == math.inf else target_positions,
    }
    spec = make_spec(model, tokenizer, quantization)
    output.mkdir()
    spec.save(str(output))
    for name in FILES:
        if (Path(folder) / name).is_file():
            shutil.copyfile(Path(folder) / name, output / name)
    decoding = output / "generation_config.json"
    if decoding.is_file():
        saved = read_json(decoding)
        write_json(decoding, {name: saved[name] for name in saved if name not in EXTRA_OPTIONS})
    write_json(output / ABOUT, about)
    return about


def answer(way: str, contexts: Sequence, model, tokenizer) -> list[str]:
    """Reply to contexts in one of `WAYS`."""
    batch_size, beams = (1, 1) if way == "greedy" else (len(contexts), BEAMS)
    ids = [encode_context(context, tokenizer) for context in contexts]
    replies = []
    for start in range(0, len(ids), batch_size):
        batch = ids[start : start + batch_size]
        replies += reply_to_batch(batch, model, tokenizer, num_beams=beams, do_sample=False)
    return replies


def measure(models: dict, tokenizer, pairs: Sequence[dict], language: str) -> dict:
    """Let the models `pytorch` and `export` answer the same contexts in turn, in both `WAYS`.

    Sampling and the number of beams are set; all else is as the export's settings say. Returns
    `samples`; `equal_greedy`, how many greedy replies are the same in both; and for each way and
    model `replies_per_second` and `bleu`.
    """
    runs = [(way, name) for way in WAYS for name in models]
    replies, seconds = {run: [] for run in runs}, dict.fromkeys(runs, 0.0)
    for way, name in runs:  # warm up
        answer(way, [pairs[0]["context"]], models[name], tokenizer)
    starts = range(0, len(pairs), BATCH)
    for start in track(starts, "comparing replies", console=Console(stderr=True), transient=True):
        contexts = [pair["context"] for pair in pairs[start : start + BATCH]]
        for way, name in runs if start % (2 * BATCH) else reversed(runs):
            began = time.perf_counter()
            replies[way, name] += answer(way, contexts, models[name], tokenizer)
            seconds[way, name] += time.perf_counter() - began
    references = [pair["reference"] for pair in pairs]
    same = zip(*(replies["greedy", name] for name in models), strict=True)
    figures = {"samples": len(pairs), "equal_greedy": sum(a == b for a, b in same)}
    for way, name in runs:
        metric = BLEU(force=True, tokenize=tokenizer_of(language))
        bleu = metric.corpus_score(replies[way, name], [references]).score
        speed = len(pairs) / seconds[way, name]
        figures.setdefault(way, {})[name] = {"replies_per_second": speed, "bleu": bleu}
    return figures


def check_replies(figures: dict, quantization: str) -> None:
    """Refuse an export that, by the `figures` of `measure`, answers too differently."""
    changed = figures["samples"] - figures["equal_greedy"]
    allowed = max(1, int((1 - SMALLEST_EQUAL_SHARE[quantization]) * figures["samples"]))
    reasons = []
    if changed > allowed:
        reasons.append(
            f"{changed} of {figures['samples']} greedy replies have changed, {allowed} may"
        )
    for way, label in WAYS.items():
        before, after = (figures[way][name]["bleu"] for name in ("pytorch", "export"))
        least = before - max(BLEU_FALL_POINTS, BLEU_FALL_SHARE * before)
        if after < least:
            reasons.append(
                f"sacreBLEU ({label}) has fallen from {before:.2f} to {after:.2f}, below "
                f"{least:.2f}"
            )
    way_out = "Answer with the run folder itself."
    if quantization == "int8":
        way_out = "Try --quantization float32."
    if reasons:
        raise UsageError(
            "The export is not kept, since it answers too differently: "
            f"{'; '.join(reasons)}. {way_out}"
        )


def print_figures(figures: dict, quantization: str) -> None:
    """Print speed and sacreBLEU of both models, and how many replies stay the same."""
    console = Console(highlight=False, soft_wrap=True)
    table = Table(title="Replies per second", title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in ("PyTorch", quantization, "faster", "sacreBLEU"):
        table.add_column(heading, justify="right", no_wrap=True)
    for way, label in WAYS.items():
        before, after = figures[way]["pytorch"], figures[way]["export"]
        speed, faster = before["replies_per_second"], after["replies_per_second"]
        bleu = f"{before['bleu']:.2f} -> {after['bleu']:.2f}"
        table.add_row(label, f"{speed:.2f}", f"{faster:.2f}", f"{faster / speed:.2f} x", bleu)
    console.print(table)
    console.print(f"{figures['equal_greedy']} of {figures['samples']} greedy replies are the same.")
