"""Training a head with every seed and every learning rate at once, on cached features."""

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, embedding

from qtl_utils.data.splits import Splits
from qtl_utils.models.heads import is_circuit
from qtl_utils.study.config import TrainConfig
from qtl_utils.study.environment import progress
from qtl_utils.training import fused
from qtl_utils.training.fits import (
    Best,
    Fit,
    Rates,
    Replica,
    batches_of,
    join_fits,
    loss_and_right,
    lr_decay,
    random_orders,
    selection_subset,
    stack_indices,
)
from qtl_utils.training.optimizers import make_optimizer
from qtl_utils.training.stacks import Stack

MAX_PARAMETERS = 1_000_000  # of all replicas that torch trains at once: what stays in cache is faster
MAX_AMPLITUDES = 2**18  # samples x 2^n_qubits that go through PennyLane's simulators at once; ours takes any number
MAX_SAMPLES = 2**17  # samples x replicas that go through a head at once


def fit_heads(
    build: Callable[[int], nn.Module],
    features: torch.Tensor,
    labels: np.ndarray,
    splits: Splits,
    replicas: Sequence[Replica],
    config: TrainConfig,
    *,
    orders: Callable[[np.ndarray, int, int], np.ndarray] = random_orders,
    pace: Callable[[int], dict[str, float]] | None = None,
    watch: Callable[[int, Sequence[Replica], dict[str, torch.Tensor]], None] | None = None,
    label: str = "head",
) -> Fit:
    """Trains `build(seed)`, any module from features to logits, for all `replicas` together.

    Dropout draws from torch's global generator; BatchNorm, which mixes the samples of a batch, is refused.
    features: (N, F), or (n_splits, N, F) where they are scaled per split. Every replica has its own initial weights,
    data order and learning rates, and ends as it would alone. Epoch selection as `selection_subset` says.
    `pace(epoch)`, epochs from 0: the factor of the "classical" and the "quantum" learning rates in place of the
    study's decay; a group at 0 rests, and so do the optimiser's moments of it.
    Chains of linear layers, elementwise functions and the circuits of our own simulator run in one kernel on the CPU
    (`fused`), everything else in torch, with the same numbers to rounding; `path` of the result says which and why.
    `watch(step, replicas, parameters)` sees the parameters (R, ...) of the replicas trained together: at step 0 as
    they start, then after every step. It must not change them.
    """
    module = build(replicas[0].seed)
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules()):
        raise ValueError(f"{label}: heads on cached features cannot hold BatchNorm; use LayerNorm")
    reason = fused.why_not(module, features.device)
    groups = _groups(module, reason, splits, replicas, config)
    how = config, orders, pace, watch, label, reason
    parts = [_fit_group(build, features, labels, splits, [replicas[i] for i in group], *how) for group in groups]
    return join_fits(parts, np.argsort(np.concatenate(groups)))


