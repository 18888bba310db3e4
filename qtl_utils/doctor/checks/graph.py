"""Checks of the doctor: does the model run, and does the gradient reach what it should, rightly?"""

import math
from collections.abc import Iterator
from contextlib import closing

import torch
from torch import nn

from qtl_utils.circuits.program import expand
from qtl_utils.doctor.findings import Finding, check, fail, listed, ok, skipped, warn
from qtl_utils.doctor.messages import explain, short
from qtl_utils.doctor.patient import FEW, Patient, alike, norm
from qtl_utils.doctor.probe import CUTS, SQUASHES, Observation, Site, graph_nodes, used_method
from qtl_utils.doctor.samples import leaves
from qtl_utils.models.pieces import Pieces

ZERO = 1e-10  # gradients below, over random draws, are zero
DRAWS = 6  # random angle settings
ESTIMATES = ("finite-diff", "spsa")
NOTHING = 1e-6  # a gradient that is rounding alone
COARSE = {torch.float16, torch.bfloat16}
FLAT_GRADIENT = 0.02  # of an output by an angle, per radian
WIDE = 8  # qubits: gradients of random circuits of fewer are above 0.06
COSTLY = 0.15  # of the slope of a squashing function at zero: gradients before it are seven times smaller
SATURATED = 0.95  # of the range of a squashing function


@check("devices", "where model and batch are", section="simulators#devices", runs=False)
def devices(p: Patient) -> Finding:
    tensors = {**dict(p.model.named_parameters()), **dict(p.model.named_buffers())}
    tensors |= {"inputs": leaves(p.images)[0]}
    where = {}
    for name, tensor in (tensors | {"labels": p.labels}).items():
        where.setdefault(str(tensor.device), []).append(name)
    if len(where) > 1:
        places = "; ".join(f"{listed(names)} on {device}" for device, names in where.items())
        fix = "model.to(device), images.to(device) and labels.to(device), before the optimiser is made"
        return fail(places, "parts of the model or the batch were left on another device", fix)
    (device,) = where
    if p.error is None and not device.startswith("cpu"):
        small = [s for s in p.seen.sites if 0 < s.n_qubits <= 10]
        if small:
            evidence = f"{small[0].n_qubits} qubits are {2 ** small[0].n_qubits} amplitudes, simulated on {device}"
            return warn(evidence, "launching kernels takes longer than computing them", "run the circuit on the CPU")
    return ok(f"everything is on {device}")


@check(
    "forward",
    "forward pass, loss and backward pass",
    section="simulators#errors",
    explained_by=("devices",),
    runs=False,
)
def forward(p: Patient) -> Finding:
    if p.error is not None:
        found = explain(p.error)
        observed = getattr(p.error, "observed", None)
        if observed is not None and (told := _second_derivative(observed)):
            return fail(f"{found.evidence}; forward differentiates the circuit", *told)
        return found
    shapes = tuple(p.seen.output.shape), tuple(p.labels.shape)
    if p.seen.output.is_complex():
        cause = "a state is complex; layers and losses are real"
        return fail(
            "outputs are complex numbers", cause, "probabilities or expectation values; torch.view_as_real(state)"
        )
    if p.loss is not None and p.chosen.kind in ("square", "distance") and shapes[0] != shapes[1]:
        cause = "the loss compares every output with every label instead of its own"
        return fail(f"outputs {shapes[0]}, labels {shapes[1]}", cause, "labels.view_as(outputs)")
    return ok(f"loss {p.loss_at().item():.4f}, outputs {shapes[0]}, a step takes {p.step_seconds:.3f} s")


