"""Devices: transpiled circuits with a calibration's noise against Qiskit Aer, and everything without a network."""

from dataclasses import fields
from functools import cache
from types import SimpleNamespace

import numpy as np
import pennylane as qml
import pytest
import torch
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.quantum_info import SuperOp
from qiskit.transpiler import Target
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel
from qiskit_aer.noise.device import basic_device_gate_errors, basic_device_readout_errors

from qtl_utils.circuits.ansatze import ANSATZE, make_circuit
from qtl_utils.circuits.density import simulate_noisy
from qtl_utils.circuits.device_costs import JOB_OVERHEAD, RATE, circuit_facts, device_facts, modelled_cost
from qtl_utils.circuits.devices import (
    DEVICES,
    calibration,
    device_program,
    linear_angles,
    load_backend,
    noisy_program,
    transpile_to,
)
from qtl_utils.circuits.layer import QuantumLayer, evaluated_on, with_simulator
from qtl_utils.circuits.program import INPUT, WEIGHT
from qtl_utils.circuits.statevector import Statevector
from qtl_utils.data.splits import Splits
from qtl_utils.models.heads import HeadSettings, make_head
from qtl_utils.study.config import TrainConfig
from qtl_utils.training.fits import Rates, make_replicas
from qtl_utils.training.many import fit_heads
from qtl_utils.training.variants import head_settings

WIRES, DEPTH = 4, 2


pytestmark = pytest.mark.usefixtures("no_network")


@cache
def transpiled(name, ansatz="mari2019", idle=False):
    shape = ANSATZE[ansatz].shape(WIRES, DEPTH)
    return transpile_to(load_backend(name), make_circuit(ansatz, "tanh", WIRES), WIRES, shape, idle=idle)


def angles_for(done, batch=2):
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, len(done.inputs)), done.weight_shape
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def aer_errors(backend, done, **parts):
    """Aer's error by gate and qubits, for those of the circuit only: of the whole backend it takes a minute."""
    known = backend.target
    places = {(i.operation.name, tuple(done.circuit.find_bit(q).index for q in i.qubits)) for i in done.circuit.data}
    target = Target(num_qubits=known.num_qubits, dt=known.dt, qubit_properties=known.qubit_properties)
    for gate in sorted({name for name, _ in places} - {"measure", "barrier", "delay"}):
        kept = {place: known[gate][place] for name, place in places if name == gate}
        target.add_instruction(known.operation_from_name(gate), kept, name=gate)
    return {(name, place): SuperOp(error) for name, place, error in basic_device_gate_errors(target=target, **parts)}


def aer_probabilities(done, x, w, errors=(), model=None):
    """Of every bit string, bit w of the index from wire w, as Aer's density matrix has them before the readout.

    With `errors` behind the gates, as they are; or with a noise `model`, of which Aer leaves out improbable terms.
    """
    bound = dict(zip(done.inputs, x.tolist(), strict=True)) | dict(zip(done.weights, w.flatten().tolist(), strict=True))
    circuit = QuantumCircuit(done.circuit.num_qubits)
    for item in done.circuit.data:
        qubits = tuple(done.circuit.find_bit(q).index for q in item.qubits)
        if item.operation.name not in ("measure", "barrier"):
            circuit.append(item.operation, qubits)
        if (item.operation.name, qubits) in errors:
            circuit.append(errors[item.operation.name, qubits].to_instruction(), qubits)
    circuit.assign_parameters({p: v for p, v in bound.items() if p in circuit.parameters}, inplace=True)
    circuit.save_probabilities(qubits=list(done.qubits[: done.n_wires]))
    simulator = AerSimulator(method="density_matrix", n_qubits=circuit.num_qubits)
    return np.array(simulator.run(circuit, noise_model=model, shots=1).result().data()["probabilities"])


def read_by(backend, done, probabilities):
    """The same after Aer's readout errors."""
    rows = {qubit: error.probabilities for (qubit,), error in basic_device_readout_errors(calibration(backend))}
    probabilities = probabilities.reshape((2,) * done.n_wires)
    for wire, qubit in enumerate(done.qubits[: done.n_wires]):
        axis = done.n_wires - 1 - wire
        read = np.tensordot(rows[qubit].T, probabilities, (1, axis))  # Aer's rows are those of the true bit
        probabilities = np.moveaxis(read, 0, axis)
    return probabilities.reshape(-1)


