"""Tiny tokenizers and models, made here: tests need no network and no GPU."""

import copy
import functools
import gc
import os
import ssl
import tempfile
from pathlib import Path

# Read when huggingface_hub is imported: no network, and no trace in the caches of whoever tests.
os.environ["HF_HUB_OFFLINE"] = "1"
_home = tempfile.TemporaryDirectory(prefix="seq2seq-dialog-")
os.environ["HF_HOME"] = _home.name

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.corpus import LEGACY_PYTHON, SAMPLES, rows_of, sample_dialogues
from helpers.hub_server import hub  # noqa: F401 (a fixture)
from helpers.pages import HOSTILE, evaluation
from helpers.runs import CONFIG, command, finish, start, start_two
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from seq2seq_dialog import train_arguments
from seq2seq_dialog.data import known_corpora
from seq2seq_dialog.data.features import encode_rows
from seq2seq_dialog.decoding.generation_config import generation_config
from seq2seq_dialog.models import artifact
from seq2seq_dialog.models.tokenizer import load_tokenizer, train_tokenizer
from seq2seq_dialog.portable import RnnSeq2SeqConfig, RnnSeq2SeqForConditionalGeneration
from seq2seq_dialog.run_folder import write_json, write_jsonl, write_yaml
from seq2seq_dialog.settings import DataArguments, DecodingArguments, ModelArguments


def pytest_collection_modifyitems(items):
    """Put the files with long tests first: a worker that gets one last would end long after all."""
    long = {
        item.path
        for item in items
        if item.get_closest_marker("slow") or item.get_closest_marker("legacy")
    }
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish():
    """Take what was imported out of the garbage collections, of which each training makes some."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def made_once():
    """Make once what takes time and does not change: parsers of settings, httpx's certificates."""
    made = (train_arguments, "build_train_parser"), (ssl, "create_default_context")
    with pytest.MonkeyPatch.context() as patch:
        for module, name in made:
            patch.setattr(module, name, functools.cache(getattr(module, name)))
        yield


@pytest.fixture(scope="session", autouse=True)
def a_cpu_that_says_nothing():
    """Train in fp32 on any CPU: with AMX the default would be bf16, whose sums are less exact."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
        yield


@pytest.fixture(scope="session")
def rows() -> Dataset:
    return rows_of(sample_dialogues(40))


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([u for turns in sample_dialogues(400) for u in turns], 500, folder)
    return folder


@pytest.fixture(scope="session")
def loaded_tokenizer(tokenizer_folder):
    """The tokenizer of all tests, which none of them may change."""
    return load_tokenizer(ModelArguments(), 64, tokenizer_folder)


@pytest.fixture
def tokenizer(loaded_tokenizer):
    return copy.deepcopy(loaded_tokenizer)


@pytest.fixture(scope="session")
def features(rows, loaded_tokenizer) -> Dataset:
    args = DataArguments(max_source_length=64, max_target_length=24)
    return encode_rows(rows, loaded_tokenizer, args)


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
def known_as_dailydialog(tmp_path, monkeypatch):
    """`known_as_dailydialog(responses)`: let these texts be recognised as DailyDialog's."""

    def know(responses) -> None:
        hashes = np.array(list(known_corpora.response_hashes(responses)), dtype=np.uint64)
        path = tmp_path / "known_corpora.npz"
        np.savez(path, dailydialog=hashes, samples=hashes[:0])
        monkeypatch.setattr(known_corpora, "HASHES", path)

    return know


@pytest.fixture
def legacy_python() -> Path:
    if not LEGACY_PYTHON.exists():
        pytest.skip(".venv-legacy is missing: run make test")
    return LEGACY_PYTHON


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    lines = SAMPLES.read_text(encoding="utf-8").split("\n")[:60]
    (folder / "dialogues.txt").write_text("\ufeff" + "\n".join(lines) + "\n\n", encoding="utf-8")
    (folder / "config.yaml").write_text(CONFIG.format(data=folder / "dialogues.txt"))
    return folder / "config.yaml"


@pytest.fixture(scope="session")
def run():
    """Run the script to its end: `run(config, output_dir, *flags, processes=2, status=0)`."""

    def run(*args, processes=1, status=0):
        line = command(*args)
        return finish(start_two(*line) if processes == 2 else [start(*line)], status)

    return run


@pytest.fixture
def bart(tmp_path):
    """A BART checkpoint folder: byte-level pieces, tokens before and after a text, no spare row."""
    vocab = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    vocab |= {letter: 4 + i for i, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    config = BartConfig(
        vocab_size=len(vocab), d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, max_position_embeddings=256, forced_eos_token_id=2,
    )  # fmt: skip
    BartForConditionalGeneration(config).save_pretrained(tmp_path / "bart")
    tokenizer.save_pretrained(tmp_path / "bart")
    return str(tmp_path / "bart")


@pytest.fixture
def saved(model, tokenizer, tmp_path):
    """A model whose replies depend on the context, saved as a run saves it.

    Random weights of this size do that; as a new model begins, it would answer everything alike.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    model.save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    artifact.finish(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def run_folder(tmp_path):
    """A finished run of 30 pairs, one of them hostile, with an evaluation."""
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    pairs = {"train": 1902, "validation": 205, "test": 30}
    metrics = {"data": {"pairs": pairs}, "parameters": 4820224, "train": {"steps": 30}}
    metrics["train"]["best_step"] = 20
    metrics["test"] = {"loss": 4.4, "perplexity": 81.45, "bleu": 0.31, "bleu_signature": "x"}
    write_json(folder / "metrics.json", metrics)
    log = [{"step": 10 * i, "loss": 8 / i} for i in range(1, 4)]
    log += [{"step": 20, "epoch": 1.0, "eval_loss": 4.42, "eval_perplexity": 83.1}]
    write_json(folder / "trainer_state.json", {"log_history": log})
    settings = {"data": "/data/dailydialog", "new_model": {"model_type": "t5"}}
    settings |= {"load_best_model_at_end": True, "run_name": "</pre><script>"}
    write_yaml(folder / "config.yaml", settings)
    write_json(folder / "environment.json", {"device": "CPU, 1 threads"})
    rows = [
        {
            "dialogue_id": "test:1",
            "turn": i + 1,
            "context": [f"turn {j} of {i}" for j in range(i + 1)],
            "reference": f"reference {i} of them all",
            "reply": f"reference {i}" if i % 2 else "no",
            "clean": i > 9,
        }
        for i in range(29)
    ]
    rows.append(rows[0] | {"context": [HOSTILE], "reference": HOSTILE, "reply": HOSTILE})
    write_jsonl(folder / "predictions.jsonl", rows)
    write_json(folder / "evaluation.json", evaluation())
    return folder
