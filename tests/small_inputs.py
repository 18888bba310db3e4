"""Sixty digits and a backbone of random weights: what tests of training need, in no time."""

from dataclasses import replace

import numpy as np

from qtl_utils.data.dataset import load_pixels
from qtl_utils.data.datasets import load_dataset
from qtl_utils.data.splits import make_splits
from qtl_utils.models import backbones
from qtl_utils.study.config import BackboneConfig, TrainConfig
from qtl_utils.training.inputs import Inputs

CONFIG = TrainConfig(epochs=4, seeds=4, batch_size=4, lr_classical=0.01, n_qubits=3, depth=1)
WITHOUT, WITH_BATCHNORM = "tiny_vit", "shufflenet_v2_x0_5"


def make_inputs(model=WITHOUT):
    """60 digits, two splits, and the features of `model` with random weights."""
    whole = load_dataset("digits")
    keep = np.arange(60)
    fields = {"labels": whole.labels[keep]} | {k: getattr(whole, k)[:60] for k in ("ids", "given", "hashes", "sizes")}
    data = replace(whole, **fields)
    pixels = load_pixels(data, 32)
    backbone = backbones.load_backbone(model, 32, "random")
    features, state = backbones.compute_features(backbone, pixels), backbone.network.state_dict()
    splits = make_splits(data, n_splits=2, train=20, validation=15, test=15)
    return Inputs(data, splits, pixels, features, BackboneConfig(model=model, init="random"), state, 32)
