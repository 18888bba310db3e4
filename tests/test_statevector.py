"""The statevector simulator against PennyLane's default.qubit, both executors, threads, forks, refusals."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pennylane as qml
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import unitary_group
from torch.func import functional_call, grad, vmap

from qtl_utils.circuits import program, statevector, statevector_cpu
from qtl_utils.circuits.ansatze import ANSATZE, make_circuit
from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.circuits.program import UnsupportedCircuitError, compile_circuit
from qtl_utils.circuits.statevector import Statevector, simulate
from qtl_utils.study.paths import PROJECT

EXECUTORS = ("numba", "torch")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
ONE_ANGLE = ("RX", "RY", "RZ", "PhaseShift")
ONE_ANGLE_TWO_WIRES = ("CRX", "CRY", "CRZ", "ControlledPhaseShift", "IsingXX", "IsingYY", "IsingZZ")
FIXED = ("Hadamard", "PauliX", "PauliY", "PauliZ", "S", "T", "SX", "CNOT", "CZ", "CY", "SWAP", "ISWAP", "Toffoli")


@st.composite
def circuits(draw, most=6):
    """(n_qubits, gates, words): gates as (name, wires, angles); an angle is a number or ('inputs' or 'weights', i)."""
    n = draw(st.integers(1, most))
    wires = st.permutations(range(n))
    element = st.tuples(st.sampled_from(["inputs", "weights"]), st.integers(0, 3))
    angle = st.one_of(element, element, st.floats(-7, 7))
    names = [k for k in (*ONE_ANGLE, *FIXED, *ONE_ANGLE_TWO_WIRES) if getattr(qml, k).num_wires <= n]
    names += ["Rot", "PauliRot", "unitary 1"] + ["unitary 2"] * (n > 1)
    gates = []
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=14)):
        count = {"Rot": 3, "unitary 1": 0, "unitary 2": 0}.get(name, int(name not in FIXED))
        gates.append((name, draw(wires), [draw(angle) for _ in range(count)], draw(st.integers(0, 99))))
    words = draw(st.lists(st.text("XYZ", min_size=1, max_size=n), min_size=1, max_size=5))
    return n, gates, [list(zip(draw(wires), word, strict=False)) for word in words]


def quantum_function(gates, words):
    def circuit(inputs, weights):
        values = {"inputs": inputs, "weights": weights}
        for name, wires, angles, seed in gates:
            # a tensor also where constant: PennyLane's Rot cannot mix the two
            angles = [
                torch.tensor(a, dtype=torch.float64) if isinstance(a, float) else values[a[0]][..., a[1]]
                for a in angles
            ]
            if name.startswith("unitary"):
                k = int(name[-1])
                qml.QubitUnitary(unitary_group.rvs(2**k, random_state=seed), wires=wires[:k])
            elif name == "PauliRot":
                letters = ["XYZ"[(seed + i) % 3] for i in range(min(len(wires), 1 + seed % 3))]
                qml.PauliRot(*angles, "".join(letters), wires=wires[: len(letters)])
            else:
                op = getattr(qml, name)
                op(*angles, wires=wires[: op.num_wires or 1])
        return [qml.expval(qml.prod(*(getattr(qml, "Pauli" + k)(w) for w, k in word))) for word in words]

    return circuit


def with_gradients(run, inputs, weights, cotangent):
    """Outputs and the gradients of inputs and weights, for a cotangent of the outputs."""
    inputs, weights = inputs.clone().requires_grad_(), weights.clone().requires_grad_()
    out = run(inputs, weights)
    grads = torch.autograd.grad((out * cotangent.to(out)).sum() + 0 * (inputs.sum() + weights.sum()), [inputs, weights])
    return [out.detach(), *grads]


def reference(circuit, n_qubits):
    """The circuit on default.qubit, in double precision."""
    qnode = qml.QNode(circuit, qml.device("default.qubit", wires=n_qubits), interface="torch", diff_method="backprop")

    def run(inputs, weights):
        out = [value.expand(len(inputs)) for value in qnode(inputs.double(), weights.double())]
        return torch.stack(out, -1)

    return run


def assert_like_reference(circuit, n_qubits, weight_shape, n_inputs=None, batch=19, dtype=torch.float64, **options):
    compiled = compile_circuit(circuit, n_qubits, weight_shape, n_inputs)
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: 2 * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    inputs, weights = draw(batch, n_inputs or n_qubits), draw(*weight_shape)
    cotangent = draw(batch, len(compiled.readout or compiled.words)) / 4
    expected = with_gradients(reference(circuit, n_qubits), inputs, weights, cotangent)
    found = with_gradients(lambda x, w: simulate(compiled, x, w, **options), inputs, weights, cotangent)
    for value, wanted in zip(found, expected, strict=True):
        assert value.dtype == dtype
        # an error of the whole: a sum of many terms near 1 is rounded more than one of them
        scale = max(1.0, wanted.abs().max().item())
        torch.testing.assert_close(value.double(), wanted.double(), atol=TOLERANCE[dtype] * scale, rtol=0)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(circuits(), st.sampled_from(list(TOLERANCE)))
def test_random_circuits_equal_pennylane(drawn, dtype):
    n, gates, words = drawn
    for executor in EXECUTORS:
        assert_like_reference(quantum_function(gates, words), n, (4,), 4, dtype=dtype, executor=executor)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("ansatz", ANSATZE)
def test_every_ansatz_equals_pennylane(ansatz, dtype, executor):
    circuit = make_circuit(ansatz, "tanh", 4)
    assert_like_reference(circuit, 4, ANSATZE[ansatz].shape(4, 3), dtype=dtype, executor=executor)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("ansatz", ["mari2019", "basic_entangler"])
def test_sixteen_qubits_equal_pennylane(ansatz, dtype):
    circuit = make_circuit(ansatz, "tanh", 16)
    assert_like_reference(circuit, 16, ANSATZE[ansatz].shape(16, 2), batch=2, dtype=dtype)


def test_the_2019_circuit_runs_on_real_numbers_and_the_others_on_complex_ones():
    bits = {a: compile_circuit(make_circuit(a, "tanh", 3), 3, ANSATZE[a].shape(3, 2)).n_bits for a in ANSATZE}
    real = {"mari2019": 3, "separable": 3, "identity_blocks": 3}
    assert bits == real | {"basic_entangler": 4, "strongly_entangling": 4, "reuploading": 4}


def test_affine_angles_sums_of_words_and_adjoints_are_followed():
    def circuit(inputs, weights):
        qml.RX(2 * inputs[..., 0] - 0.3, wires=0)
        qml.adjoint(qml.RY)(weights[..., 0], wires=1)
        qml.ctrl(qml.RZ(weights[..., 1] / 2, wires=1), control=0)
        qml.RY(0.4, wires=1)
        return [qml.expval(0.5 * qml.Z(0) @ qml.X(1) - 2 * qml.Y(1)), qml.expval(qml.Z(0))]

    assert_like_reference(circuit, 2, (2,), 1)


def test_a_circuit_is_read_where_gradients_are_off_too():
    circuit = make_circuit("mari2019", "tanh", 3)
    with torch.no_grad():
        found = compile_circuit(circuit, 3, (2, 3))
    inputs, weights = torch.rand(5, 3, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64)
    expected = simulate(compile_circuit(circuit, 3, (2, 3)), inputs, weights)
    assert torch.equal(simulate(found, inputs, weights), expected)


def test_a_qnode_is_read_like_its_function():
    qnode = qml.QNode(make_circuit("mari2019", "tanh", 2), qml.device("default.qubit", wires=2))
    assert compile_circuit(qnode, 2, (1, 2)) == compile_circuit(qnode.func, 2, (1, 2))


# ---- gradients -------------------------------------------------------------------------------------------------------


def layer(ansatz="strongly_entangling", n=3, depth=2, seed=0, **options):
    torch.manual_seed(seed)
    return QuantumLayer(n, depth, ansatz, angle_init=1.0, **options).double()


def inputs_of(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("ansatz", ["mari2019", "strongly_entangling"])
def test_gradcheck_passes(ansatz, executor):
    circuit, x = layer(ansatz, executor=executor), inputs_of(2, 3)
    assert torch.autograd.gradcheck(lambda x, w: functional_call(circuit, {"weights": w}, (x,)), (x, circuit.weights))


def test_backprop_has_second_derivatives_and_adjoint_says_that_it_has_none():
    circuit, x = layer("mari2019", diff_method="backprop"), inputs_of(1, 3)
    assert torch.autograd.gradgradcheck(
        lambda x, w: functional_call(circuit, {"weights": w}, (x,)), (x, circuit.weights)
    )
    adjoint = layer("mari2019")
    (slope,) = torch.autograd.grad(adjoint(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives; use diff_method='backprop'"):
        slope.sum().backward()


def test_only_what_is_needed_gets_a_gradient():
    circuit, x = layer(), inputs_of(4, 3)
    expected = torch.autograd.grad(circuit(x).sum(), [circuit.weights, x])
    (weights,) = torch.autograd.grad(circuit(x.detach()).sum(), [circuit.weights])
    circuit.weights.requires_grad_(False)
    (inputs,) = torch.autograd.grad(circuit(x).sum(), [x])
    assert torch.equal(weights, expected[0]) and torch.equal(inputs, expected[1])


def test_a_graph_can_be_walked_twice():
    circuit, x = layer(), inputs_of(4, 3)
    out = circuit(x).sum()
    first = torch.autograd.grad(out, x, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(out, x)[0])


def test_states_that_are_not_kept_are_computed_again(monkeypatch):
    circuit, x = layer(), inputs_of(40, 3)
    kept = torch.autograd.grad(circuit(x).sum(), [circuit.weights, x])
    monkeypatch.setattr(statevector_cpu, "KEPT_BYTES", 0)
    again = torch.autograd.grad(circuit(x).sum(), [circuit.weights, x])
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


# ---- replicas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("batch", [1, 5, 16, 33])
def test_replicas_equal_single_runs(batch, executor):
    circuit, x = layer(executor=executor), inputs_of(2, 3, batch, 3)
    weights = torch.randn(2, 3, *circuit.weights.shape, dtype=torch.float64, requires_grad=True)
    out = circuit(x, weights)
    grads = torch.autograd.grad(out.pow(2).sum(), [x, weights])
    for i in range(2):
        for j in range(3):
            one = circuit(x[i, j], weights[i, j])
            torch.testing.assert_close(out[i, j], one, atol=1e-14, rtol=0)
            alone = torch.autograd.grad(one.pow(2).sum(), [x, weights])
            for a, b in zip(grads, alone, strict=True):
                torch.testing.assert_close(a[i, j], b[i, j], atol=1e-13, rtol=0)


def test_one_input_serves_many_weight_sets():
    circuit, x = layer(), inputs_of(4, 3)
    weights = torch.randn(6, *circuit.weights.shape, dtype=torch.float64)
    torch.testing.assert_close(circuit(x, weights)[2], circuit(x, weights[2]), atol=1e-14, rtol=0)


@pytest.mark.parametrize("diff_method", ["adjoint", "backprop"])
def test_gradients_inside_vmap_are_those_of_every_replica(diff_method):
    circuit, x = layer(diff_method=diff_method), inputs_of(4, 5, 3).detach()
    weights = torch.randn(4, *circuit.weights.shape, dtype=torch.float64)
    loss = lambda w, x: circuit(x, w).pow(2).sum()  # noqa: E731
    together = vmap(grad(loss))(weights, x)
    per_sample = vmap(grad(loss), in_dims=(None, 0))(weights[0], x)
    torch.testing.assert_close(together[0], per_sample[0], atol=1e-13, rtol=0)
    for i in range(4):
        torch.testing.assert_close(together[i], grad(loss)(weights[i], x[i]), atol=1e-13, rtol=0)
        torch.testing.assert_close(per_sample[i], grad(loss)(weights[0], x[i]), atol=1e-13, rtol=0)


def test_a_nan_stays_in_its_own_replica_inside_vmap():
    circuit, x = layer(), inputs_of(2, 5, 3).detach()
    x[1, 2, 0] = torch.nan
    out = vmap(lambda x: circuit(x))(x)
    assert torch.equal(out[0], circuit(x[0])) and out[1, 2].isnan().all() and out[1, :2].isfinite().all()


# ---- processes, threads, copies --------------------------------------------------------------------------------------


def run_in_threads(circuit, x, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = circuit(x)
        return [out.detach(), *torch.autograd.grad(out.pow(2).sum(), [circuit.weights, x])]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_results_depend_neither_on_the_run_nor_on_the_number_of_threads(monkeypatch, dtype):
    monkeypatch.setattr(statevector_cpu, "PARALLEL_WORK", 0)
    circuit, x = layer().to(dtype), inputs_of(3, 50, 3).detach().to(dtype).requires_grad_()
    runs = [run_in_threads(circuit, x, threads) for threads in (1, 1, 2, 3)]
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


def forked(circuit, x):
    return [value.numpy() for value in run_in_threads(circuit, x, 2)]


def test_a_forked_process_computes_after_threads_have_run(monkeypatch):
    monkeypatch.setattr(statevector_cpu, "PARALLEL_WORK", 0)
    circuit, x = layer(), inputs_of(50, 3)
    expected = run_in_threads(circuit, x, 2)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        found = pool.apply_async(forked, (circuit, x.detach().requires_grad_())).get(timeout=60)
    assert all((a.numpy() == b).all() for a, b in zip(expected, found, strict=True))


class Rows(torch.utils.data.Dataset):
    def __init__(self, circuit, x):
        self.circuit, self.x = circuit, x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.circuit(self.x[i]).detach()


def test_dataloader_workers_simulate(monkeypatch):
    monkeypatch.setattr(statevector_cpu, "PARALLEL_WORK", 0)
    circuit, x = layer(), inputs_of(6, 3).detach()
    expected = run_in_threads(circuit, x.clone().requires_grad_(), 2)[0]
    loader = torch.utils.data.DataLoader(Rows(circuit, x), batch_size=3, num_workers=2, timeout=60)
    assert torch.equal(torch.cat(list(loader)), expected)


def test_copies_and_pickles_compute_the_same():
    simulator = Statevector(make_circuit("mari2019", "tanh", 3), 3, (2, 3))
    x, weights = inputs_of(4, 3), torch.randn(2, 3, dtype=torch.float64)
    expected = simulator(x, weights)
    for other in (copy.deepcopy(simulator), pickle.loads(pickle.dumps(simulator))):
        assert torch.equal(other(x, weights), expected)


def test_state_dicts_are_interchangeable_between_backends():
    ours, x = layer("mari2019"), inputs_of(4, 3)
    for simulator, tolerance in (("default.qubit", 1e-12), ("lightning.qubit", 1e-6)):  # the latter hands on float32
        other = layer("mari2019", seed=9, simulator=simulator)
        other.load_state_dict(ours.state_dict())
        torch.testing.assert_close(other(x), ours(x), atol=tolerance, rtol=0)


@pytest.mark.slow
def test_kernels_are_compiled_once_per_machine(tmp_path):
    code = """
