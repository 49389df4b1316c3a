import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl import lowering
from jaxssl.models.pooling import max_pool
from jaxssl.training import devices
from jaxssl.training.hlo import communication

CASES = {
    # x, window, stride, padding
    "ResNet's": ((2, 9, 8, 3), 3, 2, 1),
    "the study's": ((2, 6, 8, 4), 2, 2, 0),
    "a last row that no window reaches": ((1, 7, 6, 2), 2, 2, 0),
    "overlapping, of stride 1": ((2, 5, 5, 2), 3, 1, 1),
    "one window": ((1, 3, 3, 1), 3, 2, 0),
}


def maps(shape, *, equals):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return np.maximum(x, 0) if equals else x


@pytest.mark.parametrize("equals", [False, True], ids=["", "with many equal"])
@pytest.mark.parametrize(("shape", "window", "stride", "padding"), CASES.values(), ids=CASES.keys())
def test_values_and_gradients_equal_torchs(shape, window, stride, padding, equals):
    torch = pytest.importorskip("torch", reason="an oracle when torch is there")
    x = maps(shape, equals=equals)
    pool = jax.jit(lambda x: max_pool(x, (window,) * 2, (stride,) * 2, (padding,) * 2))
    y, pull = jax.vjp(pool, x)
    gradient = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)

    theirs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    expected = torch.nn.functional.max_pool2d(theirs, window, stride, padding)
    expected.backward(torch.tensor(gradient.transpose(0, 3, 1, 2)))
    np.testing.assert_array_equal(y, expected.detach().numpy().transpose(0, 2, 3, 1))
    np.testing.assert_allclose(
        pull(gradient)[0], theirs.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-6, atol=1e-6
    )


def test_a_window_of_two_sides_goes_by_both():
    x = jnp.asarray(maps((1, 4, 6, 1), equals=False))
    y, pull = jax.vjp(lambda x: max_pool(x, (1, 3), (2, 3), (0, 0)), x)
    np.testing.assert_array_equal(y[0, ..., 0], x[0, ::2, :, 0].reshape(2, 2, 3).max(-1))
    assert (pull(jnp.ones_like(y))[0][0, 1::2] == 0).all()


def test_not_a_number_comes_through_and_takes_the_gradient():
    x = jnp.array([[1.0, 2.0], [jnp.nan, 3.0]]).reshape(1, 2, 2, 1)
    y, pull = jax.vjp(lambda x: max_pool(x, (2, 2), (2, 2), (0, 0)), x)
    assert jnp.isnan(y).all()
    assert pull(jnp.ones_like(y))[0].ravel().tolist() == [0, 0, 1, 0]


def test_several_cpus_pool_each_their_own_images(monkeypatch):
    monkeypatch.setattr("jaxssl.models.pooling.GROUP_BYTES", 9 * 8 * 3 * 4)  # one at a time
    x = maps((16, 9, 8, 3), equals=True)
    placement = devices.placement_over(jax.devices(), len(x))

    def value(x):
        return jnp.sum(jnp.sin(max_pool(x, (3, 3), (2, 2), (1, 1))))

    there = jax.jit(
        lowering.made_for(placement.mesh)(jax.value_and_grad(value)),
        in_shardings=placement.sharded,
        out_shardings=(placement.replicated, placement.sharded),
    )
    moved = communication(there.lower(x).compile().as_text(), strict=True)
    assert set(moved) == {"all-reduce"}, "images stay where they are"
    (total, gradient), (expected, of_one) = there(x), jax.value_and_grad(value)(x)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, of_one, rtol=1e-6)


@pytest.mark.one_device
@pytest.mark.parametrize(
    ("shape", "padding", "places"),
    [((0, 8, 8, 3), 1, (0, 4, 4, 3)), ((2, 2, 8, 3), 0, (2, 0, 3, 3))],
    ids=["no image", "a map smaller than the window"],
)
def test_an_empty_result_has_a_gradient(shape, padding, places):
    x = jnp.ones(shape)
    y, pull = jax.vjp(lambda x: max_pool(x, (3, 3), (2, 2), (padding, padding)), x)
    assert y.shape == places
    np.testing.assert_array_equal(pull(y)[0], jnp.zeros(shape))


def test_a_forward_derivative_is_refused_by_name():
    with pytest.raises(TypeError, match="max_pool has no forward-mode derivative"):
        jax.jvp(lambda x: max_pool(x, (2, 2), (2, 2), (0, 0)), *[[jnp.ones((1, 4, 4, 1))]] * 2)


def test_half_precision_stays():
    x = jnp.asarray(maps((1, 4, 4, 2), equals=False), jnp.bfloat16)
    gradient = jax.grad(lambda x: max_pool(x, (3, 3), (2, 2), (1, 1)).sum())(x)
    assert gradient.dtype == jnp.bfloat16
    assert gradient.astype(jnp.float32).sum() == 8
