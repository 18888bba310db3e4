"""Watching a training: cheap looks at gradients, steps and losses while it runs, and what they say in the end."""

import math
import sys
import time
import warnings
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from qtl_utils.doctor import live_lightning
from qtl_utils.doctor.findings import Diagnosis
from qtl_utils.doctor.live_looks import Eye
from qtl_utils.doctor.live_records import Course, Look, Losses
from qtl_utils.doctor.live_verdicts import PATIENCE, Training, findings
from qtl_utils.doctor.messages import short
from qtl_utils.doctor.stages import stages_of

SHARE = 0.0005  # of the time that the quickest look takes; as the caches are cold, most take several times that
DENSE = 6  # steps at the start that are all looked at
COLUMNS = ("step", "stage", "gradient_norm", "weight_norm", "moved", "loss", "lr")
LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


class TrainingWarning(UserWarning):
    """What a watched training warns of."""


def watch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    interval: int = 20,
    share: float = SHARE,
    quiet: bool = False,
    chance: float | None = None,
) -> "Watch":
    """Returns a `Watch` that follows a training loop of one's own; one line in the loop hands it the loss.

        with doctor.watch(model, optimizer) as w:
            for x, y in loader:
                optimizer.zero_grad()
                loss = criterion(model(x), y)
                loss.backward()
                optimizer.step()
                w.step(loss)
        w.findings

    - model: any torch module with trainable parameters; they are followed in stages (see `stages_of`).
    - optimizer: the one that steps, made from the model's parameters. With several optimisers, watch each of them.
    - interval: steps from one look to the next; the first few steps are all looked at.
    - share: of the training's time that looks may take by themselves. Where steps are so short that looks at every
      interval would take more, some are left out; with share=1 none is.
    - quiet: no warnings while training goes on; a `TrainingWarning` says what is wrong the first time it is seen.
    - chance: the loss of outputs that say nothing; of CrossEntropyLoss and BCEWithLogitsLoss it is read from the loss.

    Model, optimiser and random numbers stay as they are; hooks of the optimiser are removed by `close`, or at the end
    of `with`. ValueError where an argument is of another kind. For Lightning, see `watch.callback`.
    """
    return Watch(model, optimizer, interval=interval, share=share, quiet=quiet, chance=chance)


