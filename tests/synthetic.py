"""Made-up tidy results in the format of real runs, for the tests of everything that only reads results."""

from pathlib import Path

import numpy as np
import pandas as pd

from qtl_utils.results import runs

ACCURACY = {
    "A": 0.87,
    "B": 0.93,
    "C": 0.89,
    "A-joint": 0.92,
    "C-matched": 0.88,
    "C-matched-relu": 0.86,
    "C-wide": 0.90,
    "A-zero": 0.84,
    "A-frozen": 0.80,
    "A-separable": 0.865,
    "A-none": 0.872,
}
TRAINABLE = {"A": 2086, "B": 11_177_538, "C": 1026, "A-joint": 11_178_598, "C-wide": 263_682}
SIZES = {"train": 80, "validation": 40, "test": 120}


def run(
    dataset="digits",
    backbone="resnet18-source",
    settings="2019",
    protocol="repeated",
    name="heads",
    accuracy=ACCURACY,
    n_seeds=10,
    n_splits=5,
    n_sources=None,
    classes=("5", "6", "7"),
    skipped=("A-surrogate",),
    n_epochs=6,
    seed=0,
):
    """The keyword arguments of write_run for one made-up run; `accuracy` maps each variant to its level."""
    rng = np.random.default_rng(seed)
    common = {"study": "synthetic", "dataset": dataset, "backbone": backbone, "run": name}
    common |= {"settings": settings, "protocol": protocol}
    subsets = [s for s in SIZES if protocol == "repeated" or s != "validation"]
    metrics, history, predictions, variants, tuning = [], [], [], [], []
    labels = np.resize(classes, SIZES["test"])
    other = rng.choice(classes, (SIZES["test"],))
    other = np.where(other == labels, np.roll(classes, 1)[np.searchsorted(classes, other)], other)
    hardness = rng.normal(0, 0.02, n_splits)  # shared by all variants: what makes paired differences worth it
    for variant, level in accuracy.items():
        seeds = min(n_seeds, 6) if variant in ("B", "A-joint") else n_seeds
        for s in range(seeds):
            keys = {**common, "variant": variant, "seed": s, "split": s % n_splits}
            source = {"source": None if n_sources is None else keys["split"] % n_sources}
            chance = np.clip(level + hardness[s % n_splits] + rng.normal(0, 0.01), 0, 1)
            right = rng.random(len(labels)) < chance
            predicted = np.where(right, labels, other)
            if variant == "C-matched-relu" and s == 3:  # a collapsed seed
                predicted = np.full(len(labels), classes[0])
                right = labels == predicted
            recalls = [right[labels == c].mean() for c in classes]
            values = {"accuracy": right.mean(), "balanced_accuracy": np.mean(recalls)}
            for subset in subsets:
                for kind, epoch in (("best", n_epochs - 2), ("last", n_epochs - 1)):
                    row = {"subset": subset, "epoch_kind": kind, "epoch": epoch, "n": SIZES[subset]}
                    images = np.stack([right, 1.3 - right]).astype(np.float32) if subset == "test" else None
                    row |= {"loss": 1.3 - values["accuracy"], **values, "ece": 0.04, "images": images}
                    metrics.append({**keys, **source, **row})
                for epoch in range(n_epochs):
                    progress = 1 - np.exp(-epoch)
                    reached = 1 / len(classes) + progress * (values["accuracy"] - 1 / len(classes))
                    reached += 0.05 * progress * (subset == "train")  # what a model remembers
                    row = {"epoch": epoch, "subset": subset, "loss": 1.3 - reached, "accuracy": reached}
                    history.append({**keys, **row})
            for i, (label, prediction) in enumerate(zip(labels, predicted, strict=True)):
                row = {"subset": "test", "epoch_kind": "last", "id": f"{i:04d}", "label": label}
                predictions.append({**common, "variant": variant, **row, "prediction": prediction, "probability": 0.9})
            if settings == "tuned":
                for rate in (1e-3, 1e-2):
                    row = {"lr_classical": rate, "lr_quantum": np.nan, "lr_backbone": np.nan}
                    row |= {
                        "feature_scaling": "none",
                        "loss": 1 - 10 * rate,
                        "accuracy": 0.8 + rate,
                        "chosen": rate == 1e-2,
                    }
                    tuning.append({**keys, **row})
        counts = {"total": 11_176_512 + 2062, "trainable": TRAINABLE.get(variant, 2062), "quantum": 0}
        counts["receiving_gradient"] = counts["trainable"]
        counts["quantum"] = 24 if variant in ("A", "A-joint", "A-separable") else 0
        slow = variant in ("B", "A-joint")
        costs = {"all_seeds_seconds": 40.0, "one_seed_seconds": 50 * level if slow else 30 * (1 - level)}
        rates = {"lr_classical": 4e-4, "lr_quantum": np.nan, "lr_backbone": np.nan}
        row = {
            "n_seeds": seeds,
            **rates,
            "skipped_reason": "",
            **costs,
            "peak_memory_bytes": 3e8,
            "trained_by": "fused",
        }
        variants.append({**common, "variant": variant, **counts, **row})
    for variant in skipped:
        row = dict.fromkeys([*runs.COUNTS, *runs.LEARNING_RATES, *runs.COSTS])
        row |= {"n_seeds": 0, "skipped_reason": "8 qubits: the exact surrogate stops at 6"}
        variants.append({**common, "variant": variant, **row})
    tables = {"metrics": metrics, "history": history, "predictions": predictions, "variants": variants}
    result = {"config": {"variants": list(accuracy), "n_seeds": n_seeds}}
    result |= {kind: pd.DataFrame(rows) for kind, rows in tables.items()}
    result["predictions"] = result["predictions"].value_counts(sort=False).rename("n").reset_index()
    return result | {"tuning": pd.DataFrame(tuning) if tuning else None}


