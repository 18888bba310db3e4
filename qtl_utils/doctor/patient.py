"""What the checks look at, left as it was when they are done."""

import contextlib
import copy
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from qtl_utils.doctor.probe import Observation, observe

FEW = 4  # samples that expensive checks look at


def norm(tensors: Iterable[torch.Tensor]) -> float:
    """The Euclidean norm of several tensors as one vector."""
    return math.sqrt(sum(t.double().square().sum().item() for t in tensors))


def alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two outputs are equal but for rounding, which may depend on where in memory a tensor lies."""
    rounding = 100 * torch.finfo(a.dtype).eps * a.detach().abs().max().item()
    return a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, rtol=0, atol=rounding)


@dataclass
class Patient:
    """What the checks look at: the model as it is during a diagnosis, one batch, and what else was given."""

    model: nn.Module
    images: torch.Tensor
    labels: torch.Tensor
    loss: Callable = field(default_factory=nn.CrossEntropyLoss)
    optimizer: torch.optim.Optimizer | None = None
    scheduler: Any = None
    scaler: Any = None
    history: pd.DataFrame | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    factory: Callable[[], nn.Module] | None = None
    epochs: int | None = None
    memory_limit: float = 0.0  # bytes
    trained: bool = False
    error: Exception | None = None
    step_seconds: float = 0.0
    modes: dict[str, bool] = field(default_factory=dict)  # module name -> was it in train mode
    generators: list = field(default_factory=list)  # of sampling devices, with their first states

    @cached_property
    def seen(self) -> Observation:
        """One forward pass over the batch in eval mode, watched."""
        return observe(self.model, self.images)

    @property
    def few(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images[:FEW], self.labels[:FEW]

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def angles(self) -> dict[str, nn.Parameter]:
        """Trainable parameters of the circuits, by name."""
        ids = {id(p) for site in self.seen.sites for p in site.angles}
        return {name: p for name, p in self.trainable.items() if id(p) in ids}

    @property
    def shots(self) -> bool:
        return any(site.shots for site in self.seen.sites)

    def gradients(self, images=None, labels=None) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
        """The loss of a batch and its gradient by the trainable parameters; None where the graph does not lead."""
        images, labels = (self.images, self.labels) if images is None else (images, labels)
        loss = self.loss(self.model(images), labels)
        wanted = self.trainable
        if not loss.requires_grad:
            return loss, dict.fromkeys(wanted)
        grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        return loss.detach(), dict(zip(wanted, grads, strict=True))

    def projected(self, images: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor | None]:
        """Gradients of the outputs' sum, weighted by `direction`, without any loss."""
        grads = torch.autograd.grad(
            (self.model(images) * direction).sum(), list(self.trainable.values()), allow_unused=True
        )
        return dict(zip(self.trainable, grads, strict=True))

    @cached_property
    def noisy(self) -> bool:
        """Whether two passes in eval mode differ, by shots or otherwise."""
        with torch.no_grad():
            return not alike(self.model(self.images), self.model(self.images))

    def kept(self) -> contextlib.AbstractContextManager:
        """What happens inside to parameters, buffers, gradients and modes of the model is undone at the end."""
        return kept_tensors(self.model)

    def kept_training(self) -> contextlib.AbstractContextManager:
        """The same for the optimiser."""
        return kept_optimizer(self.optimizer)


@contextlib.contextmanager
def kept_tensors(model: nn.Module) -> Iterator[None]:
    # the model works on copies; the tensors it came with are never written to and are put back
    parameters = [(p, p.data, p.grad, p.requires_grad) for p in model.parameters()]
    modules = [(m, m.training, dict(m._buffers)) for m in model.modules()]
    try:
        for p, *_ in parameters:
            p.data = p.data.clone()
            p.grad = None
        for m, _, buffers in modules:
            m._buffers.update({name: b if b is None else b.clone() for name, b in buffers.items()})
        yield
    finally:
        for p, value, grad, wanted in parameters:
            p.grad = None
            p.data = value
            p.grad = grad
            p.requires_grad_(wanted)
        for m, training, buffers in modules:
            m.training = training
            m._buffers.clear()
            m._buffers.update(buffers)


@contextlib.contextmanager
def kept_optimizer(optimizer) -> Iterator[None]:
    if optimizer is None:
        yield
        return
    state = dict(optimizer.state)
    rates = [dict(group) for group in optimizer.param_groups]
    called = getattr(optimizer, "_opt_called", None)
    optimizer.state.clear()
    optimizer.state.update({p: copy.deepcopy(values) for p, values in state.items()})
    try:
        yield
    finally:
        optimizer.state.clear()
        optimizer.state.update(state)
        for group, before in zip(optimizer.param_groups, rates, strict=True):
            group.update(before)
        if called is not None:
            optimizer._opt_called = called
        elif hasattr(optimizer, "_opt_called"):
            del optimizer._opt_called


@contextlib.contextmanager
def kept_random() -> Iterator[None]:
    """The random number generators of torch, NumPy and Python end as they began."""
    python = random.getstate()
    numpy = np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
