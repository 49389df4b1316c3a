"""Every row against every other and against references: log-sums of products, in tiles or at once.

The contrastive losses need, for each row x_i of a batch, lse_i = log Σ_{j≠i} exp(s_ij) and the sum
of s_ip over its positives p, with s_ij = x_i·x_j. Two things make tiles as exact as the matrix, and
faster; how they go round many devices, `_ring` says:

- The sums are merged online: each carries its largest logit so far.
- s is symmetric: a tile (i, j) serves the rows of i and, transposed, those of j. So does
  w_ij = g_i exp(s_ij − lse_i) + g_j exp(s_ij − lse_j), with g the gradient of lse, and the gradient
  of the rows is dx_i = Σ_j w_ij x_j: backward, a tile is computed once more and multiplied once a
  side.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses._pairs import (
    LOWEST,
    Form,
    Sums,
    log_sum,
    masks,
    merge,
    nothing_yet,
    of_positives,
    reduce,
)
from jaxssl.losses._ring import Rows, get, over_all_tiles, put
from jaxssl.losses._rows import (
    dot_products,
    filled,
    gather_rows,
    row_indices,
    varying_as,
)


def log_sums(
    x: jax.Array, about: Rows, references: Rows | None, temperature: Any, form: Form
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sum each row: log Σ_j exp(s_ij), Σ_p q_ip s_ip and Σ_p q_ip, s = x·x / temperature; [n].

    Args:
        x: the rows [n, d], this device's.
        about: what `masks` knows of them; or "positives", q of all columns.
        references: their "x" [m, d] and what `masks` knows of them; on every device the same.
        temperature: a scalar.
        form: the loss's.

    Returns:
        The first is LOWEST where no column counts.
    """
    temperature = jnp.asarray(temperature, x.dtype)
    if form.tile is None:
        return _at_once(x, about, references, temperature, form)
    root = jnp.sqrt(temperature)
    x = x / root
    sums = tiled_sums(x, about, form)
    if references is not None:
        references = references | {"x": references["x"] / root}
        sums = joined(sums, log_sums_of_references(x, references, about, form))
    return sums


