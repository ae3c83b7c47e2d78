"""Training learns, is exact under accumulation and resuming, and evaluates exactly."""

import copy
import math
import traceback
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.trainers import make_trainer
from rich.console import Console
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    BlenderbotConfig,
    BlenderbotForConditionalGeneration,
    EarlyStoppingCallback,
    GenerationConfig,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    set_seed,
)
from transformers.trainer_callback import TrainerState

from seq2seq_dialog.data.batching import TokenBudgetSampler
from seq2seq_dialog.decoding.generation_config import generation_config
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.evaluation.metrics import ReplyMetric
from seq2seq_dialog.method_settings import AdversarialArguments
from seq2seq_dialog.portable.modeling_rnn import shift_right
from seq2seq_dialog.serve.inference import generate_response
from seq2seq_dialog.settings import DecodingArguments
from seq2seq_dialog.train import main, prepare_model
from seq2seq_dialog.train_arguments import parse
from seq2seq_dialog.training.adversarial import AdversarialTrainer
from seq2seq_dialog.training.evaluating import encode_sources, token_nll
from seq2seq_dialog.training.sharding import check_checkpoint, check_sharding, share_embedding
from seq2seq_dialog.training_settings import DialogueTrainingArguments

LABELS = torch.tensor([[3, 1, -100], [0, 2, 1]])  # (batch, target_len)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_token_nll_is_the_negative_log_softmax_and_0_at_padding():
    logits = torch.randn(2, 3, 5)  # (batch, target_len, vocab)
    nll = token_nll(logits, LABELS)
    assert nll[0, 2] == 0
    assert nll[1, 1].item() == pytest.approx(-torch.log_softmax(logits[1, 1], -1)[2].item())


