"""Noise channels as Pauli transfer matrices, and the model that says after which gates they come.

A channel maps density matrices to density matrices. In the Pauli basis of `noisy_program` it is a real matrix, its PTM:
R[i, j] = 2^-n tr(P_i E(P_j)) (Greenbaum, arXiv:1509.02921). Channels and their letters are those of Nielsen and Chuang,
Quantum Computation and Quantum Information, section 8.3, unless a docstring says otherwise.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from itertools import product
from numbers import Real

import numpy as np

from qtl_utils.circuits.program import MATRICES
from qtl_utils.study.names import find

LETTERS = "IXYZ"
SMALL = 1e-14  # entries of a PTM below are rounding
TOLERANCE = 1e-9  # of what must be a channel: how far from trace-preserving, and from positive


@lru_cache
def pauli_matrices(n_qubits: int) -> np.ndarray:
    """(4^n, 2^n, 2^n): every word, with the letter of the first wire as the lowest base-4 digit of its index.

    The first wire is the most significant bit of a matrix, as PennyLane has it.
    """
    words = product(LETTERS, repeat=n_qubits)  # the last letter varies fastest, and belongs to the first wire
    return np.stack([reduce(np.kron, [MATRICES[k] for k in reversed(word)], np.eye(1)) for word in words])


def ptm_of(operators: Iterable[np.ndarray]) -> np.ndarray:
    """(4^n, 4^n): what sum_k K_k rho K_k^dagger does to Pauli expectation values; one unitary is a list of one.

    operators: (2^n, 2^n) each, the first wire the most significant bit.
    """
    matrices = np.stack([np.asarray(k, complex) for k in operators])
    words = pauli_matrices(matrices.shape[-1].bit_length() - 1)
    moved = np.einsum("kab,jbc,kdc->jad", matrices, words, matrices.conj())
    found = np.einsum("iab,jba->ij", words, moved).real / matrices.shape[-1]
    return np.where(abs(found) < SMALL, 0.0, found)


# ---- channels --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Channel:
    """A channel on one or two wires: the rows of its PTM, and what it is called.

    Raises ValueError where the rows are not those of a channel: one that keeps the trace and is completely positive.
    """

    rows: tuple[tuple[float, ...], ...]
    name: str = "channel"

    def __post_init__(self):
        size = len(self.rows)
        if size not in (4, 16) or {len(row) for row in self.rows} != {size}:
            raise ValueError(f"{self.name}: the matrix of a channel is 4 x 4 or 16 x 16, for one or two qubits")
        ptm = self.ptm
        if not np.isfinite(ptm).all() or abs(ptm[0] - np.eye(size)[0]).max() > TOLERANCE:
            raise ValueError(f"{self.name} does not keep the trace: its Kraus operators need sum K^dagger K = 1")
        words = pauli_matrices(self.n_qubits)
        choi = np.einsum("ij,iab,jcd->acbd", ptm, words, words.conj()).reshape(size, size)
        if np.linalg.eigvalsh(choi).min() < -TOLERANCE * size:
            raise ValueError(f"{self.name} is not completely positive: no noise does that; check its numbers")

    @cached_property
    def ptm(self) -> np.ndarray:
        """(4, 4) or (16, 16), with the letter of the first wire as the lower digit of an index."""
        return np.array(self.rows, float)

    @property
    def n_qubits(self) -> int:
        return 1 if len(self.rows) == 4 else 2

    def then(self, other: "Channel") -> "Channel":
        """This channel, and `other` after it on the same wires."""
        return channel(other.ptm @ self.ptm, f"{self.name} then {other.name}")

    def beside(self, other: "Channel") -> "Channel":
        """This one-qubit channel on the first of two wires, and `other` on the second."""
        return channel(np.kron(other.ptm, self.ptm), f"{self.name} beside {other.name}")

    def __getstate__(self):
        return {"rows": self.rows, "name": self.name}

    def __str__(self):
        return self.name


def channel(ptm: np.ndarray, name: str = "channel") -> Channel:
    """The channel that has the Pauli transfer matrix `ptm`."""
    return Channel(tuple(map(tuple, np.asarray(ptm, float).tolist())), name)


def kraus(matrices: Sequence[np.ndarray], name: str = "kraus") -> Channel:
    """The channel of a list of Kraus operators, (2, 2) or (4, 4) each, the first wire the most significant bit."""
    return channel(ptm_of(matrices), name)


def unitary(matrix: np.ndarray, name: str = "unitary") -> Channel:
    """A coherent error: a gate that nobody asked for."""
    return kraus([matrix], name)


def pauli_words(probabilities: dict[str, float], name: str = "pauli_words") -> Channel:
    """Each word, 'X' or 'ZX', with its probability, and nothing with the rest; the first letter is the first wire's."""
    sizes = {len(word) for word in probabilities}
    if len(sizes) != 1 or not sizes <= {1, 2} or set("".join(probabilities)) - set(LETTERS):
        raise ValueError(f"{name}: expected words of one or of two of the letters I, X, Y, Z, got {[*probabilities]}")
    _check(name, **probabilities)
    rest = 1 - sum(p for word, p in probabilities.items() if set(word) != {"I"})
    if rest < -1e-12:
        raise ValueError(f"{name}: the probabilities of errors add up to {1 - rest:g}; they may not exceed 1")
    errors = {word: p for word, p in probabilities.items() if set(word) != {"I"}}
    words = ["".join(word)[::-1] for word in product(LETTERS, repeat=sizes.pop())]  # the first wire's varies fastest
    # an error changes the sign of the words it anticommutes with
    kept = [max(rest, 0.0) + sum(p * _commute(error, word) for error, p in errors.items()) for word in words]
    return channel(np.diag(kept), name)


