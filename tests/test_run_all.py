"""The command: what it says, what it computes again and what not, and that nothing can tear a study."""

import fcntl
import html
import json
import os
import random
import shutil
import signal
import subprocess
import sys

import nbformat
import pytest
from smoke_project import real_project, tables, without_timings
from toy_project import run_all, toy_project

from qtl_utils.study.paths import PROJECT
from qtl_utils.study.steps import steps_of
from qtl_utils.study.study_file import load_study

KILLS = int(os.environ.get("QTL_TEST_KILLS", "3"))  # of the smoke study; 50 take an hour
TOY = """
datasets: {digits: {dataset: digits}}
backbones: {vit: {model: tiny_vit}}
defaults: {dataset: digits, backbone: vit, epochs: 3}
runs:
  heads: {variants: [A, C]}
  B: {variants: [B], seeds: 2}
troubleshooting: null
attribution: null
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A toy project in a folder whose name has spaces, with its study run once."""
    project = toy_project(tmp_path_factory.mktemp("with spaces") / "my project")
    (project / "studies" / "toy.yaml").write_text(TOY)
    done = run_all(project, "toy")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("results/toy/report/index.html\n")
    return project


@pytest.fixture
def toy(finished, tmp_path):
    """A copy of the finished toy project, times kept."""
    shutil.copytree(finished, tmp_path / "copy of it")
    return tmp_path / "copy of it"


def ran(done):
    """The names of the notebooks that a call executed, in the order of starting."""
    assert done.returncode == 0, done.stderr
    return [line.split()[1] for line in done.stdout.splitlines() if line.startswith("  started")]


def refuse(done, code, text):
    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr


# ---- what it says


def test_help_names_every_command():
    done = run_all(PROJECT, "--help")
    assert done.returncode == 0
    for word in ("test", "lab", "report", "archive", "verify", "doctor"):
        assert f"run_all.sh {word}" in done.stdout
    for word in ("--cores", "--dry-run", "--set", "--cpu", "--profile"):
        assert word in done.stdout


