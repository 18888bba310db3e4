"""Heads on top of a backbone's features, and the variants of the study: quantum head, controls, ablations.

PennyLane takes seconds to load, and classical heads do without: what needs circuits imports them where it builds them.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from qtl_utils.models.devices import build_seeded
from qtl_utils.study.names import find


@dataclass(frozen=True)
class HeadSettings:
    """What a head is built from; one value serves every variant."""

    n_features: int
    n_classes: int
    n_qubits: int = 4
    depth: int = 6
    ansatz: str = "mari2019"
    encoding: str = "tanh"
    angle_init: float = 0.01  # radians
    simulator: str = "statevector"
    diff_method: str | None = None  # the simulator's own
    device_name: str | None = None  # of simulator 'device'
    shots: int | None = None  # of simulators that draw them


@dataclass(frozen=True)
class Variant:
    """A row of the comparison: is the backbone trained, which head, and when it cannot be built (a reason, or '')."""

    training: str  # "frozen" or "full"
    head: Callable[[HeadSettings], nn.Module]
    about: str
    refuses: Callable[[HeadSettings], str] = lambda settings: ""
    circuit: bool = False  # has trainable angles: tuned over lr_quantum too


class Squash(nn.Module):
    """Features to angles in radians, as the encoding asks: tanh(x) * pi/2 in the 2019 model."""

    def __init__(self, encoding: str):
        super().__init__()
        from qtl_utils.circuits.ansatze import ENCODINGS

        self.encoding = encoding
        self.function = find("encoding", encoding, ENCODINGS).squash

    def forward(self, x):
        return self.function(x)

    def extra_repr(self):
        return self.encoding


class TrigonometricFeatures(nn.Module):
    """Products of one of (1, cos, sin) per angle: (..., n) -> (..., 3^n).

    A circuit that every input angle enters once is a linear map of these at any depth, so with a linear layer on
    top they contain it exactly.
    """

    def forward(self, angles):
        out = torch.ones_like(angles[..., :1])
        for i in range(angles.shape[-1]):
            a = angles[..., i : i + 1]
            basis = torch.cat([torch.ones_like(a), a.cos(), a.sin()], dim=-1)  # (..., 3)
            out = (out[..., :, None] * basis[..., None, :]).flatten(-2)
        return out


class Beside(nn.Module):
    """A bypass: what goes into a module beside what comes out, (..., n) -> (..., n + m)."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return beside(x, self.inner(x))


