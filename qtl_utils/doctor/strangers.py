"""Models of people who asked for help in public, rebuilt small: what they saw, the true cause, what mended it.

STRANGERS names the check that should say the cause. STRANGERS_HEALTHY are unusual models that must raise no alarm.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pennylane as qml
import torch
from torch import nn
from torch.nn import functional as F

from qtl_utils.doctor.faults import (
    BATCH,
    FORUM,
    N_FEATURES,
    N_QUBITS,
    PENNYLANE,
    Circuit,
    case,
    dressed,
    entangling,
    history,
    node,
    points,
    torch_layer,
)


@dataclass(frozen=True)
class Stranger:
    """A model of someone who asked for help in public: `make()` gives the arguments of `diagnose`.

    `symptom` is what its author saw, `source` the web address, "" where there is none, `check` is who must find it.
    """

    make: Callable[[], dict]
    symptom: str
    cause: str
    fix: str
    source: str
    check: str


STRANGERS: dict[str, Stranger] = {}
STRANGERS_HEALTHY: dict[str, Callable[[], dict]] = {}


def stranger(check: str, cause: str, fix: str, source: str = "") -> Callable:
    """Decorator: a function that gives `diagnose`'s arguments, with the symptom as its docstring."""

    def register(function):
        make = partial(_seeded, function)
        STRANGERS[function.__name__] = Stranger(make, function.__doc__, cause, fix, source, check)
        return function

    return register


def healthy(function: Callable) -> Callable:
    """Decorator: the same for a model that nothing is wrong with."""
    STRANGERS_HEALTHY[function.__name__] = partial(_seeded, function)
    return function


def _seeded(function: Callable) -> dict:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return function()


# ---- parts -----------------------------------------------------------------------------------------------------------

AROUND_Y = partial(qml.AngleEmbedding, rotation="Y")
AMPLITUDES = partial(qml.AmplitudeEmbedding, normalize=True)
STRONG = qml.StronglyEntanglingLayers


def every_z() -> list:
    """<Z> of every wire."""
    return [qml.expval(qml.PauliZ(i)) for i in range(N_QUBITS)]


def one_z():
    """<Z> of the wire that every angle of two StronglyEntanglingLayers reaches but the last Z rotations."""
    return qml.expval(qml.PauliZ(1))


def layer(encode=AROUND_Y, trained=qml.BasicEntanglerLayers, measure=every_z, shape=None, **options) -> nn.Module:
    """A TorchLayer that encodes, applies what is trained, and measures."""

    def circuit(inputs, weights):
        encode(inputs, wires=range(N_QUBITS))
        trained(weights, wires=range(N_QUBITS))
        return measure()

    return torch_layer(circuit, shape or trained.shape(2, N_QUBITS), **options)


class OneByOne(Circuit):
    """A circuit that runs once per sample."""

    def forward(self, x):
        return torch.stack([super(OneByOne, self).forward(sample) for sample in x])


class Shifted(nn.Module):
    """A circuit's output plus a trained bias."""

    def __init__(self, circuit):
        super().__init__()
        self.circuit = circuit
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.circuit(x) + self.bias


# ---- what is encoded -------------------------------------------------------------------------------------------------


@stranger(
    "encoding_range",
    cause="features become angles of a few hundredths of a radian, so that all samples are nearly one state",
    fix="scale features to angles of the order of pi, or train the scale",
    source=f"{FORUM}4558",
)
def shrunk_features():
    """the loss is small, but all predictions lie close to the mean"""

    def encode(inputs, wires):
        angles = torch.sin(0.05 * inputs)
        qml.AngleEmbedding(angles, wires=wires, rotation="Y")
        qml.AngleEmbedding(angles, wires=wires, rotation="Z")

    windows = torch.sin(torch.linspace(0, 6, 19)).unfold(0, N_QUBITS + 1, 1)
    batch = windows[:, :-1], windows[:, -1]
    return case(Shifted(layer(encode, STRONG, one_z)), batch, loss=nn.MSELoss())


