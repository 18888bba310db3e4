"""The initial weights and the data order of the published 2-D tasks (arXiv:1912.08278, dressed circuits)."""

import numpy as np
import torch
from torch import nn

from qtl_utils.quantum_layer import QuantumLayer

SPREAD = 0.001  # standard deviation of all initial weights
MAX_DEPTH = 15  # rows of angles that were drawn, used or not
WEIGHT_SEED, ORDER_SEED = 55, 150  # of the published run, which is our seed 0


def initialise(head: nn.Module, seed: int) -> nn.Module:
    """Sets the weights of a 2-D head to those of the published run (seed 0) or of another draw, in place.

    One vector holds pre-layer, 15 rows of angles, square layer and post-layer; the first row of angles is unused.
    """
    linear = [module for module in head if isinstance(module, nn.Linear)]
    circuits = [module for module in head if isinstance(module, QuantumLayer)]
    pre, post = linear[0], linear[-1]
    n = pre.out_features
    sizes = [n * (pre.in_features + 1), MAX_DEPTH * n, n * (n + 1), post.out_features * (n + 1)]
    vector = SPREAD * np.random.RandomState(WEIGHT_SEED + seed).randn(sum(sizes))
    parts = np.split(vector, np.cumsum(sizes)[:-1])
    with torch.no_grad():
        _fill(pre, parts[0])
        for circuit in circuits:
            rows = torch.from_numpy(parts[1].reshape(MAX_DEPTH, n))[1 : 1 + circuit.depth]
            circuit.weights.copy_(rows.reshape(circuit.weights.shape))
        for square in linear[1:-1]:
            _fill(square, parts[2])
        _fill(post, parts[3])
    return head


def _fill(layer: nn.Linear, values: np.ndarray) -> None:
    size = layer.weight.numel()
    layer.weight.copy_(torch.from_numpy(values[:size].reshape(layer.weight.shape)))
    layer.bias.copy_(torch.from_numpy(values[size:]))


def orders(train: np.ndarray, seed: int, epochs: int) -> np.ndarray:
    """The order (epochs, n) of the training points: as they stand, then shuffled again after every pass."""
    rng, rows = np.random.RandomState(ORDER_SEED + seed), [np.array(train)]
    for _ in range(epochs - 1):
        rows.append(rng.permutation(rows[-1]))
    return np.stack(rows)
