"""The report says the answer first, needs no network, and shows every figure."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from browser import accessibility, browser, find_chromium
from test_answer import comparisons
from test_who_is_right import predictions
from toy_project import write_notebook

from qtl_utils.results import report_docs
from qtl_utils.results.claims import Claims
from qtl_utils.results.report import build_report, executed_notebooks, longest_cells, source_hashes
from qtl_utils.results.report_notebooks import copy_notebook
from qtl_utils.results.report_tables import read_table_for_page
from qtl_utils.results.runs import HISTORY, tidy, write_csv
from qtl_utils.study.notebook import keep_failed, show_source
from qtl_utils.study.paths import PROJECT
from qtl_utils.study.study import StudyConfig

STUDY = StudyConfig.model_validate(
    {
        "name": "toy",
        "description": "Two | rows.",
        "datasets": {"digits": {}},
        "backbones": {"vit": {"model": "tiny_vit"}},
        "runs": {name: {"dataset": "digits", "backbone": "vit"} for name in ("heads", "B")},
        **dict.fromkeys(("gradients", "simulators", "troubleshooting", "attribution")),
    }
)
ANSWER = {"question": "Does it help?", "answer": ["Not here."], "main_figure": "f.png", "main_table": "t.csv"}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
TITLE = "What is this?\n\nAn angle $\\theta$ in [one](01_dataset_preparation.ipynb), [two](../README.md).\n\n$$x^2$$"
TITLE += "\n\nOf [words](../report/glossary.md#statistics)."


def build(folder):
    """The report of a study without the pages of docs/, which take their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_docs, "DOCS", folder / "no docs")
        return build_report(folder)


def finished_study(folder):
    """A study folder as a run leaves it, with pictures and formulas in its notebooks."""
    for name in ("tables", "figures"):
        (folder / name).mkdir(parents=True)
    (folder / "study.json").write_text(STUDY.model_dump_json())
    (folder / "tables" / "answer.json").write_text(json.dumps(ANSWER))
    (folder / "tables" / "t.csv").write_text("dataset,variant,accuracy\ndigits,A|x,0.91234\ndigits,C,0.5\n")
    (folder / "figures" / "f.png").write_bytes(base64.b64decode(PIXEL))
    names = ["01_dataset_preparation", "02_train_variant-heads", "02_train_variant-B"]
    for path in [
        *(folder / "notebooks" / "digits" / f"{n}.ipynb" for n in names),
        folder / "notebooks/07_results.ipynb",
    ]:
        write_notebook(path, "x = 1", "x", title=TITLE)
        book = nbformat.read(path, as_version=4)
        data = {"image/png": PIXEL, "text/plain": "figure"}
        book.cells[-1].outputs = [nbformat.v4.new_output("display_data", data=data)]
        book.metadata["papermill"] = {"duration": 2.5}
        nbformat.write(book, path)
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return build(finished_study(tmp_path_factory.mktemp("a study") / "toy")).parent


class Resources(HTMLParser):
    """What a page loads by itself: scripts, styles, pictures, fonts, frames; not what a reader may click."""

    def __init__(self, page: Path):
        super().__init__()
        self.found = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag != "a" and not (tag == "link" and given.get("rel") in ("index", "search", "next", "prev", "canonical")):
            self.found += [given[key] for key in ("src", "href", "srcset", "data") if given.get(key)]


def pages(report):
    return sorted(page for page in report.rglob("*.html") if "_static" not in page.parts)


def test_the_answer_comes_before_the_notebooks(report):
    page = (report / "index.html").read_text()
    texts = ("<h1>Does it help?", "Not here.", "f.png", "A|x", "<h2>The notebooks", "SHA-256")
    order = [page.index(text) for text in texts]
    assert order == sorted(order)


