"""A notebook's beginning and end in one object: where its results go, and what it leaves there."""

import inspect
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from matplotlib.figure import Figure
from pydantic import BaseModel

from qtl_utils.results import plots, tables
from qtl_utils.results.claims import Claims
from qtl_utils.study import extensions
from qtl_utils.study.environment import set_threads
from qtl_utils.study.errors import checked
from qtl_utils.study.paths import study_dir, write_json

Settings = TypeVar("Settings", bound=BaseModel)


class Page:
    """One execution of a notebook: sets the threads, collects tables, figures, claims and answers, writes them at once.

        page = Page("03_gradient_diagnostics", study, results_dir, threads)
        page.tables["gradient_methods"] = frame
        page.claims.expect("what should be", holds, "what is")
        page.save()

    `notebook` is the notebook's name and whatever tells its executions apart, as in "02_train_variant-digits-heads".
    """

    def __init__(self, notebook: str, study: str = "interactive", results_dir: str = "", threads: int = 1):
        set_threads(threads)
        extensions.load_named()
        self.folder = study_dir(study, results_dir)
        self.claims = Claims(notebook)
        self.tables: dict[str, pd.DataFrame] = {}  # name of the file -> table
        self.figures: dict[str, Figure | None] = {}  # name of the file -> figure; None is not written
        self.answers: dict[str, dict[str, Any]] = {}  # name of the file -> what the report's first page quotes

    def data(self, dataset: str) -> Path:
        """The folder of a data set of this study: splits, features, weights."""
        return self.folder / "data" / dataset

    def settings(self, model: type[Settings], **given: Any) -> Settings:
        """`model` with the notebook's variables of the names of its fields, and with `given` in their place.

        Validated as in a study file; StudyError says in one sentence which variable is wrong.
        """
        variables = inspect.currentframe().f_back.f_globals
        chosen = {name: variables[name] for name in model.model_fields if name in variables}
        return checked(model, chosen | given)

    def save(self) -> pd.DataFrame:
        """Writes everything that was collected, and returns the claims for the notebook to show."""
        tables.save(self.tables, self.folder / "tables")
        for name, figure in self.figures.items():
            plots.save(figure, self.folder / "figures", name)
        for name, answer in self.answers.items():
            write_json(self.folder / "tables" / f"{name}.json", answer)
        return self.claims.save(self.folder) if self.claims.rows else self.claims.shown()
