"""Real devices by name: a circuit transpiled to one by Qiskit, with the noise of its recorded calibration.

The calibrations are snapshots that come with the package qiskit-ibm-runtime (its fake backends): coupling map, basis
gates, T1, T2, gate errors and times, readout errors. No network is asked.

The noise is that of Qiskit Aer's `NoiseModel.from_backend`. A gate is followed by depolarisation and then, on each of
its qubits, by thermal relaxation to |0> for as long as the gate takes (T2 cut at 2 T1). With the average gate fidelity
F of that relaxation, d = 2 or 4 and the calibrated gate error e, depolarisation leaves 1 - d (e - (1 - F)) / (d F - 1)
of every Pauli expectation value but that of the identity, so that both together have the error e; where relaxation
alone has more than e, there is none. Gates without duration (rz) have no noise. A bit is read wrongly with the
calibrated probabilities p(1|0) and p(0|1), as in Aer's `from_backend_properties`; `from_backend` takes their mean for
both. Not in the model: crosstalk, leakage, drift, coherent errors, errors of preparation, relaxation while bits are
read, and the waiting of qubits, unless `idle` asks for it.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from qtl_utils.circuits.channels import Channel, Readout, depolarizing, ptm_of, thermal_relaxation
from qtl_utils.circuits.noisy_program import MOST_QUBITS, Map, NoisyProgram, Turn, bases_of, measured
from qtl_utils.circuits.program import INPUT, WEIGHT, Angle
from qtl_utils.study.names import find

LEVEL = 3  # of Qiskit's transpiler: the one that tries every placement and takes that of the least calibrated error
TURNS = {"rx": "X", "ry": "Y", "rz": "Z", "p": "Z", "rxx": "XX", "ryy": "YY", "rzz": "ZZ"}


@dataclass(frozen=True)
class Device:
    """A device as its snapshot has it; `backend` is the class in qiskit_ibm_runtime.fake_provider."""

    backend: str
    generation: str
    n_qubits: int
    calibrated: str  # the day on which the snapshot was taken

    @property
    def about(self) -> str:
        return f"{self.n_qubits} qubits, {self.generation}, calibrated on {self.calibrated}"


DEVICES: dict[str, Device] = {
    "yorktown": Device("FakeYorktownV2", "Canary r1", 5, "2021-03-15"),
    "manila": Device("FakeManilaV2", "Falcon r5.11", 5, "2024-05-27"),
    "kolkata": Device("FakeKolkataV2", "Falcon r5.11", 27, "2021-12-09"),
    "brooklyn": Device("FakeBrooklynV2", "Hummingbird r2", 65, "2021-07-26"),
    "sherbrooke": Device("FakeSherbrooke", "Eagle r3", 127, "2025-02-26"),
    "torino": Device("FakeTorino", "Heron r1", 133, "2025-02-26"),
    "fez": Device("FakeFez", "Heron r2", 156, "2025-02-26"),
    "pittsburgh": Device("FakePittsburgh", "Heron r3", 156, "2026-04-17"),
    "miami": Device("FakeMiami", "Nighthawk r1", 120, "2026-04-17"),
}


@lru_cache(maxsize=16)
def load_backend(device_name: str):
    """The fake backend of a device; ValueError with the known names where there is none."""
    row = find("device", device_name, DEVICES)
    from qiskit_ibm_runtime import fake_provider

    return getattr(fake_provider, row.backend)()


@lru_cache(maxsize=16)
def calibration(backend):
    """The calibrated properties of a backend; reading them takes long."""
    return backend.properties()


# ---- transpiling -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Transpiled:
    """A circuit as a device runs it.

    circuit: on all qubits of the device, measured at its end; wire w is read into bit w. inputs and weights: its
    parameters. outputs: sums of words of Z on wires, {((wire, "Z"), ...): factor} each. qubits: the physical ones it
    touches; wire w is measured on qubits[w], and those beyond the n_wires only help with routing.
    """

    circuit: object
    inputs: tuple
    weights: tuple
    weight_shape: tuple[int, ...]
    outputs: tuple[dict, ...]
    n_wires: int
    qubits: tuple[int, ...]
    target: object

    @cached_property
    def elements(self) -> dict:
        """Source and index of every parameter, as an Angle has them."""
        found = {p: (INPUT, i) for i, p in enumerate(self.inputs)}
        return found | {p: (WEIGHT, i) for i, p in enumerate(self.weights)}


def transpile_to(
    backend,
    circuit: Callable,
    n_qubits: int,
    weight_shape: Iterable[int],
    n_inputs: int | None = None,
    seed: int = 0,
    idle: bool = False,
) -> Transpiled:
    """The quantum function `circuit(inputs, weights)` transpiled to `backend` at optimisation level 3.

    That level tries the placements of the wires on the device and takes the one with the least calibrated error, as
    who pays for a device would. Only basis gates are used, not the fractional ones (rx, rzz) that some devices offer on
    demand. `seed` is that of the routing. idle: with delays where qubits wait, as late as possible. Raises ValueError
    for a device that is too small, and where a wire is measured in two ways.
    """
    from qiskit.transpiler import generate_preset_pass_manager

    from qtl_utils.circuits.qiskit_layer import convert

    if n_qubits > backend.num_qubits:
        raise ValueError(f"{backend.name} has {backend.num_qubits} qubits, and the circuit {n_qubits}; use fewer")
    weight_shape = tuple(weight_shape)
    found = convert(circuit, n_qubits, weight_shape, n_inputs)
    outputs = measure(found)
    target = basis_target(backend)
    passes = generate_preset_pass_manager(
        optimization_level=LEVEL, target=target, seed_transpiler=seed, scheduling_method="alap" if idle else None
    )
    done = passes.run(found.circuit)
    names = tuple(found.inputs), tuple(found.weights)
    return Transpiled(done, *names, weight_shape, outputs, n_qubits, _touched(done), target)


def measure(converted) -> tuple[dict, ...]:
    """Measures all wires of a converted circuit, X and Y after gates that turn them to Z; the outputs, in Z."""
    terms = [observable.to_sparse_list() for observable in converted.observables]
    outputs = [{tuple(sorted(zip(w, k, strict=True))): c.real for k, w, c in term} for term in terms]
    if (letters := bases_of(outputs)) is None:
        raise ValueError("a device measures a wire in one way, and the circuit returns several; leave some out")
    for wire, letter in letters.items():
        if letter == "Y":
            converted.circuit.sdg(wire)
        if letter in "XY":
            converted.circuit.h(wire)
    converted.circuit.measure_all()
    return tuple({tuple((w, "Z") for w, _ in word): c for word, c in output.items()} for output in outputs)


def basis_target(backend):
    """What `backend` can do, for Qiskit's transpiler, with its basis gates only."""
    from qiskit.transpiler import Target

    known = backend.target
    kept = {*backend.configuration().basis_gates, "measure", "delay"}
    target = Target(
        num_qubits=known.num_qubits,
        dt=known.dt,
        granularity=known.granularity,
        min_length=known.min_length,
        pulse_alignment=known.pulse_alignment,
        acquire_alignment=known.acquire_alignment,
        qubit_properties=known.qubit_properties,
    )
    for name in sorted(kept.intersection(known.operation_names)):
        target.add_instruction(known.operation_from_name(name), dict(known[name]), name=name)
    return target


