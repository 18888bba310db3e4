"""Tidy results -> figures. Each function returns a matplotlib Figure, or None where there is nothing to draw.

Colours are those of Okabe & Ito (2008), told apart by colour-blind readers; markers differ as well, for print.
"""

import functools
import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.figure
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from qtl_utils.results import stats
from qtl_utils.results.runs import VARIANT_ORDER, groups, in_order, title
from qtl_utils.study.paths import atomic

BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
GREY = "#999999"
_COLOURS = [VERMILION, BLACK, BLUE, ORANGE, SKY, SKY, GREEN, PURPLE, PURPLE, YELLOW, GREY, GREY]
_MARKERS = ["o", "s", "^", "D", "v", "<", "P", "X", ">", "h", "*", "p"]
LOOKS = dict(zip(VARIANT_ORDER, zip(_COLOURS, _MARKERS, strict=True), strict=True))
_OWN_MARKERS = ["d", "H", "8", "."]  # a user's own variants: green, told apart by marker
WIDTH = 9.0  # inches
_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8}  # behind text on lines
STYLE = {
    **sns.axes_style("whitegrid"),
    **sns.plotting_context("paper"),
    "font.family": ["DejaVu Sans"],
    "axes.edgecolor": "0.4",
    "grid.color": "0.9",
    "axes.titlesize": 9,
    "figure.constrained_layout.use": True,
}


class Figure(mpl.figure.Figure):
    """A matplotlib figure that a notebook shows wherever it is displayed, without pyplot.

    It is laid out once, when it is first saved or shown: working out where things go takes longer than drawing them.
    """

    def savefig(self, *args, **options):
        if self.get_layout_engine() is not None:
            self.draw_without_rendering()
            self.set_layout_engine(None)  # nothing moves any more
        super().savefig(*args, **options)

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=100, metadata={"Software": None})
        return png.getvalue()


def _styled(make: Callable[..., Figure]) -> Callable[..., Figure | None]:
    @functools.wraps(make)
    def styled(*args, **options):
        if isinstance(args[0], pd.DataFrame) and args[0].empty:
            return None
        with mpl.rc_context(STYLE):
            return make(*args, **options)

    return styled


def look(variant: str, own: Sequence[str] = ()) -> dict[str, str]:
    """Colour and marker of a variant, the same in every figure; `own` are the unknown variants in their order."""
    if variant in LOOKS:
        colour, marker = LOOKS[variant]
    else:
        position = list(own).index(variant) if variant in own else 0
        colour = GREEN
        marker = _OWN_MARKERS[position % len(_OWN_MARKERS)]
    return {"color": colour, "marker": marker, "markeredgecolor": "black", "markeredgewidth": 0.5}


def label(key: Sequence[str]) -> str:
    """The panel title of one group: data set and backbone, then settings and protocol."""
    return title(key).replace(" (", "\n").removesuffix(")")


def save(figure: Figure | None, folder: Path, name: str) -> None:
    """Writes `folder`/NAME.png (150 dpi) and NAME.svg; the same figure gives the same bytes, None nothing.

    What does not belong into file names, such as spaces, becomes '-'.
    """
    if figure is None:
        return
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    with mpl.rc_context({"svg.hashsalt": "qtl", "svg.fonttype": "none"}):
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
            with atomic(folder / f"{name}{suffix}") as part:
                figure.savefig(part, format=suffix[1:], dpi=150, metadata=metadata)


def _grid(n: int, columns: int, height: float, **options) -> tuple[Figure, list[Axes]]:
    """A figure with n axes in rows of `columns`, each row `height` inches; the rest of the last row is empty."""
    width = WIDTH / columns
    columns = min(n, columns)
    rows = math.ceil(n / columns)
    figure = Figure(figsize=(max(columns * width, 0.55 * WIDTH), rows * height))
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for i in range(n, len(axes)):
        axes[i].remove()
        axes[i - columns].tick_params(labelbottom=True)
    return figure, list(axes[:n])


def _by_group(frame: pd.DataFrame, height: float, columns: int = 3, **options):
    """A panel per group: the figure and (rows, axes) for each."""
    parts = groups(frame)
    figure, axes = _grid(len(parts), columns, height, **options)
    for (key, _), ax in zip(parts, axes, strict=True):
        ax.set_title(label(key), loc="left")
    return figure, [(part, ax) for (_, part), ax in zip(parts, axes, strict=True)]


