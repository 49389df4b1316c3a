"""Geometry of one image: rotation, crop, flip and resize as ONE resampling with a fill colour.

A transform is a 3x3 matrix that maps a position of the OUTPUT to the position of the input it is
read from: `(row, column, 1)` in pixels, counted from the image's centre. `compose(first, second)`
is the image going through `first`, then through `second`; however long the chain, `warp` reads
the pixels once, so nothing is blurred twice and what falls outside is filled once.

Images are float32 [h, w, c] in [0, 1]; the caller vmaps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxssl.augment import resample

_TRIES = 10  # torchvision's: windows drawn before the crop falls back to the centre


class Window(NamedTuple):
    """A rectangle of an image in pixels; the numbers may be traced."""

    top: ArrayLike
    left: ArrayLike
    height: ArrayLike
    width: ArrayLike


def check_image(image: ArrayLike) -> Array:
    """Return `image` as an array; raise `ValueError` unless it is float32 [h, w, 1 or 3]."""
    image = jnp.asarray(image)
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or image.dtype != jnp.float32:
        raise ValueError(
            f"an image is float32 [h, w, 1 or 3], got {image.dtype} {list(image.shape)} "
            "(vmap over a batch; to_float converts uint8)"
        )
    return image


def compose(*transforms: Array) -> Array:
    """Compose `transforms` into one transform that applies them from left to right.

    Args:
        *transforms: [3, 3] each, output position -> input position.

    Returns:
        [3, 3], their matrix product.

    Example:
        >>> turn = compose(rotation(math.pi / 2), rotation(-math.pi / 2))
        >>> bool(jnp.allclose(turn, jnp.eye(3), atol=1e-6))
        True
    """
    product = transforms[0]
    for transform in transforms[1:]:
        # A TPU multiplies in bfloat16 unless told otherwise: a tenth of a pixel at the border.
        product = jnp.matmul(product, transform, precision=lax.Precision.HIGHEST)
    return product


def rotation(angle: ArrayLike) -> Array:
    """Make the transform that turns an image counter-clockwise by `angle` radians."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return _matrix((cos, sin, 0.0), (-sin, cos, 0.0))


def scaling(rows: ArrayLike, columns: ArrayLike) -> Array:
    """Make the transform that enlarges an image by these factors (> 0) about its centre."""
    return _matrix((1.0 / rows, 0.0, 0.0), (0.0, 1.0 / columns, 0.0))


def translation(rows: ArrayLike, columns: ArrayLike) -> Array:
    """Make the transform that moves an image by so many pixels downwards and to the right."""
    return _matrix((1.0, 0.0, -jnp.asarray(rows)), (0.0, 1.0, -jnp.asarray(columns)))


def flip(flipped: ArrayLike) -> Array:
    """Make the transform that mirrors an image left to right where `flipped` is true."""
    return _matrix((1.0, 0.0, 0.0), (0.0, jnp.where(flipped, -1.0, 1.0), 0.0))


def crop(window: Window, *, shape: tuple[int, int], size: tuple[int, int] | None = None) -> Array:
    """Make the transform that cuts `window` out of an image and resizes it.

    Args:
        window: the rectangle, in pixels of the image.
        shape: (h, w) of the image that is cut.
        size: (h, w) of the result; by default `shape`.

    Returns:
        [3, 3]; give `warp` the same `size`.
    """
    size = shape if size is None else size
    rows = window.top + (window.height - shape[0]) / 2
    columns = window.left + (window.width - shape[1]) / 2
    return _matrix((window.height / size[0], 0.0, rows), (0.0, window.width / size[1], columns))


