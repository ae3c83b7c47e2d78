"""Evaluation: the likelihood of targets and the model's replies, each source encoded once.

Sources of a batch have like lengths. They are encoded in parts whose lengths are still more alike,
and the targets go through the decoder in parts as well, which saves padding.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch.nn import functional
from transformers import EncoderDecoderCache

from ..data.batching import IGNORE
from ..decoding.batch_loop import cache_of_sources, decode, merge_parts, select_rows
from ..decoding.beam_loop import LOOPS
from ..evaluation.metrics import likelihood_statistics
from ..models.loading import reverse_model
from ..portable.context import decode_texts
from ..portable.options import extra_options
from ..portable.reranking import generate
from .sharding import is_sharded

PARTS = 8  # of a batch
SMALLEST_PART = 8  # rows
OF_TARGET = ("labels", "decoder_input_ids")  # the other inputs are of the source


@torch.no_grad()
def evaluate_examples(trainer, dataloader, with_replies: bool) -> list[dict]:
    """Score the target of each example of an evaluation's batches, and reply to its source.

    Returns a dict per example of all processes, in the order of the dataset: `nll` of the target
    (nats, summed), `exchanged_nll` after the context of another example of its batch (None where it
    is alone), `tokens` of the target and `bytes` of its text, `reply` and `reply_cut`, whether the
    length limit cut it (both None without replies).
    """
    model, sharded = trainer.model, trainer.is_fsdp_enabled
    # FSDP and DeepSpeed have cast the weights.
    precision = nullcontext if is_sharded(trainer) else trainer.accelerator.autocast
    names = ("nll", "exchanged_nll", "tokens", "reply", "reply_cut")
    results = []  # (index, *names) of each example of this process
    for indices, batch in zip(dataloader.batch_sampler, dataloader, strict=True):
        tokens = batch["labels"].ne(IGNORE).sum(-1)  # (batch,)
        inputs = trainer._prepare_inputs(batch)
        with precision():
            if not sharded:  # shards are gathered for passes through the whole model alone
                source_ids = inputs.pop("input_ids")
                inputs |= encode_sources(model, source_ids, inputs["attention_mask"])
            nll = target_nll(model, inputs, tokens, sharded).tolist()
            exchanged = target_nll(model, inputs, tokens, sharded, exchange=True).tolist()
            exchanged = [None] if len(indices) == 1 else exchanged  # there is no other context
            replies = cut = [None] * len(indices)
            if with_replies:
                seed = trainer.args.seed + indices[0]
                if not sharded:
                    inputs["input_ids"] = source_ids
                tokenizer = trainer.processing_class
                replies, cut = generate_replies(model, tokenizer, inputs, seed, sharded)
        results += zip(indices, nll, exchanged, tokens.tolist(), replies, cut, strict=True)
        trainer.control = trainer.callback_handler.on_prediction_step(
            trainer.args, trainer.state, trainer.control
        )
    # Sorted by example, repeated ones once: sums do not depend on the number of processes.
    examples = {index: example for index, *example in gather_object(results)}
    sizes = target_bytes(dataloader.dataset, trainer.processing_class)
    return [
        dict(zip(names, examples[index], strict=True)) | {"bytes": sizes[index]}
        for index in sorted(examples)
    ]


def target_bytes(features: Dataset, tokenizer) -> list[int]:
    """Count the UTF-8 bytes of each target's text; of a cut one, those of what is left of it."""
    texts = [" ".join(text.split()) for text in features["response"]]
    for i in np.flatnonzero(features["target_cut"]).tolist():
        texts[i] = tokenizer.decode(features[i]["labels"], skip_special_tokens=True)
    return [len(text.encode()) for text in texts]


def likelihood_figures(examples: Sequence[dict]) -> dict[str, float]:
    """Sum up examples: `loss` (nats per target token), `target_tokens`, `likelihood_statistics`."""
    statistics = likelihood_statistics(examples)
    nll, tokens = statistics["perplexity"].sums()
    figures = {key: metric.figure() for key, metric in statistics.items()}
    return {"loss": nll / tokens, "target_tokens": int(tokens)} | figures


def loss_by_source(examples: Sequence[dict], sources: Sequence[str]) -> dict[str, float]:
    """Sum up the examples of each source of the data: `loss_NAME` (nats per target token)."""
    groups: dict[str, list[dict]] = {}
    for example, source in zip(examples, sources, strict=True):
        groups.setdefault(source, []).append(example)
    return {f"loss_{source}": likelihood_figures(group)["loss"] for source, group in groups.items()}


