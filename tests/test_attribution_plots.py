"""Figures of the attribution show all of their data, and are drawn from tables alone."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from synthetic import metrics

from qtl_utils.results import attribution_plots as figures
from qtl_utils.results import conclusions

ZEROED = conclusions.ZEROED
RNG = np.random.default_rng(0)


def curve(column, values, variants=("A", ZEROED, "C")):
    level = {v: 0.6 + 0.1 * i + 0.02 * RNG.normal(size=(4, 2)) for i, v in enumerate(variants)}
    return pd.concat([metrics(level).assign(**{column: value}) for value in values], ignore_index=True)


def moved(column, values):
    rows = [
        {column: v, "stage": "circuit", "net": 0.01 * (1 + i), "path": 0.03, "nominal": 0.3}
        for v in values
        for i in (0, 1)
    ]
    return pd.DataFrame(rows)


def inside(ax, xs, ys):
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    return (left <= np.min(xs) and np.max(xs) <= right) and (low <= np.min(ys) and np.max(ys) <= high)


def test_the_sweep_shares_one_axis_and_shows_every_mean():
    factors, rates = [0.1, 1, 100], curve("factor", [0.1, 1, 100])
    figure = figures.sweep(rates, moved("factor", factors), conclusions.along(rates, "factor", "A", ZEROED))
    assert len(figure.axes) == 3 and len({ax.get_xlim() for ax in figure.axes}) == 1
    assert inside(figure.axes[0], factors, conclusions.levels(rates, ["factor", "variant"])["accuracy"])
    assert figure.axes[0].get_xscale() == "log" and inside(figure.axes[1], factors, [0.01, 0.3])


@pytest.mark.parametrize("values", [[0.1, 0.5, 1.0], [0, 2]])
def test_a_curve_shows_every_mean_and_interval(values):
    rows = curve("x", values)
    (ax,) = figures.curves(rows, "x", "share").axes
    found = conclusions.levels(rows, ["x", "variant"])
    assert inside(ax, values, [found["low"].min(), found["high"].max()]) and ax.get_xlabel() == "share"


def test_sizes_stand_above_their_movement():
    rows = [curve("size", [2, 4]).assign(varied="qubits"), curve("size", [1, 8]).assign(varied="depth")]
    travel = [moved("size", [2, 4]).assign(varied="qubits"), moved("size", [1, 8]).assign(varied="depth")]
    axes = figures.sizes(pd.concat(rows), pd.concat(travel)).axes
    assert [ax.get_xlabel() for ax in axes] == ["", "", "qubits", "layers"]
    assert inside(axes[0], [2, 4], [0.6, 0.8]) and inside(axes[1], [1, 8], [0.6, 0.8])


def test_the_ladder_draws_a_rung_per_scaling_and_kind():
    one = metrics({v: 0.7 + 0.01 * RNG.normal(size=(5, 2)) for v in ("A", ZEROED, "C", "A-zero")})
    table = pd.concat([conclusions.ladder(one).assign(scaling=name) for name in ("none", "standard")])
    axes = figures.ladder(table).axes
    assert len(axes) == 2 and [t.get_text() for t in axes[0].get_yticklabels()] == [ZEROED, "A-zero", "C"]
    assert len(axes[0].containers) == 3


def test_travel_shows_every_dot_and_the_sum_of_rates():
    rows = [{"scaling": "none", "stage": "circuit", "net": x, "path": 2 * x, "nominal": 1.0} for x in (0.01, 0.1)]
    (ax,) = figures.travel(pd.DataFrame(rows)).axes
    low, high = ax.get_xlim()
    assert low <= 0.01 and high >= 1.0 and [len(dots.get_offsets()) for dots in ax.collections] == [2, 2]


def test_the_benefit_has_a_mark_per_effect_and_metric():
    cells = {v: 0.5 + 0.01 * RNG.normal(size=(5, 2)) for v in ("neither", "angles", "classical", "both, concurrent")}
    table = conclusions.benefit(metrics(cells), ["concurrent"])
    assert [len(ax.containers) for ax in figures.benefit(table).axes] == [3, 3]


def test_eigenvalues_that_are_zero_are_not_drawn():
    spectra = pd.DataFrame({"block": "circuit", "when": "after", "number": [1, 2, 3], "eigenvalue": [1.0, 0.1, 0.0]})
    (line,) = figures.fisher(spectra).axes[0].lines
    assert list(line.get_ydata()) == [1.0, 0.1]


def test_tables_are_enough():
    code = "import sys; from qtl_utils.results import attribution_plots, conclusions; "
    code += "print([m for m in ('torch', 'pennylane') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
