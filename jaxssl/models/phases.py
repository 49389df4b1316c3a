"""The gradient by the input of a convolution with strides, of convolutions without."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.models.windows import padded

Pads = tuple[tuple[int, int], ...]


def by_input(
    convolve: Callable[[jax.Array, jax.Array, tuple[int, int], Pads], jax.Array],
    kernel: jax.Array,
    gradient: jax.Array,
    shape: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[Sequence[int]],
    *,
    fused: bool = False,
) -> jax.Array:
    """Compute the gradient of x by a convolution of the incoming one for every phase of a stride.

    Along an axis, place q of x is place q + before of the padded x, and place s t + a of that is
    met by the results t - m, through the kernel's places a + s m. So every s-th place of x is a
    convolution of the incoming gradient with every s-th place of the kernel, turned. Zeros between
    the results would be s² times the work.

    Args:
      convolve: of the gradient, a kernel turned, strides of 1 and the padding before and after, of
        height and width, cut off where below 0: the convolution, [b, h', w', c].
      kernel: [k, k, ...].
      gradient: of the result, [b, h', w', o].
      shape: height, width and channels of x.
      strides: of height and width.
      padding: of the convolution, before and after, of height and width.
      fused: XLA fuses the convolution, loops of its own, with what is before and after it. Then the
        gradient is padded for all phases, so that each only cuts off, and their results are
        stacked: a loop of the whole reads them. Else each is there, and a loop of the whole takes
        from one or another by the place's turn; written to their places, or stacked, XLA would
        fuse them with what comes after into a loop that takes up to two and a half times as long.

    Returns:
      [b, h, w, c], of that shape.
    """
    *sides, channels = shape
    sizes = [-(-side // stride) for side, stride in zip(sides, strides, strict=True)]

    def phase(*places: int) -> tuple[jax.Array, Pads]:
        """Return the part of the kernel, turned, and the padding of the gradient."""
        turns = [
            divmod(place + pads[0], stride)
            for place, pads, stride in zip(places, padding, strides, strict=True)
        ]
        (_, top), (_, left) = turns
        part = kernel[top :: strides[0], left :: strides[1]][::-1, ::-1]
        around = (
            (reach - 1 - late, size - have + late)
            for (late, _), reach, size, have in zip(
                turns, part.shape[:2], sizes, gradient.shape[1:3], strict=True
            )
        )
        return part, tuple(around)

    phases = [[phase(a, b) for b in range(strides[1])] for a in range(strides[0])]
    if fused:
        most = [
            [max(around[axis][side] for row in phases for _, around in row) for side in (0, 1)]
            for axis in (0, 1)
        ]
        gradient = padded(gradient, most)

    def result(part: jax.Array, around: Pads) -> jax.Array:
        if part.size == 0:
            return jnp.zeros((gradient.shape[0], *sizes, channels), gradient.dtype)
        if fused:
            both = zip(around, most, strict=True)
            around = tuple((pads[0] - had[0], pads[1] - had[1]) for pads, had in both)
        return convolve(gradient, part, (1, 1), around)

    # Row s t + a is row t of phase a, and so with columns: they lie in turns.
    if fused:
        whole = jnp.stack([jnp.stack([result(*one) for one in row], 3) for row in phases], 2)
    else:
        lengths = (gradient.shape[0], sizes[0], strides[0], sizes[1], strides[1], channels)

        def in_turns(parts: Sequence[jax.Array], axis: int) -> jax.Array:
            return lax.select_n(lax.broadcasted_iota(jnp.int32, lengths, axis), *parts)

        def spread(part: jax.Array) -> jax.Array:
            return jnp.broadcast_to(jnp.expand_dims(part, (2, 4)), lengths)

        whole = in_turns([in_turns([spread(result(*one)) for one in row], 4) for row in phases], 2)
    tall, wide = (size * stride for size, stride in zip(sizes, strides, strict=True))
    whole = whole.reshape(gradient.shape[0], tall, wide, channels)
    return whole[:, : sides[0], : sides[1]]
