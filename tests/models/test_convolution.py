import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jaxssl.models import onednn
from jaxssl.models.convolution import _convolve, _met, _xla, convolve
from jaxssl.models.depthwise import convolve_depthwise
from jaxssl.models.linear import dot_general

CASES = {
    # x, kernel, stride, padding
    "3x3, one image a chunk": ((5, 9, 7, 4), (3, 3, 4, 6), 1, 1),
    "3x3 of stride 2": ((6, 9, 8, 3), (3, 3, 3, 5), 2, 1),
    "1x1 of stride 2": ((4, 8, 8, 3), (1, 1, 3, 5), 2, 0),
    "7x7 of stride 2": ((2, 9, 8, 3), (7, 7, 3, 4), 2, 3),
    # More channels out than numbers in a row of the window: a stem.
    "3x3 of a few channels": ((4, 9, 8, 1), (3, 3, 1, 7), 1, 1),
    "7x7 of stride 2, of a few channels": ((2, 9, 8, 1), (7, 7, 1, 9), 2, 3),
    "7x7 of stride 1": ((2, 9, 8, 3), (7, 7, 3, 4), 1, 3),
    "rows lost": ((2, 9, 8, 3), (4, 3, 3, 5), 1, 0),
    "rows won, padded by more than the kernel's reach": ((2, 5, 6, 3), (2, 3, 3, 5), 1, 3),
    "another padding on every side": ((2, 5, 6, 3), (3, 3, 3, 5), 1, ((0, 1), (2, 0))),
    "channels enough for two cores": ((1, 4, 3, 3), (3, 3, 3, 128), 1, 1),
    "a kernel of more numbers than the windows": ((1, 3, 2, 3), (3, 3, 3, 20), 1, 1),
    "the same of stride 2": ((1, 3, 2, 3), (3, 3, 3, 20), 2, 1),
    "5x5 of stride 3": ((2, 13, 11, 3), (5, 5, 3, 4), 3, 2),
    "2x2 of stride 3, places that no window sees": ((2, 13, 11, 3), (2, 2, 3, 4), 3, 0),
    "stride 2, more padding than reaches a result": (
        (2, 9, 8, 3),
        (3, 3, 3, 4),
        2,
        ((0, 5), (3, 1)),
    ),
    "cut off above": ((2, 9, 8, 3), (3, 3, 3, 4), 1, ((-1, 1), (1, 1))),
    # XLA reads beyond the map in these three, in the first for the gradient.
    "padded by more than the kernel's reach": ((2, 7, 7, 5), (1, 2, 5, 16), 1, ((5, 0), (3, 0))),
    "cut off on three sides": ((2, 7, 6, 5), (3, 5, 5, 16), 1, ((-2, -2), (-2, 1))),
    "cut off, of stride 3": ((2, 5, 8, 4), (4, 5, 4, 5), 3, ((-2, 2), (-1, 0))),
    "a padding that hides a row of the kernel": ((3, 2, 5, 4), (5, 3, 4, 6), 3, ((4, 2), (1, 0))),
    "as many channels out as in, of stride 2": ((6, 9, 8, 4), (3, 3, 4, 4), 2, 1),
}


def torchs(x, kernel, gradient, stride, padding):
    torch = pytest.importorskip("torch", reason="an oracle when torch is there")
    x = torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float64, requires_grad=True)
    kernel = torch.tensor(kernel.transpose(3, 2, 0, 1), dtype=torch.float64, requires_grad=True)
    padded = torch.nn.functional.pad(x, (*padding[1], *padding[0]))
    y = torch.nn.functional.conv2d(padded, kernel, stride=stride)
    y.backward(torch.tensor(gradient.transpose(0, 3, 1, 2), dtype=torch.float64))
    y = y.detach().numpy().transpose(0, 2, 3, 1)
    return y, x.grad.numpy().transpose(0, 2, 3, 1), kernel.grad.numpy().transpose(2, 3, 1, 0)


def lax_form(x, kernel, gradient, how):
    def both(x, kernel):
        y, pull = jax.vjp(lambda x, kernel: _xla(x, kernel, *how), x, kernel)
        return y, *pull(gradient)

    with jax.default_matmul_precision("highest"):
        return jax.jit(both)(x, kernel)


