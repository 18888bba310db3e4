"""One watched forward pass: which circuits run, on what, and which steps of it no gradient passes."""

import contextlib
import copy
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pennylane as qml
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from qtl_utils.circuits import layer
from qtl_utils.circuits.ansatze import make_circuit
from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.doctor.samples import Samples, call, leaves

SQUASHES = {"tanh": 1.0, "sigmoid": 0.5, "atan": torch.pi / 2, "arctan": torch.pi / 2}  # and half of their range
FLAT = {"sign", "sgn", "round", "floor", "ceil", "trunc", "heaviside"}  # their derivative is zero
CUTS = {"item", "__float__", "__int__", "tolist", "numpy", "__array__", "detach", "argmax", "tensor", "as_tensor"}
DRAWS = {"dropout", "dropout1d", "dropout2d", "alpha_dropout", "rand", "randn", "rand_like", "randn_like", "normal"}
DRAWS |= {"bernoulli", "normal_", "uniform_", "bernoulli_", "randint", "randperm", "multinomial", "poisson"}
CUTS |= {"gt", "lt", "ge", "le", "int", "long", "bool", "__bool__"}
MODELS = (
    "faults.py",
    "strangers.py",
    "sealed_strangers.py",
    "sealed_strangers_2.py",
)  # of this package, but written as a user would
OWN = [str(path) for path in Path(__file__).parent.rglob("*.py") if path.name not in MODELS]
LIBRARIES = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), *OWN)
CALLED_FROM = call.__code__.co_filename
LATER = 31  # further calls of a circuit whose arguments are kept
TORCH = str(Path(torch.__file__).parent)


@dataclass
class Site:
    """A circuit in a model: the module that owns its angles, and what passed through it.

    `calls` is how often it ran in one forward pass, `inputs` what it was handed (each a tensor), `outputs` what it
    gave, still in the graph. `node` is PennyLane's QNode, where there is one, with the arguments of its first call and,
    in `later`, those of some more. `dtypes` are those of the angles it was handed.
    """

    name: str
    module: nn.Module
    kind: str  # QuantumLayer, TorchConnector or QNode
    calls: int = 0
    inputs: list[torch.Tensor] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)
    node: qml.QNode | None = None
    arguments: tuple = ((), {})
    later: list[tuple] = field(default_factory=list)
    dtypes: set[torch.dtype] = field(default_factory=set)
    roles: list[bool] = field(default_factory=list)  # of each tensor of the first call: whether it is made of angles
    angles: list[nn.Parameter] = field(default_factory=list)

    @property
    def key(self) -> tuple:
        """The same in every pass, although a module may make its QNodes anew."""
        function = getattr(self.node, "func", None)
        return id(self.module), id(getattr(function, "__code__", function))

    @property
    def output(self) -> torch.Tensor:
        """All outputs of the pass as one vector."""
        return torch.cat([out.reshape(-1) for out in self.outputs])

    @property
    def shots(self) -> int:
        """How often every expectation value is sampled; 0: it is exact."""
        if self.node is not None:
            return self.node.shots.total_shots or 0
        if isinstance(self.module, QuantumLayer):
            return self.module.shots or 0
        return _primitive_shots(getattr(self.module, "neural_network", None))

    @property
    def method(self) -> str:
        """The differentiation method that was asked for."""
        if self.node is not None:
            return str(self.node.diff_method)
        return getattr(self.module, "diff_method", "")

    def tape(self, call: int = 0) -> qml.tape.QuantumScript | None:
        """The circuit of the first call, or a later one, as PennyLane's tape; None where it is not PennyLane's."""
        if self.node is not None:
            args, kwargs = self.later[call - 1] if call else self.arguments
            return qml.workflow.construct_tape(self.node, level="top")(*args, **kwargs)
        if isinstance(self.module, QuantumLayer):
            circuit = make_circuit(self.module.ansatz, self.module.encoding, self.module.n_qubits)
            return qml.tape.make_qscript(circuit)(self.inputs[0], self.module.weights)
        return None

    def as_function(self) -> tuple[Callable, torch.Tensor, torch.Tensor]:
        """The circuit as `f(inputs, weights)` of two vectors, the inputs (B, n) it was handed, and its weights (m,).

        ValueError where it cannot be written so.
        """
        if isinstance(self.module, QuantumLayer):
            shape = self.module.weights.shape
            circuit = make_circuit(self.module.ansatz, self.module.encoding, self.module.n_qubits)
            function = lambda inputs, weights: circuit(inputs, weights.reshape(shape))  # noqa: E731
            inputs = self.inputs[0].reshape(-1, self.module.n_qubits)
            return function, inputs.double().cpu(), self.module.weights.detach().double().flatten().cpu()
        if self.node is None:
            raise ValueError(f"a {self.kind} is no quantum function")
        tensors = _tensors((*self.arguments[0], *self.arguments[1].values()))
        given = [t for t, angle in zip(tensors, self.roles, strict=True) if not angle]
        if len(given) != 1 or given[0].dim() not in (1, 2):
            raise ValueError(f"it takes {len(given)} input tensors; one of shape (batch, inputs) can be read")
        n = given[0].shape[-1]
        inputs = torch.cat([x.detach().reshape(-1, n) for x in self.inputs]).double().cpu()
        weights = [t.detach().double().flatten().cpu() for t, angle in zip(tensors, self.roles, strict=True) if angle]

        def function(inputs, weights):
            left = iter(weights.split([t.numel() for t, angle in zip(tensors, self.roles, strict=True) if angle]))
            own = [
                next(left).reshape(t.shape) if angle else inputs.reshape((1, n)[2 - t.dim() :])
                for t, angle in zip(tensors, self.roles, strict=True)
            ]
            args, kwargs = _replaced(self.arguments, iter(own))
            return self.node.func(*args, **kwargs)

        return function, inputs, torch.cat(weights) if weights else torch.zeros(0, dtype=torch.float64)

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
    nested: list[str] = field(default_factory=list)  # QNodes that were called inside of another one
    draws: list[tuple[str, str]] = field(default_factory=list)  # functions that drew random numbers, and where
    derivatives: int = 0  # how often the forward pass itself differentiated
    broken: tuple[str, list[int]] | None = None  # the first module whose output is not finite, and of which samples


