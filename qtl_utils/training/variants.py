"""Training a variant of the study with all its seeds and learning rates."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from qtl_utils.models import backbones, start_2019
from qtl_utils.models.devices import find_device
from qtl_utils.models.heads import VARIANTS, HeadSettings, make_head
from qtl_utils.models.network import Network
from qtl_utils.study.config import TrainConfig
from qtl_utils.training.fits import Fit, Rates, Replica, join_fits, make_replicas, random_orders
from qtl_utils.training.inputs import Inputs, head_features, why_no_pixels
from qtl_utils.training.kept import read_fit, training_key, write_fit
from qtl_utils.training.many import fit_heads
from qtl_utils.training.whole import fit_network


def candidates(variant: str, config: TrainConfig) -> list[Rates]:
    """The learning rates a variant is trained with: the run's own first, then its grid."""
    own = {group: getattr(config, f"lr_{group}") for group in ("classical", "quantum", "backbone")}
    grid = config.lr_grid.quantum if VARIANTS[variant].circuit else config.lr_grid.classical
    given = [{g: getattr(c, f"lr_{g}") for g in own if getattr(c, f"lr_{g}") is not None} for c in grid]
    scaled = [Rates(**own | one, feature_scaling=c.feature_scaling) for one, c in zip(given, grid, strict=True)]
    return [Rates(**own), *scaled]


def head_settings(inputs: Inputs, config: TrainConfig) -> HeadSettings:
    return HeadSettings(
        n_features=inputs.features.shape[-1],
        n_classes=len(inputs.data.classes),
        n_qubits=config.n_qubits,
        depth=config.depth,
        ansatz=config.ansatz,
        encoding=config.encoding,
        angle_init=config.angle_init,
        simulator=config.simulator,
        diff_method=config.diff_method,
        device_name=config.device_name,
        shots=config.shots,
    )


def fit_variant(variant: str, inputs: Inputs, config: TrainConfig, *, folder: Path | None = None) -> Fit:
    """Trains one variant with every seed and every candidate of its grid.

    Unfinished and finished trainings of whole networks are kept in `folder`, from where an interrupted run goes on.
    """
    settings = head_settings(inputs, config)
    device = find_device(config.device)
    rates = candidates(variant, config)
    replicas = make_replicas(config.seed_range, inputs.splits.n_splits, rates)
    if VARIANTS[variant].training == "frozen":
        return fit_frozen(variant, inputs, config, replicas, device)
    if not inputs.pixels.size:
        raise ValueError(f"variant '{variant}' trains a backbone, and {why_no_pixels(inputs.data)}")
    if config.feature_scaling != "none":
        raise ValueError(f"variant '{variant}' trains its features: set feature_scaling: none, or run it by itself")
    pixels = torch.from_numpy(inputs.pixels).to(device)
    fits = []
    for replica in replicas:
        name = f"{variant}-seed{replica.seed}-rates{replica.candidate}"
        key = training_key(variant, inputs, config, replica)
        done = folder and folder / f"{name}-{key}.done"
        if done and done.is_file():
            fits.append(read_fit(done, replica))
            continue
        fit = fit_network(
            partial(make_network, variant, inputs, settings, split=replica.split),
            pixels,
            inputs.data.labels,
            inputs.splits,
            replica,
            config,
            checkpoint=folder and folder / f"{name}-{key}.part",
            label=name,
        )
        print(f"{name}: {config.epochs} epochs in {fit.seconds[0]:.0f} s")
        if done:
            write_fit(fit, done)
        fits.append(fit)
    return join_fits(fits)


def fit_frozen(
    variant, inputs: Inputs, config: TrainConfig, replicas: Sequence[Replica], device, build=None, **hooks
) -> Fit:
    """Trains a head on the frozen features of `inputs` for all `replicas`.

    `build(seed)`: a head in the place of the variant's; `hooks`: pace and watch of `fit_heads`.
    """
    if device.type == "mps":  # heads sum up in double precision, which it has not
        device = torch.device("cpu")
    settings = head_settings(inputs, config)
    orders = random_orders
    if config.start == "published-2d":
        orders = partial(start_2019.orders, runs_before=start_2019.runs_before(variant))
        build = lambda seed: start_2019.initialise(make_head(variant, settings, seed), seed)  # noqa: E731
    fits = []
    places = []  # of the trainings of `fits` among `replicas`
    for scaling in dict.fromkeys(r.rates.feature_scaling for r in replicas):
        same = [i for i, r in enumerate(replicas) if r.rates.feature_scaling == scaling]
        chosen = config if scaling is None else config.model_copy(update={"feature_scaling": scaling})
        fits.append(
            fit_heads(
                build or (lambda seed: make_head(variant, settings, seed)),
                head_features(inputs, chosen).to(device),
                inputs.data.labels,
                inputs.splits,
                tuple(replicas[i] for i in same),
                config,
                orders=orders,
                label=variant,
                **hooks,
            )
        )
        places += same
    return fits[0] if len(fits) == 1 else join_fits(fits, np.argsort(places))


def make_network(variant: str, inputs: Inputs, settings: HeadSettings, seed: int, split: int = 0) -> Network:
    """The initial backbone of `split` and the head of `seed`, as one model whose parts are trained together."""
    backbone = backbones.load_backbone(inputs.backbone.model, inputs.image_size, "random", frozen=False)
    backbone.network.load_state_dict(inputs.source(split).state)
    return Network(backbone, make_head(variant, settings, seed))
