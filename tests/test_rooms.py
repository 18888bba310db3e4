"""The rooms of the package and its face: who may import whom, and what is offered by name."""

import ast
import subprocess
import sys

import pytest

import qtl_utils
from qtl_utils.study.paths import PROJECT


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT).stdout


def test_imports_between_rooms_go_one_way():
    # the contracts of pyproject.toml, in a process of their own: the linter caches what it reads
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PROJECT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", qtl_utils.__all__)
def test_every_name_that_is_offered_can_be_had(name):
    assert getattr(qtl_utils, name) is not None


def test_editors_are_offered_the_same_names():
    tree = ast.parse((PROJECT / "qtl_utils" / "__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    shown = {alias.name: node.module for node in imports for alias in node.names if node.module != "typing"}
    assert shown == {name: f"qtl_utils.{home}" for name, home in qtl_utils._HOME.items()}
    assert set(qtl_utils.__all__) <= set(dir(qtl_utils))


def test_a_name_that_is_not_offered_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"no attribute 'fit_head'"):
        qtl_utils.fit_head  # noqa: B018


def test_importing_the_package_loads_next_to_nothing():
    code = "import sys; import qtl_utils; print(*sys.modules)"
    loaded = set(run(code).split())
    assert not loaded & {"torch", "pennylane", "numpy", "pandas", "pydantic"}


def test_variant_c_trains_without_pennylane():
    code = """
import sys
sys.modules["pennylane"] = None
import numpy as np, torch
from qtl_utils import TrainConfig, fit_heads, make_head
from qtl_utils.data.splits import Splits
from qtl_utils.models.heads import HeadSettings
from qtl_utils.training.fits import Rates, make_replicas

splits = Splits("repeated", np.array([["train"] * 6 + ["validation"] * 2]))
config = TrainConfig(variants=["C"], epochs=1)
replicas = make_replicas([0], 1, [Rates(0.1, 0.1, 0.1)])
build = lambda seed: make_head("C", HeadSettings(3, 2), seed)
fit = fit_heads(build, torch.randn(8, 3), np.arange(8) % 2, splits, replicas, config)
print(fit.logits["last"].shape)
"""
    assert run(code).split("\n")[-2] == "(1, 8, 2)"