class Watch:
    """What `watch` returns: `step(loss)` in the loop, then `findings` (a Diagnosis) and `table` (a data frame)."""

    def __init__(self, model, optimizer, *, interval=20, share=SHARE, quiet=False, chance=None):
        _refuse(model, optimizer, interval, share, chance)
        self.interval = interval
        self.share = share
        self.quiet = quiet
        stages = stages_of(model)
        self._eye = Eye(stages, optimizer)
        courses = [Course(stage, unreached=layers) for stage, layers in zip(stages, self._eye.unreached, strict=True)]
        self._losses = Losses(chance)
        self._append = self._losses.values.append
        self._plain = False  # losses are tensors in main memory
        self._steps = 0
        self._looked = 0  # the step of the last look
        self._ended = time.perf_counter()  # when it was over
        self._pace = 0.0  # seconds a step, before the last look
        self._cost = 0.0  # seconds that its first half took
        self._least = math.inf  # seconds of the shortest look
        self._training = Training(courses, self._losses, optimizer)
        self._rows: list[tuple[str, float, Look]] = []  # stage, mean loss, what was seen
        self._looks: list[Look | None] | None = None  # of the step that was looked at last, not yet judged
        self._next = 1  # the step of the next look
        self._judged = PATIENCE
        self._signs: tuple | None = None
        self._said: set[tuple[str, str]] = set()
        self._read = 0  # losses that the table has
        self._hooks = [optimizer.register_step_post_hook(self._after), optimizer.register_step_pre_hook(self._before)]

    def step(self, loss: torch.Tensor | float) -> None:
        """Hands in the loss of a step: a tensor of one value, or a number. ValueError for anything else."""
        if self._plain and type(loss) is torch.Tensor:  # the short way, of most calls
            try:
                value = loss.item()
            except RuntimeError:
                value = self._number(loss)  # which says what is wrong with it
        elif (value := self._number(loss)) is None:
            return
        self._append(value)
        if self._looks is not None or value - value != 0.0:  # a look was made, or the loss is not finite
            self._judge()

    def _number(self, loss) -> float | None:
        """The value of a loss; None where it is to be read later."""
        if not self._hooks:
            raise RuntimeError("the watch is closed: call step inside of `with doctor.watch(...)`, or before close()")
        if isinstance(loss, Real):
            return float(loss)
        if not isinstance(loss, torch.Tensor):
            raise ValueError(f"w.step(loss): expected a tensor of one value or a number, got {_kind(loss)}")
        if loss.numel() != 1:
            raise ValueError(f"w.step(loss): expected one value, got shape {tuple(loss.shape)}; loss.mean() is one")
        if not len(self._losses) and loss.grad_fn is not None:
            self._losses.look_at(loss)
        self._plain = loss.is_cpu
        if self._plain:
            return loss.item()
        self._losses.add_later(loss.detach())
        if self._looks is not None:
            self._judge()
        return None

    # ---- hooks of the optimiser; the one before a step is there only for a step that is looked at

    def _before(self, optimizer, args, kwargs) -> None:
        start = time.perf_counter()
        self._pace = (start - self._ended) / (self._steps - self._looked + 1)
        self._safely(self._eye.before)
        self._cost = time.perf_counter() - start

    def _after(self, optimizer, args, kwargs) -> None:
        self._steps += 1
        if self._steps >= self._next - 1:
            self._at_look()

    def _at_look(self) -> None:
        if self._steps == self._next:
            start = time.perf_counter()
            self._hooks.pop().remove()
            if self._looks is not None:  # no loss was handed in since
                self._judge()
            self._looks = self._safely(self._eye.after, self._steps)
            self._looked = self._steps
            self._ended = time.perf_counter()
            self._least = min(self._least, self._cost + self._ended - start)
            self._next = self._next + 1 if self._next < DENSE else self._after_pause()
        if self._steps == self._next - 1:
            self._hooks.append(self._training.optimizer.register_step_pre_hook(self._before))

    def _after_pause(self) -> int:
        """The step of the next look: a multiple of the interval, and so late that looks take no more than their share.

        What a look costs is the least that one took, as others may have waited for something else. Early in a training
        it comes sooner: by the time that twice as many steps are made.
        """
        bounded = self.share < 1 and self._pace > 0
        needed = self._least / (self.share * self._pace) if bounded else 0.0
        pause = min(max(1, math.ceil(needed / self.interval)), self._steps // self.interval + 1)
        return (self._steps // self.interval + pause) * self.interval

    def _safely(self, look, *args):
        """What a look returns; where it raises, none is made any more, and the training goes on."""
        if self._training.stopped:
            return None
        try:
            with torch.no_grad():
                return look(*args)
        except Exception as error:  # whatever the user's tensors do must not end a training
            self._training.stopped = f"could not be looked at: {type(error).__name__}: {short(error)}"
            return None

    # ---- what was seen

    def _judge(self) -> None:
        """Sums up what was seen until now, and warns where something about it is new."""
        self._catch_up()
        late = self._steps >= self._judged
        if late:
            self._judged *= 2
        if not self.quiet and ((signs := self._training.signs) != self._signs or late):
            self._signs = signs
            self._warn()

    def _take(self, looks: Sequence[Look | None]) -> None:
        """Adds the looks of one step to the table and to the course of each stage."""
        values = self._losses.values
        new = values[self._read :]
        self._read = len(values)
        mean = sum(new) / len(new) if new else math.nan
        up = self._losses.up
        for course, look in zip(self._training.courses, looks, strict=True):
            if look is not None:
                course.add(look, up)
                self._rows.append((course.stage.name, mean, look))
        self._training.uncleared = self._eye.uncleared

    def _warn(self) -> None:
        for finding in findings(self._training):
            key = finding.check, finding.cause
            if finding.verdict in ("fail", "warn") and key not in self._said:
                self._said.add(key)
                said = f"step {self._training.steps}: {finding.evidence} ({finding.cause}); {finding.fix}"
                warnings.warn(said, TrainingWarning, stacklevel=_users_line())

    def close(self) -> None:
        """Removes the hooks and judges the training as a whole; a second call does nothing."""
        if self._hooks:
            self._close()
            if not self.quiet:
                self._warn()

    def _close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._plain = False
        self._catch_up()
        training = self._training
        for course, moved in zip(training.courses, self._safely(self._eye.moved) or (), strict=False):
            course.end(self._steps, moved)
        training.ended = True

    def _catch_up(self) -> None:
        """As `_judge`, without a word."""
        self._training.steps = self._steps
        self._losses.read(self._steps)
        if self._looks is not None:
            self._take(self._looks)
            self._looks = None

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if error is None:
            self.close()
        elif self._hooks:
            self._close()

    @property
    def findings(self) -> Diagnosis:
        """What was found so far, worst first; what can be said of a whole training alone is said after `close`."""
        if self._hooks:
            self._catch_up()
        return Diagnosis(tuple(findings(self._training)))

    @property
    def table(self) -> pd.DataFrame:
        """A row for every look and stage.

        `gradient_norm` is that of the last backward pass (NaN: there was none), `weight_norm` that before the step,
        `moved` the largest change of one value since the start (radians for angles), `loss` the mean of those handed
        in since the look before, `lr` the largest of the stage's groups. Of parameters with more than 4096 values that
        are no angles, norm and change are those of as many.
        """
        rows = [
            (
                look.step,
                stage,
                math.nan if look.gradient is None else look.gradient,
                look.weights,
                look.moved,
                loss,
                look.lr,
            )
            for stage, loss, look in self._rows
        ]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def __str__(self) -> str:
        return str(self.findings)

    def _repr_html_(self) -> str:
        return self.findings._repr_html_()


def _refuse(model: Any, optimizer: Any, interval: Any, share: Any, chance: Any) -> None:
    """Raises ValueError where an argument is of another kind than `watch` takes."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"watch: expected a torch module, got {_kind(model)}")
    if not isinstance(optimizer, torch.optim.Optimizer):
        made = "an optimiser such as torch.optim.Adam(model.parameters())"
        raise ValueError(f"watch: expected {made}, got {_kind(optimizer)}")
    if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
        raise ValueError(f"interval: expected a whole number of steps, at least 1, got {interval!r}")
    if not isinstance(share, Real) or not 0 < share <= 1:
        raise ValueError(f"share: expected a part of the time, above 0 and at most 1, got {share!r}")
    if chance is not None and not (isinstance(chance, Real) and 0 < chance < math.inf):
        raise ValueError(f"chance: expected a positive number, the loss of outputs that say nothing, got {chance!r}")
    parameters = list(model.parameters())
    if any(isinstance(p, nn.parameter.UninitializedTensorMixin) for p in parameters):
        raise ValueError("the model has lazy layers without weights yet: run model(inputs) once, then watch it")
    trainable = {id(p) for p in parameters if p.requires_grad}
    if not trainable:
        raise ValueError("the model has no trainable parameters: all are frozen, or there are none")
    if not any(id(p) in trainable for group in optimizer.param_groups for p in group["params"]):
        made = "torch.optim.Adam(model.parameters())"
        raise ValueError(f"the optimiser holds none of the model's trainable parameters: {made} does")


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _users_line() -> int:
    """How many calls up the user's own line is, for a warning that points to it."""
    frame = sys._getframe(1)
    level = 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(LIBRARIES):
        frame = frame.f_back
        level += 1
    return level


def callback(*, interval: int = 20, share: float = SHARE, quiet: bool = False, chance: float | None = None):
    """Returns a callback for Lightning's `Trainer(callbacks=[...])` that watches a training; options as of `watch`.

    It has `findings` and `table` once training has begun. ImportError where Lightning is not installed.
    """
    return live_lightning.make(watch, interval=interval, share=share, quiet=quiet, chance=chance)


watch.callback = callback
