"""Answering: greedy replies to many contexts, and the time to one reply."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM, PrinterCallback, pipeline

from seq2seq_dialog.data.batching import DialogueCollator
from seq2seq_dialog.decoding.generation_config import generation_config
from seq2seq_dialog.models import artifact
from seq2seq_dialog.serve.export import convert
from seq2seq_dialog.serve.exported_model import ExportedModel
from seq2seq_dialog.serve.inference import generate_response, generate_responses, load
from seq2seq_dialog.settings import DecodingArguments
from seq2seq_dialog.training.memory import keep_freed_memory
from seq2seq_dialog.training.trainer import DialogueTrainer

from . import material, peers
from .harness import Skip

MAX_NEW_TOKENS = 128


def answering_model(folder: Path, name: str | None, size: dict):
    """Load a trained model, or make one with random weights whose replies have natural lengths."""
    if name is None:
        model = material.model(folder, size)
        # Tied to the input, random weights would repeat the start token for ever.
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
        targets = material.features(folder, "test")["target_length"]
        end_naturally(model, torch.tensor(targets).clamp(2, MAX_NEW_TOKENS))
    else:
        model = AutoModelForSeq2SeqLM.from_pretrained(name, dtype="float32")
    settings = DecodingArguments(max_new_tokens=MAX_NEW_TOKENS)
    model.generation_config = generation_config(settings, model)
    return model.eval()


def end_naturally(model, lengths: torch.Tensor) -> None:
    """Let replies of a model with random weights end as human ones do.

    Left alone it would end at once or never, and time would tell little: how long the longest reply
    of a batch is decides what a batch costs. So every context is given one of `lengths`, that of
    its tokens' sum; the end token has probability 1 there and 0 before. It is done in the model's
    forward pass, whoever calls it: the encoder leaves the length (a thousandth of it) in the first
    number of its output, and the logits are set by how many tokens are in the cache.

    Args:
        lengths: of replies in tokens, with the end token: a sample of human ones.
    """
    end, least = model.config.eos_token_id, torch.finfo(torch.float32).min

    def leave_length(encoder, args, kwargs, output):
        chosen = lengths[kwargs["input_ids"].sum(1).cpu() % len(lengths)]  # (batch,)
        output.last_hidden_state[:, 0, 0] = chosen.to(output.last_hidden_state) / 1000

    def end_there(model, args, kwargs, output):
        if kwargs.get("past_key_values") is None or kwargs.get("encoder_outputs") is None:
            return  # the likelihood of a reference
        states = kwargs["encoder_outputs"][0]  # (batch, source_len, hidden)
        ended = kwargs["past_key_values"].get_seq_length() >= (states[:, 0, 0] * 1000).round()
        logits = output.logits[:, -1]  # (batch, vocab)
        logits[:, end] = torch.where(ended, -least, least)

    model.get_encoder().register_forward_hook(leave_length, with_kwargs=True)
    model.register_forward_hook(end_there, with_kwargs=True)


def contexts(folder: Path, count: int):
    """The first test examples, in the order of the data."""
    test = material.features(folder, "test")
    return test.select(range(min(count, len(test))))


def ours(turns, folder: Path, name: str | None, size: dict, count: int):
    """Reply as a run's evaluation does."""
    examples, tokenizer = contexts(folder, count), material.tokenizer(folder)
    model = answering_model(folder, name, size)
    args = material.our_arguments(folder, use_cpu=True)
    keep_freed_memory()
    trainer = DialogueTrainer(model, args, tokenizer)
    trainer.remove_callback(PrinterCallback)
    for _ in turns:
        start = time.perf_counter()
        replies = [output["reply"] for output in trainer.predict(examples).predictions]
        turns.done(
            {"work": len(replies), "seconds": time.perf_counter() - start, "replies": replies}
        )


