"""Notebooks run strictly: known parameters only, the right interpreter, whole outputs, readable failures."""

import json
import os
import sys

import nbformat
import pytest
from toy_project import write_notebook

from qtl_utils.study import notebook
from qtl_utils.study.environment import THREAD_VARIABLES
from qtl_utils.study.notebook import (
    NotebookError,
    check_parameters,
    code_hashes,
    declared_parameters,
    modules_used,
    run_notebook,
    show_source,
    source_hash,
)
from qtl_utils.study.paths import PROJECT

SAY = "print(json.dumps({'python': sys.executable, 'x': x, 'env': dict(os.environ), 'backend': backend()}))"
IMPORTS = "import json, os, sys\nfrom matplotlib import get_backend as backend"


def said(path):
    cells = nbformat.read(path, as_version=4).cells
    return json.loads(next(output.text for cell in cells for output in cell.get("outputs", []) if "text" in output))


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """What a kernel with 3 threads says about itself, while the user has another python3 kernel and Agg set."""
    folder = tmp_path_factory.mktemp("a run")
    other = folder / "jupyter" / "kernels" / "python3"
    other.mkdir(parents=True)
    other.joinpath("kernel.json").write_text('{"argv": ["/no/such/python"], "display_name": "x", "language": "python"}')
    source = write_notebook(folder / "n.ipynb", "x = 1", IMPORTS, SAY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        patch.setenv("MPLBACKEND", "Agg")
        run_notebook(source, folder / "out" / "n.ipynb", {"x": {"a": [None, 1.5, "é"]}}, threads=3)
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["n.ipynb"]
    return said(folder / "out" / "n.ipynb")


def test_parameters_arrive_with_their_types(executed):
    assert executed["x"] == {"a": [None, 1.5, "é"]}


def test_the_kernel_is_this_interpreter_whatever_is_installed(executed):
    assert executed["python"] == sys.executable


def test_threads_are_pinned_in_the_kernel(executed):
    assert {executed["env"][name] for name in THREAD_VARIABLES} == {"3"}


def test_figures_are_inline_even_with_mplbackend_set(executed):
    assert "inline" in executed["backend"]


def test_the_kernel_finds_this_copy_of_the_package_first(executed):
    assert executed["env"]["PYTHONPATH"].split(os.pathsep)[0] == str(PROJECT)


def test_an_unknown_parameter_is_refused_before_anything_runs(tmp_path):
    source = write_notebook(tmp_path / "n.ipynb", "epochs = 1")
    with pytest.raises(ValueError, match=r"unknown parameter 'epcohs'.*did you mean 'epochs'"):
        run_notebook(source, tmp_path / "out.ipynb", {"epcohs": 2})
    assert not (tmp_path / "out.ipynb").exists()


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("x = 1 + y", "line 1: 'x = 1 \\+ y' is not 'name = literal'"),
        ("a = 1\nprint(a)", "line 2"),
        ("a = b = 1", "is not 'name = literal'"),
        ("a = (", "parameters cell, line 1"),
    ],
)
def test_a_parameters_cell_holds_literals_only(cell, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        declared_parameters(write_notebook(tmp_path / "n.ipynb", cell))


def test_literals_are_read_with_comments_and_annotations(tmp_path):
    path = write_notebook(tmp_path / "n.ipynb", "# fixed\na: int = 1  # metres\nb = {'c': [-1.5, None]}")
    assert declared_parameters(path) == {"a": 1, "b": {"c": [-1.5, None]}}


def test_a_notebook_without_parameters_cell_is_refused(tmp_path):
    path = write_notebook(tmp_path / "n.ipynb", "x = 1")
    path.write_text(path.read_text().replace('"parameters"', '"other"'))
    with pytest.raises(ValueError, match="0 cells are tagged 'parameters'; expected exactly one"):
        check_parameters(path, {})


def test_a_file_that_is_no_notebook_is_named(tmp_path):
    (tmp_path / "n.ipynb").write_text("[]")
    with pytest.raises(ValueError, match=r"n\.ipynb: not a notebook"):
        declared_parameters(tmp_path / "n.ipynb")


def test_a_failure_names_notebook_cell_and_error_and_keeps_what_ran(tmp_path):
    source = write_notebook(tmp_path / "n.ipynb", "x = 1", "y = 'kept'\ny", "# now\nraise KeyError(x)")
    with pytest.raises(NotebookError, match=r"(?s)n\.ipynb failed in cell \[4\] \(# now\):.*KeyError: 1"):
        run_notebook(source, tmp_path / "out.ipynb", {"x": 1})
    assert not (tmp_path / "out.ipynb").exists()
    assert "kept" in (tmp_path / "out.failed.ipynb").read_text()


def test_a_kernel_that_dies_is_explained(tmp_path):
    source = write_notebook(tmp_path / "n.ipynb", "x = 1", "import os\nos._exit(3)")
    with pytest.raises(NotebookError, match=r"n\.ipynb failed: its kernel died"):
        run_notebook(source, tmp_path / "out.ipynb", {})


def test_the_source_hash_ignores_what_jupyterlab_changes_on_saving(tmp_path):
    path = write_notebook(tmp_path / "n.ipynb", "x = 1", "x")
    before, cells = source_hash(path), nbformat.read(path, as_version=4)
    cells.cells[-1].execution_count, cells.metadata["kernelspec"] = 7, {"name": "k", "display_name": "k"}
    nbformat.write(cells, path)
    assert source_hash(path) == before
    path.write_text(path.read_text().replace("x = 1", "x = 2"))
    assert source_hash(path) != before


def test_modules_used_are_followed_through_modules_and_magics(tmp_path):
    path = write_notebook(tmp_path / "n.ipynb", "x = 1", "%matplotlib inline\nfrom qtl_utils.results import tables")
    names = {module.name for module in modules_used(path)}
    assert {"tables.py", "stats.py", "runs.py", "paths.py"} <= names
    assert not {"heads.py", "many.py", "config.py"} & names


def test_a_changed_module_changes_only_what_uses_it(tmp_path, monkeypatch):
    (tmp_path / "qtl_utils").mkdir()
    (tmp_path / "qtl_utils" / "__init__.py").touch()
    for name, text in {"a": "from . import b", "b": "import qtl_utils.c", "c": "x = 1", "d": ""}.items():
        (tmp_path / "qtl_utils" / f"{name}.py").write_text(text)
    monkeypatch.setattr(notebook, "PACKAGE", tmp_path / "qtl_utils")
    path = write_notebook(tmp_path / "n.ipynb", "x = 1", "from qtl_utils.a import x")
    before = code_hashes(path)
    assert list(before) == ["n.ipynb", "a.py", "b.py", "c.py"]
    (tmp_path / "qtl_utils" / "c.py").write_text("x = 2")
    assert {name for name, value in code_hashes(path).items() if value != before[name]} == {"c.py"}


def test_show_source_is_static_and_says_where_it_stands():
    html = show_source(show_source).data
    assert "qtl_utils/study/notebook.py" in html
    assert "show_source" in html
    assert "<script" not in html
