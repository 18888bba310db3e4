"""What noise costs: trained heads seen through shots, gate noise and devices, and heads trained under them.

A `Subject` is a model with its settings, a `Condition` what its circuit meets. Rows are those of runs, one `variant` an
arm (`arm`), so that `stats` pairs arms over the same seeds and splits.
"""

from collections.abc import Iterator, Mapping, Sequence
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
from qtl_utils.study.config import TrainConfig
from qtl_utils.training.fits import make_replicas, stack_indices
from qtl_utils.training.inputs import Inputs, head_features
from qtl_utils.training.variants import fit_frozen, head_settings

PUBLISHED = "A, as published"
REPAIRED = "A, repaired"
ZERO = "A-zero, as published"
CLASSICAL = "C"
WITHOUT, UNDER = "without noise", "under it"  # how a head was trained
EXACT, SHOTS, GATES, DEVICE = "no noise", "shots", "gate noise", "device"  # kinds of conditions
PARTS = {  # of what a device does -> what is left out
    "device, gates only": {"readout_error": False},
    "device, readout only": {"gate_error": False, "thermal_relaxation": False},
}
CIRCUIT = 2  # the place of the circuit in heads that have one


@dataclass(frozen=True)
class Subject:
    """A model that is looked at: a variant and how it is built and trained."""

    variant: str
    config: TrainConfig

    @property
    def has_circuit(self) -> bool:
        return self.variant.startswith("A")


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
        found = {
            EXACT: {},
            SHOTS: {"simulator": "density", "shots": self.shots, "diff_method": "parameter-shift"},
            GATES: {"simulator": "density", "noise": self.kind == GATES and depolarised(self.level)},
            DEVICE: {"simulator": "device", "device_name": self.level},
        }
        return found[self.kind]


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
    """Exact, every number of shots, every strength of depolarising noise after each gate, every device.

    A device is met three times: as it is, without its readout errors and with nothing but these.
    """
    found = [NOTHING, *(Condition(SHOTS, n) for n in shots), *(Condition(GATES, p) for p in strengths)]
    return found + [Condition(kind, name) for name in names for kind in (DEVICE, *PARTS)]


def training_conditions(shots: Sequence[int], strengths: Sequence[float], names: Sequence[str]) -> list[Condition]:
    """What heads are trained under."""
    return [*(Condition(SHOTS, n) for n in shots), *(Condition(GATES, p) for p in strengths)] + [
        Condition(DEVICE, name) for name in names
    ]


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
    """Metrics of trained heads whose circuits are under `condition`, the arm as `arm` names it."""
    keys = {"model": name, "kind": condition.kind, "level": str(condition.level), "training": training}
    if condition == NOTHING:
        return heads.metrics(arm(**keys), **keys)
    cut = opened(heads)
    outputs = cut.outputs(program_of(condition, heads.config), condition.shots, seed)
    return tested_metrics(heads, arm(**keys), cut.logits(outputs), **keys)


def tested_metrics(heads: Trained, name: str, logits: np.ndarray, **keys) -> pd.DataFrame:
    """`Trained.metrics` of logits that are known of test samples alone: of the other subsets only `n` is told."""
    with np.errstate(invalid="ignore"):
        return heads.metrics(name, logits, **keys)


def arm(model: str, kind: str, level: str | float, training: str) -> str:
    """What a model under a condition is called in metrics."""
    return f"{model} | {kind} | {level} | {training}"


# ---- what it costs ---------------------------------------------------------------------------------------------------


