"""The program as forks of one process that imported the libraries, to kill it many times.

Half of the processor's time of a start is imports. A fork begins behind them, before anything
touched a device or made a thread: flags, devices, images, programs, folder are its own, and a
signal ends it as it ends a program that was started from a shell. The map is left out.
"""

from __future__ import annotations

import atexit
import os
import resource
import signal
import sys
import time
import traceback
import weakref
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def warm() -> None:
    """Import, once, all that the program imports until its end."""
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
    from jaxssl import analysis
    from jaxssl.analysis import figures  # noqa: F401
    from jaxssl.training import checkpoint, devices, processes  # noqa: F401

    # Two dimensions of the tables: 15 of a run's 24 seconds, in which numba compiles.
    analysis.with_map = lambda tables: tables


class Forked:
    """A program that runs; its output is in files.

    Args:
      arguments: Of `experiments.simclr`.
      said: The files of its two outputs: this path with .out and .err.
      devices: Of its own.
      limit: Bytes of the largest file that it can write.
    """

    def __init__(
        self, arguments: list[str], said: Path, *, devices: int = 1, limit: int | None = None
    ):
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
            _become(arguments, self._paths, devices)

    @property
    def out(self) -> str:
        """What it printed so far."""
        return _text(self._paths[0])

    @property
    def err(self) -> str:
        """What it said of faults so far."""
        return _text(self._paths[1])

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
        sys.argv = ["experiments/simclr.py", *arguments]
        from experiments import cli, simclr

        cli.run(simclr.main, simclr.PRESETS)
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
