"""The watch: every fault of a training is found, healthy ones raise no alarm, and nothing is changed by looking."""

import copy
import math
import re
import sys
import types
import warnings

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from qtl_utils import doctor
from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.doctor import Diagnosis, TrainingWarning, faults
from qtl_utils.doctor.faults import Circuit, dressed, head, points, torch_connector, torch_layer
from qtl_utils.doctor.live import COLUMNS, DENSE
from qtl_utils.doctor.live_lightning import PACKAGES
from qtl_utils.doctor.live_verdicts import VERDICTS_OF
from qtl_utils.doctor.stages import stages_of
from qtl_utils.study.paths import PROJECT

sys.path.insert(0, str(PROJECT / "benchmarks"))
import bench_watch

N = 64  # samples


def small(angle_init: float = 0.3, **settings) -> nn.Module:
    """Linear - angles - circuit of three qubits - Linear."""
    return head(angle_init=angle_init, **settings)


def train(model, optimizer, steps, *, loss=cross_entropy, data=None, batch=16, watch=True, scheduler=None, **options):
    """Trains, watched at every interval however fast that is; the watch, closed."""
    x, y = data or points(n=N)
    generator = torch.Generator().manual_seed(0)
    w = doctor.watch(model, optimizer, share=1, **options) if watch else None
    for _ in range(steps):
        part = torch.randint(len(x), (batch,), generator=generator) if batch else slice(None)
        optimizer.zero_grad()
        value = loss(model(x[part]), y[part])
        value.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        if watch:
            w.step(value)
    if watch:
        w.close()
    return w


def adam(model, lr=0.02):
    return torch.optim.Adam(model.parameters(), lr=lr)


def failed(w) -> list[str]:
    return sorted(set(w.findings.failed))


# ---- faults ----------------------------------------------------------------------------------------------------------


class Cut(nn.Module):
    """Passes on values alone."""

    def forward(self, x):
        return x.detach()


class Sign(nn.Module):
    def forward(self, x):
        return torch.sign(x)


class Root(nn.Module):
    """The square root of what is zero for every sample: right values, infinite derivatives."""

    def forward(self, x):
        return x + torch.sqrt((x - x).sum(-1, keepdim=True))


class Frozen(nn.Module):
    """An output that does not depend on the inputs."""

    def forward(self, x):
        return 0.0 * x


def layers(*between, after=()):
    """A model with something between its first layer and its circuit, or behind it."""
    circuit = QuantumLayer(3, 2, angle_init=0.3)
    return nn.Sequential(nn.Linear(8, 3), nn.Tanh(), *between, circuit, *after, nn.Linear(3, 2))


def perceptron(*between):
    return nn.Sequential(nn.Linear(8, 4), nn.Tanh(), *between, nn.Linear(4, 2))


def sgd(model, angles):
    """SGD with a rate of the circuit's own."""
    circuit = [p for stage in stages_of(model) if stage.is_circuit for p in stage.parameters.values()]
    rest = [p for p in model.parameters() if all(p is not q for q in circuit)]
    return torch.optim.SGD([{"params": rest}, {"params": circuit, "lr": angles}], lr=0.1)


def idle(model):
    """Adam whose circuit waits at a learning rate of 0."""
    optimizer = sgd(model, 0.0)
    return torch.optim.Adam(optimizer.param_groups, lr=0.02)


def not_a_number(step):
    """Cross-entropy that is NaN from a step on."""
    calls = iter(range(1, 10_000))
    return lambda out, y: cross_entropy(out, y) * (math.nan if next(calls) >= step else 1.0)


def exploding():
    """Linear regression by steps that are a few percent longer than what converges."""
    x = numbers()[0]
    model = nn.Linear(8, 1, bias=False)
    sharpest = torch.linalg.eigvalsh(2 * x.T @ x / len(x)).max().item()
    return model, torch.optim.SGD(model.parameters(), lr=2.1 / sharpest)


def numbers():
    x, y = points(n=N)
    return x, 3.0 * y.float()[:, None]


