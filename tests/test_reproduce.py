"""The published experiments run again: protocols, BatchNorm and the tutorial against training step by step."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from qtl_utils import backbones, experiment, published_results, reproduce
from qtl_utils.config import BackboneConfig, TrainConfig
from qtl_utils.data import load_dataset, load_pixels, make_splits
from qtl_utils.experiment import Inputs, fit_variant
from qtl_utils.heads import make_head
from qtl_utils.published_results import LAST, ON_TEST, ON_VALIDATION
from qtl_utils.train import Network

CONFIG = TrainConfig(epochs=4, seeds=4, batch_size=4, lr_classical=0.01, n_qubits=3, depth=1)


@pytest.fixture(scope="module", params=["tiny_vit", "shufflenet_v2_x0_5"])
def inputs(request):
    """60 digits, two splits, a backbone of random weights without and with BatchNorm."""
    return make_inputs(request.param)


def make_inputs(model):
    whole = load_dataset("digits")
    keep = np.arange(60)
    fields = {"labels": whole.labels[keep]} | {k: getattr(whole, k)[:60] for k in ("ids", "given", "hashes", "sizes")}
    data = replace(whole, **fields)
    pixels = load_pixels(data, 32)
    backbone = backbones.load_backbone(model, 32, "random")
    features, state = backbones.compute_features(backbone, pixels), backbone.network.state_dict()
    splits = make_splits(data, n_splits=2, train=20, validation=15, test=15)
    return Inputs(data, splits, pixels, features, BackboneConfig(model=model, init="random"), state, 32)


# ---- points in the plane


@pytest.mark.parametrize(("task", "classical", "circuit"), [("square", 0.905, 0.930), ("moons", 0.975, 0.965)])
def test_square_and_moons_come_out_as_published(task, classical, circuit):
    found = reproduce.plane_accuracies(task, ["adam-pl07"], 1).set_index("variant")["accuracy"]
    assert found["C-block"] == classical
    assert abs(found["A"] - circuit) <= 0.005  # one of 200 points, which rounding may turn


def test_plane_settings_are_the_published_ones():
    config = reproduce.plane_config("adam-pl07", 0.1, 3)
    steps = config.epochs * 2000 // config.batch_size
    assert (steps, config.reduction, config.beta2, config.n_qubits, config.depth) == (1000, "sum", 0.99, 5, 5)
    published = {row.task for row in published_results.PUBLISHED}
    assert set(reproduce.PLANE) | set(reproduce.CIFAR) < published


# ---- choosing an epoch


def test_peeking_keeps_train_and_test_and_drops_validation(inputs):
    found = reproduce.without_validation(inputs).splits
    assert found.protocol == "as_published" and found.n_splits == 2
    for subset, n in (("train", 20), ("validation", 0), ("test", 15)):
        assert len(found.indices(1, subset)) == n
    assert np.array_equal(found.indices(1, "test"), inputs.splits.indices(1, "test"))


def test_the_published_partition_is_that_of_the_source_else_one_split(inputs):
    assert reproduce.published_partition(inputs).splits.n_splits == 1
    given = replace(inputs.data, given=("train",) * 40 + ("validation",) * 20)
    found = reproduce.published_partition(replace(inputs, data=given)).splits
    assert found.indices(0, "train").tolist() == list(range(40))
    assert found.indices(0, "test").tolist() == list(range(40, 60))


def test_splits_are_drawn_only_where_there_is_nothing_to_validate_on(inputs):
    assert reproduce.repeated_splits(inputs) is inputs
    found = reproduce.repeated_splits(reproduce.published_partition(inputs), n_splits=3)
    assert found.splits.n_splits == 3 and len(found.splits.indices(2, "validation")) == 12


def test_the_same_trainings_are_scored_three_times(inputs):
    scores = reproduce.both_protocols(["C"], inputs, CONFIG).set_index(["protocol", "seed"])["accuracy"]
    curve = fit_variant("C", reproduce.without_validation(inputs), CONFIG).history[:, :, 1, 1]
    assert scores[ON_TEST].to_numpy() == pytest.approx(curve.max(axis=1))
    assert scores[LAST].to_numpy() == pytest.approx(curve[:, -1])
    chosen = fit_variant("C", inputs, CONFIG).best_epoch - 1
    assert scores[ON_VALIDATION].to_numpy() == pytest.approx(curve[np.arange(4), chosen])


def test_curves_hold_the_test_accuracy_of_every_epoch(inputs):
    scores, curves = reproduce.as_published(["A", "C"], inputs, CONFIG)
    last = curves[curves["epoch"] == 4].set_index(["model", "seed"])["accuracy"]
    expected = scores[scores["protocol"] == LAST].set_index(["model", "seed"])["accuracy"]
    pd.testing.assert_series_equal(last, expected, check_names=False)
    assert set(scores["split"]) == {0} and len(curves) == 2 * 4 * 4


def test_the_scheduler_matters_only_where_a_decay_comes_early(inputs):
    decaying = CONFIG.model_copy(update={"lr_step": 2})
    never = reproduce.both_schedules(["C"], inputs, CONFIG).pivot(index="seed", columns="protocol", values="loss")
    early = reproduce.both_schedules(["C"], inputs, decaying).pivot(index="seed", columns="protocol", values="loss")
    assert never["before"].equals(never["after"])
    assert (early["before"] != early["after"]).all()


# ---- BatchNorm


def test_only_a_backbone_with_batchnorm_thaws():
    for model, expected in (("tiny_vit", False), ("shufflenet_v2_x0_5", True)):
        found = make_inputs(model)
        assert reproduce.has_batchnorm(found) == expected
        drift = reproduce.thaw(found, 2, 4).drift[["training", "testing"]]
        assert (drift > 0.01).all(axis=None) if expected else (drift < 1e-5).all(axis=None)


def test_without_batchnorm_both_modes_are_the_same():
    inputs = make_inputs("tiny_vit")
    scores = reproduce.both_modes("C", inputs, reproduce.thaw(inputs, 4, 4), CONFIG).set_index("protocol")["loss"]
    np.testing.assert_allclose(scores["train mode"], scores["eval mode"], rtol=1e-4)


def test_train_mode_is_what_training_the_network_itself_gives():
    inputs = make_inputs("shufflenet_v2_x0_5")
    before = {name: value.clone() for name, value in inputs.state.items()}
    config, settings = CONFIG.model_copy(update={"seeds": 2}), experiment.head_settings(inputs, CONFIG)
    build = lambda seed: Network(reproduce.thawed_backbone(inputs), make_head("C", settings, seed))  # noqa: E731
    whole = reproduce.test_scores(reproduce.fit_networks(build, inputs, config), inputs, "C")
    thawed = reproduce.thaw(inputs, config.epochs, config.batch_size)
    found = reproduce.both_modes("C", inputs, thawed, config)
    expected = whole[whole["protocol"] == LAST]["loss"]
    np.testing.assert_allclose(found[found["protocol"] == "train mode"]["loss"], expected, rtol=1e-3)
    assert all(torch.equal(before[name], value) for name, value in inputs.state.items())


def test_a_last_sample_alone_joins_the_batch_before():
    sizes = [[len(batch) for batch in reproduce.whole_batches(np.arange(n), 4)] for n in (9, 10, 12, 1)]
    assert sizes == [[4, 5], [4, 4, 2], [4, 4, 4], [1]]


# ---- the tutorial


def test_augmentation_crops_and_flips_while_training_only():
    pixels, augment = torch.arange(2 * 3 * 16 * 16).reshape(2, 3, 16, 16).to(torch.uint8), reproduce.Augment()
    assert augment.eval()(pixels) is pixels
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(augment.train()(pixels))
    assert draws[0].shape == pixels.shape and draws[0].dtype == torch.uint8
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_every_other_image_is_flipped(monkeypatch):
    monkeypatch.setattr(reproduce.RandomResizedCrop, "get_params", staticmethod(lambda *a, **k: (0, 0, 8, 8)))
    image, augment = torch.arange(8, dtype=torch.uint8).expand(200, 3, 8, 8), reproduce.Augment()
    torch.manual_seed(0)
    flipped = (augment.train()(image)[:, 0, 0] == image[0, 0, 0].flip(0)).all(-1).float().mean()
    assert 0.35 < flipped < 0.65


def test_tutorial_settings_are_the_tutorials():
    config = reproduce.tutorial_config(2, 25)
    assert (config.optimizer, config.momentum, config.lr_step, config.lr_gamma) == ("sgd", 0.9, 7, 0.1)
    assert {config.lr_classical, config.lr_backbone} == {0.001} and config.batch_size == 4


@pytest.mark.parametrize(("variant", "trained"), [("B", True), ("C", False)])
def test_in_the_tutorial_train_mode_reaches_the_backbone_of_b_and_c(variant, trained):
    model = reproduce.tutorial_network(variant, make_inputs("shufflenet_v2_x0_5"), CONFIG, 0, augment=True).train()
    assert model.backbone[0].training and model.backbone[1].network.conv1[1].training
    assert all(p.requires_grad == trained for p in model.backbone.parameters())
    assert all(p.requires_grad for p in model.head.parameters())


def test_the_tutorial_scores_b_and_c_with_and_without_augmentation():
    inputs = reproduce.published_partition(make_inputs("tiny_vit"))
    scores = reproduce.tutorial(inputs, seeds=1, epochs=2)
    assert len(scores) == 2 * 2 * 2 and set(scores["protocol"]) == {LAST, ON_TEST}
    assert set(scores["model"]) == {"B", "C, SGD"} and scores["how"].nunique() == 2
    last = scores[scores["protocol"] == LAST].set_index(["model", "how"])["loss"]
    assert last.nunique() == 4


# ---- other numbers


def insects(tmp_path, bias, cut_off=False):
    """Inputs whose weights hold a classifier that prefers one class of the 1000."""
    inputs = make_inputs("tiny_vit")
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
    labels = inputs.data.labels[reproduce.published_partition(inputs).splits.indices(0, "test")]
    expected = {310: np.mean(labels == 0), 309: np.mean(labels == 1), 7: 0}[bias]
    assert reproduce.direct_accuracy(inputs) == pytest.approx(expected)


def test_ants_and_bees_become_rows_and_a_missing_classifier_a_reason(tmp_path):
    inputs = insects(tmp_path, 310, cut_off=True)
    scores, _ = reproduce.as_published(["A", "C"], inputs, CONFIG)
    rows, absent = reproduce.insect_rows(scores, pd.DataFrame(), inputs, CONFIG)
    table = published_results.beside(rows, absent).set_index(published_results.KEYS)
    assert table.loc[("ants/bees", "A", LAST, "accuracy"), "computed"] == "yes"
    assert table.loc[("ants/bees", "A", LAST, "accuracy"), "cause"].startswith("tiny_vit instead of resnet18")
    assert 0 < table.loc[("ants/bees", "A", published_results.ONE_TRAINING, "minutes"), "ours"] < 1
    why = table.loc[("ants/bees", published_results.UNTRAINED, "1000 classes", "accuracy"), "computed"]
    assert why == "not computed: the weights have no classifier (heads.head.bias is missing)"


def test_cifar_is_trained_as_published_where_it_is_at_hand(tmp_path, monkeypatch):
    seen, inputs = [], reproduce.published_partition(make_inputs("tiny_vit"))
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
    assert set(table["CIFAR-10 cat/dog"]) == {"not computed: data absent; set cifar_dir"}
