"""A circuit of the study as PennyLane draws it."""

import io

import pennylane as qml
import torch
from matplotlib.figure import Figure

from qtl_utils.circuits.ansatze import ANSATZE, make_circuit
from qtl_utils.study.names import find

MOST_LAYERS = 2  # more of them look alike, and take long to draw


class Drawing:
    """What PennyLane drew, which a notebook shows wherever it is displayed, without pyplot's help."""

    def __init__(self, figure: Figure):
        self.figure = figure

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.figure.savefig(png, format="png", dpi=60, bbox_inches="tight", metadata={"Software": None})
        return png.getvalue()


def draw_circuit(ansatz: str, encoding: str, n_qubits: int, depth: int) -> Drawing:
    """The gates of the encoding, of the first layers of the ansatz, MOST_LAYERS at most, and what is measured."""
    import matplotlib.pyplot as plt

    layers = min(depth, MOST_LAYERS)
    weights = torch.zeros(find("ansatz", ansatz, ANSATZE).shape(n_qubits, layers))
    node = qml.QNode(make_circuit(ansatz, encoding, n_qubits), qml.device("default.qubit", wires=n_qubits))
    figure, ax = qml.draw_mpl(node, style="black_white", level="device")(torch.zeros(n_qubits), weights)
    more = f", {layers} of {depth} layers shown" if depth > layers else ""
    ax.set_title(f"encoding '{encoding}', then ansatz '{ansatz}'{more}", loc="left")
    plt.close(figure)  # or it would be shown twice
    return Drawing(figure)
