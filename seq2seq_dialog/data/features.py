"""Rows (context, response) to token ids."""

import hashlib
import inspect
import json
from itertools import chain, takewhile
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, concatenate_datasets

from ..portable.context import (
    TURN_SEPARATOR,
    count_background,
    encode_texts,
    join_turns,
    special_ids,
)
from ..settings import DataArguments
from .prepared import map_rows

NUMBERS = ("source_length", "target_length", "source_unknown", "target_unknown", "turns_cut")
COLUMNS = pa.schema(
    [
        *((name, pa.list_(pa.int32())) for name in ("input_ids", "labels")),
        *((name, pa.int32()) for name in NUMBERS),
        ("target_cut", pa.bool_()),
    ]
)


def encode(
    batch: dict[str, list], tokenizer, max_source_length: int, max_target_length: int
) -> dict[str, list]:
    """Tokenise a batch of rows, each distinct utterance once, however many contexts have it.

    A context that is too long is cut from the left at whole turns. A reply that is cut has no end
    token, so that no model learns to stop in the middle of a sentence.

    Args:
        batch: columns `context` (lists of utterances, oldest first) and `response`; perhaps
            `response_cut` (bool), of a reply that was cut before.

    Returns:
        Columns `input_ids` and `labels` (a list of ids each row), `source_length` and
        `target_length` (tokens), `source_unknown` and `target_unknown` (how many of them stand for
        characters that the tokenizer does not know), `turns_cut` (turns that did not fit) and
        `target_cut` (bool).
    """
    contexts, responses = batch["context"], batch["response"]
    texts = {text: " ".join(text.split()) for text in chain(*contexts, responses)}
    distinct = list(dict.fromkeys(texts.values()))
    ids = dict(zip(distinct, encode_texts(distinct, tokenizer), strict=True))
    separator_id = tokenizer.convert_tokens_to_ids(TURN_SEPARATOR)
    before, after = special_ids(tokenizer)
    end = tokenizer.eos_token_id  # ends a reply, even where none ends a context or more follows
    after_reply = [*takewhile(end.__ne__, after), end]
    columns = {"input_ids": [], "labels": [], "turns_cut": [], "target_cut": []}
    cut_before = batch["response_cut"] if "response_cut" in batch else [False] * len(responses)
    for context, response, is_cut in zip(contexts, responses, cut_before, strict=True):
        turns = [texts[turn] for turn in context if texts[turn]]
        input_ids, cut = join_turns(
            [ids[turn] for turn in turns],
            separator_id,
            (before, after),
            max_source_length,
            count_background(turns),
        )
        labels = [*before, *ids[texts[response]]]
        if not (is_cut and labels):  # there must be a token to learn
            labels += after_reply
        columns["input_ids"].append(input_ids)
        columns["labels"].append(labels[:max_target_length])
        columns["turns_cut"].append(cut)
        columns["target_cut"].append(is_cut or len(labels) > max_target_length)
    columns["source_length"] = [len(i) for i in columns["input_ids"]]
    columns["target_length"] = [len(i) for i in columns["labels"]]
    unknown = tokenizer.unk_token_id
    columns["source_unknown"] = [i.count(unknown) for i in columns["input_ids"]]
    columns["target_unknown"] = [i.count(unknown) for i in columns["labels"]]
    return columns


def _table(batch: dict[str, list], **options) -> pa.Table:
    """Make a table of what `encode` returns, with the types of `COLUMNS`."""
    columns = encode(batch, **options)
    return pa.table([pa.array(columns[f.name], f.type) for f in COLUMNS], COLUMNS)


def encode_rows(rows: Dataset, tokenizer, args: DataArguments) -> Dataset:
    """Add the columns of `encode` to `rows`; they come from the cache if it has them."""
    options = {
        "max_source_length": args.max_source_length,
        "max_target_length": args.max_target_length,
    }
    # `datasets` would hash the state of the tokenizer, too, which changes when it is used.
    if tokenizer.is_fast:
        definition = json.loads(tokenizer.backend_tokenizer.to_str())
        definition |= {"padding": None, "truncation": None}
    else:
        definition = repr(tokenizer)
    code = "".join(Path(inspect.getfile(f)).read_text("utf-8") for f in (encode, join_turns))
    content = json.dumps([definition, rows._fingerprint, options, code])
    features = map_rows(
        rows,
        _table,
        fn_kwargs={"tokenizer": tokenizer, **options},
        remove_columns=rows.column_names,  # the text is on disk already
        num_proc=args.preprocessing_num_workers,
        new_fingerprint=hashlib.sha256(content.encode()).hexdigest()[:32],
        desc="Tokenising",
    )
    return concatenate_datasets([rows, features], axis=1)
