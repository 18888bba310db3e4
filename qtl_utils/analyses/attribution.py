"""Who learned: how far parameters travel, what a trained model relies on, and what retraining without a part costs.

Results are rows as those of runs (`experiment.score_metrics`), one `variant` an arm, so that `stats` compares arms.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.func import stack_module_state

from qtl_utils.analyses.gradients import stages
from qtl_utils.models.devices import find_device
from qtl_utils.models.heads import VARIANTS, Squash, make_head
from qtl_utils.models.network import Network
from qtl_utils.results.conclusions import ZEROED
from qtl_utils.study.config import TrainConfig
from qtl_utils.training.fits import Fit, Rates, Replica, make_replicas
from qtl_utils.training.inputs import Inputs, head_features
from qtl_utils.training.many import predict
from qtl_utils.training.run import choose_candidates
from qtl_utils.training.scores import score_metrics
from qtl_utils.training.variants import fit_frozen, head_settings

SATURATED = 0.95  # an encoding this close to its largest angle, pi/2, has a slope below a tenth
ANGLES = frozenset({"quantum"})
BOTH = frozenset({"classical", "quantum"})
CLASSICAL = frozenset({"classical"})
NEITHER = frozenset()
Weights = dict[str, torch.Tensor]  # a head's parameters by name, (R, ...)


@dataclass(frozen=True)
class Trained:
    """All replicas of one variant: what they learned, and how far it took them."""

    variant: str
    fit: Fit
    travel: pd.DataFrame  # a row per replica and stage: see Travel.table
    inputs: Inputs
    config: TrainConfig
    build: Callable[[int], nn.Module]  # the head of a seed as its training started

    def logits(self, weights: Weights | None = None, features: torch.Tensor | None = None) -> np.ndarray:
        """Logits (R, N, K) with other weights than the trained ones, or on other features."""
        features = head_features(self.inputs, self.config) if features is None else features
        return predict(self.build, weights or self.fit.weights, features, self.fit.replicas, self.config)

    def metrics(self, arm: str = "", logits: np.ndarray | None = None, where: np.ndarray | None = None, **keys):
        """Last-epoch metrics of the replicas `where` (all), with the columns that `stats` groups by."""
        fit = replace(self.fit, logits={"last": self.fit.logits["last"] if logits is None else logits})
        index = np.arange(len(fit.replicas)) if where is None else np.flatnonzero(where)
        named = group_of(self.inputs, self.config) | {"variant": arm or self.variant}
        return score_metrics(fit, index, self.inputs).assign(**named | keys)


def group_of(inputs: Inputs, config: TrainConfig) -> dict[str, str]:
    """What all rows of one comparison share, as `runs.GROUP` names it."""
    named = {"dataset": inputs.data.name, "backbone": inputs.backbone.model}
    return named | {"settings": config.settings, "protocol": inputs.splits.protocol}


def train_variant(
    variant: str,
    inputs: Inputs,
    config: TrainConfig,
    rates: Sequence[Rates] | None = None,
    trains: Callable[[int], frozenset] | None = None,
    build: Callable[[int], nn.Module] | None = None,
) -> Trained:
    """`variant` trained with every seed and every one of `rates` (the study's own), and its travel.

    `trains(epoch)`, where given: which of "classical" and "quantum" learn in that epoch; see `pace`.
    `build(seed)`: a head in the place of the variant's.
    """
    build = build or partial(make_head, variant, head_settings(inputs, config))
    replicas = make_replicas(config.seed_range, inputs.splits.n_splits, rates or [own_rates(config)])
    watch = Travel()
    hook = pace(trains, config) if trains else None
    fit = fit_frozen(variant, inputs, config, replicas, find_device(config.device), build, watch=watch, pace=hook)
    return Trained(variant, fit, watch.table(build(0)), inputs, config, build)


def own_rates(config: TrainConfig, classical: float = 1.0, quantum: float = 1.0) -> Rates:
    """The study's learning rates times a factor for each group."""
    return Rates(config.lr_classical * classical, config.lr_quantum * quantum, config.lr_backbone)


def refusals(variants: Sequence[str], inputs: Inputs, config: TrainConfig) -> dict[str, str]:
    """Variant -> why it cannot be trained on frozen features; empty where it can."""
    settings = head_settings(inputs, config)
    found = {}
    for name in variants:
        trained = "" if VARIANTS[name].training == "frozen" else "trains the backbone; heads only are taken apart here"
        found[name] = VARIANTS[name].refuses(settings) or trained
    return found


def train_ladder(inputs: Inputs, config: TrainConfig, variants: Sequence[str]) -> dict[str, Trained]:
    """Those of `variants` that `refusals` does not refuse, trained on the same seeds and splits."""
    reasons = refusals(variants, inputs, config)
    return {name: train_variant(name, inputs, config) for name in variants if not reasons[name]}


# ---- travel ---------------------------------------------------------------------------------------------------------


class Travel:
    """The `watch` of a training: path length and net movement of every single parameter."""

    def __init__(self):
        self.parts: list[tuple[Sequence[Replica], Weights, Weights, Weights]] = []

    @torch.no_grad()
    def __call__(self, step: int, replicas: Sequence[Replica], parameters: Weights) -> None:
        if step == 0:
            first, last = ({name: p.detach().clone() for name, p in parameters.items()} for _ in range(2))
            self.parts.append((replicas, first, last, {name: torch.zeros_like(p) for name, p in first.items()}))
            return
        _, _, last, path = self.parts[-1]
        for name, p in parameters.items():
            path[name] += (p - last[name]).abs_()
            last[name].copy_(p)

    def table(self, head: nn.Module) -> pd.DataFrame:
        """A row per replica and stage of `head`, in radians for angles.

        path: sum of |step|; net: |last - first|, both as root mean squares over the stage's parameters; largest: the
        largest net movement of one of them.
        """
        where = stage_names(head)
        rows = []
        for replicas, first, last, path in self.parts:
            for stage, names in where.items():
                net = torch.cat([(last[n] - first[n]).abs().flatten(1) for n in names], 1).double()
                length = torch.cat([path[n].flatten(1) for n in names], 1).double()
                values = {"path": length, "net": net}
                values = {name: value.square().mean(1).sqrt() for name, value in values.items()}
                values["largest"] = net.amax(1)
                for i, r in enumerate(replicas):
                    keys = {"seed": r.seed, "split": r.split, "candidate": r.candidate, "stage": stage}
                    rows.append(keys | {name: value[i].item() for name, value in values.items()})
        return pd.DataFrame(rows)


def stage_names(head: nn.Module) -> dict[str, list[str]]:
    """The stages of a head with the names of their parameters, in the order in which data pass them."""
    found: dict[str, list[str]] = {}
    for name, stage in stages(Network(nn.Identity(), head)).items():
        found.setdefault(stage, []).append(name.removeprefix("head."))
    return found


def nominal(inputs: Inputs, config: TrainConfig, rate: float) -> float:
    """The sum of learning rates over all steps: about how far Adam takes a parameter that always goes one way."""
    steps = math.ceil(len(inputs.splits.indices(0, "train")) / config.batch_size)
    return rate * steps * sum(config.lr_gamma ** (epoch // config.lr_step) for epoch in range(config.epochs))


def nominal_by_stage(trained: Trained) -> dict[str, float]:
    """`nominal` for every stage, at the rates of its first replica."""
    rates = trained.fit.replicas[0].rates
    return {
        stage: nominal(trained.inputs, trained.config, rates.quantum if stage == "circuit" else rates.classical)
        for stage in dict.fromkeys(trained.travel["stage"])
    }


def saturation(trained: Trained) -> pd.DataFrame:
    """Share of the training samples' encodings beyond `SATURATED` of the largest angle: before, after, per replica."""
    base = trained.build(0)
    cut = next(i for i, module in enumerate(base) if isinstance(module, Squash)) + 1
    names = [name for name, _ in base[:cut].named_parameters()]
    frame = pd.DataFrame([{"seed": r.seed, "split": r.split} for r in trained.fit.replicas])
    for when, weights in (("before", initial_weights(trained)), ("after", trained.fit.weights)):
        part = first_layers(trained, cut, {name: weights[name] for name in names})
        share = np.abs(part) > SATURATED * math.pi / 2
        splits = trained.inputs.splits
        frame[when] = [share[i, splits.indices(r.split, "train")].mean() for i, r in enumerate(trained.fit.replicas)]
    return frame


def first_layers(trained: Trained, cut: int, weights: Weights) -> np.ndarray:
    """What the first `cut` layers of the heads give for all samples, (R, N, n)."""
    features = head_features(trained.inputs, trained.config)
    return predict(lambda seed: trained.build(seed)[:cut], weights, features, trained.fit.replicas, trained.config)


def initial_weights(trained: Trained) -> Weights:
    """The parameters (R, ...) all replicas started with."""
    return {
        n: p.detach() for n, p in stack_module_state([trained.build(r.seed) for r in trained.fit.replicas])[0].items()
    }


# ---- reliance: a trained model, altered -----------------------------------------------------------------------------


def _zeroed(trained: Trained, name: str) -> torch.Tensor:
    return torch.zeros_like(trained.fit.weights[name])


def _reset(trained: Trained, name: str) -> torch.Tensor:
    return initial_weights(trained)[name].to(trained.fit.weights[name])


def _swapped(trained: Trained, name: str) -> torch.Tensor:
    return trained.fit.weights[name][partners(trained.fit.replicas)]


ALTERATIONS: dict[str, tuple[str, Callable[[Trained, str], torch.Tensor]]] = {  # arm -> stage, what it becomes
    ZEROED: ("circuit", _zeroed),
    "A with reset angles": ("circuit", _reset),
    "A with swapped angles": ("circuit", _swapped),
    "A with reset pre-layer": ("pre-layer", _reset),
    "A with reset post-layer": ("post-layer", _reset),
}


def partners(replicas: Sequence[Replica]) -> np.ndarray:
    """For every replica the next one of its split (of any split, where a split has one), with whom it swaps."""
    frame = pd.DataFrame([(r.split, r.candidate) for r in replicas], columns=["split", "candidate"])
    found = np.roll(np.arange(len(replicas)), -1)
    for keys in (["candidate"], ["split", "candidate"]):
        for index in frame.groupby(keys).indices.values():
            found[index] = np.roll(index, -1) if len(index) > 1 else found[index]
    return found


def alter(trained: Trained, arm: str) -> np.ndarray:
    """Logits (R, N, K) of trained heads of which one stage is zeroed, reset to its initial draw, or swapped."""
    stage, change = ALTERATIONS[arm]
    names = stage_names(trained.build(0))[stage]
    return trained.logits(trained.fit.weights | {name: change(trained, name) for name in names})


def reliance(trained: Trained) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Metrics of every alteration, and the share of test decisions that it changes: a row each."""
    metrics = []
    changed = []
    for arm in ALTERATIONS:
        logits = alter(trained, arm)
        metrics.append(trained.metrics(arm, logits))
        differs = logits.argmax(-1) != trained.fit.logits["last"].argmax(-1)
        for i, r in enumerate(trained.fit.replicas):
            share = differs[i, trained.inputs.splits.indices(r.split, "test")].mean()
            changed.append({"arm": arm, "seed": r.seed, "split": r.split, "changed": share})
    return pd.concat(metrics, ignore_index=True), pd.DataFrame(changed)


# ---- learning rates -------------------------------------------------------------------------------------------------


def sweep(variant: str, inputs: Inputs, config: TrainConfig, factors: Sequence[float]) -> Trained:
    """A variant at the study's rates times every factor: of the angles where it has some, else of the rest."""
    group = "quantum" if VARIANTS[variant].circuit else "classical"
    return train_variant(variant, inputs, config, [own_rates(config, **{group: factor}) for factor in factors])


def sweep_tables(swept: Sequence[Trained], factors: Sequence[Sequence[float]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Metrics per factor (column `factor`), with A's angles zeroed as an arm of its own, and A's travel.

    `factors` has those of every variant.
    """
    metrics = []
    travel = []
    for trained, own in zip(swept, factors, strict=True):
        candidate = np.array([r.candidate for r in trained.fit.replicas])
        circuit = "circuit" in set(trained.travel["stage"])
        zeroed = alter(trained, ZEROED) if circuit else None
        for number, factor in enumerate(own):
            metrics.append(trained.metrics(where=candidate == number, factor=factor))
            if circuit:
                metrics.append(trained.metrics(ZEROED, zeroed, candidate == number, factor=factor))
        found = trained.travel.assign(variant=trained.variant)
        travel.append(found.assign(factor=found["candidate"].map(dict(enumerate(own)))))
    return pd.concat(metrics, ignore_index=True), pd.concat(travel, ignore_index=True)


def tuned(swept: Sequence[Trained]) -> pd.DataFrame:
    """Metrics of the factor that validation chose in every split; empty without a validation set."""
    frames = []
    for trained in swept:
        if trained.inputs.splits.protocol == "as_published":
            return pd.DataFrame()
        chosen = choose_candidates(trained.fit, trained.inputs.splits)
        where = np.array([r.candidate == chosen[r.split] for r in trained.fit.replicas])
        frames.append(trained.metrics(where=where, settings="tuned"))
    return pd.concat(frames, ignore_index=True)


# ---- combined benefit: retraining -----------------------------------------------------------------------------------

SCHEDULES: dict[str, tuple[int, Callable[[int, int], frozenset]]] = {  # epochs x this, which groups learn in an epoch
    "concurrent": (1, lambda epoch, epochs: BOTH),
    "alternating": (2, lambda epoch, epochs: ANGLES if epoch % 2 else CLASSICAL),
    "two-stage": (2, lambda epoch, epochs: CLASSICAL if epoch < epochs else ANGLES),
}


def pace(trains: Callable[[int], frozenset], config: TrainConfig) -> Callable[[int], dict[str, float]]:
    """The `pace` of `fit_heads` that lets only `trains(epoch)` learn; rates decay with the epochs a group has learned.

    A group that rests keeps its parameters and Adam's moments of it, so that it goes on as if it had not waited.
    """

    def factors(epoch: int) -> dict[str, float]:
        done = {group: sum(group in trains(e) for e in range(epoch)) for group in BOTH}
        learns = trains(epoch)
        return {g: config.lr_gamma ** (done[g] // config.lr_step) if g in learns else 0.0 for g in BOTH}

    return factors


def retrain(inputs: Inputs, config: TrainConfig, schedules: Sequence[str]) -> pd.DataFrame:
    """Metrics of A with {angles, classical layers} learning or left at their initial draw.

    The arms are "neither", "angles", "classical", and "both, SCHEDULE". In every arm a group that learns does so for
    the same number of epochs with the same decay; taking turns therefore takes twice as many.
    """
    arms = {"neither": (1, lambda e: NEITHER), "angles": (1, lambda e: ANGLES), "classical": (1, lambda e: CLASSICAL)}
    for name in schedules:
        times, trains = SCHEDULES[name]
        arms[f"both, {name}"] = times, partial(trains, epochs=config.epochs)
    frames = []
    for arm, (times, trains) in arms.items():
        longer = config.model_copy(update={"epochs": times * config.epochs})
        frames.append(train_variant("A", inputs, longer, trains=trains).metrics(arm))
    return pd.concat(frames, ignore_index=True)
