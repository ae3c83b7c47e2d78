"""Dialogue text to (context, response) rows, on datasets 5 and on datasets 3.6.

The text is in DailyDialog's form: a dialogue a line, ` __eou__` after each utterance. Every
utterance but the first becomes a row, with all the utterances before it as its context.

The folder needs nothing else of the project. On datasets 5, import the class:

    builder = Dialogues(data_dir="path/to/dialogues_text.txt")
    builder.download_and_prepare()
    rows = builder.as_dataset(split="train")        # or as_streaming_dataset(split="train")

On datasets 3.6, load the file, which takes its neighbours along:

    rows = load_dataset("dataset_script/dialogues.py", data_dir="...", trust_remote_code=True)

A text is read line by line. It is first read once to check it, before any row is written, so that
a broken file gives one plain error. Then it is read once for each split that is made from it.
"""

import hashlib
import logging
import os
import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow as pa

from .detokenize import detokenize
from .sources import LABELS, SPLITS, WAY_OUT, Note, TextFile, find_sources, passed_over, read_lines

logger = logging.getLogger(__name__)

URL = "http://yanran.li/files/ijcnlp_dailydialog.zip"
END = "__eou__"
HARMLESS = {"bom", "utf_16", "crlf", "cr", "blank_line"}  # read without loss: not warned of
FIRST_LINES = 5  # line numbers kept for each kind of problem
BLOCK = 1000  # rows written at a time
MOST_TURNS = 1000  # of a dialogue, whose rows hold as many contexts, each longer than the last
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
C1 = re.compile("[\x80-\x84\x86-\x9f]")  # what curly quotes of cp1252 become in Latin-1
_CONTROL_SPACE = re.compile("[\t-\r\x1c-\x1f\x85]")  # between words: a space, not nothing
_NOT_ALNUM = re.compile(r"[\W_]+")  # exactly the characters for which str.isalnum() is false
_MARKS_FROM = "\u0300"  # the first character that combines with others

FILES = ("dialogues.py", "detokenize.py", "sources.py")
# The cache is renewed when the code changes.
CODE = hashlib.sha256(
    b"".join(Path(__file__).with_name(name).read_bytes() for name in FILES)
).digest()

# ---------------------------------------------------------------------------------- dialogues
# Every format has a reader that yields each Dialogue; `scan` and `make_rows` do the rest.


class Pair(NamedTuple):
    """A context, the utterance that answers it, and its labels."""

    context: list[str]
    response: str
    labels: dict[str, int | None]


class Dialogue(NamedTuple):
    """What is said in a dialogue, and its pairs in their order."""

    dialogue_id: str
    utterances: list[str]
    pairs: list[Pair]


def make_dialogue(
    dialogue_id: str, utterances: list[str], labels: dict[str, list[int] | None]
) -> Dialogue:
    """Make a pair of every utterance but the first and all that was said before it.

    Labels have a class for each utterance, or None where they are not usable.
    """
    if len(utterances) > MOST_TURNS:
        raise ValueError(
            f"Dialogue {dialogue_id} has {len(utterances):,} utterances, but at most "
            f"{MOST_TURNS:,} can be one dialogue. Cut it into several."
        )
    usable = {label: classes for label, classes in labels.items() if classes}
    pairs = [
        Pair(utterances[:turn], utterances[turn], {k: usable[k][turn] for k in usable})
        for turn in range(1, len(utterances))
    ]
    return Dialogue(dialogue_id, utterances, pairs)


def without_control_characters(text: str) -> str:
    """The text without control characters; those that part words become spaces."""
    return CONTROL.sub("", _CONTROL_SPACE.sub(" ", text))


def without_empty(parts: list[str], number: int, note: Note) -> list[str]:
    """The utterances among the parts of a whole dialogue, which is line `number`."""
    utterances = [part for part in parts if part]
    if len(utterances) < len(parts):
        note("empty_utterance", number)
    if len(utterances) < 2:
        note("under_two_utterances", number)
    return utterances


def normalised(text: str) -> str:
    """Casefold a text and leave letters, digits and the marks that combine with them (का, को).

    Where there is no letter or digit, its symbols are left: an emoji says something, too.
    """
    text = text.casefold()
    if text.isascii() or max(text) < _MARKS_FROM:
        kept = _NOT_ALNUM.sub("", text)
    else:
        kept = "".join(filter(_is_kept, unicodedata.normalize("NFC", text)))
        kept = kept if any(map(str.isalnum, kept)) else ""
    return kept or "".join(c for c in text if unicodedata.category(c)[0] == "S")


