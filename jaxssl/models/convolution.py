"""Convolution whose gradient is fast on a CPU too."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl import lowering
from jaxssl.models import linear, onednn, phases, winograd
from jaxssl.models.windows import (
    convolved_shape,
    for_lax,
    images_at_a_time,
    padded,
    shifts,
)

Pair = tuple[int, int]
_LAYOUT = ("NHWC", "HWIO", "NHWC")
# The options of a plain convolution: when left out, and as `nnx.Conv` gives them.
_AT_REST = {
    "lhs_dilation": (None, (1, 1)),
    "rhs_dilation": (None, (1, 1)),
    "feature_group_count": (1,),
    "batch_group_count": (1,),
    "precision": (None,),
    "preferred_element_type": (None,),
    "out_sharding": (None,),
}
# Room for windows, or columns and rows, in the cores' caches, beside what else they hold.
WINDOW_BYTES = 2**21
# Columns and rows are laid out where they are fewer numbers than such a share of windows; with .75
# it was slower.
FEWER = 0.7
# A side of a window up to which it is laid out; 3 and 7 were measured.
LARGEST_WINDOW = 5
# Of a gradient that is laid out as a kernel: room for it, and so many images at most (measured of
# 64 channels of 64 x 64 places, of which 8 were best, and of 16 of 32 x 32, 16).
AS_KERNEL_BYTES = 2**23
IMAGES_AS_KERNEL = 16
# Numbers of a window up to which the gradient is laid out in its place, if there are no strides: 9
# and 27 were measured.
FEW_NUMBERS = 32
# XLA gives a convolution of more channels than this to YNNPACK ...
FEW_CHANNELS = 16
# ... which hands out so many channels of its result to a thread (seen of jaxlib 0.10.2).
THREAD_CHANNELS = 64


@lowering.in_reverse_alone
def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[Sequence[int]],
    *,
    dimension_numbers: lax.ConvGeneralDilatedDimensionNumbers = _LAYOUT,
    **options: Any,
) -> jax.Array:
    """Convolve as `lax.conv_general_dilated` does, on a CPU in a form of its own.

    XLA leaves cores idle there where a convolution has few channels, and moves more numbers than
    it need (`python scripts/benchmarks/convolution.py`). One of 3 x 3 with many channels takes
    Winograd's form (`jaxssl.models.winograd`), unless `jax.default_matmul_precision` asks for more
    than the default. A kernel that has more channels than the result has places is multiplied with
    windows. Another, and its gradient by the input, is oneDNN's (`jaxssl.models.onednn`) where
    there is one; elsewhere it is made such that XLA shares it out by rows, or with strides by
    windows. Its gradient by the filter is a product of windows, or their columns, and the incoming
    gradient, a few images at a time, which stay in the cache; of a large window, or of few
    channels, a convolution with the incoming gradient as the kernel. Several CPU devices do so each
    with its own images, where the mesh is told (`lowering.made_for`, as in a training step); where
    it is not, and on a GPU or TPU, XLA's form is used. What of a kernel meets padding alone is not
    computed anywhere.

    There is no forward-mode derivative (`jax.jvp`, `jacfwd`, `hessian`): take `jacrev(grad(f))`.

    Args:
      x: [b, h, w, c].
      kernel: [k, k, c, o].
      strides: of height and width.
      padding: before and after, of height and width; or "SAME" or "VALID".
      dimension_numbers: NHWC, HWIO and NHWC, in any of the forms that lax takes.
      **options: the others of `lax.conv_general_dilated`, only with the values of a plain
        convolution.

    Returns:
      [b, h', w', o].

    Raises:
      ValueError: an option that would make it another convolution; other axes.
    """
    for name, value in options.items():
        value = tuple(value) if isinstance(value, list) else value
        if name not in _AT_REST or value not in _AT_REST[name]:
            raise ValueError(
                f"convolve makes plain convolutions alone, got {name}={value}: "
                "lax.conv_general_dilated takes it"
            )
    plain = lax.conv_dimension_numbers(x.shape, kernel.shape, _LAYOUT)
    if lax.conv_dimension_numbers(x.shape, kernel.shape, dimension_numbers) != plain:
        raise ValueError(
            f"convolve takes images NHWC and kernels HWIO, got dimension_numbers="
            f"{dimension_numbers}: lax.conv_general_dilated takes others"
        )
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    how: Any = {"strides": tuple(strides), "padding": tuple(map(tuple, padding))}
    # The forms here are for a result that has places.
    if 0 in convolved_shape(x, kernel, **how):
        return _xla(x, kernel, **how)
    kernel, how["padding"] = _met(x, kernel, **how)
    own, otherwise = (functools.partial(form, **how) for form in (_convolve, _xla))
    return lowering.device_by_device(own, otherwise, x, kernel)


def _met(
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: Sequence[Pair]
) -> tuple[jax.Array, Sequence[Pair]]:
    """Drop the rows and columns of a kernel that meet padding alone: eight of nine on one place."""
    reach, pads = [], []
    places = convolved_shape(x, kernel, strides, padding)[1:3]
    axes = zip(x.shape[1:3], kernel.shape, places, strides, padding, strict=False)
    for side, size, count, stride, (before, after) in axes:
        starts = range(-before, stride * count - before, stride)
        meet = [i for i in range(size) if any(0 <= start + i < side for start in starts)]
        first, last = (meet[0], meet[-1]) if meet else (0, size - 1)
        reach.append(slice(first, last + 1))
        pads.append((before - first, after - (size - 1 - last)))
    return kernel[*reach], tuple(pads)


def _xla(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Sequence[Pair]) -> jax.Array:
    x, padding = for_lax(x, kernel, padding)
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_LAYOUT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Any) -> jax.Array:
    how = {"strides": strides, "padding": padding}
    return lax.platform_dependent(
        x, kernel, cpu=functools.partial(_on_cpu, **how), default=functools.partial(_xla, **how)
    )


def _forward(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Any) -> Any:
    return _convolve(x, kernel, strides, padding), (x, kernel)


def _backward(strides: Pair, padding: Any, inputs: Any, gradient: jax.Array) -> Any:
    def xla(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> Any:
        return jax.vjp(lambda x, kernel: _xla(x, kernel, strides, padding), x, kernel)[1](gradient)

    def cpu(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> Any:
        of_x = _by_input(x, kernel, gradient, strides, padding)
        if tile := winograd.best_tile(x, kernel, strides, padding, by_filter=True):
            return of_x, winograd.by_filter(x, gradient, padding, tile)
        return of_x, _by_filter(x, kernel, gradient, strides, padding)

    return lax.platform_dependent(*inputs, gradient, cpu=cpu, default=xla)


_convolve.defvjp(_forward, _backward)


def _on_cpu(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Any) -> jax.Array:
    """Convolve in tiles, by oneDNN, by rows, or by windows: in the first form that there is.

    Windows are for wide kernels, and for what XLA's convolution, or its gradient by x, is slow at:
    strides, and a window of one place. A window of 7 x 7, a ResNet's stem, is too many copies of
    the map.
    """
    if tile := winograd.best_tile(x, kernel, strides, padding):
        return winograd.convolve(x, kernel, padding, tile)
    if _is_wide(kernel, convolved_shape(x, kernel, strides, padding)):
        return _by_windows(x, kernel, strides, padding)
    if onednn.takes(x, kernel):
        return onednn.convolve(x, kernel, strides, padding)
    if strides == (1, 1) and max(kernel.shape[:2]) > 1:
        return _by_rows(x, kernel, padding)
    if max(kernel.shape[:2]) == 1:
        return _by_windows(x, kernel, strides, padding)
    # A single core writes windows.
    large = max(kernel.shape[:2]) > LARGEST_WINDOW
    form = _xla if large or lowering.cores() > 2 else _by_windows_in_cache
    return form(x, kernel, strides, padding)


def _is_wide(kernel: jax.Array, shape: Sequence[int]) -> bool:
    """Tell whether a kernel has more channels than the result, [b, h', w', o], has places.

    Such a kernel, of 512 channels for 4 x 4 places of 8 images, holds more numbers than the map. It
    is rather left as it lies, and multiplied with windows: oneDNN would lay it out first.
    """
    laid_out = max(kernel.shape[:2]) <= LARGEST_WINDOW
    return laid_out and 0 < math.prod(shape[:3]) < max(kernel.shape[2:])


def _by_rows(x: jax.Array, kernel: jax.Array, padding: Any) -> jax.Array:
    """Convolve with stride 1 on every core, by XLA.

    YNNPACK takes no convolution that has more rows after it than before it. Eigen does, and shares
    out rows. So where channels do not go around, rows are added below until there is one more, and
    dropped from the result: with "SAME" it is a single one.
    """
    (above, below), sideways = padding
    rows = x.shape[1] + above + below - kernel.shape[0] + 1
    more = max(0, x.shape[1] + 1 - rows)
    if max(kernel.shape[2:]) <= FEW_CHANNELS or _in_equal_shares(kernel):
        more = 0
    y = _xla(x, kernel, (1, 1), ((above, below + more), sideways))
    return y[:, :rows] if more else y


def _in_equal_shares(kernel: jax.Array) -> bool:
    """Tell whether YNNPACK's threads get as many channels of a convolution's result each."""
    return kernel.shape[3] % (THREAD_CHANNELS * lowering.cores()) == 0 or lowering.cores() == 1


def _by_input(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, strides: Pair, padding: Any
) -> jax.Array:
    """Compute the gradient of x, [b, h, w, c]: the incoming one convolved with the kernel turned.

    With strides, and by a wide kernel, a product gives the gradient of every window, and they are
    added up.
    """
    sides = kernel.shape[:2]

    def in_phases(form: Callable[..., jax.Array]) -> jax.Array:
        return phases.by_input(form, kernel, gradient, x.shape[1:], strides, padding)

    if tile := winograd.best_tile(x, kernel, strides, padding):
        return winograd.by_input(x, kernel, gradient, padding, tile)
    wide = _is_wide(kernel, gradient.shape)
    if not wide and onednn.takes(gradient, kernel):
        return in_phases(lambda *one: onednn.convolve(*one, (1, 1), "HWOI"))
    if wide or strides != (1, 1) or max(sides) == 1:
        form = _by_windows if max(sides) <= LARGEST_WINDOW else _xla
        return jax.vjp(lambda x: form(x, kernel, strides, padding), x)[1](gradient)[0]
    return in_phases(lambda gradient, part, _, pads: _by_rows(gradient, part.swapaxes(2, 3), pads))


def _by_filter(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, strides: Pair, padding: Any
) -> jax.Array:
    """Compute the kernel's gradient [k, k, c, o]: Σ over images and places of gradient ⊗ window."""
    height, width, channels, out = kernel.shape
    numbers = height * width * channels
    few = numbers <= FEW_NUMBERS and max(height, width) > 1 and strides == (1, 1)
    if (few or max(height, width) > LARGEST_WINDOW) and onednn.takes(x, gradient):
        found = _by_the_gradient(x, gradient, (height, width), strides, padding)
    elif height == width == 1 and strides == (1, 1):
        rows = padded(x, padding).reshape(-1, channels)
        found = linear.outer_sum(rows, gradient.reshape(-1, out))
    elif _is_wide(kernel, gradient.shape):
        rows = _windows(padded(x, padding), (height, width), strides).reshape(-1, numbers)
        found = linear.outer_sum(rows, gradient.reshape(-1, out))
    else:
        columns, down = width * channels, strides[0]
        fewer = down * columns + height * out < FEWER * (down + height) * columns
        form = _of_columns_and_rows if fewer else _of_windows
        found = form(x, gradient, (height, width), strides, padding)
    return found.reshape(kernel.shape).astype(kernel.dtype)


