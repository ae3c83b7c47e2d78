"""A run before it begins (`dry_run`): data, examples, memory and time, printed and as a page."""

from __future__ import annotations

import sys
import time
import unicodedata
from collections import Counter
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import yaml
from datasets import Dataset
from rich.console import Console
from rich.table import Column, Table

from ..data.corpus import OTHER_MODEL, Corpus
from ..evaluation.text import main_language
from ..run_folder import PREVIEW, evenly_spaced, write_text
from ..settings import Settings
from ..training.memory import checkpoint_activations
from ..training.trainer import DialogueTrainer
from .pictures import PALETTE, histogram
from .tables import render

TRIAL_BATCHES = 4  # of which the first warms up
OF_STREAMS = ("position", "mean_targets")  # what a batch of a stream has beside the examples
SHOWN = 3  # examples
LETTERS = 200_000  # by which scripts are guessed
DIALOGUES = 1000  # by which languages are guessed
CHARACTERS = 1000  # of each of them that are read
LANGUAGES = 5  # that are told, the most frequent ones
CONFIDENCE = 0.5  # the least probability of a language that is told
NOT_TOLD = "not told"


def preview(
    trainer: DialogueTrainer,
    corpus: Corpus,
    features: dict[str, Dataset],
    settings: Settings,
    console: Console,
) -> Path:
    """Print what a run will do, and write it to data.html in its folder; return that path."""
    languages, sampled = guess_languages(corpus.rows["train"])
    doubt = language_doubt(languages, settings.data.language)
    content = {
        "name": settings.run_dir.resolve().name,
        "splits": {name: describe_split(rows) for name, rows in features.items()},
        "scripts": guess_scripts(corpus.rows["train"]),
        "languages": describe_languages(languages, sampled),
        "doubt": doubt and f"Warning: {doubt} {OTHER_MODEL}",
        "examples": decode_examples(features["train"], trainer.processing_class),
        "cost": measure(trainer),
        "settings": yaml.safe_dump(
            settings.as_config(), sort_keys=False, allow_unicode=True, width=100
        ),
        "problems": corpus.problems,
    }
    print_preview(content, console)
    numbers = features["train"].with_format("numpy")
    lengths = {
        "Tokens of context": numbers["source_length"][:],
        "Tokens of reply": numbers["target_length"][:],
        "Turns of context": np.array(list(map(len, features["train"]["context"]))),
    }
    content["pictures"] = {title: histogram(each, title) for title, each in lengths.items()}
    path = settings.run_dir / PREVIEW
    write_text(path, render("preview.html.jinja", content | {"palette": PALETTE}) + "\n")
    console.print(f"The same with pictures: {path}")
    return path


def describe_split(features: Dataset) -> dict[str, str]:
    """Count the dialogues and pairs of a split; the lengths of its contexts and replies."""
    numbers = features.with_format("numpy")
    rows = {
        "dialogues": f"{int((numbers['turn'][:] == 1).sum()):,}",
        "pairs": f"{len(features):,}",
    }
    for name, column in (("context", "source_length"), ("reply", "target_length")):
        middle, ninety, most = np.percentile(numbers[column][:], [50, 90, 100]).astype(int)
        rows[f"tokens of {name}: median, 90 %, greatest"] = f"{middle:,}, {ninety:,}, {most:,}"
    return rows


def guess_scripts(rows: Dataset) -> dict[str, float]:
    """Return the shares of the scripts that replies are written in, the most frequent first."""
    counts: Counter = Counter()
    for response in rows["response"]:
        counts.update(filter(str.isalpha, response))
        if counts.total() > LETTERS:
            break
    scripts: Counter = Counter()
    for letter, count in counts.items():
        scripts[unicodedata.name(letter, "OTHER").split()[0].capitalize()] += count
    total = max(1, scripts.total())
    return {script: count / total for script, count in scripts.most_common(3)}