@stranger(
    "finite",
    cause="a ReLU makes all features of a sample zero, and normalize=True divides by their norm",
    fix="no ReLU before the embedding, or a constant feature beside the others",
    source=f"{PENNYLANE}7215",
)
def zero_norm():
    """the loss becomes NaN, or the norm of the state is refused, after some steps"""
    model = nn.Sequential(nn.Linear(N_FEATURES, 2**N_QUBITS), nn.ReLU(), layer(AMPLITUDES), nn.Linear(N_QUBITS, 2))
    nn.init.constant_(model[0].bias, -0.2)
    samples, labels = points(n=12)
    samples[5] = 0.0
    return case(model, (samples, labels))


@stranger(
    "amplitude",
    cause="the classes differ in the length of the feature vector, which amplitude embedding divides out",
    fix="give the norm as a feature of its own, or embed angles",
    source=f"{FORUM}3648",
)
def lost_norm():
    """accuracy stays at chance with every circuit that was tried"""
    labels = torch.arange(16) % 2
    directions = 1.0 + 0.05 * torch.randn(16, 2**N_QUBITS)
    model = nn.Sequential(layer(AMPLITUDES, STRONG), nn.Linear(N_QUBITS, 2))
    return case(model, (directions * (1 + 2 * labels).unsqueeze(-1), labels))


@stranger(
    "forward",
    cause="features of any length are embedded as amplitudes without normalize=True",
    fix="AmplitudeEmbedding(..., normalize=True)",
    source=f"{PENNYLANE}365",
)
def not_normalised():
    """ValueError: the state does not have norm 1"""
    circuit = layer(qml.AmplitudeEmbedding)
    return case(nn.Sequential(nn.Linear(N_FEATURES, 2**N_QUBITS), nn.Tanh(), circuit, nn.Linear(N_QUBITS, 2)))


@stranger(
    "inputs_matter",
    cause="RZ on |0> is only a global phase, so that the features never enter",
    fix="Hadamard gates first, or rotation='X' or 'Y'",
    source="https://arxiv.org/abs/2507.10161",
)
def z_encoding():
    """every sample gets the same output, and only the last bias learns"""
    model = nn.Sequential(layer(partial(qml.AngleEmbedding, rotation="Z"), STRONG), nn.Linear(N_QUBITS, 2))
    return case(model, points(n=12, features=N_QUBITS))


@stranger(
    "forward",
    cause="the layer before the embedding has more outputs than the circuit has wires",
    fix="nn.Linear(n_features, n_wires) before the circuit, or upload the features in turns",
    source=f"{PENNYLANE}1156",
)
def too_many_features():
    """ValueError: more features than the embedding takes"""
    return case(nn.Sequential(nn.Linear(N_FEATURES, 2 * N_QUBITS), layer(), nn.Linear(N_QUBITS, 2)))


# ---- batches ---------------------------------------------------------------------------------------------------------


@stranger(
    "forward",
    cause="the loop over `inputs` runs over the samples of a batch, and each gets a wire of its own",
    fix="inputs[..., wire], or AngleEmbedding",
    source=f"{PENNYLANE}5059",
)
def batch_on_wires():
    """WireError: the circuit has wires that the device lacks"""

    def encode(inputs, wires):
        for wire, value in enumerate(inputs):
            qml.RY(value, wires=wire)

    return case(dressed(layer(encode)))


@stranger(
    "batch",
    cause="inputs[i] is a sample and not a feature, and with as many samples as wires no error says so",
    fix="inputs[..., i] for every wire i",
    source=f"{FORUM}1727",
)
def transposed_batch():
    """it runs, but hardly learns"""

    def encode(inputs, wires):
        for i in range(len(inputs)):
            qml.Hadamard(wires=i)
            qml.RZ(2.0 * inputs[i], wires=i)

    return case(dressed(layer(encode)), points(n=N_QUBITS))


