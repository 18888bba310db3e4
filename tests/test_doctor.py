"""The doctor: every fault is found by its check and by no other, healthy models raise no alarm, nothing is changed."""

import itertools
import math
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from unchanged import unchanged

from qtl_utils.__main__ import main
from qtl_utils.doctor import faults, findings
from qtl_utils.doctor.checks import graph, training
from qtl_utils.doctor.diagnosis import diagnose
from qtl_utils.doctor.faults import FAULTS, HEALTHY, Circuit, case, dressed, head, node, points
from qtl_utils.doctor.findings import CHECKS, Check, fail, ok
from qtl_utils.doctor.patient import Patient

SLOW = {"slow_method", "another_method", "device_seed", "few_shots", "batchnorm", "finite_differences", "loop", "spsa"}
SLOW |= {"backprop_memory", "TorchConnector", "A-joint", "B", "ResNet18", "regression", "sigmoid", "lightning.qubit"}


def some_slow(names):
    """Those of SLOW take seconds each; the notebooks of the smoke study show the same of most of them."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in names]


@pytest.mark.parametrize("name", some_slow(FAULTS))
def test_a_fault_is_found_by_its_check_and_no_other(name):
    torch.manual_seed(0)
    told = FAULTS[name].broken()
    with unchanged(told):
        found = diagnose(**told)
    assert found.failed == [FAULTS[name].check], found.of("fail", "warn")
    assert not [f for f in found if "could not be checked" in f.evidence]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_the_mended_model_raises_no_alarm(name):
    torch.manual_seed(0)
    found = diagnose(**FAULTS[name].mended())
    assert found.failed == [], found.of("fail", "warn")
    assert found.verdict(FAULTS[name].check) == "ok"


@pytest.mark.parametrize("name", some_slow(HEALTHY))
def test_a_healthy_model_raises_no_alarm(name):
    torch.manual_seed(0)
    told = HEALTHY[name]()
    with unchanged(told):
        found = diagnose(**told)
    assert found.failed == [], found.of("fail", "warn")


def test_there_is_a_fault_for_every_symptom():
    assert {fault.number for fault in FAULTS.values()} == set(range(1, 32))
    assert len(HEALTHY) >= 12


class Scaled(Circuit):
    """A factor beside the circuit, and its last output kept for plots."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(faults.N_QUBITS))

    def forward(self, x):
        self.last = super().forward(x)
        return self.last * self.scale


class TwoCircuits(nn.Module):
    """Two QNodes of one module, one of them with a list of angles."""

    def __init__(self):
        super().__init__()
        self.nodes = node(faults.entangling), node(faults.strongly_entangling)
        self.rows = nn.ParameterList([nn.Parameter(torch.rand(faults.N_QUBITS)) for _ in range(2)])
        self.rotations = nn.Parameter(torch.rand(1, faults.N_QUBITS, 3))

    def forward(self, x):
        first = torch.stack(self.nodes[0](x, torch.stack(list(self.rows))), -1).to(x.dtype)
        return torch.stack(self.nodes[1](first, self.rotations), -1).to(x.dtype)


class Logging(nn.Module):
    """A head that starts at zero behind a value that is logged."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(faults.N_FEATURES, 4), nn.Linear(4, 2)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        x = self.body(x)
        self.logged = x.mean().item()
        return self.head(torch.tanh(x))


def scheduled(make, epochs=20, **more):
    """A head whose optimiser and scheduler have run for some epochs."""
    model = head(angle_init=1.0)
    optimizer = faults.adam(model, angles=0.05)
    scheduler = make(optimizer)
    for _ in range(3):
        optimizer.step()
    return case(model, optimizer=optimizer, scheduler=scheduler, data={"train": points(n=60)}, epochs=epochs, **more)


def finished_cosine():
    told = scheduled(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 4))
    told["optimizer"].state[next(iter(told["model_or_factory"].parameters()))] = {"step": torch.tensor(4.0)}
    rates = []
    for _ in range(4):
        rates.append(told["optimizer"].param_groups[0]["lr"])
        told["scheduler"].step()
    return told | {"history": faults.history((0.7, 0.6, 0.5, 0.4), lr=rates), "epochs": None}


ALSO_HEALTHY = {
    "class weights": lambda: case(head(), loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 4.0]))),
    "a parameter beside the circuit": lambda: case(dressed(Scaled())),
    "two circuits in a module": lambda: case(dressed(TwoCircuits())),
    "a value that is logged": lambda: case(Logging()),
    "a plateau scheduler": lambda: scheduled(torch.optim.lr_scheduler.ReduceLROnPlateau),
    "a cosine that has ended": finished_cosine,
    "one cycle": lambda: scheduled(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.05, total_steps=300)),
    "a sigmoid gate": lambda: case(nn.Sequential(Gate(), *dressed(Circuit()))),
}


class Gate(nn.Module):
    """An open gate on the features, far from the circuit."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(4 * torch.ones(faults.N_FEATURES))

    def forward(self, x):
        return x * torch.sigmoid(self.bias)


