"""Repair: diagnoses a model, applies the fixes that code can apply, and keeps those that help on the user's samples."""

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from qtl_utils.doctor.diagnosis import diagnose
from qtl_utils.doctor.findings import CHECKS, Finding, fail
from qtl_utils.doctor.fixes.circuit import _nodes
from qtl_utils.doctor.fixes.registry import FIXES, Case, Fix, Mend
from qtl_utils.doctor.patient import Attributes, Patient, kept_random
from qtl_utils.doctor.recipe import Recipe, copied
from qtl_utils.doctor.repaired import Repair, Row, study_keys
from qtl_utils.doctor.samples import read_all
from qtl_utils.doctor.trial import HELD_OUT, Gain, Samples, Score, Trial, fitted, gain, mean, read_samples, stratified

EPOCHS = 20
ALTERNATIVES = 3  # mends that are tried of one finding
ROUNDS = 3  # a mend may bring to light what a fault hid
HARM = 0.02  # accuracy that a mend may cost at most where it mends what accuracy does not show


def repair(
    model_or_factory: nn.Module | Callable[[], nn.Module],
    data,
    *,
    loss: Callable | None = None,
    optimizer=None,
    scheduler=None,
    scaler=None,
    history=None,
    epochs: int | None = None,
    batch_size: int = 16,
    seeds: int | Sequence[int] = 5,
    minutes: float = 2.0,
    checks: Sequence[str] | None = None,
    budget: float = 60.0,
    memory_limit: float | None = None,
) -> Repair:
    """Mends what `diagnose` finds in a model, as far as code can, and keeps what helps.

    model_or_factory: a torch module called as `model(samples)`, which every training gets a copy of, or a function
    without arguments that makes it, which draws other initial weights for every seed. data: two tensors (samples,
    labels), a loader or a data set, or a dict of such for 'train', 'validation' and 'test'. Without 'test', 30 % of the
    samples are set aside for it. Nothing that is given is changed, random generators are left as they were.

    Every finding's fixes (FIXES) are tried one after the other on top of what was kept so far. The model with and
    without a mend is trained over the same `seeds`: with the same initial weights where shapes allow, on the same 75 %
    of the samples in the same order, and held against each other on the other 25 %. A mend is kept where the 95 % t
    interval of its gain in held-out accuracy lies above zero; a mend of what accuracy does not show (seconds a step,
    an honest score, precision) where it does no harm. In the end all that was kept is held against the broken model on
    the test set, which no choice has seen.

    - loss: by default the one that fits outputs and labels, as `diagnose` has it. optimizer: an instance on the model's
      parameters, or a function from a model to one; Adam at 0.01 by default. scheduler: an instance on that optimiser,
      or a function from an optimiser to one.
    - history, scaler, checks, budget, memory_limit: as `diagnose` takes them. A scaler transforms the samples.
    - epochs: 20 by default, or as many as the history has. batch_size: of training.
    - seeds: how many, or which. minutes: for everything. Where it is short, epochs, seeds and samples are fewer and the
      notes say so; it is exceeded by one training at most.

    Raises ValueError, in one sentence, where an argument is of another kind.
    """
    start = time.perf_counter()
    seeds = _checked_seeds(seeds)
    samples = read_samples(data)
    _refuse(model_or_factory, optimizer, scheduler, epochs, batch_size, minutes)
    is_model = isinstance(model_or_factory, nn.Module)
    with kept_random(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = model_or_factory if is_model else model_or_factory()
        with _kept_devices(model):
            recipe = Recipe(
                make=(lambda seed: copied(model)) if is_model else (lambda seed: model_or_factory()),
                loss=loss or _fitting_loss(model, samples.pool),
                epochs=epochs or (len(history) if history is not None and len(history) else EPOCHS),
                batch_size=batch_size,
                optimizer=optimizer,
                scheduler=scheduler,
                original=model,
                scaler=scaler,
                scale="none" if scaler is None else "given",
                leaky=bool(len(samples.leaked[0])),
            )
            told = {"history": history, "scaler": scaler, "checks": checks, "memory_limit": memory_limit}
            return _Surgery(recipe, samples, data, told, start, minutes, budget, seeds, is_model).run(model_or_factory)


def _fitting_loss(model: nn.Module, pool: tuple[torch.Tensor, torch.Tensor]) -> Callable:
    """The loss that fits the model's outputs and the labels; cross-entropy where the model does not run."""
    patient = Patient(model, pool[0][:8], pool[1][:8], attributes=Attributes(model))
    try:
        with patient.kept(), torch.no_grad():
            return patient.chosen.function
    except Exception:  # what it raises is a finding
        return nn.CrossEntropyLoss()


def _checked_seeds(seeds) -> list[int]:
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not numbers or not all(isinstance(s, int) and s >= 0 for s in numbers) or len(set(numbers)) < len(numbers):
        raise ValueError(f"seeds: expected a number of seeds, or different ones such as [0, 1, 2], got {seeds!r}")
    return numbers


def _refuse(model, optimizer, scheduler, epochs, batch_size, minutes) -> None:
    if isinstance(model, type) or not callable(model):
        raise ValueError("repair needs a torch module, or a function without arguments that makes one: lambda: ...")
    instance = isinstance(optimizer, torch.optim.Optimizer)
    if optimizer is not None and (isinstance(optimizer, type) or not (instance or callable(optimizer))):
        raise ValueError("optimizer: expected an instance such as torch.optim.Adam(model.parameters()), or a function")
    if instance and not isinstance(model, nn.Module):
        raise ValueError("optimizer: it belongs to another model than the function makes; give lambda model: ...")
    if scheduler is not None and optimizer is None:
        raise ValueError("scheduler: give optimizer= too, the one that it drives")
    if isinstance(scheduler, type) or not (scheduler is None or hasattr(scheduler, "step") or callable(scheduler)):
        raise ValueError("scheduler: expected an instance such as StepLR(optimizer, 10), or a function")
    for name, value, least in (("epochs", epochs, 1), ("batch_size", batch_size, 1)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    if not isinstance(minutes, (int, float)) or not minutes > 0 or not math.isfinite(minutes):
        raise ValueError(f"minutes: expected a number above 0, such as 2.0, got {minutes!r}")


@contextlib.contextmanager
def _kept_devices(model) -> Iterator[None]:
    """Sampling devices of the user's QNodes, which copies of the model share, draw on as if nothing had been."""
    generators = []
    if isinstance(model, nn.Module):
        devices = [getattr(node.device, "_rng", None) for *_, node in _nodes(model)]
        generators = [(g, g.bit_generator.state) for g in devices if isinstance(g, np.random.Generator)]
    try:
        yield
    finally:
        for generator, state in generators:
            generator.bit_generator.state = state


@dataclass
class _Surgery:
    """One call of `repair`, under way."""

    recipe: Recipe
    samples: Samples
    data: object
    told: dict
    start: float
    minutes: float
    budget: float
    seeds: list[int]
    is_model: bool

    def run(self, model_or_factory) -> Repair:
        self.notes: list[str] = []
        self.rows: list[Row] = []
        self.keys: dict = {}
        _, rows = stratified(self.samples.pool[1], min(1.0, self.recipe.batch_size / len(self.samples.pool[1])), 0)
        self.batch = self.samples.pool[0][rows], self.samples.pool[1][rows]
        findings = self._first_findings(model_or_factory)
        queue = [f for f in findings if f.verdict in ("fail", "warn")]
        self.trial = Trial(self.samples, self.seeds, self.start + 60 * self.minutes)
        self._fit_into_time(queue)
        self.broken_recipe = self.recipe
        broken, self.error = self.trial.run(self.recipe) if queue else ([], "")
        self.broken = self.now = broken
        seen = {f.check for f in queue}
        for _ in range(ROUNDS):
            before = self.recipe
            for finding in queue:
                self._treat(finding)
            if self.recipe is before or self._late():
                break
            queue = [f for f in self._findings(self.recipe) if f.verdict in ("fail", "warn") and f.check not in seen]
            seen |= {f.check for f in queue}
        return self._result(findings)

    # ---- findings

    def _scaled(self, recipe: Recipe) -> torch.Tensor:
        return recipe.scaling(self.samples.pool[0])(self.batch[0])

    def _subsets(self) -> dict:
        """The samples by subset; of a loader those that are trained with."""
        if isinstance(self.data, Mapping):
            return {name: read_all(pair)[0] for name, pair in self.data.items()}
        return {"train": self.data[0] if isinstance(self.data, (tuple, list)) else self.samples.pool[0]}

    def _first_findings(self, model_or_factory) -> list[Finding]:
        recipe = self.recipe
        budget = min(self.budget, 20 * self.minutes)
        more = {k: v for k, v in self.told.items() if v is not None and k != "checks"}
        more |= {"data": self._subsets(), "epochs": recipe.epochs, "loss": recipe.loss, "budget": budget}
        names = [self.told["checks"]] if isinstance(self.told["checks"], str) else self.told["checks"]
        batch = self._scaled(recipe), self.batch[1]
        if self.is_model:
            given = {"optimizer": None, "scheduler": None}
            if isinstance(recipe.optimizer, torch.optim.Optimizer):
                given = {"optimizer": recipe.optimizer, "scheduler": recipe.scheduler}
            elif recipe.optimizer is not None:
                built = recipe.build(0, batch[0][:2])
                return list(diagnose(built.model, batch, optimizer=built.optimizer, checks=names, **more))
            return list(diagnose(model_or_factory, batch, checks=names, **given, **more))
        built = recipe.build(0, batch[0][:2])
        given = {"optimizer": built.optimizer, "scheduler": built.schedule.planned(recipe.epochs)}
        own = {} if recipe.optimizer is None else given
        found = list(diagnose(built.model, batch, checks=names, **own, **more))
        if names is None or "reproducible" in names:
            again = diagnose(model_or_factory, batch, checks=["reproducible"], loss=recipe.loss, budget=budget)
            found = [again[0] if f.check == "reproducible" else f for f in found]
        return found

    def _findings(self, recipe: Recipe, checks: Sequence[str] | None = None) -> list[Finding]:
        """What the doctor says of a mended recipe; `checks` of this call only, all of the user's by default."""
        images = self._scaled(recipe)
        try:
            built = recipe.build(0, images[:2])
            labels = recipe.labels(self.batch[1])
        except Exception as error:
            return [replace(fail(f"{type(error).__name__}: {error}", "", ""), check="forward")]
        more = {"optimizer": built.optimizer, "scheduler": built.schedule.planned(recipe.epochs)}
        if recipe.still:
            built.train()
        more |= {"memory_limit": self.told["memory_limit"]} if self.told["memory_limit"] is not None else {}
        checks = self.told["checks"] if checks is None else [c for c in checks if c in CHECKS]
        left = max(1.0, self.trial.deadline - time.perf_counter())
        more |= {"data": {"train": self.samples.pool[0]}, "epochs": recipe.epochs, "checks": checks}
        return list(diagnose(built.model, (images, labels), loss=recipe.loss, budget=min(self.budget, left), **more))

    # ---- time

    def _late(self) -> bool:
        return time.perf_counter() > self.trial.deadline

    def _fit_into_time(self, queue: list[Finding]) -> None:
        mends = sum(f.check in FIXES and FIXES[f.check][0].shows != "honesty" for f in queue)
        left = self.trial.deadline - time.perf_counter()
        try:
            step = _seconds_of_a_step(self.recipe, self._scaled(self.recipe), self.batch[1])
        except Exception:  # the broken model does not run
            return
        self.recipe, samples, n, told = fitted(self.recipe, self.samples, len(self.seeds), step, mends, left)
        self.samples = self.trial.samples = samples
        self.seeds = self.trial.seeds = self.seeds[:n]
        if told:
            self.notes.append(f"time was short ({self.minutes:g} min): {', '.join(told)}")

    # ---- mends

    def _treat(self, finding: Finding) -> None:
        fixes = FIXES.get(finding.check, [])
        tried = 0
        for row in fixes:
            case = self._case(finding)
            for mend in self._offered(row, case):
                if tried >= ALTERNATIVES:
                    break
                if self._late() and row.shows != "honesty":
                    self.rows.append(Row.of(finding, "no time", "minutes= are over", mend))
                    return
                tried += 1
                if self._try(finding, row, mend):
                    return
        if not tried:
            self.rows.append(Row.of(finding, "not by code", "code cannot apply it"))

    def _case(self, finding: Finding) -> Case:
        n = (1 - HELD_OUT) * len(self.samples.pool[0])
        steps = math.ceil(n / self.recipe.batch_size)
        return Case(self.recipe, finding, self._scaled(self.recipe), self.batch[1], steps)

    def _offered(self, row: Fix, case: Case) -> Iterator[Mend]:
        """Mends of a fix after which its check no longer finds the fault."""
        check = case.finding.check
        offers = row.function(case)
        while True:
            try:
                mend = next(offers)
            except Exception:  # StopIteration too: a fix that cannot look at this model has nothing to offer
                return
            wanted = ["forward"] if not row.again or check not in CHECKS else ["forward", check]
            if all(f.verdict not in ("fail", "warn") for f in self._findings(mend.recipe, wanted)):
                yield mend

    def _try(self, finding: Finding, row: Fix, mend: Mend) -> bool:
        scores = self._scores_of(mend.recipe)
        accuracy = gain(self.now, scores, "held")
        kept, why, found = judged(row.shows, self.now, scores, self.error)
        if not scores or (self.now and len(scores) < min(2, len(self.seeds))):
            self.rows.append(Row.of(finding, "no time", "too few trainings to judge by", mend))
            return False
        told = {"gain": accuracy, "shown": found, "before": mean(self.now, "held"), "after": mean(scores, "held")}
        self.rows.append(Row.of(finding, "kept" if kept else "not kept", why, mend, row.shows, **told))
        if kept:
            self.recipe, self.now, self.error = mend.recipe, scores, ""
            self.keys |= mend.keys
        return kept

    def _scores_of(self, recipe: Recipe) -> list[Score]:
        if self.now and replace(recipe, select=self.recipe.select, leaky=self.recipe.leaky) == self.recipe:
            honest = "test" if self.recipe.leaky and not recipe.leaky else "held"
            return [replace(s, reported=getattr(s, honest)) for s in self.now]
        return self.trial.run(recipe)[0]

    def _result(self, findings: list[Finding]) -> Repair:
        paired = self.recipe is not self.broken_recipe
        overall = gain(self.broken, self.now, "test") if paired else Gain()
        recipe = self.recipe
        pool = self.samples.pool[0]
        return Repair(
            rows=tuple(self.rows),
            findings=tuple(findings),
            broken=mean(self.broken, "test"),
            mended=mean(self.now, "test") if paired else math.nan,
            gain=overall,
            notes=tuple(self.notes),
            trainings=self.trial.trainings,
            seconds=time.perf_counter() - self.start,
            n_test=len(self.samples.test[0]),
            study=study_keys(recipe, self.keys),
            recipe=recipe,
            scaling=recipe.scaling(pool) if recipe.scale != "none" else None,
        )


def _seconds_of_a_step(recipe: Recipe, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Seconds of one training step, the second of two: the first one compiles and allocates."""
    built = recipe.build(0, images[:2])
    built.train()
    for _ in range(2):
        start = time.perf_counter()
        loss = recipe.loss(built.model(images), recipe.labels(labels))
        if loss.requires_grad:
            loss.backward()
            built.optimizer.step()
    return time.perf_counter() - start


def judged(shows: str, broken: list[Score], mended: list[Score], error: str = "") -> tuple[bool, str, Gain]:
    """Whether a mend is kept, why, and the gain in what its fault shows in."""
    if not mended:
        return False, "it was not trained", Gain()
    if not broken:
        return True, f"the broken model does not run ({error}), the mended one does", Gain()
    accuracy = gain(broken, mended, "held")
    harmless = not accuracy.high < 0 and accuracy.value > -HARM
    harm = "" if harmless else "it costs held-out accuracy"
    if shows == "honesty":
        found = gain(broken, mended, "reported")
        return True, f"the reported score was too high by {-found.value:.3f}", found
    if accuracy.low > 0:
        return True, "held-out accuracy rises", accuracy
    if shows in ("accuracy", "loss"):
        found = _less(gain(broken, mended, "held_loss"))
        kept = harmless and found.low > 0
        why = harm or ("held-out log-loss falls" if kept else "neither held-out accuracy nor log-loss shows a gain")
        return kept, why, found
    if shows == "seconds":
        found = gain(_logged(broken), _logged(mended), "step_seconds")
        kept = harmless and found.high < 0
        factor = math.exp(-found.value)
        return kept, harm or (f"a step is {factor:.1f} times as fast" if kept else "steps are not faster"), found
    return harmless, harm or "no harm; training does not show this fault", accuracy


def _less(g: Gain) -> Gain:
    return Gain(-g.value, -g.high, -g.low, g.n)


def _logged(scores: list[Score]) -> list[Score]:
    return [replace(s, step_seconds=math.log(s.step_seconds)) for s in scores]
