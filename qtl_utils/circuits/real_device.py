"""A real device by the user's own account: expectation values of measured bits, gradients from shifted circuits.

The same circuit as `devices` simulates is sent to IBM's service by Qiskit's Sampler. One call sends one job: all
samples of a batch, and for gradients all their shifted circuits, are parameter values of the same circuit.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from qtl_utils.circuits.density import STEP
from qtl_utils.circuits.devices import DEVICES, Transpiled, has_parameters, linear_angles, transpile_to
from qtl_utils.circuits.noisy_program import measured
from qtl_utils.circuits.program import INPUT, WEIGHT, Angle
from qtl_utils.study.names import REAL_DEVICE

TOKEN = "QISKIT_IBM_TOKEN"  # environment variables: the API key, and the instance where the account has several
INSTANCE = "QISKIT_IBM_INSTANCE"
METHODS = ("parameter-shift", "spsa")


def refuses(diff_method: str, shots: int | None, service=None) -> str:
    """Why a real device cannot be used so, as 'key: what is wrong; how to mend it', or ''. Asks no network."""
    if diff_method not in METHODS:
        return f"diff_method: a real device has no '{diff_method}'; use {' or '.join(METHODS)}"
    if not shots:
        return "shots: a real device gives samples, no exact values; set shots: 1000, or another number"
    if service is None and not os.environ.get(TOKEN):
        return (
            f"device_name: a real device needs an account of IBM Quantum; set the environment variable {TOKEN} to your "
            f"API key, or name a device whose calibration is at hand ({', '.join(DEVICES)})"
        )
    return ""


@lru_cache(maxsize=4)
def open_service(token: str, instance: str | None):
    """IBM's service for the account with the API key `token`."""
    from qiskit_ibm_runtime import QiskitRuntimeService

    return QiskitRuntimeService(channel="ibm_quantum_platform", token=token, instance=instance)


def with_own_angles(transpiled: Transpiled) -> tuple[Transpiled, list[Angle], list]:
    """The circuit with a parameter for every gate with an angle, the parts of these angles, and the parameters.

    Every gate turns by its own parameter, so that each can be shifted alone; an angle that is the sum of several
    elements is several gates in a row.
    """
    from qiskit.circuit import Parameter

    circuit = transpiled.circuit.copy_empty_like()
    circuit.global_phase = 0  # which may hold a parameter that no gate has any more, and changes no expectation value
    angles, parameters = [], []
    for item in transpiled.circuit.data:
        gate = item.operation
        if not has_parameters(gate):
            circuit.append(item)
            continue
        for angle in linear_angles(gate.params[0], transpiled.elements):
            parameters.append(Parameter(f"t{len(parameters):05d}"))
            angles.append(angle)
            circuit.append(type(gate)(parameters[-1]), item.qubits)
    return replace(transpiled, circuit=circuit), angles, parameters


class RealDevice:
    """A circuit on a device of IBM's: inputs (B, n_inputs) and weights -> sampled expectation values (B, n_outputs).

    shots: of every circuit. diff_method: 'parameter-shift', unbiased, 2 circuits a gate with an angle and sample; or
    'spsa', 2 circuits a sample. `executions` counts circuits. service: as `open_service` gives it.
    """

    def __init__(
        self, circuit: Callable, n_qubits, weight_shape, name, shots, diff_method="parameter-shift", service=None
    ):
        if reason := refuses(diff_method, shots, service):
            raise ValueError(reason)
        service = service or open_service(os.environ[TOKEN], os.environ.get(INSTANCE))
        self.backend = service.backend(name.removeprefix(REAL_DEVICE))
        transpiled = transpile_to(self.backend, circuit, n_qubits, weight_shape)
        self.transpiled, self.angles, self.parameters = with_own_angles(transpiled)
        nothing = 0, (0,), transpiled.n_wires, []
        self.measurement = measured(*nothing, transpiled.outputs).measurement
        self.wires = tuple(enumerate(self.measurement.wires))
        self.shots = shots
        self.diff_method = diff_method
        self.executions = 0
        self.generator = np.random.default_rng(0)  # the directions of spsa
        self.options = {}  # of the sampler

    def __call__(self, inputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """weights: one set for all, or one a sample."""
        angles = self._angles_of(inputs, weights)  # (B, G)
        return _Sampled.apply(angles, self).to(inputs.dtype)

    def _angles_of(self, inputs, weights) -> torch.Tensor:
        flat = weights.reshape(*weights.shape[: weights.dim() - len(self.transpiled.weight_shape)], -1)
        flat = flat.expand(len(inputs), -1)
        of = {INPUT: inputs, WEIGHT: flat}
        return torch.stack([a.factor * of[a.source][:, a.index] + a.offset for a in self.angles], -1)

    def measure(self, angles: np.ndarray) -> np.ndarray:
        """Angles (N, G) -> sampled outputs (N, n_outputs), by one job."""
        from qiskit_ibm_runtime.executor_sampler import Sampler

        sampler = Sampler(mode=self.backend, options=self.options)
        pub = (self.transpiled.circuit, {tuple(self.parameters): angles})
        bits = sampler.run([pub], shots=self.shots).result()[0].data.meas.array  # (N, shots, bytes), highest byte first
        self.executions += len(angles)
        strings = sum((bits[..., -1 - wire // 8] >> wire % 8 & 1).astype(int) << i for i, wire in self.wires)
        return self.measurement.values[:, strings].mean(-1).T


class _Sampled(torch.autograd.Function):
    """Sampled outputs of angles (B, G), with gradients from more samples."""

    @staticmethod
    def forward(ctx, angles, device):
        ctx.device = device
        ctx.save_for_backward(angles)
        return torch.as_tensor(device.measure(angles.detach().cpu().double().numpy()))

    @staticmethod
    def backward(ctx, gradient):
        (angles,) = ctx.saved_tensors
        rule = shifted if ctx.device.diff_method == "parameter-shift" else perturbed
        slopes = rule(ctx.device, angles.cpu().double().numpy(), gradient.cpu().double().numpy())
        return torch.as_tensor(slopes).to(angles), None


def shifted(device: RealDevice, angles: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The gradient (B, G) by two shifts an angle t (arXiv:1811.11184): (f(t + pi/2) - f(t - pi/2)) / 2."""
    batch, gates = angles.shape
    shifts = np.pi / 2 * np.concatenate([np.eye(gates), -np.eye(gates)])  # (2 G, G)
    found = device.measure((angles[:, None] + shifts).reshape(-1, gates)).reshape(batch, 2, gates, -1)
    return np.einsum("bgk,bk->bg", (found[:, 0] - found[:, 1]) / 2, gradient)


def perturbed(device: RealDevice, angles: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The gradient (B, G) along one random direction of signs a sample: simultaneous perturbation."""
    signs = device.generator.choice([-1.0, 1.0], angles.shape)
    step = STEP["spsa"]
    plus, minus = np.split(device.measure(np.concatenate([angles + step * signs, angles - step * signs])), 2)
    slopes = ((plus - minus) * gradient).sum(-1) / (2 * step)
    return slopes[:, None] * signs
