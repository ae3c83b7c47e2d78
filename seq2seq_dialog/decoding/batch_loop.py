"""Decoding a batch without computing rows whose reply has ended.

`generate` decodes a batch until its longest reply ends. With replies as long as people's, most of
the tokens that it computes stand behind an end. Here a row leaves the batch when its reply ends.
"""

from collections.abc import Sequence
from copy import copy

import torch
from transformers import DynamicCache, EncoderDecoderCache

GPU_STEPS_PER_CHECK = 4  # a GPU is asked which rows have ended this seldom: it waits for the answer
SHRINK_AT = 0.8  # ended rows leave the batch once at most this share of it goes on


def cache_of_sources(
    cache: EncoderDecoderCache, rows: slice | torch.Tensor = slice(None)
) -> EncoderDecoderCache:
    """Make a cache that knows the sources of some rows, as another does, and no targets."""
    sources = DynamicCache()
    for layer in cache.cross_attention_cache.layers:
        selected = copy(layer)
        # (rows, heads, length, size)
        selected.keys, selected.values = layer.keys[rows], layer.values[rows]
        sources.layers.append(selected)
    return EncoderDecoderCache(DynamicCache(), sources)


def select_rows(value, rows: slice | torch.Tensor):
    """Keep some rows of a tensor (batch, ...), of a model's output, or of a cache's sources."""
    if value is None:
        return None
    if torch.is_tensor(value):
        return value[rows]
    if isinstance(value, EncoderDecoderCache):
        return cache_of_sources(value, rows)
    return type(value)(**{name: select_rows(part, rows) for name, part in value.items()})


def merge_parts(parts: Sequence, rows_of_parts: Sequence[torch.Tensor]):
    """Put together what a model returned for parts of a batch; shorter ones are padded with 0.

    `rows_of_parts` says which rows of the batch each part is, (part,).
    """
    if torch.is_tensor(parts[0]):
        sizes = [max(size) for size in zip(*(part.shape[1:] for part in parts), strict=True)]
        merged = parts[0].new_zeros(sum(map(len, rows_of_parts)), *sizes)
        for part, rows in zip(parts, rows_of_parts, strict=True):
            merged[(rows, *map(slice, part.shape[1:]))] = part
        return merged
    names = parts[0].keys()
    columns = {name: [part[name] for part in parts] for name in names}
    return type(parts[0])(
        **{name: merge_parts(column, rows_of_parts) for name, column in columns.items()}
    )


class Decoder:
    """A model's decoder, and what it knows of the rows of a batch: sources and tokens so far.

    Args:
        inputs: `encoder_outputs`, whose tensors are (batch, ...); if any, `attention_mask` (batch,
            source_len) and `past_key_values`, which may know the sources.
    """

    def __init__(self, model, inputs: dict):
        names = ("encoder_outputs", "attention_mask")
        self.model, self.cache = model, inputs.get("past_key_values")
        self.sources = {name: inputs.get(name) for name in names}

    def next_logits(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Read the last tokens of `input_ids` (rows, length); return (rows, vocab) in fp32."""
        last = input_ids[:, -1:]
        outputs = self.model(
            **self.sources, decoder_input_ids=last, past_key_values=self.cache, use_cache=True
        )
        self.cache = outputs.past_key_values
        return outputs.logits[:, -1].float()

    def select_sources(self, rows: slice | torch.Tensor) -> None:
        """Keep the sources of some rows, outside the cache."""
        self.sources = {name: select_rows(value, rows) for name, value in self.sources.items()}

    def select(self, rows: torch.Tensor) -> None:
        """Keep some rows, in that order, or repeat them."""
        self.select_sources(rows)
        self.cache.reorder_cache(rows)


def sample(probabilities: torch.Tensor, draws: torch.Tensor | None = None) -> torch.Tensor:
    """Draw a token for each row of `probabilities` (rows, vocab); return (rows, 1).

    `draws` (rows,), from 0 to below 1, are the points of the cumulative distribution to take;
    without them torch draws, by its random state.
    """
    if draws is None:
        return torch.multinomial(probabilities, 1)
    cumulative = probabilities.cumsum(-1)
    cumulative = cumulative / cumulative[:, -1:]  # ends in 1, above every draw
    return torch.searchsorted(cumulative, draws[:, None], right=True)


@torch.no_grad()
def decode(
    model,
    input_ids: torch.Tensor,
    logits_processor,
    stopping_criteria,
    generation_config,
    draws: torch.Tensor | None = None,
    **inputs,
) -> torch.Tensor:
    """Decode greedily or by sampling, as `generate(custom_generate=decode)`.

    The greedy tokens are those of `generate` itself; sampled ones are drawn in another order.

    Args:
        input_ids: (batch, 1), where decoding starts.
        draws: numbers to sample by, (batch, target_len); each row then has tokens of its own,
            whatever rows are beside it. See `sample`.
        inputs: those of `Decoder`.

    Returns:
        (batch, target_len), padded behind the end token.
    """
    decoder = Decoder(model, inputs)
    draws = None if draws is None else draws.to(input_ids.device)
    pad, batch_size = generation_config.pad_token_id, len(input_ids)
    batch_rows = torch.arange(batch_size, device=input_ids.device)  # (rows,) still decoded
    ended = torch.zeros_like(batch_rows, dtype=torch.bool)
    finished = []  # (rows of the batch, their ids) of those that have left it
    while True:
        scores = logits_processor(input_ids, decoder.next_logits(input_ids))  # (rows, vocab)
        if generation_config.do_sample:
            step_draws = None if draws is None else draws[batch_rows, input_ids.shape[1] - 1]
            next_ids = sample(scores.softmax(-1), step_draws)  # (rows, 1)
        else:
            next_ids = scores.argmax(-1, keepdim=True)
        next_ids = next_ids.masked_fill(ended[:, None], pad)
        input_ids = torch.cat([input_ids, next_ids], dim=1)
        ended |= stopping_criteria(input_ids, None)
        length = input_ids.shape[1]
        if length >= stopping_criteria.max_length:
            break
        if input_ids.device.type != "cpu" and (length - 1) % GPU_STEPS_PER_CHECK:
            continue
        active = torch.nonzero(~ended).flatten()
        if not len(active):
            break
        if len(active) <= SHRINK_AT * len(ended):
            finished.append((batch_rows[ended], input_ids[ended]))
            batch_rows, input_ids, ended = batch_rows[active], input_ids[active], ended[active]
            decoder.select(active)
    output_ids = input_ids.new_full((batch_size, length), pad)
    for rows, ids in [*finished, (batch_rows, input_ids)]:
        output_ids[rows, : ids.shape[1]] = ids
    return output_ids