def _commute(one: str, other: str) -> int:
    """1 where two words commute, else -1."""
    return math.prod(-1 if "I" not in (a, b) and a != b else 1 for a, b in zip(one, other, strict=True))


def pauli(px: float = 0.0, py: float = 0.0, pz: float = 0.0) -> Channel:
    """X, Y and Z with their probabilities."""
    return pauli_words({"X": px, "Y": py, "Z": pz}, f"pauli({px:g}, {py:g}, {pz:g})")


def bit_flip(p: float) -> Channel:
    """X with probability p."""
    return pauli_words({"X": p}, f"bit_flip({p:g})")


def phase_flip(p: float) -> Channel:
    """Z with probability p."""
    return pauli_words({"Z": p}, f"phase_flip({p:g})")


def bit_phase_flip(p: float) -> Channel:
    """Y with probability p."""
    return pauli_words({"Y": p}, f"bit_phase_flip({p:g})")


def depolarizing(p: float, n_qubits: int = 1, convention: str = "qiskit") -> Channel:
    """All errors alike, on one or two wires together.

    convention: 'qiskit', as in Aer's depolarizing_error and Nielsen and Chuang: (1 - p) rho + p I / 2^n, where p may
    be up to 4^n / (4^n - 1). 'pennylane', as in DepolarizingChannel: an error with probability p, each of the
    4^n - 1 Pauli words alike. One p of the first is p (1 - 4^-n) of the second.
    """
    name = f"depolarizing({p:g})" if n_qubits == 1 else f"depolarizing({p:g}, {n_qubits})"
    if n_qubits not in (1, 2):
        raise ValueError(f"{name}: n_qubits must be 1 or 2; wider noise is a channel on each wire")
    if convention not in ("qiskit", "pennylane"):
        raise ValueError(f"{name}: convention must be 'qiskit' or 'pennylane', got '{convention}'")
    words = 4**n_qubits
    most = words / (words - 1) if convention == "qiskit" else 1.0
    _check(name, most, p=p)
    kept = 1 - p if convention == "qiskit" else 1 - p * words / (words - 1)
    return channel(np.diag([1.0] + [kept] * (words - 1)), name)


def amplitude_damping(gamma: float, excited_population: float = 0.0) -> Channel:
    """Decay to |0> with probability gamma; towards `excited_population` of |1> where that is not 0.

    PennyLane's AmplitudeDamping(gamma) and GeneralizedAmplitudeDamping(gamma, excited_population).
    """
    name = f"amplitude_damping({gamma:g})"
    _check(name, gamma=gamma, excited_population=excited_population)
    kept = math.sqrt(1 - gamma)
    found = np.diag([1.0, kept, kept, 1 - gamma])
    found[3, 0] = gamma * (1 - 2 * excited_population)
    return channel(found, name)


def phase_damping(gamma: float) -> Channel:
    """Loss of phase: X and Y shrink by sqrt(1 - gamma); PennyLane's PhaseDamping, Aer's phase_damping_error."""
    name = f"phase_damping({gamma:g})"
    _check(name, gamma=gamma)
    kept = math.sqrt(1 - gamma)
    return channel(np.diag([1.0, kept, kept, 1.0]), name)


