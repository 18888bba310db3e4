"""What mending a fault gains: the broken and the mended model side by side, over seeds, with an interval.

`treat(name)` shows a fault of `qtl_utils.doctor.faults`, what the doctor says of it, and that it is gone once mended;
`gained(name)` measures what that was worth. For faults that raise, the error message is the symptom.
"""

import copy
import dataclasses
import html
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy

from qtl_utils.analyses.frozen import both_modes, thaw
from qtl_utils.analyses.protocols import first_splits
from qtl_utils.circuits.mixing import draw_inputs, polynomial
from qtl_utils.doctor.diagnosis import diagnose
from qtl_utils.doctor.faults import FAULTS, HEALTHY, Fault, images, points
from qtl_utils.doctor.findings import CHECKS, Diagnosis, Finding
from qtl_utils.doctor.patient import Patient, kept_random
from qtl_utils.doctor.probe import saved_by_circuits
from qtl_utils.results import stats
from qtl_utils.results.claims import Claims
from qtl_utils.study.config import TrainConfig
from qtl_utils.study.environment import progress
from qtl_utils.training.fits import Fit, make_replicas
from qtl_utils.training.inputs import Inputs, scale_features
from qtl_utils.training.scores import classification_scores
from qtl_utils.training.variants import candidates, fit_frozen

TRAINED = 64
TESTED = 200  # samples a model is trained with, and tested on
RAISE = ("forward", "devices")  # checks whose faults are exceptions, not silent


# ---- what the doctor says --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Treatment:
    """A fault before and after: what the doctor found, and what the same check says of the mended model."""

    fault: Fault
    before: Diagnosis
    after: Diagnosis

    @property
    def found(self) -> Finding:
        return next(f for f in self.before if f.check == self.fault.check)

    @property
    def mended(self) -> Finding:
        return next(f for f in self.after if f.check == self.fault.check)

    @property
    def others(self) -> list[str]:
        """Checks that were alarmed and should not have been."""
        return [check for check in self.before.failed if check != self.fault.check]

    def _repr_html_(self):
        rows = [("symptom", self.fault.symptom), ("the doctor", f"{self.found.check}: {self.found.verdict}")]
        rows += [("evidence", self.found.evidence), ("cause", self.found.cause), ("fix", self.found.fix)]
        rows += [("once mended", f"{self.mended.check}: {self.mended.verdict} ({self.mended.evidence})")]
        style = "style='text-align:left; vertical-align:top; max-width:46em'"
        cells = "".join(f"<tr><th {style}>{k}</th><td {style}>{html.escape(v)}</td></tr>" for k, v in rows)
        return f"<table>{cells}</table>"


def treat(name: str, seed: int = 0) -> Treatment:
    """Diagnoses the fault `name` with every check, and the mended model with the one that found it; however slowly."""
    fault = FAULTS[name]
    torch.manual_seed(seed)
    before = diagnose(**fault.broken(), budget=math.inf)
    torch.manual_seed(seed)
    return Treatment(fault, before, diagnose(**fault.mended(), checks=[fault.check], budget=math.inf))


def confusion(names: Sequence[str] | None = None) -> pd.DataFrame:
    """What every check says of every fault and healthy model: a row per model, a column per check."""
    rows = {}
    models = {name: fault.broken for name, fault in FAULTS.items()} | HEALTHY
    for name in progress(names or list(models), "models"):
        torch.manual_seed(0)
        rows[name] = {f.check: f.verdict for f in diagnose(**models[name](), budget=math.inf)}
    return pd.DataFrame.from_dict(rows, orient="index")[list(CHECKS)]


# ---- what a cure gains -----------------------------------------------------------------------------------------------


def make(fault: Fault, broken: bool, seed: int) -> Patient:
    """The broken or the mended model with the initial weights of `seed`."""
    torch.manual_seed(seed)
    told = (fault.broken if broken else fault.mended)()
    model = told["model_or_factory"]
    batch = told["batch"]
    model = model if isinstance(model, nn.Module) else model()
    return Patient(model, *batch, optimizer=told.get("optimizer"), scheduler=told.get("scheduler"))


