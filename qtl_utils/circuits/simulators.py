"""Simulator x differentiation method: who gives which gradient of the same circuit, at which cost, and who refuses.

SIMULATORS and METHODS are registries: a row added to either takes part in every table, and trains where a study says
`simulator: NAME` or `diff_method: NAME`. A method of one's own for PennyLane's simulators, a central difference with a
step of 0.1:

    METHODS["coarse"] = Method("difference with a large step", "P", "1", pennylane="finite-diff",
                               options=lambda n: {"h": 0.1, "strategy": "center", "approx_order": 2})
"""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import pennylane as qml
import torch

from qtl_utils.circuits import density, statevector
from qtl_utils.circuits.ansatze import ANSATZE, make_circuit
from qtl_utils.circuits.channels import NoiseModel
from qtl_utils.circuits.noisy_program import NoisyProgram, compile_noisy
from qtl_utils.circuits.program import CONSTANT, compile_circuit, trace
from qtl_utils.study.names import REAL_DEVICE, find

Run = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # inputs (B, n_in), weights -> outputs (B, n_out)


@dataclass(frozen=True)
class Task:
    """A circuit `f(inputs, weights)` to be simulated, with as many inputs as qubits."""

    circuit: Callable
    n_qubits: int
    weight_shape: tuple[int, ...]

    @property
    def counts(self) -> "Counts":
        return _counts(self.circuit, self.n_qubits, self.weight_shape)


@dataclass(frozen=True)
class Counts:
    """Sizes of a circuit: gates whose angle is differentiated (an input used twice is two), outputs, all gates."""

    gates: int
    outputs: int
    all_gates: int


@dataclass(frozen=True)
class Method:
    """A way to differentiate.

    `time` and `memory` are its textbook costs beside a forward pass, in P angles, G gates and n qubits. `pennylane` is
    PennyLane's name for it ('' where it has none), `options(n_qubits)` its keywords. `executions(counts)` is how many
    circuits PennyLane runs for one sample, forward and backward. `alias` names the same method elsewhere; `analytic`
    methods are exact but for rounding and, with shots, unbiased.
    """

    about: str
    time: str
    memory: str
    pennylane: str = ""
    options: Callable[[int], dict] = lambda n: {}
    executions: Callable[[Counts], int] | None = None
    extra_wires: int = 0
    alias: str = ""
    analytic: bool = True
    broadcasts: bool = False  # it differentiates a batch at once; else PennyLane needs a tape per sample (its #6078)


METHODS: dict[str, Method] = {
    "backprop": Method(
        "reverse mode through every gate", "1", "G", "backprop", executions=lambda c: 1, broadcasts=True
    ),
    "adjoint": Method(
        "gates undone one by one (arXiv:2009.02823)", "1", "1", "adjoint", executions=lambda c: 2, broadcasts=True
    ),
    "parameter-shift": Method(
        "two shifted circuits an angle (arXiv:1811.11184)",
        "P",
        "1",
        "parameter-shift",
        executions=lambda c: 1 + 2 * c.gates,
    ),
    "hadamard": Method(
        "one circuit an angle, with an auxiliary qubit",
        "P",
        "1 (n + 1 qubits)",
        "hadamard",
        options=lambda n: {"aux_wire": n},
        executions=lambda c: 1 + c.gates,
        extra_wires=1,
        alias="lin-comb",
    ),
    "lin-comb": Method(
        "the same in Qiskit's words: linear combination of unitaries", "P", "1 (n + 1 qubits)", alias="hadamard"
    ),
    "finite-diff": Method("forward difference, step 1e-7", "P", "1", "finite-diff", executions=lambda c: 2 + c.gates),
    "spsa": Method(
        "one random direction for all angles",
        "1",
        "1",
        "spsa",
        options=lambda n: {"sampler_rng": np.random.default_rng(0)},
        executions=lambda c: 3,
        analytic=False,
    ),
}


@dataclass(frozen=True)
class Simulator:
    """Who simulates. `build(task, method)` makes the run and a context manager that counts executions in a list."""

    about: str
    build: Callable[..., tuple[Run, Callable]]
    own: str  # the method it is meant to be used with
    executions: Callable[[str, Counts], int | None]  # of one sample, forward and backward
    state: Callable[[int], int]  # bytes of one state of n qubits
    workarounds: tuple[tuple[str, dict], ...] = ()  # sentences and the keywords of `build` they stand for
    weight_sets: bool = True  # takes a weight set per sample, (B, *shape), in the place of one for all
    exact: bool = True  # gives the numbers of the circuit itself; others need more than a circuit, and are in no table


