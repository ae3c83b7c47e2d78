"""Trainers of tiny models, and a model that runs out of memory."""

import torch

from seq2seq_dialog.evaluation.metrics import ReplyMetric
from seq2seq_dialog.training.trainer import DialogueTrainer
from seq2seq_dialog.training_settings import DialogueTrainingArguments


def arguments(folder, **settings):
    """Make the settings of a few steps, of which nothing is kept."""
    defaults = {
        "output_dir": str(folder),
        "tokens_per_batch": 512,
        "max_steps": 4,
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,  # by default where the CPU has AMX, and less exact
    }
    return DialogueTrainingArguments(**(defaults | settings))


def make_trainer(model, tokenizer, features, folder, **settings):
    return DialogueTrainer(
        model,
        arguments(folder, **settings),
        tokenizer,
        train_dataset=features,
        eval_dataset=features.select(range(60)),
        compute_metrics=lambda p: ReplyMetric(keep_in_memory=True).compute(
            predictions=p.predictions, references=p.label_ids
        ),
    )


def limited(model, limit):
    """Let a model run out of memory in batches of more than `limit` tokens; return what it saw."""
    seen = []

    def forward(_, args, inputs):
        size = inputs["input_ids"].numel() + inputs["decoder_input_ids"].numel()
        seen.append(size)
        if size > limit:
            raise torch.OutOfMemoryError("out of memory")

    model.register_forward_pre_hook(forward, with_kwargs=True)
    return seen
