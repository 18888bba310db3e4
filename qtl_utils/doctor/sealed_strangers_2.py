"""Cases of strangers, second sealed set: public reports of hybrid models that do not train, rebuilt small.

FAULTS: name -> Case, whose `make()` gives (model, batch) or (model, batch, options of `diagnose`), or (model, loader).
MENDED: the same with the stated fix. HEALTHY: models that must not be accused.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pennylane as qml
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

PENNYLANE = "https://github.com/PennyLaneAI/pennylane/issues/"
FORUM = "https://discuss.pennylane.ai/t/"
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


def blobs(n: int, features: int, classes: int = 2, apart: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes around centres of their own, in an order without pattern."""
    y = (torch.arange(n) % classes)[torch.randperm(n)]
    centres = apart * torch.randn(classes, features)
    return centres[y] + 0.6 * torch.randn(n, features), y


def quantum(function, shapes: dict, wires: int, device: str = "default.qubit", **options) -> nn.Module:
    """A circuit `f(inputs, ...)` as PennyLane's TorchLayer."""
    return qml.qnn.TorchLayer(qml.QNode(function, qml.device(device, wires=wires), **options), shapes)


def ladder(n: int, layers: int = 2, device: str = "default.qubit", noise=None, readouts: int | None = None):
    """RY encoding, layers of RZ and RY with a ladder of CNOTs down to wire 0, <Z> of the first `readouts` wires."""

    def circuit(inputs, theta):
        qml.AngleEmbedding(inputs, wires=range(n), rotation="Y")
        for row in theta:
            for i in range(n):
                qml.RZ(row[i, 0], wires=i)
                qml.RY(row[i, 1], wires=i)
            for i in reversed(range(n - 1)):
                qml.CNOT(wires=[i + 1, i])
            if noise is not None:
                for i in range(n):
                    noise(0.02, wires=i)
        return [qml.expval(qml.PauliZ(i)) for i in range(n if readouts is None else readouts)]

    return quantum(circuit, {"theta": (layers, n, 2)}, n, device)


# ---- faults that stop with an error ----------------------------------------------------------------------------------


@case(
    "ValueError in the loss: the batch sizes of input and target differ",
    "view(-1, 4) makes two rows of every image, whose feature map has 8 numbers",
    "x.view(len(x), -1), and a layer with 8 inputs after it",
    "https://github.com/qiskit-community/qiskit-textbook/issues/659",
    r"\bview\(|\breshap\w+|\bflatten",
    r"(rows|outputs|predictions|logits) (per|for (each|every|one|a)) (sample|image)",
    r"(twice|two times|2 times|double) (as many |the )?(rows|outputs|predictions)|\b(two|2) rows",
    r"(samples?|images?|batch)\b.{0,60}\b(split|spread|folded|cut|broken|torn|becomes?|turn\w*) ",
    r"\d+ (rows|outputs|predictions|logits)\b.{0,60}\b\d+ (labels|samples|targets|images)",
)
def two_rows_per_image(mended):
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, kernel_size=3)
            self.fc, self.q, self.out = nn.Linear(8 if mended else 4, 3), ladder(3), nn.Linear(3, 2)

        def forward(self, x):
            x = F.max_pool2d(torch.relu(self.conv(x)), 2)  # (B, 2, 2, 2)
            x = x.view(len(x), -1) if mended else x.view(-1, 4)
            return self.out(self.q(torch.tanh(self.fc(x)) * math.pi / 2))

    y = torch.arange(12) % 2
    images = torch.rand(12, 1, 6, 6)
    images[:, :, :, :3] += y.view(-1, 1, 1, 1)
    return Net(), (images, y), {"loss": nn.CrossEntropyLoss()}


@case(
    "DeviceError in the first forward pass",
    "a noise channel needs a density matrix, and default.qubit simulates pure states (without decomposition for it)",
    "qml.device('default.mixed', ...)",
    FORUM + "1924",
    r"default\.mixed",
    r"density[- ]matri",
    r"(pure[- ]states?|state[- ]?vectors?)\b.{0,100}\b(channels?|noise|noisy)",
    r"(channels?|noise|noisy)\b.{0,100}\b(pure[- ]states?|state[- ]?vectors?|mixed)",
)
def channel_in_state_vector(mended):
    torch.manual_seed(0)
    layer = ladder(2, device="default.mixed" if mended else "default.qubit", noise=qml.DepolarizingChannel)
    return nn.Sequential(nn.Linear(5, 2), layer, nn.Linear(2, 3)), blobs(9, 5, classes=3)


