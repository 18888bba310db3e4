"""Models as users have them: what `diagnose` takes, which loss it guesses, and what it makes up."""

import inspect
import math
import re

import numpy as np
import pennylane as qml
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from unchanged import unchanged

from qtl_utils import QuantumLayer
from qtl_utils import __main__ as cli
from qtl_utils.circuits.channels import NoiseModel, depolarizing
from qtl_utils.doctor import diagnose, repair
from qtl_utils.doctor.faults import FAULTS, Circuit, adam, case, dressed, head, points, torch_connector
from qtl_utils.doctor.losses import kind_of
from qtl_utils.doctor.patient import FEW
from qtl_utils.doctor.probe import exact_circuits, without_noise
from qtl_utils.doctor.samples import Nested, read_made

X, Y = points(n=8)
FLOATS = Y.float()


class Named(nn.Module):
    """Takes a dict by name, returns an object with logits, as Hugging Face's models do."""

    class Output:
        def __init__(self, logits):
            self.loss, self.logits = None, logits

    def __init__(self):
        super().__init__()
        self.inner = dressed(Circuit())

    def forward(self, pixels, mask=None):
        return self.Output(self.inner(pixels * mask))


class Graph(Named):
    """Takes two inputs one by one."""

    def forward(self, nodes, edges):
        return self.inner((edges @ nodes.unsqueeze(-1)).squeeze(-1))


class Packed(Graph):
    """Takes two inputs as one tuple."""

    def forward(self, both):
        return super().forward(*both)


class Several(Named):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        out = self.inner(x)
        return {"features": x.mean(), "logits": out} if self.kind is dict else (out, x)


class Lightning(Named):
    """What a LightningModule has, without Lightning."""

    def __init__(self):
        super().__init__()
        self.inner = head()
        self.criterion = nn.CrossEntropyLoss()

    def forward(self, x):
        return self.inner(x)

    def training_step(self, batch, index):
        return self.criterion(self(batch[0]), batch[1])

    def configure_optimizers(self):
        optimizer = adam(self, 0.05, 0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 10)]


