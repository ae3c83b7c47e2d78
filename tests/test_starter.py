"""The small model that ships: it answers by its name, and keeps within its bounds."""

import numpy as np
import pytest
import torch
from helpers.corpus import rows_of, sample_dialogues
from helpers.runs import start
from safetensors import safe_open

from seq2seq_dialog import generate_response, load
from seq2seq_dialog.data.features import encode_rows
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.settings import DataArguments
from seq2seq_dialog.shipped import STARTER, find_model


@pytest.fixture(scope="module")
def starter():
    return load("starter", "cpu")


def test_it_answers(starter):
    reply = generate_response("Hi! How are you?", *starter[:2], do_sample=False, num_beams=4)
    assert len(reply.split()) > 1 and reply[0].isupper(), reply


def test_it_predicts_what_people_say_and_reads_what_it_answers(starter):
    """As measured, and with some room: a broken tokenizer or a lost weight would cost more."""
    model, tokenizer, _ = starter
    args = DataArguments(max_source_length=64, max_target_length=40)
    rows = encode_rows(rows_of(sample_dialogues(20)), tokenizer, args)
    size = sum(len(text.encode()) for text in rows["response"])
    contexts = np.roll(np.arange(len(rows)), 40).tolist()

    def bits(sources):
        total = 0.0
        for i, source in enumerate(sources):
            ids, labels = (
                torch.tensor([rows[k][name]]) for k, name in ((source, "input_ids"), (i, "labels"))
            )
            total += model(input_ids=ids, labels=labels).loss.item() * labels.numel()
        return total / np.log(2) / size

    with torch.no_grad():
        own, others = bits(range(len(rows))), bits(contexts)
    assert own < 1.60 and others > own + 0.18


def test_it_is_small_and_in_bf16():
    assert (STARTER / "model.safetensors").stat().st_size <= 20e6
    with safe_open(STARTER / "model.safetensors", "pt") as file:
        names = list(file.keys())
        assert {file.get_tensor(name).dtype for name in names} == {torch.bfloat16}


def test_its_name_is_known_where_no_folder_has_it(tmp_path, monkeypatch):
    assert find_model("starter") == str(STARTER) and find_model("t5-small") == "t5-small"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starter").mkdir()
    assert find_model("starter") == "starter"
    with pytest.raises(UsageError):
        load("starter")


def test_one_can_chat_with_it():
    done = start("-m", "seq2seq_dialog", "chat", "starter", input="Hello there!\nexit\n").result()
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 3
