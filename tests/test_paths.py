"""Writes happen whole or not at all; the lock turns a second holder away; a changed file is noticed."""

import os

import pytest

from qtl_utils.paths import PROJECT, atomic, fingerprint, lock, results_root, study_dir, user_path


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
