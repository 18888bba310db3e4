"""One watched forward pass: which circuits run, on what, and which steps of it no gradient passes."""

import contextlib
import copy
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pennylane as qml
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from qtl_utils.circuits import make_circuit
from qtl_utils.quantum_layer import QuantumLayer

SQUASHES = {"tanh": 1.0, "sigmoid": 0.5, "atan": torch.pi / 2, "arctan": torch.pi / 2}  # and half of their range
FLAT = {"sign", "sgn", "round", "floor", "ceil", "trunc", "heaviside"}  # their derivative is zero
CUTS = {"item", "__float__", "__int__", "tolist", "numpy", "__array__", "detach", "argmax", "tensor", "as_tensor"}
CUTS |= {"gt", "lt", "ge", "le", "int", "long", "bool", "__bool__"}
DOCTOR = ("probe", "doctor", "checks_graph", "checks_circuit", "checks_training")
OWN = [str(Path(__file__).with_name(f"{name}.py")) for name in DOCTOR]
LIBRARIES = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), *OWN)


@dataclass
class Site:
    """A circuit in a model: the module that owns its angles, and what passed through it.

    `calls` is how often it ran in one forward pass, `inputs` what it was handed (each a tensor), `outputs` what it
    gave, still in the graph. `node` is PennyLane's QNode, where there is one, with the arguments of its first call.
    """

    name: str
    module: nn.Module
    kind: str  # QuantumLayer, TorchConnector or QNode
    calls: int = 0
    inputs: list[torch.Tensor] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)
    node: qml.QNode | None = None
    arguments: tuple = ((), {})

    @property
    def angles(self) -> list[nn.Parameter]:
        return list(self.module.parameters(recurse=False))

    @property
    def output(self) -> torch.Tensor:
        """All outputs of the pass as one vector."""
        return torch.cat([out.reshape(-1) for out in self.outputs])

    @property
    def shots(self) -> int:
        return (self.node.shots.total_shots or 0) if self.node is not None else 0

    @property
    def method(self) -> str:
        """The differentiation method that was asked for."""
        if self.node is not None:
            return str(self.node.diff_method)
        return getattr(self.module, "diff_method", "")

    def tape(self) -> qml.tape.QuantumScript | None:
        """The circuit of the first call as PennyLane's tape; None for circuits that are not PennyLane's."""
        if self.node is not None:
            args, kwargs = self.arguments
            return qml.workflow.construct_tape(self.node, level="top")(*args, **kwargs)
        if isinstance(self.module, QuantumLayer):
            circuit = make_circuit(self.module.ansatz, self.module.encoding, self.module.n_qubits)
            return qml.tape.make_qscript(circuit)(self.inputs[0][:1], self.module.weights)
        return None

    @property
    def n_qubits(self) -> int:
        if (tape := self.tape()) is not None:
            return len(tape.wires)
        network = getattr(self.module, "neural_network", None)
        return getattr(getattr(network, "circuit", None), "num_qubits", 0)


@dataclass
class Observation:
    """What one forward pass showed."""

    output: torch.Tensor | None = None
    sites: list[Site] = field(default_factory=list)
    stops: list[tuple[str, str]] = field(
        default_factory=list
    )  # function that ends the gradient, and where it is called
    squashes: list[tuple[str, torch.Tensor, str]] = field(default_factory=list)  # function, output, feeds which site
    dtypes: list[tuple[str, torch.dtype, torch.dtype]] = field(default_factory=list)  # module, dtype in, dtype out
    generators: list[tuple[np.random.Generator, dict]] = field(default_factory=list)


def observe(model: nn.Module, images: torch.Tensor) -> Observation:
    """Runs `model(images)` once and watches."""
    watch = _Watch(model)
    with watch.hooks(), _nodes(watch), watch:
        watch.found.output = model(images)
    return watch.found


def saved_by_circuits(model: nn.Module, images: torch.Tensor) -> int:
    """Bytes that circuits keep from one forward pass for the backward pass."""
    watch, kept = _Watch(model), {}

    def pack(tensor):
        if watch.inside:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with watch.hooks(), _nodes(watch), watch, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(images)  # kept alive while storages are counted: an address is not given out twice
    del output
    return sum(kept.values())


