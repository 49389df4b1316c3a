"""What the public functions of this room refuse, each in one line that names the argument.

A call that cannot be meant (shapes, kinds of numbers, numbers out of range) is a ValueError.
Numbers that are not finite and labels that are missing are an InputError, which is one too: they
come from the images, and a program says them in one line.

What is checked is read once and not copied, so that a function may check what its caller has
checked: a sum costs little beside distances.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxssl.errors import InputError


def fit(least: int = 1, /, **arguments: tuple[Any, str]) -> list[np.ndarray]:
    """Return arguments as arrays; refuse shapes that do not fit each other.

    Args:
        least: The fewest rows, of each.
        **arguments: Name of an argument -> its value, and its axes: a letter is one length in all
            arguments, a number is that length. None but the first may be 0.

    Returns:
        Arrays in the order of the arguments; what is an array stays itself.

    Raises:
        ValueError: Shapes that do not fit, or rows of several lengths.

    Example:
        >>> fit(vectors=(np.ones((3, 2)), "n d"), names=(["a"], "n"))
        Traceback (most recent call last):
        ValueError: vectors have shape (3, 2) and names (1,), not [n, d] and [n] with n of 1 or more
    """
    arrays = {name: as_array(name, value) for name, (value, _) in arguments.items()}
    axes = {name: letters.split() for name, (_, letters) in arguments.items()}
    lengths: dict[str, int] = {}
    fits = True
    for name, array in arrays.items():
        fits &= len(axes[name]) == array.ndim and len(array) >= least and 0 not in array.shape[1:]
        for letter, length in zip(axes[name], array.shape, strict=False):
            known = int(letter) if letter.isdigit() else lengths.setdefault(letter, length)
            fits &= known == length
    if not fits:
        found = [f"{name} {array.shape}" for name, array in arrays.items()]
        firsts = dict.fromkeys(letters[0] for letters in axes.values())
        rows = " and ".join(letter for letter in firsts if not letter.isdigit())
        enough = f" of {least} or more" if least else ""
        if least and len(found) > 1 and rows:
            enough = f" with {rows}{enough}"
        rule = [f"[{', '.join(letters)}]" for letters in axes.values()]
        if len(found) > 2:
            raise ValueError(f"shapes are {', '.join(found)}: not {', '.join(rule)}{enough}")
        found[0] = found[0].replace(" ", f" {_verb('has', next(iter(arrays)))} shape ", 1)
        raise ValueError(f"{' and '.join(found)}, not {' and '.join(rule)}{enough}")
    return list(arrays.values())


def finite(name: str, array: np.ndarray, *, infinite: bool = False) -> np.ndarray:
    """Return an array of real numbers; refuse others, and rows that hold NaN or infinity.

    Args:
        name: Of the argument.
        array: `[n, ...]`.
        infinite: Whether infinity may be in it, as in logarithms of probabilities.

    Returns:
        The array itself; of Python objects float64.

    Raises:
        ValueError: No real numbers.
        InputError: Numbers that are not finite; the line names how many rows and the first.

    Example:
        >>> finite("queries", np.array([[0.0], [np.nan], [1.0]]))
        Traceback (most recent call last):
        jaxssl.errors.InputError: queries hold NaN or infinity in 1 of 3 rows, the first is row 1: \
leave such rows out, or compute them again
    """
    if array.dtype.kind == "O":
        try:
            if any(isinstance(one, str) for one in array.flat):
                raise TypeError  # NumPy would read "1" as a number
            array = array.astype(np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"{name} must be real numbers, got Python objects") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be real numbers, got {_kind(array)}")
    # One pass without memory: no sum is finite of which a term is not. It may overflow of finite
    # ones, and then each is looked at.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum()):
            return array
    bad = np.isnan(array) if infinite else ~np.isfinite(array)
    rows = np.flatnonzero(bad.reshape(len(array), -1).any(axis=1))
    if rows.size:
        what = "NaN" if infinite else "NaN or infinity"
        raise InputError(
            f"{name} {_verb('holds', name)} {what} in {rows.size} of {len(array)} rows, the first "
            f"is row {rows[0]}: leave such rows out, or compute them again"
        )
    return array


def vectors(name: str, value: Any, *, least: int = 1) -> np.ndarray:
    """Return finite real numbers `[n, d]`, n of `least` or more, in the type they have.

    Raises:
        ValueError: Another shape, or no real numbers.
        InputError: Numbers that are not finite.
    """
    return finite(name, *fit(least, **{name: (value, "n d")}))


def classes(name: str, array: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number labels of any one kind: integers, strings, ...

    Args:
        name: Of the argument.
        array: `[n]`.

    Returns:
        The k classes, ascending; each label's number `[n]`, 0 to k - 1; and how many each has.

    Raises:
        ValueError: Labels of several kinds.
        InputError: NaN for a label.

    Example:
        >>> [found.tolist() for found in classes("labels", np.array(["b", "a", "b"]))]
        [['a', 'b'], [1, 0, 1], [1, 2]]
    """
    try:
        if array.dtype.kind in "fO" and bool((array != array).any()):
            raise InputError(f"{name} {_verb('holds', name)} NaN: leave out rows without a label")
        return np.unique(array, return_inverse=True, return_counts=True)
    except TypeError:  # what cannot be ordered, such as None and a string
        kinds = sorted({type(value).__name__ for value in array})
        raise ValueError(
            f"{name} {_verb('is', name)} of several kinds ({', '.join(kinds)}): pass all as "
            "strings, or all as numbers, and leave out rows without a label"
        ) from None


