"""A batched density-matrix simulator: circuits with noise, exactly or by shots, over samples and replicas.

`noisy_program` makes the program: turns by angles and fixed maps, on 4^n real numbers a sample. Two executors run it
and give the same numbers: 'numba' on the CPU (see `density_cpu`), 'torch' on any device and as the reference. Beside
the adjoint method, gradients come from other circuits, as on hardware: those of shifted angles (parameter shift,
arXiv:1811.11184, which holds for every turn whatever the noise) or of all angles moved at random (SPSA, Spall 1992).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qtl_utils.circuits import density_cpu
from qtl_utils.circuits.channels import NoiseModel
from qtl_utils.circuits.limits import NOT_FINITE, check_memory
from qtl_utils.circuits.noisy_program import Map, NoisyProgram, Turn, compile_noisy, partners
from qtl_utils.circuits.program import CONSTANT, INPUT, WEIGHT
from qtl_utils.circuits.statevector import aligned, to_front

EXECUTORS = ("auto", "numba", "torch")
SHIFTED = ("parameter-shift", "spsa", "finite-diff")  # methods that run other circuits, and so work with shots
DIFF_METHODS = ("adjoint", "backprop", *SHIFTED)
STEP = {"finite-diff": 1e-7, "spsa": 0.2}  # radians; as PennyLane's, and one that shots can see
AT_ONCE = 2**24  # numbers of states that the torch executor holds, and of angles of shifted circuits


class Density:
    """A quantum function with noise, made to run over batches: `Density(f, n_qubits, weight_shape, noise)(x, w)`.

    See `compile_noisy` for what `circuit` may be and `simulate_noisy` for shapes, gradients and `options`. Can be
    pickled. `seed` begins one stream of draws for all calls; `executions` is how many circuits have been run.
    """

    def __init__(
        self,
        circuit: Callable,
        n_qubits: int,
        weight_shape: Iterable[int],
        noise: NoiseModel | None = None,
        n_inputs: int | None = None,
        seed: int | None = 0,
        **options,
    ):
        self.program = compile_noisy(circuit, n_qubits, weight_shape, noise, n_inputs)
        self.options = options
        self.tally = Tally()
        self.generator = np.random.default_rng(seed)

    def __call__(self, inputs: Tensor, weights: Tensor) -> Tensor:
        return simulate_noisy(self.program, inputs, weights, seed=self.generator, tally=self.tally, **self.options)

    @property
    def executions(self) -> int:
        return self.tally.executions


@dataclass
class Tally:
    """How many circuits have been run."""

    executions: int = 0


def simulate_noisy(
    program: NoisyProgram,
    inputs: Tensor,
    weights: Tensor,
    executor: str = "auto",
    diff_method: str = "adjoint",
    shots: int | None = None,
    seed: int | np.random.Generator | None = None,
    directions: int = 1,
    step: float | None = None,
    tally: Tally | None = None,
) -> Tensor:
    """Expectation values (..., B, n_outputs) of inputs (..., B, n_inputs) and weights (..., *weight_shape), in radians.

    Leading dimensions are replicas, each with its own weights; weights without them serve all. float32 or float64.
    `shots`: means of so many measurements of all wires, drawn anew for every circuit by `seed`; None: exact values.
    diff_method: 'adjoint'; 'backprop' through the torch executor, with derivatives of any order; 'parameter-shift';
    'spsa' along so many random `directions` a sample; 'finite-diff', a forward difference. `step`, in radians, is that
    of the last two. Only the last three have gradients with shots. `tally` counts circuits.
    Raises ValueError where sizes do not fit, dtypes or devices differ, an angle is NaN or infinite, memory does not
    suffice, or a method cannot be had. Inside `torch.func.vmap` a NaN is let through: it stays in its own replica.
    """
    executor = choose_executor(executor, inputs.device.type, diff_method, shots)
    if shots is not None and program.measurement is None:
        raise ValueError(
            "density draws shots of one measurement: outputs that share a wire must measure it by one letter"
        )
    inputs, weights = aligned(program, inputs, weights)
    tally = Tally() if tally is None else tally
    job = Job(program, executor, diff_method, shots, tally)
    if diff_method in SHIFTED:
        job.generator = seed if isinstance(seed, np.random.Generator) else np.random.default_rng(seed)
        job.directions = directions
        job.step = STEP.get(diff_method) if step is None else step
        job.wanted = _wanted(program, inputs, weights)
    single = inputs.dim() == 1
    angles = _angles(program, inputs[None] if single else inputs, weights)
    if not torch._C._are_functorch_transforms_active() and not (angles.abs() < 1e15).all():
        raise ValueError(NOT_FINITE)
    out = _simulated(angles, job)
    return out[0] if single else out


def choose_executor(executor: str, device: str, diff_method: str = "adjoint", shots: int | None = None) -> str:
    """'numba' or 'torch' for what was asked for; ValueError where it cannot be had."""
    if executor not in EXECUTORS:
        raise ValueError(f"unknown executor '{executor}'; known: {', '.join(EXECUTORS)}")
    if diff_method not in DIFF_METHODS:
        raise ValueError(f"density differentiates by {', '.join(DIFF_METHODS)}, not by '{diff_method}'")
    if shots is not None and (not isinstance(shots, int) or isinstance(shots, bool) or shots < 1):
        raise ValueError(f"shots must be a whole number from 1 on, or None for exact values, got {shots!r}")
    if shots is not None and diff_method not in SHIFTED:
        raise ValueError(f"'{diff_method}' needs exact values; with shots differentiate by {' or '.join(SHIFTED)}")
    fits = device == "cpu" and diff_method != "backprop"
    if executor == "numba" and not fits:
        raise ValueError(
            f"executor 'numba' runs on the CPU, and not by '{diff_method}' on '{device}'; use executor='torch'"
        )
    return executor if executor != "auto" else "numba" if fits else "torch"


def executions(
    program: NoisyProgram, diff_method: str, inputs: bool = True, weights: bool = True, directions: int = 1
) -> int:
    """How many circuits a step runs for one sample, forward and backward, where these are differentiated."""
    turns = len(differentiated(program, inputs, weights))
    backward = {
        "adjoint": 1,
        "backprop": 0,
        "parameter-shift": 2 * turns,
        "spsa": 2 * directions,
        "finite-diff": turns + 1,
    }
    return 1 + backward[diff_method]


def differentiated(program: NoisyProgram, inputs: bool = True, weights: bool = True) -> list[int]:
    """The numbers of the turns whose angles depend on what is differentiated."""
    sources = {CONSTANT: False, INPUT: inputs, WEIGHT: weights}
    return [g for g, turn in enumerate(program.turns) if sources[turn.angle.source]]


def _wanted(program: NoisyProgram, inputs: Tensor, weights: Tensor) -> tuple[int, ...]:
    if torch._C._are_functorch_transforms_active():  # which hide who asks for gradients
        return tuple(differentiated(program))
    return tuple(differentiated(program, inputs.requires_grad, weights.requires_grad))


def _angles(program: NoisyProgram, inputs: Tensor, weights: Tensor) -> Tensor:
    """The turns' angles, (..., B, G)."""
    of_inputs, of_weights, offsets = program.factors(inputs)
    lead = weights.shape[: weights.dim() - len(program.weight_shape)]
    return inputs @ of_inputs + (weights.reshape(*lead, 1, program.n_weights) @ of_weights + offsets)


