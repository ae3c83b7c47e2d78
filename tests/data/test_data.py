"""Rows to token ids and batches."""

import pytest
import torch
from datasets import Dataset, DatasetDict
from helpers.corpus import SAMPLES, rows_of
from rich.console import Console
from torch.utils.data import DataLoader
from transformers import ByT5Tokenizer

from seq2seq_dialog.data import features
from seq2seq_dialog.data.batching import IGNORE, DialogueCollator
from seq2seq_dialog.data.corpus import Corpus, encode_corpus
from seq2seq_dialog.data.dataset import DailyDialogDataset
from seq2seq_dialog.data.features import encode, encode_rows
from seq2seq_dialog.data.rows import load_rows, utterances
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.models.tokenizer import prepare_tokenizer
from seq2seq_dialog.portable.context import encode_context, join_turns
from seq2seq_dialog.settings import DataArguments


class _Counting:
    """A tokenizer that counts the texts that it, or its backend, is given in batches."""

    def __init__(self, tokenizer, texts):
        self.tokenizer, self.texts = tokenizer, texts

    def __call__(self, texts, **kwargs):
        if isinstance(texts, list):
            self.texts += texts
        return self.tokenizer(texts, **kwargs)

    def encode_batch_fast(self, texts, **kwargs):
        self.texts += texts
        return self.tokenizer.encode_batch_fast(texts, **kwargs)

    def __getattr__(self, name):
        value = getattr(self.tokenizer, name)
        return _Counting(value, self.texts) if name == "backend_tokenizer" else value


@pytest.fixture
def slow_tokenizer():
    """A tokenizer in Python, without a backend in Rust."""
    return prepare_tokenizer(ByT5Tokenizer(extra_ids=0), 64)


@pytest.mark.parametrize("kind", ["tokenizer", "slow_tokenizer"])
def test_a_batch_tokenises_each_distinct_utterance_once(rows, kind, request):
    counting = _Counting(request.getfixturevalue(kind), [])
    encode(rows[:], counting, 64, 24)
    distinct = {u for row in rows for u in (*row["context"], row["response"])}
    assert len(counting.texts) == len(distinct)
    assert set(counting.texts) == distinct


@pytest.mark.parametrize("kind", ["tokenizer", "slow_tokenizer"])
def test_encoding_in_batches_equals_encoding_one_by_one(rows, kind, request):
    tokenizer = request.getfixturevalue(kind)
    tokenizer(["before"], padding="max_length", truncation=True, max_length=2)  # leaves no trace
    columns = encode(rows[:], tokenizer, 64, 24)
    for i in range(0, len(rows), 7):
        assert columns["input_ids"][i] == encode_context(rows[i]["context"], tokenizer)
        assert columns["labels"][i] == tokenizer(rows[i]["response"])["input_ids"][:24]


def test_a_reply_that_is_cut_has_no_end_token_and_is_counted(tokenizer):
    long = "A long reply that goes on and on and on, and then goes on."
    rows = rows_of([["One.", long, "Two."]])
    limits = DataArguments(max_source_length=12, max_target_length=10)
    corpus = Corpus(DatasetDict(train=rows), {})
    features, counts = encode_corpus(corpus, tokenizer, limits, Console(quiet=True))
    encoded = features["train"]
    end = tokenizer.eos_token_id
    assert len(encoded[0]["labels"]) == 10 and encoded[0]["labels"][-1] != end
    assert len(encoded[1]["labels"]) < 10 and encoded[1]["labels"][-1] == end
    # The second context is "One." and the long turn: neither fits whole.
    assert counts["cut"] == {"train": {"contexts": 1, "turns": 2, "replies": 1}}
    assert counts["unknown"] == {"train": {"contexts": 0, "replies": 0}}


def test_characters_that_a_tokenizer_does_not_know_are_counted_and_warned_of(tokenizer):
    corpus = Corpus(DatasetDict(train=rows_of([["Hi there!", "你好 Hi"]])), {})
    with (console := Console(width=500)).capture() as printed:
        features, counts = encode_corpus(corpus, tokenizer, DataArguments(), console)
    (label,) = features["train"]["labels"]
    share = label.count(tokenizer.unk_token_id) / len(label)
    assert share > 0.01 and counts["unknown"] == {"train": {"contexts": 0, "replies": share}}
    warning = printed.get()
    assert f"0.0 % of the tokens of contexts and {100 * share:.1f} % of replies" in warning
    assert "google/mt5-small" in warning and "tokenizer of its own" in warning


