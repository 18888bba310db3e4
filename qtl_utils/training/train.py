"""Training: every seed of a head at once on cached features (`fit_heads`), or a whole network (`fit_network`)."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy, embedding, linear
from torch.optim.adam import adam

from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.data.datasets import Splits
from qtl_utils.models.heads import Squash, TrigonometricFeatures, circuit_angles
from qtl_utils.study.config import TrainConfig
from qtl_utils.study.environment import progress
from qtl_utils.study.paths import atomic

MAX_PARAMETERS = 1_000_000  # of all replicas that are trained at once: what stays in cache is faster
MAX_AMPLITUDES = 2**18  # samples x 2^n_qubits that go through PennyLane's simulators at once; ours takes any number
MAX_SAMPLES = 2**17  # samples x replicas that go through a head at once
CHECKPOINT_SECONDS = 60.0
EVALUATION_BATCH = 128  # images per forward pass when a network is evaluated


@dataclass(frozen=True)
class Rates:
    """Learning rates per group of parameters."""

    classical: float
    quantum: float
    backbone: float


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


def make_replicas(seeds: Sequence[int], n_splits: int, candidates: Sequence[Rates]) -> tuple[Replica, ...]:
    """Every candidate with every seed; seed s uses split s mod n_splits."""
    return tuple(
        Replica(seed, seed % n_splits, number, rates) for number, rates in enumerate(candidates) for seed in seeds
    )


def selection_subset(splits: Splits) -> str:
    """Where the best epoch is looked for: validation, or, as the published code does, the test set."""
    return "test" if splits.protocol == "as_published" else "validation"


def batches_of(order: np.ndarray, batch_size: int) -> np.ndarray:
    """`order` (n,) cut into rows (steps, batch_size); the last one is filled up with -1."""
    steps = math.ceil(len(order) / batch_size)
    padded = np.full(steps * batch_size, -1)
    padded[: len(order)] = order
    return padded.reshape(steps, batch_size)


def random_orders(train: np.ndarray, seed: int, epochs: int) -> np.ndarray:
    """The order (epochs, n) in which a seed sees the training samples."""
    rng = np.random.default_rng([seed, 2019])
    return np.stack([rng.permutation(train) for _ in range(epochs)])


def lr_decay(epoch: int, config: TrainConfig) -> float:
    """The factor on every learning rate in `epoch` (from 0): StepLR's, stepped after an epoch or before it."""
    steps = epoch + (config.lr_schedule == "before")
    return config.lr_gamma ** (steps // config.lr_step)


# ---- all seeds at once ----------------------------------------------------------------------------------------------


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
    `watch(step, replicas, parameters)` sees the parameters (R, ...) of the replicas trained together: at step 0 as
    they start, then after every step. It must not change them.
    """
    module = build(replicas[0].seed)
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules()):
        raise ValueError(f"{label}: heads on cached features cannot hold BatchNorm; use LayerNorm")
    groups = _groups(module, splits, replicas, config)
    parts = [
        _fit_group(build, features, labels, splits, [replicas[i] for i in group], config, orders, pace, watch, label)
        for group in groups
    ]
    return join_fits(parts, np.argsort(np.concatenate(groups)))


def _groups(module: nn.Module, splits: Splits, replicas: Sequence[Replica], config: TrainConfig) -> list[np.ndarray]:
    """Positions of the replicas trained together: as many as memory takes, all with the same number of batches."""
    by_memory = MAX_PARAMETERS // max(1, sum(p.numel() for p in module.parameters()))
    most = max(1, min(by_memory, most_samples(module) // config.batch_size))
    sizes = np.array([len(splits.indices(r.split, "train")) for r in replicas])
    steps = -(-sizes // config.batch_size)
    alike = [np.flatnonzero(steps == n) for n in np.unique(steps)]
    return [part for group in alike for part in np.array_split(group, math.ceil(len(group) / most))]


def most_samples(module: nn.Module) -> int:
    """How many samples, over all replicas, may go through `module` at once."""
    simulated = [m for m in module.modules() if isinstance(m, QuantumLayer) and m.backend != "statevector"]
    return min((MAX_AMPLITUDES // 2**layer.n_qubits for layer in simulated), default=MAX_SAMPLES)


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
    )


def _fit_group(build, features, labels, splits, replicas, config, orders, pace, watch, label) -> Fit:
    start, device = time.perf_counter(), features.device
    dtype = getattr(torch, config.precision(whole=False))
    features, labels = features.to(dtype), torch.as_tensor(labels, device=device)
    modules = [build(r.seed).to(device=device, dtype=dtype) for r in replicas]
    model = Stack(modules)
    step, steps = make_optimizer(model, modules[0], [r.rates for r in replicas], config), 0
    if watch:
        watch(0, replicas, model.parameters)
    train = [splits.indices(r.split, "train") for r in replicas]
    order = [orders(t, r.seed, config.epochs) for t, r in zip(train, replicas, strict=True)]
    chosen = stack_indices([splits.indices(r.split, selection_subset(splits)) for r in replicas], device)
    table, first = features.flatten(0, -2), first_rows(features, replicas)

    def targets_and_rows(index):  # (..., R, B); -1, the padding, is no target and reads some row
        filled = index.clamp(min=0)
        return torch.where(index >= 0, labels[filled], -1), filled + first

    history = np.zeros((len(replicas), config.epochs, 2, 2))
    best = Best(len(replicas), model.parameters)
    chosen_targets, chosen_rows = targets_and_rows(chosen)
    for epoch in progress(range(config.epochs), label):
        batches = np.stack([batches_of(o[epoch], config.batch_size) for o in order], axis=1)  # (steps, R, B)
        targets, rows = targets_and_rows(torch.as_tensor(batches, device=device))
        share = (targets >= 0).to(dtype)  # of each sample in the loss that is minimised
        if config.reduction == "mean":
            share /= share.sum(-1, keepdim=True)
        decay, outputs = pace(epoch) if pace else lr_decay(epoch, config), []
        for row, target, weight in zip(rows, targets.flatten(1), share.flatten(1), strict=True):
            logits = model(embedding(row, table))
            loss = cross_entropy(logits.flatten(0, 1), target, reduction="none", ignore_index=-1)
            gradients = torch.autograd.grad(loss, model.trainable, weight, materialize_grads=True)
            step(gradients, decay)
            outputs.append(logits.detach())
            if watch:
                steps += 1
                watch(steps, replicas, model.parameters)
        history[:, epoch, 0] = loss_and_accuracy(torch.cat(outputs, 1), targets.movedim(0, 1).flatten(1))
        history[:, epoch, 1] = loss_and_accuracy(evaluate(model, table, chosen_rows), chosen_targets)
        best.update(epoch, history[:, epoch, 1], model.parameters)
    everything = torch.arange(len(labels), device=device) + first
    last = {name: p.detach().clone() for name, p in model.parameters.items()}
    logits = {"last": evaluate(model, table, everything).double().cpu().numpy()}
    model.load(best.parameters)
    logits["best"] = evaluate(model, table, everything).double().cpu().numpy()
    seconds = (time.perf_counter() - start) / len(replicas)
    weights = {name: p.cpu() for name, p in last.items()}
    return Fit(tuple(replicas), history, best.epoch, logits, weights, np.full(len(replicas), seconds))


def first_rows(features: torch.Tensor, replicas: Sequence[Replica]) -> torch.Tensor:
    """Where the features of each replica's split begin, (R, 1), once those of all splits stand below each other."""
    split = torch.tensor([r.split for r in replicas], device=features.device)[:, None]
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
        rows = torch.arange(features.shape[-2]) + first_rows(features, [replicas[i] for i in part])
        parts.append(evaluate(model, features.flatten(0, -2), rows.to(features.device)))
    return torch.cat(parts).double().cpu().numpy()


class Stack:
    """R modules of one shape as one batched function; `parameters` and `buffers` carry a leading replica dimension."""

    def __init__(self, modules: list[nn.Module]):
        self.base, self.replicas = modules[0], len(modules)
        self.parameters, self.buffers = stack_module_state(modules)
        needed = {name for name, p in self.base.named_parameters() if p.requires_grad}
        self.names = [name for name in self.parameters if name in needed]
        self.trainable = [self.parameters[name] for name in self.names]
        self.layers = stackable_layers(self.base)
        self._forward = vmap(self._one, randomness="different")

    def _one(self, parameters, buffers, x):
        return functional_call(self.base, (parameters, buffers), (x,))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:  # (R, B, F), or (B, F) for all replicas -> (R, B, K)
        if self.layers is None:
            return self._forward(self.parameters, self.buffers, x.expand(self.replicas, *x.shape[-2:]))
        tensors = self.parameters | self.buffers
        for name, layer in self.layers:
            if isinstance(layer, nn.Linear):
                x = stacked_linear(x, tensors[f"{name}weight"], tensors.get(f"{name}bias"))
            elif isinstance(layer, QuantumLayer):
                x = layer(x, tensors[f"{name}weights"])
            else:
                x = layer(x)
        return x.expand(self.replicas, *x.shape[-2:])

    @torch.no_grad()
    def load(self, parameters: dict[str, torch.Tensor]) -> None:
        for name, value in parameters.items():
            self.parameters[name].copy_(value)


ELEMENTWISE = (Squash, TrigonometricFeatures, nn.Identity, nn.Dropout, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid)


def stackable_layers(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]] | None:
    """The layers of a chain that take stacked replicas as they are, which spares `vmap`; None where one does not."""
    if type(module) is nn.Sequential:
        parts = [stackable_layers(part, f"{prefix}{name}.") for name, part in module.named_children()]
        return None if None in parts else [layer for part in parts for layer in part]
    fits = type(module) in (nn.Linear, *ELEMENTWISE)
    fits |= type(module) is QuantumLayer and module.backend == "statevector"
    return [(prefix, module)] if fits and not module._forward_hooks else None


