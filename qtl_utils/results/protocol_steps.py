"""What each step between two protocols is worth, and what two counts of the same images can prove. No torch."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from qtl_utils.results import stats
from qtl_utils.results.published_results import LAST, ON_TEST, ON_VALIDATION

COUNTED = ("value", "low", "high", "n_seeds", "n_splits", "n_sources", "interval")  # of an estimate, kept of a step

# ---- steps ----------------------------------------------------------------------------------------------------------


def step(scores: pd.DataFrame, what: str, first: tuple[str, str], then: tuple[str, str], chosen=False) -> dict:
    """The accuracy of `first` minus that of `then`, each a (model, protocol) of `scores`, paired by seed and split.

    chosen: `first` was chosen on the images it is scored on, so that the difference cannot be negative.
    """
    rows = scores.set_index(["model", "protocol", *stats.keys_of(scores)]).sort_index()
    difference = (rows.loc[first, "accuracy"] - rows.loc[then, "accuracy"]).dropna()
    images = [stats.of_images(rows.loc[which], "accuracy") for which in (first, then)]
    per_image = None if any(column is None for column in images) else (images[0] - images[1]).loc[difference.index]
    found = stats.estimate(difference, (scores["n"] / scores["n_train"]).mean(), images=per_image)
    row = {"step": what, "model": first[0] if first[0] == then[0] else f"{first[0]} - {then[0]}"}
    row |= {name: getattr(found, name) for name in COUNTED}
    return row | {"sd": difference.std(ddof=1), "by_construction": chosen}


def selection_steps(scores: pd.DataFrame, model: str) -> list[dict]:
    """What choosing an epoch is worth: on the test images themselves, on validation, and the bias between the two."""
    pairs = {
        "best epoch on test - last epoch": (ON_TEST, LAST),
        "best epoch on test - best on validation": (ON_TEST, ON_VALIDATION),
        "best epoch on validation - last epoch": (ON_VALIDATION, LAST),
    }
    return [step(scores, what, (model, a), (model, b), a == ON_TEST) for what, (a, b) in pairs.items()]


def between_models(scores: pd.DataFrame, a: str, b: str, protocols: Sequence[str]) -> list[dict]:
    """a - b under each protocol: how far the way of choosing an epoch decides who is ahead."""
    return [step(scores, protocol, (a, protocol), (b, protocol)) for protocol in protocols]


def step_sentence(row: dict) -> str:
    """What a row of `step` says, and no more."""
    n = stats.counts(pd.Series(row))
    n += f"; {stats.ONE_SPLIT}" if row["interval"] == stats.ONE_SPLIT else ""
    text = f"{row['step']}, {row['model']}: {100 * row['value']:+.1f} points"
    if not np.isfinite(row["low"]):
        return f"{text}, without an interval ({n})."
    text += f" [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}] ({n})"
    if row["by_construction"]:
        return f"{text}; positive by construction, so only its size tells something."
    return text + ("; too small to tell from zero." if row["low"] <= 0 <= row["high"] else ".")


def lead_sentences(scores: pd.DataFrame, a: str, b: str) -> list[str]:
    """How often a is ahead of b under each protocol, and how far seeds spread either of them, one split at a time."""
    lines = []
    for protocol, part in scores.groupby("protocol", sort=False):
        wide = part.pivot_table(index=["seed", "split"], columns="model", values="accuracy")
        ahead = (wide[a] > wide[b] + 1e-9).sum()
        level = (wide[a] - wide[b]).abs().le(1e-9).sum()
        seeds = wide[[a, b]].groupby("split").agg("std").mean() * 100
        lines.append(
            f"{protocol}: {a} is ahead of {b} in {ahead} of {len(wide)} trainings, level in {level}. "
            f"Seeds of one split spread {a} by {seeds[a]:.1f} points and {b} by {seeds[b]:.1f} (standard deviation)."
        )
    return lines


def spread(scores: pd.DataFrame, a: str, b: str, protocol: str) -> float:
    """The standard deviation of a - b over the seeds of a split, averaged over splits."""
    part = scores[scores["protocol"] == protocol]
    wide = part.pivot_table(index=["seed", "split"], columns="model", values="accuracy")
    return float((wide[a] - wide[b]).groupby("split").std().mean())


# ---- two counts of the same images ----------------------------------------------------------------------------------


def pairings(right_a: int, right_b: int, n: int) -> pd.DataFrame:
    """Every way in which right_a and right_b of the same n images can overlap, with the exact McNemar p of each.

    only_a: images that a alone got right; their difference to only_b is fixed by the counts.
    """
    if not 0 <= min(right_a, right_b) <= max(right_a, right_b) <= n:
        raise ValueError(f"{right_a} and {right_b} right of {n}: expected counts between 0 and {n}.")
    rows = []
    for both in range(max(0, right_a + right_b - n), min(right_a, right_b) + 1):
        only_a = right_a - both
        only_b = right_b - both
        rows.append({"only_a": only_a, "only_b": only_b, "p": stats.mcnemar_exact(only_a, only_b)})
    return pd.DataFrame(rows).sort_values("only_a", ignore_index=True)


def detectable(n: int, alpha: float = stats.ALPHA) -> int:
    """The smallest difference in images that any pairing can make significant: all of it on one side."""
    return next(d for d in range(1, n + 1) if stats.mcnemar_exact(d, 0) < alpha)


def count_sentences(right_a: int, right_b: int, n: int) -> list[str]:
    """What the counts of a (the circuit) and b (the linear layer) leave open."""
    low_a, high_a, low_b, high_b = *stats.wilson(right_a, n), *stats.wilson(right_b, n)
    best = pairings(right_a, right_b, n)["p"].min()
    needed = detectable(n)
    return [
        f"{right_a} and {right_b} of {n} images are [{low_a:.3f}, {high_a:.3f}] and [{low_b:.3f}, {high_b:.3f}] "
        "(Wilson 95 %, sampling of the test images only).",
        f"However the two overlap, the exact McNemar p is at least {best:.2g}: these counts "
        f"{'cannot' if best >= stats.ALPHA else 'can'} tell the models apart.",
        f"With {n} images, a difference below {needed} images, {100 * needed / n:.1f} points, cannot be significant at "
        f"p < {stats.ALPHA}, whatever the overlap.",
    ]


def score_table(scores: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Mean test accuracy with interval per group, model and protocol."""
    rows = []
    for group, frame in scores.items():
        for (model, protocol), part in frame.groupby(["model", "protocol"], sort=False):
            part = part.set_index(stats.keys_of(part))
            values = part["accuracy"]
            ratio = (part["n"] / part["n_train"]).mean()
            found = stats.estimate(values, ratio, images=stats.of_images(part, "accuracy"))
            row = {"group": group, "model": model, "protocol": protocol, "accuracy": found.value}
            low, high = stats.share_interval(found)
            row |= {"sd": values.std(ddof=1), "low": low, "high": high, "loss": part["loss"].mean()}
            rows.append(
                row | {"n_seeds": found.n_seeds, "n_splits": found.n_splits, "interval": stats.described(found)}
            )
    return pd.DataFrame(rows)
