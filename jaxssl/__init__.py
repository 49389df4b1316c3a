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
import threading
from types import ModuleType
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
    room = importlib.util.module_from_spec(spec)
    room.__class__ = _Room
    sys.modules[full] = room
    globals()[name] = room
    return room


_LOADING = threading.RLock()


class _Room(ModuleType):
    """A room that is loaded when something of it is asked for that it does not have yet.

    Not importlib's LazyLoader: that loads at `__path__` too, which Python reads to import a module
    of the room. This module, which the room imports as it loads, would be loaded a second time,
    with other classes of the same names. And a load that failed would be none later, but a room
    without attributes: here it fails again, in the same words.
    """

    def __getattr__(self, name: str) -> Any:
        self._load()
        return ModuleType.__getattribute__(self, name)

    def __dir__(self) -> list[str]:
        self._load()
        return list(ModuleType.__dir__(self))

    def _load(self) -> None:
        with _LOADING:  # the same thread comes here again where rooms import one another
            spec: Any = self.__spec__
            if type(self) is not _Room or getattr(spec, "_initializing", False):
                return
            spec._initializing = True  # as Python's own import has it
            try:
                spec.loader.exec_module(self)
                self.__class__ = ModuleType  # type: ignore[assignment]
            finally:
                spec._initializing = False