def test_label_smoothing_by_hand():
    logits = torch.randn(2, 3, 5)
    logp = torch.log_softmax(logits, -1)
    smooth = token_nll(logits, LABELS, 0.1)
    expected = 0.9 * -logp[0, 0, 3] + 0.1 * -logp[0, 0].mean()
    assert smooth[0, 0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_decoder_inputs_are_the_shifted_labels(model, tokenizer, features, tmp_path):
    trainer = make_trainer(model, tokenizer, features, tmp_path)
    examples = [{"input_ids": [5, 1], "labels": [7, 8, 1]}, {"input_ids": [5], "labels": [9]}]
    inputs = trainer._prepare_inputs(trainer.data_collator(examples))
    assert inputs["decoder_input_ids"].tolist() == [[0, 7, 8], [0, 9, 0]]


def test_every_parameter_moves_and_the_loss_falls(model, tokenizer, features, tmp_path):
    before = weights(model)
    trainer = make_trainer(
        model, tokenizer, features, tmp_path, max_steps=60, learning_rate=1e-2, warmup_steps=2
    )
    trainer.train()
    still = [name for name, tensor in model.state_dict().items() if before[name].equal(tensor)]
    assert still == []
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert sum(losses[-5:]) / 5 < losses[0] - 1
    assert losses[0] == pytest.approx(math.log(512), rel=0.15)  # a new model guesses


def test_the_losses_are_pinned(model, tokenizer, features, tmp_path):
    trainer = make_trainer(model, tokenizer, features, tmp_path)
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses == pytest.approx([6.7573, 6.6734, 6.5527, 6.5799], abs=2e-3)


def test_a_target_token_weighs_the_same_in_every_batch(model, tokenizer, features, tmp_path):
    """The gradient of each step is that of its tokens' sum, over a number that is always equal."""
    plain = copy.deepcopy(model.config)
    plain.dropout_rate = 0.0
    model = T5ForConditionalGeneration(plain)
    before = copy.deepcopy(model)
    settings = {"optim": "sgd", "learning_rate": 1.0, "warmup_steps": 0, "max_grad_norm": 0}
    lengths = list(zip(features["source_length"], features["target_length"], strict=True))
    count = len(TokenBudgetSampler(lengths, 700))
    settings |= {"tokens_per_batch": 700, "gradient_accumulation_steps": 2, "max_steps": 1}
    trainer = make_trainer(model, tokenizer, features, tmp_path, **settings)
    trainer.train()
    batches = [batch for batch, _ in zip(trainer.get_train_dataloader(), range(2), strict=False)]
    nll = sum(
        token_nll(before(**trainer._prepare_inputs(batch)).logits, batch["labels"]).sum()
        for batch in batches
    )
    mean = sum(features["target_length"]) / count
    tokens = sum(int(batch["labels"].ne(-100).sum()) for batch in batches)
    assert abs(tokens - 2 * mean) > 5
    (nll / (2 * mean)).backward()
    for (name, moved), old in zip(model.named_parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(moved, old - old.grad, atol=2e-6, rtol=1e-4, msg=name)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(nll.item() / tokens, rel=1e-5)


def test_logs_show_the_mean_over_all_tokens_since_the_last(model, tokenizer, features, tmp_path):
    model.config.dropout_rate = 0.0
    model = T5ForConditionalGeneration(model.config)
    trainer = make_trainer(
        model, tokenizer, features, tmp_path, learning_rate=0.0, logging_steps=3, max_steps=6
    )
    trainer.train()
    batches = [batch for batch, _ in zip(trainer.get_train_dataloader(), range(6), strict=False)]
    logged = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    for some, loss in zip((batches[:3], batches[3:]), logged, strict=True):
        nll = tokens = 0
        for batch in some:
            inputs = trainer._prepare_inputs(batch)
            nll += token_nll(model(**inputs).logits, batch["labels"]).sum().item()
            tokens += int(batch["labels"].ne(-100).sum())
        assert loss == pytest.approx(nll / tokens, rel=1e-5)


def test_accumulated_small_batches_equal_one_large_batch(model, tokenizer, features, tmp_path):
    plain = copy.deepcopy(model.config)
    plain.dropout_rate = 0.0
    model = T5ForConditionalGeneration(plain)
    options = {"optim": "sgd", "learning_rate": 1.0, "max_steps": 1, "warmup_steps": 0}
    lengths = list(zip(features["source_length"], features["target_length"], strict=True))
    small = len(TokenBudgetSampler(lengths, 700))
    assert small > 8
    results = []
    for budget, accumulation in ((700, small), (10**9, 1)):
        twin = copy.deepcopy(model)
        make_trainer(
            twin,
            tokenizer,
            features,
            tmp_path,
            tokens_per_batch=budget,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=0,
            **options,
        ).train()
        results.append(weights(twin))
    for name, tensor in results[0].items():
        torch.testing.assert_close(tensor, results[1][name], atol=2e-6, rtol=1e-4, msg=name)
    assert not results[0]["shared.weight"].equal(model.state_dict()["shared.weight"])


@pytest.mark.parametrize("stop", [3, 14, 20])
def test_resumed_equals_uninterrupted_bit_for_bit(model, tokenizer, features, tmp_path, stop):
    def run(folder, resume=None):
        set_seed(42)
        twin = copy.deepcopy(model)
        trainer = make_trainer(
            twin,
            tokenizer,
            features,
            tmp_path / folder,
            tokens_per_batch=1024,
            max_steps=22,
            save_strategy="steps",
            save_steps=stop,
            save_total_limit=None,
            eval_strategy="steps",
            eval_steps=stop,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run("whole")
    steps_per_epoch = len(whole.get_train_dataloader())
    assert 3 < steps_per_epoch < 20  # the stops lie in the first and in later epochs
    resumed = run("resumed", resume=str(tmp_path / "whole" / f"checkpoint-{stop}"))
    assert resumed.state.global_step == 22
    for name, tensor in whole.model.state_dict().items():
        assert resumed.model.state_dict()[name].equal(tensor), name
    figures = ("eval_loss", "eval_perplexity")
    first, second = (
        [log.get(f) for f in figures] for log in (whole.evaluate(), resumed.evaluate())
    )
    assert first == second


@pytest.mark.parametrize("patience", [None, 1])
def test_a_run_that_had_ended_is_not_trained_on(
    model, tokenizer, features, tmp_path, patience, caplog
):
    """Killed after its last step, in the middle of an epoch or where patience ran out."""

    def run(resume=None):
        set_seed(42)
        trainer = make_trainer(
            copy.deepcopy(model),
            tokenizer,
            features,
            tmp_path / "run",
            max_steps=12,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            warmup_steps=0,
            save_strategy="steps",
            save_steps=3,
            save_total_limit=None,
            eval_strategy="steps",
            eval_steps=3,
        )
        if patience:
            # No evaluation is better by 100 nats.
            trainer.add_callback(EarlyStoppingCallback(patience, early_stopping_threshold=100))
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run()
    steps = whole.state.global_step
    assert steps == 12 if patience is None else steps < 12
    resumed = run(resume=str(tmp_path / "run" / f"checkpoint-{steps}"))
    assert resumed.state.global_step == steps
    best = f"checkpoint-{whole.state.best_global_step}/model.safetensors"
    best = load_file(tmp_path / "run" / best)
    for name, tensor in whole.model.state_dict().items():
        assert resumed.model.state_dict()[name].equal(tensor), name
        assert name not in best or best[name].equal(tensor), name
    assert "missing keys" not in caplog.text  # tied weights are saved once


def test_evaluation_is_the_mean_over_tokens_of_single_examples(
    model, tokenizer, features, tmp_path
):
    some = features.select(range(50))
    nll = tokens = 0
    model.eval()
    for example in some:
        labels = torch.tensor([example["labels"]])
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([example["input_ids"]]), labels=labels).loss
        nll += loss.item() * labels.numel()
        tokens += labels.numel()
    for budget in (64, 700, 10**6):
        trainer = make_trainer(model, tokenizer, features, tmp_path, eval_tokens_per_batch=budget)
        metrics = trainer.evaluate(some)
        assert metrics["eval_loss"] == pytest.approx(nll / tokens, rel=1e-5)
        assert metrics["eval_perplexity"] == pytest.approx(math.exp(nll / tokens), rel=1e-4)
        assert metrics["eval_target_tokens"] == tokens


@pytest.mark.parametrize("num_beams", [1, 3])
def test_predictions_are_the_replies_to_single_contexts_in_order(
    num_beams, model, tokenizer, features, tmp_path
):
    model.generation_config.num_beams = num_beams
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)  # replies that depend on the context
    model.eval()
    trainer = make_trainer(model, tokenizer, features, tmp_path)
    some = features.select(range(30))
    output = trainer.predict(some)
    replies = [prediction["reply"] for prediction in output.predictions]
    assert len(set(replies)) > 20
    for example, prediction in zip(some, output.predictions, strict=True):
        labels = torch.tensor([example["labels"]])
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([example["input_ids"]]), labels=labels).loss
        assert prediction["nll"] == pytest.approx(loss.item() * labels.numel(), rel=1e-4)
        if not example["target_cut"]:
            assert prediction["bytes"] == len(example["response"].encode())
    assert replies == [generate_response(row["context"], model, tokenizer) for row in some]
    assert sum(p["tokens"] for p in output.predictions) == output.metrics["test_target_tokens"]
    scored = ReplyMetric(keep_in_memory=True).compute(
        predictions=replies, references=list(some["response"])
    )
    assert output.metrics["test_bleu"] == scored["bleu"]
    assert output.metrics["test_chrf"] == scored["chrf"]


