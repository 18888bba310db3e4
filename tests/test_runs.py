"""Tidy results survive the way to disk and back, and nothing wrong gets in."""

import json

import numpy as np
import pandas as pd
import pytest
import synthetic

from qtl_utils.results import runs

SMALL = {"accuracy": {"A": 0.9, "C": 0.8}, "n_seeds": 4, "n_splits": 2}


@pytest.fixture
def made():
    return synthetic.run(**SMALL, settings="tuned")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "study" / "runs" / "digits" / "heads"


def test_what_is_written_is_read_back(made, folder):
    runs.write_run(folder, **made)
    read = runs.read_runs(folder.parents[2])
    for kind in runs.COLUMNS:
        pd.testing.assert_frame_equal(read[kind], runs.tidy(made[kind], kind))
    assert json.loads((folder / "config.json").read_text())["n_seeds"] == 4


def test_equal_numbers_give_equal_bytes_in_any_row_order(made, folder):
    runs.write_run(folder / "one", **made)
    made["metrics"] = made["metrics"].sample(frac=1, random_state=3)
    runs.write_run(folder / "two", **made)
    assert (folder / "one" / "metrics.csv").read_bytes() == (folder / "two" / "metrics.csv").read_bytes()


def test_floats_survive_exactly(made, folder):
    made["metrics"]["loss"] = np.random.default_rng(0).random(len(made["metrics"])) * 1e-7
    runs.write_run(folder, **made)
    expected = runs.tidy(made["metrics"], "metrics")["loss"]
    assert (runs.read_runs(folder.parents[2])["metrics"]["loss"] == expected).all()


def test_types_do_not_depend_on_the_values(made, folder):
    made["variants"]["skipped_reason"] = ""
    made["predictions"]["label"] = made["predictions"]["label"].replace("5", "None")
    runs.write_run(folder, **made)
    read = runs.read_runs(folder.parents[2])
    assert read["metrics"].dtypes[["seed", "split", "epoch", "n"]].eq("int64").all()
    assert set(read["predictions"]["label"]) == {"None", "6", "7"}
    assert read["variants"]["skipped_reason"].eq("").any()
    assert read["variants"]["total"].isna().sum() == 1  # the skipped variant


def test_awkward_names_survive(made, folder):
    made["predictions"]["label"] = 'ants, "red" äö'
    runs.write_run(folder, **made)
    assert set(runs.read_runs(folder.parents[2])["predictions"]["label"]) == {'ants, "red" äö'}


@pytest.mark.parametrize("kind", runs.COLUMNS)
def test_a_missing_column_is_named(made, folder, kind):
    made[kind] = made[kind].drop(columns=runs.COLUMNS[kind][-1])
    with pytest.raises(ValueError, match=f"{kind}.csv: column '{runs.COLUMNS[kind][-1]}' is missing"):
        runs.write_run(folder, **made)


def test_an_unknown_column_in_a_file_is_named(made, folder):
    runs.write_run(folder, **made)
    path = folder / "metrics.csv"
    pd.read_csv(path).assign(colour="red").to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"metrics.csv: unknown column 'colour'"):
        runs.read_runs(folder.parents[2])


@pytest.mark.parametrize(
    ("column", "value"), [("seed", "x"), ("seed", 1.5), ("seed", None), ("loss", "low"), ("subset", "val")]
)
def test_a_wrong_value_is_named_with_its_column(made, column, value):
    made["metrics"][column] = value
    with pytest.raises(ValueError, match=f"column '{column}'"):
        runs.tidy(made["metrics"], "metrics")


def test_a_nan_loss_is_kept(made):
    made["metrics"]["loss"] = np.nan
    assert runs.tidy(made["metrics"], "metrics")["loss"].isna().all()


def test_a_failed_write_leaves_the_old_run_whole(made, folder, monkeypatch):
    runs.write_run(folder, **made)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    made["config"] = {"n_seeds": 5}
    write = runs.write_csv
    fail = iter([False, False, False, True])

    def failing(frame, path):
        if next(fail):
            raise OSError("disk full")
        write(frame.iloc[:1], path)

    monkeypatch.setattr(runs, "write_csv", failing)
    with pytest.raises(OSError, match="disk full"):
        runs.write_run(folder, **made)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_metrics_is_the_last_file_to_appear(made, folder, monkeypatch):
    order = []
    replace = runs.atomic.__wrapped__.__globals__["os"].replace
    monkeypatch.setattr("os.replace", lambda part, path: (order.append(path.name), replace(part, path)))
    runs.write_run(folder, **made)
    assert order[-1] == "metrics.csv" and len(order) == 7


def test_no_run_says_which_notebook_comes_first(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run notebooks/02_train_variant.ipynb first"):
        runs.read_runs(tmp_path)


def test_an_unfinished_run_is_not_read(made, folder):
    runs.write_run(folder, **made)
    (folder.parent / "half").mkdir()
    (folder.parent / "half" / "history.csv").write_text("study\n")
    assert set(runs.read_runs(folder.parents[2])["metrics"]["run"]) == {"heads"}


def test_a_run_without_one_of_its_files_is_an_error(made, folder):
    runs.write_run(folder, **made)
    (folder / "variants.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"variants.csv is missing"):
        runs.read_runs(folder.parents[2])


def test_the_same_seed_twice_under_one_setting_is_an_error(made, folder):
    runs.write_run(folder, **made)
    runs.write_run(folder.parent / "again", **synthetic.run(**SMALL, settings="tuned", name="again"))
    with pytest.raises(ValueError, match="Runs again and heads both hold variant A, seed 0"):
        runs.read_runs(folder.parents[2])


def test_groups_never_mix_settings(tmp_path):
    study = synthetic.study(tmp_path, n_seeds=2)
    parts = runs.groups(runs.read_runs(study)["metrics"])
    assert len(parts) == 6
    assert all(part[runs.GROUP].drop_duplicates().shape[0] == 1 for _, part in parts)


def test_variants_have_one_order_and_own_ones_follow():
    assert runs.in_order(["mine", "C", "A-none", "A", "B", "A"]) == ["A", "B", "C", "A-none", "mine"]
