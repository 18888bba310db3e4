"""The repair ladder in one table: what A was, what it became, and what its control became."""

import pandas as pd

PUBLISHED = "as published"


def summary(levels: pd.DataFrame, final: pd.DataFrame) -> pd.DataFrame:
    """A row per task: accuracies of A and C (of 100), and on the sealed samples two differences in points.

    levels, final: tables `repair_levels` and `repair_final` of a study.
    """
    rows = []
    for task, part in levels.groupby("task", sort=False):
        # heads only: joint training is another model
        heads = part[part["rung"] != "joint training"]
        last = heads["rung"].iloc[-1]
        of = heads.set_index(["variant", "rung"])["accuracy"]
        opened = final[final["task"] == task].set_index("b")
        row = {"task": task, "A as published": _share(of["A", PUBLISHED]), "A repaired": _share(of["A", last])}
        row["C, same mends"] = _share(of["C", last])
        row["sealed: A repaired - as published"] = _points(opened.loc[f"A, {PUBLISHED}"])
        row["sealed: A repaired - C, same mends"] = _points(opened.loc[f"C, {last}"])
        rows.append(row)
    return pd.DataFrame(rows)


def _share(value: float) -> str:
    return f"{100 * value:.1f}"


def _points(row: pd.Series) -> str:
    return f"{100 * row['value']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
