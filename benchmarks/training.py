"""Training: real tokens a second of whole steps, and the time to a validation loss."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Seq2SeqTrainer, TrainerCallback

from seq2seq_dialog.data.batching import DialogueCollator
from seq2seq_dialog.models.loading import avoid_plans_for_shapes
from seq2seq_dialog.training.memory import keep_freed_memory
from seq2seq_dialog.training.trainer import DialogueTrainer

from . import material, peers

ENDLESS = 10**6  # steps: the turns decide when it is over


def ours(
    turns,
    folder: Path,
    size: dict,
    steps: int,
    tokens_per_batch: int,
    warmup: int = 2,
    attention: str = "sdpa",
    keep_memory: bool = True,
    **settings,
):
    """Train as run_seq2seq_dialog.py does.

    Args:
        attention: how it is computed.
        keep_memory: whether the process keeps the memory that it frees.
        settings: others of a run.
    """
    settings |= {"tokens_per_batch": tokens_per_batch, "max_steps": ENDLESS}
    tokenizer = material.tokenizer(folder)
    model = material.model(folder, size)
    model.set_attn_implementation(attention)
    args = material.our_arguments(folder, **settings)
    if keep_memory and args.device.type == "cpu":
        keep_freed_memory()
    trainer = material.counted(DialogueTrainer)(
        model,
        args,
        tokenizer,
        train_dataset=material.features(folder, "train"),
    )
    material.take_turns(turns, trainer, size, steps, warmup)


def stock(
    turns,
    folder: Path,
    size: dict,
    steps: int,
    batch_size: int = 8,
    group_by_length: bool = False,
    plans: bool = True,
    warmup: int = 2,
    **settings,
):
    """Train by the stock recipe, in each turn on batches that stand for an epoch of it.

    Args:
        plans: whether cuDNN's attention is on, as it is by default (`avoid_plans_for_shapes`).
        settings: others of a run.
    """
    if not plans:
        avoid_plans_for_shapes()
    features = material.features(folder, "train")
    sizes = material.lengths(features)

    class Spread(material.counted(Seq2SeqTrainer)):
        def _get_train_sampler(self, train_dataset=None):
            order = list(super()._get_train_sampler(train_dataset))
            whole = len(order) - len(order) % batch_size
            batches = [order[i : i + batch_size] for i in range(0, whole, batch_size)]
            picked = material.spread(sizes, batches, steps)
            return [index for batch in picked[:warmup] + picked for index in batch]

    settings["max_steps"] = ENDLESS
    args = peers.stock_arguments(str(folder / "stock"), batch_size, group_by_length, **settings)
    model, tokenizer = material.model(folder, size), material.tokenizer(folder)
    trainer = peers.stock_trainer(model, args, tokenizer, features, Spread)
    material.take_turns(turns, trainer, size, steps, warmup)


def seed(turns, folder: Path, size: dict, steps: int, warmup: int = 2):
    """Train by the seed recipe, in each turn on batches that stand for an epoch of it."""
    features, tokenizer = material.features(folder, "train"), material.tokenizer(folder)
    texts = features.select_columns(["context", "response"]).to_list()
    dataset = peers.SeedDataset(texts, tokenizer)
    sizes = material.lengths(features)
    pairs = np.random.default_rng(0).permutation(len(sizes))[: len(sizes) // 2 * 2]
    picked = material.spread(sizes, pairs.reshape(-1, 2).tolist(), steps)
    order = [index for batch in picked[:warmup] + picked for index in batch]
    model = material.model(folder, size)
    training = peers.seed_steps(model, peers.seed_loader(dataset, order))
    for _ in range(warmup):
        next(training)
    for _ in turns:
        counts, start = [], time.perf_counter()
        for _ in range(steps):
            batch, _ = next(training)
            sources, targets = batch["attention_mask"].sum(1), batch["labels"].ne(-100).sum(1)
            padded = batch["input_ids"].numel() + batch["labels"].numel()
            counts.append((sources, targets, padded))
        turns.done(material.measurement(counts, time.perf_counter() - start, size))


# The time to a loss


@torch.no_grad()
def exact_loss(model, batches: list[dict[str, torch.Tensor]]) -> float:
    """Mean loss over all target tokens, in nats."""
    model.eval()
    total = tokens = 0
    for batch in batches:
        count = int(batch["labels"].ne(-100).sum())
        total += float(model(**batch).loss) * count
        tokens += count
    model.train()
    return total / tokens


class Curve(TrainerCallback):
    """The validation loss over the time trained; that of the evaluations does not count.

    Args:
        batches: of validation.
        points: evaluations, at equal distances.
    """

    def __init__(self, batches: list[dict[str, torch.Tensor]], points: int):
        self.batches, self.points = batches, points
        self.curve, self.spent, self.clock = [], 0.0, time.perf_counter()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Evaluate where it is time to."""
        done = state.global_step * self.points // state.max_steps
        if done > (state.global_step - 1) * self.points // state.max_steps:
            self.spent += time.perf_counter() - self.clock
            self.curve.append((self.spent, exact_loss(model, self.batches)))
            self.clock = time.perf_counter()


