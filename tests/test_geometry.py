"""Geometry against closed forms and PennyLane's own quantum metric."""

import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane import numpy as pnp
from torch import nn

from qtl_utils.analyses import geometry
from qtl_utils.circuits.ansatze import ANSATZE, make_circuit
from qtl_utils.circuits.layer import QuantumLayer


def test_the_fisher_information_of_a_linear_classifier_is_the_known_one():
    torch.manual_seed(0)
    head, x = nn.Linear(3, 4), torch.randn(6, 3, dtype=torch.float64)
    found = geometry.fisher_spectra(head, x, {"all": ["weight", "bias"], "bias": ["bias"]})
    p = torch.softmax(head(x), -1).detach()
    cells = [torch.diag(q) - torch.outer(q, q) for q in p]  # of the logits; a Kronecker product with the inputs
    inputs = torch.cat([x, torch.ones(6, 1, dtype=torch.float64)], 1)
    expected = sum(torch.kron(c, torch.outer(v, v)) for c, v in zip(cells, inputs, strict=True)) / 6
    values = found.loc[found["block"] == "all", "eigenvalue"].to_numpy()
    np.testing.assert_allclose(values, torch.linalg.eigvalsh(expected).flip(0)[: len(values)], atol=1e-10)
    bias = torch.linalg.eigvalsh(sum(cells) / 6).flip(0)
    np.testing.assert_allclose(found.loc[found["block"] == "bias", "eigenvalue"], bias, atol=1e-10)


@pytest.mark.parametrize("ansatz", ["mari2019", "strongly_entangling", "basic_entangler"])
def test_the_quantum_fisher_information_is_four_times_pennylanes_metric(ansatz):
    shape, x = ANSATZE[ansatz].shape(2, 2), torch.tensor([0.3, -1.1], dtype=torch.float64)
    weights = geometry.uniform_angles(shape, np.random.default_rng(0))
    found = geometry.quantum_fisher(geometry.state_function(ansatz, "tanh", 2), x, weights)
    circuit = make_circuit(ansatz, "tanh", 2)
    node = qml.QNode(lambda w: circuit(x.numpy(), w), qml.device("default.qubit", wires=3))
    expected = qml.metric_tensor(node, approx=None)(pnp.array(weights.numpy(), requires_grad=True))
    size = weights.numel()
    np.testing.assert_allclose(found, 4 * np.array(expected).reshape(size, size), atol=1e-10)
    assert geometry.rank(found) == np.linalg.matrix_rank(np.array(expected).reshape(size, size), tol=1e-8)


def test_entanglement_of_known_states():
    product = np.kron([0.6, 0.8j], np.kron([1, 0], [np.sqrt(0.5), -np.sqrt(0.5)]))
    ghz, w = np.eye(8)[[0, 7]].sum(0) / np.sqrt(2), np.eye(8)[[1, 2, 4]].sum(0) / np.sqrt(3)
    np.testing.assert_allclose(geometry.meyer_wallach(np.stack([product, ghz, w])), [0, 1, 8 / 9], atol=1e-12)


def test_a_circuit_that_does_nothing_is_farthest_from_haar_and_haar_is_near():
    still = lambda n: np.tile(np.eye(4)[0], (n, 1))  # noqa: E731
    assert geometry.expressibility(still, 100, 2) == pytest.approx(3 * np.log(geometry.BINS))

    def haar(n):
        draw = rng.normal(size=(n, 4)) + 1j * rng.normal(size=(n, 4))
        return draw / np.linalg.norm(draw, axis=1, keepdims=True)

    rng = np.random.default_rng(0)
    assert geometry.expressibility(haar, 5000, 2) < 0.03


def test_the_fourier_shares_of_zero_angles_are_those_of_the_closed_form():
    # (-s0, -s1, s0 s2, -s0 s1 s3): a product of k sines has power 2^-k
    layer = QuantumLayer(4, 6).double()
    found = geometry.by_order(geometry.fourier_spectrum(lambda x: layer(x, torch.zeros(6, 4).double()), 4))
    np.testing.assert_allclose(found["share"], np.array([0, 8, 2, 1, 0, 0]) / 11, atol=1e-12)
    assert found["used"].tolist() == [0, 4, 4, 8, 0, 0]
    assert found["possible"].tolist() == [1, 8, 24, 32, 16, 0]  # 81 together


def test_re_uploading_leaves_the_multilinear_bound_and_single_encodings_do_not():
    generator = torch.Generator().manual_seed(0)
    for ansatz, beyond in (("mari2019", False), ("strongly_entangling", False), ("reuploading", True)):
        layer = QuantumLayer(2, 2, ansatz).double()
        weights = 6 * torch.rand(layer.weights.shape, generator=generator, dtype=torch.float64)
        share = geometry.by_order(geometry.fourier_spectrum(lambda x, w=weights, q=layer: q(x, w), 2, points=7))
        assert (share["share"].iloc[-1] > 1e-3) == beyond and share["share"].sum() == pytest.approx(1)
        assert beyond or share["share"].iloc[-1] < 1e-20


def test_a_model_is_described_before_and_after_its_training():
    from test_attribution import CONFIG, INPUTS

    from qtl_utils.analyses.attribution import train_variant

    trained = train_variant("A", INPUTS, CONFIG.model_copy(update={"seeds": 2, "epochs": 1, "n_qubits": 3, "depth": 2}))
    made = geometry.of_model(trained, 5)
    assert set(made) == {"circuit", "fisher", "fourier"} and set(made["fisher"]["when"]) == {"before", "after"}
    heads, samples = geometry.heads_of(trained, 0), INPUTS.features
    logits = heads["after"](samples).detach()
    np.testing.assert_allclose(logits, trained.fit.logits["last"][0], atol=1e-10)
    assert made["circuit"]["angles"].tolist() == ["before training", "after training", "U[0, 2 pi]"]
