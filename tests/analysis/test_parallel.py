"""Blocks on all cores: in order, few ahead, errors at once."""

import threading
import time

import pytest
from threadpoolctl import threadpool_info

from jaxssl.analysis import parallel
from jaxssl.analysis.parallel import in_order


@pytest.mark.parametrize("cores", [1, 3, 64])
def test_results_come_in_the_order_of_the_tasks_and_few_are_ahead(monkeypatch, cores):
    monkeypatch.setattr(parallel.os, "cpu_count", lambda: cores)
    begun: list[int] = []

    def work(i: int) -> int:
        begun.append(i)
        time.sleep(0.01 if i % 3 == 0 else 0)
        return i

    for position, found in enumerate(in_order(work, iter(range(40)))):
        assert found == position
        assert len(begun) <= position + 1 + 9  # 8 workers at most, and one that waits
    assert sorted(begun) == list(range(40))


def test_blas_has_one_thread_within_and_its_own_number_after():
    def threads(_: int) -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    before = threads(0)
    assert list(in_order(threads, range(3))) == [{1}] * 3
    assert threads(0) == before


def test_an_error_ends_it():
    begun = []

    def work(i: int) -> int:
        begun.append(i)
        if i == 2:
            raise ZeroDivisionError
        return i

    with pytest.raises(ZeroDivisionError):
        list(in_order(work, range(1000)))
    assert len(begun) < 100
    assert threading.active_count() < 100
