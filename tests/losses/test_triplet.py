import itertools

import jax
import jax.extend
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxssl.losses import mine_triplets, triplet_loss, triplet_loss_and_stats
from jaxssl.losses.mining import squared_distances

POLICIES = list(itertools.product(["easy", "hard"], ["semi-hard", "hard"]))


def everything(z, labels, margin, positive, negative, axis_name=None):
    """Triplets, loss, stats and gradient of one batch."""
    options = {"margin": margin, "positive": positive, "negative": negative}
    (loss, stats), grad = jax.value_and_grad(triplet_loss_and_stats, has_aux=True)(
        z, labels, **options, axis_name=axis_name
    )
    return mine_triplets(z, labels, **options, axis_name=axis_name), loss, stats, grad


TRACED = jax.jit(everything, static_argnames="axis_name")
BATCHES = jax.jit(jax.vmap(everything, (0, 0, 0, None, None)))


def reference(z, labels, margin, positive, negative):
    """The policies in words, anchor by anchor, in float64."""
    z, n = np.asarray(z, np.float64), len(z)
    d = [[sum((u - v) ** 2 for u, v in zip(a, b, strict=True)) for b in z] for a in z]
    triplets, losses, grad = {}, [], np.zeros_like(z)
    for a in range(n):
        positives = [i for i in range(n) if labels[i] == labels[a] and i != a]
        negatives = [i for i in range(n) if labels[i] != labels[a]]
        if not positives or not negatives:
            continue
        p = (min if positive == "easy" else max)(positives, key=lambda i: d[a][i])
        if negative == "semi-hard":
            fit = [i for i in negatives if d[a][p] < d[a][i] < d[a][p] + margin]
        else:
            fit = [i for i in negatives if d[a][i] < d[a][p]]
        triplets[a] = p, min(fit or negatives, key=lambda i: d[a][i])
    for a, (p, q) in triplets.items():
        losses.append(max(d[a][p] - d[a][q] + margin, 0.0))
        if losses[-1] > 0:
            grad[a] += 2 * (z[q] - z[p]) / len(triplets)
            grad[p] += 2 * (z[p] - z[a]) / len(triplets)
            grad[q] += 2 * (z[a] - z[q]) / len(triplets)
    count = max(len(triplets), 1)
    stats = (
        len(triplets) / n,
        sum(loss > 0 for loss in losses) / count,
        sum(d[a][p] for a, (p, _) in triplets.items()) / count,
        sum(d[a][q] for a, (_, q) in triplets.items()) / count,
    )
    return triplets, sum(losses) / count, stats, grad


def equal(got, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=rtol, atol=atol)


def check(got, expected):
    triplets, loss, stats, grad = got
    chosen = {
        int(a): (int(p), int(q))
        for a, p, q, mask in zip(*map(np.asarray, triplets[:4]), strict=True)
        if mask
    }
    assert chosen == expected[0]
    equal(loss, expected[1])
    equal(stats[:4], expected[2])
    equal(grad, expected[3])


def integer_batches(rng, count, n, d):
    """Few points and few classes: duplicates, exact ties, lone rows, single-class batches."""
    z = rng.integers(0, rng.integers(1, 5, (count, 1, 1)), (count, n, d)).astype(np.float32)
    labels = rng.integers(0, rng.integers(1, n + 1, (count, 1)), (count, n))
    return z, labels, rng.choice([0.0, 0.5, 1.0, 3.0], count).astype(np.float32)


@pytest.mark.parametrize(("positive", "negative"), POLICIES)
def test_thousands_of_integer_batches_equal_the_loop(positive, negative):
    z, labels, margins = integer_batches(np.random.default_rng(0), 1000, n=7, d=2)
    got = jax.device_get(BATCHES(z, labels, margins, positive == "hard", negative == "hard"))
    seen = np.zeros(3, int)
    for i in range(len(z)):
        expected = reference(z[i], labels[i], margins[i], positive, negative)
        check(jax.tree.map(lambda x, i=i: x[i], got), expected)
        share = expected[2][0]
        seen += [share == 0, 0 < share < 1, share == 1]
    assert (seen > 30).all(), "the batches must cover none, some and all anchors with a triplet"


@pytest.mark.parametrize(("positive", "negative"), POLICIES)
def test_float_batches_on_the_sphere_equal_the_loop(positive, negative):
    rng = np.random.default_rng(1)
    z = rng.normal(size=(100, 12, 5)).astype(np.float32)
    z /= np.linalg.norm(z, axis=2, keepdims=True)
    labels, margins = rng.integers(0, 4, (100, 12)), np.full(100, 0.3, np.float32)
    got = jax.device_get(BATCHES(z, labels, margins, positive == "hard", negative == "hard"))
    for i in range(len(z)):
        expected = reference(z[i], labels[i], margins[i], positive, negative)
        check(jax.tree.map(lambda x, i=i: x[i], got), expected)


def test_policies_by_name_equal_policies_as_booleans():
    z, labels, _ = integer_batches(np.random.default_rng(2), 1, n=12, d=2)

    @jax.jit
    def named(z, labels):
        return [triplet_loss(z, labels, positive=p, negative=n) for p, n in POLICIES]

    losses = named(z[0], labels[0])
    for (positive, negative), loss in zip(POLICIES, losses, strict=True):
        _, traced, _, _ = TRACED(z[0], labels[0], 0.5, positive == "hard", negative == "hard")
        equal(traced, loss)


