"""The answer of a study on one screen: two plain sentences and one figure, from its comparisons alone."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from qtl_utils.results import plots, stats
from qtl_utils.results.runs import GROUP
from qtl_utils.study.names import NO_BACKBONE

ENDS = {  # verdict -> in words, colour and marker
    "higher": ("A is right more often", plots.GREEN, "^"),
    "equivalent": ("equally often", plots.BLUE, "s"),
    "not distinguishable": ("we cannot tell", plots.GREY, "o"),
    "lower": ("A is right less often", plots.VERMILION, "v"),
}
UNTESTED = ("not tested", plots.GREY, "x")
CAPTION = (
    "How many more images of 100 the model with the circuit (A) gets right than the same network with a linear layer "
    "(C): a line for each data set, backbone and kind of settings, with its 95 % interval."
)


def read(file: Path) -> pd.DataFrame:
    """The table of comparisons of a study; a backbone called 'none' and settings called '2019' stay text."""
    return pd.read_csv(file, keep_default_na=False, na_values=[""], dtype=dict.fromkeys(GROUP, str))


def sentences(comparisons: pd.DataFrame) -> list[str]:
    """Whether the circuit helps, for a reader who knows no statistics: two sentences, or one where nothing was tested.

    comparisons: the table of that name, as `tables.comparisons` makes it.
    """
    n = comparisons.loc[comparisons["family"], "verdict"].value_counts()
    more, same, unknown, less = (int(n.get(end, 0)) for end in ENDS)
    if not (tested := more + same + unknown + less):
        return [
            "This study cannot say: no model with the circuit was compared with one without it over several splits."
        ]
    told = _first(more, less, same, tested)
    rest = [f"in {same} both were right equally often (to within 2 of 100 images)"] if same else []
    rest += [f"in {unknown} this study is too small to tell"] if unknown else []
    if not rest:
        return [told, f"Counted were all {tested} comparisons that were fixed beforehand."]
    return [told, f"{' and '.join(rest)}.".capitalize()]


def _first(more: int, less: int, same: int, tested: int) -> str:
    model = "the model with the quantum circuit"
    of = f"{tested} comparisons with models without it" if tested > 1 else "the one comparison with a model without it"
    if more and less:
        return f"It depends: of {of}, {model} was right more often in {more} and less often in {less}."
    if more:
        return f"Yes, at times: {model} was right more often in {more} of {of}, and less often in none."
    if less or same:
        fewer = f", and less often in {less}" if less else ""
        return f"No: {model} was right more often in none of {of}{fewer}."
    return f"We cannot tell: {model} was right neither more nor less often in any of {of}."


def shown(comparisons: pd.DataFrame) -> pd.DataFrame:
    """A minus C, a row per data set, backbone and settings that have both and a backbone."""
    rows = comparisons.query("a == 'A' and b == 'C' and metric == 'accuracy'")
    rows = rows[rows["backbone"] != NO_BACKBONE]
    return rows[rows["value"].notna()].reset_index(drop=True)


def figure(comparisons: pd.DataFrame, limits: tuple[float, float] | None = None) -> plots.Figure | None:
    """A minus C in images of 100 with intervals, coloured by what the test said; readable on a telephone.

    limits: of the horizontal axis, where two figures are to be compared. None where the study has no A and C behind a
    backbone.
    """
    rows = shown(comparisons)
    return _drawn(rows, limits) if len(rows) else None


def limits(*comparisons: pd.DataFrame) -> tuple[float, float]:
    """Ends of a horizontal axis that holds A minus C of several studies, in images of 100."""
    rows = pd.concat([shown(each) for each in comparisons])
    low, high = 100 * rows[["value", "low"]].min(axis=None), 100 * rows[["value", "high"]].max(axis=None)
    return min(low, -3.0) - 1, max(high, 3.0) + 1


@plots._styled
def _drawn(rows: pd.DataFrame, limits: tuple[float, float] | None) -> plots.Figure:
    drawn = plots.Figure(figsize=(5, 1.3 + 0.36 * len(rows)))  # 360 px hold 5 inches with letters of 10 px
    ax = drawn.subplots()
    ax.axvspan(-100 * stats.BOUND, 100 * stats.BOUND, color=plots.SKY, alpha=0.25, lw=0)
    ax.axvline(0, color="black", lw=1)
    for y, row in rows.iterrows():
        _, colour, marker = ENDS.get(row["verdict"], UNTESTED)
        errors = np.nan_to_num([[row["value"] - row["low"]], [row["high"] - row["value"]]]).clip(0)
        ax.errorbar(100 * row["value"], y, xerr=100 * errors, color=colour, marker=marker, ms=6, capsize=3, lw=1.8)
        ax.text(0.01, y - 0.3, _label(row), transform=ax.get_yaxis_transform(), va="center", fontsize=8)
    ax.set_ylim(len(rows) - 0.5, -0.8)
    ax.set_yticks([])
    ax.set_xlim(limits)
    ax.set_xlabel("images of 100 that A gets right more (right) or less (left) than C", fontsize=9)
    ends = [end for end in (*ENDS.values(), UNTESTED) if end[0] in set(_ends(rows))]
    handles = [Line2D([], [], color=colour, marker=marker, ls="") for _, colour, marker in ends]
    handles += [Patch(color=plots.SKY, alpha=0.25)]
    drawn.legend(
        handles, [*(end[0] for end in ends), "within 2 of 100"], loc="outside upper left", ncols=2, frameon=False
    )
    return drawn


def _label(row: pd.Series) -> str:
    """Which data set, backbone and settings: `digits, tiny_vit, tuned`."""
    return ", ".join([row["dataset"], row["backbone"], row["settings"]])


def _ends(rows: pd.DataFrame) -> list[str]:
    return [ENDS.get(verdict, UNTESTED)[0] for verdict in rows["verdict"]]


def png(drawn: plots.Figure) -> bytes:
    """A figure as a PNG file that is sharp on a telephone."""
    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=160, metadata={"Software": None})
    return file.getvalue()


def in_words(comparisons: pd.DataFrame) -> str:
    """What `figure` shows, for those who do not see it: how often A minus C ended how, and between which values."""
    rows = shown(comparisons).assign(end=lambda frame: _ends(frame))
    parts = []
    for end, _, _ in (*ENDS.values(), UNTESTED):
        values = 100 * rows.loc[rows["end"] == end, "value"]
        if len(values):
            between = dict.fromkeys(f"{round(value, 1) + 0.0:+.1f}" for value in (values.min(), values.max()))
            parts.append(f"{end} in {len(values)} ({' to '.join(between)})")
    return f"A minus C in points of accuracy, {len(rows)} settings: {'; '.join(parts)}"
