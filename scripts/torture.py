"""What a run survives: damages, foreign bytes, kills, full disks, other devices; all bounded.

`python scripts/torture.py damage --count 200`
`python scripts/torture.py fuzz --seconds 300`
`python scripts/torture.py kill --count 40`
`python scripts/torture.py programs --count 6`
`python scripts/torture.py disk`, `readonly`, `devices`, or `all`

Each part trains a small run on scikit-learn's digits in a temporary folder (about a minute), and
adds what happened to `--json` (results/torture.json). It ends with exit code 1 if there was a
fault. `disk` mounts a small tmpfs, for which it must be root. docs/RELIABILITY.md has the table.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# This copy of the package, whatever is installed.
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]
import _forked  # noqa: E402

os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
SMALL = (
    *("--dataset", "digits", "--seen", "0", "1", "2", "--unseen", "6", "7", "--image-size", "16"),
    *("--batch-size", "32", "--evaluate-epochs", "0.25", "--log-every", "1", "--cpu"),
    *("--draws", "2", "--labels", "10", "30"),
)
EXPORTS = ("atlas", "tensorboard", "fiftyone")  # which need no package of their own
TRACE = "Traceback (most recent call last)"


def program(folder: Path, *more: str, devices: int = 1) -> tuple[list[str], dict[str, str]]:
    """Return the command of a small run, and its environment."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "MPLBACKEND": "Agg"}
    command = [sys.executable, "-m", "experiments.simclr", *SMALL, "--run-dir", str(folder), *more]
    return command, environment


def trained(folder: Path, *more: str, devices: int = 1, seconds: float = 3600) -> Any:
    """Run the small run to its end."""
    command, environment = program(folder, *more, devices=devices)
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds
    )


def end_of(folder: Path) -> str:
    """Hash the state that a run ended with and its losses, all that a clock has not in it."""
    from jaxssl.files import read_lines
    from jaxssl.training.checkpoint import Checkpoints

    last = Checkpoints(folder / "checkpoints").steps()[-1]
    rows = read_lines(folder / "metrics.jsonl")
    losses = [(row["step"], row["split"], row["loss"].hex()) for row in rows]
    return hashlib.sha256(repr((state_of(folder, last), losses)).encode()).hexdigest()


def state_of(folder: Path, step: int | str) -> str:
    """Hash every array of a checkpoint."""
    import jax

    from experiments import finished
    from jaxssl import training

    run = finished.open(str(folder))
    at = run.step(str(step))
    state = run.restore(at, training.data_placement(1))
    digest = hashlib.sha256(str(at).encode())
    for leaf in jax.tree.leaves(state):
        data = leaf
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = jax.random.key_data(leaf)
        digest.update(jax.device_get(data).tobytes())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------ damage


def readers() -> dict[str, Callable[[Path], Any]]:
    """Return what programs read of a run folder, each as something comparable."""
    from experiments import export, finished
    from jaxssl import analysis, training
    from jaxssl.analysis.methods import label_rows, read_methods
    from jaxssl.analysis.run import linear_evaluation
    from jaxssl.files import read_record

    def opened(folder: Path) -> Any:
        run = finished.open(str(folder))
        return repr((run.config, run.images, run.record, run.steps(), run.step("best")))

    def read(folder: Path) -> Any:
        run = analysis.read_run(folder)
        if not run.results:
            print("the program says: no results.json")
        if not run.metrics:
            print("the page says: metrics.jsonl is missing or empty")
        digest = hashlib.sha256(repr((run.results, run.metrics, run.record)).encode())
        for name, sets in run.tables.items():
            for part, table in sets.items():
                digest.update(repr((name, part, table.ids, table.class_names)).encode())
                digest.update(repr((table.metadata, table.thumbnails)).encode())
                digest.update(table.vectors.tobytes())
        return digest.hexdigest(), linear_evaluation(folder)

    def compared(folder: Path) -> Any:
        return repr([label_rows(method) for method in read_methods([folder])])

    def resumed(folder: Path) -> Any:
        record = json.loads((ORIGINAL / "config.json").read_text())
        facts = {name: record[name] for name in ("study", "dataset", "recipe", "data", "outline")}
        with (
            training.RunFolder(folder, record["config"], facts=facts) as run,
            training.Checkpoints(folder / "checkpoints") as checkpoints,
        ):
            read_record(folder)
            best = checkpoints.best_step()
            step = checkpoints._whole_step(None)
            facts = checkpoints._facts(step) if step else {}
            return run.rewind(step or 0, (facts or {}).get("lines")), best, step

    def exported(tool: str, folder: Path) -> Any:
        out = folder.parent / "exported"
        shutil.rmtree(out, ignore_errors=True)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            export.main(export.Export(str(folder), to=tool, out=str(out)))  # type: ignore[arg-type]
        print("\n".join(said.getvalue().splitlines()[:-2]))  # the last say what was written
        digest = hashlib.sha256()
        for path in sorted(out.rglob("*")):
            if path.is_file() and "tfevents" not in path.name:  # which have the time in them
                digest.update(path.read_bytes())
        return digest.hexdigest()

    return {
        "open": opened,
        "embed": lambda folder: state_of(folder, "best"),
        "report": read,
        "compare": compared,
        "resume": resumed,
        **{f"export to {tool}": functools.partial(exported, tool) for tool in EXPORTS},
    }