def stacked_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """R linear layers: x (R, B, F), or (B, F) for all, weight (R, K, F), bias (R, K) -> (R, B, K)."""
    if x.dim() == 2:
        out = linear(x, weight.flatten(0, 1), None if bias is None else bias.flatten())  # (B, R K)
        return out.unflatten(1, weight.shape[:2]).movedim(1, 0)
    if bias is None:  # in this order of the factors, the gradient of the weights is a fast product too
        return torch.bmm(weight, x.mT).mT
    return torch.baddbmm(bias[..., None], weight, x.mT).mT


class Best:
    """Keeps, replica by replica, the parameters of the epoch with the highest accuracy, then the lowest loss."""

    def __init__(self, n: int, parameters: dict[str, torch.Tensor]):
        self.epoch = np.ones(n, int)
        self.score = np.full((n, 2), -np.inf)
        self.parameters = {name: p.detach().clone() for name, p in parameters.items()}

    def update(self, epoch: int, values: np.ndarray, parameters: dict[str, torch.Tensor]) -> None:
        """values: (n, 2) loss and accuracy of the selection subset after `epoch` (from 0)."""
        accuracy, loss = values[:, 1], -np.nan_to_num(values[:, 0], nan=np.inf)
        better = (accuracy > self.score[:, 0]) | ((accuracy == self.score[:, 0]) & (loss > self.score[:, 1]))
        self.score[better] = np.stack([accuracy, loss], 1)[better]
        self.epoch[better] = epoch + 1
        for name, kept in self.parameters.items():
            mask = torch.as_tensor(better, device=kept.device)
            kept[mask] = parameters[name].detach()[mask]


