"""Threads, memory, processor and versions: what a result depends on besides the study file.

Only the standard library is imported at the top: set-up asks `missing` before anything is installed.
"""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterable, Sequence
from typing import Any

from qtl_utils.study.paths import PROJECT

PACKAGES = (
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "torch",
    "torchvision",
    "pennylane",
    "pennylane-lightning",
    "qiskit",
    "qiskit-ibm-runtime",
    "qiskit-machine-learning",
    "numba",
    "matplotlib",
    "seaborn",
    "papermill",
    "snakemake",
)
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def set_threads(threads: int) -> None:
    """Sets torch's threads, and for libraries not yet loaded the usual environment variables."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    if "torch" in sys.modules:  # it reads them when it is loaded
        sys.modules["torch"].set_num_threads(threads)


def available_cores() -> int:
    """The CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Version by package name, of Python and of the packages that shape the results."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe() -> dict[str, Any]:
    """Platform, processor, cores, versions and the state of the repository; imports neither torch nor others."""
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": processor(),
        "cores": available_cores(),
        "commit": commit(),
        "versions": versions(),
    }


def processor() -> str:
    """The processor's name as the system tells it, or its architecture."""
    try:
        if sys.platform == "darwin":
            return _output("sysctl", "-n", "machdep.cpu.brand_string")
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, subprocess.SubprocessError):
        return platform.machine()


def commit() -> str | None:
    """The commit of the project folder, with '+' where tracked files differ from it; None outside git."""
    try:
        top = _output("git", "-C", str(PROJECT), "rev-parse", "--show-toplevel")
        if not os.path.samefile(top, PROJECT):
            return None
        name = _output("git", "-C", str(PROJECT), "rev-parse", "HEAD")
        changed = _output("git", "-C", str(PROJECT), "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return name + ("+" if changed else "")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def missing(requirements: Sequence[str] | None = None) -> list[str]:
    """Which of `requirements` (as 'name>=version'; default: pyproject.toml's) this interpreter lacks.

    Uses the standard library only, and takes a package whose installation was cut short as lacking.
    """
    if requirements is None:
        with open(PROJECT / "pyproject.toml", "rb") as file:
            requirements = tomllib.load(file)["project"]["dependencies"]
    return [requirement for requirement in requirements if not _is_installed(*requirement.split(">="))]


def _is_installed(name: str, least: str = "0") -> bool:
    def numbers(version):
        return [int(number) for number in re.findall(r"\d+", version)[:3]]

    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    whole = bool(found.read_text("RECORD")) or "conda" in (found.read_text("INSTALLER") or "")
    return whole and numbers(found.version) >= numbers(least)


def progress(steps: Iterable, label: str) -> Iterable:
    """`steps` behind a progress bar, or bare where a study runs unattended (QTL_BATCH is set)."""
    from tqdm import tqdm

    return steps if os.environ.get("QTL_BATCH") else tqdm(steps, label, leave=False, file=sys.stdout)


class PeakMemory:
    """Context manager: `bytes` is the largest resident memory of the whole process inside the block, sampled."""

    def __init__(self, interval: float = 0.02):
        self.interval = interval
        self.bytes = 0

    def __enter__(self):
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self):
        import psutil

        process = psutil.Process()
        while True:
            self.bytes = max(self.bytes, process.memory_info().rss)
            if self._done.wait(self.interval):
                return

    def __exit__(self, *error):
        self._done.set()
        self._thread.join()
