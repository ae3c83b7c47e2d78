"""Unlikelihood training: what a model should not say is made unlikely, beside what people said.

Maximum likelihood gives dull and repetitive replies. Unlikelihood (Welleck et al., 2020, equation
4) adds, for each target token y[t], -log(1 - p(c | context, y[<t])) of every negative candidate c:

- `repetition` (equation 5): the tokens of the reply before t, but y[t] itself.
- `context_copy`: the tokens of the context, but y[t]. Li et al. (2020, section 3.1) take those of
  n-grams that the model has copied; here the human reply is the prefix, as in the one before.
- `vocabulary` (Li et al., section 3.2): the likeliest token v, where it is not y[t], times
  u(v) log(u(v) / h(v)), if that is positive; u is the share of v among the likeliest tokens of
  late, h among all human tokens. Li et al. take the tokens of decoded replies.
- `stock_phrases`: each token of a reply that is said often and does not answer this context; each
  context gets one, drawn by how often it is said (Li et al., section 3.3, have contradictions).
- `sequence_repetition` (Welleck et al., section 5.2): each token that is the end of an n-gram said
  before in the same reply, in replies that the model itself decodes, greedily.

Special tokens are no candidates. All are summed over tokens, weighted, and divided by the human
target tokens, as the likelihood is. Evaluation measures likelihood alone.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from transformers.trainer_pt_utils import torch_pad_and_concatenate

from ..data.batching import IGNORE
from ..dataset_script.dialogues import normalised
from ..errors import UsageError
from ..training_settings import DialogueTrainingArguments
from .evaluating import token_nll
from .negatives import frequent_replies
from .sampling import decode_bare, read_labels
from .sharding import refuse_sharding
from .trainer import DialogueTrainer

STATE = "objectives.pt"  # beside the weights in each checkpoint
LIKELIEST = 1 - 1e-5  # the probability beyond which no candidate is pushed: log(1 - p) is finite
KEPT = 0.99  # of the counts of used tokens, from one step to the next
NGRAM = 3


class ObjectiveTrainer(DialogueTrainer):
    """DialogueTrainer whose loss has the objectives of this module.

    Logs have, per human target token, `human_loss`, the likelihood's part, and of each objective
    its own, unweighted: `repetition_loss` and so on.

    Args:
        objectives: weights by name, each above 0.
    """

    training_figures: ClassVar = DialogueTrainer.training_figures | {"human_loss": ("nll", ".3f")}

    def __init__(
        self,
        model,
        args: DialogueTrainingArguments,
        processing_class,
        objectives: dict[str, float],
        **kwargs,
    ):
        super().__init__(model, args, processing_class, **kwargs)
        self.objectives = objectives
        self._functions = {
            "repetition": self._repetition,
            "context_copy": self._context_copy,
            "vocabulary": self._vocabulary,
            "stock_phrases": self._stock_phrases,
            "sequence_repetition": self._sequence_repetition,
        }
        if "sequence_repetition" in objectives:  # it decodes replies
            refuse_sharding(self, "The objective sequence_repetition")
        self._special = torch.tensor(processing_class.all_special_ids, device=args.device)
        if "stock_phrases" in objectives:
            self._phrases, self._phrase_counts = self._find_phrases()
        if "vocabulary" in objectives:
            self._human = self._count_tokens(self.train_dataset)  # (vocab,)
            self._used = torch.zeros_like(self._human)  # counts of late steps
            self._used_in_step = torch.zeros_like(self._human)

    def _find_phrases(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the stock phrases among the training replies, as labels, and how often each is said.

        Returns:
            (phrases, phrase_len), -100 where there is padding, and (phrases,).
        """
        replies = self.train_dataset["response"][:]
        counts = frequent_replies(replies)
        if not counts:
            raise UsageError(
                "The objective stock_phrases needs replies that are said at least twice, but the "
                "training data has none: take it out."
            )
        examples = self.train_dataset.select([replies.index(phrase) for phrase in counts])
        labels = self.data_collator(list(examples))["labels"].to(self.args.device)
        return labels, torch.tensor(list(counts.values()), dtype=torch.float32)

    def _count_tokens(self, features) -> torch.Tensor:
        """Count the tokens of all replies, (vocab,)."""
        ids = np.concatenate(features.with_format("numpy")["labels"][:])
        counts = np.bincount(ids, minlength=self.model.get_input_embeddings().weight.shape[0])
        return torch.tensor(counts, dtype=torch.float32, device=self.args.device)

    # The step

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Take the gradient of a batch, to which replies that should be unlikely are added."""
        inputs = self._prepare_inputs(inputs)
        inputs.pop("decoder_input_ids")
        human, mask = inputs["labels"], inputs["attention_mask"].bool()
        self._contexts = inputs["input_ids"].masked_fill(~mask, self.processing_class.pad_token_id)
        self._parts = ["human"]  # what the rows of the batch are, each as many
        labels = human
        for name, make in (
            ("stock_phrases", lambda: self._draw_phrases(human)),
            ("sequence_repetition", lambda: decode_bare(self, inputs, temperature=0)),
        ):
            if name in self.objectives:
                labels = torch_pad_and_concatenate(labels, make(), padding_index=IGNORE)
                self._parts.append(name)
        names = ("input_ids", "attention_mask")
        rows = {name: inputs[name].repeat(len(self._parts), 1) for name in names}
        loss = super().training_step(model, rows | {"labels": labels}, num_items_in_batch)
        if "vocabulary" in self.objectives and self.accelerator.sync_gradients:
            counts = self.accelerator.reduce(self._used_in_step, "sum")
            self._used = KEPT * self._used + counts
            self._used_in_step = torch.zeros_like(counts)
        return loss

    def _draw_phrases(self, human: torch.Tensor) -> torch.Tensor:
        """Draw a stock phrase for each context, (batch, phrase_len); none where it is the reply."""
        drawn = torch.multinomial(self._phrase_counts, len(human), replacement=True)
        phrases = self._phrases[drawn.to(human.device)]
        texts = (read_labels(labels, self.processing_class) for labels in (human, phrases))
        pairs = zip(*texts, strict=True)
        is_reply = [normalised(reply) == normalised(phrase) for reply, phrase in pairs]
        is_reply = torch.tensor(is_reply, device=human.device)[:, None]  # (batch, 1)
        return phrases.masked_fill(is_reply, IGNORE)

    def _mean_loss(self, outputs, labels, num_items_in_batch=None):
        pairs = (x.chunk(len(self._parts)) for x in (outputs.logits, labels))
        parts = dict(zip(self._parts, zip(*pairs, strict=True), strict=True))
        nll = token_nll(*parts["human"], self.args.label_smoothing_factor)  # (batch, target_len)
        tokens = parts["human"][1].ne(IGNORE).sum()
        self._means.add("human_loss", nll, tokens)
        total = nll.sum()
        for name, weight in self.objectives.items():
            part = self._functions[name](*parts.get(name, parts["human"]))
            self._means.add(f"{name}_loss", part, tokens)
            total = total + weight * part.sum()
        return total / (tokens if num_items_in_batch is None else num_items_in_batch)

    # The objectives: each takes logits (batch, target_len, vocab) and labels (batch, target_len)

    def _repetition(self, logits, labels):
        earlier = torch.ones(labels.shape[1], labels.shape[1], device=labels.device).tril(-1).bool()
        return self._against(logits, labels, labels.clamp(min=0), earlier)

    def _context_copy(self, logits, labels):
        return self._against(logits, labels, self._contexts)

    def _against(self, logits, labels, candidates, allowed=None):
        """Sum the unlikelihood of candidates (batch, candidates), each distinct one once.

        `allowed` (target_len, candidates) says which go with which target token.
        """
        same = candidates[:, :, None] == candidates[:, None]  # (batch, candidates, candidates)
        is_first = ~same.tril(-1).any(-1)  # (batch, candidates)
        is_first &= ~torch.isin(candidates, self._special)
        wrong = candidates[:, None] != labels[..., None]  # (batch, target_len, candidates)
        wanted = wrong & is_first[:, None] & labels.ne(IGNORE)[..., None]
        if allowed is not None:
            wanted = wanted & allowed
        index = candidates[:, None].expand(-1, labels.shape[1], -1)
        return (unlikelihood(logits, index) * wanted).sum(-1)  # (batch, target_len)

    def _vocabulary(self, logits, labels):
        likeliest = logits.argmax(-1)  # (batch, target_len)
        is_word = labels.ne(IGNORE) & ~torch.isin(likeliest, self._special)
        self._used_in_step += torch.bincount(likeliest[is_word], minlength=len(self._human))
        weights = overuse(self._used, self._human)[likeliest] * (is_word & (likeliest != labels))
        return unlikelihood(logits, likeliest[..., None])[..., 0] * weights

    def _stock_phrases(self, logits, labels):
        said = labels.clamp(min=0)
        is_word = labels.ne(IGNORE) & ~torch.isin(said, self._special)
        return unlikelihood(logits, said[..., None])[..., 0] * is_word

    def _sequence_repetition(self, logits, labels):
        said = labels.clamp(min=0)
        return unlikelihood(logits, said[..., None])[..., 0] * ends_of_repeated(labels, NGRAM)

    # Checkpoints

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if "vocabulary" in self.objectives and self.args.should_save:
            torch.save(self._used, Path(output_dir) / STATE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if "vocabulary" in self.objectives and checkpoint is not None:
            path = Path(checkpoint) / STATE
            self._used = torch.load(path, map_location=self.args.device, weights_only=True)


def unlikelihood(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Compute -log(1 - p) of tokens, (batch, target_len, ids), given logits before each.

    `ids` (batch, target_len, ids). Logits are read in fp32.
    """
    logits = logits.float()
    log_p = logits.gather(-1, ids) - logits.logsumexp(-1, keepdim=True)
    return -torch.log1p(-log_p.exp().clamp(max=LIKELIEST))


def overuse(used: torch.Tensor, human: torch.Tensor) -> torch.Tensor:
    """Weigh tokens by how much more a model uses them than people, (vocab,), given counts.

    A token that people never say counts as said once.
    """
    share = used / used.sum().clamp(min=1)
    human = human.clamp(min=1) / human.sum()
    return (share * (share.clamp(min=1e-9) / human).log()).clamp(min=0)


def ends_of_repeated(labels: torch.Tensor, n: int) -> torch.Tensor:
    """Mark the tokens of replies (batch, reply_len) that end an n-gram said before in the reply."""
    length = labels.shape[1]
    marked = torch.zeros_like(labels, dtype=torch.bool)
    if length <= n:
        return marked
    ngrams = labels.unfold(1, n, 1)  # (batch, length - n + 1, n)
    same = (ngrams[:, :, None] == ngrams[:, None]).all(-1).tril(-1).any(-1)
    marked[:, n - 1 :] = same & ngrams.ne(IGNORE).all(-1)
    return marked