@stranger(
    "method",
    cause="lightning.qubit takes a batch, but simulates its samples one after the other",
    fix="default.qubit with backprop while the qubits are few",
    source=f"{FORUM}8548",
)
def lightning_batch():
    """a batch takes as long as a loop over its samples"""
    return case(dressed(layer(trained=STRONG, device="lightning.qubit", method="adjoint")), points(n=128))


@stranger(
    "forward",
    cause="a list of shots gives a result for each entry, which TorchLayer does not join",
    fix="one number of shots",
    source=f"{PENNYLANE}5319",
)
def shot_vector():
    """an error about tuples, today outputs with a row for each entry of the shots instead of each sample"""
    circuit = layer(method="parameter-shift", shots=[1] * 5)
    return case(nn.Sequential(circuit, nn.Linear(N_QUBITS, 2)), points(features=N_QUBITS))


# ---- circuits --------------------------------------------------------------------------------------------------------


@stranger(
    "gradient_reaches",
    cause="the trained block is a QNode of its own: it runs apart, and its gates never join the circuit around it",
    fix="make the block a plain function, with one QNode around everything",
    source=f"{FORUM}4558",
)
def nested_qnode():
    """predictions hardly vary, and the angles never move"""

    def block(weights, wires):
        qml.BasicEntanglerLayers(weights, wires=wires)
        return qml.expval(qml.PauliY(0))

    return case(dressed(layer(trained=node(block), shape=(2, N_QUBITS))))


@stranger(
    "differentiable",
    cause="torch.as_tensor of a nested list copies the numbers, without their graph",
    fix="torch.stack, or cos * identity - 1j * sin * X",
    source="https://github.com/Quantinuum/lambeq/issues/205",
)
def matrix_by_as_tensor():
    """all layers learn except the circuit"""

    def rotations(weights, wires):
        for i in wires:
            c, s = torch.cos(weights[i] / 2), -1j * torch.sin(weights[i] / 2)
            qml.QubitUnitary(torch.as_tensor([[c, s], [s, c]]), wires=i)
        qml.CNOT(wires=[0, 1])

    return case(dressed(layer(trained=rotations, shape=(N_QUBITS,))))


@stranger(
    "dead_angles",
    cause="the index i * (n_layers - 1) + j lets layers share some angles and leaves out the last ones",
    fix="weights of shape (n_layers, angles per layer)",
    source=f"{FORUM}3952",
)
def wrong_stride():
    """near the target but never on it, however many layers"""
    n_layers = 3

    def strided(weights, wires):
        for i in range(n_layers):
            for j in wires:
                qml.RX(weights[i * (n_layers - 1) + j], wires=j)
            for j in wires:
                qml.CNOT(wires=[j, (j + 1) % N_QUBITS])

    samples = torch.rand(8, N_QUBITS)
    model = nn.Sequential(layer(trained=strided, shape=(n_layers * N_QUBITS,)), nn.Linear(N_QUBITS, 1))
    return case(model, (samples, samples[:, :1]), loss=nn.MSELoss())


@stranger(
    "inputs_matter",
    cause="the CNOT is on wires 1 and 2, and nothing joins wire 0, where the data are, with wire 2, which is measured",
    fix="CNOT(wires=[0, 2])",
    source="https://github.com/PennyLaneAI/demos/pull/78",
)
def wrong_cnot():
    """the discriminator cannot tell real from generated data"""

    def encode(inputs, wires):
        qml.RY(inputs[..., 0], wires=0)
        qml.RX(inputs[..., 1], wires=0)

    def discriminate(weights, wires):
        for row in weights:
            for wire, (a, b) in zip((0, 2), row, strict=True):
                qml.RX(a, wires=wire)
                qml.RY(b, wires=wire)
            qml.CNOT(wires=[1, 2])

    circuit = layer(encode, discriminate, lambda: [qml.expval(qml.PauliZ(2))], shape=(2, 2, 2))
    samples, labels = points(n=12, features=2)
    batch = samples, labels.float().unsqueeze(-1)
    return case(nn.Sequential(circuit, nn.Linear(1, 1)), batch, loss=nn.BCEWithLogitsLoss())


