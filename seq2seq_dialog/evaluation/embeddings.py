"""How near two texts are in meaning, by word vectors that ship with the package.

The vectors are the input embeddings of the starter, a fixed model: no system is measured by its
own. They know English.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..errors import UsageError
from ..shipped import IN_CHECKOUT, ROOT, STARTER
from .text import main_language

LANGUAGE = "en"  # of the starter
SMOOTHING = 1e-3  # a of Arora et al. (2017), their default


class Vectors(NamedTuple):
    """The starter's tokenizer, and of each token its weighted vector, (vocab, dim)."""

    tokenizer: object
    table: np.ndarray

    def of(self, text: str) -> np.ndarray:
        """Return the weighted vectors of a text's tokens, (tokens, dim)."""
        return self.table[self.tokenizer.encode(text, add_special_tokens=False).ids]


@lru_cache(maxsize=1)
def load_vectors() -> Vectors:
    """Read the starter's vectors, each weighted by how rare its token is.

    A token of probability p weighs a / (a + p), smooth inverse frequency (Arora et al., 2017,
    algorithm 1; the first principal component is not removed). p is the tokenizer's own, of the
    starter's training data. `UsageError` if a file of the starter is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open  # imports torch: slow
    from tokenizers import Tokenizer

    try:
        with safe_open(STARTER / "model.safetensors", "pt") as file:
            table = file.get_tensor("shared.weight").float().numpy()  # (vocab, dim)
        tokenizer = Tokenizer.from_buffer((STARTER / "tokenizer.json").read_bytes())
    except (OSError, SafetensorError, ValueError) as error:
        mend = (
            f"git -C {ROOT} checkout -- samples" if IN_CHECKOUT else "install the package once more"
        )
        raise UsageError(
            f"The starter in {STARTER} is incomplete or damaged ({error}); the similarity of "
            f"replies to references needs its vectors. Get it back ({mend}) and evaluate again."
        ) from error
    tokenizer.no_truncation()
    pieces = json.loads(tokenizer.to_str())["model"]["vocab"]
    probability = np.exp([log_probability for _, log_probability in pieces])  # (pieces,)
    weights = np.zeros(len(table))  # of marks such as __eou__, and of padding
    weights[: len(pieces)] = SMOOTHING / (SMOOTHING + probability)
    return Vectors(tokenizer, table * weights[:, None])


@lru_cache(maxsize=1)
def signature() -> str:
    """Name what moves a similarity: the vectors, by a hash of their file, and their weights."""
    load_vectors()  # has the message if a file is missing
    digest = hashlib.sha256((STARTER / "model.safetensors").read_bytes()).hexdigest()[:8]
    return f"similarity|vectors:starter-{digest}|a:{SMOOTHING}|mean:pairs"


def knows(language: str) -> bool:
    """Say whether the vectors are of a language (`en`, `en-GB`)."""
    return main_language(language) == LANGUAGE


def similarities(replies: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Compute of each pair of texts the cosine of their mean vectors, (pairs,).

    A text without tokens has similarity 0 to every text.
    """
    vectors = load_vectors()
    dim = vectors.table.shape[1]
    a, b = (
        np.array([vectors.of(text).sum(0) for text in texts], float).reshape(len(texts), dim)
        for texts in (replies, references)
    )  # (pairs, dim) each; a cosine is the same for sums as for means
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(1) / np.maximum(lengths, np.finfo(np.float32).tiny)
