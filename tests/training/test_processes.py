"""How processes find one another, agree and fail; two real ones train in tests/experiments."""

from __future__ import annotations

import collections
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import types

import jax
import pytest

from jaxssl.errors import InputError, RunEnd
from jaxssl.training import lifelines, processes

SLURM = {
    "SLURM_JOB_ID": "70000",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}


@pytest.fixture
def started(monkeypatch):
    """What `jax.distributed.initialize` would be called with; nothing is."""
    calls = []
    monkeypatch.setattr(processes, "_initialize", lambda *call: calls.append(call))
    return calls


@pytest.mark.parametrize(
    ("given", "variables", "line"),
    [
        (("a:1", 2, 2), {}, "process is 2 of 2 processes: it must be 0 to 1"),
        (("a:1", 1, 3), {}, "process is 3 of 1 processes: it must be 0 to 0"),
        (
            ("a:1", 2, None),
            {},
            "need all three: the coordinator HOST:PORT, processes N and process",
        ),
        (("", 2, 0), {}, "need all three: the coordinator HOST:PORT"),
        (("here", 2, 0), {}, "the coordinator is 'here': it must be HOST:PORT"),
        (("a:0", 2, 0), {}, "the coordinator is 'a:0': it must be HOST:PORT, the port 1 to 65535"),
        (("a:65536", 2, 1), {}, "the port 1 to 65535"),
        (("a:1", None, 0), {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is 'two'"),
    ],
)
def test_bad_settings_are_one_line_before_anything_starts(
    given, variables, line, started, monkeypatch
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as error:
        processes.join(*given)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert not started


@pytest.mark.parametrize(
    ("variables", "given", "expected"),
    [
        ({}, ("", None, None), None),  # a laptop
        (SLURM | {"SLURM_STEP_NUM_TASKS": "4"}, ("", None, None), (None, 4, None)),
        # A shell in an allocation of four tasks, as `salloc -n 4` gives.
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, ("", None, None), None),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "4"}, ("", 1, None), None),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "0"},
            ("", None, None),
            ("a:1", 3, 0),
        ),
        ({"JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "0"}, ("b:2", 2, 0), ("b:2", 2, 0)),
    ],
)
def test_processes_are_found_where_they_are_meant(variables, given, expected, started, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    processes.join(*given)
    assert [call[:3] for call in started] == ([] if expected is None else [expected])


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_port_that_is_taken_is_refused_before_jax_starts(monkeypatch):
    started = []
    monkeypatch.setattr(processes, "_start", lambda *call: started.append(call))
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as another run's service
        other.bind(("127.0.0.1", 0))
        other.listen()
        where = f"127.0.0.1:{other.getsockname()[1]}"
        line = (
            rf"the coordinator .*:{where[10:]}: the port cannot be used \(Address already in use\)"
        )
        with pytest.raises(InputError, match=line):
            processes.join(where, 2, 0)
    assert not started


def test_who_is_missing_is_named_by_all(monkeypatch, capsys):
    monkeypatch.setattr(processes, "SAY_SECONDS", 0.1)
    where = f"127.0.0.1:{free_port()}"
    line = f"process 0 of 3 at {where} did not come within 0.2 s (Connection refused): start each"
    with pytest.raises(processes.NotTogether) as alone:
        processes.join(where, 3, 1, seconds=0.2)
    assert str(alone.value).startswith(line)
    assert alone.value.exit_code == 75
    told, heard = [], threading.Event()

    def ended(*end):
        told.append(end)
        heard.set()

    peer = lifelines.Lifelines(2, 3, ended)
    peer.connect("127.0.0.1", int(where[10:]))
    with pytest.raises(processes.NotTogether) as late:
        processes.join(where, 3, 0, seconds=0.6)
    line = f"process 1 of 3 at {where} did not come within 0.6 s: start each with its own number"
    assert str(late.value).startswith(line)
    # Process 2 may not have come yet where the machine is busy.
    waiting = rf"waiting for process 1( and 2)? of 3 at {re.escape(where)}, "
    assert re.search(waiting, capsys.readouterr().out)
    assert heard.wait(10)
    assert told == [(0, str(late.value), 75)]


@pytest.mark.parametrize(
    ("what", "ending", "codes"),
    [
        ("interrupt", KeyboardInterrupt, [130]),
        ("late", processes.NotTogether, [75]),
        ("fail", InputError, []),
    ],
)
def test_who_never_joined_leaves_nothing_for_jax_to_end(what, ending, codes, monkeypatch):
    """JAX's client, which is set before it connects, aborts the process when asked to end."""
    found, go_on, exits = processes._distributed(), threading.Event(), []
    monkeypatch.setattr(found, "client", None)
    monkeypatch.setattr(processes.atexit, "register", lambda *call: exits.append(call))
    monkeypatch.setenv(processes.NO_PROXY, "")

    def initialize(*_, **__):
        found.client = object()
        if what == "interrupt":
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        if what == "fail":
            raise RuntimeError("no such host\nand more")
        go_on.wait(20)

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    # A shell starts what runs behind it with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(ending) as error:
            processes._start("a:1", 2, 1, 0.05 if what == "late" else 20)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "\n" not in str(error.value)
    assert found.client is None
    assert exits == [(os._exit, code) for code in codes]
    assert os.environ[processes.NO_PROXY] == "a"
    go_on.set()


class Service:
    """JAX's coordination service as far as it is used: a dictionary on which one can wait."""

    def __init__(self):
        self.values, self.changed = {}, threading.Condition()

    def key_value_set(self, key, value, allow_overwrite=False):
        with self.changed:
            assert allow_overwrite or key not in self.values, key
            self.values[key] = value
            self.changed.notify_all()

    def blocking_key_value_get(self, key, milliseconds):
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.values, milliseconds / 5000):
                raise RuntimeError("DEADLINE_EXCEEDED")
            return self.values[key]

    def key_value_dir_get(self, prefix):
        with self.changed:
            return [(key, value) for key, value in self.values.items() if key.startswith(prefix)]


