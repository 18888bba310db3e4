"""The experiments of 2019 run again, and every step between their protocol and an honest one run both ways."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import hflip, resized_crop

from qtl_utils import backbones
from qtl_utils.backbones import Backbone
from qtl_utils.config import BackboneConfig, DataConfig, TrainConfig
from qtl_utils.data import Splits, load_dataset, make_splits
from qtl_utils.experiment import (
    Inputs,
    candidates,
    classification_scores,
    fit_variant,
    head_settings,
    open_inputs,
)
from qtl_utils.heads import VARIANTS, make_head
from qtl_utils.published_results import (
    LAST,
    ON_TEST,
    ON_VALIDATION,
    ONE_TRAINING,
    UNTRAINED,
    images_table,
    no_rows,
    one_number,
)
from qtl_utils.train import (
    Fit,
    Network,
    fit_heads,
    fit_network,
    join_fits,
    make_replicas,
    network_logits,
    random_orders,
    selection_subset,
)

PLANE = {  # task -> data set, its options, learning rate: dressed_circuit.ipynb, dressed_circuit_different_shape.ipynb
    "spirals 1.52 turns": ("spirals", {"turns": 1.52}, 0.07),
    "spirals 2.0 turns": ("spirals", {"turns": 2.0}, 0.07),
    "square": ("square", {}, 0.1),
    "moons": ("moons", {}, 0.1),
}
CIFAR = {  # task -> data set and settings: c2q_transfer_learning_cifar.ipynb, 3 epochs with batches of 8
    "CIFAR-10 cat/dog": ("cifar10_cat_dog", {"depth": 5, "lr_classical": 0.001, "lr_quantum": 0.001}),
    "CIFAR-10 plane/car": ("cifar10_plane_car", {"depth": 4, "lr_classical": 0.0007, "lr_quantum": 0.0007}),
}
TUTORIAL_WAY, PLAIN_WAY = "as in the tutorial", "without augmentation"
IMAGENET_INSECTS = {310: "ants", 309: "bees"}  # of the 1000 classes of ImageNet


# ---- points in the plane --------------------------------------------------------------------------------------------


def plane_config(optimizer: str, lr: float, seeds: int) -> TrainConfig:
    """The published settings of the 2-D tasks: 1000 steps, summed loss, float64, the published weights and order."""
    circuit = {"n_qubits": 5, "depth": 5, "start": "published-2d", "dtype": "float64"}
    rates = {"lr_classical": lr, "lr_quantum": lr, "lr_step": 1000, "beta2": 0.99, "optimizer": optimizer}
    return TrainConfig(**circuit, **rates, epochs=5, batch_size=10, reduction="sum", seeds=seeds)


def plane_inputs(task: str) -> Inputs:
    """The points of one 2-D task, which are their own features, with the published partition."""
    name, options, _ = PLANE[task]
    data = load_dataset(name, **options)
    splits = make_splits(data, protocol="as_published")
    no_backbone = BackboneConfig(model=backbones.NO_BACKBONE, init="random")
    return Inputs(data, splits, np.empty(0, np.uint8), torch.from_numpy(data.points), no_backbone, {}, 0)


def plane_accuracies(task: str, optimizers: Sequence[str], seeds: int) -> pd.DataFrame:
    """Last-step test accuracy of the circuit and of its classical partner; seed 0 is the published run."""
    inputs, rows = plane_inputs(task), []
    for optimizer in optimizers:
        for variant in ("C-block", "A"):
            fit = fit_variant(variant, inputs, plane_config(optimizer, PLANE[task][2], seeds))
            scores = test_scores(fit, inputs, variant)
            rows.append(scores[scores["protocol"] == LAST].assign(task=task, variant=variant, optimizer=optimizer))
    return pd.concat(rows, ignore_index=True)


# ---- choosing an epoch ----------------------------------------------------------------------------------------------


def test_scores(fit: Fit, inputs: Inputs, model: str) -> pd.DataFrame:
    """Accuracy and loss on the test samples of every replica, after the last and after the best epoch."""
    chosen = ON_TEST if selection_subset(inputs.splits) == "test" else ON_VALIDATION
    rows = []
    for i, replica in enumerate(fit.replicas):
        test, train = (inputs.splits.indices(replica.split, subset) for subset in ("test", "train"))
        for protocol, kind in ((LAST, "last"), (chosen, "best")):
            values = classification_scores(fit.logits[kind][i, test], inputs.data.labels[test])
            keys = {"model": model, "protocol": protocol, "seed": replica.seed, "split": replica.split}
            rows.append(keys | {name: values[name] for name in ("accuracy", "loss", "n")} | {"n_train": len(train)})
    return pd.DataFrame(rows)


test_scores.__test__ = False  # pytest would take it for a test


def without_validation(inputs: Inputs) -> Inputs:
    """The same splits as 2019 would use them: no validation samples, the best epoch is looked for on the test set."""
    subsets = np.where(inputs.splits.subsets == "validation", "", inputs.splits.subsets)
    return replace(inputs, splits=Splits("as_published", subsets))


def published_partition(inputs: Inputs) -> Inputs:
    """One partition for training and testing: that which the images come with, else the first split.

    There are no validation samples in it.
    """
    if {"train", "validation"} <= set(inputs.data.given):
        return replace(inputs, splits=make_splits(inputs.data, protocol="as_published"))
    inputs = without_validation(inputs)
    return replace(inputs, splits=Splits("as_published", inputs.splits.subsets[:1]))


def first_splits(inputs: Inputs, n: int) -> Inputs:
    """The same inputs with at most n splits."""
    return replace(inputs, splits=Splits(inputs.splits.protocol, inputs.splits.subsets[:n]))


def repeated_splits(inputs: Inputs, n_splits: int = 10) -> Inputs:
    """Stratified 60/20/20 splits of all samples, unless there are splits with validation samples already."""
    if selection_subset(inputs.splits) == "validation":
        return inputs
    return replace(inputs, splits=make_splits(inputs.data, n_splits=n_splits))


def both_protocols(variants: Sequence[str], inputs: Inputs, config: TrainConfig) -> pd.DataFrame:
    """The same trainings scored after the last epoch, the best on validation and the best on the test samples."""
    rows, peeking = [], without_validation(inputs)
    for variant in variants:
        honest = test_scores(fit_variant(variant, inputs, config), inputs, variant)
        peeked = test_scores(fit_variant(variant, peeking, config), peeking, variant)
        rows += [honest, peeked[peeked["protocol"] == ON_TEST]]
    return pd.concat(rows, ignore_index=True)


def as_published(variants: Sequence[str], inputs: Inputs, config: TrainConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores on the published partition, and the test accuracy after every epoch: model, seed, epoch, accuracy."""
    inputs, scores, curves = published_partition(inputs), [], []
    for variant in variants:
        fit = fit_variant(variant, inputs, config)
        scores.append(test_scores(fit, inputs, variant))
        for replica, accuracy in zip(fit.replicas, fit.history[:, :, 1, 1], strict=True):
            rows = {"epoch": np.arange(1, len(accuracy) + 1), "accuracy": accuracy}
            curves.append(pd.DataFrame(rows).assign(model=variant, seed=replica.seed))
    return pd.concat(scores, ignore_index=True), pd.concat(curves, ignore_index=True)


