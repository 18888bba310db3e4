"""Tidy results -> the tables of the report: plain DataFrames, CSV files, and styled for reading."""

import hashlib
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from pandas.io.formats.style import Styler

from qtl_utils.results import stats
from qtl_utils.results.runs import COUNTS, GROUP, LEARNING_RATES, VALUES, groups, in_order, title, write_csv
from qtl_utils.study.names import NO_BACKBONE
from qtl_utils.study.paths import atomic

Tables = dict[str, pd.DataFrame]  # as runs.read_runs returns them


def accuracy(tables: Tables) -> pd.DataFrame:
    """One row per group and variant: last-epoch test accuracy with sd and interval, other measures, sizes, costs.

    Means are taken over seeds within a split, then over splits, as in the tests. The accuracy of the best epoch
    stands apart, with what that epoch was chosen on: without a validation set (`as_published`) the test set
    itself. `wilson_*` is the sampling of the test images alone, `interval` says what low and high are and cover.
    """
    metrics = tables["metrics"]
    by = [*GROUP, "variant"]
    found = stats.summary(metrics, n_classes=stats.class_counts(tables["predictions"])).set_index(by)
    test = metrics[metrics["subset"] == "test"]
    best, last = (test[test["epoch_kind"] == kind].groupby(by) for kind in ("best", "last"))
    within = test.groupby(["epoch_kind", *by, "split"])[VALUES].mean(skipna=False)
    over_splits = within.groupby(["epoch_kind", *by]).mean(skipna=False)
    rows = pd.DataFrame({"accuracy": found["mean"], "sd": found["sd"], "low": found["low"], "high": found["high"]})
    rows = rows.join(found[["n", "n_splits", "n_sources", "interval", "collapsed"]])
    images = last["n"].first().reindex(rows.index)
    ends = [
        stats.wilson(round(mean * n), n) if pd.notna(mean) else (None, None)
        for mean, n in zip(rows["accuracy"], images, strict=True)
    ]
    rows["wilson_low"], rows["wilson_high"] = zip(*ends, strict=True)
    rows["best_accuracy"] = over_splits.loc["best", "accuracy"]
    rows["best_sd"] = best["accuracy"].std()
    rows = rows.join(over_splits.loc["last", ["loss", "balanced_accuracy", "ece"]])
    rows = rows.join(_models(tables["variants"]), how="outer").reset_index()  # outer: skipped variants stay
    validated = pd.MultiIndex.from_frame(metrics.loc[metrics["subset"] == "validation", GROUP]).unique()
    chosen = pd.MultiIndex.from_frame(rows[GROUP]).isin(validated)
    chosen = ["validation" if yes else "test, as published" for yes in chosen]
    rows.insert(rows.columns.get_loc("best_sd") + 1, "best_chosen_on", chosen)
    counts = ["n", "n_splits", "n_sources", "collapsed"]
    rows[counts] = rows[counts].fillna(0).astype("int64")
    return _sorted(rows)


def _models(variants: pd.DataFrame) -> pd.DataFrame:
    """Sizes and costs per group and variant; the seeds of one variant may come from several runs."""
    how = dict.fromkeys(COUNTS, "max") | {"skipped_reason": "first"}
    how |= {"one_seed_seconds": "mean", "peak_memory_bytes": "max"}
    how["all_seeds_seconds"] = lambda column: column.sum(min_count=1)
    return variants.groupby([*GROUP, "variant"]).agg(how)


def comparisons(tables: Tables) -> pd.DataFrame:
    """One row per group and pair a - b: the fixed family with its sentence, then the others, then log-loss."""
    rows = []
    for key, part in groups(tables["metrics"]):
        found = [*stats.family(part), *stats.others(part)]
        found += [stats.paired(part, "A", b, metric="loss") for b in stats.FAMILY if b in set(part["variant"])]
        for one in found:
            said = {"verdict": stats.verdict(one), "sentence": stats.sentence(one), "interval": stats.described(one)}
            rows.append(dict(zip(GROUP, key, strict=True)) | asdict(one) | said)
    first = [*GROUP, "a", "b", "metric", "family"]
    frame = pd.DataFrame(rows)
    return frame[first + [c for c in frame.columns if c not in first]]


def factorial(tables: Tables) -> pd.DataFrame:
    """Main effects and interaction per group that has a backbone, on accuracy and on log-loss."""
    rows = []
    for key, part in groups(tables["metrics"]):
        for metric in ("accuracy", "loss"):
            found = stats.factorial(part, metric).drop(columns="p_equivalent")
            rows.append(found.assign(**dict(zip(GROUP, key, strict=True)), metric=metric))
    frame = pd.concat(rows)
    first = [*GROUP, "metric"]
    frame = frame.loc[frame["backbone"] != NO_BACKBONE, first + [c for c in frame if c not in first]]
    return frame.reset_index(drop=True)


