"""Figures of the gradient and simulator notebooks; like `plots`, from tables alone."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator, NullFormatter

from qtl_utils.results.plots import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    WIDTH,
    YELLOW,
    Figure,
    _grid,
    _legend,
    _rows,
    _styled,
)

STAGES = {"backbone": BLUE, "pre-layer": ORANGE, "circuit": VERMILION, "post-layer": GREEN, "head": BLACK}
GROUPS = {"inputs": (SKY, "o"), "angles": (VERMILION, "s"), "pre-layer": (ORANGE, "^"), "backbone": (BLUE, "D")}
_LINES = [(VERMILION, "o"), (BLACK, "s"), (BLUE, "^"), (ORANGE, "D"), (SKY, "v"), (GREEN, "P"), (PURPLE, "X")]
_LINES += [(GREY, "<"), (YELLOW, ">"), (BLACK, "h")]
STATUS = {"works": "#CCEBDD", "works around": "#FBE7B8", "refuses": "#EEEEEE"}


def _named(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    return {name: _LINES[i % len(_LINES)] for i, name in enumerate(dict.fromkeys(names))}


@_styled
def stages(steps: pd.DataFrame) -> Figure:
    """Per step and stage, a column a variant: the gradient's norm above, the update over the weights below."""
    variants = list(dict.fromkeys(steps["variant"]))
    figure = Figure(figsize=(WIDTH, 4.4))
    axes = figure.subplots(2, len(variants), squeeze=False, sharex="col", sharey="row")
    for column, variant in zip(axes.T, variants, strict=True):
        column[0].set_title(variant, loc="left")
        for axis, value in zip(column, ("gradient", "ratio"), strict=True):
            for stage, part in steps[steps["variant"] == variant].groupby("stage", sort=False):
                axis.plot(part["step"], part[value].where(part[value] > 0), color=STAGES[stage], lw=1.2)
            axis.set_yscale("log")
        column[1].set_xlabel("step")
        column[1].xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes[0, 0].set_ylabel("|gradient|")
    axes[1, 0].set_ylabel("|update| / |weights|")
    shown = [stage for stage in STAGES if stage in set(steps["stage"])]
    _legend(figure, [Line2D([], [], color=STAGES[stage]) for stage in shown], shown)
    return figure


@_styled
def method_errors(errors: pd.DataFrame) -> Figure:
    """Relative error of every method's gradient against float64 reverse mode, by group of parameters."""
    rows = errors["simulator"] + ", " + errors["method"]
    names = list(dict.fromkeys(rows))
    figure = Figure(figsize=(WIDTH, 0.9 + 0.24 * len(names)))
    ax = figure.subplots()
    _rows(ax, names)
    least = 1e-17
    for i, (group, (colour, marker)) in enumerate(GROUPS.items()):
        part = errors[errors["group"] == group]
        places = [names.index(name) + 0.15 * (i - 1.5) for name in rows[errors["group"] == group]]
        shown = part["relative"].clip(lower=least)
        ax.scatter(shown, places, color=colour, marker=marker, s=22, ec="black", lw=0.4, zorder=3)
    ax.set_xscale("log")
    ax.set_xlabel("relative error of the gradient (exact agreement is drawn at 1e-17)")
    for value, text in ((np.finfo("float64").eps, "float64"), (np.finfo("float32").eps, "float32")):
        ax.axvline(value, color="0.5", lw=0.8, ls=":")
        ax.annotate(
            text, (value, 0), (2, 2), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=7
        )
    found = [group for group in GROUPS if group in set(errors["group"])]
    handles = [Line2D([], [], ls="", color=GROUPS[g][0], marker=GROUPS[g][1], mec="black", mew=0.4) for g in found]
    _legend(figure, handles, ["inputs of the circuit" if group == "inputs" else group for group in found])
    return figure


@_styled
def variance(table: pd.DataFrame) -> Figure:
    """Variance of dL/d(angle) against qubits: rows are costs, columns depths, a line an ansatz and initialisation."""
    depths = sorted(set(table["depth"]))
    costs = list(dict.fromkeys(table["cost"]))
    figure = Figure(figsize=(WIDTH, 2.3 * len(costs) + 0.9))
    axes = figure.subplots(len(costs), len(depths), squeeze=False, sharex=True, sharey=True)
    lines = table["ansatz"] + ", " + table["init"]
    looks = _named(lines)
    for row, cost in zip(axes, costs, strict=True):
        for ax, depth in zip(row, depths, strict=True):
            here = (table["cost"] == cost) & (table["depth"] == depth)
            for name, (colour, marker) in looks.items():
                part = table[here & (lines == name)].dropna(subset="variance")
                ax.plot(part["n_qubits"], part["variance"], color=colour, marker=marker, ms=4, lw=1)
            n = np.array(sorted(set(table["n_qubits"])), float)
            ax.plot(n, 2.0**-n, color="0.5", ls=":", lw=1)
            ax.set_yscale("log")
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        row[0].set_ylabel(f"variance, {cost} cost")
    for ax, depth in zip(axes[0], depths, strict=True):
        ax.set_title(f"depth {depth}", loc="left")
    for ax in axes[-1]:
        ax.set_xlabel("qubits")
    handles = [Line2D([], [], color=c, marker=m, ms=4, lw=1) for c, m in looks.values()]
    _legend(figure, [*handles, Line2D([], [], color="0.5", ls=":")], [*looks, "2^-n"])
    return figure


