"""What noise costs: trained heads seen through shots, gate noise and devices, and heads trained under them.

A `Subject` is a model with its settings, a `Condition` what its circuit meets. Rows are those of runs, one `variant` an
arm (`arm`), so that `stats` pairs arms over the same seeds and splits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from qtl_utils.analyses.attribution import Trained, first_layers, own_rates
from qtl_utils.analyses.ladder import unmixed_depth
from qtl_utils.circuits import device_costs, devices
from qtl_utils.circuits.channels import NoiseModel, depolarizing
from qtl_utils.circuits.density import executions, simulate_noisy
from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.circuits.noisy_program import NoisyProgram, compile_noisy
from qtl_utils.circuits.simulators import study_task
from qtl_utils.models.devices import find_device
from qtl_utils.models.heads import Beside, circuit_angles, make_head
from qtl_utils.results import stats
from qtl_utils.results.noise_tables import (
    CLASSICAL,
    DEVICE,
    EXACT,
    GATES,
    GATES_ONLY,
    PUBLISHED,
    READOUT_ONLY,
    REPAIRED,
    SHOTS,
    WITHOUT,
    ZERO,
    arm,
)
from qtl_utils.study.config import TrainConfig
from qtl_utils.training.fits import make_replicas, stack_indices
from qtl_utils.training.inputs import Inputs, head_features
from qtl_utils.training.variants import fit_frozen, head_settings

PARTS = {  # of what a device does -> what is left out
    GATES_ONLY: {"readout_error": False},
    READOUT_ONLY: {"gate_error": False, "thermal_relaxation": False},
}
AS_DEAR = "spsa, as many circuits"  # random directions for as many circuits as parameter shift runs
SAMPLED = ("parameter-shift", "spsa", AS_DEAR)  # ways to a gradient from samples
CIRCUIT = 2  # the place of the circuit in heads that have one


@dataclass(frozen=True)
class Subject:
    """A model that is looked at: a variant and how it is built and trained."""

    variant: str
    config: TrainConfig

    @property
    def has_circuit(self) -> bool:
        return self.variant != CLASSICAL


@dataclass(frozen=True)
class Condition:
    """What a circuit meets: `level` is a number of shots, a strength, or the name of a device."""

    kind: str
    level: str | int | float = ""

    @property
    def shots(self) -> int | None:
        return self.level if self.kind == SHOTS else None

    @property
    def layer(self) -> dict:
        """The keywords of a QuantumLayer that trains under it."""
        if self.kind == SHOTS:
            return {"simulator": "density", "shots": self.level, "diff_method": "parameter-shift"}
        if self.kind == GATES:
            return {"simulator": "density", "noise": depolarised(self.level)}
        return {"simulator": "device", "device_name": self.level} if self.kind == DEVICE else {}


NOTHING = Condition(EXACT)


def subjects(config: TrainConfig, lr: float, lr_quantum: float) -> dict[str, Subject]:
    """The published A, A with every mend of 10_repair, and the controls A-zero and C with the settings of 2019.

    lr, lr_quantum: of the repaired A.
    """
    mended = {"depth": unmixed_depth(config), "feature_scaling": "standard", "lr_classical": lr}
    return {
        PUBLISHED: Subject("A", config),
        REPAIRED: Subject("A-bypass", config.model_copy(update=mended | {"lr_quantum": lr_quantum})),
        ZERO: Subject("A-zero", config),
        CLASSICAL: Subject("C", config),
    }


def conditions(shots: Sequence[int], strengths: Sequence[float], names: Sequence[str]) -> list[Condition]:
    """Every number of shots, every strength of depolarising noise after each gate and every device, once each."""
    found = [Condition(SHOTS, n) for n in shots] + [Condition(GATES, p) for p in strengths]
    return list(dict.fromkeys(found + [Condition(DEVICE, name) for name in names]))


def looked_through(met: Sequence[Condition]) -> list[Condition]:
    """No noise, then `met` without repeats; devices also without readout errors, and with nothing but these."""
    found = [NOTHING]
    for condition in dict.fromkeys(met):
        found.append(condition)
        if condition.kind == DEVICE:
            found += [Condition(part, condition.level) for part in PARTS]
    return found


def depolarised(strength: float) -> NoiseModel:
    """X, Y or Z with probability `strength` / 3 each on every wire of every gate: PennyLane's DepolarizingChannel."""
    return NoiseModel.after_every_gate(depolarizing(strength, convention="pennylane"))


