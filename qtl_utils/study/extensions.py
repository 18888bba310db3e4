"""Files of the user's that add rows to registries: variants, ansätze, encodings, data sets, backbones, checks, faults.

A study names them (`extensions: [mine.py]`), the doctor is given them (`--extension FILE`). They are imported before
names are checked, once in every process, and hashed as our own modules are.
"""

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from qtl_utils.study.errors import StudyError
from qtl_utils.study.notebook import module_hash
from qtl_utils.study.paths import user_path

VARIABLE = "QTL_EXTENSIONS"  # tells a notebook's kernel which files to import, separated as in PATH
_loaded: dict[Path, str] = {}  # file -> hash of its code when it was imported


def load(files: Sequence[str | Path]) -> None:
    """Imports extension `files` that are not imported yet; StudyError says which one cannot be, and why."""
    for file in files:
        path = user_path(file).resolve()
        if path in _loaded:
            continue
        if path.suffix != ".py" or not path.is_file():
            raise StudyError(f"extensions: there is no Python file '{file}'; give the path of a .py file")
        spec = importlib.util.spec_from_file_location(f"qtl_extension_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # functions of it can be pickled
        sys.path.append(str(path.parent))  # it may import its neighbours
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever a user's file raises
            where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            told = f"{type(error).__name__}: {error}"
            raise StudyError(
                f"extensions: {file}{where} cannot be imported ({told}); mend it, or leave it out"
            ) from error
        _loaded[path] = module_hash(path)


def load_named() -> None:
    """Imports what the environment names: in a notebook's kernel, the extensions of its study."""
    load([file for file in os.environ.get(VARIABLE, "").split(os.pathsep) if file])


def environment(files: Sequence[str | Path]) -> dict[str, str]:
    """The variable that tells a kernel to import `files`."""
    return {VARIABLE: os.pathsep.join(str(user_path(file).resolve()) for file in files)} if files else {}


def hashes(files: Sequence[str | Path] | None = None) -> dict[str, str]:
    """Hash of the code by name of file: of `files`, or of what was imported so far."""
    if files is None:
        return {path.name: value for path, value in _loaded.items()}
    paths = [user_path(file) for file in files]
    return {path.name: module_hash(path) if path.is_file() else "gone" for path in paths}
