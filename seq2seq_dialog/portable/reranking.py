"""Replies chosen among candidates, by a weighted sum of criteria.

The likeliest reply is often a dull one, which fits every context (Li et al., 2016,
arXiv:1510.03055). So a model decodes several candidates, by sampling or by beams, and the one with
the greatest score is the reply. All candidates of a batch are scored at once, and each context is
encoded once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch.nn import functional

from .context import TURN_SEPARATOR, decode_texts, encode_context, encode_texts, pad, special_ids
from .guidance import ContextFreeGuidance, encode_once, no_context, rows_of
from .options import DEFAULT_WEIGHTS, EXTRA_OPTIONS, candidate_options, extra_options

CHRF_ORDER, CHRF_BETA = 6, 2  # of chrF2 (Popović, 2015), as sacreBLEU has it
PARTS, SMALLEST_PART = 8, 8  # of the rows that are scored: those of like lengths together
MOST_LOGITS = 2**26  # that are computed at once: 256 MB


@dataclass(frozen=True)
class Candidate:
    """A reply that could be given: its score, and the share that each criterion has in it."""

    text: str
    score: float
    parts: dict[str, float]


@dataclass(frozen=True)
class Pool:
    """The candidates of a batch of contexts: ids (batch, candidates, target_len), and texts."""

    ids: torch.Tensor
    texts: list[list[str]]


@torch.no_grad()
def generate(model, tokenizer, inputs: Mapping, options: Mapping, reverse=None) -> torch.Tensor:
    """Reply as `model.generate(**inputs, **options)`, choosing among candidates where there are.

    Args:
        inputs: `input_ids` and `attention_mask` (batch, source_len), perhaps `encoder_outputs`.
        options: those of `generate()`, and `EXTRA_OPTIONS`; by default the model's saved ones.
        reverse: the model and the tokenizer for the criterion `reverse`; left out without.

    Returns:
        (batch * num_return_sequences, target_len), the best reply to a context first.
    """
    extra = extra_options(model, options)
    options = generate_options(model, tokenizer, extra, options)
    if extra["candidates"] == 1:
        return model.generate(**inputs, **options)
    replies = options.pop("num_return_sequences", None)
    replies = replies or model.generation_config.num_return_sequences or 1
    weights = {
        name: weight
        for name, weight in extra["rerank"].items()
        if reverse is not None or not name.startswith("reverse")
    } or DEFAULT_WEIGHTS
    inputs = encode_once(model, inputs)
    pool = decode_pool(model, tokenizer, inputs, extra["candidates"], options)
    values = score_pool(model, tokenizer, inputs, pool, extra | {"rerank": weights}, reverse)
    scores = weigh(values, weights)
    rows = zip(pool.texts, scores, strict=True)
    orders = [[*chain(*rank(texts, row))][:replies] for texts, row in rows]
    chosen = torch.tensor(orders, device=pool.ids.device)  # (batch, replies)
    return pool.ids.take_along_dim(chosen[..., None], dim=1).flatten(0, 1)


def generate_options(model, tokenizer, extra: Mapping, options: Mapping) -> dict:
    """Return what `generate()` takes of options, with the guidance that the extra ones ask for."""
    options = {name: value for name, value in options.items() if name not in EXTRA_OPTIONS}
    if options.get("stop_strings"):
        options.setdefault("tokenizer", tokenizer)
    weight, tokens = extra["guidance_weight"], extra["guidance_tokens"]
    if weight:
        guidance = ContextFreeGuidance(model, tokenizer, weight, tokens)
        options["logits_processor"] = [*(options.get("logits_processor") or ()), guidance]
    return options


def decode_pool(model, tokenizer, inputs: Mapping, candidates: int, options: Mapping) -> Pool:
    """Decode so many candidates for each context, of what `encode_once` returns."""
    encoded = inputs["encoder_outputs"]
    options = candidate_options(model, options, candidates)
    ids = model.generate(
        encoder_outputs=type(encoded)(**encoded),  # generate() changes its own
        attention_mask=inputs["attention_mask"],
        **{**options, "num_return_sequences": candidates},
    )  # (batch * candidates, target_len)
    texts = decode_texts(ids, tokenizer)
    ids = ids.view(-1, candidates, ids.shape[1])
    return Pool(ids, [texts[i : i + candidates] for i in range(0, len(texts), candidates)])


def score_pool(
    model, tokenizer, inputs: Mapping, pool: Pool, extra: Mapping, reverse=None
) -> dict[str, torch.Tensor]:
    """Compute criteria of all candidates, each (batch, candidates), unweighted.

    Args:
        inputs: what `encode_once` returns, with `input_ids` for the criteria that read words.
        extra: of the extra options `rerank` (the criteria), and the texts that they need.
    """
    wanted = {name.removesuffix("_sum") for name in extra["rerank"]}
    contexts = [turns_of(row, tokenizer) for row in inputs.get("input_ids", [])]
    values = _likelihoods(model, tokenizer, inputs, pool, wanted, extra["other_contexts"])
    if "reverse" in wanted:
        last = [turns[-1] for turns, texts in zip(contexts, pool.texts, strict=True) for _ in texts]
        values |= reverse_likelihood(*reverse, last, [*chain(*pool.texts)])
    values |= _text_criteria(pool.texts, contexts, wanted, extra["stock_phrases"])
    shape = pool.ids.shape[:2]
    return {name: values[name].float().cpu().view(shape) for name in extra["rerank"]}


def _likelihoods(
    model, tokenizer, inputs: Mapping, pool: Pool, wanted: set[str], other_contexts: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Compute the criteria that the model itself tells, (batch * candidates,) each."""
    ids = pool.ids.flatten(0, 1)  # (rows, target_len)
    mask = is_reply(ids, model.generation_config.eos_token_id)  # (rows, target_len - 1)
    values = {}
    if "likelihood" in wanted:
        batch_size, candidates = pool.ids.shape[:2]
        rows = torch.arange(batch_size, device=ids.device).repeat_interleave(candidates)
        log_probs = log_likelihood(model, inputs, rows, ids, mask)
        values |= sums_and_means("likelihood", log_probs, mask)
    if "context_free" in wanted:
        rows = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        log_probs = log_likelihood(model, no_context(model, tokenizer), rows, ids, mask)
        values |= sums_and_means("context_free", -log_probs, mask)
    if "other_contexts" in wanted:
        others, log_probs = encode_others(model, tokenizer, other_contexts), 0
        for place in range(len(other_contexts)):
            rows = torch.full((len(ids),), place, device=ids.device)
            log_probs = log_probs + log_likelihood(model, others, rows, ids, mask)
        values |= sums_and_means("other_contexts", -log_probs / len(other_contexts), mask)
    return values


