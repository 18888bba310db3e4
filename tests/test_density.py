"""The density-matrix simulator against default.mixed, Qiskit Aer and closed forms; shots, shifts, layers, refusals."""

import copy
import math
import pickle
from functools import partial

import numpy as np
import pennylane as qml
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_channels import PENNYLANE, random_kraus
from test_statevector import circuits, quantum_function, with_gradients
from torch.func import functional_call, grad, vmap

from qtl_utils.circuits import channels, density, noisy_program
from qtl_utils.circuits.ansatze import ANSATZE, make_circuit
from qtl_utils.circuits.channels import NoiseModel, Readout, Rule
from qtl_utils.circuits.density import Density, executions, simulate_noisy
from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.circuits.noisy_program import compile_noisy
from qtl_utils.circuits.program import UnsupportedCircuitError, compile_circuit
from qtl_utils.circuits.statevector import simulate

EXECUTORS = ("numba", "torch")
DAMPED = NoiseModel.after_every_gate(channels.amplitude_damping(0.02), channels.depolarizing(0.01))
MISREAD = (Readout(0.02, 0.07), Readout(0.1, 0.0, wire=1))
NAMES = {"PauliX", "PauliY", "PauliZ", "QubitUnitary", "RX", "RY", "CNOT", "CRX", "Rot", "Toffoli", "Hadamard", "ISWAP"}


def draw(*shape, seed=0, dtype=torch.float64):
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def mari(n_qubits=4, depth=2, noise=DAMPED):
    return compile_noisy(make_circuit("mari2019", "tanh", n_qubits), n_qubits, (depth, n_qubits), noise)


def on_default_mixed(circuit, n_qubits, noise=None):
    """A quantum function on default.mixed, under PennyLane's own noise model."""
    device = qml.device("default.mixed", wires=n_qubits)
    node = qml.QNode(circuit, device, interface="torch", diff_method="backprop")
    node = node if noise is None else qml.noise.add_noise(node, noise)

    def run(inputs, weights):
        torch.set_default_dtype(torch.float64)  # or its Hadamard gate is rounded to float32
        try:
            # one by one: a batch of angles of PhaseShift loses its gradient
            return torch.stack([torch.stack(tuple(node(x, weights))) for x in inputs]).real
        finally:
            torch.set_default_dtype(torch.float32)

    return run


@st.composite
def noise_models(draw):
    """Rules by the names of gates, ours and PennyLane's."""
    ours, theirs = [], {}
    for name in draw(st.lists(st.sampled_from(sorted(NAMES)), unique=True, max_size=5)):
        seed = draw(st.integers(0, 99))
        if name in ("CNOT", "CRX", "ISWAP") and draw(st.booleans()):
            found, make = PENNYLANE["pauli_words"]
            if draw(st.booleans()):
                operators = random_kraus(2, seed)
                found, make = channels.kraus(operators), lambda w, k=operators: qml.QubitChannel(k, wires=w)
        elif draw(st.booleans()):
            found, make = PENNYLANE[draw(st.sampled_from(sorted(set(PENNYLANE) - {"pauli_words"})))]
        else:
            operators = random_kraus(1, seed)
            found, make = channels.kraus(operators), lambda w, k=operators: qml.QubitChannel(k, wires=w)
        ours.append(Rule((found,), (name,)))

        def noise(op, wide=found.n_qubits == 2, make=make, **_):
            for wires in [op.wires] if wide else op.wires:
                make(wires)

        theirs[qml.noise.op_eq(name)] = noise
    return NoiseModel(tuple(ours)), qml.NoiseModel(theirs)


def assert_same(found, expected, atol):
    for value, wanted in zip(found, expected, strict=True):
        # an error of the whole: a sum of many terms near 1 is rounded more than one of them
        scale = max(1.0, wanted.nan_to_num().abs().max().item())
        known = wanted.isfinite()  # reverse mode through CRX on default.mixed makes NaN of some
        assert value.isfinite().all()
        torch.testing.assert_close(value[known].double(), wanted[known].double(), atol=atol * scale, rtol=0)