@pytest.mark.parametrize(("x", "kernel", "stride", "padding"), CASES.values(), ids=CASES.keys())
def test_values_and_gradients_equal_torchs(x, kernel, stride, padding, either_form, monkeypatch):
    monkeypatch.setattr("jaxssl.models.convolution.WINDOW_BYTES", 30_000)  # several chunks
    monkeypatch.setattr("jaxssl.models.convolution.IMAGES_AS_KERNEL", 1)
    monkeypatch.setattr("jaxssl.lowering.cores", lambda: 2)
    monkeypatch.setattr("jaxssl.models.convolution.FEW_CHANNELS", 0)
    random = np.random.default_rng(0)
    x, kernel = (random.normal(size=shape).astype(np.float32) for shape in (x, kernel))
    padding = ((padding, padding),) * 2 if isinstance(padding, int) else padding
    how = ((stride, stride), padding)
    y, pull = jax.vjp(lambda x, kernel: _convolve(x, kernel, *how), x, kernel)
    gradient = random.normal(size=y.shape).astype(np.float32)
    expected = torchs(x, kernel, gradient, stride, padding)
    forms = ((y, *jax.jit(pull)(gradient)), lax_form(x, kernel, gradient, how))
    for form in forms:
        for got, wanted in zip(form, expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "kernel", "stride", "padding", "left"),
    [
        ((3, 1, 1, 4), (3, 3, 4, 9), 1, 1, (1, 1)),
        ((3, 2, 2, 4), (3, 3, 4, 9), 2, 1, (2, 2)),
        ((3, 2, 1, 4), (3, 3, 4, 9), 1, 1, (3, 1)),
        ((3, 2, 3, 4), (7, 7, 4, 9), 2, 3, (2, 5)),
        ((3, 4, 4, 4), (3, 3, 4, 9), 2, 1, (3, 3)),
        ((3, 3, 1, 4), (1, 5, 4, 9), 1, ((0, 0), (4, 0)), (1, 1)),
        ((3, 3, 1, 4), (1, 5, 4, 9), 1, ((0, 0), (0, 4)), (1, 1)),
        ((3, 5, 5, 4), (3, 2, 4, 9), 3, ((-2, 2), (-1, 0)), (3, 2)),
        ((3, 1, 4, 4), (1, 1, 4, 9), 2, ((1, 1), (0, 0)), (1, 1)),  # no row meets the map
    ],
)
def test_what_meets_padding_alone_is_dropped_from_a_kernel(
    x, kernel, stride, padding, left, monkeypatch
):
    monkeypatch.setattr(jax, "device_count", lambda: 1)  # the form for a CPU
    random = np.random.default_rng(0)
    x, kernel = (random.normal(size=shape).astype(np.float32) for shape in (x, kernel))
    padding = ((padding, padding),) * 2 if isinstance(padding, int) else padding
    how = ((stride, stride), padding)
    assert _met(x, kernel, *how)[0].shape[:2] == left
    y, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, *how), x, kernel)
    gradient = random.normal(size=y.shape).astype(np.float32)
    expected = torchs(x, kernel, gradient, stride, padding)
    for got, wanted in zip((y, *jax.jit(pull)(gradient)), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_no_image_has_an_empty_result(stride):
    x, kernel = jnp.ones((0, 8, 8, 3)), jnp.ones((3, 3, 3, 64))
    how = ((stride, stride), ((0, 0), (0, 0)))
    assert _convolve(x, kernel, *how).shape == _xla(x, kernel, *how).shape


@pytest.mark.parametrize("shape", [(2, 2, 2, 3), (2, 5, 2, 3), (0, 5, 5, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_kernel_larger_than_the_map_gives_nothing(shape, stride, either_form, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)  # the form for a CPU
    x = jnp.ones(shape)
    for form, kernel in (
        (convolve, jnp.ones((3, 3, 3, 4))),
        (convolve_depthwise, jnp.ones((3, 3, 1, 3))),
    ):

        def made(x, kernel, form=form):
            return form(x, kernel, (stride, stride), "VALID")

        y, pull = jax.vjp(made, x, kernel)
        assert y.size == 0
        of_x, of_kernel = pull(jnp.ones(y.shape))
        assert of_x.shape == x.shape
        np.testing.assert_array_equal(of_kernel, 0 * kernel)


def test_a_convolution_of_few_channels_is_not_left_to_one_core(monkeypatch):
    # YNNPACK makes one of 64 channels on one thread; both gradients would be alike.
    monkeypatch.setattr("jaxssl.lowering.cores", lambda: 2)
    x, kernel = jnp.ones((2, 8, 8, 64)), jnp.ones((3, 3, 64, 64))
    how = ((1, 1), ((1, 1), (1, 1)))

    def compiled(form):
        both = jax.value_and_grad(lambda x, kernel: form(x, kernel, *how).sum(), argnums=(0, 1))
        return jax.jit(both).lower(x, kernel).compile().as_text()

    def given_away(text):  # a computation of its own, that a "ynn_fusion" calls
        return re.findall(r"ROOT \S+ = \S+ convolution\(", text)

    assert given_away(compiled(_xla)), "XLA has changed: is _by_rows still of use?"
    assert not given_away(compiled(_convolve))


def test_half_precision_sums_in_float32():
    random = np.random.default_rng(1)
    x, kernel = (random.normal(size=shape) for shape in ((8, 16, 16, 4), (3, 3, 4, 4)))
    how = ((1, 1), ((1, 1), (1, 1)))

    def gradient(dtype):
        args = (jnp.asarray(x, dtype), jnp.asarray(kernel, dtype))
        return jax.jit(jax.grad(lambda x, k: _convolve(x, k, *how).sum(), argnums=1))(*args)

    half = gradient(jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    exact = gradient(jnp.float32)
    # Sums of 2,048 numbers in bfloat16 would be off by per cents.
    np.testing.assert_allclose(half.astype(jnp.float32), exact, atol=0.01 * np.abs(exact).max())


X, KERNEL = np.ones((2, 6, 5, 4), np.float32), np.ones((3, 3, 4, 4), np.float32)
NHWC = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lhs_dilation", (2, 1)),
        ("rhs_dilation", [1, 2]),
        ("feature_group_count", 2),
        ("batch_group_count", 2),
        ("precision", lax.Precision.HIGHEST),
        ("precision", "highest"),
        ("preferred_element_type", jnp.float32),
        ("out_sharding", jax.sharding.PartitionSpec()),
        ("dimension_numbers", None),  # lax's NCHW
        ("dimension_numbers", ("NCHW", "HWIO", "NHWC")),
        ("dimension_numbers", ("NHWC", "OIHW", "NHWC")),
        ("dimension_numbers", ("NHWC", "HWIO", "NCHW")),
        ("a_new_option", None),
    ],
)
def test_what_is_no_plain_convolution_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name}=.*: lax\.conv_general_dilated takes"):
        convolve(X, KERNEL, (1, 1), "SAME", **{name: value})


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "SAME", "strides": 2},
        {"padding": "VALID"},
        {"padding": ((0, 1), (2, 0)), "strides": (1, 2)},
        {"padding": "CIRCULAR", "kernel_dilation": 1, "input_dilation": (1, 1)},
    ],
)
def test_an_nnx_convolution_is_the_same_through_it(options, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)  # the form for a CPU
    layer = nnx.Conv(4, 3, (3, 3), rngs=nnx.Rngs(0), **options)
    x = np.random.default_rng(2).normal(size=X.shape).astype(np.float32)
    expected = layer(x)
    layer.conv_general_dilated = convolve
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_dilation": 2},
        {"input_dilation": 2},
        {"feature_group_count": 2},
        {"precision": "highest"},
        {"preferred_element_type": jnp.float32},
    ],
)
def test_an_nnx_convolution_of_another_kind_is_refused(options):
    layer = nnx.Conv(4, 4, (3, 3), rngs=nnx.Rngs(0), **options)
    layer.conv_general_dilated = convolve
    with pytest.raises(ValueError, match="plain convolutions alone"):
        layer(X)


