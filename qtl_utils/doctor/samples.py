"""What users hand over: one tensor of samples, several, or a loader of them; and what their models hand back."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

MOST = 10_000  # samples of a loader that are read
MADE_UP = 8  # samples, where nobody gave any
SIDE = 32  # of made-up images, pixels
STEPS = 5  # of made-up sequences


@dataclass(frozen=True)
class Nested:
    """Samples that are several tensors: a tuple, list or dict of tensors whose first dimension is the batch.

    It is sliced, cast and moved as one tensor would be. What is no tensor of `n` rows is handed on as it is.
    """

    parts: Any
    n: int

    @classmethod
    def of(cls, parts: Any) -> "Nested":
        tensors = leaves(parts)
        if not tensors:
            raise ValueError("batch: the inputs hold no tensor")
        return cls(parts, len(tensors[0]))

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, rows) -> "Nested":
        return Nested.of(mapped(self.parts, lambda t: t[rows] if self._has_rows(t) else t))

    def _has_rows(self, t: torch.Tensor) -> bool:
        return t.dim() > 0 and len(t) == self.n

    def double(self) -> "Nested":
        return Nested.of(mapped(self.parts, lambda t: t.double() if t.is_floating_point() else t))

    def to(self, *args, **kwargs) -> "Nested":
        return Nested.of(mapped(self.parts, lambda t: t.to(*args, **kwargs)))

    @property
    def device(self) -> torch.device:
        return leaves(self.parts)[0].device


Samples = torch.Tensor | Nested


def leaves(parts: Any) -> list[torch.Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    if isinstance(parts, Nested):
        return leaves(parts.parts)
    if isinstance(parts, torch.Tensor):
        return [parts]
    inner = parts.values() if isinstance(parts, Mapping) else parts if isinstance(parts, (list, tuple)) else ()
    return [tensor for part in inner for tensor in leaves(part)]


def mapped(parts: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same nesting with every tensor replaced by `function` of it."""
    if isinstance(parts, torch.Tensor):
        return function(parts)
    if isinstance(parts, Mapping):
        return {key: mapped(part, function) for key, part in parts.items()}
    if isinstance(parts, (list, tuple)):
        made = [mapped(part, function) for part in parts]
        return type(parts)(*made) if hasattr(parts, "_fields") else type(parts)(made)
    return parts


def flattened(samples: Samples) -> torch.Tensor:
    """One row of numbers (B, F), float64, for every sample."""
    tensors = [t for t in leaves(samples) if t.dim() > 0 and len(t) == len(samples)]
    return torch.cat([t.detach().reshape(len(samples), -1).double().cpu() for t in tensors], -1)


# ---- reading a batch -------------------------------------------------------------------------------------------------


def read_batch(given: Any) -> tuple[Samples, torch.Tensor]:
    """Inputs and labels of one batch: (inputs, labels), a dict with 'labels', a loader or a data set.

    Inputs are a tensor or array, or several in a tuple, list or dict; labels a tensor, an array or a list of numbers.
    Raises ValueError where it is none of these or has less than two samples.
    """
    if isinstance(given, DataLoader):
        given = next(iter(given))
    elif isinstance(given, Dataset):
        given = next(iter(DataLoader(given, batch_size=min(MADE_UP, len(given)))))
    if isinstance(given, Mapping):
        key = next((k for k in ("labels", "label", "targets", "target", "y") if k in given), None)
        if key is None:
            raise ValueError(f"batch: a dict needs the key 'labels', it has {', '.join(map(str, given))}")
        rest = {k: v for k, v in given.items() if k != key}
        given = (next(iter(rest.values())) if list(rest) in (["x"], ["inputs"]) else rest), given[key]
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise ValueError("batch: expected (inputs, labels), as a data loader gives them, a loader, or a data set")
    inputs, labels = (_tensors(part) for part in given)
    if not isinstance(inputs, torch.Tensor):
        inputs = Nested.of(inputs)
    if not isinstance(labels, torch.Tensor):
        labels = _numbers(labels)
    if labels.dim() == 0 or len(inputs) != len(labels) or len(inputs) < 2:
        n = "one" if labels.dim() == 0 else len(labels)
        raise ValueError(f"batch: expected at least two samples and as many labels, got {len(inputs)} and {n}")
    return inputs, labels


