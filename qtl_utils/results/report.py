"""Executed notebooks, tables and figures of one study -> an HTML report that opens without a network."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from qtl_utils.results import (
    answer,
    report_compare,
    report_docs,
    report_figures,
    report_notebooks,
    report_size,
    report_tables,
    who_is_right,
)
from qtl_utils.results.claims import read_claims
from qtl_utils.results.report_figures import Told
from qtl_utils.results.report_notebooks import label
from qtl_utils.results.report_tables import cell
from qtl_utils.results.runs import write_csv
from qtl_utils.results.who_is_right import Thumbnails
from qtl_utils.study import extensions
from qtl_utils.study.environment import describe
from qtl_utils.study.notebook import failure_of
from qtl_utils.study.paths import PROJECT, atomic, scratch
from qtl_utils.study.steps import steps_of
from qtl_utils.study.study import StudyConfig

SOURCES = PROJECT / "report"
MAKERS = (answer, report_docs, report_figures, report_notebooks, report_size, report_tables, who_is_right)
FURTHER = {  # answers below the first one: name of the file -> what folds out, and what its figure shows
    "repair": ("Mend by mend", "Accuracy from the published model to the repaired one, mend by mend, with controls."),
    "noise": ("Condition by condition", "Accuracy against shots, against gate noise, and on devices."),
    "who_learned": ("Test by test", "A minus every model of the ladder, without and with scaled features."),
}


def build_report(folder: str | Path, thumbnails: Thumbnails = lambda dataset, ids: {}) -> Path:
    """Writes manifest.json, tables/claims.csv and report/ into a study's folder; the path of the report's first page.

    thumbnails: gives small copies of images, for the page of those that variants disagree on.
    Notebooks that failed are named on the first page, and shown as far as they ran. Raises FileNotFoundError where a
    notebook of the study was not executed at all, RuntimeError with Sphinx's message where a page cannot be built.
    """
    folder = Path(folder).resolve()
    study = StudyConfig.model_validate_json((folder / "study.json").read_text(encoding="utf-8"))
    notebooks = executed_notebooks(folder, study)
    claims = save_claims(folder, study)
    manifest = write_manifest(folder, study, notebooks)
    with scratch() as room, atomic(folder / "report") as part:
        pages = room / "pages"
        shutil.copytree(SOURCES, pages, ignore=shutil.ignore_patterns("*.j2", "__pycache__"))
        told = _lay_out(pages, folder, study, notebooks, manifest, thumbnails)
        _write_pages(pages, told | _claimed(claims) | {"study": study, "manifest": manifest})
        shutil.move(_sphinx(pages, room / "built" / "html"), part)
    return folder / "report" / "index.html"


def build_comparison(folders: tuple[Path, Path], target: Path) -> Path:
    """Writes a page that compares two results folders into `target`; the path of the page."""
    with scratch() as room, atomic(target) as part:
        pages = room / "pages"
        shutil.copytree(SOURCES, pages, ignore=shutil.ignore_patterns("*.j2", "*.md", "__pycache__"))
        report_compare.lay_out(pages, folders)
        shutil.move(_sphinx(pages, room / "built" / "html"), part)
    return target / "index.html"


def source_hashes() -> dict[str, str]:
    """Hash by file name of what the report's look depends on."""
    files = [path for path in SOURCES.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    makers = [Path(__file__), *(Path(module.__file__) for module in MAKERS)]
    return {path.name: _sha256(path) for path in sorted([*files, *report_docs.source_files(), *makers])}


# ---- what goes in


def executed_notebooks(folder: Path, study: StudyConfig) -> list[Path]:
    """The executed notebooks of `study`, relative to notebooks/, in reading order."""
    steps = steps_of(study)
    missing = [step.name for step in steps if not (folder / step.executed).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder}: {missing[0]} was not executed yet; run the study to its end first")
    return [step.executed.relative_to("notebooks") for step in steps]


def save_claims(folder: Path, study: StudyConfig) -> pd.DataFrame:
    """Writes what the notebooks of `study` expected and found to tables/claims.csv, and returns it."""
    claims = read_claims(folder, [step.claims.stem for step in steps_of(study)])
    with atomic(folder / "tables" / "claims.csv") as part:
        write_csv(claims, part)
    return claims


def _claimed(claims: pd.DataFrame) -> dict[str, Any]:
    rows = [{name: cell(str(value)) for name, value in row.items()} for row in claims.to_dict("records")]
    return {"claims": rows, "refuted": int((~claims["confirmed"]).sum())}


def _read_answer(folder: Path, name: str) -> dict[str, Any] | None:
    """What a notebook left for the first page in tables/; None where it failed, or the study has it not."""
    path = folder / "tables" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_manifest(folder: Path, study: StudyConfig, notebooks: list[Path]) -> dict[str, Any]:
    """Writes manifest.json (machine, versions, commit, table hashes, seconds per notebook) and returns it."""
    manifest = describe() | {
        "study": folder.name,
        "extensions": extensions.hashes(study.extensions),
        "tables": {path.name: _sha256(path) for path in sorted((folder / "tables").glob("*"))},
        "notebook_seconds": {str(name.with_suffix("")): _seconds(folder, name) for name in notebooks},
    }
    with atomic(folder / "manifest.json") as part:
        part.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def _seconds(folder: Path, name: Path) -> float:
    notebook = json.loads((folder / "notebooks" / name).read_text(encoding="utf-8"))
    return round(notebook["metadata"].get("papermill", {}).get("duration") or 0.0, 1)


def longest_cells(folder: Path, notebooks: list[Path], n: int = 15) -> list[dict[str, Any]]:
    """The `n` code cells that took longest: name of the notebook, first line, seconds; none under a second."""
    found = []
    for name in notebooks:
        notebook = json.loads((folder / "notebooks" / name).read_text(encoding="utf-8"))
        for code in notebook["cells"]:
            seconds = code.get("metadata", {}).get("papermill", {}).get("duration") or 0.0
            line = next((text for text in "".join(code["source"]).splitlines() if text.strip()), "")
            if code["cell_type"] == "code" and seconds >= 1:
                found.append({"name": label(name), "line": cell(line.replace("`", "")), "seconds": seconds})
    return sorted(found, key=lambda code: -code["seconds"])[:n]


# ---- pages


def _lay_out(
    pages: Path, folder: Path, study: StudyConfig, notebooks: list[Path], manifest: dict, thumbnails: Thumbnails
) -> dict[str, Any]:
    """Puts tables, figures, notebooks and texts into `pages`, and returns what the other pages say of them.

    What lies in extra/ becomes part of the report as it is.
    """
    extra = pages / "extra"
    right = report_tables.copy_tables(folder, extra / "tables")
    entries = []
    for name in notebooks:
        page = Path("notebooks") / name.with_suffix("")
        source = folder / "notebooks" / name
        title = report_notebooks.copy_notebook(source, pages / f"{page}.ipynb", name, notebooks, extra)
        entry = {"name": label(name), "page": page.as_posix(), "title": title, "failed": failure_of(source)}
        entries.append(entry | {"seconds": manifest["notebook_seconds"][str(name.with_suffix(""))]})
    if len(right):
        (pages / "who_is_right.md").write_text(who_is_right.page(right, thumbnails), encoding="utf-8")
    return {
        "notebooks": entries,
        "failed": [entry for entry in entries if entry["failed"]],
        "docs": report_docs.copy_docs(pages / "docs", notebooks, extra),
        "right": len(right) > 0,
        "total_seconds": sum(manifest["notebook_seconds"].values()) or 1.0,
        "cells": longest_cells(folder, notebooks),
        "study_json": study.model_dump_json(indent=2),
        **_first_page(folder, extra),
    }


def _first_page(folder: Path, extra: Path) -> dict[str, Any]:
    """What the first page quotes of a study's answers: sentences, figures as HTML and the main table."""
    told = {"answer": _read_answer(folder, "answer"), "further": []}
    told |= {"short": [], "first_figure": "", "main_figure": "", "shared": {}, "rows": []}
    if main := told["answer"]:
        told["shared"], told["rows"] = report_tables.read_table_for_page(folder / "tables" / main["main_table"])
        drawn = "plots." + Path(main["main_figure"]).stem + "("
        told["main_figure"] = _quoted(folder, extra, main["main_figure"], drawn, main["question"])
        told["short"], told["first_figure"] = main["answer"][:2], told["main_figure"]
    comparisons = folder / "tables" / "comparisons.csv"
    if main and comparisons.is_file():
        told |= _shortest(answer.read(comparisons), extra, told["first_figure"])
    for name, (folded, caption) in FURTHER.items():
        if found := _read_answer(folder, name):
            figure = _quoted(folder, extra, found["figure"], "", caption) if found["figure"] else ""
            told["further"].append(found | {"folded": folded, "figure": figure})
    return told


def _shortest(comparisons: pd.DataFrame, extra: Path, instead: str) -> dict[str, Any]:
    """The first screen: two sentences and a figure; `instead` where there is none to draw."""
    drawn = answer.figure(comparisons)
    if drawn is None:
        return {"short": answer.sentences(comparisons), "first_figure": instead}
    report_figures.save_small(answer.png(drawn), extra / "figures" / "answer.png")
    told = Told(answer.CAPTION, answer.in_words(comparisons), "comparisons.csv")
    return {"short": answer.sentences(comparisons), "first_figure": report_figures.figure("figures/answer.png", told)}


def _quoted(folder: Path, extra: Path, name: str, drawn: str, caption: str) -> str:
    """HTML of a figure that a notebook wrote into figures/, '' where it did not.

    drawn: the code that draws it, where its own words are its caption.
    """
    source = folder / "figures" / name
    if not source.is_file():
        return ""
    report_figures.save_small(source.read_bytes(), extra / "figures" / name)
    code = f'figures["{Path(name).stem}"] = {drawn}'
    return report_figures.figure(f"figures/{name}", report_figures.of_cell(code, caption, extra / "tables"))


def _write_pages(pages: Path, told: dict[str, Any]) -> None:
    """Renders the templates of report/ with what is `told`."""
    templates = Environment(
        loader=FileSystemLoader(SOURCES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for template in SOURCES.glob("*.md.j2"):
        text = templates.get_template(template.name).render(told)
        (pages / template.stem).write_text(text, encoding="utf-8")


def _sphinx(pages: Path, out: Path) -> Path:
    """Builds `pages` into `out` (MyST-NB also writes beside it) and returns it."""
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-E"]
    command += ["-d", str(pages.parent / "doctrees"), str(pages), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the report could not be built:\n{done.stderr.strip()[-3000:]}")
    report_size.lighten(out)
    return out
