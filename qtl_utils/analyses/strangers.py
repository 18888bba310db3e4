"""The doctor on trial with models of strangers: those it was built with, and those that were sealed until it was done.

A faulty model counts as `named` where the doctor's findings say the true cause, as `misled` where it is alarmed about
something else alone, as `missed` where it is not alarmed. A healthy model is `accused` by a verdict "fail" and `warned`
by a "warn".
"""

import math
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from qtl_utils.doctor import sealed_strangers, sealed_strangers_2
from qtl_utils.doctor.diagnosis import diagnose
from qtl_utils.doctor.findings import Diagnosis
from qtl_utils.doctor.patient import kept_random
from qtl_utils.doctor.samples import read_made
from qtl_utils.doctor.strangers import STRANGERS, STRANGERS_HEALTHY
from qtl_utils.results import stats
from qtl_utils.study.environment import progress

PARTS = {
    "open": "used while the doctor was built",
    "sealed": "sealed until it was built, as it is today",
    "second": "sealed until it was mended by the first, as it is today",
}
SEALED = {"sealed": sealed_strangers, "second": sealed_strangers_2}
NAMES = PARTS | {
    "sealed, at first": "sealed until it was built, when they were opened",
    "second, at first": "sealed until it was mended by those, when they were opened",
}
FIRST = Path(sealed_strangers.__file__).with_name("sealed_first.csv")  # as they were opened, once
OUTCOMES = ("named", "misled", "missed", "quiet", "accused", "warned")
BUDGET = 600.0  # seconds a model: more than any takes, so that a slow machine finds the same
OPTIONS = ("loss", "optimizer", "scheduler", "scaler", "history", "data", "epochs", "memory_limit")


def trial(parts: Sequence[str] = tuple(PARTS)) -> pd.DataFrame:
    """What the doctor says of every model of some parts (keys of PARTS): a row per model.

    part: a key of PARTS. model, healthy, cause (the true one), source; outcome: of OUTCOMES; alarms: the checks that
    failed or warned; said: the evidence and cause of the first of them; seconds.
    """
    rows = []
    cases = [case for case in _cases() if case[0] in parts]
    for part, model, make, cause, source, knows in progress(cases, "models of strangers"):
        with kept_random(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            told = make()
            start = time.perf_counter()
            found = diagnose(**told, budget=BUDGET)
        first = next(iter(found.of("fail", "warn")), None)
        rows.append(
            {
                "part": part,
                "model": model,
                "healthy": knows is None,
                "outcome": _outcome(found, knows),
                "alarms": ", ".join(found.failed),
                "said": f"{first.evidence}; {first.cause}" if first is not None else "",
                "cause": cause,
                "source": source,
                "seconds": time.perf_counter() - start,
            }
        )
    return pd.DataFrame(rows)


def _outcome(found: Diagnosis, knows: Callable[[Diagnosis], bool] | None) -> str:
    if knows is None:
        return "accused" if found.of("fail").findings else "warned" if found.failed else "quiet"
    return "named" if knows(found) else "misled" if found.failed else "missed"


def _cases() -> Iterator[tuple]:
    """Part, name, a function that gives the arguments of `diagnose`, true cause, source, and what names the cause."""
    for name, case in STRANGERS.items():
        yield "open", name, case.make, case.cause, case.source, lambda found, c=case.check: c in found.failed
    for name, make in STRANGERS_HEALTHY.items():
        yield "open", name, make, "", "", None
    for part, cases in SEALED.items():
        for name, case in cases.FAULTS.items():
            knows = lambda found, names=case.names: says(found, names)  # noqa: E731
            yield part, name, lambda make=case.make: _arguments(make()), case.cause, case.source, knows
        for name, make in cases.HEALTHY.items():
            yield part, name, lambda make=make: _arguments(make()), "", "", None


def _arguments(made) -> dict:
    model, batch, more = read_made(made, OPTIONS)
    return {"model_or_factory": model, "batch": batch, **more}


def says(found: Diagnosis, names: tuple[str, ...]) -> bool:
    """Whether what failed or warned says one of these (regular expressions, of lower-case text)."""
    text = " ".join(f"{f.evidence} {f.cause} {f.fix}" for f in found.of("fail", "warn")).lower()
    return any(re.search(name, text) for name in names)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """How many of how many, with Wilson's 95 % interval of the share: a row per part and outcome."""
    found = []
    for (part, healthy), group in rows.groupby(["part", "healthy"], sort=False):
        for outcome in OUTCOMES[3:] if healthy else OUTCOMES[:3]:
            k = int((group["outcome"] == outcome).sum())
            low, high = stats.wilson(k, len(group))
            found.append({"part": part, "outcome": outcome, "k": k, "n": len(group), "low": low, "high": high})
    return pd.DataFrame(found)


def sentences(rows: pd.DataFrame) -> list[str]:
    """The trial in words, a sentence a part; rows of `trial` or `first_opening`."""
    told = []
    table = summary(rows).set_index(["part", "outcome"])
    for part in dict.fromkeys(rows["part"]):
        named, accused = (table.loc[(part, outcome)] for outcome in ("named", "accused"))
        interval = f"[{100 * named['low']:.0f}, {100 * named['high']:.0f}] %"
        wrong = f"misled in {table.loc[(part, 'misled'), 'k']:.0f}, silent in {table.loc[(part, 'missed'), 'k']:.0f}"
        told.append(
            f"Models {NAMES[part]}: the cause is named in {named['k']:.0f} of {named['n']:.0f} ({interval}), {wrong}; "
            f"of {accused['n']:.0f} healthy ones {accused['k']:.0f} are accused and "
            f"{table.loc[(part, 'warned'), 'k']:.0f} warned of."
        )
    return told


def first_opening() -> pd.DataFrame:
    """What the doctor said of the sealed models on the day they were opened; kinds that it missed were mended since."""
    rows = pd.read_csv(FIRST, keep_default_na=False)
    return rows.assign(part=rows["part"] + ", at first")


def seconds(rows: pd.DataFrame) -> str:
    """How long a diagnosis took."""
    most = rows["seconds"].max()
    slow = int((rows["seconds"] > 5).sum())
    middle = rows["seconds"].median()
    return f"A diagnosis took {middle:.1f} s in the middle and {math.ceil(most)} s at most; {slow} took over 5 s."