def stock(turns, folder: Path, name: str | None, size: dict, count: int):
    """Reply as the stock recipe does."""
    examples, tokenizer = contexts(folder, count), material.tokenizer(folder)
    model = answering_model(folder, name, size)
    for _ in turns:
        output_dir = str(folder / "stock")
        replies, seconds = peers.stock_replies(model, tokenizer, examples, output_dir, use_cpu=True)
        turns.done({"work": len(replies), "seconds": seconds, "replies": replies})


# The time to one reply


def save_run(folder: Path, name: str | None, size: dict) -> Path:
    """Return the folder of a trained model, or save one with random weights as a run does."""
    if name is not None:
        return Path(name)
    place = folder / "model"
    model = material.model(folder, size)
    settings = DecodingArguments(max_new_tokens=MAX_NEW_TOKENS)
    model.generation_config = generation_config(settings, model)
    model.save_pretrained(place)
    material.tokenizer(folder).save_pretrained(place)
    artifact.finish(place)
    return place


def export(run: Path, folder: Path) -> ExportedModel:
    """Export a run to CTranslate2, in int8.

    Raises:
        Skip: CTranslate2 is missing.
    """
    if find_spec("ctranslate2") is None:
        raise Skip("ctranslate2 is missing")
    place = Path(tempfile.mkdtemp(dir=folder)) / "export"
    convert(run, load(run, "cpu")[1], place, "int8")
    return ExportedModel(place)


def one_turn(turns, folder: Path, run: Path, way: str, count: int, options: dict):
    """Reply to contexts one by one, greedily.

    Args:
        way: `pipeline`, `generate_response`, or `export`: generate_response with the export.
        count: of contexts.
        options: of `generate()`.
    """
    texts = [peers.SEPARATOR.join(context) for context in contexts(folder, count)["context"]]
    options = options | {"num_beams": 1}
    if way == "pipeline":
        answer = pipeline(
            "text2text-generation", model=str(run), trust_remote_code=True, device="cpu"
        )
        reply = partial(answer, **options)
    else:
        model, tokenizer, _ = load(run, "cpu")
        model = export(run, folder) if way == "export" else model
        reply = partial(generate_response, model=model, tokenizer=tokenizer, **options)
    reply(texts[0])
    for _ in turns:
        start = time.perf_counter()
        for text in texts:
            reply(text)
        turns.done({"work": len(texts), "seconds": time.perf_counter() - start})


def many(turns, folder: Path, run: Path, batched: bool, count: int, options: dict):
    """Reply to contexts, to those of like length together or one by one.

    Args:
        count: of contexts.
        options: of `generate()`.
    """
    model, tokenizer, _ = load(run, "cpu")
    texts = contexts(folder, count)["context"]
    keep_freed_memory()

    def answer(some) -> list[str]:
        if batched:
            return generate_responses(some, model, tokenizer, **options)
        return [generate_response(context, model, tokenizer, **options) for context in some]

    answer(texts[:2])
    for _ in turns:
        start = time.perf_counter()
        replies = answer(texts)
        turns.done(
            {"work": len(replies), "seconds": time.perf_counter() - start, "replies": replies}
        )


def beams(turns, folder: Path, run: Path, way: str, count: int, options: dict):
    """Reply to contexts by batches of 16 with 4 beams.

    Args:
        way: `generate` (of transformers) or `export`.
        count: of contexts.
        options: of `generate()`.
    """
    model, tokenizer, _ = load(run, "cpu")
    model = export(run, folder) if way == "export" else model
    collate = DialogueCollator(tokenizer.pad_token_id)
    examples = contexts(folder, count).select_columns(["input_ids", "labels"])
    batches = [
        collate(examples.select(range(i, min(i + 16, len(examples)))))
        for i in range(0, len(examples), 16)
    ]

    def answer(batch) -> None:
        ids = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            output = model.generate(**ids, num_beams=4, **options)  # (batch, target_len)
        tokenizer.batch_decode(output, skip_special_tokens=True)

    answer(batches[0])
    for _ in turns:
        start = time.perf_counter()
        for batch in batches:
            answer(batch)
        turns.done({"work": len(examples), "seconds": time.perf_counter() - start})
