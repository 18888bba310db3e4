"""What circuits make of their inputs: exact against a simulator, and the depths of the circuit of 2019."""

import numpy as np
import pennylane as qml
import pytest
import torch

from qtl_utils.circuits.ansatze import ANSATZE, ENCODINGS, make_circuit
from qtl_utils.circuits.mixing import TooManyTermsError, by_depth, draw_inputs, polynomial
from qtl_utils.doctor import diagnose
from qtl_utils.models.heads import HeadSettings, make_head


def simulated(circuit, n_qubits, inputs, weights):
    node = qml.QNode(circuit, qml.device("default.qubit", wires=n_qubits))
    return np.stack(node(inputs, weights), axis=-1)


def clifford_skeleton(seed, n_qubits=4, layers=3):
    """Random Clifford gates between an encoding and trained rotations about random axes; the number of its weights."""
    rng = np.random.default_rng(seed)
    gates = [rng.choice(["H", "S", "CNOT", "CZ"], 6) for _ in range(layers)]
    wires = [[rng.permutation(n_qubits)[:2].tolist() for _ in range(6)] for _ in range(layers)]
    axes = rng.choice(["X", "Y", "Z"], (layers, n_qubits))

    def circuit(inputs, weights):
        for i in range(n_qubits):
            qml.Hadamard(i)
            qml.RY(inputs[..., i], i)
        for k in range(layers):
            for gate, pair in zip(gates[k], wires[k], strict=True):
                {"H": qml.Hadamard, "S": qml.S}[gate](pair[0]) if gate in "HS" else getattr(qml, gate)(pair)
            for i in range(n_qubits):
                getattr(qml, f"R{axes[k, i]}")(weights[..., k, i], i)
        return [qml.expval(qml.Z(i)) for i in range(n_qubits)]

    return circuit, (layers, n_qubits)


@pytest.mark.parametrize("seed", range(6))
def test_random_clifford_skeletons_are_pulled_back_exactly(seed):
    circuit, shape = clifford_skeleton(seed)
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=shape)
    inputs = rng.normal(size=(5, 4))
    found = polynomial(circuit, 4, weights)
    assert found(inputs) == pytest.approx(simulated(circuit, 4, inputs, weights), abs=1e-10)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("ansatz", ANSATZE)
def test_every_ansatz_is_pulled_back_exactly(ansatz, encoding):
    circuit = make_circuit(ansatz, encoding, 3)
    rng = np.random.default_rng(1)
    weights = rng.normal(size=ANSATZE[ansatz].shape(3, 2))
    inputs = rng.normal(size=(4, 3))
    found = polynomial(circuit, 3, weights)
    assert found(inputs) == pytest.approx(simulated(circuit, 3, inputs, weights), abs=1e-10)


def test_outputs_that_are_sums_of_words_and_inputs_with_a_factor():
    def circuit(inputs, weights):
        qml.RX(2 * inputs[..., 0] + 0.3, 0)
        qml.RY(inputs[..., 1], 1)
        qml.CNOT([0, 1])
        qml.RZ(weights[..., 0], 0)
        return [qml.expval(0.5 * qml.Z(0) + 2 * (qml.X(0) @ qml.Z(1)))]

    inputs = np.random.default_rng(0).normal(size=(6, 2))
    found = polynomial(circuit, 2, np.array([0.7]), n_inputs=2)
    assert found(inputs) == pytest.approx(simulated(circuit, 2, inputs, np.array([0.7])), abs=1e-10)


def test_the_circuit_of_2019_multiplies_inputs_at_every_depth_but_4_8_and_12():
    rows = list(by_depth("mari2019", "tanh", 4, range(1, 13)))
    assert {row["depth"]: row["products"] for row in rows} == {
        **dict.fromkeys((1, 5, 9), "1, 2, 3, 2"),
        **dict.fromkeys((2, 6, 10), "1, 1, 2, 3"),
        **dict.fromkeys((3, 7, 11), "1, 2, 2, 3"),
        **dict.fromkeys((4, 8, 12), "1, 1, 1, 1"),
    }
    assert [row["depth"] for row in rows if not row["unread"]] == [4, 8, 12]
    assert rows[5]["unread"] == 2 and rows[5]["reach"] == pytest.approx(0.5, abs=0.02)


