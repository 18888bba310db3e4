"""The benchmark of trainings: workers, what counts as the same work, tables and checks, and the programs with JAX."""

import itertools
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from qtl_utils.circuits.layer import QuantumLayer
from qtl_utils.study.config import TrainConfig
from qtl_utils.study.paths import PROJECT

sys.path.insert(0, str(PROJECT / "benchmarks"))
import bench_scaling
import bench_study
import programs
import timing

SETTINGS = {"seeds": 3, "epochs": 2}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Jobs by program and head."""
    common = programs.shipped_data(tmp_path_factory.mktemp("inputs")) | {"settings": SETTINGS}
    return lambda program, head: common | {"program": program, "variant": head}


def peers(ratios, memory=1e9):
    """A table of peers with these ratios by head and threads, checked."""
    rows = [{"what": "JAX", "head": h, "threads": t, "ours_times_faster": r} for (h, t), r in ratios.items()]
    return timing.verdicts(bench_study.check(pd.DataFrame(rows), memory))


def test_what_falls_short_is_said():
    reached = {key: least + 0.1 for key, least in bench_study.ASKED.items()}
    assert peers(reached)[1] == 0
    lines, short = peers(reached | {("A", 2): 4.9})
    assert short == 1 and lines[1].startswith("SHORT head A, 2 threads, against JAX")
    assert peers(reached, memory=1.6e9)[1] == 1
    del reached["C", 1]
    assert peers(reached)[1] == 1


def test_another_work_is_noticed():
    expected = np.full(100, 0.8)
    one_other = expected.copy()
    one_other[0] = 0.81
    assert bench_study.compare(one_other, expected) == 99
    with pytest.raises(ValueError, match="0 of 100 seeds alike"):
        bench_study.compare(expected + 0.001, expected)
    with pytest.raises(ValueError, match=r"95 of 100 seeds alike, means 0\.0250 apart"):
        bench_study.compare(np.where(np.arange(100) < 5, 0.3, 0.8), expected)


def test_the_best_peer_comes_first_and_the_loop_of_2019_last():
    seconds = {"PennyLane, JAX": 9.0, "JAX": 2.0, programs.OURS: 0.5, programs.OURS_64: 0.7}
    rows = [
        {"what": name, "head": "A", "threads": n, "seconds": s / n, "compile_seconds": 1.0, "accuracy": 0.86}
        | {"ours_times_faster": s / 0.5}
        for n, (name, s) in itertools.product((1, 2), seconds.items())
    ]
    rows.append({"what": "the loop of 2019", "seconds": 2e4, "extrapolated_from": "8 s an epoch"})
    lines = bench_study.markdown(pd.DataFrame(rows)).splitlines()
    assert [line.split(" | ")[1] for line in lines[2:6]] == ["JAX", "PennyLane, JAX", programs.OURS, programs.OURS_64]
    assert lines[2] == "| A | JAX | 2 | 1 | 4, 4 | 1 | 0.8600 |"
    assert lines[-1] == "| the loop of 2019 | about 20,000 |  |"


def test_a_worker_does_its_jobs_again_and_ends(jobs):
    with programs.Worker(1) as worker:
        first = worker(jobs(programs.OURS, "C"))
        assert worker()["accuracies"] == first["accuracies"]
        assert len(first["accuracies"]) == SETTINGS["seeds"] and first["memory_bytes"] > 1e7
        with pytest.raises(programs.RefusedError, match="over 0 s"):
            worker(jobs(programs.OURS, "C") | {"settings": {"seeds": 50, "epochs": 500}}, limit=0.1)
    assert worker.process.poll() is not None


@pytest.mark.slow
def test_what_goes_wrong_in_a_worker_is_no_slowness(jobs):
    with programs.Worker(1) as worker, pytest.raises(programs.RefusedError, match="ended by itself"):
        worker(jobs(programs.OURS, "no such head"))


def test_every_point_of_the_figure_is_drawn():
    rows = [
        {"panel": panel, "value": value, "program": program, "seconds_per_seed_epoch": 1e-3}
        for program in bench_scaling.PROGRAMS
        for panel, values in bench_scaling.PANELS.items()
        for value in values
    ]
    figure = bench_scaling.draw(pd.DataFrame(rows))
    drawn = [[len(line.get_xdata()) for line in axis.get_lines()] for axis in figure.axes]
    assert drawn == [[len(values)] * 2 for values in bench_scaling.PANELS.values()]


# ---- with JAX, where it is installed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("simulator", ["JAX", "TensorCircuit-NG, JAX", "PennyLane, JAX"])
def test_circuits_are_that_of_the_layer(simulator):
    pytest.importorskip("jax")
    if simulator.startswith("Tensor"):
        pytest.importorskip("tensorcircuit")
    import jax_peers

    layer = QuantumLayer(3, 2)
    angles = torch.randn(4, 3)
    with torch.no_grad():
        layer.weights.normal_()
        expected = layer(angles).numpy()
    found = jax_peers.CIRCUITS[simulator](3, 2)(angles.numpy(), layer.weights.detach().numpy())
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("head", "batch"), [("A", 16), ("C", 4), ("C-matched", 16)])
def test_the_program_with_jax_leaves_behind_what_ours_does(jobs, head, batch):
    """A batch of 16 does not divide the 244 training images."""
    pytest.importorskip("jax")
    job = jobs(programs.OURS, head)
    inputs = programs.open_task_inputs(job["folder"], job["data"], job["backbone"])
    config = TrainConfig(**SETTINGS, batch_size=batch, dtype="float32", lr_step=1)
    expected = programs.ours(programs.OURS, head, inputs, config)[0]()
    history, best, logits = programs.peer("JAX", head, inputs, config)[0]()
    np.testing.assert_allclose(history, expected.history.reshape(3, 2, 4), atol=1e-4)
    np.testing.assert_array_equal(best, expected.best_epoch)
    np.testing.assert_allclose(logits[:, 0], expected.logits["best"], atol=1e-3)
    np.testing.assert_allclose(logits[:, 1], expected.logits["last"], atol=1e-3)
