"""The statistics against scipy, formulas written out by hand, and simulation."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import synthetic
from scipy import stats as scipy_stats
from scipy.special import expit

from qtl_utils.results import runs, stats

A = "the model with the circuit (A)"
C = "the linear head without circuit (C)"
RATIO = 0.5  # n_test / n_train of synthetic.metrics


def noise(shape, seed=0, scale=0.01):
    return np.random.default_rng(seed).normal(0, scale, shape)


@pytest.fixture
def two():
    return synthetic.metrics({"A": 0.8 + noise((5, 4), 1), "C": 0.7 + noise((5, 4), 2)})


def test_paired_is_the_formula_of_nadeau_and_bengio(two):
    found = stats.paired(two, "A", "C")
    d = (noise((5, 4), 1) - noise((5, 4), 2)).mean(axis=1) + 0.1
    error = np.sqrt(d.var(ddof=1) * (1 / 5 + RATIO))
    low, high = scipy_stats.t.interval(0.95, 4, d.mean(), error)
    p = 2 * scipy_stats.t.sf(d.mean() / error, 4)
    assert (found.value, found.low, found.high, found.p) == pytest.approx((d.mean(), low, high, p))
    assert (found.n_splits, found.n_seeds, found.n_pairs) == (5, 20, 20)


def test_without_shared_images_it_is_scipys_one_sample_t():
    means = noise(7, 3)
    found, scipy_found = stats.corrected_t(means, 0), scipy_stats.ttest_1samp(means, 0)
    interval = scipy_found.confidence_interval()
    assert found["p"] == pytest.approx(scipy_found.pvalue)
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))


def test_a_naive_paired_t_over_all_seeds_is_narrower(two):
    found = stats.paired(two, "A", "C")
    d = (noise((5, 4), 1) - noise((5, 4), 2)).ravel() + 0.1
    naive = scipy_stats.ttest_1samp(d, 0).confidence_interval()
    assert naive.high - naive.low < (found.high - found.low) / 2


def resampled_means(rng, n=300, n_test=60, n_splits=10):
    """Means of J random test sets drawn from one finite sample, as repeated splits of one data set are."""
    sample = rng.normal(0, 1, n)
    return np.array([rng.choice(sample, n_test, replace=False).mean() for _ in range(n_splits)])


def test_the_corrected_interval_covers_and_the_naive_one_does_not():
    rng, hits, naive_hits = np.random.default_rng(0), 0, 0
    for _ in range(400):
        means = resampled_means(rng)
        found = stats.corrected_t(means, 60 / 240)
        naive = scipy_stats.ttest_1samp(means, 0).confidence_interval()
        hits += found["low"] < 0 < found["high"]
        naive_hits += naive.low < 0 < naive.high
    assert hits / 400 > 0.93
    assert naive_hits / 400 < 0.85


def test_only_common_pairs_are_compared():
    metrics = synthetic.metrics({"A": [[0.8, 0.1], [0.8, 0.1]], "B": [[0.9], [0.85]]})
    found = stats.paired(metrics, "B", "A")
    assert found.value == pytest.approx(0.075)
    assert (found.n_pairs, found.n_seeds) == (2, 2)


def test_order_of_a_and_b_only_changes_the_sign(two):
    one, other = stats.paired(two, "A", "C"), stats.paired(two, "C", "A")
    assert (one.value, one.low, one.high, one.p) == pytest.approx((-other.value, -other.high, -other.low, other.p))


def test_one_split_gives_seed_variation_only():
    found = stats.paired(synthetic.metrics({"A": 0.8 + noise((1, 6)), "C": np.full((1, 6), 0.7)}), "A", "C")
    interval = scipy_stats.ttest_1samp(noise(6) + 0.1, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert np.isnan(found.p) and found.interval == "seed variation only, this split"
    assert "seed variation only, this split" in stats.sentence(found)


def test_groups_cannot_be_mixed(two):
    mixed = pd.concat([two, two.assign(settings="tuned")])
    with pytest.raises(ValueError, match="metrics mix several dataset / backbone / settings / protocol"):
        stats.paired(mixed, "A", "C")


def test_a_table_without_training_rows_is_refused(two):
    with pytest.raises(ValueError, match="no rows with subset 'train'"):
        stats.paired(two[two["subset"] == "test"], "A", "C")


def test_wilson_against_scipy_and_the_published_counts():
    assert stats.wilson(148, 153) == pytest.approx((0.926, 0.986), abs=5e-4)
    assert stats.wilson(146, 153) == pytest.approx((0.909, 0.978), abs=5e-4)
    z, p, n = 1.959964, 146 / 153, 153
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert stats.wilson(146, 153) == pytest.approx(((centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)))


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.9, 0.5]) == pytest.approx([1.0, 1.0])


def test_holm_counts_a_member_that_was_not_run():
    assert stats.holm([0.01, np.nan]) == pytest.approx([0.02, np.nan], nan_ok=True)


def test_tost_passes_exactly_when_the_90_percent_interval_is_inside():
    for value in (0.0, 0.005, -0.009, 0.0101, 0.03):
        low, high = scipy_stats.t.interval(0.90, 9, value, 0.0055)
        assert (stats.tost(value, 0.0055, 9) < 0.05) == (low > -0.02 and high < 0.02)


def test_mcnemar_of_the_best_published_pairing():
    assert stats.mcnemar_exact(2, 0) == 0.5
    assert stats.mcnemar_exact(0, 0) == 1.0
    assert stats.mcnemar_exact(1, 9) == pytest.approx(2 * scipy_stats.binom.cdf(1, 10, 0.5))


def test_wilcoxon_is_refused_below_six():
    with pytest.raises(ValueError, match="at least 6 differences, got 5"):
        stats.wilcoxon([0.1] * 5)
    assert stats.wilcoxon([1, 2, 3, 4, 5, 6]) == pytest.approx(2 / 2**6)


def test_factorial_recovers_the_effects_put_in():
    base, circuit, full, both = 0.7, 0.03, 0.1, -0.02
    shared = noise((4, 3), 5)
    cells = {"C": base, "B": base + full, "A": base + circuit, "A-joint": base + circuit + full + both}
    metrics = synthetic.metrics({k: v + shared + noise((4, 3), 6, 1e-6) * (k == "A") for k, v in cells.items()})
    found = stats.factorial(metrics).set_index("effect")["value"]
    assert found.to_list() == pytest.approx([circuit + both / 2, full + both / 2, both], abs=1e-5)


def test_factorial_interval_is_that_of_the_split_means():
    values = {v: 0.8 + noise((4, 3), i) for i, v in enumerate(["A", "B", "C", "A-joint"])}
    found = stats.factorial(synthetic.metrics(values)).set_index("effect").loc["interaction"]
    d = (values["A-joint"] - values["B"] - values["A"] + values["C"]).mean(axis=1)
    low, high = scipy_stats.t.interval(0.95, 3, d.mean(), d.std(ddof=1) * np.sqrt(1 / 4 + RATIO))
    assert (found["low"], found["high"]) == pytest.approx((low, high))


def test_factorial_without_one_cell_says_which(two):
    found = stats.factorial(two)
    assert found["value"].isna().all() and set(found["note"]) == {"not run: B, A-joint"}


def test_the_family_is_fixed_and_adjusted_together():
    levels = {"A": 0.8, "C": 0.7, "C-matched": 0.78, "A-none": 0.8, "B": 0.9}
    metrics = synthetic.metrics({v: x + noise((6, 3), i, 0.005) for i, (v, x) in enumerate(levels.items())})
    found = stats.family(metrics)
    assert [c.b for c in found] == ["C", "C-matched", "A-none", "A-surrogate"]
    assert found[0].p_holm == pytest.approx(4 * found[0].p)  # four tests, though one was not run
    assert found[3].not_run == "A-surrogate not run" and np.isnan(found[3].p_holm)
    assert [(c.a, c.b) for c in stats.others(metrics)] == [("A", "B"), ("B", "C")]


def family(a, c):
    return stats.family(synthetic.metrics({"A": a, "C": c}))[0]


@pytest.mark.parametrize(
    ("a", "c", "expected"),
    [
        (
            0.80 + noise((5, 4), 1),
            0.7,
            f"T{A[1:]} is right more often than {C}, by about 10 of 100 images: A minus C is +10.",
        ),
        (
            0.70 + noise((5, 4), 1),
            0.8,
            f"T{A[1:]} is right less often than {C}, by about 10 of 100 images: A minus C is -10.",
        ),
        (
            0.80 + noise((5, 4), 1, 0.004),
            0.8,
            f"T{A[1:]} and {C} are equally good to within 2 of 100 images: A minus C is +0.0 points [",
        ),
        (
            0.80 + noise((5, 4), 1, 0.1),
            0.8,
            f"We cannot tell whether {A} or {C} is right more often; a difference under about 13 of 100 images",
        ),
        (np.full((5, 1), 0.75), 0.5, "A minus C is +25.0 points in every split, so there is no variation"),
        (
            np.full((5, 1), np.nan),
            0.5,
            f"T{A[1:]} was not compared with {C}: some of the 5 values are not numbers.",
        ),
        (
            np.full((1, 1), 0.75),
            0.5,
            "On this one split: A minus C is +25.0 points (1 split, 1 seed; seed variation only",
        ),
        (0.8 + noise((2, 1), 1), 0.7, "We cannot tell whether the model with"),
    ],
)
def test_sentences_say_what_the_numbers_allow(a, c, expected):
    found = stats.sentence(family(a, np.full(np.shape(a), c)))
    assert found.startswith(expected), found


def test_a_missing_variant_is_said_to_be_missing(two):
    said = stats.sentence(stats.paired(two, "A", "A-surrogate"))
    assert said.startswith("The model with the circuit (A) was not compared with the classical stand-in")
    assert said.endswith("(A-surrogate not run).")


def test_lower_gives_the_size_of_the_difference_and_its_ends():
    found = replace(family(noise((5, 4), 1), noise((5, 4), 2)), value=-0.05, low=-0.07, high=-0.03, p_holm=0.01)
    found = replace(found, p_equivalent=0.9)
    assert stats.sentence(found) == (
        f"T{A[1:]} is right less often than {C}, by about 5 of 100 "
        "images: A minus C is -5.0 points [-7.0, -3.0] (5 splits, 20 seeds)."
    )


def test_a_difference_that_holm_doubts_is_explained():
    found = replace(family(noise((5, 4), 1), noise((5, 4), 2)), value=0.05, low=0.01, high=0.09, p_holm=0.06)
    said = stats.sentence(replace(found, p_equivalent=0.9))
    assert "of 4 comparisons one does so by chance more easily than a single one" in said and "(Holm)" in said


def test_higher_needs_both_the_interval_and_holm():
    found = replace(family(noise((5, 4), 1), noise((5, 4), 2)), value=0.05, low=0.01, high=0.09)
    for p_holm, low, expected in [
        (0.04, 0.01, "higher"),
        (0.06, 0.01, "not distinguishable"),
        (0.04, -0.01, "not distinguishable"),
    ]:
        assert stats.verdict(replace(found, p_holm=p_holm, low=low, p_equivalent=0.9)) == expected


def test_outside_the_family_nothing_is_claimed(two):
    found = stats.sentence(stats.paired(two, "A", "C"))
    assert found.startswith("A minus C is +10.") and "outside the fixed family, not tested" in found


def test_loss_is_not_given_in_points(two):
    found = stats.paired(two, "A", "C", metric="loss")
    assert np.isnan(found.p_equivalent) and "A minus C in loss is -0.10" in stats.sentence(found)


def test_summary_by_hand():
    values = 0.8 + noise((5, 4), 1)
    row = stats.summary(synthetic.metrics({"A": values})).iloc[0]
    means = values.mean(axis=1)
    mean = means.mean()
    error = means.std(ddof=1) * np.sqrt(1 / 5 + RATIO) / (mean * (1 - mean))
    low, high = expit(scipy_stats.t.interval(0.95, 4, np.log(mean / (1 - mean)), error))
    assert tuple(row[["mean", "sd", "low", "high"]]) == pytest.approx((values.mean(), values.std(ddof=1), low, high))
    assert (row["n"], row["n_splits"]) == (20, 5)


def test_collapsed_seeds_are_counted():
    made = synthetic.run(n_seeds=6)
    metrics = runs.tidy(made["metrics"], "metrics")
    counts = stats.class_counts(runs.tidy(made["predictions"], "predictions"))
    found = stats.summary(metrics, n_classes=counts).set_index("variant")["collapsed"]
    assert counts == {"digits": 3}
    assert found["C-matched-relu"] == 1 and found.sum() == 1


def test_a_collapsed_model_is_seen_however_uneven_the_classes():
    rows = pd.DataFrame({"balanced_accuracy": [0.5, 0.51, 0.6]})  # accuracy may be 0.9 in the first row
    assert stats.collapsed(rows, 2).to_list() == [True, True, False]


# ---- initial backbones as a level ------------------------------------------------------------------------------------


def backbone_effects(n_splits, n_sources, sd_backbone, rng):
    """A - C in every split: what its backbone does, plus what the split does."""
    return rng.normal(0, sd_backbone, n_sources)[np.arange(n_splits) % n_sources] + rng.normal(0, 0.01, n_splits)


def test_a_backbone_for_every_split_makes_the_usual_test_over_splits(two):
    other = synthetic.metrics({"A": 0.8 + noise((5, 4), 1), "C": 0.7 + noise((5, 4), 2)}, n_sources=5)
    found, usual = stats.paired(other, "A", "C"), stats.paired(two, "A", "C")
    assert found.n_sources == 5 and usual.n_sources == 0
    assert (found.low, found.high, found.p, found.interval) == (usual.low, usual.high, usual.p, usual.interval)


def test_backbones_that_splits_share_are_the_units():
    values = {"A": 0.8 + noise((12, 2), 1), "C": 0.7 + noise((12, 2), 2)}
    found = stats.paired(synthetic.metrics(values, n_sources=4), "A", "C")
    by_split = (values["A"] - values["C"]).mean(axis=1)
    units = [by_split[source::4].mean() for source in range(4)]  # split j starts from backbone j mod 4
    expected = stats.corrected_t(units, 3 * RATIO)  # three splits to each
    assert (found.value, found.low, found.high) == tuple(expected[key] for key in ("value", "low", "high"))
    assert (found.n_splits, found.n_sources, found.interval) == (12, 4, stats.OVER_SOURCES)


def test_averages_over_the_splits_of_a_backbone_are_corrected_for_being_more_alike():
    """The variance of the mean of 12 equally correlated splits, from their 12 values and from 4 averages of 3."""
    rho = RATIO / (1 + RATIO)  # the correlation that Nadeau and Bengio assume
    covariance = rho + (1 - rho) * np.eye(12)
    average = np.kron(np.eye(4), np.ones(3) / 3)
    for sizes, ratio in ((covariance, RATIO), (average @ covariance @ average.T, 3 * RATIO)):
        J = len(sizes)
        expected_sample_variance = np.trace(sizes) / J - sizes.mean()
        expected_sample_variance *= J / (J - 1)
        assert expected_sample_variance * (1 / J + ratio) == pytest.approx(covariance.mean())


@pytest.mark.parametrize(
    ("n_sources", "covers"),
    [(12, True), *(pytest.param(*values, marks=pytest.mark.slow) for values in [(4, True), (1, False)])],
)
def test_intervals_cover_the_variation_of_backbones_where_there_are_several(n_sources, covers):
    rng, hits = np.random.default_rng(0), 0
    for _ in range(300):
        values = {"A": backbone_effects(12, n_sources, 0.05, rng)[:, None] + 0.5, "C": np.full((12, 1), 0.5)}
        found = stats.paired(synthetic.metrics(values, n_test=5, n_sources=n_sources), "A", "C")
        hits += found.low <= 0 <= found.high
    assert (hits / 300 > 0.93) == covers


def test_what_an_interval_covers_is_said():
    values = {"A": 0.8 + noise((6, 2), 1), "C": 0.7 + noise((6, 2), 2)}
    told = {}
    for n_sources in (None, 1, 3, 6):
        found = stats.paired(synthetic.metrics(values, n_sources=n_sources), "A", "C")
        told[n_sources] = stats.described(found), stats.sentence(found), stats.covered(pd.DataFrame([vars(found)]))
    row = pd.DataFrame([vars(found)]).iloc[0]
    assert stats.counts(row) == stats.counts(found) == "6 splits, 12 seeds, 6 initial backbones"
    assert told[None][0] == stats.OVER_SPLITS and not told[None][2] and "backbone" not in told[None][1]
    assert told[1][0].endswith("holds for one initial backbone") and "12 seeds, 1 initial backbone;" in told[1][1]
    assert "for that backbone alone" in told[1][2][0]
    assert told[3][0] == f"{stats.OVER_SOURCES}; 3 initial backbones"
    assert told[6][0] == f"{stats.OVER_SPLITS}; 6 initial backbones" and "draws 6 initial" in told[6][2][0]


# ---- splits x images -------------------------------------------------------------------------------------------------


def crossed_by_hand(values, units):
    """The variance of the module's docstring, with loops instead of matrices."""
    means = {j: np.nanmean(row) for j, row in enumerate(values)}
    of_unit = {u: np.mean([means[j] for j in means if units[j] == u]) for u in set(units)}
    k = len(of_unit)
    splits_part = np.var(list(of_unit.values()), ddof=1) / k
    products, overlaps = [], []
    for i in means:
        for j in means:
            if units[i] != units[j]:
                both = np.isfinite(values[i]) & np.isfinite(values[j])
                products += list((values[i][both] - means[i]) * (values[j][both] - means[j]))
                overlaps.append(both.sum() / np.isfinite(values[i]).sum() / np.isfinite(values[j]).sum())
    rest = [(row - means[j])[np.isfinite(row)] for j, row in enumerate(values)]
    largest = sum((r**2).sum() for r in rest) / (sum(map(len, rest)) - len(rest))
    component = min(max(np.mean(products), 0), largest) if products else 0
    images_part = component * np.mean(overlaps)
    n = np.isfinite(values).any(axis=0).sum()
    variance = splits_part + images_part
    df = variance**2 / (splits_part**2 / (k - 1) + images_part**2 / (n - 1))
    return np.sqrt(1.15 * variance), df