@check("dtypes", "precision through the model", section="simulators#precision")
def dtypes(p: Patient) -> Finding:
    own = {q.dtype for q in p.model.parameters() if q.is_floating_point()}
    if site := next((s for s in p.seen.sites if s.dtypes & COARSE), None):
        (low,) = site.dtypes & COARSE
        evidence = f"circuit '{site.name}' is handed {str(low).removeprefix('torch.')}: angles rounded to 2 or 3 digits"
        cause = "mixed precision, by autocast or .half(), reaches the circuit"
        return fail(evidence, cause, "x.float() and torch.autocast(..., enabled=False) around the circuit")
    changes = [(name, a, b) for name, a, b in p.seen.dtypes if a != b and b.itemsize > a.itemsize]
    wide = {b for _, _, b in changes}
    if changes and (p.seen.output.dtype in wide or any(a in wide for _, a, _ in p.seen.dtypes)):
        name, a, b = changes[0]
        cause = "the circuit computes in float64 and its result is handed on as it is"
        return warn(f"{name} turns {a} into {b}".replace("torch.", ""), cause, "circuit_output.to(x.dtype)")
    if len(own) > 1:
        text = " and ".join(sorted(str(d).removeprefix("torch.") for d in own))
        return warn(f"parameters are {text}", "parts were made with different precision", "model.float()")
    return ok(f"{listed(sorted(str(d).removeprefix('torch.') for d in own))} throughout")


@check("differentiable", "steps that no gradient passes", section="gradients#detached")
def differentiable(p: Patient) -> Finding:
    stops = list(dict.fromkeys(p.seen.stops))
    if not stops:
        return ok("no sign, round, argmax, .item() or NumPy between parameters and outputs")
    _, grads = p.gradients()
    blocked = _zero_after_steps(p, [name for name, g in grads.items() if g is None or not g.any()])
    name, where = stops[0]
    evidence = f"{name} in the forward pass: {where}" if where else f"{name} in the forward pass"
    if not blocked:
        return ok(f"{evidence}; the gradient reaches every parameter on another way")
    cause = "it leaves the graph: what comes before gets no gradient"
    if name not in CUTS:
        cause = "its derivative is zero: what comes before gets a gradient of zero"
    fix = "torch.stack(outputs, dim=-1)" if name in CUTS else "a smooth function such as tanh"
    return fail(f"{evidence}; no gradient for {listed(blocked)}", cause, fix)


@check("saturation", "how far the encoding is saturated", section="optimisation#saturation")
def saturation(p: Patient) -> Finding:
    feeding = [(name, out) for name, out, site in p.seen.squashes if site]
    if not feeding:
        return skipped("no tanh, sigmoid or arctan feeds a circuit")
    name = feeding[0][0]
    share = []
    slope = []
    for function, out in feeding:
        centred = out.double() - (0.5 if function == "sigmoid" else 0.0)
        share.append((centred.abs() / SQUASHES[function] > SATURATED).double().flatten())
        slope.append((1 - (centred / SQUASHES[function]).square()).flatten())
    share = torch.cat(share).mean().item()
    slope = torch.cat(slope).mean().item()
    evidence = f"{share:.0%} of the encoded values beyond {SATURATED:.0%} of {name}'s range, mean slope {slope:.2f}"
    cause = "the features are too large for the pre-layer: all samples look alike to the circuit"
    fix = "standardise the features, on the training set, or put LayerNorm before the layer"
    if share > 0.5 or slope < COSTLY:
        return fail(evidence, cause, fix)
    if share > 0.4 or slope < 2 * COSTLY:
        return warn(f"{evidence}: gradients before it are {1 / max(slope, 1e-3):.1f} times smaller", cause, fix)
    return ok(evidence)


@check(
    "plateau",
    "size of the circuit's gradient at the start",
    section="optimisation#plateau",
    steps=2 * DRAWS,
    explained_by=("differentiable", "saturation", "encoding_range", "inputs_matter"),
)
def plateau(p: Patient) -> Finding:
    if not p.angles:
        return skipped("the model has no trainable angles")
    if p.shots:
        return skipped("the circuit samples shots; see 'shot_noise'")
    worst = None
    for site in p.seen.sites:
        if not any(q.requires_grad for q in site.angles):
            continue
        here, spread = (_rms(list(_site_gradients(p, site, spread))) for spread in (False, True))
        if worst is None or here < worst[0]:
            worst = here, spread, site
    here, spread, site = worst
    qubits = f"{site.n_qubits} qubits" if site.n_qubits else "the circuit"
    if max(here, spread) < NOTHING:
        return ok(f"no angle changes the outputs, wherever it is; see 'dead_angles' ({spread:.0e} rad^-1)")
    two_design = f"; a random circuit of that size has about {2 ** (-site.n_qubits / 2):.3f}" if site.n_qubits else ""
    evidence = f"{qubits}: gradient {here:.1e} per angle, {spread:.1e} at angles from U[0, 2 pi]{two_design}"
    if here > FLAT_GRADIENT:
        return ok(evidence)
    if here < 0.1 * spread:
        cause = "a dead start: at these initial angles the derivative vanishes, elsewhere it does not"
        return fail(evidence, cause, "start at small random angles")
    if 0 < site.n_qubits < WIDE:
        return ok(f"{evidence}; with so few qubits this is no plateau")
    cause = "a barren plateau: deep, random circuits have gradients that vanish with the number of qubits"
    return fail(evidence, cause, "fewer layers or qubits, small initial angles, a cost of single qubits")


