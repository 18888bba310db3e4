"""Importing this module has the kernels compiled, or loaded where they are kept on disk, before anybody calls them."""

from numba import types

from qtl_utils.circuits.kernels import add_up, backward_blocks, forward_blocks
from qtl_utils.circuits.vectors import KINDS
from qtl_utils.training.fused_kernels import evaluate, train

N = types.int64
INDEX_3 = types.Array(N, 3, "C")
INDEX_2 = types.Array(N, 2, "C")
REAL_3 = types.Array(types.float64, 3, "C")
REAL_2 = types.Array(types.float64, 2, "C")
PAIR = types.UniTuple(N, 2)
ARGUMENTS = {  # behind the kind of the vectors
    forward_blocks: [N] * 10,
    backward_blocks: [N] * 13,
    add_up: [N] * 5,
    train: [N, N, N, N, INDEX_3, INDEX_3, types.boolean, N, N, N, REAL_3, REAL_2, REAL_2, PAIR, N],
    evaluate: [N, N, N, N, INDEX_2, N, N, PAIR, N],
}

for kind in KINDS.values():
    for kernel, arguments in ARGUMENTS.items():
        kernel.compile((kind._numba_type_, *arguments))
