"""One look at a step of training: norms of gradients, weights and changes by stage, in few small operations."""

import math
import operator
import weakref
from collections.abc import Sequence

import numpy as np
import torch

from qtl_utils.doctor.live_records import Look
from qtl_utils.doctor.stages import Stage

MOST = 4096  # values of a classical parameter whose changes are followed; of angles, all are
PLAIN = {torch.float32, torch.float64, torch.bfloat16}  # dtypes whose norms do not overflow


class Eye:
    """Looks at the trainable parameters before and after a step.

    `unreached`: by stage, the layers that no gradient has arrived at yet. `uncleared`: looks in a row at steps whose
    backward pass added to the gradients of the step before.
    """

    def __init__(self, stages: Sequence[Stage], optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer
        self.rows = [
            (i, name.rpartition(".")[0] or name, p, p.numel() if stage.is_circuit else min(p.numel(), MOST))
            for i, stage in enumerate(stages)
            for name, p in stage.parameters.items()
            if p.numel()
        ]
        self.n_stages = len(stages)
        self.unreached: list[set[str]] = [set() for _ in stages]
        self._reached: list[set[str]] = [set() for _ in stages]
        self.uncleared = 0
        self._gradient: tuple = (lambda: None, 0, 0)  # one of the last look: reference, version, step
        self._start: dict[int, np.ndarray] = {}  # number of a row -> its values before the first look
        self._kept: torch.Tensor | None = None  # the values before this step
        self._groups: list = []
        self._chosen: list[bool] = []  # which rows are trainable now

    def before(self) -> None:
        """Keeps what the parameters are before a step."""
        chosen = [row[2].requires_grad for row in self.rows]
        self._kept = None
        if not any(chosen):
            return
        if chosen != self._chosen:
            self._choose(chosen)
        self._kept = _joined(self._parts())
        if len(self._first) < len(self._squares[0]):
            self._remember()

    def _choose(self, chosen: list[bool]) -> None:
        """Notes which rows are looked at, and where they and their stages begin among the values."""
        self._chosen = chosen
        self._layers_open = True
        self._now = [n for n, wanted in enumerate(chosen) if wanted]
        rows = [self.rows[n] for n in self._now]
        sizes = [2 * size if p.is_complex() else size for _, _, p, size in rows]
        self._parameters = [row[2] for row in rows]
        self._whole = all(p.numel() == size and p.dtype in PLAIN for _, _, p, size in rows)
        self._starts = np.cumsum([0, *sizes[:-1]])
        self._share = [p.numel() / size for _, _, p, size in rows]
        stages = sorted({row[0] for row in rows})
        self._spans = [(i, *_span([row[0] == i for row in rows])) for i in stages]  # stage, its first row, its last + 1
        self._stage_starts = self._starts[[first for _, first, _ in self._spans]]
        self._squares = np.empty((4, sum(sizes)))
        self._first = np.empty(0)

    def _remember(self) -> None:
        """What the parameters are before the first step that is looked at; of those that were frozen then, now."""
        for n, part in zip(self._now, np.split(_array(self._kept), self._starts[1:]), strict=True):
            self._start.setdefault(n, part.copy())
        self._first = np.concatenate([self._start[n] for n in self._now])

    def _parts(self) -> list[torch.Tensor]:
        if self._whole:
            return [p.reshape(-1) for p in self._parameters]
        return [_part(p, self.rows[n][3]) for n, p in zip(self._now, self._parameters, strict=True)]

    def after(self, step: int) -> list[Look | None]:
        """What is to be seen of every stage after the step; None of one without trainable parameters."""
        found: list[Look | None] = [None] * self.n_stages
        if self._kept is None:
            return found
        self._read_groups()
        grads = [p.grad if id(p) in self._held else None for p in self._parameters]
        norms, (weights, changes), (updates, moved) = self._compare(grads)
        self._kept = None
        if self._layers_open:
            self._look_for_layers(norms)
        self._look_for_additions(grads, step)
        for k, (i, first, end) in enumerate(self._spans):
            squares = [norm * norm for norm in norms[first:end] if norm is not None]
            gradient = math.sqrt(sum(squares)) if squares else None
            weight, change = (
                math.sqrt(sum(map(operator.mul, values[first:end], self._share[first:end])))
                for values in (weights, changes)
            )
            relative = change / weight if weight else math.inf
            found[i] = Look(step, gradient, weight, math.sqrt(updates[k]), math.sqrt(moved[k]), relative, self._rate(i))
        return found

    @np.errstate(all="ignore")
    def _compare(self, grads: list[torch.Tensor | None]) -> tuple[list, list, list]:
        """Norms of the gradients; squares of every parameter before and in the step; by stage, the largest squares.

        These are of one value, in the step and since the start. Gradients are read along with the parameters where
        these are small; otherwise by themselves.
        """
        parts = self._parts()
        together = self._whole and all(g is not None and g.layout is torch.strided for g in grads)
        if together:
            parts += [g.reshape(-1) for g in grads]
        values = _array(_joined(parts))
        squares = self._squares
        n = squares.shape[1]
        before = _array(self._kept)
        np.subtract(values[:n], before, out=squares[1])
        np.subtract(values[:n], self._first, out=squares[2])
        squares[0] = before
        squares[3] = values[n:] if together else 0.0
        np.multiply(squares, squares, out=squares)
        sums = np.add.reduceat(squares, self._starts, axis=1).tolist()
        largest = np.maximum.reduceat(squares[1:3], self._stage_starts, axis=1).tolist()
        norms = [math.sqrt(value) for value in sums[3]] if together else _norms(grads)
        return norms, sums[:2], largest

    def moved(self) -> list[float]:
        """By stage, the largest change of one value since the start, as parameters are now."""
        if not self._start:
            return []
        found = [0.0] * self.n_stages
        for n, start in self._start.items():
            stage, _, p, size = self.rows[n]
            found[stage] = max(found[stage], float(np.abs(_array(_part(p, size)) - start).max()))
        return found

    def _read_groups(self) -> None:
        """Which parameters the optimiser holds, and in which groups; again where it has other groups than before."""
        groups = self.optimizer.param_groups
        known = [groups, *(len(group["params"]) for group in groups)]
        if len(known) == len(self._groups) and known[0] is self._groups[0] and known[1:] == self._groups[1:]:
            return
        self._groups = known
        self._layers_open = True
        self._held = {id(p): group for group in groups for p in group["params"]}
        own = [
            [self._held[id(p)] for k, _, p, _ in self.rows if k == i and id(p) in self._held]
            for i in range(self.n_stages)
        ]
        self._groups_of = [list({id(group): group for group in stage}.values()) for stage in own]

    def _rate(self, stage: int) -> float:
        return max((float(group["lr"]) for group in self._groups_of[stage]), default=math.nan)

    def _look_for_layers(self, norms: Sequence[float | None]) -> None:
        """Which layers that are trained now have never had a gradient; no more once all have had one."""
        trained = [self.rows[n][:2] for n, p in zip(self._now, self._parameters, strict=True) if id(p) in self._held]
        for n, norm in zip(self._now, norms, strict=True):
            if norm:
                stage, layer, *_ = self.rows[n]
                self._reached[stage].add(layer)
        for k, unreached in enumerate(self.unreached):
            unreached.clear()
            unreached.update(layer for stage, layer in trained if stage == k and layer not in self._reached[k])
        self._layers_open = any(self.unreached)

    def _look_for_additions(self, grads: Sequence[torch.Tensor | None], step: int) -> None:
        """Whether a gradient is the tensor it was at the last look, changed once a step: added to, and never cleared.

        A gradient that is set to None comes back as another tensor, one that is set to zero changes twice a step.
        """
        gradient = next((g for g in grads if g is not None), None)
        if gradient is None:
            return
        reference, version, at = self._gradient
        added = reference() is gradient and gradient._version - version == step - at
        self.uncleared = self.uncleared + 1 if added else 0
        self._gradient = weakref.ref(gradient), gradient._version, step


def _span(own: list[bool]) -> tuple[int, int]:
    """The first of consecutive rows, and the one behind the last."""
    first = own.index(True)
    return first, first + sum(own)


def _part(p: torch.Tensor, size: int) -> torch.Tensor:
    values = p.reshape(-1) if size == p.numel() else p.reshape(-1)[:size]
    return torch.view_as_real(values).reshape(-1) if values.is_complex() else values


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """All values one after the other, as a new tensor."""
    try:
        return torch.cat(parts)
    except RuntimeError:  # on several devices
        return torch.cat([part.cpu() for part in parts])


def _array(values: torch.Tensor) -> np.ndarray:
    """As an array of floats; waits for the device where the values are on one."""
    return (values if values.dtype in (torch.float32, torch.float64) else values.float()).cpu().numpy()


def _norms(gradients: Sequence[torch.Tensor | None]) -> list[float | None]:
    """The norms of gradients, None where there is none; one reading where they are on one device."""
    there = [_plain(g) for g in gradients if g is not None]
    if not there:
        return [None] * len(gradients)
    found = torch._foreach_norm(there)
    try:
        values = iter(torch.stack(found).tolist())
    except RuntimeError:  # on several devices
        values = iter([float(norm) for norm in found])
    norms = [None if g is None else next(values) for g in gradients]
    # squares of tiny numbers are zero
    return [g.abs().max().item() if norm == 0.0 else norm for g, norm in zip(gradients, norms, strict=True)]


def _plain(gradient: torch.Tensor) -> torch.Tensor:
    """Real, dense, and wide enough for its norm: for most gradients the tensor itself."""
    if gradient.layout is torch.strided and gradient.dtype in PLAIN:
        return gradient
    gradient = gradient.coalesce().values() if gradient.is_sparse else gradient
    gradient = torch.view_as_real(gradient) if gradient.is_complex() else gradient
    return gradient.float() if gradient.dtype is torch.float16 else gradient
