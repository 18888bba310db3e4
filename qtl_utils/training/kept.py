"""Finished trainings in files, under names that change with what they depend on."""

import hashlib
from importlib.metadata import version
from pathlib import Path

import safetensors.torch
import torch

from qtl_utils.study import extensions
from qtl_utils.study.notebook import module_hash, modules_used
from qtl_utils.study.paths import PACKAGE, atomic
from qtl_utils.training.fits import Fit, Replica


def training_key(variant, inputs, config, replica) -> str:
    """A hash of everything that one training of a whole network depends on."""
    content = [variant, repr(replica), config.model_dump_json(exclude={"variants", "seeds", "first_seed", "lr_grid"})]
    content.append(code_of("training/variants.py"))
    arrays = (inputs.splits.subsets, inputs.pixels, inputs.data.labels)
    sha = hashlib.sha256("".join(content).encode() + b"".join(array.tobytes() for array in arrays))
    for value in inputs.source(replica.split).state.values():
        sha.update(value.numpy().tobytes())
    return sha.hexdigest()[:12]


def code_of(module: str) -> str:
    """What a stored result depends on besides its inputs: the code of `module` and of all it uses, and versions."""
    path = PACKAGE / module
    versions = [version(name) for name in ("torch", "torchvision", "pennylane")]
    return "\n".join(
        [module_hash(file) for file in (path, *modules_used(path))] + [*versions, *extensions.hashes().values()]
    )


def write_fit(fit: Fit, file: Path) -> None:
    """Keeps a finished training in `file`, and deletes the unfinished one beside it."""
    arrays = {"history": fit.history, "best_epoch": fit.best_epoch, "seconds": fit.seconds}
    arrays |= {f"logits.{kind}": logits for kind, logits in fit.logits.items()}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with atomic(file) as part:
        safetensors.torch.save_file(tensors | {f"weights.{k}": v.contiguous() for k, v in fit.weights.items()}, part)
    file.with_suffix(".part").unlink(missing_ok=True)


def read_fit(file: Path, replica: Replica) -> Fit:
    """The training that `write_fit` kept."""
    tensors = safetensors.torch.load_file(file)
    part = {k: {n.removeprefix(k): v for n, v in tensors.items() if n.startswith(k)} for k in ("logits.", "weights.")}
    arrays = {name: tensors[name].numpy() for name in ("history", "best_epoch", "seconds")}
    logits = {kind: values.numpy() for kind, values in part["logits."].items()}
    return Fit((replica,), logits=logits, weights=part["weights."], **arrays)