def _touched(circuit) -> tuple[int, ...]:
    """The qubits with gates or measurements: first those of the wires, in the order of their bits."""
    bits = {}
    others = set()
    for item in circuit.data:
        qubits = [circuit.find_bit(qubit).index for qubit in item.qubits]
        if item.operation.name == "measure":
            bits[circuit.find_bit(item.clbits[0]).index] = qubits[0]
        elif item.operation.name not in ("barrier", "delay"):
            others.update(qubits)
    wires = [bits[bit] for bit in sorted(bits)]
    return (*wires, *sorted(others.difference(wires)))


# ---- the noise -------------------------------------------------------------------------------------------------------


def device_program(
    circuit: Callable,
    n_qubits: int,
    weight_shape: Iterable[int],
    device_name: str,
    n_inputs: int | None = None,
    seed: int = 0,
    idle: bool = False,
    gate_error: bool = True,
    thermal_relaxation: bool = True,
    readout_error: bool = True,
) -> NoisyProgram:
    """A quantum function as `device_name` runs it, with the noise of its calibration; see the head of this module.

    seed and idle: as in `transpile_to`. The other three leave a part of the noise out, as in Aer.
    """
    backend = load_backend(device_name)
    transpiled = transpile_to(backend, circuit, n_qubits, weight_shape, n_inputs, seed, idle)
    return noisy_program(transpiled, backend, gate_error, thermal_relaxation, readout_error)


def noisy_program(
    transpiled: Transpiled, backend, gate_error=True, thermal_relaxation=True, readout_error=True, twirled=False
) -> NoisyProgram:
    """A transpiled circuit with its noise, on the qubits that it touches; ValueError where these are too many.

    twirled: half the shots measure every qubit flipped, and flip the bit back, so that both bits are misread alike.
    """
    if len(transpiled.qubits) > MOST_QUBITS:
        raise ValueError(
            f"the circuit touches {len(transpiled.qubits)} qubits of {backend.name}, and density matrices go up to "
            f"{MOST_QUBITS}; use fewer qubits"
        )

    def confusion(wire: int) -> np.ndarray:
        found = confusion_matrix(backend, transpiled.qubits[wire]) if readout_error else np.eye(2)
        return (found + found[::-1, ::-1]) / 2 if twirled else found

    noise = GateNoise(transpiled.target, gate_error, thermal_relaxation)
    shapes = len(transpiled.inputs), transpiled.weight_shape, len(transpiled.qubits)
    return measured(*shapes, [*_operations(transpiled, noise)], transpiled.outputs, confusion)


