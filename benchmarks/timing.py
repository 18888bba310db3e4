"""What the benchmarks share: pinned threads, alternating medians, memory in fresh processes, tables and checks."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))


def pin_threads(threads: int) -> None:
    """Before torch, NumPy and JAX are loaded: every library uses `threads` cores."""
    from qtl_utils.study.environment import THREAD_VARIABLES

    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    if hasattr(os, "sched_setaffinity"):  # JAX has no other way to be told
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import torch

    torch.set_num_threads(threads)


def once(step: Callable, least: float = 0.1) -> float:
    """Seconds of one step: of as many in a row as `least` seconds take, after one that warms the caches."""
    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    if first > 1:
        return first
    count = max(1, int(least / max(first, 1e-9)))
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) / count


def alternate(steps: dict[str, Callable], repeats: int) -> dict[str, list[float]]:
    """Seconds by name, `repeats` each; the steps take turns, so that a slow moment of the machine meets all alike."""
    seconds = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            seconds[name].append(once(step))
    return seconds


def verdicts(rows: list[tuple[str, float, float]]) -> tuple[list[str], int]:
    """Lines for (what, found, at least), and how many fall short of their bound."""
    short = sum(found < least for _, found, least in rows)
    lines = [
        f"{'ok   ' if found >= least else 'SHORT'} {what}: {found:,.3g}x, at least {least:,.4g}x asked"
        for what, found, least in rows
    ]
    return [*lines, f"{short} of {len(rows)} fall short" if short else f"all {len(rows)} reached"], short
