"""What every program's step and every loss takes of TPU chips, as the TPU's compiler says.

No TPU is needed. About two hours on two quiet cores, after `pip install "jax[tpu]"`; what is in the
file already, compiled at this commit or another, is not compiled again:
  `nice python scripts/benchmarks/tpu.py --json results/bench-tpu.json`

The same, only the rows that have a word in their name, those of other commits anew, and the tables
of what is there:
  `python scripts/benchmarks/tpu.py --only plankton`
  `python scripts/benchmarks/tpu.py --again`
  `python scripts/benchmarks/tpu.py --only nothing --table`

Nothing is timed: memory, bytes moved, FLOP and collectives are the compiler's own numbers for one
chip, the bound is the vendor's figures of the chip (`jaxssl.training.compiling.CHIPS`).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from experiments import cli  # noqa: E402
from experiments import compile as compiling_program  # noqa: E402

# Presets that make one step are one row: classes do not show in a loss without labels.
LITE0 = ("plankton-lite0 folder-lite0-gpu", "plankton-lite0-cpu folder-lite0")
ONE_CHIP = {
    "simclr": ("plankton plankton-wide", "cifar10 cifar100", "folder", "digits", *LITE0),
    "softmax": ("plankton plankton-wide", "cifar10", "cifar100", "folder", "digits", *LITE0),
    "triplet": ("plankton plankton-wide", "cifar10 cifar100", "folder", "digits", *LITE0),
    "arcface": ("plankton plankton-wide", "cifar10", "cifar100", "folder", "digits", *LITE0),
    "supcon": ("plankton plankton-wide", "cifar10 cifar100", "folder", "digits", *LITE0),
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

# Value and gradient alone, so many rows of so many numbers.
ROWS, WIDTH = (8_192, 65_536, 1_048_576), 128
LOSSES = ("nt_xent", "sup_con", "triplet_loss", "arcface_loss")


def rows() -> list[tuple[str, str, str]]:
    """The rows that are wanted, (program, flags, chips): each program's first presets first."""
    wanted = list(MORE[:3])
    for place in range(max(map(len, ONE_CHIP.values()))):
        for program, presets in ONE_CHIP.items():
            if place < len(presets):
                wanted.append((program, f"--preset {presets[place]}", "v5e-1"))
    wanted += MORE[3:]
    return wanted + [
        (loss, f"{many:,} rows", f"v5e-{chips}")
        for many in ROWS
        for loss in LOSSES
        for chips in (1, 8, 256)
    ]


def measure(program: str, flags: str, chips: str, text: Path | None) -> dict[str, Any]:
    """Compile a row; of several presets, the first. Write the compiled program to `text`."""
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
        cost, program_text = compiling_program.cost(module, settings, tpu)
    except compiling.DoesNotFit as error:
        return row | {"needs": error.needs, "has": error.has}
    if text:
        text.write_text(program_text)
    bounds = cost.bounds(tpu.chip)
    binds = max(bounds, key=bounds.__getitem__)
    return (
        row | dataclasses.asdict(cost) | {"memory": cost.memory, "bounds": bounds, "binds": binds}
    )


