"""Another run is compared with the reference: conclusions first, then numbers."""

import json

import pandas as pd
import pytest
import synthetic

from qtl_utils.results import runs, tables, verify

CLAIMS = pd.DataFrame({"notebook": ["03"] * 2, "claim": ["a", "b"], "found": ["1", "2"], "confirmed": [True, False]})


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    made = tables.every(runs.read_runs(synthetic.study(tmp_path_factory.mktemp("study"), n_seeds=6)))
    return made | {"claims": CLAIMS}


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


def decided(frames):
    """The first row of a test of the family that was decided."""
    rows = frames["comparisons"]
    return rows[rows["family"] & rows["verdict"].isin(verify.DECIDED)].index[0]


def test_a_study_agrees_with_itself(check):
    found = check("accuracy")
    assert found.ok and found.numbers > 40 and found.outside.empty
    assert (found.frozen > 5, found.largest) == (True, 0)
    n = len(found.conclusions)
    assert n > 6 and str(found).startswith(f"{n} of {n} conclusions are the same")


def test_another_verdict_is_another_conclusion_shown_with_both_intervals(check, frames):
    row = decided(frames)
    found = check("comparisons", row=row, verdict="higher", low=0.25, high=0.75)
    assert not found.ok
    text = str(found)
    assert "here: higher [0.25, 0.75]" in text
    there = frames["comparisons"].loc[row]
    assert f"reference: {there['verdict']} [{there['low']}, {there['high']}]" in text


def test_higher_contradicts_lower_and_nothing_else_does(check, frames):
    row = decided(frames)
    was = frames["comparisons"].loc[row, "verdict"]
    found = check("comparisons", row=row, verdict={"lower": "higher"}.get(was, "lower"))
    assert len(found.opposed) == (was in ("lower", "higher"))
    assert check("comparisons", row=row, verdict="equivalent").opposed.empty


@pytest.mark.parametrize(("row", "confirmed"), [(0, False), (1, True)])
def test_a_claim_that_comes_out_otherwise_is_another_conclusion(check, row, confirmed):
    found = check("claims", row=row, confirmed=confirmed)
    assert not found.ok and "differs: 03: " in str(found)


def test_what_is_found_may_differ_as_long_as_the_claim_holds(check):
    assert check("claims", found="17").ok


def test_comparisons_outside_the_family_are_no_conclusions(check, frames):
    row = frames["comparisons"].query("not family").index[0]
    assert check("comparisons", row=row, verdict="higher").ok


def test_a_number_may_move_within_the_references_interval(check, frames):
    rows = frames["comparisons"]
    row = rows[(rows["metric"] == "accuracy") & (rows["high"] - rows["value"] > 0.01)].index[0]
    assert check("comparisons", row=row, value=rows.loc[row, "high"] - 1e-6).outside.empty
    found = check("comparisons", row=row, value=rows.loc[row, "high"] + 1e-3)
    assert len(found.outside) == 1 and "outside: comparisons: " in str(found)
    assert found.ok, "numbers alone do not change a conclusion"


def test_a_frozen_head_may_differ_by_rounding_only(check, frames):
    rows = frames["accuracy"]
    row = rows[(rows["variant"] == "A") & rows["accuracy"].notna()].index[0]
    found = check("accuracy", row=row, accuracy=rows.loc[row, "accuracy"] + 0.002)
    assert found.largest == pytest.approx(0.002) and "more than rounding" in str(found)
    row = rows[(rows["variant"] == "B") & rows["accuracy"].notna()].index[0]
    assert check("accuracy", row=row, accuracy=0.123).largest == 0


def test_heads_on_a_backbone_that_the_study_trains_are_not_held_to_rounding(check, frames, tmp_path):
    rows = frames["accuracy"]
    row = rows[(rows["variant"] == "A") & rows["accuracy"].notna()].index[0]
    study = {"backbones": {rows.loc[row, "backbone"]: {"init": "source"}}}
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "study.json").write_text(json.dumps(study))
    assert check("accuracy", row=row, accuracy=0.123).largest == 0


@pytest.mark.parametrize("column", ["one_seed_seconds", "peak_memory_bytes"])
def test_times_and_memory_are_not_compared(check, column):
    assert check("accuracy", **{column: 1e9}).outside.empty


def test_what_a_run_lacks_is_said(frames, tmp_path):
    tables.save(frames, tmp_path / "reference" / "tables")
    tables.save({"accuracy": frames["accuracy"].iloc[1:]}, tmp_path / "new" / "tables")
    found = verify.verify(tmp_path / "new", tmp_path / "reference")
    assert set(found.conclusions["here"]) == {"not there"}
    assert found.outside["here"].isna().all() and len(found.outside) > 10
    assert found.largest == float("inf")


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
