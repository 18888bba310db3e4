"""Checks of the doctor that come before all others: are outputs and gradients numbers, and of which loss?"""

from collections.abc import Callable

import torch
from torch.overrides import TorchFunctionMode

from qtl_utils.doctor.findings import Finding, check, fail, listed, ok, skipped
from qtl_utils.doctor.losses import KINDS, name_of
from qtl_utils.doctor.patient import Patient
from qtl_utils.doctor.probe import Site, caller, graph_nodes
from qtl_utils.doctor.samples import leaves

# torch functions that are not defined everywhere -> the name of their backward function in SINGULAR, in small letters
DOMAINS = {"arcsin": "asin", "asin": "asin", "arccos": "acos", "acos": "acos", "atanh": "atanh", "arctanh": "atanh"}
DOMAINS |= {"sqrt": "sqrt", "rsqrt": "rsqrt", "log": "log", "log2": "log", "log10": "log", "log1p": "log", "pow": "pow"}
DOMAINS |= {"div": "div", "truediv": "div", "true_divide": "div", "rtruediv": "div", "reciprocal": "reciprocal"}
EMBEDDINGS = ("AmplitudeEmbedding", "StatePrep")
# backward functions that divide by zero or overflow, and where; the node's name begins so
SINGULAR = {
    "Sqrt": ("a square root at 0", "add a small number under the root, or use the squared value"),
    "Pow": ("a power with an exponent below 1 at 0", "add a small number to its base"),
    "Rsqrt": ("a reciprocal square root at 0", "add a small number under the root"),
    "LinalgVectorNorm": ("a norm of a vector that is zero", "add a small number under the root of the squares"),
    "Norm": ("a norm of a vector that is zero", "add a small number under the root of the squares"),
    "Log": ("a logarithm at 0", "torch.log(p + 1e-12), or log_softmax in place of softmax and log"),
    "Div": ("a division by 0", "add a small number to the divisor"),
    "Reciprocal": ("a division by 0", "add a small number to the divisor"),
    "Acos": ("an arc cosine at -1 or 1, or beyond", "clamp its argument to (-1 + 1e-6, 1 - 1e-6)"),
    "Asin": ("an arc sine at -1 or 1, or beyond", "clamp its argument to (-1 + 1e-6, 1 - 1e-6)"),
    "Atanh": ("an inverse hyperbolic tangent at -1 or 1", "clamp its argument to (-1 + 1e-6, 1 - 1e-6)"),
    "Atan2": ("an angle of a vector that is zero", "add a small number to one of its arguments"),
    "Angle": ("the phase of an amplitude that is zero", "use probabilities, or expectation values of X and Y"),
    "Abs": ("the size of an amplitude that is zero", "use the squared size"),
    "Exp": ("an exponential that overflows", "subtract the largest exponent, or scale its argument"),
}


@check("finite", "whether outputs and gradients are numbers", section="optimisation#finite", blocks=True)
def finite(p: Patient) -> Finding:
    if rows := _bad_rows(p.images):
        return fail(f"inputs of {_samples(rows)} are not finite", "the data hold NaN or infinity", "torch.isfinite(x)")
    if bad := [n for n, q in p.model.named_parameters() if not torch.isfinite(q).all()]:
        cause = "an earlier step diverged, or they were never set"
        return fail(f"weights are not finite: {listed(bad)}", cause, "make the model anew; a smaller learning rate")
    if p.seen.broken is not None:
        name, rows = p.seen.broken
        return _broken_output(p, name, rows)
    if rows := _bad_rows(p.seen.output):
        cause = "the last step of the model's own forward makes them: a logarithm, a root or a division"
        return fail(f"outputs of {_samples(rows)} are not finite", cause, "look at the last lines of forward")
    loss = p.loss_at()
    if not torch.isfinite(loss):
        cause = "outputs are finite: the loss takes a logarithm of zero, or overflows"
        return fail(f"the loss is {loss.item()}", cause, "a loss on logits, with log_softmax or logsigmoid inside")
    _, grads = p.gradients()
    bad = [name for name, g in grads.items() if g is not None and not torch.isfinite(g).all()]
    if not bad:
        return ok("outputs, loss and gradients are finite")
    node = _first_singular(p)
    where, fix = next((told for name, told in SINGULAR.items() if node.startswith(name)), ("", ""))
    cause = f"the derivative of {where} is infinite" if where else "a derivative is infinite or overflows"
    evidence = f"the loss is {loss.item():.3g}, the gradient of {listed(bad)} is not finite"
    if node:
        evidence += f"; the first such number comes out of {node.partition('Backward')[0]}'s derivative"
    return fail(evidence, cause, fix or "torch.autograd.set_detect_anomaly(True) names the line")


