"""Checks of the doctor: do labels, outputs and loss speak of the same thing?"""

import math

import torch
from torch import nn

from qtl_utils.doctor.findings import Finding, check, fail, ok, skipped, warn
from qtl_utils.doctor.losses import floor_of, name_of, twice
from qtl_utils.doctor.patient import Patient
from qtl_utils.doctor.probe import Site, last_function

MAJORITY = 0.85  # of the labels
MANY = 8  # samples: with fewer, a batch of one class can be chance
SAME = 1e-9  # relative, of two losses that are equal
SIGNED = (nn.SoftMarginLoss, nn.HingeEmbeddingLoss, nn.MarginRankingLoss)  # take -1 and 1


@check("labels", "labels against outputs and loss", section="evaluation#labels", explained_by=("forward",))
def labels(p: Patient) -> Finding:
    out = p.seen.output.detach()
    y = p.labels.detach()
    if out.is_complex():
        return skipped("outputs are complex")
    if p.noisy:
        return skipped("no two passes are equal; see 'reproducible'")
    values = sorted(y.double().unique().tolist())
    told = " and ".join(f"{v:g}" for v in values[:2])
    if p.chosen.kind == "softmax" and out.dim() == 2 and out.shape[1] == 1:
        cause = "cross-entropy of a single output: its softmax is always 1, whatever the output"
        fix = "BCEWithLogitsLoss with labels.float(), or one output per class"
        return fail(f"outputs {tuple(out.shape)}: one a sample", cause, fix)
    if _sees_no_pairs(p):
        shapes = f"outputs {tuple(out.shape)}, labels {tuple(y.shape)}"
        cause = "the loss compares every output with every label instead of its own, or with none"
        return fail(
            f"exchanging labels between samples leaves the loss as it is; {shapes}", cause, "labels.view_as(outputs)"
        )
    kind = p.chosen.kind
    if kind in ("sigmoid", "probability") and (min(values) < 0 or max(values) > 1):
        cause = "a cross-entropy of single outputs takes labels 0 to 1; others have no least loss"
        return fail(
            f"labels from {min(values):g} to {max(values):g}", cause, "labels 0 and 1: (labels + 1) / 2 of -1 and 1"
        )
    if isinstance(p.loss, SIGNED) and values == [0.0, 1.0]:
        cause = f"{name_of(p.loss)} takes -1 and 1: a label of 0 counts for nothing"
        return fail(f"labels are {told}", cause, "2 * labels - 1")
    if kind in ("square", "distance") and (found := _out_of_reach(p, values)) is not None:
        return found
    if len(values) == 1 and len(y) >= MANY and kind in ("softmax", "log", "sigmoid", "probability"):
        cause = "the samples are sorted by class, or the other classes are missing"
        return warn(
            f"all {len(y)} labels of the batch are {values[0]:g}",
            cause,
            "DataLoader(..., shuffle=True); look at the labels",
        )
    if kind in ("softmax", "log") and not y.is_floating_point() and (found := _counts(y.flatten(), out)) is not None:
        return found
    return ok(f"labels are {told}" if len(values) <= 2 else f"labels from {min(values):g} to {max(values):g}")


def _counts(y: torch.Tensor, out: torch.Tensor) -> Finding | None:
    """Classes that are counted from 1, and a class that nearly all samples are of; y (N,) whole numbers."""
    values, counts = y.unique(return_counts=True)
    classes = out.shape[1] if out.dim() > 1 else 0
    if classes > 2 and values.tolist() == list(range(1, classes)) and len(y) >= MANY * classes:
        told = f"labels are 1 to {classes - 1}, outputs are {classes}: output 0 is never right"
        return warn(told, "classes count from 0", f"labels - 1, and {classes - 1} outputs")
    share = counts.max().item() / len(y)
    if len(values) > 1 and share > MAJORITY and len(y) >= 2 * MANY:
        cause = "a model that always says this class is right as often, and the loss falls although nothing is learned"
        fix = "CrossEntropyLoss(weight=...), a WeightedRandomSampler, and balanced accuracy"
        return warn(f"{share:.0%} of the labels are {values[counts.argmax()].item()}", cause, fix)
    return None


def _sees_no_pairs(p: Patient) -> bool:
    """Whether the loss stays as it is when samples exchange their labels, although outputs and labels differ."""
    out = p.seen.output.detach()
    rows = out.reshape(len(out), -1) if out.dim() else out
    n = len(p.labels)
    if out.shape[:1] != p.labels.shape[:1] or n < 3 or (p.chosen.kind == "other" and out.shape == p.labels.shape):
        return False
    apart = (rows.amax(0) - rows.amin(0)).max()
    if apart <= 1e-4 * rows.abs().max() or torch.equal(p.labels, p.labels.roll(1, 0)):
        return False
    loss = p.chosen.function
    try:
        values = [float(loss(out.double(), _like(p.labels.roll(k, 0)))) for k in range(min(n, 4))]
    except Exception:  # a loss of two dtypes that do not meet, or of more than it is given here
        return False
    return all(math.isclose(v, values[0], rel_tol=SAME) for v in values[1:])


def _like(labels: torch.Tensor) -> torch.Tensor:
    return labels.double() if labels.is_floating_point() else labels