def warp(
    image: ArrayLike,
    matrix: ArrayLike,
    *,
    size: tuple[int, int] | None = None,
    fill: float | Sequence[float] = 1.0,
) -> Array:
    """Resample an image through an affine transform, bilinearly.

    out(p) = sum_q max(0, 1 - |dy|) max(0, 1 - |dx|) image(q), with (dy, dx) = matrix·p - q and
    image(q) = fill at every grid point q outside the image.

    There is no low-pass filter: right where the result shows the image at its own scale or
    larger. Where it shrinks (a `size` below the window cut out), pixels between the samples are
    passed over and fine structure aliases; `random_resized_crop` filters instead.

    On a TPU it takes two passes of one-dimensional interpolation (`resample.in_two_passes`), the
    same for crops, flips, zooms and shifts; at other angles than quarter turns it differs by less
    than 7e-4 on average on smooth images.

    Args:
        image: float32 [h, w, c] in [0, 1].
        matrix: [3, 3], output position -> input position in centred pixels, last row (0, 0, 1).
        size: (h, w) of the result, static; by default the image's.
        fill: colour outside the image, one number or one a channel, in [0, 1].

    Returns:
        float32 [*size, c], in the range of the image and the fill.

    Raises:
        ValueError: the image is not float32 [h, w, 1 or 3], or `fill` has not 1 or c numbers
            in [0, 1].

    Reference:
        Jaderberg et al. 2015, Spatial Transformer Networks, eq. 5 (bilinear kernel).

    Example:
        >>> black = jnp.zeros((9, 9, 1))
        >>> warp(black, rotation(math.pi / 4))[0, ::4, 0].tolist()  # white corners, black between
        [1.0, 0.0, 1.0]
    """
    image = check_image(image)
    size = (image.shape[0], image.shape[1]) if size is None else size
    color = _fill_color(fill, image)
    # A TPU has no use for a gather of pixels. Which is taken goes by the platform that is compiled
    # for, whatever the host's own is; the other leaves nothing in the program.
    return lax.platform_dependent(
        image,
        matrix,
        color,
        tpu=partial(resample.in_two_passes, size=size),
        default=partial(resample.by_gather, size=size),
    )


def random_rotation(
    key: Array, image: ArrayLike, *, degrees: float = 180.0, fill: float | Sequence[float] = 1.0
) -> Array:
    """Rotate an image about its centre by an angle uniform in [-degrees, degrees].

    Args:
        key: a PRNG key.
        image: float32 [h, w, c] in [0, 1].
        degrees: largest angle, in [0, 180]; 180 is any angle.
        fill: colour of the corners that come from outside, one number or one a channel, in [0, 1].

    Returns:
        float32 [h, w, c].

    Raises:
        ValueError: `degrees` outside [0, 180], or not an image.

    Example:
        >>> random_rotation(jax.random.key(0), jnp.ones((8, 8, 3))).shape
        (8, 8, 3)
    """
    return warp(image, rotation(random_angle(key, degrees=degrees)), fill=fill)


def random_angle(key: Array, *, degrees: float) -> Array:
    """Draws an angle in radians, uniform in [-degrees, degrees], degrees in [0, 180]."""
    if not 0 <= degrees <= 180:
        raise ValueError(f"degrees must lie in [0, 180], got {degrees}")
    limit = math.radians(degrees)
    return jax.random.uniform(key, (), jnp.float32, -limit, limit)


def random_flip(key: Array, image: ArrayLike, *, p: float = 0.5) -> Array:
    """Mirror an image left to right with probability p.

    Args:
        key: a PRNG key.
        image: float32 [h, w, c].
        p: probability, in [0, 1].

    Returns:
        float32 [h, w, c].

    Raises:
        ValueError: `p` outside [0, 1], or not an image.

    Example:
        >>> random_flip(jax.random.key(0), jnp.array([[[0.0], [1.0]]]), p=1.0).ravel().tolist()
        [1.0, 0.0]
    """
    image = check_image(image)
    return jnp.where(random_chance(key, p=p), image[:, ::-1], image)


def random_chance(key: Array, *, p: float) -> Array:
    """Draws True with probability p in [0, 1]: never for 0, always for 1."""
    if not 0 <= p <= 1:
        raise ValueError(f"a probability must lie in [0, 1], got {p}")
    return jax.random.bernoulli(key, p)


