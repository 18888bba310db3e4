"""The PyTorch transfer-learning tutorial's training of B and C: SGD, augmentation, BatchNorm in train mode."""

from collections.abc import Callable

import pandas as pd
import torch
from torch import nn
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import hflip, resized_crop

from qtl_utils.analyses.frozen import thawed_backbone
from qtl_utils.analyses.protocols import replica_scores
from qtl_utils.models.heads import VARIANTS, make_head
from qtl_utils.models.network import Network
from qtl_utils.study.config import TrainConfig
from qtl_utils.training.fits import Fit, join_fits, make_replicas
from qtl_utils.training.inputs import Inputs
from qtl_utils.training.variants import candidates, fit_variant, head_settings
from qtl_utils.training.whole import fit_network

AS_THERE = "as in the tutorial"
PLAIN = "without augmentation"


class Augment(nn.Module):
    """While training, a random crop of each image, resized to its size, and a flip of every other one; uint8 in, out.

    The tutorial crops the photograph; this crops the square that the study keeps of it.
    """

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:  # (B, 3, S, S)
        return torch.stack([self.one(image) for image in pixels]) if self.training else pixels

    def one(self, image: torch.Tensor) -> torch.Tensor:
        where = RandomResizedCrop.get_params(image, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
        image = resized_crop(image, *where, list(image.shape[-2:]), antialias=True)
        return hflip(image) if torch.rand(1) < 0.5 else image


def tutorial_config(seeds: int, epochs: int, first_seed: int = 0) -> TrainConfig:
    """SGD with momentum, 0.001 for everything, a tenth of it every 7 epochs, batches of 4."""
    rates = dict.fromkeys(["lr_classical", "lr_quantum", "lr_backbone"], 0.001)
    how = {"optimizer": "sgd", "momentum": 0.9, "lr_step": 7, "batch_size": 4}
    return TrainConfig(**rates, **how, epochs=epochs, first_seed=first_seed, seeds=seeds)


def tutorial_network(variant: str, inputs: Inputs, config: TrainConfig, seed: int, augment: bool) -> Network:
    """B, or C with a backbone that `model.train()` reaches, as in the tutorial."""
    backbone = thawed_backbone(inputs).requires_grad_(VARIANTS[variant].training == "full")
    parts = nn.Sequential(Augment(), backbone) if augment else backbone
    return Network(parts, make_head(variant, head_settings(inputs, config), seed))


def train_both(inputs: Inputs, seeds: int, epochs: int, first_seed: int = 0) -> pd.DataFrame:
    """B and C trained as in the tutorial, then B without augmentation and C on cached features; best epoch on test.

    `how` tells the two apart; inputs without validation samples.
    """
    config = tutorial_config(seeds, epochs, first_seed)
    rows = []
    for variant, model in (("B", "B"), ("C", "C, SGD")):
        for augment in (True, False):
            how = AS_THERE if augment else PLAIN
            if variant == "C" and not augment:
                fit = fit_variant("C", inputs, config)
            else:
                build = lambda seed: tutorial_network(variant, inputs, config, seed, augment)  # noqa: B023, E731
                fit = fit_networks(build, inputs, config, label=f"{variant}, {how}")
            rows.append(replica_scores(fit, inputs, model).assign(how=how))
    return pd.concat(rows, ignore_index=True)


def fit_networks(build: Callable[[int], Network], inputs: Inputs, config: TrainConfig, label: str = "network") -> Fit:
    """`build(seed)`, a Network, trained one seed after the other."""
    pixels = torch.from_numpy(inputs.pixels)
    replicas = make_replicas(config.seed_range, inputs.splits.n_splits, candidates("C", config))
    fits = [fit_network(build, pixels, inputs.data.labels, inputs.splits, r, config, label=label) for r in replicas]
    return join_fits(fits)
