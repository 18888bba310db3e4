"""A new run is compared with the reference cell by cell."""

import pandas as pd
import pytest
import synthetic

from qtl_utils import runs, tables, verify


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    return tables.every(runs.read_runs(synthetic.study(tmp_path_factory.mktemp("study"), n_seeds=6)))


@pytest.fixture
def check(frames, tmp_path):
    """Compares the tables after a change with the tables before it."""
    tables.save(frames, tmp_path / "reference" / "tables")

    def after(name, row=0, **changes):
        changed = {key: frame.copy() for key, frame in frames.items()}
        for column, value in changes.items():
            changed[name][column] = changed[name][column].astype(object)
            changed[name].loc[row, column] = value
        tables.save(changed, tmp_path / "new" / "tables")
        return verify.verify(tmp_path / "new", tmp_path / "reference")

    return after


def test_a_table_agrees_with_itself(check):
    found = check("accuracy")
    assert found.ok and found.cells > 500 and "agree" in str(found)


def test_a_count_must_be_equal(check, frames):
    found = check("accuracy", n=7)
    assert not found.ok
    row = found.differences.iloc[0]
    assert (row["table"], row["column"], row["got"], row["expected"]) == ("accuracy", "n", "7", "6")
    assert row["row"] == "ants_bees / resnet18-source / 2019 / as_published / A"


@pytest.mark.parametrize("share", [0.9, -0.9])
def test_an_accuracy_within_tolerance_agrees(check, frames, share):
    first = frames["accuracy"].iloc[0]
    allowed = max(0.03, 3 * first["sd"] / 6**0.5)
    assert check("accuracy", accuracy=first["accuracy"] + share * allowed).ok
    assert not check("accuracy", accuracy=first["accuracy"] + share / 0.9 * 1.1 * allowed).ok


def test_a_difference_may_move_within_its_interval(check, frames):
    rows = frames["comparisons"]
    row = rows[(rows["metric"] == "accuracy") & (rows["high"] - rows["value"] > 0.04)].index[0]
    assert check("comparisons", row=row, value=rows.loc[row, "high"] - 1e-6).ok
    assert not check("comparisons", row=row, value=rows.loc[row, "high"] + 1e-3).ok


def test_an_average_may_move_within_its_interval():
    row = pd.Series({"mean": "0.5", "low": "0.4", "high": "0.7"})
    assert verify.tolerance("mean", row) == pytest.approx(0.2)
    assert verify.tolerance("mean", row.replace({"0.4": "0.49", "0.7": "0.51"})) == verify.ABSOLUTE


@pytest.mark.parametrize("column", ["one_seed_seconds", "peak_memory_bytes", "low"])
def test_times_memory_and_interval_ends_are_not_compared(check, column):
    assert check("accuracy", **{column: 1e9}).ok


@pytest.mark.parametrize(
    ("changes", "ok"),
    [
        ({"collapsed": 2}, True),
        ({"collapsed": 3}, False),
        ({"best_chosen_on": "validation"}, False),
        ({"trainable": 2087}, False),
        ({"loss": 9.0}, False),
        ({"accuracy": None}, False),
    ],
)
def test_other_columns_follow_their_rule(check, changes, ok):
    assert check("accuracy", **changes).ok == ok


def test_missing_rows_columns_and_tables_are_listed(frames, tmp_path):
    tables.save(frames, tmp_path / "reference" / "tables")
    less = {"accuracy": frames["accuracy"].iloc[1:].drop(columns="ece"), "comparisons": frames["comparisons"]}
    tables.save(less, tmp_path / "new" / "tables")
    found = verify.verify(tmp_path / "new", tmp_path / "reference").differences
    assert set(found["got"]) == {"no such table", "no such row", "no such column"}
    assert set(found[found["got"] == "no such table"]["table"]) == {"accuracy_2d", "factorial", "tuning"}


def test_more_than_the_reference_holds_is_fine(frames, tmp_path):
    tables.save({"accuracy": frames["accuracy"].iloc[:3]}, tmp_path / "reference" / "tables")
    tables.save(frames, tmp_path / "new" / "tables")
    assert verify.verify(tmp_path / "new", tmp_path / "reference").ok


def test_missing_folders_are_one_clear_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No reference tables in .*expected"):
        verify.verify(tmp_path, tmp_path)
    (tmp_path / "reference" / "tables").mkdir(parents=True)
    pd.DataFrame({"n": [1]}).to_csv(tmp_path / "reference" / "tables" / "t.csv")
    with pytest.raises(FileNotFoundError, match=r"No tables in .*run that study first"):
        verify.verify(tmp_path / "new", tmp_path / "reference")
