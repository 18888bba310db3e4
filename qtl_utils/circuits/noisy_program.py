"""Circuits with noise as the density-matrix simulator runs them: turns by angles, and fixed maps in between.

A density matrix of n qubits is written in the Pauli basis, rho = 2^-n sum_k r_k P_k: 4^n real numbers, r_k = <P_k>,
of which the first, that of the identity, is 1. The letter of wire w is base-4 digit w of k: 0 I, 1 X, 2 Y, 3 Z, wire 0
the lowest digit. Every gate and every channel is a real matrix on r, its Pauli transfer matrix (PTM; Greenbaum,
arXiv:1509.02921), so that noise costs no more than gates do.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

import numpy as np
import pennylane as qml
import torch
from pennylane import templates
from scipy.linalg import expm

from qtl_utils.circuits.channels import LETTERS, NoiseModel, pauli_matrices, ptm_of
from qtl_utils.circuits.program import (
    CONSTANT,
    Angle,
    Gate,
    UnsupportedCircuitError,
    agreed,
    factors_of,
    find_angle,
    queued,
    rotations_of,
)

MOST_QUBITS = 8  # 4^8 numbers a sample
NO_GATES = ("Barrier", "WireCut", "GlobalPhase")
H = np.array([[1, 1], [1, -1]]) / math.sqrt(2)
TO_Z = {"X": H, "Y": H @ np.diag([1, -1j])}  # gates that make a letter Z, before it is measured


@dataclass(frozen=True)
class Turn:
    """exp(-i angle/2 P) of the Pauli word that has `letters` on `wires`; its angle depends on inputs or weights."""

    letters: str
    wires: tuple[int, ...]
    angle: Angle


@dataclass(frozen=True, eq=False)
class Map:
    """A fixed gate or channel: r -> ptm @ r on one or two wires.

    ptm: (4, 4), or (16, 16) with the letter of wires[0] as the lower digit of an index.
    """

    ptm: np.ndarray
    wires: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class NoisyProgram:
    """A circuit with its noise, from |0...0> to outputs that are weighted sums of Pauli expectation values.

    Outputs are `readout @ r[words] + offsets`: readout (n_outputs, n_words), offsets (n_outputs,). Readout errors are
    part of these: they shrink an expectation value and shift it. `measurement` is what shots are drawn from; None where
    no single measurement gives all outputs.
    """

    n_inputs: int
    weight_shape: tuple[int, ...]
    n_qubits: int
    operations: tuple[Turn | Map, ...]
    words: tuple[int, ...]
    readout: np.ndarray
    offsets: np.ndarray
    measurement: "Measurement | None" = None

    @property
    def n_weights(self) -> int:
        return math.prod(self.weight_shape)

    @cached_property
    def turns(self) -> tuple[Turn, ...]:
        return tuple(operation for operation in self.operations if isinstance(operation, Turn))

    @cached_property
    def made(self) -> dict:
        """What executors have made of the program, so that they make it once."""
        return {}

    def factors(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A (n_inputs, G), B (n_weights, G) and c (G,), so that the turns' angles are inputs @ A + weights @ B + c."""
        key = like.device, like.dtype
        if key not in self.made:
            angles = [turn.angle for turn in self.turns]
            self.made[key] = factors_of(angles, self.n_inputs, self.n_weights, like)
        return self.made[key]

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "made"}


@dataclass(frozen=True, eq=False)
class Measurement:
    """All wires of `wires` measured at once in the computational basis.

    confusion: one (2, 2) matrix a wire, column by the true bit and row by the bit that is read; columns sum to 1.
    values (n_outputs, 2^len(wires)): the value of every output for a bit string read, bit i of the index from wires[i].
    """

    wires: tuple[int, ...]
    confusion: tuple[np.ndarray, ...]
    values: np.ndarray


# ---- reading a quantum function --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part(Gate):
    """What a gate or a channel is made of: a turn about `letters`, or the map whose PTM has these bytes."""

    ptm: bytes = b""