def assert_like_default_mixed(drawn, models):
    n, gates, words = drawn
    ours, theirs = models
    circuit = quantum_function(gates, words)
    program = compile_noisy(circuit, n, (4,), ours, 4)
    inputs, weights, cotangent = draw(3, 4, seed=1), draw(4, seed=2), draw(3, len(words), seed=3) / 4
    expected = with_gradients(on_default_mixed(circuit, n, theirs), inputs, weights, cotangent)
    for executor in EXECUTORS:
        run = lambda x, w, e=executor: simulate_noisy(program, x, w, e)  # noqa: E731
        assert_same(with_gradients(run, inputs, weights, cotangent), expected, 1e-10)
        single = with_gradients(run, inputs.float(), weights.float(), cotangent.float())
        assert_same(single, expected, 3e-5)


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[__import__("hypothesis").Phase.generate],
)
@given(circuits(3), noise_models())
def test_random_circuits_and_channels_equal_default_mixed(drawn, models):
    assert_like_default_mixed(drawn, models)


@pytest.mark.slow
@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(circuits(6), noise_models())
def test_larger_random_circuits_and_channels_equal_default_mixed(drawn, models):
    assert_like_default_mixed(drawn, models)


def on_aer(gates, n_qubits, noise_model):
    """<Z> of every qubit, of gates as (name, qubits, angle), from Aer's density matrix."""
    from qiskit import QuantumCircuit
    from qiskit.quantum_info import Pauli
    from qiskit_aer import AerSimulator

    circuit = QuantumCircuit(n_qubits)
    for name, wires, angle in gates:
        getattr(circuit, name)(*([] if angle is None else [angle]), *wires)
    circuit.save_density_matrix()
    simulator = AerSimulator(method="density_matrix", noise_model=noise_model)
    rho = simulator.run(circuit, shots=1).result().data()["density_matrix"]
    return [rho.expectation_value(Pauli("Z"), [w]).real for w in range(n_qubits)]


AER_GATES = {"rx": "RX", "ry": "RY", "rz": "RZ", "h": "Hadamard", "cx": "CNOT", "cz": "CZ", "swap": "SWAP"}


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data(), st.integers(1, 6), st.integers(0, 99))
def test_random_circuits_and_channels_equal_qiskit_aer(data, n, seed):
    noise = pytest.importorskip("qiskit_aer.noise")
    from qiskit.quantum_info import Kraus

    names = [name for name in AER_GATES if n > 1 or name not in ("cx", "cz", "swap")]
    gates = []
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=20)):
        wires = data.draw(st.permutations(range(n)))[: 2 if name in ("cx", "cz", "swap") else 1]
        gates.append((name, wires, data.draw(st.floats(-7, 7)) if name in ("rx", "ry", "rz") else None))
    operators = random_kraus(1, seed)
    theirs = noise.NoiseModel()
    theirs.add_all_qubit_quantum_error(noise.depolarizing_error(0.11, 1), ["rx", "h"])
    theirs.add_all_qubit_quantum_error(noise.thermal_relaxation_error(50.0, 70.0, 9.0, 0.2), ["ry"])
    theirs.add_all_qubit_quantum_error(noise.kraus_error([*operators]), ["rz"])
    theirs.add_all_qubit_quantum_error(noise.depolarizing_error(0.2, 2), ["cx"])
    wide = [np.kron(b, a) for a in random_kraus(1, seed + 1) for b in random_kraus(1, seed + 2)]  # last qubit first
    theirs.add_all_qubit_quantum_error(noise.QuantumError(Kraus(wide)), ["cz"])
    beside = channels.kraus(random_kraus(1, seed + 1)).beside(channels.kraus(random_kraus(1, seed + 2)))
    ours = NoiseModel(
        (
            Rule((channels.depolarizing(0.11),), ("RX", "Hadamard")),
            Rule((channels.thermal_relaxation(50.0, 70.0, 9.0, 0.2),), ("RY",)),
            Rule((channels.kraus(operators),), ("RZ",)),
            Rule((channels.depolarizing(0.2, 2),), ("CNOT",)),
            Rule((beside,), ("CZ",)),
        )
    )

    def circuit(inputs, weights):
        for name, wires, angle in gates:
            getattr(qml, AER_GATES[name])(*([] if angle is None else [angle]), wires=wires)
        return [qml.expval(qml.PauliZ(w)) for w in range(n)]

    program = compile_noisy(circuit, n, (1,), ours)
    expected = on_aer(gates, n, theirs)
    for executor in EXECUTORS:
        found = simulate_noisy(program, torch.zeros(n).double(), torch.zeros(1).double(), executor)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("ansatz", ANSATZE)
