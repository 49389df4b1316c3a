"""Which devices a run uses, and where its arrays live; the only mesh is made here."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxssl import lowering
from jaxssl.errors import InputError, setting
from jaxssl.lowering import CORES
from jaxssl.training import processes

RESIDENT_LIMIT = 4 * 2**30  # bytes; a laptop's GPU and a TPU core keep room for the step itself
# Bytes. glibc's malloc gives threads memory by 64 MB, and what is larger goes back to the kernel.
# Arrays larger than a part share their memory badly: in parts of 32 MB it was a half more.
PART_OF_MEMORY = 60 * 2**20
# Cores up to which each is a device of its own unless told otherwise; of more none was measured.
CORES_APART = 2
# Bytes of a row that a TPU gathers whole. Of rows of 48 KB (128 px RGB) it cut the table in two, a
# copy of all images in every step; of 32 KB it does not (libtpu 0.0.42).
ROW_LIMIT = 2**15


@dataclasses.dataclass(frozen=True)
class Resident:
    """Training images that live on the devices, or their shapes alone.

    Attributes:
      pixels: uint8, of n images [n * k, h * w * c / k], as `laid_out` says. A row or a few an
        image: a TPU turned [n, h, w, c] round as a whole in every step before it gathered from it,
        0.55 GB of CIFAR-10's (jax 0.10.2).
      shape: (h, w, c).
    """

    pixels: Any
    shape: tuple[int, ...]

    @staticmethod
    def laid_out(shape: Sequence[int]) -> tuple[int, int]:
        """Return how many rows images [n, h, w, c] are, and of how many bytes.

        Example:
          >>> Resident.laid_out((45_000, 32, 32, 3)), Resident.laid_out((100, 128, 128, 3))
          ((45000, 3072), (200, 24576))
        """
        number, size = shape[0], math.prod(shape[1:])
        rows = next(k for k in range(1, size + 1) if size % k == 0 and size // k <= ROW_LIMIT)
        return number * rows, size // rows

    def gather(self, pixels: jax.Array, index: jax.Array) -> jax.Array:
        """Take images [b, h, w, c] out of `pixels`, which a program is handed apart."""
        rows = math.prod(self.shape) // pixels.shape[1]
        if rows == 1:
            return pixels[index].reshape(-1, *self.shape)
        parts = jnp.arange(rows, dtype=index.dtype)[None, :]
        found = pixels[(index[:, None] * rows + parts).reshape(-1)].reshape(len(index), -1)
        # Else a TPU's compiler makes images of the rows at once, 3 channels padded to 128.
        return jax.lax.optimization_barrier(found).reshape(-1, *self.shape)


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
    def mesh(self) -> Mesh:
        """The devices, which may be those of a topology that is only described."""
        mesh = self.sharded.mesh
        assert isinstance(mesh, Mesh)  # of devices, not of axes alone
        return mesh

    @property
    def device_count(self) -> int:
        """The number of devices in the mesh."""
        return self.mesh.size

    @property
    def cpu_count(self) -> int:
        """The number of this process's CPU devices in the mesh."""
        here = [device for device in self.mesh.devices.flat if device.platform == "cpu"]
        return len(here) // jax.process_count()

    @property
    def compiler_options(self) -> dict[str, bool | int]:
        """What the compiler is told: of as many CPU devices as cores each computes on one core.

        Its memory comes in parts, then, which malloc keeps for threads other than the main one.
        """
        if self.cpu_count < max(2, CORES):
            return {}
        return {
            "xla_cpu_multi_thread_eigen": False,
            "xla_multiheap_size_constraint_per_heap": PART_OF_MEMORY,
        }

    @property
    def stacked(self) -> NamedSharding:
        """The sharding of k batches [k, b, ...]: each is split as one batch is."""
        return NamedSharding(self.sharded.mesh, PartitionSpec(None, *self.sharded.spec))

    def part(self, rows: int) -> slice:
        """Find which of a batch's rows are this process's: its devices lie together in the mesh."""
        each = rows // jax.process_count()
        return slice(jax.process_index() * each, (jax.process_index() + 1) * each)

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Send this process's part of a batch to the devices; the result is the global batch."""
        return {
            name: jax.make_array_from_process_local_data(self.sharded, value)
            for name, value in batch.items()
        }

    def put_stacked(self, batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, jax.Array]:
        """Send this process's part of k batches in one transfer: [k, b, ...]."""
        return {
            name: jax.make_array_from_process_local_data(
                self.stacked, np.stack([batch[name] for batch in batches])
            )
            for name in batches[0]
        }

    def meet(self) -> None:
        """Run one small collective while the processes are in step.

        The slow first connection is made here, so that it does not time out later: Gloo, which
        connects CPUs, waits only 30 s for a late process at the first collective, and minutes at
        all others. Without this the first would be that of the first training step, at which the
        processes arrive apart, since one may compile it sooner.
        """
        ones = self.put({"": np.ones(len(self.sharded.addressable_devices), np.float32)})
        jax.block_until_ready(jax.jit(jnp.sum, out_shardings=self.replicated)(ones[""]))

    def reside(self, shape: Sequence[int], read: Callable[[], np.ndarray]) -> Resident:
        """Put all training images on the devices once, for steps that gather their batch there.

        Every device holds all of them, as bytes: 154 MB for the 50,000 images of CIFAR-10, 1.5 GB
        for 30,000 of 128 px RGB. The host holds as much while it reads, every process for itself.

        Args:
          shape: n, h, w, c.
          read: () -> uint8 [n, h, w, c]; not called where they would not fit.

        Returns:
          The images, replicated.

        Raises:
          InputError: more than 4 GiB.
        """
        check_resident(shape)
        pixels = read().reshape(Resident.laid_out(shape))
        return Resident(self.replicate(pixels), tuple(shape[1:]))

    def replicate(self, tree: Any) -> Any:
        """Put a pytree whole on every device; every process brings all of it."""
        if self.replicated.is_fully_addressable:
            return jax.device_put(tree, self.replicated)
        return jax.tree.map(self._whole, tree)

    def _whole(self, leaf: Any) -> jax.Array:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = self._whole(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return jax.make_array_from_process_local_data(self.replicated, np.asarray(leaf))


def check_resident(shape: Sequence[int]) -> None:
    """Refuse more images [n, h, w, c] than every device is to hold.

    Raises:
      InputError: More than 4 GiB.
    """
    size = math.prod(shape)
    if size > RESIDENT_LIMIT:
        raise InputError(
            f"{shape[0]:,} images of {' x '.join(map(str, shape[1:]))} would take "
            f"{size / 2**30:.1f} GiB on every device, the limit is "
            f"{RESIDENT_LIMIT / 2**30:g}: do not keep them resident"
            f"{setting('resident', False, ' ({})')}, or lower the image size"
            f"{setting('image_size', form=' ({})')}"
        )


def require(platform: str | None) -> None:
    """Demand one platform before any device is used; another never silently takes its place.

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
            f"no {platform.upper()} found; JAX {jax.__version__} sees "
            f"{summary()}. {_ADVICE[platform]}, or do not ask for one, to use what there is"
        )


_ADVICE = {
    "tpu": 'In Colab choose Runtime > Change runtime type > TPU, then pip install "jaxssl[tpu]"',
    "gpu": 'Check `nvidia-smi`, then pip install "jaxssl[cuda]"',
}


def run_in_turn() -> None:
    """Run what a CPU computes on the thread that calls for it, from now on; before any device.

    JAX leaves it to a thread of its own and goes on. A step of one CPU computes on all cores either
    way, and malloc (glibc's) keeps memory of more than 64 MB for the main thread alone: with
    settings that have it kept (`experiments.malloc`) a step meets the memory of the one before,
    which the kernel else clears again.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def divide_cpu(count: int | None, batch_size: int = CORES) -> None:
    """Make so many devices of the CPU's cores, before any device is used.

    XLA splits each operation of a device among all cores, which wait for one another at its end,
    and which core takes which part changes every few operations: where cores share no cache, what
    is computed goes from one to the other. A device a core keeps its images, and they wait where
    BatchNorm, the loss and the gradient need the whole batch.

    Args:
      count: of devices; None: one for each of two cores, and one for all where there are more, the
        batch cannot be split, there are several processes, or somebody has said otherwise
        (JAX_NUM_CPU_DEVICES, XLA_FLAGS, devices that are in use).
      batch_size: that is to be split.

    Raises:
      InputError: more than there are cores.
    """
    if count is None:
        told = jax.config.values["jax_num_cpu_devices"] >= 0 or "device_count" in os.environ.get(
            "XLA_FLAGS", ""
        )
        alone = processes.count() == 1
        if 1 < CORES <= CORES_APART and batch_size % CORES == 0 and alone and not told:
            with contextlib.suppress(RuntimeError):  # devices are in use
                jax.config.update("jax_num_cpu_devices", CORES)
        return
    if count > CORES:
        raise InputError(
            f"{count} CPU devices: this process has {CORES} cores, ask for no more"
            f"{setting('cpu_devices', form=' ({})')}"
        )
    jax.config.update("jax_num_cpu_devices", count)


def keep_compiled(folder: Path) -> None:
    """Keep compiled programs on disk: the same run again, or a resumed one, starts in seconds.

    Not those of a CPU that convolves by oneDNN: XLA cannot write them to disk.
    """
    if lowering.platform() == "cpu" and lowering.has_onednn():
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def data_placement(batch_size: int) -> Placement:
    """Make a one-axis mesh over all devices, which splits the batch.

    Args:
      batch_size: the global batch; must be divisible by the number of devices.

    Raises:
      InputError: the batch cannot be split evenly, or the processes have unequal shares of them.
    """
    devices = jax.devices()
    each = [sum(d.process_index == i for d in devices) for i in range(jax.process_count())]
    if len(set(each)) > 1:
        raise InputError(
            f"the processes have {', '.join(map(str, each))} devices: give each the same number"
        )
    return placement_over(devices, batch_size)


def placement_over(devices: Sequence[jax.Device], batch_size: int) -> Placement:
    """A one-axis mesh over these devices, which splits the batch.

    Args:
      devices: those of this machine, or those of a topology that is only described.
      batch_size: the global batch; must be divisible by their number.

    Raises:
      InputError: the batch cannot be split evenly.
    """
    if batch_size % len(devices):
        raise InputError(
            f"the batch size {batch_size} cannot be split over {len(devices)} devices: "
            f"use a multiple of {len(devices)}{setting('batch_size', form=' ({})')}"
        )
    # Auto axes: with the default Explicit ones `z @ z.T` of a sharded z raises.
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=auto, devices=devices)
    # JAX's order on a torus may mix the processes: row i is the same image however many there are.
    together = sorted(mesh.devices.flat, key=lambda device: device.process_index)
    mesh = Mesh(np.array(together), ("data",), axis_types=auto)
    return Placement(
        sharded=NamedSharding(mesh, PartitionSpec("data")),
        replicated=NamedSharding(mesh, PartitionSpec()),
    )


def summary() -> str:
    """Describe the devices, such as "1 x NVIDIA H200" or "8 x cpu in 2 processes"."""
    kinds = [d.device_kind for d in jax.devices()]
    devices = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in sorted(set(kinds)))
    many = jax.process_count()
    return devices + (f" in {many} processes" if many > 1 else "")
