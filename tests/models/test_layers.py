import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxssl.models.layers import BatchNorm, conv, depthwise_conv, he_normal, normalized_conv


def test_batchnorm_of_bfloat16_is_computed_in_float32():
    x = jnp.asarray(np.random.default_rng(0).normal(40, 0.1, (64, 3)), jnp.bfloat16)
    norm = BatchNorm(3, rngs=nnx.Rngs(0))
    y = norm(x)
    assert y.dtype == jnp.bfloat16
    exact = np.asarray(x, np.float64)
    expected = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
    np.testing.assert_allclose(y.astype(jnp.float32), expected, atol=0.05)
    assert norm.mean.dtype == norm.var.dtype == jnp.float32


def test_convolutions_start_as_torchvisions():
    kernel = conv(5, 40, 3, dtype=jnp.float32, rngs=nnx.Rngs(0)).kernel[...]
    ours = he_normal(jax.random.key(3), (3, 3, 5, 40), jnp.float32)
    flax = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
    np.testing.assert_allclose(ours, flax(jax.random.key(3), (3, 3, 5, 40)), rtol=1e-6)
    traced = jax.jit(he_normal, static_argnums=(1, 2))(jax.random.key(3), (3, 3, 5, 40), "float32")
    np.testing.assert_array_equal(ours, traced)
    assert abs(kernel.std() / (2 / (9 * 40)) ** 0.5 - 1) < 0.05


@pytest.mark.parametrize("kind", ["3x3, stride 2", "1x1", "depthwise", "with bias"])
def test_kept_statistics_join_the_convolution(kind):
    """Values and gradients are those of flax's BatchNorm behind the convolution."""
    options = {"dtype": jnp.float32, "rngs": nnx.Rngs(0)}
    layer = {
        "3x3, stride 2": lambda: conv(4, 4, 3, 2, same=True, **options),
        "1x1": lambda: conv(4, 4, 1, **options),
        "depthwise": lambda: depthwise_conv(4, 3, **options),
        "with bias": lambda: nnx.Conv(4, 4, (3, 3), bias_init=nnx.initializers.ones, **options),
    }[kind]()
    numbers = np.random.default_rng(0)
    norm, x = BatchNorm(4, epsilon=1e-3, rngs=nnx.Rngs(0)), numbers.normal(size=(2, 5, 5, 4))
    for variable in (norm.scale, norm.bias, norm.mean, norm.var):
        variable.set_value(jnp.asarray(numbers.uniform(0.2, 2, 4), jnp.float32))
    norm.frozen = True
    plain = nnx.BatchNorm(4, epsilon=1e-3, use_running_average=True, rngs=nnx.Rngs(0))
    nnx.update(plain, nnx.state(norm))
    weights = jnp.asarray(numbers.normal(size=layer(jnp.asarray(x)).shape), jnp.float32)

    def gradients(apply, norm):
        graphdef, params, rest = nnx.split((layer, norm), nnx.Param, ...)

        def loss(params, x):
            pair = nnx.merge(graphdef, params, rest, copy=True)
            return (weights * jnp.tanh(apply(*pair, x))).sum()

        found = jax.jit(jax.value_and_grad(loss, (0, 1)))(params, jnp.asarray(x, jnp.float32))
        return jax.tree.leaves(found)

    joined = gradients(normalized_conv, norm)
    expected = gradients(lambda conv, norm, x: norm(conv(x)), plain)
    assert len(joined) == len(expected) == 5 + (kind == "with bias")
    for a, b in zip(joined, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_the_gradient_of_a_1x1_kernels_factor_is_one_sum_over_all_its_axes():
    """Of one axis beside two of length 1 XLA's sum on a CPU takes sixty times as long."""
    layer = conv(8, 4, 1, dtype=jnp.float32, rngs=nnx.Rngs(0))
    norm = BatchNorm(4, rngs=nnx.Rngs(0))
    norm.frozen = True

    def total(scale, x):
        scaled = nnx.clone(norm)
        scaled.scale.set_value(scale)
        return normalized_conv(layer, scaled, x).sum()

    lowered = jax.jit(jax.grad(total)).lower(jnp.ones(4), jnp.ones((2, 5, 5, 8)))
    sums = re.findall(r"across dimensions = \[(.*)\] : \(tensor<1x1x8x4", lowered.as_text())
    assert sums == ["0, 1, 2"]