def thermal_relaxation(t1: float, t2: float, time: float, excited_population: float = 0.0) -> Channel:
    """What `time` does to an idle qubit with relaxation times t1 and t2, all three in one unit; infinite ones too.

    As Aer's thermal_relaxation_error and PennyLane's ThermalRelaxationError: X and Y shrink by exp(-time/t2), Z goes
    to that of `excited_population` as exp(-time/t1).
    """
    name = f"thermal_relaxation({t1:g}, {t2:g}, {time:g})"
    _check(name, excited_population=excited_population)
    for key, value, least in (("t1", t1, "positive"), ("t2", t2, "positive"), ("time", time, "0 or more")):
        if not isinstance(value, Real) or math.isnan(value) or value < 0 or (value == 0 and least == "positive"):
            raise ValueError(f"{name}: {key} must be {least}, got {value}")
    if math.isinf(time):
        raise ValueError(f"{name}: time must be finite; amplitude_damping(1) is what forever does")
    if t2 > 2 * t1 * (1 + 1e-12):
        raise ValueError(f"{name}: t2 must be at most 2 t1 = {2 * t1:g}, got {t2:g}; no qubit keeps phases for longer")
    kept = math.exp(-time / t2)
    decay = math.exp(-time / t1)
    found = np.diag([1.0, kept, kept, decay])
    found[3, 0] = -math.expm1(-time / t1) * (1 - 2 * excited_population)
    return channel(found, name)


def reset(p0: float = 0.0, p1: float = 0.0) -> Channel:
    """Set to |0> with probability p0 and to |1> with p1, as in PennyLane's ResetError and Aer's reset_error."""
    name = f"reset({p0:g}, {p1:g})"
    _check(name, **{"p0": p0, "p1": p1, "p0 + p1": p0 + p1})
    kept = 1 - p0 - p1
    found = np.diag([1.0, kept, kept, kept])
    found[3, 0] = p0 - p1
    return channel(found, name)


def _check(_name: str, _most: float = 1.0, **probabilities: float) -> None:
    for key, value in probabilities.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= _most + 1e-12:
            raise ValueError(f"{_name}: {key} must be a number from 0 to {_most:g}, got {value!r}")


CHANNELS: dict[str, Callable[..., Channel]] = {
    found.__name__: found
    for found in (
        pauli,
        pauli_words,
        bit_flip,
        phase_flip,
        bit_phase_flip,
        depolarizing,
        amplitude_damping,
        phase_damping,
        thermal_relaxation,
        reset,
        kraus,
        unitary,
    )
}


