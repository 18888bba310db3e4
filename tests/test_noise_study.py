"""What noise costs trained heads: every number against what it must be by construction."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_attribution import CONFIG, INPUTS

from qtl_utils.analyses import mitigation, noise
from qtl_utils.circuits.device_costs import modelled_cost
from qtl_utils.circuits.devices import confusion_matrix, load_backend, noisy_program
from qtl_utils.results import noise_plots, noise_tables, stats
from qtl_utils.study.config import TrainConfig
from qtl_utils.study.paths import PROJECT

SETTINGS = CONFIG.model_copy(update={"epochs": 2, "depth": 2})
SUBJECTS = noise.subjects(SETTINGS, 0.01, 0.02)
DEVICE = "manila"


@pytest.fixture(scope="module")
def heads():
    return {name: noise.train(subject, INPUTS) for name, subject in SUBJECTS.items()}


@pytest.fixture(scope="module")
def metrics(heads):
    met = noise.looked_through(noise.conditions([50], [0.05], [DEVICE]))
    frames = [
        noise.seen(name, trained, condition)
        for name, trained in heads.items()
        for condition in (met if SUBJECTS[name].has_circuit else [noise.NOTHING])
    ]
    frames += [
        noise.seen(name, noise.train(SUBJECTS[name], INPUTS, condition), condition, noise_tables.UNDER)
        for condition in noise.conditions([], [0.05], [DEVICE])
        for name in (noise_tables.PUBLISHED, noise_tables.REPAIRED)
    ]
    return pd.concat(frames, ignore_index=True)


@pytest.mark.parametrize("name", [noise_tables.PUBLISHED, noise_tables.REPAIRED, noise_tables.ZERO])
def test_heads_cut_open_at_an_exact_circuit_give_their_own_logits(heads, name):
    cut = noise.opened(heads[name])
    outputs = cut.outputs(noise.program_of(noise.NOTHING, heads[name].config))
    found = cut.logits(outputs)
    known = np.isfinite(found)
    np.testing.assert_allclose(found[known], heads[name].fit.logits["last"][known], atol=1e-10)
    for replica, rows in zip(heads[name].fit.replicas, known.all(-1), strict=True):
        assert np.flatnonzero(rows).tolist() == sorted(INPUTS.splits.indices(replica.split, "test"))


def test_full_depolarisation_leaves_the_bias_alone(heads):
    trained = heads[noise_tables.PUBLISHED]
    cut = noise.opened(trained)
    outputs = cut.outputs(noise.program_of(noise.Condition(noise_tables.GATES, 0.75), trained.config))
    assert np.abs(outputs).max() < 1e-12
    bias = trained.fit.weights["3.bias"].double().numpy()
    found = cut.logits(outputs)
    known = np.isfinite(found)
    np.testing.assert_allclose(found[known], np.broadcast_to(bias[:, None], found.shape)[known])


def test_many_shots_come_close_and_few_scatter_as_they_must(heads):
    cut = noise.opened(heads[noise_tables.PUBLISHED])
    program = noise.program_of(noise.NOTHING, heads[noise_tables.PUBLISHED].config)
    exact = cut.outputs(program)
    for shots in (10, 1000):
        spread = (cut.outputs(program, shots, seed=1) - exact) / np.sqrt((1 - exact**2) / shots)
        assert np.mean(spread**2) == pytest.approx(
            1, abs=6 * np.sqrt(2 / spread.size) + 6 / np.sqrt(shots * exact.size)
        )


def test_costs_are_paired_differences_to_the_same_model_without_noise(metrics):
    table = noise_tables.costs(metrics)
    row = table[(table["model"] == noise_tables.PUBLISHED) & (table["kind"] == noise_tables.GATES)].iloc[0]
    name = noise_tables.arm(noise_tables.PUBLISHED, noise_tables.GATES, 0.05, noise_tables.WITHOUT)
    test = stats.paired(
        metrics, name, noise_tables.arm(noise_tables.PUBLISHED, noise_tables.EXACT, "", noise_tables.WITHOUT), "loss"
    )
    assert row["loss_cost"] == pytest.approx(test.value)
    assert row["loss"] - table.iloc[0]["loss"] == pytest.approx(test.value)
    exact = table[table["kind"] == noise_tables.EXACT]
    assert set(exact["model"]) == set(SUBJECTS) and exact["loss_cost"].isna().all()
    assert (table["model"] == noise_tables.CLASSICAL).sum() == 1  # no noise reaches it


def test_every_question_is_one_family(metrics):
    found = noise_tables.answers(metrics)
    assert found.groupby("question")["n_tests"].unique().map(list).to_dict() == {"costs": [3], "training": [4]}
    assert set(found.loc[found["question"] == "training", "model"]) == {noise_tables.PUBLISHED, noise_tables.REPAIRED}


def test_parts_of_a_device_are_no_more_than_the_whole(heads):
    """Gates and readout shrink the outputs one after the other."""
    trained = heads[noise_tables.PUBLISHED]
    cut = noise.opened(trained)
    outputs = {
        kind: cut.outputs(noise.program_of(noise.Condition(kind, DEVICE), trained.config))
        for kind in (noise_tables.DEVICE, *noise.PARTS)
    }
    exact = cut.outputs(noise.program_of(noise.NOTHING, trained.config))
    error = {kind: np.sqrt(np.mean((out - exact) ** 2)) for kind, out in outputs.items()}
    assert all(0 < error[kind] < error[noise_tables.DEVICE] for kind in noise.PARTS)


def test_tables_figures_and_sentences(metrics, heads):
    table, answered = noise_tables.costs(metrics), noise_tables.answers(metrics)
    shares = noise_tables.readout_shares(table)
    assert list(shares["model"]) == [noise_tables.PUBLISHED, noise_tables.REPAIRED, noise_tables.ZERO]
    said = noise_tables.sentences(table, answered, shares)
    assert any(line.startswith("C has no circuit") for line in said) and not any("nan" in line for line in said)
    assert {axis.get_xlabel() for axis in noise_plots.costs(table).axes} > set(noise_plots.AXES.values())
    assert sum("training under the noise" in line for line in said) == 4


def made(model, kind, level="", training=noise_tables.WITHOUT, **values):
    keys = {"model": model, "kind": kind, "level": level, "training": training}
    return keys | {"accuracy": 0.9, "loss": 0.3, "accuracy_cost": 0.0, "loss_cost": 0.0, "changed": 0.0} | values


def test_what_is_trained_under_is_looked_through_once():
    under = noise.conditions([], [0.05, 0.05], ["fez"])
    met = noise.looked_through([*noise.conditions([50], [0.05], ["manila"]), *under])
    kinds = [noise_tables.EXACT, noise_tables.SHOTS, noise_tables.GATES] + 2 * [noise_tables.DEVICE, *noise.PARTS]
    assert [condition.kind for condition in met] == kinds and len(under) == 2


@pytest.mark.parametrize("holds", [True, False])
def test_what_was_expected_is_held_against_the_numbers(holds):
    old, new, accuracy = (0.06, 0.01, -0.01) if holds else (0.01, 0.06, -0.5)
    model = noise_tables.PUBLISHED
    rows = [made(model, noise_tables.EXACT)]
    rows += [made(model, noise_tables.DEVICE, "old", loss_cost=old, accuracy_cost=accuracy)]
    rows += [made(model, noise_tables.DEVICE, "new", loss_cost=new, accuracy_cost=accuracy)]
    facts = pd.DataFrame({"device": ["new", "old"], "calibrated": ["2026-01-01", "2021-01-01"]})
    trained = {"question": "training", "model": model, "kind": noise_tables.DEVICE, "level": "old"}
    answered = pd.DataFrame([trained | {"verdict": "equivalent" if holds else "lower"}])
    found = [bool(held) for _, held, _ in noise_tables.expectations(pd.DataFrame(rows), answered, facts)]
    assert found == [holds] * 3


def test_nothing_is_left_out_of_what_is_said_of_devices():
    model = noise_tables.PUBLISHED
    rows = [made(model, noise_tables.EXACT)]
    rows += [made(model, noise_tables.DEVICE, f"d{i}", changed=i / 100, loss_cost=i / 10) for i in range(4)]
    verdicts = ["lower", "equivalent", "not distinguishable", "no variation"]
    answered = pd.DataFrame(
        [{"question": "costs", "model": model, "verdict": verdict, "value": 0.0} for verdict in verdicts]
    )
    shares = pd.DataFrame(columns=["model", "loss, whole", "loss, readout"])
    (said,) = noise_tables.sentences(pd.DataFrame(rows), answered, shares)
    assert "0.0 to 3.0 of 100 test decisions change" in said and "loss changes by +0.000 to +0.300" in said
    assert said.endswith("it is worse on 1, the same to within 2 of 100 images on 2, we cannot tell on 1.")


def test_a_gradient_is_good_only_from_where_it_stays_good():
    angles = {"a": [0.8, 0.7, 0.9, 0.95], "b": [0.7035, 0.7, 0.7, 0.7035], "c": [0.71, 0.8, 0.9, 0.9]}
    rows = [
        {"method": "spsa", "device": device, "shots": shots, "cosine_low": low}
        for device, lows in angles.items()
        for shots, low in zip((10, 100, 1000, 10_000), lows, strict=True)
    ]
    (said,) = noise_tables.pointers(pd.DataFrame(rows[::-1]))
    assert said.endswith(": 10 (c); none up to 10,000 (b); 1,000 (a).")


def test_the_published_circuit_lies_where_the_reference_has_it():
    """Qiskit's placement is seeded: it may depend neither on the processor nor on the number of cores."""
    reference = PROJECT / "results" / "reference" / "default" / "tables" / "noise_devices.csv"
    wanted = pd.read_csv(reference).set_index("device")["physical qubits"]
    for name in ("yorktown", "fez"):
        assert noise.device_row(name, TrainConfig(variants=["A"]))["physical qubits"] == wanted[name]


