"""The pages of docs/ become pages of the report, with links that lead somewhere."""

import re
from pathlib import Path

import pytest

from qtl_utils.results import report_docs
from qtl_utils.study.paths import PROJECT

NOTEBOOKS = [Path("digits/01_dataset_preparation.ipynb"), Path("10_repair.ipynb")]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    target = tmp_path_factory.mktemp("pages") / "docs"
    return target, report_docs.copy_docs(target, NOTEBOOKS, target.parent / "extra")


def test_every_page_of_docs_and_that_of_keys_is_in_a_group(pages):
    target, groups = pages
    named = [entry["name"] for entries in groups.values() for entry in entries]
    assert sorted(named) == sorted([*(path.stem for path in report_docs.DOCS.glob("*.md")), "study_keys"])
    assert all((target / f"{name}.md").is_file() for name in named)
    assert not any(entry["title"].startswith("#") for entries in groups.values() for entry in entries)


def test_a_page_that_no_group_names_comes_last_in_the_first():
    found = report_docs.grouped({"own_circuit": "Mine", "zzz": "New", "model": "Models"})
    assert [entry["name"] for entry in found["How to"]] == ["own_circuit", "zzz"]


def test_links_lead_to_pages_of_the_report_or_are_told_as_paths(pages):
    target, _ = pages
    for page in target.glob("*.md"):
        text = "".join(part for part in report_docs.CODE.split(page.read_text()) if not part.startswith("```"))
        for link in report_docs.LINK.finditer(text):
            file = link["target"].partition("#")[0]
            known = (target / file).is_file() or file.removeprefix("../notebooks/") in map(str, NOTEBOOKS)
            assert known, (page.name, link[0])


def test_what_is_no_page_keeps_its_path(pages):
    text = (pages[0] / "own_circuit.md").read_text()
    assert "`studies/my_extension.py` has one of each" in text
    assert "[10_repair](../notebooks/10_repair.ipynb)" in (pages[0] / "from_2019_to_better.md").read_text()
    assert "`notebooks/06_who_learned.ipynb` takes A apart" in (pages[0] / "who_learned.md").read_text()


def test_pictures_become_figures_with_their_numbers(pages):
    text = (pages[0] / "what_came_out.md").read_text()
    assert 'src="../figures/docs-family.png"' in text and 'href="../tables/docs-comparisons.csv"' in text
    extra = pages[0].parent / "extra"
    assert (extra / "figures" / "docs-family.png").is_file() and (extra / "tables" / "docs-comparisons.csv").is_file()


def test_code_is_left_as_it_is(pages):
    for page in report_docs.DOCS.glob("*.md"):
        blocks = re.findall(r"^```\w+\n.*?^```$", page.read_text(), re.DOTALL | re.MULTILINE)
        assert all(block in (pages[0] / page.name).read_text() for block in blocks)


def test_a_project_without_docs_has_none(monkeypatch, tmp_path):
    monkeypatch.setattr(report_docs, "DOCS", PROJECT / "no such folder")
    assert report_docs.copy_docs(tmp_path / "docs", [], tmp_path) == {}


def test_a_picture_that_does_not_ship_is_told_by_its_caption(tmp_path):
    assert report_docs._picture(tmp_path / "none.png", "A minus C", tmp_path) == "*A minus C.*"