def _rms(gradients: list[list]) -> float:
    """Root mean square over draws and over the angles that are reached at all."""
    if all(g is None for row in gradients for g in row):
        return 0.0
    flat = torch.stack([torch.cat([g.double().flatten() for g in row if g is not None]) for row in gradients])
    reached = flat[:, flat.abs().amax(0) > 1e-5 * flat.abs().max() + ZERO]
    return reached.square().mean().sqrt().item() if reached.numel() else 0.0


@check(
    "gradient_reaches",
    "gradients of all parameters",
    section="gradients#none",
    explained_by=("differentiable", "saturation", "labels", "plateau", "inputs_matter"),
)
def gradient_reaches(p: Patient) -> Finding:
    if not p.trainable:
        return fail("no parameter is trainable", "requires_grad is False everywhere", "p.requires_grad_(True)")
    if loose := _unregistered(p):
        fix = "self.weights = nn.Parameter(...)"
        return fail(f"{loose} trainable tensors are no parameters", "the optimiser and state_dict do not see them", fix)
    _, grads = p.gradients()
    none = [name for name, g in grads.items() if g is None]
    if none:
        site = next((s for s in p.seen.sites if s.kind == "TorchConnector"), None)
        if site is not None and not getattr(site.module.neural_network, "input_gradients", True):
            cause = "Qiskit's network was made without input_gradients=True, so that layers before it get nothing"
            return fail(f"no gradient for {listed(none)}", cause, "EstimatorQNN(..., input_gradients=True)")
        return _without_gradient(p, none)
    zero = [name for name, g in grads.items() if not g.any()]
    if zero and (still := _zero_after_steps(p, zero)):
        site_names = {s.name for s in p.seen.sites}
        quantum = [n for n in still if n.rpartition(".")[0] in site_names or n in p.angles]
        if len(quantum) < len(still) or len(quantum) == len(p.angles):
            cause = (
                "a layer after them has a derivative of zero everywhere: dead ReLUs, a constant, a multiplication by 0"
            )
            return fail(
                f"gradient exactly zero for {listed(still)}", cause, "look at the layer behind the last of these"
            )
    late = f"; {listed(zero)} after the first step only" if zero else ""
    return ok(f"all {len(grads)} parameter tensors get a gradient{late}")


def _without_gradient(p: Patient, names: list[str]) -> Finding:
    """Parameters that the graph does not lead to: cut off where outputs depend on them, unused where they do not."""
    evidence = f"no gradient for {listed(names)}"
    if p.seen.nested:
        cause = (
            f"a QNode is called inside of a QNode ({p.seen.nested[0]}): it runs by itself, its gates are thrown away"
        )
        return fail(evidence, cause, "leave the decorator off the inner function, one QNode around all")
    moving = [name for name in names if _moves_outputs(p, name)]
    if not moving:
        return fail(
            f"{evidence}, and outputs stay when they change", "they take no part in the output", "use them in forward"
        )
    evidence = f"no gradient for {listed(moving)}, although outputs move when they change"
    if _loss_cuts(p, moving):
        cause = "the graph ends in the loss: it makes new tensors of the outputs (torch.tensor, .item(), NumPy, argmax)"
        return fail(f"{evidence}; of the outputs alone there is one", cause, "a loss of torch functions on the outputs")
    if found := _second_derivative(p.seen):
        return fail(f"{evidence}; forward differentiates the circuit", *found)
    sampled = [s for s in p.seen.sites if s.outputs and not s.output.is_floating_point()]
    if sampled or any(_returns_samples(s) for s in p.seen.sites):
        cause = "the circuit returns samples or counts, which have no derivative"
        return fail(evidence, cause, "return expectation values or probabilities")
    cause = (
        "the graph is cut between them and the outputs: a copy by torch.tensor, as_tensor or NumPy, .item(), no_grad"
    )
    return fail(evidence, cause, "torch.stack and torch functions all the way, outside of torch.no_grad()")


