"""Preference trainers of tiny models."""

from dataclasses import replace

from helpers.trainers import arguments
from transformers import set_seed

from seq2seq_dialog.method_settings import PreferenceArguments
from seq2seq_dialog.settings import DataArguments
from seq2seq_dialog.training.preferences import PreferenceTrainer

LIMITS = DataArguments(max_source_length=64, max_target_length=24)


def make_trainer(model, tokenizer, features, folder, preferences, **settings):
    defaults = {"tokens_per_batch": 1024, "learning_rate": 1e-3}
    defaults |= {"load_best_model_at_end": False, "warmup_steps": 0}
    set_seed(42)
    return PreferenceTrainer(
        model,
        arguments(folder, **(defaults | settings)),
        tokenizer,
        PreferenceArguments(dpo=True, **preferences),
        replace(LIMITS, data_cache=str(folder / "cache")),
        train_dataset=features,
        eval_dataset=features.select(range(20)),
    )
