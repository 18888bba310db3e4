"""Protocols: the same trainings under each, against the curves of their epochs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small_inputs import CONFIG, WITH_BATCHNORM, WITHOUT, make_inputs

from qtl_utils.analyses import protocols
from qtl_utils.analyses.frozen import has_batchnorm
from qtl_utils.results.published_results import LAST, ON_TEST, ON_VALIDATION
from qtl_utils.study.config import DataConfig
from qtl_utils.training.variants import fit_variant


@pytest.fixture(scope="module", params=[WITHOUT, WITH_BATCHNORM])
def inputs(request):
    return make_inputs(request.param)


def test_peeking_keeps_train_and_test_and_drops_validation(inputs):
    found = protocols.without_validation(inputs).splits
    assert found.protocol == "as_published" and found.n_splits == 2
    for subset, n in (("train", 20), ("validation", 0), ("test", 15)):
        assert len(found.indices(1, subset)) == n
    assert np.array_equal(found.indices(1, "test"), inputs.splits.indices(1, "test"))


def test_the_published_partition_is_that_of_the_source_else_one_split(inputs):
    assert protocols.published_partition(inputs).splits.n_splits == 1
    given = replace(inputs.data, given=("train",) * 40 + ("validation",) * 20)
    found = protocols.published_partition(replace(inputs, data=given)).splits
    assert found.indices(0, "train").tolist() == list(range(40))
    assert found.indices(0, "test").tolist() == list(range(40, 60))


def test_splits_are_drawn_only_where_there_is_nothing_to_validate_on(inputs):
    assert protocols.repeated_splits(inputs) is inputs
    found = protocols.repeated_splits(protocols.published_partition(inputs), n_splits=3)
    assert found.splits.n_splits == 3 and len(found.splits.indices(2, "validation")) == 12


def test_the_same_trainings_are_scored_three_times(inputs):
    scores = protocols.both_protocols(["C"], inputs, CONFIG).set_index(["protocol", "seed"])["accuracy"]
    curve = fit_variant("C", protocols.without_validation(inputs), CONFIG).history[:, :, 1, 1]
    assert scores[ON_TEST].to_numpy() == pytest.approx(curve.max(axis=1))
    assert scores[LAST].to_numpy() == pytest.approx(curve[:, -1])
    chosen = fit_variant("C", inputs, CONFIG).best_epoch - 1
    assert scores[ON_VALIDATION].to_numpy() == pytest.approx(curve[np.arange(4), chosen])


def test_curves_hold_the_test_accuracy_of_every_epoch(inputs):
    scores, curves = protocols.as_published(["A", "C"], inputs, CONFIG)
    last = curves[curves["epoch"] == 4].set_index(["model", "seed"])["accuracy"]
    expected = scores[scores["protocol"] == LAST].set_index(["model", "seed"])["accuracy"]
    pd.testing.assert_series_equal(last, expected, check_names=False)
    assert set(scores["split"]) == {0} and len(curves) == 2 * 4 * 4


def test_the_scheduler_matters_only_where_a_decay_comes_early(inputs):
    decaying = CONFIG.model_copy(update={"lr_step": 2})
    never = protocols.both_schedules(["C"], inputs, CONFIG).pivot(index="seed", columns="protocol", values="loss")
    early = protocols.both_schedules(["C"], inputs, decaying).pivot(index="seed", columns="protocol", values="loss")
    assert never["before"].equals(never["after"])
    assert (early["before"] != early["after"]).all()


def test_an_epoch_chosen_on_the_test_images_is_never_worse_on_them(inputs):
    scores = protocols.both_protocols(["A", "C"], inputs, CONFIG).set_index(["protocol", "model", "seed"])["accuracy"]
    for other in (LAST, ON_VALIDATION):
        assert (scores[ON_TEST] - scores[other]).min() >= 0


@pytest.mark.parametrize(("given", "named"), [("digits", "mine"), ("ants_bees", "lent")])
def test_what_lacks_images_or_batchnorm_is_lent_digits_and_a_resnet(tmp_path, given, named):
    found = protocols.stand_in(tmp_path, "mine", DataConfig(dataset=given, n_splits=2))
    assert has_batchnorm(found) and len(found.pixels) and (tmp_path / named / "splits.json").is_file()
    assert found.splits.n_splits == (2 if given == "digits" else 5)
