"""The program as forks of one process that imported the libraries, to kill it many times.

Half of the processor's time of a start is imports. A fork begins behind them, before anything
touched a device or made a thread: flags, devices, images, programs, folder are its own, and a
signal ends it as it ends a program that was started from a shell. The map is left out.
"""

from __future__ import annotations

import atexit
import os
import re
import resource
import signal
import sys
import time
import traceback
import warnings
import weakref
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_SLOW = re.compile(r"E\d+ [\d:.]+ +\d+ slow_operation_alarm\.cc:\d+\].*\n\n?\*+\n.*\n\*+\n")


def warm() -> None:
    """Import, once, all that the programs import until their ends."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    import grain  # noqa: F401
    import sklearn.linear_model
    import sklearn.svm  # noqa: F401
    import tensorboardX  # noqa: F401
    import umap  # noqa: F401
    from jax.experimental import multihost_utils  # noqa: F401

    import experiments.simclr  # noqa: F401
    from jaxssl.analysis import figures, projection  # noqa: F401
    from jaxssl.training import checkpoint, devices, processes  # noqa: F401

    # UMAP is 15 of a run's 24 seconds, in which numba compiles.
    projection._umap = projection._tsne = lambda points, seed: points[:, :2]


class Forked:
    """A program that runs; its output is in files.

    Args:
      arguments: Of the program.
      said: The files of its two outputs: this path with .out and .err; and with .writes one that
        grows by a byte with each file that it brings to the disk.
      program: As `jaxssl PROGRAM` names it.
      devices: Of its own.
      limit: Bytes of the largest file that it can write.
      last: The file, counted from 1, in whose writing it kills itself: before its bytes are on the
        disk and the file has its name. 0: never.
    """

    def __init__(
        self,
        arguments: list[str],
        said: Path,
        *,
        program: str = "simclr",
        devices: int = 1,
        limit: int | None = None,
        last: int = 0,
    ):
        self.writes = said.with_suffix(".writes")
        self.writes.write_bytes(b"")
        self._paths = [said.with_suffix(end) for end in (".out", ".err")]
        for path in self._paths:
            path.unlink(missing_ok=True)
        self.code: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            _count_writes(self.writes, last)
            _become([program, *arguments], self._paths, devices)

    @property
    def out(self) -> str:
        """What it printed so far."""
        return _text(self._paths[0])

    @property
    def err(self) -> str:
        """What it said of faults so far, without XLA's five lines of a compilation of 2 minutes."""
        return _SLOW.sub("", _text(self._paths[1]))

    def poll(self) -> int | None:
        """Return its exit code, or less the number of the signal; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(self, seconds: float) -> int | None:
        """Wait for its end, for so long at most."""
        end = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        return self.code

    def kill(self) -> None:
        """Send SIGKILL, and wait until it is gone."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait(60)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _count_writes(counted: Path, last: int) -> None:
    """Note each fsync, and end in one of them."""
    real, seen = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal seen
        seen += 1
        with counted.open("ab") as file:
            file.write(b".")
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    os.fsync = fsync


def _become(arguments: list[str], said: list[Path], devices: int) -> None:
    """Be the program, in a process that was forked for it; never returns."""
    code = 1
    try:
        for mine in list(weakref.finalize._registry):  # type: ignore[attr-defined]
            mine.detach()  # the temporary folders are those of the process that forked
        for number, path in enumerate(said, 1):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
            os.close(file)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
        os.environ["MPLBACKEND"] = "Agg"
        sys.argv = ["jaxssl", *arguments]
        from experiments import cli

        # That the module was imported before, by the process that forked.
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
        cli.front_door()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    try:
        atexit._run_exitfuncs()  # what the program registered: it may print, and wait for others
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
