"""What a data set is: labelled samples, read on demand, and their pixels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from PIL import Image

from qtl_utils.data.images import resize_crop


@dataclass(frozen=True, eq=False)
class Dataset:
    """One data set of N samples: images read on demand (`load`), points in memory (`points`), or features of images.

    `features` stand in the place of images that are not there: model -> (N, F) float32, of its pretrained weights.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray  # (N,) int64, index into classes
    ids: tuple[str, ...]  # (N,) unique: path relative to the folder, or e.g. "digits/00017"
    given: tuple[str, ...]  # (N,) the subset the source itself gives: "train", "validation", "test" or ""
    hashes: tuple[str, ...]  # (N,) SHA-256 of the decoded RGB content, or of the point to 6 decimals
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    points: np.ndarray | None = None  # (N, d) float64
    load: Callable[[int], Image.Image] | None = None  # RGB image i
    skipped: pd.DataFrame = field(default_factory=lambda: skipped_files([]))  # columns file, reason
    sizes: np.ndarray | None = None  # (N, 2) width and height in pixels, before any resizing
    crop: bool = True  # False: load_pixels resizes plainly, without cutting a border off

    def __len__(self) -> int:
        return len(self.labels)


def skipped_files(rows: list[tuple[str, str]]) -> pd.DataFrame:
    return pd.DataFrame(sorted(rows), columns=["file", "reason"])


def load_pixels(dataset: Dataset, image_size: int, resize: int | None = None) -> np.ndarray:
    """(N, 3, S, S) uint8: short side resized to `resize` (default 256/224 of S), then the centre S x S.

    Tiny images such as the digits are resized plainly to S x S unless `resize` is given.
    """
    if dataset.load is None:
        instead = "features" if dataset.features else "points"
        raise ValueError(f"Dataset {dataset.name!r} has {instead}, not images; use dataset.{instead}.")
    if image_size < 1 or (resize is not None and resize < image_size):
        raise ValueError(f"resize={resize}, image_size={image_size}: expected 1 <= image_size <= resize.")
    if resize is None:
        resize = image_size * 256 // 224 if dataset.crop else image_size
    pixels = np.empty((len(dataset), 3, image_size, image_size), np.uint8)
    for i in range(len(dataset)):
        pixels[i] = np.asarray(resize_crop(dataset.load(i), image_size, resize)).transpose(2, 0, 1)
    return pixels
