"""Device, threads and versions; and whether the packages that are listed are the packages that are installed."""

import os
import re
import subprocess
import sys
import tomllib

import pytest
import torch
import yaml

from qtl_utils.models.devices import build_seeded, find_device, seed_everything
from qtl_utils.study.environment import PeakMemory, available_cores, describe, missing, progress, versions
from qtl_utils.study.paths import PROJECT

LOCK = (PROJECT / "requirements.lock").read_text()


def test_the_cpu_is_always_there():
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type in ("cpu", "cuda", "mps", "xpu")


@pytest.mark.parametrize("name", ["gpu", "", "hpu"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match="device: "):
        find_device(name)


def test_a_seed_repeats_torch_draws():
    seed_everything(3)
    first = torch.rand(3)
    seed_everything(3)
    assert torch.equal(torch.rand(3), first)


def test_versions_name_what_is_imported():
    assert versions()["torch"] == torch.__version__.partition("+")[0] or versions()["torch"] == torch.__version__
    assert versions()["python"] == ".".join(map(str, sys.version_info[:3]))


def test_describe_imports_no_heavy_package():
    code = "import sys; from qtl_utils.study.environment import describe; describe(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0
    assert describe()["cores"] == available_cores() >= 1


def test_missing_needs_the_standard_library_only():
    code = "from qtl_utils.study.environment import missing; print(len(missing()))"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 20


def test_missing_compares_versions():
    assert missing(["numpy", "torch>=2", "torch>=99.1", "no-such-package"]) == ["torch>=99.1", "no-such-package"]


def test_peak_memory_sees_an_allocation():
    with PeakMemory() as memory:
        block = bytearray(200_000_000)
    assert memory.bytes > len(block)


def test_progress_is_silent_in_a_batch(monkeypatch, capsys):
    monkeypatch.setenv("QTL_BATCH", "1")
    assert list(progress(range(3), "x")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_conda_installs_the_same_lock_and_package():
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    python, pip, packages = environment["dependencies"]
    assert packages == {"pip": ["-r requirements.lock", "-e ."]}
    assert (python, pip) == ("python=3.11", "pip")


def test_the_lock_pins_every_package_of_the_project():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    pinned = set(re.findall(r"^([a-z0-9-]+)==", LOCK, re.MULTILINE))
    assert {re.split("[>=]", name)[0] for name in project["dependencies"]} <= pinned
    assert "https:" not in LOCK


def test_recompiling_the_lock_changes_nothing(tmp_path):
    out = tmp_path / "requirements.lock"
    out.write_text(LOCK)
    options = ["--universal", "--python-version", "3.11", "--no-annotate", "--no-header", "-q", "-o", str(out)]
    try:
        done = subprocess.run(
            ["uv", "pip", "compile", "pyproject.toml", *options],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("uv is not installed")
    if done.returncode and re.search("fetch|connect|network|dns|offline|not found in the", done.stderr, re.I):
        pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    assert out.read_text() == LOCK


DRAWN = """
import hashlib
from torch import nn
from qtl_utils.models.devices import build_seeded
state = build_seeded(lambda: nn.TransformerEncoderLayer(64, 4), 3).state_dict()
state |= build_seeded(lambda: nn.Embedding(40, 40), 3).state_dict()  # a normal draw, the other one is uniform
print(hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values())).hexdigest())
"""


def test_every_processor_draws_the_same_initial_weights():
    others = [{}, {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}]
    run = [
        subprocess.run([sys.executable, "-c", DRAWN], env=os.environ | e, capture_output=True, text=True)
        for e in others
    ]
    assert run[0].stdout == run[1].stdout != "", run[0].stderr


def test_drawing_weights_leaves_torch_as_it_was():
    before = torch.get_rng_state()
    module = build_seeded(lambda: torch.nn.Linear(3, 2), 0)
    assert module.weight.dtype == torch.get_default_dtype() == torch.float32
    assert torch.equal(before, torch.get_rng_state())