@pytest.mark.parametrize("name", ALSO_HEALTHY)
def test_what_healthy_models_also_do_raises_no_alarm(name):
    torch.manual_seed(0)
    found = diagnose(**ALSO_HEALTHY[name]())
    assert found.failed == [], found.of("fail", "warn")


ALSO_FAULTY = {
    "sigmoid twice": (lambda: _binary(nn.BCEWithLogitsLoss()), "probabilities"),
    "probabilities to NLLLoss": (
        lambda: case(nn.Sequential(head(), nn.Softmax(-1)), loss=nn.NLLLoss()),
        "probabilities",
    ),
    "a history that diverges": (
        lambda: case(head(angle_init=1.0), history=faults.history((0.7, 9.0, np.nan))),
        "stuck_loss",
    ),
    "outputs against other labels": (lambda: case(nn.Linear(8, 1), _floats(), loss=nn.MSELoss()), "forward"),
    "whole-number images": (
        lambda: case(nn.Linear(8, 2), (points()[0].byte(), points()[1])),
        "forward",
    ),
}


def _floats():
    return points()[0], points()[1].float()


def _binary(loss):
    model = nn.Sequential(nn.Linear(8, 1), nn.Sigmoid())
    return case(model, (points()[0], points()[1].float()[:, None]), loss=loss)


@pytest.mark.parametrize("name", ALSO_FAULTY)
def test_what_else_goes_wrong_is_found(name):
    torch.manual_seed(0)
    make, expected = ALSO_FAULTY[name]
    assert diagnose(**make()).failed == [expected]


def test_composite_schedulers_still_drive_their_optimiser():
    schedules = torch.optim.lr_scheduler
    parts = lambda o: [schedules.LinearLR(o, 0.1, total_iters=3), schedules.CosineAnnealingLR(o, 17)]  # noqa: E731
    told = scheduled(lambda o: schedules.SequentialLR(o, parts(o), [3]))
    optimizer, scheduler = told["optimizer"], told["scheduler"]
    twin = scheduled(lambda o: schedules.SequentialLR(o, parts(o), [3]))
    diagnose(**told)
    assert all(part.optimizer is optimizer for part in scheduler._schedulers)
    for one in (told, twin):
        one["scheduler"].step()
    assert optimizer.param_groups[0]["lr"] == twin["optimizer"].param_groups[0]["lr"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_or_factory": "model.pt"}, "needs a torch module"),
        ({"model_or_factory": nn.Linear}, "lambda"),
        ({"model_or_factory": nn.Sequential(nn.LazyLinear(2))}, "lazy layers"),
        ({"optimizer": torch.optim.Adam}, "optimizer: expected an instance"),
        ({"data": points()}, "data: expected a dict"),
        ({"history": {"train_loss": [1.0, 2.0], "lr": [1.0]}}, "history: expected one row per epoch"),
    ],
)
def test_arguments_of_another_kind_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        diagnose(**case(head()) | arguments)


