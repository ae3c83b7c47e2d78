"""Which dialogues and pairs appear in more than one split, and what remains without them.

A test set that partly appears in train rewards a model for its memory. Copies are found within and
between splits, of dialogues and of (context, response) pairs; so are dialogues of which a single
training dialogue holds half or more. Texts are compared by their 64-bit hashes.

Validation and test are kept in memory, train is read once: most data is training data.
"""

from collections.abc import Iterator
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict
from xxhash import xxh3_64_intdigest

from ..dataset_script.dialogues import normalised
from ..errors import UsageError
from ..portable.context import count_background
from .turns import turns_since

SPLITS = ("train", "validation", "test")
KINDS = ("exact", "normalised")  # ways in which dialogues are equal
CONTEXTS = {"one_turn": 1, "three_turns": 3, "full_context": None}  # name -> turns compared
WORDS = 4  # shorter utterances, said everywhere, do not show that two dialogues are related
MOST = 1000  # training dialogues that one of another split is compared with
ROWS_READ = 10_000  # at a time
WARN = 0.01  # the share of test pairs in train above which there is a warning
DEFINITIONS = {
    "normalised": "Casefolded, and of that only letters and digits (str.isalnum) and combining "
    "marks, utterance by utterance. Where there is none, its symbols, such as emoji.",
    "copies": "Dialogues that equal an earlier one of the same split: exact, as the text stands, "
    "or normalised.",
    "dialogues_in": "Dialogues that stand, whole, in another split: exact or normalised.",
    "pairs_in_train": "Rows whose response and context, normalised, are those of a training row: "
    "of the context the last turn, the last three, or all. A context of fewer turns than three "
    "equals only one of as many.",
    "overlapping": "Dialogues of which a single training dialogue holds at least half: of the "
    f"different normalised utterances among those of {WORDS} or more white-space words, as the "
    "text stands, without what stands before a dialogue, such as an instruction, which many have. "
    f"Each is compared with at most {MOST:,} training dialogues, those that hold its "
    "rarest utterances first.",
    "clean": "Rows whose dialogue neither stands in train, normalised, nor overlaps with it, and "
    "whose pair with one turn of context does not stand in train.",
    "train_without_copies": "Training dialogues that neither equal an earlier one nor stand in "
    "validation or test, normalised.",
    "train_without_overlap": "Those of them that also hold less than half of every dialogue of "
    "validation and test, as in overlapping.",
}


class _Dialogue(NamedTuple):
    """The hashes of a dialogue."""

    exact: int
    normalised: int
    long_utterances: tuple[int, ...]  # normalised, those of `WORDS` or more words, each once
    pairs: dict[str, list[int]]  # for each of `CONTEXTS` one a row, normalised


class _Train(NamedTuple):
    """What is kept of the training split, which is read once and may be large."""

    sizes: list[int]  # rows of each dialogue
    keys: dict[str, set[int]]  # for each of `KINDS` the hashes of its dialogues
    keep: list[bool]  # of each dialogue: it is no copy and does not appear in validation or test
    pairs: dict[str, set[int]]  # for each of `CONTEXTS` those that validation or test has, too
    holders: dict[int, dict[int, None]]  # utterance held out -> numbers of dialogues, ascending


def _dialogues(rows: Dataset) -> Iterator[tuple[list[str], list[int]]]:
    """Yield the utterances of each dialogue, and the places of its responses among them."""
    if not len(rows):
        return
    utterances, places, turn, size, number = [], [], 0, 0, 0
    columns = rows.select_columns(["turn", "context", "response"]).with_format("arrow")
    for table in columns.iter(ROWS_READ):
        contexts = table["context"].combine_chunks()
        sizes = pc.list_value_length(contexts).to_numpy()
        last_turns = pc.list_flatten(contexts).take(pa.array(np.cumsum(sizes) - 1)).to_pylist()
        turns, responses = table["turn"].to_pylist(), table["response"].to_pylist()
        for place, (next_turn, response) in enumerate(zip(turns, responses, strict=True)):
            if next_turn not in (1, turn + 1):
                raise UsageError(
                    f"row {number} has turn {next_turn}, but the rows of a dialogue must follow "
                    "one another from turn 1 on. Look for overlap before rows are shuffled or "
                    "filtered."
                )
            if next_turn == 1:
                if utterances:
                    yield utterances, places
                utterances, places = contexts[place].as_py(), []
            elif sizes[place] != size + 1 or last_turns[place] != utterances[-1]:
                # More was said than the reply before, or the context is cut.
                utterances += turns_since(utterances[-1], contexts[place].as_py(), size)
            places.append(len(utterances))
            utterances.append(response)
            turn, size, number = next_turn, sizes[place], number + 1
    yield utterances, places


