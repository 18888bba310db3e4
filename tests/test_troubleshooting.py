"""What mending a fault gains: measures with known values, honest readings, and the figure of the doctor's trial."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from qtl_utils.analyses import troubleshooting
from qtl_utils.analyses.troubleshooting import MEASURES, Ward, change, gained, sentence
from qtl_utils.data.dataset import Dataset
from qtl_utils.data.splits import make_splits
from qtl_utils.doctor import diagnosis as doctor
from qtl_utils.doctor import faults
from qtl_utils.doctor.checks import circuit as checks_circuit
from qtl_utils.doctor.diagnosis import diagnose
from qtl_utils.doctor.faults import FAULTS
from qtl_utils.models.backbones import load_backbone
from qtl_utils.results import diagnostic_plots
from qtl_utils.results.claims import Claims
from qtl_utils.study.config import TrainConfig
from qtl_utils.training.inputs import Inputs

SILENT = [name for name, fault in FAULTS.items() if fault.check not in ("forward", "devices")]
FAST = ["double_softmax", "forgotten_angles", "dead_angles", "not_saved", "scheduler_first", "saturated"]


def test_every_silent_fault_of_training_is_measured():
    on_features = {fault for fault in SILENT if FAULTS[fault].theme == "evaluation"}
    no_gain = {"no_difference", "stuck", "precision"}  # a reading of a trained model, a symptom, an inconsistency
    no_gain |= {"empty_sample", "lost_length"}  # nothing can be trained, on samples of their own
    assert set(SILENT) - on_features - no_gain == set(MEASURES)


@pytest.mark.parametrize("name", FAST)
def test_gains_are_finite_and_repeatable(name):
    rows = gained(name, seeds=2, steps=3)
    assert len(rows) == len(MEASURES[name])
    assert np.isfinite([[row["broken"], row["mended"], row["low"]] for row in rows]).all()
    assert rows == gained(name, seeds=2, steps=3)


def test_known_gains_come_out():
    assert gained("dead_angles", seeds=2)[0] | {"broken": 15, "mended": 6} == gained("dead_angles", seeds=2)[0]
    (row,) = gained("scheduler_first", seeds=2)
    assert (row["broken"], row["mended"]) == pytest.approx((0.02 + 0.002 + 0.002 + 0.0002, 0.044))
    moved, _ = gained("forgotten_angles", seeds=2, steps=3)
    assert moved["broken"] == 0 < moved["mended"]


def test_the_interval_is_the_t_interval_and_the_reading_follows_from_it():
    values = np.array([0.1, 0.3, 0.2, 0.25])
    row = change(values)
    low, high = scipy.stats.t.interval(0.95, 3, values.mean(), scipy.stats.sem(values))
    assert (row["low"], row["high"]) == pytest.approx((low, high))
    assert row["reading"] == "more once mended" and change(-values)["reading"] == "less once mended"
    assert change(values - values.mean())["reading"] == "not distinguishable"


def test_a_ratio_is_a_factor_with_its_interval():
    row = change(np.log([2.0, 2.0, 4.0]), ratio=True)
    assert row["change"] == pytest.approx(2 ** (4 / 3)) and row["low"] < row["change"] < row["high"]
    assert change(np.log([8.0, 9.0, 8.5]), ratio=True)["reading"] == "less once mended"


def test_the_sentence_names_the_interval_and_the_seeds():
    (row,) = gained("not_saved", seeds=3)
    assert f"{row['low']:.3g}" in sentence(row) and "over 3 seeds" in sentence(row) and row["reading"] in sentence(row)


@pytest.mark.slow
def test_the_model_of_2019_is_diagnosed_in_one_call():
    backbone = load_backbone("resnet18", 32, "random", seed=0)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (16, 3, 32, 32), generator=generator, dtype=torch.uint8)
    found = diagnose(**faults.as_published(backbone, pixels, torch.arange(16) % 2, epochs=3))
    assert set(found.failed) >= {"dead_angles", "frozen_buffers", "per_sample_loop", "travel", "selection"}
    assert "36 of 60" in next(f.evidence for f in found if f.check == "dead_angles")
    assert not backbone.network.training and backbone.frozen  # a copy was trained


def digits(n=80, features=12):
    """Separable features of two classes, in three splits."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    x = rng.normal(size=(n, features)) + labels[:, None]
    names = tuple(f"s{i}" for i in range(n))
    data = Dataset("toy", ("a", "b"), labels, names, ("",) * n, names, points=x)
    splits = make_splits(data, protocol="repeated", n_splits=3, seed=0, train=40, validation=16, test=24)
    return Inputs(data, splits, np.empty(0, np.uint8), torch.from_numpy(x).float(), None, {}, 0)