def test_an_unknown_study_is_one_sentence():
    done = run_all(PROJECT, "smoek")
    refuse(done, 2, "Error: unknown study 'smoek'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("option", [["--coers", "2"], ["--cores", "0"], ["--cores", "many"], ["--profile", "cloud"]])
def test_an_unknown_option_is_one_sentence(option):
    done = run_all(PROJECT, "smoke", *option)
    refuse(done, 2, "Error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_study_file_is_found_from_the_users_folder(finished, tmp_path):
    (tmp_path / "mine.yaml").write_text(TOY)
    done = run_all(finished, "mine.yaml", "--dry-run", cwd=tmp_path)
    assert "would run digits/02_train_variant-heads: not done yet" in done.stdout


@pytest.mark.slow
def test_a_dry_run_leaves_nothing_behind(toy, tmp_path):
    done = run_all(toy, "toy", "--dry-run", "--results-dir", str(tmp_path / "other"))
    assert done.stdout.count("would run") == 7
    assert not (tmp_path / "other").exists()


def test_a_python_that_is_too_old_is_named(tmp_path):
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    for tool in ("bash", "dirname", "cksum", "cat"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    project = tmp_path / "project"
    project.mkdir()
    for name in ("run_all.sh", "requirements.lock"):
        shutil.copy(PROJECT / name, project / name)
    command = ["bash", str(project / "run_all.sh"), "smoke"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    refuse(done, 2, "Error: Python 3.11 or newer is needed")


# ---- set-up, with next to nothing to install


def set_up_alone(project, path, **environment):
    """`./run_all.sh smoke` in a project that needs setuptools only; it stops when its set-up is done."""
    (project / "qtl_utils" / "study").mkdir(parents=True)
    needed = ("__init__", "study/__init__", "study/environment", "study/paths")
    for name in ("run_all.sh", *(f"qtl_utils/{module}.py" for module in needed)):
        shutil.copy(PROJECT / name, project / name)
    (project / "qtl_utils" / "__main__.py").write_text("import sys; print(sys.executable)")
    pinned = next(line for line in (PROJECT / "requirements.lock").read_text().splitlines() if "setuptools==" in line)
    (project / "requirements.lock").write_text(pinned + "\n")
    text = (PROJECT / "pyproject.toml").read_text()
    start, end = text.index("dependencies = ["), text.index("]\n", text.index("dependencies = ["))
    (project / "pyproject.toml").write_text(text[:start] + 'dependencies = ["setuptools"' + text[end:])
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    path.mkdir(exist_ok=True)
    command = [str(project / "run_all.sh"), "smoke"]
    environment = kept | {"PATH": f"{path}:{os.environ['PATH']}"} | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_set_up_works_where_debian_left_ensurepip_out(tmp_path):
    path, project = tmp_path / "bin", tmp_path / "a project"
    path.mkdir()
    real = getattr(sys, "_base_executable", sys.executable)
    (path / "python3").write_text(f"""#!/bin/sh
case "$*" in *ensurepip*) exit 1 ;; esac
exec "{real}" "$@"
""")
    (path / "python3").chmod(0o755)
    done = set_up_alone(project, path)
    if "could not be installed" in done.stderr:
        pytest.skip("no package index")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(project / ".venv" / "bin" / "python")


@pytest.mark.slow
def test_set_up_without_a_network_is_one_sentence_and_is_done_again(tmp_path):
    nowhere = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    nowhere |= {"PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "PIP_NO_CACHE_DIR": "1"}
    project = tmp_path / "a project"
    refuse(
        set_up_alone(project, tmp_path / "bin", **nowhere), 1, "Error: the packages of requirements.lock could not be"
    )
    assert not (project / ".venv" / ".installed").exists()


# ---- what it computes


@pytest.mark.slow
def test_a_second_run_computes_nothing(toy):
    assert ran(run_all(toy, "toy")) == []


@pytest.mark.slow
def test_every_study_leaves_what_the_formats_promise(finished):
    folder = finished / "results" / "toy"
    files = ["study.json", "manifest.json", "tables/accuracy.csv", "figures/factorial.png", "report/index.html"]
    files += ["notebooks/digits/01_dataset_preparation.ipynb", "notebooks/digits/02_train_variant-B.ipynb"]
    assert [name for name in files if not (folder / name).is_file()] == []
    assert not list(folder.rglob("*.part*"))


@pytest.mark.slow
def test_a_changed_parameter_reruns_only_what_depends_on_it(toy):
    assert ran(run_all(toy, "toy", "--set", "runs.B.seeds=3")) == ["digits/02_train_variant-B", "07_results"]
    assert "B,3," in (toy / "results" / "toy" / "tables" / "accuracy.csv").read_text()


@pytest.mark.slow
def test_a_dry_run_does_not_change_the_study_that_was_run(toy):
    before = (toy / "results" / "toy" / "study.json").read_text()
    assert "would run digits/02_train_variant-B" in run_all(toy, "toy", "-n", "--set", "runs.B.seeds=3").stdout
    assert (toy / "results" / "toy" / "study.json").read_text() == before


@pytest.mark.slow
def test_a_changed_cell_reruns_its_notebook_and_a_saved_one_does_not(toy):
    path = toy / "notebooks" / "07_results.ipynb"
    notebook = json.loads(path.read_text())
    notebook["metadata"]["kernelspec"] = {"name": "other", "display_name": "x", "language": "python"}
    path.write_text(json.dumps(notebook))
    assert ran(run_all(toy, "toy")) == []
    path.write_text(path.read_text().replace("It is a toy.", "It was a toy."))
    assert ran(run_all(toy, "toy")) == ["07_results"]


@pytest.mark.slow
def test_a_changed_module_reruns_what_uses_it(toy):
    for name, line, expected in (
        ("results/stats", "CHANGED = True", 0),  # the toy notebooks import study/paths only
        ("study/paths", "# a comment changes nothing", 0),
        ("study/paths", "CHANGED = True", 6),
    ):
        path = toy / "qtl_utils" / f"{name}.py"
        path.write_text(f"{path.read_text()}\n{line}\n")
        assert len(ran(run_all(toy, "toy"))) == expected


@pytest.mark.slow
def test_a_run_taken_out_of_the_study_leaves_the_tables_and_comes_back(toy):
    study = toy / "studies" / "toy.yaml"
    study.write_text(TOY.replace("  B: {", "  # B: {"))
    assert ran(run_all(toy, "toy")) == ["07_results"]
    assert "B," not in (toy / "results" / "toy" / "tables" / "accuracy.csv").read_text()
    study.write_text(TOY)
    assert ran(run_all(toy, "toy")) == ["07_results"]
    assert "B," in (toy / "results" / "toy" / "tables" / "accuracy.csv").read_text()


def break_notebook(project, name, cell):
    """Puts `cell` before the last one of a notebook; returns what takes it out again."""
    path = project / "notebooks" / f"{name}.ipynb"
    whole = path.read_text()
    book = nbformat.reads(whole, as_version=4)
    book.cells.insert(-1, nbformat.v4.new_code_cell(cell))
    nbformat.write(book, path)
    return lambda: path.write_text(whole)


FAULTS = {
    "an exception": ("raise KeyError('gone')", "KeyError: 'gone'"),
    "a syntax error": ("this is no Python", "SyntaxError: invalid syntax"),
    "a killed kernel": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "its kernel died"),
    "a killed process": ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", "its process was killed"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_notebook_is_named_in_a_report_that_shows_the_rest(toy, fault):
    cell, message = FAULTS[fault]
    mend = break_notebook(toy, "03_gradient_diagnostics", cell)
    done = run_all(toy, "toy")
    assert done.returncode == 1
    assert "1 of 6 notebooks failed: 03_gradient_diagnostics." in done.stderr and message in done.stderr
    assert "Traceback" not in done.stderr and "Error in rule" not in done.stderr
    report = toy / "results" / "toy" / "report"
    page = html.unescape((report / "index.html").read_text())
    assert "1 of 6 notebooks failed" in page and message in page
    assert "It is a toy." in page
    again = run_all(toy, "toy")
    assert [line.split()[1] for line in again.stdout.splitlines() if "started" in line] == ["03_gradient_diagnostics"]
    mend()
    assert ran(run_all(toy, "toy")) == ["03_gradient_diagnostics"]
    assert "notebooks failed" not in (report / "index.html").read_text()


@pytest.mark.slow
def test_a_run_that_failed_leaves_the_comparison_of_the_others(toy):
    done = run_all(toy, "toy", "--set", "runs.B.epochs=13", "--set", "runs.heads.seeds=3")
    assert done.returncode == 1 and "AssertionError: thirteen epochs bring bad luck" in done.stderr
    table = (toy / "results" / "toy" / "tables" / "accuracy.csv").read_text()
    assert "heads,3," in table and "B," not in table
    assert ran(run_all(toy, "toy", "--set", "runs.heads.seeds=3")) == ["digits/02_train_variant-B", "07_results"]


@pytest.mark.slow
def test_what_needs_a_failed_step_is_not_run(toy):
    mend = break_notebook(toy, "01_dataset_preparation", "1 / 0")
    done = run_all(toy, "toy")
    assert "digits/02_train_variant-B: not run: it needs digits/01_dataset_preparation, which failed" in done.stderr
    page = (toy / "results" / "toy" / "report" / "index.html").read_text()
    assert "ZeroDivisionError" in page and "not run: it needs" in page
    mend()
    assert run_all(toy, "toy").returncode == 0


@pytest.mark.slow
def test_a_file_that_was_deleted_is_made_again(toy):
    (toy / "results" / "toy" / "runs" / "digits" / "B" / "metrics.csv").unlink()
    assert ran(run_all(toy, "toy")) == ["digits/02_train_variant-B", "07_results"]


@pytest.mark.slow
def test_a_second_run_of_the_same_study_is_turned_away(toy):
    with (toy / "results" / "toy" / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refuse(run_all(toy, "toy"), 75, "The study 'toy' is being run already")


@pytest.mark.slow
def test_a_finished_study_becomes_one_file(finished):
    first, again = run_all(finished, "archive", "toy"), run_all(finished, "archive", "toy")
    assert first.returncode == 0, first.stderr
    assert first.stdout == again.stdout
    assert (finished / "results" / "toy.zip").is_file()
    refuse(run_all(finished, "archive", "smoke"), 2, "there are no results of 'smoke'")


@pytest.mark.slow
def test_the_report_is_rebuilt_alone(toy):
    shutil.rmtree(toy / "results" / "toy" / "report")
    done = run_all(toy, "report", "toy")
    assert done.returncode == 0, done.stderr
    assert (toy / "results" / "toy" / "report" / "index.html").is_file()


@pytest.mark.slow
def test_a_study_that_was_not_run_has_no_report(finished):
    refuse(run_all(finished, "report", "smoke"), 2, "there are no results of 'smoke'")


# ---- the real thing


@pytest.mark.slow
def test_smoke_runs_from_one_command_to_its_report(tmp_path):
    project = real_project(tmp_path / "a real copy")
    assert sorted(ran(run_all(project, "smoke"))) == sorted(step.name for step in steps_of(load_study("smoke")))
    assert ran(run_all(project, "smoke")) == []
    answer = json.loads((project / "results" / "smoke" / "tables" / "answer.json").read_text())
    assert answer["question"] in (project / "results" / "smoke" / "report" / "index.html").read_text()


def kill_once(project, seconds):
    """Starts the smoke study and kills the main process, not its children, after that long; whether it was in time."""
    command = [str(project / "run_all.sh"), "smoke"]
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True


@pytest.mark.slow
def test_killed_runs_end_in_the_same_tables(tmp_path):
    whole, torn = (without_timings(real_project(tmp_path / name)) for name in ("whole", "torn"))
    assert run_all(whole, "smoke").returncode == 0
    expected = tables(whole)
    seed = random.randrange(1000)
    moments = [random.Random(seed + i).uniform(8, 40) for i in range(KILLS)]
    for seconds in moments:
        while not kill_once(torn, seconds):  # it ended before: once more from the beginning
            assert tables(torn) == expected, moments
            shutil.rmtree(torn / "results")
    done = run_all(torn, "smoke")
    assert done.returncode == 0, (moments, done.stderr)
    assert tables(torn) == expected, moments
    assert ran(run_all(torn, "smoke")) == []
