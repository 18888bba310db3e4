"""Training: many seeds at once against each alone and against torch's optimisers; networks; resuming."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.data.splits import Splits
from qtl_utils.models.heads import VARIANTS, HeadSettings, make_head
from qtl_utils.models.network import Network, SmallConv2d, batch_loss, network_logits, sample_losses, train_epoch
from qtl_utils.study.config import TrainConfig
from qtl_utils.training import many, whole
from qtl_utils.training.fits import Best, Rates, Replica, batches_of, make_replicas, random_orders, selection_subset
from qtl_utils.training.kept import read_fit, write_fit
from qtl_utils.training.many import fit_heads
from qtl_utils.training.optimizers import network_optimizer
from qtl_utils.training.stacks import Stack, stackable_layers
from qtl_utils.training.whole import fit_network

FROZEN = [name for name, variant in VARIANTS.items() if variant.training == "frozen"]
RATES = Rates(0.01, 0.03, 0.001)
SETTINGS = HeadSettings(n_features=5, n_classes=3, n_qubits=3, depth=2)
CONFIG = TrainConfig(epochs=4, batch_size=4, lr_step=2, n_qubits=3, depth=2, dtype="float64")


def problem(n=40, n_splits=2, seed=0):
    """Features (n, 5), labels of 3 classes and random splits of 18, 10 and 12."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    features = torch.from_numpy(rng.normal(size=(n, 5)) + labels[:, None])
    names = np.array(["train"] * 18 + ["validation"] * 10 + ["test"] * 12)
    return features, labels, Splits("repeated", np.stack([rng.permutation(names) for _ in range(n_splits)]))


def fit(variant, replicas, config=CONFIG, **options):
    return fit_heads(lambda seed: make_head(variant, SETTINGS, seed), *problem(), replicas, config, **options)


@pytest.mark.parametrize("variant", FROZEN)
def test_seeds_trained_together_end_as_they_do_alone(variant):
    replicas = make_replicas(range(5), 2, [RATES, Rates(0.02, 0.001, 0.001)])
    config = CONFIG.model_copy(update={"epochs": 10, "lr_step": 4})  # 50 steps
    together = fit(variant, replicas, config)
    for i, replica in enumerate(replicas):
        alone = fit(variant, [replica], config)
        np.testing.assert_allclose(together.logits["last"][i], alone.logits["last"][0], atol=1e-10)
        np.testing.assert_allclose(together.logits["best"][i], alone.logits["best"][0], atol=1e-10)
        np.testing.assert_allclose(together.history[i], alone.history[0], atol=1e-10)


@pytest.mark.parametrize("variant", FROZEN)
def test_the_same_training_is_the_same_to_the_last_bit(variant):
    replicas = make_replicas(range(3), 2, [RATES])
    config = CONFIG.model_copy(update={"dtype": "float32"})
    first, second = fit(variant, replicas, config), fit(variant, replicas, config)
    assert np.array_equal(first.logits["last"], second.logits["last"])
    torch.set_num_threads(2)
    try:
        third = fit(variant, replicas, CONFIG)
    finally:
        torch.set_num_threads(1)
    np.testing.assert_allclose(fit(variant, replicas).logits["last"], third.logits["last"], atol=1e-10)


@pytest.mark.parametrize("simulator", ["default.qubit", "lightning.qubit"])
def test_the_simulators_of_pennylane_train_the_same_head(simulator):
    replicas, other = make_replicas(range(2), 2, [RATES]), dataclasses.replace(SETTINGS, simulator=simulator)
    expected = fit("A", replicas).logits["last"]
    found = fit_heads(lambda seed: make_head("A", other, seed), *problem(), replicas, CONFIG).logits["last"]
    np.testing.assert_allclose(found, expected, atol=1e-10 if simulator == "default.qubit" else 1e-4)


