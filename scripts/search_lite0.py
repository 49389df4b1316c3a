"""Settings for training on from ImageNet's Lite0: a search that does not look at unseen classes.

    python scripts/search_lite0.py simclr --data-dir DIR --json LOG --trial="--learning-rate .003"

A trial is a program's run with `--preset plankton-lite0-cpu` and the flags given, on 14 of the 21
seen classes for one epoch (if the flags name no other length), judged on the other 7: balanced
accuracy of a linear classifier and of an SVC from 100, 300 and 1,000 labels of them (5 draws), and
MAP@R, beside ImageNet's frozen network on the same images at 96 px. The ten unseen classes are not
read. Trials are appended to the log; one that is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments import presets
from jaxssl import files
from jaxssl.analysis.results import Results
from jaxssl.training import runs

SEEN = presets.PLANKTON_WIDE["seen"]
HELD_OUT = SEEN[::3]
LABELS = (100, 300, 1000)


def run_trial(program: str, data_dir: str, flags: list[str]) -> dict[str, dict[str, float]]:
    """Train and judge one trial; say what h and ImageNet's frozen h reach."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", f"experiments.{program}"]
        command += ["--preset", "plankton-lite0-cpu", "--data-dir", data_dir]
        command += ["--seen", *(name for name in SEEN if name not in HELD_OUT)]
        command += ["--unseen", *HELD_OUT, "--epochs", "1", "--run-dir", f"{folder}/run", *flags]
        subprocess.run(command, check=True)
        results = Results.read(Path(folder) / "run" / "results.json")
    return {name: scores(results, name) for name in ("h", "imagenet")}


def scores(results: Results, embedding: str) -> dict[str, float]:
    """Pick an embedding's scores on the held-out classes."""
    found = {
        f"{row.classifier} {row.labels}": row.mean
        for row in results.label_efficiency
        if (row.set, row.embedding) == ("unseen", embedding)
        and row.classifier in ("linear", "svc")
        and row.labels in LABELS
    }
    return found | {"MAP@R": results.retrieval["unseen"][embedding].map_at_r}


def main() -> None:
    """Run the trials that the log has not yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--trial", action="append", default=[], help="the flags of one")
    options = parser.parse_args()
    log = json.loads(options.json.read_text()) if options.json.exists() else runs.provenance()
    rows: list[dict[str, Any]] = log.setdefault("trials", [])
    for flags in options.trial:
        trial = {"program": options.program, "flags": flags}
        if any(trial.items() <= row.items() for row in rows):
            continue
        rows.append(trial | run_trial(options.program, options.data_dir, shlex.split(flags)))
        print(json.dumps(rows[-1]), flush=True)
        files.write_json(options.json, log)


if __name__ == "__main__":
    main()
