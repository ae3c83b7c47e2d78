"""Dialogues to batches: rows (context, response), their token ids, padded tensors."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets

from dataset_script.dialogues import Dialogues

from .arguments import DataArguments, UsageError
from .hub_rows import load_hub_rows
from .models import prepare_tokenizer
from .portable.context import TURN_SEPARATOR, as_turns, join_turns, special_ids

IGNORE = -100  # labels that are padding, not counted by any loss
COLUMNS = pa.schema(
    [
        *((name, pa.list_(pa.int32())) for name in ("input_ids", "labels")),
        *((name, pa.int32()) for name in ("source_length", "target_length", "turns_cut")),
        ("target_cut", pa.bool_()),
    ]
)


def check_training_pairs(rows: dict, args: DataArguments) -> None:
    """Refuse a source without training rows."""
    if not len(rows.get("train", ())):
        raise UsageError(
            f"{args.dataset_name or args.data}: no training pair; at least one dialogue of two "
            "turns is needed."
        )


@contextmanager
def text_source(args: DataArguments) -> Iterator[Dialogues]:
    """Give the builder of `data`, and word its errors as those of a setting."""
    try:
        yield Dialogues(data_dir=args.data, detokenize=args.detokenize, cache_dir=args.data_cache)
    except (ValueError, OSError) as error:
        raise UsageError(str(error).replace("data_dir=", "--data")) from error


def load_rows(args: DataArguments) -> tuple[DatasetDict, dict]:
    """Read dialogues, of `data` or of `dataset_name`, to (context, response) rows.

    Returns:
        The splits that the source has, train first, and what was wrong with the text, by file and
        kind with the first line numbers (`Dialogues.problems`); on the Hub, by split.

    Raises:
        UsageError: the source is missing, is no dialogue text, or has no training pairs.
    """
    if args.dataset_name is not None:
        name, revision = args.dataset_name, args.dataset_revision or "main"
        rows, problems = load_hub_rows(name, revision, args.detokenize, args.data_cache)
    else:
        with text_source(args) as builder:
            builder.download_and_prepare()
            rows, problems = builder.as_dataset(), builder.problems()
    check_training_pairs(rows, args)
    limits = {"train": args.max_train_samples}
    for name in rows:
        limit = limits.get(name, args.max_eval_samples)
        if limit is not None:
            rows[name] = rows[name].select(range(min(limit, len(rows[name]))))
    return DatasetDict({name: split for name, split in rows.items() if len(split)}), problems


def utterances(rows: Dataset):
    """Yield every utterance of the dialogues behind `rows` once."""
    columns = rows.select_columns(["turn", "context", "response"])
    for row in columns:
        if row["turn"] == 1:
            yield from row["context"]
        yield row["response"]


def encode(
    batch: dict[str, list],
    tokenizer,
    max_source_length: int,
    max_target_length: int,
) -> dict[str, list]:
    """Tokenise a batch of rows, every distinct utterance once however many contexts hold it.

    Args:
        batch: columns `context` (lists of utterances, oldest first) and `response`.
        max_source_length: greatest input; the context is cut from the left at whole turns.
        max_target_length: greatest label sequence; a reply that is cut has no end token, so that
            no model learns to stop in the middle of a sentence.

    Returns:
        Columns `input_ids`, `labels` (each a list of ids per row), their lengths `source_length`,
        `target_length`, `turns_cut` (turns that did not fit) and `target_cut` (bool).
    """
    contexts, responses = batch["context"], batch["response"]
    turns = {text: as_turns(text) for text in dict.fromkeys(chain.from_iterable(contexts))}
    replies = {text: " ".join(text.split()) for text in dict.fromkeys(responses)}
    ids = _ids([*chain.from_iterable(turns.values()), *replies.values()], tokenizer)
    turn_ids = {text: [ids[turn] for turn in parts] for text, parts in turns.items()}
    separator_id = tokenizer.convert_tokens_to_ids(TURN_SEPARATOR)
    before, after = around = special_ids(tokenizer)
    columns = {"input_ids": [], "labels": [], "turns_cut": [], "target_cut": []}
    for context, response in zip(contexts, responses, strict=True):
        said = [part for text in context for part in turn_ids[text]]
        input_ids, cut = join_turns(said, separator_id, around, max_source_length)
        labels = [*before, *ids[replies[response]], *after]
        columns["input_ids"].append(input_ids)
        columns["labels"].append(labels[:max_target_length])
        columns["turns_cut"].append(cut)
        columns["target_cut"].append(len(labels) > max_target_length)
    columns["source_length"] = [len(i) for i in columns["input_ids"]]
    columns["target_length"] = [len(i) for i in columns["labels"]]
    return columns


def _ids(texts: list[str], tokenizer) -> dict[str, list[int]]:
    """Tokenise each distinct text, without special tokens around it."""
    distinct = list(dict.fromkeys(texts))
    if tokenizer.is_fast:  # its call would make masks and offsets as well, twice the time
        backend = tokenizer.backend_tokenizer
        backend.no_padding()  # what an earlier call may have left
        backend.no_truncation()
        encodings = backend.encode_batch_fast(distinct, add_special_tokens=False)
        return dict(zip(distinct, (encoding.ids for encoding in encodings), strict=True))
    encoded = tokenizer(distinct, add_special_tokens=False, verbose=False)["input_ids"]
    return dict(zip(distinct, encoded, strict=True))


def _table(batch: dict[str, list], **options) -> pa.Table:
    """Make a table of what `encode` returns."""
    columns = encode(batch, **options)
    return pa.table([pa.array(columns[f.name], f.type) for f in COLUMNS], COLUMNS)


def encode_rows(rows: Dataset, tokenizer, args: DataArguments) -> Dataset:
    """Add the columns of `encode` to `rows`, from the cache where the same was done before."""
    options = {
        "max_source_length": args.max_source_length,
        "max_target_length": args.max_target_length,
    }
    # The tokenizer's own hash changes with use; what it does to a text does not.
    if tokenizer.is_fast:
        does = json.loads(tokenizer.backend_tokenizer.to_str())
        does |= {"padding": None, "truncation": None}
    else:
        does = repr(tokenizer)
    code = "".join(Path(inspect.getfile(f)).read_text("utf-8") for f in (encode, join_turns))
    content = json.dumps([does, rows._fingerprint, options, code])
    features = rows.map(
        _table,
        batched=True,
        fn_kwargs={"tokenizer": tokenizer, **options},
        remove_columns=rows.column_names,  # a file with the text is there already
        num_proc=args.preprocessing_num_workers,
        new_fingerprint=hashlib.sha256(content.encode()).hexdigest()[:32],
        desc="Tokenising",
    )
    return concatenate_datasets([rows, features], axis=1)


def count_cuts(features: Dataset) -> dict[str, int]:
    """Count what the length limits cut: contexts, turns left out of them, and replies."""
    columns = features.with_format("numpy")
    turns, replies = columns["turns_cut"][:], columns["target_cut"][:]
    return {
        "contexts": int((turns > 0).sum()),
        "turns": int(turns.sum()),
        "replies": int(replies.sum()),
    }


class DialogueCollator:
    """Pads examples to tensors as wide as their longest.

    Args:
        pad_token_id: fills `input_ids`.

    Returns (of a call):
        `input_ids` and `attention_mask` (batch, source_len), `labels` (batch, target_len); labels
        are -100 where there is padding.
    """

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, examples: Sequence[dict]) -> dict[str, torch.Tensor]:
        sources = [example["input_ids"] for example in examples]
        targets = [example["labels"] for example in examples]
        return {
            "input_ids": _padded(sources, self.pad_token_id),  # (batch, source_len)
            "attention_mask": _padded([np.ones(len(i)) for i in sources], 0),  # (batch, source_len)
            "labels": _padded(targets, IGNORE),  # (batch, target_len)
        }


def _padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    """Fill rows up to the longest. In NumPy: a batch has too few numbers for torch to pay."""
    table = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for filled, row in zip(table, rows, strict=True):
        filled[: len(row)] = row
    return torch.from_numpy(table)


class DailyDialogDataset(torch.utils.data.Dataset):
    """Dialogues for a `DataLoader` and a training loop of your own.

        dataset = DailyDialogDataset(tokenizer, "dialogues_text.txt", max_length=512)
        loader = DataLoader(dataset, batch_size=8, shuffle=True)
        for batch in loader:
            loss = model(**batch).loss

    Items hold `input_ids`, `attention_mask` and `labels`, 1-D tensors without padding; those that
    a DataLoader fetches together are padded to the longest among them.

    Args:
        tokenizer: a T5-like tokenizer; it learns `__eou__` as a token (`prepare_tokenizer`), so for
            models without a spare embedding row call `model.resize_token_embeddings`.
        path: a text file, or any source that the run script takes.
        max_length: greatest context in tokens, cut from the left at whole turns.
        max_target_length: greatest reply in tokens.
        split: `train`, `validation` or `test`; all of them by default.
        detokenize: write natural text from spaced tokens.
    """

    def __init__(
        self,
        tokenizer,
        path: str | Path,
        max_length: int = 512,
        max_target_length: int = 128,
        split: str | None = None,
        detokenize: bool = True,
    ):
        args = DataArguments(
            data=str(path),
            detokenize=detokenize,
            max_source_length=max_length,
            max_target_length=max_target_length,
        )
        rows, self.problems = load_rows(args)
        if split is not None and split not in rows:
            raise UsageError(f"{path} has no split {split!r}; it has {', '.join(rows)}.")
        prepare_tokenizer(tokenizer, max_length)
        parts = [encode_rows(rows[name], tokenizer, args) for name in rows if split in (None, name)]
        self.parts = torch.utils.data.ConcatDataset(
            [part.select_columns(["input_ids", "labels"]) for part in parts]
        )
        self.collate = DialogueCollator(tokenizer.pad_token_id)

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, torch.Tensor]]:
        batch = self.collate([self.parts[index] for index in indices])
        return [{name: tensor[i] for name, tensor in batch.items()} for i in range(len(indices))]
