"""The figures show the numbers they are given, are readable, and give the same bytes each time."""

import subprocess
import sys
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import synthetic
from IPython.core.formatters import DisplayFormatter
from matplotlib.collections import PathCollection

from qtl_utils.results import plots, runs, stats, tables

DRAW = {
    "factorial": lambda t, a, c: plots.factorial(t["metrics"]),
    "accuracy": lambda t, a, c: plots.accuracy(t["metrics"]),
    "differences": lambda t, a, c: plots.differences(c),
    "parameters": lambda t, a, c: plots.against_parameters(a),
    "seconds": lambda t, a, c: plots.against_seconds(a),
}
ONE = {
    "loss": lambda t: plots.learning_curves(t["history"], "loss"),
    "confusion": lambda t: plots.confusion(t["predictions"]),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    read = runs.read_runs(synthetic.study(tmp_path_factory.mktemp("study"), n_seeds=6))
    return {kind: frame[frame["backbone"] != "none"] for kind, frame in read.items()}


@pytest.fixture(scope="module")
def one(study):
    return {kind: frame[frame["backbone"] == "tinyvit-source"] for kind, frame in study.items()}


@pytest.fixture(scope="module", params=[*DRAW, *ONE, *(f"one {name}" for name in DRAW)])
def figure(request, study, one):
    name = request.param
    if name in ONE:
        drawn = ONE[name](one)
        drawn.draw_without_rendering()
        return drawn
    read = one if name.startswith("one ") else study
    drawn = DRAW[name.removeprefix("one ")](read, tables.accuracy(read), tables.comparisons(read))
    drawn.draw_without_rendering()
    return drawn


def test_features_in_the_place_of_images_are_drawn_as_points():
    from qtl_utils.data.datasets import load_dataset

    drawn = plots.samples(load_dataset("ants_bees")).axes[0].collections
    assert [len(dots.get_offsets()) for dots in drawn] == [193, 204]


def test_everything_lies_inside_the_figure(figure):
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert box.x0 >= -1 and box.y0 >= -1
    assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1


def test_tick_labels_do_not_overlap(figure):
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            boxes = [text.get_window_extent() for text in axis.get_ticklabels() if text.get_text()]
            visible = [box for box in boxes if box.width > 0 and box.height > 0]
            assert not any(first.overlaps(second) for first, second in pairwise(visible))


def test_no_letters_are_too_small_for_print(figure):
    sizes = [text.get_fontsize() for ax in figure.axes for text in (ax.title, *ax.texts, *ax.get_xticklabels())]
    assert min(sizes) >= 7


def test_the_same_figure_gives_the_same_bytes(one, tmp_path):
    for name in ("one", "two"):
        plots.save(plots.accuracy(one["metrics"]), tmp_path, name)
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_svg_keeps_text_as_text_and_no_date(one, tmp_path):
    plots.save(plots.accuracy(one["metrics"]), tmp_path, "figure")
    svg = (tmp_path / "figure.svg").read_text()
    assert ">C-matched-relu</text>" in svg and "dc:date" not in svg
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure.png", "figure.svg"]


def test_every_variant_looks_different_and_the_users_own_too():
    own = [*runs.VARIANT_ORDER, "mine", "yours"]
    looks = {(plots.look(v, own)["color"], plots.look(v, own)["marker"]) for v in own}
    assert len(looks) == len(own)


def test_factorial_draws_the_means(one):
    ax = plots.factorial(one["metrics"]).axes[0]
    means = stats.summary(one["metrics"]).set_index("variant")["mean"]
    lines = {line.get_label(): line.get_ydata() for line in ax.lines if not line.get_label().startswith("_")}
    assert list(lines["linear head"]) == [means["C"], means["B"]]
    assert list(lines["quantum circuit"]) == [means["A"], means["A-joint"]]
    assert ax.get_xlabel().startswith("interaction ")


def test_factorial_with_a_missing_cell_says_so(one):
    ax = plots.factorial(one["metrics"].query("variant != 'B'")).axes[0]
    assert ax.get_xlabel() == "not run: B"


def test_accuracy_draws_a_dot_per_seed(one):
    ax = plots.accuracy(one["metrics"]).axes[0]
    dots = [c.get_offsets()[:, 0] for c in ax.collections if isinstance(c, PathCollection)]
    wanted = one["metrics"].query("subset == 'test' and epoch_kind == 'last' and variant == 'A'")["accuracy"]
    assert np.allclose(np.sort(dots[0]), np.sort(wanted))


def test_differences_fill_only_the_family(one):
    ax = plots.differences(tables.comparisons(one)).axes[0]
    fills = [line.get_markerfacecolor() for line in ax.lines if line.get_marker() == "o"]
    assert fills.count("white") == len(fills) - 3  # C, C-matched, A-none; A-surrogate was not run
    assert "not run" in [text.get_text() for text in ax.texts]
    assert ax.get_yticklabels()[0].get_text() == "A − C" and ax.yaxis_inverted()


def test_the_family_has_a_line_per_group_and_a_dot_per_comparison(study):
    comparisons = tables.comparisons(study)
    ax = plots.family(comparisons).axes[0]
    ran = comparisons[comparisons["family"] & comparisons["value"].notna()]
    assert len(ax.get_yticklabels()) == ran.groupby(runs.GROUP).ngroups
    drawn = sorted(x for line in ax.lines if line.get_marker() not in ("None", "|", "_", "") for x in line.get_xdata())
    assert np.allclose(drawn, sorted(100 * ran["value"]))


def test_confusion_rows_are_percent_of_the_true_class(one):
    ax = plots.confusion(one["predictions"]).axes[0]
    shown = np.asarray(ax.collections[0].get_array()).reshape(3, 3)
    right = one["predictions"].query("variant == 'A' and label == '5'")
    assert np.allclose(shown.sum(axis=1), 100)
    assert shown[0, 0] == pytest.approx(100 * np.average(right["prediction"] == "5", weights=right["n"]))


def test_learning_curves_draw_the_median_over_seeds(one):
    ax = plots.learning_curves(one["history"], "loss").axes[0]
    rows = one["history"].query("variant == 'A' and subset == 'validation'")
    drawn = next(line for line in ax.lines if line.get_label() == "validation").get_ydata()
    assert np.allclose(drawn, rows.groupby("epoch")["loss"].median())


def test_learning_curves_show_the_test_set_where_there_is_no_validation(one):
    ax = plots.learning_curves(one["history"].replace("validation", "test"), "loss").axes[0]
    assert "test" in [line.get_label() for line in ax.lines]


def test_only_equal_parameter_counts_are_moved(one):
    x = tables.accuracy(one).query("n > 0").set_index("variant")["trainable"].astype(float)
    moved = plots._side_by_side(x, 0.05)
    assert moved["C"] == pytest.approx(1026) and moved["C-wide"] == pytest.approx(263_682)
    assert moved.is_unique and (np.abs(np.log10(moved / x)) < 0.2).all()
    assert plots._side_by_side(x, 0).to_numpy() == pytest.approx(x.to_numpy())


def test_a_notebook_shows_a_figure_as_a_picture(one):
    formatted, _ = DisplayFormatter().format(plots.accuracy(one["metrics"]))
    assert formatted["image/png"].startswith(b"\x89PNG")


def test_nothing_to_draw_is_no_figure_and_no_file(tmp_path):
    figure = plots.factorial(runs.no_runs()["metrics"])
    plots.save(figure, tmp_path, "factorial")
    assert figure is None and not list(tmp_path.iterdir())


def test_figures_leave_no_open_window(one):
    plots.accuracy(one["metrics"])
    assert plt.get_fignums() == []


def test_results_need_neither_torch_nor_pennylane():
    code = "import sys; from qtl_utils.results import plots, runs, stats, tables, verify; "
    code += "print([m for m in ('torch', 'pennylane') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
