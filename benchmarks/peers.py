"""What we are measured against, each written once from its own description.

- The seed recipe: a `DailyDialogDataset` that tokenises a pair when it is fetched and pads source
  and target to 512 tokens, `DataLoader(batch_size=2, shuffle=True)`, a plain loop with AdamW.
- The stock recipe: `Seq2SeqTrainer` with `DataCollatorForSeq2Seq` as Hugging Face's examples for
  summarisation and translation have it: batches of 8 in random order, learning rate 5e-5 falling
  linearly, 1,024 (here 512) source and 128 target tokens at most, prediction by batches of 8 in
  the order of the data.
- The tuned stock recipe: the same with what its options offer for speed, batches of 32 of like
  lengths (`train_sampling_strategy="group_by_length"`).

All take the same rows, tokenizer (it knows `__eou__`) and model as ours, so that they see the same
tokens; what differs is padding, batching and the loop.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

SEPARATOR = " __eou__ "
MAX_SOURCE, MAX_TARGET = 512, 128  # tokens


class SeedDataset(Dataset):
    """The seed's DailyDialogDataset: items of 1-D tensors, source and target padded to 512.

    Args:
        rows: `context` (list of utterances) and `response`.
        tokenizer: of the model.
        max_length: tokens of either side, in tokens.
    """

    def __init__(self, rows: Sequence[dict], tokenizer, max_length: int = MAX_SOURCE):
        self.rows, self.tokenizer, self.max_length = rows, tokenizer, max_length

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.rows[index]
        options = {"max_length": self.max_length, "padding": "max_length", "truncation": True}
        source = self.tokenizer(SEPARATOR.join(row["context"]), return_tensors="pt", **options)
        target = self.tokenizer(row["response"], return_tensors="pt", **options)
        labels = target["input_ids"].squeeze(0)  # (max_length,)
        return {
            "input_ids": source["input_ids"].squeeze(0),  # (max_length,)
            "attention_mask": source["attention_mask"].squeeze(0),  # (max_length,)
            "labels": labels.masked_fill(target["attention_mask"].squeeze(0) == 0, -100),
        }


def seed_loader(dataset: SeedDataset, sampler: Iterable[int] | None = None) -> DataLoader:
    """Batches of 2 at random, or in the order of a `sampler`."""
    return DataLoader(dataset, batch_size=2, shuffle=sampler is None, sampler=sampler)


def seed_steps(model, loader: DataLoader, learning_rate: float = 5e-5):
    """Train an epoch as the seed recipe does; yield each batch and its loss when it is done."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    device = next(model.parameters()).device
    model.train()
    for batch in loader:
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield batch, loss.item()


def preprocess(batch: dict[str, list], tokenizer) -> dict[str, list]:
    """Tokenise rows as the examples' `preprocess_function` does, each whole context by itself."""
    sources = [SEPARATOR.join(turns) for turns in batch["context"]]
    features = tokenizer(sources, max_length=MAX_SOURCE, padding=False, truncation=True)
    labels = tokenizer(
        text_target=batch["response"], max_length=MAX_TARGET, padding=False, truncation=True
    )
    features["labels"] = labels["input_ids"]
    return features


def stock_arguments(
    output_dir: str, batch_size: int = 8, group_by_length: bool = False, **settings
) -> Seq2SeqTrainingArguments:
    """Make the examples' defaults; `group_by_length` with 32 is the tuned recipe.

    Args:
        settings: options of Seq2SeqTrainingArguments over them.
    """
    if group_by_length:
        settings |= {
            "train_sampling_strategy": "group_by_length",
            "length_column_name": "source_length",  # known: the recipe need not count first
        }
    defaults = {"disable_tqdm": True, "save_strategy": "no", "per_device_eval_batch_size": 8}
    defaults |= {"output_dir": output_dir, "per_device_train_batch_size": batch_size}
    return Seq2SeqTrainingArguments(**(defaults | settings))


def stock_trainer(
    model, arguments: Seq2SeqTrainingArguments, tokenizer, features, trainer_class=Seq2SeqTrainer
) -> Seq2SeqTrainer:
    """Put the examples' trainer together.

    Args:
        features: a datasets.Dataset with `input_ids` and `labels`; `source_length` to group by.
        trainer_class: Seq2SeqTrainer, or it with something to measure in it.
    """
    return trainer_class(
        model=model,
        args=arguments,
        train_dataset=features,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model, label_pad_token_id=-100),
    )


def stock_replies(
    model, tokenizer, features, output_dir: str, **settings
) -> tuple[list[str], float]:
    """Reply greedily to each context as the examples' `do_predict` does.

    Args:
        model: its generation config has the greatest length of a reply.
        settings: options of Seq2SeqTrainingArguments.

    Returns:
        The replies, in the order of `features`, and the seconds of `Seq2SeqTrainer.predict` and
        of decoding its ids.
    """
    settings |= {"predict_with_generate": True, "generation_num_beams": 1}
    arguments = stock_arguments(output_dir, **settings)
    trainer = stock_trainer(model, arguments, tokenizer, None)
    start = time.perf_counter()
    ids = trainer.predict(features).predictions  # (examples, max_new_tokens + 1)
    ids = np.where(ids != -100, ids, tokenizer.pad_token_id)
    replies = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    return replies, time.perf_counter() - start
