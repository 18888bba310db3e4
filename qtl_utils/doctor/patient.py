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

from qtl_utils.doctor.losses import Loss, guessed, kind_of
from qtl_utils.doctor.probe import Observation, last_function, observe
from qtl_utils.doctor.samples import Samples, call, picked

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
    """What the checks look at: the model as it is during a diagnosis, one batch, and what else was given.

    `loss` is what was given, None where a check should take the one that fits; `loss_at` is how it is used.
    """

    model: nn.Module
    images: Samples
    labels: torch.Tensor
    loss: Callable | None = None
    optimizer: torch.optim.Optimizer | None = None
    scheduler: Any = None
    scaler: Any = None
    history: pd.DataFrame | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    factory: Callable[[], nn.Module] | None = None
    epochs: int | None = None
    memory_limit: float = 0.0  # bytes
    trained: bool = False
    made_up: bool = False  # the batch
    deadline: float = math.inf  # of time.perf_counter, when the budget ends
    error: Exception | None = None
    step_seconds: float = 0.0
    modes: dict[str, bool] = field(default_factory=dict)  # module name -> was it in train mode
    generators: list = field(default_factory=list)  # of sampling devices, with their first states
    attributes: "Attributes | None" = None  # the plain ones of the model's modules, as they came

    def run(self, images: Samples | None = None, afresh: bool = True) -> torch.Tensor:
        """The outputs of the model; from the state that it came in, unless it goes on from where it is."""
        images = self.images if images is None else images
        return picked(self._raw(images, afresh), len(images))

    def _raw(self, images: Samples, afresh: bool = True) -> Any:
        if self.attributes is not None and afresh:
            self.attributes.put_back()
        return call(self.model, images)

    def look(self, images: Samples | None = None) -> Observation:
        """One forward pass, watched; its `output` is one tensor."""
        images = self.images if images is None else images
        if self.attributes is not None:
            self.attributes.put_back()
        seen = observe(self.model, images)
        seen.output = picked(seen.output, len(images))
        return seen

    @cached_property
    def seen(self) -> Observation:
        """One forward pass over the batch in eval mode, watched."""
        return self.look()

    @cached_property
    def chosen(self) -> Loss:
        """The loss that was given and its kind, or the one that fits outputs and labels and why."""
        out = self.seen.output
        if self.loss is None:
            return guessed(out, self.labels, last_function(out))
        return Loss(self.loss, kind_of(self.loss, out, self.labels))

    def loss_at(
        self, images: Samples | None = None, labels: torch.Tensor | None = None, afresh: bool = True
    ) -> torch.Tensor:
        """The loss of a batch. A loss of the user's own is given all that the model returns, others its outputs."""
        images, labels = (self.images, self.labels) if images is None else (images, labels)
        raw = self._raw(images, afresh)
        given = self.loss is not None and not isinstance(self.loss, nn.modules.loss._Loss)
        if given and not isinstance(raw, torch.Tensor):
            try:
                return self.loss(raw, labels)
            except (TypeError, AttributeError):  # it takes one tensor
                pass
        return self.chosen.function(picked(raw, len(images)), labels)

    @property
    def few(self) -> tuple[Samples, torch.Tensor]:
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

    def gradients(
        self, images=None, labels=None, afresh: bool = True
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
        """The loss of a batch and its gradient by the trainable parameters; None where the graph does not lead."""
        loss = self.loss_at(images, labels, afresh)
        wanted = self.trainable
        if not loss.requires_grad:
            return loss, dict.fromkeys(wanted)
        grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        return loss.detach(), dict(zip(wanted, grads, strict=True))

    def descend(self, steps: int, length: float = 0.1) -> None:
        """Moves every trainable tensor down its gradient by `length`, some times; inside of `kept` it is undone."""
        for _ in range(steps):
            _, grads = self.gradients()
            with torch.no_grad():
                for name, q in self.trainable.items():
                    if grads[name] is not None:
                        q -= length * grads[name] / (grads[name].norm() + 1e-12)

    def projected(self, images: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor | None]:
        """Gradients of the outputs' sum, weighted by `direction`, without any loss."""
        grads = torch.autograd.grad(
            (self.run(images) * direction).sum(), list(self.trainable.values()), allow_unused=True
        )
        return dict(zip(self.trainable, grads, strict=True))

    @cached_property
    def noisy(self) -> bool:
        """Whether two passes in eval mode differ, by shots or otherwise."""
        with torch.no_grad():
            return not alike(self.run(), self.run())

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """What happens inside to parameters, buffers, gradients, modes and attributes of the model is undone."""
        with kept_tensors(self.model):
            try:
                yield
            finally:
                if self.attributes is not None:
                    self.attributes.put_back()

    def made_while_running(self, module: nn.Module, key: str) -> bool:
        """Whether an attribute is state of the forward pass, such as a hidden state, that the model came without."""
        return self.attributes is not None and not isinstance(self.attributes.held(module, key), torch.Tensor)

    def kept_training(self) -> contextlib.AbstractContextManager:
        """The same for the optimiser."""
        return kept_optimizer(self.optimizer)


class Attributes:
    """The plain attributes of all modules of a model, such as a hidden state or a list of losses, to be put back."""

    BESIDE = ("_parameters", "_buffers", "_modules", "training")  # are kept by others, or are no state
    HELD = (list, dict, set)

    def __init__(self, model: nn.Module):
        self.kept = [(module, self._of(module)) for module in model.modules()]

    def _of(self, module: nn.Module) -> dict[str, tuple[Any, Any]]:
        """Name -> the attribute and a copy of what it holds, where that can change."""
        return {key: (v, self._content(v)) for key, v in vars(module).items() if key not in self.BESIDE}

    def _content(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.detach().clone()
        return copy.copy(value) if type(value) in self.HELD else None

    def held(self, module: nn.Module, key: str) -> Any:
        """What an attribute was when the model came; None where it was not there."""
        return next((kept.get(key, (None,))[0] for m, kept in self.kept if m is module), None)

    def put_back(self) -> None:
        for module, attributes in self.kept:
            own = vars(module)
            for key in [key for key in own if key not in attributes and key not in self.BESIDE]:
                del own[key]
            for key, (value, content) in attributes.items():
                if own.get(key, self) is not value:
                    own[key] = value
                if isinstance(value, torch.Tensor):
                    if not torch.equal(value.detach(), content):
                        with torch.no_grad():
                            value.copy_(content)
                elif content is not None and not _holds(value, content):
                    _refill(value, content)


def _holds(held: list | dict | set, content: list | dict | set) -> bool:
    """Whether it holds the very same things."""
    rows = [list(x.items()) if isinstance(x, dict) else list(x) for x in (held, content)]
    flat = [[part for row in x for part in (row if isinstance(row, tuple) else (row,))] for x in rows]
    return len(flat[0]) == len(flat[1]) and all(a is b for a, b in zip(*flat, strict=True))


def _refill(held: list | dict | set, content: list | dict | set) -> None:
    """Puts the content back into the list, dict or set that others may hold too."""
    held.clear()
    held.extend(content) if isinstance(held, list) else held.update(content)


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
