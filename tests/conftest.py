"""Tiny tokenizers and models, made here: tests need no network and no GPU."""

import os
import tempfile
from pathlib import Path

# Read when huggingface_hub is imported: no network, and no trace in the caches of whoever tests.
os.environ["HF_HUB_OFFLINE"] = "1"
_home = tempfile.TemporaryDirectory(prefix="seq2seq-dialog-")
os.environ["HF_HOME"] = _home.name

import pytest
from datasets import Dataset
from hub_server import hub  # noqa: F401 (a fixture)
from transformers import (
    AutoTokenizer,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from seq2seq_dialog.arguments import DataArguments, DecodingArguments, ModelArguments
from seq2seq_dialog.data import encode_rows
from seq2seq_dialog.models import generation_config, load_tokenizer, train_tokenizer
from seq2seq_dialog.portable import RnnSeq2SeqConfig, RnnSeq2SeqForConditionalGeneration

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "samples" / "dialogues_text.txt"
LEGACY_PYTHON = ROOT / ".venv-legacy" / "bin" / "python"


def sample_dialogues(count: int) -> list[list[str]]:
    """The first dialogues of the sample corpus."""
    lines = SAMPLES.read_text(encoding="utf-8").split("\n")[:count]
    return [[u.strip() for u in line.split("__eou__") if u.strip()] for line in lines]


def rows_of(dialogues: list[list[str]]) -> Dataset:
    """(context, response) rows of dialogues, as the dataset script makes them."""
    return Dataset.from_list(
        [
            {"dialogue_id": str(d), "turn": t, "context": turns[:t], "response": turns[t]}
            for d, turns in enumerate(dialogues)
            for t in range(1, len(turns))
        ]
    )


@pytest.fixture(scope="session")
def rows() -> Dataset:
    return rows_of(sample_dialogues(40))


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([u for turns in sample_dialogues(400) for u in turns], 500, folder)
    return folder


@pytest.fixture
def tokenizer(tokenizer_folder):
    return load_tokenizer(ModelArguments(), 64, tokenizer_folder)


@pytest.fixture
def features(rows, tokenizer) -> Dataset:
    return encode_rows(rows, tokenizer, DataArguments(max_source_length=64, max_target_length=24))


@pytest.fixture
def model(tokenizer):
    """A T5 of 60,000 parameters with random weights."""
    set_seed(1)
    config = T5Config(
        vocab_size=512,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config)
    model.generation_config = generation_config(DecodingArguments(max_new_tokens=12), model)
    return model


@pytest.fixture
def make_rnn(tokenizer):
    """Recurrent models of 60,000 parameters whose random weights make replies depend on contexts.

    `make_rnn(attention="none", cell="lstm", ...)`; a forward pass has no dropout until `train()`.
    """

    def make(**sizes):
        set_seed(1)
        sizes = {"vocab_size": 512, "embedding_size": 16, "hidden_size": 32} | sizes
        config = RnnSeq2SeqConfig(**{"initializer_range": 1.0} | sizes)
        model = RnnSeq2SeqForConditionalGeneration(config).eval()
        if model.lm_head is not None and config.initializer_range == 1:
            model.lm_head.weight.data.mul_(30)  # as sure of its tokens as a trained one
        model.generation_config = generation_config(DecodingArguments(max_new_tokens=12), model)
        return model

    return make


@pytest.fixture
def shared_data() -> Path:
    """The folder with the real DailyDialog and its t5-small neighbour, where there is one."""
    folder = os.environ.get("DIALOG_DATA")
    if not folder:
        pytest.skip("DIALOG_DATA is not set: the real DailyDialog is not at hand")
    return Path(folder)


@pytest.fixture
def t5_tokenizer(shared_data):
    """t5-small's real tokenizer."""
    folder = shared_data.parent / "t5-small"
    if not folder.exists():
        pytest.skip(f"{folder} is missing: t5-small's tokenizer is not at hand")
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def legacy_python() -> Path:
    if not LEGACY_PYTHON.exists():
        pytest.skip(".venv-legacy is missing: run make test")
    return LEGACY_PYTHON
