"""A run's folder: one writer, its configuration, its metrics."""

from __future__ import annotations

import contextlib
import datetime
import errno
import glob
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jaxssl.errors import InputError, setting, visible
from jaxssl.files import (
    line_of,
    not_written,
    read_lines,
    read_record,
    safe_name,
    sweep,
    write_record,
    write_text,
)
from jaxssl.training import processes

_PACKAGES = ("jaxssl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class RunFolder:
    """The folder of one run, held by one process at a time.

    A context manager: the lock is held from `__enter__` to `__exit__`, and freed by the system
    when the process is killed. Layout: `config.json`, `metrics.jsonl`, `tensorboard/`,
    `checkpoints/`, `embeddings/`, `report/`, `results.json`. Of several processes the first holds
    the lock and writes; the others take its path, and write nothing here.

    Args:
      path: the folder; made when missing, resumed when it holds a `config.json`.
      config: every setting, JSON-able; compared with the folder's when it is resumed.
      may_differ: settings that may change between sessions of one run.
      facts: what else `config.json` records once (devices, data fingerprint under "data", ...);
        what `provenance` says too is taken from here.
      again: how a person goes on with it, for the line that says where it stopped.

    Raises:
      InputError: on entering, when another process holds the folder, it cannot be written, or it
        was written with other settings or other data; the fields are named.
    """

    def __init__(
        self,
        path: str | Path,
        config: Mapping[str, Any],
        *,
        may_differ: Collection[str] = (),
        facts: Mapping[str, Any] | None = None,
        again: str = "",
    ):
        self.path = Path(path).expanduser().resolve()
        self._config = json.loads(json.dumps(config))
        self._may_differ = set(may_differ)
        self._facts = dict(facts or {})
        self._again = again
        self._tensorboard: Any = None
        self._lock: Any = None
        self._metrics: Any = None
        self.lines = 0  # of metrics.jsonl

    @property
    def again(self) -> str:
        """Say how to go on with the run."""
        return self._again or f"the same command with the run folder {self.path} goes on from there"

    def __enter__(self) -> RunFolder:
        if processes.is_first():
            self._open()
        own = self.path
        path, holder = processes.from_first(lambda: [str(own), _holder(own)])
        self.path = Path(path)
        # Compare what the lock says: a folder of that name on another disk may have an older lock.
        if _holder(self.path) != holder:
            raise InputError(
                f"process 0 writes to {self.path}, but this process cannot see that folder (its "
                f"own would be {own}): all processes need a run folder on a disk that they share"
            )
        return self

    def _open(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a+")  # noqa: SIM115 closed in __exit__
            _lock_or_fail(self._lock, self.path)
        except OSError as error:
            raise InputError(
                f"the run folder {self.path} cannot be written: {error.strerror}"
                + (f" ({error.filename})" if error.filename else "")
            ) from None
        try:
            sweep(self.path, deep=True, idle=0)  # the lock is held: nobody else writes
            self.resumed = self._compare_or_write_config()
            self._metrics = self._open_metrics()
        except BaseException:
            self._lock.close()
            raise

    def _open_metrics(self) -> Any:
        path = self.path / "metrics.jsonl"
        if path.exists() and not path.is_file():  # opening a pipe would wait for its reader
            raise InputError(f"{path}: not a file; restore or remove it")
        try:
            return open(path, "a", encoding="utf-8")
        except OSError as error:
            raise not_written(path, error) from error

    def __exit__(self, *exception: object) -> None:
        for opened in (self._metrics, self._tensorboard, self._lock):
            if opened is not None:
                opened.close()

    def rewind(self, step: int, lines: int | None = None) -> list[dict[str, Any]]:
        """Drop the metrics after `step`, which a resumed run writes again; return the others.

        Args:
          step: Where the run goes on.
          lines: How many there were when that step was saved; where there are fewer, it is said.
        """
        path = self.path / "metrics.jsonl"
        first = self._metrics is not None
        read = read_lines(path, say=print if first else None)
        rows = [row for row in read if row["step"] <= step]
        self.lines = len(rows)
        if not first:
            return rows
        if lines is not None and len(rows) < lines:
            print(
                f"{path}: {len(rows)} of the {lines} lines that were written to step {step}: the "
                "others are lost to the curves, and to the patience"
            )
        self._metrics.close()
        write_text(path, "".join(map(line_of, rows)))
        self._metrics = self._open_metrics()
        # A log, not a result: a machine without tensorboardX trains as well.
        with contextlib.suppress(ImportError, OSError):
            from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1)
        return rows

    def log(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Append one line to `metrics.jsonl` (flushed) and to TensorBoard.

        Raises:
          WriteError: The disk is full, or somebody removed or moved the folder.
        """
        if self._metrics is None:
            return
        row = {"step": step, "epoch": round(epoch, 4), "split": split, "time": time.time()}
        row.update({name: float(value) for name, value in values.items()})
        path = self.path / "metrics.jsonl"
        try:
            self._check_there(path)
            self._metrics.write(line_of(row))
            self._metrics.flush()
            self.lines += 1
        except OSError as error:
            # What could not be flushed would be tried again, and fail, when the file is closed.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._metrics.fileno())
            os.close(nowhere)
            raise not_written(path, error) from error
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(f"{split}/{name}", float(value), step)

    def _check_there(self, path: Path) -> None:
        """Notice that the folder is gone: an open file takes lines after it was removed."""
        if not os.path.samestat(os.stat(path), os.fstat(self._metrics.fileno())):
            raise FileNotFoundError(errno.ENOENT, "another file has taken its place")

    def _compare_or_write_config(self) -> bool:
        path = self.path / "config.json"
        if not os.path.lexists(path):
            if (self.path / "checkpoints").exists():
                raise InputError(f"{self.path} has checkpoints but no config.json: use another")
            own = {"format": 2, **self._facts, "config": self._config}
            record = own | {name: v for name, v in provenance().items() if name not in own}
            write_record(path, record)
            return False
        record = read_record(self.path)
        differing = _differing(record, self._config, self._may_differ, self._facts.get("data"))
        if differing:
            raise InputError(
                f"the run folder {self.path} was written by another configuration: "
                f"{'; '.join(differing)}. Use the old settings to resume, or another folder"
                f"{setting('run_dir', form=' ({})')}"
            )
        return True


def default_run_dir(experiment: str, dataset: str) -> Path:
    """Return `runs/<experiment>-<dataset>-<time>`, in the current folder."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{safe_name(experiment)}-{safe_name(dataset)}-{now}"


def unfinished(
    path: Path, config: Mapping[str, Any], *, may_differ: Collection[str], data: str
) -> Path | None:
    """Find the newest run that began as this one would and has no results yet; None: there is none.

    Args:
      path: The default folder of the new run: those beside it are looked at, of its program and
        data set.
      config: As of `RunFolder`, as is `may_differ`.
      may_differ: Settings that may be others.
      data: The fingerprint of its images.
    """
    beside = path.name[: -len("-20260101-000000")]
    told = json.loads(json.dumps(config))
    for folder in sorted(path.parent.glob(f"{glob.escape(beside)}-[0-9]*-[0-9]*"), reverse=True):
        if (folder / "results.json").exists() or not any((folder / "checkpoints").glob("[0-9]*")):
            continue
        with contextlib.suppress(InputError, OSError, KeyError, AttributeError):
            record = read_record(folder)
            if not _differing(record, told, may_differ, data) and not _is_held(folder):
                return folder
    return None


def _differing(
    record: Mapping[str, Any], config: Mapping[str, Any], may_differ: Collection[str], data: Any
) -> list[str]:
    """Say in what a run folder's record is another than a run of these settings would write."""
    old = record["config"]
    differing = [
        f"{name} was {old.get(name)!r}, is {config.get(name)!r}"
        for name in sorted(old.keys() | config.keys())
        if old.get(name) != config.get(name) and name not in may_differ
    ]
    if record.get("data") != data:
        differing.append("the images or their order are others than this run was trained on")
    return differing


def _is_held(folder: Path) -> bool:
    """Tell whether a process writes to a run folder."""
    import fcntl

    with open(folder / ".lock", "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def provenance() -> dict[str, Any]:
    """Record what a number needs beside it: command, versions, commit, host, time."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = f"python -m {module.name}" if module else Path(sys.argv[0]).name
    return {
        "command": " ".join([program, *sys.argv[1:]]),
        "versions": versions,
        "commit": _commit(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def lock(file: Any, place: str, holder: str) -> None:
    """Hold an open file until it is closed or the process ends, or refuse in one line.

    Args:
      file: the file.
      place: what it stands for, for the message.
      holder: who holds it where somebody does.

    Raises:
      InputError: another process holds it, or its file system has no locks; it is closed then.
    """
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InputError(f"{place} is in use by {holder}") from None
    except OSError as error:
        file.close()
        raise InputError(
            f"{place} is on a file system that cannot lock files ({error.strerror}): "
            "choose one on another, or have it mounted with locks"
        ) from None


def _lock_or_fail(file: Any, path: Path) -> None:
    """Lock the folder for one writer: two processes on one folder hang or lose checkpoints."""
    holder = _holder(path) or "another process"
    lock(file, f"the run folder {path}", f"{holder}: wait for it or choose another")
    file.seek(0)
    file.truncate()
    file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.ctime()}")
    file.flush()
    os.fsync(file.fileno())  # other hosts read it too


def _holder(path: Path) -> str:
    """Say which process holds a folder, or held it last, where and since when; "" where none."""
    try:
        if not (path / ".lock").is_file():  # a pipe would never end
            return ""
        with open(path / ".lock", "rb") as file:
            return visible(file.read(200).decode("utf-8", "replace").strip())
    except OSError:
        return ""


def _commit() -> str:
    """Return the commit of the code that runs, with "+changes" where the tree is not clean."""
    here = Path(__file__).resolve().parent
    try:
        git = ["git", "-C", str(here)]
        commit = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changes = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+changes" if changes else "")
