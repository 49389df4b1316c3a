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

With `--paper`, a calculation of what a step costs on 256 TPU v5e chips (`paper`); nothing of it is
measured. The chip's figures are the vendor's (cloud.google.com/tpu/docs/v5e).
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

# TPU v5e, the vendor's figures for one chip; not measured here.
V5E = {"bf16_flops": 197e12, "hbm_bytes": 16e9, "hbm_bytes_s": 819e9, "ici_bytes_s": 1600e9 / 8}


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


def resnet50_work(size: int = 224) -> dict[str, float]:
    """Count FLOPs of ResNet-50 for one image in the program as traced, and its parameters.

    Returns:
      flops: of forward and backward pass; conv_outputs: numbers that its convolutions put out;
      parameters: how many.
    """
    import jax
    import jax.extend
    from flax import nnx

    from jaxssl.models import resnet50

    def make() -> nnx.Module:
        return resnet50(channels=3, stem="imagenet", rngs=nnx.Rngs(0))

    graphdef, params, rest = nnx.split(nnx.eval_shape(make), nnx.Param, ...)

    def total(params: Any, rest: Any, images: Any) -> Any:
        return nnx.merge(graphdef, params, rest, copy=True)(images).sum()

    images = jax.ShapeDtypeStruct((1, size, size, 3), "float32")
    flops = jax.jit(jax.grad(total)).lower(params, rest, images).cost_analysis()["flops"]

    def outputs(jaxpr: Any) -> int:
        inner = [
            jaxpr for eqn in jaxpr.eqns for jaxpr in jax.extend.core.jaxprs_in_params(eqn.params)
        ]
        own = (eqn for eqn in jaxpr.eqns if eqn.primitive.name == "conv_general_dilated")
        return sum(eqn.outvars[0].aval.size for eqn in own) + sum(map(outputs, inner))

    return {
        "flops": flops,
        "conv_outputs": outputs(jax.make_jaxpr(total)(params, rest, images).jaxpr),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
    }


def paper(
    work: Mapping[str, float],
    *,
    batch: int = 65_536,
    chips: int = 256,
    d: int = 128,
    size: int = 224,
    share_of_peak: float = 0.4,
) -> dict[str, float]:
    """Estimate a SimCLR step of ResNet-50 on a pod of TPU v5e, on paper: nothing is measured.

    Assumed: two views an image; activations in bfloat16, weights and z in float32; the convolutions
    run at `share_of_peak` of the chip's bfloat16 peak; a fully fused step passes five times over
    the convolutions' outputs in memory (forward: written, read; backward: read, their gradient
    written and read); NT-Xent's three products (similarities; in the backward pass these again and
    times z) at the same share, each in float32 and so six times one of bfloat16; one ring through
    all chips uses one of a chip's four links.

    Args:
      work: of one view, from `resnet50_work`.
      batch: images a step, b.
      chips: how many.
      d: floats of z.
      size: pixels of an image's side.
      share_of_peak: of the bfloat16 peak, 0 to 1.

    Returns:
      Seconds (`_s`) and bytes by name, all of one chip and one step.
    """
    rate, link = share_of_peak * V5E["bf16_flops"], V5E["ici_bytes_s"] / 4
    views = 2 * batch / chips
    rows, ring = 2 * batch, (chips - 1) / chips
    activations = 2 * views * work["conv_outputs"]
    z_all = 4 * rows * d
    gradient = 4 * work["parameters"]
    return {
        "views": views,
        "network_flops": views * work["flops"],
        "network_s": views * work["flops"] / rate,
        "activation_bytes": activations,
        "activation_traffic_s": 5 * activations / V5E["hbm_bytes_s"],
        "state_bytes": 3 * gradient,
        "loss_flops": 3 * 2 * rows**2 * d / chips,
        "loss_s": 6 * 3 * 2 * rows**2 * d / chips / rate,
        "similarities_bytes": 4 * rows**2,
        "similarities_of_a_chip_bytes": 4 * rows**2 / chips,
        "z_all_bytes": z_all,
        # Forward the blocks of z go round; backward again, and with them their gradient.
        "loss_ring_bytes": 3 * ring * z_all,
        "loss_ring_s": 3 * ring * z_all / link,
        "hop_bytes": z_all / chips,
        "hop_s": z_all / chips / link,
        "hop_product_s": 6 * 2 * (rows / chips) ** 2 * d / rate,
        "gradient_ring_bytes": 2 * ring * gradient,
        "gradient_ring_s": 2 * ring * gradient / link,
        "input_bytes": batch / chips * size**2 * 3,
    }


def print_paper(work: Mapping[str, float], cost: Mapping[str, float]) -> None:
    """Print the calculation as a table: what, how much, and how long that alone would take."""

    def mb(name: str) -> str:
        return f"{cost[name + '_bytes'] / 1e6:,.1f} MB"

    state, activations = cost["state_bytes"], cost["activation_bytes"]
    room = "fit" if state + activations < V5E["hbm_bytes"] else "do NOT fit"
    hop = f"{1e6 * cost['hop_s']:.1f} us beside {1e6 * cost['hop_product_s']:.2f} us of product"
    rows = [
        ("views, of 224 px", f"{cost['views']:,.0f}", None),
        (
            f"ResNet-50, {work['flops'] / 1e9:.1f} GFLOP a view, at 40 % of 197 TFLOP/s",
            f"{cost['network_flops'] / 1e12:.1f} TFLOP",
            "network_s",
        ),
        (
            "outputs of its convolutions, 5 times past 819 GB/s",
            mb("activation"),
            "activation_traffic_s",
        ),
        (
            f"these with weights, momentum, gradients ({mb('state')}), BatchNorm and ReLU redone "
            "in the backward pass",
            f"{room} in 16 GB",
            None,
        ),
        (
            "NT-Xent's products, each as six of bfloat16, at the same 40 %",
            f"{cost['loss_flops'] / 1e9:.0f} GFLOP",
            "loss_s",
        ),
        ("its whole N x N matrix in float32", mb("similarities"), None),
        ("a chip's rows of that", mb("similarities_of_a_chip"), None),
        ("z of all chips, where it is gathered", mb("z_all"), None),
        ("ring of NT-Xent, one link of 400 Gbit/s", f"{mb('loss_ring')} sent", "loss_ring_s"),
        (f"a hop of it, {cost['hop_bytes'] / 1e3:.0f} kB", hop, None),
        ("all-reduce of the gradients", f"{mb('gradient_ring')} sent", "gradient_ring_s"),
        ("pixels from the host", mb("input"), None),
    ]
    print(
        "On paper: one chip's share of a step of 65,536 images on 256 TPU v5e. The chip's figures "
        "are the\nvendor's, the assumptions stand in `paper`; nothing here is measured.\n"
    )
    print("| what | how much | time |\n|---|---|---|")
    for what, amount, seconds in rows:
        print(f"| {what} | {amount} | {f'{1e3 * cost[seconds]:.2f} ms' if seconds else '-'} |")


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
    parser.add_argument("--paper", action="store_true", help="the calculation for TPU v5e as well")
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
    if options.paper:
        work = resnet50_work()
        cost = paper(work)
        record["paper"] = {"work": work, "cost": cost, "vendor": V5E}
        print()
        print_paper(work, cost)
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
