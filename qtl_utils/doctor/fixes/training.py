"""Fixes of training: learning rates, scaling of samples, what the loss is given, schedule, and what is reported."""

from collections.abc import Callable

import torch
from torch import nn

from qtl_utils.doctor.checks.training import _rate_sums
from qtl_utils.doctor.fixes.graph import around
from qtl_utils.doctor.fixes.registry import Case, Mend, fix
from qtl_utils.doctor.recipe import Group, changed, fresh

RATE = 0.05  # of angles that jumped, and of parameters that were forgotten: radians a step, for Adam
WAY = 3.0  # radians that angles should be able to travel


def _angles_at(rate: Callable[[float], float]) -> Callable[[list[Group], set[int]], list[Group]]:
    """Groups in which the angles have groups of their own, with `rate` of the learning rate they had."""

    def regroup(groups, angles):
        found = []
        for group in groups:
            own = [q for q in group["params"] if id(q) in angles]
            rest = [q for q in group["params"] if id(q) not in angles]
            found += [group | {"params": own, "lr": rate(group["lr"])}] if own else []
            found += [group | {"params": rest}] if rest else []
        return found

    return regroup


def _scaled(factor: float) -> Callable[[list[Group], set[int]], list[Group]]:
    return lambda groups, angles: [group | {"lr": factor * group["lr"]} for group in groups]


def _rate_of_angles(case: Case) -> float:
    ids = {id(q) for q in case.patient.angles.values()}
    rates = [g["lr"] for g in case.patient.optimizer.param_groups if any(id(q) in ids for q in g["params"])]
    return max(rates, default=0.0)


def _slower(case: Case, rate: float) -> Mend:
    told = f"a parameter group of their own for the angles, with a learning rate of {rate:g}"
    return Mend(changed(case.recipe, regroup=[_angles_at(lambda lr: rate)]), told, {"lr_quantum": rate})


@fix("updates")
def all_in_the_optimiser(case: Case):
    """Parameters that were left out join the optimiser; a rate of 0 becomes one that moves."""
    optimizer = case.patient.optimizer
    held = {id(q) for group in optimizer.param_groups for q in group["params"]}
    left = [name for name, q in case.patient.trainable.items() if id(q) not in held]
    rates = [group["lr"] for group in optimizer.param_groups if group["lr"] > 0]
    if left:

        def edit(model):
            for name, q in model.named_parameters():
                if name in left:
                    fresh(q)
            return model

        yield Mend(changed(case.recipe, edits=[edit]), f"hand the optimiser all parameters, also {', '.join(left[:3])}")
        edit_and_rate = changed(case.recipe, edits=[edit], regroup=[_angles_at(lambda lr: max(lr, RATE))])
        if any(name in case.patient.angles for name in left):
            told = f"hand the optimiser the angles too, in a group with a learning rate of {RATE:g}"
            yield Mend(edit_and_rate, told, {"lr_quantum": RATE})
    if len(rates) < len(optimizer.param_groups):
        rate = max(rates, default=0.01)
        none = lambda groups, angles: [g | {"lr": g["lr"] or rate} for g in groups]  # noqa: E731
        yield Mend(changed(case.recipe, regroup=[none]), f"a learning rate of {rate:g} in place of 0")


@fix("updates")
def smaller_steps(case: Case):
    if _rate_of_angles(case) > RATE:
        yield _slower(case, RATE)
    for factor in (0.1, 0.01):
        told = f"learning rates {1 / factor:g} times smaller"
        yield Mend(changed(case.recipe, regroup=[_scaled(factor)]), told)


@fix("travel")
def farther(case: Case):
    """Angles get a rate at which they can travel WAY radians; the doctor's own sum of rates says how far they can."""
    p = case.patient
    built = case.built
    rate = _rate_of_angles(case)
    p.optimizer = built.schedule.stand_in or built.optimizer
    p.scheduler = built.schedule.scheduler
    sums = _rate_sums(p, case.recipe.epochs, case.steps)
    if rate and sums and max(sums):
        share = max(sums) / max(group["lr"] for group in p.optimizer.param_groups)  # steps at the full rate
        yield _slower(case, float(f"{max(rate, WAY / share):.1g}"))
    yield _slower(case, RATE)


