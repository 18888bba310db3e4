"""What ships with the package: small files of features and weights, each with a card that says how it was made.

`qtl_utils/training/ship.py` makes them. No torch.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.numpy

FOLDER = Path(__file__).parents[1] / "data" / "shipped"
FEATURES = "features"
WEIGHTS = "weights"  # what a file may hold: the `kind` of its card


def read_card(name: str) -> dict[str, Any]:
    """The card of `name`; KeyError where nothing of that name ships."""
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        raise KeyError(f"nothing ships as '{name}'; known: {', '.join(names())}")
    return json.loads(path.read_text(encoding="utf-8"))


def names(kind: str | None = None) -> list[str]:
    """What ships, sorted; of one `kind`, FEATURES or WEIGHTS, or all."""
    found = sorted(path.stem for path in FOLDER.glob("*.json"))
    return [name for name in found if kind in (None, read_card(name)["kind"])]


def path_of(name: str) -> Path:
    """The file of `name`; ValueError where it is not the one that its card describes."""
    path = FOLDER / f"{name}.safetensors"
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "none, the file is missing"
    if found != read_card(name)["sha256"]:
        raise ValueError(f"{path}: SHA-256 {found} is not the one of its card; install the package again")
    return path


def read_arrays(name: str) -> dict[str, Any]:
    """The arrays in the file of `name`."""
    return safetensors.numpy.load_file(path_of(name))
