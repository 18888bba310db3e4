"""Paired statistics that respect seeds, splits and images, and sentences that say no more than the numbers do.

Three things could have come out differently: the seed, the split (which images trained) and the images that were there
to test on. Rows of seed x split are never pooled as independent: values are averaged over seeds within each split.
The J split means of a difference then vary by S^2, which divided by J is what seeds and training sets leave in their
mean; but the splits test on the same images again and again, and what these have in common does not average out. How
much that is, is seen in the images: two splits that both tested an image give it values whose covariance is the part
that belongs to the image (a variance component of the crossed design split x image, by the method of moments; Searle,
Casella & McCulloch, "Variance Components", 1992). With v for it and o for how much two test sets overlap,

    variance of the mean = UNSEEN (S^2 / J + v o),    degrees of freedom after Satterthwaite (1946).

Test sets that share nothing (one round of folds) have o = 0. What training sets share shows in neither term; UNSEEN is
what it added in simulated studies whose truth is known (`qtl_utils.analyses.calibration`, which measures the coverage
of everything here). Where values per image are not known (another measure than accuracy and loss), the older interval
of Nadeau & Bengio ("Inference for the generalization error", Machine Learning 52, 2003) takes its place: variance
S^2 (1/J + n_test/n_train), J - 1 degrees of freedom. It stands beside the new one as `nb_low`, `nb_high`.

Where the study trains (or draws) the backbones itself, they are one more thing that could have come out differently.
With a backbone of its own in every split, the split means vary with the backbones too and the interval covers them.
Where k splits share each of the backbones, these are the units: split means are averaged over the splits of a backbone
first. With a single backbone the interval holds for that one alone, and every sentence says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats
from scipy.special import expit, logit

from qtl_utils.results.runs import GROUP, in_order

ALPHA = 0.05
BOUND = 0.02  # two accuracies within 2 points count as equivalent
FRACTIONS = ("accuracy", "balanced_accuracy", "ece")  # shown in points, equivalence can be tested
FAMILY = ("C", "C-matched", "A-none", "A-surrogate")  # A against each of these, fixed beforehand
CELLS = {"frozen, linear": "C", "full, linear": "B", "frozen, circuit": "A", "full, circuit": "A-joint"}
FACTORS = ("circuit instead of linear head", "full instead of frozen backbone")
IMAGES = {"accuracy": 0, "loss": 1}  # measures that are known per image: where in the column `images` of metrics
UNSEEN = 1.15  # variance that training sets have in common and that neither splits nor images show: measured
POWER = 0.8  # the probability with which a difference is to be seen
CROSSED = "over splits and test images"
CROSSED_SOURCES = "over initial backbones and test images"
OVER_SPLITS = "Nadeau-Bengio t over splits"
OVER_SOURCES = "Nadeau-Bengio t over initial backbones"
ONE_SPLIT = "seed variation only, this split"
_ZERO = 1e-12  # a standard deviation below this is rounding


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its 95 % interval; `p` and `p_equivalent` are NaN where no test is possible."""

    value: float
    low: float
    high: float
    p: float
    p_equivalent: float
    n_splits: int
    n_seeds: int
    n_pairs: int
    n_sources: int  # initial backbones that the study made itself; 0 where their weights are given
    interval: str
    error: float = np.nan  # standard error of `value`
    df: float = np.nan  # degrees of freedom of the interval
    n_images: int = 0  # distinct test images, where values per image are known
    nb_low: float = np.nan  # the interval of Nadeau and Bengio
    nb_high: float = np.nan


@dataclass(frozen=True, kw_only=True)
class Comparison(Estimate):
    """The difference a - b; `family` says whether it belongs to the pre-specified tests."""

    a: str
    b: str
    metric: str
    family: bool = False
    n_tests: int = 1  # comparisons in the family
    p_holm: float = np.nan
    not_run: str = ""


def corrected_t(means: Sequence[float], test_to_train: float, bound: float = BOUND) -> dict[str, float]:
    """Nadeau and Bengio's mean, 95 % interval, p and TOST p of split means; NaN where all are equal."""
    means = np.asarray(means, float)
    deviation = means.std(ddof=1)
    error = deviation * np.sqrt(1 / len(means) + test_to_train) if deviation > _ZERO else 0.0
    return tested(means.mean(), error, len(means) - 1, bound)


