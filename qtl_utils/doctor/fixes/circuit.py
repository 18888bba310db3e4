"""Fixes of circuits: the differentiation method, shots, initial angles, depth, a bypass, and circuits in a loop."""

import copy
import itertools
import math
from collections.abc import Callable, Iterable

import pennylane as qml
import torch
from torch import nn

from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.doctor.checks.mixing import unmixing_depths
from qtl_utils.doctor.fixes.graph import name_of
from qtl_utils.doctor.fixes.registry import Case, Mend, fix
from qtl_utils.doctor.patient import alike
from qtl_utils.doctor.recipe import changed, fresh
from qtl_utils.models.heads import Beside, Squash

SPREADS = (0.5, 0.1, 0.01)  # radians, of initial angles: the widest first, it moves off a dead start soonest
EXACT = ("backprop", "adjoint")


# ---- differentiation and shots ---------------------------------------------------------------------------------------


def _nodes(model: nn.Module) -> Iterable[tuple[nn.Module, str, qml.QNode]]:
    for module in model.modules():
        for key, value in vars(module).items():
            if isinstance(value, qml.QNode):
                yield module, key, value


def _differentiated(method: str, batches: bool) -> Callable[[nn.Module], nn.Module]:
    """An edit: every QNode anew on a simulator without shots; `batches`: without the transforms around it."""

    def edit(model):
        for module, key, node in list(_nodes(model)):
            device = node.device
            if device.shots:
                device = qml.device(device.name, wires=device.wires)
            if batches:
                new = qml.QNode(node.func, device, interface="torch", diff_method=method)
            else:
                new = copy.copy(node).update(diff_method=method, device=device, shots=None)
            setattr(module, key, new)
        for layer in model.modules():
            if isinstance(layer, QuantumLayer) and layer.simulator != "statevector":
                layer.diff_method = method
                layer._prepare()
        return model

    return edit


def _methods(case: Case, methods: Iterable[str] = EXACT) -> Iterable[Mend]:
    """Mends that differentiate exactly; first those that take the whole batch at once and give the same outputs."""
    theirs = None
    sampled = any(node.shots for *_, node in _nodes(case.model))
    if not sampled:
        try:
            with torch.no_grad():
                theirs = case.model(case.images)
        except Exception:  # then any method that runs is a gain
            theirs = None
    if not any(True for _ in _nodes(case.model)) and not _other_simulators(case.model):
        return
    for method in methods:
        for batches in (True, False):
            mended = changed(case.recipe, edits=[_differentiated(method, batches)])
            try:
                model = mended.model().eval()
                out = model(case.images)
                out.sum().backward()
            except Exception:  # this device or circuit refuses it
                continue
            if theirs is None or alike(out.detach(), theirs):
                told = f"diff_method='{method}'" + (" and no shots: they are for hardware" if sampled else "")
                yield Mend(mended, told, {"diff_method": method} if _other_simulators(case.model) else {})
                break


def _other_simulators(model: nn.Module) -> bool:
    return any(isinstance(m, QuantumLayer) and m.simulator not in ("statevector", "qiskit") for m in model.modules())


@fix("gradient_correct", "forward")
def exact_gradients(case: Case):
    yield from _methods(case)


@fix("shot_noise")
def no_shots(case: Case):
    yield from _methods(case)


@fix("time", "method", shows="seconds")
def faster_method(case: Case):
    yield from _methods(case)


@fix("memory", shows="nothing")
def less_memory(case: Case):
    yield from _methods(case, ["adjoint"])


class Stacked:
    """A QNode whose list of outputs (B,) each comes as one tensor (B, outputs), with the dtype of what goes in."""

    def __init__(self, node: qml.QNode):
        self.node = node

    def __call__(self, *args, **kwargs):
        out = self.node(*args, **kwargs)
        if isinstance(out, torch.Tensor):
            return out
        like = next((a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)), torch.empty(0))
        return torch.stack(list(out), dim=-1).to(like.dtype)


def _stacked(model: nn.Module) -> nn.Module:
    for module, key, node in list(_nodes(model)):
        vars(module)[key] = Stacked(node)
    return model


@fix("forward")
def one_tensor(case: Case):
    """A QNode returns a list of its outputs; what follows wants a tensor."""
    if any(True for _ in _nodes(case.model)):
        told = "torch.stack(outputs, dim=-1) of what the QNode returns, before anything else is done with it"
        yield Mend(changed(case.recipe, edits=[_stacked]), told)


class Whole(nn.Module):
    """Runs the QNode of `inner` once for the whole batch, where `inner` ran it once a sample."""

    def __init__(self, inner: nn.Module, key: str, number: int):
        super().__init__()
        self.inner = inner
        self.key = key
        self.number = number  # which positional argument is the sample

    def forward(self, x):
        node = vars(self.inner)[self.key]
        calls = []

        def once(*args, **kwargs):
            calls.append((args, kwargs))
            raise _SeenError

        try:
            vars(self.inner)[self.key] = once
            self.inner(x[:1])
        except _SeenError:
            pass
        finally:
            vars(self.inner)[self.key] = node
        (args, kwargs) = calls[0]
        out = node(*[x if i == self.number else a for i, a in enumerate(args)], **kwargs)
        out = out if isinstance(out, torch.Tensor) else torch.stack(list(out), dim=-1)
        return out.reshape(len(x), -1).to(x.dtype)


class _SeenError(Exception):
    """A QNode was called, and with what is known."""


