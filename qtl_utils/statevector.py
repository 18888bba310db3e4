"""A batched statevector simulator: reads a PennyLane quantum function once, then runs it over samples and replicas.

PennyLane decomposes the function. Clifford gates (H, S, CNOT, CZ, SWAP, ...) are then carried to the end of the
circuit, where they only change which Pauli words are measured; every other gate becomes rotations exp(-i angle/2 P)
of a Pauli word P. One more bit of the index tells the real from the imaginary part of an amplitude, and none where
all amplitudes are real, as in the 2019 circuit. So one operation is left, for all pairs (u, v) of numbers whose
indices differ by given bits:

    u' = cos(angle/2) u + sin(angle/2) v,    v' = cos(angle/2) v - sin(angle/2) u

Two executors run it with the same numbers: 'numba' on the CPU (see `statevector_cpu`), 'torch' on any device and as
the reference. Gradients are those of the adjoint method (arXiv:2009.02823): the circuit is undone gate by gate, so that
memory does not grow with its depth.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from itertools import product

import numpy as np
import pennylane as qml
import psutil
import torch
from torch import Tensor

EXECUTORS = ("auto", "numba", "torch")
CONSTANT, INPUT, WEIGHT = range(3)  # where an angle comes from
EXPECTED = "it must be constant, or 'factor * element + offset' with one element of inputs or weights"
NOT_FINITE = "inputs or weights hold NaN or infinite angles; look for the step that made them, often a too large rate"
CACHED_BITS = 12  # the torch executor keeps the index tables of states up to this size

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

    def __init__(self, reason: str):
        super().__init__(f"statevector: {reason}; or simulate the circuit with backend='default.qubit'")


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
    inputs, weights = inputs.requires_grad_(), weights.requires_grad_()
    with qml.queuing.AnnotatedQueue() as queue:
        returned = circuit(inputs, weights)
    gates, angles = [], []
    for op in _expand(qml.tape.QuantumScript.from_queue(queue).operations):
        wires = tuple(op.wires)
        if (rotations := _rotations(op)) is None:
            gates.append(Gate(op.name, wires, table=_table(op)))
            angles.append(Angle())
            continue
        angle = _angle(Gate(op.name, wires), op.data[0], inputs, weights)
        gates += [Gate(op.name, wires, letters) for letters, _ in rotations]
        angles += [angle * share for _, share in rotations]
    outputs = returned if isinstance(returned, list | tuple) else [returned]
    return gates, angles, [_output(measurement) for measurement in outputs]


def _expand(operations) -> Iterator:
    for op in operations:
        if op.name in IGNORED:
            continue
        if _rotations(op) is not None or _table(op) is not None:
            yield op
        elif getattr(op, "has_decomposition", False):
            yield from _expand(op.decomposition())
        else:
            raise UnsupportedCircuitError(f"{Gate(op.name, tuple(op.wires))} is not among the gates it can run")


def _rotations(op) -> tuple[tuple[str, float], ...] | None:
    if op.name == "MultiRZ":
        return (("Z" * len(op.wires), 1.0),)
    if op.name == "PauliRot":
        return ((op.hyperparameters["pauli_word"], 1.0),)
    return ROTATIONS.get(op.name)


def _table(op) -> CliffordTable | None:
    constant = not any(qml.math.requires_grad(value) for value in op.data)
    if not constant or len(op.wires) > 2 or not getattr(op, "has_matrix", False):
        return None
    return clifford_table(np.ascontiguousarray(qml.math.toarray(op.matrix()), complex).tobytes())


def _angle(gate: Gate, value, inputs: Tensor, weights: Tensor) -> Angle:
    if qml.math.size(value) != 1:
        raise UnsupportedCircuitError(
            f"{gate} is given {qml.math.size(value)} angles at once: index inputs[..., i] and weights[..., k, i]"
        )
    if not qml.math.requires_grad(value):
        return Angle(offset=float(value))
    grads = torch.autograd.grad(value.sum(), [inputs, weights], retain_graph=True, allow_unused=True)
    value, found = value.item(), []
    for source, p, grad in zip((INPUT, WEIGHT), (inputs, weights), grads, strict=True):
        if grad is not None:
            factors, values = grad.flatten().tolist(), p.detach().flatten().tolist()
            found += [(source, i, f, values[i]) for i, f in enumerate(factors) if f]
    if len(found) > 1:
        raise UnsupportedCircuitError(f"the angle of {gate} is an expression of {len(found)} elements: {EXPECTED}")
    if not found:
        return Angle(offset=value)
    source, index, factor, element = found[0]
    return Angle(source, index, factor, value - factor * element)


def _output(measurement) -> dict:
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
    def schedule(self):
        """The program as the CPU kernels read it."""
        from qtl_utils.statevector_cpu import Schedule

        return Schedule(self)


def compile_circuit(
    circuit: Callable, n_qubits: int, weight_shape: Iterable[int], n_inputs: int | None = None
) -> Program:
    """The program of a quantum function (or QNode) `circuit(inputs, weights)` on the wires 0 ... n_qubits-1.

    `inputs` (n_inputs,), as many as qubits by default, and `weights` of `weight_shape` are in radians. Every angle
    of the circuit must be constant or `factor * element + offset`, and every output the expectation value of a Pauli
    word or of a real sum of them. The function is traced with three sets of values, so that an angle that only looks
    constant is found out. Raises UnsupportedCircuitError.
    """
    circuit, weight_shape = getattr(circuit, "func", circuit), tuple(weight_shape)
    n_inputs = n_qubits if n_inputs is None else n_inputs
    generator = torch.Generator().manual_seed(0)
    values = [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in ((n_inputs,), weight_shape)]
    first, *others = [trace(circuit, *(scale * (v + 0.1) for v in values)) for scale in (1.0, -2.5, 40.0)]
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
    return _assemble(gates, angles, outputs, n_qubits, n_inputs, weight_shape)


def _assemble(gates, angles, outputs, n_qubits, n_inputs, weight_shape) -> Program:
    frame, uniform, touched, turns = Frame(n_qubits), 0, set(), []
    for gate, angle in zip(gates, angles, strict=True):
        if gate.letters:
            turns.append((frame.image(pauli_word(zip(gate.wires, gate.letters, strict=True))), angle))
        elif gate.name == "Hadamard" and gate.wires[0] not in touched:
            uniform |= 1 << gate.wires[0]
        else:
            frame.append(gate.table, gate.wires)
        touched.update(gate.wires)
    letters = list(dict.fromkeys(word for out in outputs for word in out))
    measured = [frame.image(pauli_word(word)) for word in letters]
    real = all(p.ys % 2 for p, _ in turns) and not any(p.ys % 2 for p in measured)
    imaginary = 0 if real else 1 << n_qubits  # the index bit of imaginary parts
    readout = tuple(tuple(out.get(word, 0.0) for word in letters) for out in outputs)
    return Program(
        n_inputs,
        weight_shape,
        n_qubits + (not real),
        uniform,
        tuple(_rotation(p, angle, imaginary) for p, angle in turns),
        tuple(_word(p, imaginary) for p in measured),
        None if np.array_equal(readout, np.eye(len(letters))) else readout,
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


# ---- running one -----------------------------------------------------------------------------------------------------


class Statevector:
    """A quantum function made to run over batches: `Statevector(f, n_qubits, weight_shape)(inputs, weights)`.

    See `compile_circuit` for what `circuit` may be and `simulate` for shapes and gradients. Can be pickled.
    """

    def __init__(
        self,
        circuit: Callable,
        n_qubits: int,
        weight_shape: Iterable[int],
        n_inputs: int | None = None,
        executor: str = "auto",
    ):
        self.program, self.executor = compile_circuit(circuit, n_qubits, weight_shape, n_inputs), executor

    def __call__(self, inputs: Tensor, weights: Tensor) -> Tensor:
        return simulate(self.program, inputs, weights, self.executor)


def simulate(
    program: Program,
    inputs: Tensor,
    weights: Tensor,
    executor: str = "auto",
    diff_method: str = "adjoint",
) -> Tensor:
    """Expectation values (..., B, n_outputs) of inputs (..., B, n_inputs) and weights (..., *weight_shape), in radians.

    Leading dimensions are replicas, each with its own weights; weights without them serve all. float32 or float64.
    diff_method: 'adjoint', or 'backprop' through the torch executor, which has derivatives of any order.
    Raises ValueError where sizes do not fit, dtypes or devices differ, an angle is NaN or infinite, or memory does not
    suffice. Inside `torch.func.vmap` a NaN is let through: it stays in its own replica.
    """
    executor = choose_executor(executor, inputs.device.type, diff_method)
    inputs, weights = _aligned(program, inputs, weights)
    words = _words(program, inputs[None] if inputs.dim() == 1 else inputs, weights, executor, diff_method)
    if program.readout is not None:
        words = words @ torch.tensor(program.readout, dtype=words.dtype, device=words.device).T
    return words[0] if inputs.dim() == 1 else words


def choose_executor(executor: str, device: str, diff_method: str = "adjoint") -> str:
    """'numba' or 'torch' for what was asked for; ValueError where it cannot be had."""
    if executor not in EXECUTORS:
        raise ValueError(f"unknown executor '{executor}'; known: {', '.join(EXECUTORS)}")
    if diff_method not in ("adjoint", "backprop"):
        raise ValueError(f"statevector differentiates by 'adjoint' or 'backprop', not by '{diff_method}'")
    fits = device == "cpu" and diff_method == "adjoint"
    if executor == "numba" and not fits:
        raise ValueError(
            f"executor 'numba' differentiates by 'adjoint' on the CPU, not by '{diff_method}' on '{device}'; "
            "use executor='torch'"
        )
    return executor if executor != "auto" else "numba" if fits else "torch"


def _aligned(program: Program, inputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and weights with the same leading dimensions, or weights without any; ValueError where they do not fit."""
    shape = program.weight_shape
    if inputs.dtype != weights.dtype or inputs.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"inputs are {inputs.dtype} and weights {weights.dtype}; both must be float32 or both float64: "
            "convert one with .float() or .double()"
        )
    if inputs.device != weights.device:
        raise ValueError(f"inputs are on {inputs.device} and weights on {weights.device}; move one with .to(device)")
    if not inputs.dim() or inputs.shape[-1] != program.n_inputs:
        raise ValueError(f"expected {program.n_inputs} angles per sample, got inputs of shape {tuple(inputs.shape)}")
    if weights.shape == shape:
        return inputs, weights
    lead = weights.shape[: weights.dim() - len(shape)]
    if weights.shape[len(lead) :] != shape:
        raise ValueError(f"expected weights of shape (..., {str(shape)[1:]}, got {tuple(weights.shape)}")
    try:
        together = torch.broadcast_shapes(lead, inputs.shape[:-2])
        return inputs.expand(*together, *inputs.shape[-2:]), weights.expand(*together, *shape)
    except RuntimeError:
        raise ValueError(
            f"replicas do not fit: inputs {tuple(inputs.shape)} are (..., batch, {program.n_inputs}) and weights "
            f"{tuple(weights.shape)} are (..., {str(shape)[1:]} with the same leading dimensions"
        ) from None


