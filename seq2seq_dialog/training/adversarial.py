"""Adversarial training: a generator of replies against a discriminator (Li et al., 2017).

"Adversarial Learning for Neural Dialogue Generation". The generator, trained by maximum likelihood
before, samples replies; the discriminator learns to tell them from human ones; how human it takes
them to be is the generator's reward, and the gradient of the expected reward is estimated by
REINFORCE (Williams, 1992) with a learned baseline. Human replies are mixed in as if their advantage
were constant (teacher forcing, their section 3.2), for the generator never sees one otherwise.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.nn import functional
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from ..data.batching import IGNORE, evaluation_batches
from ..decoding.settings import bare_decoding
from ..errors import UsageError
from ..evaluation.metrics import distinct
from ..portable.modeling_rnn import RnnSeq2SeqConfig, RnnSeq2SeqModel
from ..settings import AdversarialArguments, DialogueTrainingArguments
from .loss import token_nll
from .resume import last_checkpoint
from .trainer import DialogueTrainer, lengths_of

logger = logging.getLogger(__name__)
STATE = "adversarial.pt"  # beside the generator's in each checkpoint
EVALUATED = 512  # validation pairs that are sampled for in each evaluation


def at_last_token(values: torch.Tensor, replies: torch.Tensor) -> torch.Tensor:
    """Take what stands at each reply's last token: (batch, target_len), twice -> (batch,)."""
    return values.gather(1, replies.ne(IGNORE).sum(-1, keepdim=True) - 1).squeeze(1)


class Discriminator(nn.Module):
    """Tells human replies from generated ones, after each of their tokens.

    A recurrent encoder-decoder reads the context, then the reply. What it holds after a token gives
    the score of the reply so far; what it held before gives the baseline of that token's reward.

    Args:
        config: sizes; `vocab_size` is that of the generator.
    """

    def __init__(self, config: RnnSeq2SeqConfig):
        super().__init__()
        self.config = config
        self.body = RnnSeq2SeqModel(config)
        self.score = nn.Linear(config.embedding_size, 1)
        self.baseline = nn.Linear(config.embedding_size, 1)
        nn.init.zeros_(self.baseline.weight)
        nn.init.constant_(self.baseline.bias, 0.5)

    def forward(self, input_ids, attention_mask, replies):
        """Score replies and all that they begin with.

        Args:
            input_ids, attention_mask: the contexts, (batch, source_len), padded on the right.
            replies: (batch, target_len), -100 where there is padding.

        Returns:
            scores (batch, target_len), logits of the reply up to this token being human;
            baselines (batch, target_len), of this token's reward; no gradient of theirs reaches
            what the scores are made of.
        """
        ids = functional.pad(replies, (1, 0), value=self.config.decoder_start_token_id)
        ids = ids.masked_fill(ids == IGNORE, self.config.pad_token_id)
        vectors = self.body(input_ids, attention_mask, ids)[0]  # (batch, 1 + target_len, embedding)
        scores = self.score(vectors[:, 1:]).squeeze(-1)
        return scores, self.baseline(vectors[:, :-1].detach()).squeeze(-1)


