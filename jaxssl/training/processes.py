"""Several processes as one run: how they find one another, agree and end.

Every process runs the same program from its first line to its last. Process 0 does what only one
may do (print, lock, write a manifest), and tells the others what only one can know (a wall clock, a
folder's state) through JAX's coordination service. That needs no device: a process can wait there
for minutes, and learns while it waits when another one has failed. JAX is imported only where
processes join, so that `--help` stays quick.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxssl.errors import InputError, RunEnd
from jaxssl.training import lifelines

JOIN_SECONDS = 120.0  # a node's slow start, not a person's search for a wrong address
LEAVE_SECONDS = 30.0  # how long one that failed waits for the others to hear of it
FOREVER = 7 * 86400.0
_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_lifelines: lifelines.Lifelines | None = None
_turns = itertools.count()  # all processes call `from_first` and `gather` in the same order


class ElsewhereEnded(RunEnd):
    """Another process ended; says which and why, with its exit code."""

    def __init__(self, process: int, message: str, exit_code: int):
        super().__init__(f"process {process} ended: {message}")
        self.exit_code = exit_code


def join(
    coordinator: str = "",
    processes: int | None = None,
    process: int | None = None,
    *,
    seconds: float = JOIN_SECONDS,
) -> None:
    """Join the other processes of a run, before anything touches a device; or stay alone.

    What is not given is read from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    Without these too, `jax.distributed` is started where more than one process is meant to: on the
    hosts of a TPU pod and in the tasks of a Slurm step (`srun -n 4`, a process a GPU, as JAX
    assigns them), not in a shell inside an allocation. Joining twice is a no-op. All processes but
    the first are silent on standard output from here on.

    Args:
      coordinator: "host:port" of process 0, where it listens.
      processes: how many in all, at least 1; 1 stays alone wherever it is.
      process: which one this is, from 0.
      seconds: how long to wait for the others.

    Two processes that are given the same number cannot be noticed here: one of them joins, the
    other waits in vain or JAX aborts it with a C++ stack trace.

    Raises:
      InputError: only some of the three are given, they contradict one another, process 0 cannot
        listen at the port, or the others did not come in time.
    """
    if _client() is not None:
        return
    coordinator, processes, process = _from_environment(coordinator, processes, process)
    if processes == 1 and not process:
        return
    found = _cluster_processes()
    if processes is None and process is None and not coordinator and found < 2:
        return
    if found < 2 and not (coordinator and processes is not None and process is not None):
        raise InputError(
            "several processes need all three: the coordinator HOST:PORT, processes N and process "
            "I (0 to N-1): no TPU pod and no Slurm step was found to take them from"
        )
    if processes is not None and not 0 <= (process or 0) < processes:
        raise InputError(
            f"process is {process} of {processes} processes: it must be 0 to {processes - 1}"
        )
    host, _, port = coordinator.rpartition(":")
    if coordinator and not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise InputError(
            f"the coordinator is {coordinator!r}: it must be HOST:PORT, the port 1 to 65535"
        )
    _initialize(coordinator or None, processes or found, process, seconds)
    _tie()
    if not is_first():
        # The descriptor, not sys.stdout: C++ libraries print too.
        sys.stdout.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def is_first() -> bool:
    """Tell whether this process is the one that prints and writes; True where it is alone."""
    return _index() == 0


def count() -> int:
    """Count the processes; 1 before `join`."""
    return 1 if _client() is None else _distributed().num_processes


def from_first(make: Callable[[], Any]) -> Any:
    """Give every process what `make()` returns in process 0, the only one to call it: JSON-able.

    Example:
      >>> from_first(lambda: "alone, it is a call")
      'alone, it is a call'
    """
    client = _client()
    if client is None:
        return make()
    key = f"jaxssl/{next(_turns)}"
    if is_first():
        value = make()
        client.key_value_set(key, json.dumps(value))
        return value
    return json.loads(_wait(key))


def gather(value: Any) -> list[Any]:
    """Gather the values of all processes, in their order: JSON-able. Wait for the slowest.

    Example:
      >>> gather(3)
      [3]
    """
    client = _client()
    if client is None:
        return [value]
    turn = next(_turns)
    client.key_value_set(f"jaxssl/{turn}/{_index()}", json.dumps(value))
    return [json.loads(_wait(f"jaxssl/{turn}/{i}")) for i in range(count())]


def check_same(what: Mapping[str, Any], advice: str) -> None:
    """Refuse to start where the processes differ; all of them raise the same message.

    Args:
      what: names and JSON-able values that must be equal everywhere.
      advice: the way out.

    Raises:
      InputError: names the first process that differs from process 0, and in what.
    """
    first, *others = gather(json.loads(json.dumps(dict(what))))
    for i, other in enumerate(others, 1):
        differing = [
            f"{name} is {other.get(name)} in process {i} and {first.get(name)} in process 0"
            for name in sorted(first.keys() | other.keys())
            if first.get(name) != other.get(name)
        ]
        if differing:
            raise InputError(f"{'; '.join(differing)}: {advice}")


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], str]]:
    """Catch SIGTERM, SIGINT and SIGUSR1 while this context is open; a second Ctrl-C raises.

    Gives `stopped()`, to be called once a step by all processes: the name of the signal from the
    step on at which all are to stop, which is the same in every process; "" before.
    """
    received: list[str] = []
    steps = itertools.count()  # one by one: JAX agrees on a number and waits for just that one

    def handle(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signal.Signals(number).name)
        if together:
            os.kill(os.getpid(), signal.SIGTERM)  # which JAX hears, and tells the others

    def stopped() -> str:
        if not together:
            return received[0] if received else ""
        from jax.experimental import multihost_utils

        reached = multihost_utils.reached_preemption_sync_point(next(steps))
        return (received or ["a signal to one of the processes"])[0] if reached else ""

    together = _client() is not None
    signals = [signal.SIGINT, signal.SIGUSR1]
    if not together:
        signals.append(signal.SIGTERM)  # with several, JAX needs its own to stop them all
    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if together:  # nothing acts on JAX's handler any more
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def leave(message: object = None, exit_code: int = 0) -> None:
    """End together: process 0 may still write its report, and JAX ends them all when one goes.

    Args:
      message: why this process ends before its time; the others then end with the same words at
        the next thing they agree on.
      exit_code: with which the others end. Where they cannot be told, because they wait for this
        one on the device, this one ends with it, and JAX ends them within its heartbeat of 100 s.

    Raises:
      ElsewhereEnded: another one failed while this one waited.
    """
    client = _client()
    if client is None:
        return
    failure = None if message is None else [_index(), str(message), exit_code]
    if failure:
        if _lifelines is not None:
            _lifelines.fail(str(message), exit_code)
        client.key_value_set(f"jaxssl/failed/{_index()}", json.dumps(failure), allow_overwrite=True)
    client.key_value_set(f"jaxssl/left/{_index()}", json.dumps(failure), allow_overwrite=True)
    try:
        for i in range(count()):
            if failure:
                _wait(f"jaxssl/left/{i}", LEAVE_SECONDS, listen=False)
            elif end := json.loads(_wait(f"jaxssl/left/{i}")):
                raise ElsewhereEnded(*end)
        if _lifelines is not None:
            _lifelines.leave()
    except TimeoutError:
        # JAX's own end would wait for them and then abort this process with a stack trace.
        sys.stderr.flush()
        os._exit(exit_code)


def another_ended(seconds: float) -> bool:
    """Tell whether it is heard within so many seconds that another process died or failed.

    This process then ends by itself, with a line, while the caller waits.
    """
    return _lifelines is not None and _lifelines.heard.wait(seconds)


def _tie() -> None:
    """Hold a connection to process 0, over which the death of a process is heard at once."""
    global _lifelines
    tied = lifelines.Lifelines(_index(), _other_ended)

    def listen() -> list[Any]:
        with contextlib.suppress(OSError):
            return tied.listen()
        return [0, ""]

    port, password = from_first(listen)
    if not is_first():
        host = str(_distributed().coordinator_address).rpartition(":")[0].strip("[]")
        with contextlib.suppress(OSError):  # a firewall: then JAX notices, after 100 s
            tied.connect(host, port, password)
    _lifelines = tied
    _outlive_abort()
    atexit.register(tied.leave)  # before JAX's own, which were registered earlier


def _outlive_abort() -> None:
    """Give `_other_ended` seconds to tell who died before JAX's own notice ends this process.

    JAX aborts in a thread of C++ as soon as process 0 is gone, with pages of its own and exit code
    134, and the callback that it has for this ends in a `bad_cast`. The handler of that signal is
    the C library's `sleep`, called with the signal's number, 6; then the abort goes on.
    """
    library = ctypes.CDLL(None)
    library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    library.signal(int(signal.SIGABRT), ctypes.cast(library.sleep, ctypes.c_void_p))


def _other_ended(process: int, what: str, exit_code: int) -> None:
    """End this process, in a thread: its main one may wait for the other on the device for ever."""
    if what.startswith("died"):
        text = f"process {process} {what}: the same command in all processes goes on from the last"
        text += " checkpoint"
    else:
        time.sleep(LEAVE_SECONDS)  # where it agrees on something it hears by itself, and leaves
        text = f"process {process} ended: {what}"
    print(text, file=sys.stderr, flush=True)
    time.sleep(1.0 if is_first() else 0.0)  # JAX aborts the others when process 0 is gone
    os._exit(exit_code)


def _initialize(
    coordinator: str | None, processes: int, process: int | None, seconds: float
) -> None:
    import jax

    if process == 0 and coordinator and not os.environ.get("JAX_COORDINATOR_BIND_ADDRESS"):
        _check_port(coordinator)
    failure: list[Exception] = []

    def start() -> None:
        try:
            jax.distributed.initialize(
                coordinator,
                processes,
                process,
                # Its own limit aborts the process with a stack trace: never reached.
                initialization_timeout=round(seconds + 3600),
                shutdown_timeout_seconds=round(LEAVE_SECONDS),
            )
        except Exception as error:
            failure.append(error)
        ended.set()

    ended = threading.Event()  # not `Thread.join`: interrupted, it counts the thread as ended
    exit_code = 130  # of an interrupt: nothing else ends the wait early
    try:
        threading.Thread(target=start, daemon=True).start()
        ended.wait(seconds)
        exit_code = InputError.exit_code
    finally:
        if not ended.is_set():
            # JAX would shut down what never started, and print pages about it.
            _distributed().client = None
            atexit.register(os._exit, exit_code)
    where = f"the coordinator {coordinator}" if coordinator else "the coordinator of this cluster"
    if not ended.is_set():
        raise InputError(
            f"{where}: not all {processes} processes came together within {seconds:g} s. Start "
            "each with its own number from 0, and see that process 0's port can be reached"
        )
    if failure:
        _distributed().client = None  # JAX sets it before it connects: nobody is there to be told
        reason = str(failure[0]).partition("\n")[0]
        raise InputError(f"{where} cannot be used: {reason}") from failure[0]


def _check_port(coordinator: str) -> None:
    """Refuse a port on which another program listens: JAX would crash, or share it with a run."""
    both = socket.has_dualstack_ipv6()
    with socket.socket(socket.AF_INET6 if both else socket.AF_INET) as probe:
        # As JAX's service binds, but for SO_REUSEPORT, with which two runs take the same one.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if both:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            probe.bind(("", int(coordinator.rpartition(":")[2])))
        except OSError as error:
            raise InputError(
                f"the coordinator {coordinator}: the port cannot be used ({error.strerror}): "
                "choose another"
            ) from None


def _from_environment(
    coordinator: str, processes: int | None, process: int | None
) -> tuple[str, int | None, int | None]:
    """Take what is given, and the rest from JAX's environment variables."""
    numbers = [processes, process]
    for i, name in enumerate(_VARIABLES[1:]):
        text = os.environ.get(name, "")
        if numbers[i] is None and text:
            if not text.isdecimal():
                raise InputError(f"{name} is {text!r}: it must be a number")
            numbers[i] = int(text)
    return coordinator or os.environ.get(_VARIABLES[0], ""), numbers[0], numbers[1]


