"""A copy of the real project, whose smoke study is compared byte for byte after something went wrong."""

import shutil
from pathlib import Path

import pandas as pd
import yaml

from qtl_utils.study.paths import PROJECT


def real_project(folder: Path) -> Path:
    """Copies what runs a study into `folder`."""
    names = ("qtl_utils", "workflow", "report", "studies", "notebooks")
    for name in names:
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb*"))
    for name in ("run_all.sh", "pyproject.toml", "requirements.lock"):
        shutil.copy2(PROJECT / name, folder / name)
    return folder


def without_timings(project: Path) -> Path:
    """The smoke study without the notebooks whose tables hold times, and without one that repeats 02's training."""
    path = project / "studies" / "smoke.yaml"
    study = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(study | dict.fromkeys(("simulators", "troubleshooting", "published"))))
    return project


def tables(project: Path) -> dict[str, str | bytes]:
    """What every table holds, without the times and the memory in them."""
    found = {}
    for path in (project / "results" / "smoke" / "tables").iterdir():
        found[path.name] = path.read_bytes()
        if path.suffix == ".csv":
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
            found[path.name] = table.loc[:, [not name.endswith(("_seconds", "_bytes")) for name in table]].to_csv()
    return found
