"""Does a study say the same on other processors, with other thread counts and other seeds?

Other processors are emulated on this one: libraries are told to use fewer vector instructions, which changes the
order of sums and so the rounding of every product. What is computed lies in results/portability/<case>/<study>/.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from qtl_utils.results.verify import ROUNDING, Verdict, verify
from qtl_utils.study.paths import PACKAGE, atomic

HERE = "this processor"
ENDED = (0, 1)  # exit codes of studies that ended with a report: done, and some notebook failed


@dataclass(frozen=True)
class Case:
    """Another surrounding of a study: variables of its environment, and keys of the study."""

    environment: dict[str, str] = field(default_factory=dict)
    keys: dict[str, int] = field(default_factory=dict)
    new_sample: bool = False  # other seeds: verdicts may become undecided, but must not contradict


CASES = {
    HERE: Case(),
    "SSE4.1": Case(
        {
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
            "NUMBA_CPU_NAME": "generic",
        }
    ),
    "AVX2": Case(
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    ),
    "PyTorch without vectors": Case({"ATEN_CPU_CAPABILITY": "default"}),
    "Numba for any processor": Case({"NUMBA_CPU_NAME": "generic"}),
    "two threads": Case(keys={"threads": 2}),
    "seeds from 1000": Case(keys={"seed": 1000}, new_sample=True),
    "seeds from 2000": Case(keys={"seed": 2000}, new_sample=True),
}


def run_case(study: str, name: str, root: Path, cores: int | None = None) -> tuple[int, Path]:
    """Runs `study` as the case `name` below `root`; the exit code and the folder with its results."""
    case = CASES[name]
    folder = root / name.replace(" ", "-")
    command = [sys.executable, "-P", "-m", "qtl_utils", "run", study, "--results-dir", str(folder)]
    command += [word for key, value in case.keys.items() for word in ("--set", f"{key}={value}")]
    command += ["--cores", str(cores)] if cores else []
    # kernels compiled for another processor must not be taken from the usual cache
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder / ".numba")} | case.environment
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, env=environment, check=False)
    found = [path.parent for path in folder.glob("*/study.json")]
    return done.returncode, found[0] if found else folder


def agrees(name: str, code: int, verdict: Verdict) -> bool:
    """Whether a case ended well and says the same; with other seeds: claims alike, and no verdict contradicts."""
    if code or not CASES[name].new_sample:
        return code == 0 and verdict.ok
    claims = verdict.conclusions["reference"].isin(["confirmed", "not confirmed"])
    return bool(verdict.conclusions.loc[claims, "same"].all()) and verdict.opposed.empty


def row(name: str, code: int, verdict: Verdict) -> dict[str, str]:
    """One line of the table."""
    same = verdict.conclusions["same"]
    sampled = CASES[name].new_sample
    return {
        "case": name,
        "ended": "with its report" if code == 0 else f"with exit code {code}",
        "conclusions the same": f"{int(same.sum())} of {len(same)}",
        "contradicting": str(len(verdict.opposed)),
        "largest difference of a frozen head's mean accuracy": "other splits" if sampled else f"{verdict.largest:.1g}",
        "numbers outside the interval": f"{len(verdict.outside)} of {verdict.numbers}",
    }


def compare_cases(
    study: str, root: Path, names: Sequence[str] = tuple(CASES), cores: int | None = None
) -> tuple[str, bool]:
    """Runs `study` in every case and compares it with this processor's run: a Markdown table, and whether all agree.

    The table is also written to `root`/STUDY.csv. Raises ValueError where the study leaves no tables here.
    """
    code, reference = run_case(study, HERE, root, cores)
    if code not in ENDED or not (reference / "tables").is_dir():
        raise ValueError(f"'{study}' did not end on this processor (exit code {code}); run it by itself first")
    rows = []
    well = code == 0
    details = []
    for name in [n for n in names if n != HERE]:
        code, folder = run_case(study, name, root, cores)
        verdict = verify(folder, reference)
        rows.append(row(name, code, verdict))
        well &= agrees(name, code, verdict)
        details.append(f"{name}: {verdict}")
    frame = pd.DataFrame(rows)
    with atomic(root / f"{reference.name}.csv") as part:
        frame.to_csv(part, index=False)
    note = f"Frozen heads agree where they differ by {ROUNDING:g} at most."
    return "\n\n".join([*details, markdown(frame), note]), well


def markdown(frame: pd.DataFrame) -> str:
    """The table of cases for the README."""
    rows = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