def _by_the_gradient(
    x: jax.Array, gradient: jax.Array, sides: Pair, strides: Pair, padding: Any
) -> jax.Array:
    """Compute the kernel's gradient [k, k, c, o] by oneDNN, with the incoming one as a kernel.

    What is laid out is the gradient, once, and not every window: of a ResNet's stem 64 numbers for
    147. Windows of few channels are many short copies, too.
    """

    def products(x: jax.Array, gradient: jax.Array) -> list[jax.Array]:
        return [onednn.by_filter(x, gradient, sides, strides, padding)]

    room = min(IMAGES_AS_KERNEL, AS_KERNEL_BYTES / (4 * math.prod(gradient.shape[1:])))
    return _sum_over_images(products, room, x, gradient)[0]


def _of_windows(
    x: jax.Array, gradient: jax.Array, sides: Pair, strides: Pair, padding: Any
) -> jax.Array:
    """Compute the kernel's gradient [k, k c, o] by windows of x.

    Windows along the width alone are laid out, [k c] each; a row of the kernel then takes the rows
    of them that it meets: without strides they lie next to one another, and with strides they are
    laid out for each row of the kernel, which no other meets in the same places.
    """
    out, window = gradient.shape[3], sides[1] * x.shape[3]

    def products(x: jax.Array, gradient: jax.Array) -> list[jax.Array]:
        def laid_out(x: jax.Array) -> jax.Array:
            return jnp.concatenate(shifts(x, 2, sides[1], strides[1]), axis=-1)

        x = padded(x, padding)
        if strides[0] == 1:
            rows = shifts(laid_out(x), 1, sides[0], 1)
        else:
            rows = [laid_out(part) for part in shifts(x, 1, sides[0], strides[0])]
        beside = gradient.reshape(-1, out)
        return [linear.outer_sum(part.reshape(-1, window), beside) for part in rows]

    room = WINDOW_BYTES / (4 * window * (x.shape[1] + sum(padding[0])) * gradient.shape[2])
    return jnp.stack(_sum_over_images(products, room, x, gradient))