def tested(value: float, error: float, df: float, bound: float = BOUND) -> dict[str, float]:
    """`value` with its 95 % interval, the p of "it is zero" and the TOST p; NaN where the error is zero."""
    if not error > _ZERO:
        nothing = ("low", "high", "p", "p_equivalent", "error", "df")
        return {"value": value} | dict.fromkeys(nothing, np.nan)
    low, high = t_interval(value, error, df)
    p = 2 * scipy_stats.t.sf(abs(value) / error, df)
    equivalent = tost(value, error, df, bound)
    return {"value": value, "low": low, "high": high, "p": p, "p_equivalent": equivalent, "error": error, "df": df}


@dataclass(frozen=True)
class Parts:
    """What makes the mean of a crossed design split x image uncertain, as variances of that mean."""

    splits: float  # seeds and training sets: shrinks with more splits
    images: float  # the test images that splits have in common: shrinks with more images only
    n_units: int  # splits, or initial backbones
    n_images: int

    @property
    def error(self) -> float:
        """The standard error; 0 where nothing varies."""
        variance = UNSEEN * (self.splits + self.images)
        return float(np.sqrt(variance)) if variance > _ZERO**2 else 0.0

    @property
    def df(self) -> float:
        """Degrees of freedom after Satterthwaite."""
        if not self.error:
            return self.n_units - 1
        spread = self.splits**2 / (self.n_units - 1) + self.images**2 / max(self.n_images - 1, 1)
        return (self.splits + self.images) ** 2 / spread


def crossed_parts(values: np.ndarray, units: Sequence[int]) -> Parts:
    """What makes the mean over units of the means over images uncertain; see the module's docstring for the formula.

    values: (J, N) of J splits and N images, means over seeds, NaN where a split does not test an image.
    units: (J,) which splits belong together (to one initial backbone); each split its own unit otherwise.
    """
    units = np.asarray(units)
    seen = np.isfinite(values)
    sizes = seen.sum(axis=1)
    means = np.nansum(values, axis=1) / sizes
    unit_means = np.array([means[units == unit].mean() for unit in np.unique(units)])
    rest = np.where(seen, values - means[:, None], 0.0)  # what is left of a split's mean, (J, N)
    shared = seen.astype(float) @ seen.T.astype(float)  # images that two splits both test, (J, J)
    apart = units[:, None] != units[None, :]
    common = (rest @ rest.T)[apart].sum() / max(shared[apart].sum(), 1)  # the covariance of an image with itself
    largest = (rest**2).sum() / max(sizes.sum() - len(sizes), 1)
    overlap = (shared / np.outer(sizes, sizes))[apart].mean()
    return Parts(
        splits=float(unit_means.var(ddof=1) / len(unit_means)),
        images=float(np.clip(common, 0, largest) * overlap),
        n_units=len(unit_means),
        n_images=int(seen.any(axis=0).sum()),
    )


def t_interval(value: float, error: float, df: float) -> tuple[float, float]:
    """The 95 % interval of a mean with standard error `error`."""
    half = scipy_stats.t.ppf(1 - ALPHA / 2, df) * error
    return value - half, value + half


def tost(value: float, error: float, df: float, bound: float = BOUND) -> float:
    """The p value of "the true value lies outside -bound..bound" (two one-sided t tests, Schuirmann 1987)."""
    return float(max(scipy_stats.t.sf((value + bound) / error, df), scipy_stats.t.cdf((value - bound) / error, df)))


