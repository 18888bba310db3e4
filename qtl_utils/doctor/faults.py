"""Broken models: for every symptom that users report, one small function that breaks a healthy model, and the cure.

A fault returns what `diagnose` takes, with the model first. FAULTS names the check that must find it; the doctor's
tests and the troubleshooting notebooks run all of them. HEALTHY are models that must raise no alarm.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import pennylane as qml
import torch
from torch import nn
from torchvision.models import VisionTransformer, resnet18

from qtl_utils.circuits.ansatze import make_circuit
from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.models.backbones import Backbone
from qtl_utils.models.heads import HeadSettings, make_head
from qtl_utils.models.network import Network

N_FEATURES = 8
N_QUBITS = 3
BATCH = 4


@dataclass(frozen=True)
class Fault:
    """A symptom: `broken()` and `mended()` give the arguments of `diagnose`, `check` is who must find it.

    `number` is the symptom's in the troubleshooting notebooks, `thread` a public report of it.
    """

    number: int
    symptom: str
    check: str
    theme: str
    broken: Callable[[], dict]
    mended: Callable[[], dict]
    thread: str = ""


FAULTS: dict[str, Fault] = {}
PENNYLANE = "https://github.com/PennyLaneAI/pennylane/issues/"
QTL = "https://github.com/XanaduAI/quantum-transfer-learning/issues/"
FORUM = "https://discuss.pennylane.ai/t/"


def fault(number: int, name: str, symptom: str, check: str, theme: str, thread: str = "") -> Callable:
    """Decorator: a function `f(broken)` that gives `diagnose`'s arguments, broken or mended."""

    def register(function):
        FAULTS[name] = Fault(number, symptom, check, theme, partial(function, True), partial(function, False), thread)
        return function

    return register


# ---- parts -----------------------------------------------------------------------------------------------------------


def points(seed: int = 0, n: int = BATCH, features: int = N_FEATURES) -> tuple[torch.Tensor, torch.Tensor]:
    """Random features and two classes that differ in the first of them."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(n) % 2)[torch.randperm(n, generator=generator)]
    samples = torch.randn((n, features), generator=generator)
    samples[:, 0] += 2.0 * labels - 1.0
    return samples, labels


def images(seed: int = 0, n: int = 4, size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images, and labels that their brightness tells."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(n) % 2)[torch.randperm(n, generator=generator)]
    return torch.randn((n, 3, size, size), generator=generator) + labels.view(-1, 1, 1, 1), labels


def strongly_entangling(inputs, weights):
    """The circuit of most tutorials: angles in, StronglyEntanglingLayers, <Z> of every wire."""
    qml.AngleEmbedding(inputs, wires=range(N_QUBITS))
    qml.StronglyEntanglingLayers(weights, wires=range(N_QUBITS))
    return [qml.expval(qml.PauliZ(i)) for i in range(N_QUBITS)]


def entangling(inputs, weights):
    """The same with BasicEntanglerLayers, which has no idle angle."""
    qml.AngleEmbedding(inputs, wires=range(N_QUBITS), rotation="Y")
    qml.BasicEntanglerLayers(weights, wires=range(N_QUBITS))
    return [qml.expval(qml.PauliZ(i)) for i in range(N_QUBITS)]


class Circuit(nn.Module):
    """A bare QNode in a module, as users write it; `gather` makes one tensor of the list it returns."""

    def __init__(self, node=None, gather=lambda out, x: torch.stack(out, dim=-1).to(x.dtype), shape=(2, N_QUBITS)):
        super().__init__()
        self.node = node or qml.QNode(entangling, qml.device("default.qubit", wires=N_QUBITS), interface="torch")
        self.weights = nn.Parameter(0.3 * torch.randn(shape))
        self.gather = gather

    def forward(self, x):
        return self.gather(self.node(x, self.weights), x)


def dressed(circuit: nn.Module, width: int = N_QUBITS, classes: int = 2) -> nn.Module:
    """Linear -> tanh -> circuit -> Linear."""
    return nn.Sequential(nn.Linear(N_FEATURES, N_QUBITS), nn.Tanh(), circuit, nn.Linear(width, classes))


def head(variant: str = "A", depth: int = 2, **settings) -> nn.Module:
    """A head of the study, on few features."""
    return make_head(variant, HeadSettings(N_FEATURES, 2, n_qubits=N_QUBITS, depth=depth, **settings), seed=0)


def node(function=entangling, device: str = "default.qubit", wires: int = N_QUBITS, method="best", shots=None, seed=0):
    """A QNode for torch."""
    device = qml.device(device, wires=wires, **({"seed": seed} if shots else {}))
    return qml.QNode(function, device, interface="torch", diff_method=method, shots=shots)


def torch_layer(function=strongly_entangling, shape=(2, N_QUBITS, 3), **options) -> nn.Module:
    """PennyLane's TorchLayer."""
    return qml.qnn.TorchLayer(node(function, **options), {"weights": shape})


