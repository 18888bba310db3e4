"""From a PennyLane quantum function to a program: rotations about Pauli words, and the words that are measured.

PennyLane decomposes the function. Clifford gates (H, S, CNOT, CZ, SWAP, ...) are then carried to the end of the
circuit, where they only change which Pauli words are measured; every other gate becomes rotations exp(-i angle/2 P)
of a Pauli word P. One more bit of the index tells the real from the imaginary part of an amplitude, and none where
all amplitudes are real, as in the 2019 circuit. So one operation is left, for all pairs (u, v) of numbers whose
indices differ by given bits:

    u' = cos(angle/2) u + sin(angle/2) v,    v' = cos(angle/2) v - sin(angle/2) u
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial, reduce
from itertools import product

import numpy as np
import pennylane as qml
import torch
from torch import Tensor

CONSTANT, INPUT, WEIGHT = range(3)  # where an angle comes from
EXPECTED = "it must be constant, or 'factor * element + offset' with one element of inputs or weights"

# Gates that are rotations, up to a phase of the state: words P and the share of the gate's angle they turn by
ROTATIONS: dict[str, tuple[tuple[str, float], ...]] = {
    "RX": (("X", 1.0),),
    "RY": (("Y", 1.0),),
    "RZ": (("Z", 1.0),),
    "PhaseShift": (("Z", 1.0),),
    "CRX": (("IX", 0.5), ("ZX", -0.5)),
    "CRY": (("IY", 0.5), ("ZY", -0.5)),
    "CRZ": (("IZ", 0.5), ("ZZ", -0.5)),
    "ControlledPhaseShift": (("ZI", 0.5), ("IZ", 0.5), ("ZZ", -0.5)),
    "IsingXX": (("XX", 1.0),),
    "IsingYY": (("YY", 1.0),),
    "IsingZZ": (("ZZ", 1.0),),
}
IGNORED = ("Identity", "GlobalPhase", "Barrier", "WireCut")
MATRICES = {"I": np.eye(2), "X": np.eye(2)[::-1], "Y": np.array([[0, -1j], [1j, 0]]), "Z": np.diag([1.0, -1.0])}


class UnsupportedCircuitError(ValueError):
    """A circuit that this simulator cannot run; the message names the gate or measurement and the way out."""

    def __init__(self, reason: str, who: str = "statevector", instead: str = "default.qubit"):
        super().__init__(f"{who}: {reason}; or simulate the circuit with simulator='{instead}'")
        self.reason = reason


# ---- Pauli words and Clifford gates ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pauli:
    """i^power times X on the wires of `x`, after Z on the wires of `z`; bit w stands for wire w."""

    x: int = 0
    z: int = 0
    power: int = 0

    def __matmul__(self, other: "Pauli") -> "Pauli":
        swaps = (self.z & other.x).bit_count()  # Z X = -X Z
        return Pauli(self.x ^ other.x, self.z ^ other.z, (self.power + other.power + 2 * swaps) % 4)

    @property
    def ys(self) -> int:
        """How many letters Y = i X Z the word has."""
        return (self.x & self.z).bit_count()

    @property
    def sign(self) -> int:
        return 1 - (self.power - self.ys) % 4


def pauli_word(letters: Iterable[tuple[int, str]]) -> Pauli:
    """The word with the given letters, each with its wire."""
    parts = {"I": (0, 0, 0), "X": (1, 0, 0), "Y": (1, 1, 1), "Z": (0, 1, 0)}
    word = Pauli()
    for wire, letter in letters:
        x, z, power = parts[letter]
        word = word @ Pauli(x << wire, z << wire, power)
    return word


CliffordTable = tuple[tuple[str, int, str, int], ...]


@lru_cache(maxsize=256)
def clifford_table(matrix: bytes) -> CliffordTable | None:
    """What a gate U makes of X and Z on each of its wires, U^-1 P U, as (letter, position, letters, sign).

    matrix: the bytes of U, complex128, one or two qubits. None if U is no Clifford gate.
    """
    u = np.frombuffer(matrix, complex)
    n = (len(u).bit_length() - 1) // 2
    u = u.reshape(2**n, 2**n)
    words = {"".join(word): reduce(np.kron, [MATRICES[k] for k in word]) for word in product("IXYZ", repeat=n)}
    table = []
    for letter, position in product("XZ", range(n)):
        moved = u.conj().T @ words["I" * position + letter + "I" * (n - position - 1)] @ u
        shares = {word: np.trace(matrix @ moved).real / len(u) for word, matrix in words.items()}
        word = max(shares, key=lambda word: abs(shares[word]))
        if abs(abs(shares[word]) - 1) > 1e-12:
            return None
        table.append((letter, position, word, round(shares[word])))
    return tuple(table)


class Frame:
    """The Clifford gates C met so far, as what they make of the Pauli words behind them: C^-1 P C."""

    def __init__(self, n_qubits: int):
        self.images = {(k, w): pauli_word([(w, k)]) for k in "XZ" for w in range(n_qubits)}

    def image(self, word: Pauli) -> Pauli:
        found = Pauli(power=word.power)
        for letter, bits in (("X", word.x), ("Z", word.z)):
            for wire in range(bits.bit_length()):
                if bits >> wire & 1:
                    found = found @ self.images[letter, wire]
        return found

    def append(self, table: CliffordTable, wires: tuple[int, ...]) -> None:
        """Adds a gate that `clifford_table` describes."""
        new = {}
        for letter, position, letters, sign in table:
            word = pauli_word(zip(wires, letters, strict=True))
            new[letter, wires[position]] = self.image(Pauli(word.x, word.z, (word.power + 1 - sign) % 4))
        self.images |= new


# ---- tracing a quantum function --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Angle:
    """factor * element + offset, in radians; the element is one of the flattened inputs or weights."""

    source: int = CONSTANT
    index: int = 0
    factor: float = 0.0
    offset: float = 0.0

    def __mul__(self, share: float) -> "Angle":
        return Angle(self.source, self.index, share * self.factor, share * self.offset)

    def agrees(self, other: "Angle") -> bool:
        same = (self.source, self.index) == (other.source, other.index)
        return same and np.allclose((self.factor, self.offset), (other.factor, other.offset), rtol=1e-9, atol=1e-9)


@dataclass(frozen=True)
class Gate:
    """A rotation about the word `letters`, or a Clifford gate given by its `table`."""

    name: str
    wires: tuple[int, ...]
    letters: str = ""
    table: CliffordTable = ()

    def __str__(self):
        return f"{self.name} on wire{'s' if len(self.wires) > 1 else ''} {', '.join(map(str, self.wires))}"


def trace(circuit: Callable, inputs: Tensor, weights: Tensor) -> tuple[list[Gate], list[Angle], list[dict]]:
    """Gates, their angles, and every output as {((wire, letter), ...): factor}, as these values show them."""
    operations, outputs = queued(circuit, inputs, weights)
    gates = []
    angles = []
    for op in expand(operations):
        wires = tuple(op.wires)
        if (rotations := rotations_of(op)) is None:
            gates.append(Gate(op.name, wires, table=table_of(op)))
            angles.append(Angle())
            continue
        angle = find_angle(Gate(op.name, wires), op.data[0], inputs, weights)
        gates += [Gate(op.name, wires, letters) for letters, _ in rotations]
        angles += [angle * share for _, share in rotations]
    return gates, angles, outputs


def queued(circuit: Callable, inputs: Tensor, weights: Tensor) -> tuple[list, list[dict]]:
    """The operations of a quantum function as it names them, and its outputs; both tensors then ask for gradients."""
    inputs.requires_grad_()
    weights.requires_grad_()
    with qml.queuing.AnnotatedQueue() as queue:
        returned = circuit(inputs, weights)
    outputs = returned if isinstance(returned, list | tuple) else [returned]
    operations = qml.tape.QuantumScript.from_queue(queue).operations
    return operations, [pauli_sentence(measurement) for measurement in outputs]


def expand(operations) -> Iterator:
    for op in operations:
        if op.name in IGNORED:
            continue
        if rotations_of(op) is not None or table_of(op) is not None:
            yield op
        elif getattr(op, "has_decomposition", False):
            yield from expand(op.decomposition())
        else:
            raise UnsupportedCircuitError(f"{Gate(op.name, tuple(op.wires))} is not among the gates it can run")


def rotations_of(op) -> tuple[tuple[str, float], ...] | None:
    """The rotations that a gate is, as words and shares of its angle; None where it is none."""
    if op.name == "MultiRZ":
        return (("Z" * len(op.wires), 1.0),)
    if op.name == "PauliRot":
        return ((op.hyperparameters["pauli_word"], 1.0),)
    return ROTATIONS.get(op.name)


def table_of(op) -> CliffordTable | None:
    """What `clifford_table` makes of a gate; None where it is no constant Clifford gate of one or two qubits."""
    constant = not any(qml.math.requires_grad(value) for value in op.data)
    if not constant or len(op.wires) > 2 or not getattr(op, "has_matrix", False):
        return None
    return clifford_table(np.ascontiguousarray(qml.math.toarray(op.matrix()), complex).tobytes())


def find_angle(gate: Gate, value, inputs: Tensor, weights: Tensor) -> Angle:
    if qml.math.size(value) != 1:
        raise UnsupportedCircuitError(
            f"{gate} is given {qml.math.size(value)} angles at once: index inputs[..., i] and weights[..., k, i]"
        )
    if not qml.math.requires_grad(value):
        return Angle(offset=float(value))
    grads = torch.autograd.grad(value.sum(), [inputs, weights], retain_graph=True, allow_unused=True)
    value = value.item()
    found = []
    for source, p, grad in zip((INPUT, WEIGHT), (inputs, weights), grads, strict=True):
        if grad is not None:
            factors = grad.flatten().tolist()
            values = p.detach().flatten().tolist()
            found += [(source, i, f, values[i]) for i, f in enumerate(factors) if f]
    if len(found) > 1:
        raise UnsupportedCircuitError(f"the angle of {gate} is an expression of {len(found)} elements: {EXPECTED}")
    if not found:
        return Angle(offset=value)
    source, index, factor, element = found[0]
    return Angle(source, index, factor, value - factor * element)


def pauli_sentence(measurement) -> dict:
    """An output as {((wire, letter), ...): factor}."""
    sentence = None
    if isinstance(measurement, qml.measurements.ExpectationMP) and measurement.obs is not None:
        sentence = measurement.obs.pauli_rep
    if sentence is None:
        shown = getattr(measurement, "name", None) or type(measurement).__name__
        if isinstance(measurement, qml.measurements.MeasurementProcess):
            shown = repr(measurement)
        raise UnsupportedCircuitError(f"it returns expectation values of Pauli words, and this circuit returns {shown}")
    if any(qml.math.requires_grad(factor) for factor in sentence.values()):
        raise UnsupportedCircuitError(f"the observable {measurement.obs} depends on inputs or weights")
    return {tuple(sorted(word.items())): float(np.real(factor)) for word, factor in sentence.items()}


# ---- programs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rotation:
    """u' = c u + s v and v' = c v - s u for the pairs of numbers that differ by the index bits `x`.

    c and s are cosine and sine of half the angle; s is negated where an odd number of the bits `z` is set in the
    index of u.
    """

    x: int
    z: int
    angle: Angle


@dataclass(frozen=True)
class Word:
    """A measured value: sign * sum over i of (-1)^parity(i & z) S[i] S[i ^ x]."""

    x: int
    z: int
    sign: int


@dataclass(frozen=True)
class Program:
    """A circuit as the executors run it, on states S of 2^n_bits real numbers."""

    n_inputs: int
    weight_shape: tuple[int, ...]
    n_bits: int
    uniform: int  # index bits that start in an equal superposition; the others start at 0
    rotations: tuple[Rotation, ...]
    words: tuple[Word, ...]
    readout: tuple[tuple[float, ...], ...] | None  # outputs as sums of words; None where output k is word k

    @property
    def n_weights(self) -> int:
        return math.prod(self.weight_shape)

    @cached_property
    def made(self) -> dict:
        """What executors have made of the program, so that they make it once."""
        return {}

    def factors(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A (n_inputs, G), B (n_weights, G) and c (G,), so that G angles are inputs @ A + weights @ B + c."""
        key = like.device, like.dtype
        if key not in self.made:
            angles = [rotation.angle for rotation in self.rotations]
            self.made[key] = factors_of(angles, self.n_inputs, self.n_weights, like)
        return self.made[key]

    def __getstate__(self):  # the addresses in a schedule mean nothing to a copy or in another process
        return {key: value for key, value in self.__dict__.items() if key != "made"}


