"""Can a study see what it looks for? Studies are simulated whose truth is known, and its intervals and tests counted.

A population is a mixture of Gaussians for every class, fitted to real features. A simulated study draws its images from
it, splits them as the real study does (`make_splits`), and trains heads that have a closed form, so that hundreds of
studies take seconds; `real_estimates` does the same with the circuit head A and the linear head C, fewer times. Every
estimate is judged by its mean over all studies, which is the truth, as no test image was trained on.

Hypotheses that are true are needed to count false alarms: a difference is shifted by its truth (or so that the truth
is the bound of equivalence, or a given number of points), which leaves its spread and its standard error as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import stats as scipy_stats
from sklearn.mixture import GaussianMixture

from qtl_utils.data.dataset import from_points, load_pixels
from qtl_utils.data.datasets import load_dataset
from qtl_utils.data.splits import Splits, make_splits
from qtl_utils.models import backbones
from qtl_utils.results import stats
from qtl_utils.study.config import BackboneConfig, TrainConfig
from qtl_utils.study.environment import progress
from qtl_utils.study.shipped_files import FEATURES, read_arrays
from qtl_utils.training.inputs import Inputs
from qtl_utils.training.scores import score_metrics
from qtl_utils.training.variants import fit_variant

DIMENSIONS = 24  # principal components of the features that a population keeps
COMPONENTS = 3  # Gaussians of a class
POINTS = (0.01, 0.02, 0.04)  # true differences whose detection is counted
METHODS = {"crossed": stats.CROSSED, "Nadeau-Bengio": stats.OVER_SPLITS, "plain t": "t over splits"}


@dataclass(frozen=True)
class Population:
    """What images of each class may be: a mixture of Gaussians over `DIMENSIONS` principal components."""

    name: str
    shares: np.ndarray  # (K,) of the classes
    mixtures: tuple[GaussianMixture, ...]

    def sample(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """About `n` images, each class by its share: features (n, d) and labels (n,)."""
        counts = np.maximum(np.round(self.shares * n), 1).astype(int)
        drawn = [_draw(mixture, count, rng) for mixture, count in zip(self.mixtures, counts, strict=True)]
        return np.concatenate(drawn), np.repeat(np.arange(len(counts)), counts)


def _draw(mixture: GaussianMixture, n: int, rng: np.random.Generator) -> np.ndarray:
    which = rng.choice(len(mixture.weights_), n, p=mixture.weights_)
    root = np.linalg.cholesky(mixture.covariances_)
    noise = rng.standard_normal((n, root.shape[-1]))
    return mixture.means_[which] + np.einsum("nij,nj->ni", root[which], noise)


def fit_population(name: str, features: np.ndarray, labels: np.ndarray, seed: int = 0) -> Population:
    """The population that `features` (N, F) with `labels` (N,) look like a sample of."""
    centred = np.asarray(features, float) - np.mean(features, axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    kept = centred @ axes[:DIMENSIONS].T
    kept /= kept.std()
    counts = np.bincount(labels)
    mixtures = []
    for label, count in enumerate(counts):
        few = min(COMPONENTS, max(1, count // 10))
        mixture = GaussianMixture(few, reg_covar=0.02, random_state=seed)
        mixtures.append(mixture.fit(kept[labels == label]))
    return Population(name, counts / counts.sum(), tuple(mixtures))


def known_features(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, F) and labels (N,) that need no download: "squeezenet" (ants and bees), or a backbone on digits."""
    if name == "squeezenet":
        data = load_dataset("ants_bees")
        return read_arrays("ants_bees")[FEATURES], data.labels
    data = load_dataset("digits")
    network = backbones.load_backbone(name, 32, "shipped")
    return backbones.compute_features(network, load_pixels(data, 32)).numpy(), data.labels


# ---- heads -----------------------------------------------------------------------------------------------------------

Head = Callable[[np.ndarray], np.ndarray]  # features (n, d) -> predicted classes (n,)


def _ridge(x: np.ndarray, y: np.ndarray, n_classes: int, strength: float) -> Head:
    """Least squares on one-hot labels with an L2 penalty."""
    inputs = _with_ones(x)
    targets = np.eye(n_classes)[y] - 1 / n_classes
    weights = np.linalg.solve(inputs.T @ inputs + strength * np.eye(inputs.shape[1]), inputs.T @ targets)
    return lambda new: (_with_ones(new) @ weights).argmax(1)


def _with_ones(x: np.ndarray) -> np.ndarray:
    """`x` (n, d) with a last column of ones, (n, d + 1)."""
    out = np.ones((len(x), x.shape[1] + 1))
    out[:, :-1] = x
    return out


