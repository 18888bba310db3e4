"""Training heads with JAX: every seed at once (vmap), every step in one loop (scan), the whole in one compiled call.

The programs do what `fit_heads` does and leave the same behind: losses and accuracies of every epoch, the best epoch,
and the logits of all samples at the best and the last one. They differ in who simulates the circuit: statevectors by
hand, TensorCircuit-NG or PennyLane. Everything is float32.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from qtl_utils.study.config import TrainConfig


@dataclass(frozen=True)
class Task:
    """What is trained on: N samples of F features, R seeds whose initial weights and orders are given."""

    table: np.ndarray  # (N, F)
    labels: np.ndarray  # (N,)
    selection: np.ndarray  # (n,) samples on which epochs are compared
    weights: Mapping[str, np.ndarray]  # initial parameters by torch's names, (R, ...)
    batches: np.ndarray  # (R, epochs, steps, batch) samples, -1 where a batch is short
    config: TrainConfig


# ---- the circuit of arXiv:1912.08278: angles (B, n) and weights (depth, n) -> expectation values of Z (B, n) ---------


def by_hand(n: int, depth: int) -> Callable:
    """Real statevectors: the circuit has no imaginary part."""
    order = entangling_order(n)
    basis = np.arange(2**n)
    signs = np.stack([1 - 2 * (basis >> (n - 1 - i) & 1) for i in range(n)], 1).astype(np.float32)  # (2^n, n)

    def circuit(angles, weights):
        samples = len(angles)
        cos, sin = jnp.cos(angles / 2), jnp.sin(angles / 2)
        qubits = jnp.stack([cos - sin, cos + sin], -1) * np.float32(0.5**0.5)  # (B, n, 2), RY(angle) H |0>
        state = qubits[:, 0]
        for i in range(1, n):
            state = (state[:, :, None] * qubits[:, None, i]).reshape(samples, -1)

        def layer(state, cos_sin):
            cos, sin = cos_sin
            state = state[:, order]
            for i in range(n):
                halves = state.reshape(samples, 2**i, 2, -1)
                zero, one = halves[:, :, 0], halves[:, :, 1]
                turned = [cos[i] * zero - sin[i] * one, sin[i] * zero + cos[i] * one]
                state = jnp.stack(turned, 2).reshape(samples, -1)
            return state, None

        state, _ = jax.lax.scan(layer, state, (jnp.cos(weights / 2), jnp.sin(weights / 2)))
        return state**2 @ signs

    return circuit


def entangling_order(n: int) -> np.ndarray:
    """(2^n,) Where every amplitude comes from when the CNOTs of a layer have passed; qubit 0 is the highest bit."""
    basis = np.arange(2**n)
    order = basis
    for first in (0, 1):
        for control in range(first, n - 1, 2):
            flipped = basis ^ (1 << (n - 2 - control))
            order = order[np.where(basis >> (n - 1 - control) & 1, flipped, basis)]
    return order


def tensorcircuit(n: int, depth: int) -> Callable:
    import tensorcircuit as tc

    tc.set_backend("jax")
    tc.set_dtype("complex64")

    def sample(angles, weights):
        c = tc.Circuit(n)
        for i in range(n):
            c.h(i)
            c.ry(i, theta=angles[i])
        for k in range(depth):
            for first in (0, 1):
                for i in range(first, n - 1, 2):
                    c.cnot(i, i + 1)
            for i in range(n):
                c.ry(i, theta=weights[k, i])
        return jnp.stack([c.expectation_ps(z=[i]).real for i in range(n)])

    return jax.vmap(sample, (0, None))


def pennylane(n: int, depth: int) -> Callable:
    import pennylane as qml

    from qtl_utils.circuits.ansatze import make_circuit

    device = qml.device("default.qubit", wires=n)
    qnode = qml.QNode(make_circuit("mari2019", "tanh", n), device, interface="jax", diff_method="backprop")
    return jax.vmap(lambda angles, weights: jnp.stack(qnode(angles, weights)), (0, None))


CIRCUITS = {"JAX": by_hand, "TensorCircuit-NG, JAX": tensorcircuit, "PennyLane, JAX": pennylane}


# ---- heads: parameters and features (B, F) -> logits (B, K) ----------------------------------------------------------


def head(variant: str, simulator: str, config: TrainConfig) -> Callable:
    """The head of `variant`, "A", "C" or "C-matched", with a circuit of CIRCUITS where it has one."""

    def linear(p, name, x):
        return x @ p[f"{name}weight"].T + p[f"{name}bias"]

    if variant == "C":
        return lambda p, x: linear(p, "", x)
    if variant == "C-matched":
        return lambda p, x: linear(p, "2.", jnp.tanh(linear(p, "0.", x)))
    circuit = CIRCUITS[simulator](config.n_qubits, config.depth)
    return lambda p, x: linear(p, "3.", circuit(jnp.tanh(linear(p, "0.", x)) * (jnp.pi / 2), p["2.weights"]))


# ---- training --------------------------------------------------------------------------------------------------------


def make_training(logits: Callable, task: Task) -> Callable:
    """A compiled function without arguments that trains all seeds.

    It returns the history (R, epochs, 4): loss and accuracy on training samples, met on the way, then on the selection;
    the best epoch (R,), counted from 1; and logits (R, 2, N, K) after the best and after the last epoch.
    """
    config = task.config

    def losses(parameters, table, labels, samples):
        """Loss of each of the samples (B,), and whether the answer is right."""
        out = logits(parameters, table[samples])
        loss = -jnp.take_along_axis(jax.nn.log_softmax(out), labels[samples, None], 1)[:, 0]
        return loss, out.argmax(1) == labels[samples]

    def train(start, batches, table, labels):
        def step(state, batch, rate):
            parameters, m, v, count = state
            real = batch >= 0

            def mean_loss(parameters):
                loss, right = losses(parameters, table, labels, jnp.maximum(batch, 0))
                total = jnp.sum(loss * real)
                return total / real.sum(), jnp.stack([total, jnp.sum(right * real)])

            gradient, seen = jax.grad(mean_loss, has_aux=True)(parameters)
            count = count + 1
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradient)
            v = jax.tree.map(lambda v, g: config.beta2 * v + (1 - config.beta2) * g * g, v, gradient)
            scale = rate / (1 - 0.9**count)
            root = jnp.sqrt(1 - config.beta2**count)
            parameters = jax.tree.map(lambda p, m, v: p - scale * m / (jnp.sqrt(v) / root + 1e-8), parameters, m, v)
            return (parameters, m, v, count), seen

        def epoch(carry, number_and_batches):
            state, best = carry
            number, batches = number_and_batches
            rate = config.lr_classical * config.lr_gamma ** (number // config.lr_step).astype(jnp.float32)
            state, seen = jax.lax.scan(lambda state, batch: step(state, batch, rate), state, batches)
            loss, right = losses(state[0], table, labels, task.selection)
            after = jnp.stack([loss.mean(), right.mean()])
            now = (after[1], -after[0], number + 1, state[0])
            better = (now[0] > best[0]) | ((now[0] == best[0]) & (now[1] > best[1]))
            best = jax.tree.map(lambda new, old: jnp.where(better, new, old), now, best)
            return (state, best), jnp.concatenate([seen.sum(0) / (batches >= 0).sum(), after])

        zeros = jax.tree.map(jnp.zeros_like, start)
        nothing = (jnp.float32(-1), jnp.float32(-jnp.inf), jnp.int32(1), start)
        numbers = jnp.arange(len(batches))
        carry = ((start, zeros, zeros, jnp.float32(0)), nothing)
        (last, best), history = jax.lax.scan(epoch, carry, (numbers, batches))
        kept = jax.tree.map(lambda *parameters: jnp.stack(parameters), best[3], last[0])
        return history, best[2], jax.vmap(logits, (0, None))(kept, table)

    compiled = jax.jit(jax.vmap(train, (0, 0, None, None)))
    start = {name: jnp.asarray(values, jnp.float32) for name, values in task.weights.items()}
    table = jnp.asarray(task.table, jnp.float32)
    given = start, jnp.asarray(task.batches), table, jnp.asarray(task.labels)
    return lambda: jax.block_until_ready(compiled(*given))