FAULTY = {
    # name: how to train, the check that finds it, what its evidence says
    "cut before the circuit": (lambda: ((m := layers(Cut())), adam(m), {}), "live_gradients", "before the circuit"),
    "cut behind the circuit": (lambda: ((m := layers(after=(Cut(),))), adam(m), {}), "live_gradients", "'circuit'"),
    "a sign before the circuit": (lambda: ((m := layers(Sign())), adam(m), {}), "live_gradients", "exactly zero"),
    "outputs times zero": (lambda: ((m := layers(after=(Frozen(),))), adam(m), {}), "live_gradients", "'circuit'"),
    "an infinite derivative": (lambda: ((m := perceptron(Root())), adam(m), {}), "live_gradients", "finite at step 1"),
    "exploding": (
        lambda: (*exploding(), {"loss": mse_loss, "data": numbers(), "batch": 0}),
        "live_gradients",
        "has risen",
    ),
    "staying angles, Adam": (lambda: ((m := small()), adam(m, 2e-4), {}), "live_angles", "learning rates add up to"),
    "staying angles, SGD": (lambda: ((m := small()), sgd(m, 1e-4), {}), "live_angles", "moved by"),
    "angles in no group": (
        lambda: ((m := layers()), adam(nn.ModuleList([m[0], m[-1]]), 0.002), {}),
        "live_angles",
        "moved by 0 rad",
    ),
    "a rate of zero": (lambda: ((m := small()), idle(m), {}), "live_steps", "has been 0 in all"),
    "jumping angles": (lambda: ((m := small()), adam(m, 2.5), {}), "live_steps", "jump by more than 1 rad"),
    "NaN": (lambda: ((m := perceptron()), adam(m), {"loss": not_a_number(37)}), "live_loss", "not finite at step 37"),
    "NaN from the start": (
        lambda: ((m := dressed(Circuit())), adam(m), {"loss": not_a_number(1)}),
        "live_loss",
        "not finite at step 1",
    ),
    "stuck": (lambda: ((m := nn.Linear(8, 2)), sgd_of(m, 1e-6), {}), "live_loss", "has not fallen since step 1"),
    "stuck at chance": (lambda: ((m := small()), adam(m), {"data": coins()}), "live_loss", "0.6931 is the loss of"),
    "uphill": (lambda: ((m := nn.Linear(8, 2)), uphill(m), {}), "live_loss", "diverges"),
    "softmax twice": (
        lambda: ((m := nn.Sequential(small(), nn.Softmax(-1))), adam(m), {}),
        "live_loss",
        "cannot fall below about 0.313",
    ),
    "sigmoid twice": (
        lambda: (
            (m := nn.Sequential(nn.Linear(8, 1), nn.Sigmoid())),
            adam(m),
            {"loss": binary_cross_entropy_with_logits, "data": numbers_of_bits()},
        ),
        "live_loss",
        "cannot fall below about 0.503",
    ),
}


def sgd_of(model, lr):
    return torch.optim.SGD(model.parameters(), lr=lr)


def uphill(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, maximize=True)


def coins():
    """Samples that are all alike: nothing but how frequent the labels are can be learned."""
    return torch.zeros(N, 8), torch.arange(N) % 2


def numbers_of_bits():
    x, y = points(n=N)
    return x, y.float()[:, None]


@pytest.mark.filterwarnings("ignore::qtl_utils.doctor.TrainingWarning")
@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_is_found_by_its_check_and_no_other(name):
    torch.manual_seed(0)
    make, check, told = FAULTY[name]
    model, optimizer, options = make()
    w = train(model, optimizer, 240, **options)
    assert failed(w) == [check], w.findings
    assert told in " ".join(f.evidence + f.cause for f in w.findings.of("fail", "warn")), w.findings
    assert all(f.cause and f.fix for f in w.findings.of("fail", "warn"))


@pytest.mark.parametrize(
    ("name", "step"),
    [("cut before the circuit", 5), ("jumping angles", 1), ("NaN", 37), ("an infinite derivative", 1)],
)
def test_the_first_time_is_warned_of_at_once_with_its_step(name, step):
    torch.manual_seed(0)
    make, _, told = FAULTY[name]
    model, optimizer, options = make()
    with pytest.warns(TrainingWarning) as said:
        train(model, optimizer, 40, **options)
    messages = [str(warning.message) for warning in said]
    assert messages[0].startswith(f"step {step}: ") and told in " ".join(messages)
    assert said[0].filename == __file__  # points to the user's own line


def test_the_same_is_not_said_twice_and_quiet_says_nothing():
    torch.manual_seed(0)
    model = layers(Cut())
    with pytest.warns(TrainingWarning) as said:
        train(model, adam(model), 80)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, adam(model), 80, quiet=True)


def test_gradients_that_are_never_cleared_are_told():
    torch.manual_seed(0)
    model = nn.Linear(8, 2)
    optimizer = sgd_of(model, 0.01)
    x, y = points(n=N)
    with doctor.watch(model, optimizer, quiet=True) as w:
        for _ in range(10):
            loss = cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            w.step(loss)
    (found,) = w.findings.of("fail")
    assert "never cleared" in found.evidence and found.fix == "optimizer.zero_grad() in every step"


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_that_are_cleared_either_way_are_no_fault(to_none):
    torch.manual_seed(0)
    model = nn.Linear(8, 2)
    optimizer = sgd_of(model, 0.01)
    x, y = points(n=N)
    with doctor.watch(model, optimizer) as w:
        for _ in range(10):
            optimizer.zero_grad(set_to_none=to_none)
            loss = cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            w.step(loss)
    assert failed(w) == []


def test_a_loop_that_never_steps_or_never_differentiates_is_told():
    model = nn.Linear(8, 2)
    x, y = points()
    with doctor.watch(model, adam(model), quiet=True) as w:
        for _ in range(3):
            w.step(cross_entropy(model(x), y))
    assert w.findings[0].check == "live_steps" and "never stepped" in w.findings[0].evidence
    optimizer = adam(model)
    with doctor.watch(model, optimizer, quiet=True) as w:
        for _ in range(8):
            optimizer.step()
            w.step(0.5)
    assert failed(w) == ["live_gradients"] and "no parameter has had a gradient" in w.findings[0].evidence


