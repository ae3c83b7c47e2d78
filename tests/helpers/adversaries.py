"""Adversarial trainers of tiny models."""

from transformers import set_seed

from seq2seq_dialog.method_settings import AdversarialArguments
from seq2seq_dialog.training.adversarial import AdversarialTrainer
from seq2seq_dialog.training_settings import DialogueTrainingArguments

ADVERSARIAL = {
    "discriminator": '{"embedding_size": 16, "hidden_size": 32}',
    "discriminator_warmup_steps": 0,
    "collapse_threshold": 0,
    "least_accuracy": 0,
}


def make_trainer(
    model, tokenizer, features, folder, adversarial=None, cls=AdversarialTrainer, **settings
):
    defaults = {
        "output_dir": str(folder),
        "tokens_per_batch": 512,
        "max_steps": 4,
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "warmup_steps": 0,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    set_seed(42)
    return cls(
        model,
        DialogueTrainingArguments(**(defaults | settings)),
        tokenizer,
        AdversarialArguments(**ADVERSARIAL | (adversarial or {})),
        train_dataset=features,
        eval_dataset=features.select(range(40)),
    )