def beside(x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """`x` (..., n) and `out` (..., m) as one (..., n + m); where all replicas share `x`, it is repeated."""
    return torch.cat([x.expand(*out.shape[:-1], x.shape[-1]), out], dim=-1)


def quantum_head(s: HeadSettings, angles="trained", ansatz=None) -> nn.Module:
    """Linear -> angles -> circuit -> Linear: the dressed quantum circuit of arXiv:1912.08278."""
    from qtl_utils.circuits.layer import QuantumLayer

    # the classical layers are drawn first, so that they start alike in every head of this width
    pre = nn.Linear(s.n_features, s.n_qubits)
    post = nn.Linear(s.n_qubits, s.n_classes)
    layer = QuantumLayer(
        s.n_qubits,
        s.depth,
        ansatz or s.ansatz,
        s.encoding,
        s.angle_init,
        angles,
        s.simulator,
        s.diff_method,
        device_name=s.device_name,
        shots=s.shots,
    )
    return nn.Sequential(pre, Squash(s.encoding), layer, post)


def bypass_head(s: HeadSettings, angles="trained", circuit=True) -> nn.Module:
    """The quantum head whose last layer sees the circuit's input angles beside its outputs."""
    pre, squash, layer, _ = quantum_head(s, angles)
    post = nn.Linear(2 * s.n_qubits, s.n_classes)
    return nn.Sequential(pre, squash, Beside(layer if circuit else nn.Identity()), post)


def skip_head(s: HeadSettings, angles="trained", circuit=True) -> nn.Module:
    """The quantum head whose last layer sees the features beside the circuit's outputs: A and C in one."""
    pre, squash, layer, _ = quantum_head(s, angles)
    inner = nn.Sequential(pre, squash, layer) if circuit else nn.Sequential(pre, squash)
    return nn.Sequential(Beside(inner), nn.Linear(s.n_features + s.n_qubits, s.n_classes))


def linear_head(s: HeadSettings) -> nn.Module:
    return nn.Linear(s.n_features, s.n_classes)


def bottleneck_head(s: HeadSettings, activation: Callable[[], nn.Module], width: int | None = None) -> nn.Module:
    """Linear -> activation -> Linear, as wide as the quantum head unless `width` says otherwise."""
    width = width or s.n_qubits
    return nn.Sequential(nn.Linear(s.n_features, width), activation(), nn.Linear(width, s.n_classes))


def no_circuit_head(s: HeadSettings) -> nn.Module:
    """The quantum head with its circuit taken out: Linear -> angles -> Linear."""
    return nn.Sequential(nn.Linear(s.n_features, s.n_qubits), Squash(s.encoding), nn.Linear(s.n_qubits, s.n_classes))


def surrogate_head(s: HeadSettings) -> nn.Module:
    return nn.Sequential(
        nn.Linear(s.n_features, s.n_qubits),
        Squash(s.encoding),
        TrigonometricFeatures(),
        nn.Linear(3**s.n_qubits, s.n_classes),
    )


def block_head(s: HeadSettings) -> nn.Module:
    """The all-classical partner of the published 2-D tasks: a square layer stands where the circuit was."""
    n = s.n_qubits
    return nn.Sequential(nn.Linear(s.n_features, n), nn.Tanh(), nn.Linear(n, n), nn.Tanh(), nn.Linear(n, s.n_classes))


def _surrogate_refuses(s: HeadSettings) -> str:
    if s.n_qubits > 6:
        return f"3^{s.n_qubits} trigonometric products at n_qubits = {s.n_qubits}; the surrogate stops at 6"
    from qtl_utils.circuits.ansatze import ANSATZE

    if find("ansatz", s.ansatz, ANSATZE).uses_inputs:
        return f"ansatz '{s.ansatz}' encodes each input more than once, so products of (1, cos, sin) do not contain it"
    return ""


VARIANTS: dict[str, Variant] = {
    "A": Variant("frozen", quantum_head, "frozen backbone, dressed quantum circuit", circuit=True),
    "B": Variant("full", linear_head, "fully trained backbone, linear head"),
    "C": Variant("frozen", linear_head, "frozen backbone, linear head"),
    "A-joint": Variant("full", quantum_head, "backbone and circuit trained together, end to end", circuit=True),
    "C-matched": Variant("frozen", partial(bottleneck_head, activation=nn.Tanh), "Linear-tanh-Linear of A's width"),
    "C-matched-relu": Variant("frozen", partial(bottleneck_head, activation=nn.ReLU), "the same with ReLU"),
    "C-wide": Variant(
        "frozen", partial(bottleneck_head, activation=nn.ReLU, width=512), "Linear-ReLU-Linear, 512 wide"
    ),
    "C-block": Variant("frozen", block_head, "three linear layers with tanh: the published 2-D tasks' classical net"),
    "A-zero": Variant("frozen", partial(quantum_head, angles="zero"), "A with its angles fixed at 0"),
    "A-frozen": Variant("frozen", partial(quantum_head, angles="random"), "A with untrained angles from U[0, 2 pi]"),
    "A-separable": Variant(
        "frozen", partial(quantum_head, ansatz="separable"), "A without entangling gates", circuit=True
    ),
    "A-none": Variant("frozen", no_circuit_head, "A with its circuit removed"),
    "A-bypass": Variant("frozen", bypass_head, "A whose last layer sees the circuit's input angles too", circuit=True),
    "A-zero-bypass": Variant("frozen", partial(bypass_head, angles="zero"), "A-bypass with its angles fixed at 0"),
    "A-none-bypass": Variant("frozen", partial(bypass_head, circuit=False), "A-bypass with its circuit removed"),
    "A-skip": Variant("frozen", skip_head, "A whose last layer sees the features too", circuit=True),
    "A-zero-skip": Variant("frozen", partial(skip_head, angles="zero"), "A-skip with its angles fixed at 0"),
    "A-none-skip": Variant("frozen", partial(skip_head, circuit=False), "A-skip with its circuit removed"),
    "A-joint-bypass": Variant("full", bypass_head, "backbone and A-bypass trained together", circuit=True),
    "A-surrogate": Variant("frozen", surrogate_head, "an exact classical superset of A's circuit", _surrogate_refuses),
}


def make_head(variant: str, settings: HeadSettings, seed: int) -> nn.Module:
    """The head of `variant` with the initial weights of `seed`, which variants share layer by layer where they can."""
    found = find("variant", variant, VARIANTS)
    if reason := found.refuses(settings):
        raise ValueError(f"variant '{variant}' cannot be built: {reason}")
    return build_seeded(partial(found.head, settings), seed)


def is_circuit(module: nn.Module) -> bool:
    """Whether a module is a QuantumLayer, asked without loading PennyLane."""
    return getattr(module, "is_circuit", False)


def circuit_angles(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable angles of a model, by parameter name."""
    layers = {name: module for name, module in model.named_modules() if is_circuit(module)}
    names = {f"{name}.weights" if name else "weights" for name in layers}
    return {name: p for name, p in model.named_parameters() if name in names}


def count_parameters(model: nn.Module, sample: torch.Tensor, draws: int = 3) -> dict[str, int]:
    """Parameters of `model`: total, trainable, quantum (trainable angles) and receiving a gradient.

    `sample`: a batch of inputs. The gradient of a random projection of the outputs is looked at over `draws`
    random angle settings, element by element for angles and tensor by tensor for the rest: a healthy ReLU network
    has many exact zeros.
    """
    model = copy.deepcopy(model).double()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    angles = circuit_angles(model)
    reached = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in trainable.items()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(draws):
        with torch.no_grad():
            for p in angles.values():
                p.copy_(math.tau * torch.rand(p.shape, generator=generator))
        out = model(sample.double() if sample.is_floating_point() else sample)
        loss = (out * torch.randn(out.shape, generator=generator).to(out)).sum()
        grads = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
        for (name, p), grad in zip(trainable.items(), grads, strict=True):
            if grad is not None:
                reached[name] |= grad.abs() > 1e-12 if name in angles else (grad != 0).any().expand_as(p)
    return {
        "total": sum(p.numel() for p in model.parameters()),
        "trainable": sum(p.numel() for p in trainable.values()),
        "receiving_gradient": int(sum(r.sum() for r in reached.values())),
        "quantum": sum(p.numel() for p in angles.values()),
    }
