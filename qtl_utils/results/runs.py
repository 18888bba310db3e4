"""Tidy results in and out: the files one run leaves behind, and one table of each kind for a whole study."""

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.numpy

from qtl_utils.study.names import NO_BACKBONE
from qtl_utils.study.paths import atomic

GROUP = ["dataset", "backbone", "settings", "protocol"]  # what is never mixed in a table, a test or a panel
KEYS = ["study", "dataset", "backbone", "variant", "run", "settings", "protocol", "seed", "split"]
_RUN_KEYS = KEYS[:-2]
VALUES = ["loss", "accuracy", "balanced_accuracy", "ece"]
METRICS = [*KEYS, "source", "subset", "epoch_kind", "epoch", "n", *VALUES]
HISTORY = [*KEYS, "epoch", "subset", "loss", "accuracy"]
PREDICTIONS = [*_RUN_KEYS, "subset", "epoch_kind", "id", "label", "prediction", "n", "probability"]
LEARNING_RATES = ["lr_classical", "lr_quantum", "lr_backbone"]
COUNTS = ["total", "trainable", "receiving_gradient", "quantum"]
COSTS = ["all_seeds_seconds", "one_seed_seconds", "peak_memory_bytes"]
VARIANTS = [*_RUN_KEYS, *COUNTS, "n_seeds", *LEARNING_RATES, "skipped_reason", *COSTS, "trained_by"]
TUNING = [*KEYS, *LEARNING_RATES, "feature_scaling", "loss", "accuracy", "chosen"]
VARIANT_ORDER = ["A", "B", "C", "A-joint", "C-matched", "C-matched-relu", "C-wide"]
VARIANT_ORDER += ["A-zero", "A-frozen", "A-separable", "A-none", "A-surrogate"]
COLUMNS = {
    "metrics": METRICS,
    "history": HISTORY,
    "predictions": PREDICTIONS,
    "variants": VARIANTS,
    "tuning": TUNING,
}

_FLOATS = {*VALUES, *LEARNING_RATES, *COSTS, "probability"}
_TYPES = {"chosen": "bool"}
_TYPES |= dict.fromkeys(["seed", "split", "epoch", "n", "n_seeds"], "int64")
_TYPES |= dict.fromkeys(COUNTS, "Int64")  # empty for a variant that was skipped
_TYPES["source"] = "Int64"  # which initial backbone of the study's own; empty where its weights are given
_TYPES |= dict.fromkeys(_FLOATS, "float64")
_ALLOWED = {"subset": {"train", "validation", "test"}, "epoch_kind": {"best", "last"}}
_REPEATED = [*GROUP, "variant", "seed", "split"]
OUTCOMES = "outcomes.safetensors"  # of a run: what became of every test image, see `_write_outcomes`


def tidy(frame: pd.DataFrame, kind: str, source: str | Path = "") -> pd.DataFrame:
    """`frame` with the columns of `kind`, ordered, typed and sorted; ValueError names a wrong column.

    Metrics keep a column `images` where they have one.
    """
    columns = COLUMNS[kind]
    source = source or f"{kind} table"
    images = frame["images"] if kind == "metrics" and "images" in frame else None
    frame = frame.drop(columns=[] if images is None else "images")
    for name in columns:
        if name not in frame.columns:
            raise ValueError(f"{source}: column '{name}' is missing; expected {', '.join(columns)}.")
    for name in frame.columns:
        if name not in columns:
            raise ValueError(f"{source}: unknown column '{name}'; expected {', '.join(columns)}.")
    frame = pd.DataFrame({name: _typed(frame[name], name, source) for name in columns})
    if images is not None:
        frame["images"] = images
    order = [n for n in columns if _TYPES.get(n, "str") in ("str", "int64") or n in LEARNING_RATES]
    return frame.sort_values(order, kind="stable", ignore_index=True)


