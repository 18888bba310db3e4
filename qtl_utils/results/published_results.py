"""The numbers of 2019 as they were published, and ours beside them. No torch, no PennyLane."""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from qtl_utils.results import stats

REPOSITORY = "XanaduAI/quantum-transfer-learning"
ANTS = "c2q_transfer_learning_ants_bees"
CIRCUITS = "dressed_circuit"
SHAPES = "dressed_circuit_different_shape"
LINEAR = "transfer_learning_ants_bees_classical"
DIRECT = "direct_classification"
CIFAR = "c2q_transfer_learning_cifar"
TUTORIAL = "PyTorch transfer-learning tutorial; re-runs of others 0.935 to 0.961"
ONE_TRAINING = "one training"
LAST = "last epoch"
ON_TEST = "best epoch on the test images"
ON_VALIDATION = "best epoch on validation"
TODAY = "adam-pl"
OF_2019 = "adam-pl07"  # values of TrainConfig.optimizer
IMAGES = 153  # ants and bees that were tested
UNTRAINED = "whole network, not trained"
AS_MANY = 0.0005  # two accuracies closer than this are equal to the third decimal


@dataclass(frozen=True)
class Published:
    """One number; `model` is a key of heads.VARIANTS, or says what is no variant of this study."""

    task: str
    model: str
    protocol: str
    metric: str
    published: float
    source: str


def _plane(task: str, classical: float, circuit: float, source: str) -> list[Published]:
    rows = (("C-block", classical), ("A", circuit))
    return [Published(task, model, LAST, "accuracy", value, source) for model, value in rows]


PUBLISHED = [
    *_plane("spirals 1.52 turns", 0.855, 0.970, CIRCUITS),
    *_plane("spirals 2.0 turns", 0.540, 0.625, CIRCUITS),
    *_plane("square", 0.905, 0.930, SHAPES),
    *_plane("moons", 0.975, 0.965, SHAPES),
    Published("ants/bees", "A", ON_TEST, "accuracy", 0.9673, ANTS),
    Published("ants/bees", "A", ON_TEST, "loss", 0.2858, ANTS),
    Published("ants/bees", "A", LAST, "accuracy", 0.9477, ANTS),
    Published("ants/bees", "A", LAST, "loss", 0.2924, ANTS),
    Published("ants/bees", "C", ON_TEST, "accuracy", 0.9542, LINEAR),
    Published("ants/bees", "C", ON_TEST, "loss", 0.1981, LINEAR),
    Published("ants/bees", "C", LAST, "accuracy", 0.9542, LINEAR),
    Published("ants/bees", "C", LAST, "loss", 0.1971, LINEAR),
    Published("ants/bees", "A", ONE_TRAINING, "minutes", 87.35, ANTS),
    Published("ants/bees", "C", ONE_TRAINING, "minutes", 10.0, LINEAR),
    Published("ants/bees", "C-matched-relu", ON_TEST, "accuracy", np.nan, f"{ANTS}: coded, no number"),
    Published("ants/bees", "C-wide", ON_TEST, "accuracy", np.nan, f"{ANTS}: coded, no number"),
    Published("ants/bees", UNTRAINED, "1000 classes", "accuracy", 0.7451, DIRECT),
    Published("ants/bees", "B", ON_TEST, "accuracy", 0.9346, TUTORIAL),
    Published("ants/bees", "C, SGD", ON_TEST, "accuracy", 0.9477, TUTORIAL),
    Published("CIFAR-10 cat/dog", "A", ON_TEST, "accuracy", 0.8270, CIFAR),
    Published("CIFAR-10 cat/dog", "A", ONE_TRAINING, "minutes", 676.0, CIFAR),
    Published("CIFAR-10 plane/car", "A", ON_TEST, "accuracy", 0.9605, CIFAR),
    Published("CIFAR-10 plane/car", "A", ONE_TRAINING, "minutes", 478.0, CIFAR),
]
# how many of the 153 images were right after each of the 30 epochs of the published training of A, from its notebook
CURVE_OF_2019 = [122, 125, 140, 139, 143, 147, 146, 145, 146, 147, 143, 138, 148, 145, 144]
CURVE_OF_2019 += [145, 144, 145, 148, 144, 144, 141, 146, 147, 147, 146, 147, 147, 148, 145]
# The paper's own test on hardware (arXiv:1912.08278, section on transfer learning from classical to quantum), as we
# know it from citations; its text could not be read where this was written, hence `verified`
DEVICES_OF_2019 = [
    {"device": "ibmqx4", "accuracy": 0.95, "source": "arXiv:1912.08278", "verified": False},
    {"device": "Aspen-4-4Q-A (Rigetti)", "accuracy": 0.80, "source": "arXiv:1912.08278", "verified": False},
]
ROUNDING = 0.03  # beyond what ten copies of a run show of where its rounding may lead
KEYS = ["task", "model", "protocol", "metric"]
SHOWN = [*KEYS, "setting", "published", "ours", "deviation", "sd", "low", "high", "n_seeds", "note", "source"]
NUMBERS = ["ours", "mean", "sd", "low", "high"]
COUNTS = ["n_seeds", "n_splits"]


