"""Checks of the doctor: loss, learning rates and schedule, and what is reported in the end."""

import copy
import hashlib
import itertools
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.functional import softmax
from torch.optim.adam import adam

from qtl_utils.doctor.findings import Finding, check, fail, listed, ok, skipped, warn
from qtl_utils.doctor.patient import Patient, norm

NO_MORE = 0.98  # of the loss of the best constant prediction: what stays above it has learned nothing else
SHORT = 20  # steps of the training that shows whether a model learns
LONG = 150  # of the one where those do not decide
SETTLED = 5  # losses in a row by which a training is judged
LEARNS = 0.9  # of the first loss: where all of those are below it, no further step is needed
PATIENCE = 8.0  # seconds


@check("frozen_buffers", "statistics of frozen layers in train mode", section="evaluation#batchnorm", steps=1)
def frozen_buffers(p: Patient) -> Finding:
    frozen = {n: m for n, m in p.model.named_modules() if frozen_norm(m)}
    if not frozen:
        return ok("no frozen layer keeps statistics")
    with p.kept():
        _as_for_training(p)
        before = {n: [b.clone() for b in m.buffers(recurse=False)] for n, m in frozen.items()}
        with torch.no_grad():
            p.run()
        moved = [n for n, m in frozen.items() if any(map(_differ, before[n], m.buffers(recurse=False)))]
    if moved:
        cause = "model.train() also switches frozen BatchNorm to batch statistics and updates the running ones"
        fix = "after every model.train(): backbone.eval()"
        evidence = f"{len(moved)} frozen layers change in train mode: {listed(moved, 2)}"
        if p.modes.get("", False):
            return fail(evidence, cause, fix)
        return warn(f"{evidence}, if the loop calls model.train(); the model came in eval mode", cause, fix)
    return ok(f"{len(frozen)} frozen layers keep their statistics")


def _differ(a, b) -> bool:
    return not torch.equal(a, b)


