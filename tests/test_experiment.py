"""From settings to the tables of a run: inputs, candidates, scores, resuming."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, log_loss

from qtl_utils.data import images, index
from qtl_utils.data.dataset import load_pixels
from qtl_utils.models import backbones
from qtl_utils.results import runs
from qtl_utils.study.config import BackboneConfig, DataConfig, LrGrid, RunConfig
from qtl_utils.training import inputs as inputs_module
from qtl_utils.training import variants
from qtl_utils.training.fits import Rates
from qtl_utils.training.inputs import open_inputs, scale_features
from qtl_utils.training.run import run_variant, save_run
from qtl_utils.training.scores import classification_scores
from qtl_utils.training.variants import candidates

DATA = DataConfig(dataset="digits", n_splits=2, train=40, validation=20, test=30)
BACKBONE = BackboneConfig(model="tiny_vit", init="random")
GRID = {"classical": [{"lr_classical": 0.05}], "quantum": [{"lr_classical": 0.05, "lr_quantum": 0.1}]}
CONFIG = RunConfig(
    dataset="digits", backbone="vit", variants=["A", "C"], seeds=4, epochs=2, lr_grid=GRID, n_qubits=2, settings="2019"
)
KEYS = {"study": "s", "dataset": "digits", "backbone": "vit", "run": "r"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return open_inputs(tmp_path_factory.mktemp("data"), DATA, BACKBONE)


def test_inputs_are_read_back_not_made_again(tmp_path, monkeypatch):
    first = open_inputs(tmp_path, DATA, BACKBONE)
    monkeypatch.setattr(inputs_module, "make_splits", lambda *_, **__: pytest.fail("drawn again"))
    again = open_inputs(tmp_path, DATA, BACKBONE)
    assert torch.equal(first.features, again.features) and (first.splits.subsets == again.splits.subsets).all()


def test_other_split_settings_draw_other_splits(tmp_path):
    open_inputs(tmp_path, DATA, BACKBONE)
    other = open_inputs(tmp_path, DATA.model_copy(update={"n_splits": 3}), BACKBONE)
    assert other.splits.n_splits == 3


def test_a_source_backbone_is_trained_once_and_learns(tmp_path, monkeypatch):
    config = BackboneConfig(model="tiny_vit", init="source", source_epochs=2, seed=3)
    trained = inputs_module.open_backbone(config, 32, tmp_path)
    monkeypatch.setattr(inputs_module, "train_source", lambda *_: pytest.fail("trained again"))
    assert torch.equal(
        trained.network.conv_proj.weight, inputs_module.open_backbone(config, 32, tmp_path).network.conv_proj.weight
    )
    random = backbones.load_backbone("tiny_vit", 32, "random", seed=3)
    assert not torch.equal(trained.network.conv_proj.weight, random.network.conv_proj.weight)


def test_rates_are_never_chosen_on_the_test_set(tmp_path):
    data, none = DataConfig(dataset="moons", protocol="as_published"), BackboneConfig(model="none", init="random")
    with pytest.raises(ValueError, match="no validation set to choose rates on"):
        run_variant("C", open_inputs(tmp_path, data, none), CONFIG, KEYS, tmp_path)


def test_points_need_no_backbone_and_images_do(tmp_path):
    points, none = DataConfig(dataset="moons", protocol="as_published"), BackboneConfig(model="none", init="random")
    assert open_inputs(tmp_path / "a", points, none).features.shape[1] == 2
    with pytest.raises(ValueError, match="'digits' has images, name a backbone"):
        open_inputs(tmp_path / "b", DATA, none)
    with pytest.raises(ValueError, match="'moons' has points, not images"):
        open_inputs(tmp_path / "c", points, BACKBONE)


def test_scaling_is_fitted_on_the_training_samples_of_each_split(inputs):
    scaled = scale_features(inputs.features.double(), inputs.splits)
    for split in range(2):
        train = scaled[split][inputs.splits.indices(split, "train")]
        np.testing.assert_allclose(train.mean(0), 0, atol=1e-9)
        np.testing.assert_allclose(train.std(0, correction=0), 1, atol=1e-9)
    assert scaled[0][inputs.splits.indices(0, "test")].mean().abs() > 1e-6


def test_the_studys_own_rates_are_the_first_candidate():
    own = Rates(4e-4, 4e-4, 4e-4)
    assert candidates("A", CONFIG) == [own, Rates(0.05, 0.1, 4e-4)]
    assert candidates("C", CONFIG) == candidates("B", CONFIG) == [own, Rates(0.05, 4e-4, 4e-4)]


def test_scores_equal_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(60, 3)), rng.choice(3, 60, p=[0.6, 0.3, 0.1])
    found, p = classification_scores(logits, labels), torch.from_numpy(logits).softmax(1).numpy()
    assert found["loss"] == pytest.approx(log_loss(labels, p))
    assert found["accuracy"] == pytest.approx((p.argmax(1) == labels).mean())
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, p.argmax(1)))


def test_calibration_error_by_hand():
    def logits(p):
        return np.log([p, 1 - p])

    # 4 samples at confidence 0.95, half of them right; 2 at 0.65, all right: (4 * 0.45 + 2 * 0.35) / 6
    found = classification_scores(np.array([logits(0.95)] * 4 + [logits(0.65)] * 2), np.array([0, 0, 1, 1, 0, 0]))
    assert found["ece"] == pytest.approx((4 * 0.45 + 2 * 0.35) / 6)


@pytest.fixture(scope="module")
def results(inputs, tmp_path_factory):
    return [run_variant(v, inputs, CONFIG, KEYS, tmp_path_factory.mktemp("ck")) for v in ("A", "C", "A-surrogate")]


def test_a_run_is_written_and_read_back_with_every_key(results, tmp_path):
    save_run(tmp_path / "runs" / "digits" / "r", CONFIG, results)
    found = runs.read_runs(tmp_path)["metrics"]
    assert set(found["settings"]) == {"2019", "tuned"} and set(found["epoch_kind"]) == {"best", "last"}
    assert len(found) == 3 * 2 * 4 * 3 * 2  # variants, settings, seeds, subsets, epoch kinds
    assert (found["split"] == found["seed"] % 2).all()


def test_the_candidate_with_the_best_validation_accuracy_is_reported(results):
    for result in results:
        means = result.tuning.groupby(["split", "lr_classical"])[["accuracy", "loss"]].mean()
        for split, group in means.groupby("split"):
            best = group.sort_values(["accuracy", "loss"], ascending=[False, True]).index[0][1]
            chosen = result.tuning[(result.tuning["split"] == split) & result.tuning["chosen"]]
            assert set(chosen["lr_classical"]) == {best}


def test_every_seed_is_there_on_its_own_split(results):
    rows = results[0].metrics.query("subset == 'test' and epoch_kind == 'last' and settings == '2019'")
    assert sorted(rows["seed"]) == list(range(CONFIG.seeds))
    assert (rows["split"] == rows["seed"] % DATA.n_splits).all()


def test_predictions_give_the_accuracy_of_the_metrics(results):
    for result in results:
        last = result.metrics.query("subset == 'test' and epoch_kind == 'last'")
        right = result.predictions["n"].where(result.predictions["label"] == result.predictions["prediction"], 0)
        share = right.groupby(result.predictions["settings"]).sum() / result.predictions.groupby("settings")["n"].sum()
        pd.testing.assert_series_equal(share, last.groupby("settings")["accuracy"].mean(), check_names=False)


def test_what_became_of_every_image_gives_accuracy_and_loss(results):
    for result in results:
        test = result.metrics.query("subset == 'test'")
        means = np.array([np.nanmean(cell, axis=1) for cell in test["images"]])
        assert means == pytest.approx(test[["accuracy", "loss"]].to_numpy(), rel=1e-5)
        assert all(np.isfinite(cell[0]).sum() == n for cell, n in zip(test["images"], test["n"], strict=True))


def test_a_variant_that_cannot_be_built_is_a_row_with_its_reason(inputs, tmp_path):
    config = CONFIG.model_copy(update={"n_qubits": 7})
    result = run_variant("A-surrogate", inputs, config, KEYS, tmp_path)
    assert "stops at 6" in result.variants["skipped_reason"][0] and result.metrics.empty
    with pytest.raises(ValueError, match="no variant of this run can be built"):
        save_run(tmp_path, config, [result])


@pytest.mark.slow
def test_whole_networks_resume_from_finished_seeds(inputs, tmp_path, monkeypatch):
    config = CONFIG.model_copy(update={"variants": ["B"], "seeds": 2, "epochs": 1})
    first = run_variant("B", inputs, config, KEYS, tmp_path)
    monkeypatch.setattr(variants, "fit_network", lambda *_, **__: pytest.fail("trained again"))
    again = run_variant("B", inputs, config, KEYS, tmp_path)
    pd.testing.assert_frame_equal(first.metrics, again.metrics)
    monkeypatch.undo()
    monkeypatch.setattr(variants, "fit_network", count := Counting(variants.fit_network))
    run_variant("B", inputs, config.model_copy(update={"batch_size": 8}), KEYS, tmp_path)
    assert count.calls == 4, "other settings start afresh: two seeds with two candidates"


class Counting:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args, **options):
        self.calls += 1
        return self.function(*args, **options)


def test_counts_include_the_frozen_backbone(results, inputs):
    counts = results[1].variants.iloc[0]
    assert counts["trainable"] == counts["receiving_gradient"] == 64 * 5 + 5
    backbone = backbones.load_backbone("tiny_vit", 32, "random")
    assert counts["total"] - counts["trainable"] == sum(p.numel() for p in backbone.parameters())


def test_variants_that_do_not_fit_the_data_are_refused(tmp_path):
    points = open_inputs(
        tmp_path, DataConfig(dataset="moons", protocol="as_published"), BackboneConfig(model="none", init="random")
    )
    with pytest.raises(ValueError, match="'B' trains a backbone, and 2-D points have none"):
        run_variant("B", points, CONFIG.model_copy(update={"lr_grid": LrGrid()}), KEYS, tmp_path)


# ---- several initial backbones ---------------------------------------------------------------------------------------

DRAWN = BackboneConfig(model="tiny_vit", init="random", seed=5, sources=2)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Three splits that take turns with two backbones."""
    data = DATA.model_copy(update={"n_splits": 3})
    return open_inputs(tmp_path_factory.mktemp("several"), data, DRAWN, sources=DRAWN.sources)


