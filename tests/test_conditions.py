"""Less data, other sizes, noise: each against what it must be by construction."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_attribution import CONFIG, INPUTS, ZEROED

from qtl_utils.analyses import attribution, conditions
from qtl_utils.models.backbones import load_backbone
from qtl_utils.study.config import BackboneConfig


@pytest.fixture(scope="module")
def trained():
    return attribution.train_variant("A", INPUTS, CONFIG)


def test_thinned_splits_are_nested_stratified_and_leave_the_rest_alone():
    labels, half = INPUTS.data.labels, conditions.thin(INPUTS.splits, INPUTS.data.labels, 0.5)
    quarter = conditions.thin(INPUTS.splits, labels, 0.25)
    for split in range(2):
        whole, some, few = (s.indices(split, "train") for s in (INPUTS.splits, half, quarter))
        assert set(few) < set(some) < set(whole)
        expected = [round(0.5 * n) for n in np.bincount(labels[whole])]
        assert np.bincount(labels[some]).tolist() == expected
        assert (half.indices(split, "test") == INPUTS.splits.indices(split, "test")).all()


def test_a_fraction_that_is_none_is_refused():
    with pytest.raises(ValueError, match="fraction 1.5 of the training data: expected more than 0 and at most 1"):
        conditions.thin(INPUTS.splits, INPUTS.data.labels, 1.5)


def test_less_data_means_as_many_steps():
    found = conditions.efficiency(["C"], INPUTS, CONFIG, [0.5, 1.0]).groupby("fraction")
    assert found["epoch"].first().tolist() == [6, 3]
    assert found["n"].min().tolist() == [10, 10] and found["n"].max().tolist()[1] == 24


def test_sizes_are_trained_as_asked():
    metrics, travel = conditions.sizes(INPUTS, CONFIG.model_copy(update={"epochs": 1}), [2, 3], [1])
    keys = set(zip(metrics["varied"], metrics["size"], metrics["variant"], strict=True))
    arms = ("A", ZEROED, "A-none")
    assert keys == {(*key, arm) for key in (("qubits", 2), ("qubits", 3), ("depth", 1)) for arm in arms}
    assert set(travel["varied"]) == {"qubits", "depth"}


def test_a_backbone_that_learns_too_leaves_or_trains_the_angles(monkeypatch):
    kept = []
    real = conditions.fit_network
    monkeypatch.setattr(conditions, "fit_network", lambda *a, **k: kept.append(real(*a, **k)) or kept[-1])
    backbone = BackboneConfig(model="tiny_vit", init="random")
    pixels = np.random.default_rng(0).integers(0, 255, (48, 3, 32, 32), np.uint8)
    state = load_backbone("tiny_vit", 32, "random").network.state_dict()
    features = torch.zeros(48, load_backbone("tiny_vit", 32, "random").n_features)
    inputs = replace(INPUTS, pixels=pixels, backbone=backbone, state=state, image_size=32, features=features)
    config = CONFIG.model_copy(update={"epochs": 1, "batch_size": 24, "dtype": "float32"})
    found = conditions.with_backbone(inputs, config.model_copy(update={"seeds": 1}))
    start = attribution.make_head("A-joint", conditions.head_settings(inputs, config), 0)[2].weights
    trained, left = ((fit.weights["2.weights"][0] - start).abs().max().item() for fit in kept)
    assert trained == pytest.approx(CONFIG.lr_quantum, rel=0.01) and left == 0  # Adam's first step
    assert set(found["variant"]) == {"full, both", "full, classical"} and set(found["seed"]) == {0}


def test_noise_of_no_strength_changes_nothing_and_of_great_strength_all(trained):
    found = conditions.input_noise(trained, [0.0, 50.0])
    quiet, loud = (found[found["level"] == level] for level in (0.0, 50.0))
    np.testing.assert_allclose(quiet["loss"], trained.metrics()["loss"], rtol=1e-9)
    assert loud["accuracy"].mean() < 0.5 < quiet["accuracy"].mean()


def test_shots_converge_to_the_exact_circuit_as_their_root(trained):
    found = conditions.shot_noise(trained, [0, 100, 1_000_000]).set_index("shots")["loss"]
    exact = trained.metrics()["loss"].to_numpy()
    np.testing.assert_allclose(found[0], exact, rtol=1e-9)
    error = {n: np.abs(found[n].to_numpy() - exact).mean() for n in (100, 1_000_000)}
    assert 30 < error[100] / error[1_000_000] < 300  # 100
