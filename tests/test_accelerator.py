"""Where this machine has an accelerator: what trains on it comes out as on the CPU."""

import numpy as np
import pytest
import torch
from small_inputs import CONFIG, make_inputs

from qtl_utils.doctor import diagnosis as doctor
from qtl_utils.models.backbones import compute_features, load_backbone
from qtl_utils.models.devices import find_device
from qtl_utils.models.heads import VARIANTS, HeadSettings, make_head
from qtl_utils.study.config import BackboneConfig
from qtl_utils.training.sources import train_source
from qtl_utils.training.variants import fit_variant

pytestmark = pytest.mark.skipif(find_device("auto").type not in ("cuda", "xpu"), reason="needs an accelerator")
FROZEN = [name for name, variant in VARIANTS.items() if variant.training == "frozen"]


def on_both(variant, inputs, **changes):
    """The logits after training `variant`, on the CPU and on the accelerator."""
    configs = [CONFIG.model_copy(update={"variants": [variant], "device": name} | changes) for name in ("cpu", "auto")]
    return [fit_variant(variant, inputs, config).logits["last"] for config in configs]


@pytest.mark.parametrize("variant", FROZEN)
def test_a_head_trains_as_on_the_cpu(variant):
    cpu, accelerator = on_both(variant, make_inputs())
    assert np.abs(cpu - accelerator).max() < 1e-8


@pytest.mark.parametrize("variant", ["B", "A-joint"])
def test_a_whole_network_starts_as_on_the_cpu(variant):
    cpu, accelerator = on_both(variant, make_inputs(), epochs=1, seeds=1)
    assert np.abs(cpu - accelerator).max() < 1e-2 * np.abs(cpu).max()


def test_features_are_those_of_the_cpu():
    pixels = make_inputs().pixels
    here, there = (
        compute_features(load_backbone("tiny_vit", 32, "random").to(find_device(name)), pixels)
        for name in ("cpu", "auto")
    )
    assert torch.allclose(here, there, rtol=0, atol=1e-5)


def test_a_source_training_runs():
    model = train_source(BackboneConfig(model="tiny_vit", init="source", source_epochs=1), 32, find_device("auto"))
    assert next(model.parameters()).device.type == find_device("auto").type


def test_the_doctor_examines_a_model_there():
    device = find_device("auto")
    settings = HeadSettings(n_features=8, n_classes=2, n_qubits=3, depth=2)
    model = make_head("A", settings, seed=0).to(device)
    x, y = torch.randn(16, 8, device=device), torch.arange(16, device=device) % 2
    report = doctor.diagnose(model, (x, y))
    assert not report.of("fail"), str(report)
