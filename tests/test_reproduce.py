"""The published experiments run again: their settings, and rows beside the published numbers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from small_inputs import CONFIG, make_inputs

from qtl_utils.analyses import reproduce
from qtl_utils.analyses.protocols import as_published, published_partition
from qtl_utils.models import backbones
from qtl_utils.results import published_results
from qtl_utils.results.published_results import LAST
from qtl_utils.study.config import BackboneConfig
from qtl_utils.training.variants import fit_variant

# ---- points in the plane


@pytest.mark.parametrize(("task", "classical", "circuit"), [("square", 0.905, 0.930), ("moons", 0.975, 0.965)])
def test_square_and_moons_come_out_as_published_up_to_rounding(task, classical, circuit):
    rows = reproduce.plane_accuracies(task, ["adam-pl07"], 1).set_index("variant")["accuracy"]
    ends = rows["C-block"]  # of the published run, then of copies with weights off by 1e-14
    assert len(ends) == 1 + reproduce.COPIES and ends.min() - 0.005 <= classical <= ends.max() + 0.005
    assert abs(rows["A"] - circuit).max() <= 0.015


def test_the_published_run_is_there_whatever_the_first_seed():
    found = reproduce.plane_accuracies("moons", ["adam-pl"], 3, copies=1, first_seed=40).query("variant == 'A'")
    assert found["seed"].tolist() == [0, 41, 42, 0] and found["copy"].tolist() == [0, 0, 0, 1]
    first = reproduce.plane_accuracies("moons", ["adam-pl"], 1, copies=0).query("variant == 'A'")
    assert first["accuracy"].iloc[0] == found["accuracy"].iloc[0]


def test_copies_start_where_the_published_run_starts():
    inputs, config = reproduce.plane_inputs("moons"), reproduce.plane_config("adam-pl", 0.1, 2)
    config = config.model_copy(update={"epochs": 1, "lr_classical": 1e-9})
    weights = reproduce.fit_plane("C-block", inputs, config, [0, 1], 2).weights["0.weight"]
    assert (weights[2:] - weights[0]).abs().max() < 1e-12 < (weights[2:] - weights[1]).abs().max()
    assert not torch.equal(weights[2], weights[0]) and not torch.equal(weights[2], weights[3])


def test_seeds_train_as_in_a_study():
    inputs, config = reproduce.plane_inputs("moons"), reproduce.plane_config("adam-pl07", 0.1, 2)
    config = config.model_copy(update={"epochs": 1})
    expected = fit_variant("A", inputs, config).logits["last"]
    np.testing.assert_allclose(
        reproduce.fit_plane("A", inputs, config, [0, 1], 1).logits["last"][:2], expected, atol=1e-6
    )


def test_plane_settings_are_the_published_ones():
    config = reproduce.plane_config("adam-pl07", 0.1, 3)
    steps = config.epochs * 2000 // config.batch_size
    assert (steps, config.reduction, config.beta2, config.n_qubits, config.depth) == (1000, "sum", 0.99, 5, 5)
    published = {row.task for row in published_results.PUBLISHED}
    assert set(reproduce.PLANE) | set(reproduce.CIFAR) < published


# ---- other numbers


def insects(tmp_path, bias, cut_off=False):
    """Inputs whose weights hold a classifier that prefers one class of the 1000."""
    inputs = make_inputs()
    names = replace(inputs.data, classes=("ants", "bees"), labels=np.arange(60) % 3 % 2)
    state = backbones.build_network("tiny_vit", 32).state_dict()
    state["heads.head.bias"][bias] = 1000.0
    kept = {name: value for name, value in state.items() if not (cut_off and name.startswith("heads"))}
    safetensors.torch.save_file(kept, tmp_path / "w.safetensors")
    backbone = BackboneConfig(model="tiny_vit", init="file", weights=str(tmp_path / "w.safetensors"))
    return replace(inputs, data=names, backbone=backbone)


@pytest.mark.parametrize("bias", [310, 309, 7])
def test_untrained_a_class_is_right_only_if_it_is_the_most_probable_of_all(bias, tmp_path):
    inputs = insects(tmp_path, bias)
    labels = inputs.data.labels[published_partition(inputs).splits.indices(0, "test")]
    expected = {310: np.mean(labels == 0), 309: np.mean(labels == 1), 7: 0}[bias]
    assert reproduce.direct_accuracy(inputs) == pytest.approx(expected)


def test_ants_and_bees_become_rows_and_a_missing_classifier_a_reason(tmp_path):
    inputs = insects(tmp_path, 310, cut_off=True)
    scores, _ = as_published(["A", "C"], inputs, CONFIG)
    rows, absent = reproduce.insect_rows(scores, pd.DataFrame(), inputs, CONFIG)
    table = published_results.beside(rows, absent).set_index(published_results.KEYS)
    assert table.loc[("ants/bees", "A", LAST, "accuracy"), "computed"] == "yes"
    assert table.loc[("ants/bees", "A", LAST, "accuracy"), "cause"].startswith("tiny_vit instead of resnet18")
    assert 0 < table.loc[("ants/bees", "A", published_results.ONE_TRAINING, "minutes"), "ours"] < 1
    why = table.loc[("ants/bees", published_results.UNTRAINED, "1000 classes", "accuracy"), "computed"]
    assert why == "not computed: the weights have no classifier (heads.head.bias is missing)"


def test_without_images_the_untrained_number_is_absent_and_says_why(tmp_path):
    features = replace(insects(tmp_path, 310), pixels=np.empty(0, np.uint8))
    with pytest.raises(ValueError, match="has features only; use dataset: hymenoptera"):
        reproduce.direct_accuracy(features)
    scores, _ = as_published(["A", "C"], features, CONFIG)
    rows, absent = reproduce.insect_rows(scores, pd.DataFrame(), features, CONFIG)
    assert set(rows["model"]) == {"A", "C"} and "only features ship" in absent["ants/bees, B"]


def test_cifar_is_trained_as_published_where_it_is_at_hand(tmp_path, monkeypatch):
    seen, inputs = [], published_partition(make_inputs())
    monkeypatch.setattr(reproduce, "open_inputs", lambda folder, data, backbone: seen.append(data) or inputs)
    monkeypatch.setattr(reproduce, "fit_variant", lambda v, i, config: seen.append(config) or fit_variant(v, i, config))
    rows, absent = reproduce.cifar_rows(tmp_path, str(tmp_path), 32, [20, 10], inputs.backbone)
    assert (
        absent == {}
        and set(rows["task"]) == set(reproduce.CIFAR)
        and set(rows.query("metric == 'loss'")["n_seeds"]) == {3}
    )
    data, config = seen[:2]
    assert (data.dataset, data.protocol, data.options) == (
        "cifar10_cat_dog",
        "as_published",
        {"max_train": 20, "max_test": 10},
    )
    assert (config.depth, config.lr_quantum, config.batch_size, config.epochs) == (5, 0.001, 8, 3)


def test_absent_cifar_says_so():
    rows, absent = reproduce.cifar_rows(None, None, 32, [20, 10], BackboneConfig())
    assert rows.empty and set(absent) == set(reproduce.CIFAR)
    table = published_results.beside(rows, absent).set_index("task")["computed"]
    assert set(table["CIFAR-10 cat/dog"]) == {"not computed: data absent"}