def frozen_norm(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    statistics = isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    return statistics and bool(own) and not any(q.requires_grad for q in own)


def _as_for_training(p: Patient) -> None:
    """The modes the model came with, if it came in train mode; otherwise those of model.train()."""
    if p.modes.get("", False):
        for name, module in p.model.named_modules():
            module.training = p.modes[name]
    else:
        p.model.train()


@check(
    "updates",
    "how much one step changes each group",
    section="optimisation#groups",
    explained_by=("gradient_reaches", "differentiable"),
)
def updates(p: Patient) -> Finding:
    if p.optimizer is None:
        return skipped("needs optimizer=")
    if p.factory is not None:
        return skipped("the optimiser belongs to another model; give the model in place of the function")
    if isinstance(p.optimizer, torch.optim.LBFGS):
        return skipped("LBFGS takes several steps at once")
    held = {id(q) for group in p.optimizer.param_groups for q in group["params"]}
    if left := [name for name, q in p.trainable.items() if id(q) not in held]:
        cause = "the optimiser was made from other parameters"
        fix = "torch.optim.Adam(model.parameters())"
        return fail(f"{listed(left)} are in no parameter group of the optimiser", cause, fix)
    ran_out = p.scheduler is not None and p.trained
    if any(g["lr"] == 0 and not (ran_out and g.get("initial_lr", 0) > 0) for g in p.optimizer.param_groups):
        return fail("a parameter group has learning rate 0", "a schedule that ran out, or a wrong value", "set its lr")
    before = {name: q.detach().clone() for name, q in p.trainable.items()}
    with p.kept(), p.kept_training():
        for name, g in p.gradients()[1].items():
            p.trainable[name].grad = g
        type(p.optimizer).step(p.optimizer)
        moved = {name: (q.detach() - before[name]) for name, q in p.trainable.items()}
    angles = [moved[name] for name in p.angles]
    others = [name for name in moved if name not in p.angles]
    ratio = norm(moved[n] for n in others) / (norm(before[n] for n in others) or 1.0) if others else 0.0
    told = [f"weights move {ratio:.1e} of their size in a step"] if others else []
    turn = max((a.abs().max().item() for a in angles), default=0.0)
    told += [f"angles at most {turn:.1e} rad"] if angles else []
    if turn > 1.0:
        cause = "an angle turns by more than a radian in one step, so that it jumps between periods"
        return fail("; ".join(told), cause, "a learning rate of 0.01 to 0.1 for the angles")
    if ratio > 1.0:
        return warn("; ".join(told), "a step is larger than the weights themselves", "a smaller learning rate")
    return ok("; ".join(told))


@check("travel", "how far the learning rates let angles go", section="optimisation#travel")
def travel(p: Patient) -> Finding:
    if p.optimizer is None or not p.angles:
        return skipped("needs optimizer=, and a model with trainable angles")
    if p.factory is not None:
        return skipped("the optimiser belongs to another model; give the model in place of the function")
    epochs = p.epochs or (len(p.history) if p.history is not None else None)
    steps = _steps_per_epoch(p)
    if not epochs or not steps:
        return skipped("needs epochs= (or history=) and data={'train': ...}, to know how many steps there will be")
    ids = {id(q) for q in p.angles.values()}
    groups = [i for i, g in enumerate(p.optimizer.param_groups) if any(id(q) in ids for q in g["params"])]
    if not groups:
        return skipped("the angles are in no parameter group")
    budgets = _rate_sums(p, epochs, steps)
    if budgets is None:
        return skipped("this scheduler's rates depend on the losses, or it has stepped already; record 'lr' in history")
    budget = min(budgets[i] for i in groups)
    if not isinstance(p.optimizer, (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RMSprop)):
        _, grads = p.gradients()
        budget *= float(np.sqrt(np.mean([g.square().mean().item() for n, g in grads.items() if n in p.angles])))
    parts = ", ".join(f"group {i}: {total:.2g}" for i, total in enumerate(budgets))
    evidence = f"angles can travel about {budget:.2g} rad in {epochs} epochs of {steps} steps (sum of rates: {parts})"
    if budget < 0.5:
        cause = "an angle needs about a radian, and each step moves it by about the learning rate"
        more = 1 / max(budget, 1e-6)
        return fail(evidence, cause, f"their own parameter group with a learning rate about {more:.0f} times larger")
    return ok(evidence)


def _steps_per_epoch(p: Patient) -> int:
    train = p.data.get("train")
    return math.ceil(len(_samples(train)) / len(p.images)) if train is not None else 0


PER_BATCH = (torch.optim.lr_scheduler.OneCycleLR, torch.optim.lr_scheduler.CyclicLR)


def _rate_sums(p: Patient, epochs: int, steps: int = 1) -> list[float] | None:
    """Sum over all steps of every group's learning rate: as recorded, or as the scheduler will set it.

    None where that cannot be told. The scheduler is a copy that drives a stand-in of the optimiser.
    """
    groups = p.optimizer.param_groups
    scheduler = p.scheduler
    if scheduler is None:
        return [group["lr"] * epochs * steps for group in groups]
    schedules = torch.optim.lr_scheduler
    if isinstance(scheduler, schedules.ReduceLROnPlateau):
        return None
    composite = isinstance(scheduler, (schedules.SequentialLR, schedules.ChainedScheduler))
    fresh = getattr(scheduler, "last_epoch", 0) <= 0
    if composite and not fresh:
        return None
    rates = [group["lr"] if fresh else group.get("initial_lr", group["lr"]) for group in groups]
    stand_in = copy.copy(p.optimizer)
    stand_in.param_groups = [dict(group, lr=rate) for group, rate in zip(groups, rates, strict=True)]
    scheduler = copy.deepcopy(scheduler, {id(p.optimizer): stand_in})
    if not composite and not fresh:
        scheduler.last_epoch = 0
    if isinstance(scheduler, PER_BATCH):
        epochs = min(epochs * steps, getattr(scheduler, "total_steps", None) or epochs * steps)
        steps = 1
    sums = np.zeros(len(groups))
    for _ in range(epochs):
        sums += [group["lr"] * steps for group in stand_in.param_groups]
        if getattr(scheduler, "total_steps", None) is None or scheduler.last_epoch < scheduler.total_steps - 1:
            scheduler.step()
    return sums.tolist()


@check(
    "stuck_loss",
    "whether the loss leaves ln(classes)",
    section="optimisation#stuck",
    steps=SHORT,
    explained_by=(
        "differentiable",
        "gradient_reaches",
        "plateau",
        "probabilities",
        "batch",
        "gradient_correct",
        "shot_noise",
        "saturation",
        "updates",
        "travel",
        "encoding_range",
        "amplitude",
        "inputs_matter",
        "labels",
        "forward",
    ),
)
def stuck_loss(p: Patient) -> Finding:
    chance, told = _chance(p)
    if p.history is not None and "train_loss" in p.history:
        losses = p.history["train_loss"].to_numpy(float)
        evidence = f"training loss {losses[0]:.3f} to {losses[-1]:.3f}{told}"
        if not np.isfinite(losses).all() or losses[-1] > 2 * max(losses[0], chance):
            return fail(evidence, "training diverges", "a smaller learning rate; clip the gradient")
        if chance and len(losses) > 2 and abs(losses[-3:] - chance).max() < 0.02 * chance:
            cause = "outputs say nothing about the classes: features without information, or steps too small"
            return fail(evidence, cause, "check that the backbone is pretrained, then a larger learning rate")
        return ok(evidence)
    if p.trained:
        return skipped("the model is trained already; a history with 'train_loss' tells more")
    best = _best_constant(p)
    steps, before, after = _short_training(p, SHORT, best)
    stays = after > before - 0.02 * abs(before) and not before < 0.2 * chance
    left = min(PATIENCE, p.deadline - time.perf_counter())
    long = (stays or after > NO_MORE * best > 0) and p.step_seconds * LONG < left
    if long:
        steps, before, after = _short_training(p, LONG, best)
        stays = after > before - 0.02 * abs(before) and not before < 0.2 * chance
    evidence = f"{steps} steps of Adam on one batch: loss {before:.3f} to {after:.3f}{told}"
    if stays:
        cause = "the model cannot even learn one batch by heart"
        judge = fail if long else warn  # so slow a model got little time to show that it can
        return judge(evidence, cause, "look at the gradients layer by layer; check the scale of features and weights")
    if not long or not best or after < NO_MORE * best:
        return ok(evidence)
    cause = "it learns no more than how frequent the labels are: the outputs hardly depend on the inputs"
    fix = "look at how features are encoded: their scale, and what reaches the measured wires"
    return fail(f"{evidence}; the best constant prediction has {best:.3f}", cause, fix)


def _best_constant(p: Patient) -> float:
    """The loss of the best prediction that is the same for all samples; 0 for losses that it is not known of.

    The entropy of the labels for cross-entropies, in nats, their variance for squared differences.
    """
    y = p.labels.double()
    kind = p.chosen.kind
    if kind in ("softmax", "log") and not p.labels.is_floating_point():
        share = p.labels.flatten().unique(return_counts=True)[1].double() / p.labels.numel()
        value = -(share * share.log()).sum().item()
    elif kind in ("sigmoid", "probability") and y.min() >= 0 and y.max() <= 1:
        mean = y.mean(0).clamp(1e-9, 1 - 1e-9)
        value = -(mean * mean.log() + (1 - mean) * (1 - mean).log()).mean().item()
    elif kind == "square":
        value = (y - y.mean(0)).square().mean().item()
    else:
        return 0.0
    told = getattr(p.chosen.function, "reduction", "mean"), getattr(p.chosen.function, "weight", None)
    plain = told == ("mean", None) and getattr(p.chosen.function, "label_smoothing", 0.0) == 0.0
    return value if plain and not isinstance(p.chosen.function, (nn.SmoothL1Loss, nn.HuberLoss)) else 0.0


def _chance(p: Patient) -> tuple[float, str]:
    """The cross-entropy of outputs that say nothing, and how to call it; 0 for another loss."""
    if p.chosen.kind != "softmax" or p.seen.output.dim() < 2:
        return 0.0, ""
    classes = p.seen.output.shape[1]
    return math.log(classes), f", ln({classes}) = {math.log(classes):.3f}"


ADAM = {"lr": 0.02, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False, "maximize": False}


def _short_training(p: Patient, steps: int, best: float) -> tuple[int, float, float]:
    """Steps taken, the first loss and the lowest of the last ones; it ends early where the model learns for sure.

    best: the loss of the best constant prediction, which it must also fall below, or 0.
    """
    with p.kept():
        _as_for_training(p)
        tensors = list(p.trainable.values())
        means, squares = [[torch.zeros_like(q) for q in tensors] for _ in range(2)]
        counts = [torch.tensor(0.0) for _ in tensors]
        losses = []
        for _ in range(steps):
            loss, grads = p.gradients()
            slopes = [torch.zeros_like(q) if grads[name] is None else grads[name] for name, q in p.trainable.items()]
            with torch.no_grad():  # the function and not the class, which takes a second to import
                adam(tensors, slopes, means, squares, [], counts, **ADAM)
            losses.append(float(loss))
            highest = max(losses[-SETTLED:])
            clear = highest < losses[0] - (1 - LEARNS) * abs(losses[0])
            if len(losses) > SETTLED and clear and (highest < NO_MORE * best or best <= 0):
                break
        losses.append(float(p.loss_at().detach()))
    return len(losses) - 1, losses[0], min(losses[-SETTLED:])


@check("zeroed_angles", "whether the trained angles matter", section="optimisation#travel", explained_by=("travel",))
def zeroed_angles(p: Patient) -> Finding:
    if not p.angles:
        return skipped("the model has no trainable angles")
    if not p.trained:
        return skipped("the model is not trained, as far as can be seen; give its optimizer or history after training")
    before = p.run().detach()
    with p.kept():
        for q in p.angles.values():
            q.data = torch.zeros_like(q)
        after = p.run().detach()
    if p.chosen.kind == "softmax":
        changed = (before.argmax(-1) != after.argmax(-1)).double().mean().item()
        moved = (softmax(before, -1) - softmax(after, -1)).abs().mean().item()
        evidence = f"all angles at zero change {changed:.0%} of the decisions and probabilities by {moved:.3f}"
    else:
        changed = 0.0
        moved = ((before - after).norm() / before.norm().clamp(min=1e-12)).item()
        evidence = f"all angles at zero change the outputs by {moved:.1%}"
    if changed == 0 and moved < 0.01:
        cause = "what was learned is in the classical layers"
        return warn(evidence, cause, "train without the circuit as a control; a larger learning rate for the angles")
    return ok(evidence)


@check("scheduler_order", "scheduler after optimiser", section="optimisation#scheduler", runs=False)
def scheduler_order(p: Patient) -> Finding:
    if p.scheduler is None or p.optimizer is None:
        return skipped("needs optimizer= and scheduler=")
    cause = "scheduler.step() comes before the epoch's optimizer.step(), so that every rate is an epoch early"
    fix = "scheduler.step() at the end of the epoch"
    stepped = getattr(p.scheduler, "_step_count", 0) > 1
    if stepped and not p.optimizer.state and not getattr(p.optimizer, "_opt_called", False):
        return fail("the scheduler has stepped, the optimiser has not", cause, fix)
    if p.history is None or "lr" not in p.history:
        return ok("as far as can be seen; history with a column 'lr' tells more")
    rates = p.history["lr"].to_numpy(float)
    planned = _planned_rates(p, len(rates) + 1)
    if planned is None:
        return ok("this scheduler's rates depend on the losses, or it has stepped already")
    if any(np.allclose(rates, wanted[:-1]) for wanted in planned):
        return ok(f"rates of {len(rates)} epochs are those of the schedule")
    if any(np.allclose(rates, wanted[1:]) for wanted in planned):
        return fail("the recorded rates run an epoch ahead of the schedule", cause, fix)
    evidence = "the recorded rates are not those of the scheduler"
    return warn(evidence, "something else sets them", "record optimizer.param_groups[0]['lr'] in every epoch")


def _planned_rates(p: Patient, epochs: int) -> np.ndarray | None:
    """The learning rates (groups, epochs) that the scheduler sets."""
    sums = [_rate_sums(p, n) for n in range(epochs + 1)]
    return None if None in sums else np.diff(np.array(sums), axis=0).T


@check("leakage", "what train and test share", section="evaluation#leakage", runs=False)
def leakage(p: Patient) -> Finding:
    if not p.data and p.scaler is None:
        return skipped("needs data={'train': ..., 'validation': ..., 'test': ...}, for scaled features also scaler=")
    samples = {name: _samples(value) for name, value in p.data.items()}
    if p.scaler is not None and "train" in samples and (finding := _fitted_on_all(p.scaler, samples)) is not None:
        return finding
    hashes = {name: [hashed(sample) for sample in values] for name, values in samples.items()}
    known = {name: set(values) for name, values in hashes.items()}
    for a, b in itertools.combinations(hashes, 2):
        if n := len([h for h in hashes[b] if h in known[a]]):
            cause = "the same samples under several names, or augmented copies made before the split"
            evidence = f"{n} of {len(hashes[b])} samples of {b} are also in {a}"
            judge = fail if n > 0.05 * len(hashes[b]) else warn  # some data sets hold a few equal rows
            return judge(evidence, cause, "split first; keep copies of a sample in one subset")
    sizes = ", ".join(f"{name} {len(values)}" for name, values in samples.items())
    return ok(f"no sample is in two subsets ({sizes})")


def _samples(subset) -> list:
    if isinstance(subset, torch.utils.data.DataLoader):
        subset = subset.dataset
    if isinstance(subset, (tuple, list)) and len(subset) == 2 and all(hasattr(part, "shape") for part in subset):
        subset = subset[0]  # (samples, labels)
    if isinstance(subset, torch.utils.data.Dataset):
        return [row[0] if isinstance(row, (tuple, list)) else row for row in (subset[i] for i in range(len(subset)))]
    return list(subset)


def hashed(sample) -> str:
    if isinstance(sample, (str, Path)):
        content = Path(sample).read_bytes()
    else:
        values = sample.detach().cpu().numpy() if isinstance(sample, torch.Tensor) else np.asarray(sample)
        if values.dtype == object:
            raise ValueError(f"samples should be tensors, arrays, images or files, got {type(sample).__name__}")
        values = values.astype(np.float32) if values.dtype.kind == "f" else values
        content = np.ascontiguousarray(values).tobytes()
    return hashlib.sha256(content).hexdigest()


def _fitted_on_all(scaler, samples: dict[str, list]) -> Finding | None:
    n = getattr(scaler, "n_samples_seen_", None)
    mean = np.asarray(getattr(scaler, "mean_", np.nan), float)
    total = sum(map(len, samples.values()))
    cause = "the scaler has seen the test set"
    fix = "scaler.fit(train), then transform every subset"
    if n is not None and int(np.max(n)) > len(samples["train"]):
        return fail(f"the scaler was fitted on {int(np.max(n))} samples, train has {len(samples['train'])}", cause, fix)
    if len(samples) > 1 and np.isfinite(mean).all() and total > len(samples["train"]):
        rows = {name: np.stack([np.asarray(s, float).ravel() for s in values]) for name, values in samples.items()}
        away = [np.abs(r.mean(0) - mean.ravel()).max() for r in (rows["train"], np.concatenate(list(rows.values())))]
        if away[1] < 1e-6 < away[0]:
            return fail("the scaler's mean is that of all samples, not of train", cause, fix)
    return None


@check("selection", "how the reported epoch was chosen", section="evaluation#selection", runs=False)
def selection(p: Patient) -> Finding:
    if p.history is None or "test_accuracy" not in p.history or "selected" not in p.history:
        return skipped("needs history= with columns 'test_accuracy' and 'selected', better also 'selected_on'")
    chosen = p.history[p.history["selected"].astype(bool)]
    if chosen.empty:
        return skipped("no epoch of the history is marked as selected")
    test = p.history["test_accuracy"]
    last = p.history["test_accuracy"].iloc[-1]
    reported = chosen["test_accuracy"].iloc[-1]
    evidence = f"reported {reported:.3f}, last epoch {last:.3f}, best on test {test.max():.3f}"
    chosen_on = _chosen_on(p.history, chosen)
    if chosen_on == "test":
        cause = "the epoch was looked for on the test set: the maximum of noisy values is too high"
        return fail(evidence, cause, "choose the epoch on a validation set, or report the last one")
    return ok(f"{evidence}; {chosen_on}")


def _chosen_on(history: pd.DataFrame, chosen: pd.DataFrame) -> str:
    """What the reported epoch was chosen on: 'test', or in words that it was not, as far as can be seen.

    The fault is the rule, so that a history which tells it (`selected_on`) is believed whatever its numbers. Where it
    does not, the numbers are looked at, and a last epoch that happens to be the best one looks innocent.
    """
    if "selected_on" in history:
        on = str(chosen["selected_on"].iloc[-1])
        return on if on == "test" else f"chosen on {on}"
    if chosen.index[-1] == history.index[-1]:
        return "the last epoch is reported; a column 'selected_on' tells whether that was the rule"
    by = history.get("validation_accuracy")
    test = history["test_accuracy"]
    if by is not None and by.loc[chosen.index[-1]] == by.max():
        return "chosen on validation"
    return "test" if chosen["test_accuracy"].iloc[-1] == test.max() else "not the best on test"
