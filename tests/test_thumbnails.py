"""Small copies of images: of those that are at hand, and nothing is downloaded for them."""

import io

import numpy as np
import pytest
from PIL import Image

from qtl_utils.data import index
from qtl_utils.data import thumbnails as module
from qtl_utils.data.datasets import load_dataset
from qtl_utils.data.images import read_image
from qtl_utils.data.index import ImageIndex
from qtl_utils.data.thumbnails import SIDE, thumbnails
from qtl_utils.study.config import DataConfig


def test_a_digit_is_enlarged_pixel_by_pixel():
    name = load_dataset("digits").ids[3]
    found = thumbnails(DataConfig(dataset="digits"), [name, "digits/none"])
    assert set(found) == {name}
    pixels = np.asarray(Image.open(io.BytesIO(found[name])).convert("L"))
    assert pixels.shape == (SIDE, SIDE)
    assert (pixels.reshape(8, SIDE // 8, 8, SIDE // 8) == pixels[:: SIDE // 8, :: SIDE // 8][:, None, :, None]).all()


def test_a_photograph_becomes_small(tmp_path):
    for name in ("ants", "bees"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (400, 200), "orange").save(tmp_path / name / "1.png")
    config = DataConfig(dataset="image_folder", data_dir=str(tmp_path))
    (png,) = thumbnails(config, ["bees/1.png"]).values()
    assert Image.open(io.BytesIO(png)).size == (SIDE, SIDE // 2)
    (tmp_path / "bees" / "1.png").unlink()
    assert thumbnails(config, ["bees/1.png"]) == {}


def test_what_a_study_knows_of_its_images_is_not_read_again(monkeypatch, tmp_path):
    for number, name in enumerate(("ants", "bees", "wasps")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.new("RGB", (40, 20), (90 * number, 0, 0)).save(tmp_path / "pictures" / name / "1.png")
    config = DataConfig(dataset="image_folder", data_dir=str(tmp_path / "pictures"))
    known = tmp_path / "images.json"
    load_dataset("image_folder", data_dir=config.data_dir, index=ImageIndex(known))
    read = []
    monkeypatch.setattr(index, "read_image", lambda path: read.append(path) or read_image(path))
    assert set(thumbnails(config, ["bees/1.png"], known)) == {"bees/1.png"}
    assert not read
    assert set(thumbnails(config, ["bees/1.png"])) == {"bees/1.png"}
    assert len(read) == 3


@pytest.mark.parametrize("dataset", ["ants_bees", "spirals", "of an extension"])
def test_what_has_no_images_has_no_thumbnails(dataset):
    assert thumbnails(DataConfig(dataset=dataset), ["x"]) == {}


def test_nothing_is_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    assert thumbnails(DataConfig(dataset="hymenoptera"), ["train/ants/1.jpg"]) == {}
