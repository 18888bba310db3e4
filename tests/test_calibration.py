"""Simulated studies: whether they are simulated right, and whether our intervals hold the truth in them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from qtl_utils.analyses import calibration, plan
from qtl_utils.results import calibration_plots, stats
from qtl_utils.study.config import DataConfig, TrainConfig

ANTS = calibration.DESIGNS[2]


@pytest.fixture(scope="module")
def population():
    return calibration.fit_population("squeezenet", *calibration.known_features("squeezenet"))


@pytest.fixture(scope="module")
def few(population):
    return calibration.simulate(replace(ANTS, seeds=1), population, 6)


def test_a_population_looks_like_its_sample():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(size=(300, 6)), rng.normal(3, 0.5, size=(100, 6))])
    found = calibration.fit_population("made up", features, np.repeat([0, 1], [300, 100]))
    x, y = found.sample(4000, rng)
    assert found.shares == pytest.approx([0.75, 0.25]) and np.bincount(y).tolist() == [3000, 1000]
    distance = np.linalg.norm(x[y == 1].mean(axis=0) - x[y == 0].mean(axis=0))
    assert distance / x[y == 1].std(axis=0).mean() == pytest.approx(3 * np.sqrt(6) / 0.5, rel=0.15)


def test_closed_heads_learn_and_differ(population):
    rng = np.random.default_rng(0)
    (x, y), (new, labels) = population.sample(300, rng), population.sample(2000, rng)
    found = {name: head(new) for name, head in calibration.closed_heads(x, y, 2, rng).items()}
    assert tuple(found) == calibration.HEADS
    accuracy = {name: np.mean(predicted == labels) for name, predicted in found.items()}
    assert min(accuracy.values()) > 0.6 and accuracy["ridge"] > 0.85 and accuracy["narrow"] < accuracy["ridge"]


def test_a_simulated_study_tests_what_neither_trains_nor_validates(population):
    right, splits = calibration.right_answers(ANTS, population, np.random.default_rng(0))
    for values in right.values():
        assert np.array_equal(np.isfinite(values), splits.subsets == "test")
        assert set(np.unique((6 * values[np.isfinite(values)]).round(6))) <= set(range(7))  # of six seeds


def test_contrasts_are_those_of_the_study():
    values = (0.9, 0.8, 0.7, 0.6, 0.4)
    right = {name: np.full((1, 2), value) for name, value in zip(calibration.HEADS, values, strict=True)}
    found = calibration.contrasts(right)
    assert found["difference", "ridge - narrow"][0, 0] == pytest.approx(0.3)
    assert found["factorial", "interaction"][0, 0] == pytest.approx((0.4 - 0.8) - (0.6 - 0.9))
    assert found["factorial", "main effect"][0, 0] == pytest.approx(((0.6 - 0.9) + (0.4 - 0.8)) / 2)


def test_what_is_counted_of_normal_estimates_is_what_normal_theory_says():
    """Estimates with known errors: coverage .95, the error of four independent tests, TOST at its bound, power."""
    rng = np.random.default_rng(0)
    rows = [
        {"design": "d", "kind": "difference", "what": what, "method": "crossed", "study": study}
        | {"value": 0.3 + rng.normal(0, 0.004), "error": 0.004, "df": 1e6}
        for what in "abcd"
        for study in range(4000)
    ]
    found = pd.DataFrame(rows)
    table = calibration.calibrate(found)
    assert table["coverage"].to_numpy() == pytest.approx(np.full(4, 0.95), abs=0.015)
    power = scipy_stats.norm.sf(1.96 - 2.5) + scipy_stats.norm.cdf(-1.96 - 2.5)
    assert table["power_1"].to_numpy() == pytest.approx(np.full(4, power), abs=0.03)
    alarms = calibration.false_alarms(found).iloc[0]
    assert alarms["family_wise"] == pytest.approx(1 - (1 - 0.05 / 4) ** 4, abs=0.012)
    assert alarms["equivalent"] == pytest.approx(0.05, abs=0.015)
    curve = calibration.power_curve(found).set_index("points")["power"]
    assert curve[0] == pytest.approx(0.05, abs=0.01) and curve[1] == pytest.approx(power, abs=0.02) and curve[4] == 1


def test_tables_sentences_and_figures_are_made(few):
    table, alarms = calibration.calibrate(few), calibration.false_alarms(few)
    assert set(table["method"]) == set(calibration_plots.COLOURS) and table["coverage"].between(0, 1).all()
    assert len(calibration.sentences(table, alarms)) == 4
    assert calibration_plots.coverage(table) and calibration_plots.power(calibration.power_curve(few))


def test_real_heads_are_simulated_too(population):
    small = replace(ANTS, n_images=60, seeds=1, splits={"n_splits": 3, "train": 0.6, "validation": 0.2})
    config = TrainConfig(lr_classical=0.01, epochs=2, depth=1)
    found = calibration.calibrate(calibration.real_estimates(small, population, 2, config))
    assert set(found["what"]) == {"A", "C", "A - C"} and found["truth"].between(-1, 1).all()


def test_a_plan_promises_less_of_fewer_images():
    settings = DataConfig(dataset="ants_bees", n_splits=10)
    many, few = (plan.outlook("mine", settings, n, 2, seeds=10) for n in (400, 100))
    assert few.seen[0] > many.seen[0] and few.seen[1] > many.seen[1] and few.seen[0] < few.seen[1]
    assert many.limit[1] < many.seen[1] and few.images[1] > 100
    said = plan.sentences(few)
    assert said[0].startswith("mine: 10 splits of 100 images (60 train, 20 validate, 20 test). ")
    assert "To see 2 of 100" in said[-1] and "images" in said[-1]


@pytest.mark.slow
@pytest.mark.parametrize("design", calibration.DESIGNS, ids=lambda d: d.name)
def test_intervals_hold_the_truth_as_often_as_they_say(design):
    population = calibration.fit_population(design.population, *calibration.known_features(design.population))
    found = calibration.simulate(design, population, 300, seed=7)
    crossed = calibration.calibrate(found).query("method == 'crossed'")
    three_errors = 3 * np.sqrt(0.05 * 0.95 / 300)
    low, high = calibration_plots.GOOD
    assert crossed["coverage"].between(low - three_errors, high + three_errors).all()
    assert low < crossed["coverage"].mean() < high
    alarms = calibration.false_alarms(found).set_index("method").loc["crossed"]
    assert max(alarms["family_wise"], alarms["equivalent"]) < stats.ALPHA + three_errors
