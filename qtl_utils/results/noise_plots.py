"""Figures of shots, noise and devices; like `plots`, from tables alone."""

import numpy as np
import pandas as pd

from qtl_utils.results.noise_tables import DEVICE, EXACT, GATES, SHOTS, UNDER, WITHOUT
from qtl_utils.results.plots import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILION,
    Figure,
    _grid,
    _legend,
    _rows,
    _styled,
)

COLOURS = [VERMILION, BLUE, ORANGE, BLACK]
MARKERS = ["o", "^", "v", "s"]
AXES = {SHOTS: "shots per circuit", GATES: "depolarising strength after every gate"}


def _looks(models) -> dict[str, dict]:
    return {
        name: {"color": colour, "marker": marker, "ms": 5}
        for name, colour, marker in zip(dict.fromkeys(models), COLOURS, MARKERS, strict=False)
    }


@_styled
def costs(table: pd.DataFrame, value: str = "accuracy") -> Figure:
    """Accuracy (or loss: `value`) of every model against shots, against gate noise, and on every device.

    table: a row per model, `kind`, `level` and `training`, as `noise.costs` gives it. Filled: trained without noise;
    open: trained under it. A model without a circuit is a line.
    """
    factor = 100 if value == "accuracy" else 1
    looks = _looks(table["model"])
    kinds = [kind for kind in AXES if (table["kind"] == kind).any()]
    has_devices = (table["kind"] == DEVICE).any()
    figure, axes = _grid(len(kinds) + has_devices, 3, 3.4, sharey=not has_devices)
    for ax, kind in zip(axes, kinds, strict=False):
        _against_level(ax, table, kind, value, factor, looks)
    if has_devices:
        _on_devices(axes[-1], table, value, factor, looks)
    axes[0].set_ylabel("right, of 100 test samples" if value == "accuracy" else f"test {value}")
    handles = [axes[0].plot([], [], lw=1, **look)[0] for look in looks.values()]
    names = list(looks)
    if (table["training"] == UNDER).any():
        handles.append(axes[0].plot([], [], ls="", marker="o", mfc="white", color=GREY)[0])
        names.append("trained under it")
    _legend(figure, handles, names)
    return figure


def _against_level(ax, table, kind, value, factor, looks) -> None:
    for model, look in looks.items():
        own = table[table["model"] == model]
        exact = own[own["kind"] == EXACT].iloc[0]
        ax.axhline(factor * exact[value], color=look["color"], lw=0.8, ls=":" if len(own) > 1 else "-")
        for training, filled in ((WITHOUT, True), (UNDER, False)):
            rows = own[(own["kind"] == kind) & (own["training"] == training)]
            if rows.empty:
                continue
            x = rows["level"].astype(float)
            y = factor * rows[value].to_numpy(float)
            ends = np.abs(factor * rows[[f"{value}_low", f"{value}_high"]].to_numpy(float).T - y)
            style = look if filled else look | {"mfc": "white", "ls": "--"}
            ax.errorbar(x, y, np.nan_to_num(ends), capsize=2, lw=1.2, **style)
    ax.set(xscale="log", xlabel=AXES[kind])


def _on_devices(ax, table, value, factor, looks) -> None:
    devices = list(dict.fromkeys(table.loc[table["kind"] == DEVICE, "level"]))
    for n, (model, look) in enumerate(looks.items()):
        own = table[table["model"] == model]
        exact = own[own["kind"] == EXACT].iloc[0]
        ax.axvline(factor * exact[value], color=look["color"], lw=0.8, ls=":" if len(own) > 1 else "-")
        for training, filled in ((WITHOUT, True), (UNDER, False)):
            rows = own[(own["kind"] == DEVICE) & (own["training"] == training)]
            y = [devices.index(name) + 0.22 * (n - 1) + (0.09 if filled else -0.0) for name in rows["level"]]
            x = factor * rows[value].to_numpy(float)
            ends = np.abs(factor * rows[[f"{value}_low", f"{value}_high"]].to_numpy(float).T - x)
            style = look if filled else look | {"mfc": "white"}
            ax.errorbar(x, y, xerr=np.nan_to_num(ends), ls="", capsize=2, lw=1, **style)
    _rows(ax, devices)
    ax.set_xlabel("right, of 100 test samples" if value == "accuracy" else f"test {value}")


@_styled
def directions(table: pd.DataFrame) -> Figure:
    """Cosine of sampled gradients with the noise-free one against the circuits a step runs, a panel a device."""
    places = list(dict.fromkeys(table["device"]))
    methods = _looks(table["method"])
    figure, axes = _grid(len(places), 3, 2.6, sharey=True, sharex=True)
    for ax, place in zip(axes, places, strict=True):
        part = table[table["device"] == place]
        for method, look in methods.items():
            rows = part[part["method"] == method].sort_values("executions")
            ax.plot(rows["executions"], rows["cosine"], lw=1.2, **look)
        ax.axhline(part["cosine_exact"].iloc[0], color=GREEN, lw=1, ls="--")
        ax.set(xscale="log", ylim=(-0.1, 1.05), xlabel="executions a step")
        ax.set_title(place, loc="left")
    axes[0].set_ylabel("cosine with the gradient\nwithout noise")
    handles = [axes[0].plot([], [], lw=1.2, **look)[0] for look in methods.values()]
    handles.append(axes[0].plot([], [], color=GREEN, lw=1, ls="--")[0])
    _legend(figure, handles, [*methods, "as many shots as one likes"])
    return figure


@_styled
def mitigated(table: pd.DataFrame) -> Figure:
    """Error of the outputs that each mitigation leaves, and accuracy, against what it costs in executions."""
    devices = list(dict.fromkeys(table["device"]))
    names = _looks(table["mitigation"])
    figure, axes = _grid(2, 2, 3.0)
    for ax, (value, factor, text) in zip(
        axes,
        (("error", 1, "root mean square error of <Z>"), ("accuracy", 100, "right, of 100 test samples")),
        strict=True,
    ):
        for n, (name, look) in enumerate(names.items()):
            rows = table[table["mitigation"] == name]
            y = [devices.index(device) + 0.18 * (n - 1.5) for device in rows["device"]]
            ax.plot(factor * rows[value], y, ls="", **look)
        _rows(ax, devices)
        ax.set_xlabel(text)
    _legend(figure, [axes[0].plot([], [], ls="", **look)[0] for look in names.values()], list(names))
    return figure
