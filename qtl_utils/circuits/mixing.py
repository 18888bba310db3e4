"""What a circuit makes of its inputs: every output as a polynomial in sines and cosines of the encoded angles.

Every measured Pauli word is pulled back through the circuit at given trained angles (the Heisenberg picture):

    exp(+i a/2 P) M exp(-i a/2 P) = M where P and M commute, else cos(a) M + i sin(a) P M

What is left of it at the front is a number, because the circuit begins in a product of |0> and |+>. An output that is
the product of the sines of three inputs says nothing about any one of them: averaged over the other two it is zero. A
linear layer behind the circuit then has less to read, and two numbers per input say how much less, after a functional
analysis of variance (Sobol, "Sensitivity estimates for nonlinear mathematical models", 1993):

    alone = main effect / total effect: what the input does by itself, of all that it does
    reach = main effect / standard deviation of the sine or cosine that it enters with: what is left of its signal
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from qtl_utils.circuits.ansatze import ANSATZE, make_circuit
from qtl_utils.circuits.program import CONSTANT, INPUT, Angle, Pauli, Reading, read_circuit
from qtl_utils.study.names import find

MOST_TERMS = 50_000  # of a polynomial on its way through the circuit
SMALL = 1e-9  # terms with a smaller coefficient are left out
SAMPLES = 2000  # that effects are measured with
SPREAD = 0.5  # radians: the standard deviation of the inputs where no others are given
UNREAD = 0.25  # an input that does less than this by itself counts as unreadable


class TooManyTermsError(ValueError):
    """The outputs of a circuit have more terms than can be looked at."""


@dataclass(frozen=True)
class Term:
    """coefficient * product of cos(encoded[g]), g in `cosines`, * product of sin(encoded[g]), g in `sines`."""

    coefficient: float
    cosines: tuple[int, ...]
    sines: tuple[int, ...]


@dataclass(frozen=True)
class Polynomial:
    """The K outputs of a circuit as functions of its n inputs, at the trained angles they were made with.

    `encoded`: the angles that depend on inputs, each `factor * input + offset` radians.
    """

    n_inputs: int
    encoded: tuple[Angle, ...]
    outputs: tuple[tuple[Term, ...], ...]

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """inputs (N, n) in radians -> expectation values (N, K), those of the circuit."""
        columns = self._columns(np.asarray(inputs, float))
        found = [sum((_value(t, columns) for t in terms), np.zeros(len(inputs))) for terms in self.outputs]
        return np.stack(found, axis=-1)

    def _columns(self, inputs: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Cosine and sine of every encoded angle, each (N,)."""
        angles = [a.factor * inputs[:, a.index] + a.offset for a in self.encoded]
        return [np.cos(a) for a in angles], [np.sin(a) for a in angles]

    def factors(self, term: Term) -> dict[int, Term]:
        """A term as a product over inputs: input -> its own cosines and sines, with coefficient 1."""
        of = {self.encoded[g].index for g in (*term.cosines, *term.sines)}
        own = lambda positions, i: tuple(g for g in positions if self.encoded[g].index == i)  # noqa: E731
        return {i: Term(1.0, own(term.cosines, i), own(term.sines, i)) for i in sorted(of)}

    @property
    def inputs_of_outputs(self) -> tuple[int, ...]:
        """For every output the number of inputs in its largest term: 1 can be read, 3 is a product of three."""
        largest = [max(terms, key=lambda t: abs(t.coefficient), default=None) for terms in self.outputs]
        return tuple(0 if term is None else len(self.factors(term)) for term in largest)

    @property
    def reuploads(self) -> bool:
        """Whether an input is encoded more than once, so that products are what the circuit is for."""
        inputs = [angle.index for angle in self.encoded]
        return len(set(inputs)) < len(inputs)

    def main_effects(self, inputs: np.ndarray) -> np.ndarray:
        """Standard deviations (K, n) of E[output | input i]; the columns of `inputs` (N, n), radians, independent."""
        columns = self._columns(np.asarray(inputs, float))
        found = np.zeros((len(self.outputs), self.n_inputs))
        for k, terms in enumerate(self.outputs):
            curves = defaultdict(lambda: np.zeros(len(inputs)))
            for term in terms:
                parts = {i: _value(part, columns) for i, part in self.factors(term).items()}
                means = {i: part.mean() for i, part in parts.items()}
                for i, part in parts.items():
                    curves[i] += term.coefficient * part * prod(m for j, m in means.items() if j != i)
            for i, curve in curves.items():
                found[k, i] = curve.std()
        return found

    def total_effects(self, inputs: np.ndarray) -> np.ndarray:
        """Standard deviations (K, n) of what of an output is gone once input i is averaged out (Jansen 1999)."""
        inputs = np.asarray(inputs, float)
        values = self(inputs)
        found = np.zeros((len(self.outputs), self.n_inputs))
        for i in range(self.n_inputs):
            other = inputs.copy()
            other[:, i] = np.roll(inputs[:, i], 1)
            found[:, i] = np.sqrt(((self(other) - values) ** 2).mean(axis=0) / 2)
        return found

    def alone(self, inputs: np.ndarray) -> np.ndarray:
        """What each input does by itself of all that it does, (n,) from 0 to 1; NaN where it does nothing.

        inputs (N, n) in radians, of independent columns.
        """
        main, total = (np.sqrt((e**2).sum(axis=0)) for e in (self.main_effects(inputs), self.total_effects(inputs)))
        return np.divide(main, total, out=np.full(self.n_inputs, np.nan), where=total > 1e-6).clip(max=1.0)

    def reach(self, inputs: np.ndarray) -> np.ndarray:
        """What is left of the signal of each input for a linear layer, (n,) from 0 to 1; NaN where it does not vary.

        inputs (N, n) in radians, of independent columns.
        """
        inputs = np.asarray(inputs, float)
        columns = self._columns(inputs)
        own = np.zeros(self.n_inputs)
        for g, angle in enumerate(self.encoded):
            own[angle.index] = max(own[angle.index], columns[0][g].std(), columns[1][g].std())
        effects = np.sqrt((self.main_effects(inputs) ** 2).sum(axis=0))
        return np.divide(effects, own, out=np.full(self.n_inputs, np.nan), where=own > 1e-6).clip(max=1.0)