@case(
    "RuntimeError in the forward pass: can't call numpy() on a tensor that requires grad",
    "np.arctan is applied to the circuit's inputs, which come from a trained layer: NumPy cannot follow the gradient",
    "torch.arctan (or qml.math.arctan)",
    "common",
    r"(torch|qml\.math|math)\.(arc)?a?tan",
    r"\btorch('s|\.\w+| functions?| operations?)\b.{0,30}(instead|in place|rather)|(instead|in place) of (numpy|np)\b",
    r"\bnp\.\w+",
    r"numpy('s)? (function|operation|ufunc|math|routine)",
    r"(numpy|np\.).{0,80}\b(by|with|to|for|into) (their |its |the )?torch",
)
def numpy_in_circuit(mended):
    torch.manual_seed(0)

    def circuit(inputs, theta):
        angles = torch.arctan(inputs) if mended else np.arctan(inputs)
        for i in range(3):
            qml.Hadamard(wires=i)
            qml.RY(angles[..., i], wires=i)
        qml.StronglyEntanglingLayers(theta, wires=range(3))
        return qml.probs(wires=[0, 1])

    model = nn.Sequential(nn.Linear(6, 3), quantum(circuit, {"theta": (2, 3, 3)}, 3), nn.Linear(4, 2))
    return model, blobs(10, 6), {"loss": nn.CrossEntropyLoss()}


@case(
    "IndexError in the loss",
    "the data set numbers its classes from 1 (1, 2, 3), cross-entropy from 0",
    "labels - 1",
    "https://github.com/milesial/Pytorch-UNet/issues/291",
    r"(labels?|class\w*|targets?|number\w*|count\w*|indices|index)\b.{0,60}\b(from|at|with) (0|1|zero|one)\b",
    r"\b(0|zero) (to|and|\.\.\.?|-|–|through|up to) ?(2|two|n_classes|c ?- ?1|the number)",
    r"\b(y|labels?|targets?)( - |-)1\b|subtract\w* (1|one)\b|subtract\w* .{0,20}(labels?|targets?)",
    r"(largest|highest|biggest|max\w*|smallest|lowest) (label|class|target)",
    r"(labels?|targets?) .{0,60}(not below|no smaller|beyond|above|exceed\w*) .{0,40}(outputs|classes|columns)",
    r"(3|three|too few|fewer|not enough|more) (outputs|classes|columns|logits)\b.{0,80}\b(labels?|class)",
)
def classes_from_one(mended):
    torch.manual_seed(0)
    x, y = blobs(15, 4, classes=3)
    model = nn.Sequential(nn.Linear(4, 8), nn.ELU(), nn.Linear(8, 4), ladder(4, 1), nn.Linear(4, 3))
    return model, (x, y if mended else y + 1), {"loss": nn.CrossEntropyLoss()}


# ---- silent faults: what is trained ----------------------------------------------------------------------------------


@case(
    "the angles never change, and a saved model has none",
    "the circuits are kept in a Python list, so that their weights are not among model.parameters()",
    "nn.ModuleList",
    "https://github.com/dohun-qml/quantum-neural-network/issues/4",
    r"module ?list",
    r"(plain|python|ordinary|bare|simple) (list|dict|tuple)",
    r"(not|never|un)[ -]?registered",
    r"(not|missing|absent|lack\w*)\b.{0,40}parameters\(\)",
    r"(weights?|angles?|parameters?|circuits?|layers?)\b.{0,60}\b(not (among|in|part of|seen)|outside|hidden|missing|"
    r"unknown|invisible)\b.{0,40}(model|optimi[sz]er|parameters|state_dict)",
)
def circuits_in_a_list(mended):
    torch.manual_seed(0)

    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            circuits = [ladder(2, readouts=1) for _ in range(3)]
            self.circuits = nn.ModuleList(circuits) if mended else circuits
            self.out = nn.Linear(3, 2)

        def forward(self, x):
            found = [q(part) for q, part in zip(self.circuits, x.chunk(3, dim=-1), strict=True)]
            return self.out(torch.cat(found, dim=-1))

    model = Patches()
    return model, blobs(16, 6, apart=0.7), {"optimizer": torch.optim.Adam(model.parameters(), lr=0.05)}