def _text_criteria(
    texts: Sequence[Sequence[str]],
    contexts: Sequence[Sequence[str]],
    wanted: set[str],
    stock_phrases: Sequence[str],
) -> dict[str, torch.Tensor]:
    """Compute the criteria that are seen of the texts, (batch, candidates) each."""
    known = {letters(phrase) for phrase in stock_phrases} - {""}  # of phrases without letters
    measures = {
        "stock": lambda text, _: -float(letters(text) in known),
        "echo": lambda text, turns: -shared_words(text, " ".join(turns)),
        "length": lambda text, _: float(len(text.split())),
    }
    values = {}
    if "mbr" in wanted:
        values["mbr"] = torch.stack([mean_chrf(of_context) for of_context in texts])
    for name in measures.keys() & wanted:
        pairs = zip(texts, contexts or [()] * len(texts), strict=True)
        values[name] = torch.tensor(
            [[measures[name](text, turns) for text in of_context] for of_context, turns in pairs]
        )
    return values


def weigh(values: Mapping[str, torch.Tensor], weights: Mapping[str, float]) -> list[list[float]]:
    """Sum up criteria, (batch, candidates) each."""
    return sum(values[name].double() * weight for name, weight in weights.items()).tolist()


def rank(texts: Sequence[str], scores: Sequence[float]) -> tuple[list[int], list[int]]:
    """Order candidates, the best first; empty ones and those said before are in a second list."""
    order = sorted(range(len(texts)), key=lambda place: -scores[place])
    first = {}
    for place in order:
        first.setdefault(texts[place], place)
    distinct = [place for text, place in first.items() if text]
    return distinct, [place for place in order if place not in distinct]


def is_reply(ids: torch.Tensor, ends: int | Sequence[int]) -> torch.Tensor:
    """Tell which tokens behind the first are of the reply, its end included.

    `ids` are (rows, target_len); the answer is (rows, target_len - 1).
    """
    is_end = torch.isin(ids[:, 1:], torch.as_tensor(ends, device=ids.device))
    return is_end.cumsum(1) - is_end.long() == 0


