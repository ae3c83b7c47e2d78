"""What is seen of a training while it runs."""

from tqdm.auto import tqdm
from transformers.trainer_callback import ProgressCallback


class TrainingProgress(ProgressCallback):
    """A bar with figures of the training and the time left; a line per evaluation.

    Args:
        training_figures, evaluation_figures: what is shown of a log, by name: label and format.
    """

    def __init__(self, training_figures: dict, evaluation_figures: dict):
        super().__init__()
        self.training_figures, self.evaluation_figures = training_figures, evaluation_figures

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        warmup = args.get_warmup_steps(state.max_steps)
        warms_up = args.lr_scheduler_type != "constant" and warmup >= state.max_steps
        if warms_up and state.is_world_process_zero:
            tqdm.write(
                f"Warning: all {state.max_steps} steps are warm-up (warmup_steps is "
                f"{args.warmup_steps:g}), so that the learning rate does not reach "
                f"{args.learning_rate:g}. Set warmup_steps to 0.05, a share of all steps, or train "
                "for longer."
            )

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or self.training_bar is None:
            return
        if "loss" in logs:
            self.training_bar.set_postfix(_formatted(logs, self.training_figures))
        elif "eval_loss" in logs:
            figures = _formatted(logs, self.evaluation_figures)
            words = (f"{label} {value}" for label, value in figures.items())
            head = f"step {state.global_step:>6}  epoch {state.epoch:6.2f}"
            tqdm.write("  ".join([head, *words]))


def _formatted(logs: dict, figures: dict[str, tuple[str, str]]) -> dict[str, str]:
    """Format the figures that a log has, by label."""
    return {label: format(logs[k], spec) for k, (label, spec) in figures.items() if k in logs}
