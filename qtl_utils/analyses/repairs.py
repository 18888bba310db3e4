"""`repair` on trial: how much of the accuracy that a fault costs it wins back, and whether it harms healthy models.

ON_TRIAL are the faults of `qtl_utils.doctor.faults` on made-up points that keep a model from running or cost it three
points of test accuracy or more here; what each costs is measured beside what is won back.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from qtl_utils.doctor.faults import FAULTS, HEALTHY, images, points
from qtl_utils.doctor.patient import kept_random
from qtl_utils.doctor.recipe import Recipe, copied, seed_all
from qtl_utils.doctor.repair import repair
from qtl_utils.doctor.trial import one_training, read_samples
from qtl_utils.results import stats

ON_TRIAL = ("detached", "sign", "mixed_batch", "jumping_angles", "dead_start", "saturated")  # silent
ON_TRIAL += ("lists", "dtype", "broadcast", "adjoint_shots", "tuple_shape", "frozen_angles")  # these raise
SAMPLES = 200
EPOCHS = 6


def _case(told: dict, n: int) -> tuple[nn.Module | Callable, tuple[torch.Tensor, torch.Tensor], dict]:
    """What `repair` takes, of what a fault or a healthy model gives `diagnose`: more samples of the same kind."""
    small, _ = told["batch"]
    draw = points if small.dim() == 2 else images
    x, y = draw(100, n)
    x = x * (small.std() / draw()[0].std())  # a fault may lie in the inputs
    like = told["batch"][1]
    y = y.to(like.dtype).reshape(-1, *like.shape[1:]) if like.is_floating_point() else y
    more = {key: told[key] for key in ("loss", "optimizer", "scheduler") if key in told}
    return told["model_or_factory"], (x, y), more


def _drawn(name: str, which: str, seed: int) -> dict:
    """The broken, mended or healthy model of `name` with the initial weights of `seed`."""
    seed_all(seed)
    return HEALTHY[name]() if which == "healthy" else getattr(FAULTS[name], which)()


def _scores(told: dict, samples, seed: int, epochs: int) -> float:
    """Test accuracy of a model as its author trains it; at chance where it does not run."""
    model, _, more = _case(told, 8)
    model = model if isinstance(model, nn.Module) else model()
    loss = more.pop("loss", nn.CrossEntropyLoss())
    recipe = Recipe(lambda _: copied(model), loss, epochs, batch_size=16, original=model, **more)
    try:
        return one_training(recipe, samples, seed).test
    except Exception:  # a fault that raises: nothing is classified
        return math.nan


def won_back(name: str, seeds: Sequence[int], minutes: float = 1.0, epochs: int = EPOCHS) -> pd.DataFrame:
    """Test accuracy of a fault's broken, its author's mended and the repaired model, and what is won back.

    Every seed has its own initial weights; `repair` sees the broken model of a seed alone, with its own seeds for its
    trials. A model that raises counts as chance, one half. A row per seed.
    """
    rows = []
    for seed in seeds:
        with kept_random():
            rows.append(_one(name, seed, minutes, epochs))
    table = pd.DataFrame(np.nan_to_num(np.array(rows), nan=0.5), columns=["broken", "mended", "repaired"])
    return table.assign(fault=name, seed=list(seeds))


def recovered(trials: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds and the share of the lost accuracy that was won back, a row per fault, then of all together.

    `low`, `high`: Fieller's 95 % interval of the ratio of paired means; of all together, over the seeds' means.
    """
    rows = []
    parts = [*trials.groupby("fault", sort=False), ("all", trials.groupby("seed")[_SCORES].mean())]
    for name, part in parts:
        share, low, high = ratio(*((part[c] - part["broken"]).to_numpy() for c in ("repaired", "mended")))
        means = part[_SCORES].mean().to_dict()
        rows.append({"fault": name, **means, "recovered": share, "low": low, "high": high, "n": len(part)})
    return pd.DataFrame(rows)


_SCORES = ["broken", "mended", "repaired"]


def _one(name: str, seed: int, minutes: float, epochs: int) -> tuple[float, float, float]:
    model, data, more = _case(_drawn(name, "broken", seed), SAMPLES)
    samples = read_samples(data)
    broken = _scores(_drawn(name, "broken", seed), samples, seed, epochs)
    author = _drawn(name, "mended", seed)
    small = author["batch"][0]
    own = read_samples(_case(author, SAMPLES)[1]) if small.std() != data[0].std() else samples
    mended = _scores(author, own, seed, epochs)
    found = repair(model, data, minutes=minutes, epochs=epochs, seeds=5, **more)
    after = found.mended if found.kept and math.isfinite(found.mended) else broken
    return broken, mended, after


def harmless(name: str, seeds: Sequence[int], minutes: float = 1.0, epochs: int = EPOCHS) -> dict[str, object]:
    """What `repair` does to a healthy model: the change of test accuracy, and how many mends it kept."""
    changes = []
    kept = 0
    for seed in seeds:
        with kept_random():
            model, data, more = _case(_drawn(name, "healthy", seed), SAMPLES)
            found = repair(model, data, minutes=minutes, epochs=epochs, seeds=5, **more)
            mended = bool(found.kept) and math.isfinite(found.mended)
            changes.append(found.mended - found.broken if mended else 0.0)  # a model that is left alone is as it was
            kept += len(found.kept)
    change = np.array(changes)
    low = high = change.mean()
    if change.std() > 1e-12:
        low, high = stats.t_interval(change.mean(), change.std(ddof=1) / np.sqrt(len(change)), len(change) - 1)
    return {"model": name, "change": change.mean(), "low": low, "high": high, "mends": kept, "n": len(seeds)}


def ratio(gained: np.ndarray, lost: np.ndarray) -> tuple[float, float, float]:
    """mean(gained) / mean(lost) with Fieller's 95 % interval, which is NaN where the loss cannot be told from zero."""
    n = len(gained)
    mean_g, mean_l = gained.mean(), lost.mean()
    share = float(mean_g / mean_l) if mean_l else math.nan
    if n < 2:
        return share, math.nan, math.nan
    cov = np.cov(gained, lost) / n
    t2 = stats.t_interval(0.0, 1.0, n - 1)[1] ** 2
    a = mean_l**2 - t2 * cov[1, 1]
    if a <= 0:
        return share, math.nan, math.nan
    b = mean_g * mean_l - t2 * cov[0, 1]
    root = math.sqrt(max(b**2 - a * (mean_g**2 - t2 * cov[0, 0]), 0.0))
    return share, (b - root) / a, (b + root) / a
