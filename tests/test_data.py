"""Data sets, odd image files, downloads, splits and duplicates."""

import hashlib
import io
import json
import pickle
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import train_test_split

from qtl_utils.data import datasets, images
from qtl_utils.data.dataset import load_pixels
from qtl_utils.data.datasets import DATASETS, load_dataset
from qtl_utils.data.splits import dataset_card, find_duplicates, load_splits, make_splits, save_splits

SUBSETS = ("train", "validation", "test")


def picture(seed=0, size=(12, 10)):
    """A random RGB image."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def fill(root, layout):
    """Writes layout {"train/ants": 3, ...} as that many different png files per folder."""
    for seed, (folder, n) in enumerate(layout.items()):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            picture(1000 * seed + i).save(root / folder / f"{i:03d}.png")
    return root


@pytest.fixture
def folder(tmp_path):
    """Two classes with three images each; odd files are added to `ants`."""
    return fill(tmp_path / "my images", {"ants": 3, "bees": 3})


def load_folder(root):
    return load_dataset("image_folder", data_dir=root)


# --- odd files: read rightly -------------------------------------------------------------------------------------


def grey16(suffix):
    return lambda path: Image.fromarray(np.full((4, 4), 0x8080, np.uint16)).save(path.with_suffix(suffix))


def exif_rotated(path):
    image = Image.new("RGB", (8, 4), "black")
    image.putpixel((0, 3), (255, 0, 0))  # bottom left becomes top left when turned clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


def palette_transparent(path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(path, transparency=0)


READ = {
    "16-bit.png": (grey16(".png"), (128, 128, 128)),
    "16-bit.tif": (grey16(".tif"), (128, 128, 128)),
    "grey.png": (lambda p: Image.new("L", (4, 4), 77).save(p), (77, 77, 77)),
    "black and white.png": (lambda p: Image.new("1", (4, 4), 1).save(p), (255, 255, 255)),
    "palette.png": (lambda p: Image.new("RGB", (4, 4), (9, 8, 7)).convert("P").save(p), None),
    "palette transparent.png": (palette_transparent, (255, 255, 255)),
    "alpha.png": (lambda p: Image.new("RGBA", (4, 4), (255, 0, 0, 51)).save(p), (255, 204, 204)),
    "grey alpha.png": (lambda p: Image.new("LA", (4, 4), (0, 0)).save(p), (255, 255, 255)),
    "cmyk.jpg": (lambda p: Image.new("CMYK", (4, 4), (0, 0, 0, 0)).save(p), (255, 255, 255)),
    "exif.png": (exif_rotated, (255, 0, 0)),
    "exif.tif": (exif_rotated, (255, 0, 0)),
    "two pictures.mpo.jpg": (
        lambda p: Image.new("RGB", (8, 8), "white").save(p, "MPO", save_all=True, append_images=[picture(0, (8, 8))]),
        (255, 255, 255),
    ),
    "UPPER.JPG": (lambda p: Image.new("RGB", (4, 4), "white").save(p, "JPEG"), (255, 255, 255)),
    "png named.jpg": (lambda p: Image.new("RGB", (4, 4), (1, 2, 3)).save(p, "PNG"), (1, 2, 3)),
    "Ämeise 蚂蚁 'quoted' \"twice\".png": (lambda p: Image.new("RGB", (4, 4), (1, 2, 3)).save(p), (1, 2, 3)),
    "lab.tif": (lambda p: Image.new("LAB", (4, 4), (255, 128, 128)).save(p), (255, 255, 255)),
    "no suffix": (lambda p: Image.new("RGB", (4, 4), (1, 2, 3)).save(p, "PNG"), (1, 2, 3)),
    "animated.webp": (
        lambda p: Image.new("RGB", (4, 4), "white").save(p, save_all=True, append_images=[picture(0, (4, 4))]),
        (255, 255, 255),
    ),
}


@pytest.mark.parametrize("name", READ)
def test_odd_file_is_read_rightly(folder, name):
    write, expected = READ[name]
    write(folder / "ants" / name)
    dataset = load_folder(folder)
    assert dataset.skipped.empty
    image = dataset.load(dataset.ids.index(f"ants/{name}"))
    assert image.mode == "RGB"
    assert expected is None or np.allclose(image.getpixel((0, 0)), expected, atol=2)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    Image.fromarray(np.array([[0, 65535], [257, 12850]], np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(images.read_image(tmp_path / "a.png"))[..., 0].tolist() == [[0, 255], [1, 50]]


def test_exif_rotation_turns_the_size_too(folder):
    exif_rotated(folder / "ants" / "a.png")
    dataset = load_folder(folder)
    assert dataset.sizes[dataset.ids.index("ants/a.png")].tolist() == [4, 8]


# --- odd files: listed with their reason -------------------------------------------------------------------------


def jpeg_bytes():
    buffer = io.BytesIO()
    picture(3, (64, 64)).save(buffer, "JPEG")
    return buffer.getvalue()


def png_bytes():
    buffer = io.BytesIO()
    picture(3, (64, 64)).save(buffer, "PNG")
    return buffer.getvalue()


SKIPPED = {
    "a.gif": (lambda p: picture().save(p), "GIF"),
    "gif named.jpg": (lambda p: picture().save(p, "GIF"), "GIF"),
    "png named.GIF": (lambda p: picture().save(p, "PNG"), "GIF"),
    "truncated.jpg": (lambda p: p.write_bytes(jpeg_bytes()[:-900]), "truncated"),
    "truncated.png": (lambda p: p.write_bytes(png_bytes()[:-900]), ""),
    "header only.png": (lambda p: p.write_bytes(png_bytes()[:20]), ""),
    "zero.jpg": (lambda p: p.touch(), "empty file"),
    "text.jpg": (lambda p: p.write_text("hello"), "not an image"),
    "Thumbs.db": (lambda p: p.write_bytes(b"\x00" * 50), "not an image"),
    "drawing.eps": (lambda p: picture().save(p), "not an image"),
    ".DS_Store": (lambda p: p.write_bytes(b"Bud1"), "hidden"),
    "._a.jpg": (lambda p: picture().save(p), "hidden"),
    "nested": (lambda p: p.mkdir(), "a folder"),
    "dangling.jpg": (lambda p: p.symlink_to("nowhere.jpg"), "no such file"),
    "strip.png": (lambda p: Image.new("RGB", (1, 500)).save(p), "one side is over 100 times"),
    "float.tif": (lambda p: Image.new("F", (4, 4), 0.5).save(p), "32-bit"),
    "int.tif": (lambda p: Image.new("I", (4, 4), 70000).save(p), "32-bit"),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_unusable_file_is_listed_with_its_reason(folder, name):
    write, reason = SKIPPED[name]
    write(folder / "ants" / name)
    dataset = load_folder(folder)
    assert len(dataset) == 6
    assert dataset.skipped["file"].tolist() == [f"ants/{name}"]
    assert dataset.skipped["reason"][0] and reason in dataset.skipped["reason"][0]


@pytest.mark.parametrize("limit", [100, 60])
def test_decompression_bomb_is_listed(folder, monkeypatch, limit):
    picture(0, (15, 12)).save(folder / "ants" / "bomb.png")  # 180 pixels: PIL warns over 100, raises over 2 x 60
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for small in folder.rglob("0*.png"):
        Image.new("RGB", (4, 4)).save(small)
    skipped = load_folder(folder).skipped
    assert skipped["file"].tolist() == ["ants/bomb.png"]
    assert "too large" in skipped["reason"][0]


def test_name_that_is_not_utf8_is_listed(folder):
    try:
        picture().save(folder / "ants" / "\udcff.png")
    except OSError:
        pytest.skip("this file system has only UTF-8 names")
    assert "UTF-8" in load_folder(folder).skipped["reason"][0]


def test_loose_files_and_other_folders_are_listed(tmp_path):
    root = fill(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1, "notes": 1, "__MACOSX": 1})
    picture().save(root / "loose.png")
    picture().save(root / "train" / "loose.png")
    files = load_folder(root).skipped["file"].tolist()
    assert files == ["__MACOSX", "loose.png", "notes", "train/loose.png"]


def test_image_that_vanishes_is_named(folder):
    dataset = load_folder(folder)
    (folder / "ants" / "000.png").unlink()
    with pytest.raises(ValueError, match=r"ants/000\.png .*no such file.*restore"):
        dataset.load(0)


# --- folders -----------------------------------------------------------------------------------------------------


def test_flat_folder_gives_classes_ids_and_sizes(folder):
    dataset = load_folder(folder)
    assert dataset.classes == ("ants", "bees")
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.ids[0] == "ants/000.png" and len(set(dataset.ids)) == 6
    assert set(dataset.given) == {""}
    assert dataset.sizes.tolist() == [[12, 10]] * 6


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_val_folder_has_three_names(tmp_path, name):
    layout = {f"{subset}/{c}": 2 for subset in ("train", name, "test") for c in "ab"}
    assert load_folder(fill(tmp_path, layout)).given == ("train",) * 4 + ("validation",) * 4 + ("test",) * 4


BAD_FOLDERS = {
    "one class": ({"ants": 3}, "only one class, 'ants'"),
    "one class in train": ({"train/ants": 3, "val/ants": 2}, "only one class, 'ants'"),
    "empty class": ({"ants": 3, "bees": 0}, r"bees holds no usable image \(it is empty\)"),
    "empty class in val": ({"train/a": 3, "train/b": 3, "val/a": 3, "val/b": 0}, "val/b holds no usable image"),
    "empty": ({}, "holds no class folders"),
    "empty train": ({"train": 0, "val": 0}, "holds no class folders"),
    "class only in train": ({"train/a": 2, "train/b": 2, "val/a": 2}, "val lacks the class 'b'"),
    "class only in val": ({"train/a": 2, "train/b": 2, "val/a": 2, "val/b": 2, "val/c": 2}, "train lacks .* 'c'"),
    "two vals": ({"train/a": 2, "train/b": 2, "val/a": 2, "valid/a": 2}, "two names for one"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folder_is_a_clear_error(tmp_path, case):
    layout, message = BAD_FOLDERS[case]
    with pytest.raises(ValueError, match=message) as error:
        load_folder(fill(tmp_path, layout))
    assert str(tmp_path) in str(error.value)


def test_class_of_unusable_files_tells_why(folder):
    (folder / "wasps").mkdir()
    (folder / "wasps" / "a.jpg").touch()
    with pytest.raises(ValueError, match=r"wasps holds no usable image \(empty file\)"):
        load_folder(folder)


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent does not exist; data_dir= needs"):
        load_folder(tmp_path / "absent")


def test_hymenoptera_of_other_classes_is_refused(folder):
    (folder / "ants").rename(folder / "wasps")
    with pytest.raises(ValueError, match="holds bees, wasps, not ants and bees"):
        load_dataset("hymenoptera", data_dir=folder)


def test_image_folder_needs_data_dir():
    with pytest.raises(ValueError, match="image_folder needs data_dir="):
        load_dataset("image_folder")


# --- the registry ------------------------------------------------------------------------------------------------


def test_unknown_dataset_lists_the_known_ones():
    with pytest.raises(ValueError, match="'mnist'; known are digits, digits_source, ants_bees, hymenoptera"):
        load_dataset("mnist")


@pytest.mark.parametrize("options", [{"turns": 2.0}, {"data_dir": "x"}])
def test_unknown_option_is_named(options):
    with pytest.raises(ValueError, match=f"'moons' has no option '{next(iter(options))}'"):
        load_dataset("moons", **options)


def test_new_dataset_is_one_row_in_the_registry(monkeypatch):
    monkeypatch.setitem(DATASETS, "mine", lambda scale=1.0: ("made with", scale))
    assert load_dataset("mine", scale=2.0, cache_dir="anywhere") == ("made with", 2.0)


@pytest.mark.parametrize("name", ["digits", "digits_source", "spirals", "moons", "square"])
def test_bundled_sets_are_consistent_and_repeatable(name):
    first, second = load_dataset(name), load_dataset(name)
    n = len(first)
    assert n == len(set(first.ids)) == len(first.given) == len(first.hashes) == len(first.labels)
    assert first.labels.dtype == np.int64 and set(first.labels) == set(range(len(first.classes)))
    assert first.hashes == second.hashes and first.ids == second.ids
    pickle.loads(pickle.dumps(first))


def test_digits_keep_their_class_and_grey_values():
    from sklearn.datasets import load_digits

    dataset, bunch = load_dataset("digits"), load_digits()
    index = int(dataset.ids[3].split("/")[1])
    assert dataset.classes[dataset.labels[3]] == str(bunch.target[index])
    grey = np.asarray(dataset.load(3)).astype(float)
    assert np.abs(grey / 255 * 16 - bunch.images[index][..., None]).max() < 0.05


def test_source_and_target_digits_share_nothing():
    assert not set(load_dataset("digits").ids) & set(load_dataset("digits_source").ids)


@pytest.mark.parametrize(("name", "n"), [("spirals", 4400), ("moons", 2200), ("square", 2200)])
def test_planar_sets_follow_the_published_order(name, n):
    dataset = load_dataset(name)
    train, test = train_test_split(np.arange(n), test_size=200, random_state=42)
    splits = make_splits(dataset, protocol="as_published")
    ids = np.array([int(i.split("/")[1]) for i in dataset.ids])
    assert ids[splits.indices(0, "train")].tolist() == train[:2000].tolist()
    assert ids[splits.indices(0, "test")].tolist() == test.tolist()
    assert np.allclose(dataset.points.mean(axis=0), 0) and np.allclose(dataset.points.std(axis=0), 1)


def test_spiral_without_noise_winds_as_often_as_asked():
    dataset = load_dataset("spirals", turns=2.0, noise=0.0)
    points = dataset.points[np.argsort(dataset.ids)]
    assert np.allclose(points[:2200], -points[2200:])
    angle = np.sqrt(np.random.RandomState(21).rand(2200)) * 2.0 * 2 * np.pi
    for axis, expected in enumerate((-np.cos(angle) * angle, np.sin(angle) * angle)):
        assert np.corrcoef(points[:2200, axis], expected)[0, 1] > 1 - 1e-9


def test_square_is_labelled_before_the_jitter():
    dataset = load_dataset("square")
    raw = np.random.RandomState(21).uniform(-2, 2, (2200, 2))
    outside = np.abs(raw).max(axis=1) > 1.2
    ids = [int(i.split("/")[1]) for i in dataset.ids]
    assert np.array_equal(dataset.labels, outside[ids])
    slope, offset = np.polyfit(raw[ids, 0], dataset.points[:, 0], 1)
    jitter = (dataset.points[:, 0] - offset) / slope - raw[ids, 0]
    assert 0.09 < np.abs(jitter).max() < 0.11


# --- pixels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(300, 200), (201, 333), (33, 34), (224, 225), (500, 7), (256, 256)])
def test_pixels_equal_torchvision(tmp_path, size):
    from torchvision.transforms import CenterCrop, Resize

    for name in "ab":
        (tmp_path / name).mkdir()
        picture(0, size).save(tmp_path / name / "x.png")
    expected = CenterCrop(224)(Resize(256)(picture(0, size)))
    pixels = load_pixels(load_folder(tmp_path), 224)
    assert pixels.shape == (2, 3, 224, 224) and pixels.dtype == np.uint8
    assert np.array_equal(pixels[0], np.asarray(expected).transpose(2, 0, 1))


def test_real_images_equal_torchvision(hymenoptera_dir):
    from torchvision.transforms import CenterCrop, Resize

    dataset = load_dataset("hymenoptera", data_dir=hymenoptera_dir)
    for i in (0, 100, 396):
        with Image.open(hymenoptera_dir / dataset.ids[i]) as image:
            expected = CenterCrop(64)(Resize(73)(image.convert("RGB")))
        ours = images.resize_crop(dataset.load(i), 64, 73)
        assert np.array_equal(np.asarray(ours), np.asarray(expected))


def test_digits_keep_their_border():
    dataset = load_dataset("digits")
    pixels = load_pixels(dataset, 8)
    assert np.array_equal(pixels[5].transpose(1, 2, 0), np.asarray(dataset.load(5)))


def test_pixels_of_points_and_bad_sizes_are_errors(folder):
    with pytest.raises(ValueError, match=r"'moons' has points"):
        load_pixels(load_dataset("moons"), 32)
    with pytest.raises(ValueError, match="resize=16, image_size=32"):
        load_pixels(load_folder(folder), 32, resize=16)


# --- splits ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def test_absolute_counts_are_exact_and_stratified(digits):
    splits = make_splits(digits, n_splits=4, train=100, validation=50, test=100)
    table = splits.table(digits)
    for split in range(4):
        assert [len(splits.indices(split, s)) for s in SUBSETS] == [100, 50, 100]
    share = np.bincount(digits.labels) / len(digits)
    for (_, subset), rows in table.groupby(["split", "subset"]):
        assert np.abs(rows["n"].to_numpy() - share * {"validation": 50}.get(subset, 100)).max() < 1.5


def test_fractions_of_all_use_every_image(digits):
    splits = make_splits(digits, train=0.6, validation=0.2, test=0.2)
    assert "" not in splits.subsets
    assert np.allclose([len(splits.indices(0, s)) / len(digits) for s in SUBSETS], [0.6, 0.2, 0.2], atol=1e-3)


def test_split_depends_on_seed_and_index_only(digits):
    three = make_splits(digits, n_splits=3, seed=5).subsets
    assert np.array_equal(three[:2], make_splits(digits, n_splits=2, seed=5).subsets)
    assert not np.array_equal(three[0], three[1])
    assert not np.array_equal(three[0], make_splits(digits, seed=6).subsets[0])


def test_every_image_is_tested_about_equally_often(digits):
    tested = (make_splits(digits, n_splits=400).subsets == "test").mean(axis=0)
    assert tested.min() > 0.1 and tested.max() < 0.3


@pytest.fixture
def copied(tmp_path):
    """20 images per class; two of `a` exist three times as other files, one of them also as a `b`."""
    root = fill(tmp_path, {"a": 16, "b": 19})
    for i in (0, 1):
        with Image.open(root / "a" / f"{i:03d}.png") as image:
            image.save(root / "a" / f"copy{i}.bmp")
            image.save(root / "a" / f"again{i}.tif")
    with Image.open(root / "a" / "000.png") as image:
        image.save(root / "b" / "stray.webp", lossless=True)
    return load_folder(root)


def test_copies_in_other_formats_are_found(copied):
    table = find_duplicates(copied)
    stray = table[table["hash"] == copied.hashes[copied.ids.index("a/000.png")]]
    assert stray["id"].tolist() == ["a/000.png", "a/again0.tif", "a/copy0.bmp", "b/stray.webp"]
    assert len(table) == 7 and not table["crosses_subsets"].any()


def test_copies_stay_together_and_counts_stay_exact(copied):
    splits = make_splits(copied, n_splits=30, train=20, validation=8, test=10)
    assert not find_duplicates(copied, splits)["crosses_subsets"].any()
    assert all(len(splits.indices(s, "train")) == 20 for s in range(30))
    assert len({splits.subsets[s][copied.ids.index("a/000.png")] for s in range(30)}) > 1


def test_copies_across_given_folders_are_reported(tmp_path):
    root = fill(tmp_path, {"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 2})
    picture(0).save(root / "val" / "a" / "leak.png")  # the first image of train/a
    dataset = load_folder(root)
    table = find_duplicates(dataset, make_splits(dataset, protocol="as_published"))
    assert table["id"].tolist() == ["train/a/000.png", "val/a/leak.png"]
    assert table["given"].tolist() == ["train", "validation"] and table["crosses_subsets"].all()


def test_largest_group_of_copies_is_placed_first(tmp_path):
    root = fill(tmp_path, {"a": 6, "b": 6})
    for i in range(6):
        picture(9000 + (i < 4)).save(root / "a" / f"{i:03d}.png")  # four copies and two copies
    splits = make_splits(load_folder(root), n_splits=10, train=8, validation=0, test=4)
    assert all(splits.subsets[s, :6].tolist() == ["train"] * 4 + ["test"] * 2 for s in range(10))


def test_hash_depends_on_the_size_and_on_every_pixel():
    image = picture(0, (6, 4))
    reshaped = Image.frombytes("RGB", (4, 6), image.tobytes())
    changed = image.copy()
    changed.putpixel((5, 3), (0, 0, 0))
    assert len({images.content_hash(i) for i in (image, reshaped, changed)}) == 3


def test_copies_that_fit_nowhere_are_an_error(tmp_path):
    root = fill(tmp_path, {"a": 1, "b": 6})
    for i in range(1, 6):
        picture(0).save(root / "a" / f"{i:03d}.png")
    with pytest.raises(ValueError, match=r"The 6 copies of a/000\.png fit into no subset"):
        make_splits(load_folder(root), train=4, validation=4, test=4)


@pytest.fixture
def published(tmp_path):
    return load_folder(fill(tmp_path, {"train/a": 10, "train/b": 6, "val/a": 4, "val/b": 3}))


def test_as_published_tests_on_val(published):
    splits = make_splits(published, protocol="as_published")
    assert [len(splits.indices(0, s)) for s in SUBSETS] == [16, 0, 7]


def test_fixed_cuts_a_missing_validation_from_train(tmp_path):
    dataset = load_folder(fill(tmp_path, {"train/a": 10, "train/b": 5, "test/a": 4, "test/b": 3}))
    table = make_splits(dataset, protocol="fixed", validation=0.2).table(dataset)
    assert table["n"].tolist() == [8, 4, 2, 1, 4, 3]
    counted = make_splits(dataset, protocol="fixed", validation=6)
    assert [len(counted.indices(0, s)) for s in SUBSETS] == [9, 6, 7]


def test_fixed_keeps_the_given_subsets(tmp_path):
    dataset = load_folder(fill(tmp_path, {f"{s}/{c}": 2 for s in ("train", "val", "test") for c in "ab"}))
    assert tuple(make_splits(dataset, protocol="fixed").subsets[0]) == dataset.given


BAD_SPLITS = {
    "protocol": ({"protocol": "random"}, "Unknown protocol 'random'"),
    "no splits": ({"n_splits": 0}, "n_splits=0"),
    "many published": ({"protocol": "as_published", "n_splits": 3}, "n_splits=3 with protocol 'as_published'"),
    "nothing given": ({"protocol": "fixed"}, "gives no test set"),
    "too large": ({"train": 0.9}, "sum of at most 1"),
    "too many": ({"train": 900, "validation": 1, "test": 1}, "holds only 23 samples"),
    "mixed": ({"train": 10}, "whole numbers only"),
    "negative": ({"train": -1}, "at least 0"),
    "no train": ({"train": 0}, "some for train"),
    "text": ({"train": "half"}, "expected numbers"),
    "too few of a class": ({"train": 10, "validation": 1, "test": 4}, "validation=1 leaves no sample of class 'b'"),
}


@pytest.mark.parametrize("case", BAD_SPLITS)
def test_bad_split_request_is_a_clear_error(published, case):
    options, message = BAD_SPLITS[case]
    with pytest.raises(ValueError, match=message):
        make_splits(published, **options)


def test_splits_survive_the_file(copied, tmp_path):
    splits = make_splits(copied, n_splits=3)
    save_splits(splits, copied, tmp_path / "out" / "splits.json")
    loaded = load_splits(tmp_path / "out" / "splits.json", copied)
    assert loaded.protocol == "repeated" and np.array_equal(loaded.subsets, splits.subsets)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["splits.json"]


def test_splits_of_changed_data_are_refused(folder, tmp_path):
    before = load_folder(folder)
    save_splits(make_splits(before, train=2, validation=2, test=2), before, tmp_path / "splits.json")
    picture(77).save(folder / "ants" / "001.png")
    with pytest.raises(ValueError, match=r"1 samples differ, first 'ants/001.png'"):
        load_splits(tmp_path / "splits.json", load_folder(folder))
    (folder / "bees" / "002.png").unlink()
    with pytest.raises(ValueError, match=r"first 'bees/002.png'"):
        load_splits(tmp_path / "splits.json", load_folder(folder))


@pytest.mark.parametrize("text", ["", "[]", '{"samples": [{"id": 1}]}'])
def test_broken_splits_file_is_named(folder, tmp_path, text):
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(ValueError, match=r"splits\.json is not a splits file"):
        load_splits(tmp_path / "splits.json", load_folder(folder))


def test_card_is_json_and_counts(copied):
    splits = make_splits(copied, n_splits=2)
    card = json.loads(json.dumps(dataset_card(copied, splits)))
    assert card["classes"] == {"a": 20, "b": 20} and card["n_splits"] == 2
    assert card["duplicates"] == {"samples": 7, "groups": 2, "groups_crossing_subsets": 0}
    assert sum(row["n"] for row in card["splits"] if row["split"] == 0) == 40


# --- the real images, and downloads ------------------------------------------------------------------------------


@pytest.mark.parametrize("parent", [False, True])
def test_hymenoptera_has_the_published_counts(hymenoptera_dir, parent):
    dataset = load_dataset("hymenoptera", data_dir=hymenoptera_dir.parent if parent else hymenoptera_dir)
    table = make_splits(dataset, protocol="as_published").table(dataset)
    assert table.groupby("subset")["n"].sum().to_dict() == {"train": 244, "test": 153}
    assert table[table["subset"] == "test"]["n"].tolist() == [70, 83]
    assert dataset.skipped["file"].tolist() == ["train/ants/imageNotFound.gif"]


class Server:
    """A web server on 127.0.0.1 that sends `content` after `failures` answers of 503."""

    def __init__(self, content, failures=0):
        self.requests, outer = 0, self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests += 1
                self.send_response(503 if outer.requests <= failures else 200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def waits(monkeypatch):
    """The seconds waited between attempts, without waiting."""
    seconds = []
    monkeypatch.setattr("pooch.core.time.sleep", seconds.append)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return seconds


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A small hymenoptera_data.zip that passes for the real one."""
    source = fill(
        tmp_path / "source", {f"hymenoptera_data/{s}/{c}": 2 for s in ("train", "val") for c in ("ants", "bees")}
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as handle:
        for path in sorted(source.rglob("*.png")):
            handle.write(path, path.relative_to(source))
    monkeypatch.setattr(datasets, "HYMENOPTERA_SHA256", hashlib.sha256(buffer.getvalue()).hexdigest())
    return buffer.getvalue()


def test_download_succeeds_after_a_failed_attempt(tmp_path, archive, waits):
    with Server(archive, failures=2) as server:
        dataset = load_dataset("hymenoptera", cache_dir=tmp_path / "cache", base_url=server.url)
        again = load_dataset("hymenoptera", cache_dir=tmp_path / "cache", base_url=server.url)
        assert server.requests == 3 and waits == [1, 2]
    assert len(dataset) == 8 and again.hashes == dataset.hashes
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["hymenoptera", "hymenoptera_data.zip"]


def test_download_with_a_wrong_hash_leaves_nothing(tmp_path, archive, waits):
    with Server(archive[:-1]) as server, pytest.raises(ValueError, match=r"does not have the expected hash") as error:
        load_dataset("hymenoptera", cache_dir=tmp_path / "cache", base_url=server.url)
    assert not list((tmp_path / "cache").iterdir())
    assert "data_dir=" in str(error.value)


def test_server_down_tells_what_to_do_by_hand(tmp_path, waits):
    with Server(b"") as server:
        url = server.url
    with pytest.raises(FileNotFoundError) as error:
        load_dataset("hymenoptera", cache_dir=tmp_path / "cache", base_url=url)
    for part in (f"{url}/hymenoptera_data.zip", "4 attempts", str(tmp_path / "cache" / "hymenoptera"), "data_dir="):
        assert part in str(error.value)


def test_images_unpacked_by_hand_need_no_download(tmp_path):
    layout = {f"hymenoptera/hymenoptera_data/{s}/{c}": 1 for s in ("train", "val") for c in ("ants", "bees")}
    assert len(load_dataset("hymenoptera", cache_dir=fill(tmp_path, layout))) == 4


@pytest.fixture
def cifar10(monkeypatch):
    """A small CIFAR-10 archive: 20 images in one training batch, 10 in the test batch; class i mod 10, red = i."""
    from torchvision.datasets import CIFAR10

    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    files = {"batches.meta": {"label_names": names}}
    for name, n in (("data_batch_1", 20), ("test_batch", 10)):
        pixels = np.zeros((n, 3, 1024), np.uint8)
        pixels[:, 0] = np.arange(n)[:, None]
        files[name] = {"data": pixels.reshape(n, -1), "labels": [i % 10 for i in range(n)]}
    files = {name: pickle.dumps(content) for name, content in files.items()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as handle:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            handle.addfile(member, io.BytesIO(content))
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(buffer.getvalue()).hexdigest())
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", md5["data_batch_1"]]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5["batches.meta"]})
    return buffer.getvalue()


def test_cifar10_pair_keeps_two_classes_and_the_given_subsets(tmp_path, cifar10, waits):
    with Server(cifar10, failures=1) as server:
        dataset = load_dataset("cifar10_cat_dog", cache_dir=tmp_path, base_url=server.url)
    assert dataset.classes == ("cat", "dog")
    assert dataset.ids[:4] == ("train/00003", "train/00005", "train/00013", "train/00015")
    assert dataset.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert dataset.given == ("train",) * 4 + ("test",) * 2
    assert dataset.load(2).getpixel((0, 0)) == (13, 0, 0)


def test_cifar10_limit_takes_half_of_each_class(tmp_path, cifar10, waits):
    with Server(cifar10) as server:
        options = {"base_url": server.url, "max_train": 2}
        dataset = load_dataset("cifar10_plane_car", cache_dir=tmp_path, **options)
    assert dataset.ids[:2] == ("train/00000", "train/00001") and dataset.given.count("train") == 2
    assert load_dataset("cifar10_plane_car", data_dir=tmp_path).given.count("train") == 4


def test_cifar10_data_dir_without_the_files_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no intact cifar-10-batches-py; put cifar-10-python\.tar\.gz"):
        load_dataset("cifar10_cat_dog", data_dir=tmp_path)


def test_whatever_neither_trains_nor_validates_is_tested(digits):
    splits = make_splits(digits, n_splits=3, train=100, validation=50)
    assert "" not in splits.subsets
    assert [len(splits.indices(2, s)) for s in SUBSETS] == [100, 50, len(digits) - 150]


def test_the_splits_of_a_round_have_as_little_in_common_as_the_data_allow(digits):
    tested = make_splits(digits, n_splits=10).subsets == "test"
    assert abs(tested[:5].sum(axis=0) - 1).max() <= 1  # five folds ...
    assert (tested[:5].sum(axis=0) == 1).mean() > 0.99  # ... that but for rounding meet once in every sample
    assert (tested[0] & tested[5]).any()  # the next round has another order
    trained = make_splits(digits, n_splits=8, train=100, validation=50).subsets == "train"
    assert trained.sum(axis=0).max() == 1