def _rows(ax: Axes, names: Sequence[str]) -> None:
    """Text labels down the y axis, the first on top."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")


def _errors(row: pd.Series, value: str) -> np.ndarray:
    """Lengths below and above, (2, 1), for errorbar; zero where there is no interval."""
    return np.nan_to_num([[row[value] - row["low"]], [row["high"] - row[value]]]).clip(0)


def _test(metrics: pd.DataFrame) -> pd.DataFrame:
    return metrics[(metrics["subset"] == "test") & (metrics["epoch_kind"] == "last")]


@_styled
def factorial(metrics: pd.DataFrame) -> Figure:
    """Last-epoch test accuracy of a frozen and a trained backbone under both heads: parallel lines, no interaction."""
    figure, panels = _by_group(metrics, 3.3, sharey=metrics["dataset"].nunique() == 1)
    heads = {"linear head": (("C", "B"), -0.04, "--"), "quantum circuit": (("A", "A-joint"), 0.04, "-")}
    for part, ax in panels:
        means = stats.summary(part).set_index("variant")
        for head, (cells, shift, line) in heads.items():
            points = [(x + shift, means.loc[v]) for x, v in enumerate(cells) if v in means.index]
            xs = [x for x, _ in points]
            ys = [row["mean"] for _, row in points]
            ax.plot(xs, ys, color="0.3", lw=1.2, ls=line, label=head, zorder=1)
            for x, row in points:
                ax.errorbar(x, row["mean"], _errors(row, "mean"), capsize=3, ms=7, **look(row.name))
                side = {"ha": "left" if shift > 0 else "right", "va": "center", "bbox": _PAPER}
                offset = (math.copysign(8, shift), 0)
                ax.annotate(row.name, (x, row["mean"]), offset, textcoords="offset points", **side)
        ax.set_xticks([0, 1], ["frozen backbone", "full training"])
        ax.set_xlim(-0.45, 1.6)
        ax.set_xlabel(_interaction(part))
        ax.grid(visible=False, axis="x")
    panels[0][1].set_ylabel("test accuracy, last epoch")
    _legend(figure, *panels[0][1].get_legend_handles_labels())
    return figure


def _interaction(metrics: pd.DataFrame) -> str:
    row = stats.factorial(metrics).set_index("effect").loc["interaction"]
    if row["note"]:
        return row["note"]
    value, low, high = (100 * row[name] for name in ("value", "low", "high"))
    return f"interaction {value:+.1f} points [{low:+.1f}, {high:+.1f}]"


@_styled
def accuracy(metrics: pd.DataFrame) -> Figure:
    """Last-epoch test accuracy per group and variant: a dot per seed, the mean with its interval on top."""
    order = in_order(metrics["variant"])
    figure, panels = _by_group(metrics, 0.9 + 0.27 * len(order), sharey=True)
    for part, ax in panels:
        _rows(ax, order)
        for _, row in stats.summary(part).iterrows():
            y = order.index(row["variant"])
            dots = _test(part).query("variant == @row.variant")["accuracy"]
            style = look(row["variant"], order)
            jitter = np.linspace(-0.28, 0.28, len(dots)) if len(dots) > 1 else 0
            ax.scatter(dots, y + jitter, s=8, color=style["color"], alpha=0.5, lw=0.3, ec="0.2")
            ax.errorbar(row["mean"], y, xerr=_errors(row, "mean"), ecolor="black", capsize=3, ms=7, **style)
        ax.set_xlabel("test accuracy, last epoch")
    return figure


@_styled
def differences(comparisons: pd.DataFrame) -> Figure:
    """Paired differences a - b in points of test accuracy with intervals; filled = the pre-specified family.

    The shaded zone is the +-2 points inside which two variants count as equivalent.
    """
    rows = comparisons[comparisons["metric"] == "accuracy"].copy()
    rows["pair"] = rows["a"] + " − " + rows["b"]
    order = list(dict.fromkeys([*rows.loc[rows["family"], "pair"], *rows["pair"]]))
    figure, panels = _by_group(rows, 1.1 + 0.25 * len(order), sharey=True)
    for part, ax in panels:
        _rows(ax, order)
        ax.axvspan(-100 * stats.BOUND, 100 * stats.BOUND, color=SKY, alpha=0.25, lw=0)
        ax.axvline(0, color="black", lw=1)
        for _, row in part.iterrows():
            y = order.index(row["pair"])
            if np.isnan(row["value"]):
                ax.annotate("not run" if row["not_run"] else "not a number", (0, y), **_NOTE)
                continue
            fill = {"mfc": BLUE if row["family"] else "white", "color": BLUE, "marker": "o"}
            ax.errorbar(100 * row["value"], y, xerr=100 * _errors(row, "value"), capsize=3, ms=6, **fill)
        ax.set_xlabel("difference, points of accuracy")
    kinds = {"pre-specified, Holm-adjusted": BLUE, "other, not tested": "white"}
    handles = [Line2D([], [], marker="o", color=BLUE, mfc=colour) for colour in kinds.values()]
    _legend(figure, [*handles, Patch(color=SKY, alpha=0.25)], [*kinds, "within 2 points"])
    return figure


_NOTE = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 7, "color": "0.4"}


@_styled
def family(comparisons: pd.DataFrame) -> Figure:
    """A minus each of the pre-specified others, a line per group: points of test accuracy, intervals over splits.

    The shaded zone is the +-2 points inside which two variants count as equivalent.
    """
    rows = comparisons[comparisons["family"] & comparisons["value"].notna()]
    parts = groups(rows)
    figure, (axes,) = _grid(1, 1, 1.0 + 0.5 * len(parts))
    _rows(axes, [label(key) for key, _ in parts])
    axes.axvspan(-100 * stats.BOUND, 100 * stats.BOUND, color=SKY, alpha=0.25, lw=0)
    axes.axvline(0, color="black", lw=1)
    for number, (_, part) in enumerate(parts):
        for _, row in part.iterrows():
            y = number + 0.18 * (stats.FAMILY.index(row["b"]) - (len(stats.FAMILY) - 1) / 2)
            axes.errorbar(100 * row["value"], y, xerr=100 * _errors(row, "value"), capsize=2, ms=5, **look(row["b"]))
    axes.set_xlabel("A minus the other, points of test accuracy after the last epoch")
    shown = [b for b in stats.FAMILY if b in set(rows["b"])]
    handles = [Line2D([], [], ls="", **look(b)) for b in shown]
    _legend(figure, [*handles, Patch(color=SKY, alpha=0.25)], [*[f"A − {b}" for b in shown], "within 2 points"])
    return figure


@_styled
def learning_curves(history: pd.DataFrame, metric: str) -> Figure:
    """One group's "loss" or "accuracy" per epoch and variant: median over seeds, band of their middle 80 %.

    Beside training the validation set is drawn, or the test set where there is none (`as_published`).
    """
    order = in_order(history["variant"])
    subsets = set(history["subset"])
    held_out = "validation" if "validation" in subsets else "test"
    figure, axes = _grid(len(order), 4, 1.9, sharex=True, sharey=True)
    for ax, variant in zip(axes, order, strict=True):
        ax.set_title(variant, loc="left")
        for subset, colour, line in (("train", ORANGE, "--"), (held_out, BLUE, "-")):
            rows = history[(history["variant"] == variant) & (history["subset"] == subset)]
            seeds = rows.groupby("epoch")[metric]
            low, middle, high = (seeds.quantile(q) for q in (0.1, 0.5, 0.9))
            ax.plot(middle.index, middle, color=colour, ls=line, label=subset)
            ax.fill_between(middle.index, low, high, color=colour, alpha=0.25, lw=0)
    axes[0].xaxis.set_major_locator(MaxNLocator(5, integer=True))
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel(metric, fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    return figure


@_styled
def confusion(predictions: pd.DataFrame) -> Figure:
    """One group's confusion matrices per variant, all seeds together: percent of each true class."""
    order = in_order(predictions["variant"])
    classes = sorted(set(predictions["label"]))
    figure, axes = _grid(len(order), 4, 2.3, sharex=True, sharey=True)
    for i, (ax, variant) in enumerate(zip(axes, order, strict=True)):
        rows = predictions[predictions["variant"] == variant]
        counts = rows.pivot_table(index="label", columns="prediction", values="n", aggfunc="sum", fill_value=0)
        counts = counts.reindex(index=classes, columns=classes, fill_value=0)
        share = 100 * counts.div(counts.sum(axis=1), axis=0)
        numbers = {"annot": len(classes) <= 6, "fmt": ".0f", "annot_kws": {"fontsize": 7}}
        sns.heatmap(share, ax=ax, vmin=0, vmax=100, cmap="Blues", cbar=False, square=True, **numbers)
        ax.set(xlabel="", ylabel="")
        ax.set_title(variant, loc="left")
        ax.tick_params(axis="y", rotation=0, left=False, labelleft=i % 4 == 0)
        ax.tick_params(axis="x", rotation=90 if len("".join(classes)) > 16 else 0, bottom=False)
    figure.supxlabel("predicted class", fontsize=9)
    figure.supylabel("true class", fontsize=9)
    return figure