@case(
    "training all but stops after a few epochs, while the loss was still falling",
    "ReduceLROnPlateau has mode='max' and is stepped with the loss: a falling loss counts as no improvement, and the "
    "learning rate is cut every epoch",
    "mode='min' (or step it with the accuracy)",
    "https://github.com/IntelLabs/distiller/issues/240",
    r"mode ?= ?['\"]?(max|min)\b|\bmode\b.{0,30}\b(max|min)\b",
    r"(reducelronplateau|plateau scheduler|scheduler.{0,40}plateau).{0,160}(max|rise|rising|increas|fall|wrong|revers|"
    r"direction|accuracy|loss)",
    r"(learning[- ]rates?|\blr\b|scheduler|rates?)\b.{0,100}\b(falls?|fell|drops?|dropped|cuts?|reduc\w+|lower\w*|"
    r"decay\w*|shr[aiu]nk\w*)\b.{0,80}(although|though|while|every|each|too|improv|still|within|loss)",
)
def plateau_upside_down(mended):
    torch.manual_seed(0)
    x, y = blobs(24, 4, apart=0.8)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), ladder(3), nn.Linear(3, 2))
    optimizer, rows = torch.optim.Adam(model.parameters(), lr=0.05), []
    mode = "min" if mended else "max"
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode=mode, factor=0.2, patience=1)
    for _ in range(12):
        rate, loss = optimizer.param_groups[0]["lr"], F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step(loss.item())
        rows.append({"lr": rate, "train_loss": loss.item()})
    options = {"loss": F.cross_entropy, "optimizer": optimizer, "scheduler": scheduler, "history": rows, "epochs": 30}
    return model, (x, y), options


@case(
    "only the last layer learns; the circuit's angles keep their initial values",
    "everything whose name lacks 'fc' is frozen, to keep the backbone, and the quantum head is named otherwise",
    "freeze model.backbone.parameters() only",
    "common",
    r"(angles?|circuit|weights?|quantum|theta|\bq\b|head)\b.{0,100}\b(frozen|freez\w+|requires_grad)",
    r"(frozen|freez\w+|requires_grad)\b.{0,100}\b(angles?|circuit|quantum|theta|head)",
    r"unfreez\w+",
)
def frozen_by_name(mended):
    torch.manual_seed(0)

    class Transfer(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.qhead, self.fc = ladder(3), nn.Linear(3, 2)

        def forward(self, images):
            return self.fc(self.qhead(2.0 * self.backbone(images)))

    model = Transfer()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "backbone" not in name if mended else "fc" in name
    y = torch.arange(20) % 2
    images = torch.rand(20, 1, 8, 8) * (0.6 + y.view(-1, 1, 1, 1))
    return model, DataLoader(TensorDataset(images, y), batch_size=10, shuffle=True), {"loss": nn.CrossEntropyLoss()}


# ---- silent faults: circuits and simulators --------------------------------------------------------------------------


@case(
    "every prediction is the same, and neither the angles nor the layer before the circuit get a gradient",
    "RY and CNOT keep the amplitudes real, and <Y> of a real state is zero",
    "measure PauliZ or PauliX, or add RX or RZ rotations",
    "common",
    r"pauli[- ]?y\b|<y>|⟨y⟩|\bqml\.y\b|\by[- ](measure|expect|observ|basis)",
    r"real[- ]valued|real (amplitudes|states?|vectors?|gates)|imaginary",
    r"(another|other|different|change the|measured?) (observable|basis|axis|pauli)",
    r"(outputs?|expectation\w*|readouts?|measur\w+)\b.{0,50}\b(always|identically|constantly|exactly|are|is|"
    r"stays?|all) (0|0\.0|zero)\b",
)
def y_of_a_real_state(mended):
    torch.manual_seed(0)

    def circuit(inputs, theta):
        qml.AngleEmbedding(inputs, wires=range(3), rotation="Y")
        qml.BasicEntanglerLayers(theta, wires=range(3), rotation=qml.RY)
        return [qml.expval(qml.PauliX(i) if mended else qml.PauliY(i)) for i in range(3)]

    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), quantum(circuit, {"theta": (2, 3)}, 3), nn.Linear(3, 2))
    return model, blobs(14, 4), {"loss": nn.CrossEntropyLoss()}