def torch_connector(input_gradients: bool = True) -> nn.Module:
    """Qiskit Machine Learning's TorchConnector around the same kind of circuit."""
    from qiskit_machine_learning.connectors import TorchConnector

    from qtl_utils.circuits.qiskit_layer import convert, estimator_qnn

    network = estimator_qnn(convert(entangling, N_QUBITS, (1, N_QUBITS)))
    network.input_gradients = input_gradients
    return TorchConnector(network, initial_weights=np.full(N_QUBITS, 0.3))


def case(model, batch=None, **options) -> dict:
    """The arguments of `diagnose`."""
    return {"model_or_factory": model, "batch": batch or points(), **options}


# ---- graph and gradients ---------------------------------------------------------------------------------------------


@fault(10, "detached", "no gradient: outputs copied to a new tensor", "differentiable", "gradients", f"{PENNYLANE}4202")
def detached(broken):
    def gather(out, x):
        if broken:
            return torch.tensor([[value[i] for value in out] for i in range(len(x))], dtype=x.dtype)
        return torch.stack(out, dim=-1).to(x.dtype)

    return case(dressed(Circuit(gather=gather)))


@fault(
    10,
    "no_input_gradients",
    "layers before Qiskit's circuit get no gradient",
    "gradient_reaches",
    "gradients",
    "https://github.com/qiskit-community/qiskit-machine-learning/issues/588",
)
def no_input_gradients(broken):
    return case(dressed(torch_connector(input_gradients=not broken)))


@fault(6, "sign", "the loss stays: a sign in the forward pass", "differentiable", "gradients", f"{FORUM}3870")
def sign(broken):
    class Binarise(nn.Module):
        def forward(self, x):
            return torch.sign(x) if broken else torch.tanh(x)

    return case(nn.Sequential(nn.Linear(N_FEATURES, N_QUBITS), Binarise(), Circuit(), nn.Linear(N_QUBITS, 2)))


@fault(22, "dead_angles", "angles that no gate uses", "dead_angles", "gradients", f"{QTL}17")
def dead_angles(broken):
    def circuit(inputs, weights):
        qml.AngleEmbedding(inputs, wires=range(N_QUBITS), rotation="Y")
        qml.BasicEntanglerLayers(weights[:2], wires=range(N_QUBITS))
        return [qml.expval(qml.PauliZ(i)) for i in range(N_QUBITS)]

    return case(dressed(Circuit(node(circuit), shape=(5 if broken else 2, N_QUBITS))))


@fault(14, "tuple_shape", "wrong shape for a batch from TorchLayer", "forward", "gradients", f"{PENNYLANE}5762")
def tuple_shape(broken):
    def circuit(inputs, weights):
        found = strongly_entangling(inputs, weights)
        return tuple(found) if broken else found

    return case(dressed(torch_layer(circuit)))


@fault(
    14,
    "mixed_batch",
    "a sample's output depends on its neighbours",
    "batch",
    "gradients",
    "https://github.com/mit-han-lab/torchquantum/issues/194",
)
def mixed_batch(broken):
    def gather(out, x):
        return torch.stack(out, dim=0).reshape(len(x), -1).to(x.dtype) if broken else torch.stack(out, -1).to(x.dtype)

    return case(dressed(Circuit(gather=gather)))


