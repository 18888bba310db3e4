"""Paired statistics that respect seeds and splits, and sentences that say no more than the numbers do.

Rows of seed x split are never pooled as independent. Values are averaged over seeds within each split, and
the J split means are tested with Nadeau & Bengio's corrected t ("Inference for the generalization error",
Machine Learning 52, 2003): variance x (1/J + n_test/n_train), J - 1 degrees of freedom: splits share images.

Where the study trains (or draws) the backbones itself, they are one more thing that could have come out differently.
With a backbone of its own in every split, the split means vary with the backbones too and the interval covers them.
Where k splits share each of the backbones, these are the units: split means are averaged over the splits of a backbone
first. Such averages are more alike than single splits: the correlation that gives n_test/n_train there gives k times
that here. With a single backbone the interval holds for that one alone, and every sentence says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from qtl_utils.results.runs import GROUP, in_order

ALPHA = 0.05
BOUND = 0.02  # two accuracies within 2 points count as equivalent
FRACTIONS = ("accuracy", "balanced_accuracy", "ece")  # shown in points, equivalence can be tested
FAMILY = ("C", "C-matched", "A-none", "A-surrogate")  # A against each of these, fixed beforehand
CELLS = {"frozen, linear": "C", "full, linear": "B", "frozen, circuit": "A", "full, circuit": "A-joint"}
FACTORS = ("circuit instead of linear head", "full instead of frozen backbone")
OVER_SPLITS = "corrected t over splits"
OVER_SOURCES = "corrected t over initial backbones"
ONE_SPLIT = "seed variation only, this split"
_ZERO = 1e-12  # a standard deviation below this is rounding


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Comparison(Estimate):
    """The difference a - b; `family` says whether it belongs to the pre-specified tests."""

    a: str
    b: str
    metric: str
    family: bool = False
    p_holm: float = np.nan
    not_run: str = ""


def corrected_t(means: Sequence[float], test_to_train: float, bound: float = BOUND) -> dict[str, float]:
    """Mean, 95 % interval, p and TOST p of split means; NaN where all are equal, as nothing can be tested."""
    means = np.asarray(means, float)
    value = means.mean()
    deviation = means.std(ddof=1)
    if not deviation > _ZERO:
        nan = np.nan
        return {"value": value, "low": nan, "high": nan, "p": nan, "p_equivalent": nan}
    error = deviation * np.sqrt(1 / len(means) + test_to_train)
    df = len(means) - 1
    low, high = t_interval(value, error, df)
    p = 2 * scipy_stats.t.sf(abs(value) / error, df)
    return {"value": value, "low": low, "high": high, "p": p, "p_equivalent": tost(value, error, df, bound)}


def t_interval(value: float, error: float, df: int) -> tuple[float, float]:
    """The 95 % interval of a mean with standard error `error`."""
    half = scipy_stats.t.ppf(1 - ALPHA / 2, df) * error
    return value - half, value + half


def tost(value: float, error: float, df: int, bound: float = BOUND) -> float:
    """The p value of "the true value lies outside -bound..bound" (two one-sided t tests, Schuirmann 1987)."""
    return float(max(scipy_stats.t.sf((value + bound) / error, df), scipy_stats.t.cdf((value - bound) / error, df)))


def estimate(values: pd.Series, test_to_train: float, bound: float = BOUND) -> Estimate:
    """The estimate of one number per (seed, split), given as a series indexed by both, and by source where known."""
    by_split = values.groupby("split").mean()
    sources = _sources(values.index)
    counts = {"n_splits": len(by_split), "n_seeds": values.index.unique("seed").size, "n_pairs": len(values)}
    counts["n_sources"] = sources.nunique()
    nothing = dict.fromkeys(["low", "high", "p", "p_equivalent"], np.nan)
    if values.empty or not np.isfinite(values).all():
        return Estimate(value=np.nan, **nothing, **counts, interval="")
    if len(by_split) > 1:
        units = by_split
        interval = OVER_SPLITS
        each = 1.0
        if 1 < counts["n_sources"] < len(by_split):
            units = by_split.groupby(sources).mean()
            interval = OVER_SOURCES
            each = len(by_split) / len(units)
        return Estimate(**corrected_t(units, each * test_to_train, bound), **counts, interval=interval)
    value = values.mean()
    n = len(values)
    deviation = values.std(ddof=1) if n > 1 else np.nan
    if deviation > _ZERO:
        nothing["low"], nothing["high"] = t_interval(value, deviation / np.sqrt(n), n - 1)
    return Estimate(value=value, **nothing, **counts, interval=ONE_SPLIT)


def _sources(index: pd.MultiIndex) -> pd.Series:
    """The initial backbone of every split: split -> its number, missing where its weights are given."""
    if "source" not in index.names:
        return pd.Series(dtype="Int64")
    rows = index.to_frame(index=False).drop_duplicates("split").set_index("split")
    return rows["source"]


def _values(metrics: pd.DataFrame, variants: Sequence[str], metric: str, epoch_kind: str) -> pd.DataFrame:
    """Test values, a column per variant and a row per (seed, split) that all of them ran; measured NaNs stay."""
    if len(metrics[GROUP].drop_duplicates()) > 1:
        raise ValueError(f"metrics mix several {' / '.join(GROUP)}: take one of runs.groups(metrics).")
    rows = metrics[(metrics["epoch_kind"] == epoch_kind) & (metrics["subset"] == "test")]
    rows = rows.set_index(keys_of(rows))
    columns = {v: rows.loc[rows["variant"] == v, metric] for v in variants}
    return pd.concat(columns, axis=1, join="inner")


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
    pairs = _values(metrics, (a, b), metric, epoch_kind)
    missing = [v for v in (a, b) if v not in set(metrics["variant"])]
    reason = f"{' and '.join(missing)} not run" if missing else ""
    reason = reason or ("no seed and split in common" if pairs.empty else "")
    bound = BOUND if metric in FRACTIONS else np.nan
    found = estimate(pairs[a] - pairs[b], size_ratio(metrics), bound)
    return Comparison(**asdict(found), **names, not_run=reason)


def family(metrics: pd.DataFrame) -> list[Comparison]:
    """A against FAMILY on last-epoch test accuracy, Holm-adjusted; a member that was not run still counts."""
    return together([paired(metrics, "A", other) for other in FAMILY])


def together(tests: Sequence[Comparison]) -> list[Comparison]:
    """Comparisons that were fixed beforehand as one family, Holm-adjusted within it."""
    adjusted = holm([test.p for test in tests])
    return [replace(t, family=True, p_holm=float(p)) for t, p in zip(tests, adjusted, strict=True)]


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
    pairs = _values(metrics, cells, metric, epoch_kind)
    missing = [v for v in cells if v not in set(metrics["variant"])]
    neither, second, first, both = (pairs[v] for v in cells)
    effects = {
        names[0]: ((first - neither) + (both - second)) / 2,
        names[1]: ((second - neither) + (both - first)) / 2,
        "interaction": (both - second) - (first - neither),
    }
    note = f"not run: {', '.join(missing)}" if missing else "" if len(pairs) else "no seed and split in common"
    ratio = size_ratio(metrics)
    found = {effect: estimate(values, ratio) for effect, values in effects.items()}
    rows = [{"effect": k, **asdict(v), "interval": described(v), "note": note} for k, v in found.items()]
    return pd.DataFrame(rows)


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
        values = test.set_index(keys_of(test))[metric]
        found = estimate(values, size_ratio(part))
        low, high = np.clip([found.low, found.high], 0, 1) if metric in FRACTIONS else (found.low, found.high)
        row = {"mean": found.value, "sd": values.std(ddof=1), "low": low, "high": high}
        row |= {"n": len(values), "n_splits": found.n_splits, "n_sources": found.n_sources}
        row["interval"] = described(found)
        if n_classes is not None:
            row["collapsed"] = int(collapsed(test, n_classes[test["dataset"].iloc[0]]).sum())
        rows.append(dict(zip(by, key, strict=True)) | row)
    return pd.DataFrame(rows)


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


def sentence(comparison: Comparison) -> str:
    """What the numbers allow one to say about a - b, in one sentence; "higher" only after Holm."""
    c = comparison
    scale, unit, digits = (100, " points", 1) if c.metric in FRACTIONS else (1, "", 3)

    def text(*values: float, sign="+") -> list[str]:
        return [f"{round(scale * value, digits) + 0.0:{sign}.{digits}f}" for value in values]

    difference, low, high = text(c.value, c.low, c.high)
    ends = sorted([abs(c.low), abs(c.high)])
    size = "by {}{} [{}, {}]".format(*text(abs(c.value), sign=""), unit, *text(*ends, sign=""))
    of = "" if c.metric == "accuracy" else f" in {c.metric.replace('_', ' ')}"
    plainly = f"{c.a} minus {c.b}{of} is {difference}{unit}" + (f" [{low}, {high}]" if c.low == c.low else "")
    n = counts(c)
    leaves_out_zero = "; the interval leaves out zero, but one of several may by chance (Holm)"
    holm = leaves_out_zero if c.low * c.high > 0 else ""
    near = ", which is equivalent within 2 points" if c.p_equivalent < ALPHA else ""
    return {
        "not run": f"{c.a} against {c.b}: not compared ({c.not_run}).",
        "not a number": f"{c.a} against {c.b}: not compared, some of the {c.n_pairs} values are not numbers.",
        "one split": f"{plainly} ({n}; {ONE_SPLIT}).",
        "no variation": f"{plainly} in every split, so there is no variation to test with ({n}).",
        "outside the family": f"{plainly} ({n}; outside the fixed family, not tested).",
        "higher": f"{c.a} is higher than {c.b} {size}{near} ({n}).",
        "lower": f"{c.a} is lower than {c.b} {size}{near} ({n}).",
        "equivalent": f"{c.a} and {c.b} are equivalent within 2 points: {plainly} ({n}).",
        "not distinguishable": f"{c.a} and {c.b} are not distinguishable at this n ({n}): {plainly}{holm}.",
    }[verdict(c)]
