"""What ships with the package: files that fit their cards, and cards that say how the files are made again."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from qtl_utils.data.dataset import load_pixels
from qtl_utils.data.datasets import load_dataset
from qtl_utils.models import backbones
from qtl_utils.study import shipped_files
from qtl_utils.study.config import BackboneConfig, DataConfig, RunConfig
from qtl_utils.study.study import StudyConfig, shipped_mismatch
from qtl_utils.training import ship
from qtl_utils.training.inputs import open_inputs
from qtl_utils.training.refusals import refusal
from qtl_utils.training.run import run_variant

FEATURES = BackboneConfig(model="squeezenet1_1", init="shipped")


@pytest.mark.parametrize("name", shipped_files.names())
def test_every_file_is_the_one_of_its_card(name):
    card = shipped_files.read_card(name)
    assert shipped_files.path_of(name).is_file() and card["made_by"] == f"python -m qtl_utils.training.ship {name}"


def test_together_they_are_small():
    files = list(shipped_files.FOLDER.iterdir())
    assert sum(path.stat().st_size for path in files) < 2_000_000
    assert {path.stem for path in files} == set(shipped_files.names())


def test_a_file_that_was_changed_is_refused(tmp_path, monkeypatch):
    for path in shipped_files.FOLDER.glob("tiny_vit.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(shipped_files, "FOLDER", tmp_path)
    shipped_files.path_of("tiny_vit")
    with open(tmp_path / "tiny_vit.safetensors", "ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"tiny_vit\.safetensors: SHA-256 .* is not the one of its card"):
        shipped_files.path_of("tiny_vit")


@pytest.mark.parametrize("name", ship.BACKBONES)
def test_a_card_tells_the_settings_that_the_script_trains_with(name):
    card = shipped_files.read_card(name)
    assert BackboneConfig(**card["settings"]) == ship.BACKBONES[name]
    backbone = backbones.load_backbone(name, card["image_size"], "shipped")
    assert card["parameters"] == sum(p.numel() for p in backbone.parameters())
    assert card["source_accuracy"] > 0.9


def test_the_script_writes_a_file_and_its_card(tmp_path, monkeypatch):
    monkeypatch.setitem(ship.BACKBONES, "tiny_vit", BackboneConfig(model="tiny_vit", source_epochs=1))
    ship.write("tiny_vit", *ship.source_backbone("tiny_vit"), folder=tmp_path)
    card = json.loads((tmp_path / "tiny_vit.json").read_text(encoding="utf-8"))
    assert card["settings"]["source_epochs"] == 1 and set(card) == set(shipped_files.read_card("tiny_vit"))
    monkeypatch.setattr(shipped_files, "FOLDER", tmp_path)
    first = backbones.load_backbone("tiny_vit", 32, "random").state_dict()
    now = backbones.load_backbone("tiny_vit", 32, "shipped").state_dict()
    assert first.keys() == now.keys() and not torch.equal(
        first["network.conv_proj.weight"], now["network.conv_proj.weight"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ship.BACKBONES)
def test_shipped_weights_learn_the_digits_better_than_chance_and_as_training_again_does(name):
    """Another processor trains other weights; what they are worth on the target is alike."""
    data = load_dataset("digits")
    pixels, train = load_pixels(data, 32), np.arange(len(data)) % 2 == 0

    def worth(backbone):
        features = backbones.compute_features(backbone, pixels).numpy()
        centres = np.stack([features[train & (data.labels == k)].mean(0) for k in range(5)])
        nearest = ((features[~train, None] - centres) ** 2).sum(-1).argmin(1)
        return (nearest == data.labels[~train]).mean()

    shipped = worth(backbones.load_backbone(name, 32, "shipped"))
    again = worth(ship.train_source(ship.BACKBONES[name], 32).backbone)
    assert shipped > 0.4 and abs(shipped - again) < 0.15


# ---- ants and bees ---------------------------------------------------------------------------------------------------


def test_ants_and_bees_are_those_of_2019():
    data = load_dataset("ants_bees")
    given, labels = np.array(data.given), data.labels
    assert data.classes == ("ants", "bees") and data.features["squeezenet1_1"].shape == (397, 512)
    assert ((given == "train").sum(), (given == "validation").sum()) == (244, 153)
    assert (labels[given == "validation"] == 0).sum() == 70


@pytest.mark.slow
def test_shipped_features_are_those_of_the_images(hymenoptera_dir, squeezenet_weights):
    """Rounded from float64, they agree to the last digit of float32; other JPEG decoders are not the claim."""
    arrays, card = ship.features_of_ants_and_bees(str(hymenoptera_dir), str(squeezenet_weights))
    assert card.items() <= shipped_files.read_card("ants_bees").items()
    np.testing.assert_allclose(arrays["features"], shipped_files.read_arrays("ants_bees")["features"], rtol=3e-7)


def test_a_few_shipped_features_are_those_of_the_images(hymenoptera_dir, squeezenet_weights):
    images, data = load_dataset("hymenoptera", data_dir=hymenoptera_dir), load_dataset("ants_bees")
    assert (images.ids, images.given, images.hashes) == (data.ids, data.given, data.hashes)
    some = np.arange(0, 397, 40)
    few = replace(images, labels=images.labels[some], load=lambda i: images.load(some[i]))
    backbone = backbones.load_backbone("squeezenet1_1", 224, "file", weights=str(squeezenet_weights))
    found = backbones.compute_features(backbone, load_pixels(few, 224)).numpy()
    np.testing.assert_allclose(found, data.features["squeezenet1_1"][some], rtol=3e-7)


@pytest.mark.parametrize("protocol", ["repeated", "as_published"])
def test_frozen_heads_learn_on_shipped_features_under_both_protocols(tmp_path, protocol):
    inputs = open_inputs(tmp_path, DataConfig(dataset="ants_bees", protocol=protocol), FEATURES)
    config = RunConfig(dataset="d", backbone="b", seeds=2, epochs=3)
    result = run_variant("C", inputs, config, {"study": "s", "dataset": "d", "backbone": "b", "run": "r"}, tmp_path)
    last = result.metrics.query("subset == 'test' and epoch_kind == 'last'")
    assert last["accuracy"].mean() > 0.75 and last["source"].isna().all()
    assert result.variants["total"][0] == 722_496 + 1026  # the backbone whose features these are counts


def test_what_needs_images_is_refused_with_the_way_out(tmp_path):
    inputs = open_inputs(tmp_path, DataConfig(dataset="ants_bees"), FEATURES)
    config = RunConfig(dataset="d", backbone="b", variants=["B"])
    with pytest.raises(
        ValueError, match="'B' trains a backbone, and data set 'ants_bees' has features only; use dataset hymenoptera"
    ):
        run_variant("B", inputs, config, {}, tmp_path)
    with pytest.raises(ValueError, match="'ants_bees' has features, not images"):
        load_pixels(inputs.data, 224)
    with pytest.raises(ValueError, match="has no images, only features of squeezenet1_1"):
        open_inputs(tmp_path, DataConfig(dataset="ants_bees"), BackboneConfig(model="tiny_vit", init="shipped"))


# ---- what a study may say --------------------------------------------------------------------------------------------


def study(data, backbone, **run):
    return StudyConfig(
        name="s", datasets={"d": data}, backbones={"b": backbone}, runs={"r": {"dataset": "d", "backbone": "b"} | run}
    )


def test_features_and_weights_that_do_not_fit_are_refused_before_anything_runs():
    insects, vit = {"dataset": "ants_bees"}, {"model": "tiny_vit", "init": "shipped"}
    assert not shipped_mismatch(DataConfig(**insects), FEATURES)
    with pytest.raises(ValueError, match=r"runs\.r\.backbone: data set 'ants_bees' has only features of squeezenet1_1"):
        study(insects, vit)
    with pytest.raises(ValueError, match="no weights of squeezenet1_1 ship, only of tiny_resnet and tiny_vit"):
        study({"dataset": "digits"}, {"model": "squeezenet1_1", "init": "shipped"})
    with pytest.raises(ValueError, match="takes images of 32 px, not 64; set image_size: 32"):
        study({"dataset": "digits", "image_size": 64}, vit)


def test_a_whole_network_on_shipped_features_is_refused_before_anything_runs():
    given = {"dataset": "ants_bees"}, {"model": "squeezenet1_1", "init": "shipped"}
    assert refusal(study(*given, variants=["A", "C"])) == ""
    told = refusal(study(*given, variants=["A", "B"]))
    assert told.startswith("runs.r.variants: B trains a backbone") and "use dataset: hymenoptera" in told
