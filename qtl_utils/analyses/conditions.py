"""The same comparisons under other conditions: less data, other sizes, a backbone that learns too, noise."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from qtl_utils.analyses.attribution import Trained, alter, first_layers, group_of, own_rates, train_variant
from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.data.splits import Splits
from qtl_utils.models.heads import circuit_angles
from qtl_utils.models.network import Network
from qtl_utils.results.conclusions import ZEROED
from qtl_utils.study.config import TrainConfig
from qtl_utils.training.fits import join_fits, make_replicas
from qtl_utils.training.inputs import Inputs, head_features
from qtl_utils.training.scores import score_metrics
from qtl_utils.training.variants import head_settings, make_network
from qtl_utils.training.whole import fit_network


def thin(splits: Splits, labels: np.ndarray, fraction: float) -> Splits:
    """Splits of whose training samples only `fraction` is left, class by class; a smaller part lies in a larger."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction {fraction:g} of the training data: expected more than 0 and at most 1")
    subsets = splits.subsets.copy()
    for split in range(splits.n_splits):
        rng = np.random.default_rng([split, 2019])
        train = rng.permutation(splits.indices(split, "train"))
        for label in np.unique(labels[train]):
            of_class = train[labels[train] == label]
            subsets[split, of_class[max(1, round(fraction * len(of_class))) :]] = ""
    return Splits(splits.protocol, subsets)


def efficiency(
    variants: Sequence[str], inputs: Inputs, config: TrainConfig, fractions: Sequence[float]
) -> pd.DataFrame:
    """Metrics of the variants on a part of the training data (column `fraction`), with as many steps as on all."""
    frames = []
    for fraction in fractions:
        part = replace(inputs, splits=thin(inputs.splits, inputs.data.labels, fraction))
        times = {"epochs": round(config.epochs / fraction), "lr_step": round(config.lr_step / fraction)}
        longer = config.model_copy(update=times)
        frames += [train_variant(name, part, longer).metrics(fraction=fraction) for name in variants]
    return pd.concat(frames, ignore_index=True)


def sizes(
    inputs: Inputs, config: TrainConfig, qubits: Sequence[int], depths: Sequence[int]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A, A with its angles zeroed, and A-none for numbers of qubits, then of layers: metrics and A's travel.

    Columns `varied` ("qubits" or "depth") and `size`; what is not varied stays as in `config`.
    """
    metrics = []
    travel = []
    for varied, field, values in (("qubits", "n_qubits", qubits), ("depth", "depth", depths)):
        for size in values:
            other = config.model_copy(update={field: size})
            keys = {"varied": varied, "size": size}
            trained = train_variant("A", inputs, other)
            metrics += [trained.metrics(**keys)]
            metrics += [trained.metrics(ZEROED, alter(trained, ZEROED), **keys)]
            metrics += [train_variant("A-none", inputs, other).metrics(**keys)]
            travel.append(trained.travel.assign(**keys))
    return pd.concat(metrics, ignore_index=True), pd.concat(travel, ignore_index=True)


def with_backbone(inputs: Inputs, config: TrainConfig) -> pd.DataFrame:
    """Metrics of A-joint, the backbone learning too, whose angles learn or stay at their draw.

    The arms are "full, both" and "full, classical"; `attribution.retrain` has the same two on the frozen backbone.
    """
    settings = head_settings(inputs, config)
    pixels = torch.from_numpy(inputs.pixels)
    frames = []
    for arm, learn in (("full, both", True), ("full, classical", False)):

        def build(seed: int, learn=learn) -> Network:
            network = make_network("A-joint", inputs, settings, seed)
            for angles in circuit_angles(network.head).values():
                angles.requires_grad_(learn)
            return network

        replicas = make_replicas(config.seed_range, inputs.splits.n_splits, [own_rates(config)])
        fits = [fit_network(build, pixels, inputs.data.labels, inputs.splits, r, config, label=arm) for r in replicas]
        rows = score_metrics(join_fits(fits), range(config.seeds), inputs)
        frames.append(rows.assign(**group_of(inputs, config), variant=arm))
    return pd.concat(frames, ignore_index=True)


def input_noise(trained: Trained, levels: Sequence[float], seed: int = 0) -> pd.DataFrame:
    """Metrics on features with Gaussian noise of `level` standard deviations of each feature (column `level`)."""
    features = head_features(trained.inputs, trained.config)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(features.shape, generator=generator, dtype=torch.float64)  # every processor draws alike
    noise = drawn.to(features) * features.std(-2, keepdim=True)
    frames = [trained.metrics(logits=trained.logits(features=features + x * noise), level=x) for x in levels]
    return pd.concat(frames, ignore_index=True)


def shot_noise(trained: Trained, shots: Sequence[int], seed: int = 0) -> pd.DataFrame:
    """Metrics with every expectation value at test time a mean of `shots` outcomes (column `shots`, 0: exact)."""
    base = trained.build(0)
    rng = np.random.default_rng(seed)
    cut = next(i for i, module in enumerate(base) if isinstance(module, QuantumLayer)) + 1
    kept = {name: p for name, p in trained.fit.weights.items() if int(name.partition(".")[0]) < cut}
    exact = first_layers(trained, cut, kept).clip(-1, 1)
    weight, bias = (trained.fit.weights[f"{cut}.{name}"].double().numpy() for name in ("weight", "bias"))
    frames = []
    for n in shots:
        z = 2 * rng.binomial(n, (1 + exact) / 2) / n - 1 if n else exact
        logits = np.einsum("rni,rki->rnk", z, weight) + bias[:, None]
        frames.append(trained.metrics(logits=logits, shots=n))
    return pd.concat(frames, ignore_index=True)
