"""What the losses take beside their rows: references, queues, soft positives, weights; by loops."""

import inspect
from functools import partial
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxssl import augment, losses
from jaxssl.losses import (
    Queue,
    References,
    batch_all_triplet_loss,
    cached_gradients,
    dcl,
    dino_centre,
    info_nce,
    mine_triplets,
    nt_xent,
    siglip,
    sup_con,
    triplet_loss,
    triplet_loss_and_stats,
)

RNG = np.random.default_rng(0)
Z, OLD = RNG.normal(size=(12, 3)).astype(np.float32), RNG.normal(size=(7, 3)).astype(np.float32)
A, B = Z[:6], Z[6:]
LABELS, OLD_LABELS = np.array([0] * 5 + [1] * 4 + [2, 2, 3]), np.array([3, 0, 9, 1, 3, 0, 2])
THERE = np.array([1, 1, 0, 1, 1, 0, 1], bool)
APART = np.array([4, 4, 1, 2, 4, 2])
TILES = pytest.mark.parametrize("tile", [None, 4])


def equal(got, wanted, rtol=1e-5, atol=2e-6):
    np.testing.assert_allclose(np.asarray(got, np.float64), wanted, rtol=rtol, atol=atol)


def numeric(f, x, step=1e-5):
    """The gradient of a function of float64 NumPy, by differences."""
    x = np.array(x, np.float64)
    grad = np.zeros_like(x)
    for at in np.ndindex(*x.shape):
        shift = np.zeros_like(x)
        shift[at] = step
        grad[at] = (f(x + shift) - f(x - shift)) / (2 * step)
    return grad


def mesh(devices):
    return jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


def kinds():
    """Every use of references: (loss of rows and references, its loop)."""
    both = np.concatenate([LABELS, OLD_LABELS[THERE]])

    def two(loss, **options):
        def oracle(z, old):
            return oracles.two_views(
                z[:6], z[6:], 0.4, references=old[THERE], decoupled=loss is dcl, **options
            )

        return oracle

    def contrast(z, old):
        columns = np.concatenate([z, old[THERE]])
        return oracles.sup_con(z, LABELS[:, None] == both[None], 0.4, columns)

    def moco(z, old):
        q, k, rest = oracles.unit(z[:6]), oracles.unit(z[6:]), oracles.unit(old[THERE])
        logits = [np.append(rest @ a, a @ b) / 0.4 for a, b in zip(q, k, strict=True)]
        return oracles.mean([oracles.log_sum(row) - row[-1] for row in logits])

    def of(loss):
        def oracle(z, old):
            return loss(z, LABELS, 1.0, np.concatenate([z, old[THERE]]), both)

        return oracle

    alone = {"symmetric": False, "negatives": "references", "temperature": 0.4}
    return {
        "nt_xent": (
            lambda z, r, **o: nt_xent(z[:6], z[6:], temperature=0.4, references=r, **o),
            two(nt_xent),
        ),
        "dcl": (lambda z, r, **o: dcl(z[:6], z[6:], temperature=0.4, references=r, **o), two(dcl)),
        "nt_xent, false negatives": (
            lambda z, r, **o: nt_xent(
                z[:6], z[6:], temperature=0.4, references=r, false_negatives=APART, **o
            ),
            two(nt_xent, apart=APART, apart_of=OLD_LABELS[THERE]),
        ),
        "sup_con": (
            lambda z, r, **o: sup_con(z, LABELS, temperature=0.4, references=r, **o),
            contrast,
        ),
        "MoCo": (lambda z, r, **o: info_nce(z[:6], z[6:], references=r, **alone, **o), moco),
        "triplet_loss": (
            lambda z, r, **o: triplet_loss(z, LABELS, margin=1.0, references=r, **o),
            of(oracles.triplet),
        ),
        "batch_all": (
            lambda z, r, **o: batch_all_triplet_loss(z, LABELS, margin=1.0, references=r, **o),
            of(oracles.batch_all),
        ),
    }


