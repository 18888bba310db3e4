"""Drawings of models and steps: every part is there, in its role, and inside the figure."""

import pytest

from qtl_utils.circuits.ansatze import ANSATZE
from qtl_utils.circuits.drawing import draw_circuit
from qtl_utils.models.heads import VARIANTS, HeadSettings, make_head
from qtl_utils.models.parts import parts
from qtl_utils.results import schemes

SETTINGS = HeadSettings(12, 3, n_qubits=2, depth=3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_parts_of_a_variant_are_those_of_its_model(variant):
    backbone, *head = parts(variant, SETTINGS)
    assert backbone == ("backbone", "trained" if VARIANTS[variant].training == "full" else "frozen")
    assert {role for _, role in head} <= set(schemes.ROLES)
    assert ("circuit, trained" in {role for _, role in head}) == VARIANTS[variant].circuit
    linear = [text for text, _ in head if text.startswith("Linear")]
    model = make_head(variant, SETTINGS, 0)
    assert len(linear) == sum(type(module).__name__ == "Linear" for module in model.modules())


def test_models_that_differ_in_their_angles_alone_are_told_apart():
    shown = {name: parts(name, SETTINGS)[3][0] for name in ("A", "A-zero", "A-frozen", "A-separable")}
    assert len(set(shown.values())) == 4
    assert shown["A-zero"].endswith("at 0")


@pytest.mark.parametrize("gradient", [False, True])
def test_everything_lies_inside_the_figure(gradient):
    rows = {name: parts(name, SETTINGS) for name in ("A", "A-joint-bypass", "C")}
    figure = schemes.chain(rows, gradient)
    figure.draw_without_rendering()
    (ax,) = figure.axes
    texts = [text for text in ax.texts if text.get_text()]
    assert set(rows) <= {text.get_text() for text in texts}
    for artist in (*texts, *ax.patches, *figure.legends):
        box = artist.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    boxes = sum(len(row) for row in rows.values())
    assert len(ax.patches) == boxes


def test_gradients_go_back_as_far_as_something_learns():
    drawn = [("backbone", "frozen"), ("pre", "trained"), ("circuit", "circuit, trained"), ("post", "trained")]
    plain, back = (len(schemes.chain({"A": drawn}, gradient).axes[0].texts) for gradient in (False, True))
    assert back - plain == 2  # post to circuit, circuit to pre, none to the backbone


@pytest.mark.parametrize("ansatz", ANSATZE)
def test_a_circuit_is_drawn_with_all_its_wires(ansatz):
    drawn = draw_circuit(ansatz, "tanh", n_qubits=3, depth=4)
    ax = drawn.figure.axes[0]
    assert "2 of 4 layers" in ax.get_title(loc="left")
    assert {"0", "1", "2"} <= {text.get_text() for text in ax.texts}
    assert drawn._repr_png_().startswith(b"\x89PNG")