def _pennylane(task: Task, method: str, device: str = "", one_by_one: bool = False, shots=None, **options):
    row = find("differentiation method", method, METHODS)
    if not row.pennylane:
        raise ValueError(f"PennyLane has no differentiation method '{method}'")
    wires = task.n_qubits + row.extra_wires
    device = qml.device(device, wires=wires, **({"seed": 0} if shots else {}))
    options = row.options(task.n_qubits) | options
    node = qml.QNode(
        task.circuit, device, interface="torch", diff_method=row.pennylane, shots=shots, gradient_kwargs=options
    )
    if one_by_one:
        node = qml.transforms.broadcast_expand(node)

    @contextmanager
    def count() -> Iterator[list[int]]:
        total = [0]
        with qml.Tracker(device) as tracker:
            yield total
        total[0] = tracker.totals.get("executions", 0) + tracker.totals.get("derivatives", 0)

    def run(inputs, weights):
        return torch.stack(tuple(node(inputs, weights)), -1).to(inputs.dtype)

    return run, count


def _pennylane_executions(method: str, counts: Counts, factor: int = 1) -> int | None:
    formula = METHODS[method].executions
    return None if formula is None else formula(counts) * (factor if method == "adjoint" else 1)


def _statevector(task: Task, method: str, shots: int | None = None):
    if shots:
        raise ValueError("statevector has no shots: it gives expectation values, not samples")
    if method not in ("adjoint", "backprop"):
        statevector.choose_executor("auto", "cpu", method)  # refuses
    program = compile_circuit(task.circuit, task.n_qubits, task.weight_shape)
    seen = [0]

    def run(inputs, weights):
        seen[0] += len(inputs)
        out = statevector.simulate(program, inputs, weights, diff_method=method)
        if method == "adjoint" and out.requires_grad:
            out.register_hook(lambda gradient: seen.__setitem__(0, seen[0] + len(gradient)))
        return out

    @contextmanager
    def count():
        total = [0]
        before = seen[0]
        yield total
        total[0] = seen[0] - before

    return run, count


def _density(task: Task, method: str, shots: int | None = None, noise: NoiseModel | None = None, **options):
    density.choose_executor("auto", "cpu", method, shots)  # refuses
    return _noisy(compile_noisy(task.circuit, task.n_qubits, task.weight_shape, noise), task, method, shots, options)


def _device(task: Task, method: str, device_name: str, shots: int | None = None, **options):
    if device_name.startswith(REAL_DEVICE):
        return _real_device(task, method, device_name, shots)
    from qtl_utils.circuits.devices import device_program

    density.choose_executor("auto", "cpu", method, shots)
    program = device_program(task.circuit, task.n_qubits, task.weight_shape, device_name)
    return _noisy(program, task, method, shots, options)


def _noisy(program: NoisyProgram, task: Task, method: str, shots: int | None, options: dict):
    options = {"seed": np.random.default_rng(0)} | options
    tally = density.Tally()

    def run(inputs, weights):
        how = {"diff_method": method, "shots": shots, "tally": tally} | options
        if weights.dim() == len(task.weight_shape):
            return density.simulate_noisy(program, inputs, weights, **how)
        return density.simulate_noisy(program, inputs[:, None], weights, **how)[:, 0]  # a weight set per sample

    return run, _counting(tally)


def _real_device(task: Task, method: str, name: str, shots: int | None):
    from qtl_utils.circuits.real_device import RealDevice

    device = RealDevice(task.circuit, task.n_qubits, task.weight_shape, name, shots, method)
    return device, _counting(device)


def _counting(counted):
    """A context manager that counts in a list what `counted.executions` grows by."""

    @contextmanager
    def count():
        total = [0]
        before = counted.executions
        yield total
        total[0] = counted.executions - before

    return count


def _density_executions(method: str, counts: Counts) -> int | None:
    formula = METHODS[method].executions
    return formula(counts) if method in density.DIFF_METHODS else None


def _qiskit(task: Task, method: str, shots: int | None = None):
    from qtl_utils.circuits.qiskit_layer import QiskitCircuit

    if shots:
        raise ValueError("Qiskit's exact estimator has no shots; give EstimatorQNN another estimator")
    layer = QiskitCircuit(task.circuit, task.n_qubits, task.weight_shape, method)
    return layer, _counting(layer.network.estimator)


def _qiskit_executions(method: str, counts: Counts) -> int | None:
    per_output = {"parameter-shift": 1 + 2 * counts.gates, "lin-comb": 1 + counts.gates, "spsa": 3}
    return counts.outputs * per_output[method] if method in per_output else None


_BROADCAST = (("qml.transforms.broadcast_expand(qnode)", {"one_by_one": True}),)
SIMULATORS: dict[str, Simulator] = {
    "statevector": Simulator(
        "this study's own, compiled, exact",
        _statevector,
        "adjoint",
        lambda method, counts: {"adjoint": 2, "backprop": 1}.get(method),
        lambda n: 16 * 2**n,
    ),
    "density": Simulator(
        "this study's own, with noise and shots",
        _density,
        "adjoint",
        _density_executions,
        lambda n: 8 * 4**n,
    ),
    "device": Simulator(
        "density matrices under a real device's calibration",
        _device,
        "adjoint",
        _density_executions,
        lambda n: 8 * 4**n,
        exact=False,
    ),
    "default.qubit": Simulator(
        "PennyLane's reference, in Python",
        partial(_pennylane, device="default.qubit"),
        "backprop",
        _pennylane_executions,
        lambda n: 16 * 2**n,
        _BROADCAST,
    ),
    "default.mixed": Simulator(
        "PennyLane's density matrices, for noise",
        partial(_pennylane, device="default.mixed"),
        "backprop",
        _pennylane_executions,
        lambda n: 16 * 4**n,
        _BROADCAST,
    ),
    "lightning.qubit": Simulator(
        "PennyLane's compiled simulator",
        partial(_pennylane, device="lightning.qubit"),
        "adjoint",
        # execution and derivative both happen in the forward pass and, for torch, again in the backward pass
        partial(_pennylane_executions, factor=2),
        lambda n: 16 * 2**n,
        _BROADCAST,
    ),
    "qiskit": Simulator(
        "Qiskit Machine Learning's EstimatorQNN, exact",
        _qiskit,
        "parameter-shift",
        _qiskit_executions,
        lambda n: 16 * 2**n,
        weight_sets=False,
    ),
}


