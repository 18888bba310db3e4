"""The simulator as a device of PennyLane: `qml.device("qtl.statevector", wires=4)` runs any QNode on `statevector`.

PennyLane decomposes a circuit into the gates that a program knows, each with a number, or one number a sample, as its
angle. Here these numbers are the inputs of a program that has no weights, so that circuits that differ only in their
angles share one program and a batch is one call. Results are exact: expectation values and variances of observables,
and probabilities. Derivatives are those of the adjoint method, of all three.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pennylane as qml
import torch
from pennylane.devices import Device, ExecutionConfig
from pennylane.devices.modifiers import simulator_tracking, single_tape_support
from pennylane.devices.preprocess import (
    decompose,
    no_sampling,
    validate_adjoint_trainable_params,
    validate_device_wires,
    validate_observables,
)
from pennylane.exceptions import DeviceError
from pennylane.measurements import ExpectationMP, MeasurementProcess, ProbabilityMP, VarianceMP
from pennylane.tape import QuantumScript
from pennylane.transforms import broadcast_expand, defer_measurements, split_to_single_terms
from pennylane.transforms.core import CompilePipeline
from torch import Tensor

from qtl_utils.circuits.program import (
    IGNORED,
    INPUT,
    ROTATIONS,
    Angle,
    Gate,
    Program,
    assemble,
    carry_cliffords,
    rotations_of,
    table_of,
)
from qtl_utils.circuits.statevector import EXECUTORS, simulate

NAME = "qtl.statevector"
MATRIX_WIRES = 5  # an observable given as a matrix becomes up to 4^5 Pauli words
PROBABILITY_WIRES = 10  # probabilities of k wires are sums of 2^k Pauli words
CLIFFORD_GATES = {"PauliX", "PauliY", "PauliZ", "Hadamard", "S", "SX", "CNOT", "CY", "CZ", "SWAP", "ISWAP"}
TARGETS = {*ROTATIONS, *CLIFFORD_GATES, *IGNORED, "MultiRZ", "PauliRot"}
MEASUREMENTS = (ExpectationMP, VarianceMP, ProbabilityMP)

Sentence = tuple[tuple[tuple[tuple[int, str], ...], float], ...]  # ((((wire, letter), ...), factor), ...)


@simulator_tracking
@single_tape_support
class StatevectorDevice(Device):
    """PennyLane's device `qtl.statevector`: exact expectation values, variances and probabilities, in float64.

    wires: a number, labels, or None for those of each circuit. executor: 'auto' (Numba), 'numba' or 'torch', see
    `statevector`. `diff_method` 'adjoint' (which 'best' means here) differentiates angles, one of them or one a sample;
    PennyLane's own methods, such as 'parameter-shift', run on it too. Raises DeviceError for shots, states, samples,
    backprop and observables beyond MATRIX_WIRES wires that are no sums of Pauli words.
    """

    name = NAME

    def __init__(self, wires=None, shots=None, executor: str = "auto"):
        if executor not in EXECUTORS:
            raise DeviceError(f"{NAME}: unknown executor '{executor}'; known: {', '.join(EXECUTORS)}")
        super().__init__(wires=wires, shots=shots)  # whose circuits are refused
        self.executor = executor

    def supports_derivatives(
        self, execution_config: ExecutionConfig | None = None, circuit: QuantumScript | None = None
    ) -> bool:
        """Whether `compute_vjp` and `compute_derivatives` serve this circuit: by 'adjoint', and without shots."""
        if execution_config and execution_config.gradient_method not in ("adjoint", "best"):
            return False
        if circuit is None:
            return True
        return not circuit.shots and all(map(_is_known, circuit.measurements))

    def setup_execution_config(
        self, config: ExecutionConfig | None = None, circuit: QuantumScript | None = None
    ) -> ExecutionConfig:
        """What was asked for, with everything left open decided.

        Vectors are multiplied with the Jacobian here, not by PennyLane: that takes one backward pass whatever the
        number of outputs, and a batch at once. JAX asks for Jacobians only.
        """
        config = config or ExecutionConfig()
        if config.device_options:
            raise DeviceError(f"device option {next(iter(config.device_options))} not present on {NAME}")
        if (measuring := config.mcm_config.mcm_method) not in (None, "deferred"):
            raise DeviceError(f"mcm_method='{measuring}' is not supported with {NAME}; use 'deferred'")
        method = "adjoint" if config.gradient_method == "best" else config.gradient_method
        own = method == "adjoint"
        jax = config.interface in (qml.math.Interface.JAX, qml.math.Interface.JAX_JIT)
        return replace(
            config,
            gradient_method=method,
            use_device_gradient=own,
            use_device_jacobian_product=own and not jax,
            grad_on_execution=False,
            mcm_config=replace(config.mcm_config, mcm_method="deferred"),
        )

    def preprocess_transforms(self, execution_config: ExecutionConfig | None = None) -> CompilePipeline:
        """What PennyLane does to a circuit before it comes here: known gates, known measurements, or a DeviceError."""
        config = execution_config or ExecutionConfig()
        pipeline = CompilePipeline()
        pipeline.add_transform(no_sampling, name=NAME)
        pipeline.add_transform(defer_measurements, allow_postselect=False)
        pipeline.add_transform(validate_device_wires, self.wires, name=NAME)
        pipeline.add_transform(_refuse_measurements)
        pipeline.add_transform(validate_observables, stopping_condition=_is_measurable, name=NAME)
        if config.gradient_method == "adjoint":
            pipeline.add_transform(_split_trained_sums)
            pipeline.add_transform(validate_adjoint_trainable_params)
        pipeline.add_transform(
            decompose,
            stopping_condition=_is_gate,
            skip_initial_state_prep=False,
            target_gates=TARGETS,
            device_wires=self.wires,
            name=NAME,
        )
        if config.gradient_method == "adjoint" and not config.use_device_jacobian_product:
            pipeline.add_transform(broadcast_expand)  # a Jacobian of a batch has no place for its samples
        return pipeline

    def execute(self, circuits: Sequence[QuantumScript], execution_config: ExecutionConfig | None = None) -> tuple:
        """The results of circuits: of each an array, or a tuple of arrays for several measurements."""
        return tuple(_packed(_run(_read(circuit), self.executor)) for circuit in circuits)

    def compute_derivatives(
        self, circuits: Sequence[QuantumScript], execution_config: ExecutionConfig | None = None
    ) -> tuple:
        """The Jacobians of circuits without batches: of each measurement and trainable parameter an array."""
        return tuple(_jacobian(_read(circuit), self.executor) for circuit in circuits)

    def compute_vjp(
        self,
        circuits: Sequence[QuantumScript],
        cotangents: Sequence,
        execution_config: ExecutionConfig | None = None,
    ) -> tuple:
        """Of each circuit the product of its cotangents with its Jacobian, an array like each trainable parameter."""
        return tuple(
            _vector_jacobian_product(_read(circuit), cotangent, self.executor)
            for circuit, cotangent in zip(circuits, cotangents, strict=True)
        )


# ---- what is let through ---------------------------------------------------------------------------------------------


def _is_gate(op) -> bool:
    """Whether a program has this gate; a batch may only be one of angles."""
    if op.name in IGNORED or rotations_of(op) is not None:
        return True
    return op.batch_size is None and table_of(op) is not None


def _is_known(measurement) -> bool:
    return isinstance(measurement, MEASUREMENTS)


@qml.transform
def _refuse_measurements(tape: QuantumScript):
    """Raises DeviceError for what only a state or samples would answer."""
    for asked in (*tape.measurements, *(op for op in tape.operations if isinstance(op, qml.Snapshot))):
        if not _is_known(asked):
            raise DeviceError(
                f"{asked} is not supported on {NAME}, which has expval, var and probs: use default.qubit for it"
            )
    return (tape,), lambda results: results[0]


def _is_measurable(observable) -> bool:
    return observable.pauli_rep is not None or (observable.has_matrix and len(observable.wires) <= MATRIX_WIRES)


@qml.transform
def _split_trained_sums(tape: QuantumScript):
    """Leaves the factors of a sum of observables to PennyLane where they are trained."""
    observables = [m.obs for m in tape.measurements if m.obs is not None]
    if any(qml.math.requires_grad(value) for observable in observables for value in observable.data):
        return split_to_single_terms(tape)
    return (tape,), lambda results: results[0]


# ---- circuits as programs --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Circuit:
    """A circuit of PennyLane: its program, the angles (P,) or (B, P) for it, and what becomes of its outputs.

    `measured`: of every measurement its kind and its number of outputs. `parameters` (P,): the number that PennyLane
    gives each angle's parameter; `trainable`: the numbers of those to be differentiated, `shapes` their shapes.
    """

    program: Program
    angles: np.ndarray
    measured: tuple[tuple[str, int], ...]
    parameters: tuple[int, ...]
    trainable: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]


def _read(tape: QuantumScript) -> _Circuit:
    """What `_is_gate` and `_is_known` let through, as the simulator runs it."""
    tape = tape.map_to_standard_wires()
    gates = []
    values = []
    parameters = []
    position = 0
    for op in tape.operations:
        if op.name not in IGNORED:
            rotations = rotations_of(op)
            gates.append((op.name, tuple(op.wires), rotations or (), () if rotations else table_of(op)))
            if rotations:
                values.append(qml.math.toarray(op.data[0]))
                parameters.append(position)
        position += len(op.data)
    measured = [_outputs(measurement, tape.wires) for measurement in tape.measurements]
    sentences = tuple(sentence for _, found in measured for sentence in found)
    program = _program(len(tape.wires), tuple(gates), sentences)
    given = tape.get_parameters(trainable_only=False)
    return _Circuit(
        program,
        _stacked(values, tape.batch_size),
        tuple((kind, len(found)) for kind, found in measured),
        tuple(parameters),
        tuple(tape.trainable_params),
        tuple(np.shape(given[number]) for number in tape.trainable_params),
    )


def _stacked(values: Sequence[np.ndarray], batch_size: int | None) -> np.ndarray:
    """Angles side by side, (P,) or (B, P); one that is given once serves all samples."""
    shape = () if batch_size is None else (batch_size,)
    columns = [np.broadcast_to(np.asarray(value, float), shape) for value in values]
    return np.stack(columns, axis=-1) if columns else np.zeros((*shape, 0))


@lru_cache(maxsize=256)
def _program(n_qubits: int, described: tuple[Hashable, ...], sentences: tuple[Sentence, ...]) -> Program:
    """The program of gates, each (name, wires, rotations, table), whose angles are its inputs one after the other."""
    gates = []
    angles = []
    n_inputs = 0
    for name, wires, rotations, table in described:
        if not rotations:
            gates.append(Gate(name, wires, table=table))
            angles.append(Angle())
            continue
        gates += [Gate(name, wires, letters) for letters, _ in rotations]
        angles += [Angle(INPUT, n_inputs, 1.0) * share for _, share in rotations]
        n_inputs += 1
    return assemble(carry_cliffords(gates, angles, [dict(s) for s in sentences], n_qubits, n_inputs, (0,)))


def _outputs(measurement: MeasurementProcess, wires) -> tuple[str, tuple[Sentence, ...]]:
    """The kind of a measurement and the sums of Pauli words whose expectation values it is made of."""
    observable = measurement.obs
    if isinstance(measurement, ProbabilityMP):
        measured = tuple(measurement.wires or wires)
        if len(measured) > PROBABILITY_WIRES:
            raise DeviceError(
                f"probabilities of {len(measured)} wires are not supported with {NAME}, {PROBABILITY_WIRES} at most "
                "are: measure fewer wires, or use default.qubit"
            )
        return ("words", _diagonal_words(measured)) if observable is None else ("sums", _projectors(observable))
    sentence = _pauli_sentence(observable)
    if isinstance(measurement, ExpectationMP):
        return "sums", (_plain(sentence),)
    return "variance", (_plain(sentence), _plain(sentence @ sentence))


@lru_cache(maxsize=64)
def _diagonal_words(wires: tuple[int, ...]) -> tuple[Sentence, ...]:
    """The 2^k words of Z on the wires of every subset; bit j of a word's number, from the left, stands for wire j."""
    words = []
    for number in range(2 ** len(wires)):
        chosen = [wire for wire, bit in zip(wires, f"{number:0{len(wires)}b}", strict=True) if bit == "1"]
        words.append(((tuple(sorted((wire, "Z") for wire in chosen)), 1.0),))
    return tuple(words)


