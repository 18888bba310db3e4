"""The initial weights and the data order of the published 2-D tasks (arXiv:1912.08278, dressed circuits)."""

import numpy as np
import torch
from torch import nn

from qtl_utils.models.heads import is_circuit

SPREAD = 0.001  # standard deviation of all initial weights
MAX_DEPTH = 15  # rows of angles that were drawn, used or not; the first one never is
WEIGHT_SEED = 55
ORDER_SEED = 150  # of the published run, which is our seed 0


def initialise(head: nn.Module, seed: int) -> nn.Module:
    """The 2-D head with the weights of the published run (seed 0) or of another draw, set in place, in float64.

    One vector holds first layer, 15 rows of angles, square layer and last layer; a layer's bias is the last column
    of its matrix. In float32 the rounded weights lead elsewhere: 1000 steps turn 1e-8 into percents. Angles that are
    not trained stay as they are.
    """
    head = head.double()
    linear = [module for module in head.modules() if isinstance(module, nn.Linear)]
    circuits = [module for module in head.modules() if is_circuit(module)]
    first = linear[0]
    last = linear[-1]
    n = first.out_features
    sizes = [n * (first.in_features + 1), MAX_DEPTH * n, n * (n + 1), last.out_features * (last.in_features + 1)]
    vector = torch.from_numpy(SPREAD * np.random.RandomState(WEIGHT_SEED + seed).randn(sum(sizes)))
    pre, angles, square, post = vector.split(sizes)
    with torch.no_grad():
        for layer, values in zip(linear, [pre, *[square] * (len(linear) - 2), post], strict=False):
            _fill(layer, values)
        for circuit in circuits:
            if isinstance(circuit.weights, nn.Parameter):
                circuit.weights.copy_(_used_rows(angles.view(MAX_DEPTH, n), circuit))
    return head


def _fill(layer: nn.Linear, values: torch.Tensor) -> None:
    matrix = values.view(layer.out_features, layer.in_features + 1)
    layer.weight.copy_(matrix[:, :-1])
    layer.bias.copy_(matrix[:, -1])


def _used_rows(rows: torch.Tensor, circuit: nn.Module) -> torch.Tensor:
    used = rows[1 : 1 + circuit.depth]
    if used.shape != circuit.weights.shape:
        raise ValueError(
            f"start 'published-2d' has one angle per qubit and at most {MAX_DEPTH - 1} layers, but ansatz "
            f"'{circuit.ansatz}' with depth {circuit.depth} has angles {tuple(circuit.weights.shape)}; "
            "use ansatz mari2019 or start: default"
        )
    return used


def orders(train: np.ndarray, seed: int, epochs: int, runs_before: int = 0) -> np.ndarray:
    """The order (epochs, n) of the training points: as they stand, then shuffled again after every pass.

    Every run shuffles with the same random numbers, but starts from the order the run before it ended with: the
    classical net was trained first (`runs_before` 0), the circuit after it (1).
    """
    row = np.array(train)
    for _ in range(runs_before + 1):
        rng = np.random.RandomState(ORDER_SEED + seed)
        rows = [row]
        for _ in range(epochs - 1):
            rows.append(rng.permutation(rows[-1]))
        row = rows[-1]
    return np.stack(rows)


def runs_before(variant: str) -> int:
    """What `orders` needs for a variant: A and everything compared with it layer by layer see the circuit's order."""
    return int(variant.startswith("A"))
