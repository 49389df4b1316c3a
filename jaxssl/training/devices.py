"""Which devices a run uses, and where its arrays live; the only mesh is made here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxssl.errors import InputError


@dataclasses.dataclass(frozen=True)
class Placement:
    """The shardings of a data-parallel run.

    Attributes:
      sharded: batches, split along their first axis.
      replicated: the state and everything else, whole on every device.
    """

    sharded: NamedSharding
    replicated: NamedSharding

    @property
    def device_count(self) -> int:
        """The number of devices in the mesh."""
        return self.sharded.mesh.size

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Send this process's part of a batch to the devices; the result is the global batch."""
        return {
            name: jax.make_array_from_process_local_data(self.sharded, value)
            for name, value in batch.items()
        }

    def replicate(self, tree: Any) -> Any:
        """Put a pytree whole on every device."""
        return jax.device_put(tree, self.replicated)


def require(platform: str | None) -> None:
    """Demand one platform, before any device is used; never replaced by another in silence.

    Args:
      platform: "tpu", "gpu", "cpu" (whatever else there is), or None: JAX's own choice.

    Raises:
      InputError: the platform has no device here; names the devices that there are.
    """
    if platform == "cpu":
        jax.config.update("jax_platforms", "cpu")
    elif platform is not None and jax.default_backend() != platform:
        # Asking JAX for "cuda" where there is none gives the CPU without a word: compare instead.
        raise InputError(
            f"--{platform}: no {platform.upper()} found; JAX {jax.__version__} sees "
            f"{summary()}. {_ADVICE[platform]}, or leave the flag out to use what there is"
        )


_ADVICE = {
    "tpu": 'In Colab choose Runtime > Change runtime type > TPU, then pip install "jaxssl[tpu]"',
    "gpu": 'Check `nvidia-smi`, then pip install "jaxssl[cuda]"',
}


def data_placement(batch_size: int) -> Placement:
    """A one-axis mesh over all devices, which splits the batch.

    Args:
      batch_size: the global batch; must be divisible by the number of devices.

    Raises:
      InputError: the batch cannot be split evenly.
    """
    devices = jax.devices()
    if batch_size % len(devices):
        raise InputError(
            f"--batch-size {batch_size} cannot be split over {len(devices)} devices: "
            f"use a multiple of {len(devices)}"
        )
    # Auto axes: with the default Explicit ones `z @ z.T` of a sharded z raises.
    mesh = jax.make_mesh(
        (len(devices),), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices
    )
    return Placement(
        sharded=NamedSharding(mesh, PartitionSpec("data")),
        replicated=NamedSharding(mesh, PartitionSpec()),
    )


def summary() -> str:
    """The devices in words, such as "8 x cpu" or "1 x NVIDIA H200"."""
    kinds = [d.device_kind for d in jax.devices()]
    return ", ".join(f"{kinds.count(kind)} x {kind}" for kind in sorted(set(kinds)))
