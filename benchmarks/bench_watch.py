"""What `doctor.watch` adds to a training step: the same training with it, without it, and without it once more.

    .venv/bin/python benchmarks/bench_watch.py --check

Linear(512, 4) - tanh - circuit of 4 qubits and depth 6 - Linear, 32 samples a step, Adam, the default interval. The
trainings take turns, block by block, so that a slow moment of the machine meets all alike; every ratio is that of two
blocks next to each other, and the median is told. The training that is made twice says how far medians can be trusted.
"""

import argparse
import math
import sys
import time
from pathlib import Path
from statistics import median

import timing

N_FEATURES, N_QUBITS, DEPTH, BATCH, RATE = 512, 4, 6, 32, 1e-3
ALLOWED = 1.02  # times the step without the watch
WITH, WITHOUT, AGAIN = "with", "without", "again"


def own_layer():
    """The project's circuit, its kernels compiled by Numba."""
    from qtl_utils.circuits.layer import QuantumLayer

    return QuantumLayer(N_QUBITS, DEPTH)


def torch_layer():
    """The same circuit as PennyLane's TorchLayer on default.qubit, with backprop."""
    import pennylane as qml

    from qtl_utils.circuits.ansatze import make_circuit

    circuit = make_circuit("mari2019", "tanh", N_QUBITS)

    def named(inputs, weights):
        return circuit(inputs, weights)

    node = qml.QNode(named, qml.device("default.qubit", wires=N_QUBITS), interface="torch", diff_method="backprop")
    return qml.qnn.TorchLayer(node, {"weights": (DEPTH, N_QUBITS)})


LAYERS = {"QuantumLayer": (own_layer, 400), "TorchLayer, default.qubit, backprop": (torch_layer, 40)}  # steps a block


class Training:
    """A training that goes on block by block, watched or not; every one starts alike."""

    def __init__(self, make_layer, watched: bool):
        import torch
        from torch import nn

        from qtl_utils.doctor import watch

        torch.manual_seed(0)
        pre, post = nn.Linear(N_FEATURES, N_QUBITS), nn.Linear(N_QUBITS, 2)
        self.model = nn.Sequential(pre, nn.Tanh(), make_layer(), post)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=RATE)
        self.samples = torch.randn(8 * BATCH, N_FEATURES).split(BATCH)
        self.labels = [(part[:, 0] > 0).long() for part in self.samples]
        self.loss = nn.CrossEntropyLoss()
        self.watch = watch(self.model, self.optimizer) if watched else None

    def block(self, steps: int) -> float:
        """Trains for so many steps; seconds."""
        watch = self.watch
        start = time.perf_counter()
        for i in range(steps):
            self.optimizer.zero_grad()
            loss = self.loss(self.model(self.samples[i % 8]), self.labels[i % 8])
            loss.backward()
            self.optimizer.step()
            if watch is not None:
                watch.step(loss)
            else:
                pass
        return time.perf_counter() - start


def measure(make_layer, steps: int, repeats: int) -> dict[str, list[float]]:
    """Seconds a step of every block, by training; who comes first changes from block to block."""
    trainings = {name: Training(make_layer, name == WITH) for name in (WITHOUT, WITH, AGAIN)}
    for training in trainings.values():  # the first steps, which are all looked at, and what is loaded at first use
        training.block(min(steps, 40))
    seconds = {name: [] for name in trainings}
    for repeat in range(repeats):
        for name in list(trainings)[:: 1 if repeat % 2 else -1]:
            seconds[name].append(trainings[name].block(steps) / steps)
    if (watch := trainings[WITH].watch).findings.failed:
        raise AssertionError(f"a healthy training was called ill:\n{watch.findings}")
    watch.close()
    return seconds


def summary(name: str, seconds: dict[str, list[float]]) -> dict:
    """A row of the table: medians of seconds, of the ratio, and of the ratio of two trainings without the watch."""
    pairs = [(w, (a + b) / 2) for w, a, b in zip(seconds[WITH], seconds[WITHOUT], seconds[AGAIN], strict=True)]
    return {
        "layer": name,
        "blocks": len(pairs),
        "seconds_without": median(seconds[WITHOUT] + seconds[AGAIN]),
        "seconds_with": median(seconds[WITH]),
        "ratio": median(w / other for w, other in pairs),
        "ratio_without": median(a / b for a, b in zip(seconds[AGAIN], seconds[WITHOUT], strict=True)),
    }


def markdown(frame) -> str:
    """The table as the README shows it."""
    lines = ["| circuit | step, ms | with the watch | two runs without it |", "|---|---:|---:|---:|"]
    for row in frame.itertuples():
        parts = [f"{100 * (ratio - 1):+.1f} %" for ratio in (row.ratio, row.ratio_without)]
        lines.append(f"| {row.layer} | {1e3 * row.seconds_without:.2g} | {parts[0]} | {parts[1]} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="say what falls short; exit code 1 if something does")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=21, help="blocks of every training, at least 5")
    parser.add_argument("--out", default=str(timing.PROJECT / "results" / "benchmarks"), help="folder of the results")
    options = parser.parse_args()
    if options.repeats < 5:
        parser.error("--repeats: a median of fewer than 5 blocks says little")
    timing.pin_threads(options.threads)
    import pandas as pd

    rows = []
    for name, (make_layer, steps) in LAYERS.items():
        rows.append(row := summary(name, measure(make_layer, steps, options.repeats)))
        print(
            f"{name:36} {1e6 * row['seconds_without']:,.0f} us a step, with the watch {row['ratio']:.4f} times that "
            f"(two runs without it: {row['ratio_without']:.4f})",
            flush=True,
        )
    frame = pd.DataFrame(rows)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / "watch.csv", index=False, float_format="%.5g")
    print(f"Table: {folder / 'watch.csv'}")
    return int(options.check and not check(frame))


def check(frame) -> bool:
    """Whether every ratio is below what is allowed; says so."""
    short = frame[~(frame.ratio <= ALLOWED)]
    for row in frame.itertuples():
        bad = not row.ratio <= ALLOWED or math.isnan(row.ratio)
        print(f"{'SHORT' if bad else 'ok   '} {row.layer}: {row.ratio:.4f}x, at most {ALLOWED}x asked")
    return short.empty


if __name__ == "__main__":
    sys.exit(main())
