"""The negative log-likelihood of labels, and the decoder inputs that belong to them."""

from __future__ import annotations

import torch
from torch.nn import functional

from ..data.batching import IGNORE


def shift_right(labels: torch.Tensor, pad_token_id: int, start_token_id: int) -> torch.Tensor:
    """Make decoder inputs of labels: the start token, then all but the last. (batch, target_len)"""
    shifted = labels.new_full(labels.shape, start_token_id)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill(shifted == IGNORE, pad_token_id)


def token_nll(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0):
    """Negative log-likelihood of each label in nats, 0 where there is padding.

    Args:
        logits: (batch, target_len, vocab); read in fp32.
        labels: (batch, target_len), -100 where there is padding.

    Returns:
        (batch, target_len)
    """
    return functional.cross_entropy(
        logits.float().flatten(0, 1),  # (batch * target_len, vocab)
        labels.flatten(),
        ignore_index=IGNORE,
        reduction="none",
        label_smoothing=label_smoothing,
    ).view_as(labels)
