"""`repair`: what it mends, what it leaves alone, and that nothing of the user's is touched."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from qtl_utils import __main__ as cli
from qtl_utils.analyses import repairs
from qtl_utils.doctor import repair
from qtl_utils.doctor.faults import FAULTS, HEALTHY, N_FEATURES, adam, head, points
from qtl_utils.doctor.findings import CHECKS
from qtl_utils.doctor.fixes.registry import FIXES
from qtl_utils.doctor.repair import judged
from qtl_utils.doctor.trial import Gain, Score, gain
from qtl_utils.models.heads import HeadSettings, make_head

SHORT = {"epochs": 5, "seeds": 3, "minutes": 1.0}


def of_fault(name, n=120):
    """What `repair` takes of a fault: its model, more of its samples, and what else it gives."""
    torch.manual_seed(0)
    told = FAULTS[name].broken()
    x, y = points(1, n)
    x = x * (told["batch"][0].std() / points()[0].std())
    return told["model_or_factory"], (x, y), {k: told[k] for k in ("optimizer", "scheduler") if k in told}


def rows(found, check):
    return [row for row in found.rows if row.check == check]


# ---- what it mends


@pytest.mark.parametrize("name", ["lists", "tuple_shape", "dtype"])
def test_a_circuit_that_does_not_run_runs_afterwards(name):
    model, data, more = of_fault(name)
    with pytest.raises(Exception):  # noqa: B017
        nn.functional.cross_entropy(model(data[0]), data[1]).backward()
    found = repair(model, data, checks=["forward"], **SHORT, **more)
    assert [row.status for row in found.kept] == ["kept"] and found.mended > 0.6
    assert "torch.stack" in found.patch[0] or "dtype" in found.patch[0]
    assert found.make()(data[0]).shape == (120, 2)


def test_gradients_that_stop_pass_afterwards():
    model, data, more = of_fault("detached", 160)
    found = repair(model, data, checks=["differentiable"], epochs=6, seeds=4, minutes=1.0, **more)
    assert rows(found, "differentiable")[0].status == "kept", found
    assert found.gain.value > 0.1


def test_a_sign_becomes_a_tanh():
    model, data, more = of_fault("sign", 60)
    found = repair(model, data, checks=["differentiable"], epochs=1, seeds=2, minutes=1.0, **more)
    assert rows(found, "differentiable")[0].patch == "torch.tanh(x) in place of torch.sign(x)"


def test_angles_that_jump_get_a_group_of_their_own():
    model, data, more = of_fault("jumping_angles", 200)
    found = repair(model, data, checks=["updates"], epochs=6, seeds=4, minutes=1.0, **more)
    assert found.mended > found.broken + 0.1
    assert "a parameter group of their own for the angles" in found.patch[0]
    assert "lr_quantum: 0.05" in found.study


def test_samples_are_scaled_by_the_training_samples():
    x, y = points(1, 200)
    x = x * 50 + 300
    torch.manual_seed(0)
    found = repair(lambda: head(angle_init=0.5), (x, y), checks=["saturation"], epochs=6, seeds=4)
    assert found.mended > found.broken + 0.1
    assert "feature_scaling: standard" in found.study
    assert found.make()(x).std() > 0


@pytest.mark.parametrize("check", ["readout_mixing"])
def test_depth_and_bypass_are_offered_where_the_circuit_is_ours(check):
    model = make_head("A", HeadSettings(N_FEATURES, 2), seed=0)
    model[0].bias.data.zero_()
    found = repair(model, points(1, 120), checks=[check], **SHORT)
    tried = [row.patch for row in rows(found, check)]
    assert tried[0] == "depth 4 in place of 6 in the QuantumLayer '2'"
    assert len(tried) == 1 or "torch.cat([angles, circuit(angles)], dim=-1)" in tried[1]


def test_an_honest_score_is_reported_where_the_best_test_epoch_was():
    model, data, _ = of_fault("best_on_test", 160)
    told = FAULTS["best_on_test"].broken()
    found = repair(model, data, history=told["history"], checks=["selection"], **SHORT)
    (row,) = rows(found, "selection")
    assert row.status == "kept" and row.shows == "honesty"
    assert "report the last epoch" in found.patch[0]


def test_what_code_cannot_mend_is_said():
    class Nothing(nn.Module):
        def forward(self, x):
            raise RuntimeError("no such thing")

    found = repair(Nothing(), points(1, 60), **SHORT)
    (row,) = rows(found, "forward")
    assert row.status == "not by code" and "code cannot apply it" in row.why
    assert [r.check for r in found.left] == ["forward"]
    assert "cannot apply" in str(found)


# ---- what it leaves alone


@pytest.mark.parametrize("name", ["C", "C-matched", "strongly_entangling"])
def test_a_healthy_model_is_left_as_it_is(name):
    torch.manual_seed(0)
    told = HEALTHY[name]()
    found = repair(told["model_or_factory"], points(1, 80), epochs=3, seeds=2, minutes=1.0)
    assert not found.kept and not found.left


def test_a_mend_that_does_not_help_is_not_kept():
    def score(value):
        return Score(held=value, held_loss=1 - value, test=value, reported=value, step_seconds=1.0)

    before = [score(v) for v in (0.80, 0.82, 0.81)]
    same = [score(v) for v in (0.81, 0.81, 0.81)]
    worse = [score(v) for v in (0.70, 0.71, 0.72)]
    better = [score(v) for v in (0.90, 0.93, 0.91)]
    assert judged("accuracy", before, same)[0] is False
    assert judged("nothing", before, worse)[0] is False
    assert judged("accuracy", before, better)[0] is True


def test_nothing_of_the_users_is_touched():
    model = head()
    optimizer = adam(model, 3.0, 0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.1)
    x, y = points(1, 80)
    state = copy.deepcopy(model.state_dict())
    rates = [group["lr"] for group in optimizer.param_groups]
    before = x.clone(), y.clone()
    torch.manual_seed(7)
    np.random.seed(7)
    random = torch.get_rng_state(), np.random.get_state()[1].copy()
    repair(model, (x, y), optimizer=optimizer, scheduler=scheduler, epochs=2, seeds=2, minutes=1.0)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and model.training
    assert [group["lr"] for group in optimizer.param_groups] == rates and not optimizer.state
    assert scheduler.last_epoch == 0
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])
    assert torch.equal(torch.get_rng_state(), random[0]) and (np.random.get_state()[1] == random[1]).all()


def test_where_time_is_short_less_is_trained_and_said():
    model, data, more = of_fault("jumping_angles", 200)
    found = repair(model, data, checks=["updates"], epochs=500, seeds=5, minutes=0.02, **more)
    assert any("time was short" in note for note in found.notes)


# ---- what it says


def test_text_table_html_and_json_say_the_same():
    model, data, more = of_fault("jumping_angles", 120)
    found = repair(model, data, checks=["updates"], **SHORT, **more)
    told = json.loads(found.to_json())
    assert len(told["mends"]) == len(found.rows) == len(found.to_frame())
    assert told["patch"] == list(found.patch)
    assert found.summary() in str(found) and found.rows[0].check in found._repr_html_()


def test_every_fix_belongs_to_a_check():
    assert set(FIXES) - {"labels"} <= set(CHECKS)


def test_gain_is_paired_with_a_t_interval():
    a = [Score(v, 0.0, v, v, 1.0) for v in (0.5, 0.6, 0.7)]
    b = [Score(v, 0.0, v, v, 1.0) for v in (0.6, 0.7, 0.9)]
    found = gain(a, b, "held")
    differences = np.array([0.1, 0.1, 0.2])
    half = 4.302652729911275 * differences.std(ddof=1) / np.sqrt(3)
    assert (found.value, found.low, found.high, found.n) == pytest.approx(
        (differences.mean(), differences.mean() - half, differences.mean() + half, 3)
    )
    assert gain([], [], "held") == Gain() or np.isnan(gain([], [], "held").value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": nn.Linear}, "needs a torch module"),
        ({"data": torch.zeros(3)}, "data: expected"),
        ({"seeds": 0}, "seeds: expected"),
        ({"minutes": 0}, "minutes: expected a number above 0"),
        ({"epochs": 0}, "epochs: expected a whole number"),
        ({"optimizer": torch.optim.Adam}, "optimizer: expected an instance"),
        ({"scheduler": object()}, "scheduler: give optimizer= too"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message):
    given = {"model": head("C"), "data": points(1, 40)} | arguments
    with pytest.raises(ValueError, match=message) as error:
        repair(given.pop("model"), given.pop("data"), **given)
    assert "\n" not in str(error.value)


# ---- on the command line


@pytest.fixture
def written(tmp_path):
    file = tmp_path / "model.py"
    file.write_text(
        "import torch\n"
        "from qtl_utils.doctor.faults import adam, head, points\n"
        "def jumping():\n"
        "    print('made')\n"
        "    torch.manual_seed(0)\n"
        "    model = head()\n"
        "    return model, points(1, 120), {'optimizer': adam(model, 3.0, 0.01), 'checks': ['updates'], 'epochs': 5}\n"
        "def healthy():\n"
        "    return head('C'), points(1, 60), {'checks': ['forward']}\n"
        "def wrong():\n"
        "    return head('C'), points(1, 60), {'chekcs': []}\n"
    )
    return file


def test_the_command_prints_one_json_document(written, capsys):
    assert cli.main(["repair", f"{written}:jumping", "--json", "--seeds", "3", "--minutes", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["mends"][0]["check"] == "updates" and told["mended"] > told["broken"]


def test_the_doctor_prints_json_too(written, capsys):
    assert cli.main(["doctor", f"{written}:healthy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"][0]["check"] == "forward"


def test_a_wrong_argument_is_named(written, capsys):
    assert cli.main(["repair", f"{written}:wrong"]) == 2
    assert "chekcs" in capsys.readouterr().err


# ---- on trial


def test_the_share_won_back_is_a_ratio_with_fiellers_interval():
    lost = np.array([0.30, 0.28, 0.33, 0.31, 0.29])
    share, low, high = repairs.ratio(0.9 * lost, lost)
    assert share == pytest.approx(0.9) and low == pytest.approx(0.9, abs=0.01) and high == pytest.approx(0.9, abs=0.01)
    assert np.isnan(repairs.ratio(np.array([0.1, -0.1, 0.0]), np.array([0.1, -0.1, 0.02]))[1:]).all()


def test_a_trial_has_a_row_per_seed_and_fault():
    found = repairs.won_back("jumping_angles", range(2), minutes=0.2, epochs=3)
    assert list(found["seed"]) == [0, 1] and set(found["fault"]) == {"jumping_angles"}
    table = repairs.recovered(found).set_index("fault")
    assert list(table.index) == ["jumping_angles", "all"]
    assert table.loc["all", "repaired"] > table.loc["all", "broken"]
