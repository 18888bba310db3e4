"""The steps of a study: every notebook has one, they wait for each other rightly, and their claims have names."""

import re

import pytest

from qtl_utils.study.paths import PROJECT
from qtl_utils.study.steps import priorities, steps_of
from qtl_utils.study.study_file import load_study

STUDIES = sorted(path.stem for path in (PROJECT / "studies").glob("*.yaml"))


@pytest.mark.parametrize("study", STUDIES)
def test_a_step_waits_only_for_steps_of_its_study(study):
    steps = steps_of(load_study(study))
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    for number, step in enumerate(steps):
        assert {*step.needs, *step.after} <= set(names[:number])


def test_the_smoke_study_runs_every_notebook():
    used = {step.notebook for step in steps_of(load_study("smoke"))}
    assert used == {path.stem for path in (PROJECT / "notebooks").glob("*.ipynb")}


@pytest.mark.parametrize("study", STUDIES)
def test_claims_are_saved_where_the_step_looks_for_them(study):
    """The name is made of the parameters in the notebook, and of the step's name here."""
    for step in steps_of(load_study(study)):
        source = (PROJECT / "notebooks" / f"{step.notebook}.ipynb").read_text(encoding="utf-8")
        for f, name in re.findall(r'Claims\((f?)\\"([^"]+)\\"\)', source):
            made = name.format(**step.parameters) if f else name
            assert made == step.claims.stem


def test_a_section_that_is_null_leaves_its_notebook_out():
    steps = steps_of(load_study("smoke", {"gradients": None, "troubleshooting": None}))
    assert not [step for step in steps if step.notebook.startswith(("03", "05"))]
    assert not [name for step in steps for name in step.after if name.startswith("05")]


def test_a_data_set_that_nothing_reads_is_not_prepared():
    study = load_study("smoke", {"runs.B.dataset": "digits"})
    unused = study.model_copy(update={"datasets": study.datasets | {"spare": study.datasets["digits"]}})
    assert not [step for step in steps_of(unused) if step.name.startswith("spare/")]


def test_what_others_wait_for_longest_starts_first():
    steps = steps_of(load_study("default"))
    first = priorities(steps)
    assert max(first, key=first.get) == "digits/01_dataset_preparation"
    for step in steps:
        assert all(first[name] > first[step.name] for name in (*step.needs, *step.after))
