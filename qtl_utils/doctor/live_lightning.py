"""The watch as a callback of Lightning, which is imported where a callback is made and nowhere else."""

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace

import pandas as pd
import torch

from qtl_utils.doctor.findings import Diagnosis, skipped

PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def make(watch: Callable, **options):
    """A callback that calls `watch(module, optimizer, **options)` when training begins."""
    return type("LightningWatch", (_Watching, _callback_class()), {"__doc__": _Watching.__doc__})(watch, options)


def _callback_class() -> type:
    """Lightning's base class, of the package that is loaded already where both are installed."""
    for name in sorted(PACKAGES, key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(name).Callback
        except ModuleNotFoundError:
            continue
    raise ImportError("the callback needs Lightning, which is not installed: pip install lightning")


class _Watching:
    """Watches a training of Lightning's: `findings` and `table` are those of the last one."""

    def __init__(self, watch: Callable, options: Mapping):
        super().__init__()
        self._make = watch
        self._options = options
        self.watch = None

    def on_train_start(self, trainer, pl_module) -> None:
        optimizers = trainer.optimizers
        if len(optimizers) != 1:
            raise ValueError(f"the callback follows one optimiser, and the module has {len(optimizers)}: watch by hand")
        self.watch = self._make(pl_module, optimizers[0], **self._options)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is None:
            return
        parts = getattr(trainer, "accumulate_grad_batches", 1) or 1
        if isinstance(loss, torch.Tensor) and parts > 1:  # Lightning divides it by the batches that make a step
            loss = loss.detach() * parts
        self.watch.step(loss)

    def on_train_end(self, trainer, pl_module) -> None:
        self.watch.close()

    def on_exception(self, trainer, pl_module, exception) -> None:
        if self.watch is not None:
            self.watch.__exit__(type(exception), exception, None)

    @property
    def findings(self) -> Diagnosis:
        if self.watch is None:
            return Diagnosis((replace(skipped("no training was watched yet"), check="live"),))
        return self.watch.findings

    @property
    def table(self) -> pd.DataFrame:
        if self.watch is None:
            raise RuntimeError("no training was watched yet: give the callback to a Trainer and fit")
        return self.watch.table
