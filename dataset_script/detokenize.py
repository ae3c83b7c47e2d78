"""Natural text from the spaced tokens of DailyDialog. Imports the standard library alone."""

import re

_PLAIN = str.maketrans("’‘′“”", "'''\"\"")
_FULL_WIDTH = str.maketrans("，。、？！：；（）", ",.,?!:;()")
_HAS_FULL_WIDTH = re.compile("[，。、？！：；（）]")
_EAST_ASIAN = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
# don ' t, I ' Ve, I 'm, DON ' T; but not a quoted letter as in: the word 's'
_CONTRACTION = re.compile(
    r"(?<=\w)(?: ' ?|' )((?:s|t|m|d|ll|re|ve|Ll|Re|Ve)\b|(?<=[A-Z] ' )(?:S|T|M|D|LL|RE|VE)\b)(?!')"
)
_INNER_APOSTROPHE = re.compile(
    r"\b(?:(o) ' (?=clock\b)|(O) ' (?=[A-Z][a-z])|(ma) ' (?=am\b)|(y) ' (?=all\b)"
    r"|(c) ' (?=mon\b)|(xi) ' (?=an\b))",
    re.IGNORECASE,
)
_ELISION = re.compile(r"(?<!\S)' (?=(?:em|til|tis|twas|cause|\d0s)\b)", re.IGNORECASE)
_ROCK_N_ROLL = re.compile(r"(?<=\w )('?) ?n ' (?=\w)")
_DIGIT = re.compile(r"\d")
_ALONE_SINGLE = re.compile(r"(?<!\S)'(?!\S)")
_ALONE_DOUBLE = re.compile(r'(?<!\S)"(?!\S)')
_NOT_PLURAL = {"is", "was", "as", "does", "has", "says", "this", "its", "yes", "us"}
_INITIALS = re.compile(r"(?<![\w'.])[A-Za-z] \.(?: ?[A-Za-z] ?\.)+")
_DOTS = re.compile(r"(?<!\S)\.(?: \.){2,}(?!\S)")
_DASHES = re.compile(r"(?<!\S)[-–—](?: [-–—])+(?!\S)")
_BESIDE_NUMBER = re.compile(  # $ 20, 50 %, 20 ° C; 8: 30, where the tokenizer saw a face
    r" (?:(?<=[$£€¥#] )(?=\d)|(?<=\d )(?=[%°])|(?<=° )(?=[CF]\b)|(?<=\b8: )(?=[0-5]\d(?!\d)))"
)
_INSIDE_NUMBER = re.compile(  # 10 : 30, 4 , 000, 2 . 50, 555 - 0199, 30 - day
    r" (?<=\d )(?:(:):? (?=\d)|(,) (?=000(?!\d))|(\.) (?=\d\d(?!\d))|(-) (?=\d"
    r"|(?:second|minute|hour|day|week|month|year|inch|foot|meter|piece|percent|cent|dollar)s?\b))"
)
_SLASH = re.compile(r"(?<!\S)(\w{1,2}) / (?=\w{1,2}[.,!?;:]*(?!\S))")
_GOODBYE = re.compile(r"\b(good|bye) - (?=bye\b)", re.IGNORECASE)
_OPENING = re.compile(r"(?<!\S)([(\[{]) (?=\S)")
_BEFORE_MARK = re.compile(  # the lookaheads spare :) and .NET
    r" (?:(?=(?:[,!?]|\.(?!\.))[,.!?]*[\"')\]}]*(?:\s|$)|[;:]+(?:\s|$)|[)\]}](?:[\s.,!?;:\"']|$))"
    r"|(?<=[^.,!?;:] )(?=(?:\.{2,}|…)[\"')\]}]*(?:[\s,!?]|$)))(?<=\S )"
)
_GLUED = re.compile(
    r"\.(?=[A-Z][a-z']|[IA]\b(?!\.))"
    r"(?:(?<=[A-Za-z]{2}\.)|(?<=\d\.)|(?<=\.[A-Za-z]\.)|(?<=[)\"'\]]\.)|(?<=[a-z]\.{3}))"
    r"|,(?<=[A-Za-z]{2},)(?=[A-Za-z]{2})|[?!](?<=\w.)(?=[A-Za-z])"
)
_ADDRESS = re.compile(  # of the net; of a function, foo.Bar(); of a file, Main.Java
    r"www\.|@|://|\.(?:com|org|net|edu|gov|info|cn|uk|de|jp|tw|io)\b|\.[a-z]{2,6}(?::\d+)?/"
    r"|\?\w+=|\w::\w|\.\w+\(|\\"
    r"|\.(?:txt|md|pdf|docx?|xlsx?|pptx?|csv|json|ya?ml|xml|html?|css|js|ts|py|java|cpp|sh|exe"
    r"|zip|gz|png|jpe?g|gif|svg|mp[34]|wav|log|ini|sql)\b(?=\W*$)",
    re.IGNORECASE,
)


