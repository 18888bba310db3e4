"""What every simulator and differentiation method costs, in errors, executions, seconds and memory; which to choose."""

import ctypes
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
import psutil
import scipy.stats
import torch

from qtl_utils.circuits.noisy_program import MOST_QUBITS
from qtl_utils.circuits.simulators import (
    METHODS,
    SIMULATORS,
    Task,
    draw,
    exact_simulators,
    gradients,
    open_cell,
    reference_gradients,
    relative_error,
    study_task,
)
from qtl_utils.study.environment import PeakMemory, progress

EXACT = 1e-5  # relative error up to which a gradient counts as exact: what float32 leaves
DENSITIES = ("density", "default.mixed")  # simulators whose states have 4^n numbers
MOST = {"density": MOST_QUBITS}  # qubits that a simulator takes, where it says so
SHOTS = 1000  # of the attempts that find out which method runs on a device that samples


def matrix(
    task: Task,
    batch: int = 2,
    repeats: int = 5,
    simulators: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
) -> pd.DataFrame:
    """A row for every simulator and method: status, errors against float64 reverse mode, executions, seconds.

    `seconds` is the median of `repeats` steps, forward and backward through torch, of `batch` samples, `peak_bytes`
    what one adds to the memory of the process. `executions` are counted, `formula` is what they should be. `shots`:
    does it run on a device that samples?
    """
    inputs, weights = draw(task, batch)
    reference = reference_gradients(task, inputs, weights)
    counts = task.counts
    rows = []
    steps = {}
    for simulator in progress(simulators or exact_simulators(), "simulators"):
        for method in methods or METHODS:
            cell = open_cell(task, simulator, method, batch)
            row = {"simulator": simulator, "method": method, "status": cell["status"]}
            row |= {"shots": False, "error": cell["error"], "workaround": cell["workaround"]}
            rows.append(row)
            if cell["run"] is None:
                continue
            with warnings.catch_warnings(), cell["count"]() as total:
                warnings.simplefilter("ignore")
                found = gradients(cell["run"], inputs, weights)
            row |= {f"error_{name}": relative_error(found[name], value) for name, value in reference.items()}
            row["largest_error"] = max((found[k] - reference[k]).abs().max().item() for k in ("inputs", "angles"))
            formula = SIMULATORS[simulator].executions(method, counts)
            row["peak_bytes"] = peak_bytes(partial(gradients, cell["run"], inputs, weights))
            row |= {"executions": total[0], "formula": None if formula is None else batch * formula}
            row["shots"] = open_cell(task, simulator, method, 1, shots=SHOTS)["run"] is not None
            steps[len(rows) - 1] = partial(gradients, cell["run"], inputs, weights)
    for number, seconds in seconds_of(steps, repeats).items():
        rows[number]["seconds"] = seconds
    frame = pd.DataFrame(rows)
    return frame.astype({name: "Int64" for name in ("executions", "formula") if name in frame})


def seconds_of(steps: dict, repeats: int) -> dict:
    """Median seconds of each step, which take turns."""
    times = {name: [] for name in steps}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(repeats):
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(t)) for name, t in times.items()}


def agreement(task: Task, batch: int = 2) -> pd.DataFrame:
    """Largest differences from default.qubit in float64 of outputs and gradients, framework by framework.

    Qiskit appears twice: EstimatorQNN's own forward and backward, and through TorchConnector, which rounds to float32.
    """
    from qtl_utils.circuits.qiskit_layer import convert, estimator_qnn

    inputs, weights = draw(task, batch)
    reference = reference_gradients(task, inputs, weights)
    rows = []
    for name in ("statevector", "lightning.qubit", "qiskit"):
        run, _ = SIMULATORS[name].build(task, SIMULATORS[name].own)
        shown = "qiskit, TorchConnector" if name == "qiskit" else name
        rows.append({"framework": shown} | _differences(gradients(run, inputs, weights), reference))
    network = estimator_qnn(convert(task.circuit, task.n_qubits, task.weight_shape))
    arrays = inputs.detach().numpy(), weights.detach().numpy().ravel()
    out = torch.from_numpy(network.forward(*arrays))
    projection = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    of_inputs, of_angles = (torch.from_numpy(g) for g in network.backward(*arrays))  # (B, n_out, parameters)
    found = {"outputs": out, "inputs": torch.einsum("bo,bop->bp", projection, of_inputs)}
    found["angles"] = torch.einsum("bo,bop->p", projection, of_angles).reshape(task.weight_shape)
    rows.append({"framework": "qiskit, EstimatorQNN"} | _differences(found, reference))
    return pd.DataFrame(rows)