def published_table() -> pd.DataFrame:
    """PUBLISHED as a table."""
    return pd.DataFrame([asdict(row) for row in PUBLISHED])


def measured(values: pd.Series, test_to_train: float, metric: str, one: float = np.nan) -> dict:
    """Ours as columns of the table: `values`, a number per (seed, split), with interval, and `one` run to single out.

    `ours` is that one run where there is one, as the published number is a single run, else the mean.
    """
    found = stats.estimate(values, test_to_train)
    low, high = np.clip([found.low, found.high], 0, 1) if metric in stats.FRACTIONS else (found.low, found.high)
    row = {"ours": found.value if np.isnan(one) else one, "mean": found.value, "sd": values.std(ddof=1)}
    row |= {"low": low, "high": high, "n_seeds": found.n_seeds, "n_splits": found.n_splits}
    return row | {"interval": stats.described(found), "ours_is": "mean" if np.isnan(one) else "the published run"}


def beside(ours: pd.DataFrame, absent: dict[str, str]) -> pd.DataFrame:
    """Every published number with ours: one row per number and `setting` of ours.

    ours: KEYS, `setting`, `cause` and the columns of `measured`. `absent`: task, or task and model, -> why there is
    nothing of ours. `note` is the cause of a deviation, or that reason.
    """
    table = published_table().merge(ours, on=KEYS, how="left")
    table[NUMBERS] = table[NUMBERS].astype(float)  # columns of rows that are all absent hold objects
    table[COUNTS] = table[COUNTS].astype("Int64")
    pairs = zip(table["task"], table["model"], strict=True)
    otherwise = "not run in this study"
    reasons = [absent.get(f"{task}, {model}") or absent.get(task) or otherwise for task, model in pairs]
    why = "not computed: " + pd.Series(reasons, index=table.index)
    table["computed"] = why.where(table["ours"].isna(), "yes")
    table["deviation"] = table["ours"] - table["published"]
    table[["cause", "setting"]] = table[["cause", "setting"]].fillna("")
    table["note"] = table["cause"].where(table["computed"] == "yes", table["computed"])
    first = [*KEYS, "setting", "published", "ours", "deviation", "cause"]
    return table[first + [c for c in table if c not in first]]


def plane_table(accuracies: pd.DataFrame) -> pd.DataFrame:
    """The 2-D tasks for `beside`, from one accuracy per task, variant, optimiser, seed and copy.

    Seed 0 is the published run.
    `rounding_low` and `rounding_high` are the ends of the published run and of its copies, whose initial weights
    differ in the last digits.
    """
    rows = []
    published = published_table().set_index(KEYS)["published"].to_dict()
    for (task, variant, optimizer), part in accuracies.groupby(["task", "variant", "optimizer"], sort=False):
        seeds = part[part["copy"] == 0].set_index(["seed", "split"])["accuracy"]
        row = measured(seeds, 0.1, "accuracy", one=seeds.loc[0, 0])  # 200 points tested, 2000 trained on
        same = part.loc[part["seed"] == 0, "accuracy"]
        row |= {"rounding_low": same.min(), "rounding_high": same.max()}
        keys = dict(zip(KEYS, (task, variant, LAST, "accuracy"), strict=True))
        equal = abs(row["ours"] - published[tuple(keys.values())]) < AS_MANY
        cause = "" if equal else "first step of Adam as in today's PennyLane" if optimizer == TODAY else "rounding"
        rows.append(keys | {"setting": optimizer, "cause": cause} | row)
    return pd.DataFrame(rows)


def up_to_rounding(rows: pd.DataFrame) -> pd.Series:
    """Which published numbers lie where the published run and its copies ended, give or take ROUNDING."""
    return rows["published"].between(rows["rounding_low"] - ROUNDING, rows["rounding_high"] + ROUNDING)


def one_number(task: str, model: str, protocol: str, metric: str, value: float, setting: str, cause: str) -> dict:
    """A row for `beside` that is one number of ours, without spread."""
    keys = dict(zip(KEYS, (task, model, protocol, metric), strict=True))
    return keys | {"setting": setting, "cause": cause} | measured(pd.Series([value], index=_ONE), 0, metric)


