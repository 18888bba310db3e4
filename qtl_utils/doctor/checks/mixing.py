"""Checks of the doctor: what a circuit leaves of its inputs."""

from collections.abc import Iterator

import numpy as np
import torch

from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.circuits.mixing import by_depth, draw_inputs, polynomial
from qtl_utils.doctor.findings import Finding, check, ok, skipped, warn
from qtl_utils.doctor.messages import short
from qtl_utils.doctor.patient import Patient
from qtl_utils.doctor.probe import Site

MOST_TERMS = 5_000  # products of sines and cosines that a circuit is looked at with
ALONE = 0.5  # an input that does less than this by itself is mixed with others
LEFT = 0.65  # of the signal: where a linear layer gets more, mixing matters little
SMALL = 0.2  # radians, root mean square: angles so small leave the outputs to the entangler
MOST_SAMPLES = 64  # whose inputs are looked at
MOST_DEPTHS = 12  # that are tried in place of a circuit's own


@check("readout_mixing", "which inputs the outputs still tell apart", section="optimisation#mixing")
def readout_mixing(p: Patient) -> Finding:
    if not p.seen.sites:
        return skipped("the model has no circuit")
    site = _site(p)
    try:
        function, inputs, weights = site.as_function()
        found = polynomial(function, site.n_qubits, weights.numpy(), inputs.shape[-1], MOST_TERMS)
    except ValueError as error:
        return skipped(f"circuit '{site.name}' cannot be read as sines and cosines: {short(error)}")
    drawn = draw_inputs(inputs.std(0).numpy(), inputs.mean(0).numpy())
    if not any(found.inputs_of_outputs):
        return ok(f"at these angles the outputs of '{site.name}' do not depend on its inputs")
    alone = found.alone(drawn)
    left = np.nanmean(found.reach(drawn))
    mixed = np.flatnonzero(alone < ALONE)
    evidence = f"at these angles the outputs of '{site.name}' are products of "
    evidence += f"{', '.join(map(str, found.inputs_of_outputs))} inputs"
    if not mixed.size:
        return ok(f"{evidence}; every input can be read by itself")
    evidence += f": {mixed.size} of {len(alone)} inputs can hardly be read by themselves, and a linear layer gets "
    evidence += f"{left:.0%} of the signal"
    # with fewer outputs than inputs, or inputs that enter again and again, mixing is what the circuit is for
    # (and large angles rotate what they mix: that is no matter of the entangler alone)
    large = weights.square().mean().sqrt().item() > SMALL if len(weights) else False
    if left > LEFT or found.reuploads or len(found.outputs) < len(alone) or large:
        return ok(evidence)
    cause = "entangling gates multiply the encoded inputs, and small angles do not undo it"
    fix = f"{_unmixed(site)}identity blocks, no entangling gates, or a bypass (variant A-bypass)"
    return warn(evidence, cause, fix)


def _site(p: Patient) -> Site:
    """The first circuit with what it is handed: of some of the training samples where these are more than a batch."""
    samples = p.data.get("train")
    like = (
        isinstance(samples, torch.Tensor)
        and isinstance(p.images, torch.Tensor)
        and samples.shape[1:] == p.images.shape[1:]
    )
    if not like or len(samples) <= len(p.images) or MOST_SAMPLES / len(p.images) * p.step_seconds > 1.0:
        return p.seen.sites[0]
    return p.look(samples[:: max(len(samples) // MOST_SAMPLES, 1)][:MOST_SAMPLES].to(p.images)).sites[0]


def _unmixed(site: Site) -> str:
    """The depth next to a layer's own at which its circuit mixes nothing, to follow 'fix:'; '' where there is none."""
    layer = site.module
    if not isinstance(layer, QuantumLayer):
        return "another depth or entangler, "
    depth = next(unmixing_depths(layer), None)
    return "" if depth is None else f"depth {depth} in place of {layer.depth}, "


def unmixing_depths(layer: QuantumLayer) -> Iterator[int]:
    """Depths at which a layer's circuit mixes no inputs while its angles are zero, the nearest to its own first."""
    near = sorted(range(1, 2 * layer.depth + 1), key=lambda depth: (abs(depth - layer.depth), depth))
    for row in by_depth(layer.ansatz, layer.encoding, layer.n_qubits, near[:MOST_DEPTHS]):
        if row["alone"] > ALONE:
            yield row["depth"]