def collapsed(tables: Tables) -> pd.DataFrame:
    """How many of n seeds ended predicting one class only (stats.collapsed): a row per group, a column per variant."""
    rows = accuracy(tables).query("n > 0")
    rows["text"] = rows["collapsed"].astype(str) + " of " + rows["n"].astype(str)
    frame = rows.pivot(index=GROUP, columns="variant", values="text").fillna("not run")
    return frame[in_order(frame.columns)].reset_index().rename_axis(columns=None)


def tuning(tables: Tables) -> pd.DataFrame:
    """One row per group, variant and candidate: mean validation accuracy and loss, and how often it was chosen."""
    by = [*GROUP, "variant", "feature_scaling", *LEARNING_RATES]
    grouped = tables["tuning"].groupby(by, dropna=False)
    frame = grouped[["accuracy", "loss"]].mean(skipna=False).rename(columns="validation_{}".format)
    frame["chosen"] = grouped["chosen"].sum()
    frame["n"] = grouped.size()
    return _sorted(frame.reset_index())


MODEL = ["dataset", "backbone", "run", "variant", "settings"]  # of which the doctor looked at several seeds


def alarms(found: pd.DataFrame) -> pd.DataFrame:
    """What the doctor warns of in at least half of the seeds of a model: a row each, with the first seed's evidence.

    found: table `doctor_study`, a row per model, seed and check.
    """
    if found.empty:
        return found
    seeds = found.groupby(MODEL)["seed"].nunique()
    raised = found[found["verdict"].isin(["fail", "warn"])]
    rows = raised.groupby([*MODEL, "check"], sort=False).first().reset_index()
    often = raised.groupby([*MODEL, "check"], sort=False)["seed"].nunique().to_numpy()
    of = seeds.reindex(pd.MultiIndex.from_frame(rows[MODEL])).to_numpy()
    rows["seeds"] = [f"{n} of {m}" for n, m in zip(often, of, strict=True)]
    return rows[2 * often >= of].reset_index(drop=True)


def known_faults(found: pd.DataFrame) -> list[str]:
    """What the doctor says of the models of a study, in sentences; `found`: table `doctor_study`."""
    if found.empty:
        return []
    raised = alarms(found)
    n = len(found[MODEL].drop_duplicates())
    each = ", ".join(f"{check} in {number}" for check, number in raised["check"].value_counts().items())
    lines = [f"The doctor looked at each A and A-joint as it was trained ({n} in all) and found: {each or 'nothing'}."]
    published = raised[(raised["settings"] == "2019") & raised["dataset"].str.contains("published")]
    for (dataset, variant), part in published.groupby(["dataset", "variant"], sort=False):
        known = list(part["check"])
        lines.append(
            f"{variant} as published ({dataset}) has {len(known)} known fault{'s' * (len(known) > 1)}: "
            f"{', '.join(known)}. What mending them gains stands in 10_repair."
        )
    return lines


def at_the_edge(tuning: pd.DataFrame) -> pd.DataFrame:
    """Which variants most often chose a rate that is the smallest or the largest of their grid: a row per variant.

    Columns: GROUP, variant, `feature_scaling` and `rate` (which, and its value) of the favourite, `edge` ("largest",
    "smallest" or ""). An optimum at the edge may lie beyond it. A rate that every candidate shares was not tuned.
    """
    rows = []
    for key, part in tuning.groupby([*GROUP, "variant"], sort=False):
        best = part.loc[part["chosen"].idxmax()]
        tried = part[part["feature_scaling"] == best["feature_scaling"]]
        row = dict(zip([*GROUP, "variant"], key, strict=True)) | {"feature_scaling": best["feature_scaling"]}
        rate = next((name for name in ("lr_backbone", "lr_classical") if tried[name].nunique() > 1), "lr_classical")
        edges = {tried[rate].max(): "largest", tried[rate].min(): "smallest"} if tried[rate].nunique() > 1 else {}
        rows.append(row | {"rate": f"{rate} {best[rate]:g}", "edge": edges.get(best[rate], "")})
    return pd.DataFrame(rows, columns=[*GROUP, "variant", "feature_scaling", "rate", "edge"])


def edge_warning(tuning: pd.DataFrame) -> str:
    """Whether the grids were wide enough, in a sentence: for nine of ten variants the favourite should lie inside."""
    found = at_the_edge(tuning)
    outside = found[found["edge"] != ""]
    inside = f"The favourite rate lies inside its grid for {len(found) - len(outside)} of {len(found)} variants"
    if len(outside) <= 0.1 * len(found):
        return f"{inside}."
    names = ", ".join(dict.fromkeys(outside["variant"]))
    return f"**{inside}: the grids are too narrow** for {names}, whose results may be better with other rates."