@stranger(
    "dead_angles",
    cause="all that is trained are Z rotations, which commute with the measured Z",
    fix="rotate around X or Y, or measure X",
)
def late_z():
    """the angles never change"""

    def phases(weights, wires):
        for row in weights:
            for i in wires:
                qml.RZ(row[i], wires=i)
            for i in wires[:-1]:
                qml.CZ(wires=[i, i + 1])

    return case(dressed(layer(trained=phases, shape=(2, N_QUBITS))))


# ---- gradients -------------------------------------------------------------------------------------------------------


@stranger(
    "gradient_reaches",
    cause="with parameter-shift and max_diff=1 a circuit's derivative is a constant for autograd",
    fix="diff_method='backprop', or max_diff=2",
    source=f"{PENNYLANE}3146",
)
def inner_derivative():
    """the loss of a physics-informed network falls little or not at all, and its angles stay"""

    class Slope(nn.Module):
        def __init__(self, u):
            super().__init__()
            self.u = u

        def forward(self, x):
            with torch.enable_grad():
                x = x.clone().requires_grad_()
                return torch.autograd.grad(self.u(x).sum(), x, create_graph=True)[0]

    circuit = Circuit(qml.transforms.broadcast_expand(node(method="parameter-shift")), shape=(1, N_QUBITS))
    times = torch.linspace(0, 3, 6).unsqueeze(-1)
    u = nn.Sequential(nn.Linear(1, N_QUBITS), circuit, nn.Linear(N_QUBITS, 1))
    return case(Slope(u), (times, torch.cos(times)), loss=nn.MSELoss())


@stranger(
    "finite",
    cause="the slope of a square root is infinite at zero, the distance of a sample from itself",
    fix="add a small number under the root, or take the squared distance",
    source=f"{PENNYLANE}4373",
)
def distance_at_zero():
    """the first loss is finite, and after one step all weights are NaN"""

    class Prototypes(nn.Module):
        def __init__(self, examples):
            super().__init__()
            self.embed = nn.Sequential(nn.Linear(N_FEATURES, N_QUBITS), layer())
            self.register_buffer("examples", examples)

        def forward(self, x):
            apart = self.embed(x).unsqueeze(1) - self.embed(self.examples)  # (B, classes, n_qubits)
            return -apart.square().sum(-1).sqrt()

    samples, labels = points()
    return case(Prototypes(samples[labels.argsort()[[0, -1]]]), (samples, labels))


@stranger(
    "forward",
    cause="tanh keeps its output for the backward pass, and *= overwrites it",
    fix="angles = angles * (math.pi / 2)",
    source="https://github.com/NLESC-JCER/QMCTorch/issues/30",
)
def in_place():
    """RuntimeError: a variable needed for the gradient was modified by an inplace operation"""

    class Squash(nn.Module):
        def forward(self, x):
            angles = torch.tanh(x)
            angles *= math.pi / 2
            return angles

    return case(nn.Sequential(nn.Linear(N_FEATURES, N_QUBITS), Squash(), layer(), nn.Linear(N_QUBITS, 2)))


class Recurrent(nn.Module):
    """A circuit that sees what it gave for the batch before."""

    def __init__(self, keep=lambda h: h):
        super().__init__()
        self.into = nn.Linear(N_FEATURES + N_QUBITS, N_QUBITS)
        self.circuit = layer()
        self.out = nn.Linear(N_QUBITS, 2)
        self.keep = keep
        self.h = None

    def forward(self, x):
        before = x.new_zeros(len(x), N_QUBITS) if self.h is None else self.h
        h = self.circuit(self.into(torch.cat([x, before], dim=-1)))
        self.h = self.keep(h)
        return self.out(h)


@stranger(
    "forward",
    cause="the hidden state stays in the graph of the step before, which has been freed",
    fix="self.h = h.detach()",
)
def stateful():
    """RuntimeError in the second step: backward through the graph a second time"""
    return case(Recurrent())


