"""Optimizers that are not of transformers: `adamw_scaled`, AdamW with a rate for each tensor.

T5's parameters start at scales that differ by orders of magnitude: embeddings with a standard
deviation of 1, query matrices with (d_model * d_kv)^-0.5. AdamW moves every number by about the
learning rate, so that one rate is far too small for some tensors and far too large for others, and
a T5 from random weights hardly learns. `adamw_scaled` gives each tensor a rate in proportion to the
scale at which it starts. The factors come from the model's config and shapes, never from the
weights: those change, and a run that goes on from a checkpoint would go on at other rates.
"""

from torch import nn
from torch.optim import Optimizer

from ..errors import UsageError
from ..training_settings import SCALED, T5_LIKE


def rate_factor(name: str, parameter: nn.Parameter, config) -> float:
    """Tell what the learning rate is multiplied by for one tensor of a T5.

    The factors are the standard deviations of the initial weights (Raffel et al., 2020;
    `T5PreTrainedModel._init_weights`): (d_model * d_kv)^-0.5 for query matrices, whose products
    T5 does not divide by the square root of d_kv, and (inputs of the matrix)^-0.5 for all others.
    Embeddings, the output layer and norms have 1. So have relative position biases, the exception:
    they start small, but learn at the full rate.
    """
    *_, module, _ = name.split(".")
    embedding = module in ("shared", "embed_tokens", "lm_head") or "relative_attention_bias" in name
    if parameter.ndim < 2 or embedding:
        return 1.0
    inputs = parameter.shape[-1]  # (outputs, inputs)
    return (inputs * config.d_kv) ** -0.5 if module == "q" else inputs**-0.5


def scaled_adamw(trainer, model) -> Optimizer:
    """Make the AdamW of a trainer's settings with a rate for each tensor of a model."""
    decayed = set(trainer.get_decay_parameter_names(model))
    adamw, options = trainer.get_optimizer_cls_and_kwargs(trainer.args, model)
    rate = options.pop("lr")
    groups = scaled_groups(model, decayed, rate, trainer.args.weight_decay)
    return adamw(groups, lr=rate, **options)


def scaled_groups(
    model, decayed: set[str], learning_rate: float, weight_decay: float
) -> list[dict]:
    """Make AdamW's parameter groups for a T5: a group for each factor, and each weight decay.

    `decayed` names the parameters that weight decay is for; it is multiplied by a group's rate, as
    in AdamW. The largest rate comes first, so that the rate that logs show is `learning_rate`.
    """
    family = model.config.model_type
    if family not in T5_LIKE:
        raise UsageError(
            f"optim is {SCALED}, whose rates follow the initial weights of {', '.join(T5_LIKE)}; "
            f"the weights of a {family} model start otherwise. Take adamw_torch_fused."
        )
    groups: dict[tuple[float, float], list] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = learning_rate * rate_factor(name, parameter, model.config)
            decay = weight_decay if name in decayed else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": groups[key], "lr": key[0], "weight_decay": key[1]}
        for key in sorted(groups, reverse=True)
    ]
