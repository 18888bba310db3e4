"""Checks of the doctor: do the samples reach the outputs, and as which angles or amplitudes?"""

import math

import numpy as np
import torch
from torch import nn

from qtl_utils.circuits.program import expand
from qtl_utils.doctor.checks.graph import DIAGONAL
from qtl_utils.doctor.checks.numbers import EMBEDDINGS, amplitudes
from qtl_utils.doctor.findings import Finding, check, fail, listed, ok, skipped, warn
from qtl_utils.doctor.patient import Patient
from qtl_utils.doctor.probe import Site
from qtl_utils.doctor.samples import call, flattened, leaves

CONSTANT = 1e-5  # of the outputs' own size: what differs by less over samples does not differ
NOTHING = 1e-6  # radians: then samples are alike before they reach the circuit
NARROW = 0.05  # radians, standard deviation over samples of an encoded angle
NARROW_TRAINED = 0.01  # where a layer before the circuit can widen it
WIDE = 2 * math.pi  # radians: then samples lie in several turns
SAME_STATE = 0.995  # fidelity of the two samples that are furthest apart
USELESS = 0.5  # of the numbers of a sample
TELLING = 0.9  # accuracy of a norm that tells the classes
BLIND = 0.2  # and how much better than the largest class directions may be that do not


@check(
    "inputs_matter",
    "whether outputs depend on the inputs",
    section="gradients#inputs",
    explained_by=("differentiable", "saturation", "encoding_range"),
)
def inputs_matter(p: Patient) -> Finding:
    rows = flattened(p.images)
    if not rows.numel() or _same_rows(rows, 1e-12):
        return skipped("all samples of the batch are alike")
    out = p.seen.output.detach()
    if out.shape[:1] != p.labels.shape[:1]:
        return skipped("the batch is not the first dimension of the outputs; see 'batch'")
    out = out.reshape(len(out), -1).double()
    if p.noisy:
        return skipped("no two passes are equal; see 'reproducible'")
    apart = _apart(out)
    if apart > CONSTANT:
        return _partly(p) or ok(f"outputs differ over samples by {apart:.1e} of their size")
    evidence = f"outputs are the same for all {len(out)} samples (to {apart:.0e} of their size)"
    for told, changed in (("after the first steps", _some_steps), ("at other angles", _other_angles)):
        with p.kept():
            changed(p)
            if _apart(_flat(p.run())) > CONSTANT:
                return ok(f"{evidence}, {told} they are not")
    for site in p.seen.sites:
        if (told := _lost_in(site, len(out))) is not None:
            return fail(f"{evidence}; what goes into circuit '{site.name}' differs", *told)
    module, kind = _first_constant(p)
    if kind in ("ReLU", "ReLU6", "Threshold", "Hardtanh"):
        cause = f"all units of '{module}' are dead: what comes before is negative for every sample"
        return fail(evidence, cause, "a smaller learning rate or bias, LeakyReLU, scaled inputs")
    if kind:
        cause = f"'{module}' ({kind}) is where samples become alike"
        return fail(evidence, cause, "look at what goes into it: saturated, multiplied by 0, or rounded")
    return fail(evidence, "forward does not use its input, or multiplies it by 0", "trace the input through forward")


def _partly(p: Patient) -> Finding | None:
    """Outputs of an earlier batch that are handed out again, and inputs that no output depends on."""
    turned = p.images[list(range(len(p.labels) - 1, -1, -1))]
    first = p.run().detach()
    if torch.equal(first, p.run(turned, afresh=False).detach()) and not torch.equal(first, p.run(turned).detach()):
        evidence = "a second batch gets the outputs of the first one"
        cause = "forward keeps what it computed in its first call and hands it out again"
        return fail(evidence, cause, "compute it anew in every call; cache what does not depend on inputs or weights")
    blind = _unread(p)
    if blind is not None and blind.double().mean() > USELESS:
        evidence = f"no output depends on {int(blind.sum())} of the {blind.numel()} numbers of a sample"
        cause = "a part of the input is left out, or of a feature map that stays zero: an index, a stride, a slice"
        return warn(evidence, cause, "look at the indices in forward; print which positions are written")
    return None


