"""What reruns when a module changes: every module is in the closure of some notebook, or named here with the reason."""

from qtl_utils.study.notebook import code_hashes, modules_used
from qtl_utils.study.paths import PROJECT

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
PACKAGE = PROJECT / "qtl_utils"
OUTSIDE = {  # no notebook's results depend on these
    "__init__.py": "the names that the package offers",
    "__main__.py": "the command line",
    "circuits/pennylane_device.py": "the simulator as others use it; it runs what notebooks run",
    "analyses/repairs.py": "repair on trial, in benchmarks/",
    "analyses/plan.py": "says what a study will see before it runs",
    "results/archive.py": "what is made of a finished study",
    "results/report.py": "what is made of executed notebooks; the report has hashes of its own",
    **dict.fromkeys(
        (
            "data/thumbnails.py",
            "results/answer.py",
            "results/report_compare.py",
            "results/report_docs.py",
            "results/report_figures.py",
            "results/report_notebooks.py",
            "results/report_size.py",
            "results/report_tables.py",
            "results/who_is_right.py",
            "study/keys.py",
        ),
        "a part of the report, which has hashes of its own",
    ),
    "analyses/pictures.py": "writes the study of a folder of pictures",
    "results/pictures.py": "what is made of a finished study of pictures",
    "study/time_left.py": "says how long a run will take",
    "training/trained_head.py": "applies what a finished study has trained",
    "results/verify.py": "compares finished studies",
    "results/portability.py": "compares finished studies",
    "study/steps.py": "which notebook runs; Snakemake compares its parameters",
    "study/study_file.py": "reads a study; Snakemake compares what comes of it",
    "study/strict_yaml.py": "reads a study",
    "training/refusals.py": "what is refused before anything runs",
    "training/sketches.py": "what is refused before anything runs",
    "training/warm.py": "has kernels compiled before they are called",
    "training/ship.py": "makes the files that ship, which are hashed themselves",
}


def test_every_module_is_used_by_a_notebook_or_named():
    used = {module.relative_to(PACKAGE).as_posix() for path in NOTEBOOKS for module in modules_used(path)}
    modules = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    assert modules - used == set(OUTSIDE)


def test_a_changed_check_reruns_the_doctors_notebooks():
    for path in NOTEBOOKS:
        checks = {f"doctor/{name}.py" for name in ("checks/graph", "checks/circuit", "checks/training", "diagnosis")}
        assert (checks <= set(code_hashes(path))) == path.stem.startswith("05_")


def test_the_simulator_reruns_no_data_preparation():
    path = PROJECT / "notebooks" / "01_dataset_preparation.ipynb"
    assert not [name for name in code_hashes(path) if name.startswith(("circuits/", "models/heads"))]
