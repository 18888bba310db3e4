"""Two studies side by side: what both say, where they differ, and what was set differently."""

import json

import pandas as pd
import pytest
from test_answer import comparisons

from qtl_utils.results import report_compare


def study(folder, verdict, accuracy, **settings):
    (folder / "tables").mkdir(parents=True)
    comparisons(verdict).to_csv(folder / "tables" / "comparisons.csv", index=False)
    row = {"dataset": "d0", "backbone": "vit", "settings": "tuned", "protocol": "repeated", "variant": "A"}
    pd.DataFrame([row | {"accuracy": accuracy}]).to_csv(folder / "tables" / "accuracy.csv", index=False)
    (folder / "study.json").write_text(json.dumps({"name": folder.name, "runs": {"heads": settings}}))
    return folder


@pytest.fixture
def two(tmp_path):
    return study(tmp_path / "one", "lower", 0.5, seeds=3, depth=6), study(
        tmp_path / "two", "equivalent", 0.625, seeds=5, depth=6
    )


def test_the_page_sets_answers_conclusions_and_settings_beside_each_other(two, tmp_path):
    pages = tmp_path / "pages"
    pages.mkdir()
    report_compare.lay_out(pages, two)
    text = (pages / "index.md").read_text()
    assert text.startswith("# one and two")
    assert (
        "0 of 1 conclusions of one are drawn in two too." in text and "| lower [" in text and "| equivalent [" in text
    )
    assert "| d0 | vit | tuned | repeated | A | 0.5 | 0.625 | 12.5 |" in text
    assert "| runs.heads.seeds | 3 | 5 |" in text and "depth" not in text
    for place in "01":
        assert f"figures/answer-{place}.png" in text and (pages / "extra" / "figures" / f"answer-{place}.png").is_file()
        assert (pages / "extra" / "tables" / f"comparisons-{place}.csv").is_file()


def test_a_study_is_found_by_name_and_by_folder(two):
    assert report_compare.find(str(two[0]), None) == two[0]
    assert report_compare.find("two", str(two[1].parent)) == two[1]


def test_a_study_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="'three' has no results"):
        report_compare.find("three", str(tmp_path))
