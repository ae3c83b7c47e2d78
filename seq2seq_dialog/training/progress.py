"""The progress bar of training, and the line that it prints for an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tqdm.auto import tqdm
from transformers.trainer_callback import ProgressCallback


class Figure(NamedTuple):
    """A figure to show: its key in a log, how it is called, and how its value is written."""

    key: str
    label: str
    format: str


class TrainingProgress(ProgressCallback):
    """A bar with figures of the training and the time left; a line per evaluation.

    Args:
        training_figures: what stands beside the bar.
        evaluation_figures: what the line of an evaluation has; keys begin with `eval_`.
    """

    def __init__(self, training_figures: Sequence[Figure], evaluation_figures: Sequence[Figure]):
        super().__init__()
        self.training_figures, self.evaluation_figures = training_figures, evaluation_figures

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Show the figures of a log."""
        if not state.is_world_process_zero or self.training_bar is None:
            return
        if "loss" in logs:
            self.training_bar.set_postfix(_formatted(logs, self.training_figures))
        elif "eval_loss" in logs:
            figures = _formatted(logs, self.evaluation_figures)
            words = (f"{label} {value}" for label, value in figures.items())
            head = f"step {state.global_step:>6}  epoch {state.epoch:6.2f}"
            tqdm.write("  ".join([head, *words]))


def _formatted(logs: dict, figures: Sequence[Figure]) -> dict[str, str]:
    """Format the figures that a log has, by label."""
    return {f.label: format(logs[f.key], f.format) for f in figures if f.key in logs}