def snapshot(model, optimizer, scheduler):
    tensors = [(p.data_ptr(), p.detach().clone(), p.requires_grad) for p in model.parameters()]
    buffers = [b.clone() for b in model.buffers()]
    moments = [v.clone() for s in optimizer.state.values() for v in s.values()]
    rest = [m.training for m in model.modules()], [g["lr"] for g in optimizer.param_groups], scheduler.last_epoch
    numbers = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    return [t[0] for t in tensors], [t[1] for t in tensors], buffers, moments, rest, numbers[0], numbers[1:]


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return all(map(equal, a, b)) and len(a) == len(b) if isinstance(a, list | tuple) else a == b


def test_model_optimiser_scheduler_and_generators_are_left_as_they_were():
    batch, model = faults.images(), faults.Network(faults.resnet18(num_classes=faults.N_FEATURES), head()).train()
    optimizer = faults.adam(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()
    gradients = [p.grad.clone() for p in model.parameters()]
    before = snapshot(model, optimizer, scheduler)
    data = {"train": batch[0]}
    diagnose(model, batch, optimizer=optimizer, scheduler=scheduler, data=data, epochs=9)
    assert equal(before, snapshot(model, optimizer, scheduler))
    assert equal(gradients, [p.grad for p in model.parameters()])


def test_a_sampling_device_draws_the_same_after_a_diagnosis():
    model = FAULTS["few_shots"].mended()["model_or_factory"]
    generator = model[2].node.device._rng
    before = generator.bit_generator.state
    diagnose(model, points(), checks=["forward", "shot_noise"])
    assert generator.bit_generator.state == before


@pytest.mark.slow
def test_checks_stand_in_their_order_whichever_module_is_imported_first():
    order = "from qtl_utils.doctor.checks import {}; from qtl_utils.doctor import CHECKS; print(*CHECKS)"
    said = [
        subprocess.run([sys.executable, "-c", order.format(name)], capture_output=True, text=True, check=True).stdout
        for name in ("circuit", "training")
    ]
    circuit, training = (text.split() for text in said)
    assert training[: len(circuit)] == circuit
    assert circuit.index("gradient_correct") < circuit.index("time")


def test_what_does_not_fit_the_budget_is_skipped_and_says_so():
    found = diagnose(head(), points(), budget=0.0)
    (finding,) = [f for f in found if f.check == "dead_angles"]
    assert finding.verdict == "skipped" and "raise budget=" in finding.evidence
    assert found.verdict("forward") == "ok"


def test_a_check_without_what_it_needs_says_what_that_is():
    found = {f.check: f for f in diagnose(head(), points(), checks=["updates", "travel", "selection", "leakage"])}
    assert {f.verdict for f in found.values()} == {"skipped"}
    assert "needs optimizer=" in found["updates"].evidence and "needs history=" in found["selection"].evidence


TESTS = {
    "the best is first": [0.9, 0.8, 0.7],
    "the best is last": [0.7, 0.8, 0.9],
    "several are best": [0.9, 0.7, 0.9],
    "all are alike": [0.8, 0.8, 0.8],
}


@pytest.mark.parametrize("test", TESTS.values(), ids=TESTS.keys())
@pytest.mark.parametrize("rule", ["test", "validation", "nothing"])
def test_how_the_epoch_was_chosen_is_judged_by_the_rule_not_by_what_it_gave(test, rule):
    best = test.index(max(test)) if rule == "test" else 2
    rows = [{"test_accuracy": x, "selected": i == best, "selected_on": rule} for i, x in enumerate(test)]
    found = diagnose(head(), points(), checks=["selection"], history=rows)
    assert found.verdict("selection") == ("fail" if rule == "test" else "ok")


def test_a_rule_that_is_not_told_is_inferred_where_the_numbers_allow():
    def verdict(test, selected):
        rows = [{"test_accuracy": x, "selected": i == selected} for i, x in enumerate(test)]
        return diagnose(head(), points(), checks=["selection"], history=rows).verdict("selection")

    assert verdict([0.7, 0.9, 0.8], 1) == "fail"
    assert verdict([0.7, 0.9, 0.8], 0) == "ok"
    assert verdict([0.7, 0.8, 0.9], 2) == "ok"


@pytest.mark.parametrize("seed", range(5))
def test_a_right_gradient_is_not_doubted_for_kinks_nearby(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 2))
    with torch.no_grad():  # every unit of the first layer sits a hair from its kink for the first sample
        images, labels = points()
        images = images[:, :4]
        model[0].bias -= model[0](images[:1])[0] - 2e-6  # beyond the rounding of float32
    assert diagnose(model, (images, labels), checks=["gradient_correct"]).verdict("gradient_correct") == "ok"


