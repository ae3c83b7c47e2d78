"""LoRA: what is trained, what checkpoints hold, and that the result is a model as any other."""

import copy

import pytest
import torch
from helpers.families import FAMILIES, make_checkpoint
from helpers.runs import equal, weights
from helpers.trainers import make_trainer
from peft import AutoPeftModelForSeq2SeqLM
from safetensors.torch import load_file, save_file
from transformers import set_seed

from seq2seq_dialog.data.features import encode_rows
from seq2seq_dialog.decoding.generation_config import generation_config
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.hub.publish_model import publish
from seq2seq_dialog.method_settings import LoraArguments
from seq2seq_dialog.models.build import load_model
from seq2seq_dialog.models.tokenizer import load_tokenizer
from seq2seq_dialog.portable.context import TURN_SEPARATOR, encode_context
from seq2seq_dialog.run_folder import read_json, write_json
from seq2seq_dialog.serve.inference import load
from seq2seq_dialog.settings import DataArguments, DecodingArguments, ModelArguments
from seq2seq_dialog.train_arguments import parse
from seq2seq_dialog.training.lora import add_adapter, merge

RANK_4 = LoraArguments(lora_r=4)
FEED_FORWARD = ("dense", "mlp", "fc1", "feed_forward", "intermediate")


def learn(model, batch, steps=2):
    """Train the weights that are not frozen."""
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch).logits.square().mean().backward()
        optimizer.step()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 60, (2, 18), generator=generator)
    return {"input_ids": ids[:, :12], "decoder_input_ids": ids[:, 12:]}


@pytest.mark.parametrize("family", FAMILIES)
def test_both_halves_of_every_family_learn_and_merge(family, batch, tmp_path):
    args = ModelArguments(model_name_or_path=make_checkpoint(family, tmp_path))
    tokenizer = load_tokenizer(args, 32)
    model = load_model(args, tokenizer).eval()
    separator = tokenizer.convert_tokens_to_ids(TURN_SEPARATOR)
    batch["input_ids"][:, 4] = separator
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    embedding = model.get_input_embeddings().weight.clone()
    adapted = add_adapter(model, RANK_4, tokenizer)
    learn(adapted, batch)
    moved = {
        name for name, tensor in adapted.named_parameters() if "lora_B" in name and tensor.any()
    }
    for half in ("encoder", "decoder"):
        names = [name for name in moved if f"{half}." in name]
        assert {name.split(".lora_B")[0] for name in names if "att" in name.lower()}, half
        assert any(part in name.lower() for name in names for part in FEED_FORWARD), half
    with torch.no_grad():
        expected = adapted(**batch).logits
        merged = merge(adapted)
        torch.testing.assert_close(merged(**batch).logits, expected, atol=1e-3, rtol=1e-3)
    assert type(merged) is type(model)
    assert not all(tensor.equal(before[name]) for name, tensor in merged.named_parameters())
    changed = (merged.get_input_embeddings().weight != embedding).any(dim=1)  # (tokens,)
    expected = [] if family == "Marian" else [separator]
    assert changed.nonzero().flatten().tolist() == expected


@pytest.fixture
def adapted_bart(bart, rows):
    """Make a BART whose embedding has grown, with an adapter, its tokenizer and features."""
    args = ModelArguments(model_name_or_path=bart)

    def make(**options):
        set_seed(3)
        tokenizer = load_tokenizer(args, 64)
        model = load_model(args, tokenizer, options.get("lora_base_dtype", "float32"))
        model.generation_config = generation_config(DecodingArguments(max_new_tokens=5), model)
        limits = DataArguments(max_source_length=64, max_target_length=32)
        lora = LoraArguments(**{"lora_r": 4, "lora_dropout": 0.1} | options)
        return add_adapter(model, lora, tokenizer), tokenizer, encode_rows(rows, tokenizer, limits)

    return make


SAVING = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}