def expectations(done, probabilities):
    bits = np.arange(2**done.n_wires)
    return [(probabilities * (1 - 2 * (bits >> wire & 1))).sum() for wire in range(done.n_wires)]


# ---- against Aer


@pytest.mark.parametrize("name", DEVICES)
def test_outputs_are_those_of_aer_with_the_noise_of_the_calibration(name):
    backend, done = load_backend(name), transpiled(name)
    x, w = angles_for(done, batch=1)
    exact = aer_probabilities(done, x[0], w, aer_errors(backend, done))
    found = simulate_noisy(noisy_program(done, backend), x, w)[0]
    np.testing.assert_allclose(found, expectations(done, read_by(backend, done, exact)), atol=1e-10, rtol=0)


@pytest.mark.parametrize(("ansatz", "idle"), [("strongly_entangling", False), ("reuploading", True)])
def test_before_the_readout_it_is_the_noise_model_of_the_whole_backend(ansatz, idle):
    same_as_whole("manila", ansatz, idle)


@pytest.mark.slow
@pytest.mark.parametrize("name", DEVICES)
def test_it_is_the_noise_model_of_the_whole_backend_on_every_device(name):
    same_as_whole(name, "mari2019", idle=True)


def same_as_whole(name, ansatz, idle):
    backend, done = load_backend(name), transpiled(name, ansatz, idle)
    x, w = angles_for(done, batch=1)
    exact = aer_probabilities(done, x[0], w, model=NoiseModel.from_backend(backend))
    found = simulate_noisy(noisy_program(done, backend, readout_error=False), x, w)[0]
    np.testing.assert_allclose(found, expectations(done, exact), atol=1e-8, rtol=0)


@pytest.mark.parametrize("part", ["gate_error", "thermal_relaxation"])
def test_a_part_of_the_noise_is_left_out_as_aer_leaves_it_out(part):
    backend, done = load_backend("yorktown"), transpiled("yorktown")
    x, w = angles_for(done, batch=1)
    exact = aer_probabilities(done, x[0], w, aer_errors(backend, done, **{part: False}))
    found = simulate_noisy(noisy_program(done, backend, readout_error=False, **{part: False}), x, w)[0]
    np.testing.assert_allclose(found, expectations(done, exact), atol=1e-10, rtol=0)


@pytest.mark.parametrize("ansatz", ANSATZE)
def test_without_noise_it_is_the_circuit_that_was_asked_for(ansatz):
    done = transpiled("manila", ansatz)
    x, w = angles_for(done)
    exact = Statevector(make_circuit(ansatz, "tanh", WIRES), WIRES, done.weight_shape)(x, w)
    program = noisy_program(done, load_backend("manila"), False, False, False)
    torch.testing.assert_close(simulate_noisy(program, x, w), exact, atol=1e-10, rtol=0)


def test_products_of_bits_are_read_through_all_their_errors():
    def circuit(inputs, weights):
        for wire in range(2):
            qml.RY(inputs[..., wire], wires=wire)
        return [qml.expval(qml.Y(0) @ qml.Z(1) + 0.5 * qml.Z(1)), qml.expval(qml.Y(0))]

    backend = load_backend("yorktown")
    done = transpile_to(backend, circuit, 2, (0,))
    x, w = angles_for(done, batch=1)
    read = read_by(backend, done, aer_probabilities(done, x[0], w, aer_errors(backend, done)))
    z0, z1 = np.array([1, -1, 1, -1]), np.array([1, 1, -1, -1])
    expected = np.array([z0 * z1 + 0.5 * z1, z0]) @ read
    np.testing.assert_allclose(simulate_noisy(noisy_program(done, backend), x, w)[0], expected, atol=1e-10, rtol=0)


# ---- transpiling


@pytest.mark.parametrize("name", DEVICES)
def test_the_registry_says_what_the_snapshot_says(name):
    backend, row = load_backend(name), DEVICES[name]
    assert backend.num_qubits == row.n_qubits
    assert calibration(backend).last_update_date.date().isoformat() == row.calibrated
    kind = backend.configuration().processor_type
    family, revision = row.generation.split(" r")
    assert (kind["family"], float(kind["revision"])) == (family, float(revision))


