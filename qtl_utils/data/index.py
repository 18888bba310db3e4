"""What was found out about image files, kept in a file, so that each is decoded once however often it is asked for."""

import json
from pathlib import Path

import numpy as np

from qtl_utils.data.dataset import square
from qtl_utils.data.images import content_hash, read_image
from qtl_utils.study.paths import write_json


class ImageIndex:
    """Hash and size of image files, or why one cannot be used; a file is read again when its size or time changed.

    With `image_size`, what is decoded on the way is also cut to the square that a backbone sees.
    """

    def __init__(self, file: Path | None = None, image_size: int | None = None):
        """file: where the index is kept between calls; None keeps nothing."""
        self.file = file
        self.image_size = image_size
        self.squares: dict[str, np.ndarray] = {}  # by path, (3, S, S) uint8, of what was decoded here
        self.changed = False
        self.rows: dict[str, list] = {}  # path -> bytes, time, hash, width, height, reason
        if file and file.is_file():
            try:
                self.rows = json.loads(file.read_text(encoding="utf-8"))
            except ValueError:  # half a file of another program: everything is asked again
                self.rows = {}

    def look(self, path: Path) -> tuple[str, tuple[int, int]]:
        """Content hash and (width, height) of an image file; ValueError with the reason where it cannot be used."""
        try:
            state = path.stat()
            stamp = [state.st_size, state.st_mtime_ns]
        except OSError:
            stamp = [-1, -1]
        row = self.rows.get(str(path), [])
        if row[:2] != stamp or stamp[0] < 0:
            row = [*stamp, *self._read(path)]
            self.rows[str(path)] = row
            self.changed = True
        *_, content, width, height, reason = row
        if reason:
            raise ValueError(reason)
        return content, (width, height)

    def _read(self, path: Path) -> list:
        try:
            image = read_image(path)
        except ValueError as error:
            return ["", 0, 0, str(error)]
        if self.image_size:
            self.squares[str(path)] = square(image, self.image_size)
        return [content_hash(image), image.width, image.height, ""]

    def save(self) -> None:
        """Writes the index to its file, where something was found out."""
        if self.file and self.changed:
            write_json(self.file, self.rows)
            self.changed = False
