"""Does a new run agree with the committed reference tables?

Tolerances, by column:
- counts, sizes and text: equal. A new machine must run the same study.
- mean accuracies: within 0.03, or 3 standard errors of the reference (sd / sqrt(n)) where that is more: other
  processors and library versions round differently, and training amplifies it.
- differences, effects (`value`) and other averages (`mean`): within 0.03, or inside the reference's own interval.
- loss: within 0.1, or a fifth of the reference; ece and sd: within 0.03.
- collapsed seeds: within 2, or a tenth of n.
- tables of the gradient, simulator, troubleshooting and published-results notebooks, and those of the geometry of one
  trained model: not compared, they check themselves while they run, or follow one seed.
- intervals' ends, p values, the words that follow from them, which learning rates won, times, memory and
  collapsed.csv and headline.csv (they repeat accuracy.csv): not compared.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from qtl_utils.runs import GROUP, LEARNING_RATES

IGNORED = {"low", "high", "wilson_low", "wilson_high", "p", "p_holm", "p_equivalent", "verdict", "sentence"}
IGNORED |= {"chosen", "best_sd"}
IGNORED_TABLES = {"collapsed", "headline"}
SELF_CHECKED = (
    "gradient_",
    "simulator_",
    "doctor_",
    "published",
    "attribution_fisher",
    "attribution_fourier",
    "attribution_circuit",
)
KEYS = [*GROUP, "variant", "a", "b", "effect", "metric", *LEARNING_RATES]
ACCURACIES = {"accuracy", "best_accuracy", "balanced_accuracy", "validation_accuracy"}
LOSSES = {"loss", "validation_loss"}
ABSOLUTE = 0.03


@dataclass(frozen=True)
class Verdict:
    """`cells` were compared; `differences` lists those out of tolerance: table, row, column, got, expected."""

    cells: int
    differences: pd.DataFrame

    @property
    def ok(self) -> bool:
        """Whether every cell agreed."""
        return self.differences.empty

    def __str__(self) -> str:
        if self.ok:
            return f"All {self.cells} compared cells agree with the reference within tolerance."
        head = f"{len(self.differences)} of {self.cells} compared cells differ from the reference:"
        return head + "\n" + self.differences.to_string(index=False)


def verify(new_study_dir: str | Path, reference_dir: str | Path) -> Verdict:
    """Compares new_study_dir/tables with reference_dir/tables; only what the reference holds is asked for."""
    references = sorted((Path(reference_dir) / "tables").glob("*.csv"))
    references = [p for p in references if p.stem not in IGNORED_TABLES and not p.stem.startswith(SELF_CHECKED)]
    if not references:
        raise FileNotFoundError(f"No reference tables in {Path(reference_dir) / 'tables'}: expected *.csv.")
    new_tables = Path(new_study_dir) / "tables"
    if not new_tables.is_dir():
        raise FileNotFoundError(f"No tables in {new_tables}: run that study first.")
    cells, wrong = 0, []
    for path in references:
        if not (new_tables / path.name).exists():
            wrong.append((path.stem, "all", "all", "no such table", "a table"))
            cells += 1
            continue
        compared, found = compare(_read(new_tables / path.name), _read(path))
        cells += compared
        wrong += [(path.stem, *cell) for cell in found]
    return Verdict(cells, pd.DataFrame(wrong, columns=["table", "row", "column", "got", "expected"]))


def compare(new: pd.DataFrame, reference: pd.DataFrame) -> tuple[int, list[tuple[str, str, str, str]]]:
    """How many cells of `reference` were compared and which are out of tolerance: row, column, got, expected."""
    cells, wrong = 0, []
    for label, row in reference.iterrows():
        if label not in new.index:
            cells, wrong = cells + 1, [*wrong, (label, "all", "no such row", "a row")]
            continue
        for column, expected in row.items():
            if column in IGNORED or column.endswith(("_seconds", "_bytes")):
                continue
            got = new.at[label, column] if column in new else "no such column"
            cells += 1
            if not _agree(got, expected, tolerance(column, row)):
                wrong.append((label, column, got, expected))
    return cells, wrong


def tolerance(column: str, row: pd.Series) -> float:
    """How far a number in `column` may lie from the reference `row`; 0 means equal."""
    errors = 3 * _number(row.get("sd", "")) / np.sqrt(_number(row.get("n", "")))
    if column in ACCURACIES:
        return np.nanmax([ABSOLUTE, errors])
    if column in ("ece", "sd"):
        return ABSOLUTE
    if column == "collapsed":
        return max(2, 0.1 * _number(row["n"]))
    if column in LOSSES or (column == "value" and row.get("metric") == "loss"):
        return max(0.1, 0.2 * abs(_number(row[column])))
    if column in ("value", "mean"):
        low, high, value = (_number(row[name]) for name in ("low", "high", column))
        return np.nanmax([ABSOLUTE, value - low, high - value])
    return 0.0


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _agree(got: str, expected: str, allowed: float) -> bool:
    return got == expected or abs(_number(got) - _number(expected)) <= allowed  # False where either is no number


def _read(path: Path) -> pd.DataFrame:
    """A table as text, its rows labelled by their key columns (with a running number where those repeat)."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    names = [name for name in KEYS if name in frame]
    labels = frame[names].agg(" / ".join, axis=1) if names else pd.Series("", index=frame.index)
    repeats = labels.groupby(labels).cumcount()
    frame.index = labels + repeats.map(lambda i: f" ({i + 1})" if i else "")
    return frame.drop(columns=names) if "metric" not in names else frame.drop(columns=set(names) - {"metric"})
