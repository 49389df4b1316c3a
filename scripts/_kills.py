"""SIGKILL at chosen moments to a run of one process, or to one or both of two.

A session starts the run where the last one left it and kills it: while it starts, between saves,
in a save, in judging, while one of its files is written. After each, nothing that was whole may be
gone; in the end the run must be, to the last bit, one that nobody touched.
"""

from __future__ import annotations

import random
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from _forked import Forked

TRACE = "Traceback (most recent call last)"
OLD = ".orbax-checkpoint-tmp-old"  # of a checkpoint that is being removed
HEARD = 60.0  # seconds within which the other process must have named the dead one
JUDGED = " images ..."  # of the line that follows the training
STAGES = (JUDGED, "analysis ...", "exemplars", "suspects", "label efficiency", "UMAP")
# What a run is put through, in this order, until its end is compared.
ONE = ("start", "a save", "training", "a save", "a write", "a save", "a save", "training", "a save")
ONE += ("judging", "judging", "a write in judging")
TWO = ("start", "a save", "training", "a save", "a save", "judging")


class Session:
    """The processes of a run from a start to a kill.

    Args:
      run: Its folder.
      flags: Of the program.
      processes: How many.
      devices: Of each.
      limits: Process -> bytes of the largest file that it can write: a disk full for it alone.
      said: Where its outputs are kept, with endings; beside the folder where it is None.
    """

    def __init__(
        self,
        run: Path,
        flags: list[str],
        *,
        processes: int = 1,
        devices: int = 1,
        limits: Mapping[int, int] | None = None,
        said: Path | None = None,
    ):
        flags = [*flags, "--run-dir", str(run)]
        if processes > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            flags += ["--coordinator", f"127.0.0.1:{port}", "--processes", str(processes)]
            flags += ["--join-seconds", "30"]  # one that was killed before never comes
        self.run = run
        self.all = [
            Forked(
                flags + (["--process", str(i)] if processes > 1 else []),
                (said or run).with_name(f"{(said or run).name}-{i}"),
                devices=devices,
                limit=(limits or {}).get(i),
            )
            for i in range(processes)
        ]

    def over(self) -> bool:
        """Tell whether one of them has ended."""
        return any(process.poll() is not None for process in self.all)

    def wait(self, seconds: float = 900) -> list[int | None]:
        """Wait until all have ended; those that have not are killed, and have no code."""
        end = time.monotonic() + seconds
        codes = [process.wait(end - time.monotonic()) for process in self.all]
        for process in self.all:
            process.kill()
        return codes

    def fault(self) -> str:
        """Wait for a good end, and say what was wrong with it."""
        codes, said = self.wait(), [process.err for process in self.all]
        wrong = any(codes) or None in codes or any(TRACE in text for text in said)
        return f"exit {codes}: {[text[-400:] for text in said]}" if wrong else ""


def saving(run: Path, before: set[Path]) -> bool:
    """Tell whether a checkpoint is being written: begun in this session, and without manifest."""
    begun = [step for step in _steps(run) if step not in before]
    return any(not (step / "MANIFEST.json").exists() for step in begun)


def _steps(run: Path) -> list[Path]:
    """List the folders of checkpoints that are, or are being written."""
    return [step for step in (run / "checkpoints").glob("[0-9]*") if step.suffix != OLD]


def whole_steps(run: Path) -> list[int]:
    """List the checkpoints that match their manifests; a damaged one raises."""
    from jaxssl.training.checkpoint import damage

    found = []
    for step in _steps(run):
        if step.name.isdecimal() and (step / "MANIFEST.json").exists():
            if fault := damage(step):
                raise AssertionError(f"checkpoint {step.name}: {fault}")
            found.append(int(step.name))
    return sorted(found)


