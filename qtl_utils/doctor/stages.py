"""Which parameters of a model belong together: before the circuit, its angles, after it; or module by module."""

from collections.abc import Iterator
from dataclasses import dataclass

import pennylane as qml
from torch import nn

CIRCUITS = {"TorchLayer", "TorchConnector"}  # PennyLane's and Qiskit Machine Learning's modules, by name
HOLDERS = (nn.ParameterList, nn.ParameterDict)


@dataclass(frozen=True, eq=False)
class Stage:
    """Parameters that are looked at together: name in the model -> parameter."""

    name: str
    parameters: dict[str, nn.Parameter]
    is_circuit: bool = False


def stages_of(model: nn.Module) -> list[Stage]:
    """The stages of a model, in the order in which its modules were registered; nothing is run.

    Circuits are QuantumLayer, TorchLayer, TorchConnector and modules that keep their QNode as an attribute, of which
    the parameters of their own are taken for angles. What comes before and after is told by the order of modules; the
    layers that a module keeps beside its own QNode stand by themselves, as do the parts of a model without circuits.
    """
    circuits = dict(_circuits(model))
    angles = {id(p): name for name, (_, own) in circuits.items() for p in own}
    titles = {name: "circuit" if len(circuits) == 1 else f"circuit {name or type(model).__name__}" for name in circuits}
    mixed = [name for name, (whole, _) in circuits.items() if not whole]
    found: dict[str, dict[str, nn.Parameter]] = {}
    named = list(model.named_parameters())
    places = [i for i, (_, p) in enumerate(named) if id(p) in angles]
    trunk = "" if places else _trunk(model)
    for i, (name, parameter) in enumerate(named):
        if id(parameter) in angles:
            title = titles[angles[id(parameter)]]
        elif not places:
            title = _child_of(trunk, name) or type(model).__name__
        elif beside := next((_child_of(holder, name) for holder in mixed if _is_below(name, holder)), ""):
            title = beside
        else:
            where = "before" if i < places[0] else "after" if i > places[-1] else "between"
            title = f"{where} the circuit{'s' * (len(circuits) > 1)}"
        found.setdefault(title, {})[name] = parameter
    return [Stage(title, parameters, title in titles.values()) for title, parameters in found.items()]


def _circuits(model: nn.Module) -> Iterator[tuple[str, tuple[bool, list[nn.Parameter]]]]:
    """Name of every module that is or keeps a circuit -> whether it is nothing else, and its angles."""
    inside: list[nn.Module] = []
    for name, module in model.named_modules():
        if any(module is part for part in inside):
            continue
        if getattr(module, "is_circuit", False) is True or CIRCUITS & {c.__name__ for c in type(module).__mro__}:
            inside += list(module.modules())
            yield name, (True, list(module.parameters()))
        elif any(map(_is_node, vars(module).values())):
            own = list(module.parameters(recurse=False))
            own += [p for child in module.children() if isinstance(child, HOLDERS) for p in child.parameters()]
            yield name, (False, own)


def _is_node(value) -> bool:
    if isinstance(value, (list, tuple)):
        return any(isinstance(part, qml.QNode) for part in value)
    return isinstance(value, qml.QNode)


def _trunk(model: nn.Module) -> str:
    """The innermost module that holds all parameters: wrappers around a model say nothing."""
    path = []
    while not list(model.parameters(recurse=False)):
        holding = [(name, child) for name, child in model.named_children() if any(True for _ in child.parameters())]
        if len(holding) != 1:
            break
        name, model = holding[0]
        path.append(name)
    return ".".join(path)


def _is_below(name: str, holder: str) -> bool:
    return not holder or name.startswith(f"{holder}.")


def _child_of(holder: str, name: str) -> str:
    """The part of a module that a parameter is in: 'head.0.weight' -> 'head.0' of 'head'; '' where it is its own."""
    rest = name.removeprefix(f"{holder}.") if holder else name
    part, _, inner = rest.partition(".")
    return ".".join(filter(None, (holder, part))) if inner else ""