@_styled
def dependence(zeros: pd.DataFrame) -> Figure:
    """How many outputs depend on each angle: layers down, the angles of a layer across; 0 is a dead parameter."""
    indices = np.array([[int(i) for i in text.strip("()").split(",") if i.strip()] for text in zeros["angle"]])
    shape = indices.max(0) + 1
    counts = np.zeros(shape, int)
    counts[tuple(indices.T)] = zeros["outputs"]
    counts = counts.reshape(shape[0], -1)
    figure = Figure(figsize=(min(WIDTH, 1.6 + 0.42 * counts.shape[1]), 1.1 + 0.32 * len(counts)))
    ax = figure.subplots()
    ax.imshow(counts, cmap="Blues", vmin=0, vmax=max(counts.max() * 1.4, 1), aspect="auto")
    for (y, x), count in np.ndenumerate(counts):
        dead = count == 0
        ax.text(x, y, count, ha="center", va="center", fontsize=8, color=VERMILION if dead else "black")
    ax.set(xlabel="angle in its layer", ylabel="layer", xticks=range(counts.shape[1]), yticks=range(len(counts)))
    ax.grid(visible=False)
    return figure


@_styled
def signal_to_noise(table: pd.DataFrame) -> Figure:
    """Signal-to-noise ratio of the gradient against shots; below the line at 1 an estimate is mostly noise."""
    figure = Figure(figsize=(WIDTH * 0.6, 3.2))
    ax = figure.subplots()
    for name, (colour, marker) in _named(table["method"]).items():
        part = table[table["method"] == name]
        ax.plot(part["shots"], part["snr"], color=colour, marker=marker, ms=5, label=name)
    ax.axhline(1, color="0.4", lw=1, ls="--")
    ax.set(xscale="log", yscale="log", xlabel="shots per execution", ylabel="signal-to-noise ratio")
    _legend(figure, *ax.get_legend_handles_labels())
    return figure


@_styled
def noise(table: pd.DataFrame) -> Figure:
    """Share of the gradient and of the outputs that depolarising noise leaves."""
    figure = Figure(figsize=(WIDTH * 0.6, 3.0))
    ax = figure.subplots()
    for column, name, (colour, marker) in (
        ("gradient_kept", "gradient", _LINES[0]),
        ("outputs_kept", "outputs", _LINES[2]),
    ):
        ax.plot(table["strength"], table[column], color=colour, marker=marker, ms=5, label=name)
    ax.set(ylim=(0, 1.05), xlabel="depolarising strength after every gate", ylabel="share of the noise-free norm")
    _legend(figure, *ax.get_legend_handles_labels())
    return figure


@_styled
def matrix(cells: pd.DataFrame) -> Figure:
    """Simulators down, methods across: colour says whether a cell works, the text its milliseconds and error."""
    rows, columns = (list(dict.fromkeys(cells[name])) for name in ("simulator", "method"))
    figure = Figure(figsize=(WIDTH, 1.1 + 0.52 * len(rows)))
    ax = figure.subplots()
    for _, cell in cells.iterrows():
        x = columns.index(cell["method"])
        y = rows.index(cell["simulator"])
        ax.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, fc=STATUS[cell["status"]], ec="none"))
        text = "refuses"
        if pd.notna(cell.get("seconds")):
            error = f"{cell['error_angles']:.0e}" if cell["error_angles"] else "0"
            text = f"{1e3 * cell['seconds']:.3g} ms\nerror {error}"
        ax.text(x, y, text, ha="center", va="center", fontsize=7, color="0.5" if text == "refuses" else "black")
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    ax.xaxis.tick_top()
    ax.grid(visible=False)
    shown = [status for status in STATUS if status in set(cells["status"])]
    names = {"works": "works", "works around": "works, with the workaround below", "refuses": "refuses"}
    _legend(figure, [Patch(fc=STATUS[s], ec="0.6") for s in shown], [names[s] for s in shown])
    return figure


