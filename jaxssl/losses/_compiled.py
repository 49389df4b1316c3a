"""How a loss is called: compiled once for its shapes, on any mesh, with errors that name it."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, TypeVar

import jax

from jaxssl.lowering import in_reverse_alone, on_any_mesh

T = TypeVar("T")


def compiled(loss: Callable[..., T]) -> Callable[..., T]:
    """`loss` as one program: a second call with the same shapes compiles nothing, eager or not.

    Its keyword-only arguments decide the program; arrays come by position.
    """
    static = [p.name for p in signature(loss).parameters.values() if p.kind is p.KEYWORD_ONLY]
    program = jax.jit(on_any_mesh(loss), static_argnames=static)

    def say(**options: Any) -> str:
        name = str(options.get("form", loss.__name__.strip("_")))
        return (
            f"{name} has no forward-mode derivative (jvp, jacfwd, hessian) "
            "in tiles: take the gradient in reverse mode, or pass a tile_size of at least as "
            "many as there are columns"
        )

    return wraps(loss)(in_reverse_alone(program, say))
