"""When does a GPU pay? The same work on this machine's processor and on its accelerator, side by side.

    .venv/bin/python benchmarks/bench_accelerator.py --out DIR [--threads 2]

Three kinds of work: calls of the simulator with gradients, by qubits and batch; heads on 512 features trained many
seeds at once, by seeds; and epochs of whole networks, by image size. On the processor the simulator is the compiled
one, on the accelerator its torch executor. The table has seconds of both, medians of five, and their ratio.
"""

import argparse
import statistics
from pathlib import Path

import timing

REPEATS = 5


def simulator_calls(device):
    """Forward and backward of the circuit of 2019: (name, qubits, batch, seeds, size) -> steps by place."""
    import torch

    from qtl_utils.circuits.layer import QuantumLayer

    for n_qubits in (4, 8, 12, 16):
        for batch in (32, 512, 8192):
            if n_qubits == 16 and batch > 512:
                continue  # gradients of 8,192 states of 16 qubits need tens of GB
            steps = {}
            for place in ("cpu", device):
                layer = QuantumLayer(n_qubits, 6).to(place)
                inputs = torch.rand(batch, n_qubits, device=place, requires_grad=True)

                def step(layer=layer, inputs=inputs):
                    layer(inputs).sum().backward()
                    inputs.grad.sum().item()  # waits for the accelerator

                steps[place] = step
            yield ("circuit, forward and backward", n_qubits, batch, 1, ""), steps


def head_trainings(device):
    """Two epochs of heads on 240 samples of 512 features."""
    import numpy as np
    import torch

    from qtl_utils.data.splits import Splits
    from qtl_utils.models.heads import HeadSettings, make_head
    from qtl_utils.study.config import TrainConfig
    from qtl_utils.training.fits import Rates, make_replicas
    from qtl_utils.training.many import fit_heads

    draw = np.random.default_rng(0)
    features, labels = torch.tensor(draw.normal(size=(300, 512)), dtype=torch.float32), draw.integers(0, 2, 300)
    subsets = np.array([["train"] * 240 + ["validation"] * 60])
    splits = Splits("repeated", subsets)
    settings = HeadSettings(512, 2)
    for variant in ("A", "C"):
        for seeds in (10, 100, 1000):
            for batch in (4, 32):
                config = TrainConfig(variants=[variant], epochs=2, batch_size=batch, seeds=seeds)
                replicas = make_replicas(range(seeds), 1, [Rates(4e-4, 4e-4, 4e-4)])
                steps = {}
                for place in ("cpu", device):

                    def step(place=place, replicas=replicas, config=config, variant=variant):
                        def build(seed):
                            return make_head(variant, settings, seed)

                        fit_heads(build, features.to(place), labels, splits, replicas, config)

                    steps[place] = step
                yield (f"head {variant}, two epochs", 4, batch, seeds, "512 features"), steps


def network_epochs(device):
    """An epoch of variants B and A-joint on 128 random images of two classes."""
    import torch

    from qtl_utils.models import backbones
    from qtl_utils.models.heads import HeadSettings, make_head
    from qtl_utils.models.network import Network, train_epoch
    from qtl_utils.study.config import TrainConfig
    from qtl_utils.training.fits import Rates
    from qtl_utils.training.optimizers import network_optimizer

    for size in (32, 224):
        for head in ("C", "A"):
            steps = {}
            for place in ("cpu", device):
                backbone = backbones.load_backbone("resnet18", size, "random")
                model = Network(backbone, make_head(head, HeadSettings(512, 2), 0)).to(place)
                config = TrainConfig(batch_size=32)
                optimizer = network_optimizer(model, Rates(4e-4, 4e-4, 4e-4), config)
                pixels = torch.randint(0, 255, (128, 3, size, size), dtype=torch.uint8, device=place)
                order = torch.arange(128, device=place)
                labels = order % 2

                def step(model=model, optimizer=optimizer, pixels=pixels, labels=labels, order=order, config=config):
                    train_epoch(model, optimizer, pixels, labels, order, config)

                steps[place] = step
            yield (f"ResNet18 with head {head}, one epoch of 128 images", 4, 32, 1, f"{size} px"), steps


SHOWN = ("circuit, forward and backward", "head A, two epochs", "ResNet18 with head C, one epoch of 128 images")


def markdown(frame):
    """The README's table: how many times faster the accelerator is, where that says most."""
    lines = ["| work | qubits | samples at once | seeds | times faster on the GPU |", "|---|---:|---:|---:|---:|"]
    for row in frame[frame["what"].isin(SHOWN)].itertuples():
        what = f"{row.what}, {row.size}" if isinstance(row.size, str) else row.what
        circuit = "" if "head C" in row.what else row.n_qubits
        lines.append(f"| {what} | {circuit} | {row.batch:,} | {row.seeds:,} | {row.ratio:.2g} |")
    return "\n".join(lines)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--out", type=Path, default=timing.PROJECT / "results" / "benchmarks")
    options = options.parse_args()
    timing.pin_threads(options.threads)
    import pandas as pd

    from qtl_utils.models.devices import find_device
    from qtl_utils.study.environment import set_threads

    set_threads(options.threads)
    device = find_device("auto")
    if device.type == "cpu":
        raise SystemExit("this machine has no accelerator that PyTorch can use; nothing to compare")
    rows = []
    for kind in (simulator_calls, head_trainings, network_epochs):
        for (what, n_qubits, batch, seeds, size), steps in kind(device):
            for step in steps.values():
                step()
            seconds = timing.alternate(steps, REPEATS)
            here, there = (statistics.median(seconds[place]) for place in ("cpu", device))
            rows.append({"what": what, "n_qubits": n_qubits, "batch": batch, "seeds": seeds, "size": size})
            rows[-1] |= {"processor_seconds": here, "accelerator_seconds": there, "ratio": here / there}
            print(rows[-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(options.out / "accelerator.csv", index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