def test_a_layer_that_nothing_reaches_is_named():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(8, 8), nn.Linear(8, 8)
            self.circuit, self.out = QuantumLayer(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.out(self.circuit(torch.tanh(self.used(x)[:, :3])))

    torch.manual_seed(0)
    model = Unused()
    w = train(model, adam(model), 40, quiet=True)
    (found,) = w.findings.of("warn")
    assert "spare in 'before the circuit'" in found.evidence


# ---- healthy trainings -----------------------------------------------------------------------------------------------


def bits(seed):
    x, y = points(seed, N)
    return x, y.float()[:, None]


def waves(seed):
    x, _ = points(seed, N)
    return x, torch.sin(x[:, :1]) + 0.3 * x[:, 1:2]


HEALTHY = {
    "A": (lambda: small(), {}),
    "strongly_entangling": (lambda: small(ansatz="strongly_entangling"), {}),
    "reuploading": (lambda: small(ansatz="reuploading"), {}),
    "bypass": (lambda: head("A-bypass", angle_init=0.3), {}),
    "C": (lambda: head("C"), {}),
    "MLP": (lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)), {}),
    "sigmoid": (
        lambda: nn.Sequential(nn.Linear(8, 3), nn.Tanh(), QuantumLayer(3, 2, angle_init=0.3), nn.Linear(3, 1)),
        {"loss": binary_cross_entropy_with_logits, "data": bits},
    ),
    "regression": (
        lambda: nn.Sequential(nn.Linear(8, 3), nn.Tanh(), QuantumLayer(3, 2, angle_init=0.3), nn.Linear(3, 1)),
        {"loss": mse_loss, "data": waves},
    ),
    "a head at zero": (lambda: zeroed(layers()), {}),
}
OPTIMIZERS = {
    "Adam": lambda p: torch.optim.Adam(p, lr=0.02),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.005),
}


def zeroed(model):
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)
    return model


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_training_raises_no_alarm(name, seed):
    torch.manual_seed(seed)
    make, options = HEALTHY[name]
    options = dict(options)
    data = options.pop("data", lambda seed: points(seed, N))(seed)
    model = make()
    optimizer = list(OPTIMIZERS.values())[seed % len(OPTIMIZERS)](model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingWarning)
        w = train(model, optimizer, 160, data=data, **options)
    assert failed(w) == [], w.findings
    assert [f.check for f in w.findings if f.verdict == "ok" and f.check == "live_loss"] == ["live_loss"]


@pytest.mark.parametrize("name", ["TorchLayer", "bare QNode", "TorchConnector"])
def test_other_libraries_circuits_are_known_and_healthy(name):
    torch.manual_seed(0)
    circuit = {"TorchLayer": torch_layer, "bare QNode": Circuit, "TorchConnector": torch_connector}[name]()
    model = dressed(circuit)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingWarning)
        w = train(model, adam(model), 12, batch=4)
    assert failed(w) == [] and set(w.table.stage) == {"before the circuit", "circuit", "after the circuit"}


def test_a_training_that_has_ended_is_no_fault():
    torch.manual_seed(0)
    x, y = points(n=N)
    model = nn.Sequential(nn.Linear(8, 1))
    hinge = lambda out, y: torch.relu(1 - out[:, 0] * (2 * y - 1)).mean()  # noqa: E731
    w = train(model, adam(model, 0.1), 400, loss=hinge, data=(10 * y[:, None] * x.abs() + y[:, None] * 3 - 2, y))
    assert w.table.loss.iloc[-1] == 0 and w.table.gradient_norm.iloc[-1] == 0
    assert failed(w) == []


# ---- nothing is changed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [small, lambda: dressed(Circuit()), lambda: head("C")], ids=["A", "QNode", "C"])
def test_training_is_the_same_to_the_bit_with_and_without(make):
    states = []
    for watched in (True, False):
        torch.manual_seed(0)
        model = make()
        optimizer = adam(model)
        train(model, optimizer, 30, watch=watched, **({"interval": 3} if watched else {}))
        moments = [v for state in optimizer.state.values() for v in state.values()]
        states.append([*model.state_dict().values(), *(p.grad for p in model.parameters()), *moments])
        states[-1].append(torch.get_rng_state())
    assert len(states[0]) == len(states[1]) and all(map(torch.equal, *states))


def test_hooks_are_gone_afterwards_and_the_model_never_had_one():
    model = small()
    optimizer = adam(model)
    before = [{k: copy.copy(v) for k, v in vars(m).items()} for m in model.modules()]
    w = doctor.watch(model, optimizer)
    assert optimizer._optimizer_step_post_hooks
    for m, attributes in zip(model.modules(), before, strict=True):
        assert vars(m).keys() == attributes.keys() and not m._forward_hooks and not m._forward_pre_hooks
    w.close()
    w.close()
    assert not optimizer._optimizer_step_post_hooks and not optimizer._optimizer_step_pre_hooks
    assert all(not p._backward_hooks for p in model.parameters())