ORIGINAL = Path()


def damage(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Damage every kind of file of a run folder in every way."""
    global ORIGINAL
    import _damages
    import _kills

    _forked.warm()
    if fault := _kills.Session(folder / "run", [*SMALL, "--steps", "12"]).fault():
        raise SystemExit(fault)
    ORIGINAL = folder / "run"
    unread = ("tensorboard", "report")  # written for people; no program reads them
    return _damages.torture(
        ORIGINAL,
        readers(),
        count=options.count or 200,
        seconds=options.seconds or 1e9,
        seed=options.seed,
        files=lambda name: name.parts[0] not in unread,
    )


def weights(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Damage an encoder's weights as `export --to safetensors` writes them, and load them."""
    import _damages
    import jax
    from flax import nnx

    from jaxssl.integrations import safetensors
    from jaxssl.models import ConvNet, load_pretrained

    def encoder(seed: int) -> ConvNet:
        return ConvNet(widths=(4, 4), channels=1, rngs=nnx.Rngs(seed))

    def loaded(place: Path) -> str:
        other = encoder(1)
        load_pretrained(other, place / safetensors.FILE)
        leaves = jax.tree.leaves(nnx.state(other, (nnx.Param, nnx.BatchStat)))
        return hashlib.sha256(b"".join(jax.device_get(x).tobytes() for x in leaves)).hexdigest()

    safetensors.export(encoder(0), folder / "exported", {}, safetensors.FILE, "")
    return _damages.torture(
        folder / "exported",
        {"load": loaded},
        count=options.count or 160,
        seconds=options.seconds or 1e9,
        seed=options.seed,
        files=lambda name: name.name == safetensors.FILE,
    )


def fuzz(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Mutate small valid files of every reader of foreign bytes."""
    import _fuzz

    most = -(-options.count // len(_fuzz.TARGETS)) if options.count else 10**9
    seconds = options.seconds or (1e6 if options.count else 300)
    return _fuzz.fuzz(seconds, first=options.seed * 10**6, most=most)


def drawn(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Let hypothesis draw files for every reader of foreign bytes.

    `--seconds`, of the processor, are shared by the readers; a minute each where it is not given.
    """
    import _fuzz

    return _fuzz.fuzz(options.seconds or 60 * len(_fuzz.TARGETS), drawn=True)


# ------------------------------------------------------------------------------------------- kills


def kill(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Kill a run of `--processes` again and again, and compare its end with one left alone."""
    import _kills

    if options.processes == 1:  # as from a shell: a fork must be no other program
        whole = trained(folder / "whole", "--steps", "24")
        if whole.returncode:
            raise SystemExit(whole.stdout + whole.stderr)
        _forked.warm()
        flags, expected = [*SMALL, "--steps", "24"], end_of_fork(folder / "whole")
    else:
        expected, flags = _left_alone(folder, options.processes)
    found = _kills.torture(
        folder,
        flags,
        end_of_fork,
        expected,
        kills=options.count or 40,
        seconds=options.seconds or 1e9,
        seed=options.seed,
        processes=options.processes,
    )
    return found | {"processes": options.processes}


def programs(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Kill the programs that read a run, or search, and give their commands again."""
    import _programs

    _forked.warm()
    return _programs.torture(
        folder,
        [*SMALL],
        kills=options.count or 6,
        seconds=options.seconds or 1e9,
        seed=options.seed,
    )


def interrupt(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Send a run Ctrl-C or SIGTERM, and again while it leaves."""
    import _leaving

    expected, flags = _left_alone(folder, 1)
    count, seconds = options.count or 40, options.seconds or 1e9
    return _leaving.interrupts(
        folder, flags, end_of_fork, expected, count=count, seconds=seconds, seed=options.seed
    )


def peers(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Let a save fail in one of two processes, and end one before training."""
    import _leaving

    expected, flags = _left_alone(folder, 2)
    return _leaving.peers(folder, flags, end_of_fork, expected)


def _left_alone(folder: Path, processes: int) -> tuple[str, list[str]]:
    """Run forks that nobody touches; return their end and the flags."""
    import _kills

    _forked.warm()
    flags = [*SMALL, "--steps", "24"]
    session = _kills.Session(folder / "whole", flags, processes=processes)
    if fault := session.fault():
        raise SystemExit(fault)
    return end_of_fork(folder / "whole"), flags


def end_of_fork(folder: Path) -> str:
    """Return `end_of`, from a process of its own: this one must not touch a device."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                os.write(writing, end_of(folder).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(pid, 0)
    return text or f"no end of {folder}: {time.monotonic()}"


# --------------------------------------------------------------------- disks, folders, devices


def disk(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run on a disk that is too small, make room, and run the same command again."""
    import _kills

    expected, flags = _left_alone(folder, 1)
    used = sum(path.stat().st_blocks for path in (folder / "whole").rglob("*")) // 2  # KiB
    faults, ended = [], Counter[str]()
    sizes = [round(used * share) for share in (0.002, 0.05, 0.2, 0.35, 0.5, 0.65, 0.8)]
    sizes += [round(used * share) for share in (0.9, 0.95, 0.98)]
    deadline = time.monotonic() + (options.seconds or 1e9)
    for size in sizes[: options.count or 10]:
        if time.monotonic() > deadline:
            break
        with _small_disk(folder / "disk", size) as place:
            # What they print is beside the folder, and not on that disk.
            (folder / "said").mkdir(exist_ok=True)
            run = place / "run"
            session = _kills.Session(run, flags, said=folder / "said" / f"{size}")
            (code,) = session.wait()
            said = session.all[0].err.strip()
            ended[f"exit {code}"] += 1
            print(f"{size} KiB: exit {code}: {said}", flush=True)
            if code == 0:
                continue
            if code != 2 or TRACE in said or len(said.splitlines()) != 1:
                faults.append(f"{size} KiB: exit {code}: {said[-1500:]}")
            subprocess.run(["mount", "-o", "remount,size=200m", str(place)], check=True)
            session = _kills.Session(run, flags, said=folder / "said" / f"{size}-again")
            if (wrong := session.fault()) or end_of_fork(run) != expected:
                faults.append(f"{size} KiB: not the same after room was made: {wrong}")
    return {"KiB of a whole run": used, "sizes": sum(ended.values()), **ended, "faults": faults}


@contextlib.contextmanager
def _small_disk(place: Path, size: int) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={max(size, 16)}k", "tmpfs", str(place)]
    subprocess.run(command, check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def readonly(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run where nothing can be written, and in a folder that is removed while it trains."""
    import _kills

    _forked.warm()
    faults = []
    with _small_disk(folder / "disk", 10_000) as place:
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        session = _kills.Session(place / "run", [*SMALL, "--steps", "3"], said=folder / "readonly")
        (code,), said = session.wait(), session.all[0].err.strip()
        print(f"read-only: exit {code}: {said}", flush=True)
        if code != 2 or len(said.splitlines()) != 1:
            faults.append(f"read-only: exit {code}: {said[-400:]}")
    flags = [*SMALL, "--steps", "2000", "--evaluate-epochs", "100"]
    session = _kills.Session(folder / "run", flags, said=folder / "removed")
    metrics = folder / "run" / "metrics.jsonl"
    while not session.over() and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.1)
    shutil.rmtree(folder / "run", ignore_errors=True)
    begin = time.monotonic()
    (code,), said = session.wait(300), session.all[0].err.strip()
    print(f"removed: exit {code}: {said}", flush=True)
    if code != 2 or len(said.splitlines()) != 1:
        faults.append(f"removed: exit {code}: {said[-600:]}")
    noticed = round(time.monotonic() - begin, 1)
    return {"cases": 2, "removal noticed after s": noticed, "faults": faults}


def devices(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train a run on 1, then 8, 2 and 1 devices, and one in 2, 1 and 2 processes.

    Each part of it is killed when it has trained; the losses are those of one device, in float32.
    """
    from jaxssl.files import read_lines

    _forked.warm()
    found: dict[str, Any] = {"devices": [1, 8, 2, 1], "processes": [2, 1, 2]}
    faults: list[str] = []
    runs = {
        "one": [(1, 1, 24)],
        "devices": [(1, 1, 6), (8, 1, 12), (2, 1, 18), (1, 1, 24)],
        "processes": [(1, 2, 6), (1, 1, 12), (1, 2, 18)],
    }
    losses: dict[str, dict[Any, float]] = {}
    for name, parts in runs.items():
        for many, processes, steps in parts:
            if fault := _train_to(folder / name, steps, devices=many, processes=processes):
                faults.append(f"{name}: {many} x {processes} to step {steps}: {fault}")
        rows = read_lines(folder / name / "metrics.jsonl")
        losses[name] = {(row["step"], row["split"]): row["loss"] for row in rows}
    for name in ("devices", "processes"):
        steps = runs[name][-1][2]
        wanted = {key: loss for key, loss in losses["one"].items() if key[0] <= steps}
        most = max(abs(losses[name].get(key, 1e9) - loss) for key, loss in wanted.items())
        found[f"largest difference of a loss, {name}"] = most
        if most > 2e-2:
            key = max(wanted, key=lambda key: abs(losses[name].get(key, 1e9) - wanted[key]))
            faults.append(f"{name}: the loss of {key} is {most} from that of one device")
    return found | {"faults": faults}


def _train_to(run: Path, steps: int, *, devices: int, processes: int) -> str:
    """Train to a step and kill in what comes after; say what was wrong before."""
    import _kills

    flags = [*SMALL, "--steps", str(steps)]
    session = _kills.Session(run, flags, processes=processes, devices=devices)
    while not session.over() and _kills.JUDGED not in session.all[0].out:
        time.sleep(0.02)
    ended, said = session.over(), [process.err[-400:] for process in session.all]
    for process in session.all:
        process.kill()
    print(run.name, devices, processes, steps, ended, flush=True)
    return str(said) if ended or any(TRACE in text for text in said) else ""


# -------------------------------------------------------------------------------------------- main


def main() -> None:
    """Torture, print what happened, add it to the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=[*PARTS, "all"])
    parser.add_argument("--count", type=int, default=0, help="damages, mutations, kills or sizes")
    parser.add_argument("--processes", type=int, default=1, help="of a run that is killed")
    parser.add_argument("--seconds", type=float, default=0.0, help="of each part; default: its own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to add what happened")
    options = parser.parse_args()
    parts = list(PARTS) if "all" in options.parts else options.parts
    faults = 0
    for part in parts:
        begin = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="jaxssl-torture-") as folder:
            found = PARTS[part](options, Path(folder))
        found |= {"seconds": round(time.monotonic() - begin), "seed": options.seed, **_about()}
        print(part, json.dumps(found, indent=1), flush=True)
        faults += len(found["faults"])
        if options.json:
            from jaxssl.files import write_json

            every = json.loads(options.json.read_text()) if options.json.exists() else {}
            name = f"{part}, two processes" if part == "kill" and options.processes > 1 else part
            write_json(options.json, every | {name: found})
    sys.exit(1 if faults else 0)


def _about() -> dict[str, str]:
    from jaxssl.training.runs import provenance

    about = provenance()
    return {name: str(about[name]) for name in ("commit", "machine", "started")}


PARTS: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
    "damage": damage,
    "weights": weights,
    "fuzz": fuzz,
    "drawn": drawn,
    "kill": kill,
    "programs": programs,
    "interrupt": interrupt,
    "peers": peers,
    "disk": disk,
    "readonly": readonly,
    "devices": devices,
}

if __name__ == "__main__":
    main()
