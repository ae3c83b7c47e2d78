"""What stands in more than one split, and what remains of the data without it.

A test set that partly stands in train rewards a model for its memory. Here copies are found within
and between splits, of dialogues and of (context, response) pairs, and dialogues of which one
training dialogue holds half or more. Texts are compared by 64-bit hashes: among a hundred million
utterances, the probability that two different ones are taken for equal is 1 in 3,700.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict
from rich.console import Console
from rich.table import Table
from xxhash import xxh3_64_intdigest

from ..errors import UsageError
from ..evaluation.text import normalised
from ..run_folder import check_writable, write_json
from ..settings import DataArguments
from .rows import load_rows

SPLITS = ("train", "validation", "test")
KINDS = ("exact", "normalised")  # ways in which dialogues are equal
CONTEXTS = {"one_turn": 1, "three_turns": 3, "full_context": None}  # name -> turns compared
WORDS = 4  # shorter utterances, said everywhere, do not tell that two dialogues are related
MOST = 1000  # training dialogues that one of another split is compared with
BLOCK = 1 << 22  # utterances looked up at a time
ROWS = 10_000  # read at a time
PART = 200_000  # rows of which pages of the data files may be in memory at a time
WARN = 0.01  # share of the test pairs that may stand in train without a word
DEFINITIONS = {
    "normalised": "Casefolded, and of that only letters and digits (str.isalnum), utterance by "
    "utterance.",
    "copies": "Dialogues that equal an earlier one of the same split: exact, as the text stands, "
    "or normalised.",
    "dialogues_in": "Dialogues that stand, whole, in another split: exact or normalised.",
    "pairs_in_train": "Rows whose response and context, normalised, are those of a training row: "
    "of the context the last turn, the last three, or all. A context of fewer turns than three "
    "equals only one of as many.",
    "overlapping": "Dialogues of which a single training dialogue holds at least half: of the "
    f"different normalised utterances among those of {WORDS} or more white-space words, as the "
    f"text stands. Each is compared with at most {MOST:,} training dialogues, those that hold its "
    "rarest utterances first.",
    "clean": "Rows whose dialogue neither stands in train, normalised, nor overlaps with it, and "
    "whose pair with one turn of context does not stand in train.",
    "train_without_copies": "Training dialogues that neither equal an earlier one nor stand in "
    "validation or test, normalised.",
    "train_without_overlap": "Those of them that also hold less than half of every dialogue of "
    "validation and test, as in overlapping.",
}
_UTTERANCE = np.dtype([("exact", "u8"), ("normalised", "u8"), ("counted", "?")])


class _Split(NamedTuple):
    """Hashes of a split. Utterances are those of all its dialogues, one dialogue after another."""

    places: np.ndarray  # (rows,) where each response stands among the utterances
    sizes: np.ndarray  # (dialogues,) rows of each
    spoken: np.ndarray  # (dialogues,) utterances of each: its first context and its responses
    positions: np.ndarray  # (utterances,) each one's in its dialogue, from 0 on
    utterances: np.ndarray  # (utterances,) normalised
    counted: np.ndarray  # (utterances,) bool, those that count for overlap
    prefixes: np.ndarray  # (utterances,) a dialogue, normalised, up to and with each
    normalised: np.ndarray  # (dialogues,)
    exact: np.ndarray  # (dialogues,)


def _hash(texts: list[str]) -> np.ndarray:
    """Hash utterances to an array of `_UTTERANCE`."""

    def hashes(text: str) -> tuple[int, int, bool]:
        plain = normalised(text)
        counted = plain != "" and len(text.split(None, WORDS - 1)) == WORDS
        return xxh3_64_intdigest(text.encode()), xxh3_64_intdigest(plain.encode()), counted

    return np.fromiter(map(hashes, texts), _UTTERANCE, len(texts))  # (texts,)


def _chain(before: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Hash sequences, given the hashes of all before their last members and of those.

    A step of SplitMix64 (Steele et al., 2014), the last member added.
    """
    z = before * np.uint64(0x9E3779B97F4A7C15) + following
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _prefixes(utterances: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Hash the dialogue up to each utterance: all first ones, then all second ones, ..."""
    keys = _chain(np.zeros_like(utterances), utterances)  # right for the first of a dialogue
    order = np.argsort(positions, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(positions[order])) + 1)[1:]:
        keys[places] = _chain(keys[places - 1], utterances[places])
    return keys  # (utterances,)


def _pairs(split: _Split, turns: int | None) -> np.ndarray:
    """Hash each row's response with the last `turns` turns of its context, or with all."""
    if turns is None:
        return split.prefixes[split.places]
    keys = np.zeros(len(split.places), np.uint64)  # (rows,)
    for back in range(turns, -1, -1):
        rows = np.flatnonzero(split.positions[split.places] >= back)
        keys[rows] = _chain(keys[rows], split.utterances[split.places[rows] - back])
    return keys


def _tables(rows: Dataset, columns: list[str]) -> Iterator[pa.Table]:
    """Yield some columns, `ROWS` rows at a time."""
    for start in range(0, len(rows), PART):
        part = rows.select(range(start, min(start + PART, len(rows)))).select_columns(columns)
        # A copy maps its file anew, and what was read of it leaves memory together with the copy.
        part = pickle.loads(pickle.dumps(part))
        yield from part.with_format("arrow").iter(ROWS)


def _read(rows: Dataset) -> _Split:
    """Hash every utterance of the dialogues behind `rows` once.

    Raises:
        UsageError: the rows of a dialogue do not follow one another.
    """
    turns, opened, said = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)], [_hash([])]
    for table in _tables(rows, ["turn", "context", "response"]):
        first = pc.equal(table["turn"], 1)
        contexts = table["context"].filter(first)
        opened.append(pc.list_value_length(contexts).to_numpy())
        openings = _hash(pc.list_flatten(contexts).to_pylist())
        responses = _hash(table["response"].to_pylist())
        before = np.repeat(np.flatnonzero(first), opened[-1])
        said.append(np.insert(responses, before, openings))
        turns.append(table["turn"].to_numpy())
    turns = np.concatenate(turns)
    odd = np.flatnonzero((turns != 1) & (turns != 1 + np.append(0, turns)[:-1]))
    if len(odd):
        raise UsageError(
            f"row {odd[0]} has turn {turns[odd[0]]}, but the rows of a dialogue must follow one "
            "another from turn 1 on. Look for overlap before rows are shuffled or filtered."
        )
    exact, utterances, counted = (
        np.concatenate([part[name] for part in said]) for name in _UTTERANCE.names
    )
    del said
    starts = np.flatnonzero(turns == 1)
    opened = np.concatenate(opened)  # (dialogues,)
    sizes = np.diff(starts, append=len(turns))
    spoken = sizes + opened
    places = np.arange(len(turns)) + np.repeat(np.cumsum(opened), sizes)
    ends = np.cumsum(spoken)
    positions = np.arange(len(exact)) - np.repeat(ends - spoken, spoken)
    prefixes = _prefixes(utterances, positions)
    exact = _prefixes(exact, positions)[ends - 1]
    return _Split(
        places, sizes, spoken, positions, utterances, counted, prefixes, prefixes[ends - 1], exact
    )


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Put the numbers from each start on, `counts` of them, one after another."""
    return np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())


def _counted(split: _Split) -> tuple[np.ndarray, np.ndarray]:
    """The dialogue and the hash of each utterance that counts for overlap."""
    dialogues = np.repeat(np.arange(len(split.spoken)), split.spoken)  # (utterances,)
    return dialogues[split.counted], split.utterances[split.counted]


def _overlapping(split: _Split, train: _Split) -> tuple[np.ndarray, np.ndarray]:
    """Find the dialogues of `split` of which one of train holds at least half, and the holders.

    Whoever holds half of a dialogue's utterances holds one of any half and one more. So only those
    training dialogues are compared that hold one of the rarest half and one more, which an inverted
    index tells (prefix filtering; Chaudhuri et al., 2006); and at most `MOST`, those that hold the
    rarest first, for what everybody says would have everybody compared.

    Returns:
        Two bool arrays, (dialogues of split,) and (dialogues of train,).
    """
    overlapping = np.zeros(len(split.sizes), bool)
    holding = np.zeros(len(train.sizes), bool)
    dialogue, texts = _counted(split)
    holder, held_texts = _counted(train)
    numbers = np.unique(texts)  # an utterance's number is its place here
    # The index: utterance * width + training dialogue, sorted.
    width = len(train.sizes)
    shared = np.isin(held_texts, numbers)
    held = np.unique(np.searchsorted(numbers, held_texts[shared]) * width + holder[shared])
    if not len(held):
        return overlapping, holding
    # What each dialogue says, every utterance once, dialogue by dialogue.
    said = np.unique(dialogue * len(numbers) + np.searchsorted(numbers, texts))
    dialogue, utterance = np.divmod(said, len(numbers))  # (said,)
    size = np.bincount(dialogue, minlength=len(split.sizes))  # (dialogues,)
    begin = np.cumsum(size) - size
    first = np.searchsorted(held, utterance * width)  # (said,) its holders' place in the index
    count = np.searchsorted(held, (utterance + 1) * width) - first
    rank = np.arange(len(said)) - begin[dialogue]
    rarest = np.lexsort((count, dialogue))[rank <= size[dialogue] // 2]  # of each dialogue
    first, count, dialogue = first[rarest], count[rarest], dialogue[rarest]
    earlier = np.cumsum(count) - count  # holders of rarer ones, of all dialogues and then of each
    earlier -= np.maximum.accumulate(np.where(np.diff(dialogue, prepend=-1), earlier, 0))
    count = np.clip(MOST - earlier, 0, count)
    order = np.flatnonzero(count)
    work = np.cumsum((count * size[dialogue])[order])
    for block in np.split(order, np.flatnonzero(np.diff(work // BLOCK)) + 1):
        holder = held[_ranges(first[block], count[block])] % width
        pairs = np.unique(np.repeat(dialogue[block], count[block]) * width + holder)
        one, other = np.divmod(pairs, width)  # (pairs,)
        entries = utterance[_ranges(begin[one], size[one])] * width + np.repeat(other, size[one])
        at = np.minimum(np.searchsorted(held, entries), len(held) - 1)
        starts = np.cumsum(size[one]) - size[one]
        common = np.add.reduceat(held[at] == entries, starts, dtype=int)  # (pairs,)
        half = 2 * common >= size[one]
        overlapping[one[half]] = True
        holding[other[half]] = True
    return overlapping, holding


def audit(rows: DatasetDict) -> dict:
    """Count what stands in more than one split; tell what is clean and what to keep.

    Args:
        rows: splits as `load_rows` gives them, any of `SPLITS`, none of them shuffled.

    Returns:
        `splits`: for each split `dialogues`, `pairs` and `copies`; for validation and test also
        `dialogues_in` (by other split), `pairs_in_train` (by context), `overlapping` and
        `clean_pairs`. `train_without_copies` and `train_without_overlap`: `dialogues` and `pairs`.
        `clean`: of validation and test, a bool array (rows,). `keep`: of train, a bool array
        (rows,) of `train_without_overlap`. `DEFINITIONS` says what each counts.

    Raises:
        UsageError: a split of another name, or rows that do not follow one another.
    """
    for name in rows:
        if name not in SPLITS:
            raise UsageError(
                f"a split is called {name!r}; splits that are looked through are "
                f"{', '.join(SPLITS)}. Rename it, or leave it out."
            )
    splits = {name: _read(rows[name]) for name in SPLITS if name in rows}
    train = splits.get("train") or _read(Dataset.from_dict({}))
    counts, held_out = {}, [name for name in splits if name != "train"]
    for name, split in splits.items():
        counts[name] = {
            "dialogues": len(split.sizes),
            "pairs": len(split.places),
            "copies": {
                kind: len(split.sizes) - len(np.unique(getattr(split, kind))) for kind in KINDS
            },
        }
        if name in held_out:
            counts[name]["dialogues_in"] = {
                other: {
                    kind: int(np.isin(getattr(split, kind), getattr(splits[other], kind)).sum())
                    for kind in KINDS
                }
                for other in splits
                if other != name
            }
            counts[name]["pairs_in_train"] = {}
    clean = {name: np.ones(len(splits[name].places), bool) for name in held_out}
    for context, turns in CONTEXTS.items():
        known = _pairs(train, turns)
        for name in held_out:
            seen = np.isin(_pairs(splits[name], turns), known)
            counts[name]["pairs_in_train"][context] = int(seen.sum())
            if turns == 1:
                clean[name] &= ~seen
    keep = np.zeros(len(train.sizes), bool)
    keep[np.unique(train.normalised, return_index=True)[1]] = True  # the first of equal ones
    for name in held_out:
        keep &= ~np.isin(train.normalised, splits[name].normalised)
    without_copies = keep.copy()
    for name in held_out:
        split = splits[name]
        overlapping, holders = _overlapping(split, train)
        keep &= ~holders
        related = overlapping | np.isin(split.normalised, train.normalised)
        clean[name] &= ~np.repeat(related, split.sizes)
        counts[name]["overlapping"] = int(overlapping.sum())
        counts[name]["clean_pairs"] = int(clean[name].sum())
    remaining = {"train_without_copies": without_copies, "train_without_overlap": keep}
    return {
        "splits": counts,
        **{
            name: {"dialogues": int(kept.sum()), "pairs": int(train.sizes[kept].sum())}
            for name, kept in remaining.items()
        },
        "clean": clean,
        "keep": np.repeat(keep, train.sizes),
    }


def without_overlap(rows: DatasetDict, found: dict) -> DatasetDict:
    """Leave out of train what `audit` found to be copies, to stand elsewhere or to overlap.

    Args:
        rows: the splits that were looked through.
        found: what `audit` returned for them.

    Raises:
        UsageError: nothing would be left of train.
        ValueError: `found` is of other rows.
    """
    if "train" not in rows:
        return rows
    train, keep = rows["train"], found["keep"]
    if len(keep) != len(train):
        raise ValueError(
            f"found has {len(keep)} training rows, but there are {len(train)}; pass what audit "
            "returns for these rows."
        )
    if not keep.any():
        raise UsageError(
            "no training pair is left: every dialogue of train stands in validation or test or "
            "overlaps with one there. Train with other dialogues, or keep the overlap."
        )
    return DatasetDict({**rows, "train": train.select(np.flatnonzero(keep))})


def warning(found: dict) -> str | None:
    """Say in a sentence that much of the test split stands in train, if so."""
    test = found["splits"].get("test", {"pairs": 0})
    seen = test["pairs_in_train"]["one_turn"] if test["pairs"] else 0
    if seen <= WARN * test["pairs"]:
        return None
    return (
        f"Warning: {100 * seen / test['pairs']:.1f} % of the test pairs ({seen:,} of "
        f"{test['pairs']:,}, with a context of one turn) stand in train, so that a score on all "
        f"of them rewards memory: give that on the {test['clean_pairs']:,} clean pairs beside it."
    )


def audit_data(
    data: str | None, output: str | Path = "audit.json", detokenize: bool = True
) -> dict:
    """Look for overlap between the splits of a source; print what is found, write it to `output`.

    The file has the counts of `audit`, what they mean, which rows of validation and test are
    clean (`dialogue_id:turn`), and which training dialogues `without_overlap` leaves out.

    Args:
        data: any source that the run script takes.
        output: a .json file; one that is there is replaced.
        detokenize: as in training; it moves the exact counts and those of words.

    Returns:
        What `audit` returns.

    Raises:
        UsageError: the source or the output cannot be used.
    """
    output = Path(output)
    _check(output)
    console = Console()
    rows, _ = load_rows(DataArguments(data=data, detokenize=detokenize))
    with console.status("Comparing the splits ..."):
        found = audit(rows)
    drop = ~found["keep"]
    content = {name: value for name, value in found.items() if name not in ("clean", "keep")}
    content = {"data": data, "detokenize": detokenize, "definitions": DEFINITIONS, **content}
    content["clean"] = {
        name: [f"{dialogue}:{turn}" for dialogue, turn in _ids(rows[name], mask)]
        for name, mask in found["clean"].items()
    }
    content["drop"] = [dialogue for dialogue, turn in _ids(rows["train"], drop) if turn == 1]
    write_json(output, content)
    print_audit(found, console)
    said = warning(found)
    if said:
        console.print(said, style="yellow", markup=False, highlight=False, soft_wrap=True)
    print(f"Written to {output}: the counts, what they mean, clean pairs, dialogues to drop.")
    return found


def _check(output: Path) -> None:
    """Refuse an output that cannot be written, before anything is read."""
    if output.suffix != ".json":
        raise UsageError(f"output is {str(output)!r}; it must end in .json.")
    check_writable(output)


def _ids(rows: Dataset, chosen: np.ndarray) -> Iterator[tuple[str, int]]:
    """Yield `dialogue_id` and `turn` of the rows that a bool array (rows,) has chosen."""
    start = 0
    for table in _tables(rows, ["dialogue_id", "turn"]):
        table = table.filter(pa.array(chosen[start : (start := start + len(table))]))
        yield from zip(*(column.to_pylist() for column in table.columns), strict=True)


def print_audit(found: dict, console: Console) -> None:
    """Print what `audit` returns: a table with a column a split, and what remains of train.

    Args:
        found: what `audit` returns.
        console: where to print.
    """
    table = Table("", title="Overlap", title_justify="left")
    columns = []
    for name, counts in found["splits"].items():
        table.add_column(name, justify="right")
        columns.append(dict(_cells(counts)))
    for label in columns[0]:
        cells = [column[label] for column in columns]
        if any(cells):
            table.add_row(label, *cells)
    console.print(table)
    for name, label in (
        ("train_without_copies", "without copies and without what stands in validation or test"),
        ("train_without_overlap", "without what overlaps with them, either"),
    ):
        left = found[name]
        text = f"Train {label}: {left['dialogues']:,} dialogues, {left['pairs']:,} pairs."
        console.print(text, highlight=False, soft_wrap=True)


def _cells(counts: dict) -> Iterator[tuple[str, str]]:
    """Yield the label and the cell of each line of the table; cells that do not apply are empty."""

    def cell(count: int | None, whole: str) -> str:
        share = 100 * (count or 0) / max(1, counts[whole])
        return "" if count is None else f"{count:,} ({share:.1f} %)"

    yield "dialogues", f"{counts['dialogues']:,}"
    for kind in KINDS:
        yield f"  extra copies, {kind}", cell(counts["copies"][kind], "dialogues")
    for other in SPLITS:
        kinds = counts.get("dialogues_in", {}).get(other, {})
        for kind in KINDS:
            yield f"  in {other}, {kind}", cell(kinds.get(kind), "dialogues")
    yield "  overlapping with train", cell(counts.get("overlapping"), "dialogues")
    yield "pairs", f"{counts['pairs']:,}"
    for context in CONTEXTS:
        count = counts.get("pairs_in_train", {}).get(context)
        yield f"  in train with {context.replace('_', ' ')}", cell(count, "pairs")
    yield "  clean", cell(counts.get("clean_pairs"), "pairs")
