"""What reruns when a module changes: every module is in the closure of some notebook, or named here with the reason."""

from qtl_utils.study.notebook import code_hashes, modules_used
from qtl_utils.study.paths import PROJECT

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
OUTSIDE = {  # no notebook's results depend on these
    "__init__": "the package's version",
    "__main__": "the command line",
    "report": "what is made of executed notebooks; the report has hashes of its own",
    "refusals": "what is refused before anything runs",
    "sketches": "what is refused before anything runs",
    "steps": "which notebook runs; Snakemake compares its parameters",
    "verify": "compares finished studies",
    "portability": "compares finished studies",
    "ship": "makes the files that ship, which are hashed themselves",
}


def test_every_module_is_used_by_a_notebook_or_named():
    used = {module.stem for path in NOTEBOOKS for module in modules_used(path)}
    modules = {path.stem for path in (PROJECT / "qtl_utils").glob("*.py")}
    assert modules - used == set(OUTSIDE)


def test_a_changed_check_reruns_the_doctors_notebooks():
    for path in NOTEBOOKS:
        checks = {"checks_graph.py", "checks_circuit.py", "checks_training.py", "doctor.py"}
        assert (checks <= set(code_hashes(path))) == path.stem.startswith("05_")
