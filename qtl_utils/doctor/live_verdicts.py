"""What the course of a training says about it: gradients, angles, steps and the loss, each with cause and fix."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from qtl_utils.doctor.findings import VERDICTS, Finding, fail, listed, ok, skipped, warn
from qtl_utils.doctor.live_records import FAR, FEW, LOOKS, Course, Losses

STAYED = 0.05  # radians in a whole training
ENOUGH = 100  # steps; of a shorter training nothing is said of what has not happened yet
PATIENCE = 500  # steps after which it is said while training goes on
NO_FALL = 0.02  # of the loss at the start
SPARE = 0.1  # of the loss at the start: noise that could hide so much of a fall decides nothing
STILL = 0.8  # of the training: a loss that is lowest after that is falling still
LEFT = 0.1  # of the loss at the start: below it there is little left to learn
REACH = 0.5  # radians that the learning rates allow, as in the check 'travel'
FLAT = 1e-7  # root mean square of an angle's gradient, where Adam's eps begins to hold it back
ADAPTIVE = (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax)
ADAPTIVE += (torch.optim.RMSprop, torch.optim.Rprop)  # steps of about the learning rate, whatever the gradient


@dataclass
class Training:
    """What the verdicts look at. `steps`: those of the optimiser."""

    courses: Sequence[Course]
    losses: Losses
    optimizer: torch.optim.Optimizer
    steps: int = 0
    ended: bool = False
    uncleared: int = 0  # steps in a row that added to the gradients of the steps before
    stopped: str = ""  # why nothing is looked at any more

    @property
    def signs(self) -> tuple:
        """What may be wrong; a closer look is worth its time where this changes."""
        losses = self.losses
        seen = [course.signs for course in self.courses]
        return losses.broken > 0, losses.floor, bool(losses.up), self.uncleared >= LOOKS, self.stopped, seen

    @property
    def held(self) -> list[Course]:
        """The stages that the optimiser trains, as far as they were looked at."""
        return [course for course in self.courses if course.held and course.looks]


def findings(training: Training) -> list[Finding]:
    """The findings of all checks, worst first; what another one explains is skipped and says so."""
    found: list[Finding] = []
    for name, row in VERDICTS_OF.items():
        bad = [f.check for f in found if f.verdict in ("fail", "warn")]
        unseen = training.stopped and row.function is not loss
        own = [skipped(training.stopped)] if unseen else list(row.function(training))
        if bad and any(f.verdict in ("fail", "warn") for f in own) and not row.by_itself(own):
            told = "; ".join(f.evidence for f in own if f.verdict in ("fail", "warn"))
            own = [skipped(f"{told}; would only repeat what '{bad[0]}' found")]
        found += [replace(f, check=name, section=f.section or row.section) for f in own]
    return sorted(found, key=lambda f: VERDICTS.index(f.verdict))


# ---- gradients -------------------------------------------------------------------------------------------------------


def gradients(t: Training) -> Iterator[Finding]:
    held = t.held
    if not held:
        yield skipped("no step of the optimiser was looked at")
        return
    found = list(_missing(t, held)) or list(_broken(t, held)) or list(_grown(t, held)) or list(_uncleared(t))
    yield from found
    if not found:
        ended = max((c.since for c in held), default=0) if all(c.without >= LOOKS for c in held) else 0
        told = f", none any more since step {ended}: there is nothing left to learn, or all is flat" if ended else ""
        sizes = [size for c in held for size in c.sizes[-1:]]
        last = f"; the last norms are {min(sizes):.1e} to {max(sizes):.1e}" if sizes and not ended else ""
        looks = max(c.looks for c in held)
        yield ok(f"a gradient reaches {_stages(held)} in {looks} look{'s' * (looks > 1)}{told}{last}")


def _stages(courses: Sequence[Course]) -> str:
    return listed(f"'{c.stage.name}'" for c in courses)


def _missing(t: Training, held: list[Course]) -> Iterator[Finding]:
    """Stages that no gradient arrives at; where none does after some did, training has ended rather."""
    silent = [c for c in held if c.without >= LOOKS]
    if len(silent) == len(held):
        if any(c.arrived for c in held):
            silent = [c for c in silent if not c.arrived]
        elif all(c.cut for c in held):
            cause = "loss.backward() is not called before optimizer.step(), or zero_grad() stands between them"
            fix = "optimizer.zero_grad(), loss.backward(), optimizer.step(), in this order"
            yield _at("gradients#detached", fail(f"no parameter has had a gradient in {t.steps} steps", cause, fix))
            return
        elif len(held) > 1:
            cause = "the loss does not change with the parameters: a sign, a rounding, a dead ReLU or a saturated layer"
            fix = "diagnose(model, batch) names the step that stops it"
            evidence = f"the gradient of every stage has been exactly zero since step {held[0].since}"
            yield _at("gradients#detached", fail(evidence, cause, fix))
            return
    if silent:
        yield _dead(silent)
    for course in held:
        if course not in silent and course.looks >= LOOKS and course.unreached and not course.stage.is_circuit:
            names = listed(sorted(course.unreached))
            cause = "they are used nowhere, or the graph is cut behind them (.item(), .detach(), torch.tensor(...))"
            fix = "take out what is not used; torch.stack(outputs, dim=-1) keeps the graph"
            evidence = f"no gradient has arrived at {names} in '{course.stage.name}' since step 1"
            yield _at("gradients#detached", warn(evidence, cause, fix))


def _dead(courses: list[Course]) -> Finding:
    """Of stages without a gradient: what stops it is at the circuit, if that is one of them, or behind the last."""
    course = next((c for c in courses if c.stage.is_circuit), courses[-1])
    what = "no gradient arrives at" if course.cut else "the gradient is exactly zero at"
    evidence = f"{what} {_stages(courses)} since step {course.since}"
    if course.arrived:
        cause = "what is behind it went flat: dead ReLUs, or a tanh or sigmoid at its ends"
        fix = f"a smaller learning rate (it was {course.peak:.2g}); LeakyReLU, or a normalisation before the tanh"
        return _at("optimisation#saturation", fail(evidence, cause, fix))
    if course.stage.is_circuit:
        cause = "its outputs are copied to a new tensor, its angles are in no gate, or its inputs saturate"
        fix = "torch.stack(outputs, dim=-1); diagnose(model, batch) names the angles that nothing depends on"
        return _at("gradients#dead", fail(evidence, cause, fix))
    if course.stage.name.startswith("before"):
        cause = "the circuit passes no gradient to its inputs, or what feeds it is flat (a sign, a dead ReLU)"
        fix = "input_gradients=True of a Qiskit network; interface='torch' and no .detach() or .numpy() on the way"
        return _at("gradients#none", fail(evidence, cause, fix))
    cause = "the graph is cut (.item(), .detach(), torch.tensor(...)), or a function in it is flat (sign, dead ReLU)"
    return _at("gradients#detached", fail(evidence, cause, "diagnose(model, batch) names the line that stops it"))


def _broken(t: Training, held: list[Course]) -> Iterator[Finding]:
    broken = [c for c in held if c.broken]
    if not broken or 0 < t.losses.broken <= min(c.broken for c in broken):  # the loss came first
        return
    step = min(c.broken for c in broken)
    cause = "a derivative that is infinite: sqrt(0), log(0), acos(1), a norm of zeros, or numbers that overflow"
    fix = "torch.autograd.set_detect_anomaly(True) names the function; clamp what goes into it"
    evidence = f"the gradient of {_stages([c for c in broken if c.broken == step])} is not finite at step {step}"
    yield _at("gradients#wrong", fail(evidence, cause, fix))


def _grown(t: Training, held: list[Course]) -> Iterator[Finding]:
    """Gradients that grew by orders of magnitude, unless the loss has come down again."""
    if t.losses.values and not t.losses.broken and t.losses.end < t.losses.start:
        return
    for course in held:
        if course.grown:
            step, factor = course.grown
            evidence = f"the gradient of '{course.stage.name}' at step {step} is {factor:.0e} times that of the start"
            evidence += " and the loss has risen" if t.losses.values else ""
            fix = f"a smaller learning rate (it was {course.peak:.2g}); torch.nn.utils.clip_grad_norm_ before the step"
            yield fail(evidence, "steps that overshoot, each more than the one before", fix)
            return


def _uncleared(t: Training) -> Iterator[Finding]:
    if t.uncleared >= LOOKS:
        cause = "loss.backward() adds to the gradients of the steps before"
        evidence = f"gradients are never cleared: {t.uncleared} steps in a row added to the same ones"
        yield _at("gradients#wrong", fail(evidence, cause, "optimizer.zero_grad() in every step"))


# ---- angles ----------------------------------------------------------------------------------------------------------


def angles(t: Training) -> Iterator[Finding]:
    circuits = [c for c in t.courses if c.stage.is_circuit and c.looks]
    if not circuits:
        there = any(c.stage.is_circuit for c in t.courses)
        why = "its angles are not trained" if there else "no module is known as a circuit: QuantumLayer, TorchLayer, "
        yield skipped(why if there else f"{why}TorchConnector, or one that keeps its QNode as an attribute")
        return
    stayed = [c for c in circuits if c.farthest < STAYED]
    told = f"angles moved by {min(c.farthest for c in circuits):.2g} rad and more at most"
    if len(circuits) == 1:
        told = f"angles moved by up to {circuits[0].farthest:.2g} rad in {t.steps} steps"
    if t.losses.broken:
        yield skipped(f"the loss is not finite at step {t.losses.broken}; angles cannot move after that")
        return
    if not t.ended or t.steps < ENOUGH or not stayed:
        yield ok(told)
        return
    found = [f for c in stayed if (f := _stayed(t, c)).verdict != "ok"]
    yield from found or [_stayed(t, stayed[0])]


def _stayed(t: Training, course: Course) -> Finding:
    evidence = f"the angles of '{course.stage.name}' moved by {course.farthest:.2g} rad at most in {t.steps} steps"
    if not course.held:
        if course.farthest > 0:
            return ok(f"{evidence}; another optimiser holds them")
        cause = "they are in no parameter group of the optimiser"
        return _at("optimisation#groups", fail(evidence, cause, "torch.optim.Adam(model.parameters())"))
    losses = t.losses
    if losses.values and 0 < losses.end < LEFT * max(losses.start, losses.chance or 0.0):
        return ok(f"{evidence}; the loss is down to {losses.end:.3g} without them")
    if isinstance(t.optimizer, torch.optim.LBFGS):
        return ok(f"{evidence}; LBFGS chooses its steps by itself")
    told = f"{evidence}; learning rates add up to {course.reach:.2g}"
    more = 1 / max(course.farthest, 1e-6)
    size = sorted(course.sizes)[len(course.sizes) // 2] if course.sizes else 0.0
    size /= math.sqrt(sum(p.numel() for p in course.stage.parameters.values()))
    if isinstance(t.optimizer, ADAPTIVE):
        if course.reach < REACH:
            cause = "an angle needs about a radian, and each step moves it by about the learning rate"
            more = 1 / max(course.reach, 1e-6)
            return warn(told, cause, f"their own parameter group with a learning rate about {more:.0f} times larger")
        if size > FLAT:
            return ok(f"{told}: they could have moved, and nothing drew them")
        cause = f"no gradient to speak of: an angle's is about {size:.1e}, a plateau"
        fix = "smaller initial angles, fewer layers, or identity blocks"
        return _at("optimisation#plateau", warn(told, cause, fix))
    cause = f"the steps are the gradient times the learning rate, and an angle's gradient is about {size:.1e}"
    fix = f"torch.optim.Adam for the angles, or their own group with a learning rate about {more:.0f} times larger"
    return warn(told, cause, fix)


# ---- steps -----------------------------------------------------------------------------------------------------------


def steps(t: Training) -> Iterator[Finding]:
    if not t.steps:
        if len(t.losses) > 1 and t.ended:
            cause = "the loop does not call optimizer.step(), or calls that of another optimiser"
            evidence = f"{len(t.losses)} losses were handed in, and the optimiser never stepped"
            yield _at("optimisation#stuck", fail(evidence, cause, "watch the optimiser that steps, and step it"))
        else:
            yield skipped("the optimiser has not stepped")
        return
    if isinstance(t.optimizer, torch.optim.LBFGS):
        yield skipped("LBFGS takes several steps at once")
        return
    held = t.held
    found = [*_idle(t, held), *_jumps(held), *_strides(t, held)]
    yield from found
    if not found:
        turns = [c.jump[1] for c in held if c.stage.is_circuit]
        sizes = [c.relative for c in held if not c.stage.is_circuit and c.relative]
        told = [f"angles turn by at most {max(turns):.1e} rad in a step"] if turns else []
        told += [f"weights move by at most {max(sizes):.1e} of their size"] if sizes else []
        yield ok("; ".join(told) or f"{t.steps} steps")


def _idle(t: Training, held: list[Course]) -> Iterator[Finding]:
    for course in held:
        if course.reach == 0 and course.looks >= LOOKS:
            evidence = f"the learning rate of '{course.stage.name}' has been 0 in all {t.steps} steps"
            yield fail(evidence, "a schedule that starts at 0, or a wrong value", "set the lr of its parameter group")


def _jumps(held: list[Course]) -> Iterator[Finding]:
    for course in held:
        if course.stage.is_circuit and course.jumps:
            step, size = course.jump
            many = f"in {course.jumps} of {course.looks} looks" if course.jumps > 1 else "once"
            evidence = f"the angles of '{course.stage.name}' jump by more than {FAR:.0f} rad in a step {many}, "
            evidence += f"by {size:.2g} rad at step {step}"
            cause = "an angle turns by more than a radian in one step, so that it jumps between periods"
            fix = f"a learning rate of 0.01 to 0.1 for the angles; it was {course.peak:.2g}"
            yield (fail if course.jumps > 2 else warn)(evidence, cause, fix)


def _strides(t: Training, held: list[Course]) -> Iterator[Finding]:
    for course in held:
        if course.strides >= 3 and not course.stage.is_circuit and t.losses.up:
            evidence = f"the first steps of '{course.stage.name}' are larger than its weights, and the loss has risen "
            evidence += f"from {t.losses.start:.3g} to {t.losses.recent:.3g}"
            fix = f"a smaller learning rate; it was {course.peak:.2g}"
            yield warn(evidence, "every step throws away what the weights were", fix)


# ---- the loss --------------------------------------------------------------------------------------------------------


def loss(t: Training) -> Iterator[Finding]:
    losses = t.losses
    if not losses.values:
        yield skipped("no loss was handed in: w.step(loss)")
        return
    if losses.broken:
        cause = "steps that are too large, or a value that log, sqrt or a division cannot take"
        fix = "a smaller learning rate; torch.autograd.set_detect_anomaly(True) names the function"
        yield fail(f"the loss is not finite at step {losses.broken}", cause, fix)
        return
    evidence = f"loss {losses.start:.4g} to {losses.end:.4g} in {t.steps} steps"
    if losses.floor is not None:
        cause = "CrossEntropyLoss and BCEWithLogitsLoss take logits: a softmax or sigmoid before them is one too many"
        evidence += f"; it cannot fall below about {losses.floor:.3f}"
        yield _at("optimisation#softmax", fail(evidence, cause, "no softmax or sigmoid at the end of the model"))
        return
    yield _diverging(losses, evidence) or _stuck(t, evidence) or ok(evidence + _since(t))


def _diverging(losses: Losses, evidence: str) -> Finding | None:
    rise = losses.recent - losses.start
    if len(losses.values) < 2 * FEW or rise < max(abs(losses.start), losses.chance or 0.0, 4 * losses.fall[1]):
        return None
    fix = "a smaller learning rate; clip the gradient"
    return fail(f"{evidence}, {losses.recent:.4g} in the last {FEW}", "training diverges", fix)


def _stuck(t: Training, evidence: str) -> Finding | None:
    """The loss has not fallen at all, or only to what outputs that say nothing cost."""
    losses = t.losses
    if min(t.steps, len(losses.values)) < (ENOUGH if t.ended else PATIENCE):
        return None
    start = abs(losses.start)
    fall, error = losses.fall
    chance = losses.chance
    if chance and losses.end < 0.2 * chance:
        return None
    cause = "the outputs hardly depend on what is trained, or the steps are too small"
    fix = "diagnose(model, batch, optimizer=optimizer) looks for the reason; a larger learning rate, or a smaller one "
    fix += "where the loss jumps"
    if chance and abs(losses.end - chance) < NO_FALL * chance and error < NO_FALL * chance:
        evidence += f"; {chance:.4g} is the loss of outputs that say nothing"
        if (lowest := losses.lowest(t.steps)) < STILL * t.steps:
            return fail(f"{evidence}, and it has not fallen since step {lowest}", cause, fix)
    if -fall > max(SPARE * start, 2 * error):
        cause = "steps that are too large, or ones that make the loss larger: a sign, maximize=True"
        fix = "a smaller learning rate"
        return fail(f"{evidence}: it has risen", cause, fix)
    flat = fall < NO_FALL * start and fall + 2 * error < SPARE * start
    if not flat:
        return None
    judge = fail if chance else warn  # a loss that nothing is known of may have been at its floor from the start
    cause += "" if chance else ", or it was at its floor from the start"
    return judge(f"{evidence}; it has not fallen since step 1", cause, fix)


def _since(t: Training) -> str:
    if len(t.losses.values) < 2 * FEW or (lowest := t.losses.lowest(t.steps)) > STILL * t.steps:
        return ""
    return f", not lower since step {lowest}"


def _at(section: str, finding: Finding) -> Finding:
    return replace(finding, section=section)


@dataclass(frozen=True)
class Verdict:
    """A row of VERDICTS_OF. `by_itself(findings)`: whether it stands although an earlier check found something."""

    function: Callable[[Training], Iterator[Finding]]
    section: str
    by_itself: Callable[[list[Finding]], bool] = lambda found: False


VERDICTS_OF = {
    "live_gradients": Verdict(gradients, "optimisation#stuck"),
    "live_steps": Verdict(steps, "optimisation#groups"),
    "live_angles": Verdict(angles, "optimisation#travel"),
    "live_loss": Verdict(loss, "optimisation#stuck", lambda found: any("softmax" in f.section for f in found)),
}