class Recurrent(nn.Module):
    """Keeps its hidden state and its losses as plain attributes."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(8, 3)
        self.circuit = Circuit()
        self.out = nn.Linear(3, 2)
        self.h = None
        self.seen = []

    def forward(self, x):
        self.h = self.cell(x, None if self.h is None else self.h.detach())
        self.seen.append(len(x))
        return self.out(self.circuit(self.h))


EDGES = torch.eye(8).expand(8, 8, 8) + 0.1 * torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = {
    "a dict by name": lambda: case(Named(), ({"pixels": X, "mask": torch.ones(8, 8)}, Y)),
    "a dict with its labels": lambda: case(Named(), {"pixels": X, "mask": torch.ones(8, 8), "labels": Y}),
    "two inputs": lambda: case(Graph(), ((X, EDGES), Y)),
    "two inputs in a list": lambda: case(Packed(), ([X, EDGES], Y)),
    "arrays": lambda: case(dressed(Circuit()), (X.numpy(), Y.numpy())),
    "a list of labels": lambda: case(dressed(Circuit()), (X, Y.tolist())),
    "a loader": lambda: case(dressed(Circuit()), DataLoader(TensorDataset(X, Y), batch_size=4)),
    "a data set": lambda: case(dressed(Circuit()), TensorDataset(X, Y)),
    "one-hot labels": lambda: case(dressed(Circuit()), (X, F.one_hot(Y, 2))),
    "a dict of outputs": lambda: case(Several(dict), (X, Y)),
    "a tuple of outputs": lambda: case(Several(tuple), (X, Y)),
    "a tuple and a loss of classes": lambda: case(Several(tuple), (X, Y), loss=nn.CrossEntropyLoss()),
    "a loss of a dict": lambda: case(
        Several(dict), (X, Y), loss=lambda out, y: F.cross_entropy(out["logits"], y) + 0 * out["features"]
    ),
    "regression": lambda: case(dressed(Circuit(), classes=1), (X, X[:, :1] + 0.1)),
    "regression of one number each": lambda: case(dressed(Circuit(), classes=1), (X, X[:, 0])),
    "one logit": lambda: case(dressed(Circuit(), classes=1), (X, FLOATS)),
    "one logit of whole labels": lambda: case(dressed(Circuit(), classes=1), (X, Y)),
    "several labels": lambda: case(dressed(Circuit(), classes=3), (X, (X[:, :3] > 0).float())),
    "log-probabilities": lambda: case(nn.Sequential(dressed(Circuit()), nn.LogSoftmax(-1)), (X, Y)),
    "a sigmoid": lambda: case(nn.Sequential(dressed(Circuit(), classes=1), nn.Sigmoid()), (X, FLOATS)),
    "a Lightning module": lambda: case(Lightning(), (X, Y), data={"train": X}, epochs=100),
    "a recurrent module": lambda: case(Recurrent(), (X, Y)),
    "a recurrent network of torch": lambda: case(
        nn.LSTM(8, 2, batch_first=True), (torch.stack([X, -X], 1), X[:, None, :2].expand(-1, 2, -1))
    ),
}


QUICK = (
    "a loader",
    "arrays",
    "a dict with its labels",
    "one logit",
    "regression",
    "a Lightning module",
)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in BATCHES])
def test_it_is_taken_as_it_is_and_left_so(name):
    torch.manual_seed(1)
    told = BATCHES[name]()
    with unchanged(told):
        found = diagnose(**told)
    assert found.verdict("forward") == "ok", found.of("fail")
    assert found.failed == [], found.of("fail", "warn")
    assert not [f for f in found if "could not be checked" in f.evidence], found


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("a dict by name", "CrossEntropyLoss"),
        ("one-hot labels", "one_hot_cross_entropy"),
        ("regression", "MSELoss"),
        ("regression of one number each", "MSELoss"),
        ("one logit", "BCEWithLogitsLoss"),
        ("one logit of whole labels", "BCEWithLogitsLoss"),
        ("several labels", "BCEWithLogitsLoss"),
        ("log-probabilities", "NLLLoss"),
        ("a sigmoid", "BCELoss"),
    ],
)
def test_a_loss_that_is_guessed_is_named_with_its_reason(name, loss):
    found = diagnose(**BATCHES[name](), checks=["loss"])[0].evidence
    assert f"no loss was named: {loss}, because" in found and "loss= overrides it" in found


def test_a_loss_that_is_named_is_used():
    found = diagnose(dressed(Circuit(), classes=1), (X, FLOATS[:, None]), loss=nn.MSELoss(), checks=["loss"])
    assert "squared difference" in found[0].evidence


def test_optimiser_and_loss_of_a_lightning_module_are_its_own():
    found = {f.check: f for f in diagnose(**BATCHES["a Lightning module"]())}
    assert "angles at most" in found["updates"].evidence and found["travel"].verdict == "ok"
    assert found["loss"].evidence.startswith("CrossEntropyLoss")


LOSSES = {
    "softmax": [lambda o, y: F.cross_entropy(o, y), lambda o, y: 3 * F.nll_loss(F.log_softmax(o, -1), y)],
    "log": [lambda o, y: F.nll_loss(o, y)],
    "other": [lambda o, y: o.square().mean(), lambda o, y: F.multi_margin_loss(o, y)],
}
SINGLE = {
    "sigmoid": [lambda o, y: F.binary_cross_entropy_with_logits(o, y)],
    "square": [lambda o, y: ((o - y) ** 2).mean(), lambda o, y: F.mse_loss(o, y, reduction="sum")],
    "distance": [lambda o, y: (o - y).abs().mean()],
    "probability": [lambda o, y: F.binary_cross_entropy(o, y)],
    "other": [lambda o, y: F.soft_margin_loss(o, 2 * y - 1) * o.exp().mean()],
}


@pytest.mark.parametrize(("kind", "loss"), [(kind, loss) for kind, losses in LOSSES.items() for loss in losses])
def test_a_loss_of_several_outputs_is_known_by_what_it_does(kind, loss):
    assert kind_of(loss, torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), Y) == kind


@pytest.mark.parametrize(("kind", "loss"), [(kind, loss) for kind, losses in SINGLE.items() for loss in losses])
def test_a_loss_of_one_output_is_known_by_what_it_does(kind, loss):
    assert kind_of(loss, torch.rand(8, generator=torch.Generator().manual_seed(0)), FLOATS) == kind


def wrong(model, y, loss, check, word):
    return model, y, loss, check, word


MISMATCHES = [
    wrong(lambda: dressed(Circuit(), classes=1), FLOATS, lambda o, y: ((o - y) ** 2).mean(), "labels", "own"),
    wrong(lambda: dressed(Circuit(), classes=1), 2 * FLOATS[:, None] - 1, nn.BCEWithLogitsLoss(), "labels", "0 to 1"),
    wrong(
        lambda: nn.Sequential(dressed(Circuit()), nn.Softmax(-1)),
        Y,
        lambda o, y: F.cross_entropy(o, y),
        "probabilities",
        "softmax twice",
    ),
    wrong(lambda: dressed(Circuit()), Y, lambda o, y: F.cross_entropy(o.softmax(-1), y), "probabilities", "leave"),
    wrong(
        lambda: nn.Sequential(dressed(Circuit(), classes=1), nn.Sigmoid()),
        FLOATS[:, None],
        F.binary_cross_entropy_with_logits,
        "probabilities",
        "sigmoid twice",
    ),
    wrong(lambda: nn.Sequential(nn.Linear(8, 1), nn.Hardtanh()), 2 * FLOATS[:, None] - 1, nn.MSELoss(), None, ""),
    wrong(lambda: head(), torch.zeros(8, dtype=torch.long), None, "labels", "sorted by class"),
]


@pytest.mark.parametrize(("model", "y", "loss", "check", "word"), MISMATCHES)
def test_labels_outputs_and_loss_that_do_not_meet_are_found(model, y, loss, check, word):
    torch.manual_seed(0)
    found = diagnose(model(), (X, y), loss=loss)
    assert found.failed == ([check] if check else []), found.of("fail", "warn")
    assert not check or word in f"{found[0].cause} {found[0].fix}"


def test_samples_are_made_up_where_nobody_gave_any():
    for model in (dressed(Circuit()), nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(1800, 2))):
        found = diagnose(model, checks=["forward", "loss"])
        assert found.failed == [] and "the batch is made up" in str(found)
    with pytest.raises(ValueError, match="give a batch"):
        diagnose(nn.Identity())


def test_several_tensors_are_cut_and_cast_as_one():
    both = Nested.of({"a": torch.ones(4, 2), "b": [torch.zeros(4), torch.ones(3)], "n": 7})
    few = both[:2].double()
    assert len(few) == 2 and few.parts["a"].shape == (2, 2) and few.parts["a"].dtype == torch.float64
    assert len(few.parts["b"][1]) == 3 and few.parts["n"] == 7


KNOWN = list(inspect.signature(diagnose).parameters)[2:]  # as the command has them


@pytest.mark.parametrize(
    ("made", "batch", "more"),
    [
        (head, None, {}),
        ([head, (X, Y)], (X, Y), {}),
        ((head, (X, Y), {"loss": 1}), (X, Y), {"loss": 1}),
        ((head, {"x": X, "labels": Y}), {"x": X, "labels": Y}, {}),
        ((head, {"batch": (X, Y), "loss": 1}), (X, Y), {"loss": 1}),
        ({"model": head, "batch": (X, Y), "loss": 1}, (X, Y), {"loss": 1}),
        ({"model_or_factory": head, "data": (X, Y)}, (X, Y), {}),
    ],
)
def test_what_make_returns_is_read_in_every_form(made, batch, more):
    found = read_made(made, KNOWN)
    assert found[0] is head and found[2] == more
    assert (found[1] is None) == (batch is None)


@pytest.mark.parametrize("made", [None, 3, (head, (X, Y), 3), (head, (X, Y), {}, {}), {"batch": (X, Y)}])
def test_what_make_should_return_is_said(made):
    with pytest.raises(ValueError, match="should return the model"):
        read_made(made, KNOWN)


@pytest.mark.parametrize(
    "returned",
    [
        "model",
        "[model, (x, y)]",
        "{'model': model, 'batch': (x, y)}",
        "model, loader",
        "model, {'batch': (x, y), 'epochs': 3}",
    ],
)
def test_the_command_takes_every_form(returned, tmp_path, capsys):
    file = tmp_path / "model.py"
    file.write_text(
        "import torch\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "from qtl_utils.doctor.faults import head, points\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    model, (x, y) = head(), points(n=8)\n"
        "    loader = DataLoader(TensorDataset(x, y), batch_size=8)\n"
        f"    return {returned}\n"
    )
    assert cli.main(["doctor", f"{file}:make"]) == 0
    assert "CrossEntropyLoss" in capsys.readouterr().out


def test_what_make_raises_is_explained(tmp_path, capsys):
    file = tmp_path / "model.py"
    file.write_text("import torch\ndef make():\n    return torch.nn.Linear(3, 2)(torch.ones(1, 4))\n")
    assert cli.main(["doctor", f"{file}:make"]) == 2
    said = capsys.readouterr().err
    assert "raised RuntimeError" in said and "cause:" in said and "fix:" in said


def test_repair_takes_arrays_and_loaders_and_guesses_the_loss():
    x, y = points(1, 48)
    for data in ((x.numpy(), y.numpy()), DataLoader(TensorDataset(x, y.float()), batch_size=16)):
        classes = 1 if isinstance(data, DataLoader) else 2
        found = repair(dressed(Circuit(), classes=classes), data, minutes=0.1, checks=["forward", "loss"])
        assert not found.left and found.n_test > 0


def test_an_array_that_holds_objects_is_refused():
    with pytest.raises(ValueError, match="batch"):
        diagnose(head(), (np.array([object()] * 4), Y))


class Cut(nn.Module):
    """A circuit whose gradient is lost inside of the quantum function, or on the way out of it."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.angles = nn.Parameter(torch.rand(3))
        self.out = nn.Linear(3, 2)
        self.node = qml.QNode(self.circuit, qml.device("default.qubit", wires=3), interface="torch")

    def circuit(self, x):
        qml.AngleEmbedding(x[..., :3], wires=range(3), rotation="Y")
        for wire in range(3):
            angle = self.angles[wire]
            angle = angle.item() if self.kind == "item" else angle.detach().numpy() if self.kind == "numpy" else angle
            qml.RX(angle, wires=wire)
        return [qml.expval(qml.PauliZ(i)) for i in range(3)]

    def forward(self, x):
        with torch.set_grad_enabled(self.kind != "no_grad"):
            z = torch.stack(self.node(x), -1)
        return self.out(z.to(x.dtype))


