"""Sentences about who learned say what was put into the numbers, and no more."""

import numpy as np
import pandas as pd
import pytest
from synthetic import metrics

from qtl_utils.results import conclusions, stats

ZEROED = conclusions.ZEROED


def arm(mean, spread=0.01, n_splits=10, per_split=3, seed=0):
    return mean + spread * np.random.default_rng(seed).normal(size=(n_splits, per_split))


def made(**means):
    names = {"zeroed": ZEROED, "matched": "C-matched", "none": "A-none", "surrogate": "A-surrogate", "zero": "A-zero"}
    return metrics({names.get(name, name): arm(mean, seed=i) for i, (name, mean) in enumerate(means.items())})


USED_ONLY = {"A": 0.8, "zeroed": 0.6, "C": 0.8, "matched": 0.801, "none": 0.799, "surrogate": 0.8}


def test_used_and_useful_are_told_apart():
    used, useful = conclusions.used_and_useful(made(**USED_ONLY))
    assert used.startswith("Are the trained angles used? Yes: The model with the circuit (A) is right more")
    assert useful.startswith("Is the circuit useful? Not shown: A is higher than none of C, C-matched, A-none, A-surr")
    assert "equivalent in 4" in useful and "10 splits, 30 seeds; Nadeau-Bengio t over splits, Holm" in useful


def test_useful_needs_all_of_the_family():
    better = made(**USED_ONLY | {"C": 0.6, "matched": 0.6, "none": 0.6, "surrogate": 0.6})
    assert "Yes: A is higher than all of C, C-matched" in conclusions.used_and_useful(better)[1]
    partly = made(**USED_ONLY | {"C": 0.6})
    assert "Only in part: A is higher than C (" in conclusions.used_and_useful(partly)[1]


def test_nothing_is_claimed_of_noise():
    one = metrics({name: arm(0.7, 0.1, seed=i) for i, name in enumerate(["A", ZEROED, *stats.FAMILY])})
    used, useful = conclusions.used_and_useful(one)
    assert "Not shown" in used and "We cannot tell" in used and "Not shown" in useful


def test_the_ladder_adjusts_each_family_apart():
    table = conclusions.ladder(made(**USED_ONLY, zero=0.7)).set_index("b")
    assert table["kind"].to_dict()[ZEROED] == "used" and (table["kind"].drop(ZEROED) == "useful").all()
    assert table.loc["A-zero", "p_holm"] == pytest.approx(table.loc["A-zero", "p"])  # alone in its family
    family = table.loc[["C", "C-matched", "A-none", "A-surrogate"]]
    assert family["p_holm"].min() == pytest.approx(min(1, 4 * family["p"].min())) and len(table) == 6
    assert table.loc[ZEROED, "value"] == pytest.approx(0.2, abs=0.01)


def test_every_sentence_names_test_n_and_interval():
    for sentence in conclusions.ladder(made(**USED_ONLY))["sentence"]:
        assert (
            "Nadeau-Bengio t over splits, Holm over" in sentence
            and "10 splits, 30 seeds" in sentence
            and "[" in sentence
        )


def test_one_split_claims_no_test():
    one = metrics({"A": arm(0.8, n_splits=1, per_split=9), ZEROED: arm(0.6, n_splits=1, per_split=9, seed=1)})
    (sentence,) = conclusions.tested(conclusions.relied_on(one))
    assert "seed variation only" in sentence and "Nadeau" not in sentence and "higher" not in sentence


def cells(neither, angles, classical, both):
    values = {"neither": neither, "angles": angles, "classical": classical, "both, concurrent": both}
    return metrics({name: arm(mean, 0.004, seed=i) for i, (name, mean) in enumerate(values.items())})


def test_the_benefit_is_the_interaction_put_in():
    table = conclusions.benefit(cells(0.5, 0.6, 0.7, 0.9), ["concurrent"]).set_index(["metric", "effect"])
    assert table.loc[("accuracy", "interaction"), "value"] == pytest.approx(0.1, abs=0.01)
    assert table.loc[("accuracy", "angles"), "value"] == pytest.approx(0.15, abs=0.01)
    assert table.loc[("loss", "classical layers"), "value"] == pytest.approx(-0.25, abs=0.01)


