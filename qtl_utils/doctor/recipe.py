"""How a model is trained, as values that can be changed one at a time; and the training itself, on copies."""

import copy
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pennylane as qml
import torch
from torch import nn

from qtl_utils.doctor.checks.training import PER_BATCH, frozen_norm
from qtl_utils.doctor.patient import Patient

Group = dict[str, Any]  # 'params': list, 'origin': which group of the user's optimiser it comes from, and its options


def seed_all(seed: int) -> None:
    """Seeds torch, NumPy and Python, from which models draw their initial weights."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def copied(model: nn.Module) -> nn.Module:
    """A copy that shares nothing but QNodes with `model`; they hold no parameters.

    Raises ValueError where a module cannot be copied.
    """
    memo = {id(v): v for m in model.modules() for v in vars(m).values() if isinstance(v, qml.QNode)}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"the model cannot be copied ({told}); give a function that makes it: lambda: ...") from error


@dataclass(frozen=True)
class Standardise:
    """(x - mean) / deviation, one of each per feature of (N, F), or per channel of (N, C, ...)."""

    mean: torch.Tensor
    deviation: torch.Tensor

    @classmethod
    def fitted(cls, x: torch.Tensor) -> "Standardise":
        over = [0, *range(2, x.dim())]
        mean = x.mean(over, keepdim=True)
        deviation = x.std(over, keepdim=True, correction=0)
        constant = deviation <= 1e-6 * x.abs().max()
        return cls(mean, deviation.masked_fill(constant, 1.0))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean.to(x)) / self.deviation.to(x)


@dataclass(frozen=True)
class Given:
    """The user's own scaler, as it was fitted: `transform` of rows (N, F)."""

    scaler: Any

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.scaler.transform(x.detach().cpu().reshape(len(x), -1).numpy())
        return torch.as_tensor(np.asarray(rows), dtype=x.dtype, device=x.device).reshape(x.shape)