class _AveragedOnceTooOften(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient / len(gradient)


class _Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.sin(x)

    @staticmethod
    def backward(ctx, gradient):
        return 0.5 * gradient


@fault(
    14,
    "batch_gradient",
    "the gradient of a batch is not the sum of its samples'",
    "batch",
    "gradients",
    "https://github.com/qiskit-community/qiskit-machine-learning/issues/100",
)
def batch_gradient(broken):
    average = _AveragedOnceTooOften.apply if broken else (lambda x: x)
    gather = lambda out, x: average(torch.stack(out, dim=-1).to(x.dtype))  # noqa: E731
    return case(dressed(Circuit(gather=gather)))


@fault(14, "wrong_backward", "a hand-written backward pass is wrong", "gradient_correct", "gradients")
def wrong_backward(broken):
    class Encode(nn.Module):
        def forward(self, x):
            return _Halved.apply(x) if broken else torch.sin(x)

    return case(nn.Sequential(nn.Linear(N_FEATURES, N_QUBITS), Encode(), Circuit(), nn.Linear(N_QUBITS, 2)))


@fault(15, "finite_differences", "finite differences with the default step", "gradient_correct", "gradients")
def finite_differences(broken):
    method = "finite-diff" if broken else "backprop"
    circuit = qml.transforms.broadcast_expand(node(method=method))
    return case(dressed(Circuit(circuit)))


@fault(15, "spsa", "SPSA in place of a gradient", "gradient_correct", "gradients")
def spsa(broken):
    circuit = qml.transforms.broadcast_expand(node(method="spsa" if broken else "backprop"))
    return case(dressed(Circuit(circuit)))


# ---- shapes, dtypes, devices and simulators --------------------------------------------------------------------------


@fault(1, "lists", "'list' object has no attribute 'float'", "forward", "simulators", f"{QTL}22")
def lists(broken):
    gather = (lambda out, x: out.float()) if broken else (lambda out, x: torch.stack(out, dim=-1).float())
    return case(dressed(Circuit(gather=gather)))


@fault(2, "loop", "training takes hours: a loop over the batch", "per_sample_loop", "simulators", f"{FORUM}357")
def loop(broken):
    class Looping(Circuit):
        def forward(self, x):
            return torch.stack([torch.stack(self.node(sample, self.weights)) for sample in x]).to(x.dtype)

    return case(dressed(Looping() if broken else Circuit()))


@fault(3, "devices", "tensors on different devices", "devices", "simulators", f"{PENNYLANE}1290")
def devices(broken):
    model = dressed(Circuit())
    if broken:
        model[3] = model[3].to("meta")  # any other device does
    return case(model)


@fault(5, "broadcast", "NotImplementedError: broadcasted tapes", "forward", "simulators", f"{PENNYLANE}6078")
def broadcast(broken):
    return case(dressed(torch_layer(method="parameter-shift" if broken else "backprop")))


@fault(7, "dtype", "mat1 and mat2 must have the same dtype", "forward", "simulators", f"{FORUM}3870")
def dtype(broken):
    def gather(out, x):
        return torch.stack(out, dim=-1) if broken else torch.stack(out, dim=-1).to(x.dtype)

    return case(dressed(Circuit(gather=gather)))


@fault(
    8,
    "adjoint_shots",
    "adjoint refuses shots, states and probabilities",
    "forward",
    "simulators",
    "https://github.com/PennyLaneAI/pennylane-lightning/issues/808",
)
def adjoint_shots(broken):
    return case(dressed(Circuit(node(method="adjoint", shots=100 if broken else None))))


@fault(9, "another_method", "the method asked for is not the one used", "method", "simulators", f"{PENNYLANE}4188")
def another_method(broken):
    circuit = node(method="best", shots=2_000 if broken else None)
    circuit = qml.transforms.broadcast_expand(circuit) if broken else circuit
    return case(dressed(Circuit(circuit, shape=(1, N_QUBITS))))


@fault(9, "slow_method", "a method for hardware on a simulator", "time", "simulators", f"{PENNYLANE}4188")
def slow_method(broken):
    circuit = node(method="parameter-shift" if broken else "backprop")
    return case(dressed(Circuit(qml.transforms.broadcast_expand(circuit) if broken else circuit, shape=(2, N_QUBITS))))


@fault(13, "unseeded", "results differ from run to run", "reproducible", "simulators", f"{FORUM}1731")
def unseeded(broken):
    def make():
        model = dressed(Circuit())
        rng = np.random.default_rng() if broken else np.random.default_rng(0)
        model[2].weights.data = torch.from_numpy(rng.normal(size=(2, N_QUBITS))).float()
        return model

    return case(make)


@fault(13, "precision", "float64 creeps in behind the circuit", "dtypes", "simulators", f"{PENNYLANE}5977")
def precision(broken):
    def gather(out, x):
        return torch.stack(out, dim=-1) if broken else torch.stack(out, dim=-1).to(x.dtype)

    model = dressed(Circuit(gather=gather))
    return case(nn.Sequential(*model[:3], model[3].double() if broken else model[3]))


@fault(16, "few_shots", "shot noise drowns the gradient", "shot_noise", "simulators")
def few_shots(broken):
    circuit = node(method="parameter-shift", shots=2 if broken else 20_000)
    return case(dressed(Circuit(qml.transforms.broadcast_expand(circuit), shape=(1, N_QUBITS))))


@fault(17, "backprop_memory", "backprop runs out of memory", "memory", "simulators", f"{PENNYLANE}6297")
def backprop_memory(broken):
    circuit = node(method="backprop" if broken else "adjoint")
    return case(dressed(Circuit(circuit, shape=(6, N_QUBITS))), memory_limit=10_000)


@fault(19, "device_seed", "torch.manual_seed does not fix sampled results", "reproducible", "simulators")
def device_seed(broken):
    def make():
        device = qml.device("default.qubit", wires=N_QUBITS, seed="global" if broken else 0)
        circuit = qml.QNode(entangling, device, interface="torch", diff_method="parameter-shift", shots=2_000)
        return dressed(Circuit(qml.transforms.broadcast_expand(circuit), shape=(1, N_QUBITS)))

    return case(make)


@fault(23, "frozen_angles", "freezing the angles breaks the circuit", "forward", "simulators", f"{PENNYLANE}7284")
def frozen_angles(broken):
    model = dressed(Circuit(node(method="parameter-shift" if broken else "backprop")))
    model[2].weights.requires_grad_(False)
    return case(model)


@fault(25, "not_saved", "a saved model comes back different", "saving", "simulators", f"{PENNYLANE}2204")
def not_saved(broken):
    class Mixed(Circuit):
        def __init__(self):
            super().__init__()
            mix = torch.eye(N_QUBITS) + 0.1 * torch.randn(N_QUBITS, N_QUBITS)
            if broken:
                self.mix = mix
            else:
                self.register_buffer("mix", mix)

        def forward(self, x):
            return super().forward(x @ self.mix)

    return case(dressed(Mixed()))


# ---- optimisation ----------------------------------------------------------------------------------------------------


def adam(model: nn.Module, angles: float = 0.02, others: float = 0.01) -> torch.optim.Adam:
    """Adam with a group for the angles of a head and one for the rest."""
    layer = next(m for m in model.modules() if isinstance(m, QuantumLayer))
    rest = [p for p in model.parameters() if p is not layer.weights]
    return torch.optim.Adam([{"params": [layer.weights], "lr": angles}, {"params": rest, "lr": others}])


@fault(4, "no_travel", "the angles hardly move", "travel", "optimisation", f"{FORUM}1111")
def no_travel(broken):
    model = head()
    optimizer = adam(model, 0.0004 if broken else 0.04, 0.0004)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.1)
    samples = {"train": points(n=60)[0]}
    return case(model, optimizer=optimizer, scheduler=scheduler, data=samples, epochs=30)


