"""What every variant of a run starts from: data, splits, pixels, features and initial backbones."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from qtl_utils.data.dataset import Dataset, load_pixels
from qtl_utils.data.datasets import load_dataset
from qtl_utils.data.index import ImageIndex
from qtl_utils.data.splits import Splits, load_splits, make_splits, save_splits
from qtl_utils.models import backbones
from qtl_utils.models.backbones import Backbone
from qtl_utils.models.devices import find_device
from qtl_utils.study.config import BackboneConfig, DataConfig, TrainConfig
from qtl_utils.study.names import NO_BACKBONE
from qtl_utils.study.paths import FOLDER, atomic, user_path
from qtl_utils.training.kept import code_of
from qtl_utils.training.sources import backbone_state, train_source

NO_PIXELS = np.empty(0, np.uint8)


@dataclass(frozen=True)
class Source:
    """One initial backbone, before any training on the target."""

    features: torch.Tensor  # (N, F)
    state: dict[str, torch.Tensor]  # empty where only features are known


@dataclass(frozen=True)
class Inputs:
    """What every variant of a run starts from; `pixels` is empty for 2-D points and for features that ship.

    `features` and `state` are those of the first initial backbone, `others` those that further splits start from.
    """

    data: Dataset
    splits: Splits
    pixels: np.ndarray  # (N, 3, S, S) uint8
    features: torch.Tensor  # (N, F)
    backbone: BackboneConfig
    state: dict[str, torch.Tensor]
    image_size: int
    others: tuple[Source, ...] = ()

    @property
    def n_sources(self) -> int:
        """How many initial backbones the study trains or draws here; 0 where their weights are given."""
        return 1 + len(self.others) if self.backbone.own else 0

    def source_number(self, split: int) -> int | None:
        """Which of the study's own initial backbones a split starts from; None where the weights are given."""
        return split % self.n_sources if self.n_sources else None

    def source(self, split: int) -> Source:
        """The initial backbone of a split: split j starts from number j mod n_sources."""
        every = (Source(self.features, self.state), *self.others)
        return every[split % len(every)]


def open_dataset(folder: Path, config: DataConfig) -> tuple[Dataset, Splits]:
    """The data set and its splits, read from `folder`/splits.json if they were drawn with the same settings before."""
    data_dir = user_path(config.data_dir) if config.data_dir else None
    index = ImageIndex(Path(folder) / "images.json", config.image_size)
    data = load_dataset(config.dataset, data_dir=data_dir, cache_dir=FOLDER / "data", index=index, **config.options)
    if index.squares:
        keep_pixels(folder, data, config.image_size, index.squares)
    settings = Path(folder) / "settings.json"
    file = Path(folder) / "splits.json"
    text = config.model_dump_json(indent=2) + "\n"
    if file.is_file() and settings.is_file() and settings.read_text(encoding="utf-8") == text:
        return data, load_splits(file, data)
    splits = draw_splits(data, config)
    save_splits(splits, data, file)
    with atomic(settings) as part:
        part.write_text(text, encoding="utf-8")
    return data, splits


def keep_pixels(folder: Path, data: Dataset, image_size: int, squares: Mapping[str, np.ndarray] | None = None) -> Path:
    """The file in `folder` with the pixels (N, 3, S, S) of `data`, made where it is not there.

    squares: what was decoded already, by path; used where that is every image.
    """
    path = Path(folder) / f"pixels-{image_size}-{content_of(data, image_size)[:16]}.npy"
    if not path.is_file():
        files = [str(file) for file in getattr(data.load, "args", [()])[0]] if squares else []
        whole = len(files) > 0 and all(file in squares for file in files)
        pixels = np.stack([squares[file] for file in files]) if whole else load_pixels(data, image_size)
        with atomic(path) as part, open(part, "wb") as file:
            np.save(file, pixels)
    return path


def open_pixels(folder: Path, data: Dataset, image_size: int) -> np.ndarray:
    """The pixels (N, 3, S, S), uint8, of `data`: on disk, and read where they are looked at."""
    return np.load(keep_pixels(folder, data, image_size), mmap_mode="c")  # writes, should there be any, stay in memory


def content_of(data: Dataset, image_size: int) -> str:
    """A hash of what the pixels of `data` are made from, known without reading one."""
    text = "\n".join([*data.hashes, str(image_size), str(data.crop)])
    return hashlib.sha256(text.encode()).hexdigest()


def draw_splits(data: Dataset, config: DataConfig) -> Splits:
    """The splits that `config` asks for; more of them begin with the same ones."""
    return make_splits(
        data,
        protocol=config.protocol,
        n_splits=config.n_splits,
        seed=config.split_seed,
        train=config.train,
        validation=config.validation,
        test=config.test,
    )