def compile_noisy(
    circuit: Callable,
    n_qubits: int,
    weight_shape: Iterable[int],
    noise: NoiseModel | None = None,
    n_inputs: int | None = None,
) -> NoisyProgram:
    """The program of a quantum function (or QNode) `circuit(inputs, weights)` on wires 0 ... n_qubits-1, with noise.

    As in `compile_circuit`; channels in the function, qml.AmplitudeDamping for example, take part. The rules of
    `noise` match gates by the names they have in the function, templates and adjoints decomposed, as
    qml.noise.insert does; what a state is prepared with has no noise. Raises UnsupportedCircuitError, and ValueError
    beyond 8 qubits or where a rule does not fit a gate.
    """
    circuit = circuit.func if isinstance(circuit, qml.QNode) else circuit
    weight_shape = tuple(weight_shape)
    n_inputs = n_qubits if n_inputs is None else n_inputs
    noise = noise or NoiseModel()
    if n_qubits > MOST_QUBITS:
        raise ValueError(f"density simulates up to {MOST_QUBITS} qubits, 4^n numbers a sample, not {n_qubits}")
    try:
        parts, angles, outputs = agreed(partial(_trace, circuit, noise), n_qubits, weight_shape, n_inputs)
    except UnsupportedCircuitError as error:
        raise UnsupportedCircuitError(error.reason, "density", "default.mixed") from None
    operations = [_operation(part, angle) for part, angle in zip(parts, angles, strict=True)]
    return measured(n_inputs, weight_shape, n_qubits, operations, outputs, noise.confusion)


def _trace(circuit, noise: NoiseModel, inputs, weights) -> tuple[list[Part], list[Angle], list[dict]]:
    operations, outputs = queued(circuit, inputs, weights)
    found = []
    for op in gates_of(operations):
        found += _parts(op, inputs, weights)
        if isinstance(op, qml.operation.Channel | qml.operation.StatePrepBase):
            continue
        for channel, wires in noise.channels(op.name, tuple(op.wires)):
            found.append((Part(channel.name, wires, ptm=channel.ptm.tobytes()), Angle()))
    return [part for part, _ in found], [angle for _, angle in found], outputs


def gates_of(operations: Iterable) -> Iterator:
    """The gates that noise comes after: templates and adjoints decomposed, all others as the function names them."""
    for op in operations:
        if op.name in NO_GATES:
            continue
        composed = hasattr(templates, op.name) or isinstance(op, qml.ops.Adjoint)
        if composed and op.has_decomposition:
            yield from gates_of(op.decomposition())
        else:
            yield op


def _parts(op, inputs, weights) -> Iterator[tuple[Part, Angle]]:
    wires = tuple(op.wires)
    constant = not any(qml.math.requires_grad(value) for value in op.data)
    if isinstance(op, qml.operation.Channel):
        if not constant or len(wires) > 2:
            raise UnsupportedCircuitError(f"{Gate(op.name, wires)} needs constant numbers, and one or two wires")
        matrices = [qml.math.toarray(matrix) for matrix in op.kraus_matrices()]
        yield Part(op.name, wires, ptm=ptm_of(matrices).tobytes()), Angle()
    elif constant and len(wires) <= 2 and op.has_matrix and np.ndim(matrix := qml.math.toarray(op.matrix())) == 2:
        yield Part(op.name, wires, ptm=ptm_of([matrix]).tobytes()), Angle()
    elif (rotations := rotations_of(op)) is not None:
        angle = find_angle(Gate(op.name, wires), op.data[0], inputs, weights)
        rotations = [rotation for rotation in rotations if set(rotation[0]) != {"I"}]  # others are phases
        yield from ((Part(op.name, wires, letters), angle * share) for letters, share in rotations)
    elif op.has_decomposition:
        for part in op.decomposition():
            if part.name not in NO_GATES:
                yield from _parts(part, inputs, weights)
    else:
        raise UnsupportedCircuitError(f"{Gate(op.name, wires)} is not among the gates it can run")


def _operation(part: Part, angle: Angle) -> Turn | Map:
    if not part.letters:
        size = 4 ** len(part.wires)
        return Map(np.frombuffer(part.ptm).reshape(size, size), part.wires)
    letters, wires = zip(*((k, w) for k, w in zip(part.letters, part.wires, strict=True) if k != "I"), strict=True)
    if angle.source == CONSTANT and len(wires) <= 2:
        return Map(rotation_ptm("".join(letters), angle.offset), wires)
    return Turn("".join(letters), wires, angle)


