"""Data sets by name."""

import inspect
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, make_moons
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from qtl_utils.data.dataset import Dataset, from_images, from_points, skipped_files
from qtl_utils.data.images import LAYOUT, fetch, large_classes, read_nth, scan_folder
from qtl_utils.data.index import ImageIndex
from qtl_utils.study.paths import FOLDER, atomic, user_path
from qtl_utils.study.shipped_files import read_arrays, read_card

HYMENOPTERA_URL = "https://download.pytorch.org/tutorial"
# the zip's hash as pytorch/tutorials pins it: .jenkins/download_data.py
HYMENOPTERA_SHA256 = "fbc41b31d544714d18dd1230b1e2b455e1557766e13e67f9f5a7a23af7c02209"
SAMPLE_KEYS = ("id", "given", "label", "sha256")  # of every sample in the card of shipped features
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz"


def _digits(name: str, wanted: range) -> Dataset:
    bunch = load_digits()
    index = np.flatnonzero(np.isin(bunch.target, wanted))
    grey = np.round(bunch.images[index] * (255 / 16)).astype(np.uint8)
    return from_images(
        name,
        np.repeat(grey[..., None], 3, axis=-1),
        classes=tuple(str(digit) for digit in wanted),
        labels=bunch.target[index].astype(np.int64) - wanted.start,
        ids=tuple(f"digits/{i:05d}" for i in index),
        given=("",) * len(index),
        crop=False,
    )


def digits() -> Dataset:
    """scikit-learn's 8 x 8 handwritten digits 5 to 9, the target task."""
    return _digits("digits", range(5, 10))


def digits_source() -> Dataset:
    """scikit-learn's 8 x 8 handwritten digits 0 to 4, on which a backbone is trained before its transfer."""
    return _digits("digits_source", range(5))


def image_folder(
    data_dir: str | Path | None = None, *, min_images: int = 0, index: ImageIndex | None = None
) -> Dataset:
    """The images of any folder laid out as CLASS/* or train/CLASS/*, val/CLASS/*, test/CLASS/*.

    Files that cannot be used are listed in `skipped` with the reason, and so are classes of fewer than `min_images`;
    where that is 0, an empty class is a ValueError.
    """
    if not data_dir:
        raise ValueError(f"image_folder needs data_dir=, a folder with {LAYOUT}.")
    return _read_folder("image_folder", user_path(data_dir), index or ImageIndex(), min_images)


def _read_folder(name: str, root: Path, index: ImageIndex, min_images: int = 0) -> Dataset:
    folders, skipped = scan_folder(root)
    rows = []
    for subset, folder, files in folders:
        before = len(rows)
        reasons = set()
        for path in files:
            try:
                rows.append((subset, folder.name, path, *index.look(path)))
            except ValueError as error:
                skipped.append((path.relative_to(root).as_posix(), str(error)))
                reasons.add(str(error))
        if len(rows) == before and not min_images:
            why = "; ".join(sorted(reasons)) or "it is empty"
            raise ValueError(f"The class folder {folder} holds no usable image ({why}); fill or remove it.")
    index.save()
    if min_images:
        counts = Counter(dict.fromkeys((folder.name for _, folder, _ in folders), 0))
        counts.update(row[1] for row in rows)
        kept = large_classes(root, counts, min_images)
        rows = [row for row in rows if row[1] in kept]
        few = "class left out: {} usable images, and {} are needed to train, validate and test"
        skipped += [(name, few.format(n, min_images)) for name, n in counts.items() if name not in kept]
    given, names, paths, hashes, sizes = zip(*rows, strict=True)
    classes, labels = np.unique(names, return_inverse=True)
    return Dataset(
        name,
        classes=tuple(str(c) for c in classes),
        labels=labels.astype(np.int64),
        ids=tuple(path.relative_to(root).as_posix() for path in paths),
        given=given,
        hashes=hashes,
        load=partial(read_nth, paths),
        skipped=skipped_files(skipped),
        sizes=np.array(sizes),
    )


def hymenoptera(
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    *,
    base_url: str = HYMENOPTERA_URL,
    index: ImageIndex | None = None,
) -> Dataset:
    """The ants and bees of the PyTorch transfer-learning tutorial: 244 images in train, 153 in val.

    `data_dir` is hymenoptera_data or its parent; without it the images are downloaded once into `cache_dir`.
    """
    root = user_path(data_dir) if data_dir else _cache(cache_dir) / "hymenoptera"
    if not data_dir and not root.is_dir():
        hand = f"unpack that file by hand into {root}, or give data_dir= the folder that holds train/ and val/."
        archive = fetch(base_url, "hymenoptera_data.zip", root.parent, f"sha256:{HYMENOPTERA_SHA256}", hand)
        with atomic(root) as part, zipfile.ZipFile(archive) as handle:
            handle.extractall(part)
    inner = root / "hymenoptera_data"
    dataset = _read_folder("hymenoptera", inner if inner.is_dir() else root, index or ImageIndex())
    if dataset.classes != ("ants", "bees"):
        raise ValueError(f"{root} holds {', '.join(dataset.classes)}, not ants and bees; use dataset image_folder.")
    return dataset


def ants_bees() -> Dataset:
    """The samples of `hymenoptera` as features that ship with this package, for frozen heads; no image is needed.

    They are those of SqueezeNet 1.1 with its ImageNet weights, at 224 pixels.
    """
    card = read_card("ants_bees")
    ids, given, labels, hashes = ([sample[key] for sample in card["samples"]] for key in SAMPLE_KEYS)
    return Dataset(
        "ants_bees",
        classes=tuple(card["classes"]),
        labels=np.array(labels, np.int64),
        ids=tuple(ids),
        given=tuple(given),
        hashes=tuple(hashes),
        features={card["model"]: read_arrays("ants_bees")["features"]},
    )


