"""What training 100 seeds of head A costs: the loop of 2019, cached features with a PennyLane layer, and ours.

    .venv/bin/python benchmarks/bench_study.py --data-dir hymenoptera_data --weights squeezenet1_1.safetensors --check

The loop of 2019 is written here from the model's equations (arXiv:1912.08278): every step sends its images through
the frozen backbone and its samples one by one through the circuit, every epoch ends with the validation images. Steps
of the ladder change one thing each; what takes too long is measured for an epoch and extrapolated to 30 epochs and
100 seeds (marked in the table). Without --data-dir the digits and a small transformer stand in.
"""

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

import timing

SEEDS, EPOCHS, ASKED = 100, 30, 15_000  # the last: how many times faster than the loop of 2019
N_QUBITS, DEPTH, BATCH, RATE = 4, 6, 4, 4e-4


class Loop2019:
    """The dressed quantum circuit trained as in 2019: one sample after another through the circuit."""

    def __init__(self, n_features, n_classes):
        import pennylane as qml
        import torch
        from torch import nn

        def circuit(inputs, weights):
            for i in range(N_QUBITS):
                qml.Hadamard(i)
                qml.RY(inputs[i], wires=i)
            for k in range(DEPTH):
                for first in (0, 1):
                    for i in range(first, N_QUBITS - 1, 2):
                        qml.CNOT(wires=[i, i + 1])
                for i in range(N_QUBITS):
                    qml.RY(weights[k, i], wires=i)
            return [qml.expval(qml.PauliZ(i)) for i in range(N_QUBITS)]

        self.qnode = qml.QNode(circuit, qml.device("default.qubit", wires=N_QUBITS), interface="torch")
        self.pre, self.post = nn.Linear(n_features, N_QUBITS), nn.Linear(N_QUBITS, n_classes)
        self.angles = nn.Parameter(0.01 * torch.randn(DEPTH, N_QUBITS))
        parameters = [*self.pre.parameters(), self.angles, *self.post.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=RATE)

    def logits(self, features):
        import torch

        angles = torch.tanh(self.pre(features)) * (math.pi / 2)
        rows = [torch.stack(tuple(self.qnode(sample, self.angles))).float() for sample in angles]
        return self.post(torch.stack(rows))

    def epoch(self, features_of, labels, train, validation):
        """Trains on `train` and then looks at `validation`; `features_of` gives the features of some samples."""
        import torch
        from torch.nn.functional import cross_entropy

        for index in train.split(BATCH):
            self.optimizer.zero_grad()
            cross_entropy(self.logits(features_of(index)), labels[index]).backward()
            self.optimizer.step()
        with torch.no_grad():
            for index in validation.split(BATCH):
                cross_entropy(self.logits(features_of(index)), labels[index])


def inputs_of(options, folder):
    """The study's inputs, and a function that runs the images of some samples through the backbone."""
    import torch

    from qtl_utils.study.config import BackboneConfig, DataConfig
    from qtl_utils.training.inputs import open_backbone, open_inputs

    if options.data_dir:
        data = DataConfig(dataset="hymenoptera", data_dir=options.data_dir, image_size=224, protocol="as_published")
        backbone = BackboneConfig(model=options.model, init="file", weights=options.weights)
    else:
        data = DataConfig(dataset="digits", image_size=32, train=244, validation=1, test=153)
        backbone = BackboneConfig(model="tiny_vit", init="random")
    inputs = open_inputs(folder, data, backbone)
    network, pixels = open_backbone(backbone, inputs.image_size, folder), torch.from_numpy(inputs.pixels)

    def features_of(index):
        with torch.no_grad():
            return network(pixels[index])

    return inputs, features_of


def heads(inputs, seeds, epochs, simulator):
    """A function that trains `seeds` seeds of head A for `epochs` epochs, optimiser and validation included."""
    import torch

    from qtl_utils.study.config import TrainConfig
    from qtl_utils.training.fits import make_replicas
    from qtl_utils.training.variants import candidates, fit_frozen

    config = TrainConfig(seeds=seeds, epochs=epochs, simulator=simulator)
    replicas = make_replicas(range(seeds), inputs.splits.n_splits, candidates("A", config))
    return lambda: fit_frozen("A", inputs, config, replicas, torch.device("cpu"))


