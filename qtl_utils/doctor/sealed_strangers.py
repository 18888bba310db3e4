"""Cases of strangers, sealed: public reports of hybrid models that do not train, rebuilt small. Not for the developer.

FAULTS: name -> Case, whose `make()` gives (model, batch) or (model, batch, options of `diagnose`), or (model, loader).
MENDED: the same with the stated fix. HEALTHY: models that must not be accused. MESSAGES: errors that users meet.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import pennylane as qml
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

PENNYLANE = "https://github.com/PennyLaneAI/pennylane/issues/"
QML = "https://github.com/qiskit-community/qiskit-machine-learning/issues/"


@dataclass(frozen=True)
class Case:
    """A faulty model: what users see, why, what mends it, where it was reported, and how a right diagnosis reads."""

    make: Callable[[], tuple]
    symptom: str
    cause: str
    fix: str
    source: str
    names: tuple[str, ...]


FAULTS: dict[str, Case] = {}
MENDED: dict[str, Callable[[], tuple]] = {}
HEALTHY: dict[str, Callable[[], tuple]] = {}


def case(symptom: str, cause: str, fix: str, source: str, *names: str) -> Callable:
    """Decorator of `f(mended)`."""

    def register(function):
        key = function.__name__
        FAULTS[key] = Case(partial(function, False), symptom, cause, fix, source, names)
        MENDED[key] = partial(function, True)
        return function

    return register


def healthy(function: Callable) -> Callable:
    HEALTHY[function.__name__] = function
    return function


# ---- parts -----------------------------------------------------------------------------------------------------------


def points(n: int, features: int, gap: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes that differ in the first two features."""
    y = torch.arange(n) % 2
    x = torch.randn(n, features)
    x[:, :2] += gap * (y[:, None] - 0.5)
    return x, y


def rings(inputs, weights):
    """Angles in, BasicEntanglerLayers, <Z> of every wire."""
    n = weights.shape[-1]
    qml.AngleEmbedding(inputs, wires=range(n), rotation="Y")
    qml.BasicEntanglerLayers(weights, wires=range(n), rotation=qml.RY)
    return [qml.expval(qml.PauliZ(i)) for i in range(n)]


def torch_layer(function, wires: int, shapes: dict, device: str = "default.qubit", **options) -> nn.Module:
    node = qml.QNode(function, qml.device(device, wires=wires), interface="torch", **options)
    return qml.qnn.TorchLayer(node, shapes)


def rings_layer(wires: int, depth: int = 2) -> nn.Module:
    return torch_layer(rings, wires, {"weights": (depth, wires)})


# ---- faults: gradients and graphs ------------------------------------------------------------------------------------


@case(
    "an error in the forward pass of a physics-informed network: a differentiated tensor was not used in the graph",
    "adjoint differentiation gives first derivatives only; the second derivative of the circuit by its input that the "
    "equation needs cannot be taken",
    "diff_method='backprop' (or parameter-shift with max_diff=2)",
    PENNYLANE + "9901",
    r"second[- ]deriv|second order|higher[- ]order|higher deriv|differentiated? (it )?twice|twice differ|max_diff",
    r"derivatives? of (the |a )?(derivative|gradient)|adjoint.{0,80}(first|once|one derivative)",
)
def adjoint_second(mended):
    torch.manual_seed(1)
    device = qml.device("default.qubit", wires=2)

    @qml.qnode(device, interface="torch", diff_method="backprop" if mended else "adjoint")
    def u(t, weights):
        for row in weights:
            qml.RY(t, wires=0)
            qml.RY(t, wires=1)
            qml.BasicEntanglerLayers(row[None], wires=range(2), rotation=qml.RY)
        return qml.expval(qml.PauliZ(0))

    class Oscillator(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.Parameter(torch.rand(3, 2))
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, t):
            with torch.enable_grad():
                t = t.clone().requires_grad_()
                x = self.scale * u(t[:, 0], self.weights)
                velocity = torch.autograd.grad(x.sum(), t, create_graph=True)[0]
                acceleration = torch.autograd.grad(velocity.sum(), t, create_graph=True)[0]
            return (acceleration[:, 0] + x)[:, None].float()

    t = torch.linspace(0.0, 3.0, 12)[:, None]
    return Oscillator(), (t, -1.5 * torch.cos(2 * t)), {"loss": nn.MSELoss()}


@case(
    "the loss is the same in every epoch, no error; every .grad is None",
    "the loss function builds a new tensor from the predictions' values, with requires_grad=True, so the backward pass "
    "ends there and reaches no weight of the model",
    "use the predictions themselves: F.smooth_l1_loss(predictions, labels)",
    "https://github.com/mit-han-lab/torchquantum/issues/97",
    r"(loss|criterion).{0,140}(new tensor|copies|copied|cuts?\b|detach|graph|not differentiable|\.item|tolist)",
    r"(loss|criterion).{0,60}(gives|has|passes|hands|leaves) no gradient",
    r"(new tensor|torch\.tensor|copies|\.item\(\)|tolist|detach).{0,140}loss",
    r"(gradient|backward).{0,60}(ends|stops) (in|at) the loss",
)
def loss_rebuilt(mended):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), rings_layer(3), nn.Linear(3, 1))
    x, y = points(12, 4)

    def cost(predictions, labels):
        if mended:
            return F.smooth_l1_loss(predictions.flatten(), labels)
        predictions = torch.tensor([p.item() for p in predictions], requires_grad=True)
        return F.smooth_l1_loss(predictions, labels)

    return model, (x, y.float()), {"loss": cost}


