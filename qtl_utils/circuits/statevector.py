"""A batched statevector simulator: reads a PennyLane quantum function once, then runs it over samples and replicas.

`program` turns the function into rotations of pairs of real numbers. Two executors run these and give the same
numbers: 'numba' on the CPU (see `statevector_cpu`), 'torch' on any device and as the reference. Gradients are those of
the adjoint method (arXiv:2009.02823): the circuit is undone gate by gate, so that memory does not grow with its depth.
"""

import math
from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from qtl_utils.circuits.limits import NOT_FINITE, check_memory
from qtl_utils.circuits.program import Program, Rotation, Word, compile_circuit
from qtl_utils.circuits.statevector_cpu import schedule_of

EXECUTORS = ("auto", "numba", "torch")
CACHED_BITS = 12  # the torch executor keeps the index tables of states up to this size


class Statevector:
    """A quantum function made to run over batches: `Statevector(f, n_qubits, weight_shape)(inputs, weights)`.

    circuit: a PennyLane quantum function or QNode `f(inputs, weights)` on the wires 0 ... n_qubits - 1, see
    `compile_circuit`. weight_shape: of its weights. n_inputs: of a sample, n_qubits by default. executor: 'auto' (Numba
    on the CPU, else torch), 'numba' or 'torch'. Attributes: `program`, what the function was compiled to, and
    `executor`. Can be pickled. Raises UnsupportedCircuitError where the function is none that it can run.

        run = Statevector(circuit, n_qubits=4, weight_shape=(6, 4))
        run(torch.rand(32, 4), torch.rand(6, 4))  # (32, n_outputs)
    """

    def __init__(
        self,
        circuit: Callable,
        n_qubits: int,
        weight_shape: Iterable[int],
        n_inputs: int | None = None,
        executor: str = "auto",
    ):
        self.program = compile_circuit(circuit, n_qubits, weight_shape, n_inputs)
        self.executor = executor

    def __call__(self, inputs: Tensor, weights: Tensor) -> Tensor:
        """Expectation values (..., B, n_outputs) of `inputs` (..., B, n_inputs) and `weights`; see `simulate`."""
        return simulate(self.program, inputs, weights, self.executor)


def simulate(
    program: Program,
    inputs: Tensor,
    weights: Tensor,
    executor: str = "auto",
    diff_method: str = "adjoint",
) -> Tensor:
    """Expectation values (..., B, n_outputs) of inputs (..., B, n_inputs) and weights (..., *weight_shape), in radians.

    Leading dimensions are replicas, each with its own weights; weights without them serve all. float32 or float64.
    diff_method: 'adjoint', or 'backprop' through the torch executor, which has derivatives of any order.
    Raises ValueError where sizes do not fit, dtypes or devices differ, an angle is NaN or infinite, or memory does not
    suffice. Inside `torch.func.vmap` a NaN is let through: it stays in its own replica.
    """
    executor = choose_executor(executor, inputs.device.type, diff_method)
    inputs, weights = aligned(program, inputs, weights)
    single = inputs.dim() == 1
    words = _words(program, inputs[None] if single else inputs, weights, executor, diff_method)
    if program.readout is not None:
        words = words @ torch.tensor(program.readout, dtype=words.dtype, device=words.device).T
    return words[0] if single else words


@lru_cache
def choose_executor(executor: str, device: str, diff_method: str = "adjoint") -> str:
    """'numba' or 'torch' for what was asked for; ValueError where it cannot be had."""
    if executor not in EXECUTORS:
        raise ValueError(f"unknown executor '{executor}'; known: {', '.join(EXECUTORS)}")
    if diff_method not in ("adjoint", "backprop"):
        raise ValueError(f"statevector differentiates by 'adjoint' or 'backprop', not by '{diff_method}'")
    fits = device == "cpu" and diff_method == "adjoint"
    if executor == "numba" and not fits:
        raise ValueError(
            f"executor 'numba' differentiates by 'adjoint' on the CPU, not by '{diff_method}' on '{device}'; "
            "use executor='torch'"
        )
    return executor if executor != "auto" else "numba" if fits else "torch"


