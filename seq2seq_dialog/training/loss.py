"""The negative log-likelihood of labels: the loss of training, and what evaluation sums up."""

from __future__ import annotations

import torch
from torch.nn import functional

from ..data.batching import IGNORE


def token_nll(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0):
    """Compute the negative log-likelihood of each label in nats, 0 where there is padding.

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
