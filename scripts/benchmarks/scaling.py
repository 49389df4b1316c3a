"""A SimCLR step on 1, 2, 4 and 8 devices: does it give the same, and what do they tell each other?

On any CPU, a minute (more the first time: compiled programs are kept on disk):
  `python scripts/benchmarks/scaling.py`

ResNet-18 as on CIFAR-10:
  `python scripts/benchmarks/scaling.py --encoder resnet18 --batch 128 --json scaling.json`

Every number of devices is a process of its own, with so many of XLA's fake CPU devices, that makes
the same few steps of the program `experiments.simclr` from the same seed. What is communicated is
counted in the compiled step's text, loops as often as they run: operations, and the bytes of their
results on one device. **Sent** is what one device then sends where each operation goes round a
ring of n: 2 (n-1)/n of an all-reduce's bytes, (n-1)/n of an all-gather's or an all-to-all's, n-1
times a reduce-scatter's, a collective-permute's as they are. Fake devices share the cores: no time
is measured here, and a real machine's compiler may choose other operations.

What a step costs on 256 TPU chips their compiler says: `python scripts/benchmarks/tpu.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxssl.training.hlo import OPERATIONS, communication, sent


def worker(options: argparse.Namespace) -> None:
    """Run the steps on the devices of this process; print the result as JSON, save the weights."""
    import jax
    import numpy as np

    from experiments import datasets, simclr
    from jaxssl import training
    from jaxssl.files import cache_dir

    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    config = simclr.SimCLR(
        encoder=options.encoder,
        image_size=options.size,
        color="rgb",
        optimizer="sgd",
        views="cifar",
    )
    outline = {"classes": (), "shape": (options.size, options.size, 3), "steps_per_epoch": 1}
    data = datasets.of_outline(outline | {"total_steps": options.steps + 1}, config)
    method = simclr.make_method(config, data)
    whole = method.loss
    # Without the metrics of its health, which are no part of the method.
    method = dataclasses.replace(method, loss=lambda *batch: (whole(*batch)[0], {}))
    placement = training.data_placement(options.batch)
    train_step = training.make_train_step(method, placement)
    state, key = placement.replicate(training.create_state(method)), jax.random.key(0)
    random = np.random.default_rng(0)
    shape, losses = (options.batch, options.size, options.size, 3), []
    batch = placement.put({"image": random.integers(0, 256, shape).astype(np.uint8)})
    # The compiled program of the step as it is called below.
    text = train_step._one.lower(state, batch, key, None).compile().as_text()
    for _ in range(options.steps):
        state, metrics = train_step(state, batch, key)
        losses.append(float(metrics["loss"]))
    weights = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(state.params)]
    np.save(options.weights, np.concatenate(weights))
    found = communication(text, strict=True)
    row = {"devices": placement.device_count, "losses": losses, "communication": found}
    print(json.dumps(row | {"sent_bytes": sent(found, placement.device_count)}))


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run one worker after the other; each row says how far its weights are from the first's."""
    import numpy as np

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        first = None
        for devices in options.devices:
            print(f"{devices} devices ...", file=sys.stderr, flush=True)
            file = str(Path(folder) / f"{devices}.npy")
            flags = ["--encoder", options.encoder, "--worker", "--weights", file]
            for name in ("batch", "size", "steps"):
                flags += [f"--{name}", str(getattr(options, name))]
            fake = f"--xla_force_host_platform_device_count={devices}"
            done = subprocess.run(
                [sys.executable, __file__, *flags],
                env=os.environ | {"XLA_FLAGS": fake, "JAX_PLATFORMS": "cpu"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            weights = np.load(file)
            first = weights if first is None else first
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            rows[-1]["weights_differ"] = float(np.abs(weights - first).max())
            rows[-1]["weights_moved"] = len(weights)
    return rows


def print_table(rows: Iterable[Mapping[str, Any]], steps: int) -> None:
    """Print in Markdown: the result beside what was said for it."""
    heads = ["devices", f"loss of step {steps}", "weights differ by", *OPERATIONS, "sent, MB"]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for row in rows:
        cells = [row["devices"], f"{row['losses'][-1]:.7f}", f"{row['weights_differ']:.1e}"]
        for operation in OPERATIONS:
            number, size = row["communication"].get(operation, (0, 0))
            cells.append(f"{number} of {size / 1e6:,.3f} MB in all" if number else "-")
        print("| " + " | ".join(map(str, [*cells, f"{row['sent_bytes'] / 1e6:,.3f}"])) + " |")


def main() -> None:
    """Read the flags; print the table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--encoder", choices=("convnet", "resnet18"), default="convnet")
    parser.add_argument("--batch", type=int, default=64, help="images, over all devices")
    parser.add_argument("--size", type=int, default=32, help="pixels of an image's side")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="1 and 2 devices, one small step")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--weights", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(options)
    if options.quick:
        options.devices, options.batch, options.size, options.steps = [1, 2], 8, 16, 1
    from jaxssl.training.runs import provenance

    about, rows = provenance(), measure(options)
    record: dict[str, Any] = {**about, "options": vars(options) | {"json": None}, "rows": rows}
    print(f"{options.encoder}, {options.batch} images of {options.size} px, {about['commit']}\n")
    print_table(rows, options.steps)
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