def _groups(module: nn.Module, reason: str, splits: Splits, replicas, config: TrainConfig) -> list[np.ndarray]:
    """Positions of the replicas trained together: as many as memory takes, all with the same number of batches."""
    parameters = max(1, sum(p.numel() for p in module.parameters()))
    most = fused.MAX_PARAMETERS // parameters
    if reason:
        most = min(MAX_PARAMETERS // parameters, most_samples(module) // config.batch_size)
    most = max(1, most)
    sizes = np.array([len(splits.indices(r.split, "train")) for r in replicas])
    steps = -(-sizes // config.batch_size)
    alike = [np.flatnonzero(steps == n) for n in np.unique(steps)]
    return [part for group in alike for part in np.array_split(group, math.ceil(len(group) / most))]


def most_samples(module: nn.Module) -> int:
    """How many samples, over all replicas, may go through `module` at once."""
    simulated = [m for m in module.modules() if is_circuit(m) and m.simulator != "statevector"]
    return min((MAX_AMPLITUDES // 2**layer.n_qubits for layer in simulated), default=MAX_SAMPLES)


def _fit_group(build, features, labels, splits, replicas, config, orders, pace, watch, label, reason) -> Fit:
    """Trains R replicas together: N samples of F features and K classes, in batches of B."""
    start = time.perf_counter()
    dtype = getattr(torch, config.precision(whole=False))
    modules = [build(r.seed) for r in replicas]
    if any(p.dtype != dtype or p.device != features.device for p in modules[0].parameters()):
        modules = [module.to(device=features.device, dtype=dtype) for module in modules]
    samples = Samples(features.to(dtype), labels, replicas)
    heads = (TorchHeads if reason else fused.FusedHeads)(modules, samples.table, [r.rates for r in replicas], config)
    given = [orders(splits.indices(r.split, "train"), r.seed, config.epochs) for r in replicas]  # R of (epochs, n)
    batches = np.stack([batches_of(order, config.batch_size) for order in given], axis=2)  # (epochs, steps, R, B)
    chosen = stack_indices([splits.indices(r.split, selection_subset(splits)) for r in replicas])
    chosen_targets, chosen_rows = samples.targets_and_rows(chosen)  # each (R, n)
    history = np.zeros((len(replicas), config.epochs, 2, 2))  # [train, selection] x [loss, accuracy]
    best = Best(len(replicas), heads.state)
    steps = 0
    if watch:
        watch(steps, replicas, heads.parameters)
    for epoch in progress(range(config.epochs), label):
        decay = pace(epoch) if pace else lr_decay(epoch, config)
        targets, rows = samples.targets_and_rows(batches[epoch])  # (steps, R, B), -1 where a batch is short
        at_once = 1 if watch else len(rows)
        # loss and accuracy on training samples are those met on the way, as in the published code
        seen = np.zeros((len(replicas), 2))
        for first in range(0, len(rows), at_once):
            part = slice(first, first + at_once)
            seen += heads.train(rows[part], targets[part], decay)
            if watch:
                steps += 1
                watch(steps, replicas, heads.parameters)
        history[:, epoch, 0] = seen / (targets >= 0).sum((0, 2))[:, None]
        on_chosen = loss_and_right(heads.evaluate(chosen_rows), torch.as_tensor(chosen_targets, device=features.device))
        history[:, epoch, 1] = on_chosen / (chosen_targets >= 0).sum(1, keepdims=True)
        best.update(epoch, history[:, epoch, 1], heads.state)
    weights = {name: p.detach().clone().cpu() for name, p in heads.parameters.items()}
    logits = {"last": heads.evaluate(samples.everything).double().cpu().numpy()}
    heads.load(best.parameters)
    logits["best"] = heads.evaluate(samples.everything).double().cpu().numpy()
    seconds = np.full(len(replicas), (time.perf_counter() - start) / len(replicas))
    return Fit(tuple(replicas), history, best.epoch, logits, weights, seconds, heads.path + (reason and f" ({reason})"))


class TorchHeads:
    """R modules of one shape and their optimiser, trained and evaluated by torch.

    `parameters`: by name, (R, ...); `state`: what `Best` keeps of them.
    """

    path = "torch"

    def __init__(self, modules: list[nn.Module], table: torch.Tensor, rates: Sequence[Rates], config: TrainConfig):
        self.config = config
        self.table = table
        self.model = Stack(modules)
        self.parameters = self.state = self.model.parameters
        self.step = make_optimizer(self.model, modules[0], rates, config)

    def train(self, rows: np.ndarray, targets: np.ndarray, decay) -> np.ndarray:
        """Trains the steps of `rows` of the table and `targets` (steps, R, B), -1 where there is no sample.

        decay: a factor of all rates or one for each of "classical" and "quantum". Returns the sums of losses and of
        right answers, (R, 2).
        """
        rows, targets = (torch.as_tensor(values, device=self.table.device) for values in (rows, targets))
        shares = loss_weights(targets, self.config.reduction, self.table.dtype)
        outputs = []
        for row, target, share in zip(rows, targets, shares, strict=True):  # each (R, B)
            logits = self.model(embedding(row, self.table))  # (R, B, K)
            loss = cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none", ignore_index=-1)
            # one backward pass for the weighted sum of all losses: replicas share no parameter
            gradients = torch.autograd.grad(loss, self.model.trainable, share.flatten(), materialize_grads=True)
            self.step(gradients, decay)
            outputs.append(logits.detach())
        return loss_and_right(torch.cat(outputs, 1), targets.movedim(0, 1).flatten(1))

    def evaluate(self, rows: np.ndarray) -> torch.Tensor:
        """Logits (R, n, K) of the rows (R, n) of the table."""
        return evaluate(self.model, self.table, torch.as_tensor(rows, device=self.table.device))

    def load(self, parameters: dict[str, torch.Tensor]) -> None:
        self.model.load(parameters)


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


def loss_weights(targets: torch.Tensor, reduction: str, dtype: torch.dtype) -> torch.Tensor:
    """What each sample (..., B) counts in the loss of its batch: 1, or of a mean its share; nothing where it pads."""
    weights = (targets >= 0).to(dtype)
    if reduction == "mean":
        weights /= weights.sum(-1, keepdim=True)
    return weights


def first_rows(features: torch.Tensor, replicas: Sequence[Replica]) -> np.ndarray:
    """Where the features of each replica's split begin, (R, 1), once those of all splits stand below each other."""
    split = np.array([r.split for r in replicas])[:, None]
    return split * (features.shape[-2] if features.ndim == 3 else 0)


def predict(
    build: Callable[[int], nn.Module],
    weights: dict[str, torch.Tensor],
    features: torch.Tensor,
    replicas: Sequence[Replica],
    config: TrainConfig,
) -> np.ndarray:
    """Logits (R, N, K) of all samples, of heads with the parameters `weights` (R, ...), as `Fit.weights` holds them.

    features: as `fit_heads` takes them.
    """
    features = features.to(getattr(torch, config.precision(whole=False)))
    modules = [build(r.seed).to(features) for r in replicas]
    most = max(1, MAX_PARAMETERS // max(1, sum(p.numel() for p in modules[0].parameters())))
    parts = []
    for part in np.array_split(np.arange(len(replicas)), math.ceil(len(replicas) / most)):
        model = Stack([modules[i] for i in part])
        model.load({name: values[part] for name, values in weights.items()})
        rows = np.arange(features.shape[-2]) + first_rows(features, [replicas[i] for i in part])
        parts.append(evaluate(model, features.flatten(0, -2), torch.as_tensor(rows, device=features.device)))
    return torch.cat(parts).double().cpu().numpy()


@torch.no_grad()
def evaluate(model: Stack, table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Logits (R, n, K) of the rows (R, n) of `table` in eval mode, as many at a time as memory takes."""
    rows = rows[0] if (rows == rows[0]).all() else rows
    training = model.base.training
    model.base.eval()
    at_once = max(1, most_samples(model.base) // model.replicas)
    logits = torch.cat([model(embedding(part, table)) for part in rows.split(at_once, dim=-1)], dim=1)
    model.base.train(training)
    return logits
