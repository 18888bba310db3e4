"""Figures of the repair ladder: accuracy from the published model to the repaired one, with controls."""

import numpy as np
import pandas as pd

from qtl_utils.results import stats
from qtl_utils.results.plots import GREY, SKY, Figure, _grid, _legend, _rows, _styled, look

KINDS = {"step": ("o", "over the rung before"), "alone": ("s", "alone, settings of 2019")}
KINDS |= {"left out": ("^", "over all but this")}


@_styled
def climb(levels: pd.DataFrame) -> Figure:
    """Accuracy of every variant at every rung, a panel a task; A with its intervals.

    levels: as `ladder.levels` gives them, with a column `task`.
    """
    tasks = list(dict.fromkeys(levels["task"]))
    figure, axes = _grid(len(tasks), 2, 3.4)
    for ax, task in zip(axes, tasks, strict=True):
        part = levels[levels["task"] == task]
        rungs = list(dict.fromkeys(part.loc[part["variant"] == "A", "rung"]))
        place = {rung: x for x, rung in enumerate(rungs)}
        for variant, rows in part[::-1].groupby("variant", sort=False):
            rows = rows.assign(x=rows["rung"].map(place)).sort_values("x")
            style = look(variant) | {"ms": 4}
            if variant != "A":
                ax.plot(rows["x"], 100 * rows["accuracy"], lw=1, alpha=0.8, **style)
                continue
            ends = 100 * np.abs(rows[["low", "high"]].to_numpy(float).T - rows["accuracy"].to_numpy(float))
            ax.errorbar(rows["x"], 100 * rows["accuracy"], ends, capsize=3, lw=2.2, zorder=3, **style | {"ms": 6})
        ax.set_xticks(range(len(rungs)), [rung.replace(" ", "\n") for rung in rungs], fontsize=6)
        ax.set_title(task, loc="left")
    axes[0].set_ylabel("right, of 100 test samples")
    names = list(dict.fromkeys(levels["variant"]))
    _legend(figure, [axes[0].plot([], [], **look(name) | {"ms": 5})[0] for name in names], names)
    return figure


@_styled
def gains(table: pd.DataFrame) -> Figure:
    """What every mend gained in A, three ways, with intervals in points; a panel a task.

    table: as `ladder.gains` gives it, with a column `task`.
    """
    tasks = list(dict.fromkeys(table["task"]))
    figure, axes = _grid(len(tasks), 2, 2.8)
    handles = {}
    for ax, task in zip(axes, tasks, strict=True):
        part = table[table["task"] == task]
        mends = list(dict.fromkeys(part["mend"]))
        ax.axvspan(-100 * stats.BOUND, 100 * stats.BOUND, color=SKY, alpha=0.2, lw=0)
        ax.axvline(0, color="0.4", lw=1)
        for shift, (kind, (marker, text)) in zip((-0.22, 0.0, 0.22), KINDS.items(), strict=True):
            rows = part[part["kind"] == kind]
            y = [mends.index(mend) + shift for mend in rows["mend"]]
            value = rows["value"].to_numpy(float)
            ends = np.nan_to_num(np.abs(rows[["low", "high"]].to_numpy(float).T - value))
            colour = "black" if kind == "step" else GREY
            handles[text] = ax.errorbar(
                100 * value, y, xerr=100 * ends, fmt=marker, color=colour, ms=4, capsize=2, lw=1
            )
        _rows(ax, mends)
        ax.set_title(task, loc="left")
        ax.set_xlabel("gained, of 100 test samples")
    _legend(figure, list(handles.values()), list(handles))
    return figure