def stack_indices(indices: Sequence[np.ndarray], device) -> torch.Tensor:
    """Rows of different lengths as one (R, longest) tensor, filled up with -1."""
    longest = max(map(len, indices))
    rows = [np.pad(i, (0, longest - len(i)), constant_values=-1) for i in indices]
    return torch.as_tensor(np.stack(rows), device=device)


def loss_and_accuracy(logits: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    """Mean cross-entropy and accuracy, (R, 2), of logits (R, n, K) where targets (R, n) are not -1."""
    loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=-1)
    sums = loss.view(targets.shape).double().sum(1), (logits.argmax(-1) == targets).double().sum(1)
    return (torch.stack(sums, 1) / (targets >= 0).sum(1, keepdim=True)).cpu().numpy()


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


def make_optimizer(model: Stack, module: nn.Module, rates: Sequence[Rates], config: TrainConfig) -> Callable:
    """`step(gradients, decay)`: one update of every replica with its own learning rates.

    `decay` is a factor of all rates or one for each of "classical" and "quantum"; at 0 that group is left alone.
    'adam' and 'sgd' are torch's. 'adam-pl' is PennyLane's AdamOptimizer, which adds its eps before the bias
    correction; 'adam-pl07' that of PennyLane 0.7, with which the 2-D tasks were published: its first step sets the
    moments to g and g^2 and still corrects their bias.
    """
    angles = circuit_angles(module)
    kinds = ["quantum" if name in angles else "classical" for name in model.names]
    lrs = [[getattr(r, kind) for r in rates] for kind in kinds]
    make = _torch_step if config.optimizer in ("adam", "sgd") else _pennylane_step
    return make(model.trainable, kinds, lrs, config)