@fix("per_sample_loop", shows="seconds")
def whole_batches(case: Case):
    """Where a module does nothing but hand its samples to a QNode one by one, the QNode takes them all at once."""
    site = max(case.patient.seen.sites, key=lambda s: s.calls)
    keys = [key for module, key, _ in _nodes(case.model) if module is site.module]
    name = name_of(case.model, site.module)
    if not keys or not name:
        return
    with torch.no_grad():
        theirs = case.model(case.images)
    for number in range(len(site.arguments[0])):

        def edit(model, number=number):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, Whole(model.get_submodule(name), keys[0], number))
            return model

        mended = changed(case.recipe, edits=[edit])
        try:
            with torch.no_grad():
                same = alike(mended.model().eval()(case.images), theirs)
        except Exception:
            continue
        if same:
            told = f"call the QNode of '{name}' once with the batch: inputs[..., i], torch.stack(outputs, dim=-1)"
            yield Mend(mended, told)
            return


# ---- initial angles --------------------------------------------------------------------------------------------------


@fix("plateau")
def other_start(case: Case):
    """Other initial angles; for a circuit of ours that is too deep also fewer layers."""
    for spread in SPREADS:
        yield _started(case, spread)
    for layer in case.model.modules():
        if isinstance(layer, QuantumLayer) and layer.depth > 1:
            yield from _depths(case, layer, [max(1, layer.depth // 2), max(1, layer.depth // 4), 1])


@fix("zeroed_angles", "stuck_loss", again=False)
def wider_start(case: Case):
    if case.patient.angles:
        yield _started(case, 1.0)


def _started(case: Case, spread: float) -> Mend:
    names = list(case.patient.angles)

    def edit(model):
        angles = dict(model.named_parameters())
        for name in names:
            q = angles[name]
            q.data = spread * torch.randn(q.shape).to(q)
        return model

    return Mend(
        changed(case.recipe, edits=[edit]),
        f"initial angles {spread:g} * torch.randn(shape)",
        {"angle_init": spread},
    )


# ---- what circuits do to their inputs --------------------------------------------------------------------------------


def _depths(case: Case, layer: QuantumLayer, depths: Iterable[int]) -> Iterable[Mend]:
    name = name_of(case.model, layer)
    for depth in dict.fromkeys(depths):
        told = f"depth {depth} in place of {layer.depth} in the QuantumLayer '{name}'"
        yield Mend(changed(case.recipe, edits=[_with_depth(name, depth)]), told, {"depth": depth})


def _with_depth(name: str, depth: int) -> Callable[[nn.Module], nn.Module]:
    """An edit: the same circuit with other layers; angles that both have stay, new ones are drawn as widely."""

    def edit(model):
        old = model.get_submodule(name)
        spread = old.weights.detach().std().item() if old.weights.numel() > 1 else 0.01
        options = {"simulator": old.simulator, "diff_method": old.diff_method, "executor": old.executor}
        new = QuantumLayer(old.n_qubits, depth, old.ansatz, old.encoding, spread, **options).to(old.weights)
        shared = tuple(slice(min(a, b)) for a, b in zip(new.weights.shape, old.weights.shape, strict=True))
        new.weights.data[shared] = old.weights.data[shared]
        new.weights.requires_grad_(old.weights.requires_grad)
        fresh(new.weights, old.weights)
        if not name:
            return new
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, new)
        return model

    return edit


@fix("readout_mixing")
def unmix(case: Case):
    """A depth at which every input can be read by itself; a bypass around the circuit; for circuits of ours."""
    layer = next((s.module for s in case.patient.look().sites), None)
    if not isinstance(layer, QuantumLayer) or not isinstance(layer.weights, nn.Parameter):
        return
    yield from _depths(case, layer, list(itertools.islice(unmixing_depths(layer), 1)))
    name = name_of(case.model, layer)
    parent, _, own = name.rpartition(".")
    chain = case.model.get_submodule(parent)
    number = int(own) if own.isdecimal() else -1
    if isinstance(chain, nn.Sequential) and 0 <= number < len(chain) - 1 and isinstance(chain[number + 1], nn.Linear):
        ours = len(chain) == 4 and isinstance(chain[1], Squash) and isinstance(chain[0], nn.Linear)
        told = f"hand the next layer [angles, circuit]: torch.cat([angles, circuit(angles)], dim=-1) at '{name}'"
        yield Mend(changed(case.recipe, edits=[_with_bypass(name)]), told, {"variant": "A-bypass"} if ours else {})


def _with_bypass(name: str) -> Callable[[nn.Module], nn.Module]:
    parent, _, own = name.rpartition(".")

    def edit(model):
        chain = model.get_submodule(parent)
        layer, post = chain[int(own)], chain[int(own) + 1]
        wide = nn.Linear(layer.n_qubits + post.in_features, post.out_features, bias=post.bias is not None)
        wide = wide.to(post.weight)
        scale = math.sqrt(wide.in_features / post.in_features)  # as nn.Linear would draw for this width
        wide.weight.data[:, layer.n_qubits :] = post.weight.data / scale
        for q, old in ((wide.weight, post.weight), (wide.bias, post.bias)):
            if q is not None:
                fresh(q, old)
        if post.bias is not None:
            wide.bias.data = post.bias.data.clone()
        chain[int(own)] = Beside(layer)
        chain[int(own) + 1] = wide
        return model

    return edit
