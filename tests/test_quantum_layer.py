"""The quantum layer: replicas under vmap, methods, copies, shapes."""

import copy
import pickle

import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap

from qtl_utils.circuits.ansatze import ANSATZE
from qtl_utils.circuits.layer import QuantumLayer


def layers(count, ansatz="mari2019", **options):
    torch.manual_seed(1)
    return [QuantumLayer(3, 2, ansatz, angle_init=1.0, **options).double() for _ in range(count)]


@pytest.mark.parametrize("ansatz", ANSATZE)
def test_replicas_under_vmap_equal_single_layers(ansatz):
    modules, x = layers(4, ansatz), torch.randn(4, 5, 3, dtype=torch.float64, requires_grad=True)
    parameters, buffers = stack_module_state(modules)
    together = vmap(lambda p, b, x: functional_call(modules[0], (p, b), (x,)))(parameters, buffers, x)
    alone = torch.stack([module(x[i]) for i, module in enumerate(modules)])
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=0)
    grads = torch.autograd.grad(together.pow(2).sum(), [parameters["weights"], x])
    expected = torch.autograd.grad(alone.pow(2).sum(), [*(m.weights for m in modules), x])
    torch.testing.assert_close(grads[0], torch.stack(expected[:-1]), atol=1e-12, rtol=0)
    torch.testing.assert_close(grads[1], expected[-1], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("simulator", "method", "tolerance"),
    [
        ("default.qubit", "adjoint", 1e-10),
        ("default.qubit", "parameter-shift", 1e-10),
        ("lightning.qubit", "adjoint", 1e-6),  # PennyLane hands lightning's Jacobian on in float32
    ],
)
def test_other_methods_give_the_gradients_of_backprop(simulator, method, tolerance):
    reference = layers(1)[0]
    other = QuantumLayer(3, 2, simulator=simulator, diff_method=method).double()
    other.load_state_dict(reference.state_dict())
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(reference(x).pow(2).sum(), [reference.weights, x])
    found = torch.autograd.grad(other(x).pow(2).sum(), [other.weights, x])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


def test_copies_and_pickles_compute_the_same():
    layer, x = layers(1)[0], torch.randn(2, 3, dtype=torch.float64)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))


def test_float32_stays_float32_and_agrees_with_float64():
    layer, x = layers(1)[0], torch.randn(4, 3, dtype=torch.float64)
    single = copy.deepcopy(layer).float()(x.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), layer(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 4, 3), (0, 3)])
def test_leading_dimensions_are_kept(shape):
    assert layers(1)[0](torch.zeros(shape, dtype=torch.float64)).shape == shape


def test_fixed_angles_are_buffers_and_zero_or_uniform():
    assert not list(QuantumLayer(4, 6, angles="zero").parameters())
    assert not QuantumLayer(4, 6, angles="zero").weights.any()
    torch.manual_seed(0)
    angles = QuantumLayer(10, 100, angles="random").weights
    assert 0 <= angles.min() < 0.1 and 6.18 < angles.max() < 6.2832
    assert abs(angles.mean() - torch.pi) < 0.2


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match="expected 3 angles per sample.*shape"):
        layers(1)[0](torch.zeros(2, 4))
    with pytest.raises(ValueError, match="n_qubits must be at least 1"):
        QuantumLayer(0, 2)
    with pytest.raises(ValueError, match="angles must be"):
        QuantumLayer(2, 2, angles="some")
    with pytest.raises(ValueError, match="unknown simulator 'cirq'"):
        QuantumLayer(2, 2, simulator="cirq")