@fault(4, "no_difference", "the circuit makes no difference", "zeroed_angles", "optimisation", f"{FORUM}1111")
def no_difference(broken):
    return case(head(angle_init=0.001 if broken else 1.0), history=history(loss=(0.7, 0.5, 0.4)))


@fault(4, "forgotten_angles", "angles are not in the optimiser", "updates", "optimisation", f"{FORUM}1111")
def forgotten_angles(broken):
    model = head()
    classical = [*model[0].parameters(), *model[3].parameters()]
    return case(model, optimizer=torch.optim.Adam(classical if broken else model.parameters(), lr=0.01))


@fault(4, "jumping_angles", "angles jump by more than a radian", "updates", "optimisation")
def jumping_angles(broken):
    model = head()
    return case(model, optimizer=adam(model, angles=3.0 if broken else 0.05))


@fault(6, "stuck", "the loss stays at ln 2", "stuck_loss", "optimisation", f"{QTL}19")
def stuck(broken):
    return case(
        head(angle_init=1.0),
        history=history(loss=(0.6935, 0.6931, 0.6932, 0.6931) if broken else (0.69, 0.5, 0.4, 0.3)),
    )


@fault(18, "double_softmax", "softmax before cross-entropy", "probabilities", "optimisation")
def double_softmax(broken):
    model = head()
    return case(nn.Sequential(model, nn.Softmax(dim=-1)) if broken else model)


