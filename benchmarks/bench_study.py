"""What training 100 seeds of a head for 30 epochs costs: ours, programs with JAX, and the loop of 2019.

    .venv/bin/python -m pip install -r benchmarks/requirements.txt     once, for the peers
    .venv/bin/python benchmarks/bench_study.py --check                 everything: about eight minutes on two cores
    .venv/bin/python benchmarks/bench_study.py --quick --check         ours and JAX
    .venv/bin/python benchmarks/bench_study.py --data-dir hymenoptera_data --weights squeezenet1_1.safetensors

Peers start from the same weights, see the samples in the same order and leave the same behind, so that they must end
with the same accuracies, which is checked. Every program has a process of its own for every number of threads; they
take turns. Ours makes its heads and orders in the time that is measured, the peers are given them.

The loop of 2019 is written here from the model's equations (arXiv:1912.08278): every step sends its images through
the frozen backbone and its samples one by one through the circuit, every epoch ends with the validation images. Steps
of the ladder change one thing each; what takes too long is measured for an epoch and extrapolated to 30 epochs and
100 seeds (marked in the table). Without --data-dir there are features only, and the ladder begins with its second step.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path

import bench_scaling
import programs
import timing
from programs import OURS, OURS_64

SEEDS, EPOCHS = 100, 30
THREADS = (1, 2)
PEERS = {"A": ("JAX", "TensorCircuit-NG, JAX", "PennyLane, JAX"), "C": ("JAX",), "C-matched": ("JAX",)}
ASKED = {("A", 1): 2.8, ("A", 2): 5.0}  # times faster than JAX with as many threads
ASKED |= {(head, threads): 2.0 for head in ("C", "C-matched") for threads in THREADS}
ASKED_MEMORY = 1.5e9  # bytes of a whole process that trains 1,000 seeds
SAME_MEAN, SAME_SEEDS = 0.002, 0.9  # accuracies of two programs: difference of means, share of seeds that are equal
PEER_COLUMNS = ["head", "threads", "compile_seconds", "least", "most", "accuracy", "seeds_alike", "ours_times_faster"]
COLUMNS = ["what", "changed", "seconds", "extrapolated_from", "times_faster_than_row_before", *PEER_COLUMNS]
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


def sections_of(options):
    """Data and backbone as sections of a study."""
    from qtl_utils.study.config import BackboneConfig, DataConfig

    if options.data_dir:
        data = DataConfig(dataset="hymenoptera", data_dir=options.data_dir, image_size=224, protocol="as_published")
        return data, BackboneConfig(model=options.model, init="file", weights=options.weights)
    data = DataConfig(dataset="ants_bees", protocol="as_published")
    return data, BackboneConfig(model="squeezenet1_1", init="shipped")


def images_through(inputs, folder):
    """A function that runs the images of some samples through the backbone; None where there are features only."""
    import torch

    from qtl_utils.training.inputs import open_backbone

    if not inputs.pixels.size:
        return None
    network = open_backbone(inputs.backbone, inputs.image_size, folder)
    pixels = torch.from_numpy(inputs.pixels)

    def features_of(index):
        with torch.no_grad():
            return network(pixels[index])

    return features_of


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


def compare(found, expected) -> int:
    """How many seeds have the accuracy they should have; ValueError where another work was done."""
    import numpy as np

    found, expected = np.array(found), np.array(expected)
    alike = int(np.isclose(found, expected, rtol=0, atol=1e-6).sum())
    difference = abs(found.mean() - expected.mean())
    if difference > SAME_MEAN or alike < SAME_SEEDS * len(expected):
        raise ValueError(f"another work: {alike} of {len(expected)} seeds alike, means {difference:.4f} apart")
    return alike


def peer_rows(common, heads, threads, repeats):
    """Rows of one number of threads: every head with ours and its peers, in fresh processes."""
    rows = []
    with contextlib.ExitStack() as stack:
        names = dict.fromkeys(name for peers in heads.values() for name in (*peers, OURS, OURS_64))
        workers = {name: stack.enter_context(programs.Worker(threads)) for name in names}
        for head, peers in heads.items():
            jobs = {name: common | {"program": name, "variant": head} for name in (*peers, OURS, OURS_64)}
            found, left_out = programs.measure(workers, jobs, repeats)
            for name, reason in left_out.items():
                print(f"{head}, {name}: {reason}")
            for name, result in found.items():
                alike = compare(result["accuracies"], found[OURS]["accuracies"])
                row = {
                    "what": name,
                    "head": head,
                    "threads": threads,
                    "accuracy": sum(result["accuracies"]) / len(result["accuracies"]),
                    "seeds_alike": alike,
                    "ours_times_faster": result["seconds"] / found[OURS]["seconds"],
                }
                rows.append(row | {key: result[key] for key in ("seconds", "compile_seconds", "least", "most")})
                print(
                    f"{head:9} {threads} thread{'s' if threads > 1 else ''} {name:22} {result['seconds']:8.3f} s, "
                    f"compiles {result['compile_seconds']:.1f} s, accuracy {row['accuracy']:.4f}, "
                    f"{alike} of {len(result['accuracies'])} seeds as ours",
                    flush=True,
                )
    return rows


def ladder_rows(inputs, features_of, repeats):
    """From the loop of 2019 to ours, step by step, in this process."""
    import torch

    train, validation = (torch.as_tensor(inputs.splits.indices(0, subset)) for subset in ("train", "test"))
    labels, cached = torch.from_numpy(inputs.data.labels), inputs.features
    print(f"{len(train)} training and {len(validation)} validation samples, {cached.shape[1]} features")
    torch.manual_seed(0)
    loop = Loop2019(cached.shape[1], len(inputs.data.classes))
    loop.logits(cached[:1])
    rows, every = [], SEEDS * EPOCHS

    def row(name, changed, seconds, extrapolated=""):
        rows.append({"what": name, "changed": changed, "seconds": seconds, "extrapolated_from": extrapolated})
        print(f"{name:58} {seconds:>10,.4g} s{' (extrapolated)' if extrapolated else ''}", flush=True)

    if features_of:
        seconds = measure(lambda: loop.epoch(features_of, labels, train, validation), 1)
        row("the loop of 2019", "", every * seconds, f"{seconds:.3g} s an epoch")
    seconds = measure(lambda: loop.epoch(lambda index: cached[index], labels, train, validation), 1)
    name = "the same, features cached" if features_of else "the loop of 2019, features cached"
    row(name, "caching" if features_of else "", every * seconds, f"{seconds:.3g} s an epoch")
    seconds = per_epoch(lambda epochs: heads(inputs, 1, epochs, "default.qubit"), 1)
    row("PennyLane layer, a batch at once", "batching over samples", every * seconds, f"{seconds:.3g} s an epoch")
    seconds = per_epoch(lambda epochs: heads(inputs, SEEDS, epochs, "default.qubit"), 1)
    row("PennyLane layer, 100 seeds at once", "batching over seeds", EPOCHS * seconds, f"{seconds:.3g} s an epoch")
    seconds = measure(heads(inputs, SEEDS, EPOCHS, "statevector"), repeats)
    row("statevector, 100 seeds at once", "the kernel", seconds)
    for seeds in (10, 1):
        seconds = measure(heads(inputs, seeds, EPOCHS, "statevector"), repeats)
        row(f"statevector, {seeds} seed{'s' if seeds > 1 else ''} at once, trained for 30 epochs", "", seconds)
    for before, after in itertools.pairwise(rows):
        if after["changed"]:
            after["times_faster_than_row_before"] = before["seconds"] / after["seconds"]
    return rows


def memory_row(common):
    """Peak memory of a fresh process that trains 1,000 seeds of head A, as a row of its table."""
    settings = {"seeds": 1000, "epochs": EPOCHS}
    with programs.Worker(max(THREADS)) as worker:
        found = worker(common | {"program": OURS, "variant": "A", "settings": settings})
    print(f"1,000 seeds of head A: {found['seconds']:.1f} s, peak {found['memory_bytes'] / 1e9:.2f} GB of the process")
    return {"program": OURS, "head": "A", **settings, "seconds": found["seconds"], "bytes": found["memory_bytes"]}


def check(peers, memory_bytes) -> list[tuple[str, float, float]]:
    """(what, found, at least) for `timing.verdicts`; a peer that was not measured counts as 0."""
    rows = []
    for (head, threads), least in ASKED.items():
        cell = peers[(peers["head"] == head) & (peers["threads"] == threads) & (peers["what"] == "JAX")]
        found = cell["ours_times_faster"].iloc[0] if len(cell) else 0.0
        rows.append((f"head {head}, {threads} thread{'s' if threads > 1 else ''}, against JAX", found, least))
    rows.append((f"1,000 seeds fit into {ASKED_MEMORY / 1e9:g} GB", ASKED_MEMORY / memory_bytes, 1.0))
    return rows


def markdown(frame):
    """Peers, the best one first, and then the ladder that begins with the loop of 2019, as the README shows them."""
    frame = frame.reindex(columns=COLUMNS)
    peers, ladder = frame[frame["head"].notna()], frame[frame["head"].isna()]
    tables = [part for part in (_peers_table(peers), _ladder_table(ladder)) if part]
    return "\n\n".join(tables)


def _peers_table(frame):
    if not len(frame):
        return ""
    threads = sorted(frame["threads"].unique())
    titles = [f"{n:.0f} thread{'s' if n > 1 else ''}, s" for n in threads]
    lines = [
        "| head | 100 seeds, 30 epochs | " + " | ".join(titles) + " | ours, times faster | compiles, s | accuracy |",
        "|---|---|" + "---:|" * (len(threads) + 3),
    ]
    for head, rows in frame.groupby("head", sort=False):
        middle = rows.groupby("what")["seconds"].min()
        own = [name for name in (OURS, OURS_64) if name in middle]
        for name in [*middle.drop(own).sort_values().index, *own]:
            cells = rows[rows["what"] == name].set_index("threads").reindex(threads)
            seconds = [f"{value:.3g}" if value == value else "" for value in cells["seconds"]]
            times = ", ".join(f"{value:.2g}" for value in cells["ours_times_faster"].dropna())
            about = [f"{cells['compile_seconds'].max():.2g}", f"{cells['accuracy'].dropna().iloc[0]:.4f}"]
            lines.append("| " + " | ".join([head, name, *seconds, "" if name == OURS else times, *about]) + " |")
    return "\n".join(lines)


def _ladder_table(frame):
    if not len(frame):
        return ""
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
    parser.add_argument("--quick", action="store_true", help="ours and JAX only, without ladder and scaling")
    parser.add_argument("--check", action="store_true", help="say what falls short; exit code 1 if something does")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", default=str(timing.PROJECT / "results" / "benchmarks"), help="folder of the results")
    options = parser.parse_args()
    if bool(options.data_dir) != bool(options.weights):
        parser.error("--data-dir and --weights go together: the images and the weights of the backbone")
    with tempfile.TemporaryDirectory() as folder:
        return report(options, Path(folder))


def report(options, folder):
    import pandas as pd

    from qtl_utils.study.environment import describe
    from qtl_utils.training.inputs import open_inputs

    sections = sections_of(options)
    inputs = open_inputs(folder, *sections)  # decoded once; the workers find it in the folder
    common = programs.data_of(folder, *sections) | {"settings": {"seeds": SEEDS, "epochs": EPOCHS}}
    some = {head: [name for name in peers if name == "JAX" or not options.quick] for head, peers in PEERS.items()}
    rows = [row for threads in THREADS for row in peer_rows(common, some, threads, options.repeats)]
    memory = memory_row(common)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    if not options.quick:
        bench_scaling.report(common, max(THREADS), 3, out)
        os.environ["QTL_BATCH"] = "1"  # no progress bars
        timing.pin_threads(max(THREADS))
        rows += ladder_rows(inputs, images_through(inputs, folder), options.repeats)
    frame = pd.DataFrame(rows).reindex(columns=COLUMNS)
    frame.to_csv(out / "study.csv", index=False, float_format="%.4g")
    pd.DataFrame([memory]).to_csv(out / "study_memory.csv", index=False, float_format="%.4g")
    (out / "study.json").write_text(json.dumps(describe() | {"peers": peer_versions()}, indent=2))
    print(markdown(pd.read_csv(out / "study.csv")), f"Tables: {out / 'study.csv'}", sep="\n\n")
    if not options.check:
        return 0
    lines, short = timing.verdicts(check(frame[frame["head"].notna()], memory["bytes"]))
    print(*lines, sep="\n")
    return int(short > 0)


def peer_versions():
    """Versions of the peers that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("jax", "pennylane", "tensorcircuit-ng"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


if __name__ == "__main__":
    sys.exit(main())
