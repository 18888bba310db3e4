"""Kernels forked from a process that has the packages loaded: like started ones, and gone when they should be."""

import json
import os
import sys
import time

import nbformat
import psutil
import pytest
from toy_project import write_notebook

from qtl_utils.study import forks
from qtl_utils.study.notebook import kernel_environment, run_notebook

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")
SAY = """
import json, os, sys
import numpy as np, torch
print(json.dumps({"pid": os.getpid(), "parent": os.getppid(), "loaded": "pennylane" in sys.modules,
                  "threads": torch.get_num_threads(), "numpy": np.random.random(), "torch": torch.rand(1).item(),
                  "QTL_OWN": os.environ.get("QTL_OWN"), "folder": os.getcwd()}))
"""


def until(condition, seconds=60.0):
    """Waits for `condition`; what it found, or a failure after that many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    pytest.fail(f"{condition} did not come true in {seconds} s")


@pytest.fixture(scope="module")
def address():
    with forks.at_hand(kernel_environment(1), 1):
        yield until(lambda: forks.address_for(1))


def say(folder, name, threads=1, **told):
    source = write_notebook(folder / f"{name}.ipynb", "x = 1", SAY)
    run_notebook(source, folder / f"{name}-out.ipynb", {}, threads=threads, **told)
    cells = nbformat.read(folder / f"{name}-out.ipynb", as_version=4).cells
    return json.loads(next(output.text for cell in cells for output in cell.get("outputs", []) if "text" in output))


def test_a_forked_kernel_is_like_a_started_one(tmp_path, address):
    forked = say(tmp_path, "forked", environment={"QTL_OWN": "1"})
    started = say(tmp_path, "started", threads=2)  # for another number of threads nobody forks
    assert forked["loaded"] and not started["loaded"]
    assert forked["threads"] == 1
    assert forked["QTL_OWN"] == "1"
    assert forked["folder"] == started["folder"]
    assert not psutil.pid_exists(forked["pid"])


def test_forked_kernels_draw_different_numbers(tmp_path, address):
    first = say(tmp_path, "first")
    second = say(tmp_path, "second")
    assert first["parent"] == second["parent"]
    assert first["numpy"] != second["numpy"]
    assert first["torch"] != second["torch"]


def kernel(folder, address):
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", str(folder / "k.json"), "--log-level=50"]
    return forks.ForkedKernel(address, command, dict(os.environ), str(folder))


def test_a_kernel_ends_with_whoever_asked_for_it(tmp_path, address):
    found = kernel(tmp_path, address)
    until(lambda: (tmp_path / "k.json").exists())
    assert found.poll() is None
    found.hang_up()
    until(lambda: not psutil.pid_exists(found.pid))


def test_a_killed_kernel_is_reported(tmp_path, address):
    found = kernel(tmp_path, address)
    found.kill()
    assert found.wait(60) == -9
    assert found.poll() == -9


@pytest.mark.slow
def test_kernels_end_with_the_run(tmp_path):
    with forks.at_hand(kernel_environment(1), 1):
        address = until(lambda: forks.address_for(1))
        found = kernel(tmp_path, address)
        until(lambda: (tmp_path / "k.json").exists())
    until(lambda: not psutil.pid_exists(found.pid))
    assert forks.address_for(1) is None


def test_where_nobody_answers_the_kernel_is_started(tmp_path, monkeypatch):
    dead = tmp_path / "s"
    dead.touch()
    monkeypatch.setenv(forks.ADDRESS, f"1:{dead}")
    assert not say(tmp_path, "alone")["loaded"]
