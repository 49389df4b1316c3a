"""Checkpoints that are whole or not there; the only Orbax is here.

Orbax survives kills but loads flipped bits without a word (119 of 120 tried), so each step's
folder gets a manifest with the sha256 of every file after it is committed, and a step without a
manifest, or one that does not match it, is never loaded. All processes save and load together, in
one folder that all of them see; process 0 alone deletes, moves and writes manifests.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from jaxssl.errors import CheckpointError, InputError
from jaxssl.files import not_written, read_json, write_record
from jaxssl.training import processes
from jaxssl.training.state import TrainState

MANIFEST = "MANIFEST.json"


class Checkpoints:
    """The checkpoints of one run: the newest few, the best, and where asked a series.

    Args:
      directory: absolute folder of the steps, each in a folder named by its number.
      keep: how many of the newest steps stay besides the best.
      keep_every: the first checkpoint at or after each multiple of so many steps stays too; 0: no.
      say: where a sentence about a skipped checkpoint goes.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep: int = 2,
        keep_every: int = 0,
        say: Callable[[str], object] = print,
    ):
        self._directory = directory
        self._keep = keep
        self._keep_every = keep_every
        self._say = say
        self._pending: concurrent.futures.Future[None] | None = None
        # One thread: waits for Orbax's own, then writes the manifest and prunes.
        self._committer = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")

    def __enter__(self) -> Checkpoints:
        logging.getLogger("absl").addFilter(_not_of_orbax)
        if processes.is_first():
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise not_written(self._directory, error) from error
            self._sweep()
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.finish()
        except CheckpointError:
            if not any(exception):
                raise
            # What ended the run first is what is told.
        finally:
            self._committer.shutdown()
            logging.getLogger("absl").removeFilter(_not_of_orbax)

    def save(self, step: int, state: TrainState, facts: dict[str, Any]) -> None:
        """Start to save; return once the arrays are copied off the devices.

        Args:
          step: the number of finished steps; saving a step again is a no-op.
          state: may be donated to the next step right away.
          facts: JSON-able, kept in the manifest; `score`, where it is not None, is
            lower-is-better.

        Raises:
          CheckpointError: the save before this one failed; names the folder and the free space.
        """
        self.finish()
        path = self._directory / str(step)
        if not processes.from_first(lambda: _make_room(path)):
            return
        try:
            os.scandir(self._directory).close()  # Orbax would make a folder that was removed anew
            response = ocp.save_async(path, _named(state))
        except (OSError, ValueError, RuntimeError) as error:
            self._sweep(path.name)
            raise _not_saved(path, error) from error
        self._pending = self._committer.submit(self._commit, path, response, facts)

    def poll(self) -> None:
        """Raise the failure of a finished save; does not wait."""
        if self._pending is not None and self._pending.done():
            self.finish()

    def finish(self) -> None:
        """Wait for the save under way and raise its failure."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def steps(self) -> list[int]:
        """List the steps that have a folder, oldest first."""
        names = [path.name for path in self._directory.iterdir() if path.is_dir()]
        return sorted(int(name) for name in names if name.isascii() and name.isdecimal())

    def best_step(self) -> int | None:
        """Return the kept step with the lowest `score`; of equals the latest: longest trained."""
        every = {step: self._facts(step) for step in self.steps()}
        for step in [step for step, facts in every.items() if facts is None]:
            fault = damage(self._directory / str(step))
            self._say(f"checkpoint {step}: {fault}; whether it is the best is not known")
        scored = [
            (facts["score"], -step)
            for step, facts in every.items()
            if facts is not None and facts.get("score") is not None
        ]
        return -min(scored)[1] if scored else None

    def restore(self, like: TrainState, *, step: int | None = None) -> tuple[TrainState, dict]:
        """Load a step, by default the newest whole one.

        Args:
          like: a state of the same shapes, on the devices where the result is to live; their
            number may differ from that of the saving run.
          step: this step and no other; None falls back from the newest to older ones. A damaged
            step is moved to `quarantine/` and named.

        Returns:
          The state and the facts saved beside it; (like, {}) where there is none.

        Raises:
          InputError: the asked step is missing or damaged, or the checkpoint is of another model
            (every differing parameter is named).
        """
        whole = processes.from_first(lambda: self._whole_step(step))
        if whole is None:
            return like, {}
        path = self._directory / str(whole)
        _check_same_model(path, like)
        names = _named(like)
        # An explicit target: a checkpoint of 8 devices then restores on 1.
        target = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in names.items()
        }
        loaded = ocp.load(path, target)
        leaves = [loaded[name] for name in names]  # in the state's own order
        state = jax.tree.unflatten(jax.tree.structure(like), leaves)
        return state, self._facts(whole) or {}

    def _whole_step(self, asked: int | None) -> int | None:
        """Return the asked step, or the newest undamaged one; move damaged ones out of the way."""
        for step in [asked] if asked is not None else self.steps()[::-1]:
            path = self._directory / str(step)
            fault = damage(path)
            if fault is None:
                return step
            if asked is not None:
                raise InputError(f"checkpoint {path} cannot be used: {fault}")
            quarantine = self._directory / "quarantine"
            quarantine.mkdir(exist_ok=True)
            shutil.rmtree(quarantine / path.name, ignore_errors=True)
            path.rename(quarantine / path.name)
            self._say(f"checkpoint {step} skipped: {fault}; moved to {quarantine}")
        return None

    def _facts(self, step: int) -> dict[str, Any] | None:
        try:
            return read_manifest(self._directory / str(step))["facts"]
        except (OSError, InputError):
            return None

    def _commit(self, path: Path, response: Any, facts: dict[str, Any]) -> None:
        try:
            response.result()
            if processes.is_first():
                write_manifest(path, facts)
                self._prune()
        except Exception as error:
            self._sweep(path.name)  # what was written of it fills the disk
            raise _not_saved(path, error) from error

    def _sweep(self, step: str = "*") -> None:
        """Remove what saves left that were cut short; the run's lock is held."""
        if processes.is_first():
            for leftover in self._directory.glob(f"{step}.orbax-checkpoint-tmp*"):
                shutil.rmtree(leftover, ignore_errors=True)

    def _prune(self) -> None:
        whole = [step for step in self.steps() if self._facts(step) is not None]
        stay = {*whole[-self._keep :], self.best_step()}
        if self._keep_every:
            first: dict[int, int] = {}
            for step in whole:
                first.setdefault(step // self._keep_every, step)
            stay |= {step for multiple, step in first.items() if multiple}
        for step in whole:
            if step not in stay:
                # Under a name that the next start sweeps: a kill while its files go leaves no
                # checkpoint with a manifest and without them.
                going = self._directory / f"{step}.orbax-checkpoint-tmp-old"
                (self._directory / str(step)).rename(going)
                shutil.rmtree(going)


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Drop Orbax's pages of tracebacks: a save that fails is told in our one line."""
    return "orbax" not in record.pathname


def _not_saved(path: Path, error: Exception) -> CheckpointError:
    free = ""
    with contextlib.suppress(OSError):
        free = f", {shutil.disk_usage(path.parent).free / 1e6:.0f} MB free there"
    # Of a full disk Orbax says three lines of paths and offsets, and the reason at the end.
    faults = ("No space left", "File too large", "No such file", "Read-only file")
    known = [fault for fault in faults if fault in str(error)]
    reason = known[0] if known else " ".join(str(error).split())[:160]
    return CheckpointError(
        f"saving checkpoint {path} failed{free}: {reason}; see to the disk, and the same command "
        "goes on from the checkpoint before"
    )


def _make_room(path: Path) -> bool:
    """Tell whether a step is to be saved there; remove what a kill left without a manifest."""
    if (path / MANIFEST).exists():
        return False
    if path.exists():
        shutil.rmtree(path)
    return True


def write_manifest(path: Path, facts: dict[str, Any]) -> None:
    """Write `MANIFEST.json` with every file's size and sha256, so that it appears whole."""
    files = {
        str(file.relative_to(path)): _digest(file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and MANIFEST not in file.name
    }
    write_record(path / MANIFEST, {"facts": facts, "files": files})
    for folder in (path, path.parent):  # the rename itself must survive a power loss
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def damage(path: Path) -> str | None:
    """Say what is wrong with a checkpoint folder; None where it matches its manifest."""
    if not os.path.lexists(path / MANIFEST):
        return "its save was not finished" if path.exists() else "there is no such folder"
    try:
        expected = read_manifest(path)["files"]
    except InputError:
        return f"{MANIFEST} cannot be read, or was changed after it was written"
    for name, written in expected.items():
        file, name = path / name, name[-80:]
        try:
            if not file.is_file():
                return f"{name} is missing"
            if _digest(file) != written:
                return f"{name} was changed after it was written"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of a checkpoint folder: its facts, and its files with size and sha256.

    Raises:
      InputError: It is missing or damaged, or was changed: one without its own sha256 is none.
    """
    found = read_json(path / MANIFEST, sealed=True)
    facts, files = found.get("facts"), found.get("files")
    if not isinstance(facts, dict) or not isinstance(files, dict):
        raise InputError(f"{path / MANIFEST}: facts or files are no objects; remove the checkpoint")
    score = facts.get("score")
    if score is not None and not isinstance(score, int | float):
        raise InputError(f"{path / MANIFEST}: the score is no number; remove the checkpoint")
    return found


def _digest(file: Path) -> list[int | str]:
    with open(file, "rb") as opened:
        return [file.stat().st_size, hashlib.file_digest(opened, "sha256").hexdigest()]


def _named(state: TrainState) -> dict[str, Any]:
    """Name the state's arrays, such as "params.encoder.blocks.0.kernel"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _check_same_model(path: Path, like: TrainState) -> None:
    """Name what differs, which Orbax's own errors do not."""
    stored = ocp.metadata(path).metadata
    expected = _named(like)
    lines = [f"{name} is not in the checkpoint" for name in expected.keys() - stored.keys()]
    lines += [f"{name} is not in the model" for name in stored.keys() - expected.keys()]
    for name in expected.keys() & stored.keys():
        leaf = expected[name]
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        if not is_key and tuple(stored[name].shape) != leaf.shape:
            lines.append(f"{name}: checkpoint {stored[name].shape}, model {leaf.shape}")
    if lines:
        shown = "; ".join(sorted(lines)[:8])
        more = f"; and {len(lines) - 8} more" if len(lines) > 8 else ""
        raise InputError(f"checkpoint {path} is of another model: {shown}{more}")