def test_a_hook_of_the_users_own_stays_and_runs():
    model = nn.Linear(8, 2)
    optimizer = adam(model)
    calls = []
    optimizer.register_step_pre_hook(lambda *a: calls.append("before"))
    optimizer.register_step_post_hook(lambda *a: calls.append("after"))
    train(model, optimizer, 10)
    optimizer.step()
    assert calls == ["before", "after"] * 11


def test_an_exception_in_the_loop_closes_the_watch_and_passes():
    model = nn.Linear(8, 2)
    optimizer = adam(model)
    with pytest.raises(KeyError), doctor.watch(model, optimizer) as w:
        raise KeyError("the user's own")
    assert not optimizer._optimizer_step_post_hooks and len(w.findings) == len(VERDICTS_OF)


def test_what_cannot_be_looked_at_does_not_end_the_training(monkeypatch):
    model = nn.Linear(8, 2)
    optimizer = adam(model)
    monkeypatch.setattr("qtl_utils.doctor.live_looks._joined", lambda parts: 1 / 0)
    w = train(model, optimizer, 10)
    told = {f.check: f for f in w.findings}
    assert "ZeroDivisionError" in told["live_gradients"].evidence and told["live_gradients"].verdict == "skipped"
    assert told["live_loss"].verdict == "ok" and len(w.table) == 0


# ---- other loops -----------------------------------------------------------------------------------------------------


def test_lbfgs_is_watched():
    torch.manual_seed(0)
    model = small()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=5)
    x, y = points(n=N)

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        return loss

    with doctor.watch(model, optimizer, share=1, interval=2) as w:
        for _ in range(12):
            w.step(optimizer.step(closure))
    assert failed(w) == [] and w.table.step.max() == 12 and w.table.gradient_norm.notna().all()
    assert next(f for f in w.findings if f.check == "live_steps").verdict == "skipped"


def test_gradients_may_be_accumulated_over_several_batches():
    torch.manual_seed(0)
    model = small()
    optimizer = adam(model)
    x, y = points(n=N)
    with doctor.watch(model, optimizer, share=1) as w:
        for k in range(80):
            loss = cross_entropy(model(x[k % 4 :: 4]), y[k % 4 :: 4])
            (loss / 4).backward()
            if k % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
            w.step(loss)
    assert failed(w) == [] and w.table.step.max() == 20 and w.table.gradient_norm.gt(0).all()


def test_parameter_groups_have_their_own_rates():
    torch.manual_seed(0)
    model = small()
    optimizer = sgd(model, 0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.1)
    w = train(model, optimizer, 20, scheduler=scheduler)
    rates = w.table.pivot(index="step", columns="stage", values="lr")
    assert rates.circuit.loc[[1, 20]].tolist() == pytest.approx([0.5, 0.05])
    assert rates["after the circuit"].loc[[1, 20]].tolist() == pytest.approx([0.1, 0.01])


def test_two_optimisers_have_a_watch_each():
    torch.manual_seed(0)
    model = layers()
    classical, angles = adam(nn.ModuleList([model[0], model[-1]])), adam(model[2])
    x, y = points(n=N)
    with doctor.watch(model, classical, share=1) as one, doctor.watch(model, angles, share=1) as other:
        for _ in range(120):
            model.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            classical.step()
            angles.step()
            one.step(loss)
            other.step(loss)
    assert failed(one) == failed(other) == []
    assert one.table[one.table.stage == "circuit"].lr.isna().all()
    assert other.table[other.table.stage == "circuit"].lr.eq(0.02).all()


def test_rates_are_read_again_after_an_optimiser_was_loaded():
    model = nn.Linear(8, 2)
    optimizer = adam(model, 0.02)
    state = adam(model, 0.5).state_dict()
    x, y = points()
    with doctor.watch(model, optimizer) as w:
        for k in range(4):
            if k == 2:
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            w.step(loss)
    assert w.table.lr.tolist() == [0.02, 0.02, 0.5, 0.5]


def test_frozen_parameters_are_left_out_and_may_thaw():
    torch.manual_seed(0)
    model = small()
    for p in model[0].parameters():
        p.requires_grad_(False)
    optimizer = adam(model)
    x, y = points(n=N)
    with doctor.watch(model, optimizer, share=1) as w:
        for k in range(20):
            if k == 3:
                model[3].weight.requires_grad_(False)
            if k == 10:
                model[3].weight.requires_grad_(True)
            optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            w.step(loss)
    assert failed(w) == [] and set(w.table.stage) == {"circuit", "after the circuit"}
    assert w.table.moved.notna().all()


def test_a_frozen_backbone_in_a_trained_stage_is_no_fault():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), *layers())
    for p in model[0].parameters():
        p.requires_grad_(False)
    assert failed(train(model, adam(model), 40)) == []