def test_batches_are_padded_to_their_longest_only(tokenizer):
    collate = DialogueCollator(0)
    batch = collate(
        [{"input_ids": [5, 6, 1], "labels": [7, 1]}, {"input_ids": [5, 1], "labels": [1]}]
    )
    assert batch["input_ids"].tolist() == [[5, 6, 1], [5, 1, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[7, 1], [1, IGNORE]]


def test_the_same_work_is_taken_from_the_cache(rows, tokenizer, monkeypatch):
    args = DataArguments(max_source_length=64, max_target_length=24)
    first = encode_rows(rows, tokenizer, args)
    tokenizer(["used"], padding="max_length", max_length=4)  # changes what pickle sees
    assert encode_rows(rows, tokenizer, args)._fingerprint == first._fingerprint
    # As if the code had changed:
    monkeypatch.setattr(features, "join_turns", lambda *args: join_turns(*args))
    assert encode_rows(rows, tokenizer, args)._fingerprint != first._fingerprint
    monkeypatch.undo()
    longer = DataArguments(max_source_length=65, max_target_length=24)
    assert encode_rows(rows, tokenizer, longer)._fingerprint != first._fingerprint


@pytest.mark.parametrize("processes", [1, 2])
def test_features_are_a_file_of_their_own_without_the_text(processes, tokenizer, tmp_path):
    path = tmp_path / "d.txt"
    path.write_text("".join(SAMPLES.open(encoding="utf-8")), encoding="utf-8")
    args = DataArguments(data=str(path), data_cache=str(tmp_path / "cache"))
    rows = load_rows(args)[0]["train"]
    args.preprocessing_num_workers = processes
    encoded = encode_rows(rows, tokenizer, args)
    row_files, all_files = ({f["filename"] for f in d.cache_files} for d in (rows, encoded))
    assert len(all_files - row_files) == processes
    for name in all_files - row_files:
        part = Dataset.from_file(name)
        assert part.column_names == features.COLUMNS.names
        assert part.features["input_ids"].feature.dtype == "int32"  # half of what lists become
    assert encoded.select_columns(rows.column_names).to_list() == rows.to_list()
    again = encode(rows[:], tokenizer, args.max_source_length, args.max_target_length)
    assert {name: encoded[name][:] for name in again} == again


def test_utterances_come_once_each(tmp_path):
    path = tmp_path / "d.txt"
    path.write_text("Hi. __eou__ Hello. __eou__ Bye. __eou__\nOne. __eou__ Two. __eou__\n")
    rows, _ = load_rows(DataArguments(data=str(path), data_cache=str(tmp_path / "cache")))
    said = [u for split in rows.values() for u in utterances(split)]
    assert sorted(said) == ["Bye.", "Hello.", "Hi.", "One.", "Two."]


def test_a_missing_file_is_one_clear_message(tmp_path):
    with pytest.raises(UsageError, match=r"missing\.txt"):
        load_rows(DataArguments(data=str(tmp_path / "missing.txt")))


def test_dialogues_without_a_pair_are_refused(tmp_path):
    path = tmp_path / "d.txt"
    path.write_text("Alone. __eou__\n")
    with pytest.raises(UsageError, match="no dialogue has two utterances"):
        load_rows(DataArguments(data=str(path), data_cache=str(tmp_path / "cache")))


def test_limits_take_the_first_rows():
    rows, _ = load_rows(DataArguments(data=str(SAMPLES), max_train_samples=5, max_eval_samples=2))
    assert {name: len(split) for name, split in rows.items()} == {
        "train": 5,
        "validation": 2,
        "test": 2,
    }


def test_the_pytorch_dataset_works_with_a_plain_dataloader(tokenizer, model):
    dataset = DailyDialogDataset(tokenizer, str(SAMPLES), max_length=32)
    assert len(dataset) == 6384
    item = dataset[0]
    assert set(item) == {"input_ids", "attention_mask", "labels"}
    assert len(item["input_ids"]) == len(item["attention_mask"]) <= 32
    loader = DataLoader(dataset, batch_size=8, shuffle=True)
    batch = next(iter(loader))
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["attention_mask"].sum(1).max() == batch["input_ids"].shape[1]  # no idle column
    loss = model(**batch).loss
    loss.backward()
    assert torch.isfinite(loss)
    with pytest.raises(UsageError, match="no split 'dev'; it has train, validation, test"):
        DailyDialogDataset(tokenizer, str(SAMPLES), split="dev")