def _bad_rows(samples) -> list[int]:
    """Which samples hold a number that is not finite."""
    rows = set()
    for tensor in leaves(samples):
        if tensor.dim() and (tensor.is_floating_point() or tensor.is_complex()):
            rows |= set(
                (~torch.isfinite(tensor.detach()).reshape(len(tensor), -1).all(-1)).nonzero().flatten().tolist()
            )
    return sorted(rows)


def _samples(rows: list[int]) -> str:
    return f"sample{'s' * (len(rows) > 1)} {listed(map(str, rows))}"


def _broken_output(p: Patient, name: str, rows: list[int]) -> Finding:
    evidence = f"the output of '{name}' is not finite for {_samples(rows)}; it is the first"
    for site in p.seen.sites:
        if (empty := _without_norm(site)) and amplitudes(site):
            cause = f"amplitude embedding divides by a norm of zero: {_samples(empty)} reach the circuit all zero"
            fix = "no ReLU before it, or one more constant feature; drop samples that are empty"
            return fail(evidence, cause, fix)
    function, where = _first_function(p)
    if function:
        at, fix = next(
            (told for key, told in SINGULAR.items() if key.lower() == DOMAINS.get(function, function)), ("", "")
        )
        outside = " (or outside of where it is defined)" if function in DOMAINS else ""
        return fail(
            f"{evidence}, out of {where or function}", f"{at or function}{outside}", fix or "scale what goes into it"
        )
    cause = "a logarithm, a root, a division or an overflow inside of it"
    return fail(evidence, cause, "scale what goes into it")


class _Watcher(TorchFunctionMode):
    """Remembers the first torch function that makes a number which is not finite out of finite ones."""

    def __init__(self):
        super().__init__()
        self.found = ("", "")

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = isinstance(out, torch.Tensor) and out.is_floating_point()
        if made and not self.found[0] and not torch.isfinite(out).all() and not _bad(args):
            self.found = getattr(func, "__name__", "").strip("_"), caller()
        return out


def _bad(args) -> bool:
    return any(not torch.isfinite(t).all() for t in leaves(list(args)) if t.is_floating_point())


def _first_function(p: Patient) -> tuple[str, str]:
    """The function that makes the first number that is not finite, and the line that calls it; '' for none."""
    watcher = _Watcher()
    with watcher, torch.no_grad():
        p.run()
    return watcher.found


def _without_norm(site: Site) -> list[int]:
    x = site.inputs[0] if site.inputs else torch.zeros(0)
    if x.dim() == 0 or not x.is_floating_point() or not x.numel():
        return []
    flat = torch.cat([part.reshape(-1, part.shape[-1] if part.dim() else 1) for part in site.inputs])
    return (flat.norm(dim=-1) == 0).nonzero().flatten().tolist()


def amplitudes(site: Site) -> bool:
    """Whether a circuit takes its inputs as amplitudes."""
    try:
        tape = site.tape()
    except Exception:  # a state that is not normalised cannot even be written down
        return True
    return tape is not None and any(op.name in EMBEDDINGS for op in tape.operations)


def _first_singular(p: Patient) -> str:
    """The backward function out of which the first number comes that is not finite; '' where none can be named."""
    loss = p.loss_at()
    found = []
    handles = []

    def watched(name: str) -> Callable:
        def look(after, before):
            if _all_finite(before) and not _all_finite(after):
                found.append(name)

        return look

    for node in graph_nodes(loss):
        handles.append(node.register_hook(watched(type(node).__name__)))
    torch.autograd.grad(loss, list(p.trainable.values()), allow_unused=True)
    for handle in handles:
        handle.remove()
    return found[0] if found else ""


def _all_finite(gradients) -> bool:
    return all(g is None or bool(torch.isfinite(g).all()) for g in gradients)


@check("loss", "the loss, and whether it was given", section="optimisation#softmax")
def loss(p: Patient) -> Finding:
    kind = KINDS[p.chosen.kind]
    if p.chosen.reason:
        made_up = "; the batch is made up" if p.made_up else ""
        name = name_of(p.chosen.function)
        return ok(f"no loss was named: {name}, because {p.chosen.reason}{made_up}; loss= overrides it")
    if p.chosen.kind == "other":
        return skipped(
            f"{name_of(p.chosen.function)} is a loss of its own; checks of labels and probabilities pass it over"
        )
    return ok(f"{name_of(p.chosen.function)}: {kind}")