def test_an_exception_in_the_forward_pass_is_a_finding():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("the cat is on the keyboard")

    found = diagnose(Broken(), points())
    assert found.failed == ["forward"] and "the cat is on the keyboard" in found[0].evidence


def test_a_check_that_raises_is_no_verdict(monkeypatch):
    monkeypatch.setitem(CHECKS, "odd", Check(lambda patient: 1 / 0, "odd", ""))
    found = diagnose(head(), points(), checks=["odd"])
    assert found.verdict("odd") == "skipped" and "ZeroDivisionError" in found[0].evidence


def test_a_check_of_ones_own_takes_part(monkeypatch):
    def small(patient):
        n = sum(p.numel() for p in patient.model.parameters())
        return ok(f"{n} parameters") if n > 1000 else fail(f"{n} parameters", "too few", "more of them")

    monkeypatch.setitem(CHECKS, "small", Check(small, "the size of the model", ""))
    assert "small" in diagnose(head(), points()).failed


def test_a_failed_check_raises_and_a_warning_does_not():
    with pytest.raises(findings.DiagnosisError, match="softmax twice"):
        diagnose(**FAULTS["double_softmax"].broken()).raise_if_failed()
    diagnose(**FAULTS["bare_expectations"].broken()).raise_if_failed()


def test_text_table_and_html_tell_the_same():
    found = diagnose(**FAULTS["double_softmax"].broken())
    frame = found.to_frame()
    assert frame.loc[0, "check"] == "probabilities" and frame.loc[0, "link"].startswith("05_troubleshooting_")
    page = found._repr_html_()
    assert frame.loc[0, "cause"] in str(found) and frame.loc[0, "cause"] in page and "href='05_" in page
    assert len(frame) == len(CHECKS)


def test_html_of_what_users_wrote_is_escaped():
    class Broken(nn.Module):
        def forward(self, x):
            raise ValueError("<script>alert(1)</script>")

    assert "<script>" not in diagnose(Broken(), points())._repr_html_()


@pytest.mark.parametrize("batch", [torch.ones(3, 2), (torch.ones(1, 8), torch.zeros(1)), (torch.ones(3, 8), "abc")])
def test_a_batch_of_another_kind_is_refused(batch):
    with pytest.raises(ValueError, match="batch: expected"):
        diagnose(head(), batch)


def test_an_unknown_check_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match="dead_angles"):
        diagnose(head(), points(), checks=["dead_angle"])


def test_a_zero_head_is_no_fault_but_a_dead_relu_is():
    late = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
    nn.init.zeros_(late[2].weight)
    dead = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.constant_(dead[0].bias, -1e3)
    assert diagnose(late, points()).verdict("gradient_reaches") == "ok"
    (found,) = diagnose(dead, points()).of("fail", "warn")
    assert found.check == "inputs_matter" and "all units of '1' are dead" in found.cause


def test_a_straight_through_step_is_no_fault():
    class Straight(nn.Module):
        def forward(self, x):
            return x + (x.sign() - x).detach()

    model = nn.Sequential(nn.Linear(8, 4), Straight(), nn.Linear(4, 2))
    assert diagnose(model, points(), checks=["differentiable"]).failed == []


def test_a_trained_circuit_that_matters_is_said_to_matter():
    found = diagnose(**case(head(angle_init=1.0), history=faults.history()))
    (finding,) = [f for f in found if f.check == "zeroed_angles"]
    assert finding.verdict == "ok" and "change" in finding.evidence