@pytest.mark.parametrize("name", kinds())
def test_references_equal_the_loop_whole_and_tiled_with_and_without_gradient(name):
    loss, oracle = kinds()[name]

    @jax.jit
    def everything(z, old):
        def of(z, old, gradient, tile):
            references = References(old, OLD_LABELS, THERE, gradient=gradient)
            return loss(z, references, tile_size=tile)

        return [
            jax.value_and_grad(partial(of, gradient=gradient, tile=tile), argnums=(0, 1))(z, old)
            for gradient, tile in ((True, None), (True, 4), (False, 4))
        ]

    z, old = Z.astype(np.float64), OLD.astype(np.float64)
    by_z, by_old = numeric(lambda z: oracle(z, old), z), numeric(lambda old: oracle(z, old), old)
    for (value, grads), asked in zip(everything(Z, OLD), (True, True, False), strict=True):
        equal(value, oracle(z, old))
        equal(grads[0], by_z, rtol=1e-3, atol=2e-5)
        equal(grads[1], by_old if asked else 0, rtol=1e-3, atol=2e-5)


def test_references_on_two_devices_equal_one():
    """On every device the same; their gradient is that of all devices' rows."""

    def one(z, labels, old, **options):
        references = References(old, OLD_LABELS, THERE, gradient=True)
        options["tile_size"] = 4
        return sup_con(z, labels, references=references, **options) + nt_xent(
            z[::2], z[1::2], references=references, **options
        )

    both = jax.shard_map(
        partial(one, axis_name="data"),
        mesh=mesh(2),
        in_specs=(P("data"), P("data"), P()),
        out_specs=P(),
    )
    wanted, got = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 2)))(Z, LABELS, OLD) for f in (one, both)
    )
    jax.tree.map(partial(equal, rtol=1e-4), got, wanted)


def test_a_queue_holds_the_newest_rows_whatever_is_pushed():
    size, pushed, steps = 5, [], []
    for n, seed in ((2, 1), (3, 2), (0, 3), (4, 4), (9, 5), (1, 6)):
        rng = np.random.default_rng(seed)
        where = rng.random(max(n, 1)) < 0.8 if n else np.zeros(1, bool)
        rows = rng.normal(size=(max(n, 1), 2)).astype(np.float32)
        steps.append((rows, rng.integers(0, 9, len(rows)), where))
    queue = Queue.empty(size, 2)
    push = jax.jit(lambda queue, *step: queue.push(step[0], step[1], where=step[2]))
    for rows, labels, where in steps:
        queue = push(queue, rows, labels, where)
        pushed += [(*row, label) for row, label in zip(rows[where], labels[where], strict=True)]
        held = np.asarray(jnp.column_stack([queue.rows, queue.labels.astype(jnp.float32)]))
        there = sorted(map(tuple, held[np.asarray(queue.where)]))
        assert there == sorted(tuple(map(np.float32, row)) for row in pushed[-size:])
        assert int(queue.next) == len(pushed) % size
    # A pytree of arrays, for scan and checkpoints.
    leaves, tree = jax.tree.flatten(queue)
    assert len(leaves) == 4
    assert jax.tree.unflatten(tree, leaves).where is queue.where


def test_a_queue_is_the_same_on_all_devices():
    def push(queue, rows, labels):
        return queue.push(rows, labels, axis_name="data")

    shard = jax.shard_map(
        push,
        mesh=mesh(4),
        in_specs=(P(), P("data"), P("data")),
        out_specs=P(),
        check_vma=False,
    )
    start = Queue.empty(5, 3).push(OLD[:2])
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.jit(shard)(start, Z, LABELS),
        start.push(Z, LABELS),
    )


def triplets_above_0(i):
    """How many triplets of an anchor lie above 0 at a margin of 1."""
    d = oracles.distances(Z.astype(np.float64), Z)[i]
    same = (LABELS[i] == LABELS) & (np.arange(12) != i)
    return np.sum(d[same][:, None] - d[LABELS[i] != LABELS][None] + 1 > 0)


