"""DialogueTrainer: Seq2SeqTrainer with batches by token budget and exact evaluation."""

from __future__ import annotations

import json
import math
import time
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate import load_checkpoint_in_model
from accelerate.utils import gather_object
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import EncoderDecoderCache, Seq2SeqTrainer
from transformers.trainer_callback import ProgressCallback, TrainerState
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, TrainOutput

from ..data.batching import IGNORE, DialogueCollator, TokenBudgetSampler, evaluation_batches
from ..data.streaming import StreamedBatches
from ..decoding.batch_loop import decode, join, sources_of, take
from ..errors import UsageError
from ..evaluation.metrics import perplexity
from ..models.build import FP16_UNSAFE
from ..settings import DialogueTrainingArguments
from .loss import shift_right, token_nll
from .memory import find_tokens_per_batch, keep_freed_memory
from .sharding import UNSHARDED, check_checkpoint, check_sharding, sharding_of, share_embedding

PARTS = 8  # of a batch in an evaluation, each of rows as long as their neighbours


def lengths_of(features) -> np.ndarray:
    """Source and target tokens of each example, (examples, 2)."""
    columns = features.with_format("numpy")
    return np.stack([columns["source_length"][:], columns["target_length"][:]], axis=1)


class _EpochLoader(DataLoader):
    """A DataLoader that tells its batch sampler the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that comes next; Trainer calls it."""
        self.batch_sampler.set_epoch(epoch)


class TrainingProgress(ProgressCallback):
    """A bar with loss, tokens per second and the time left; a line per evaluation."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Show the figures of a log."""
        if not state.is_world_process_zero or self.training_bar is None:
            return
        if "loss" in logs:
            shown = {"loss": f"{logs['loss']:.3f}", "tokens/s": f"{logs['tokens_per_second']:,.0f}"}
            if "reward" in logs:
                shown["reward"] = f"{logs['reward']:.3f}"
            self.training_bar.set_postfix(shown)
        elif "eval_perplexity" in logs:
            tqdm.write(
                f"step {state.global_step:>6}  epoch {state.epoch:6.2f}  validation loss "
                f"{logs['eval_loss']:.4f}  perplexity {logs['eval_perplexity']:,.2f}"
                + "".join(
                    f"  {name} {logs[key]:.1f}"
                    for key, name in (
                        ("eval_bleu", "BLEU"),
                        ("eval_adversarial_success", "adversarial success"),
                        ("eval_discriminator_accuracy", "discriminator accuracy"),
                        ("eval_sampled_distinct_2", "Distinct-2"),
                    )
                    if key in logs
                )
            )