def images_table(scores: pd.DataFrame, setting: str, cause: str, task: str = "ants/bees") -> pd.DataFrame:
    """Images for `beside`, from scores (columns model, protocol, seed, split, accuracy, loss, n, n_train)."""
    rows = []
    for (model, protocol), part in scores.groupby(["model", "protocol"], sort=False):
        part, ratio = part.set_index(stats.keys_of(part)), (part["n"] / part["n_train"]).mean()
        for metric in ("accuracy", "loss"):
            keys = dict(zip(KEYS, (task, model, protocol, metric), strict=True))
            rows.append(keys | {"setting": setting, "cause": cause} | measured(part[metric], ratio, metric))
    return pd.DataFrame(rows)


def no_rows() -> pd.DataFrame:
    """Nothing of ours, with the columns of `plane_table` and `images_table`."""
    columns = [*KEYS, "setting", "cause", *measured(pd.Series([0.0], index=_ONE), 0, "")]
    return pd.DataFrame(columns=columns)


_ONE = pd.MultiIndex.from_tuples([(0, 0)], names=["seed", "split"])


def plane_sentences(rows: pd.DataFrame, accuracies: pd.DataFrame) -> list[str]:
    """How the 2-D tasks came out: reproduced or not, what Adam's first step is worth, circuit against classical net."""
    again = rows[rows["setting"] == OF_2019].merge(published_table(), on=KEYS)
    off = (again["ours"] - again["published"]).abs()
    lines = [
        f"With Adam as it was in 2019, {(off < AS_MANY).sum()} of {len(off)} published accuracies come out to the "
        f"third decimal; the largest deviation is {100 * off.max():.1f} points."
    ]
    wide = rows.pivot_table(index=["task", "model"], columns="setting", values=["ours", "mean"], sort=False)
    if TODAY in set(rows["setting"]):
        single, mean = ((wide[name][TODAY] - wide[name][OF_2019]).abs().max() for name in ("ours", "mean"))
        lines.append(
            f"Adam's first step alone, as it is today, moves the published runs by up to {100 * single:.1f} points and "
            f"means over {rows['n_seeds'].max()} seeds by up to {100 * mean:.1f}."
        )
    lines.append(_rounding_sentence(again))
    chosen = accuracies[(accuracies["optimizer"] == OF_2019) & (accuracies["copy"] == 0)]
    return lines + [_circuit_sentence(task, part) for task, part in chosen.groupby("task", sort=False)]


def _rounding_sentence(again: pd.DataFrame) -> str:
    width = again["rounding_high"] - again["rounding_low"]
    most = again.loc[width.idxmax()]
    return (
        f"Initial weights that differ in the 14th decimal change {(width > AS_MANY).sum()} of these {len(again)} runs, "
        f"most of all {most['model']} on {most['task']}: it ends anywhere from {most['rounding_low']:.3f} to "
        f"{most['rounding_high']:.3f}. Another processor or library may land elsewhere in such a range."
    )


def _circuit_sentence(task: str, accuracies: pd.DataFrame) -> str:
    wide = accuracies.pivot_table(index=["seed", "split"], columns="variant", values="accuracy")
    ahead = wide["A"] - wide["C-block"]
    found = stats.estimate(wide["A"] - wide["C-block"], 0.1)
    better = {name: int((wide[name] < wide[name].loc[0, 0]).sum()) for name in ("A", "C-block")}
    text = f"{task}: circuit minus classical net is {100 * found.value:+.1f} points"
    text += f" [{100 * found.low:+.1f}, {100 * found.high:+.1f}]" if np.isfinite(found.low) else ""
    return (
        f"{text} over {len(ahead)} seeds ({found.interval}), and the circuit is ahead in {(ahead > 0).sum()} of them. "
        f"The published seed beats {better['A']} of {len(ahead) - 1} others for the circuit and "
        f"{better['C-block']} for the classical net."
    )


def curve_sentences() -> list[str]:
    """What the published training of A shows of its own best epoch."""
    counts = np.array(CURVE_OF_2019)
    best = counts.max()
    settled = counts[10:]
    epochs = ", ".join(str(epoch) for epoch in np.flatnonzero(counts == best) + 1)
    return [
        f"The highest count of the published training of A, {best} of {IMAGES} images, is that of epochs {epochs}; "
        "it was reported.",
        f"Once the learning rate has decayed, from epoch 11 on, the same training goes up and down between "
        f"{settled.min()} and {settled.max()} images, {settled.mean():.1f} on average; it ends at {counts[-1]}.",
    ]


def published_lead() -> dict[str, float]:
    """A minus C of 2019 in accuracy, by protocol."""
    rows = published_table().query("task == 'ants/bees' and metric == 'accuracy'").set_index(["model", "protocol"])
    return {
        protocol: rows.at[("A", protocol), "published"] - rows.at[("C", protocol), "published"]
        for protocol in (LAST, ON_TEST)
    }