def measure(step, repeats):
    """Median seconds of `repeats` runs, after one that is not counted where more than one is asked for."""
    if repeats > 1:
        step()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[repeats // 2]


def per_epoch(make, repeats):
    """Seconds of an epoch: trainings of three epochs less those of one, halved."""
    one, three = measure(make(1), repeats), measure(make(3), repeats)
    return max(three - one, 0.0) / 2


def markdown(frame):
    """The ladder as the README shows it."""
    lines = ["| 100 seeds of head A, 30 epochs | seconds | times faster than the row before |", "|---|---:|---:|"]
    for row in frame[~frame.what.str.contains("30 epochs")].itertuples():
        faster = f"{row.times_faster_than_row_before:.3g} ({row.changed})" if isinstance(row.changed, str) else ""
        about = "about " if isinstance(row.extrapolated_from, str) else ""
        lines.append(f"| {row.what} | {about}{float(f'{row.seconds:.3g}'):,g} | {faster} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="the folder hymenoptera_data")
    parser.add_argument("--model", default="squeezenet1_1", help="torchvision's name of the backbone")
    parser.add_argument("--weights", help="its ImageNet weights, .safetensors or .pth")
    parser.add_argument("--quick", action="store_true", help="ours alone, and the loop for one epoch on features")
    parser.add_argument("--check", action="store_true", help="say what falls short; exit code 1 if something does")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", default=str(timing.PROJECT / "results" / "benchmarks"), help="folder of the results")
    options = parser.parse_args()
    if bool(options.data_dir) != bool(options.weights):
        parser.error("--data-dir and --weights go together: the images and the weights of the backbone")
    timing.pin_threads(options.threads)
    import os

    os.environ["QTL_BATCH"] = "1"  # no progress bars
    with tempfile.TemporaryDirectory() as folder:
        return report(options, *inputs_of(options, Path(folder)))


def report(options, inputs, features_of):
    import pandas as pd
    import torch

    train, validation = (torch.as_tensor(inputs.splits.indices(0, subset)) for subset in ("train", "test"))
    labels, cached = torch.from_numpy(inputs.data.labels), inputs.features
    print(f"{len(train)} training and {len(validation)} validation samples, {cached.shape[1]} features")
    torch.manual_seed(0)
    loop = Loop2019(cached.shape[1], len(inputs.data.classes))
    rows, every = [], SEEDS * EPOCHS

    def row(name, changed, seconds, extrapolated):
        rows.append({"what": name, "changed": changed, "seconds": seconds, "extrapolated_from": extrapolated})
        print(f"{name:58} {seconds:>10,.4g} s{' (extrapolated)' if extrapolated else ''}", flush=True)

    loop.logits(cached[:1])
    if not options.quick:
        seconds = measure(lambda: loop.epoch(features_of, labels, train, validation), 1)
        row("the loop of 2019", "", every * seconds, f"{seconds:.3g} s an epoch")
    seconds = measure(lambda: loop.epoch(lambda index: cached[index], labels, train, validation), 1)
    row("the same, features cached", "caching", every * seconds, f"{seconds:.3g} s an epoch")
    if not options.quick:
        seconds = per_epoch(lambda epochs: heads(inputs, 1, epochs, "default.qubit"), 1)
        row("PennyLane layer, a batch at once", "batching over samples", every * seconds, f"{seconds:.3g} s an epoch")
        seconds = per_epoch(lambda epochs: heads(inputs, SEEDS, epochs, "default.qubit"), 1)
        row("PennyLane layer, 100 seeds at once", "batching over seeds", EPOCHS * seconds, f"{seconds:.3g} s an epoch")
    row(
        "statevector, 100 seeds at once",
        "the kernel",
        measure(heads(inputs, SEEDS, EPOCHS, "statevector"), options.repeats),
        "",
    )
    for seeds in (10, 1):
        seconds = measure(heads(inputs, seeds, EPOCHS, "statevector"), options.repeats)
        row(f"statevector, {seeds} seed{'s' if seeds > 1 else ''} at once, trained for 30 epochs", "", seconds, "")
    frame = pd.DataFrame(rows)
    frame["times_faster_than_row_before"] = frame.seconds.shift() / frame.seconds
    frame.loc[frame.changed == "", "times_faster_than_row_before"] = None
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / "study.csv", index=False, float_format="%.4g")
    print(f"Table: {folder / 'study.csv'}")
    if not options.check:
        return 0
    ours = frame.seconds[frame.what == "statevector, 100 seeds at once"].iloc[0]
    lines, short = timing.verdicts(
        [(f"{SEEDS} seeds x {EPOCHS} epochs against {rows[0]['what']}", rows[0]["seconds"] / ours, ASKED)]
    )
    print(*lines, sep="\n")
    return int(short > 0)


if __name__ == "__main__":
    sys.exit(main())
