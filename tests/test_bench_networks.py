"""The benchmark of whole networks: both ways compute the same, and what is too slow is said."""

import sys

import pytest

from qtl_utils.study.paths import PROJECT

sys.path.insert(0, str(PROJECT / "benchmarks"))
import bench_networks
import timing


def test_networks_are_trained_as_they_were():
    assert bench_networks.apart("tiny_resnet") < bench_networks.SAME
    assert bench_networks.apart("tiny_vit") < bench_networks.SAME


def test_another_training_of_networks_is_noticed(monkeypatch):
    monkeypatch.setattr(bench_networks.Before, "epoch", lambda *_: (1.0, 1.0))
    with pytest.raises(AssertionError, match="do not compute the same"):
        bench_networks.measure("tiny_vit", 1)


def test_networks_that_are_too_slow_fall_short():
    row = {"model": "resnet18", "times_faster": 1.3}
    other = {"model": "tiny_vit", "times_faster": 1.0}
    assert timing.verdicts(bench_networks.check([row, other]))[1] == 1
    assert timing.verdicts(bench_networks.check([row | {"times_faster": 1.5}]))[1] == 0
