"""Images that are nearly the same: a perceptual hash to find them, their pixels to be sure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from jaxssl.data.images import ImageSet

_SIDE = 32  # of the thumbnails
_CHUNK = 512
_CANDIDATES = 16  # of one band and image: a set of blank images costs no more than others
_BITS = 8
_LEVELS = 4.0
_CORRELATION = 0.99
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # as Pillow's "L"

Thumbnails = tuple[NDArray[np.uint8], NDArray[np.uint64]]


def near_duplicates(a: ImageSet, b: ImageSet) -> list[tuple[int, int]]:
    """Find the images of one set that are nearly one of another's: saved again, scaled, lit.

    Candidates have equal bits in one of the four quarters of a 64-bit hash (signs of the lowest
    8 x 8 cosine frequencies of a grey thumbnail of 32 x 32, against their median) and differ in 8
    bits at most. A candidate counts where the thumbnails correlate at .99 or more and differ by at
    most 4 of 255 levels on average; blank images have no shape and never count. All images are read
    once, and each image of `a` is compared with at most 4 x 16 others.

    Args:
      a: the first set.
      b: the other set, of images of the same shape.

    Returns:
      (position in `a`, position in `b`), at most one an image of `a`, ascending.

    Reference:
      C. Zauner, Implementation and benchmarking of perceptual image hash functions, 2010 (DCT).

    Example:
      >>> from jaxssl.data import load_digits
      >>> digits = load_digits(size=16)
      >>> near_duplicates(digits.subset([3, 5]), digits.subset([9, 5]))
      [(1, 1)]
    """
    return pairs(thumbnails(a), thumbnails(b))


def pairs(a: Thumbnails, b: Thumbnails) -> list[tuple[int, int]]:
    """Find the pairs of `near_duplicates` among thumbnails that are made already."""
    (small_a, hash_a), (small_b, hash_b) = a, b
    partner = np.full(len(small_a), -1)
    for band in range(4):
        for i, j in _candidates(hash_a, hash_b, np.flatnonzero(partner < 0), band):
            bits = np.unpackbits((hash_a[i] ^ hash_b[j])[:, None].view(np.uint8), axis=1)
            near = bits.sum(axis=1) <= _BITS
            i, j = i[near], j[near]
            alike = _alike(small_a[i], small_b[j])
            partner[i[alike]] = j[alike]
    return [(i, int(partner[i])) for i in np.flatnonzero(partner >= 0).tolist()]


def _alike(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell which rows are nearly equal in shape and in level."""
    x, y = a.astype(np.float32), b.astype(np.float32)
    difference = np.abs(x - y).mean(axis=1)
    x -= x.mean(axis=1, keepdims=True)
    y -= y.mean(axis=1, keepdims=True)
    norms = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    alike = (x * y).sum(axis=1) >= _CORRELATION * np.maximum(norms, 1e-3)
    return alike & (difference <= _LEVELS)


def thumbnails(images: ImageSet) -> Thumbnails:
    """Make grey thumbnails [n, 1024] and their hashes [n]; every image is read once.

    As matrix products over some hundred images at a time, of which Pillow would take one by one.
    """
    height, width, channels = images.shape
    down, across = _triangles(height), _triangles(width).T
    small = np.empty((len(images), _SIDE * _SIDE), np.uint8)
    hashes = np.empty(len(small), np.uint64)
    k, x = np.arange(8)[:, None], np.arange(_SIDE)[None]
    cosines = np.cos(np.pi * k * (2 * x + 1) / (2 * _SIDE)).astype(np.float32)
    for start in range(0, len(small), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(small)))
        pixels = np.stack([images.load(i) for i in rows]).astype(np.float32)
        grey = pixels[..., 0] if channels == 1 else pixels @ _LUMA
        part = np.rint(down @ grey @ across).clip(0, 255)
        small[start : rows.stop] = part.reshape(len(part), -1)
        low = (cosines @ part @ cosines.T).reshape(len(part), 64)
        bits = low > np.median(low, axis=1, keepdims=True)
        hashes[start : rows.stop] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    return small, hashes


def _triangles(side: int) -> NDArray[np.float32]:
    """Return the bilinear filter with antialiasing, [32, side], as Pillow's BILINEAR."""
    scale = side / _SIDE
    centres = (np.arange(_SIDE)[:, None] + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(side) + 0.5 - centres) / max(scale, 1))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _candidates(
    a: NDArray[np.uint64], b: NDArray[np.uint64], todo: NDArray[np.intp], band: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield pairs of positions, those of `a` among `todo`, whose hashes agree in a band."""
    shift = np.uint64(16 * band)
    of_a, of_b = ((hashes >> shift) & np.uint64(0xFFFF) for hashes in (a[todo], b))
    order = np.argsort(of_b, kind="stable")
    first = np.searchsorted(of_b[order], of_a, side="left")
    last = np.searchsorted(of_b[order], of_a, side="right")
    counts = np.minimum(last - first, _CANDIDATES)
    for start in range(0, len(todo), _CHUNK):
        n = counts[start : start + _CHUNK]
        place = np.repeat(np.arange(start, start + len(n)), n)
        offset = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        yield todo[place], order[first[place] + offset]
