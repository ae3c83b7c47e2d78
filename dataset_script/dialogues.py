"""Dialogue text to (context, response) rows: one file for datasets 5 and for datasets 3.6.

The text is in DailyDialog's form: a dialogue a line, ` __eou__` after each utterance. Every
utterance but the first becomes a row, with all the utterances before it as its context.

Usage on datasets 5, where loading scripts are classes that one imports:

    builder = Dialogues(data_dir="path/to/dialogues_text.txt")
    builder.download_and_prepare()
    rows = builder.as_dataset(split="train")        # or as_streaming_dataset(split="train")

and on datasets 3.6:

    rows = load_dataset("dataset_script/dialogues.py", data_dir="...", trust_remote_code=True)

A file is read a line at a time, never as a whole: once to check it, before any row is written,
so that a broken file gives one plain error; then once for each split that is made from it.
"""

import codecs
import hashlib
import logging
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import datasets

logger = logging.getLogger(__name__)

URL = "http://yanran.li/files/ijcnlp_dailydialog.zip"
END = "__eou__"
SPLITS = ("train", "validation", "test")
# Label name -> (class names, the number that the first of them has in the label files).
LABELS = {
    "emotion": (
        ["no emotion", "anger", "disgust", "fear", "happiness", "sadness", "surprise"],
        0,
    ),
    "act": (["inform", "question", "directive", "commissive"], 1),
    "topic": (
        [
            *("Ordinary Life", "School Life", "Culture & Education", "Attitude & Emotion"),
            *("Relationship", "Tourism", "Health", "Work", "Politics", "Finance"),
        ],
        1,
    ),
}
HARMLESS = {"bom", "crlf", "blank_line"}  # read without loss: logged, but not as a warning
FIRST_LINES = 5  # line numbers kept for each kind of problem
MAX_LINE = 1 << 20  # bytes; keeps memory flat on a file without line ends
WAY_OUT = (
    "Give data_dir= a text file (a dialogue a line, ' __eou__' after each utterance), a folder "
    "with dialogues_text.txt or with train/, validation/ and test/, or DailyDialog's zip."
)
_CONTROL_SPACE = re.compile("[\t\v\f\r\x1c-\x1f\x85]")  # between words: a space, not nothing
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_NOT_ALNUM = re.compile(r"[\W_]+")  # exactly the characters for which str.isalnum() is false

with open(__file__, "rb") as _script:
    CODE = hashlib.sha256(_script.read()).digest()

# ------------------------------------------------------------------------------ natural text

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
_ADDRESS = re.compile(
    r"www\.|@|://|\.(?:com|org|net|edu|gov|info|cn|uk|de|jp|tw|io)\b", re.IGNORECASE
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
    text is Chinese, Japanese or Korean). Text that is natural already stays as it is, and a second
    pass changes nothing.

    Knowingly not resolved, because the tokens do not tell: sentences glued before a small letter
    (`sorry.sir` looks like `yahoo.com`) or after one letter (`I.The`, `A.Smith`); ` - `, a dash or
    a hyphen, except after numbers (`30 - day`) and in `bye - bye`; `7 , 500`, one number or two;
    quotation marks without a partner; two plural possessives in one utterance (taken for quotation
    marks); spaced addresses (`www . foo . com`); typing errors. Written for English: French
    puts a space before `?`, so load it with `detokenize=False`.
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
    """Pairs the quotation marks that stand alone, in order; one left over stays as it is."""
    found = len(_ALONE_DOUBLE.findall(text))
    for _ in range(found // 2):
        start = _ALONE_DOUBLE.search(text).start()
        end = _ALONE_DOUBLE.search(text, start + 1).start()
        text = f'{text[: start + 1]}{text[start + 2 : end - 1]}"{text[end + 1 :]}'
    return text


def _attach_single(text: str) -> str:
    """Tells apart the apostrophes that stand alone: after a plural, or around a quotation.

    A mark after a plural is a possessive when the marks would not pair up without that.
    """
    marks = [match.start() for match in _ALONE_SINGLE.finditer(text)]
    spaces = set()  # the places of the spaces to be removed
    quoting = False
    for left, at in zip(range(len(marks), 0, -1), marks, strict=True):
        word = text[:at].rpartition(" ")[0].rpartition(" ")[2]
        plural = word[-3:-1].isalpha() and word[-1:] == "s" and word.lower() not in _NOT_PLURAL
        if quoting:
            spaces.add(at - 1)
            quoting = plural and left % 2 == 0
        elif plural and left % 2 == 1:
            spaces.add(at - 1)
        elif left > 1:
            spaces.add(at + 1)
            quoting = True
        elif at in (0, len(text) - 1):
            spaces.add(at + 1 if at == 0 else at - 1)
    return "".join(character for at, character in enumerate(text) if at not in spaces)


# ---------------------------------------------------------------------------------- sources


class Source(NamedTuple):
    """A text file and its label files. A place is a path, then members to open in zips."""

    name: str  # as `problems()` calls it, such as "train/dialogues_train.txt"
    stem: str  # what its dialogue ids begin with
    text: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]
    split: str | None  # None: every dialogue goes where its hash says