def factors_of(angles: Sequence[Angle], n_inputs: int, n_weights: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A (n_inputs, G), B (n_weights, G) and c (G,), so that the G `angles` are inputs @ A + weights @ B + c."""
    of = {INPUT: np.zeros((n_inputs, len(angles))), WEIGHT: np.zeros((n_weights, len(angles)))}
    for g, angle in enumerate(angles):
        if angle.source != CONSTANT:
            of[angle.source][angle.index, g] = angle.factor
    arrays = of[INPUT], of[WEIGHT], np.array([angle.offset for angle in angles])
    return tuple(torch.as_tensor(array).to(like.device, like.dtype) for array in arrays)


@dataclass(frozen=True)
class Reading:
    """A circuit as rotations exp(-i angle/2 P), first to last, and the Pauli words that are measured behind them.

    `uniform`: qubits that start in |+>, as bits; the others start in |0>. `outputs` (K, W): each as a sum of the words.
    """

    n_qubits: int
    n_inputs: int
    weight_shape: tuple[int, ...]
    uniform: int
    turns: tuple[tuple[Pauli, Angle], ...]
    words: tuple[Pauli, ...]
    outputs: tuple[tuple[float, ...], ...]


def compile_circuit(
    circuit: Callable, n_qubits: int, weight_shape: Iterable[int], n_inputs: int | None = None
) -> Program:
    """The program of a quantum function (or QNode) `circuit(inputs, weights)` on the wires 0 ... n_qubits-1.

    `inputs` (n_inputs,), as many as qubits by default, and `weights` of `weight_shape` are in radians. Raises
    UnsupportedCircuitError as `read_circuit` does.
    """
    return assemble(read_circuit(circuit, n_qubits, weight_shape, n_inputs))


def read_circuit(circuit: Callable, n_qubits: int, weight_shape: Iterable[int], n_inputs: int | None = None) -> Reading:
    """What a quantum function (or QNode) `circuit(inputs, weights)` on the wires 0 ... n_qubits-1 turns and measures.

    Every angle of the circuit must be constant or `factor * element + offset`, and every output the expectation value
    of a Pauli word or of a real sum of them. The function is traced with three sets of values, so that an angle that
    only looks constant is found out. Raises UnsupportedCircuitError.
    """
    circuit = circuit.func if isinstance(circuit, qml.QNode) else circuit
    weight_shape = tuple(weight_shape)
    n_inputs = n_qubits if n_inputs is None else n_inputs
    gates, angles, outputs = agreed(partial(trace, circuit), n_qubits, weight_shape, n_inputs)
    return carry_cliffords(gates, angles, outputs, n_qubits, n_inputs, weight_shape)


def carry_cliffords(
    gates: Sequence[Gate],
    angles: Sequence[Angle],
    outputs: Sequence[dict],
    n_qubits: int,
    n_inputs: int,
    weight_shape: tuple[int, ...],
) -> Reading:
    """What is left of `gates` and `outputs`, as `trace` gives them, once Clifford gates stand behind all rotations."""
    frame = Frame(n_qubits)
    uniform = 0
    touched = set()
    turns = []
    for gate, angle in zip(gates, angles, strict=True):
        if gate.letters:
            turns.append((frame.image(pauli_word(zip(gate.wires, gate.letters, strict=True))), angle))
        elif gate.name == "Hadamard" and gate.wires[0] not in touched:
            uniform |= 1 << gate.wires[0]
        else:
            frame.append(gate.table, gate.wires)
        touched.update(gate.wires)
    letters = list(dict.fromkeys(word for out in outputs for word in out))
    measured = tuple(frame.image(pauli_word(word)) for word in letters)
    readout = tuple(tuple(out.get(word, 0.0) for word in letters) for out in outputs)
    return Reading(n_qubits, n_inputs, weight_shape, uniform, tuple(turns), measured, readout)


@torch.enable_grad()  # how angles depend on inputs and weights is read from torch's graph
def agreed(
    read: Callable, n_qubits: int, weight_shape: tuple[int, ...], n_inputs: int
) -> tuple[list[Gate], list[Angle], list[dict]]:
    """Gates, angles and outputs that `read(inputs, weights)` finds in a circuit, the same with three sets of values.

    Raises UnsupportedCircuitError where they differ, ValueError where a wire is not among n_qubits.
    """
    generator = torch.Generator().manual_seed(0)
    values = [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in ((n_inputs,), weight_shape)]
    first, *others = [read(*(scale * (v + 0.1) for v in values)) for scale in (1.0, -2.5, 40.0)]
    gates, angles, outputs = first
    for other_gates, other_angles, other_outputs in others:
        if gates != other_gates or outputs != other_outputs:
            raise UnsupportedCircuitError(
                "the circuit's gates or measurements depend on the values of inputs or weights"
            )
        for gate, angle, other in zip(gates, angles, other_angles, strict=True):
            if not angle.agrees(other):
                raise UnsupportedCircuitError(f"the angle of {gate} is an expression of inputs or weights: {EXPECTED}")
    used = {wire for gate in gates for wire in gate.wires} | {w for out in outputs for word in out for w, _ in word}
    if stray := used - set(range(n_qubits)):
        raise ValueError(f"the circuit uses wire {stray.pop()!r}; n_qubits={n_qubits} makes them 0 to {n_qubits - 1}")
    return first


def assemble(read: Reading) -> Program:
    """The program of what `read_circuit` found: rotations and words of index bits instead of qubits."""
    real = all(p.ys % 2 for p, _ in read.turns) and not any(p.ys % 2 for p in read.words)
    imaginary = 0 if real else 1 << read.n_qubits  # the index bit of imaginary parts
    return Program(
        read.n_inputs,
        read.weight_shape,
        read.n_qubits + (not real),
        read.uniform,
        tuple(_rotation(p, angle, imaginary) for p, angle in read.turns),
        tuple(_word(p, imaginary) for p in read.words),
        None if np.array_equal(read.outputs, np.eye(len(read.words))) else read.outputs,
    )


def _rotation(p: Pauli, angle: Angle, imaginary: int) -> Rotation:
    # -i P has the entries sign (-i)^(ys + 1) (-1)^parity(i & z) at (i, i ^ x)
    if p.ys % 2:
        return Rotation(p.x, p.z, angle * (-p.sign if p.ys % 4 == 1 else p.sign))
    # and -i moves real to imaginary parts: -i (a + i b) = b - i a
    return Rotation(p.x | imaginary, p.z | imaginary, angle * (p.sign if p.ys % 4 == 0 else -p.sign))


def _word(p: Pauli, imaginary: int) -> Word:
    # P has the entries sign (-i)^ys (-1)^parity(i & z) at (i, i ^ x)
    sign = p.sign if p.ys % 4 < 2 else -p.sign
    return Word(p.x | imaginary, p.z | imaginary, sign) if p.ys % 2 else Word(p.x, p.z, sign)
