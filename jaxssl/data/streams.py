"""Batches as pure functions of seed and step: nothing of the loader is ever saved."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jaxssl.data.images import ImageSet
from jaxssl.data.sampling import class_balanced, classes_by_images, shuffled_epochs
from jaxssl.errors import InputError, setting

if TYPE_CHECKING:  # it imports jax and Orbax, a second that only streams need
    import grain

Batch = dict[str, NDArray[Any]]


def steps_per_epoch(image_set: ImageSet, *, batch_size: int) -> int:
    """Count full batches in one pass; what is left over waits for the next epoch's shuffle.

    Raises:
      InputError: the batch is larger than the set.

    Example:
      >>> from jaxssl.data import load_digits
      >>> steps_per_epoch(load_digits(size=8), batch_size=256)
      7
    """
    if not 1 <= batch_size <= len(image_set):
        raise InputError(
            f"a batch of {batch_size} from {len(image_set)} training images; "
            f"set the batch size between 1 and {len(image_set)}"
            f"{setting('batch_size', form=' ({})')}"
        )
    return len(image_set) // batch_size


def train_stream(
    image_set: ImageSet,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    images_per_class: int | None = None,
    balanced: bool = False,
    pixels: bool = True,
) -> grain.IterDataset[Batch]:
    """Stream batches without end; batch t is a pure function of (image_set, batch_size, seed, t).

    An epoch is floor(n / batch_size) steps over a fresh shuffle, cut to full batches: no image is
    twice in an epoch, and the few left out are others each time. Of every *global* batch each
    process reads its contiguous part and nothing else, so that concatenating the parts gives the
    batch of one process. Threads read whole batches ahead (`2 * threads` of them); no process is
    forked. A file that fails surfaces as its own exception at that step: end the run then, for the
    iterator is not to be used after it.

    Args:
      image_set: n images.
      batch_size: images in the global batch, a multiple of `process_count`.
      seed: at least 0.
      start_step: the first step to give; a resumed stream equals the uninterrupted one from there.
      process_index: which of the processes that share the batch this is, from 0.
      process_count: how many processes share it.
      threads: readers; 0 reads in the caller's thread.
      images_per_class: batches of P classes x this many images (`sampling.classes_by_images`).
      balanced: batches with every class equally often (`sampling.class_balanced`).
      pixels: False leaves "image" out and reads no file, for images that live on the devices; the
        batches are the same.

    Returns:
      An iterable of {"image": uint8 [b, h, w, c], "label": int32 [b], "index": int32 [b]} with
      b = batch_size / process_count and index the position in `image_set`.

    Raises:
      InputError: a batch larger than the set, not divisible by the processes, or impossible to
        fill with `images_per_class`.
      ValueError: a process index or a start step out of range, or both ways of sampling at once.

    Example:
      >>> from jaxssl.data import load_digits
      >>> stream = train_stream(load_digits(size=8), batch_size=4, seed=0, start_step=10)
      >>> batch = next(iter(stream))
      >>> batch["image"].shape, batch["label"].dtype
      ((4, 8, 8, 1), dtype('int32'))
    """
    import grain

    if images_per_class is not None and balanced:
        raise ValueError("images_per_class and balanced exclude each other")
    steps_per_epoch(image_set, batch_size=batch_size)
    if batch_size % process_count:
        raise InputError(
            f"a batch of {batch_size} is not divisible by {process_count} processes; "
            f"take a multiple of {process_count}{setting('batch_size', form=' ({})')}"
        )
    if not 0 <= process_index < process_count or start_step < 0:
        raise ValueError(f"process {process_index} of {process_count}, start_step {start_step}")
    each = batch_size // process_count
    part = slice(process_index * each, (process_index + 1) * each)

    labels = image_set.labels
    if images_per_class is not None:
        batch_at = classes_by_images(
            labels, batch_size=batch_size, images_per_class=images_per_class, seed=seed
        )
    elif balanced:
        batch_at = class_balanced(labels, batch_size=batch_size, seed=seed)
    else:
        batch_at = shuffled_epochs(len(image_set), batch_size=batch_size, seed=seed)

    def read(step: int) -> Batch:
        # Positions are cheap: cut before reading, so no process decodes the others' images.
        positions = batch_at(step)[part]
        if pixels:
            return image_set.batch(positions)
        return {"label": labels[positions], "index": positions.astype(np.int32)}

    steps = grain.MapDataset.range(sys.maxsize)[start_step:]
    return steps.map(read).to_iter_dataset(_reading(threads))


def eval_batches(
    image_set: ImageSet, *, batch_size: int, part: slice = slice(None), threads: int = 2
) -> grain.IterDataset[Batch]:
    """Read all images once, in order, in batches of one shape.

    The last batch is filled up with repeats of its last image; "mask" is False on those rows.

    Args:
      image_set: n images; none gives no batch.
      batch_size: b, at least 1.
      part: the rows of each batch to give, those of this process; default all. No other is read.
      threads: readers; 0 reads in the caller's thread.

    Returns:
      An iterable of {"image": uint8 [b, h, w, c], "label": int32 [b], "index": int32 [b],
      "mask": bool [b]}.

    Raises:
      ValueError: batch_size below 1.

    Example:
      >>> from jaxssl.data import load_digits
      >>> batches = list(eval_batches(load_digits(size=8), batch_size=1000))
      >>> [int(batch["mask"].sum()) for batch in batches], batches[-1]["image"].shape
      ([1000, 797], (1000, 8, 8, 1))
    """
    import grain

    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    n = len(image_set)

    def batch_at(start: int) -> Batch:
        positions = np.arange(start, start + batch_size)[part]
        return image_set.batch(np.minimum(positions, n - 1)) | {"mask": positions < n}

    starts = grain.MapDataset.source(range(0, n, batch_size))
    return starts.map(batch_at).to_iter_dataset(_reading(threads))


def _reading(threads: int) -> grain.ReadOptions:
    import grain

    # Elements are whole batches here: Grain's default of 500 ahead would fill the memory.
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