@fault(18, "bare_expectations", "expectation values as logits", "probabilities", "optimisation")
def bare_expectations(broken):
    model = head()
    return case(model[:3] if broken else model)


@fault(
    20,
    "barren_plateau",
    "gradients vanish with qubits and depth",
    "plateau",
    "optimisation",
    "https://arxiv.org/abs/1803.11173",
)
def barren_plateau(broken):
    n = 12 if broken else N_QUBITS
    settings = HeadSettings(N_FEATURES, 2, n, 12, "strongly_entangling", angle_init=2.0 if broken else 0.3)
    return case(make_head("A", settings, seed=0))


@fault(20, "dead_start", "no gradient at the start: all angles at zero", "plateau", "optimisation", f"{FORUM}3870")
def dead_start(broken):
    def circuit(inputs, weights):
        for k in range(2):
            for i in range(N_QUBITS):
                qml.RY(weights[k, i], wires=i)
                qml.RZ(inputs[..., i], wires=i)
        for i in range(N_QUBITS):
            qml.RY(weights[2, i], wires=i)
        return [qml.expval(qml.PauliZ(i)) for i in range(N_QUBITS)]

    layer = Circuit(node(circuit), shape=(3, N_QUBITS))
    layer.weights.data = torch.zeros(3, N_QUBITS) if broken else 0.5 * torch.ones(3, N_QUBITS)
    return case(dressed(layer))


@fault(21, "saturated", "the tanh encoding saturates", "saturation", "optimisation")
def saturated(broken):
    samples, labels = points()
    return case(head(depth=4), (samples * 50 if broken else samples, labels))


@fault(26, "mixed_readout", "outputs are products of inputs", "readout_mixing", "optimisation")
def mixed_readout(broken):
    settings = HeadSettings(N_FEATURES, 2, n_qubits=4, depth=6 if broken else 4)
    return case(make_head("A", settings, seed=0))


@fault(
    27, "empty_sample", "NaN from amplitude embedding of a sample without any", "finite", "optimisation", f"{FORUM}8624"
)
def empty_sample(broken):
    def circuit(inputs, weights):
        qml.AmplitudeEmbedding(inputs, wires=range(N_QUBITS), normalize=True)
        qml.StronglyEntanglingLayers(weights, wires=range(N_QUBITS))
        return [qml.expval(qml.PauliZ(i)) for i in range(N_QUBITS)]

    pre = nn.Linear(N_FEATURES, 2**N_QUBITS)
    nn.init.constant_(pre.bias, -0.2)
    samples, labels = points()
    samples[1] = 0.0
    between = nn.ReLU() if broken else nn.Identity()
    return case(nn.Sequential(pre, between, torch_layer(circuit), nn.Linear(N_QUBITS, 2)), (samples, labels))


@fault(28, "blind_encoding", "the same output for every sample", "inputs_matter", "gradients", f"{FORUM}3852")
def blind_encoding(broken):
    def circuit(inputs, weights):
        qml.AngleEmbedding(inputs, wires=range(N_QUBITS), rotation="Z" if broken else "Y")
        qml.BasicEntanglerLayers(weights, wires=range(N_QUBITS))
        return [qml.expval(qml.PauliZ(i)) for i in range(N_QUBITS)]

    return case(dressed(Circuit(node(circuit))))


@fault(29, "shrunk_features", "predictions stay in a narrow band", "encoding_range", "optimisation", f"{FORUM}4558")
def shrunk_features(broken):
    def circuit(inputs, weights):
        return entangling((0.01 if broken else np.pi / 2) * inputs, weights)

    return case(dressed(Circuit(node(circuit))))


