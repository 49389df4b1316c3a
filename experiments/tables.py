"""Images and their vectors as a table of embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxssl import analysis
from jaxssl import data as images_room

if TYPE_CHECKING:
    from jaxssl.data import ImageSet


def table_of(
    images: ImageSet,
    split: str,
    vectors: np.ndarray,
    about: Mapping[str, Any],
    *,
    pictures: bool = False,
) -> analysis.Embeddings:
    """Make a table of a set and its vectors; `about` stands in its metadata.

    With pictures, columns say how large the files are (`height`, `width`), and where it is known
    how many micrometres a pixel of them shows (`pixel_size`) and EcoTaxa's `object_id`.
    """
    known: dict[str, np.ndarray] = {}
    if pictures and images.sides.any():
        known = {"height": images.sides[:, 0], "width": images.sides[:, 1]}
    if pictures and images.pixel_size.any():
        sizes = images.pixel_size
        known["pixel_size"] = np.where(sizes > 0, sizes, np.nan).astype(np.float32)
    if pictures and any(images.object_ids):
        known["object_id"] = np.array(images.object_ids, object)
    return analysis.Embeddings(
        ids=images.ids,
        paths=images.paths,
        class_names=tuple(images.class_names[i] if i >= 0 else "" for i in images.labels),
        class_index=images.labels,
        split=(split,) * len(images),
        vectors=vectors,
        thumbnails=images_room.thumbnails(images) if pictures else [],
        extra=known,
        metadata=dict(about),
    )
