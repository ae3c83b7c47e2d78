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
    """The starter's tokenizer, and each token's vector by `load_vectors`, (vocab, dim).

    `unknown` are the ids of tokens that say nothing of a text: special ones and a bare space.
    """

    tokenizer: object
    table: np.ndarray
    unknown: frozenset[int]

    def of(self, text: str) -> np.ndarray:
        """Return the vectors of a text's tokens, (tokens, dim); none if all are `unknown`."""
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        return self.table[[] if self.unknown.issuperset(ids) else ids]


@lru_cache(maxsize=1)
def load_vectors() -> Vectors:
    """Read the starter's vectors, weighted by how rare each token is, less what all have in common.

    A token of probability p weighs a / (a + p), smooth inverse frequency (Arora et al., 2017,
    algorithm 1). p is the tokenizer's own, of the starter's training data. Then the direction that
    all sentences share is taken out. Arora et al. take the first principal component of the
    sentences at hand; here it is the direction of the mean vector that p expects, which depends on
    no other text. Without that, any two texts are alike, the more the longer a model was trained.

    Raises:
        UsageError: A file of the starter is missing or damaged.
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
    probability = np.zeros(len(table))  # 0 for marks such as __eou__, and for padding
    probability[: len(pieces)] = np.exp([log_probability for _, log_probability in pieces])
    weights = SMOOTHING / (SMOOTHING + probability)
    weights[len(pieces) :] = 0
    table = table * weights[:, None]
    common = probability @ table  # (dim,)
    common /= np.linalg.norm(common)
    special = (i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special)
    unknown = frozenset([*special, tokenizer.token_to_id("▁")])
    return Vectors(tokenizer, table - np.outer(table @ common, common), unknown)


@lru_cache(maxsize=1)
def signature() -> str:
    """Name what moves a similarity: the vectors, by a hash of their file, and their weights."""
    load_vectors()  # has the message if a file is missing
    digest = hashlib.sha256((STARTER / "model.safetensors").read_bytes()).hexdigest()[:8]
    return f"similarity|vectors:starter-{digest}|a:{SMOOTHING}|less:common|mean:pairs"


def knows(language: str) -> bool:
    """Say whether the vectors are of a language (`en`, `en-GB`)."""
    return main_language(language) == LANGUAGE


def similarities(replies: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Compute of each pair of texts the cosine of their mean vectors, (pairs,).

    A text without tokens, or of characters alone that the vectors do not know, such as emoji, has
    similarity 0 to every text.
    """
    vectors = load_vectors()
    dim = vectors.table.shape[1]
    a, b = (
        np.array([vectors.of(text).sum(0) for text in texts], float).reshape(len(texts), dim)
        for texts in (replies, references)
    )  # (pairs, dim) each; a cosine is the same for sums as for means
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(1) / np.maximum(lengths, np.finfo(np.float32).tiny)