def _words(program, inputs, weights, executor, diff_method="adjoint", strict=True) -> Tensor:
    """Values of the program's words, for what `_aligned` returns."""
    transformed = torch._C._are_functorch_transforms_active()
    run = Run(program, executor, inputs, weights, strict and not transformed)
    if diff_method == "backprop":
        return run.torch_words(run.torch_state(inputs, weights))
    if transformed:
        return _Simulate.apply(inputs, weights, run)
    if torch.is_grad_enabled() and (inputs.requires_grad or weights.requires_grad):
        return _Direct.apply(inputs, weights, run)
    return run.forward(inputs, weights, keep=False)


class _Direct(torch.autograd.Function):
    """What `_Simulate` does, in the older form, whose call costs a third."""

    @staticmethod
    def forward(ctx, inputs, weights, run):
        ctx.save_for_backward(inputs, weights)
        ctx.run = run
        return run.forward(inputs, weights, keep=True)

    @staticmethod
    def backward(ctx, gradient):
        return _backward(ctx, gradient)


def _backward(ctx, gradient):
    inputs, weights = ctx.saved_tensors
    if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return *_Adjoint.apply(inputs, weights, gradient, ctx.run), None
    return *ctx.run.backward(inputs, weights, gradient, ctx.needs_input_grad), None


