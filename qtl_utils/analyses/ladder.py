"""From the published model to a better one: mends one on top of the other, each beside controls that get it too.

A rung adds one mend to all before it. What it gains is a paired difference over the same splits and seeds; whether the
circuit or better hygiene gained it, the same mend in a control shows: A-zero (the circuit, its angles fixed at zero),
A-none (no circuit), C-matched and C. Every rung was fixed beforehand, and a part of the samples, which no split holds,
is tested once, at the end.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pandas as pd
import torch

from qtl_utils.analyses.protocols import without_validation
from qtl_utils.circuits.ansatze import ANSATZE, make_circuit
from qtl_utils.circuits.mixing import UNREAD, by_depth, draw_inputs, pulled_back
from qtl_utils.circuits.program import read_circuit
from qtl_utils.data.splits import Splits, hold_out, make_splits
from qtl_utils.models.devices import find_device
from qtl_utils.models.heads import VARIANTS, Beside, make_head
from qtl_utils.results import stats
from qtl_utils.results.runs import GROUP
from qtl_utils.study.config import DataConfig, TrainConfig
from qtl_utils.study.environment import progress
from qtl_utils.training.fits import Fit, Rates, Replica, make_replicas
from qtl_utils.training.inputs import Inputs, head_features
from qtl_utils.training.run import choose_candidates
from qtl_utils.training.scores import score_metrics
from qtl_utils.training.variants import fit_frozen, fit_variant, head_settings

PUBLISHED = "as published"
JOINT = "joint training"
WHOLE = {"A": "A-joint-bypass", "C": "B"}  # what stands for a head where its backbone is trained too
BYPASS = {"A": "A-bypass", "A-zero": "A-zero-bypass", "A-none": "A-none-bypass"}
CONTROLS = ("A-zero", "A-none", "C-matched", "C")
DEPTHS = range(1, 13)


@dataclass(frozen=True)
class Choices:
    """What the mends of one data set choose: learning rates to choose from, the angles' own rate, and a depth."""

    rates: tuple[float, ...]  # of all parameters, for validation to choose from
    lr_quantum: float  # of the angles, once they may travel
    depth: int


@dataclass(frozen=True)
class Recipe:
    """How a model is made, trained and scored."""

    variant: str
    depth: int
    scaling: str = "none"
    rates: tuple[Rates, ...] = ()  # more than one: validation chooses
    epoch: str = "best on test"  # or "last"


@dataclass(frozen=True)
class Mend:
    """A row of MENDS: `apply(recipe, choices)` gives the mended recipe, the same one where there is nothing to mend."""

    about: str
    apply: Callable[[Recipe, Choices], Recipe]


def _uses_circuit(recipe: Recipe) -> bool:
    return recipe.variant.startswith("A") and not recipe.variant.startswith("A-none")


def _tuned(recipe: Recipe, choices: Choices) -> Recipe:
    backbone = recipe.rates[0].backbone
    return replace(recipe, rates=tuple(Rates(rate, rate, backbone) for rate in choices.rates))


def _unmixed(recipe: Recipe, choices: Choices) -> Recipe:
    return replace(recipe, depth=choices.depth) if _uses_circuit(recipe) else recipe


def _travelling(recipe: Recipe, choices: Choices) -> Recipe:
    if not VARIANTS[recipe.variant].circuit:
        return recipe
    return replace(recipe, rates=tuple(replace(r, quantum=max(r.quantum, choices.lr_quantum)) for r in recipe.rates))


MENDS: dict[str, Mend] = {
    "clean evaluation": Mend(
        "the last epoch is reported, not the best one on the test images", lambda r, c: replace(r, epoch="last")
    ),
    "rates": Mend("validation chooses the learning rate", _tuned),
    "scaled features": Mend("features have mean 0 and deviation 1", lambda r, c: replace(r, scaling="standard")),
    "depth": Mend("a depth at which no output is a product of inputs", _unmixed),
    "travel": Mend("angles have a learning rate of their own, large enough to travel", _travelling),
    "bypass": Mend(
        "the last layer sees the circuit's input angles too",
        lambda r, c: replace(r, variant=BYPASS.get(r.variant, r.variant)),
    ),
}


def unmixed_depth(config: TrainConfig) -> int:
    """The depth nearest to the study's own (the smaller of two) at which no input is hidden in a product."""
    for row in sorted(by_depth(config.ansatz, config.encoding, config.n_qubits, DEPTHS), key=_nearest(config.depth)):
        if not row["unread"]:
            return int(row["depth"])
    return config.depth


