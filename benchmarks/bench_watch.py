"""What `doctor.watch` adds to a training step: the same training with it, without it, and without it once more.

    .venv/bin/python benchmarks/bench_watch.py --check

Linear(512, 4) - tanh - circuit of 4 qubits and depth 6 - Linear, 32 samples a step, Adam, the default interval. One
training goes on block by block, and blocks with and without the watch take turns, so that a slow moment of the machine
meets all alike; ratios are those of blocks next to each other, and their median is told. Blocks without the watch are
compared with one another too, which says how far the medians can be trusted. What a watch costs once, to open, to look
at the first steps and to close, is told apart.
"""

import argparse
import random
import sys
import time
from pathlib import Path
from statistics import median

import timing

N_FEATURES, N_QUBITS, DEPTH, BATCH, RATE = 512, 4, 6, 32, 1e-3
BATCHES = 32  # that the training goes through again and again
ALLOWED = 1.02  # times the step without the watch


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


# name -> how to make the layer, steps until looks are as far apart as they will be, steps of a block
LAYERS = {
    "QuantumLayer": (own_layer, 1300, 1200),
    "TorchLayer, default.qubit, backprop": (torch_layer, 60, 80),
}


class Training:
    """A training that goes on block by block; a fifth of the labels are noise, so that there is always a loss."""

    def __init__(self, make_layer):
        import torch
        from torch import nn

        torch.manual_seed(0)
        pre, post = nn.Linear(N_FEATURES, N_QUBITS), nn.Linear(N_QUBITS, 2)
        self.model = nn.Sequential(pre, nn.Tanh(), make_layer(), post)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=RATE)
        samples = torch.randn(BATCHES * BATCH, N_FEATURES)
        noise = torch.rand(len(samples)) < 0.2
        self.samples = samples.split(BATCH)
        self.labels = ((samples[:, 0] > 0) ^ noise).long().split(BATCH)
        self.loss = nn.CrossEntropyLoss()

    def block(self, steps: int, watch=None) -> float:
        """Trains for so many steps; seconds."""
        start = time.perf_counter()
        for i in range(steps):
            self.optimizer.zero_grad()
            loss = self.loss(self.model(self.samples[i % BATCHES]), self.labels[i % BATCHES])
            loss.backward()
            self.optimizer.step()
            if watch is not None:
                watch.step(loss)
        return time.perf_counter() - start

    def later(self, before: int, steps: int) -> float:
        """Seconds of so many steps, after `before` of them."""
        self.block(before)
        return self.block(steps)

    def watched(self, before: int, steps: int) -> float:
        """The same with a watch that has been there from the first of them."""
        from qtl_utils.doctor import watch

        with watch(self.model, self.optimizer, quiet=True) as w:
            self.block(before, w)
            return self.block(steps, w)

    def once(self, steps: int) -> float:
        """Seconds of so many steps with a watch, opening and closing it included."""
        from qtl_utils.doctor import watch

        start = time.perf_counter()
        with watch(self.model, self.optimizer, quiet=True) as w:
            self.block(steps, w)
        return time.perf_counter() - start


def measure(make_layer, before: int, steps: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of every block, by kind; which kind comes after which changes from turn to turn."""
    training = Training(make_layer)
    few = 30  # steps: all of the dense looks, and one more
    kinds = {
        "without": lambda: training.later(before, steps) / steps,
        "with": lambda: training.watched(before, steps) / steps,
        "again": lambda: training.later(before, steps) / steps,
        "once": lambda: training.once(few) - training.block(few),
    }
    for run in kinds.values():  # what is loaded and compiled at first use
        run()
    seconds = {name: [] for name in kinds}
    for turn in range(repeats):
        order = random.Random(turn).sample(list(kinds), len(kinds))
        for name in order:
            seconds[name].append(kinds[name]())
    return seconds


def summary(name: str, seconds: dict[str, list[float]]) -> dict:
    """A row of the table: medians of seconds and ratios."""
    blocks = list(zip(seconds["with"], seconds["without"], seconds["again"], strict=True))
    return {
        "layer": name,
        "blocks": len(blocks),
        "seconds_without": median(seconds["without"] + seconds["again"]),
        "seconds_with": median(seconds["with"]),
        "ratio": median(2 * watched / (a + b) for watched, a, b in blocks),
        "ratio_without": median(b / a for _, a, b in blocks),
        "seconds_once": median(seconds["once"]),
    }


def markdown(frame) -> str:
    """The table as the README shows it."""
    lines = ["| circuit | step, ms | with the watch | without it, twice | once, ms |", "|---|---:|---:|---:|---:|"]
    for row in frame.itertuples():
        parts = [f"{100 * (ratio - 1):+.1f} %" for ratio in (row.ratio, row.ratio_without)]
        step, once = 1e3 * row.seconds_without, 1e3 * row.seconds_once
        lines.append(f"| {row.layer} | {step:.2g} | {parts[0]} | {parts[1]} | {once:.1f} |")
    return "\n".join(lines)


def check(frame) -> tuple[list[str], int]:
    """Lines that say of every ratio whether it is small enough, and how many are not."""
    short = ~(frame.ratio <= ALLOWED)  # NaN is short
    lines = [
        f"{'SHORT' if bad else 'ok   '} {row.layer}: {row.ratio:.4f}x, at most {ALLOWED}x asked"
        for row, bad in zip(frame.itertuples(), short, strict=True)
    ]
    return lines, int(short.sum())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="say what falls short; exit code 1 if something does")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15, help="blocks of every kind, at least 5")
    parser.add_argument("--out", default=str(timing.PROJECT / "results" / "benchmarks"), help="folder of the results")
    options = parser.parse_args()
    if options.repeats < 5:
        parser.error("--repeats: a median of fewer than 5 blocks says little")
    timing.pin_threads(options.threads)
    import pandas as pd

    rows = []
    for name, (make_layer, before, steps) in LAYERS.items():
        rows.append(row := summary(name, measure(make_layer, before, steps, options.repeats)))
        print(
            f"{name:36} {1e6 * row['seconds_without']:8,.0f} us a step, with the watch {row['ratio']:.4f} times that, "
            f"without it {row['ratio_without']:.4f}; once {1e3 * row['seconds_once']:.1f} ms",
            flush=True,
        )
    frame = pd.DataFrame(rows)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / "watch.csv", index=False, float_format="%.5g")
    print(f"Table: {folder / 'watch.csv'}")
    if not options.check:
        return 0
    lines, short = check(frame)
    print(*lines, sep="\n")
    return int(short > 0)


if __name__ == "__main__":
    sys.exit(main())
