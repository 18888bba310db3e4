"""Any torchvision classifier by name: cut before its classifier, initialised, frozen; and the cache of its features."""

import hashlib
import sys
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torchvision
from safetensors import SafetensorError, safe_open
from torch import nn
from torchvision.models.resnet import BasicBlock

from qtl_utils.data.images import fetch
from qtl_utils.models.devices import build_seeded
from qtl_utils.study import extensions, shipped_files
from qtl_utils.study.names import NO_BACKBONE, unknown_name
from qtl_utils.study.notebook import module_hash
from qtl_utils.study.paths import atomic, user_path

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)  # of ImageNet, per channel
N_CLASSES = 1000  # of every classifier before it is cut, as torchvision's are
TINY_VIT = {"patch_size": 8, "num_layers": 2, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 128}
TINY_RESNET = (16, 32, 64)  # channels of its blocks; the last ones are the features
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # of BatchNorm: how their names end
FEATURE_BATCH = 32  # images per forward pass; fixed, because results depend on it in the last digits


class Backbone(nn.Module):
    """Pixels (N, 3, S, S), uint8, -> features (N, n_features): normalises as ImageNet asks, then the cut network.

    A frozen backbone stays in eval mode whatever `train()` is called, so that BatchNorm keeps its statistics.
    """

    def __init__(self, name: str, network: nn.Module, n_features: int, frozen: bool = True):
        super().__init__()
        self.name = name
        self.network = network
        self.n_features = n_features
        self.frozen = frozen
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.requires_grad_(not frozen)
        self.train(not frozen)

    def train(self, mode: bool = True):
        return super().train(mode and not self.frozen)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        out = self.network((pixels.to(self.mean.dtype) / 255 - self.mean) / self.std)
        return getattr(out, "logits", out)  # networks with auxiliary heads return a tuple while training


def tiny_vit(image_size: int) -> nn.Module:
    """A vision transformer for images of a few dozen pixels: two layers, 64 features."""
    if image_size % TINY_VIT["patch_size"]:
        raise ValueError(
            f"image_size {image_size}: tiny_vit cuts patches of {TINY_VIT['patch_size']} px; use a multiple"
        )
    return torchvision.models.VisionTransformer(image_size=image_size, num_classes=N_CLASSES, **TINY_VIT)


def tiny_resnet(image_size: int) -> nn.Module:
    """A residual network with BatchNorm for images of any size: three of torchvision's blocks, 64 features."""
    first = TINY_RESNET[0]
    stem = nn.Sequential(nn.Conv2d(3, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU(inplace=True))
    blocks = [_residual(n_in, n_out) for n_in, n_out in zip((first, *TINY_RESNET), TINY_RESNET, strict=False)]
    top = nn.Linear(TINY_RESNET[-1], N_CLASSES)
    parts = {"stem": stem, "blocks": nn.Sequential(*blocks), "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return nn.Sequential(OrderedDict(parts | {"fc": top}))


def _residual(n_in: int, n_out: int) -> nn.Module:
    """A block that, where it has more channels than its input, halves the image's sides."""
    if n_in == n_out:
        return BasicBlock(n_in, n_out)
    shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride=2, bias=False), nn.BatchNorm2d(n_out))
    return BasicBlock(n_in, n_out, stride=2, downsample=shortcut)


# Networks of ours, by name, made from the image size; any other name is torchvision's. A network either ends in a
# Linear layer with 1000 outputs, which is cut off, or says in `n_features` how many features it gives.
BACKBONES: dict[str, Callable[[int], nn.Module]] = {"tiny_vit": tiny_vit, "tiny_resnet": tiny_resnet}


def known_models() -> list[str]:
    """Names a study may give as `model`."""
    return [NO_BACKBONE, *BACKBONES, *torchvision.models.list_models(module=torchvision.models)]