def encode_sources(model, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict:
    """Compute what likelihood and reply need of sources (batch, source_len), once for both.

    What a transformer needs includes `past_key_values`: keys and values of the cross-attention.
    """
    lengths = attention_mask.sum(1).cpu()  # (batch,)
    rows_of_parts = lengths.argsort(stable=True).split(_part_size(len(lengths)))
    encoder, parts = model.get_encoder(), []
    for rows in rows_of_parts:
        longest = int(lengths[rows].max())
        rows = rows.to(input_ids.device)
        ids, mask = input_ids[rows, :longest], attention_mask[rows, :longest]
        parts.append(encoder(input_ids=ids, attention_mask=mask))
    encoded = merge_parts(parts, rows_of_parts)
    inputs = {"attention_mask": attention_mask, "encoder_outputs": encoded}
    start = torch.full_like(input_ids[:, :1], model.config.decoder_start_token_id)
    cache = model(**inputs, decoder_input_ids=start, use_cache=True).past_key_values
    if isinstance(cache, EncoderDecoderCache):
        inputs["past_key_values"] = cache_of_sources(cache)
    return inputs


def token_nll(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0):
    """Compute the negative log-likelihood of each label in nats, 0 where there is padding.

    `logits` (batch, target_len, vocab) are read in fp32. The training takes its loss here, too.
    """
    return functional.cross_entropy(
        logits.float().flatten(0, 1),  # (batch * target_len, vocab)
        labels.flatten(),
        ignore_index=IGNORE,
        reduction="none",
        label_smoothing=label_smoothing,
    ).view_as(labels)  # (batch, target_len)


def target_nll(
    model, inputs: dict, tokens: torch.Tensor, sharded: bool, exchange: bool = False
) -> torch.Tensor:
    """Compute the negative log-likelihood of each target of a batch in nats, (batch,).

    `tokens`, on the CPU, are those of each target without padding, (batch,). If `exchange`, each
    target follows the source of the example before it.
    """
    # Processes take each pass through shards together, so none has more parts than another.
    size = len(tokens) if sharded else _part_size(len(tokens))
    sources = torch.arange(len(tokens)).roll(1)  # (batch,)
    nll = []
    for start in range(0, len(tokens), size):
        rows = slice(start, start + size)
        of_source = sources[rows] if exchange else rows
        part = {
            name: select_rows(value, rows if name in OF_TARGET else of_source)
            for name, value in inputs.items()
        }
        longest = int(tokens[rows].max())
        labels = part.pop("labels")[:, :longest]
        part["decoder_input_ids"] = part["decoder_input_ids"][:, :longest]
        logits = model(**part).logits  # (part, longest, vocab)
        nll.append(token_nll(logits, labels).cpu().double().sum(-1))
    return torch.cat(nll)


def generate_replies(
    model, tokenizer, inputs: dict, seed: int, sharded: bool
) -> tuple[list[str], list[bool]]:
    """Decode a reply to each source of a batch with the model's generation config.

    Returns the replies, and of each whether the length limit cut it, so that it has no end token.

    `inputs` have `input_ids` (batch, source_len), what `encode_sources` returns, or both. Sampling,
    by `seed`, leaves the random state of the training alone.
    """
    chooses = extra_options(model, {})["candidates"] > 1
    names = ("input_ids", "encoder_outputs", "attention_mask")
    sources = {name: inputs[name] for name in names if name in inputs}
    if "encoder_outputs" in sources and not chooses:
        sources.pop("input_ids", None)
    options = {}
    loop = LOOPS.get(model.generation_config.get_generation_mode())
    if sharded:  # the processes take each pass together, so they go on until all have ended
        options["synced_gpus"] = True
    elif loop is not None:
        options["custom_generate"] = loop
        if loop is decode and "past_key_values" in inputs and not chooses:
            options["past_key_values"] = cache_of_sources(inputs["past_key_values"])
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        reverse = reverse_model(model, options)
        output_ids = generate(model, tokenizer, sources, options, reverse)  # (batch, target_len)
    has_end = (output_ids[:, 1:] == tokenizer.eos_token_id).any(1)  # (batch,)
    return decode_texts(output_ids, tokenizer), (~has_end).tolist()


def _part_size(batch_size: int) -> int:
    return max(SMALLEST_PART, -(-batch_size // PARTS))