@stranger(
    "differentiable",
    cause="the circuit's output is detached before it is passed to the neighbours",
    fix="leave out .detach()",
)
def detached_nodes():
    """the circuit of a graph network does not learn"""

    class GraphNetwork(nn.Module):
        def __init__(self):
            super().__init__()
            self.circuit = layer()
            self.out = nn.Linear(N_QUBITS, 2)

        def forward(self, graph):
            nodes, adjacency = graph
            found = self.circuit(nodes).detach()  # (B, nodes, n_qubits)
            return self.out((adjacency @ found).mean(1))

    graphs = torch.randn(BATCH, 5, N_QUBITS), torch.randint(2, (BATCH, 5, 5)).float()
    return case(GraphNetwork(), (graphs, torch.arange(BATCH) % 2))


# ---- shots -----------------------------------------------------------------------------------------------------------


@stranger(
    "shot_noise",
    cause="a conditional gate has no shift rule here, and finite differences divide the noise of shots by a tiny step",
    fix="no shots, or a controlled rotation in place of measurement and condition",
    source=f"{PENNYLANE}5736",
)
def measured_and_conditional():
    """an error in the backward pass; today gradients of 0 or of some 100,000, whatever the shots"""

    def circuit(inputs, weights):
        qml.RX(inputs[0], wires=0)
        qml.cond(qml.measure(0), qml.RY)(weights[0], wires=1)
        return [qml.expval(qml.PauliZ(1))]

    device = qml.device("default.qubit", seed=0)
    sampled = qml.QNode(circuit, device, interface="torch", shots=50, mcm_method="one-shot")
    model = nn.Sequential(nn.Linear(N_FEATURES, 1), OneByOne(sampled, shape=(1,)), nn.Linear(1, 2))
    nn.init.ones_(model[0].bias)
    nn.init.ones_(model[1].weights)
    return case(model)


@stranger(
    "shot_noise",
    cause="Qiskit's sampler measures a finite number of shots",
    fix="more shots, or an EstimatorQNN with StatevectorEstimator, which is exact",
)
def sampled_network():
    """two passes give different outputs, and training is unsteady"""
    from qiskit.primitives import StatevectorSampler
    from qiskit_machine_learning.connectors import TorchConnector
    from qiskit_machine_learning.neural_networks import SamplerQNN

    from qtl_utils.circuits.qiskit_layer import convert

    found = convert(entangling, N_QUBITS, (1, N_QUBITS))
    network = SamplerQNN(
        circuit=found.circuit,
        sampler=StatevectorSampler(default_shots=32),
        input_params=list(found.inputs),
        weight_params=list(found.weights),
        input_gradients=True,
    )
    return case(dressed(TorchConnector(network), width=2**N_QUBITS))


# ---- outputs, losses and numbers -------------------------------------------------------------------------------------


@stranger(
    "labels",
    cause="the sign of <Z> is the prediction, but the labels are 0 and 1: class 0 is never predicted right",
    fix="labels 2 y - 1, or (z + 1) / 2 compared with 0.5",
    source=f"{FORUM}2309",
)
def labels_against_sign():
    """the squared loss falls, and accuracy stays at 0.5"""
    samples, labels = points(n=12)
    table = history(loss=(0.61, 0.4, 0.28, 0.25), train_accuracy=0.5)
    return case(layer(AMPLITUDES, STRONG, one_z), (samples, labels.float()), loss=nn.MSELoss(), history=table)


@stranger(
    "forward",
    cause="<Z> lies between -1 and 1, BCELoss takes probabilities",
    fix="p = (1 + z) / 2, or a linear layer and BCEWithLogitsLoss",
    source=f"{FORUM}4140",
)
def bce_of_expval():
    """the loss stops with an error, or is NaN where the logarithm is written by hand"""
    samples, labels = points(n=12, features=N_QUBITS)
    return case(layer(trained=STRONG, measure=one_z), (samples, labels.float()), loss=nn.BCELoss())


