"""One battery over every public loss: what each promises, in every place it can be called from.

A loss is told once, in CASES: its arrays, its call, and its oracle, a float64 loop. Where `where=`
is False a row is not there: the oracle of a masked batch is the loop over the rows that are left.
Compiling is what this costs, so no program is made twice, and each proves several things.
"""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxssl import losses

N, D, K = 16, 3, 8  # on one device 15 rows: not all tiles are full, nor one block a device
TILE, WHOLE = 4, 1000


@dataclass
class Case:
    """`call(rows, whole, labels, where, **options)`, of arrays [n, ...] and of arrays for all."""

    call: Any
    oracle: Any  # (rows, whole, labels) in float64
    rows: int = 1  # how many arrays [n, d]
    whole: int = 0  # how many [K, d]
    tiles: bool = True
    labels: bool = False
    classes: bool = False  # labels are classes
    moving: tuple = ()  # rows that have a gradient; (): all
    like: str = ""  # another loss that differs in a formula alone, and is tried in more places


def _arc(kind, z, centres, labels, where, **options):
    loss = {"arcface": losses.arcface_loss, "cosface": losses.cosface_loss}[kind]
    return loss(z, centres, labels, margin=0.3, scale=4.0, where=where, **options)


def _dino(rows, whole, labels, where, **options):
    student = jnp.stack([rows[0], rows[1], rows[2]])
    teacher = jnp.stack([rows[3], rows[4]])
    options = {name: v for name, v in options.items() if name != "tile_size"}
    # As far apart as float32 tells targets of temperature 0.04 from one another.
    return losses.dino(
        student, teacher, whole[0][0], where=where, teacher_temperature=0.5, **options
    )


def _plain(loss):
    def call(rows, whole, labels, where, tile_size=None, **options):
        return loss(*rows, where=where, **options)

    return call


def _same(labels):
    return labels[:, None] == labels[None, :]


CASES = {
    "nt_xent": Case(
        lambda r, w, y, m, **o: losses.nt_xent(*r, temperature=0.3, where=m, **o),
        lambda r, w, y: oracles.two_views(*r, 0.3),
        rows=2,
    ),
    "dcl": Case(
        lambda r, w, y, m, **o: losses.dcl(*r, temperature=0.3, where=m, **o),
        lambda r, w, y: oracles.two_views(*r, 0.3, decoupled=True),
        rows=2,
        like="nt_xent",
    ),
    "sup_con": Case(
        lambda r, w, y, m, **o: losses.sup_con(*r, y, temperature=0.3, where=m, **o),
        lambda r, w, y: oracles.sup_con(*r, _same(y), 0.3),
        labels=True,
    ),
    "info_nce": Case(
        lambda r, w, y, m, **o: losses.info_nce(*r, y, temperature=0.3, where=m, **o),
        lambda r, w, y: oracles.info_nce(*r, 0.3, _same(y)),
        rows=2,
        labels=True,
    ),
    "siglip": Case(
        lambda r, w, y, m, **o: losses.siglip(*r, y, temperature=0.3, bias=-1.5, where=m, **o),
        lambda r, w, y: oracles.siglip(*r, 0.3, -1.5, _same(y)),
        rows=2,
        labels=True,
    ),
    "triplet_loss": Case(
        lambda r, w, y, m, **o: losses.triplet_loss(*r, y, margin=2.0, where=m, **o),
        lambda r, w, y: oracles.triplet(*r, y, 2.0),
        labels=True,
    ),
    "batch_all_triplet_loss": Case(
        lambda r, w, y, m, **o: losses.batch_all_triplet_loss(*r, y, margin=2.0, where=m, **o),
        lambda r, w, y: oracles.batch_all(*r, y, 2.0),
        labels=True,
    ),
    "arcface_loss": Case(
        lambda r, w, y, m, **o: _arc("arcface", r[0], w[0], y, m, **o),
        lambda r, w, y: oracles.margin_loss("arcface", *r, *w, y, 0.3, 4.0),
        whole=1,
        labels=True,
        classes=True,
    ),
    "cosface_loss": Case(
        lambda r, w, y, m, **o: _arc("cosface", r[0], w[0], y, m, **o),
        lambda r, w, y: oracles.margin_loss("cosface", *r, *w, y, 0.3, 4.0),
        whole=1,
        labels=True,
        classes=True,
        like="arcface_loss",
    ),
    "vicreg": Case(_plain(losses.vicreg), lambda r, w, y: oracles.vicreg(*r), rows=2, tiles=False),
    "barlow_twins": Case(
        _plain(losses.barlow_twins), lambda r, w, y: oracles.barlow_twins(*r), rows=2, tiles=False
    ),
    "byol": Case(
        _plain(losses.byol), lambda r, w, y: oracles.byol(*r), rows=2, tiles=False, moving=(0,)
    ),
    "dino": Case(
        _dino,
        lambda r, w, y: oracles.dino(
            np.stack(r[:3]), np.stack(r[3:]), w[0][0], teacher_temperature=0.5
        ),
        rows=5,
        whole=1,
        tiles=False,
        moving=(0, 1, 2),
    ),
}
every = pytest.mark.parametrize("name", CASES)
every_kind = pytest.mark.parametrize("name", [n for n, case in CASES.items() if not case.like])
TILED = [name for name, case in CASES.items() if case.tiles and not case.like]


