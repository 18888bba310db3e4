"""Heads trained in one kernel against the same heads trained by torch."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.data.splits import Splits
from qtl_utils.models.heads import VARIANTS, Beside, HeadSettings, Squash, TrigonometricFeatures, make_head
from qtl_utils.study.config import TrainConfig
from qtl_utils.training import fused
from qtl_utils.training.fits import Rates, make_replicas
from qtl_utils.training.many import fit_heads

CPU = torch.device("cpu")
FROZEN = [name for name, variant in VARIANTS.items() if variant.training == "frozen"]
SETTINGS = HeadSettings(n_features=11, n_classes=3, n_qubits=3, depth=2)
CONFIG = TrainConfig(epochs=10, batch_size=4, lr_step=4, dtype="float64")  # 50 steps
RATES = [Rates(0.01, 0.03, 0.001), Rates(0.02, 0.001, 0.001)]


def problem(n_features=11, train=18):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 40)
    features = torch.from_numpy(rng.normal(size=(40, n_features)) + labels[:, None])
    names = np.array(["train"] * train + ["validation"] * 10 + ["test"] * (30 - train))
    return features, labels, Splits("repeated", np.stack([rng.permutation(names) for _ in range(2)]))


def fit(build, config=CONFIG, seeds=3, given=None, **options):
    return fit_heads(build, *(given or problem()), make_replicas(range(seeds), 2, RATES), config, **options)


def compared(monkeypatch, build, config=CONFIG, **options):
    """The same trainings in one kernel and by torch; asserts that each took its path."""
    ours = fit(build, config, **options)
    assert ours.path == "fused"
    monkeypatch.setattr(fused, "why_not", lambda *given: "asked for")
    other = fit(build, config, **options)
    assert other.path == "torch (asked for)"
    return ours, other


def assert_same(ours, other, tolerance=1e-10):
    assert np.array_equal(ours.best_epoch, other.best_epoch)
    np.testing.assert_allclose(ours.history, other.history, atol=tolerance, rtol=0)
    assert ours.weights.keys() == other.weights.keys()
    for name, values in ours.weights.items():
        torch.testing.assert_close(values, other.weights[name], atol=tolerance, rtol=0)
    for kind, logits in ours.logits.items():
        np.testing.assert_allclose(logits, other.logits[kind], atol=tolerance, rtol=0)


def variant(name, settings=SETTINGS):
    return lambda seed: make_head(name, settings, seed)


@pytest.mark.parametrize("name", FROZEN)
def test_every_variant_learns_what_torch_makes_it_learn(name, monkeypatch):
    assert_same(*compared(monkeypatch, variant(name)))


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "adam-pl"},
        {"optimizer": "adam-pl07", "beta2": 0.99},
        {"reduction": "sum"},
        {"loss": "squared"},
        {"loss": "squared", "reduction": "sum", "batch_size": 5},
        {"batch_size": 1},
        {"batch_size": 5},
        {"batch_size": 16},
    ],
    ids=str,
)
def test_every_optimiser_loss_and_batch(changes, monkeypatch):
    assert_same(*compared(monkeypatch, variant("A"), TrainConfig(**CONFIG.model_dump() | changes)))


@pytest.mark.parametrize(
    ("n_qubits", "depth", "ansatz"), [(1, 0, "mari2019"), (2, 1, "strongly_entangling"), (6, 3, "mari2019")]
)
def test_every_size(n_qubits, depth, ansatz, monkeypatch):
    settings = HeadSettings(11, 3, n_qubits, depth, ansatz)
    assert_same(*compared(monkeypatch, variant("A", settings), CONFIG.model_copy(update={"epochs": 3})))


def test_groups_of_parameters_rest_where_pace_says_so(monkeypatch):
    pace = lambda epoch: {"classical": epoch % 2, "quantum": (epoch + 1) % 2 * 0.5}  # noqa: E731
    assert_same(*compared(monkeypatch, variant("A"), pace=pace))


def test_features_scaled_for_each_split(monkeypatch):
    features, labels, splits = problem()
    assert_same(*compared(monkeypatch, variant("A"), given=(torch.stack([features, 2 * features]), labels, splits)))


def test_watch_sees_the_parameters_of_every_step(monkeypatch):
    seen = {"fused": [], "torch": []}

    def look(path):
        return lambda step, replicas, parameters: seen[path].append(parameters["2.weights"].detach().clone())

    config = CONFIG.model_copy(update={"epochs": 2})
    ours = fit(variant("A"), config, watch=look("fused"))
    monkeypatch.setattr(fused, "why_not", lambda *given: "asked for")
    fit(variant("A"), config, watch=look("torch"))
    assert len(seen["fused"]) == len(seen["torch"]) == 11
    torch.testing.assert_close(torch.stack(seen["fused"]), torch.stack(seen["torch"]), atol=1e-12, rtol=0)
    assert torch.equal(seen["fused"][-1], ours.weights["2.weights"])


def deep(seed):
    """Every function the kernel knows, a layer without bias and one that does not learn."""
    torch.manual_seed(seed)
    fixed = nn.Linear(9, 9).requires_grad_(False)
    ours = nn.Sequential(nn.Linear(9, 2), Squash("linear"), QuantumLayer(2, 1))
    last = nn.Sequential(nn.Sigmoid(), nn.Linear(9, 2), Squash("arctan"), TrigonometricFeatures(), Beside(ours))
    return nn.Sequential(
        nn.Linear(11, 9, bias=False),
        nn.GELU(),
        fixed,
        nn.SiLU(),
        nn.Identity(),
        nn.Linear(9, 9),
        last,
        nn.Linear(11, 3),
    )


def test_chains_of_ones_own(monkeypatch):
    ours, other = compared(monkeypatch, deep)
    assert_same(ours, other)
    assert torch.equal(ours.weights["2.weight"][0], deep(0)[2].weight.double())


def test_single_precision_is_torchs_to_its_own_rounding(monkeypatch):
    config = CONFIG.model_copy(update={"dtype": "float32"})
    assert_same(*compared(monkeypatch, variant("A"), config), tolerance=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [3, 4, 7])
def test_the_last_bit_depends_on_neither_threads_nor_neighbours(dtype, batch):
    config = CONFIG.model_copy(update={"dtype": dtype, "batch_size": batch})
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    found = fit(variant("A"), config, seeds=7)
    try:
        torch.set_num_threads(3)
        again = fit(variant("A"), config, seeds=7)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found.logits["last"], again.logits["last"])
    assert np.array_equal(found.history, again.history)
    for i, replica in enumerate(found.replicas):
        alone = fit_heads(variant("A"), *problem(), [replica], config)
        assert np.array_equal(alone.logits["last"][0], found.logits["last"][i])


def test_an_angle_that_is_no_number_ends_the_training():
    features, labels, splits = problem()
    features[3] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        fit(variant("A"), given=(features, labels, splits))


def test_a_loss_that_is_no_number_is_reported_as_torch_does(monkeypatch):
    features, labels, splits = problem()
    features[3] = torch.nan
    ours, other = compared(monkeypatch, variant("C"), given=(features, labels, splits))
    assert np.isnan(ours.history).any()
    np.testing.assert_allclose(ours.history, other.history, atol=1e-10)


def shared():
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    return module


class Own(nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.Linear(3, 2)), "Dropout is not among the kernel's functions"),
        (nn.Sequential(nn.Linear(4, 3), nn.GELU("tanh")), "GELU is not among"),
        (nn.Sequential(nn.Linear(4, 3), Own()), "no chain of layers"),
        (nn.Sequential(nn.Tanh(), nn.Linear(4, 2)), "does not begin with a linear layer"),
        (shared(), "share a parameter"),
        (make_head("A", HeadSettings(4, 2, simulator="default.qubit"), 0), "no chain of layers"),
        (make_head("A", HeadSettings(4, 2, diff_method="backprop"), 0), "method"),
        (parametrizations.weight_norm(nn.Linear(4, 2)), "no chain of layers"),
    ],
)
def test_what_does_not_fit_is_named(module, reason):
    assert reason in fused.why_not(module, CPU)


def test_heads_on_other_devices_go_through_torch():
    assert "cuda" in fused.why_not(nn.Linear(2, 2), torch.device("cuda"))


def test_what_does_not_fit_is_trained_by_torch_and_says_why():
    build = lambda seed: nn.Sequential(nn.Linear(11, 4), nn.Dropout(0.0), nn.Linear(4, 3))  # noqa: E731
    found = fit(build, CONFIG.model_copy(update={"epochs": 1}))
    assert found.path == "torch (Dropout is not among the kernel's functions)"