def against_parameters(accuracy: pd.DataFrame) -> Figure:
    """Accuracy against trainable parameters (log) from tables.accuracy; equal counts are drawn side by side."""
    return _against(accuracy, "trainable", "trainable parameters", step=0.05)


def against_seconds(accuracy: pd.DataFrame) -> Figure:
    """Accuracy against the seconds of a run with a single seed (log), from tables.accuracy."""
    return _against(accuracy, "one_seed_seconds", "seconds of a run with one seed", step=0)


@_styled
def _against(table: pd.DataFrame, x: str, text: str, step: float) -> Figure:
    table = table[(table["n"] > 0) & table[x].notna()]
    order = in_order(table["variant"])
    figure, panels = _by_group(table, 3.0, columns=2)
    for part, ax in panels:
        places = _side_by_side(part[x].astype(float), step)
        for (_, row), place in zip(part.iterrows(), places, strict=True):
            style = look(row["variant"], order)
            ax.errorbar(place, row["accuracy"], _errors(row, "accuracy"), ecolor="0.6", lw=1, ms=7, **style)
        ax.set_xscale("log")
        if places.max() < 1000 * places.min():
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel(text)
    for _, ax in panels[::2]:
        ax.set_ylabel("test accuracy, last epoch")
    handles = [Line2D([], [], ls="", ms=7, **look(variant, order)) for variant in order]
    _legend(figure, handles, order)
    return figure