def study(folder: Path, **options) -> Path:
    """A study folder with backbones, settings, protocols and a 2-D dataset side by side."""
    for i, backbone in enumerate(("resnet18-source", "tinyvit-source", "resnet18-random")):
        _write(folder, run(backbone=backbone, name=f"{backbone}-2019", seed=i, **options))
    tuned = run(settings="tuned", name="resnet18-source-tuned", seed=7, **options)
    _write(folder, tuned)
    published = {**options, "n_splits": 1, "classes": ("ants", "bees")}
    _write(folder, run(dataset="ants_bees", protocol="as_published", name="published", seed=8, **published))
    flat = {"A": 0.97, "C-matched": 0.86}
    spirals = {**options, "n_splits": 1, "classes": ("0", "1")}
    _write(folder, run("spirals", "none", protocol="fixed", accuracy=flat, skipped=(), name="flat", **spirals))
    return folder


def _write(folder: Path, made: dict) -> None:
    first = made["metrics"].iloc[0]
    runs.write_run(folder / "runs" / first["dataset"] / first["run"], **made)


def metrics(values: dict[str, np.ndarray], n_test=50, n_train=100, n_sources=None, **keys) -> pd.DataFrame:
    """Metrics with given last-epoch test accuracies: variant -> array (n_splits, seeds per split)."""
    rows = []
    common = {
        "study": "s",
        "dataset": "d",
        "backbone": "b",
        "run": "r",
        "settings": "2019",
        "protocol": "repeated",
    }
    for variant, table in values.items():
        for split, line in enumerate(np.atleast_2d(table)):
            for i, value in enumerate(line):
                one = {**common, **keys, "variant": variant, "split": split, "seed": split + i * len(table)}
                one |= {"epoch_kind": "last", "epoch": 1, "loss": 1 - value, "accuracy": value}
                one["source"] = None if n_sources is None else split % n_sources
                one |= {"balanced_accuracy": value, "ece": 0.0}
                rows.append({**one, "subset": "test", "n": n_test})
                rows.append({**one, "subset": "train", "n": n_train})
    return runs.tidy(pd.DataFrame(rows), "metrics")