def test_every_spelling_of_the_layout_is_taken():
    numbers = lax.conv_dimension_numbers(X.shape, KERNEL.shape, NHWC)
    expected = convolve(X, KERNEL, (1, 1), "SAME")
    for spelled in (NHWC, numbers):
        same = convolve(X, KERNEL, [1, 1], [[1, 1], [1, 1]], dimension_numbers=spelled)
        np.testing.assert_array_equal(same, expected)


@pytest.mark.one_device
def test_forward_mode_is_refused_with_the_way_out_which_serves():
    def linear(x, kernel):
        return dot_general(x, kernel, (((1,), (0,)), ((), ())))

    forms = {
        "convolve": (lambda x, k: convolve(x, k, (1, 1), "SAME"), (2, 4, 4, 3), (3, 3, 3, 2)),
        "convolve_depthwise": (
            lambda x, k: convolve_depthwise(x, k, (1, 1), "SAME"),
            (2, 4, 4, 3),
            (3, 3, 1, 3),
        ),
        "dot_general": (linear, (4, 3), (3, 2)),
    }
    for name, (form, *shapes) in forms.items():
        x, kernel = (np.random.default_rng(0).normal(size=s).astype(np.float32) for s in shapes)

        def loss(k, form=form, x=x):
            return (form(x, k) ** 3).sum()

        if name == "dot_general" and not onednn.takes(x, kernel):
            jax.jvp(loss, (kernel,), (kernel,))  # it is lax's
            continue
        for derive in (jax.jacfwd(loss), jax.hessian(loss)):
            with pytest.raises(TypeError, match=rf"{name} has no forward-mode.*jacrev\(grad"):
                derive(kernel)
        along = jax.grad(lambda k, v=kernel, of=loss: (jax.grad(of)(k) * v).sum())(kernel)
        np.testing.assert_allclose(along, 2 * jax.grad(loss)(kernel), rtol=1e-3, atol=1e-3)
