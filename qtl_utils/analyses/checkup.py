"""The doctor on the models of a study: every A and A-joint with its own history, rates and data."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch

from qtl_utils.doctor import diagnose
from qtl_utils.models.heads import circuit_angles, make_head
from qtl_utils.models.network import batch_loss
from qtl_utils.results.runs import TUNING, read_table
from qtl_utils.study.config import BackboneConfig, DataConfig, RunConfig
from qtl_utils.training.fits import lr_decay, selection_subset
from qtl_utils.training.inputs import Inputs, head_features
from qtl_utils.training.variants import head_settings, make_network

LOOKED_AT = ("A", "A-joint")
SEEDS = 3  # the first ones of a run
BUDGET = 20.0  # seconds a model
OF_TRAINED = ("zeroed_angles",)  # checks that need the trained weights, which are kept of heads only


@dataclass(frozen=True)
class Kept:
    """What a run left of its trainings, as its files hold it: tidy tables, and weights as (R, ...) by name."""

    config: RunConfig
    data: DataConfig
    backbone: BackboneConfig
    history: pd.DataFrame
    tuning: pd.DataFrame
    weights: dict[str, torch.Tensor]


def read_kept(folder: Path) -> Kept:
    """The run in `folder`."""
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tuning = folder / "tuning.csv"
    return Kept(
        config=RunConfig(**{name: told[name] for name in RunConfig.model_fields if name in told}),
        data=DataConfig(**told["data"]),
        backbone=BackboneConfig(**told["backbone_settings"]),
        history=read_table(folder / "history.csv", "history"),
        tuning=read_table(tuning, "tuning") if tuning.is_file() else pd.DataFrame(columns=TUNING),
        weights=safetensors.torch.load_file(folder / "weights.safetensors"),
    )


def checkup(variant: str, kept: Kept, inputs: Inputs) -> pd.DataFrame:
    """What the doctor finds in a variant of a run, of its first seeds: a row per settings, seed and check.

    Heads are looked at as they are after training, whole networks as they began, with the history of their training.
    Empty where the run did not train the variant.
    """
    history = kept.history[kept.history["variant"] == variant]
    frames = []
    for (settings, seed), rows in history.groupby(["settings", "seed"], sort=False):
        if seed < kept.config.first_seed + SEEDS:
            found = _looked_at(variant, kept, inputs, settings, int(seed), rows)
            frames.append(found.assign(variant=variant, settings=settings, seed=seed))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _looked_at(variant: str, kept: Kept, inputs: Inputs, settings: str, seed: int, rows: pd.DataFrame) -> pd.DataFrame:
    """The findings in one training, whose history is `rows`."""
    config = kept.config
    split = int(rows["split"].iloc[0])
    rates = _rates(kept, variant, settings, seed)
    scaled = config.model_copy(update={"feature_scaling": rates.pop("feature_scaling")})
    if variant == "A-joint":
        model = make_network(variant, inputs, head_settings(inputs, config), seed, split)
        samples = torch.from_numpy(np.asarray(inputs.pixels))
    else:
        model = make_head(variant, head_settings(inputs, config), seed).double()
        start = f"{settings}/{variant}/"
        place = seed - config.first_seed
        trained = {k.removeprefix(start): v[place] for k, v in kept.weights.items() if k.startswith(start)}
        model.load_state_dict(trained, strict=False)
        samples = head_features(inputs, scaled).double()
        samples = samples[split] if samples.ndim == 3 else samples
    data = {s: samples[inputs.splits.indices(split, s)] for s in ("train", "validation", "test")}
    train = inputs.splits.indices(split, "train")
    train = np.random.default_rng(seed).permutation(train)[: max(config.batch_size, 2)]
    optimizer = _optimizer(model, rates)
    found = diagnose(
        model,
        (samples[train], torch.as_tensor(inputs.data.labels[train])),
        loss=None if config.loss == "cross-entropy" else partial(batch_loss, loss=config.loss),
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: lr_decay(epoch, config)),
        history=_history(rows, selection_subset(inputs.splits)),
        data={name: part for name, part in data.items() if len(part)},
        epochs=config.epochs,
        budget=BUDGET,
    )
    frame = found.to_frame().drop(columns="link")
    return frame[~frame["check"].isin(OF_TRAINED)] if variant == "A-joint" else frame


def _rates(kept: Kept, variant: str, settings: str, seed: int) -> dict[str, float | str]:
    """The learning rates and the scaling that a seed was trained with: its run's own, or those that were chosen."""
    names = ("lr_classical", "lr_quantum", "lr_backbone", "feature_scaling")
    if settings == kept.config.settings:
        return {name: getattr(kept.config, name) for name in names}
    own = kept.tuning[kept.tuning["variant"] == variant]
    chosen = own[(own["seed"] == seed) & own["chosen"]].iloc[0]
    return {name: chosen[name] for name in names}


def _optimizer(model: torch.nn.Module, rates: dict[str, float]) -> torch.optim.Optimizer:
    """Adam with the study's groups: angles, the rest of the head, and the backbone where it learns."""
    angles = {id(p) for p in circuit_angles(model).values()}
    backbone = {id(p) for p in getattr(model, "backbone", torch.nn.Module()).parameters()}
    groups = {"lr_quantum": [], "lr_backbone": [], "lr_classical": []}
    for p in model.parameters():
        which = "lr_quantum" if id(p) in angles else "lr_backbone" if id(p) in backbone else "lr_classical"
        groups[which].append(p)
    return torch.optim.Adam([{"params": part, "lr": float(rates[name])} for name, part in groups.items() if part])


def _history(rows: pd.DataFrame, chosen_on: str) -> pd.DataFrame:
    """A training history as `diagnose` takes it; the study reports the last epoch."""
    table = pd.DataFrame(index=sorted(rows["epoch"].unique()))
    for subset, part in rows.groupby("subset"):
        part = part.set_index("epoch")
        name = subset if subset == "train" else chosen_on
        table[f"{name}_loss"] = part["loss"]
        table[f"{name}_accuracy"] = part["accuracy"]
    return table.assign(selected=[*[False] * (len(table) - 1), True], selected_on="nothing").reset_index(drop=True)
