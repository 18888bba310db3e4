"""What the tests share: the real images and weights where present, and the `--slow` switch."""

import os
import socket
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded: tests run beside each other

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


def existing(path, variable):
    if not path.exists():
        pytest.skip(f"{path} is absent; set {variable}")
    return path


@pytest.fixture
def no_network(monkeypatch):
    """Whoever asks a network fails."""

    def refuse(*arguments, **options):
        raise AssertionError("a network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def hymenoptera_dir():
    """The folder of ant and bee images: `$QTL_TEST_DATA/hymenoptera_data`."""
    return existing(Path(os.environ.get("QTL_TEST_DATA", SHARED / "data")) / "hymenoptera_data", "QTL_TEST_DATA")


@pytest.fixture(scope="session")
def squeezenet_weights():
    """ImageNet weights of SqueezeNet 1.1: the file `$QTL_TEST_WEIGHTS`."""
    default = SHARED / "weights" / "squeezenet1_1_imagenet.safetensors"
    return existing(Path(os.environ.get("QTL_TEST_WEIGHTS", default)), "QTL_TEST_WEIGHTS")
