"""Two made-up tasks on which the answer is known: a circuit that must help, and one that cannot matter."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import nn

from qtl_utils.analyses.attribution import alter, train_variant
from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.data.dataset import Dataset
from qtl_utils.data.splits import make_splits
from qtl_utils.models.heads import Squash, make_head
from qtl_utils.results import stats
from qtl_utils.results.conclusions import ZEROED
from qtl_utils.study.config import BackboneConfig, TrainConfig
from qtl_utils.study.names import unknown_name
from qtl_utils.training.inputs import Inputs
from qtl_utils.training.variants import head_settings

TASKS = ("circuit decides", "circuit irrelevant")
DRAWS = 20  # hidden circuits that are looked at
ARMS = ("A", "A-zero", "A-none", "C", "A-surrogate")


def control_inputs(task: str, config: TrainConfig, n_samples: int, n_splits: int, seed: int = 0) -> Inputs:
    """Random features (N, n_qubits) with two equally frequent classes, and `n_splits` stratified partitions.

    The class is the side of its median on which a score lies. "circuit decides": a random projection of the outputs
    of a circuit of the same family, with hidden angles, on the same encoding. "circuit irrelevant": a random
    projection of the features themselves.
    """
    if task not in TASKS:
        raise ValueError(unknown_name("control", task, TASKS))
    rng = np.random.default_rng([seed, TASKS.index(task)])
    features = torch.from_numpy(rng.normal(size=(n_samples, config.n_qubits)))
    if task == "circuit decides":
        score = hidden_score(features, config, rng)
    else:
        score = features.numpy() @ rng.normal(size=config.n_qubits)
    labels = (score > np.median(score)).astype(np.int64)
    ids = tuple(f"{i:05d}" for i in range(n_samples))
    given = ("",) * n_samples
    data = Dataset(task, ("below", "above"), labels, ids, given, ids, points=features.numpy())
    splits = make_splits(data, n_splits=n_splits, seed=seed)
    nothing = BackboneConfig(model="none", init="random")
    return Inputs(data, splits, np.empty(0, np.uint8), features, nothing, {}, 0)


def hidden_score(features: torch.Tensor, config: TrainConfig, rng: np.random.Generator) -> np.ndarray:
    """A random projection (N,) of the outputs of the family's circuit with angles U[0, 2 pi].

    Many such circuits are nearly linear in the features, and no task for a circuit: of `DRAWS` draws the one is taken
    of which a linear fit explains least.
    """
    layer = QuantumLayer(config.n_qubits, config.depth, config.ansatz, config.encoding).double()
    encoded = Squash(config.encoding)(features)
    linear = np.c_[features.numpy(), np.ones(len(features))]
    least = 1.0
    found = np.zeros(len(features))
    for _ in range(DRAWS):
        angles = rng.uniform(0, 2 * np.pi, layer.weights.shape)
        direction = rng.normal(size=config.n_qubits)
        with torch.no_grad():
            score = layer(encoded, torch.from_numpy(angles)).numpy() @ direction
        fit = linear @ np.linalg.lstsq(linear, score, rcond=None)[0]
        if (explained := fit.var() / score.var()) < least:
            least = explained
            found = score
    return found


def control_head(variant: str, inputs: Inputs, config: TrainConfig, seed: int) -> nn.Module:
    """The head of a variant; where it begins with a pre-layer, that is the identity and is not trained."""
    head = make_head(variant, head_settings(inputs, config), seed)
    if isinstance(head, nn.Sequential):
        with torch.no_grad():
            head[0].weight.copy_(torch.eye(config.n_qubits))
            head[0].bias.zero_()
        head[0].requires_grad_(False)
    return head


def run_control(task: str, config: TrainConfig, n_samples: int, n_splits: int, seed: int = 0) -> pd.DataFrame:
    """Metrics of ARMS on one of the TASKS, and of A with its angles zeroed after training."""
    inputs = control_inputs(task, config, n_samples, n_splits, seed)
    frames = []
    for variant in ARMS:
        build = partial(control_head, variant, inputs, config)
        trained = train_variant(variant, inputs, config, build=build)
        frames.append(trained.metrics())
        if variant == "A":
            frames.append(trained.metrics(ZEROED, alter(trained, ZEROED)))
    return pd.concat(frames, ignore_index=True)


def detected(metrics: pd.DataFrame, against: Sequence[str] = ("A-none", "C")) -> bool:
    """Whether the circuit is found useful: A is higher than every head without one, each interval above zero."""
    return all(stats.paired(metrics, "A", other).low > 0 for other in against)