def test_a_circuit_without_entanglement_loses_nothing():
    found = polynomial(make_circuit("separable", "tanh", 4), 4, np.zeros((6, 4)))
    drawn = draw_inputs([0.5] * 4)
    assert found.alone(drawn).min() > 0.95 and found.reach(drawn).min() > 0.95


def test_effects_of_a_product_and_of_a_sum():
    # <Z0 Z1> behind two rotations: the product of two sines; each input by itself says nothing
    def circuit(inputs, weights):
        for i in range(2):
            qml.Hadamard(i)
            qml.RY(inputs[..., i], i)
        return [qml.expval(qml.Z(0) @ qml.Z(1)), qml.expval(qml.Z(0))]

    found = polynomial(circuit, 2, np.zeros(0))
    drawn = draw_inputs([0.4, 0.4])
    main, total = found.main_effects(drawn), found.total_effects(drawn)
    assert found.inputs_of_outputs == (2, 1)
    assert main[0].max() < 0.1 * total[0].min()
    assert main[1, 0] == pytest.approx(total[1, 0], rel=0.1) and main[1, 1] == 0


def test_too_many_terms_are_refused():
    circuit = make_circuit("reuploading", "tanh", 4)
    weights = np.random.default_rng(0).normal(size=ANSATZE["reuploading"].shape(4, 6))
    with pytest.raises(TooManyTermsError, match="smaller circuit"):
        polynomial(circuit, 4, weights, most=2000)


# ---- in the doctor


def found(model, features=8):
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(16, features, generator=generator), torch.arange(16) % 2
    return diagnose(model, batch, checks=["readout_mixing"])[0]


@pytest.mark.parametrize(("depth", "verdict"), [(4, "ok"), (5, "warn"), (6, "warn"), (8, "ok")])
def test_the_doctor_reads_our_own_heads(depth, verdict):
    head = make_head("A", HeadSettings(8, 2, depth=depth), seed=0)
    head[0].bias.data.zero_()  # away from zero, a product of sines also says something about each of them
    finding = found(head)
    assert finding.verdict == verdict
    assert ("depth 4 in place of" in finding.fix) == (verdict == "warn")


def test_the_doctor_reads_a_strangers_qnode_with_several_arguments():
    class Strange(torch.nn.Module):
        def __init__(self, entangle):
            super().__init__()
            self.first = torch.nn.Parameter(0.01 * torch.randn(4))
            self.second = torch.nn.Parameter(0.01 * torch.randn(1, 4))
            self.before = torch.nn.Linear(8, 4, bias=False)
            self.node = qml.QNode(self.circuit, qml.device("default.qubit", wires=4), interface="torch")
            self.entangle = entangle

        def circuit(self, first, x, second):
            for i in range(4):
                qml.Hadamard(i)
                qml.RY(x[:, i] * np.pi / 2, wires=i)
            for i in range(3 * self.entangle):
                qml.CNOT(wires=[i, i + 1])
            for i in range(4):
                qml.RY(first[i], wires=i)
                qml.RX(second[0, i], wires=i)
            return [qml.expval(qml.PauliZ(i)) for i in range(4)]

        def forward(self, x):
            angles = torch.tanh(self.before(x))
            return torch.stack(self.node(self.first, angles, second=self.second), -1).float()[:, :2]

    torch.manual_seed(0)
    assert found(Strange(True)).verdict == "warn"
    assert found(Strange(False)).verdict == "ok"


def test_what_cannot_be_read_is_said():
    class Amplitudes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = torch.nn.Parameter(0.1 * torch.randn(1, 3))
            self.node = qml.QNode(self.circuit, qml.device("default.qubit", wires=3), interface="torch")

        def circuit(self, x, weights):
            qml.AmplitudeEmbedding(x, wires=range(3), normalize=True)
            qml.BasicEntanglerLayers(weights, wires=range(3))
            return [qml.expval(qml.PauliZ(i)) for i in range(3)]

        def forward(self, x):
            return torch.stack(self.node(x, self.weights), -1).float()

    torch.manual_seed(0)
    finding = found(Amplitudes())
    assert finding.verdict == "skipped" and "cannot be read" in finding.evidence