def arrays(name, n=N, dtype=np.float32):
    case, rng = CASES[name], np.random.default_rng(0)
    rows = [rng.normal(size=(N, D)).astype(dtype) for _ in range(case.rows)]
    whole = [rng.normal(size=(K, D)).astype(dtype) for _ in range(case.whole)]
    # Unequal classes, sorted, so that devices hold unequal numbers of anchors; one of a lone row.
    labels = np.array([0] * 7 + [1] * 4 + [2, 2, 5, 6, 6], np.int32)
    return [x[:n] for x in rows], whole, labels[:n]


SOME = np.array([1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1], bool)
ALL, NONE = np.ones(N, bool), np.zeros(N, bool)
ONE = slice(0, N - 1)  # what one device has


def value_and_grads(name, **options):
    """Of the loss by all its arrays, (rows, whole, labels, where) -> value, (by rows, by whole)."""
    call = CASES[name].call

    def of(rows, whole, labels, where):
        return call(rows, whole, labels, where, **options)

    return jax.value_and_grad(of, argnums=(0, 1))


def forms(name):
    """The whole matrix, and tiles where there are any."""
    return (WHOLE, TILE) if CASES[name].tiles else (None,)


@cache
def program(name):
    both = [value_and_grads(name, tile_size=tile) for tile in forms(name)]
    return jax.jit(lambda *arguments: [f(*arguments) for f in both])


def difference(f, x, v, step):
    return (f(x, v * step) - f(x, -v * step)) / (2 * step)


@cache
def expected(name, masked, n=N):
    """Value and gradients of the oracle, by differences; 0 for what has none."""
    case = CASES[name]
    rows, whole, labels = arrays(name, n)
    where = (SOME if masked else ALL)[:n]
    rows, whole = ([np.asarray(x, np.float64) for x in part] for part in (rows, whole))

    def oracle():
        return case.oracle([x[where] for x in rows], whole, labels[where])

    def gradient(array, step=1e-6):
        grad = np.zeros_like(array)
        for at in np.ndindex(*array.shape):
            start = array[at]
            array[at] = start + step
            high = oracle()
            array[at] = start - step
            grad[at] = (high - oracle()) / (2 * step)
            array[at] = start
        return grad

    moving = case.moving or range(len(rows))
    by_rows = [gradient(x) if i in moving else 0 * x for i, x in enumerate(rows)]
    by_whole = [gradient(x) if name != "dino" else 0 * x for x in whole]
    return oracle(), (by_rows, by_whole)


