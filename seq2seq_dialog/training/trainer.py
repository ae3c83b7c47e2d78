"""DialogueTrainer: Seq2SeqTrainer with batches by token budget and exact evaluation."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import Seq2SeqTrainer
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import (
    EvalLoopOutput,
    EvalPrediction,
    PredictionOutput,
    TrainOutput,
)

from ..data.batching import IGNORE, DialogueCollator, TokenBudgetSampler, evaluation_batches
from ..data.mixture import Draw
from ..data.streaming import StreamedBatches
from ..errors import UsageError
from ..evaluation.catalogue import METRICS
from ..models.build import MASKED_IN_4D
from ..models.loading import avoid_plans_for_shapes
from ..portable.modeling_rnn import shift_right
from ..portable.options import extra_options
from ..run_folder import read_json, write_json
from ..training_settings import DialogueTrainingArguments
from . import sharding
from .checkpoints import best_checkpoint, remove, remove_old, seal
from .evaluating import evaluate_examples, likelihood_figures, loss_by_source, token_nll
from .logged_means import LoggedMeans
from .lora import has_adapter, merge
from .memory import find_tokens_per_batch
from .optimizers import scaled_optimizer
from .preparing import check_model, fuse_norms
from .progress import TrainingProgress
from .resume import load_ended_training
from .stopping import StopAtSignal, check_finite, divergence

logger = logging.getLogger(__name__)


def lengths_of(features) -> np.ndarray:
    """Return source and target tokens of each example, (examples, 2)."""
    columns = features.with_format("numpy")
    return np.stack([columns["source_length"][:], columns["target_length"][:]], axis=1)


class DialogueTrainer(Seq2SeqTrainer):
    """Seq2SeqTrainer for the features that `encode_rows` makes (data/features.py).

    What differs from Seq2SeqTrainer:
    - Batches hold `args.tokens_per_batch` padded tokens (`batching`), not a number of examples.
    - Each target token of an epoch weighs the same, in whatever batch it is, however many batches
      an optimizer step accumulates and however many processes there are: the sum is divided by the
      target tokens of an average batch, not of its own. (Where the last step of an epoch has fewer
      batches, theirs weigh more.) Logs show the mean over the tokens seen.
    - `evaluate` takes the exact mean over target tokens; with `predict_with_generate`, and always
      in `predict`, it also replies, and gives texts to `compute_metrics`. Figures do not depend
      on batches or on the number of processes (`evaluating`).
    - Trained on a `streaming.StreamedBatches`, it goes on from a checkpoint at the batch after the
      last one, without reading anew what came before.
    - `optim` may be `adamw_scaled` or `muon_scaled` (`optimizers`).
    - Between two logs nothing is read from the GPU, so that it never waits for Python (unless
      `logging_nan_inf_filter` is on).
    - With FSDP (version 2) and DeepSpeed (ZeRO up to stage 2) evaluation and replies work as
      without, and `save_model` writes the model whole; checkpoints hold shards (`sharding`).

    Args:
        processing_class: the tokenizer.
        source_weights: of the sources of `train_dataset`, where it has several (`data.mixture`).
        compute_metrics: takes an EvalPrediction of replies and references (lists of strings).
    """

    first_step = 0  # before it, the model itself does not learn
    passed_step: ClassVar = 0  # the newest checkpoint up to it is kept besides
    # Of the features, what batches are made of.
    training_columns: ClassVar = ["input_ids", "labels"]
    # What the progress bar and the line of an evaluation show of a log: label and format.
    training_figures: ClassVar = {
        "loss": ("loss", ".3f"),
        "tokens_per_second": ("tokens/s", ",.0f"),
    }
    evaluation_figures: ClassVar = {
        "eval_loss": ("validation loss", ".4f"),
        "eval_perplexity": (METRICS["perplexity"].label, ",.2f"),
        "eval_bits_per_byte": (METRICS["bits_per_byte"].label, ".3f"),
        "eval_context_gain": (METRICS["context_gain"].label, ".3f"),
        "eval_bleu": (METRICS["bleu"].label, ".1f"),
    }

    def __init__(
        self,
        model,
        args: DialogueTrainingArguments,
        processing_class,
        source_weights: dict[str, float] | None = None,
        **kwargs,
    ):
        check_model(model, args)
        avoid_plans_for_shapes()
        if args.device.type == "cuda":
            fuse_norms(model)
        bf16_on_cpu = args.device.type == "cpu" and args.mixed_precision == "bf16"
        if bf16_on_cpu and model.config._attn_implementation == "sdpa":
            model.set_attn_implementation("eager")  # SDPA is slow there: benchmarks/RESULTS.md
        self._source_weights = source_weights
        # Not the model's own: mBART's takes the last token for the start, whatever the config says.
        self._shift = partial(
            shift_right,
            pad_token_id=model.config.pad_token_id,
            start_token_id=model.config.decoder_start_token_id,
        )
        super().__init__(
            model=model,
            args=args,
            processing_class=processing_class,
            data_collator=DialogueCollator(processing_class.pad_token_id),
            compute_loss_func=self._mean_loss,
            **kwargs,
        )
        self.training_collator = self.data_collator
        sharding.check_sharding(self)
        if self.is_fsdp_enabled:
            sharding.share_embedding(model)
        self._flops_per_token = 6 * model.num_parameters(exclude_embeddings=True)
        # Since the last log: tokens, the targets that the loss is a mean over (target tokens; in
        # dpo pairs), and the targets of as many average batches.
        self._since_log, self._log_time = np.zeros(3), time.perf_counter()
        self._targets_per_batch = 0.0  # of an average batch
        self._means = LoggedMeans()  # of other figures of the loss, for the next log
        self._predicting = False
        self._streams = isinstance(self.train_dataset, StreamedBatches)
        self._stream_position = None  # of the last batch taken
        args.ignore_data_skip |= self._streams  # it goes on by itself, Trainer would read it all
        self.stop = StopAtSignal()
        self.add_callback(self.stop)
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(TrainingProgress(self.training_figures, self.evaluation_figures))
        if args.tokens_per_batch == "auto" and args.do_train:
            if args.device.type == "cpu":
                raise UsageError("tokens_per_batch is auto, which needs a GPU: set a number.")
            args.tokens_per_batch = find_tokens_per_batch(self, lengths_of(self.train_dataset))

    # The step

    def _prepare_inputs(self, inputs):
        device = self.args.device
        later = device.type == "cuda"  # the copy is in order there, Python need not wait for it
        inputs = {
            k: v if v is None else v.to(device, non_blocking=later) for k, v in inputs.items()
        }
        # The model would make these from the labels, but only `_mean_loss` gets the labels.
        if "decoder_input_ids" not in inputs:
            inputs["decoder_input_ids"] = self._shift(labels=inputs["labels"])
        return inputs

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Take the gradient of a batch.

        Where a mask has two dimensions, transformers reads it back from the GPU, twice a pass, to
        see whether anything is padded; it takes one of four as it is, which `MASKED_IN_4D` allow.
        """
        mask = inputs["attention_mask"]  # (batch, source_len)
        padded = not mask.is_cpu or not mask.numpy().all()
        inputs = self._prepare_inputs(inputs)
        config = self.model.config
        takes_4d = config._attn_implementation == "sdpa" and config.model_type in MASKED_IN_4D
        if takes_4d and not self.args.torch_compile:
            mask = inputs["attention_mask"][:, None, None].bool()  # (batch, 1, 1, source_len)
            inputs["attention_mask"] = mask if padded else None
        return super().training_step(model, inputs, num_items_in_batch)

    def _mean_loss(self, outputs, labels, num_items_in_batch=None):
        nll = token_nll(outputs.logits, labels, self.args.label_smoothing_factor)
        tokens = (labels != IGNORE).sum() if num_items_in_batch is None else num_items_in_batch
        return nll.sum() / tokens

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Take the batches of an optimizer step, and compute what their loss is divided by.

        That is the target tokens of as many average batches, summed over the processes.
        """
        batches, expected = list(islice(epoch_iterator, num_batches)), 0.0
        for batch in batches:
            if self._streams:
                self._stream_position = tuple(batch.pop("position").tolist())
                self._targets_per_batch = float(batch.pop("mean_targets"))
            source, target = batch["attention_mask"].sum(), batch["labels"].ne(IGNORE).sum()
            self._since_log += (
                int(source + target),
                self._count_targets(batch),
                self._targets_per_batch,
            )
            expected += self._targets_per_batch
        count = torch.full((), expected, dtype=torch.float32, device=device)  # no copy to wait for
        if self.args.world_size > 1:
            count = self.stop.vote(self.accelerator.reduce, count)
        return batches, count

    def _count_targets(self, batch) -> int:
        """Count the targets in a batch that the loss is a mean over: target tokens."""
        return int(batch["labels"].ne(IGNORE).sum())

    def _mean_targets_of(self, sampler: TokenBudgetSampler) -> float:
        """Return how many targets an average batch has."""
        return sampler.mean_targets

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Make the optimizer; for `adamw_scaled` and `muon_scaled`, ours."""
        if self.optimizer is None and self.args.scaled_optim:
            self.optimizer = scaled_optimizer(self, self.model if model is None else model)
        return super().create_optimizer(model)

    def floating_point_ops(self, inputs) -> int:
        """Count those of a batch; the parameters are not counted anew each time."""
        return self._flops_per_token * inputs["input_ids"].numel()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Make `loss` the mean over target tokens; add means, and tokens a second, unpadded."""
        if self._streams:  # Trainer counts from where this process began
            self.state.epoch = self.state.global_step / self.state.max_steps
        if not math.isfinite(logs.get("eval_loss", 0.0)):
            raise divergence(self, f"The validation loss is {logs['eval_loss']}")
        if not math.isfinite(logs.get("grad_norm", 0.0)):  # fp16 skips such a step
            del logs["grad_norm"]
        if "train_loss" in logs:
            logs["train_loss"] = self._mean_logged_loss(logs["train_loss"])
        if "loss" in logs:
            counts = torch.tensor(self._since_log, dtype=torch.float32, device=self.args.device)
            tokens, targets, expected = self.accelerator.reduce(counts, "sum").tolist()
            now = time.perf_counter()
            logs["loss"] *= expected / targets
            if not math.isfinite(logs["loss"]):
                raise divergence(self, f"The loss is {logs['loss']}")
            logs["tokens_per_second"] = round(tokens / max(1e-9, now - self._log_time), 1)
            self._since_log, self._log_time = np.zeros(3), now
            logs |= self._means.take(self.accelerator)
        super().log(logs, start_time)

    def _mean_logged_loss(self, since_started: float) -> float:
        """Return the mean over the steps of the losses logged since the run began, if any was."""
        logs = [log for log in self.state.log_history if "loss" in log]
        if not logs:
            return since_started
        steps = np.diff([log["step"] for log in logs], prepend=0)
        return float(np.average([log["loss"] for log in logs], weights=steps))

    # Batches

    def get_train_dataloader(self) -> DataLoader:
        """Return the batches of this process."""
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        options = (args.tokens_per_batch, seed, args.process_index, args.world_size)
        if self._streams:
            self.train_dataset.begin(*options, after=self._stream_position)
            # A loader begins with a draw: where a run goes on, after random states were loaded.
            return self._loader(self.train_dataset, batch_size=None, generator=torch.Generator())
        weights = self._source_weights
        draw = Draw(self.train_dataset, weights, seed) if weights else None
        try:
            sampler = TokenBudgetSampler(lengths_of(self.train_dataset), *options, draw)
        except ValueError as error:
            raise UsageError(str(error)) from error
        self._targets_per_batch = self._mean_targets_of(sampler)
        features = self.train_dataset.select_columns(self.training_columns)
        loader = self._loader(features, batch_sampler=sampler, collate_fn=self.training_collator)
        loader.set_epoch = sampler.set_epoch  # Trainer calls it
        return loader

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        """Return the batches of this process, the longest examples first.

        Processes get equally many: some repeat a batch, which the evaluation counts once.
        """
        features = self.eval_dataset if eval_dataset is None else eval_dataset
        beams = self.model.generation_config.num_beams or 1
        copies = max(beams, extra_options(self.model, {})["candidates"])
        budget = max(1, self.args.eval_tokens_per_batch // copies)
        batches = evaluation_batches(lengths_of(features), budget)
        rank, world_size = self.args.process_index, self.args.world_size
        numbers = range(rank, -(-len(batches) // world_size) * world_size, world_size)
        batches = [batches[i % len(batches)] for i in numbers]
        return self._loader(features, batch_sampler=batches, collate_fn=self.data_collator)

    get_test_dataloader = get_eval_dataloader

    def _loader(self, features, **batching) -> DataLoader:
        workers = self.args.dataloader_num_workers
        return DataLoader(
            features,
            **batching,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
            persistent_workers=self.args.dataloader_persistent_workers and workers > 0,
        )

    # Evaluation

    def predict(self, *args, **kwargs) -> PredictionOutput:
        """Evaluate and reply, also without `predict_with_generate`; see `evaluation_loop`."""
        self._predicting = True
        try:
            return super().predict(*args, **kwargs)
        finally:
            self._predicting = False

    def evaluation_loop(self, dataloader, *, metric_key_prefix, **ignored) -> EvalLoopOutput:
        """Evaluate, and reply where that is asked for.

        Returns `predictions`, those of `evaluate_examples`, and `metrics`: `likelihood_figures`,
        `loss_NAME` of each of several sources, and what `compute_metrics` adds.
        """
        started = time.perf_counter()
        sharding.prepare_for_evaluation(self)
        self.model.eval()
        self.callback_handler.eval_dataloader = dataloader
        with_replies = self._predicting or self.args.predict_with_generate
        examples = evaluate_examples(self, dataloader, with_replies)
        metrics = likelihood_figures(examples)
        if "source" in dataloader.dataset.column_names:
            metrics |= loss_by_source(examples, dataloader.dataset["source"])
        if with_replies and self.compute_metrics is not None:
            replies = [example["reply"] for example in examples]
            references = list(dataloader.dataset["response"])
            metrics |= self.compute_metrics(EvalPrediction(replies, references))
        self._log_time += time.perf_counter() - started  # not training time
        return EvalLoopOutput(
            predictions=examples,
            label_ids=None,
            metrics={f"{metric_key_prefix}_{name}": value for name, value in metrics.items()},
            num_samples=len(examples),
        )

    # Checkpoints

    def train(self, resume_from_checkpoint: str | None = None, **kwargs) -> TrainOutput:
        """Train, from a checkpoint if one is given; if training had ended there, only load it.

        At SIGTERM or Ctrl-C it ends after the step, with a checkpoint, and `stop.stopped` is true.
        """
        if resume_from_checkpoint is not None:
            folder = Path(resume_from_checkpoint)
            if load_ended_training(self, folder):
                return TrainOutput(self.state.global_step, math.nan, {})
            if self._streams:
                self._stream_position = tuple(read_json(self._position_path(folder)))
        with self.stop:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, whole; checkpoints (`_internal_call`) may hold shards instead."""
        output_dir = output_dir or self.args.output_dir
        if sharding.is_unprepared(self):
            self._save(output_dir)
        elif self.is_fsdp_enabled and _internal_call:
            # The shards follow. Trainer looks for the folder, and all processes have to see it.
            Path(output_dir).mkdir(parents=True, exist_ok=True)
        elif self.is_fsdp_enabled:
            self._save(output_dir, state_dict=self.accelerator.get_state_dict(self.model))
        else:
            super().save_model(output_dir, _internal_call)

    def merge_adapter(self) -> None:
        """Go on with one model of weights and adapter, where there is an adapter (`lora`)."""
        if has_adapter(self.model):
            self.model = self.model_wrapped = merge(self.model)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if has_adapter(self.model):
            if self.args.should_save:
                # Otherwise peft asks the Hub for the size of the embedding.
                self.model.save_pretrained(output_dir, save_embedding_layers=False)
                self.model.generation_config.save_pretrained(output_dir)
                self.processing_class.save_pretrained(output_dir)
            return
        if state_dict is None:
            super()._save(output_dir)
            return
        tied = self.model.all_tied_weights_keys  # gathered as well, but saved once
        whole = {name: tensor.float() for name, tensor in state_dict.items() if name not in tied}
        super()._save(output_dir, whole)
        if self.args.should_save:  # DeepSpeed has the config say 16 bits
            self.model.config.dtype = "float32"
            self.model.config.save_pretrained(output_dir)

    def _issue_warnings_after_load(self, load_result) -> None:
        tied = self.model.all_tied_weights_keys  # saved once, so that they are missing by design
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def _save_checkpoint(self, model, trial) -> None:
        """Write a checkpoint, then its manifest; only then remove what is too old."""
        check_finite(self)
        args, run_dir = self.args, Path(self.args.output_dir)
        folder = run_dir / f"checkpoint-{self.state.global_step}"
        if args.should_save and folder.exists():  # a damaged one, or one half written
            remove(folder)
        self.accelerator.wait_for_everyone()
        with self._keeping_checkpoints():
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each process has written its part
        if args.should_save:
            seal(folder)
            remove_old(run_dir, args.save_total_limit, self.state, self.passed_step)

    def _finalize_training(self, *args) -> TrainOutput:
        with self._keeping_checkpoints():  # Trainer would remove the last where another is better
            return super()._finalize_training(*args)

    @contextmanager
    def _keeping_checkpoints(self) -> Iterator[None]:
        """Let Trainer remove no checkpoint meanwhile: `remove_old` does."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            yield
        finally:
            self.args.save_total_limit = limit

    def _init_training_state(self, *args) -> tuple[int, int]:
        progress = super()._init_training_state(*args)
        *_, checkpoint, _ = args  # the run folder may have been moved since it was written
        if checkpoint is not None:
            best = best_checkpoint(Path(checkpoint).parent, self.state.best_global_step)
            self.state.best_model_checkpoint = best and str(best)
        return progress

    def _load_best_model(self) -> None:
        folder = Path(self.state.best_model_checkpoint)
        if best_checkpoint(folder.parent, self.state.best_global_step) is not None:
            super()._load_best_model()
        else:  # it was named as damaged
            self.state.best_global_step = self.state.global_step

    def _save_rng_state(self, output_dir: str) -> None:
        if self._streams:
            write_json(self._position_path(output_dir), self._stream_position)
        super()._save_rng_state(output_dir)

    def _position_path(self, checkpoint: str | Path) -> Path:
        return Path(checkpoint) / f"stream_{self.args.process_index}.json"