class DialogueTrainer(Seq2SeqTrainer):
    """Seq2SeqTrainer for the features of `data.encode_rows`.

    What differs from Seq2SeqTrainer:
    - Batches hold `args.tokens_per_batch` padded tokens (`batching`), not a number of examples.
    - Each target token of an epoch weighs the same, in whatever batch it is, however many batches
      an optimizer step accumulates and however many processes there are. A batch of like lengths
      has few target tokens or many, so a mean over its own would weigh some more than others:
      the sum is divided by what a batch has in the mean. Logs show the mean over the tokens seen.
    - `evaluate` takes the exact mean over target tokens; with `predict_with_generate`, and always
      in `predict`, it also replies, and gives texts to `compute_metrics`. Figures do not depend
      on batches or on the number of processes.
    - Trained on a `streaming.StreamedBatches`, it goes on from a checkpoint at the batch after the
      last one, without reading anew what came before.
    - Between two logs nothing is read from the GPU, so that it never waits for Python (unless
      `logging_nan_inf_filter` is on).
    - On a CPU the process keeps the memory that steps free (`memory.keep_freed_memory`).
    - With FSDP (version 2) and DeepSpeed (ZeRO up to stage 2) evaluation and replies work as
      without, and `save_model` writes the model whole; checkpoints hold shards.

    Args:
        args: DialogueTrainingArguments.
        processing_class: the tokenizer.
        compute_metrics: takes an EvalPrediction of replies and references (lists of strings).

    Raises:
        UsageError: fp16 for a model that overflows in it; what FSDP and DeepSpeed cannot do;
            several GPUs without a process for each; `tokens_per_batch` auto without a GPU.
    """

    def __init__(self, model, args: DialogueTrainingArguments, processing_class, **kwargs):
        precision = "fp16" if args.fp16 else args.mixed_precision
        if precision == "fp16" and model.config.model_type in FP16_UNSAFE:
            raise UsageError(
                f"fp16 does not work for {model.config.model_type}: its activations exceed fp16's "
                "greatest number, 65,504, and the loss becomes nan. Use bf16 or fp32."
            )
        if args.activation_checkpointing and not model.supports_gradient_checkpointing:
            raise UsageError(
                f"activation_checkpointing does not work for a {model.config.model_type} model; "
                "lower tokens_per_batch instead, and raise gradient_accumulation_steps as much."
            )
        if args.n_gpu > 1:
            raise UsageError(
                f"There are {args.n_gpu} GPUs, but one process. Start with `accelerate launch` to "
                "use them all, or set CUDA_VISIBLE_DEVICES=0 to use one."
            )
        self._shift = getattr(model, "prepare_decoder_input_ids_from_labels", None) or partial(
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
        if args.device.type == "cpu":
            keep_freed_memory()
        check_sharding(self)
        if self.is_fsdp_enabled:
            share_embedding(model)
        self._flops_per_token = 6 * model.num_parameters(exclude_embeddings=True)
        self._seen, self._clock = np.zeros(3), time.perf_counter()  # since the last log
        self._streams = isinstance(self.train_dataset, StreamedBatches)
        self._position = None  # of the last batch taken from a stream
        args.ignore_data_skip |= self._streams  # it goes on by itself, Trainer would read it all
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(TrainingProgress)
        if args.tokens_per_batch == "auto" and args.do_train:
            if args.device.type == "cpu":
                raise UsageError("tokens_per_batch is auto, which needs a GPU: set a number.")
            args.tokens_per_batch = find_tokens_per_batch(self, lengths_of(self.train_dataset))

    def _mean_loss(self, outputs, labels, num_items_in_batch=None):
        nll = token_nll(outputs.logits, labels, self.args.label_smoothing_factor)
        tokens = (labels != IGNORE).sum() if num_items_in_batch is None else num_items_in_batch
        return nll.sum() / tokens

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Take the gradient of a batch.

        Where a mask has two dimensions, transformers reads it back from the GPU, twice a pass, to
        see whether anything is padded; it takes one of four as it is.
        """
        mask = inputs["attention_mask"]  # (batch, source_len)
        padded = not mask.is_cpu or not mask.numpy().all()
        inputs = self._prepare_inputs(inputs)
        if self.model.config._attn_implementation == "sdpa" and not self.args.torch_compile:
            mask = inputs["attention_mask"][:, None, None].bool()  # (batch, 1, 1, source_len)
            inputs["attention_mask"] = mask if padded else None
        return super().training_step(model, inputs, num_items_in_batch)

    def floating_point_ops(self, inputs) -> int:
        """Count those of a batch; the parameters are not counted anew each time."""
        return self._flops_per_token * inputs["input_ids"].numel()

    def train(self, resume_from_checkpoint: str | None = None, **kwargs) -> TrainOutput:
        """Train, from a checkpoint where one is given.

        A checkpoint at which training had come to its end (all steps, or no patience left) is
        loaded, not trained on: Trainer itself would take a further step from it.
        """
        if resume_from_checkpoint is None:
            return super().train(**kwargs)
        folder = Path(resume_from_checkpoint)
        state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
        if folder != Path(self.args.output_dir):
            check_checkpoint(folder, sharding_of(self))
            control = state.stateful_callbacks["TrainerControl"]["args"]
            if not control["should_training_stop"]:
                if self._streams:
                    self._position = tuple(json.loads(self._place_in_stream(folder).read_text()))
                return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
            if self.args.load_best_model_at_end and state.best_model_checkpoint:
                folder = Path(state.best_model_checkpoint)
        self.state = state
        if self.is_fsdp_enabled and folder != Path(self.args.output_dir):
            self._prepare_model()
            self._load_from_checkpoint(str(folder))
        else:
            load_checkpoint_in_model(self.model, str(folder))
        return TrainOutput(state.global_step, math.nan, {})

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, whole; checkpoints (`_internal_call`) may hold shards instead."""
        output_dir = output_dir or self.args.output_dir
        if sharding_of(self) != UNSHARDED and not self.accelerator._models:  # not sharded yet
            self._save(output_dir)
        elif self.is_fsdp_enabled and _internal_call:
            # The shards follow. Trainer looks for the folder, and all processes have to see it.
            Path(output_dir).mkdir(parents=True, exist_ok=True)
        elif self.is_fsdp_enabled:
            self._save(output_dir, state_dict=self.accelerator.get_state_dict(self.model))
        else:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save weights that were gathered: without copies of tied ones, and in 32 bits."""
        if state_dict is None:
            return super()._save(output_dir)
        tied = self.model.all_tied_weights_keys
        super()._save(output_dir, {k: v.float() for k, v in state_dict.items() if k not in tied})
        if self.args.should_save:  # DeepSpeed's own have 16 bits, which the config says
            self.model.config.dtype = "float32"
            self.model.config.save_pretrained(output_dir)

    def _issue_warnings_after_load(self, load_result) -> None:
        tied = self.model.all_tied_weights_keys  # saved once, so that they are missing by design
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def _save_rng_state(self, output_dir: str) -> None:
        if self._streams:  # first: where random states are, a checkpoint counts as whole
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            self._place_in_stream(output_dir).write_text(json.dumps(self._position))
        super()._save_rng_state(output_dir)

    def _place_in_stream(self, folder: str | Path) -> Path:
        return Path(folder) / f"stream_{self.args.process_index}.json"

    # Batches

    def get_train_dataloader(self) -> DataLoader:
        """Batches of this process."""
        args = self.args
        options = (
            args.tokens_per_batch,
            args.seed if args.data_seed is None else args.data_seed,
            args.process_index,
            args.world_size,
        )
        if self._streams:
            self.train_dataset.begin(*options, after=self._position)
            # A loader begins with a draw: where a run goes on, after random states were loaded.
            own = torch.Generator()
            return self._loader(DataLoader, self.train_dataset, batch_size=None, generator=own)
        try:
            sampler = TokenBudgetSampler(lengths_of(self.train_dataset), *options)
        except ValueError as error:
            raise UsageError(str(error)) from error
        self._mean_targets = sampler.mean_targets
        features = self.train_dataset.select_columns(["input_ids", "labels"])
        return self._loader(
            _EpochLoader, features, batch_sampler=sampler, collate_fn=self.data_collator
        )

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        """Batches of this process, the longest examples first.

        Processes get equally many: where the number does not divide, the last of some repeat a
        batch that the evaluation counts once.
        """
        features = self.eval_dataset if eval_dataset is None else eval_dataset
        budget = self.args.eval_tokens_per_batch // (self.model.generation_config.num_beams or 1)
        batches = evaluation_batches(lengths_of(features), max(1, budget))
        world_size = self.args.world_size
        mine = range(
            self.args.process_index, -(-len(batches) // world_size) * world_size, world_size
        )
        mine = [batches[i % len(batches)] for i in mine]
        return self._loader(DataLoader, features, batch_sampler=mine, collate_fn=self.data_collator)

    get_test_dataloader = get_eval_dataloader

    def _loader(self, loader_class, features, **batching) -> DataLoader:
        workers = self.args.dataloader_num_workers
        return loader_class(
            features,
            **batching,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
            persistent_workers=self.args.dataloader_persistent_workers and workers > 0,
        )

    def _prepare_inputs(self, inputs):
        device = self.args.device
        later = device.type == "cuda"  # the copy is in order there, Python need not wait for it
        inputs = {
            k: v if v is None else v.to(device, non_blocking=later) for k, v in inputs.items()
        }
        # The loss is computed here, not by the model, which would make them of the labels itself.
        if "decoder_input_ids" not in inputs:
            inputs["decoder_input_ids"] = self._shift(labels=inputs["labels"])
        return inputs

    # Evaluation

    @torch.no_grad()
    def evaluation_loop(
        self,
        dataloader,
        description,
        prediction_loss_only=None,
        ignore_keys=None,
        metric_key_prefix="eval",
    ) -> EvalLoopOutput:
        """Evaluate, and reply where that is asked for.

        Returns:
            `predictions`, in the order of the dataset, a dict per example: `reply` (or None), `nll`
            (nats, summed) and `tokens` of the target; `metrics`: `loss` (nats per target token),
            `perplexity`, `target_tokens`, and what `compute_metrics` adds.
        """
        started = time.perf_counter()
        reply = description == "Prediction" or self.args.predict_with_generate
        self._prepare_model()
        self.model.eval()
        self.callback_handler.eval_dataloader = dataloader
        results = []  # (index, nll, tokens, reply) of each example here
        for indices, inputs in zip(dataloader.batch_sampler, dataloader, strict=True):
            tokens = inputs["labels"].ne(IGNORE).sum(-1)  # (batch,)
            inputs = self._prepare_inputs(inputs)
            if not self.is_fsdp_enabled:  # which gathers shards for passes through all of a model
                inputs |= self._encode(inputs.pop("input_ids"), inputs["attention_mask"])
            nll = self._nll(inputs, tokens)
            seed = self.args.seed + indices[0]
            replies = self.reply(inputs, seed) if reply else [None] * len(indices)
            results += zip(indices, nll.tolist(), tokens.tolist(), replies, strict=True)
            self.control = self.callback_handler.on_prediction_step(
                self.args, self.state, self.control
            )
        # Sorted by example, repeated ones once: sums do not depend on the number of processes.
        examples = {result[0]: result[1:] for result in gather_object(results)}
        predictions = [
            dict(zip(("nll", "tokens", "reply"), examples[i], strict=True))
            for i in sorted(examples)
        ]
        nll = math.fsum(example["nll"] for example in predictions)
        tokens = sum(example["tokens"] for example in predictions)
        metrics = {"loss": nll / tokens, "perplexity": perplexity(nll, tokens)}
        metrics["target_tokens"] = tokens
        if reply and self.compute_metrics is not None:
            replies = [example["reply"] for example in predictions]
            references = list(dataloader.dataset["response"])
            metrics |= self.compute_metrics(EvalPrediction(replies, references))
        self._clock += time.perf_counter() - started  # not training time
        return EvalLoopOutput(
            predictions=predictions,
            label_ids=None,
            metrics={f"{metric_key_prefix}_{name}": value for name, value in metrics.items()},
            num_samples=len(predictions),
        )

    def _encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict:
        """What loss and reply need of sources (batch, source_len), computed once for both.

        In parts, for sources of a batch have like lengths, but those of a part liker ones.
        """
        lengths = attention_mask.sum(1).cpu()  # (batch,)
        rows = lengths.argsort(stable=True).split(max(8, -(-len(lengths) // PARTS)))
        parts = [(some.to(input_ids.device), int(lengths[some].max())) for some in rows]
        start = torch.full_like(input_ids[:, :1], self.model.config.decoder_start_token_id)
        inputs = {"attention_mask": attention_mask}
        with self._autocast():
            encoded = [
                self.model.get_encoder()(
                    input_ids=input_ids[some, :longest],
                    attention_mask=attention_mask[some, :longest],
                )
                for some, longest in parts
            ]
            inputs["encoder_outputs"] = join(encoded, [some for some, _ in parts])
            cache = self.model(**inputs, decoder_input_ids=start, use_cache=True).past_key_values
        if isinstance(cache, EncoderDecoderCache):  # keys and values of the cross-attention
            inputs["past_key_values"] = sources_of(cache)
        return inputs

    def _nll(self, inputs: dict, tokens: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of each target of a batch in nats, (batch,).

        Sources have like lengths, targets only those of neighbours: these go through the decoder
        together.

        Args:
            inputs: of the model, and `labels` (batch, target_len).
            tokens: (batch,) real ones of each target, on the CPU.
        """
        size = len(tokens) if self.is_fsdp_enabled else max(8, -(-len(tokens) // PARTS))
        nll = []
        for start in range(0, len(tokens), size):
            part = slice(start, start + size)
            some = {name: take(value, part) for name, value in inputs.items()}
            longest = int(tokens[part].max())
            labels = some.pop("labels")[:, :longest]
            some["decoder_input_ids"] = some["decoder_input_ids"][:, :longest]
            with self._autocast():
                logits = self.model(**some).logits  # (part, longest, vocab)
            nll.append(token_nll(logits, labels).cpu().double().sum(-1))
        return torch.cat(nll)

    def reply(self, inputs: dict[str, torch.Tensor], seed: int) -> list[str]:
        """Decode replies to a batch with the model's generation config.

        Args:
            inputs: `attention_mask` (batch, source_len), and `input_ids` (batch, source_len) or
                what `_encode` returns.
            seed: of sampling, which leaves the random state of the training alone.
        """
        names = ("input_ids", "encoder_outputs", "attention_mask")
        options = {name: inputs[name] for name in names if name in inputs}
        if self.is_fsdp_enabled:
            # Each pass gathers the shards of all processes, so they go on until all have ended.
            options["synced_gpus"] = True
        elif self.model.generation_config.num_beams in (None, 1):
            options["custom_generate"] = decode
            if "past_key_values" in inputs:
                options["past_key_values"] = sources_of(inputs["past_key_values"])
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices), self._autocast():
            torch.manual_seed(seed)
            output_ids = self.model.generate(**options)  # (batch, target_len)
        texts = self.processing_class.batch_decode(output_ids, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _prepare_model(self) -> None:
        """Place the model for an evaluation where no training has."""
        if self.accelerator._models:
            return
        if self.is_fsdp_enabled:  # shards a model only together with an optimizer
            self.create_optimizer()
            self.model, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
            self.model_wrapped = self.model
            register_fsdp_forward_method(self.model, "generate")
        elif self.is_deepspeed_enabled:  # shards gradients and what the optimizer knows
            config = self.accelerator.state.deepspeed_plugin.hf_ds_config
            self.model.to(self.args.device, config.dtype())

    def _autocast(self):
        """The precision of training; FSDP and DeepSpeed have cast the weights."""
        return self.accelerator.autocast() if sharding_of(self) == UNSHARDED else nullcontext()

    # The tokens of a step

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Take the batches of an optimizer step, and tell what their loss is divided by.

        Returns:
            The batches, and the target tokens that as many batches of all processes have in the
            mean, on the device.
        """
        batches, expected = list(islice(epoch_iterator, num_batches)), 0.0
        for batch in batches:
            if self._streams:
                self._position = tuple(batch.pop("position").tolist())
                self._mean_targets = float(batch.pop("mean_targets"))
            source, target = batch["attention_mask"].sum(), batch["labels"].ne(IGNORE).sum()
            self._seen += int(source + target), int(target), self._mean_targets
            expected += self._mean_targets
        count = torch.full((), expected, dtype=torch.float32, device=device)  # no copy to wait for
        return batches, self.accelerator.reduce(count, "sum")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add `tokens_per_second`: real source and target tokens of all processes.

        `loss` becomes the mean over all target tokens since the last log.
        """
        if "loss" in logs:
            seen = torch.tensor(self._seen, dtype=torch.float32, device=self.args.device)
            tokens, targets, expected = self.accelerator.reduce(seen, "sum").tolist()
            now = time.perf_counter()
            logs["loss"] *= expected / targets
            logs["tokens_per_second"] = round(tokens / max(1e-9, now - self._clock), 1)
            self._seen, self._clock = np.zeros(3), now
        super().log(logs, start_time)
