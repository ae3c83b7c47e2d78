"""Decoding by a model in training, whatever its own decoding settings are."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..data.batching import IGNORE
from ..decoding.generation_config import bare_decoding
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


def mask_after_end(replies: torch.Tensor, end_id: int) -> torch.Tensor:
    """Make labels of replies (batch, reply_len): -100 behind the first end token."""
    ended = (replies == end_id).int()
    return replies.masked_fill(ended.cumsum(1) - ended > 0, IGNORE)