def _out_of_reach(p: Patient, values: list[float]) -> Finding | None:
    """Targets that expectation values, between -1 and 1, cannot come near, or whose middle is not their own."""
    if not raw_circuit(p):
        return None
    if min(values) < -1.001 or max(values) > 1.001:
        evidence = f"labels from {min(values):.3g} to {max(values):.3g}, outputs are expectation values in [-1, 1]"
        return fail(
            evidence, "the circuit cannot reach its targets", "scale the targets, or a linear layer after the circuit"
        )
    if values != [0.0, 1.0]:
        return None
    evidence = "labels are 0 and 1, outputs are expectation values in [-1, 1]"
    cause = "a prediction by the sign of the output gives -1 and 1, so that class 0 is never right"
    fix = "labels 2 * y - 1, or compare (z + 1) / 2 with 0.5"
    accuracy = next((c for c in ("train_accuracy", "test_accuracy") if p.history is not None and c in p.history), None)
    if accuracy is not None and p.history[accuracy].nunique() == 1 and len(p.history) > 2:
        told = f"; {accuracy.replace('_', ' ')} stays at {p.history[accuracy].iloc[0]:g}"
        return fail(evidence + told, cause, fix)
    return warn(evidence, cause, fix)


def raw_circuit(p: Patient) -> bool:
    """Whether the model's outputs are expectation values of a circuit as it gives them."""
    out = p.seen.output.detach().double().reshape(-1)
    return any(_is_output(site, out) and not _gives_probabilities(site) for site in p.seen.sites)


def _is_output(site: Site, out: torch.Tensor) -> bool:
    """Whether a circuit's outputs, in whatever order, are these numbers (N,)."""
    if not site.outputs or site.output.numel() != out.numel():
        return False
    return torch.allclose(site.output.detach().double().sort()[0], out.sort()[0], atol=1e-6)


def _gives_probabilities(site: Site) -> bool:
    try:
        tape = site.tape()
    except Exception:
        return False
    if tape is None:
        return "Sampler" in type(getattr(site.module, "neural_network", None)).__name__
    return any(type(m).__name__ == "ProbabilityMP" for m in tape.measurements)


def made_by(p: Patient) -> str:
    """What makes probabilities of the outputs: 'softmax', 'sigmoid' or 'qml.probs'; '' where they are none."""
    last = last_function(p.seen.output)
    if last in ("Softmax", "Sigmoid"):
        return last.lower()
    out = p.seen.output.detach().double()
    if any(_is_output(site, out.reshape(-1)) and _gives_probabilities(site) for site in p.seen.sites):
        return "qml.probs"
    if out.dim() == 2 and out.shape[1] > 1 and (out >= 0).all() and (out.sum(-1) - 1).abs().max() < 1e-4:
        return "something that sums to 1"
    return ""


@check("probabilities", "what the loss is given", section="optimisation#softmax")
def probabilities(p: Patient) -> Finding:
    out = p.seen.output.detach()
    if out.is_complex():
        return skipped("outputs are complex")
    out = out.double()
    kind = p.chosen.kind
    made = made_by(p)
    between = f"outputs from {out.min():.2f} to {out.max():.2f}"
    if kind == "sigmoid" and made:
        evidence = f"{between}, made by {made}: the loss makes probabilities from 0.50 to 0.73 of them"
        return fail(evidence, "sigmoid twice: the loss applies it itself", "return logits; sigmoid for prediction only")
    if kind == "log" and out.min() >= 0 and out.max() <= 1 and made:
        cause = "NLLLoss takes logarithms of probabilities; of probabilities the loss is negative and means nothing"
        return fail(between, cause, "log_softmax, torch.log(p + 1e-12), or logits with CrossEntropyLoss")
    if kind == "probability" and (out.min() < 0 or out.max() > 1):
        cause = "a cross-entropy of probabilities is given expectation values or logits"
        return fail(between, cause, "p = (1 + z) / 2 of an expectation value z, or logits with BCEWithLogitsLoss")
    if kind != "softmax" or out.dim() != 2:
        return skipped("for cross-entropies")
    classes = out.shape[1]
    if classes > 1 and made:
        evidence = (
            f"outputs are between 0 and 1 and sum to 1, made by {made}; the loss cannot fall below {twice(classes):.4f}"
        )
        return fail(evidence, "softmax twice: the loss applies it itself", "return logits; softmax for prediction only")
    if found := _floor(p, classes):
        return found
    if raw_circuit(p):
        floor = math.log(1 + (classes - 1) * math.exp(-2))
        evidence = f"outputs are expectation values in [-1, 1]; the loss cannot fall below {floor:.4f}"
        return warn(evidence, "expectation values stand for logits", "a linear layer after the circuit, or a scale")
    return ok(f"{between}: no probabilities")


def _floor(p: Patient, classes: int) -> Finding | None:
    """A loss that applies softmax twice by itself: of outputs that are sure and right it is not zero."""
    y = p.labels
    if p.chosen.reason or isinstance(p.loss, nn.modules.loss._Loss) or y.is_floating_point() or y.dim() != 1:
        return None
    try:
        least = floor_of(p.loss, classes, y)
    except Exception:  # a loss that takes more than two tensors
        return None
    if not math.isclose(least, twice(classes), rel_tol=1e-3):
        return None
    evidence = f"with outputs that are sure and right the loss is {least:.4f}, which is ln(1 + {classes - 1}/e)"
    return fail(
        evidence, "softmax twice: the loss applies it to what it is given, and cross-entropy again", "leave one out"
    )
