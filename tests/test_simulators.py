"""Simulators and methods: counted executions are the formulas', errors are noticed, refusals are rows."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pennylane as qml
import pytest
import torch

from qtl_utils.analyses import simulator_costs
from qtl_utils.circuits import simulators
from qtl_utils.circuits.ansatze import ANSATZE
from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.circuits.simulators import METHODS, SIMULATORS, Method
from qtl_utils.data.splits import Splits
from qtl_utils.models.heads import HeadSettings, make_head
from qtl_utils.study.config import TrainConfig
from qtl_utils.training.fits import Rates, make_replicas
from qtl_utils.training.many import fit_heads

pytestmark = pytest.mark.filterwarnings("ignore::pennylane.exceptions.PennyLaneDeprecationWarning")


@pytest.fixture(scope="module")
def cells():
    return simulator_costs.matrix(simulators.study_task("mari2019", "tanh", 3, 1), batch=2, repeats=1)


def cell(cells, simulator, method):
    return cells[(cells["simulator"] == simulator) & (cells["method"] == method)].iloc[0]


def test_every_cell_is_a_row(cells):
    assert len(cells) == len(simulators.exact_simulators()) * len(METHODS)
    refused = cells[cells["status"] == "refuses"]
    assert (refused["error"] != "").all() and (refused["workaround"] != "").all() and refused["seconds"].isna().all()


def test_executions_are_those_of_the_formulas(cells):
    works = cells.dropna(subset="seconds")
    assert len(works) > 20 and (works["executions"] == works["formula"]).all()


@pytest.mark.parametrize("ansatz", ["reuploading", "strongly_entangling"])
@pytest.mark.parametrize("method", ["parameter-shift", "hadamard", "finite-diff", "spsa", "lin-comb"])
def test_formulas_count_gates_not_parameters(ansatz, method):
    task = simulators.study_task(ansatz, "tanh", 2, 1)
    simulator = "qiskit" if method == "lin-comb" else "default.qubit"
    row = simulator_costs.matrix(task, 1, 1, [simulator], [method]).iloc[0]
    assert row["executions"] == row["formula"]


def test_published_counts():
    counts = simulators.Counts(gates=28, outputs=4, all_gates=46)
    found = {
        name: 4 * METHODS[name].executions(counts) for name in ("parameter-shift", "hadamard", "finite-diff", "spsa")
    }
    assert found == {"parameter-shift": 228, "hadamard": 116, "finite-diff": 120, "spsa": 12}


def test_analytic_methods_are_exact_and_the_others_are_not(cells):
    works = cells.dropna(subset="seconds")
    analytic = works["method"].map(lambda name: METHODS[name].analytic)
    worst = works[["error_inputs", "error_angles"]].max(axis=1)
    assert worst[analytic].max() < simulator_costs.EXACT and worst[works["method"] == "spsa"].min() > 0.01
    assert 1e-10 < worst[(works["method"] == "finite-diff")].max() < 1e-5


@pytest.mark.parametrize(
    ("simulator", "method", "error", "workaround"),
    [
        ("default.qubit", "parameter-shift", "NotImplementedError", "qml.transforms.broadcast_expand(qnode)"),
        ("lightning.qubit", "backprop", "does not support backprop", "diff_method='adjoint'"),
        ("default.mixed", "adjoint", "<default.mixed device (wires=3)> does not support", "diff_method='backprop'"),
        ("statevector", "spsa", "ValueError: statevector differentiates by", "diff_method='adjoint'"),
        ("qiskit", "hadamard", "unknown gradient 'hadamard'", "diff_method='lin-comb'"),
        ("default.qubit", "lin-comb", "no differentiation method", "diff_method='hadamard', qml.transforms.broadcast"),
    ],
)
def test_refusals_are_kept_word_for_word_with_what_works(cells, simulator, method, error, workaround):
    found = cell(cells, simulator, method)
    assert error in found["error"] and found["workaround"].startswith(workaround) and "0x" not in found["error"]


def test_methods_that_run_with_shots(cells):
    shots = set(cells.loc[cells["shots"] & (cells["simulator"] == "default.qubit"), "method"])
    assert shots == {"parameter-shift", "hadamard", "finite-diff", "spsa"}


def test_a_wrong_gradient_is_caught(monkeypatch):
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, out):
            return out.clone()

        @staticmethod
        def backward(ctx, gradient):
            return 1.001 * gradient

    row = SIMULATORS["statevector"]

    def build(task, method, **options):
        run, count = row.build(task, method, **options)
        return lambda inputs, weights: Wrong.apply(run(inputs, weights)), count

    monkeypatch.setitem(SIMULATORS, "wrong", replace(row, build=build))
    task = simulators.study_task("mari2019", "tanh", 2, 1)
    found = simulator_costs.matrix(task, 1, 1, ["wrong", "statevector"], ["adjoint"])
    assert found["error_angles"].iloc[0] == pytest.approx(1e-3, rel=1e-6) and found["error_angles"].iloc[1] < 1e-12


def test_a_method_of_ones_own_is_one_row(monkeypatch):
    coarse = Method(
        "difference with a large step",
        "P",
        "1",
        pennylane="finite-diff",
        options=lambda n: {"h": 0.1, "strategy": "center", "approx_order": 2},
        executions=lambda c: 1 + 2 * c.gates,
        analytic=False,
    )
    monkeypatch.setitem(METHODS, "coarse", coarse)
    task = simulators.study_task("mari2019", "tanh", 2, 1)
    row = simulator_costs.matrix(task, 1, 1, ["default.qubit"], ["coarse"]).iloc[0]
    assert row["executions"] == row["formula"] and 1e-6 < row["error_angles"] < 1e-2


@pytest.mark.parametrize("ansatz", ANSATZE)
def test_frameworks_agree(ansatz):
    found = simulator_costs.agreement(simulators.study_task(ansatz, "tanh", 3, 1)).set_index("framework")
    assert (found.loc[["statevector", "qiskit, EstimatorQNN"]] < 1e-10).all(axis=None)
    assert (found < 1e-5).all(axis=None)


def test_gates_keep_their_meaning_in_qiskit():
    def circuit(inputs, weights):
        qml.Hadamard(0)
        qml.S(1)
        qml.T(0)
        qml.adjoint(qml.S)(0)
        qml.CRX(inputs[..., 0], wires=[0, 1])
        qml.Rot(0.3, 2 * weights[..., 0] - 0.1, weights[..., 1], wires=1)
        qml.SWAP([1, 2])
        qml.QubitUnitary(np.array([[0, 1], [1j, 0]]), wires=2)
        qml.QubitUnitary(np.diag([1, 1, 1, -1])[[0, 2, 1, 3]], wires=[2, 0])
        qml.IsingXX(inputs[..., 1], wires=[0, 2])
        return [qml.expval(qml.X(0) @ qml.Y(2)), qml.expval(0.5 * qml.Z(1) + 2 * qml.Z(0) @ qml.X(2))]

    from qtl_utils.circuits.qiskit_layer import convert, estimator_qnn

    x, w = np.array([[0.4, -1.1], [2.0, 0.2]]), np.array([0.7, -0.6])
    network = estimator_qnn(convert(circuit, 3, (2,), n_inputs=2))
    expected = qml.QNode(circuit, qml.device("default.qubit", wires=3))(x, w)
    np.testing.assert_allclose(network.forward(x, w), np.stack(expected, -1), atol=1e-12)


@pytest.mark.parametrize("simulator", ["default.mixed", "qiskit"])
def test_layers_of_every_simulator_share_their_state(simulator):
    torch.manual_seed(0)
    one, other, x = QuantumLayer(2, 1, angle_init=1.0), QuantumLayer(2, 1, simulator=simulator), torch.randn(3, 2)
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(other(x), one(x), atol=1e-5, rtol=0)
    many = torch.vmap(lambda weights: torch.func.functional_call(other, {"weights": weights}, (x,)))
    sets = torch.stack([one.weights, 2 * one.weights])
    torch.testing.assert_close(many(sets), one(x.expand(2, 3, 2), sets), atol=1e-5, rtol=0)


def grid(seconds, **columns):
    rows = {"varied": "qubits", "simulator": "statevector", "method": "adjoint", "seconds": seconds, "bytes": 0.0}
    return pd.DataFrame(rows | {"depth": 2, "batch": 1, "angles": 10} | columns)


def test_exponents_of_a_known_law():
    n = np.arange(2, 12)
    found = simulator_costs.exponents(grid(1e-6 * 2.0 ** (1.5 * n), qubits=n)).iloc[0]
    assert [found[k] for k in ("exponent", "low", "high")] == pytest.approx([1.5] * 3)
    assert found["asymptotic"] == 1 and found["values"] == 5


def test_the_largest_circuit_by_time_and_by_memory():
    n = np.array([4, 6, 8])
    found = simulator_costs.largest(grid(1e-3 * 2.0**n, qubits=n), seconds=1.1, memory=16 * 2**9).iloc[0]
    assert (found["by_seconds"], found["by_bytes"], found["qubits"], found["limit"]) == (10, 9, 9, "memory")
    most = simulator_costs.largest(grid(1e-3 * 2.0**n, qubits=n, simulator="density"), seconds=1e9, memory=1e12).iloc[0]
    assert most["qubits"] == 8  # more are refused
    few = simulator_costs.largest(grid(1e-3 * 2.0**n, qubits=n), seconds=0.02, memory=1e9).iloc[0]
    assert (few["qubits"], few["limit"]) == (4, "time")


def test_advice_follows_the_measurements(cells):
    advice = simulator_costs.which_when(cells, pd.DataFrame()).set_index("purpose")
    row = advice.loc["hardware or shots, unbiased gradients"]
    assert row["method"] == "hadamard" and "one more qubit" in row["because"]
    assert advice.loc["hardware or shots, fewest executions", "method"] == "spsa"
    slow = cells.assign(seconds=cells["seconds"].where(cells["simulator"] != "statevector", 1e9))
    assert simulator_costs.which_when(slow, pd.DataFrame()).iloc[0]["simulator"] != "statevector"
    none = simulator_costs.which_when(cells[cells["simulator"] == "statevector"], pd.DataFrame()).set_index("purpose")
    assert none.loc["noise channels", "simulator"] == "none"


def test_a_scaling_series_ends_where_steps_take_too_long():
    pairs = [("statevector", "adjoint"), ("default.qubit", "backprop")]
    base = {"qubits": 2, "depth": 1, "batch": 1}
    found = simulator_costs.scaling("mari2019", "tanh", {"qubits": [2, 3, 4]}, base, 1, 0.0, pairs)
    assert list(found["qubits"]) == [2, 2]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("simulator", simulators.exact_simulators())
def test_what_works_in_the_matrix_trains_many_heads_too(simulator, method):
    splits = Splits("repeated", np.array([["train"] * 4 + ["validation"] * 2]))
    config = TrainConfig(epochs=1, batch_size=2, simulator=simulator, diff_method=method)
    settings = HeadSettings(3, 2, n_qubits=2, depth=1, angle_init=1.0, simulator=simulator, diff_method=method)
    features, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), np.arange(6) % 2

    def weights(settings):
        replicas = make_replicas(range(2), 1, [Rates(0.05, 0.05, 0.05)])
        fit = fit_heads(lambda seed: make_head("A", settings, seed), features, labels, splits, replicas, config)
        return fit.weights["2.weights"]

    if simulators.open_cell(simulators.study_task("mari2019", "tanh", 2, 1), simulator, method)["run"] is None:
        with pytest.raises(Exception, match=r"method|gradient|differentiat|support|wire"):
            weights(settings)
        return
    exact = weights(replace(settings, simulator="statevector", diff_method=None))
    if METHODS[method].analytic:  # Adam's first steps go by the sign of a gradient
        torch.testing.assert_close(weights(settings), exact, atol=1e-3, rtol=0)
    else:
        assert (weights(settings) != weights(replace(settings, angle_init=0.0))).any()
