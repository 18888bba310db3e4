"""Static checks of notebooks/: sources are clean, say what they ask, and fit the package and the studies."""

import ast
import importlib
import json
import re

import pytest
from pydantic import ValidationError

from qtl_utils.doctor.diagnosis import diagnose
from qtl_utils.doctor.faults import FAULTS, head, points
from qtl_utils.doctor.findings import CHECKS
from qtl_utils.doctor.messages import KNOWN_ERRORS
from qtl_utils.study.config import RunConfig, TrainConfig
from qtl_utils.study.notebook import check_parameters, declared_parameters, modules_used
from qtl_utils.study.paths import PROJECT
from qtl_utils.study.sections import NOTEBOOKS, SimulatorsConfig, declared, sections
from qtl_utils.study.study_file import load_study

FOLDER = PROJECT / "notebooks"
FILES = sorted(FOLDER.glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def cells(path, kind):
    found = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]
    return [cell | {"source": "".join(cell["source"])} for cell in found]


def syntax(path):
    for cell in cells(path, "code"):
        lines = ["" if line.lstrip()[:1] in "%!" else line for line in cell["source"].splitlines()]
        yield ast.parse("\n".join(lines))


def test_there_are_notebooks():
    assert {f"0{i}" for i in range(1, 9)} <= {path.stem[:2] for path in FILES}


@every_notebook
def test_the_title_is_a_question(path):
    assert re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem)
    first = json.loads(path.read_text())["cells"][0]
    assert first["cell_type"] == "markdown"
    assert re.match(r"# [^\n]+\?(\n|$)", "".join(first["source"]))


@every_notebook
def test_sources_carry_no_outputs(path):
    assert [cell for cell in cells(path, "code") if cell["outputs"] or cell["execution_count"]] == []
    assert "papermill" not in path.read_text()


@every_notebook
def test_parameters_are_literals_in_the_first_code_cell(path):
    assert {"study", "results_dir"} <= set(declared_parameters(path))
    assert "parameters" in cells(path, "code")[0]["metadata"]["tags"]


@every_notebook
def test_cells_are_short(path):
    shown = [cell for cell in cells(path, "code") if "parameters" not in cell["metadata"].get("tags", [])]
    assert max(len(cell["source"].splitlines()) for cell in shown) <= 30


@every_notebook
def test_no_more_than_four_code_cells_without_a_word(path):
    kinds = "".join(cell["cell_type"][0] for cell in json.loads(path.read_text())["cells"][:-1])  # the solution is last
    assert "ccccc" not in kinds


@every_notebook
def test_it_begins_with_a_picture_and_two_formulas(path):
    cells = json.loads(path.read_text())["cells"]
    (picture,) = [i for i, cell in enumerate(cells) if "picture" in cell["metadata"].get("tags", [])]
    assert picture <= 7
    assert re.search(r"\b(schemes\.chain|draw_circuit)\(", "".join(cells[picture]["source"]))
    words = "".join(cells[picture - 1]["source"])
    assert len(re.findall(r"\$\$.+?\$\$", words, re.DOTALL)) == 2
    assert "(../report/glossary.md#" in words


@every_notebook
def test_links_to_the_glossary_lead_to_its_sections(path):
    glossary = (PROJECT / "report" / "glossary.md").read_text(encoding="utf-8")
    sections = {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.+)$", glossary, re.MULTILINE)}
    linked = {
        found for cell in cells(path, "markdown") for found in re.findall(r"glossary\.md#(\S+?)\)", cell["source"])
    }
    assert linked <= sections


@every_notebook
def test_every_question_of_the_beginning_is_answered_at_the_end(path):
    questions = re.findall(r"^- ", cells(path, "markdown")[0]["source"], re.MULTILINE)
    (answering,) = [cell for cell in cells(path, "code") if "answers" in cell["metadata"].get("tags", [])]
    lists = [node for node in ast.walk(ast.parse(answering["source"])) if isinstance(node, ast.Assign)]
    (answers,) = [node.value.elts for node in lists if node.targets[0].id == "answers"]
    assert len(answers) == len(questions)
    assert not any(isinstance(answer, ast.Constant) for answer in answers)  # they are made from numbers


def solution_of(path):
    cell = json.loads(path.read_text())["cells"][-1]
    assert {"solution", "skip-execution", "hide-input"} == set(cell["metadata"]["tags"])  # studies do not run it
    assert cell["metadata"]["jupyter"] == {"source_hidden": True}
    assert "**Exercise.**" in cells(path, "markdown")[-1]["source"]
    return "".join(cell["source"])


@every_notebook
def test_the_solution_of_its_exercise_runs(path):
    source = solution_of(path)
    assert re.search("^assert ", source, re.MULTILINE)
    first = [cell for cell in cells(path, "code") if "parameters" in cell["metadata"].get("tags", [])]
    known = {}
    for cell in (*first, cells(path, "code")[1]):  # the settings and the imports
        exec(cell["source"], known)
    exec(source, known)


@every_notebook
def test_imports_name_what_the_modules_have(path):
    for tree in syntax(path):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qtl_utils"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert alias.name != "*"
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")


@every_notebook
def test_no_deliberate_errors_and_no_private_paths(path):
    text = path.read_text()
    assert "raises-exception" not in text
    assert not re.search(r"(?<![\w.])/(home|tmp|root|work|Users)/", text)


@every_notebook
def test_links_lead_to_files_that_exist(path):
    for cell in cells(path, "markdown"):
        for target in re.findall(r"\]\((?!https?:|#|attachment:)([^)#\s]+)", cell["source"]):
            assert (FOLDER / target).exists(), target


