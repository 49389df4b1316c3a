import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxssl.models import ConvNet


@pytest.fixture
def encoder(build) -> ConvNet:
    return build(lambda: ConvNet(widths=(4, 6, 8), channels=3, rngs=nnx.Rngs(0)))


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).random((16, 11, 8, 3), np.float32)


def reference(kernels, norms, images):
    """The network in float64, a convolution as a plain loop over output pixels."""
    x = images.astype(np.float64)
    for kernel, (scale, bias) in zip(kernels, norms, strict=True):
        height, width = -(-x.shape[1] // 2), -(-x.shape[2] // 2)
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        y = np.empty((len(x), height, width, kernel.shape[-1]))
        for i in range(height):
            for j in range(width):
                window = x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
                y[:, i, j] = np.einsum("bijc,ijco->bo", window, kernel)
        mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
        x = np.maximum((y - mean) / np.sqrt(var + 1e-5) * scale + bias, 0)
    return x.mean((1, 2))


def test_equals_a_plain_loop(encoder, images):
    kernels = [np.asarray(layer.kernel[...], np.float64) for layer in encoder.convs]
    norms = [
        (np.asarray(n.scale[...], np.float64), np.asarray(n.bias[...], np.float64))
        for n in encoder.norms
    ]
    graphdef, params, rest = nnx.split(encoder, nnx.Param, ...)
    (_, (h, _)), _ = loss_and_state(graphdef)(params, rest, images)
    np.testing.assert_allclose(h, reference(kernels, norms, images), rtol=2e-5, atol=2e-6)


@functools.cache  # one compilation for the tests with the same network
def loss_and_state(graphdef):
    def run(params, rest, images):
        def loss(params):
            model = nnx.merge(graphdef, params, rest, copy=True)
            h = model(images)
            return jnp.mean(jnp.sin(3 * h)), (h, nnx.state(model, nnx.BatchStat))

        return jax.value_and_grad(loss, has_aux=True)(params)

    return jax.jit(run)


def test_the_form_for_a_cpu_has_the_gradients_of_xlas_convolution(encoder, images):
    split = nnx.split(encoder, nnx.Param, ...)
    ours = loss_and_state(split[0])(*split[1:], images)
    for layer in encoder.convs:
        layer.conv_general_dilated = jax.lax.conv_general_dilated
    plain = loss_and_state(nnx.graphdef(encoder))(*split[1:], images)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_sharded_batch_is_one_batch_for_batchnorm(encoder, images):
    graphdef, params, rest = nnx.split(encoder, nnx.Param, ...)
    run = loss_and_state(graphdef)
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    assert mesh.size == 8
    sharded = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    params8, rest8 = jax.device_put((params, rest), NamedSharding(mesh, PartitionSpec()))
    one, eight = run(params, rest, images), run(params8, rest8, sharded)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_bfloat16_computes_in_it_and_keeps_the_rest_float32(encoder, images, build):
    half = build(
        lambda: ConvNet(widths=(4, 6, 8), channels=3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    )
    graphdef, params, rest = nnx.split(half, nnx.Param, ...)
    (_, (h, statistics)), gradient = loss_and_state(graphdef)(params, rest, images)
    types = {leaf.dtype for leaf in jax.tree.leaves((params, h, statistics, gradient))}
    assert types == {jnp.dtype(jnp.float32)}
    exact = jax.jit(lambda x: nnx.merge(*nnx.split(encoder), copy=True)(x))(images)
    difference = np.abs(h - exact).max() / np.abs(exact).max()
    assert 1e-4 < difference < 3e-2


def test_batchnorm_keeps_torchs_running_average(encoder, images):
    before = {"mean": encoder.norms[0].mean[...], "var": encoder.norms[0].var[...]}
    y = np.asarray(encoder.convs[0](images), np.float64)
    graphdef, params, rest = nnx.split(encoder, nnx.Param, ...)
    (_, (_, after)), _ = loss_and_state(graphdef)(params, rest, images)
    after = after["norms"][0]
    np.testing.assert_allclose(
        after["mean"][...], 0.9 * before["mean"] + 0.1 * y.mean((0, 1, 2)), rtol=1e-5
    )
    np.testing.assert_allclose(
        after["var"][...], 0.9 * before["var"] + 0.1 * y.var((0, 1, 2)), rtol=1e-5
    )