def _loss_cuts(p: Patient, names: list[str]) -> bool:
    """Whether the outputs have a gradient by these parameters and the loss has none."""
    out = p.run()
    if not out.requires_grad:
        return False
    grads = torch.autograd.grad(out.sum(), [p.trainable[name] for name in names], allow_unused=True)
    return all(g is not None for g in grads)


def _second_derivative(seen: Observation) -> tuple[str, str] | None:
    """Cause and fix, where the forward pass differentiates a circuit whose derivative is a constant for autograd."""
    once = [s for s in seen.sites if s.node is not None and s.node.execute_kwargs.get("max_diff", 1) == 1]
    method = used_method(once[0]) if once else ""
    if not seen.derivatives or not once or method == "backprop":
        return None
    if method == "adjoint":
        cause = "adjoint differentiation has first derivatives only: there is no second derivative of the circuit"
        return cause, "diff_method='backprop', or parameter-shift with max_diff=2"
    cause = f"'{method}' with max_diff=1 has no second derivative: the first one counts as a constant"
    return cause, "diff_method='backprop', or max_diff=2 with parameter-shift"


def _returns_samples(site: Site) -> bool:
    try:
        tape = site.tape()
    except Exception:
        return False
    return tape is not None and any(type(m).__name__ in ("SampleMP", "CountsMP") for m in tape.measurements)


def _moves_outputs(p: Patient, name: str) -> bool:
    """Whether the outputs change when a parameter does."""
    before = p.run().detach()
    q = p.trainable[name]
    with p.kept(), torch.no_grad():
        q.add_(0.3 + 0.1 * torch.rand(q.shape, generator=torch.Generator().manual_seed(0)).to(q))
        return not alike(before, p.run().detach())


def _unregistered(p: Patient) -> int:
    """How many tensors that want gradients the outputs depend on and the model does not own."""
    owned = {id(q) for q in p.model.parameters()}
    used = {id(node.variable) for node in graph_nodes(p.seen.output) if hasattr(node, "variable")}
    return len(used - owned)


def _zero_after_steps(p: Patient, names: list[str], steps: int = 2) -> list[str]:
    """Which of `names` have no gradient even after some steps: a last layer that starts at zero is no fault."""
    with p.kept():
        p.descend(steps)
        passes = [p.gradients()[1], p.gradients(afresh=False)[1]]  # a hidden state is zero in the first pass
    return [name for name in names if not any(g[name] is not None and g[name].any() for g in passes)]


