"""Files that are no studies, disks that are full or closed, locales without umlauts: one sentence, and nothing lost."""

import builtins
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_config import STUDY, changed, write
from toy_project import run_all, toy_project

from qtl_utils import __main__ as program
from qtl_utils.__main__ import FAILED, USER_ERROR, main
from qtl_utils.study.paths import PROJECT, likeness

TOY = """
datasets: {digits: {dataset: digits}}
backbones: {vit: {model: tiny_vit}}
defaults: {dataset: digits, backbone: vit, epochs: 3}
runs:
  heads: {variants: [A, C]}
gradients: null
simulators: null
troubleshooting: null
attribution: null
"""


def told(capsys, code, expected):
    """The single line that a command said on its way out with `code`."""
    message = capsys.readouterr().err
    assert message.startswith("Error: ")
    assert message.count("\n") == 1
    assert expected in message
    return code


# ---- input


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: 1\nb: käse".encode("latin-1"), "line 2: not readable as text; save the file as UTF-8"),
        (b"day: 2024-13-45", "line 1: '2024-13-45' is no timestamp"),
        (b"a: " + b"[" * 10_000, "line 1: more than 20 levels deep"),
        (b"{" + b"k: 1, " * 1_000_000 + b"}", "longer than 256 kB"),
        (b"- datasets\n- runs", "expected keys such as datasets"),
        (b"runs: [heads]", "datasets: this key is needed and missing"),
    ],
)
def test_a_file_that_is_no_study_is_told(content, expected, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_bytes(content)
    for more in ([], ["--set", "seeds=3"]):
        code = main(["run", str(tmp_path / "mine.yaml"), *more, "--results-dir", str(tmp_path / "results")])
        assert told(capsys, code, expected) == USER_ERROR
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", ["a" * 5000, "~nobody-at-all/x.yaml", "/dev/null", ""])
def test_a_study_that_is_no_file_is_told(name, capsys):
    assert told(capsys, main(["run", name]), "unknown study") == USER_ERROR


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("name", "x" * 300, "name: expected at most 60 characters"),
        ("runs." + "x" * 61, STUDY["runs"]["heads"], "expected at most 60 characters"),
        ("datasets.digits.data_dir", "x" * 5000, "cannot be a path"),
        ("datasets.digits.data_dir", "a\nb", "cannot be a path"),
        ("runs.heads.batch_size", 10**12, "batch_size: expected at most 1000000"),
        ("gradients.shots", [10**12], "gradients.shots: expected at most 1000000"),
        ("runs.heads.lr_quantum", 10**400, "runs.heads.lr_quantum: expected a number"),
    ],
)
def test_values_beyond_all_measure_are_refused(key, value, expected, tmp_path, capsys):
    code = main(["run", str(write(tmp_path, changed(key, value))), "--results-dir", str(tmp_path / "results")])
    assert told(capsys, code, expected) == USER_ERROR


@pytest.mark.parametrize("folder", ["file", "a\nb", ""])
def test_a_results_folder_that_cannot_be_one_is_told(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(SystemExit, match=str(USER_ERROR)):
        main(["run", "smoke", "--results-dir", folder])
    told(capsys, 0, "is no folder; give one, or a name for a new one")


# ---- the machine


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "x", "t.csv"), "t.csv: the disk is full; free some space"),
        (PermissionError(errno.EACCES, "x", "t.csv"), "t.csv: permission denied"),
        (OSError(errno.EROFS, "x", "t.csv"), "t.csv: it lies on a disk that can only be read"),
        (OSError(errno.EMFILE, "x", "t.csv"), "t.csv: too many files are open at once"),
        (FileNotFoundError(errno.ENOENT, "x", "t.csv"), "t.csv: there is no such file or folder"),
        (MemoryError(), "not enough memory"),
    ],
)
def test_trouble_of_the_machine_is_one_sentence(error, expected, monkeypatch, capsys):
    def fail(*_):
        raise error

    monkeypatch.setattr(program, "load_study", fail)
    assert told(capsys, main(["run", "smoke"]), expected) == FAILED


@pytest.mark.parametrize("command", [["run"], ["report"], ["verify"]])
def test_a_disk_that_is_full_at_any_write_leaves_no_half_file(command, tmp_path, monkeypatch, capsys):
    """Every open for writing fails in its turn, until the command gets as far as computing."""
    monkeypatch.setattr(program, "_snakemake", lambda *_: 0)
    folder, opened = tmp_path / "results", builtins.open
    for number in range(3):
        left = [number]

        def full(file, mode="r", *more, left=left, **options):
            if set(mode) & set("wax+") and str(folder) in str(file):
                left[0] -= 1
                if left[0] < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return opened(file, mode, *more, **options)

        monkeypatch.setattr("io.open", full)
        path = write(tmp_path, STUDY)
        code = main([*command, str(path), "--results-dir", str(folder)])
        assert code in (FAILED, USER_ERROR) or left[0] >= 0
        message = capsys.readouterr().err
        assert "Traceback" not in message
        assert not list(folder.rglob("*.part*"))


