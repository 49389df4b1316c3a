"""Encoders by the name a flag gives."""

from __future__ import annotations

from typing import Literal, get_args

import jax.numpy as jnp
from flax import nnx

from jaxssl.errors import InputError
from jaxssl.models.backbone import PlanktonBackbone
from jaxssl.models.convnet import ConvNet
from jaxssl.models.resnet import Stem, resnet18, resnet50

EncoderName = Literal["convnet", "resnet18", "resnet50", "efficientnet_v2_s", "tf_efficientnetv2_s"]
# The ImageNet stem would leave a 64 px image 2 x 2 pixels at the end.
LARGEST_CIFAR_STEM = 64
ENCODERS: tuple[str, ...] = get_args(EncoderName)


def make_encoder(
    name: EncoderName,
    *,
    image_size: int,
    channels: int,
    negative_slope: float = 0.0,
    width: int = 64,
    dtype: jnp.dtype = jnp.float32,
    rngs: nnx.Rngs,
) -> nnx.Module:
    """An untrained encoder f: images float32 [b, h, w, c] in [0, 1] -> h float32 [b, features].

    Args:
      name: one of `ENCODERS`. The ResNets have the CIFAR stem up to 64 px, the ImageNet stem above.
        The efficientnets are the plankton study's backbone; the two differ in padding and
        normalisation, for torchvision's weights and for timm's.
      image_size: side of the square images in pixels.
      channels: 1 (grey) or 3 (RGB).
      negative_slope: of the efficientnets' last ReLU; .01 in the later plankton studies.
      width: channels of a ResNet's first stage: 64 as published, 16 for two CPU cores; ResNet-18's
        h has 8 times as many numbers, ResNet-50's 32 times. The other encoders have one width.
      dtype: computes in it (float32 or bfloat16); parameters and h are float32.
      rngs: source of the parameters and of dropout.

    Returns:
      A module with `features` (size of h) and `min_size` (smallest side its strides allow), in
      training mode.

    Raises:
      InputError: for an unknown name, an image size under the encoder's `min_size`, a slope for an
        encoder that is no efficientnet, or a width for one that is no ResNet.

    Example:
      >>> make_encoder("convnet", image_size=16, channels=1, rngs=nnx.Rngs(0)).features
      256
    """
    if negative_slope and "efficientnet" not in name:
        raise InputError(f"LeakyReLU is an option of the efficientnets: {name} has none")
    if width < 1 or (width != 64 and not name.startswith("resnet")):
        raise InputError(f"width {width}: at least 1, and an option of the ResNets, not of {name}")
    stem: Stem = "cifar" if image_size <= LARGEST_CIFAR_STEM else "imagenet"
    match name:
        case "convnet":
            encoder = ConvNet(channels=channels, dtype=dtype, rngs=rngs)
        case "resnet18":
            encoder = resnet18(channels=channels, stem=stem, width=width, dtype=dtype, rngs=rngs)
        case "resnet50":
            encoder = resnet50(channels=channels, stem=stem, width=width, dtype=dtype, rngs=rngs)
        case "efficientnet_v2_s" | "tf_efficientnetv2_s":
            _check_size(name, image_size, PlanktonBackbone.min_size)  # its linear layer needs it
            encoder = PlanktonBackbone(
                image_size=image_size,
                channels=channels,
                negative_slope=negative_slope,
                convention="torchvision" if name == "efficientnet_v2_s" else "tensorflow",
                dtype=dtype,
                rngs=rngs,
            )
        case _:
            raise InputError(
                f"encoder {name!r} does not exist: choose one of {', '.join(ENCODERS)}"
            )
    _check_size(name, image_size, encoder.min_size)
    return encoder


def _check_size(name: str, image_size: int, min_size: int) -> None:
    if image_size < min_size:
        raise InputError(
            f"image size {image_size} is under the {min_size} pixels that {name}'s strides need: "
            "raise --image-size or choose another encoder"
        )