def test_budget_of_travel_is_the_sum_of_the_rates_the_scheduler_sets():
    model = head()
    optimizer = faults.adam(model, angles=0.04)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.1)
    data = {"train": points(n=40)[0]}  # 10 steps of 4 an epoch
    found = diagnose(model, points(), optimizer=optimizer, scheduler=scheduler, data=data, epochs=30)
    expected = 0.04 * 10 * (10 + 1 + 0.1)
    assert f"about {expected:.2g} rad" in next(f.evidence for f in found if f.check == "travel")


SOURCE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 2){softmax})
    return model, (torch.randn(6, 4), torch.arange(6) % 2)

def broken():
    raise KeyError("weights.pt")

def misspelt():
    return *make(), dict(losss=1)

number = 3
"""


def test_the_command_line_ends_with_1_where_a_check_fails(tmp_path, capsys):
    for text, code in ((", nn.Softmax(-1)", 1), ("", 0)):
        (tmp_path / "model.py").write_text(SOURCE.format(softmax=text))
        assert main(["doctor", f"{tmp_path}/model.py:make"]) == code
    assert "softmax twice" in capsys.readouterr().out


@pytest.mark.parametrize(
    "target",
    [
        "nowhere.py:make",
        "model.py",
        "{}/model.py:other",
        "{}/model.py:number",
        "{}/model.py:broken",
        "{}/model.py:misspelt",
    ],
)
def test_the_command_line_says_what_it_could_not_find(target, tmp_path, capsys):
    (tmp_path / "model.py").write_text(SOURCE.format(softmax=""))
    assert main(["doctor", target.format(tmp_path)]) == 2
    assert "doctor:" in capsys.readouterr().err


def test_a_model_that_has_learned_its_batch_is_not_called_stuck():
    model = nn.Sequential(nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(points()[0]), points()[1]).backward()
        optimizer.step()
    assert diagnose(model, points()).verdict("stuck_loss") == "ok"


@pytest.mark.parametrize(("lowered", "steps"), [(0.0, 20), (0.05, 20), (0.3, 6)])
def test_the_short_training_ends_early_where_the_loss_is_clearly_lower_and_stays_so(lowered, steps, monkeypatch):
    model = nn.Sequential(nn.Linear(8, 2))
    losses = itertools.chain([1.0], itertools.repeat(1.0 - lowered))
    p = Patient(model, *points())
    step = lambda: (torch.tensor(next(losses)), dict.fromkeys(p.trainable))  # noqa: E731
    monkeypatch.setattr(p, "gradients", step)
    taken, before, _ = training._short_training(p, training.SHORT, best=0.0)
    assert (taken, before) == (steps, 1.0)


def test_the_short_training_goes_on_where_a_constant_would_do_as_well(monkeypatch):
    p = Patient(nn.Sequential(nn.Linear(8, 2)), *points())
    losses = itertools.chain([5.0], itertools.repeat(0.7))
    monkeypatch.setattr(p, "gradients", lambda: (torch.tensor(next(losses)), dict.fromkeys(p.trainable)))
    assert training._short_training(p, training.SHORT, best=math.log(2))[0] == training.SHORT


def test_angles_are_drawn_until_each_has_been_seen_to_matter(monkeypatch):
    drawn = []
    gradients = graph._site_gradients

    def counted(*given):
        for found in gradients(*given):
            drawn.append(found)
            yield found

    monkeypatch.setattr(graph, "_site_gradients", counted)
    assert diagnose(head(), points(), checks=["dead_angles"]).verdict("dead_angles") == "ok"
    assert len(drawn) == 1
    drawn.clear()
    assert diagnose(**FAULTS["dead_angles"].broken(), checks=["dead_angles"]).failed == ["dead_angles"]
    assert len(drawn) == graph.DRAWS


def test_zeroed_angles_of_a_regression_are_judged_by_its_outputs():
    told = HEALTHY["regression"]() | {"history": faults.history()}
    told["model_or_factory"][2].weights.data.mul_(5)
    (finding,) = [f for f in diagnose(**told) if f.check == "zeroed_angles"]
    assert finding.verdict == "ok" and "outputs by" in finding.evidence