def find_sources(path: str) -> list[Source]:
    """The text files in a folder or a zip, or the one that `path` itself is.

    Official splits win over a whole text, and unpacked files over zips that lie beside them.

    Raises:
        FileNotFoundError: nothing is at `path`, or no text is in what is there.
        ValueError: it is not clear which text is meant, or a split lacks its text.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path!r} does not exist. {WAY_OUT}")
    if not os.path.isdir(path) and not zipfile.is_zipfile(path):
        folder, name = os.path.split(path)
        return [_source(name, _folder(folder or ".") | {name: (path,)}, None)]
    members = _members(path)
    texts = {split: _named(f"dialogues_{split}.txt", members, path) for split in SPLITS}
    if any(texts.values()):
        folders = {part for name in members for part in PurePosixPath(name).parts[:-1]}
        for split, text in texts.items():
            if not text and folders & {split, f"{split}.zip"}:
                raise ValueError(
                    f"{path!r} has a part {split!r} without dialogues_{split}.txt, but each part "
                    "needs its text. Restore that file, or remove the part."
                )
        return [_source(text, members, split) for split, text in texts.items() if text]
    text = _named("dialogues_text.txt", members, path)
    if not text:
        names = sorted(name for name in members if name.endswith(".txt"))
        if len(names) != 1:
            raise FileNotFoundError(
                f"{path!r} has no dialogues_text.txt, no dialogues_train.txt, and not just one "
                f"text file (there are: {', '.join(names[:5]) or 'none'}). {WAY_OUT}"
            )
        text = names[0]
    return [_source(text, members, None)]


def _folder(path: str, prefix: str = "") -> dict[str, tuple[str, ...]]:
    return {prefix + name: (os.path.join(path, name),) for name in os.listdir(path)}


def _members(path: str) -> dict[str, tuple[str, ...]]:
    """Name -> place of all that may be a source in a folder (no deeper than its splits) or zip."""
    if os.path.isdir(path):
        found = _folder(path)
        for split in SPLITS:
            if os.path.isdir(os.path.join(path, split)):
                found |= _folder(os.path.join(path, split), f"{split}/")
    else:
        found = {name: (path, name) for name in _zip_names((path,))}
    for name, place in list(found.items()):
        if PurePosixPath(name).name in {f"{split}.zip" for split in SPLITS}:
            found |= {f"{name}/{inner}": (*place, inner) for inner in _zip_names(place)}
    return found


def _zip_names(place: tuple[str, ...]) -> list[str]:
    with ExitStack() as stack, _unpacking(place):
        names = stack.enter_context(zipfile.ZipFile(_open(place, stack))).namelist()
    junk = ("__MACOSX", ".")  # what macOS adds to the zips that it makes
    return [n for n in names if not any(p.startswith(junk) for p in PurePosixPath(n).parts)]


def _named(name: str, members: dict[str, tuple[str, ...]], path: str) -> str | None:
    """The member with that file name, the least packed one if there are several."""
    found = [member for member in members if PurePosixPath(member).name == name]
    depth = min((len(members[member]) for member in found), default=0)
    found = [member for member in found if len(members[member]) == depth]
    if len(found) > 1:
        raise ValueError(
            f"{path!r} has {len(found)} files {name} ({', '.join(found)}), but only one can be "
            "meant. Give the folder or the file that you mean as data_dir=."
        )
    return found[0] if found else None


def _source(name: str, members: dict[str, tuple[str, ...]], split: str | None) -> Source:
    """With the label files beside the text: dialogues_act.txt, dialogues_act_train.txt, ..."""
    path = PurePosixPath(name)
    labels = {}
    for label in LABELS:
        known_as = re.sub("^dialogues_", f"dialogues_{label}_", path.name)
        beside = str(path.with_name(known_as.replace("_text.txt", ".txt")))
        if beside != name and beside in members:
            labels[label] = members[beside]
    return Source(name, path.stem, members[name], labels, split)


def _open(place: tuple[str, ...], stack: ExitStack) -> BinaryIO:
    stream = stack.enter_context(open(place[0], "rb"))  # noqa: SIM115, the stack closes it
    for member in place[1:]:
        archive = stack.enter_context(zipfile.ZipFile(stream))
        stream = stack.enter_context(archive.open(member))
    return stream


@contextmanager
def _unpacking(place: tuple[str, ...]) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"{' > '.join(place)} cannot be unpacked ({error}), but a zip has to be whole and "
            "without password. Fetch it again, or unpack it and give the folder as data_dir=."
        ) from error


# ---------------------------------------------------------------------------------- reading

Note = Callable[[str, int], None]  # called with a kind of problem and the number of the line


class Dialogue(NamedTuple):
    """A line of the text, read."""

    line: int
    utterances: list[str]
    labels: dict[str, list[int] | None]  # one for each utterance; None where not usable


def _lines(place: tuple[str, ...], note: Note) -> Iterator[tuple[int, bytes]]:
    """Numbered lines, cut at LF alone: `str.splitlines` also cuts at form feeds and the like."""
    with ExitStack() as stack, _unpacking(place):
        stream = _open(place, stack)
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE + 1), b""), 1):
            if len(line) > MAX_LINE:
                raise ValueError(
                    f"{' > '.join(place)}, line {number} is longer than {MAX_LINE} bytes, but a "
                    "line holds one dialogue. End each dialogue with a line feed."
                )
            if number == 1 and line.startswith(codecs.BOM_UTF8):
                note("bom", number)
                line = line.removeprefix(codecs.BOM_UTF8)
            yield number, line


def read(source: Source, note: Note = lambda kind, line: None) -> Iterator[Dialogue]:
    """The dialogues of a file, one in memory at a time; what is odd in it goes to `note`."""
    label_lines = {label: _lines(place, note) for label, place in source.labels.items()}
    for number, line in _lines(source.text, note):
        label_rows = {label: next(rows, (0, b""))[1] for label, rows in label_lines.items()}
        try:
            text = line.decode("utf-8").removesuffix("\n")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{' > '.join(source.text)}, line {number}: byte 0x{line[error.start]:02x} is not "
                "UTF-8, but the text has to be. Convert it: iconv -f latin1 -t utf-8 old > new."
            ) from error
        if text.endswith("\r"):
            note("crlf", number)
            text = text.removesuffix("\r")
        if _CONTROL.search(text):
            note("control_character", number)
            text = _CONTROL.sub("", _CONTROL_SPACE.sub(" ", text))
        if not text.strip():
            note("blank_line", number)
            continue
        *parts, tail = (part.strip() for part in text.split(END))
        if tail:
            note("missing_last_eou", number)
            parts.append(tail)
        utterances = [part for part in parts if part]
        if len(utterances) < len(parts):
            note("empty_utterance", number)
        if len(utterances) < 2:
            note("under_two_utterances", number)
        labels = {}
        for label, row in label_rows.items():
            labels[label], problem = _label_row(label, row, parts, len(utterances))
            if problem:
                note(f"{label}_row_{problem}", number)
        yield Dialogue(number, utterances, labels)
    for label, rows in label_lines.items():
        for number, row in rows:
            if row.strip():
                note(f"{label}_row_extra", number)


def _label_row(
    label: str, row: bytes, parts: list[str], utterances: int
) -> tuple[list[int] | None, str | None]:
    """One class for each utterance, or None and what is wrong with the row."""
    names, first = LABELS[label]
    try:
        classes = [int(number) - first for number in row.split()]
    except ValueError:
        return None, "invalid"
    if not classes:
        return None, "missing"
    if not all(0 <= value < len(names) for value in classes):
        return None, "invalid"
    if label == "topic":
        return (classes * utterances, None) if len(classes) == 1 else (None, "mismatch")
    if len(classes) == len(parts):  # the row counts empty utterances too
        return [value for value, part in zip(classes, parts, strict=True) if part], None
    return (classes, None) if len(classes) == utterances else (None, "mismatch")


def split_of(utterances: list[str]) -> str:
    """The split that a dialogue's words decide, 80/10/10.

    It stays when lines are added to the file, and equal dialogues always meet in one split,
    however they are cased, spaced and punctuated.
    """
    words = "\n".join(_NOT_ALNUM.sub("", utterance.casefold()) for utterance in utterances)
    percent = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") % 100
    return "train" if percent < 80 else "validation" if percent < 90 else "test"


def scan(source: Source, pairs: Counter) -> dict[str, Any]:
    """Counts what a file holds and what is odd in it; adds its pairs to `pairs`, by split.

    Raises:
        ValueError: the file is empty, has no ` __eou__`, is not UTF-8 or cannot be unpacked.
    """
    total = {"dialogues": 0, "utterances": 0, "pairs": 0}
    kinds: dict[str, dict[str, Any]] = {}

    def note(kind: str, line: int) -> None:
        entry = kinds.setdefault(kind, {"count": 0, "first_lines": []})
        entry["count"] += 1
        if len(entry["first_lines"]) < FIRST_LINES:
            entry["first_lines"].append(line)

    for dialogue in read(source, note):
        size = len(dialogue.utterances)
        total["dialogues"] += 1
        total["utterances"] += size
        total["pairs"] += max(size - 1, 0)
        pairs[source.split or split_of(dialogue.utterances)] += max(size - 1, 0)
    place = " > ".join(source.text)
    if not total["dialogues"]:
        raise ValueError(f"{place} is empty from line 1 on, but dialogues are needed. {WAY_OUT}")
    unmarked = kinds.get("missing_last_eou", {"count": 0})["count"]
    if unmarked == total["utterances"] and "empty_utterance" not in kinds:
        raise ValueError(
            f"{place} has no {END!r} from line 1 to its end, but each utterance has to be followed "
            f"by one. Write a dialogue a line: Hello . {END} Hi , Ann . {END}"
        )
    return {**total, **kinds}


# ---------------------------------------------------------------------------------- builder


@dataclass
class DialoguesConfig(datasets.BuilderConfig):
    """`detokenize`: natural text (see `detokenize`), or else the utterances as they stand."""

    detokenize: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.detokenize, bool):
            raise ValueError(
                f"detokenize={self.detokenize!r} is not a bool. Pass True for natural text, or "
                "False for the utterances as they stand."
            )

    def sources(self) -> list[Source]:
        """What `data_dir` or `data_files` name; nothing if neither is given."""
        if self.data_dir is not None and self.data_files is not None:
            raise ValueError(
                f"data_dir={str(self.data_dir)!r} came with data_files=, but there is one source. "
                "Give data_dir= to have splits made or found, data_files= to name them yourself."
            )
        if self.data_dir is not None:
            return find_sources(os.path.expanduser(self.data_dir))
        named = [(str(s), path) for s, paths in (self.data_files or {}).items() for path in paths]
        times = Counter(os.path.basename(path) for _, path in named)
        sources = []
        for split, path in named:
            source, *others = find_sources(path)
            if others or source.split:
                raise ValueError(
                    f"data_files: {path!r} has splits of its own, but here it is to be {split!r}. "
                    "Give it as data_dir=."
                )
            if times[os.path.basename(path)] > 1:
                source = source._replace(name=path, stem=os.path.splitext(path)[0])
            sources.append(source._replace(split=split))
        return sources

    def create_config_id(
        self, config_kwargs: dict, custom_features: datasets.Features | None = None
    ) -> str:
        """Names the cache after the code and the state of every file that is read.

        `datasets` itself looks at the path in `data_dir` and no further, and on line 5 not at the
        code: it would serve the rows of a file that has been edited since.
        """
        state = hashlib.sha256(CODE)
        places = [place for s in self.sources() for place in (s.text, *s.labels.values())]
        for path in sorted({os.path.realpath(place[0]) for place in places}):
            stat = os.stat(path)
            state.update(f"{path!r} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        config_id = super().create_config_id(config_kwargs, custom_features)
        return f"{config_id}-{state.hexdigest()[:16]}"


class Dialogues(datasets.GeneratorBasedBuilder):
    """Rows (context, response) from dialogue text: see the module's docstring and README.md."""

    BUILDER_CONFIG_CLASS = DialoguesConfig

    def _info(self) -> datasets.DatasetInfo:
        text = datasets.Value("string")
        labels = {label: datasets.ClassLabel(names=names) for label, (names, _) in LABELS.items()}
        return datasets.DatasetInfo(
            description="Context and response pairs from dialogues, one for each reply.",
            features=datasets.Features(
                dialogue_id=text,
                turn=datasets.Value("int32"),
                context=datasets.Sequence(text),
                response=text,
                **labels,
            ),
        )

    def _sources(self, dl_manager: datasets.DownloadManager | None = None) -> list[Source]:
        sources = self.config.sources()
        if sources:
            return sources
        if dl_manager is None or dl_manager.is_streaming:  # the zip is small: stream from a copy
            to = datasets.DownloadConfig(cache_dir=self._cache_downloaded_dir, use_etag=False)
            dl_manager = datasets.DownloadManager(download_config=to)
        try:
            path = dl_manager.download(URL)
            if not zipfile.is_zipfile(path):
                raise ValueError("what came is not a zip")
            return find_sources(path)
        except Exception as error:  # no network, a moved page, a proxy's answer: one way out
            raise ConnectionError(
                f"DailyDialog could not be had from {URL} ({type(error).__name__}: {error}), and "
                f"no other source is given. {WAY_OUT}"
            ) from error

    def _split_generators(
        self, dl_manager: datasets.DownloadManager
    ) -> list[datasets.SplitGenerator]:
        """Checks every file before a row is written: errors raised later come out wrapped."""
        sources = self._sources(dl_manager)
        pairs: Counter = Counter()
        for source in sources:
            _log(source, scan(source, pairs))
        by_split: dict[str, list[Source]] = {}
        for source in sources:
            for split in [source.split] if source.split else SPLITS:
                by_split.setdefault(split, []).append(source)
        if not any(pairs.values()):
            raise ValueError(
                f"{', '.join(source.name for source in sources)}: no dialogue has two utterances, "
                "so that there is no response to learn. Put all turns of a dialogue on one line."
            )
        for split in [split for split in by_split if not pairs[split]]:
            del by_split[split]  # `as_dataset` fails on a split without rows
            logger.warning(
                "There is no %s split, for no row falls into it. Add dialogues (a few are too few "
                "to be split by their hash), or name the files of each split with data_files=.",
                split,
            )
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"sources": files, "split": split})
            for split, files in by_split.items()
        ]

    def _generate_examples(
        self, sources: list[Source], split: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        written = detokenize if self.config.detokenize else str
        for source in sources:
            for line, utterances, labels in read(source):
                if (source.split or split_of(utterances)) != split:
                    continue
                utterances = [written(utterance) for utterance in utterances]
                labels = {label: labels.get(label) or [None] * len(utterances) for label in LABELS}
                for turn in range(1, len(utterances)):
                    row = {
                        "dialogue_id": f"{source.stem}:{line}",
                        "turn": turn,
                        "context": utterances[:turn],
                        "response": utterances[turn],
                    }
                    row |= {label: classes[turn] for label, classes in labels.items()}
                    yield f"{source.name}:{line}:{turn}", row

    def problems(self) -> dict[str, dict[str, Any]]:
        """What each source file holds and what is odd in it, also when the rows are cached.

        Returns:
            For each file name `{"dialogues": int, "utterances": int, "pairs": int}` and, for each
            kind of problem met, `{kind: {"count": int, "first_lines": [int, ...]}}`: the number
            of lines that have it, and the first of them. README.md lists the kinds.
        """
        return {source.name: scan(source, Counter()) for source in self._sources()}


def _log(source: Source, found: dict[str, Any]) -> None:
    kinds = {kind: entry for kind, entry in found.items() if isinstance(entry, dict)}
    odd = "; ".join(
        f"{kind} x {entry['count']} (lines {', '.join(map(str, entry['first_lines']))}"
        f"{', ...' if entry['count'] > FIRST_LINES else ''})"
        for kind, entry in kinds.items()
    )
    logger.log(
        logging.WARNING if kinds.keys() - HARMLESS else logging.INFO,
        "%s: %d dialogues, %d utterances, %d pairs; %s",
        source.name,
        found["dialogues"],
        found["utterances"],
        found["pairs"],
        odd or "nothing odd",
    )