@check(
    "dead_angles",
    "angles that no output depends on",
    section="gradients#dead",
    steps=DRAWS,
    explained_by=("inputs_matter", "gradient_reaches", "differentiable"),
)
def dead_angles(p: Patient) -> Finding:
    if not p.angles:
        return skipped("the model has no trainable angles")
    total = 0
    dead = 0
    unused = 0
    inert = 0
    shared = 0
    for site in p.seen.sites:
        reached = _reached(p, site)
        for q in site.angles:
            mask = ~reached[id(q)]
            if not q.requires_grad or not mask.any():
                total += q.numel() * q.requires_grad
                continue
            times, diagonal = _used(site, q)
            used = times > 0
            shared = shared + int((times > 1).sum())
            total = total + q.numel()
            dead = dead + int(mask.sum())
            unused = unused + int((mask & ~used).sum())
            inert += int((mask & used & diagonal).sum())
    if not dead:
        return ok(f"all {total} angles change the output")
    found = f"{dead} of {total} angles have a gradient of exactly zero over {DRAWS} random draws"
    if unused and shared:
        cause = "an index with a wrong stride: some angles serve several gates, others none"
        return fail(
            f"{found}; {unused} of them are in no gate, {shared} in several", cause, "weights of shape (layers, angles)"
        )
    if unused:
        cause = "more angles are registered than the circuit uses"
        fix = f"register {total - unused} angles: a shape that matches the layers in use"
        return fail(f"{found}; {unused} of them are in no gate", cause, fix)
    if dead == inert and dead == total:
        cause = "all of them are rotations about Z right before <Z>, or of |0>: the circuit has nothing to train"
        return fail(found, cause, "RX or RY, or measure X")
    if dead == inert:
        return ok(f"{found}: rotations about Z before <Z> or on |0>, which the template makes inert")
    cause = "they act on wires that no measurement sees"
    fix = "measure the other wires, or entangle them with the measured ones"
    if dead <= total / 2:  # the last layers of an ansatz behind one measured wire
        return ok(f"{found}: {cause}")
    return warn(found, cause, fix)


def _reached(p: Patient, site: Site) -> dict[int, torch.Tensor]:
    """Angle tensor (by id) -> which of its elements some output of the circuit depends on."""
    reached = {id(q): torch.zeros(q.shape, dtype=torch.bool) for q in site.angles}
    trained = [q for q in site.angles if q.requires_grad]
    with closing(_site_gradients(p, site)) as gradients:
        for gradient in gradients:
            for q, g in zip(trained, gradient, strict=True):
                if g is not None:
                    reached[id(q)] |= (g.abs() > _zero(g)).cpu()
            if all(reached[id(q)].all() for q in trained):
                break
    return reached


def _zero(g: torch.Tensor) -> float:
    """What counts as zero: rounding, which in float32 is larger."""
    return ZERO if g.dtype == torch.float64 else max(1e-5 * g.abs().max().item(), NOTHING)


def _site_gradients(p: Patient, site: Site, spread: bool = True) -> Iterator[list]:
    """Gradients of random combinations of a circuit's outputs by its angles, at random angles or the present ones."""
    generator = torch.Generator().manual_seed(0)
    wanted = [q for q in site.angles if q.requires_grad]
    with p.kept():
        for _ in range(DRAWS):
            if spread:
                for q in wanted:
                    q.data = (math.tau * torch.rand(q.shape, generator=generator)).to(q)
            again = next(s for s in p.look(p.few[0]).sites if s.key == site.key)
            direction = torch.randn(again.output.shape, generator=generator).to(again.output)
            loss = (again.output * direction).sum() / direction.norm()
            yield list(torch.autograd.grad(loss, wanted, allow_unused=True))


def _used(site: Site, q: nn.Parameter) -> tuple[torch.Tensor, torch.Tensor]:
    """In how many gates each element of an angle tensor is, and which are in gates only that change no outcome."""
    tape = site.tape()
    used = torch.zeros(q.shape, dtype=torch.long)
    if tape is None:
        return used + 1, torch.zeros(q.shape, dtype=torch.bool)
    gates = list(expand(tape.operations))
    moving = torch.zeros(q.shape, dtype=torch.bool)
    for number, gate in enumerate(gates):
        values = [v for v in gate.parameters if isinstance(v, torch.Tensor) and v.requires_grad]
        if not values:
            continue
        (g,) = torch.autograd.grad(sum(v.sum() for v in values), q, allow_unused=True, retain_graph=True)
        if g is not None:
            used += (g != 0).cpu()
            idle = _diagonal_to_the_end(gate, gates[number + 1 :]) or _diagonal_from_the_start(gate, gates[:number])
            moving |= (g != 0).cpu() & (not idle)
    return used, (used > 0) & ~moving


DIAGONAL = {"RZ", "PhaseShift", "PauliZ", "S", "T", "CZ", "IsingZZ", "CRZ", "ControlledPhaseShift"}
PERMUTING = {"CNOT", "PauliX", "SWAP", "Toffoli", "Identity"}


