"""Gradient diagnostics: stages are told apart, wrong gradients caught, rates lie within their intervals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from qtl_utils.analyses import gradients
from qtl_utils.circuits import simulators
from qtl_utils.circuits.ansatze import ANSATZE, inert_angles
from qtl_utils.circuits.simulators import SIMULATORS
from qtl_utils.models.backbones import load_backbone
from qtl_utils.models.heads import HeadSettings, make_head
from qtl_utils.models.network import Network
from qtl_utils.study.config import TrainConfig
from qtl_utils.training.fits import Rates

SETTINGS = HeadSettings(5, 2, n_qubits=2, depth=2, angle_init=1.0)


def model(variant="A", frozen=False):
    backbone = nn.Sequential(nn.Linear(6, 5), nn.Tanh()).requires_grad_(not frozen)
    return Network(backbone, make_head(variant, SETTINGS, 0))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn((8, 6), generator=generator), torch.arange(8) % 2


def test_stages_are_told_apart():
    names = {"head.0.weight": "pre-layer", "head.2.weights": "circuit", "head.3.bias": "post-layer"}
    found = gradients.stages(model())
    assert names.items() <= found.items() and found["backbone.0.weight"] == "backbone"
    assert set(gradients.stages(model("C", frozen=True)).values()) == {"head"}


def test_watching_changes_nothing_and_says_what_moved(batch):
    orders, config = np.tile(np.arange(8), (2, 1)), TrainConfig(batch_size=4)
    network = model()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    found = gradients.watch_training(network, *batch, orders, Rates(0.01, 0.02, 0.0005), config)
    assert set(found["step"]) == {1, 2, 3, 4} and (found["gradient"] > 0).all()
    first = found[found["step"] == 1].set_index("parameter")
    for name, rate in {"head.3.weight": 0.01, "head.2.weights": 0.02, "backbone.0.weight": 0.0005}.items():
        n = before[name].numel()
        assert first.loc[name, "update"] == pytest.approx(rate * n**0.5, rel=1e-2)  # Adam's first step
        assert first.loc[name, "ratio"] == pytest.approx(first.loc[name, "update"] / before[name].norm().item())


def test_a_stage_without_gradient_is_named(batch):
    network = model()
    network.head[1].function = torch.sign
    found = gradients.watch_training(network, *batch, np.arange(8)[None], Rates(1e-2, 1e-2, 1e-2), TrainConfig())
    (line,) = gradients.where_it_dies(gradients.by_stage(found.assign(variant="A"), ["variant"]))
    assert line == "A: no gradient reaches the backbone and the pre-layer."


def test_every_method_agrees_in_the_whole_model(batch):
    found = gradients.method_errors(model().double(), batch[0][:2].double(), batch[1][:2], ["statevector", "qiskit"])
    assert set(found["group"]) == {"inputs", "angles", "pre-layer", "backbone"}
    rows = found.set_index("method")["relative"]
    assert rows["adjoint"].max() < 1e-12 and rows["parameter-shift"].max() < 1e-5 and rows["spsa"].min() > 1e-2
    assert rows["central differences"].max() < 1e-7


@pytest.mark.parametrize("name", ["tiny_resnet", "tiny_vit", "resnet18", "squeezenet1_1"])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_differences_agree_in_networks_full_of_kinks(name, seed):
    size = 64 if name == "squeezenet1_1" else 32
    backbone = load_backbone(name, size, "random", seed=seed, frozen=False)
    network = Network(backbone, make_head("A", HeadSettings(backbone.n_features, 3, n_qubits=2, depth=1), seed))
    pixels = torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    found = gradients.method_errors(network, pixels, torch.tensor([0, 2]), ["statevector"], ["adjoint"])
    checked = found[found["method"] == "central differences"].set_index("group")
    assert checked["relative"].max() < 1e-6, checked
    assert checked.loc["angles", "kinks"] == 0 and checked["elements"].min() > 1


def test_a_wrong_gradient_is_caught_in_every_group(batch, monkeypatch):
    row = SIMULATORS["statevector"]

    def build(task, method, **options):
        run, count = row.build(task, method, **options)
        wrong = lambda inputs, weights: run(inputs + 0 * inputs.detach(), weights)  # noqa: E731
        twice = lambda inputs, weights: 2 * wrong(inputs, weights) - wrong(inputs, weights).detach()  # noqa: E731
        return twice, count

    monkeypatch.setitem(SIMULATORS, "twice", replace(row, build=build))
    found = gradients.method_errors(model().double(), batch[0][:2].double(), batch[1][:2], ["twice"], ["adjoint"])
    wrong = found[found["method"] == "adjoint"]
    assert len(wrong) == 4 and wrong["relative"].to_numpy() == pytest.approx(1.0)


# ---- variance


def test_intervals_hold_the_exact_rates_as_often_as_they_say():
    inside = []
    for seed in range(40):
        _, rates = gradients.variances(["separable"], [2, 3, 4, 5, 6], [1], 200, seed)
        known = rates.dropna(subset="theory")
        inside += list((known["low"] <= known["theory"]) & (known["theory"] <= known["high"]))
    assert len(inside) == 80 and 0.87 <= np.mean(inside) <= 1


def test_deep_circuits_lose_half_of_the_variance_with_every_qubit():
    _, rates = gradients.variances(["mari2019"], [2, 4, 6, 8], [24], 300, seed=0)
    row = rates[(rates["init"] == "U[0, 2 pi]") & (rates["cost"] == "local")].iloc[0]
    assert row["low"] < row["theory"] + 0.03 and row["high"] > row["theory"] - 0.03 and row["high"] < -0.6


def test_identity_blocks_start_as_the_identity():
    generator = torch.Generator().manual_seed(0)
    weights = gradients.INITS["identity"](ANSATZE["identity_blocks"].shape(3, 4), generator)
    task = simulators.study_task("identity_blocks", "linear", 3, 4)
    nothing = simulators.study_task("identity_blocks", "linear", 3, 1)
    x = torch.rand(5, 3, dtype=torch.float64)
    run = SIMULATORS["default.qubit"].build(task, "backprop")[0]
    plain = SIMULATORS["default.qubit"].build(nothing, "backprop")[0]
    torch.testing.assert_close(run(x, weights), plain(x, torch.zeros(1, 3, 3, dtype=torch.float64)), atol=1e-12, rtol=0)


def test_identity_blocks_keep_the_local_gradient_at_any_depth():
    table, _ = gradients.variances(["identity_blocks"], [6], [2, 12], 300)
    found = table[table["cost"] == "local"].set_index(["init", "depth"])["variance"]
    assert found["identity", 12] > 0.8 * found["identity", 2] and found["U[0, 2 pi]", 12] < 0.5 * found["U[0, 2 pi]", 2]


def test_the_bootstrap_repeats_itself_and_the_variance_is_numpys():
    g = np.random.default_rng(0).normal(size=(50, 3))
    g[:, 1] = 0
    assert gradients.mean_variance(g)[0] == pytest.approx(g[:, [0, 2]].var(0, ddof=1).mean())
    assert gradients.rate({2: g, 4: g / 4}) == gradients.rate({2: g, 4: g / 4})
    assert gradients.rate({2: g, 4: g / 4})["rate"] == pytest.approx(-np.log(16) / 2)


# ---- zeros, shots, noise


@pytest.mark.parametrize("ansatz", ANSATZE)
def test_dead_angles_are_those_that_the_ansatz_names(ansatz):
    zeros, _ = gradients.structural_zeros(ansatz, "tanh", 3, 2)
    expected = sum((mask for mask in inert_angles(ansatz, 3, 2).values()), np.zeros(len(zeros), bool).reshape(-1).sum())
    assert (zeros["outputs"] == 0).sum() == np.sum(expected)
    assert ((zeros["outputs"] == 0) == (zeros["reason"] != "")).all()


def test_the_circuit_of_2019_has_no_dead_angle_and_the_published_ranks():
    zeros, ranks = gradients.structural_zeros("mari2019", "tanh", 4, 6)
    assert len(zeros) == 24 and (zeros["outputs"] > 0).all()
    assert ranks == {"at random angles": 24, "at zero angles": 16}


def test_shots_follow_their_square_root_and_default_spsa_drowns():
    task = simulators.study_task("mari2019", "tanh", 2, 1)
    found = gradients.shot_noise(task, [50, 5000], 30, *simulators.draw(task, 1)).set_index(["method", "shots"])
    rule = found.loc["parameter-shift"]
    assert 6 < rule.loc[5000, "snr"] / rule.loc[50, "snr"] < 17  # 10, estimated from 30 repeats
    assert (rule["bias"] < 3).all() and (found.loc["spsa, default step", "snr"] < 0.1).all()
    assert rule.loc[50, "executions"] == 1 + 2 * 2  # no gradient of inputs is asked for


def test_depolarising_noise_shrinks_a_rotation_by_the_known_factor():
    task = simulators.study_task("separable", "tanh-rx", 1, 1)
    x, w = torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), 0.5, dtype=torch.float64)
    found = gradients.depolarised(task, [0.0, 0.1], x, w).iloc[1]
    assert found["gradient_kept"] == pytest.approx((1 - 4 * 0.1 / 3) ** 2) == found["outputs_kept"]


def test_gradients_reach_the_first_layer_of_a_network():
    flow = gradients.network_flow("tiny_vit", 32, 2, {"n_qubits": 2, "depth": 1})
    patches = flow[flow["dimensions"] == 4].iloc[0]
    assert patches["parameter"] == "backbone.network.conv_proj.weight" and patches["norm"] > 0
    assert list(flow["stage"].unique()) == ["backbone", "pre-layer", "circuit", "post-layer"]