def log_likelihood(
    model, inputs: Mapping, rows: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Compute the log-probability of each token behind the first, 0 where there is none.

    Args:
        inputs: `encoder_outputs` and `attention_mask` of the sources.
        rows: which source each reply follows, (rows,).
        ids, mask: as `is_reply` takes and returns them.

    Returns:
        (rows, target_len - 1)
    """
    log_probs = torch.zeros(mask.shape, device=ids.device)
    lengths = mask.sum(1)
    vocab_size = model.config.get_text_config(decoder=True).vocab_size
    size = MOST_LOGITS // (mask.shape[1] * vocab_size)
    size = max(1, min(size, max(SMALLEST_PART, -(-len(rows) // PARTS))))
    for part in lengths.argsort().split(size):
        longest = int(lengths[part].max())
        sources = rows[part]
        replies = {"decoder_input_ids": ids[part, :longest], "use_cache": False}
        logits = model(**rows_of(inputs, sources), **replies).logits.float()
        targets = ids[part, 1 : longest + 1]
        nll = functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        # (part, longest), of logits (part, longest, vocab)
        log_probs[part, :longest] = -nll
    return log_probs * mask


def sums_and_means(name: str, values: torch.Tensor, mask: torch.Tensor) -> dict:
    """Sum values of tokens, (rows, length), as two criteria: per token, and of the whole reply."""
    sums, counts = values.cpu().double().sum(1), mask.sum(1).cpu()  # not all GPUs have doubles
    return {name: sums / counts, f"{name}_sum": sums}


def encode_others(model, tokenizer, contexts: Sequence[str]) -> dict:
    """Encode contexts that a reply does not answer."""
    sources = [encode_context(context, tokenizer) for context in contexts]
    ids, mask = pad(sources, tokenizer.pad_token_id, model.device)
    return encode_once(model, {"input_ids": ids, "attention_mask": mask})


def turns_of(ids: torch.Tensor, tokenizer) -> list[str]:
    """Read the turns of an encoded context, (source_len,), padded or not."""
    separator, turns = tokenizer.convert_tokens_to_ids(TURN_SEPARATOR), [[]]
    for token in ids.tolist():
        if token == separator:
            turns.append([])
        else:
            turns[-1].append(token)
    return decode_texts(turns, tokenizer)


def reverse_likelihood(model, tokenizer, turns: Sequence[str], replies: Sequence[str]) -> dict:
    """Compute how likely each turn is, (rows,), as the answer to a reply: see `sums_and_means`."""
    before, after = special_ids(tokenizer)
    end, start = tokenizer.eos_token_id, model.generation_config.decoder_start_token_id
    room = tokenizer.model_max_length - len(before) - len(after)
    sources = [[*before, *ids[-room:], *after] for ids in encode_texts(replies, tokenizer)]
    targets = [[start, *before, *ids, end] for ids in encode_texts(turns, tokenizer)]
    (input_ids, attention_mask), (ids, mask) = (
        pad(rows, tokenizer.pad_token_id, model.device) for rows in (sources, targets)
    )
    inputs = encode_once(model, {"input_ids": input_ids, "attention_mask": attention_mask})
    rows = torch.arange(len(ids), device=ids.device)
    log_probs = log_likelihood(model, inputs, rows, ids, mask[:, 1:].bool())
    return sums_and_means("reverse", log_probs, mask[:, 1:])


def mean_chrf(texts: Sequence[str]) -> torch.Tensor:
    """Compute the mean chrF, 0 to 1, of each text with each other text as the reference, (texts,).

    Choosing the greatest is minimum Bayes risk decoding (Kumar and Byrne, 2004) with samples as
    hypotheses and as references (Eikema and Aziz, 2020). sacreBLEU has the same chrF of one pair.
    """
    texts = ["".join(text.split()) for text in texts]
    precision, recall, orders = torch.zeros(3, len(texts), len(texts))
    for n in range(1, CHRF_ORDER + 1):
        counts = [Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in texts]
        columns = {ngram: place for place, ngram in enumerate(set().union(*counts))}
        table = torch.zeros(len(texts), len(columns))
        for row, of_text in zip(table, counts, strict=True):
            row[[columns[ngram] for ngram in of_text]] = torch.tensor([*of_text.values()]).float()
        totals = table.sum(1)
        matches = torch.minimum(table[:, None], table).sum(-1)  # (texts, references)
        both = (totals[:, None] > 0) & (totals > 0)
        precision += matches / totals[:, None].clamp(min=1)
        recall += matches / totals.clamp(min=1)
        orders += both
    precision, recall = precision / orders.clamp(min=1), recall / orders.clamp(min=1)
    weight = CHRF_BETA**2
    chrf = (1 + weight) * precision * recall / (weight * precision + recall).clamp(min=1e-9)
    return (chrf.sum(1) - chrf.diagonal()) / max(1, len(texts) - 1)


def letters(text: str) -> str:
    """Leave case, spaces and punctuation out of a text."""
    return "".join(filter(str.isalnum, text.casefold()))


def shared_words(reply: str, context: str) -> float:
    """Compute which share of a reply's words the context has; 0 for a reply without words."""
    known = set(map(letters, context.split()))
    words = [word for word in map(letters, reply.split()) if word]
    return sum(word in known for word in words) / max(1, len(words))