def test_a_circuit_that_refuses_nan_leaves_what_was_found():
    torch.manual_seed(0)
    model = small()
    optimizer = adam(model)
    loss = not_a_number(9)
    x, y = points(n=N)
    with pytest.raises(ValueError, match="NaN"), doctor.watch(model, optimizer, quiet=True) as w:
        for _ in range(20):
            optimizer.zero_grad()
            value = loss(model(x), y)
            value.backward()
            optimizer.step()
            w.step(value)
    assert failed(w) == ["live_loss"] and w.findings[0].evidence == "the loss is not finite at step 9"


def test_frozen_angles_are_said_to_be_frozen():
    model = layers()
    model[2].weights.requires_grad_(False)
    w = train(model, adam(model), 8)
    assert next(f for f in w.findings if f.check == "live_angles").evidence == "its angles are not trained"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_watched(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)
    x, y = points(n=N)
    w = train(model, adam(model), 8, data=(x.to(dtype), y))
    assert failed(w) == [] and len(w.table) == 2 * DENSE


def test_a_sparse_gradient_and_a_complex_parameter_are_watched():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = nn.Embedding(10, 4, sparse=True)
            self.phase = nn.Parameter(torch.ones(4, dtype=torch.complex64))

        def forward(self, i):
            return (self.rows(i) * self.phase).real.sum(-1)

    torch.manual_seed(0)
    model = Odd()
    optimizer = sgd_of(model, 0.1)
    with doctor.watch(model, optimizer) as w:
        for _ in range(6):
            optimizer.zero_grad()
            loss = model(torch.arange(10)).square().mean()
            loss.backward()
            optimizer.step()
            w.step(loss)
    assert failed(w) == [] and w.table.gradient_norm.gt(0).all()


# ---- what is measured ------------------------------------------------------------------------------------------------


def test_the_table_holds_what_can_be_computed_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 700, bias=False), nn.Linear(700, 2, bias=False))  # the first one is large
    optimizer = sgd_of(model, 0.5)
    x, y = points(n=N)
    expected = []
    start = [p.detach().clone() for p in model.parameters()]
    with doctor.watch(model, optimizer) as w:
        for _ in range(3):
            optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            norms = [(p.grad.norm().item(), p.norm().item()) for p in model.parameters()]
            optimizer.step()
            w.step(loss)
            moved = [
                (p - q).abs().flatten()[:4096].max().item() for p, q in zip(model.parameters(), start, strict=True)
            ]
            expected += [(*norm, far, loss.item(), 0.5) for norm, far in zip(norms, moved, strict=True)]
    found = w.table
    assert tuple(found.columns) == COLUMNS and found.stage.tolist() == ["0", "1"] * 3
    columns = ["gradient_norm", "weight_norm", "moved", "loss", "lr"]
    wanted = pd.DataFrame(expected, columns=columns)
    pd.testing.assert_frame_equal(found[columns].drop(columns="weight_norm"), wanted.drop(columns="weight_norm"))
    assert found.weight_norm.to_numpy() == pytest.approx(wanted.weight_norm.to_numpy(), rel=0.05)  # of 4096 values


def test_a_tiny_gradient_is_not_zero():
    torch.manual_seed(0)
    model = nn.Linear(8, 2)
    w = train(model, sgd_of(model, 0.1), 8, loss=lambda out, y: 1e-30 * cross_entropy(out, y))
    assert w.table.gradient_norm.between(1e-32, 1e-28).all() and failed(w) == []


def test_the_angles_have_moved_as_far_as_they_are_from_the_start():
    torch.manual_seed(0)
    model = small()
    start = model[2].weights.detach().clone()
    w = train(model, adam(model), 33)  # ends between two looks
    far = (model[2].weights - start).abs().max().item()
    (finding,) = [f for f in w.findings if f.check == "live_angles"]
    assert finding.evidence == f"angles moved by up to {far:.2g} rad in 33 steps"


@pytest.mark.parametrize("make", [lambda: QuantumLayer(3, 2), lambda: nn.Linear(3, 2, bias=False)])
def test_a_single_parameter_is_compared_with_itself_before_the_step(make):
    torch.manual_seed(0)
    model = make()
    w = train(model, sgd_of(model, 0.1), 3, data=(torch.randn(N, 3), torch.arange(N) % 2))
    assert w.table.moved.gt(0).all() and w.table.moved.is_monotonic_increasing


def test_a_model_that_is_frozen_for_a_while_is_watched_again_afterwards():
    model = nn.Linear(8, 2)
    optimizer = adam(model)
    with doctor.watch(model, optimizer) as w:
        for k in range(6):
            for p in model.parameters():
                p.requires_grad_(k not in (2, 3))
            optimizer.zero_grad()
            if k not in (2, 3):
                cross_entropy(model(points()[0]), points()[1]).backward()
            optimizer.step()
            w.step(1.0)
    assert w.table.step.tolist() == [1, 2, 5, 6] and not w._training.stopped


