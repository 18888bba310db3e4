"""That a diagnosis leaves everything it is given as it was."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import pennylane as qml
import torch
from torch import nn


@contextlib.contextmanager
def unchanged(told: dict) -> Iterator[None]:
    """Inside, nothing may happen to model, batch, optimiser, scheduler and random generators of `told`.

    told: arguments of `diagnose`. A function that makes a model has no model to be looked at.
    """
    before = snapshot(told)
    yield
    after = snapshot(told)
    for name in before:
        assert same(before[name], after[name]), f"{name} of the user's was changed"


def snapshot(told: dict) -> dict[str, object]:
    model = told["model_or_factory"]
    found = {"random numbers": (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())}
    found["batch"] = kept(told.get("batch"))
    if isinstance(model, nn.Module):
        found |= of_model(model)
    for name in ("optimizer", "scheduler"):
        if told.get(name) is not None:
            found[name] = kept({k: v for k, v in vars(told[name]).items() if not callable(v)})
    return found


def of_model(model: nn.Module) -> dict[str, object]:
    found = {}
    for name, module in model.named_modules():
        found[f"mode of '{name}'"] = module.training
        found[f"hooks of '{name}'"] = [len(v) for k, v in vars(module).items() if k.endswith("_hooks")]
        plain = {k: v for k, v in vars(module).items() if not k.startswith("_") or isinstance(v, torch.Tensor)}
        found[f"attributes of '{name}'"] = {k: (id(v), kept(v)) for k, v in plain.items()}
        devices = [v.device for v in vars(module).values() if isinstance(v, qml.QNode)]
        found[f"devices of '{name}'"] = [str(getattr(d, "_rng", None) and d._rng.bit_generator.state) for d in devices]
    for name, q in model.named_parameters():
        found[f"parameter '{name}'"] = (id(q), q.data_ptr(), kept(q), kept(q.grad), q.requires_grad, str(q.device))
    for name, b in model.named_buffers():
        found[f"buffer '{name}'"] = (id(b), kept(b), str(b.device))
    return found


def kept(value):
    """A copy of tensors and of what holds them; anything else is known by being the same object."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {kept(k) if isinstance(k, torch.Tensor) else k: kept(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [kept(v) for v in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else id(value)


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        alike = isinstance(b, torch.Tensor) and a.shape == b.shape and a.device == b.device
        return alike and (a.is_meta or torch.equal(a.nan_to_num(), b.nan_to_num()))
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        keys = all(isinstance(k, torch.Tensor) or k in b for k in a)
        return len(a) == len(b) and keys and all(map(same, a.values(), b.values()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
