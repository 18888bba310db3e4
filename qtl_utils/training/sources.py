"""Backbones that the study trains itself, from scratch on other classes."""

from functools import partial

import numpy as np
import torch
from torch import nn

from qtl_utils.data.dataset import load_pixels
from qtl_utils.data.datasets import load_dataset
from qtl_utils.models import backbones
from qtl_utils.models.devices import FUSED, build_seeded
from qtl_utils.models.network import Network, train_epoch
from qtl_utils.study.config import BackboneConfig, TrainConfig
from qtl_utils.study.paths import FOLDER
from qtl_utils.training.fits import random_orders

SOURCE_BATCH = 32  # images per step of a source training


def train_source(config: BackboneConfig, image_size: int, device="cpu", rows: np.ndarray | None = None) -> Network:
    """A backbone with a linear head, trained from scratch on the images of the source classes: all, or `rows`.

    On a CPU it is trained in float64 and rounded in the end: training amplifies rounding, and from float32 every
    processor would arrive at another backbone.
    """
    data = load_dataset(config.source_dataset, cache_dir=FOLDER / "data")
    pixels = torch.from_numpy(load_pixels(data, image_size)).to(device)
    labels = torch.from_numpy(data.labels).to(device)
    backbone = backbones.load_backbone(config.model, image_size, "random", seed=config.seed, frozen=False)
    head = build_seeded(partial(nn.Linear, backbone.n_features, len(data.classes)), config.seed)
    model = Network(backbone, head).to(device)
    settings = TrainConfig(batch_size=SOURCE_BATCH)
    if torch.device(device).type == "cpu":
        model.double()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.source_lr, fused=torch.device(device).type in FUSED)
    rows = np.arange(len(data)) if rows is None else rows
    for order in random_orders(rows, config.seed, config.source_epochs):
        train_epoch(model, optimizer, pixels, labels, order, settings)
    return model.float()


def backbone_state(model: Network) -> dict[str, torch.Tensor]:
    """The weights of the backbone of `model`, without its head."""
    return {name: value.cpu().contiguous() for name, value in model.backbone.network.state_dict().items()}
