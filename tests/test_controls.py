"""The instruments on tasks with a known answer: a circuit that must help is found useful, an idle one is not."""

import numpy as np
import pytest
import torch

from qtl_utils.analyses import controls
from qtl_utils.models.heads import Squash, TrigonometricFeatures
from qtl_utils.results import conclusions, stats
from qtl_utils.study.config import TrainConfig

RATES = {"lr_classical": 0.05, "lr_quantum": 0.05}
CONFIG = TrainConfig(n_qubits=3, depth=3, angle_init=0.3, batch_size=16, epochs=20, seeds=12, **RATES)


@pytest.fixture(scope="module", params=[0, 1])
def known(request):
    return {task: controls.run_control(task, CONFIG, 500, 6, seed=request.param) for task in controls.TASKS}


def test_a_circuit_that_must_help_is_found_useful(known):
    metrics = known["circuit decides"]
    assert controls.detected(metrics, ["A-zero", "A-none", "C"])
    assert stats.paired(metrics, "A", "A-surrogate").low < 0.02  # which contains the hidden circuit and may tie


def test_a_circuit_that_cannot_matter_is_not(known):
    metrics = known["circuit irrelevant"]
    assert not controls.detected(metrics)
    assert all(stats.paired(metrics, "A", other).high < 0.06 for other in ("C", "A-none"))


def test_zeroing_hurts_in_both_so_that_it_tells_them_not_apart(known):
    for metrics in known.values():
        assert stats.paired(metrics, "A", conclusions.ZEROED).low > 0.05


def test_the_hidden_score_is_multilinear_in_the_encoding_and_hardly_linear():
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(400, 3)))
    score = controls.hidden_score(features, CONFIG, rng)
    multilinear = TrigonometricFeatures()(Squash("tanh")(features)).numpy()  # 27 terms contain any such circuit
    linear = np.c_[features.numpy(), np.ones(400)]
    left = [np.linalg.lstsq(basis, score, rcond=None)[1].sum() / (score @ score) for basis in (multilinear, linear)]
    assert left[0] < 1e-20 and left[1] > 0.5


def test_the_idle_circuit_has_a_linear_class():
    inputs = controls.control_inputs("circuit irrelevant", CONFIG, 400, 2)
    x, y = inputs.features.numpy(), 2 * inputs.data.labels - 1
    direction = np.linalg.lstsq(x, y, rcond=None)[0]
    assert (np.sign(x @ direction - np.median(x @ direction)) == y).mean() > 0.97


def test_pre_layers_are_the_identity_and_stay_it():
    inputs = controls.control_inputs("circuit decides", CONFIG, 100, 2)
    head = controls.control_head("A", inputs, CONFIG, 0)
    assert torch.equal(head[0].weight, torch.eye(3)) and not head[0].weight.requires_grad
    assert isinstance(controls.control_head("C", inputs, CONFIG, 0), torch.nn.Linear)


def test_an_unknown_control_is_refused():
    with pytest.raises(ValueError, match="unknown control 'circuit'"):
        controls.control_inputs("circuit", CONFIG, 100, 2)