@lru_cache(1 << 12)
def _is_kept(character: str) -> bool:
    """Whether it is a letter, a digit or a combining mark, except those that choose a picture."""
    is_mark = unicodedata.category(character)[0] == "M" and not "\ufe00" <= character <= "\ufe0f"
    return character.isalnum() or is_mark


def split_of(utterances: list[str]) -> str:
    """The split that a dialogue's words decide, 80/10/10.

    It stays when lines are added to the file, and dialogues that are equal `normalised`, whatever
    their case, spacing and punctuation, always fall into one split.
    """
    words = "\n".join(map(normalised, utterances))
    percent = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") % 100
    return "train" if percent < 80 else "validation" if percent < 90 else "test"


def scan(
    reader: Callable[[Note], Iterable[Dialogue]], split: str | None, pairs: Counter
) -> dict[str, Any]:
    """Count what a source holds and what is odd in it; add its pairs to `pairs`, by split.

    The reader calls its argument for each problem. Without `split`, dialogues go where their hash
    says.
    """
    total = {"dialogues": 0, "utterances": 0, "pairs": 0}
    problems: dict[str, dict[str, Any]] = {}

    def note(kind: str, line: int) -> None:
        problem = problems.setdefault(kind, {"count": 0, "first_lines": []})
        problem["count"] += 1
        if len(problem["first_lines"]) < FIRST_LINES:
            problem["first_lines"].append(line)

    for dialogue in reader(note):
        total["dialogues"] += 1
        total["utterances"] += len(dialogue.utterances)
        total["pairs"] += len(dialogue.pairs)
        pairs[split or split_of(dialogue.utterances)] += len(dialogue.pairs)
    return {**total, **problems}


def make_rows(
    dialogues: Iterable[Dialogue], split: str, is_official: bool, natural: bool
) -> Iterator[dict[str, Any]]:
    """The rows of a split: of all dialogues if it `is_official`, else of those whose hash says so.

    `natural` text is written by `detokenize`.
    """
    # An utterance comes again in every context after it.
    written = lru_cache(1 << 14)(detokenize) if natural else str
    for dialogue in dialogues:
        if not is_official and split_of(dialogue.utterances) != split:
            continue
        for turn, (context, response, labels) in enumerate(dialogue.pairs, 1):
            yield {
                "dialogue_id": dialogue.dialogue_id,
                "turn": turn,
                "context": [written(text) for text in context],
                "response": written(response),
                **dict.fromkeys(LABELS),
                **labels,
            }


# ------------------------------------------------------------------------------ reading text


def read(source: TextFile, note: Note = lambda kind, line: None) -> Iterator[Dialogue]:
    """The dialogues of a text, one in memory at a time; `note` is called for each problem."""
    label_lines = {label: read_lines(place, note) for label, place in source.labels.items()}
    for number, text in read_lines(source.text, note):
        label_rows = {label: next(rows, (0, ""))[1] for label, rows in label_lines.items()}
        if CONTROL.search(text):
            note("c1_character" if C1.search(text) else "control_character", number)
            text = without_control_characters(text)
        if not text.strip():
            note("blank_line", number)
            continue
        *parts, tail = (part.strip() for part in text.split(END))
        if tail:
            note("missing_last_eou", number)
            parts.append(tail)
        utterances = without_empty(parts, number, note)
        labels = {}
        for label, row in label_rows.items():
            labels[label], problem = _label_row(label, row, parts, len(utterances))
            if problem:
                note(f"{label}_row_{problem}", number)
        yield make_dialogue(f"{source.stem}:{number}", utterances, labels)
    for label, rows in label_lines.items():
        for number, row in rows:
            if row.strip():
                note(f"{label}_row_extra", number)


