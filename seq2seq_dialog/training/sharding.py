"""Models whose training state is in shards on several GPUs: what FSDP and DeepSpeed can do here."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UsageError

# What a checkpoint has of each way to shard, and no other has.
SHARDS = {"FSDP": "pytorch_model_fsdp*", "DeepSpeed": "global_step*"}
UNSHARDED = "neither FSDP nor DeepSpeed"


def sharding_of(trainer) -> str:
    """Name what a Trainer shards with."""
    if trainer.is_fsdp_enabled:
        return "FSDP"
    return "DeepSpeed" if trainer.is_deepspeed_enabled else UNSHARDED


def check_sharding(trainer) -> None:
    """Refuse what is not known to work with FSDP and DeepSpeed.

    Raises:
        UsageError: names the setting and what to use instead.
    """
    now, model_type = sharding_of(trainer), trainer.model.config.model_type
    state = trainer.accelerator.state
    if now == UNSHARDED:
        launched = (os.environ.get(f"ACCELERATE_USE_{kind.upper()}", "") for kind in SHARDS)
        if "true" in (value.lower() for value in launched):
            raise UsageError(
                "accelerate has FSDP and DeepSpeed on GPUs alone, and this is a CPU: launch with "
                "configs/accelerate/cpu.yaml."
            )
        return
    if now == "FSDP" and state.fsdp_plugin.fsdp_version != 2:
        raise UsageError(
            f"fsdp_version is {state.fsdp_plugin.fsdp_version}; it must be 2, as in "
            "configs/accelerate/fsdp.yaml."
        )
    if now == "DeepSpeed" and state.deepspeed_plugin.zero_stage > 2:
        raise UsageError(
            f"zero_stage is {state.deepspeed_plugin.zero_stage}; it must be at most 2. What shards "
            "the weights as well is FSDP: configs/accelerate/fsdp.yaml."
        )
    if not trainer.model._no_split_modules:
        raise UsageError(
            f"A {model_type} model has no layers that {now} could go by: use plain data "
            "parallelism, configs/accelerate/gpus.yaml."
        )
    if trainer.args.torch_compile:
        raise UsageError(f"torch_compile does not go with {now}: switch one of them off.")
    if trainer.args.tokens_per_batch == "auto":
        raise UsageError(f"tokens_per_batch is auto, which {now} does not allow: set a number.")


def check_checkpoint(folder: Path, now: str) -> None:
    """Refuse to go on from a checkpoint whose shards are of another kind than those of this run.

    Raises:
        UsageError: names both.
    """
    written = next((kind for kind, files in SHARDS.items() if any(folder.glob(files))), UNSHARDED)
    if written != now:
        raise UsageError(
            f"{folder} was written with {written}, and this run has {now}: go on with the "
            "accelerate config it began with, or choose another output_dir."
        )


def share_embedding(model) -> None:
    """Let modules that share the weight of the input embedding be one module.

    T5, BART and their kin have three that do, and FSDP wants each weight in one place.
    """
    embedding = model.get_input_embeddings()
    for name, module in list(model.named_modules()):
        if type(module) is type(embedding) and module.weight is embedding.weight:
            model.set_submodule(name, embedding)
