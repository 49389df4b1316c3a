"""Colour of one image: brightness, contrast, saturation, hue, greyscale and blur.

The formulas are torchvision's (Pillow's `ImageEnhance`) on floats. Images are float32 [h, w, c]
in [0, 1], c = 1 or 3, and stay so; hue and saturation leave a grey image (c = 1) as it is. The
caller vmaps, so nothing here branches: under vmap every branch would run for every image.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxssl.augment.geometry import check_image, random_chance

_BLENDS = _BRIGHTNESS, _CONTRAST, _SATURATION = range(3)
_HUE = 3


def to_grey(image: ArrayLike) -> Array:
    """Return the luma of an image in all its channels: .299 r + .587 g + .114 b.

    Args:
        image: float32 [h, w, c] in [0, 1].

    Returns:
        float32 [h, w, c]; the image itself where c = 1.

    Raises:
        ValueError: not an image.

    Reference:
        ITU-R BT.601, as in Pillow's `convert("L")`.

    Example:
        >>> [round(value, 3) for value in to_grey(jnp.array([[[1.0, 0.0, 0.0]]])).ravel().tolist()]
        [0.299, 0.299, 0.299]
    """
    image = check_image(image)
    if image.shape[-1] == 1:
        return image
    red, green, blue = image[..., :1], image[..., 1:2], image[..., 2:]
    # As differences from green, so that grey stays the same number and white stays white.
    luma = green + 0.299 * (red - green) + 0.114 * (blue - green)
    return jnp.broadcast_to(luma, image.shape)


def adjust_brightness(image: ArrayLike, factor: ArrayLike) -> Array:
    """Scale an image: clip(factor · x). 0 is black, 1 the image; `factor` >= 0.

    Example:
        >>> adjust_brightness(jnp.full((1, 1, 1), 0.5), 1.5).item()
        0.75
    """
    image = check_image(image)
    return _blend(image, jnp.zeros_like(image), factor)


def adjust_contrast(image: ArrayLike, factor: ArrayLike) -> Array:
    """Blend an image with its mean grey m: clip(factor · x + (1 - factor) · m); `factor` >= 0.

    Example:
        >>> adjust_contrast(jnp.array([[[0.25], [0.75]]]), 2.0).ravel().tolist()
        [0.0, 1.0]
    """
    image = check_image(image)
    return _blend(image, _mean_grey(image), factor)


def adjust_saturation(image: ArrayLike, factor: ArrayLike) -> Array:
    """Blend an image with its grey: clip(factor · x + (1 - factor) · grey); `factor` >= 0.

    Example:
        >>> image = jnp.array([[[1.0, 0.0, 0.0]]])
        >>> bool((adjust_saturation(image, 0.0) == to_grey(image)).all())
        True
    """
    image = check_image(image)
    return _blend(image, to_grey(image), factor)


def adjust_hue(image: ArrayLike, shift: ArrayLike) -> Array:
    """Turn the colour circle: add `shift` to the hue in HSV, modulo 1.

    With v = max, chroma d = max - min and hue H in sixths of the circle, channel n is
    v - d · clip(min(k, 4 - k), 0, 1), k = (n + H + 6 shift) mod 6, n = 5, 3, 1 for r, g, b.

    Args:
        image: float32 [h, w, c] in [0, 1].
        shift: in turns; torchvision allows [-.5, .5].

    Returns:
        float32 [h, w, c]; the image itself where c = 1 or where a pixel is grey.

    Raises:
        ValueError: not an image.

    Reference:
        Smith 1978, Color Gamut Transform Pairs (HSV); the closed form back is Foley & van Dam's.

    Example:
        >>> adjust_hue(jnp.array([[[1.0, 0.0, 0.0]]]), 1 / 3).round(5).ravel().tolist()  # red
        [0.0, 1.0, 0.0]
    """
    image = check_image(image)
    if image.shape[-1] == 1:
        return image
    red, green, blue = image[..., :1], image[..., 1:2], image[..., 2:]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    unit = jnp.where(chroma > 0, chroma, 1.0)
    sixths = jnp.where(
        value == red,
        (green - blue) / unit,
        jnp.where(value == green, 2 + (blue - red) / unit, 4 + (red - green) / unit),
    )
    k = sixths + 6 * shift + jnp.array([5.0, 3.0, 1.0], image.dtype).reshape(1, 1, 3)
    k = k - 6 * jnp.floor(k / 6)
    return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0.0, 1.0)


def color_jitter(
    key: Array,
    image: ArrayLike,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> Array:
    """Jitter brightness, contrast, saturation and hue, in random order.

    Each of the first three draws a factor uniform in [max(0, 1 - s), 1 + s], hue a shift uniform
    in [-s, s]; 0 turns one off. All orders of those that are on are equally likely.

    The order costs no branch. Brightness, contrast and saturation are one formula, a blend with
    black, with the mean grey or with the grey; so each of their turns is one blend with a
    selected partner. Hue runs once, between the turns that come before it and those after it;
    a blend whose turn is on the other side gets factor 1, which returns the image bit for bit.

    Args:
        key: a PRNG key.
        image: float32 [h, w, c] in [0, 1].
        brightness: strength, >= 0.
        contrast: strength, >= 0.
        saturation: strength, >= 0; without effect where c = 1.
        hue: strength in turns, in [0, .5]; without effect where c = 1.

    Returns:
        float32 [h, w, c] in [0, 1].

    Raises:
        ValueError: a strength out of its range, or not an image.

    Reference:
        torchvision.transforms.ColorJitter; Chen et al. 2020 (SimCLR), appendix A.

    Example:
        >>> image = jnp.full((4, 4, 3), 0.5)
        >>> jittered = color_jitter(jax.random.key(0), image, brightness=0.2, hue=0.3)
        >>> bool((abs(jittered - image) <= 0.1).all())
        True
    """
    image = check_image(image)
    strengths = (brightness, contrast, saturation)
    if min(strengths) < 0 or not 0 <= hue <= 0.5:
        raise ValueError(
            "brightness, contrast and saturation must be >= 0 and hue in [0, .5], "
            f"got {strengths} and {hue}"
        )
    draws = jax.random.uniform(key, (8,), jnp.float32)  # 3 factors, the shift, 4 ranks
    low = jnp.array([max(0.0, 1 - s) for s in strengths], jnp.float32)
    high = jnp.array([1 + s for s in strengths], jnp.float32)
    factors = jnp.append(low + (high - low) * draws[:3], 1.0)  # hue's turn among blends: nothing

    colored = image.shape[-1] == 3
    ops = [op for op in _BLENDS if strengths[op] > 0 and (colored or op != _SATURATION)]
    if hue == 0 or not colored:
        for op in jnp.array(ops, jnp.int32)[jnp.argsort(draws[4 : 4 + len(ops)])]:
            image = _jitter(image, op, factors[op])
        return image
    order = jnp.array([*ops, _HUE], jnp.int32)[jnp.argsort(draws[4 : 5 + len(ops)])]
    turn = jnp.argmax(order == _HUE)
    for i in range(len(ops)):
        image = _jitter(image, order[i], jnp.where(i < turn, factors[order[i]], 1.0))
    image = adjust_hue(image, hue * (2 * draws[3] - 1))
    for i in range(1, len(ops) + 1):
        image = _jitter(image, order[i], jnp.where(i > turn, factors[order[i]], 1.0))
    return image


def _jitter(image: Array, op: Array, factor: Array) -> Array:
    """Adjust brightness, contrast or saturation, as the traced `op` says."""
    partner = jnp.where(op == _CONTRAST, _mean_grey(image), to_grey(image))
    return _blend(image, jnp.where(op == _BRIGHTNESS, 0.0, partner), factor)


def _mean_grey(image: Array) -> Array:
    """Average the grey image to [1, 1, c]; grey is linear, so this is the mean pixel's grey."""
    return to_grey(image.mean((0, 1), keepdims=True))