@case(
    "the classical layer behind the circuit trains, the circuit's angles never change",
    "the circuit hands on measured bits (samples, whole numbers), which have no derivative: no gradient reaches angles "
    "or the layers before them",
    "return expectation values or probabilities",
    "https://quantumcomputing.stackexchange.com/q/27063",
    r"\b(bits?|bitstrings?|sampled?|samples\(|qml\.sample|counts|integers?|whole numbers)\b.{0,160}"
    r"(derivative|differentia|gradient|graph)",
    r"(derivative|differentia|gradient|graph|none).{0,160}\b(bits?|bitstrings?|sampling|qml\.sample|counts|integers?|"
    r"whole numbers)\b",
    r"qml\.sample",
)
def measured_bits(mended):
    torch.manual_seed(0)
    device = qml.device("default.qubit", wires=3, seed=3)

    def circuit(inputs, weights):
        qml.AngleEmbedding(inputs, wires=range(3), rotation="Y")
        qml.BasicEntanglerLayers(weights, wires=range(3), rotation=qml.RY)
        return [qml.expval(qml.PauliZ(i)) for i in range(3)] if mended else qml.sample(wires=range(3))

    node = qml.QNode(circuit, device, interface="torch", shots=None if mended else 1)

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.Parameter(torch.rand(1, 3))
            self.out = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))

        def forward(self, x):
            rows = [node(sample, self.weights) for sample in x]
            bits = torch.stack([torch.stack(r) if isinstance(r, list | tuple) else r.flatten() for r in rows])
            return self.out(bits.float())

    x, y = points(8, 3)
    return Reader(), (x, y), {"loss": nn.CrossEntropyLoss()}


@case(
    "RuntimeError: a leaf Variable that requires grad is being used in an in-place operation",
    "the angles, a parameter, are clamped in place in the forward pass",
    "angles = torch.clamp(self.weights, 0, 2 * pi), or under torch.no_grad() after the optimiser's step",
    "https://github.com/divelab/DIG/issues/164",
    r"in[- ]?place",
    r"clamp_|leaf",
)
def clamped_parameter(mended):
    torch.manual_seed(0)

    class Bounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.out = nn.Linear(4, 2), nn.Linear(2, 2)
            self.weights = nn.Parameter(torch.rand(2, 2) * 2 * math.pi)
            self.node = qml.QNode(rings, qml.device("default.qubit", wires=2), interface="torch")

        def forward(self, x):
            clamp = torch.clamp if mended else torch.clamp_
            z = self.node(self.into(x), clamp(self.weights, 0, 2 * math.pi))
            return self.out(torch.stack(z, dim=-1).float())

    return Bounded(), points(8, 4)


@case(
    "an error in the backward pass, or no gradient at all",
    "the QNode was made with diff_method=None, which switches differentiation off",
    "diff_method='backprop' or 'best'",
    PENNYLANE + "6769",
    r"diff_method\s*=?\s*=?\s*['\"]?none",
    r"differentiation .{0,30}(switched off|turned off|disabled)|not differentiable .{0,40}diff_method",
)
def method_none(mended):
    torch.manual_seed(0)
    options = {"diff_method": "best" if mended else None}
    layer = torch_layer(rings, 3, {"weights": (2, 3)}, **options)
    return nn.Sequential(nn.Linear(4, 3), layer, nn.Linear(3, 2)), points(8, 4), {"loss": nn.CrossEntropyLoss()}


@case(
    "a training step takes many times longer than needed",
    "parameter-shift on a simulator runs two circuits per angle and sample, where adjoint needs one pass",
    "diff_method='adjoint' on lightning.qubit",
    PENNYLANE + "4188",
    r"parameter[- ]shift.{0,200}(simulator|adjoint|backprop|slow|times|circuits|executions|hardware)",
    r"(simulator|adjoint|backprop|slow|times|circuits|executions).{0,200}parameter[- ]shift",
)
def lightning_shift(mended):
    torch.manual_seed(0)

    def circuit(inputs, weights):
        qml.AngleEmbedding(inputs, wires=range(4))
        qml.StronglyEntanglingLayers(weights, wires=range(4))
        return [qml.expval(qml.PauliZ(i)) for i in range(4)]

    method = "adjoint" if mended else "parameter-shift"
    layer = torch_layer(circuit, 4, {"weights": (3, 4, 3)}, "lightning.qubit", diff_method=method)
    return nn.Sequential(layer, nn.Linear(4, 2)), points(6, 4), {"loss": nn.CrossEntropyLoss()}


# ---- faults: what reaches the circuit --------------------------------------------------------------------------------