def program_of(condition: Condition, config: TrainConfig) -> NoisyProgram:
    """The circuit of a study under `condition`."""
    if condition.kind.startswith(DEVICE):
        backend = devices.load_backend(condition.level)
        return devices.noisy_program(transpiled(condition.level, config), backend, **PARTS.get(condition.kind, {}))
    task = study_task(config.ansatz, config.encoding, config.n_qubits, config.depth)
    noise = depolarised(condition.level) if condition.kind == GATES else None
    return compile_noisy(task.circuit, task.n_qubits, task.weight_shape, noise)


def transpiled(name: str, config: TrainConfig) -> devices.Transpiled:
    """The circuit of a study as a device runs it."""
    return _transpiled(name, config.ansatz, config.encoding, config.n_qubits, config.depth)


@lru_cache(maxsize=64)  # by what the circuit depends on: placing it on a device takes longest
def _transpiled(name: str, *circuit) -> devices.Transpiled:
    task = study_task(*circuit)
    return devices.transpile_to(devices.load_backend(name), task.circuit, task.n_qubits, task.weight_shape)


# ---- trained, and seen -----------------------------------------------------------------------------------------------


def train(subject: Subject, inputs: Inputs, condition: Condition = NOTHING) -> Trained:
    """`subject` trained with every seed of its configuration, its circuit under `condition`."""
    config = subject.config
    build = partial(_head, subject, inputs, condition)
    replicas = make_replicas(config.seed_range, inputs.splits.n_splits, [own_rates(config)])
    fit = fit_frozen(subject.variant, inputs, config, replicas, find_device(config.device), build)
    return Trained(subject.variant, fit, pd.DataFrame(), inputs, config, build)


def _head(subject: Subject, inputs: Inputs, condition: Condition, seed: int) -> nn.Module:
    head = make_head(subject.variant, head_settings(inputs, subject.config), seed)
    if condition.layer:
        _layer(head).run_on(**condition.layer)
    return head


@dataclass(frozen=True)
class Opened:
    """R trained heads cut open at their circuits, with T test samples each."""

    trained: Trained
    tested: np.ndarray  # (R, T), the samples; -1 where a head has fewer
    angles: torch.Tensor  # (R, T, n_qubits), into the circuit
    weights: torch.Tensor  # (R, *shape), of the circuit
    bypass: bool

    def outputs(self, program: NoisyProgram, shots: int | None = None, seed: int = 0) -> np.ndarray:
        """Expectation values (R, T, n_qubits)."""
        how = {"diff_method": "parameter-shift", "shots": shots, "seed": seed}
        with torch.no_grad():
            return simulate_noisy(program, self.angles, self.weights, **how).numpy()

    def logits(self, outputs: np.ndarray) -> np.ndarray:
        """Logits (R, N, K) of what the circuits give, outside the test samples NaN."""
        last = CIRCUIT + 1
        weight, bias = (self.trained.fit.weights[f"{last}.{name}"].double().numpy() for name in ("weight", "bias"))
        values = np.concatenate([self.angles.numpy(), outputs], -1) if self.bypass else outputs
        found = np.full(self.trained.fit.logits["last"].shape, np.nan)
        for r, samples in enumerate(self.tested):
            known = samples >= 0
            found[r, samples[known]] = (values[r] @ weight[r].T + bias[r])[known]
        return found


