"""ARCHITECTURE.md and the map in the README leave no room and no module out, and say of each what it says of itself."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

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


def test_every_module_is_linted_and_formatted():
    def ruff(*command):
        told = [sys.executable, "-m", "ruff", *command, str(PROJECT)]
        return subprocess.run(told, capture_output=True, text=True, check=False, cwd=PROJECT)

    looked_at = ruff("check", "--show-files").stdout.splitlines()
    assert {str(path) for path in MODULES} <= set(looked_at)
    for command in (("check",), ("format", "--check")):
        done = ruff(*command)
        assert done.returncode == 0, done.stdout


def test_every_package_that_is_imported_is_asked_for():
    """A package that comes with another one today may not tomorrow."""
    asked = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    asked = {re.match(r"[\w.-]+", line).group().lower().replace("_", "-") for line in asked}
    of = {name: {dist.lower().replace("_", "-") for dist in dists} for name, dists in packages_distributions().items()}
    unasked = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"qtl_utils"}:
                if not of.get(name, {name}) & asked:
                    unasked.add((path.name, name))
    assert not unasked
