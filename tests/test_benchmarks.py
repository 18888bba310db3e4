"""The benchmarks' own logic: what falls short is said, methods compute the same, the loop of 2019 is that of 2019."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch

from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.study.paths import PROJECT

sys.path.insert(0, str(PROJECT / "benchmarks"))
import bench_simulators
import bench_study
import timing


def cell(n, batch, **milliseconds):
    names = {"ours": bench_simulators.OURS, "pennylane": bench_simulators.PENNYLANE, "jax": bench_simulators.JITTED[0]}
    names["empty"] = bench_simulators.EMPTY
    return [
        {"n_qubits": n, "batch": batch, "method": names[k], "seconds": v / 1e3, "memory_bytes": np.nan}
        for k, v in milliseconds.items()
    ]


def test_ratios_that_fall_short_are_counted():
    frame = pd.DataFrame(
        cell(8, 32, ours=0.1, pennylane=50.0, jax=2.0) + cell(12, 32, ours=1.0, pennylane=200.0, jax=30.0)
    )
    rows = bench_simulators.check(frame)
    assert [round(found) for _, found, _ in rows] == [500, 20, 200, 30]
    lines, short = timing.verdicts(rows)
    assert (
        short == 1 and lines[1].startswith("SHORT n=8 B=32 against the best peer") and lines[-1] == "1 of 4 fall short"
    )


def test_the_smallest_cell_may_be_as_fast_as_an_empty_function_instead():
    fast = pd.DataFrame(cell(4, 4, ours=0.04, empty=0.03, pennylane=3.0, jax=0.1))
    assert ["empty autograd Function" in what for what, _, _ in bench_simulators.check(fast)] == [True]
    assert timing.verdicts(bench_simulators.check(fast))[1] == 0
    slow = pd.DataFrame(cell(4, 4, ours=0.06, empty=0.03, pennylane=3.0, jax=0.1))
    assert timing.verdicts(bench_simulators.check(slow))[1] == 2


def test_more_memory_than_asked_for_falls_short():
    row = cell(16, 256, ours=100.0)[0]
    assert timing.verdicts(bench_simulators.check(pd.DataFrame([row | {"memory_bytes": 5e8}])))[1] == 1
    assert timing.verdicts(bench_simulators.check(pd.DataFrame([row | {"memory_bytes": 3e7}])))[1] == 0


@pytest.mark.parametrize("method", [m for m in bench_simulators.METHODS if "JAX" not in m and m != "DeepQuantum"])
def test_methods_are_compared_before_they_are_timed(method):
    step, _, reason = bench_simulators.prepare(method, 3, 2, limit=60.0)
    assert step is not None and not reason


def test_a_method_that_is_not_installed_is_named(monkeypatch):
    def missing(n, batch):
        raise ModuleNotFoundError("No module named 'jax'", name="jax")

    monkeypatch.setitem(bench_simulators.METHODS, "absent", (missing, lambda n: 0))
    assert bench_simulators.prepare("absent", 3, 2, limit=60.0) == (None, None, "not installed (jax)")


def test_a_wrong_method_is_noticed(monkeypatch):
    wrong = lambda n, batch: bench_simulators.torch_step(lambda x, w: x * w.sum(), n, batch)  # noqa: E731
    monkeypatch.setitem(bench_simulators.METHODS, "wrong", (wrong, lambda n: 0))
    with pytest.raises(AssertionError, match="not close"):
        bench_simulators.prepare("wrong", 3, 2, limit=60.0)


def test_the_loop_of_2019_is_head_a():
    torch.manual_seed(0)
    loop, layer = bench_study.Loop2019(5, 2), QuantumLayer(4, 6)
    x = torch.randn(3, 5)
    with torch.no_grad():
        layer.weights.copy_(loop.angles)
        expected = loop.post(layer(torch.tanh(loop.pre(x)) * (torch.pi / 2)))
    torch.testing.assert_close(loop.logits(x), expected, atol=1e-5, rtol=0)
