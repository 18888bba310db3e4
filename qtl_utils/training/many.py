"""Training a head with every seed and every learning rate at once, on cached features."""

import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import embedding

from qtl_utils.data.splits import Splits
from qtl_utils.models.heads import is_circuit
from qtl_utils.models.network import sample_losses
from qtl_utils.study.config import TrainConfig
from qtl_utils.study.environment import progress
from qtl_utils.training import fused
from qtl_utils.training.fits import (
    Best,
    Fit,
    Rates,
    Replica,
    Samples,
    batches_of,
    first_rows,
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
BLOCK_SECONDS = 0.5  # of epochs that are trained in one go


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
    circuits = [m for m in module.modules() if is_circuit(m)]
    theirs = [2**m.n_qubits for m in circuits if not m.ours]
    noisy = [m for m in circuits if m.ours and m.simulator != "statevector"]
    kept = [4**m.program.n_qubits for m in noisy if m.diff_method == "backprop"]
    return min((MAX_AMPLITUDES // size for size in (*theirs, *kept)), default=MAX_SAMPLES)


def _fit_group(build, features, labels, splits, replicas, config, orders, pace, watch, label, reason) -> Fit:
    """Trains R replicas together: N samples of F features and K classes, in batches of B."""
    start = time.perf_counter()
    dtype = getattr(torch, config.precision(whole=False))
    modules = [build(r.seed) for r in replicas]
    if any(p.dtype != dtype or p.device != features.device for p in modules[0].parameters()):
        modules = [module.to(device=features.device, dtype=dtype) for module in modules]
    samples = Samples(features.to(dtype), labels, replicas)
    heads = (TorchHeads if reason else fused.FusedHeads)(modules, samples, [r.rates for r in replicas], config)
    given = [orders(splits.indices(r.split, "train"), r.seed, config.epochs) for r in replicas]  # R of (epochs, n)
    batches = np.stack([batches_of(order, config.batch_size) for order in given], axis=2)  # (epochs, steps, R, B)
    chosen = stack_indices([splits.indices(r.split, selection_subset(splits)) for r in replicas])  # (R, n)
    history = np.zeros((len(replicas), config.epochs, 2, 2))  # [train, selection] x [loss, accuracy], as sums
    decays = [pace(epoch) if pace else lr_decay(epoch, config) for epoch in range(config.epochs)]
    if watch:
        watch(0, replicas, heads.parameters)
    epoch = 0
    bar = iter(progress(range(config.epochs), label))
    for count in _blocks(config.epochs, 1 if watch else config.epochs):
        block = slice(epoch, epoch + count)
        if watch:
            history[:, block] = _watched(heads, batches[block], decays[block], chosen, epoch, replicas, watch)
        else:
            history[:, block] = heads.train(batches[block], decays[block], chosen)
        epoch += count
        for _ in range(count):
            next(bar)
    next(bar, None)  # which takes it away
    # loss and accuracy on training samples are those met on the way, as in the published code
    history[:, :, 0] /= (batches >= 0).sum((1, 3)).T[:, :, None]
    history[:, :, 1] /= (chosen >= 0).sum(1)[:, None, None]
    weights = {name: p.detach().clone().cpu() for name, p in heads.parameters.items()}
    logits = {"last": heads.evaluate()}
    heads.load_best()
    logits["best"] = heads.evaluate()
    seconds = np.full(len(replicas), (time.perf_counter() - start) / len(replicas))
    path = heads.path + (reason and f" ({reason})")
    return Fit(tuple(replicas), history, heads.best_epoch, logits, weights, seconds, path)


def _blocks(epochs: int, most: int) -> Iterator[int]:
    """How many epochs to train in one go, at most `most`: one first, then as many as take about half a second."""
    count = 1
    while epochs:
        count = min(count, most, epochs)
        start = time.perf_counter()
        yield count
        epochs -= count
        count = max(1, int(BLOCK_SECONDS * count / max(time.perf_counter() - start, 1e-6)))


def _watched(heads, batches, decays, chosen, epoch, replicas, watch) -> np.ndarray:
    """One epoch, step by step, each shown to `watch`; its history."""
    steps = batches.shape[1]
    history = np.zeros((len(replicas), 1, 2, 2))
    for step in range(steps):
        last = step == steps - 1
        history += heads.train(batches[:, step : step + 1], decays, chosen if last else None)
        watch(epoch * steps + step + 1, replicas, heads.parameters)
    return history


class TorchHeads:
    """R modules of one shape and their optimiser, trained and evaluated by torch.

    `parameters`: by name, (R, ...).
    """

    path = "torch"

    def __init__(self, modules: list[nn.Module], samples: Samples, rates: Sequence[Rates], config: TrainConfig):
        self.config = config
        self.samples = samples
        self.table = samples.table
        self.model = Stack(modules)
        self.parameters = self.model.parameters
        self.step = make_optimizer(self.model, modules[0], rates, config)
        self.best = Best(len(modules), self.parameters)
        self.epochs = 0

    def train(self, batches: np.ndarray, decays: Sequence, chosen: np.ndarray | None) -> np.ndarray:
        """Trains the epochs of `batches` (epochs, steps, R, B) of samples, -1 where there is none.

        decays: of every epoch, a factor of all rates or one for each of "classical" and "quantum". chosen (R, n):
        samples that are looked at after every epoch, and tell which is the best; None: none. Returns (R, epochs, 2, 2),
        sums of losses and of right answers while training and on the chosen samples.
        """
        history = np.zeros((self.model.replicas, len(batches), 2, 2))
        for epoch, (steps, decay) in enumerate(zip(batches, decays, strict=True)):
            history[:, epoch, 0] = self._steps(*self._looked_up(steps), decay)
            if chosen is None:
                continue
            targets, rows = self._looked_up(chosen)
            sums = loss_and_right(evaluate(self.model, self.table, rows), targets, self.config.loss)
            history[:, epoch, 1] = sums
            self.best.update(self.epochs, sums / (chosen >= 0).sum(1, keepdims=True), self.parameters)
            self.epochs += 1
        return history

    def _looked_up(self, index: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(torch.as_tensor(a, device=self.table.device) for a in self.samples.targets_and_rows(index))

    def _steps(self, targets: torch.Tensor, rows: torch.Tensor, decay) -> np.ndarray:
        shares = loss_weights(targets, self.config.reduction, self.table.dtype)
        outputs = []
        for row, target, share in zip(rows, targets, shares, strict=True):  # each (R, B)
            logits = self.model(embedding(row, self.table))  # (R, B, K)
            loss = sample_losses(logits.flatten(0, 1), target.flatten(), self.config.loss)
            # one backward pass for the weighted sum of all losses: replicas share no parameter
            gradients = torch.autograd.grad(loss, self.model.trainable, share.flatten(), materialize_grads=True)
            self.step(gradients, decay)
            outputs.append(logits.detach())
        return loss_and_right(torch.cat(outputs, 1), targets.movedim(0, 1).flatten(1), self.config.loss)

    @property
    def best_epoch(self) -> np.ndarray:
        """The epoch (R,), counted from 1, that did best on the chosen samples."""
        return self.best.epoch

    def evaluate(self) -> np.ndarray:
        """Logits (R, N, K) of all samples."""
        rows = torch.as_tensor(self.samples.everything, device=self.table.device)
        return evaluate(self.model, self.table, rows).double().cpu().numpy()

    def load_best(self) -> None:
        """Takes the parameters of the best epoch."""
        self.model.load(self.best.parameters)


def loss_weights(targets: torch.Tensor, reduction: str, dtype: torch.dtype) -> torch.Tensor:
    """What each sample (..., B) counts in the loss of its batch: 1, or of a mean its share; nothing where it pads."""
    weights = (targets >= 0).to(dtype)
    if reduction == "mean":
        weights /= weights.sum(-1, keepdim=True)
    return weights


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
