"""Losses, told by what they do with outputs and labels and not by their class; and the one that fits, if none is."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

KINDS = {
    "softmax": "cross-entropy of logits: adding a constant to the outputs changes nothing",
    "sigmoid": "cross-entropy of single logits: its gradient is sigmoid(output) - label",
    "log": "minus the output of the right class",
    "probability": "cross-entropy of probabilities: its gradient is (p - label) / (p (1 - p))",
    "square": "squared difference: its gradient is output - label",
    "distance": "absolute difference: its gradient is the sign of output - label",
    "other": "a loss of its own",
}
CLASSES = (  # the first that fits; a subclass may do something else, and is looked at
    (nn.CrossEntropyLoss, "softmax"),
    (nn.NLLLoss, "log"),
    (nn.BCEWithLogitsLoss, "sigmoid"),
    (nn.MultiLabelSoftMarginLoss, "sigmoid"),
    (nn.BCELoss, "probability"),
    (nn.MSELoss, "square"),
    (nn.SmoothL1Loss, "square"),
    (nn.HuberLoss, "square"),
    (nn.L1Loss, "distance"),
)
FUNCTIONS = {
    F.cross_entropy: "softmax",
    F.nll_loss: "log",
    F.binary_cross_entropy_with_logits: "sigmoid",
    F.binary_cross_entropy: "probability",
    F.mse_loss: "square",
    F.smooth_l1_loss: "square",
    F.l1_loss: "distance",
}
CLOSE = 1e-4  # relative, of two losses or directions that are the same


@dataclass(frozen=True)
class Loss:
    """`function(outputs, labels)`, its kind (of KINDS), and why it was taken where nobody named it."""

    function: Callable
    kind: str
    reason: str = ""


def kind_of(loss: Callable, outputs: torch.Tensor, labels: torch.Tensor) -> str:
    """The kind of a loss; outputs (B, ...) real, labels as it takes them."""
    known = next((kind for cls, kind in CLASSES if type(loss) is cls), FUNCTIONS.get(loss))
    if known:
        return known
    try:
        return _by_what_it_does(loss, outputs.detach().double(), labels)
    except Exception:  # a loss of several arguments, or one that refuses other values than the model's
        return "other"


def _by_what_it_does(loss: Callable, out: torch.Tensor, labels: torch.Tensor) -> str:
    labels = labels.double() if labels.is_floating_point() else labels
    if out.dim() == 2 and out.shape[1] > 1 and _ignores_a_constant(loss, out, labels):
        return "softmax"
    if labels.shape == out.shape and labels.is_floating_point():
        wide = torch.linspace(-1.5, 1.5, out.numel(), dtype=out.dtype).reshape(out.shape)
        p = wide.sigmoid()
        candidates = {
            "probability": (p, (p - labels) / (p * (1 - p))),
            "sigmoid": (wide, p - labels),
            "square": (wide, wide - labels),
            "distance": (wide, (wide - labels).sign()),
        }
        return next((kind for kind, (at, g) in candidates.items() if _has_gradient(loss, at, labels, g)), "other")
    classes = out.dim() == 2 and not labels.is_floating_point() and labels.shape == out.shape[:1]
    if classes and _has_gradient(loss, -out.abs() - 1, labels, -F.one_hot(labels, out.shape[1]).double()):
        return "log"
    return "other"


def _has_gradient(loss: Callable, at: torch.Tensor, labels: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether the loss has that gradient at these outputs, up to a factor; no where it refuses them."""
    try:
        found = _gradient(loss, at, labels)
    except Exception:
        return False
    size = found.norm() * wanted.norm()
    return bool(size > 0 and (found * wanted).sum() / size > 1 - CLOSE)


def _gradient(loss: Callable, out: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    out = out.clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(out, labels), out)
    return gradient


def _ignores_a_constant(loss: Callable, out: torch.Tensor, labels: torch.Tensor) -> bool:
    """Whether it sees differences between the outputs of a sample only, and smoothly, as all behind a softmax does."""
    here, shifted = (float(loss(values, labels)) for values in (out, out + 3.0))
    if not math.isclose(here, shifted, rel_tol=CLOSE):
        return False
    slopes = [_gradient(loss, values, labels) for values in (out, 1.1 * out + 0.01 * out.square())]
    return bool(slopes[0].any()) and not torch.allclose(*slopes, rtol=1e-9, atol=0)  # of a margin they are steps


def floor_of(loss: Callable, classes: int, labels: torch.Tensor) -> float:
    """What a loss on logits (B, classes) is at best: with outputs that are sure and right."""
    sure = 50.0 * F.one_hot(labels.long(), classes).double()
    return float(loss(sure, labels))


def twice(classes: int) -> float:
    """The least cross-entropy, in nats, of `classes` probabilities that are taken for logits."""
    return math.log(1 + (classes - 1) / math.e)


def guessed(out: torch.Tensor, labels: torch.Tensor, last: str) -> Loss:
    """The loss that fits outputs (B, ...) and labels where nobody named one, and why.

    last: the function that made the outputs ('Softmax', 'LogSoftmax', 'Sigmoid', ...), as `probe.last_function` has it.
    """
    whole = not labels.is_floating_point()
    values = set(labels.unique().tolist()) if labels.numel() else set()
    rows = out.shape[: labels.dim()] == labels.shape
    if out.dim() >= 2 and out.shape[1] > 1 and labels.dim() == out.dim() - 1 and whole:
        if last == "LogSoftmax":
            return Loss(nn.NLLLoss(), "log", f"outputs are logarithms of probabilities of {out.shape[1]} classes")
        return Loss(nn.CrossEntropyLoss(), "softmax", f"labels are whole numbers, outputs are {out.shape[1]} a sample")
    if out.dim() == 2 and labels.shape == out.shape and out.shape[1] > 1 and values <= {0, 1}:
        if bool((labels.sum(-1) == 1).all()):
            return Loss(one_hot_cross_entropy, "softmax", "labels are one-hot")
        return _binary(last, "labels are zeros and ones, several a sample")
    single = labels.numel() == out.numel() and (rows or out.numel() == len(labels))
    if single and values and values <= {0, 1}:
        return _binary(last, "labels are 0 and 1, outputs one a sample")
    if single:
        return Loss(_on_flat(nn.MSELoss()), "square", "labels are numbers, outputs one for each")
    return Loss(nn.CrossEntropyLoss(), "softmax", "nothing else fits these shapes better")


def _binary(last: str, why: str) -> Loss:
    if last == "Sigmoid":
        return Loss(_on_flat(nn.BCELoss()), "probability", f"{why} behind a sigmoid")
    return Loss(_on_flat(nn.BCEWithLogitsLoss()), "sigmoid", why)


def one_hot_cross_entropy(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, in nats, of logits (B, C) and labels (B, C) of zeros and a one."""
    return F.cross_entropy(outputs, labels.to(outputs.dtype))


def _on_flat(loss: nn.Module) -> Callable:
    """The loss of outputs and labels of one shape, whatever dimensions of one they have."""

    def flat(outputs, labels):
        return loss(outputs.reshape(-1), labels.reshape(-1).to(outputs.dtype))

    flat.__name__ = type(loss).__name__
    return flat


def name_of(loss: Callable) -> str:
    """How to call a loss in a sentence."""
    return getattr(loss, "__name__", type(loss).__name__)