@case(
    "the classifier behind a trainable quanvolution stays at chance",
    "the loops step by the stride over output positions, so that only the first part of the image reaches the circuit "
    "and the rest of the feature map stays zero",
    "for j in range(h_out): patch at 2 * j",
    "https://discuss.pennylane.ai/t/making-quanvolutional-neural-net-weights-trainable/509",
    r"(inputs?|pixels?|features?)\b.{0,80}(no effect|no influence|ignored|never read|not used|unused|not reach|"
    r"do(es)? not (change|affect|depend|influence|matter))",
    r"(most|part|many|some|constant|\d+ of \d+)\b.{0,80}(always|stay|are|is|constantly|identically) (zero|0|constant)",
    r"\bstrides?\b",
)
def quarter_of_the_image(mended):
    torch.manual_seed(0)

    class Quanvolution(nn.Module):
        def __init__(self, stride=2):
            super().__init__()
            self.stride, self.q = stride, rings_layer(4, 1)
            self.fc = nn.Linear(4 * 4, 2)

        def forward(self, img):
            size = (img.shape[-1] - 2) // self.stride + 1
            out = torch.zeros(len(img), size, size, 4)
            steps = [s * self.stride for s in range(size)] if mended else range(0, size, self.stride)
            for j in steps:
                for k in steps:
                    patch = img[:, 0, j : j + 2, k : k + 2].flatten(1)
                    out[:, j // self.stride, k // self.stride] = self.q(patch)
            return self.fc(out.flatten(1))

    y = torch.arange(40) % 2
    images = 0.5 * torch.rand(40, 1, 4, 4)
    images[:, :, 2:, 2:] += 1.2 * y.view(-1, 1, 1, 1)
    return Quanvolution(), (images, y), {"loss": nn.CrossEntropyLoss()}


@case(
    "training and test loss stay near ln 2; outputs look like noise",
    "unscaled features (hundreds) are used as rotation angles, which wrap around many times: near samples get "
    "unrelated states",
    "standardise the features, or scale them to [0, pi]",
    "common",
    r"(many|several|full|whole|\d) turns?\b|turns? (around|of)\b|wrap|periodic|period\b",
    r"(angles?|features?|inputs?).{0,100}(2 ?\*? ?(pi|π)|larger than (pi|π)|beyond (pi|π)|full rotation|too large|"
    r"unscaled|not scaled|hundreds)",
)
def raw_features(mended):
    torch.manual_seed(0)

    def circuit(inputs, weights):
        qml.AngleEmbedding(inputs, wires=range(4), rotation="Y")
        qml.BasicEntanglerLayers(weights, wires=range(4), rotation=qml.RY)
        return qml.expval(qml.PauliZ(0))

    layer = torch_layer(circuit, 4, {"weights": (2, 4)})

    class Tabular(nn.Module):
        def __init__(self):
            super().__init__()
            self.q = layer
            self.out = nn.Linear(1, 2)

        def forward(self, x):
            return self.out(self.q(x)[:, None])

    x, y = points(96, 4, gap=2.5)
    x = x if mended else 400.0 + 120.0 * x
    return Tabular(), (x, y), {"loss": nn.CrossEntropyLoss()}


@case(
    "the same output for every sample; the first layer and the circuit's input get no gradient",
    "all inputs are negative (decibels) and the weights start positive, so the ReLU before the circuit gives zero for "
    "every sample",
    "standardise the inputs; no ReLU before the embedding",
    "common",
    r"relu",
    r"(dead|dying|inactive) (unit|neuron|layer|activation)",
)
def dead_relu(mended):
    torch.manual_seed(0)
    into = nn.Linear(6, 3)
    nn.init.uniform_(into.weight, 0.0, 1.0)
    x, y = points(16, 6)
    x = x if mended else -35.0 + 8.0 * x
    return nn.Sequential(into, nn.ReLU(), rings_layer(3), nn.Linear(3, 2)), (x, y), {"loss": nn.CrossEntropyLoss()}


@case(
    "NaN outputs and a NaN loss from the first batch",
    "arcsin and arccos, which turn features into angles, are defined on [-1, 1] only, and standardised features lie "
    "outside",
    "scale the features to [-1, 1] (by the training data's extremes), or clamp them",
    "https://github.com/Qulacs-Osaka/scikit-qulacs/issues/142",
    r"\ba(rc)?(sin|cos)(\b|backward)",
    r"(outside|beyond|not in|exceed\w*|within|scale\w* to|only) .{0,30}\[-1(\.0)?, ?\+?1(\.0)?\]",
    r"(outside|beyond|not in|exceed\w*|within|scale\w* to|only) .{0,30}-1 (and|to|\.\.\.) \+?1",
)
def arcsine_domain(mended):
    torch.manual_seed(0)

    def circuit(inputs, weights):
        for i in range(2):
            qml.RY(torch.arcsin(inputs[..., i]), wires=i)
            qml.RZ(torch.arccos(inputs[..., i] ** 2), wires=i)
        qml.StronglyEntanglingLayers(weights, wires=range(2))
        return [qml.expval(qml.PauliZ(i)) for i in range(2)]

    x, y = points(24, 2)
    x = (x - x.mean(0)) / x.std(0)
    if mended:
        x = 0.95 * x / x.abs().max()
    model = nn.Sequential(torch_layer(circuit, 2, {"weights": (3, 2, 3)}), nn.Linear(2, 2))
    return model, (x, y), {"loss": nn.CrossEntropyLoss()}


@case(
    "outputs of all samples agree to three digits; the loss stays at chance",
    "features share a large offset (temperatures around 300), so that after normalisation to length one all samples "
    "are almost the same state",
    "subtract the mean of the training data before the amplitude embedding",
    "common",
    r"offset|common (value|part)|subtract|\bcent(re|er)(ed|d|ing)?\b",
    r"(states?|outputs?|samples?|amplitudes?|embedd\w+).{0,80}(almost|nearly|practically|hardly|barely)",
    r"(almost|nearly|practically) (the same|identical|equal|constant|parallel)",
    r"hardly (differ|depend|chang|distinguish)",
)
def amplitude_offset(mended):
    torch.manual_seed(0)

    def circuit(inputs, weights):
        qml.AmplitudeEmbedding(inputs, wires=range(3), normalize=True)
        qml.StronglyEntanglingLayers(weights, wires=range(3))
        return [qml.expval(qml.PauliZ(i)) for i in range(3)]

    x, y = points(24, 8, gap=4.0)
    x = 300.0 + 2.0 * x
    x = x - x.mean(0) if mended else x
    model = nn.Sequential(torch_layer(circuit, 3, {"weights": (2, 3, 3)}), nn.Linear(3, 2))
    return model, (x, y), {"loss": nn.CrossEntropyLoss()}


# ---- faults: labels, outputs and losses ------------------------------------------------------------------------------


@case(
    "the model forgets one class while it learns the other; it predicts a single class",
    "the data are sorted by class and the loader does not shuffle: every batch holds one class only",
    "shuffle=True",
    "https://github.com/Quantinuum/lambeq/issues/20",
    r"shuffl",
    r"(one|single|same) (class|label)\b",
    r"(sorted|ordered) by (class|label)",
)
def sorted_loader(mended):
    torch.manual_seed(0)
    x, y = points(192, 4, gap=1.0)
    order = torch.argsort(y, stable=True)
    loader = DataLoader(TensorDataset(x[order], y[order]), batch_size=12, shuffle=mended)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), rings_layer(3), nn.Linear(3, 2)), loader