class RandomOrder(DialogueTrainer):
    """Ours in as many steps, with batches of examples that are alike in nothing."""

    def get_train_dataloader(self) -> DataLoader:
        """As many batches as by token budget, all of as many examples."""
        count = len(super().get_train_dataloader())
        order = np.random.default_rng(self.args.seed).permutation(len(self.train_dataset))
        batches = [part.tolist() for part in np.array_split(order, count)]
        features = self.train_dataset.select_columns(["input_ids", "labels"])
        return DataLoader(features, batch_sampler=batches, collate_fn=self.data_collator)


def learning(
    turns, folder: Path, size: dict, pairs: int, validation: int, points: int, recipe: dict
):
    """Train one epoch in each turn and follow the loss; each turn begins with other weights.

    Args:
        pairs: of train to learn from.
        validation: pairs of validation.
        points: evaluations an epoch.
        recipe: settings of ours (with `tokens_per_batch`) or of the stock recipe; `random_order`
            has ours train on batches of as many examples each, in random order.
    """
    recipe = dict(recipe)
    trainer_class = RandomOrder if recipe.pop("random_order", False) else DialogueTrainer
    tokenizer = material.tokenizer(folder)
    train, held_out = (
        part.shuffle(seed=0).select(range(min(count, len(part))))
        for part, count in (
            (material.features(folder, "train"), pairs),
            (material.features(folder, "validation"), validation),
        )
    )
    held_out = held_out.sort("source_length")
    collate = DialogueCollator(tokenizer.pad_token_id)
    batches = [
        collate([held_out[j] for j in range(i, min(i + 32, len(held_out)))])
        for i in range(0, len(held_out), 32)
    ]
    for number in turns:
        model = material.model(folder, size, seed=number)
        settings = {"num_train_epochs": 1, "seed": 42 + number, "use_cpu": True} | recipe
        if "tokens_per_batch" in recipe:
            keep_freed_memory()
            args = material.our_arguments(folder, **settings)
            trainer = trainer_class(model, args, tokenizer, train_dataset=train)
        else:
            args = peers.stock_arguments(str(folder / "stock"), **settings)
            trainer = peers.stock_trainer(model, args, tokenizer, train)
        curve = Curve(batches, points)
        trainer.add_callback(curve)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        measured = {"work": 3600, "seconds": curve.spent, "steps": trainer.state.global_step}
        if trainer_class is DialogueTrainer and "tokens_per_batch" in recipe:
            measured["context_gain"] = trainer.evaluate(held_out)["eval_context_gain"]
        turns.done(measured | {"curve": curve.curve})


def to_loss_of(ours: dict, peer: dict) -> dict:
    """What `harness.in_turn` found for ours, with the seconds to the loss the peer ends with.

    In each round they end with the first evaluation at or under the last loss of the peer.
    """
    if "rounds" not in ours or "rounds" not in peer:
        return ours
    rounds = []
    for number, (measured, other) in enumerate(zip(ours["rounds"], peer["rounds"], strict=True), 1):
        loss = other["curve"][-1][1]
        seconds = next((after for after, value in measured["curve"] if value <= loss), None)
        if seconds is None:
            return {"failed": f"it does not reach the loss of {loss:.3f} in round {number}"}
        rounds.append(measured | {"seconds": seconds})
    return {"rounds": rounds}
