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
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxssl.errors import InputError, RunEnd, setting
from jaxssl.training import lifelines

JOIN_SECONDS = 120.0  # a node's slow start, not a person's search for a wrong address
SAY_SECONDS = 5.0  # after which it is said who is missing
LEAVE_SECONDS = 30.0  # how long one that failed waits for the others to hear of it
NO_PROXY = "no_grpc_proxy"  # gRPC's own name, ahead of no_proxy
FOREVER = 7 * 86400.0
_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_lifelines: lifelines.Lifelines | None = None
_turns = itertools.count()  # all processes call `from_first` and `gather` in the same order


class ElsewhereEnded(RunEnd):
    """Another process ended; says which and why, with its exit code."""

    def __init__(self, process: int, message: str, exit_code: int):
        super().__init__(f"process {process} ended: {message}")
        self.exit_code = exit_code


class NotTogether(RunEnd):
    """Not all processes came; names those that are missing. The same command may find them."""

    exit_code = 75


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
      seconds: how long to wait for the others. Who is missing after 5 s is printed.

    From here on the death of a process ends all others within seconds, in a line and with exit code
    75. Two that were given the same number end too, the second in a line.

    Raises:
      InputError: only some of the three are given, they contradict one another, or process 0 cannot
        listen at the port.
      NotTogether: the others did not come in time.
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
            f"I (0 to N-1){_by()}: no TPU pod and no Slurm step was found to take them from"
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
      exit_code: with which the others end. Those that wait for this one on the device, and agree
        on nothing, end by themselves within `LEAVE_SECONDS`.

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
            _end_after(LEAVE_SECONDS + 5, exit_code)  # process 0 may be dead, and answer nothing
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
            _end_after(LEAVE_SECONDS - 5, exit_code)  # before JAX's end aborts, which waits for all
    except TimeoutError:
        # JAX's own end would wait for them and then abort this process with a stack trace.
        sys.stderr.flush()
        os._exit(exit_code)


def _end_after(seconds: float, exit_code: int) -> None:
    timer = threading.Timer(seconds, os._exit, [exit_code])
    timer.daemon = True
    timer.start()


def another_ended(seconds: float) -> bool:
    """Tell whether it is heard within so many seconds that another process died or failed.

    This process then ends by itself, with a line, while the caller waits.
    """
    return _lifelines is not None and _lifelines.heard.wait(seconds)


def _other_ended(process: int, what: str, exit_code: int) -> None:
    """End this process, in a thread: its main one may wait for the other on the device for ever."""
    if what.startswith("died"):
        text = f"process {process} {what}: the same command in all processes goes on from the last"
        text += " checkpoint"
    else:
        if _lifelines is not None:  # where it agrees on something it hears by itself, and leaves
            time.sleep(LEAVE_SECONDS)
        text = f"process {process} ended: {what}"
    print(text, file=sys.stderr, flush=True)
    os._exit(exit_code)


def _initialize(
    coordinator: str | None, processes: int, process: int | None, seconds: float
) -> None:
    """Come together with the other processes, then start JAX's own service for them."""
    global _lifelines
    where, number = _place(coordinator, processes, process, seconds)
    host, _, port = where.rpartition(":")
    tied = lifelines.Lifelines(number, processes, _other_ended)
    try:
        if number == 0:
            _listen(tied, os.environ.get("JAX_COORDINATOR_BIND_ADDRESS") or f":{port}")
        else:
            tied.connect(host.strip("[]"), int(port))
        _wait_for_all(tied, f"{processes} at {where}", seconds)
        if number:
            where = f"127.0.0.1:{lifelines.relay(host.strip('[]'), int(port))}"
        _start(where, processes, number, seconds)
    except BaseException as error:
        code = error.exit_code if isinstance(error, RunEnd) else 130
        tied.fail(str(error) or "it was interrupted", code)
        raise
    _lifelines = tied
    atexit.register(tied.leave)  # before JAX's own, which were registered earlier


def _place(
    coordinator: str | None, processes: int, process: int | None, seconds: float
) -> tuple[str, int]:
    """Return where process 0 listens and which one this is, from the cluster what is not given."""
    if coordinator is None or process is None:
        # Private, but it is what `jax.distributed.initialize()` does.
        from jax._src.clusters import ClusterEnv

        coordinator, _, process, _ = ClusterEnv.auto_detect_unset_distributed_params(
            coordinator, processes, process, None, None, round(seconds)
        )
    return str(coordinator), int(process or 0)


def _listen(tied: lifelines.Lifelines, where: str) -> None:
    """Listen as process 0: JAX would crash on a port that is taken, or share it with a run."""
    host, _, port = where.rpartition(":")
    try:
        tied.listen("" if host == "[::]" else host.strip("[]"), int(port))
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else error
        raise InputError(
            f"the coordinator {where}: the port cannot be used ({reason}): choose another"
        ) from None


def _wait_for_all(tied: lifelines.Lifelines, of: str, seconds: float) -> None:
    """Wait until all processes have come; say which is missing, after 5 s and in the end.

    Raises:
      NotTogether: One of them did not come.
    """
    begin, pause = time.monotonic(), min(SAY_SECONDS, seconds)
    while not tied.together.wait(pause):
        missing = tied.missing()
        who = f"process {' and '.join(map(str, missing))}" if missing else "the others"
        # Process 0 knows who is missing, and says so to those that it has heard of.
        left = begin + seconds + (0 if missing else SAY_SECONDS) - time.monotonic()
        if left <= 0:
            reason = f" ({tied.reason})" if tied.reason and missing else ""
            raise NotTogether(
                f"{who} of {of} did not come within {seconds:g} s{reason}: start each with its own "
                "number from 0, and see that this port can be reached"
            )
        if pause == SAY_SECONDS:
            print(f"waiting for {who} of {of}, {left:.0f} s at most", flush=True)
        pause = left


def _start(where: str, processes: int, process: int, seconds: float) -> None:
    """Start JAX's coordination service, or connect to it."""
    import jax

    # A proxy leads out of the network that the processes share; JAX only warns that it may hang.
    names = (NO_PROXY, "no_proxy", "NO_PROXY")
    direct = next((os.environ[name] for name in names if os.environ.get(name)), "")
    os.environ[NO_PROXY] = f"{direct},{where.rpartition(':')[0]}".strip(",")
    jax.config.update("jax_check_proxy_envs", False)
    failure: list[Exception] = []

    def start() -> None:
        try:
            jax.distributed.initialize(
                where,
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
        exit_code = NotTogether.exit_code
    finally:
        if not ended.is_set():
            # JAX would shut down what never started, and print pages about it.
            _distributed().client = None
            atexit.register(os._exit, exit_code)
    if not ended.is_set():
        raise NotTogether(f"JAX's coordination service did not answer within {seconds:g} s")
    if failure:
        _distributed().client = None  # JAX sets it before it connects: nobody is there to be told
        reason = str(failure[0]).partition("\n")[0]
        raise InputError(f"JAX's coordination service failed: {reason}") from failure[0]


def _by() -> str:
    spelled = filter(None, map(setting, ("coordinator", "processes", "process")))
    return f" ({', '.join(spelled)})"


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