@dataclass(frozen=True)
class Built:
    """A model that is ready to be trained."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: "Schedule"
    train: Callable[[], None]  # puts the modes of training


@dataclass(frozen=True)
class Recipe:
    """How a model is made and trained; mends replace fields, nothing is changed in place.

    make: seed -> a model of its own. edits: functions from a model to a mended model, one after the other. regroup:
    functions from parameter groups and angles to groups. scale: 'none', 'given' (the user's scaler) or 'train'
    (standardised by the mean and deviation of the training samples). select: the epoch that is reported, 'last' or
    'test' (the best on the samples it is tested on). leaky: whether samples of other subsets are left in the test set.
    """

    make: Callable[[int], nn.Module]
    loss: Callable
    epochs: int
    batch_size: int
    optimizer: Any = None  # an instance, a function from a model to one, or None for Adam
    scheduler: Any = None  # an instance, a function from an optimiser to one, or None
    original: nn.Module | None = None  # whose parameters an optimiser instance holds
    scaler: Any = None
    edits: tuple[Callable[[nn.Module], nn.Module], ...] = ()
    regroup: tuple[Callable[[list[Group], set[int]], list[Group]], ...] = ()
    relabel: Callable[[torch.Tensor], torch.Tensor] | None = None
    scale: str = "none"
    clip: float = 0.0  # the largest norm of the gradient; 0: any
    still: bool = False  # frozen BatchNorm is kept in eval mode
    scheduler_first: bool = False
    select: str = "last"
    leaky: bool = False

    def scaling(self, x: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """What is done to samples before they reach the model; `x`: the training samples."""
        if self.scale == "given":
            return Given(self.scaler)
        return Standardise.fitted(x) if self.scale == "train" and x.is_floating_point() else (lambda x: x)

    def labels(self, y: torch.Tensor) -> torch.Tensor:
        return y if self.relabel is None else self.relabel(y)

    def model(self, seed: int = 0) -> nn.Module:
        """The model before training, with what was mended in it."""
        seed_all(seed)
        model = self.make(seed)
        seed_all(seed + 1)  # what edits draw is the same whatever the model drew
        for edit in self.edits:
            model = edit(model)
        return model

    def build(self, seed: int, batch: torch.Tensor) -> Built:
        """Model, optimiser and schedule of `seed`. batch: scaled samples, which show what the angles are."""
        seed_all(seed)
        model = self.make(seed)
        own, groups = _groups(self, model)
        modes = [(m, m.training) for m in model.modules()] if model.training else []
        seed_all(seed + 1)
        for edit in self.edits:
            model = edit(model)
        groups = _kept_groups(groups, model)
        if self.regroup:
            angles = {id(q) for q in angles_of(model, batch)}
            for change in self.regroup:
                groups = change(groups, angles)
        groups = [group for group in groups if group["params"]]
        optimizer = type(own)([{k: v for k, v in group.items() if k != "origin"} for group in groups])
        schedule = Schedule.of(self.scheduler, self.optimizer, own, groups, optimizer)

        def train():
            model.train()
            for module, training in modes:
                module.training = training
            if self.still:
                for module in model.modules():
                    module.training = module.training and not frozen_norm(module)

        return Built(model, optimizer, schedule, train)


def angles_of(model: nn.Module, batch: torch.Tensor) -> list[nn.Parameter]:
    """The trainable angles of the circuits in `model`; none where it does not run."""
    training = [(m, m.training) for m in model.modules()]
    try:
        return list(Patient(model.eval(), batch, batch).angles.values())
    except Exception:  # a model that does not run has a finding of its own
        return []
    finally:
        for module, mode in training:
            module.training = mode


def _groups(recipe: Recipe, model: nn.Module) -> tuple[torch.optim.Optimizer, list[Group]]:
    """The user's optimiser, made anew for `model`, and its groups."""
    if recipe.optimizer is None:
        wanted = [q for q in model.parameters() if q.requires_grad]
        own = torch.optim.Adam(wanted or list(model.parameters()), lr=0.01)
    elif not isinstance(recipe.optimizer, torch.optim.Optimizer):
        own = recipe.optimizer(model)
        if not isinstance(own, torch.optim.Optimizer):
            raise ValueError("optimizer: expected an instance, or a function from a model to one: lambda model: ...")
    else:
        names = {id(q): name for name, q in recipe.original.named_parameters()}
        here = dict(model.named_parameters())
        groups = []
        for group in recipe.optimizer.param_groups:
            held = [here[names[id(q)]] for q in group["params"] if id(q) in names]
            groups.append(_options(group) | {"params": held})
        try:
            own = type(recipe.optimizer)(groups)
        except Exception as error:
            told = f"{type(recipe.optimizer).__name__} cannot be made anew ({error})"
            raise ValueError(f"optimizer: {told}; give a function: lambda model: ...") from error
    return own, [
        _options(group) | {"params": list(group["params"]), "origin": number}
        for number, group in enumerate(own.param_groups)
    ]


def _options(group: dict) -> dict:
    """A group without its parameters, with the learning rate it began with."""
    kept = {k: v for k, v in group.items() if k not in ("params", "initial_lr")}
    return kept | {"lr": group.get("initial_lr", group["lr"])}


def _kept_groups(groups: list[Group], model: nn.Module) -> list[Group]:
    """Groups of the parameters that are still in the model, and of those that a mend has put into it."""
    here = {id(q): q for q in model.parameters()}
    where = {id(q): number for number, group in enumerate(groups) for q in group["params"]}
    kept = [group | {"params": [q for q in group["params"] if id(q) in here]} for group in groups]
    for key, q in here.items():
        if key not in where and hasattr(q, "in_place_of"):
            kept[where.get(id(q.in_place_of), len(kept) - 1)]["params"].append(q)
    return kept


def fresh(q: nn.Parameter, old: nn.Parameter | None = None) -> nn.Parameter:
    """Marks a parameter that a mend has made: it is optimised like `old`, or as the last group is."""
    q.in_place_of = old
    return q


@dataclass
class Schedule:
    """The user's scheduler, driving a stand-in; its factors go to the groups that came of each of the user's."""

    scheduler: Any
    stand_in: torch.optim.Optimizer | None
    groups: list[Group] = field(default_factory=list)
    optimizer: torch.optim.Optimizer | None = None

    @classmethod
    def of(cls, scheduler, given, own, groups: list[Group], optimizer) -> "Schedule":
        """scheduler: the user's, or a function from an optimiser to one; own: an optimiser with the user's groups."""
        if scheduler is None:
            return cls(None, None)
        if not hasattr(scheduler, "step"):
            return cls(scheduler(own), own, groups, optimizer)._applied()
        if not isinstance(given, torch.optim.Optimizer):
            raise ValueError("scheduler: give a function too where the optimiser is one: lambda optimizer: ...")
        begun = getattr(scheduler, "last_epoch", 0) > 0
        for group, mine in zip(given.param_groups, own.param_groups, strict=True):
            mine["lr"] = group.get("initial_lr", group["lr"]) if begun else group["lr"]
            mine["initial_lr"] = group.get("initial_lr", group["lr"])
        scheduler = copy.deepcopy(scheduler, {id(given): own})
        if begun and hasattr(scheduler, "last_epoch"):
            scheduler.last_epoch = 0
        return cls(scheduler, own, groups, optimizer)._applied()

    def step(self, of: str, loss: float) -> None:
        """After a 'batch' or an 'epoch', whichever the scheduler counts."""
        if self.scheduler is None or isinstance(self.scheduler, PER_BATCH) != (of == "batch"):
            return
        total = getattr(self.scheduler, "total_steps", None)
        if total is not None and self.scheduler.last_epoch >= total - 1:
            return
        plateau = isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
        self.scheduler.step(*([loss] if plateau else []))
        self._applied()

    def planned(self, epochs: int) -> torch.optim.lr_scheduler.LambdaLR | None:
        """The rates of the coming epochs as a scheduler of the mended optimiser; None where they are not counted so."""
        plateau = isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
        if self.scheduler is None or plateau or isinstance(self.scheduler, PER_BATCH):
            return None
        rates = []
        for _ in range(epochs):
            rates.append([group["lr"] for group in self.optimizer.param_groups])
            self.step("epoch", 0.0)
        for group, own in zip(self.optimizer.param_groups, self.groups, strict=True):
            group["lr"] = own["lr"]
        rows = range(len(self.groups))
        factors = [[row[i] / self.groups[i]["lr"] if self.groups[i]["lr"] else 1.0 for row in rates] for i in rows]
        functions = [lambda epoch, f=f: f[min(epoch, len(f) - 1)] for f in factors]
        return torch.optim.lr_scheduler.LambdaLR(self.optimizer, functions)

    def _applied(self) -> "Schedule":
        for group, mine in zip(self.groups, self.optimizer.param_groups, strict=True):
            theirs = self.stand_in.param_groups[group["origin"]]
            first = theirs.get("initial_lr", theirs["lr"])
            mine["lr"] = group["lr"] * (theirs["lr"] / first if first else 1.0)
        return self


# ---- training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Epoch:
    """What one epoch left: its mean loss, seconds per step, and whether the loss is still a number."""

    loss: float
    step_seconds: float
    finite: bool


def train(
    recipe: Recipe, built: Built, x: torch.Tensor, y: torch.Tensor, seed: int, epochs: int | None = None
) -> Iterator[Epoch]:
    """Trains `built` on scaled samples, an epoch for every item; order of samples and dropout follow from `seed`."""
    seed_all(seed + 2)
    order = torch.Generator().manual_seed(seed)
    for _ in range(recipe.epochs if epochs is None else epochs):
        if recipe.scheduler_first:
            built.schedule.step("epoch", np.inf)
        built.train()
        losses = []
        start = time.perf_counter()
        for rows in torch.randperm(len(x), generator=order).split(recipe.batch_size):
            losses.append(_step(recipe, built, x[rows], y[rows]))
            if not np.isfinite(losses[-1]):
                break
            built.schedule.step("batch", losses[-1])
        loss = float(np.mean(losses))
        if not recipe.scheduler_first:
            built.schedule.step("epoch", loss)
        yield Epoch(loss, (time.perf_counter() - start) / len(losses), bool(np.isfinite(loss)))
        if not np.isfinite(loss):
            return


def _step(recipe: Recipe, built: Built, x: torch.Tensor, y: torch.Tensor) -> float:
    def closure():
        built.optimizer.zero_grad()
        loss = recipe.loss(built.model(x), y)
        if loss.requires_grad:
            loss.backward()
            if recipe.clip:
                nn.utils.clip_grad_norm_(built.model.parameters(), recipe.clip)
        return loss

    if isinstance(built.optimizer, torch.optim.LBFGS):
        return float(built.optimizer.step(closure).detach())
    loss = closure()
    built.optimizer.step()
    return float(loss.detach())


def changed(recipe: Recipe, **values) -> Recipe:
    """A recipe with other values; `edits` and `regroup` are added to those it has."""
    for name in ("edits", "regroup"):
        if name in values:
            values[name] = (*getattr(recipe, name), *values[name])
    return replace(recipe, **values)
