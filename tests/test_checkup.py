"""The doctor on the models of a study, and what 07 says of it."""

import pandas as pd
import torch
from small_inputs import make_inputs

from qtl_utils.analyses import checkup as module
from qtl_utils.analyses.checkup import checkup, read_kept
from qtl_utils.doctor import diagnose
from qtl_utils.results.tables import known_faults
from qtl_utils.study.config import RunConfig
from qtl_utils.training.run import run_variant, save_run

KEYS = {"study": "s", "dataset": "d", "backbone": "b", "run": "r"}
CONFIG = {"dataset": "d", "backbone": "b", "variants": ["A"], "seeds": 2, "epochs": 3, "settings": "2019"}
GRID = {"classical": [{"lr_classical": 0.01}], "quantum": [{"lr_classical": 0.01, "lr_quantum": 0.3}]}


def checked_up(tmp_path, variant="A", **more):
    inputs = make_inputs()
    config = RunConfig(**CONFIG | more)
    result = run_variant(variant, inputs, config, KEYS, tmp_path)
    told = {"data": {"dataset": "digits"}, "backbone_settings": {"model": "tiny_vit", "init": "random"}}
    save_run(tmp_path / "run", config, [result], **told)
    return checkup(variant, read_kept(tmp_path / "run"), inputs)


def test_a_head_is_looked_at_with_its_own_rates(tmp_path):
    found = checked_up(tmp_path, lr_grid=GRID)
    assert set(found["settings"]) == {"2019", "tuned"} and set(found["seed"]) == {0, 1}
    own = found[(found["settings"] == "2019") & (found["seed"] == 0)].set_index("check")
    assert own.loc["travel", "verdict"] == "fail" and "0.006" in own.loc["travel", "evidence"]
    assert own.loc["forward", "verdict"] == "ok"
    assert not found["verdict"].eq("skipped").all()


def test_the_circuit_of_2019_is_known_to_mix_and_depth_4_is_not(tmp_path):
    # all but untrained, on scaled features: their means would move products to where they say something of each input
    rates = {"lr_classical": 1e-7, "lr_quantum": 1e-7, "feature_scaling": "standard"}
    verdicts = {
        depth: set(checked_up(tmp_path, depth=depth, **rates).query("check == 'readout_mixing'")["verdict"])
        for depth in (4, 6)
    }
    assert verdicts[4] == {"ok"} and "warn" in verdicts[6]


def test_a_network_is_looked_at_as_it_began(tmp_path):
    found = checked_up(tmp_path, "A-joint", variants=["A-joint"], seeds=1, batch_size=10)
    assert "zeroed_angles" not in set(found["check"])
    assert found.set_index("check").loc["forward", "verdict"] == "ok"


def test_a_training_is_held_against_its_own_loss(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(module, "diagnose", lambda *told, **more: given.update(more) or diagnose(*told, **more))
    checked_up(tmp_path / "a", seeds=1)
    assert given["loss"] is None  # cross-entropy, which fits labels and outputs
    found = checked_up(tmp_path / "b", loss="squared", seeds=1).set_index("check")
    assert given["loss"](torch.zeros(2, 4), torch.tensor([0, 3])).item() == 0.25
    assert found.loc[["loss", "labels"], "verdict"].isin(["ok", "skipped"]).all()


def test_what_07_says_of_it():
    def row(run, check, verdict, dataset="digits", seed=0):
        keys = {"dataset": dataset, "backbone": "b", "run": run, "variant": "A", "settings": "2019", "seed": seed}
        return keys | {"check": check, "verdict": verdict}

    found = pd.DataFrame(
        [
            row("heads", "travel", "fail"),
            row("heads", "readout_mixing", "warn"),
            row("heads", "forward", "ok"),
            row("other", "dtypes", "warn", seed=1),
            row("other", "forward", "ok", seed=2),
            row("other", "travel", "warn"),
            row("published-heads", "travel", "fail", "ants-published"),
        ]
    )
    first, second = known_faults(found)
    assert first.endswith("(3 in all) and found: travel in 2, readout_mixing in 1.")
    assert second.startswith("A as published (ants-published) has 1 known fault: travel.")
    assert known_faults(pd.DataFrame()) == []
    assert known_faults(found[found["verdict"] == "ok"])[0].endswith("found: nothing.")


def test_a_variant_that_was_not_trained_has_no_findings(tmp_path):
    checked_up(tmp_path)
    assert checkup("A-joint", read_kept(tmp_path / "run"), make_inputs()).empty
