"""Circuits against closed forms, a NumPy statevector and element-wise gradients."""

import math

import numpy as np
import pennylane as qml
import pytest
import torch

from qtl_utils.circuits.ansatze import ANSATZE, ENCODINGS, inert_angles, make_circuit
from qtl_utils.circuits.layer import QuantumLayer

I2, X, Z = np.eye(2), np.array([[0, 1], [1, 0]]), np.diag([1.0, -1.0])


def ry(angle):
    c, s = math.cos(angle / 2), math.sin(angle / 2)
    return np.array([[c, -s], [s, c]])


def on_wire(gate, wire, n):
    full = np.ones((1, 1))
    for i in range(n):
        full = np.kron(full, gate if i == wire else I2)
    return full


def cnot(control, target, n):
    p0, p1 = np.diag([1.0, 0.0]), np.diag([0.0, 1.0])
    return on_wire(p0, control, n) + on_wire(p1, control, n) @ on_wire(X, target, n)


def mari2019_by_hand(inputs, weights):
    """<Z_i> of the 2019 circuit with full matrices: inputs (n,), weights (depth, n)."""
    n = len(inputs)
    state = np.full(2**n, 2 ** (-n / 2))
    for i, angle in enumerate(inputs):
        state = on_wire(ry(angle), i, n) @ state
    for row in weights:
        for first in (0, 1):
            for i in range(first, n - 1, 2):
                state = cnot(i, i + 1, n) @ state
        for i, angle in enumerate(row):
            state = on_wire(ry(angle), i, n) @ state
    return np.array([state @ on_wire(Z, i, n) @ state for i in range(n)])


def layer(ansatz="mari2019", n=4, depth=6, seed=0, **options):
    torch.manual_seed(seed)
    return QuantumLayer(n, depth, ansatz, angle_init=1.0, **options).double()


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_2019_circuit_equals_matrices_by_hand(n):
    circuit, inputs = layer(n=n, depth=3), torch.randn(2, n, dtype=torch.float64)
    expected = [mari2019_by_hand(x, circuit.weights.detach().numpy()) for x in inputs.numpy()]
    np.testing.assert_allclose(circuit(inputs).detach(), expected, atol=1e-12)


def test_at_angle_zero_the_published_circuit_is_classical():
    s = torch.sin(x := torch.randn(7, 4, dtype=torch.float64)).T
    expected = torch.stack([-s[0], -s[1], s[0] * s[2], -s[0] * s[1] * s[3]], dim=1)
    torch.testing.assert_close(layer(angles="zero")(x), expected, atol=1e-12, rtol=0)


def test_without_entanglement_angles_of_a_wire_add_up():
    circuit, x = layer("separable"), torch.randn(7, 4, dtype=torch.float64)
    torch.testing.assert_close(circuit(x), -torch.sin(x + circuit.weights.sum(0)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("ansatz", ANSATZE)
def test_every_angle_matters_unless_it_is_listed_as_inert(ansatz):
    reached = torch.zeros(ANSATZE[ansatz].shape(4, 3), dtype=torch.bool)
    for seed in range(3):
        circuit = layer(ansatz, depth=3, seed=seed)
        for output in circuit(torch.randn(3, 4, dtype=torch.float64)).sum(0):
            reached |= torch.autograd.grad(output, circuit.weights, retain_graph=True)[0].abs() > 1e-9
    inert = sum(inert_angles(ansatz, 4, 3).values(), np.zeros(reached.shape, bool))
    np.testing.assert_array_equal(reached.numpy(), ~inert)


@pytest.mark.parametrize("ansatz", ANSATZE)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_batch_equals_its_samples_one_by_one(ansatz, encoding):
    circuit, inputs = layer(ansatz, n=3, depth=2, encoding=encoding), torch.randn(4, 3, dtype=torch.float64)
    single = qml.QNode(make_circuit(ansatz, encoding, 3), qml.device("default.qubit", wires=3), interface="torch")
    expected = torch.stack([torch.stack(single(x, circuit.weights)) for x in inputs])
    torch.testing.assert_close(circuit(inputs), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("ansatz", ANSATZE)
def test_depth_zero_leaves_the_encoding(ansatz):
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(QuantumLayer(3, 0, ansatz).double()(x), -torch.sin(x), atol=1e-12, rtol=0)


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown ansatz 'mary2019'.*did you mean 'mari2019'"):
        make_circuit("mary2019", "tanh", 2)
    with pytest.raises(ValueError, match="unknown encoding 'x'"):
        make_circuit("mari2019", "x", 2)