def test_the_context_gain_is_what_the_context_of_another_example_costs(
    model, tokenizer, features, tmp_path
):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    some = features.select(range(12))
    trainer = make_trainer(model, tokenizer, features, tmp_path, eval_tokens_per_batch=10**6)
    output = trainer.predict(some)
    order = list(next(iter(trainer.get_eval_dataloader(some).batch_sampler)))
    gain = tokens = 0
    model.eval()
    for i, before in zip(order, [order[-1], *order[:-1]], strict=True):
        labels, source = (
            torch.tensor([some[j][k]]) for j, k in ((i, "labels"), (before, "input_ids"))
        )
        with torch.no_grad():
            nll = model(input_ids=source, labels=labels).loss.item() * labels.numel()
        assert output.predictions[i]["exchanged_nll"] == pytest.approx(nll, rel=1e-4)
        gain += nll - output.predictions[i]["nll"]
        tokens += labels.numel()
    assert output.metrics["test_context_gain"] == pytest.approx(gain / tokens, rel=1e-3)
    # A lone example has no other context, and so no gain.
    lone = make_trainer(model, tokenizer, features, tmp_path, eval_tokens_per_batch=1).predict(some)
    assert {row["exchanged_nll"] for row in lone.predictions} == {None}
    assert lone.metrics["test_context_gain"] == 0


