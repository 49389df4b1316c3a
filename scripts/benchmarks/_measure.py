"""What the benchmark programs share: time in turns, memory in a process of its own, table, JSON.

A program of `scripts/benchmarks` names its contenders, functions that get a case ready:

    def tiled(rows: int, d: int) -> Run:           # called in a process of its own
        z = ...
        return value_and_grad(nt_xent, z[0], z[1])  # or any function of nothing that makes one run,
                                                    # waits for it, and returns its value or None
    CONTENDERS = {"here, tiled": tiled, ...}        # in this order in the table

and measures one case after the other:

    results = []
    for rows in (1024, 4096):
        results += measure(__file__, CONTENDERS, {"rows": rows, "d": 128}, options)
    print_table(results, reference="here, tiled")
    write_json(options.json, options, results, reference="here, tiled")

where `options` come from a parser that went through `add_flags(parser)`: --rounds, --seconds,
--memory-gb, --limit-s, --quick, --json.

A contender that needs more than the program imports at its top names it, so that importing it is no
part of the memory measured, and where it is missing the contender is absent:

    LIBRARIES = {"PyTorch": ["torch"]}

How it is measured: every contender of a case lives in a process of its own, so that one that runs
out of memory, or takes too long, takes nothing else with it. The process imports the program and
the contender's libraries, notes its memory, gets ready and runs once: **memory** is the highest
resident set up to there above the one noted (VmHWM, which unlike `ru_maxrss` knows nothing of the
parent): the inputs, compiling and a run; on a GPU also the highest of JAX or PyTorch on the device.
A second run says how many make a burst of `--seconds`. Then all contenders take turns, one burst a
round while the others wait, so that a machine that slows down slows all; a **ratio** is taken
inside a round. A burst follows a run that is not timed, where that takes less than ten seconds:
memory that lay idle while others ran may have gone back to the machine's owner. Medians and ranges
over the rounds are printed; with `--rounds 0`, for what takes minutes, the time of the first run,
compiling within. A contender past `--memory-gb` or `--limit-s` a run is stopped and says so; that
is no error. Before each round it is measured how long a byte takes from core to core
(`handoff.py`): a virtual machine's cores may lie under one cache now and under two in a minute,
where programs that hand much from core to core take half as long again.

Linux only, and with malloc as the programs set it (`experiments/malloc.py`), for
every library; `NAME, as it starts` is the contender NAME without, as PyTorch runs where nobody
asked for that; `GLIBC_TUNABLES= python ...` measures all without.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import importlib.util
import inspect
import json
import math
import os
import re
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, SupportsFloat

# Its number is asked for once, of the first run.
Run = Callable[[], SupportsFloat | None]
# Contenders that are this project as it is, and the same of another commit (`--before`).
OWN, BEFORE = ("here", "no views"), ", before"
# Of a contender that runs without the programs' setting of malloc.
AS_IT_STARTS = ", as it starts"


@dataclass
class Result:
    """One contender in one case.

    Attributes:
      contender: its name.
      case: what it was called with.
      seconds: of one run, one number a round; empty if it did not get that far.
      memory_bytes: highest resident set, above the interpreter with its libraries.
      device_bytes: the same on the accelerator, None without one.
      value: what the first run returned: contenders of one question should agree.
      note: why there are no seconds.
      handoff_ns: before each round, of a byte from core to core; empty with one core.
    """

    contender: str
    case: dict[str, Any]
    seconds: list[float] = field(default_factory=list)
    memory_bytes: int | None = None
    device_bytes: int | None = None
    value: float | None = None
    note: str = ""
    handoff_ns: list[float] = field(default_factory=list)

    def ratios(self, reference: Result | None) -> list[float]:
        """Divide by the reference's times, round by round; empty where either has none."""
        theirs = reference.seconds if reference else []
        return [a / b for a, b in zip(self.seconds, theirs, strict=False)]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that all programs have."""
    parser.add_argument("--rounds", type=int, default=5, help="bursts of each; 0: the first run")
    parser.add_argument("--seconds", type=float, default=0.5, help="least length of a burst")
    parser.add_argument("--memory-gb", type=float, default=16.0, help="stop a contender above it")
    parser.add_argument("--limit-s", type=float, default=120.0, help="stop a longer first run")
    parser.add_argument("--quick", action="store_true", help="the smallest case, one short round")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    told = "folder of another commit of this project, which takes turns with this one"
    parser.add_argument("--before", type=Path, help=told)


def measure(
    program: str, contenders: Iterable[str], case: Mapping[str, Any], options: argparse.Namespace
) -> list[Result]:
    """Measure every contender (a key of CONTENDERS in the file `program`) in one JSON-able case."""
    rounds, seconds = (1, 0.0) if options.quick else (options.rounds, options.seconds)
    with contextlib.ExitStack() as stack:
        workers = []
        names = [*contenders]
        again = [name + BEFORE for name in names if options.before and name in OWN]
        for name in [*again, *names]:
            print(f"{name}: {dict(case)}", file=sys.stderr, flush=True)
            worker = stack.enter_context(_Worker(program, name, case, options))
            if worker.start():
                if rounds:
                    worker.burst_of(seconds)
                else:
                    worker.result.seconds = [worker.first]
            workers.append(worker)
        for _ in range(rounds):
            between = handoff()
            for worker in workers:
                worker.result.handoff_ns += between
                if not worker.result.note:
                    worker.round()
        return [worker.result for worker in workers]


def handoff() -> list[float]:
    """Ask `handoff.py`, in a process of its own, which forks; empty with one core."""
    said = subprocess.run(
        [sys.executable, Path(__file__).with_name("handoff.py")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [float(ns) for ns in re.findall(r"(\d+) ns", said)]


def value_and_grad(
    loss: Callable[..., Any], *arguments: Any, argnums: int | tuple[int, ...] = 0, **options: Any
) -> Run:
    """Make a run of the jitted value and gradient of `loss(*arguments, **options)`, JAX."""
    import jax

    compiled = jax.jit(jax.value_and_grad(lambda *a: loss(*a, **options), argnums=argnums))

    def run() -> float:
        return float(jax.block_until_ready(compiled(*arguments))[0])

    return run


def print_table(results: list[Result], reference: str) -> None:
    """Print where the numbers come from, and the table in Markdown."""
    from jaxssl.training.runs import provenance  # not in a contender's process

    about = provenance()
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    print(f"{about['machine']}; {versions}; commit {about['commit']}\n`{about['command']}`\n")
    print(from_core_to_core(results))
    cases = list(results[0].case)
    heads = [*cases, "contender", "ms", "memory, MB", f"times {reference}", "value"]
    if any(r.device_bytes is not None for r in results):
        heads.insert(-2, "device, MB")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for r in results:
        memory = [r.memory_bytes] + [r.device_bytes] * ("device, MB" in heads)
        cells = [
            *(v if isinstance(v, str) else f"{v:,}" for v in r.case.values()),
            r.contender,
            r.note or _median_and_range([1e3 * s for s in r.seconds]),
            *("-" if size is None else f"{size / 1e6:,.0f}" for size in memory),
            _median_and_range(r.ratios(_reference(r, results, reference))),
            "-" if r.value is None else f"{r.value:.6g}",
        ]
        print("| " + " | ".join(cells) + " |")


def from_core_to_core(results: list[Result]) -> str:
    """Return a line of how long a byte took, or an empty one."""
    between = [ns for r in results for ns in r.handoff_ns]
    return f"a byte from core to core: {_median_and_range(between)} ns\n" if between else ""


def write_json(
    path: Path | None, options: argparse.Namespace, results: list[Result], reference: str
) -> None:
    """Write the table and every round for a program to read; nothing without a path."""
    if path is None:
        return
    rows = []
    for r in results:
        ratios = r.ratios(_reference(r, results, reference))
        rows.append(
            {
                **asdict(r),
                "median_s": statistics.median(r.seconds) if r.seconds else None,
                "ratio": statistics.median(ratios) if ratios else None,
                "ratio_lowest": min(ratios, default=None),
                "ratio_highest": max(ratios, default=None),
            }
        )
    record = {**where_from(options), "reference": reference, "rows": rows}
    path.write_text(json.dumps(record, indent=1) + "\n")


def where_from(options: argparse.Namespace) -> dict[str, Any]:
    """Return what numbers need beside them, with flags, and of paths their last part."""
    from jaxssl.training.runs import provenance  # as in print_table

    about = provenance()
    flags = vars(options) | {"json": None}
    if options.before:
        flags["before"] = options.before.name
    for path in (options.before, options.json):
        if path:
            about["command"] = about["command"].replace(str(path), path.name)
    return {**about, "options": flags}


def _reference(result: Result, results: list[Result], name: str) -> Result | None:
    found = (r for r in results if r.contender == name and r.case == result.case)
    return next(found, None)


def _median_and_range(values: list[float]) -> str:
    if not values:
        return "-"
    low, middle, high = (f"{v:,.3g}" if v < 1e3 else f"{v:,.0f}" for v in _three(values))
    return middle if low == high else f"{middle} ({low}-{high})"


def _three(values: list[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)


class _Worker:
    """A contender in its process, as seen from the program."""

    def __init__(
        self, program: str, name: str, case: Mapping[str, Any], options: argparse.Namespace
    ):
        self.result = Result(name, dict(case))
        self._options = options
        self._program = program
        self._runs, self._warm_up = 1, False

    def __enter__(self) -> _Worker:
        from experiments import malloc  # not in the worker's process: another commit may have none

        folder = str(Path(__file__).parent)
        code = f"import sys; sys.path.insert(0, {folder!r}); import _measure; _measure._serve()"
        whole = self.result.contender
        name = whole.removesuffix(BEFORE).removesuffix(AS_IT_STARTS)
        other = self._options.before.resolve() if whole.endswith(BEFORE) else None
        setting = {} if whole.endswith(AS_IT_STARTS) else {malloc.SETTING: malloc.VALUE}
        arguments = [str(Path(self._program).resolve()), name, json.dumps(self.result.case)]
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,  # `select` does not see what a buffer holds
            cwd=other,  # modules are found there first
            # Contenders share a GPU.
            env={"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **setting, **os.environ},
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def start(self) -> bool:
        """Get ready and run once; False when there will be no times."""
        reply = self._reply(math.inf)  # its imports are on no clock
        if not reply:
            reply = self._reply(self._options.limit_s)
        self.first = reply.pop("took", math.nan)
        for name, value in reply.items():
            setattr(self.result, name, value)
        return not self.result.note

    def burst_of(self, seconds: float) -> None:
        """Find how many runs take so long, from a second run: the first compiled."""
        took = self._ask(1)
        if took is not None:
            self._runs = max(1, round(seconds / took))
            self._warm_up = took < 10

    def round(self) -> None:
        """Run one burst."""
        if self._warm_up:
            self._ask(1)
        took = self._ask(self._runs)
        if took is not None:
            self.result.seconds.append(took / self._runs)

    def _ask(self, runs: int) -> float | None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{runs}\n".encode())
        self._process.stdin.flush()
        return self._reply(runs * self._options.limit_s).get("took")

    def _reply(self, limit_s: float) -> dict[str, Any]:
        """Read the next line of the process, which is stopped where it passes a limit."""
        assert self._process.stdout is not None
        begin, line, memory_gb = time.monotonic(), b"", self._options.memory_gb
        while not line:
            if select.select([self._process.stdout], [], [], 0.02)[0]:
                line = self._process.stdout.readline()
                if not line:
                    self._errors.seek(0)
                    last = (self._errors.read().strip().splitlines() or ["no message"])[-1]
                    return self._stop(f"failed: {last[:100]}")
            elif _memory(self._process.pid, "VmRSS") > memory_gb * 1e9:
                return self._stop(f"more than {memory_gb:g} GB")
            elif time.monotonic() - begin > limit_s:
                return self._stop(f"more than {self._options.limit_s:g} s")
        return json.loads(line)

    def _stop(self, why: str) -> dict[str, Any]:
        self._process.kill()
        self.result.note, self.result.seconds = why, []
        return {"note": why}


def _serve() -> None:
    """Serve one contender in this process: one run, then as many runs as each line asks for."""
    program, name, case = sys.argv[1:]
    # What libraries print must not stand between the replies.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(**content: Any) -> None:
        print(json.dumps(content), file=replies, flush=True)

    spec = importlib.util.spec_from_file_location(Path(program).stem, program)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    try:
        for library in getattr(module, "LIBRARIES", {}).get(name, []):
            importlib.import_module(library)
    except ImportError as error:
        reply(note=f"absent: {error}")
        return
    if "jax" in sys.modules:
        from jaxssl.training import devices

        # As the programs do; of another commit they may not.
        getattr(devices, "run_in_turn", lambda: None)()
        sys.modules["jax"].numpy.zeros(()).block_until_ready()
    reply()
    # What malloc keeps would be found by who is measured, and not count.
    libc = ctypes.CDLL(None)
    libc.malloc_trim(0)
    libc.mallinfo2.restype = _MallInfo
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    before = _memory("self", "VmRSS") - libc.mallinfo2().keepcost  # up to a huge page is kept
    run = module.CONTENDERS[name](**json.loads(case))
    begin = time.perf_counter()
    found = run()
    value = None if found is None else float(found)
    took = time.perf_counter() - begin
    memory = _memory("self", "VmHWM") - before
    reply(memory_bytes=memory, device_bytes=_device_peak(), value=value, took=took)
    for line in sys.stdin:
        begin = time.perf_counter()
        for _ in range(int(line)):
            run()
        reply(took=time.perf_counter() - begin)


def divide_cpu(count: int | None, batch: int) -> None:
    """Divide this contender's CPU into so many devices; None: as the programs do.

    Of another commit, programs may divide none unless told.
    """
    import jax
    import jax.extend

    from jaxssl.training import devices

    if jax.default_backend() != "cpu":
        return
    jax.extend.backend.clear_backends()
    if count is None and "batch_size" in inspect.signature(devices.divide_cpu).parameters:
        devices.divide_cpu(None, batch)
    else:
        devices.divide_cpu(count)


class _MallInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`; `keepcost` is what is free at the end of the heap."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _memory(process: int | str, what: str) -> int:
    """Read a process's memory in bytes from /proc; 0 once it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(what + ":"):
                return 1024 * int(line.split()[1])
    return 0


def _device_peak() -> int | None:
    """Return the highest memory on the accelerator, of whichever library used it."""
    peaks = []
    if "jax" in sys.modules:
        stats = sys.modules["jax"].local_devices()[0].memory_stats()
        peaks.append((stats or {}).get("peak_bytes_in_use", 0))
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        peaks.append(sys.modules["torch"].cuda.max_memory_allocated())
    return max(peaks, default=0) or None
