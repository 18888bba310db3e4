"""What `repair` found and did, as a table, text, HTML and JSON; and the mended model."""

import html
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import pandas as pd
from torch import nn

from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.doctor.findings import COLOURS, Finding
from qtl_utils.doctor.fixes.registry import Mend
from qtl_utils.doctor.recipe import Recipe, Standardise
from qtl_utils.doctor.trial import Gain
from qtl_utils.models.heads import Beside, Squash

STATUS = {
    "kept": "ok",
    "not kept": "skipped",
    "not by code": "fail",
    "no time": "warn",
}  # and the verdict whose colour it has


@dataclass(frozen=True)
class Row:
    """What became of one finding by one mend.

    status: 'kept', 'not kept', 'not by code' or 'no time'. gain: in held-out accuracy, `before` and `after` its means.
    shown: the gain in what the fault shows in (`shows`, a key of SHOWS): accuracy, loss, the reported score, or the
    logarithm of seconds a step.
    """

    check: str
    verdict: str
    evidence: str
    fix: str  # the doctor's words
    status: str
    why: str
    patch: str = ""
    shows: str = ""
    gain: Gain = field(default_factory=Gain)
    shown: Gain = field(default_factory=Gain)
    before: float = math.nan
    after: float = math.nan

    @classmethod
    def of(cls, finding: Finding, status: str, why: str, mend: Mend | None = None, shows: str = "", **more) -> "Row":
        told = finding.check, finding.verdict, finding.evidence, finding.fix
        return cls(*told, status, why, mend.patch if mend else "", shows, **more)

    def __str__(self):
        lines = [f"{self.status:>11}  {self.check}: {self.evidence}"]
        lines += [f"{'':13}mend: {self.patch}"] if self.patch else [f"{'':13}fix: {self.fix}"] if self.fix else []
        told = f"; accuracy {self.gain}" if self.gain.n else ""
        return "\n".join([*lines, f"{'':13}{self.why}{told}"])