@case(
    "the same output for every image",
    "pixels are 0 or 1 and the angle is 2 pi times the pixel: a full turn, which leaves the state as it was",
    "pi times the pixel",
    "common",
    r"\b2(\.0)? ?\*? ?(np\.|math\.|torch\.)?(pi|π)|two pi|\btau\b|360",
    r"full (turn|rotation|circle|period)|whole (turn|rotation|period)|complete (turn|rotation)",
    r"\bperiod(ic\w*)?\b|\bwraps?\b",
    r"multiples? of (2|a (full|whole)|the period|one (turn|rotation))",
)
def full_turns(mended):
    torch.manual_seed(0)

    def circuit(inputs, theta):
        qml.AngleEmbedding((math.pi if mended else 2 * math.pi) * inputs, wires=range(4), rotation="X")
        qml.StronglyEntanglingLayers(theta, wires=range(4))
        return [qml.expval(qml.PauliZ(i)) for i in range(4)]

    model = nn.Sequential(nn.Flatten(), quantum(circuit, {"theta": (2, 4, 3)}, 4), nn.Linear(4, 2))
    images = torch.randint(0, 2, (20, 1, 2, 2)).float()
    return model, (images, images[:, 0, 0, 0].long()), {"loss": nn.CrossEntropyLoss()}


@case(
    "a training step takes several times longer than that of a colleague with the same circuit",
    "default.mixed simulates density matrices (4**n numbers), and the circuit has no noise that would need them",
    "qml.device('default.qubit', ...)",
    PENNYLANE + "1528",
    r"default\.mixed",
    r"density[- ]matri",
    r"mixed[- ]states?\b|4 ?(\*\*|\^) ?n",
)
def density_for_nothing(mended):
    torch.manual_seed(0)
    layer = ladder(5, 4, device="default.qubit" if mended else "default.mixed")
    return nn.Sequential(nn.Linear(6, 5), layer, nn.Linear(5, 2)), blobs(24, 6), {"loss": nn.CrossEntropyLoss()}


@case(
    "two passes over the same samples differ, the loss jumps up and down and does not settle",
    "EstimatorQNN asks its estimator for a precision of 0.5 only: every expectation value gets noise of that size",
    "default_precision=0.0 (exact with StatevectorEstimator), or a few thousandths",
    QML + "949",
    r"default_precision|(estimator|qiskit|target|expectation)\b.{0,100}\bprecision|precision (of|=) ?0\.5",
    r"\bnois[ey]\w*",
    r"\bshots?\b",
    r"(two|second|repeated|same|further)\b.{0,60}(pass\w*|calls?|inputs?|samples?|evaluations?|runs?)\b.{0,60}differ",
)
def coarse_estimator(mended):
    from qiskit import QuantumCircuit
    from qiskit.circuit import ParameterVector
    from qiskit.primitives import StatevectorEstimator
    from qiskit.quantum_info import SparsePauliOp
    from qiskit_machine_learning.connectors import TorchConnector
    from qiskit_machine_learning.neural_networks import EstimatorQNN

    torch.manual_seed(0)
    x, w = ParameterVector("x", 2), ParameterVector("w", 4)
    circuit = QuantumCircuit(2)
    for i in range(2):
        circuit.ry(x[i], i)
        circuit.ry(w[i], i)
    circuit.cx(0, 1)
    for i in range(2):
        circuit.ry(w[2 + i], i)
    network = EstimatorQNN(
        circuit=circuit,
        estimator=StatevectorEstimator(),
        observables=[SparsePauliOp("IZ"), SparsePauliOp("ZI")],
        input_params=list(x),
        weight_params=list(w),
        default_precision=0.0 if mended else 0.5,
    )
    connector = TorchConnector(network, initial_weights=np.linspace(0.2, 0.9, 4))
    return nn.Sequential(connector, nn.Linear(2, 2)), blobs(10, 2), {"loss": nn.CrossEntropyLoss()}


