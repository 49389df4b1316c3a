"""What a program is compiled for, while it is traced; the host's own devices need not be that.

A program for eight TPU chips may be compiled on a machine that has one CPU. Where the platform
alone decides, `lax.platform_dependent` asks when it must; these are for what is decided sooner, as
the number of blocks of a ring or the side of a tile.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform as host
import subprocess
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import jax
from jax.sharding import Mesh, PartitionSpec

P = ParamSpec("P")
T = TypeVar("T")
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


def cores() -> int:
    """Count the cores that one CPU device computes on: all of the process, or its share of them.

    Example:
      >>> cores() == max(1, CORES // devices())
      True
    """
    return max(1, CORES * jax.process_count() // devices())


def device_by_device(
    own: Callable[..., jax.Array],
    otherwise: Callable[..., jax.Array],
    x: jax.Array,
    *whole: jax.Array,
) -> jax.Array:
    """Call a function of rows that XLA cannot split: a loop over images, a call of oneDNN.

    A single device calls it with all rows, and several CPUs each with their own, where the mesh is
    told, divides the rows, and is for the compiler to share out.

    Args:
      own: (rows, *whole) -> as many rows.
      otherwise: computes the same in a form that XLA splits; called elsewhere.
      x: [b, ...], spread over the devices by its first axis.
      *whole: what every device has whole; their gradients are summed over the devices.

    Returns:
      `own(x, *whole)` or `otherwise(x, *whole)`.

    Example:
      >>> rows, factors = jax.numpy.ones((8, 2)), jax.numpy.ones((1, 2))
      >>> device_by_device(jax.numpy.multiply, jax.numpy.multiply, rows, factors).shape
      (8, 2)
    """
    if devices() == 1:
        return own(x, *whole)
    axis = axis_of(x.shape[0])
    if axis is None or platform() != "cpu":
        return otherwise(x, *whole)
    rows, everything = PartitionSpec(axis), PartitionSpec()
    each = jax.shard_map(
        own,
        mesh=jax.sharding.get_abstract_mesh(),
        in_specs=(rows, *[everything] * len(whole)),
        out_specs=rows,
        # Without the check the gradients of what is whole are summed, and a custom gradient may be
        # of one device's rows.
        check_vma=False,
    )
    return cast(jax.Array, each(x, *whole))


def summed_over_devices(own: Callable[..., jax.Array], *rows: jax.Array) -> jax.Array:
    """Call a function that is a sum over rows; several CPUs each with their own, then summed.

    The compiler would do as much for each sum by itself, and CPU devices meet once for every array
    that they add up, for 45 us each on two cores: here what is returned is one array.

    Args:
      own: rows -> an array, that of all rows the sum of those of some.
      *rows: each [b, ...], spread over the devices by its first axis.

    Returns:
      `own(*rows)`, on all devices.

    Example:
      >>> summed_over_devices(lambda x: x.sum(0), jax.numpy.ones((8, 2))).tolist()
      [8.0, 8.0]
    """
    axis = axis_of(rows[0].shape[0])
    if axis is None or platform() != "cpu":
        return own(*rows)
    added = jax.shard_map(
        lambda *rows: jax.lax.psum(own(*rows), axis),
        mesh=jax.sharding.get_abstract_mesh(),
        in_specs=(PartitionSpec(axis),) * len(rows),
        out_specs=PartitionSpec(),
    )
    return cast(jax.Array, added(*rows))


def axis_of(rows: int) -> str | None:
    """Name the mesh's axis over which so many rows are shared out as a `shard_map` may have them.

    None where no mesh of several devices is told, where it has other axes or is not the compiler's
    to share out, and where the rows do not divide.

    Example:
      >>> axis_of(8) is None
      True
    """
    mesh = jax.sharding.get_abstract_mesh()
    alone = len(mesh.axis_names) == 1 and mesh.auto_axes == mesh.axis_names and mesh.size > 1
    return str(mesh.axis_names[0]) if alone and rows % mesh.size == 0 else None


def in_reverse_alone(function: F, say: Callable[..., str] | None = None) -> F:
    """Name the way out where a function's forward-mode derivative is asked for: JAX names neither.

    JAX has no function with a gradient of its own in reverse mode and another in forward mode.

    Args:
      function: What is called.
      say: its options -> what is said; by default that its gradient is its own.
    """

    def own(**_: Any) -> str:
        return (
            f"{function.__module__}.{function.__name__} has no forward-mode derivative (jvp, "
            "jacfwd, hessian): its gradient is its own, in reverse mode (grad, vjp, jacrev; "
            "jacrev(grad(f)) for second derivatives)"
        )

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except TypeError as error:
            if "forward-mode" not in str(error):
                raise
            raise TypeError((say or own)(**options)) from error

    return cast(F, call)


def on_any_mesh(
    function: Callable[P, T], *, spread: Callable[..., Any] = lambda *_, **__: PartitionSpec()
) -> Callable[P, T]:
    """Let a function take arrays that are spread over Explicit axes, `jax.make_mesh`'s default.

    There each operation would have to say how its result is spread, and the product of all rows
    with all rows cannot. Inside, the compiler decides, as on Auto axes.

    Args:
      function: of arrays, and of trees of them.
      spread: (the same arguments) -> how the result is spread, a tree of `PartitionSpec` or of its
        leading branches; by default it is whole on all devices.

    Example:
      >>> explicit = (jax.sharding.AxisType.Explicit,)
      >>> mesh = Mesh(jax.devices(), ("data",), axis_types=explicit)
      >>> rows = jax.sharding.NamedSharding(mesh, PartitionSpec("data"))
      >>> x = jax.device_put(jax.numpy.ones((jax.device_count(), 2)), rows)
      >>> everyone = on_any_mesh(lambda x: x @ x.T)(x)
      >>> everyone.shape == 2 * (jax.device_count(),), everyone.sharding.is_fully_replicated
      (True, True)
    """

    @functools.wraps(function)
    def on_this_mesh(*args: P.args, **options: P.kwargs) -> T:
        mesh = _explicit_mesh((args, options))
        if mesh is None:
            return function(*args, **options)
        leaves, tree = jax.tree.flatten((args, options))
        moving = [isinstance(leaf, jax.Array) for leaf in leaves]

        def inside(*arrays: jax.Array) -> T:
            rest = iter(arrays)
            both = [
                next(rest) if moves else leaf for leaf, moves in zip(leaves, moving, strict=True)
            ]
            args, options = jax.tree.unflatten(tree, both)
            return function(*args, **options)

        with in_mesh_of((args, options)):
            automatic = jax.sharding.auto_axes(inside, out_sharding=spread(*args, **options))
            return automatic(*(leaf for leaf, moves in zip(leaves, moving, strict=True) if moves))

    return on_this_mesh


def in_mesh_of(values: Any) -> contextlib.AbstractContextManager[Any]:
    """Enter the mesh of arrays that are spread over Explicit axes, if they are.

    Outside of `jax.jit` JAX runs a loop over such arrays nowhere else.

    Args:
      values: a tree, whose first such array counts.
    """
    mesh = _explicit_mesh(values)
    if mesh is None:
        return contextlib.nullcontext()
    for leaf in jax.tree.leaves(values):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
            whole = getattr(leaf.sharding, "mesh", None)
            if isinstance(whole, Mesh) and whole.abstract_mesh == mesh:
                with contextlib.suppress(ValueError):  # inside of jax.jit
                    return jax.set_mesh(whole)
    return jax.sharding.use_abstract_mesh(mesh)


def spec_of(array: Any) -> PartitionSpec:
    """Tell how an array is spread over Explicit axes: not at all, where it lies on no such mesh."""
    return jax.typeof(array).sharding.spec


def _explicit_mesh(values: Any) -> Any:
    """The mesh of the first array that is spread over Explicit axes; None: there is none."""
    for leaf in jax.tree.leaves(values):
        if isinstance(leaf, jax.Array):
            mesh = jax.typeof(leaf).sharding.mesh
            if mesh.explicit_axes:
                return mesh
    return None


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
