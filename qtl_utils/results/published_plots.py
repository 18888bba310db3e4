"""Figures of the published results beside ours; like `plots`, from tables alone."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from qtl_utils.results import stats
from qtl_utils.results.plots import (
    BLACK,
    BLUE,
    GREY,
    SKY,
    VERMILION,
    WIDTH,
    YELLOW,
    Figure,
    _errors,
    _grid,
    _legend,
    _rows,
    _styled,
    look,
)
from qtl_utils.results.published_results import LAST, PUBLISHED, TODAY

ADAMS = {"adam-pl07": "Adam of 2019", TODAY: "Adam of today"}
NAMES = {"A": "circuit", "C-block": "classical"}


@_styled
def plane(accuracies: pd.DataFrame) -> Figure:
    """2-D tasks: a dot per seed, ring = the published run (seed 0) again, vertical line = the published number.

    Yellow: where that run ends when its initial weights differ in their last digits.
    """
    tasks = list(dict.fromkeys(accuracies["task"]))
    kinds = [(model, adam) for model in ("C-block", "A") for adam in ADAMS if adam in set(accuracies["optimizer"])]
    figure, axes = _grid(len(tasks), 2, 2.0, sharey=True)
    values = {(row.task, row.model): row.published for row in PUBLISHED}
    for ax, task in zip(axes, tasks, strict=True):
        ax.set_title(task, loc="left")
        _rows(ax, [f"{NAMES[model]}, {ADAMS[adam]}" for model, adam in kinds])
        part = accuracies[accuracies["task"] == task]
        for y, (model, adam) in enumerate(kinds):
            rows = part[(part["variant"] == model) & (part["optimizer"] == adam)].set_index("seed")
            same = rows.loc[0, "accuracy"]
            rows = rows[rows["copy"] == 0]
            ax.plot([same.min(), same.max()], [y, y], color=YELLOW, lw=5, solid_capstyle="round", zorder=0.5)
            shift = np.linspace(-0.25, 0.25, len(rows))
            colour = VERMILION if model == "A" else BLUE
            ax.scatter(rows["accuracy"], y + shift, s=9, color=colour, alpha=0.5, lw=0)
            ax.plot(rows.loc[0, "accuracy"], y, "o", ms=9, mfc="none", mec=BLACK, mew=1.4)
            ax.plot([values[task, model]] * 2, [y - 0.42, y + 0.42], color=BLACK, lw=1.4)
        ax.set_xlabel("test accuracy")
    handles = [Line2D([], [], marker="o", ls="", ms=4, color=colour) for colour in (BLUE, VERMILION)]
    handles += [Line2D([], [], marker="o", ls="", ms=8, mfc="none", mec=BLACK), Line2D([], [], color=BLACK)]
    handles += [Line2D([], [], color=YELLOW, lw=5)]
    names = ["classical net, a seed", "circuit, a seed", "the published seed, run here", "published"]
    _legend(figure, handles, [*names, "the same, rounded otherwise"])
    return figure


@_styled
def steps(table: pd.DataFrame) -> Figure:
    """Each step of the difference in points with its interval, a panel a group; hollow: positive by construction."""
    groups = list(dict.fromkeys(table["group"]))
    heights = [(table["group"] == group).sum() for group in groups]
    figure = Figure(figsize=(WIDTH, 0.5 * len(groups) + 0.28 * sum(heights) + 0.7))
    axes = figure.subplots(len(groups), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for ax, group in zip(axes, groups, strict=True):
        rows = table[table["group"] == group]
        ax.set_title(group, loc="left")
        _rows(ax, [f"{row['step']}: {row['model']}" for _, row in rows.iterrows()])
        ax.axvline(0, color=BLACK, lw=1)
        ax.axvspan(-100 * stats.BOUND, 100 * stats.BOUND, color=SKY, alpha=0.25, lw=0)
        for y, (_, row) in enumerate(rows.iterrows()):
            fill = "white" if row["by_construction"] else BLUE
            errors = 100 * _errors(row, "value")
            ax.errorbar(100 * row["value"], y, xerr=errors, fmt="o", ms=6, capsize=3, color=BLUE, mfc=fill)
    axes[-1].set_xlabel("difference in test accuracy, points")
    handles = [Line2D([], [], marker="o", color=BLUE, mfc=fill) for fill in (BLUE, "white")]
    names = ["mean and 95 % interval", "chosen on the test images: cannot be negative", "within 2 points"]
    _legend(figure, [*handles, Patch(color=SKY, alpha=0.25)], names)
    return figure


@_styled
def lead(scores: pd.DataFrame, a: str, b: str, published: dict[str, float]) -> Figure:
    """How often a is ahead of b by how much, a panel a protocol; the black line is the published difference."""
    protocols = list(dict.fromkeys(scores["protocol"]))
    rows = scores[scores["model"].isin([a, b])]
    wide = rows.pivot_table(index=["protocol", "seed", "split"], columns="model", values="accuracy")
    points = 100 * (wide[a] - wide[b])
    width = 100 / scores["n"].iloc[0]  # one image
    reach = max(points.abs().max(), *(100 * abs(v) for v in published.values()), width) + width
    edges = np.arange(-np.ceil(reach / width) - 0.5, np.ceil(reach / width) + 1) * width
    figure, axes = _grid(len(protocols), 3, 2.4, sharex=True, sharey=True)
    for ax, protocol in zip(axes, protocols, strict=True):
        ax.hist(points[protocol], bins=edges, color=VERMILION, alpha=0.7, ec="white", lw=0.3)
        ax.axvline(0, color=GREY, lw=1, ls="--")
        if protocol in published:
            ax.axvline(100 * published[protocol], color=BLACK, lw=1.6)
        ax.set_title(protocol, loc="left")
        ax.set_xlabel(f"{a} − {b}, points")
    axes[0].set_ylabel("trainings")
    return figure


@_styled
def curves(table: pd.DataFrame, published: Sequence[float] = ()) -> Figure:
    """Test accuracy per epoch and model: median and middle 80 % of seeds; black: the published training of A."""
    models = list(dict.fromkeys(table["model"]))
    figure, axes = _grid(len(models), 4, 2.4, sharex=True, sharey=True)
    for ax, model in zip(axes, models, strict=True):
        seeds = table[table["model"] == model].groupby("epoch")["accuracy"]
        low, middle, high = (seeds.quantile(q) for q in (0.1, 0.5, 0.9))
        colour = look(model, models)["color"]
        ax.fill_between(middle.index, low, high, color=colour, alpha=0.25, lw=0)
        ax.plot(middle.index, middle, color=colour)
        if model == "A" and len(published):
            epochs = np.arange(1, len(published) + 1)
            ax.plot(epochs, published, color=BLACK, lw=0.9, label="published")
            ax.plot(epochs[np.argmax(published)], max(published), "*", ms=10, color=BLACK, label="what was reported")
            ax.legend(loc="lower right", fontsize=7)
        ax.set_title(model, loc="left")
        ax.set_xlabel("epoch")
    axes[0].set_ylabel("accuracy on the test images")
    return figure


@_styled
def batchnorm(drift: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    """Left: how far train mode moves features, a thin line a split; right: accuracy in both modes, a dot a training."""
    figure = Figure(figsize=(WIDTH, 2.9))
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    names = {"training": ("while training, by their own batch", VERMILION, "-")}
    names["testing"] = ("when tested, by the moved running statistics", BLUE, "--")
    for column, (name, colour, line) in names.items():
        for _, part in drift.groupby("split"):
            left.plot(part["epoch"], part[column], color=colour, ls=line, lw=0.5, alpha=0.6)
        mean = drift.groupby("epoch")[column].mean()
        left.plot(mean.index, mean, color=colour, ls=line, lw=2, label=name)
    left.set(xlabel="epoch", ylabel="|change| / |features|", ylim=(0, None))
    left.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    left.legend(fontsize=7)
    wide = scores.pivot_table(index=["seed", "split"], columns="protocol", values="accuracy")
    modes = ["eval mode", "train mode"]
    for x, mode in enumerate(modes):
        right.scatter(x + np.linspace(-0.12, 0.12, len(wide)), wide[mode], s=10, color=BLUE, alpha=0.5, lw=0)
    right.plot([0, 1], wide[modes].mean(), color=BLACK, lw=2, marker="o", ms=5)
    right.set_xticks([0, 1], modes)
    right.set(xlim=(-0.4, 1.4), ylabel=f"test accuracy, {LAST}")
    return figure


@_styled
def pairings(table: pd.DataFrame) -> Figure:
    """The exact McNemar p of every way in which the two published counts can overlap."""
    figure = Figure(figsize=(WIDTH / 1.8, 2.4))
    ax = figure.subplots()
    names = [f"{a} : {b}" for a, b in zip(table["only_a"], table["only_b"], strict=True)]
    ax.bar(names, table["p"], color=BLUE)
    ax.axhline(stats.ALPHA, color=VERMILION, lw=1.4, label=f"p = {stats.ALPHA}")
    ax.set(xlabel="images only the circuit : only the linear head got right", ylabel="exact p", ylim=(0, 1))
    ax.grid(visible=False, axis="x")
    ax.legend(loc="upper left")
    return figure


@_styled
def angles(table: pd.DataFrame, scale: float) -> Figure:
    """Every angle of the published checkpoint in radians, used ones and never used ones; band: +-2 initial sd."""
    kinds = list(dict.fromkeys(table["kind"]))
    figure = Figure(figsize=(WIDTH / 1.6, 1.9))
    ax = figure.subplots()
    _rows(ax, kinds)
    ax.axvspan(-2 * scale, 2 * scale, color=SKY, alpha=0.3, lw=0, label="±2 standard deviations of the initial draw")
    for y, (kind, colour) in enumerate(zip(kinds, (VERMILION, GREY), strict=False)):
        values = table.loc[table["kind"] == kind, "angle"].to_numpy()
        ax.scatter(values, y + np.linspace(-0.25, 0.25, len(values)), s=14, color=colour, lw=0)
    ax.set_xlabel("angle, radians")
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.3), frameon=False, fontsize=7)
    return figure
