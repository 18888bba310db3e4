"""What a device is like and what circuits cost on it: its calibration in numbers, times, and a modelled price."""

from dataclasses import dataclass

import numpy as np

from qtl_utils.circuits.devices import DEVICES, Transpiled, load_backend
from qtl_utils.study.names import find

# IBM's baseline for a job: "<per sub-job overhead> + (rep_delay + <circuit length>) * <num executions>"
# with 2 s of overhead (quantum.cloud.ibm.com/docs/guides/estimate-job-run-time, read in a copy of 2025)
JOB_OVERHEAD = 2.0  # seconds
REP_DELAY = 250e-6  # seconds between two shots: what most snapshots have, for those that say nothing


@dataclass(frozen=True)
class Rate:
    """A published price of a second on a device; `verified` where we read the publisher's own page."""

    usd_per_second: float
    plan: str
    source: str
    read: str
    verified: bool


RATE = Rate(
    1.60,
    "IBM Quantum Pay-As-You-Go",
    "https://www.ibm.com/quantum/pricing",
    "2026-05-25, in the transcript github.com/api-evangelist/ibm-quantum/blob/main/plans/ibm-quantum-plans-pricing.yml",
    verified=False,
)


def device_facts(device_name: str) -> dict[str, object]:
    """A device in numbers: medians over its qubits and gates; times in seconds, errors as probabilities."""
    row = find("device", device_name, DEVICES)
    backend = load_backend(device_name)
    target = backend.target
    basis = backend.configuration().basis_gates
    pairs = [name for name in basis if target.operation_from_name(name).num_qubits == 2]
    return {
        "device": device_name,
        "generation": row.generation,
        "calibrated": row.calibrated,
        "qubits": backend.num_qubits,
        "basis gates": ", ".join(sorted(set(basis) - {"id", "reset"})),
        "T1": _median(qubit.t1 for qubit in target.qubit_properties),
        "T2": _median(qubit.t2 for qubit in target.qubit_properties),
        "one-qubit error": _median(_errors(target, "sx")),
        "two-qubit error": _median(error for name in pairs for error in _errors(target, name)),
        "readout error": _median(_errors(target, "measure")),
        "repetition delay": repetition_delay(device_name),
    }


def _errors(target, gate: str) -> list[float | None]:
    return [calibrated.error for calibrated in target[gate].values() if calibrated is not None]


def _median(values) -> float:
    return float(np.median([value for value in values if value is not None]))


def repetition_delay(device_name: str) -> float:
    """Seconds between two shots: the snapshot's default, else REP_DELAY."""
    return getattr(load_backend(device_name).configuration(), "default_rep_delay", None) or REP_DELAY


def circuit_facts(transpiled: Transpiled) -> dict[str, object]:
    """A circuit as a device runs it: qubits, gates, depth (virtual gates left out), seconds with the measurement."""

    def takes_time(item) -> bool:
        return item.operation.name not in ("rz", "barrier", "delay")

    gates = [
        item.operation for item in transpiled.circuit.data if takes_time(item) and item.operation.name != "measure"
    ]
    return {
        "physical qubits": ", ".join(map(str, transpiled.qubits)),
        "two-qubit gates": sum(gate.num_qubits == 2 for gate in gates),
        "one-qubit gates": sum(gate.num_qubits == 1 for gate in gates),
        "depth": transpiled.circuit.depth(takes_time),
        "duration": float(transpiled.circuit.estimate_duration(transpiled.target)),
    }


def modelled_cost(
    device_name: str, duration: float, circuits: int, shots: int, jobs: int = 1, rate: Rate = RATE
) -> dict:
    """A model of what `circuits` circuits of `duration` seconds cost, `shots` shots each, sent in `jobs` jobs.

    seconds = jobs * JOB_OVERHEAD + circuits * shots * (duration + repetition delay), and USD by the published rate. Of
    old devices that nobody can book any more it is what they would cost at that rate.
    """
    executions = circuits * shots
    seconds = jobs * JOB_OVERHEAD + executions * (duration + repetition_delay(device_name))
    return {"executions": executions, "seconds": seconds, "USD": seconds * rate.usd_per_second}
