"""What the doctor says: findings, the registry of checks, and a diagnosis as a table."""

import html
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

VERDICTS = ("fail", "warn", "ok", "skipped")
COLOURS = {"fail": "#c0392b", "warn": "#b9770e", "ok": "#1e8449", "skipped": "#7f8c8d"}


@dataclass(frozen=True)
class Finding:
    """What one check found: `verdict` is one of VERDICTS, `section` a heading of a troubleshooting notebook."""

    verdict: str
    evidence: str
    cause: str = ""
    fix: str = ""
    check: str = ""
    section: str = ""

    @property
    def link(self) -> str:
        """The notebook and heading that treat this finding, relative to notebooks/."""
        name, _, anchor = self.section.partition("#")
        return f"05_troubleshooting_{name}.ipynb#{anchor}" if name else ""


def ok(evidence: str) -> Finding:
    return Finding("ok", evidence)


def warn(evidence: str, cause: str, fix: str) -> Finding:
    return Finding("warn", evidence, cause, fix)


def fail(evidence: str, cause: str, fix: str) -> Finding:
    return Finding("fail", evidence, cause, fix)


def skipped(why: str) -> Finding:
    """A check that cannot decide, and what it lacks."""
    return Finding("skipped", why)


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@dataclass(frozen=True)
class Check:
    """A row of CHECKS.

    `about` says what is looked at. `explained_by`: checks whose failure already explains this one, which then is
    skipped. `steps`: how many training steps it costs, to be held against the budget. `runs`: it needs a forward pass.
    `blocks`: where it fails, no check that runs the model has anything to say any more.
    """

    function: Callable[[Any], Finding]  # of a Patient
    about: str
    section: str
    explained_by: tuple[str, ...] = ()
    steps: int = 0
    runs: bool = True
    blocks: bool = False


CHECKS: dict[str, Check] = {}


def check(name: str, about: str, **options) -> Callable:
    """Decorator that adds a function to CHECKS; `options` are those of `Check`."""

    def register(function):
        CHECKS[name] = Check(function, about, **options)
        return function

    return register


class DiagnosisError(RuntimeError):
    """A check failed; the message lists the findings."""


@dataclass(frozen=True)
class Diagnosis(Sequence):
    """The findings of one diagnosis, worst first; a table in Jupyter, text in a terminal."""

    findings: tuple[Finding, ...]
    seconds: float = 0.0

    def __getitem__(self, index):
        return self.findings[index]

    def __len__(self):
        return len(self.findings)

    def verdict(self, name: str) -> str:
        """What the check `name` said."""
        return next(f.verdict for f in self.findings if f.check == name)

    def of(self, *verdicts: str) -> "Diagnosis":
        """The findings with these verdicts alone."""
        return replace(self, findings=tuple(f for f in self.findings if f.verdict in verdicts))

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed or warn."""
        return [f.check for f in self.findings if f.verdict in ("fail", "warn")]

    def to_frame(self) -> pd.DataFrame:
        columns = ["check", "verdict", "evidence", "cause", "fix", "link"]
        return pd.DataFrame([{c: getattr(f, c) for c in columns} for f in self.findings], columns=columns)

    def raise_if_failed(self) -> None:
        """Raises DiagnosisError where a check failed; a warning is none."""
        if any(f.verdict == "fail" for f in self.findings):
            raise DiagnosisError(f"the model has faults:\n{self.of('fail')}")

    def to_json(self) -> str:
        """One JSON object: seconds and findings."""
        found = [asdict(f) | {"link": f.link} for f in self.findings]
        seconds = self.seconds if math.isfinite(self.seconds) else None
        return json.dumps({"seconds": seconds, "findings": found}, indent=2, allow_nan=False)

    def __str__(self):
        lines = []
        for f in self.findings:
            lines.append(f"{f.verdict:>7}  {f.check}: {f.evidence}")
            lines += [f"{'':9}{word}: {text}" for word, text in (("cause", f.cause), ("fix", f.fix)) if text]
            lines += [f"{'':9}see notebooks/{f.link}"] if f.verdict in ("fail", "warn") and f.link else []
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self):
        rows = "".join(_row(f) for f in self.findings)
        head = "".join(
            f"<th style='text-align:left'>{name}</th>" for name in ("check", "", "evidence", "cause and fix")
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _row(f: Finding) -> str:
    cell = "<td style='text-align:left; vertical-align:top; max-width:32em'>{}</td>"
    name = html.escape(f.check.replace("_", " "))
    if f.verdict in ("fail", "warn") and f.link:
        name = f"<a href='{html.escape(f.link)}'>{name}</a>"
    told = f"<b style='color:{COLOURS[f.verdict]}'>{f.verdict}</b>"
    cause = html.escape(f.cause) + (f"<br><i>Fix:</i> {html.escape(f.fix)}" if f.fix else "")
    return f"<tr>{''.join(cell.format(text) for text in (name, told, html.escape(f.evidence), cause))}</tr>"