def test_without_noise_it_is_the_statevector(ansatz, executor):
    circuit = make_circuit(ansatz, "tanh", 4)
    shape = ANSATZE[ansatz].shape(4, 2)
    given = draw(9, 4), draw(*shape, seed=1), draw(9, 4, seed=2) / 4
    exact = compile_circuit(circuit, 4, shape)
    expected = with_gradients(lambda x, w: simulate(exact, x, w), *given)
    program = compile_noisy(circuit, 4, shape)
    assert_same(with_gradients(lambda x, w: simulate_noisy(program, x, w, executor), *given), expected, 1e-12)


def test_templates_and_adjoints_have_noise_where_pennylane_inserts_it():
    def circuit(inputs, weights, more=False):
        qml.AngleEmbedding(inputs, wires=range(3), rotation="Y")
        qml.StronglyEntanglingLayers(weights, wires=range(3))
        qml.adjoint(qml.RY)(weights[..., 0, 0, 0], wires=1)
        qml.Identity(0)
        qml.AmplitudeDamping(0.3, wires=2)
        if more:  # what insert puts behind the channel, which is no gate to us
            qml.DepolarizingChannel(0.05, wires=2)
        return [qml.expval(qml.PauliZ(w)) for w in range(3)]

    noisy = qml.noise.insert(circuit, qml.DepolarizingChannel, 0.05, position="all")
    inputs, weights = draw(3), draw(1, 3, 3, seed=1)
    expected = on_default_mixed(noisy, 3)(inputs[None], weights)[0]
    noise = NoiseModel.after_every_gate(channels.depolarizing(0.05, convention="pennylane"))

    plain = partial(circuit, more=True)
    for function, model in ((noisy, None), (plain, noise)):
        found = simulate_noisy(compile_noisy(function, 3, (1, 3, 3), model), inputs, weights)
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_gradients_are_central_differences():
    program = mari(noise=NoiseModel(DAMPED.rules, MISREAD))
    inputs, weights, cotangent = draw(2, 4), draw(2, 4, seed=1), draw(2, 4, seed=2)
    value = lambda w: (simulate_noisy(program, inputs, w) * cotangent).sum()  # noqa: E731
    weights.requires_grad_()
    (found,) = torch.autograd.grad(value(weights), weights)
    steps = 1e-4 * torch.eye(8, dtype=torch.float64).reshape(8, 2, 4)
    expected = torch.stack([(value(weights + h) - value(weights - h)) / 2e-4 for h in steps])
    torch.testing.assert_close(found.flatten(), expected.detach(), atol=1e-7, rtol=0)


def test_maps_are_fused_without_changing_results(monkeypatch):
    few = mari()
    monkeypatch.setattr(noisy_program, "fused", tuple)
    many = mari()
    assert len(few.operations) < 0.6 * len(many.operations)
    for executor in EXECUTORS:
        found, expected = (simulate_noisy(p, draw(5, 4), draw(2, 4, seed=1), executor) for p in (few, many))
        torch.testing.assert_close(found, expected, atol=1e-14, rtol=0)


def test_words_that_are_always_zero_take_part_in_nothing():
    program = mari()
    plan = density.density_cpu.plan_of(program, program.words)
    ys = (np.arange(256)[:, None] >> 2 * np.arange(4) & 3 == 2).sum(axis=1)
    # the density matrices of this circuit are real
    assert not any(active[ys % 2 == 1].any() for active in plan.stages.active)


