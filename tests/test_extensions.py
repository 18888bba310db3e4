"""A file of the user's own: its rows are found wherever ours are, its mistakes are one sentence, its changes rerun."""

import json
import subprocess
import sys

import pytest

from qtl_utils.study import extensions
from qtl_utils.study.errors import StudyError
from qtl_utils.study.paths import PROJECT
from qtl_utils.study.study_file import load_study

EXAMPLE = PROJECT / "studies" / "my_extension.py"


def run(*arguments):
    command = [sys.executable, "-m", "qtl_utils", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)


def test_a_file_beside_the_study_is_found(tmp_path):
    (tmp_path / "mine.py").write_text("")
    text = (PROJECT / "studies" / "extended.yaml").read_text().replace("my_extension.py", "mine.py")
    (tmp_path / "s.yaml").write_text(text)
    assert load_study(tmp_path / "s.yaml").extensions == [str(tmp_path / "mine.py")]
    assert load_study("extended").extensions == ["studies/my_extension.py"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "import nothing_like_it",
            r"x.py cannot be imported \(ModuleNotFoundError: No module named 'nothing_like_it'\)",
        ),
        ("def f(:", r"x.py, line 1 cannot be imported \(SyntaxError"),
        (None, "there is no Python file"),
    ],
)
def test_what_cannot_be_imported_is_one_sentence(tmp_path, text, expected):
    if text is not None:
        (tmp_path / "x.py").write_text(text)
    with pytest.raises(StudyError, match=expected):
        extensions.load([tmp_path / "x.py"])


def test_a_file_is_imported_once_and_its_hash_ignores_comments(tmp_path):
    path = tmp_path / "once.py"
    path.write_text("import os\nos.environ['QTL_ONCE'] = os.environ.get('QTL_ONCE', '') + 'x'\n")
    code = f"from qtl_utils.study import extensions as e; e.load(['{path}']); e.load(['{path}']); import os"
    code += "; print(os.environ['QTL_ONCE'], e.hashes())"
    before = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT
    ).stdout
    assert before.startswith("x {'once.py'")
    first = extensions.hashes([path])
    path.write_text("# a comment\n" + path.read_text())
    assert extensions.hashes([path]) == first
    path.write_text(path.read_text().replace("'x'", "'y'"))
    assert extensions.hashes([path]) != first


def test_names_and_error_messages_know_the_rows_of_the_user():
    # in one process of its own, as loading the libraries takes seconds; what an extension adds stays for good
    wrong = ["run", "extended", "--dry-run", "--set", "runs.wine.variants=[C-gelo]"]
    code = f"""
from qtl_utils.__main__ import main
main(["names"])
print("=====")
main(["names", "--extension", {str(EXAMPLE)!r}])
raise SystemExit(main({wrong}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PROJECT)
    ours, listed = done.stdout.split("=====")
    for name in ("brickwork", "C-gelu", "wine", "averages"):
        assert name in listed and name not in ours
    assert done.returncode == 2 and "did you mean 'C-gelu'" in done.stderr


@pytest.mark.slow
def test_the_example_study_is_refused_nothing():
    right = run("run", "extended", "--dry-run")
    assert right.returncode == 0, right.stderr


@pytest.mark.slow
def test_the_doctor_runs_a_check_of_the_user(tmp_path):
    (tmp_path / "model.py").write_text(
        "import torch\ndef make():\n    model = torch.nn.Linear(3, 2)\n"
        "    torch.nn.init.constant_(model.weight, 200.0)\n"
        "    return model, (torch.randn(8, 3), torch.arange(8) % 2), {'checks': ['big_weights']}\n"
    )
    found = run("doctor", f"{tmp_path / 'model.py'}:make", "--extension", EXAMPLE)
    assert "the largest weight is 200" in found.stdout, found.stderr


@pytest.mark.slow
def test_the_example_study_runs_and_its_report_says_what_was_added(tmp_path):
    done = run("run", "extended", "--results-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "extended"
    accuracy = (folder / "tables" / "accuracy.csv").read_text() + (folder / "tables" / "accuracy_2d.csv").read_text()
    assert "C-gelu" in accuracy and "averages" in accuracy and "wine" in accuracy
    manifest = json.loads((folder / "manifest.json").read_text())
    assert list(manifest["extensions"]) == ["my_extension.py"]
    assert "my_extension.py" in (folder / "report" / "index.html").read_text()
