"""Sharding a training over several GPUs: what FSDP and DeepSpeed can do, and what they need."""

import os
from pathlib import Path

from torch.distributed.fsdp import register_fsdp_forward_method

from ..errors import UsageError
from ..portable.options import extra_options

# What a checkpoint has of each way to shard, and no other has.
SHARDS = {"FSDP": "pytorch_model_fsdp*", "DeepSpeed": "global_step*"}
UNSHARDED = "neither FSDP nor DeepSpeed"


def sharding_of(trainer) -> str:
    """Name what a Trainer shards with."""
    if trainer.is_fsdp_enabled:
        return "FSDP"
    return "DeepSpeed" if trainer.is_deepspeed_enabled else UNSHARDED


def is_sharded(trainer) -> bool:
    """Tell whether a Trainer shards with FSDP or DeepSpeed."""
    return sharding_of(trainer) != UNSHARDED


def refuse_sharding(trainer, method: str) -> None:
    """Refuse a way to train that does not work with FSDP and DeepSpeed."""
    if is_sharded(trainer):
        raise UsageError(
            f"{method} does not work with FSDP and DeepSpeed: use plain data parallelism, "
            "configs/accelerate/gpus.yaml."
        )


def check_sharding(trainer) -> None:
    """Refuse what is not known to work with FSDP and DeepSpeed."""
    sharding, model_type = sharding_of(trainer), trainer.model.config.model_type
    state = trainer.accelerator.state
    if sharding == UNSHARDED:
        requests = (os.environ.get(f"ACCELERATE_USE_{kind.upper()}", "") for kind in SHARDS)
        if "true" in (value.lower() for value in requests):
            raise UsageError(
                "accelerate has FSDP and DeepSpeed on GPUs alone, and this is a CPU: launch with "
                "configs/accelerate/cpu.yaml."
            )
        return
    if sharding == "FSDP" and state.fsdp_plugin.fsdp_version != 2:
        raise UsageError(
            f"fsdp_version is {state.fsdp_plugin.fsdp_version}; it must be 2, as in "
            "configs/accelerate/fsdp.yaml."
        )
    if sharding == "DeepSpeed" and state.deepspeed_plugin.zero_stage > 2:
        raise UsageError(
            f"zero_stage is {state.deepspeed_plugin.zero_stage}; it must be at most 2. What shards "
            "the weights as well is FSDP: configs/accelerate/fsdp.yaml."
        )
    if not trainer.model._no_split_modules:
        raise UsageError(
            f"A {model_type} model has no layers that {sharding} could go by: use plain data "
            "parallelism, configs/accelerate/gpus.yaml."
        )
    if trainer.args.torch_compile:
        raise UsageError(f"torch_compile does not go with {sharding}: switch one of them off.")
    if trainer.args.tokens_per_batch == "auto":
        raise UsageError(
            f"tokens_per_batch is auto, which {sharding} does not allow: set a number."
        )
    decoding = extra_options(trainer.model, {})
    if decoding["candidates"] > 1 or decoding["guidance_weight"]:
        # Processes need other numbers of passes through the shards, and would wait for one another.
        raise UsageError(
            f"candidates and guidance_weight do not go with {sharding}: evaluate without them, "
            "--candidates 1 --guidance_weight 0, and set them when the model answers, "
            "generate_response(..., guidance_weight=0.5)."
        )


def check_checkpoint(folder: Path, sharding: str) -> None:
    """Refuse a checkpoint whose shards are of another kind than `sharding`, that of this run."""
    written = next((kind for kind, files in SHARDS.items() if any(folder.glob(files))), UNSHARDED)
    if written != sharding:
        raise UsageError(
            f"{folder} was written with {written}, and this run has {sharding}: go on with the "
            "accelerate config it began with, or choose another output_dir."
        )


def share_embedding(model) -> None:
    """Let modules that share the input embedding's weight (T5 has three) be one, as FSDP needs."""
    embedding = model.get_input_embeddings()
    for name, module in list(model.named_modules()):
        if type(module) is type(embedding) and module.weight is embedding.weight:
            model.set_submodule(name, embedding)


def is_unprepared(trainer) -> bool:
    """Tell whether a model that will be sharded is still whole, because no training has begun."""
    return is_sharded(trainer) and not trainer.accelerator._models


def prepare_for_evaluation(trainer) -> None:
    """Place a model that is still whole for an evaluation without training."""
    if not is_unprepared(trainer):
        return
    if trainer.is_fsdp_enabled:  # shards a model only together with an optimizer
        trainer.create_optimizer()
        prepared = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
        trainer.model, trainer.optimizer = prepared
        trainer.model_wrapped = trainer.model
        register_fsdp_forward_method(trainer.model, "generate")
    else:  # DeepSpeed shards gradients and what the optimizer knows
        config = trainer.accelerator.state.deepspeed_plugin.hf_ds_config
        trainer.model.to(trainer.args.device, config.dtype())