# ---- replicas, vmap, threads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("method", ["adjoint", "parameter-shift"])
def test_replicas_are_runs_of_their_own(executor, method):
    program = mari(3, 2)
    inputs, weights, cotangent = draw(2, 2, 5, 3), draw(2, 2, 2, 3, seed=1), draw(2, 2, 5, 3, seed=2)
    run = lambda x, w: simulate_noisy(program, x, w, executor, method)  # noqa: E731
    found = with_gradients(run, inputs, weights, cotangent)
    for i in range(2):
        for k in range(2):
            alone = with_gradients(run, inputs[i, k], weights[i, k], cotangent[i, k])
            for value, expected in zip(found, alone, strict=True):
                torch.testing.assert_close(value[i, k], expected, atol=1e-14, rtol=0)
    shared = with_gradients(run, inputs, weights[0, 0], cotangent)
    apart = with_gradients(run, inputs, weights[0, 0].expand_as(weights), cotangent)
    assert_same(shared, [apart[0], apart[1], apart[2].sum((0, 1))], 1e-13)
    torch.testing.assert_close(run(inputs[0, 0, 0], weights[0, 0]), found[0][0, 0, 0], atol=1e-14, rtol=0)


@pytest.mark.parametrize(
    ("executor", "method"),
    [("numba", "adjoint"), ("torch", "adjoint"), ("torch", "backprop"), ("numba", "parameter-shift")],
)
def test_vmap_is_a_loop(executor, method):
    program = mari(3, 2)
    inputs, weights = draw(5, 3), draw(4, 2, 3, seed=1)
    run = lambda w, x=inputs: simulate_noisy(program, x, w, executor, method)  # noqa: E731
    torch.testing.assert_close(vmap(run)(weights), torch.stack([run(w) for w in weights]), atol=1e-14, rtol=0)
    slope = grad(lambda w: run(w).square().sum())
    expected = torch.stack([torch.autograd.functional.jacobian(lambda v: run(v).square().sum(), w) for w in weights])
    torch.testing.assert_close(vmap(slope)(weights), expected, atol=1e-13, rtol=0)


def test_results_do_not_depend_on_threads():
    program = mari(6, 2)
    given = draw(40, 6), draw(2, 6, seed=1), draw(40, 6, seed=2)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(with_gradients(lambda x, w: simulate_noisy(program, x, w), *given))
        shots = simulate_noisy(program, *given[:2], diff_method="parameter-shift", shots=7, seed=3)
        found[-1].append(shots)
    torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


# ---- methods that run other circuits ---------------------------------------------------------------------------------


def reuploaded(noise=DAMPED):
    """A circuit whose inputs enter twice, with factors, and whose gates turn about several words."""

    def circuit(inputs, weights):
        for k in range(2):
            qml.RX(0.7 * inputs[..., 0] + 0.2, wires=0)
            qml.RY(inputs[..., 1], wires=1)
            qml.CRZ(2 * weights[..., k], wires=[0, 1])
            qml.CNOT([0, 1])
        return [qml.expval(qml.X(0) + 0.5 * qml.Z(1)), qml.expval(qml.X(0) @ qml.Z(1))]

    return compile_noisy(circuit, 2, (2,), noise)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("program", [mari(3, 2), reuploaded()], ids=["mari", "reuploaded"])
def test_exact_parameter_shift_is_the_adjoint_method(program, executor):
    n = program.n_qubits
    given = draw(3, n), draw(*program.weight_shape, seed=1), draw(3, len(program.offsets), seed=2)
    by = lambda method: with_gradients(lambda x, w: simulate_noisy(program, x, w, executor, method), *given)  # noqa: E731
    assert_same(by("parameter-shift"), by("adjoint"), 1e-10)
    assert_same(by("finite-diff"), by("adjoint"), 1e-6)


