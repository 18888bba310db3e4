"""Mitigation of noise on devices, with the parts of Qiskit and PennyLane: what it wins back, and its executions."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pennylane as qml

from qtl_utils.analyses.attribution import Trained
from qtl_utils.analyses.noise import NOTHING, opened, program_of, tested_metrics, transpiled
from qtl_utils.circuits import devices
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
    programs = {
        kind: [folded(device_name, config, factor, kind == "twirled") for factor in FACTORS]
        for kind in ("plain", "twirled")
    }
    factors = trex_factors(programs["twirled"][0], calibration, rng)
    read = {kind: np.stack([cut.outputs(program, shots, rng) for program in own]) for kind, own in programs.items()}
    by_line = partial(qml.noise.poly_extrapolate, np.array(FACTORS, float), order=1)
    found = {
        NONE: (read["plain"][0], 1),
        READOUT: (read["twirled"][0] * factors, 1),
        ZERO_NOISE: (by_line(y=read["plain"]), len(FACTORS)),
        BOTH: (by_line(y=read["twirled"] * factors), len(FACTORS)),
    }
    tested = cut.tested >= 0
    frames = []
    for mitigation, (outputs, circuits) in found.items():
        outputs = np.clip(outputs, -1, 1)
        keys = {"model": name, "device": device_name, "mitigation": mitigation}
        frame = tested_metrics(heads, " | ".join(keys.values()), cut.logits(outputs), **keys)
        frames.append(frame.assign(error=np.sqrt(np.mean((outputs - exact)[tested] ** 2)), executions=circuits * shots))
    return pd.concat(frames, ignore_index=True)


def folded(device_name: str, config: TrainConfig, factor: int, twirled: bool = False) -> NoisyProgram:
    """The circuit of a study on a device, every two-qubit gate `factor` times, readout twirled or not."""
    found = longer(transpiled(device_name, config), factor)
    return devices.noisy_program(found, devices.load_backend(device_name), twirled=twirled)


def longer(transpiled: devices.Transpiled, factor: int) -> devices.Transpiled:
    """The same circuit with every two-qubit gate `factor` times, by Qiskit's gate folding."""
    from qiskit.transpiler import PassManager
    from qiskit_mitigation.zne.gate_folding import GateFoldingPass

    return replace(transpiled, circuit=PassManager([GateFoldingPass(factor)]).run(transpiled.circuit))


def trex_factors(program: NoisyProgram, shots: int, rng: np.random.Generator) -> np.ndarray:
    """What each output is multiplied by, from `shots` shots of |0...0> of a twirled program, by Qiskit's TREX."""
    from qiskit_mitigation import TREX

    wrong = np.array([matrix[1, 0] for matrix in program.measurement.confusion])
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
        calibrated = "" if name == ZERO_NOISE else ", calibration aside"
        lines.append(
            f"Mitigation, {name}: the outputs' error falls by {100 * share.min():.0f} to {100 * share.max():.0f} % for "
            f"{cost[name] / cost[NONE]:.0f} times the executions{calibrated}; the loss changes by "
            f"{rows['loss_gain'].min():+.3f} to {rows['loss_gain'].max():+.3f}, and accuracy rises on {helped} of "
            f"{len(rows)} devices."
        )
    return lines
