"""Draws the pictures of the README from the reference results and the real models: `python docs/draw.py`."""

import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

import matplotlib as mpl  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.patches import FancyBboxPatch  # noqa: E402
from torch import nn  # noqa: E402

from qtl_utils.circuits.ansatze import make_circuit  # noqa: E402
from qtl_utils.models.backbones import load_backbone  # noqa: E402
from qtl_utils.models.heads import VARIANTS, HeadSettings, is_circuit, make_head  # noqa: E402
from qtl_utils.results import answer, plots  # noqa: E402

FIGURES = PROJECT / "docs" / "figures"
TABLES = PROJECT / "results" / "reference" / "default" / "tables"
MODEL, CLASSES = "squeezenet1_1", 2  # of the ants and bees
FROZEN, TRAINED, FIXED = "#dce6f0", "#ffe3bf", "#ffffff"
WIDTH, GAP, LEFT = 1.2, 0.16, 0.45  # of boxes, of ten across


def main() -> None:
    """Writes the pictures, and the answer and the words of its picture into the README."""
    comparisons = answer.read(TABLES / "comparisons.csv")
    FIGURES.mkdir(exist_ok=True)
    for name, figure in (("answer", answer.figure(comparisons)), ("models", models())):
        figure.savefig(FIGURES / f"{name}.png", dpi=130, metadata={"Software": None})
    readme = PROJECT / "README.md"
    told = f"![{answer.in_words(comparisons)}](docs/figures/answer.png)"
    said = f"<!-- answer -->\n{' '.join(answer.sentences(comparisons))}\n<!-- end -->"
    text = re.sub(r"!\[[^\]]*\]\(docs/figures/answer\.png\)", told, readme.read_text(encoding="utf-8"))
    text = re.sub(r"<!-- answer -->.*?<!-- end -->", said, text, flags=re.DOTALL)
    readme.write_text(text, encoding="utf-8")


def models() -> plots.Figure:
    """A, B and C, a row each, with the sizes of the real modules; below them how the circuit of A begins."""
    with mpl.rc_context(plots.STYLE | {"figure.constrained_layout.use": False}):
        figure = plots.Figure(figsize=(9, 5.8))
        for i, variant in enumerate("ABC"):
            _row(figure.add_axes([0.01, 0.84 - 0.155 * i, 0.98, 0.15]), variant)
        ax = figure.add_axes([0.05, 0.0, 0.9, 0.44])
        pixels, told = circuit()
        ax.imshow(pixels)
        ax.axis("off")
        ax.set_title(told, fontsize=9)
    return figure


def boxes(variant: str) -> list[tuple[str, str]]:
    """What a variant is made of, from the image to its scores: words and a colour for each part."""
    backbone = load_backbone(MODEL, 224, "random")
    trained = VARIANTS[variant].training == "full"
    weights = sum(p.numel() for p in backbone.parameters())
    found = [("image", FIXED)]
    found += [(f"backbone, {'trained' if trained else 'frozen'}\n{weights:,} weights", TRAINED if trained else FROZEN)]
    head = make_head(variant, HeadSettings(backbone.n_features, CLASSES), 0)
    for layer in head if isinstance(head, nn.Sequential) else [head]:
        n = sum(p.numel() for p in layer.parameters())
        counted = f"\n{n:,} {'angles' if is_circuit(layer) else 'weights'}" if n else ""
        found.append((_words(layer) + counted, TRAINED if n else FIXED))
    return [*found, (f"scores of\n{CLASSES} classes", FIXED)]


def _words(layer: nn.Module) -> str:
    if isinstance(layer, nn.Linear):
        return f"linear layer\n{layer.in_features} to {layer.out_features}"
    if is_circuit(layer):
        return f"quantum circuit\n{layer.n_qubits} qubits, depth {layer.depth}"
    return f"to angles\n({layer.extra_repr()})"


def _row(ax: Axes, variant: str) -> None:
    ax.set(xlim=(0, 10), ylim=(0, 1))
    ax.axis("off")
    ax.text(0.02, 0.5, variant, fontsize=18, weight="bold", va="center")
    parts = boxes(variant)
    places = [*range(len(parts) - 1), 6]  # the scores of all three stand below each other
    for i, (place, (words, colour)) in enumerate(zip(places, parts, strict=True)):
        x = LEFT + place * (WIDTH + GAP)
        ax.add_patch(FancyBboxPatch((x, 0.15), WIDTH, 0.7, boxstyle="round,pad=0.02", fc=colour, ec="0.4", lw=0.8))
        ax.text(x + WIDTH / 2, 0.5, words, ha="center", va="center", fontsize=7)
        if i:
            start = LEFT + places[i - 1] * (WIDTH + GAP) + WIDTH + 0.03
            ax.annotate("", (x - 0.03, 0.5), (start, 0.5), arrowprops={"arrowstyle": "->", "color": "0.3"})


def circuit(layers: int = 2) -> tuple[np.ndarray, str]:
    """PennyLane's drawing of the first `layers` of the circuit in A, (H, W, 4), and what it shows."""
    import matplotlib.pyplot as plt
    import pennylane as qml

    layer = next(part for part in make_head("A", HeadSettings(4, CLASSES), 0) if is_circuit(part))
    function = make_circuit(layer.ansatz, layer.encoding, layer.n_qubits)
    weights = layer.weights.detach().numpy()[:layers]
    plt.switch_backend("agg")
    drawn, _ = qml.draw_mpl(function, style="black_white")(np.zeros(layer.n_qubits), weights)
    drawn.set_dpi(130)
    drawn.canvas.draw()
    pixels = np.asarray(drawn.canvas.buffer_rgba()).copy()
    plt.close(drawn)
    told = (
        f"the circuit in A: encoding (H, RY), then the first {layers} of {layer.depth} layers of CNOTs and trained RY"
    )
    return pixels, told


if __name__ == "__main__":
    main()