def _side_by_side(x: pd.Series, step: float, near: float = 0.05) -> pd.Series:
    """`x` with values within `near` decades of the next spread `step` decades apart around their middle."""
    ranked = np.log10(x).sort_values(kind="stable")
    within = ranked.groupby((ranked.diff() > near).cumsum())
    spread = (within.cumcount() - (within.transform("size") - 1) / 2) * step
    middle = within.transform("mean") if step else ranked
    return (10 ** (middle + spread)).reindex(x.index)


@_styled
def samples(dataset, per_class: int = 6) -> Figure:
    """The first images of every class of a `data.Dataset`, a row per class; or its points, coloured by class.

    Features in the place of images are drawn as their first two principal components.
    """
    if dataset.load is None:
        points = dataset.points if dataset.points is not None else _principal(*dataset.features.values())
        figure = Figure(figsize=(WIDTH / 2, WIDTH / 2.4))
        ax = figure.subplots()
        for label, (name, colour) in enumerate(zip(dataset.classes, _COLOURS[2:], strict=False)):
            ax.scatter(*points[dataset.labels == label, :2].T, s=4, color=colour, label=name)
        ax.legend(markerscale=3, frameon=True)
        return figure
    n_classes = len(dataset.classes)
    figure = Figure(figsize=(1.1 * per_class + 0.8, 1.15 * n_classes))
    rows = figure.subplots(n_classes, per_class, squeeze=False)
    for label, row in enumerate(rows):
        index = np.flatnonzero(dataset.labels == label)[:per_class]
        for ax, i in zip(row, [*index, *[None] * per_class], strict=False):
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            ax.axis("on" if i is not None else "off")
            if i is not None:
                ax.imshow(dataset.load(i), aspect="equal")
        row[0].set_ylabel(dataset.classes[label])
    return figure


def _principal(features: np.ndarray) -> np.ndarray:
    """The first two principal components (N, 2) of features (N, F)."""
    centred = features - features.mean(0)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T


@_styled
def image_sizes(dataset) -> Figure:
    """Width against height, in pixels, of the images of a `data.Dataset` as they are stored."""
    figure = Figure(figsize=(WIDTH / 2, WIDTH / 2.6))
    ax = figure.subplots()
    for label, (name, colour) in enumerate(zip(dataset.classes, [BLUE, ORANGE, GREEN, PURPLE, SKY] * 20, strict=False)):
        ax.scatter(*dataset.sizes[dataset.labels == label].T, s=12, color=colour, alpha=0.5, label=name)
    ax.set(xlabel="width, pixels", ylabel="height, pixels")
    ax.legend(frameon=True)
    return figure


def _legend(figure: Figure, handles: Sequence, names: Sequence[str]) -> None:
    """A legend below the panels in as many columns as the figure's width holds."""
    fits = int(figure.get_figwidth() / (0.6 + 0.08 * max(map(len, names))))  # inches per handle and letter
    figure.legend(handles, names, loc="outside lower center", ncols=min(max(fits, 1), len(names)), frameon=False)
