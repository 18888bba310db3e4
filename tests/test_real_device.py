"""The path to a real device, on a fake backend in the place of one: Qiskit Runtime's local testing mode, no network."""

import numpy as np
import pennylane as qml
import pytest
import torch

from qtl_utils.circuits import real_device
from qtl_utils.circuits.ansatze import make_circuit
from qtl_utils.circuits.density import simulate_noisy
from qtl_utils.circuits.devices import load_backend, noisy_program, transpile_to
from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.circuits.real_device import RealDevice

SHAPE = (1, 2)
CIRCUIT = make_circuit("mari2019", "tanh", 2)


pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(autouse=True)
def no_account(monkeypatch):
    monkeypatch.delenv(real_device.TOKEN, raising=False)


class LocalService:
    """Gives the snapshot of a device where the real service gives the device."""

    def backend(self, name):
        return load_backend(name.removeprefix("ibm_"))


def on_manila(method="parameter-shift", shots=20_000):
    device = RealDevice(CIRCUIT, 2, SHAPE, "ibm:ibm_manila", shots, method, LocalService())
    device.options = {"simulator": {"seed_simulator": 3}}
    return device


def values():
    x = torch.tensor([[0.3, -0.7], [1.1, 0.4]], dtype=torch.float64, requires_grad=True)
    return x, torch.tensor([[0.5, -1.2]], dtype=torch.float64, requires_grad=True)


def simulated(device, x, w):
    """What is measured on average; local testing mode reads both bits wrongly with the mean of their errors."""
    done = transpile_to(device.backend, CIRCUIT, 2, SHAPE)
    z = simulate_noisy(noisy_program(done, device.backend, readout_error=False), x, w)
    wrong = [device.backend.target["measure"][(qubit,)].error for qubit in done.qubits]
    return z * (1 - 2 * torch.tensor(wrong))


def test_sampled_outputs_are_those_of_the_simulated_device():
    device, (x, w) = on_manila(), values()
    found = device(x, w)
    torch.testing.assert_close(
        found, simulated(device, x, w), atol=5 / np.sqrt(20_000), rtol=0
    )  # five standard errors at most
    assert device.executions == 2


def test_parameter_shift_gives_the_gradient_of_the_simulated_device():
    device, (x, w) = on_manila(), values()
    expected = torch.autograd.grad(simulated(device, x, w).sum(), (x, w))
    found = torch.autograd.grad(device(x, w).sum(), (x, w))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=0.05, rtol=0)  # two outputs and two samples: 5 standard errors
    assert device.executions == 2 + 2 * 2 * len(device.angles)


def test_a_phase_of_the_whole_circuit_asks_for_no_angle():
    def circuit(inputs, weights):
        qml.Hadamard(0)
        qml.PhaseShift(inputs[..., 0], wires=0)
        qml.RY(weights[..., 0, 0], wires=0)
        return [qml.expval(qml.PauliZ(0))]

    plain = transpile_to(load_backend("manila"), circuit, 1, (1, 1))
    own, _, parameters = real_device.with_own_angles(plain)
    assert set(own.circuit.parameters) == set(parameters)


def test_spsa_runs_two_circuits_a_sample():
    device, (x, w) = on_manila("spsa", shots=100), values()
    device(x, w).sum().backward()
    assert device.executions == 2 + 2 * 2
    assert x.grad.shape == x.shape
    assert w.grad.abs().min() > 0


def test_without_a_token_it_says_how_to_get_on():
    with pytest.raises(ValueError, match="set the environment variable QISKIT_IBM_TOKEN to your API key, or name"):
        RealDevice(CIRCUIT, 2, SHAPE, "ibm:ibm_manila", 100)


def test_shots_and_method_are_asked_for():
    with pytest.raises(ValueError, match="shots: a real device gives samples, no exact values; set shots"):
        on_manila(shots=None)
    with pytest.raises(ValueError, match="diff_method: a real device has no 'adjoint'; use parameter-shift or spsa"):
        on_manila("adjoint")


def test_the_token_goes_to_the_service_and_a_layer_to_the_device(monkeypatch):
    import qiskit_ibm_runtime

    given = {}
    service = lambda **options: given.update(options) or LocalService()  # noqa: E731
    monkeypatch.setattr(qiskit_ibm_runtime, "QiskitRuntimeService", service)
    monkeypatch.setenv(real_device.TOKEN, "a key")
    monkeypatch.delenv(real_device.INSTANCE, raising=False)
    layer = QuantumLayer(2, 1, simulator="device", device_name="ibm:ibm_manila", shots=50)
    assert given == {"channel": "ibm_quantum_platform", "token": "a key", "instance": None}
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    layer(x).sum().backward()
    assert layer.diff_method == "parameter-shift"
    assert layer.weights.grad.shape == layer.weights.shape
