"""Figures of the attribution notebook; like `plots`, from tables alone."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from qtl_utils.results import stats
from qtl_utils.results.conclusions import ZEROED
from qtl_utils.results.diagnostic_plots import STAGES
from qtl_utils.results.plots import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    WIDTH,
    Figure,
    _errors,
    _legend,
    _rows,
    _styled,
)
from qtl_utils.results.plots import look as _look

KINDS = {"used": ("altered after training: used?", ORANGE, "o"), "useful": ("trained without: useful?", BLUE, "s")}


def look(variant: str) -> dict:
    """Colour and marker of a variant; A with zeroed angles is A, hollow."""
    return _look("A") | {"markerfacecolor": "white"} if variant == ZEROED else _look(variant)


@_styled
def ladder(table: pd.DataFrame) -> Figure:
    """A minus every rung, in points of test accuracy, a panel per feature scaling.

    Columns: scaling, b, kind ("used" or "useful") and those of an estimate. The shaded zone counts as equivalent.
    """
    scalings = list(dict.fromkeys(table["scaling"]))
    order = list(dict.fromkeys(table["b"]))
    figure = Figure(figsize=(WIDTH, 1.3 + 0.3 * len(order)))
    axes = figure.subplots(1, len(scalings), sharey=True, sharex=True, squeeze=False)[0]
    for ax, scaling in zip(axes, scalings, strict=True):
        _rows(ax, order)
        ax.set_title(f"features: scaling {scaling}", loc="left")
        ax.axvspan(-100 * stats.BOUND, 100 * stats.BOUND, color=SKY, alpha=0.25, lw=0)
        ax.axvline(0, color="black", lw=1)
        for _, row in table[table["scaling"] == scaling].dropna(subset="value").iterrows():
            _, colour, marker = KINDS[row["kind"]]
            place = {"xerr": 100 * _errors(row, "value"), "capsize": 3, "ms": 6, "marker": marker, "color": colour}
            ax.errorbar(100 * row["value"], order.index(row["b"]), **place)
        ax.set_xlabel("A minus this, points of test accuracy")
    handles = [Line2D([], [], color=colour, marker=marker) for _, colour, marker in KINDS.values()]
    _legend(figure, handles, [text for text, *_ in KINDS.values()])
    return figure


@_styled
def travel(table: pd.DataFrame) -> Figure:
    """Net movement and path of every stage, a dot a seed, with the sum of learning rates as a bar.

    Columns: scaling, stage, net, path, nominal.
    """
    scalings = list(dict.fromkeys(table["scaling"]))
    order = list(dict.fromkeys(table["stage"]))
    figure = Figure(figsize=(WIDTH, 1.3 + 0.5 * len(order)))
    axes = figure.subplots(1, len(scalings), sharex=True, sharey=True, squeeze=False)[0]
    for ax, scaling in zip(axes, scalings, strict=True):
        _rows(ax, order)
        ax.set_title(f"features: scaling {scaling}", loc="left")
        for y, stage in enumerate(order):
            part = table[(table["scaling"] == scaling) & (table["stage"] == stage)]
            for shift, column, colour in ((-0.15, "net", STAGES[stage]), (0.15, "path", GREY)):
                ax.scatter(part[column], np.full(len(part), y + shift), s=8, color=colour, alpha=0.4, lw=0)
                ax.plot([part[column].median()] * 2, [y + shift - 0.13, y + shift + 0.13], color="black", lw=1.5)
            ax.plot([part["nominal"].iloc[0]] * 2, [y - 0.4, y + 0.4], color="black", ls=":", lw=1.2)
        ax.set(xscale="log", xlabel="movement (radians for angles)")
        _plain_log(ax.xaxis)
    dots = {"ls": "", "marker": "o", "ms": 4}
    handles = [Line2D([], [], color=VERMILION, **dots), Line2D([], [], color=GREY, **dots)]
    handles += [Line2D([], [], color="black", lw=1.5), Line2D([], [], color="black", ls=":")]
    _legend(figure, handles, ["net, by stage", "path", "median", "sum of learning rates"])
    return figure


def _curves(ax: Axes, metrics: pd.DataFrame, column: str) -> None:
    """Mean and interval of every variant along `column`, two points beside each other so that intervals stay apart."""
    variants = list(dict.fromkeys(metrics["variant"]))
    for i, variant in enumerate(variants):
        found = stats.summary(metrics[metrics["variant"] == variant], by=[column])
        shift = ScaledTranslation((i - (len(variants) - 1) / 2) / 36, 0, ax.figure.dpi_scale_trans)
        style = {"capsize": 2, "ms": 5, "lw": 1, "elinewidth": 0.8, "ls": "--" if variant == ZEROED else "-"}
        lengths = np.nan_to_num([found["mean"] - found["low"], found["high"] - found["mean"]]).clip(0)
        ax.errorbar(found[column], found["mean"], lengths, transform=ax.transData + shift, **style, **look(variant))
        for end in (found["mean"] - lengths[0], found["mean"] + lengths[1]):  # what is shifted does not scale the axes
            ax.plot(found[column], end, alpha=0)


def _plain_log(axis: Axis) -> None:
    """Ticks of a logarithmic axis as plain numbers, also where it spans less than a decade."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def _log_ticks(ax: Axes, values: Sequence[float]) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(list(values)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter("{x:g}")