def _nearest(depth: int) -> Callable[[Mapping], tuple[int, int]]:
    return lambda row: (abs(row["depth"] - depth), row["depth"])


def sealed(inputs: Inputs, config: DataConfig, share: float, n_splits: int) -> tuple[Inputs, Inputs]:
    """`inputs` with splits that leave `share` of the samples out, and the same with these as their test set."""
    final = hold_out(inputs.data, share, config.split_seed)
    pool = np.setdiff1d(np.arange(len(inputs.data)), final)
    sizes = {"train": config.train, "validation": config.validation, "test": config.test}
    splits = make_splits(inputs.data, n_splits=n_splits, seed=config.split_seed, **sizes, pool=pool)
    opened = np.where(splits.subsets == "test", "", splits.subsets)
    opened[:, final] = "test"
    return replace(inputs, splits=splits), replace(inputs, splits=Splits("repeated", opened))


@dataclass
class Ladder:
    """Trains recipes on one data set, each once, and keeps what they scored.

    `names`: what the columns of stats.GROUP say.
    """

    inputs: Inputs
    opened: Inputs
    config: TrainConfig
    choices: Choices
    names: Mapping[str, str]
    known: dict[Recipe, tuple[pd.DataFrame, pd.DataFrame]] = field(default_factory=dict)
    trained: dict[Recipe, tuple[list[Replica], dict[str, torch.Tensor]]] = field(default_factory=dict)

    def published(self, variant: str) -> Recipe:
        """The settings of 2019, for a variant."""
        rates = Rates(self.config.lr_classical, self.config.lr_quantum, self.config.lr_backbone)
        return Recipe(variant, self.config.depth, rates=(rates,))

    def mended(self, variant: str, mends: Sequence[str]) -> Recipe:
        """The recipe of a variant with these mends, one after the other."""
        recipe = self.published(variant)
        for name in mends:
            recipe = MENDS[name].apply(recipe, self.choices)
        return recipe

    def scores(self, recipe: Recipe) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Metrics of the chosen trainings on the test samples of their splits, and on the sealed ones."""
        if recipe not in self.known:
            fit, chosen = self._fit(recipe)
            kind = "last" if recipe.epoch == "last" else "best"
            frames = [score_metrics(fit, chosen, inputs) for inputs in (self.inputs, self.opened)]
            wanted = [f[f["epoch_kind"] == kind].assign(epoch_kind="last", **self.names) for f in frames]
            self.known[recipe] = tuple(wanted)
            self.trained[recipe] = [fit.replicas[i] for i in chosen], {n: p[chosen] for n, p in fit.weights.items()}
        return self.known[recipe]

    def _config(self, recipe: Recipe) -> TrainConfig:
        return self.config.model_copy(update={"depth": recipe.depth, "feature_scaling": recipe.scaling})

    def _fit(self, recipe: Recipe) -> tuple[Fit, np.ndarray]:
        config = self._config(recipe)
        peeks = recipe.epoch != "last"
        inputs = without_validation(self.inputs) if peeks else self.inputs
        replicas = make_replicas(config.seed_range, inputs.splits.n_splits, recipe.rates)
        fit = fit_frozen(recipe.variant, inputs, config, replicas, find_device(config.device))
        if len(recipe.rates) == 1:
            return fit, np.arange(len(fit.replicas))
        best = choose_candidates(fit, inputs.splits)
        return fit, np.flatnonzero([r.candidate == best[r.split] for r in fit.replicas])

    def signal(self, recipe: Recipe, most: int = 8) -> pd.DataFrame:
        """What the circuit leaves of its inputs at the first and the last step, a row per training and `when`.

        Of the first `most` trainings: columns of `mixing.by_depth` but `depth`, at their own angles and inputs.
        """
        self.scores(recipe)
        config = self._config(recipe)
        features = head_features(self.inputs, config).double()
        circuit = make_circuit(config.ansatz, config.encoding, config.n_qubits)
        shape = ANSATZE[config.ansatz].shape(config.n_qubits, config.depth)
        reading = read_circuit(circuit, config.n_qubits, shape)
        rows = []
        replicas, weights = self.trained[recipe]
        for i, replica in enumerate(replicas[:most]):
            head = make_head(recipe.variant, head_settings(self.inputs, config), replica.seed).double()
            own = features[replica.split] if features.ndim == 3 else features
            for when in ("start", "end"):
                if when == "end":
                    head.load_state_dict({name: value[i] for name, value in weights.items()}, strict=False)
                layer = head[2].inner if isinstance(head[2], Beside) else head[2]
                with torch.no_grad():
                    angles = head[:2](own[self.inputs.splits.indices(replica.split, "train")]).numpy()
                found = pulled_back(reading, layer.weights.detach().numpy())
                drawn = draw_inputs(angles.std(0), angles.mean(0))
                alone, reach = found.alone(drawn), found.reach(drawn)
                row = {
                    "seed": replica.seed,
                    "split": replica.split,
                    "when": when,
                    "unread": int((alone < UNREAD).sum()),
                }
                rows.append(row | {"alone": float(np.nanmin(alone)), "reach": float(np.nanmean(reach))})
        return pd.DataFrame(rows)

    def networks(self, variant: str, config: TrainConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The same of a variant that is trained as a whole, with `config` at the chosen depth."""
        config = config.model_copy(update={"depth": self.choices.depth})
        fit = fit_variant(variant, self.inputs, config)
        frames = [score_metrics(fit, np.arange(len(fit.replicas)), inputs) for inputs in (self.inputs, self.opened)]
        return tuple(f[f["epoch_kind"] == "last"].assign(**self.names) for f in frames)


