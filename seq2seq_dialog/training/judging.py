"""How well a discriminator tells replies apart: samples are drawn, and judged beside human ones."""

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset

from ..data.batching import evaluation_batches
from ..evaluation.metrics import distinct
from .discriminator import at_last_token
from .sampling import read_labels
from .trainer import lengths_of

EVALUATED = 512  # validation pairs that are judged
PREFIXES = (3, 6, 10)  # first tokens by which replies are judged as well


def held_out(features: Dataset) -> Dataset:
    """Take the pairs of a validation split that are judged."""
    return features.select(range(min(EVALUATED, len(features))))


def inputs_of(trainer, features: Dataset, indices: list[int]) -> dict[str, torch.Tensor]:
    """Collate some of the examples, on the device."""
    examples = trainer.data_collator([features[i] for i in indices])
    return {name: x.to(trainer.args.device) for name, x in examples.items()}


def draw(trainer, features: Dataset, tokens_per_batch: int) -> list[tuple[list[int], torch.Tensor]]:
    """Sample a reply to each context; the random state of the training stays as it is.

    Returns the batches of this process: indices of examples, and samples (batch, sample_len).
    """
    args, drawn = trainer.args, []
    batches = evaluation_batches(lengths_of(features), tokens_per_batch)
    devices = [args.device] if args.device.type == "cuda" else []
    for indices in batches[args.process_index :: args.world_size]:
        with torch.random.fork_rng(devices):
            torch.manual_seed(args.seed + indices[0])
            drawn.append((indices, trainer.sample(inputs_of(trainer, features, indices))))
    return drawn


@torch.no_grad()
def judge_samples(trainer, features: Dataset, drawn: list) -> dict[str, float]:
    """Let the discriminator judge human replies, samples that were drawn, and exchanged replies.

    Returns shares in percent. `discriminator_accuracy` is the share that it recognises of human and
    sampled replies, `_3`, `_6` and `_10` the same of their first tokens; `_context` that of human
    replies after their own context and after another's. `adversarial_success` is the share of
    sampled replies that it takes for human, `reward` its mean probability for them.
    """
    results = []  # (index, scores of the human reply, of the sampled and the exchanged one, text)
    for indices, samples in drawn:
        inputs = inputs_of(trainer, features, indices)
        other = {name: x.roll(1, 0) for name, x in inputs.items()}
        judged = (inputs, inputs["labels"]), (inputs, samples), (other, inputs["labels"])
        scores = [_scores(trainer, context, replies) for context, replies in judged]
        if len(indices) == 1:  # there is no other context
            scores[2] = torch.full_like(scores[2], torch.nan)
        texts = read_labels(samples, trainer.processing_class)
        results += zip(indices, *(x.tolist() for x in scores), texts, strict=True)
    _, *scores, texts = zip(*sorted(gather_object(results)), strict=True)
    # (pairs, 1 + prefixes) each, the whole reply first
    human, sampled, exchanged = np.array(scores)
    paired = ~np.isnan(exchanged[:, 0])
    accuracy, *of_prefixes = _accuracy(human, sampled)
    figures = {"discriminator_accuracy": accuracy}
    figures |= {
        f"discriminator_accuracy_{n}": x for n, x in zip(PREFIXES, of_prefixes, strict=True)
    }
    if paired.any():
        figures["discriminator_accuracy_context"] = _accuracy(human[paired], exchanged[paired])[0]
    return figures | {
        "adversarial_success": 100 * float((sampled[:, 0] > 0).mean()),
        "reward": torch.tensor(sampled[:, 0]).sigmoid().mean().item(),
        "sampled_distinct_2": distinct(texts, 2),
    }


def _scores(trainer, inputs: dict, replies: torch.Tensor) -> torch.Tensor:
    """Score replies, whole and by their first tokens, (batch, 1 + prefixes)."""
    scores, _ = trainer.judge(inputs, replies)  # (batch, target_len)
    return torch.stack([at_last_token(scores, replies, n) for n in (None, *PREFIXES)], dim=1)


def _accuracy(human: np.ndarray, others: np.ndarray) -> list[float]:
    """Return the share that is recognised, column by column: of people above 0, others not."""
    return (50 * ((human > 0).mean(0) + (others <= 0).mean(0))).tolist()