def estimate(
    values: pd.Series, test_to_train: float, bound: float = BOUND, images: pd.Series | None = None
) -> Estimate:
    """The estimate of one number per (seed, split), given as a series indexed by both, and by source where known.

    images: the same per test image, an array (N,) for every row of `values`, NaN where an image was not tested.
    """
    by_split = values.groupby("split").mean()
    sources = _sources(values.index)
    counts = {"n_splits": len(by_split), "n_seeds": values.index.unique("seed").size, "n_pairs": len(values)}
    counts["n_sources"] = sources.nunique()
    nothing = dict.fromkeys(["low", "high", "p", "p_equivalent"], np.nan)
    if values.empty or not np.isfinite(values).all():
        return Estimate(value=np.nan, **nothing, **counts, interval="")
    if len(by_split) > 1:
        shared = 1 < counts["n_sources"] < len(by_split)
        units = sources.reindex(by_split.index).astype(int) if shared else pd.Series(by_split.index, by_split.index)
        means = by_split.groupby(units).mean()
        older = corrected_t(means, len(by_split) / len(means) * test_to_train, bound)
        beside = {"nb_low": older["low"], "nb_high": older["high"]}
        if images is None or images.isna().any():
            return Estimate(**older, **counts, **beside, interval=OVER_SOURCES if shared else OVER_SPLITS)
        table = np.stack([np.mean(np.stack(list(part)), axis=0) for _, part in images.groupby("split")]).astype(float)
        parts = crossed_parts(table, units.to_numpy())
        counts["n_images"] = parts.n_images
        found = tested(means.mean(), parts.error, parts.df, bound)
        return Estimate(**found, **counts, **beside, interval=CROSSED_SOURCES if shared else CROSSED)
    value = values.mean()
    n = len(values)
    deviation = values.std(ddof=1) if n > 1 else np.nan
    if deviation > _ZERO:
        nothing["low"], nothing["high"] = t_interval(value, deviation / np.sqrt(n), n - 1)
    return Estimate(value=value, **nothing, **counts, interval=ONE_SPLIT)


def of_images(rows: pd.DataFrame, metric: str) -> pd.Series | None:
    """The value per image of every row of metrics, as `estimate` takes them; None where they are not known."""
    if metric not in IMAGES or "images" not in rows or rows["images"].isna().any():
        return None
    column = [cell[IMAGES[metric]] for cell in rows["images"]]
    held = pd.Series(index=rows.index, dtype=object)
    held[:] = column
    return held


def _sources(index: pd.MultiIndex) -> pd.Series:
    """The initial backbone of every split: split -> its number, missing where its weights are given."""
    if "source" not in index.names:
        return pd.Series(dtype="Int64")
    rows = index.to_frame(index=False).drop_duplicates("split").set_index("split")
    return rows["source"]


