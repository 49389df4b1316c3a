"""Damages to the files of a run folder, and what its readers make of each.

A reader is a function of the folder that returns something comparable. For every damage it must
return what it returned before, or end in one line (`jaxssl.errors.RunEnd`), or say a line on the
way; anything else is a fault: a traceback, a hang, another result without a word.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.errors import RunEnd, visible

Reader = Callable[[Path], Any]
LONGEST = 300  # characters of a line, without the paths in it
SECONDS = 120  # of a reader; the machine may be busy


def _text(new: str) -> Callable[[Path, np.random.Generator], None]:
    return lambda path, rng: path.write_text(new)


def _flipped(path: Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def _scrambled(path: Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    at = int(rng.integers(max(1, len(content))))
    content[at : at + 16] = rng.bytes(16)
    path.write_bytes(content)


def _truncated(path: Path, rng: np.random.Generator) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(rng.integers(max(1, len(content))))])


def _large(path: Path, rng: np.random.Generator) -> None:
    with open(path, "r+b") as file:
        file.truncate(100 * 2**20)


def _folder(path: Path, rng: np.random.Generator) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path, rng: np.random.Generator) -> None:
    path.unlink()
    os.mkfifo(path)


def _dangling(path: Path, rng: np.random.Generator) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _unreadable(path: Path, rng: np.random.Generator) -> None:
    path.chmod(0)


def _not_a_number(path: Path, rng: np.random.Generator) -> None:
    text = path.read_text(errors="replace")
    digits = [i for i, c in enumerate(text) if c.isdigit() and text[i - 1] in " ["]
    if digits:
        at = digits[int(rng.integers(len(digits)))]
        end = at
        while end < len(text) and text[end] in "0123456789.e-+":
            end += 1
        text = text[:at] + str(rng.choice(["NaN", "Infinity", "1e999"])) + text[end:]
    path.write_text(text)


def _twice(path: Path, rng: np.random.Generator) -> None:
    text = path.read_text(errors="replace")
    path.write_text(text.replace("{", '{"twice": 1, "twice": 2, ', 1))


def _retyped(path: Path, rng: np.random.Generator) -> None:
    """Give one value another type, as a foreign program might: without our checksum."""
    try:
        value = json.loads(path.read_text().splitlines()[0] if _lines(path) else path.read_text())
    except (ValueError, IndexError):
        path.write_text("[]")
        return
    if isinstance(value, dict):
        value.pop("sha256", None)
        value.pop("crc", None)
    holders = list(_holders(value))
    if holders:
        holder, key = holders[int(rng.integers(len(holders)))]
        others = [None, 3, -1, 1e300, "text", "", [], [[]], {}, {"a": 1}, True, ["x", 1]]
        holder[key] = others[int(rng.integers(len(others)))]
    path.write_text(json.dumps(value) + "\n")


def _holders(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield value, key
        if isinstance(inner, dict | list) and len(inner) < 100:
            yield from _holders(inner)


def _lines(path: Path) -> bool:
    return path.suffix == ".jsonl"


DAMAGES: dict[str, Callable[[Path, np.random.Generator], None]] = {
    "emptied": _text(""),
    "truncated": _truncated,
    "one bit flipped": _flipped,
    "16 bytes scrambled": _scrambled,
    "binary": lambda path, rng: path.write_bytes(rng.bytes(500)) and None,
    "100 MB": _large,
    "a folder in its place": _folder,
    "a pipe in its place": _pipe,
    "a link to nothing": _dangling,
    "removed": lambda path, rng: path.unlink(),
    "no permission": _unreadable,
    "nested 10,000 deep": _text('{"a":' * 10_000 + "1" + "}" * 10_000),
    "a list": _text("[1, 2]"),
    "NaN": _not_a_number,
    "a key twice": _twice,
    "a value of another type": _retyped,
}
# Of a file without our checksum nobody knows what was meant: any result is right but a traceback.
FOREIGN = {"a value of another type"}


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the main thread after so many seconds."""

    def ring(number: int, frame: Any) -> None:
        raise TimeoutError(f"over {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(reader: Reader, folder: Path, expected: Any, *, foreign: bool) -> tuple[str, str]:
    """Read a damaged folder; return one of OUTCOMES, and the line or the fault."""
    said = io.StringIO()
    try:
        with limited(SECONDS), contextlib.redirect_stdout(said):
            found = reader(folder)
    except RunEnd as error:
        line = str(error)
        parts = line.replace(str(folder), "")
        if len(parts) > LONGEST or visible(line) != line:
            return "FAULT: no single short line", line[:400]
        return "refused in a line", line
    except TimeoutError as error:
        return "FAULT: hangs", str(error)
    except BaseException as error:
        return "FAULT: traceback", "".join(traceback.format_exception(error)[-4:])
    if found == expected:
        return "identical", ""
    if said.getvalue().strip():
        return "said in a line", said.getvalue().strip()
    return ("another, of foreign content", "") if foreign else ("FAULT: silently another", "")


def torture(
    run: Path,
    readers: Mapping[str, Reader],
    *,
    count: int,
    seconds: float = 1e9,
    seed: int = 0,
    files: Callable[[Path], bool] = lambda path: True,
) -> dict[str, Any]:
    """Damage one file of a copy of a run at a time, and read it by every reader.

    Args:
      run: A run folder; it is not touched.
      readers: By name.
      count: Damages; every kind of damage meets every kind of file in turn.
      seconds: After so long no other damage is begun.
      seed: Of files and damages.
      files: Which paths, relative to the run, are damaged.

    Returns:
      `damages`, `readings`, `outcomes` (counts), `by_file`, and `faults`: a line each.
    """
    rng = np.random.default_rng(seed)
    names = sorted(p.relative_to(run) for p in run.rglob("*") if p.is_file())
    groups: dict[str, list[Path]] = {}
    for name in filter(files, names):
        kind = name.name if len(name.parts) == 1 else f"{name.parts[0]}/*{name.suffix}"
        groups.setdefault(kind, []).append(name)
    # A stride without a common divisor: after so many, every pair has been met.
    pairs = [(kind, damage) for kind in groups for damage in DAMAGES]
    order = rng.permutation(len(pairs))
    copy = run.parent / f"{run.name}-damaged"
    expected = {}
    for name, reader in readers.items():
        shutil.copytree(run, copy, symlinks=True)
        with contextlib.redirect_stdout(io.StringIO()):
            expected[name] = reader(copy)
        shutil.rmtree(copy)
    outcomes: Counter[str] = Counter()
    by_file: dict[str, Counter[str]] = {kind: Counter() for kind in groups}
    faults = []
    begin, done = time.monotonic(), 0
    for i in range(count):
        if time.monotonic() - begin > seconds:
            break
        done += 1
        kind, damage = pairs[order[i % len(pairs)]]
        name = groups[kind][int(rng.integers(len(groups[kind])))]
        state = rng.bit_generator.state
        for title, reader in readers.items():
            shutil.copytree(run, copy, symlinks=True)
            rng.bit_generator.state = state  # the same damage for each
            DAMAGES[damage](copy / name, rng)
            with _as_nobody(copy) if damage == "no permission" else contextlib.nullcontext():
                found, why = outcome(reader, copy, expected[title], foreign=damage in FOREIGN)
            shutil.rmtree(copy)
            outcomes[found] += 1
            by_file[kind][found] += 1
            if found.startswith("FAULT"):
                faults.append(f"{title}, {name} {damage}: {found}: {why}")
                print(faults[-1], file=sys.stderr, flush=True)
    return {
        "damages": done,
        "readings": done * len(readers),
        "outcomes": dict(outcomes),
        "by_file": {kind: dict(found) for kind, found in by_file.items()},
        "faults": faults,
    }


@contextlib.contextmanager
def _as_nobody(folder: Path) -> Iterator[None]:
    """Root may read everything: be nobody for a while, whose the folder is."""
    if os.geteuid():
        yield
        return
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o777)
    above = [path for path in folder.parents if path.stat().st_mode & 0o011 != 0o011]
    modes = [path.stat().st_mode for path in above]
    for path in above:
        path.chmod(path.stat().st_mode | 0o011)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        for path, mode in zip(above, modes, strict=True):
            path.chmod(mode)