@case(
    "the loss becomes negative and falls without end",
    "labels -1 and +1 (the range of expectation values) in a binary cross-entropy, which takes 0 and 1",
    "labels (y + 1) / 2",
    QML + "798",
    r"labels?.{0,120}(-1(\.0)?( and| or|,| to|/)|minus one|negative|outside|0 and 1|0 or 1|between 0|\[0, ?1\])",
    r"targets?.{0,120}(-1(\.0)?( and| or|,| to|/)|minus one|negative|outside|0 and 1|0 or 1|between 0|\[0, ?1\])",
    r"loss.{0,60}(no (lower )?bound|unbounded|without (bound|end|limit))",
)
def signs_for_sigmoid(mended):
    torch.manual_seed(0)
    x, y = points(16, 4)
    signs = (2 * y - 1).float()[:, None]
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), rings_layer(3), nn.Linear(3, 1))
    return model, (x, (signs + 1) / 2 if mended else signs), {"loss": nn.BCEWithLogitsLoss()}


@case(
    "the regression predicts the mean of the targets for every sample",
    "outputs (B, 1) minus targets (B,) broadcast to (B, B): every output is compared with every target",
    "outputs.squeeze(-1), or targets of shape (B, 1)",
    "https://github.com/Photon-AI-Research/NeuralSolvers/issues/20",
    r"broadcast",
    r"(every|each|all) (output|prediction).{0,60}(every|each|all) (label|target)",
    r"(output|prediction|label|target)s?.{0,60}shape.{0,80}(label|target|output|differ|view_as|squeeze)",
)
def broadcast_loss(mended):
    torch.manual_seed(0)
    x = torch.linspace(-2.0, 2.0, 16)[:, None]
    y = torch.sin(2.0 * x[:, 0])
    y = y[:, None] if mended else y
    model = nn.Sequential(nn.Linear(1, 3), rings_layer(3, 3), nn.Linear(3, 1))
    return model, (x, y), {"loss": lambda out, target: ((out - target) ** 2).mean()}


@case(
    "all predictions right, and the loss does not fall below 0.5",
    "the model ends with a sigmoid and the loss applies another one (binary_cross_entropy_with_logits)",
    "return logits, or F.binary_cross_entropy",
    "common",
    r"sigmoid.{0,120}(twice|two|double|already|again|second|another|itself)",
    r"(twice|two|double|already|again|second|another|expects? logits|takes? logits).{0,120}sigmoid",
    r"probabilit\w+.{0,80}(as|for|where|expects?|takes?|instead of).{0,30}logits",
)
def sigmoid_twice(mended):
    torch.manual_seed(0)

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.q, self.out = nn.Linear(4, 2), rings_layer(2), nn.Linear(2, 1)

        def forward(self, x):
            logit = self.out(self.q(torch.tanh(self.into(x)) * math.pi / 2))
            return logit[:, 0] if mended else torch.sigmoid(logit)[:, 0]

    x, y = points(16, 4)
    loss = lambda out, label: F.binary_cross_entropy_with_logits(out, label)  # noqa: E731
    return Detector(), (x, y.float()), {"loss": loss}


@case(
    "the loss is exactly 0 from the start and nothing changes",
    "cross-entropy over a single output: its softmax is always 1",
    "BCEWithLogitsLoss, or two outputs",
    "https://datascience.stackexchange.com/questions/37128",
    r"(one|single|1) (output|logit|column|unit)\b",
    r"softmax.{0,60}(always|constant|is (one|1)\b)",
    r"loss.{0,40}(always|constant|identically|exactly|is) (0|zero)",
)
def cross_entropy_of_one(mended):
    torch.manual_seed(0)
    x, y = points(12, 4)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), rings_layer(3), nn.Linear(3, 1))
    return model, (x, y.float()[:, None]), {"loss": nn.BCEWithLogitsLoss() if mended else nn.CrossEntropyLoss()}


@case(
    "an error in the loss about Float and Long",
    "binary cross-entropy takes labels as floating-point numbers, and these are whole (long)",
    "labels.float()",
    "https://github.com/skorch-dev/skorch/issues/813",
    r"labels?.{0,80}(float|whole|integer|long|int64)",
    r"targets?.{0,80}(float|whole|integer|long|int64)",
    r"(\.float\(\)|to\(torch\.float)",
)
def long_labels(mended):
    torch.manual_seed(0)
    x, y = points(12, 4)
    model = nn.Sequential(nn.Linear(4, 3), rings_layer(3), nn.Linear(3, 1), nn.Flatten(0))
    return model, (x, y.float() if mended else y), {"loss": nn.BCEWithLogitsLoss()}


