"""The warm-up of a discriminator: it learns from a pool of samples before the generator moves."""

import copy
from collections.abc import Iterator

import numpy as np
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from .discriminator import Classifier
from .judging import draw, held_out, inputs_of, judge_samples

CHECKS = 4  # of the held-out accuracy, in each pass over the pool
PATIENCE = 4  # checks without a rise that end the warm-up


def warm_up(trainer) -> None:
    """Train an adversarial trainer's discriminator on a pool of samples, drawn once.

    A classifier is trained until its held-out accuracy stops rising; the weights kept are those
    with the best accuracy. A likelihood ratio has nothing to learn. Then the baselines learn, in
    one pass over the pool.
    """
    args, rng = trainer.args, np.random.default_rng(trainer.args.seed)
    chosen = rng.permutation(len(trainer.train_dataset))[: trainer.adversarial.discriminator_pool]
    features = trainer.train_dataset.select(np.sort(chosen), keep_in_memory=True)
    pool = draw(trainer, features, args.tokens_per_batch)
    pool = pool[: min(gather_object([len(pool)]))]  # processes take each update together
    if isinstance(trainer.discriminator, Classifier):
        _train_classifier(trainer, features, pool, rng)
    for indices, replies in pool:
        trainer.advantages(inputs_of(trainer, features, indices), replies)


def _train_classifier(trainer, features, pool: list, rng: np.random.Generator) -> None:
    """Train the classifier on a pool of batches: indices of features, and sampled replies."""
    args, validation = trainer.args, held_out(trainer.eval_dataset)
    samples = draw(trainer, validation, args.eval_tokens_per_batch)
    best, weights, checks_without_rise = -1.0, None, 0
    with tqdm(desc="Warm-up of the discriminator", unit="batch", disable=args.disable_tqdm) as bar:
        for part in _parts(len(pool), rng):
            for i in part:
                indices, replies = pool[i]
                trainer.teach_discriminator(inputs_of(trainer, features, indices), replies)
            accuracy = judge_samples(trainer, validation, samples)["discriminator_accuracy"]
            checks_without_rise += 1
            if accuracy > best:
                best, checks_without_rise = accuracy, 0
                weights = copy.deepcopy(trainer.discriminator.state_dict())
            bar.set_postfix({"held-out accuracy": f"{accuracy:.1f} %", "best": f"{best:.1f} %"})
            bar.update(len(part))
            if checks_without_rise == PATIENCE:
                break
    trainer.discriminator.load_state_dict(weights)


def _parts(count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Go through a pool again and again, each time in another order and in `CHECKS` parts."""
    while True:
        yield from np.array_split(rng.permutation(count), CHECKS)