# ---- noise models ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """Channels that come after gates, in order: after all of them, or those that are described.

    gates: names as PennyLane's, 'RY' or 'CNOT'; none: any. n_qubits: gates on so many wires. wires: gates on exactly
    these wires, in any order. A one-qubit channel comes on every wire of the gate, or on those of them that are in
    `on`; a two-qubit channel on both wires of a gate that has two, in the gate's order.
    """

    channels: tuple[Channel, ...]
    gates: tuple[str, ...] = ()
    n_qubits: int | None = None
    wires: tuple[int, ...] = ()
    on: tuple[int, ...] = ()

    def matches(self, name: str, wires: Sequence[int]) -> bool:
        named = not self.gates or name in self.gates
        placed = not self.wires or set(self.wires) == set(wires)
        return named and placed and self.n_qubits in (None, len(wires))

    def placed(self, name: str, wires: Sequence[int]):
        """Channels and their wires behind a gate that matches; ValueError where a channel is too wide for it."""
        for found in self.channels:
            if found.n_qubits == 1:
                yield from ((found, (wire,)) for wire in wires if not self.on or wire in self.on)
            elif len(wires) == 2:
                yield found, tuple(wires)
            else:
                raise ValueError(
                    f"noise: {found} takes two wires and {name} has {len(wires)}; add `n_qubits: 2` to its rule"
                )


@dataclass(frozen=True)
class Readout:
    """How often a measured bit is read wrongly: P(1 | 0) and P(0 | 1), on one wire, or on all where it is None."""

    p1_given_0: float = 0.0
    p0_given_1: float = 0.0
    wire: int | None = None

    def __post_init__(self):
        _check("readout", p1_given_0=self.p1_given_0, p0_given_1=self.p0_given_1)

    @property
    def confusion(self) -> np.ndarray:
        """(2, 2): column by the true bit, row by the bit that is read."""
        return np.array([[1 - self.p1_given_0, self.p0_given_1], [self.p1_given_0, 1 - self.p0_given_1]])


@dataclass(frozen=True)
class NoiseModel:
    """Which channels come after which gates, and how bits are misread. Can be hashed, compared and pickled.

    Rules apply one after another, each to every gate it matches. Of readout errors the last that names a wire, or
    all wires, holds for it.
    """

    rules: tuple[Rule, ...] = ()
    readout: tuple[Readout, ...] = ()

    @classmethod
    def after_every_gate(cls, *channels: Channel, readout: Iterable[Readout] = ()) -> "NoiseModel":
        """The one-qubit channels on every wire of every gate."""
        return cls((Rule(channels),) if channels else (), tuple(readout))

    @classmethod
    def from_dict(cls, settings: dict) -> "NoiseModel":
        """A noise model from plain values, as a YAML section has them.

            after:
              - {channel: depolarizing, p: 0.001, n_qubits: 1}
              - {gates: [CNOT], channels: [{channel: depolarizing, p: 0.01, n_qubits: 2}, {channel: bit_flip, p: 0.1}]}
            readout: {p1_given_0: 0.01, p0_given_1: 0.03}

        A rule has one `channel:` with its numbers, or `channels:`, each with its own, and any of `gates`, `n_qubits`,
        `wires` and `on`, as in Rule. Beside `channel:` the key n_qubits is both. `readout` is one entry or a list
        of them, each for one `wire:` or for all. Raises ValueError in one sentence that names the key.
        """
        _known("noise", settings, ("after", "readout"))
        rules = _listed("noise.after", settings.get("after", ()))
        readout = settings.get("readout", ())
        readout = [readout] if isinstance(readout, dict) else _listed("noise.readout", readout)
        for entry in readout:
            _known("noise.readout", entry, ("p1_given_0", "p0_given_1", "wire"))
        return cls(tuple(map(_rule, rules)), tuple(Readout(**entry) for entry in readout))

    def channels(self, name: str, wires: Sequence[int]) -> list[tuple[Channel, tuple[int, ...]]]:
        """The channels behind a gate, first to last, each with its wires."""
        matching = [rule for rule in self.rules if rule.matches(name, wires)]
        return [found for rule in matching for found in rule.placed(name, wires)]

    def confusion(self, wire: int) -> np.ndarray:
        """(2, 2): how the bit of `wire` is read; the identity where nothing is said."""
        found = [error for error in self.readout if error.wire in (None, wire)]
        return (found[-1] if found else Readout()).confusion


def _rule(settings: dict) -> Rule:
    where = "noise.after"
    if not isinstance(settings, dict) or ("channel" in settings) == ("channels" in settings):
        raise ValueError(
            f"{where}: a rule has either `channel:` with its numbers or a list `channels:`, got {settings}"
        )
    about = {key: settings[key] for key in ("gates", "n_qubits", "wires", "on") if key in settings}
    if "channel" in settings:
        taken = ("gates", "wires", "on")
        entry = {key: value for key, value in settings.items() if key not in taken}
        if "n_qubits" not in _parameters(entry["channel"]):
            entry.pop("n_qubits", None)
        channels = [_channel(entry)]
    else:
        _known(where, settings, ("channels", "gates", "n_qubits", "wires", "on"))
        channels = [_channel(entry) for entry in _listed(f"{where}.channels", settings["channels"])]
    for key in ("gates", "wires", "on"):
        value = about.get(key, ())
        about[key] = (value,) if isinstance(value, str | int) else tuple(value)
    return Rule(tuple(channels), **about)


def _parameters(name: str) -> list[str]:
    return [key for key in inspect.signature(find("noise channel", name, CHANNELS)).parameters if key != "name"]


def _channel(entry: dict) -> Channel:
    if not isinstance(entry, dict) or "channel" not in entry:
        raise ValueError(f"noise.after: expected {{channel: NAME, ...}}, got {entry}")
    name = entry["channel"]
    numbers = {key: value for key, value in entry.items() if key != "channel"}
    _known(f"noise channel {name}", numbers, _parameters(name))
    try:
        return CHANNELS[name](**numbers)
    except TypeError as error:
        raise ValueError(f"noise channel {name}: {error}; it takes {', '.join(_parameters(name))}") from None


def _known(where: str, settings: dict, keys: Sequence[str]) -> None:
    if not isinstance(settings, dict):
        raise ValueError(f"{where}: expected keys and values ({', '.join(keys)}), got {settings!r}")
    if unknown := [key for key in settings if key not in keys]:
        raise ValueError(f"{where}: unknown key '{unknown[0]}'; known: {', '.join(keys)}")


def _listed(where: str, value) -> list:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where}: expected a list, got {value!r}")
    return list(value)
