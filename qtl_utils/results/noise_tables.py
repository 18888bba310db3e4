"""What noise costs, from metrics alone: tables, tests and sentences. No torch, no PennyLane."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from qtl_utils.results import stats

PUBLISHED = "A, as published"
REPAIRED = "A, repaired"
ZERO = "A-zero, as published"
CLASSICAL = "C"
WITHOUT, UNDER = "without noise", "under it"  # how a head was trained
EXACT, SHOTS, GATES, DEVICE = "no noise", "shots", "gate noise", "device"  # kinds of conditions
GATES_ONLY, READOUT_ONLY = "device, gates only", "device, readout only"  # parts of what a device does


def arm(model: str, kind: str, level: str | float, training: str) -> str:
    """What a model under a condition is called in metrics."""
    return f"{model} | {kind} | {level} | {training}"


def costs(metrics: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and loss of every arm with intervals, and what it lost against the same model without noise.

    `accuracy_cost` and `loss_cost`: paired differences to that, over the same seeds and splits, with `_low`, `_high`.
    `changed`: the share of test decisions that are others than without noise.
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
        rows.append(row | {"changed": part["changed"].iloc[0]})
    return pd.DataFrame(rows)


def answers(metrics: pd.DataFrame) -> pd.DataFrame:
    """Two families of comparisons of accuracy, Holm-adjusted each: a row a model and condition.

    "costs": on a device against without noise, as trained; "training": trained under noise against trained without,
    both under that noise. `loss`, with `loss_low` and `loss_high`: the same difference of the loss, not tested.
    """
    arms = metrics.loc[metrics["kind"] != EXACT, ["model", "kind", "level", "training"]].drop_duplicates()
    families: dict[str, list] = {"costs": [], "training": []}
    for model, kind, level, training in arms.itertuples(index=False):
        met = arm(model, kind, level, training)
        if training == UNDER:
            families["training"].append((model, kind, level, met, arm(model, kind, level, WITHOUT)))
        elif kind == DEVICE:
            families["costs"].append((model, kind, level, met, arm(model, EXACT, "", WITHOUT)))
    rows = []
    for question, wanted in families.items():
        tests = stats.together([stats.paired(metrics, a, b) for *_, a, b in wanted])
        for (model, kind, level, a, b), test in zip(wanted, tests, strict=True):
            loss = stats.paired(metrics, a, b, "loss")
            named = {"question": question, "model": model, "kind": kind, "level": level}
            told = {"verdict": stats.verdict(test), "loss": loss.value, "loss_low": loss.low, "loss_high": loss.high}
            rows.append(named | vars(test) | told)
    return pd.DataFrame(rows)


def readout_shares(table: pd.DataFrame) -> pd.DataFrame:
    """What a device costs, what its gates cost alone and what its readout does: a row per model and device."""
    found = table[table["training"] == WITHOUT].set_index(["model", "kind", "level"])
    rows = []
    for model, kind, level in found.index:
        if kind != DEVICE:
            continue
        row = {"model": model, "device": level}
        for column, part in {"whole": DEVICE, "gates": GATES_ONLY, "readout": READOUT_ONLY}.items():
            one = found.loc[(model, part, level)]
            row |= {f"accuracy, {column}": one["accuracy_cost"], f"loss, {column}": one["loss_cost"]}
        rows.append(row)
    return pd.DataFrame(rows)


# ---- in words --------------------------------------------------------------------------------------------------------


def sentences(table: pd.DataFrame, answered: pd.DataFrame, shares: pd.DataFrame) -> list[str]:
    """What `costs`, `answers` and `readout_shares` say, plain words first."""
    as_trained = table[table["training"] == WITHOUT]
    lines = []
    for model in dict.fromkeys(table["model"]):
        own = as_trained[as_trained["model"] == model]
        if model == CLASSICAL:
            lines.append(
                f"C has no circuit and stays where it is: right in {100 * own['accuracy'].iloc[0]:.1f} of 100."
            )
            continue
        rows = answered[(answered["model"] == model) & (answered["question"] == "costs")]
        lines.append(_on_devices(model, own[own["kind"] == DEVICE], rows))
        for kind, told in (
            (SHOTS, "measured with so many shots instead of exactly"),
            (GATES, "with so much depolarisation after every gate"),
        ):
            levels = own[own["kind"] == kind]
            each = ", ".join(f"{row['level']}: {_points(row['accuracy_cost'])}" for _, row in levels.iterrows())
            lines += [f"{model}: {told}, {each}."] if each else []
    lines += [_trained(row) for _, row in answered[answered["question"] == "training"].iterrows()]
    return lines + _readout(shares)


def _on_devices(model: str, met: pd.DataFrame, rows: pd.DataFrame) -> str:
    """What the devices do to one model as it was trained: `met` of `costs`, `rows` of `answers`."""
    same = (rows["verdict"] == "equivalent") | ((rows["verdict"] == "no variation") & (rows["value"] == 0))
    counts = {
        "it is worse": (rows["verdict"] == "lower").sum(),
        "better": (rows["verdict"] == "higher").sum(),
        "the same to within 2 of 100 images": same.sum(),
    }
    counts["we cannot tell"] = len(rows) - sum(counts.values())
    each = ", ".join(f"{told} on {n}" for told, n in counts.items() if n or told == "it is worse")
    return (
        f"{model}, on {len(rows)} devices: accuracy changes by {_range(met['accuracy_cost'], _points)}, "
        f"{_range(met['changed'], lambda x: f'{100 * x:.1f}')} of 100 test decisions change, and the loss changes by "
        f"{_range(met['loss_cost'], lambda x: f'{x:+.3f}')}. In accuracy {each}."
    )


def _trained(row: pd.Series) -> str:
    """What training under noise does, of one row of `answers`."""
    place = {DEVICE: "on {}", GATES: "under depolarisation of {} after every gate", SHOTS: "with {} shots a circuit"}
    told = {"higher": "raises accuracy", "lower": "lowers accuracy"}
    told["equivalent"] = "leaves accuracy the same to within 2 of 100 images"
    ended = "equivalent" if row["verdict"] == "no variation" and row["value"] == 0 else row["verdict"]
    verdict = told.get(ended, "cannot be told from training without by its accuracy")
    numbers = f"{_points(row['value'])}{_interval(row['low'], row['high'], _points)}"
    loss = f"{row['loss']:+.3f}{_interval(row['loss_low'], row['loss_high'], lambda x: f'{x:+.3f}')}"
    where = place[row["kind"]].format(row["level"])
    return f"{row['model']} {where}: training under the noise {verdict}, {numbers}; the loss changes by {loss}."


def _readout(shares: pd.DataFrame) -> list[str]:
    """How much of a rise of the loss the readout makes alone, where the loss rises on all devices."""
    lines = []
    for model, rows in shares.groupby("model", sort=False):
        if not (rows["loss, whole"] > 0).all():
            lines.append(f"{model}: its readout alone has no share to tell, as the loss does not rise on every device.")
        else:
            share = rows["loss, readout"] / rows["loss, whole"]
            lines.append(
                f"{model}: of what a device adds to the loss its readout alone adds {100 * share.median():.0f} % in "
                f"the median of the devices ({_range(share, lambda x: f'{100 * x:.0f} %')})."
            )
    return lines


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f} points"


def _range(values: pd.Series, show: Callable[[float], str]) -> str:
    return f"{show(values.min())} to {show(values.max())}"


def _interval(low: float, high: float, show: Callable[[float], str]) -> str:
    return f" [{show(low)}, {show(high)}]" if np.isfinite(low) else ""


def pointers(table: pd.DataFrame) -> list[str]:
    """What `directions` says: the shots from which on a sampled gradient surely points within 45 degrees."""
    lines = []
    for method, part in table.groupby("method", sort=False):
        found: dict[str, list[str]] = {}
        for device, rows in part.sort_values("shots", kind="stable").groupby("device", sort=False):
            # from there on, whatever more shots are taken, the whole interval is within 45 degrees
            good = rows["cosine_low"].to_numpy() >= 0.5**0.5
            later = np.logical_and.accumulate(good[::-1])[::-1]
            most = f"none up to {rows['shots'].max():,}"
            enough = f"{rows['shots'].to_numpy()[later.argmax()]:,}" if later.any() else most
            found.setdefault(enough, []).append(device)
        each = "; ".join(f"{shots} ({', '.join(places)})" for shots, places in found.items())
        lines.append(
            f"Shots a circuit from which on a sampled gradient of untrained heads ({method}) points within 45 degrees "
            f"of the one without noise: {each}."
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
    if facts["calibrated"].nunique() > 1:
        by_date = on["loss_cost"].groupby(facts.set_index("device")["calibrated"]).median()
        oldest, newest = by_date.iloc[[0, -1]]
        text = f"calibrated {by_date.index[-1]} {newest:+.4f}, {by_date.index[0]} {oldest:+.4f}"
        yield "the newest devices add less to the loss than the oldest", newest < oldest, text
    trained = answered[(answered["question"] == "training") & (answered["kind"] == DEVICE)]
    if len(trained):
        worse = trained.loc[trained["verdict"] == "lower", ["model", "level"]].agg(" on ".join, axis=1)
        text = f"worse: {', '.join(worse) or 'none'}"
        yield "training under a device's noise does not harm on it", worse.empty, text
