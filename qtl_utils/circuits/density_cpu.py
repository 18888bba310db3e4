"""The Numba executor of `density`: which words every operation reads and writes, and the threads that do it.

A word takes part where it can be other than zero (|0...0> reaches it) and an output depends on it. In the 2019 circuit,
whose density matrices are real, words with an odd number of Ys never do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qtl_utils.circuits import density_kernels as kernels
from qtl_utils.circuits.density_kernels import backward_density, forward_density
from qtl_utils.circuits.noisy_program import Map, NoisyProgram, Turn, partners
from qtl_utils.circuits.statevector_cpu import scratch, spread
from qtl_utils.circuits.vectors import KINDS, VECTOR_BYTES

APART = 5 * VECTOR_BYTES  # between two states, lest their numbers compete for the same places in the cache
NOTHING = 1e-15  # entries of a map up to this are rounding


def words_of(program: NoisyProgram, words: tuple[int, ...], angles: Tensor) -> Tensor:
    """Expectation values (..., W) of `words` at angles (..., G)."""
    plan = plan_of(program, words)
    lanes = _Lanes(angles)
    out = angles.new_empty(len(words), lanes.width)
    given = lanes.cosines.data_ptr(), lanes.sines.data_ptr(), lanes.blocks, out.data_ptr()

    def work(first, last):
        memory = scratch(2 * plan.state_bytes)
        forward_density(lanes.kind, plan.address(angles.dtype), first, last, memory.data_ptr(), *given)
        return 0

    spread(work, lanes.blocks, plan.work)
    return lanes.back(out)


def slopes_of(program: NoisyProgram, words: tuple[int, ...], angles: Tensor, gradient: Tensor) -> Tensor:
    """Derivatives (..., G) with respect to `angles`, for the gradient (..., W) of `words`, by the adjoint method."""
    plan = plan_of(program, words)
    lanes = _Lanes(angles)
    weights = lanes.filled(gradient)
    slopes = torch.zeros_like(lanes.cosines)
    given = lanes.cosines.data_ptr(), lanes.sines.data_ptr(), lanes.blocks, weights.data_ptr(), slopes.data_ptr()

    def work(first, last):
        memory = scratch(4 * plan.state_bytes + plan.tape * VECTOR_BYTES)
        backward_density(lanes.kind, plan.address(angles.dtype), first, last, memory.data_ptr(), *given)
        return 0

    spread(work, lanes.blocks, 3 * plan.work)
    return lanes.back(slopes)


class _Lanes:
    """Samples side by side in vectors: angles (..., G) become cosines and sines (G, width)."""

    def __init__(self, angles: Tensor):
        self.kind = KINDS[angles.dtype]
        self.lead = angles.shape[:-1]
        self.rows = math.prod(self.lead)
        self.blocks = -(-self.rows // self.kind.lanes)
        self.width = self.blocks * self.kind.lanes
        filled = self.filled(angles)
        self.cosines = filled.cos()
        self.sines = filled.sin()

    def filled(self, values: Tensor) -> Tensor:
        """(..., K) as (K, width); lanes without a sample are 0."""
        found = values.new_zeros(values.shape[-1], self.width)
        found[:, : self.rows] = values.reshape(self.rows, values.shape[-1]).T
        return found

    def back(self, values: Tensor) -> Tensor:
        """(K, width) as (..., K)."""
        return values[:, : self.rows].T.reshape(*self.lead, len(values))


def plan_of(program: NoisyProgram, words: tuple[int, ...]) -> "Plan":
    """The plan of `program` where `words` are measured, made once."""
    key = "plan", words
    if key not in program.made:
        program.made[key] = Plan(program, words)
    return program.made[key]


class Plan:
    """A program as the kernels read it: `density_kernels` names the fields of its header."""

    def __init__(self, program: NoisyProgram, words: Sequence[int]):
        self.lists: dict = {}  # arrays that kernels read, by what they hold: equal ones are kept once
        self.stages = stages = _stages(program, words)
        self.work = 0  # vectors that are written
        self.tape = 0
        self.operations = []
        turns = 0
        for i, operation in enumerate(program.operations):
            fields = dict.fromkeys(range(kernels.N_FIELDS), 0)
            if isinstance(operation, Turn):
                pairs = stages.pairs[i]
                fields |= {kernels.TURN: turns, kernels.PAIRS: self._keep(pairs), kernels.N_PAIRS: len(pairs)}
                fields |= {kernels.TAPE: self.tape}
                self.tape += pairs.size
                self.work += len(pairs)
                turns += 1
            else:
                before, after, can = stages.active[i], stages.active[i + 1], stages.reached[i]
                forward = _List(operation.ptm, operation.wires, after, before & can)
                backward = _List(operation.ptm.T, operation.wires, before, after)
                fields |= {kernels.TURN: -1, kernels.FORWARD: forward, kernels.BACKWARD: backward}
                self.work += len(forward.columns) // 2
            self.operations.append(fields)
        is_turn = [isinstance(operation, Turn) for operation in program.operations]
        last = np.flatnonzero(stages.active[-1])
        measured = [word if stages.active[-1][word] else -1 for word in words]
        ones = np.flatnonzero(stages.active[0] & stages.reached[0])
        zeros = np.flatnonzero(stages.active[0] & ~stages.reached[0])
        self.state_bytes = 4**program.n_qubits * VECTOR_BYTES + APART
        self.fields = {
            kernels.N_OPERATIONS: len(self.operations),
            kernels.FIRST_TURN: is_turn.index(True) if True in is_turn else len(is_turn),
            kernels.ONES: self._keep(ones),
            kernels.N_ONES: len(ones),
            kernels.ZEROS: self._keep(zeros),
            kernels.N_ZEROS: len(zeros),
            kernels.WORDS: self._keep(np.array(measured)),
            kernels.N_WORDS: len(words),
            kernels.LAST: self._keep(last),
            kernels.N_LAST: len(last),
            kernels.STATE_BYTES: self.state_bytes,
        }
        self.headers: dict = {}

    def address(self, dtype) -> int:
        """Where the header is, made for numbers of this precision."""
        if dtype not in self.headers:
            rows = []
            for fields in self.operations:
                lists = {key: self._list(value, dtype) for key, value in fields.items() if isinstance(value, _List)}
                rows.append([(fields | lists)[position] for position in range(kernels.N_FIELDS)])
            fields = self.fields | {kernels.OPERATIONS: self._keep(np.array(rows, np.int64))}
            self.headers[dtype] = self._keep(np.array([fields[position] for position in range(len(fields))]))
        return self.headers[dtype]

    def _list(self, found: "_List", dtype) -> int:
        factors = found.factors.astype(torch.empty(0, dtype=dtype).numpy().dtype)
        fields = {
            kernels.SEGMENTS: self._keep(found.segments),
            kernels.N_SEGMENTS: len(found.segments),
            kernels.ROWS: self._keep(found.rows),
            kernels.COLUMNS: self._keep(found.columns),
            kernels.FACTORS: self._keep(factors),
        }
        return self._keep(np.array([fields[position] for position in range(len(fields))]))

    def _keep(self, array: np.ndarray) -> int:
        """The address of an array that lives as long as this plan; of integers, 64 bits each."""
        array = np.ascontiguousarray(array if array.dtype.kind == "f" else array.astype(np.int64))
        return self.lists.setdefault((array.dtype.char, array.tobytes()), array).ctypes.data


@dataclass
class _Stages:
    """Between operations: words that may be other than 0, and those that take part; pairs that a turn turns."""

    reached: list[np.ndarray]
    active: list[np.ndarray]
    pairs: dict[int, np.ndarray]


def _stages(program: NoisyProgram, words: Sequence[int]) -> _Stages:
    n = program.n_qubits
    digits = np.arange(4**n)[:, None] >> 2 * np.arange(n) & 3
    reached = [np.isin(digits, (0, 3)).all(axis=1)]
    for operation in program.operations:
        reached.append(_touched(operation, reached[-1], n))
    wanted = [np.isin(np.arange(4**n), words)]
    for operation in reversed(program.operations):
        wanted.append(_touched(operation, wanted[-1], n, back=True))
    wanted.reverse()
    active = [can & counts for can, counts in zip(reached, wanted, strict=True)]
    # turns work in place: what one of a row of turns reads or writes takes part before, between and behind them
    pairs = {}
    start = 0
    for i, operation in enumerate([*program.operations, None]):
        if isinstance(operation, Turn):
            partner, sign = partners(n, operation.letters, operation.wires)
            before, after = reached[i], wanted[i + 1]
            both = (sign != 0) & (before | before[partner]) & (after | after[partner])
            first = np.flatnonzero(both & (sign < 0))  # u' = cos u - sin v
            pairs[i] = np.stack([first, partner[first]], axis=1)
            active[i] = active[i] | both
            continue
        together = np.any(active[start : i + 1], axis=0)
        active[start : i + 1] = [together] * (i + 1 - start)
        start = i + 1
    return _Stages(reached, active, pairs)


def _touched(operation: Turn | Map, words: np.ndarray, n_qubits: int, back: bool = False) -> np.ndarray:
    """The words that an operation makes of `words`, a boolean mask (4^n,); `back`: those it makes them of."""
    if isinstance(operation, Turn):
        partner, sign = partners(n_qubits, operation.letters, operation.wires)
        return words | words[partner] & (sign != 0)
    pattern = abs(operation.ptm) > NOTHING
    axes = [n_qubits - 1 - wire for wire in reversed(operation.wires)]  # wire 0 is the last digit
    ends = list(range(-len(axes), 0))
    moved = np.moveaxis(words.reshape([4] * n_qubits), axes, ends)
    found = (moved.reshape(-1, len(pattern)) @ (pattern if back else pattern.T)).reshape(moved.shape)
    return np.moveaxis(found, ends, axes).reshape(-1)


class _List:
    """A map, or its transpose, as rows that are sums of columns, those with fewer columns first."""

    def __init__(self, ptm: np.ndarray, wires: tuple[int, ...], rows: np.ndarray, columns: np.ndarray):
        number = np.flatnonzero(rows)
        digits = [number >> 2 * wire & 3 for wire in wires]
        local = sum(digit << 2 * i for i, digit in enumerate(digits))
        base = number - sum(digit << 2 * wire for digit, wire in zip(digits, wires, strict=True))
        reach = [sum((k >> 2 * i & 3) << 2 * wire for i, wire in enumerate(wires)) for k in range(len(ptm))]
        reads = base[:, None] + np.array(reach)  # (rows, 4 or 16)
        takes = (abs(ptm[local]) > NOTHING) & columns[reads]
        counts = takes.sum(axis=1)
        order = np.argsort(counts, kind="stable")
        self.rows = number[order]
        self.columns = reads[order][takes[order]]
        self.factors = ptm[local][order][takes[order]]
        self.segments = np.stack(np.unique(counts, return_counts=True), axis=1)