def trained(fault: Fault, broken: bool, seed: int, steps: int, sgd: bool = False) -> tuple[Patient, torch.Tensor]:
    """A model after some steps, by the given optimiser, Adam at 0.05, or plain gradient descent; and how inputs scale.

    Every seed has its own samples, and its own weights.
    """
    p = make(fault, broken, seed)
    draw = points if p.images.dim() == 2 else images
    scale = p.images.std() / draw()[0].std()  # a fault may lie in the inputs
    x, y = draw(2 * seed + 1, TRAINED)
    parameters = [q for q in p.model.parameters() if q.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.5) if sgd else p.optimizer or torch.optim.Adam(parameters, lr=0.05)
    for step in range(steps):
        rows = torch.arange(16 * step, 16 * (step + 1)) % TRAINED
        optimizer.zero_grad()
        cross_entropy(p.model(scale * x[rows]), y[rows]).backward()
        optimizer.step()
    return p, scale


def accuracy(fault: Fault, broken: bool, seed: int, steps: int, sgd: bool = False) -> float:
    """Test accuracy on fresh samples after training."""
    p, scale = trained(fault, broken, seed, steps, sgd)
    x, y = (points if p.images.dim() == 2 else images)(2 * seed + 2, TESTED)
    with torch.no_grad():
        return (p.model.eval()(scale * x).argmax(-1) == y).double().mean().item()


def log_loss(fault: Fault, broken: bool, seed: int, steps: int) -> float:
    """-log of the probability of the true class of fresh samples; outputs that are probabilities count as such."""
    p, _ = trained(fault, broken, seed, steps)
    x, y = points(2 * seed + 2, TESTED)
    with torch.no_grad():
        out = p.model(x)
    probability = out if torch.allclose(out.sum(-1), torch.ones(len(out)), atol=1e-4) else out.softmax(-1)
    return -probability[torch.arange(len(y)), y].log().mean().item()


def moved(fault: Fault, broken: bool, seed: int, steps: int) -> float:
    """Root mean square of the way the angles went, in radians."""
    before = torch.cat([q.detach().flatten() for q in make(fault, broken, seed).angles.values()])
    after = torch.cat([q.detach().flatten() for q in trained(fault, broken, seed, steps)[0].angles.values()])
    return (after - before).square().mean().sqrt().item()


