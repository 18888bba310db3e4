"""Backbones: cutting, weights, freezing, the feature cache and the download, against a server on loopback."""

import hashlib
import http.server
import pickle
import threading

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision

from qtl_utils.data import images
from qtl_utils.models import backbones
from qtl_utils.models.backbones import cached_features, compute_features, load_backbone, load_state, read_weights

SIZES = {"resnet18": (32, 512), "resnet50": (32, 2048), "squeezenet1_1": (64, 512), "vit_b_16": (32, 768)}
SIZES |= {"swin_t": (32, 768), "convnext_tiny": (32, 768), "tiny_vit": (32, 64)}


def pixels(n=2, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 3, size, size), dtype=np.uint8)


@pytest.mark.parametrize("model", SIZES)
def test_a_model_is_cut_before_its_classifier(model):
    size, n_features = SIZES[model]
    backbone = load_backbone(model, size, "random")
    assert backbone.n_features == n_features
    assert compute_features(backbone, pixels(size=size)).shape == (2, n_features)


@pytest.mark.parametrize("model", ["resnet18", "convnext_tiny"])
def test_the_cut_off_linear_layer_gives_the_whole_network_back(model):
    whole = backbones.build_network(model, 32, seed=1).eval()
    backbone, x = load_backbone(model, 32, "random", seed=1), pixels()
    linear = [m for m in whole.modules() if isinstance(m, torch.nn.Linear)][-1]
    normalise = torchvision.transforms.Normalize(backbones.MEAN, backbones.STD)
    expected = whole(normalise(torch.from_numpy(x).float() / 255))
    torch.testing.assert_close(linear(compute_features(backbone, x)), expected)


def test_a_frozen_backbone_moves_neither_weights_nor_batchnorm():
    backbone = load_backbone("resnet18", 32, "random")
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.train()
    backbone(torch.from_numpy(pixels(8)))
    assert not any(p.requires_grad for p in backbone.parameters())
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_a_trained_backbone_moves_batchnorm_in_train_mode():
    backbone = load_backbone("resnet18", 32, "random", frozen=False)
    before = backbone.network.bn1.running_mean.clone()
    backbone.train()
    backbone(torch.from_numpy(pixels(8)))
    assert not torch.equal(backbone.network.bn1.running_mean, before)


