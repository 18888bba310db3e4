"""Does another run of a study say the same? Conclusions first, then numbers.

- Conclusions: how every test of a family fixed beforehand ended (higher, lower, equivalent, not distinguishable), and
  which claims of the notebooks were confirmed. They must be the same.
- Numbers: a mean or a difference may move within the 95 % interval that the reference gives it. Those outside are
  counted and listed; one in twenty may be outside by chance where what was computed is random.
- Frozen heads on features that are the same everywhere: their mean accuracies agree to ROUNDING.
- Not compared: p values, times, memory, and what simulators and the doctor measure on one machine.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from qtl_utils.results.stats import CELLS
from qtl_utils.study.sections import NOTEBOOKS

DECIDED = ("higher", "lower", "equivalent", "not distinguishable")
OPPOSED = {frozenset(("higher", "lower"))}  # verdicts that contradict each other, whatever the power
KEYS = ["dataset", "backbone", "settings", "protocol", "variant", "a", "b", "metric", "effect", "schedule", "kind"]
KEYS += ["scaling", "task", "arm", "measure", "stage", "fraction", "level", "factor", "size", "varied", "shots"]
KEYS += ["ansatz", "init", "cost", "depth", "group", "step", "model", "setting"]
MEANS = ("value", "mean", "accuracy", "rate", "change")  # what an interval low..high belongs to
OF_ONE_MACHINE = tuple({row.tables for row in NOTEBOOKS if row.tables})
ROUNDING = 1e-3  # of mean accuracies
NETWORKS = tuple(variant for cell, variant in CELLS.items() if cell.startswith("full"))
SHOWN = 20  # numbers outside their interval that are printed


@dataclass(frozen=True)
class Verdict:
    """What a run and its reference agree on.

    `conclusions`: a row each with columns here, reference (the verdicts), their intervals, and same.
    `numbers` were compared; `outside` lists those outside the reference's interval: number, here, low, high.
    `frozen` mean accuracies of heads on features that do not depend on the machine were compared, and differ by
    `largest` at most.
    """

    conclusions: pd.DataFrame
    numbers: int
    outside: pd.DataFrame
    frozen: int
    largest: float

    @property
    def ok(self) -> bool:
        """Whether every conclusion of the reference was drawn here too."""
        return bool(self.conclusions["same"].all())

    @property
    def opposed(self) -> pd.DataFrame:
        """The conclusions that contradict each other: higher here, lower there."""
        pairs = zip(self.conclusions["here"], self.conclusions["reference"], strict=True)
        return self.conclusions[[frozenset(pair) in OPPOSED for pair in pairs]]

    def __str__(self) -> str:
        differ = self.conclusions[~self.conclusions["same"]]
        n = len(self.conclusions)
        lines = [f"{n - len(differ)} of {n} conclusions are the same as in the reference."]
        for name, row in differ.iterrows():
            here, there = (f"{row[k]}{row[f'{k}_interval']}" for k in ("here", "reference"))
            lines.append(f"  differs: {name}\n    here: {here}\n    reference: {there}")
        if self.frozen:
            end = "" if self.largest <= ROUNDING else ": more than rounding explains"
            lines.append(
                f"Mean accuracies of {self.frozen} frozen heads differ by {self.largest:.1g} at most "
                f"(rounding allows {ROUNDING:g}){end}."
            )
        lines.append(f"{len(self.outside)} of {self.numbers} numbers lie outside the reference's own interval.")
        for name, row in self.outside.head(SHOWN).iterrows():
            lines.append(f"  outside: {name}: {row['here']} instead of {row['low']} to {row['high']}")
        if len(self.outside) > SHOWN:
            lines.append(f"  and {len(self.outside) - SHOWN} more")
        return "\n".join(lines)


def verify(new_study_dir: str | Path, reference_dir: str | Path) -> Verdict:
    """Compares the tables of one study's folder with those of another; only what the reference holds is asked for.

    Raises FileNotFoundError where either folder has no tables.
    """
    new = _tables(new_study_dir)
    reference = _tables(reference_dir)
    if not reference:
        raise FileNotFoundError(f"No reference tables in {Path(reference_dir) / 'tables'}: expected *.csv.")
    if not new:
        raise FileNotFoundError(f"No tables in {Path(new_study_dir) / 'tables'}: run that study first.")
    numbers, outside = compare_numbers(new, reference)
    frozen = frozen_differences(new, reference, trained_backbones(new_study_dir))
    largest = float(frozen.max()) if len(frozen) else 0.0
    return Verdict(compare_conclusions(new, reference), numbers, outside, len(frozen), largest)


def _tables(folder: str | Path) -> dict[str, pd.DataFrame]:
    """Every table of a study's folder as text, by name."""
    files = sorted((Path(folder) / "tables").glob("[!.]*.csv"))
    return {path.stem: pd.read_csv(path, dtype=str, keep_default_na=False) for path in files}


