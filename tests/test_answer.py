"""The first screen: two sentences and a figure that say what the comparisons say, and no more."""

import pandas as pd
import pytest

from qtl_utils.results import answer
from qtl_utils.study.paths import PROJECT


def comparisons(*verdicts, value=-0.1):
    """A minus C on one data set a verdict, all of the family."""
    rows = [
        {"dataset": f"d{i}", "verdict": verdict, "value": value, "low": value - 0.02, "high": value + 0.02}
        for i, verdict in enumerate(verdicts)
    ]
    same = {"backbone": "vit", "settings": "tuned", "protocol": "repeated", "a": "A", "b": "C", "metric": "accuracy"}
    return pd.DataFrame(rows).assign(**same, family=True)


@pytest.mark.parametrize(
    ("verdicts", "begins"),
    [
        (
            ["lower", "equivalent", "not distinguishable"],
            "No: the model with the quantum circuit was right more often in none",
        ),
        (["higher", "equivalent"], "Yes, at times: the model with the quantum circuit was right more often in 1 of 2"),
        (["higher", "lower"], "It depends: of 2 comparisons"),
        (["not distinguishable"] * 2, "We cannot tell: "),
        (["equivalent"], "No: the model with the quantum circuit was right more often in none of the one comparison"),
        (["not run", "one split"], "This study cannot say"),
    ],
)
def test_the_first_sentence_is_the_answer(verdicts, begins):
    assert answer.sentences(comparisons(*verdicts))[0].startswith(begins)


def test_settings_that_are_called_like_a_number_stay_text(tmp_path):
    comparisons("lower", "equivalent").assign(settings="2019").to_csv(tmp_path / "comparisons.csv", index=False)
    read = answer.read(tmp_path / "comparisons.csv")
    assert answer.figure(read) is not None and set(read["settings"]) == {"2019"}


def test_the_second_sentence_counts_the_rest():
    told = answer.sentences(comparisons("lower", "equivalent", "equivalent", "not distinguishable", "one split"))
    assert told[0].endswith("in none of 4 comparisons with models without it, and less often in 1.")
    assert told[1] == (
        "In 2 both were right equally often (to within 2 of 100 images) and in 1 this study is too small to tell."
    )


def test_what_is_outside_the_family_does_not_count():
    rows = comparisons("lower", "higher")
    rows.loc[1, "family"] = False
    assert "right more often in none of the one comparison" in answer.sentences(rows)[0]


def test_the_figure_has_a_line_for_each_a_and_c_behind_a_backbone():
    rows = comparisons("lower", "equivalent", "not run")
    rows.loc[2, "value"] = None
    other = comparisons("lower").assign(b="C-matched")
    points = comparisons("lower").assign(backbone="none")
    (axes,) = answer.figure(pd.concat([rows, other, points])).axes
    assert [text.get_text() for text in axes.texts] == ["d0, vit, tuned", "d1, vit, tuned"]
    assert answer.figure(points) is None


def test_two_studies_are_drawn_on_one_axis():
    low, high = answer.limits(comparisons("lower", value=-0.2), comparisons("higher", value=0.05))
    assert low == pytest.approx(-23) and high == pytest.approx(8)
    assert answer.figure(comparisons("lower"), (low, high)).axes[0].get_xlim() == (low, high)


def test_the_words_of_the_figure_are_its_numbers():
    rows = pd.concat([comparisons("lower", "lower"), comparisons("equivalent", value=0.003)], ignore_index=True)
    rows.loc[0, "value"] = -0.15
    told = answer.in_words(rows)
    assert told.endswith("3 settings: equally often in 1 (+0.3); A is right less often in 2 (-15.0 to -10.0)")


def test_a_backbone_called_none_stays_text():
    found = answer.read(PROJECT / "results" / "reference" / "default" / "tables" / "comparisons.csv")
    assert "none" in set(found["backbone"]) and found["family"].dtype == bool and found["value"].dtype == float
