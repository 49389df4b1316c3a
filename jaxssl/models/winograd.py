"""A convolution of 3 x 3 in Winograd's form: a quarter of the products, or four ninths."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.polynomial import polynomial

from jaxssl import lowering
from jaxssl.models import linear
from jaxssl.models.windows import images_at_a_time, shifts

Padding = Sequence[Sequence[int]]
Grid = Sequence[Sequence[jax.Array]]
# Where polynomials are evaluated, beside infinity, by the side of a tile. With the usual 1, -1, 2
# and -2 rounding would be more than twice as large.
POINTS = {2: (0, 1, -1), 4: (0, 2**0.5, -(2**0.5), 0.5**0.5, -(0.5**0.5))}
# Room for transformed maps in the cache that cores share.
GROUP_BYTES = 5 * 2**20
# What takes time beside the products, in products of a core that would take as long: of a number
# that is transformed, by the side of a tile; in the gradient by the kernel; of a number of the
# kernel, or its gradient, that is. Between what was measured of Zen 4 and of Zen 5 (BENCHMARKS.md).
OF_A_MAP = {2: 25, 4: 90}
OF_A_MAP_BY_FILTER = {2: 65, 4: 100}
OF_A_KERNEL = {2: 50, 4: 60}
# The same without tiles: of a number of a kernel that oneDNN lays out first, and of windows'.
LAID_OUT = 80
OF_A_WINDOW = 10
# Up to this side of a map oneDNN multiplies with its padding too.
WITH_PADDING = 3
# What is beside the products takes two cores two thirds of the time, and not half of it; and what
# they wait for one another in a convolution as long as so many products.
SHARED_BADLY = 1.5
MEETINGS = 60e6
# More cores share products, and not what transforms and copies: from so many channels on, the
# harmonic mean of the input's and result's, it paid on eight.
FEWEST_CHANNELS = 192
# Names of `jax.default_matmul_precision` that ask for no more than what is the default.
QUICK = ("default", "fastest", "bfloat16", "tensorfloat32")


class Form(NamedTuple):
    """What makes m places of a convolution along one axis: Aᵀ [(G g) ⊙ (Bᵀ d)], n = m + 2."""

    to_seen: np.ndarray
    """Bᵀ [n, n]: of the places d that a tile sees."""
    to_weights: np.ndarray
    """G [n, 3]: of the kernel g."""
    to_result: np.ndarray
    """Aᵀ [m, n]: to the places of the tile."""


def best_tile(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Padding,
    *,
    by_filter: bool = False,
) -> int:
    """Return the side m of the tiles in which a convolution takes least time on a CPU, or 0: none.

    With fewer channels it is not the products that take the time but what is transformed, with
    fewer tiles the kernel, and tiles may reach beyond a small map. None where
    `jax.default_matmul_precision` asks for more than the default: rounding in tiles of 4 x 4 is
    five times that of the direct form.

    Args:
      x: [b, h, w, c]; float32, or there is none.
      kernel: [k, k, c, o].
      strides: of height and width; 1, or there is none.
      padding: before and after, of height and width.
      by_filter: whether `by_filter` is asked about, or `convolve` and `by_input`.
    """
    if tuple(strides) != (1, 1) or kernel.shape[:2] != (3, 3) or 0 in kernel.shape:
        return 0
    if not x.dtype == kernel.dtype == jnp.float32:
        return 0
    if jax.config.jax_default_matmul_precision not in (None, *QUICK):
        return 0
    cores, sizes = lowering.cores(), kernel.shape[2:]
    if cores > 2 and not by_filter and 2 / sum(1 / size for size in sizes) < FEWEST_CHANNELS:
        return 0
    shared, meetings = (1.0, 0.0) if cores == 1 else (SHARED_BADLY, MEETINGS)
    shape, pair, numbers = _shape(x, padding), math.prod(sizes), sum(sizes)

    def products(tile: int) -> float:
        tiles = x.shape[0] * math.prod(-(-side // tile) for side in shape)
        of_a_map = (OF_A_MAP_BY_FILTER if by_filter else OF_A_MAP)[tile]
        each = pair + shared * of_a_map * numbers
        return (tile + 2) ** 2 * (tiles * each + OF_A_KERNEL[tile] * pair) + meetings

    windows = x.shape[0] * math.prod(shape)
    direct = 9 * windows * (pair + shared * OF_A_WINDOW * numbers)
    if by_filter:
        direct += meetings
    else:
        met = [
            3 * side - (side > WITH_PADDING) * sum(pad * (pad + 1) // 2 for pad in pads)
            for side, pads in zip(shape, padding, strict=True)
        ]
        direct = min(direct, pair * (x.shape[0] * math.prod(met) + 9 * LAID_OUT))
    best = min(POINTS, key=products)
    return best if products(best) < direct else 0


@functools.partial(jax.jit, static_argnames=("padding", "tile"))  # one trace for equal layers
def convolve(x: jax.Array, kernel: jax.Array, padding: Padding, tile: int) -> jax.Array:
    """Convolve with stride 1: Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A for every tile of the result.

    g is the kernel, d the (m + 2) x (m + 2) places that a tile of m x m sees. ⊙, with its sum over
    channels, is one product of matrices for each of these places: with m = 4 that is 36 numbers
    multiplied for 16 results, in place of 144. A few images at a time, so that what is transformed
    stays in the cache.

    Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016; the points are
    chosen for less rounding, as Barabasz et al. advise, Error Analysis and Improving the Accuracy
    of Winograd Convolution for Deep Neural Networks, ACM TOMS 2020.

    Args:
      x: float32 [b, h, w, c].
      kernel: float32 [3, 3, c, o].
      padding: zeros before and after, of height and width.
      tile: m, 2 or 4.

    Returns:
      float32 [b, h', w', o].
    """
    before = [pads[0] for pads in padding]
    return _convolve(x, kernel, form(tile), before, _shape(x, padding), over=0)


@functools.partial(jax.jit, static_argnames=("padding", "tile"))
def by_input(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, padding: Padding, tile: int
) -> jax.Array:
    """Compute the gradient of such a convolution by x: the incoming one with the kernel turned.

    Args:
      x: only its shape is looked at.
      kernel: float32 [3, 3, c, o].
      gradient: the incoming one, float32 [b, h', w', o].
      padding: zeros before and after x, of height and width.
      tile: m, 2 or 4.

    Returns:
      float32 [b, h, w, c].
    """
    before = [2 - pads[0] for pads in padding]
    turned = kernel[::-1, ::-1]
    return _convolve(gradient, turned, form(tile), before, x.shape[1:3], over=1)


@functools.partial(jax.jit, static_argnames=("padding", "tile"))
def by_filter(x: jax.Array, gradient: jax.Array, padding: Padding, tile: int) -> jax.Array:
    """Compute the gradient of such a convolution by its kernel: Gᵀ [Σ (Bᵀ d B) ⊗ (A y Aᵀ)] G.

    Args:
      x: float32 [b, h, w, c].
      gradient: the incoming one, y in tiles of m x m, float32 [b, h', w', o].
      padding: zeros before and after x, of height and width.
      tile: m, 2 or 4.

    Returns:
      float32 [3, 3, c, o].
    """
    how = form(tile)
    tiles = [-(-side // tile) for side in gradient.shape[1:3]]
    sizes = x.shape[3], gradient.shape[3]
    images = images_at_a_time(x.shape[0], _room(how, tiles, max(sizes)))
    before = [pads[0] for pads in padding]

    def add(totals: list[list[jax.Array]], part: tuple[jax.Array, jax.Array]) -> tuple:
        seen = _of_tiles(part[0], how.to_seen, before, tile, tiles)
        incoming = _of_tiles(part[1], how.to_result.T, (0, 0), tile, tiles)
        return [
            [
                total + linear.outer_sum(left.reshape(-1, sizes[0]), right.reshape(-1, sizes[1]))
                for total, left, right in zip(*row, strict=True)
            ]
            for row in zip(totals, seen, incoming, strict=True)
        ], None

    places = len(how.to_seen)
    parts = tuple(v.reshape(-1, images, *v.shape[1:]) for v in (x, gradient))
    totals = lax.scan(add, [[jnp.zeros(sizes, x.dtype)] * places] * places, parts)[0]
    return jnp.stack([jnp.stack(row) for row in _transform(how.to_weights.T, totals)])


def _shape(x: jax.Array, padding: Padding) -> list[int]:
    """Return the height and width of a convolution's result."""
    return [side + sum(pads) - 2 for side, pads in zip(x.shape[1:3], padding, strict=True)]