def test_who_learned_follows_the_answer_where_the_study_knows_it(report, tmp_path):
    assert "Who learned?" not in (report / "index.html").read_text()
    folder = finished_study(tmp_path / "toy")
    known = {"question": "Who learned?", "answer": ["The classical layers."], "figure": "f.png"}
    (folder / "tables" / "who_learned.json").write_text(json.dumps(known))
    page = build(folder).read_text()
    places = [
        page.index(text) for text in ("Not here.", "<h2>Who learned?", "The classical layers.", "<h2>The notebooks")
    ]
    assert places == sorted(places)


def test_the_glossary_is_a_page_with_its_equations(report):
    page = (report / "glossary.html").read_text()
    assert "Parameter shift" in page and "langle" in page
    assert 'href="glossary.html"' in (report / "index.html").read_text()


def test_every_notebook_is_listed_and_built(report):
    assert {page.stem for page in report.glob("notebooks/**/*.html")} == {
        "01_dataset_preparation",
        "02_train_variant-heads",
        "02_train_variant-B",
        "07_results",
    }


def test_links_between_notebooks_lead_to_their_pages(report):
    page = (report / "notebooks" / "07_results.html").read_text()
    assert 'href="digits/01_dataset_preparation.html"' in page
    assert "README.md" not in page
    assert 'href="../glossary.html#statistics"' in page


def test_links_of_the_doctor_lead_to_pages_of_the_report(tmp_path):
    told = nbformat.v4.new_output("display_data", data={"text/html": "<a href='05_troubleshooting_x.ipynb#dead'>"})
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[told])])
    nbformat.write(book, tmp_path / "a.ipynb")
    copy_notebook(tmp_path / "a.ipynb", tmp_path / "b.ipynb", Path("a.ipynb"), [], tmp_path)
    assert "05_troubleshooting_x.html#dead" in (tmp_path / "b.ipynb").read_text()


def test_code_among_outputs_is_coloured_by_the_report(tmp_path):
    told = nbformat.v4.new_output("display_data", data={"text/html": show_source(find_chromium).data})
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[told])])
    nbformat.write(book, tmp_path / "a.ipynb")
    copy_notebook(tmp_path / "a.ipynb", tmp_path / "b.ipynb", Path("a.ipynb"), [], tmp_path)
    page = json.loads((tmp_path / "b.ipynb").read_text())["cells"][0]["outputs"][0]["data"]["text/html"]
    assert "style=" not in page and '<span class="k">def</span>' in page and "find_chromium" in page


def test_what_another_page_shows_already_is_left_out(tmp_path):
    names = [Path("d/02_train_variant-heads.ipynb"), Path("d/02_train_variant-B.ipynb")]
    for name, run in zip(names, ("heads", "B"), strict=True):
        out = nbformat.v4.new_output("display_data", data={"text/plain": run})
        same = nbformat.v4.new_output("display_data", data={"text/plain": "same"})
        cells = [nbformat.v4.new_markdown_cell("# T"), nbformat.v4.new_code_cell("a", outputs=[same])]
        cells += [nbformat.v4.new_code_cell("b", outputs=[out]), nbformat.v4.new_code_cell(f"run = '{run}'")]
        (tmp_path / "n" / name).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n" / name)
        copy_notebook(tmp_path / "n" / name, tmp_path / name.name, name, names, tmp_path)
    first, second = (json.loads((tmp_path / name.name).read_text())["cells"] for name in names)
    assert not any(cell["metadata"].get("tags") for cell in first)
    assert [cell["metadata"].get("tags") for cell in second] == [None, None, ["remove-cell"], ["remove-input"], None]
    assert "[02 train variant: d, heads](02_train_variant-heads.ipynb)" in second[1]["source"]


def test_pages_load_only_files_that_lie_beside_them(report):
    for page in pages(report):
        for resource in Resources(page).found:
            assert not re.match(r"(https?:)?//", resource), (page, resource)
            if not resource.startswith(("data:", "#")):
                assert (page.parent / re.split("[?#]", resource)[0]).exists(), (page, resource)


def test_styles_load_nothing_from_the_network(report):
    for style in report.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text()), style


