"""Training a whole network, backbone and head together, one seed at a time."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from qtl_utils.data.splits import Splits
from qtl_utils.models.network import batch_loss, network_logits, train_epoch
from qtl_utils.study.config import TrainConfig
from qtl_utils.study.environment import progress
from qtl_utils.study.paths import atomic
from qtl_utils.training.fits import Best, Fit, Replica, lr_decay, random_orders, selection_subset
from qtl_utils.training.optimizers import network_optimizer

CHECKPOINT_SECONDS = 60.0


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
    start = time.perf_counter()
    device = pixels.device
    model = build(replica.seed).to(device=device, dtype=getattr(torch, config.precision(whole=True)))
    optimizer = network_optimizer(model, replica.rates, config)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(lr_decay, config=config))
    labels = torch.as_tensor(labels, device=device)
    order = random_orders(splits.indices(replica.split, "train"), replica.seed, config.epochs)
    chosen = splits.indices(replica.split, selection_subset(splits))
    history = np.zeros((1, config.epochs, 2, 2))
    best = Best(1, _row(model))
    first = 0
    if checkpoint and checkpoint.is_file():
        first, before = _resume(checkpoint, model, optimizer, scheduler, history, best)
        start -= before
    saved = time.perf_counter()
    for epoch in progress(range(first, config.epochs), label):
        torch.manual_seed(replica.seed * 100_003 + epoch)  # dropout and the like: the same after a resume
        history[0, epoch, 0] = train_epoch(model, optimizer, pixels, labels, order[epoch], config)
        scheduler.step()
        logits = network_logits(model, pixels, chosen)
        loss = batch_loss(logits, labels[chosen], config.loss).item()
        history[0, epoch, 1] = loss, (logits.argmax(1) == labels[chosen]).sum().item() / len(chosen)
        best.update(epoch, history[:, epoch, 1], _row(model))
        if checkpoint and time.perf_counter() - saved > CHECKPOINT_SECONDS:
            elapsed = time.perf_counter() - start
            _save(checkpoint, epoch + 1, elapsed, model, optimizer, scheduler, history, best)
            saved = time.perf_counter()
    everything = np.arange(len(labels))
    logits = {"last": network_logits(model, pixels, everything)}
    weights = {name: p.detach().clone().cpu()[None] for name, p in model.head.named_parameters()}
    if best.epoch[0] == config.epochs:
        logits["best"] = logits["last"].clone()  # files keep no two tensors in one place
    else:
        model.load_state_dict({name: value[0] for name, value in best.parameters.items()})
        logits["best"] = network_logits(model, pixels, everything)
    logits = {kind: values.cpu().double().numpy()[None] for kind, values in logits.items()}
    return Fit((replica,), history, best.epoch, logits, weights, np.array([time.perf_counter() - start]))


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
    best.epoch = epochs.numpy()
    best.score = scores.numpy()
    return state["epoch"], state["seconds"]