@case(
    "predictions for a sample change with the batch it is in; the loss cannot fall",
    "the softmax is taken over the batch (dim=0), not over the classes",
    "nn.Softmax(dim=1)",
    "common",
    r"dim ?= ?0",
    r"(over|across|along) the (batch|samples)",
    r"(other|another|neighbou?r\w*|different) (samples?|rows?)|neighbou?rs|(in|of) (its|the same|the rest of the) "
    r"batch",
    r"mix\w* (the )?samples|samples .{0,30}mixed",
)
def softmax_over_batch(mended):
    torch.manual_seed(0)
    x, y = points(10, 2)
    model = nn.Sequential(nn.Linear(2, 2), rings_layer(2, 3), nn.Linear(2, 2), nn.Softmax(dim=1 if mended else 0))
    return model, (x, F.one_hot(y, 2).float()), {"loss": nn.L1Loss()}


# ---- faults: training ------------------------------------------------------------------------------------------------


@case(
    "the loss does not move at all in eight epochs",
    "the warm-up divides whole numbers (epoch // 10), so the learning rate is zero for the first ten epochs",
    "min(1.0, (epoch + 1) / 10)",
    "common",
    r"(learning[- ]rate|\blr\b|rates?).{0,60}(\b0\b|0\.0|zero)",
    r"(zero|\b0\b) learning[- ]rate",
)
def warmup_of_zero(mended):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), rings_layer(3), nn.Linear(3, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    warmup = (lambda epoch: min(1.0, (epoch + 1) / 10)) if mended else (lambda epoch: epoch // 10)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup)
    options = {"loss": nn.CrossEntropyLoss(), "optimizer": optimizer, "scheduler": scheduler, "epochs": 8}
    return model, points(12, 4), options


@case(
    "test results differ from run to run although the model is in eval mode",
    "F.dropout is called without training=self.training and stays active in eval mode",
    "F.dropout(x, 0.5, training=self.training), or nn.Dropout",
    "https://github.com/pytorch/pytorch/issues/11999",
    r"dropout",
)
def dropout_stays(mended):
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.q, self.out = nn.Linear(6, 12), rings_layer(3), nn.Linear(3, 2)
            self.reduce = nn.Linear(12, 3)

        def forward(self, x):
            h = torch.relu(self.into(x))
            h = F.dropout(h, 0.5, training=self.training) if mended else F.dropout(h, 0.5)
            return self.out(self.q(self.reduce(h)))

    return Net(), points(16, 6), {"loss": nn.CrossEntropyLoss()}


@case(
    "training stalls after the first batch; evaluation returns the training batch's predictions",
    "the module keeps the circuit's outputs of its first call and returns them for every later batch",
    "no cache (or one keyed by the samples, with fixed angles only)",
    "common",
    r"cache|stores|stored|remember|stale",
    r"(second|later|next|other|new|another) (call|pass|batch|inputs?).{0,80}(same|first|old|unchanged)",
    r"state.{0,60}(kept|keeps|between|call)|(kept|keeps|between).{0,60}(calls|passes)",
    r"outputs?.{0,60}(do(es)? not depend|independent|same for (every|all|any|other|different))",
)
def cached_outputs(mended):
    torch.manual_seed(0)

    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.out, self.features = rings_layer(3), nn.Linear(3, 2), None

        def forward(self, x):
            if self.features is None or mended or len(self.features) != len(x):
                self.features = self.q(x)
                if not mended:
                    self.features = self.features.detach()
            return self.out(self.features)

    x, y = points(32, 3)
    return Cached(), DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)


# ---- faults: shapes, and Qiskit --------------------------------------------------------------------------------------


@case(
    "an error in the first forward pass about the shape of the weights",
    "StronglyEntanglingLayers takes three angles per wire and layer: weights (layers, wires, 3), and weight_shapes "
    "says (layers, wires)",
    "{'weights': (2, 3, 3)}, from qml.StronglyEntanglingLayers.shape(n_layers=2, n_wires=3)",
    "https://github.com/PennyLaneAI/pennylane/pull/1912",
    r"weight_shapes",
    r"(three|3) (angles|parameters|weights|numbers) per (wire|qubit)",
    r"weights?.{0,60}shape.{0,120}(wires|qubits|, ?3\)|3-dimensional|three|\.shape\()",
    r"stronglyentanglinglayers.{0,80}shape",
)
def two_axes_of_weights(mended):
    torch.manual_seed(0)

    def circuit(inputs, weights):
        qml.AngleEmbedding(inputs, wires=range(3))
        qml.StronglyEntanglingLayers(weights, wires=range(3))
        return [qml.expval(qml.PauliZ(i)) for i in range(3)]

    layer = torch_layer(circuit, 3, {"weights": (2, 3, 3) if mended else (2, 3)})
    return nn.Sequential(nn.Linear(4, 3), layer, nn.Linear(3, 2)), points(8, 4)


def estimator_network(circuit, inputs, weights, observable=None):
    from qiskit_machine_learning.connectors import TorchConnector
    from qiskit_machine_learning.neural_networks import EstimatorQNN

    network = EstimatorQNN(
        circuit=circuit, observables=observable, input_params=inputs, weight_params=weights, input_gradients=True
    )
    return TorchConnector(network, initial_weights=np.linspace(0.2, 0.8, len(weights)))


@case(
    "the circuit's weights get no gradient and the loss stays at chance",
    "Qiskit's Pauli labels count from the right: 'ZII' measures qubit 2, which only controls, and not qubit 0, the "
    "readout",
    "SparsePauliOp('IIZ')",
    "https://github.com/Qiskit/qiskit/issues/16780",
    r"(observable|pauli|measured|readout|qubit|wire)s?.{0,120}(order|endian|revers|connect|wrong|other (qubit|wire)|"
    r"another (qubit|wire)|not reach|never reach|does not depend|outside)",
    r"endian|\bzii\b|(from the|right to) (right|left)|measures? (the wrong|another|a) (qubit|wire)",
    r"(angles?|weights?|parameters?).{0,80}(no effect|no influence|dead|not (change|affect|influence)|zero gradient|"
    r"no gradient|gradient .{0,20}(zero|0))",
)
def pauli_label_order(mended):
    from qiskit import QuantumCircuit
    from qiskit.circuit import ParameterVector
    from qiskit.quantum_info import SparsePauliOp

    torch.manual_seed(0)
    x, w = ParameterVector("x", 3), ParameterVector("w", 4)
    circuit = QuantumCircuit(3)
    for i in range(3):
        circuit.ry(x[i], i)
    circuit.ry(w[0], 0)
    circuit.ry(w[1], 1)
    circuit.cx(2, 1)
    circuit.ry(w[2], 1)
    circuit.cx(1, 0)
    circuit.ry(w[3], 0)
    layer = estimator_network(circuit, list(x), list(w), SparsePauliOp("IIZ" if mended else "ZII"))
    features, y = points(12, 3, gap=2.5)
    features[:, 2] = torch.randn(12)
    return nn.Sequential(layer, nn.Linear(1, 1)), (features, y.float()[:, None]), {"loss": nn.BCEWithLogitsLoss()}


@case(
    "QiskitMachineLearningError in the forward pass",
    "the layer before the network gives 4 numbers and the network has 2 inputs",
    "nn.Linear(6, 2): as many outputs as the network has input parameters",
    "common",
    r"number of inputs|num_inputs|input[_ ]param",
    r"(width|size|features|outputs|numbers|inputs|values|dimension).{0,100}(expects?|takes?|has|of) (2|two)\b",
    r"\b4\b.{0,60}\b2\b.{0,60}|\b2\b.{0,60}(but got|got|received).{0,20}\b4\b",
    r"layer .{0,60}another (shape|width|size)",
)
def qiskit_width(mended):
    from qiskit import QuantumCircuit
    from qiskit.circuit.library import real_amplitudes, z_feature_map

    torch.manual_seed(0)
    encode, ansatz = z_feature_map(2, reps=1), real_amplitudes(2, reps=1)
    circuit = QuantumCircuit(2)
    circuit.compose(encode, inplace=True)
    circuit.compose(ansatz, inplace=True)
    layer = estimator_network(circuit, list(encode.parameters), list(ansatz.parameters))
    return nn.Sequential(nn.Linear(6, 2 if mended else 4), layer, nn.Linear(1, 2)), points(6, 6)


# ---- healthy models --------------------------------------------------------------------------------------------------


@healthy
def one_logit():
    torch.manual_seed(2)
    x, y = points(16, 5)
    model = nn.Sequential(nn.Linear(5, 3), nn.Tanh(), rings_layer(3), nn.Linear(3, 1))
    return model, (x, y.float()[:, None]), {"loss": nn.BCEWithLogitsLoss()}


@healthy
def regression_reuploading():
    torch.manual_seed(1)

    def circuit(inputs, weights, scale):
        for row, factor in zip(weights, scale, strict=True):
            qml.AngleEmbedding(inputs * factor, wires=range(2), rotation="Y")
            qml.StronglyEntanglingLayers(row[None], wires=range(2))
        return qml.expval(qml.PauliZ(0))

    layer = torch_layer(circuit, 2, {"weights": (3, 2, 3), "scale": (3,)})

    class Fit(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.gain, self.bias = layer, nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return (self.gain * self.q(x.expand(-1, 2)) + self.bias)[:, None]

    x = torch.linspace(-1.5, 1.5, 20)[:, None]
    return Fit(), (x, torch.sin(2 * x) * 0.8), {"loss": nn.MSELoss()}


@healthy
def dict_inputs():
    torch.manual_seed(0)

    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.into = nn.Embedding(20, 4), nn.Linear(4 + 3, 3)
            self.q, self.out = rings_layer(3), nn.Linear(3, 2)

        def forward(self, input_ids, measurements):
            h = torch.cat([self.words(input_ids).mean(1), measurements], dim=-1)
            return self.out(self.q(torch.tanh(self.into(h)) * math.pi / 2))

    x, y = points(12, 3)
    inputs = {"input_ids": torch.randint(0, 20, (12, 5)), "measurements": x}
    return Fused(), (inputs, y), {"loss": nn.CrossEntropyLoss()}


@healthy
def two_inputs_dict_output():
    torch.manual_seed(0)

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(4, 2), nn.Linear(3, 2)
            self.q, self.out = rings_layer(4, 1), nn.Linear(4, 2)

        def forward(self, image, table):
            z = self.q(torch.cat([self.left(image), self.right(table)], dim=-1))
            return {"logits": self.out(z), "embedding": z}

    x, y = points(12, 4)
    loss = lambda out, labels: F.cross_entropy(out["logits"], labels)  # noqa: E731
    return Pair(), ((x, torch.randn(12, 3)), y), {"loss": loss}


@healthy
def transformers_like():
    torch.manual_seed(0)

    class Output(SimpleNamespace):
        pass

    class ForClassification(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3))
            self.q, self.classifier = rings_layer(3), nn.Linear(3, 3)

        def forward(self, x):
            hidden = self.q(self.encoder(x))
            return Output(logits=self.classifier(hidden), hidden_states=hidden)

    y = torch.arange(18) % 3
    x = torch.randn(18, 6) + 2.0 * F.one_hot(y, 6)
    return ForClassification(), (x, y)


@healthy
def multi_label():
    torch.manual_seed(0)
    x = torch.randn(16, 5)
    y = (x[:, :3] > torch.tensor([0.0, 0.5, -0.5])).float()
    model = nn.Sequential(nn.Linear(5, 4), rings_layer(4), nn.Linear(4, 3))
    return model, (x, y), {"loss": nn.BCEWithLogitsLoss()}


@healthy
def recurrent_cell():
    torch.manual_seed(0)

    class QRNN(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.q, self.out = nn.Linear(1 + 3, 3), rings_layer(3, 1), nn.Linear(3, 1)

        def forward(self, x):
            h = x.new_zeros(len(x), 3)
            for t in range(x.shape[1]):
                h = self.q(self.mix(torch.cat([x[:, t], h], dim=-1)))
            return self.out(h)

    phase = torch.linspace(0, 5, 14)[:, None]
    wave = torch.sin(phase + 0.4 * torch.arange(6))
    return QRNN(), (wave[:, :5, None], wave[:, 5:]), {"loss": nn.MSELoss()}


@healthy
def frozen_backbone_loader():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()).requires_grad_(False)
    head = nn.Sequential(nn.Linear(16, 3), nn.Tanh(), rings_layer(3), nn.Linear(3, 2))
    y = torch.arange(24) % 2
    images = torch.rand(24, 1, 8, 8)
    images[:, :, :4] += 1.5 * y.view(-1, 1, 1, 1)
    return nn.Sequential(backbone, head), DataLoader(TensorDataset(images, y), batch_size=8, shuffle=True)


@healthy
def shots_sample_by_sample():
    torch.manual_seed(0)
    device = qml.device("default.qubit", wires=2, seed=5)
    node = qml.QNode(rings, device, interface="torch", diff_method="parameter-shift", shots=4_000)

    class Sampled(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.weights, self.out = nn.Linear(3, 2), nn.Parameter(torch.rand(1, 2)), nn.Linear(2, 2)

        def forward(self, x):
            z = torch.stack([torch.stack(node(row, self.weights)) for row in self.into(x)])
            return self.out(z.to(x.dtype))

    return Sampled(), points(6, 3), {"loss": nn.CrossEntropyLoss()}


@healthy
def probabilities_nll():
    torch.manual_seed(0)

    def circuit(inputs, weights):
        for row in weights:
            qml.AngleEmbedding(inputs, wires=range(2), rotation="Y")
            qml.StronglyEntanglingLayers(row[None], wires=range(2))
        return qml.probs(wires=[0])

    class Born(nn.Module):
        def __init__(self):
            super().__init__()
            self.q = torch_layer(circuit, 2, {"weights": (3, 2, 3)})

        def forward(self, x):
            return torch.log(self.q(x) + 1e-9)

    return Born(), points(20, 2), {"loss": nn.NLLLoss()}


@healthy
def lightning_module_like():
    torch.manual_seed(0)

    class LitHybrid(nn.Module):
        def __init__(self, lr=0.02):
            super().__init__()
            self.lr, self.criterion = lr, nn.CrossEntropyLoss()
            self.net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.1), rings_layer(3), nn.Linear(3, 2))

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            x, y = batch
            return self.criterion(self(x), y)

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=self.lr)

    return LitHybrid(), points(16, 4)