@fix("zeroed_angles", again=False)
def faster_angles(case: Case):
    if rate := _rate_of_angles(case):
        yield _slower(case, min(10 * rate, RATE) if rate < RATE else 2 * rate)


@fix("stuck_loss", again=False)
def other_rates(case: Case):
    """Smaller, clipped steps for training that diverges; larger ones for a loss that stays where it was."""
    if "diverges" in case.finding.cause:
        told = "learning rates 10 times smaller, and torch.nn.utils.clip_grad_norm_(parameters, 1.0)"
        yield Mend(changed(case.recipe, regroup=[_scaled(0.1)], clip=1.0), told)
        return
    yield Mend(changed(case.recipe, regroup=[_scaled(10.0)]), "learning rates 10 times larger")


@fix("saturation")
@fix("stuck_loss", again=False)
def standardise(case: Case):
    """Samples standardised by the training samples; else LayerNorm before the first layer."""
    if case.recipe.scale != "train" and case.images.is_floating_point():
        told = "x = (x - train.mean(0)) / train.std(0), by the training samples alone, for every subset"
        yield Mend(changed(case.recipe, scale="train"), told, {"feature_scaling": "standard"})
    if case.finding.check == "saturation":
        first = next((n for n, m in case.model.named_modules() if isinstance(m, nn.Linear)), None)
        if first is not None:
            yield Mend(
                changed(case.recipe, edits=[around(first, before=_normalised)]),
                f"nn.LayerNorm(features, elementwise_affine=False) before '{first}'",
            )


def _normalised(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.layer_norm(x, x.shape[1:])


# ---- what the loss is given ------------------------------------------------------------------------------------------


@fix("probabilities", shows="loss")
def logits(case: Case):
    """A softmax or sigmoid that ends the model is taken away, and elsewhere undone; expectation values are scaled."""
    ends = (nn.Softmax, nn.Sigmoid)
    last = case.model[-1] if isinstance(case.model, nn.Sequential) and len(case.model) else None
    if "expectation values" in case.finding.evidence:
        width = case.patient.seen.output.shape[1]
        edit = lambda model: nn.Sequential(model, _linear(width).to(case.images))  # noqa: E731
        yield Mend(changed(case.recipe, edits=[edit]), f"nn.Linear({width}, {width}) behind the circuit")
        return
    if isinstance(last, ends):
        told = f"no nn.{type(last).__name__} at the end of the model: the loss applies it itself"
        yield Mend(changed(case.recipe, edits=[lambda model: model[:-1]]), told)
    elif isinstance(case.recipe.loss, nn.BCEWithLogitsLoss):
        edit = around(behind=lambda out, x: torch.logit(out, 1e-6))
        yield Mend(changed(case.recipe, edits=[edit]), "return logits, no sigmoid: BCEWithLogitsLoss applies it itself")
    else:
        edit = around(behind=lambda out, x: out.clamp(min=1e-12).log())
        yield Mend(changed(case.recipe, edits=[edit]), "return logits, or log_softmax, in place of probabilities")


def _linear(width: int) -> nn.Linear:
    layer = nn.Linear(width, width)
    for q in layer.parameters():
        fresh(q)
    return layer


# ---- modes, schedule, and what is reported ---------------------------------------------------------------------------


@fix("frozen_buffers")
def keep_still(case: Case):
    yield Mend(changed(case.recipe, still=True), "after every model.train(): backbone.eval()")


@fix("scheduler_order", shows="nothing", again=False)
def scheduler_last(case: Case):
    yield Mend(changed(case.recipe, scheduler_first=False), "scheduler.step() after the epoch's optimizer.step() calls")


@fix("selection", shows="honesty", again=False)
def report_the_last(case: Case):
    told = "report the last epoch, or one that was chosen on a validation set"
    yield Mend(changed(case.recipe, select="last"), told)


@fix("leakage", shows="honesty", again=False)
def clean_test_set(case: Case):
    if "scaler" in case.finding.evidence:
        told = "scaler.fit(train), then transform every subset"
        yield Mend(changed(case.recipe, scale="train"), told, {"feature_scaling": "standard"})
    else:
        told = "leave samples out of the test set that other subsets have; split before samples are copied"
        yield Mend(changed(case.recipe, leaky=False), told)
