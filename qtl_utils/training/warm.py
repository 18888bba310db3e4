"""Importing this module has the kernels compiled, or loaded where they are kept on disk, before anybody calls them."""

from numba import types

from qtl_utils.circuits.density_kernels import backward_density, forward_density
from qtl_utils.circuits.kernels import add_up, backward_blocks, forward_blocks
from qtl_utils.circuits.vectors import KINDS
from qtl_utils.training.fused_kernels import evaluate, train

N = types.int64
PAIR = types.UniTuple(N, 2)


def _integers(dimensions: int) -> types.Array:
    return types.Array(N, dimensions, "C")


def _reals(dimensions: int) -> types.Array:
    return types.Array(types.float64, dimensions, "C")


HEAD = [N] * 4  # the head, the memory of a thread, the table and bytes of its rows
ARGUMENTS = {  # behind the kind of the vectors
    forward_blocks: [N] * 10,
    backward_blocks: [N] * 13,
    add_up: [N] * 5,
    forward_density: [N] * 8,
    backward_density: [N] * 9,
    train: [
        *HEAD,
        *(_integers(n) for n in (1, 1, 4, 2)),
        types.boolean,
        types.boolean,
        *[N] * 4,
        *(_reals(n) for n in (4, 2, 4, 2)),
        PAIR,
        N,
    ],
    evaluate: [*HEAD, _integers(1), N, N, N, PAIR],
}

for kind in KINDS.values():
    for kernel, arguments in ARGUMENTS.items():
        kernel.compile((kind._numba_type_, *arguments))
