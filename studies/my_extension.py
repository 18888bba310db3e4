"""An example of a file of one's own: each part adds a row to a registry, and a study names it like any other.

./run_all.sh studies/extended.yaml
"""

import numpy as np
import pennylane as qml
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler
from torch import nn

from qtl_utils import ANSATZE, BACKBONES, DATASETS, VARIANTS, Ansatz, Variant
from qtl_utils.data.dataset import from_points
from qtl_utils.doctor import check, ok, warn


# an ansatz: gates, and the shape of its angles
def brickwork(inputs, weights, n_qubits):
    for k in range(weights.shape[-2]):
        for i in range(n_qubits):
            qml.RX(weights[..., k, i], wires=i)
        for i in range(n_qubits - 1):
            qml.CZ(wires=[i, i + 1])


ANSATZE["brickwork"] = Ansatz(brickwork, lambda n_qubits, depth: (depth, n_qubits), "RX, then CZ between neighbours")


# a variant: a head, and whether the backbone is trained
def gelu_head(settings):
    return nn.Sequential(nn.Linear(settings.n_features, 8), nn.GELU(), nn.Linear(8, settings.n_classes))


VARIANTS["C-gelu"] = Variant("frozen", gelu_head, "Linear-GELU-Linear, 8 wide")


# a data set: here points, which are their own features
def wine():
    """The 178 wines of scikit-learn in three classes, 13 measurements each."""
    bunch = load_wine()
    points = StandardScaler().fit_transform(bunch.data)
    return from_points("wine", points, bunch.target.astype(np.int64), tuple(map(str, bunch.target_names)))


DATASETS["wine"] = wine


# a backbone: a network from images to n_features
class Averages(nn.Module):
    """The mean colour of each of 4 x 4 fields."""

    n_features = 48

    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(4)

    def forward(self, pixels):
        return self.pool(pixels).flatten(1)


BACKBONES["averages"] = lambda image_size: Averages()


# a check of the doctor
@check("big_weights", "the size of the weights", section="optimisation#stuck")
def big_weights(patient):
    largest = max(p.abs().max().item() for p in patient.model.parameters())
    if largest > 100:
        return warn(f"the largest weight is {largest:.0f}", "steps that were too large", "a lower learning rate")
    return ok(f"the largest weight is {largest:.2f}")
