"""How fast every encoder is, forward and in training, beside the same network in PyTorch.

  `taskset -c 0,1 python scripts/benchmarks/encoders.py --json encoders.json`

One encoder of each family, to stay within ten minutes on two quiet cores; `--encoders` names
others. `--images 64 --rounds 5` is steadier and longer.

Forward is in evaluation mode, as `embed` runs it; a step is forward and backward pass in training
mode and a step of SGD, without data and views; "step, kept" has BatchNorm keep its statistics, as
from pretrained weights. "Folded": BatchNorm in the convolutions' weights.
"As it starts": without the programs' setting of malloc, which all others have.
"Here" has as many devices as the programs: one a core where there are two, else one.
"XLA's depthwise" is this project's encoder with `lax.conv_general_dilated` in the place of its own
depthwise convolution.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import _measure
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxssl import lowering, training
from jaxssl.lowering import CORES
from jaxssl.models import ENCODERS, fold_batch_norm, keep_statistics, make_encoder
from jaxssl.models.depthwise import convolve_depthwise
from jaxssl.training import devices

RATE = 0.01
FAMILIES = [*("convnet", "resnet18", "resnet50", "efficientnet_lite0", "dinov2_s", "plankton_v2_s")]


def here(**case: Any) -> _measure.Run:
    """Run as the programs do."""
    return _run_jax(lambda: _encoder(**case), **case)


def one_device(**case: Any) -> _measure.Run:
    """Run with one device for all cores."""
    return _run_jax(lambda: _encoder(**case), cpu_devices=1, **case)


def by_cores(**case: Any) -> _measure.Run:
    """Run with a device a core."""
    return _run_jax(lambda: _encoder(**case), cpu_devices=CORES, **case)


def here_folded(**case: Any) -> _measure.Run:
    """Run with BatchNorm folded."""
    return _run_jax(lambda: fold_batch_norm(_encoder(**case)), **case)


def xla(**case: Any) -> _measure.Run:
    """Run depthwise convolutions and their gradients as JAX has them."""

    def make() -> Any:
        encoder = _encoder(**case)
        for _, part in nnx.iter_modules(encoder):
            if getattr(part, "conv_general_dilated", None) is convolve_depthwise:
                part.conv_general_dilated = jax.lax.conv_general_dilated
        return encoder

    return _run_jax(make, **case)


def torch_as_it_is(**case: Any) -> _measure.Run:
    """Run PyTorch, channels first."""
    return _run_torch(lambda network: network, last=False, **case)


def torch_channels_last(**case: Any) -> _measure.Run:
    """Run PyTorch, channels last in memory."""
    return _run_torch(lambda network: network, last=True, **case)


def torch_folded(**case: Any) -> _measure.Run:
    """Run PyTorch, channels last, BatchNorm folded."""
    from torch_encoders import folded

    return _run_torch(folded, last=True, **case)


CONTENDERS: dict[str, Callable[..., _measure.Run]] = {
    "here": here,
    "here, one device": one_device,
    "here, a device a core": by_cores,
    "here, folded": here_folded,
    "XLA's depthwise": xla,
    "PyTorch": torch_as_it_is,
    "PyTorch, channels_last": torch_channels_last,
    "PyTorch, folded": torch_folded,
}
LIBRARIES = {name: ["torch"] for name in CONTENDERS if name.startswith("PyTorch")}


def contenders(encoder: str, work: str) -> list[str]:
    """List the contenders that mean something for an encoder and a forward pass or a step."""
    out = set()
    if work != "forward" or encoder.startswith("dinov2"):
        out |= {"here, folded", "PyTorch, folded"}
    if not encoder.startswith("efficientnet_lite"):
        out.add("XLA's depthwise")
    # What "here" is already.
    out.add("here, a device a core" if CORES <= devices.CORES_APART else "here, one device")
    names = [name for name in CONTENDERS if name not in out]
    # The form of PyTorch that is the quickest in most cases.
    best = "PyTorch, folded" if "PyTorch, folded" in names else "PyTorch, channels_last"
    return [*names, best + _measure.AS_IT_STARTS]


def _encoder(encoder: str, pixels: int, **_: Any) -> Any:
    return make_encoder(encoder, image_size=pixels, channels=3, rngs=nnx.Rngs(0))


def _run_jax(
    make: Callable[[], Any],
    *,
    pixels: int,
    images: int,
    work: str,
    cpu_devices: int | None = None,
    **_: Any,
) -> _measure.Run:
    _measure.divide_cpu(cpu_devices, images)
    model = make()
    placement = training.data_placement(images)
    whole, options = placement.replicated, placement.compiler_options
    pixels_of = np.random.default_rng(0).random((images, pixels, pixels, 3), np.float32)
    x = placement.put({"image": pixels_of})["image"]
    made_for = lowering.made_for(placement.mesh)
    if work == "forward":
        model.eval()
        graphdef, state = nnx.split(model)
        state = placement.replicate(state)
        forward = jax.jit(
            made_for(lambda state, x: nnx.merge(graphdef, state, copy=True)(x)),
            in_shardings=(whole, placement.sharded),
            out_shardings=placement.sharded,
            compiler_options=options,
        )
        # To the host, as in `embed`.
        return lambda: float(np.asarray(forward(state, x))[0, 0])
    if work == "step, kept":
        keep_statistics(model)
    graphdef, *both = nnx.split(model, nnx.Param, ...)
    params, rest = placement.replicate(both)

    def step(
        params: nnx.State, rest: nnx.State, x: jax.Array
    ) -> tuple[nnx.State, nnx.State, jax.Array]:
        def loss(params: nnx.State) -> tuple[jax.Array, nnx.State]:
            merged = nnx.merge(graphdef, params, rest, copy=True)
            return jnp.mean(merged(x) ** 2), nnx.split(merged, nnx.Param, ...)[2]

        (value, after), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - RATE * g, params, gradient), after, value

    compiled = jax.jit(
        made_for(step),
        in_shardings=(whole, whole, placement.sharded),
        donate_argnums=(0, 1),
        out_shardings=whole,
        compiler_options=options,
    )

    def run() -> jax.Array:
        nonlocal params, rest
        params, rest, value = compiled(params, rest, x)
        # All a step gives is there at once. Nothing is fetched: the programs do so every ten steps.
        return value.block_until_ready()

    return run


def _run_torch(
    change: Callable[[Any], Any],
    *,
    last: bool,
    encoder: str,
    pixels: int,
    images: int,
    work: str,
) -> _measure.Run:
    import torch
    from torch_encoders import torch_encoder

    torch.manual_seed(0)
    form = torch.channels_last if last else torch.contiguous_format
    network = change(torch_encoder(encoder, pixels)).to(memory_format=form)
    x = torch.rand(images, 3, pixels, pixels).contiguous(memory_format=form)
    if work == "forward":
        network.eval()

        def forward() -> float:
            with torch.inference_mode():
                return float(network(x)[0, 0])

        return forward
    network.train()
    if work == "step, kept":
        for part in network.modules():
            part.train(not isinstance(part, torch.nn.BatchNorm2d))
    optimizer = torch.optim.SGD(network.parameters(), RATE)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = (network(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _measure.add_flags(parser)
    parser.set_defaults(rounds=3)
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=FAMILIES)
    parser.add_argument("--pixels", type=int, default=128, help="side of the images")
    parser.add_argument("--images", type=int, default=16, help="in a batch")
    options = parser.parse_args()
    if options.quick:
        options.encoders, options.pixels, options.images = ["efficientnet_lite0"], 32, 2
    results = []
    for encoder in options.encoders:
        works = ["forward", "step", "step, kept"]
        for work in works[:2] if encoder.startswith("dinov2") else works:
            case = {
                "encoder": encoder,
                "pixels": options.pixels,
                "images": options.images,
                "work": work,
            }
            results += _measure.measure(__file__, contenders(encoder, work), case, options)
    _measure.print_table(results, reference="here")
    _measure.write_json(options.json, options, results, reference="here")


if __name__ == "__main__":
    main()
