"""The greatest budget that fits is found, without traces; what a CPU frees is used again."""

import copy
import sys

import numpy as np
import pytest
import torch
from helpers.runs import finish, start
from helpers.trainers import limited, make_trainer

from seq2seq_dialog.data.batching import TokenBudgetSampler
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.training.memory import (
    DoesNotFit,
    find_tokens_per_batch,
    largest_budget,
    worst_shapes,
)
from seq2seq_dialog.training.trainer import lengths_of

rng = np.random.default_rng(0)
LENGTHS = np.stack([rng.gamma(2, 30, 500) + 2, rng.gamma(2, 8, 500) + 2], axis=1).astype(int)
LONGEST = int(LENGTHS.sum(1).max())


def test_no_batch_of_any_epoch_needs_more_than_the_worst_shapes():
    worst = worst_shapes(LENGTHS, 2048)
    assert len(worst) <= 5 and all(n * (s + t) <= 2048 or n == 1 for n, s, t in worst)
    needs = (
        lambda n, s, t: n * (s + t),
        lambda n, s, t: n * t,
        lambda n, s, t: n * s * s,
        lambda n, s, t: n * t * t,
        lambda n, s, t: n * s * t,
    )
    sampler = TokenBudgetSampler(LENGTHS, 2048)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        for batch in sampler:
            shape = (len(batch), *LENGTHS[batch].max(0))
            for need in needs:
                assert need(*shape) <= max(need(*other) for other in worst)


@pytest.mark.parametrize("limit", [LONGEST, 1000, 3333, 12345])
def test_the_greatest_budget_is_found_less_a_tenth(limit):
    tried = []

    def fits(budget):
        tried.append(budget)
        return budget <= limit

    budget = largest_budget(LENGTHS, fits)
    assert max(LONGEST, 0.87 * limit) <= budget + 1 and budget <= max(LONGEST, 0.9 * limit)
    assert len(tried) < 20


def test_nothing_is_tried_beyond_all_examples_in_one_batch():
    tried = []
    largest_budget(LENGTHS, lambda budget: not tried.append(budget))
    assert max(tried) == len(LENGTHS) * LENGTHS.max(0).sum()


def test_an_example_that_does_not_fit_is_refused():
    with pytest.raises(DoesNotFit, match=rf"Not even one example of {LONGEST} tokens fits.*fsdp"):
        largest_budget(LENGTHS, lambda budget: False)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_search_leaves_weights_and_random_states_alone(
    model, tokenizer, features, tmp_path, accumulation
):
    settings = {"gradient_accumulation_steps": accumulation, "activation_checkpointing": True}
    twin, limit = copy.deepcopy(model), 3000
    trainer = make_trainer(model, tokenizer, features, tmp_path / "searched", **settings)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    seen = limited(model, limit)
    budget = find_tokens_per_batch(trainer, lengths_of(features))
    assert torch.get_rng_state().equal(state) and trainer.optimizer is None
    assert all(before[name].equal(tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert 0.8 * limit < budget < limit < max(seen)
    trainer.args.tokens_per_batch = budget
    settings["tokens_per_batch"] = budget
    other = make_trainer(twin, tokenizer, features, tmp_path / "given", **settings)
    for one in (trainer, other):
        torch.manual_seed(7)
        one.train()
    for name, tensor in twin.state_dict().items():
        assert model.state_dict()[name].equal(tensor), name


def test_without_a_gpu_there_is_nothing_to_find(model, tokenizer, features, tmp_path):
    with pytest.raises(UsageError, match="tokens_per_batch is auto, which needs a GPU"):
        make_trainer(model, tokenizer, features, tmp_path, tokens_per_batch="auto")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_what_is_found_on_a_gpu_trains(model, tokenizer, features, tmp_path):
    settings = {"tokens_per_batch": "auto", "use_cpu": False}
    trainer = make_trainer(model, tokenizer, features, tmp_path, **settings)
    assert trainer.args.tokens_per_batch > 1000
    trainer.train()
    assert trainer.state.global_step == 4


FREE_AND_TAKE = """
import resource, sys
import torch

way, *arguments = sys.argv[1:]
if way == "ask for it":
    from seq2seq_dialog.training.memory import keep_freed_memory
    keep_freed_memory()
elif way == "make a trainer":
    from transformers import T5Config, T5ForConditionalGeneration
    from seq2seq_dialog.models.tokenizer import load_tokenizer
    from seq2seq_dialog.settings import ModelArguments
    from seq2seq_dialog.training_settings import DialogueTrainingArguments
    from seq2seq_dialog.training.trainer import DialogueTrainer
    config = T5Config(vocab_size=512, d_model=8, num_layers=1, decoder_start_token_id=0)
    model = T5ForConditionalGeneration(config)
    args = DialogueTrainingArguments(output_dir="x", use_cpu=True, eval_strategy="no")
    DialogueTrainer(model, args, load_tokenizer(ModelArguments(), 64, arguments[0]))
elif way == "train":
    from seq2seq_dialog.train import main
    main(arguments)
for _ in range(8):
    torch.ones(2**24)  # 64 MiB; until small blocks in between have found their places
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print("TAKEN", faults * resource.getpagesize() / 2**26)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="freed memory is kept with glibc alone")
def test_freed_memory_is_used_again_where_that_was_asked_for(config, tokenizer_folder, tmp_path):
    """The command asks for it on a CPU; a trainer by itself leaves the process as it is."""

    def taken_anew(way, *arguments):
        """How often 64 MiB come from the system, of ten times (fewer where pages are large)."""
        done = finish([start("-c", FREE_AND_TAKE, way, *arguments, cwd=tmp_path)])
        return float(done.stdout.split("TAKEN ")[1])

    flags = ["--use_cpu", "true", "--max_steps", "1", "--eval_strategy", "no"]
    flags += ["--do_predict", "false", "--output_dir", tmp_path / "run"]
    usual = taken_anew("change nothing")
    assert taken_anew("ask for it") < usual / 10
    assert taken_anew("make a trainer", tokenizer_folder) > usual / 2
    assert taken_anew("train", config, *flags) < usual / 10