# ---- silent faults: sequences and normalisation ----------------------------------------------------------------------


@case(
    "training accuracy creeps up, test accuracy stays at chance; a sample's prediction changes with its batch",
    "nn.LSTM takes (time, batch, features) unless batch_first=True: here it runs along the samples, not along the time",
    "nn.LSTM(..., batch_first=True)",
    "https://github.com/AndersonJo/dqn-pytorch/issues/1",
    r"batch_first",
    r"(time|sequence|steps?)\b.{0,80}\b(batch|samples)\b.{0,60}(swap|axis|axes|dimension|first|exchang|transpos|confus)",
    r"(other|another|neighbou?r\w*|different|previous|earlier) (samples?|rows?)|neighbou?rs|(in|of|with) (its|the same|"
    r"the rest of the) batch",
    r"mix\w* (the )?samples|samples .{0,30}mixed",
)
def lstm_along_the_batch(mended):
    torch.manual_seed(0)

    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(2, 6, batch_first=mended)
            self.fc, self.q, self.out = nn.Linear(6, 3), ladder(3, 1), nn.Linear(3, 2)

        def forward(self, x):
            states, _ = self.lstm(x)
            return self.out(self.q(2.0 * self.fc(states[:, -1])))

    x = torch.randn(32, 4, 2)
    return Sequence(), (x, (x[:, 0, 0] > 0).long()), {"loss": nn.CrossEntropyLoss()}


@case(
    "the loss is NaN from the first batch on",
    "one sentence of the batch is all padding, so that its attention mask hides every key: softmax over -inf only",
    "leave such samples out, or let the mask keep one token",
    "https://github.com/pytorch/pytorch/issues/40932",
    r"\bmask\w*|padd\w+|padding",
    r"softmax.{0,80}(-?inf|nothing|no (key|token))",
    r"(empty|no (tokens?|words?))\b.{0,60}(sample|sentence|sequence|row)|(sample|sentence|sequence|row)\w*.{0,60}\b"
    r"(empty|no (tokens?|words?))",
    r"attention\b.{0,120}\bnan|\bnan\b.{0,120}attention",
)
def nothing_to_attend_to(mended):
    torch.manual_seed(0)

    class Sentences(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.attention = nn.Embedding(10, 4), nn.MultiheadAttention(4, 2, batch_first=True)
            self.fc, self.q, self.out = nn.Linear(4, 2), ladder(2), nn.Linear(2, 2)

        def forward(self, tokens):
            padding = tokens == 0
            if mended:
                padding = padding & ~padding.all(-1, keepdim=True)
            h = self.words(tokens)
            h, _ = self.attention(h, h, h, key_padding_mask=padding)
            return self.out(self.q(self.fc(h.mean(1))))

    y = torch.arange(12) % 2
    tokens = torch.randint(1, 5, (12, 5)) + 4 * y[:, None]
    tokens[::3, 3:] = 0
    tokens[7] = 0
    return Sentences(), (tokens, y), {"loss": nn.CrossEntropyLoss()}


@case(
    "one and the same prediction for all samples; no gradient before the last layers",
    "LayerNorm over a single feature: the number minus its own mean is always zero",
    "no normalisation of a single output (or BatchNorm1d)",
    "https://github.com/pytorch/pytorch/issues/108956",
    r"layer ?norm",
    r"normali[sz]\w+\b.{0,80}\b(one|single|1|lone) (feature|value|number|element|output|entry)",
    r"(one|single|1|lone) (feature|value|number|element|entry)\b.{0,80}(own mean|mean|variance|normali[sz])",
    r"(minus|subtract\w*) (its|their) (own )?mean",
)
def norm_of_one(mended):
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(1) if mended else nn.LayerNorm(1)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), ladder(4, readouts=1), norm, nn.Linear(1, 1), nn.Flatten(0))
    x, y = blobs(18, 5)
    return model, (x, y.float()), {"loss": nn.BCEWithLogitsLoss()}