def headline(accuracy: pd.DataFrame) -> pd.DataFrame:
    """The accuracies for the report's first page: a row per group, mean and interval of C, A, B and A-joint as text.

    2-D data sets, which have tables of their own, are left out beside images.
    """
    rows = accuracy[accuracy["n"] > 0]
    flat = rows["backbone"] == NO_BACKBONE
    rows = rows if flat.all() else rows[~flat]
    cells = [variant for variant in stats.CELLS.values() if variant in set(rows["variant"])]
    rows = rows[rows["variant"].isin(cells or rows["variant"])]
    ends = _joined(rows["low"], rows["high"], " [{:.3f}, {:.3f}]")
    text = [f"{mean:.3f}{end.strip('–')}" for mean, end in zip(rows["accuracy"], ends, strict=True)]
    names = [title(key) for key in rows[GROUP].itertuples(index=False, name=None)]
    frame = pd.DataFrame({"test accuracy": names, "variant": rows["variant"], "text": text})
    wide = frame.pivot(index="test accuracy", columns="variant", values="text").fillna("not run")
    return (
        wide.loc[list(dict.fromkeys(names)), cells or in_order(frame["variant"])]
        .reset_index()
        .rename_axis(columns=None)
    )


def every(tables: Tables) -> dict[str, pd.DataFrame]:
    """All tables by file name; 2-D data sets in one of their own, empty tables left out."""
    if tables["metrics"].empty:
        return {}
    rows = accuracy(tables)
    flat = rows["backbone"] == NO_BACKBONE
    found = {"accuracy": rows[~flat], "accuracy_2d": rows[flat], "comparisons": comparisons(tables)}
    found |= {"factorial": factorial(tables), "collapsed": collapsed(tables), "tuning": tuning(tables)}
    found["headline"] = headline(rows)
    return {name: frame.reset_index(drop=True) for name, frame in found.items() if len(frame)}


def answer(comparisons: pd.DataFrame) -> list[str]:
    """The study's answer in sentences: how the pre-specified tests ended, then the first one of each group."""
    family = comparisons[comparisons["family"]]
    run = family[family["verdict"] != "not run"]
    if run.empty:
        return ["No pre-specified comparison was run: that takes A and one of " + ", ".join(stats.FAMILY) + "."]
    n = run["verdict"].value_counts()
    ended = [n.get(verdict, 0) for verdict in ("higher", "lower", "equivalent", "not distinguishable")]
    text = (
        "Of {} comparisons of A that were fixed beforehand, A is right more often in {}, less often in {} and equally "
    )
    text += "often (to within 2 of 100 images) in {}; in {} this study cannot tell"
    rest = len(run) - sum(ended)
    lines = [text.format(len(run), *ended) + (f"; {rest} could not be tested." if rest else ".")]
    for key, part in groups(run):
        lines.append(f"{title(key)}: {part['sentence'].iloc[0]}")
    return lines + stats.covered(run)


def save(frames: dict[str, pd.DataFrame], folder: Path) -> None:
    """Writes each table to `folder`/NAME.csv."""
    for name, frame in frames.items():
        with atomic(folder / f"{name}.csv") as part:
            write_csv(frame, part)


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    order = {variant: i for i, variant in enumerate(in_order(frame["variant"]))}
    rank = {"key": lambda column: column.map(order) if column.name == "variant" else column}
    return frame.sort_values([*GROUP, "variant"], kind="stable", ignore_index=True, **rank)


_FORMATS = {"n": "{:.0f}", "p": "{:.2g}", "one_seed_seconds": "{:.2f}", "all_seeds_seconds": "{:.1f}"}
_FORMATS |= dict.fromkeys(["p_holm", "p_equivalent"], "{:.2g}") | dict.fromkeys(COUNTS, "{:,.0f}")
_FORMATS |= dict.fromkeys(LEARNING_RATES, "{:.2g}") | {"peak_memory_bytes": lambda b: f"{b / 1e6:,.0f} MB"}


def style(frame: pd.DataFrame, caption: str = "") -> Styler:
    """`frame` for reading: mean ± sd and [low, high] in one column each, no column that is empty throughout."""
    frame = frame.copy()
    for mean, spread in (("accuracy", "sd"), ("best_accuracy", "best_sd")):
        if mean in frame and spread in frame:
            frame[mean] = _joined(frame[mean], frame.pop(spread), "{:.3f} ± {:.3f}")
    for low, high, name in (("low", "high", "95 %"), ("wilson_low", "wilson_high", "Wilson 95 %")):
        if low in frame:
            text = _joined(frame[low], frame.pop(high), "[{:.3f}, {:.3f}]")
            frame = frame.assign(**{low: text}).rename(columns={low: name})
    frame = frame.loc[:, [c for c in frame if not frame[c].isin([""]).all() and not frame[c].isna().all()]]
    formats = {c: _FORMATS[c] for c in frame.select_dtypes("number") if c in _FORMATS}
    formats |= {c: "{:.3f}" for c in frame.select_dtypes("float") if c not in formats}
    uuid = hashlib.sha256((caption + frame.to_csv()).encode()).hexdigest()[:12]
    styler = (
        frame.style.format(formats, na_rep="–", escape="html").hide(axis="index").set_caption(caption).set_uuid(uuid)
    )
    return styler.relabel_index([c.replace("_", " ") for c in frame.columns], axis="columns")


def _joined(left: pd.Series, right: pd.Series, text: str) -> list[str]:
    pairs = zip(left, right, strict=True)
    return [text.format(a, b).replace(" ± nan", "") if pd.notna(a) else "–" for a, b in pairs]
