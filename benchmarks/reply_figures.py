"""Figures of a single reply, for `agreement`: against references, by itself, under a scorer."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from seq2seq_dialog.dataset_script.dialogues import normalised
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import BaseModelOutput

from seq2seq_dialog.data.batching import IGNORE
from seq2seq_dialog.evaluation.embeddings import load_vectors, similarities
from seq2seq_dialog.evaluation.metrics import chrf_statistics, rouge_statistics
from seq2seq_dialog.evaluation.protocols import multiref
from seq2seq_dialog.evaluation.text import words
from seq2seq_dialog.portable.context import encode_context
from seq2seq_dialog.serve.inference import load
from seq2seq_dialog.training.evaluating import token_nll

ONE, SEVERAL, NONE = "one reference", "four references", "no reference"
OTHERS = 4  # turns that the reply does not answer
BATCH = 50


def of_references(rated: list[dict]) -> dict:
    """Compare each reply with the original reference, and with the best of all four."""
    replies = [row["reply"] for row in rated]
    one = pair_values(replies, [row["original"] for row in rated])
    each = [pair_values(replies, [row["references"][k] for row in rated]) for k in range(4)]
    several = {name: np.max([values[name] for values in each], axis=0) for name in one}
    return {(ONE, k): v for k, v in one.items()} | {(SEVERAL, k): v for k, v in several.items()}


def pair_values(replies: list[str], references: list[str]) -> dict[str, np.ndarray]:
    """Score each reply against one reference, by name."""
    bleu = multiref(replies, [[" ".join(words(text))] for text in references]).statistics["bleu_2"]
    rouge, chrf = (f(replies, references) for f in (rouge_statistics, chrf_statistics))
    pairs = [[vectors_of(text) for text in texts] for texts in (replies, references)]
    return {
        "BLEU-2": bleu.columns[:, 0],
        "ROUGE-L": rouge["rouge_l"].columns[:, 0],
        "word F1 (ROUGE-1)": rouge["rouge_1"].columns[:, 0],
        "chrF": np.array([chrf["chrf"].of([i]).figure() for i in range(len(replies))]),
        "similarity of vectors": similarities(replies, references),
        "greedy matching of vectors": np.array([greedy(*p) for p in zip(*pairs, strict=True)]),
        "extrema of vectors": np.array([extrema(*p) for p in zip(*pairs, strict=True)]),
    }


def vectors_of(text: str) -> np.ndarray:
    """Return the vectors of a text's tokens, (tokens, dim); a text that has none counts as `.`."""
    vectors = load_vectors()
    of_text = vectors.of(text)
    return of_text if len(of_text) else vectors.of(".")


def greedy(a: np.ndarray, b: np.ndarray) -> float:
    """Match each token with the most similar one, as BERTScore does; F1 of the two directions."""
    a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
    cosines = a @ b.T  # (tokens of a, tokens of b)
    precision, recall = cosines.max(1).mean(), cosines.max(0).mean()
    return 2 * precision * recall / (precision + recall)


def extrema(a: np.ndarray, b: np.ndarray) -> float:
    """Compare the most extreme value of each dimension (Forgues et al., 2014) by cosine."""
    a, b = (each[np.abs(each).argmax(0), np.arange(each.shape[1])] for each in (a, b))
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def without_reference(rated: list[dict], heard: list[str]) -> dict:
    """Look at each reply by itself and beside its context."""
    said = Counter(map(normalised, heard))
    documents = Counter(word for text in heard for word in set(words(text)))
    values = []
    for row in rated:
        tokens, context = words(row["response"]) or ["."], set(words(row["context"]))
        rarity = [math.log(len(heard) / (1 + documents[word])) for word in tokens]
        known = [word in context for word in tokens]
        times = math.log1p(said[normalised(row["reply"])])
        values.append((len(tokens), np.mean(rarity), np.mean(known), -times))
    names = ("length in words", "rarity of words (mean idf)", "words from the context")
    columns = dict(zip((*names, "no stock phrase"), np.array(values).T, strict=True))
    replies, last = ([row[key] for row in rated] for key in ("reply", "last_turn"))
    columns["similarity to the turn before"] = similarities(replies, last)
    return {(NONE, name): column for name, column in columns.items()}


def likelihoods(rated: list[dict], name: str) -> dict:
    """Ask a model how likely a reply is after the last turn, and the last turn after the reply.

    Of both there is the gain over other sources of the file, which is the mutual information of
    the two texts as the model sees it. All are in nats per token.
    """
    model, tokenizer, _ = load(name, device="cpu")
    replies, last = ([row[key] for row in rated] for key in ("reply", "last_turn"))
    forward, gain = after_sources(model, tokenizer, last, replies, OTHERS)
    _, backward = after_sources(model, tokenizer, replies, last, 1)
    columns = {
        "likelihood of the reply": forward,
        "gain of the reply by the turn before": gain,
        "gain of the turn before by the reply": backward,
    }
    return {(NONE, f"{what}, {Path(name).name}"): column for what, column in columns.items()}


@torch.no_grad()
def after_sources(
    model, tokenizer, sources: list[str], texts: list[str], others: int
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the log-likelihood per token of texts, and its gain over that after other sources.

    Neighbours may have the same source, so the others are taken from far away.
    """
    states = encode(model, tokenizer, sources)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    labels = [torch.tensor([*each, tokenizer.eos_token_id]) for each in ids]
    lengths = np.array([len(each) for each in labels])
    own = -nll(model, states, labels) / lengths
    shifts = [len(texts) * k // (others + 1) for k in range(1, others + 1)]
    moved = [states[shift:] + states[:shift] for shift in shifts]
    return own, own - np.mean([-nll(model, each, labels) / lengths for each in moved], axis=0)


def encode(model, tokenizer, sources: list[str]) -> list[torch.Tensor]:
    """Compute the encoder's states of each source, (source_len, dim), of equal ones once."""
    states = {}
    for source in sources:
        if source not in states:
            ids = torch.tensor([encode_context([source], tokenizer)])  # (1, source_len)
            mask = torch.ones_like(ids)
            states[source] = model.get_encoder()(ids, attention_mask=mask).last_hidden_state[0]
    return [states[source] for source in sources]


def nll(model, states: list[torch.Tensor], labels: list[torch.Tensor]) -> np.ndarray:
    """Compute the negative log-likelihood of each text in nats, those of like length together."""
    result = np.zeros(len(labels))
    order = sorted(range(len(labels)), key=lambda i: len(labels[i]))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        masks = [torch.ones(len(states[i]), dtype=torch.long) for i in rows]
        padded = pad_sequence([labels[i] for i in rows], True, IGNORE)  # (batch, target_len)
        logits = model(
            encoder_outputs=BaseModelOutput(pad_sequence([states[i] for i in rows], True)),
            attention_mask=pad_sequence(masks, True),
            labels=padded,
        ).logits
        result[rows] = token_nll(logits, padded).sum(-1).numpy()
    return result