def _blend(image: Array, other: Array, factor: ArrayLike) -> Array:
    return jnp.clip(factor * image + (1.0 - factor) * other, 0.0, 1.0)


def random_grey(key: Array, image: ArrayLike, *, p: float = 0.2) -> Array:
    """Replace an image by its grey, in all channels, with probability p in [0, 1].

    Example:
        >>> grey = random_grey(jax.random.key(0), jnp.array([[[1.0, 0.0, 0.0]]]), p=1.0)
        >>> bool((grey == grey[..., :1]).all())
        True
    """
    image = check_image(image)
    return jnp.where(random_chance(key, p=p), to_grey(image), image)


def gaussian_blur(image: ArrayLike, sigma: ArrayLike, *, kernel: int) -> Array:
    """Blur an image with a Gaussian kernel; borders are reflected, the edge not repeated.

    w_j = exp(-j² / 2 sigma²) / sum, |j| <= (kernel - 1) / 2, along rows and along columns.

    Args:
        image: float32 [h, w, c] in [0, 1].
        sigma: standard deviation in pixels, > 0; may be traced.
        kernel: odd number of taps, static; at most 2 min(h, w) - 1.

    Returns:
        float32 [h, w, c] in [0, 1].

    Raises:
        ValueError: an even kernel or one too wide for the image, or not an image.

    Reference:
        torchvision.transforms.functional.gaussian_blur.

    Example:
        >>> image = jnp.zeros((3, 3, 1)).at[1, 1].set(1.0)
        >>> round(gaussian_blur(image, 1.0, kernel=3)[1, 1].item(), 4)
        0.2042
    """
    return _blur(image, kernel, sigma, limit=kernel)