def _unread(p: Patient) -> torch.Tensor | None:
    """Which numbers of a sample have no influence on any output, of those that differ over samples; None: unknown."""
    if not isinstance(p.images, torch.Tensor) or not p.images.is_floating_point():
        return None
    x = p.images.detach().clone().requires_grad_()
    out = p.run(x)
    if not out.requires_grad:
        return None
    seen = torch.zeros(x.shape[1:], dtype=torch.bool, device=x.device)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        weights = torch.randn(out.shape, generator=generator).to(out)
        (g,) = torch.autograd.grad((out * weights).sum(), x, retain_graph=True, allow_unused=True)
        if g is None:  # it leaves the graph, and may matter
            return None
        seen |= (g != 0).any(0)
    return ~seen[(x.detach().amax(0) - x.detach().amin(0)) > 0]


def _some_steps(p: Patient) -> None:
    """A last layer that starts at zero is no fault."""
    p.descend(2)


def _other_angles(p: Patient) -> None:
    """Angles at which the derivative vanishes are a matter of 'plateau'."""
    generator = torch.Generator().manual_seed(0)
    for q in p.angles.values():
        q.data = (2 * math.pi * torch.rand(q.shape, generator=generator)).to(q)


def _same_rows(rows: torch.Tensor, tolerance: float) -> bool:
    return _apart(rows) <= tolerance


def _apart(rows: torch.Tensor) -> float:
    """The largest difference over rows (B, F), relative to the size of what they hold."""
    size = rows.abs().max().item()
    return ((rows.amax(0) - rows.amin(0)).max().item() / size) if size else 0.0


def _lost_in(site: Site, n: int) -> tuple[str, str] | None:
    """Cause and fix, where a circuit's inputs differ over samples and its outputs do not."""
    if not site.inputs or site.inputs[0].dim() == 0:
        return None
    goes_in = torch.cat([x.reshape(-1, x.shape[-1] if x.dim() else 1).double() for x in site.inputs])
    comes_out = [out.detach().double() for out in site.outputs]
    per_sample = [o.reshape(n, -1) for o in comes_out if o.numel() and o.dim() and len(o) == n]
    if site.calls == n:
        per_sample = [torch.stack([o.reshape(-1) for o in comes_out]).reshape(n, -1)]
    if not per_sample or _same_rows(goes_in, 1e-6) or not all(_same_rows(rows, CONSTANT) for rows in per_sample):
        return None
    encoding, gates, measured = _encoding_gates(site)
    if encoding is None:
        return "the circuit hides them", "look at how it encodes its inputs"
    if not encoding:
        return "no gate of the circuit depends on its inputs", "encode them: qml.AngleEmbedding(inputs, wires=...)"
    if all(gates[i].name in DIAGONAL and _only_diagonal_before(gates, i) for i in encoding):
        cause = "Z rotations of |0> only turn its phase, which no measurement sees"
        return cause, "Hadamards before the encoding, or rotation='X' or 'Y'"
    wires = sorted({w for i in encoding for w in gates[i].wires}, key=str)
    cone = _light_cone(gates, measured, encoding)
    if not cone & set(encoding):
        cause = f"no gate connects wires {listed(map(str, wires))}, where the data are, with the measured ones "
        cause += f"({listed(map(str, measured))})"
        return cause, "an entangling gate between them, or measure the wires that carry data"
    cause = "what is measured commutes with the encoding, or does not see it at these angles"
    return cause, "measure another observable, or encode by another rotation"