def _value(term: Term, columns: tuple[list[np.ndarray], list[np.ndarray]]) -> np.ndarray:
    cosines, sines = columns
    found = np.full(len((*cosines, *sines)[0]) if cosines else 1, term.coefficient)
    for g in term.cosines:
        found = found * cosines[g]
    for g in term.sines:
        found = found * sines[g]
    return found


def polynomial(
    circuit: Callable, n_qubits: int, weights: np.ndarray, n_inputs: int | None = None, most: int = MOST_TERMS
) -> Polynomial:
    """The outputs of a quantum function `circuit(inputs, weights)` at the trained angles `weights`, in radians.

    Raises UnsupportedCircuitError as `read_circuit` does, TooManyTermsError where there are more than `most`.
    """
    weights = np.asarray(weights, float)
    return pulled_back(read_circuit(circuit, n_qubits, weights.shape, n_inputs), weights, most)


def pulled_back(read: Reading, weights: np.ndarray, most: int = MOST_TERMS) -> Polynomial:
    """`polynomial` of a circuit that was read already: for many sets of trained angles."""
    flat = np.asarray(weights, float).ravel()
    encoded = [(place, angle) for place, (_, angle) in enumerate(read.turns) if angle.source == INPUT]
    number = {place: g for g, (place, _) in enumerate(encoded)}
    words = [_pulled(word, read, flat, number, most) for word in read.words]
    outputs = []
    for shares in read.outputs:
        sums = defaultdict(float)
        for share, terms in zip(shares, words, strict=True):
            for key, coefficient in terms.items():
                sums[key] += share * coefficient
        outputs.append(tuple(Term(c, _bits(key[0]), _bits(key[1])) for key, c in sums.items() if abs(c) > SMALL))
    return Polynomial(read.n_inputs, tuple(angle for _, angle in encoded), tuple(outputs))


