"""Error messages: known ones get their cause, others the user's own line, and no cause is made up."""

import copy
import re
import sys

import pennylane as qml
import pytest
import torch
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.primitives import StatevectorEstimator
from qiskit.quantum_info import SparsePauliOp
from qiskit_machine_learning.connectors import TorchConnector
from qiskit_machine_learning.neural_networks import EstimatorQNN
from torch import nn

from qtl_utils.doctor.diagnosis import diagnose
from qtl_utils.doctor.faults import points
from qtl_utils.doctor.known_errors import HYBRID, KNOWN_ERRORS, PLACES
from qtl_utils.doctor.messages import explain

QUANTUM = re.compile(r"circuit|QNode|qubit|PennyLane|Qiskit|amplitude|\bgate|wire|measurement|expectation|shots")
N = 2


def made(message):
    """An exception of the type and text of "Type: text", without a traceback."""
    name, _, text = message.partition(": ")
    return type(name, (Exception,), {})(text)


def caught(function, *args):
    """The exception that the function raises, with its traceback."""
    try:
        function(*args)
    except Exception as error:
        return error
    pytest.fail("nothing was raised")


# ---- the text is all there is ----------------------------------------------------------------------------------------

CAUSES = {  # what users reported, and a word that the cause must hold
    "RuntimeError: Expected all tensors to be on the same device, but found cuda:0 and cpu!": "different devices",
    "RuntimeError: Tensor for argument #2 'mat1' is on CPU, but expected it to be on GPU": "different devices",
    "ValueError: State vectors have to be of norm 1.0, vector 0 has squared norm nan": "zeros",
    "ValueError: Features must be a vector of length 1.0; got length 3.7.Use 'normalize=True' to": "normalised",
    "ValueError: Features must be of length 4 or less; got length 8.": "one feature per wire",
    "TypeError: cannot pickle 'pennylane_lightning.lightning_gpu_ops.DevPool' object": "simulator",
    "TypeError: can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy": "GPU",
    "ValueError: probabilities do not sum to 1": "float32",
    "QiskitMachineLearningError: 'Estimator job failed.'": "no values",
    "WireError: Cannot run circuit(s) on default.qubit as they contain wires not found on the device: {8, 9}": "batch",
    "AttributeError: 'QNode' object has no attribute 'weights'": "asks",
    "RuntimeError: element 0 of tensors does not require grad and does not have a grad_fn": "as_tensor",
    "AttributeError: 'list' object has no attribute 'shape'": "given a list",
    "KeyError: 'shape,stack,cos'": "torch.compile",
    "ValueError: Must specify a shape for every non-input parameter in the QNode": "every argument",
    "QuantumFunctionError: Backpropagation is only supported when shots=None.": "no shots",
    "DeviceError: Gate DepolarizingChannel not supported on device default.qubit": "noise",
    "DeviceError: Gate IsingXY not supported on device lightning.gpu": "does not know this gate",
    "UnpicklingError: Weights only load failed. This file can still be loaded": "whole model",
    "RuntimeError: Trying to backward through the graph a second time": "hidden state",
    "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 15.78 GiB total)": "2**n_qubits",
    "RuntimeError: \"addmm_impl_cpu_\" not implemented for 'ComplexDouble'": "complex",
    "IndexError: tuple index out of range": "trainable",
    "RuntimeError: one of the variables needed has been modified by an inplace operation: [torch": "in place",
    "RuntimeError: Error(s) in loading state_dict for Net:\n\tsize mismatch for q.weights": "architecture",
    "DeviceError: Device does not exist. Make sure the required plugin is installed.": "plugin",
    "ImportError: cannot import name 'Aer' from 'qiskit' (/x/__init__.py)": "package of their own",
    "AttributeError: module 'pennylane' has no attribute 'QubitStateVector'": "renamed",
    "RuntimeError: Found dtype Long but expected Float": "whole numbers",
    "RuntimeError: mat1 and mat2 must have the same dtype, but got BFloat16 and Float": "half precision",
    "RuntimeError: Cannot re-initialize CUDA in forked subprocess.": "worker",
    "Unsupported: Graph break under GenericContextWrappingVariable. Explanation: cannot trace": "torch.compile",
    "ValueError: Expected more than 1 value per channel when training": "batch of one",
    "TypeError: StatevectorEstimator.run() takes 2 positional arguments but 4 were given": "version 1 and 2",
}


@pytest.mark.parametrize("message", CAUSES)
def test_a_known_message_gets_its_cause(message):
    found = explain(made(message))
    assert CAUSES[message] in found.cause and found.fix
    assert type(made(message)).__name__ in found.evidence and found.check == "forward"


