"""Holds a network with ReLUs and max-pooling on one of its smooth pieces, so that differences cross no kink.

A piecewise function is differentiable except at its kinks, and backpropagation gives the derivative of the piece that
the point lies on. A finite difference that steps over a kink measures something else, however small the step: with
thousands of ReLUs some kink is nearly always in reach. Here the piece that every unit is on is recorded at the point
itself, and shifted points are evaluated on the same pieces.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


def _relu(x):
    return (0.0,), (torch.zeros_like, lambda x: x)


def _hardtanh(x, low=-1.0, high=1.0):  # ReLU6 is one
    return (low, high), (lambda x: torch.full_like(x, low), lambda x: x, lambda x: torch.full_like(x, high))


def _leaky_relu(x, slope=0.01):
    return (0.0,), (lambda x: slope * x, lambda x: x)


def _hardswish(x):
    return (-3.0, 3.0), (torch.zeros_like, lambda x: x * (x + 3) / 6, lambda x: x)


def _hardsigmoid(x):
    return (-3.0, 3.0), (torch.zeros_like, lambda x: (x + 3) / 6, torch.ones_like)


# operator -> from its arguments, where the pieces end and what the function is on each of them
ELEMENTWISE = {
    aten.relu: _relu,
    aten.hardtanh: _hardtanh,
    aten.leaky_relu: _leaky_relu,
    aten.hardswish: _hardswish,
    aten.hardsigmoid: _hardsigmoid,
}
IN_PLACE = {
    aten.relu_: aten.relu,
    aten.hardtanh_: aten.hardtanh,
    aten.leaky_relu_: aten.leaky_relu,
    aten.hardswish_: aten.hardswish,
    aten.hardsigmoid_: aten.hardsigmoid,
}


class Pieces(TorchDispatchMode):
    """A context in which piecewise functions stay on given pieces, or on their own where `given` is None.

    `found` lists, call by call, the piece of every element (of max-pooling: which element was the largest) as it is
    without being held; with `given`, the `found` of an earlier pass, functions are evaluated on those instead. Only for
    passes without gradients.
    """

    def __init__(self, given: list[torch.Tensor] | None = None):
        super().__init__()
        self.given = given
        self.found = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch.compile is never asked for here, and importing it takes a second

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        packet = function.overloadpacket
        if packet is aten.max_pool2d_with_indices:
            return self._max_pool(function, arguments, keywords)
        rule = ELEMENTWISE.get(IN_PLACE.get(packet, packet))
        if rule is None:
            return function(*arguments, **keywords)
        x = arguments[0]
        ends, parts = rule(*arguments, **keywords)
        piece = sum((x > end).long() for end in ends)
        held = self._held(piece)
        out = torch.zeros_like(x)
        for number, part in enumerate(parts):
            out = torch.where(held == number, part(x), out)
        return x.copy_(out) if packet in IN_PLACE else out

    def _max_pool(self, function, arguments, keywords):
        largest, index = function(*arguments, **keywords)  # (N, C, H', W'), index into the flattened H x W
        held = self._held(index)
        if held is index:
            return largest, index
        return arguments[0].flatten(-2).gather(-1, held.flatten(-2)).view_as(largest), held

    def _held(self, piece: torch.Tensor) -> torch.Tensor:
        """The piece to be on, given the own one."""
        self.found.append(piece)
        return piece if self.given is None else self.given[len(self.found) - 1]

    @property
    def crossed(self) -> bool:
        """Whether some element would have been on another piece than it was held on."""
        return self.given is not None and any(map(_differ, self.given, self.found))


def _differ(a: torch.Tensor, b: torch.Tensor) -> bool:
    return not torch.equal(a, b)