def build_network(model: str, image_size: int, seed: int = 0) -> nn.Module:
    """The whole classifier, one of ours (BACKBONES) or torchvision's, with the random weights of `seed`."""
    if model not in known_models() or model == NO_BACKBONE:
        raise ValueError(unknown_name("model", model, known_models()))
    if model in BACKBONES:
        return build_seeded(partial(BACKBONES[model], image_size), seed)
    options = {"image_size": image_size} if model.startswith("vit_") else {}
    if model in ("googlenet", "inception_v3"):
        options |= {"init_weights": True}
    return build_seeded(partial(torchvision.models.get_model, model, weights=None, **options), seed)


def cut(network: nn.Module) -> tuple[str, int]:
    """Removes the classifier in place; returns its name and the number of features before it.

    The classifier is the last Linear layer with 1000 outputs; SqueezeNet, which has none, ends in global average
    pooling instead. A network that says in `n_features` how many features it gives has no classifier.
    """
    if isinstance(getattr(network, "n_features", None), int):
        return "", network.n_features
    linear = [n for n, m in network.named_modules() if isinstance(m, nn.Linear) and m.out_features == N_CLASSES]
    if isinstance(network, torchvision.models.SqueezeNet):
        network.classifier = nn.AdaptiveAvgPool2d(1)
        return "classifier", 512
    if not linear:
        raise ValueError(
            f"{type(network).__name__} has no Linear classifier with 1000 outputs to cut off; "
            "give it an attribute n_features if it ends in features already"
        )
    parent, _, last = linear[-1].rpartition(".")
    holder = network.get_submodule(parent)
    n_features = getattr(holder, last).in_features if not last.isdigit() else holder[int(last)].in_features
    setattr(holder, last, nn.Identity())
    return linear[-1], n_features


def load_backbone(
    model: str, image_size: int, init: str, *, weights: str | None = None, seed: int = 0, frozen: bool = True
) -> Backbone:
    """The backbone `model` with its initial weights.

    init: 'imagenet' (downloaded), 'shipped' (with this package), 'file' (`weights`) or 'random' (`seed`).
    """
    network = build_network(model, image_size, seed)
    sources = {"imagenet": imagenet_state, "shipped": shipped_state, "file": lambda _: read_weights(weights)}
    state = sources[init](model) if init != "random" else None
    classifier, n_features = cut(network)
    if state is not None:
        load_state(network, state, classifier, weights or f"the file of {model}'s {init} weights")
    return Backbone(model, network, n_features, frozen)


def read_weights(file: str | Path) -> dict[str, torch.Tensor]:
    """The tensors in a .safetensors file, or in a .pth/.pt file read with `weights_only`; ValueError names the file."""
    path = user_path(file)
    if not path.is_file():
        raise FileNotFoundError(f"weights: there is no file '{file}'; give a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable as weights ({_first_line(error)}); save a state_dict again") from None
    except Exception as error:  # torch raises pickle.UnpicklingError for anything but tensors
        raise ValueError(f"{path}: holds more than tensors ({_first_line(error)}); save model.state_dict()") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path}: expected a dictionary of tensors; save model.state_dict()")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:;")


def load_state(network: nn.Module, state: dict[str, torch.Tensor], classifier: str, source: str) -> None:
    """Loads `state` into a cut network; keys of its classifier are ignored, every other key must fit."""
    ignored = (f"{classifier}.", "aux", "AuxLogits.")
    own = network.state_dict()
    state = {key: value for key, value in state.items() if key in own or not key.startswith(ignored)}
    wrong = {
        "missing": sorted(k for k in own.keys() - state.keys() if not k.startswith(ignored)),
        "unexpected": sorted(state.keys() - own.keys()),
        "of another shape": [
            f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
            for k in sorted(own.keys() & state.keys())
            if own[k].shape != state[k].shape
        ],
    }
    found = [f"{len(v)} keys {k} ({', '.join(v[:3])}{', ...' if len(v) > 3 else ''})" for k, v in wrong.items() if v]
    if found:
        raise ValueError(f"{source} does not fit {type(network).__name__}: {'; '.join(found)}; check model and weights")
    network.load_state_dict(state, strict=False)