def test_sums_of_angles_become_turns_in_a_row():
    x, w = ParameterVector("x", 2), ParameterVector("w", 3)
    elements = {p: (INPUT, i) for i, p in enumerate(x)} | {p: (WEIGHT, i) for i, p in enumerate(w)}
    found = list(linear_angles(2 * x[1] - w[2] / 4 + np.pi, elements))
    assert [(a.source, a.index) for a in found] == [(INPUT, 1), (WEIGHT, 2)]
    np.testing.assert_allclose([(a.factor, a.offset) for a in found], [(2, np.pi), (-0.25, 0)], atol=1e-12)


def test_only_basis_gates_are_used_and_wires_lie_where_the_device_is_good():
    done, facts = transpiled("fez"), device_facts("fez")
    assert {item.operation.name for item in done.circuit.data} <= {"rz", "sx", "x", "cz", "measure", "barrier"}
    pairs = [done.circuit.find_bit(q).index for i in done.circuit.data if i.operation.name == "cz" for q in i.qubits]
    errors = [done.target["cz"][tuple(pair)].error for pair in np.reshape(pairs, (-1, 2)).tolist()]
    assert len(errors) == circuit_facts(done)["two-qubit gates"] == 3 * DEPTH
    assert np.mean(errors) < facts["two-qubit error"]


def test_the_same_seed_gives_the_same_circuit():
    def told(done):
        return [
            (i.operation.name, str(i.operation.params), [done.circuit.find_bit(q).index for q in i.qubits])
            for i in done.circuit.data
        ]

    again = transpile_to(load_backend("fez"), make_circuit("mari2019", "tanh", WIRES), WIRES, (DEPTH, WIRES))
    assert told(again) == told(transpiled("fez"))


def test_routing_may_use_more_qubits_than_the_circuit_has():
    def star(inputs, weights):
        for wire in range(5):
            qml.RY(inputs[..., wire], wires=wire)
        for a in range(5):
            for b in range(a):
                qml.CNOT(wires=[a, b])
        return [qml.expval(qml.Z(wire)) for wire in range(5)]

    done = transpile_to(load_backend("kolkata"), star, 5, (0,))
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[None]
    program = noisy_program(done, load_backend("kolkata"), False, False, False)
    assert program.n_qubits == len(done.qubits) >= 5
    exact = Statevector(star, 5, (0,))(x, torch.zeros(0, dtype=torch.float64))
    torch.testing.assert_close(
        simulate_noisy(program, x, torch.zeros(0, dtype=torch.float64)), exact, atol=1e-10, rtol=0
    )


def test_what_a_device_cannot_run_is_refused():
    circuit = make_circuit("mari2019", "tanh", 6)
    with pytest.raises(ValueError, match="fake_manila has 5 qubits, and the circuit 6; use fewer"):
        device_program(circuit, 6, (1, 6), "manila")
    with pytest.raises(ValueError, match="unknown device 'manilla'; known: .* did you mean 'manila'"):
        device_program(circuit, 6, (1, 6), "manilla")
    with pytest.raises(ValueError, match="a device measures a wire in one way, and the circuit returns several"):
        device_program(lambda inputs, weights: [qml.expval(qml.X(0)), qml.expval(qml.Z(0))], 1, (0,), "manila")
    wide = make_circuit("separable", "tanh", 9)
    with pytest.raises(ValueError, match="touches 9 qubits of fake_kolkata, and density matrices go up to 8"):
        device_program(wide, 9, (0, 9), "kolkata")


# ---- what it costs


@pytest.mark.parametrize("name", DEVICES)
def test_facts_are_within_what_devices_are_like(name):
    facts = device_facts(name) | circuit_facts(transpiled(name))
    assert 1e-5 < facts["T2"] < 1e-3
    assert 1e-5 < facts["one-qubit error"] < facts["two-qubit error"] < facts["readout error"] * 10 < 1
    assert facts["two-qubit gates"] >= 3 * DEPTH
    assert 1e-7 < facts["duration"] < 1e-4


def test_the_modelled_cost_is_the_sum_that_it_says():
    cost = modelled_cost("fez", duration=1e-5, circuits=100, shots=1000, jobs=2)
    assert cost["executions"] == 100_000
    assert cost["seconds"] == pytest.approx(2 * JOB_OVERHEAD + 100_000 * (1e-5 + 250e-6))
    assert cost["USD"] == pytest.approx(cost["seconds"] * RATE.usd_per_second)


