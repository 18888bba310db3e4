"""The experiments of 2019 run again, as rows beside their published numbers."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from qtl_utils.analyses.protocols import published_partition, replica_scores
from qtl_utils.analyses.tutorial import AS_THERE
from qtl_utils.data.datasets import load_dataset
from qtl_utils.data.splits import make_splits
from qtl_utils.models import backbones, start_2019
from qtl_utils.models.backbones import Backbone
from qtl_utils.models.heads import make_head
from qtl_utils.models.network import network_logits
from qtl_utils.results.published_results import ONE_TRAINING, UNTRAINED, images_table, no_rows, one_number
from qtl_utils.study.config import BackboneConfig, DataConfig, TrainConfig
from qtl_utils.study.names import NO_BACKBONE
from qtl_utils.training.fits import Fit, make_replicas
from qtl_utils.training.inputs import Inputs, open_inputs
from qtl_utils.training.many import fit_heads
from qtl_utils.training.variants import candidates, fit_variant, head_settings

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
NUDGE = 1e-14
COPIES = 10  # of initial weights around 0.001, in double precision
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
    no_backbone = BackboneConfig(model=NO_BACKBONE, init="random")
    return Inputs(data, splits, np.empty(0, np.uint8), torch.from_numpy(data.points), no_backbone, {}, 0)


def plane_accuracies(
    task: str, optimizers: Sequence[str], seeds: int, copies: int = COPIES, first_seed: int = 0
) -> pd.DataFrame:
    """Last-step test accuracy of the circuit and of its classical partner: seed 0, the published run, and others.

    The others are those after `first_seed`. `copy` 1, 2 ... is seed 0 again with initial weights off by NUDGE: what
    rounding alone can do to a run.
    """
    numbers = [0, *range(first_seed + 1, first_seed + seeds)]
    inputs = plane_inputs(task)
    rows = []
    test = inputs.splits.indices(0, "test")
    labels = inputs.data.labels[test]
    keys = pd.DataFrame({"seed": [*numbers, *[0] * copies], "split": 0, "copy": [*[0] * seeds, *range(1, copies + 1)]})
    for optimizer in optimizers:
        config = plane_config(optimizer, PLANE[task][2], seeds)
        for variant in ("C-block", "A"):
            found = fit_plane(variant, inputs, config, numbers, copies).logits["last"][:, test].argmax(-1)
            named = keys.assign(task=task, variant=variant, optimizer=optimizer)
            rows.append(named.assign(accuracy=(found == labels).mean(axis=1)))
    return pd.concat(rows, ignore_index=True)


def fit_plane(variant: str, inputs: Inputs, config: TrainConfig, seeds: Sequence[int], copies: int) -> Fit:
    """All `seeds` and `copies` of seed 0, which are numbered from there on, in one training."""
    settings = head_settings(inputs, config)
    ahead = start_2019.runs_before(variant)
    numbers = range(max(seeds) + 1, max(seeds) + 1 + copies)
    origin = lambda seed: 0 if seed in numbers else seed  # noqa: E731

    def build(seed):
        head = start_2019.initialise(make_head(variant, settings, 0), origin(seed))
        return nudged(head, seed) if seed in numbers else head

    return fit_heads(
        build,
        inputs.features,
        inputs.data.labels,
        inputs.splits,
        make_replicas([*seeds, *numbers], 1, candidates(variant, config)),
        config,
        orders=lambda train, seed, epochs: start_2019.orders(train, origin(seed), epochs, ahead),
        label=variant,
    )


@torch.no_grad()
def nudged(head: nn.Module, seed: int) -> nn.Module:
    """The head with every weight off by about NUDGE, in place."""
    generator = torch.Generator().manual_seed(seed)
    for p in head.parameters():
        p.add_(NUDGE * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return head


# ---- other published numbers ----------------------------------------------------------------------------------------


def direct_accuracy(inputs: Inputs) -> float:
    """Ants and bees told apart by the backbone's own 1000 classes, without any training; the published test images.

    A class counts as right only if it is the most probable of all 1000. ValueError where the weights lack them, or
    the images are absent.
    """
    if not inputs.pixels.size:
        raise ValueError(f"'{inputs.data.name}' has features only; use dataset: hymenoptera")
    model = inputs.backbone.model
    file = inputs.backbone.weights
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
    scores = replica_scores(fit_variant("A", inputs, config), inputs, "A")
    rows = [images_table(scores, backbone.model, cause, task), minutes(task, "A", inputs, config)]
    return pd.concat(rows, ignore_index=True)


# ---- as rows beside the published ones ------------------------------------------------------------------------------


def minutes(task: str, variant: str, inputs: Inputs, config: TrainConfig) -> pd.DataFrame:
    """Ours beside the published duration of one training: that of one seed alone, on features computed before."""
    one = config.model_copy(update={"seeds": 1})
    times = []
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
    model = inputs.backbone.model
    absent = {}
    other = "" if model == "resnet18" else f"{model} instead of resnet18; "
    cause = f"{other}initial weights and order of data are other draws"
    rows = [images_table(scores, model, f"{cause}; BatchNorm frozen")]
    if len(tutorial):
        as_there = tutorial[tutorial["how"] == AS_THERE]
        rows.append(images_table(as_there, model, f"{cause}; crops from the central square"))
    else:
        absent |= dict.fromkeys(["ants/bees, B", "ants/bees, C, SGD"], "trained on images, of which only features ship")
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
        return no_rows(), dict.fromkeys(CIFAR, "data absent")
    limits = dict(zip(("max_train", "max_test"), images, strict=True))
    data = {"data_dir": cifar_dir, "image_size": size, "options": limits}
    cause = f"{backbone.model}, {images[0]:,} and {images[1]:,} images; initial weights and order are other draws"
    rows = [cifar_task(task, folder, data, backbone, cause) for task in CIFAR]
    return pd.concat(rows, ignore_index=True), {}