def _centroids(x: np.ndarray, y: np.ndarray, n_classes: int) -> Head:
    """The class with the nearest mean."""
    means = np.stack([x[y == k].mean(axis=0) for k in range(n_classes)])
    return lambda new: (new @ means.T - (means**2).sum(axis=1) / 2).argmax(1)


def _bottleneck(x: np.ndarray, y: np.ndarray, n_classes: int, width: int, rng: np.random.Generator) -> Head:
    """Ridge on the tanh of a random projection: as A's head, it squeezes the features through few numbers."""
    projection = rng.standard_normal((x.shape[1], width)) * 1.5 / np.sqrt(x.shape[1])
    inner = _ridge(np.tanh(x @ projection), y, n_classes, 0.3)
    return lambda new: inner(np.tanh(new @ projection))


def closed_heads(x: np.ndarray, y: np.ndarray, n_classes: int, rng: np.random.Generator) -> dict[str, Head]:
    """Five heads trained on features x (n, d) and labels y (n,): two of them random, as a seed makes them."""
    narrow = 6 if n_classes == 2 else 10
    return {
        "ridge": _ridge(x, y, n_classes, 1.0),
        "shrunk": _ridge(x, y, n_classes, 30.0),
        "centroids": _centroids(x, y, n_classes),
        "narrow": _bottleneck(x, y, n_classes, narrow, rng),
        "wider": _bottleneck(x, y, n_classes, narrow + 4, rng),
    }


HEADS = ("ridge", "shrunk", "centroids", "narrow", "wider")
PAIRS = tuple(("ridge", other) for other in HEADS[1:])  # the family
CELLS = ("ridge", "shrunk", "narrow", "wider")  # of a factorial: neither, second, first, both

# ---- designs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Design:
    """How a study splits its images and how often it trains."""

    name: str
    population: str
    n_images: int
    seeds: int  # per split
    splits: Mapping[str, float | str]  # n_splits, train, validation, test, as in a study file


THIRDS = {"train": 0.6, "validation": 0.2}
DESIGNS = (
    Design("digits, 48 splits", "tiny_resnet", 896, 1, {"n_splits": 48, "train": 100, "validation": 50}),
    Design("digits, 12 splits", "tiny_vit", 896, 1, {"n_splits": 12, "train": 100, "validation": 50}),
    Design("ants/bees, 10 splits", "squeezenet", 397, 6, {"n_splits": 10, **THIRDS}),
    Design("ants/bees, 30 splits", "squeezenet", 397, 2, {"n_splits": 30, **THIRDS}),
    Design("ants/bees, 50 splits", "squeezenet", 397, 2, {"n_splits": 50, **THIRDS}),
    Design("own images (200), 10 splits", "squeezenet", 200, 2, {"n_splits": 10, **THIRDS}),
)


