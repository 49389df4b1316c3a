"""Convolution whose gradient is fast on a CPU too."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl import lowering
from jaxssl.models import onednn, winograd
from jaxssl.models.windows import CORES, images_at_a_time, padded, shifts

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
# Room for windows in a core's cache, beside what else it holds.
WINDOW_BYTES = 2**21
# A side of a window up to which it is laid out; 3 and 7 were measured.
LARGEST_WINDOW = 5
# Of a window that oneDNN lays out; 27 were measured to be quicker and 147 slower.
FEW_NUMBERS = 32
# XLA gives a convolution of more channels than this to YNNPACK ...
FEW_CHANNELS = 16
# ... which hands out so many channels of its result to a thread (seen of jaxlib 0.10.2).
THREAD_CHANNELS = 64


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
    than the default. Another, and its gradient by the input, is oneDNN's (`jaxssl.models.onednn`)
    where there is one; elsewhere it is made such that XLA shares it out by rows, or with strides by
    windows. Its gradient by the filter is a product of windows and incoming gradient, a few images
    at a time, whose windows stay in the cache. XLA's form is used on a GPU or TPU, and where a
    process has several CPU devices, over which it is partitioned better.

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
    form = _convolve if lowering.devices() == 1 else _xla
    return form(x, kernel, tuple(strides), tuple(map(tuple, padding)))


def _xla(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Sequence[Pair]) -> jax.Array:
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
        # A kernel that holds more numbers than the incoming gradient: little is moved by XLA.
        small = gradient.size < kernel.size and strides == (1, 1) and max(kernel.shape[:2]) > 1
        if small and _in_equal_shares(kernel):
            return of_x, xla(x, kernel, gradient)[1]
        return of_x, _by_filter(x, kernel, gradient, strides, padding)

    return lax.platform_dependent(*inputs, gradient, cpu=cpu, default=xla)


_convolve.defvjp(_forward, _backward)


def _on_cpu(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Any) -> jax.Array:
    """Convolve in tiles, by oneDNN, by rows, or by windows: in the first form that there is.

    Windows are for what XLA's convolution, or its gradient by x, is slow at: strides, and a window
    of one place. A window of 7 x 7, a ResNet's stem, is too many copies of the map.
    """
    if tile := winograd.best_tile(x, kernel, strides, padding):
        return winograd.convolve(x, kernel, padding, tile)
    if onednn.takes(x, kernel):
        return onednn.convolve(x, kernel, strides, padding)
    if strides == (1, 1) and max(kernel.shape[:2]) > 1:
        return _by_rows(x, kernel, padding)
    if max(kernel.shape[:2]) == 1:
        return _by_windows(x, kernel, strides, padding)
    # A single core writes windows.
    form = _xla if max(kernel.shape[:2]) > LARGEST_WINDOW or CORES > 2 else _by_windows_in_cache
    return form(x, kernel, strides, padding)


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
    return CORES == 1 or kernel.shape[3] % (THREAD_CHANNELS * CORES) == 0


def _by_input(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, strides: Pair, padding: Any
) -> jax.Array:
    """Compute the gradient of x, [b, h, w, c]: the incoming one convolved with the kernel turned.

    A kernel that holds more numbers than the windows of the map, of 512 channels on 4 x 4 places,
    is rather left as it lies: a product gives the gradient of every window, and they are added up.
    """
    sides = kernel.shape[:2]
    around = tuple(
        (side - 1 - before, side - 1 - after)
        for side, (before, after) in zip(sides, padding, strict=True)
    )
    tile = winograd.best_tile(x, kernel, strides, padding)
    if not tile and onednn.takes(gradient, kernel):
        if strides == (1, 1):
            return onednn.convolve(gradient, _turned(kernel), strides, around)
        if max(sides) > 1:
            return _by_phases(x, kernel, gradient, strides, padding)
    windows = gradient.shape[0] * gradient.shape[1] * gradient.shape[2]
    laid_out = max(sides) <= LARGEST_WINDOW
    if strides != (1, 1) or max(sides) == 1 or (laid_out and windows < kernel.shape[3]):
        form = _by_windows if laid_out else _xla
        return jax.vjp(lambda x: form(x, kernel, strides, padding), x)[1](gradient)[0]
    if tile:
        return winograd.by_input(x, kernel, gradient, padding, tile)
    return _by_rows(gradient, _turned(kernel), around)


def _turned(kernel: jax.Array) -> jax.Array:
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _by_phases(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, strides: Pair, padding: Any
) -> jax.Array:
    """Compute the gradient of x by convolutions with stride 1, of oneDNN.

    Place stride * t + a of the padded x is met by the results t - m, through the kernel's places
    a + stride * m: so there is a convolution for every a below the stride, along both axes, and
    their results lie in turns.
    """
    sizes = [
        -(-(pads[0] + side) // stride)
        for pads, side, stride in zip(padding, x.shape[1:3], strides, strict=True)
    ]
    gradient = gradient[:, : sizes[0], : sizes[1]]

    def phase(a: int, b: int) -> jax.Array:
        part = kernel[a :: strides[0], b :: strides[1]]
        if part.size == 0:
            return jnp.zeros((x.shape[0], *sizes, x.shape[3]), x.dtype)
        around = tuple(
            (places - 1, size - have)
            for places, size, have in zip(part.shape, sizes, gradient.shape[1:3], strict=False)
        )
        return onednn.convolve(gradient, _turned(part), (1, 1), around)

    # Columns in turns are channels side by side, and rows in turns rows side by side: whole rows
    # are copied.
    rows = [
        jnp.concatenate([phase(a, b) for b in range(strides[1])], axis=-1).reshape(
            x.shape[0], sizes[0], 1, -1
        )
        for a in range(strides[0])
    ]
    shape = [stride * size for stride, size in zip(strides, sizes, strict=True)]
    whole = jnp.concatenate(rows, axis=2).reshape(x.shape[0], *shape, x.shape[3])
    (above, _), (left, _) = padding
    return whole[:, above : above + x.shape[1], left : left + x.shape[2]]


def _by_filter(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, strides: Pair, padding: Any
) -> jax.Array:
    """Compute the kernel's gradient [k, k, c, o]: Σ over images and places of gradient ⊗ window.

    A few images at a time. Windows along the width alone are laid out, [k c] each; a row of the
    kernel then takes the rows of them that it meets, which lie next to one another: a third of what
    whole windows of 3 x 3 would write. With strides they do not, and whole windows are as fast.
    """
    height, width, channels, out = kernel.shape
    numbers = height * width * channels
    if numbers <= FEW_NUMBERS and strides != (1, 1) and onednn.takes(x, gradient):
        # A stem's windows are many short copies: oneDNN makes them by a kernel for each number.
        kernels = jnp.eye(numbers).reshape(height, width, channels, numbers)
        rows = onednn.convolve(x, kernels, strides, padding).reshape(-1, numbers)
        return _outer_sum(rows, gradient.reshape(-1, out)).reshape(kernel.shape)
    x = padded(x, padding)
    if height == width == 1:
        rows = _windows(x, (1, 1), strides).reshape(-1, channels)
        found = _outer_sum(rows, gradient.reshape(-1, out))
        return found.reshape(kernel.shape).astype(kernel.dtype)
    # XLA's product is slow in a transposed left side, so the smaller side stands there.
    turned = out < width * channels
    whole = turned and strides != (1, 1)
    window, rows = width * channels, x.shape[1]
    if whole:
        window, rows = height * window, gradient.shape[1]
    room = WINDOW_BYTES / (4 * window * rows * gradient.shape[2])
    images = images_at_a_time(x.shape[0], room)

    def windows(x: jax.Array) -> list[jax.Array]:
        if whole:
            return [_windows(x, (height, width), strides)]
        wide = jnp.concatenate(shifts(x, 2, width, strides[1]), axis=-1)
        return shifts(wide, 1, height, strides[0])

    def add(totals: tuple[jax.Array, ...], part: tuple[jax.Array, jax.Array]) -> Any:
        of_y = part[1].reshape(-1, out)
        pairs = [(of_y, of_x.reshape(-1, window)) for of_x in windows(part[0])]
        return tuple(
            total + _outer_sum(left, right)
            for total, (left, right) in zip(
                totals, pairs if turned else [pair[::-1] for pair in pairs], strict=True
            )
        ), None

    parts = tuple(v.reshape(-1, images, *v.shape[1:]) for v in (x, gradient))
    zeros = jnp.zeros((out, window) if turned else (window, out), jnp.float32)
    found = jnp.stack(lax.scan(add, (zeros,) * (1 if whole else height), parts)[0])
    return (found.mT if turned else found).reshape(kernel.shape).astype(kernel.dtype)


def _outer_sum(left: jax.Array, right: jax.Array) -> jax.Array:
    """Sum the outer products of rows [n, a] and [n, b], in float32."""
    if onednn.takes(left, right):
        return onednn.product(left, right, True)
    return jnp.matmul(left.T, right, preferred_element_type=jnp.float32)


def _by_windows(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Any) -> jax.Array:
    """Convolve by multiplying every window [k k c], a row, with the kernel as a matrix."""
    x = padded(x, padding)
    windows = _windows(x, kernel.shape[:2], strides)
    # As two matrices: for an array of rows XLA makes a slower product, and a slower gradient.
    rows = windows.reshape(-1, windows.shape[-1]) @ kernel.reshape(-1, kernel.shape[3])
    return rows.reshape(*windows.shape[:3], -1)


def _by_windows_in_cache(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Any) -> jax.Array:
    """Convolve by windows of a few images at a time."""
    places = math.prod(
        (side + sum(pads) - reach) // stride + 1
        for side, pads, reach, stride in zip(
            x.shape[1:3], padding, kernel.shape[:2], strides, strict=True
        )
    )
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
