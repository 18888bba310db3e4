"""The circuits of this study run by Qiskit: a PennyLane quantum function becomes a Qiskit Machine Learning network."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pennylane as qml
import torch
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.primitives import StatevectorEstimator
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.quantum_info import SparsePauliOp
from qiskit_machine_learning.connectors import TorchConnector
from qiskit_machine_learning.gradients import (
    LinCombEstimatorGradient,
    ParamShiftEstimatorGradient,
    SPSAEstimatorGradient,
)
from qiskit_machine_learning.neural_networks import EstimatorQNN
from torch import nn

from qtl_utils.circuits.program import CONSTANT, INPUT, Gate, compile_circuit, expand, find_angle, pauli_sentence
from qtl_utils.study.names import unknown_name

GRADIENTS = {
    "parameter-shift": ParamShiftEstimatorGradient,
    "lin-comb": LinCombEstimatorGradient,
    "spsa": lambda estimator: SPSAEstimatorGradient(estimator, epsilon=0.01, seed=0),
}

# PennyLane's name -> the method of QuantumCircuit; other gates are decomposed by PennyLane, constants become matrices
GATES = {
    "Hadamard": "h",
    "PauliX": "x",
    "PauliY": "y",
    "PauliZ": "z",
    "S": "s",
    "RX": "rx",
    "RY": "ry",
    "RZ": "rz",
    "PhaseShift": "p",
    "CNOT": "cx",
    "CY": "cy",
    "CZ": "cz",
    "SWAP": "swap",
    "CRX": "crx",
    "CRY": "cry",
    "CRZ": "crz",
    "ControlledPhaseShift": "cp",
    "IsingXX": "rxx",
    "IsingYY": "ryy",
    "IsingZZ": "rzz",
}


@dataclass(frozen=True)
class Converted:
    """A quantum function as Qiskit has it: circuit, its input and weight parameters, one observable per output."""

    circuit: QuantumCircuit
    inputs: ParameterVector
    weights: ParameterVector
    observables: list[SparsePauliOp]


@torch.enable_grad()  # how angles depend on inputs and weights is read from torch's graph
def convert(circuit: Callable, n_qubits: int, weight_shape: Iterable[int], n_inputs: int | None = None) -> Converted:
    """The Qiskit circuit of a PennyLane quantum function `circuit(inputs, weights)`; wire w is qubit w.

    What `compile_circuit` refuses is refused here too: UnsupportedCircuitError names the gate.
    """
    weight_shape = tuple(weight_shape)
    n_inputs = n_qubits if n_inputs is None else n_inputs
    compile_circuit(circuit, n_qubits, weight_shape, n_inputs)  # angles are elements, gates depend on no value
    generator = torch.Generator().manual_seed(0)
    values = [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in ((n_inputs,), weight_shape)]
    inputs, weights = (value.requires_grad_() for value in values)
    with qml.queuing.AnnotatedQueue() as queue:
        returned = circuit(inputs, weights)
    vectors = [ParameterVector(name, value.numel()) for name, value in (("x", inputs), ("w", weights))]
    found = QuantumCircuit(n_qubits)
    for op in expand(qml.tape.QuantumScript.from_queue(queue).operations):
        wires = list(op.wires)
        if op.name not in GATES:  # a constant gate: Qiskit's first qubit is the last factor
            found.unitary(np.asarray(op.matrix(), complex), wires[::-1])
            continue
        arguments = []
        for value in op.data:
            angle = find_angle(Gate(op.name, tuple(wires)), value, inputs, weights)
            arguments.append(angle.offset)
            if angle.source != CONSTANT:
                element = vectors[0 if angle.source == INPUT else 1][angle.index]
                plain = np.allclose((angle.factor, angle.offset), (1, 0), rtol=0, atol=1e-12)
                arguments[-1] = element if plain else angle.factor * element + angle.offset
        getattr(found, GATES[op.name])(*arguments, *wires)
    outputs = returned if isinstance(returned, list | tuple) else [returned]
    sentences = [
        [("".join(letter for _, letter in word), [wire for wire, _ in word], factor) for word, factor in out.items()]
        for out in map(pauli_sentence, outputs)
    ]
    return Converted(found, *vectors, [SparsePauliOp.from_sparse_list(s, num_qubits=n_qubits) for s in sentences])


class CountingEstimator(StatevectorEstimator):
    """Qiskit's exact estimator, which counts in `executions` the circuits it has run, one for every observable."""

    executions = 0

    def run(self, pubs, *, precision=None):
        pubs = [EstimatorPub.coerce(pub, precision) for pub in pubs]
        self.executions += sum(pub.size for pub in pubs)
        return super().run(pubs, precision=precision)


def estimator_qnn(converted: Converted, diff_method: str = "parameter-shift", estimator=None) -> EstimatorQNN:
    """Qiskit Machine Learning's network, exact, with gradients of inputs too; ValueError for an unknown method."""
    if diff_method not in GRADIENTS:
        raise ValueError(f"Qiskit Machine Learning: {unknown_name('gradient', diff_method, GRADIENTS)}")
    estimator = estimator or CountingEstimator()
    return EstimatorQNN(
        circuit=converted.circuit,
        estimator=estimator,
        observables=converted.observables,
        input_params=converted.inputs,
        weight_params=converted.weights,
        gradient=GRADIENTS[diff_method](estimator),
        input_gradients=True,  # otherwise the layers before the circuit get no gradient, without a word
        default_precision=0.0,
    )


class QiskitCircuit(nn.Module):
    """inputs (B, n_inputs), weights -> expectation values (B, n_outputs), through TorchConnector: in float32."""

    def __init__(self, circuit, n_qubits, weight_shape, diff_method="parameter-shift", n_inputs=None):
        super().__init__()
        self.network = estimator_qnn(convert(circuit, n_qubits, weight_shape, n_inputs), diff_method)
        self.connector = TorchConnector(self.network)

    def forward(self, inputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        flat = weights.reshape(-1)
        names = [name for name, _ in self.connector.named_parameters()]
        out = torch.func.functional_call(self.connector, dict.fromkeys(names, flat), (inputs,))
        return out.to(inputs.dtype)
