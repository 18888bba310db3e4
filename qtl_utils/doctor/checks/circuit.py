"""Checks of the doctor: how circuits are simulated, differentiated, seeded and saved."""

import io
import math
import random
import time
from collections.abc import Callable

import numpy as np
import pennylane as qml
import torch
from torch import nn

from qtl_utils.circuits.program import expand
from qtl_utils.circuits.simulators import METHODS, Counts
from qtl_utils.doctor.findings import Finding, check, fail, listed, ok, skipped, warn
from qtl_utils.doctor.messages import short
from qtl_utils.doctor.patient import FEW, Patient, alike
from qtl_utils.doctor.probe import Site, exact_circuits, replaced_input, saved_by_circuits, used_method, without_noise
from qtl_utils.doctor.samples import call, leaves, picked

REPEATS = 12  # of a sampled gradient: with few of them a ratio below 1 can pass for one above it
SHIFTS = ("parameter-shift", "finite-diff", "spsa", "hadamard")  # methods that run the circuit anew
MANY = 16  # samples, or times as many executions: less is no matter
MANY_CIRCUITS = 2_000  # in a step
SMALL = 10  # qubits: with more, a batch of states does not fit the cache
REVERSE = ("backprop", "adjoint")  # methods whose cost does not grow with the number of angles


@check("per_sample_loop", "how often the circuit runs per batch", section="simulators#loop")
def per_sample_loop(p: Patient) -> Finding:
    if not p.seen.sites:
        return skipped("the model has no circuit")
    site = max(p.seen.sites, key=lambda s: s.calls)
    few = next((s.calls for s in p.look(p.images[:2]).sites if s.key == site.key), site.calls)
    if len(p.images) > 2 and site.calls > few and site.calls >= len(p.images):
        if why := _cannot_batch(site):
            return ok(f"circuit '{site.name}' runs {site.calls} times for {len(p.images)} samples, as it must: {why}")
        cause = "forward loops over the samples of a batch; simulators take the whole batch at once"
        fix = "pass the batch: inputs[..., i] in the circuit, torch.stack(outputs, dim=-1) after it"
        return fail(f"circuit '{site.name}' runs {site.calls} times for {len(p.images)} samples", cause, fix)
    return ok(f"circuit '{site.name}' runs {site.calls} time{'s' * (site.calls > 1)} for {len(p.images)} samples")


def _cannot_batch(site: Site) -> str:
    """Why a circuit takes its samples one by one only; '' where it would take them all at once."""
    if site.node is None:
        return ""
    try:
        used = used_method(site)
        measured = any(op.name == "MidMeasureMP" for op in site.tape().operations)
    except Exception:
        return ""
    trained = any(x.requires_grad for x in _inputs_of(site))
    if used in SHIFTS and trained:
        return f"'{used}' differentiates no batch behind a trainable layer"
    if measured:
        return "it measures in mid-circuit"
    if len(site.inputs) > 1 and all(x.dim() < 2 and x.shape == site.inputs[0].shape for x in site.inputs):
        try:
            args, kwargs = replaced_input(site, torch.stack(site.inputs))
            site.node(*args, **kwargs)
        except Exception as error:
            return f"of a batch it raises {type(error).__name__}: {short(error, 80)}"
    return ""


def _inputs_of(site: Site) -> list[torch.Tensor]:
    """The tensors of the first call that are no angles."""
    tensors = leaves([list(site.arguments[0]), site.arguments[1]])
    return [t for t, angle in zip(tensors, site.roles, strict=False) if not angle]