import torch
from qtl_utils.circuits import kernels
from qtl_utils.circuits.layer import QuantumLayer
x = torch.zeros(40, 2, requires_grad=True)
QuantumLayer(2, 1)(x).sum().backward()
print([sum(k.stats.cache_misses.values()) for k in (kernels.forward_blocks, kernels.backward_blocks, kernels.add_up)])
"""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    run = partial(subprocess.run, [sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert [run(check=True).stdout.strip() for _ in range(2)] == ["[1, 1, 1]", "[0, 0, 0]"]


# ---- refusals --------------------------------------------------------------------------------------------------------


def refusal(circuit, n_qubits=2, weight_shape=(2,)):
    with pytest.raises(UnsupportedCircuitError) as error:
        compile_circuit(circuit, n_qubits, weight_shape)
    assert "simulator='default.qubit'" in str(error.value)
    return str(error.value)


def circuit_with(gate, returned=lambda: qml.expval(qml.Z(0))):
    def circuit(inputs, weights):
        gate(inputs, weights)
        return returned()

    return circuit


@pytest.mark.parametrize(
    "angle",
    [
        lambda x, w: x[..., 0] * w[..., 0],
        lambda x, w: x[..., 0] + x[..., 1],
        lambda x, w: x[..., 0] ** 2,
        lambda x, w: torch.relu(x[..., 0]),
        lambda x, w: float(x[..., 0].detach()),  # frozen at the value of the trace
    ],
)
def test_angles_that_are_expressions_are_refused_with_the_gate(angle):
    text = refusal(circuit_with(lambda x, w: qml.RX(angle(x, w), wires=1)))
    assert "the angle of RX on wire 1 is an expression" in text


def test_other_circuits_that_cannot_be_followed_are_refused():
    assert "2 angles at once" in refusal(circuit_with(lambda x, w: qml.RX(x, wires=0)))
    assert "depend on the values" in refusal(circuit_with(lambda x, w: qml.X(0) if x[0] > 0 else qml.Z(0)))
    text = refusal(circuit_with(lambda x, w: qml.measure(0)))
    assert "MidMeasure" in text and "not among the gates" in text


@pytest.mark.parametrize(
    ("measurement", "named"),
    [
        (lambda: qml.probs(wires=0), "probs"),
        (lambda: qml.expval(qml.Hermitian([[1, 0], [0, 2]], wires=0)), "Hermitian"),
        (lambda: None, "NoneType"),
        (lambda: qml.state(), "state"),
    ],
)
def test_other_measurements_are_refused_by_name(measurement, named):
    assert named in refusal(circuit_with(lambda x, w: qml.RX(x[..., 0], wires=0), measurement))


def test_wires_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="uses wire 2; n_qubits=2 makes them 0 to 1"):
        compile_circuit(circuit_with(lambda x, w: qml.Hadamard(2)), 2, (1,))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_wrong_inputs_are_answered_in_one_sentence(executor):
    circuit, x = layer(executor=executor), inputs_of(4, 3)
    run = partial(simulate, circuit.program, executor=executor)
    for inputs, weights, message in [
        (x[:, :2], circuit.weights, r"expected 3 angles per sample, got inputs of shape \(4, 2\)"),
        (x, circuit.weights[:1], r"expected weights of shape \(..., 2, 3, 3\), got \(1, 3, 3\)"),
        (x.expand(2, 4, 3), circuit.weights.expand(3, 2, 3, 3), "replicas do not fit"),
        (x.float(), circuit.weights, "inputs are torch.float32 and weights torch.float64"),
        (x.half(), circuit.weights.half(), "both must be float32 or both float64"),
        (x.long(), circuit.weights, "both must be float32 or both float64"),
        (x.to("meta"), circuit.weights, "inputs are on meta and weights on cpu"),
        (torch.full_like(x, torch.nan), circuit.weights, "angles that are NaN, infinite or beyond 1e15 radians"),
        (x, torch.full_like(circuit.weights, torch.inf), "angles that are NaN, infinite or beyond 1e15 radians"),
    ]:
        if executor == "numba" and inputs.device.type == "meta":
            message = "executor 'numba' differentiates by 'adjoint' on the CPU"
        with pytest.raises(ValueError, match=message):
            run(inputs, weights)


def test_wrong_settings_are_answered_with_the_right_ones():
    with pytest.raises(ValueError, match="unknown executor 'cuda'; known: auto, numba, torch"):
        layer(executor="cuda")
    with pytest.raises(ValueError, match="'adjoint' or 'backprop', not by 'parameter-shift'"):
        layer(diff_method="parameter-shift")
    with pytest.raises(ValueError, match="use executor='torch'"):
        layer(diff_method="backprop", executor="numba")


def test_too_many_qubits_for_memory_are_refused_before_memory_is_taken(monkeypatch):
    compiled = compile_circuit(make_circuit("mari2019", "tanh", 30), 30, (1, 30))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10**9))
    for executor in EXECUTORS:
        with pytest.raises(ValueError, match="needs .* GB and .* GB are free; use fewer qubits"):
            simulate(compiled, torch.zeros(1, 30), torch.zeros(1, 30), executor)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_an_empty_batch_gives_an_empty_result_and_zero_gradients(executor):
    circuit, x = layer(executor=executor), inputs_of(0, 3)
    out = circuit(x)
    weights, inputs = torch.autograd.grad(out.sum(), [circuit.weights, x])
    assert out.shape == (0, 3) and inputs.shape == (0, 3) and not weights.any()


def test_the_executor_is_visible():
    assert "statevector (numba), adjoint" in repr(layer())
    assert "statevector (torch), backprop" in repr(layer(diff_method="backprop"))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_angles_of_many_turns_are_exact(executor):
    circuit, qnode = layer("mari2019", executor=executor), reference(make_circuit("mari2019", "tanh", 3), 3)
    for scale, dtype, tolerance in (
        (1e4, torch.float64, 1e-11),
        (1e9, torch.float64, 1e-6),
        (1e8, torch.float32, 1e-5),
    ):
        x, circuit = (scale * inputs_of(20, 3)).to(dtype), circuit.to(dtype)
        torch.testing.assert_close(circuit(x).double(), qnode(x, circuit.weights), atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_multiples_of_a_quarter_turn_are_exact(dtype):
    circuit = layer("mari2019").to(dtype)
    x = (torch.arange(-24, 24).view(16, 3) * (torch.pi / 2)).to(dtype)
    qnode = reference(make_circuit("mari2019", "tanh", 3), 3)
    torch.testing.assert_close(circuit(x).double(), qnode(x, circuit.weights), atol=TOLERANCE[dtype], rtol=0)


def test_the_gates_that_turn_are_the_ones_of_pennylane():
    for name, words in program.ROTATIONS.items():
        wires = list(range(len(words[0][0])))
        product = qml.matrix(lambda w=wires, p=words: [qml.PauliRot(0.7 * k, word, wires=w) for word, k in p], wires)()
        ratio = product @ qml.matrix(getattr(qml, name)(0.7, wires=wires)).conj().T
        torch.testing.assert_close(
            torch.tensor(ratio / ratio[0, 0]), torch.eye(2 ** len(wires), dtype=torch.complex128), atol=1e-12, rtol=0
        )


def test_index_tables_agree_with_pauli_matrices():
    index, sign = statevector.index_table(2, 0b01, 0b10, "cpu", torch.float64)
    assert index.tolist() == [1, 0, 3, 2] and sign.tolist() == [1, 1, -1, -1]
