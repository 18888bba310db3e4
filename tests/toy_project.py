"""A copy of the project whose notebooks take no time: for tests of what surrounds the notebooks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from qtl_utils.study.config import BackboneConfig, RunConfig
from qtl_utils.study.paths import PROJECT
from qtl_utils.study.sections import GradientsConfig, SimulatorsConfig
from qtl_utils.study.steps import RUN_FILES

COMMON = "import json\nfrom qtl_utils.study.paths import atomic, study_dir\nfolder = study_dir(study, results_dir)"
DATASET = """
for name in ("card", "splits"):
    with atomic(folder / "data" / dataset / f"{name}.json") as part:
        part.write_text(json.dumps(data))
"""
RUN = """
assert epochs != 13, "thirteen epochs bring bad luck"
for name in FILES:
    with atomic(folder / "runs" / dataset / run / name) as part:
        part.write_text(f"{run},{seeds},{lr_classical}\\n")
"""
ANALYSIS = """
with atomic(folder / "tables" / "NAME.csv") as part:
    part.write_text("a,b\\n1,2\\n")
"""
RESULTS = """
import matplotlib.pyplot as plt
rows = [path.read_text() for path in sorted(folder.glob("runs/*/*/metrics.csv"))]
with atomic(folder / "tables" / "accuracy.csv") as part:
    part.write_text("run,seeds,lr\\n" + "".join(rows))
plt.plot([1, 2])
(folder / "figures").mkdir(exist_ok=True)
plt.savefig(folder / "figures" / "factorial.png")
answer = {"question": "Does it help?", "answer": ["It is a toy.", "p | q"],
          "main_figure": "factorial.png", "main_table": "accuracy.csv"}
with atomic(folder / "tables" / "answer.json") as part:
    part.write_text(json.dumps(answer))
"""


def write_notebook(path: Path, parameters: str, *cells: str, title: str = "What is this?") -> Path:
    """A notebook with a title, a parameters cell and `cells`."""
    first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[new_markdown_cell(f"# {title}"), first, *map(new_code_cell, cells)])
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def _defaults(names) -> str:
    return "\n".join(f"{name} = None" for name in names)


def toy_project(folder: Path) -> Path:
    """Copies the project into `folder` with toy notebooks in the place of the real ones."""
    for name in ("qtl_utils", "workflow", "report", "studies"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run_all.sh", "pyproject.toml", "requirements.lock", "CITATION.cff", "LICENSE"):
        shutil.copy2(PROJECT / name, folder / name)
    common = ["study", "results_dir"]
    dataset = [*common, "dataset", "data", "backbones", "threads", "device"]
    run = [*common, "run", "data", "backbone_settings", "threads", *RunConfig.model_fields]
    assert set(BackboneConfig.model_fields).isdisjoint(dataset)
    notebooks = folder / "notebooks"
    write_notebook(notebooks / "01_dataset_preparation.ipynb", _defaults(dataset), COMMON, DATASET)
    files = RUN.replace("FILES", repr(sorted(RUN_FILES, key=lambda name: name == "metrics.csv")))
    write_notebook(notebooks / "02_train_variant.ipynb", _defaults(run), COMMON, files)
    gradients = [*common, "data", "backbone_settings", "threads", *GradientsConfig.model_fields]
    gradients = _defaults(gradients), COMMON, ANALYSIS.replace("NAME", "gradient_methods")
    write_notebook(notebooks / "03_gradient_diagnostics.ipynb", *gradients)
    simulators = _defaults([*common, "threads", *SimulatorsConfig.model_fields])
    simulators = simulators, COMMON, ANALYSIS.replace("NAME", "simulator_matrix")
    write_notebook(notebooks / "04_simulator_algorithms.ipynb", *simulators)
    write_notebook(notebooks / "07_results.ipynb", _defaults(common), COMMON, RESULTS)
    return folder


def run_all(project: Path, *arguments: str, **options) -> subprocess.CompletedProcess:
    """`./run_all.sh ARGUMENTS` in the running environment, from another folder."""
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix}
    command = [str(project / "run_all.sh"), *arguments]
    options = {"cwd": project.parent, "capture_output": True, "text": True, "timeout": 600} | options
    return subprocess.run(command, env=environment, check=False, **options)
