"""Who learned: every instrument against a computation that does without it."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

from qtl_utils.analyses import attribution
from qtl_utils.data.dataset import Dataset
from qtl_utils.data.splits import Splits
from qtl_utils.results import stats
from qtl_utils.study.config import BackboneConfig, TrainConfig
from qtl_utils.training.fits import random_orders
from qtl_utils.training.inputs import Inputs, scale_features

CONFIG = TrainConfig(
    seeds=4, epochs=3, batch_size=4, lr_step=2, lr_classical=0.02, lr_quantum=0.05, angle_init=0.5, dtype="float64"
)
ZEROED = "A with zeroed angles"


def make_inputs(n=48, n_splits=2):
    """Features (n, 5) of 3 classes, and random splits of 24, 10 and 14."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    features = torch.from_numpy(rng.normal(size=(n, 5)) + 2 * np.eye(3, 5)[labels])
    ids = tuple(f"{i:03d}" for i in range(n))
    data = Dataset("made up", ("a", "b", "c"), labels, ids, ("",) * n, ids, points=features.numpy())
    names = np.array(["train"] * 24 + ["validation"] * 10 + ["test"] * 14)
    splits = Splits("repeated", np.stack([rng.permutation(names) for _ in range(n_splits)]))
    return Inputs(data, splits, np.empty(0), features, BackboneConfig(model="none", init="random"), {}, 0)


INPUTS = make_inputs()


@pytest.fixture(scope="module")
def trained():
    return attribution.train_variant("A", INPUTS, CONFIG)


