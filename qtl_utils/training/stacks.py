"""Many modules of one shape as one batched function."""

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import linear

from qtl_utils.models.heads import Beside, Squash, TrigonometricFeatures, beside, is_circuit


class Stack:
    """R modules of one shape as one batched function; `parameters` and `buffers` carry a leading replica dimension."""

    def __init__(self, modules: list[nn.Module]):
        self.base = modules[0]
        self.replicas = len(modules)
        self.parameters, self.buffers = stack_module_state(modules)
        needed = {name for name, p in self.base.named_parameters() if p.requires_grad}
        self.names = [name for name in self.parameters if name in needed]
        self.trainable = [self.parameters[name] for name in self.names]
        self.layers = stackable_layers(self.base)
        self._forward = vmap(self._one, randomness="different")

    def _one(self, parameters, buffers, x):
        return functional_call(self.base, (parameters, buffers), (x,))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:  # (R, B, F), or (B, F) for all replicas -> (R, B, K)
        if self.layers is None:
            return self._forward(self.parameters, self.buffers, x.expand(self.replicas, *x.shape[-2:]))
        x = chain(self.layers, self.parameters | self.buffers, x)
        return x.expand(self.replicas, *x.shape[-2:])

    @torch.no_grad()
    def load(self, parameters: dict[str, torch.Tensor]) -> None:
        for name, value in parameters.items():
            self.parameters[name].copy_(value)


ELEMENTWISE = (Squash, TrigonometricFeatures, nn.Identity, nn.Dropout, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid)


def chain(layers: list[tuple[str, nn.Module]], tensors: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The layers one after the other, with the stacked `tensors` (R, ...) by name in the place of their own."""
    for name, layer in layers:
        if isinstance(layer, nn.Linear):
            x = stacked_linear(x, tensors[f"{name}weight"], tensors.get(f"{name}bias"))
        elif is_circuit(layer):
            x = layer(x, tensors[f"{name}weights"])
        elif isinstance(layer, Beside):
            x = beside(x, chain(stackable_layers(layer.inner, f"{name}inner."), tensors, x))
        else:
            x = layer(x)
    return x


def stackable_layers(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]] | None:
    """The layers of a chain that take stacked replicas as they are, which spares `vmap`; None where one does not."""
    if type(module) is Beside and not module._forward_hooks:
        return None if stackable_layers(module.inner) is None else [(prefix, module)]
    if type(module) is nn.Sequential:
        parts = [stackable_layers(part, f"{prefix}{name}.") for name, part in module.named_children()]
        return None if None in parts else [layer for part in parts for layer in part]
    fits = type(module) in (nn.Linear, *ELEMENTWISE)
    fits |= is_circuit(module) and module.ours
    return [(prefix, module)] if fits and not module._forward_hooks else None


def stacked_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """R linear layers: x (R, B, F), or (B, F) for all, weight (R, K, F), bias (R, K) -> (R, B, K)."""
    if x.dim() == 2:
        out = linear(x, weight.flatten(0, 1), None if bias is None else bias.flatten())  # (B, R K)
        return out.unflatten(1, weight.shape[:2]).movedim(1, 0)
    if bias is None:  # in this order of the factors, the gradient of the weights is a fast product too
        return torch.bmm(weight, x.mT).mT
    return torch.baddbmm(bias[..., None], weight, x.mT).mT