def test_evaluation_batches_leave_room_for_beams_and_candidates(
    model, tokenizer, features, tmp_path
):
    trainer = make_trainer(model, tokenizer, features, tmp_path, eval_tokens_per_batch=2000)
    sizes = []
    for decoding in ({}, {"num_beams": 4}, {"do_sample": True, "candidates": 10}):
        model.generation_config = GenerationConfig(**decoding)
        sizes.append(max(map(len, trainer.get_eval_dataloader(features).batch_sampler)))
    assert sizes[0] >= 3 * sizes[1] and sizes[1] >= 2 * sizes[2]


def test_a_cut_target_counts_the_bytes_that_are_left(model, tokenizer, features, tmp_path):
    labels = features[0]["labels"][:2]
    cut = features.select([0]).remove_columns(["labels", "target_cut"])
    cut = cut.add_column("labels", [labels]).add_column("target_cut", [True])
    trainer = make_trainer(model, tokenizer, features, tmp_path)
    text = tokenizer.decode(labels)
    assert trainer.predict(cut).predictions[0]["bytes"] == len(text) < len(features[0]["response"])


def test_the_model_replies_where_that_is_asked_for_and_nowhere_else(
    model, tokenizer, features, tmp_path
):
    trainer = make_trainer(model, tokenizer, features, tmp_path)
    few = features.select(range(4))
    assert all(isinstance(x["reply"], str) for x in trainer.predict(few).predictions)
    assert "eval_bleu" not in trainer.evaluate(few)  # also after a prediction
    trainer.args.predict_with_generate = True
    assert "eval_bleu" in trainer.evaluate(few)


def test_the_progress_shows_the_figures_of_the_trainer(
    model, tokenizer, features, tmp_path, capsys
):
    settings = {"disable_tqdm": False, "eval_strategy": "steps", "eval_steps": 2}
    settings |= {"predict_with_generate": True, "load_best_model_at_end": False}
    trainer = make_trainer(model, tokenizer, features, tmp_path, **settings)
    trainer.train()
    out, bar = capsys.readouterr()
    logs = [log for log in trainer.state.log_history if "eval_loss" in log]
    for log, line in zip(logs, [x for x in out.splitlines() if "validation" in x], strict=True):
        for figure in (
            f"step {log['step']:>6}",
            f"validation loss {log['eval_loss']:.4f}",
            f"bits per byte {log['eval_bits_per_byte']:.3f}",
        ):
            assert figure in line
        assert f"perplexity {log['eval_perplexity']:,.2f}" in line
        assert f"BLEU {log['eval_bleu']:.1f}" in line
    assert "loss=" in bar and "tokens/s=" in bar


def test_evaluation_while_training_can_choose_by_bleu(model, tokenizer, features, tmp_path):
    trainer = make_trainer(
        model,
        tokenizer,
        features,
        tmp_path,
        predict_with_generate=True,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        metric_for_best_model="bleu",
    )
    trainer.train()
    assert trainer.args.greater_is_better
    scores = [log["eval_bleu"] for log in trainer.state.log_history if "eval_bleu" in log]
    assert len(scores) == 2 and trainer.state.best_metric == max(scores)


