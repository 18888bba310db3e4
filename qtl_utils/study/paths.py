"""Where things are, and writes that either happen whole or not at all."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = PACKAGE / "project"  # where a wheel has the notebooks, the workflow and whatever else a checkout has
PROJECT = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent
# Where results go and relative names begin: the checkout, or the folder where an installed package was called. Jobs
# and kernels run elsewhere and inherit it.
FOLDER = Path(os.environ.setdefault("QTL_FOLDER", os.getcwd())) if INSTALLED.is_dir() else PROJECT
PID_SPACE = "/proc/self/ns/pid"  # containers of one name count their processes apart
HOST = platform.node() + (os.readlink(PID_SPACE) if os.path.islink(PID_SPACE) else "")
HOST = hashlib.sha256(HOST.encode()).hexdigest()[:8]  # short and fit for file names, whatever it is called
PART = re.compile(r"\.[0-9a-f]{8}\.(?P<host>[0-9a-f]{8})\.(?P<pid>\d+)\.part")  # beside the file it becomes
SCRATCH = re.compile(r"qtl-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-")  # in the folder for temporary files
ABANDONED = 24 * 3600  # seconds after which a part of another host is nobody's: its processes cannot be asked for
CLOCKS = 600  # seconds that the clocks of this machine and of its network disks may differ by
SMALL = 200_000  # bytes: of files up to half that size Snakemake compares the content
LONGEST_SCRATCH = 88  # bytes: a unix socket in it has 107 at most, on a Mac 103
MENDS = {  # errno -> what is the matter with a file, and how to mend it
    errno.ENOSPC: "the disk is full; free some space, or write elsewhere with --results-dir",
    errno.EDQUOT: "your quota of disk space is used up; free some, or write elsewhere with --results-dir",
    errno.EROFS: "it lies on a disk that can only be read; write elsewhere with --results-dir",
    errno.EACCES: "permission denied; change its owner or mode, or write elsewhere with --results-dir",
    errno.EPERM: "permission denied; change its owner or mode, or write elsewhere with --results-dir",
    errno.ENAMETOOLONG: "the name is too long for this disk; use shorter names, or write elsewhere with --results-dir",
    errno.EMFILE: "too many files are open at once; raise the limit with ulimit -n 4096",
    errno.ENFILE: "this machine has too many files open at once; end other programs",
    errno.EEXIST: "a file stands where a folder is needed; move it away, or write elsewhere with --results-dir",
    errno.ENOTDIR: "a file stands where a folder is needed; move it away, or write elsewhere with --results-dir",
    errno.ENOENT: "there is no such file or folder; restore it, or check its name",
    errno.EISDIR: "a folder stands where a file is needed; move it away",
    errno.EIO: "the disk reports an error; check it, or write elsewhere with --results-dir",
    errno.ESTALE: "the network disk lost sight of it; start again",
}


def results_root(results_dir: str | Path | None = None) -> Path:
    """The folder that holds one folder per study; `results_dir`, relative to FOLDER, or `results/`."""
    return FOLDER / (results_dir or "results")


def study_dir(study: str, results_dir: str | Path | None = None) -> Path:
    """The folder of one study."""
    return results_root(results_dir) / study


def user_path(path: str | Path) -> Path:
    """`path` with `~` expanded; a relative one is looked up from FOLDER, then the project, then the current folder."""
    path = Path(os.path.expanduser(path))  # leaves the ~ of an unknown user as it is
    for root in (FOLDER, PROJECT):
        if path.is_absolute() or (root / path).exists():
            return root / path
    return path.resolve() if path.exists() else FOLDER / path


def fingerprint(path: str | Path) -> str:
    """A hash over names, sizes and times of a file or of all files in a folder; nothing is read."""
    path = user_path(path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    state = [(str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return hashlib.sha256(repr(state).encode()).hexdigest()[:16]


# ---- writing


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yields a part path beside `path` (file or folder) and renames it to `path` when the block succeeds.

    On an error the part is removed and an older `path` stays as it was; of a killed process, `sweep` removes it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]  # a long name leaves room for nothing more
    part = path.with_name(f".{name}.{HOST}.{os.getpid()}.part{path.suffix[:16]}")  # libraries go by the suffix
    old = part.with_name(f"{part.name}-old")
    try:
        yield part
        if part.is_dir() and path.is_dir():
            os.replace(path, old)
        os.replace(part, path)
    except OSError as error:
        if error.errno and error.filename in (None, str(part)):  # of a full disk only the number is told
            error.filename = str(path)
        raise
    finally:
        _remove(part)
        _remove(old)


def write_json(path: str | Path, record: Any) -> None:
    """Writes `record` to `path` as JSON that people can read."""
    with atomic(path) as part:
        part.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yields a temporary folder whose path is short enough for unix sockets, and removes it afterwards.

    It lies in $TMPDIR, or in /tmp where that has too long a path; of a killed process, `sweep` removes it.
    """
    prefix = f"qtl-{HOST}-{os.getpid()}-"
    fitting = [root for root in _scratch_roots() if len(os.fsencode(f"{root}/{prefix}")) + 8 <= LONGEST_SCRATCH]
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=fitting[0] if fitting else None))
    try:
        yield folder
    finally:
        _remove(folder)