def _typed(column: pd.Series, name: str, source: str | Path) -> pd.Series:
    kind = _TYPES.get(name, "str")
    if kind == "str":
        column = column.fillna("").astype("str")
        allowed = _ALLOWED.get(name)
        for value in set(column.unique()) - allowed if allowed else ():
            raise ValueError(f"{source}: column '{name}' holds '{value}'; expected {sorted(_ALLOWED[name])}.")
        return column
    if kind == "bool" and column.dtype != bool:
        column = column.map({"True": True, "False": False, True: True, False: False})
    try:
        if kind != "bool":
            column = pd.to_numeric(column.replace("", np.nan))
            if kind == "int64" and (column % 1 != 0).any():
                raise ValueError("found an empty or broken number")
        return column.astype(kind)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source}: column '{name}' must hold {kind} in every row: {error}.") from None


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Writes `frame`; equal numbers give equal bytes (floats as their shortest exact decimal)."""
    frame.to_csv(path, index=False, lineterminator="\n", encoding="utf-8")


def write_run(
    folder: str | Path,
    *,
    config: dict,
    metrics: pd.DataFrame,
    history: pd.DataFrame,
    predictions: pd.DataFrame,
    variants: pd.DataFrame,
    tuning: pd.DataFrame | None = None,
) -> None:
    """Writes the files of one run into `folder`, leaving other files there alone.

    All files are complete before the first takes its name; metrics.csv, the sign of a finished run, is last.
    """
    folder = Path(folder)
    frames = {"metrics": metrics, "history": history, "predictions": predictions, "variants": variants}
    if tuning is not None:
        frames["tuning"] = tuning
    frames = {kind: tidy(frame, kind, folder / f"{kind}.csv") for kind, frame in frames.items()}
    metrics = frames["metrics"]
    frames["metrics"] = metrics.drop(columns="images", errors="ignore")
    text = json.dumps(config, indent=2, sort_keys=True, default=str, ensure_ascii=False) + "\n"
    with contextlib.ExitStack() as stack:  # closes last in, first out
        for kind, frame in frames.items():
            write_csv(frame, stack.enter_context(atomic(folder / f"{kind}.csv")))
        stack.enter_context(atomic(folder / "config.json")).write_text(text, encoding="utf-8")
        if "images" in metrics:
            _write_outcomes(metrics, stack.enter_context(atomic(folder / OUTCOMES)))
    if tuning is None:
        (folder / "tuning.csv").unlink(missing_ok=True)


_OUTCOME_KEYS = ["variant", "settings", "epoch_kind"]


def _write_outcomes(metrics: pd.DataFrame, path: Path) -> None:
    """The column `images` of the test rows: per variant, settings and kind of epoch an array (R, 2, N) float32.

    R trainings in the order of their seeds; whether each of the N images was right, and its loss.
    """
    test = metrics[metrics["subset"] == "test"].sort_values(["seed", "split"], kind="stable")
    parts = {"/".join(key): np.stack(list(part["images"])) for key, part in test.groupby(_OUTCOME_KEYS)}
    safetensors.numpy.save_file(parts, path)


def read_metrics(folder: Path) -> pd.DataFrame:
    """The metrics of a run, with the column `images` where the run kept what became of every test image."""
    metrics = read_table(folder / "metrics.csv", "metrics")
    metrics["images"] = None
    if not (folder / OUTCOMES).is_file():
        return metrics
    outcomes = safetensors.numpy.load_file(folder / OUTCOMES)
    test = metrics[metrics["subset"] == "test"].sort_values(["seed", "split"], kind="stable")
    cells = pd.Series(index=metrics.index, dtype=object)
    for key, part in test.groupby(_OUTCOME_KEYS):
        cells[part.index] = list(outcomes["/".join(key)])
    metrics["images"] = cells.where(cells.notna(), None)
    return metrics


def read_table(path: Path, kind: str) -> pd.DataFrame:
    """One file of a run as a tidy table; class names such as 'None' or '5' stay text."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; delete the folder {path.parent} and run that training again.")
    return tidy(pd.read_csv(path, dtype=str, keep_default_na=False), kind, path)


def read_runs(study_dir: str | Path) -> dict[str, pd.DataFrame]:
    """One table per kind (metrics, history, predictions, variants, tuning) over all finished runs of a study.

    Metrics have one more column, `images`, as `scores.score_metrics` gives it.

    Raises FileNotFoundError where no run has finished, ValueError where a file is not as COLUMNS says or two
    runs hold the same seed of the same variant under the same dataset, backbone, settings and protocol.
    """
    folders = sorted(path.parent for path in Path(study_dir).glob("runs/*/[!.]*/metrics.csv"))
    if not folders:
        raise FileNotFoundError(
            f"No finished run in {Path(study_dir) / 'runs'}: run notebooks/02_train_variant.ipynb first."
        )
    tables = {}
    for kind, columns in COLUMNS.items():
        files = [folder / f"{kind}.csv" for folder in folders]
        if kind == "tuning":
            files = [path for path in files if path.exists()]
        frames = [read_metrics(path.parent) if kind == "metrics" else read_table(path, kind) for path in files]
        frames = [frame for frame in frames if len(frame)] or [tidy(pd.DataFrame(columns=columns), kind)]
        tables[kind] = pd.concat(frames, ignore_index=True)
    _refuse_repeats(tables["metrics"])
    return tables


def _refuse_repeats(metrics: pd.DataFrame) -> None:
    repeated = metrics[metrics.duplicated([*_REPEATED, "subset", "epoch_kind"], keep=False)]
    if repeated.empty:
        return
    first = repeated.iloc[0]
    same = repeated[(repeated[_REPEATED] == first[_REPEATED]).all(axis=1)]
    raise ValueError(
        f"Runs {' and '.join(sorted(set(same['run'])))} both hold variant {first['variant']}, "
        f"seed {first['seed']}, split {first['split']} of {' / '.join(first[GROUP])}: "
        "give one of them a settings name of its own."
    )


def no_runs() -> dict[str, pd.DataFrame]:
    """The tables of a study in which nothing has run yet: right columns, no rows."""
    return {kind: tidy(pd.DataFrame(columns=columns), kind) for kind, columns in COLUMNS.items()}


def title(key: Iterable[str]) -> str:
    """One group in words."""
    dataset, backbone, settings, protocol = key
    where = dataset if backbone == NO_BACKBONE else f"{dataset}, {backbone}"
    return f"{where} ({settings} settings, {protocol.replace('_', ' ')})"


def groups(frame: pd.DataFrame) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    """The parts of a tidy table that may be compared with each other: (values of GROUP, rows), sorted."""
    return [(tuple(key), part) for key, part in frame.groupby(GROUP, sort=True)]


def in_order(variants: Iterable[str]) -> list[str]:
    """The distinct `variants` in the one order used everywhere; unknown ones (a user's own) follow, sorted."""
    present = set(variants)
    return [v for v in VARIANT_ORDER if v in present] + sorted(present - set(VARIANT_ORDER))