def test_a_checkpoint_holds_the_adapter_and_the_run_goes_on_to_the_bit(adapted_bart, tmp_path):
    whole = make_trainer(*adapted_bart(), tmp_path / "run", **SAVING)
    whole.train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    saved = load_file(checkpoint / "adapter_model.safetensors")
    assert sum("lora_" not in name for name in saved) == 1  # the row of __eou__
    assert all("lora_" in name or "trainable_tokens" in name for name in saved)
    assert not (checkpoint / "model.safetensors").exists()
    resumed = make_trainer(*adapted_bart(), tmp_path / "again", **SAVING)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    for trainer in (whole, resumed):
        assert trainer.state.global_step == 4
        trainer.merge_adapter()
        trainer.save_model(str(tmp_path / str(id(trainer))))
    one, other = (weights(tmp_path / str(id(trainer))) for trainer in (whole, resumed))
    assert equal(one, other) and "model.encoder.layers.0.fc1.weight" in one


def test_a_training_that_had_ended_is_loaded_from_checkpoint_or_root(adapted_bart, tmp_path):
    ended = make_trainer(*adapted_bart(), tmp_path / "run", **SAVING)
    ended.train()
    ended.merge_adapter()
    ended.save_model(str(tmp_path / "run"))
    ended.state.save_to_json(str(tmp_path / "run" / "trainer_state.json"))
    expected = weights(tmp_path / "run")
    for folder in ("run", "run/checkpoint-4"):
        trainer = make_trainer(*adapted_bart(), tmp_path / "run", **SAVING)
        trainer.train(resume_from_checkpoint=str(tmp_path / folder))
        trainer.merge_adapter()
        for name, tensor in expected.items():
            assert trainer.model.state_dict()[name].equal(tensor), (folder, name)
    replies = trainer.predict(trainer.eval_dataset.select(range(3))).predictions
    assert len(replies) == 3


def test_frozen_weights_may_be_bf16_under_an_adapter_in_fp32(adapted_bart, batch):
    model, _, _ = adapted_bart(lora_base_dtype="bfloat16")
    kinds = {tensor.requires_grad: tensor.dtype for tensor in model.parameters()}
    assert kinds == {False: torch.bfloat16, True: torch.float32}
    learn(model, batch)
    assert {tensor.dtype for tensor in merge(model).parameters()} == {torch.float32}


def test_activation_checkpointing_gives_the_same_gradients(adapted_bart, tmp_path):
    trained = []
    for activation_checkpointing in (False, True):
        model, tokenizer, features = adapted_bart(lora_dropout=0.0)
        trainer = make_trainer(
            model, tokenizer, features, tmp_path, max_steps=2,
            activation_checkpointing=activation_checkpointing,
        )  # fmt: skip
        trainer.train()
        trained.append({n: p.detach() for n, p in model.named_parameters() if p.requires_grad})
    assert any("lora_B" in name and tensor.any() for name, tensor in trained[0].items())
    for name, tensor in trained[0].items():
        torch.testing.assert_close(tensor, trained[1][name])


def test_layers_are_chosen_by_name(model, tokenizer):
    args = LoraArguments(lora_r=2, lora_target_modules="q, v")
    adapted = add_adapter(copy.deepcopy(model), args, tokenizer)
    layers = {
        name.split(".lora_")[0][-2:] for name, _ in adapted.named_parameters() if "lora" in name
    }
    assert layers == {".q", ".v"}
    assert {config.lora_alpha for config in adapted.peft_config.values()} == {4}
    with pytest.raises(UsageError, match=r"lora_target_modules is 'query'.* t5 model: Target mod"):
        add_adapter(model, LoraArguments(lora_r=2, lora_target_modules="query"), tokenizer)


def test_a_row_that_was_trained_before_stays(model, tokenizer, tmp_path):
    assert tokenizer.separator_is_new
    tokenizer.save_pretrained(tmp_path)
    known = load_tokenizer(ModelArguments(model_name_or_path=str(tmp_path)), 64)
    assert not known.separator_is_new
    adapted = add_adapter(model, RANK_4, known)
    assert not any("tokens" in name for name, p in adapted.named_parameters() if p.requires_grad)


def test_models_that_cannot_be_adapted_are_refused(make_rnn, tokenizer, model):
    model.config.model_type = "marian"
    with pytest.raises(UsageError, match="lora_merge is false, but an adapter for a marian model"):
        add_adapter(model, LoraArguments(lora_r=4, lora_merge=False), tokenizer)
    with pytest.raises(UsageError, match="hardly a layer that LoRA could adapt"):
        add_adapter(make_rnn(), RANK_4, tokenizer)