def test_looks_come_at_the_first_steps_and_at_every_interval():
    model = nn.Linear(8, 2)
    w = train(model, adam(model), 50, interval=20)
    assert w.table.step.tolist() == [1, 2, 3, 4, 5, 6, 20, 40]
    w = train(model, adam(model), 50, interval=1)
    assert w.table.step.tolist() == list(range(1, 51))


def test_where_looks_would_take_too_long_some_are_left_out():
    model = nn.Linear(8, 2)
    w = doctor.watch(model, adam(model), interval=10)
    w._least, w._pace, w._steps = 1.0, 1.0, 10_000
    assert w._after_pause() == 10_000 + 1 / w.share
    w._steps = 40  # early ones are not
    assert w._after_pause() == 90
    w.close()


def test_losses_are_numbers_too_and_those_of_a_step_are_averaged():
    model = nn.Linear(8, 2)
    optimizer = adam(model)
    w = doctor.watch(model, optimizer)
    for loss in (1.0, 2, torch.tensor([3.0]), torch.tensor(4.0, dtype=torch.float64)):
        model(points()[0]).sum().backward()
        optimizer.step()
        w.step(loss)
    w.close()
    assert w.table.loss.tolist() == [1, 2, 3, 4]


def test_a_training_without_losses_is_watched_all_the_same():
    torch.manual_seed(0)
    model = nn.Linear(8, 2)
    optimizer = adam(model)
    w = doctor.watch(model, optimizer)
    for _ in range(8):
        optimizer.zero_grad()
        cross_entropy(model(points()[0]), points()[1]).backward()
        optimizer.step()
    w.close()
    assert len(w.table) == DENSE and w.table.loss.isna().all() and failed(w) == []
    assert "w.step(loss)" in next(f for f in w.findings if f.check == "live_loss").evidence


class Far(torch.Tensor):
    """A loss that pretends to lie on a device, where reading it has to wait."""

    is_cpu = False


def test_losses_on_a_device_are_read_at_looks_only():
    torch.manual_seed(0)
    model = nn.Linear(8, 2)
    optimizer = adam(model)
    w = doctor.watch(model, optimizer, share=1, quiet=True)
    for k in range(25):
        optimizer.zero_grad()
        loss = cross_entropy(model(points()[0]), points()[1])
        loss.backward()
        optimizer.step()
        w.step((loss.detach() * (math.nan if k == 9 else 1.0)).as_subclass(Far))
    assert len(w._losses.values) == 20 and len(w._losses) == 25
    w.close()
    assert "not finite at step 10" in w.findings[0].evidence and len(w._losses.values) == 25


def test_chance_is_read_from_the_loss_or_given():
    model = nn.Linear(8, 5)
    x = points(n=N)[0]
    w = train(model, adam(model), 2, data=(x, torch.arange(N) % 5))
    assert w._losses.chance == pytest.approx(math.log(5))
    w = train(model, adam(model), 2, data=(x, torch.arange(N) % 5), chance=1.5)
    assert w._losses.chance == 1.5


# ---- stages ----------------------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """A QNode beside the layers of one module, registered in another order than they run."""

    def __init__(self):
        super().__init__()
        self.post = nn.Linear(3, 2)
        self.pre = nn.Linear(8, 3)
        self.node = faults.node(faults.entangling)
        self.weights = nn.Parameter(torch.rand(2, 3))


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner


THREE = ["before the circuit", "circuit", "after the circuit"]
STAGES = {
    "dressed": (layers, THREE),
    "wrapped": (lambda: Wrapped(Wrapped(layers())), THREE),
    "TorchLayer": (lambda: dressed(torch_layer()), THREE),
    "a circuit alone": (lambda: QuantumLayer(3, 2), ["circuit"]),
    "mixed": (Mixed, ["circuit", "post", "pre"]),
    "two circuits": (
        lambda: nn.Sequential(nn.Linear(8, 3), QuantumLayer(3, 2), nn.Linear(3, 3), QuantumLayer(3, 1)),
        ["before the circuits", "circuit 1", "between the circuits", "circuit 3"],
    ),
    "no circuit": (lambda: nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)), ["0", "2"]),
    "a wrapped one": (lambda: Wrapped(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))), ["inner.0", "inner.1"]),
    "angles at zero": (lambda: nn.Sequential(nn.Linear(8, 3), QuantumLayer(3, 2, angles="zero")), ["Sequential"]),
    "one layer": (lambda: nn.Linear(8, 2), ["Linear"]),
}


