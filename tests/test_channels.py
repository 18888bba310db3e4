"""Channels are those of PennyLane and of the textbook; noise models come from plain values and refuse the rest."""

import math
import pickle

import numpy as np
import pennylane as qml
import pytest

from qtl_utils.circuits import channels
from qtl_utils.circuits.channels import CHANNELS, NoiseModel, Readout, Rule, ptm_of

PENNYLANE = {  # our channel beside PennyLane's operator, which has the Kraus operators of its own
    "depolarizing": (
        channels.depolarizing(0.3, convention="pennylane"),
        lambda w: qml.DepolarizingChannel(0.3, wires=w),
    ),
    "amplitude_damping": (channels.amplitude_damping(0.2), lambda w: qml.AmplitudeDamping(0.2, wires=w)),
    "to a warm bath": (
        channels.amplitude_damping(0.2, 0.3),
        lambda w: qml.GeneralizedAmplitudeDamping(0.2, 0.3, wires=w),
    ),
    "phase_damping": (channels.phase_damping(0.4), lambda w: qml.PhaseDamping(0.4, wires=w)),
    "bit_flip": (channels.bit_flip(0.15), lambda w: qml.BitFlip(0.15, wires=w)),
    "phase_flip": (channels.phase_flip(0.25), lambda w: qml.PhaseFlip(0.25, wires=w)),
    "bit_phase_flip": (channels.bit_phase_flip(0.25), lambda w: qml.PauliError("Y", 0.25, wires=w)),
    "reset": (channels.reset(0.1, 0.3), lambda w: qml.ResetError(0.1, 0.3, wires=w)),
    "thermal_relaxation, t2 < t1": (
        channels.thermal_relaxation(50.0, 30.0, 7.0, 0.1),
        lambda w: qml.ThermalRelaxationError(0.1, 50.0, 30.0, 7.0, wires=w),
    ),
    "thermal_relaxation, t2 > t1": (
        channels.thermal_relaxation(50.0, 90.0, 7.0, 0.1),
        lambda w: qml.ThermalRelaxationError(0.1, 50.0, 90.0, 7.0, wires=w),
    ),
    "pauli_words": (channels.pauli_words({"XZ": 0.2}), lambda w: qml.PauliError("XZ", 0.2, wires=w)),
}


def random_kraus(n_qubits, seed, rank=2):
    """Operators of a channel without any symmetry."""
    rng = np.random.default_rng(seed)
    size = 2**n_qubits
    matrix = rng.normal(size=(rank * size, size)) + 1j * rng.normal(size=(rank * size, size))
    return np.linalg.qr(matrix)[0].reshape(rank, size, size)


@pytest.mark.parametrize("name", PENNYLANE)
def test_channels_are_pennylanes(name):
    found, theirs = PENNYLANE[name]
    expected = ptm_of(theirs(range(found.n_qubits)).kraus_matrices())
    np.testing.assert_allclose(found.ptm, expected, atol=1e-12)  # PennyLane adds 1e-14 to probabilities


@pytest.mark.parametrize("n_qubits", [1, 2])
def test_a_ptm_is_what_the_kraus_operators_do(n_qubits):
    operators = random_kraus(n_qubits, 1, rank=3)
    state = random_kraus(n_qubits, 2, rank=1)[0][:, :1]
    rho = state @ state.conj().T
    moved = sum(k @ rho @ k.conj().T for k in operators)
    words = channels.pauli_matrices(n_qubits)
    before, after = (np.einsum("iab,ba->i", words, matrix).real for matrix in (rho, moved))
    np.testing.assert_allclose(ptm_of(operators) @ before, after, atol=1e-14)


def test_the_first_wire_is_the_lower_digit():
    x = channels.unitary(np.array([[0, 1], [1, 0]]))
    one = channels.depolarizing(0.0)
    np.testing.assert_allclose(x.beside(one).ptm, ptm_of([np.kron([[0, 1], [1, 0]], np.eye(2))]))
    words = channels.pauli_matrices(2)
    np.testing.assert_array_equal(words[3], np.kron(np.diag([1, -1]), np.eye(2)))


def test_both_conventions_of_depolarizing():
    for n in (1, 2):
        words = 4**n
        theirs = channels.depolarizing(0.2 * (1 - 1 / words), n, "pennylane")
        np.testing.assert_allclose(channels.depolarizing(0.2, n).ptm, theirs.ptm, atol=1e-15)
    mixed = channels.depolarizing(1.0, 2).ptm @ np.full(16, 0.5)
    np.testing.assert_array_equal(mixed, [0.5, *[0.0] * 15])
    assert channels.depolarizing(4 / 3).ptm[1, 1] == pytest.approx(-1 / 3)


