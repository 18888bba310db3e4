"""One training scored under several protocols: which partition, which epoch, when the scheduler is stepped."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from qtl_utils.data.splits import Splits, make_splits
from qtl_utils.results.published_results import LAST, ON_TEST, ON_VALIDATION
from qtl_utils.study.config import BackboneConfig, DataConfig, TrainConfig
from qtl_utils.study.study import LENT, LENT_DIGITS
from qtl_utils.training.fits import Fit, selection_subset
from qtl_utils.training.inputs import Inputs, open_inputs
from qtl_utils.training.scores import classification_scores, image_scores
from qtl_utils.training.variants import fit_variant


def replica_scores(fit: Fit, inputs: Inputs, model: str) -> pd.DataFrame:
    """Accuracy and loss on the test samples of every replica, after the last and after the best epoch.

    `images` is what `scores.image_scores` gives.
    """
    chosen = ON_TEST if selection_subset(inputs.splits) == "test" else ON_VALIDATION
    rows = []
    for i, replica in enumerate(fit.replicas):
        test, train = (inputs.splits.indices(replica.split, subset) for subset in ("test", "train"))
        for protocol, kind in ((LAST, "last"), (chosen, "best")):
            values = classification_scores(fit.logits[kind][i, test], inputs.data.labels[test])
            keys = {"model": model, "protocol": protocol, "seed": replica.seed, "split": replica.split}
            keys["source"] = inputs.source_number(replica.split)
            keys["images"] = image_scores(fit.logits[kind][i], inputs.data.labels, test)
            rows.append(keys | {name: values[name] for name in ("accuracy", "loss", "n")} | {"n_train": len(train)})
    return pd.DataFrame(rows)


def stand_in(folder: Path, name: str, config: DataConfig) -> Inputs:
    """Digits and a ResNet that ships, for what takes images or BatchNorm and the study's own inputs lack.

    The digits are those of the data set `name` where it holds digits itself.
    """
    own = (config.dataset, config.image_size) == (LENT_DIGITS.dataset, LENT_DIGITS.image_size)
    name, config = (name, config) if own else (LENT, LENT_DIGITS)
    return open_inputs(folder / name, config, BackboneConfig(model="tiny_resnet", init="shipped"))


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
    rows = []
    peeking = without_validation(inputs)
    for variant in variants:
        honest = replica_scores(fit_variant(variant, inputs, config), inputs, variant)
        peeked = replica_scores(fit_variant(variant, peeking, config), peeking, variant)
        rows += [honest, peeked[peeked["protocol"] == ON_TEST]]
    return pd.concat(rows, ignore_index=True)


def as_published(variants: Sequence[str], inputs: Inputs, config: TrainConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores on the published partition, and the test accuracy after every epoch: model, seed, epoch, accuracy."""
    inputs = published_partition(inputs)
    scores = []
    curves = []
    for variant in variants:
        fit = fit_variant(variant, inputs, config)
        scores.append(replica_scores(fit, inputs, variant))
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
            scores = replica_scores(fit_variant(variant, inputs, changed), inputs, variant)
            rows.append(scores[scores["protocol"] == LAST].assign(protocol=schedule))
    return pd.concat(rows, ignore_index=True)