def random_resized_crop(
    key: Array,
    image: ArrayLike,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    size: tuple[int, int] | None = None,
) -> Array:
    """Cut a random window out of an image and resize it, bilinearly.

    The window's law is `random_window`'s. The resize is two small matrix products (rows, columns:
    no gather), it repeats the image's edge rather than blending with a fill, and where `size` is
    smaller than the window it widens the triangle kernel by that factor, so nothing aliases: the
    same numbers as Pillow's `resize(size, BILINEAR, box=window)` on a float image. (torchvision
    cuts first, so its outermost half pixel repeats the window's edge; here it sees its neighbour.)

    Args:
        key: a PRNG key.
        image: float32 [h, w, c] in [0, 1].
        area: least and greatest share of the image's area, 0 < least <= greatest <= 1.
        aspect: least and greatest width / height, 0 < least <= greatest.
        size: (h, w) of the result, static; by default the image's.

    Returns:
        float32 [*size, c] in [0, 1].

    Raises:
        ValueError: a range that is empty or out of bounds, or not an image.

    Reference:
        Szegedy et al. 2015, Going Deeper with Convolutions, section 6; Chen et al. 2020 (SimCLR),
        appendix A.

    Example:
        >>> image = jnp.ones((32, 32, 3))
        >>> random_resized_crop(jax.random.key(0), image, size=(16, 16)).shape
        (16, 16, 3)
    """
    image = check_image(image)
    h, w, c = image.shape
    size = (h, w) if size is None else size
    window = random_window(key, shape=(h, w), area=area, aspect=aspect)
    scale = jnp.stack([size[0] / window.height, size[1] / window.width])
    start = jnp.stack([window.top, window.left])
    resized = jax.image.scale_and_translate(
        image, (*size, c), (0, 1), scale, -start * scale, method="linear", antialias=True
    )
    return jnp.clip(resized, 0.0, 1.0)  # the weights sum to 1 only up to rounding


def random_window(
    key: Array,
    *,
    shape: tuple[int, int],
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> Window:
    """Draws a window of an image by torchvision's law for RandomResizedCrop.

    Share of the area uniform, logarithm of the aspect uniform, sides rounded to whole pixels;
    the first of 10 draws that fits the image is placed uniformly on the pixel grid. All 10 are
    drawn at once, so the shape is static. If none fits: the largest central window of an allowed
    aspect.

    Args:
        key: a PRNG key.
        shape: (h, w) of the image.
        area: least and greatest share of the image's area, 0 < least <= greatest <= 1.
        aspect: least and greatest width / height, 0 < least <= greatest.

    Returns:
        A `Window` of float32 scalars, whole numbers.

    Raises:
        ValueError: a range that is empty or out of bounds.
    """
    if not 0 < area[0] <= area[1] <= 1:
        raise ValueError(f"area must satisfy 0 < least <= greatest <= 1, got {area}")
    if not 0 < aspect[0] <= aspect[1]:
        raise ValueError(f"aspect must satisfy 0 < least <= greatest, got {aspect}")
    h, w = shape
    # One draw of 22 numbers: three draws of 10, 10 and 2 take six times as long to compile.
    draws = jax.random.uniform(key, (2 * _TRIES + 2,), jnp.float32)
    share = area[0] + (area[1] - area[0]) * draws[:_TRIES]
    low, high = math.log(aspect[0]), math.log(aspect[1])
    ratio = jnp.exp(low + (high - low) * draws[_TRIES:-2])
    heights, widths = (
        jnp.round(jnp.sqrt(h * w * share / ratio)),
        jnp.round(jnp.sqrt(h * w * share * ratio)),
    )
    fits = (heights >= 1) & (heights <= h) & (widths >= 1) & (widths <= w)

    nearest = min(max(w / h, aspect[0]), aspect[1])  # the allowed aspect nearest to the image's
    central = min(h, round(w / nearest)), min(w, round(h * nearest))
    first, found = jnp.argmax(fits), fits.any()
    height = jnp.where(found, heights[first], central[0])
    width = jnp.where(found, widths[first], central[1])
    top = jnp.where(found, jnp.floor(draws[-2] * (h - height + 1)), (h - central[0]) // 2)
    left = jnp.where(found, jnp.floor(draws[-1] * (w - width + 1)), (w - central[1]) // 2)
    return Window(top, left, height, width)


def _fill_color(fill: float | Sequence[float], image: Array) -> Array:
    channels = image.shape[-1]
    color = jnp.asarray(fill, image.dtype)
    if color.shape not in ((), (1,), (channels,)):
        raise ValueError(
            f"fill is one number or one a channel: {channels} channels, got fill={fill}"
        )
    if not all(0 <= number <= 1 for number in (fill if isinstance(fill, Sequence) else (fill,))):
        raise ValueError(f"fill must lie in [0, 1], got {fill}")
    return color


def _matrix(rows: tuple[ArrayLike, ...], columns: tuple[ArrayLike, ...]) -> Array:
    return jnp.stack(
        [
            jnp.stack([jnp.asarray(v, jnp.float32) for v in row])
            for row in (rows, columns, (0, 0, 1))
        ]
    )
