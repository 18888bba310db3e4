"""The shape of what a model can learn: Fisher spectra, Fourier coefficients, expressibility, entanglement."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pandas as pd
import pennylane as qml
import torch
from torch import nn

from qtl_utils.analyses.attribution import Trained, stage_names
from qtl_utils.circuits.ansatze import ANSATZE, ENCODINGS
from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.study.names import find
from qtl_utils.training.inputs import head_features

RANK = 1e-8  # eigenvalues below this share of the largest count as zero
IN_USE = 1e-6
BINS = 75  # of the fidelity histogram, as in arXiv:1905.10876


# ---- classical Fisher information ------------------------------------------------------------------------------------


def fisher_spectra(head: nn.Module, features: torch.Tensor, blocks: dict[str, list[str]]) -> pd.DataFrame:
    """Eigenvalues of the Fisher information of a classifier's probabilities, a row each: block, number, eigenvalue.

    F = E_x sum_k p_k (d log p_k)(d log p_k)^T over the samples (N, F); `blocks`: the parameters of every block by name.
    Only the first N K can differ from zero and are listed.
    """
    head, parameters = head.double(), dict(head.named_parameters())
    log_p = torch.log_softmax(head(features.double()), -1)
    rows = {name: [] for name in blocks}
    for weight, value in zip((log_p.detach().exp() / len(features)).sqrt().flatten(), log_p.flatten(), strict=True):
        for name, members in blocks.items():
            grads = torch.autograd.grad(value, [parameters[m] for m in members], retain_graph=True)
            rows[name].append(weight * torch.cat([g.flatten() for g in grads]))
    found = []
    for name, scores in rows.items():
        values = torch.linalg.svdvals(torch.stack(scores)).square()  # F = S^T S has the squares as eigenvalues
        found += [{"block": name, "number": i + 1, "eigenvalue": v} for i, v in enumerate(values.tolist())]
    return pd.DataFrame(found)


# ---- states ----------------------------------------------------------------------------------------------------------


def state_function(ansatz: str, encoding: str, n_qubits: int) -> Callable:
    """`f(inputs, weights)`, the circuit's state vector (..., 2^n) before it is measured."""
    gates = find("ansatz", ansatz, ANSATZE).gates
    encode = find("encoding", encoding, ENCODINGS).gates

    @qml.qnode(qml.device("default.qubit", wires=n_qubits), interface="torch", diff_method="backprop")
    def state(inputs, weights):
        encode(inputs, n_qubits)
        gates(inputs, weights, n_qubits)
        return qml.state()

    return state


def quantum_fisher(state: Callable, inputs: torch.Tensor, weights: torch.Tensor) -> np.ndarray:
    """The quantum Fisher information (P, P) of the angles at one input: 4 Re(<i|j> - <i|psi><psi|j>), pure states."""
    real = torch.autograd.functional.jacobian(lambda w: torch.view_as_real(state(inputs, w)), weights)
    jacobian = torch.view_as_complex(real.movedim(1, -1).contiguous()).flatten(1).numpy()  # (2^n, P)
    overlap = jacobian.conj().T @ state(inputs, weights).detach().numpy()
    return 4 * (jacobian.conj().T @ jacobian - np.outer(overlap, overlap.conj())).real


def rank(matrix: np.ndarray) -> int:
    """How many eigenvalues of a symmetric matrix differ from zero."""
    values = np.linalg.eigvalsh(matrix)
    return int((values > RANK * max(values.max(), 1e-300)).sum())


def meyer_wallach(states: np.ndarray) -> np.ndarray:
    """The entanglement Q = 2 (1 - mean purity of single qubits) of states (..., 2^n): 0 product, 1 maximal.

    Meyer & Wallach, quant-ph/0108104, in the form of Brennen, quant-ph/0305094.
    """
    n = int(np.log2(states.shape[-1]))
    found = []
    for qubit in range(n):
        parts = np.moveaxis(states.reshape(*states.shape[:-1], *[2] * n), qubit - n, -1)
        parts = parts.reshape(*states.shape[:-1], -1, 2)
        reduced = np.einsum("...ai,...aj->...ij", parts, parts.conj())
        found.append((np.abs(reduced) ** 2).sum((-2, -1)))
    return 2 * (1 - np.mean(found, axis=0))


def expressibility(states: Callable[[int], np.ndarray], draws: int, n_qubits: int) -> float:
    """Kullback-Leibler divergence of the fidelities of random pairs from those of Haar-random states; 0 is Haar.

    `states(draws)` gives that many random states; arXiv:1905.10876. Real circuits stay above 0: they are compared with
    complex states.
    """
    a = states(draws)
    b = states(draws)
    fidelity = np.clip(np.abs((a.conj() * b).sum(-1)) ** 2, 0, 1)
    share = np.histogram(fidelity, BINS, (0, 1))[0] / draws
    edges = np.linspace(0, 1, BINS + 1)
    size = 2**n_qubits
    haar = np.diff(1 - (1 - edges) ** (size - 1))
    seen = share > 0
    return float((share[seen] * np.log(share[seen] / haar[seen])).sum())


# ---- Fourier ---------------------------------------------------------------------------------------------------------


