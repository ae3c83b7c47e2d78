"""The card of a data set on the Hub, README.md: what it holds and how it was made."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, DatasetInfo, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from ..data import overlap
from ..data.known_corpora import DAILYDIALOG
from ..dataset_script.dialogues import LABELS
from .licences import DataTerms
from .tables import render

# Kinds of problems of the dataset script, as the card words them, and what was done about them.
PROBLEMS = {
    "bom": "byte order mark, removed",
    "utf_16": "UTF-16 or UTF-32, read as such",
    "cr": "line ends in CR alone, read as LF",
    "crlf": "line ends in CR LF, read as LF",
    "blank_line": "blank line, skipped",
    "control_character": "control characters, removed",
    "c1_character": "C1 control characters, as a wrong conversion leaves them, removed",
    "replacement_character": "a character that was damaged before, as \ufffd",
    "missing_last_eou": "no end mark after the last utterance, which was kept",
    "empty_utterance": "empty utterance, dropped",
    "under_two_utterances": "fewer than two utterances, which makes no row",
    "empty_context": "a row without context, dropped",
    "empty_response": "a row without reply, dropped",
    "empty_rejected": "a row without rejected reply, dropped",
    "no_rejected": "a pair of a dialogue without rejected replies, dropped",
    "equal_replies": "a row whose rejected reply is the chosen one, dropped",
    "rejected_not_read": "a row with a rejected reply, which is not read",
    "eou_inside": "the mark of a turn inside an utterance, removed",
    "system_message": "system messages, read as instructions",
    "tool_message": "calls of tools and their results, dropped",
    "system_line": "notice of the chat program, or an action (/me), left out",
    "media": "picture, sound or other file without words, left out",
    "deleted_message": "notice of a deleted message, left out",
    "forwarded_message": "forwarded message, kept as what was said",
    "bot_message": "message of a program, left out",
    "unreadable": "line or message that its format does not allow, left out",
    "two_texts": "a list of two texts, read as two turns, not as a name and a text",
    "row_mismatch": "labels that are not as many as the utterances, left out",
    "row_missing": "no labels",
    "row_invalid": "labels that are no known classes, left out",
    "row_extra": "labels without a dialogue, ignored",
    "sound_description": "sounds, songs and actions described among what is said, left out",
}
LICENSE_GIVERS = {  # by the origin of `DataTerms`
    "given": "the publisher gives",
    "known": "its authors give",
    "card": "the card of their source gives",
}
# The Hub's names of sizes, and the number of rows that each ends before.
SIZES = {
    "n<1K": 10**3,
    "1K<n<10K": 10**4,
    "10K<n<100K": 10**5,
    "100K<n<1M": 10**6,
    "1M<n<10M": 10**7,
    "10M<n<100M": 10**8,
    "100M<n<1B": 10**9,
}
EXAMPLE_ROWS, EXAMPLE_LETTERS = 1000, 800  # where an example is looked for; its greatest length
ROWS_READ = 10_000  # at a time


@dataclass(frozen=True)
class Shard:
    """A Parquet file, and the bytes of its rows before compression."""

    path: Path
    size: int


def data_card(
    rows: DatasetDict,
    problems: Mapping[str, dict],
    shards: Mapping[str, Sequence[Shard]],
    *,
    repo: str,
    revision: str,
    corpus: str | None,
    terms: DataTerms,
    language: str,
    detokenize: bool,
) -> str:
    """Write README.md of a data set: of what `load_rows` returns, and the files of each split."""
    splits = overlap.audit(rows)["splits"]
    name = corpus or repo.split("/")[-1]
    labels = {label: classes for label, (classes, _) in LABELS.items()}
    for label in labels:
        if all(part.data.column(label).null_count == len(part) for part in rows.values()):
            labels[label] = ()  # the source has none
    content = {
        "title": f"{name[0].upper()}{name[1:]}, pairs of context and response",
        "repo": repo,
        "revision": revision,
        "language": {"en": "English"}.get(language, language),
        "license": terms.license,
        "license_giver": LICENSE_GIVERS.get(terms.origin),
        "daily_dialog": corpus == DAILYDIALOG,
        "dialogues": sum(counts["dialogues"] for counts in splits.values()),
        "pairs": sum(map(len, rows.values())),
        "splits": splits,
        "held_out": {name: splits[name] for name in splits if name != "train"},
        "hashed": len(problems) == 1 and len(rows) > 1,
        "detokenize": detokenize,
        "problems": _count_problems(problems),
        "labels": labels,
        "example": _example(rows["train"]),
        "all_answered": all(map(_has_all_pairs, rows.values())),
    }
    body = render("data_card.md.jinja", content)
    metadata = _metadata(content["title"], terms.license, language, rows, shards)
    return str(DatasetCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}\n"))


def _metadata(
    title: str,
    license: str | None,
    language: str,
    rows: DatasetDict,
    shards: Mapping[str, Sequence[Shard]],
) -> DatasetCardData:
    """Make what the Hub and `load_dataset` read of the card."""
    pairs = sum(map(len, rows.values()))
    metadata = DatasetCardData(
        pretty_name=title,
        language=[language],
        license=license,
        task_categories=["text-generation"],
        tags=["dialogue", "response-generation"],
        size_categories=[next((name for name in SIZES if pairs < SIZES[name]), "1B<n<10B")],
        configs=[
            {
                "config_name": "default",
                # Exact: files that someone else put there are no rows of ours.
                "data_files": [
                    {"split": name, "path": f"data/{name}-*-of-{len(shards[name]):05}.parquet"}
                    for name in rows
                ],
            }
        ],
    )
    sizes = {name: sum(shard.size for shard in shards[name]) for name in rows}
    splits = SplitDict()
    for name, part in rows.items():
        splits.add(SplitInfo(name, sizes[name], len(part)))
    info = DatasetInfo(
        features=rows["train"].features,
        splits=splits,
        download_size=sum(shard.path.stat().st_size for part in shards.values() for shard in part),
        dataset_size=sum(sizes.values()),
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(metadata)
    for column in metadata["dataset_info"]["features"]:
        if "list" in column:  # datasets 3.6 knows the older name alone
            column["sequence"] = column.pop("list")
    return metadata


def _count_problems(problems: Mapping[str, dict]) -> dict[str, int]:
    """Count the lines with each kind of problem, in all files."""
    counts: Counter = Counter()
    for kinds in problems.values():
        for kind, entry in kinds.items():
            if isinstance(entry, dict):
                label, _, row = kind.partition("_row_")
                words = f"{label} {PROBLEMS[f'row_{row}']}" if row else PROBLEMS[kind]
                counts[words] += entry["count"]
    return dict(counts)


def _has_all_pairs(rows: Dataset) -> bool:
    """Tell whether each utterance but the first of its dialogue is the response of a row."""
    columns = rows.select_columns(["turn", "context"]).with_format("arrow")
    return all(
        pc.all(pc.equal(pc.list_value_length(table["context"]), table["turn"])).as_py()
        for table in columns.iter(ROWS_READ)
    )


def _example(rows: Dataset) -> str:
    """Write the first short row that is the second of its dialogue, or else any short one."""
    written = (
        json.dumps(row, ensure_ascii=False, indent=2)
        for row in rows.select(range(min(EXAMPLE_ROWS, len(rows))))
    )
    short = [text for text in written if len(text) < EXAMPLE_LETTERS]
    chosen = [text for text in short if '"turn": 2,' in text] or short
    # A grave accent would end the block of code.
    return chosen[0].replace("`", "\\u0060") if chosen else ""
