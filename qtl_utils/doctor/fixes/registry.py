"""The registry of fixes: what code can do about a finding, and how one tells that it helped."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from qtl_utils.doctor.findings import Finding
from qtl_utils.doctor.patient import Patient
from qtl_utils.doctor.recipe import Built, Recipe

SHOWS = {
    "accuracy": "held-out accuracy",
    "loss": "held-out loss",
    "seconds": "seconds a step",
    "honesty": "the score that is reported",
    "nothing": "what training does not show",
}


@dataclass(frozen=True)
class Mend:
    """One change: the recipe with it, what to change in the user's code, and keys of a study file that do the same."""

    recipe: Recipe
    patch: str
    keys: dict[str, Any] = field(default_factory=dict)


@dataclass
class Case:
    """What a fix looks at: the recipe as mended so far, a finding, and a batch: scaled samples and labels as given.

    steps: of training, in an epoch.
    """

    recipe: Recipe
    finding: Finding
    images: torch.Tensor
    labels: torch.Tensor
    steps: int

    @cached_property
    def built(self) -> Built:
        """A model of its own to look at, with its optimiser."""
        built = self.recipe.build(0, self.images[:2])
        built.model.eval()
        return built

    @property
    def model(self) -> nn.Module:
        return self.built.model

    @cached_property
    def patient(self) -> Patient:
        labels = self.recipe.labels(self.labels)
        return Patient(self.model, self.images, labels, loss=self.recipe.loss, optimizer=self.built.optimizer)


@dataclass(frozen=True)
class Fix:
    """A row of FIXES: `function` gives the mends that may help, the likeliest first.

    shows: a key of SHOWS, where the fault shows and so by what the mend is judged. again: whether the check is asked
    again of the mended model, and the mend passed over where it still finds the fault.
    """

    function: Callable[[Case], Iterator[Mend]]
    shows: str = "accuracy"
    again: bool = True


FIXES: dict[str, list[Fix]] = {}  # by the name of a check


def fix(*checks: str, shows: str = "accuracy", again: bool = True) -> Callable:
    """Decorator that adds a function from a `Case` to mends to FIXES, for each of these checks.

    @fix("big_weights")
    def shrink(case):
        def halved(model):
            with torch.no_grad():
                for p in model.parameters():
                    p.mul_(0.5)
            return model

        yield Mend(changed(case.recipe, edits=[halved]), "halve the initial weights")
    """

    def register(function):
        for name in checks:
            FIXES.setdefault(name, []).append(Fix(function, shows, again))
        return function

    return register
