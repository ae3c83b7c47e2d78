"""Decoding step by step: each token is handed out at once, rows leave a batch and others join it.

`generate` returns when the last reply of its batch has ended. A server cannot wait for that: it
sends tokens as they come, and has requests that come and go.

A batch that others join holds replies of several lengths. Their tokens are aligned at the end, so
the cache of a shorter one is padded on the left. Models that know only how far apart two tokens are
(T5), or keep a state (recurrent models), compute the same there as without padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch.nn.functional import pad
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig

from ..portable import RnnSeq2SeqConfig
from .batch_loop import Decoder, merge_parts, sample
from .generation_config import end_token_ids, finish_reason

# Models whose batches can be joined, by `model_type`: no token has a position of its own.
JOINABLE = {"t5", "mt5", "umt5", RnnSeq2SeqConfig.model_type}


class Step(NamedTuple):
    """The next token of a row."""

    row: object
    token_id: int
    finish_reason: str | None  # see `generation_config.finish_reason`; None: the reply goes on


@dataclass
class Group:
    """Rows that began together, by the same options."""

    rows: list
    input_ids: torch.Tensor  # (rows, length), from the start token on
    draws: torch.Tensor | None  # (rows, target_len), see `batch_loop.sample`; None is greedy
    logits_processor: Callable
    stopping_criteria: Callable
    config: GenerationConfig

    def choose(self, logits: torch.Tensor) -> list[Step]:
        """Choose the next token of each row by `logits` (rows, vocab)."""
        scores = self.logits_processor(self.input_ids, logits)
        if self.draws is None:
            next_ids = scores.argmax(-1, keepdim=True)  # (rows, 1)
        else:
            draws = self.draws[:, self.input_ids.shape[1] - 1].contiguous()  # (rows,)
            next_ids = sample(scores.softmax(-1), draws)
        self.input_ids = torch.cat([self.input_ids, next_ids], dim=1)
        ended = self.stopping_criteria(self.input_ids, None).tolist()
        ends = end_token_ids(self.config)
        length, steps = self.input_ids.shape[1] - 1, []
        for row, token_id, is_last in zip(self.rows, next_ids[:, 0].tolist(), ended, strict=True):
            reason = finish_reason(self.config, length, token_id in ends) if is_last else None
            steps.append(Step(row, token_id, reason))
        return steps

    def select(self, places: list[int]) -> None:
        """Keep some rows."""
        self.rows = [self.rows[i] for i in places]
        self.input_ids = self.input_ids[places]
        self.draws = None if self.draws is None else self.draws[places]


class RunningBatch:
    """A batch that is decoded step by step. Its rows are objects of the caller."""

    def __init__(self, decoder: Decoder, groups: list[Group]):
        self.decoder, self.groups = decoder, groups

    @classmethod
    def begin(
        cls,
        model,
        rows: Sequence,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        draws: torch.Tensor | None = None,
        **options,
    ) -> RunningBatch:
        """Read the sources of `rows`.

        Args:
            input_ids, attention_mask: (rows, source_len), padded on the right.
            draws: numbers to sample by, (rows, target_len); see `batch_loop.sample`.
            options: of `generate()`, for one reply without beams.
        """

        def prepare(
            model, input_ids, logits_processor, stopping_criteria, generation_config, **inputs
        ):
            group = Group(
                list(rows), input_ids, draws, logits_processor, stopping_criteria, generation_config
            )
            return cls(Decoder(model, inputs), [group])

        return model.generate(
            input_ids=input_ids, attention_mask=attention_mask, custom_generate=prepare, **options
        )

    @property
    def rows(self) -> list:
        """The rows of all groups, as they stand in the decoder."""
        return [row for group in self.groups for row in group.rows]

    @torch.no_grad()
    def step(self) -> list[Step]:
        """Decode a token of each row. Rows whose reply has ended stay until `keep`."""
        sources = self.decoder.sources
        if (mask := self._target_mask()) is not None:
            self.decoder.sources = sources | {"decoder_attention_mask": mask}
        last_ids = torch.cat([group.input_ids[:, -1:] for group in self.groups])  # (rows, 1)
        logits = self.decoder.next_logits(last_ids)
        self.decoder.sources = sources
        parts = logits.split([len(group.rows) for group in self.groups])
        return [
            step
            for group, part in zip(self.groups, parts, strict=True)
            for step in group.choose(part)
        ]

    def _target_mask(self) -> torch.Tensor | None:
        """Return a mask of the padding before replies, (rows, length); None where there is none."""
        lengths = [group.input_ids.shape[1] for group in self.groups]
        if len(set(lengths)) == 1 or not isinstance(self.decoder.cache, EncoderDecoderCache):
            return None
        device = self.groups[0].input_ids.device
        row_lengths = torch.tensor(lengths, device=device).repeat_interleave(
            torch.tensor([len(group.rows) for group in self.groups], device=device)
        )
        places = torch.arange(max(lengths), device=device)
        return (places >= max(lengths) - row_lengths[:, None]).long()

    @torch.no_grad()
    def keep(self, wanted: Callable[[object], bool]) -> None:
        """Let the other rows leave; a batch without rows is not to be used again."""
        kept, start = [], 0
        for group in self.groups:
            places = [i for i, row in enumerate(group.rows) if wanted(row)]
            kept += [start + i for i in places]
            start += len(group.rows)
            if len(places) < len(group.rows):
                group.select(places)
        self.groups = [group for group in self.groups if group.rows]
        if len(kept) == start or not kept:
            return
        self.decoder.select(torch.tensor(kept, device=self.groups[0].input_ids.device))
        if isinstance(self.decoder.cache, EncoderDecoderCache):
            length = max(group.input_ids.shape[1] for group in self.groups) - 1  # that are read
            for layer in self.decoder.cache.self_attention_cache.layers:
                layer.keys, layer.values = layer.keys[:, :, -length:], layer.values[:, :, -length:]

    @torch.no_grad()
    def join(self, other: RunningBatch) -> None:
        """Take in the rows of another batch; both have done a step. See `JOINABLE`."""
        ours, theirs = self.decoder, other.decoder
        counts = len(self.rows), len(other.rows)
        places = torch.arange(sum(counts)).split(counts)
        ours.sources = merge_parts([ours.sources, theirs.sources], places)
        ours.cache = merge_caches(ours.cache, theirs.cache, places)
        self.groups += other.groups


def merge_caches(one, other, places: Sequence[torch.Tensor]):
    """Put the caches of two batches together.

    Args:
        places: the rows that each has in the new one.
    """
    if not isinstance(one, EncoderDecoderCache):  # the state of a recurrent model
        feed = None if one.feed is None else torch.cat([one.feed, other.feed])
        return replace(one, state=torch.cat([one.state, other.state]), feed=feed)
    targets, sources = DynamicCache(), DynamicCache()
    pairs = zip(one.self_attention_cache.layers, other.self_attention_cache.layers, strict=True)
    for i, layers in enumerate(pairs):
        keys, values = (
            align_ends([getattr(layer, name) for layer in layers]) for name in ("keys", "values")
        )
        targets.update(keys, values, i)
    pairs = zip(one.cross_attention_cache.layers, other.cross_attention_cache.layers, strict=True)
    for i, layers in enumerate(pairs):
        keys, values = (
            merge_parts([getattr(layer, name) for layer in layers], places)
            for name in ("keys", "values")
        )
        sources.update(keys, values, i)
    return EncoderDecoderCache(targets, sources)


def align_ends(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Put tensors (rows, heads, length, size) together, the shorter padded on the left."""
    longest = max(tensor.shape[2] for tensor in tensors)
    padded = [pad(tensor, (0, 0, longest - tensor.shape[2], 0)) for tensor in tensors]
    return torch.cat(padded)  # (all rows, heads, longest, size)