def costs(metrics: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and loss of every arm with intervals, and what it lost against the same model without noise.

    `accuracy_cost` and `loss_cost`: paired differences to that, over the same seeds and splits, with `_low`, `_high`.
    """
    rows = []
    keys = ["model", "kind", "level", "training"]
    parts = dict(list(metrics.groupby("variant", sort=False)))
    for values in metrics[keys].drop_duplicates().itertuples(index=False):
        row = dict(zip(keys, values, strict=True))
        name, exact = arm(**row), arm(row["model"], EXACT, "", WITHOUT)
        part, both = parts[name], pd.concat([parts[name], parts[exact]])
        for metric in ("accuracy", "loss"):
            found = stats.summary(part, metric=metric).iloc[0]
            row |= {metric: found["mean"], f"{metric}_low": found["low"], f"{metric}_high": found["high"]}
            if name != exact:
                test = stats.paired(both, name, exact, metric)
                row |= {f"{metric}_cost": test.value, f"{metric}_cost_low": test.low, f"{metric}_cost_high": test.high}
        rows.append(row)
    return pd.DataFrame(rows)


def answers(metrics: pd.DataFrame) -> pd.DataFrame:
    """Two families of comparisons, Holm-adjusted each: a row a model and device.

    "costs": on the device against without noise, as trained; "training": trained under the device's noise against
    trained without, both on the device.
    """
    met = metrics[metrics["kind"] == DEVICE]
    families: dict[str, list] = {"costs": [], "training": []}
    for model, level, training in met[["model", "level", "training"]].drop_duplicates().itertuples(index=False):
        on = arm(model, DEVICE, level, training)
        if training == WITHOUT:
            families["costs"].append((model, level, on, arm(model, EXACT, "", WITHOUT)))
        else:
            families["training"].append((model, level, on, arm(model, DEVICE, level, WITHOUT)))
    rows = []
    for question, wanted in families.items():
        tests = stats.together([stats.paired(metrics, a, b) for _, _, a, b in wanted])
        for (model, level, _, _), test in zip(wanted, tests, strict=True):
            named = {"question": question, "model": model, "device": level}
            rows.append(named | vars(test) | {"verdict": stats.verdict(test)})
    return pd.DataFrame(rows)


def readout_shares(table: pd.DataFrame) -> pd.DataFrame:
    """What a device costs, what its gates cost alone and what its readout does: a row per model and device."""
    found = table[table["training"] == WITHOUT].set_index(["model", "kind", "level"])
    rows = []
    for model, kind, level in found.index:
        if kind != DEVICE:
            continue
        row = {"model": model, "device": level}
        for column, part in {"whole": DEVICE, "gates": "device, gates only", "readout": "device, readout only"}.items():
            one = found.loc[(model, part, level)]
            row |= {f"accuracy, {column}": one["accuracy_cost"], f"loss, {column}": one["loss_cost"]}
        rows.append(row)
    return pd.DataFrame(rows)


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
        "training": (sizes["train"] * config.epochs * executions(program, "parameter-shift"), steps),
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
    the angles takes.
    """
    program = program_of(condition, subject.config)
    problems = [_problem(subject, inputs, seed, batch) for seed in range(heads)]
    clean = [problem(program_of(NOTHING, subject.config)) for problem in problems]
    noisy = [problem(program) for problem in problems]
    cosine_exact = np.mean([_cosine(a, b) for a, b in zip(noisy, clean, strict=True)])
    kept = np.mean([a.norm() / b.norm() for a, b in zip(noisy, clean, strict=True)])
    rows = []
    for method in methods:
        circuits = executions(program, method, inputs=False) * batch
        for n in shots:
            snr, cosines = [], []
            for number, (problem, true, wanted) in enumerate(zip(problems, noisy, clean, strict=True)):
                rng = np.random.default_rng([number, n])
                drawn = torch.stack([problem(program, method, n, rng) for _ in range(repeats)])
                snr.append((true.norm() / (drawn - true).square().sum(-1).mean().sqrt()).item())
                cosines.append(np.mean([_cosine(one, wanted) for one in drawn]))
            low, high = stats.t_interval(np.mean(cosines), np.std(cosines, ddof=1) / heads**0.5, heads - 1)
            row = {"device": str(condition.level) or EXACT, "method": method, "shots": n, "executions": circuits * n}
            row |= {"snr": np.mean(snr), "cosine": np.mean(cosines)}
            row |= {"cosine_low": low, "cosine_high": high}
            rows.append(row | {"cosine_exact": cosine_exact, "kept": kept})
    return pd.DataFrame(rows)


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

    def gradient(program: NoisyProgram, method: str = "adjoint", shots: int | None = None, rng=None) -> torch.Tensor:
        own = weights.detach().clone().requires_grad_()
        out = simulate_noisy(program, angles, own, diff_method=method, shots=shots, seed=rng)
        loss = cross_entropy(head[CIRCUIT + 1](torch.cat([angles, out], -1) if bypass else out), labels)
        return torch.autograd.grad(loss, own)[0].flatten()

    return gradient


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a, b, 0).item()


# ---- in words --------------------------------------------------------------------------------------------------------


