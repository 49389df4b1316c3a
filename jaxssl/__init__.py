"""Contrastive and metric learning for images in pure JAX.

`embed` gives embeddings of images from a run folder or a model, in one call. The rooms, each
importable alone:

- `jaxssl.losses`: pure functions of arrays (imports jax only)
- `jaxssl.augment`: random views, one image at a time, on the device (jax only)
- `jaxssl.models`: encoders and heads (flax.nnx)
- `jaxssl.data`: images on disk to batches (grain, numpy)
- `jaxssl.training`: steps, state, checkpoints, the loop (jax, flax, optax, orbax)
- `jaxssl.analysis`: embedding tables to numbers and a report (numpy, scikit-learn; no jax)

`from jaxssl import losses` loads the room when something of it is first used, so that a program
with its imports at the top prints its `--help` without paying for JAX.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxssl.embedding import embed

__version__ = "0.1.0"
__all__ = ["analysis", "augment", "data", "embed", "losses", "models", "training"]


def __getattr__(name: str) -> Any:
    """Give a room that is loaded at its first use (PEP 562), or `embed`."""
    if name == "embed":
        from jaxssl.embedding import embed

        return embed
    full = f"{__name__}.{name}"
    spec = importlib.util.find_spec(full) if name in __all__ else None
    if spec is None or spec.loader is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    spec.loader = importlib.util.LazyLoader(spec.loader)
    room = importlib.util.module_from_spec(spec)
    sys.modules[full] = room
    spec.loader.exec_module(room)
    globals()[name] = room
    return room
