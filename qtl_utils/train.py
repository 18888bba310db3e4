"""Training: every seed of a head at once on cached features (`fit_heads`), or a whole network (`fit_network`)."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy

from qtl_utils.config import TrainConfig
from qtl_utils.data import Splits
from qtl_utils.environment import progress
from qtl_utils.heads import circuit_angles
from qtl_utils.paths import atomic

MAX_PARAMETERS = 1_000_000  # of all replicas that are trained at once: what stays in cache is faster
MAX_AMPLITUDES = 2**18  # samples x 2^n_qubits that go through a circuit at once
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
    label: str = "head",
) -> Fit:
    """Trains `build(seed)`, any module from features to logits, for all `replicas` together.

    Dropout draws from torch's global generator; BatchNorm, which mixes the samples of a batch, is refused.
    features: (N, F), or (n_splits, N, F) where they are scaled per split. Every replica has its own initial weights,
    data order and learning rates, and ends as it would alone. Epoch selection as `selection_subset` says.
    """
    module = build(replicas[0].seed)
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules()):
        raise ValueError(f"{label}: heads on cached features cannot hold BatchNorm; use LayerNorm")
    groups = _groups(module, splits, replicas, config)
    parts = [
        _fit_group(build, features, labels, splits, [replicas[i] for i in group], config, orders, label)
        for group in groups
    ]
    return join_fits(parts, np.argsort(np.concatenate(groups)))


def _groups(module: nn.Module, splits: Splits, replicas: Sequence[Replica], config: TrainConfig) -> list[np.ndarray]:
    """Positions of the replicas trained together: as many as memory takes, all with the same number of batches."""
    by_memory = MAX_PARAMETERS // max(1, sum(p.numel() for p in module.parameters()))
    by_circuit = MAX_AMPLITUDES // (config.batch_size * 2**config.n_qubits)
    most = max(1, min(by_memory, by_circuit))
    sizes = np.array([len(splits.indices(r.split, "train")) for r in replicas])
    steps = -(-sizes // config.batch_size)
    alike = [np.flatnonzero(steps == n) for n in np.unique(steps)]
    return [part for group in alike for part in np.array_split(group, math.ceil(len(group) / most))]


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


def _fit_group(build, features, labels, splits, replicas, config, orders, label) -> Fit:
    start, device = time.perf_counter(), features.device
    dtype = getattr(torch, config.dtype)
    features, labels = features.to(dtype), torch.as_tensor(labels, device=device)
    modules = [build(r.seed).to(device=device, dtype=dtype) for r in replicas]
    model = Stack(modules)
    step = make_optimizer(model, modules[0], [r.rates for r in replicas], config)
    split = torch.tensor([r.split for r in replicas], device=device)
    train = [splits.indices(r.split, "train") for r in replicas]
    order = [orders(t, r.seed, config.epochs) for t, r in zip(train, replicas, strict=True)]
    chosen = stack_indices([splits.indices(r.split, selection_subset(splits)) for r in replicas], device)

    def samples(index):  # (R, B) -> features (R, B, F); -1, the padding, reads some sample and is masked out later
        index = index.clamp(min=0)
        return features[index] if features.ndim == 2 else features[split[:, None], index]

    history = np.zeros((len(replicas), config.epochs, 2, 2))
    best = Best(len(replicas), model.parameters)
    for epoch in progress(range(config.epochs), label):
        rows = [batches_of(o[epoch], config.batch_size) for o in order]
        sums = torch.zeros(len(replicas), 3, device=device, dtype=torch.float64)
        for index in torch.as_tensor(np.stack(rows, axis=1), device=device):  # (R, B)
            logits = model(samples(index))
            loss, counts = masked_loss(logits, labels, index)
            total = loss if config.reduction == "sum" else loss / counts
            gradients = torch.autograd.grad(total.sum(), model.trainable, materialize_grads=True)
            step(gradients, config.lr_gamma ** (epoch // config.lr_step))
            sums += torch.stack([loss.detach().double(), hits(logits, labels, index), counts.double()], dim=1)
        history[:, epoch, 0] = (sums[:, :2] / sums[:, 2:]).cpu()
        logits = evaluate(model, samples, chosen, config)
        loss, counts = masked_loss(logits, labels, chosen)
        history[:, epoch, 1] = (
            torch.stack([loss.double(), hits(logits, labels, chosen)], 1).cpu() / counts[:, None].cpu()
        )
        best.update(epoch, history[:, epoch, 1], model.parameters)
    everything = torch.arange(len(labels), device=device).expand(len(replicas), -1)
    last = {name: p.detach().clone() for name, p in model.parameters.items()}
    logits = {"last": evaluate(model, samples, everything, config).double().cpu().numpy()}
    model.load(best.parameters)
    logits["best"] = evaluate(model, samples, everything, config).double().cpu().numpy()
    share = (time.perf_counter() - start) / len(replicas)
    weights = {name: p.cpu() for name, p in last.items()}
    return Fit(tuple(replicas), history, best.epoch, logits, weights, np.full(len(replicas), share))


class Stack:
    """R modules of one shape as one batched function; `parameters` and `buffers` carry a leading replica dimension."""

    def __init__(self, modules: list[nn.Module]):
        self.base = modules[0]
        self.parameters, self.buffers = stack_module_state(modules)
        needed = {name for name, p in self.base.named_parameters() if p.requires_grad}
        self.names = [name for name in self.parameters if name in needed]
        self.trainable = [self.parameters[name] for name in self.names]
        self._forward = vmap(self._one, randomness="different")

    def _one(self, parameters, buffers, x):
        return functional_call(self.base, (parameters, buffers), (x,))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:  # (R, B, F) -> (R, B, K)
        return self._forward(self.parameters, self.buffers, x)

    @torch.no_grad()
    def load(self, parameters: dict[str, torch.Tensor]) -> None:
        for name, value in parameters.items():
            self.parameters[name].copy_(value)


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


def masked_loss(logits: torch.Tensor, labels: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy (R,) of logits (R, B, K) over the samples `index` (R, B), and how many they are."""
    used = index >= 0
    loss = cross_entropy(logits.flatten(0, 1), labels[index.clamp(min=0)].flatten(), reduction="none")
    return torch.where(used, loss.view(index.shape), 0).sum(1), used.sum(1)


