"""Figures of simulated studies: how often intervals hold the truth, and what they see."""

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from qtl_utils.results import stats
from qtl_utils.results.plots import BLUE, GREY, ORANGE, SKY, WIDTH, Figure, _rows, _styled

COLOURS = {"crossed": BLUE, "Nadeau-Bengio": ORANGE, "plain t": GREY}
MARKERS = {"crossed": "o", "Nadeau-Bengio": "s", "plain t": "x"}
GOOD = (0.93, 0.98)  # coverage that an interval of 95 % may have


def _legend(figure: Figure, methods: list[str], more: dict) -> None:
    handles = [Line2D([], [], color=COLOURS[m], marker=MARKERS[m], ls="") for m in methods]
    figure.legend([*handles, *more.values()], [*methods, *more], loc="outside upper right", ncols=4, frameon=False)


@_styled
def coverage(table: pd.DataFrame) -> Figure:
    """The coverage of every interval, a row a design and a mark an interval; shaded: what a 95 % interval may have.

    table: as `calibration.calibrate` gives it.
    """
    designs = list(dict.fromkeys(table["design"]))
    methods = [m for m in COLOURS if m in set(table["method"])]
    figure = Figure(figsize=(WIDTH, 0.6 * len(designs) + 1.0))
    ax = figure.subplots()
    ax.axvspan(*(100 * end for end in GOOD), color=SKY, alpha=0.25, lw=0)
    ax.axvline(95, color="0.4", lw=1)
    for i, design in enumerate(designs):
        for j, method in enumerate(methods):
            part = table[(table["design"] == design) & (table["method"] == method)]
            y = [i + 0.22 * (j - (len(methods) - 1) / 2)] * len(part)
            ax.plot(100 * part["coverage"], y, ls="", color=COLOURS[method], marker=MARKERS[method], ms=5, alpha=0.7)
    _rows(ax, designs)
    ax.set_xlabel("intervals that hold the truth, of 100")
    _legend(figure, methods, {"93 to 98 of 100": Patch(color=SKY, alpha=0.25)})
    return figure


@_styled
def power(curves: pd.DataFrame) -> Figure:
    """The share of studies that see a difference, by its size, a panel a design.

    curves: as `calibration.power_curve` gives them; the plain t is left out, as its false alarms are many.
    """
    curves = curves[curves["method"] != "plain t"]
    designs = list(dict.fromkeys(curves["design"]))
    methods = [m for m in COLOURS if m in set(curves["method"])]
    rows = (len(designs) + 2) // 3
    figure = Figure(figsize=(WIDTH, 2.1 * rows + 0.5))
    axes = figure.subplots(rows, 3, squeeze=False, sharex=True, sharey=True).ravel()
    for ax in axes[len(designs) :]:
        ax.remove()
    for ax, design in zip(axes, designs, strict=False):
        ax.set_title(design, loc="left")
        ax.axhline(100 * stats.POWER, color="0.4", lw=1, ls="--")
        for method in methods:
            part = curves[(curves["design"] == design) & (curves["method"] == method)]
            marks = {"marker": MARKERS[method], "ms": 3, "markevery": 4}
            ax.plot(part["points"], 100 * part["power"], color=COLOURS[method], **marks)
    figure.supxlabel("true difference, of 100 images", fontsize=9)
    figure.supylabel("studies that see it, of 100", fontsize=9)
    _legend(figure, methods, {f"{100 * stats.POWER:.0f} of 100": Line2D([], [], color="0.4", ls="--")})
    return figure