@check("method", "the differentiation method that is used", section="simulators#method", steps=2)
def method(p: Patient) -> Finding:
    sites = [s for s in p.seen.sites if s.node is not None]
    if not sites:
        if found := _shifted_network(p):
            return found
        kinds = [f"{s.name}: {s.method or 'by its own rule'}" for s in p.seen.sites]
        return ok(listed(kinds)) if kinds else skipped("the model has no circuit")
    site = sites[0]
    asked = site.method
    used = used_method(site)
    if found := _sample_by_sample(p, site):
        return found
    with qml.Tracker(site.node.device) as tracker:
        p.gradients(*p.few)
    runs = _runs(tracker)
    counts = _counts(site)
    formula = METHODS[used].executions(counts) if used in METHODS and METHODS[used].executions else None
    expected = f"; {used} needs {formula} a sample for {counts.gates} angles" if formula else ""
    evidence = f"asked '{asked}', used '{used}': {runs} executions for {len(p.few[0])} samples{expected}"
    if asked == "best" and used not in REVERSE:
        cause = f"'best' means '{used}' on this device and with these measurements"
        return warn(evidence, cause, "name the method; without shots 'backprop' or 'adjoint' are the fast ones")
    return ok(evidence)


def _shifted_network(p: Patient) -> Finding | None:
    """A Qiskit network whose gradient takes two circuits for every parameter and sample, on a simulator."""
    for site in p.seen.sites:
        network = getattr(site.module, "neural_network", None)
        rule = type(getattr(network, "gradient", None)).__name__
        if not rule.startswith("ParamShift") or site.shots:
            continue
        angles = network.num_weights + network.num_inputs * network.input_gradients
        circuits = 2 * angles * len(p.images)
        if circuits >= MANY_CIRCUITS:
            evidence = f"{circuits:,} circuits a step, for {angles} parameters and {len(p.images)} samples"
            cause = f"{rule} runs two circuits for every parameter and sample"
            fix = "gradient=ReverseEstimatorGradient() on a simulator, or the same circuit in a batched simulator"
            return warn(evidence, cause, fix)
    return None


def _sample_by_sample(p: Patient, site: Site) -> Finding | None:
    """A device that takes a whole batch in one call and simulates its samples one after the other."""
    n = len(p.images)
    if site.calls > 1 or site.shots or n < MANY or not 0 < site.n_qubits <= SMALL:
        return None
    args, kwargs = site.arguments
    try:
        runs = _executions(site.node, args, kwargs)
        other = qml.QNode(site.node.func, qml.device("default.qubit"), interface="torch", diff_method="backprop")
        least = _executions(other, args, kwargs)
    except Exception:  # a circuit that default.qubit does not take
        return None
    if runs < n or runs < MANY * least:
        return None
    name = site.node.device.name
    evidence = (
        f"{name} with '{site.method}': {runs} executions for a batch of {n}, default.qubit with 'backprop' {least}"
    )
    cause = f"{name} simulates the samples of a batch one after the other" if "lightning" in name else ""
    fix = f"qml.device('default.qubit') with diff_method='backprop' for {site.n_qubits} qubits and many samples"
    return warn(evidence, cause or f"'{site.method}' runs every sample and angle by itself", fix)


def _executions(node, args, kwargs) -> int:
    with qml.Tracker(node.device) as tracker:
        _node_step(node, args, kwargs)
    return _runs(tracker)


def _runs(tracker: qml.Tracker) -> int:
    """How often a device ran; default.qubit counts a batch that it runs at once as one simulation."""
    told = tracker.totals
    return int(told.get("simulations", told.get("executions", 0)) + told.get("derivatives", 0))


def _counts(site: Site) -> Counts:
    tape = site.tape()
    gates = list(expand(tape.operations))
    angles = sum(any(isinstance(v, torch.Tensor) and v.requires_grad for v in gate.parameters) for gate in gates)
    return Counts(angles, len(tape.measurements), len(gates))