def test_the_best_epoch_never_promises_less_and_copies_of_learned_samples_promise_more():
    inputs, config = digits(), TrainConfig(epochs=30, batch_size=8, lr_classical=0.05, lr_quantum=0.05)
    best = troubleshooting.selection_bias(inputs, config, 6)
    assert best["change"] >= 0 and best["n"] == 6
    shuffled = inputs.data.labels.copy()
    np.random.default_rng(1).shuffle(shuffled)  # nothing to learn: what is right was learned by heart
    inputs.data.labels[:] = shuffled
    assert troubleshooting.leakage_bias(inputs, config, 6, share=1.0)["change"] > 0


def test_the_trial_is_drawn_with_a_cell_per_check():
    trial = troubleshooting.confusion(["double_softmax", "MLP"])
    assert trial.loc["double_softmax", "probabilities"] == "fail"
    assert not trial.loc["MLP"].isin(["fail", "warn"]).any()
    figure = diagnostic_plots.confusion(trial, {name: fault.check for name, fault in FAULTS.items()})
    assert len(figure.axes[0].patches) == trial.size


def test_a_ward_remembers_what_it_treated():
    ward = Ward(seeds=2, steps=3)
    treatment = ward.treat("double_softmax")
    ward.gain("double_softmax")
    assert treatment.found.verdict == "fail" and treatment.mended.verdict == "ok"
    assert treatment.found.cause in treatment._repr_html_()
    assert list(ward.findings()["fault"]) == ["double_softmax"] and len(ward.gains()) == 2
    assert isinstance(ward.gains(), pd.DataFrame)


def test_a_ward_claims_that_faults_are_found_alone_and_mended():
    ward, claims = Ward(), Claims("05_a")
    ward.expect(claims)
    assert claims.frame()["confirmed"].all() and claims.frame().loc[0, "found"] == "0 of 0"
    good = ward.treat("double_softmax")
    ward.treated["wrong"] = replace(good, fault=replace(good.fault, check="travel"), after=good.before)
    claims = Claims("05_b")
    ward.expect(claims)
    assert claims.frame()["confirmed"].tolist() == [False] * 3
    assert claims.frame()["found"].tolist() == ["1 of 2", "alarms: probabilities in 'wrong'", "1 of 2"]


def test_no_machine_is_too_slow_to_be_treated(monkeypatch):
    clock = iter(range(0, 10**9, 10**4))
    monkeypatch.setattr(doctor.time, "perf_counter", lambda: float(next(clock)))
    treatment = troubleshooting.treat("dead_angles")
    assert treatment.before.failed == ["dead_angles"] and treatment.mended.verdict == "ok"
    assert not [f for f in treatment.before if "budget" in f.evidence]


@pytest.mark.slow
def test_a_slow_method_is_found_by_its_executions_on_a_busy_machine(monkeypatch):
    seconds = iter(np.random.default_rng(0).exponential(size=10**4).cumsum())
    monkeypatch.setattr(checks_circuit.time, "perf_counter", lambda: next(seconds))
    treatment = troubleshooting.treat("slow_method")
    assert treatment.before.failed == ["time"] and "executions" in treatment.found.evidence
    assert treatment.mended.verdict == "ok"