def both_schedules(variants: Sequence[str], inputs: Inputs, config: TrainConfig) -> pd.DataFrame:
    """Last-epoch scores with the scheduler stepped after an epoch and before it; `protocol` says which."""
    rows = []
    for schedule in ("before", "after"):
        changed = config.model_copy(update={"lr_schedule": schedule})
        for variant in variants:
            scores = test_scores(fit_variant(variant, inputs, changed), inputs, variant)
            rows.append(scores[scores["protocol"] == LAST].assign(protocol=schedule))
    return pd.concat(rows, ignore_index=True)


# ---- a frozen backbone that is not frozen ---------------------------------------------------------------------------


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
    pixels, parts, rows = torch.from_numpy(inputs.pixels), [], []
    for split in range(inputs.splits.n_splits):
        backbone, seen = thawed_backbone(inputs), []
        for epoch, order in enumerate(order_of(inputs, split, epochs)):
            seen.append(inputs.features.clone())
            backbone.train()
            for batch in whole_batches(order, batch_size):
                seen[-1][batch] = backbone(pixels[batch])
            backbone.eval()
            moved = [relative_change(f, inputs.features[order]) for f in (seen[-1][order], backbone(pixels[order]))]
            rows.append({"split": split, "epoch": epoch + 1, "training": moved[0], "testing": moved[1]})
        test, tested = inputs.splits.indices(split, "test"), inputs.features.clone()
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
    rows, n, n_splits = [], len(inputs.data), inputs.splits.n_splits
    replicas = make_replicas(range(config.seeds), n_splits, candidates(variant, config))
    build = partial(make_head, variant, head_settings(inputs, config))
    for mode, features, shift in (("eval mode", inputs.features, 0), ("train mode", thawed.features, n)):
        blocks = shift * np.arange(1, config.epochs + 1)[:, None]  # epoch e reads the rows e N ... of its split
        orders = lambda train, seed, epochs: order_of(inputs, seed % n_splits, epochs) + blocks  # noqa: B023, E731
        labels = np.tile(inputs.data.labels, features.shape[-2] // n)
        fit = fit_heads(build, features, labels, inputs.splits, replicas, config, orders=orders, label=mode)
        scores = test_scores(fit, inputs, variant)
        rows.append(scores[scores["protocol"] == LAST].assign(protocol=mode))
    return pd.concat(rows, ignore_index=True)


def fit_networks(build, inputs: Inputs, config: TrainConfig, label: str = "network") -> Fit:
    """`build(seed)`, a Network, trained one seed after the other."""
    pixels = torch.from_numpy(inputs.pixels)
    replicas = make_replicas(range(config.seeds), inputs.splits.n_splits, candidates("C", config))
    fits = [fit_network(build, pixels, inputs.data.labels, inputs.splits, r, config, label=label) for r in replicas]
    return join_fits(fits)


# ---- the PyTorch tutorial -------------------------------------------------------------------------------------------


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


def tutorial_config(seeds: int, epochs: int) -> TrainConfig:
    """SGD with momentum, 0.001 for everything, a tenth of it every 7 epochs, batches of 4."""
    rates = dict.fromkeys(["lr_classical", "lr_quantum", "lr_backbone"], 0.001)
    return TrainConfig(**rates, optimizer="sgd", momentum=0.9, lr_step=7, epochs=epochs, batch_size=4, seeds=seeds)


def tutorial_network(variant: str, inputs: Inputs, config: TrainConfig, seed: int, augment: bool) -> Network:
    """B, or C with a backbone that `model.train()` reaches, as in the tutorial."""
    backbone = thawed_backbone(inputs).requires_grad_(VARIANTS[variant].training == "full")
    parts = nn.Sequential(Augment(), backbone) if augment else backbone
    return Network(parts, make_head(variant, head_settings(inputs, config), seed))


def tutorial(inputs: Inputs, seeds: int, epochs: int) -> pd.DataFrame:
    """B and C trained as in the tutorial, then B without augmentation and C on cached features; best epoch on test.

    `how` tells the two apart; inputs without validation samples.
    """
    config, rows = tutorial_config(seeds, epochs), []
    for variant, model in (("B", "B"), ("C", "C, SGD")):
        for augment in (True, False):
            how = TUTORIAL_WAY if augment else PLAIN_WAY
            if variant == "C" and not augment:
                fit = fit_variant("C", inputs, config)
            else:
                build = lambda seed: tutorial_network(variant, inputs, config, seed, augment)  # noqa: B023, E731
                fit = fit_networks(build, inputs, config, label=f"{variant}, {how}")
            rows.append(test_scores(fit, inputs, model).assign(how=how))
    return pd.concat(rows, ignore_index=True)


# ---- other published numbers ----------------------------------------------------------------------------------------


def direct_accuracy(inputs: Inputs) -> float:
    """Ants and bees told apart by the backbone's own 1000 classes, without any training; the published test images.

    A class counts as right only if it is the most probable of all 1000. ValueError where the weights lack them.
    """
    model, file = inputs.backbone.model, inputs.backbone.weights
    state = backbones.read_weights(file) if file else backbones.imagenet_state(model)
    network = backbones.build_network(model, inputs.image_size)
    if missing := network.state_dict().keys() - state.keys():
        raise ValueError(f"the weights have no classifier ({sorted(missing)[0]} is missing)")
    network.load_state_dict(state)
    whole = Backbone(model, network, 1000)
    test = published_partition(inputs).splits.indices(0, "test")
    found = network_logits(whole, torch.from_numpy(inputs.pixels), test).argmax(1).tolist()
    names = [inputs.data.classes[label] for label in inputs.data.labels[test]]
    return float(np.mean([IMAGENET_INSECTS.get(k) == name for k, name in zip(found, names, strict=True)]))


def cifar_task(task: str, folder: Path, data: dict, backbone: BackboneConfig, cause: str) -> pd.DataFrame:
    """Head A on one pair of CIFAR-10, three seeds trained as published; `data`: further settings of DataConfig."""
    name, settings = CIFAR[task]
    inputs = open_inputs(folder / name, DataConfig(dataset=name, protocol="as_published", **data), backbone)
    config = TrainConfig(**settings, n_qubits=4, batch_size=8, epochs=3, lr_step=3, seeds=3)
    scores = test_scores(fit_variant("A", inputs, config), inputs, "A")
    rows = [images_table(scores, backbone.model, cause, task), minutes(task, "A", inputs, config)]
    return pd.concat(rows, ignore_index=True)


# ---- as rows beside the published ones ------------------------------------------------------------------------------


def minutes(task: str, variant: str, inputs: Inputs, config: TrainConfig) -> pd.DataFrame:
    """Ours beside the published duration of one training: that of one seed alone, on features computed before."""
    one, times = config.model_copy(update={"seeds": 1}), []
    for _ in range(2):  # the first is a warm-up
        start = time.perf_counter()
        fit_variant(variant, inputs, one)
        times.append((time.perf_counter() - start) / 60)
    cause = "features computed once and not counted; circuit by the statevector kernel"
    return pd.DataFrame([one_number(task, variant, ONE_TRAINING, "minutes", times[1], inputs.backbone.model, cause)])


def insect_rows(
    scores: pd.DataFrame, tutorial: pd.DataFrame, inputs: Inputs, config: TrainConfig
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Ants and bees for `published_results.beside`, and why a number is missing."""
    model, absent = inputs.backbone.model, {}
    other = "" if model == "resnet18" else f"{model} instead of resnet18; "
    cause = f"{other}initial weights and order of data are other draws"
    rows = [images_table(scores, model, f"{cause}; BatchNorm frozen")]
    if len(tutorial):
        as_there = tutorial[tutorial["how"] == TUTORIAL_WAY]
        rows.append(images_table(as_there, model, f"{cause}; crops from the central square"))
    rows += [minutes("ants/bees", variant, published_partition(inputs), config) for variant in ("A", "C")]
    try:
        direct = ("ants/bees", UNTRAINED, "1000 classes", "accuracy", direct_accuracy(inputs))
        rows.append(pd.DataFrame([one_number(*direct, model, other.rstrip("; "))]))
    except (ValueError, FileNotFoundError) as error:
        absent[f"ants/bees, {UNTRAINED}"] = str(error)
    return pd.concat(rows, ignore_index=True), absent


def cifar_rows(
    folder: Path, cifar_dir: str | None, size: int, images: Sequence[int], backbone: BackboneConfig
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Both pairs of CIFAR-10 for `published_results.beside`, or why they are missing."""
    if cifar_dir is None:
        return no_rows(), dict.fromkeys(CIFAR, "data absent; set cifar_dir")
    limits = dict(zip(("max_train", "max_test"), images, strict=True))
    data = {"data_dir": cifar_dir, "image_size": size, "options": limits}
    cause = f"{backbone.model}, {images[0]:,} and {images[1]:,} images; initial weights and order are other draws"
    rows = [cifar_task(task, folder, data, backbone, cause) for task in CIFAR]
    return pd.concat(rows, ignore_index=True), {}
