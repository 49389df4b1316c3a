"""What a program is compiled for, while it is traced; the host's own devices need not be that.

A program for eight TPU chips may be compiled on a machine that has one CPU. Where the platform
alone decides, `lax.platform_dependent` asks when it must; these are for what is decided sooner, as
the number of blocks of a ring or the side of a tile.
"""

from __future__ import annotations

import functools
import os
import platform as host
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
from jax.sharding import Mesh, PartitionSpec

F = TypeVar("F", bound=Callable[..., Any])
# Of this process, which is what XLA makes its threads by.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
# Versions of jaxlib whose convolution by oneDNN was seen to be right.
WITH_ONEDNN = ("0.10.1", "0.10.2", "0.11.0", "0.11.1", "0.11.2")


def made_for(mesh: Mesh) -> Callable[[F], F]:
    """Let `devices` and `platform` speak of this mesh where a function is traced.

    Args:
      mesh: of devices that are there, or that a topology describes.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def there(*arguments: Any) -> Any:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return function(*arguments)

        return cast(F, there)

    return decorate


def devices() -> int:
    """Count the devices that the program will run on; of the host, where nothing says.

    Example:
      >>> from jax.sharding import AxisType
      >>> axes = dict(axis_types=(AxisType.Auto,))
      >>> with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((256,), ("data",), **axes)):
      ...     devices()
      256
    """
    mesh = jax.sharding.get_abstract_mesh()
    return jax.device_count() if mesh.empty else mesh.size


def on_each_cpu(function: Callable[..., jax.Array], x: jax.Array, *whole: jax.Array) -> Any:
    """Call a function of rows on every CPU device with its own rows, where there are several.

    XLA cannot split what it does not know, such as a call of oneDNN, or a loop over images.

    Args:
      function: (rows, *whole) -> as many rows.
      x: [b, ...], spread over the devices by its first axis.
      *whole: what every device has whole; their gradients are summed over the devices.

    Returns:
      `function(x, *whole)`. None where the mesh is not of several CPUs, does not divide the rows,
      or is not for the compiler to share out.

    Example:
      >>> rows, factors = jax.numpy.ones((8, 2)), jax.numpy.ones(2)
      >>> on_each_cpu(jax.numpy.multiply, rows, factors) is None  # no mesh is told
      True
    """
    mesh = jax.sharding.get_abstract_mesh()
    spread = len(mesh.axis_names) == 1 and mesh.auto_axes == mesh.axis_names and mesh.size > 1
    if not spread or platform() != "cpu" or x.shape[0] % mesh.size:
        return None
    rows, everything = PartitionSpec(mesh.axis_names[0]), PartitionSpec()
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(rows, *[everything] * len(whole)),
        out_specs=rows,
        # Without the check the gradients of what is whole are summed, and a custom gradient may be
        # of one device's rows.
        check_vma=False,
    )(x, *whole)


def platform() -> str:
    """Name the platform that the program will run on; the host's, where nothing says.

    Example:
      >>> platform() == jax.default_backend()
      True
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def has_onednn() -> bool:
    """Tell whether a program for this machine's CPU may call oneDNN, `models.onednn`.

    jaxlib carries it for Linux on x86-64. XLA cannot write a program that calls it to disk (it
    reads past the end of what it has, and fails if all goes well): not where programs are kept
    there. `JAXSSL_ONEDNN=0` does without.
    """
    options = jax.config.values
    kept = options["jax_enable_compilation_cache"] and options["jax_compilation_cache_dir"]
    return os.environ.get("JAXSSL_ONEDNN") != "0" and not kept and _carries_onednn()


@functools.cache
def _carries_onednn() -> bool:
    if sys.platform != "linux" or host.machine() != "x86_64":
        return False
    if jax.lib.__version__ in WITH_ONEDNN:
        return True
    # Settings that it does not understand end the process.
    check = "from jaxssl.models import onednn; onednn.check()"
    try:
        tried = subprocess.run(
            [sys.executable, "-c", check],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            check=False,
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        return False
    return tried.returncode == 0
