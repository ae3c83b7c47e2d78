"""Answering: load a trained folder, reply to a context or to many, hold a conversation."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from ..data.batching import evaluation_batches
from ..decoding.batch_loop import decode
from ..decoding.beam_loop import LOOPS
from ..decoding.generation_config import changed_settings, most_new_tokens
from ..errors import UsageError
from ..models.loading import (
    avoid_plans_for_shapes,
    check_model_name,
    check_reply_tokens,
    check_vocabulary,
    load_model_files,
    load_tokenizer_files,
    loading,
    reverse_model,
)
from ..portable.context import as_turns, decode_texts, encode_context, pad
from ..portable.guidance import encode_once
from ..portable.options import (
    EXTRA_OPTIONS,
    OPTION_BOUNDS,
    Bounds,
    candidate_options,
    checked_options,
    extra_options,
    positions,
)
from ..portable.reranking import (
    Candidate,
    decode_pool,
    generate,
    generate_options,
    rank,
    score_pool,
    weigh,
)
from ..shipped import command, find_model
from ..training_settings import DialogueTrainingArguments, bf16_pays
from .exported_model import ExportedModel, find_export, is_export
from .safety import Safety

# What our loops of decoding can do.
LOOP_OPTIONS = {*OPTION_BOUNDS, *EXTRA_OPTIONS, "do_sample", "early_stopping", "stopping_criteria"}
TOKENS_PER_BATCH = DialogueTrainingArguments.eval_tokens_per_batch


def load(
    name: str | Path,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    exported: bool = False,
    workers: int = 1,
):
    """Load a trained model for answering.

    Args:
        name: a run folder, an export, a model repository on the Hub, or `starter`, the small model
            of everyday English that ships with this package.
        device: where the model goes; a GPU where there is one by default, the CPU for an export.
        trust_remote_code: run model code that comes with the repository.
        exported: load the export in a run folder instead of the PyTorch model, if the device is the
            CPU, CTranslate2 is installed, and the run has not changed since the export;
            `engine(model)` tells which one it is. An export has `generate` and little else.
        workers: batches that an export computes side by side, as `ExportedModel` has it.

    Returns:
        (model, tokenizer, device)
    """
    if not isinstance(name, (str, os.PathLike)):
        raise UsageError(
            f"name is {name!r}; it must be a folder or the name of a model on the Hub."
        )
    name = find_model(os.path.expanduser(name))
    if device is None:
        # `current_accelerator` names what torch was built for, whether it is there or not.
        has_gpu = torch.accelerator.is_available() and not is_export(name)
        device = torch.accelerator.current_accelerator() if has_gpu else "cpu"
    device = usable_device(device)
    export = find_export(name, device, exported)
    if export is not None:
        with loading(f"the export {str(export)!r}", f"Make it again by `{command('export')}`."):
            return ExportedModel(export, workers), AutoTokenizer.from_pretrained(export), device
    remedy = (
        "Give a run folder (the output_dir of a finished run), starter, or the name of a model on "
        "the Hub."
    )
    options = {"trust_remote_code": trust_remote_code}
    # Many CPUs and older GPUs only emulate bf16, in which models may be saved.
    dtype = "auto" if device.type != "cpu" and bf16_pays(on_cpu=False) else torch.float32
    what = f"a model from {str(name)!r}"
    check_model_name(name)
    avoid_plans_for_shapes()
    tokenizer = load_tokenizer_files(name, what, remedy, **options)
    model = load_model_files(name, what, remedy, dtype=dtype, **options)
    with loading(what, remedy):
        check_reply_tokens(model)
    check_vocabulary(model, tokenizer)
    # Not every tokenizer of the Hub knows how much its model reads.
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions(model.config)[0])
    return model.to(device).eval(), tokenizer, device


def usable_device(device: str | torch.device) -> torch.device:
    """Return a device that is there."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"The device {str(device)!r} cannot be used: {reason}") from error
    return torch.device(device)


def engine(model) -> str:
    """Name what a loaded model answers by: `PyTorch`, or `CTranslate2, int8`."""
    if isinstance(model, ExportedModel):
        return f"CTranslate2, {model.about['quantization']}"
    return "PyTorch"


def generate_response(
    context: str | Sequence,
    model,
    tokenizer,
    device=None,
    safety: Safety | None = None,
    **generate_kwargs,
) -> str:
    """Reply to a context.

        generate_response("How are you?", model, tokenizer, device)
        generate_response(["Hi!", "Hello, who is it?", "It's Ann."], model, tokenizer, num_beams=4)

    Args:
        context: a string (one turn, or several with `__eou__` between them), a message, or a list
            of turns or messages, oldest first; cut from the left at whole turns where it is long.
        device: the model's own by default.
        safety: a filter on what is said and answered; none by default.
        generate_kwargs: options of `model.generate()`; the model's saved settings by default.

    Raises:
        ValueError: the context holds no text, an option is out of its bounds, or there is no such
            device.
    """
    _check_model(model)
    if safety is not None:
        reply = partial(generate_response, model=model, tokenizer=tokenizer, device=device)
        return safety.guard(reply)(context, **generate_kwargs)
    ids = encode_context(context, tokenizer)
    return reply_to_batch([ids], model, tokenizer, device, **generate_kwargs)[0]