def test_random_directions_average_to_the_gradient():
    program = reuploaded()
    given = draw(2, 2), draw(2, seed=1), draw(2, 2, seed=2)
    run = lambda x, w, **o: simulate_noisy(program, x, w, seed=0, **o)  # noqa: E731
    exact = with_gradients(run, *given)
    options = {"diff_method": "spsa", "step": 1e-4}
    few = with_gradients(lambda x, w: run(x, w, directions=1, **options), *given)
    size = max(e.abs().max().item() for e in exact[1:])
    drawn = [
        with_gradients(lambda x, w, s=s: simulate_noisy(program, x, w, seed=s, directions=500, **options), *given)[1:]
        for s in range(16)
    ]
    for wanted, estimates in zip(exact[1:], zip(*drawn, strict=True), strict=True):
        estimates = torch.stack(estimates)
        error = estimates.std(0) / math.sqrt(len(estimates))
        assert ((estimates.mean(0) - wanted).abs() < 6 * error + 1e-6 * size).all()
        assert error.max() < 0.05 * size  # so that a bias of a third would show
    assert any((f - e).abs().max() > 0.01 * size for f, e in zip(few[1:], exact[1:], strict=True))


@pytest.mark.parametrize("method", density.DIFF_METHODS)
def test_executions_are_counted(method):
    run = Density(make_circuit("reuploading", "tanh", 2), 2, (1, 2, 2), DAMPED, diff_method=method)
    inputs, weights = draw(3, 2).requires_grad_(), draw(1, 2, 2, seed=1).requires_grad_()
    run(inputs, weights).sum().backward()
    assert run.executions == 3 * executions(run.program, method)
    run(inputs.detach(), weights).sum().backward()
    assert run.executions == 3 * (executions(run.program, method) + executions(run.program, method, inputs=False))
    run(inputs.detach(), weights.detach())
    assert executions(run.program, method, inputs=False, weights=False) >= 1


# ---- readout errors and shots ----------------------------------------------------------------------------------------


def prepared(angle, noise):
    """RY(angle) on both of two wires; <Z0>, <Z0 Z1> and 2 <Z1> - 1."""

    def circuit(inputs, weights):
        for wire in range(2):
            qml.RY(inputs[..., 0], wires=wire)
        one, other = qml.Z(0), qml.Z(1)
        return [qml.expval(one), qml.expval(one @ other), qml.expval(2 * other - qml.I(0))]

    program = compile_noisy(circuit, 2, (1,), noise, n_inputs=1)
    return program, torch.full((1, 1), angle, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)


def test_readout_errors_are_the_closed_form():
    program, *given = prepared(0.9, NoiseModel((), MISREAD))
    z = math.cos(0.9)
    zero, one = (1 - 0.02 - 0.07) * z + 0.07 - 0.02, (1 - 0.1) * z - 0.1
    for executor in EXECUTORS:
        found = simulate_noisy(program, *given, executor)
        assert found[0].tolist() == pytest.approx([zero, zero * one, 2 * one - 1], abs=1e-14)