def test_throughput_counts_real_tokens(model, tokenizer, features, tmp_path, monkeypatch):
    seen, trainer = [], None
    # A step a second.
    monkeypatch.setattr("time.perf_counter", lambda: trainer.state.global_step if trainer else 0)
    trainer = make_trainer(model, tokenizer, features, tmp_path, max_steps=3)
    trainer.train()
    loader = trainer.get_train_dataloader()
    for batch, _ in zip(loader, range(3), strict=False):
        seen.append(int(batch["attention_mask"].sum() + (batch["labels"] != -100).sum()))
    logged = [log["tokens_per_second"] for log in trainer.state.log_history if "loss" in log]
    assert logged == seen


def test_fp16_is_refused_for_t5(model, tokenizer, features, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")  # what accelerate launch sets
    with pytest.raises(UsageError, match=r"fp16 does not work for t5.*65,504.*Use bf16 or fp32"):
        make_trainer(model, tokenizer, features, tmp_path)


def test_a_model_that_cannot_be_trained_so_is_refused_before_pairs_are_encoded(tokenizer):
    sizes = '{"model_type": "rnn_seq2seq", "embedding_size": 8, "hidden_size": 8}'
    settings = parse(["--new_model", sizes, "--activation_checkpointing", "true"])
    with pytest.raises(UsageError, match="activation_checkpointing does not work for a rnn_seq"):
        prepare_model(settings, tokenizer, Console())


def test_attention_is_not_planned_for_each_shape(model, tokenizer, features, tmp_path):
    torch.backends.cuda.enable_cudnn_sdp(True)
    make_trainer(model, tokenizer, features, tmp_path)
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_a_model_whose_replies_cannot_begin_is_refused(model, tokenizer, features, tmp_path):
    model.config.decoder_start_token_id = None
    with pytest.raises(UsageError, match=r"no decoder_start_token_id.*takes its pad_token_id"):
        make_trainer(model, tokenizer, features, tmp_path)


def test_bf16_is_refused_on_a_cpu_without_its_instructions(
    model, tokenizer, features, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    with pytest.raises(UsageError, match=r"bf16 asks for bfloat16, but this CPU has no inst"):
        make_trainer(model, tokenizer, features, tmp_path, bf16=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # what accelerate launch sets
    with pytest.raises(UsageError, match=r"Leave bf16 out, or set it to false"):
        make_trainer(model, tokenizer, features, tmp_path, bf16=None)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    with pytest.raises(UsageError, match=r"lora_base_dtype asks.* or set it to float32"):
        make_trainer(copy.deepcopy(model).bfloat16(), tokenizer, features, tmp_path)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"neon": True, "bf16": True})
    make_trainer(model, tokenizer, features, tmp_path, bf16=True)


def test_several_gpus_need_a_process_each(model, tokenizer, features, tmp_path, monkeypatch):
    monkeypatch.setattr(DialogueTrainingArguments, "n_gpu", 2)
    with pytest.raises(UsageError, match=r"There are 2 GPUs, but one process.*accelerate launch"):
        make_trainer(model, tokenizer, features, tmp_path)
    with pytest.raises(UsageError, match="There are 2 GPUs"):  # before the dialogues are read
        main(["demo", "--data", str(tmp_path / "nowhere"), "--output_dir", str(tmp_path / "run")])


def sharded(monkeypatch, kind, number):
    """Let trainers believe that accelerate has set up FSDP (its version) or DeepSpeed (a stage)."""
    create = Trainer.create_accelerator_and_postprocess

    def enabled(self):
        create(self)
        setattr(self, f"is_{kind}_enabled", True)
        plugin = SimpleNamespace(fsdp_version=number, zero_stage=number)
        monkeypatch.setattr(AcceleratorState, f"{kind}_plugin", plugin, raising=False)

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", enabled)


@pytest.mark.parametrize(
    ("kind", "number", "settings", "message"),
    [
        ("fsdp", 1, {}, r"fsdp_version is 1; it must be 2, as in configs/accelerate/fsdp"),
        ("deepspeed", 3, {}, r"zero_stage is 3; it must be at most 2.*configs/accelerate/fsdp"),
        ("fsdp", 2, {"torch_compile": True}, "torch_compile does not go with FSDP"),
        ("deepspeed", 2, {"tokens_per_batch": "auto"}, "auto, which DeepSpeed does not allow"),
    ],
)
def test_what_shards_cannot_do_is_refused(
    model, tokenizer, features, tmp_path, monkeypatch, kind, number, settings, message
):
    sharded(monkeypatch, kind, number)
    with pytest.raises(UsageError, match=message):
        make_trainer(model, tokenizer, features, tmp_path, **settings)


@pytest.mark.parametrize("kind", ["fsdp", "deepspeed"])
@pytest.mark.parametrize("decoding", [{"guidance_weight": 0.5}, {"candidates": 3, "num_beams": 3}])
def test_shards_are_not_evaluated_with_guidance_or_candidates(
    model, tokenizer, features, tmp_path, monkeypatch, kind, decoding
):
    sharded(monkeypatch, kind, 2)
    model.generation_config = generation_config(DecodingArguments(**decoding), model)
    way_out = r"do not go with .*--candidates 1 --guidance_weight 0"
    with pytest.raises(UsageError, match=way_out):
        make_trainer(model, tokenizer, features, tmp_path)


def test_a_recurrent_model_is_not_sharded(make_rnn, tokenizer, features, tmp_path, monkeypatch):
    sharded(monkeypatch, "fsdp", 2)
    with pytest.raises(UsageError, match=r"rnn_seq2seq model has no layers that FSDP.*gpus.yaml"):
        make_trainer(make_rnn(), tokenizer, features, tmp_path)


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_shards_without_a_gpu_are_refused(model, tokenizer, features, tmp_path, monkeypatch, kind):
    trainer = make_trainer(model, tokenizer, features, tmp_path)
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")  # accelerate heeds it on GPUs alone
    with pytest.raises(UsageError, match=r"on GPUs alone, and this is a CPU.*accelerate/cpu.yaml"):
        check_sharding(trainer)


@pytest.mark.parametrize(("kind", "number"), [("fsdp", 2), ("deepspeed", 2)])
def test_adversarial_training_is_not_sharded(
    model, tokenizer, features, tmp_path, monkeypatch, kind, number
):
    sharded(monkeypatch, kind, number)
    args = DialogueTrainingArguments(
        output_dir=str(tmp_path), eval_strategy="no", use_cpu=True, report_to="none"
    )
    settings = AdversarialArguments(collapse_threshold=0)
    with pytest.raises(UsageError, match=r"Adversarial training does not work with FSDP.*gpus"):
        AdversarialTrainer(
            model,
            args,
            tokenizer,
            settings,
            train_dataset=features,
        )


@pytest.mark.parametrize(
    ("shards", "kind"), [("pytorch_model_fsdp_0", "FSDP"), ("global_step8", "DeepSpeed")]
)
def test_shards_are_not_gone_on_from_without_them(
    model, tokenizer, features, tmp_path, shards, kind
):
    (tmp_path / "checkpoint-8" / shards).mkdir(parents=True)
    state = TrainerState(stateful_callbacks={"TrainerControl": {"args": {}, "attributes": {}}})
    state.save_to_json(str(tmp_path / "checkpoint-8" / "trainer_state.json"))
    trainer = make_trainer(model, tokenizer, features, tmp_path)
    with pytest.raises(UsageError, match=f"written with {kind}, and this run has neither FSDP"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    with pytest.raises(UsageError, match=f"written with {kind}, and this run has .*go on with"):
        check_checkpoint(tmp_path / "checkpoint-8", {"FSDP": "DeepSpeed"}.get(kind, "FSDP"))


def test_modules_that_share_the_embedding_become_one(model):
    inputs = {"input_ids": torch.tensor([[5, 6, 1]]), "labels": torch.tensor([[7, 1]])}
    model.eval()
    before = model(**inputs).logits
    share_embedding(model)
    assert model.encoder.embed_tokens is model.shared is model.decoder.embed_tokens
    assert model.lm_head is not model.shared and model.lm_head.weight is model.shared.weight
    assert model(**inputs).logits.equal(before)


def test_a_step_reads_nothing_from_the_device(model, tokenizer, features, tmp_path):
    """On a GPU each value that Python reads, as `item` or a condition, waits for all before it."""

    class Steps(TrainerCallback):
        inside = False

        def on_step_begin(self, *args, **kwargs):
            self.inside = True

        def on_step_end(self, *args, **kwargs):
            self.inside = False

    steps, read = Steps(), []

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if steps.inside and function.overloadpacket is torch.ops.aten._local_scalar_dense:
                read.append("".join(traceback.format_stack()))
            return function(*args, **(kwargs or {}))

    trainer = make_trainer(
        model, tokenizer, features, tmp_path, logging_steps=50, logging_nan_inf_filter=False
    )
    trainer.add_callback(steps)
    with Reads():
        trainer.train()
    assert not read, f"{len(read)} times, first:\n{read[0]}"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_step_does_not_wait_for_the_gpu(model, tokenizer, features, tmp_path):
    class Steps(TrainerCallback):
        def on_step_end(self, args, state, *rest, **kwargs):
            torch.cuda.set_sync_debug_mode("error" if 2 <= state.global_step < 7 else "default")

    trainer = make_trainer(
        model,
        tokenizer,
        features,
        tmp_path,
        max_steps=8,
        logging_steps=50,
        logging_nan_inf_filter=False,
        use_cpu=False,
    )
    trainer.add_callback(Steps())
    try:
        trainer.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.state.global_step == 8
    assert "forward" in vars(model.encoder.final_layer_norm)  # fused


def test_batches_that_cannot_be_shared_out_are_refused(model, tokenizer, features, tmp_path):
    with pytest.raises(UsageError, match="0 training examples are too few"):
        trainer = make_trainer(model, tokenizer, features, tmp_path)
        trainer.train_dataset = features.select([])
        trainer.get_train_dataloader()


def test_a_family_without_a_shift_of_its_own_trains(tokenizer, features, tmp_path):
    config = BlenderbotConfig(
        vocab_size=512, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, max_position_embeddings=64, pad_token_id=0, bos_token_id=0,
        eos_token_id=1, decoder_start_token_id=0, forced_eos_token_id=None,
    )  # fmt: skip
    blenderbot = BlenderbotForConditionalGeneration(config)
    assert not hasattr(blenderbot, "prepare_decoder_input_ids_from_labels")
    trainer = make_trainer(blenderbot, tokenizer, features, tmp_path)
    trainer.train()
    assert trainer.state.global_step == 4


def test_shifting_labels_is_what_t5_does(model):
    labels = torch.tensor([[7, 8, 1], [9, 1, -100]])
    expected = model.prepare_decoder_input_ids_from_labels(labels=labels)
    assert shift_right(labels, pad_token_id=0, start_token_id=0).equal(expected)


def test_sampling_in_an_evaluation_does_not_disturb_the_training(
    model, tokenizer, features, tmp_path
):
    model.generation_config.do_sample = True
    results = []
    for reply in (True, False):
        set_seed(42)
        twin = copy.deepcopy(model)
        settings = {"eval_strategy": "steps", "eval_steps": 2, "predict_with_generate": reply}
        settings |= {"save_strategy": "steps", "save_steps": 2, "load_best_model_at_end": False}
        make_trainer(twin, tokenizer, features, tmp_path / str(reply), **settings).train()
        results.append(weights(twin))
    for name, tensor in results[0].items():
        assert tensor.equal(results[1][name]), name


def test_bf16_trains(model, tokenizer, features, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    trainer = make_trainer(
        model, tokenizer, features, tmp_path, bf16=True, max_steps=30, learning_rate=3e-3
    )
    dtypes = set()
    model.lm_head.register_forward_hook(lambda module, args, output: dtypes.add(output.dtype))
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[-1] < losses[0] - 0.5
    assert dtypes == {torch.bfloat16}
    assert model.shared.weight.dtype == torch.float32
    assert math.isfinite(trainer.evaluate()["eval_loss"])


@pytest.mark.parametrize(
    ("capabilities", "given", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, None, True),
        ({"amx_bf16": True}, False, False),
        ({"amx_bf16": False, "avx512_bf16": True}, None, False),
        ({}, None, False),
    ],
)
def test_bf16_is_the_default_on_a_cpu_with_amx(
    tmp_path, monkeypatch, capabilities, given, expected
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    args = DialogueTrainingArguments(str(tmp_path), use_cpu=True, bf16=given)
    assert args.bf16 is expected
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")  # what accelerate launch sets
    assert not DialogueTrainingArguments(str(tmp_path), use_cpu=True, bf16=given).bf16


@pytest.mark.parametrize(("bf16", "expected"), [(True, "eager"), (False, "sdpa")])
def test_bf16_on_a_cpu_attends_without_sdpa(
    model, tokenizer, features, tmp_path, monkeypatch, bf16, expected
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert model.config._attn_implementation == "sdpa"
    make_trainer(model, tokenizer, features, tmp_path, bf16=bf16, use_cpu=True)
    assert model.config._attn_implementation == expected


def test_activation_checkpointing_and_schedules_train(model, tokenizer, features, tmp_path):
    trainer = make_trainer(
        model,
        tokenizer,
        features,
        tmp_path,
        activation_checkpointing=True,
        lr_scheduler_type="cosine",
        warmup_steps=0.5,
    )
    trainer.train()
    assert model.is_activation_checkpointing
    rates = [log["learning_rate"] for log in trainer.state.log_history if "loss" in log]
    assert rates[1] > rates[0] and rates[-1] < max(rates)


def test_an_evaluation_encodes_each_source_once_with_like_ones(
    model, tokenizer, features, tmp_path
):
    trainer = make_trainer(model, tokenizer, features, tmp_path, eval_tokens_per_batch=16384)
    encoded = []
    model.get_encoder().register_forward_hook(
        lambda encoder, inputs, output: encoded.append(output.last_hidden_state.shape[:2])
    )
    trainer.predict(features)
    assert sum(rows for rows, _ in encoded) == len(features)
    batches = trainer.get_test_dataloader(features)
    padded = sum(batch["input_ids"].numel() for batch in batches)
    assert sum(rows * length for rows, length in encoded) < 0.8 * padded


@pytest.mark.parametrize("kind", ["t5", "rnn"])
def test_sources_encoded_in_parts_are_those_of_the_whole(
    kind, model, make_rnn, tokenizer, features, tmp_path
):
    model = model if kind == "t5" else make_rnn(attention="multiplicative", cell="lstm")
    trainer = make_trainer(model.eval(), tokenizer, features, tmp_path)
    batch = next(iter(trainer.get_test_dataloader(features.select(range(60)))))
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        merged = encode_sources(model, ids, mask)["encoder_outputs"]
        whole = model.get_encoder()(input_ids=ids, attention_mask=mask)
    assert len(mask.sum(1).unique()) > 8 and merged.keys() == whole.keys()
    for name, tensor in whole.items():
        real = mask.bool() if tensor.shape[:2] == mask.shape else ...
        torch.testing.assert_close(merged[name][real], tensor[real], atol=2e-6, rtol=1e-4)
