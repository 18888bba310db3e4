"""One torch module for a parameterised circuit, whoever simulates and differentiates it."""

import copy
import math
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch._C._functorch import is_batchedtensor

from qtl_utils.circuits.ansatze import ANSATZE, ENCODINGS, Ansatz, Encoding, make_circuit
from qtl_utils.circuits.channels import NoiseModel
from qtl_utils.circuits.density import Tally, simulate_noisy
from qtl_utils.circuits.density import choose_executor as choose_noisy_executor
from qtl_utils.circuits.devices import DEVICES, device_program
from qtl_utils.circuits.noisy_program import NoisyProgram, compile_noisy
from qtl_utils.circuits.program import Program, compile_circuit
from qtl_utils.circuits.simulators import SIMULATORS, Task, training_run
from qtl_utils.circuits.statevector import choose_executor, simulate
from qtl_utils.study.config import SAMPLED
from qtl_utils.study.names import REAL_DEVICE, find


class QuantumLayer(nn.Module):
    """Expectation values <Z_i> of a circuit: angles (..., B, n_qubits) in radians -> (..., B, n_qubits).

    The trained angles `weights` have the shape the ansatz asks for and start at `angle_init` * randn radians, as in
    arXiv:1912.08278; `angles='zero'` fixes them at 0, `'random'` at U[0, 2 pi]. They are the same whatever the
    `simulator`, a key of SIMULATORS; `diff_method`, a key of METHODS, is the simulator's own where it is None.
    `executor`, of statevector and density: 'auto' (Numba on the CPU, else torch), 'numba' or 'torch'. Inside
    `torch.func.vmap` all replicas are simulated in one call. `noise` (channels after gates, misread bits) needs
    simulator='density', and `shots` (means of so many measurements instead of exact values) 'density' or 'device'.
    Shots are drawn anew at every call, in one stream for all replicas that `shot_seed` begins, and differentiated by
    parameter shift where no other method is named. `device_name`, of simulator='device': a key of DEVICES, whose
    calibration makes the noise, or 'ibm:NAME', a real device that your account can reach. Raises ValueError where the
    simulator refuses the method, noise or shots.

    `ansatz` and `encoding` are keys of ANSATZE and ENCODINGS; the layer takes angles, and `ENCODINGS[encoding].squash`
    makes them of features. It has no other parameters than `weights`, so that its `state_dict` is one tensor. Any dtype
    of float32 and float64 comes back as it went in.

        layer = QuantumLayer(n_qubits=4, depth=6)
        layer(torch.rand(32, 4))  # (32, 4), each in [-1, 1]
    """

    is_circuit = True

    def __init__(
        self,
        n_qubits: int,
        depth: int,
        ansatz: str = "mari2019",
        encoding: str = "tanh",
        angle_init: float = 0.01,
        angles: str = "trained",
        simulator: str = "statevector",
        diff_method: str | None = None,
        executor: str = "auto",
        noise: NoiseModel | None = None,
        shots: int | None = None,
        shot_seed: int = 0,
        device_name: str | None = None,
    ):
        super().__init__()
        if n_qubits < 1 or depth < 0:
            raise ValueError(f"n_qubits must be at least 1 and depth at least 0, got {n_qubits} and {depth}")
        self.n_qubits = n_qubits
        self.depth = depth
        self.ansatz = ansatz
        self.encoding = encoding
        self.executor = executor
        shape = find("ansatz", ansatz, ANSATZE).shape(n_qubits, depth)
        drawn = torch.randn(shape)  # drawn whatever `angles` says, so that later layers start alike in every variant
        if angles == "trained":
            self.weights = nn.Parameter(angle_init * drawn)
        elif angles in ("zero", "random"):
            # the normal distribution function makes uniform angles of the same draw
            uniform = math.tau * torch.special.ndtr(drawn)
            self.register_buffer("weights", uniform if angles == "random" else torch.zeros(shape))
        else:
            raise ValueError(f"angles must be 'trained', 'zero' or 'random', got '{angles}'")
        self.run_on(simulator, diff_method, noise, shots, shot_seed, device_name)

    def run_on(self, simulator, diff_method=None, noise=None, shots=None, shot_seed=0, device_name=None) -> None:
        """From now on the circuit is simulated so, with the same angles."""
        own = find("simulator", simulator, SIMULATORS).own
        _check(simulator, noise, shots, device_name)
        self.simulator = simulator
        self.diff_method = diff_method or (own if shots is None else "parameter-shift")
        self.noise = noise
        self.device_name = device_name
        self.shots = shots
        self.draws = np.random.default_rng(shot_seed)
        self.tally = Tally()  # of the circuits that density and device have run
        self._prepare()

    def _prepare(self):
        """Makes what simulates the circuit: a program, or the run of another simulator."""
        rows = find("ansatz", self.ansatz, ANSATZE), find("encoding", self.encoding, ENCODINGS)
        if self.simulator == "statevector":
            choose_executor(self.executor, "cpu", self.diff_method)
            self.program = _program(self.ansatz, self.encoding, self.n_qubits, self.depth, *rows)
            return
        settings = self.ansatz, self.encoding, self.n_qubits, self.depth
        if self.ours:
            choose_noisy_executor(self.executor, "cpu", self.diff_method, self.shots)
            if self.simulator == "device":
                self.program = _device_program(*settings, *rows, self.device_name)
            else:
                self.program = _noisy_program(*settings, *rows, self.noise)
            return
        task = Task(make_circuit(self.ansatz, self.encoding, self.n_qubits), self.n_qubits, self.weights.shape)
        asked = {"device_name": self.device_name, "shots": self.shots} if self.simulator == "device" else {}
        self._simulated = training_run(task, self.simulator, self.diff_method, **asked)

    @property
    def ours(self) -> bool:
        """Whether this study's executors run the circuit, which take a weight set a replica."""
        real = (self.device_name or "").startswith(REAL_DEVICE)
        return self.simulator in ("statevector", "density", "device") and not real

    def __getstate__(self):  # QNodes cannot be pickled or deep-copied; they are made again from the settings
        return {key: value for key, value in self.__dict__.items() if key not in ("_simulated", "program")}

    def __setstate__(self, state):
        super().__setstate__(state)
        self._prepare()

    def forward(self, inputs: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """<Z_i> (..., B, n_qubits) of angles `inputs` (..., B, n_qubits), radians.

        `weights` (..., *shape), where `ours`: in the place of the layer's own, one set a replica.
        """
        if inputs.shape[-1] != self.n_qubits:
            raise ValueError(f"expected {self.n_qubits} angles per sample, got inputs of shape {tuple(inputs.shape)}")
        weights = self.weights if weights is None else weights
        if self.simulator == "statevector":
            return simulate(self.program, inputs, weights, self.executor, self.diff_method)
        if self.ours:
            how = self.executor, self.diff_method, self.shots, self.draws
            return simulate_noisy(self.program, inputs, weights, *how, tally=self.tally)
        if is_batchedtensor(inputs) or is_batchedtensor(self.weights):
            return _Replicas.apply(inputs, self.weights, self)
        batch = inputs.shape[:-1]
        out = self.run(inputs.reshape(1, -1, self.n_qubits), self.weights[None])
        return out.reshape(*batch, self.n_qubits)

    def run(self, inputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Angles (R, B, n) and R weight sets (R, *shape) -> expectation values (R, B, n), simulated in one call."""
        if inputs.device.type == "mps":  # which has no double precision; the circuit is small enough for the CPU
            return self.run(inputs.cpu(), weights.cpu()).to(inputs.device)
        replicas, batch, _ = inputs.shape
        if not replicas * batch:
            return inputs.new_zeros(inputs.shape) * inputs.sum()
        if replicas > 1 and not SIMULATORS[self.simulator].weight_sets:
            return torch.cat([self.run(x[None], w[None]) for x, w in zip(inputs, weights, strict=True)])
        flat = inputs.reshape(replicas * batch, self.n_qubits)
        # each replica's weights repeated over its batch: (R * B, *shape)
        sets = weights.repeat_interleave(batch, dim=0) if replicas > 1 else weights[0]
        return self._simulated(flat, sets).reshape(inputs.shape)

    def extra_repr(self):
        who = self.simulator
        if who == "statevector":
            who += f" ({choose_executor(self.executor, self.weights.device.type, self.diff_method)})"
        elif self.ours:
            who += f" ({choose_noisy_executor(self.executor, self.weights.device.type, self.diff_method, self.shots)})"
            who += ", noise" * (self.noise is not None) + f", {self.shots} shots" * (self.shots is not None)
        who += f" {self.device_name}" * (self.device_name is not None)
        return f"{self.n_qubits} qubits, depth {self.depth}, {self.ansatz}, {who}, {self.diff_method}"


@lru_cache(maxsize=64)  # the registry rows are part of the key: a row that was replaced is compiled again
def _program(ansatz: str, encoding: str, n_qubits: int, depth: int, row: Ansatz, encoding_row: Encoding) -> Program:
    return compile_circuit(make_circuit(ansatz, encoding, n_qubits), n_qubits, row.shape(n_qubits, depth))


@lru_cache(maxsize=64)
def _noisy_program(
    ansatz: str, encoding: str, n_qubits: int, depth: int, row: Ansatz, encoding_row: Encoding, noise: NoiseModel | None
) -> NoisyProgram:
    return compile_noisy(make_circuit(ansatz, encoding, n_qubits), n_qubits, row.shape(n_qubits, depth), noise)


@lru_cache(maxsize=64)
def _device_program(
    ansatz: str, encoding: str, n_qubits: int, depth: int, row: Ansatz, encoding_row: Encoding, device: str
) -> NoisyProgram:
    return device_program(make_circuit(ansatz, encoding, n_qubits), n_qubits, row.shape(n_qubits, depth), device)


def _check(simulator: str, noise: NoiseModel | None, shots: int | None, device_name: str | None) -> None:
    if noise is not None and simulator != "density":
        raise ValueError(f"noise needs simulator='density', not '{simulator}'")
    if shots is not None and simulator not in SAMPLED:
        raise ValueError(f"shots need simulator='density' or 'device', not '{simulator}'")
    if (simulator == "device") != (device_name is not None):
        raise ValueError(f"simulator='device' needs a device_name, and no other does; known: {', '.join(DEVICES)}")


def with_simulator(module: nn.Module, simulator: str, **settings) -> nn.Module:
    """A copy of `module` whose circuits run on `simulator`, with the same angles; `settings` as QuantumLayer has them.

    diff_method, noise, shots and device_name are those of `settings` alone. Raises ValueError as QuantumLayer does.
    """
    copied = copy.deepcopy(module)
    for layer in copied.modules():
        if isinstance(layer, QuantumLayer):
            layer.run_on(simulator, **settings)
    return copied


def evaluated_on(head: nn.Module, device_name: str, shots: int | None = None) -> nn.Module:
    """A copy of a trained `head` that runs on a device, with the angles it was trained to."""
    return with_simulator(head, "device", device_name=device_name, shots=shots)


class _Replicas(torch.autograd.Function):
    """Under `vmap`, hands all replicas to `QuantumLayer.run` at once, where ordinary autograd sees them."""

    @staticmethod
    def forward(inputs, weights, layer):
        raise RuntimeError("QuantumLayer inside torch.func.grad is not supported; differentiate outside of vmap")

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def vmap(info, in_dims, inputs, weights, layer):
        replicas = info.batch_size
        inputs = inputs.movedim(in_dims[0], 0) if in_dims[0] is not None else inputs.expand(replicas, *inputs.shape)
        sets = weights.movedim(in_dims[1], 0) if in_dims[1] is not None else weights.expand(replicas, *weights.shape)
        out = layer.run(inputs.reshape(replicas, -1, layer.n_qubits), sets)
        return out.reshape(inputs.shape), 0