def _encoding_gates(site: Site) -> tuple[list[int] | None, list, list]:
    """Which gates of a circuit differ between samples, all gates, and the measured wires; None where it is hidden."""
    try:
        tape = site.tape()
        again = site.tape(1) if site.later else None
    except Exception:
        return None, [], []
    if tape is None:
        return None, [], []
    gates = list(expand(tape.operations))
    other = list(expand(again.operations)) if again is not None else []
    found = []
    for number, gate in enumerate(gates):
        batched = any(isinstance(v, torch.Tensor) and v.dim() == 1 for v in gate.parameters)
        differs = number < len(other) and other[number].name == gate.name and _differ(gate, other[number])
        if batched or differs:
            found.append(number)
    measured = list(dict.fromkeys(w for m in tape.measurements for w in m.wires)) or list(tape.wires)
    return found, gates, measured


def _differ(gate, other) -> bool:
    return any(
        not np.array_equal(_number(a), _number(b)) for a, b in zip(gate.parameters, other.parameters, strict=True)
    )


def _number(value) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _only_diagonal_before(gates: list, number: int) -> bool:
    wires = set(gates[number].wires)
    return all(g.name in DIAGONAL for g in gates[:number] if wires & set(g.wires))


def _light_cone(gates: list, measured: list, wanted: list[int]) -> set[int]:
    """Which of the wanted gates the measured wires can depend on."""
    wires = set(measured)
    found = set()
    for number in reversed(range(len(gates))):
        if wires & set(gates[number].wires):
            wires |= set(gates[number].wires)
            found |= {number} & set(wanted)
    return found


def _first_constant(p: Patient) -> tuple[str, str]:
    """The first module that turns different samples into equal outputs, and its kind."""
    found = []

    def look(module, args, out, name):
        goes_in = [t for t in leaves(list(args)) if t.dim() > 1 and len(t) == len(p.labels)]
        comes_out = [t for t in leaves(out) if t.dim() > 1 and len(t) == len(p.labels)]
        if found or not goes_in or not comes_out or list(module.children()):
            return
        if not _same_rows(_flat(goes_in[0]), 1e-6) and _same_rows(_flat(comes_out[0]), CONSTANT):
            found.append((name, type(module).__name__))

    handles = [m.register_forward_hook(lambda *a, n=n: look(*a, n)) for n, m in p.model.named_modules() if n]
    try:
        call(p.model, p.images)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ("", "")


def _flat(t: torch.Tensor) -> torch.Tensor:
    return t.detach().reshape(len(t), -1).double()


# ---- angles ----------------------------------------------------------------------------------------------------------


@check(
    "encoding_range", "angles as they arrive at the gates", section="optimisation#range", explained_by=("saturation",)
)
def encoding_range(p: Patient) -> Finding:
    if not p.seen.sites:
        return skipped("the model has no circuit")
    spreads = {}
    for site in p.seen.sites:
        if (found := encoded_spread(site)) is not None:
            spreads[site.name] = found, site
    if not spreads:
        return skipped("no circuit shows which of its gates encode")
    name = min(spreads, key=lambda n: spreads[n][0].max())
    widest = spreads[name][0].max().item()
    evidence = f"angles of the encoding gates of '{name}' spread by at most {widest:.3g} rad over samples"
    if widest < NOTHING:
        return ok(f"{evidence}: see 'inputs_matter'")
    if widest < (NARROW_TRAINED if _can_widen(p, spreads[name][1]) else NARROW):
        cause = "the features are shrunk before they are encoded: all samples are almost the same state"
        return fail(evidence, cause, "scale them to a range of order pi, or by a trainable factor")
    name = max(spreads, key=lambda n: spreads[n][0].max())
    widest = spreads[name][0].max().item()
    if widest > WIDE:
        evidence = f"angles of the encoding gates of '{name}' spread by {widest:.3g} rad over samples"
        cause = f"they wrap around the circle many times: samples {2 * math.pi:.3g} rad apart are the same state"
        return fail(
            evidence, cause, "scale the features to a range of order pi: standardise, min-max, or tanh times pi / 2"
        )
    return ok(evidence)


