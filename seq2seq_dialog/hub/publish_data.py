"""Dialogues as a data set on the Hub: Parquet that loads on datasets 5 and 3.6 alike, and a card.

datasets 5 calls a list `List` in what it writes beside Parquet, which datasets 3.6 does not know;
both know the older `Sequence`. So the features are written in that form, into the Parquet files and
into the card. The same dialogues give the same bytes, so publishing them again sends nothing.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, DatasetInfo, Features, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData, HfApi
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.console import Console

from ..data import overlap
from ..data.rows import load_rows
from ..dataset_script.dialogues import LABELS
from ..errors import UsageError
from ..report import page
from ..report.model_card import DAILYDIALOG, LICENSES, check_terms, source
from ..settings import DataArguments
from ..shipped import command
from . import publish_model

SHARD = 1 << 28  # bytes of rows a file, before compression
GROUP_ROWS, GROUP_BYTES = 10_000, 1 << 25  # at most, of a row group: what a viewer reads at a time
READ = 1000  # rows read at a time
# A hash stands in names that older `push_to_hub` gave.
SHARD_NAME = re.compile(r"data/\w+-\d{5}-of-\d{5}(-[0-9a-f]{16})?\.parquet")
# Kinds of problems of the dataset script, as the card words them, and what was done about them.
PROBLEMS = {
    "bom": "byte order mark, removed",
    "crlf": "line ends in CR LF, read as LF",
    "blank_line": "blank line, skipped",
    "control_character": "control characters, removed",
    "missing_last_eou": "no end mark after the last utterance, which was kept",
    "empty_utterance": "empty utterance, dropped",
    "under_two_utterances": "fewer than two utterances, which makes no row",
    "row_mismatch": "labels that are not as many as the utterances, left out",
    "row_missing": "no labels",
    "row_invalid": "labels that are no known classes, left out",
    "row_extra": "labels without a dialogue, ignored",
}
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))
SIZES += ((10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"))


def publish_data(
    folder: str,
    repo: str,
    private: bool = False,
    revision: str = "main",
    detokenize: bool = True,
    license: str | None = None,
    language: str = "en",
    dry_run: bool = False,
) -> None:
    """Publish dialogues on the Hub as a data set that `load_dataset` loads.

    Args:
        folder: dialogues, as `data` of a run takes them.
        repo: `user/name`, or a name in one's own namespace.
        private: make a new repository private.
        revision: the branch.
        detokenize: write natural text from spaced tokens.
        license: of the dialogues, as the Hub names it; that of DailyDialog is known.
        language: of the dialogues.
        dry_run: only list what would go up.

    Raises:
        UsageError: says what to do; the same command continues.
    """
    console = Console(highlight=False, soft_wrap=True)
    if not dry_run or "/" not in repo:
        repo = publish_model.own_repo(repo)
    with tempfile.TemporaryDirectory(prefix="publish-data-") as parts:
        files = dataset_files(folder, repo, Path(parts), detokenize, license, language, revision)
        if dry_run:
            publish_model.show_files(files, f"datasets/{repo}", console)
            return
        publish_model.push(
            files,
            repo,
            "dataset",
            message="Publish the dialogues",
            private=private,
            revision=revision,
            own=lambda paths: any(map(SHARD_NAME.fullmatch, paths)),
            stale=lambda path: SHARD_NAME.fullmatch(path) is not None,
        )
    other = "" if revision == "main" else f", revision={revision!r}"
    page = f"{HfApi().endpoint}/datasets/{repo}"
    console.print(f"Published: {page}{other and f'/tree/{revision}'}")
    console.print(
        "Load it:   from datasets import load_dataset\n"
        f'           load_dataset("{repo}"{other})\n'
        f"Train:     {command('train')} t5_small --dataset_name {repo}"
        f"{other and f' --dataset_revision {revision}'}"
    )


def dataset_files(
    data: str,
    repo: str,
    folder: Path,
    detokenize: bool = True,
    license: str | None = None,
    language: str = "en",
    revision: str = "main",
) -> dict[str, Path | bytes]:
    """Make what goes to the Hub: the rows as Parquet, split by split, and the card.

    Args:
        data: dialogues, as `data` of a run takes them.
        repo: `user/name`, for the card.
        folder: where the Parquet files are written; empty.
        detokenize: write natural text from spaced tokens.
        license: of the dialogues.
        language: of the dialogues.
        revision: the branch, for the card.

    Returns:
        The path in the repository, and the file or its content.

    Raises:
        UsageError: the dialogues cannot be used, the licence or language is none, DailyDialog is to
            have another licence, or there is no room for the files.
    """
    check_terms(license, language)
    rows, problems = load_rows(DataArguments(data=data, detokenize=detokenize))
    name, license = licensed(data, rows, problems, license)
    files: dict[str, Path | bytes] = {}
    sizes, counts = {}, {}
    for split, part in rows.items():
        try:
            shards = list(_write_shards(part, folder, split))
        except OSError as error:
            raise UsageError(
                f"Cannot write the Parquet files to {str(folder)!r}: {error}. Make room there, or "
                "set TMPDIR to another folder."
            ) from error
        counts[split] = len(shards)
        for number, (path, _) in enumerate(shards):
            files[f"data/{split}-{number:05}-of-{len(shards):05}.parquet"] = path
        sizes[split] = sum(size for _, size in shards)
    download = sum(path.stat().st_size for path in files.values())
    about = (sizes, counts, download, detokenize, license, language, revision)
    card = data_card(name, repo, rows, problems, *about)
    return files | {"README.md": card.encode()}


def licensed(
    data: str, rows: DatasetDict, problems: dict, license: str | None
) -> tuple[str | None, str | None]:
    """Tell which known data these are, if any, and their licence, if that is known or given.

    Raises:
        UsageError: another licence than its own is given for DailyDialog.
    """
    pairs = {split: len(part) for split, part in rows.items()}
    known = source({"data": data}, {"data": {"pairs": pairs, "problems": problems}}, {})
    own, given = known["license"], license and license.strip().lower()
    if known["name"] == DAILYDIALOG and given not in (None, own):
        raise UsageError(
            f"license is {license!r}, but these are the dialogues of DailyDialog, which are "
            f"{own.upper()}: no commercial use, share alike. Leave the licence out, or give {own}."
        )
    return known["name"] if known["name"] in LICENSES else None, given or own


def data_card(
    known: str | None,
    repo: str,
    rows: DatasetDict,
    problems: dict,
    sizes: dict[str, int],
    counts: dict[str, int],
    download: int,
    detokenize: bool,
    license: str | None,
    language: str,
    revision: str,
) -> str:
    """Write README.md of a data set: what it holds, how it was made, what it is worth.

    Args:
        known: which known data these are, if any.
        repo: `user/name`.
        rows: the splits.
        problems: what was odd in the text (`load_rows`).
        sizes: bytes of each split before compression.
        counts: files of each split.
        download: bytes of all files.
        detokenize: whether natural text was written.
        license: of the dialogues, None where it is not known.
        language: of the dialogues.
        revision: the branch.

    Returns:
        Metadata as YAML, then Markdown.
    """
    found = overlap.audit(rows)["splits"]
    pairs = sum(map(len, rows.values()))
    name = known or repo.split("/")[-1]
    title = f"{name[0].upper()}{name[1:]}, pairs of context and response"
    metadata = DatasetCardData(
        pretty_name=title,
        language=[language],
        license=license,
        task_categories=["text-generation"],
        tags=["dialogue", "response-generation"],
        size_categories=[next((name for most, name in SIZES if pairs < most), "1B<n<10B")],
        configs=[
            {
                "config_name": "default",
                # Exact: files that someone else put there are no rows of ours.
                "data_files": [
                    {"split": name, "path": f"data/{name}-*-of-{counts[name]:05}.parquet"}
                    for name in rows
                ],
            }
        ],
    )
    splits = SplitDict()
    for name, part in rows.items():
        splits.add(SplitInfo(name, sizes[name], len(part)))
    info = DatasetInfo(
        features=rows["train"].features,
        splits=splits,
        download_size=download,
        dataset_size=sum(sizes.values()),
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(metadata)
    for column in metadata["dataset_info"]["features"]:
        if "list" in column:
            column["sequence"] = column.pop("list")
    content = {
        "title": title,
        "repo": repo,
        "revision": revision,
        "language": {"en": "English"}.get(language, language),
        "license": license,
        "own": known is not None and license == LICENSES[known],
        "daily_dialog": known == DAILYDIALOG,
        "dialogues": sum(counts["dialogues"] for counts in found.values()),
        "pairs": pairs,
        "splits": found,
        "held_out": {name: found[name] for name in found if name != "train"},
        "hashed": len(problems) == 1 and len(rows) > 1,
        "detokenize": detokenize,
        "problems": _problems(problems),
        "labels": {name: classes * _has(rows, name) for name, (classes, _) in LABELS.items()},
        "example": _example(rows["train"]),
    }
    options = {
        "loader": FileSystemLoader(Path(__file__).parents[1] / "report"),
        "undefined": StrictUndefined,
    }
    options |= {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    templates = Environment(finalize=page.markdown, **options)
    templates.filters |= {"figure": page.figure}
    templates.filters["literal"] = lambda text: Markup(json.dumps(text, ensure_ascii=False))
    body = templates.get_template("data_card.md.jinja").render(content).strip()
    return str(DatasetCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}\n"))


def _problems(problems: dict) -> dict[str, int]:
    """Count the lines with each kind of problem, in all files."""
    counts: Counter = Counter()
    for found in problems.values():
        for kind, entry in found.items():
            if isinstance(entry, dict):
                label, _, row = kind.partition("_row_")
                words = f"{label} {PROBLEMS[f'row_{row}']}" if row else PROBLEMS[kind]
                counts[words] += entry["count"]
    return dict(counts)


def _has(rows: DatasetDict, label: str) -> bool:
    return any(part.data.column(label).null_count < len(part) for part in rows.values())


def _example(rows: Dataset) -> str:
    """The first short row with two turns of context, as JSON; or else the first row that is short.

    Returns:
        JSON without the grave accents that would end a block of code; empty if no row is short.
    """
    written = (
        json.dumps(row, ensure_ascii=False, indent=2)
        for row in rows.select(range(min(READ, len(rows))))
    )
    short = [text for text in written if len(text) < 800]
    chosen = [text for text in short if '"turn": 2,' in text] or short
    return chosen[0].replace("`", "\\u0060") if chosen else ""


def older_form(features: Features) -> dict:
    """Describe features as datasets 3.6 does, which datasets 5 understands, too."""

    def older(feature):
        if not isinstance(feature, dict):
            return feature
        feature = {key: older(value) for key, value in feature.items()}
        return feature | {"_type": "Sequence"} if feature.get("_type") == "List" else feature

    return older(features.to_dict())


def _write_shards(rows: Dataset, folder: Path, split: str) -> Iterator[tuple[Path, int]]:
    """Write rows to Parquet files; yield each, and the bytes of its rows before compression."""
    metadata = {"huggingface": json.dumps({"info": {"features": older_form(rows.features)}})}
    schema = rows.features.arrow_schema.with_metadata(metadata)
    groups = _groups(rows)
    group, number = next(groups, None), 0
    while group is not None:
        path, size = folder / f"{split}-{number}.parquet", 0
        with pq.ParquetWriter(path, schema, compression="zstd", write_page_index=True) as writer:
            while group is not None and size < SHARD:
                writer.write_table(group.cast(schema), row_group_size=len(group))
                size += group.nbytes
                group = next(groups, None)
        yield path, size
        number += 1


def _groups(rows: Dataset) -> Iterator[pa.Table]:
    """Yield rows as row groups, which depend on the rows alone."""
    group: list[pa.Table] = []
    for table in rows.with_format("arrow").iter(READ):
        group.append(table)
        count, size = sum(map(len, group)), sum(part.nbytes for part in group)
        if count >= GROUP_ROWS or size >= GROUP_BYTES:
            yield pa.concat_tables(group).combine_chunks()
            group = []
    if group:
        yield pa.concat_tables(group).combine_chunks()
