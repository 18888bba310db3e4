"""Executed notebooks as pages of the report: links between them, and figures with caption, words and numbers."""

import base64
import html
import json
import os
import re
from pathlib import Path
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from qtl_utils.results import report_figures
from qtl_utils.results.report_docs import page_of
from qtl_utils.results.report_size import plain_table

GLOSSARY = "glossary.md"  # a page of the report's root
PAGE = re.compile(r"href='(05_\w+)\.ipynb#")  # the doctor's links, in outputs
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)")  # [text](file), not pictures or addresses
CODE = re.compile(r'<div class="highlight" style=.*?</div>', re.DOTALL)  # as `show_source` gives it
TITLE = re.compile(r"^#+ (.+)", re.MULTILINE)


def copy_notebook(source: Path, target: Path, name: Path, notebooks: list[Path], extra: Path) -> str:
    """Copies an executed notebook as a page of the report; its title.

    Links to other notebooks lead to their pages. Figures go to figures/ in `extra`, which is copied into the report
    as it is and has the tables already. Code that the first execution of the same notebook shows is not shown again.
    """
    notebook = json.loads(source.read_text(encoding="utf-8"))
    notebook["metadata"].setdefault("language_info", {"name": "python", "pygments_lexer": "ipython3"})
    _leave_out_repeats(notebook["cells"], source, name, notebooks)
    title, section = label(name), ""
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "markdown":
            cell["source"] = LINK.sub(lambda link: _relink(link, name, notebooks), "".join(cell["source"]))
            headings = TITLE.findall(cell["source"])
            title = headings[0] if headings and not section else title
            section = headings[-1] if headings else section
        _show(cell, f"{'-'.join(name.with_suffix('').parts)}-{number}", section, name, extra)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(notebook), encoding="utf-8")
    return title


def _leave_out_repeats(cells: list[dict[str, Any]], source: Path, name: Path, notebooks: list[Path]) -> None:
    """Hides code, and cells, that stand on the page of the first execution of this notebook too, and says so."""
    first = next((other for other in notebooks if _topic(other) == _topic(name)), name)
    if first == name:
        return
    file = source.parents[len(name.parts) - 1] / first
    shown = {"".join(cell["source"]): _shown(cell) for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]}
    repeats = [cell for cell in cells if cell["cell_type"] == "code" and "".join(cell["source"]) in shown]
    for cell in repeats:
        same = _shown(cell) == shown["".join(cell["source"])]
        cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "remove-cell" if same else "remove-input"]
    if repeats:
        link = os.path.relpath(first, name.parent).replace(os.sep, "/")
        told = f"What is the same as in [{label(first)}]({link}), the code above all, is left out."
        cells.insert(1, {"cell_type": "markdown", "metadata": {}, "source": told, "id": "repeats"})


def _shown(cell: dict[str, Any]) -> list:
    """What a cell puts out, but for its number."""
    return [[output.get("text"), output.get("data")] for output in cell.get("outputs", [])]


def _topic(name: Path) -> str:
    return name.stem.partition("-")[0]


def _show(cell: dict[str, Any], stem: str, section: str, name: Path, extra: Path) -> None:
    """Turns the pictures and links among the outputs of a cell."""
    said = ""
    for number, output in enumerate(cell.get("outputs", [])):
        said = "".join(output.get("text", "")).strip() or said  # a loop prints what it is about to draw
        data = output.get("data", {})
        if "text/html" in data:
            page = PAGE.sub(r"href='\1.html#", "".join(data["text/html"]))
            data["text/html"] = plain_table(CODE.sub(_coloured, page))
        if "image/png" in data:
            image = f"figures/{stem}-{number}.png"
            report_figures.save_small(base64.b64decode("".join(data["image/png"])), extra / image)
            told = report_figures.of_cell("".join(cell["source"]), section, extra / "tables")
            about = said.splitlines()[-1] if said else ""
            told = report_figures.Told(
                *(f"{about}. {text}" if about else text for text in (told.caption, told.alt)), told.table
            )
            up = "../" * len(name.parts)
            output["data"] = {"text/html": report_figures.figure(image, told, up)}
            said = ""


def _coloured(code: re.Match) -> str:
    """Code with names of kinds in the place of colours, so that the report's light and dark colours hold."""
    text = html.unescape(re.sub(r"<[^>]+>", "", code[0]))
    return highlight(text, PythonLexer(), HtmlFormatter())


def _relink(link: re.Match, name: Path, notebooks: list[Path]) -> str:
    """A link to another page of the report, or just its text where the target is no page of it."""
    text, target = link.groups()
    file, mark, section = target.partition("#")
    if Path(file).name == GLOSSARY:
        to_root = os.path.relpath(GLOSSARY, Path("notebooks") / name.parent).replace(os.sep, "/")
        return f"[{text}]({to_root}{mark}{section})"
    page = page_of(Path(file).stem, notebooks, name.parent)
    if page is None or not target.endswith(".ipynb"):
        return text
    return f"[{text}]({os.path.relpath(page, name.parent).replace(os.sep, '/')})"


def label(name: Path) -> str:
    """`digits/02_train_variant-heads.ipynb` -> `02 train variant: digits, heads`."""
    topic, _, run = name.stem.partition("-")
    where = ", ".join(part for part in (name.parent.name, run) if part)
    return topic.replace("_", " ") + (f": {where}" if where else "")