@healthy
def qiskit_estimator():
    from qiskit import QuantumCircuit
    from qiskit.circuit.library import real_amplitudes, zz_feature_map
    from qiskit.quantum_info import SparsePauliOp

    torch.manual_seed(0)
    encode, ansatz = zz_feature_map(2, reps=1), real_amplitudes(2, reps=1)
    circuit = QuantumCircuit(2)
    circuit.compose(encode, inplace=True)
    circuit.compose(ansatz, inplace=True)
    observables = [SparsePauliOp("IZ"), SparsePauliOp("ZI")]
    layer = estimator_network(circuit, list(encode.parameters), list(ansatz.parameters), observables)
    x, y = points(8, 4)
    return nn.Sequential(nn.Linear(4, 2), layer, nn.Linear(2, 2)), (x, y.numpy()), {"loss": nn.CrossEntropyLoss()}


# ---- messages --------------------------------------------------------------------------------------------------------

MESSAGES = [
    {
        "type": "TypeError",
        "message": "QNode must include an argument with name inputs for inputting data",
        "cause": "TorchLayer needs a circuit argument called `inputs`; it is named otherwise, or a decorator hides it",
        "fix": "def circuit(inputs, weights); transforms outside @qml.qnode",
        "source": PENNYLANE + "5843",
    },
    {
        "type": "RuntimeError",
        "message": "Expected size for first two dimensions of batch2 tensor to be: [256, 2] but got: [1, 2].",
        "cause": "TorchQuantum's device holds states for a batch of 1 and gets a batch of 256",
        "fix": "q_device.reset_states(bsz=x.shape[0]) in forward",
        "source": "https://github.com/mit-han-lab/torchquantum/issues/213",
    },
    {
        "type": "RuntimeError",
        "message": "Trying to create tensor with negative dimension -6880: [10, -6880]",
        "cause": "more features (6912) than the amplitude encoder has amplitudes (2**n = 32)",
        "fix": "reduce the features to 2**n, or more qubits",
        "source": "https://github.com/mit-han-lab/torchquantum/issues/214",
    },
    {
        "type": "RuntimeError",
        "message": "all elements of input should be between 0 and 1",
        "cause": "BCELoss gets values that are no probabilities, such as expectation values in [-1, 1] or logits",
        "fix": "(z + 1) / 2, a sigmoid, or BCEWithLogitsLoss",
        "source": "https://github.com/ray-project/ray/issues/17117",
    },
    {
        "type": "RuntimeError",
        "message": "all elements of target should be between 0 and 1",
        "cause": "labels other than 0 and 1 (such as -1 and 1, or class numbers) in BCELoss",
        "fix": "labels (y + 1) / 2, or renumber them",
        "source": "https://github.com/pytorch/pytorch/issues/123339",
    },
    {
        "type": "RuntimeError",
        "message": "Function ExecuteTapesBackward returned an invalid gradient at index 0 - got [] but expected shape "
        "compatible with [8]",
        "cause": "features of an amplitude embedding (StatePrep) need a gradient, which adjoint does not give",
        "fix": "diff_method='backprop', or no trainable layer before the embedding",
        "source": PENNYLANE + "4964",
    },
    {
        "type": "QuantumFunctionError",
        "message": "The default.qubit device does not provide a native method for computing the jacobian.",
        "cause": "diff_method='device' on a simulator that has no gradient of its own",
        "fix": "diff_method='backprop', 'adjoint' or 'best'",
        "source": "https://docs.pennylane.ai/en/stable/introduction/unsupported_gradients.html",
    },
    {
        "type": "ValueError",
        "message": "Weights tensor must have last dimension of length 4; got 3",
        "cause": "weight_shapes does not fit the number of wires of BasicEntanglerLayers",
        "fix": "qml.BasicEntanglerLayers.shape(n_layers, n_wires)",
        "source": "common (raised by pennylane/templates/layers/basic_entangler.py)",
    },
    {
        "type": "ValueError",
        "message": "State must be of length 16; got length 10. Use the `pad_with` argument for automated padding.",
        "cause": "the number of features of an amplitude embedding is no power of two (2**wires)",
        "fix": "pad_with=0.0, or 16 features",
        "source": "common (raised by pennylane/ops/qubit/state_preparation.py)",
    },
    {
        "type": "TypeError",
        "message": "Grad only applies to real scalar-output functions. Try jacobian, elementwise_grad or "
        "holomorphic_grad.",
        "cause": "the circuit returns a density matrix (complex, no scalar), which a gradient is asked of",
        "fix": "a real number as cost, such as an expectation value or a real function of the matrix",
        "source": PENNYLANE + "4236",
    },
    {
        "type": "QiskitMachineLearningError",
        "message": "'Invalid input dimension! Received torch.Size([1, 8]) and expected input compatible to 2'",
        "cause": "the tensor handed to TorchConnector is wider than the network has input parameters",
        "fix": "a layer before it with as many outputs as input_params",
        "source": "common (raised by qiskit_machine_learning/connectors/torch_connector.py)",
    },
    {
        "type": "RuntimeError",
        "message": "CUDA error: device-side assert triggered",
        "cause": "on the GPU a label is not below the number of outputs (more classes than the last layer has)",
        "fix": "as many outputs as classes; run once on the CPU to see the real message",
        "source": "https://github.com/XanaduAI/quantum-transfer-learning/issues/6",
    },
    {
        "type": "IndexError",
        "message": "Dimension out of range (expected to be in range of [-1, 0], but got 1)",
        "cause": "an output without class axis, as squeeze() leaves of one sample or one value, meets dim=1",
        "fix": "squeeze(-1) or reshape(len(x), -1), dim=-1",
        "source": "https://github.com/layumi/Person_reID_baseline_pytorch/issues/77",
    },
    {
        "type": "RuntimeError",
        "message": "Only Tensors of floating point and complex dtype can require gradients",
        "cause": "angles or inputs were made of whole numbers and are to be trained",
        "fix": "torch.tensor([...], dtype=torch.float32)",
        "source": "common",
    },
    {
        "type": "TypeError",
        "message": "cross_entropy_loss(): argument 'input' (position 1) must be Tensor, not tuple",
        "cause": "the model returns several things (a QNode's tuple, logits and features), the loss takes one tensor",
        "fix": "loss(model(x)[0], y), or torch.stack of the circuit's results",
        "source": "common",
    },
    {
        "type": "RuntimeError",
        "message": "Expected floating point type for target with class probabilities, got Long",
        "cause": "one-hot labels of whole numbers in cross-entropy, which takes class numbers or floating-point shares",
        "fix": "labels.argmax(-1), or labels.float()",
        "source": "https://github.com/George730/E-ResGAT/issues/5",
    },
    {"type": "AssertionError", "message": "", "cause": "unknown", "fix": "", "source": "common"},
    {"type": "KeyError", "message": "1", "cause": "unknown", "fix": "", "source": "common"},
    {
        "type": "AttributeError",
        "message": "'NoneType' object has no attribute '_trunc'",
        "cause": "unknown",
        "fix": "",
        "source": PENNYLANE + "6213",
    },
    {
        "type": "RuntimeError",
        "message": "CUDA error: unspecified launch failure",
        "cause": "unknown",
        "fix": "",
        "source": "common",
    },
]