def _cluster_processes() -> int:
    """Count the processes of the TPU pod or the Slurm step around this one; 0 without either."""
    # Private, but it is what `jax.distributed.initialize()` asks, which fails where it finds none.
    from jax._src.clusters import ClusterEnv

    for cluster in ClusterEnv._cluster_types:
        if cluster.name in ("slurm", "gcetpu", "gketpu") and cluster.is_env_present():
            if cluster.name == "slurm":
                # Of this step: a shell in an allocation of 4 tasks is one process, not four.
                return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
            return cluster.get_process_count()
    return 0


def _wait(key: str, seconds: float = FOREVER, *, listen: bool = True) -> str:
    """Wait for the value of a key; meanwhile notice whether a process failed."""
    client, end = _client(), time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            return client.blocking_key_value_get(key, 1000)
        except Exception as error:  # jaxlib's has no class of its own for a timeout
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        if listen and (failures := client.key_value_dir_get("jaxssl/failed/")):
            raise ElsewhereEnded(*json.loads(failures[0][1]))
    raise TimeoutError(key)


def _index() -> int:
    return 0 if _client() is None else _distributed().process_id


def _client() -> Any:
    """Return the coordination service's client, or None: not public in JAX, Orbax uses it too."""
    return _distributed().client if "jax" in sys.modules else None


def _distributed() -> Any:
    from jax._src import distributed

    return distributed.global_state