def with_splits(inputs: Inputs, config: DataConfig, n_splits: int | None) -> Inputs:
    """`inputs` with `n_splits` splits, of which nothing is kept in files; as they are where that is None."""
    if n_splits is None:
        return inputs
    more = DataConfig(**config.model_dump() | {"n_splits": n_splits})
    return replace(inputs, splits=draw_splits(inputs.data, more))


def open_backbone(config: BackboneConfig, image_size: int, folder: Path, device="cpu") -> Backbone:
    """The backbone with its initial weights; source-trained ones are kept in `folder` and trained once."""
    if config.init != "source":
        return backbones.load_backbone(
            config.model, image_size, config.init, weights=config.weights, seed=config.seed
        ).to(device)
    code = code_of("training/sources.py")
    key = hashlib.sha256(f"{config.model_dump_json(exclude={'sources'})}{image_size}{code}".encode()).hexdigest()[:16]
    file = Path(folder) / f"backbone-{config.model}-{key}.safetensors"
    if not file.is_file():
        state = backbone_state(train_source(config, image_size, device))
        with atomic(file) as part:
            safetensors.torch.save_file(state, part)
    return backbones.load_backbone(config.model, image_size, "file", weights=str(file)).to(device)


def open_inputs(
    folder: Path, data_config: DataConfig, backbone_config: BackboneConfig, device: str = "cpu", sources: int = 1
) -> Inputs:
    """Data, splits, pixels and features of one data set and one backbone; what is in `folder` is not made again.

    sources: how many initial backbones are opened, of which splits take turns; at most one for each split.
    """
    data, splits = open_dataset(folder, data_config)
    if backbone_config.model == NO_BACKBONE:
        if data.points is None:
            raise ValueError(f"model 'none' is for 2-D points; data set '{data.name}' has images, name a backbone")
        features = torch.from_numpy(data.points)
        return Inputs(data, splits, NO_PIXELS, features, backbone_config, {}, 0)
    if data.points is not None:
        raise ValueError(f"data set '{data.name}' has points, not images; use a backbone with model: none")
    size = data_config.image_size
    if data.features:
        return Inputs(data, splits, NO_PIXELS, shipped_features(data, backbone_config), backbone_config, {}, size)
    pixels = open_pixels(folder, data, size)
    opened = []
    for number in range(min(sources, splits.n_splits)):
        config = backbone_config.model_copy(update={"seed": backbone_config.seed + number})
        backbone = open_backbone(config, size, folder, find_device(device))
        features, _ = backbones.cached_features(backbone, pixels, folder, content_of(data, size))
        opened.append(Source(features, backbone.network.cpu().state_dict()))
    first, *others = opened
    return Inputs(data, splits, pixels, first.features, backbone_config, first.state, size, tuple(others))


def shipped_features(data: Dataset, config: BackboneConfig) -> torch.Tensor:
    """The features (N, F) that stand in the place of images; ValueError for another backbone than theirs."""
    if config.init != "shipped" or config.model not in data.features:
        known = " or ".join(data.features)
        raise ValueError(
            f"data set '{data.name}' has no images, only features of {known}; use a backbone with model: {known} and "
            "init: shipped, or dataset hymenoptera"
        )
    return torch.from_numpy(data.features[config.model])


def scale_features(features: torch.Tensor, splits: Splits) -> torch.Tensor:
    """Features (n_splits, N, F) with mean 0 and standard deviation 1 over the training samples of each split.

    features: (N, F), or (n_splits, N, F).
    """
    scaled = []
    for split in range(splits.n_splits):
        own = features[split] if features.ndim == 3 else features
        mean, deviation = scaling(own[splits.indices(split, "train")])
        scaled.append((own - mean) / deviation)
    return torch.stack(scaled)


def scaling(train: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation (2, F) of training features (n, F); a deviation of 0 counts as 1."""
    deviation = train.std(0, correction=0)
    return torch.stack([train.mean(0), torch.where(deviation > 0, deviation, 1)])


def head_features(inputs: Inputs, config: TrainConfig) -> torch.Tensor:
    """What a head on frozen features is given: (N, F), or (n_splits, N, F) where splits differ in them."""
    features = inputs.features
    if inputs.others:
        features = torch.stack([inputs.source(split).features for split in range(inputs.splits.n_splits)])
    return scale_features(features, inputs.splits) if config.feature_scaling == "standard" else features


def why_no_pixels(data: Dataset) -> str:
    """Why there are no pixels to train a backbone on, and the way out, to follow 'and'."""
    if data.features:
        return f"data set '{data.name}' has features only; use dataset hymenoptera, which has the images"
    return "2-D points have none; use frozen variants"