@every_notebook
def test_formulas_and_pictures_need_no_network(path):
    for cell in cells(path, "markdown"):
        assert not re.search(r"!\[[^\]]*\]\(https?:|<(img|script|iframe)[^>]+https?:", cell["source"])


def test_results_need_neither_torch_nor_pennylane():
    used = {module.stem for module in modules_used(FOLDER / "07_results.ipynb")}
    assert not used & {"train", "heads", "circuits", "backbones", "quantum_layer"}


def test_training_declares_every_setting():
    declared = declared_parameters(FOLDER / "02_train_variant.ipynb")
    assert set(RunConfig.model_fields) <= set(declared)


@pytest.mark.parametrize("study", sorted((PROJECT / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_notebooks_declare_what_the_studies_tell_them(study):
    study = load_study(study)
    for dataset in study.datasets:
        check_parameters(FOLDER / "01_dataset_preparation.ipynb", study.dataset_parameters(dataset))
    for run in study.runs:
        check_parameters(FOLDER / "02_train_variant.ipynb", study.run_parameters(run))
    for row in study.notebooks():
        check_parameters(FOLDER / f"{row.file}.ipynb", study.told(row.file))


@pytest.mark.parametrize("row", [row for row in NOTEBOOKS if row.section], ids=lambda row: row.file)
def test_defaults_of_a_notebook_are_those_of_a_study(row):
    declared = declared_parameters(FOLDER / f"{row.file}.ipynb")
    given = sections()[row.section][0]().model_dump()
    expected = {name: given[name] for name in (given if row.fields is None else row.fields) if given[name] is not None}
    expected.pop("tasks", None)  # a notebook on its own needs the settings that a study's names stand for
    assert {name: declared[name] for name in expected} == expected


def test_every_notebook_is_in_the_registry_or_belongs_to_a_data_set_or_a_run():
    rows = {row.file for row in NOTEBOOKS} | {"01_dataset_preparation", "02_train_variant"}
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == rows


def test_a_row_without_settings_takes_those_that_its_notebook_declares():
    given = declared("04_simulator_algorithms")(n_qubits=2)
    assert given.n_qubits == 2 and given.networks == SimulatorsConfig().networks
    with pytest.raises(ValidationError, match="unknown key 'n_qubit'; did you mean 'n_qubits'"):
        declared("04_simulator_algorithms")(n_qubit=2)


THEMES = [row.file.removeprefix("05_troubleshooting_") for row in NOTEBOOKS if row.section == "troubleshooting"]


def anchors():
    for theme in THEMES:
        text = (FOLDER / f"05_troubleshooting_{theme}.ipynb").read_text()
        yield from (f"{theme}#{name}" for name in re.findall(r'<a id=\\"(\w+)\\"></a>', text))


def test_every_check_and_known_error_leads_to_a_section_that_exists():
    diagnose(head("C"), points(), checks=[])  # fills the registry
    sections = {check.section for check in CHECKS.values()} | {known.section for known in KNOWN_ERRORS}
    assert sections <= set(anchors())


def test_every_fault_is_treated_in_the_notebook_of_its_theme():
    for name, fault in FAULTS.items():
        assert f'ward.treat(\\"{name}\\")' in (FOLDER / f"05_troubleshooting_{fault.theme}.ipynb").read_text()


START = FOLDER / "start" / "index.ipynb"


def test_the_page_to_start_from_links_to_what_exists():
    assert [cell for cell in cells(START, "code") if cell["outputs"] or cell["execution_count"]] == []
    targets = [t for c in cells(START, "markdown") for t in re.findall(r"\]\((?!https?:)([^)#\s]+)", c["source"])]
    assert targets and all((START.parent / target).exists() for target in targets)


def test_the_page_to_start_from_lists_every_notebook_with_its_question():
    known = {}
    code = {cell["id"]: cell["source"] for cell in cells(START, "code")}
    for name in ("imports", "layer", "list"):
        exec(code[name], known)
    shown = known["Markdown"]("\n".join(known["lines"])).data
    for path in FILES:
        assert (
            f"| [{path.stem}](../{path.name}) | {cells(path, 'markdown')[0]['source'].splitlines()[0][2:]} |" in shown
        )
    assert known["expectations"].shape == (3, 4)


def test_the_lab_opens_there_and_asks_nothing_about_news():
    script = (PROJECT / "run_all.sh").read_text(encoding="utf-8")
    assert "default_url=/lab/tree/notebooks/start/index.ipynb" in script
    assert 'JUPYTER_CONFIG_PATH="$HERE/workflow/jupyter' in script
    file = PROJECT / "workflow" / "jupyter" / "labconfig" / "default_setting_overrides.json"
    (settings,) = json.loads(file.read_text(encoding="utf-8")).values()
    assert settings == {"fetchNews": "false", "checkForUpdates": False}


@every_notebook
def test_its_settings_are_those_of_a_training_where_they_have_its_names(path):
    first = [cell for cell in cells(path, "code") if "parameters" in cell["metadata"].get("tags", [])]
    known = {}
    exec(first[0]["source"], known)
    calls = [
        node
        for tree in syntax(path)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node).startswith("page.settings(TrainConfig")
    ]
    for call in calls:
        given = {keyword.arg for keyword in call.keywords}
        if None not in given:  # else some are spread from a dict
            taken = {name: known[name] for name in TrainConfig.model_fields if name in known and name not in given}
            TrainConfig(**{"variants": ["A"]} | taken)