@check(
    "time",
    "where a step's time goes",
    section="simulators#time",
    steps=15,
    explained_by=("per_sample_loop", "method", "gradient_reaches", "gradient_correct"),
)
def where_time_goes(p: Patient) -> Finding:
    sites = [s for s in p.seen.sites if s.node is not None and not s.shots]
    if not sites:
        return ok(f"a step takes {p.step_seconds:.3f} s; there is no other PennyLane method to compare with")
    site = sites[0]
    whole = _least_seconds(lambda: _node_step(site.node, *site.arguments))
    share = min(whole * site.calls / _least_seconds(p.gradients), 1.0)
    args, kwargs = _of_few(site)
    runs, own = _cost(site.node, args, kwargs)
    others = {}
    for name in REVERSE:
        if name != site.method and not (site.method == "best" and name == "backprop"):
            try:
                node = qml.QNode(site.node.func, site.node.device, interface="torch", diff_method=name)
                others[name] = _cost(node, args, kwargs)
            except Exception:  # this device refuses this method
                continue
    told = "".join(f", with '{name}' {n} and {t / own:.2f} of that" for name, (n, t) in others.items())
    evidence = f"circuit {share:.0%} of a step of {p.step_seconds:.3f} s; "
    evidence += f"one call with at most {FEW} samples is {runs} executions, {own:.3f} s{told}"
    best = next(iter(others), "")
    if best and site.method not in (*REVERSE, "best") and others[best][0] * 4 < runs and share > 0.01:
        cause = f"'{site.method}' runs the circuit anew for every angle"
        return warn(evidence, cause, f"diff_method='{best}' on a simulator; '{site.method}' is for hardware and shots")
    return ok(evidence)


def _of_few(site: Site) -> tuple[tuple, dict]:
    """The arguments of a circuit's first call with a few samples of the batch, where it takes a batch as one tensor."""
    inputs = site.inputs[0] if site.inputs else torch.zeros(())
    if inputs.dim() < 2 or site.roles.count(False) != 1:
        return site.arguments
    return replaced_input(site, inputs[:FEW].requires_grad_(any(x.requires_grad for x in _inputs_of(site))))


def _cost(node, args, kwargs) -> tuple[int, float]:
    """Executions and seconds of one step of a circuit. The verdict goes by the first, which no busy machine changes."""
    return _executions(node, args, kwargs), _least_seconds(lambda: _node_step(node, args, kwargs))


def _node_step(node, args, kwargs) -> None:
    fresh = lambda v: v.detach().requires_grad_(v.requires_grad) if isinstance(v, torch.Tensor) else v  # noqa: E731
    args = [fresh(v) for v in args]
    kwargs = {k: fresh(v) for k, v in kwargs.items()}
    out = node(*args, **kwargs)
    sum(o.sum() for o in (out if isinstance(out, (list, tuple)) else [out])).backward()


def _least_seconds(step: Callable[[], object], repeats: int = 3) -> float:
    """The shortest of a few: what else the machine does only adds to it. What takes a second is not repeated."""
    times = []
    while len(times) < repeats and sum(times) < 1.0:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)


@check("memory", "what the circuit keeps for the backward pass", section="simulators#memory", steps=2)
def memory(p: Patient) -> Finding:
    if not p.seen.sites:
        return skipped("the model has no circuit")
    kept = saved_by_circuits(p.model, p.images)
    site = p.seen.sites[0]
    states = 3 * 16 * 2**site.n_qubits * len(p.images)
    evidence = (
        f"{_size(kept)} for {len(p.images)} samples of {site.n_qubits} qubits, where three states are {_size(states)}"
    )
    if kept > p.memory_limit:
        cause = "backprop keeps the state after every gate: 16 bytes x 2^qubits x gates x batch"
        fix = "diff_method='adjoint', whose memory does not grow with depth, or a smaller batch"
        return warn(f"{evidence}; the limit is {_size(p.memory_limit)}", cause, fix)
    return ok(evidence)


def _size(n: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} GB"