@dataclass
class Job:
    """One call: what is to be done with angles (..., G)."""

    program: NoisyProgram
    executor: str
    diff_method: str
    shots: int | None
    tally: Tally
    # of methods that run other circuits
    generator: np.random.Generator | None = None
    directions: int = 1
    step: float | None = None
    wanted: tuple[int, ...] = ()  # the turns whose slopes are asked for

    def words(self, angles: Tensor, words: tuple[int, ...] | None = None) -> Tensor:
        """Expectation values of `words`, the program's by default: (..., W)."""
        self.tally.executions += math.prod(angles.shape[:-1])
        words = self.program.words if words is None else words
        return (torch_words if self.executor == "torch" else density_cpu.words_of)(self.program, words, angles)

    def evaluate(self, angles: Tensor) -> Tensor:
        """What is differentiated: words by the adjoint method, outputs by all others."""
        return self.words(angles) if self.diff_method == "adjoint" else self.outputs(angles)

    def outputs(self, angles: Tensor) -> Tensor:
        """(..., n_outputs), exact or by shots, without gradients."""
        if self.shots is None:
            return read_out(self.program, self.words(angles))
        chances = self.chances(angles)
        lost = np.isnan(chances).any(axis=-1, keepdims=True)  # an angle was NaN: so is what it gives
        counts = self.generator.multinomial(self.shots, np.where(lost, 1 / chances.shape[-1], chances))  # (..., 2^m)
        values = np.where(lost, np.nan, counts @ self.program.measurement.values.T / self.shots)
        return torch.from_numpy(values).to(angles)

    def chances(self, angles: Tensor) -> np.ndarray:
        """The probability of every bit string that is read, (..., 2^m), float64: bit i of the index from wires[i]."""
        wires = self.program.measurement.wires
        words = [sum(3 * 4**wire for i, wire in enumerate(wires) if k >> i & 1) for k in range(2 ** len(wires))]
        found = self.words(angles, tuple(words)).cpu().double().numpy() @ _reading(self.program).T
        found = found.clip(min=0.0)  # rounding makes some -1e-17
        return found / found.sum(axis=-1, keepdims=True)

    def slopes(self, angles: Tensor, gradient: Tensor) -> Tensor:
        """Derivatives (..., G) of what `evaluate` gives, weighted by `gradient`, with respect to the angles."""
        if self.diff_method != "adjoint":
            return self._shifted_slopes(angles, gradient)
        self.tally.executions += math.prod(angles.shape[:-1])
        if self.executor == "numba":
            return density_cpu.slopes_of(self.program, self.program.words, angles, gradient)
        with torch.enable_grad():
            angles = angles.detach().requires_grad_()
            words = torch_words(self.program, self.program.words, angles)
        if not words.requires_grad:
            return torch.zeros_like(angles)
        return torch.autograd.grad(words, angles, gradient, allow_unused=True, materialize_grads=True)[0]

    def _shifted_slopes(self, angles: Tensor, gradient: Tensor) -> Tensor:
        """From the outputs of circuits whose angles are moved, all in one call, or in a few that fit the memory."""
        rows = angles.reshape(-1, angles.shape[-1])
        gradient = gradient.reshape(len(rows), -1)
        found = torch.zeros_like(rows)
        moves = self._moves(rows)
        numbers = 4**self.program.n_qubits if self.executor == "torch" else 2**self.program.n_qubits
        at_once = max(1, AT_ONCE // (moves.shape[1] * (numbers + rows.shape[1]) or 1))
        for start in range(0, len(rows) if self.wanted else 0, at_once):
            some = slice(start, start + at_once)
            part = moves if len(moves) == 1 else moves[some]
            found[some, list(self.wanted)] = self._differences(rows[some], part, gradient[some])
        return found.reshape(angles.shape)

    def _moves(self, rows: Tensor) -> Tensor:
        """What is added to the wanted angles of a sample: (1 or rows, circuits, wanted)."""
        wanted = len(self.wanted)
        if self.diff_method == "spsa":
            size = len(rows), self.directions, wanted
            signs = torch.from_numpy(self.generator.integers(0, 2, size) * 2.0 - 1.0).to(rows)
            return self.step * torch.cat([signs, -signs], dim=1)
        alone = torch.eye(wanted, dtype=rows.dtype, device=rows.device)
        if self.diff_method == "parameter-shift":
            return math.pi / 2 * torch.cat([alone, -alone])[None]
        return self.step * torch.cat([torch.zeros_like(alone[:1]), alone]).double()[None]

    def _differences(self, rows: Tensor, moves: Tensor, gradient: Tensor) -> Tensor:
        """Slopes (rows, wanted) of outputs weighted by `gradient` (rows, n_outputs)."""
        moved = rows[:, None].to(moves.dtype).repeat(1, moves.shape[1], 1)
        moved[..., list(self.wanted)] += moves
        value = (self.outputs(moved) * gradient[:, None]).sum(-1)  # (rows, circuits)
        if self.diff_method == "finite-diff":
            return (value[:, 1:] - value[:, :1]).to(rows) / self.step
        plus, minus = value.chunk(2, dim=1)
        if self.diff_method == "parameter-shift":
            return (plus - minus) / 2
        along = (plus - minus) / (2 * self.step)  # (rows, directions)
        signs = moves[:, : self.directions] / self.step
        return (along[..., None] * signs).mean(dim=1)


def _reading(program: NoisyProgram) -> np.ndarray:
    """(2^m, 2^m): from the expectation values of all words of Zs to the probabilities of bit strings that are read."""
    if "reading" not in program.made:
        found = np.eye(1)
        for confusion in program.measurement.confusion:
            # P(bit) = (1 +- <Z>) / 2, then what is read of it; the first wire is the lowest bit
            found = np.kron(confusion @ np.array([[0.5, 0.5], [0.5, -0.5]]), found)
        program.made["reading"] = found
    return program.made["reading"]


def _simulated(angles: Tensor, job: Job) -> Tensor:
    if job.diff_method == "backprop":
        return read_out(job.program, job.words(angles))
    transformed = torch._C._are_functorch_transforms_active()
    found = (_Simulate if transformed else _Direct).apply(angles, job)
    return read_out(job.program, found) if job.diff_method == "adjoint" else found


class _Direct(torch.autograd.Function):
    """What `_Simulate` does, in the older form, whose call costs a third."""

    @staticmethod
    def forward(ctx, angles, job):
        ctx.save_for_backward(angles)
        ctx.job = job
        return job.evaluate(angles)

    @staticmethod
    def backward(ctx, gradient):
        return _backward(ctx, gradient)


def _backward(ctx, gradient):
    (angles,) = ctx.saved_tensors
    if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return _Slopes.apply(angles, gradient, ctx.job), None
    return ctx.job.slopes(angles, gradient), None


class _Simulate(torch.autograd.Function):
    @staticmethod
    def forward(angles, job):
        return job.evaluate(angles)

    @staticmethod
    def setup_context(ctx, arguments, output):
        angles, ctx.job = arguments
        ctx.save_for_backward(angles)

    @staticmethod
    def backward(ctx, gradient):
        return _backward(ctx, gradient)

    @staticmethod
    def vmap(info, in_dims, angles, job):
        return _Simulate.apply(to_front(angles, in_dims[0], info.batch_size), job), 0


class _Slopes(torch.autograd.Function):
    """The backward pass as a function of its own, so that it can run under `vmap` too."""

    @staticmethod
    def forward(angles, gradient, job):
        return job.slopes(angles, gradient)

    @staticmethod
    def setup_context(ctx, arguments, output):
        ctx.method = arguments[-1].diff_method

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError(f"'{ctx.method}' has no second derivatives here; use diff_method='backprop'")

    @staticmethod
    def vmap(info, in_dims, angles, gradient, job):
        tensors = [to_front(t, d, info.batch_size) for t, d in zip((angles, gradient), in_dims, strict=False)]
        return _Slopes.apply(*tensors, job), 0


def read_out(program: NoisyProgram, words: Tensor) -> Tensor:
    """Outputs from the expectation values of the program's words."""
    key = "readout", words.device, words.dtype
    if key not in program.made:
        program.made[key] = [
            torch.tensor(a).to(words.device, words.dtype) for a in (program.readout.T, program.offsets)
        ]
    readout, offsets = program.made[key]
    return words @ readout + offsets


# ---- the torch executor: states (rows, 4^n) --------------------------------------------------------------------------


def torch_words(program: NoisyProgram, words: tuple[int, ...], angles: Tensor) -> Tensor:
    """Expectation values of `words` at angles (..., G), by operations that torch differentiates: (..., W)."""
    n = program.n_qubits
    if angles.device.type == "cpu":
        check_memory(4**n * math.prod(angles.shape[:-1]) * angles.itemsize * 4)
    state = zero_state(n, angles).expand(*angles.shape[:-1], -1)
    places = iter(range(len(program.turns)))
    for operation, table in zip(program.operations, _tables(program, angles), strict=True):
        if isinstance(operation, Turn):
            g = next(places)
            state = _turned(state, angles[..., g : g + 1], *table)
        else:
            state = _mapped(state, operation, n, table)
    return state[..., list(words)]


def _tables(program: NoisyProgram, like: Tensor) -> list:
    """What each operation needs as tensors: partners and signs of a turn, the transposed PTM of a map."""
    key = "tables", like.device, like.dtype
    if key not in program.made:
        found = []
        for operation in program.operations:
            if isinstance(operation, Turn):
                partner, sign = partners(program.n_qubits, operation.letters, operation.wires)
                found.append((torch.tensor(partner).to(like.device), torch.tensor(sign).to(like.device, like.dtype)))
            else:
                found.append(torch.tensor(operation.ptm.T.copy()).to(like.device, like.dtype))
        program.made[key] = found
    return program.made[key]


def zero_state(n_qubits: int, like: Tensor) -> Tensor:
    """|0...0>: the words of I and Z have 1, all others 0."""
    found = np.ones(1)
    for _ in range(n_qubits):
        found = np.kron(found, [1, 0, 0, 1])
    return torch.tensor(found).to(like.device, like.dtype)


def _turned(state: Tensor, angle: Tensor, partner: Tensor, sign: Tensor) -> Tensor:
    moved = torch.addcmul(angle.cos() * state, angle.sin() * sign, state.index_select(-1, partner))
    return torch.where(sign != 0, moved, state)


def _mapped(state: Tensor, step: Map, n_qubits: int, transposed: Tensor) -> Tensor:
    rows = state.shape[:-1]
    axes = [len(rows) + n_qubits - 1 - wire for wire in reversed(step.wires)]  # wire 0 is the last digit
    ends = list(range(-len(axes), 0))
    state = state.reshape(*rows, *[4] * n_qubits).movedim(axes, ends)
    moved = (state.flatten(-len(axes)) @ transposed).unflatten(-1, [4] * len(axes))
    return moved.movedim(ends, axes).reshape(*rows, 4**n_qubits)
