"""The broken against the mended model: both trained over the same seeds, splits and orders of the user's samples."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from qtl_utils.doctor.checks.training import hashed
from qtl_utils.doctor.messages import short
from qtl_utils.doctor.recipe import Recipe, train
from qtl_utils.doctor.samples import read_all
from qtl_utils.results import stats

HELD_OUT = 0.25  # of the samples that choices are made with, tested in every repeat
TESTED = 0.3  # of all samples, where no test set is given: seen by no choice
FEWEST_EPOCHS = 6
FEWEST_SEEDS = 3
FEWEST_SAMPLES = 48
MANY_VALUES = 20  # labels with more distinct values are quantities, not classes


@dataclass(frozen=True)
class Samples:
    """Samples that choices are made with, samples that are only tested in the end, and those that should not be there.

    leaked: samples of a user's test set that are in the other subsets too.
    """

    pool: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    leaked: tuple[torch.Tensor, torch.Tensor]

    def split(self, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of the pool that train and that are held out, stratified by class, a draw for every seed."""
        return stratified(self.pool[1], HELD_OUT, seed)

    def first(self, n: int) -> "Samples":
        """At most `n` samples to choose with."""
        if len(self.pool[0]) <= n:
            return self
        _, rows = stratified(self.pool[1], n / len(self.pool[0]), 0)
        return replace(self, pool=_rows(self.pool, rows))


def _rows(pair, rows):
    return pair[0][rows], pair[1][rows]