class _Watch(TorchFunctionMode):
    """Sees every call of a torch function outside of circuits, and every module and QNode that runs."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.found = Observation()
        self.model = model
        self.names = {id(m): name or type(m).__name__ for name, m in model.named_modules()}
        self.stack: list[nn.Module] = []  # modules that are running now, innermost last
        self.inside = 0  # > 0 while a circuit runs: its own bookkeeping is none of our business

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        watched = not self.inside and (name in FLAT or name in CUTS or name in SQUASHES)
        wanted = watched and _wants_gradient(args)
        out = func(*args, **kwargs)
        if wanted and name in SQUASHES:
            self.found.squashes.append((name, out.detach(), ""))
        elif wanted and not (name == "as_tensor" and isinstance(args[0], torch.Tensor)):
            self.found.stops.append((name, _caller()))
        return out

    # ---- modules

    @contextlib.contextmanager
    def hooks(self) -> Iterator[None]:
        handles = []
        for name, module in self.model.named_modules():
            handles.append(module.register_forward_pre_hook(lambda m, args: self._enter(m, args)))
            handles.append(module.register_forward_hook(lambda m, args, out, n=name: self._leave(n, m, args, out)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module, args):
        self.stack.append(module)
        if _is_circuit(module):
            self.inside += 1

    def _leave(self, name, module, args, out):
        self.stack.pop()
        tensors = [a for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()]
        if tensors and isinstance(out, torch.Tensor) and out.is_floating_point():
            self.found.dtypes.append((name, tensors[0].dtype, out.dtype))
        if _is_circuit(module):
            self.inside -= 1
            self.add(module, type(module).__name__, tensors[:1], [out])

    def add(self, module, kind, inputs, outputs, node=None, arguments=((), {})) -> Site:
        """Notes one run of a circuit."""
        site = next((s for s in self.found.sites if s.module is module), None)
        if site is None:
            name = self.names.get(id(module), type(module).__name__)
            site = Site(name, module, kind, node=node, arguments=arguments)
            self.found.sites.append(site)
        site.calls += 1
        self.inside += 1  # what follows is our own
        site.inputs += [x.detach() for x in inputs]
        self.inside -= 1
        site.outputs += outputs
        for number, (function, out, feeds) in enumerate(self.found.squashes):
            if not feeds:
                self.found.squashes[number] = function, out, site.name
        return site


def _is_circuit(module: nn.Module) -> bool:
    """Modules that are circuits by themselves; QNodes are seen when they are called."""
    own = isinstance(module, QuantumLayer) and module.backend in ("statevector", "qiskit")
    return own or type(module).__name__ == "TorchConnector"


def _wants_gradient(args) -> bool:
    return any(
        _wants_gradient(a) if isinstance(a, (list, tuple)) else isinstance(a, torch.Tensor) and a.requires_grad
        for a in args
    )


def _caller() -> str:
    """The line of the user's code that is running."""
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith(LIBRARIES):
            return f"{frame.line} (line {frame.lineno})" if frame.line else f"line {frame.lineno}"
    return ""


@contextlib.contextmanager
def _nodes(watch: _Watch) -> Iterator[None]:
    """Notes every QNode that is called, with the innermost module that calls it."""
    run = qml.QNode.__call__

    def watched(node, *args, **kwargs):
        if watch.inside:
            return run(node, *args, **kwargs)
        _keep_generator(watch.found, node.device)
        watch.inside += 1
        try:
            out = run(node, *args, **kwargs)
        finally:
            watch.inside -= 1
        module = watch.stack[-1]
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
        angles = {id(p) for p in module.parameters(recurse=False)}
        inputs = [t for t in tensors if id(t) not in angles and not _is_angle(t, angles)]
        outputs = [o for o in (out if isinstance(out, (list, tuple)) else [out]) if isinstance(o, torch.Tensor)]
        watch.add(module, "QNode", inputs, outputs, node, (args, kwargs))
        return out

    qml.QNode.__call__ = watched
    try:
        yield
    finally:
        qml.QNode.__call__ = run


def _is_angle(tensor: torch.Tensor, angles: set[int], depth: int = 6) -> bool:
    """Whether `tensor` is computed from angles alone, as a view or a multiple of them is."""
    node, seen = tensor.grad_fn, 0
    while node is not None and seen < depth:
        if hasattr(node, "variable"):
            return id(node.variable) in angles
        following = [f for f, _ in node.next_functions if f is not None]
        node, seen = following[0] if len(following) == 1 else None, seen + 1
    return False


def _keep_generator(found: Observation, device) -> None:
    generator = getattr(device, "_rng", None)
    if isinstance(generator, np.random.Generator) and all(g is not generator for g, _ in found.generators):
        found.generators.append((generator, copy.deepcopy(generator.bit_generator.state)))