def follow(seed, split, config=CONFIG, trains=lambda epoch: attribution.BOTH):
    """One head trained by torch's Adam, an optimiser a group: the head, and the parameters after every step."""
    head = attribution.train_variant("A", INPUTS, config.model_copy(update={"seeds": 1, "epochs": 1})).build(seed)
    head, labels = head.double(), torch.from_numpy(INPUTS.data.labels)
    groups = {"quantum": [head[2].weights], "classical": [*head[0].parameters(), *head[3].parameters()]}
    rates = {"quantum": config.lr_quantum, "classical": config.lr_classical}
    optimizers = {g: torch.optim.Adam(ps, lr=rates[g]) for g, ps in groups.items()}
    steps, learned = [{n: p.detach().clone() for n, p in head.named_parameters()}], dict.fromkeys(groups, 0)
    for epoch, order in enumerate(random_orders(INPUTS.splits.indices(split, "train"), seed, config.epochs)):
        for start in range(0, len(order), config.batch_size):
            index = order[start : start + config.batch_size]
            head.zero_grad()
            cross_entropy(head(INPUTS.features[index]), labels[index]).backward()
            for group in trains(epoch):
                optimizers[group].param_groups[0]["lr"] = rates[group] * 0.1 ** (learned[group] // config.lr_step)
                optimizers[group].step()
            steps.append({n: p.detach().clone() for n, p in head.named_parameters()})
        for group in trains(epoch):
            learned[group] += 1
    return head, steps


def rms(values):
    return torch.cat([v.flatten() for v in values]).square().mean().sqrt().item()


# ---- travel


def test_travel_is_that_of_a_training_step_by_step(trained):
    _, steps = follow(seed=3, split=1)
    row = trained.travel[trained.travel["seed"] == 3].set_index("stage")
    for stage, names in {"pre-layer": ["0.weight", "0.bias"], "circuit": ["2.weights"]}.items():
        moved = [sum((b[n] - a[n]).abs() for a, b in itertools.pairwise(steps)) for n in names]
        net = [steps[-1][n] - steps[0][n] for n in names]
        assert row.loc[stage, "path"] == pytest.approx(rms(moved), rel=1e-6)
        assert row.loc[stage, "net"] == pytest.approx(rms(net), rel=1e-6)
        assert row.loc[stage, "largest"] == pytest.approx(max(v.abs().max().item() for v in net), rel=1e-6)


def test_the_nominal_path_is_the_sum_over_the_steps():
    rates = [0.05 * 0.1 ** (epoch // 2) for epoch in range(3) for _ in range(24 // 4)]
    assert attribution.nominal(INPUTS, CONFIG, 0.05) == pytest.approx(sum(rates))


def test_travel_keeps_replicas_that_are_trained_in_groups_apart(trained, monkeypatch):
    monkeypatch.setattr("qtl_utils.training.many.MAX_SAMPLES", 2 * CONFIG.batch_size)
    again = attribution.train_variant("A", INPUTS, CONFIG).travel.sort_values(["stage", "seed"])
    expected = trained.travel.sort_values(["stage", "seed"])
    np.testing.assert_allclose(again["path"], expected["path"], rtol=1e-6)


@pytest.mark.parametrize("scaling", ["none", "standard"])
def test_saturation_is_counted_on_the_training_samples(scaling):
    found = attribution.train_variant("A", INPUTS, CONFIG.model_copy(update={"feature_scaling": scaling}))
    share = attribution.saturation(found).set_index("seed")
    features = INPUTS.features if scaling == "none" else scale_features(INPUTS.features, INPUTS.splits)[1]
    samples = features[INPUTS.splits.indices(1, "train")]
    before = torch.tanh(found.build(1).double()[0](samples))
    after = torch.tanh(samples @ found.fit.weights["0.weight"][1].T + found.fit.weights["0.bias"][1])
    for when, value in (("before", before), ("after", after)):
        assert share.loc[1, when] == pytest.approx((value.abs() > 0.95).double().mean().item())


# ---- reliance


def with_weights(trained, i, **changed):
    head = trained.build(trained.fit.replicas[i].seed).double()
    state = {name: values[i] for name, values in trained.fit.weights.items()} | changed
    head.load_state_dict(state, strict=False)
    return head(INPUTS.features).detach().numpy()


def test_zeroed_angles_leave_the_closed_form_of_the_fixed_circuit(trained):
    # at angle 0 and depth 6 the circuit of 2019 is (-s0, -s1, s0 s2, -s0 s1 s3) with s = sin(angle)
    weights = {name: values[2] for name, values in trained.fit.weights.items()}
    s = torch.sin(torch.tanh(INPUTS.features @ weights["0.weight"].T + weights["0.bias"]) * np.pi / 2).T
    z = torch.stack([-s[0], -s[1], s[0] * s[2], -s[0] * s[1] * s[3]], 1)
    expected = z @ weights["3.weight"].T + weights["3.bias"]
    np.testing.assert_allclose(attribution.alter(trained, ZEROED)[2], expected, atol=1e-10)


def test_swapped_angles_are_those_of_the_next_seed_on_the_same_split(trained):
    found = attribution.alter(trained, "A with swapped angles")
    for i, partner in enumerate([2, 3, 0, 1]):  # four seeds on two splits
        expected = with_weights(trained, i, **{"2.weights": trained.fit.weights["2.weights"][partner]})
        np.testing.assert_allclose(found[i], expected, atol=1e-10)


@pytest.mark.parametrize("stage", ["angles", "pre-layer", "post-layer"])
def test_a_reset_stage_is_as_it_was_drawn(trained, stage):
    names = {"angles": ["2.weights"], "pre-layer": ["0.weight", "0.bias"], "post-layer": ["3.weight", "3.bias"]}[stage]
    start = dict(trained.build(1).double().named_parameters())
    expected = with_weights(trained, 1, **{name: start[name].detach() for name in names})
    np.testing.assert_allclose(attribution.alter(trained, f"A with reset {stage}")[1], expected, atol=1e-10)


@pytest.mark.parametrize(("seeds", "n_splits"), [(7, 3), (3, 3), (4, 1)])
def test_nobody_swaps_with_itself_nor_across_rates(seeds, n_splits):
    replicas = attribution.make_replicas(range(seeds), n_splits, [attribution.own_rates(CONFIG, q) for q in (1, 2)])
    found = attribution.partners(replicas)
    assert (found != np.arange(len(found))).all()
    for replica, partner in zip(replicas, (replicas[i] for i in found), strict=True):
        assert partner.candidate == replica.candidate
        assert partner.split == replica.split or sum(r.split == replica.split for r in replicas) == 2  # one a rate


def test_changed_decisions_are_counted_on_the_test_samples(trained):
    _, changed = attribution.reliance(trained)
    test = INPUTS.splits.indices(1, "test")
    differs = attribution.alter(trained, ZEROED)[3].argmax(1) != trained.fit.logits["last"][3].argmax(1)
    row = changed[(changed["arm"] == ZEROED) & (changed["seed"] == 3)]
    assert row["changed"].item() == pytest.approx(differs[test].mean())


# ---- rates


def test_a_sweep_moves_angles_in_proportion_and_the_rest_alike():
    config = CONFIG.model_copy(update={"epochs": 1, "batch_size": 24})  # one step: Adam moves by the rate
    metrics, travel = attribution.sweep_tables([attribution.sweep("A", INPUTS, config, [0.1, 10])], [[0.1, 10]])
    paths = travel.groupby(["stage", "factor"])["path"].mean()
    assert paths["circuit", 10] == pytest.approx(100 * paths["circuit", 0.1], rel=1e-3)
    assert paths["circuit", 0.1] == pytest.approx(0.1 * config.lr_quantum, rel=1e-3)
    assert paths["post-layer", 10] == pytest.approx(paths["post-layer", 0.1])
    assert set(zip(metrics["variant"], metrics["factor"], strict=True)) == {
        (arm, factor) for arm in ("A", ZEROED) for factor in (0.1, 10)
    }


def test_tuning_takes_the_rate_that_validation_prefers():
    swept = attribution.sweep("C", INPUTS, CONFIG.model_copy(update={"epochs": 8}), [1e-6, 1])
    chosen = attribution.tuned([swept])
    expected = swept.metrics(where=np.array([r.candidate == 1 for r in swept.fit.replicas]))
    assert (chosen["accuracy"].to_numpy() == expected["accuracy"].to_numpy()).all()


def test_nothing_is_tuned_without_a_validation_set(trained):
    splits = Splits("as_published", INPUTS.splits.subsets)
    assert attribution.tuned([replace(trained, inputs=replace(INPUTS, splits=splits))]).empty


# ---- retraining


@pytest.mark.parametrize("schedule", attribution.SCHEDULES)
def test_schedules_follow_optimisers_that_take_turns(schedule):
    times, trains = attribution.SCHEDULES[schedule]
    config = CONFIG.model_copy(update={"epochs": 3 * times, "seeds": 2})
    found = attribution.train_variant("A", INPUTS, config, trains=lambda epoch: trains(epoch, 3))
    head, _ = follow(1, 1, config, lambda epoch: trains(epoch, 3))
    np.testing.assert_allclose(found.fit.logits["last"][1], head(INPUTS.features).detach(), atol=1e-9)


@pytest.mark.parametrize(("trains", "moved"), [(attribution.ANGLES, {"circuit"}), (attribution.NEITHER, set())])
def test_a_group_that_does_not_learn_stays_at_its_draw(trains, moved):
    travel = attribution.train_variant("A", INPUTS, CONFIG, trains=lambda epoch: trains).travel
    assert set(travel.loc[travel["path"] > 0, "stage"]) == moved


def test_a_resting_group_equals_parameters_that_need_no_gradient():
    def frozen(seed):
        head = make(seed)
        head[2].weights.requires_grad_(False)
        return head

    make = attribution.train_variant("A", INPUTS, CONFIG.model_copy(update={"epochs": 1})).build
    resting = attribution.train_variant("A", INPUTS, CONFIG, trains=lambda epoch: attribution.CLASSICAL)
    expected = attribution.train_variant("A", INPUTS, CONFIG, build=frozen)
    np.testing.assert_allclose(resting.fit.logits["last"], expected.fit.logits["last"], atol=1e-10)


def test_the_factorial_has_every_cell_and_concurrent_is_plain_training(trained):
    found = attribution.retrain(INPUTS, CONFIG, ["concurrent", "two-stage"])
    assert set(found["variant"]) == {"neither", "angles", "classical", "both, concurrent", "both, two-stage"}
    both = found[found["variant"] == "both, concurrent"]["loss"].to_numpy()
    np.testing.assert_allclose(both, trained.metrics()["loss"].to_numpy(), rtol=1e-9)


# ---- rows


def test_a_variant_that_cannot_be_taken_apart_says_why():
    found = attribution.refusals(["C", "B", "A-surrogate"], INPUTS, CONFIG.model_copy(update={"n_qubits": 7}))
    assert found["C"] == "" and "trains the backbone" in found["B"] and "stops at 6" in found["A-surrogate"]


def test_rows_are_those_that_the_statistics_take(trained):
    metrics = pd.concat([trained.metrics(), trained.metrics(ZEROED, attribution.alter(trained, ZEROED))])
    found = stats.paired(metrics, "A", ZEROED)
    assert found.n_splits == 2 and found.n_seeds == 4 and stats.size_ratio(metrics) == pytest.approx(14 / 24)
