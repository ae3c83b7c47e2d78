"""Ends of a training before its time: by a signal, or by a loss that is no number."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import TrainerCallback

from ..errors import UsageError, is_first_process
from .checkpoints import checkpoints

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C; a job that is preempted or out of time
PATIENCE = 2.0  # seconds in which a launcher may pass on a signal that the terminal sent as well


class Diverged(UsageError):
    """A training whose weights or loss are no finite numbers any more."""


class StopAtSignal(TrainerCallback):
    """Ends a training at a signal: after the step, with a checkpoint. A second one kills.

    While it is entered, it catches `SIGNALS`. Of several processes that train together, each
    `votes` before a step whether to end behind it, so that none waits for one that is gone.
    """

    def __init__(self):
        self.received: int | None = None  # the signal
        self.stopped = False  # a checkpoint was written for it, or will be
        self._cut = False  # it was written, so that training ends within an epoch
        self._votes: Callable[[], float] | None = None
        self._time = 0.0

    def __enter__(self):
        self._handlers = {}
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *exception):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._time = number, now
            if is_first_process():
                text = "Stopping after this step, with a checkpoint. Once more: stop at once."
                os.write(sys.__stderr__.fileno(), f"\n{text}\n".encode())
        elif now - self._time > PATIENCE:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def vote(self, reduce: Callable[[torch.Tensor], torch.Tensor], count: torch.Tensor):
        """Sum a count over the processes, and with it how many want to stop behind the next step.

        The second sum comes back while the step goes on; nothing waits for the GPU.
        """
        wish = torch.full_like(count, self.received is not None)
        total, wishes = reduce(torch.stack([count, wish]))
        votes = wishes.to("cpu", non_blocking=True)
        arrived = None if wishes.is_cpu else torch.Event(wishes.device)
        if arrived is not None:
            arrived.record()

        def read() -> float:
            if arrived is not None:
                arrived.synchronize()
            return votes.item()

        self._votes = read
        return total

    def on_step_end(self, args, state, control, **kwargs):
        wanted = self.received is not None if self._votes is None else self._votes() > 0
        if wanted:
            self.stopped = True
            # The last step of an epoch is saved behind what is done at the epoch's end.
            control.should_save = not float(state.epoch).is_integer()

    def on_save(self, args, state, control, **kwargs):
        # Not before: the checkpoint is to say that the training goes on.
        if self.stopped and not control.should_training_stop:
            control.should_training_stop = self._cut = True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self._cut:  # which is no end of an epoch: nothing is evaluated, and not saved again
            control.should_log = control.should_evaluate = control.should_save = False
        else:
            control.should_save |= self.stopped


def check_finite(trainer) -> None:
    """Refuse to keep a model if a weight, or a loss since the last log, is no finite number."""
    tensors = [trainer._tr_loss, *trainer.model.parameters()]
    local = (each.to_local() if hasattr(each, "to_local") else each for each in tensors)
    flags = torch.stack([torch.isfinite(each).all() for each in local])
    broken = trainer.accelerator.reduce((~flags.all()).float(), "sum")
    if broken.item():
        raise divergence(trainer, "A weight or the loss is nan or infinite")


def divergence(trainer, what: str) -> Diverged:
    """Say that a training has diverged, what most likely did it, and what is left of it."""
    args, state = trainer.args, trainer.state
    cause = f"learning_rate ({args.learning_rate:g}) is too high: a third of it may do"
    if args.fp16:
        cause = "fp16 has too small a range: use bf16 or fp32"
    elif not args.max_grad_norm:
        cause = "max_grad_norm is 0: with 1.0 no single batch can throw the weights away"
    kept = checkpoints(Path(args.output_dir))
    return Diverged(
        f"{what} at step {state.global_step}: the training has diverged. Most likely "
        f"{cause}. Begin again with another --output_dir"
        + (f"; {kept[0]} is from before." if kept else ".")
    )
