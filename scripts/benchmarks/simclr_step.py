"""How fast a SimCLR step is: images/s, share of the device's peak, and PyTorch in the same run.

On two CPU cores, about a minute (more the first time: compiled programs are kept on disk):
  `python scripts/benchmarks/simclr_step.py`

ResNet-18 as on CIFAR-10, on a GPU:
  `python scripts/benchmarks/simclr_step.py --width 64 --batch 512 --steps-per-dispatch 20
  --bfloat16 --seconds 5 --json step.json`

All contenders take turns, one burst each a round, so that a machine that slows down slows all; a
ratio is taken inside a round, and its median and range over the rounds are printed. The work of an
image is its forward and backward pass, both views, through encoder and head, as XLA counts it
(`Lowered.cost_analysis` before optimisation); the peak is a large matrix product's in the same run
and type. Images are those before augmentation: each is two rows of the network.

What is inside the timing:
  streamed   uint8 batch from host memory to the device, two views, network, NT-Xent, SGD
  resident   the same, the images gathered on the device, several steps a dispatch
  no views   as resident, but the images stand in for their views
  XLA's      on a CPU: as no views, with the gradients of convolutions that JAX gives them
  PyTorch    network, NT-Xent, SGD on two batches of views that lie ready on the device: no data,
             no views; float32 on a CPU, autocast to bfloat16 and torch.compile on a GPU;
             channels_last on both
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before JAX starts: PyTorch needs room on the same GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from convolution import with_xla
from flax import nnx
from torch_resnet import torch_step

from jaxssl import augment, training
from jaxssl.files import cache_dir
from jaxssl.losses import nt_xent
from jaxssl.models import Embedder, ProjectionHead, resnet18
from jaxssl.training import devices

FEATURES = 128
TEMPERATURE = 0.5
RESIDENT = 2048  # images on the device: enough that a batch is gathered from all over
Burst = Callable[[int], None]  # makes so many steps and waits for the last


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    options = parse(arguments)
    devices.keep_compiled(cache_dir() / "xla")
    placement = training.data_placement(options.batch)
    dtype = jnp.bfloat16 if options.bfloat16 else jnp.float32

    def make_model() -> Embedder:
        encoder = resnet18(
            channels=3, stem="cifar", width=options.width, dtype=dtype, rngs=nnx.Rngs(0)
        )
        head = ProjectionHead(
            encoder.features, kind="mlp2", out_features=FEATURES, dtype=dtype, rngs=nnx.Rngs(0)
        )
        return Embedder(encoder, head)

    model = make_model()
    pixels = np.random.default_rng(0).integers(
        0, 256, (RESIDENT, options.size, options.size, 3), np.uint8
    )
    by_xla = with_xla(make_model())
    # The network's work, without what our own forms of convolutions add to it on a CPU.
    work, parameters = work_of_an_image(by_xla, options.size)
    contenders = jax_contenders(model, by_xla, pixels, placement, options)
    theirs = torch_step(options.width, options.size, options.batch, FEATURES, TEMPERATURE)
    if theirs is not None:
        contenders["PyTorch"] = theirs.burst
        if theirs.parameters != parameters:
            raise AssertionError(f"PyTorch has {theirs.parameters} parameters, JAX {parameters}")

    rates = measure(contenders, options)
    peak = matmul_peak(dtype, 8192 if jax.default_backend() != "cpu" else 2048)
    peak *= 1 if jax.default_backend() == "cpu" else placement.device_count
    rows = [row(name, values, rates.get("PyTorch"), work, peak) for name, values in rates.items()]
    print_table(rows, options, parameters, work, peak)
    if options.json:
        record = {
            "options": {**vars(options), "json": None},
            "device": devices.summary(),
            "jax": jax.__version__,
            "torch": theirs and theirs.description,
            "parameters": parameters,
            "flops_per_image": work,
            "peak_flops": peak,
            "rows": rows,
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the flags; their defaults suit two CPU cores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=16, help="of ResNet-18's first stage")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=32, help="images a step, two views each")
    parser.add_argument("--steps-per-dispatch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5, help="bursts of each contender")
    parser.add_argument("--seconds", type=float, default=1.0, help="least length of a burst")
    parser.add_argument("--bfloat16", action="store_true", help="compute in bfloat16 (JAX)")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    return parser.parse_args(arguments)


def simclr(model: Embedder, *, views: bool) -> training.Method:
    """Make the method of `experiments.simclr`, with or without its random views."""

    def loss(model: Any, batch: training.Batch, key: jax.Array, step: jax.Array) -> Any:
        images = batch["image"]
        both = jnp.stack([augment.to_float(images)] * 2)
        if views:
            both = augment.views(key, images, augment.cifar)
        z_a, z_b = model.project(both)
        return nt_xent(z_a, z_b, temperature=TEMPERATURE), {}

    sgd = training.make_optimizer("sgd", learning_rate=0.01, total_steps=1, schedule="constant")
    return training.Method("SimCLR", model, loss, sgd)


def jax_contenders(
    model: Embedder,
    by_xla: Embedder,
    pixels: np.ndarray,
    placement: devices.Placement,
    options: argparse.Namespace,
) -> dict[str, Burst]:
    """Compile this project's step in its ways of being called."""
    resident = placement.reside(pixels.shape, lambda: pixels)
    index = np.random.default_rng(1).integers(0, len(pixels), options.batch, np.int32)
    k = options.steps_per_dispatch

    def contender(
        images: jax.Array | None, k: int, views: bool = True, model: Embedder = model
    ) -> Burst:
        method = simclr(model, views=views)
        step = training.make_train_step(method, placement, images=images)
        state = placement.replicate(training.create_state(method))
        key = jax.random.key(0)

        def burst(steps: int) -> None:
            nonlocal state
            for _ in range(steps // k):
                batch = {"index": index} if images is not None else {"image": pixels[index]}
                if k > 1:
                    state, _ = step.several(state, placement.put_stacked([batch] * k), key)
                else:
                    state, _ = step(state, placement.put(batch), key)
            jax.block_until_ready(state.params)

        return burst

    contenders = {
        "streamed, 1 a dispatch": contender(None, 1),
        f"resident, {k} a dispatch": contender(resident, k),
        f"no views, {k} a dispatch": contender(resident, k, views=False),
    }
    if jax.default_backend() == "cpu":
        name = f"no views, {k} a dispatch, XLA's convolutions"
        contenders[name] = contender(resident, k, views=False, model=by_xla)
    return contenders


def measure(contenders: dict[str, Burst], options: argparse.Namespace) -> dict[str, list[float]]:
    """Measure images/s of every contender in every round; each burst is as long as asked for."""
    k = options.steps_per_dispatch
    steps = {}
    for name, burst in contenders.items():
        print(f"compiling: {name}", file=sys.stderr, flush=True)
        burst(k)
        took = timed(burst, k)
        steps[name] = k * max(1, round(options.seconds / took))
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, burst in contenders.items():
            rates[name].append(options.batch * steps[name] / timed(burst, steps[name]))
    return rates


def timed(burst: Burst, steps: int) -> float:
    """Time a burst, in seconds."""
    begin = time.perf_counter()
    burst(steps)
    return time.perf_counter() - begin


def work_of_an_image(model: Embedder, size: int) -> tuple[float, int]:
    """Count FLOPs of both passes of an image's two views, and the network's parameters.

    As for a CPU, whatever is there: before a GPU's programs are compiled nothing is counted, and
    then without what its libraries do.
    """
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params: Any, rest: Any, images: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params, rest, copy=True)(images)[1].sum()

    images = jnp.zeros((2, size, size, 3))
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        lowered = jax.jit(jax.grad(loss)).lower(params, rest, images)
    flops = lowered.cost_analysis()["flops"]
    return flops, sum(leaf.size for leaf in jax.tree.leaves(params))


