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
    """Make a table of a set and its vectors; `about` stands in its metadata."""
    return analysis.Embeddings(
        ids=images.ids,
        paths=images.paths,
        class_names=tuple(images.class_names[i] if i >= 0 else "" for i in images.labels),
        class_index=images.labels,
        split=(split,) * len(images),
        vectors=vectors,
        thumbnails=images_room.thumbnails(images) if pictures else [],
        metadata=dict(about),
    )
