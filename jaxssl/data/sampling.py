"""Which images make up a batch: shuffled epochs, P classes x K images, or balanced classes.

Each gives a pure function of the step, so a stream resumes at any step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from jaxssl.errors import InputError, setting

# step -> positions of the images of that step's global batch
BatchAt = Callable[[int], NDArray[np.intp]]


def shuffled_epochs(n: int, *, batch_size: int, seed: int) -> BatchAt:
    """Draw epochs of floor(n / batch_size) full batches, each over a fresh shuffle of all n.

    No image is twice in an epoch; the n mod batch_size left out are others each time.

    Args:
      n: images, at least `batch_size`.
      batch_size: images in the global batch.
      seed: equal seeds give equal batches.

    Returns:
      A function step -> positions [batch_size].

    Example:
      >>> batch_at = shuffled_epochs(7, batch_size=3, seed=0)
      >>> len(set(batch_at(0).tolist() + batch_at(1).tolist()))
      6
    """
    steps = n // batch_size

    # Not Grain's shuffle: its cipher walks a 32-bit cycle until it falls below n, 42 us an image
    # at n = 1,347 and 7,500 us at n = 8. Two epochs are held, for threads read across their border.
    @lru_cache(maxsize=2)
    def order(epoch: int) -> NDArray[np.intp]:
        return np.random.default_rng((seed, epoch)).permutation(n)

    def batch_at(step: int) -> NDArray[np.intp]:
        epoch, place = divmod(step, steps)
        return order(epoch)[place * batch_size : (place + 1) * batch_size]

    return batch_at


def classes_by_images(
    labels: NDArray[np.integer], *, batch_size: int, images_per_class: int, seed: int
) -> BatchAt:
    """Draw batches of P = batch_size / K distinct classes, K = images_per_class images of each.

    For losses that need positives in the batch, such as the triplet loss. Every class is equally
    likely whatever its size; images of a class are distinct where it has K, else repeated.

    Args:
      labels: int [n], class of every image.
      batch_size: images in the global batch, a multiple of `images_per_class`.
      images_per_class: K, at least 1.
      seed: equal seeds give equal batches.

    Returns:
      A function step -> positions [batch_size], class after class.

    Raises:
      InputError: K does not divide the batch, or the batch needs more classes than there are.

    Reference:
      A. Hermans, L. Beyer, B. Leibe, In Defense of the Triplet Loss, 2017, section 2 (PK batches).

    Example:
      >>> labels = np.repeat(np.arange(5), 10)
      >>> batch_at = classes_by_images(labels, batch_size=6, images_per_class=3, seed=0)
      >>> np.unique(labels[batch_at(0)], return_counts=True)[1].tolist()
      [3, 3]
      >>> (batch_at(7) == batch_at(7)).all().item()
      True
    """
    members = _members(labels)
    if images_per_class < 1 or batch_size % images_per_class:
        raise InputError(
            f"the batch of {batch_size} is no multiple of the {images_per_class} images per class"
            f"{_by()}"
        )
    classes = batch_size // images_per_class
    if classes > len(members):
        raise InputError(
            f"a batch of {batch_size} with {images_per_class} images per class needs {classes} "
            f"classes, there are {len(members)}; raise the images per class or shrink the batch"
            f"{_by()}"
        )

    def batch_at(step: int) -> NDArray[np.intp]:
        rng = np.random.default_rng((seed, step))
        chosen = rng.choice(len(members), classes, replace=False)
        return np.concatenate([_draw(rng, members[c], images_per_class) for c in chosen])

    return batch_at


def _by() -> str:
    spelled = filter(None, [setting("batch_size"), setting("images_per_class")])
    return f" ({', '.join(spelled)})"


def class_balanced(labels: NDArray[np.integer], *, batch_size: int, seed: int) -> BatchAt:
    """Draw batches in which every class is equally often, whatever its size, within one image.

    Of a batch of b images over k classes each class gets b // k; the b % k left over go to classes
    drawn anew each step. Images of a class are distinct where it has enough, else repeated.

    Args:
      labels: int [n], class of every image.
      batch_size: images in the global batch.
      seed: equal seeds give equal batches.

    Returns:
      A function step -> positions [batch_size], in random order.

    Example:
      >>> labels = np.array([0] * 90 + [1] * 6 + [2] * 4)
      >>> batch_at = class_balanced(labels, batch_size=12, seed=0)
      >>> np.bincount(labels[batch_at(0)]).tolist()
      [4, 4, 4]
    """
    members = _members(labels)
    each, left_over = divmod(batch_size, len(members))

    def batch_at(step: int) -> NDArray[np.intp]:
        rng = np.random.default_rng((seed, step))
        counts = np.full(len(members), each)
        counts[rng.choice(len(members), left_over, replace=False)] += 1
        drawn = [_draw(rng, images, n) for images, n in zip(members, counts, strict=True)]
        return rng.permutation(np.concatenate(drawn))

    return batch_at


def _members(labels: NDArray[np.integer]) -> list[NDArray[np.intp]]:
    """List the positions of the images of every class that has any; label -1 is no class."""
    return [np.flatnonzero(labels == c) for c in np.unique(labels[labels >= 0])]


def _draw(rng: np.random.Generator, images: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    return rng.choice(images, n, replace=n > len(images))
