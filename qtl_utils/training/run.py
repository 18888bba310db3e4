"""One run of a study: every variant trained, tuned and scored, as tables."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch

from qtl_utils.data.splits import Splits
from qtl_utils.models import backbones
from qtl_utils.models.devices import find_device
from qtl_utils.models.heads import VARIANTS, count_parameters, make_head
from qtl_utils.results.runs import write_run
from qtl_utils.study.config import RunConfig
from qtl_utils.study.environment import PeakMemory
from qtl_utils.study.names import NO_BACKBONE
from qtl_utils.study.paths import atomic
from qtl_utils.training.fits import Fit, Rates, selection_subset
from qtl_utils.training.inputs import Inputs
from qtl_utils.training.scores import score
from qtl_utils.training.variants import fit_frozen, fit_variant, head_settings, make_network

TUNED = "tuned"  # what results with rates chosen on validation are called


@dataclass(frozen=True)
class VariantResult:
    """The tidy rows and the weights of one variant."""

    metrics: pd.DataFrame
    history: pd.DataFrame
    predictions: pd.DataFrame
    variants: pd.DataFrame
    tuning: pd.DataFrame
    weights: dict[str, torch.Tensor]


def run_variant(variant: str, inputs: Inputs, config: RunConfig, keys: dict[str, str], folder: Path) -> VariantResult:
    """Trains `variant` and returns its tables; one that cannot be built is a row with the reason.

    keys: study, dataset, backbone and run, as every row carries them.
    """
    keys = keys | {"variant": variant, "protocol": inputs.splits.protocol}
    if reason := VARIANTS[variant].refuses(head_settings(inputs, config)):
        row = {**keys, "settings": config.settings, "n_seeds": 0, "skipped_reason": reason}
        return VariantResult(*[pd.DataFrame()] * 3, pd.DataFrame([row]), pd.DataFrame(), {})
    if config.lr_grid.classical and selection_subset(inputs.splits) == "test":
        raise ValueError(
            "lr_grid: protocol 'as_published' has no validation set to choose rates on; leave the grid empty"
        )
    with PeakMemory() as memory:
        fit = fit_variant(variant, inputs, config, folder=folder)
    chosen = choose_candidates(fit, inputs.splits)
    reported = {config.settings: np.array([r.candidate == 0 for r in fit.replicas])}
    if config.lr_grid.classical:
        reported[TUNED] = np.array([r.candidate == chosen[r.split] for r in fit.replicas])
    frames = {"metrics": [], "history": [], "predictions": []}
    weights = {}
    for settings, mask in reported.items():
        for name, rows in score(fit, np.flatnonzero(mask), inputs).items():
            frames[name].append(rows.assign(**keys, settings=settings))
        index = np.flatnonzero(mask)[np.argsort([fit.replicas[i].seed for i in np.flatnonzero(mask)], kind="stable")]
        weights |= {f"{settings}/{variant}/{name}": p[index].contiguous() for name, p in fit.weights.items()}
    costs = {
        "all_seeds_seconds": fit.seconds.sum(),
        "one_seed_seconds": one_seed_seconds(variant, fit, inputs, config),
        "peak_memory_bytes": memory.bytes,
        "trained_by": fit.path,
    }
    counts = model_parameters(variant, inputs, config)
    rows = [
        {**keys, "settings": settings, **counts, "n_seeds": config.seeds, "skipped_reason": "", **costs}
        | common_rates([fit.replicas[i].rates for i in np.flatnonzero(mask)])
        for settings, mask in reported.items()
    ]
    tuning = (
        tuning_table(fit, chosen, config.feature_scaling).assign(**keys, settings=TUNED)
        if TUNED in reported
        else pd.DataFrame()
    )
    joined = {name: pd.concat(parts, ignore_index=True) for name, parts in frames.items()}
    return VariantResult(**joined, variants=pd.DataFrame(rows), tuning=tuning, weights=weights)


def common_rates(rates: Sequence[Rates]) -> dict[str, float]:
    """The learning rates all trainings share; nan where tuning chose differently from split to split."""
    values = {group: {getattr(r, group) for r in rates} for group in ("classical", "quantum", "backbone")}
    return {f"lr_{group}": found.pop() if len(found) == 1 else np.nan for group, found in values.items()}


def choose_candidates(fit: Fit, splits: Splits) -> dict[int, int]:
    """The candidate of each split with the highest last-epoch validation accuracy, then the lowest loss, over seeds."""
    rows = tuning_table(fit, {})
    mean = rows.groupby(["split", "candidate"])[["accuracy", "loss"]].mean().reset_index()
    ordered = mean.sort_values(["split", "accuracy", "loss", "candidate"], ascending=[True, False, True, True])
    return dict(ordered.groupby("split").first()["candidate"])


def tuning_table(fit: Fit, chosen: dict[int, int], scaling: str = "none") -> pd.DataFrame:
    """Last-epoch validation loss and accuracy of every training, with its rates and the scaling of its features.

    scaling: where a candidate keeps the run's own.
    """
    rows = [
        {
            "seed": r.seed,
            "split": r.split,
            "candidate": r.candidate,
            **{f"lr_{group}": getattr(r.rates, group) for group in ("classical", "quantum", "backbone")},
            "feature_scaling": r.rates.feature_scaling or scaling,
            "loss": loss,
            "accuracy": accuracy,
            "chosen": chosen.get(r.split) == r.candidate,
        }
        for r, (loss, accuracy) in zip(fit.replicas, fit.history[:, -1, 1], strict=True)
    ]
    frame = pd.DataFrame(rows)
    return frame.drop(columns="candidate") if chosen else frame


def one_seed_seconds(variant: str, fit: Fit, inputs: Inputs, config: RunConfig) -> float:
    """Wall seconds of training one seed alone: of networks the median; of a head from trainings of 1 and 3 epochs."""
    if VARIANTS[variant].training == "full":
        return float(np.median(fit.seconds))
    times = []
    for epochs in (1, 1, 3):  # the first is a warm-up
        start = time.perf_counter()
        short = config.model_copy(update={"epochs": epochs})
        fit_frozen(variant, inputs, short, fit.replicas[:1], find_device(config.device))
        times.append(time.perf_counter() - start)
    return times[1] + (config.epochs - 1) * max(times[2] - times[1], 0.0) / 2


def model_parameters(variant: str, inputs: Inputs, config: RunConfig) -> dict[str, int]:
    """Parameter counts of the whole model, backbone included."""
    settings = head_settings(inputs, config)
    if VARIANTS[variant].training == "full":
        sample = torch.from_numpy(inputs.pixels[:4])
        return count_parameters(make_network(variant, inputs, settings, 0), sample)
    counts = count_parameters(make_head(variant, settings, 0), inputs.features[:16])
    if inputs.backbone.model != NO_BACKBONE:
        backbone = backbones.load_backbone(inputs.backbone.model, inputs.image_size, "random")
        counts["total"] += sum(p.numel() for p in backbone.parameters())
    return counts


def save_run(folder: Path, config: RunConfig, results: Sequence[VariantResult], **settings) -> None:
    """Writes the files of a run: weights first, metrics.csv, the sign that it is complete, last."""
    weights = {name: value for result in results for name, value in result.weights.items()}
    with atomic(Path(folder) / "weights.safetensors") as part:
        safetensors.torch.save_file(weights, part)
    frames = {}
    for name in ("metrics", "history", "predictions", "variants", "tuning"):
        rows = [getattr(result, name) for result in results if len(getattr(result, name))]
        frames[name] = pd.concat(rows, ignore_index=True) if rows else None
    skipped = [f"{r['variant']} ({r['skipped_reason']})" for _, r in frames["variants"].iterrows() if not r["n_seeds"]]
    if frames["metrics"] is None:
        raise ValueError(f"no variant of this run can be built: {'; '.join(skipped)}")
    text = json.loads(config.model_dump_json())
    write_run(folder, config=text | settings, **frames)
