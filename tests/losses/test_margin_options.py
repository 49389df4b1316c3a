"""Margins of rows and classes, sub-centres, label smoothing, classes that are not, AdaCos."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxssl.losses import (
    adacos_scale,
    arcface_logits,
    arcface_loss,
    cosface_loss,
    cosine_accuracy,
    cosine_logits,
)

RNG = np.random.default_rng(0)
Z, W = RNG.normal(size=(12, 3)).astype(np.float32), RNG.normal(size=(8, 3)).astype(np.float32)
SUB = RNG.normal(size=(8, 2, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 5, 5, 2, 1, 0, 4, 3, 5, 3])
THERE = np.array([1, 1, 1, 1, 1, 1, 0, 0], bool)
OF_ROWS, OF_CLASSES = np.linspace(0, 0.7, 12), np.linspace(0.1, 0.6, 8)
CASES = {
    "of rows": ({"margin": OF_ROWS, "scale": 4 + OF_ROWS, "each": "row"}, W),
    "of classes": ({"margin": OF_CLASSES, "scale": 4 + OF_CLASSES, "each": "class"}, W),
    "sub-centres": ({"margin": 0.3, "scale": 4.0}, SUB),
    "smoothed": ({"margin": 0.3, "scale": 4.0, "label_smoothing": 0.2}, W),
    "fewer classes": ({"margin": 0.3, "scale": 4.0, "class_where": THERE}, W),
    "all": (
        {
            "margin": OF_CLASSES,
            "scale": 4 + OF_CLASSES,
            "each": "class",
            "label_smoothing": 0.1,
            "class_where": THERE,
        },
        SUB,
    ),
}


def equal(got, wanted, rtol=1e-5, atol=2e-6):
    np.testing.assert_allclose(np.asarray(got, np.float64), wanted, rtol=rtol, atol=atol)


def oracle(kind, options, z, centres):
    margin, scale = options["margin"], options["scale"]
    if options.get("each") == "row":
        margin, scale = margin[:, None], scale[:, None]
    there, smoothing = options.get("class_where"), options.get("label_smoothing", 0.0)
    return oracles.margin_loss(kind, z, centres, LABELS, margin, scale, smoothing, there)


def numeric(f, x, step=1e-6):
    x = np.array(x, np.float64)
    grad = np.zeros_like(x)
    for at in np.ndindex(*x.shape):
        shift = np.zeros_like(x)
        shift[at] = step
        grad[at] = (f(x + shift) - f(x - shift)) / (2 * step)
    return grad


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["arcface", "cosface"])
def test_options_equal_the_loop_whole_and_tiled_by_every_argument(kind, name):
    options, centres = CASES[name]
    loss = {"arcface": arcface_loss, "cosface": cosface_loss}[kind]
    fixed = {k: v for k, v in options.items() if k not in ("margin", "scale")}

    @jax.jit
    def both(*arguments):
        def of(z, centres, margin, scale, tile):
            settings = {"margin": margin, "scale": scale, "tile_size": tile, **fixed}
            return loss(z, centres, LABELS, **settings)

        by = jax.value_and_grad(of, argnums=(0, 1, 2, 3))
        return [by(*arguments, tile) for tile in (None, 3)]

    margin, scale = (np.asarray(options[k], np.float32) for k in ("margin", "scale"))
    z, w = Z.astype(np.float64), centres.astype(np.float64)
    of = partial(oracle, kind)
    wanted = [
        numeric(lambda x: of(options, x, w), z),
        numeric(lambda x: of(options, z, x), w),
        numeric(lambda x: of(options | {"margin": x}, z, w), options["margin"]),
        numeric(lambda x: of(options | {"scale": x}, z, w), options["scale"]),
    ]
    for value, grads in both(Z, centres, margin, scale):
        equal(value, of(options, z, w))
        for grad, expected in zip(grads, wanted, strict=True):
            equal(grad, expected, rtol=2e-3, atol=2e-5)


def test_label_smoothing_and_sub_centres_equal_torch():
    """mmpretrain's ArcFaceClsHead and LabelSmoothLoss: max over centres, cross entropy."""
    torch = pytest.importorskip("torch", reason="an oracle when torch is there")
    z, w = (torch.nn.functional.normalize(torch.tensor(x).double(), dim=-1) for x in (Z, SUB))
    cosine = torch.einsum("nd,kcd->nkc", z, w).max(dim=2)[0]
    target = torch.nn.functional.one_hot(torch.tensor(LABELS), 8).bool()
    # insightface: where the angle and the margin pass π the cosine falls by m·sin m instead.
    widened = torch.where(
        cosine > -math.cos(0.5), torch.cos(torch.acos(cosine) + 0.5), cosine - 0.5 * math.sin(0.5)
    )
    logits = 16.0 * torch.where(target, widened, cosine)
    equal(arcface_logits(Z, SUB, LABELS, scale=16.0), logits.numpy(), atol=2e-5)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS), label_smoothing=0.1)
    for tile in (None, 3):
        got = arcface_loss(Z, SUB, LABELS, scale=16.0, label_smoothing=0.1, tile_size=tile)
        equal(got, expected.item())