def exact_simulators() -> list[str]:
    """The simulators that give the numbers of a circuit itself, and so can be compared with each other."""
    return [name for name, row in SIMULATORS.items() if row.exact]


def training_run(task: Task, simulator: str, diff_method: str, **settings) -> Run:
    """`task` on `simulator` as a layer trains it: a batch at once, differentiated by `diff_method`.

    settings: what the simulator needs beside the circuit, such as a device_name.
    Raises ValueError where there is no such simulator or method, or where one refuses the other.
    """
    row = find("simulator", simulator, SIMULATORS)
    method = find("differentiation method", diff_method, METHODS)
    around = {"one_by_one": True} if row.workarounds and not method.broadcasts else {}
    return partial(
        row.build(task, diff_method, **around, **settings)[0]
    )  # no module: a layer that keeps it has the angles alone


def study_task(ansatz: str, encoding: str, n_qubits: int, depth: int) -> Task:
    """The circuit of a study as a task."""
    shape = find("ansatz", ansatz, ANSATZE).shape(n_qubits, depth)
    return Task(make_circuit(ansatz, encoding, n_qubits), n_qubits, shape)


def _counts(circuit, n_qubits, weight_shape) -> Counts:
    values = torch.rand(n_qubits, dtype=torch.float64), torch.rand(weight_shape, dtype=torch.float64)
    gates, angles, outputs = trace(circuit, *values)
    return Counts(sum(a.source != CONSTANT for a in angles), len(outputs), len(gates))


def draw(task: Task, batch: int, seed: int = 0, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Random inputs (batch, n_qubits) and weights that want gradients, radians."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand((batch, task.n_qubits), generator=generator, dtype=dtype) * 3 - 1.5
    weights = torch.randn(task.weight_shape, generator=generator, dtype=dtype)
    return inputs.requires_grad_(), weights.requires_grad_()


def refusal(error: Exception) -> str:
    """What an error says, verbatim but for addresses in memory, which differ from run to run."""
    text = " ".join(str(error).split()) or repr(error)
    return f"{type(error).__name__}: " + re.sub(r" at 0x[0-9a-f]+", "", text)


def gradients(run: Run, inputs: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs and the gradients of a fixed random projection of them, with respect to inputs and angles."""
    out = run(inputs, weights)
    generator = torch.Generator().manual_seed(1)
    projection = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out)
    of_inputs, of_angles = torch.autograd.grad((out * projection).sum(), [inputs, weights])
    return {"outputs": out.detach(), "inputs": of_inputs, "angles": of_angles}


def open_cell(task: Task, simulator: str, method: str, batch: int = 2, **options) -> dict:
    """Runs a step of `method` on `simulator`, or of a way around its refusal.

    Keys: run and count (None where nothing works), status 'works', 'works around' or 'refuses', error (verbatim),
    workaround (what was run instead and worked).
    """
    row = SIMULATORS[simulator]
    inputs_and_weights = draw(task, batch)
    cell = {"run": None, "count": None, "status": "refuses", "error": "", "workaround": ""}
    ways = [("", {}), *row.workarounds]
    others = [name for name in (METHODS[method].alias, row.own) if name and name != method]
    others = [(f"diff_method='{name}'", {"method": name}) for name in others]
    ways += [(", ".join(filter(None, [t, text])), changed | kw) for t, changed in others for text, kw in ways]
    for text, changed in ways:
        try:
            run, count = row.build(task, **{"method": method} | options | changed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                gradients(run, *inputs_and_weights)
        except Exception as error:  # whatever a simulator raises is its answer
            cell["error"] = cell["error"] or refusal(error)
            continue
        cell["workaround"] = text
        if "method" not in changed:
            cell |= {"run": run, "count": count, "status": "works around" if text else "works"}
        break
    return cell


def relative_error(found: torch.Tensor, reference: torch.Tensor) -> float:
    """|found - reference| / |reference| in the Euclidean norm; absolute where the reference is zero."""
    norm = reference.norm().item()
    return (found - reference).norm().item() / (norm or 1.0)


def reference_gradients(task: Task, inputs: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """By reverse mode through default.qubit in float64."""
    run, _ = SIMULATORS["default.qubit"].build(task, "backprop")
    return gradients(run, inputs, weights)
