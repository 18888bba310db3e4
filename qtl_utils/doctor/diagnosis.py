"""Looking at a model: one step of training, then every check, within a budget of seconds."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import nn

from qtl_utils.doctor.findings import CHECKS, VERDICTS, Check, Diagnosis, Finding, skipped
from qtl_utils.doctor.messages import short
from qtl_utils.doctor.patient import Attributes, Patient, kept_random
from qtl_utils.doctor.samples import made_up, read_batch


def diagnose(
    model_or_factory: nn.Module | Callable[[], nn.Module],
    batch: Any = None,
    *,
    loss: Callable | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler=None,
    scaler=None,
    history: pd.DataFrame | Sequence[Mapping] | None = None,
    data: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    checks: Sequence[str] | None = None,
    budget: float = 60.0,
    memory_limit: float | None = None,
) -> Diagnosis:
    """Looks at a model and one batch, and says what is wrong, why, and what mends it.

    model_or_factory: any torch module, or a function without arguments that makes it, which also tells whether its
    initial weights are reproducible. batch: (inputs, labels) of at least two samples, a dict with 'labels', a
    DataLoader, or a data set. Inputs are a tensor or an array, or several: a tuple is handed to the model one by one, a
    dict by name, where its `forward` takes them so. Without a batch, samples are made up from the model's first layer.
    The model returns a tensor, or several, of which `logits` or the first is held against the labels. Model, plain
    attributes of its modules, optimiser, scheduler and random generators are left as they were.

    Everything else is optional; a check that lacks what it needs says so.
    - loss: `loss(outputs, labels)`; of what the model returns, all, where that is no tensor. By default the loss that
      fits outputs and labels, which the check 'loss' names. optimizer, scheduler: those of torch; of a module with
      `configure_optimizers`, its own.
    - history: one row per epoch (a table or a list of dicts) with any of the columns `lr`, `train_loss`,
      `train_accuracy`, `validation_loss`, `validation_accuracy`, `test_loss`, `test_accuracy`, `selected`, true in the
      epoch that is reported, and `selected_on`, the subset that it was chosen on ("test", "validation", or "nothing"
      where the last epoch is always reported).
    - data: subset name ('train', 'validation', 'test') -> its samples: an array or tensor (N, ...), a list of files, or
      a torch data set. scaler: a feature scaler with `mean_` (and `n_samples_seen_`), as scikit-learn's.
    - epochs: how long training is meant to last, where there is no history.
    - checks: names of CHECKS; all by default. budget: seconds; checks that would take longer are skipped and say so.
    - memory_limit: bytes that one training step may keep; half of what is free by default.
    """
    start = time.perf_counter()
    checks = [checks] if isinstance(checks, str) else checks
    names = list(CHECKS) if checks is None else [_known(name) for name in checks]
    _refuse(model_or_factory, optimizer, data)
    history = _table(history)
    with kept_random(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        is_model = isinstance(model_or_factory, nn.Module)
        factory = None if is_model else model_or_factory
        model = model_or_factory if is_model else factory()
        if not isinstance(model, nn.Module):
            raise ValueError(f"diagnose needs a torch module or a function that makes one, got {type(model)}")
        if any(isinstance(q, nn.parameter.UninitializedTensorMixin) for q in model.parameters()):
            raise ValueError("the model has lazy layers without weights yet: run model(images) once, then diagnose")
        images, labels = made_up(model) if batch is None else read_batch(batch)
        if optimizer is None and is_model:
            optimizer, scheduler = _own_optimizer(model, scheduler)
        patient = Patient(
            model=model,
            images=images,
            labels=labels,
            loss=loss if loss is not None else _own_loss(model),
            optimizer=optimizer,
            scheduler=scheduler,
            scaler=scaler,
            history=history,
            data=data or {},
            factory=factory,
            epochs=epochs,
            memory_limit=_half_of_memory() if memory_limit is None else memory_limit,
            trained=history is not None or bool(optimizer and optimizer.state),
            made_up=batch is None,
            deadline=start + budget,
            attributes=Attributes(model),
        )
        patient.modes = {name: module.training for name, module in patient.model.named_modules()}
        findings = _examine(patient, names)
    order = {verdict: number for number, verdict in enumerate(VERDICTS)}
    return Diagnosis(tuple(sorted(findings, key=lambda f: order[f.verdict])), time.perf_counter() - start)


def _refuse(model, optimizer, data) -> None:
    """Raises ValueError where an argument is of another kind than `diagnose` takes."""
    if isinstance(model, type) or not callable(model):
        raise ValueError("diagnose needs a torch module, or a function without arguments that makes one: lambda: ...")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError("optimizer: expected an instance such as torch.optim.Adam(model.parameters())")
    if data is not None and not isinstance(data, Mapping):
        raise ValueError("data: expected a dict such as {'train': samples, 'test': samples}")


def _table(history) -> pd.DataFrame | None:
    try:
        table = None if history is None else pd.DataFrame(history).reset_index(drop=True)
    except ValueError as error:
        raise ValueError(f"history: expected one row per epoch, {error}") from None
    return None if table is None or table.empty else table


def _own_optimizer(model: nn.Module, scheduler) -> tuple:
    """Optimiser and scheduler that a Lightning module makes itself; none where it needs a trainer for that."""
    make = getattr(model, "configure_optimizers", None)
    try:
        made = make() if callable(make) else None
    except Exception:  # it asks its trainer
        made = None
    if isinstance(made, Mapping):
        found = made.get("lr_scheduler")
        made = [made.get("optimizer")], [found.get("scheduler") if isinstance(found, Mapping) else found]
    if isinstance(made, tuple) and len(made) == 2 and all(isinstance(part, list) for part in made):
        optimizers, schedulers = made
        made = optimizers[0] if optimizers else None
        scheduler = scheduler or next((s for s in schedulers if hasattr(s, "step")), None)
    made = made[0] if isinstance(made, (list, tuple)) and made else made
    return (made, scheduler) if isinstance(made, torch.optim.Optimizer) else (None, scheduler)


def _own_loss(model: nn.Module) -> Callable | None:
    """The one loss that a module keeps as an attribute."""
    found = [m for m in model.children() if isinstance(m, nn.modules.loss._Loss)]
    return found[0] if len(found) == 1 else None


def _known(name: str) -> str:
    from qtl_utils.study.names import unknown_name

    if name not in CHECKS:
        raise ValueError(unknown_name("check", name, CHECKS))
    return name


def _half_of_memory() -> float:
    import psutil

    return psutil.virtual_memory().available / 2


def _examine(patient: Patient, names: Sequence[str]) -> list[Finding]:
    found: dict[str, Finding] = {}
    with patient.kept():
        patient.model.eval()
        patient.error = _first_step(patient)
    blocked = ""
    for name in names:
        row = CHECKS[name]
        with patient.kept():
            patient.model.eval()
            if row.runs and blocked:
                finding = skipped(f"would only repeat what '{blocked}' found")
            else:
                finding = _one(patient, row, found, patient.deadline - time.perf_counter())
        found[name] = replace(finding, check=name, section=finding.section or row.section)
        blocked = name if row.blocks and finding.verdict == "fail" else blocked
    for generator, state in patient.generators:
        generator.bit_generator.state = state
    return list(found.values())


def _first_step(patient: Patient) -> Exception | None:
    """Runs one training step, twice to time it warm; the exception where that is not possible."""
    try:
        patient.generators = patient.seen.generators
        patient.gradients()
        start = time.perf_counter()
        patient.gradients()
        patient.step_seconds = time.perf_counter() - start
        patient.gradients(afresh=False)  # the next step of a loop, with what the first one left in the modules
    except Exception as error:  # whatever the user's model raises is a finding
        return error
    return None


def _one(patient: Patient, row: Check, found: dict[str, Finding], left: float) -> Finding:
    bad = [name for name in row.explained_by if name in found and found[name].verdict in ("fail", "warn")]
    if bad:
        return skipped(f"would only repeat what '{bad[0]}' found")
    if row.runs and patient.error is not None:
        return skipped("the model does not run; see 'forward'")
    needed = row.steps * patient.step_seconds
    if needed > max(left, 0):
        return skipped(f"would take about {needed:.0f} s, more than is left of the budget; raise budget=")
    try:
        return row.function(patient)
    except Exception as error:  # a check that cannot look is no verdict on the model
        return skipped(f"could not be checked: {type(error).__name__}: {short(error)}")
