"""Image files: which ones a folder holds, how each is read, resized and downloaded."""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features
from requests.exceptions import RequestException

SUBSET_FOLDERS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
ORDER = ("train", "validation", "test", "")
LAYOUT = "CLASS/* or train/CLASS/*, val/CLASS/* and optionally test/CLASS/*"
# Others are refused: some (EPS) would start an outside program to be decoded.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "GIF")
FORMATS += ("AVIF",) * features.check("avif")
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # brands in a file's bytes 8 to 12
RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2")  # PIL would take their small preview
LARGE = 24_000_000  # pixels of a JPEG that is decoded smaller, which takes a fraction of the time and memory
SHORT = 1200  # pixels that its short side keeps at least: more than any backbone is given
MAX_ASPECT = 100  # a longer strip would fill the memory once its short side is resized
RETRIES = 3  # after the first attempt, waiting 1, 2 and 3 seconds


def to_rgb(image: Image.Image) -> Image.Image:
    """The upright 8-bit RGB version: EXIF-rotated, 16-bit grey scaled, transparency shown on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("32-bit greyscale has no fixed range; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def read_image(path: str | Path) -> Image.Image:
    """The RGB image in a file (the first frame of several); ValueError with the reason if it cannot be used.

    A JPEG of more than LARGE pixels comes at a half, a quarter or an eighth of its size, as its format allows.
    """
    path = Path(path)
    try:
        _refuse_file(path)
        with warnings.catch_warnings():
            # PIL warns of odd metadata that leaves the pixels readable, and of sizes that are looked at below
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                _shrink(image)
                _refuse_image(image)
                return to_rgb(image)
    except UnidentifiedImageError:
        raise ValueError(_unknown_format(path)) from None
    except Image.DecompressionBombError:
        raise ValueError(_too_large()) from None
    except Exception as error:  # decoders fail in many ways on damaged files; each is a reason to skip one file
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _refuse_file(path: Path) -> None:
    if path.is_dir():
        raise ValueError("a folder: only files directly in a class folder are read")
    if not path.is_file():  # a broken link, a pipe, a file removed meanwhile
        raise ValueError("no such file")
    if path.stat().st_size == 0:
        raise ValueError("empty file")
    if path.suffix.lower() == ".gif":
        raise ValueError("GIF: always skipped")
    if path.suffix.lower() in RAW:
        raise ValueError("a camera's raw file: export it as JPEG")


def _unknown_format(path: Path) -> str:
    with open(path, "rb") as file:
        start = file.read(12)
    if start[4:8] == b"ftyp" and start[8:] in HEIC:
        how = "on a Mac 'sips -s format jpeg FILE --out FILE.jpg', on Linux 'heif-convert FILE FILE.jpg'"
        return f"HEIC, the format of iPhones, is not read here: save it as JPEG ({how})"
    return f"not an image of a known format ({', '.join(FORMATS)})"


def _shrink(image: Image.Image) -> None:
    """Has a large JPEG that was opened decoded at a fraction of its size: by 2, 4 or 8, as long as SHORT is left."""
    short = min(image.size)
    if image.format in ("JPEG", "MPO") and image.width * image.height > LARGE and short >= 2 * SHORT:
        image.draft(None, tuple(side * SHORT // short for side in image.size))


def _too_large() -> str:
    return f"more than {Image.MAX_IMAGE_PIXELS} pixels: too large to decode safely"


def _refuse_image(image: Image.Image) -> None:
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(_too_large())
    if image.format == "GIF":
        raise ValueError("GIF: always skipped")
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ValueError(f"{image.width} x {image.height} pixels: one side is over {MAX_ASPECT} times the other")


def read_nth(paths: Sequence[Path], index: int) -> Image.Image:
    """The RGB image in file `paths[index]`; ValueError naming the file if it can no longer be read."""
    try:
        return read_image(paths[index])
    except ValueError as error:
        raise ValueError(f"{paths[index]} was readable before and is not now ({error}); restore it.") from error


def content_hash(image: Image.Image) -> str:
    """SHA-256 of an RGB image's size and pixels, so a lossless copy in another format has the same one."""
    return hashlib.sha256(f"{image.width}x{image.height}:".encode() + image.tobytes()).hexdigest()


def resize_crop(image: Image.Image, image_size: int, resize: int) -> Image.Image:
    """The centre `image_size` square after the short side was resized to `resize`, antialiased bilinear.

    Same pixels as torchvision's Resize(resize) and CenterCrop(image_size) on a PIL image.
    """
    width, height = image.size
    short = min(width, height)
    size = (int(resize * width / short), int(resize * height / short))
    image = image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((side - image_size) / 2.0) for side in image.size)
    return image.crop((left, top, left + image_size, top + image_size))