def detokenize(text: str) -> str:
    """Natural text from DailyDialog's spaced tokens, so that a model learns to write English.

    >>> detokenize("I don ’ t know , Ann . It ’ s 10 : 30 p . m . already !")
    "I don't know, Ann. It's 10:30 p.m. already!"
    >>> detokenize('He said , " fine.But not for $ 20 " ( 50 % off ) ...')
    'He said, "fine. But not for $20" (50% off)...'
    >>> detokenize("My parents ' dog is called ' Tiny ' .")
    "My parents' dog is called 'Tiny'."

    Curly quotes become straight, runs of spaces one space, full-width marks plain ones (unless the
    text is Chinese, Japanese or Korean). Natural text stays as it is but for such marks and spaces
    (`ok,thanks` becomes `ok, thanks`), and a second pass changes nothing.

    Some cases stay as they are, because the tokens do not tell which reading is right: sentences
    glued before a small letter (`sorry.sir` looks like `yahoo.com`) or after one letter (`I.The`,
    `A.Smith`); ` - `, a dash or a hyphen, except after numbers (`30 - day`) and in `bye - bye`;
    `7 , 500`, one number or two; quotation marks without a partner; two plural possessives in one
    utterance (taken for quotation marks); spaced addresses (`www . foo . com`); typing errors. The
    rules are for English: French puts a space before `?`, so load it with `detokenize=False`.
    """
    if not text.isascii():
        text = text.translate(_PLAIN)
        if _HAS_FULL_WIDTH.search(text) and not _EAST_ASIAN.search(text):
            text = text.translate(_FULL_WIDTH)
    text = " ".join(text.split())
    # The plain tests before the expressions only save time: most utterances need few of them.
    if "'" in text:
        if " n ' " in text:
            text = _ROCK_N_ROLL.sub(r"\1n' ", text)
        text = _CONTRACTION.sub(_contract, text)
        text = text.replace(" n't", "n't")
        if " ' " in text or text[:2] == "' " or text[-2:] == " '":
            text = _INNER_APOSTROPHE.sub(lambda match: match[match.lastindex] + "'", text)
            text = _attach_single(_ELISION.sub("'", text))
    if '"' in text:
        text = _attach_double(text)
    if text.count(" .") > 1:
        text = _INITIALS.sub(_joined, text)
        text = _DOTS.sub(_joined, text)
    if _DIGIT.search(text):
        text = _BESIDE_NUMBER.sub("", text)
        text = _INSIDE_NUMBER.sub(lambda match: match[match.lastindex], text)
    if "- " in text or "— " in text or "– " in text:
        text = _GOODBYE.sub(r"\1-", _DASHES.sub(_joined, text))
    if "( " in text or "[ " in text or "{ " in text:
        text = _OPENING.sub(r"\1", text)
    text = _BEFORE_MARK.sub("", text)
    if _GLUED.search(text):
        words = text.split(" ")
        text = " ".join(w if _ADDRESS.search(w) else _GLUED.sub(r"\g<0> ", w) for w in words)
    return _SLASH.sub(r"\1/", text) if " / " in text else text


def _joined(match: re.Match) -> str:
    return match[0].replace(" ", "")


def _contract(match: re.Match) -> str:
    suffix = match[1]
    return "'" + (suffix if suffix.isupper() else suffix.lower())


def _attach_double(text: str) -> str:
    """Pairs the quotation marks that stand alone, in order; an odd one stays as it is."""
    marks = [match.start() for match in _ALONE_DOUBLE.finditer(text)]
    pairs = list(zip(marks[::2], marks[1::2], strict=False))
    return _without(text, {at for start, end in pairs for at in (start + 1, end - 1)})


def _attach_single(text: str) -> str:
    """Attaches the apostrophes that stand alone: after a plural, or around a quotation.

    A mark after a plural is taken for a possessive if the marks could not be paired otherwise.
    """
    marks = [match.start() for match in _ALONE_SINGLE.finditer(text)]
    spaces = set()  # the places of the spaces to be removed
    quoting = False
    for remaining, at in zip(range(len(marks), 0, -1), marks, strict=True):
        word = text[text.rfind(" ", 0, max(0, at - 1)) + 1 : max(0, at - 1)]
        plural = word[-3:-1].isalpha() and word[-1:] == "s" and word.lower() not in _NOT_PLURAL
        if quoting:
            spaces.add(at - 1)
            quoting = plural and remaining % 2 == 0
        elif plural and remaining % 2 == 1:
            spaces.add(at - 1)
        elif remaining > 1:
            spaces.add(at + 1)
            quoting = True
        elif at in (0, len(text) - 1):
            spaces.add(at + 1 if at == 0 else at - 1)
    return _without(text, spaces)


def _without(text: str, places: set[int]) -> str:
    return "".join(character for at, character in enumerate(text) if at not in places)
