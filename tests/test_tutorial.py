"""The tutorial's training: augmentation, settings, and what train mode reaches."""

import pytest
import torch
from small_inputs import CONFIG, WITH_BATCHNORM, make_inputs

from qtl_utils.analyses import tutorial
from qtl_utils.analyses.protocols import published_partition
from qtl_utils.results.published_results import LAST, ON_TEST


def test_augmentation_crops_and_flips_while_training_only():
    pixels, augment = torch.arange(2 * 3 * 16 * 16).reshape(2, 3, 16, 16).to(torch.uint8), tutorial.Augment()
    assert augment.eval()(pixels) is pixels
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(augment.train()(pixels))
    assert draws[0].shape == pixels.shape and draws[0].dtype == torch.uint8
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_every_other_image_is_flipped(monkeypatch):
    monkeypatch.setattr(tutorial.RandomResizedCrop, "get_params", staticmethod(lambda *a, **k: (0, 0, 8, 8)))
    image, augment = torch.arange(8, dtype=torch.uint8).expand(200, 3, 8, 8), tutorial.Augment()
    torch.manual_seed(0)
    flipped = (augment.train()(image)[:, 0, 0] == image[0, 0, 0].flip(0)).all(-1).float().mean()
    assert 0.35 < flipped < 0.65


def test_tutorial_settings_are_the_tutorials():
    config = tutorial.tutorial_config(2, 25)
    assert (config.optimizer, config.momentum, config.lr_step, config.lr_gamma) == ("sgd", 0.9, 7, 0.1)
    assert {config.lr_classical, config.lr_backbone} == {0.001} and config.batch_size == 4


@pytest.mark.parametrize(("variant", "trained"), [("B", True), ("C", False)])
def test_in_the_tutorial_train_mode_reaches_the_backbone_of_b_and_c(variant, trained):
    model = tutorial.tutorial_network(variant, make_inputs(WITH_BATCHNORM), CONFIG, 0, augment=True).train()
    assert model.backbone[0].training and model.backbone[1].network.conv1[1].training
    assert all(p.requires_grad == trained for p in model.backbone.parameters())
    assert all(p.requires_grad for p in model.head.parameters())


def test_the_tutorial_scores_b_and_c_with_and_without_augmentation():
    inputs = published_partition(make_inputs())
    scores = tutorial.train_both(inputs, seeds=1, epochs=2)
    assert len(scores) == 2 * 2 * 2 and set(scores["protocol"]) == {LAST, ON_TEST}
    assert set(scores["model"]) == {"B", "C, SGD"} and scores["how"].nunique() == 2
    last = scores[scores["protocol"] == LAST].set_index(["model", "how"])["loss"]
    assert last.nunique() == 4
