"""BatchNorm of a frozen backbone, against training the network itself step by step."""

import numpy as np
import torch
from small_inputs import CONFIG, WITH_BATCHNORM, WITHOUT, make_inputs

from qtl_utils.analyses import frozen
from qtl_utils.analyses.protocols import replica_scores
from qtl_utils.analyses.tutorial import fit_networks
from qtl_utils.models.heads import make_head
from qtl_utils.models.network import Network
from qtl_utils.results.published_results import LAST
from qtl_utils.training.variants import head_settings


def test_only_a_backbone_with_batchnorm_thaws():
    for model, expected in ((WITHOUT, False), (WITH_BATCHNORM, True)):
        found = make_inputs(model)
        assert frozen.has_batchnorm(found) == expected
        drift = frozen.thaw(found, 2, 4).drift[["training", "testing"]]
        assert (drift > 0.01).all(axis=None) if expected else (drift < 1e-5).all(axis=None)


def test_without_batchnorm_both_modes_are_the_same():
    inputs = make_inputs()
    scores = frozen.both_modes("C", inputs, frozen.thaw(inputs, 4, 4), CONFIG).set_index("protocol")["loss"]
    np.testing.assert_allclose(scores["train mode"], scores["eval mode"], rtol=1e-4)


def test_train_mode_is_what_training_the_network_itself_gives():
    inputs = make_inputs(WITH_BATCHNORM)
    before = {name: value.clone() for name, value in inputs.state.items()}
    config, settings = CONFIG.model_copy(update={"seeds": 2}), head_settings(inputs, CONFIG)
    build = lambda seed: Network(frozen.thawed_backbone(inputs), make_head("C", settings, seed))  # noqa: E731
    whole = replica_scores(fit_networks(build, inputs, config), inputs, "C")
    thawed = frozen.thaw(inputs, config.epochs, config.batch_size)
    found = frozen.both_modes("C", inputs, thawed, config)
    expected = whole[whole["protocol"] == LAST]["loss"]
    np.testing.assert_allclose(found[found["protocol"] == "train mode"]["loss"], expected, rtol=1e-3)
    assert all(torch.equal(before[name], value) for name, value in inputs.state.items())


def test_a_last_sample_alone_joins_the_batch_before():
    sizes = [[len(batch) for batch in frozen.whole_batches(np.arange(n), 4)] for n in (9, 10, 12, 1)]
    assert sizes == [[4, 5], [4, 4, 2], [4, 4, 4], [1]]
