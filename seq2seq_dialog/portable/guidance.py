"""Guidance while decoding: tokens that fit every context become less likely.

What fits every context is likely after none. Here is also what `reranking` needs of sources: to
encode them once, the empty one among them, and to choose rows of the encoded.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import LogitsProcessor

from .context import special_ids


class ContextFreeGuidance(LogitsProcessor):
    """Favours tokens that are likelier after the context than after none.

    Scores become (1 + weight) * log p(token | context) - weight * log p(token | no context), as in
    classifier-free guidance of language models (Sanchez et al., 2023, arXiv:2306.17806). Li et al.
    (2016) have the same up to a factor, with lambda = weight / (1 + weight), and penalise the first
    tokens alone, too. A token that the reply has said already is never favoured, or the words of
    the context would come again and again. `guidance_scale` of transformers is for decoders: it
    gives an encoder-decoder model the reply so far as its context.

    Args:
        tokens: so many at the beginning of a reply are guided; 0 is all.
    """

    def __init__(self, model, tokenizer, weight: float, tokens: int = 0):
        self.model, self.weight, self.tokens = model, weight, tokens
        self.source = no_context(model, tokenizer)
        # Replies that the decoder has read to no context, (distinct, length), and its cache.
        self._replies, self._cache = None, None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if 0 < self.tokens < input_ids.shape[1]:
            return scores
        # Without a context, equal replies so far go on equally: each is computed once.
        replies, places = input_ids.unique(dim=0, return_inverse=True)
        without = self._next_log_probs(replies)[places]  # (rows, vocab)
        scores = scores.log_softmax(-1)
        gain = scores - without
        said = torch.zeros_like(gain, dtype=torch.bool).scatter(1, input_ids[:, 1:], True)
        return scores + self.weight * gain.masked_fill(said & (gain > 0), 0)

    def _next_log_probs(self, replies: torch.Tensor) -> torch.Tensor:
        """Score the tokens after replies (distinct, length) to no context, (distinct, vocab)."""
        cache, unread = None, replies
        if hasattr(self._cache, "reorder_cache"):  # not a tuple, which some models return
            rows = find_rows(replies[:, :-1], self._replies)
            if rows is not None:
                self._cache.reorder_cache(rows)
                cache, unread = self._cache, replies[:, -1:]
        source = rows_of(self.source, replies.new_zeros(len(replies)))
        outputs = self.model(
            **source, decoder_input_ids=unread, past_key_values=cache, use_cache=True
        )
        self._replies, self._cache = replies, outputs.past_key_values
        return outputs.logits[:, -1].float().log_softmax(-1)


def find_rows(wanted: torch.Tensor, table: torch.Tensor) -> torch.Tensor | None:
    """Find each of the rows `wanted` (rows, length) in a table of distinct ones, (rows,).

    Returns None if the table has rows of another length, or lacks one.
    """
    if table.shape[1] != wanted.shape[1]:
        return None
    _, numbers = torch.cat([table, wanted]).unique(dim=0, return_inverse=True)
    places = torch.full_like(numbers, -1)  # of each number, its row in the table
    places[numbers[: len(table)]] = torch.arange(len(table), device=table.device)
    rows = places[numbers[len(table) :]]
    return None if (rows < 0).any() else rows


def no_context(model, tokenizer) -> dict:
    """Encode a context without text: the special tokens around nothing."""
    before, after = special_ids(tokenizer)
    ids = [*before, *after] or [tokenizer.eos_token_id]
    input_ids = torch.tensor([ids], device=model.device)
    return encode_once(
        model, {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    )


def encode_once(model, inputs: Mapping) -> dict:
    """Add the encoder's output to `input_ids` and `attention_mask`, where it is not there."""
    if "encoder_outputs" in inputs:
        return dict(inputs)
    sources = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    return {**inputs, "encoder_outputs": model.get_encoder()(**sources)}


def rows_of(inputs: Mapping, rows: torch.Tensor) -> dict:
    """Choose encoded sources by their place, (rows,), some perhaps several times."""
    encoded = inputs["encoder_outputs"]
    chosen = {name: value[rows] for name, value in encoded.items()}
    return {
        "encoder_outputs": type(encoded)(**chosen),
        "attention_mask": inputs["attention_mask"][rows],
    }