@pytest.mark.parametrize("name", ["sup_con", "triplet", "batch all"])
def test_weights_and_reduction_are_those_of_the_rows(name):
    """The mean of what "none" gives, weighted; and its gradient by the weights."""
    loss = {"sup_con": sup_con, "triplet": triplet_loss, "batch all": batch_all_triplet_loss}[name]
    weights = np.linspace(0, 2, 12).astype(np.float32)
    # The mean of batch all is over triplets: an anchor has as many as lie above 0.
    counts = (np.bincount(LABELS)[LABELS] > 1).astype(float)
    if name == "batch all":
        counts = np.array([triplets_above_0(i) for i in range(12)], float)

    @jax.jit
    def everything(z, weights):
        of = partial(
            loss, labels=LABELS, tile_size=4, **{} if name == "sup_con" else {"margin": 1.0}
        )
        return {
            "rows": of(z, reduction="none"),
            "weighted rows": of(z, reduction="none", weights=weights),
            "sum": of(z, reduction="sum"),
            "nothing": of(z, weights=0 * weights),
            "mean": jax.value_and_grad(of)(z),
            "ones": jax.value_and_grad(lambda z: of(z, weights=jnp.ones(12)))(z),
            "weighted": jax.value_and_grad(lambda w: of(z, weights=w))(weights),
        }

    got = everything(Z, weights)
    rows = np.asarray(got["rows"], np.float64)
    assert rows.shape == (12,)
    equal(got["weighted rows"], rows * weights)
    equal(got["sum"], np.sum(rows * counts), rtol=2e-5)
    equal(got["nothing"], 0)
    equal(got["mean"][0], np.sum(rows * counts) / np.sum(counts))
    jax.tree.map(partial(equal, rtol=1e-4), got["ones"], got["mean"])
    wanted = np.sum(weights * rows * counts) / np.sum(weights * counts)
    equal(got["weighted"][0], wanted)
    by_weights = counts * (rows - wanted) / np.sum(weights * counts)
    equal(got["weighted"][1], by_weights, atol=1e-5)


def test_two_views_weights_and_rows():
    rows = np.asarray(nt_xent(A, B, reduction="none"))
    assert rows.shape == (2, 6)
    equal(rows.mean(), nt_xent(A, B))
    weights = np.arange(6.0)
    equal(nt_xent(A, B, weights=weights), np.sum(rows * weights) / (2 * weights.sum()))


@TILES
def test_soft_positives_equal_the_loop(tile):
    classes = RNG.integers(0, 2, (12, 4))
    classes[3] = 0  # of no class
    shared = classes @ classes.T
    either = classes.sum(1)[:, None] + classes.sum(1)[None] - shared
    soft = shared / np.maximum(either, 1)
    wanted = oracles.sup_con(Z.astype(np.float64), soft, 0.4)
    f = jax.jit(jax.value_and_grad(lambda z, **o: sup_con(z, temperature=0.4, tile_size=tile, **o)))
    for options in ({"labels": classes}, {"positives": soft.astype(np.float32)}):
        value, grad = f(Z, **options)
        equal(value, wanted)
        equal(
            grad,
            numeric(lambda z: oracles.sup_con(z, soft, 0.4), Z),
            rtol=1e-3,
            atol=2e-5,
        )
    # With false negatives of the same label left out.
    dropped = LABELS[:, None] == LABELS[None]
    value, _ = f(Z, positives=soft.astype(np.float32), false_negatives=LABELS)
    equal(value, oracles.sup_con(Z.astype(np.float64), soft, 0.4, dropped=dropped))
    value, _ = f(Z, labels=classes, false_negatives=LABELS)
    equal(value, oracles.sup_con(Z.astype(np.float64), soft, 0.4, dropped=dropped))