def contrasts(right: Mapping[str, np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
    """What a study estimates, per split and image: (kind, name) -> (J, N), from each head's share of right answers."""
    found = {("accuracy", name): values for name, values in right.items()}
    found |= {("difference", f"{a} - {b}"): right[a] - right[b] for a, b in PAIRS}
    neither, second, first, both = (right[name] for name in CELLS)
    found["factorial", "main effect"] = (first - neither + both - second) / 2
    found["factorial", "interaction"] = both - second - first + neither
    return found


def estimates(values: np.ndarray, splits: Splits) -> dict[str, tuple[float, float, float]]:
    """Value, standard error and degrees of freedom of (J, N) values per split and image, by every method."""
    means = np.nanmean(values, axis=1)
    sizes = [[len(splits.indices(j, s)) for s in ("test", "train")] for j in range(splits.n_splits)]
    test, train = np.mean(sizes, axis=0)
    n = len(means)
    deviation = means.std(ddof=1)
    parts = stats.crossed_parts(values, range(n))
    return {
        "crossed": (means.mean(), parts.error, parts.df),
        "Nadeau-Bengio": (means.mean(), deviation * np.sqrt(1 / n + test / train), n - 1),
        "plain t": (means.mean(), deviation / np.sqrt(n), n - 1),
    }


def right_answers(
    design: Design, population: Population, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], Splits]:
    """One simulated study and its splits: per head (J, N), the share of seeds that got an image right, NaN outside."""
    x, y = population.sample(design.n_images, rng)
    n_classes = len(population.shares)
    data = from_points(population.name, x, y, tuple(map(str, range(n_classes))))
    splits = make_splits(data, seed=int(rng.integers(2**31)), **design.splits)
    right = {name: np.full((splits.n_splits, len(y)), np.nan) for name in HEADS}
    for j in range(splits.n_splits):
        train, test = splits.indices(j, "train"), splits.indices(j, "test")
        for values in right.values():
            values[j, test] = 0.0
        for _ in range(design.seeds):
            for name, head in closed_heads(x[train], y[train], n_classes, rng).items():
                right[name][j, test] += (head(x[test]) == y[test]) / design.seeds
    return right, splits


def one_study(design: Design, population: Population, rng: np.random.Generator) -> list[dict]:
    """The estimates of one simulated study: a row per contrast and method."""
    right, splits = right_answers(design, population, rng)
    return _rows(contrasts(right), splits)


def _rows(found: Mapping[tuple[str, str], np.ndarray], splits: Splits) -> list[dict]:
    return [
        {"kind": kind, "what": what, "method": method, "value": value, "error": error, "df": df}
        for (kind, what), values in found.items()
        for method, (value, error, df) in estimates(values, splits).items()
    ]


def simulate(design: Design, population: Population, repetitions: int, seed: int = 0) -> pd.DataFrame:
    """The estimates of `repetitions` studies: columns design, study, kind, what, method, value, error, df."""
    frames = []
    for study in progress(range(repetitions), design.name):
        rng = np.random.default_rng([seed, study])
        frames.append(pd.DataFrame(one_study(design, population, rng)).assign(study=study))
    return pd.concat(frames, ignore_index=True).assign(design=design.name)


# ---- the real heads --------------------------------------------------------------------------------------------------

REAL = ("A", "C")


def real_estimates(
    design: Design, population: Population, repetitions: int, config: TrainConfig, seed: int = 0
) -> pd.DataFrame:
    """As `simulate`, with the heads A and C of this project, trained as in a study."""
    frames = []
    for study in progress(range(repetitions), f"{design.name}, A and C"):
        rng = np.random.default_rng([seed, study, 1])
        x, y = population.sample(design.n_images, rng)
        data = from_points(population.name, x, y, tuple(map(str, range(len(population.shares)))))
        splits = make_splits(data, seed=int(rng.integers(2**31)), **design.splits)
        nothing = BackboneConfig(model="none", init="random")
        inputs = Inputs(data, splits, np.empty(0, np.uint8), torch.from_numpy(x), nothing, {}, 0)
        seeds = {"seeds": design.seeds * splits.n_splits, "first_seed": 100_000 * study}
        settings = config.model_copy(update=seeds)
        right = {name: _share_right(name, inputs, settings) for name in REAL}
        found = {("accuracy", name): values for name, values in right.items()}
        found["difference", "A - C"] = right["A"] - right["C"]
        frames.append(pd.DataFrame(_rows(found, splits)).assign(study=study))
    return pd.concat(frames, ignore_index=True).assign(design=design.name)


def _share_right(variant: str, inputs: Inputs, config: TrainConfig) -> np.ndarray:
    """(J, N): the share of the seeds of each split that got each image right after the last epoch, NaN outside test."""
    fit = fit_variant(variant, inputs, config)
    rows = score_metrics(fit, np.arange(len(fit.replicas)), inputs)
    rows = rows[(rows["subset"] == "test") & (rows["epoch_kind"] == "last")]
    images = stats.of_images(rows, "accuracy")
    return np.stack([np.mean(np.stack(list(part)), axis=0) for _, part in images.groupby(rows["split"])]).astype(float)


# ---- what is counted -------------------------------------------------------------------------------------------------


def calibrate(found: pd.DataFrame) -> pd.DataFrame:
    """How often intervals hold the truth and see a difference: a row per design, kind, what and method.

    `truth` is the mean over studies and `sd` their spread, `half_width` the median half of a 95 % interval, `coverage`
    the share of intervals that hold the truth (of an accuracy: on the scale of its log-odds), `power_1`, `power_2` ...
    the share that leave out zero where the truth is so many points.
    """
    rows = []
    for key, part in found.groupby(["design", "kind", "what", "method"], sort=False):
        truth = part["value"].mean()
        half = scipy_stats.t.ppf(1 - stats.ALPHA / 2, part["df"]) * part["error"]
        off = part["value"] - truth
        covered = (off.abs() <= half) if key[1] != "accuracy" else _holds_share(part, truth)
        row = dict(zip(["design", "kind", "what", "method"], key, strict=True))
        row |= {"studies": len(part), "truth": truth, "sd": part["value"].std(ddof=1), "half_width": half.median()}
        row |= {"coverage": covered.mean(), "simulation_error": 1.96 * np.sqrt(0.05 * 0.95 / len(part))}
        row |= {f"power_{100 * d:.0f}": ((off + d).abs() > half).mean() for d in POINTS}
        rows.append(row)
    return pd.DataFrame(rows)


def _holds_share(part: pd.DataFrame, truth: float) -> np.ndarray:
    """Whether the interval of an accuracy, as `stats.share_interval` forms it, holds `truth`; the old ones plainly."""
    half = scipy_stats.t.ppf(1 - stats.ALPHA / 2, part["df"]) * part["error"]
    if part["method"].iloc[0] != "crossed":
        return ((part["value"] - truth).abs() <= half).to_numpy()
    held = []
    for row in part.assign(low=part["value"] - half, high=part["value"] + half).itertuples():
        low, high = stats.share_interval(row)
        held.append(low <= truth <= high)
    return np.array(held)


def false_alarms(found: pd.DataFrame, bound: float = stats.BOUND) -> pd.DataFrame:
    """Tests of hypotheses that are true, a row per design and method.

    `family_wise`: how often Holm's method rejects at least one of the family when no difference is there;
    `equivalent`: how often a difference of exactly `bound`, the worst pair, is called equivalent.
    """
    rows = []
    differences = found[found["kind"] == "difference"]
    for (design, method), part in differences.groupby(["design", "method"], sort=False):
        off = part["value"] - part.groupby("what")["value"].transform("mean")
        p = 2 * scipy_stats.t.sf((off / part["error"]).abs(), part["df"])
        table = part.assign(p=p).pivot(index="study", columns="what", values="p")
        any_rejected = np.mean([(stats.holm(row) < stats.ALPHA).any() for row in table.to_numpy()])
        called = [
            error > 0 and stats.tost(x + bound, error, df, bound) < stats.ALPHA
            for x, error, df in zip(off, part["error"], part["df"], strict=True)
        ]
        worst = pd.Series(called).groupby(part["what"].to_numpy()).mean().max()
        n = len(table)
        rows.append(
            {"design": design, "method": method, "studies": n, "family_wise": any_rejected, "equivalent": worst}
            | {"simulation_error": 1.96 * np.sqrt(0.05 * 0.95 / n)}
        )
    return pd.DataFrame(rows)


def power_curve(found: pd.DataFrame, points: Sequence[float] = tuple(np.arange(0, 0.0801, 0.0025))) -> pd.DataFrame:
    """The share of studies that see a true difference, by its size: rows of design, method, points, power.

    The mean over the pairs of the family; the interval of each study is shifted to that truth.
    """
    rows = []
    differences = found[found["kind"] == "difference"]
    for (design, method), part in differences.groupby(["design", "method"], sort=False):
        off = (part["value"] - part.groupby("what")["value"].transform("mean")).to_numpy()
        half = (scipy_stats.t.ppf(1 - stats.ALPHA / 2, part["df"]) * part["error"]).to_numpy()
        for d in points:
            rows.append({"design": design, "method": method, "points": 100 * d, "power": np.mean(abs(off + d) > half)})
    return pd.DataFrame(rows)


def populations(features: Mapping[str, tuple[np.ndarray, np.ndarray]], seed: int = 0) -> dict[str, Population]:
    """A population per data set: name -> (features, labels)."""
    return {name: fit_population(name, x, y, seed) for name, (x, y) in features.items()}


def sentences(coverage: pd.DataFrame, alarms: pd.DataFrame) -> list[str]:
    """What the counts say: coverage of each method, false alarms, and what can be seen."""
    lines = []
    for method, part in coverage.groupby("method", sort=False):
        low, high = part["coverage"].min(), part["coverage"].max()
        lines.append(
            f"{method}: intervals that should hold the truth in 95 of 100 studies do so in {100 * low:.0f} to "
            f"{100 * high:.0f} (median {100 * part['coverage'].median():.0f}; {len(part)} intervals of "
            f"{part['design'].nunique()} designs, {part['studies'].min()} or more studies each)."
        )
    for row in alarms[alarms["method"] == "crossed"].itertuples():
        lines.append(
            f"{row.design}: with no difference there, one of the family is called different in "
            f"{100 * row.family_wise:.1f} of 100 studies; a difference of 2 points is called equivalent in "
            f"{100 * row.equivalent:.1f} at most (simulation error {100 * row.simulation_error:.1f})."
        )
    return lines


def overview(coverage: pd.DataFrame, alarms: pd.DataFrame) -> pd.DataFrame:
    """A row per design, as text: coverage and power of the interval in use and of the older one, false alarms."""
    rows = []
    for design, part in coverage.groupby("design", sort=False):
        row = {"design": design}
        for method in ("crossed", "Nadeau-Bengio"):
            own = part[part["method"] == method]
            seen = own.loc[own["kind"] == "difference", ["power_2", "power_4"]].mean()
            row[f"coverage, {method}"] = f"{own['coverage'].min():.3f} to {own['coverage'].max():.3f}"
            row[f"power at 2, 4 points, {method}"] = f"{seen['power_2']:.2f}, {seen['power_4']:.2f}"
        own = alarms[(alarms["design"] == design) & (alarms["method"] == "crossed")].iloc[0]
        row["family-wise false alarms"] = f"{own['family_wise']:.3f}"
        rows.append(row)
    return pd.DataFrame(rows)