# ---- layers and studies


def layer(name="manila", **options):
    torch.manual_seed(0)
    return QuantumLayer(WIRES, DEPTH, angle_init=1.0, simulator="device", device_name=name, **options).double()


def test_a_layer_runs_on_a_device_and_learns_through_its_noise():
    module, x = layer(), angles_for(transpiled("manila"))[0]
    program = noisy_program(transpiled("manila"), load_backend("manila"))
    torch.testing.assert_close(module(x), simulate_noisy(program, x, module.weights), atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(lambda w: module(x, w), module.weights)
    assert "device (numba) manila, adjoint" in repr(module)


def test_a_trained_head_is_evaluated_on_a_device_with_its_own_angles():
    head = make_head("A", HeadSettings(3, 2, WIRES, DEPTH, angle_init=1.0), seed=0).double()
    noisy, x = evaluated_on(head, "yorktown"), torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    assert torch.equal(noisy[2].weights, head[2].weights)
    assert noisy[2].weights is not head[2].weights
    angles = head[:2](x)
    assert 0.01 < (noisy[2](angles) - head[2](angles)).abs().max() < 0.5
    assert head[2].simulator == "statevector"
    torch.testing.assert_close(with_simulator(noisy, "statevector")(x), head(x), atol=1e-12, rtol=0)


@torch.no_grad()
def test_a_device_can_be_asked_for_where_nothing_is_differentiated():
    x = torch.tensor([[1.2, -0.9]]).double()
    found = QuantumLayer(2, 1, angles="zero", simulator="device", device_name="manila").double()(x)
    wanted = -torch.stack([x[:, 0].sin(), -x[:, 0].sin() * x[:, 1].sin()], -1)  # H, RY and a CNOT
    assert (wanted.abs() > 0.5).all() and (found - wanted).abs().max() < 0.15


def test_many_seeds_train_on_a_device_as_each_alone():
    features, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), np.arange(6) % 2
    splits = Splits("repeated", np.array([["train"] * 4 + ["validation"] * 2]))
    settings = HeadSettings(3, 2, WIRES, 1, angle_init=1.0, simulator="device", device_name="manila")
    config = TrainConfig(epochs=1, batch_size=2, simulator="device", device_name="manila")

    def angles(seeds):
        replicas = make_replicas(seeds, 1, [Rates(0.05, 0.05, 0.05)])
        fit = fit_heads(lambda seed: make_head("A", settings, seed), features, labels, splits, replicas, config)
        assert fit.path == "torch (its circuit runs on device)"
        return fit.weights["2.weights"]

    torch.testing.assert_close(angles(range(2)), torch.cat([angles([0]), angles([1])]), atol=1e-12, rtol=0)


def test_heads_get_every_setting_of_a_run():
    config = TrainConfig(simulator="device", device_name="manila", shots=7, diff_method="spsa", n_qubits=3, depth=2)
    inputs = SimpleNamespace(features=np.zeros((1, 5)), data=SimpleNamespace(classes=("a", "b")))
    settings = head_settings(inputs, config)
    shared = {field.name for field in fields(HeadSettings)} & TrainConfig.model_fields.keys()
    assert {"device_name", "shots"} < shared
    assert {name: getattr(settings, name) for name in shared} == {name: getattr(config, name) for name in shared}


def test_device_and_its_name_go_together():
    for options in ({"simulator": "device"}, {"device_name": "manila"}):
        with pytest.raises(ValueError, match="simulator='device' needs a device_name, and no other does; known: york"):
            QuantumLayer(2, 1, **options)
    with pytest.raises(ValueError, match="unknown device 'vigo'"):
        QuantumLayer(2, 1, simulator="device", device_name="vigo")
    with pytest.raises(ValueError, match="shots need simulator='density' or 'device', not 'statevector'"):
        QuantumLayer(2, 1, shots=10)


def test_shots_scatter_about_the_exact_values_of_the_device():
    x = angles_for(transpiled("manila"))[0]
    exact, sampled = layer()(x), layer(shots=4000)(x)
    torch.testing.assert_close(sampled, exact, atol=5 / 4000**0.5, rtol=0)  # five standard errors at most
    assert not torch.equal(sampled, exact)
