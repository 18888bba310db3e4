"""What a training is and what it leaves behind: seeds, learning rates, orders of samples, the best epoch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qtl_utils.data.splits import Splits
from qtl_utils.models.network import sample_losses
from qtl_utils.study.config import TrainConfig


@dataclass(frozen=True)
class Rates:
    """Learning rates per group of parameters, and the scaling of a frozen head's features; None: the run's own."""

    classical: float
    quantum: float
    backbone: float
    feature_scaling: str | None = None


@dataclass(frozen=True)
class Replica:
    """One training: a seed, the split it uses, and its learning rates (candidate 0 is the study's own)."""

    seed: int
    split: int
    candidate: int
    rates: Rates


@dataclass(frozen=True)
class Fit:
    """What R trainings left behind, for N samples and K classes."""

    replicas: tuple[Replica, ...]
    history: np.ndarray  # (R, epochs, 2, 2): [train, selection] x [loss, accuracy]
    best_epoch: np.ndarray  # (R,) counted from 1
    logits: dict[str, np.ndarray]  # epoch kind "best" or "last" -> (R, N, K)
    weights: dict[str, torch.Tensor]  # parameters of the head after the last epoch, (R, ...)
    seconds: np.ndarray  # (R,) wall time; of trainings done together, an equal share
    path: str = "torch"  # who computed the steps: "torch", or "fused", one kernel; see `fit_heads`


def make_replicas(seeds: Sequence[int], n_splits: int, candidates: Sequence[Rates]) -> tuple[Replica, ...]:
    """Every candidate with every seed; seed s uses split s mod n_splits."""
    return tuple(
        Replica(seed, seed % n_splits, number, rates) for number, rates in enumerate(candidates) for seed in seeds
    )


def selection_subset(splits: Splits) -> str:
    """Where the best epoch is looked for: validation, or, as the published code does, the test set."""
    return "test" if splits.protocol == "as_published" else "validation"


def batches_of(orders: np.ndarray, batch_size: int) -> np.ndarray:
    """`orders` (..., n) cut into rows (..., steps, batch_size); the last one is filled up with -1."""
    *lead, n = orders.shape
    steps = math.ceil(n / batch_size)
    padded = np.full((*lead, steps * batch_size), -1)
    padded[..., :n] = orders
    return padded.reshape(*lead, steps, batch_size)


def random_orders(train: np.ndarray, seed: int, epochs: int) -> np.ndarray:
    """The order (epochs, n) in which a seed sees the training samples."""
    rng = np.random.default_rng([seed, 2019])
    return rng.permuted(np.broadcast_to(train, (epochs, len(train))), axis=1)


def lr_decay(epoch: int, config: TrainConfig) -> float:
    """The factor on every learning rate in `epoch` (from 0): StepLR's, stepped after an epoch or before it."""
    steps = epoch + (config.lr_schedule == "before")
    return config.lr_gamma ** (steps // config.lr_step)


def join_fits(fits: Sequence[Fit], order: np.ndarray | None = None) -> Fit:
    """Several fits of the same model as one; `order` rearranges the replicas."""
    replicas = [r for fit in fits for r in fit.replicas]
    order = np.arange(len(replicas)) if order is None else order
    return Fit(
        replicas=tuple(replicas[i] for i in order),
        history=np.concatenate([fit.history for fit in fits])[order],
        best_epoch=np.concatenate([fit.best_epoch for fit in fits])[order],
        logits={kind: np.concatenate([fit.logits[kind] for fit in fits])[order] for kind in ("best", "last")},
        weights={name: torch.cat([fit.weights[name] for fit in fits])[order] for name in fits[0].weights},
        seconds=np.concatenate([fit.seconds for fit in fits])[order],
        path=", ".join(dict.fromkeys(fit.path for fit in fits)),
    )


class Best:
    """Keeps, replica by replica, the parameters of the epoch with the highest accuracy, then the lowest loss."""

    def __init__(self, n: int, parameters: dict[str, torch.Tensor]):
        self.epoch = np.ones(n, int)
        self.score = np.full((n, 2), -np.inf)
        self.parameters = {name: p.detach().clone() for name, p in parameters.items()}

    def update(self, epoch: int, values: np.ndarray, parameters: dict[str, torch.Tensor]) -> None:
        """values: (n, 2) loss and accuracy of the selection subset after `epoch` (from 0)."""
        accuracy = values[:, 1]
        loss = -np.nan_to_num(values[:, 0], nan=np.inf)
        better = (accuracy > self.score[:, 0]) | ((accuracy == self.score[:, 0]) & (loss > self.score[:, 1]))
        if not better.any():
            return
        self.score[better] = np.stack([accuracy, loss], 1)[better]
        self.epoch[better] = epoch + 1
        for name, kept in self.parameters.items():
            new = parameters[name].detach()
            if better.all():
                kept.copy_(new)
            else:
                mask = torch.as_tensor(better, device=kept.device)
                kept[mask] = new[mask]


def stack_indices(indices: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of different lengths as one array (R, longest), filled up with -1."""
    longest = max(map(len, indices))
    return np.stack([np.pad(i, (0, longest - len(i)), constant_values=-1) for i in indices])


def loss_and_right(logits: torch.Tensor, targets: torch.Tensor, loss: str) -> np.ndarray:
    """Sums of losses and of right answers, (R, 2), of logits (R, n, K) where targets (R, n) are not -1."""
    losses = sample_losses(logits.flatten(0, 1), targets.flatten(), loss)
    sums = losses.view(targets.shape).double().sum(1), (logits.argmax(-1) == targets).double().sum(1)
    return torch.stack(sums, 1).cpu().numpy()


class Samples:
    """Features and labels of all samples, as replicas that train on different splits look them up."""

    def __init__(self, features: torch.Tensor, labels: np.ndarray, replicas: Sequence[Replica]):
        """features: (N, F), or (n_splits, N, F) where splits differ in them."""
        self.table = features.flatten(0, -2).contiguous()  # (N, F), or (n_splits * N, F)
        self.labels = np.asarray(labels)
        self.first = first_rows(features, replicas)
        self.everything = np.arange(len(labels)) + self.first  # (R, N) rows of the table

    def targets_and_rows(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Class and row of the table for samples (..., R, n); -1, the padding, is no class and reads some row."""
        filled = np.maximum(index, 0)
        targets = np.where(index >= 0, self.labels[filled], -1)
        return targets, filled + self.first


def first_rows(features: torch.Tensor, replicas: Sequence[Replica]) -> np.ndarray:
    """Where the features of each replica's split begin, (R, 1), once those of all splits stand below each other."""
    split = np.array([r.split for r in replicas])[:, None]
    return split * (features.shape[-2] if features.ndim == 3 else 0)