def _factor(decay: float | dict[str, float], kind: str) -> float:
    return decay[kind] if isinstance(decay, dict) else decay


def _torch_step(parameters: Sequence[torch.Tensor], kinds: Sequence[str], lrs, config: TrainConfig) -> Callable:
    """torch's Adam or gradient descent (with momentum) on slices of neighbouring replicas that have the same rate."""
    slices = {}  # rate and kind -> (number of the parameter, first replica, last replica + 1), ...
    for number, (kind, lr) in enumerate(zip(kinds, lrs, strict=True)):
        starts = [i for i in range(len(lr)) if i == 0 or lr[i] != lr[i - 1]]
        for start, stop in zip(starts, [*starts[1:], len(lr)], strict=True):
            slices.setdefault((lr[start], kind), []).append((number, start, stop))
    groups = []  # rate and kind, which slices, the parameters' and Adam's two moments and counts
    for lr, found in slices.items():
        parts = [parameters[n].detach()[a:b] for n, a, b in found]
        moments = [[torch.zeros_like(p) for p in parts] for _ in range(2)]
        groups.append((lr, found, parts, moments, [torch.zeros((), device=p.device) for p in parts]))

    @torch.no_grad()
    def step(gradients, decay):
        gradients = [g.contiguous() for g in gradients]
        for (lr, kind), found, parts, moments, counts in groups:
            if not (factor := _factor(decay, kind)):
                continue
            grads, lr = [gradients[n][a:b] for n, a, b in found], lr * factor
            if config.optimizer == "sgd":
                for part, grad, velocity in zip(parts, grads, moments[0], strict=True):
                    part.sub_(velocity.mul_(config.momentum).add_(grad), alpha=lr)
            else:
                options = {"beta1": 0.9, "beta2": config.beta2, "eps": 1e-8, "weight_decay": 0.0}
                adam(parts, grads, *moments, [], counts, fused=True, amsgrad=False, maximize=False, lr=lr, **options)

    return step


def _pennylane_step(parameters: Sequence[torch.Tensor], kinds: Sequence[str], lrs, config: TrainConfig) -> Callable:
    rates = [p.new_tensor(lr).view(-1, *[1] * (p.ndim - 1)) for p, lr in zip(parameters, lrs, strict=True)]
    beta1, beta2, eps = 0.9, config.beta2, 1e-8
    moments, counts = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters], [0] * len(parameters)

    @torch.no_grad()
    def step(gradients, decay):
        for i, (p, kind, lr, g, (m, v)) in enumerate(zip(parameters, kinds, rates, gradients, moments, strict=True)):
            if not (factor := _factor(decay, kind)):
                continue
            counts[i] += 1
            whole = counts[i] == 1 and config.optimizer == "adam-pl07"
            m.copy_(g) if whole else m.lerp_(g, 1 - beta1)
            v.copy_(g * g) if whole else v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            correction = math.sqrt(1 - beta2 ** counts[i]) / (1 - beta1 ** counts[i])
            p.sub_(lr * (factor * correction) * m / (v.sqrt() + eps))

    return step


# ---- a whole network, one seed at a time ----------------------------------------------------------------------------