def _convolve(
    x: jax.Array,
    kernel: jax.Array,
    how: Form,
    before: Sequence[int],
    shape: Sequence[int],
    *,
    over: int,
) -> jax.Array:
    """Convolve into [b, *shape, o], with a sum over the first or second channels of the kernel."""
    tile = len(how.to_result)
    out = kernel.shape[3 - over]
    tiles = [-(-side // tile) for side in shape]
    weights = _transform(how.to_weights, kernel)

    def group(x: jax.Array) -> list[list[jax.Array]]:
        seen = _of_tiles(x, how.to_seen, before, tile, tiles)
        products = [
            [
                lax.dot_general(part.reshape(-1, x.shape[3]), weight, (((1,), (over,)), ((), ())))
                for part, weight in zip(*row, strict=True)
            ]
            for row in zip(seen, weights, strict=True)
        ]
        return _transform(how.to_result, products)

    images = images_at_a_time(x.shape[0], _room(how, tiles, max(kernel.shape[2:])))
    # The places of a tile one after another: in one array here, XLA would join them in the loop,
    # by a computation several times slower.
    parts = lax.map(group, x.reshape(-1, images, *x.shape[1:]))
    bands = [
        jnp.concatenate([part.reshape(-1, *tiles, out) for part in row], axis=-1) for row in parts
    ]
    y = jnp.concatenate([band.reshape(-1, tiles[0], tiles[1] * tile * out) for band in bands], -1)
    y = y.reshape(-1, tiles[0] * tile, tiles[1] * tile, out)
    return y[:, : shape[0], : shape[1]]


def _of_tiles(
    x: jax.Array, matrix: np.ndarray, before: Sequence[int], tile: int, tiles: Sequence[int]
) -> list[list[jax.Array]]:
    """Return matrix · d · matrixᵀ of every tile, d its places: a grid of arrays [b, *tiles, c]."""
    sides = [tile * (count - 1) + matrix.shape[1] for count in tiles]
    around = [
        (pads, side - have - pads, 0)
        for pads, side, have in zip(before, sides, x.shape[1:3], strict=True)
    ]
    # Padded here, in the loop over images: so there is one copy that all places are read from.
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *around, (0, 0, 0)])

    rows = shifts(x, 1, matrix.shape[1], tile)
    return _transform(matrix, [shifts(row, 2, matrix.shape[1], tile) for row in rows])