def test_the_manifest_holds_versions_hashes_and_seconds(report):
    manifest = json.loads((report.parent / "manifest.json").read_text())
    assert manifest["notebook_seconds"]["digits/02_train_variant-B"] == 2.5
    assert len(manifest["tables"]["t.csv"]) == 64
    assert manifest["versions"]["torch"]


def test_the_page_of_minutes_lists_steps_and_their_longest_cells(report):
    text = (report / "minutes.html").read_text(encoding="utf-8")
    manifest = json.loads((report.parent / "manifest.json").read_text(encoding="utf-8"))
    for name in manifest["notebook_seconds"]:
        assert f"notebooks/{name}.html" in text


def test_the_longest_cells_come_first(tmp_path):
    seconds = (0.5, 2.0, 30.0)
    cells = [
        {"cell_type": "code", "source": ["\n", f"take({n})\n"], "metadata": {"papermill": {"duration": n}}}
        for n in seconds
    ]
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "n.ipynb").write_text(json.dumps({"cells": cells}))
    found = longest_cells(tmp_path, [Path("n.ipynb")])
    assert [(cell["line"], cell["seconds"]) for cell in found] == [("take(30.0)", 30.0), ("take(2.0)", 2.0)]


def test_what_all_rows_share_leaves_the_table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("dataset,variant,n,accuracy\ndigits,A|x,3,0.91234\ndigits,C,3,\n")
    shared, rows = read_table_for_page(path)
    assert shared == {"dataset": "digits", "n": "3"}
    assert rows == [["variant", "accuracy"], ["A\\|x", "0.912"], ["C", ""]]


def test_notebooks_of_runs_that_the_study_no_longer_names_are_left_out(tmp_path):
    folder = finished_study(tmp_path / "toy")
    less = STUDY.model_copy(update={"runs": {"B": STUDY.runs["B"]}})
    names = [str(path) for path in executed_notebooks(folder, less)]
    assert names == ["digits/01_dataset_preparation.ipynb", "digits/02_train_variant-B.ipynb", "07_results.ipynb"]


def test_a_notebook_that_was_not_executed_is_named(tmp_path):
    folder = finished_study(tmp_path / "toy")
    (folder / "notebooks/digits/02_train_variant-B.ipynb").unlink()
    with pytest.raises(FileNotFoundError, match="digits/02_train_variant-B was not executed yet"):
        build(folder)


def test_claims_stand_on_the_first_page_and_in_a_table(tmp_path):
    folder = finished_study(tmp_path / "toy")
    claims = Claims("07_results")
    claims.expect("A is | higher", False, "it is lower")
    claims.expect("C is above chance", True, "0.9")
    claims.save(folder)
    page = build(folder).read_text()
    assert "1 of 2 claims" in page and "A is | higher (07_results). Found: it is lower" in page
    assert "C is above chance" not in page
    assert "C is above chance" in (folder / "report" / "claims.html").read_text()
    assert len((folder / "tables" / "claims.csv").read_text().splitlines()) == 3


@pytest.fixture(scope="module")
def report_of_failures(tmp_path_factory):
    """The report of a study of which the comparison and a training failed."""
    folder = finished_study(tmp_path_factory.mktemp("broken") / "toy")
    (folder / "tables" / "answer.json").unlink()
    for name in ("07_results", "digits/02_train_variant-B"):
        path = folder / "notebooks" / f"{name}.ipynb"
        keep_failed(path, path, f"{name} failed in cell [3] (x | y):\n    ValueError: `odd` <text>")
    return build(folder).parent


def test_failures_come_first_with_their_message(report_of_failures):
    page = (report_of_failures / "index.html").read_text()
    assert "2 of 4 notebooks failed" in page
    assert "ValueError: `odd` &lt;text&gt;" in page
    assert page.index("digits/02_train_variant-B failed in cell") < page.index("<h2>The notebooks")
    assert (report_of_failures / "notebooks" / "07_results.html").is_file()


