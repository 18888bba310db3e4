"""A wheel of the project runs a study anywhere: built and installed into an environment without a checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from functools import partial

import pytest
import setuptools
import yaml

from qtl_utils.study import paths
from qtl_utils.study.paths import PROJECT

LEFT_OUT = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", ".snakemake")
PARTS = ("qtl_utils", "notebooks", "report", "studies", "workflow", "docs", "results/reference")
PARTS += ("ARCHITECTURE.md", "README.md", "LICENSE", "CITATION.cff", "pyproject.toml", "setup.py", "requirements.lock")
TINY = {
    "description": "One head on shipped features.",
    "datasets": {"insects": {"dataset": "ants_bees", "n_splits": 2}},
    "backbones": {"squeezenet": {"model": "squeezenet1_1", "init": "shipped"}},
    "runs": {
        "heads": {"dataset": "insects", "backbone": "squeezenet", "variants": ["A", "C"], "seeds": 2, "epochs": 2}
    },
    **dict.fromkeys(("gradients", "simulators", "troubleshooting", "attribution")),
}
ASK = """
import json
from qtl_utils.study import paths
from qtl_utils.study.study_file import find_study
found = (paths.FOLDER, paths.results_root(), find_study("smoke"), paths.user_path("mine.yaml"))
print(json.dumps([str(path) for path in found]))
"""


def test_a_checkout_is_its_own_folder():
    assert paths.FOLDER == PROJECT
    assert (PROJECT / "pyproject.toml").is_file()
    assert "QTL_FOLDER" not in os.environ


def test_a_package_without_its_checkout_works_where_it_is_called(tmp_path):
    package = tmp_path / "site" / "qtl_utils"
    shutil.copytree(PROJECT / "qtl_utils" / "study", package / "study", ignore=LEFT_OUT)
    shutil.copy(PROJECT / "qtl_utils" / "__init__.py", package)
    for folder in ("studies", "notebooks"):
        shutil.copytree(PROJECT / folder, package / "project" / folder, ignore=LEFT_OUT)
    here = tmp_path / "my folder"
    here.mkdir()
    (here / "mine.yaml").touch()
    environment = os.environ | {"PYTHONPATH": str(package.parent)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", ASK], cwd=here, env=environment, capture_output=True, text=True, check=True
    )
    shipped = package / "project" / "studies" / "smoke.yaml"
    assert yaml.safe_load(done.stdout) == [str(here), str(here / "results"), str(shipped), str(here / "mine.yaml")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that `pip wheel .` builds from a copy of the project, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PARTS:
        (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copy2 if (PROJECT / name).is_file() else partial(shutil.copytree, ignore=LEFT_OUT)
        copy(PROJECT / name, folder / "copy" / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "."]
    done = subprocess.run([*command, "-w", folder], cwd=folder / "copy", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_a_wheel_holds_what_a_study_reads(wheel):
    assert int(setuptools.__version__.split(".")[0]) >= 77
    held = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("notebooks", "studies", "workflow", "report"):
        files = {p.relative_to(PROJECT).as_posix() for p in (PROJECT / folder).rglob("*") if p.is_file()}
        files = {name for name in files if "__pycache__" not in name and ".ipynb_checkpoints" not in name}
        assert {f"qtl_utils/project/{name}" for name in files} <= held
    for file in (*(PROJECT / "qtl_utils").rglob("*.py"), *(PROJECT / "qtl_utils" / "data" / "shipped").iterdir()):
        assert file.relative_to(PROJECT).as_posix() in held
    assert "qtl_utils/project/results/reference/default/tables/answer.json" in held
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in held)


@pytest.mark.slow
def test_an_installed_wheel_runs_a_study_anywhere(wheel, tmp_path):
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    inside = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "env")})
    with open(os.path.join(inside, "packages.pth"), "w") as file:  # what is installed here, but for editable packages
        file.write(sysconfig.get_path("purelib") + "\n")
    command = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*command, "--ignore-installed", wheel], check=True)
    here = tmp_path / "mine"
    here.mkdir()
    (here / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "QTL_FOLDER")}
    told = {"cwd": here, "env": environment, "capture_output": True, "text": True, "check": False, "timeout": 1200}
    done = subprocess.run([python, "-P", "-m", "qtl_utils", "run", "tiny.yaml", "--cores", "2"], **told)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (here / "results" / "tiny" / "report" / "index.html").is_file()
    again = subprocess.run([python, "-P", "-m", "qtl_utils", "run", "tiny.yaml"], **told)
    assert "started" not in again.stdout
