"""What importing costs: the losses beside jax alone, the library's front door, a program's help.

  `python scripts/benchmarks/imports.py --json imports.json`

Every line in a fresh process, all in turns, after one round that is not counted (it writes Python's
own cache). Times are of the process's CPU, which other work disturbs less than a clock; a ratio is
taken inside a round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from jaxssl import files
from jaxssl.training.runs import provenance

CODE = {
    "import jax": "import jax",
    "the losses": "from jaxssl.losses import nt_xent",
    "the library": "import jaxssl; jaxssl.embed",
    "a program's help": "from experiments import cli; cli.front_door()",
}
ROOT = Path(__file__).parents[2]


def seconds_of(code: str) -> float:
    """Run code in a process of its own; return the seconds of its CPU."""
    before = os.times()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", f"import sys; sys.argv = ['jaxssl', '--help']; {code}"]
    subprocess.run(command, env=environment, check=False, stdout=subprocess.DEVNULL)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    rounds = [
        {name: seconds_of(code) for name, code in CODE.items()} for _ in range(options.rounds + 1)
    ]
    rows = []
    for name in CODE:
        seconds = [one[name] for one in rounds[1:]]
        ratios = [one[name] / one["import jax"] for one in rounds[1:]]
        rows.append({"what": name, "seconds": seconds, "times jax": ratios})
        print(
            f"| {name} | {statistics.median(seconds):.2f} s | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) |"
        )
    if options.json:
        files.write_json(options.json, provenance() | {"rows": rows})


if __name__ == "__main__":
    main()
