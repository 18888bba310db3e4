"""Small copies of images, for pages that show some of them."""

import base64
import inspect
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from qtl_utils.data.datasets import DATASETS, load_dataset
from qtl_utils.data.images import read_image
from qtl_utils.data.index import ImageIndex
from qtl_utils.study.config import DataConfig
from qtl_utils.study.paths import FOLDER

SIDE = 72  # pixels of the longer side
LARGE = 160  # the same, of pictures that are looked at one by one
QUALITY = 80  # of JPEG


def thumbnails(config: DataConfig, ids: Sequence[str], known: Path | None = None) -> dict[str, bytes]:
    """PNG files of the images `ids` of a data set, by id; none where it has no images, or none on this machine.

    known: the file in which a study keeps what it knows of its images, so that they are not all read again. Nothing is
    downloaded.
    """
    if config.dataset not in DATASETS or _would_download(config):
        return {}
    try:
        dataset = load_dataset(config.dataset, data_dir=config.data_dir, index=ImageIndex(known), **config.options)
        places = {name: i for i, name in enumerate(dataset.ids)}
        wanted = [name for name in ids if name in places and dataset.load is not None]
        return {name: _small(dataset.load(places[name])) for name in wanted}
    except (OSError, ValueError):  # the folder has gone, or has changed since
        return {}


def _would_download(config: DataConfig) -> bool:
    cached = "cache_dir" in inspect.signature(DATASETS[config.dataset]).parameters
    return cached and config.data_dir is None and not (FOLDER / "data" / config.dataset).is_dir()


def _small(image: Image.Image) -> bytes:
    """A PNG of SIDE pixels; tiny images are enlarged without smoothing, so that their pixels show."""
    scale = SIDE / max(image.size)
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    size = tuple(max(round(side * scale), 1) for side in image.size)
    file = io.BytesIO()
    image.convert("RGB").resize(size, how).quantize(64).save(file, "PNG", optimize=True)
    return file.getvalue()


def thumbnail(path: str | Path) -> str:
    """A small copy of a picture as the address of an <img>, `data:image/jpeg;base64,...`; '' if it cannot be read."""
    try:
        image = read_image(path)
    except ValueError:
        return ""
    image.thumbnail((LARGE, LARGE))
    held = io.BytesIO()
    image.save(held, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(held.getvalue()).decode()}"