def sentences(table: pd.DataFrame, answered: pd.DataFrame, shares: pd.DataFrame) -> list[str]:
    """What `costs`, `answers` and `readout_shares` say, plain words first."""
    lines = []
    exact = table[table["kind"] == EXACT].set_index("model")
    for model in exact.index:
        if model == CLASSICAL:
            continue
        worst = table[(table["model"] == model) & (table["kind"] == DEVICE) & (table["training"] == WITHOUT)]
        low, high = worst["accuracy_cost"].min(), worst["accuracy_cost"].max()
        rows = answered[(answered["model"] == model) & (answered["question"] == "costs")]
        lost = rows[rows["verdict"] == "lower"]
        same = rows[(rows["verdict"] == "equivalent") | ((rows["verdict"] == "no variation") & (rows["value"] == 0))]
        lines.append(
            f"{model}: on the {len(rows)} devices its accuracy changes by {_points(low)} to {_points(high)}; it is "
            f"worse on {len(lost)} of them and the same to within 2 of 100 images on {len(same)}."
        )
        for kind, told in (
            (SHOTS, "measured with so many shots instead of exactly"),
            (GATES, "with so much depolarisation after every gate"),
        ):
            levels = table[(table["model"] == model) & (table["kind"] == kind) & (table["training"] == WITHOUT)]
            each = ", ".join(f"{row['level']}: {_points(row['accuracy_cost'])}" for _, row in levels.iterrows())
            lines += [f"{model}: {told}, {each}."] if each else []
    trained = answered[answered["question"] == "training"]
    for _, row in trained.iterrows():
        told = {"higher": "helps", "lower": "harms", "equivalent": "makes no difference beyond 2 of 100 images"}
        verdict = told.get(row["verdict"], "cannot be told from training without")
        interval = f" [{_points(row['low'])}, {_points(row['high'])}]" if np.isfinite(row["low"]) else ""
        lines.append(
            f"{row['model']} on {row['device']}: training under the noise {verdict}, {_points(row['value'])}{interval}."
        )
    if len(shares):
        part = shares[shares["loss, whole"] > 0]
        share = (part["loss, readout"] / part["loss, whole"]).groupby(part["model"]).median()
        each = ", ".join(f"{model} {100 * value:.0f} %" for model, value in share.items())
        lines.append(
            f"Of what devices add to the test loss their readout alone adds, in the median: {each or 'nothing'}."
        )
        for model, n in shares.loc[shares["loss, whole"] < 0].groupby("model").size().items():
            lines.append(
                f"{model}: on {n} devices its loss is lower than without noise; shrunk outputs are less certain."
            )
    if CLASSICAL in exact.index:
        lines.append(
            f"C has no circuit and stays where it is: right in {100 * exact.loc[CLASSICAL, 'accuracy']:.1f} of 100."
        )
    return lines


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f} points"


def pointers(table: pd.DataFrame, useful: float = 0.7) -> list[str]:
    """What `directions` says: from how many shots on a sampled gradient points within 45 degrees of the true one."""
    lines = []
    for method, part in table.groupby("method", sort=False):
        told = []
        for device, rows in part.groupby("device", sort=False):
            enough = rows[rows["cosine"] >= useful].sort_values("shots")
            told.append(
                f"{device} {enough['shots'].iloc[0]:,}"
                if len(enough)
                else f"{device} none up to {rows['shots'].max():,}"
            )
        lines.append(
            f"Shots a circuit from which a {method} gradient points within 45 degrees of the one without noise: "
            f"{', '.join(told)}."
        )
    return lines


def expectations(table: pd.DataFrame, answered: pd.DataFrame, facts: pd.DataFrame) -> Iterator[tuple[str, bool, str]]:
    """What was expected, whether it holds, and what is, for the claims of a notebook."""
    own = table[(table["model"] == PUBLISHED) & (table["training"] == WITHOUT)]
    on = own[own["kind"] == DEVICE].set_index("level")
    lost = -on["accuracy_cost"]
    exact = own[own["kind"] == EXACT].iloc[0]
    shares = on["loss_cost"] / exact["loss"], lost / exact["accuracy"]
    text = f"median over devices: loss {100 * shares[0].median():+.1f} %, accuracy {-100 * shares[1].median():+.1f} %"
    yield "noise costs a larger share of the loss than of the accuracy", shares[0].median() > shares[1].median(), text
    dated = facts.sort_values("calibrated")["device"]
    oldest, newest = on["loss_cost"][dated.iloc[0]], on["loss_cost"][dated.iloc[-1]]
    text = f"{dated.iloc[-1]} {newest:+.4f}, {dated.iloc[0]} {oldest:+.4f}"
    yield "the newest device adds less to the loss than the oldest", newest < oldest, text
    trained = answered[answered["question"] == "training"]
    if len(trained):
        worse = trained.loc[trained["verdict"] == "lower", ["model", "device"]].agg(" on ".join, axis=1)
        text = f"worse: {', '.join(worse) or 'none'}"
        yield "training under a device's noise does not harm on it", worse.empty, text
