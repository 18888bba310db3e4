"""The steps of a study: which notebook runs with which parameters, what it builds on and what it surely writes.

Workflow, report, checks and tests all follow this list. A step's executed notebook always comes to be: where the
notebook failed, it holds what ran and says so in its metadata (see qtl_utils.study.notebook.failure_of).
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from qtl_utils.study.sections import Notebook
from qtl_utils.study.study import StudyConfig

RUN_FILES = ("config.json", "metrics.csv", "history.csv", "predictions.csv", "variants.csv", "outcomes.safetensors")


@dataclass(frozen=True)
class Step:
    """One execution of a notebook; paths are relative to the study's folder."""

    name: str  # of its executed copy below notebooks/, as in digits/02_train_variant-heads
    notebook: str  # of its source, as in 02_train_variant
    parameters: dict[str, Any]
    writes: tuple[str, ...]  # files that are there whenever it succeeded
    needs: tuple[str, ...] = ()  # steps that must have succeeded
    after: tuple[str, ...] = ()  # steps it waits for, and then works with what they left
    files: tuple[str, ...] = ()  # the user's own files that it depends on
    alone: bool = False  # it measures times: nothing runs beside it
    minutes: float = 0.5  # about how long it takes

    @property
    def executed(self) -> Path:
        return Path("notebooks") / f"{self.name}.ipynb"

    @property
    def log(self) -> Path:
        return Path("logs") / f"{self.name}.log"

    @property
    def claims(self) -> Path:
        """Where the notebook leaves its claims: 02_train_variant-digits-heads for digits/02_train_variant-heads."""
        dataset = Path(self.name).parent.name
        rest = self.name.rpartition("/")[2].removeprefix(self.notebook)
        return Path("claims") / f"{self.notebook}{f'-{dataset}' if dataset else ''}{rest}.csv"


def steps_of(study: StudyConfig) -> list[Step]:
    """The steps of `study` in reading order: data set by data set, then what looks at all of them."""
    analyses = _analyses(study)
    read = [dataset for step in analyses for dataset in _reads(step.parameters)]
    read += [run.dataset for run in study.runs.values()]
    steps = []
    for dataset in study.datasets:
        if dataset in read:
            steps.append(_dataset(study, dataset))
            steps += [_run(study, name) for name, run in study.runs.items() if run.dataset == dataset]
    return steps + sorted(analyses, key=lambda step: step.notebook)


def priorities(steps: list[Step]) -> dict[str, int]:
    """By name: about how many seconds a step takes with the longest chain of steps that wait for it."""
    waiting = {step.name: [] for step in steps}
    for step in steps:
        for name in (*step.needs, *step.after):
            waiting[name].append(step.name)
    own = {step.name: int(60 * step.minutes) for step in steps}

    @cache
    def seconds(name: str) -> int:
        return own[name] + max(map(seconds, waiting[name]), default=0)

    return {step.name: seconds(step.name) for step in steps}


def _reads(told: dict[str, Any]) -> list[str]:
    """The data sets that an analysis is told to look at."""
    return [one["dataset"] for one in (told, *told.get("tasks", ())) if one.get("dataset")]


def _dataset(study: StudyConfig, dataset: str) -> Step:
    return Step(
        _of(dataset),
        "01_dataset_preparation",
        study.dataset_parameters(dataset),
        (f"data/{dataset}/card.json", f"data/{dataset}/splits.json"),
        files=tuple(study.files_of(dataset)),
        minutes=3 if any(study.backbones[run.backbone].init == "source" for run in _runs_on(study, dataset)) else 0.2,
    )


def _runs_on(study: StudyConfig, dataset: str) -> list:
    return [run for run in study.runs.values() if run.dataset == dataset]


def _of(dataset: str) -> str:
    return f"{dataset}/01_dataset_preparation"


def _run(study: StudyConfig, run: str) -> Step:
    dataset = study.runs[run].dataset
    return Step(
        f"{dataset}/02_train_variant-{run}",
        "02_train_variant",
        study.run_parameters(run),
        tuple(f"runs/{dataset}/{run}/{file}" for file in RUN_FILES),
        needs=(_of(dataset),),
        minutes=1,
    )


def _analyses(study: StudyConfig) -> list[Step]:
    runs = tuple(f"{run.dataset}/02_train_variant-{name}" for name, run in study.runs.items())
    rows = study.notebooks()
    present = {row.file for row in rows}
    steps = []
    for row in rows:
        waits = [name for name in row.after if name in present]
        steps.append(_analysis(study, row, (*(runs if row.looks_at == "runs" else ()), *waits)))
    return steps


def _analysis(study: StudyConfig, row: Notebook, runs: tuple[str, ...]) -> Step:
    told = study.told(row.file)
    needs = tuple(dict.fromkeys(_of(name) for name in _reads(told) if name in study.datasets))
    return Step(row.file, row.file, told, row.writes, needs, after=runs, alone=row.alone, minutes=row.minutes)
