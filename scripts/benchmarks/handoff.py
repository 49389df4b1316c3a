"""How long a byte takes from one core to another: do this machine's cores share a cache?

  `python scripts/benchmarks/handoff.py`

Two processes, each on a core of its own, take turns at writing one byte. About 90 to 110 ns, of
which Python needs half, is of cores under one cache; 180 and more, on some processors 400, of cores
under two, or in two sockets. A virtual machine's cores may be moved from one to the other while it
runs. Where they share none, one device for all of them makes steps slower (BENCHMARKS.md).
"""

from __future__ import annotations

import mmap
import os
import time

TURNS = 20_000


def handoff() -> float | None:
    """Measure it, in ns: the least of five, since others run too. None with a single core."""
    cores = sorted(os.sched_getaffinity(0))
    return min(_turns(cores[0], cores[-1]) for _ in range(5)) if cores[1:] else None


def _turns(*cores: int) -> float:
    shared = mmap.mmap(-1, 1)
    child = os.fork()
    os.sched_setaffinity(0, {cores[not child]})
    begin = time.perf_counter()
    for turn in range(not child, TURNS, 2):
        while shared[0] != turn & 255:
            pass
        shared[0] = turn + 1 & 255
    if not child:
        os._exit(0)
    took = time.perf_counter() - begin
    os.waitpid(child, 0)
    os.sched_setaffinity(0, cores)
    return 1e9 * took / TURNS


if __name__ == "__main__":
    if not hasattr(os, "sched_setaffinity"):
        raise SystemExit("it needs Linux, which lets a process choose its core")
    found = handoff()
    print("one core" if found is None else f"{found:.0f} ns")