@lru_cache(maxsize=1)
def load_identifier():
    """Load what tells languages; of less than `CONFIDENCE` it is `und`, of no language `zxx`."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # only here: a dry run needs it

    return LanguageIdentifier.from_model_file(
        MODEL_FILE, norm_probs=True, min_confidence=CONFIDENCE
    )


def guess_languages(rows: Dataset) -> tuple[dict[str, float], int]:
    """Guess the languages of the dialogues behind `rows`, of evenly spaced ones if there are many.

    All turns of a dialogue are read together, since a short line says little.

    Returns:
        The shares of the languages, codes of ISO 639, the most frequent first (`NOT_TOLD` is that
        of dialogues that say too little), and the number of dialogues that were read.
    """
    identifier = load_identifier()
    turns = rows.with_format("numpy")["turn"][:]
    last = np.flatnonzero(np.append(turns[1:] == 1, True))  # rows that have all turns
    chosen = evenly_spaced(last, DIALOGUES)
    counts: Counter = Counter()
    for row in rows.select(chosen).select_columns(["context", "response"]):
        text = "\n".join([*row["context"], row["response"]])[:CHARACTERS]
        language, _ = identifier.classify(text)
        counts[NOT_TOLD if language in ("und", "zxx") else language] += 1
    shares = {language: count / len(chosen) for language, count in counts.most_common(LANGUAGES)}
    return shares, len(chosen)


def describe_languages(shares: dict[str, float], dialogues: int) -> str:
    """Say what `guess_languages` returns."""
    told = ", ".join(f"{language} {100 * share:.1f} %" for language, share in shares.items())
    return f"Languages, guessed from {dialogues:,} dialogues: {told}"


def language_doubt(shares: dict[str, float], language: str) -> str | None:
    """Say what to do if most dialogues are in another language than the setting `language`."""
    guess, share = next(iter(shares.items()))
    if share <= 0.5 or guess in (NOT_TOLD, main_language(language)):
        return None
    return (
        f"most dialogues seem to be in the language {guess}, but language is {language}: set "
        f"--language {guess}."
    )


def decode_examples(features: Dataset, tokenizer) -> list[dict[str, str]]:
    """Return what a model sees and has to say in some examples, evenly spaced."""
    return [
        {
            "sees": tokenizer.decode(features[place]["input_ids"]),
            "has to say": tokenizer.decode(features[place]["labels"]),
        }
        for place in evenly_spaced(range(len(features)), SHOWN)
    ]


def measure(trainer: DialogueTrainer) -> dict[str, float]:
    """Take a few training steps, of which nothing is kept, and reckon the whole training by them.

    They are steps in which the model learns: of adversarial training, those after the first ones.

    Returns:
        `parameters`; `tokens_per_second`, padded ones, of this process; `seconds` of all epochs, on
        as many processes as there are; `steps`; `gigabytes`, the greatest memory so far: of the GPU
        or, on a CPU, of the process.
    """
    args, loader = trainer.args, trainer.get_train_dataloader()
    checkpoint_activations(trainer.model, args)
    trainer.create_optimizer()
    trainer.state.global_step = trainer.first_step
    times, sizes = [], []
    for batch in islice(loader, TRIAL_BATCHES):
        begin = time.perf_counter()
        inputs = {name: batch[name] for name in batch if name not in OF_STREAMS}
        trainer.model.zero_grad()
        with trainer.accelerator.autocast():
            trainer.training_step(trainer.model, dict(inputs), inputs["labels"].numel())
        trainer.optimizer.step()
        if args.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
        sizes.append(inputs["input_ids"].numel() + inputs["labels"].numel())
    trainer.state.global_step = 0
    warm = slice(1, None) if len(times) > 1 else slice(None)
    rate = sum(sizes[warm]) / sum(times[warm])
    per_step = args.gradient_accumulation_steps
    if args.max_steps > 0:
        steps = args.max_steps
        batches = steps * per_step
    else:
        batches = len(loader) * args.num_train_epochs
        steps = -(-len(loader) // per_step) * args.num_train_epochs
    return {
        "parameters": trainer.model.num_parameters(),
        "tokens_per_second": rate,
        "steps": int(steps),
        "seconds": batches * float(np.mean(sizes)) / rate,
        "gigabytes": _peak_memory(args.device),
    }


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e9
    import resource  # which Windows lacks

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def print_preview(content: dict, console: Console) -> None:
    """Print what `preview` collects."""
    splits = content["splits"]
    heads = [Column(name, justify="right") for name in splits]
    table = Table("", *heads, title="Data", title_justify="left")
    for label in next(iter(splits.values())):
        table.add_row(label, *(counts[label] for counts in splits.values()))
    console.print(table)
    shares = (f"{script} {100 * share:.1f} %" for script, share in content["scripts"].items())
    console.print(f"Letters of the replies: {', '.join(shares)}")
    console.print(content["languages"])
    if content["doubt"]:
        console.print(content["doubt"], style="yellow")
    for number, example in enumerate(content["examples"], 1):
        for verb, text in example.items():
            console.print(f"Example {number}, the model {verb}: {text}")
    cost = content["cost"]
    minutes = cost["seconds"] / 60
    console.print(
        f"{cost['parameters']:,} parameters. {cost['steps']:,} steps at "
        f"{cost['tokens_per_second']:,.0f} tokens a second, padding included, as measured on "
        f"{TRIAL_BATCHES} batches: about {minutes:,.0f} min of training, without evaluation. "
        f"Memory so far: {cost['gigabytes']:.1f} GB."
    )
    console.print(f"Settings:\n{content['settings']}")
