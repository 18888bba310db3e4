"""Is a frozen backbone frozen? BatchNorm in train mode, as published code leaves it, against eval mode."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch

from qtl_utils.analyses.protocols import replica_scores
from qtl_utils.models import backbones
from qtl_utils.models.backbones import Backbone
from qtl_utils.models.heads import make_head
from qtl_utils.results.published_results import LAST
from qtl_utils.study.config import TrainConfig
from qtl_utils.training.fits import make_replicas, random_orders
from qtl_utils.training.inputs import Inputs
from qtl_utils.training.many import fit_heads
from qtl_utils.training.variants import candidates, head_settings


def thawed_backbone(inputs: Inputs) -> Backbone:
    """The backbone as published code has it: weights without gradients, but BatchNorm in train mode while training."""
    backbone = backbones.load_backbone(inputs.backbone.model, inputs.image_size, "random", frozen=False)
    backbone.network.load_state_dict(inputs.state)
    return backbone.requires_grad_(False)


def has_batchnorm(inputs: Inputs) -> bool:
    return any(name.endswith("running_mean") for name in inputs.state)


@dataclass(frozen=True)
class Thawed:
    """What a head sees when BatchNorm is in train mode, for S splits, E epochs and N samples."""

    features: torch.Tensor  # (S, (1 + E) N, F): of the test samples at the end, then as seen in every epoch
    drift: pd.DataFrame  # per split and epoch, |change| / |features| of the training samples; see `thaw`


def order_of(inputs: Inputs, split: int, epochs: int) -> np.ndarray:
    """The order (epochs, n) of the training samples in which every seed of a split sees them here."""
    return random_orders(inputs.splits.indices(split, "train"), split, epochs)


@torch.no_grad()
def thaw(inputs: Inputs, epochs: int, batch_size: int) -> Thawed:
    """The features of every epoch with a backbone in train mode. No head enters, so all seeds of a split share them.

    `drift` has two columns: `training` for the features a head is trained on, normalised by their own batch, and
    `testing` for those it would be tested on after that epoch, as the running statistics have moved.
    """
    pixels = torch.from_numpy(inputs.pixels)
    parts = []
    rows = []
    for split in range(inputs.splits.n_splits):
        backbone = thawed_backbone(inputs).double()
        seen = []  # as in backbones.compute_features
        for epoch, order in enumerate(order_of(inputs, split, epochs)):
            seen.append(inputs.features.double())
            backbone.train()
            for batch in whole_batches(order, batch_size):
                seen[-1][batch] = backbone(pixels[batch])
            backbone.eval()
            moved = [relative_change(f, inputs.features[order]) for f in (seen[-1][order], backbone(pixels[order]))]
            rows.append({"split": split, "epoch": epoch + 1, "training": moved[0], "testing": moved[1]})
        test = inputs.splits.indices(split, "test")
        tested = inputs.features.double()
        tested[test] = backbone(pixels[test])
        parts.append(torch.cat([tested, *seen]))
    return Thawed(torch.stack(parts), pd.DataFrame(rows))


def whole_batches(order: np.ndarray, size: int) -> list[np.ndarray]:
    """`order` in batches; a last batch of one sample joins the one before, as in `train.train_epoch`."""
    parts = np.split(order, range(size, len(order), size))
    return [*parts[:-2], np.concatenate(parts[-2:])] if len(parts) > 1 and len(parts[-1]) == 1 else parts


def relative_change(features: torch.Tensor, reference: torch.Tensor) -> float:
    return float((features - reference).norm() / reference.norm())


def both_modes(variant: str, inputs: Inputs, thawed: Thawed, config: TrainConfig) -> pd.DataFrame:
    """Last-epoch test scores of one head on a backbone in eval mode and in train mode; `protocol` says which."""
    rows = []
    n = len(inputs.data)
    n_splits = inputs.splits.n_splits
    replicas = make_replicas(config.seed_range, n_splits, candidates(variant, config))
    build = partial(make_head, variant, head_settings(inputs, config))
    for mode, features, shift in (("eval mode", inputs.features, 0), ("train mode", thawed.features, n)):
        blocks = shift * np.arange(1, config.epochs + 1)[:, None]  # epoch e reads the rows e N ... of its split
        orders = lambda train, seed, epochs: order_of(inputs, seed % n_splits, epochs) + blocks  # noqa: B023, E731
        labels = np.tile(inputs.data.labels, features.shape[-2] // n)
        fit = fit_heads(build, features, labels, inputs.splits, replicas, config, orders=orders, label=mode)
        scores = replica_scores(fit, inputs, variant)
        rows.append(scores[scores["protocol"] == LAST].assign(protocol=mode))
    return pd.concat(rows, ignore_index=True)