def opened(trained: Trained) -> Opened:
    """`trained` heads, Linear -> angles -> circuit -> Linear, with or without a bypass, cut open."""
    head = trained.build(0)
    bypass = isinstance(head[CIRCUIT], Beside)
    name = f"{CIRCUIT}.inner.weights" if bypass else f"{CIRCUIT}.weights"
    before = {name: p for name, p in trained.fit.weights.items() if int(name.partition(".")[0]) < CIRCUIT}
    tests = [trained.inputs.splits.indices(r.split, "test") for r in trained.fit.replicas]
    tested = stack_indices(tests)
    angles = first_layers(trained, CIRCUIT, before)  # (R, N, n_qubits)
    angles = torch.from_numpy(np.stack([own[samples] for own, samples in zip(angles, tested, strict=True)]))
    weights = trained.fit.weights.get(name)
    if weights is None:  # fixed ones, such as those of A-zero, are no parameters
        weights = torch.stack([_layer(trained.build(r.seed)).weights for r in trained.fit.replicas])
    return Opened(trained, tested, angles, weights.double(), bypass)


def _layer(head: nn.Module) -> QuantumLayer:
    return next(module for module in head.modules() if isinstance(module, QuantumLayer))


def seen(name: str, heads: Trained, condition: Condition, training: str = WITHOUT, seed: int = 0) -> pd.DataFrame:
    """Metrics of trained heads whose circuits are under `condition`, the arm as `arm` names it.

    `changed`: the share of test decisions that are others than without noise.
    """
    keys = {"model": name, "kind": condition.kind, "level": str(condition.level), "training": training}
    if condition == NOTHING:
        return heads.metrics(arm(**keys), **keys, changed=0.0)
    cut = opened(heads)
    logits = cut.logits(cut.outputs(program_of(condition, heads.config), condition.shots, seed))
    known = np.isfinite(logits).all(-1)
    other = logits[known].argmax(-1) != heads.fit.logits["last"][known].argmax(-1)
    # heads that were trained under noise have no logits without it to compare with
    changed = other.mean() if training == WITHOUT else np.nan
    return tested_metrics(heads, arm(**keys), logits, **keys, changed=changed)


def tested_metrics(heads: Trained, name: str, logits: np.ndarray, **keys) -> pd.DataFrame:
    """`Trained.metrics` of logits that are known of test samples alone: of the other subsets only `n` is told."""
    with np.errstate(invalid="ignore"):
        return heads.metrics(name, logits, **keys)


# ---- devices ---------------------------------------------------------------------------------------------------------


def device_row(name: str, config: TrainConfig) -> dict:
    """A device in numbers, and the circuit of a study on it."""
    return device_costs.device_facts(name) | device_costs.circuit_facts(transpiled(name, config))


