"""What is measured on: rows, features, tokenizer and models, prepared once for all contestants."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from transformers import PrinterCallback, TrainerCallback, set_seed

from seq2seq_dialog.data.features import encode_rows
from seq2seq_dialog.data.rows import load_rows, utterances
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.models.build import load_model
from seq2seq_dialog.models.tokenizer import load_tokenizer, train_tokenizer
from seq2seq_dialog.settings import DataArguments, ModelArguments
from seq2seq_dialog.training_settings import DialogueTrainingArguments

SAMPLES = Path(__file__).parents[1] / "samples" / "dialogues_text.txt"
T5_SMALL = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}
T5_BASE = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
# Of 4.8 million parameters with a vocabulary of 8,000, as in comparison.yaml.
COMPARED = {
    "T5": {
        "model_type": "t5",
        "d_model": 256,
        "d_kv": 64,
        "d_ff": 384,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
    },
    "GRU with attention": {
        "model_type": "rnn_seq2seq",
        "attention": "multiplicative",
        "embedding_size": 256,
        "hidden_size": 512,
        "tie_word_embeddings": True,
    },
}
SMALLER = {"d_model": 128, "d_kv": 32, "d_ff": 512, "num_layers": 2, "num_heads": 4}
TINY = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
ROUNDS = 20  # at most
VOCABULARY = 32128  # T5's, whatever the tokenizer: it decides what the output layer costs


def prepare(
    folder: Path, data: str | None, model: str | None = None, samples: int | None = None
) -> dict:
    """Write rows, features and the tokenizer to `folder`.

    The tokenizer is that of `model`, or t5-small's, from `$DIALOG_DATA/../t5-small`, or one trained
    on the data.

    Args:
        data: dialogues as `--data` of a run; by default `$DIALOG_DATA/dailydialog`, or the sample
            corpus where that is not set.
        model: a trained model to measure with.
        samples: use only the first so many pairs of each split.

    Returns:
        What the data is: path, pairs and real tokens a pair.

    Raises:
        UsageError: no training, validation and test pairs there.
    """
    shared = os.environ.get("DIALOG_DATA")
    data = data or (str(Path(shared) / "dailydialog") if shared else str(SAMPLES))
    args = DataArguments(
        data=data,
        data_cache=str(folder / "cache"),
        max_train_samples=samples,
        max_eval_samples=samples,
    )
    rows, _ = load_rows(args)
    missing = {"train", "validation", "test"} - set(rows)
    if missing:
        raise UsageError(
            f"{data} has no {' and no '.join(sorted(missing))} pairs, which the benchmarks need; "
            "give more dialogues as --data."
        )
    small = Path(shared).parent / "t5-small" if shared else None
    if model is None and small is not None and small.exists():
        model = str(small)
    trained = folder / "trained"
    if model is None:
        train_tokenizer(utterances(rows["train"]), ModelArguments.vocab_size, trained)
    own = ModelArguments(tokenizer_name_or_path=model)
    tokenizer = load_tokenizer(own, args.max_source_length, trained)
    tokenizer.save_pretrained(folder / "tokenizer")
    for name, split in rows.items():
        encode_rows(split, tokenizer, args).save_to_disk(folder / name)
    train = features(folder, "train")
    tokens = float(lengths(train).sum(1).mean())
    pairs = {name: len(split) for name, split in rows.items()}
    return {"data": data, "pairs": pairs, "tokens_per_pair": tokens}


def features(folder: Path, split: str) -> Dataset:
    """Load the prepared rows and features of a split."""
    return load_from_disk(str(folder / split))


def lengths(dataset: Dataset) -> np.ndarray:
    """Source and target tokens of each example, (examples, 2)."""
    columns = dataset.select_columns(["source_length", "target_length"]).with_format("numpy")
    return np.stack([columns["source_length"][:], columns["target_length"][:]], axis=1)


def tokenizer(folder: Path):
    """Load the prepared tokenizer as a run does."""
    own = ModelArguments(tokenizer_name_or_path=str(folder / "tokenizer"))
    return load_tokenizer(own, DataArguments.max_source_length)


def model(folder: Path, size: dict, seed: int = 0):
    """Make a model with random weights as a run does, a T5 if `size` names no `model_type`."""
    set_seed(seed)
    new = json.dumps({"model_type": "t5", "vocab_size": VOCABULARY, **size})
    return load_model(ModelArguments(new_model=new), tokenizer(folder))


def our_arguments(folder: Path, **settings) -> DialogueTrainingArguments:
    """Make the run script's settings, without evaluations, checkpoints and bars."""
    quiet = {"eval_strategy": "no", "save_strategy": "no", "disable_tqdm": True}
    return DialogueTrainingArguments(output_dir=str(folder / "run"), **(quiet | settings))