# ---- silent faults: losses -------------------------------------------------------------------------------------------


@case(
    "the regression's loss falls a little and stops at hundreds; all predictions end near 1",
    "the prediction is an expectation value, in [-1, 1], and the targets are prices of 5 to 40",
    "scale the targets to [-1, 1], or a linear layer after the circuit",
    "https://arxiv.org/abs/2506.20135",
    r"\b(range|between|beyond|outside|exceed\w*|(not|never) reach|bounded|interval)\b.{0,80}\b(targets?|labels?)",
    r"\b(targets?|labels?)\b.{0,100}\b(range|between|within|beyond|outside|exceed\w*|reach\w*|interval|scale|too large|"
    r"larger)",
    r"(re)?(scale|scaling|standardi[sz]e|normali[sz]e|divide) (the )?(targets?|labels?)",
    r"(linear|scal\w+|gain|trained|layer)\b.{0,40}\b(after|behind) the circuit",
)
def prices_from_expectations(mended):
    torch.manual_seed(0)
    x = torch.rand(20, 3) * 2.0 - 1.0
    prices = 22.0 + 12.0 * torch.sin(1.5 * x[:, :1]) + 3.0 * x[:, 1:2]
    if mended:
        prices = (prices - 22.0) / 20.0
    return nn.Sequential(nn.Linear(3, 3), ladder(3, readouts=1)), (x, prices), {"loss": nn.MSELoss()}


@case(
    "the loss falls to zero, and only one of the two classes is ever predicted",
    "the loss was copied from a tagger, with ignore_index=0 for the padding: samples of class 0 do not count",
    "nn.CrossEntropyLoss()",
    "https://github.com/nyu-mll/jiant/issues/925",
    r"ignore_index",
    r"ignor\w+ .{0,40}\b(class|label|index)|\b(class|label)\w*\b.{0,60}\bignor",
    r"class(es)? 0\b.{0,80}(not count|no (loss|gradient|effect|part|influence|weight)|skipp|exclud|left out|contribut)",
    r"(samples|labels?)\b.{0,60}(excluded|skipped|left out|do(es)? not (count|enter|contribute)|contribut\w+ nothing|"
    r"no (part|influence|effect) (in|on) the loss)",
)
def class_of_the_padding(mended):
    torch.manual_seed(0)
    x, y = blobs(16, 3)
    model = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 2), ladder(2), nn.Linear(2, 2))
    return model, (x, y), {"loss": nn.CrossEntropyLoss() if mended else nn.CrossEntropyLoss(ignore_index=0)}


# ---- healthy models --------------------------------------------------------------------------------------------------


@healthy
def residual_branches():
    torch.manual_seed(0)

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.into = nn.Linear(5, 4)
            self.branches = nn.ModuleList([ladder(2, 1), ladder(2, 1)])
            self.norm, self.out = nn.LayerNorm(4), nn.Linear(4, 3)

        def forward(self, x):
            h = torch.tanh(self.into(x))
            parts = [q(part) for q, part in zip(self.branches, h.chunk(2, dim=-1), strict=True)]
            return self.out(self.norm(h + torch.cat(parts, dim=-1)))

    return Branches(), blobs(18, 5, classes=3), {"loss": nn.CrossEntropyLoss(label_smoothing=0.05)}


@healthy
def autoencoder():
    torch.manual_seed(0)
    hidden = torch.rand(20, 2) * 2.0 - 1.0
    x = torch.tanh(hidden @ torch.randn(2, 6))
    model = nn.Sequential(nn.Linear(6, 3), ladder(3), nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 6))
    return model, (x, x.clone()), {"loss": nn.MSELoss()}