def rotation_ptm(letters: str, angle: float) -> np.ndarray:
    """The PTM of exp(-i angle/2 P), P the word of one or two letters."""
    word = sum(4**i * LETTERS.index(letter) for i, letter in enumerate(letters))
    return ptm_of([expm(-0.5j * angle * pauli_matrices(len(letters))[word])])


# ---- what is measured, and how bits are misread ----------------------------------------------------------------------


def measured(
    n_inputs: int,
    weight_shape: tuple[int, ...],
    n_qubits: int,
    operations: Sequence[Turn | Map],
    outputs: Sequence[dict[tuple[tuple[int, str], ...], float]],
    confusion: Callable[[int], np.ndarray] = lambda wire: np.eye(2),
) -> NoisyProgram:
    """The program of `operations`, fused; every output is a sum of Pauli words, {((wire, letter), ...): factor}.

    confusion(wire): (2, 2), column by the true bit and row by the bit that is read. Where every wire is measured in
    one basis only, gates without noise turn it to Z, and the program has a `measurement`.
    """
    operations = [*operations]
    bases = bases_of(outputs)
    if bases is not None:
        operations += [Map(ptm_of([TO_Z[letter]]), (wire,)) for wire, letter in bases.items() if letter in TO_Z]
        outputs = [{tuple((w, "Z") for w, _ in word): f for word, f in out.items()} for out in outputs]
    shares = [_misread(out, confusion) for out in outputs]
    words = sorted({word for share in shares for word in share} - {0})
    return NoisyProgram(
        n_inputs,
        tuple(weight_shape),
        n_qubits,
        fused(operations),
        tuple(words),
        np.array([[share.get(word, 0.0) for word in words] for share in shares]).reshape(len(outputs), len(words)),
        np.array([share.get(0, 0.0) for share in shares]),
        None if bases is None else _measurement(sorted(bases), outputs, confusion),
    )


def bases_of(outputs: Sequence[dict]) -> dict[int, str] | None:
    """The letter that each wire is measured by; None where one is measured by several."""
    found: dict[int, str] = {}
    for wire, letter in (pair for out in outputs for word in out for pair in word):
        if found.setdefault(wire, letter) != letter:
            return None
    return found


def _misread(output: dict, confusion: Callable[[int], np.ndarray]) -> dict[int, float]:
    """An output as a weighted sum of words, given by their numbers, with the readout errors of its wires.

    Where bits are misread, a letter is measured as a P + b: -1 for the bit 1, averaged over what is read.
    """
    found: dict[int, float] = {}
    for word, factor in output.items():
        terms = {0: factor}
        for wire, letter in word:
            zero, one = confusion(wire)[0] - confusion(wire)[1]  # what is read on average of the bits 0 and 1
            digit = LETTERS.index(letter) * 4**wire
            kept = {number + digit: (zero - one) / 2 * value for number, value in terms.items()}
            terms = kept | {number: (zero + one) / 2 * value for number, value in terms.items() if zero + one}
        for number, value in terms.items():
            found[number] = found.get(number, 0.0) + value
    return found


def _measurement(wires: Sequence[int], outputs: Sequence[dict], confusion: Callable[[int], np.ndarray]) -> Measurement:
    bits = np.arange(2 ** len(wires))
    signs = {wire: 1.0 - 2.0 * (bits >> i & 1) for i, wire in enumerate(wires)}
    values = np.zeros((len(outputs), len(bits)))
    for out, row in zip(outputs, values, strict=True):
        for word, factor in out.items():
            row += factor * math.prod((signs[wire] for wire, _ in word), start=np.ones(len(bits)))
    return Measurement(tuple(wires), tuple(confusion(wire) for wire in wires), values)


# ---- fewer operations ------------------------------------------------------------------------------------------------


