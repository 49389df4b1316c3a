"""Training convolutions on a CPU: networks with this project's gradient against XLA's own.

  `taskset -c 0,1 python scripts/benchmarks/convolution.py --json convolution.json`

Each run is forward and backward pass of an encoder on images with random pixels. On a GPU or TPU
both contenders are the same program.
"""

from __future__ import annotations

import argparse

import _measure
import jax
import numpy as np
from flax import nnx

from jaxssl.models import ConvNet, resnet18
from jaxssl.models.convolution import _xla

NETWORKS = {
    "convnet": lambda: ConvNet(channels=3, rngs=nnx.Rngs(0)),
    "resnet18 of width 16": lambda: resnet18(channels=3, stem="cifar", width=16, rngs=nnx.Rngs(0)),
    "resnet18 of width 64": lambda: resnet18(channels=3, stem="cifar", width=64, rngs=nnx.Rngs(0)),
}
CASES = [("convnet", 256), ("resnet18 of width 16", 64), ("resnet18 of width 64", 16)]


def here(network: str, images: int) -> _measure.Run:
    """Run as the programs do."""
    return gradient(NETWORKS[network](), images)


def xla(network: str, images: int) -> _measure.Run:
    """Run `lax.conv_general_dilated` with the gradient that JAX gives it."""
    return gradient(with_xla(NETWORKS[network]()), images)


def with_xla(model: nnx.Module) -> nnx.Module:
    """Give the model's convolutions, in place, the gradient that JAX gives them."""
    for _, part in nnx.iter_modules(model):
        if isinstance(part, nnx.Conv):
            part.conv_general_dilated = lambda x, kernel, strides, padding, **options: _xla(
                x, kernel, strides, padding
            )
    return model


def gradient(model: nnx.Module, images: int) -> _measure.Run:
    """Run forward and backward pass, in training mode."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    pixels = np.random.default_rng(0).random((images, 32, 32, 3), np.float32)

    def loss(params: nnx.State) -> jax.Array:
        return (nnx.merge(graphdef, params, rest, copy=True)(pixels) ** 2).mean()

    compiled = jax.jit(jax.value_and_grad(loss))
    return lambda: float(jax.block_until_ready(compiled(params))[0])


CONTENDERS = {"here": here, "XLA": xla}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _measure.add_flags(parser)
    options = parser.parse_args()
    results = []
    for network, images in CASES[:1] if options.quick else CASES:
        case = {"network": network, "images": images}
        results += _measure.measure(__file__, CONTENDERS, case, options)
    _measure.print_table(results, reference="here")
    _measure.write_json(options.json, options, results, reference="here")


if __name__ == "__main__":
    main()