def numbers(
    name: str, array: np.ndarray, *, least: int | None = None, most: int | None = None
) -> np.ndarray:
    """Return class numbers as int64: integers, or whole numbers of another type.

    Args:
        name: Of the argument.
        array: Of any shape.
        least: The lowest there may be, 0, or -1 for no label; None: any.
        most: The highest, where there is a lowest; None: any.

    Raises:
        ValueError: Strings, fractions, NaN, or a number out of range.

    Example:
        >>> numbers("labels", np.array([1.0, 0.0])), numbers("labels", np.array([True]))
        (array([1, 0]), array([1]))
        >>> numbers("labels", np.array(["a", "b"]), least=0)
        Traceback (most recent call last):
        ValueError: labels must be class numbers, got strings: pass numpy.unique(labels, \
return_inverse=True)[1]
    """
    given, got = array, _kind(array)
    real = int | float | np.integer
    if array.dtype.kind == "O" and all(isinstance(one, real) for one in array.flat):
        array = array.astype(np.float64)
    if array.dtype.kind == "f":
        whole = np.isfinite(array).all() and (array == np.floor(array)).all()
        got = f"{_kind(given)} that are not whole"
    else:
        whole = array.dtype.kind in "biu"
    if not whole:
        none = ", and then -1 where there is no label" if least == -1 else ""
        raise ValueError(
            f"{name} must be class numbers, got {got}: pass numpy.unique({name}, "
            f"return_inverse=True)[1]{none}"
        )
    return _within(name, array.astype(np.int64), least, most)


def rows(name: str, array: np.ndarray, n: int) -> np.ndarray:
    """Return numbers of rows, 0 to n - 1, as int64.

    Raises:
        ValueError: No integers, or one out of range.

    Example:
        >>> rows("rows", np.array([True, False]), 2)
        Traceback (most recent call last):
        ValueError: rows must be integers, got bool: pass numpy.flatnonzero(rows) of a mask
    """
    if array.dtype.kind not in "iu":
        way = f": pass numpy.flatnonzero({name}) of a mask" if array.dtype.kind == "b" else ""
        raise ValueError(f"{name} must be integers, got {_kind(array)}{way}")
    return _within(name, array.astype(np.int64, copy=False), 0, n - 1)


def neighbours(nearest: np.ndarray, distances: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and distances `[n, m]` of the nearest others of n images.

    Raises:
        ValueError: Shapes that do not fit, or rows that there are not.
        InputError: Distances that are not finite.
    """
    near, far = fit(nearest=(nearest, f"{n} m"), distances=(distances, f"{n} m"))
    return rows("nearest", near, n), finite("distances", far)


def as_array(name: str, value: Any) -> np.ndarray:
    """Return a value as an array; what is one stays itself.

    Raises:
        ValueError: Rows of several lengths.
    """
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} must be an array: its rows have several lengths") from None


def _within(name: str, array: np.ndarray, least: int | None, most: int | None) -> np.ndarray:
    if least is None or not array.size:
        return array
    low, high = int(array.min()), int(array.max())
    if low < least or (most is not None and high > most):
        end = "and up" if most is None else f"to {most}"
        raise ValueError(
            f"{name} {_verb('runs', name)} from {low} to {high}, outside {least} {end}"
        )
    return array


def _kind(array: np.ndarray) -> str:
    """Name what an array holds, as its reader would."""
    if array.dtype.kind in "UST":
        return "strings"
    return "Python objects" if array.dtype.kind == "O" else str(array.dtype)


def _verb(verb: str, name: str) -> str:
    """Return a verb as it stands after a name: of several things, if that ends with s."""
    if not name.endswith("s"):
        return verb
    return {"has": "have", "is": "are"}.get(verb, verb.removesuffix("s"))
