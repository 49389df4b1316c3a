"""The losses on arrays whose mesh has Explicit axes."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import jax
from jax.sharding import PartitionSpec

P = ParamSpec("P")
T = TypeVar("T")


def on_any_mesh(loss: Callable[P, T]) -> Callable[P, T]:
    """`loss`, also where its arrays are spread over Explicit axes, `jax.make_mesh`'s default.

    There each operation would have to say how its result is spread, and the product of all rows
    with all rows cannot. Inside, the compiler decides, as on Auto axes; what comes out is the same
    on all devices.
    """

    @wraps(loss)
    def on_this_mesh(*args: P.args, **options: P.kwargs) -> T:
        mesh = _explicit_mesh((args, options))
        if mesh is None:
            return loss(*args, **options)
        leaves, tree = jax.tree.flatten((args, options))
        moving = [isinstance(leaf, jax.Array) for leaf in leaves]

        def inside(*arrays: jax.Array) -> T:
            rest = iter(arrays)
            both = [
                next(rest) if moves else leaf for leaf, moves in zip(leaves, moving, strict=True)
            ]
            args, options = jax.tree.unflatten(tree, both)
            return loss(*args, **options)

        with jax.sharding.use_abstract_mesh(mesh):
            automatic = jax.sharding.auto_axes(inside, out_sharding=PartitionSpec())
            return automatic(*(leaf for leaf, moves in zip(leaves, moving, strict=True) if moves))

    return on_this_mesh


def _explicit_mesh(values: Any) -> Any:
    """The mesh of the first array that is spread over Explicit axes; None: there is none."""
    for leaf in jax.tree.leaves(values):
        if isinstance(leaf, jax.Array):
            mesh = jax.typeof(leaf).sharding.mesh
            if mesh.explicit_axes:
                return mesh
    return None