def generate_responses(
    contexts: Sequence,
    model,
    tokenizer,
    device=None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    progress: Callable[[int], object] | None = None,
    safety: Safety | None = None,
    **generate_kwargs,
) -> list[str] | list[list[str]]:
    """Reply to many contexts, to those of like length together.

        generate_responses(["How are you?", ["Hi!", "Hello, who is it?"]], model, tokenizer)

    Greedy replies and those of beams are the replies of `generate_response`, up to rounding.
    Sampled ones follow torch's seed and the place of the context in the list, not the batches;
    those of beams that sample, and of an export, follow the batches, too.

    Args:
        contexts: each as `generate_response` takes it.
        tokens_per_batch: greatest size of a batch, padding included: source plus the most new
            tokens, times the beams. More is faster, and takes more memory.
        progress: called with the number of contexts that a batch has answered, such as the `update`
            of a bar of tqdm.
        device, safety, generate_kwargs: as for `generate_response`.

    Returns:
        A reply to each context, in their order; with `num_return_sequences` above 1, a list of
        replies to each.

    Raises:
        ValueError: as `generate_response`, with the place of the context in the list.
    """
    _check_model(model)
    ids = encode_contexts(contexts, tokenizer, safety)
    replies: list = [None] * len(ids)
    options = {"device": device, "tokens_per_batch": tokens_per_batch, **generate_kwargs}
    for batch, output_ids in generate_batches(ids, model, tokenizer, **options):
        for i, rows in zip(batch, output_ids, strict=True):
            texts = decode_texts(rows, tokenizer)
            replies[i] = texts if len(texts) > 1 else texts[0]
        if progress is not None:
            progress(len(batch))
    return replies if safety is None else safety.filtered(contexts, replies)


