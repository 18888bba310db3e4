"""The Numba executor of `statevector`: programs as the kernels read them, and the threads that run them.

Blocks are shared out over torch's number of threads and added up in a fixed order, so that results do not depend on
the number of threads.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch

from qtl_utils.circuits import kernels
from qtl_utils.circuits.kernels import APART, INPUT, PASS_WIDTH, WEIGHT, add_up, backward_blocks, forward_blocks
from qtl_utils.circuits.limits import NOT_FINITE, check_memory
from qtl_utils.circuits.vectors import KINDS, VECTOR_BYTES

MAX_PASS = 3  # rotations of a pass
KEPT_BYTES = 2**20  # of states kept from forward to backward; computing larger ones again costs no more
SCRATCH_BYTES = 2**26  # of working memory that a thread keeps between calls
PARALLEL_WORK = 300_000  # vector rotations below which waking a second thread costs more than it brings


class Schedule:
    """A program as the kernels read it: integers that describe rotations, words and passes, behind one header.

    `kernels` names the fields of the header and draws the memory of a block.
    """

    def __init__(self, program):
        self.program = program
        rotations = program.rotations
        words = program.words
        self.sources = np.array([(r.angle.source, r.angle.index) for r in rotations], np.int64).reshape(-1, 2)
        self.shares = np.array([(r.angle.factor / 2, r.angle.offset / 2) for r in rotations]).reshape(-1, 2)
        padding = [(0, 0, 0)] * (-len(words) % 4)  # kernels take four at a time
        self.words = np.array([*((w.x, w.z, w.sign) for w in words), *padding], np.int64).reshape(-1, 3)
        self.groups = passes(rotations)
        self.passes = np.array([_describe(rotations, group) for group in self.groups], np.int64)
        sizes = 2**program.n_bits, len(rotations)
        self.plans = {dtype: _Plan(kind, self._header(dtype), *sizes) for dtype, kind in KINDS.items()}

    def _header(self, dtype):
        program = self.program
        amplitude = np.array(2.0 ** (-program.uniform.bit_count() / 2)).view(np.int64)
        sources = [{self.sources[g, 0] for g in group} for group in self.groups]
        reached = [
            next((k for k, found in enumerate(sources) if found & wanted), len(sources))
            for wanted in ({INPUT, WEIGHT}, {WEIGHT})
        ]
        fields = {
            kernels.N_BITS: program.n_bits,
            kernels.N_ROTATIONS: len(program.rotations),
            kernels.SOURCES: self.sources.ctypes.data,
            kernels.SHARES: self.shares.ctypes.data,
            kernels.N_WORDS: len(program.words),
            kernels.WORDS: self.words.ctypes.data,
            kernels.N_INPUTS: program.n_inputs,
            kernels.N_WEIGHTS: program.n_weights,
            kernels.UNIFORM: program.uniform,
            kernels.PASSES: self.passes.ctypes.data,
            kernels.AMPLITUDE: amplitude,
            kernels.N_PASSES: len(self.groups),
            kernels.VECTOR: KINDS[dtype].lanes * dtype.itemsize,
            kernels.REACHED_WITH_INPUTS: reached[0],
            kernels.REACHED_BY_WEIGHTS: reached[1],
        }
        return np.array([fields[position] for position in range(len(fields))], np.int64)

    def forward(self, run, inputs, weights, keep):
        """Values of the words, (..., B, n_words); small final states stay in run.kept where `keep` asks for them."""
        inputs = inputs.contiguous()
        weights = weights.contiguous()
        out = inputs.new_empty(run.shape)
        plan = self.plans[inputs.dtype]
        rows = run.replicas * run.batch
        blocks = -(-rows // plan.kind.lanes)
        size = blocks * plan.block_bytes
        kept = inputs.new_empty(size // inputs.itemsize) if keep and size <= KEPT_BYTES else None
        given = inputs.data_ptr(), weights.data_ptr(), rows, run.batch, out.data_ptr()

        def work(first, last):
            memory, stride = (scratch(plan.block_bytes), 0) if kept is None else (kept, plan.block_bytes)
            return forward_blocks(plan.kind, plan.address, first, last, stride, memory.data_ptr(), *given)

        if spread(work, blocks, plan.work) and run.strict:
            raise ValueError(NOT_FINITE)
        run.kept = kept
        return out

    def backward(self, run, inputs, weights, gradient, needed):
        """Gradients of inputs and weights for the gradient (..., B, n_words) of the words."""
        inputs = inputs.contiguous()
        weights = weights.contiguous()
        gradient = gradient.contiguous()
        plan = self.plans[inputs.dtype]
        kept = run.kept
        rows = run.replicas * run.batch
        blocks = -(-rows // plan.kind.lanes)
        of_inputs = torch.empty_like(inputs) if needed[0] else None
        of_weights = torch.empty_like(weights) if needed[1] else None
        parts = of_weights
        if needed[1] and not blocks == run.replicas == 1:
            # every block writes to rows of its own, which are then added up in a fixed order
            parts = inputs.new_empty(rows * self.program.n_weights)
        given = inputs.data_ptr(), weights.data_ptr(), rows, run.batch
        given += gradient.data_ptr(), address(of_inputs), address(parts)

        def work(first, last):
            memory = scratch(plan.scratch_bytes + plan.block_bytes)
            other = memory.data_ptr()
            states = other + plan.scratch_bytes
            stride = 0
            if kept is not None:
                states = kept.data_ptr()
                stride = plan.block_bytes
            backward_blocks(plan.kind, plan.address, first, last, stride, states, other, *given)
            return 0

        spread(work, blocks, plan.work)
        if parts is not of_weights:
            total = parts.data_ptr(), of_weights.data_ptr()
            add_up(plan.kind, *total, run.replicas, run.batch, self.program.n_weights)
        return of_inputs, of_weights


def address(tensor) -> int:
    """Where a tensor's numbers begin; 0 for none."""
    return 0 if tensor is None else tensor.data_ptr()