@dataclass(frozen=True)
class Repair:
    """What `repair` found, tried and kept.

    broken, mended: mean accuracy (R^2 for quantities) on the test set, which no choice has seen, NaN where nothing was
    trained; gain: their paired difference over seeds. study: keys of a study file that do what was kept, for models of
    this study. seconds, trainings: what it took. make(): the mended model.
    """

    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]
    broken: float
    mended: float
    gain: Gain
    notes: tuple[str, ...]
    trainings: int
    seconds: float
    n_test: int
    study: str
    recipe: Recipe = field(repr=False, compare=False)
    scaling: Callable | None = field(default=None, repr=False, compare=False)

    @property
    def kept(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.status == "kept")

    @property
    def left(self) -> tuple[Row, ...]:
        """Faults (not warnings) that code cannot mend, or had no time to."""
        mended = {row.check for row in self.kept}
        open_ = [r for r in self.rows if r.status in ("not by code", "no time") and r.check not in mended]
        return tuple(r for r in open_ if r.verdict == "fail")

    @property
    def patch(self) -> tuple[str, ...]:
        """What to change in one's own code, a line for every mend that was kept."""
        return tuple(row.patch for row in self.kept)

    def make(self, seed: int = 0) -> nn.Module:
        """The mended model before training, with the scaling that was kept in front; `seed` draws its weights.

        A module that was given keeps its own weights. Learning rates are no part of it: see `patch`.
        """
        from qtl_utils.doctor.patient import kept_random

        with kept_random():
            model = self.recipe.model(seed)
        if isinstance(self.scaling, Standardise):
            model = nn.Sequential(Front(self.scaling), model)
        return model

    def to_frame(self) -> pd.DataFrame:
        """A row per finding and mend."""
        columns = ["check", "verdict", "status", "patch", "why", "before", "after", "gain", "low", "high", "n", "shows"]
        columns += ["shown", "shown_low", "shown_high", "evidence", "fix"]
        rows = []
        for r in self.rows:
            shown = {"shown": r.shown.value, "shown_low": r.shown.low, "shown_high": r.shown.high}
            rows.append(asdict(r) | asdict(r.gain) | {"gain": r.gain.value} | shown)
        return pd.DataFrame(rows, columns=columns)

    def to_json(self) -> str:
        """One JSON object; numbers that are none become null."""
        told = {name: getattr(self, name) for name in ("broken", "mended", "trainings", "seconds", "n_test", "study")}
        told |= {"gain": asdict(self.gain), "notes": list(self.notes), "patch": list(self.patch)}
        told |= {"mends": [asdict(row) for row in self.rows], "findings": [asdict(f) for f in self.findings]}
        told["left"] = [row.check for row in self.left]
        return json.dumps(_without_nan(told), indent=2, allow_nan=False)

    def summary(self) -> str:
        """What came out, in a sentence or two."""
        if not self.rows:
            return "Nothing to mend: no check fails or warns."
        n = len(self.kept)
        head = f"{n} mend{'s' * (n != 1)} kept" if n else "No mend was kept"
        if self.left:
            left = list(dict.fromkeys(r.check for r in self.left))
            head += f", {len(left)} fault{'s' * (len(left) != 1)} left: {', '.join(left)}"
        if self.gain.n:
            told = f"accuracy {self.broken:.3f} broken, {self.mended:.3f} mended: {self.gain}"
            return f"{head}. On {self.n_test} samples that no choice has seen, {told}."
        if n and math.isfinite(self.mended):
            return f"{head}. The broken model does not run; mended, its accuracy is {self.mended:.3f} on the test set."
        return f"{head}."

    def __str__(self):
        parts = [self.summary(), *(f"Note: {note}." for note in self.notes), *map(str, self.rows)]
        if self.patch:
            parts += ["What to change in your code:", *(f"  {n}. {line}" for n, line in enumerate(self.patch, 1))]
        parts += ["In a study file:", self.study.rstrip()] if self.study else []
        return "\n".join(parts)

    __repr__ = __str__

    def _repr_html_(self):
        cell = "<td style='text-align:left; vertical-align:top; max-width:28em'>{}</td>"
        names = ("finding", "", "mend", "why", "gain in held-out accuracy")
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in names)
        body = ""
        for r in self.rows:
            status = f"<b style='color:{COLOURS[STATUS[r.status]]}'>{r.status}</b>"
            finding = f"{html.escape(r.check.replace('_', ' '))}<br><i>{html.escape(r.evidence)}</i>"
            told = [html.escape(r.patch or r.fix), html.escape(r.why), html.escape(str(r.gain))]
            body += f"<tr>{''.join(cell.format(text) for text in (finding, status, *told))}</tr>"
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        study = f"<pre>{html.escape(self.study)}</pre>" if self.study else ""
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if self.rows else ""
        return f"<p>{html.escape(self.summary())}</p>{notes}{table}{study}"


class Front(nn.Module):
    """Samples scaled as in training, as the first module of a model."""

    def __init__(self, scaling: Standardise):
        super().__init__()
        self.register_buffer("mean", scaling.mean.clone())
        self.register_buffer("deviation", scaling.deviation.clone())

    def forward(self, x):
        return Standardise(self.mean, self.deviation)(x)


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (int, str, type(None))) else str(value)


def study_keys(recipe: Recipe, keys: dict) -> str:
    """The keys of a study file that do what was kept, as YAML; '' for a model that is no variant of this study."""
    if not keys:
        return ""
    try:
        model = recipe.model()
    except Exception:
        return ""
    head = getattr(model, "head", model)
    parts = list(head) if isinstance(head, nn.Sequential) else []
    kinds = [type(part) for part in parts]
    circuit = [part.inner if isinstance(part, Beside) else part for part in parts[2:3]]
    ours = kinds[:2] == [nn.Linear, Squash] and kinds[3:] == [nn.Linear]
    if not ours or not isinstance(circuit[0], QuantumLayer):
        return ""
    lines = ["defaults:"]
    if "variant" in keys:
        lines.append(f"  variants: [{keys['variant']}]")
    lines += [f"  {key}: {value}" for key, value in keys.items() if key != "variant"]
    return "\n".join(lines) + "\n"