def _cache(cache_dir: str | Path | None) -> Path:
    return user_path(cache_dir) if cache_dir else FOLDER / "data"


def _cifar10_pair(
    name: str,
    pair: tuple[str, str],
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    *,
    max_train: int = 10_000,
    max_test: int = 2_000,
    base_url: str = CIFAR10_URL,
) -> Dataset:
    """Two classes of CIFAR-10 (32 x 32), the first `max_train` and `max_test` images, half of each class.

    `data_dir` is the folder that holds cifar-10-batches-py; without it the archive goes into `cache_dir`.
    """
    from torchvision.datasets import CIFAR10  # torch takes seconds to import and only this needs it

    root = user_path(data_dir) if data_dir else _cache(cache_dir)
    hand = f"put {CIFAR10.filename} into {root} by hand and unpack it, or give data_dir= the folder that holds it."
    try:
        CIFAR10(str(root), train=False)
    except RuntimeError:
        if data_dir:
            raise FileNotFoundError(f"{root} holds no intact {CIFAR10.base_folder}; {hand}") from None
        fetch(base_url, CIFAR10.filename, root, f"md5:{CIFAR10.tgz_md5}", hand)
    images = []
    labels = []
    ids = []
    given = []
    for subset, limit in (("train", max_train), ("test", max_test)):
        part = CIFAR10(str(root), train=subset == "train", download=not data_dir)
        of_class = [np.flatnonzero(np.equal(part.targets, part.class_to_idx[c]))[: limit // 2] for c in pair]
        index = np.sort(np.concatenate(of_class))
        images.append(part.data[index])
        labels.append(np.isin(index, of_class[1]).astype(np.int64))
        ids += [f"{subset}/{i:05d}" for i in index]
        given += [subset] * len(index)
    return from_images(
        name,
        np.concatenate(images),
        classes=pair,
        labels=np.concatenate(labels),
        ids=tuple(ids),
        given=tuple(given),
    )


def _plane(name: str, points: np.ndarray, labels: np.ndarray, classes: tuple[str, str]) -> Dataset:
    """Standardised points in the published order: 2000 for training, the unused ones, 200 for testing."""
    scaled = StandardScaler().fit_transform(points)
    train, test = train_test_split(np.arange(len(points)), test_size=200, random_state=42)
    order = np.concatenate([train, test])
    given = np.array([""] * len(order), dtype="<U10")
    given[:2000] = "train"
    given[len(train) :] = "test"
    ids = [f"{name}/{i:05d}" for i in order]
    return from_points(name, scaled[order], labels[order], classes, ids, given.tolist())


def spirals(*, turns: float = 1.52, noise: float = 0.7) -> Dataset:
    """Two spirals of 2200 points each, as published for 1.52 and 2.0 turns (arXiv:1912.08278)."""
    rng = np.random.RandomState(21)
    angle = np.sqrt(rng.rand(2200, 1)) * turns * 2 * np.pi
    x = -np.cos(angle) * angle + rng.rand(2200, 1) * noise
    y = np.sin(angle) * angle + rng.rand(2200, 1) * noise
    arm = np.hstack([x, y])
    return _plane("spirals", np.vstack([arm, -arm]), np.repeat([0, 1], 2200), ("first", "second"))


def moons() -> Dataset:
    """Two interleaved half circles, 2200 points in total."""
    return _plane("moons", *make_moons(2200, shuffle=True, noise=0.2, random_state=21), ("upper", "lower"))


def square() -> Dataset:
    """Points inside and outside a square, 2200 in total, labelled before they are jittered."""
    rng = np.random.RandomState(21)
    points = rng.uniform(-2, 2, (2200, 2))
    labels = np.abs(points).max(axis=1) > 1.2
    return _plane("square", points + rng.uniform(-0.1, 0.1, points.shape), labels, ("inside", "outside"))


def breast_cancer() -> Dataset:
    """scikit-learn's breast cancer data: 569 samples of 30 measurements, each scaled to mean 0 and deviation 1.

    A linear classifier is at its ceiling here, so that nothing can gain: a negative control.
    """
    bunch = load_breast_cancer()
    scaled = (bunch.data - bunch.data.mean(0)) / bunch.data.std(0)
    return from_points("breast_cancer", scaled, bunch.target, ("malignant", "benign"))


DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "digits_source": digits_source,
    "ants_bees": ants_bees,
    "hymenoptera": hymenoptera,
    "cifar10_cat_dog": partial(_cifar10_pair, "cifar10_cat_dog", ("cat", "dog")),
    "cifar10_plane_car": partial(_cifar10_pair, "cifar10_plane_car", ("airplane", "automobile")),
    "image_folder": image_folder,
    "spirals": spirals,
    "moons": moons,
    "square": square,
    "breast_cancer": breast_cancer,
}


def load_dataset(
    name: str,
    *,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    index: ImageIndex | None = None,
    **options,
) -> Dataset:
    """The data set registered as `name`; ValueError for a name or an option that does not exist.

    index: what is known of image files already, where the data set has some.
    """
    if name not in DATASETS:
        raise ValueError(f"Unknown dataset {name!r}; known are {', '.join(DATASETS)}.")
    known = list(inspect.signature(DATASETS[name]).parameters)
    indexed = "index" in known
    known = [parameter for parameter in known if parameter != "index"]
    if data_dir is not None:
        options["data_dir"] = data_dir
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"Dataset {name!r} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}.")
    if "cache_dir" in known:
        options["cache_dir"] = cache_dir
    if indexed:
        options["index"] = index
    return DATASETS[name](**options)