def log_sums_of_references(
    x: jax.Array, references: Rows, about: Rows, form: Form
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`log_sums` of rows over references alone; their products are the logits."""
    if form.tile is None:
        return sums_at_once(*_against({"x": x, **about}, references, form), guard=True)
    others = {name: v for name, v in references.items() if name != "x"}
    # Spread here, so that their gradient is summed over the devices.
    columns = varying_as(references["x"], x)
    return reference_sums(x, columns, about, others, form)


def joined(a: Any, b: Any) -> Any:
    """The two log-sums as one, and the other sums added."""
    top = lax.stop_gradient(jnp.maximum(a[0], b[0]))
    log = top + jnp.log(jnp.exp(a[0] - top) + jnp.exp(b[0] - top))
    return log, a[1] + b[1], a[2] + b[2]


def _at_once(
    x: jax.Array, about: Rows, references: Rows | None, temperature: jax.Array, form: Form
) -> tuple[jax.Array, jax.Array, jax.Array]:
    matrix = about.get("positives")
    rows = {"x": x, **{name: v for name, v in about.items() if name != "positives"}}
    columns = {name: gather_rows(v, form.axis_name) for name, v in rows.items()}
    index = row_indices(x.shape[0], form.axis_name)
    own = index[:, None] == jnp.arange(len(columns["x"]), dtype=index.dtype)[None, :]
    parts = [(columns, own)] + ([] if references is None else [(references, None)])
    found = []
    for part, mine in parts:
        if matrix is not None:
            first, last = (0, own.shape[1]) if mine is not None else (own.shape[1], None)
            part = part | {"weights": matrix[:, first:last].astype(x.dtype)}
        found.append(masks(rows, part, mine, form if mine is own else form._replace(alone=False)))
    every = jnp.concatenate([part["x"] for part, _ in parts]) if len(parts) > 1 else columns["x"]
    logits = dot_products(x, every, form.precision) / temperature
    counts, positive = (
        _beside([pair[k] for pair in found], [len(part["x"]) for part, _ in parts], k == 0, x)
        for k in (0, 1)
    )
    # Some row may have no column at all.
    some = form.decoupled or form.alone or "real" in rows or "apart" in rows or len(every) == 1
    return sums_at_once(logits, counts, positive, guard=some, decoupled=form.decoupled)


def sums_at_once(
    logits: jax.Array,
    counts: jax.Array | None,
    positive: jax.Array | None,
    *,
    guard: bool,
    decoupled: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`log_sums` from the whole matrix; `guard` against rows where no column counts."""
    shown = logits if counts is None else jnp.where(counts, logits, -jnp.inf)
    found = jnp.zeros_like(logits[:, 0]), jnp.zeros_like(logits[:, 0])
    if positive is not None:
        # Booleans are read from what the log-sum reads: a lone pair has a loss of exactly 0.
        inside = positive.dtype == bool and not decoupled
        found = of_positives(shown if inside else logits, positive)
    if guard and counts is not None:
        some = jnp.any(counts, axis=1)
        log = jax.nn.logsumexp(jnp.where(some[:, None], shown, 0.0), axis=1)
        return jnp.where(some, log, LOWEST), *found
    return jax.nn.logsumexp(shown, axis=1), *found


def _beside(found: list[Any], widths: list[int], default: bool, x: jax.Array) -> jax.Array:
    """Masks of the parts as one; where a part has none, all or no columns."""
    if len(found) == 1 and found[0] is not None:
        return found[0]
    kind = next((mask.dtype for mask in found if mask is not None and mask.dtype != bool), bool)
    return jnp.concatenate(
        [
            jnp.full((len(x), width), default, kind) if mask is None else _wide(mask, len(x), kind)
            for mask, width in zip(found, widths, strict=True)
        ],
        axis=1,
    )


def _wide(mask: jax.Array, n: int, kind: Any) -> jax.Array:
    return jnp.broadcast_to(mask, (n, mask.shape[1])).astype(kind)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def tiled_sums(x: jax.Array, about: Rows, form: Form) -> Any:
    """`log_sums` of the rows among themselves in tiles; x [n, d] carries 1/√temperature."""
    return _forward(x, about, form)[0]


def _products(a: Rows, b: Rows, own: bool, form: Form) -> tuple[jax.Array, Any, Any]:
    logits = dot_products(a["x"], b["x"], form.precision)
    if form.pairs and not own:
        a, b = (rows | {"label": None} for rows in (a, b))
        a, b = ({name: v for name, v in rows.items() if name != "label"} for rows in (a, b))
    return logits, *masks(a, b, True if own else None, form)


def _forward(x: jax.Array, about: Rows, form: Form) -> Any:
    def add(sums: Sums, rows: Rows, i: jax.Array, j: jax.Array, side: int, own: bool) -> Sums:
        logits, counts, positive = _products(get(rows, i, side), get(rows, j, side), own, form)
        sums = put(sums, i, merge(get(sums, i, side), reduce(logits, counts, positive)))
        if own:
            return sums
        across: Any = [None if v is None else v.T for v in (logits, counts, positive)]
        return put(sums, j, merge(get(sums, j, side), reduce(*across)))

    rows = {"x": x, **varying_as(about, x)}
    sums = over_all_tiles(
        rows, lambda rows: nothing_yet(rows["x"]), add, merge, form.side, form.axis_name
    )
    log = log_sum(sums)
    return (log, sums.positive, sums.positives), (x, about, log)


def _backward(form: Form, residuals: Any, gradients: Any) -> Any:
    x, about, log = residuals
    return _gradient(x, log, gradients[0], gradients[1], about, form), None


tiled_sums.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _gradient(
    x: jax.Array,
    log: jax.Array,
    of_log: jax.Array,
    of_positive: jax.Array,
    about: Rows,
    form: Form,
) -> jax.Array:
    def add(dx: jax.Array, rows: Rows, i: jax.Array, j: jax.Array, side: int, own: bool) -> Any:
        a, b = get(rows, i, side), get(rows, j, side)
        w = _weights(a, b, *_products(a, b, own, form))
        dx = put(dx, i, get(dx, i, side) + dot_products(w, b["x"].T, form.precision))
        if own:
            return dx
        return put(dx, j, get(dx, j, side) + dot_products(w.T, a["x"].T, form.precision))

    sums = {"log": log, "of_log": of_log, "of_positive": of_positive}
    rows = {"x": x, **varying_as(about, x), **sums}
    return over_all_tiles(
        rows, lambda rows: filled(0.0, rows["x"]), add, jnp.add, form.side, form.axis_name
    )


def _weights(a: Rows, b: Rows, logits: jax.Array, counts: Any, positive: Any) -> jax.Array:
    """The gradient by the products of a tile that serves its rows and its columns."""
    shown = logits if counts is None else jnp.where(counts, logits, -jnp.inf)
    w = a["of_log"][:, None] * jnp.exp(shown - a["log"][:, None])
    w += b["of_log"][None, :] * jnp.exp(shown - b["log"][None, :])
    if positive is not None:
        w += of_pair(positive, a["of_positive"][:, None] + b["of_positive"][None, :])
    return w


def of_pair(positive: jax.Array, gradient: jax.Array) -> jax.Array:
    """What positives, booleans or weights, have of a gradient."""
    if positive.dtype == bool:
        return jnp.where(positive, gradient, 0.0)
    return positive * gradient


def _no_second(*arguments: Any) -> Any:
    raise NotImplementedError(
        "in tiles this loss has no second derivative: pass a tile_size of at least as many as "
        "there are rows"
    )


_gradient.defvjp(lambda *arguments: (_gradient(*arguments), None), _no_second)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def reference_sums(x: jax.Array, columns: jax.Array, about: Rows, others: Rows, form: Form) -> Any:
    """`log_sums` of the rows x [n, d] over the references `columns` [m, d], a tile of them each."""
    return _forward_references(x, columns, about, others, form)[0]


def _column_tiles(columns: jax.Array, others: Rows, x: jax.Array, form: Form) -> tuple[Rows, int]:
    """The references in whole tiles [tiles, side, ...]."""
    side = min(form.side, len(columns))
    missing = -len(columns) % side
    rows = varying_as({"x": columns, "real": jnp.ones(len(columns), bool), **others}, x)
    return {
        name: jnp.pad(v, [(0, missing)] + [(0, 0)] * (v.ndim - 1)).reshape(-1, side, *v.shape[1:])
        for name, v in rows.items()
    }, len(columns)


def _forward_references(
    x: jax.Array, columns: jax.Array, about: Rows, others: Rows, form: Form
) -> Any:
    rows = {"x": x, **about}
    tiles, _ = _column_tiles(columns, others, x, form)

    def step(sums: Sums, tile: Rows) -> tuple[Sums, None]:
        logits, counts, positive = _against(rows, tile, form)
        return merge(sums, reduce(logits, counts, positive)), None

    sums, _ = lax.scan(step, nothing_yet(x), tiles)
    log = log_sum(sums)
    return (log, sums.positive, sums.positives), (x, columns, about, others, log)


def _against(rows: Rows, tile: Rows, form: Form) -> tuple[jax.Array, Any, Any]:
    form = form._replace(alone=False)  # what only the batch's own rows are not
    logits = dot_products(rows["x"], tile["x"], form.precision)
    return logits, *masks(rows, tile, None, form)


def _backward_references(form: Form, residuals: Any, gradients: Any) -> Any:
    x, columns, about, others, log = residuals
    rows = {"x": x, **about}
    tiles, m = _column_tiles(columns, others, x, form)

    def step(dx: jax.Array, tile: Rows) -> tuple[jax.Array, jax.Array]:
        logits, counts, positive = _against(rows, tile, form)
        w = gradients[0][:, None] * jnp.exp(jnp.where(counts, logits, -jnp.inf) - log[:, None])
        if positive is not None:
            w += of_pair(positive, gradients[1][:, None])
        by_tile = dot_products(w.T, x.T, form.precision)
        return dx + dot_products(w, tile["x"].T, form.precision), by_tile

    dx, by_columns = lax.scan(step, filled(0.0, x), tiles)
    return dx, by_columns.reshape(-1, x.shape[1])[:m], None, None


reference_sums.defvjp(_forward_references, _backward_references)
