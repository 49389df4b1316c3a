"""Every row of one tower against every row of the other, in tiles or at once.

Rows are a_i and b_i. A tile (i, j) of products a_i·b_j serves rows a_i and, transposed, rows b_j;
where two blocks of rows meet in the ring of `_ring`, (i, j) and (j, i) are made together. What a
tile adds up is a log-sum for each row and column (softmax), or a sum of log-sigmoids for each row.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxssl.losses._pairs import Form, Sums, log_sum, masks, merge, nothing_yet, reduce
from jaxssl.losses._ring import Rows, get, over_all_tiles, put
from jaxssl.losses._rows import dot_products, filled, gather_rows, varying_as
from jaxssl.losses._tiles import of_pair, sums_at_once

Softmax = tuple[jax.Array, jax.Array, jax.Array]  # log-sum, Σ of positives' logits, their number


def softmax_sums(
    a: jax.Array, b: jax.Array, about: Rows, form: Form, symmetric: bool
) -> tuple[Softmax, Softmax | None]:
    """As `_tiles.log_sums`, of rows a [n, d] among the b and, where symmetric, of b among the a.

    The products are the logits: `a` carries 1/temperature.
    """
    if form.tile is not None:
        of_a, of_b = tiled_softmax(a, b, about, form)
        return of_a, of_b if symmetric else None
    all_about = {name: gather_rows(v, form.axis_name) for name, v in about.items()}
    all_a, all_b = gather_rows(a, form.axis_name), gather_rows(b, form.axis_name)
    rows, columns = {"x": a, **about}, {"x": all_b, **all_about}
    counts, positive = masks(rows, columns, None, form)
    logits = dot_products(a, all_b, form.precision)
    of_a = sums_at_once(logits, counts, positive, guard=True)
    if not symmetric:
        return of_a, None
    if form.axis_name is None:
        across: Any = [None if v is None else v.T for v in (logits, counts, positive)]
        return of_a, sums_at_once(*across, guard=True)
    # Rows b of this device and all of a, with the same masks: what is known is of pairs a_i, b_i.
    logits = dot_products(b, all_a, form.precision)
    return of_a, sums_at_once(logits, counts, positive, guard=True)


def _tiles_of(i: jax.Array, j: jax.Array, own: bool) -> list[tuple]:
    """(rows, columns) of the one tile on the diagonal, or of the two beside it."""
    return [(i, j)] if own else [(i, j), (j, i)]


def _products(a: Rows, b: Rows, own: bool, form: Form) -> tuple[jax.Array, Any, Any]:
    logits = dot_products(a["x"], b["y"], form.precision)
    if form.pairs and not own:
        a, b = ({name: v for name, v in rows.items() if name != "label"} for rows in (a, b))
    return logits, *masks(a, b, None, form)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def tiled_softmax(a: jax.Array, b: jax.Array, about: Rows, form: Form) -> Any:
    """`softmax_sums` in tiles."""
    return _forward(a, b, about, form)[0]


def _forward(a: jax.Array, b: jax.Array, about: Rows, form: Form) -> Any:
    def add(sums: Any, rows: Rows, k: jax.Array, m: jax.Array, side: int, own: bool) -> Any:
        of_a, of_b = sums
        for i, j in _tiles_of(k, m, own):
            found = _products(get(rows, i, side), get(rows, j, side), own, form)
            of_a = put(of_a, i, merge(get(of_a, i, side), reduce(*found)))
            across: Any = [None if v is None else v.T for v in found]
            of_b = put(of_b, j, merge(get(of_b, j, side), reduce(*across)))
        return of_a, of_b

    def merge_both(these: tuple[Sums, Sums], those: tuple[Sums, Sums]) -> tuple[Sums, Sums]:
        return merge(these[0], those[0]), merge(these[1], those[1])

    rows = {"x": a, "y": b, **varying_as(about, a)}
    both = over_all_tiles(
        rows,
        lambda rows: (nothing_yet(rows["x"]), nothing_yet(rows["x"])),
        add,
        merge_both,
        form.side,
        form.axis_name,
    )
    found = tuple((log_sum(sums), sums.positive, sums.positives) for sums in both)
    return found, (a, b, about, found[0][0], found[1][0])


def _backward(form: Form, residuals: Any, gradients: Any) -> Any:
    a, b, about, log_a, log_b = residuals
    (of_log_a, of_a, _), (of_log_b, of_b, _) = gradients
    sums = {"log_a": log_a, "of_log_a": of_log_a, "of_a": of_a}
    sums |= {"log_b": log_b, "of_log_b": of_log_b, "of_b": of_b}
    return *_gradients(a, b, sums, about, form), None


tiled_softmax.defvjp(_forward, _backward)


def _no_second(*arguments: Any) -> Any:
    raise NotImplementedError(
        "in tiles this loss has no second derivative: pass a tile_size of at least as many as "
        "there are rows"
    )


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _gradients(a: jax.Array, b: jax.Array, sums: Rows, about: Rows, form: Form) -> Any:
    def weights(rows: Rows, columns: Rows, own: bool) -> tuple[jax.Array, None]:
        logits, counts, positive = _products(rows, columns, own, form)
        shown = logits if counts is None else jnp.where(counts, logits, -jnp.inf)
        w = rows["of_log_a"][:, None] * jnp.exp(shown - rows["log_a"][:, None])
        w += columns["of_log_b"][None, :] * jnp.exp(shown - columns["log_b"][None, :])
        if positive is not None:
            w += of_pair(positive, rows["of_a"][:, None] + columns["of_b"][None, :])
        return w, None

    rows = {"x": a, "y": b, **varying_as(about, a), **sums}
    return _by_towers(rows, weights, form)[:2]


_gradients.defvjp(lambda *arguments: (_gradients(*arguments), None), _no_second)


def _by_towers(rows: Rows, weights: Any, form: Form) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients by a, by b, and by what is added to each row's logits."""

    def add(sums: Any, rows: Rows, k: jax.Array, m: jax.Array, side: int, own: bool) -> Any:
        da, db, dadded = sums
        for i, j in _tiles_of(k, m, own):
            tile, columns = get(rows, i, side), get(rows, j, side)
            w, by_added = weights(tile, columns, own)
            da = put(da, i, get(da, i, side) + dot_products(w, columns["y"].T, form.precision))
            db = put(db, j, get(db, j, side) + dot_products(w.T, tile["x"].T, form.precision))
            if by_added is not None:
                dadded = put(dadded, i, get(dadded, i, side) + by_added)
        return da, db, dadded

    def nothing(rows: Rows) -> Any:
        return filled(0.0, rows["x"]), filled(0.0, rows["y"]), filled(0.0, rows["x"][:, 0])

    def both(these: Any, those: Any) -> Any:
        return jax.tree.map(jnp.add, these, those)

    return over_all_tiles(rows, nothing, add, both, form.side, form.axis_name)