def aligned(program, inputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and weights with the same leading dimensions, or weights without any; ValueError where they do not fit."""
    shape = program.weight_shape
    dtype = inputs.dtype
    if dtype != weights.dtype or dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"inputs are {inputs.dtype} and weights {weights.dtype}; both must be float32 or both float64: "
            "convert one with .float() or .double()"
        )
    if inputs.device != weights.device:
        raise ValueError(f"inputs are on {inputs.device} and weights on {weights.device}; move one with .to(device)")
    if not inputs.dim() or inputs.shape[-1] != program.n_inputs:
        raise ValueError(f"expected {program.n_inputs} angles per sample, got inputs of shape {tuple(inputs.shape)}")
    if weights.shape == shape:
        return inputs, weights
    lead = weights.shape[: weights.dim() - len(shape)]
    if weights.shape[len(lead) :] != shape:
        raise ValueError(f"expected weights of shape (..., {str(shape)[1:]}, got {tuple(weights.shape)}")
    try:
        together = torch.broadcast_shapes(lead, inputs.shape[:-2])
        return inputs.expand(*together, *inputs.shape[-2:]), weights.expand(*together, *shape)
    except RuntimeError:
        raise ValueError(
            f"replicas do not fit: inputs {tuple(inputs.shape)} are (..., batch, {program.n_inputs}) and weights "
            f"{tuple(weights.shape)} are (..., {str(shape)[1:]} with the same leading dimensions"
        ) from None


def _words(program, inputs, weights, executor, diff_method="adjoint", strict=True) -> Tensor:
    """Values of the program's words, for what `aligned` returns."""
    transformed = torch._C._are_functorch_transforms_active()
    run = Run(program, executor, inputs, weights, strict and not transformed)
    if diff_method == "backprop":
        return run.torch_words(run.torch_state(inputs, weights))
    if transformed:
        return _Simulate.apply(inputs, weights, run)
    if torch.is_grad_enabled() and (inputs.requires_grad or weights.requires_grad):
        return _Direct.apply(inputs, weights, run)
    return run.forward(inputs, weights, keep=False)


class _Direct(torch.autograd.Function):
    """What `_Simulate` does, in the older form, whose call costs a third."""

    @staticmethod
    def forward(ctx, inputs, weights, run):
        ctx.save_for_backward(inputs, weights)
        ctx.run = run
        return run.forward(inputs, weights, keep=True)

    @staticmethod
    def backward(ctx, gradient):
        return _backward(ctx, gradient)


def _backward(ctx, gradient):
    inputs, weights = ctx.saved_tensors
    if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return *_Adjoint.apply(inputs, weights, gradient, ctx.run), None
    return *ctx.run.backward(inputs, weights, gradient, ctx.needs_input_grad), None


class _Simulate(torch.autograd.Function):
    @staticmethod
    def forward(inputs, weights, run):
        return run.forward(inputs, weights, keep=True)

    @staticmethod
    def setup_context(ctx, arguments, output):
        inputs, weights, ctx.run = arguments
        ctx.save_for_backward(inputs, weights)

    @staticmethod
    def backward(ctx, gradient):
        return _backward(ctx, gradient)

    @staticmethod
    def vmap(info, in_dims, inputs, weights, run):
        inputs = to_front(inputs, in_dims[0], info.batch_size)
        if in_dims[1] is not None or weights.shape != run.program.weight_shape:  # else one weight set serves all
            weights = to_front(weights, in_dims[1], info.batch_size)
        return _words(run.program, inputs, weights, run.executor, strict=False), 0


class _Adjoint(torch.autograd.Function):
    """The backward pass as a function of its own, so that it can run under `vmap` too."""

    @staticmethod
    def forward(inputs, weights, gradient, run):
        return run.backward(inputs, weights, gradient, (True, True))

    @staticmethod
    def setup_context(ctx, arguments, output):
        pass

    @staticmethod
    def backward(ctx, *gradients):
        raise RuntimeError("the adjoint method has no second derivatives; use diff_method='backprop'")

    @staticmethod
    def vmap(info, in_dims, inputs, weights, gradient, run):
        tensors = [to_front(t, d, info.batch_size) for t, d in zip((inputs, weights, gradient), in_dims, strict=False)]
        run = Run(run.program, run.executor, *tensors[:2], strict=False)
        return _Adjoint.apply(*tensors, run), (0, 0)


def to_front(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    return tensor.movedim(dim, 0) if dim is not None else tensor.expand(size, *tensor.shape)


class Run:
    """One call of a program: R replicas of B samples each."""

    def __init__(self, program: Program, executor: str, inputs: Tensor, weights: Tensor, strict: bool):
        self.program = program
        self.executor = executor
        self.strict = strict
        *lead, batch, _ = inputs.shape
        self.shape = (*lead, batch, len(program.words))
        shared = weights.dim() == len(program.weight_shape)  # one weight set for all
        self.replicas, self.batch = (1, math.prod(lead) * batch) if shared else (math.prod(lead), batch)
        self.kept = None  # the final states, where forward kept them for backward

    def forward(self, inputs: Tensor, weights: Tensor, keep: bool) -> Tensor:
        if self.executor == "numba":
            return schedule_of(self.program).forward(self, inputs, weights, keep)
        state = self.torch_state(inputs, weights)
        self.kept = state if keep else None
        return self.torch_words(state)

    def backward(self, inputs, weights, gradient, needed) -> tuple[Tensor | None, Tensor | None]:
        """Gradients with respect to inputs and weights by the adjoint method; None where `needed` is false."""
        if self.executor == "numba":
            return schedule_of(self.program).backward(self, inputs, weights, gradient, needed)
        return self.torch_backward(inputs, weights, gradient, needed)

    # ---- the torch executor: states (R, B, 2^n_bits)

    def torch_state(self, inputs: Tensor, weights: Tensor) -> Tensor:
        """The states at the end of the circuit."""
        program = self.program
        if inputs.device.type == "cpu":  # 32: the index tables
            check_memory(2**program.n_bits * (4 * self.replicas * self.batch * inputs.itemsize + 32))
        i = torch.arange(2**program.n_bits, device=inputs.device)
        start = ((i & ~program.uniform) == 0).to(inputs.dtype) * 2 ** (-program.uniform.bit_count() / 2)
        state = start.expand(self.replicas, self.batch, -1)
        for rotation, c, s in zip(program.rotations, *self._cosines_and_sines(inputs, weights), strict=True):
            state = torch.addcmul(c * state, s, self._swapped(state, rotation))
        return state

    def _cosines_and_sines(self, inputs, weights) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Of half the angle of every rotation, (R, B, 1) each."""
        of_inputs, of_weights, offsets = self.program.factors(inputs)
        inputs = inputs.reshape(self.replicas, self.batch, self.program.n_inputs)
        weights = weights.reshape(self.replicas, 1, self.program.n_weights)
        if self.strict and not all((p.abs() < 1e15).all() for p in (inputs, weights)):
            raise ValueError(NOT_FINITE)
        half = (inputs @ of_inputs + weights @ of_weights + offsets) / 2  # (R, B, G)
        return half.cos().unsqueeze(-1).unbind(-2), half.sin().unsqueeze(-1).unbind(-2)

    def _swapped(self, state: Tensor, pair: Rotation | Word) -> Tensor:
        """(-1)^parity(i & z) state[i ^ x]"""
        find = kept_table if self.program.n_bits <= CACHED_BITS else index_table
        index, sign = find(self.program.n_bits, pair.x, pair.z, state.device, state.dtype)
        return (state if index is None else state.index_select(-1, index)) * sign

    def torch_words(self, state: Tensor) -> Tensor:
        words = [w.sign * (state * self._swapped(state, w)).sum(-1) for w in self.program.words]
        return torch.stack(words, -1).reshape(self.shape)

    def torch_backward(self, inputs, weights, gradient, needed):
        program = self.program
        (cosines, sines) = self._cosines_and_sines(inputs, weights)
        state = self.torch_state(inputs, weights) if self.kept is None else self.kept
        gradient = gradient.reshape(self.replicas, self.batch, len(program.words), 1)
        other = torch.zeros_like(state)  # O |state>, O the observable whose expectation value is differentiated
        for k, w in enumerate(program.words):
            other = torch.addcmul(other, gradient[:, :, k], self._swapped(state, w), value=w.sign)
        slopes = []
        for rotation, c, s in zip(*map(reversed, (program.rotations, cosines, sines)), strict=True):
            turned = self._swapped(state, rotation)
            slopes.append((other * turned).sum(-1))
            state = torch.addcmul(c * state, s, turned, value=-1)
            other = torch.addcmul(c * other, s, self._swapped(other, rotation), value=-1)
        slopes = torch.stack(slopes[::-1], -1) if slopes else state.new_zeros(self.replicas, self.batch, 0)  # (R, B, G)
        of_inputs, of_weights, _ = program.factors(inputs)
        return (
            (slopes @ of_inputs.T).reshape(inputs.shape) if needed[0] else None,
            (slopes.sum(1) @ of_weights.T).reshape(weights.shape) if needed[1] else None,
        )


def index_table(n_bits: int, x: int, z: int, device, dtype) -> tuple[Tensor | None, Tensor]:
    """The index i ^ x, None if it is i, and the sign (-1)^parity(i & z), for i = 0 ... 2^n_bits - 1."""
    i = np.arange(2**n_bits)
    sign = 1 - 2 * (np.bitwise_count(i & z) % 2).astype(int)
    return torch.as_tensor(i ^ x, device=device) if x else None, torch.as_tensor(sign, dtype=dtype, device=device)


kept_table = lru_cache(maxsize=1024)(index_table)