def test_without_the_comparison_the_report_says_that_there_is_no_answer(report_of_failures):
    assert "no answer yet" in (report_of_failures / "index.html").read_text()


@pytest.mark.slow
def test_a_page_that_cannot_be_built_leaves_the_old_report(report, tmp_path):
    folder = finished_study(tmp_path / "toy")
    build(folder)
    write_notebook(folder / "notebooks" / "07_results.ipynb", "x = 1", title="T\n\n```{no-such-directive}\n```")
    with pytest.raises(RuntimeError, match="no-such-directive"):
        build(folder)
    assert (folder / "report" / "index.html").is_file()


def test_the_report_is_rebuilt_when_its_sources_change():
    assert {"conf.py", "index.md.j2", "style.css", "report.py"} <= set(source_hashes())


@pytest.mark.slow
@pytest.mark.skipif(find_chromium() is None, reason="needs Chromium")
def test_every_page_opens_offline_without_a_complaint(report, tmp_path):
    with browser(tmp_path) as visit:
        for page in pages(report):
            seen = visit(page.as_uri())
            assert all(url.startswith(("file:", "data:", "blob:")) for url in seen["requests"]), page
            assert seen["complaints"] == [], page
            assert all(width > 0 for _, width in seen["figures"]), page
            assert seen["drawn"] >= seen["formulas"], page
            assert not page.parent.match("notebooks*") or (seen["figures"] and seen["formulas"]), page


# ---- what a reader sees ----------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(find_chromium() is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def full_report(tmp_path_factory):
    """The report of a study with comparisons and predictions."""
    folder = finished_study(tmp_path_factory.mktemp("full") / "toy")
    rows = [comparisons("lower"), *(comparisons("equivalent", value=n / 1000) for n in range(11))]
    rows = pd.concat(rows).assign(dataset=[f"d{i:02d}" for i in range(12)])
    rows.to_csv(folder / "tables" / "comparisons.csv", index=False)
    answer = ANSWER | {"main_table": "comparisons.csv"}
    (folder / "tables" / "answer.json").write_text(json.dumps(answer))
    run = folder / "runs" / "digits" / "heads"
    run.mkdir(parents=True)
    tested = predictions().assign(study="toy", run="heads", probability=0.5)
    write_csv(tidy(tested, "predictions"), run / "predictions.csv")
    write_csv(tidy(pd.DataFrame(columns=HISTORY), "history"), run / "history.csv")
    (run / "metrics.csv").touch()
    return build_report(folder, lambda dataset, ids: dict.fromkeys(ids, base64.b64decode(PIXEL))).parent


def test_the_first_page_begins_with_two_sentences_and_one_figure(full_report):
    page = (full_report / "index.html").read_text()
    first = page[page.index("<h1>") : page.index("<details")]
    assert "No: the model with the quantum circuit was right more often in none of 12 comparisons" in first
    assert first.count("<figure") == 1 and "equally often in 11 (+0.0 to +1.0)" in first


def test_every_figure_has_a_caption_words_and_its_numbers(full_report):
    for page in pages(full_report):
        for figure in re.findall(r"<figure.*?</figure>", page.read_text(), re.DOTALL):
            assert len(re.search(r'alt="([^"]+)"', figure)[1]) > 10
            assert re.search(r"<figcaption>\w.+</figcaption>", figure)
            for link in re.findall(r'href="([^"]+)"', figure):
                assert (page.parent / link).is_file(), (page, link)
    assert "comparisons.csv" in (full_report / "index.html").read_text()


def test_headings_are_in_order(full_report):
    for page in pages(full_report):
        levels = [int(level) for level in re.findall(r"<h([1-6])", page.read_text().split("<article", 1)[-1])]
        steps = zip([0, *levels], levels, strict=False)
        assert all(after <= before + 1 for before, after in steps), (page, levels)


def test_the_report_is_small_enough_to_send(full_report):
    assert sum(path.stat().st_size for path in full_report.rglob("*") if path.is_file()) < 10e6