def _named(figure: Figure, variants: Sequence[str]) -> None:
    _legend(figure, [Line2D([], [], ls="-", ms=5, **look(v)) for v in variants], list(variants))


@_styled
def sweep(metrics: pd.DataFrame, travelled: pd.DataFrame, zeroed: pd.DataFrame) -> Figure:
    """Accuracy, movement of the angles and what zeroing them costs, against the factor of the learning rate."""
    variants = list(dict.fromkeys(metrics["variant"]))
    factors = sorted(set(metrics["factor"]))
    figure = Figure(figsize=(WIDTH * 0.9, 6.6))
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[1.4, 1, 1])
    _curves(top, metrics, "factor")
    top.set_ylabel("test accuracy, last epoch")
    rows = travelled[travelled["stage"] == "circuit"].groupby("factor")[["net", "path", "nominal"]]
    for column, colour, line in (("net", VERMILION, "-"), ("path", GREY, "-"), ("nominal", "black", ":")):
        value = rows.median()[column]
        middle.plot(value.index, value, color=colour, ls=line, marker="o" if line == "-" else "", ms=4)
        if line == "-":
            middle.fill_between(value.index, *(rows.quantile(q)[column] for q in (0.1, 0.9)), color=colour, alpha=0.2)
        middle.annotate(
            {"nominal": "sum of rates"}.get(column, column),
            (factors[-1], value.iloc[-1]),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    middle.axhline(1, color="0.6", lw=0.8, ls="--")
    middle.set(yscale="log", ylabel="angles moved, radians")
    bottom.axhspan(-100 * stats.BOUND, 100 * stats.BOUND, color=SKY, alpha=0.25, lw=0)
    bottom.axhline(0, color="black", lw=1)
    lengths = np.nan_to_num([zeroed["value"] - zeroed["low"], zeroed["high"] - zeroed["value"]]).clip(0)
    bottom.errorbar(zeroed["factor"], 100 * zeroed["value"], 100 * lengths, capsize=3, ms=5, **_look("A"))
    bottom.set(ylabel="A minus zeroed,\npoints", xlabel="learning rate over the study's (angles of A; all of C)")
    _log_ticks(bottom, factors)
    _named(figure, variants)
    return figure


@_styled
def benefit(table: pd.DataFrame) -> Figure:
    """Main effects and interaction on accuracy (points) and log-loss, a marker per schedule."""
    order = list(dict.fromkeys(table["effect"]))
    schedules = list(dict.fromkeys(table["schedule"]))
    figure = Figure(figsize=(WIDTH, 0.9 + 0.62 * len(order)))
    axes = figure.subplots(1, 2, sharey=True)
    looks = dict(zip(schedules, [(VERMILION, "o"), (BLUE, "s"), (GREEN, "^")] * len(schedules), strict=False))
    for ax, (metric, scale, text) in zip(
        axes, [("accuracy", 100, "effect on accuracy, points"), ("loss", 1, "effect on log-loss")], strict=True
    ):
        _rows(ax, order)
        ax.axvline(0, color="black", lw=1)
        for i, (schedule, (colour, marker)) in enumerate(looks.items()):
            for _, row in table[(table["metric"] == metric) & (table["schedule"] == schedule)].iterrows():
                y = order.index(row["effect"]) + 0.2 * (i - (len(looks) - 1) / 2)
                error = {"xerr": scale * _errors(row, "value"), "capsize": 3, "ms": 5}
                ax.errorbar(scale * row["value"], y, **error, color=colour, marker=marker)
        ax.set_xlabel(text)
    _legend(figure, [Line2D([], [], color=c, marker=m) for c, m in looks.values()], list(looks))
    return figure


@_styled
def curves(metrics: pd.DataFrame, column: str, text: str) -> Figure:
    """Test accuracy with intervals along `column`, a line a variant."""
    variants = list(dict.fromkeys(metrics["variant"]))
    figure = Figure(figsize=(WIDTH * 0.8, 3.3))
    ax = figure.subplots()
    _curves(ax, metrics, column)
    ax.set(xlabel=text, ylabel="test accuracy, last epoch")
    _named(figure, variants)
    return figure


@_styled
def sizes(metrics: pd.DataFrame, travelled: pd.DataFrame) -> Figure:
    """Accuracy (top) and net movement of the angles (below) against qubits and layers."""
    variants = list(dict.fromkeys(metrics["variant"]))
    varied = list(dict.fromkeys(metrics["varied"]))
    figure = Figure(figsize=(WIDTH, 4.6))
    axes = figure.subplots(2, len(varied), sharex="col", sharey="row", squeeze=False, height_ratios=[1.5, 1])
    for column, name in zip(axes.T, varied, strict=True):
        _curves(column[0], metrics[metrics["varied"] == name], "size")
        rows = travelled[(travelled["varied"] == name) & (travelled["stage"] == "circuit")].groupby("size")["net"]
        column[1].plot(rows.median().index, rows.median(), color=VERMILION, marker="o", ms=4)
        column[1].fill_between(rows.median().index, rows.quantile(0.1), rows.quantile(0.9), color=VERMILION, alpha=0.2)
        column[1].set(xlabel="layers" if name == "depth" else name, yscale="log")
        _plain_log(column[1].yaxis)
        column[1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes[0, 0].set_ylabel("test accuracy, last epoch")
    axes[1, 0].set_ylabel("angles moved, radians")
    _named(figure, variants)
    return figure


@_styled
def fisher(spectra: pd.DataFrame) -> Figure:
    """Eigenvalues of the Fisher information, largest first, by block; dashed before training, solid after it."""
    figure = Figure(figsize=(WIDTH * 0.8, 3.3))
    ax = figure.subplots()
    for (block, when), part in spectra.groupby(["block", "when"], sort=False):
        kept = part[part["eigenvalue"] > 1e-12]
        line = {"ls": "-" if when == "after" else "--", "color": STAGES[block], "lw": 1.2}
        ax.plot(kept["number"], kept["eigenvalue"], **line, label=f"{block}, {when} training")
    ax.set(xscale="log", yscale="log", xlabel="number of the eigenvalue", ylabel="eigenvalue")
    _legend(figure, *ax.get_legend_handles_labels())
    return figure