FIXES = {
    "AttributeError: 'list' object has no attribute 'float'": "torch.stack",
    "RuntimeError: mat1 and mat2 must have the same dtype, but got Double and Float": "x.dtype",
    "RuntimeError: Expected all tensors to be on the same device, but found at least two devices": "to(device)",
    "PicklingError: Can't pickle <function c>: it's not the same object": "state_dict",
    "RuntimeError: element 0 of tensors does not require grad and does not have a grad_fn": "torch.stack",
    "RuntimeError: Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.": "torch's",
    "ValueError: Expected more than 1 value per channel when training": "last batch",
}


@pytest.mark.parametrize("message", FIXES)
def test_the_fix_can_be_typed(message):
    assert FIXES[message] in explain(made(message)).fix


@pytest.mark.parametrize("message", ["IndexError: tuple index out of range", "IndexError: list index out of range"])
def test_a_text_that_may_mean_anything_is_told_with_its_condition(message):
    found = explain(made(message))
    assert found.cause.startswith("I do not know this one from its text alone; raised in")
    assert "explain(error)" in found.fix


def test_an_unknown_text_is_told_as_it_is():
    found = explain(KeyError("xyzzy"))
    assert found.evidence == "KeyError: 'xyzzy'" and found.cause == "I do not know this one from its text alone"


# ---- raised by models ------------------------------------------------------------------------------------------------


def circuit(inputs, weights):
    qml.AngleEmbedding(inputs, wires=range(N))
    qml.BasicEntanglerLayers(weights, wires=range(N))
    return [qml.expval(qml.PauliZ(i)) for i in range(N)]


def of_rows(inputs, weights):
    for wire, angle in enumerate(inputs):
        qml.RX(angle, wires=wire)
    return circuit(inputs, weights)


def beyond(inputs, weights):
    qml.RX(inputs[..., 5], wires=0)
    return circuit(inputs, weights)


def whole_rows(inputs, weights):
    qml.RX(inputs, wires=0)
    return circuit(inputs, weights)


def amplitudes(inputs, weights):
    qml.AmplitudeEmbedding(inputs, wires=range(N))
    return circuit(weights[0], weights)


def noisy(inputs, weights):
    qml.DepolarizingChannel(0.1, wires=0)
    return circuit(inputs, weights)


def computed(inputs, weights):
    return [value + 1 for value in circuit(inputs, weights)]


def nothing(inputs, weights):
    circuit(inputs, weights)


def state(inputs, weights):
    qml.AngleEmbedding(inputs, wires=range(N))
    return qml.state()


def layer(function=circuit, shape=(1, N), shots=None, **options):
    node = qml.QNode(function, qml.device("default.qubit", wires=N), interface="torch", **options)
    return qml.qnn.TorchLayer(qml.set_shots(node, shots), {"weights": shape})


def network(features=N):
    """An EstimatorQNN with two inputs and two weights, or with as many inputs as are asked for."""
    x, w = ParameterVector("x", N), ParameterVector("w", N)
    qc = QuantumCircuit(N)
    for i in range(N):
        qc.ry(x[i], i)
        qc.rx(w[i], i)
    return EstimatorQNN(
        circuit=qc, input_params=list(x)[:features], weight_params=list(w), estimator=StatevectorEstimator()
    )


class Net(nn.Module):
    """A circuit without a layer, and what is done with its results."""

    def __init__(self, after, function=circuit):
        super().__init__()
        self.node = qml.QNode(function, qml.device("default.qubit", wires=N), interface="torch")
        self.weights = nn.Parameter(torch.rand(1, N))
        self.after = after

    def forward(self, x):
        return self.after(self.node(x, self.weights))


def batch(features=N):
    return torch.rand(3, features)


def backward(model, x):
    model(x.requires_grad_()).sum().backward()