def one_batch(fault: Fault, broken: bool, seed: int, steps: int) -> float:
    """Loss of one small batch after a third of the steps of training on it: for circuits that are slow."""
    p = make(fault, broken, seed)
    optimizer = torch.optim.Adam(p.model.parameters(), lr=0.05)
    for _ in range(steps // 3):
        optimizer.zero_grad()
        loss = cross_entropy(p.model(p.images), p.labels)
        loss.backward()
        optimizer.step()
    return loss.item()


def seconds(fault: Fault, broken: bool, seed: int, steps: int) -> float:
    """Wall seconds of a training step."""
    p = make(fault, broken, seed)
    p.gradients()
    start = time.perf_counter()
    p.gradients()
    return time.perf_counter() - start


def kept_bytes(fault: Fault, broken: bool, seed: int, steps: int) -> float:
    """Bytes that the circuit keeps from the forward for the backward pass."""
    p = make(fault, broken, seed)
    return float(saved_by_circuits(p.model, p.images))


def angles(fault: Fault, broken: bool, seed: int, steps: int) -> float:
    """How many angles are registered, kept and optimised."""
    p = make(fault, broken, seed)
    return float(sum(q.numel() for q in p.angles.values()))


def direction(fault: Fault, broken: bool, seed: int, steps: int) -> float:
    """Cosine of the angles' gradient with the exact one: 1 is the right direction, 0 a random one."""
    p = make(fault, broken, seed)
    exact = copy.deepcopy(p.model[2])
    exact.node = FAULTS["lists"].mended()["model_or_factory"][2].node  # the same circuit, without shots, by backprop
    found = torch.cat([g.flatten() for g in p.gradients()[1].values()])
    p.model[2] = exact
    return cosine_similarity(found, torch.cat([g.flatten() for g in p.gradients()[1].values()]), 0).item()


def spread(fault: Fault, broken: bool, seed: int, steps: int) -> float:
    """How much the outputs of two models differ that were made with the same torch.manual_seed."""
    outputs = [p.model(p.images).detach() for p in (make(fault, broken, seed) for _ in range(2))]
    return (outputs[0] - outputs[1]).abs().mean().item()


def lost(fault: Fault, broken: bool, seed: int, steps: int) -> float:
    """How much the outputs change when the state_dict is loaded into a newly made model."""
    p = make(fault, broken, seed)
    other = make(fault, broken, seed + 1000).model
    other.load_state_dict(p.model.state_dict())
    return (p.model(p.images) - other(p.images)).abs().mean().item()


def travel(fault: Fault, broken: bool, seed: int, steps: int) -> float:
    """Sum of the angles' learning rates over four epochs, the scheduler stepping at the start or at the end of each."""
    p = make(fault, broken, seed)
    total = 0.0
    for _ in range(4):
        if broken:
            p.scheduler.step()
        total += p.optimizer.param_groups[0]["lr"]
        p.optimizer.step()
        if not broken:
            p.scheduler.step()
    return total


def readable(fault: Fault, broken: bool, seed: int, steps: int) -> float:
    """What is left of the inputs' signal for a linear layer behind the circuit, 0 to 1, after training."""
    p = trained(fault, broken, seed, steps)[0]
    function, inputs, weights = p.seen.sites[0].as_function()
    found = polynomial(function, p.seen.sites[0].n_qubits, weights.numpy())
    return float(np.nanmean(found.reach(draw_inputs(inputs.std(0).numpy(), inputs.mean(0).numpy()))))


@dataclass(frozen=True)
class Measure:
    """What is compared: `function(fault, broken, seed, steps)`, and whether the comparison is a ratio."""

    function: Callable[[Fault, bool, int, int], float]
    quantity: str
    ratio: bool = False


ACCURACY = Measure(accuracy, "test accuracy")
BY_SGD = Measure(partial(accuracy, sgd=True), "test accuracy, trained by plain gradient descent")
LOG_LOSS = Measure(log_loss, "test log-loss")
MOVED = Measure(moved, "way of the angles (rad)")
SECONDS = Measure(seconds, "seconds a step", ratio=True)
DIRECTION = Measure(direction, "cosine with the exact gradient")
SPREAD = Measure(spread, "difference of outputs between two runs")
MEASURES: dict[str, tuple[Measure, ...]] = {
    **dict.fromkeys(("detached", "sign", "mixed_batch", "wrong_backward", "jumping_angles"), (ACCURACY,)),
    **dict.fromkeys(("barren_plateau", "dead_start", "saturated"), (ACCURACY,)),
    **dict.fromkeys(("blind_encoding", "shrunk_features"), (ACCURACY,)),
    **dict.fromkeys(("no_travel", "forgotten_angles"), (MOVED, ACCURACY)),
    **dict.fromkeys(("double_softmax", "bare_expectations"), (LOG_LOSS, ACCURACY)),
    **dict.fromkeys(("loop", "slow_method", "another_method"), (SECONDS,)),
    **dict.fromkeys(("finite_differences", "spsa", "few_shots"), (DIRECTION,)),
    **dict.fromkeys(("unseeded", "device_seed"), (SPREAD,)),
    "mixed_readout": (Measure(readable, "signal that a linear layer can read"), ACCURACY),
    "batch_gradient": (BY_SGD, ACCURACY),
    "no_input_gradients": (Measure(one_batch, "loss of one batch"),),
    "dead_angles": (Measure(angles, "registered angles"),),
    "backprop_memory": (Measure(kept_bytes, "bytes kept"),),
    "not_saved": (Measure(lost, "change of outputs by saving and loading"),),
    "scheduler_first": (Measure(travel, "sum of the angles' learning rates in four epochs (rad)"),),
}


def gained(name: str, seeds: int = 5, steps: int = 30, first_seed: int = 0) -> list[dict[str, object]]:
    """What mending the fault `name` changes, over `seeds` that share neither weights nor data: a row per measure.

    `change` is mended minus broken, or for ratios broken over mended, with a 95 % t interval over seeds (of the
    logarithm, for ratios).
    """
    rows = []
    numbers = range(first_seed, first_seed + seeds)
    for measure in MEASURES[name]:
        bar = progress(numbers, f"{name}, {measure.quantity}")
        with kept_random(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = [[measure.function(FAULTS[name], b, s, steps) for b in (True, False)] for s in bar]
        broken, mended = np.array(found).T
        row = {"fault": name, "quantity": measure.quantity, "broken": broken.mean(), "mended": mended.mean()}
        rows.append(row | change(np.log(broken / mended) if measure.ratio else mended - broken, measure.ratio))
    return rows


def sentence(row: dict[str, object]) -> str:
    """A row of `gained` or `estimated` in words that say no more than its interval."""
    head = f"{row['fault'].replace('_', ' ')}, {row['quantity']}: "
    if "broken" in row:
        head += f"{row['broken']:.3g} broken, {row['mended']:.3g} mended; "
    head += "a factor of " if row["ratio"] else "a difference of "
    interval = f" [{row['low']:.3g}, {row['high']:.3g}]" if np.isfinite(row["low"]) else ", without an interval"
    return f"{head}{row['change']:.3g}{interval} over {row['n']} seeds: {row['reading']}."


def change(values: np.ndarray, ratio: bool = False) -> dict[str, object]:
    """Mean of paired values with its 95 % t interval, and a reading that says no more."""
    n = len(values)
    mean = values.mean()
    deviation = values.std(ddof=1) if len(values) > 1 else np.nan
    low, high = stats.t_interval(mean, deviation / np.sqrt(n), n - 1) if deviation > 0 else (mean, mean)
    if n < 2:
        low = high = np.nan
    more, less = ("less", "more") if ratio else ("more", "less")
    reading = f"{more} once mended" if low > 0 else f"{less} once mended" if high < 0 else "not distinguishable"
    if ratio:
        mean, low, high = np.exp([mean, low, high])
    return {"change": mean, "low": low, "high": high, "n": n, "ratio": ratio, "reading": reading}


class Ward:
    """Treats one fault after the other in a notebook and keeps what was found for its tables."""

    def __init__(self, seeds: int = 5, steps: int = 30, first_seed: int = 0):
        self.seeds = seeds
        self.steps = steps
        self.first_seed = first_seed
        self.treated: dict[str, Treatment] = {}
        self.rows: list[dict[str, object]] = []

    def treat(self, name: str) -> Treatment:
        """`treat`, remembered."""
        self.treated[name] = treat(name)
        return self.treated[name]

    def gain(self, *names: str):
        """What mending these faults changes, as sentences."""
        from IPython.display import Markdown

        found = [row for name in names for row in gained(name, self.seeds, self.steps, self.first_seed)]
        self.rows += found
        return Markdown("\n".join(f"- {sentence(row)}" for row in found))

    def expect(self, claims: Claims) -> None:
        """Claims that of the faults treated so far each is found by its check, by no other, and gone once mended."""
        every = list(self.treated.values())
        found = [t.fault.check in t.before.failed for t in every]
        others = [f"{check} in '{name}'" for name, t in self.treated.items() for check in t.others]
        mended = [t.mended.verdict == "ok" for t in every]
        told = "the doctor finds every fault of this page with its own check"
        claims.expect(told, all(found), f"{sum(found)} of {len(found)}")
        told = "no other check is alarmed by a fault of this page"
        claims.expect(told, not others, f"alarms: {', '.join(others) or 'none'}")
        told = "once mended, the check that found a fault is content"
        claims.expect(told, all(mended), f"{sum(mended)} of {len(mended)}")

    def findings(self) -> pd.DataFrame:
        """A row per treated fault: symptom, who found it, evidence, cause, fix, and the public thread."""
        rows = []
        for name, t in self.treated.items():
            told = {"number": t.fault.number, "fault": name, "symptom": t.fault.symptom, "check": t.found.check}
            told |= {"verdict": t.found.verdict, "evidence": t.found.evidence, "cause": t.found.cause}
            rows.append(told | {"fix": t.found.fix, "thread": t.fault.thread})
        return pd.DataFrame(rows)

    def gains(self) -> pd.DataFrame:
        return gains_table(self.rows)


def gains_table(rows: Sequence[dict[str, object]]) -> pd.DataFrame:
    """Rows of `gained` and its like as a table."""
    columns = ["fault", "quantity", "broken", "mended", "change", "low", "high", "n", "reading"]
    return pd.DataFrame(rows).reindex(columns=columns)


# ---- on the features of a study --------------------------------------------------------------------------------------


def _fit(inputs: Inputs, config: TrainConfig, seeds: int, variant: str = "A") -> Fit:
    numbers = range(config.first_seed, config.first_seed + seeds)
    replicas = make_replicas(numbers, inputs.splits.n_splits, candidates(variant, config)[:1])
    return fit_frozen(variant, inputs, config, replicas, torch.device("cpu"))


def _test_accuracy(fit: Fit, inputs: Inputs, extra: int = 0) -> np.ndarray:
    """Last-epoch test accuracy per replica; `extra` training samples are smuggled into the test set."""
    found = []
    for replica, logits in zip(fit.replicas, fit.logits["last"], strict=True):
        index = inputs.splits.indices(replica.split, "test")
        index = np.concatenate([index, inputs.splits.indices(replica.split, "train")[:extra]])
        found.append(classification_scores(logits[index], inputs.data.labels[index])["accuracy"])
    return np.array(found)


def per_training(values: np.ndarray, fit: Fit) -> pd.Series:
    """Values of the replicas of a fit, indexed by seed and split."""
    index = pd.MultiIndex.from_tuples([(r.seed, r.split) for r in fit.replicas], names=["seed", "split"])
    return pd.Series(values, index=index)


def estimated(name: str, quantity: str, values: pd.Series, inputs: Inputs) -> dict[str, object]:
    """A row like that of `gained`, with the interval over splits that this study uses everywhere."""
    sizes = [len(inputs.splits.indices(0, subset)) for subset in ("test", "train")]
    found = stats.estimate(values, sizes[0] / sizes[1])
    reading = "above zero" if found.low > 0 else "below zero" if found.high < 0 else "not distinguishable from zero"
    row = {"fault": name, "quantity": quantity, "change": found.value, "low": found.low, "high": found.high}
    return row | {"n": found.n_seeds, "ratio": False, "reading": reading}


def selection_bias(inputs: Inputs, config: TrainConfig, seeds: int) -> dict[str, object]:
    """How much the best epoch on the test set promises beyond the last one."""
    published = dataclasses.replace(inputs, splits=dataclasses.replace(inputs.splits, protocol="as_published"))
    fit = _fit(published, config, seeds)
    test = fit.history[:, :, 1, 1]
    return estimated(
        "best_on_test", "test accuracy: best epoch minus last", per_training(test.max(1) - test[:, -1], fit), inputs
    )


def leakage_bias(inputs: Inputs, config: TrainConfig, seeds: int, share: float = 0.25) -> dict[str, object]:
    """How much copies of training images in the test set promise beyond the clean one."""
    fit = _fit(inputs, config, seeds)
    extra = int(share * len(inputs.splits.indices(0, "test")))
    values = _test_accuracy(fit, inputs, extra) - _test_accuracy(fit, inputs)
    return estimated("leakage", f"test accuracy: with {extra} copies minus without", per_training(values, fit), inputs)


def scaler_bias(inputs: Inputs, config: TrainConfig, seeds: int) -> dict[str, object]:
    """What scaling features by the mean and deviation of all samples promises beyond those of the training set."""
    all_of_them = (inputs.features - inputs.features.mean(0)) / inputs.features.std(0, correction=0).clamp(min=1e-9)
    plain = config.model_copy(update={"feature_scaling": "none"})
    found = {}
    for name, features in (("all", all_of_them), ("train", scale_features(inputs.features, inputs.splits))):
        scaled = dataclasses.replace(inputs, features=features)
        fit = _fit(scaled, plain, seeds)
        found[name] = _test_accuracy(fit, inputs)
    values = found["all"] - found["train"]
    return estimated("scaler_on_all", "test accuracy: scaled on all minus on train", per_training(values, fit), inputs)


def batchnorm_gain(inputs: Inputs, config: TrainConfig, seeds: int, n_splits: int = 8, epochs: int = 6) -> dict:
    """What keeping a frozen backbone in eval mode changes for a linear head, beside train mode with batches of four."""
    few = first_splits(inputs, n_splits)
    plain = {"feature_scaling": "none", "epochs": min(epochs, config.epochs), "seeds": seeds}
    plain = config.model_copy(update=plain)
    scores = both_modes("C", few, thaw(few, plain.epochs, 4), plain)
    wide = scores.pivot_table(index=["seed", "split"], columns="protocol", values="accuracy")
    quantity = "test accuracy: eval mode minus train mode"
    row = estimated("batchnorm", quantity, wide["eval mode"] - wide["train mode"], few)
    return row | {"broken": wide["train mode"].mean(), "mended": wide["eval mode"].mean()}
