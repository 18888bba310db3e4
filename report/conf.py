# Settings of the report: offline, no execution, every warning an error (the caller passes -W).
from importlib.util import find_spec
from pathlib import Path

MATHJAX = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax" / "tex-svg.js"

project = "Quantum transfer learning study"
author = ""
copyright = ""
extensions = ["myst_nb"]
exclude_patterns = ["**.ipynb_checkpoints", "extra", "vendor"]

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "dollarmath", "colon_fence"]
myst_heading_anchors = 3

smartquotes = False  # --cores stays --cores

html_theme = "sphinx_book_theme"
html_title = project
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_static_path = [str(MATHJAX), "style.css", "report.js", "vendor/dataTables.min.js", "vendor/dataTables.min.css"]
html_css_files = ["dataTables.min.css", "style.css"]
html_js_files = [(name, {"defer": "defer"}) for name in ("dataTables.min.js", "report.js")]
html_extra_path = ["extra"] if (Path(__file__).parent / "extra").is_dir() else []  # figures and tables, as they are
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_last_updated_fmt = None
mathjax_path = "tex-svg.js"
mathjax_options = {"defer": "defer"}
html_theme_options = {
    "navbar_persistent": [],  # the search button of the theme needs a server
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
}
