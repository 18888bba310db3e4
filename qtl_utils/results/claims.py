"""What a notebook expects of its data, and what came out: rows that the report shows and that no run stops on.

A claim is about data or about a machine: it may be refuted elsewhere, and then that is a result. What must hold for
any data is a test of the code and belongs into tests/.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from qtl_utils.results.runs import write_csv
from qtl_utils.study.paths import atomic

COLUMNS = ["notebook", "claim", "found", "confirmed"]


class Claims:
    """The claims of one notebook, in the order in which they are made; shown as a table."""

    def __init__(self, notebook: str):
        """notebook: its name and whatever tells its executions apart, as in "02_train_variant-digits-heads"."""
        self.notebook = notebook
        self.rows = []

    def expect(self, claim: str, confirmed: bool, found: str) -> None:
        """Records `claim`, what was `found` in words, and whether that confirms it; ValueError for a second `claim`."""
        if claim in {row["claim"] for row in self.rows}:
            raise ValueError(f"{self.notebook}: the claim '{claim}' is made twice; give each its own words")
        row = {"notebook": self.notebook, "claim": claim, "found": str(found), "confirmed": bool(confirmed)}
        self.rows.append(row)

    def frame(self) -> pd.DataFrame:
        """A row per claim: notebook, claim, found, confirmed."""
        return pd.DataFrame(self.rows, columns=COLUMNS)

    def save(self, folder: Path) -> pd.DataFrame:
        """Writes the claims into the study's `folder`, and returns them for the notebook to show."""
        with atomic(Path(folder) / "claims" / f"{self.notebook}.csv") as part:
            write_csv(self.frame(), part)
        return self.shown()

    def shown(self) -> pd.DataFrame:
        """The claims as a notebook shows them."""
        return self.frame().drop(columns="notebook").replace({"confirmed": {True: "yes", False: "no"}})


def read_claims(folder: Path, notebooks: Sequence[str]) -> pd.DataFrame:
    """The claims of those `notebooks` that left some in a study's `folder`, a row each in the order of `notebooks`."""
    files = [Path(folder) / "claims" / f"{name}.csv" for name in notebooks]
    frames = [pd.read_csv(path, keep_default_na=False) for path in files if path.is_file()]
    frames = [frame for frame in frames if len(frame)] or [pd.DataFrame(columns=COLUMNS)]
    return pd.concat(frames, ignore_index=True).astype({"confirmed": bool})