def observe(model: nn.Module, images: Samples) -> Observation:
    """Runs the model once on the samples and watches; `output` is whatever it returns."""
    watch = _Watch(model)
    with watch.hooks(), _nodes(watch), _derivatives(watch), watch:
        try:
            watch.found.output = call(model, images)
        except Exception as error:
            error.observed = watch.found  # what was seen until then
            raise
    return watch.found


def saved_by_circuits(model: nn.Module, images: Samples) -> int:
    """Bytes that circuits keep from one forward pass for the backward pass."""
    watch = _Watch(model)
    kept = {}

    def pack(tensor):
        if watch.inside:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with watch.hooks(), _nodes(watch), watch, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = call(model, images)  # kept alive while storages are counted: an address is not given out twice
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
        self.inside = 0  # > 0 while a circuit runs: only what the user's own lines do there is our business
        self.running: list[str] = []  # QNodes that are running now, innermost last
        self.with_gradient = torch.is_grad_enabled()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        watched = name in FLAT or name in CUTS or (name in SQUASHES and not self.inside)
        if name in DRAWS and not self.inside and _is_called_by_user():
            self.found.draws.append((name, caller()))
        blind = self.with_gradient and not torch.is_grad_enabled() and not self.inside
        wanted = (watched or blind) and _wants_gradient(args) and (not self.inside or _is_called_by_user())
        out = func(*args, **kwargs)
        if not wanted:
            return out
        if blind:
            if not watched and isinstance(out, torch.Tensor) and out.is_floating_point():
                self.found.stops.append(("torch.no_grad()", caller()))
        elif name in SQUASHES:
            self.found.squashes.append((name, out.detach(), ""))
        elif not (name == "as_tensor" and isinstance(args[0], torch.Tensor)):
            self.found.stops.append((name, caller()))
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
            _keep_draws(self.found, getattr(module, "draws", None))

    def _leave(self, name, module, args, out):
        self.stack.pop()
        tensors = [a for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()]
        if self.found.broken is None:
            self._look_for_broken(name or type(module).__name__, out)
        if tensors and isinstance(out, torch.Tensor) and out.is_floating_point():
            self.found.dtypes.append((name, tensors[0].dtype, out.dtype))
        if _is_circuit(module):
            self.inside -= 1
            name = self.names.get(id(module), type(module).__name__)
            angles = list(module.parameters(recurse=False))
            self.add(Site(name, module, type(module).__name__, angles=angles), tensors[:1], [out])

    def _look_for_broken(self, name: str, out) -> None:
        for tensor in leaves(out):
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                finite = torch.isfinite(tensor.detach().reshape(len(tensor) if tensor.dim() else 1, -1)).all(-1)
                self.found.broken = name, (~finite).nonzero().flatten().tolist()
                return

    def add(self, site: Site, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        """Notes one run of a circuit."""
        known = next((s for s in self.found.sites if s.key == site.key), None)
        if known is None:
            self.found.sites.append(known := site)
        elif len(known.later) < LATER:
            known.later.append(site.arguments)
        known.calls += 1
        known.dtypes |= {x.dtype for x in inputs if x.is_floating_point()}
        self.inside += 1  # what follows is our own
        known.inputs += [x.detach() for x in inputs]
        if known.calls == 1 and inputs:
            for number, (function, out, feeds) in enumerate(self.found.squashes):
                if not feeds and _is_multiple(known.inputs[0], out):
                    self.found.squashes[number] = function, out, known.name
        self.inside -= 1
        known.outputs += outputs


def _is_multiple(inputs: torch.Tensor, out: torch.Tensor) -> bool:
    """Whether a circuit's inputs are these values, or the first of them, times a constant."""
    x = inputs.flatten().double()
    y = out.flatten()[: inputs.numel()].double()
    if len(x) != len(y) or not y.any():
        return False
    return bool((x - (x @ y) / (y @ y) * y).norm() <= 1e-4 * x.norm())


def _is_circuit(module: nn.Module) -> bool:
    """Modules that are circuits by themselves; QNodes are seen when they are called."""
    own = isinstance(module, QuantumLayer) and (module.ours or module.simulator == "qiskit")
    return own or type(module).__name__ == "TorchConnector"


def _wants_gradient(args) -> bool:
    return any(
        _wants_gradient(a) if isinstance(a, (list, tuple)) else isinstance(a, torch.Tensor) and a.requires_grad
        for a in args
    )


def _is_called_by_user() -> bool:
    """Whether the torch function that is running was called by a line of the user's, and not by a library's."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(TORCH):
        frame = frame.f_back
    return frame is not None and not frame.f_code.co_filename.startswith(LIBRARIES)


def caller() -> str:
    """The line of the user's code that is running."""
    for frame in reversed(traceback.extract_stack()):
        if frame.name == "call" and frame.filename == CALLED_FROM:  # what is above is who asked for the diagnosis
            return ""
        if not frame.filename.startswith(LIBRARIES):
            return f"{frame.line} (line {frame.lineno})" if frame.line else f"line {frame.lineno}"
    return ""


@contextlib.contextmanager
def _nodes(watch: _Watch) -> Iterator[None]:
    """Notes every QNode that is called, with the innermost module that calls it."""
    run = qml.QNode.__call__

    def watched(node, *args, **kwargs):
        if watch.inside:
            if watch.running:
                watch.found.nested.append(f"{_name_of(node)} in {watch.running[-1]}")
            return run(node, *args, **kwargs)
        _keep_generator(watch.found, node.device)
        watch.inside += 1
        watch.running.append(_name_of(node))
        try:
            out = run(node, *args, **kwargs)
        finally:
            watch.inside -= 1
            watch.running.pop()
        module = watch.stack[-1] if watch.stack else watch.model
        owned = {id(p): p for p in watch.model.parameters()}
        angles = []
        inputs = []
        roles = []
        for tensor in _tensors((*args, *kwargs.values())):
            leaves = _angles(tensor, owned)
            roles.append(bool(leaves))
            (angles if leaves else inputs).extend(leaves or [tensor])
        angles = list({id(p): p for p in angles}.values()) or list(module.parameters(recurse=False))
        name = watch.names.get(id(module), type(module).__name__)
        site = Site(name, module, "QNode", node=node, arguments=(args, kwargs), roles=roles, angles=angles)
        watch.add(site, inputs, _tensors([out]))
        return out

    qml.QNode.__call__ = watched
    try:
        yield
    finally:
        qml.QNode.__call__ = run


def used_method(site: Site) -> str:
    """The method that a QNode is differentiated by: what 'best' stands for."""
    args, kwargs = site.arguments
    return qml.workflow.get_best_diff_method(site.node)(*args, **kwargs) if site.method == "best" else site.method


def _name_of(node: qml.QNode) -> str:
    return getattr(node.func, "__name__", "a QNode")


def _primitive_shots(network) -> int:
    """The shots of the sampler or estimator of a Qiskit network, by its defaults; 0 where its results are exact."""
    sampler = getattr(network, "sampler", None)
    if sampler is not None:
        return int(getattr(sampler, "default_shots", 0) or 0)
    precision = getattr(getattr(network, "estimator", None), "default_precision", 0) or 0
    return round(1 / precision**2) if precision else 0


@contextlib.contextmanager
def _derivatives(watch: _Watch) -> Iterator[None]:
    """Counts how often the forward pass differentiates."""
    run = torch.autograd.grad

    def watched(*args, **kwargs):
        watch.found.derivatives += not watch.inside
        return run(*args, **kwargs)

    torch.autograd.grad = watched
    try:
        yield
    finally:
        torch.autograd.grad = run


def _tensors(values) -> list[torch.Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, dict):
            found += _tensors(value.values())
        elif isinstance(value, (list, tuple, nn.ParameterList)):
            found += _tensors(value)
    return found


def _replaced(value, tensors: Iterator[torch.Tensor]):
    """A nested value with its tensors replaced one after the other, in the order of `_tensors`."""
    if isinstance(value, torch.Tensor):
        return next(tensors)
    if isinstance(value, dict):
        return {key: _replaced(part, tensors) for key, part in value.items()}
    if isinstance(value, (list, tuple, nn.ParameterList)):
        parts = [_replaced(part, tensors) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    return value


def replaced_input(site: Site, inputs: torch.Tensor) -> tuple[tuple, dict]:
    """The arguments of a QNode's first call with other inputs; ValueError where they are not one tensor."""
    tensors = _tensors((*site.arguments[0], *site.arguments[1].values()))
    if site.roles.count(False) != 1:
        raise ValueError(f"it takes {site.roles.count(False)} input tensors")
    return _replaced(site.arguments, iter(t if angle else inputs for t, angle in zip(tensors, site.roles, strict=True)))


# what may stand between a parameter and the circuit it is an angle of: views, casts, sums and multiples
SHAPING = ("View", "UnsafeView", "Reshape", "Select", "Slice", "Unsqueeze", "Squeeze", "ToCopy", "Mul", "Div", "Add")
RESHAPING = ("View", "UnsafeView", "Reshape", "Select", "Slice", "Unsqueeze", "Squeeze", "ToCopy", "Clone", "T0")
SHAPING += ("Sub", "Neg", "Stack", "Cat", "Expand", "Repeat", "Clone", "Transpose", "Permute", "Index", "Alias", "T0")


def graph_nodes(*tensors: torch.Tensor) -> Iterator:
    """Every node of the graph behind these tensors, once; the nodes of leaves have an attribute `variable`."""
    queue = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen = set()
    while queue:
        node = queue.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        queue += [following for following, _ in node.next_functions if following is not None]


def last_function(tensor: torch.Tensor) -> str:
    """The function that made a tensor, but for shaping ones: 'Softmax', 'Sigmoid', 'Addmm' ..., '' for a leaf."""
    node = tensor.grad_fn
    while node is not None and type(node).__name__.startswith(RESHAPING):
        before = [following for following, _ in node.next_functions if following is not None]
        node = before[0] if before else None
    return type(node).__name__.partition("Backward")[0] if node is not None else ""


def _angles(tensor: torch.Tensor, owned: dict[int, nn.Parameter]) -> list[nn.Parameter]:
    """The model's parameters that `tensor` is, or is made of without any layer in between; none for anything else."""
    if id(tensor) in owned:
        return [owned[id(tensor)]]
    found = []
    queue = [] if tensor.grad_fn is None else [tensor.grad_fn]
    while queue:
        node = queue.pop()
        if hasattr(node, "variable"):
            if id(node.variable) not in owned:
                return []
            found.append(owned[id(node.variable)])
        elif not type(node).__name__.startswith(SHAPING):
            return []
        queue += [following for following, _ in node.next_functions if following is not None]
    return found


@contextlib.contextmanager
def exact_circuits() -> Iterator[None]:
    """Inside, every QNode and QuantumLayer gives exact expectation values, however many shots it takes."""
    run = qml.QNode.__call__
    simulate = layer.simulate_noisy

    def exact(node, *args, **kwargs):
        return run(qml.set_shots(node, shots=None) if node.shots else node, *args, **kwargs)

    def exactly(program, inputs, weights, executor, *_, **__):
        return simulate(program, inputs, weights, executor)

    qml.QNode.__call__ = exact
    layer.simulate_noisy = exactly
    try:
        yield
    finally:
        qml.QNode.__call__ = run
        layer.simulate_noisy = simulate


@contextlib.contextmanager
def without_noise(model: nn.Module) -> Iterator[None]:
    """Inside, every QuantumLayer of `model` runs exactly and without noise."""
    noisy = [m for m in model.modules() if isinstance(m, QuantumLayer) and m.ours and m.simulator != "statevector"]
    kept = [dict(m.__dict__) for m in noisy]
    try:
        for module in noisy:
            module.run_on("statevector")
        yield
    finally:
        for module, state in zip(noisy, kept, strict=True):
            module.__dict__.update(state)


def _keep_generator(found: Observation, device) -> None:
    _keep_draws(found, getattr(device, "_rng", None))


def _keep_draws(found: Observation, generator) -> None:
    if isinstance(generator, np.random.Generator) and all(g is not generator for g, _ in found.generators):
        found.generators.append((generator, copy.deepcopy(generator.bit_generator.state)))