@fault(30, "lost_length", "accuracy at chance, whatever the circuit", "amplitude", "optimisation", f"{FORUM}3648")
def lost_length(broken):
    def circuit(inputs, weights):
        padded = inputs if broken else torch.cat([inputs[..., :-1], torch.ones_like(inputs[..., :1])], -1)
        qml.AmplitudeEmbedding(padded, wires=range(N_QUBITS), normalize=True)
        qml.StronglyEntanglingLayers(weights, wires=range(N_QUBITS))
        return [qml.expval(qml.PauliZ(i)) for i in range(N_QUBITS)]

    samples, labels = points(n=16)
    samples[:, 0] = 0.0  # which tells the classes elsewhere
    samples = (1 + 0.05 * samples) * (1 + 2 * labels).unsqueeze(-1)
    return case(nn.Sequential(torch_layer(circuit), nn.Linear(N_QUBITS, 2)), (samples, labels))


@fault(31, "signed_labels", "the loss falls without end: labels -1 and 1", "labels", "evaluation")
def signed_labels(broken):
    samples, labels = points()
    labels = (2.0 * labels - 1 if broken else labels.float()).unsqueeze(-1)
    return case(dressed(Circuit(), classes=1), (samples, labels), loss=nn.BCEWithLogitsLoss())


@fault(24, "scheduler_first", "the scheduler steps before the optimiser", "scheduler_order", "optimisation", f"{QTL}19")
def scheduler_first(broken):
    model = head(angle_init=1.0)
    optimizer = adam(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)
    rates = [0.02, 0.002, 0.002, 0.0002] if broken else [0.02, 0.02, 0.002, 0.002]
    table = history(loss=(0.7, 0.6, 0.5, 0.4)).assign(lr=rates)
    return case(model, optimizer=optimizer, scheduler=scheduler, history=table)


# ---- evaluation ------------------------------------------------------------------------------------------------------


def history(loss=(0.7, 0.5, 0.4), **columns) -> pd.DataFrame:
    """A training history as `diagnose` takes it, a row per epoch."""
    return pd.DataFrame({"train_loss": loss, **columns})


@fault(
    11,
    "batchnorm",
    "the frozen backbone changes",
    "frozen_buffers",
    "evaluation",
    "https://github.com/pytorch/pytorch/issues/86590",
)
def batchnorm(broken):
    backbone = resnet18(num_classes=N_FEATURES).requires_grad_(False)
    model = Network(backbone, head()).train()
    if not broken:
        model.backbone.eval()
    return case(model, images())


@fault(12, "best_on_test", "the best test epoch is reported as accuracy", "selection", "evaluation")
def best_on_test(broken):
    test = [0.90, 0.96, 0.93, 0.94]
    table = history((0.7, 0.5, 0.4, 0.3), test_accuracy=test, selected=[False, broken, False, not broken])
    return case(head(angle_init=1.0), history=table)


@fault(12, "leakage", "the same images in train and test", "leakage", "evaluation")
def leakage(broken):
    train = points(1, 20)[0]
    test = points(2, 10)[0]
    return case(head(), data={"train": train, "test": torch.cat([test, train[:3]]) if broken else test})


@fault(12, "scaler_on_all", "the scaler was fitted on all data", "leakage", "evaluation")
def scaler_on_all(broken):
    from sklearn.preprocessing import StandardScaler

    train = points(1, 20)[0]
    test = points(2, 10)[0]
    scaler = StandardScaler().fit((torch.cat([train, test]) if broken else train).numpy())
    return case(head(), data={"train": train, "test": test}, scaler=scaler)


# ---- the model of 2019 -----------------------------------------------------------------------------------------------


class DressedQuantumNet(nn.Module):
    """The head of arXiv:1912.08278 as its code has it, but for `torch.stack`: 15 layers of angles, 6 used, a loop."""

    def __init__(self, n_qubits: int = 4, depth: int = 6, most: int = 15, n_features: int = 512):
        super().__init__()
        self.n_qubits = n_qubits
        self.depth = depth
        self.most = most
        self.pre_net = nn.Linear(n_features, n_qubits)
        self.post_net = nn.Linear(n_qubits, 2)
        self.q_params = nn.Parameter(0.01 * torch.randn(most * n_qubits))
        self.node = qml.QNode(self.circuit, qml.device("default.qubit", wires=n_qubits), interface="torch")

    def circuit(self, angles, flat):
        weights = flat.reshape(self.most, self.n_qubits)
        return make_circuit("mari2019", "tanh", self.n_qubits)(angles, weights[: self.depth])

    def forward(self, features):
        angles = torch.tanh(self.pre_net(features)) * np.pi / 2.0
        out = [torch.stack(self.node(sample, self.q_params)).float() for sample in angles]
        return self.post_net(torch.stack(out))


