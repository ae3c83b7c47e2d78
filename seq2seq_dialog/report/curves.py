"""The losses of a run over its steps, as a picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def plot_curves(log_history: list[dict], path: Path) -> None:
    """Draw the training and validation loss over steps to a PNG.

    Of adversarial training, whose training loss says nothing, the likelihood of human replies
    takes its place, and a second panel shows how sampled replies fare: a collapse is seen there.

    Args:
        log_history: `trainer.state.log_history`.
    """
    adversarial = any("eval_adversarial_success" in log for log in log_history)
    height, panels = (7, 2) if adversarial else (4, 1)
    figure, axes = pyplot.subplots(
        panels, 1, figsize=(7, height), layout="constrained", sharex=True, squeeze=False
    )
    axes = axes[:, 0]
    lines = [
        (0, "human_loss" if adversarial else "loss", "training", "tab:blue", 1.2, "", 1),
        (0, "eval_loss", "validation", "tab:orange", 2, "o", 1),
    ]
    if adversarial:
        lines += [
            (1, "eval_discriminator_accuracy", "discriminator accuracy", "tab:red", 2, "o", 1),
            (1, "eval_adversarial_success", "adversarial success", "tab:green", 2, "s", 1),
            (1, "eval_reward", "mean reward x 100", "tab:purple", 2, "^", 100),
            (1, "eval_sampled_distinct_2", "Distinct-2 of samples", "tab:gray", 2, "v", 1),
        ]
        axes[1].set(ylabel="%, on held-out contexts", ylim=(0, 100))
    for panel, key, label, color, width, marker, scale in lines:
        points = [(log["step"], scale * log[key]) for log in log_history if key in log]
        if points:
            x, y = zip(*points, strict=True)
            axes[panel].plot(x, y, color=color, lw=width, marker=marker, label=label)
    axes[0].set(ylabel="loss (nats per target token)")
    axes[-1].set(xlabel="optimizer step")
    for panel in axes:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        if panel.lines:
            panel.legend(frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