# ---- what is compared


def arm(variant: str, rung: str) -> str:
    """What a variant at a rung is called in metrics."""
    return f"{variant}, {rung}"


def climb(
    ladder: Ladder, mends: Sequence[str], joint: TrainConfig | None = None, variants: Sequence[str] = ("A", *CONTROLS)
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Metrics of every variant at every rung, on the test samples and on the sealed ones; `variant` is `arm(...)`.

    Beside the rungs, of A: every mend on top of a clean evaluation alone ("only ..."), and all but it ("without ...").
    joint: how whole networks are trained, as a last rung of A and C (which becomes B); left out where that is None.
    """
    rows = [
        (arm(variant, rung), ladder.mended(variant, mends[:n]))
        for variant in variants
        for n, rung in enumerate([PUBLISHED, *mends])
    ]
    first, *others = mends
    for mend in others:
        rows.append((arm("A", f"only {mend}"), ladder.mended("A", [first, mend])))
        rows.append((arm("A", f"without {mend}"), ladder.mended("A", [m for m in mends if m != mend])))
    climbing = progress(rows, "rungs")
    found = [[part.assign(variant=name) for part in ladder.scores(recipe)] for name, recipe in climbing]
    if joint:
        for head, network in WHOLE.items():
            found.append([part.assign(variant=arm(head, JOINT)) for part in ladder.networks(network, joint)])
    return tuple(pd.concat(parts, ignore_index=True) for parts in zip(*found, strict=True))


def rungs_of(tested: pd.DataFrame, mends: Sequence[str], variant: str = "A") -> list[str]:
    """The rungs that a variant climbs, from the published model on."""
    present = set(tested["variant"])
    return [rung for rung in (PUBLISHED, *mends, JOINT) if arm(variant, rung) in present]


def gains(tested: pd.DataFrame, mends: Sequence[str]) -> pd.DataFrame:
    """What every mend gained in A: a row per mend and `kind`, Holm-adjusted over the mends of a kind.

    "step": over the rung before; "total": over the published model; "alone": on top of a clean evaluation only;
    "left out": all mends over all but this one.
    """
    last = arm("A", mends[-1])
    clean = arm("A", mends[0])
    rungs = rungs_of(tested, mends)
    pairs = {
        "step": [(after, arm("A", after), arm("A", before)) for before, after in pairwise(rungs)],
        "total": [(rung, arm("A", rung), arm("A", PUBLISHED)) for rung in rungs[1:]],
        "alone": [(m, arm("A", f"only {m}"), clean) for m in mends[1:]],
        "left out": [(m, last, arm("A", f"without {m}")) for m in mends[1:]],
    }
    rows = []
    for kind, wanted in pairs.items():
        tests = stats.together([stats.paired(tested, a, b) for _, a, b in wanted])
        rows += [
            {"kind": kind, "mend": mend, **vars(test), "verdict": stats.verdict(test)}
            for (mend, _, _), test in zip(wanted, tests, strict=True)
        ]
    return pd.DataFrame(rows)


def credit(tested: pd.DataFrame, mends: Sequence[str], controls: Sequence[str] = CONTROLS) -> pd.DataFrame:
    """What a mend gained in A beyond what it gained in a control: a row per mend and control.

    `gain`: of the control; `value`, `low`, `high`: gain of A minus that. Where it is about zero, the mend is hygiene.
    """
    rows = []
    for control in controls:
        for before, mend in pairwise(rungs_of(tested, mends, control)):
            cells = [arm(control, before), arm(control, mend), arm("A", before), arm("A", mend)]
            found = stats.factorial(tested, cells=cells, names=("circuit", mend))
            row = found[found["effect"] == "interaction"].iloc[0].to_dict()
            gain = stats.paired(tested, arm(control, mend), arm(control, before))
            rows.append({"mend": mend, "control": control, "gain": gain.value} | row)
    return pd.DataFrame(rows).drop(columns=["effect", "p_equivalent", "note"])


def levels(tested: pd.DataFrame, mends: Sequence[str], variants: Sequence[str] = ("A", *CONTROLS)) -> pd.DataFrame:
    """Accuracy with its interval of every variant at every rung: columns rung, variant, accuracy, low, high."""
    found = stats.summary(tested, by=[*GROUP, "variant"]).set_index("variant")
    rows = []
    for variant in variants:
        for rung in rungs_of(tested, mends, variant):
            one = found.loc[arm(variant, rung)]
            rows.append(
                {"rung": rung, "variant": variant, "accuracy": one["mean"], "low": one["low"], "high": one["high"]}
            )
    return pd.DataFrame(rows)


def answers(tested: pd.DataFrame, mends: Sequence[str]) -> pd.DataFrame:
    """The repaired A against what it was and against every control with the same mends: one family, a row each."""
    last = mends[-1]
    others = [arm("A", PUBLISHED), *[arm(control, last) for control in CONTROLS]]
    tests = stats.together([stats.paired(tested, arm("A", last), other) for other in others])
    return pd.DataFrame([{**vars(test), "verdict": stats.verdict(test)} for test in tests])


# ---- in words


def sentences(
    task: str, shown: pd.DataFrame, gained: pd.DataFrame, credited: pd.DataFrame, final: pd.DataFrame
) -> list[str]:
    """What a ladder says, the numbers behind: of `levels`, `gains`, `credit`, and `answers` on the sealed samples."""
    heights = shown[shown["variant"] == "A"].set_index("rung")["accuracy"]
    steps = gained[gained["kind"] == "step"]
    heads = steps[steps["mend"] != JOINT]
    first, last = PUBLISHED, heads["mend"].iloc[-1]
    lines = [
        f"{task}: A as published is right in {_of_hundred(heights[first])}, with every mend in "
        f"{_of_hundred(heights[last])}."
    ]
    for _, row in steps[steps["verdict"].isin(["higher", "lower"])].iterrows():
        lines.append(f"{task}, {row['mend']}: {_points(row)}{_credited(row['mend'], credited)}.")
    if not (steps["verdict"] == "higher").any():
        lines.append(f"{task}: no rung gains on those before it what can be told from zero, Holm over {len(steps)}.")
    alone = gained[(gained["kind"] == "alone") & (gained["verdict"] == "higher")]
    if len(alone):
        each = ", ".join(f"{row['mend']} {_points(row)}" for _, row in alone.iterrows())
        lines.append(f"{task}, one mend alone, all else as in 2019: {each}.")
    before = final[final["b"] == arm("A", PUBLISHED)].iloc[0]
    against = final[final["b"] == arm("C", last)].iloc[0]
    n = f"{before['n_images']} sealed samples, {before['n_splits']} training sets"
    lines.append(f"{task}, opened once ({n}): the repaired A is {_than(before)} the published one, {_points(before)}.")
    lines.append(f"{task}, opened once: the repaired A is {_than(against)} C with the same mends, {_points(against)}.")
    return lines


def _of_hundred(share: float) -> str:
    return f"{100 * share:.1f} of 100"


def _points(row: pd.Series) -> str:
    interval = f" [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]" if np.isfinite(row["low"]) else ""
    return f"{100 * row['value'] + 0.0:+.1f} points{interval}"


def _than(row: pd.Series) -> str:
    told = {"higher": "right more often than", "lower": "right less often than", "equivalent": "as good as"}
    return told.get(row["verdict"], "not to be told from")


def _credited(mend: str, credited: pd.DataFrame) -> str:
    """Whom a gain belongs to, to follow it: hygiene where a control gains as much, else the circuit."""
    rows = credited[credited["mend"] == mend].set_index("control")
    if "C-matched" not in rows.index:
        return ""
    without, zero = rows.loc["C-matched"], rows.loc["A-zero"]
    if not without["low"] > 0:
        return f"; C-matched gets {100 * without['gain']:+.1f} by the same mend, so it is hygiene, not the circuit"
    angles = "" if zero["low"] > 0 else f", A-zero, whose angles are never trained, {100 * zero['gain']:+.1f}"
    return f"; C-matched gets {100 * without['gain'] + 0.0:+.1f}{angles}: a fault of the circuit was mended"
