"""Damaged and foreign model folders: one message, and nothing random or invented in its place."""

import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from seq2seq_dialog.data.rows import load_rows
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.hub_errors import check_name
from seq2seq_dialog.models.build import check_names, load_model
from seq2seq_dialog.models.loading import load_model_files, loading
from seq2seq_dialog.models.tokenizer import load_tokenizer
from seq2seq_dialog.serve.inference import load
from seq2seq_dialog.settings import DataArguments, ModelArguments

WEIGHTS = "model.safetensors"
DECODING = "generation_config.json"


class Attack:
    def __reduce__(self):
        return print, ("this code must not run",)


def cut(name):
    def damage(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return damage


def write(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names if (folder / name).exists()]


def without(part):
    """Leave out the weights whose name holds `part`."""

    def damage(folder):
        weights = load_file(folder / WEIGHTS)
        kept = {name: tensor for name, tensor in weights.items() if part not in name}
        assert len(kept) < len(weights)
        save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def pickled(data):
    def damage(folder):
        (folder / WEIGHTS).unlink()
        (folder / "pytorch_model.bin").write_bytes(data)

    return damage


def configure(**changes):
    def damage(folder):
        for name in ("config.json", "config.5.0.0.json"):
            config = json.loads((folder / name).read_text(encoding="utf-8"))
            (folder / name).write_text(json.dumps(config | changes), encoding="utf-8")

    return damage


def reach(length):
    def damage(folder):
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": length}))

    return damage


def with_fewer_rows(folder):
    weights = load_file(folder / WEIGHTS)
    save_file(
        {name: t[:200].clone() if len(t) == 512 else t for name, t in weights.items()},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )
    configure(vocab_size=200)(folder)


def spoil(value):
    """Put a number that is none into one weight."""

    def damage(folder):
        weights = load_file(folder / WEIGHTS)
        weights["decoder.final_layer_norm.weight"][3] = value
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def decode(**changes):
    def damage(folder):
        saved = json.loads((folder / DECODING).read_text(encoding="utf-8"))
        (folder / DECODING).write_text(json.dumps(saved | changes), encoding="utf-8")

    return damage


SPOILT = r"1 of its weights hold NaN or infinity \(decoder.final_layer_norm.weight\)"
DAMAGES = {
    "cut weights": (cut(WEIGHTS), "Cannot load"),
    "empty weights": (write(WEIGHTS, b""), "Cannot load"),
    "a page instead of weights": (write(WEIGHTS, b"<html>"), "Cannot load"),
    "no weights": (remove(WEIGHTS), "Cannot load.*no file named model.safetensors"),
    "a missing layer": (without("decoder.block.1."), r"lack 13 of its weights \(decoder.block.1"),
    "a missing tensor": (without("encoder.final_layer_norm"), "lack 1 of its weights"),
    "more layers in the config": (configure(num_layers=3), "lack .* of its weights"),
    "an attack": (pickled(pickle.dumps(Attack())), "a pickle that is damaged or holds more"),
    "no pickle": (pickled(b"\x80\x04garbage"), "a pickle that is damaged or holds more"),
    "a pickle called safetensors": (write(WEIGHTS, pickle.dumps({})), "Cannot load"),
    "no tokenizer": (
        remove("tokenizer.json", "tokenizer_config.json", "spiece.model"),
        "no file with the pieces",
    ),
    "no pieces": (remove("tokenizer.json"), "no file with the pieces"),
    "a cut tokenizer": (cut("tokenizer.json"), "Cannot load"),
    "a tokenizer of nonsense": (write("tokenizer.json", b"[]"), "Cannot load"),
    "a length of nonsense": (reach([]), r"Cannot load.*model_max_length is \[\]; it must be a num"),
    "a larger tokenizer": (with_fewer_rows, "has 501 tokens, the model .* only 200"),
    "a config of nonsense": (write("config.json", b"[]"), "Cannot load"),
    "another kind of model": (configure(model_type="bert"), "Cannot load"),
    "a weight that is no number": (spoil(math.nan), SPOILT),
    "an infinite weight": (spoil(-math.inf), SPOILT),
    "empty decoding settings": (write(DECODING, b""), "Cannot read .*generation_config.json"),
    "cut decoding settings": (cut(DECODING), "Cannot read .*generation_config.json"),
    "decoding settings of other bytes": (write(DECODING, b"\xff\x00"), "Cannot read"),
    "a list of decoding settings": (write(DECODING, b"[]"), "not what a run writes there"),
    "no beams": (decode(num_beams=0), "generation_config.json, num_beams is 0; it must be at"),
    "a wrong top-p": (decode(top_p=2.0), "top_p is 2.0; it must be from 0.001 to 1"),
    "a length in letters": (decode(max_new_tokens="5"), "Cannot load"),
    "sampling in letters": (decode(do_sample="no"), "do_sample is 'no'; it must be True or False"),
}
REPLY_TOKENS = {  # a run that fine-tunes takes those of the config
    "no first token": (write(DECODING, b"{}"), "has no decoder_start_token_id"),
    "a token in letters": (decode(eos_token_id="x"), "eos_token_id is 'x'; it must be a token"),
    "no last token": (decode(eos_token_id=[]), "eos_token_id is .*; it must be a token"),
    "a token beyond the model's": (decode(eos_token_id=[1, 512]), "token of the model, from 0 to"),
    "a first token below all": (decode(decoder_start_token_id=-1), "decoder_start_token_id is -1"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_refused_with_one_message(saved, name, capsys):
    damage, message = DAMAGES[name]
    damage(saved)
    with pytest.raises(UsageError, match=message) as error:
        load(saved, "cpu")
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value)
    args = ModelArguments(model_name_or_path=str(saved))
    with pytest.raises(UsageError, match=message):
        load_model(args, load_tokenizer(args, 64))
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("name", REPLY_TOKENS)
def test_impossible_tokens_of_replies_are_refused(saved, name):
    damage, message = REPLY_TOKENS[name]
    damage(saved)
    with pytest.raises(UsageError, match=message):
        load(saved, "cpu")


@pytest.fixture
def of_runs(tmp_path, monkeypatch):
    """A folder with one run in it, `out/demo`, and a folder `ann` without any."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "demo").mkdir(parents=True)
    (tmp_path / "out" / "demo" / "config.yaml").touch()
    (tmp_path / "ann" / "talks").mkdir(parents=True)


PATHS = {
    "./demo": "/demo'.",
    "../demo": "/demo'.",
    "/nowhere/demo": "'/nowhere/demo'.",
    "runs/demo": "/runs/demo'.",
    "out/dmeo": "Did you mean 'out/demo'?",
    "./out/dmeo/": "Did you mean 'out/demo'?",
    "ann/models/demo": "/ann/models/demo'.",
    "demo/": "/demo'.",
    "out\\demo": "There is no folder",
}


@pytest.mark.parametrize("name", PATHS)
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(of_runs, name):
    readers = [
        lambda: load(name),
        lambda: check_names(ModelArguments(model_name_or_path=name)),
        lambda: check_names(ModelArguments(tokenizer_name_or_path=name)),
        lambda: load_rows(DataArguments(dataset_name=name)),
    ]
    for read in readers:
        with pytest.raises(UsageError) as error:
            read()
        assert str(error.value).startswith("There is no folder") and PATHS[name] in str(error.value)


FOLDERS = {
    "out/demo": "Its run is unfinished: the command that began it goes on with it.",
    "out": "There is a model in 'out/seed-1'.",
    "ann/talks": "Give the output_dir of a finished run, or another folder with a saved model.",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_without_a_model_is_refused_with_a_way_out(of_runs, name):
    Path("out", "seed-1").mkdir()
    Path("out", "seed-1", "config.json").touch()
    readers = (
        lambda: load(name),
        lambda: check_names(ModelArguments(model_name_or_path=name)),
        lambda: load_model_files(name, "a model", "Give another."),
    )
    for read in readers:
        with pytest.raises(UsageError) as error:
            read()
        assert f"{name!r} holds no model: it has no config.json." in str(error.value)
        assert FOLDERS[name] in str(error.value)


@pytest.mark.parametrize("name", ["gpt2", "ann/model", "out/demo", "google-t5/t5-small"])
def test_a_name_on_the_hub_and_a_folder_that_is_there_are_names(of_runs, name):
    check_name(name)


def test_an_honest_pickle_of_tensors_is_read(saved):
    weights = load_file(saved / WEIGHTS)
    (saved / WEIGHTS).unlink()
    torch.save(weights, saved / "pytorch_model.bin")
    model, _, _ = load(saved, "cpu")
    assert model.shared.weight.equal(weights["shared.weight"])


def test_a_checkpoint_may_lack_the_row_of_the_separator(bart):
    args = ModelArguments(model_name_or_path=bart)
    tokenizer = load_tokenizer(args, 64)
    assert load_model(args, tokenizer).get_input_embeddings().num_embeddings >= len(tokenizer)


def test_a_panic_of_the_tokenizers_is_one_message():
    """It is no Exception; Ctrl-C, which is none either, goes on."""
    for raised, becomes in (("PanicException", UsageError), ("Other", BaseException)):
        error = type(raised, (BaseException,), {})("broken")
        with pytest.raises(becomes, match="broken") as caught, loading("a model", "Mend it."):
            raise error
        assert isinstance(caught.value, UsageError) == (becomes is UsageError)