def stratified(labels: torch.Tensor, share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets of rows, sorted; the second has `share` of every class, or of all where labels are quantities."""
    generator = torch.Generator().manual_seed(seed)
    values, classes = labels.detach().reshape(len(labels), -1)[:, 0].unique(return_inverse=True)
    classes = torch.zeros_like(classes) if len(values) > MANY_VALUES else classes
    chosen = []
    for number in range(int(classes.max()) + 1):
        rows = (classes.cpu() == number).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        chosen.append(rows[: max(1, round(share * len(rows)))])
    held = torch.cat(chosen).sort()[0]
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[held] = False
    return rest.nonzero().flatten(), held


def read_samples(data) -> Samples:
    """What the user gave, as `Samples`. Raises ValueError that names what was expected."""
    if isinstance(data, Mapping):
        if "train" not in data or not set(data) <= {"train", "validation", "test"}:
            told = ", ".join(map(str, data))
            raise ValueError(f"data: expected subsets 'train', and maybe 'validation' and 'test', got {told or 'none'}")
        parts = {name: _pair(value, f"data['{name}']") for name, value in data.items()}
    else:
        parts = {"train": _pair(data, "data")}
    pool = parts["train"]
    seen = {hashed(x) for x in pool[0]}
    if "validation" in parts:
        rows = [i for i, x in enumerate(parts["validation"][0]) if hashed(x) not in seen]
        pool = tuple(torch.cat([a, b]) for a, b in zip(pool, _rows(parts["validation"], rows), strict=True))
        seen |= {hashed(x) for x in pool[0]}
    if "test" in parts:
        common = torch.tensor([hashed(x) in seen for x in parts["test"][0]])
        test, leaked = _rows(parts["test"], ~common), _rows(parts["test"], common)
    else:
        rest, held = stratified(pool[1], TESTED, 0)
        pool, test = _rows(pool, rest), _rows(pool, held)
        leaked = _rows(pool, slice(0))
    if len(pool[0]) < 8 or not len(test[0]):
        raise ValueError(f"data: {len(pool[0])} samples to train with and {len(test[0])} to test on; give at least 12")
    return Samples(pool, test, leaked)


def _pair(value, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        x, y = read_all(value)
    except ValueError as error:
        raise ValueError(f"{name}: expected two tensors (samples, labels), or a loader of them; {error}") from None
    if x.dim() < 2 or len(x) != len(y):
        raise ValueError(f"{name}: expected samples (N, ...) and N labels, got {tuple(x.shape)} and {tuple(y.shape)}")
    return x.detach(), y.detach()


# ---- scores ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """What one training came to: scores on held-out and on test samples, and what its user would have reported."""

    held: float
    held_loss: float
    test: float
    reported: float
    step_seconds: float


def score(out: torch.Tensor, y: torch.Tensor, loss: Callable) -> float:
    """The accuracy of outputs, 0 to 1; for labels with many values R^2, the explained share of their variance."""
    out, y = out.detach().double(), y.detach()
    if out.dim() == 2 and out.shape[1] > 1 and y.dim() == 1:
        return (out.argmax(-1) == y).double().mean().item()
    y = y.double().reshape(len(y), -1)
    out = out.reshape(len(y), -1)
    if out.shape != y.shape:
        return math.nan
    values = y.unique()
    if len(values) > MANY_VALUES:
        return (1 - (out - y).square().sum() / (y - y.mean(0)).square().sum().clamp(min=1e-12)).item()
    if isinstance(loss, nn.BCEWithLogitsLoss):
        out = out.sigmoid()
    nearest = values[(out.unsqueeze(-1) - values).abs().argmin(-1)]
    return (nearest == y).all(-1).double().mean().item()


def predict(model: nn.Module, x: torch.Tensor, size: int = 256) -> torch.Tensor:
    """Outputs of `model` in eval mode; the modes of training are put back by whoever trains on."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(part.clone()) for part in x.split(size)])  # a first layer may write in place


def one_training(recipe: Recipe, samples: Samples, seed: int) -> Score:
    """Trains the model of `seed` on its part of the pool and scores it; whatever the model raises is raised."""
    fit, held = samples.split(seed)
    x, y = _rows(samples.pool, fit)
    scaling = recipe.scaling(x)
    parts = {"fit": (x, y), "held": _rows(samples.pool, held), "test": samples.test, "leaked": samples.leaked}
    parts = {name: (scaling(x) if len(x) else x, recipe.labels(y)) for name, (x, y) in parts.items()}
    built = recipe.build(seed, parts["fit"][0][:2])
    seconds = []
    best = -math.inf
    for epoch in train(recipe, built, *parts["fit"], seed):
        seconds.append(epoch.step_seconds)
        if recipe.select == "test":
            best = max(best, score(predict(built.model, parts["held"][0]), parts["held"][1], recipe.loss))
    outputs = {name: predict(built.model, part[0]) for name, part in parts.items() if len(part[0]) and name != "fit"}
    found = {name: score(out, parts[name][1], recipe.loss) for name, out in outputs.items()}
    reported = best if recipe.select == "test" else found["held"]
    if recipe.leaky and "leaked" in found:
        n, m = len(parts["test"][0]), len(parts["leaked"][0])
        reported = (n * found["test"] + m * found["leaked"]) / (n + m)
    loss = log_loss(outputs["held"], parts["held"][1], recipe.loss)
    return Score(found["held"], loss, found["test"], reported, float(np.median(seconds)))


def log_loss(out: torch.Tensor, y: torch.Tensor, loss: Callable) -> float:
    """-log of the probability of the true class, outputs that are probabilities taken as such; else the user's loss."""
    if out.dim() == 2 and out.shape[1] > 1 and y.dim() == 1 and not y.is_floating_point():
        out = out.double()
        sums_to_1 = out.min() >= 0 and torch.allclose(out.sum(-1), torch.ones_like(out[:, 0]), atol=1e-4)
        p = (out if sums_to_1 else out.softmax(-1))[torch.arange(len(y)), y]
        value = -p.clamp(min=1e-12).log().mean().item()
    else:
        value = float(loss(out, y))
    return min(value, 1e6) if math.isfinite(value) else 1e6


@dataclass
class Trial:
    """Trainings of recipes over the same seeds, until the time is over."""

    samples: Samples
    seeds: Sequence[int]
    deadline: float  # of time.perf_counter
    trainings: int = 0

    def run(self, recipe: Recipe) -> tuple[list[Score], str]:
        """Scores of the first seeds that time allows, and what the model raised, if it did."""
        found = []
        for seed in self.seeds:
            if time.perf_counter() > self.deadline:
                break
            try:
                found.append(one_training(recipe, self.samples, seed))
            except Exception as error:  # a model that does not run is what is to be mended
                return [], f"{type(error).__name__}: {short(error)}"
            self.trainings += 1
        return found, ""


@dataclass(frozen=True)
class Gain:
    """A paired difference, mended minus broken: its mean and 95 % t interval over `n` seeds."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0

    def __str__(self):
        if not self.n:
            return "not measured"
        interval = f" [{self.low:+.3f}, {self.high:+.3f}]" if self.n > 1 else ", without an interval"
        return f"{self.value:+.3f}{interval}, n = {self.n} seeds"


def gain(broken: Sequence[Score], mended: Sequence[Score], name: str) -> Gain:
    """The gain in a field of `Score`, over the seeds that both were trained with; differences are taken seed by seed.

    The interval says what other seeds, splits and orders of these samples would give.
    """
    pairs = list(zip(broken, mended, strict=False))
    values = np.array([getattr(b, name) - getattr(a, name) for a, b in pairs], float)
    n = len(values)
    if not n or not np.isfinite(values).all():
        return Gain()
    if n == 1:
        return Gain(float(values[0]), n=1)
    deviation = values.std(ddof=1)
    low, high = (values.mean(),) * 2
    if deviation > 1e-12:
        low, high = stats.t_interval(values.mean(), deviation / np.sqrt(n), n - 1)
    return Gain(float(values.mean()), float(low), float(high), n)


def mean(scores: Sequence[Score], name: str) -> float:
    return float(np.mean([getattr(s, name) for s in scores])) if scores else math.nan


# ---- what fits the time ----------------------------------------------------------------------------------------------


def fitted(recipe: Recipe, samples: Samples, seeds: int, step: float, mends: int, left: float):
    """Recipe, samples and seeds that fit into `left` seconds, and a sentence for each that had to shrink.

    step: seconds of a training step. mends: how many are to be tried, beside the broken model itself.
    """
    told = []

    def cost(epochs, n_seeds, n):
        return epochs * math.ceil((1 - HELD_OUT) * n / recipe.batch_size) * step * n_seeds * (1 + mends)

    epochs, n = recipe.epochs, len(samples.pool[0])
    if cost(epochs, seeds, n) > left:
        epochs = max(min(FEWEST_EPOCHS, epochs), min(epochs, int(left / cost(1, seeds, n))))
        told += [f"{epochs} of {recipe.epochs} epochs"] if epochs < recipe.epochs else []
    if cost(epochs, seeds, n) > left and seeds > FEWEST_SEEDS:
        before, seeds = seeds, max(FEWEST_SEEDS, int(left / cost(epochs, 1, n)))
        told += [f"{seeds} of {before} seeds"] if seeds < before else []
    if cost(epochs, seeds, n) > left and n > FEWEST_SAMPLES:
        fewer = max(FEWEST_SAMPLES, int(n * left / cost(epochs, seeds, n)))
        samples = samples.first(fewer)
        told += [f"{len(samples.pool[0])} of {n} samples"] if len(samples.pool[0]) < n else []
    return replace(recipe, epochs=epochs), samples, seeds, told
