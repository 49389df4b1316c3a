"""Rows from elsewhere that a batch is contrasted with: reference sets, and a queue of past rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses._checks import as_labels, as_mask, as_rows, holds
from jaxssl.losses._compiled import compiled
from jaxssl.losses._rows import AxisName, dtype_of, gather_rows, only_where, unit_rows


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class References:
    """Rows that serve as negatives or positives of a batch's rows, and are no anchors.

    A loss takes them, a `Queue`, or a plain array [m, d] of unlabelled rows as `references=`. With
    `axis_name` they are the same on every device.

    Args:
        rows: [m, d], any float type and any length.
        labels: [m] integers, in the numbering of the batch's labels.
        where: booleans [m]; rows where it is False are not there.
        gradient: whether the rows get a gradient.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import References, sup_con
        >>> z, old = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0, 0.0]])
        >>> references = References(old, labels=jnp.array([4]))
        >>> loss = sup_con(z, jnp.array([4, 7]), temperature=1.0, references=references)
        >>> print(f"{loss:.4f}")  # row 0 alone has a positive: ln(e + 1) − 1
        0.3133
    """

    rows: Any
    labels: Any = None
    where: Any = None
    gradient: bool = field(default=False, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Queue:
    """The newest rows of past batches, of a fixed number: MoCo's queue, cross-batch memory.

    A pytree of four arrays, to be carried through `jit` and `scan` and saved in a checkpoint with
    the model. `push` returns the next one. As `references=` it is what it holds so far.

    Args:
        rows: [m, d].
        labels: [m] int32.
        where: booleans [m], True where a row has been pushed.
        next: where the next row goes, an int32 scalar.

    Example:
        MoCo (He et al. 2020, https://arxiv.org/abs/1911.05722, equation 1): the negatives of a
        query are the keys of past batches.

        >>> import jax, jax.numpy as jnp
        >>> from jaxssl.losses import Queue, info_nce
        >>> queue = Queue.empty(4, 2).push(jnp.array([[0.0, 1.0], [0.6, 0.8]]))
        >>> query, key = jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 0.0]])
        >>> loss = info_nce(
        ...     query, jax.lax.stop_gradient(key), temperature=1.0, symmetric=False,
        ...     references=queue, negatives="references",
        ... )
        >>> print(f"{loss:.4f}")  # ln(e^1 + e^0 + e^0.6) − 1
        0.7121
        >>> queue = queue.push(key)  # when the step is done

        Cross-batch memory (Wang et al. 2020, https://arxiv.org/abs/1912.06798): rows of the batch
        and of the memory are contrasted alike, by label.

        >>> from jaxssl.losses import sup_con
        >>> z, labels = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([0, 1])
        >>> memory = Queue.empty(4, 2).push(z, labels)
        >>> print(f"{sup_con(z, labels, temperature=1.0, references=memory):.4f}")  # ln(e + 2) − 1
        0.5514
    """

    rows: Any
    labels: Any
    where: Any
    next: Any

    @classmethod
    def empty(cls, size: int, d: int, dtype: Any = jnp.float32) -> Queue:
        """A queue of `size` rows of `d` numbers, none pushed yet."""
        if size < 1 or d < 1:
            raise ValueError(f"size and d must be at least 1, got {size} and {d}")
        labels, where = jnp.full(size, -1, jnp.int32), jnp.zeros(size, bool)
        return cls(jnp.zeros((size, d), dtype), labels, where, jnp.zeros((), jnp.int32))

    def push(
        self, rows: Any, labels: Any = None, *, where: Any = None, axis_name: AxisName = None
    ) -> Queue:
        """The queue with `rows` in it, in place of the oldest where it is full.

        Args:
            rows: [n, d]; more than the queue holds: the last of them. They carry no gradient.
            labels: [n] integers of 32 bits; None: −1.
            where: booleans [n]; only rows where it is True are pushed.
            axis_name: mapped axis (or axes) over which the rows are spread: those of all devices
                are pushed, in their order, and the queue stays the same on all.

        Returns:
            The next queue, of the same shapes.

        Raises:
            ValueError: if shapes do not fit or labels are not integers.
        """
        rows = as_rows("rows", rows)
        n = len(rows)
        if rows.shape[1] != self.rows.shape[1]:
            raise ValueError(f"rows must be [n, {self.rows.shape[1]}], got {rows.shape}")
        labels = jnp.full(n, -1, jnp.int32) if labels is None else as_labels("labels", labels, n)
        if not holds(lambda v: int(v.min()) >= -(2**31) and int(v.max()) < 2**31, labels):
            raise ValueError("labels of a queue must fit 32 bits")
        where = jnp.ones(n, bool) if where is None else as_mask("where", where, n)
        new = (rows, jnp.asarray(labels).astype(jnp.int32), jnp.asarray(where))
        return _pushed(self, new, axis_name=axis_name)


@compiled
def _pushed(queue: Queue, new: tuple[Any, Any, Any], *, axis_name: AxisName) -> Queue:
    size = len(queue.rows)
    rows, labels, where = (gather_rows(lax.stop_gradient(x), axis_name) for x in new)
    number = jnp.cumsum(where, dtype=jnp.int32)  # of those pushed up to a row
    kept = where & (number > number[-1] - size)  # the others would be overwritten at once
    place = jnp.where(kept, (queue.next + number - 1) % size, size)
    return replace(
        queue,
        rows=queue.rows.at[place].set(rows.astype(queue.rows.dtype), mode="drop"),
        labels=queue.labels.at[place].set(labels, mode="drop"),
        where=queue.where.at[place].set(True, mode="drop"),
        next=(queue.next + number[-1]) % size,
    )


def as_references(value: Any, d: int) -> References | None:
    """What a caller passes as `references=`, checked."""
    if value is None:
        return None
    if not isinstance(value, References | Queue):
        value = References(value)
    rows = as_rows("references", value.rows, "[m, d]")
    m = len(rows)
    if rows.shape[1] != d:
        raise ValueError(f"references must be [m, {d}], got {rows.shape}")
    labels = None if value.labels is None else as_labels("references.labels", value.labels, m)
    where = as_mask("references.where", value.where, m)
    return References(rows, labels, where, getattr(value, "gradient", False))


def reference_rows(references: References | None, precision: str, unit: bool = True) -> Any:
    """What the losses know of references: "x" [m, d], "label" and "real" where they are."""
    if references is None:
        return None
    rows = only_where(jnp.asarray(references.rows), references.where)
    if not references.gradient:
        rows = lax.stop_gradient(rows)
    x = unit_rows(rows, precision) if unit else rows.astype(dtype_of(precision))
    known = {"x": x, "label": references.labels, "real": references.where}
    return {name: v for name, v in known.items() if v is not None}


def same_labels(labels: Any, other: Any) -> Any:
    """`other` labels in the type of `labels`, in which no value of it is lost."""
    ours, theirs = jnp.iinfo(labels.dtype), jnp.iinfo(other.dtype)
    if int(theirs.min) < int(ours.min) or int(theirs.max) > int(ours.max):
        raise ValueError(
            f"references.labels of type {other.dtype} need labels of a type that holds them, "
            f"got {labels.dtype}"
        )
    return other.astype(labels.dtype)