def test_positives_of_several_devices_have_a_column_for_each_row_of_all():
    soft = np.abs(RNG.normal(size=(12, 12))).astype(np.float32)
    shard = jax.shard_map(
        lambda z, q: sup_con(z, positives=q, axis_name="data"),
        mesh=mesh(4),
        in_specs=(P("data"), P("data")),
        out_specs=P(),
    )
    equal(jax.jit(shard)(Z, soft), oracles.sup_con(Z.astype(np.float64), soft, 0.1))
    with pytest.raises(ValueError, match=r"positives must be \[12, 12\], got \(12, 3\)"):
        sup_con(Z, positives=soft[:, :3])
    with pytest.raises(ValueError, match="not both"):
        sup_con(Z, LABELS, positives=soft)


def test_clip_and_siglip_equal_the_formulas_of_open_clip():
    torch = pytest.importorskip("torch", reason="an oracle when torch is there")
    functional = torch.nn.functional
    a, b = (functional.normalize(torch.tensor(x, dtype=torch.float64), dim=1) for x in (A, B))
    scale, bias = torch.tensor(12.0).double(), -3.0
    targets = torch.arange(6)
    both = functional.cross_entropy(scale * a @ b.T, targets)
    clip = (both + functional.cross_entropy(scale * b @ a.T, targets)) / 2
    signs = 2 * torch.eye(6).double() - 1
    sig = -functional.logsigmoid(signs * (scale * a @ b.T + bias)).sum() / 6
    equal(info_nce(A, B, temperature=1 / 12), clip.item())
    equal(siglip(A, B, temperature=1 / 12, bias=bias), sig.item())
    # Learnt: temperature = exp(−p) has the gradient of a logit scale.
    p = jnp.log(jnp.float32(12.0))
    by_p = jax.grad(lambda p: info_nce(A, B, temperature=jnp.exp(-p), tile_size=4))(p)
    x = A.astype(np.float64), B.astype(np.float64)
    step = 1e-5
    high, low = (oracles.info_nce(*x, np.exp(-(np.log(12) + s))) for s in (step, -step))
    equal(by_p, (high - low) / (2 * step), rtol=1e-4)
    by_bias = jax.grad(lambda t: siglip(A, B, temperature=0.2, bias=t, tile_size=4))(-1.0)
    high, low = (oracles.siglip(*x, 0.2, -1 + s) for s in (step, -step))
    equal(by_bias, (high - low) / (2 * step), rtol=1e-4)


@TILES
def test_miners_say_of_which_kind_each_triplet_is(tile):
    z, labels = np.array([[0.0], [0.5], [1.3], [1.6], [9.0]]), np.array([0, 0, 1, 1, 0])
    found = mine_triplets(z, labels, margin=0.5, tile_size=tile)
    kinds = ["easy", "semi-hard", "hard"]
    d = (z - z.T) ** 2
    for i in range(5):
        d_ap, d_an = d[i, found.positive[i]], d[i, found.negative[i]]
        wanted = "hard" if d_an <= d_ap else "easy" if d_an >= d_ap + 0.5 else "semi-hard"
        assert kinds[found.kind[i]] == wanted
        others = d[i][labels != labels[i]]
        assert found.fallback[i] == (not any((d_ap < others) & (others < d_ap + 0.5)))
    _, stats = triplet_loss_and_stats(z, labels, margin=0.5, tile_size=tile)
    assert [stats.easy, stats.semi_hard, stats.hard] == [np.sum(found.kind == k) for k in range(3)]
    assert stats.fallback == np.sum(found.fallback)
    assert {*np.asarray(found.kind).tolist()} == {0, 1, 2}


