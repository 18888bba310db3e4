"""Fixes of the graph: gradients that do not pass, batches that are mixed, dtypes, devices, saturated encodings."""

import math
import re
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from qtl_utils.doctor.fixes.registry import Case, Mend, fix
from qtl_utils.doctor.patient import alike
from qtl_utils.doctor.probe import LIBRARIES, graph_nodes
from qtl_utils.doctor.recipe import changed

SMOOTH = {"sign": torch.tanh, "sgn": torch.tanh}
STEPS = ("round", "floor", "ceil", "trunc")
REPLACED = (*SMOOTH, *STEPS, "tensor", "as_tensor")


class Around(nn.Module):
    """A module run inside a context, or with a function before or behind it: a mend that needs no other source code."""

    def __init__(self, inner: nn.Module, before=None, behind=None, context=None):
        super().__init__()
        self.inner = inner
        self.before = before
        self.behind = behind
        self.context = context

    def forward(self, x):
        given = x
        x = x if self.before is None else self.before(x)
        if self.context is None:
            out = self.inner(x)
        else:
            with self.context():
                out = self.inner(x)
        return out if self.behind is None else self.behind(out, given)


def around(name: str = "", **options) -> Callable[[nn.Module], nn.Module]:
    """An edit that puts `Around` about the submodule `name`; '' is the whole model."""

    def edit(model):
        if not name:
            return Around(model, **options)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, Around(model.get_submodule(name), **options))
        return model

    return edit


def name_of(model: nn.Module, module: nn.Module) -> str:
    return next(name for name, m in model.named_modules() if m is module)


def _line() -> str:
    """The line of the user's code that has called the torch function which is being handled."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(LIBRARIES):
        frame = frame.f_back
    return f"line {frame.f_lineno}" if frame is not None else ""


def _stacked(value) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.stack([_stacked(part) for part in value])


class Passing(TorchFunctionMode):
    """Steps that no gradient passes, in these `lines` of the user's code, replaced by what passes it.

    sign becomes tanh; round, floor and ceil keep their values and pass the gradient straight through;
    torch.tensor([...]) of tensors becomes torch.stack.
    """

    def __init__(self, lines: list[str]):
        super().__init__()
        self.lines = lines

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name not in REPLACED or _line() not in self.lines:
            return func(*args, **kwargs)
        if name in SMOOTH:
            return SMOOTH[name](args[0])
        if name in STEPS:
            return args[0] + (func(*args, **kwargs) - args[0]).detach()
        if isinstance(args[0], (list, tuple)):
            return _stacked(args[0]).to(kwargs.get("dtype") or torch.get_default_dtype())
        return func(*args, **kwargs)


@fix("differentiable")
def let_pass(case: Case):
    stops = [(name, where) for name, where in case.patient.seen.stops if name in REPLACED]
    told = {
        **{name: f"torch.tanh(x) in place of torch.{name}(x)" for name in SMOOTH},
        **{name: f"x + (torch.{name}(x) - x).detach() in place of torch.{name}(x)" for name in STEPS},
        **dict.fromkeys(("tensor", "as_tensor"), "torch.stack(outputs, dim=-1) in place of torch.tensor([...])"),
    }
    if stops:
        lines = [re.search(r"line \d+", where).group() for _, where in stops]
        edit = around(context=partial(Passing, lines))
        yield Mend(changed(case.recipe, edits=[edit]), "; ".join(dict.fromkeys(told[name] for name, _ in stops)))


@fix("batch")
def keep_the_batch_apart(case: Case):
    """A module whose batch and features are swapped is turned round; else it runs sample by sample, which is slow."""
    x = case.images[:4]
    names = [name_of(case.model, site.module) for site in case.patient.seen.sites]
    with torch.no_grad():
        alone = torch.cat([case.model(one) for one in x.split(1)])
    for name in names:
        turned = changed(case.recipe, edits=[around(name, behind=_turned)])
        try:
            with torch.no_grad():
                same = alike(turned.model().eval()(x), alone)
        except Exception:
            same = False
        if same:
            told = f"torch.stack(outputs, dim=-1) behind the circuit '{name}', no reshape of (outputs, batch)"
            yield Mend(turned, told)
    for name in dict.fromkeys([*names, ""]):
        where = f"'{name}'" if name else "the model"
        told = f"run {where} one sample at a time until its forward and backward are mended (slow)"
        yield Mend(changed(case.recipe, edits=[_one_by_one(name)]), told)


def _turned(out, x):
    return out.reshape(out.shape[1], out.shape[0]).T if out.dim() == 2 else out


class OneByOne(nn.Module):
    """Runs a module on every sample by itself."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return torch.cat([self.inner(one) for one in x.split(1)])


def _one_by_one(name: str) -> Callable[[nn.Module], nn.Module]:
    def edit(model):
        if not name:
            return OneByOne(model)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, OneByOne(model.get_submodule(name)))
        return model

    return edit


class _Context:
    """What `forward` of a torch.autograd.Function may ask of its context, without keeping anything."""

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


class Forward:
    """Inside, functions with a hand-written backward are differentiated through their forward instead."""

    def __init__(self, functions: list[type]):
        self.functions = functions

    def __call__(self):
        return Forward(self.functions)

    def __enter__(self):
        for function in self.functions:
            function.apply = staticmethod(lambda *args, f=function: f.forward(_Context(), *args))
        return self

    def __exit__(self, *error):
        for function in self.functions:
            del function.apply  # what it inherits is seen again


