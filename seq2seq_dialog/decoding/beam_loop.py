"""Beam search without computing contexts whose search has ended.

`generate` searches a batch until the search of its last context ends. It computes the keys and
values of a source for each beam, and moves them with the beams. Here a context leaves the batch
when its search ends. Its source is computed once, and moves no more: it is that of all its beams.
"""

import torch
from transformers import EncoderDecoderCache, GenerationConfig
from transformers.generation import GenerationMode

from .batch_loop import GPU_STEPS_PER_CHECK, SHRINK_AT, Decoder, decode

NEVER = -1e9  # the score of what must not be chosen


def gather_beams(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Choose beams of each context: of (contexts, beams, ...), those at (contexts, chosen)."""
    index = places.view(*places.shape, *[1] * (values.dim() - 2))
    return values.take_along_dim(index, dim=1)


def best_continuations(
    ids: torch.Tensor, scores: torch.Tensor, log_probs: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find the best ways to go on with the beams of each context.

    Args:
        ids: of the beams, (contexts, beams, length).
        scores: summed log-probabilities of the beams, (contexts, beams).
        log_probs: of their next tokens, (contexts * beams, vocab).

    Returns:
        the best scores and the beams that they go on with, (contexts, count), and their ids,
        (contexts, count, length + 1).
    """
    totals = log_probs.view(*ids.shape[:2], -1) + scores[..., None]  # (contexts, beams, vocab)
    best, chosen = totals.flatten(1).topk(count)
    parents, tokens = chosen // totals.shape[-1], chosen % totals.shape[-1]
    return best, parents, torch.cat([gather_beams(ids, parents), tokens[..., None]], -1)


def cannot_improve(
    scores: torch.Tensor, ended_scores: torch.Tensor, length: int, config: GenerationConfig
) -> torch.Tensor:
    """Tell for which contexts the search ends, (contexts,).

    As many replies as `num_beams` must have ended; with `early_stopping` that is enough. Else the
    best running beam must not score higher than the worst of them at its present length, or with
    "never" at the greatest.

    Args:
        scores: of the running beams, the best first, (contexts, beams).
        ended_scores: of replies that have ended, (contexts, beams); `NEVER` where there is none.
        length: new tokens of the running beams.
    """
    full = (ended_scores > NEVER).all(1)
    if config.early_stopping is True:
        return full
    if config.early_stopping == "never" and config.length_penalty > 0:
        length = config.max_length - 1
    best = scores[:, 0] / length**config.length_penalty
    return full & (best <= ended_scores.min(1).values)


def end_replies(
    ended: tuple[torch.Tensor, torch.Tensor], new: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the best of replies that had ended and of those that now do.

    Each is `(scores (contexts, replies), ids (contexts, replies, length))`; as many replies are
    returned as had ended.
    """
    scores, places = torch.cat([ended[0], new[0]], 1).topk(ended[0].shape[1])
    return scores, gather_beams(torch.cat([ended[1], new[1]], 1), places)


@torch.no_grad()
def search(
    model, input_ids: torch.Tensor, logits_processor, stopping_criteria, generation_config, **inputs
) -> torch.Tensor:
    """Search by beams, as `generate(custom_generate=search)`; the tokens are those of `generate`.

    Args:
        input_ids: (batch * beams, 1), where decoding starts.
        inputs: those of `batch_loop.Decoder`, a row for each beam; the cache is empty.

    Returns:
        (batch * num_return_sequences, target_len), padded behind the end token.
    """
    beams, longest = generation_config.num_beams, stopping_criteria.max_length
    decoder = Decoder(model, inputs)
    # A context begins with one beam: the others would be equal.
    decoder.select_sources(slice(None, None, beams))
    ids = input_ids[::beams, None]  # (contexts, beams, length), of the contexts still searched
    scores = torch.zeros_like(ids[..., 0], dtype=torch.float)  # (contexts, beams)
    ended_scores = scores.new_full((len(ids), beams), NEVER)  # of the whole batch
    ended_ids = ids.new_full((len(ids), beams, longest), generation_config.pad_token_id)
    contexts = torch.arange(len(ids), device=ids.device)  # (contexts,) of the batch
    closed = torch.zeros_like(contexts, dtype=torch.bool)
    while True:
        flat_ids = ids.flatten(0, 1)  # (contexts * beams, length)
        log_probs = decoder.next_logits(flat_ids).log_softmax(-1)
        log_probs = logits_processor(flat_ids, log_probs)
        # Twice as many as beams: all of these may end, and as many go on.
        totals, parents, candidates = best_continuations(ids, scores, log_probs, 2 * beams)
        ends = stopping_criteria(candidates.flatten(0, 1), None).view_as(parents)
        scores, places = (totals + ends * NEVER).topk(beams)
        rows = _rows(gather_beams(parents, places), ids.shape[1])  # that go on
        ids = gather_beams(candidates, places)
        length = ids.shape[2]

        ends[:, beams:] = False  # the second half is there to go on
        new_scores = totals / (length - 1) ** generation_config.length_penalty
        new_scores = new_scores.masked_fill(~ends | closed[:, None], NEVER)
        ended = ended_scores[contexts], ended_ids[contexts, :, :length]
        ended = end_replies(ended, (new_scores, candidates))
        ended_scores[contexts], ended_ids[contexts, :, :length] = ended
        closed |= cannot_improve(scores, ended[0], length - 1, generation_config)
        if length >= longest:
            break
        if length == 2:  # after the first token, contexts have all their beams
            decoder.select(rows)
        else:
            _cache_of_targets(decoder.cache).reorder_cache(rows)
        if ids.device.type != "cpu" and (length - 1) % GPU_STEPS_PER_CHECK:
            continue
        active = torch.nonzero(~closed).flatten()
        if not len(active):
            break
        if len(active) <= SHRINK_AT * len(closed):
            all_rows = torch.arange(beams * len(closed), device=ids.device).view(-1, beams)
            decoder.select(all_rows[active].flatten())
            ids, scores, closed, contexts = (v[active] for v in (ids, scores, closed, contexts))
    return ended_ids[:, : generation_config.num_return_sequences, :length].flatten(0, 1)


def _rows(places: torch.Tensor, beams: int) -> torch.Tensor:
    """Turn places among the beams of each context, (contexts, places), to rows of all, (rows,)."""
    starts = beams * torch.arange(len(places), device=places.device)
    return (starts[:, None] + places).flatten()


def _cache_of_targets(cache):
    """Return the part of a cache in which the beams of a context differ."""
    return cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache


# The loop that decodes as `generate()` in a mode does.
LOOPS = {
    GenerationMode.GREEDY_SEARCH: decode,
    GenerationMode.SAMPLE: decode,
    GenerationMode.BEAM_SEARCH: search,
}