def test_the_backbone_is_a_factor_of_its_own():
    joint = metrics({"full, classical": arm(0.75, 0.004, seed=8), "full, both": arm(0.75, 0.004, seed=9)})
    table = conclusions.backbone_benefit(cells(0.5, 0.6, 0.7, 0.8), joint).set_index(["metric", "effect"])
    values = [table.loc[("accuracy", name), "value"] for name in ("angles", "backbone", "interaction")]
    assert values == pytest.approx([0.05, 0, -0.1], abs=0.01)


def test_effects_without_evidence_are_said_to_be_none():
    lines = conclusions.effects(conclusions.benefit(cells(0.5, 0.5, 0.7, 0.7), ["concurrent"]))
    found = {line.partition(":")[0]: line for line in lines}
    assert "too small to tell from zero" in found["concurrent, interaction on accuracy"]
    assert "too small" not in found["concurrent, classical layers on accuracy"]
    assert "10 splits, 30 seeds; Nadeau-Bengio t over splits, Holm over 2" in lines[0] and "points [" in lines[0]


def test_an_interval_without_zero_that_holm_doubts_is_said_so():
    row = {"schedule": "s", "metric": "accuracy", "effect": "interaction", "value": 0.1, "low": 0.01, "high": 0.2}
    rows = [row | {"p": p, "n_splits": 5, "n_seeds": 5, "n_sources": 0, "interval": ""} for p in (0.04, 0.5)]
    assert (
        "no proof with 2 such tests allowed for (Holm), though the interval leaves out zero"
        in conclusions.effects(pd.DataFrame(rows))[0]
    )


def along(*differences):
    frames = [
        metrics({"A": arm(0.7, 0.003) + d, "C": arm(0.7, 0.004, seed=9)}).assign(size=i)
        for i, d in enumerate(differences)
    ]
    return conclusions.along(pd.concat(frames), "size", "A", "C")


def test_a_curve_is_said_to_differ_where_it_does():
    text = conclusions.crossing(along(0.0, 0.2, 0.0), "size", "A minus C")
    assert text.count("at size") == 1 and "at size 1" in text and "too small to tell from zero elsewhere" in text
    nothing = conclusions.crossing(along(0.0, 0.0), "size", "A minus C")
    assert nothing.startswith("A minus C: too small to tell from zero at any size from 0 to 1 (10 splits")


def test_movement_is_given_with_its_interval():
    seeds = np.arange(20)
    table = pd.DataFrame({"stage": "circuit", "seed": seeds, "split": seeds % 5, "net": 0.03 + 0.001 * (seeds % 5)})
    (line,) = conclusions.moved(table.assign(path=0.06 + 0.001 * (seeds % 5), largest=0.1), 0.5, {"circuit": 0.27})
    expected = stats.corrected_t(0.03 + 0.001 * np.arange(5), 0.5)
    assert f"net movement 0.032 rad [{expected['low']:.3g}, {expected['high']:.3g}]" in line
    assert "sum of learning rates 0.27" in line and "5 splits, 20 seeds; Nadeau-Bengio t" in line


def test_averages_and_levels_have_a_row_per_key():
    found = conclusions.levels(made(A=0.8, C=0.7)).set_index("variant")
    assert list(found.index) == ["A", "C"] and found.loc["A", "loss"] == pytest.approx(1 - found.loc["A", "accuracy"])
    rows = pd.DataFrame({"arm": "x", "seed": range(8), "split": [0, 1] * 4, "changed": np.arange(8) / 8})
    assert conclusions.averages(rows, ["arm"], ["changed"], 0.5)["mean"].item() == pytest.approx(3.5 / 8)


def test_nothing_chosen_gives_an_empty_table():
    assert conclusions.against(pd.DataFrame(), "A", ["C"]).empty