def fused(operations: Iterable[Turn | Map]) -> tuple[Turn | Map, ...]:
    """The same circuit with fewer maps: neighbours on the same wires, or one within the other, are one.

    Maps on different wires commute, so that an earlier map may move to a later one if nothing between touches its
    wires, and the other way round.
    """
    found: list[Turn | Map | None] = []
    last: dict[int, int] = {}  # by wire: the place of the last operation on it
    for operation in operations:
        if isinstance(operation, Map):
            operation = _absorbed(operation, found, last)
        if operation is not None:
            last |= dict.fromkeys(operation.wires, len(found))
            found.append(operation)
    kept = (operation for operation in found if operation is not None)
    return tuple(op for op in kept if isinstance(op, Turn) or not np.array_equal(op.ptm, np.eye(len(op.ptm))))


def _absorbed(step: Map, found: list, last: dict[int, int]) -> Map | None:
    """`step` with the maps before it that it can take up; None where one before it has taken it up."""
    places = {last.get(wire) for wire in step.wires}
    if len(places) == 1 and isinstance(before := _at(found, *places), Map) and len(before.wires) >= len(step.wires):
        found[places.pop()] = _product(before, step)
        return None
    for place in places:
        before = _at(found, place)
        if isinstance(before, Map) and len(before.wires) == 1:
            step = _product(before, step)
            found[place] = None
    return step


def _at(found: list, place: int | None):
    return None if place is None else found[place]


def _product(first: Map, then: Map) -> Map:
    """Both maps as one; the wires of one hold those of the other."""
    wires = max(first.wires, then.wires, key=len)
    return Map(_on(then, wires) @ _on(first, wires), wires)


def _on(step: Map, wires: tuple[int, ...]) -> np.ndarray:
    """The PTM of `step` as one on `wires`, which hold its own: the letter of wires[0] is the lower digit."""
    if step.wires == wires:
        return step.ptm
    if len(step.wires) == 2:
        return step.ptm.reshape(4, 4, 4, 4).transpose(1, 0, 3, 2).reshape(16, 16)
    return np.kron(np.eye(4), step.ptm) if step.wires[0] == wires[0] else np.kron(step.ptm, np.eye(4))


# ---- Pauli words by number -------------------------------------------------------------------------------------------


def word_bits(n_qubits: int) -> tuple[np.ndarray, np.ndarray]:
    """The bits x and z of every word, (4^n,) each: see `program.Pauli`."""
    number = np.arange(4**n_qubits)
    x = np.zeros_like(number)
    z = np.zeros_like(number)
    for wire in range(n_qubits):
        digit = number >> 2 * wire & 3
        z |= (digit >> 1) << wire
        x |= ((digit ^ digit >> 1) & 1) << wire
    return x, z


@lru_cache(maxsize=1024)
def partners(n_qubits: int, letters: str, wires: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Which number a turn about P mixes with each r_k, and its sign, (4^n,) each; 0 where k commutes with P.

    exp(-i a/2 P) Q exp(i a/2 P) = cos(a) Q + sin(a) (-i P Q) for a word Q that anticommutes with P. -i P Q is a word
    Q' up to a sign, and -i P Q' is -Q up to the same: r_k becomes cos(a) r_k + sin(a) sign_k r_partner(k).
    """
    x, z = word_bits(n_qubits)
    px, pz = (sum(1 << w for w, k in zip(wires, letters, strict=True) if k in kinds) for kinds in ("XY", "YZ"))
    odd = (np.bitwise_count(x & pz) + np.bitwise_count(z & px)) % 2
    new_x, new_z = x ^ px, z ^ pz
    number = np.zeros_like(x)
    for wire in range(n_qubits):
        a, b = new_x >> wire & 1, new_z >> wire & 1
        number |= (2 * b + (a ^ b)) << 2 * wire
    # powers of i in front of X Z: a word has one a Y; moving Z past X gives -1; -i is i^3
    power = (px & pz).bit_count() + np.bitwise_count(x & z).astype(int) + 2 * np.bitwise_count(pz & x) + 3
    sign = 1 - (power - np.bitwise_count(new_x & new_z)) % 4
    return number, np.where(odd, -sign, 0)  # what comes to k from its partner has the sign of the way back