@pytest.mark.parametrize("shape", [(4,)])
def test_classes_over_devices_equal_the_loop_with_every_option(shape):
    """k = 6 classes are filled up to 8; the batch is spread over the classes' axis or another."""
    names = ("x", "y")[: len(shape)]
    devices = jax.devices()[: math.prod(shape)]
    mesh = jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(shape), devices=devices)
    options, centres = CASES["all"]
    where, weights = np.arange(12) != 4, np.linspace(1, 2, 12)

    def loss(z, centres, labels, margin, scale, there, where, weights, reduction="mean"):
        return arcface_loss(
            z,
            centres,
            labels,
            margin=margin,
            scale=scale,
            each="class",
            class_where=there,
            label_smoothing=0.1,
            where=where,
            weights=weights,
            reduction=reduction,
            axis_name="x",
            class_axis_name=names[-1],
            tile_size=1,
        )

    rows, classes = P("x"), P(names[-1])
    specs = (rows, classes, rows, classes, classes, classes, rows, rows)
    arguments = (Z, centres, LABELS, OF_CLASSES, 4 + OF_CLASSES, THERE, where, weights)
    by = jax.value_and_grad(
        jax.shard_map(loss, mesh=mesh, in_specs=specs, out_specs=P()), argnums=(0, 1, 3, 4)
    )
    each = partial(loss, reduction="none")
    each = jax.shard_map(each, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False)
    (value, grads), each_row = jax.jit(lambda *a: (by(*a), each(*a)))(*arguments)

    def whole(z, centres, margin, scale, reduction="mean"):
        settings = options | {"margin": margin, "scale": scale, "reduction": reduction}
        return arcface_loss(z, centres, LABELS, where=where, weights=weights, **settings)

    inputs = Z, centres, jnp.asarray(OF_CLASSES), jnp.asarray(4 + OF_CLASSES)
    expected, wanted = jax.jit(jax.value_and_grad(whole, argnums=(0, 1, 2, 3)))(*inputs)
    equal(value, expected)
    jax.tree.map(partial(equal, rtol=1e-4, atol=1e-5), grads, wanted)
    equal(each_row, whole(*inputs, reduction="none"), rtol=1e-4)


def test_accuracy_knows_masks_weights_and_sub_centres():
    nearest = np.argmax(np.where(THERE, cosine_logits(Z, SUB), -np.inf), axis=1)
    labels = np.where(np.arange(12) % 3 == 0, LABELS, nearest)
    where, weights = np.arange(12) < 9, np.linspace(1, 2, 12)
    right = (nearest == labels)[where]
    got = cosine_accuracy(
        Z, SUB, labels, class_where=THERE, where=where, weights=weights, tile_size=3
    )
    assert 0 < right.mean() < 1
    equal(got, np.sum(right * weights[where]) / np.sum(weights[where]))


def test_adacos_equals_the_papers_equations():
    rows = (oracles.unit(W)[LABELS] + 0.3 * Z).astype(np.float32)  # some nearer than π/4, some not
    z, w = (oracles.unit(x.astype(np.float64)) for x in (rows, W))
    cosine, scale = z @ w.T, math.sqrt(2) * math.log(7)
    other = np.arange(8)[None] != LABELS[:, None]
    for where in (np.ones(12, bool), np.arange(12) % 4 != 1, np.zeros(12, bool)):
        for last in (None, 5.0):
            s = scale if last is None else last
            wanted = s
            if where.any():
                total = np.sum(np.where(other, np.exp(s * cosine), 0)[where], axis=1)
                angle = np.median(np.arccos(cosine[np.arange(12), LABELS][where]))
                wanted = np.log(total.mean()) / math.cos(min(math.pi / 4, angle))
            for tile in (None, 3):
                got = adacos_scale(rows, W, LABELS, scale=last, where=where, tile_size=tile)
                equal(got, wanted)
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    spread = jax.shard_map(
        lambda z, w, y: adacos_scale(z, w, y, axis_name="x", class_axis_name="y"),
        mesh=mesh,
        in_specs=(P("x"), P("y"), P("x")),
        out_specs=P(),
        check_vma=False,
    )
    equal(jax.jit(spread)(rows, W, LABELS), adacos_scale(rows, W, LABELS))


def test_arrays_of_margins_are_one_thing_or_refused():
    for tile in (None, 3):
        refused = partial(arcface_loss, Z, W, LABELS, tile_size=tile)
        with pytest.raises(ValueError, match=r"margin must be a scalar, got shape \(12,\); each="):
            jax.jit(lambda m, f=refused: f(margin=m))(OF_ROWS)
        with pytest.raises(ValueError, match=r"scale of each class must be \[8\], got \(12,\)"):
            refused(scale=4 + OF_ROWS, each="class")
        with pytest.raises(ValueError, match=r"margin must lie in \[0, 1.571\), got 2"):
            refused(margin=OF_ROWS + 1.3, each="row")
        with pytest.raises(ValueError, match="each must be one of row, class, got 'both'"):
            refused(margin=OF_ROWS, each="both")
        with pytest.raises(ValueError, match=r"label_smoothing must lie in \[0, 1\], got 2"):
            refused(label_smoothing=2)


def test_labels_of_rows_that_do_not_count_may_be_any():
    labels = np.where(np.arange(12) < 3, -1, LABELS)
    value = cosface_loss(Z, W, labels, where=labels >= 0)
    equal(value, cosface_loss(Z[3:], W, LABELS[3:]))
    with jax.enable_x64(True):  # beyond 32 bits no label is another's
        far = jax.jit(lambda y: cosface_loss(Z, W, y))(LABELS.astype(np.int64) + 2**32)
        none = jax.jit(lambda y: cosface_loss(Z, W, y))(np.full(12, -1))
    equal(far, none)