def test_splits_take_turns_with_backbones_of_consecutive_seeds(shared):
    weights = [shared.source(split).state["conv_proj.weight"] for split in range(3)]
    expected = [backbones.load_backbone("tiny_vit", 32, "random", seed=s).network for s in (5, 6, 5)]
    assert all(torch.equal(w, network.conv_proj.weight) for w, network in zip(weights, expected, strict=True))
    assert [shared.source_number(split) for split in range(3)] == [0, 1, 0] and shared.n_sources == 2


def test_one_backbone_is_opened_unless_more_are_asked_for(tmp_path):
    assert open_inputs(tmp_path, DATA, DRAWN).n_sources == 1
    assert open_inputs(tmp_path, DATA, DRAWN.model_copy(update={"sources": 9}), sources=9).n_sources == 2  # the splits


@pytest.mark.parametrize("scaling", ["none", "standard"])
def test_a_head_is_given_the_features_of_its_splits_backbone(shared, scaling):
    config = CONFIG.model_copy(update={"feature_scaling": scaling, "lr_grid": LrGrid(), "seeds": 3})
    found, own = inputs_module.head_features(shared, config), [shared.source(split).features for split in range(3)]
    if scaling == "standard":
        own = [inputs_module.scale_features(own[split], shared.splits)[split] for split in range(3)]
    torch.testing.assert_close(found, torch.stack(own))
    alone = replace(shared, features=shared.source(1).features, state=shared.source(1).state, others=())
    both = [variants.fit_variant("A", one, config).logits["last"][1] for one in (shared, alone)]
    np.testing.assert_allclose(both[0], both[1], atol=1e-9)  # seed 1 learns on split 1