def generate_batches(
    ids: Sequence[Sequence[int]],
    model,
    tokenizer,
    device=None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    **generate_kwargs,
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Reply to encoded contexts as `generate_responses` does, a batch at a time.

    Yields:
        the places of a batch among the contexts, and its replies, (batch, replies, target_len).
    """
    rule = Bounds(1, whole=True).broken_by(tokens_per_batch)
    if rule:
        raise UsageError(f"tokens_per_batch is {tokens_per_batch!r}; it must be {rule}.")
    options = checked_options(generate_kwargs, model.config)
    candidates = extra_options(model, options)["candidates"]
    options = candidate_options(model, options, candidates)
    config = deepcopy(model.generation_config)
    config.update(**options)
    copies = max(config.num_beams or 1, config.num_return_sequences or 1, candidates)
    longest = most_new_tokens(config)
    lengths = [(copies * len(row), copies * longest) for row in ids]
    seed = int(torch.randint(2**63 - 1, ())) if config.do_sample else 0
    loop = None
    if not isinstance(model, ExportedModel):
        is_known = (changed_settings(config) | generate_kwargs.keys()) <= LOOP_OPTIONS
        loop = LOOPS.get(config.get_generation_mode()) if is_known else None
    if loop is not None:
        options["custom_generate"] = loop
    for batch in evaluation_batches(lengths, tokens_per_batch) if ids else []:
        if loop is decode and config.do_sample:
            options["draws"] = _draws(seed, batch, (copies, longest))
        output_ids = _generate([ids[i] for i in batch], model, tokenizer, device, options)
        yield batch, output_ids.reshape(len(batch), -1, output_ids.shape[1])


def _check_model(model) -> None:
    if not callable(getattr(model, "generate", None)):
        raise TypeError(
            f"model is a {type(model).__name__}; a model comes first, then its tokenizer."
        )


def encode_contexts(contexts: Sequence, tokenizer, safety: Safety | None) -> list[list[int]]:
    """Encode contexts, without what a filter keeps from the model."""
    if isinstance(contexts, (str, Mapping)):
        raise UsageError(f"contexts is {contexts!r}; it must be a list of contexts: [context].")
    encoded = []
    for place, context in enumerate(contexts):
        try:
            if safety is not None:  # one that is refused keeps its place, and is answered in vain
                context = safety.readable(context) or context
            encoded.append(encode_context(context, tokenizer))
        except (TypeError, ValueError) as error:
            raise UsageError(f"contexts[{place}]: {error}") from error
    return encoded


def _draws(seed: int, batch: Sequence[int], size: tuple[int, int]) -> torch.Tensor:
    """Draw numbers to sample a batch by, (batch * replies, target_len), `size` of each context.

    They depend on the seed and on the place of a context in the list alone.
    """
    rows = [np.random.default_rng((seed, i)).random(size, dtype=np.float32) for i in batch]
    return torch.from_numpy(np.concatenate(rows))


def reply_to_batch(
    contexts: Sequence[Sequence[int]], model, tokenizer, device=None, **generate_kwargs
) -> list[str]:
    """Reply once to each of several contexts at once, each as `encode_context` returns it."""
    options = checked_options(generate_kwargs, model.config)
    count = options.get("num_return_sequences") or 1
    if count > 1:
        raise UsageError(
            f"num_return_sequences is {count}, but this gives one reply: "
            "generate_responses([context], model, tokenizer, ...) gives several."
        )
    options["num_return_sequences"] = 1  # the model's saved settings may have more
    return decode_texts(_generate(contexts, model, tokenizer, device, options), tokenizer)


def _generate(
    contexts: Sequence[Sequence[int]], model, tokenizer, device, options: Mapping
) -> torch.Tensor:
    """Reply to contexts at once, (batch * replies, target_len)."""
    inputs = _padded(contexts, model, tokenizer, device)
    if isinstance(model, ExportedModel):
        return model.generate(**inputs, **options)
    return generate(model, tokenizer, inputs, options, reverse_model(model, options))


def _padded(contexts: Sequence[Sequence[int]], model, tokenizer, device) -> dict:
    """Fill encoded contexts up to the longest: `input_ids` and a mask, (batch, source_len)."""
    device = model.device if device is None else usable_device(device)
    input_ids, mask = pad(contexts, tokenizer.pad_token_id, device)
    return {"input_ids": input_ids, "attention_mask": mask}


@torch.no_grad()
def candidates(
    context: str | Sequence, model, tokenizer, device=None, **generate_kwargs
) -> list[Candidate]:
    """Reply to a context in several ways, and say what speaks for each.

        candidates("How are you?", model, tokenizer, candidates=10, do_sample=True)

    Args:
        context, device, generate_kwargs: as for `generate_response`.

    Returns:
        The candidates, the best first, each text once; the first is what `generate_response` gives.
        The `parts` of a score are its criteria, times their weights.

    Raises:
        ValueError: as `generate_response`; an export scores no candidates.
    """
    _check_model(model)
    if isinstance(model, ExportedModel):
        raise UsageError(
            "An export does not score candidates: use --no-export, or load the run folder without "
            "exported=True."
        )
    ids = encode_context(context, tokenizer)
    options = checked_options(generate_kwargs, model.config)
    extra = extra_options(model, options)
    options = generate_options(model, tokenizer, extra, options | {"num_return_sequences": None})
    inputs = encode_once(model, _padded([ids], model, tokenizer, device))
    pool = decode_pool(model, tokenizer, inputs, extra["candidates"], options)
    reverse, weights = reverse_model(model, generate_kwargs), extra["rerank"]
    values = score_pool(model, tokenizer, inputs, pool, extra, reverse)
    scores, texts = weigh(values, weights)[0], pool.texts[0]
    distinct, others = rank(texts, scores)
    parts = {name: values[name][0].double() * weight for name, weight in weights.items()}
    return [
        Candidate(texts[i], scores[i], {name: float(part[i]) for name, part in parts.items()})
        for i in distinct or others[:1]
    ]


class Conversation:
    """A dialogue with a model that remembers its turns.

    `generate_kwargs`, options of `model.generate()`, may be changed between turns. What `safety`
    refuses is remembered, but not read by the model.
    """

    def __init__(self, model, tokenizer, safety: Safety | None = None, **generate_kwargs):
        self.model, self.tokenizer, self.generate_kwargs = model, tokenizer, generate_kwargs
        self.safety = safety
        self.reset()

    def say(self, text: str) -> str:
        """Say something and get the reply; both are remembered, unless replying fails."""
        turns = [*self.turns, *as_turns([text])]
        reply = self.reply_to(turns)
        self._before.append(self.turns)
        self.turns = [*turns, reply]
        return reply

    def reply_to(self, context) -> str:
        """Reply to a context that is not remembered, with this conversation's settings."""
        return generate_response(
            context, self.model, self.tokenizer, safety=self.safety, **self.generate_kwargs
        )

    def undo(self) -> bool:
        """Forget the last thing said and its reply; False where there is none."""
        if not self._before:
            return False
        self.turns = self._before.pop()
        return True

    def reset(self) -> None:
        """Forget everything."""
        self.turns: list[str] = []
        self._before: list[list[str]] = []