def _values(
    metrics: pd.DataFrame, variants: Sequence[str], metric: str, epoch_kind: str
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Test values, a column per variant and a row per (seed, split) that all of them ran; measured NaNs stay.

    And the same per image, an array in every cell; None where these are not known.
    """
    if len(metrics[GROUP].drop_duplicates()) > 1:
        raise ValueError(f"metrics mix several {' / '.join(GROUP)}: take one of runs.groups(metrics).")
    rows = metrics[(metrics["epoch_kind"] == epoch_kind) & (metrics["subset"] == "test")]
    rows = rows.set_index(keys_of(rows))
    parts = {v: rows[rows["variant"] == v] for v in variants}
    values = pd.concat({v: part[metric] for v, part in parts.items()}, axis=1, join="inner")
    images = {v: of_images(part, metric) for v, part in parts.items()}
    if any(column is None for column in images.values()):
        return values, None
    return values, pd.concat(images, axis=1, join="inner")


def keys_of(rows: pd.DataFrame) -> list[str]:
    """The columns that `estimate` wants as the index of a value per training."""
    return [name for name in ("seed", "split", "source") if name in rows]


def size_ratio(metrics: pd.DataFrame) -> float:
    """n_test / n_train, the mean sizes over rows; ValueError where `metrics` has no such rows."""
    sizes = metrics.groupby("subset")["n"].mean()
    for subset in ("test", "train"):
        if subset not in sizes:
            raise ValueError(f"metrics have no rows with subset '{subset}', so n_test / n_train is unknown.")
    return float(sizes["test"] / sizes["train"])


def paired(metrics: pd.DataFrame, a: str, b: str, metric="accuracy", epoch_kind="last") -> Comparison:
    """The difference a - b on the test set over the (seed, split) pairs common to both, in one group."""
    names = {"a": a, "b": b, "metric": metric}
    pairs, images = _values(metrics, (a, b), metric, epoch_kind)
    missing = [v for v in (a, b) if v not in set(metrics["variant"])]
    reason = f"{' and '.join(missing)} not run" if missing else ""
    reason = reason or ("no seed and split in common" if pairs.empty else "")
    bound = BOUND if metric in FRACTIONS else np.nan
    per_image = None if images is None else images[a] - images[b]
    found = estimate(pairs[a] - pairs[b], size_ratio(metrics), bound, per_image)
    return Comparison(**asdict(found), **names, not_run=reason)


def family(metrics: pd.DataFrame) -> list[Comparison]:
    """A against FAMILY on last-epoch test accuracy, Holm-adjusted; a member that was not run still counts."""
    return together([paired(metrics, "A", other) for other in FAMILY])


def together(tests: Sequence[Comparison]) -> list[Comparison]:
    """Comparisons that were fixed beforehand as one family, Holm-adjusted within it."""
    adjusted = holm([test.p for test in tests])
    return [replace(t, family=True, n_tests=len(tests), p_holm=float(p)) for t, p in zip(tests, adjusted, strict=True)]


def others(metrics: pd.DataFrame) -> list[Comparison]:
    """The comparisons outside the family: A against every further variant, and the cells of the factorial."""
    present = [v for v in in_order(metrics["variant"]) if v not in ("A", *FAMILY)]
    wanted = [("A", other) for other in present] + [("B", "C"), ("A-joint", "A"), ("A-joint", "B")]
    found = [paired(metrics, a, b) for a, b in wanted]
    return [comparison for comparison in found if not comparison.not_run]


def holm(pvalues: Sequence[float]) -> np.ndarray:
    """Holm-adjusted p values in the given order; NaN stays NaN and counts in the size of the family."""
    p = np.asarray(pvalues, float)
    order = np.argsort(p)  # NaN last
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def factorial(
    metrics: pd.DataFrame,
    metric="accuracy",
    epoch_kind="last",
    cells: Sequence[str] = tuple(CELLS.values()),
    names: tuple[str, str] = FACTORS,
) -> pd.DataFrame:
    """Main effects and interaction of two factors, one row each with its estimate.

    `cells`: the variants with neither, the second, the first and both factors; `names`: first and second factor.
    Formed per (seed, split) run by all four cells; `note` says which cell is missing.
    """
    pairs, images = _values(metrics, cells, metric, epoch_kind)
    missing = [v for v in cells if v not in set(metrics["variant"])]
    effects = _effects(pairs, cells, names)
    per_image = dict.fromkeys(effects) if images is None else _effects(images, cells, names)
    note = f"not run: {', '.join(missing)}" if missing else "" if len(pairs) else "no seed and split in common"
    ratio = size_ratio(metrics)
    bound = BOUND if metric in FRACTIONS else np.nan
    found = {effect: estimate(values, ratio, bound, per_image[effect]) for effect, values in effects.items()}
    rows = [{"effect": k, **asdict(v), "interval": described(v), "note": note} for k, v in found.items()]
    return pd.DataFrame(rows)


def _effects(pairs: pd.DataFrame, cells: Sequence[str], names: tuple[str, str]) -> dict[str, pd.Series]:
    """The contrasts of a 2 x 2 design, of numbers or of arrays."""
    neither, second, first, both = (pairs[v] for v in cells)
    return {
        names[0]: ((first - neither) + (both - second)) / 2,
        names[1]: ((second - neither) + (both - first)) / 2,
        "interaction": (both - second) - (first - neither),
    }


def summary(
    metrics: pd.DataFrame,
    by: Sequence[str] = (*GROUP, "variant"),
    metric="accuracy",
    epoch_kind="last",
    n_classes: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """One row per `by`: mean and sd over seeds and splits, n, the mean's interval, and how many collapsed.

    Collapsed: see `collapsed`; counted only where `n_classes` (dataset -> number of classes) is given.
    """
    rows = []
    for key, part in metrics.groupby(list(by), sort=True):
        test = part[(part["subset"] == "test") & (part["epoch_kind"] == epoch_kind)]
        test = test.set_index(keys_of(test), drop=False)
        values = test[metric]
        found = estimate(values, size_ratio(part), images=of_images(test, metric))
        low, high = share_interval(found) if metric in FRACTIONS else (found.low, found.high)
        row = {"mean": found.value, "sd": values.std(ddof=1), "low": low, "high": high}
        row |= {"n": len(values), "n_splits": found.n_splits, "n_sources": found.n_sources}
        row["interval"] = described(found)
        if n_classes is not None:
            row["collapsed"] = int(collapsed(test, n_classes[test["dataset"].iloc[0]]).sum())
        rows.append(dict(zip(by, key, strict=True)) | row)
    return pd.DataFrame(rows)


def share_interval(found: Estimate) -> tuple[float, float]:
    """The interval of a share such as an accuracy, formed on the scale of its log-odds: inside 0 .. 1, and lopsided."""
    spread = found.value * (1 - found.value)
    if not (found.error > 0 and spread > 0):
        return tuple(np.clip([found.low, found.high], 0, 1))
    return tuple(expit(t_interval(logit(found.value), found.error / spread, found.df)))


def collapsed(metrics: pd.DataFrame, n_classes: int, tolerance: float = 0.02) -> pd.Series:
    """Which rows do no better than a model that predicts one class only.

    Such a model has balanced accuracy 1/n_classes however uneven the classes are; `tolerance` lets it get a
    few others right.
    """
    return metrics["balanced_accuracy"] <= 1 / n_classes + tolerance


def class_counts(predictions: pd.DataFrame) -> dict[str, int]:
    """Dataset -> number of classes among its test labels."""
    return predictions.groupby("dataset")["label"].nunique().to_dict()


def wilson(k: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson interval of k right out of n (sampling of the test images only)."""
    found = scipy_stats.binomtest(k, n).proportion_ci(1 - ALPHA, method="wilson")
    return found.low, found.high


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """The exact two-sided p of McNemar's test: images only a got right against images only b got right."""
    discordant = only_a + only_b
    return float(scipy_stats.binomtest(only_a, discordant).pvalue) if discordant else 1.0


def wilcoxon(differences: Sequence[float]) -> float:
    """The two-sided p of the signed-rank test; refused below n = 6, where p < 0.05 cannot be reached."""
    if len(differences) < 6:
        raise ValueError(f"Wilcoxon needs at least 6 differences, got {len(differences)}: use paired() instead.")
    return float(scipy_stats.wilcoxon(differences).pvalue)


def counts(found: Estimate | pd.Series) -> str:
    """How many splits, seeds and, where the study made them itself, initial backbones stand behind an estimate."""
    named = {"split": found.n_splits, "seed": found.n_seeds} | {"initial backbone": found.n_sources or None}
    return ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in named.items() if n is not None)