def measure_loss(loss: str, many: int, chips: str, text: Path | None) -> dict[str, Any]:
    """Compile value and gradient of a loss, on rows that are spread over the chips.

    Args:
      loss: A name in `LOSSES`. NT-Xent, SupCon and triplets are plain `jit`, as in the programs.
        ArcFace has its classes spread over the chips, by `shard_map`; its batch is `ROWS[0]`.
      many: Rows; of ArcFace, classes.
      chips: Such as "v5e-8".
      text: File for the compiled program.
    """
    import jax
    import jax.numpy as jnp
    from jax.sharding import PartitionSpec as P

    from jaxssl import losses
    from jaxssl.lowering import made_for
    from jaxssl.training import compiling
    from jaxssl.training.devices import placement_over

    tpu = compiling.describe_slice(chips)
    placement = placement_over(tpu.devices, many)
    (axis,) = placement.mesh.axis_names

    def of(rows: int, *width: int, kind: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *width), kind, sharding=placement.sharded)

    if loss == "nt_xent":
        arguments = (of(many // 2, WIDTH), of(many // 2, WIDTH))
        value, by = losses.nt_xent, (0, 1)
    elif loss == "arcface_loss":
        value = jax.shard_map(
            functools.partial(losses.arcface_loss, axis_name=axis, class_axis_name=axis),
            mesh=placement.mesh,
            in_specs=(P(axis), P(axis), P(axis)),
            out_specs=P(),
        )
        batch = ROWS[0]
        arguments = (of(batch, WIDTH), of(many, WIDTH), of(batch, kind=jnp.int32))
        by = (0, 1)
    else:
        value = getattr(losses, loss)
        arguments, by = (of(many, WIDTH), of(many, kind=jnp.int32)), (0,)
    begin = time.monotonic()
    function = made_for(placement.mesh)(jax.value_and_grad(value, by))
    shardings = (placement.replicated, (placement.sharded,) * len(by))
    try:
        program = jax.jit(function, out_shardings=shardings).lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        too_much = compiling.out_of_memory(str(error))
        if too_much is None:
            raise
        return {"loss": loss, "rows": many, "needs": too_much.needs, "has": too_much.has}
    cost = compiling.cost_of(program, placement, time.monotonic() - begin)
    if text:
        text.write_text(program.as_text())
    whole = (ROWS[0] if loss == "arcface_loss" else many) * WIDTH
    return {
        "loss": loss,
        "rows": many,
        **dataclasses.asdict(cost),
        "memory": cost.memory,
        "gathers_of_z": gathers(program.as_text(), whole // 2),
    }


def gathers(text: str, least: int) -> int:
    """Count a program's all-gathers of at least so many numbers: half of z, where views are two.

    Example:
      >>> gathers("  %a = f32[8,128]{1,0} all-gather(f32[1,128]{1,0} %z), channel_id=1", 512)
      1
    """
    found = re.findall(r"= (.*?) all-gather(?:-start)?\(", text)
    sizes = [re.findall(r"\[([\d,]+)\]", result) for result in found]
    return sum(
        any(math.prod(map(int, size.split(","))) >= least for size in sizes_) for sizes_ in sizes
    )


def losses_table(found: dict[str, Any]) -> str:
    """The losses' rows in Markdown: memory of a chip, and all-gathers of z."""
    lines = [
        "| loss | rows | chips | GB | MB sent | all-gathers of z | commit |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in found["rows"].items():
        loss, many, chips = name.split(" | ")
        if "loss" in row and "needs" in row:
            said = f"needs {row['needs'] / 1e9:.1f} of {row['has'] / 1e9:.1f} | | "
        elif "loss" in row:
            said = f"{row['memory'] / 1e9:.3f} | {_mb(row.get('sent'))} | {row['gathers_of_z']}"
        else:
            continue
        place = f"{loss} | {many.removesuffix(' rows')} | {chips}"
        lines.append(f"| {place} | {said} | {row['commit']} |")
    return "\n".join(lines)


def table(found: dict[str, Any]) -> str:
    """The programs' rows in Markdown. What a row does not say was not counted when it was made."""
    lines = [
        "| program | flags | chips | images | GB | GB accessed | GB moved | TFLOP | MB sent "
        "| bound, ms | by | commit |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found["rows"].items():
        program, flags, chips = name.split(" | ")
        if "loss" in row:
            continue
        if "needs" in row:
            said = [f"needs {row['needs'] / 1e9:.1f} of {row['has'] / 1e9:.1f}", *6 * [""]]
        else:
            binds = row.get("binds")
            said = [
                f"{row['memory'] / 1e9:.2f}",
                f"{row['accessed'] / 1e9:.2f}",
                f"{row['moved'] / 1e9:.2f}" if "moved" in row else "-",
                f"{row['flops'] / 1e12:.3f}",
                _mb(row.get("sent")),
                f"{1e3 * row['bounds'][binds]:.2f}" if binds else "-",
                binds or "-",
            ]
        size = f"{row['batch']:,} x {row['pixels']} px x {row['channels']}"
        cells = [program, flags, chips, size, *said, row["commit"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mb(size: float | None) -> str:
    return "-" if size is None else f"{size / 1e6:.2f}"


def main() -> None:
    """Compile what is missing, one row at a time; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, default=ROOT / "results" / "bench-tpu.json")
    parser.add_argument("--only", default="", help="rows that have this in their name")
    parser.add_argument("--again", action="store_true", help="also rows of other commits")
    parser.add_argument("--texts", type=Path, help="folder for the compiled programs")
    parser.add_argument("--table", action="store_true", help="print the tables in Markdown")
    options = parser.parse_args()
    compiling_program.prepare()
    found: dict[str, Any] = {"rows": {}}
    if options.json.is_file():
        found = json.loads(options.json.read_text())
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    for row in rows():
        name = " | ".join(row)
        there = found["rows"].get(name, {})
        stale = options.again and there.get("commit") != commit
        if options.only not in name or (there and not stale):
            continue
        print(name, "...", flush=True)
        program, flags, chips = row
        text = options.texts and options.texts / (re.sub(r"[^\w,-]+", "_", name) + ".hlo")
        if program in LOSSES:
            made = measure_loss(program, int(flags.split()[0].replace(",", "")), chips, text)
        else:
            made = measure(*row, text)
        found["rows"][name] = made | {"commit": commit}
        found["versions"] = {name: version(name) for name in ("jax", "libtpu", "flax")}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.table:
        print(table(found), losses_table(found), sep="\n\n")


if __name__ == "__main__":
    with cli.ending():
        main()