def fourier_spectrum(run: Callable, n_qubits: int, points: int = 5) -> np.ndarray:
    """Fourier coefficients (points, ..., points, outputs) of a circuit over its n input angles.

    `run(angles)` maps (B, n) to (B, outputs). Frequency k stands at index k mod `points`; 5 points see -2 ... 2, one
    more than a circuit that encodes every input once can have.
    """
    grid = 2 * np.pi * np.array(list(product(range(points), repeat=n_qubits))) / points
    values = run(torch.from_numpy(grid)).detach().numpy().reshape(*[points] * n_qubits, -1)
    return np.fft.fftn(values, axes=range(n_qubits)) / points**n_qubits


def by_order(spectrum: np.ndarray) -> pd.DataFrame:
    """Share of the outputs' power by `order`, how many inputs a term joins, and how many of the 3^n terms are in use.

    In use: more than `IN_USE` of the power. The last row, "beyond", is what no multilinear form in (1, cos, sin) of the
    inputs has.
    """
    n = spectrum.ndim - 1
    points = spectrum.shape[0]
    frequency = np.abs(np.fft.fftfreq(points, 1 / points)).round()
    grid = np.stack(np.meshgrid(*[frequency] * n, indexing="ij"))
    power = (np.abs(spectrum) ** 2).sum(-1)
    allowed = (grid <= 1).all(0)
    order = (grid > 0).sum(0)
    rows = []
    for name, where in [*((str(k), allowed & (order == k)) for k in range(n + 1)), ("beyond", ~allowed)]:
        used = int((power[where] > IN_USE * power.sum()).sum())
        rows.append({"order": name, "share": power[where].sum() / power.sum(), "used": used, "possible": where.sum()})
    rows[-1]["possible"] = 0
    return pd.DataFrame(rows)


# ---- a trained model ------------------------------------------------------------------------------------------


def uniform_angles(shape: Sequence[int], rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.uniform(0, 2 * np.pi, shape))


def of_circuit(
    layer: QuantumLayer, angles: dict[str, torch.Tensor], inputs: torch.Tensor, seed: int = 0
) -> pd.DataFrame:
    """Entanglement and rank of the quantum Fisher information, a row per set of `angles` (name -> (*shape)).

    inputs: encodings (B, n) of data in radians, over which both are averaged; beside them stands a row of angles
    U[0, 2 pi] with the expressibility of the circuit.
    """
    state = state_function(layer.ansatz, layer.encoding, layer.n_qubits)
    rng = np.random.default_rng(seed)
    shape = tuple(layer.weights.shape)
    inputs = inputs.double()
    rows = []
    sets = {name: values.double() for name, values in angles.items()} | {"U[0, 2 pi]": uniform_angles(shape, rng)}
    for name, values in sets.items():
        states = state(inputs, values).detach().numpy()
        ranks = [rank(quantum_fisher(state, one, values)) for one in inputs[:4]]
        row = {"angles": name, "meyer_wallach": meyer_wallach(states).mean(), "fisher_rank": np.mean(ranks)}
        rows.append(row | {"parameters": values.numel()})

    def draw(n: int) -> np.ndarray:
        return state(inputs[:1].expand(n, -1), uniform_angles((n, *shape), rng)).detach().numpy()

    rows[-1]["expressibility"] = expressibility(draw, 2000, layer.n_qubits)
    return pd.DataFrame(rows)


def heads_of(trained: Trained, replica: int) -> dict[str, nn.Module]:
    """One replica's head before and after its training, in float64."""
    heads = {when: trained.build(trained.fit.replicas[replica].seed).double() for when in ("before", "after")}
    state = {name: values[replica] for name, values in trained.fit.weights.items()}
    heads["after"].load_state_dict(state, strict=False)
    return heads


def of_model(trained: Trained, points: int, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Tables "fisher", "fourier" and "circuit" of the first replica, before and after training.

    Averaged over the first `points` training samples of its split. "fourier" is left out where the circuit encodes
    inputs more than once, so that no multilinear bound holds, or has more than 6 qubits.
    """
    split = trained.fit.replicas[0].split
    features = head_features(trained.inputs, trained.config)
    features = features[split] if features.ndim == 3 else features
    samples = features[trained.inputs.splits.indices(split, "train")[:points]].double()
    heads = heads_of(trained, 0)
    at = next(i for i, module in enumerate(heads["after"]) if isinstance(module, QuantumLayer))
    layer = heads["after"][at]
    encoded = heads["after"][:at](samples).detach()
    angles = {f"{when} training": head[at].weights.detach() for when, head in heads.items()}
    made = {"circuit": of_circuit(layer, angles, encoded, seed)}
    spectra = {when: fisher_spectra(head, samples, stage_names(head)) for when, head in heads.items()}
    made["fisher"] = pd.concat([table.assign(when=when) for when, table in spectra.items()], ignore_index=True)
    if layer.n_qubits <= 6 and not ANSATZE[layer.ansatz].uses_inputs:
        orders = {when: by_order(fourier_spectrum(head[at], layer.n_qubits)) for when, head in heads.items()}
        made["fourier"] = pd.concat([table.assign(when=when) for when, table in orders.items()], ignore_index=True)
    return made
