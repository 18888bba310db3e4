"""The simulator as a device of PennyLane: against default.qubit, gradients and batches too, and what it refuses."""

import os
import re
import subprocess
import sys
import tomllib

import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane import numpy as pnp
from pennylane.devices import ExecutionConfig
from pennylane.exceptions import DeviceError, QuantumFunctionError

from qtl_utils.circuits import pennylane_device
from qtl_utils.circuits.ansatze import ANSATZE, make_circuit
from qtl_utils.circuits.pennylane_device import NAME, StatevectorDevice
from qtl_utils.study.paths import PROJECT

TOLERANCE = {"rtol": 0, "atol": 1e-10}  # sums of some hundred products in float64
MATRIX = np.array([[1.0, 2 - 1j], [2 + 1j, -0.5]])


def layers(x):
    qml.Hadamard(0)
    qml.RY(x[0], 0)
    qml.CNOT([0, 1])
    qml.Rot(x[1], x[2], 0.3, wires=1)
    qml.CRX(x[3], [1, 2])
    qml.IsingZZ(2 * x[0] + x[1], [0, 2])
    qml.Toffoli([0, 1, 2])
    qml.PauliRot(x[2] * x[3], "XY", [2, 0])
    qml.ctrl(qml.RZ, 0)(x[1], 2)


def prepared(x):
    qml.StatePrep(np.array([0.6, 0.0, 0.0, 0.8j]), wires=[0, 1])
    layers(x)


def deferred(x):
    layers(x)
    qml.cond(qml.measure(0), qml.RY)(x[1], 1)


def everything():
    mixed = 0.5 * qml.X(0) @ qml.Z(1) - 2 * qml.Y(2)
    return (
        qml.expval(qml.Z(0)),
        qml.expval(mixed),
        qml.var(mixed),
        qml.expval(qml.Hermitian(MATRIX, wires=1) @ qml.X(2)),
        qml.var(qml.Projector([1, 0], wires=[2, 1])),
        qml.probs(wires=[2, 0]),
        qml.probs(op=qml.Hermitian(MATRIX, wires=0)),
        qml.probs(wires=[1, 0, 2]),
    )


def nodes(gates, measurements, **options):
    """The same circuit on this device and on PennyLane's own."""

    def circuit(x, *more):
        gates(x, *more)
        return measurements()

    own = qml.QNode(circuit, StatevectorDevice(wires=4), diff_method="adjoint", **options)
    return own, qml.QNode(circuit, qml.device("default.qubit", wires=4), diff_method="backprop", **options)


def with_jacobian(node, x):
    def flat(x):
        results = node(x)
        return torch.cat([r.reshape(-1) for r in results]) if isinstance(results, tuple) else results.reshape(-1)

    return flat(x).detach(), torch.autograd.functional.jacobian(flat, x)