def _projectors(observable) -> tuple[Sentence, ...]:
    """On the eigenvectors of an observable, in the order of PennyLane's probabilities."""
    wires = observable.wires
    if len(wires) > MATRIX_WIRES:
        raise DeviceError(
            f"probabilities of an observable on {len(wires)} wires are not supported with {NAME}, {MATRIX_WIRES} at "
            "most are: use default.qubit"
        )
    turns = observable.diagonalizing_gates()
    u = qml.matrix(qml.prod(*turns[::-1]), wire_order=wires) if turns else np.eye(2 ** len(wires))
    return tuple(_plain(_of_matrix(np.outer(row.conj(), row), wires)) for row in np.asarray(u))


def _pauli_sentence(observable) -> qml.pauli.PauliSentence:
    sentence = observable.pauli_rep
    if sentence is None:
        sentence = _of_matrix(qml.math.toarray(qml.matrix(observable)), observable.wires)
    if any(abs(np.imag(factor)) > 1e-9 for factor in sentence.values()):
        raise DeviceError(f"{observable} is not supported on {NAME}: only Hermitian observables can be measured")
    return sentence


def _of_matrix(matrix: np.ndarray, wires) -> qml.pauli.PauliSentence:
    return qml.pauli_decompose(matrix, wire_order=wires, pauli=True, check_hermitian=False)


