"""An epoch of a whole network: as it is trained now, and as it was trained before.

    .venv/bin/python benchmarks/bench_networks.py --check

A backbone with random weights and a linear head at 32 px: 320 images in batches of 32, then 64 images evaluated and the
state of the best epoch kept. Before, Adam went over the parameters operation by operation (foreach), every convolution
was torch's own on images with planes of one channel each, the state of the best epoch was copied through masks, and
networks were evaluated with 128 images at a time. Medians of epochs that take turns. Both compute the same up to
rounding, which is made sure of in float64 before anything is timed.
"""

import argparse
import sys
from pathlib import Path
from statistics import median

import timing

MODELS = ("resnet18", "tiny_resnet", "tiny_vit")
IMAGE_SIZE, N_TRAIN, N_VALIDATION, N_CLASSES, BATCH, RATE = 32, 320, 64, 5, 32, 1e-3
ASKED = {"resnet18": 1.4}  # times faster than before
SAME = 1e-8  # how far the losses of two epochs may differ in float64


def problem(n: int):
    """Random images (n, 3, S, S), uint8, and labels."""
    import torch

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8, generator=generator)
    return pixels, torch.randint(0, N_CLASSES, (n,), generator=generator)


def parts(model: str):
    """A backbone and a linear head."""
    import torch

    from qtl_utils.models.backbones import load_backbone

    backbone = load_backbone(model, IMAGE_SIZE, "random", frozen=False)
    torch.manual_seed(0)
    return backbone, torch.nn.Linear(backbone.n_features, N_CLASSES)


class Now:
    """Epochs as `fit_network` has them."""

    def __init__(self, model: str, dtype=None):
        from qtl_utils.models.network import Network
        from qtl_utils.study.config import TrainConfig
        from qtl_utils.training.fits import Best, Rates
        from qtl_utils.training.optimizers import network_optimizer

        self.config = TrainConfig(batch_size=BATCH)
        self.model = Network(*parts(model)).to(dtype)
        self.optimizer = network_optimizer(self.model, Rates(RATE, RATE, RATE), self.config)
        self.best = Best(1, self.state())
        self.epochs = 0

    def state(self):
        return {name: value[None] for name, value in self.model.state_dict().items()}

    def epoch(self, pixels, labels, train, validation) -> tuple[float, float]:
        """Loss on the training and the validation samples."""
        import numpy as np
        from torch.nn.functional import cross_entropy

        from qtl_utils.models.network import network_logits, train_epoch

        seen, _ = train_epoch(self.model, self.optimizer, pixels, labels, train, self.config)
        loss = cross_entropy(network_logits(self.model, pixels, validation), labels[validation]).item()
        self.epochs += 1
        self.best.update(self.epochs, np.array([[loss, self.epochs]]), self.state())  # every epoch the best so far
        return seen, loss


class Before:
    """The same epochs as they were, written out."""

    def __init__(self, model: str, dtype=None):
        import torch

        self.model = torch.nn.Sequential(*parts(model)).to(dtype)
        backbone, head = self.model
        groups = [{"params": list(part.parameters()), "lr": RATE} for part in (backbone, head)]
        self.optimizer = torch.optim.Adam(groups, foreach=True)
        self.best = {name: value[None].clone() for name, value in self.model.state_dict().items()}

    def epoch(self, pixels, labels, train, validation) -> tuple[float, float]:
        import torch
        from torch.nn.functional import cross_entropy

        self.model.train()
        seen = 0.0
        right = 0
        for start in range(0, len(train), BATCH):
            index = train[start : start + BATCH]
            logits = self.model(pixels[index])
            loss = cross_entropy(logits, labels[index])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            seen += loss.item() * len(index)
            right += (logits.argmax(1) == labels[index]).sum().item()
        self.model.eval()
        with torch.no_grad():
            logits = torch.cat([self.model(pixels[validation[i : i + 128]]) for i in range(0, len(validation), 128)])
        mask = torch.tensor([True])
        for name, value in self.model.state_dict().items():
            self.best[name][mask] = value[None][mask]
        return seen / len(train), cross_entropy(logits, labels[validation]).item()


def apart(model: str) -> float:
    """By how much the losses of both ways differ, over two epochs of two steps in float64."""
    import numpy as np
    import torch

    pixels, labels = problem(2 * BATCH + 8)
    index = np.arange(len(labels))
    ways = [Way(model, torch.float64) for Way in (Now, Before)]
    losses = [[way.epoch(pixels, labels, index[: 2 * BATCH], index[2 * BATCH :]) for _ in range(2)] for way in ways]
    return float(np.abs(np.subtract(*losses)).max())


def measure(model: str, repeats: int) -> dict:
    """A row of the table: median seconds of an epoch, and their ratio."""
    import numpy as np

    if not apart(model) < SAME:
        raise AssertionError(f"{model}: both ways do not compute the same")
    pixels, labels = problem(N_TRAIN + N_VALIDATION)
    index = np.random.default_rng(0).permutation(len(labels))
    sets = index[:N_TRAIN], index[N_TRAIN:]
    ways = {"before": Before(model), "now": Now(model)}
    seconds = timing.alternate(
        {k: lambda way=way: way.epoch(pixels, labels, *sets) for k, way in ways.items()}, repeats
    )
    medians = {f"seconds_{name}": median(values) for name, values in seconds.items()}
    return {"model": model, **medians, "times_faster": medians["seconds_before"] / medians["seconds_now"]}


def check(rows: list[dict]) -> list[tuple[str, float, float]]:
    """(what, found, at least) of the networks for which something is asked."""
    return [(f"an epoch of {r['model']}", r["times_faster"], ASKED[r["model"]]) for r in rows if r["model"] in ASKED]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="say what falls short; exit code 1 if something does")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", default=str(timing.PROJECT / "results" / "benchmarks"), help="folder of the results")
    options = parser.parse_args()
    timing.pin_threads(options.threads)
    import pandas as pd

    rows = []
    for model in options.models:
        rows.append(row := measure(model, options.repeats))
        print(
            f"{model:12} {row['seconds_before']:7.3f} s an epoch before, {row['seconds_now']:7.3f} s now: "
            f"{row['times_faster']:.2f} times faster",
            flush=True,
        )
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "networks.csv", index=False, float_format="%.4g")
    print(f"Table: {folder / 'networks.csv'}")
    if not options.check:
        return 0
    lines, short = timing.verdicts(check(rows))
    print(*lines, sep="\n")
    return int(short > 0)


if __name__ == "__main__":
    sys.exit(main())