@pytest.mark.parametrize("name", STAGES)
def test_parameters_are_grouped_into_stages(name):
    make, expected = STAGES[name]
    model = make()
    found = stages_of(model)
    assert [stage.name for stage in found] == expected
    assert [stage.is_circuit for stage in found] == [stage.name.startswith("circuit") for stage in found]
    assert sum(len(stage.parameters) for stage in found) == len(list(model.parameters()))


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_the_findings_are_a_diagnosis_that_prints_itself():
    torch.manual_seed(0)
    model = layers(Cut())
    w = train(model, adam(model), 20, quiet=True)
    assert isinstance(w.findings, Diagnosis) and {f.check for f in w.findings} == set(VERDICTS_OF)
    assert str(w) == str(w.findings) and "live_gradients" in str(w) and "<table>" in w._repr_html_()
    assert w.findings[0].verdict == "fail" and w.findings[0].link.startswith("05_troubleshooting_gradients.ipynb#")
    with pytest.raises(doctor.DiagnosisError, match="no gradient arrives"):
        w.findings.raise_if_failed()


def test_findings_can_be_asked_for_at_any_time():
    torch.manual_seed(0)
    model = small()
    optimizer = adam(model)
    w = doctor.watch(model, optimizer)
    assert {f.verdict for f in w.findings} == {"skipped"} and len(w.table) == 0
    x, y = points(n=N)
    loss = cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    w.step(loss)
    assert w.findings.verdict("live_gradients") == "ok"
    w.close()


def test_every_section_that_is_named_exists():
    text = "".join(
        (PROJECT / "qtl_utils" / "doctor" / "live_verdicts.py").read_text(encoding="utf-8").split("VERDICTS_OF")
    )
    named = set(re.findall(r'"((?:gradients|optimisation|simulators|evaluation)#\w+)"', text))
    assert len(named) > 6
    for section in named:
        theme, anchor = section.split("#")
        page = (PROJECT / "notebooks" / f"05_troubleshooting_{theme}.ipynb").read_text(encoding="utf-8")
        assert f'<a id=\\"{anchor}\\"></a>' in page, section


# ---- what is refused -------------------------------------------------------------------------------------------------


def frozen():
    model = nn.Linear(2, 2)
    for p in model.parameters():
        p.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "model.pt"}, "watch: expected a torch module, got a str"),
        ({"model": nn.Linear}, "watch: expected a torch module, got the class Linear"),
        ({"optimizer": torch.optim.Adam}, "expected an optimiser such as torch.optim.Adam.*got the class Adam"),
        ({"optimizer": None}, "expected an optimiser such as torch.optim.Adam.*got a NoneType"),
        ({"optimizer": adam(nn.Linear(8, 2))}, "the optimiser holds none of the model's trainable parameters"),
        ({"model": frozen()}, "the model has no trainable parameters"),
        ({"model": nn.Sequential(nn.LazyLinear(2))}, "lazy layers without weights yet"),
        ({"interval": 0}, "interval: expected a whole number of steps, at least 1, got 0"),
        ({"interval": 2.5}, "interval: expected a whole number"),
        ({"interval": True}, "interval: expected a whole number"),
        ({"share": 0}, "share: expected a part of the time"),
        ({"share": "all"}, "share: expected a part of the time"),
        ({"chance": -1.0}, "chance: expected a positive number"),
    ],
)
def test_arguments_of_another_kind_are_refused_in_one_sentence(arguments, message):
    model = nn.Linear(8, 2)
    given = {"model": model, "optimizer": adam(model)} | arguments
    with pytest.raises(ValueError, match=message) as error:
        doctor.watch(given.pop("model"), given.pop("optimizer"), **given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (torch.ones(3), r"w.step\(loss\): expected one value, got shape \(3,\); loss.mean\(\) is one"),
        (None, "expected a tensor of one value or a number, got a NoneType"),
        ("0.3", "got a str"),
    ],
)
def test_a_loss_of_another_kind_is_refused_early_and_late(loss, message):
    model = nn.Linear(8, 2)
    with doctor.watch(model, adam(model), quiet=True) as w:
        with pytest.raises(ValueError, match=message):
            w.step(loss)
        w.step(torch.tensor(0.5))
        with pytest.raises(ValueError, match=message):
            w.step(loss)
    assert len(w._losses) == 1


def test_a_closed_watch_takes_no_more_losses():
    model = nn.Linear(8, 2)
    w = doctor.watch(model, adam(model))
    w.step(torch.tensor(0.5))
    w.close()
    for loss in (torch.tensor(0.5), 0.5):
        with pytest.raises(RuntimeError, match="the watch is closed"):
            w.step(loss)


# ---- Lightning -------------------------------------------------------------------------------------------------------


class FakeTrainer:
    """Calls what Lightning's Trainer calls, in its order."""

    accumulate_grad_batches = 1

    def __init__(self, callback, fails_at=None):
        self.callback = callback
        self.fails_at = fails_at

    def fit(self, model, optimizers, steps):
        self.optimizers = optimizers
        x, y = points(n=N)
        try:
            self.callback.on_train_start(self, model)
            for k in range(steps):
                if k == self.fails_at:
                    raise KeyError("the user's own")
                optimizers[0].zero_grad()
                loss = cross_entropy(model(x), y)
                loss.backward()
                optimizers[0].step()
                outputs = None if k == 1 else {"loss": loss.detach() / self.accumulate_grad_batches}
                self.callback.on_train_batch_end(self, model, outputs, (x, y), k)
            self.callback.on_train_end(self, model)
        except BaseException as error:
            self.callback.on_exception(self, model, error)
            raise