def _plain(sentence: qml.pauli.PauliSentence) -> Sentence:
    return tuple((tuple(sorted(word.items())), float(np.real(factor))) for word, factor in sentence.items())


# ---- running and differentiating -------------------------------------------------------------------------------------


def _run(circuit: _Circuit, executor: str, angles: Tensor | None = None) -> list[Tensor]:
    """The measurements of angles (..., P): (...) each, or (..., 2^k) for the probabilities of k wires."""
    angles = torch.as_tensor(circuit.angles) if angles is None else angles
    values = simulate(circuit.program, angles, angles.new_zeros(0), executor)  # (..., outputs)
    results = []
    for (kind, _), part in zip(circuit.measured, values.split([n for _, n in circuit.measured], -1), strict=True):
        results.append(_combined(kind, part))
    return results


def _combined(kind: str, values: Tensor) -> Tensor:
    """A measurement of the expectation values (..., n) it is made of."""
    if kind == "variance":
        return values[..., 1] - values[..., 0] ** 2
    if kind == "words":
        return _walsh_hadamard(values)
    return values[..., 0] if values.shape[-1] == 1 else values


def _walsh_hadamard(values: Tensor) -> Tensor:
    """Probabilities (..., 2^k) of the expectation values of all words of Z: p(b) = 2^-k sum_s (-1)^(b.s) <Z_s>."""
    lead = values.shape[:-1]
    size = values.shape[-1]
    half = 1
    while half < size:
        pairs = values.reshape(*lead, -1, 2, half)
        values = torch.stack([pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]], -2)
        half *= 2
    return values.reshape(*lead, size) / size