@pytest.mark.parametrize("units", [[0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 1, 2]])
@pytest.mark.parametrize("tested", [0.3, 1.0])
def test_the_crossed_error_is_what_loops_give(units, tested):
    rng = np.random.default_rng(3)
    values = rng.normal(size=(6, 40)) + rng.normal(size=40) + rng.normal(size=(6, 1))
    values[rng.random(values.shape) > tested] = np.nan
    found = stats.crossed_parts(values, units)
    assert (found.error, found.df) == pytest.approx(crossed_by_hand(values, units))


def test_folds_that_share_no_image_leave_scipys_t():
    """One round of folds: nothing is tested twice, so only the spread of the splits is left (and UNSEEN)."""
    rng = np.random.default_rng(0)
    values = np.full((5, 50), np.nan)
    for j in range(5):
        values[j, 10 * j : 10 * j + 10] = rng.normal(size=10)
    found = stats.crossed_parts(values, range(5))
    assert found.error == pytest.approx(np.sqrt(1.15) * scipy_stats.sem(np.nanmean(values, axis=1)))
    assert (found.images, found.df) == pytest.approx((0, 4))


def test_models_that_agree_on_every_split_leave_the_images():
    """Every split gives the same values for the same 30 images: more splits tell nothing more, more images would."""
    image = np.random.default_rng(0).normal(size=30)
    found = stats.crossed_parts(np.tile(image, (8, 1)), range(8))
    assert found.error == pytest.approx(
        np.sqrt(1.15 * (image - image.mean()) @ (image - image.mean()) * 8 / (30 * 8 - 8) / 30), rel=0.04
    )
    assert (found.splits, found.df) == pytest.approx((0, 29))


def test_the_detectable_difference_is_detected_as_often_as_it_says():
    rng = np.random.default_rng(0)
    seen = 0
    one = stats.estimate(
        pd.Series(dtype=float, index=pd.MultiIndex.from_arrays([[], []], names=["seed", "split"])), 0.5
    )
    least = stats.detectable(replace(one, error=1.0, df=20.0))
    for _ in range(2000):
        error = np.sqrt(rng.chisquare(20) / 20)  # as an estimate with 20 degrees of freedom comes out around 1
        seen += abs(least + rng.normal()) > scipy_stats.t.ppf(0.975, 20) * error
    assert 0.78 < seen / 2000 < 0.84
    assert np.isnan(stats.detectable(one))
