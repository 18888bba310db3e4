"""What a variant is made of, part by part, as `results.schemes` draws it."""

from torch import nn

from qtl_utils.models.heads import VARIANTS, Beside, HeadSettings, is_circuit, make_head
from qtl_utils.study.names import find


def parts(variant: str, settings: HeadSettings) -> list[tuple[str, str]]:
    """The backbone and every layer of the head of `variant`, first to last: (text, role), a role of schemes.ROLES."""
    training = find("variant", variant, VARIANTS).training
    backbone = ("backbone", "frozen" if training == "frozen" else "trained")
    return [backbone, *_layers(make_head(variant, settings, seed=0))]


def _layers(module: nn.Module) -> list[tuple[str, str]]:
    if isinstance(module, Beside):
        *before, (text, role) = _layers(module.inner) or [("nothing", "computed")]
        return [*before, (f"{text}\n+ {'features' if before else 'its input'}", role)]
    if isinstance(module, nn.Sequential):
        return [part for child in module for part in _layers(child)]
    if is_circuit(module):
        trained = any(p.requires_grad for p in module.parameters())
        angles = "" if trained else ", drawn" if module.weights.any() else ", at 0"
        text = f"{module.ansatz}\n{module.n_qubits} qubits\ndepth {module.depth}{angles}"
        return [(text, "circuit, trained" if trained else "computed")]
    if isinstance(module, nn.Linear):
        return [(f"Linear\n{module.in_features} → {module.out_features}", "trained")]
    trained = any(p.requires_grad for p in module.parameters())
    return [(_text(module), "trained" if trained else "computed")]


def _text(module: nn.Module) -> str:
    name = type(module).__name__
    shown = {"Identity": "as it is", "TrigonometricFeatures": "products of 1, cos, sin"}
    return f"angles: {module.extra_repr()}" if name == "Squash" else shown.get(name, name)