def _transform(matrix: np.ndarray, grid: Grid | jax.Array) -> list[list[jax.Array]]:
    """Return matrix · grid · matrixᵀ, of a grid of equal arrays."""

    def combine(parts: Sequence[jax.Array]) -> list[jax.Array]:
        return [
            functools.reduce(
                jnp.add,
                [part if a == 1 else a * part for a, part in zip(row, parts, strict=True) if a],
            )
            for row in matrix.tolist()
        ]

    columns = [combine(column) for column in zip(*grid, strict=True)]
    return [combine(row) for row in zip(*columns, strict=True)]


@functools.cache
def form(tile: int) -> Form:
    """Return what makes tiles of m places, by Toom and Cook.

    Example:
      >>> how = form(4)
      >>> seen, kernel = np.arange(6.0), np.array([1.0, 2.0, 3.0])
      >>> (how.to_result @ ((how.to_weights @ kernel) * (how.to_seen @ seen))).round(6).tolist()
      [8.0, 14.0, 20.0, 26.0]
    """
    points = np.array(POINTS[tile], np.float64)
    others = [np.delete(points, i) for i in range(len(points))]
    scale = [np.prod(point - rest) for point, rest in zip(points, others, strict=True)]
    infinity = np.eye(tile + 2)[-1:]

    def powers(count: int) -> np.ndarray:
        return np.vander(points, count, increasing=True)

    rows = [np.append(polynomial.polyfromroots(rest), 0) for rest in others]
    to_seen = np.stack([*rows, polynomial.polyfromroots(points)])
    return Form(
        # What is 0 but for float64's rounding.
        np.where(abs(to_seen) < 1e-12, 0, to_seen),
        np.concatenate([powers(3) / np.array(scale)[:, None], infinity[:, -3:]]),
        np.concatenate([powers(tile), infinity[:, -tile:]]).T,
    )


def _room(how: Form, tiles: Sequence[int], channels: int) -> float:
    """Return how many images' transformed maps GROUP_BYTES holds."""
    return GROUP_BYTES / (4 * len(how.to_seen) ** 2 * math.prod(tiles) * channels)
