"""What is known here of the settings that `DialogueTrainingArguments` inherits as they are."""

from importlib.util import find_spec
from pathlib import Path

from .errors import UsageError
from .portable.options import Bounds
from .shipped import COMMAND
from .strict_yaml import load_mapping

# TrainingArguments that have no effect here, and what to do or to know instead.
REPLACED = {
    "per_device_train_batch_size": "set tokens_per_batch instead",
    "per_device_eval_batch_size": "set eval_tokens_per_batch instead",
    "auto_find_batch_size": "lower tokens_per_batch instead",
    "train_sampling_strategy": "batches always hold examples of like lengths",
    "sortish_sampler": "batches always hold examples of like lengths",
    "dataloader_drop_last": "every example is used",
    "generation_max_length": "set max_new_tokens instead",
    "generation_num_beams": "set num_beams instead",
    "generation_config": "set num_beams, temperature, ... instead",
    "resume_from_checkpoint": "a run goes on from the last checkpoint in output_dir by itself",
    "save_only_model": "a run could not go on from such checkpoints",
    "hub_strategy": "the finished run is published, in one commit",
    "hub_always_push": "the finished run is published, in one commit",
    "hub_token": "log in with `hf auth login` or set HF_TOKEN: others can read a command line",
    "fp16_full_eval": "evaluation has the precision of training",
    "bf16_full_eval": "evaluation has the precision of training",
    "prediction_loss_only": "evaluation replies only where predict_with_generate asks for it",
    "average_tokens_across_devices": "each target token weighs the same on all processes",
    "enable_jit_checkpoint": "SIGTERM ends a run after the step, with a checkpoint",
    "batch_eval_metrics": "metrics are computed once, over all replies",
}
# Inherited settings that --help shows as well, and their help; --help_all shows every one.
INHERITED = {
    "output_dir": "The run folder.",
    "lr_scheduler_type": "linear, cosine, constant_with_warmup, ...",
    "lr_scheduler_kwargs": "More of the schedule, a mapping in YAML: {num_decay_steps: 1000} for "
    "warmup_stable_decay.",
    "activation_checkpointing": "Less memory for more time.",
    "torch_compile": "Compile the model with torch.compile.",
    "use_cpu": "Train on the CPU even where a GPU is.",
    "greater_is_better": "Of metric_for_best_model; by default what the list of metrics says.",
    "report_to": "tensorboard, trackio, ... or none.",
    "run_name": "Name of the run there.",
    "push_to_hub": f"Publish the finished run on the Hub; later: {COMMAND} publish.",
    "hub_model_id": "Its name there, user/name; by default that of output_dir.",
    "hub_private_repo": "Make a new repository private.",
    "hub_revision": "The branch it is published to.",
}
# The marks of those that have one, by name as `setting_fields.Mark` has them.
INHERITED_MARKS = {
    "FREE": {
        "disable_tqdm",
        "hub_model_id",
        "hub_private_repo",
        "hub_revision",
        "log_level",
        "push_to_hub",
        "report_to",
        "run_name",
    },
    "PRIVATE": {
        "hub_model_id",
        "hub_private_repo",
        "hub_revision",
        "hub_strategy",
        "logging_dir",
        "output_dir",
        "project",
        "push_to_hub",
        "report_to",
        "run_name",
        "trackio_bucket_id",
        "trackio_space_id",
        "trackio_static_space_id",
    },
}
# Bounds of the numbers among them.
INHERITED_BOUNDS = {
    "adam_beta1": Bounds(0, below=1),
    "adam_beta2": Bounds(0, below=1),
    "adam_epsilon": Bounds(above=0),
    "data_seed": Bounds(0, 2**32 - 1),
    "dataloader_prefetch_factor": Bounds(1),
    "ddp_bucket_cap_mb": Bounds(1),
    "ddp_timeout": Bounds(1),
    "eval_accumulation_steps": Bounds(1),
    "eval_delay": Bounds(0),
    "local_rank": Bounds(-1),
    "neftune_noise_alpha": Bounds(0),
    "torch_empty_cache_steps": Bounds(1),
}
# Those that are mappings, in YAML, with an example; and those that can name a JSON file, too.
MAPPINGS = {
    "lr_scheduler_kwargs": "{num_decay_steps: 1000}",
    "activation_checkpointing_kwargs": "{use_reentrant: false}",
    "gradient_checkpointing_kwargs": "{use_reentrant: false}",
    "accelerator_config": "{non_blocking: true}",
    "fsdp_config": "{version: 2}",
    "deepspeed": "{zero_optimization: {stage: 2}}",
}
FROM_FILES = {"accelerator_config", "fsdp_config", "deepspeed"}
# Those that need a package which is not installed with this one.
NEEDED_PACKAGES = {"deepspeed": "deepspeed", "use_liger_kernel": "liger_kernel"}


def read_inherited(args) -> None:
    """Refuse what has no effect or lacks its package; make mappings of those written as text."""
    for name, instead in REPLACED.items():
        if getattr(args, name) != getattr(type(args), name):
            raise UsageError(f"{name} has no effect here: {instead}.")
    for name, package in NEEDED_PACKAGES.items():
        if getattr(args, name) and not find_spec(package):
            raise UsageError(f"{name} needs a package that is missing: pip install {package}.")
    for name, example in MAPPINGS.items():
        value = getattr(args, name)
        is_file = isinstance(value, str) and name in FROM_FILES and Path(value).is_file()
        if isinstance(value, str) and not is_file:  # JSON is a part of YAML
            setattr(args, name, load_mapping(name, value, example))