def test_random_weights_depend_on_the_seed_alone():
    a, b, c = (load_backbone("tiny_vit", 32, "random", seed=s).network.conv_proj.weight for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_come_back_from_a_file(tmp_path, suffix):
    whole, file = backbones.build_network("resnet18", 32, seed=5), tmp_path / f"w{suffix}"
    save = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
    save(whole.state_dict(), file)
    backbone = load_backbone("resnet18", 32, "file", weights=str(file))
    assert torch.equal(backbone.network.conv1.weight, whole.conv1.weight)


def test_keys_that_do_not_fit_are_named(tmp_path):
    network = backbones.build_network("resnet18", 32)
    backbones.cut(network)
    state = network.state_dict() | {"extra": torch.zeros(1), "bn1.bias": torch.zeros(3)}
    del state["conv1.weight"]
    with pytest.raises(ValueError, match=r"my file does not fit.*conv1\.weight.*extra.*bn1\.bias \(3,\) instead of"):
        load_state(network, state, "fc", "my file")


@pytest.mark.parametrize("content", ["pickle", "text", "empty", "list"])
def test_files_that_hold_no_weights_are_refused(tmp_path, content):
    file = tmp_path / "w.pth"
    if content == "pickle":
        file.write_bytes(pickle.dumps(print, protocol=2))
    elif content == "list":
        torch.save([1, 2], file)
    else:
        file.write_text("no weights" if content == "text" else "")
    with pytest.raises(ValueError, match=r"w\.pth: .*state_dict"):
        read_weights(file)
    (tmp_path / "w.safetensors").write_text("no weights")
    with pytest.raises(ValueError, match=r"w\.safetensors: not readable"):
        read_weights(tmp_path / "w.safetensors")


def test_imagenet_weights_are_the_first_ones_of_torchvision():
    assert backbones.imagenet_url("resnet18").endswith("/resnet18-f37072fd.pth")


def test_unknown_models_and_sizes_are_named():
    with pytest.raises(ValueError, match="unknown model 'resnet19'.*did you mean 'resnet18'"):
        load_backbone("resnet19", 32, "random")
    with pytest.raises(ValueError, match="image_size 30.*patches of 8 px"):
        load_backbone("tiny_vit", 30, "random")
    with pytest.raises(ValueError, match="tiny_vit has no ImageNet weights"):
        load_backbone("tiny_vit", 32, "imagenet")


def test_features_are_computed_once_and_again_when_something_changed(tmp_path, monkeypatch):
    backbone, x = load_backbone("tiny_vit", 32, "random"), pixels()
    first, path = cached_features(backbone, x, tmp_path)
    monkeypatch.setattr(backbones, "compute_features", lambda *_: pytest.fail("computed again"))
    assert torch.equal(cached_features(backbone, x, tmp_path)[0], first)
    monkeypatch.undo()
    assert cached_features(backbone, pixels(seed=1), tmp_path)[1] != path
    assert cached_features(load_backbone("tiny_vit", 32, "random", seed=1), x, tmp_path)[1] != path


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_feature_file_is_computed_again(tmp_path, damage, capsys):
    backbone, x = load_backbone("tiny_vit", 32, "random"), pixels()
    first, path = cached_features(backbone, x, tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content if damage == "flip" else content[:-9])
    assert torch.equal(cached_features(backbone, x, tmp_path)[0], first)
    assert "damaged" in capsys.readouterr().err


@pytest.mark.slow
def test_the_real_weights_separate_ants_from_bees(squeezenet_weights, hymenoptera_dir):
    from qtl_utils.data.dataset import load_pixels
    from qtl_utils.data.datasets import load_dataset

    data = load_dataset("hymenoptera", data_dir=hymenoptera_dir)
    index = np.r_[0:20, 100:120, 250:270, 350:370]
    backbone = load_backbone("squeezenet1_1", 224, "file", weights=str(squeezenet_weights))
    features = compute_features(backbone, load_pixels(data, 224)[index]).numpy()
    labels = data.labels[index]
    centres = np.stack([features[labels == k].mean(0) for k in (0, 1)])
    nearest = ((features[:, None] - centres) ** 2).sum(-1).argmin(1)
    assert (nearest == labels).mean() > 0.85


class Server(http.server.BaseHTTPRequestHandler):
    content, asked = b"", 0

    def do_GET(self):
        type(self).asked += 1
        self.send_response(503 if self.asked == 1 else 200)
        self.send_header("Content-Length", str(0 if self.asked == 1 else len(self.content)))
        self.end_headers()
        self.wfile.write(b"" if self.asked == 1 else self.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    Server.asked = 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()


def serve_weights(monkeypatch, tmp_path, right=True):
    """Serves a fresh SqueezeNet under a name that carries its hash, as torchvision's files do."""
    network = backbones.build_network("squeezenet1_1", 64, seed=9)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    Server.content = (tmp_path / "w.pth").read_bytes()
    digest = hashlib.sha256(Server.content if right else b"other").hexdigest()[:8]
    url = f"https://download.pytorch.org/models/squeezenet1_1-{digest}.pth"
    monkeypatch.setattr(backbones, "imagenet_url", lambda model: url)
    return network


def test_imagenet_weights_are_downloaded_with_a_retry(server, tmp_path, monkeypatch):
    network = serve_weights(monkeypatch, tmp_path)
    state = backbones.imagenet_state("squeezenet1_1", server, tmp_path / "cache")
    assert Server.asked == 2 and torch.equal(state["features.0.weight"], network.features[0].weight)


def test_a_download_with_another_hash_is_refused_and_removed(server, tmp_path, monkeypatch):
    serve_weights(monkeypatch, tmp_path, right=False)
    with pytest.raises(ValueError, match="does not have the expected hash.*by hand.*weights: FILE"):
        backbones.imagenet_state("squeezenet1_1", server, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_without_network_the_sentence_says_what_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "RETRIES", 0)
    with pytest.raises(FileNotFoundError, match="squeezenet1_1-.*could not be downloaded.*init: file and weights"):
        backbones.imagenet_state("squeezenet1_1", "http://127.0.0.1:9", tmp_path)