def scan_folder(root: Path) -> tuple[list[tuple[str, Path, list[Path]]], list[tuple[str, str]]]:
    """(given subset, class folder, its candidate files) in order, and (file, reason) of all that is passed over.

    FileNotFoundError or ValueError, saying what was expected, when `root` is not laid out as one of `LAYOUT`.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"The image folder {root} does not exist; data_dir= needs a folder with {LAYOUT}.")
    folders, skipped = _visible(root, root)
    subsets = _subset_folders(root, folders)
    if subsets:
        skipped += [(_name(f, root), "beside train, val and test") for f in folders if f not in subsets.values()]
    found = []
    for subset, top in (subsets or {"": root}).items():
        if subsets:
            folders, loose = _visible(top, root)
            skipped += loose
        for folder in folders:
            files, hidden = _listing(folder, root)
            skipped += hidden
            found.append((subset, folder, files))
    _check_classes(root, subsets, found)
    return sorted(found, key=lambda row: (ORDER.index(row[0]), row[1].name)), skipped


def _subset_folders(root: Path, folders: list[Path]) -> dict[str, Path]:
    subsets: dict[str, Path] = {}
    for folder in folders:
        subset = SUBSET_FOLDERS.get(folder.name.lower())
        if subset in subsets:
            raise ValueError(f"{root} holds {subsets[subset].name}/ and {folder.name}/, two names for one; keep one.")
        if subset:
            subsets[subset] = folder
    return subsets


def _check_classes(root: Path, subsets: dict[str, Path], found: list) -> None:
    classes = {subset: {f.name for s, f, _ in found if s == subset} for subset in subsets or {"": root}}
    everything = sorted(set.union(*classes.values()))
    if not everything:
        raise ValueError(f"{root} holds no class folders; expected {LAYOUT}.")
    if len(everything) == 1:
        inner = [folder for _, folder, files in found if sum(path.is_dir() for path in files) > 1]
        hint = f" If the classes lie in {inner[0]}, give that folder." if inner else ""
        raise ValueError(f"{root} holds only one class, {everything[0]!r}; expected two or more of {LAYOUT}.{hint}")
    for subset, names in classes.items():
        missing = sorted(set(everything) - names)
        if missing:
            where = subsets[subset]
            raise ValueError(f"{where} lacks the class {missing[0]!r}; every subset needs all of {everything}.")


def large_classes(root: Path, counts: Mapping[str, int], min_images: int) -> list[str]:
    """The classes of `counts` (class -> usable images) with at least `min_images`; ValueError unless there are two."""
    kept = [name for name, n in counts.items() if n >= min_images]
    if len(kept) < 2:
        found = ", ".join(f"{name!r} {n}" for name, n in counts.items())
        raise ValueError(
            f"{root} has {len(kept) or 'no'} class{'' if len(kept) == 1 else 'es'} of at least {min_images} usable "
            f"images, and two are needed (usable images: {found}); add images"
        )
    return kept


def _listing(folder: Path, root: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    kept = []
    skipped = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == "__MACOSX":
            skipped.append((_name(path, root), "hidden"))
        elif _name(path, root) != path.relative_to(root).as_posix():
            skipped.append((_name(path, root), "the name is not valid UTF-8"))
        else:
            kept.append(path)
    return kept, skipped


def _visible(folder: Path, root: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    paths, skipped = _listing(folder, root)
    skipped += [(_name(p, root), "not in a class folder") for p in paths if not p.is_dir()]
    return [p for p in paths if p.is_dir()], skipped


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix().encode("utf-8", "replace").decode()


def fetch(
    base_url: str, filename: str, folder: Path, known_hash: str | None, by_hand: str, retries: int | None = None
) -> Path:
    """Downloads `filename` into `folder` unless it is there with the right hash; a failed attempt is repeated.

    FileNotFoundError if the server cannot be reached, ValueError if what it sends has another hash; both end
    with `by_hand`, what the user can do instead. Nothing half-written is left.
    """
    import pooch  # here, because it asks for a progress widget as soon as it is imported

    retries = RETRIES if retries is None else retries
    url = f"{base_url.rstrip('/')}/{filename}"
    registry = {filename: known_hash}
    source = pooch.create(path=folder, base_url=f"{base_url.rstrip('/')}/", registry=registry, retry_if_failed=retries)
    try:
        return Path(source.fetch(filename))
    except RequestException as error:
        attempts = f"{retries + 1} attempts" if retries else "one attempt"
        reason = f"{url} could not be downloaded after {attempts} ({type(error).__name__})"
        raise FileNotFoundError(f"{reason}; {by_hand}") from error
    except ValueError as error:
        raise ValueError(f"{url} does not have the expected hash {known_hash}; {by_hand}") from error
