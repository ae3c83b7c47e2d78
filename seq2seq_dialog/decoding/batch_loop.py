"""Decoding a batch without computing what has ended.

`generate` decodes a batch until its longest reply ends. With replies as long as people's, most of
the tokens that it computes stand behind an end. Here a row leaves the batch when its reply ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from transformers import DynamicCache, EncoderDecoderCache

LOOK = 4  # steps between two looks at what has ended, on a GPU: it waits for each look
SHRINK = 0.8  # the share of a batch that may be left when the others leave it


def sources_of(cache: EncoderDecoderCache, rows: slice = slice(None)) -> EncoderDecoderCache:
    """Make a cache that knows the sources of some rows, as another does, and no targets."""
    sources = DynamicCache()
    for layer in cache.cross_attention_cache.layers:
        part = copy(layer)
        part.keys, part.values = layer.keys[rows], layer.values[rows]  # (rows, heads, length, size)
        sources.layers.append(part)
    return EncoderDecoderCache(DynamicCache(), sources)


def take(value, rows):
    """Keep some rows of a tensor (batch, ...), of a model's output, or of a cache's sources."""
    if value is None:
        return None
    if torch.is_tensor(value):
        return value[rows]
    if isinstance(value, EncoderDecoderCache):
        return sources_of(value, rows)
    return type(value)(**{name: take(part, rows) for name, part in value.items()})


def join(parts: Sequence, rows: Sequence[torch.Tensor]):
    """Put together what models returned for parts of a batch; shorter ones are padded with 0.

    Args:
        parts: tensors (part, ...), or models' outputs of them.
        rows: the places of each part in the batch, (part,).
    """
    if torch.is_tensor(parts[0]):
        sizes = [max(size) for size in zip(*(part.shape[1:] for part in parts), strict=True)]
        joined = parts[0].new_zeros(sum(map(len, rows)), *sizes)
        for part, places in zip(parts, rows, strict=True):
            joined[(places, *map(slice, part.shape[1:]))] = part
        return joined
    return type(parts[0])(**{name: join([p[name] for p in parts], rows) for name in parts[0]})


@torch.no_grad()
def decode(
    model, input_ids: torch.Tensor, logits_processor, stopping_criteria, generation_config, **inputs
) -> torch.Tensor:
    """Decode greedily or by sampling, as `generate(custom_generate=decode)`.

    The greedy tokens are those of `generate` itself; sampled ones are drawn in another order.

    Args:
        input_ids: (batch, 1), where decoding starts.
        inputs: `encoder_outputs`, whose tensors are (batch, ...); if any, `attention_mask` (batch,
            source_len) and `past_key_values`, which may know the sources.

    Returns:
        (batch, target_len), padded behind the end token.
    """
    encoder_outputs = inputs["encoder_outputs"]
    attention_mask, cache = inputs.get("attention_mask"), inputs.get("past_key_values")
    pad, batch_size = generation_config.pad_token_id, len(input_ids)
    places = torch.arange(batch_size, device=input_ids.device)  # (rows,) those that are left
    ended = torch.zeros_like(places, dtype=torch.bool)
    done = []
    while True:
        outputs = model(
            encoder_outputs=encoder_outputs,
            attention_mask=attention_mask,
            decoder_input_ids=input_ids[:, -1:],
            past_key_values=cache,
            use_cache=True,
        )
        cache = outputs.past_key_values
        scores = logits_processor(input_ids, outputs.logits[:, -1].float())  # (rows, vocab)
        if generation_config.do_sample:
            following = torch.multinomial(scores.softmax(-1), 1)
        else:
            following = scores.argmax(-1, keepdim=True)
        following = following.masked_fill(ended[:, None], pad)
        input_ids = torch.cat([input_ids, following], dim=1)
        ended |= stopping_criteria(input_ids, None)
        length = input_ids.shape[1]
        if length >= stopping_criteria.max_length:
            break
        if input_ids.device.type != "cpu" and (length - 1) % LOOK:
            continue
        left = torch.nonzero(~ended).flatten()
        if not len(left):
            break
        if len(left) <= SHRINK * len(ended):
            gone = torch.nonzero(ended).flatten()
            done.append((places[gone], input_ids[gone]))
            places, input_ids, ended = places[left], input_ids[left], ended[left]
            encoder_outputs = take(encoder_outputs, left)
            attention_mask = take(attention_mask, left)
            cache.reorder_cache(left)
    output_ids = input_ids.new_full((batch_size, length), pad)
    for rows, ids in [*done, (places, input_ids)]:
        output_ids[rows, : ids.shape[1]] = ids
    return output_ids