# ---- conclusions


def compare_conclusions(new: dict[str, pd.DataFrame], reference: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per conclusion of `reference`: the verdicts here and there, with their intervals, and whether the same."""
    here = _conclusions(new)
    there = _conclusions(reference)
    there = there[there["verdict"].isin([*DECIDED, "confirmed", "not confirmed"])]
    here = here.reindex(there.index).fillna({"verdict": "not there", "interval": ""})
    frame = pd.DataFrame({"here": here["verdict"], "reference": there["verdict"]})
    frame["here_interval"] = here["interval"]
    frame["reference_interval"] = there["interval"]
    return frame.assign(same=frame["here"] == frame["reference"])


def _conclusions(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Verdict and interval (as text) of every test of a family and of every claim, by what is concluded on."""
    rows = {}
    for name, table in tables.items():
        if {"verdict", "family"} <= set(table):
            family = table[table["family"] == "True"]
            labels = _labels(name, family)
            intervals = [f" [{low}, {high}]" for low, high in zip(family["low"], family["high"], strict=True)]
            rows |= dict(zip(labels, zip(family["verdict"], intervals, strict=True), strict=True))
    for _, claim in tables["claims"].iterrows() if "claims" in tables else ():
        verdict = "confirmed" if claim["confirmed"] == "True" else "not confirmed"
        rows[f"{claim['notebook']}: {claim['claim']}"] = verdict, f" ({claim['found']})"
    return pd.DataFrame.from_dict(rows, orient="index", columns=["verdict", "interval"])


def _labels(name: str, table: pd.DataFrame) -> list[str]:
    """One label per row, made of the table's name and its key columns; the same key again gets a number."""
    keys = table[[column for column in KEYS if column in table]]
    joined = keys.agg(" / ".join, axis=1) if len(keys.columns) and len(keys) else pd.Series("", index=keys.index)
    repeats = joined.groupby(joined).cumcount()
    return [f"{name}: {text}{f' ({i + 1})' if i else ''}" for text, i in zip(joined, repeats, strict=True)]


# ---- numbers


def compare_numbers(new: dict[str, pd.DataFrame], reference: dict[str, pd.DataFrame]) -> tuple[int, pd.DataFrame]:
    """How many means and differences of `reference` have an interval, and those that lie outside it in `new`."""
    count = 0
    outside = {}
    for name, table in reference.items():
        measured = [column for column in MEANS if column in table]
        if not {"low", "high"} <= set(table) or not measured or name.startswith(OF_ONE_MACHINE):
            continue
        there = _means(name, table, measured[0])
        here = _means(name, new.get(name), measured[0])
        for label, row in there.dropna().iterrows():
            count += 1
            value = here["value"].get(label, np.nan)
            if not row["low"] <= value <= row["high"]:
                outside[label] = {"here": value, "low": row["low"], "high": row["high"]}
    return count, pd.DataFrame.from_dict(outside, orient="index", columns=["here", "low", "high"])


def _means(name: str, table: pd.DataFrame | None, column: str) -> pd.DataFrame:
    """Value, low and high of every row of a table, by its label; no rows where there is no such table."""
    if table is None or not {column, "low", "high"} <= set(table):
        return pd.DataFrame(columns=["value", "low", "high"])
    numbers = table[[column, "low", "high"]].apply(pd.to_numeric, errors="coerce")
    numbers.columns = ["value", "low", "high"]
    numbers.index = _labels(name, table)
    return numbers


def trained_backbones(study_dir: str | Path) -> list[str]:
    """The backbones that a study trains itself, so that their features differ between machines."""
    file = Path(study_dir) / "study.json"
    study = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return [name for name, backbone in study.get("backbones", {}).items() if backbone["init"] == "source"]


def frozen_differences(
    new: dict[str, pd.DataFrame], reference: dict[str, pd.DataFrame], trained: list[str]
) -> pd.Series:
    """Absolute differences of the mean accuracies of all heads on frozen features that no study trained."""
    keys = ["dataset", "backbone", "settings", "protocol", "variant"]
    if "accuracy" not in reference or "accuracy" not in new:
        return pd.Series(dtype=float)
    means = [
        pd.to_numeric(tables["accuracy"].set_index(keys)["accuracy"], errors="coerce") for tables in (new, reference)
    ]
    here, there = means
    there = there.drop(index=list(NETWORKS), level="variant", errors="ignore")
    there = there.drop(index=trained, level="backbone", errors="ignore").dropna()
    return (here.reindex(there.index) - there).abs().fillna(np.inf)