def _hash(*utterances: str) -> int:
    return xxh3_64_intdigest("\0".join(utterances).encode())


def _hashed(rows: Dataset) -> Iterator[_Dialogue]:
    """Yield the hashes of each dialogue."""
    for utterances, places in _dialogues(rows):
        plain = [normalised(text) for text in utterances]
        said = slice(count_background(utterances), None)
        long_utterances = {
            key
            for key, text in zip(plain[said], utterances[said], strict=True)
            if any(map(str.isalnum, key)) and len(text.split(None, WORDS - 1)) == WORDS
        }
        pairs = {
            context: [_hash(*plain[max(0, at - (turns or at)) : at + 1]) for at in places]
            for context, turns in CONTEXTS.items()
        }
        long_keys = tuple(map(_hash, long_utterances))
        yield _Dialogue(_hash(*utterances), _hash(*plain), long_keys, pairs)


def _read_train(rows: Dataset, held_out: list[_Dialogue]) -> _Train:
    """Read the training split, and keep of it what `held_out` is compared with."""
    held_out_keys = {dialogue.normalised for dialogue in held_out}
    held_out_pairs = {
        context: {pair for dialogue in held_out for pair in dialogue.pairs[context]}
        for context in CONTEXTS
    }
    train = _Train(
        sizes=[],
        keys={kind: set() for kind in KINDS},
        keep=[],
        pairs={context: set() for context in CONTEXTS},
        holders={text: {} for dialogue in held_out for text in dialogue.long_utterances},
    )
    for number, dialogue in enumerate(_hashed(rows)):
        train.sizes.append(len(dialogue.pairs["one_turn"]))
        elsewhere = dialogue.normalised in held_out_keys
        train.keep.append(not elsewhere and dialogue.normalised not in train.keys["normalised"])
        for kind in KINDS:
            train.keys[kind].add(getattr(dialogue, kind))
        for context, pairs in dialogue.pairs.items():
            train.pairs[context].update(held_out_pairs[context].intersection(pairs))
        for text in dialogue.long_utterances:
            if text in train.holders:
                train.holders[text][number] = None
    return train


