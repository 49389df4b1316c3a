"""How a run leaves: signals at every moment, a save that fails in one of two processes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _kills import HEARD, TRACE, Session, whole_steps

# 75: saved; 130 and -2: interrupted; 0: the signal came after the last line.
GOOD = {signal.SIGINT: (75, 130, -2, 0), signal.SIGTERM: (75, -15, 0)}


def interrupts(
    folder: Path,
    flags: list[str],
    end_of: Callable[[Path], str],
    expected: str,
    *,
    count: int,
    seconds: float,
    seed: int,
) -> dict[str, Any]:
    """Send a run a signal, and another while it leaves; it must be whole, and go on.

    Returns:
      `signals` by exit code, `ends`, `bit-identical ends`, and `faults`.
    """
    chance, codes, faults = random.Random(seed), Counter[str](), []
    ends = same = 0
    begin = time.monotonic()
    while sum(codes.values()) < count and time.monotonic() - begin < seconds:
        run = folder / f"run-{ends}"
        for _ in range(8):
            if sum(codes.values()) >= count:
                break
            session = Session(run, flags)
            process, number = session.all[0], chance.choice([signal.SIGINT, signal.SIGINT, *GOOD])
            steps, early = chance.randrange(1, 4), chance.random() < 0.2
            wait, begun = chance.uniform(0.3, 5), time.monotonic()
            while process.poll() is None and time.monotonic() - begun < 600:
                if early and time.monotonic() - begun > wait:
                    break
                if not early and process.out.count("\nstep ") >= steps:
                    break
                time.sleep(0.002)
            for _ in range(chance.choice([1, 2, 2, 2, 3])):
                if process.poll() is None:
                    os.kill(process.pid, number)
                time.sleep(chance.choice([0, 0.001, 0.01, 0.05, 0.2, 0.6]))
            code, said = process.wait(120), process.err.strip()
            process.kill()
            codes[f"{number.name}, exit {code}"] += 1
            lines = said.splitlines()
            if code not in GOOD[number] or TRACE in said or len(lines) > 1:
                faults.append(f"{number.name}: exit {code}: {said[-1200:]}")
            try:
                whole_steps(run)
            except AssertionError as damaged:
                faults.append(f"{number.name}: {damaged}")
        wrong = Session(run, flags).fault()
        ends += 1
        if wrong or end_of(run) != expected:
            faults.append(f"run {ends} ended otherwise: {wrong}")
        else:
            same += 1
        print(dict(codes), f"{same} of {ends} the same, {len(faults)} faults", flush=True)
        shutil.rmtree(run)
    return {"signals": dict(codes), "ends": ends, "bit-identical ends": same, "faults": faults}


def peers(
    folder: Path, flags: list[str], end_of: Callable[[Path], str], expected: str
) -> dict[str, Any]:
    """Let a save fail in one of two processes, and stop one before training; both must end.

    Returns:
      `cases`: what each ended with, after how many seconds; `faults`.
    """
    faults, cases = [], {}
    run = folder / "run"
    for name, number, limit, before in (
        ("process 1 cannot write files of 1 KB", 1, 1000, False),
        ("process 0 cannot write files of 100 KB", 0, 100_000, False),
        ("SIGTERM to process 1 before training", 1, None, True),
        ("SIGKILL of process 1 before training", 1, None, True),
    ):
        limits = {number: limit} if limit else {}
        session = Session(run, flags, processes=2, limits=limits)
        begin = time.monotonic()
        while before and not session.over() and "run folder:" not in session.all[0].out:
            time.sleep(0.01)
        if before:
            how = signal.SIGTERM if name.startswith("SIGTERM") else signal.SIGKILL
            os.kill(session.all[number].pid, how)
        while not session.over() and time.monotonic() - begin < 900:
            time.sleep(0.01)
        begin = time.monotonic()
        codes = session.wait(HEARD)
        said = [process.err.strip() for process in session.all]
        lines = [len(text.splitlines()) for text in said]
        seconds = round(time.monotonic() - begin, 1)
        cases[name] = f"exit {codes[0]} and {codes[1]} within {seconds} s"
        wanted = 2 if limit else 75
        if {*codes} - {wanted, -9 if "SIGKILL" in name else wanted} or max(lines) > 1:
            faults.append(f"{name}: {codes} after {seconds} s: {said}")
        print(name, codes, seconds, said, flush=True)
    wrong = Session(run, flags, processes=2).fault()
    if wrong or end_of(run) != expected:
        faults.append(f"ended otherwise: {wrong}")
    return {"cases": cases, "faults": faults}
