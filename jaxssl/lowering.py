"""What a program is compiled for, while it is traced; the host's own devices need not be that.

A program for eight TPU chips may be compiled on a machine that has one CPU. Where the platform
alone decides, `lax.platform_dependent` asks when it must; these are for what is decided sooner, as
the number of blocks of a ring or the side of a tile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
from jax.sharding import Mesh

F = TypeVar("F", bound=Callable[..., Any])


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


def platform() -> str:
    """Name the platform that the program will run on; the host's, where nothing says.

    Example:
      >>> platform() == jax.default_backend()
      True
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform
