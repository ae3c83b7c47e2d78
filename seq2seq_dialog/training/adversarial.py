"""Adversarial training: a generator of replies against a discriminator (Li et al., 2017).

"Adversarial Learning for Neural Dialogue Generation". A generator that was trained by maximum
likelihood samples replies. The discriminator learns to tell them from human ones. The probability
that it gives a reply of being human is the generator's reward. REINFORCE (Williams, 1992) with a
learned baseline estimates the gradient of the expected reward. Human replies are mixed in as if
their advantage were constant (teacher forcing, section 3.2): the generator sees none otherwise.
"""

import logging
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from transformers.trainer_pt_utils import torch_pad_and_concatenate
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from ..checks import check_adversarial_training
from ..data.batching import IGNORE
from ..decoding.generation_config import bare_decoding
from ..errors import UsageError
from ..evaluation.catalogue import METRICS
from ..method_settings import AdversarialArguments
from ..training_settings import DialogueTrainingArguments
from .checkpoints import last_checkpoint
from .discriminator import Classifier, at_last_token, make_discriminator
from .evaluating import token_nll
from .judging import draw, held_out, judge_samples
from .logged_means import LoggedMeans
from .preparing import switch_off_dropout
from .sampling import decode_bare
from .sharding import refuse_sharding
from .stopping import divergence
from .trainer import DialogueTrainer
from .warm_up import warm_up

logger = logging.getLogger(__name__)
STATE = "adversarial.pt"  # beside the generator's in each checkpoint


