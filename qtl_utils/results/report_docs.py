"""The pages of docs/ as the report shows them: links lead to its own pages, pictures lie beside them."""

import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from qtl_utils.results import report_figures
from qtl_utils.results.report_figures import Told
from qtl_utils.study import config, keys, sections, study
from qtl_utils.study.paths import PROJECT

DOCS = PROJECT / "docs"
KEYS = "study_keys"  # a page made from the settings themselves
GROUPS = {  # of the report's table of contents; pages that are not named here come last in the first group
    "How to": [
        *("running", "own_pictures", "own_images", "own_circuit", "own_variant", "own_model", "scaling_out"),
        *("teaching", "pennylane_device", "archive", KEYS),
    ],
    "How it works": ["model", "simulator", "differentiation", "noise", "statistics", "reproducibility"],
    "Reference results": ["what_came_out", "from_2019_to_better", "who_learned"],
}
LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?!https?:|#)(?P<target>[^)\s]+)\)")
CODE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def copy_docs(target: Path, notebooks: Sequence[Path], extra: Path) -> dict[str, list[dict[str, str]]]:
    """Writes the pages of docs/ and the reference of every key into `target`; title and name of each by group.

    notebooks: the executed ones of the study, relative to notebooks/, which stand in notebooks/ beside `target`.
    Pictures and their numbers go to `extra`, which is copied into the report as it is.
    """
    if not DOCS.is_dir():
        return {}
    target.mkdir(parents=True)
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
    texts = {name: _outside_code(text, lambda link: _turned(link, notebooks, extra)) for name, text in texts.items()}
    texts[KEYS] = keys.page()
    for name, text in texts.items():
        (target / f"{name}.md").write_text(text, encoding="utf-8")
    return grouped({name: text.partition("\n")[0].removeprefix("# ") for name, text in texts.items()})


def grouped(titles: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    """Pages (name -> title) in the order of GROUPS, with those that it does not name at the end of the first group."""
    named = [name for names in GROUPS.values() for name in names]
    first, *_ = GROUPS
    others = sorted(titles.keys() - set(named))
    order = {group: [*names, *(others if group == first else ())] for group, names in GROUPS.items()}
    return {
        group: [{"name": name, "title": titles[name]} for name in names if name in titles]
        for group, names in order.items()
    }


def source_files() -> list[Path]:
    """What the pages are made from."""
    told = (keys, config, sections, study)  # the page of keys quotes comments of the last three
    return [*sorted(DOCS.glob("*.md")), Path(__file__), *(Path(module.__file__) for module in told)]


def _outside_code(text: str, turn: Callable[[re.Match], str]) -> str:
    """`text` with every link turned, but for what stands in blocks of code."""
    parts = CODE.split(text)
    return "".join(part if part.startswith("```") else LINK.sub(turn, part) for part in parts)


def _turned(link: re.Match, notebooks: Sequence[Path], extra: Path) -> str:
    """A link for the report: a picture becomes a figure, a page is linked, of anything else the path is told."""
    file, _, heading = link["target"].partition("#")
    found = (DOCS / file).resolve()
    if link["picture"]:
        return _picture(found, link["text"], extra)
    if found.parent == DOCS and found.suffix == ".md":
        return link[0]
    page = page_of(found.stem, notebooks) if found.suffix == ".ipynb" else None
    if page is not None:
        return f"[{link['text']}](../notebooks/{page.as_posix()}{'#' + heading if heading else ''})"
    path = os.path.relpath(found, PROJECT).replace(os.sep, "/")
    return f"`{path}`" if link["text"] in (path, found.stem) else f"{link['text']} (`{path}`)"


def _picture(source: Path, caption: str, extra: Path) -> str:
    """HTML of a picture in results/reference/, with the table of the same name beside it or in tables/.

    An installed package ships the tables without the pictures: what the picture shows is said instead.
    """
    if not source.is_file():
        return f"*{caption}.*"
    image = f"figures/docs-{source.name}"
    report_figures.save_small(source.read_bytes(), extra / image)
    name = report_figures.TABLES.get(f"plots.{source.stem}", source.stem)
    tables = [folder / f"{name}.csv" for folder in (source.parents[1] / "tables", source.parent)]
    table = next(filter(Path.is_file, tables), None)
    if table is None:
        return report_figures.figure(image, Told(caption, caption), "../")
    (extra / "tables").mkdir(parents=True, exist_ok=True)
    shutil.copy2(table, extra / "tables" / f"docs-{table.name}")
    told = Told(f"{caption}.", f"{caption}. {report_figures.in_words(table)}", f"docs-{table.name}")
    return report_figures.figure(image, told, "../")


def page_of(topic: str, notebooks: Sequence[Path], near: Path = Path()) -> Path | None:
    """The executed notebook of `topic`, the one in the folder `near` first; None where the study has none."""
    pages = [name for name in notebooks if name.stem == topic or name.stem.startswith(f"{topic}-")]
    return min(pages, key=lambda name: name.parent != near, default=None)