def test_cached_gradients_equal_the_whole_batch_and_hold_one_chunk():
    rng = np.random.default_rng(3)
    views = {name: rng.normal(size=(256, 8)) for name in ("a", "b")}
    w = [rng.normal(size=s) / 8 for s in ((8, 64), (64, 64), (64, 64), (64, 64), (64, 4))]

    def encode(w, views):
        def one(x):
            for matrix in w[:-1]:
                x = jnp.tanh(x @ matrix)
            return x @ w[-1]

        return one(views["a"]), one(views["b"])

    def loss(z):
        return nt_xent(*z, temperature=0.2, precision="float64")

    with jax.enable_x64(True):
        programs = [
            jax.jit(f).lower(w, views).compile()
            for f in (
                lambda w, v: jax.value_and_grad(lambda w: loss(encode(w, v)))(w),
                lambda w, v: cached_gradients(encode, loss, w, v, chunk_size=4),
            )
        ]
        whole, chunked = (f(w, views) for f in programs)
    jax.tree.map(partial(equal, rtol=1e-10, atol=1e-12), chunked, whole)
    memory, least = (f.memory_analysis().temp_size_in_bytes for f in programs)
    activations = 2 * 256 * 64 * 4 * 8
    assert memory - least > activations // 2
    with pytest.raises(ValueError, match="multiple of chunk_size, got 256 and 5"):
        cached_gradients(encode, loss, w, views, chunk_size=5)


def test_cached_gradients_inside_shard_map_equal_one_device():
    x, w = np.stack([A, B]), np.eye(3, dtype=np.float32) + 0.1
    encode = lambda w, chunk: (chunk[0] @ w, chunk[1] @ w)  # noqa: E731

    def step(w, x):
        loss = lambda z: nt_xent(*z, axis_name="data")  # noqa: E731
        value, grad = cached_gradients(encode, loss, w, (x[0], x[1]), chunk_size=1)
        return value[None], jax.lax.pmean(grad, "data")

    wanted = jax.jit(jax.value_and_grad(lambda w: nt_xent(A @ w, B @ w)))(w)
    for check_vma in (True, False):
        specs = {"in_specs": (P(), P(None, "data")), "out_specs": (P("data"), P())}
        shard = jax.shard_map(step, mesh=mesh(2), check_vma=check_vma, **specs)
        values, grad = jax.jit(shard)(w, x)
        equal(values, np.full(2, wanted[0]))
        equal(grad, wanted[1])


@pytest.mark.parametrize("tile", [None, 8])
def test_precision_is_as_exact_as_its_name_says(tile):
    z = np.random.default_rng(5).normal(size=(2, 32, 64)).astype(np.float32)
    exact = oracles.two_views(*z.astype(np.float64), 0.05)
    errors = {
        name: abs(float(nt_xent(*z, temperature=0.05, precision=name, tile_size=tile)) - exact)
        for name in ("highest", "high", "bfloat16")
    }
    assert errors["highest"] <= 1e-5
    assert errors["high"] <= 1e-3
    # Rounded to 8 bits of 1, by a temperature of 0.05: visible, and no more than that.
    assert 1e-5 < errors["bfloat16"] < 0.1


def test_the_centre_of_dino_is_a_moving_mean_of_all_devices():
    teacher = RNG.normal(size=(2, 8, 4)).astype(np.float32)
    centre, where = np.ones(4, np.float32), np.arange(8) != 3
    wanted = 0.9 * centre + 0.1 * teacher[:, where].mean((0, 1))
    equal(dino_centre(centre, teacher, where=where), wanted)
    shard = jax.shard_map(
        lambda c, t, m: dino_centre(c, t, where=m, axis_name="data"),
        mesh=mesh(4),
        in_specs=(P(), P(None, "data"), P("data")),
        out_specs=P(),
    )
    equal(jax.jit(shard)(centre, teacher, where), wanted)
    equal(dino_centre(centre, teacher, where=np.zeros(8, bool)), centre)


def test_what_takes_numpys_arrays_says_so_to_a_type_checker():
    """Every public function; `mypy --strict` on a caller with NumPy labels follows from it."""
    told = 0
    for room in (losses, augment):
        for name in room.__all__:
            function = inspect.unwrap(getattr(room, name))
            if not inspect.isfunction(function) or name == "cached_gradients":
                continue
            for argument, kind in get_type_hints(function).items():
                if argument not in ("return", "key", "recipe") and jax.Array in (
                    kind,
                    *get_args(kind),
                ):
                    assert np.ndarray in get_args(kind), f"{name}: {argument}"
                    told += 1
    assert told > 100
