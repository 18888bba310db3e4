"""The doctor on models of people who asked for help in public: the cause is named, and nothing is touched."""

import pytest
import torch
from torch import nn
from unchanged import unchanged

from qtl_utils.doctor.diagnosis import diagnose
from qtl_utils.doctor.faults import Circuit, dressed
from qtl_utils.doctor.findings import CHECKS
from qtl_utils.doctor.strangers import STRANGERS, STRANGERS_HEALTHY

SLOW = {"lightning_batch", "measured_and_conditional"}
# what else is true of a model: a circuit's derivative by parameter-shift is slow too
BESIDES = {"inner_derivative": ["time"]}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in STRANGERS])
def test_the_cause_is_named_and_no_other(name):
    told = STRANGERS[name].make()
    with unchanged(told):
        found = diagnose(**told)
    assert STRANGERS[name].check in found.failed, found.of("fail", "warn")
    assert set(found.failed) <= {STRANGERS[name].check, *BESIDES.get(name, [])}, found.of("fail", "warn")
    assert not any("I do not know this one" in f.cause for f in found)


@pytest.mark.parametrize("name", STRANGERS_HEALTHY)
def test_an_unusual_model_raises_no_alarm(name):
    told = STRANGERS_HEALTHY[name]()
    with unchanged(told):
        found = diagnose(**told)
    assert found.failed == [], found.of("fail", "warn")


def test_every_stranger_is_for_a_check_that_exists():
    assert {s.check for s in STRANGERS.values()} <= set(CHECKS)
    assert all(s.symptom and s.cause and s.fix for s in STRANGERS.values())


SELDOM = ("time", "gradient_correct", "memory", "saving", "dead_angles")  # slow, and of the circuit, which is the same


def one_logit(seed: int, batch: int) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(seed)
    y = torch.tensor([0.0, 1.0] * (batch // 2)).unsqueeze(-1)
    return dressed(Circuit(), classes=1), (torch.randn(batch, 8) + y, y)


@pytest.mark.parametrize("batch", [4, 8, 16])
@pytest.mark.parametrize("seed", [pytest.param(s, marks=[pytest.mark.slow] * (s > 1)) for s in range(60)])
def test_healthy_classifiers_of_one_logit_are_not_accused(seed, batch):
    checks = None if seed < 2 else [name for name in CHECKS if name not in SELDOM]
    found = diagnose(*one_logit(seed, batch), loss=nn.BCEWithLogitsLoss(), checks=checks)
    assert found.failed == [], found.of("fail", "warn")
