"""The published weights of a dressed circuit, looked at: did its angles learn anything?"""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import chi2

from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.data.images import fetch
from qtl_utils.models.backbones import read_weights
from qtl_utils.study.paths import user_path

URL = "https://raw.githubusercontent.com/XanaduAI/quantum-transfer-learning/master/quantum_processors"
FILE = "quantum_weights.pt"
N_QUBITS = 4
DEPTH = 6
SCALE = 0.01  # standard deviation of the initial angles, radians
SHAPES = {"pre_net.weight": (4, 512), "pre_net.bias": (4,), "q_params": (60,)}
SHAPES |= {"post_net.weight": (2, 4), "post_net.bias": (2,)}


def find_checkpoint(where: str | Path, folder: Path, base_url: str = URL) -> Path:
    """The checkpoint's path: `where` itself, or, for "download", the file fetched once into `folder`.

    FileNotFoundError where there is no such file or no network.
    """
    if where != "download":
        path = user_path(where)
        if not path.is_file():
            raise FileNotFoundError(f"checkpoint: there is no file '{where}'; give a .pt file, or 'download'")
        return path
    import pooch  # as in images.fetch

    pooch.get_logger().setLevel("WARNING")  # a few kilobytes need no line of progress
    return fetch(base_url, FILE, Path(folder), None, "download it by hand and give checkpoint: FILE", retries=0)


def read_checkpoint(where: str | Path, folder: Path, base_url: str = URL) -> dict[str, torch.Tensor]:
    """The tensors of the published head: pre_net, q_params (60,), post_net; `where` as in `find_checkpoint`.

    ValueError where the file holds something else; a download that does is removed.
    """
    path = find_checkpoint(where, folder, base_url)
    try:
        return checked(read_weights(path), path)
    except ValueError:
        if where == "download":
            path.unlink()
        raise


def checked(state: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """`state`, if it is that of the 4-qubit head of 2019."""
    for name, shape in SHAPES.items():
        found = tuple(state[name].shape) if name in state else None
        if found != shape:
            text = f"has the shape {found}" if found else "is missing"
            raise ValueError(f"{path}: {name} {text}, expected {shape}; this is no checkpoint of 2019's 4-qubit head")
    return state


def angles(state: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """The 24 angles the circuit uses, (6, 4), and the 36 it never reads: rows 1 to 6 of 15, and the others."""
    rows = state["q_params"].double().numpy().reshape(15, N_QUBITS)
    used = np.zeros(15, bool)
    used[1 : 1 + DEPTH] = True
    return rows[used], rows[~used]


def scale_table(state: dict[str, torch.Tensor]) -> pd.DataFrame:
    """Root mean square of used and unused angles beside what 95 % of untrained draws of as many would show."""
    rows = []
    for name, values in zip(("used by the circuit", "never used"), angles(state), strict=True):
        low, high = SCALE * np.sqrt(chi2.ppf([0.025, 0.975], values.size) / values.size)
        rms = float(np.sqrt(np.mean(values**2)))
        rows.append({"angles": name, "n": values.size, "rms": rms, "untrained_low": low, "untrained_high": high})
    return pd.DataFrame(rows)


@torch.no_grad()
def decisions_changed(state: dict[str, torch.Tensor], n: int = 100_000, seed: int = 0) -> float:
    """The share of decisions that differ once all angles are zero, over inputs uniform in [-pi/2, pi/2]^4."""
    generator = torch.Generator().manual_seed(seed)
    inputs = math.pi * (torch.rand(n, N_QUBITS, generator=generator, dtype=torch.float64) - 0.5)
    layer = QuantumLayer(N_QUBITS, DEPTH).double()
    trained = torch.from_numpy(angles(state)[0])
    weight = state["post_net.weight"].double()
    bias = state["post_net.bias"].double()
    decided = []
    for values in (trained, torch.zeros_like(trained)):
        layer.weights.copy_(values)
        decided.append((layer(inputs) @ weight.T + bias).argmax(-1))
    return float((decided[0] != decided[1]).double().mean())


def angle_table(state: dict[str, torch.Tensor]) -> pd.DataFrame:
    """One row per angle: kind and value in radians."""
    kinds = zip(("used by the circuit", "never used"), angles(state), strict=True)
    return pd.concat([pd.DataFrame({"kind": kind, "angle": values.ravel()}) for kind, values in kinds])


def sentences(state: dict[str, torch.Tensor]) -> list[str]:
    """What the checkpoint shows, in words."""
    used, unused = scale_table(state).to_dict("records")
    where = "inside" if used["untrained_low"] <= used["rms"] <= used["untrained_high"] else "outside"
    return [
        f"The {used['n']} angles that the circuit uses have a root mean square of {used['rms']:.4f} rad, the "
        f"{unused['n']} it never reads {unused['rms']:.4f}; they were drawn with {SCALE}.",
        f"95 % of untrained draws of {used['n']} angles lie in [{used['untrained_low']:.4f}, "
        f"{used['untrained_high']:.4f}], and the used ones are {where} of it: {np.degrees(used['rms']):.2f} degrees.",
        f"With all angles at zero, {100 * decisions_changed(state):.2f} % of decisions over uniform inputs change.",
    ]
