"""A report that can be sent: leaves out of what Sphinx has built what no page needs."""

import hashlib
import json
import re
import shutil
from pathlib import Path

LINK = re.compile(r"""((?:href|src)="(?:\.\./)*)((?:figures|tables)/[^"]+)""")
ICON = re.compile(r'class="fa-(?:solid|brands|regular) fa-([a-z0-9-]+)')
STYLED = re.compile(r'\s(?:id="T_[^"]*"|class="(?:data|col_heading|row_heading|blank)[^"]*")')  # pandas, on every cell
UNCOLOURED = re.compile(r'<span class="(?:n|p|w)">([^<]*)</span>')  # names, brackets and spaces
KEPT = re.compile(r"(<(?:pre|script|textarea)\b.*?</(?:pre|script|textarea)>)", re.DOTALL)
INDENT = re.compile(r"\n\s+(?=</?t[a-z]+[ >])")
EMPTY_STYLE = re.compile(r"<style type=\"text/css\">\s*</style>")
DRAW = """document.querySelectorAll('[class*="fa-"]').forEach((place) => {
  const name = [...place.classList].map((c) => c.slice(3)).find((c) => c in ICONS);
  if (!name) return;
  const [width, height, path] = ICONS[name];
  const size = 'height="1em" style="fill: currentColor; vertical-align: -0.125em; overflow: visible"';
  place.innerHTML = `<svg viewBox="0 0 ${width} ${height}" ${size} aria-hidden="true"><path d="${path}"/></svg>`;
  place.classList.remove("fa-solid", "fa-brands", "fa-regular");
});
"""


def lighten(built: Path) -> None:
    """Takes away source maps, translations, icons, tables that no page of the report uses, and second copies."""
    for path in [*built.rglob("*.map"), built / "objects.inv", *(built / "_static" / "locales").rglob("*.[mp]o")]:
        path.unlink(missing_ok=True)
    shutil.rmtree(built / "_sources", ignore_errors=True)
    text = ""
    twins = _twins(built / "figures") | _twins(built / "tables")
    for path in built.rglob("*.html"):
        page = LINK.sub(lambda link: link[1] + twins.get(link[2], link[2]), path.read_text(encoding="utf-8"))
        path.write_text(slim(page), encoding="utf-8")
        text += page
    for name in twins:
        (built / name).unlink()
    linked = set(re.findall(r'href="[^"]*tables/([^"/]+)"', text))
    for path in (built / "tables").glob("*"):
        if path.name not in linked:
            path.unlink()
    for face in ("brands", "regular"):
        if f'"fa-{face} ' not in text:
            (built / "_static" / "vendor" / "fontawesome" / "webfonts" / f"fa-{face}-400.woff2").unlink(missing_ok=True)
    few_icons(built / "_static" / "scripts" / "fontawesome.js", sorted(set(ICON.findall(text))))


def _twins(folder: Path) -> dict[str, str]:
    """Files of `folder` that are another one again, and which: "figures/b.png" -> "figures/a.png".

    The shortest name is kept: that of the study, rather than that of a copy made for a page.
    """
    first, found = {}, {}
    for path in sorted(filter(Path.is_file, folder.glob("*")), key=lambda path: (len(path.name), path.name)):
        kept = first.setdefault((hashlib.sha256(path.read_bytes()).digest(), path.suffix), path)
        if kept is not path:
            found[f"{folder.name}/{path.name}"] = f"{folder.name}/{kept.name}"
    return found


def slim(page: str) -> str:
    """A page without the spaces that lines begin with, but for those of code, and without marks of uncoloured code."""
    parts = KEPT.split(UNCOLOURED.sub(r"\1", page))
    return "".join(part if number % 2 else re.sub(r"\n\s+", "\n", part) for number, part in enumerate(parts))


def few_icons(library: Path, wanted: list[str]) -> None:
    """Cuts the icon library down to the icons that are `wanted`; left as it is where one of them is not found."""
    if not library.is_file():
        return
    icons = {}
    text = library.read_text(encoding="utf-8")
    for name in wanted:
        found = re.search(rf'[{{,]"?{name}"?:\[(\d+),(\d+),\[[^\]]*\],"[0-9a-f]+","([^"]+)"\]', text)
        if found is None:
            return
        icons[name] = [int(found[1]), int(found[2]), found[3]]
    head = "/*! Icons: Font Awesome Free, https://fontawesome.com/license/free (CC BY 4.0) */"
    library.write_text(f"{head}\nconst ICONS = {json.dumps(icons)};\n{DRAW}", encoding="utf-8")


def plain_table(page: str) -> str:
    """HTML of a table without indents, and without the names of its cells where pandas says nothing of these names."""
    if page.count("<style") == len(EMPTY_STYLE.findall(page)):
        page = STYLED.sub("", EMPTY_STYLE.sub("", page))
    return INDENT.sub("\n", page)
