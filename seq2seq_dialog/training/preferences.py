"""Direct preference optimisation of encoder-decoders (Rafailov et al., 2023).

A model, already trained by likelihood, learns that of two replies to a context people, or a rule,
prefer one. With M the gain of a reply, log p(reply | context) less the same under the model as it
began (the reference), a pair of a chosen and a rejected reply has the loss (equation 7)

    - log sigmoid(beta * (M(chosen) - M(rejected)))

`dpo_length_normalised` divides each M by the tokens of its reply, so that long replies gain no more
than short ones (Lambert et al., 2024, section 5.1). `dpo_likelihood_weight` adds that many times
-log p(chosen | context) per token, against which both replies could become less likely (Pang et
al., 2024).

The reference does not change. So its log-likelihoods are measured once, before training, and are
columns of the features from then on: no second model is held. They are kept in the data cache, for
when the run goes on, and for other runs of the same model and data.
"""

import hashlib
import inspect
import json
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import xxhash
from accelerate.utils import gather_object
from datasets import Dataset, concatenate_datasets
from filelock import FileLock
from torch.nn import functional
from tqdm.auto import tqdm
from transformers.trainer_utils import EvalLoopOutput

from ..data.batching import IGNORE, DialogueCollator
from ..data.features import encode_rows
from ..data.prepared import cache_folder
from ..errors import UsageError
from ..evaluation.catalogue import METRICS
from ..method_settings import PreferenceArguments
from ..models.loading import hash_weights
from ..run_folder import check_writable, read_json, write_json
from ..settings import DataArguments
from ..training_settings import DialogueTrainingArguments
from .evaluating import evaluate_examples, token_nll
from .negatives import draw_negatives
from .preparing import switch_off_dropout
from .sharding import refuse_sharding
from .trainer import DialogueTrainer

# Columns of the rejected replies, and what `encode` calls them.
REJECTED = {
    "rejected_labels": "labels",
    "rejected_length": "target_length",
    "rejected_cut": "target_cut",
}
DRY_RUN_PAIRS = 64  # that a dry run samples and measures


