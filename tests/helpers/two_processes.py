"""What must hold in each of two processes; `test_scale.py` starts them."""

import copy
import sys
from pathlib import Path

import torch
from accelerate.utils import gather_object
from helpers.corpus import rows_of, sample_dialogues
from helpers.preferences import make_trainer as make_preference_trainer
from helpers.trainers import limited, make_trainer
from transformers import T5Config, T5ForConditionalGeneration, set_seed

from seq2seq_dialog.data.features import encode_rows
from seq2seq_dialog.decoding.generation_config import generation_config
from seq2seq_dialog.models.tokenizer import load_tokenizer
from seq2seq_dialog.settings import DataArguments, DecodingArguments, ModelArguments
from seq2seq_dialog.training.evaluating import token_nll
from seq2seq_dialog.training.memory import find_tokens_per_batch
from seq2seq_dialog.training.optimizers import MuonAndAdamW, is_matrix
from seq2seq_dialog.training.trainer import lengths_of


def one_step_over_all(trainer, reference, features) -> None:
    """Train one step over all batches of both processes; leave its gradient in `reference`."""
    per_rank = len(trainer.get_train_dataloader())
    assert per_rank > 4
    trainer.args.gradient_accumulation_steps, trainer.args.max_steps = per_rank, 1
    trainer.train()
    nll = tokens = 0
    for example in features:
        labels = torch.tensor([example["labels"]])
        logits = reference(input_ids=torch.tensor([example["input_ids"]]), labels=labels).logits
        nll, tokens = nll + token_nll(logits, labels).sum(), tokens + labels.numel()
    (nll / tokens).backward()


def check_one_step_is_the_gradient_of_all_tokens(model, tokenizer, features, folder):
    """Plain gradient descent with rate 1: the weights move by the gradient of the mean loss."""
    reference = copy.deepcopy(model)
    settings = {"optim": "sgd", "learning_rate": 1.0, "warmup_steps": 0, "max_grad_norm": 0}
    trainer = make_trainer(model, tokenizer, features, folder, tokens_per_batch=700, **settings)
    one_step_over_all(trainer, reference, features)
    for (name, moved), before in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(moved, before - before.grad, atol=2e-6, rtol=1e-4, msg=name)


def check_muon_moves_matrices_by_the_gradient_of_all_tokens(model, tokenizer, features, folder):
    reference = copy.deepcopy(model)
    settings = {
        "optim": "muon_scaled",
        "learning_rate": 0.02,
        "warmup_steps": 0,
        "max_grad_norm": 0,
    }
    trainer = make_trainer(model, tokenizer, features, folder, tokens_per_batch=700, **settings)
    one_step_over_all(trainer, reference, features)
    MuonAndAdamW(reference, 0.02, trainer.args.weight_decay).step()
    expected = dict(reference.named_parameters())
    for name, moved in model.named_parameters():
        if is_matrix(name, moved):
            torch.testing.assert_close(moved, expected[name], atol=2e-4, rtol=0, msg=name)
    sums = gather_object([sum(p.double().sum().item() for p in model.parameters())])
    assert len(set(sums)) == 1


def check_preferences_step_by_the_gradient_of_all_pairs(model, tokenizer, features, folder):
    """At first the gradient is beta / 2 times that of what parts both likelihoods."""
    reference = copy.deepcopy(model)
    settings = {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0, "tokens_per_batch": 700}
    others = {"negatives": ["other_contexts"]}
    pairs = features.select(range(41))
    trainer = make_preference_trainer(model, tokenizer, pairs, folder, others, **settings)
    per_rank = len(trainer.get_train_dataloader())
    assert per_rank > 2
    trainer.args.gradient_accumulation_steps, trainer.args.max_steps = per_rank, 1
    trainer.train()
    parted = 0
    for example in trainer.train_dataset:
        for sign, name in ((1, "labels"), (-1, "rejected_labels")):
            labels = torch.tensor([example[name]])
            logits = reference(input_ids=torch.tensor([example["input_ids"]]), labels=labels).logits
            parted = parted + sign * token_nll(logits, labels).sum()
    (trainer.preferences.dpo_beta / 2 * parted / 41).backward()
    for (name, moved), before in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(moved, before - before.grad, atol=2e-5, rtol=1e-3, msg=name)
    sums = gather_object([sum(p.double().sum().item() for p in model.parameters())])
    assert len(set(sums)) == 1


def check_no_number_of_examples_blocks(model, tokenizer, features, folder):
    """Odd numbers of examples, of batches, and an accumulation that does not divide them."""
    for count in (2, 17, 61):
        trainer = make_trainer(
            copy.deepcopy(model),
            tokenizer,
            features,
            folder / str(count),
            tokens_per_batch=300,
            eval_tokens_per_batch=300,
            gradient_accumulation_steps=3,
            max_steps=-1,
            num_train_epochs=2,
            eval_strategy="epoch",
            save_strategy="epoch",
            predict_with_generate=True,
        )
        trainer.train_dataset = features.select(range(count))
        trainer.eval_dataset = features.select(range(61))
        steps = -(-len(trainer.get_train_dataloader()) // 3)
        trainer.train()
        assert trainer.state.global_step == 2 * steps
        metrics = trainer.evaluate()
        assert metrics["eval_target_tokens"] == sum(trainer.eval_dataset["target_length"])


def check_the_least_budget_is_taken(model, tokenizer, features, folder):
    """One process has less memory than the other."""
    trainer = make_trainer(model, tokenizer, features, folder)
    limited(model, 4000 if trainer.args.process_index == 0 else 2000)
    assert 1500 < find_tokens_per_batch(trainer, lengths_of(features)) < 2000


def main(folder: Path, tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(ModelArguments(), 64, tokenizer_folder)
    options = DataArguments(max_source_length=64, max_target_length=24)
    features = encode_rows(rows_of(sample_dialogues(40)), tokenizer, options)
    set_seed(1)
    config = T5Config(
        vocab_size=512, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4,
        decoder_start_token_id=0, dropout_rate=0.0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    model.generation_config = generation_config(DecodingArguments(max_new_tokens=6), model)
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            check(copy.deepcopy(model), tokenizer, features, folder / name)
            print(name, flush=True)


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