# An adapter by itself


@pytest.fixture
def alone(adapted_bart, tmp_path):
    """A folder with an adapter that was not merged, and a model of both."""
    trainer = make_trainer(*adapted_bart(), tmp_path / "work")
    trainer.train()
    trainer.save_model(str(tmp_path / "run"))
    trainer.merge_adapter()
    return tmp_path / "run", trainer.model.eval()


def test_an_adapter_loads_with_its_base(alone):
    folder, merged = alone
    assert not (folder / "model.safetensors").exists() and not (folder / "config.json").exists()
    model, tokenizer, _ = load(folder, "cpu")
    ids = torch.tensor([encode_context(["Hi!", "Tea?"], tokenizer)])
    batch = {"input_ids": ids, "decoder_input_ids": ids[:, :3]}
    others = AutoPeftModelForSeq2SeqLM.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = merged(**batch).logits
        for each in (model, others):
            rows = each(**batch).logits.shape[-1]  # the trained one has grown by more
            torch.testing.assert_close(each(**batch).logits, expected[..., :rows])
    assert model.generation_config.max_new_tokens == 5 and model.name_or_path == str(folder)
    assert type(model) is type(merged)


def test_an_adapter_that_cannot_be_used_is_refused(alone, monkeypatch):
    folder, _ = alone
    with pytest.raises(UsageError, match=r"holds an adapter .*train with lora_merge true"):
        publish(folder, "ann/bot", dry_run=True)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors[next(name for name in tensors if "lora_" in name)]
    save_file(tensors, path)
    with pytest.raises(UsageError, match="its adapter lacks 1 weights"):
        load(folder, "cpu")
    config = read_json(folder / "adapter_config.json")
    write_json(folder / "adapter_config.json", config | {"base_model_name_or_path": "/gone/bart"})
    with pytest.raises(UsageError, match="'/gone/bart'"):
        load(folder, "cpu")
    monkeypatch.setattr("seq2seq_dialog.models.loading.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="holds an adapter, which needs peft: pip install peft"):
        load(folder, "cpu")


def test_the_end_of_a_run_is_loaded_from_an_adapter_at_its_root(adapted_bart, alone, tmp_path):
    folder, merged = alone
    state = {"global_step": 4, "max_steps": 4, "num_train_epochs": 1}
    write_json(folder / "trainer_state.json", state)
    again = make_trainer(*adapted_bart(), folder)
    again.train(resume_from_checkpoint=str(folder))
    again.merge_adapter()
    assert equal(again.model.state_dict(), merged.state_dict())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--lora_r -1", "lora_r is -1; it must be at least 0"),
        ("--lora_r 8 --lora_alpha 0", "lora_alpha is 0.0; it must be above 0"),
        ("--lora_r 8 --lora_dropout 1", "lora_dropout is 1.0; it must be at least 0 and below 1"),
        ("--lora_r 8 --lora_base_dtype fp8", "lora_base_dtype is 'fp8'; it must be one of float32"),
        ("--lora_alpha 8", "lora_alpha has no effect without LoRA: set lora_r"),
        ("--lora_merge false", "lora_merge has no effect without LoRA"),
        ("--lora_base_dtype bfloat16", "lora_base_dtype has no effect without LoRA"),
        ('--lora_r 8 --new_model {"model_type":"t5"}', "a new model has no weights yet"),
        ("--lora_r 8 --adversarial true", "adversarial does not work with LoRA"),
        ("--lora_r 8 --optim adamw_scaled", "adamw_scaled does not work with LoRA"),
    ],
)
def test_wrong_settings_are_refused(flags, message):
    start = [] if "new_model" in flags else ["--model_name_or_path", "m"]
    with pytest.raises(UsageError, match=message):
        parse([*start, *flags.split()])


def test_without_peft_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("seq2seq_dialog.checks.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="lora_r is 8, which needs peft: pip install peft"):
        parse(["--model_name_or_path", "m", "--lora_r", "8"])


def test_a_run_without_lora_keeps_its_config(tmp_path):
    assert not any("lora" in name for name in parse(["--model_name_or_path", "m"]).as_config())
    assert parse(["--model_name_or_path", "m", "--lora_r", "8"]).as_config()["lora_r"] == 8
