"""Optimisers: of many heads at once, each with its own learning rates, and of a whole network."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.optim.adam import adam

from qtl_utils.models.devices import FUSED
from qtl_utils.models.heads import circuit_angles
from qtl_utils.study.config import TrainConfig
from qtl_utils.training.fits import Rates
from qtl_utils.training.stacks import Stack


def make_optimizer(model: Stack, module: nn.Module, rates: Sequence[Rates], config: TrainConfig) -> Callable:
    """`step(gradients, decay)`: one update of every replica with its own learning rates.

    `decay` is a factor of all rates or one for each of "classical" and "quantum"; at 0 that group is left alone.
    'adam' and 'sgd' are torch's. 'adam-pl' is PennyLane's AdamOptimizer, which adds its eps before the bias
    correction; 'adam-pl07' that of PennyLane 0.7, with which the 2-D tasks were published: its first step sets the
    moments to g and g^2 and still corrects their bias.
    """
    angles = circuit_angles(module)
    kinds = ["quantum" if name in angles else "classical" for name in model.names]
    lrs = [[getattr(r, kind) for r in rates] for kind in kinds]
    make = _torch_step if config.optimizer in ("adam", "sgd") else _pennylane_step
    return make(model.trainable, kinds, lrs, config)


def _factor(decay: float | dict[str, float], kind: str) -> float:
    return decay[kind] if isinstance(decay, dict) else decay


def _torch_step(parameters: Sequence[torch.Tensor], kinds: Sequence[str], lrs, config: TrainConfig) -> Callable:
    """torch's Adam or gradient descent (with momentum) on slices of neighbouring replicas that have the same rate."""
    slices = {}  # rate and kind -> (number of the parameter, first replica, last replica + 1), ...
    for number, (kind, lr) in enumerate(zip(kinds, lrs, strict=True)):
        starts = [i for i in range(len(lr)) if i == 0 or lr[i] != lr[i - 1]]
        for start, stop in zip(starts, [*starts[1:], len(lr)], strict=True):
            slices.setdefault((lr[start], kind), []).append((number, start, stop))
    groups = []  # rate and kind, which slices, the parameters' and Adam's two moments and counts
    for lr, found in slices.items():
        parts = [parameters[n].detach()[a:b] for n, a, b in found]
        moments = [[torch.zeros_like(p) for p in parts] for _ in range(2)]
        groups.append((lr, found, parts, moments, [torch.zeros((), device=p.device) for p in parts]))

    @torch.no_grad()
    def step(gradients, decay):
        gradients = [g.contiguous() for g in gradients]
        for (lr, kind), found, parts, moments, counts in groups:
            if not (factor := _factor(decay, kind)):
                continue
            grads = [gradients[n][a:b] for n, a, b in found]
            lr = lr * factor
            if config.optimizer == "sgd":
                for part, grad, velocity in zip(parts, grads, moments[0], strict=True):
                    part.sub_(velocity.mul_(config.momentum).add_(grad), alpha=lr)
            else:
                options = {"beta1": 0.9, "beta2": config.beta2, "eps": 1e-8, "weight_decay": 0.0}
                adam(parts, grads, *moments, [], counts, fused=True, amsgrad=False, maximize=False, lr=lr, **options)

    return step


def _pennylane_step(parameters: Sequence[torch.Tensor], kinds: Sequence[str], lrs, config: TrainConfig) -> Callable:
    rates = [p.new_tensor(lr).view(-1, *[1] * (p.ndim - 1)) for p, lr in zip(parameters, lrs, strict=True)]
    beta1 = 0.9
    beta2 = config.beta2
    eps = 1e-8
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    counts = [0] * len(parameters)

    @torch.no_grad()
    def step(gradients, decay):
        for i, (p, kind, lr, g, (m, v)) in enumerate(zip(parameters, kinds, rates, gradients, moments, strict=True)):
            if not (factor := _factor(decay, kind)):
                continue
            counts[i] += 1
            whole = counts[i] == 1 and config.optimizer == "adam-pl07"
            m.copy_(g) if whole else m.lerp_(g, 1 - beta1)
            v.copy_(g * g) if whole else v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            correction = math.sqrt(1 - beta2 ** counts[i]) / (1 - beta1 ** counts[i])
            p.sub_(lr * (factor * correction) * m / (v.sqrt() + eps))

    return step


def network_optimizer(model: nn.Module, rates: Rates, config: TrainConfig) -> torch.optim.Optimizer:
    """torch's optimiser with one parameter group each for angles, the rest of the head, and the backbone."""
    if config.optimizer not in ("adam", "sgd"):
        raise ValueError(f"optimizer '{config.optimizer}' trains heads on features only; use adam or sgd for networks")
    angles = {f"head.{name}" for name in circuit_angles(model.head)}
    groups: dict[float | str, list] = {"backbone": [], "quantum": [], "classical": []}
    for name, p in model.named_parameters():
        if p.requires_grad:
            group = "backbone" if name.startswith("backbone.") else "quantum" if name in angles else "classical"
            groups[group].append(p)
    parameters = [{"params": ps, "lr": getattr(rates, group)} for group, ps in groups.items() if ps]
    fused = all(p.device.type in FUSED for group in parameters for p in group["params"])
    how = {"fused": True} if fused else {"foreach": True}
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, **how)
    return torch.optim.Adam(parameters, betas=(0.9, config.beta2), **how)