class AdversarialTrainer(DialogueTrainer):
    """DialogueTrainer whose generator learns from a discriminator's rewards.

    A step: the discriminator is updated `discriminator_steps` times on the human replies of the
    batch and as many sampled ones; then replies are sampled anew and the generator takes a step on

        - sum over t of (r[t] - b[t]) log p(y[t] | context, y[<t])      (sampled, y)
        - teacher_forcing_weight * sum over t of log p(y[t] | ...)      (human, y)

    both divided by the number of human tokens. The reward r[t] is the discriminator's probability
    of being human (Li et al., 2017, section 3.3, REGS):

    - `prefixes`: of the reply up to token t, by a discriminator trained on prefixes, of which one a
      reply is drawn in each update;
    - `rollouts`: of the whole reply, on the average over `rollouts` ways to go on from token t;
    - `sequence`: of the whole reply, the same for each of its tokens (REINFORCE).

    For the first `discriminator_warmup_steps` only the discriminator learns. Replies are sampled
    from the bare distribution, whatever the decoding settings, and the generator's dropout is
    switched off for good: what is improved is what acted.

    Args:
        adversarial: the settings.
        discriminator: sizes of the discriminator.

    Raises:
        UsageError: fp16, label smoothing, or settings that let a collapse go unseen or undo the
            training.
    """

    def __init__(
        self,
        model,
        args: DialogueTrainingArguments,
        processing_class,
        adversarial: AdversarialArguments,
        discriminator: RnnSeq2SeqConfig,
        **kwargs,
    ):
        _check(args, adversarial)
        args.eval_on_start = args.eval_strategy != "no"  # what a collapse is measured against
        if args.save_total_limit == 1:
            args.save_total_limit = 2  # Trainer deletes the last in the end if another was better
        super().__init__(model, args, processing_class, **kwargs)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise UsageError(
                "Adversarial training does not work with FSDP and DeepSpeed: use plain data "
                "parallelism, configs/accelerate/gpus.yaml."
            )
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            for name in ("dropout", "attention_dropout", "activation_dropout", "layerdrop"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
        self.adversarial = adversarial
        self.discriminator = Discriminator(discriminator).to(args.device)
        self.discriminator_optimizer = torch.optim.AdamW(
            self.discriminator.parameters(), lr=adversarial.discriminator_learning_rate
        )
        self._bare = bare_decoding(model.generation_config, temperature=1.0)
        self._start = {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
        self._weights = None  # of the tokens of a batch, (2 * batch, target_len)
        self._sums: dict[str, list] = {}
        if args.process_index > 0:  # each process draws its own
            torch.manual_seed(args.seed + args.process_index)

    # The step

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Update the discriminator, then take the generator's gradient.

        Raises:
            UsageError: the loss is nan or infinite.
        """
        inputs = self._prepare_inputs(inputs)
        inputs.pop("decoder_input_ids")
        for _ in range(self.adversarial.discriminator_steps):
            self._discriminate(inputs)
        if self.state.global_step < self.adversarial.discriminator_warmup_steps:
            return torch.zeros((), device=self.args.device)
        samples = self.sample(inputs)  # (batch, sample_len)
        rewards, baselines = self._judge_samples(inputs, samples)
        human, sampled = _align(inputs["labels"], samples)
        forced = torch.full_like(human, self.adversarial.teacher_forcing_weight, dtype=torch.float)
        advantages = functional.pad(rewards - baselines, (0, human.shape[1] - samples.shape[1]))
        self._weights = torch.cat([forced, advantages])
        both = {name: inputs[name].repeat(2, 1) for name in ("input_ids", "attention_mask")}
        both["labels"] = torch.cat([human, sampled])
        loss = super().training_step(model, both, num_items_in_batch)
        if not loss.isfinite():
            raise UsageError(
                f"The generator's loss is {loss.item()} at step {self.state.global_step}. Lower "
                "learning_rate; the last checkpoint is whole."
            )
        return loss

    def _mean_loss(self, outputs, labels, num_items_in_batch=None):
        nll = token_nll(outputs.logits, labels)  # 0 where there is padding
        human, real = nll[: len(nll) // 2], labels[: len(nll) // 2] != IGNORE
        self._count("human_loss", human.detach(), real)
        tokens = real.sum() if num_items_in_batch is None else num_items_in_batch
        return (nll * self._weights).sum() / tokens

    def sample(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Sample a reply to each context from the generator itself.

        Returns:
            (batch, sample_len), the end token included, -100 behind it.
        """
        return self._generate(inputs, None, 1)

    @torch.no_grad()
    def _generate(self, inputs, begun: torch.Tensor | None, count: int) -> torch.Tensor:
        """Sample `count` replies to each context that go on from `begun` (batch, begun_len)."""
        options = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        options |= {"num_return_sequences": count}
        if begun is not None:
            options["max_new_tokens"] = self._bare.max_new_tokens - begun.shape[1]
            start = self.model.config.decoder_start_token_id
            options["decoder_input_ids"] = functional.pad(begun, (1, 0), value=start)
        own, self.model.generation_config = self.model.generation_config, self._bare
        training = self.model.training
        self.model.eval()  # with activation checkpointing a model in training has no cache
        try:
            with self.accelerator.autocast():
                replies = self.model.generate(**options)[:, 1:]  # (batch * count, sample_len)
        finally:
            self.model.generation_config = own
            self.model.train(training)
        ended = (replies == self.processing_class.eos_token_id).int()
        return replies.masked_fill(ended.cumsum(1) - ended > 0, IGNORE)

    def _judge(self, inputs, replies):
        self.discriminator.eval()
        return self.discriminator(inputs["input_ids"], inputs["attention_mask"], replies)

    @torch.no_grad()
    def rewards(self, inputs, samples: torch.Tensor, humanness: torch.Tensor) -> torch.Tensor:
        """Reward each token of sampled replies.

        Args:
            inputs: `input_ids` and `attention_mask`, (batch, source_len).
            samples: (batch, sample_len), -100 where there is padding.
            humanness: (batch, sample_len), the discriminator's probability that the reply up to
                each token is human.

        Returns:
            (batch, sample_len)
        """
        if self.adversarial.reward == "prefixes":
            return humanness
        whole = at_last_token(humanness, samples)  # (batch,)
        rewards = whole[:, None].repeat(1, samples.shape[1])
        if self.adversarial.reward == "rollouts":
            lengths = samples.ne(IGNORE).sum(-1)
            for t in range(1, samples.shape[1]):
                rows = (lengths > t).nonzero().squeeze(1)  # those that go on
                some = {name: inputs[name][rows] for name in ("input_ids", "attention_mask")}
                ways = self._generate(some, samples[rows, :t], self.adversarial.rollouts)
                repeated = {
                    k: x.repeat_interleave(len(ways) // len(rows), 0) for k, x in some.items()
                }
                judged = at_last_token(self._judge(repeated, ways)[0].sigmoid(), ways)
                rewards[rows, t - 1] = judged.view(len(rows), -1).mean(1)
        return rewards

    def _judge_samples(self, inputs, samples) -> tuple[torch.Tensor, torch.Tensor]:
        """Return rewards and baselines of samples, both (batch, sample_len); fit the latter."""
        scores, baselines = self._judge(inputs, samples)
        rewards = self.rewards(inputs, samples, scores.detach().sigmoid())
        real = samples != IGNORE
        self._count("reward", rewards, real)
        self._update((((baselines - rewards) ** 2) * real).sum() / real.sum())
        return rewards, baselines.detach()

    def _discriminate(self, inputs) -> None:
        """Update the discriminator once, with a loss at one token of each reply."""
        human, sampled = _align(inputs["labels"], self.sample(inputs))
        replies = torch.cat([human, sampled])
        lengths = replies.ne(IGNORE).sum(-1)
        at = lengths - 1  # the whole reply
        if self.adversarial.reward == "prefixes":
            at = (torch.rand(lengths.shape, device=lengths.device) * lengths).long()
        is_human = torch.arange(len(replies), device=replies.device) < len(human)
        self.discriminator.train()
        contexts = (inputs[name].repeat(2, 1) for name in ("input_ids", "attention_mask"))
        scores = self.discriminator(*contexts, replies)[0].gather(1, at[:, None]).squeeze(1)
        loss = functional.binary_cross_entropy_with_logits(
            scores, is_human.float(), reduction="none"
        )
        self._update(loss.mean())
        self._count("discriminator_loss", loss.detach())
        self._count("discriminator_accuracy", ((scores > 0) == is_human).float())

    def _update(self, loss: torch.Tensor) -> None:
        self.discriminator_optimizer.zero_grad()
        loss.backward()
        moved = [p for p in self.discriminator.parameters() if p.grad is not None]
        if self.args.world_size > 1:  # the mean gradient, in one message
            flat = torch.cat([p.grad.flatten() for p in moved])
            flat = self.accelerator.reduce(flat, "mean")
            for p, grad in zip(moved, flat.split([p.numel() for p in moved]), strict=True):
                p.grad = grad.view_as(p)
        nn.utils.clip_grad_norm_(moved, 1.0)
        self.discriminator_optimizer.step()

    # What is reported

    def _count(self, name: str, values: torch.Tensor, real: torch.Tensor | None = None) -> None:
        """Add to a mean that the next log shows; it stays on the device until then."""
        real = torch.ones_like(values) if real is None else real
        total, count = self._sums.get(name, (0, 0))
        self._sums[name] = [total + (values * real).sum(), count + real.sum()]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means since the last log of reward, human_loss and of the discriminator."""
        if "loss" in logs and self._sums:
            for name in sorted(self._sums):
                sums = torch.tensor([float(x) for x in self._sums[name]], device=self.args.device)
                total, count = self.accelerator.reduce(sums, "sum").tolist()
                logs[name] = total / count
            self._sums = {}
        super().log(logs, start_time)

    @torch.no_grad()
    def evaluation_loop(
        self,
        dataloader,
        description,
        prediction_loss_only=None,
        ignore_keys=None,
        metric_key_prefix="eval",
    ) -> EvalLoopOutput:
        """Evaluate; while training, add how sampled replies to held-out contexts fare.

        Returns:
            As DialogueTrainer; while training besides, in `metrics`, over the first 512 pairs:
            `discriminator_accuracy` (whole replies, human and sampled), `adversarial_success` (the
            share of sampled replies that the discriminator takes for human), `reward` (its mean
            probability for them), `sampled_distinct_1`, `sampled_distinct_2`; shares in percent.
        """
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        if self.is_in_train:
            features = dataloader.dataset
            features = features.select(range(min(EVALUATED, len(features))))
            for name, value in self._held_out(features).items():
                output.metrics[f"{metric_key_prefix}_{name}"] = value
        return output

    def _held_out(self, features) -> dict[str, float]:
        budget = self.args.eval_tokens_per_batch
        batches = evaluation_batches(lengths_of(features), budget)
        results = []  # (index, human score, score of the sampled reply, its text)
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        for indices in batches[self.args.process_index :: self.args.world_size]:
            examples = self.data_collator([features[i] for i in indices])
            inputs = {name: x.to(self.args.device) for name, x in examples.items()}
            with torch.random.fork_rng(devices):  # the training's own draws do not change
                torch.manual_seed(self.args.seed + indices[0])
                sampled = self.sample(inputs)
            scores = []
            for replies in (inputs["labels"], sampled):
                scores.append(at_last_token(self._judge(inputs, replies)[0], replies).tolist())
            ids = sampled.masked_fill(sampled == IGNORE, self.processing_class.pad_token_id)
            texts = self.processing_class.batch_decode(ids, skip_special_tokens=True)
            results += zip(indices, *scores, texts, strict=True)
        results = sorted(gather_object(results))
        count = len(results)
        fooled = sum(result[2] > 0 for result in results)
        right = sum(result[1] > 0 for result in results) + count - fooled
        texts = [result[3] for result in results]
        return {
            "discriminator_accuracy": 100 * right / (2 * count),
            "adversarial_success": 100 * fooled / count,
            "reward": math.fsum(1 / (1 + math.exp(-result[2])) for result in results) / count,
            "sampled_distinct_1": distinct(texts, 1),
            "sampled_distinct_2": distinct(texts, 2),
        }

    # Collapse

    @property
    def collapse(self) -> str | None:
        """When and how the training has collapsed, by its evaluations; None if it has not."""
        threshold = self.adversarial.collapse_threshold
        logs = [log for log in self.state.log_history if "eval_sampled_distinct_2" in log]
        if not logs or threshold == 0:
            return None
        first, now = logs[0], logs[-1]
        signs = []
        key = "eval_sampled_distinct_2"
        if now[key] < threshold * first[key]:
            signs.append(
                f"Distinct-2 of sampled replies fell from {first[key]:.1f} to {now[key]:.1f}"
            )
        key = "eval_perplexity"
        if now[key] > first[key] / threshold:
            signs.append(f"perplexity rose from {first[key]:.1f} to {now[key]:.1f}")
        return f"step {now['step']}: {', '.join(signs)}" if signs else None

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Evaluate, and stop the training where it has collapsed."""
        metrics = super().evaluate(*args, **kwargs)
        if self.is_in_train and self.collapse:
            self.control.should_training_stop, self.control.should_save = True, False
        return metrics

    def train(self, resume_from_checkpoint: str | None = None, **kwargs) -> TrainOutput:
        """Train; after a collapse the last model before it is the result."""
        if resume_from_checkpoint is not None:
            self.args.eval_on_start = False  # the first evaluation stands in the log
        result = super().train(resume_from_checkpoint, **kwargs)
        if self.collapse and Path(resume_from_checkpoint or "") != Path(self.args.output_dir):
            folder = last_checkpoint(self.args.output_dir, self.args.world_size)
            if folder is None:
                self.model.load_state_dict(self._start)
            else:
                self._load_from_checkpoint(folder)
            logger.warning(
                "Training has collapsed and was stopped (%s; collapse_threshold is %s). The model "
                "kept is that of %s. Raise teacher_forcing_weight or lower learning_rate.",
                self.collapse,
                self.adversarial.collapse_threshold,
                "the beginning" if folder is None else Path(folder).name,
            )
        return result

    # Checkpoints

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            state = {
                "discriminator": self.discriminator.state_dict(),
                "optimizer": self.discriminator_optimizer.state_dict(),
            }
            torch.save(state, Path(output_dir) / STATE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            path = Path(checkpoint) / STATE
            state = torch.load(path, map_location=self.args.device, weights_only=True)
            self.discriminator.load_state_dict(state["discriminator"])
            self.discriminator_optimizer.load_state_dict(state["optimizer"])


def _align(one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad two (batch, target_len) tensors of labels to the same width."""
    width = max(one.shape[1], other.shape[1])
    pad = (functional.pad(x, (0, width - x.shape[1]), value=IGNORE) for x in (one, other))
    return tuple(pad)


def _check(args: DialogueTrainingArguments, adversarial: AdversarialArguments) -> None:
    """Refuse what cannot work, or would let a collapse go unseen."""
    if args.fp16 or args.mixed_precision == "fp16":
        raise UsageError("fp16 does not work in adversarial training; use bf16 or fp32.")
    if args.label_smoothing_factor > 0:
        raise UsageError(
            f"label_smoothing_factor is {args.label_smoothing_factor}; the policy gradient has "
            "none: set it to 0."
        )
    if args.load_best_model_at_end and args.metric_for_best_model.endswith(("loss", "perplexity")):
        raise UsageError(
            "The best model by likelihood is the one before adversarial training: set "
            "load_best_model_at_end to false, or metric_for_best_model to another figure."
        )
    unequal = args.eval_strategy == "no" or args.save_strategy != args.eval_strategy
    if adversarial.collapse_threshold > 0 and (
        unequal or (args.eval_strategy == "steps" and args.save_steps % args.eval_steps)
    ):
        raise UsageError(
            "A collapse is seen by evaluations, and undone by checkpoints that one has passed: set "
            "eval_strategy and save_strategy alike, to steps (save_steps a multiple of eval_steps) "
            "or epoch, and give validation pairs; or set collapse_threshold to 0."
        )
