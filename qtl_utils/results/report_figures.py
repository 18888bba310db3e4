"""Figures of the report: what to see in each, its numbers in words and as a table, and a larger view."""

import html
import importlib
import inspect
import io
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd
from PIL import Image

FUNCTION = re.compile(r"\b(\w*plots)\.(\w+)\(")  # who draws the figure of a cell
NAME = re.compile(r"""figures(?:\.get\(|\[)["'](\w+)["']""")  # page.figures["family"]
TABLE = re.compile(r"""tables\[["'](\w+)["']\]""")
TABLES = {  # figures whose numbers lie in a table of another name; the report itself makes learning_curves, confusion
    "plots.factorial": "factorial",
    "plots.family": "comparisons",
    "plots.differences": "comparisons",
    "plots.against_parameters": "accuracy",
    "plots.against_seconds": "accuracy",
    "plots.learning_curves": "learning_curves",
    "plots.confusion": "confusion",
    "diagnostic_plots.confusion": "doctor_confusion",
    "published_plots.plane": "published",
    "published_plots.curves": "published_scores",
    "published_plots.lead": "published_scores",
    "ladder_plots.climb": "repair_levels",
}
VALUES = ["value", "accuracy", "mean", "coverage", "power", "variance", "gradient", "relative", "error_angles"]
VALUES += [
    "accuracy_median",
    "snr",
    "gradient_kept",
    "ours",
    "seconds",
    "qubits",
    "rms",
    "training",
    "p",
    "outputs",
    "median",
    "n",
]
_UNSAID = {"low", "high", "nb_low", "nb_high", "sentence", "interval", "note", "study", "run"}  # no names of rows


@dataclass(frozen=True)
class Told:
    """What is said of a figure: below it, instead of it, and in which table of the report its numbers are; '': none."""

    caption: str
    alt: str
    table: str = ""


def of_cell(source: str, title: str, tables: Path) -> Told:
    """What to say of a figure that the code `source` shows: the first words of the function that draws it.

    title: for a figure of no function of ours. tables: the folder of CSV files.
    """
    drawn = FUNCTION.search(source)
    caption = (_about(*drawn.groups()) if drawn else "") or title
    table = _table(source, f"{drawn[1]}.{drawn[2]}" if drawn else "", tables)
    return Told(caption, f"{caption} {in_words(tables / table)}".strip() if table else caption, table)


def _about(module: str, function: str) -> str:
    """The first paragraph of a plot function's docstring, as plain text; '' where it is none of ours."""
    try:
        found = getattr(importlib.import_module(f"qtl_utils.results.{module}"), function)
    except (ImportError, AttributeError):
        return ""
    return " ".join((inspect.getdoc(found) or "").split("\n\n")[0].split()).replace("`", "")


def _table(source: str, function: str, tables: Path) -> str:
    """The CSV file with a figure's numbers; '' where there is none."""
    names = [*NAME.findall(source)[-1:], TABLES.get(function, ""), *TABLE.findall(source)]
    names = [name for name in names if name and (tables / f"{name}.csv").is_file()]
    return f"{names[0]}.csv" if names else ""


@lru_cache(maxsize=128)
def in_words(table: Path) -> str:
    """The most telling column of a table in a sentence: from which value, of what, to which."""
    if not table.is_file() or (frame := pd.read_csv(table)).empty:
        return ""
    column = next((name for name in VALUES if name in frame and frame[name].dtype.kind in "fi"), None)
    if column is None or (rows := frame[frame[column].notna()]).empty:
        return f"{len(frame)} rows of {', '.join(frame.columns[:4])}."
    low, high = (rows.loc[rows[column].idxmin()], rows.loc[rows[column].idxmax()])
    ends = [f"{row[column]:.3g}{_who(row, rows)}" for row in (low, high)]
    return f"{column.replace('_', ' ')} from {ends[0]} to {ends[1]}; {len(rows)} values."


def _who(row: pd.Series, rows: pd.DataFrame) -> str:
    names = [c for c in rows if rows[c].dtype.kind not in "fiub" and c not in _UNSAID and rows[c].nunique() > 1][:3]
    said = [str(row[name]) for name in names if pd.notna(row[name])]
    return f" ({', '.join(said)})" if said else ""


def figure(image: str, told: Told, up: str = "") -> str:
    """HTML of a figure on one line: the picture, which opens large, its caption, and its numbers.

    image: its path from the report's first page; up: the way there from the page, such as "../".
    """
    alt, caption = (html.escape(text, quote=True) for text in (told.alt, told.caption))
    numbers = f' <a href="{up}tables/{told.table}" download>Its numbers (CSV)</a>' if told.table else ""
    return (
        f'<figure class="zoomable"><a href="{up}{image}"><img src="{up}{image}" alt="{alt}"></a>'
        f"<figcaption>{caption}{numbers}</figcaption></figure>"
    )


def save_small(png: bytes, path: Path) -> None:
    """Writes a figure with 48 colours: a third of the bytes, and nothing that is seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(png)) as image:
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image, mask=image.getchannel("A") if "A" in image.getbands() else None)
    flat.quantize(48, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)