def _scratch_roots() -> list[str]:
    return list(dict.fromkeys([tempfile.gettempdir(), "/tmp"]))


def sweep(folder: str | Path) -> list[Path]:
    """Removes what killed processes left below `folder` and among the temporary folders; returns what it removed.

    Parts and temporary folders of living processes stay, and those of other hosts until they are a day old: a study
    folder may be shared by a cluster.
    """
    left = []
    for place, folders, files in os.walk(folder):
        parts = [name for name in folders + files if PART.match(name)]
        folders[:] = [name for name in folders if name not in parts]  # nothing inside a part is looked at
        left += [(Path(place) / name, PART.match(name)) for name in parts]
    for root in _scratch_roots():
        left += [(path, found) for path in Path(root).glob("qtl-*") if (found := SCRATCH.match(path.name))]
    removed = [path for path, found in left if _is_left(path, found["host"], int(found["pid"]))]
    for path in removed:
        _remove(path)
    return removed


def _is_left(path: Path, host: str, pid: int) -> bool:
    """Whether `path` is this user's and its writer is gone."""
    try:
        if path.lstat().st_uid != os.getuid():
            return False
        changed = max(part.lstat().st_mtime for part in (path, *path.rglob("*")))
    except OSError:  # finished or removed meanwhile
        return False
    return not _wrote(pid, changed) if host == HOST else time.time() - changed > ABANDONED


def _wrote(pid: int, changed: float) -> bool:
    """Whether the process `pid` lives and is old enough to have changed a file at that time: numbers come round."""
    import psutil

    try:
        return psutil.Process(pid).create_time() < changed + CLOCKS
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _remove(path: Path) -> None:
    """Removes a file or folder that may be gone already; what cannot be removed stays for the next sweep."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def likeness(folder: str | Path, view: str | Path) -> None:
    """Fills `view` with what Snakemake looks at in `folder`: its notes, small files, and the outlines of large ones.

    An outline has the size and time of its file, and takes no space.
    """
    for place, folders, files in os.walk(folder):
        if Path(place).name == ".snakemake":
            folders[:] = [name for name in folders if name in ("metadata", "incomplete")]
        target = Path(view) / Path(place).relative_to(folder)
        target.mkdir(parents=True, exist_ok=True)
        for name in files:
            with contextlib.suppress(FileNotFoundError):  # a part, of a run that goes on
                _outline(Path(place) / name, target / name)


def _outline(source: Path, target: Path) -> None:
    state = source.stat()
    if state.st_size <= SMALL:
        shutil.copyfile(source, target)
    else:
        target.touch()
        os.truncate(target, state.st_size)
    os.utime(target, ns=(state.st_atime_ns, state.st_mtime_ns))


@contextlib.contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Holds an exclusive lock on `path` (fcntl, so it ends with the process); raises BlockingIOError if taken."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def trouble(error: OSError) -> str:
    """One sentence for an error of the system: which file, what is the matter, and how to mend it."""
    number = error.errno
    file = error.filename
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):  # of copying many files; the first will do
        _, file, why = error.args[0][0]
        number = int(found[1]) if (found := re.search(r"Errno (\d+)", str(why))) else None
    matter = MENDS.get(number, error.strerror or " ".join(str(error).split())[:300] or type(error).__name__)
    return f"{file}: {matter}" if file is not None else matter