def test_a_whole_network_starts_from_its_splits_backbone(shared):
    settings = variants.head_settings(shared, CONFIG)
    for split in range(3):
        network = variants.make_network("B", shared, settings, 0, split=split)
        assert torch.equal(network.backbone.network.conv_proj.weight, shared.source(split).state["conv_proj.weight"])


def test_rows_name_the_backbone_of_the_study_and_none_that_is_given(shared, tmp_path):
    config = CONFIG.model_copy(update={"lr_grid": LrGrid(), "seeds": 6})
    rows = run_variant("C", shared, config, KEYS, tmp_path).metrics
    assert (rows["source"] == rows["split"] % 2).all()
    save_run(tmp_path, config, [run_variant("C", shared, config, KEYS, tmp_path)])
    assert runs.read_table(tmp_path / "metrics.csv", "metrics")["source"].tolist()[:2] == [0, 0]


def test_seeds_begin_where_the_run_says(inputs):
    config = CONFIG.model_copy(update={"first_seed": 7, "lr_grid": LrGrid(), "seeds": 3})
    fit = variants.fit_variant("C", inputs, config)
    assert [(r.seed, r.split) for r in fit.replicas] == [(7, 1), (8, 0), (9, 1)]
    eight = variants.fit_variant("C", inputs, config.model_copy(update={"first_seed": 8, "seeds": 1}))
    np.testing.assert_allclose(fit.logits["last"][1], eight.logits["last"][0], atol=1e-12)


def test_given_weights_are_one_set():
    with pytest.raises(ValueError, match="sources: init 'shipped' has one set of weights"):
        BackboneConfig(model="tiny_vit", init="shipped", sources=2)


def test_an_image_is_decoded_once_however_often_a_study_opens_it(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / "pictures" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(path)
    (tmp_path / "pictures" / "a" / "broken.png").write_bytes(b"no image")
    decoded = []
    monkeypatch.setattr(index, "read_image", lambda path: decoded.append(path.name) or images.read_image(path))
    monkeypatch.setattr(images, "read_nth", lambda *_: pytest.fail("decoded again"))
    data = DataConfig(dataset="image_folder", data_dir=str(tmp_path / "pictures"), n_splits=2)
    first = open_inputs(tmp_path / "kept", data, BACKBONE)
    again = open_inputs(tmp_path / "kept", data, BackboneConfig(model="tiny_resnet", init="random"))
    assert sorted(decoded) == sorted([*(f"{n}.png" for n in range(12)), "broken.png"])
    np.testing.assert_array_equal(first.pixels, load_pixels(first.data, 32))
    np.testing.assert_array_equal(again.pixels, first.pixels)
    assert again.data.hashes == first.data.hashes and len(again.data.skipped) == 1
    changed = tmp_path / "pictures" / "a" / "0.png"
    Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(changed)
    kept = index.ImageIndex(tmp_path / "kept" / "images.json")
    assert kept.look(changed)[0] not in first.data.hashes and decoded[-1] == "0.png"
