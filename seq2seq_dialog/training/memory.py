"""Memory: the greatest budget of tokens whose batches fit, and reuse of freed memory on a CPU."""

import ctypes
import gc
import math
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from ..data.batching import TokenBudgetSampler
from ..errors import UsageError

MARGIN = 0.9  # of what fits: memory gets fragmented, and evaluations leave some occupied
PRECISION = 0.03
TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of malloc.h: when free memory goes back, how many large blocks


class DoesNotFit(UsageError):
    """A model of which no training step fits into memory."""


def keep_freed_memory() -> None:
    """Let this process reuse the memory that it frees until it ends, on Linux with glibc.

    Otherwise glibc gives large blocks back to the system, which clears their pages anew for each
    training step. The peak becomes higher, since free blocks get fragmented.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(MMAP_MAX, 0)
        libc.mallopt(TRIM_THRESHOLD, -1)  # never


def checkpoint_activations(model, args) -> None:
    """Do what `train` does for `activation_checkpointing`, for steps that are taken without it."""
    if args.activation_checkpointing:
        options = dict(args.activation_checkpointing_kwargs or {})
        flags = {k: options.pop(k) for k in ("every_n_layers", "offload") if k in options}
        model.activation_checkpointing_enable(options or None, **flags)


def worst_shapes(lengths: np.ndarray, budget: int) -> list[tuple[int, int, int]]:
    """Find the batches of an epoch that need the most memory.

    Activations grow with the tokens, logits with those of the target, attention scores with the
    squares of the lengths. Which batch needs most depends on the model, so there may be several,
    each as (examples, source tokens, target tokens), padding included.
    """
    sampler = TokenBudgetSampler(lengths, budget)
    shapes = [(len(batch), *sampler.lengths[batch].max(0).tolist()) for batch in sampler]
    batch, source, target = np.array(shapes).T  # (batches,) each
    scores = (source**2, target**2, source * target)
    needs = [batch * need for need in (source + target, target, *scores)]
    return sorted({shapes[need.argmax()] for need in needs})


def largest_budget(lengths: np.ndarray, fits: Callable[[int], bool]) -> int:
    """Find the greatest budget that `fits`, less a margin of a tenth; by doubling and halving."""
    low = longest = int(lengths.sum(1).max())
    everything = len(lengths) * int(lengths.max(0).sum())
    if not fits(low):
        raise DoesNotFit(
            f"Not even one example of {longest} tokens fits into memory: lower max_source_length, "
            "set activation_checkpointing, or shard the model over several GPUs "
            "(configs/accelerate/fsdp.yaml)."
        )
    high = math.inf  # does not fit
    while low < everything and high - low > PRECISION * low:
        budget = int(min(2 * low, everything, (low + high) / 2))
        low, high = (budget, high) if fits(budget) else (low, budget)
    return max(longest, int(MARGIN * low))


def find_tokens_per_batch(trainer, lengths: np.ndarray) -> int:
    """Find the greatest `tokens_per_batch` whose training steps fit on the GPU, less a margin.

    Weights and random states are restored afterwards; the training makes a new optimizer. The
    processes agree on the least of their budgets.
    """
    args, model = trainer.args, trainer.model
    weights = {name: tensor.to("cpu", copy=True) for name, tensor in model.state_dict().items()}
    checkpoint_activations(model, args)
    trainer.create_optimizer()
    # DistributedDataParallel has a copy of the gradients, for messages.
    copies = [torch.empty_like(p) for p in model.parameters()] if args.world_size > 1 else []
    devices = [args.device] if args.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            budget = largest_budget(lengths, partial(_fits, trainer, lengths))
    finally:
        del copies
        trainer.optimizer = None
        model.zero_grad()
        model.load_state_dict(weights)
        torch.cuda.empty_cache()
    budgets = trainer.accelerator.gather(torch.tensor([budget], device=args.device))
    return int(budgets.min())


def _fits(trainer, lengths: np.ndarray, budget: int) -> bool:
    """Tell whether training steps on the largest batches of a budget fit into memory."""
    gc.collect()  # garbage of the last try
    torch.cuda.empty_cache()
    try:
        for batch, source, target in worst_shapes(lengths, budget):
            trainer.model.zero_grad()
            inputs = {
                "input_ids": torch.zeros(batch, source, dtype=torch.long),
                "attention_mask": torch.ones(batch, source, dtype=torch.long),
                "labels": torch.zeros(batch, target, dtype=torch.long),
            }
            inputs["attention_mask"][0, -1] = 0  # masks cost memory
            for _ in range(min(2, trainer.args.gradient_accumulation_steps)):
                with trainer.accelerator.autocast():
                    trainer.training_step(trainer.model, dict(inputs), batch * target)
            torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
            trainer.optimizer.step()
    except torch.OutOfMemoryError:
        return False
    return True
