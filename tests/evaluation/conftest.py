"""Pairs to score, the same for diversity and for intervals."""

import random

import pytest
from helpers.corpus import sample_dialogues

from seq2seq_dialog.evaluation.metrics import likelihood_statistics, pair_statistics


@pytest.fixture(scope="module")
def pairs():
    """300 references, replies that share some of their words, likelihoods, dialogues of six."""
    draw = random.Random(7)
    references = [turn for turns in sample_dialogues(80) for turn in turns][:300]
    replies = []
    for i, reference in enumerate(references):
        words = reference.split()[: draw.randint(0, 12)]
        replies.append(" ".join(words + draw.choice(references).split()[: draw.randint(0, 4)]))
        if i % 5 == 0:
            replies[-1] = draw.choice(["I see.", "Yes, please.", ""])
    tokens = [1 + len(reference.split()) for reference in references]
    nll = [count * draw.uniform(1, 5) for count in tokens]
    return replies, references, nll, tokens, [str(i // 6) for i in range(300)]


@pytest.fixture(scope="module")
def statistics_of():
    """`statistics_of(replies, references, nll, tokens)`: all that have an interval."""

    def collect(replies, references, nll, tokens):
        examples = [
            {"nll": n, "tokens": t, "bytes": len(text.encode()), "exchanged_nll": 1.5 * n}
            for n, t, text in zip(nll, tokens, references, strict=True)
        ]
        return likelihood_statistics(examples) | pair_statistics(replies, references)

    return collect