@pytest.mark.parametrize("gates", [layers, prepared, deferred])
def test_every_measurement_and_its_derivatives_are_those_of_default_qubit(gates):
    x = torch.tensor([0.4, -1.1, 2.3, 0.7], dtype=torch.float64)
    for ours, theirs in zip(*(with_jacobian(node, x) for node in nodes(gates, everything)), strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("batched", [(0, 1, 2, 3), (1, 2)], ids=["all angles", "some angles"])
def test_a_batch_runs_at_once_with_its_gradients(batched):
    values = torch.rand(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4 - 2
    found = []
    for node in nodes(layers, everything):
        x = [(row if k in batched else row[0]).clone().requires_grad_() for k, row in enumerate(values)]
        with qml.Tracker(node.device) as tracker:
            results = node(x)
        assert tracker.totals["batches"] == 1
        total = sum((k + 1) * result.square().sum() for k, result in enumerate(results))
        found.append([*results, *torch.autograd.grad(total, x)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


def test_an_ansatz_of_the_study_trains_on_it():
    shape = ANSATZE["strongly_entangling"].shape(3, 2)
    circuit = make_circuit("strongly_entangling", "tanh", 3)
    generator = torch.Generator().manual_seed(1)
    found = []
    for device in (StatevectorDevice(wires=3), qml.device("default.qubit", wires=3)):
        inputs = torch.rand((6, 3), dtype=torch.float64, generator=generator.manual_seed(1))
        weights = torch.rand(shape, dtype=torch.float64, generator=generator).requires_grad_()
        out = torch.stack(qml.QNode(circuit, device, interface="torch")(inputs, weights))
        found.append((out.detach(), *torch.autograd.grad(out.square().sum(), weights)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


def test_autograd_and_trained_factors_of_a_sum():
    def circuit(x, factors):
        layers(x)
        return qml.expval(qml.Hamiltonian(factors, [qml.Z(0), qml.X(1) @ qml.Y(2)]))

    x, factors = pnp.array([0.4, -1.1, 2.3, 0.7]), pnp.array([1.5, -0.5])
    ours, theirs = (
        qml.grad(qml.QNode(circuit, device, diff_method=method))(x, factors)
        for device, method in ((StatevectorDevice(), "best"), (qml.device("default.qubit"), "backprop"))
    )
    for k in range(2):
        np.testing.assert_allclose(ours[k], theirs[k], **TOLERANCE)


def test_parameter_shift_runs_on_it_and_gives_second_derivatives():
    def circuit(x):
        layers([x[0], x[1], 0.3, 0.9])
        return qml.expval(qml.Z(2))

    x = pnp.array([0.4, -1.1])
    ours, theirs = (
        qml.jacobian(qml.grad(qml.QNode(circuit, device, diff_method=method, max_diff=2)))(x)
        for device, method in ((StatevectorDevice(), "parameter-shift"), (qml.device("default.qubit"), "backprop"))
    )
    np.testing.assert_allclose(ours, theirs, **TOLERANCE)


def test_jacobians_have_the_shape_that_pennylane_asks_for():
    device = StatevectorDevice(wires=2)
    tape = qml.tape.QuantumScript(
        [qml.RX(0.3, 0), qml.RY(0.4, 1), qml.CNOT([0, 1])], [qml.expval(qml.Z(1)), qml.probs(wires=[0, 1])]
    )
    config = ExecutionConfig(gradient_method="adjoint")
    ours = device.compute_derivatives(tape, config)
    theirs = qml.device("default.qubit").compute_derivatives(tape.copy(measurements=tape.measurements[:1]), config)
    np.testing.assert_allclose(ours[0], theirs, **TOLERANCE)
    assert [[np.shape(column) for column in row] for row in ours] == [[(), ()], [(4,), (4,)]]
    np.testing.assert_allclose([column.sum() for column in ours[1]], 0, **TOLERANCE)


def test_labels_of_wires_and_circuits_without_gates():
    device = StatevectorDevice(wires=["b", 7])

    @qml.qnode(device)
    def circuit():
        qml.GlobalPhase(0.5)
        return qml.expval(qml.Z(7)), qml.probs()

    value, probabilities = circuit()
    assert value == 1
    np.testing.assert_array_equal(probabilities, [1, 0, 0, 0])


def test_circuits_that_differ_in_angles_share_a_program():
    node, _ = nodes(layers, lambda: qml.expval(qml.Z(1)))
    pennylane_device._program.cache_clear()
    for scale in (0.1, 0.2, 0.3):
        node(scale * torch.ones(4, dtype=torch.float64))
    assert pennylane_device._program.cache_info().misses == 1


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (qml.state, "state.* is not supported on qtl.statevector, which has expval, var and probs"),
        (lambda: qml.sample(wires=0), "sample.* is not supported"),
        (lambda: qml.expval(qml.Hermitian(np.eye(64), wires=range(6))), "not supported on qtl.statevector"),
        (lambda: qml.expval(qml.X(0) @ qml.Y(0)), "only Hermitian"),
        (lambda: (qml.Snapshot(), qml.expval(qml.Z(0)))[-1], "Snapshot.* is not supported"),
    ],
)
def test_what_it_cannot_measure_is_refused_by_name(measure, message):
    node = qml.QNode(measure, StatevectorDevice(wires=6), diff_method=None)
    with pytest.raises(DeviceError, match=message):
        node()


def test_probabilities_of_many_wires_are_refused():
    node = qml.QNode(lambda: qml.probs(), StatevectorDevice(wires=11), diff_method=None)
    with pytest.raises(DeviceError, match="10 at most"):
        node()


def test_shots_options_and_backprop_are_refused():
    node = qml.QNode(lambda x: (qml.RX(x, 0), qml.expval(qml.Z(0)))[-1], StatevectorDevice(wires=1))
    with pytest.raises(DeviceError, match="Finite shots are not supported with qtl.statevector"):
        qml.set_shots(node, 10)(0.1)
    with pytest.raises(DeviceError, match="known: auto"):
        StatevectorDevice(wires=1, executor="gpu")
    with pytest.raises(QuantumFunctionError, match="backprop"):
        qml.QNode(node.func, StatevectorDevice(wires=1), diff_method="backprop")(torch.tensor(0.1, requires_grad=True))


def test_the_package_names_it_to_pennylane():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, name = project["entry-points"]["pennylane.plugins"][NAME].split(":")
    assert getattr(sys.modules[module], name) is StatevectorDevice


def registered(folder):
    """The environment of a process to which the entry point of this checkout is known, whatever is installed."""
    installed = folder / "qtl_tested-0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: qtl-tested\nVersion: 0\n")
    (installed / "entry_points.txt").write_text(
        f"[pennylane.plugins]\n{NAME} = qtl_utils.circuits.pennylane_device:StatevectorDevice\n"
    )
    paths = [str(folder), str(PROJECT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def test_the_example_of_the_documentation_runs(tmp_path):
    text = (PROJECT / "docs" / "pennylane_device.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    example += "\nprint(tuple(out.shape), float(weights.grad.abs().sum()) > 0, type(device).__name__)"
    done = subprocess.run(
        [sys.executable, "-c", example],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=registered(tmp_path),
    )
    assert done.stdout.splitlines()[-1:] == ["(32, 4) True StatevectorDevice"], done.stderr


@pytest.mark.slow
def test_it_passes_pennylanes_own_tests_of_devices(tmp_path):
    suite = ["--device", NAME, "--shots", "None", "--skip-ops", "--tb=short", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-c", "from pennylane.devices.tests import cli; cli()", *suite],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=registered(tmp_path),
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 300  # 375 with PennyLane 0.45, and few are skipped