def equal(got, wanted, rtol=1e-5, atol=2e-6):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=rtol, atol=atol)


def close(got, wanted):
    """Value to float32's rounding, gradients to that of the differences they are compared with."""
    equal(got[0], wanted[0])
    equal(got[1], wanted[1], rtol=2e-4, atol=1e-5)


@every
def test_value_and_gradients_equal_the_loop_whole_and_tiled_and_masked(name):
    with jax.debug_nans(True):
        for where, masked in ((ALL, False), (SOME, True)):
            for got in program(name)(*arrays(name, N - 1), where[ONE]):
                close(got, expected(name, masked, N - 1))
        for value, grads in program(name)(*arrays(name, N - 1), NONE[ONE]):
            assert value == 0
            assert not any(np.any(g) for g in jax.tree.leaves(grads))


@every
def test_a_row_that_is_nan_shows_and_behind_the_mask_does_not(name):
    rows, whole, labels = arrays(name, N - 1)
    for x in rows:
        x[2] = np.nan
    labels = labels.copy()
    labels[2] = -1  # no class
    for got in program(name)(rows, whole, labels, SOME[ONE]):
        close(got, expected(name, True, N - 1))
    alone = np.arange(N - 1, dtype=np.int32) % (K if CASES[name].classes else N)
    for numbers in (labels, alone):
        for value, _ in program(name)(rows, whole, numbers, ALL[ONE]):
            assert np.isnan(value)


def mesh_of(devices, kind=AxisType.Auto):
    return jax.make_mesh((devices,), ("data",), axis_types=(kind,), devices=jax.devices()[:devices])


PLACES = [(n, d) for n, case in CASES.items() for d in ((8,) if case.like else (1, 2, 8))]


@pytest.mark.parametrize(("name", "devices"), PLACES)
def test_shard_map_equals_the_loop(name, devices):
    """Gradients taken outside, and inside by parameters that every device holds."""
    call = partial(CASES[name].call, axis_name="data")
    tiled = partial(call, tile_size=2 if devices == 8 else None)
    specs = {"mesh": mesh_of(devices), "in_specs": (P("data"), P(), P("data"), P("data"))}

    def inside(rows, whole, labels, where):
        def scaled(by, whole):
            return call([x * by for x in rows], whole, labels, where)

        value, grads = jax.value_and_grad(scaled, argnums=(0, 1))(jnp.ones((1, D)), whole)
        return value[None], lax.pmean(grads, "data")

    # Both ways of check_vma for each, on eight devices with a ring of tiles and with the matrix.
    outer = jax.shard_map(tiled, out_specs=P(), check_vma=devices != 2, **specs)
    inner = jax.shard_map(inside, out_specs=(P("data"), P()), check_vma=devices == 2, **specs)

    @jax.jit
    def both(*arguments):
        found = jax.value_and_grad(outer, argnums=(0, 1))(*arguments)
        return found, None if devices == 1 else inner(*arguments)

    value, (by_rows, by_whole) = expected(name, True)
    rows, *rest = arrays(name)
    found, from_inside = both(rows, *rest, SOME)
    close(found, (value, (by_rows, by_whole)))
    if from_inside is not None:
        parts = zip(by_rows, rows, strict=True)
        by_scale = sum(np.sum(g * x, axis=0, keepdims=True) for g, x in parts)
        equal(from_inside[0], np.full(devices, value))
        equal(from_inside[1], (by_scale, by_whole), rtol=2e-4, atol=5e-5)


