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
from qtl_utils.doctor.patient import Patient, kept_random


def diagnose(
    model_or_factory: nn.Module | Callable[[], nn.Module],
    batch: tuple[torch.Tensor, torch.Tensor],
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

    model_or_factory: any torch module called as `model(images)`, or a function without arguments that makes it, which
    also tells whether its initial weights are reproducible. batch: images and labels of at least two samples. Model,
    optimiser, scheduler and random generators are left as they were.

    Everything else is optional; a check that lacks what it needs says so.
    - loss: `loss(outputs, labels)`, by default cross-entropy. optimizer, scheduler: those of torch.
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
    images, labels = _checked_batch(batch)
    checks = [checks] if isinstance(checks, str) else checks
    names = list(CHECKS) if checks is None else [_known(name) for name in checks]
    _refuse(model_or_factory, optimizer, data)
    history = _table(history)
    with kept_random(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        is_model = isinstance(model_or_factory, nn.Module)
        factory = None if is_model else model_or_factory
        patient = Patient(
            model=model_or_factory if is_model else factory(),
            images=images,
            labels=labels,
            loss=loss or nn.CrossEntropyLoss(),
            optimizer=optimizer,
            scheduler=scheduler,
            scaler=scaler,
            history=history,
            data=data or {},
            factory=factory,
            epochs=epochs,
            memory_limit=_half_of_memory() if memory_limit is None else memory_limit,
            trained=history is not None or bool(optimizer and optimizer.state),
        )
        if not isinstance(patient.model, nn.Module):
            raise ValueError(f"diagnose needs a torch module or a function that makes one, got {type(patient.model)}")
        if any(isinstance(q, nn.parameter.UninitializedTensorMixin) for q in patient.model.parameters()):
            raise ValueError("the model has lazy layers without weights yet: run model(images) once, then diagnose")
        patient.modes = {name: module.training for name, module in patient.model.named_modules()}
        findings = _examine(patient, names, start + budget)
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


def _checked_batch(batch) -> tuple[torch.Tensor, torch.Tensor]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not all(isinstance(t, torch.Tensor) for t in batch):
        raise ValueError("batch: expected two tensors (images, labels), as a data loader gives them")
    images, labels = batch
    if len(images) != len(labels) or len(images) < 2:
        raise ValueError(f"batch: expected at least two images and as many labels, got {len(images)} and {len(labels)}")
    return images, labels


def _known(name: str) -> str:
    from qtl_utils.study.names import unknown_name

    if name not in CHECKS:
        raise ValueError(unknown_name("check", name, CHECKS))
    return name


def _half_of_memory() -> float:
    import psutil

    return psutil.virtual_memory().available / 2


def _examine(patient: Patient, names: Sequence[str], deadline: float) -> list[Finding]:
    found: dict[str, Finding] = {}
    with patient.kept():
        patient.model.eval()
        patient.error = _first_step(patient)
    for name in names:
        row = CHECKS[name]
        with patient.kept():
            patient.model.eval()
            finding = _one(patient, row, found, deadline - time.perf_counter())
        found[name] = replace(finding, check=name, section=finding.section or row.section)
    for generator, state in patient.generators:
        generator.bit_generator.state = state
    return list(found.values())


def _first_step(patient: Patient) -> Exception | None:
    """Runs one training step, twice to time it warm; the exception where that is not possible."""
    try:
        patient.generators = patient.seen.generators
        if not isinstance(patient.seen.output, torch.Tensor):
            kind = type(patient.seen.output).__name__
            raise TypeError(f"the model returns a {kind}, not a tensor")
        patient.gradients()
        start = time.perf_counter()
        patient.gradients()
        patient.step_seconds = time.perf_counter() - start
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
