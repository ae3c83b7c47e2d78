"""Preference trainers of tiny models."""

from dataclasses import replace

from transformers import set_seed

from seq2seq_dialog.method_settings import PreferenceArguments
from seq2seq_dialog.settings import DataArguments
from seq2seq_dialog.training.preferences import PreferenceTrainer
from seq2seq_dialog.training_settings import DialogueTrainingArguments

LIMITS = DataArguments(max_source_length=64, max_target_length=24)


def make_trainer(model, tokenizer, features, folder, preferences, **settings):
    defaults = {
        "output_dir": str(folder),
        "tokens_per_batch": 1024,
        "max_steps": 4,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "warmup_steps": 0,
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,  # by default where the CPU has AMX, and less exact
    }
    set_seed(42)
    return PreferenceTrainer(
        model,
        DialogueTrainingArguments(**(defaults | settings)),
        tokenizer,
        PreferenceArguments(dpo=True, **preferences),
        replace(LIMITS, data_cache=str(folder / "cache")),
        train_dataset=features,
        eval_dataset=features.select(range(20)),
    )
