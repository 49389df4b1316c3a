import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.models.pooling import max_pool

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


def test_half_precision_stays():
    x = jnp.asarray(maps((1, 4, 4, 2), equals=False), jnp.bfloat16)
    gradient = jax.grad(lambda x: max_pool(x, (3, 3), (2, 2), (1, 1)).sum())(x)
    assert gradient.dtype == jnp.bfloat16
    assert gradient.astype(jnp.float32).sum() == 8