def described(found: Estimate) -> str:
    """The `interval` of an estimate, and the initial backbones that it covers."""
    covers = {0: "", 1: "; holds for one initial backbone"}.get(
        found.n_sources, f"; {found.n_sources} initial backbones"
    )
    return found.interval and found.interval + covers


def covered(found: pd.DataFrame) -> list[str]:
    """What the intervals of estimates (a row each) cover beside splits and seeds: a sentence per kind of backbone."""
    n = found["n_sources"]
    lines = []
    if (n == 1).any():
        lines.append(
            "Where this study trains or draws a single initial backbone, intervals hold for that backbone alone."
        )
    if (several := n[n > 1]).any():
        most = " to ".join(dict.fromkeys([str(several.min()), str(several.max())]))
        lines.append(f"Where this study trains or draws {most} initial backbones, intervals cover their variation too.")
    return lines


def verdict(comparison: Comparison) -> str:
    """Which of its sentences `sentence` says: "higher", "lower", "equivalent", "not distinguishable" or why none."""
    c = comparison
    if c.not_run:
        return "not run"
    if np.isnan(c.value):
        return "not a number"
    if c.n_splits < 2:
        return "one split"
    if np.isnan(c.p):
        return "no variation"
    if not c.family:
        return "outside the family"
    if c.p_holm < ALPHA and (c.low > 0 or c.high < 0):
        return "higher" if c.value > 0 else "lower"
    return "equivalent" if c.p_equivalent < ALPHA else "not distinguishable"