RAISED = {  # what is wrong -> code that raises, and a word that the cause must hold
    "a wire per sample": (lambda: layer(of_rows)(batch()), "batch"),
    "a feature too many": (lambda: layer()(batch(4)), "one feature per wire"),
    "an index too far": (lambda: layer(beyond)(batch()), "beyond those that it was given"),
    "a row for an angle": (lambda: layer(whole_rows)(batch()), "one angle"),
    "not normalised": (lambda: layer(amplitudes)(batch(4)), "normalised"),
    "not 2**n features": (lambda: layer(amplitudes)(batch(3)), "2**n_qubits"),
    "shape of weights": (lambda: layer(shape=(1, 3))(batch()), "shape of the weights"),
    "a name of weights": (lambda: qml.qnn.TorchLayer(layer().qnode, {"angles": (1, N)}), "every argument"),
    "noise": (lambda: layer(noisy)(batch()), "noise"),
    "computed in the circuit": (lambda: layer(computed)(batch()), "no number yet"),
    "returns nothing": (lambda: layer(nothing)(batch()), "something else than measurements"),
    "backprop with shots": (lambda: layer(shots=5, diff_method="backprop")(batch()), "no shots"),
    "a broadcast gradient": (
        lambda: backward(layer(diff_method="parameter-shift"), batch()),
        "cannot differentiate a batch",
    ),
    "a complex state": (lambda: Net(nn.Linear(4, 2), state)(batch()), "a state or amplitude"),
    "bfloat16": (lambda: layer()(batch().bfloat16()), "half precision"),
    "a list of inputs": (lambda: layer()([batch(), batch()]), "a TorchLayer takes one tensor"),
    "a tuple of an LSTM": (lambda: nn.Sequential(nn.LSTM(N, N), layer())(batch()), "a TorchLayer takes one tensor"),
    "a list of results": (lambda: Net(lambda out: out.float())(batch()), "list"),
    "a list for a layer": (lambda: Net(nn.Linear(N, 2))(batch()), "QNode with several measurements"),
    "too few measurements": (lambda: nn.Sequential(layer(), nn.Linear(4, 2))(batch()), "one per measurement"),
    "no argument": (lambda: layer().qnode(batch()), "other arguments"),
    "no attribute": (lambda: layer().angles, "asks"),
    "no device": (lambda: qml.device("abacus.qubit", wires=N), "plugin"),
    "an old option": (lambda: qml.device("default.qubit", wires=N, analytic=True), "old version"),
    "an old name": (lambda: qml.QubitStateVector, "renamed"),
    "expectations for BCE": (lambda: nn.BCELoss()(layer()(batch()) - 1, torch.ones(3, N)), "0 to 1"),
    "features of Qiskit": (lambda: TorchConnector(network())(batch(4)), "number of features"),
    "parameters of Qiskit": (lambda: network(features=1), "not as many"),
    "qubits of Qiskit": (
        lambda: StatevectorEstimator().run([(QuantumCircuit(2), SparsePauliOp("ZZZ"))]).result(),
        "numbers of qubits",
    ),
    "a call of version 1": (
        lambda: StatevectorEstimator().run(QuantumCircuit(1), SparsePauliOp("Z"), []),
        "version 1 and 2",
    ),
}


@pytest.mark.parametrize("name", RAISED)
def test_what_a_hybrid_model_raises_gets_its_cause(name):
    function, word = RAISED[name]
    found = explain(caught(function))
    assert word in found.cause, found


def test_by_diagnose_a_loss_is_known_to_follow_a_circuit():
    class Lower(nn.Module):
        def forward(self, x):
            return x - 2

    def forward_of(model):
        told = {"loss": nn.BCELoss(), "checks": ["forward"]}
        return diagnose(nn.Sequential(model, Lower()), (torch.rand(4, N), torch.ones(4, N)), **told)[0]

    assert "expectation values" in forward_of(layer()).cause
    plain = forward_of(nn.Linear(N, N).requires_grad_(False).apply(lambda m: m.weight.zero_()))
    assert plain.verdict == "fail" and not QUANTUM.search(plain.cause)


def test_torch_compile_around_a_circuit_is_named():
    model = torch.compile(nn.Sequential(nn.Linear(N, N), layer()), fullgraph=True, backend="eager")
    found = explain(caught(model, batch()))
    assert "torch.compile" in found.cause and "circuit" in found.cause and "compiler.disable" in found.fix


