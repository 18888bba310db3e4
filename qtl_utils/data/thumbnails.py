"""Small copies of pictures that a page can hold in itself."""

import base64
import io
from pathlib import Path

from qtl_utils.data.images import read_image

SIDE = 160  # pixels of the longer side
QUALITY = 80  # of JPEG


def thumbnail(path: str | Path) -> str:
    """A small copy of a picture as the address of an <img>, `data:image/jpeg;base64,...`; '' if it cannot be read."""
    try:
        image = read_image(path)
    except ValueError:
        return ""
    image.thumbnail((SIDE, SIDE))
    held = io.BytesIO()
    image.save(held, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(held.getvalue()).decode()}"