def test_products_of_channels():
    one, other = channels.amplitude_damping(0.3), channels.bit_flip(0.2)
    both = [b @ a for a in qml.AmplitudeDamping(0.3, 0).kraus_matrices() for b in qml.BitFlip(0.2, 0).kraus_matrices()]
    np.testing.assert_allclose(one.then(other).ptm, ptm_of(both), atol=1e-12)
    halves = channels.thermal_relaxation(3.0, 2.0, 0.5, 0.2)
    whole = channels.thermal_relaxation(3.0, 2.0, 1.0, 0.2)
    np.testing.assert_allclose(halves.then(halves).ptm, whole.ptm, atol=1e-15)
    assert channels.thermal_relaxation(math.inf, math.inf, 5.0).ptm == pytest.approx(np.eye(4))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: channels.bit_flip(1.2), r"bit_flip\(1.2\): X must be a number from 0 to 1, got 1.2"),
        (lambda: channels.bit_flip(math.nan), "X must be a number from 0 to 1"),
        (lambda: channels.pauli(0.5, 0.4, 0.3), "errors add up to 1.2"),
        (lambda: channels.pauli_words({"X": 0.1, "XX": 0.1}), "words of one or of two"),
        (lambda: channels.depolarizing(1.3, convention="pennylane"), "p must be a number from 0 to 1"),
        (lambda: channels.depolarizing(1.4), "from 0 to 1.33"),
        (lambda: channels.depolarizing(0.1, 3), "n_qubits must be 1 or 2"),
        (lambda: channels.depolarizing(0.1, convention="cirq"), "'qiskit' or 'pennylane', got 'cirq'"),
        (lambda: channels.thermal_relaxation(10.0, 21.0, 1.0), "t2 must be at most 2 t1 = 20, got 21"),
        (lambda: channels.thermal_relaxation(-1.0, 1.0, 1.0), "t1 must be positive, got -1.0"),
        (lambda: channels.thermal_relaxation(1.0, 1.0, -1.0), "time must be 0 or more"),
        (lambda: channels.reset(0.6, 0.6), r"p0 \+ p1 must be a number from 0 to 1"),
        (lambda: channels.kraus([np.eye(2) / 2]), "kraus does not keep the trace"),
        (lambda: channels.channel(np.diag([1.0, 1.0, -1.0, 1.0])), "not completely positive"),
        (lambda: channels.channel(np.eye(8)), "4 x 4 or 16 x 16"),
        (lambda: Readout(-0.1, 0.0), "p1_given_0 must be a number from 0 to 1, got -0.1"),
    ],
)
def test_what_is_no_channel_is_refused_in_one_sentence(make, said):
    with pytest.raises(ValueError, match=said) as refusal:
        make()
    assert "\n" not in str(refusal.value)


SETTINGS = {
    "after": [
        {"channel": "depolarizing", "p": 0.001, "n_qubits": 1},
        {
            "gates": ["CNOT"],
            "channels": [{"channel": "depolarizing", "p": 0.01, "n_qubits": 2}, {"channel": "bit_flip", "p": 0.1}],
        },
        {"gates": "RY", "wires": [1], "channel": "amplitude_damping", "gamma": 0.02},
        {"on": [0], "channel": "phase_flip", "p": 0.3},
    ],
    "readout": [{"p1_given_0": 0.01, "p0_given_1": 0.03}, {"wire": 2, "p1_given_0": 0.2}],
}


def test_rules_apply_in_order_to_what_they_name():
    noise = NoiseModel.from_dict(SETTINGS)
    shown = lambda name, wires: [(str(c), w) for c, w in noise.channels(name, wires)]  # noqa: E731
    assert shown("RY", (1,)) == [("depolarizing(0.001)", (1,)), ("amplitude_damping(0.02)", (1,))]
    assert shown("RY", (0,)) == [("depolarizing(0.001)", (0,)), ("phase_flip(0.3)", (0,))]
    two = [("depolarizing(0.01, 2)", (2, 0)), ("bit_flip(0.1)", (2,)), ("bit_flip(0.1)", (0,))]
    assert shown("CNOT", (2, 0)) == [*two, ("phase_flip(0.3)", (0,))]
    assert shown("Toffoli", (1, 2, 3)) == []
    np.testing.assert_allclose(noise.confusion(0), [[0.99, 0.03], [0.01, 0.97]])
    np.testing.assert_allclose(noise.confusion(2), [[0.8, 0.0], [0.2, 1.0]])
    np.testing.assert_allclose(NoiseModel().confusion(5), np.eye(2))


def test_a_noise_model_is_a_value():
    one, other = NoiseModel.from_dict(SETTINGS), NoiseModel.from_dict(SETTINGS)
    assert one == other and hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one
    stronger = NoiseModel.from_dict(SETTINGS | {"readout": {"p1_given_0": 0.02}})
    assert one != stronger
    assert NoiseModel.after_every_gate(channels.bit_flip(0.1)) == NoiseModel((Rule((channels.bit_flip(0.1),)),))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"before": []}, "noise: unknown key 'before'; known: after, readout"),
        ({"after": {"channel": "bit_flip"}}, "noise.after: expected a list"),
        ({"after": [{"gates": ["RY"]}]}, "either `channel:` with its numbers or a list `channels:`"),
        ({"after": [{"channel": "bitflip", "p": 0.1}]}, "unknown noise channel 'bitflip'.*did you mean 'bit_flip'"),
        ({"after": [{"channel": "bit_flip", "q": 0.1}]}, "noise channel bit_flip: unknown key 'q'; known: p"),
        ({"after": [{"channel": "bit_flip"}]}, "noise channel bit_flip: .*missing.* it takes p"),
        ({"readout": {"p": 0.1}}, "noise.readout: unknown key 'p'; known: p1_given_0, p0_given_1, wire"),
    ],
)
def test_settings_that_say_nothing_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        NoiseModel.from_dict(settings)


def test_a_wide_channel_behind_a_narrow_gate_is_refused():
    noise = NoiseModel.after_every_gate(channels.depolarizing(0.1, 2))
    with pytest.raises(ValueError, match="takes two wires and RY has 1; add `n_qubits: 2` to its rule"):
        noise.channels("RY", (0,))


def test_every_channel_has_a_row_and_says_what_it_is():
    assert {"pauli", "depolarizing", "thermal_relaxation", "kraus"} <= set(CHANNELS)
    assert all(make.__doc__ for make in CHANNELS.values())
