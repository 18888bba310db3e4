"""Mitigation of noise on devices by Qiskit's own remedies, what it wins back and what it costs in executions."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pennylane as qml

from qtl_utils.analyses.attribution import Trained
from qtl_utils.analyses.noise import NOTHING, opened, program_of, tested_metrics
from qtl_utils.circuits import devices
from qtl_utils.circuits.ansatze import ANSATZE, make_circuit
from qtl_utils.circuits.noisy_program import NoisyProgram
from qtl_utils.results import stats
from qtl_utils.study.config import TrainConfig

FACTORS = (1, 3, 5)  # by which gates are folded for zero-noise extrapolation
NONE, READOUT, ZERO_NOISE, BOTH = "none", "readout", "zero noise", "both"


def mitigations(
    name: str, heads: Trained, device_name: str, shots: int, calibration: int, seed: int = 0
) -> pd.DataFrame:
    """Metrics of heads on a device with and without mitigation, from `shots` shots a circuit; a row as those of `seen`.

    "readout": twirled readout extinction (Qiskit's TREX): readout errors made symmetric by random flips, and divided
    by what `calibration` shots of known states say they leave. "zero noise": Qiskit folds every two-qubit gate to 3
    and 5 of them, and a straight line through the outputs is followed to no gate noise. `error` is the root mean square
    distance of the outputs from those without noise, `executions` what a prediction runs, calibration aside.
    """
    cut = opened(heads)
    config = heads.config
    exact = cut.outputs(program_of(NOTHING, config))
    rng = np.random.default_rng(seed)
    plain = [folded(device_name, config, factor) for factor in FACTORS]
    twirled = [symmetric(program) for program in plain]
    factors = trex_factors(plain[0], calibration, rng)
    read = {
        kind: np.stack([cut.outputs(program, shots, rng) for program in programs])
        for kind, programs in (("plain", plain), ("twirled", twirled))
    }
    by_line = partial(qml.noise.poly_extrapolate, np.array(FACTORS, float), order=1)
    found = {
        NONE: (read["plain"][0], 1),
        READOUT: (read["twirled"][0] * factors, 1),
        ZERO_NOISE: (by_line(y=read["plain"]), len(FACTORS)),
        BOTH: (by_line(y=read["twirled"] * factors), len(FACTORS)),
    }
    frames = []
    for mitigation, (outputs, circuits) in found.items():
        outputs = np.clip(outputs, -1, 1)
        keys = {"model": name, "device": device_name, "mitigation": mitigation}
        frame = tested_metrics(heads, " | ".join(keys.values()), cut.logits(outputs), **keys)
        frames.append(frame.assign(error=np.sqrt(np.mean((outputs - exact) ** 2)), executions=circuits * shots))
    return pd.concat(frames, ignore_index=True)


def folded(device_name: str, config: TrainConfig, factor: int) -> NoisyProgram:
    """The circuit on a device, every two-qubit gate `factor` times, by Qiskit's gate folding."""
    from qiskit.transpiler import PassManager
    from qiskit_mitigation.zne.gate_folding import GateFoldingPass

    shape = ANSATZE[config.ansatz].shape(config.n_qubits, config.depth)
    circuit = make_circuit(config.ansatz, config.encoding, config.n_qubits)
    backend = devices.load_backend(device_name)
    transpiled = devices.transpile_to(backend, circuit, config.n_qubits, shape)
    longer = PassManager([GateFoldingPass(factor)]).run(transpiled.circuit)
    return devices.noisy_program(replace(transpiled, circuit=longer), backend)


def symmetric(program: NoisyProgram) -> NoisyProgram:
    """`program` with readout errors twirled: half the shots measure every qubit flipped, and flip the bit back.

    Every Z is then only shortened, by 1 - p(1|0) - p(0|1), and no longer shifted.
    """
    measurement = program.measurement
    confusion = tuple((matrix + matrix[::-1, ::-1]) / 2 for matrix in measurement.confusion)
    left = np.array([2 * matrix[0, 0] - 1 for matrix in confusion])
    strings = np.arange(measurement.values.shape[1])
    parity = np.bitwise_count(strings[:, None] & strings) % 2
    shares = measurement.values @ (1.0 - 2.0 * parity) / len(strings)  # of every product of Z in every output
    inside = strings[:, None] >> np.arange(len(left)) & 1  # (words, wires)
    readout = shares * np.prod(np.where(inside, left, 1.0), axis=1)
    words = tuple(int(sum(3 * 4**w for w, one in zip(measurement.wires, row, strict=True) if one)) for row in inside)
    changed = replace(measurement, confusion=confusion)
    offsets = np.zeros(len(readout))
    return replace(program, words=words, readout=readout, offsets=offsets, measurement=changed)


def trex_factors(program: NoisyProgram, shots: int, rng: np.random.Generator) -> np.ndarray:
    """What each output is multiplied by, from `shots` twirled shots of |0...0>, by Qiskit's TREX."""
    from qiskit_mitigation import TREX

    wrong = np.array([matrix[1, 0] + matrix[0, 1] for matrix in program.measurement.confusion]) / 2
    n = len(wrong)
    flips = rng.random((1, shots, n)) < wrong
    letters = ["".join("Z" if w == wire else "I" for w in reversed(range(n))) for wire in range(n)]
    return np.array([TREX.calculate_trex_factor(flips, word) for word in letters])


def summary(metrics: pd.DataFrame) -> pd.DataFrame:
    """A row per device and mitigation: executions a prediction, error of the outputs, accuracy, loss, and the gains.

    `gain`, `loss_gain`: paired differences to no mitigation, with `gain_low`, `gain_high`; Holm-adjusted over all.
    """
    rows = []
    tests = []
    for (model, device, mitigation), part in metrics.groupby(["model", "device", "mitigation"], sort=False):
        row = {"device": device, "mitigation": mitigation, "executions": part["executions"].iloc[0]}
        row |= {"error": part["error"].iloc[0]}
        row |= {metric: stats.summary(part, metric=metric).iloc[0]["mean"] for metric in ("accuracy", "loss")}
        if mitigation != NONE:
            pair = " | ".join((model, device, mitigation)), " | ".join((model, device, NONE))
            tests.append(stats.paired(metrics, *pair))
            loss = stats.paired(metrics, *pair, "loss")
            row |= {"gain": tests[-1].value, "gain_low": tests[-1].low, "gain_high": tests[-1].high}
            row["loss_gain"] = loss.value
        rows.append(row)
    adjusted = iter(stats.together(tests))
    verdicts = [stats.verdict(next(adjusted)) if row["mitigation"] != NONE else "" for row in rows]
    return pd.DataFrame(rows).assign(verdict=verdicts)


def sentences(table: pd.DataFrame) -> list[str]:
    """What `summary` says: how much nearer the outputs come to those without noise, and at what cost."""
    error = table.pivot(index="device", columns="mitigation", values="error")
    cost = table.groupby("mitigation")["executions"].first()
    lines = []
    for name in (READOUT, ZERO_NOISE, BOTH):
        share = 1 - error[name] / error[NONE]
        rows = table[table["mitigation"] == name]
        helped = (rows["verdict"] == "higher").sum()
        lines.append(
            f"Mitigation, {name}: the outputs' error falls by {100 * share.min():.0f} to {100 * share.max():.0f} % for "
            f"{cost[name] / cost[NONE]:.0f} times the executions; accuracy rises on {helped} of {len(rows)} devices."
        )
    return lines