@pytest.mark.parametrize("letter", ["X", "Y", "Z"])
def test_equal_readout_errors_are_flips_before_the_measurement(letter):
    def circuit(inputs, weights, flip=lambda p, wires: None):
        qml.StronglyEntanglingLayers(weights, wires=range(2))
        for wire in range(2):
            flip(0.1, wires=wire)
        return [qml.expval(getattr(qml, letter)(w)) for w in range(2)]

    weights = draw(2, 2, 3)
    flip = qml.PhaseFlip if letter == "X" else qml.BitFlip
    expected = on_default_mixed(partial(circuit, flip=flip), 2)(draw(1, 2), weights)
    program = compile_noisy(circuit, 2, (2, 2, 3), NoiseModel((), (Readout(0.1, 0.1),)))
    torch.testing.assert_close(simulate_noisy(program, draw(1, 2), weights), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_shots_have_the_mean_and_the_variance_of_a_binomial(executor):
    program, *given = prepared(0.9, NoiseModel((), MISREAD))
    exact = simulate_noisy(program, *given)[0].numpy()
    shots, draws = 50, 4000
    inputs = given[0].expand(draws, 1)
    found = simulate_noisy(program, inputs, given[1], executor, "parameter-shift", shots, seed=1).numpy()
    scale = np.array([1, 1, 2])  # outputs are -1 or 1, the last one twice that and moved
    variance = scale**2 * (1 - ((exact + np.array([0, 0, 1])) / scale) ** 2) / shots
    # five standard errors of a mean, and of a variance (that of a near-normal quantity: 2 v^2 / N)
    np.testing.assert_array_less(abs(found.mean(axis=0) - exact), 5 * np.sqrt(variance / draws))
    np.testing.assert_array_less(abs(found.var(axis=0) / variance - 1), 5 * math.sqrt(2 / draws) * 1.2)
    bits = (found[:, 0] + 1) / 2 * shots
    np.testing.assert_allclose(bits, bits.round(), atol=1e-9)


def test_both_bits_of_a_shot_come_from_one_state():
    def bell(inputs, weights):
        qml.Hadamard(0)
        qml.CNOT([0, 1])
        return [qml.expval(qml.Z(0)), qml.expval(qml.Z(1)), qml.expval(qml.Z(0) @ qml.Z(1))]

    program = compile_noisy(bell, 2, (1,))
    given = draw(20, 2), draw(1)
    found = simulate_noisy(program, *given, diff_method="spsa", shots=9, seed=0)
    assert torch.equal(found[:, 0], found[:, 1]) and (found[:, 2] == 1).all() and found[:, 0].std() > 0.1


def test_a_seed_repeats_the_draws():
    program = mari()
    one, again, other = (
        simulate_noisy(program, draw(6, 4), draw(2, 4, seed=1), diff_method="spsa", shots=20, seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, again) and not torch.equal(one, other)
    run = Density(make_circuit("mari2019", "tanh", 4), 4, (2, 4), DAMPED, diff_method="spsa", shots=20)
    first = run(draw(6, 4), draw(2, 4, seed=1))
    assert torch.equal(first, one) and not torch.equal(run(draw(6, 4), draw(2, 4, seed=1)), first)


def test_parameter_shift_by_shots_is_unbiased():
    program = reuploaded(NoiseModel(DAMPED.rules, MISREAD))
    cotangent = draw(1, 2, seed=2)
    exact = with_gradients(lambda x, w: simulate_noisy(program, x, w), draw(1, 2), draw(2, seed=1), cotangent)
    repeats = 3000
    run = lambda x, w: simulate_noisy(program, x, w, diff_method="parameter-shift", shots=10, seed=0)  # noqa: E731
    inputs = draw(1, 2).expand(repeats, 1, 2)
    weights = draw(2, seed=1).expand(repeats, 2)
    _, of_inputs, of_weights = with_gradients(run, inputs, weights, cotangent.expand(repeats, 1, 2))
    for found, wanted in ((of_inputs[:, 0], exact[1][0]), (of_weights, exact[2])):
        error = (found.mean(0) - wanted).abs() / (found.std(0) / math.sqrt(repeats))
        assert (error < 5).all() and (found.std(0) > 0.05).all()


def test_moves_in_parts_are_the_same_moves(monkeypatch):
    program = mari(3, 1)
    given = draw(7, 3), draw(1, 3, seed=1), draw(7, 3, seed=2)
    run = lambda x, w: simulate_noisy(program, x, w, diff_method="parameter-shift", shots=5, seed=0)  # noqa: E731
    whole = with_gradients(run, *given)
    monkeypatch.setattr(density, "AT_ONCE", 500)
    assert all(torch.equal(one, other) for one, other in zip(with_gradients(run, *given), whole, strict=True))


# ---- layers ----------------------------------------------------------------------------------------------------------


def noisy_layer(**options):
    torch.manual_seed(0)
    return QuantumLayer(3, 2, angle_init=1.0, simulator="density", noise=DAMPED, **options)


def test_a_layer_of_density_is_the_program_with_its_noise():
    layer, x = noisy_layer(), draw(5, 3, dtype=torch.float32)
    torch.testing.assert_close(layer(x), simulate_noisy(mari(3, 2), x, layer.weights))
    exact = QuantumLayer(3, 2, simulator="statevector")
    exact.load_state_dict(layer.state_dict())
    free = QuantumLayer(3, 2, simulator="density")
    free.load_state_dict(layer.state_dict())
    torch.testing.assert_close(free(x), exact(x))
    assert (layer(x) - exact(x)).abs().max() > 0.01 and "density (numba), noise, 3" not in repr(layer)
    sets = torch.stack([layer.weights, 2 * layer.weights])
    many = vmap(lambda w: functional_call(layer, {"weights": w}, (x,)))(sets)
    torch.testing.assert_close(many, layer(x.expand(2, 5, 3), sets))


def test_layers_with_shots_train_copy_and_travel():
    layer, x = noisy_layer(shots=100), draw(5, 3, dtype=torch.float32)
    assert layer.diff_method == "parameter-shift" and "100 shots" in repr(layer)
    twin, other = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))
    first = layer(x)
    assert torch.equal(twin(x), first) and torch.equal(other(x), first) and not torch.equal(layer(x), first)
    first.square().sum().backward()
    assert (layer.weights.grad != 0).all()
    assert layer.tally.executions == 2 * 5 + 5 * 2 * 6  # the inputs ask for no gradient


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"noise": DAMPED}, "noise needs simulator='density', not 'statevector'"),
        (
            {"shots": 10, "simulator": "default.mixed"},
            "shots need simulator='density' or 'device', not 'default.mixed'",
        ),
        ({"shots": 10, "simulator": "density", "diff_method": "adjoint"}, "'adjoint' needs exact values"),
        ({"shots": 0, "simulator": "density"}, "shots must be a whole number from 1 on"),
        ({"simulator": "density", "diff_method": "hadamard"}, "density differentiates by adjoint, .*not by 'hadamard'"),
        ({"simulator": "density", "diff_method": "backprop", "executor": "numba"}, "use executor='torch'"),
    ],
)
def test_layers_refuse_what_cannot_be_had(options, said):
    with pytest.raises(ValueError, match=said):
        QuantumLayer(2, 1, **options)


