"""Tables of the report: those of a study, those that only its figures hold, and the one on its first page."""

import csv
import shutil
from pathlib import Path

import pandas as pd

from qtl_utils.results import who_is_right
from qtl_utils.results.runs import GROUP

PACKED = ("who_is_right",)  # a row an image: large, and seldom opened


def copy_tables(folder: Path, target: Path) -> pd.DataFrame:
    """Copies the CSV files of a study's `folder` into `target` and adds those that figures are drawn from.

    Returns how often each variant was right about each image, as `who_is_right.shares` does.
    """
    target.mkdir(parents=True)
    for path in sorted((folder / "tables").glob("[!.]*.csv")):
        shutil.copy2(path, target / path.name)
    predictions = who_is_right.read_predictions(folder)
    right = who_is_right.shares(predictions)
    for name, table in (
        ("learning_curves", learning_curves(folder)),
        ("confusion", confusion(predictions)),
        ("who_is_right", who_is_right.telling(right)),
    ):
        if len(table):
            written = {"index": False, "float_format": "%.3g", "lineterminator": "\n"}
            packed = {"method": "gzip", "mtime": 1} if name in PACKED else None  # the same bytes whenever it is packed
            table.to_csv(target / f"{name}.csv{'.gz' if packed else ''}", compression=packed, **written)
    return right


def learning_curves(folder: Path) -> pd.DataFrame:
    """Loss and accuracy per epoch, subset and variant of a study: median, 10th and 90th of 100 trainings."""
    history = who_is_right.read_every(folder, "history")
    if history.empty:
        return history
    found = history.groupby([*GROUP, "variant", "subset", "epoch"])[["loss", "accuracy"]].quantile([0.1, 0.5, 0.9])
    table = found.unstack()
    names = {0.1: "low", 0.5: "median", 0.9: "high"}
    return table.set_axis([f"{measure}_{names[q]}" for measure, q in table.columns], axis=1).reset_index()


def confusion(predictions: pd.DataFrame) -> pd.DataFrame:
    """How often images of each class were taken for which, per variant, all trainings together."""
    return predictions.groupby([*GROUP, "variant", "label", "prediction"], as_index=False)["n"].sum()


def read_table_for_page(table: Path) -> tuple[dict[str, str], list[list[str]]]:
    """A CSV file for Markdown: what is the same in all its rows, and header and rows of what is not."""
    with table.open(newline="", encoding="utf-8") as lines:
        header, *rows = [[cell(text) for text in row] for row in csv.reader(lines)]
    columns = [*zip(*rows, strict=True)]
    varied = [i for i, column in enumerate(columns) if len(rows) < 2 or len(set(column)) > 1]
    shared = {name: rows[0][i] for i, name in enumerate(header) if i not in varied and rows}
    return shared, [[row[i] for i in varied] for row in (header, *rows)]


def cell(text: str) -> str:
    """A value for a Markdown table: numbers to three digits, nothing that would end the cell."""
    try:
        return text if text.lstrip("-").isdigit() else f"{float(text):.3g}"
    except ValueError:
        return text.replace("|", "\\|").replace("\n", " ")


def markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown, its index left out."""
    rows = [[str(name) for name in frame.columns], *frame.astype(str).to_numpy().tolist()]
    lines = [f"| {' | '.join(cell(text) for text in row)} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(frame.columns), *lines[1:]])
