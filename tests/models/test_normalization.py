import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxssl.lowering import made_for
from jaxssl.models.layers import BatchNorm
from jaxssl.models.normalization import normalize_by_batch
from jaxssl.training.devices import data_placement

SHAPES = {"maps": (3, 4, 5, 6), "rows": (7, 6), "one channel": (4, 3, 3, 1)}


def draw(shape, *, channels):
    random = np.random.default_rng(0)
    x = 2 + 3 * random.normal(size=shape)
    return [v.astype(np.float32) for v in (x, *random.normal(size=(2, channels)))]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_values_and_gradients_equal_torchs_in_float64(shape):
    torch = pytest.importorskip("torch", reason="an oracle when torch is there")
    inputs = draw(shape, channels=shape[-1])
    found, pull = jax.vjp(lambda *v: normalize_by_batch(*v, 1e-3), *inputs)
    random = np.random.default_rng(1)
    of_found = [random.normal(size=v.shape).astype(np.float32) for v in found]

    x, scale, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in inputs)
    axes = tuple(range(x.ndim - 1))
    mean, variance = x.mean(axes), x.var(axes, correction=0)
    y = (x - mean) / (variance + 1e-3).sqrt() * scale + bias
    # Of the mean and the variance as well, by which a loss could ask.
    gradients = [torch.tensor(v, dtype=torch.float64) for v in of_found]
    torch.autograd.backward((y, mean, variance), gradients)
    for mine, theirs in zip(found, (y, mean, variance), strict=True):
        np.testing.assert_allclose(mine, theirs.detach(), rtol=2e-5, atol=2e-5)
    for mine, theirs in zip(jax.jit(pull)(tuple(of_found)), (x, scale, bias), strict=True):
        np.testing.assert_allclose(mine, theirs.grad, rtol=5e-5, atol=5e-5)


def test_a_mean_far_from_zero_costs_the_gradient_few_digits():
    x, scale, bias = draw((64, 3), channels=3)
    of_y = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)

    def gradients(x):
        _, pull = jax.vjp(lambda *v: normalize_by_batch(*v, 1e-3)[0], x, scale, bias)
        return pull(of_y)

    # 64 is a power of two: x + 64 has x's digits but for six.
    x = np.round(x * 256).astype(np.float32) / 256
    for near, far in zip(gradients(x), gradients(x + 64), strict=True):
        np.testing.assert_allclose(near, far, rtol=2e-3, atol=2e-3)


def test_the_layer_is_flaxs():
    x, scale, bias = draw((3, 4, 4, 5), channels=5)

    def run(layer):
        layer.scale[...], layer.bias[...] = scale, bias
        y = layer(x)
        return y, layer.mean[...], layer.var[...]

    flaxs = run(nnx.BatchNorm(5, momentum=0.9, rngs=nnx.Rngs(0)))
    for mine, theirs in zip(run(BatchNorm(5, rngs=nnx.Rngs(0))), flaxs, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def test_a_layer_with_the_name_of_an_axis_takes_the_statistics_of_all_of_it():
    layer = BatchNorm(3, rngs=nnx.Rngs(0))
    layer.axis_name = "devices"
    parts = nnx.split(layer)
    x = np.random.default_rng(0).normal(size=(1, 4, 3)).astype(np.float32)
    both = np.concatenate([x, 5 - x])
    y = jax.vmap(lambda x: nnx.merge(*parts, copy=True)(x), axis_name="devices")(both)
    np.testing.assert_allclose(y.mean((0, 1)), 0, atol=1e-5)


def test_a_constant_channel_has_finite_gradients():
    x = np.full((4, 3, 2), 1e3, np.float32)
    (y, _, variance), pull = jax.vjp(
        lambda x: normalize_by_batch(x, jnp.ones(2), jnp.zeros(2), 1e-5), x
    )
    assert (variance >= 0).all()
    assert np.isfinite(y).all()
    of_x = pull((jnp.ones_like(y), jnp.zeros(2), jnp.zeros(2)))[0]
    assert np.isfinite(of_x).all()


def test_half_precision_is_summed_in_float32():
    x, scale, bias = draw((64, 8, 8, 2), channels=2)

    def value(dtype):
        def loss(x):
            y, mean, _ = normalize_by_batch(x.astype(dtype), scale, bias, 1e-3)
            assert (y.dtype, mean.dtype) == (dtype, jnp.float32)
            return (y.astype(jnp.float32) ** 3).sum()

        return jax.value_and_grad(loss)(x)

    for half, full in zip(value(jnp.bfloat16), value(jnp.float32), strict=True):
        np.testing.assert_allclose(half, full, atol=0.02 * np.abs(full).max())


def test_devices_meet_once_for_the_statistics_and_once_for_the_gradients():
    """Eight devices' numbers are one device's, and each sum over them is of one array."""
    inputs = draw((16, 3, 3, 5), channels=5)
    placement = data_placement(16)
    of_y = np.random.default_rng(1).normal(size=inputs[0].shape).astype(np.float32)

    def loss(x, scale, bias):
        y, mean, variance = normalize_by_batch(x, scale, bias, 1e-3)
        return (y**3 * of_y).sum() + (mean * variance).sum()

    def slope(*inputs):  # whose gradient is of second order
        return sum((g**2).sum() for g in jax.grad(loss, argnums=(0, 1, 2))(*inputs))

    spread = (placement.sharded, placement.replicated, placement.replicated)
    for function in (loss, slope):
        gradients = jax.value_and_grad(function, argnums=(0, 1, 2))
        alone = jax.tree.leaves(jax.jit(gradients)(*inputs))
        together = jax.jit(made_for(placement.mesh)(gradients), in_shardings=spread)
        for mine, theirs in zip(jax.tree.leaves(together(*inputs)), alone, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-4 * np.abs(theirs).max())
        if function is loss:
            text = together.lower(*inputs).compile().as_text()
    summed = re.findall(r"= (.*) all-reduce\(", text)
    arrays = sum(shapes.count("f32[") for shapes in summed)
    assert arrays == 3, summed  # the statistics, the gradients, and the loss