def test_programs_refuse_what_they_cannot_run():
    with pytest.raises(ValueError, match="density simulates up to 8 qubits"):
        compile_noisy(make_circuit("mari2019", "tanh", 9), 9, (1, 9))

    def circuit(inputs, weights):
        qml.AmplitudeDamping(inputs[..., 0], wires=0)
        return qml.expval(qml.Z(0))

    with pytest.raises(
        UnsupportedCircuitError, match="density: AmplitudeDamping on wire 0 needs constant numbers.*mixed"
    ):
        compile_noisy(circuit, 1, (1,))

    def two_bases(inputs, weights):
        qml.RX(weights[..., 0], wires=0)
        return [qml.expval(qml.Z(0)), qml.expval(qml.Y(0))]

    program = compile_noisy(two_bases, 1, (1,))
    found = simulate_noisy(program, draw(1), torch.tensor([0.3]).double())
    assert found.tolist() == pytest.approx([math.cos(0.3), -math.sin(0.3)])
    with pytest.raises(ValueError, match="outputs that share a wire must measure it by one letter"):
        simulate_noisy(program, draw(1), draw(1), diff_method="spsa", shots=3)


def test_angles_that_are_no_numbers_are_refused_or_stay_in_their_replica():
    program = mari(2, 1)
    weights = draw(3, 1, 2)
    weights[1, 0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        simulate_noisy(program, draw(4, 2), weights)
    inputs = draw(4, 2)
    for options in ({}, {"diff_method": "spsa", "shots": 3, "seed": 0}):
        found = vmap(lambda w, o=options: simulate_noisy(program, inputs, w, **o))(weights)
        assert found[1].isnan().any() and found[[0, 2]].isfinite().all()


def test_no_samples_are_no_rows():
    for executor in EXECUTORS:
        found = with_gradients(
            lambda x, w, e=executor: simulate_noisy(mari(2, 1), x, w, e), draw(0, 2), draw(1, 2), draw(0, 2)
        )
        assert found[0].shape == (0, 2) and (found[2] == 0).all()
