"""What a model has to beat: replies that need no model, from the training rows alone."""

import random
from collections import Counter
from collections.abc import Iterator

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from ..dataset_script.dialogues import normalised
from .text import segmented

# Training contexts and other contexts that are compared at a time: 8 MiB of similarities.
BLOCK, CHUNK = 8192, 256
TURNS = 3  # of a context that count for its likeness to others


def random_replies(train_rows: Dataset, count: int, seed: int) -> list[str]:
    """Draw `count` training replies, each independently of all others."""
    chosen = random.Random(seed).choices(range(len(train_rows)), k=count)
    return train_rows.select_columns("response").select(chosen)["response"][:]


def most_frequent_reply(train_rows: Dataset) -> str:
    """Return the training reply that comes most often; of equals the first.

    Replies that are the same `normalised` count as one. Those without letters and digits do not
    count, unless there are no others. The spelling is the most common one.
    """
    spellings = Counter(train_rows["response"])
    counts = Counter()
    for spelling, count in spellings.items():
        counts[normalised(spelling)] += count
    winner = max(counts, key=lambda text: (any(map(str.isalnum, text)), counts[text]))
    return max((s for s in spellings if normalised(s) == winner), key=spellings.__getitem__)


def nearest_replies(train_rows: Dataset, rows: Dataset, language: str = "en") -> list[str]:
    """Answer each context with the reply to the nearest training context.

    Nearest is the greatest cosine of TF-IDF vectors of the last `TURNS` turns. Of equals the first
    wins; a context without a known word has the first of all. Words are lower-cased and stand apart
    by white space, or as `segmented` sets them. A word weighs its count times
    ln((1 + n) / (1 + d)) + 1, if d of the n training contexts have it (scikit-learn's default:
    smoothed, and vectors of length 1).

    Memory grows with the vocabulary, not with the number of training rows.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # slow to import

    frequencies = Counter()
    for texts in _blocks(train_rows, language):
        for text in texts:
            frequencies.update(set(text.split()))
    vectorizer = TfidfVectorizer(
        tokenizer=str.split,
        token_pattern=None,
        lowercase=False,
        vocabulary=list(frequencies),
        dtype=np.float32,
    )
    contexts_with = np.fromiter(frequencies.values(), np.float64, len(frequencies))
    vectorizer.idf_ = np.log((1 + len(train_rows)) / (1 + contexts_with)) + 1
    wanted = vectorizer.transform(text for texts in _blocks(rows, language) for text in texts)
    used = np.unique(wanted.indices)  # other words matter for the length of vectors alone
    wanted = wanted[:, used]
    best = np.full(len(rows), -1, np.float32)
    nearest = np.zeros(len(rows), np.int64)
    with tqdm(total=len(train_rows), desc="Nearest contexts", delay=3, leave=False) as progress:
        starts = range(0, len(train_rows), BLOCK)
        for first, texts in zip(starts, _blocks(train_rows, language), strict=True):
            known = vectorizer.transform(texts)[:, used]  # (block, words)
            for start in range(0, len(rows), CHUNK):
                part = slice(start, start + CHUNK)
                similarities = known @ wanted[part].T.toarray(order="C")  # (block, chunk)
                winners = similarities.argmax(0)
                values = np.take_along_axis(similarities, winners[None], 0)[0]
                better = values > best[part]
                best[part][better] = values[better]
                nearest[part][better] = first + winners[better]
            progress.update(len(texts))
    return train_rows.select_columns("response").select(nearest)["response"][:]


def _blocks(rows: Dataset, language: str) -> Iterator[list[str]]:
    """Yield the last turns of the contexts as texts, `BLOCK` at a time."""
    for batch in rows.select_columns("context").iter(BLOCK):
        texts = [" ".join(context[-TURNS:]).lower() for context in batch["context"]]
        yield segmented(texts, language)