def test_a_price_is_times_and_rates(heads):
    row = noise.price_row(DEVICE, SETTINGS, {"train": 20, "test": 10}, shots=100)
    turns = SETTINGS.n_qubits * (1 + SETTINGS.depth)
    circuits = 20 * SETTINGS.epochs * (1 + 2 * turns)
    assert row["circuits, test"] == 10 and row["circuits, training"] == circuits
    duration = noise.device_row(DEVICE, SETTINGS)["duration"]
    steps = -(-20 // SETTINGS.batch_size) * SETTINGS.epochs
    for what, count, jobs in (("test", 10, 1), ("training", circuits, 2 * steps)):
        cost = modelled_cost(DEVICE, duration, count, 100, jobs)
        assert row[f"USD, {what}"] == cost["USD"] and row[f"hours, {what}"] == cost["seconds"] / 3600


# ---- mitigation


def test_readout_mitigation_undoes_readout_errors():
    plain = noise.transpiled(DEVICE, SETTINGS)
    without_gates = {"gate_error": False, "thermal_relaxation": False}
    program = noisy_program(plain, load_backend(DEVICE), **without_gates, twirled=True)
    exact = noise.program_of(noise.NOTHING, SETTINGS)
    inputs = torch.linspace(-1, 1, 5 * SETTINGS.n_qubits, dtype=torch.float64).reshape(5, -1)
    weights = torch.full(exact.weight_shape, 0.3, dtype=torch.float64)
    wanted = noise.simulate_noisy(exact, inputs, weights)
    wrong = [confusion_matrix(load_backend(DEVICE), plain.qubits[wire]) for wire in range(SETTINGS.n_qubits)]
    left = np.array([1 - matrix[1, 0] - matrix[0, 1] for matrix in wrong])
    assert (left < 0.99).all() and any(matrix[1, 0] != matrix[0, 1] for matrix in wrong)
    np.testing.assert_allclose(noise.simulate_noisy(program, inputs, weights), left * wanted.numpy(), atol=1e-10)
    factors = mitigation.trex_factors(program, 200_000, np.random.default_rng(0))
    np.testing.assert_allclose(factors, 1 / left, atol=0.005)  # four standard errors


def gates(transpiled, n_qubits):
    counted = [item.operation for item in transpiled.circuit.data if item.name not in ("barrier", "measure")]
    return sum(operation.num_qubits == n_qubits for operation in counted)


def test_folding_multiplies_the_two_qubit_gates_and_their_noise():
    one, five = (mitigation.folded(DEVICE, SETTINGS, factor) for factor in (1, 5))
    again = noise.transpiled(DEVICE, SETTINGS)
    for factor in mitigation.FACTORS:
        longer = mitigation.longer(again, factor)
        assert gates(longer, 2) == factor * gates(again, 2) and gates(longer, 1) == gates(again, 1)
    inputs = torch.zeros(1, SETTINGS.n_qubits, dtype=torch.float64)
    weights = torch.zeros(one.weight_shape, dtype=torch.float64)
    weak, strong = (noise.simulate_noisy(program, inputs + 0.7, weights).abs().sum() for program in (one, five))
    assert strong < weak


def test_mitigated_outputs_come_closer(heads):
    found = mitigation.mitigations(noise_tables.PUBLISHED, heads[noise_tables.PUBLISHED], DEVICE, 20_000, 50_000)
    table = mitigation.summary(found).set_index("mitigation")
    assert table.loc[mitigation.READOUT, "error"] < table.loc[mitigation.NONE, "error"]
    assert table.loc[mitigation.BOTH, "error"] < table.loc[mitigation.NONE, "error"]
    assert table["executions"].tolist() == [20_000, 20_000, 60_000, 60_000]
    said = mitigation.sentences(table.reset_index())
    left = 1 - table.loc[mitigation.BOTH, "error"] / table.loc[mitigation.NONE, "error"]
    assert len(said) == 3 and f"falls by {100 * left:.0f} to {100 * left:.0f} % for 3 times the executions" in said[2]
    assert len(noise_plots.mitigated(table.reset_index()).axes) == 2


# ---- gradients


def test_more_shots_point_better_and_spsa_is_cheap():
    subject = SUBJECTS[noise_tables.PUBLISHED]
    given = (noise.SAMPLED, [20, 20_000])
    found = noise.directions(subject, INPUTS, noise.NOTHING, *given, heads=3, repeats=4)
    shift, spsa, dear = (found[found["method"] == method] for method in given[0])
    assert shift["cosine"].iloc[1] > shift["cosine"].iloc[0] and shift["cosine"].iloc[1] > 0.95
    assert shift["cosine_exact"].iloc[0] == pytest.approx(1) and shift["kept"].iloc[0] == pytest.approx(1)
    turns = SETTINGS.n_qubits * SETTINGS.depth
    assert shift["executions"].iloc[0] == 20 * 4 * (1 + 2 * turns) and spsa["executions"].iloc[0] == 20 * 4 * 3
    assert dear["executions"].tolist() == shift["executions"].tolist()
    assert spsa["cosine"].iloc[1] < dear["cosine"].iloc[1] < shift["cosine"].iloc[1]  # directions are what SPSA lacks
    assert len(noise_tables.pointers(found)) == 3 and len(noise_plots.directions(found).axes) == 1


def test_noise_shortens_a_gradient_more_than_it_turns_it():
    subject = SUBJECTS[noise_tables.PUBLISHED]
    place = noise.Condition(noise_tables.DEVICE, DEVICE)
    found = noise.directions(subject, INPUTS, place, ["spsa"], [100], heads=3, repeats=2).iloc[0]
    assert found["kept"] < found["cosine_exact"] <= 1