@fix("gradient_correct")
def through_the_forward(case: Case):
    functions = {}
    for node in graph_nodes(case.patient.seen.output):
        own = getattr(type(node), "_forward_cls", None)
        if own is not None and not own.__module__.startswith(("qtl_utils.circuits", "pennylane", "torch")):
            functions[own.__name__] = own
    if functions:
        told = f"leave the backward of {', '.join(functions)} away and let autograd differentiate its forward"
        edit = around(context=Forward(list(functions.values())))
        yield Mend(changed(case.recipe, edits=[edit]), told)


@fix("gradient_reaches")
def reach_all(case: Case):
    """Parameters that are frozen by mistake, tensors that are none, and Qiskit networks without input gradients."""
    if not case.patient.trainable:
        yield Mend(changed(case.recipe, edits=[lambda m: m.requires_grad_(True)]), "model.requires_grad_(True)")
        return
    sites = [s for s in case.patient.seen.sites if s.kind == "TorchConnector"]
    if sites:
        yield Mend(changed(case.recipe, edits=[_with_input_gradients]), "EstimatorQNN(..., input_gradients=True)")
    if loose := [key for m in case.model.modules() for key, v in vars(m).items() if _trainable(v)]:
        told = "; ".join(f"self.{key} = nn.Parameter(...)" for key in loose)
        yield Mend(changed(case.recipe, edits=[_registered]), told)


def _with_input_gradients(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if hasattr(network := getattr(module, "neural_network", None), "input_gradients"):
            network.input_gradients = True
    return model


def _trainable(value) -> bool:
    return isinstance(value, torch.Tensor) and value.is_leaf and value.requires_grad


def _registered(model: nn.Module) -> nn.Module:
    from qtl_utils.doctor.recipe import fresh

    for module in model.modules():
        for key, value in list(vars(module).items()):
            if _trainable(value):
                delattr(module, key)
                module.register_parameter(key, fresh(nn.Parameter(value.detach().clone())))
    return model


@fix("saving", shows="nothing")
def save_all(case: Case):
    from qtl_utils.doctor.checks.circuit import _plain_tensors

    if plain := _plain_tensors(case.patient, case.model(case.images).detach()):
        told = "; ".join(f"self.register_buffer('{name.rpartition('.')[2]}', tensor)" for name in plain)
        yield Mend(changed(case.recipe, edits=[lambda model: _buffered(model, plain)]), told)


def _buffered(model: nn.Module, names: list[str]) -> nn.Module:
    for name in names:
        parent, _, key = name.rpartition(".")
        module = model.get_submodule(parent)
        value = vars(module).pop(key)
        module.register_buffer(key, value.detach().clone())
    return model


@fix("dtypes", shows="nothing")
@fix("forward", shows="accuracy")
def one_precision(case: Case):
    """Whatever leaves a circuit gets the precision of what went in, or all parameters get that of most of them."""
    for name, module in case.model.named_modules():
        if name and any(key for key, v in vars(module).items() if type(v).__name__ == "QNode"):
            told = f"circuit_output.to(x.dtype) behind '{name}'"
            edit = around(name, behind=lambda out, x: out.to(x.dtype))
            yield Mend(changed(case.recipe, edits=[edit, lambda m: m.to(case.images.dtype)]), told)
    yield Mend(changed(case.recipe, edits=[lambda m: m.to(case.images.dtype)]), "model.float(), and float samples")


@fix("devices", "forward", shows="accuracy")
def one_device(case: Case):
    device = case.images.device
    if not any(q.device.type == "meta" for q in case.model.parameters()):
        edit = lambda model: model.to(device)  # noqa: E731
        yield Mend(changed(case.recipe, edits=[edit]), f"model.to('{device}'), before the optimiser is made")


@fix("forward", "stuck_loss", "labels")
def fitting_labels(case: Case):
    """Labels as the loss takes them: of the outputs' shape, 0 and 1, or -1 and 1, for those that have others."""
    y = case.recipe.labels(case.labels)
    values = set(y.double().unique().tolist())
    if isinstance(case.recipe.loss, (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCEWithLogitsLoss)):
        try:
            shape = case.model(case.images).shape[1:]
        except Exception:
            return
        if math.prod(shape) == y[0].numel() and shape != y.shape[1:]:
            relabel = lambda y: case.recipe.labels(y).reshape(-1, *shape)  # noqa: E731
            yield Mend(changed(case.recipe, relabel=relabel), "labels.view_as(outputs)")
    if values == {-1.0, 1.0} and isinstance(case.recipe.loss, nn.CrossEntropyLoss):
        relabel = lambda y: ((case.recipe.labels(y) + 1) / 2).long()  # noqa: E731
        yield Mend(changed(case.recipe, relabel=relabel), "((labels + 1) / 2).long(): cross-entropy counts from 0")
    if values == {-1.0, 1.0} and isinstance(case.recipe.loss, (nn.BCEWithLogitsLoss, nn.BCELoss)):
        relabel = lambda y: (case.recipe.labels(y) + 1) / 2  # noqa: E731
        yield Mend(changed(case.recipe, relabel=relabel), "(labels + 1) / 2: this loss takes 0 and 1")
    if values == {0.0, 1.0} and isinstance(case.recipe.loss, (nn.HingeEmbeddingLoss, nn.SoftMarginLoss)):
        relabel = lambda y: 2 * case.recipe.labels(y) - 1  # noqa: E731
        yield Mend(changed(case.recipe, relabel=relabel), "2 * labels - 1: this loss takes -1 and 1")
    if isinstance(case.recipe.loss, nn.CrossEntropyLoss) and y.is_floating_point() and y.dim() == 1:
        relabel = lambda y: case.recipe.labels(y).long()  # noqa: E731
        yield Mend(changed(case.recipe, relabel=relabel), "labels.long(): cross-entropy takes numbers of classes")