def fit_network(
    build: Callable[[int], nn.Module],
    pixels: torch.Tensor,
    labels: np.ndarray,
    splits: Splits,
    replica: Replica,
    config: TrainConfig,
    *,
    checkpoint: Path | None = None,
    label: str = "network",
) -> Fit:
    """Trains `build(seed)`, a module with parts `backbone` and `head`, end to end on pixels (N, 3, S, S), uint8.

    `checkpoint`: a file from which an interrupted training goes on, written every minute. `weights` of the result
    are the head's alone.
    """
    start, device = time.perf_counter(), pixels.device
    model = build(replica.seed).to(device=device, dtype=getattr(torch, config.precision(whole=True)))
    optimizer = network_optimizer(model, replica.rates, config)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(lr_decay, config=config))
    labels = torch.as_tensor(labels, device=device)
    order = random_orders(splits.indices(replica.split, "train"), replica.seed, config.epochs)
    chosen = splits.indices(replica.split, selection_subset(splits))
    history, best, first = np.zeros((1, config.epochs, 2, 2)), Best(1, _row(model)), 0
    if checkpoint and checkpoint.is_file():
        first, before = _resume(checkpoint, model, optimizer, scheduler, history, best)
        start -= before
    saved = time.perf_counter()
    for epoch in progress(range(first, config.epochs), label):
        torch.manual_seed(replica.seed * 100_003 + epoch)  # dropout and the like: the same after a resume
        history[0, epoch, 0] = train_epoch(model, optimizer, pixels, labels, order[epoch], config)
        scheduler.step()
        logits = network_logits(model, pixels, chosen)
        loss = cross_entropy(logits, labels[chosen]).item()
        history[0, epoch, 1] = loss, (logits.argmax(1) == labels[chosen]).sum().item() / len(chosen)
        best.update(epoch, history[:, epoch, 1], _row(model))
        if checkpoint and time.perf_counter() - saved > CHECKPOINT_SECONDS:
            elapsed = time.perf_counter() - start
            _save(checkpoint, epoch + 1, elapsed, model, optimizer, scheduler, history, best)
            saved = time.perf_counter()
    everything = np.arange(len(labels))
    logits = {"last": network_logits(model, pixels, everything)}
    weights = {name: p.detach().clone().cpu()[None] for name, p in model.head.named_parameters()}
    model.load_state_dict({name: value[0] for name, value in best.parameters.items()})
    logits["best"] = network_logits(model, pixels, everything)
    logits = {kind: values.cpu().double().numpy()[None] for kind, values in logits.items()}
    return Fit((replica,), history, best.epoch, logits, weights, np.array([time.perf_counter() - start]))


class Network(nn.Module):
    """A backbone and a head, trained or run as one."""

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, pixels):
        return self.head(self.backbone(pixels))


def network_optimizer(model: nn.Module, rates: Rates, config: TrainConfig) -> torch.optim.Optimizer:
    """torch's optimiser with one parameter group each for angles, the rest of the head, and the backbone."""
    if config.optimizer not in ("adam", "sgd"):
        raise ValueError(f"optimizer '{config.optimizer}' trains heads on features only; use adam or sgd for networks")
    angles = {f"head.{name}" for name in circuit_angles(model.head)}
    groups: dict[float | str, list] = {"backbone": [], "quantum": [], "classical": []}
    for name, p in model.named_parameters():
        if p.requires_grad:
            group = "backbone" if name.startswith("backbone.") else "quantum" if name in angles else "classical"
            groups[group].append(p)
    parameters = [{"params": ps, "lr": getattr(rates, group)} for group, ps in groups.items() if ps]
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum)
    return torch.optim.Adam(parameters, betas=(0.9, config.beta2), foreach=True)


def train_epoch(model, optimizer, pixels, labels, order, config) -> tuple[float, float]:
    """One pass over `order`; returns the mean loss and accuracy met on the way.

    A last batch of one image joins the batch before it: BatchNorm cannot normalise a single value per channel.
    """
    model.train()
    starts = [*range(0, len(order), config.batch_size)]
    if len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    loss_sum, right = 0.0, 0
    for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
        index = order[start:end]
        logits, target = model(pixels[index]), labels[index]
        loss = cross_entropy(logits, target, reduction=config.reduction)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * (len(index) if config.reduction == "mean" else 1)
        right += (logits.argmax(1) == target).sum().item()
    return loss_sum / len(order), right / len(order)


@torch.no_grad()
def network_logits(model: nn.Module, pixels: torch.Tensor, index: np.ndarray) -> torch.Tensor:
    """Logits (n, K) of the samples `index`, in eval mode."""
    model.eval()
    parts = np.array_split(index, math.ceil(len(index) / EVALUATION_BATCH))
    return torch.cat([model(pixels[part]) for part in parts])


def _row(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value[None] for name, value in model.state_dict().items()}


def _save(path, epoch, seconds, model, optimizer, scheduler, history, best) -> None:
    state = {
        "epoch": epoch,
        "seconds": seconds,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "history": torch.from_numpy(history),
        "best": (torch.from_numpy(best.epoch), torch.from_numpy(best.score), best.parameters),
    }
    with atomic(path) as part:
        torch.save(state, part)


def _resume(path, model, optimizer, scheduler, history, best) -> tuple[int, float]:
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    history[:] = state["history"].numpy()
    epochs, scores, best.parameters = state["best"]
    best.epoch, best.score = epochs.numpy(), scores.numpy()
    return state["epoch"], state["seconds"]