def matmul_peak(dtype: jnp.dtype, side: int) -> float:
    """Measure FLOP/s of the best of ten products of square matrices on one device."""
    a = jax.random.normal(jax.random.key(0), (side, side), dtype)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    repeats = 10 if jax.default_backend() != "cpu" else 1  # so that the start weighs nothing

    def burst(steps: int) -> None:
        for _ in range(steps):
            last = product(a)
        last.block_until_ready()

    return 2 * side**3 * repeats / min(timed(burst, repeats) for _ in range(10))


def row(
    name: str, rates: list[float], reference: list[float] | None, work: float, peak: float
) -> dict[str, Any]:
    """Make a row: medians and ranges of a contender, alone and against PyTorch round by round."""
    ratios = [a / b for a, b in zip(rates, reference or [], strict=False)]
    return {
        "name": name,
        "images_per_second": statistics.median(rates),
        "lowest": min(rates),
        "highest": max(rates),
        "share_of_peak": statistics.median(rates) * work / peak,
        "ratio": statistics.median(ratios) if ratios else None,
        "ratio_lowest": min(ratios, default=None),
        "ratio_highest": max(ratios, default=None),
    }


def print_table(
    rows: list[dict[str, Any]],
    options: argparse.Namespace,
    parameters: int,
    work: float,
    peak: float,
) -> None:
    """Print the table in Markdown."""
    print(
        f"ResNet-18, width {options.width} ({parameters:,} parameters with head), "
        f"{options.size} px, batch {options.batch}, {'bfloat16' if options.bfloat16 else 'float32'}"
        f", on {devices.summary()}, jax {jax.__version__}\n"
        f"{work / 1e9:.3g} GFLOP an image, peak {peak / 1e12:.3g} TFLOP/s, "
        f"{options.rounds} rounds: median (range)\n"
    )
    print("| step | images/s | share of peak | times PyTorch |\n|---|---|---|---|")
    for r in rows:
        ratio = "-"
        if r["ratio"] is not None and r["name"] != "PyTorch":
            ratio = f"{r['ratio']:.2f} ({r['ratio_lowest']:.2f}-{r['ratio_highest']:.2f})"
        print(
            f"| {r['name']} | {r['images_per_second']:,.0f} ({r['lowest']:,.0f}-"
            f"{r['highest']:,.0f}) | {r['share_of_peak']:.1%} | {ratio} |"
        )


if __name__ == "__main__":
    main()