@pytest.mark.parametrize(("kind", "word"), [("item", "item"), ("numpy", "detach"), ("no_grad", "no_grad")])
def test_a_graph_that_is_cut_around_a_circuit_is_told_from_parameters_that_are_unused(kind, word):
    torch.manual_seed(0)
    (found,) = diagnose(Cut(kind), (X, Y)).of("fail")
    assert found.check in ("differentiable", "gradient_reaches") and word in found.evidence + found.cause
    assert diagnose(Cut(""), (X, Y)).of("fail").failed == []


def test_a_parameter_that_nothing_uses_is_called_unused():
    model = dressed(Circuit())
    model.spare = nn.Parameter(torch.ones(2))
    (found,) = diagnose(model, (X, Y)).of("fail")
    assert found.check == "gradient_reaches" and "take no part" in found.cause


def test_classes_that_count_from_one_and_a_class_of_nearly_all_are_warned_of():
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    from_one = torch.arange(64) % 2 + 1
    rare = (torch.arange(64) % 16 == 0).long()
    for y, word in ((from_one, "output 0 is never right"), (rare, "94% of the labels are 0")):
        found = diagnose(dressed(Circuit(), classes=3), (x, y), checks=["labels"])[0]
        assert found.verdict == "warn" and word in found.evidence


