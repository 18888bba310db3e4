"""What counts as saying the same, and the table of it; the real thing is in tests/portability."""

import pandas as pd
import pytest

from qtl_utils.results import portability
from qtl_utils.results.portability import CASES, HERE, agrees, compare_cases, row
from qtl_utils.results.verify import Verdict
from qtl_utils.study.sections import NOTEBOOKS
from qtl_utils.study.study_file import load_study


def verdict(*pairs):
    """A verdict of conclusions (here, reference) and nothing else."""
    frame = pd.DataFrame(pairs, columns=["here", "reference"])
    frame = frame.assign(here_interval="", reference_interval="", same=frame["here"] == frame["reference"])
    return Verdict(frame, 10, pd.DataFrame(columns=["here", "low", "high"]), 3, 4e-4)


SAME = ("lower", "lower")


@pytest.mark.parametrize(
    ("pair", "processor", "seeds"),
    [
        (SAME, True, True),
        (("not distinguishable", "lower"), False, True),
        (("higher", "lower"), False, False),
        (("not confirmed", "confirmed"), False, False),
    ],
)
def test_other_seeds_may_leave_a_verdict_open_and_other_processors_may_not(pair, processor, seeds):
    assert agrees("AVX2", 0, verdict(SAME, pair)) == processor
    assert agrees("seeds from 1000", 0, verdict(SAME, pair)) == seeds


@pytest.mark.parametrize("name", [name for name in CASES if name != HERE])
def test_a_study_that_fails_does_not_agree(name):
    assert not agrees(name, 1, verdict(SAME))


def test_a_row_counts_what_is_the_same():
    found = row("AVX2", 0, verdict(SAME, ("higher", "lower")))
    assert found["conclusions the same"] == "1 of 2" and found["contradicting"] == "1"
    assert found["largest difference of a frozen head's mean accuracy"] == "0.0004"


@pytest.mark.parametrize("name", CASES)
def test_the_keys_of_a_case_are_keys_of_a_study(name):
    study = load_study("smoke", CASES[name].keys)
    assert {key: getattr(study, key) for key in CASES[name].keys} == CASES[name].keys


def test_every_case_is_run_and_compared(tmp_path, monkeypatch):
    calls = []

    def pretend(study, name, root, cores):
        calls.append(name)
        (root / name / "smoke" / "tables").mkdir(parents=True)
        return 0, root / name / "smoke"

    monkeypatch.setattr(portability, "run_case", pretend)
    monkeypatch.setattr(portability, "verify", lambda *_: verdict(SAME))
    table, well = compare_cases("smoke", tmp_path)
    assert calls == list(CASES) and well
    assert table.count("1 of 1") >= len(CASES) - 1
    assert len(pd.read_csv(tmp_path / "smoke.csv")) == len(CASES) - 1


def test_a_study_that_does_not_run_here_is_not_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(portability, "run_case", lambda *_: (75, tmp_path))
    with pytest.raises(ValueError, match="did not end on this processor"):
        compare_cases("smoke", tmp_path)


def test_a_study_seed_moves_every_sample_and_leaves_the_published_runs():
    first, other = load_study("default"), load_study("default", {"seed": 7})
    for dataset in first.datasets:
        before, after = first.dataset_parameters(dataset), other.dataset_parameters(dataset)
        assert after["data"]["split_seed"] == before["data"]["split_seed"] + 7
    assert other.told("03_gradient_diagnostics")["seed"] == first.told("03_gradient_diagnostics")["seed"] + 7
    for notebook in (n.file for n in NOTEBOOKS if n.section == "troubleshooting" and n.fields):
        assert other.told(notebook)["first_seed"] == 7
    for run, settings in first.runs.items():
        moved = other.run_parameters(run)["first_seed"] - settings.first_seed
        assert moved == (0 if settings.start == "published-2d" else 7)
    assert other.told("06_who_learned")["seed"] == first.told("06_who_learned")["seed"] + 7
