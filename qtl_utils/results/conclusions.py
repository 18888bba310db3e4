"""What the numbers of the attribution allow one to say: sentences that name their test, n and interval."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from qtl_utils.results import stats
from qtl_utils.results.stats import Comparison, Estimate

ALTERED = "A with "
ZEROED = "A with zeroed angles"  # what arms of a trained, altered A are called
ABLATED = ("A-zero", "A-frozen", "A-separable")  # a second family: retrained with another circuit
UNIT = {"circuit": " rad"}


def counts(found: Estimate | pd.Series) -> str:
    """How many splits, seeds and backbones stand behind an estimate, and what its interval is."""
    return f"{stats.counts(found)}; {found.interval}"


def moved(travel: pd.DataFrame, test_to_train: float, nominal: dict[str, float]) -> list[str]:
    """How far each stage of one variant went; `nominal`: the sum of learning rates per stage."""
    lines = []
    for stage, part in travel.groupby("stage", sort=False):
        rows = part.set_index(["seed", "split"])
        net, path = (stats.estimate(rows[name], test_to_train, np.nan) for name in ("net", "path"))
        unit = UNIT.get(stage, "")
        lines.append(
            f"{stage}: net movement {net.value:.3g}{unit} [{net.low:.3g}, {net.high:.3g}], path "
            f"{path.value:.3g}{unit} [{path.low:.3g}, {path.high:.3g}], sum of learning rates {nominal[stage]:.3g}; "
            f"the farthest single parameter moved {part['largest'].max():.3g}{unit} ({counts(net)})."
        )
    return lines


def relied_on(metrics: pd.DataFrame) -> list[Comparison]:
    """A against itself with one stage altered after training, what it uses: one family."""
    arms = [name for name in dict.fromkeys(metrics["variant"]) if name.startswith(ALTERED)]
    return stats.together([stats.paired(metrics, "A", arm) for arm in arms])


# ---- tables ----------------------------------------------------------------------------------------------------------


def averages(rows: pd.DataFrame, by: Sequence[str], values: Sequence[str], test_to_train: float) -> pd.DataFrame:
    """Mean and interval of each of `values` for every key of `by`: a row per key and value."""
    found = []
    for key, part in rows.groupby(list(by), sort=False):
        for name in values:
            one = stats.estimate(part.set_index(["seed", "split"])[name], test_to_train, np.nan)
            row = dict(zip(by, key, strict=True)) | {"measure": name, "mean": one.value, "low": one.low}
            found.append(row | {"high": one.high, "n_splits": one.n_splits, "n_seeds": one.n_seeds})
    return pd.DataFrame(found)


def levels(metrics: pd.DataFrame, by: Sequence[str] = ("variant",)) -> pd.DataFrame:
    """Last-epoch test accuracy with sd and interval, and log-loss, a row per key of `by` in the order of `metrics`."""
    order = metrics[list(by)].drop_duplicates()
    accuracy, loss = (stats.summary(metrics, by=by, metric=name) for name in ("accuracy", "loss"))
    frame = accuracy.drop(columns="interval").rename(columns={"mean": "accuracy"})
    frame = frame.merge(loss[[*by, "mean"]].rename(columns={"mean": "loss"}), on=list(by))
    return order.merge(frame, on=list(by))


def benefit(retrained: pd.DataFrame, schedules: Sequence[str]) -> pd.DataFrame:
    """Main effects and interaction of {angles} x {classical layers}, per schedule, on accuracy and log-loss."""
    frames = []
    for schedule in schedules:
        for metric in ("accuracy", "loss"):
            cells = ["neither", "classical", "angles", f"both, {schedule}"]
            names = ("angles", "classical layers")
            table = stats.factorial(retrained, metric, cells=cells, names=names)
            frames.append(table.assign(schedule=schedule, metric=metric).drop(columns=["p_equivalent", "note"]))
    return pd.concat(frames, ignore_index=True)


def backbone_benefit(retrained: pd.DataFrame, joint: pd.DataFrame) -> pd.DataFrame:
    """Main effects and interaction of {angles} x {backbone}, the classical layers of the head learning throughout."""
    cells = ["classical", "full, classical", "both, concurrent", "full, both"]
    names = ("angles", "backbone")
    everything = pd.concat([retrained, joint], ignore_index=True)
    frames = []
    for metric in ("accuracy", "loss"):
        table = stats.factorial(everything, metric, cells=cells, names=names)
        frames.append(table.assign(schedule="whole network", metric=metric).drop(columns=["p_equivalent", "note"]))
    return pd.concat(frames, ignore_index=True)


def against(metrics: pd.DataFrame, a: str, others: Sequence[str]) -> pd.DataFrame:
    """a minus each of `others` as one family, a row each with its sentence; empty where there are no metrics."""
    if metrics.empty:
        return pd.DataFrame(columns=["a", "b", "sentence"])
    tests = stats.together([stats.paired(metrics, a, b) for b in others])
    rows = zip(tests, tested(tests), strict=True)
    return pd.DataFrame([{**vars(test), "verdict": stats.verdict(test), "sentence": text} for test, text in rows])


def ladder(metrics: pd.DataFrame) -> pd.DataFrame:
    """A minus every rung, a row each: `kind` "used" (altered after training) or "useful" (trained without).

    Three families, fixed beforehand and Holm-adjusted apart: the alterations, stats.FAMILY and ABLATED.
    """
    present = set(metrics["variant"])
    rows = []
    ablated = stats.together([stats.paired(metrics, "A", b) for b in ABLATED if b in present])
    ran = [test for test in stats.family(metrics) if not test.not_run]
    for kind, tests in (("used", relied_on(metrics)), ("useful", ablated), ("useful", ran)):
        for test, sentence in zip(tests, tested(tests), strict=True):
            rows.append({"kind": kind, **vars(test), "verdict": stats.verdict(test), "sentence": sentence})
    return pd.DataFrame(rows)


# ---- sentences -------------------------------------------------------------------------------------------------------


def tested(tests: Sequence[Comparison]) -> list[str]:
    """The sentence of each comparison with the test behind it."""
    plain = [stats.sentence(t).rstrip(".") for t in tests]
    how = [f"; {t.interval}, Holm over {len(tests)}" if np.isfinite(t.p) else "" for t in tests]
    return [f"{text}{test}." for text, test in zip(plain, how, strict=True)]


def used_and_useful(metrics: pd.DataFrame) -> list[str]:
    """The answer in two sentences: does the trained model use its angles, and is training without them as good?"""
    altered = relied_on(metrics)
    family = stats.family(metrics)
    lines = []
    for test, sentence in zip(altered, tested(altered), strict=True):
        if test.b == ZEROED:
            lines.append(f"Are the trained angles used? {_USED.get(stats.verdict(test), '')}{sentence}")
    ended = pd.Series([stats.verdict(t) for t in family])
    below = [t.b for t, verdict in zip(family, ended, strict=True) if verdict == "higher"]
    text = "Yes: A is higher than all of " if len(below) == len(family) else "Only in part: A is higher than "
    ran = [t.b for t in family if not t.not_run]
    behind = counts(family[0]) + (f", Holm over {len(family)}" if family[0].n_splits > 1 else "")
    if not below:
        text = "Not shown: A is higher than none of "
        below = ran
    lines.append(f"Is the circuit useful? {text}{', '.join(below)} ({_how_many(ended)}; {behind}).")
    return lines


_USED = {
    "higher": "Yes: ",
    "lower": "They hurt: ",
    "equivalent": "Not by more than 2 points: ",
    "not distinguishable": "Not shown: ",
}


def _how_many(verdicts: pd.Series) -> str:
    return ", ".join(f"{verdict} in {n}" for verdict, n in verdicts.value_counts().items())


def effects(table: pd.DataFrame) -> list[str]:
    """A sentence for every row of `benefit`; p values are Holm-adjusted over the rows of the same effect."""
    lines = []
    for effect, part in table.groupby("effect", sort=False):
        for (_, row), p in zip(part.iterrows(), stats.holm(part["p"].to_numpy()), strict=True):
            scale, unit, digits = (100, " points", 1) if row["metric"] in stats.FRACTIONS else (1, "", 3)
            value, low, high = (f"{scale * row[name]:+.{digits}f}" for name in ("value", "low", "high"))
            leaves_out_zero = row["low"] * row["high"] > 0
            verdict = "" if leaves_out_zero else ", too small to tell from zero"
            if leaves_out_zero and not p < stats.ALPHA:
                verdict = (
                    f", no proof with {len(part)} such tests allowed for (Holm), though the interval leaves out zero"
                )
            verdict = verdict if row["n_splits"] > 1 else ""
            what = f"{row['schedule']}, {effect} on {NAMES[row['metric']]}: {value}{unit} [{low}, {high}]{verdict}"
            lines.append(f"{what} ({_behind(row, len(part))}).")
    return lines


NAMES = {"accuracy": "accuracy", "loss": "log-loss"}


def _behind(row: pd.Series, tests: int) -> str:
    """n and the test behind a row with the columns of an estimate."""
    return counts(row) + (f", Holm over {tests}" if row["n_splits"] > 1 else "")


def along(metrics: pd.DataFrame, column: str, a: str, b: str) -> pd.DataFrame:
    """The difference a - b at every value of `column`: one row each with its estimate, Holm-adjusted over them."""
    parts = metrics.groupby(column, sort=True)
    tests = stats.together([stats.paired(part, a, b) for _, part in parts])
    rows = [
        {column: key, **vars(test), "verdict": stats.verdict(test)}
        for key, test in zip(parts.groups, tests, strict=True)
    ]
    return pd.DataFrame(rows)


def crossing(table: pd.DataFrame, column: str, what: str) -> str:
    """Where along `column` a difference of `along` can be told from zero, in words."""
    found = table[table["verdict"].isin(["higher", "lower"])]
    n = _behind(table.iloc[0], len(table))
    if table["n_splits"].iloc[0] < 2:
        return f"{what}: not tested on one split; the differences stand in the table."
    if found.empty:
        shown = f"{table[column].min():g} to {table[column].max():g}"
        return f"{what}: too small to tell from zero at any {column} from {shown} ({n})."
    said = [
        f"{100 * r['value']:+.1f} points [{100 * r['low']:+.1f}, {100 * r['high']:+.1f}] at {column} {r[column]:g}"
        for _, r in found.iterrows()
    ]
    rest = " and too small to tell from zero elsewhere" if len(found) < len(table) else ""
    return f"{what}: {'; '.join(said)}{rest} ({n})."