def strike(session: Session, aim: str, chance: random.Random) -> str:
    """Wait for a moment and kill; return what was under way in truth."""
    first, run = session.all[0], session.run
    begin, patience = time.monotonic(), chance.uniform(0, 6)
    steps, skip = chance.randrange(1, 8), chance.random() < 0.5
    stage, late = chance.choice(STAGES), chance.choice([0, 0.005, 0.02, 0.05, 0.1])
    saves: set[str] = set()
    left = set(_steps(run))  # by earlier kills, until the session sweeps it

    def there() -> bool:
        judged = JUDGED in first.out
        if aim == "start":
            return time.monotonic() - begin > patience
        if aim == "training":
            return judged or first.out.count("\nstep ") + len(saves) > steps
        if aim == "a save":
            begun = {path for path in _steps(run) if "tmp" in path.name} - left
            new = {path.name.split(".")[0] for path in begun}
            saves.update(new)
            return judged or (bool(new) and len(saves) > skip)
        if aim == "judging":
            return stage in first.out
        if aim == "a write in judging" and not judged:
            return False
        return any(run.glob("**/.*.tmp"))

    while not session.over() and not there() and time.monotonic() - begin < 600:
        if aim == "training":
            saves.update(path.name for path in (run / "checkpoints").glob("[0-9]*"))
        time.sleep(0.003 if aim in ("a save", "a write in judging") else 0.02)
    if aim in ("a save", "judging"):
        time.sleep(late)
    if session.over():
        return "already ended"
    victims = session.all
    if len(victims) > 1 and chance.random() < 0.75:
        victims = [chance.choice(victims)]
    for victim in victims:
        victim.kill()
    judged, said = JUDGED in first.out, first.out
    if saving(run, left):
        return "a save"
    if any(run.glob("**/.*.tmp")):
        return "judging, a file" if judged else "training, a file"
    return "judging" if judged else "training" if "\nstep " in said or saves else "the start"


def heard(session: Session) -> tuple[str, float]:
    """Wait for the process that was left over; return what is wrong with its end, and seconds."""
    begin = time.monotonic()
    left = [process for process in session.all if process.poll() is None]
    codes = [process.wait(HEARD) for process in left]
    seconds = time.monotonic() - begin
    for process, code in zip(left, codes, strict=True):
        number = session.all.index(process)
        process.kill()
        lines = process.err.strip().splitlines()
        if code != 75 or len(lines) != 1 or TRACE in process.err:
            return f"process {number} ended with {code}: {process.err[-1500:]}", seconds
    return "", seconds if left else 0.0


def torture(
    folder: Path,
    flags: list[str],
    end_of: Callable[[Path], str],
    expected: str,
    *,
    kills: int,
    seconds: float,
    seed: int,
    processes: int,
) -> dict[str, Any]:
    """Kill runs until there were so many kills or seconds.

    Args:
      folder: Where the runs are made.
      flags: Of the program.
      end_of: What a run ended with.
      expected: What it must end with.
      kills: How many.
      seconds: After so long no other session is begun, but for the ends.
      seed: Of the moments.
      processes: Of each session.

    Returns:
      `kills` by what they hit, `ends`, `bit-identical ends`, `heard within s` with two processes,
      and `faults`: a line each.
    """
    chance, where, faults = random.Random(seed), Counter[str](), []
    ends = same = 0
    longest, begin = 0.0, time.monotonic()
    while sum(where.values()) < kills and time.monotonic() - begin < seconds:
        run = folder / f"run-{processes}-{ends}"
        for aim in ONE if processes == 1 else TWO:
            if sum(where.values()) >= kills or time.monotonic() - begin > seconds:
                break
            before = whole_steps(run)
            session = Session(run, flags, processes=processes)
            hit = strike(session, aim, chance)
            if hit == "already ended":  # nobody was killed
                codes = session.wait()
                faults += [f"ended by itself: {codes}"] if any(codes) else []
                continue
            wrong, took = heard(session)
            longest = max(longest, took)
            where[hit] += 1
            print(f"{sum(where.values())} {aim}: {hit} {took:.1f} s {wrong}", flush=True)
            said = [process.err[-400:] for process in session.all if TRACE in process.err]
            faults += [f"killed in {hit}: {text}" for text in [wrong, *said] if text]
            try:
                after = whole_steps(run)
            except AssertionError as damaged:
                faults.append(f"killed in {hit}: {damaged}")
                after = before
            if before and (not after or after[-1] < before[-1]):
                faults.append(f"killed in {hit}: checkpoint {before[-1]} is lost, {after} are left")
        wrong = Session(run, flags, processes=processes).fault()
        ends += 1
        if wrong:
            faults.append(f"run {ends} did not go on to its end: {wrong}")
        elif end_of(run) != expected:
            faults.append(f"run {ends} ended otherwise")
        else:
            same += 1
        faults += [f"left over: {path.name}" for path in run.rglob("*tmp*")]
        print(f"end {ends}: {same} the same; {len(faults)} faults", flush=True)
        shutil.rmtree(run)
    found: dict[str, Any] = {"kills": dict(where), "ends": ends, "bit-identical ends": same}
    if processes > 1:
        found["heard after s at most"] = round(longest, 1)
    return found | {"faults": faults}