@pytest.fixture(params=PACKAGES)
def fake_lightning(request, monkeypatch):
    """A Lightning that is nothing but a base class; the other package is absent."""
    module = types.ModuleType(request.param)
    module.Callback = type("Callback", (), {})
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    if "." in request.param:
        monkeypatch.setitem(sys.modules, "lightning", types.ModuleType("lightning"))
    monkeypatch.setitem(sys.modules, request.param, module)
    return module


def test_the_callback_watches_a_training_of_lightnings(fake_lightning):
    torch.manual_seed(0)
    model = small()
    optimizer = adam(model)
    callback = doctor.watch.callback(interval=5, share=1)
    assert isinstance(callback, fake_lightning.Callback)
    assert callback.findings.verdict("live") == "skipped"
    FakeTrainer(callback).fit(model, [optimizer], 12)
    assert callback.findings.failed == [] and callback.table.step.max() == 10
    assert not optimizer._optimizer_step_post_hooks


def test_losses_that_lightning_divided_are_put_together_again(fake_lightning):
    model = small()
    callback = doctor.watch.callback()
    trainer = FakeTrainer(callback)
    trainer.accumulate_grad_batches = 4
    trainer.fit(model, [adam(model)], 1)
    assert callback.table.loss[0] == pytest.approx(cross_entropy_at_the_start(model, callback), rel=0.1)


def cross_entropy_at_the_start(model, callback):
    x, y = points(n=N)
    return cross_entropy(model(x), y).item()


def test_the_callback_lets_go_where_a_training_fails(fake_lightning):
    model = small()
    optimizer = adam(model)
    callback = doctor.watch.callback()
    with pytest.raises(KeyError):
        FakeTrainer(callback, fails_at=3).fit(model, [optimizer], 12)
    assert not optimizer._optimizer_step_post_hooks and callback.table.step.max() == 3


def test_the_callback_follows_one_optimiser(fake_lightning):
    model = small()
    with pytest.raises(ValueError, match="follows one optimiser, and the module has 2"):
        FakeTrainer(doctor.watch.callback()).fit(model, [adam(model), adam(model)], 2)


def test_without_lightning_one_sentence_says_what_to_install(monkeypatch):
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"^the callback needs Lightning, which is not installed: pip install light"):
        doctor.watch.callback()


@pytest.mark.parametrize("package", PACKAGES)
def test_lightnings_own_trainer_takes_the_callback(package, monkeypatch):
    lightning = pytest.importorskip(package)
    other = next(name for name in PACKAGES if name != package)
    monkeypatch.setitem(sys.modules, other, None)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.inner = small()

        def training_step(self, batch, index):
            return cross_entropy(self.inner(batch[0]), batch[1])

        def configure_optimizers(self):
            return adam(self)

    torch.manual_seed(0)
    callback = doctor.watch.callback(share=1)
    data = torch.utils.data.TensorDataset(*points(n=N))
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(max_epochs=10, accelerator="cpu", callbacks=[callback], **quiet)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", TrainingWarning)
        trainer.fit(Module(), torch.utils.data.DataLoader(data, 16, shuffle=True))
    assert callback.findings.failed == [] and callback.table.step.max() == 40
    assert set(callback.table.stage) == set(THREE)


# ---- the benchmark's own logic ---------------------------------------------------------------------------------------


def test_ratios_that_are_too_large_fall_short():
    blocks = {"with": [1.01, 1.03, 1.02], "without": [1.0] * 3, "again": [1.0, 1.02, 1.0], "once": [0.002] * 3}
    rows = [bench_watch.summary("one", blocks)]
    assert rows[0]["ratio"] == pytest.approx(1.02, abs=1e-3) and rows[0]["ratio_without"] == 1.0
    frame = pd.DataFrame([rows[0] | {"ratio": ratio} for ratio in (1.0, 1.02, 1.03, math.nan)])
    lines, short = bench_watch.check(frame)
    assert short == 2 and [line[:5] for line in lines] == ["ok   ", "ok   ", "SHORT", "SHORT"]
    assert bench_watch.markdown(frame).count("\n") == 5


@pytest.mark.parametrize("name", bench_watch.LAYERS)
def test_both_circuits_of_the_benchmark_are_one(name):
    layer = bench_watch.LAYERS[name][0]()
    own = bench_watch.own_layer()
    with torch.no_grad():
        layer.weights.copy_(own.weights)
        x = torch.randn(3, bench_watch.N_QUBITS)
        torch.testing.assert_close(layer(x).float(), own(x), atol=1e-5, rtol=0)


def test_the_benchmark_trains_alike_with_and_without_the_watch():
    states = []
    for run in ("block", "once"):
        training = bench_watch.Training(bench_watch.own_layer)
        getattr(training, run)(10)
        states.append(list(training.model.parameters()))
    assert all(map(torch.equal, *states))