def _pulled(word: Pauli, read: Reading, weights: np.ndarray, number: dict[int, int], most: int) -> dict:
    """The mean of `word` as {(bits of cosines, bits of sines): coefficient}."""
    state = {(word.x, word.z, 0, 0): 1j**word.power}
    for place in reversed(range(len(read.turns))):
        turn, angle = read.turns[place]
        if angle.source == CONSTANT or angle.source != INPUT:
            value = angle.offset if angle.source == CONSTANT else angle.factor * weights[angle.index] + angle.offset
            state = _turned(state, turn, ((np.cos(value), 0), (np.sin(value), 0)))
        else:
            bit = 1 << number[place]
            state = _turned(state, turn, ((1.0, bit), (1.0, bit)))
        if len(state) > most:
            raise TooManyTermsError(f"more than {most:,} products of sines and cosines; look at a smaller circuit")
    found = defaultdict(float)
    for (x, z, cosines, sines), coefficient in state.items():
        # <X> = 1 in |+>, <Z> = 1 in |0>; any other letter averages to zero
        if x & ~read.uniform == 0 and z & read.uniform == 0:
            found[cosines, sines] += coefficient.real
    return found


def _turned(state: dict, turn: Pauli, parts: tuple[tuple[float, int], tuple[float, int]]) -> dict:
    """Every word that anticommutes with `turn` becomes cos * itself + i sin * turn @ itself."""
    (cosine, cosine_bit), (sine, sine_bit) = parts
    found = defaultdict(complex)
    for (x, z, cosines, sines), coefficient in state.items():
        if ((turn.x & z).bit_count() + (turn.z & x).bit_count()) % 2 == 0:
            found[x, z, cosines, sines] += coefficient
            continue
        product = turn @ Pauli(x, z)
        if abs(cosine * coefficient) > SMALL:
            found[x, z, cosines | cosine_bit, sines] += cosine * coefficient
        if abs(sine * coefficient) > SMALL:
            key = product.x, product.z, cosines, sines | sine_bit
            found[key] += 1j * sine * coefficient * 1j**product.power
    return found


def _bits(number: int) -> tuple[int, ...]:
    return tuple(g for g in range(number.bit_length()) if number >> g & 1)


def draw_inputs(spread: Sequence[float], centre: Sequence[float] | float = 0.0, n: int = SAMPLES) -> np.ndarray:
    """Inputs (n, len(spread)), the same at every call, from normal distributions with these deviations, in radians."""
    return np.random.default_rng(0).normal(centre, spread, (n, len(spread)))


def by_depth(
    ansatz: str, encoding: str, n_qubits: int, depths: Iterable[int], spread: float = SPREAD
) -> Iterator[dict[str, object]]:
    """What a circuit mixes near zero angles, a row per depth.

    `products`: in how many inputs the largest term of each output is; `unread`: how many inputs cannot be read by
    themselves; `alone` and `reach`: the least and the mean over inputs, drawn with a deviation of `spread` radians.
    """
    drawn = draw_inputs([spread] * n_qubits)
    for depth in depths:
        shape = find("ansatz", ansatz, ANSATZE).shape(n_qubits, depth)
        found = polynomial(make_circuit(ansatz, encoding, n_qubits), n_qubits, np.zeros(shape))
        alone = found.alone(drawn)
        yield {
            "depth": depth,
            "products": ", ".join(map(str, found.inputs_of_outputs)),
            "unread": int((alone < UNREAD).sum()),
            "alone": float(np.nan_to_num(alone).min()),
            "reach": float(np.nan_to_num(found.reach(drawn)).mean()),
        }