def _of_columns_and_rows(
    x: jax.Array, gradient: jax.Array, sides: Pair, strides: Pair, padding: Any
) -> jax.Array:
    """Compute the kernel's gradient [k, k, c, o] by a window's columns of x and rows of gradient.

    Of 3 x 3 places three are laid out beside each place of x and three beside each of the gradient,
    and one product has all nine: half of what windows of x alone would write, and a product of
    better shape. Row s t + a of the padded x meets the gradient's rows t - m, through the kernel's
    rows a + s m: there is such a product for every a below the stride s.
    """
    (height, width), (channels, out) = sides, (x.shape[3], gradient.shape[3])
    (above, _), (left, _) = padding
    (tall, rows, places), (down, across) = (x.shape[1], *gradient.shape[1:3]), strides
    right = across * (places - 1) + width - left - x.shape[2]
    # Of every a: the first t that is a row of x, the one after the last, and how many m there are.
    counts = [-(-(height - a) // down) for a in range(min(down, height))]
    firsts = [max(0, -(-(above - a) // down)) for a in range(len(counts))]
    ends = [min(rows + count - 1, -(-(tall + above - a) // down)) for a, count in enumerate(counts)]
    before = max(0, *(count - 1 - first for count, first in zip(counts, firsts, strict=True)))
    after = max(0, *(end - rows for end in ends))

    def products(x: jax.Array, gradient: jax.Array) -> list[jax.Array]:
        # Padded here and not before: a few images at a time stay in the cache.
        x = padded(x, ((0, 0), (left, right)))
        gradient = padded(gradient, ((before, after), (0, 0)))
        found = []
        for a, (count, first, end) in enumerate(zip(counts, firsts, ends, strict=True)):
            if first >= end:
                found.append(jnp.zeros((width * channels, count * out), jnp.float32))
                continue
            start = down * first + a - above
            met = lax.slice_in_dim(x, start, start + down * (end - first - 1) + 1, down, 1)
            columns = jnp.concatenate(shifts(met, 2, width, across), axis=-1)
            meeting = [gradient[:, before + first - m : before + end - m] for m in range(count)]
            beside = jnp.concatenate(meeting, axis=-1).reshape(-1, count * out)
            found.append(linear.outer_sum(columns.reshape(-1, width * channels), beside))
        return found

    room = WINDOW_BYTES / (4 * (len(counts) * width * channels + height * out) * rows * places)
    found = _sum_over_images(products, room, x, gradient)
    parts = [part.reshape(width, channels, -1, out).transpose(2, 0, 1, 3) for part in found]
    return jnp.stack([parts[row % down][row // down] for row in range(height)])


def _sum_over_images(
    products: Callable[..., list[jax.Array]], room: float, *maps: jax.Array
) -> list[jax.Array]:
    """Sum what `products` makes of maps [b, ...], of as many images at a time as there is room."""
    count = maps[0].shape[0]
    images = images_at_a_time(count, room)
    one = (jax.ShapeDtypeStruct((images, *v.shape[1:]), v.dtype) for v in maps)
    zeros = [jnp.zeros(v.shape, v.dtype) for v in jax.eval_shape(products, *one)]

    def add(index: jax.Array, totals: list[jax.Array]) -> list[jax.Array]:
        # Parts are counted here: of a map that lay in parts before the loop XLA would make a second
        # copy, and compute it once more, BatchNorm, ReLU and all, beside the one that others read.
        parts = (v.reshape(count // images, images, *v.shape[1:]) for v in maps)
        part = [lax.dynamic_index_in_dim(v, index, keepdims=False) for v in parts]
        return [a + b for a, b in zip(totals, products(*part), strict=True)]

    return lax.fori_loop(0, count // images, add, zeros)


def _by_windows(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Any) -> jax.Array:
    """Convolve by multiplying every window [k k c], a row, with the kernel as a matrix."""
    x = padded(x, padding)
    windows = _windows(x, kernel.shape[:2], strides)
    # As two matrices: for an array of rows XLA makes a slower product, and a slower gradient.
    rows = windows.reshape(-1, windows.shape[-1])
    y = linear.product(rows, kernel.reshape(-1, kernel.shape[3]))
    return y.reshape(*windows.shape[:3], -1)


def _by_windows_in_cache(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Any) -> jax.Array:
    """Convolve by windows of a few images at a time."""
    places = math.prod(convolved_shape(x, kernel, strides, padding)[1:3])
    room = WINDOW_BYTES / (4 * max(1, places * math.prod(kernel.shape[:3])))
    images = images_at_a_time(x.shape[0], room)
    parts = x.reshape(x.shape[0] // images, images, *x.shape[1:])
    y = lax.map(lambda x: _by_windows(x, kernel, strides, padding), parts)
    return y.reshape(x.shape[0], *y.shape[2:])


def _windows(x: jax.Array, sides: Sequence[int], strides: Pair) -> jax.Array:
    """Return every window of a padded [b, h, w, c], [b, h', w', k k c]."""
    parts = [
        columns
        for rows in shifts(x, 1, sides[0], strides[0])
        for columns in shifts(rows, 2, sides[1], strides[1])
    ]
    return jnp.concatenate(parts, axis=-1)
