"""ARCHITECTURE.md and the map in the README leave no room and no module out, and say of each what it says of itself."""

import ast
import re

import pytest

from qtl_utils.study.paths import PROJECT

PACKAGE = PROJECT / "qtl_utils"
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
MODULES = sorted(path for path in PACKAGE.glob("*/**/*.py") if path.name != "__init__.py")
TEXT = (PROJECT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_there_are_eight_rooms_and_both_maps_show_them():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert len(ROOMS) == 8
    assert set(re.findall(r"^\*\*(\w+)/\*\*", TEXT, re.MULTILINE)) == set(ROOMS)
    assert set(re.findall(r"^\| \[(\w+)\]\(qtl_utils/\w+\)", readme, re.MULTILINE)) == set(ROOMS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_is_on_the_map_in_its_own_words(path):
    first = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).splitlines()[0]
    assert f"({path.relative_to(PROJECT).as_posix()}) | {first} |" in TEXT


def test_every_module_and_file_that_is_named_exists():
    for name in re.findall(r"`((?:study|data|circuits|models|training|results|doctor|analyses)/[\w/]+)", TEXT):
        assert (PACKAGE / f"{name}.py").is_file(), name
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT):
        assert (PROJECT / link).exists(), link
