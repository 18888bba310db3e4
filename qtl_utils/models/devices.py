"""Where torch computes, and what it draws: devices and seeds."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

FUSED = ("cpu", "cuda", "mps", "xpu")  # devices on which torch's optimisers take a step in one pass over the memory


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch. Code that draws its own numbers should take a generator instead."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def build_seeded(build: Callable[[], Any], seed: int) -> Any:
    """The module that `build()` makes, in float32, with initial weights of `seed` that every processor draws alike.

    They are drawn in float64 and rounded: the last digits of a draw depend on the vector instructions that make it.
    torch's generator is left as it was.
    """
    default = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone: torch.manual_seed takes longer than a head
        torch.set_default_dtype(torch.float64)
        try:
            return build().float()
        finally:
            torch.set_default_dtype(default)


def find_device(name: str = "auto"):
    """The torch device of that name; 'auto' is the accelerator if there is one, else the CPU.

    Raises ValueError where this machine has no such device.
    """
    present = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return present or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: '{name}' is no device; give cpu, auto, cuda or mps") from None
    if device.type == "cpu" or (present is not None and device.type == present.type):
        return device
    has = f"cpu and {present.type}" if present is not None else "only cpu"
    raise ValueError(f"device: this machine has no '{name}', {has}; set device: auto to take what there is")