def price_row(name: str, config: TrainConfig, sizes: Mapping[str, int], shots: int) -> dict:
    """A model of the hours and dollars for one test and one training on a device, `shots` shots a circuit.

    sizes: of the subsets "train" and "test". A training takes the gradient by parameter shift, of angles and inputs.
    """
    duration = device_costs.circuit_facts(transpiled(name, config))["duration"]
    program = program_of(Condition(DEVICE, name), config)
    steps = -(-sizes["train"] // config.batch_size) * config.epochs
    circuits = {
        "test": (sizes["test"], 1),
        # a job for the outputs of a batch and one for their gradient
        "training": (sizes["train"] * config.epochs * executions(program, "parameter-shift"), 2 * steps),
    }
    row = {"device": name, "shots": shots}
    for what, (count, jobs) in circuits.items():
        cost = device_costs.modelled_cost(name, duration, count, shots, jobs)
        row |= {f"circuits, {what}": count, f"hours, {what}": cost["seconds"] / 3600, f"USD, {what}": cost["USD"]}
    return row


# ---- gradients -------------------------------------------------------------------------------------------------------


def directions(
    subject: Subject,
    inputs: Inputs,
    condition: Condition,
    methods: Sequence[str],
    shots: Sequence[int],
    batch: int = 4,
    heads: int = 8,
    repeats: int = 4,
) -> pd.DataFrame:
    """How well sampled gradients of the angles point: a row per method and number of shots.

    Of the loss of a batch, of `heads` untrained heads, `repeats` estimates each. `snr`: |noisy exact gradient| over the
    root mean square distance of estimates from it. `cosine`: with the gradient without noise and shots, mean over
    heads, its interval in `cosine_low`, `cosine_high`; `cosine_exact` what it is with any number of shots, and `kept`
    how long the gradient is then against that without noise. `executions`: circuits times shots that one gradient of
    the angles takes. methods: of SAMPLED.
    """
    program = program_of(condition, subject.config)
    seeds = range(subject.config.first_seed, subject.config.first_seed + heads)
    problems = [_problem(subject, inputs, seed, batch) for seed in seeds]
    clean = [problem(program_of(NOTHING, subject.config)) for problem in problems]
    noisy = [problem(program) for problem in problems]
    cosine_exact = np.mean([_cosine(a, b) for a, b in zip(noisy, clean, strict=True)])
    kept = np.mean([a.norm() / b.norm() for a, b in zip(noisy, clean, strict=True)])
    rows = []
    for name in methods:
        method, ways = _sampled(name, program)
        circuits = executions(program, method, inputs=False, directions=ways) * batch
        for n in shots:
            snr, cosines = [], []
            for seed, problem, true, wanted in zip(seeds, problems, noisy, clean, strict=True):
                rng = np.random.default_rng([seed, n])
                drawn = torch.stack([problem(program, method, n, rng, ways) for _ in range(repeats)])
                snr.append((true.norm() / (drawn - true).square().sum(-1).mean().sqrt()).item())
                cosines.append(np.mean([_cosine(one, wanted) for one in drawn]))
            low, high = stats.t_interval(np.mean(cosines), np.std(cosines, ddof=1) / heads**0.5, heads - 1)
            row = {"device": str(condition.level) or EXACT, "method": name, "shots": n, "executions": circuits * n}
            row |= {"snr": np.mean(snr), "cosine": np.mean(cosines)}
            row |= {"cosine_low": low, "cosine_high": high}
            rows.append(row | {"cosine_exact": cosine_exact, "kept": kept})
    return pd.DataFrame(rows)


def _sampled(name: str, program: NoisyProgram) -> tuple[str, int]:
    """Method and number of random directions of a row of SAMPLED."""
    if name != AS_DEAR:
        return name, 1
    return "spsa", max(1, (executions(program, "parameter-shift", inputs=False) - 1) // 2)


def _problem(subject: Subject, inputs: Inputs, seed: int, batch: int):
    """The gradient of the angles for one head and batch: a function of program, method, shots and generator."""
    config = subject.config
    head = make_head(subject.variant, head_settings(inputs, config), seed).double()
    samples = inputs.splits.indices(seed % inputs.splits.n_splits, "train")
    samples = np.random.default_rng(seed).permutation(samples)[:batch]
    features = head_features(inputs, config).double()
    features = features[seed % inputs.splits.n_splits] if features.ndim == 3 else features
    labels = torch.as_tensor(inputs.data.labels[samples])
    (weights,) = circuit_angles(head).values()
    with torch.no_grad():
        angles = head[:CIRCUIT](features[samples])
    bypass = isinstance(head[CIRCUIT], Beside)

    def gradient(program: NoisyProgram, method="adjoint", shots=None, rng=None, directions=1) -> torch.Tensor:
        own = weights.detach().clone().requires_grad_()
        how = {"diff_method": method, "shots": shots, "seed": rng, "directions": directions}
        out = simulate_noisy(program, angles, own, **how)
        loss = cross_entropy(head[CIRCUIT + 1](torch.cat([angles, out], -1) if bypass else out), labels)
        return torch.autograd.grad(loss, own)[0].flatten()

    return gradient


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a, b, 0).item()