class _Simulate(torch.autograd.Function):
    @staticmethod
    def forward(inputs, weights, run):
        return run.forward(inputs, weights, keep=True)

    @staticmethod
    def setup_context(ctx, arguments, output):
        inputs, weights, ctx.run = arguments
        ctx.save_for_backward(inputs, weights)

    @staticmethod
    def backward(ctx, gradient):
        return _backward(ctx, gradient)

    @staticmethod
    def vmap(info, in_dims, inputs, weights, run):
        inputs = _to_front(inputs, in_dims[0], info.batch_size)
        if in_dims[1] is not None or weights.shape != run.program.weight_shape:  # else one weight set serves all
            weights = _to_front(weights, in_dims[1], info.batch_size)
        return _words(run.program, inputs, weights, run.executor, strict=False), 0


class _Adjoint(torch.autograd.Function):
    """The backward pass as a function of its own, so that it can run under `vmap` too."""

    @staticmethod
    def forward(inputs, weights, gradient, run):
        return run.backward(inputs, weights, gradient, (True, True))

    @staticmethod
    def setup_context(ctx, arguments, output):
        pass

    @staticmethod
    def backward(ctx, *gradients):
        raise RuntimeError("the adjoint method has no second derivatives; use diff_method='backprop'")

    @staticmethod
    def vmap(info, in_dims, inputs, weights, gradient, run):
        tensors = [_to_front(t, d, info.batch_size) for t, d in zip((inputs, weights, gradient), in_dims, strict=False)]
        run = Run(run.program, run.executor, *tensors[:2], strict=False)
        return _Adjoint.apply(*tensors, run), (0, 0)


