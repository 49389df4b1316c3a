import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.models.depthwise import _convolve, _xla, convolve_depthwise

CASES = {
    # x, kernel size, stride, padding
    "3x3": ((3, 9, 7, 4), 3, 1, ((1, 1), (1, 1))),
    "3x3 of stride 2, TensorFlow's": ((2, 8, 9, 3), 3, 2, ((0, 1), (1, 1))),
    "5x5 of stride 2, TensorFlow's": ((2, 6, 8, 3), 5, 2, ((1, 2), (1, 2))),
    "2x2 of stride 3": ((2, 8, 7, 2), 2, 3, ((0, 0), (0, 0))),
    "more places than images are turned for": ((2, 12, 11, 3), 3, 1, ((1, 1), (1, 1))),
    "cut off above": ((2, 9, 8, 3), 3, 1, ((-1, 1), (1, 1))),
    "cut off, of stride 3": ((2, 5, 8, 4), 4, 3, ((-2, 2), (-1, 0))),
    "a padding that reaches no output": ((1, 5, 5, 2), 3, 2, ((1, 2), (0, 3))),
}


def torchs(x, kernel, gradient, stride, padding):
    """Output and gradients in float64."""
    torch = pytest.importorskip("torch", reason="an oracle when torch is there")
    x = torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float64, requires_grad=True)
    kernel = torch.tensor(kernel.transpose(3, 2, 0, 1), dtype=torch.float64, requires_grad=True)
    padded = torch.nn.functional.pad(x, (*padding[1], *padding[0]))
    y = torch.nn.functional.conv2d(padded, kernel, stride=stride, groups=len(kernel))
    y.backward(torch.tensor(gradient.transpose(0, 3, 1, 2), dtype=torch.float64))
    back = (0, 2, 3, 1)
    return (
        y.detach().numpy().transpose(back),
        x.grad.numpy().transpose(back),
        kernel.grad.numpy().transpose(2, 3, 1, 0),
    )


@pytest.mark.parametrize(("x", "k", "stride", "padding"), CASES.values(), ids=CASES.keys())
def test_values_and_gradients_equal_torchs_and_xlas(x, k, stride, padding, either_form):
    random = np.random.default_rng(0)
    x = random.normal(size=x).astype(np.float32)
    kernel = random.normal(size=(k, k, 1, x.shape[3])).astype(np.float32)
    shape = jax.eval_shape(lambda: _xla(x, kernel, (stride, stride), padding)).shape
    gradient = random.normal(size=shape).astype(np.float32)

    def both(form):
        y, pull = jax.vjp(lambda x, kernel: form(x, kernel, (stride, stride), padding), x, kernel)
        return y, *pull(gradient)

    ours, xlas = jax.jit(lambda: (both(_convolve), both(_xla)))()
    expected = torchs(x, kernel, gradient, stride, padding)
    for got, xla, wanted in zip(ours, xlas, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(got, xla, rtol=1e-5, atol=1e-5)


def test_half_precision_sums_in_float32():
    random = np.random.default_rng(1)
    x, kernel = (random.normal(size=shape) for shape in ((4, 16, 16, 3), (3, 3, 1, 3)))
    how = ((1, 1), ((1, 1), (1, 1)))

    @jax.jit
    def run(x, kernel):
        y, pull = jax.vjp(lambda x, kernel: _convolve(x, kernel, *how), x, kernel)
        return y, *pull(jnp.cos(y.astype(jnp.float32)).astype(y.dtype))

    half = run(*(jnp.asarray(v, jnp.bfloat16) for v in (x, kernel)))
    exact = run(*(jnp.asarray(v, jnp.bfloat16).astype(jnp.float32) for v in (x, kernel)))
    assert {v.dtype for v in half} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(half[0].astype(jnp.float32), exact[0], rtol=2**-8, atol=1e-6)
    # Sums of 1,024 numbers in bfloat16 would be off by per cents.
    for a, b in zip(half[1:], exact[1:], strict=True):
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.02 * np.abs(b).max())


def test_what_is_not_depthwise_is_refused():
    x = jnp.zeros((1, 4, 4, 2))
    for kernel, options in (
        (jnp.zeros((3, 3, 2, 2)), {}),
        (jnp.zeros((3, 3, 1, 4)), {}),
        (jnp.zeros((3, 3, 1, 2)), {"rhs_dilation": (2, 2)}),
    ):
        with pytest.raises(ValueError, match=r"not \[k, k, 1, c\], or a dilated"):
            convolve_depthwise(x, kernel, (1, 1), "SAME", **options)
