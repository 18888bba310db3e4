"""The doctor: what is wrong with a hybrid quantum-classical model that does not train.

    from qtl_utils.doctor.diagnosis import diagnose
    diagnose(model, (images, labels))

`diagnose` runs the checks of CHECKS (in the modules `checks_*`) on any torch module and returns their findings;
`explain(error)` does the same for an exception. A check of one's own is a function from a `Patient` to a finding and a
row of the registry:

    @check("big_weights", "the size of the weights", section="optimisation#stuck")
    def big_weights(patient):
        largest = max(p.abs().max().item() for p in patient.model.parameters())
        if largest > 100:
            return fail(f"the largest weight is {largest:.0f}", "steps that were too large", "a lower learning rate")
        return ok(f"the largest weight is {largest:.2f}")
"""

import contextlib
import copy
import html
import math
import random
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from qtl_utils.doctor.probe import Observation, observe

VERDICTS = ("fail", "warn", "ok", "skipped")
COLOURS = {"fail": "#c0392b", "warn": "#b9770e", "ok": "#1e8449", "skipped": "#7f8c8d"}
FEW = 4  # samples that expensive checks look at


@dataclass(frozen=True)
class Finding:
    """What one check found: `verdict` is one of VERDICTS, `section` a heading of a troubleshooting notebook."""

    verdict: str
    evidence: str
    cause: str = ""
    fix: str = ""
    check: str = ""
    section: str = ""

    @property
    def link(self) -> str:
        """The notebook and heading that treat this finding, relative to notebooks/."""
        name, _, anchor = self.section.partition("#")
        return f"05_troubleshooting_{name}.ipynb#{anchor}" if name else ""


def ok(evidence: str) -> Finding:
    return Finding("ok", evidence)


def warn(evidence: str, cause: str, fix: str) -> Finding:
    return Finding("warn", evidence, cause, fix)


def fail(evidence: str, cause: str, fix: str) -> Finding:
    return Finding("fail", evidence, cause, fix)


def skipped(why: str) -> Finding:
    """A check that cannot decide, and what it lacks."""
    return Finding("skipped", why)


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def norm(tensors: Iterable[torch.Tensor]) -> float:
    """The Euclidean norm of several tensors as one vector."""
    return math.sqrt(sum(t.double().square().sum().item() for t in tensors))


def alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two outputs are equal but for rounding, which may depend on where in memory a tensor lies."""
    rounding = 100 * torch.finfo(a.dtype).eps * a.detach().abs().max().item()
    return a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, rtol=0, atol=rounding)


@dataclass(frozen=True)
class Check:
    """A row of CHECKS.

    `about` says what is looked at. `explained_by`: checks whose failure already explains this one, which then is
    skipped. `steps`: how many training steps it costs, to be held against the budget. `runs`: it needs a forward pass.
    """

    function: Callable[["Patient"], Finding]
    about: str
    section: str
    explained_by: tuple[str, ...] = ()
    steps: int = 0
    runs: bool = True


CHECKS: dict[str, Check] = {}


def check(name: str, about: str, **options) -> Callable:
    """Decorator that adds a function to CHECKS; `options` are those of `Check`."""

    def register(function):
        CHECKS[name] = Check(function, about, **options)
        return function

    return register


class DiagnosisError(RuntimeError):
    """A check failed; the message lists the findings."""


@dataclass(frozen=True)
class Diagnosis(Sequence):
    """The findings of one diagnosis, worst first; a table in Jupyter, text in a terminal."""

    findings: tuple[Finding, ...]
    seconds: float = 0.0

    def __getitem__(self, index):
        return self.findings[index]

    def __len__(self):
        return len(self.findings)

    def verdict(self, name: str) -> str:
        """What the check `name` said."""
        return next(f.verdict for f in self.findings if f.check == name)

    def of(self, *verdicts: str) -> "Diagnosis":
        """The findings with these verdicts alone."""
        return replace(self, findings=tuple(f for f in self.findings if f.verdict in verdicts))

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed or warn."""
        return [f.check for f in self.findings if f.verdict in ("fail", "warn")]

    def to_frame(self) -> pd.DataFrame:
        columns = ["check", "verdict", "evidence", "cause", "fix", "link"]
        return pd.DataFrame([{c: getattr(f, c) for c in columns} for f in self.findings], columns=columns)

    def raise_if_failed(self) -> None:
        """Raises DiagnosisError where a check failed; a warning is none."""
        if any(f.verdict == "fail" for f in self.findings):
            raise DiagnosisError(f"the model has faults:\n{self.of('fail')}")

    def __str__(self):
        lines = []
        for f in self.findings:
            lines.append(f"{f.verdict:>7}  {f.check}: {f.evidence}")
            lines += [f"{'':9}{word}: {text}" for word, text in (("cause", f.cause), ("fix", f.fix)) if text]
            lines += [f"{'':9}see notebooks/{f.link}"] if f.verdict in ("fail", "warn") and f.link else []
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self):
        rows = "".join(_row(f) for f in self.findings)
        head = "".join(
            f"<th style='text-align:left'>{name}</th>" for name in ("check", "", "evidence", "cause and fix")
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _row(f: Finding) -> str:
    cell = "<td style='text-align:left; vertical-align:top; max-width:32em'>{}</td>"
    name = html.escape(f.check.replace("_", " "))
    if f.verdict in ("fail", "warn") and f.link:
        name = f"<a href='{html.escape(f.link)}'>{name}</a>"
    told = f"<b style='color:{COLOURS[f.verdict]}'>{f.verdict}</b>"
    cause = html.escape(f.cause) + (f"<br><i>Fix:</i> {html.escape(f.fix)}" if f.fix else "")
    return f"<tr>{''.join(cell.format(text) for text in (name, told, html.escape(f.evidence), cause))}</tr>"


# ---- the patient -----------------------------------------------------------------------------------------------------


@dataclass
class Patient:
    """What the checks look at: the model as it is during a diagnosis, one batch, and what else was given."""

    model: nn.Module
    images: torch.Tensor
    labels: torch.Tensor
    loss: Callable = field(default_factory=nn.CrossEntropyLoss)
    optimizer: torch.optim.Optimizer | None = None
    scheduler: Any = None
    scaler: Any = None
    history: pd.DataFrame | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    factory: Callable[[], nn.Module] | None = None
    epochs: int | None = None
    memory_limit: float = 0.0  # bytes
    trained: bool = False
    error: Exception | None = None
    step_seconds: float = 0.0
    modes: dict[str, bool] = field(default_factory=dict)  # module name -> was it in train mode
    generators: list = field(default_factory=list)  # of sampling devices, with their first states

    @cached_property
    def seen(self) -> Observation:
        """One forward pass over the batch in eval mode, watched."""
        return observe(self.model, self.images)

    @property
    def few(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images[:FEW], self.labels[:FEW]

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def angles(self) -> dict[str, nn.Parameter]:
        """Trainable parameters of the circuits, by name."""
        ids = {id(p) for site in self.seen.sites for p in site.angles}
        return {name: p for name, p in self.trainable.items() if id(p) in ids}

    @property
    def shots(self) -> bool:
        return any(site.shots for site in self.seen.sites)

    def gradients(self, images=None, labels=None) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
        """The loss of a batch and its gradient by the trainable parameters; None where the graph does not lead."""
        images, labels = (self.images, self.labels) if images is None else (images, labels)
        loss, wanted = self.loss(self.model(images), labels), self.trainable
        if not loss.requires_grad:
            return loss, dict.fromkeys(wanted)
        grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        return loss.detach(), dict(zip(wanted, grads, strict=True))

    def projected(self, images: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor | None]:
        """Gradients of the outputs' sum, weighted by `direction`, without any loss."""
        grads = torch.autograd.grad(
            (self.model(images) * direction).sum(), list(self.trainable.values()), allow_unused=True
        )
        return dict(zip(self.trainable, grads, strict=True))

    @cached_property
    def noisy(self) -> bool:
        """Whether two passes in eval mode differ, by shots or otherwise."""
        with torch.no_grad():
            return not alike(self.model(self.images), self.model(self.images))

    def kept(self) -> contextlib.AbstractContextManager:
        """What happens inside to parameters, buffers, gradients and modes of the model is undone at the end."""
        return kept_tensors(self.model)

    def kept_training(self) -> contextlib.AbstractContextManager:
        """The same for the optimiser."""
        return kept_optimizer(self.optimizer)


@contextlib.contextmanager
def kept_tensors(model: nn.Module) -> Iterator[None]:
    # the model works on copies; the tensors it came with are never written to and are put back
    parameters = [(p, p.data, p.grad, p.requires_grad) for p in model.parameters()]
    modules = [(m, m.training, dict(m._buffers)) for m in model.modules()]
    try:
        for p, *_ in parameters:
            p.data, p.grad = p.data.clone(), None
        for m, _, buffers in modules:
            m._buffers.update({name: b if b is None else b.clone() for name, b in buffers.items()})
        yield
    finally:
        for p, value, grad, wanted in parameters:
            p.grad = None
            p.data, p.grad = value, grad
            p.requires_grad_(wanted)
        for m, training, buffers in modules:
            m.training = training
            m._buffers.clear()
            m._buffers.update(buffers)


@contextlib.contextmanager
def kept_optimizer(optimizer) -> Iterator[None]:
    if optimizer is None:
        yield
        return
    state, rates = dict(optimizer.state), [dict(group) for group in optimizer.param_groups]
    called = getattr(optimizer, "_opt_called", None)
    optimizer.state.clear()
    optimizer.state.update({p: copy.deepcopy(values) for p, values in state.items()})
    try:
        yield
    finally:
        optimizer.state.clear()
        optimizer.state.update(state)
        for group, before in zip(optimizer.param_groups, rates, strict=True):
            group.update(before)
        if called is not None:
            optimizer._opt_called = called
        elif hasattr(optimizer, "_opt_called"):
            del optimizer._opt_called


@contextlib.contextmanager
def kept_random() -> Iterator[None]:
    """The random number generators of torch, NumPy and Python end as they began."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


# ---- diagnosis -------------------------------------------------------------------------------------------------------


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
    import qtl_utils.doctor.checks  # noqa: F401  fills the registry

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
    from qtl_utils.study.config import unknown_name

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
        return skipped(f"could not be checked: {type(error).__name__}: {_short(error)}")


def _short(error: Exception, length: int = 300) -> str:
    text = " ".join(str(error).split()) or repr(error)
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    return text if len(text) <= length else text[: length - 3] + "..."


# ---- error messages --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KnownError:
    """A message (regular expression), its cause, what mends it, and where that is explained."""

    pattern: str
    cause: str
    fix: str
    section: str


KNOWN_ERRORS = (
    KnownError(
        r"the model returns a \w+, not a tensor",
        "the loss needs one tensor of outputs",
        "return the outputs alone, or diagnose a module that picks them out",
        "gradients#batch",
    ),
    KnownError(
        r"expected target dtype|expected scalar type Long|\"nll_loss\w*\" not implemented|to be Long",
        "cross-entropy takes class numbers, which are whole",
        "labels.long()",
        "simulators#dtype",
    ),
    KnownError(
        r"Target -?\d+ is out of bounds",
        "a label is larger than the number of outputs allows; labels count from 0",
        "as many outputs as classes, labels 0 ... classes - 1",
        "simulators#errors",
    ),
    KnownError(
        r"Target size .* must be the same as input size",
        "outputs and labels have different shapes",
        "labels.view_as(outputs)",
        "gradients#batch",
    ),
    KnownError(
        r"\b(Byte|unsigned char)\b",
        "images are whole numbers, layers compute with floating point",
        "images.float() / 255",
        "simulators#dtype",
    ),
    KnownError(
        r"'(list|tuple)' object has no attribute",
        "since PennyLane 0.30 a QNode with several measurements returns a list of tensors; an LSTM returns a tuple",
        "torch.stack(list_of_outputs, dim=-1)",
        "simulators#lists",
    ),
    KnownError(
        r"gradient of broadcasted tapes with respect to the broadcasted parameters",
        "parameter-shift, finite-diff, spsa and hadamard cannot differentiate a batch behind a trainable layer",
        "qml.transforms.broadcast_expand(qnode), or diff_method='backprop' or 'adjoint'",
        "simulators#broadcast",
    ),
    KnownError(
        r"must have the same dtype|expected (m1 and m2|scalar type|.*dtype)|but found (Double|Float)",
        "float64 met float32: QNodes and NumPy give float64, layers are float32",
        "circuit_output.to(x.dtype) before the next layer, images.float()",
        "simulators#dtype",
    ),
    KnownError(
        r"does not support adjoint with requested circuit",
        "adjoint differentiation gives gradients of expectation values without shots, not of probabilities, states "
        "or samples",
        "return expectation values, or diff_method='backprop' (without shots) or 'parameter-shift' (with shots)",
        "simulators#adjoint",
    ),
    KnownError(
        r"does not support backprop with requested circuit",
        "backprop needs a simulator written in torch and no shots",
        "default.qubit without shots, or diff_method='adjoint' or 'parameter-shift'",
        "simulators#adjoint",
    ),
    KnownError(
        r"Expected all tensors to be on the same device|on device meta|same device|is on cpu|Tensor on device",
        "model, batch and what the circuit returns are on different devices",
        "move all of them: model.to(device), images.to(device), circuit_output.to(x.device)",
        "simulators#devices",
    ),
    KnownError(
        r"Can't pickle|cannot pickle|Can't get local object|pickle .*QNode",
        "a circuit is a function made at run time, which pickle cannot store",
        "torch.save(model.state_dict(), file), and load it into a newly made model",
        "simulators#saving",
    ),
    KnownError(
        r"shapes? cannot be multiplied|size mismatch|is invalid for input of size|must match the size",
        "a layer was handed another shape than it expects; circuits give one value per measurement",
        "print the shape after every layer; a QNode in a TorchLayer should return a list, not a tuple",
        "gradients#batch",
    ),
    KnownError(
        r"does not require grad and does not have a grad_fn",
        "nothing between the parameters and the loss is differentiable",
        "build outputs with torch.stack instead of torch.tensor, .item() or NumPy; set requires_grad",
        "gradients#detached",
    ),
    KnownError(
        r"Can't call numpy\(\) on Tensor that requires grad",
        "NumPy leaves the graph, so torch refuses",
        "use torch's functions on tensors that need gradients",
        "gradients#detached",
    ),
    KnownError(
        r"Expected more than 1 value per channel",
        "BatchNorm in train mode cannot normalise a batch of one",
        "drop or merge a last batch of one image",
        "evaluation#batchnorm",
    ),
)


def explain(error: Exception) -> Finding:
    """The finding for an exception: its text, and cause and fix where the message is a known one."""
    message = f"{type(error).__name__}: {_short(error)}"
    for known in KNOWN_ERRORS:
        if re.search(known.pattern, f"{type(error).__name__}: {error}"):
            return Finding("fail", message, known.cause, known.fix, "forward", known.section)
    cause = "the model raises on this batch; the message is not one the doctor knows"
    return Finding("fail", message, cause, "run model(images) by itself and read the traceback", "forward")