PLAIN = {
    "A": "the model with the circuit (A)",
    "A-joint": "the network with the circuit, trained whole (A-joint)",
    "B": "the network trained whole, without circuit (B)",
    "C": "the linear head without circuit (C)",
    "C-matched": "the equally large head without circuit (C-matched)",
    "A-none": "the same model with its circuit taken out (A-none)",
    "A-zero": "the same model with its angles fixed at zero (A-zero)",
    "A-bypass": "the model with the circuit and a bypass around it (A-bypass)",
    "A-skip": "the model with the circuit beside the features (A-skip)",
    "A-surrogate": "the classical stand-in for the circuit (A-surrogate)",
}


def detectable(found: Estimate, tests: int = 1) -> float:
    """The smallest true value that would be told from zero with probability POWER, as certain as `found` is.

    tests: over how many comparisons Holm's method allows for; the strictest of its steps is taken. NaN without `error`.
    """
    return least_seen(found.error, found.df, tests) if found.error > 0 else np.nan


def least_seen(error: float, df: float, tests: int = 1) -> float:
    """The smallest true value that a t test at ALPHA / `tests` tells from zero with probability POWER."""
    return float(scipy_stats.t.ppf([1 - ALPHA / 2 / tests, POWER], df).sum() * error)


def of_hundred(share: float) -> str:
    """A difference of accuracies as a number of images in 100: "about 3 of 100 images"."""
    number = 100 * abs(share)
    return f"about {number:.0f} of 100 images" if number >= 0.95 else "fewer than 1 of 100 images"


def sentence(comparison: Comparison) -> str:
    """What the numbers allow one to say about a - b, in plain words first; "more often" only after Holm."""
    c = comparison
    a, b = (PLAIN.get(name, name) for name in (c.a, c.b))
    subject = f"{a[0].upper()}{a[1:]}"
    n = counts(c)
    numbers = _numbers(c)
    if c.metric == "accuracy":
        more, less = "is right more often than", "is right less often than"
        by = f", by {of_hundred(c.value)}"
        question = f"whether {a} or {b} is right more often"
    else:
        measure = c.metric.replace("_", " ")
        more, less = (f"has a {word} {measure} than" for word in ("higher", "lower"))
        by = ""
        question = f"whether {a} or {b} has the higher {measure}"
    tell = {
        "not run": f"{subject} was not compared with {b} ({c.not_run}).",
        "not a number": f"{subject} was not compared with {b}: some of the {c.n_pairs} values are not numbers.",
        "one split": f"On this one split: {numbers} ({n}; {ONE_SPLIT}).",
        "no variation": f"{numbers} in every split, so there is no variation to test with ({n}).",
        "outside the family": f"{numbers} ({n}; outside the fixed family, not tested).",
        "higher": f"{subject} {more} {b}{by}: {numbers} ({n}).",
        "lower": f"{subject} {less} {b}{by}: {numbers} ({n}).",
        "equivalent": f"{subject} and {b} are equally good to within 2 of 100 images: {numbers} ({n}).",
        "not distinguishable": f"We cannot tell {question}{_too_small(c)}: {numbers}{_by_chance(c)} ({n}).",
    }
    return tell[verdict(c)]


def _numbers(c: Comparison) -> str:
    """The difference with its interval: "A minus C is +2.9 points [+1.0, +4.8]"."""
    scale, unit, digits = (100, " points", 1) if c.metric in FRACTIONS else (1, "", 3)
    difference, low, high = (f"{round(scale * v, digits) + 0.0:+.{digits}f}" for v in (c.value, c.low, c.high))
    of = "" if c.metric == "accuracy" else f" in {c.metric.replace('_', ' ')}"
    interval = f" [{low}, {high}]" if np.isfinite(c.low) else ""
    return f"{c.a} minus {c.b}{of} is {difference}{unit}{interval}"


def _too_small(c: Comparison) -> str:
    """What this comparison would have missed, in images of 100."""
    least = detectable(c, c.n_tests)
    if c.metric != "accuracy" or not np.isfinite(least):
        return ""
    seen = f"these {c.n_images} images" if c.n_images else f"these {c.n_splits} splits"
    return f"; a difference under {of_hundred(least)} can be missed with {seen}"


def _by_chance(c: Comparison) -> str:
    if not c.low * c.high > 0:
        return ""
    return (
        f"; the interval leaves out zero, but of {c.n_tests} comparisons one does so by chance more easily than a "
        "single one, and with that allowed for (Holm) it is no proof"
    )