def _packed(results: list[Tensor]) -> Any:
    arrays = tuple(result.detach().numpy() for result in results)
    return arrays[0] if len(arrays) == 1 else arrays


class _Gradients(tuple):
    """Arrays of any shapes. PennyLane's torch interface has NumPy squeeze the tuple, which it must survive."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self),)

    def squeeze(self) -> "_Gradients":
        return self


def _vector_jacobian_product(circuit: _Circuit, cotangents, executor: str) -> _Gradients:
    """One backward pass: the cotangents, shaped like the results, times the derivatives of each trainable parameter."""
    angles = torch.as_tensor(circuit.angles).requires_grad_()
    with torch.enable_grad():
        results = _run(circuit, executor, angles)
        given = (cotangents,) if len(results) == 1 else cotangents
        pairs = [(r, torch.as_tensor(np.asarray(c, float))) for r, c in zip(results, given, strict=True)]
        total = sum((result * cotangent.reshape(result.shape)).sum() for result, cotangent in pairs)
    slopes = _gradient(total, angles)
    return _Gradients(_of_parameter(circuit, slopes, k) for k in range(len(circuit.trainable)))


def _of_parameter(circuit: _Circuit, slopes: np.ndarray, k: int) -> np.ndarray:
    """The gradient of trainable parameter k, of slopes (P,) or (B, P); zero where no result depends on it."""
    number = circuit.trainable[k]
    if number not in circuit.parameters:  # a global phase, or a matrix that is measured
        return np.zeros(circuit.shapes[k])
    slope = slopes[..., circuit.parameters.index(number)]
    return slope if circuit.shapes[k] else np.asarray(slope.sum())


def _jacobian(circuit: _Circuit, executor: str) -> Any:
    """Every output is a replica of its own, so that one backward pass differentiates all of them."""
    if circuit.angles.ndim > 1:
        raise DeviceError(f"the Jacobian of a batch is not supported with {NAME}: expand it with broadcast_expand")
    shapes = [tuple(result.shape) for result in _run(circuit, executor)]
    sizes = [int(np.prod(shape)) for shape in shapes]
    angles = torch.as_tensor(circuit.angles).expand(sum(sizes), -1).clone().requires_grad_()  # (K, P)
    with torch.enable_grad():
        results = [result.reshape(sum(sizes), -1) for result in _run(circuit, executor, angles)]
        total = torch.cat(results, -1).diagonal().sum()
    slopes = _gradient(total, angles)  # (K, P)
    parts = np.split(slopes, np.cumsum(sizes)[:-1])
    rows = []
    for part, shape in zip(parts, shapes, strict=True):
        columns = []
        for number in circuit.trainable:
            known = number in circuit.parameters
            column = part[:, circuit.parameters.index(number)] if known else np.zeros(len(part))
            columns.append(column.reshape(shape))
        rows.append(columns[0] if len(columns) == 1 else tuple(columns))
    return rows[0] if len(rows) == 1 else tuple(rows)


def _gradient(total: Tensor, angles: Tensor) -> np.ndarray:
    if not total.requires_grad or not angles.numel():
        return np.zeros(angles.shape)
    return torch.autograd.grad(total, angles)[0].numpy()
