"""Optimizers for a T5 from random weights: `adamw_scaled` and `muon_scaled`.

T5's parameters start at scales that differ by orders of magnitude: embeddings with a standard
deviation of 1, query matrices with (d_model * d_kv)^-0.5. AdamW moves every number by about the
learning rate, so that one rate is far too small for some tensors and far too large for others, and
a T5 from random weights hardly learns. Both optimizers give each tensor a rate in proportion to the
scale at which it starts. The factors come from the model's config and shapes, never from the
weights: those change, and a run that goes on from a checkpoint would go on at other rates.

`muon_scaled` moves matrices by Muon, which needs them whole: it does not work on shards.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from ..errors import UsageError
from ..training_settings import MUON, SCALED, T5_LIKE, bf16_pays
from .sharding import is_sharded

MOMENTUM = 0.95


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Say whether a parameter of a T5 is a matrix of a layer: no norm, embedding or bias."""
    *_, module, _ = name.split(".")
    embedding = module in ("shared", "embed_tokens", "lm_head") or "relative_attention_bias" in name
    return parameter.ndim == 2 and not embedding


def rate_factor(name: str, parameter: nn.Parameter, config) -> float:
    """Tell what the learning rate is multiplied by for one tensor of a T5, under AdamW.

    The factors are the standard deviations of the initial weights (Raffel et al., 2020;
    `T5PreTrainedModel._init_weights`): (d_model * d_kv)^-0.5 for query matrices, whose products
    T5 does not divide by the square root of d_kv, and (inputs of the matrix)^-0.5 for all others.
    Embeddings, the output layer and norms have 1. So have relative position biases, the exception:
    they start small, but learn at the full rate.
    """
    if not is_matrix(name, parameter):
        return 1.0
    inputs = parameter.shape[-1]  # (outputs, inputs)
    return (inputs * config.d_kv) ** -0.5 if _is_query(name) else inputs**-0.5


def scaled_optimizer(trainer, model) -> Optimizer:
    """Make the optimizer of a trainer's settings, with a rate for each tensor of a model."""
    args, family = trainer.args, model.config.model_type
    if family not in T5_LIKE:
        raise UsageError(
            f"optim is {args.scaled_optim}, whose rates follow the initial weights of "
            f"{', '.join(T5_LIKE)}; the weights of a {family} model start otherwise. "
            "Take adamw_torch_fused."
        )
    adamw, options = trainer.get_optimizer_cls_and_kwargs(args, model)
    rate = options.pop("lr")
    if args.scaled_optim == MUON:
        if is_sharded(trainer):
            raise UsageError(
                f"{MUON} needs whole matrices, and FSDP and DeepSpeed share them. Take {SCALED}."
            )
        return MuonAndAdamW(model, rate, args.weight_decay, **options)
    decayed = set(trainer.get_decay_parameter_names(model))
    groups = scaled_groups(model, decayed, rate, args.weight_decay)
    return adamw(groups, lr=rate, **options)


def scaled_groups(
    model, decayed: set[str], learning_rate: float, weight_decay: float
) -> list[dict]:
    """Make AdamW's parameter groups for a T5: a group for each factor, and each weight decay.

    `decayed` names the parameters that weight decay is for; it is multiplied by a group's rate, as
    in AdamW. The largest rate comes first, so that the rate that logs show is `learning_rate`.
    """
    config = model.config
    return _groups(
        (p, learning_rate * rate_factor(name, p, config), weight_decay * (name in decayed))
        for name, p in model.named_parameters()
    )


class MuonAndAdamW(Optimizer):
    """Muon for the matrices of a T5's layers, AdamW for all else, as one optimizer.

    Muon (Jordan et al., 2024) moves a matrix by its momentum made orthogonal, so that each
    direction moves equally far: by the learning rate, times (outputs / inputs)^0.5 where a matrix
    has more outputs. That suits matrices that start with inputs^-0.5; query matrices start smaller
    by d_kv^-0.5, and so do their steps. AdamW has the rates of `adamw_scaled`.

    Args:
        model: a T5.
        learning_rate: of both.
        weight_decay: of the matrices alone, times the rate. Embeddings that decay are
            small, and so move too far at each step.
        options: of AdamW.
    """

    def __init__(self, model, learning_rate: float, weight_decay: float, **options):
        matrices, others = [], []
        for name, parameter in model.named_parameters():
            if is_matrix(name, parameter):
                factor = model.config.d_kv**-0.5 if _is_query(name) else 1.0
                matrices.append((parameter, learning_rate * factor, weight_decay))
            else:
                others.append((parameter, learning_rate, 0.0))
        self._adamw = AdamW(_groups(others), lr=learning_rate, **options)
        super().__init__([*_groups(matrices), *self._adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let AdamW work on the groups and the state of the whole."""
        count = len(self.param_groups) - len(self._adamw.param_groups)
        self._adamw.param_groups = self.param_groups[count:]
        self._adamw.state = self.state

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on from a saved state."""
        super().load_state_dict(state_dict)  # makes groups and state anew
        self._share()

    @torch.no_grad()
    def step(self, closure=None):
        """Move all parameters that have gradients."""
        loss = self._adamw.step(closure)
        for group in self.param_groups[: -len(self._adamw.param_groups)]:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._move(matrix, group["lr"], group["weight_decay"])
        return loss

    def _move(self, matrix: nn.Parameter, rate: float, weight_decay: float) -> None:
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        momentum = state["momentum_buffer"].lerp_(matrix.grad, 1 - MOMENTUM)
        step = orthogonal(matrix.grad.lerp(momentum, MOMENTUM))  # Nesterov's
        outputs, inputs = matrix.shape
        matrix.mul_(1 - rate * weight_decay)
        matrix.add_(step, alpha=-rate * max(1, outputs / inputs) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """Bring all singular values of a matrix near 1: to between 0.5 and 1.5, roughly.

    Five Newton-Schulz iterations with the coefficients of Jordan et al. (2024), in bf16 where that
    is fast and else in fp32: a CPU without instructions for bf16 is far slower in it.
    """
    precision = torch.bfloat16 if bf16_pays(matrix.device.type == "cpu") else torch.float32
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(precision)
    x = x / x.norm().clamp(min=1e-7)  # no singular value above 1
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(
            x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445
        )
    return (x.T if tall else x).to(matrix.dtype)


def _is_query(name: str) -> bool:
    return name.split(".")[-2] == "q"


def _groups(rows: Iterable[tuple[nn.Parameter, float, float]]) -> list[dict]:
    """Make parameter groups of parameters with their rates and weight decays, largest first."""
    groups: dict[tuple[float, float], list] = {}
    for parameter, rate, decay in rows:
        if parameter.requires_grad:
            groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": groups[key], "lr": key[0], "weight_decay": key[1]}
        for key in sorted(groups, reverse=True)
    ]