def test_a_copy_that_fails_names_the_simulator_where_there_is_one():
    class Held(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.rows = model, (row for row in "ab")

        def forward(self, x):
            return copy.deepcopy(self)

    assert "simulator" in explain(caught(Held(layer()), batch())).cause
    assert not QUANTUM.search(explain(caught(Held(nn.Linear(N, N)), batch())).cause)


def test_the_cause_may_stand_in_the_exception_that_another_was_raised_from():
    def train():
        try:
            layer()(batch(4))
        except ValueError as error:
            raise RuntimeError("training failed") from error

    found = explain(caught(train))
    assert "one feature per wire" in found.cause and found.evidence == "RuntimeError: training failed"


def test_of_exceptions_raised_from_others_the_first_names_the_line():
    def train():
        try:
            Typo()(batch())
        except IndexError as error:
            raise RuntimeError("training failed") from error

    assert explain(caught(train)).cause.endswith("in forward: return half.shape[7]")


# ---- nothing quantum about it ----------------------------------------------------------------------------------------


def raises(message):
    raise made(message)


def shape_of(values):
    return values.shape


def third(values):
    return values[2]


PLAIN = {  # messages that circuits raise, too
    "list": lambda: shape_of([torch.zeros(2)]),
    "tuple index": lambda: third((1, 2)),
    "list index": lambda: third([1, 2]),
    "index": lambda: third(torch.zeros(2)),
    "key": lambda: {}["shape,colour,size"],
    "shapes": lambda: nn.Linear(3, 2)(torch.zeros(2, 4)),
    "broadcast": lambda: torch.zeros(2) + torch.zeros(3),
    "an argument": lambda: shape_of(),
    "dtype": lambda: nn.Linear(3, 2)(torch.zeros(2, 3).double()),
    "complex": lambda: nn.Linear(3, 2)(torch.zeros(2, 3).cfloat()),
    "numpy": lambda: torch.zeros(2, requires_grad=True).numpy(),
    "probabilities": lambda: __import__("numpy").random.default_rng(0).choice(2, p=[0.5, 0.6]),
    "loss": lambda: nn.BCELoss()(torch.tensor([2.0]), torch.tensor([1.0])),
    "batch sizes": lambda: nn.CrossEntropyLoss()(torch.zeros(2, 3), torch.zeros(4).long()),
    "pickle": lambda: copy.deepcopy(row for row in "ab"),
    "state_dict": lambda: nn.Linear(3, 2).load_state_dict(nn.Linear(2, 2).state_dict()),
    "memory": lambda: raises("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"),
    "devices": lambda: raises("RuntimeError: Expected all tensors to be on the same device, but found two devices"),
    "gpu": lambda: raises("TypeError: can't convert cuda:0 device type tensor to numpy."),
    "interface": lambda: raises("ValueError: Unknown interface eth1"),
    "weights": lambda: raises("ValueError: Weights must be positive"),
    "norm": lambda: raises("ValueError: norm of the gradient is nan"),
    "operation": lambda: raises("OSError: Operation not supported"),
    "device": lambda: raises("OSError: Device /dev/sda does not exist"),
}


@pytest.mark.parametrize("name", PLAIN)
def test_without_a_circuit_there_is_no_quantum_cause(name):
    found = explain(caught(PLAIN[name]))
    cause = found.cause.partition("; your line")[0]
    assert not QUANTUM.search(cause), found
    assert cause.startswith("I do not know") or not QUANTUM.search(found.fix), found


# ---- unknown ---------------------------------------------------------------------------------------------------------


class Typo(nn.Module):
    def forward(self, x):
        half = x / 2
        return half.shape[7]


@pytest.mark.parametrize("where", ["alone", "in a model", "by diagnose"])
def test_an_unknown_message_names_the_line_of_the_user(where):
    if where == "by diagnose":
        found = diagnose(Typo(), points(), checks=["forward"])[0]
    else:
        model = Typo() if where == "alone" else nn.Sequential(nn.Linear(N, N), Typo())
        found = explain(caught(model, batch()))
    assert found.cause.startswith("I do not know this one; your line that raised it is test_messages.py, line ")
    assert found.cause.endswith("in forward: return half.shape[7]")
    assert "half" in found.fix and "before that line" in found.fix


def test_the_line_is_not_one_of_a_library():
    class Undrawn(nn.Module):
        def forward(self, x):
            return torch.nn.functional.pad(x, "wide")

    found = explain(caught(nn.Sequential(Undrawn()), batch()))
    assert "test_messages.py" in found.cause and 'torch.nn.functional.pad(x, "wide")' in found.cause
    assert "functional.py" not in found.cause and "/" not in found.cause.partition(": ")[0]


def test_an_unknown_message_from_inside_a_circuit_asks_for_the_circuit_alone():
    found = explain(caught(lambda: qml.CNOT(wires=0)))
    assert found.cause.startswith("I do not know") and "the circuit by itself" in found.fix


def test_a_line_of_a_notebook_is_called_one():
    code = compile("def forward(x):\n    raise KeyError('xyzzy')\nforward(1)", "/tmp/ipykernel_7/123456.py", "exec")
    assert "is a notebook cell, line 2, in forward" in explain(caught(exec, code, {"__name__": "__main__"})).cause


def test_where_no_line_is_the_users_none_is_named():
    code = compile("raise KeyError('xyzzy')", f"{sys.prefix}/lib/site-packages/odd.py", "exec")
    error = caught(exec, code, {"__name__": "odd"})
    found = explain(error.with_traceback(error.__traceback__.tb_next))  # without the frame of this file
    assert "no line of yours" in found.cause and "odd.py" not in found.cause


# ---- the table -------------------------------------------------------------------------------------------------------


def test_frames_name_places_that_exist():
    known = {*PLACES, *HYBRID.split(" or "), "no traceback", "a line with .grad"}
    assert {place for row in KNOWN_ERRORS if row.frames for place in row.frames.split(" or ")} <= known


def test_rows_are_whole_and_none_stands_twice():
    assert all(row.cause and row.fix and re.compile(row.pattern) for row in KNOWN_ERRORS)
    assert len({(row.pattern, row.frames) for row in KNOWN_ERRORS}) == len(KNOWN_ERRORS)
    assert not any(row.cause[0].isspace() or row.cause.endswith(".") for row in KNOWN_ERRORS)
