"""The trial with strangers' models: what counts as named, how it is told, and that the seal holds."""

import hashlib
from pathlib import Path

import pandas as pd
import pytest
from torch import nn

from qtl_utils.analyses import strangers
from qtl_utils.doctor import sealed_strangers, sealed_strangers_2
from qtl_utils.doctor.findings import Diagnosis, fail, ok, warn

SEALS = {
    sealed_strangers: "d95de42db5fe3fd3f888ccd511738386e3cef7523b15fba62d0b5de7d9a0039c",
    sealed_strangers_2: "95c98c0d255274b6ead68bbaf0551958cf25d37bd8440cbbbc052189aea83cd3",
}


def test_the_sealed_cases_are_as_they_were_sealed():
    for module, seal in SEALS.items():
        assert hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest() == seal
    assert [len(module.FAULTS) for module in SEALS] == [24, 16]
    assert [len(module.HEALTHY) for module in SEALS] == [12, 8]


def found(*findings):
    return Diagnosis(findings)


ALARM = fail("outputs are alike", "Z rotations of |0>", "Hadamards")


@pytest.mark.parametrize(
    ("diagnosis", "names", "outcome"),
    [
        (found(ALARM), (r"z rotation",), "named"),
        (found(warn("a", "hadamards are missing", "b")), (r"nothing", r"hadamard"), "named"),
        (found(ALARM), (r"learning rate",), "misled"),
        (found(ok("z rotation")), (r"z rotation",), "missed"),
        (found(ALARM), None, "accused"),
        (found(warn("a", "b", "c")), None, "warned"),
        (found(ok("a")), None, "quiet"),
    ],
)
def test_an_outcome_is_read_from_what_failed_or_warned(diagnosis, names, outcome):
    knows = None if names is None else lambda d: strangers.says(d, names)
    assert strangers._outcome(diagnosis, knows) == outcome


def test_the_trial_has_a_row_per_model_and_is_told_in_n_of_m(monkeypatch):
    from qtl_utils.doctor.faults import FAULTS, head, points
    from qtl_utils.doctor.strangers import Stranger

    made = {"a": Stranger(FAULTS["double_softmax"].broken, "s", "softmax twice", "f", "", "probabilities")}
    made["b"] = Stranger(FAULTS["double_softmax"].broken, "s", "another", "f", "", "travel")
    monkeypatch.setattr(strangers, "STRANGERS", made)
    monkeypatch.setattr(strangers, "STRANGERS_HEALTHY", {"c": lambda: {"model_or_factory": head(), "batch": points()}})
    rows = strangers.trial(["open"])
    assert rows["outcome"].tolist() == ["named", "misled", "quiet"]
    assert "softmax twice" in rows["said"][0]
    (said,) = strangers.sentences(rows)
    assert "the cause is named in 1 of 2 ([9, 91] %), misled in 1, silent in 0" in said
    assert "of 1 healthy ones 0 are accused and 0 warned of" in said
    assert strangers.seconds(rows).startswith("A diagnosis took")


def test_a_summary_counts_every_outcome():
    rows = pd.DataFrame(
        {"part": ["open"] * 3, "healthy": [False, False, True], "outcome": ["named", "missed", "quiet"]}
    )
    table = strangers.summary(rows).set_index("outcome")
    assert table["k"].to_dict() == {"named": 1, "misled": 0, "missed": 1, "quiet": 1, "accused": 0, "warned": 0}
    assert (table["low"] <= table["k"] / table["n"]).all() and (table["high"] >= table["k"] / table["n"]).all()


def test_a_sealed_case_is_read_as_a_users_make_is():
    told = strangers._arguments((nn.Linear(2, 2), "batch", {"epochs": 3}))
    assert told["epochs"] == 3 and told["batch"] == "batch"


def test_what_was_said_at_the_opening_is_kept():
    rows = strangers.first_opening()
    assert set(rows["model"]) == {name for module in SEALS for name in [*module.FAULTS, *module.HEALTHY]}
    first, second = strangers.sentences(rows)
    assert "when they were opened: the cause is named in 13 of 24" in first
    assert "when they were opened: the cause is named in 8 of 16" in second