@every_kind
def test_pmap_equals_the_loop(name):
    rows, whole, labels = arrays(name)
    arguments = jax.tree.map(lambda x: x.reshape(8, N // 8, *x.shape[1:]), (rows, labels, SOME))

    def local(rows, labels, where):
        return CASES[name].call(rows, whole, labels, where, axis_name="data")

    values, grads = jax.pmap(jax.value_and_grad(local), "data")(*arguments)
    value, (by_rows, _) = expected(name, True)
    # As documented: the local rows' gradient counts every device's copy of the loss.
    close((values[3], [g.reshape(N, D) / 8 for g in grads]), (value, by_rows))
    assert len(set(np.asarray(values).tolist())) == 1


@every_kind
def test_explicit_axes_equal_the_loop_and_keep_what_is_spread(name):
    rows, whole, labels = arrays(name)
    spread = NamedSharding(mesh_of(8, AxisType.Explicit), P("data"))
    rows, labels, where = jax.device_put((rows, labels, SOME), spread)
    # Tiles of each kind: there the compiler's ring goes round the devices.
    tile = TILE if name in ("sup_con", "info_nce", "arcface_loss") else None
    found = jax.jit(value_and_grads(name, tile_size=tile))(rows, whole, labels, where)
    close(found, expected(name, True))
    assert all(g.sharding.is_equivalent_to(spread, 2) for g in found[1][0])


@every_kind
def test_scan_of_remat_on_donated_rows_equals_the_loop(name):
    case = CASES[name]

    @partial(jax.jit, donate_argnums=0)
    def everything(rows, whole, labels, masks):
        def one(rows, where):
            loss = jax.checkpoint(lambda *by: case.call(*by, labels, where, tile_size=WHOLE))
            return jax.value_and_grad(loss, argnums=(0, 1))(rows, whole)

        return lax.scan(lambda _, both: (None, one(*both)), None, (rows, masks))[1]

    rows, whole, labels = arrays(name, N - 1)
    donated = [jnp.stack([x, x]) for x in rows]
    found = everything(donated, whole, labels, np.stack([SOME, ALL])[:, ONE])
    assert all(x.is_deleted() for x in donated)
    for i, masked in enumerate((True, False)):
        close(jax.tree.map(lambda x, i=i: x[i], found), expected(name, masked, N - 1))


SHORT = [jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn, jnp.float8_e5m2]


@every_kind
def test_short_floats_are_computed_in_float32_and_come_back_as_they_went_in(name):
    rows, whole, labels = arrays(name, N - 1)
    f = value_and_grads(name, tile_size=forms(name)[0])

    def of(dtype):
        return jax.tree.map(lambda x: np.asarray(x).astype(dtype), (rows, whole))

    short = [of(dtype) for dtype in SHORT]
    values = jax.jit(lambda all: [f(*one, labels, ALL[ONE])[0] for one in all])(short)
    for dtype, one, value in zip(SHORT, short, values, strict=True):
        wide = jax.tree.map(lambda x: x.astype(np.float32), one)
        (wanted, _), *_ = program(name)(*wide, labels, ALL[ONE])
        assert value.dtype == jnp.float32
        equal(value, wanted, rtol=1e-6)
        grads = jax.eval_shape(f, *one, labels, ALL[ONE])[1]
        assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype(dtype)}


@every
def test_float64_equals_the_loop_to_its_own_rounding_and_in_second_derivatives(name):
    """`precision="float64"`: the value to 1e-11; along one direction, both derivatives."""
    case, where = CASES[name], SOME[ONE]
    rows, whole, labels = arrays(name, N - 1, np.float64)
    direction = [np.random.default_rng(9).normal(size=x.shape) for x in rows]
    moved = [i in (case.moving or range(case.rows)) for i in range(case.rows)]

    def at(t):
        return [x + t * v * m for x, v, m in zip(rows, direction, moved, strict=True)]

    def oracle(t):
        return case.oracle([x[where] for x in at(t)], whole, labels[where])

    with jax.enable_x64(True):

        def along(tile, labels, t):
            return case.call(at(t), whole, labels, where, precision="float64", tile_size=tile)

        # Labels beyond 32 bits and, where a type has them, 63.
        far = case.labels and not case.classes
        numbers = [labels.astype(np.int64) * 2**33, labels.astype(np.uint64) + np.uint64(2**63)]
        wide, tall = numbers if far else [labels.astype(np.int64)] * 2

        @jax.jit
        def both(wide, tall, t):
            of = partial(along, forms(name)[0], wide)
            curve = jax.grad(jax.grad(of))(t)
            return jax.value_and_grad(of)(t), curve, along(forms(name)[-1], tall, t)

        (value, slope), curve, tiled = both(wide, tall, 0.0)
        assert value.dtype == jnp.float64
    np.testing.assert_allclose(value, oracle(0), rtol=1e-11)
    np.testing.assert_allclose(tiled, value, rtol=1e-11)
    high, middle, low = (oracle(t) for t in (1e-4, 0, -1e-4))
    np.testing.assert_allclose(slope, (high - low) / 2e-4, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(curve, (high - 2 * middle + low) / 1e-8, rtol=1e-3, atol=1e-3)


@every
def test_any_label_type_and_strict_promotion_are_taken(name):
    rows, whole, labels = arrays(name, N - 1)
    cases = [("uint8", False, 0), ("int16", True, -1), ("uint32", False, -1), ("uint64", True, 0)]
    for dtype, x64, form in cases if CASES[name].labels else cases[:2]:
        with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
            f = value_and_grads(name, tile_size=forms(name)[form])
            value, _ = jax.eval_shape(f, rows, whole, labels.astype(dtype), SOME[ONE])
            assert value.dtype == jnp.float32


class Heard:
    """What is compiled inside the `with`."""

    def __enter__(self):
        self.compiled = []
        jax.monitoring.register_event_duration_secs_listener(self.listen)
        return self

    def __exit__(self, *error):
        jax.monitoring.unregister_event_duration_listener(self.listen)

    def listen(self, event, seconds, **about):
        if "backend_compile" in event:
            self.compiled.append(event)


OTHERS = {
    "cosine_accuracy": lambda z, w, y, m: losses.cosine_accuracy(z, w, y, where=m),
    "cosine_logits": lambda z, w, y, m: losses.cosine_logits(z, w),
    "arcface_logits": lambda z, w, y, m: losses.arcface_logits(z, w, y),
    "adacos_scale": lambda z, w, y, m: losses.adacos_scale(z, w, y, where=m),
    "mine_triplets": lambda z, w, y, m: losses.mine_triplets(z, y, where=m).negative,
    "dino_centre": lambda z, w, y, m: losses.dino_centre(w[0], z[None]),
    "push": lambda z, w, y, m: losses.Queue.empty(8, D).push(z, y, where=m).rows,
}


@pytest.mark.parametrize("name", [*CASES, *OTHERS])
def test_a_second_call_compiles_nothing_eager_or_vmapped(name):
    if name in OTHERS:
        rows, whole, labels = arrays("arcface_loss", N - 1)
        arguments, call = (rows[0], whole[0], labels, SOME[ONE]), OTHERS[name]
        value = call
    else:
        arguments, case = (*arrays(name, N - 1), SOME[ONE]), CASES[name]
        value = partial(case.call, tile_size=forms(name)[-1])
        call = value_and_grads(name, tile_size=forms(name)[-1])
    many = jax.tree.map(lambda x: np.stack([x, x]), arguments[0])

    def everything():
        vmapped = jax.vmap(call, in_axes=(0, None, None, None))
        return value(*arguments), vmapped(many, *arguments[1:])

    first = everything()
    with Heard() as heard:
        again = everything()
        assert not heard.compiled
        jax.jit(lambda x: x + 1)(first[0])  # it does hear
        assert heard.compiled
    jax.tree.map(np.testing.assert_array_equal, again, first)
    if name in CASES:
        equal(first[0], expected(name, True, N - 1)[0])
        for i in range(2):
            one = jax.tree.map(lambda x, i=i: x[i], first[1])
            close(one, expected(name, True, N - 1))


@every
def test_forward_mode_and_second_derivatives_are_there_or_refused_by_name(name):
    rows, whole, labels = arrays(name, N - 1)
    refusals = []
    for tile in forms(name):

        def of(rows, tile=tile):
            return CASES[name].call(rows, whole, labels, SOME[ONE], tile_size=tile)

        for what in (
            lambda of: jax.eval_shape(lambda r: jax.jvp(of, (r,), (r,)), rows),
            lambda of: jax.eval_shape(jax.grad(lambda r: jax.grad(of)(r)[0].sum()), rows),
        ):
            try:
                what(of)
                refusals.append(None)
            except (TypeError, NotImplementedError) as error:
                refusals.append(str(error))
    forward, second = (refusals[i::2] for i in (0, 1))
    assert second[0] is None
    assert forward[0] is None or name == "batch_all_triplet_loss"
    for error, about in ((forward, "no forward-mode derivative"), (second, "no second derivative")):
        assert all(text is None or (about in text and "tile_size" in text) for text in error)


@pytest.mark.parametrize("name", TILED)
def test_at_8192_rows_no_matrix_is_in_memory(name):
    """As compiled for one device: half a float32 matrix of 8,192 rows is the limit."""
    case, n = CASES[name], 8191
    rows = [jax.ShapeDtypeStruct((n, 8), np.float32)] * case.rows
    whole = [jax.ShapeDtypeStruct((n, 8), np.float32)] * case.whole
    labels, where = (jax.ShapeDtypeStruct((n,), t) for t in (np.int32, bool))
    compiled = jax.jit(value_and_grads(name)).lower(rows, whole, labels, where).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * n * n


def test_lists_and_flax_params_are_taken_and_what_is_not_is_named():
    nnx = pytest.importorskip("flax.nnx")
    rows, whole, labels = arrays("arcface_loss")
    number, scalar = jnp.float32(0.5), nnx.Param(jnp.full((1,), 0.5))
    margin_loss = partial(losses.arcface_loss, centres=whole[0].tolist())
    for loss, option in ((losses.sup_con, "temperature"), (margin_loss, "margin")):
        wanted = loss(rows[0], labels=labels, where=ALL, **{option: number})
        got = loss(rows[0].tolist(), labels=labels.tolist(), where=[True] * N, **{option: scalar})
        np.testing.assert_array_equal(got, wanted)
    by = jax.grad(lambda p: losses.sup_con(rows[0], labels, temperature=p))(scalar)
    assert np.isfinite(by.get_value())
    with pytest.raises(ValueError, match="embeddings must be an array of numbers"):
        losses.sup_con([[1.0], [None]], [0, 1])
    with pytest.raises(ValueError, match=r"temperature must be a scalar, got shape \(3,\)"):
        losses.sup_con(rows[0], labels, temperature=np.ones(3))
    with pytest.raises(ValueError, match="labels must fit 32 bits"):
        losses.sup_con(rows[0], labels.astype(np.int64) + 2**40)
    with pytest.raises(ValueError, match=r"labels must be an array of numbers.*4294967296"):
        losses.sup_con([[1.0], [2.0]], [0, 2**32])
    with pytest.raises(ValueError, match="where must be booleans"):
        losses.sup_con(rows[0], labels, where=labels)
    with pytest.raises(ValueError, match="weights must be at least 0, got -1"):
        losses.sup_con(rows[0], labels, weights=-np.ones(N))
    with pytest.raises(ValueError, match="reduction must be one of mean, sum, none, got 'max'"):
        losses.sup_con(rows[0], labels, reduction="max")
    with pytest.raises(ValueError, match="'float64' needs jax_enable_x64"):
        losses.sup_con(rows[0], labels, precision="float64")