def can_mount() -> bool:
    return sys.platform == "linux" and os.getuid() == 0 and os.environ.get("QTL_TEST_MOUNTS", "yes") == "yes"


@pytest.fixture
def disk(tmp_path):
    """A function that mounts a small disk of its own in tmp_path/"disk", or mounts it again with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if not can_mount() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounts are not allowed")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    project = toy_project(tmp_path_factory.mktemp("hostile") / "ein Prüfstück")
    (project / "studies" / "toy.yaml").write_text(TOY, encoding="utf-8")
    return project


def failed(done, expected):
    """One of its lines says what is expected, none is a traceback, and it ended with exit code 1."""
    assert done.returncode == 1, done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_disk_that_can_only_be_read_is_told_and_may_be_looked_at(toy, disk):
    folder = disk("size=1m")
    (folder / "toy").mkdir()
    (folder / "toy" / "study.json").write_text("{}")
    disk("remount,ro")
    failed(run_all(toy, "toy", "--results-dir", str(folder)), f"Error: {folder}/toy/.lock: it lies on a disk that can")
    failed(run_all(toy, "report", "toy", "--results-dir", str(folder)), "it lies on a disk that can only be read")
    done = run_all(toy, "toy", "--dry-run", "--results-dir", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert "would run digits/02_train_variant-heads" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("size", [20, 80, 2000])
def test_a_full_disk_ends_a_run_that_goes_on_once_there_is_space(toy, disk, size):
    folder = disk(f"size={size}k")
    failed(run_all(toy, "toy", "--results-dir", str(folder)), "the disk is full; free some space")
    assert not list(folder.rglob("*.part*"))
    disk("remount,size=60m")
    done = run_all(toy, "toy", "--results-dir", str(folder))
    assert done.returncode == 0, done.stderr
    assert (folder / "toy" / "report" / "index.html").is_file()


# ---- locales


NO_UMLAUTS = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture
def ascii_only(monkeypatch):
    for name, value in NO_UMLAUTS.items():
        monkeypatch.setenv(name, value)


def test_a_locale_without_umlauts_changes_no_word(toy, ascii_only):
    done = run_all(toy, "toy", "--set", "mäuse=3", encoding="utf-8")
    assert done.returncode == 2
    assert "--set mäuse: unknown key 'mäuse'" in done.stderr
    assert str(toy) in done.stderr


def test_a_name_that_is_no_utf8_is_told(toy, ascii_only):
    done = run_all(toy, b"b\xfc.yaml", encoding="utf-8")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert r"unknown study 'b\udcfc.yaml'" in done.stderr


@pytest.mark.slow
def test_a_study_runs_in_a_locale_without_umlauts(toy, ascii_only, tmp_path):
    done = run_all(toy, "toy", "--results-dir", str(tmp_path / "Ergebnisse für ü"), encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "Ergebnisse für ü/toy/report/index.html" in done.stdout


def test_a_terminal_that_cannot_show_a_letter_is_given_its_number(tmp_path):
    environment = os.environ | NO_UMLAUTS | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "qtl_utils", "run", "nü"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"unknown study 'n" in done.stderr


# ---- the likeness that a dry run looks at


def test_a_likeness_has_names_sizes_and_times_and_small_files_whole(tmp_path):
    (tmp_path / "a" / ".snakemake" / "log").mkdir(parents=True)
    (tmp_path / "a" / ".snakemake" / "metadata").mkdir()
    (tmp_path / "a" / ".snakemake" / "log" / "x").touch()
    for name, size in (("small", 10), ("large", 10**6), (".snakemake/metadata/x", 5)):
        (tmp_path / "a" / name).write_bytes(b"x" * size)
    likeness(tmp_path / "a", tmp_path / "b")
    both = [(tmp_path / root / name).stat() for name in ("small", "large") for root in ("a", "b")]
    assert both[0][6:9:2] == both[1][6:9:2]
    assert both[2][6:9:2] == both[3][6:9:2]
    assert (tmp_path / "b" / "small").read_bytes() == b"x" * 10
    assert (tmp_path / "b" / ".snakemake" / "metadata" / "x").is_file()
    assert not (tmp_path / "b" / ".snakemake" / "log").exists()
    likeness(tmp_path / "absent", tmp_path / "c")  # of a study that was never run there is nothing to see
