"""Decoding by a model in training, whatever its own decoding settings are."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..data.batching import IGNORE
from ..decoding.generation_config import bare_decoding
from ..portable.context import decode_texts
from .lora import has_adapter


@contextmanager
def decoding_bare(model, temperature: float) -> Iterator[None]:
    """Let a model, meanwhile, sample from its own distribution; temperature 0 is greedy."""
    owner = model.get_base_model() if has_adapter(model) else model
    saved, was_training = owner.generation_config, model.training
    owner.generation_config = bare_decoding(saved, temperature)
    model.eval()  # with activation checkpointing a model in training has no cache
    try:
        yield
    finally:
        owner.generation_config = saved
        model.train(was_training)


@torch.no_grad()
def decode_bare(trainer, inputs: dict, temperature: float, **options) -> torch.Tensor:
    """Decode replies to contexts by `decoding_bare`, and make labels of them.

    Args:
        inputs: `input_ids` and `attention_mask` (batch, source_len), perhaps others.
        options: of `generate()`.

    Returns:
        (replies, reply_len), -100 behind the end token.
    """
    sources = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with decoding_bare(trainer.model, temperature), trainer.accelerator.autocast():
        replies = trainer.model.generate(**sources, **options)[:, 1:]
    is_end = (replies == trainer.processing_class.eos_token_id).int()
    return replies.masked_fill(is_end.cumsum(1) - is_end > 0, IGNORE)


def read_labels(labels: torch.Tensor, tokenizer) -> list[str]:
    """Write labels (batch, target_len) as texts without special tokens."""
    return decode_texts(labels.masked_fill(labels == IGNORE, tokenizer.pad_token_id), tokenizer)