def _label_row(
    label: str, row: str, parts: list[str], utterances: int
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


def scan_text(source: TextFile, pairs: Counter) -> dict[str, Any]:
    """`scan` a text; refuse one that is empty or has no ` __eou__`."""
    counts = scan(partial(read, source), source.split, pairs)
    place = " > ".join(source.text)
    if not counts["dialogues"]:
        raise ValueError(f"{place} is empty from line 1 on, but dialogues are needed. {WAY_OUT}")
    wrong = counts.get("c1_character", {"count": 0})["count"]
    if wrong > 2 and 100 * wrong > counts["dialogues"]:
        raise ValueError(
            f"{place} has C1 control characters in {wrong} lines, the first of them line "
            f"{counts['c1_character']['first_lines'][0]}: it was converted from a wrong encoding. "
            "Convert the original again, from cp1252 rather than latin1."
        )
    unmarked = counts.get("missing_last_eou", {"count": 0})["count"]
    if unmarked == counts["utterances"] and "empty_utterance" not in counts:
        raise ValueError(
            f"{place} has no {END!r} from line 1 to its end, but each utterance has to be followed "
            f"by one. Write a dialogue a line: Hello . {END} Hi , Ann . {END}"
        )
    return counts


# ---------------------------------------------------------------------------------- builder


@dataclass
class DialoguesConfig(datasets.BuilderConfig):
    """`detokenize`: whether to write natural text, or the utterances as they stand."""

    detokenize: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.detokenize, bool):
            raise ValueError(
                f"detokenize={self.detokenize!r} is not a bool. Pass True for natural text, or "
                "False for the utterances as they stand."
            )

    def sources(self) -> list[TextFile]:
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

        `datasets` itself sees only the path in `data_dir`, and version 5 does not see the code: it
        would return the rows that a file had before it was edited.
        """
        state = hashlib.sha256(CODE)
        places = [place for s in self.sources() for place in (s.text, *s.labels.values())]
        for path in sorted({os.path.realpath(place[0]) for place in places}):
            stat = os.stat(path)
            state.update(f"{path!r} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        config_id = super().create_config_id(config_kwargs, custom_features)
        return f"{config_id}-{state.hexdigest()[:16]}"


FEATURES = datasets.Features(
    dialogue_id=datasets.Value("string"),
    turn=datasets.Value("int32"),
    context=datasets.Sequence(datasets.Value("string")),
    response=datasets.Value("string"),
    **{label: datasets.ClassLabel(names=names) for label, (names, _) in LABELS.items()},
)


class Dialogues(datasets.ArrowBasedBuilder):
    """Rows (context, response) from dialogue text: see the module's docstring and README.md."""

    BUILDER_CONFIG_CLASS = DialoguesConfig

    def _info(self) -> datasets.DatasetInfo:
        description = "Context and response pairs from dialogues, one for each reply."
        return datasets.DatasetInfo(description=description, features=FEATURES)

    def _sources(self, dl_manager: datasets.DownloadManager | None = None) -> list[TextFile]:
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
        """Checks every file before a row is written, because `datasets` wraps later errors."""
        sources = self._sources(dl_manager)
        pairs: Counter = Counter()
        for source in sources:
            _log(source, scan_text(source, pairs))
        others = passed_over(os.path.expanduser(self.config.data_dir or ""), sources)
        if others:
            logger.warning("Not read, though it lies beside the text: %s", ", ".join(others))
        by_split: dict[str, list[TextFile]] = {}
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

    def _generate_tables(
        self, sources: list[TextFile], split: str
    ) -> Iterator[tuple[str, pa.Table]]:
        """Yields the rows in blocks: to encode each by itself would double the time."""
        schema = self.info.features.arrow_schema
        for source in sources:
            is_official = source.split is not None
            rows = make_rows(read(source), split, is_official, self.config.detokenize)
            number = 0
            while block := list(islice(rows, BLOCK)):
                yield f"{source.name} {number}", pa.Table.from_pylist(block, schema)
                number += 1

    def problems(self) -> dict[str, dict[str, Any]]:
        """What each source file holds and what is odd in it, also when the rows are cached.

        Returns:
            For each file name `{"dialogues": int, "utterances": int, "pairs": int}` and, for each
            kind of problem met, `{kind: {"count": int, "first_lines": [int, ...]}}`: the number
            of lines that have it, and the first of them. README.md lists the kinds.
        """
        return {source.name: scan_text(source, Counter()) for source in self._sources()}


def _log(source: TextFile, counts: dict[str, Any]) -> None:
    problems = {kind: problem for kind, problem in counts.items() if isinstance(problem, dict)}
    listed = "; ".join(
        f"{kind} x {problem['count']} (lines {', '.join(map(str, problem['first_lines']))}"
        f"{', ...' if problem['count'] > FIRST_LINES else ''})"
        for kind, problem in problems.items()
    )
    logger.log(
        logging.WARNING if problems.keys() - HARMLESS else logging.INFO,
        "%s: %d dialogues, %d utterances, %d pairs; %s",
        source.name,
        counts["dialogues"],
        counts["utterances"],
        counts["pairs"],
        listed or "nothing odd",
    )