def spread(sizes: np.ndarray, batches: list[list[int]], count: int) -> list[list[int]]:
    """Pick batches for `ROUNDS` rounds, those of a round standing for an epoch.

    They are of all sizes, and in the mean as large and as full as those of the epoch. A recipe that
    groups by length would otherwise begin with its longest batches, and a few random ones would be
    far off the mean.

    Args:
        sizes: source and target tokens of each example, (examples, 2).
        batches: of an epoch.
        count: how many to pick for a round.
    """
    padded = np.array([len(batch) * sizes[batch].max(0).sum() for batch in batches])
    tokens = np.stack([padded, [sizes[batch].sum() for batch in batches]])  # (2, batches)
    order, mean, picked = np.argsort(padded, kind="stable"), tokens.mean(1), []
    rng = np.random.default_rng(0)
    for _ in range(ROUNDS):
        places = np.arange(count) + rng.random((200, count))  # one in each of `count` ranges
        draws = order[(places * len(order) / count).astype(int)]  # (draws, count)
        off = [np.abs(tokens[:, draw].mean(1) / mean - 1).sum() for draw in draws]
        picked += rng.permutation(draws[int(np.argmin(off))]).tolist()
    return [batches[i] for i in picked]


class Clock(TrainerCallback):
    """Lets a trainer measure its optimizer steps by turns: `steps` in each, `warmup` before.

    Args:
        turns: see `harness`.
        trainer: of `counted`.
        size: of the model.
    """

    def __init__(self, turns, trainer, size: dict, steps: int, warmup: int):
        self.turns, self.numbers, self.trainer = turns, iter(turns), trainer
        self.size, self.steps, self.warmup = size, steps, warmup

    def on_step_end(self, args, state, control, **kwargs):
        """Stop the clock where a turn ends, wait for the next, and start it again."""
        step, cuda = state.global_step, args.device.type == "cuda"
        if step < self.warmup or (step - self.warmup) % self.steps:
            return
        if cuda:
            torch.cuda.synchronize(args.device)
        if step > self.warmup:
            measured = measurement(self.trainer.counts, time.perf_counter() - self.start, self.size)
            if cuda:
                measured["peak_mib"] = torch.cuda.max_memory_allocated(args.device) / 2**20
            self.turns.done(measured)
        if cuda:
            torch.cuda.empty_cache()  # the others want to use the GPU
        if next(self.numbers, None) is None:
            control.should_training_stop = True
        self.trainer.counts.clear()
        self.start = time.perf_counter()


def take_turns(turns, trainer, size: dict, steps: int, warmup: int) -> None:
    """Train; measure `steps` optimizer steps in each turn."""
    trainer.add_callback(Clock(turns, trainer, size, steps, warmup))
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def counted(trainer_class):
    """Make a trainer class that notes the lengths in each batch and its padded size in `counts`."""

    class Counted(trainer_class):
        def __init__(self, *args, **kwargs):
            self.counts = []
            super().__init__(*args, **kwargs)

        def training_step(self, model, inputs, *args, **kwargs):
            sources = inputs["input_ids"].ne(self.processing_class.pad_token_id).sum(1)  # (batch,)
            targets = inputs["labels"].ne(-100).sum(1)  # (batch,)
            padded = inputs["input_ids"].numel() + inputs["labels"].numel()
            self.counts.append((sources, targets, padded))  # read when the clock has stopped
            return super().training_step(model, inputs, *args, **kwargs)

    return Counted


def measurement(counts: Sequence, seconds: float, size: dict) -> dict:
    """Make a measurement of batches that were trained on.

    Args:
        counts: of each batch the real source and target tokens of its examples, (batch,) each, and
            the tokens with padding.
        seconds: that they took.
        size: of the model.
    """
    sources, targets, padded = zip(*counts, strict=True)
    sources, targets = torch.cat(sources).cpu(), torch.cat(targets).cpu()  # (examples,)
    real = int(sources.sum() + targets.sum())
    return {
        "work": real,
        "seconds": seconds,
        "padding": 1 - real / sum(padded),
        "steps": len(counts),
        "flops": training_flops(size, sources, targets),
    }


def training_flops(size: dict, sources: torch.Tensor, targets: torch.Tensor) -> float:
    """Count the floating point operations that training a T5 on some examples needs.

    Matrix products alone, forward and twice that backward, of real tokens: 6 for each parameter
    that a token meets (a source token those of the encoder and of the decoder's cross-attention
    keys and values, a target token the others of the decoder and the output layer), and for each
    attention 12 * width for each pair of tokens, half of that in the decoder's own, which is causal
    (Kaplan et al., 2020, section 2.1, for two sides).

    Args:
        size: the sizes of the model, with relu.
        sources, targets: real tokens of each example, (examples,).
    """
    sources, targets = sources.double(), targets.double()
    width, inner = size["d_model"], size["num_heads"] * size["d_kv"]
    projection, feed_forward = width * inner, 2 * width * size["d_ff"]
    source = 4 * projection + feed_forward + 2 * projection
    target = 4 * projection + feed_forward + 2 * projection
    pairs = 12 * sources**2 + 6 * targets**2 + 12 * sources * targets
    layers = size["num_layers"] * (6 * (sources * source + targets * target) + inner * pairs)
    return float((layers + 6 * targets * width * VOCABULARY).sum())
