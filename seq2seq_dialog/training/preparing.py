"""A model before it is trained: what it must allow, and what is changed in its layers."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional

from ..checks import check_gpus
from ..errors import UsageError
from ..models.build import FP16_UNSAFE
from ..training_settings import DialogueTrainingArguments, cpu_capabilities

# Of x86 and of ARM; a CPU without them computes bf16 step by step in software.
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
# The norms that are `_rms_norm`. Others with a like name also subtract a mean, as DeBERTa's.
T5_NORMS = {f"{family}LayerNorm" for family in ("T5", "MT5", "UMT5", "LongT5")}


def check_model(model, args: DialogueTrainingArguments) -> None:
    """Refuse settings of a training that cannot work for a model, or on this machine."""
    check_gpus(args)
    model_type = model.config.model_type
    precision = "fp16" if args.fp16 else args.mixed_precision
    if precision == "fp16" and model_type in FP16_UNSAFE:
        raise UsageError(
            f"fp16 does not work for {model_type}: its activations exceed fp16's greatest number, "
            "65,504, and the loss becomes nan. Use bf16 or fp32."
        )
    capabilities = cpu_capabilities()
    frozen = any(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
    on_cpu = args.device.type == "cpu" and (precision == "bf16" or frozen)
    if on_cpu and capabilities and not any(map(capabilities.get, BF16_INSTRUCTIONS)):
        name, instead = ("lora_base_dtype", "float32") if frozen else ("bf16", "false")
        raise UsageError(
            f"{name} asks for bfloat16, but this CPU has no instructions for it: a step would take "
            f"many times as long as in float32. Leave {name} out, or set it to {instead}."
        )
    if getattr(model.config, "decoder_start_token_id", None) is None:
        raise UsageError(
            "The model's config has no decoder_start_token_id, with which a reply begins. Set it: "
            "a T5 takes its pad_token_id, others the token that begins a text."
        )
    if args.activation_checkpointing and not model.supports_gradient_checkpointing:
        raise UsageError(
            f"activation_checkpointing does not work for a {model_type} model; lower "
            "tokens_per_batch instead, and raise gradient_accumulation_steps as much."
        )


def switch_off_dropout(model) -> None:
    """Let a model in training compute what it computes in evaluation."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout", "layerdrop"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def fuse_norms(model) -> None:
    """Let each norm of a T5 (or mT5, UMT5, LongT5) be one kernel of the GPU instead of six.

    Under autocast its result has the precision of the matrices that read it; otherwise it stays in
    fp32, and each of them makes a copy of its own. What that is worth: benchmarks/RESULTS.md.
    """
    for module in model.modules():
        if type(module).__name__ in T5_NORMS:
            module.forward = partial(_rms_norm, module)


def _rms_norm(norm, hidden_states: torch.Tensor) -> torch.Tensor:
    """Compute what a T5LayerNorm `norm` does to hidden states (batch, length, d_model)."""
    weight, device = norm.weight, hidden_states.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else weight.dtype
    return functional.rms_norm(
        hidden_states, weight.shape, weight.to(hidden_states.dtype), norm.variance_epsilon
    ).to(dtype)
