"""Writes happen whole or not at all; the lock turns a second holder away; a changed file is noticed."""

import errno
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from qtl_utils.study.paths import (
    HOST,
    PROJECT,
    atomic,
    fingerprint,
    lock,
    results_root,
    scratch,
    study_dir,
    sweep,
    trouble,
    user_path,
)


def test_results_lie_in_the_project_unless_told_otherwise(tmp_path):
    assert study_dir("smoke") == PROJECT / "results" / "smoke"
    assert study_dir("smoke", "") == results_root() / "smoke"
    assert study_dir("smoke", tmp_path) == tmp_path / "smoke"


def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "folder" / "table.csv"
    with atomic(path) as part:
        part.write_text("old")
    with pytest.raises(KeyError), atomic(path) as part:
        part.write_text("new")
        raise KeyError
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["table.csv"]


def test_a_folder_is_replaced_whole(tmp_path):
    for name in ("a", "b"):
        with atomic(tmp_path / "report") as part:
            part.mkdir()
            (part / name).touch()
    assert os.listdir(tmp_path / "report") == ["b"]


def test_a_second_holder_of_a_lock_is_turned_away(tmp_path):
    with lock(tmp_path / "x" / ".lock"), pytest.raises(BlockingIOError), lock(tmp_path / "x" / ".lock"):
        pass
    with lock(tmp_path / "x" / ".lock"):
        assert (tmp_path / "x" / ".lock").exists()


def test_a_fingerprint_sees_new_changed_and_renamed_files(tmp_path):
    (tmp_path / "a").write_text("1")
    seen = [fingerprint(tmp_path)]
    (tmp_path / "a").write_text("22")
    seen.append(fingerprint(tmp_path))
    (tmp_path / "a").rename(tmp_path / "b")
    seen.append(fingerprint(tmp_path))
    (tmp_path / "c").touch()
    seen.append(fingerprint(tmp_path))
    assert len(set(seen)) == 4
    assert fingerprint(tmp_path) == seen[-1]


def test_user_paths_are_looked_up_in_the_project_then_beside_the_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert user_path("mine") == tmp_path / "mine"
    assert user_path("studies") == PROJECT / "studies"


# ---- what killed processes leave


WRITER = """
import sys, time
from pathlib import Path
from qtl_utils.study.paths import atomic, scratch
with atomic(Path(sys.argv[1]) / "table.csv") as file, atomic(Path(sys.argv[1]) / "report") as folder, scratch() as used:
    file.write_text("half")
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "page").touch()
    print(used, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """A process that is amid writing in tmp_path/"study", and its temporary folder."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", WRITER, str(tmp_path / "study")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        used = Path(process.stdout.readline().strip())
        yield process, used
        process.kill()


def test_what_a_killed_writer_left_is_swept_away_and_a_living_ones_is_not(tmp_path, writer):
    process, used = writer
    before = sorted(path for path in (tmp_path / "study").rglob("*"))
    assert len(before) == 4
    sweep(tmp_path / "study")
    assert (sorted((tmp_path / "study").rglob("*")), used.is_dir()) == (before, True)
    process.kill()
    process.wait()
    assert used in sweep(tmp_path / "study")
    assert (list((tmp_path / "study").iterdir()), used.exists()) == ([], False)


def test_the_parts_of_other_hosts_stay_for_a_day(tmp_path):
    part = tmp_path / f".{'0' * 8}.{'1' * 8}.1.part.csv"
    part.touch()
    assert part not in sweep(tmp_path)
    os.utime(part, (time.time() - 2 * 24 * 3600,) * 2)
    assert part in sweep(tmp_path)


def test_a_number_that_another_process_was_given_since_is_no_writer(tmp_path):
    part = tmp_path / f".{'0' * 8}.{HOST}.{os.getpid()}.part"
    part.touch()
    assert part not in sweep(tmp_path)
    os.utime(part, (0, 0))  # before this process was started
    assert part in sweep(tmp_path)


def test_files_that_only_look_like_parts_stay(tmp_path):
    for name in ("table.part", ".hidden.1.part", "a.csv", ".lock"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert len(os.listdir(tmp_path)) == 4


def test_a_name_as_long_as_the_disk_takes_is_written(tmp_path):
    with atomic(tmp_path / ("a" * 251 + ".csv")) as part:
        part.touch()
    assert len(os.listdir(tmp_path)) == 1


def test_temporary_folders_are_short_enough_for_sockets(tmp_path, monkeypatch):
    deep = tmp_path / ("a" * 100)
    deep.mkdir()
    monkeypatch.setattr("qtl_utils.study.paths._scratch_roots", lambda: [str(deep), tempfile.gettempdir()])
    with scratch() as folder:
        assert len(os.fsencode(folder / "k-12345")) < 100
    assert not folder.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG, errno.EMFILE, 9999])
def test_an_error_of_the_system_names_the_file_and_a_way_out(tmp_path, number):
    with pytest.raises(OSError) as caught, atomic(tmp_path / "table.csv"):
        raise OSError(number, os.strerror(number))
    assert trouble(caught.value).startswith(f"{tmp_path / 'table.csv'}: ")
    assert trouble(caught.value).count("\n") == 0


def test_a_message_of_our_own_stays_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="^there is none$"), atomic(tmp_path / "table.csv"):
        raise FileNotFoundError("there is none")