@check("shot_noise", "signal to noise of the gradient", section="simulators#shots", steps=REPEATS)
def shot_noise(p: Patient) -> Finding:
    if not p.shots:
        return ok("no shots: outputs are exact") if p.seen.sites else skipped("the model has no circuit")
    if not p.angles:
        return skipped("the model has no trainable angles")
    rows = []
    for _ in range(REPEATS):
        _, grads = p.gradients(*p.few)
        rows.append(torch.cat([grads[name].double().flatten() for name in p.angles]))
    found = torch.stack(rows)
    signal = (found.mean(0).square() - found.var(0) / len(found)).sum().clamp(min=0).sqrt()
    ratio = (signal / found.var(0).sum().sqrt()).item()
    shots = max(s.shots for s in p.seen.sites)
    evidence = f"{shots} shots: signal to noise {ratio:.2g} over {REPEATS} repeats of {len(p.few[0])} samples"
    if (cosine := _towards_exact(p, found)) is not None:
        evidence += f", cosine with the exact gradient {cosine:.2f}"
    evidence += _left_by_noise(p)
    if ratio < 1 and (gate := _shiftless(p)):
        cause = f"{gate} behind a mid-circuit measurement has no shift rule: finite differences of sampled values"
        return fail(evidence, cause, "no shots, or a controlled rotation (qml.CRY) in place of measure and cond")
    defaults = [s for s in p.seen.sites if s.shots and s.kind == "TorchConnector"]
    if defaults and ratio < 10:
        cause = "the sampler or estimator of the network samples unless it is told otherwise"
        fix = "an exact one, such as EstimatorQNN with StatevectorEstimator(), or default_shots of 10,000 and more"
        return warn(f"{evidence}; two passes differ", cause, fix)
    if ratio < 1:
        enough = shots / max(ratio, 0.1) ** 2  # where signal and noise are as large as each other
        more = f"about {math.ceil(enough):,} shots to point within 45 degrees, {math.ceil(9 * enough):,} within 18"
        return fail(evidence, "sampling noise is larger than the gradient", f"{more}, larger batches, or no shots")
    return ok(evidence)


def _left_by_noise(p: Patient) -> str:
    """What the noise of the model's own circuits leaves of the gradient, with any number of shots; '' without noise."""
    if all(
        getattr(s.module, "noise", None) is None and not getattr(s.module, "device_name", None) for s in p.seen.sites
    ):
        return ""
    with exact_circuits():
        _, noisy = p.gradients(*p.few)
    try:
        with without_noise(p.model):
            _, clean = p.gradients(*p.few, afresh=False)  # which would give the modules their own simulator back
    except ValueError:  # a circuit that takes no other simulator
        return ""
    noisy, clean = (torch.cat([grads[name].double().flatten() for name in p.angles]) for grads in (noisy, clean))
    if not clean.any():
        return ""
    cosine = torch.cosine_similarity(noisy, clean, dim=0).item()
    return f"; noise alone leaves {noisy.norm() / clean.norm():.0%} of the gradient, cosine {cosine:.2f}"


def _towards_exact(p: Patient, found: torch.Tensor) -> float | None:
    """The mean cosine of sampled gradients (repeats, angles) with the exact one; None where there is none."""
    try:
        with exact_circuits():
            _, grads = p.gradients(*p.few)
        exact = torch.cat([grads[name].double().flatten() for name in p.angles])
    except Exception:  # a circuit that is only sampled
        return None
    if any(s.shots and s.node is None for s in p.seen.sites) or not exact.any():
        return None
    return torch.cosine_similarity(found, exact[None], dim=1).mean().item()


def _shiftless(p: Patient) -> str:
    """A trained gate that waits for the outcome of a measurement; '' where there is none."""
    for site in p.seen.sites:
        for op in site.tape().operations if site.node is not None else ():
            if type(op).__name__ == "Conditional" and any(_is_trained(v) for v in op.parameters):
                return op.base.name
    return ""


def _is_trained(value) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


