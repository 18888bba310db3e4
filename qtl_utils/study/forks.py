"""Kernels in no time: one process of a run loads the packages, and forks itself for every kernel.

Loading torch, PennyLane and what they need takes seconds of a core, for each of the notebooks of a study. A fork of a
process that only loaded them, and never used more than one thread, starts as if it had loaded them itself.
"""

import contextlib
import ctypes
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ADDRESS = "QTL_KERNELS"  # where a run's jobs find the process: its socket and the threads it was started for
PACKAGES = (
    "ipykernel.kernelapp",
    "ipykernel.zmqshell",
    "matplotlib_inline.backend_inline",
    "torchvision",
    "pennylane",
    "pandas",
    "seaborn",
    "safetensors.torch",
    "pydantic",
    "tqdm.auto",
    "numba",
    "scipy.stats",
    "IPython.core.completer",
)
LONGEST_REQUEST = 2**20  # bytes
END_WITH_PARENT = 1  # Linux's PR_SET_PDEATHSIG


# ---- the run's side


@contextlib.contextmanager
def at_hand(environment: dict[str, str], threads: int, warming: str = "") -> Iterator[None]:
    """Has kernels forked, in jobs that start meanwhile, whose `environment` has `threads` threads.

    `warming`: a module whose import prepares what all kernels need, and at first may take long.
    On other systems than Linux nothing happens, and every kernel starts as usual.
    """
    from qtl_utils.study.paths import scratch

    if sys.platform != "linux":
        yield
        return
    with scratch() as folder:
        address = str(folder / "s")
        command = [sys.executable, "-P", "-m", "qtl_utils.study.forks", address, warming]
        server = subprocess.Popen(command, env=os.environ | environment, stdin=subprocess.DEVNULL)
        os.environ[ADDRESS] = f"{threads}:{address}"
        try:
            yield
        finally:
            os.environ.pop(ADDRESS, None)
            server.terminate()
            server.wait()


# ---- a job's side


class ForkedKernel:
    """A kernel forked from the process at `address`; like `subprocess.Popen` as far as a kernel manager asks.

    Raises OSError where nobody answers there.
    """

    stdin = stdout = stderr = None

    def __init__(self, address: str, command: list[str], environment: dict[str, str], folder: str):
        self.args = command
        self.returncode = None
        self._line = socket.socket(socket.AF_UNIX)
        self._answers = self._line.makefile()
        request = {"arguments": command, "environment": environment, "folder": folder}
        try:
            self._line.connect(address)
            socket.send_fds(self._line, [json.dumps(request).encode() + b"\n"], [0, 1, 2])
            answer = self._answers.readline()
            if not answer:
                raise OSError(f"nobody forks kernels at {address}")
        except OSError:
            self.hang_up()
            raise
        self.pid = int(answer)

    def hang_up(self) -> None:
        """Ends the connection, and with it a kernel that lives."""
        self._answers.close()
        self._line.close()

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while the kernel lives."""
        if self.returncode is not None:
            return self.returncode
        with selectors.PollSelector() as selector:
            selector.register(self._line, selectors.EVENT_READ)
            return self.wait() if selector.select(0) else None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._line.settimeout(timeout)
            answer = self._answers.readline()
            self.returncode = int(answer) if answer else -signal.SIGKILL  # or the run itself is gone
            self.hang_up()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def address_for(threads: int) -> str | None:
    """Where kernels with so many threads are forked; None where nobody does."""
    wanted, _, address = os.environ.get(ADDRESS, "").partition(":")
    return address if wanted == str(threads) and Path(address).exists() else None


# ---- the process that forks


def _leave(*_) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would break into the cleaning up
    sys.exit()


def serve(address: str, warming: str = "") -> None:
    """Forks a kernel for every request until the process that started this one is gone.

    The first fork imports `warming`, so that nobody waits meanwhile; what it left on disk is then read here.
    """
    run = os.getppid()
    for name in PACKAGES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    signal.signal(signal.SIGTERM, _leave)
    lines = {}  # of living kernels, by process number
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    first = os.fork() if warming else 0
    if warming and not first:
        ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGKILL)
        importlib.import_module(warming)
        os._exit(0)
    try:
        _answer(listener, lines, run, {first: warming})
    finally:
        for pid in lines:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _answer(listener: socket.socket, lines: dict[int, socket.socket], run: int, warming: dict[int, str]) -> None:
    with selectors.PollSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while os.getppid() == run:
            for key, _ in selector.select(0.1):
                if key.fileobj is listener:
                    line, _ = listener.accept()
                    pid = _fork(line, [listener, *lines.values()])
                    if pid:
                        lines[pid] = line
                        selector.register(line, selectors.EVENT_READ, pid)
                else:  # nobody speaks after the request: whoever asked for the kernel is gone
                    selector.unregister(key.fileobj)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(key.data, signal.SIGKILL)
            for pid, code in _ended():
                if pid in warming and code == 0:
                    importlib.import_module(warming[pid])
                if line := lines.pop(pid, None):
                    with contextlib.suppress(OSError):
                        line.sendall(f"{code}\n".encode())
                    with contextlib.suppress(KeyError):
                        selector.unregister(line)
                    line.close()


def _ended() -> Iterator[tuple[int, int]]:
    """Process number and exit code of kernels that ended."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, os.waitstatus_to_exitcode(status)


def _fork(line: socket.socket, others: list[socket.socket]) -> int:
    """Answers one request: the number of the new process, 0 where the request was none."""
    data, streams, _, _ = socket.recv_fds(line, LONGEST_REQUEST, 3)
    while data and not data.endswith(b"\n"):
        data += line.recv(LONGEST_REQUEST)
    if len(streams) != 3:
        line.close()
        return 0
    pid = os.fork()
    if not pid:
        for other in (line, *others):
            other.close()
        _become(json.loads(data), streams)
    for stream in streams:
        os.close(stream)
    line.sendall(f"{pid}\n".encode())
    return pid


def _become(request: dict, streams: list[int]) -> None:
    """Turns this fork into the kernel that was asked for, and ends with it."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGKILL)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        os.environ.pop("JPY_PARENT_PID", None)  # the kernel would miss its parent: it is this process's child
        _draw_anew()
        from ipykernel.kernelapp import IPKernelApp

        arguments = request["arguments"]
        sys.argv = arguments[arguments.index("ipykernel_launcher") :]
        IPKernelApp.launch_instance(sys.argv[1:])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _draw_anew() -> None:
    """Global random numbers differ from kernel to kernel, as where each started by itself."""
    import random

    import numpy as np

    random.seed()
    np.random.seed()
    if torch := sys.modules.get("torch"):
        torch.seed()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        serve(*sys.argv[1:])
