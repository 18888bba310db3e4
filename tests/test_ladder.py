"""The repair ladder: what a mend changes, sealed samples, gains and whose they are."""

import numpy as np
import pandas as pd
import pytest
from small_inputs import make_inputs

from qtl_utils.analyses import ladder
from qtl_utils.data.datasets import DATASETS, load_dataset
from qtl_utils.data.splits import hold_out, make_splits
from qtl_utils.models.heads import VARIANTS
from qtl_utils.results import ladder_plots
from qtl_utils.study.config import DataConfig, TrainConfig

MENDS = list(ladder.MENDS)
NAMES = {"dataset": "d", "backbone": "b", "settings": "s", "protocol": "repeated"}
CONFIG = TrainConfig(seeds=5, epochs=2, lr_step=1)


@pytest.fixture(scope="module")
def climbed():
    inputs = make_inputs()
    known, opened = ladder.sealed(inputs, DataConfig(dataset="digits", train=0.5, validation=0.2), 0.25, n_splits=5)
    choices = ladder.Choices((0.0004, 0.01), 0.02, 4)
    climbing = ladder.Ladder(known, opened, CONFIG, choices, NAMES)
    return climbing, *ladder.climb(climbing, MENDS)


def test_recipes_change_what_their_mend_says_and_nothing_else():
    climbing = ladder.Ladder(None, None, CONFIG, ladder.Choices((0.0004, 0.01), 0.02, 4), NAMES)
    steps = [climbing.mended("A", MENDS[:n]) for n in range(len(MENDS) + 1)]
    assert [s.epoch for s in steps] == ["best on test", *["last"] * 6]
    assert [len(s.rates) for s in steps] == [1, 1, 2, 2, 2, 2, 2]
    assert [s.scaling for s in steps] == [*["none"] * 3, *["standard"] * 4]
    assert [s.depth for s in steps] == [*[6] * 4, *[4] * 3]
    assert [r.quantum for r in steps[5].rates] == [0.02, 0.02] and [r.quantum for r in steps[4].rates] == [0.0004, 0.01]
    assert [s.variant for s in steps] == [*["A"] * 6, "A-bypass"]


@pytest.mark.parametrize("control", ["C", "C-matched", "A-none"])
def test_a_control_without_a_circuit_gets_no_depth_and_no_travel(control):
    climbing = ladder.Ladder(None, None, CONFIG, ladder.Choices((0.0004, 0.01), 0.02, 4), NAMES)
    before, depth, travel = (climbing.mended(control, MENDS[:n]) for n in (3, 4, 5))
    assert before == depth == travel


def test_every_variant_of_the_ladder_is_known():
    assert set(ladder.BYPASS) | set(ladder.BYPASS.values()) | set(ladder.WHOLE.values()) <= set(VARIANTS)


def test_the_depth_nearest_to_that_of_2019_that_mixes_nothing():
    assert ladder.unmixed_depth(TrainConfig()) == 4
    assert ladder.unmixed_depth(TrainConfig(depth=7)) == 8
    assert ladder.unmixed_depth(TrainConfig(n_qubits=5)) == 8


def test_sealed_samples_are_in_no_split_and_tested_by_all(climbed):
    climbing, *_ = climbed
    final = climbing.opened.splits.subsets == "test"
    assert (final == final[0]).all() and 0.2 < final[0].mean() < 0.3
    assert (climbing.inputs.splits.subsets[:, final[0]] == "").all()
    for subset in ("train", "validation"):
        assert ((climbing.inputs.splits.subsets == subset) == (climbing.opened.splits.subsets == subset)).all()


def test_held_out_samples_are_stratified_and_copies_stay_together():
    data = load_dataset("digits")
    found = hold_out(data, 0.25)
    shares = np.bincount(data.labels[found]) / np.bincount(data.labels)
    assert shares == pytest.approx(0.25, abs=0.01)
    pool = np.setdiff1d(np.arange(len(data)), found)
    assert not {data.hashes[i] for i in found} & {data.hashes[i] for i in pool}
    splits = make_splits(data, n_splits=3, train=100, validation=50, pool=pool)
    assert (splits.subsets[:, found] == "").all() and (splits.subsets[:, pool] != "").all()


