"""Evaluation protocols by name: a figure compares with a paper's only if it is made the same way.

Each takes replies, references and whether they are `spaced`, that is, in DailyDialog's own spaced
tokens, and returns `Scored`. Its signature names all that moves the figures: tools and versions,
smoothing, case, tokens, how many references and what is averaged.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset
from sacrebleu.metrics import CHRF
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from ..dataset_script.detokenize import detokenize
from ..dataset_script.dialogues import normalised
from ..errors import UsageError, nearest
from . import embeddings
from .metrics import (
    PairStatistics,
    bleu_signature,
    f_measure,
    figures,
    mean_over_pairs,
    pair_statistics,
)
from .text import BY_SPACES, segmented, tokenizer_of, words


class Scored(NamedTuple):
    """What a protocol makes of replies."""

    statistics: dict[str, PairStatistics]
    distinct_replies: Sequence[str] | None  # whose Distinct is a figure of the protocol
    signature: str

    def of(self, rows: Sequence[int]) -> Scored:
        """Keep some pairs."""
        statistics = {key: metric.of(rows) for key, metric in self.statistics.items()}
        replies = self.distinct_replies
        return Scored(statistics, replies and [replies[i] for i in rows], self.signature)

    def figures(self) -> dict[str, float]:
        """Compute each metric of all pairs, and Distinct."""
        return figures(self.statistics, self.distinct_replies)


PLATO_WEIGHTS = [(1, 0, 0, 0), (0.5, 0.5, 0, 0)]  # method7 looks at four orders all the same
# Weights of the authors' score_multiref.py. Those of BLEU-3 do not sum to 1 there.
MULTIREF_WEIGHTS = [(1,), (0.5, 0.5), (0.33, 0.33, 0.33), (0.25, 0.25, 0.25, 0.25)]
ROUGE_BETA = 1.2  # of nlg-eval: recall counts for a little more than precision
_MULTIREF_TOKEN = re.compile(
    r"""n't\b | '(?:s|m|d|re|ve|ll)\b             # behind a word
      | can(?=not\b) | gon(?=na\b) | got(?=ta\b)  # can not, gon na, got ta
      | \d+(?:[:,]\d+)+                           # 10:30, 1,000
      | \w+?(?=n't\b|'(?:s|m|d|re|ve|ll)\b)       # before those above: do n't, it 's
      | \w+(?:'\w+)*                              # o'clock
      | \.+ | -+ | [^\w\s]""",
    re.VERBOSE,
)


def score(
    protocol: str,
    replies: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    spaced: bool = False,
    language: str = "en",
) -> tuple[dict[str, float], str]:
    """Score replies by a protocol, one of `PROTOCOLS`.

    Args:
        protocol: its name.
        replies: one per context.
        references: one per context; for `multiref` a list per context.
        spaced: the text is in DailyDialog's own spaced tokens, not natural.
        language: what it is written in; its words are set apart by `text.segmented`.

    Returns:
        The metrics, on a scale of 0 to 100 but for mean lengths, and the signature.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(
            f"There is no protocol {protocol!r}.{nearest(protocol, PROTOCOLS)} Choose from "
            f"{', '.join(PROTOCOLS)}."
        )
    if not replies or len(replies) != len(references):
        raise UsageError(
            f"{len(replies)} replies came with {len(references)} references; give at least one, "
            "and for each reply what it is compared with."
        )
    scored = PROTOCOLS[protocol](replies, references, spaced, language)
    return scored.figures(), scored.signature


def default(
    replies: Sequence[str], references: Sequence[str], spaced: bool = False, language: str = "en"
) -> Scored:
    """Score as this project reports: `pair_statistics` of the text as it stands."""
    chrf = CHRF(references=[["one reference"]]).get_signature()
    before = _segmentation(language)
    signature = (
        f"default: BLEU|{bleu_signature(language)}, chrF2|{chrf}, "
        f"ROUGE-F1|nrefs:1|case:lower|tok:{before}letters+digits|stem:no|mean:pairs|"
        f"rouge-score:{version('rouge-score')}, Distinct|case:lower|tok:{before}space"
    )
    if embeddings.knows(language):
        signature += f", {embeddings.signature()}"
    statistics = pair_statistics(replies, references, language)
    return Scored(statistics, segmented(replies, language), signature)


def _segmentation(language: str) -> str:
    """Name in a signature what set the words apart before: `zh+`, or nothing."""
    name = tokenizer_of(language)
    return "" if name == BY_SPACES else f"{name}+"


def plato(
    replies: Sequence[str], references: Sequence[str], spaced: bool = False, language: str = "en"
) -> Scored:
    """Score as PLATO (Bao et al., 2020) and those who compare with it: BLEU-1, BLEU-2, Distinct.

    The mean over pairs of nltk's sentence BLEU with smoothing `method7`, lower-cased words.
    Smoothing lifts replies equal to their references above 100. The figure belongs to nltk's
    version: `method7` changed in 3.5 and again in 3.6, and where few n-grams match, BLEU-2 of 3.5
    is more than twice that of today. The paper's table is from before 3.6. PLATO's corpus-level
    ("inter") Distinct is `metrics.distinct`.

    Papers score DailyDialog's spaced tokens (`don't you ? Yes .`), which are taken as they stand
    if `spaced`. In natural text punctuation is set apart by sacreBLEU's 13a tokens. They do not
    split `don't`, which the files split about every other time: natural text scores up to half a
    point higher (benchmarks/RESULTS.md). Mind that before you compare with a paper.
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu  # imports SciPy: slow

    tokens = "space" if spaced else f"13a|sacrebleu:{version('sacrebleu')}"
    tokens = _segmentation(language) + tokens
    replies, references = (segmented(texts, language) for texts in (replies, references))
    if not spaced:
        tokenize = Tokenizer13a()
        replies, references = (list(map(tokenize, texts)) for texts in (replies, references))
    smoothing = SmoothingFunction().method7
    bleu = [
        sentence_bleu([words(reference)], words(reply), PLATO_WEIGHTS, smoothing)
        for reply, reference in zip(replies, references, strict=True)
    ]  # (pairs, orders)
    names = ("plato_bleu_1", "plato_bleu_2")
    statistics = dict(zip(names, map(mean_over_pairs, zip(*bleu, strict=True)), strict=True))
    signature = (
        f"plato: BLEU|nrefs:1|case:lower|tok:{tokens}|smooth:method7|mean:pairs|"
        f"nltk:{version('nltk')}, Distinct|case:lower|tok:{tokens}"
    )
    return Scored(statistics, replies, signature)


def multiref_tokens(text: str) -> list[str]:
    """Split a text into tokens as the references of Gupta et al. (2019) are, by spaCy.

    Lower case, `do n't`, `it 's`, `can not`, hyphens apart; DailyDialog's spaced tokens and natural
    text give the same. Where the authors' tokens differ, in 1 of 1,000, it is `o.k`, `5 pm` for
    `5pm`, or two words with an apostrophe for a space.
    """
    return _MULTIREF_TOKEN.findall(detokenize(text).lower())


def multiref(
    replies: Sequence[str],
    references: Sequence[Sequence[str]],
    spaced: bool = False,
    language: str = "en",
) -> Scored:
    """Score against several references, as Gupta et al. (2019) do on DailyDialog.

    A reply has as many scores as it has references. `bleu_1` to `bleu_4` and `rouge_l` are the
    greatest of them, averaged over replies, as in the authors' `score_multiref.py`; `bleu_1_mean`
    to `rouge_l_mean` their means, averaged likewise. BLEU is nltk's sentence BLEU with smoothing
    `method1` and the authors' weights (of BLEU-3 0.33, not 1/3): a reply of fewer than n tokens has
    a low BLEU-n even if it equals the reference. ROUGE-L is nlg-eval's F with beta 1.2;
    `rouge_l_pooled` is what nlg-eval itself makes of several references, and the script prints: F
    of the greatest precision and the greatest recall, which may be of different references. Text
    without tokens counts as `.`, as there. Left out: METEOR, which needs Java or WordNet's data,
    and the embedding metrics.

    Replies may have either spacing (see `multiref_tokens`), so `spaced` changes nothing, nor does
    `language`; references are lower-cased and tokenised, as `read_references` returns them.
    """
    from nltk.tokenize import WhitespaceTokenizer
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from rouge_score.rouge_scorer import RougeScorer

    smoothing = SmoothingFunction().method1
    scorer = RougeScorer(["rougeL"], tokenizer=WhitespaceTokenizer())
    names = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l"]
    values = {name: [] for name in [*names, "rouge_l_pooled", *(f"{name}_mean" for name in names)]}
    for reply, answers in zip(replies, references, strict=True):
        if isinstance(answers, str) or not answers:
            raise UsageError(
                f"The references of a reply are {answers!r}; multiref needs a list of at least one."
            )
        tokens = multiref_tokens(reply) or ["."]
        targets = [words(answer) or ["."] for answer in answers]
        rouge = [scorer.score(" ".join(t), " ".join(tokens))["rougeL"] for t in targets]
        bleu = [sentence_bleu([t], tokens, MULTIREF_WEIGHTS, smoothing) for t in targets]
        # bleu: (references, orders)
        rouge_l = [f_measure(r.precision, r.recall, ROUGE_BETA) for r in rouge]
        scores = [*zip(*bleu, strict=True), rouge_l]
        for name, of_references in zip(names, scores, strict=True):
            values[name].append(max(of_references))
            values[f"{name}_mean"].append(math.fsum(of_references) / len(of_references))
        greatest = max(r.precision for r in rouge), max(r.recall for r in rouge)
        values["rouge_l_pooled"].append(f_measure(*greatest, ROUGE_BETA))
    sizes = sorted({len(answers) for answers in references})
    shared = f"nrefs:{'-'.join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))}|case:lower|"
    shared += "tok:spacy-like|max and mean:references|mean:pairs"
    signature = (
        f"multiref: BLEU|{shared}|smooth:method1|nltk:{version('nltk')}, "
        f"ROUGE-L|{shared}|beta:{ROUGE_BETA}|rouge-score:{version('rouge-score')}"
    )
    statistics = {name: mean_over_pairs(scores) for name, scores in values.items()}
    return Scored(statistics, None, signature)


PROTOCOLS: dict[str, Callable] = {"default": default, "plato": plato, "multiref": multiref}


def read_references(path: str | Path, rows: Dataset) -> list[list[str]]:
    """Read the references of Gupta et al. (2019), five for each of `rows`, white space folded.

    Args:
        path: `multireftest.json` of https://github.com/prakharguptaz/multirefeval, a dialogue a
            line in the order of DailyDialog's test split; each utterance but the last has
            `responses`, the first of which is the original next utterance.
        rows: with `response`, the official test split or its first rows.
    """
    remedy = (
        "The references belong to DailyDialog's official test split: give its folder, with test/ "
        "in it, as --data, and multireftest.json of github.com/prakharguptaz/multirefeval."
    )
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read {str(path)!r}: {error}. {remedy}") from error
    references = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            responses = [turn["responses"] for turn in json.loads(line)["dialogue"][:-1]]
            references += [[" ".join(text.split()) for text in answers] for answers in responses]
            if not all(responses):
                raise ValueError("an utterance without responses")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{str(path)!r}, line {number} holds no dialogue with responses "
                f"({type(error).__name__}: {error}). {remedy}"
            ) from error
    if len(references) < len(rows):
        raise UsageError(
            f"{str(path)!r} has references for {len(references)} responses, and {len(rows)} are "
            f"evaluated. {remedy}"
        )
    for i, (answers, response) in enumerate(zip(references, rows["response"], strict=False)):
        if normalised(answers[0]) != normalised(response):
            raise UsageError(
                f"Row {i} is answered by {response!r}, but {str(path)!r} has {answers[0]!r} there. "
                f"{remedy}"
            )
    return references[: len(rows)]


def second_human(references: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Take the second reference of each context for a reply, and leave the others to compare.

    Four are left of five, and the greatest score of four is rarely that of five: compare it with a
    model that is scored against the same four.
    """
    replies = [answers[1] for answers in references]
    return replies, [[answers[0], *answers[2:]] for answers in references]
