"""How fast a SimCLR step is: images/s, share of the device's peak, and PyTorch in the same run.

On two CPU cores, three minutes:
  `python scripts/benchmarks/simclr_step.py`

ResNet-18 as on CIFAR-10, on a GPU:
  `python scripts/benchmarks/simclr_step.py --width 64 --batch 512 --steps-per-dispatch 20
  --bfloat16 --seconds 5 --json step.json`

All contenders take turns, one burst each a round, each in a process of its own (`_measure.py`):
beside PyTorch's threads, in one process, JAX's step on a CPU had .78 of PyTorch's rate, and alone
.95 (414e2a0). A ratio is taken inside a round; its median and range over the rounds are printed.
The work of an image is its forward and backward pass, both views, through encoder and head, as XLA
counts it (`Lowered.cost_analysis` before optimisation); the peak is a large matrix product's in the
same run and type. Images are those before augmentation: each is two rows of the network.

What is inside the timing:
  streamed   uint8 batch from host memory to the device, two views, network, NT-Xent, SGD, and what
             a run watches of z (`training.pair_health`)
  resident   the same, the images gathered on the device, several steps a dispatch
  no views   as resident, but the images stand in for their views
  one device   on a CPU: as no views, with one device for all cores; the programs' own are those
             before, with a device a core where there are two
  a device a core   on a CPU: as no views, with as many devices as cores
  XLA's      on a CPU: as no views, with the gradients of convolutions that JAX gives them
  PyTorch    network, NT-Xent, SGD on two batches of views that lie ready on the device: no data,
             no views; float32 on a CPU, autocast to bfloat16 and torch.compile on a GPU;
             channels_last on both
  PyTorch, as it starts   on a CPU: without the programs' setting of malloc, which the others have
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

# Before JAX starts, which measures the peak: the contenders need room on the same GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from _measure import (
    AS_IT_STARTS,
    Run,
    add_flags,
    divide_cpu,
    from_core_to_core,
    measure,
    where_from,
)
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


def streamed(**case: Any) -> Run:
    """Send every batch from the host."""
    return _jax_run(**case, resident=False)


def resident(**case: Any) -> Run:
    """Gather every batch on the device."""
    return _jax_run(**case)


def no_views(**case: Any) -> Run:
    """Gather it and make no views."""
    return _jax_run(**case, views=False)


def by_xla(**case: Any) -> Run:
    """Do that with the gradients of convolutions that JAX gives them."""
    return _jax_run(**case, views=False, change=with_xla)


def one_device(**case: Any) -> Run:
    """Do that with one device for all cores."""
    return _jax_run(**case, views=False, cpu_devices=1)


def by_cores(**case: Any) -> Run:
    """Do that with a device a core, as `--cpu-devices` has it."""
    from jaxssl.lowering import CORES  # another commit may have it elsewhere

    return _jax_run(**case, views=False, cpu_devices=CORES)


def pytorch(width: int, size: int, batch: int, steps: int, **_: Any) -> Run:
    """Run PyTorch's step."""
    theirs = torch_step(width, size, batch, FEATURES, TEMPERATURE)
    ours = nnx.state(nnx.eval_shape(lambda: make_model(width, bfloat16=False)), nnx.Param)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(ours))
    if theirs.parameters != parameters:
        raise AssertionError(f"PyTorch has {theirs.parameters} parameters, JAX {parameters}")
    return lambda: theirs.burst(steps)