class AdversarialTrainer(DialogueTrainer):
    """DialogueTrainer whose generator learns from a discriminator's rewards.

    A step: the discriminator, if it is a `Classifier`, is updated `discriminator_steps` times on
    the human replies of the batch, as many sampled ones, and the human ones exchanged among the
    contexts. Then replies are sampled anew and the generator takes a step on

        - sum over t of (r[t] - b[t]) log p(y[t] | context, y[<t])      (sampled, y)
        - teacher_forcing_weight * sum over t of log p(y[t] | ...)      (human, y)

    both divided by the number of human tokens. The reward r[t] is the discriminator's probability
    of being human (Li et al., 2017, section 3.3, REGS):

    - `prefixes`: of the reply up to token t, and the discriminator is trained on all prefixes;
    - `rollouts`: of the whole reply, on the average over `rollouts` ways to go on from token t;
    - `sequence`: of the whole reply, the same for each of its tokens (REINFORCE).

    Or, `log_ratio`, the logit of the whole reply less that of the reply before token t. With a
    `LikelihoodRatio` this is the gradient of the divergence KL(generator || its model).

    For the first `discriminator_warmup_steps` only the discriminator and its baselines learn; with
    `auto` a classifier has learned before the first (`warm_up`). Replies are sampled from the
    model's own distribution, whatever the decoding settings. The generator's dropout is switched
    off for good, so that the model that is improved is the one that has sampled.
    """

    training_figures = DialogueTrainer.training_figures | {"reward": ("reward", ".3f")}
    evaluation_figures = DialogueTrainer.evaluation_figures | {
        f"eval_{key}": (METRICS[key].label, ".1f")
        for key in ("adversarial_success", "discriminator_accuracy", "sampled_distinct_2")
    }

    def __init__(
        self,
        model,
        args: DialogueTrainingArguments,
        processing_class,
        adversarial: AdversarialArguments,
        **kwargs,
    ):
        check_adversarial_training(args, adversarial)
        args.eval_on_start = args.eval_strategy != "no"  # what a collapse is measured against
        super().__init__(model, args, processing_class, **kwargs)
        refuse_sharding(self, "Adversarial training")
        if adversarial.discriminator_warmup_steps == "auto" and self.eval_dataset is None:
            raise UsageError(
                "discriminator_warmup_steps is auto, which goes by the accuracy on validation "
                "pairs: give some, or set a number of steps."
            )
        switch_off_dropout(model)
        self.adversarial, self.first_step = adversarial, adversarial.first_step
        discriminator = make_discriminator(adversarial, model, processing_class, self.generator_nll)
        self.discriminator = discriminator.to(args.device)
        self.discriminator_optimizer = torch.optim.AdamW(
            self.discriminator.parameters(), lr=adversarial.discriminator_learning_rate
        )
        self._longest = bare_decoding(model.generation_config, temperature=1.0).max_new_tokens
        self._initial_weights = {
            name: tensor.cpu().clone() for name, tensor in model.state_dict().items()
        }
        self._token_weights = None  # of a batch's loss, (2 * batch, target_len)
        if args.process_index > 0:  # each process draws its own
            torch.manual_seed(args.seed + args.process_index)

    # The step

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Update the discriminator, then take the generator's gradient."""
        inputs = self._prepare_inputs(inputs)
        inputs.pop("decoder_input_ids")
        if isinstance(self.discriminator, Classifier):
            for _ in range(self.adversarial.discriminator_steps):
                self.teach_discriminator(inputs, self.sample(inputs))
        samples = self.sample(inputs)  # (batch, sample_len)
        advantages = self.advantages(inputs, samples)  # which fits the baselines
        if self.state.global_step < self.first_step:
            return torch.zeros((), device=self.args.device)
        human = inputs["labels"]
        forced = torch.full_like(human, self.adversarial.teacher_forcing_weight, dtype=torch.float)
        self._token_weights = torch_pad_and_concatenate(forced, advantages, padding_index=0)
        both = {name: inputs[name].repeat(2, 1) for name in ("input_ids", "attention_mask")}
        both["labels"] = torch_pad_and_concatenate(human, samples, padding_index=IGNORE)
        loss = super().training_step(model, both, num_items_in_batch)
        if not loss.isfinite():
            raise divergence(self, f"The generator's loss is {loss.item()}")
        return loss

    def _mean_loss(self, outputs, labels, num_items_in_batch=None):
        nll = token_nll(outputs.logits, labels)  # 0 where there is padding
        human, real = nll[: len(nll) // 2], labels[: len(nll) // 2] != IGNORE
        self._means.add("human_loss", human, real.sum())
        tokens = real.sum() if num_items_in_batch is None else num_items_in_batch
        return (nll * self._token_weights).sum() / tokens

    def sample(self, inputs, prefixes: torch.Tensor | None = None, count: int = 1) -> torch.Tensor:
        """Sample `count` replies to each context from the generator, -100 behind the end token."""
        options = {"num_return_sequences": count}
        if prefixes is not None:
            options["max_new_tokens"] = self._longest - prefixes.shape[1]
            start = self.model.config.decoder_start_token_id
            options["decoder_input_ids"] = functional.pad(prefixes, (1, 0), value=start)
        return decode_bare(self, inputs, temperature=1.0, **options)  # (batch * count, sample_len)

    @torch.no_grad()
    def generator_nll(self, input_ids, attention_mask, replies) -> torch.Tensor:
        """Compute the generator's negative log-likelihood of each token, (batch, target_len)."""
        ids, was_training = self._shift(labels=replies), self.model.training
        self.model.eval()  # the last bits of a recurrent layer depend on it
        with self.accelerator.autocast():
            logits = self.model(
                input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=ids
            ).logits
        self.model.train(was_training)
        return token_nll(logits, replies)

    def judge(self, inputs, replies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the discriminator's scores and baselines of replies, without its dropout."""
        self.discriminator.eval()
        return self.discriminator(inputs["input_ids"], inputs["attention_mask"], replies)

    @torch.no_grad()
    def rewards(self, inputs, samples: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Reward each token; `scores` are logits of the reply up to it being human."""
        if self.adversarial.reward == "log_ratio":
            before = functional.pad(scores[:, :-1], (1, 0))  # 0 where nothing has been said
            return at_last_token(scores, samples)[:, None] - before
        humanness = scores.sigmoid()  # (batch, sample_len)
        if self.adversarial.reward == "prefixes":
            return humanness
        whole = at_last_token(humanness, samples)  # (batch,)
        rewards = whole[:, None].repeat(1, samples.shape[1])
        if self.adversarial.reward == "rollouts":
            lengths = samples.ne(IGNORE).sum(-1)
            for t in range(1, samples.shape[1]):
                rows = (lengths > t).nonzero().squeeze(1)  # those that go on
                contexts = {name: inputs[name][rows] for name in ("input_ids", "attention_mask")}
                rollouts = self.sample(contexts, samples[rows, :t], self.adversarial.rollouts)
                count = len(rollouts) // len(rows)
                repeated = {k: x.repeat_interleave(count, 0) for k, x in contexts.items()}
                scores = self.judge(repeated, rollouts)[0]
                judged = at_last_token(scores.sigmoid(), rollouts)
                rewards[rows, t - 1] = judged.view(len(rows), -1).mean(1)
        return rewards

    def advantages(self, inputs, samples: torch.Tensor) -> torch.Tensor:
        """Return rewards less baselines of samples, (batch, sample_len), then fit the baselines."""
        scores, baselines = self.judge(inputs, samples)
        rewards = self.rewards(inputs, samples, scores.detach())
        advantages, real = rewards - baselines.detach(), samples != IGNORE
        self._means.add("reward", rewards * real, real.sum())
        self._means.add("advantage_rms", advantages**2 * real, real.sum())
        self._update_discriminator((((baselines - rewards) ** 2) * real).sum() / real.sum())
        return advantages

    def teach_discriminator(self, inputs, samples: torch.Tensor) -> None:
        """Update a classifier once, on human replies, sampled ones and those of other contexts."""
        self.discriminator.train()
        of_prefixes = self.adversarial.reward in ("prefixes", "log_ratio")
        loss, recognised = self.discriminator.losses(inputs, samples, of_prefixes)
        self._update_discriminator(loss)
        self._means.add("discriminator_loss", loss)
        self._means.add("discriminator_accuracy", recognised)

    def _update_discriminator(self, loss: torch.Tensor) -> None:
        self.discriminator_optimizer.zero_grad()
        loss.backward()
        parameters = [p for p in self.discriminator.parameters() if p.grad is not None]
        if self.args.world_size > 1:  # the mean gradient, in one message
            flat = torch.cat([p.grad.flatten() for p in parameters])
            flat = self.accelerator.reduce(flat, "mean")
            grads = flat.split([p.numel() for p in parameters])
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad.view_as(parameter)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        self.discriminator_optimizer.step()

    # What is reported

    @torch.no_grad()
    def evaluation_loop(self, dataloader, **kwargs) -> EvalLoopOutput:
        """Evaluate; while training, add how sampled replies to held-out contexts fare."""
        output = super().evaluation_loop(dataloader, **kwargs)
        if self.is_in_train:
            features = held_out(dataloader.dataset)
            samples = draw(self, features, self.args.eval_tokens_per_batch)
            for name, value in judge_samples(self, features, samples).items():
                output.metrics[f"{kwargs['metric_key_prefix']}_{name}"] = value
        return output

    # Collapse

    @property
    def collapse(self) -> str | None:
        """When and how the training has collapsed, by its evaluations; None if it has not."""
        threshold = self.adversarial.collapse_threshold
        logs = [log for log in self.state.log_history if "eval_sampled_distinct_2" in log]
        if not logs or threshold == 0:
            return None
        signs = []
        before, now = (log["eval_sampled_distinct_2"] for log in (logs[0], logs[-1]))
        if now < threshold * before:
            signs.append(f"Distinct-2 of sampled replies fell from {before:.1f} to {now:.1f}")
        before, now = (log["eval_perplexity"] for log in (logs[0], logs[-1]))
        if now > before / threshold:
            signs.append(f"perplexity rose from {before:.1f} to {now:.1f}")
        return f"step {logs[-1]['step']}: {', '.join(signs)}" if signs else None

    @property
    def passed_step(self) -> int:
        """The step of the last evaluation that saw no collapse, 0 before there is one."""
        steps = [log["step"] for log in self.state.log_history if "eval_loss" in log]
        return max(steps[:-1] if self.collapse else steps, default=0)

    def _warn_of_noise(self) -> None:
        """Warn, once, if the discriminator knows little when the generator begins to learn."""
        accuracies = [
            log["eval_discriminator_accuracy"]
            for log in self.state.log_history
            if "eval_discriminator_accuracy" in log and log["step"] >= self.first_step
        ]
        least = self.adversarial.least_accuracy
        if self.is_in_train and len(accuracies) == 1 and accuracies[0] < least:
            logger.warning(
                "The discriminator recognises %.1f %% of held-out replies, where 50 %% is chance "
                "and least_accuracy %g: its rewards are noise, from which the generator will not "
                "learn. Give it a stronger model (discriminator: {model_name_or_path: ..., form: "
                "ratio}) or more training (discriminator_warmup_steps: auto).",
                accuracies[0],
                least,
            )

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Evaluate; say if rewards will be noise, and stop the training where it has collapsed."""
        metrics = super().evaluate(*args, **kwargs)
        self._warn_of_noise()
        if self.is_in_train and self.collapse:
            self.control.should_training_stop, self.control.should_save = True, False
        return metrics

    def train(self, resume_from_checkpoint: str | None = None, **kwargs) -> TrainOutput:
        """Train; after a collapse the last model before it is the result."""
        if resume_from_checkpoint is None and self.adversarial.discriminator_warmup_steps == "auto":
            warm_up(self)
            self._means = LoggedMeans()
        if resume_from_checkpoint is not None:
            self.args.eval_on_start = False  # the first evaluation stands in the log
        result = super().train(resume_from_checkpoint, **kwargs)
        if self.collapse and Path(resume_from_checkpoint or "") != Path(self.args.output_dir):
            folder = last_checkpoint(self.args.output_dir, before=self.passed_step + 1)
            if folder is None:
                self.model.load_state_dict(self._initial_weights)
            else:
                self._load_from_checkpoint(str(folder))
            logger.warning(
                "Training has collapsed and was stopped (%s; collapse_threshold is %s). The model "
                "kept is that of %s. Raise teacher_forcing_weight or lower learning_rate.",
                self.collapse,
                self.adversarial.collapse_threshold,
                "the beginning" if folder is None else folder.name,
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
