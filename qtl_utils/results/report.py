"""Executed notebooks, tables and figures of one study -> an HTML report that opens without a network."""

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from qtl_utils.results.claims import read_claims
from qtl_utils.study.study import StudyConfig
from qtl_utils.study import extensions
from qtl_utils.study.environment import describe
from qtl_utils.study.notebook import failure_of
from qtl_utils.study.paths import PROJECT, atomic, scratch
from qtl_utils.results.runs import write_csv
from qtl_utils.study.steps import steps_of

SOURCES = PROJECT / "report"
GLOSSARY = "glossary.md"  # a page of the report's root
PAGE = re.compile(r"href='(05_\w+)\.ipynb#")  # the doctor's links, in outputs
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)")  # [text](file), not pictures or addresses


def build_report(folder: str | Path) -> Path:
    """Writes manifest.json, tables/claims.csv and report/ into a study's folder; the path of the report's first page.

    Notebooks that failed are named on that page, and shown as far as they ran. Raises FileNotFoundError where a
    notebook of the study was not executed at all, RuntimeError with Sphinx's message where a page cannot be built.
    """
    folder = Path(folder).resolve()
    study = StudyConfig.model_validate_json((folder / "study.json").read_text(encoding="utf-8"))
    notebooks = executed_notebooks(folder, study)
    claims = save_claims(folder, study)
    manifest = write_manifest(folder, study, notebooks)
    with scratch() as room, atomic(folder / "report") as part:
        pages = room / "pages"
        _lay_out(pages, folder, study, claims, notebooks, manifest)
        shutil.move(_sphinx(pages, room / "built" / "html"), part)
    return folder / "report" / "index.html"


def source_hashes() -> dict[str, str]:
    """Hash by file name of what the report's look depends on."""
    files = [path for path in SOURCES.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.name: _sha256(path) for path in sorted([*files, Path(__file__)])}


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
        for cell in notebook["cells"]:
            seconds = cell.get("metadata", {}).get("papermill", {}).get("duration") or 0.0
            line = next((text for text in "".join(cell["source"]).splitlines() if text.strip()), "")
            if cell["cell_type"] == "code" and seconds >= 1:
                found.append({"name": _label(name), "line": _cell(line.replace("`", "")), "seconds": seconds})
    return sorted(found, key=lambda cell: -cell["seconds"])[:n]


# ---- pages


def _lay_out(
    pages: Path, folder: Path, study: StudyConfig, claims: pd.DataFrame, notebooks: list[Path], manifest: dict
) -> None:
    """Puts conf.py, the figures, the executed notebooks and the generated pages into `pages`."""
    shutil.copytree(SOURCES, pages, ignore=shutil.ignore_patterns("*.j2", "__pycache__"))
    if (folder / "figures").is_dir():
        shutil.copytree(folder / "figures", pages / "figures")
    entries = []
    for name in notebooks:
        page = Path("notebooks") / name.with_suffix("")
        title = _copy_notebook(folder / "notebooks" / name, pages / f"{page}.ipynb", name, notebooks)
        entry = {"name": _label(name), "page": page.as_posix(), "title": title}
        entry["seconds"] = manifest["notebook_seconds"][str(name.with_suffix(""))]
        entries.append(entry | {"failed": failure_of(folder / "notebooks" / name)})
    answer = _read_answer(folder, "answer")
    shared, rows = _read_table(folder / "tables" / answer["main_table"]) if answer else ({}, [])
    told = {
        "study": study,
        "answer": answer,
        "repair": _read_answer(folder, "repair"),
        "learned": _read_answer(folder, "who_learned"),
        "notebooks": entries,
        "failed": [entry for entry in entries if entry["failed"]],
        "claims": [{name: _cell(str(value)) for name, value in row.items()} for row in claims.to_dict("records")],
        "refuted": int((~claims["confirmed"]).sum()),
        "manifest": manifest,
        "total_seconds": sum(manifest["notebook_seconds"].values()) or 1.0,
        "cells": longest_cells(folder, notebooks),
        "shared": shared,
        "rows": rows,
        "study_json": study.model_dump_json(indent=2),
    }
    templates = Environment(
        loader=FileSystemLoader(SOURCES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for template in SOURCES.glob("*.md.j2"):
        text = templates.get_template(template.name).render(told)
        (pages / template.stem).write_text(text, encoding="utf-8")


def _copy_notebook(source: Path, target: Path, name: Path, notebooks: list[Path]) -> str:
    """Copies an executed notebook with its links to other notebooks turned to their pages; its title."""
    notebook = json.loads(source.read_text(encoding="utf-8"))
    notebook["metadata"].setdefault("language_info", {"name": "python", "pygments_lexer": "ipython3"})
    title = _label(name)
    for cell in reversed(notebook["cells"]):
        if cell["cell_type"] == "markdown":
            cell["source"] = LINK.sub(lambda link: _relink(link, name, notebooks), "".join(cell["source"]))
            heading = re.match(r"# (.+)", cell["source"])
            title = heading[1] if heading else title
        for output in cell.get("outputs", []):
            page = output.get("data", {}).get("text/html")
            if page is not None:
                output["data"]["text/html"] = PAGE.sub(r"href='\1.html#", "".join(page))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(notebook), encoding="utf-8")
    return title


def _relink(link: re.Match, name: Path, notebooks: list[Path]) -> str:
    """A link to the glossary or another notebook, or just its text where the target is no page of the report."""
    text, target = link.groups()
    file, mark, section = target.partition("#")
    if Path(file).name == GLOSSARY:
        to_root = os.path.relpath(GLOSSARY, Path("notebooks") / name.parent).replace(os.sep, "/")
        return f"[{text}]({to_root}{mark}{section})"
    topic = Path(file).stem
    pages = [n for n in notebooks if n.stem == topic or n.stem.startswith(f"{topic}-")]
    if not pages or not target.endswith(".ipynb"):
        return text
    page = min(pages, key=lambda n: n.parent != name.parent)
    return f"[{text}]({os.path.relpath(page, name.parent).replace(os.sep, '/')})"


def _label(name: Path) -> str:
    """`digits/02_train_variant-heads.ipynb` -> `02 train variant: digits, heads`."""
    topic, _, run = name.stem.partition("-")
    where = ", ".join(part for part in (name.parent.name, run) if part)
    return topic.replace("_", " ") + (f": {where}" if where else "")


def _read_table(table: Path) -> tuple[dict[str, str], list[list[str]]]:
    """A CSV file for Markdown: what is the same in all its rows, and header and rows of what is not."""
    with table.open(newline="", encoding="utf-8") as lines:
        header, *rows = [[_cell(text) for text in row] for row in csv.reader(lines)]
    columns = [*zip(*rows, strict=True)]
    varied = [i for i, column in enumerate(columns) if len(rows) < 2 or len(set(column)) > 1]
    shared = {name: rows[0][i] for i, name in enumerate(header) if i not in varied and rows}
    return shared, [[row[i] for i in varied] for row in (header, *rows)]


def _cell(text: str) -> str:
    try:
        return text if text.lstrip("-").isdigit() else f"{float(text):.3g}"
    except ValueError:
        return text.replace("|", "\\|").replace("\n", " ")


def _sphinx(pages: Path, out: Path) -> Path:
    """Builds `pages` into `out` (MyST-NB also writes beside it) and returns it."""
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-E"]
    command += ["-d", str(pages.parent / "doctrees"), str(pages), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the report could not be built:\n{done.stderr.strip()[-3000:]}")
    return out