def shipped_state(model: str) -> dict[str, torch.Tensor]:
    """The weights of `model` that this package brings along; ValueError where it has none."""
    known = shipped_files.names(shipped_files.WEIGHTS)
    if model not in known:
        raise ValueError(f"no weights of {model} ship with this package, only of {', '.join(known)}; use another init")
    return safetensors.torch.load_file(shipped_files.path_of(model))


def imagenet_url(model: str) -> str:
    """Where torchvision keeps ImageNet weights of `model`: IMAGENET1K_V1, or its default where there are none."""
    if model in BACKBONES:
        raise ValueError(f"{model} has no ImageNet weights; use init: shipped, source, random or file")
    weights = torchvision.models.get_model_weights(model)
    return getattr(weights, "IMAGENET1K_V1", weights.DEFAULT).url


def imagenet_state(
    model: str, base_url: str | None = None, folder: str | Path | None = None
) -> dict[str, torch.Tensor]:
    """The ImageNet weights of `model`, downloaded once and checked against the hash in their name."""
    url = imagenet_url(model)
    base, filename = url.rsplit("/", 1)
    folder = Path(folder or Path(torch.hub.get_dir()) / "checkpoints")
    by_hand = f"download {url} by hand into {folder}, or give a file with init: file and weights: FILE"
    path = fetch(base_url or base, filename, folder, None, by_hand)
    expected = path.stem.rsplit("-", 1)[-1]
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(expected):
        path.unlink()
        raise ValueError(f"{base_url or base}/{filename} does not have the expected hash {expected}...; {by_hand}")
    return read_weights(path)


@torch.no_grad()
def compute_features(backbone: Backbone, pixels: np.ndarray) -> torch.Tensor:
    """Features (N, n_features), float32, of pixels (N, 3, S, S), uint8; the backbone is left as it was.

    They are computed in float64 where the device has it, and rounded: processors that sum in another order agree.
    """
    mode = backbone.training
    dtype = backbone.mean.dtype
    device = backbone.mean.device
    backbone.eval().to(dtype if device.type == "mps" else torch.float64)
    batches = torch.from_numpy(pixels).split(FEATURE_BATCH)
    features = torch.cat([backbone(batch.to(device)).float().cpu() for batch in batches])
    nn.Module.train(backbone.to(dtype), mode)
    if not features.isfinite().all():
        raise ValueError(f"{backbone.name} gives features that are not finite; check the weights")
    return features


def cached_features(
    backbone: Backbone, pixels: np.ndarray, folder: Path, content: str = ""
) -> tuple[torch.Tensor, Path]:
    """`compute_features`, kept in `folder` under a name made of pixels, weights and code; verified when read back.

    content: a hash of what the pixels are made from, where it is known, so that they need not be read.
    """
    key = _content_key(backbone, content or digest(torch.from_numpy(pixels)))
    path = Path(folder) / f"features-{key}.safetensors"
    if path.is_file():
        features = _read_features(path)
        if features is not None:
            return features, path
        print(f"{path.name} is damaged; computing the features again", file=sys.stderr)
    features = compute_features(backbone, pixels).contiguous()
    with atomic(path) as part:
        safetensors.torch.save_file({"features": features}, part, {"sha256": digest(features)})
    return features, path


def _read_features(path: Path) -> torch.Tensor | None:
    try:
        with safe_open(path, "pt") as file:
            features = file.get_tensor("features")
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        return None
    return features if metadata.get("sha256") == digest(features) else None


def digest(*tensors: torch.Tensor) -> str:
    """The SHA-256 of the values, types and shapes of `tensors`."""
    sha = hashlib.sha256()
    for tensor in tensors:
        array = tensor.detach().cpu().contiguous().numpy()
        sha.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return sha.hexdigest()


def _content_key(backbone: Backbone, content: str) -> str:
    code = module_hash(__file__) + torch.__version__ + torchvision.__version__ + repr(extensions.hashes() or "")
    state = backbone.state_dict()
    parts = (code, backbone.name, *state, content, digest(*state.values()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