@pytest.fixture
def together(monkeypatch):
    """`together(program, n)` runs `program(i)` n times at once, threads standing in for processes.

    Gives what each returned, or the error that ended it.
    """
    here = threading.local()
    service = Service()
    turns = collections.defaultdict(itertools.count)
    monkeypatch.setattr(processes, "_client", lambda: service)
    monkeypatch.setattr(processes, "_index", lambda: here.index)

    class Turns:
        def __next__(self):
            return next(turns[here.index])

    monkeypatch.setattr(processes, "_turns", Turns())

    def run(program, n):
        monkeypatch.setattr(
            processes, "_distributed", lambda: types.SimpleNamespace(num_processes=n)
        )
        ends = [None] * n

        def process(i):
            here.index = i
            try:
                ends[i] = program(i)
            except RunEnd as error:
                ends[i] = error
                processes.leave(error, error.exit_code)

        threads = [threading.Thread(target=process, args=(i,), daemon=True) for i in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        return ends

    return run


def test_all_get_what_each_said_and_what_the_first_decided(together):
    def program(i):
        return processes.gather({"me": i}), processes.from_first(lambda: [i, None]), i

    everyone = [{"me": 0}, {"me": 1}, {"me": 2}]
    assert together(program, 3) == [(everyone, [0, None], i) for i in range(3)]


def test_processes_that_differ_end_with_the_same_line(together):
    def program(i):
        processes.check_same({"--seed": 3, "--width": [64, 32][i == 2]}, "use one")

    line = "--width is 32 in process 2 and 64 in process 0: use one"
    assert [str(end) for end in together(program, 3)] == [line] * 3


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("wait", [lambda: processes.gather(1), lambda: processes.leave()])
def test_who_waits_hears_that_another_failed(together, failing, wait):
    def program(i):
        if i == failing:
            raise InputError("no such folder")
        wait()

    ends = together(program, 2)
    assert str(ends[failing]) == "no such folder"
    assert isinstance(ends[1 - failing], processes.ElsewhereEnded)
    assert str(ends[1 - failing]) == f"process {failing} ended: no such folder"
    assert ends[1 - failing].exit_code == 2


DYING = """
import os, sys, time
from jaxssl.training import processes
where, process = sys.argv[1], int(sys.argv[2])
processes.join(where, 2, process)
if process == 0:
    os._exit(9)  # with the coordination service in it
time.sleep(60)
"""


def test_the_death_of_process_0_is_one_line():
    """JAX aborts at once with pages of C++, were its connection not one to this process itself."""
    where = f"127.0.0.1:{free_port()}"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", DYING, where, str(i)],
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in (0, 1)
    ]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [9, 75]
    line = "process 0 died: the same command in all processes goes on from the last checkpoint\n"
    assert said == [("", ""), ("", line)]