@healthy
def padded_sentences():
    torch.manual_seed(0)

    class Sentences(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(12, 8, padding_idx=0)
            self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
            self.fc, self.q, self.out = nn.Linear(8, 3), ladder(3), nn.Linear(3, 2)

        def forward(self, tokens):
            padding = tokens == 0
            h = self.encoder(self.words(tokens), src_key_padding_mask=padding)
            h = h.masked_fill(padding[..., None], 0.0).sum(1) / (~padding).sum(1, keepdim=True)
            return self.out(self.q(self.fc(h)))

    y = torch.arange(14) % 2
    tokens = torch.randint(1, 7, (14, 6)) + 5 * y[:, None]
    tokens[::2, 4:] = 0
    return Sentences(), {"tokens": tokens, "labels": y}, {"loss": nn.CrossEntropyLoss()}


@healthy
def qiskit_parity_sampler():
    from qiskit import QuantumCircuit
    from qiskit.circuit import ParameterVector
    from qiskit.primitives import StatevectorSampler
    from qiskit_machine_learning.connectors import TorchConnector
    from qiskit_machine_learning.neural_networks import SamplerQNN

    torch.manual_seed(0)
    x, w = ParameterVector("x", 2), ParameterVector("w", 4)
    circuit = QuantumCircuit(2)
    for i in range(2):
        circuit.ry(x[i], i)
        circuit.ry(w[i], i)
    circuit.cx(0, 1)
    for i in range(2):
        circuit.ry(w[2 + i], i)
    network = SamplerQNN(
        circuit=circuit,
        sampler=StatevectorSampler(default_shots=8_192, seed=1),
        input_params=list(x),
        weight_params=list(w),
        interpret=lambda k: f"{k:b}".count("1") % 2,
        output_shape=2,
        input_gradients=True,
    )
    connector = TorchConnector(network, initial_weights=np.linspace(0.2, 0.9, 4))
    return nn.Sequential(nn.Linear(3, 2), connector, nn.Linear(2, 2)), blobs(6, 3), {"loss": nn.CrossEntropyLoss()}


@healthy
def groups_and_cosine():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), ladder(4), nn.Linear(4, 2))
    x, y = blobs(24, 6)
    angles = list(model[2].parameters())
    others = [*model[0].parameters(), *model[3].parameters()]
    groups = [{"params": others, "lr": 0.01}, {"params": angles, "lr": 0.05, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    options = {"optimizer": optimizer, "scheduler": scheduler, "epochs": 40, "loss": nn.CrossEntropyLoss()}
    return model, DataLoader(TensorDataset(x, y), batch_size=6, shuffle=True), options


@healthy
def damped():
    torch.manual_seed(0)
    layer = ladder(2, device="default.mixed", noise=qml.AmplitudeDamping)
    x, y = blobs(12, 4)
    return (
        nn.Sequential(nn.Linear(4, 2), layer, nn.Linear(2, 1)),
        (x, y.float()[:, None]),
        {"loss": nn.BCEWithLogitsLoss()},
    )


@healthy
def double_precision():
    torch.manual_seed(0)

    class Wave(nn.Module):
        def __init__(self):
            super().__init__()
            self.theta, self.scale = nn.Parameter(torch.rand(3, 2)), nn.Parameter(torch.ones(3))
            self.gain, self.shift = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(0.0))
            self.node = qml.QNode(self.circuit, qml.device("default.qubit", wires=2), diff_method="backprop")

        @staticmethod
        def circuit(t, theta, scale):
            for row, s in zip(theta, scale, strict=True):
                for i in range(2):
                    qml.RX(s * t, wires=i)
                    qml.RY(row[i], wires=i)
                qml.CNOT(wires=[0, 1])
            return qml.expval(qml.PauliZ(1))

        def forward(self, t):
            return (self.shift + self.gain * self.node(t[:, 0], self.theta, self.scale)).unsqueeze(-1)

    t = torch.linspace(-2.0, 2.0, 24, dtype=torch.float64)[:, None]
    return Wave().double(), (t, 0.5 * torch.cos(2.0 * t) + 0.2), {"loss": nn.MSELoss()}


@healthy
def counts():
    torch.manual_seed(0)
    x = torch.rand(24, 2) * 2.0 - 1.0
    y = torch.poisson(torch.exp(1.2 + 1.5 * x[:, :1]))
    model = nn.Sequential(nn.Linear(2, 2), ladder(2), nn.Linear(2, 1))
    return model, (x, y), {"loss": nn.PoissonNLLLoss(log_input=True)}