def _holders_of_half(dialogue: _Dialogue, train: _Train) -> list[int]:
    """List the training dialogues that hold at least half of a dialogue's long utterances.

    Of n utterances, who holds at least half holds at least one of any n // 2 + 1. So only training
    dialogues that hold one of the n // 2 + 1 rarest are compared (prefix filtering; Chaudhuri et
    al., 2006). They are at most `MOST`, since common utterances would bring in all dialogues.
    """
    holders = [train.holders[text] for text in sorted(dialogue.long_utterances)]
    holders.sort(key=len)
    rarest = chain.from_iterable(holders[: len(holders) // 2 + 1])
    return [
        number
        for number in set(islice(rarest, MOST))
        if 2 * sum(number in numbers for numbers in holders) >= len(holders)
    ]


def audit(rows: DatasetDict) -> dict:
    """Count what appears in more than one split; mark what is clean and what to keep.

    Args:
        rows: `train`, and `validation` or `test` or both; none of them shuffled.

    Returns:
        `splits`: for each split `dialogues`, `pairs` and `copies`; for validation and test also
        `dialogues_in` (by other split), `pairs_in_train` (by context), `overlapping` and
        `clean_pairs`. `train_without_copies` and `train_without_overlap`: `dialogues` and `pairs`.
        `clean`: of validation and test, a bool array (rows,). `keep`: of train, a bool array
        (rows,) of `train_without_overlap`. `DEFINITIONS` says what each counts.
    """
    held_out = {name: list(_hashed(rows[name])) for name in SPLITS[1:] if name in rows}
    train = _read_train(rows["train"], list(chain.from_iterable(held_out.values())))
    keys = {"train": train.keys}
    for name, dialogues in held_out.items():
        keys[name] = {kind: {getattr(one, kind) for one in dialogues} for kind in KINDS}
    counts, clean = {"train": _totals(train.sizes, train.keys)}, {}
    without_copies = np.array(train.keep, bool)  # (dialogues,)
    keep = without_copies.copy()
    for name, dialogues in held_out.items():
        holders = [_holders_of_half(dialogue, train) for dialogue in dialogues]
        keep[list(chain.from_iterable(holders))] = False
        overlapping = np.array([len(numbers) > 0 for numbers in holders], bool)
        clean[name], in_train = _clean(dialogues, overlapping, train)
        counts[name] = {
            **_totals([len(one.pairs["one_turn"]) for one in dialogues], keys[name]),
            "dialogues_in": {
                other: {
                    kind: sum(getattr(one, kind) in keys[other][kind] for one in dialogues)
                    for kind in KINDS
                }
                for other in keys
                if other != name
            },
            "pairs_in_train": in_train,
            "overlapping": int(overlapping.sum()),
            "clean_pairs": int(clean[name].sum()),
        }
    sizes = np.array(train.sizes, int)
    return {
        "splits": counts,
        "train_without_copies": _remaining(without_copies, sizes),
        "train_without_overlap": _remaining(keep, sizes),
        "clean": clean,
        "keep": np.repeat(keep, sizes),
    }


def _totals(sizes: list[int], keys: dict[str, set[int]]) -> dict:
    """Count the dialogues and pairs of a split, and the copies among them."""
    copies = {kind: len(sizes) - len(keys[kind]) for kind in KINDS}
    return {"dialogues": len(sizes), "pairs": sum(sizes), "copies": copies}


def _remaining(keep: np.ndarray, sizes: np.ndarray) -> dict[str, int]:
    return {"dialogues": int(keep.sum()), "pairs": int(sizes[keep].sum())}


def _clean(
    dialogues: list[_Dialogue], overlapping: np.ndarray, train: _Train
) -> tuple[np.ndarray, dict[str, int]]:
    """Mark the clean rows (rows,), and count those in train by context."""
    in_train = {
        context: [pair in pairs for dialogue in dialogues for pair in dialogue.pairs[context]]
        for context, pairs in train.pairs.items()
    }
    related = [
        overlaps or dialogue.normalised in train.keys["normalised"]
        for dialogue, overlaps in zip(dialogues, overlapping, strict=True)
        for _ in dialogue.pairs["one_turn"]
    ]
    clean = ~(np.array(related, bool) | np.array(in_train["one_turn"], bool))
    return clean, {context: sum(seen) for context, seen in in_train.items()}


def without_overlap(rows: DatasetDict, audit_result: dict) -> DatasetDict:
    """Leave out of train what is not to `keep`: copies, and what overlaps with the other splits."""
    keep = audit_result["keep"]
    if not keep.any():
        raise UsageError(
            "no training pair is left: every dialogue of train stands in validation or test or "
            "overlaps with one there. Train with other dialogues, or keep the overlap."
        )
    return DatasetDict({**rows, "train": rows["train"].select(np.flatnonzero(keep))})


def warning(audit_result: dict) -> str | None:
    """Say in a sentence that much of test, or validation in its place, is in train, if so."""
    splits = audit_result["splits"]
    name = "test" if "test" in splits else "validation"
    counts = splits.get(name, {"pairs": 0})
    seen = counts["pairs_in_train"]["one_turn"] if counts["pairs"] else 0
    if seen <= WARN * counts["pairs"]:
        return None
    clean = counts["clean_pairs"]
    remedy = f": give that on the {clean:,} clean pairs beside it" if clean else ""
    return (
        f"Warning: {100 * seen / counts['pairs']:.1f} % of the {name} pairs ({seen:,} of "
        f"{counts['pairs']:,}, with a context of one turn) stand in train, so that a score on all "
        f"of them rewards memory{remedy}."
    )
