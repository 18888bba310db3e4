"""A report holds what its pages use, and no more."""

from qtl_utils.results import report_size

LIBRARY = (
    'x={"moon":[512,512,[9789],"f186","M239 48z"],sun:[576,512,[],"f185","M288-32z"],bars:[448,512,[],"f0c9","M0z"]}'
)


def built(folder):
    for name, text in {
        "index.html": '<i class="fa-solid fa-moon fa-lg"></i><a href="tables/a.csv">',
        "notebooks/x.html": '<a href="../tables/b.csv"><span class="fa-solid fa-sun"></span>',
        "tables/a.csv": "a",
        "tables/b.csv": "b",
        "tables/c.csv": "c",
        "_static/scripts/x.js": "x",
        "_static/scripts/x.js.map": "x",
        "_static/scripts/fontawesome.js": LIBRARY,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_what_no_page_uses_is_left_out(tmp_path):
    report_size.lighten(built(tmp_path))
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"tables/a.csv", "tables/b.csv", "_static/scripts/x.js"} <= left
    assert not left & {"tables/c.csv", "_static/scripts/x.js.map"}
    icons = (tmp_path / "_static" / "scripts" / "fontawesome.js").read_text()
    assert "M239 48z" in icons and "M288-32z" in icons and "M0z" not in icons


def test_a_library_without_an_icon_stays_whole(tmp_path):
    library = tmp_path / "fontawesome.js"
    library.write_text(LIBRARY)
    report_size.few_icons(library, ["moon", "gone"])
    assert library.read_text() == LIBRARY


def test_a_table_of_pandas_loses_names_that_nothing_is_said_of():
    cell = '<td id="T_1_row0" class="data row0 col0" >1</td>'
    table = f'<style type="text/css">\n</style><table id="T_1">\n  <tr>\n    {cell}\n</table>'
    assert report_size.plain_table(table) == "<table>\n<tr>\n<td >1</td>\n</table>"
    coloured = table.replace("\n</style>", "#T_1_row0 {color: red}</style>")
    assert 'id="T_1_row0"' in report_size.plain_table(coloured)
    assert report_size.plain_table("<pre>\n  <b>x</b></pre>") == "<pre>\n  <b>x</b></pre>"


def test_indents_are_kept_in_code_only():
    page = "<ul>\n    <li>a</li>\n</ul>\n<pre>def f():\n    return 1</pre>\n  <p>b</p>"
    assert report_size.slim(page) == "<ul>\n<li>a</li>\n</ul>\n<pre>def f():\n    return 1</pre>\n<p>b</p>"


def test_only_coloured_code_is_marked():
    page = (
        '<pre><span class="k">def</span><span class="w"> </span><span class="n">f</span><span class="p">()</span></pre>'
    )
    assert report_size.slim(page) == '<pre><span class="k">def</span> f()</pre>'


def test_a_second_copy_is_left_out_and_its_links_lead_to_the_first(tmp_path):
    built(tmp_path)
    (tmp_path / "figures").mkdir()
    for name, data in {"of-a.png": b"1", "b.png": b"1", "c.png": b"2"}.items():
        (tmp_path / "figures" / name).write_bytes(data)
    (tmp_path / "index.html").write_text('<img src="figures/of-a.png"><a href="figures/c.png"><a href="tables/a.csv">')
    (tmp_path / "notebooks" / "x.html").write_text('<img src="../figures/of-a.png">')
    report_size.lighten(tmp_path)
    assert (tmp_path / "index.html").read_text().startswith('<img src="figures/b.png"><a href="figures/c.png">')
    assert (tmp_path / "notebooks" / "x.html").read_text() == '<img src="../figures/b.png">'
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"b.png", "c.png"}