def _differences(found: dict, reference: dict) -> dict[str, float]:
    return {name: (found[name] - value).abs().max().item() for name, value in reference.items()}


PAIRS = (  # what is scaled by default: every method that is somebody's own, and the rules for hardware
    ("statevector", "adjoint"),
    ("density", "adjoint"),
    ("default.qubit", "backprop"),
    ("default.qubit", "adjoint"),
    ("default.qubit", "parameter-shift"),
    ("default.qubit", "spsa"),
    ("default.mixed", "backprop"),
    ("lightning.qubit", "adjoint"),
    ("qiskit", "parameter-shift"),
)


def scaling(
    ansatz: str,
    encoding: str,
    grids: dict[str, Sequence[int]],
    base: dict[str, int],
    repeats: int = 3,
    most_seconds: float = 1.0,
    pairs: Sequence[tuple[str, str]] = PAIRS,
) -> pd.DataFrame:
    """Median seconds and peak bytes of a step along each of `grids` {'qubits' | 'depth' | 'batch': values}.

    `base` holds the values that are kept fixed. A pair stops growing along a grid once a
    step takes longer than `most_seconds`. `angles` counts the gates that are differentiated.
    """
    rows = []
    for varied, values in grids.items():
        for simulator, method in progress(pairs, varied):
            for value in values:
                at = base | {varied: value}
                row = _measure(
                    study_task(ansatz, encoding, at["qubits"], at["depth"]), simulator, method, at["batch"], repeats
                )
                rows.append({"varied": varied, "simulator": simulator, "method": method} | at | row)
                if not row["seconds"] <= most_seconds:
                    break
    return pd.DataFrame(rows)


def _measure(task: Task, simulator: str, method: str, batch: int, repeats: int) -> dict:
    cell = open_cell(task, simulator, method, batch)
    row = {"angles": task.counts.gates, "gates": task.counts.all_gates, "seconds": np.nan, "bytes": np.nan}
    if cell["run"] is None:
        return row
    step = partial(gradients, cell["run"], *draw(task, batch))
    row["bytes"] = peak_bytes(step)
    row["seconds"] = seconds_of({"step": step}, repeats)["step"]
    return row


def peak_bytes(step: Callable) -> int:
    """Bytes that a step adds, at its peak, to the memory of this process."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc keeps what was freed; give it back first
    if trim is not None:
        trim(0)
    before = psutil.Process().memory_info().rss
    with PeakMemory(0.001) as peak, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        step()
    return max(peak.bytes - before, 0)


def exponents(frame: pd.DataFrame) -> pd.DataFrame:
    """Fitted exponents of the seconds along each grid, with 95 % intervals, beside the asymptotic ones.

    Along qubits the seconds are base^n and `exponent` is log2(base); along depth and batch they are value^exponent,
    and along the depth grid also angles^exponent.
    Only the larger half of a grid is fitted, at least three values: small circuits measure Python.
    """
    frame = frame.dropna(subset="seconds")
    rows = []
    frame = pd.concat([frame, frame[frame["varied"] == "depth"].assign(varied="angles")])
    for (varied, simulator, method), part in frame.groupby(["varied", "simulator", "method"], sort=False):
        part = part.tail(max(3, (len(part) + 1) // 2))
        x = part[varied].to_numpy(float) if varied == "qubits" else np.log2(part[varied].to_numpy(float))
        slope, low, high = slope_interval(x, np.log2(part["seconds"].to_numpy()))
        row = {"varied": varied, "simulator": simulator, "method": method}
        row |= {"exponent": slope, "low": low, "high": high, "values": len(part)}
        rows.append(row | {"asymptotic": asymptotic(varied, simulator, method)})
    return pd.DataFrame(rows)


def asymptotic(varied: str, simulator: str, method: str) -> float:
    """What the exponent tends to for large circuits: 2^n amplitudes (4^n mixed), G gates, P of them differentiated."""
    if varied == "qubits":
        return 2.0 if simulator in DENSITIES else 1.0
    if varied in ("depth", "angles"):
        return 2.0 if METHODS[method].time == "P" else 1.0  # P circuits of G gates each
    return 1.0


def slope_interval(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Slope of a straight line through (x, y) by least squares, with its 95 % interval; nan where it has none."""
    if len(x) < 2:
        return np.nan, np.nan, np.nan
    fit = scipy.stats.linregress(x, y)
    half = scipy.stats.t.ppf(0.975, len(x) - 2) * fit.stderr if len(x) > 2 else np.nan
    return float(fit.slope), float(fit.slope - half), float(fit.slope + half)


