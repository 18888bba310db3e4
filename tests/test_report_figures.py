"""Figures of the report say what to see, in words too, and lead to their numbers."""

import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from qtl_utils.results import report_figures
from qtl_utils.results.report_figures import Told
from qtl_utils.study.paths import PROJECT

TABLES = PROJECT / "results" / "reference" / "default" / "tables"


def cells_with_figures():
    """(notebook, source) of every code cell that shows a figure of ours."""
    for path in sorted((PROJECT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and report_figures.FUNCTION.search(source):
                yield path.stem, source


FIGURES = list(cells_with_figures())


@pytest.mark.parametrize(("notebook", "source"), FIGURES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(FIGURES)])
def test_every_figure_of_a_notebook_has_a_caption_of_its_own(notebook, source):
    told = report_figures.of_cell(source, "", TABLES)
    assert re.match(r"[A-Z\"{0-9].*[.:)]?$", told.caption) and len(told.caption) > 25
    assert "data.Dataset" not in told.caption.replace("data.Dataset", "", 1)


@pytest.mark.parametrize("name", ["family", "gradient_stages", "simulator_matrix", "attribution_ladder", "repair"])
def test_a_figure_leads_to_its_numbers(name):
    (source,) = [source for _, source in FIGURES if f'figures["{name}"] = ' in source]
    told = report_figures.of_cell(source, "", TABLES)
    assert (TABLES / told.table).is_file()
    assert told.alt.startswith(told.caption) and re.search(r"from -?\d.* to -?\d|rows of", told.alt)


def test_a_figure_of_no_function_of_ours_is_told_by_its_section(tmp_path):
    assert report_figures.of_cell("plt.plot(x)", "My section", tmp_path) == Told("My section", "My section")
    assert report_figures.of_cell("own_plots.waves(x)", "Mine", tmp_path).caption == "Mine"


def test_a_table_in_words_names_its_ends(tmp_path):
    file = tmp_path / "t.csv"
    pd.DataFrame({"variant": ["A", "C"], "value": [0.5, -0.25], "low": [0, 0]}).to_csv(file, index=False)
    assert report_figures.in_words(file) == "value from -0.25 (C) to 0.5 (A); 2 values."


def test_the_html_of_a_figure_is_one_line_and_escaped():
    html = report_figures.figure("figures/f.png", Told('a < "b"', 'x "y"', "t.csv"), "../")
    assert "\n" not in html and 'alt="x &quot;y&quot;"' in html and "a &lt; &quot;b&quot;" in html
    assert 'href="../figures/f.png"' in html and 'href="../tables/t.csv"' in html


def test_pictures_become_smaller_and_look_the_same(tmp_path):
    pixels = np.full((200, 300, 4), 255, np.uint8)
    pixels[50:100, :, :3] = np.linspace(0, 255, 300, dtype=np.uint8)[None, :, None]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    report_figures.save_small(file.getvalue(), tmp_path / "figures" / "f.png")
    with Image.open(tmp_path / "figures" / "f.png") as small:
        found = np.asarray(small.convert("RGB")).astype(int)
    assert abs(found - pixels[..., :3]).max() <= 4
    assert (tmp_path / "figures" / "f.png").stat().st_size < len(file.getvalue())