class OwnHead(torch.nn.Module):
    """What only `vmap` can stack: not a chain of known layers."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.circuit = torch.nn.Linear(5, 3), QuantumLayer(3, 2)
        self.last = torch.nn.Linear(3, 3)

    def forward(self, x):
        angles = self.first(x)
        return self.last(self.circuit(angles) + angles)


def test_a_users_head_around_a_circuit_is_stacked_by_vmap():
    assert stackable_layers(OwnHead(0)) is None
    replicas = make_replicas(range(3), 2, [RATES])
    together = fit_heads(OwnHead, *problem(), replicas, CONFIG)
    for i, replica in enumerate(replicas):
        alone = fit_heads(OwnHead, *problem(), [replica], CONFIG)
        np.testing.assert_allclose(together.logits["last"][i], alone.logits["last"][0], atol=1e-10)


@pytest.mark.parametrize("variant", FROZEN)
def test_stacking_by_layers_equals_vmap(variant):
    modules = [make_head(variant, SETTINGS, seed).double() for seed in range(3)]
    model = Stack(modules)
    assert model.layers is not None
    for x in (torch.randn(3, 7, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)):
        found, model.layers = model(x), None
        torch.testing.assert_close(found, model(x), atol=1e-12, rtol=0)
        model.layers = stackable_layers(model.base)


@pytest.mark.parametrize(
    ("optimizer", "momentum", "schedule"),
    [("adam", 0.0, "after"), ("sgd", 0.0, "after"), ("sgd", 0.9, "after"), ("adam", 0.0, "before")],
)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # what the "before" of published code is
def test_a_seed_follows_torch_optimisers_step_by_step(optimizer, momentum, schedule):
    features, labels, splits = problem()
    config = CONFIG.model_copy(update={"optimizer": optimizer, "momentum": momentum, "lr_schedule": schedule})
    found = fit("A", [Replica(1, 1, 0, RATES)], config)
    model, labels = make_head("A", SETTINGS, 1).double(), torch.from_numpy(labels)
    groups = [{"params": [model[2].weights], "lr": RATES.quantum}]
    groups.append({"params": [*model[0].parameters(), *model[3].parameters()], "lr": RATES.classical})
    torch_optimizer = torch.optim.Adam(groups) if optimizer == "adam" else torch.optim.SGD(groups, momentum=momentum)
    scheduler = torch.optim.lr_scheduler.StepLR(torch_optimizer, 2, 0.1)
    for order in random_orders(splits.indices(1, "train"), 1, 4):
        if schedule == "before":
            scheduler.step()
        for start in range(0, len(order), 4):
            index = order[start : start + 4]
            torch_optimizer.zero_grad()
            cross_entropy(model(features[index]), labels[index]).backward()
            torch_optimizer.step()
        if schedule == "after":
            scheduler.step()
    np.testing.assert_allclose(found.logits["last"][0], model(features).detach(), atol=1e-10)


@pytest.mark.parametrize("variant", ["A", "C"])
@pytest.mark.parametrize("per_split", [False, True])
def test_predictions_from_kept_weights_are_those_of_the_training(variant, per_split, monkeypatch):
    monkeypatch.setattr(many, "MAX_PARAMETERS", 60)  # a few replicas at a time
    features, labels, splits = problem()
    features = torch.stack([features, 2 * features]) if per_split else features
    build, replicas = lambda seed: make_head(variant, SETTINGS, seed), make_replicas(range(5), 2, [RATES])
    found = fit_heads(build, features, labels, splits, replicas, CONFIG)
    again = many.predict(build, found.weights, features, replicas, CONFIG)
    np.testing.assert_allclose(again, found.logits["last"], atol=1e-12)


def test_who_watches_sees_the_start_and_every_step_and_changes_nothing():
    seen = []
    watch = lambda step, replicas, parameters: seen.append((step, parameters["weight"][0].clone()))  # noqa: E731
    replicas = make_replicas(range(2), 2, [RATES])
    watched = fit("C", replicas, watch=watch)
    assert [step for step, _ in seen] == list(range(1 + 4 * 5))  # 18 samples, batches of 4
    assert torch.equal(seen[0][1], make_head("C", SETTINGS, 0).double().weight)
    assert torch.equal(seen[-1][1], watched.weights["weight"][0])
    assert np.array_equal(watched.logits["last"], fit("C", replicas).logits["last"])


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adam-pl", "adam-pl07"])
def test_a_pace_replaces_the_decay_and_zero_leaves_a_group_alone(optimizer):
    config, replicas = CONFIG.model_copy(update={"optimizer": optimizer}), make_replicas(range(2), 2, [RATES])
    plain = fit("A", replicas, config)
    same = fit("A", replicas, config, pace=lambda epoch: dict.fromkeys(["classical", "quantum"], 0.1 ** (epoch // 2)))
    np.testing.assert_allclose(same.logits["last"], plain.logits["last"], atol=1e-12)
    still = fit("A", replicas, config, pace=lambda epoch: {"classical": 1.0, "quantum": 0.0})
    start = torch.stack([make_head("A", SETTINGS, seed)[2].weights.detach().double() for seed in range(2)])
    assert torch.equal(still.weights["2.weights"], start) and not np.array_equal(still.history, plain.history)


def test_the_optimiser_of_pennylane_07_takes_a_whole_first_step():
    # its first step: m = g, v = g^2, so that the step is lr * sqrt(1 - b2) / (1 - b1) whatever the gradient
    config = CONFIG.model_copy(update={"optimizer": "adam-pl07", "epochs": 1, "batch_size": 100, "beta2": 0.99})
    start, end = make_head("C", SETTINGS, 0).double(), fit("C", [Replica(0, 0, 0, RATES)], config)
    step = (end.weights["weight"][0] - start.weight).abs()
    torch.testing.assert_close(step, torch.full_like(step, 0.01 * np.sqrt(0.01) / 0.1), rtol=1e-4, atol=0)


def test_a_users_own_module_is_trained_in_groups_of_any_size(monkeypatch):
    def build(seed):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.GELU(), torch.nn.Linear(4, 3))

    replicas = make_replicas(range(5), 2, [RATES])
    whole = fit_heads(build, *problem(), replicas, CONFIG)
    monkeypatch.setattr(many, "MAX_PARAMETERS", 80)  # two replicas of 39 parameters at a time
    parts = fit_heads(build, *problem(), replicas, CONFIG)
    np.testing.assert_allclose(whole.logits["last"], parts.logits["last"], atol=1e-10)
    assert [r.seed for r in parts.replicas] == [0, 1, 2, 3, 4]


def test_heads_that_mix_samples_are_refused():
    with pytest.raises(ValueError, match="cannot hold BatchNorm; use LayerNorm"):
        fit_heads(lambda seed: torch.nn.BatchNorm1d(5), *problem(), make_replicas([0], 2, [RATES]), CONFIG)


def test_a_circuit_of_depth_zero_is_trained():
    settings = HeadSettings(n_features=5, n_classes=3, n_qubits=3, depth=0)
    found = fit_heads(lambda seed: make_head("A", settings, seed), *problem(), make_replicas([0], 2, [RATES]), CONFIG)
    assert np.isfinite(found.logits["last"]).all()


def test_frozen_parameters_of_a_module_stay():
    def build(seed):
        head = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3))
        torch.nn.init.constant_(head[0].weight, 0.5).requires_grad_(False)
        return head

    assert (fit_heads(build, *problem(), make_replicas(range(2), 2, [RATES]), CONFIG).weights["0.weight"] == 0.5).all()


def test_splits_of_different_sizes_are_trained_together():
    features, labels, splits = problem()
    subsets = splits.subsets.copy()
    subsets[0, np.flatnonzero(subsets[0] == "train")[:3]] = ""
    splits, replicas = Splits("repeated", subsets), make_replicas(range(2), 2, [RATES])
    build = lambda seed: make_head("C", SETTINGS, seed)  # noqa: E731
    together = fit_heads(build, features, labels, splits, replicas, CONFIG)
    for i, replica in enumerate(replicas):
        alone = fit_heads(build, features, labels, splits, [replica], CONFIG)
        np.testing.assert_allclose(together.logits["last"][i], alone.logits["last"][0], atol=1e-10)


def test_the_best_epoch_has_the_highest_validation_accuracy_then_the_lowest_loss():
    found = fit("C", make_replicas(range(6), 2, [RATES]))
    for history, best in zip(found.history, found.best_epoch, strict=True):
        loss, accuracy = history[:, 1].T
        candidates = np.flatnonzero(accuracy == accuracy.max())
        assert best - 1 == candidates[loss[candidates].argmin()]


def test_best_logits_are_those_of_the_best_epoch():
    _, labels, splits = problem()
    found = fit("C", make_replicas(range(4), 2, [Rates(0.3, 0.3, 0.3)]))
    for i, r in enumerate(found.replicas):
        index = splits.indices(r.split, "validation")
        accuracy = (found.logits["best"][i, index].argmax(1) == labels[index]).mean()
        assert accuracy == pytest.approx(found.history[i, :, 1, 1].max())


def test_as_published_the_best_epoch_is_looked_for_on_the_test_set():
    assert selection_subset(Splits("as_published", np.array([["train", "test"]]))) == "test"
    assert selection_subset(Splits("repeated", np.array([["train", "test"]]))) == "validation"


def test_every_sample_is_seen_once_per_epoch_in_an_order_of_the_seed():
    index = np.arange(10, 27)
    orders = random_orders(index, seed=3, epochs=2)
    assert all(sorted(order) == list(index) for order in orders) and not np.array_equal(*orders)
    assert np.array_equal(orders, random_orders(index, 3, 2))
    rng = np.random.default_rng([3, 2019])
    assert np.array_equal(orders, [rng.permutation(index) for _ in range(2)])  # results of a seed stay what they were
    assert not np.array_equal(orders, random_orders(index, 4, 2))
    batches = batches_of(orders[0], 5)
    assert batches.shape == (4, 5) and (batches[-1, 2:] == -1).all()


# ---- networks -------------------------------------------------------------------------------------------------------


class TinyBackbone(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 5, 4, stride=4)
        self.norm, self.dropout = torch.nn.BatchNorm2d(5), torch.nn.Dropout(0.2)

    def forward(self, pixels):
        x = self.dropout(self.norm(self.convolution(pixels.to(self.convolution.weight.dtype) / 255)))
        return x.mean((2, 3))


def build_network(seed, variant="A-joint"):
    torch.manual_seed(seed)
    return Network(TinyBackbone(), make_head(variant, SETTINGS, seed))


def fit_tiny(config=CONFIG, build=build_network, **options):
    _, labels, splits = problem()
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8))
    return fit_network(build, pixels, labels, splits, Replica(1, 1, 0, RATES), config, **options)


def test_a_network_trains_every_part():
    start, models = build_network(1).double(), []
    fit_tiny(build=lambda seed: models.append(build_network(seed)) or models[-1])
    moved = [not torch.equal(p, q) for p, q in zip(models[0].parameters(), start.parameters(), strict=True)]
    assert all(moved)


def test_parameter_groups_have_their_own_rates():
    groups = network_optimizer(build_network(0), RATES, CONFIG).param_groups
    assert {g["lr"]: sum(p.numel() for p in g["params"]) for g in groups} == {0.001: 255, 0.03: 6, 0.01: 30}
    with pytest.raises(ValueError, match="'adam-pl07' trains heads"):
        network_optimizer(build_network(0), RATES, CONFIG.model_copy(update={"optimizer": "adam-pl07"}))


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_fused_steps_are_those_of_foreach(kind):
    config = CONFIG.model_copy(update={"optimizer": kind, "momentum": 0.9, "beta2": 0.99})
    models = [build_network(0).double() for _ in range(2)]
    optimizers = [network_optimizer(model, RATES, config) for model in models]
    assert all(group["fused"] for group in optimizers[0].param_groups)
    for group in optimizers[1].param_groups:
        group |= {"fused": False, "foreach": True}
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        for p, q in zip(*[model.parameters() for model in models], strict=True):
            p.grad = torch.randn(p.shape, generator=draw, dtype=p.dtype)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    start = list(build_network(0).double().parameters())
    for p, q, first in zip(*[model.parameters() for model in models], start, strict=True):
        torch.testing.assert_close(p, q, atol=1e-10, rtol=0)
        assert not torch.equal(p, first)


# image size, kernel, stride, border: outputs of one pixel, of 2 x 2, 1 x 4, and larger ones
SMALL = [(1, 3, 1, 1), (2, 3, 2, 1), (2, 1, 2, 0), (3, 7, 2, 3), (2, 3, 1, 1), (4, 3, 2, 1), (5, 2, 3, 0), (8, 3, 1, 1)]


@pytest.mark.parametrize(("size", "kernel", "stride", "border"), [*SMALL, (4, (1, 4), (1, 2), (0, 1))])
@pytest.mark.parametrize("bias", [True, False])
def test_small_convolutions_are_torchs(size, kernel, stride, border, bias):
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Conv2d(3, 5, kernel, stride, border, bias=bias).double() for _ in range(2))
    ours.load_state_dict(theirs.state_dict())
    ours.__class__ = SmallConv2d
    x = torch.randn(4, 3, size, size, dtype=torch.float64)
    for images in (x, x.contiguous(memory_format=torch.channels_last)):
        results = []
        for convolution in (ours, theirs):
            leaf = images.clone().requires_grad_()
            out = convolution(leaf)
            results.append([out, *torch.autograd.grad(out.sin().sum(), [leaf, *convolution.parameters()])])
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_only_plain_convolutions_are_replaced():
    options = [{}, {"groups": 3}, {"dilation": 2}, {"padding_mode": "reflect"}, {"padding": "same"}, {"padding": 3}]
    given = [torch.nn.Conv2d(3, 3, 3, **{"padding": 1} | other) for other in options]
    found = Network(torch.nn.ModuleList(given), torch.nn.Identity()).backbone
    assert [type(module) is SmallConv2d for module in found] == [True, *[False] * 5]


def test_images_too_small_for_a_kernel_are_refused_as_by_torch():
    convolution = torch.nn.Conv2d(3, 5, 4)
    convolution.__class__ = SmallConv2d
    with pytest.raises(RuntimeError, match="size can't be greater than actual input size"):
        convolution(torch.randn(2, 3, 2, 2))


def test_evaluation_in_parts_is_evaluation_at_once():
    model = build_network(0).double()
    pixels = torch.randint(0, 256, (300, 3, 8, 8), dtype=torch.uint8)
    index = np.random.default_rng(0).permutation(300)
    found = network_logits(model, pixels, index)
    torch.testing.assert_close(found, model(pixels)[index].detach(), atol=1e-12, rtol=0)


def test_the_best_epoch_is_kept_replica_by_replica():
    weights = torch.zeros(2, 3)
    best = Best(2, {"w": weights})
    steps = [([0.5, 0.5], [1.0, 1.0]), ([0.4, 0.7], [1.0, 1.0]), ([0.4, 0.6], [1.0, 2.0]), ([0.6, 0.7], [np.nan, 1.0])]
    for epoch, (accuracy, loss) in enumerate(steps):
        weights += 1  # as a step of training does: in place
        best.update(epoch, np.stack([loss, accuracy], 1), {"w": weights})
    assert best.epoch.tolist() == [4, 2]
    assert best.parameters["w"][:, 0].tolist() == [4.0, 2.0]


def test_a_training_whose_last_epoch_is_its_best_can_be_kept(tmp_path):
    fit = fit_tiny(CONFIG.model_copy(update={"epochs": 1}))
    np.testing.assert_array_equal(fit.logits["best"], fit.logits["last"])
    write_fit(fit, tmp_path / "fit.done")
    np.testing.assert_array_equal(read_fit(tmp_path / "fit.done", fit.replicas[0]).logits["best"], fit.logits["last"])


def test_a_killed_training_goes_on_to_the_same_end(tmp_path, monkeypatch):
    expected, file = fit_tiny(), tmp_path / "c.part"
    monkeypatch.setattr(whole, "CHECKPOINT_SECONDS", 0)

    def die_after(path, epoch, *state, save=whole._save):
        save(path, epoch, *state)
        if epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(whole, "_save", die_after)
    with pytest.raises(KeyboardInterrupt):
        fit_tiny(checkpoint=file)
    monkeypatch.setattr(whole, "train_epoch", count := Counter(whole.train_epoch))
    found = fit_tiny(checkpoint=file)
    assert count.calls == 2
    for kind in ("best", "last"):
        np.testing.assert_array_equal(found.logits[kind], expected.logits[kind])
    np.testing.assert_array_equal(found.history, expected.history)
    assert found.seconds[0] > torch.load(file, weights_only=True)["seconds"] > 0


class Counter:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)


def test_a_last_batch_of_one_image_joins_the_one_before():
    seen = []

    class Spy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(2, 3)

        def forward(self, x):
            seen.append(len(x))
            return self.linear(x)

    model, config = Spy(), TrainConfig(batch_size=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train_epoch(model, optimizer, torch.randn(9, 2), torch.zeros(9, dtype=torch.long), np.arange(9), config)
    assert seen == [4, 5]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_squared_loss_is_torchs_of_one_hot_classes(reduction):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    targets = torch.tensor([0, 2, 1, -1, 2])
    each = sample_losses(logits, targets, "squared")
    kept = targets >= 0
    wanted = mse_loss(logits[kept], one_hot(targets[kept], 3).double(), reduction="none").mean(-1)
    torch.testing.assert_close(each[kept], wanted)
    assert each[3] == 0
    found = batch_loss(logits[kept], targets[kept], "squared", reduction)
    torch.testing.assert_close(found, getattr(wanted, reduction)())