class PreferenceTrainer(DialogueTrainer):
    """DialogueTrainer that learns which of two replies is preferred.

    The features have the chosen reply as `labels`. The rejected one is the text in their column
    `rejected`, or is made by `preferences.negatives`. A batch holds its contexts twice, first with
    the chosen replies, then with the rejected ones; `tokens_per_batch` counts both. Each pair of an
    epoch weighs the same. Dropout is off, or the model would differ from the reference by chance.

    Logs have `preference_accuracy`, the percentage of pairs with M(chosen) > M(rejected),
    `preference_margin`, the mean of M(chosen) - M(rejected), and `chosen_loss`, nats per token.
    Evaluations add to the figures of `DialogueTrainer`, which are those of the chosen replies,
    what `preference_figures` returns.
    """

    training_columns: ClassVar = [
        "input_ids", "labels", "rejected_labels", "reference_chosen", "reference_rejected"
    ]  # fmt: skip
    training_figures: ClassVar = DialogueTrainer.training_figures | {
        "preference_accuracy": (METRICS["preference_accuracy"].label, ".1f")
    }
    evaluation_figures: ClassVar = DialogueTrainer.evaluation_figures | {
        f"eval_{key}": (METRICS[key].label, spec)
        for key, spec in (
            ("preference_loss", ".4f"),
            ("preference_accuracy", ".1f"),
            ("preference_margin", ".3f"),
        )
    }

    def __init__(
        self,
        model,
        args: DialogueTrainingArguments,
        processing_class,
        preferences: PreferenceArguments,
        data: DataArguments,
        **kwargs,
    ):
        super().__init__(model, args, processing_class, **kwargs)
        refuse_sharding(self, "dpo")
        switch_off_dropout(model)
        self.preferences, self.data = preferences, data
        self.training_collator = PreferenceCollator(processing_class.pad_token_id)
        self._reference = None  # log-likelihoods of a batch's replies, (pairs, 2)
        digest = xxhash.xxh3_128()
        hash_weights(model, digest)
        self._weights_hash = digest.hexdigest()
        train = self.train_dataset
        self.train_dataset = doubled_lengths(self.with_reference(train, train))
        if self.eval_dataset is not None:
            self.eval_dataset = self.with_reference(self.eval_dataset, train)

    # The data

    def with_reference(self, features: Dataset, train: Dataset) -> Dataset:
        """Add rejected replies and the log-likelihoods of both under the model as it is.

        New columns: `rejected_labels`, `rejected_length` (tokens), `rejected_cut`, and in nats
        `reference_chosen` and `reference_rejected`. Stock phrases are those of `train`.
        """
        rows = features
        if "rejected" not in features.column_names:
            rows = self._with_cached(features, train, self._negatives)
            features = features.add_column("rejected", rows["rejected"][:])
        names = {"context", "rejected", "response_cut"} & set(rows.column_names)
        rows = rows.select_columns(sorted(names)).rename_column("rejected", "response")
        with self.args.main_process_first(desc="tokenising the rejected replies"):
            encoded = encode_rows(rows, self.processing_class, self.data)
        encoded = encoded.select_columns(["labels", "target_length", "target_cut"])
        encoded = encoded.rename_columns({REJECTED[name]: name for name in REJECTED})
        features = concatenate_datasets([features, encoded], axis=1)
        return self._with_cached(features, train, self._log_likelihoods)

    def _negatives(self, features: Dataset, train: Dataset) -> dict[str, list]:
        """Make the columns of `draw_negatives`."""
        texts, cut = draw_negatives(self, features, train["response"])
        return {"rejected": texts, "response_cut": cut}

    def _log_likelihoods(self, features: Dataset, train: Dataset) -> dict[str, list]:
        """Measure the columns `reference_chosen` and `reference_rejected`."""
        if self.is_world_process_zero() and not self.args.disable_tqdm:
            count = min(len(features), DRY_RUN_PAIRS) if self.args.dry_run else len(features)
            tqdm.write(f"Measuring {count:,} pairs under the model as it begins")
        replies = {"chosen": features, "rejected": rejected_replies(features)}
        columns = {
            f"reference_{name}": [-example["nll"] for example in self.measure(each)]
            for name, each in replies.items()
        }
        if not np.isfinite([*columns.values()]).all():
            raise UsageError(
                "model_name_or_path gives some replies no likelihood (nan or infinity), to which "
                "dpo compares: take another checkpoint, or train in fp32."
            )
        return columns

    def _with_cached(self, features: Dataset, train: Dataset, compute: Callable) -> Dataset:
        """Add the columns that `compute` makes; they come from the cache if it has them whole."""
        path = self._cache_path(compute.__name__, features, train)
        columns = read_columns(path)
        if not all(gather_object([columns is not None])):  # then all processes compute together
            columns = compute(features, train)
            if self.is_world_process_zero() and not self.args.dry_run:
                check_writable(path)
                with FileLock(path.with_suffix(".lock")):  # another run may measure the same
                    write_columns(path, columns)
        for name, column in columns.items():
            features = features.add_column(name, column)
        return features

    def _cache_path(self, name: str, features: Dataset, train: Dataset) -> Path:
        """Name a file by what columns of the features depend on: model, data, settings, code."""
        model, args = self.model, self.args
        sources = map(inspect.getfile, (PreferenceTrainer, draw_negatives, evaluate_examples))
        content = [
            name,
            *(features._fingerprint, train._fingerprint),
            *(self._weights_hash, model.config.to_json_string()),
            model.generation_config.to_json_string(),
            *(self.preferences.negatives, args.seed, args.eval_tokens_per_batch),
            *(self.accelerator.mixed_precision, args.device.type),
            *(Path(source).read_text("utf-8") for source in sources),
        ]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
        return cache_folder(self.data, "preferences") / f"{digest}.json"

    def measure(self, features: Dataset, with_replies: bool = False) -> list[dict]:
        """Return what `evaluate_examples` does, without a bar of progress.

        In a dry run, the first examples stand for all.
        """
        self.model.eval()
        self.callback_handler.eval_dataloader = None
        count = len(features)
        if self.args.dry_run:
            features = features.select(range(min(count, DRY_RUN_PAIRS)))
        examples = evaluate_examples(self, self.get_eval_dataloader(features), with_replies)
        return [*islice(cycle(examples), count)]

    def _count_targets(self, batch) -> int:
        return len(batch["labels"]) // 2

    def _mean_targets_of(self, sampler) -> float:
        return sampler.mean_examples

    # The step

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Take the gradient of a batch of pairs."""
        self._reference = inputs.pop("reference").to(self.args.device)  # (pairs, 2)
        return super().training_step(model, inputs, num_items_in_batch)

    def _mean_loss(self, outputs, labels, num_items_in_batch=None):
        """Return the loss of the first half of a batch, chosen replies, against the second."""
        logps = -token_nll(outputs.logits, labels).sum(-1).view(2, -1).T  # (pairs, 2)
        tokens = labels.ne(IGNORE).sum(-1).view(2, -1).T  # (pairs, 2)
        margins = self.margins(logps, self._reference, tokens)  # (pairs,)
        losses = -functional.logsigmoid(self.preferences.dpo_beta * margins)
        chosen_nll = -(logps / tokens)[:, 0]
        losses = losses + self.preferences.dpo_likelihood_weight * chosen_nll
        self._means.add("preference_margin", margins)
        self._means.add("preference_accuracy", 100.0 * (margins > 0))
        self._means.add("chosen_loss", chosen_nll)
        return losses.sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)

    def margins(self, logps, reference, tokens):
        """Compute how much the chosen replies gained on the rejected ones, (pairs,).

        Args:
            logps, reference: log-likelihoods of chosen and rejected replies under the model and
                under the reference, (pairs, 2).
            tokens: their lengths, (pairs, 2).
        """
        gains = logps - reference
        if self.preferences.dpo_length_normalised:
            gains = gains / tokens
        return gains[:, 0] - gains[:, 1]

    # What is reported

    @torch.no_grad()
    def evaluation_loop(self, dataloader, *, metric_key_prefix, **kwargs) -> EvalLoopOutput:
        """Evaluate; of pairs with a rejected reply, add `preference_figures`."""
        output = super().evaluation_loop(dataloader, metric_key_prefix=metric_key_prefix, **kwargs)
        if "reference_chosen" in dataloader.dataset.column_names:
            started = time.perf_counter()
            figures = self.preference_figures(dataloader.dataset, output.predictions)
            output.metrics.update({f"{metric_key_prefix}_{key}": x for key, x in figures.items()})
            self._log_time += time.perf_counter() - started  # not training time
        return output

    def preference_figures(self, features: Dataset, chosen: list[dict]) -> dict[str, float]:
        """Compute loss, accuracy and margin of pairs, and in how many the chosen reply is likelier.

        The last, `chosen_likelier`, is per token, and does not ask what the reference found.

        Args:
            features: what `with_reference` returns.
            chosen: what `evaluate_examples` returns of them.
        """
        rejected = self.measure(rejected_replies(features))
        pairs = list(zip(chosen, rejected, strict=True))
        logps = -np.array([[example["nll"] for example in pair] for pair in pairs])  # (pairs, 2)
        tokens = np.array([[example["tokens"] for example in pair] for pair in pairs])
        columns = features.with_format("numpy")
        names = ("reference_chosen", "reference_rejected")
        reference = np.stack([columns[name][:] for name in names], axis=1)  # (pairs, 2)
        margins = self.margins(logps, reference, tokens)  # (pairs,)
        per_token = logps / tokens
        return {
            "preference_loss": float(np.logaddexp(0, -self.preferences.dpo_beta * margins).mean()),
            "preference_accuracy": 100 * float((margins > 0).mean()),
            "preference_margin": float(margins.mean()),
            "chosen_likelier": 100 * float((per_token[:, 0] > per_token[:, 1]).mean()),
        }


class PreferenceCollator(DialogueCollator):
    """Pads pairs: each context comes twice, first with its chosen, then with its rejected reply.

    Returns (of a call): beside what `DialogueCollator` returns, of 2 * pairs examples,
        `reference` (pairs, 2), the reference's log-likelihoods of chosen and rejected.
    """

    def __call__(self, examples: Sequence[dict]) -> dict[str, torch.Tensor]:
        rejected = [example | {"labels": example["rejected_labels"]} for example in examples]
        names = ("reference_chosen", "reference_rejected")
        reference = [[example[name] for name in names] for example in examples]
        batch = super().__call__([*examples, *rejected])
        return batch | {"reference": torch.tensor(reference, dtype=torch.float32)}


def write_columns(path: Path, columns: dict[str, list]) -> None:
    """Keep columns in a file, with a checksum."""
    write_json(path, {"columns": columns, "checksum": _checksum(path, columns)})


def read_columns(path: Path) -> dict[str, list] | None:
    """Read what `write_columns` has written under this name; None for anything else."""
    try:
        content = read_json(path)
        is_whole = content["checksum"] == _checksum(path, content["columns"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return content["columns"] if is_whole else None


def _checksum(path: Path, columns: dict[str, list]) -> str:
    """Hash columns and the name of their file, which says what they were made of."""
    return xxhash.xxh3_128_hexdigest(json.dumps([path.name, columns]).encode())


def rejected_replies(features: Dataset) -> Dataset:
    """Make features in which the rejected replies are the ones to be said."""
    names = REJECTED | {"rejected": "response"}
    return features.select_columns(["input_ids", "source_length", *names]).rename_columns(names)


def doubled_lengths(features: Dataset) -> Dataset:
    """Make the lengths, by which batches are cut, those of both examples of a pair together."""
    columns = features.with_format("numpy")
    longer = np.maximum(columns["target_length"][:], columns["rejected_length"][:])
    lengths = {"source_length": 2 * columns["source_length"][:], "target_length": 2 * longer}
    features = features.remove_columns(list(lengths))
    for name, column in lengths.items():
        features = features.add_column(name, column.tolist())
    return features
