"""Rates that follow the initial weights, Muon; a schedule that may change on the way."""

import copy

import pytest
import torch
from helpers.trainers import make_trainer
from transformers import AutoConfig, AutoModelForSeq2SeqLM, BartConfig, set_seed

from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.train_arguments import parse
from seq2seq_dialog.training import optimizers
from seq2seq_dialog.training.optimizers import MuonAndAdamW, is_matrix, rate_factor, scaled_groups
from seq2seq_dialog.training.resume import schedule_agrees
from seq2seq_dialog.training_settings import DialogueTrainingArguments

SIZES = {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 3}


def new_model(family: str, **sizes):
    set_seed(1)
    config = AutoConfig.for_model(family, vocab_size=4000, **(SIZES | sizes))
    return AutoModelForSeq2SeqLM.from_config(config)


def test_the_factors_are_those_of_the_formula():
    model = new_model("t5")
    factors = {n: rate_factor(n, p, model.config) for n, p in model.named_parameters()}
    block = "decoder.block.1.layer."
    expected = {
        "shared.weight": 1,
        "encoder.final_layer_norm.weight": 1,
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": 1,
        block + "0.SelfAttention.q.weight": (64 * 16) ** -0.5,
        block + "1.EncDecAttention.q.weight": (64 * 16) ** -0.5,
        block + "1.EncDecAttention.k.weight": 64**-0.5,
        block + "1.EncDecAttention.v.weight": 64**-0.5,
        block + "1.EncDecAttention.o.weight": (3 * 16) ** -0.5,
        block + "2.DenseReluDense.wi.weight": 64**-0.5,
        block + "2.DenseReluDense.wo.weight": 96**-0.5,
    }
    assert {name: factors[name] for name in expected} == pytest.approx(expected)
    assert rate_factor("lm_head.weight", model.shared.weight, model.config) == 1


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("t5", {}),
        ("t5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
        ("mt5", {}),
        ("umt5", {}),
        ("longt5", {"encoder_attention_type": "transient-global"}),
    ],
)
def test_the_factors_are_the_scale_of_the_initial_weights(family, sizes):
    model = new_model(family, **sizes)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "relative_attention_bias" not in name:
            factor = rate_factor(name, parameter, model.config)
            assert parameter.std().item() == pytest.approx(factor, rel=0.1), name


def test_groups_keep_the_weight_decay_of_matrices_and_begin_with_the_full_rate():
    model = new_model("t5")
    decayed = {name for name, p in model.named_parameters() if p.ndim == 2}
    groups = scaled_groups(model, decayed, learning_rate=0.02, weight_decay=0.1)
    assert groups[0]["lr"] == 0.02
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert decays[id(parameter)] == (0.1 if name in decayed else 0), name


def one_step(model, optimizer) -> dict[str, torch.Tensor]:
    """By how much each tensor moves, with gradients of another size for each."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for size, parameter in enumerate(model.parameters(), 1):
        parameter.grad = torch.randn_like(parameter) * size
    optimizer.step()
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


def test_muon_moves_each_direction_of_a_matrix_as_far_and_adamw_all_else():
    model = new_model("t5", feed_forward_proj="gated-gelu")
    optimizer = MuonAndAdamW(model, 0.02, 0.0, betas=(0.9, 0.999))
    assert optimizer.param_groups[0]["lr"] == 0.02
    for name, moved in one_step(model, optimizer).items():
        if is_matrix(name, moved):
            outputs, inputs = moved.shape
            rate = 0.02 * max(1, outputs / inputs) ** 0.5 * (16**-0.5 if ".q." in name else 1)
            steps = torch.linalg.svdvals(moved) / rate
            assert steps.min() > 0.6 and steps.max() < 1.3, name  # after five iterations
        else:
            assert moved.abs().max() == pytest.approx(0.02, rel=1e-3), name
    assert all(optimizer.state[parameter] for parameter in model.parameters())


def test_muon_moves_matrices_as_that_of_torch(monkeypatch):
    """torch's is in bf16 everywhere."""
    monkeypatch.setattr(optimizers, "bf16_pays", lambda on_cpu: True)
    model = new_model("t5")
    other = copy.deepcopy(model)
    optimizer = MuonAndAdamW(model, 0.02, 0.1)
    theirs = {
        name: torch.optim.Muon([p], lr=0.02 * (16**-0.5 if ".q." in name else 1), weight_decay=0.1)
        for name, p in other.named_parameters()
        if is_matrix(name, p)
    }
    for _ in range(3):
        one_step(model, optimizer)
        copied = dict(model.named_parameters())
        for name, p in other.named_parameters():
            p.grad = copied[name].grad
            if name in theirs:
                theirs[name].step()
                assert torch.equal(p, copied[name]), name


def test_muon_is_in_fp32_where_a_cpu_has_no_fast_bf16(monkeypatch):
    """A CPU without the instructions takes minutes for a step of t5-small in bf16."""
    matrix = torch.randn(48, 96)
    exact = optimizers.orthogonal(matrix)
    monkeypatch.setattr(optimizers, "bf16_pays", lambda on_cpu: True)
    rounded = optimizers.orthogonal(matrix)
    assert exact.dtype == rounded.dtype == torch.float32
    assert torch.equal(rounded, rounded.bfloat16()) and not torch.equal(exact, exact.bfloat16())
    torch.testing.assert_close(rounded, exact, atol=0.02, rtol=0)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.linalg.svdvals(u.T @ exact @ v.T).min() > 0.6  # directions are those of before


def test_muon_lets_matrices_alone_decay():
    model = new_model("t5")
    groups = MuonAndAdamW(model, 0.02, 0.1).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert decays[id(parameter)] == (0.1 if is_matrix(name, parameter) else 0), name