def spread(factor):
    model = dressed(Circuit())
    with torch.no_grad():
        model[0].weight.mul_(factor)
        model[0].bias.mul_(factor)
    return nn.Sequential(model[0], *list(model[2:]))


@pytest.mark.parametrize(("factor", "word"), [(1e-3, "shrunk"), (1.0, ""), (40.0, "wrap around the circle")])
def test_angles_are_judged_as_they_arrive_at_the_gates(factor, word):
    torch.manual_seed(0)
    found = diagnose(spread(factor), (X, Y), checks=["encoding_range"])[0]
    assert found.verdict == ("fail" if word else "ok") and word in found.cause, found


def test_a_qiskit_network_that_shifts_every_angle_of_many_samples_is_warned_of(monkeypatch):
    monkeypatch.setattr("qtl_utils.doctor.checks.circuit.MANY_CIRCUITS", 100)  # so that few samples are many
    model = dressed(torch_connector())
    (few,) = diagnose(model, points(n=4), checks=["method"], budget=math.inf)
    (many,) = diagnose(model, points(n=10), checks=["method"], budget=math.inf)
    assert few.verdict == "ok"
    assert many.verdict == "warn" and "120 circuits a step" in many.evidence


def test_sampled_gradients_are_held_against_the_exact_one():
    torch.manual_seed(1)
    few, many = (
        diagnose(**FAULTS["few_shots"].broken(), checks=["shot_noise"])[0],
        diagnose(**FAULTS["few_shots"].mended(), checks=["shot_noise"])[0],
    )
    cosines = [float(f.evidence.split("cosine with the exact gradient ")[1]) for f in (few, many)]
    assert cosines[0] < 0.8 < 0.95 < cosines[1]