def sigmoid_sums(
    a: jax.Array, b: jax.Array, added: jax.Array, about: Rows, form: Form
) -> jax.Array:
    """−Σ_j log σ(±(a_i·b_j + added_i)) of each row, + where j is a positive of i; [n]."""
    if form.tile is not None:
        return tiled_sigmoid(a, b, added, about, form)
    columns = {name: gather_rows(v, form.axis_name) for name, v in about.items()}
    all_b = gather_rows(b, form.axis_name)
    counts, positive = masks({"x": a, **about}, {"x": all_b, **columns}, None, form)
    return _sigmoids(dot_products(a, all_b, form.precision) + added[:, None], counts, positive)


def _sigmoids(logits: jax.Array, counts: Any, positive: Any) -> jax.Array:
    loss = jax.nn.softplus(logits if positive is None else jnp.where(positive, -logits, logits))
    return jnp.sum(loss if counts is None else jnp.where(counts, loss, 0.0), axis=1)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def tiled_sigmoid(
    a: jax.Array, b: jax.Array, added: jax.Array, about: Rows, form: Form
) -> jax.Array:
    """`sigmoid_sums` in tiles."""

    def add(sums: Any, rows: Rows, k: jax.Array, m: jax.Array, side: int, own: bool) -> Any:
        for i, j in _tiles_of(k, m, own):
            tile = get(rows, i, side)
            logits, counts, positive = _products(tile, get(rows, j, side), own, form)
            found = _sigmoids(logits + tile["added"][:, None], counts, positive)
            sums = put(sums, i, get(sums, i, side) + found)
        return sums

    rows = {"x": a, "y": b, "added": added, **varying_as(about, a)}
    return over_all_tiles(
        rows, lambda rows: filled(0.0, rows["x"][:, 0]), add, jnp.add, form.side, form.axis_name
    )


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _sigmoid_gradients(
    a: jax.Array, b: jax.Array, added: jax.Array, by_sum: jax.Array, about: Rows, form: Form
) -> Any:
    def weights(rows: Rows, columns: Rows, own: bool) -> tuple[jax.Array, jax.Array]:
        logits, counts, positive = _products(rows, columns, own, form)
        slope = jax.nn.sigmoid(logits + rows["added"][:, None])
        if positive is not None:
            slope = slope - positive.astype(slope.dtype)
        w = rows["by_sum"][:, None] * slope
        w = w if counts is None else jnp.where(counts, w, 0.0)
        return w, jnp.sum(w, axis=1)

    rows = {"x": a, "y": b, "added": added, "by_sum": by_sum, **varying_as(about, a)}
    return _by_towers(rows, weights, form)


_sigmoid_gradients.defvjp(lambda *arguments: (_sigmoid_gradients(*arguments), None), _no_second)


def _backward_sigmoid(form: Form, residuals: Any, by_sum: jax.Array) -> Any:
    a, b, added, about = residuals
    return *_sigmoid_gradients(a, b, added, by_sum, about, form), None


tiled_sigmoid.defvjp(
    lambda a, b, added, about, form: (
        tiled_sigmoid(a, b, added, about, form),
        (a, b, added, about),
    ),
    _backward_sigmoid,
)
