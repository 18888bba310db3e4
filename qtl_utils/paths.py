"""Where things are, and writes that either happen whole or not at all."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def results_root(results_dir: str | Path | None = None) -> Path:
    """The folder that holds one folder per study; `results_dir`, relative to the project, or `results/`."""
    return PROJECT / (results_dir or "results")


def study_dir(study: str, results_dir: str | Path | None = None) -> Path:
    """The folder of one study."""
    return results_root(results_dir) / study


def user_path(path: str | Path) -> Path:
    """`path` with `~` expanded; a relative one is looked up from the project folder, then the current one."""
    path = Path(path).expanduser()
    if path.is_absolute() or (PROJECT / path).exists():
        return PROJECT / path
    return path.resolve() if path.exists() else PROJECT / path


def fingerprint(path: str | Path) -> str:
    """A hash over names, sizes and times of a file or of all files in a folder; nothing is read."""
    path = user_path(path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    state = [(str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return hashlib.sha256(repr(state).encode()).hexdigest()[:16]


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yields a part path beside `path` (file or folder) and renames it to `path` when the block succeeds.

    On an error the part is removed and an older `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        if part.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(part, path)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Holds an exclusive lock on `path` (fcntl, so it ends with the process); raises BlockingIOError if taken."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yields an empty temporary folder that is removed when the block ends."""
    with tempfile.TemporaryDirectory(prefix="qtl") as folder:
        yield Path(folder)