def _diagonal_from_the_start(gate, earlier) -> bool:
    """Whether a gate only turns the phase of |0>."""
    before = [other for other in earlier if set(gate.wires) & set(other.wires)]
    return gate.name in DIAGONAL and all(other.name in DIAGONAL for other in before)


def _diagonal_to_the_end(gate, later) -> bool:
    """Whether a gate and all later ones on its light cone keep Z words Z words: measurements of Z cannot see it."""
    if gate.name not in DIAGONAL:
        return False
    wires = set(gate.wires)
    for other in later:
        if wires & set(other.wires):
            if other.name not in DIAGONAL | PERMUTING:
                return False
            wires |= set(other.wires)
    return True


@check(
    "batch",
    "samples of a batch against single ones",
    section="gradients#batch",
    steps=2 * FEW,
)
def batch(p: Patient) -> Finding:
    images, _ = p.few
    if found := _of_another_size(p):
        return found
    if p.seen.output.shape[:1] != p.labels.shape[:1]:
        shape = tuple(p.seen.output.shape)
        fix = "return a list, not a tuple, from a QNode in a TorchLayer; torch.stack(outputs, dim=-1)"
        return fail(f"{len(p.labels)} samples gave outputs {shape}", "the batch is not the first dimension", fix)
    if p.noisy:
        return skipped("no two passes are equal; see 'reproducible'")
    together = p.run(images).detach()
    alone = torch.cat([p.run(images[i : i + 1]).detach() for i in range(len(images))])
    if alone.shape != together.shape:
        evidence = f"outputs {tuple(together.shape)} for a batch, {tuple(alone.shape)} sample by sample"
        return fail(evidence, "a reshape mixes batch and features", "keep the batch in the first dimension")
    apart = (together - alone).abs().max().item() / (alone.abs().max().item() or 1.0)
    if apart > 1e-3:
        cause = "samples influence each other: a reshape or a softmax over the wrong dimension"
        return fail(f"outputs change by {apart:.0%} with their neighbours", cause, "reduce over dim=-1, keep dim 0")
    return _batch_gradient(p, images)


def _of_another_size(p: Patient) -> Finding | None:
    """A batch with a sample less, or of one, where only the size that was given runs or runs rightly."""
    n = len(p.images)
    on_wires = n in {s.n_qubits for s in p.seen.sites}
    for size in (n - 1, 1):
        try:
            out = p.run(p.images[:size])
        except Exception as error:
            evidence = f"a batch of {size} raises where one of {n} runs: {type(error).__name__}: {short(error, 120)}"
            if on_wires:
                return fail(evidence, *_transposed(n))
            fix = "take the size from x.shape[0]; keep the batch in the first dimension"
            return fail(evidence, "forward is made for one size of batch", fix)
        if on_wires and out.dim() and p.seen.output.shape[:1] == (n,) and len(out) != size:
            shapes = f"outputs {tuple(out.shape)}, {n} gave {tuple(p.seen.output.shape)}"
            return fail(f"{size} sample{'s' * (size > 1)} gave {shapes}", *_transposed(n))
    return None


def _transposed(wires: int) -> tuple[str, str]:
    cause = f"the circuit runs over len(inputs), which is the batch: samples, not features, go to its {wires} wires"
    return cause, "inputs[..., i] with i in range(n_wires)"


def _batch_gradient(p: Patient, images) -> Finding:
    if estimates := [s.method for s in p.seen.sites if s.method in ESTIMATES]:
        return ok(f"outputs do not depend on their neighbours; gradients of '{estimates[0]}' are estimates")
    shape = (len(images), *p.seen.output.shape[1:])
    direction = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(p.seen.output)
    whole = p.projected(images, direction)
    parts = [p.projected(images[i : i + 1], direction[i : i + 1]) for i in range(len(images))]
    total = {name: sum(g[name] for g in parts) for name, g in whole.items() if g is not None}
    error = norm(whole[name] - g for name, g in total.items()) / (norm(total.values()) or 1.0)
    worst = max(total, key=lambda name: norm([whole[name] - total[name]]), default="")
    if error > 1e-2:
        cause = "a backward function that sums or averages over the batch once too often"
        evidence = f"the gradient of a batch differs by {error:.0%} from that of its samples, most in {worst}"
        return fail(evidence, cause, "diff_method='backprop' or 'adjoint', or one sample at a time")
    return ok(f"a batch gives what its samples give: outputs and gradients to {error:.0e}")