@stranger(
    "probabilities",
    cause="cross_entropy takes logits, and a softmax of probabilities is never far from uniform",
    fix="nll_loss of their logarithm, or a linear layer",
    source=f"{FORUM}3095",
)
def probs_in_functional_loss():
    """the loss stays far above zero, and no prediction is confident"""
    circuit = layer(trained=STRONG, measure=lambda: qml.probs(wires=range(N_QUBITS)))
    batch = points(n=12)[0], torch.randint(2**N_QUBITS, (12,))
    return case(nn.Sequential(nn.Linear(N_FEATURES, N_QUBITS), circuit), batch, loss=F.cross_entropy)


@stranger(
    "forward",
    cause="qml.state is complex, the linear layer after it is real",
    fix="measure probabilities or expectation values, or torch.view_as_real",
    source=f"{PENNYLANE}3948",
)
def complex_state():
    """an error about complex numbers in the layer after the circuit"""

    def circuit(inputs, weights):
        qml.AngleEmbedding(inputs, wires=range(N_QUBITS))
        qml.BasicEntanglerLayers(weights, wires=range(N_QUBITS))
        return qml.state()

    return case(dressed(Circuit(node(circuit), gather=lambda out, x: out), width=2**N_QUBITS))


class Autocast(nn.Module):
    """Linear -> circuit -> Linear, in mixed precision."""

    def __init__(self, circuit):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(N_FEATURES, N_QUBITS), circuit, nn.Linear(N_QUBITS, 2))

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.model(x).float()


@stranger(
    "dtypes",
    cause="autocast runs the layer before the circuit in bfloat16, and .float() afterwards brings no digit back",
    fix="torch.autocast(..., enabled=False) around the circuit and the layer that makes its angles",
)
def autocast():
    """angles have two to three digits"""

    def circuit(inputs, weights):
        return entangling(inputs.float(), weights)

    return case(Autocast(Circuit(node(circuit))))


@stranger(
    "forward",
    cause="autocast hands the simulator angles in bfloat16, which has no complex numbers to compute with",
    fix="torch.autocast(..., enabled=False) around the circuit, and x.float() before it",
)
def autocast_refused():
    """NotImplementedError: "mul_cpu" not implemented for 'BComplex32'"""
    return case(Autocast(layer()))


@stranger(
    "forward",
    cause="dynamo cannot trace PennyLane",
    fix="compile the classical layers only, or torch.compiler.disable on the circuit",
    source="https://github.com/pytorch/pytorch/issues/93624",
)
def compiled():
    """errors from dynamo, or no gain"""
    return case(torch.compile(dressed(layer()), fullgraph=True, backend="eager"))


# ---- healthy models --------------------------------------------------------------------------------------------------


@healthy
def looped_shots():
    """Parameter-shift with shots behind a trained layer, which has to go sample by sample."""
    return case(dressed(OneByOne(node(method="parameter-shift", shots=2_000), shape=(1, N_QUBITS))))


@healthy
def two_outputs():
    """A model that returns logits and embedding, with a loss that takes both."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.circuit = layer()
            self.out = nn.Linear(N_QUBITS, 2)

        def forward(self, x):
            z = self.circuit(x)
            return self.out(z), z

    def loss(outputs, labels):
        logits, z = outputs
        return F.cross_entropy(logits, labels) + 0.01 * z.square().mean()

    return case(Both(), points(n=8, features=N_QUBITS), loss=loss)


@healthy
def one_expval():
    """The textbook classifier: <Z> plus a bias, labels -1 and 1, squared loss."""
    samples, labels = points(n=12, features=N_QUBITS)
    return case(Shifted(layer(trained=STRONG, measure=one_z)), (samples, 2.0 * labels - 1), loss=nn.MSELoss())


@healthy
def one_logit():
    """BCEWithLogitsLoss of one logit, whose first values look like probabilities."""
    model = dressed(layer(), classes=1)
    nn.init.constant_(model[3].bias, 0.5)
    samples, labels = points(n=12)
    return case(model, (samples, labels.float().unsqueeze(-1)), loss=nn.BCEWithLogitsLoss())


@healthy
def detached_state():
    """The stateful model with its state detached."""
    return case(Recurrent(torch.Tensor.detach))