@check("reproducible", "which seeds the results depend on", section="simulators#seeds", steps=6)
def reproducible(p: Patient) -> Finding:
    if p.factory is None:
        if not p.noisy:
            return ok("two passes are equal; a function that makes the model instead of the model tells more")
        if p.shots:
            return skipped("the circuit samples shots; a function that makes the model tells which seed fixes them")
        if p.seen.draws:
            name, where = p.seen.draws[0]
            cause = f"{name} draws random numbers in eval mode too: {where}"
            fix = "training=self.training for F.dropout, nn.Dropout; draw noise only if self.training"
            return warn("two passes in eval mode differ", cause, fix)
        cause = "something draws random numbers in eval mode"
        return warn("two passes in eval mode differ", cause, "seed it, or draw only if self.training")
    sources = {"torch": torch.manual_seed, "NumPy": np.random.seed, "Python": random.seed}
    missing = [name for name in sources if not _same(p, [s for n, s in sources.items() if n != name], sources[name])]
    if not _same(p, list(sources.values()), None):
        cause = "a generator of its own that nobody seeds: default_rng(), a device made without a seed"
        return fail("two models made with all seeds set alike differ", cause, "qml.device(..., seed=0), default_rng(0)")
    beyond = [name for name in missing if name != "torch"]
    if beyond:
        cause = f"torch.manual_seed does not seed {' and '.join(beyond)}, from which devices and initial weights draw"
        fix = "qml.device(..., seed=...), or seed_everything(seed) before the model is made"
        return warn(f"two models differ unless {' and '.join(beyond)} is seeded too", cause, fix)
    return ok("torch.manual_seed fixes weights and outputs")


def _same(p: Patient, seeds: list[Callable], unseeded: Callable | None) -> bool:
    """Whether two models made with these generators seeded alike, and another one differently, give the same."""
    outputs = []
    for run in range(2):
        for seed in seeds:
            seed(0)
        if unseeded:
            unseeded(17 + run)
        with torch.no_grad():
            outputs.append(picked(call(p.factory().eval(), p.images), len(p.images)))
    return alike(*outputs)


@check("saving", "whether state_dict holds everything", section="simulators#saving", steps=1)
def saving(p: Patient) -> Finding:
    before = p.run().detach()
    state = {name: value.clone() for name, value in p.model.state_dict().items()}
    lost = [name for name, _ in p.model.named_parameters() if name not in state]
    if lost:
        fix = "leave state_dict as nn.Module has it"
        return fail(f"state_dict lacks {listed(lost)}", "the module overrides it", fix)
    if p.noisy:
        return skipped("no two passes are equal; see 'reproducible'")
    if plain := _plain_tensors(p, before):
        cause = "a tensor that is neither a parameter nor a buffer shapes the output; a new model may draw another"
        fix = "self.register_buffer(name, tensor), or nn.Parameter if it is trained"
        return warn(f"state_dict lacks {listed(plain)}", cause, fix)
    if _changed_by_loading(p, state, before):
        return fail(
            "a model loaded from its state_dict gives other outputs", "a tensor outside of it", "register_buffer"
        )
    try:
        torch.save(p.model, io.BytesIO())
    except Exception as error:
        return ok(f"state_dict holds everything; torch.save(model) raises {type(error).__name__}, so save state_dict")
    return ok("state_dict holds everything")


def _plain_tensors(p: Patient, before: torch.Tensor) -> list[str]:
    """Tensors that are attributes of modules and nothing more, and without which the outputs would be others."""
    found = []
    for name, module in p.model.named_modules():
        for key, value in list(vars(module).items()):
            plain = isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter)
            if (
                not plain
                or p.made_while_running(module, key)
                or value.grad_fn is not None
                or not value.is_floating_point()
            ):
                continue
            try:
                vars(module)[key] = value + 1
                if not torch.allclose(before, p.run(afresh=False).detach(), atol=1e-6):
                    found.append(f"{name}.{key}" if name else key)
            finally:
                vars(module)[key] = value
    return found


def _changed_by_loading(p: Patient, state: dict, before: torch.Tensor) -> bool:
    """Whether a model whose tensors were spoilt gives other outputs after its state_dict is loaded back."""
    with p.kept():
        for name, tensor in [*p.model.named_parameters(), *p.model.named_buffers()]:
            if name in state and tensor.is_floating_point():
                tensor.data.add_(1.0)
        p.model.load_state_dict(state)
        after = p.run().detach()
    return not torch.allclose(before, after, atol=1e-6)