def read_all(given: Any, most: int = MOST) -> tuple[torch.Tensor, torch.Tensor]:
    """All samples (N, ...) and labels of a pair, a loader or a data set, in its order; at most `most` of them.

    Raises ValueError where the samples are no single tensor each.
    """
    if isinstance(given, Dataset):
        given = DataLoader(given, batch_size=64)
    if not isinstance(given, DataLoader):
        return _single(*read_batch(given))
    batches = []
    for batch in given:
        batches.append(_single(*read_batch(batch)))
        if sum(len(y) for _, y in batches) >= most:
            break
    return tuple(torch.cat(parts)[:most] for parts in zip(*batches, strict=True))


def _single(inputs: Samples, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if not isinstance(inputs, torch.Tensor):
        raise ValueError(f"expected samples that are one tensor, got a {type(inputs.parts).__name__} of several")
    return inputs, labels


def read_made(made: Any, known: Iterable[str]) -> tuple[Any, Any, dict[str, Any]]:
    """Model, batch and further arguments of what a user's `make()` returns.

    It may be the model alone, a tuple or list (model, batch) or (model, batch, arguments), or a dict of all of them
    with the model as 'model'. known: names of arguments. Raises ValueError where it is none of these.
    """
    if isinstance(made, Mapping):
        more = dict(made)
        model = more.pop("model", more.pop("model_or_factory", None))
        batch = more.pop("batch", more.pop("samples", None))
        if batch is None and "train" not in (more.get("data") if isinstance(more.get("data"), Mapping) else ()):
            batch = more.pop("data", None)
        parts = [model, batch, more]
    else:
        parts = list(made) if isinstance(made, (tuple, list)) and not isinstance(made, nn.Module) else [made]
        if len(parts) == 2 and isinstance(parts[1], Mapping) and parts[1] and set(parts[1]) <= {"batch", *known}:
            more = dict(parts[1])
            parts = [parts[0], more.pop("batch", None), more]
    model, batch, more = (*parts, None, None)[:3]
    if len(parts) > 3 or not callable(model) or not (more is None or isinstance(more, Mapping)):
        kinds = ", ".join(type(part).__name__ for part in parts)
        told = "the model, (model, (images, labels)), these and a dict of further arguments, or one dict of all"
        raise ValueError(f"should return {told}, got {kinds}")
    return model, batch, dict(more or {})


def _tensors(part: Any) -> Any:
    """The same with arrays as tensors."""
    if isinstance(part, np.ndarray) and part.dtype != object:
        return torch.from_numpy(part)
    if isinstance(part, Mapping):
        return {key: _tensors(value) for key, value in part.items()}
    if isinstance(part, (list, tuple)) and not hasattr(part, "_fields"):
        return type(part)(_tensors(value) for value in part)
    return part


def _numbers(labels: Any) -> torch.Tensor:
    try:
        return torch.as_tensor(labels)
    except Exception:
        told = "labels that are a tensor, an array or a list of numbers"
        raise ValueError(f"batch: expected {told}, got {type(labels).__name__}") from None


# ---- calling a model -------------------------------------------------------------------------------------------------


def call(model: nn.Module, samples: Samples) -> Any:
    """What the model returns; a dict is handed over by name, a tuple one by one, where `forward` takes them so."""
    if isinstance(samples, torch.Tensor):
        return model(samples)
    if isinstance(samples.parts, Mapping):
        return model(**samples.parts) if _takes_names(model, samples.parts) else model(samples.parts)
    return model(*samples.parts) if _takes(model, len(samples.parts)) else model(samples.parts)


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    return list(inspect.signature(model.forward).parameters.values())


def _takes_names(model: nn.Module, names: Iterable[str]) -> bool:
    known = {q.name for q in _parameters(model)}
    return set(names) <= known or any(q.kind is q.VAR_KEYWORD for q in _parameters(model))


def _takes(model: nn.Module, n: int) -> bool:
    """Whether `forward` takes `n` arguments one by one, and not one of them all."""
    places = [q for q in _parameters(model) if q.kind in (q.POSITIONAL_ONLY, q.POSITIONAL_OR_KEYWORD)]
    needed = [q for q in places if q.default is q.empty]
    return any(q.kind is q.VAR_POSITIONAL for q in _parameters(model)) or len(needed) > 1 or len(needed) == n == 1


def picked(outputs: Any, n: int | None = None) -> torch.Tensor:
    """The tensor that labels are held against: `.logits` or 'logits' of several, or the first one with `n` rows.

    Raises TypeError where there is none.
    """
    if isinstance(outputs, torch.Tensor):
        return outputs
    named = getattr(outputs, "logits", None)
    if isinstance(named, torch.Tensor):
        return named
    if isinstance(outputs, Mapping):
        for key in ("logits", "outputs", "output", "prediction", "predictions", "y"):
            if isinstance(outputs.get(key), torch.Tensor):
                return outputs[key]
    if isinstance(outputs, Sequence | Mapping):
        floats = [t for t in leaves(outputs) if t.is_floating_point() or t.is_complex()]
        rows = [t for t in floats if t.dim() and len(t) == n]
        if found := rows or floats:
            return found[0]
    raise TypeError(f"the model returns a {type(outputs).__name__}, not a tensor")


# ---- made-up samples -------------------------------------------------------------------------------------------------


def made_up(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Random samples of the shape that the model's first layer takes, and labels that fit what it returns.

    Raises ValueError where the first layer does not tell.
    """
    generator = torch.Generator().manual_seed(0)
    shape = next((shape for m in model.modules() if (shape := _input_shape(m))), None)
    if shape is None:
        kind = type(model).__name__
        raise ValueError(f"the first layer of this {kind} does not tell its inputs; give a batch (inputs, labels)")
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0))
    inputs = torch.randn((MADE_UP, *shape), generator=generator).to(first)
    embedding = next((m for m in model.modules() if _input_shape(m)), None)
    if isinstance(embedding, nn.Embedding):
        inputs = torch.randint(embedding.num_embeddings, (MADE_UP, STEPS), generator=generator).to(first.device)
    with torch.no_grad():
        out = picked(model(inputs), MADE_UP)
    if out.dim() == 2 and out.shape[1] > 1:
        labels = torch.arange(MADE_UP) % out.shape[1]
    else:
        labels = (torch.arange(MADE_UP) % 2).float().reshape((-1,) + (1,) * (out.dim() - 1)).expand(out.shape).clone()
    return inputs, labels.to(first.device)


def _input_shape(module: nn.Module) -> tuple[int, ...]:
    """The shape of one sample that a layer takes; () where it does not tell."""
    if isinstance(module, nn.Linear):
        return (module.in_features,)
    if isinstance(module, nn.Conv2d):
        return (module.in_channels, SIDE, SIDE)
    if isinstance(module, nn.Conv1d):
        return (module.in_channels, SIDE)
    if isinstance(module, nn.RNNBase):
        return (STEPS, module.input_size)
    if isinstance(module, nn.Embedding):
        return (STEPS,)
    n = getattr(module, "n_qubits", None) or getattr(getattr(module, "neural_network", None), "num_inputs", None)
    if n is None and (node := getattr(module, "qnode", None)) is not None:
        n = len(node.device.wires or ()) or None
    return (n,) if isinstance(n, int) else ()
