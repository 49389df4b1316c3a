"""What every program's step takes of TPU chips, as the TPU's compiler says; no TPU is needed.

Half an hour on two quiet cores, after `pip install "jax[tpu]"`; what is in the file already is not
compiled again:
  `nice python scripts/benchmarks/tpu.py --json results/bench-tpu.json`

The same, only the rows that have a word in their name, and the table of what is there:
  `python scripts/benchmarks/tpu.py --json results/bench-tpu.json --only plankton`
  `python scripts/benchmarks/tpu.py --json results/bench-tpu.json --only nothing --table`

Nothing is timed: memory, bytes moved, FLOP and collectives are the compiler's own numbers for one
chip, the bound is the vendor's figures of the chip (`jaxssl.training.compiling.CHIPS`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from experiments import cli  # noqa: E402
from experiments import compile as compiling_program  # noqa: E402

# Presets that make one step are one row: classes do not show in a loss without labels.
ONE_CHIP = {
    "simclr": ("plankton plankton-wide", "cifar10 cifar100", "folder", "digits"),
    "softmax": ("plankton plankton-wide", "cifar10", "cifar100", "folder", "digits"),
    "triplet": ("plankton plankton-wide", "cifar10 cifar100", "folder", "digits"),
    "arcface": ("plankton plankton-wide", "cifar10", "cifar100", "folder", "digits"),
    "supcon": ("plankton plankton-wide", "cifar10 cifar100", "folder", "digits"),
    "rnn": ("plankton plankton-wide", "cifar10", "cifar100", "folder", "digits"),
}
CIFAR = "--dataset cifar10 --no-resident"
R50 = (
    "--dataset folder --image-size 224 --color rgb --views cifar --encoder resnet50 "
    "--optimizer lars --head mlp2 --temperature 0.5"
)
MORE = (
    ("simclr", f"{CIFAR}", "v5e-4"),
    ("simclr", f"{CIFAR} --bfloat16", "v5e-4"),
    ("simclr", "--preset plankton --batch-size 1024", "v5e-8"),
    ("simclr", "--preset plankton --bfloat16", "v5e-1"),
    ("simclr", f"{R50} --bfloat16 --batch-size 4096", "v5e-256"),
    ("simclr", "--preset plankton --encoder tf_plankton_v2_s --bfloat16", "v5e-1"),
)


def rows() -> list[tuple[str, str, str]]:
    """The rows that are wanted, (program, flags, chips): each program's first presets first."""
    wanted = list(MORE[:3])
    for place in range(max(map(len, ONE_CHIP.values()))):
        for program, presets in ONE_CHIP.items():
            if place < len(presets):
                wanted.append((program, f"--preset {presets[place]}", "v5e-1"))
    return wanted + list(MORE[3:])


def measure(program: str, flags: str, chips: str) -> dict[str, Any]:
    """Compile a row; of several presets, the first."""
    from jaxssl.training import compiling

    words = re.sub(r"(--preset \S+)( [a-z]\S*)+", r"\1", flags).split()
    module = cli.load_program(program)
    settings = cli.parse(words, module.PRESETS)
    tpu = compiling.describe_slice(chips)
    row: dict[str, Any] = {
        "batch": settings.batch_size,
        "pixels": settings.image_size,
        "channels": settings.channels,
        "bfloat16": settings.bfloat16,
    }
    try:
        cost, _ = compiling_program.cost(module, settings, tpu)
    except compiling.DoesNotFit as error:
        return row | {"needs": error.needs, "has": error.has}
    bounds = cost.bounds(tpu.device)
    binds = max(bounds, key=bounds.__getitem__)
    return (
        row | dataclasses.asdict(cost) | {"memory": cost.memory, "bounds": bounds, "binds": binds}
    )


def table(found: dict[str, Any]) -> str:
    """The rows in Markdown."""
    lines = [
        "| program | flags | chips | images | GB | GB moved | TFLOP | MB sent | bound, ms | by |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found["rows"].items():
        program, flags, chips = name.split(" | ")
        if "needs" in row:
            rest = f"needs {row['needs'] / 1e9:.1f} of {row['has'] / 1e9:.1f} | | | | | "
        else:
            rest = (
                f"{row['memory'] / 1e9:.2f} | {row['moved'] / 1e9:.2f} | "
                f"{row['flops'] / 1e12:.3f} | {_mb(row.get('sent'))} | "
                f"{1e3 * row['bounds'][row['binds']]:.1f} | {row['binds']}"
            )
        size = f"{row['batch']:,} x {row['pixels']} px x {row['channels']}"
        lines.append(f"| {program} | {flags} | {chips} | {size} | {rest} |")
    return "\n".join(lines)


def _mb(size: float | None) -> str:
    return "not counted" if size is None else f"{size / 1e6:.1f}"


def main() -> None:
    """Compile what is missing, one row at a time; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, default=ROOT / "results" / "bench-tpu.json")
    parser.add_argument("--only", default="", help="rows that have this in their name")
    parser.add_argument("--table", action="store_true", help="print the table in Markdown")
    options = parser.parse_args()
    compiling_program.prepare()
    found: dict[str, Any] = {"rows": {}}
    if options.json.is_file():
        found = json.loads(options.json.read_text())
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    versions = {name: version(name) for name in ("jax", "libtpu", "flax")}
    for row in rows():
        name = " | ".join(row)
        if name in found["rows"] or options.only not in name:
            continue
        print(name, "...", flush=True)
        found["rows"][name] = measure(*row) | {"commit": commit}
        found["versions"] = versions
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.table:
        print(table(found))


if __name__ == "__main__":
    with cli.ending():
        main()
