"""JSON values as frozen dataclasses, each checked against its type."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from jaxssl.errors import InputError

T = TypeVar("T")


def decode(kind: type[T], value: Any, file: Path) -> T:
    """Make a dataclass of what `jaxssl.files.plain` made of one.

    A field that is missing takes its default; what is no field is passed over.

    Args:
        kind: The dataclass; its fields are bool, int, float, str, Any, `Literal`, dataclasses, and
            `X | None`, `tuple[X, ...]` and `Mapping[str, X]` of these.
        value: JSON values.
        file: Where they come from, for the error.

    Returns:
        The dataclass; a list is a tuple in it.

    Raises:
        InputError: A value is missing or of another type; one line names file and field.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Point:
        ...     x: float
        ...     names: tuple[str, ...] = ()
        >>> decode(Point, {"x": 1, "names": ["a"]}, Path("p.json"))
        Point(x=1.0, names=('a',))
        >>> decode(Point, {"x": "1"}, Path("p.json"))
        Traceback (most recent call last):
        jaxssl.errors.InputError: p.json: x is '1', not float; restore it, or analyse the run again
    """
    try:
        return _decode(kind, value, "")
    except _Damaged as damaged:
        raise InputError(f"{file}: {damaged}; restore it, or analyse the run again") from None


class _Damaged(Exception):
    pass


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        (some,) = [one for one in inner if one is not types.NoneType]
        return None if value is None else _decode(some, value, where)
    if origin is Literal:
        return value if value in inner else _refuse(where, value, f"one of {', '.join(inner)}")
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            _refuse(where, value, "a list")
        return tuple(_decode(inner[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            _refuse(where, value, "an object")
        return {name: _decode(inner[1], one, f"{where}.{name}") for name, one in value.items()}
    # JSON has one kind of number, and Python counts True among them.
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        _refuse(where, value, kind.__name__)
    return float(value) if kind is float else value


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        _refuse(where, value, "an object")
    hints, found = _hints(kind), {}
    for field in dataclasses.fields(kind):
        name = f"{where}.{field.name}" if where else field.name
        if field.name in value:
            found[field.name] = _decode(hints[field.name], value[field.name], name)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise _Damaged(f"{name} is missing")
    try:
        return kind(**found)
    except ValueError as error:
        raise _Damaged(f"{where or kind.__name__}: {error}") from None


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _refuse(where: str, value: Any, wanted: str) -> typing.NoReturn:
    said = repr(value)
    said = said if len(said) <= 40 else said[:39] + "…"
    raise _Damaged(f"{where or 'the file'} is {said}, not {wanted}")
