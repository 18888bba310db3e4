"""Who is right: the images that variants disagree on, and those that all get wrong, from their predictions."""

import base64
import contextlib
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from qtl_utils.results.runs import COLUMNS, GROUP, groups, in_order, read_table, title
from qtl_utils.study.names import NO_BACKBONE

MOST = 9  # images shown of a kind
Thumbnails = Callable[[str, Sequence[str]], Mapping[str, bytes]]  # data set of the study, ids -> PNG by id


def read_predictions(folder: Path) -> pd.DataFrame:
    """The predictions of every finished run of a study on its test images, after the last epoch."""
    found = read_every(folder, "predictions")
    return found[(found["subset"] == "test") & (found["epoch_kind"] == "last") & (found["backbone"] != NO_BACKBONE)]


def read_every(folder: Path, kind: str) -> pd.DataFrame:
    """The tables of one kind of all finished runs of a study in one.

    A file that is not as it should be is left out: the notebook that compares the runs says what is wrong with it.
    """
    frames = [pd.DataFrame(columns=COLUMNS[kind])]
    for path in sorted(folder.glob(f"runs/*/[!.]*/{kind}.csv")):
        if (path.parent / "metrics.csv").is_file():
            with contextlib.suppress(ValueError):
                frames.append(read_table(path, kind))
    full = [frame for frame in frames if len(frame)]
    return pd.concat(full, ignore_index=True) if full else frames[0]


def shares(predictions: pd.DataFrame) -> pd.DataFrame:
    """How often each variant was right about each image: GROUP, id, label, a column a variant, shares of trainings.

    NaN where a variant was not tested on the image.
    """
    keys = [*GROUP, "id", "label", "variant"]
    n = predictions.groupby(keys)["n"].sum()
    right = predictions[predictions["prediction"] == predictions["label"]].groupby(keys)["n"].sum()
    table = (right.reindex(n.index, fill_value=0) / n).unstack("variant")
    return table[in_order(table.columns)].reset_index().rename_axis(columns=None)


def page(table: pd.DataFrame, thumbnails: Thumbnails, up: str = "") -> str:
    """The page as Markdown: for every group counts, and the images that tell most; `table` as `shares` gives it.

    up: the way from the page to the report's first one.
    """
    parts = [
        "# Who is right?",
        _INTRODUCTION,
        f'<a href="{up}tables/who_is_right.csv.gz" download>All images about which some variant is wrong (CSV.GZ)</a>',
    ]
    for key, part in groups(table):
        part = part.drop(columns=GROUP).dropna(axis="columns", how="all").set_index(["id", "label"])
        if part.shape[1] > 1:
            parts += [f"## {title(key)}", counts(part), *_gallery(part, key[0], thumbnails)]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """Each variant was trained many times. A variant is *right* about an image here if more than half of
the trainings that tested it were; percentages are shares of these trainings. Images are shown where variants disagree
most, and where all are wrong: worth a look at the image, and at its label."""


def telling(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `table` about which some variant is wrong more often than not."""
    variants = [name for name in table if name not in (*GROUP, "id", "label")]
    return table[table[variants].min(axis=1) <= 0.5] if variants else table


def counts(part: pd.DataFrame) -> str:
    """On how many images all variants of a group are right, none is, and they disagree."""
    right = part.gt(0.5).where(part.notna())
    every, none = (right.eq(value).where(right.notna(), True).all(axis=1).sum() for value in (True, False))
    told = (
        f"Of {len(part)} tested images all {part.shape[1]} variants are right about {every}, all wrong about {none}, "
    )
    told += f"and disagree on {len(part) - every - none}."
    if {"A", "C"} <= set(part.columns):
        both = right.dropna(subset=["A", "C"])
        only_a, only_c = (both["A"].eq(a) & both["C"].eq(not a) for a in (True, False))
        told += f" A alone of A and C is right about {only_a.sum()}, C alone about {only_c.sum()}."
    return told


def disagreed(part: pd.DataFrame, n: int = MOST) -> pd.DataFrame:
    """The `n` images on which variants differ most in how often they are right; at least one is, and one is not."""
    found = part[(part.max(axis=1) > 0.5) & (part.min(axis=1) <= 0.5)]
    order = (found.min(axis=1) - found.max(axis=1)).sort_values(kind="stable").index
    return found.loc[order].head(n)


def missed(part: pd.DataFrame, n: int = MOST) -> pd.DataFrame:
    """The `n` images that variants get wrong most surely, all of them wrong more often than not."""
    found = part[part.max(axis=1) <= 0.5]
    return found.loc[found.mean(axis=1).sort_values(kind="stable").index].head(n)


def _gallery(part: pd.DataFrame, dataset: str, thumbnails: Thumbnails) -> list[str]:
    """HTML that folds out, a line each: the images that variants disagree on, and those that all get wrong."""
    lines = []
    for told, rows in (("Variants disagree", disagreed(part)), ("All are wrong", missed(part))):
        if len(rows):
            pictures = thumbnails(dataset, [name for name, _ in rows.index])
            cards = "".join(_card(row, pictures.get(row.name[0])) for _, row in rows.iterrows())
            summary = f"<summary>{told}: {len(rows)} images</summary>"
            lines.append(f'<details>{summary}<ul class="images">{cards}</ul></details>')
    return lines


def _card(row: pd.Series, picture: bytes | None) -> str:
    name, truth = (html.escape(str(text), quote=True) for text in row.name)
    image = ""
    if picture:
        data = base64.b64encode(picture).decode()
        image = f'<img src="data:image/png;base64,{data}" alt="{name}, of class {truth}">'
    shown = row.dropna()
    lines = []
    for word, of in (("right", shown[shown > 0.5]), ("wrong", shown[shown <= 0.5])):
        if len(of):
            lines.append(
                f"<br>{word}: " + ", ".join(f"{html.escape(v)} {100 * share:.0f} %" for v, share in of.items())
            )
    return f"<li>{image}<span><b>{truth}</b> <code>{name}</code>{''.join(lines)}</span></li>"
