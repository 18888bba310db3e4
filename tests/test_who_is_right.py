"""Who is right: shares of trainings per image, and the images that tell most."""

import numpy as np
import pandas as pd
import pytest

from qtl_utils.results import who_is_right
from qtl_utils.results.runs import tidy, write_csv

GROUP = {"dataset": "digits", "backbone": "vit", "settings": "tuned", "protocol": "repeated"}


def predictions():
    """Ten trainings each of A, C and B on four images: A alone knows the first, A alone errs on the second."""
    right = {"one": (10, 0, 0), "two": (1, 9, 8), "three": (2, 0, 1), "four": (10, 10, 10)}
    rows = []
    for name, counts in right.items():
        for variant, n in zip("ACB", counts, strict=True):
            row = GROUP | {"variant": variant, "id": name, "label": "5", "subset": "test", "epoch_kind": "last"}
            rows += [row | {"prediction": "5", "n": n}] * (n > 0) + [row | {"prediction": "6", "n": 10 - n}] * (n < 10)
    return pd.DataFrame(rows)


SHARES = who_is_right.shares(predictions())
PART = SHARES.drop(columns=list(GROUP)).set_index(["id", "label"])


def test_shares_are_those_of_the_trainings_that_were_right():
    found = SHARES.set_index("id")
    assert list(SHARES.columns) == [*GROUP, "id", "label", "A", "B", "C"]
    assert found.loc["two", ["A", "B", "C"]].tolist() == [0.1, 0.8, 0.9]


def test_what_was_not_tested_is_not_wrong():
    some = predictions().query("not (variant == 'C' and id == 'three')")
    assert np.isnan(who_is_right.shares(some).set_index("id").loc["three", "C"])


def test_images_are_counted_by_who_is_right():
    assert who_is_right.counts(PART) == (
        "Of 4 tested images all 3 variants are right about 1, all wrong about 1, and disagree on 2. "
        "A alone of A and C is right about 1, C alone about 1."
    )


def test_the_widest_disagreement_comes_first():
    assert [name for name, _ in who_is_right.disagreed(PART).index] == ["one", "two"]
    assert [name for name, _ in who_is_right.missed(PART).index] == ["three"]
    assert len(who_is_right.disagreed(PART, 1)) == 1


def test_the_table_of_the_page_leaves_out_what_all_know():
    assert who_is_right.telling(SHARES)["id"].tolist() == ["one", "three", "two"]


def test_the_page_shows_images_where_there_are_some_and_names_all():
    asked = []

    def thumbnails(dataset, ids):
        asked.append((dataset, *ids))
        return {"one": b"png"}

    page = who_is_right.page(SHARES, thumbnails)
    assert asked == [("digits", "one", "two"), ("digits", "three")]
    assert page.count("<img") == 1 and 'alt="one, of class 5"' in page
    assert all(f"<code>{name}</code>" in page for name in ("one", "two", "three")) and "<code>four" not in page
    assert "right: A 100 %<br>wrong: B 0 %, C 0 %" in page.replace("\N{NO-BREAK SPACE}", " ")


def test_names_of_files_cannot_become_markup():
    odd = PART.rename(index={"one": '<b>"x"'}, level="id")
    page = who_is_right._card(odd.iloc[odd.index.get_indexer([('<b>"x"', "5")])[0]], b"png")
    assert '<b>"x' not in page and "&lt;b&gt;&quot;x&quot;" in page


@pytest.fixture
def study(tmp_path):
    rows = predictions().assign(study="s", run="heads", probability=0.5)
    unwanted = rows.assign(epoch_kind="best", n=99)
    for run in ("heads", "unfinished"):
        folder = tmp_path / "runs" / "digits" / run
        folder.mkdir(parents=True)
        write_csv(tidy(pd.concat([rows, unwanted]), "predictions"), folder / "predictions.csv")
    (tmp_path / "runs" / "digits" / "heads" / "metrics.csv").touch()
    return tmp_path


def test_only_finished_runs_and_last_epochs_are_read(study):
    pd.testing.assert_frame_equal(who_is_right.shares(who_is_right.read_predictions(study)), SHARES)


def test_a_study_without_predictions_has_no_such_page(tmp_path):
    assert who_is_right.shares(who_is_right.read_predictions(tmp_path)).empty


def test_a_broken_file_of_a_run_does_not_stop_the_report(study):
    broken = study / "runs" / "digits" / "broken"
    broken.mkdir()
    (broken / "predictions.csv").write_text("a,b\n1,2\n")
    (broken / "metrics.csv").touch()
    assert len(who_is_right.shares(who_is_right.read_predictions(study))) == len(SHARES)
