"""Figures of the published results: they show what the tables say and lie inside their frame."""

import numpy as np
import pandas as pd
import pytest
from test_protocol_steps import LAST_ONES, TEST_ONES, scores
from test_published_results import accuracies

from qtl_utils.results import protocol_steps, published_plots
from qtl_utils.results.published_results import LAST, ON_TEST


def models():
    other = scores(last=[0.5] * 6, test=TEST_ONES).assign(model="C")
    return pd.concat([scores(last=LAST_ONES, test=TEST_ONES), other])


def curves():
    epochs = np.tile(np.arange(1, 5), 6)
    rows = {"model": np.repeat(["A", "C"], 12), "seed": np.repeat([0, 1, 2] * 2, 4), "epoch": epochs}
    return pd.DataFrame(rows | {"accuracy": 0.5 + epochs / 10})


def steps():
    made = protocol_steps.between_models(models(), "A", "C", [LAST, ON_TEST])
    return pd.DataFrame(made).assign(group=["one", "another"])


def modes():
    made = models()[models()["protocol"] == LAST].assign(model="C")
    return made.assign(protocol=np.repeat(["eval mode", "train mode"], 6))


DRIFT = pd.DataFrame({"split": [0, 0, 1, 1], "epoch": [1, 2] * 2, "training": 0.5, "testing": [0.1, 0.2, 0.1, 0.3]})
ANGLES = pd.DataFrame({"kind": ["used by the circuit"] * 3 + ["never used"] * 3, "angle": np.linspace(-0.03, 0.02, 6)})
DRAW = {
    "plane": lambda: published_plots.plane(accuracies(tasks=("moons", "square", "spirals 2.0 turns"))),
    "steps": lambda: published_plots.steps(steps()),
    "lead": lambda: published_plots.lead(models(), "A", "C", {ON_TEST: 0.0131}),
    "curves": lambda: published_plots.curves(curves(), [0.6, 0.9, 0.8, 0.7]),
    "batchnorm": lambda: published_plots.batchnorm(DRIFT, modes()),
    "pairings": lambda: published_plots.pairings(protocol_steps.pairings(148, 146, 153)),
    "angles": lambda: published_plots.angles(ANGLES, 0.01),
}


@pytest.mark.parametrize("name", DRAW)
def test_everything_lies_inside_the_figure_and_is_labelled(name):
    figure = DRAW[name]()
    figure.draw_without_rendering()
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert min(box.x0, box.y0) >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
    assert any(ax.get_xlabel() for ax in figure.axes)


def lines(ax):
    return [line.get_xydata() for line in ax.lines]


def test_the_ring_is_the_published_seed_and_the_line_the_published_number():
    ax = published_plots.plane(accuracies()).axes[0]
    rings = [xy[0, 0] for xy in lines(ax) if len(xy) == 1]
    published = [xy[0, 0] for xy in lines(ax) if len(xy) == 2 and xy[0, 1] != xy[1, 1]]
    rounded = [xy[:, 0].tolist() for xy in lines(ax) if len(xy) == 2 and xy[0, 1] == xy[1, 1]]
    assert rounded[0] == pytest.approx([0.78, 0.8]) and rounded[2] == pytest.approx([0.9, 0.9])
    assert rings == pytest.approx([0.8, 0.79, 0.9, 0.89])
    assert published == pytest.approx([0.975, 0.975, 0.965, 0.965])


def test_differences_are_drawn_in_points():
    axes = published_plots.steps(steps()).axes
    assert axes[0].lines[1].get_xdata() == pytest.approx([10.0])


def test_the_lead_counts_every_training():
    axes = published_plots.lead(models(), "A", "C", {}).axes
    assert [sum(bar.get_height() for bar in ax.patches) for ax in axes] == [6, 6]


def test_the_reported_epoch_is_the_highest_of_the_published_curve():
    ax = published_plots.curves(curves(), [0.6, 0.9, 0.8, 0.7]).axes[0]
    assert lines(ax)[-1].tolist() == [[2, 0.9]]