@_styled
def scaling(table: pd.DataFrame, value: str = "seconds") -> Figure:
    """Seconds of a step along each grid, a panel a grid, both axes logarithmic (qubits: the number of amplitudes)."""
    varied = list(dict.fromkeys(table["varied"]))
    figure = Figure(figsize=(WIDTH, 3.7))
    axes = figure.subplots(1, len(varied), sharey=True, squeeze=False)[0]
    names = table["simulator"] + ", " + table["method"]
    looks = _named(names)
    for ax, grid in zip(axes, varied, strict=True):
        for name, (colour, marker) in looks.items():
            part = table[(table["varied"] == grid) & (names == name)].dropna(subset=value)
            x = 2.0 ** part[grid] if grid == "qubits" else part[grid]
            ax.plot(x, part[value], color=colour, marker=marker, ms=4, lw=1, label=name)
        ticks = sorted(set(table.loc[table["varied"] == grid, grid]))
        ax.set(xscale="log", yscale="log", xlabel={"batch": "samples"}.get(grid, grid))
        ax.set_xticks([2.0**t if grid == "qubits" else t for t in ticks], [str(t) for t in ticks])
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.minorticks_off()
    axes[0].set_ylabel("seconds per step" if value == "seconds" else value)
    handles = [Line2D([], [], color=c, marker=m, ms=4, lw=1) for c, m in looks.values()]
    _legend(figure, handles, list(looks))
    return figure


@_styled
def reach(table: pd.DataFrame) -> Figure:
    """The largest number of qubits per method within the budgets of time and memory; hatched beyond the measured."""
    names = list(table["simulator"] + ", " + table["method"])
    figure = Figure(figsize=(WIDTH * 0.8, 1.0 + 0.42 * len(table)))
    ax = figure.subplots()
    _rows(ax, names)
    for y, (_, row) in enumerate(table.iterrows()):
        for shift, column, colour in ((-0.18, "by_seconds", BLUE), (0.18, "by_bytes", ORANGE)):
            measured = min(row[column], row["measured_to"])
            ax.barh(y + shift, measured, color=colour, height=0.32)
            beyond = {"color": "white", "ec": colour, "hatch": "/////", "lw": 0.6}
            ax.barh(y + shift, row[column] - measured, left=measured, height=0.32, **beyond)
            place = {"textcoords": "offset points", "va": "center", "fontsize": 7}
            weight = "bold" if row[column] == row["qubits"] else "normal"
            ax.annotate(str(row[column]), (row[column], y + shift), (3, 0), weight=weight, **place)
    ax.set_xlabel("qubits; the smaller number counts")
    handles = [Patch(fc=BLUE), Patch(fc=ORANGE), Patch(fc="white", ec="0.4", hatch="/////")]
    _legend(figure, handles, ["as time allows", "as memory allows", "extrapolated"])
    return figure


@_styled
def flow(table: pd.DataFrame) -> Figure:
    """Root mean square gradient of every parameter tensor from the input (left) to the loss, a panel a network."""
    networks = list(dict.fromkeys(table["network"]))
    figure, axes = _grid(len(networks), 2, 2.9, sharey=True)
    for ax, network in zip(axes, networks, strict=True):
        part = table[table["network"] == network].reset_index(drop=True)
        for stage, colour in STAGES.items():
            rows = part[part["stage"] == stage]
            ax.scatter(rows.index, rows["rms"].where(rows["rms"] > 0), s=14, color=colour, ec="black", lw=0.3)
        ax.set(yscale="log", title=network, xlabel="parameter tensor, from the input on")
    axes[0].set_ylabel("root mean square gradient")
    shown = [stage for stage in STAGES if stage in set(table["stage"])]
    _legend(figure, [Line2D([], [], ls="", marker="o", color=STAGES[s]) for s in shown], shown)
    return figure


VERDICTS = {"fail": VERMILION, "warn": ORANGE, "ok": "#CCEBDD", "skipped": "#EEEEEE"}


@_styled
def confusion(trial: pd.DataFrame, expected: dict[str, str]) -> Figure:
    """Models (rows) against checks (columns), coloured by verdict; `expected`: the check that must find a model."""
    figure = Figure(figsize=(WIDTH, 1.6 + 0.155 * len(trial)))
    ax = figure.subplots()
    for row, (name, verdicts) in enumerate(trial.iterrows()):
        for column, (check, verdict) in enumerate(verdicts.items()):
            wanted = expected.get(name) == check
            frame = {"ec": BLACK, "lw": 1.3, "zorder": 2} if wanted else {"ec": "white", "lw": 0.6}
            ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fc=VERDICTS[verdict], **frame))
    ax.set_xlim(-0.5, trial.shape[1] - 0.5)
    ax.set_ylim(len(trial) - 0.5, -0.5)
    ax.set_xticks(range(trial.shape[1]), [c.replace("_", " ") for c in trial], rotation=60, ha="left", size=6.5)
    ax.set_yticks(range(len(trial)), [name.replace("_", " ") for name in trial.index], size=6.5)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.grid(False)
    healthy = [i for i, name in enumerate(trial.index) if name not in expected]
    if healthy and healthy[0]:
        ax.axhline(healthy[0] - 0.5, color=GREY, lw=1)
    ax.spines[:].set_visible(False)
    _legend(figure, [Patch(fc=colour, ec=GREY, lw=0.4) for colour in VERDICTS.values()], list(VERDICTS))
    return figure