def largest(frame: pd.DataFrame, seconds: float, memory: float) -> pd.DataFrame:
    """The largest number of qubits that a step of each pair takes within `seconds` and within `memory` bytes.

    From the measured qubits grid, beyond it with twice the seconds and bytes a qubit (four times for density
    matrices), up to what a simulator takes at all; bytes are at least those of one state. `qubits` is the smaller of
    `by_seconds` and `by_bytes`, `limit` what stops it, `measured_to` where measuring ended.
    """
    rows = []
    measured = frame[frame["varied"] == "qubits"].dropna(subset="seconds")
    for (simulator, method), part in measured.groupby(["simulator", "method"], sort=False):
        least = part["qubits"].map(SIMULATORS[simulator].state)
        part = part.assign(bytes=np.maximum(part["bytes"], least))
        last = part.iloc[-1]
        factor = 2 ** asymptotic("qubits", simulator, method)
        row = {"simulator": simulator, "method": method}
        for name, most in (("seconds", seconds), ("bytes", memory)):
            fits = part.loc[part[name] <= most, "qubits"]
            beyond = int(np.log(most / last[name]) / np.log(factor) + 1e-9) if last[name] <= most else 0
            reached = int(fits.max()) + beyond if len(fits) else 0
            row[f"by_{name}"] = min(reached, MOST.get(simulator, reached))
        row["qubits"] = min(row["by_seconds"], row["by_bytes"])
        row["limit"] = "time" if row["by_seconds"] <= row["by_bytes"] else "memory"
        rows.append(row | {"measured_to": int(last["qubits"])})
    return pd.DataFrame(rows).sort_values("qubits", ascending=False, ignore_index=True, kind="stable")


def which_when(cells: pd.DataFrame, reach: pd.DataFrame) -> pd.DataFrame:
    """The method to choose for a purpose, worked out from `matrix` and `largest`, with the numbers behind it."""
    works = cells.dropna(subset="seconds")
    analytic = works["method"].map(lambda name: METHODS[name].analytic)
    exact = works[analytic & (works[["error_inputs", "error_angles"]].max(axis=1) <= EXACT)]
    rows = []

    def choose(purpose, candidates, by, evidence):
        if len(candidates):
            best = candidates.sort_values(by, kind="stable").iloc[0]
            row = {"purpose": purpose, "simulator": best["simulator"], "method": best["method"]}
            rows.append(row | {"because": evidence(best)})
        else:
            rows.append({"purpose": purpose, "simulator": "none", "method": "none", "because": "nothing here does it"})

    fastest = lambda row: f"{1e3 * row['seconds']:.3g} ms a step, relative error {row['error_angles']:.1g}"  # noqa: E731
    choose("train on a simulator, exact gradients", exact, "seconds", fastest)
    pennylane = exact[exact["simulator"].isin(["default.qubit", "lightning.qubit"])]
    choose("the same with PennyLane's own simulators", pennylane, "seconds", fastest)
    choose("noise channels", exact[exact["simulator"].isin(DENSITIES)], "seconds", fastest)
    choose("train in Qiskit", exact[exact["simulator"] == "qiskit"], "seconds", fastest)

    def executed(row):
        more = ", one more qubit" if METHODS[row["method"]].extra_wires else ""
        return f"{row['executions']} executions a step{more}; it runs with shots"

    choose("hardware or shots, unbiased gradients", exact[exact["shots"]], "executions", executed)
    choose("hardware or shots, fewest executions", works[works["shots"]], "executions", executed)
    if len(reach):
        most = reach.iloc[0]
        because = f"{most['qubits']} qubits, stopped by {most['limit']}"
        because += f" (extrapolated from {most['measured_to']})" if most["qubits"] > most["measured_to"] else ""
        row = {"purpose": "the most qubits", "simulator": most["simulator"], "method": most["method"]}
        rows.append(row | {"because": because})
    return pd.DataFrame(rows)