def test_sampled_and_noisy_layers_of_our_own_are_looked_at():
    torch.manual_seed(1)
    noise = NoiseModel.after_every_gate(depolarizing(0.05))
    layer = QuantumLayer(3, 2, simulator="density", noise=noise, shots=20, angle_init=0.5)
    model = nn.Sequential(nn.Linear(X.shape[1], 3), nn.Tanh(), layer, nn.Linear(3, 2))
    state = layer.draws.bit_generator.state
    (found,) = diagnose(model, (X, Y), checks=["shot_noise"], budget=math.inf)
    assert found.evidence.startswith("20 shots: signal to noise")
    kept, cosine = re.search(r"noise alone leaves (\d+)% of the gradient, cosine (\S+)$", found.evidence).groups()
    some = (X[:FEW], Y[:FEW])

    def gradient():
        return torch.autograd.grad(F.cross_entropy(model(some[0]), some[1]), layer.weights)[0].flatten()

    with exact_circuits():
        noisy = gradient()
    with without_noise(model):
        free = gradient()
    assert f"{noisy.norm() / free.norm():.0%}" == f"{kept}%"
    assert f"{torch.cosine_similarity(noisy, free, dim=0):.2f}" == cosine
    with without_noise(model):
        clean = model(X)
    exact = nn.Sequential(*model[:2], QuantumLayer(3, 2), model[3])
    exact[2].weights.data.copy_(layer.weights.data)
    assert torch.equal(clean, exact(X))
    assert layer.simulator == "density" and layer.shots == 20 and layer.noise is noise  # left as they were
    assert layer.draws.bit_generator.state == state


class OneByOne(nn.Module):
    """Runs sample by sample; its first feature is almost zero in the first sample, and every angle has an offset."""

    def __init__(self, factor):
        super().__init__()
        self.angles = nn.Parameter(torch.rand(2, 3))
        self.out = nn.Linear(3, 2)
        self.factor = factor
        self.node = qml.QNode(self.circuit, qml.device("default.qubit", wires=3), interface="torch")

    def circuit(self, x, weights):
        qml.AngleEmbedding(1.5 + self.factor * x, wires=range(3), rotation="Y")
        qml.BasicEntanglerLayers(weights, wires=range(3))
        return [qml.expval(qml.PauliZ(i)) for i in range(3)]

    def forward(self, x):
        return self.out(torch.stack([torch.stack(self.node(row[:3], self.angles)) for row in x]).to(x.dtype))


@pytest.mark.parametrize(("factor", "word"), [(1e-3, "shrunk"), (1.0, ""), (40.0, "wrap around the circle")])
def test_angles_that_come_one_by_one_are_read_from_the_gates(factor, word):
    torch.manual_seed(0)
    x = X.clone()
    x[0, 0] = 1e-4
    found = diagnose(OneByOne(factor), (x, Y), checks=["encoding_range"])[0]
    assert found.verdict == ("fail" if word else "ok") and word in found.cause, found


@pytest.mark.parametrize(("factor", "word"), [(1e-3, "shrunk"), (1.0, "")])
def test_angles_of_our_own_layer_are_read_too(factor, word):
    torch.manual_seed(0)
    model = head()
    found = diagnose(
        nn.Sequential(model[0], model[1], Times(factor), *list(model[2:])), (X, Y), checks=["encoding_range"]
    )
    assert found[0].verdict == ("fail" if word else "ok") and word in found[0].cause, found


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x