def _operations(transpiled: Transpiled, noise: "GateNoise") -> Iterator[Turn | Map]:
    """The gates on local wires, each followed by its channel."""
    from qiskit.quantum_info import Operator

    local = {qubit: wire for wire, qubit in enumerate(transpiled.qubits)}
    for item in transpiled.circuit.data:
        gate = item.operation
        qubits = tuple(transpiled.circuit.find_bit(qubit).index for qubit in item.qubits)
        if gate.name in ("measure", "barrier") or not set(qubits) <= local.keys():  # delays of qubits never touched
            continue
        wires = tuple(local[qubit] for qubit in qubits)
        if has_parameters(gate):
            for angle in linear_angles(gate.params[0], transpiled.elements):
                yield Turn(TURNS[gate.name], wires, angle)
        elif gate.name != "delay":
            # Qiskit's first qubit is the least significant bit of a matrix, and that of ptm_of the most significant
            yield Map(ptm_of([Operator(gate).reverse_qargs().data]), wires)
        if channel := noise.after(gate, qubits):
            yield Map(channel.ptm, wires)


def has_parameters(gate) -> bool:
    """Whether the angle of a gate depends on inputs or weights."""
    return any(getattr(value, "parameters", ()) for value in gate.params)


def linear_angles(expression, elements: dict) -> Iterator[Angle]:
    """Angles, in radians, of which `expression` is the sum: one an element; the first has the constant part."""
    parameters = sorted(expression.parameters, key=lambda p: elements[p])

    def at(values):
        return float(expression.bind(dict(zip(parameters, values, strict=True))))

    offset = at([0.0] * len(parameters))
    factors = [at(row) - offset for row in np.eye(len(parameters)).tolist()]
    for parameter, factor in zip(parameters, factors, strict=True):
        source, index = elements[parameter]
        yield Angle(source, index, factor, offset)
        offset = 0.0


class GateNoise:
    """Channels by gate and qubits, from the errors and times in `target`, Qiskit's record of a device."""

    def __init__(self, target, gate_error: bool = True, thermal_relaxation: bool = True):
        self.target = target
        self.gate_error = gate_error
        self.thermal_relaxation = thermal_relaxation

    def after(self, gate, qubits: tuple[int, ...]) -> Channel | None:
        """What follows a gate; None where nothing does."""
        if gate.name == "delay":
            seconds = gate.duration * self.target.dt if gate.unit == "dt" else gate.duration
            return self.relaxation(qubits, seconds)
        calibrated = self.target[gate.name][qubits]
        relaxation = self.relaxation(qubits, calibrated.duration if calibrated else None)
        p = depolarisation(calibrated.error, len(qubits), relaxation) if calibrated and self.gate_error else 0.0
        if not p:
            return relaxation
        depolarised = depolarizing(p, len(qubits))
        return depolarised.then(relaxation) if relaxation else depolarised

    def relaxation(self, qubits: tuple[int, ...], seconds: float | None) -> Channel | None:
        """Thermal relaxation to |0> of one or two qubits for that long; None where it takes no time."""
        if not (self.thermal_relaxation and seconds):
            return None
        first, *second = (self._relaxed(qubit, seconds) for qubit in qubits)
        return first.beside(*second) if second else first

    def _relaxed(self, qubit: int, seconds: float) -> Channel:
        times = self.target.qubit_properties[qubit]
        t1 = math.inf if times.t1 is None else times.t1
        t2 = math.inf if times.t2 is None else times.t2
        return thermal_relaxation(t1, min(t2, 2 * t1), seconds)  # snapshots have longer ones, within their errors


def depolarisation(error: float | None, n_qubits: int, relaxation: Channel | None) -> float:
    """The depolarising probability with which `relaxation` and depolarisation together have a gate's error."""
    d = 2**n_qubits
    fidelity = 1.0 if relaxation is None else (np.trace(relaxation.ptm) / d + 1) / (d + 1)  # averaged over states
    error = min(error or 0.0, d / (d + 1))  # the largest there is
    if error <= 1 - fidelity:
        return 0.0
    return min(d * (error - (1 - fidelity)) / (d * fidelity - 1), d * d / (d * d - 1))


def confusion_matrix(backend, qubit: int) -> np.ndarray:
    """p(read | true) of a qubit, (2, 2), column by the true bit."""
    found = calibration(backend).qubit_property(qubit)
    both = found["readout_error"][0] if "readout_error" in found else 0.0
    up = found["prob_meas1_prep0"][0] if "prob_meas1_prep0" in found else both
    down = found["prob_meas0_prep1"][0] if "prob_meas0_prep1" in found else both
    return Readout(up, down).confusion