def hits(logits: torch.Tensor, labels: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Right answers per replica, (R,)."""
    return ((logits.argmax(-1) == labels[index.clamp(min=0)]) & (index >= 0)).sum(1).double()


@torch.no_grad()
def evaluate(model: Stack, samples: Callable, index: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """Logits (R, n, K) in eval mode, a few samples at a time."""
    at_once = max(1, MAX_AMPLITUDES // (len(index) * 2**config.n_qubits))
    training = model.base.training
    model.base.eval()
    logits = torch.cat([model(samples(part)) for part in index.split(at_once, dim=1)], dim=1)
    model.base.train(training)
    return logits


def make_optimizer(model: Stack, module: nn.Module, rates: Sequence[Rates], config: TrainConfig) -> Callable:
    """`step(gradients, decay)`: one update of every replica with its own learning rates.

    'adam' is torch.optim.Adam, 'sgd' plain gradient descent, 'adam-pl' PennyLane's AdamOptimizer, which adds its eps
    before the bias correction. 'adam-pl07' is that of PennyLane 0.7, with which the 2-D tasks were published: its
    first step sets the moments to g and g^2 and still corrects their bias.
    """
    angles = circuit_angles(module)
    lrs = []
    for name, p in zip(model.names, model.trainable, strict=True):
        lr = [r.quantum if name in angles else r.classical for r in rates]
        lrs.append(torch.tensor(lr, dtype=p.dtype, device=p.device).view(-1, *[1] * (p.ndim - 1)))
    if config.optimizer == "sgd":
        return lambda gradients, decay: _descend(model.trainable, lrs, gradients, decay)
    beta1, beta2, eps = 0.9, config.beta2, 1e-8
    moments, count = [], 0  # per parameter: first moment, second moment, scratch

    @torch.no_grad()
    def step(gradients, decay):
        nonlocal count
        count += 1
        if count == 1:  # in the gradient's memory layout, which batched matrix products transpose
            moments.extend((torch.zeros_like(g), torch.zeros_like(g), torch.empty_like(g)) for g in gradients)
            for p, g in zip(model.trainable, gradients, strict=True):
                p.data = torch.empty_like(g).copy_(p)
        whole = count == 1 and config.optimizer == "adam-pl07"
        root = math.sqrt(1 - beta2**count)
        for p, lr, g, (m, v, scale) in zip(model.trainable, lrs, gradients, moments, strict=True):
            m.copy_(g) if whole else m.lerp_(g, 1 - beta1)
            v.copy_(g * g) if whole else v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            # the smallest numbers, zero among them, make square roots ten times slower on some CPUs
            torch.clamp(v, min=1e-37, out=scale).sqrt_().add_(eps * (root if config.optimizer == "adam" else 1))
            # p -= lr * decay * root / (1 - beta1^t) * m / scale
            p.addcdiv_(m, scale.div_(lr), value=-decay * root / (1 - beta1**count))

    return step


@torch.no_grad()
def _descend(parameters, lrs, gradients, decay):
    for p, lr, g in zip(parameters, lrs, gradients, strict=True):
        p.sub_(lr * decay * g)


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
    model = build(replica.seed).to(device=device, dtype=getattr(torch, config.dtype))
    optimizer = network_optimizer(model, replica.rates, config)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, config.lr_step, config.lr_gamma)
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
        return torch.optim.SGD(parameters)
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
