"""With jax_enable_x64 on, float32 stays float32: nothing here makes a number of 64 bits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxssl.models import (
    BesideStart,
    Classifier,
    ConvNet,
    EfficientNetLite,
    MLPClassifier,
    ProjectionHead,
    RowEncoder,
    average_views,
    fold_batch_norm,
    make_encoder,
)
from jaxssl.models.convolution import convolve
from jaxssl.models.depthwise import convolve_depthwise
from jaxssl.models.dinov2 import DinoV2
from jaxssl.models.dinov3 import DinoV3
from jaxssl.models.linear import dot_general
from jaxssl.models.normalization import normalize_by_batch
from jaxssl.models.pooling import max_pool
from jaxssl.models.resnet import BasicBlock, ResNet

# The forms for a CPU are one device's.
pytestmark = pytest.mark.one_device

WIDE, NARROW = (functools.partial(jax.enable_x64, on) for on in (True, False))


def normalized(x, scale):
    return normalize_by_batch(x, scale, jnp.zeros(scale.shape, scale.dtype), 1e-5)[0]


def linear(x, kernel):
    return dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def convolution(form, stride=1, padding="SAME"):
    return lambda x, kernel: form(x, kernel, (stride, stride), padding)


FORMS = {
    "3x3 of a few channels": (convolution(convolve), (2, 8, 8, 3), (3, 3, 3, 16)),
    "3x3 in tiles": (convolution(convolve), (2, 24, 24, 96), (3, 3, 96, 96)),
    "its gradient in tiles": (convolution(convolve), (2, 16, 16, 64), (3, 3, 64, 64)),
    "3x3 by rows": (convolution(convolve), (2, 6, 6, 20), (3, 3, 20, 24)),
    "3x3 of stride 2": (convolution(convolve, 2), (2, 9, 8, 4), (3, 3, 4, 6)),
    "rows of zeros alone": (
        convolution(convolve, 3, ((4, 2), (1, 0))),
        (3, 2, 5, 4),
        (5, 3, 4, 6),
    ),
    "2x2 of stride 3": (convolution(convolve, 3, "VALID"), (2, 13, 11, 12), (2, 2, 12, 4)),
    "1x1": (convolution(convolve), (2, 6, 6, 4), (1, 1, 4, 8)),
    "1x1 of stride 2": (convolution(convolve, 2), (2, 6, 6, 4), (1, 1, 4, 8)),
    "7x7 of stride 2": (convolution(convolve, 2), (2, 12, 12, 3), (7, 7, 3, 4)),
    "more kernel than windows": (convolution(convolve), (1, 3, 2, 3), (3, 3, 3, 20)),
    "depthwise": (convolution(convolve_depthwise), (2, 12, 11, 3), (3, 3, 1, 3)),
    "depthwise of few places": (convolution(convolve_depthwise), (2, 6, 6, 3), (3, 3, 1, 3)),
    "depthwise of stride 2": (convolution(convolve_depthwise, 2), (2, 8, 9, 3), (5, 5, 1, 3)),
    "linear": (linear, (2, 5, 6), (6, 7)),
    "BatchNorm": (normalized, (2, 4, 4, 3), (3,)),
    "max-pool": (lambda x, k: max_pool(x, (3, 3), (2, 2), (1, 1)) * k, (2, 8, 8, 3), (1, 1, 1, 3)),
}


FAMILIES = (
    *("convnet", "resnet18", "resnet50", "efficientnet_lite0", "dinov2_s", "dinov3_s"),
    *("plankton_v2_s", "tf_plankton_v2_s"),
)


@pytest.mark.parametrize(("form", "x", "kernel"), FORMS.values(), ids=FORMS.keys())
def test_a_form_has_the_values_and_types_that_it_has_without(form, x, kernel, either_form):
    random = np.random.default_rng(0)
    x, kernel = (random.normal(size=shape).astype(np.float32) for shape in (x, kernel))

    def loss(x, kernel):
        y = form(x, kernel)
        return (y * y).sum(), y

    def found(context):
        with context():
            both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
            return both(*map(jnp.asarray, (x, kernel)))

    wide, narrow = (jax.tree.leaves(found(context)) for context in (WIDE, NARROW))
    for got, wanted in zip(wide, narrow, strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())


def of_all(make, images):
    """Parameters, h, gradients and statistics of a model: what a training step has."""
    graphdef, params, rest = nnx.split(make(), nnx.Param, ...)

    def loss(params, images):
        model = nnx.merge(graphdef, params, rest, copy=True)
        h = model(images)
        return (h * h).sum(), (h, nnx.state(model, nnx.BatchStat))

    # By the images too: a frozen first layer hands it on.
    (value, kept), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
        params, images
    )
    return value, kept, gradients, params


# The others have other numbers of channels and blocks.
@pytest.mark.parametrize("name", FAMILIES)
def test_every_encoder_is_float32_throughout(name, either_form):
    with WIDE():
        images = jax.ShapeDtypeStruct((2, 65, 65, 3), jnp.float32)
        found = jax.eval_shape(
            lambda images: of_all(
                lambda: make_encoder(name, image_size=65, channels=3, rngs=nnx.Rngs(0)), images
            ),
            images,
        )
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}


SMALL = {
    "convnet": lambda rngs: ConvNet(widths=(4, 8), channels=3, rngs=rngs),
    "resnet": lambda rngs: ResNet(
        BasicBlock, (1, 1), channels=3, stem="imagenet", width=4, rngs=rngs
    ),
    "lite": lambda rngs: EfficientNetLite(
        width=0.25, depth=0.1, package="none", layer="block0+block1", channels=3, rngs=rngs
    ),
    "dinov2": lambda rngs: DinoV2(width=8, heads=2, depth=1, channels=3, rngs=rngs),
    "dinov3": lambda rngs: DinoV3(width=8, heads=2, depth=1, channels=3, rngs=rngs),
    **{
        cell: lambda rngs, cell=cell: RowEncoder(cell, hidden=5, image_size=32, rngs=rngs)
        for cell in ("rnn", "lstm", "gru")
    },
}


@pytest.mark.parametrize("name", SMALL)
def test_a_networks_values_are_those_it_has_without(name, build):
    images = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)

    def found(context):
        with context():
            make = functools.partial(build, lambda: SMALL[name](nnx.Rngs(0)))
            return jax.tree.leaves(of_all(make, jnp.asarray(images)))

    for got, wanted in zip(found(WIDE), found(NARROW), strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("head", ["mlp3", "mlp2", "mlp-bn", "mlp-bn2", "linear", "k", "mlp"])
def test_heads_are_float32_throughout(head):
    heads = {
        "k": lambda: Classifier(6, 3, rngs=nnx.Rngs(0)),
        "mlp": lambda: MLPClassifier(6, (4,), 3, rngs=nnx.Rngs(0)),
    }
    make = heads.get(head, lambda: ProjectionHead(6, kind=head, rngs=nnx.Rngs(0)))
    with WIDE():
        found = jax.eval_shape(lambda h: of_all(make, h), jax.ShapeDtypeStruct((4, 6), jnp.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}


def test_what_is_made_of_an_encoder_is_float32_too(build):
    with WIDE():
        images = jnp.ones((2, 16, 16, 3), jnp.float32)
        encoder = build(lambda: SMALL["convnet"](nnx.Rngs(0)))
        folded, beside = fold_batch_norm(encoder), BesideStart(encoder)
        encoder.eval()
        averaged = average_views(lambda model, images: model(images), 4)
        found = (folded(images), beside(images), averaged(encoder, images), nnx.state(folded))
    floats = [x for x in jax.tree.leaves(found) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype(jnp.float32)}