def test_all_rungs_of_all_variants_are_scored_on_the_same_splits(climbed):
    _, tested, opened = climbed
    for frame in (tested, opened):
        test = frame[frame["subset"] == "test"]
        assert (test.groupby("variant")["seed"].nunique() == 5).all()
        wanted = {ladder.arm(v, r) for v in ("A", *ladder.CONTROLS) for r in (ladder.PUBLISHED, *MENDS)}
        assert wanted <= set(test["variant"])


def test_the_published_score_is_the_best_epoch_on_the_test_set(climbed):
    _, tested, _ = climbed
    scores = tested[tested["subset"] == "test"].set_index(["variant", "seed"])["accuracy"]
    assert (scores[ladder.arm("A", ladder.PUBLISHED)] >= scores[ladder.arm("A", "clean evaluation")]).all()


def test_gains_are_paired_differences(climbed):
    _, tested, _ = climbed
    gained = ladder.gains(tested, MENDS)
    assert dict(gained["kind"].value_counts()) == {"step": 6, "total": 6, "alone": 5, "left out": 5}
    steps = gained[gained["kind"] == "step"]
    assert steps["value"].sum() == pytest.approx(gained[gained["kind"] == "total"]["value"].iloc[-1])
    assert (steps["n_tests"] == 6).all() and (steps["n_splits"] == 5).all()


def test_credit_is_the_gain_beyond_that_of_a_control(climbed):
    _, tested, _ = climbed
    gained = ladder.gains(tested, MENDS).query("kind == 'step'").set_index("mend")["value"]
    credited = ladder.credit(tested, MENDS)
    for row in credited.itertuples():
        assert row.value == pytest.approx(gained[row.mend] - row.gain)
    unchanged = credited.query("control == 'C-matched' and mend in ['depth', 'travel', 'bypass']")
    assert (unchanged["gain"] == 0).all()


def test_tables_figures_and_sentences(climbed):
    _, tested, opened = climbed
    shown = ladder.levels(tested, MENDS)
    assert len(shown) == 7 * 5
    gained = ladder.gains(tested, MENDS)
    lines = ladder.sentences("digits", shown, gained, ladder.credit(tested, MENDS), ladder.answers(opened, MENDS))
    assert lines[0].startswith("digits: A as published is right in ") and "opened once" in lines[-1]
    assert not any("nan" in line for line in lines)
    assert ladder_plots.climb(shown.assign(task="digits")) is not None
    assert ladder_plots.gains(gained.assign(task="digits")) is not None


def test_signal_is_half_at_depth_6_and_whole_at_depth_4(climbed):
    climbing, *_ = climbed
    mixed = climbing.signal(climbing.mended("A", ["clean evaluation"]))
    mended = climbing.signal(climbing.mended("A", ["clean evaluation", "depth"]))
    assert set(mixed["when"]) == {"start", "end"} and len(mixed) == 2 * 5
    assert mixed["reach"].mean() < 0.75 < mended["reach"].mean()
    assert (mended["unread"] == 0).all()


def test_sentences_credit_a_fault_of_the_circuit_only_where_controls_gain_nothing():
    def row(control, gain, low):
        return {"mend": "depth", "control": control, "gain": gain, "value": 0.05, "low": low, "high": 0.09}

    circuit = pd.DataFrame([row("C-matched", 0.0, 0.01), row("A-zero", 0.05, -0.02)])
    hygiene = pd.DataFrame([row("C-matched", 0.05, -0.02), row("A-zero", 0.05, -0.02)])
    assert "a fault of the circuit" in ladder._credited("depth", circuit)
    assert "A-zero, whose angles are never trained" in ladder._credited("depth", circuit)
    assert "hygiene" in ladder._credited("depth", hygiene)


def test_breast_cancer_is_scaled_and_labelled():
    data = DATASETS["breast_cancer"]()
    assert data.points.shape == (569, 30) and data.classes == ("malignant", "benign")
    assert data.points.mean(0) == pytest.approx(0, abs=1e-9) and data.points.std(0) == pytest.approx(1)
