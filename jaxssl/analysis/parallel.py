"""Blocks of a large computation on all cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")

# Each worker holds a tile; beyond this memory is what they wait for.
_MOST = 8


def in_order(work: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
    """Yield `work(task)` of every task, in their order, several computed at a time.

    NumPy computes outside the interpreter's lock, so threads are enough. Each works with one BLAS
    thread: the sums of a product are then taken in one order whatever the number of cores, the
    passes between the products run on all cores too, and no thread spins while it waits for
    another under load. Results are made a few ahead of the one that is asked for.

    Example:
        >>> list(in_order(lambda x: x * x, range(4)))
        [0, 1, 4, 9]
    """
    workers = min(os.cpu_count() or 1, _MOST)
    waiting: deque[Future[R]] = deque()
    with threadpool_limits(1), ThreadPoolExecutor(workers) as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(work, task))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # after an error nothing more is begun
            for future in waiting:
                future.cancel()
