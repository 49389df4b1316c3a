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

import importlib
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
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, _Room(f"{__name__}.{name}"))


class _Room(ModuleType):
    """What stands for a room until it is used: it imports it, and is the same to read and to patch.

    Not importlib's LazyLoader, whose unloaded module is in `sys.modules`: to import a module of the
    room, Python asks it for its path, it loads with that very module, and Python loads this a
    second time, with other classes of the same names. And a load that failed would be none later,
    but a room without attributes: here it fails again, in the same words.
    """

    def __getattribute__(self, name: str) -> Any:
        return getattr(_loaded(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_loaded(self), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(_loaded(self), name)

    def __dir__(self) -> list[str]:
        return dir(_loaded(self))

    def __repr__(self) -> str:
        return repr(_loaded(self))


def _loaded(room: _Room) -> ModuleType:
    return importlib.import_module(object.__getattribute__(room, "__name__"))