def as_published(
    backbone: Backbone, pixels: torch.Tensor, labels: torch.Tensor, epochs: int = 4, seed: int = 0
) -> dict:
    """The model of 2019 trained as published, on real images: the arguments of `diagnose`.

    backbone: a frozen one with BatchNorm; pixels (N, 3, S, S), labels 0 and 1. A quarter of the images are the test
    set, and the best epoch on it is reported. Adam at 0.0004 in batches of 4, StepLR(10, 0.1), meant for 30 epochs;
    here some of them.
    """
    torch.manual_seed(seed)
    backbone = copy.deepcopy(backbone).requires_grad_(False)
    backbone.frozen = False  # ours keeps itself in eval mode otherwise; that of 2019 did not
    model = Network(backbone, DressedQuantumNet(n_features=backbone.n_features))
    optimizer = torch.optim.Adam(model.head.parameters(), lr=0.0004)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.1)
    order = torch.randperm(len(pixels))
    test, train = order.split([len(pixels) // 4, len(pixels) - len(pixels) // 4])
    rows = []
    for _ in range(epochs):
        losses = []
        for part in train[torch.randperm(len(train))].split(4):
            loss = nn.functional.cross_entropy(model.train()(pixels[part]), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        scheduler.step()
        with torch.no_grad():
            right = (model.eval()(pixels[test]).argmax(-1) == labels[test]).double().mean().item()
        rows.append({"train_loss": np.mean(losses), "test_accuracy": right})
    table = pd.DataFrame(rows)
    table["selected"] = table.index == table["test_accuracy"].idxmax()
    table["selected_on"] = "test"
    found = {"optimizer": optimizer, "scheduler": scheduler, "history": table, "epochs": 30}
    return case(model.train(), (pixels[train[:4]], labels[train[:4]]), data={"train": pixels[train]}, **found)


# ---- healthy models --------------------------------------------------------------------------------------------------


def _trained_like(model: nn.Module) -> dict:
    optimizer = adam(model, 0.04, 0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.1)
    return case(model, optimizer=optimizer, scheduler=scheduler, data={"train": points(n=60)[0]}, epochs=30)


def _joint(frozen: bool, variant: str) -> dict:
    backbone = resnet18(num_classes=N_FEATURES).requires_grad_(not frozen)
    return case(Network(backbone, head(variant)), images())


def _tiny_vit() -> nn.Module:
    size = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    return VisionTransformer(image_size=32, patch_size=8, num_classes=2, **size)


def _one_output(loss: nn.Module) -> dict:
    samples, labels = points()
    return case(dressed(Circuit(), classes=1), (samples, labels.float().unsqueeze(1)), loss=loss)


HEALTHY: dict[str, Callable[[], dict]] = {
    "A": lambda: _trained_like(head()),
    "A-joint": lambda: _joint(False, "A"),
    "B": lambda: _joint(False, "C"),
    "C": lambda: case(head("C")),
    "C-matched": lambda: case(head("C-matched")),
    "strongly_entangling": lambda: case(head(ansatz="strongly_entangling", angle_init=0.3)),
    "reuploading": lambda: case(head(ansatz="reuploading", angle_init=0.3)),
    "TorchLayer": lambda: case(dressed(torch_layer())),
    "TorchConnector": lambda: case(dressed(torch_connector())),
    "bare QNode": lambda: case(dressed(Circuit())),
    "lightning.qubit": lambda: case(head(simulator="lightning.qubit")),
    "ResNet18": lambda: case(resnet18(num_classes=2), images()),
    "VisionTransformer": lambda: case(_tiny_vit(), images()),
    "regression": lambda: _one_output(nn.MSELoss()),
    "sigmoid": lambda: _one_output(nn.BCEWithLogitsLoss()),
    "MLP": lambda: case(nn.Sequential(nn.Linear(N_FEATURES, 16), nn.ReLU(), nn.Linear(16, 2))),
}