def test_a_curriculum_does_not_recompile():
    z, labels, margins = integer_batches(np.random.default_rng(3), 2, n=9, d=2)
    before = TRACED._cache_size()
    for epoch in range(0, 35, 5):
        TRACED(z[0], labels[0], margins[0], epoch >= 25, epoch >= 10)
        TRACED(z[1], labels[1], margins[1], epoch >= 25, epoch >= 10)
    assert TRACED._cache_size() == before + 1


@pytest.mark.parametrize("labels", [np.zeros(9, int), np.arange(9)], ids=["one class", "all lone"])
def test_batches_without_triplets_contribute_nothing(labels):
    z = np.random.default_rng(4).normal(size=(9, 2)).astype(np.float32)
    triplets, loss, stats, grad = TRACED(z, labels, 0.5, False, False)
    assert not triplets.mask.any()
    assert loss == 0.0
    equal(stats, 0.0, atol=0)
    equal(grad, 0.0, atol=0)


@pytest.mark.parametrize(("positive", "negative"), POLICIES)
def test_collapse_gives_the_margin_and_zero_gradient(positive, negative):
    z, labels = np.full((9, 2), 0.7, np.float32), np.arange(9) % 3
    _, loss, stats, grad = TRACED(z, labels, 0.5, positive == "hard", negative == "hard")
    equal(loss, 0.5)
    equal(stats, [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 9.0, 9.0])
    equal(grad, 0.0, atol=0)


def test_a_negative_that_equals_the_positive_is_not_semi_hard():
    rng = np.random.default_rng(5)
    z = rng.normal(size=(200, 17, 48)).astype(np.float32)
    z /= np.linalg.norm(z, axis=2, keepdims=True)
    z[:, 9] = z[:, 1]
    labels = np.broadcast_to([0, 0, *range(1, 16)], (200, 17))
    triplets = BATCHES(z, labels, np.full(200, 4.0, np.float32), False, False)[0]
    assert (triplets.positive[:, 0] == 1).all()
    d_an = np.sum((z - z[:, :1]) ** 2, axis=2)
    chosen = d_an[np.arange(200), triplets.negative[:, 0]]
    farther = (d_an > d_an[:, 1:2] + 1e-5).any(axis=1)
    assert farther.sum() > 150
    assert (chosen > d_an[:, 1] + 1e-5)[farther].all()


def test_equal_rows_are_at_distance_0():
    z = np.random.default_rng(8).normal(size=(37, 50)).astype(np.float32)
    z[20:] = z[:17]
    distances = jax.jit(squared_distances)(z, np.eye(37, dtype=bool), z)
    expected = np.sum((z[:, None].astype(np.float64) - z[None]) ** 2, axis=2)
    equal(distances, expected)
    np.testing.assert_array_equal(np.asarray(distances) == 0, expected == 0)


# Sorted, so that devices hold unequal numbers of anchors with a triplet, and some hold none.
SORTED = np.array([0] * 9 + [1] * 3 + [2, 3, 4, 5])


def test_eight_devices_equal_one():
    z = np.random.default_rng(7).normal(size=(16, 3)).astype(np.float32)
    expected = TRACED(z, SORTED, 0.5, True, False)
    assert expected[2].anchors == 12 / 16
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    shards = jax.device_put((z, SORTED), NamedSharding(mesh, P("data")))
    for a, b in zip(
        jax.tree.leaves(TRACED(*shards, 0.5, True, False)), jax.tree.leaves(expected), strict=True
    ):
        equal(a, b)

    options = {"margin": 0.5, "positive": "hard", "negative": "semi-hard", "axis_name": "data"}

    def inside(z, labels):
        triplets, value, stats, _ = everything(z, labels, *options.values())
        return triplets, (value, stats)

    specs = {"in_specs": (P("data"), P("data")), "out_specs": (P("data"), P())}
    triplets, rest = jax.jit(jax.shard_map(inside, mesh=mesh, **specs))(z, SORTED)
    equal(triplets, expected[0])
    equal(rest[0], expected[1])
    equal(rest[1], expected[2])


def arrays_of(jaxpr):
    for equation in jaxpr.eqns:
        yield from (v.aval for v in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from arrays_of(inner)


def test_no_array_is_larger_than_rows_times_rows():
    z, labels = np.ones((32, 8), np.float32), np.arange(32) % 4
    closed = jax.make_jaxpr(everything)(z, labels, 0.5, True, True)
    assert max(aval.size for aval in arrays_of(closed.jaxpr)) == 32**2


@pytest.mark.parametrize("f", [triplet_loss, triplet_loss_and_stats, mine_triplets])
def test_bad_arguments_are_named(f):
    z, labels = np.ones((4, 3)), np.zeros(4, int)
    with pytest.raises(ValueError, match=r"got \(4, 3\) and \(5,\)"):
        f(z, np.zeros(5, int))
    with pytest.raises(ValueError, match="labels must be integers, got float64"):
        f(z, np.zeros(4))
    with pytest.raises(ValueError, match=r"margin must lie in \[0, inf\), got -0.5"):
        f(z, labels, margin=-0.5)
    with pytest.raises(ValueError, match="positive must be 'easy', 'hard' or a boolean, got 'far'"):
        f(z, labels, positive="far")
    with pytest.raises(ValueError, match=r"negative must be 'semi-hard', .* got 'easy'"):
        f(z, labels, negative="easy")
