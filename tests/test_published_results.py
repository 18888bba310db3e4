"""The published numbers and the table that sets ours beside them, on numbers made up for it."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from qtl_utils.results import published_results as results
from qtl_utils.results.published_results import KEYS, LAST, OF_2019, ON_TEST, TODAY


def accuracies(circuit=0.1, tasks=("moons",), seeds=4):
    """Accuracies of the classical net around 0.8, the circuit ahead by `circuit`; today's Adam a point lower."""
    rows = []
    for task in tasks:
        for optimizer, less in ((OF_2019, 0), (TODAY, 0.01)):
            for seed in range(seeds):
                for variant, more in (("C-block", 0), ("A", circuit)):
                    value = 0.8 + more - less + 0.001 * seed * (1 if variant == "A" else 3)
                    rows.append((task, variant, optimizer, seed, 0, 0, value))
                    rows += [(task, variant, optimizer, 0, 0, 1, value - 0.02)] * (seed == 0 and variant == "C-block")
    return pd.DataFrame(rows, columns=["task", "variant", "optimizer", "seed", "split", "copy", "accuracy"])


def scores(model="A", shift=0.0, n_splits=3):
    rows = [
        (model, p, s, s % n_splits, 0.9 + shift + 0.01 * s, 0.3, 50, 100) for p in (LAST, ON_TEST) for s in range(6)
    ]
    return pd.DataFrame(rows, columns=["model", "protocol", "seed", "split", "accuracy", "loss", "n", "n_train"])


def test_every_published_number_has_its_own_keys():
    assert not results.published_table().duplicated(KEYS).any()


def test_the_published_curve_ends_and_peaks_at_the_published_accuracies():
    table = results.published_table().set_index(KEYS)["published"]
    rounded = np.round(np.array(results.CURVE_OF_2019) / results.IMAGES, 4)
    assert len(rounded) == 30
    assert rounded.max() == table["ants/bees", "A", ON_TEST, "accuracy"]
    assert rounded[-1] == table["ants/bees", "A", LAST, "accuracy"]


def test_the_published_seed_stands_beside_the_mean_of_all():
    row = results.plane_table(accuracies()).set_index(["model", "setting"]).loc[("A", OF_2019)]
    assert row["ours"] == pytest.approx(0.9) and row["ours_is"] == "the published run"
    assert row["mean"] == pytest.approx(np.mean([0.9, 0.901, 0.902, 0.903]))
    assert row["sd"] == pytest.approx(np.std([0, 0.001, 0.002, 0.003], ddof=1))
    assert row["low"] < row["mean"] < row["high"] and row["n_seeds"] == 4


def test_copies_of_the_published_seed_give_the_range_of_rounding_and_enter_no_mean():
    row = results.plane_table(accuracies()).set_index(["model", "setting"]).loc[("C-block", OF_2019)]
    assert (row["rounding_low"], row["rounding_high"]) == pytest.approx((0.78, 0.8))
    assert row["mean"] == pytest.approx(np.mean([0.8, 0.803, 0.806, 0.809])) and row["n_seeds"] == 4


def test_a_deviation_has_a_cause_and_none_has_none():
    table = results.plane_table(accuracies(circuit=0.165)).set_index(["model", "setting"])["cause"]
    assert table["A", OF_2019] == ""  # 0.965, as published
    assert table["C-block", OF_2019] == "rounding" and "Adam" in table["A", TODAY]


def test_images_have_accuracy_and_loss_of_every_protocol():
    table = results.images_table(scores(), "resnet18", "other draws").set_index(["protocol", "metric"])
    assert set(table.index) == {(p, m) for p in (LAST, ON_TEST) for m in ("accuracy", "loss")}
    assert table.loc[(LAST, "accuracy"), "ours"] == pytest.approx(0.925)
    assert table.loc[(LAST, "loss"), "ours"] == pytest.approx(0.3)


def test_every_number_is_computed_or_says_why_not():
    ours = pd.concat([results.images_table(scores(), "resnet18", "other draws")])
    table = results.beside(ours, {"square": "left out", "ants/bees, B": "no time"})
    assert len(table) == len(results.PUBLISHED)
    why = table.set_index(KEYS)["computed"]
    assert why["ants/bees", "A", LAST, "accuracy"] == "yes"
    assert set(why["square"]) == {"not computed: left out"}
    assert why["ants/bees", "B", ON_TEST, "accuracy"] == "not computed: no time"
    assert set(why["moons"]) == {"not computed: not run in this study"}


def test_the_deviation_is_ours_minus_the_published():
    table = results.beside(results.plane_table(accuracies()), {}).set_index(["task", "model", "setting"])
    assert table.loc[("moons", "A", OF_2019), "deviation"] == pytest.approx(0.9 - 0.965)
    assert table.loc[("moons", "C-block", TODAY), "deviation"] == pytest.approx(0.79 - 0.975)


def test_intervals_of_accuracies_stay_within_zero_and_one_and_losses_may_leave():
    wide = scores(shift=0.05).assign(loss=[0.1, 3.0, 5.0] * 4)
    table = results.images_table(wide, "resnet18", "").set_index(["protocol", "metric"])
    assert table.loc[(LAST, "accuracy"), "high"] == 1.0 and table.loc[(LAST, "loss"), "high"] > 1


def test_numbers_stay_numbers_where_most_rows_are_absent():
    table = results.beside(results.no_rows(), {})
    assert all(pd.api.types.is_numeric_dtype(table[c]) for c in [*results.NUMBERS, *results.COUNTS, "deviation"])


def test_nothing_of_ours_leaves_the_published_numbers_alone():
    table = results.beside(results.no_rows(), {})
    assert table["published"].equals(results.published_table()["published"])
    assert table["computed"].str.startswith("not computed").all()


def test_sentences_count_what_was_reproduced():
    made = accuracies(circuit=0.165)
    first, second, rounding, third = results.plane_sentences(results.plane_table(made), made)
    assert "1 of 2 published accuracies come out to the third decimal" in first and "17.5 points" in first
    assert "up to 1.0 points" in second
    assert (
        "change 1 of these 2 runs" in rounding and "C-block on moons: it ends anywhere from 0.780 to 0.800" in rounding
    )
    assert third.startswith("moons: circuit minus classical net is +16.2 points [") and "ahead in 4 of them" in third


def test_a_published_number_between_the_ends_of_the_copies_is_as_published_up_to_rounding():
    ends = {"published": [0.80, 0.80, 0.80], "rounding_low": [0.75, 0.82, 0.70], "rounding_high": [0.85, 0.90, 0.76]}
    assert results.up_to_rounding(pd.DataFrame(ends)).tolist() == [True, True, False]
    assert results.up_to_rounding(pd.DataFrame(ends).iloc[:0]).all()  # none is asked for


def test_the_published_lead_is_two_images_and_minus_one():
    lead = {protocol: round(results.IMAGES * value) for protocol, value in results.published_lead().items()}
    assert lead == {ON_TEST: 2, LAST: -1}


def test_tables_and_figures_need_neither_torch_nor_pennylane():
    code = "import sys, qtl_utils.results.published_plots, qtl_utils.results.protocol_steps\n"
    code += "print({'torch', 'pennylane'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