def encoded_spread(site: Site) -> torch.Tensor | None:
    """Standard deviations over samples, in radians, of the angles of a circuit's encoding gates; None where hidden."""
    encoding, gates, _ = _encoding_gates(site)
    if not encoding or amplitudes(site):
        return None
    calls = [gates, *(list(expand(site.tape(call).operations)) for call in range(1, len(site.later) + 1))]
    if len({len(call) for call in calls}) > 1:  # another circuit for every sample
        return None
    spreads = []
    for number in encoding:
        for place in range(len(gates[number].parameters)):
            angles = np.concatenate([np.ravel(_number(call[number].parameters[place])) for call in calls])
            if np.isrealobj(angles) and len(angles) > 1:
                spreads.append(angles.std(ddof=1))
    return torch.tensor(spreads) if spreads else None


def _can_widen(p: Patient, site: Site) -> bool:
    """Whether a trainable layer stands before the circuit."""
    angles = {id(q) for q in site.angles}
    place = list(p.model.modules()).index(site.module) if site.module in list(p.model.modules()) else 0
    before = list(p.model.modules())[:place]
    return any(
        q.requires_grad and id(q) not in angles
        for m in before
        if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.RNNBase))
        for q in m.parameters(recurse=False)
    )


# ---- amplitudes ------------------------------------------------------------------------------------------------------


@check("amplitude", "what amplitude embedding keeps of the features", section="optimisation#amplitude")
def amplitude(p: Patient) -> Finding:
    sites = [s for s in p.seen.sites if amplitudes(s) and s.inputs and s.inputs[0].dim() > 0]
    if not sites:
        return skipped("no circuit takes its inputs as amplitudes")
    rows = torch.cat([x.reshape(-1, x.shape[-1]).double().cpu() for x in sites[0].inputs])
    norms = rows.norm(dim=-1)
    varies = (norms.std() / norms.mean()).item() if len(norms) > 1 and norms.mean() else 0.0
    evidence = f"lengths of the feature vectors vary by {varies:.0%}; amplitudes keep their directions only"
    states = _directions(sites[0], rows)
    alike = (states @ states.T).square().min().item()
    if alike > SAME_STATE:
        cause = "the features share a large offset, so that after normalising all samples are almost one state"
        evidence = f"any two samples have amplitudes with a fidelity of {alike:.4f} or more"
        return fail(evidence, cause, "subtract the mean of every feature (StandardScaler) before the embedding")
    labels = p.labels.flatten()
    if len(labels) != len(rows) or varies < 0.05 or len(labels.unique()) < 2 or len(labels.unique()) > len(labels) // 3:
        return ok(evidence)
    by_length = _nearest_mean(norms[:, None], labels)
    by_direction = _nearest_mean(states, labels)
    largest = labels.unique(return_counts=True)[1].max().item() / len(labels)
    evidence += (
        f"; the nearest class mean is right for {by_length:.0%} of samples by length, {by_direction:.0%} by direction"
    )
    if by_length >= TELLING and by_direction <= largest + BLIND:
        cause = "the classes differ in the length of the feature vector, which normalising throws away"
        return fail(
            evidence, cause, "encode the norm as one more feature (pad_with a constant before normalising), or angles"
        )
    return ok(evidence)


def _directions(site: Site, rows: torch.Tensor) -> torch.Tensor:
    """What a circuit makes amplitudes of: feature vectors (B, F) of length one, with what it pads them with."""
    for op in site.tape().operations:
        state = op.parameters[0] if op.name in EMBEDDINGS else None
        if isinstance(state, torch.Tensor) and state.dim() == 2 and len(state) == len(rows):
            return torch.view_as_real(state.detach().to(torch.complex128)).reshape(len(rows), -1).cpu()
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def _nearest_mean(x: torch.Tensor, labels: torch.Tensor) -> float:
    """Accuracy of the nearest class mean, each sample left out of the means it is held against."""
    right = 0
    for i in range(len(x)):
        others = torch.arange(len(x)) != i
        means = {
            c: x[others & (labels == c)].mean(0) for c in labels.unique().tolist() if (others & (labels == c)).any()
        }
        right += min(means, key=lambda c: (x[i] - means[c]).norm().item()) == labels[i].item()
    return right / len(x)
