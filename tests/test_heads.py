"""Heads and variants: parameter counts as published, shared initial weights, the surrogate's exactness."""

import numpy as np
import pytest
import torch

from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.models.heads import VARIANTS, HeadSettings, TrigonometricFeatures, count_parameters, make_head

SETTINGS = HeadSettings(n_features=512, n_classes=2)
# DESIGN: parameters at 512 features, 4 qubits, 2 classes
PUBLISHED = {"A": 2086, "C": 1026, "C-matched": 2062, "C-matched-relu": 2062, "C-wide": 263_682, "A-zero": 2062}
PUBLISHED |= {"A-frozen": 2062, "A-separable": 2086, "A-none": 2062, "A-surrogate": 2216}


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_parameters_of_a_head_receive_a_gradient(variant):
    counts = count_parameters(make_head(variant, SETTINGS, 0), torch.randn(8, 512))
    assert counts["receiving_gradient"] == counts["trainable"] == PUBLISHED.get(variant, counts["trainable"])
    assert counts["quantum"] == (24 if VARIANTS[variant].circuit else 0)


def test_angles_nothing_depends_on_are_not_counted_as_receiving():
    settings = HeadSettings(8, 2, ansatz="strongly_entangling")
    counts = count_parameters(make_head("A", settings, 0), torch.randn(8, 8))
    assert counts["trainable"] - counts["receiving_gradient"] == 4  # the last omega of every wire


def test_counting_notices_a_cut_graph():
    class Cut(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x).detach() + self.bias

    assert count_parameters(Cut(3, 2), torch.randn(4, 3))["receiving_gradient"] == 2


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.startswith("A") or v.startswith("C-matched")])
def test_variants_start_from_the_same_pre_layer(variant):
    first = next(part for part in make_head(variant, SETTINGS, 3).modules() if isinstance(part, torch.nn.Linear))
    assert torch.equal(first.weight, make_head("A", SETTINGS, 3)[0].weight)


def test_seeds_differ_and_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    a, b = make_head("A", SETTINGS, 0), make_head("A", SETTINGS, 1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(a[0].weight, b[0].weight) and not torch.equal(a[2].weights, b[2].weights)


def test_angles_start_at_the_published_scale():
    angles = torch.cat([make_head("A", SETTINGS, seed)[2].weights.flatten() for seed in range(20)])
    assert 0.008 < angles.std() < 0.012


def test_the_surrogate_contains_the_circuit():
    torch.manual_seed(0)
    angles, circuit = torch.randn(300, 3, dtype=torch.float64), QuantumLayer(3, 4, angle_init=1.0).double()
    basis = TrigonometricFeatures()(angles)
    assert basis.shape == (300, 27)
    found = torch.linalg.lstsq(basis[:200], circuit(angles[:200])).solution
    np.testing.assert_allclose((basis[200:] @ found).detach(), circuit(angles[200:]).detach(), atol=1e-9)


def test_variants_that_cannot_be_built_say_why():
    assert "stops at 6" in VARIANTS["A-surrogate"].refuses(HeadSettings(8, 2, n_qubits=7))
    with pytest.raises(ValueError, match="'A-surrogate' cannot be built: ansatz 'reuploading'"):
        make_head("A-surrogate", HeadSettings(8, 2, ansatz="reuploading"), 0)
    with pytest.raises(ValueError, match="unknown variant 'a'"):
        make_head("a", SETTINGS, 0)
