"""What has been seen of a training so far: the losses, and of every stage its gradients and steps."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from qtl_utils.doctor.losses import twice
from qtl_utils.doctor.probe import RESHAPING
from qtl_utils.doctor.stages import Stage

LOOKS = 5  # that say how large a gradient is at the start, or in a row that there is none
FAR = 1.0  # radians in a step: an angle that jumps between periods
FEW = 10  # losses at the start, and at least as many at the end, whose mean is compared
GROWN = 100.0  # times the largest gradient of the first looks
GROWN_ALONE = 1e6  # the same where no loss tells whether it matters


class Look(NamedTuple):
    """What one look saw of one stage, at the step that it was made in.

    `gradient`: its norm, None where no parameter has one. `weights`: the norm before the step. `update`, `moved`: the
    largest change of one value in this step and since the start, in radians for angles. `relative`: the norm of the
    step over that of the weights. `lr`: the largest learning rate, NaN where the optimiser holds none of them.
    """

    step: int
    gradient: float | None
    weights: float
    update: float
    moved: float
    relative: float
    lr: float


@dataclass(eq=False)
class Course:
    """The looks at one stage, summed up."""

    stage: Stage
    looks: int = 0
    held: bool = False  # by the optimiser
    without: int = 0  # looks in a row without any gradient
    since: int = 0  # the step of the first of them
    arrived: bool = False  # a gradient, ever
    cut: bool = False  # the last look found no gradient tensor at all
    broken: int = 0  # the first step with a gradient that is not finite
    first: float = 0.0  # the largest gradient norm of the first looks
    sizes: list[float] = field(default_factory=list)  # gradient norms
    grown: tuple[int, float] | None = None  # step and factor of the largest gradient while the loss was up
    farthest: float = 0.0  # from the start, of one value
    jumps: int = 0  # looks at steps of more than a radian
    jump: tuple[int, float] = (0, 0.0)  # step and size of the largest step of one value
    relative: float = 0.0  # the largest step over the weights, but for those of the first look
    strides: int = 0  # first looks at steps that were larger than the weights
    reach: float = 0.0  # sum of the learning rates
    lr: float = math.nan  # at the last look
    peak: float = 0.0  # the largest
    last: int = 0  # step of the last look
    unreached: set[str] = field(default_factory=set)  # layers that never had a gradient

    @property
    def signs(self) -> tuple[bool, ...]:
        """What may be wrong with this stage; a closer look is worth its time where one of them changes."""
        enough = self.held and self.looks >= LOOKS
        return (
            self.without >= LOOKS,
            self.jumps > 0,
            self.broken > 0,
            self.grown is not None,
            enough and bool(self.unreached),
            enough and self.reach == 0.0,
        )

    def add(self, look: Look, up: bool | None) -> None:
        """up: whether the loss is above its start; None where none was handed in."""
        self.looks += 1
        self.held = look.lr == look.lr
        if self.held:
            before = self.lr if self.lr == self.lr else look.lr
            self.reach += 0.5 * (before + look.lr) * (look.step - self.last)
            self._add_gradient(look, up)
            self.peak = max(self.peak, look.lr)
        self.lr = look.lr
        self.last = look.step
        if look.moved > self.farthest:
            self.farthest = look.moved
        if look.update > FAR:
            self.jumps += 1
        if look.update > self.jump[1]:
            self.jump = look.step, look.update
        if self.looks <= LOOKS and 1.0 < look.relative < math.inf:
            self.strides += 1
        if self.looks > 1 and self.relative < look.relative < math.inf:
            self.relative = look.relative

    def end(self, steps: int, moved: float) -> None:
        """After the last of so many steps, whether it was looked at or not."""
        if self.held:
            self.reach += self.lr * (steps - self.last)
        self.last = steps
        self.farthest = max(self.farthest, moved)

    def _add_gradient(self, look: Look, up: bool | None) -> None:
        size = look.gradient or 0.0
        self.cut = look.gradient is None
        if size == 0.0:
            self.since = look.step if not self.without else self.since
            self.without += 1
            return
        self.without = 0
        self.arrived = True
        if not math.isfinite(size):
            self.broken = self.broken or look.step
            return
        self.sizes.append(size)
        if len(self.sizes) <= LOOKS:
            self.first = max(self.first, size)
            return
        factor = size / self.first
        most = self.grown[1] if self.grown else GROWN
        if factor > most and (factor > GROWN_ALONE if up is None else up):
            self.grown = look.step, factor


class Losses:
    """The losses of a training, one after the other; as many of them a step throughout."""

    def __init__(self, chance: float | None = None):
        self.values: list[float] = []
        self.broken = 0  # the first step at which it was not finite, as far as they were read
        self._finite = 0  # how many are known to be
        self.chance = chance
        self.floor: float | None = None  # of two softmax in a row
        self._unread: list[torch.Tensor] = []

    def __len__(self) -> int:
        return len(self.values) + len(self._unread)

    def add_later(self, value: torch.Tensor) -> None:
        """Of another device, where reading it would wait for the device: all are read at the next look."""
        self._unread.append(value)

    def read(self, steps: int) -> None:
        """Reads what was not read yet, and looks for the first loss that is not finite; after so many steps."""
        if self._unread:
            self.values += torch.stack([value.reshape(()) for value in self._unread]).tolist()
            self._unread.clear()
        if not self.broken:
            new = self.values[self._finite :]
            if not math.isfinite(sum(new)) and not all(map(math.isfinite, new)):
                first = next(i for i, value in enumerate(new) if not math.isfinite(value))
                self.broken = self.step_of(self._finite + first, steps)
            self._finite = len(self.values)

    def step_of(self, i: int, steps: int) -> int:
        """The step at which the loss number `i` was handed in, of so many steps."""
        return max(1, round((i + 1) * steps / len(self.values)))

    @property
    def start(self) -> float:
        return _mean(self.values[:FEW])

    @property
    def recent(self) -> float:
        return _mean(self.values[-FEW:])

    @property
    def end(self) -> float:
        return _mean(self._last)

    @property
    def _last(self) -> list[float]:
        return self.values[-max(FEW, len(self.values) // 10) :]

    @property
    def up(self) -> bool | None:
        """Whether the last few are half as much again as the first few; None where there are none."""
        if len(self.values) <= 2 * FEW:
            return False if self.values else None
        start = self.start
        return self.recent > start + 0.5 * abs(start)

    @property
    def fall(self) -> tuple[float, float]:
        """By how much the end lies below the start, and the standard error of that."""
        parts = self.values[:FEW], self._last
        return self.start - self.end, math.sqrt(sum(_variance(part) / len(part) for part in parts))

    def lowest(self, steps: int) -> int:
        """The step since which the loss has not fallen: the end of the first tenth whose mean is about the least."""
        size = max(FEW, len(self.values) // 10)
        starts = range(0, len(self.values) - size + 1, size)
        means = [_mean(self.values[i : i + size]) for i in starts]
        spare = 0.02 * (max(means) - min(means))
        i = next(i for i, mean in zip(starts, means, strict=True) if mean <= min(means) + spare)
        return self.step_of(i + size - 1, steps)

    def look_at(self, loss: torch.Tensor) -> None:
        """Reads from the graph of a loss what outputs that say nothing would cost, and whether it has a floor."""
        with contextlib.suppress(AttributeError, IndexError):  # torch promises nothing about its nodes
            self._read_graph(loss)

    def _read_graph(self, loss: torch.Tensor) -> None:
        node = loss.grad_fn
        kind = type(node).__name__
        if getattr(node, "_saved_reduction", None) != 1:  # the mean
            return
        if kind in ("NllLossBackward0", "NllLoss2DBackward0"):
            softmax = node.next_functions[0][0]
            if type(softmax).__name__ != "LogSoftmaxBackward0":
                return
            classes = softmax._input_metadata[0].shape[1]
            self.chance = self.chance or math.log(classes)
            if _before(softmax) == "SoftmaxBackward0":
                self.floor = twice(classes)
        elif kind == "BinaryCrossEntropyWithLogitsBackward0":
            self.chance = self.chance or math.log(2)
            if _before(node) == "SigmoidBackward0":
                self.floor = (math.log(2) + twice(2)) / 2  # of as many zeros as ones


def _before(node) -> str:
    """The function whose values another one was given, whatever reshaped them in between."""
    while node is not None:
        node = node.next_functions[0][0] if node.next_functions else None
        if not type(node).__name__.startswith(RESHAPING):
            break
    return type(node).__name__


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)