def random_blur(key: Array, image: ArrayLike, *, kernel_max: int = 11) -> Array:
    """Blur an image with a Gaussian of random odd kernel size 1, 3, ..., kernel_max.

    sigma = 0.3 ((kernel - 1) / 2 - 1) + 0.8, OpenCV's rule; kernel 1 is the image itself.

    Args:
        key: a PRNG key.
        image: float32 [h, w, c] in [0, 1].
        kernel_max: largest kernel, odd; at most 2 min(h, w) - 1.

    Returns:
        float32 [h, w, c] in [0, 1].

    Raises:
        ValueError: `kernel_max` even or too wide for the image, or not an image.

    Reference:
        OpenCV, getGaussianKernel.

    Example:
        >>> random_blur(jax.random.key(0), jnp.ones((8, 8, 1)), kernel_max=5).shape
        (8, 8, 1)
    """
    kernel = 2 * jax.random.randint(key, (), 0, (kernel_max + 1) // 2) + 1
    sigma = 0.15 * kernel.astype(jnp.float32) + 0.35
    return _blur(image, kernel, sigma, limit=kernel_max)


def random_gaussian_blur(
    key: Array,
    image: ArrayLike,
    *,
    kernel: int,
    p: float = 0.5,
    sigma: tuple[float, float] = (0.1, 2.0),
) -> Array:
    """Blur an image with probability p, sigma uniform in a range: SimCLR's blur.

    Args:
        key: a PRNG key.
        image: float32 [h, w, c] in [0, 1].
        kernel: odd number of taps, at most 2 min(h, w) - 1; SimCLR takes about h / 10.
        p: probability, in [0, 1].
        sigma: least and greatest standard deviation in pixels, 0 < least <= greatest.

    Returns:
        float32 [h, w, c] in [0, 1].

    Raises:
        ValueError: an option out of its range, or not an image.

    Reference:
        Chen et al. 2020 (SimCLR), appendix A.

    Example:
        >>> image = jnp.ones((8, 8, 3))
        >>> bool((random_gaussian_blur(jax.random.key(0), image, kernel=3, p=0.0) == image).all())
        True
    """
    if not 0 < sigma[0] <= sigma[1]:
        raise ValueError(f"sigma must satisfy 0 < least <= greatest, got {sigma}")
    key_chance, key_sigma = jax.random.split(key)
    drawn = jax.random.uniform(key_sigma, (), jnp.float32, sigma[0], sigma[1])
    blurred = gaussian_blur(image, drawn, kernel=kernel)
    return jnp.where(random_chance(key_chance, p=p), blurred, image)


def _blur(image: ArrayLike, kernel: ArrayLike, sigma: ArrayLike, *, limit: int) -> Array:
    """Blur with a Gaussian cut off at `kernel` <= `limit` taps, as two banded matrix products.

    A convolution whose kernel differs from image to image becomes, under vmap, a grouped
    convolution with one group an image, slow on CPUs and TPUs alike; a matrix product does not.
    """
    image = check_image(image)
    h, w, _ = image.shape
    if limit < 1 or limit % 2 == 0 or limit // 2 >= min(h, w):
        raise ValueError(
            f"a kernel is odd, from 1 to 2 * side - 1: got {limit} for an image of {h} x {w}"
        )
    offsets = jnp.arange(-(limit // 2), limit // 2 + 1, dtype=jnp.float32)
    taps = jnp.exp(-0.5 * jnp.square(offsets / sigma))
    taps = jnp.where(2 * jnp.abs(offsets) < kernel, taps, 0.0)
    taps = taps / taps.sum()
    rows, columns = _band(taps, side=h), _band(taps, side=w)
    exact = lax.Precision.HIGHEST  # a TPU multiplies in bfloat16 unless told otherwise
    blurred = jnp.einsum("ip,pqc,jq->ijc", rows, image, columns, precision=exact)
    return jnp.clip(blurred, 0.0, 1.0)  # the weights sum to 1 only up to rounding


def _band(taps: Array, *, side: int) -> Array:
    """Make the [side, side] matrix that convolves a line with `taps`, reflected at both ends."""
    radius = taps.shape[0] // 2
    target = jnp.arange(side)[None, :, None] + jnp.arange(-radius, radius + 1)[:, None, None]
    source = (side - 1) - jnp.abs((side - 1) - jnp.abs(target))
    reads = (source == jnp.arange(side)[None, None, :]).astype(taps.dtype)
    return jnp.tensordot(taps, reads, axes=1, precision=lax.Precision.HIGHEST)
