"""A filter on what is said and what is answered: words of one's own list, and classifiers.

It is off unless it is asked for, and it is no guarantee. A list finds the words in it, not other
spellings or forms of them, nor what is meant; a classifier finds what it has learnt, with errors of
both kinds. Neither knows what a text means in its dialogue, or whether it is true.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ..errors import UsageError
from ..hub_errors import check_name
from ..models.loading import loading
from ..portable.context import as_turns

FALLBACK = "I would rather not talk about that."
RULE = re.compile(r"(?P<model>.+):(?P<label>[^:]+?)\s*>=\s*(?P<least>\d*\.?\d+)")
# Scripts whose words do not stand apart, by what the names of their letters begin with.
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "BOPOMOFO")


class Safety:
    """Refuses texts that hold a word of a list, or that a classifier gives a label.

        safety = Safety(rules=["user/toxicity:toxic>=0.8"], words="words.txt")
        generate_response("How are you?", model, tokenizer, safety=safety)

    Args:
        rules: each `MODEL:label>=score`; the model is one of transformers for text classification,
            a folder or a name on the Hub, and its score of that label refuses a text. A long text
            is read to the model's greatest length.
        words: a text file, a word or phrase a line; # begins a comment. Case, width and
            punctuation do not count, and a word is found as a whole alone.
        fallback: what is answered in the place of a reply.

    Raises:
        UsageError: a file or a rule cannot be used. Classifiers are loaded here.
    """

    def __init__(
        self, rules: Sequence[str] = (), words: str | Path | None = None, fallback: str = FALLBACK
    ):
        if not fallback.strip():
            raise UsageError("fallback is empty; it must be a text, which takes a reply's place.")
        self.fallback = " ".join(fallback.split())
        self.words = [] if words is None else read_words(Path(words))
        self.rules = [_load_rule(rule) for rule in rules]
        digest = hashlib.blake2b("\n".join(self.words).encode(), digest_size=4).hexdigest()
        listed = [f"{len(self.words):,} words ({digest})"] if self.words else []
        self.description = ", ".join([*rules, *listed, f"fallback {fallback!r}"])
        self._reason = lru_cache(1 << 12)(self._find_reason)  # turns come again in later contexts

    def check(self, text: str) -> str | None:
        """Return why a text is refused, or None."""
        return self._reason(text) if text.strip() else None

    def _find_reason(self, text: str) -> str | None:
        spaced = _as_words(text)
        if any(phrase in spaced for phrase in self.words):
            return "a word of the list"
        for classify, label, least in self.rules:
            scores = {each["label"]: each["score"] for each in classify([text])[0]}
            if scores[label] >= least:
                return f"{label} {scores[label]:.2f}"
        return None

    def readable(self, context) -> list[str] | None:
        """Return the turns of a context that a model may read; None if the last one is refused.

        Earlier turns that are refused are left out, as is what was answered to them.
        """
        *before, last = as_turns(context)
        if self.check(last):
            return None
        return [turn for turn in before if turn != self.fallback and not self.check(turn)] + [last]

    def guard(self, answer: Callable[..., str]) -> Callable[..., str]:
        """Return a function of a context that answers as `answer` does, but for what is refused.

        A `streamer` among the options gets nothing: no part of a reply is shown before it is whole.
        """

        def guarded(context, streamer=None, **options) -> str:
            turns = self.readable(context)
            return self.fallback if turns is None else self._allowed(answer(turns, **options))

        return guarded

    def filtered(self, contexts: Sequence, replies: Sequence) -> list:
        """Return replies to contexts, the fallback where either is refused.

        A reply is a text, or a list of several to the same context.
        """
        pairs = zip(contexts, replies, strict=True)
        return [self._allowed(reply, self.readable(context) is None) for context, reply in pairs]

    def _allowed(self, reply: str | list[str], refused: bool = False) -> str | list[str]:
        if isinstance(reply, list):
            return [self._allowed(each, refused) for each in reply]
        return self.fallback if refused or self.check(reply) else reply


def safety_of(options: dict) -> Safety | None:
    """Take the options of the filter out of those of a verb; None where none is set."""
    rules, words = options.pop("safety", None), options.pop("safety_words", None)
    fallback = options.pop("fallback", None)
    if not rules and words is None:
        if fallback is not None:
            raise UsageError("fallback has an effect with --safety or --safety-words alone.")
        return None
    return Safety(rules or (), words, FALLBACK if fallback is None else fallback)


def read_words(path: Path) -> list[str]:
    """Read the words and phrases of a file, as `_as_words` writes texts."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"Cannot read the words in {str(path)!r}: {error}. Give a text file in UTF-8, a word "
            "or phrase a line."
        ) from error
    phrases = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        phrase = _as_words(line)
        if not phrase.strip():
            raise UsageError(
                f"{path}, line {number} is {line!r}, which holds no word. Take it out."
            )
        phrases[_joined(phrase)] = None
    if not phrases:
        raise UsageError(f"{str(path)!r} holds no word. Give a text file with one a line.")
    return list(phrases)


def _as_words(text: str) -> str:
    """Write a text as its words, casefolded, with a space before and after each.

    A word is letters, digits and the marks that combine with them, or one symbol, such as an emoji.
    What cannot be seen is left out.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return f" {' '.join(''.join(map(_of_word, text)).split())} "


@lru_cache(1 << 12)
def _of_word(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf" or "\ufe00" <= character <= "\ufe0f":  # joiners, soft hyphens, variants
        return ""
    if category[0] == "S":
        return f" {character} "
    return character if character.isalnum() or category[0] == "M" else " "


def _joined(phrase: str) -> str:
    """Take off the space at an end where its script sets none between words."""
    first, last = (unicodedata.name(phrase[place], "") for place in (1, -2))
    start = 1 if first.startswith(UNSPACED) else None
    return phrase[start : -1 if last.startswith(UNSPACED) else None]


def _load_rule(rule: str) -> tuple[Callable, str, float]:
    """Load the classifier of a rule; return it, its label and the least score that refuses."""
    match = RULE.fullmatch(rule)
    if not match or not 0 < float(match["least"]) <= 1:
        raise UsageError(
            f"safety is {rule!r}; it must be MODEL:label>=score, the score above 0 and at most 1: "
            "user/toxicity:toxic>=0.8"
        )
    from transformers import pipeline  # only here: it imports pipelines of all kinds

    name, label = match["model"], match["label"]
    check_name(name)
    remedy = "Give a folder or the name of a model on the Hub for text classification."
    with loading(f"a classifier from {name!r}", remedy):
        model, report = AutoModelForSequenceClassification.from_pretrained(
            name, output_loading_info=True
        )
        if report["missing_keys"]:  # they would be random
            raise ValueError(f"its files lack {', '.join(sorted(report['missing_keys'])[:3])}.")
        tokenizer = AutoTokenizer.from_pretrained(name)
    # Many a tokenizer does not know how long a text may be; RoBERTa has two positions less.
    positions = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length + 2)
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions - 2)
    options = {"model": model, "tokenizer": tokenizer, "top_k": None, "truncation": True}
    classify = pipeline("text-classification", **options)
    labels = list(model.config.id2label.values())
    if label not in labels:
        raise UsageError(
            f"safety is {rule!r}, but the labels of that model are {', '.join(map(repr, labels))}. "
            "Name one of them."
        )
    return classify, label, float(match["least"])