def schedule_of(program) -> Schedule:
    """The schedule of `program`, made once."""
    if "schedule" not in program.made:
        program.made["schedule"] = Schedule(program)
    return program.made["schedule"]


class _Plan:
    """A schedule in one precision: its header, the bytes of a block and of backward's scratch, the work of a block."""

    def __init__(self, kind, header, states, rotations):
        self.kind = kind
        self.header = header
        self.address = header.ctypes.data
        self.block_bytes = VECTOR_BYTES * (states + 4 * rotations + 6)
        self.scratch_bytes = VECTOR_BYTES * (2 * states + APART + 8)
        self.work = states * rotations


def spread(work, blocks: int, work_of_block: int) -> int:
    """The sum of work(first, last) over equal shares of the blocks, one for every thread that is worth its while."""
    if blocks * work_of_block < PARALLEL_WORK or (threads := min(thread_count(), blocks)) == 1:
        return work(0, blocks)
    edges = [thread * blocks // threads for thread in range(threads + 1)]
    others = [pool(threads - 1).submit(work, *share) for share in pairwise(edges[1:])]
    return work(0, edges[1]) + sum(other.result() for other in others)


_of_thread = threading.local()


def scratch(size: int) -> torch.Tensor:
    """At least `size` bytes that this thread may use until its next call."""
    memory = getattr(_of_thread, "memory", None)
    if memory is None or memory.nbytes < size:
        check_memory(size)
        memory = torch.empty(size, dtype=torch.uint8)
        if size <= SCRATCH_BYTES:
            _of_thread.memory = memory
    return memory


_pool = None
_forked = False


def thread_count() -> int:
    """torch's number of threads, or 1 in a forked process, where threads of the parent do not exist."""
    return 1 if _forked else torch.get_num_threads()


def pool(size: int) -> ThreadPoolExecutor:
    global _pool
    if _pool is None or _pool._max_workers < size:
        _pool = ThreadPoolExecutor(size, "statevector")
    return _pool


def _after_fork():
    global _pool, _forked
    _pool = None
    _forked = True


os.register_at_fork(after_in_child=_after_fork)


def passes(rotations) -> list[range]:
    """Rotations one after another, as many together as have independent bits x and as a pass takes."""
    found = []
    for g, rotation in enumerate(rotations):
        xs = [rotations[k].x for k in found[-1]] if found else []
        if xs and len(xs) < MAX_PASS and len(reduced([*xs, rotation.x])) > len(xs):
            found[-1] = range(found[-1].start, g + 1)
        else:
            found.append(range(g, g + 1))
    return found


def reduced(patterns) -> list[int]:
    """A basis of bit patterns (under sums without carry) in which each has a leading bit that no other has."""
    basis = []
    for x in patterns:
        for b in basis:
            x = min(x, x ^ b)
        if x:
            basis = [*(min(b, b ^ x) for b in basis), x]
    return basis


def _describe(rotations, group: range) -> list[int]:
    """A pass as integers: size, plain, first rotation, three each of x, z and pivots, and where z_a meets x_b."""
    xs = [rotations[g].x for g in group]
    zs = [rotations[g].z for g in group]
    flips = [[(z & x).bit_count() % 2 for x in xs] for z in zs]
    plain = np.array_equal(flips, np.eye(len(group)))
    basis = sorted(reduced(zs if plain else xs))
    pivots = [b.bit_length() - 1 for b in basis]
    three = lambda values: [*values, 0, 0, 0][:3]  # noqa: E731
    numbers = [len(group), int(plain), group.start, *three(xs), *three(basis if plain else zs), *three(pivots)]
    return (numbers + [n for row in flips for n in three(row)] + [0] * PASS_WIDTH)[:PASS_WIDTH]