def _to_front(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    return tensor.movedim(dim, 0) if dim is not None else tensor.expand(size, *tensor.shape)


class Run:
    """One call of a program: R replicas of B samples each."""

    def __init__(self, program: Program, executor: str, inputs: Tensor, weights: Tensor, strict: bool):
        self.program, self.executor, self.strict = program, executor, strict
        self.shape = (*inputs.shape[:-1], len(program.words))
        shared = weights.dim() == len(program.weight_shape)
        self.replicas = 1 if shared else math.prod(self.shape[:-2])
        self.batch = math.prod(self.shape[:-1]) if shared else self.shape[-2]
        self.kept = None  # the final states, where forward kept them for backward

    def forward(self, inputs: Tensor, weights: Tensor, keep: bool) -> Tensor:
        if self.executor == "numba":
            return self.program.schedule.forward(self, inputs, weights, keep)
        state = self.torch_state(inputs, weights)
        self.kept = state if keep else None
        return self.torch_words(state)

    def backward(self, inputs, weights, gradient, needed) -> tuple[Tensor | None, Tensor | None]:
        """Gradients with respect to inputs and weights by the adjoint method; None where `needed` is false."""
        if self.executor == "numba":
            return self.program.schedule.backward(self, inputs, weights, gradient, needed)
        return self.torch_backward(inputs, weights, gradient, needed)

    # ---- the torch executor: states (R, B, 2^n_bits)

    def torch_state(self, inputs: Tensor, weights: Tensor) -> Tensor:
        """The states at the end of the circuit."""
        program = self.program
        if inputs.device.type == "cpu":
            check_memory(4 * self.replicas * self.batch * 2**program.n_bits * inputs.itemsize)
        i = torch.arange(2**program.n_bits, device=inputs.device)
        start = ((i & ~program.uniform) == 0).to(inputs.dtype) * 2 ** (-program.uniform.bit_count() / 2)
        state = start.expand(self.replicas, self.batch, -1)
        for rotation, (c, s) in zip(program.rotations, self._cosines_and_sines(inputs, weights), strict=True):
            state = c * state + s * self._swapped(state, rotation.x, rotation.z)
        return state

    def _cosines_and_sines(self, inputs, weights) -> list[tuple[Tensor, Tensor]]:
        """Of half the angle of every rotation, as (R, B, 1) or, for weights and constants, as (R, 1, 1)."""
        inputs = inputs.reshape(self.replicas, self.batch, 1, -1)
        weights = weights.reshape(self.replicas, 1, 1, -1)
        if self.strict and not (inputs.isfinite().all() and weights.isfinite().all()):
            raise ValueError(NOT_FINITE)
        found = []
        for rotation in self.program.rotations:
            angle = rotation.angle
            if angle.source == CONSTANT:
                half = torch.full((1, 1, 1), angle.offset / 2, dtype=inputs.dtype, device=inputs.device)
            else:
                element = (inputs if angle.source == INPUT else weights)[..., angle.index]
                half = (angle.factor / 2) * element + angle.offset / 2
            found.append((half.cos(), half.sin()))
        return found

    def _swapped(self, state: Tensor, x: int, z: int) -> Tensor:
        """(-1)^parity(i & z) state[i ^ x]"""
        find = kept_table if self.program.n_bits <= CACHED_BITS else index_table
        index, sign = find(self.program.n_bits, x, z, state.device, state.dtype)
        return (state if index is None else state[..., index]) * sign

    def torch_words(self, state: Tensor) -> Tensor:
        words = [w.sign * (state * self._swapped(state, w.x, w.z)).sum(-1) for w in self.program.words]
        return torch.stack(words, -1).reshape(self.shape)

    def torch_backward(self, inputs, weights, gradient, needed):
        program, turns = self.program, self._cosines_and_sines(inputs, weights)
        state = self.torch_state(inputs, weights) if self.kept is None else self.kept
        gradient = gradient.reshape(self.replicas, self.batch, -1)
        other = torch.zeros_like(state)
        for k, w in enumerate(program.words):
            other = other + w.sign * gradient[..., k : k + 1] * self._swapped(state, w.x, w.z)
        of_inputs = inputs.new_zeros(self.replicas, self.batch, program.n_inputs) if needed[0] else None
        of_weights = weights.new_zeros(self.replicas, program.n_weights) if needed[1] else None
        for rotation, (c, s) in zip(reversed(program.rotations), reversed(turns), strict=True):
            angle, turned = rotation.angle, self._swapped(state, rotation.x, rotation.z)
            if needed[0] and angle.source == INPUT:
                of_inputs[..., angle.index] += angle.factor * (other * turned).sum(-1)
            if needed[1] and angle.source == WEIGHT:
                of_weights[..., angle.index] += angle.factor * (other * turned).sum((-1, -2))
            state = c * state - s * turned
            other = c * other - s * self._swapped(other, rotation.x, rotation.z)
        return of_inputs if of_inputs is None else of_inputs.reshape(inputs.shape), (
            of_weights if of_weights is None else of_weights.reshape(weights.shape)
        )


def check_memory(size: int) -> None:
    """Raises ValueError where `size` bytes, if many, are more than this machine has free."""
    if size > 2**28 and size > (free := psutil.virtual_memory().available):
        raise ValueError(
            f"simulating this circuit needs {size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            "use fewer qubits, samples at once or threads"
        )


def index_table(n_bits: int, x: int, z: int, device, dtype) -> tuple[Tensor | None, Tensor]:
    """The index i ^ x, None if it is i, and the sign (-1)^parity(i & z), for i = 0 ... 2^n_bits - 1."""
    i = np.arange(2**n_bits)
    sign = 1 - 2 * (np.bitwise_count(i & z) % 2).astype(int)
    return torch.as_tensor(i ^ x, device=device) if x else None, torch.as_tensor(sign, dtype=dtype, device=device)


kept_table = lru_cache(maxsize=1024)(index_table)
