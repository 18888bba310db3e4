"""Drawings of what follows what: parts of models, steps of a study. No torch, no PennyLane."""

import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.patches import FancyBboxPatch, Patch

from qtl_utils.results.plots import VERMILION, WIDTH, Figure, _legend, _styled

ROLES = {  # what a part is -> its colour
    "data": "#EEEEEE",
    "frozen": "#CFE3F3",
    "trained": "#FBE7B8",
    "circuit, trained": "#F6CDB8",
    "computed": "#FFFFFF",
    "result": "#CCEBDD",
}
LETTERS = {False: 15, True: 11}  # of a line in a box, and in a small one
BOX = 0.72  # width of a box, in steps from box to box
HEIGHT = 0.62  # of a box, in steps from row to row


@_styled
def chain(rows: Mapping[str, Sequence[tuple[str, str]]], gradient: bool = False) -> Figure:
    """Boxes in a row, each (text, role) with a role of ROLES, and arrows from one to the next; a row a name.

    `gradient`: red arrows go back from the last box as far as something is trained.
    """
    longest = max(len(parts) for parts in rows.values())
    left = 0.35 + 0.075 * max(map(len, rows))  # inches for the names of the rows
    figure = Figure(figsize=(WIDTH, 0.55 + 0.85 * len(rows)))
    ax = figure.subplots()
    ax.set_axis_off()
    step = (WIDTH - left) / longest
    ax.set_xlim(-left / step - BOX / 2, longest - 0.5)
    ax.set_ylim(-len(rows) + 0.45, 0.55)
    for y, (name, parts) in enumerate(rows.items()):
        ax.text(-BOX / 2 - 0.08, -y, name, ha="right", va="center", fontweight="bold")
        for x, (text, role) in enumerate(parts):
            _box(ax, x, -y, text, ROLES[role], small=longest > 6)
            if x:
                _arrow(ax, x - 1 + BOX / 2, x - BOX / 2, -y)
        if gradient:
            _gradient(ax, [role for _, role in parts], -y)
    used = [role for role in ROLES if any(role == part[1] for parts in rows.values() for part in parts)]
    handles = [Patch(facecolor=ROLES[role], edgecolor="0.4") for role in used]
    _legend(figure, handles, used)
    return figure


def _box(ax, x: float, y: float, text: str, colour: str, small: bool) -> None:
    corner = (x - BOX / 2, y - HEIGHT / 2)
    style = "round,pad=0,rounding_size=0.06"
    ax.add_patch(FancyBboxPatch(corner, BOX, HEIGHT, boxstyle=style, facecolor=colour, edgecolor="0.4", lw=0.8))
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, LETTERS[small])]
    ax.text(x, y, "\n".join(lines), ha="center", va="center", fontsize=7 if small else 8, linespacing=1.05)


def _arrow(ax, start: float, end: float, y: float, colour: str = "0.3", **style) -> None:
    ax.annotate("", (end, y), (start, y), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 0.9, **style})


def _gradient(ax, roles: Sequence[str], y: float) -> None:
    """Backwards from the last box to the first one that learns."""
    learns = [x for x, role in enumerate(roles) if role in ("trained", "circuit, trained")]
    for x in range(len(roles) - 1, min(learns, default=len(roles) - 1), -1):
        _arrow(ax, x - BOX / 2, x - 1 + BOX / 2, y - 0.2, VERMILION, ls="-")
