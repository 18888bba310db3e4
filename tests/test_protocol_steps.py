"""Steps between protocols, and what two counts can prove, against enumeration and sums by hand."""

from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest

from qtl_utils.results import protocol_steps, stats
from qtl_utils.results.published_results import LAST, ON_TEST, ON_VALIDATION


def scores(**accuracy):
    """Six seeds on three splits; a protocol each, its accuracies a list over seeds."""
    names = {"last": LAST, "test": ON_TEST, "validation": ON_VALIDATION}
    rows = [
        ("A", names[key], s, s % 3, value, 0.5, 50, 100)
        for key, values in accuracy.items()
        for s, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=["model", "protocol", "seed", "split", "accuracy", "loss", "n", "n_train"])


LAST_ONES, TEST_ONES = [0.5, 0.6, 0.7, 0.5, 0.6, 0.7], [0.52, 0.66, 0.72, 0.54, 0.62, 0.72]


def test_a_step_is_the_corrected_t_of_paired_split_means():
    made = scores(last=LAST_ONES, test=TEST_ONES).sample(frac=1, random_state=0)
    row = protocol_steps.step(made, "x", ("A", ON_TEST), ("A", LAST))
    means = [np.mean([0.02, 0.04]), np.mean([0.06, 0.02]), np.mean([0.02, 0.02])]
    expected = stats.corrected_t(means, 0.5)
    assert row["value"] == pytest.approx(np.mean(means))
    assert (row["low"], row["high"]) == pytest.approx((expected["low"], expected["high"]))
    assert (row["n_splits"], row["n_seeds"]) == (3, 6)


def test_only_choices_made_on_the_scored_images_are_by_construction():
    rows = protocol_steps.selection_steps(scores(last=LAST_ONES, test=TEST_ONES, validation=LAST_ONES), "A")
    assert [(row["step"].split(" - ")[0], row["by_construction"]) for row in rows] == [
        ("best epoch on test", True),
        ("best epoch on test", True),
        ("best epoch on validation", False),
    ]


@pytest.mark.parametrize(
    ("interval", "by_construction", "end"),
    [
        ((-0.01, 0.03), False, "too small to tell from zero."),
        ((0.01, 0.03), False, "(3 splits, 6 seeds)."),
        ((-0.01, 0.03), True, "only its size tells something."),
        ((np.nan, np.nan), False, "without an interval (3 splits, 6 seeds)."),
    ],
)
def test_a_sentence_claims_what_its_interval_allows(interval, by_construction, end):
    row = {"step": "x", "model": "A", "value": 0.01, "low": interval[0], "high": interval[1], "n_seeds": 6}
    row |= {"n_splits": 3, "n_sources": 0, "interval": stats.OVER_SPLITS, "by_construction": by_construction}
    assert protocol_steps.step_sentence(row).endswith(end)


def test_the_spread_of_a_lead_is_that_of_seeds_within_splits():
    made = pd.concat([scores(last=LAST_ONES), scores(last=[0.5, 0.5, 0.6, 0.3, 0.4, 0.9]).assign(model="C")])
    within = [np.std([0.0, 0.2], ddof=1), np.std([0.1, 0.2], ddof=1), np.std([0.1, -0.2], ddof=1)]
    assert protocol_steps.spread(made, "A", "C", LAST) == pytest.approx(np.mean(within))


def test_models_are_compared_under_each_protocol():
    made = pd.concat([scores(last=LAST_ONES, test=TEST_ONES), scores(last=[0.5] * 6, test=TEST_ONES).assign(model="C")])
    rows = protocol_steps.between_models(made, "A", "C", [LAST, ON_TEST])
    assert [row["value"] for row in rows] == pytest.approx([0.1, 0.0]) and rows[0]["model"] == "A - C"


def test_a_lead_counts_trainings_and_the_spread_of_seeds_within_splits():
    other = scores(last=[0.5, 0.7, 0.7, 0.5, 0.5, 0.5]).assign(model="C")
    (line,) = protocol_steps.lead_sentences(pd.concat([scores(last=LAST_ONES), other]), "A", "C")
    assert "ahead of C in 2 of 6 trainings, level in 3" in line
    assert "spread A by 0.0 points and C by 9.4" in line  # 0, 0.2 / sqrt 2 twice


def test_pairings_are_all_overlaps_of_two_sets():
    found = protocol_steps.pairings(3, 2, 5)
    a = {0, 1, 2}
    overlaps = {(len(a - set(b)), len(set(b) - a)) for b in combinations(range(5), 2)}
    assert set(zip(found["only_a"], found["only_b"], strict=True)) == overlaps


def test_no_pairing_of_the_published_counts_is_significant():
    found = protocol_steps.pairings(148, 146, 153)

    def p(a, b):  # two-sided, from the binomial sum
        return min(1, 2 * sum(comb(a + b, k) for k in range(min(a, b) + 1)) / 2 ** (a + b))

    expected = [p(a, b) for a, b in zip(found["only_a"], found["only_b"], strict=True)]
    np.testing.assert_allclose(found["p"], expected)
    assert found["p"].min() == pytest.approx(0.5)


def test_what_is_detectable_is_the_first_one_sided_difference():
    needed = protocol_steps.detectable(153)
    assert 2 * 0.5**needed < 0.05 <= 2 * 0.5 ** (needed - 1)


@pytest.mark.parametrize("counts", [(154, 146), (3, -1)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match=r"right of 153: expected counts between 0 and 153"):
        protocol_steps.pairings(*counts, 153)


@pytest.mark.parametrize(("counts", "word"), [((148, 146), "cannot tell"), ((150, 100), "can tell")])
def test_a_sentence_says_whether_counts_can_tell_models_apart(counts, word):
    assert word in protocol_steps.count_sentences(*counts, 153)[1]


def test_intervals_of_accuracies_stay_within_zero_and_one():
    table = protocol_steps.score_table({"x": scores(last=[0.99, 0.7, 1.0, 0.99, 0.6, 1.0])})
    row = table.loc[0]
    assert 0.99 < row["high"] <= 1.0 and 0 <= row["low"] < row["accuracy"] == pytest.approx(0.88)


def test_what_became_of_every_image_narrows_the_steps():
    """Two models that differ on the same few images in every split: the interval is that of the images."""
    rng = np.random.default_rng(0)
    rows = []
    for split in range(6):
        for model, wrong in (("A", 2), ("C", 0)):
            right = np.where(np.arange(40) < 30 + rng.integers(2), 1.0, 0.0)
            right[:wrong] = 0
            images = np.stack([right, right])
            row = {"model": model, "protocol": "last", "seed": split, "split": split, "accuracy": right.mean()}
            rows.append(row | {"n": 40, "n_train": 40, "images": images})
    frame = pd.DataFrame(rows)
    found = protocol_steps.step(frame, "circuit", ("A", "last"), ("C", "last"))
    older = protocol_steps.step(frame.drop(columns="images"), "circuit", ("A", "last"), ("C", "last"))
    assert found["value"] == older["value"] and found["interval"] == "over splits and test images"
    assert older["interval"] == "Nadeau-Bengio t over splits"