@pytest.mark.parametrize("name", ["adamw_scaled", "muon_scaled"])
def test_other_families_are_refused_with_a_way_out(tokenizer, features, tmp_path, name):
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    model = AutoModelForSeq2SeqLM.from_config(BartConfig(vocab_size=99, d_model=16, **sizes))
    trainer = make_trainer(model, tokenizer, features, tmp_path, optim=name)
    with pytest.raises(UsageError, match=rf"optim is {name}.* t5.* bart .*adamw_torch_fused"):
        trainer.create_optimizer()


@pytest.mark.parametrize("flag", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_muon_is_refused_in_shards(model, tokenizer, features, tmp_path, monkeypatch, flag):
    trainer = make_trainer(model, tokenizer, features, tmp_path, optim="muon_scaled")
    monkeypatch.setattr(trainer, flag, True)
    with pytest.raises(UsageError, match=r"FSDP and DeepSpeed share them\. Take adamw_scaled"):
        trainer.create_optimizer()


@pytest.mark.slow
def test_a_new_t5_learns_what_plain_adamw_does_not(model, tokenizer, features, tmp_path):
    """The reply is the end of the context: only a model that reads its encoder can know it."""
    ends = [ids[-5:] for ids in features["input_ids"]]
    copied = features.remove_columns(["labels", "target_length"])
    copied = copied.add_column("labels", ends).add_column("target_length", [5] * len(ends))
    losses = {}
    rates = {"adamw_scaled": 0.03, "muon_scaled": 0.02, "adamw_torch_fused": 2e-3}
    for optim, rate in rates.items():
        set_seed(1)
        learner = type(model)(model.config)
        settings = {"optim": optim, "learning_rate": rate, "max_steps": 60}
        trainer = make_trainer(learner, tokenizer, copied, tmp_path / optim, **settings)
        trainer.train()
        losses[optim] = trainer.evaluate()["eval_loss"]
    assert losses["adamw_scaled"] < losses["adamw_torch_fused"] - 0.5
    assert losses["muon_scaled"] < losses["adamw_torch_fused"] - 0.5


@pytest.mark.parametrize("name", ["adamw_scaled", "muon_scaled"])
def test_resumed_equals_uninterrupted_to_the_bit(model, tokenizer, features, tmp_path, name):
    settings = {"optim": name, "weight_decay": 0.1, "save_strategy": "steps"}
    settings |= {"max_steps": 4, "save_steps": 2, "save_total_limit": 2}
    start = copy.deepcopy(model)
    trainer = make_trainer(model, tokenizer, features, tmp_path, **settings)
    trainer.train()
    resumed = make_trainer(start, tokenizer, features, tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for (tensor, one), other in zip(model.named_parameters(), start.parameters(), strict=True):
        assert torch.equal(one, other), tensor


@pytest.mark.parametrize(
    ("flags", "optim", "rate"),
    [
        (["--new_model", "{model_type: t5}"], "adamw_scaled", 0.03),
        (["--new_model", "{model_type: mt5}", "--learning_rate", "0.01"], "adamw_scaled", 0.01),
        (["--new_model", "{model_type: t5}", "--optim", "muon_scaled"], "muon_scaled", 0.02),
        (["--new_model", "{model_type: bart}"], "adamw_torch_fused", 5e-4),
        (["--model_name_or_path", "google-t5/t5-small"], "adamw_torch_fused", 5e-4),
        (["--new_model", "{model_type: t5}", "--optim", "adafactor"], "adafactor", 5e-4),
    ],
)
def test_a_new_t5_gets_its_optimizer_by_default(tmp_path, flags, optim, rate):
    training = parse([*flags, "--output_dir", str(tmp_path)]).training
    assert training.given["optim"] == optim
    assert training.given["learning_rate"] == training.learning_rate == rate
    assert training.scaled_optim == (optim if optim.endswith("_scaled") else None)


def test_an_unknown_optimizer_is_refused(tmp_path):
    with pytest.raises((UsageError, ValueError), match="adamw_scalde"):
        DialogueTrainingArguments(output_dir=str(tmp_path), optim="adamw_scalde")


STABLE = {
    "lr_scheduler_type": "warmup_stable_decay",
    "lr_scheduler_kwargs": {"num_decay_steps": 20},
    "warmup_steps": 10,
    "max_steps": 100,
}


@pytest.mark.parametrize(
    ("change", "step", "agrees"),
    [
        ({"max_steps": 200}, 80, True),  # the decay would begin with the step after this one
        ({"max_steps": 200}, 82, False),
        ({"max_steps": 60}, 40, True),
        ({"max_steps": 60}, 42, False),
        ({"max_steps": 60}, 60, False),
        ({"lr_scheduler_kwargs": {"num_decay_steps": 40}}, 60, True),
        ({"lr_scheduler_type": "constant_with_warmup", "lr_scheduler_kwargs": None}, 50, True),
        ({"warmup_steps": 0.1}, 50, True),
        ({"warmup_steps": 0.2}, 50, False),
        ({"warmup_steps": 0.1, "max_steps": 200}, 50, False),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": None}, 50, False),
        ({"lr_scheduler_kwargs": {"decay": 40}}, 50, False),
        ({"max_steps": -1}, 50, False),
    ],
)
def test_a_schedule_may_change_in_steps_to_come(change, step, agrees):
    assert schedule_agrees(STABLE, STABLE | change, step) == agrees


@pytest.mark.parametrize("kind", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_that_follows_the_loss_may_not_change(kind):
    schedule = {"lr_scheduler_type": kind, "max_steps": 100, "warmup_steps": 0}
    assert not schedule_agrees(schedule, schedule, 50)