def test_the_images_that_variants_disagree_on_have_a_page(full_report):
    page = (full_report / "who_is_right.html").read_text()
    assert "<code>one</code>" in page and "data:image/png" in page
    assert (full_report / "tables" / "who_is_right.csv.gz").is_file()
    assert 'href="who_is_right.html"' in (full_report / "index.html").read_text()


def test_the_pages_of_docs_are_pages_of_the_report(full_report):
    for path in (PROJECT / "docs").glob("*.md"):
        assert f'href="docs/{path.stem}.html"' in (full_report / "index.html").read_text()
    assert "n_qubits" in (full_report / "docs" / "study_keys.html").read_text()


@pytest.fixture(scope="module")
def visit(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@needs_browser
@pytest.mark.parametrize(
    ("page", "scheme"),
    [
        ("index", "light"),
        ("notebooks/07_results", "dark"),
        pytest.param("index", "dark", marks=pytest.mark.slow),
        pytest.param("who_is_right", "light", marks=pytest.mark.slow),
        pytest.param("notebooks/digits/02_train_variant-B", "light", marks=pytest.mark.slow),
    ],
)
def test_nothing_hinders_readers_seriously(full_report, visit, page, scheme):
    seen = visit((full_report / f"{page}.html").as_uri(), accessibility(), scheme=scheme)
    assert seen["returned"] == [] and seen["complaints"] == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in seen["requests"])


@needs_browser
@pytest.mark.parametrize("size", [(1400, 900), (390, 844)], ids=["laptop", "telephone"])
def test_the_first_screen_holds_the_answer_and_nothing_is_cut_off(full_report, visit, size):
    script = """(() => {
        const box = document.querySelector('.first-screen').getBoundingClientRect();
        const picture = document.querySelector('.first-screen img').getBoundingClientRect();
        return [box.top > 0, picture.bottom, picture.right, document.documentElement.scrollWidth];
    })()"""
    below_head, bottom, right, width = visit((full_report / "index.html").as_uri(), script, size=size)["returned"]
    assert below_head and bottom <= size[1] and right <= size[0] and width <= size[0]


@needs_browser
def test_tables_sort_and_filter(full_report, visit):
    script = """(async () => {
        const wait = (ms) => new Promise((done) => setTimeout(done, ms));
        document.querySelectorAll('details').forEach((each) => (each.open = true));
        const table = [...document.querySelectorAll('table')].find((t) => t.tHead.textContent.includes('dataset'));
        const first = () => table.tBodies[0].rows[0].cells[0].textContent;
        const before = first();
        const head = table.tHead.querySelector('th');
        for (const _ of [1, 2]) {
            (head.querySelector('[role=button], button') ?? head).click();
            await wait(200);
        }
        const after = first();
        const search = table.closest('.dt-container').querySelector('input');
        search.value = 'd07';
        search.dispatchEvent(new Event('input', {bubbles: true}));
        await wait(600);
        return [before, after, table.tBodies[0].rows.length];
    })()"""
    assert visit((full_report / "index.html").as_uri(), script)["returned"] == ["d00", "d11", 1]


@needs_browser
def test_a_figure_opens_large_and_closes(full_report, visit):
    script = """(() => {
        document.querySelector('figure.zoomable a').click();
        const dialog = document.querySelector('dialog.zoom');
        const opened = dialog.open && dialog.querySelector('img').alt.length > 10;
        dialog.querySelector('button').click();
        return [opened, dialog.open];
    })()"""
    assert visit((full_report / "index.html").as_uri(), script)["returned"] == [True, False]


@needs_browser
def test_on_paper_everything_is_open(full_report, visit):
    script = """(() => {
        const open = () => [...document.querySelectorAll('article details')].every((each) => each.open);
        const before = open();
        window.dispatchEvent(new Event('beforeprint'));
        return [before, open()];
    })()"""
    assert visit((full_report / "index.html").as_uri(), script)["returned"] == [False, True]
