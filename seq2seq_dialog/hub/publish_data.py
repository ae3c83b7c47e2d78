"""Dialogues as a data set on the Hub: Parquet that loads on datasets 5 and 3.6 alike, and a card.

datasets 5 calls a list `List` in what it writes beside Parquet, which datasets 3.6 does not know;
both know the older `Sequence`. So the features are written in that form, into the Parquet files and
into the card. The same dialogues give the same bytes, so publishing them again sends nothing.
"""

import json
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict

from ..data.known_corpora import recognise
from ..data.rows import load_rows
from ..errors import UsageError
from ..report.data_card import Shard, data_card
from ..report.licences import check_terms, data_terms, license_of_data
from ..settings import DataArguments
from ..shipped import command
from .push import Publication, RepoKind, prepare, send

SHARD_BYTES = 1 << 28  # of rows in a file, before compression
GROUP_ROWS, GROUP_BYTES = 10_000, 1 << 25  # at most, of a row group: what a viewer reads at a time
READ_ROWS = 1000  # rows read at a time
# A hash stands in names that older `push_to_hub` gave.
SHARD_NAME = re.compile(r"data/\w+-\d{5}-of-\d{5}(-[0-9a-f]{16})?\.parquet")
DATASET = RepoKind(
    "dataset",
    is_ours=lambda paths: any(map(SHARD_NAME.fullmatch, paths)),
    is_stale=lambda path: SHARD_NAME.fullmatch(path) is not None,
)


def publish_data(folder: str | Path, repo: str, **options) -> None:
    """Publish dialogues on the Hub as a data set that `load_dataset` loads; see `Publication`."""
    publication = prepare(folder, repo, **options)
    repo, revision = publication.repo, publication.revision
    with tempfile.TemporaryDirectory(prefix="publish-data-") as parts:
        files = dataset_files(publication, Path(parts))
        commit = send(publication, files, DATASET, "Publish the dialogues")
    if commit is not None:
        flag = "" if revision == "main" else f" --dataset_revision {shlex.quote(revision)}"
        print(
            "Load it:   from datasets import load_dataset\n"
            f'           load_dataset("{repo}"{publication.revision_argument})\n'
            f"Train:     {command('train')} t5_small --dataset_name {repo}{flag}",
            flush=True,
        )


def dataset_files(publication: Publication, folder: Path) -> dict[str, Path | bytes]:
    """Write the rows into an empty folder, as Parquet, split by split, and make the card."""
    language = "en" if publication.language is None else publication.language
    check_terms(publication.license, language)
    arguments = DataArguments(
        data=str(publication.folder), language=language, detokenize=publication.detokenize
    )
    rows, problems = load_rows(arguments)
    if publication.language is None:
        _check_english(rows["train"])
    rows = DatasetDict({split: _numbered(part, split) for split, part in rows.items()})
    corpus = recognise(rows.values())
    about = {"corpus": corpus, "dataset_license": license_of_data(arguments)}
    terms = data_terms({"data": arguments.data}, about, publication.license)
    shards = {}
    for split, part in rows.items():
        try:
            shards[split] = list(_write_shards(part, folder, split))
        except OSError as error:
            raise UsageError(
                f"Cannot write the Parquet files to {str(folder)!r}: {error}. Make room there, or "
                "set TMPDIR to another folder."
            ) from error
    files: dict[str, Path | bytes] = {
        f"data/{split}-{number:05}-of-{len(part):05}.parquet": shard.path
        for split, part in shards.items()
        for number, shard in enumerate(part)
    }
    card = data_card(
        rows,
        problems,
        shards,
        repo=publication.repo,
        revision=publication.revision,
        corpus=corpus,
        terms=terms,
        language=language,
        detokenize=arguments.detokenize,
    )
    return files | {"README.md": card.encode()}


def _check_english(rows: Dataset) -> None:
    """Refuse dialogues in another language: their text would be taken for English."""
    from ..report.preview import guess_languages, language_doubt  # imports the trainer: slow

    doubt = language_doubt(guess_languages(rows)[0], "en")
    if doubt:
        raise UsageError(f"{doubt} If they are in English, give --language en.")


def _numbered(rows: Dataset, split: str) -> Dataset:
    """Name each dialogue by its number in the split: the name of a file may tell who speaks."""
    numbers = np.cumsum(rows.with_format("numpy")["turn"][:] == 1)  # (rows,)
    ids = [f"{split}:{number}" for number in numbers]
    numbered = rows.remove_columns("dialogue_id").add_column("dialogue_id", ids)
    return numbered.select_columns(rows.column_names)


def older_form(feature):
    """Describe `Features.to_dict()` as datasets 3.6 does, which datasets 5 understands, too."""
    if not isinstance(feature, dict):
        return feature
    feature = {key: older_form(value) for key, value in feature.items()}
    return feature | {"_type": "Sequence"} if feature.get("_type") == "List" else feature


def _write_shards(rows: Dataset, folder: Path, split: str) -> Iterator[Shard]:
    """Write rows to Parquet files of at most about `SHARD_BYTES`."""
    features = older_form(rows.features.to_dict())
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = rows.features.arrow_schema.with_metadata(metadata)
    groups = _groups(rows)
    group, number = next(groups, None), 0
    while group is not None:
        path, size = folder / f"{split}-{number}.parquet", 0
        with pq.ParquetWriter(path, schema, compression="zstd", write_page_index=True) as writer:
            while group is not None and size < SHARD_BYTES:
                writer.write_table(group.cast(schema), row_group_size=len(group))
                size += group.nbytes
                group = next(groups, None)
        yield Shard(path, size)
        number += 1


def _groups(rows: Dataset) -> Iterator[pa.Table]:
    """Yield rows as row groups, which depend on the rows alone."""
    group: list[pa.Table] = []
    for table in rows.with_format("arrow").iter(READ_ROWS):
        group.append(table)
        count, size = sum(map(len, group)), sum(part.nbytes for part in group)
        if count >= GROUP_ROWS or size >= GROUP_BYTES:
            yield pa.concat_tables(group).combine_chunks()
            group = []
    if group:
        yield pa.concat_tables(group).combine_chunks()