@check(
    "gradient_correct",
    "gradients against finite differences in float64",
    section="gradients#wrong",
    steps=16,
    explained_by=("dtypes", "differentiable", "gradient_reaches", "batch"),
)
def gradient_correct(p: Patient) -> Finding:
    if p.shots:
        return skipped("the circuit samples shots; see 'shot_noise'")
    if p.noisy:
        return skipped("no two passes are equal; see 'reproducible'")
    images = p.images[:2]
    labels = p.labels[:2]
    _, found = p.gradients(images, labels)
    chosen = {name: _largest(found[name]) for name in _some_parameters(p) if found[name] is not None}
    with p.kept():
        try:
            p.model.double()
            precise = images.double(), labels.double() if labels.is_floating_point() else labels
            if p.loss_at(*precise).dtype != torch.float64:
                raise TypeError("a step in between is float32")
            reference = _differences(p, chosen, *precise, 1e-5)
            tolerance = 0.02
            precision = "float64"
        except Exception:  # a circuit, a bridge or a loss that is float32 only
            reference = None
            tolerance = 0.1
            precision = "float32"
    if reference is None:
        reference = _differences(p, chosen, images, labels, 1e-2)
    errors = {}
    for name, index in chosen.items():
        ours = found[name].flatten()[index].double()
        theirs = reference[name]
        size = theirs.norm().item()
        if size > 1e-6 * (1 if precision == "float64" else 1e3):
            errors[name] = (ours - theirs).norm().item() / size
    if not errors:
        return skipped("all gradients that were tried are too small to be compared")
    worst = max(errors, key=errors.get)
    if errors[worst] <= tolerance:
        return ok(f"relative error at most {errors[worst]:.0e} in {listed(errors)}, against {precision} differences")
    methods = [s.method for s in p.seen.sites if s.method in ESTIMATES]
    evidence = f"the gradient of {worst} is off by {errors[worst]:.0%} of itself"
    if not methods and (told := _second_derivative(p.seen)):
        return fail(f"{evidence}; forward differentiates the circuit", *told)
    if methods:
        cause = f"'{methods[0]}' estimates the gradient, and its default step suits neither float32 nor one step alone"
        return fail(evidence, cause, "diff_method='backprop' or 'adjoint'; with shots 'parameter-shift'")
    return fail(evidence, "a backward function that does not belong to its forward", "torch.autograd.gradcheck on it")


def _some_parameters(p: Patient) -> list[str]:
    """Names of the angles and of the first and last other parameters with more than one dimension."""
    others = [name for name, q in p.trainable.items() if name not in p.angles and q.dim() > 1]
    return list(dict.fromkeys([*list(p.angles)[:2], *others[:1], *others[-1:]]))


def _largest(gradient: torch.Tensor, n: int = 4) -> torch.Tensor:
    """Positions of the largest elements; rounding matters least there."""
    flat = gradient.flatten().abs()
    return flat.topk(min(n, len(flat))).indices


def _differences(p: Patient, chosen: dict, images, labels, h: float) -> dict[str, torch.Tensor]:
    """Central differences of the loss by some elements of some parameters, within the smooth piece the model is on."""
    parameters = dict(p.model.named_parameters())
    found = {}
    with torch.no_grad():
        with Pieces() as here:
            p.loss_at(images, labels)
        for name, index in chosen.items():
            tensor = parameters[name].data
            values = []
            for i in index:
                at = torch.unravel_index(i, tensor.shape)
                losses = []
                kept = tensor[at].item()
                for shift in (h, -h):
                    tensor[at] = kept + shift
                    with Pieces(here.found):
                        losses.append(p.loss_at(images, labels).item())
                tensor[at] = kept
                values.append((losses[0] - losses[1]) / (2 * h))
            found[name] = torch.tensor(values, dtype=torch.float64)
    return found
