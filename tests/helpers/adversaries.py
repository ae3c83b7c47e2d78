"""Adversarial trainers of tiny models."""

from helpers.trainers import arguments
from transformers import set_seed

from seq2seq_dialog.method_settings import AdversarialArguments
from seq2seq_dialog.training.adversarial import AdversarialTrainer

ADVERSARIAL = {
    "discriminator": '{"embedding_size": 16, "hidden_size": 32}',
    "discriminator_warmup_steps": 0,
    "collapse_threshold": 0,
    "least_accuracy": 0,
}


def make_trainer(
    model, tokenizer, features, folder, adversarial=None, cls=AdversarialTrainer, **settings
):
    defaults = {"load_best_model_at_end": False, "warmup_steps": 0}
    set_seed(42)
    return cls(
        model,
        arguments(folder, **(defaults | settings)),
        tokenizer,
        AdversarialArguments(**ADVERSARIAL | (adversarial or {})),
        train_dataset=features,
        eval_dataset=features.select(range(40)),
    )
