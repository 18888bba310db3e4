"""QTL study: deep learning with quantum and classical parameters, compared, taken apart and troubleshot.

What notebooks and scripts need is offered here by name and loaded when it is first used; importing the package alone
loads neither torch nor PennyLane. ARCHITECTURE.md says what lies in which room.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:  # for type checkers and editors; `_HOME` says the same to Python
    from qtl_utils.circuits.ansatze import ANSATZE, ENCODINGS, Ansatz, Encoding, make_circuit
    from qtl_utils.circuits.devices import DEVICES
    from qtl_utils.circuits.layer import QuantumLayer, evaluated_on, with_simulator
    from qtl_utils.circuits.simulators import METHODS, SIMULATORS
    from qtl_utils.circuits.statevector import Statevector
    from qtl_utils.data.datasets import DATASETS, load_dataset
    from qtl_utils.data.splits import make_splits
    from qtl_utils.doctor import CHECKS, FIXES, diagnose, explain, repair, watch
    from qtl_utils.models.backbones import BACKBONES
    from qtl_utils.models.heads import VARIANTS, Variant, make_head
    from qtl_utils.results.claims import Claims
    from qtl_utils.results.page import Page
    from qtl_utils.results.runs import read_runs
    from qtl_utils.study.config import BackboneConfig, DataConfig, RunConfig, TrainConfig
    from qtl_utils.study.errors import checked
    from qtl_utils.study.notebook import show_source
    from qtl_utils.training.inputs import open_inputs
    from qtl_utils.training.many import fit_heads
    from qtl_utils.training.run import run_variant, save_run
    from qtl_utils.training.trained_head import predict
    from qtl_utils.training.whole import fit_network

_HOME = {
    "ANSATZE": "circuits.ansatze",
    "ENCODINGS": "circuits.ansatze",
    "Ansatz": "circuits.ansatze",
    "Encoding": "circuits.ansatze",
    "make_circuit": "circuits.ansatze",
    "DEVICES": "circuits.devices",
    "QuantumLayer": "circuits.layer",
    "evaluated_on": "circuits.layer",
    "with_simulator": "circuits.layer",
    "METHODS": "circuits.simulators",
    "SIMULATORS": "circuits.simulators",
    "Statevector": "circuits.statevector",
    "DATASETS": "data.datasets",
    "load_dataset": "data.datasets",
    "make_splits": "data.splits",
    "CHECKS": "doctor",
    "FIXES": "doctor",
    "diagnose": "doctor",
    "explain": "doctor",
    "repair": "doctor",
    "watch": "doctor",
    "BACKBONES": "models.backbones",
    "VARIANTS": "models.heads",
    "Variant": "models.heads",
    "make_head": "models.heads",
    "Claims": "results.claims",
    "Page": "results.page",
    "read_runs": "results.runs",
    "BackboneConfig": "study.config",
    "DataConfig": "study.config",
    "RunConfig": "study.config",
    "TrainConfig": "study.config",
    "show_source": "study.notebook",
    "checked": "study.errors",
    "open_inputs": "training.inputs",
    "fit_heads": "training.many",
    "predict": "training.trained_head",
    "run_variant": "training.run",
    "save_run": "training.run",
    "fit_network": "training.whole",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'qtl_utils' has no attribute '{name}'; dir(qtl_utils) lists what it offers")
    return getattr(importlib.import_module(f"qtl_utils.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