CONTENDERS: dict[str, Callable[..., Run]] = {
    "streamed, 1 a dispatch": streamed,
    "resident": resident,
    "no views": no_views,
    "no views, one device": one_device,
    "no views, a device a core": by_cores,
    "no views, XLA's convolutions": by_xla,
    "PyTorch": pytorch,
}
ON_CPU = (
    "no views, one device",
    "no views, a device a core",
    "no views, XLA's convolutions",
)
LIBRARIES = {"PyTorch": ["torch"]}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    options = parse(arguments)
    dtype = jnp.bfloat16 if options.bfloat16 else jnp.float32
    # The network's work, without what our own forms of convolutions add to it on a CPU.
    model = with_xla(make_model(options.width, options.bfloat16))
    work, parameters = work_of_an_image(model, options.size)
    on_cpu = jax.default_backend() == "cpu"
    peak = matmul_peak(dtype, 2048 if on_cpu else 8192) * (1 if on_cpu else jax.device_count())
    names = [*CONTENDERS] if on_cpu else [n for n in CONTENDERS if n not in ON_CPU]
    names += ["PyTorch" + AS_IT_STARTS] * on_cpu
    case = {"steps": options.steps_per_dispatch} | {
        name: getattr(options, name) for name in ("width", "size", "batch", "bfloat16")
    }
    rates = {}
    results = measure(__file__, names, case, options)
    for result in results:
        rates[result.contender] = [options.batch * case["steps"] / s for s in result.seconds]
        if result.note:
            print(f"{result.contender}: {result.note}")
    rows = [
        row(name, values, rates["PyTorch"], work, peak) for name, values in rates.items() if values
    ]
    print(from_core_to_core(results))
    print_table(rows, options, parameters, work, peak)
    if options.json:
        record = {
            **where_from(options),
            "device": devices.summary(),
            "parameters": parameters,
            "flops_per_image": work,
            "peak_flops": peak,
            "handoff_ns": results[0].handoff_ns,
            "rows": rows,
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the flags; their defaults suit two CPU cores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_flags(parser)
    parser.set_defaults(seconds=1.0)
    parser.add_argument("--width", type=int, default=16, help="of ResNet-18's first stage")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=32, help="images a step, two views each")
    parser.add_argument("--steps-per-dispatch", type=int, default=1)
    parser.add_argument("--bfloat16", action="store_true", help="compute in bfloat16 (JAX)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.width, options.size, options.batch = 2, 8, 4
    return options


def make_model(width: int, bfloat16: bool) -> Embedder:
    """Make ResNet-18 with the CIFAR stem and SimCLR's head."""
    dtype, rngs = jnp.bfloat16 if bfloat16 else jnp.float32, nnx.Rngs(0)
    encoder = resnet18(channels=3, stem="cifar", width=width, dtype=dtype, rngs=rngs)
    head = ProjectionHead(
        encoder.features, kind="mlp2", out_features=FEATURES, dtype=dtype, rngs=rngs
    )
    return Embedder(encoder, head)


def simclr(model: Embedder, *, views: bool) -> training.Method:
    """Make the method of `experiments.simclr`, with or without its random views."""

    def loss(model: Any, batch: training.Batch, key: jax.Array, step: jax.Array) -> Any:
        images = batch["image"]
        both = jnp.stack([augment.to_float(images)] * 2)
        if views:
            both = augment.views(key, images, augment.cifar)
        z_a, z_b = model.project(both)
        found = training.pair_health(z_a, z_b) if views else {}
        return nt_xent(z_a, z_b, temperature=TEMPERATURE), found

    sgd = training.make_optimizer("sgd", learning_rate=0.01, total_steps=1, schedule="constant")
    return training.Method("SimCLR", model, loss, sgd)


def _jax_run(
    *,
    width: int,
    size: int,
    batch: int,
    steps: int,
    bfloat16: bool,
    resident: bool = True,
    views: bool = True,
    change: Callable[[Any], Any] = lambda model: model,
    cpu_devices: int | None = None,
) -> Run:
    """Compile this project's step; a run makes so many of them and waits for the last."""
    divide_cpu(cpu_devices, batch)
    devices.keep_compiled(cache_dir() / "xla")
    placement = training.data_placement(batch)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (RESIDENT, size, size, 3), np.uint8)
    index = random.integers(0, len(pixels), batch, np.int32)
    images = placement.reside(pixels.shape, lambda: pixels) if resident else None
    method = simclr(change(make_model(width, bfloat16)), views=views)
    step = training.make_train_step(method, placement, images=images)
    state = placement.replicate(training.create_state(method))
    key = jax.random.key(0)

    def run() -> None:
        nonlocal state
        one = {"index": index} if resident else {"image": pixels[index]}
        if resident and steps > 1:
            state, _ = step.several(state, placement.put_stacked([one] * steps), key)
        else:
            for _ in range(steps):
                state, _ = step(state, placement.put(one), key)
        jax.block_until_ready(state.params)

    return run


def timed(burst: Callable[[int], None], steps: int) -> float:
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
        "rounds": rates,
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
        f", {options.steps_per_dispatch} a dispatch, on {devices.summary()}"
        f", jax {jax.__version__}\n"
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
