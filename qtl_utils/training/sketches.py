"""What data sets and networks are like, told without reading an image or computing anything."""

import inspect
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from qtl_utils.data.dataset import Dataset
from qtl_utils.data.datasets import DATASETS, load_dataset
from qtl_utils.data.images import large_classes, scan_folder
from qtl_utils.models import backbones
from qtl_utils.study.config import DataConfig
from qtl_utils.study.paths import user_path

Counts = dict[tuple[str, str], int]  # (given subset, class) -> images
HYMENOPTERA = {("train", "ants"): 123, ("train", "bees"): 121, ("validation", "ants"): 70, ("validation", "bees"): 83}

CIFAR10 = {"train": 5000, "test": 1000}  # images of each class


def sketch(config: DataConfig) -> Dataset | None:
    """The data set with its classes and subsets; images in files are counted only. None where that takes a download.

    A file that cannot be read is counted too: there are at most as many samples as here. ValueError or
    FileNotFoundError where a folder is no data set.
    """
    return _sketch(config.dataset, config.model_dump_json())


@cache
def _sketch(name: str, settings: str) -> Dataset | None:
    config = DataConfig.model_validate_json(settings)
    if name in SKETCHES:
        return _of_counts(name, SKETCHES[name](config))
    in_memory = not {"data_dir", "cache_dir"} & inspect.signature(DATASETS[name]).parameters.keys()
    with np.errstate(all="ignore"):  # of options that lead to infinite points, which are refused
        return load_dataset(name, **config.options) if in_memory else None


def _folder(config: DataConfig) -> Counts:
    root = user_path(config.data_dir)
    counts = {(subset, folder.name): len(files) for subset, folder, files in scan_folder(root)[0]}
    least = config.options.get("min_images", 0)
    if not isinstance(least, int) or not least:
        return counts
    totals = Counter()
    for (_, name), n in counts.items():
        totals[name] += n
    kept = large_classes(root, totals, least)
    return {key: n for key, n in counts.items() if key[1] in kept}


def _hymenoptera(config: DataConfig) -> Counts:
    if config.data_dir is None:
        return HYMENOPTERA
    inner = user_path(config.data_dir) / "hymenoptera_data"
    counts = _folder(config.model_copy(update={"data_dir": str(inner)}) if inner.is_dir() else config)
    if classes := {name for _, name in counts} - {"ants", "bees"}:
        raise ValueError(f"data_dir: has {min(classes)} beside or instead of ants and bees; use dataset: image_folder")
    return counts


def _cifar10(config: DataConfig) -> Counts:
    known = inspect.signature(DATASETS[config.dataset]).parameters
    counts = {}
    if config.data_dir is not None and not (user_path(config.data_dir) / "cifar-10-batches-py").is_dir():
        raise ValueError(f"data_dir: {config.data_dir} holds no cifar-10-batches-py; give the folder that holds it")
    for subset, there in CIFAR10.items():
        most = config.options.get(f"max_{subset}", known[f"max_{subset}"].default)
        if most < 2:
            raise ValueError(f"options.max_{subset}: expected at least 2, got {most}")
        counts |= {(subset, name): min(most // 2, there) for name in ("first", "second")}
    return counts


SKETCHES: dict[str, Callable[[DataConfig], Counts]] = {  # of data sets that are read from files
    "hymenoptera": _hymenoptera,
    "cifar10_cat_dog": _cifar10,
    "cifar10_plane_car": _cifar10,
    "image_folder": _folder,
}


def _of_counts(name: str, counts: Counts) -> Dataset:
    """A data set of as many images, none of which can be read."""
    rows = [key for key, n in counts.items() for _ in range(n)]
    classes = tuple(sorted({label for _, label in counts}))
    labels = np.array([classes.index(label) for _, label in rows], np.int64)
    ids = tuple(f"{number:06d}" for number in range(len(rows)))
    return Dataset(name, classes, labels, ids, given=tuple(subset for subset, _ in rows), hashes=ids)


def kind_of(config: DataConfig) -> str:
    """'images', 'points', or 'features' that stand in the place of images."""
    found = sketch(config)
    if found is not None and found.points is not None:
        return "points"
    return "features" if getattr(found, "features", None) else "images"


@cache
def cannot_take(model: str, size: int, training: bool = False, batch: int = 2) -> str:
    """Why a network cannot take a batch of images of `size` px; '' if it can.

    Shapes are followed through a network without weights.
    """
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = backbones.build_network(model, size)
            backbones.cut(network)
            network.train(training)(torch.empty(batch, 3, size, size))
    except NotImplementedError:  # a network that looks at values while it is built
        return ""
    except (RuntimeError, ValueError, AssertionError) as error:
        return one_line(error).partition(". ")[0]
    return ""


def one_line(error: Exception) -> str:
    """An error's message without line breaks and full stop, to be part of a sentence; a long one is cut."""
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= 300 else f"{text[:300]}..."
