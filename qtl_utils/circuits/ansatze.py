"""Encodings and ansätze as plain PennyLane quantum functions.

The circuit contract: a circuit is a function `f(inputs, weights)` that indexes `inputs[..., i]` and
`weights[..., k, i]`, so that one text serves a single sample, a batch and a batch of weight sets, and that returns
one expectation value per wire. Every angle is an element of `inputs` or `weights`, or a constant.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pennylane as qml
import torch

from qtl_utils.study.names import find


@dataclass(frozen=True)
class Encoding:
    """How features become angles: `squash` maps features to radians, `gates(inputs, n_qubits)` applies them."""

    squash: Callable[[torch.Tensor], torch.Tensor]
    gates: Callable
    about: str


@dataclass(frozen=True)
class Ansatz:
    """The trained part of a circuit.

    `gates(inputs, weights, n_qubits)` applies it, `shape(n_qubits, depth)` is the shape of its angles, `inert` tells
    which of them no per-wire <Z> depends on: an index into the weights by name of the reason.
    """

    gates: Callable
    shape: Callable[[int, int], tuple[int, ...]]
    about: str
    inert: Callable[[tuple[int, ...]], dict[str, tuple]] = lambda shape: {}
    uses_inputs: bool = False  # re-uploads: input angles enter more than once


def _h_ry(inputs, n_qubits):
    for i in range(n_qubits):
        qml.Hadamard(wires=i)
        qml.RY(inputs[..., i], wires=i)


def _rx(inputs, n_qubits):
    qml.AngleEmbedding(inputs, wires=range(n_qubits), rotation="X")


def half_pi_tanh(x):
    return torch.tanh(x) * (math.pi / 2)


def unchanged(x):
    return x


ENCODINGS: dict[str, Encoding] = {
    "tanh": Encoding(half_pi_tanh, _h_ry, "H, then RY(tanh(x) pi/2): the 2019 encoding"),
    "arctan": Encoding(torch.atan, _h_ry, "H, then RY(arctan x): saturates later than tanh"),
    "linear": Encoding(unchanged, _h_ry, "H, then RY(x): periodic, never saturates"),
    "tanh-rx": Encoding(half_pi_tanh, _rx, "RX(tanh(x) pi/2) on |0>"),
}


def _entangle_mari(n_qubits):
    # CNOT(0,1) CNOT(2,3) ... then CNOT(1,2) CNOT(3,4) ...: arXiv:1912.08278, code of quantum-transfer-learning
    for first in (0, 1):
        for i in range(first, n_qubits - 1, 2):
            qml.CNOT(wires=[i, i + 1])


def _mari2019(inputs, weights, n_qubits, entangle=True):
    for k in range(weights.shape[-2]):
        if entangle:
            _entangle_mari(n_qubits)
        for i in range(n_qubits):
            qml.RY(weights[..., k, i], wires=i)


def _basic_entangler(inputs, weights, n_qubits):
    if weights.shape[-2]:
        qml.BasicEntanglerLayers(weights, wires=range(n_qubits))


def _strongly_entangling(inputs, weights, n_qubits):
    if weights.shape[-3]:
        qml.StronglyEntanglingLayers(weights, wires=range(n_qubits))


def _last_omega(shape):
    # the last RZ of every wire is followed by CNOTs only, which keep it diagonal: <Z> cannot see it
    return {"last-layer omega": (shape[0] - 1, slice(None), 2)} if shape[0] else {}


def _reuploading(inputs, weights, n_qubits):
    # data re-uploading, arXiv:1907.02085: every layer encodes the inputs again, then rotates and entangles
    for k in range(weights.shape[-3]):
        for i in range(n_qubits):
            if k:
                qml.RY(inputs[..., i], wires=i)
            qml.RZ(weights[..., k, i, 0], wires=i)
            qml.RY(weights[..., k, i, 1], wires=i)
        _entangle_mari(n_qubits)


def _identity_blocks(inputs, weights, n_qubits):
    # arXiv:1903.05076: a block ends with the inverse of its entangler, so that it is the identity where its outer
    # angles cancel and its inner one is zero
    for k in range(weights.shape[-3]):
        for part in range(3):
            for i in range(n_qubits):
                qml.RY(weights[..., k, i, part], wires=i)
            if part == 0:
                _entangle_mari(n_qubits)
            if part == 1:
                qml.adjoint(_entangle_mari)(n_qubits)


def _layers(*tail):
    return lambda n_qubits, depth: (depth, n_qubits, *tail)


ANSATZE: dict[str, Ansatz] = {
    "mari2019": Ansatz(_mari2019, _layers(), "the 2019 circuit: CNOT pairs, then RY on every wire"),
    "separable": Ansatz(partial(_mari2019, entangle=False), _layers(), "the 2019 circuit without its CNOTs"),
    "basic_entangler": Ansatz(_basic_entangler, _layers(), "PennyLane's BasicEntanglerLayers: RX and a CNOT ring"),
    "strongly_entangling": Ansatz(
        _strongly_entangling, _layers(3), "PennyLane's StronglyEntanglingLayers: Rot and CNOTs", _last_omega
    ),
    "reuploading": Ansatz(
        _reuploading, _layers(2), "inputs encoded again in every layer (arXiv:1907.02085)", uses_inputs=True
    ),
    "identity_blocks": Ansatz(
        _identity_blocks, _layers(3), "blocks that end with the inverse of their entangler (arXiv:1903.05076)"
    ),
}


def make_circuit(ansatz: str, encoding: str, n_qubits: int) -> Callable:
    """The quantum function `f(inputs, weights)` returning <Z_i> of every wire; inputs are angles in radians."""
    gates = find("ansatz", ansatz, ANSATZE).gates
    encode = find("encoding", encoding, ENCODINGS).gates

    def circuit(inputs, weights):
        encode(inputs, n_qubits)
        gates(inputs, weights, n_qubits)
        return [qml.expval(qml.PauliZ(i)) for i in range(n_qubits)]

    return circuit


def inert_angles(ansatz: str, n_qubits: int, depth: int) -> dict[str, np.ndarray]:
    """Boolean masks over the angles that the ansatz makes inert, by reason."""
    found = find("ansatz", ansatz, ANSATZE)
    shape = found.shape(n_qubits, depth)
    masks = {}
    for reason, index in found.inert(shape).items():
        masks[reason] = np.zeros(shape, bool)
        masks[reason][index] = True
    return masks
