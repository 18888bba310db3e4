"""What a data set is: labelled samples, read on demand, and their pixels."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
from PIL import Image

from qtl_utils.data.images import content_hash, resize_crop


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
    pixels = np.empty((len(dataset), 3, image_size, image_size), np.uint8)
    for i in range(len(dataset)):
        pixels[i] = square(dataset.load(i), image_size, resize, dataset.crop)
    return pixels


def square(image: Image.Image, image_size: int, resize: int | None = None, crop: bool = True) -> np.ndarray:
    """(3, S, S) uint8 of one image, as `load_pixels` makes them."""
    if resize is None:
        resize = image_size * 256 // 224 if crop else image_size
    return np.asarray(resize_crop(image, image_size, resize)).transpose(2, 0, 1)


def from_points(
    name: str,
    points: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    ids: Sequence[str] | None = None,
    given: Sequence[str] | None = None,
) -> Dataset:
    """A data set of points (N, d) that are their own features; labels (N,) index `classes`.

    ids: by default numbers. given: the subset of each point, where the source gives one.
    """
    points = np.asarray(points, np.float64)
    return Dataset(
        name,
        classes=tuple(classes),
        labels=np.asarray(labels, np.int64),
        ids=tuple(ids or (f"{name}/{i:05d}" for i in range(len(points)))),
        given=tuple(given or [""] * len(points)),
        hashes=tuple(hashlib.sha256(point.tobytes()).hexdigest() for point in points.round(6)),
        points=points,
    )


def from_images(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    ids: Sequence[str] | None = None,
    given: Sequence[str] | None = None,
    crop: bool = True,
) -> Dataset:
    """A data set of images (N, H, W, 3), uint8, in memory; the rest as for `from_points`."""
    load = partial(_nth_array, images)
    return Dataset(
        name,
        classes=tuple(classes),
        labels=np.asarray(labels, np.int64),
        ids=tuple(ids or (f"{name}/{i:05d}" for i in range(len(images)))),
        given=tuple(given or [""] * len(images)),
        hashes=tuple(content_hash(load(i)) for i in range(len(images))),
        load=load,
        sizes=np.tile(images.shape[2:0:-1], (len(images), 1)),
        crop=crop,
    )


def _nth_array(images: np.ndarray, index: int) -> Image.Image:
    return Image.fromarray(images[index])
