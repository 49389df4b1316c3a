"""What a run survives: damages, foreign bytes, kills, full disks, other devices; all bounded.

`python scripts/torture.py damage --count 200`
`python scripts/torture.py fuzz --seconds 300`
`python scripts/torture.py kill --count 40`
`python scripts/torture.py disk`, `readonly`, `devices`, or `all`

Each part trains a small run on scikit-learn's digits in a temporary folder (about a minute), and
adds what happened to `--json` (results/torture.json). It ends with exit code 1 if there was a
fault. `disk` mounts a small tmpfs, for which it must be root. docs/RELIABILITY.md has the table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # this copy of the package, whatever is installed
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
SMALL = (
    *("--dataset", "digits", "--seen", "0", "1", "2", "--unseen", "6", "7", "--image-size", "16"),
    *("--batch-size", "32", "--evaluate-epochs", "0.25", "--log-every", "1", "--cpu"),
    *("--draws", "2", "--labels", "10", "30"),
)
TRACE = "Traceback (most recent call last)"


def program(folder: Path, *more: str, devices: int = 1) -> tuple[list[str], dict[str, str]]:
    """Return the command of a small run, and its environment."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "MPLBACKEND": "Agg"}
    command = [sys.executable, "-m", "experiments.simclr", *SMALL, "--run-dir", str(folder), *more]
    return command, environment


def trained(folder: Path, *more: str, devices: int = 1, seconds: float = 600) -> Any:
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
    from experiments import finished
    from jaxssl import analysis, training
    from jaxssl.analysis.methods import label_rows, read_methods
    from jaxssl.analysis.run import linear_evaluation
    from jaxssl.files import read_record

    def opened(folder: Path) -> Any:
        run = finished.open(str(folder))
        return repr((run.config, run.images, run.record, run.steps(), run.step("best")))

    def read(folder: Path) -> Any:
        run = analysis.read_run(folder)
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
            return run.rewind(step or 0), best, step

    return {
        "open": opened,
        "embed": lambda folder: state_of(folder, "best"),
        "report": read,
        "compare": compared,
        "resume": resumed,
    }


ORIGINAL = Path()


def damage(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Damage every kind of file of a run folder in every way."""
    global ORIGINAL
    import _damages

    done = trained(folder / "run", "--steps", "12")
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    ORIGINAL = folder / "run"
    unread = ("tensorboard", "report")  # written for people; no program reads them
    return _damages.torture(
        ORIGINAL,
        readers(),
        count=options.count or 200,
        seed=options.seed,
        files=lambda name: name.parts[0] not in unread,
    )


# -------------------------------------------------------------------------------------------- main


def main() -> None:
    """Torture, print what happened, add it to the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=[*PARTS, "all"])
    parser.add_argument("--count", type=int, default=0, help="damages, or kills")
    parser.add_argument("--seconds", type=float, default=60.0, help="of mutating, over all readers")
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
            write_json(options.json, every | {part: found})
    sys.exit(1 if faults else 0)


def _about() -> dict[str, str]:
    from jaxssl.training.runs import provenance

    about = provenance()
    return {name: str(about[name]) for name in ("commit", "machine", "started")}


PARTS: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {"damage": damage}

if __name__ == "__main__":
    main()
